r"""Annotators who differ: when a mixture of them cycles, when their game has several equilibria, and their average."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.games import (
    MultiplayerGame,
    best_response,
    condorcet_winner,
    duality_gap,
    library,
    nash,
    original_gap,
    solve,
    three_cycles,
)
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import LOOSE, at_most, both, equal, pick
from theory.statements.multiplayer import annotators

Law = Float[Array, "A"]


def two_rewards(key: Array) -> tuple[Float[Array, "2 A"]]:
    """The rewards of two annotators, of a few nats, no two alike."""
    return (3 * jax.random.normal(key, (2, instances.SIZE)),)


def two_equal_annotators(rewards: Array, *, weight: float = 0.5, own: float = 0.0) -> Array:
    r"""Two Bradley-Terry annotators of equal weight prefer y to y' if and only if (r_1 + r_2)(y) > (r_1 + r_2)(y'): no
    cycle, and the winner is argmax r_1 + r_2.

    Proof: sigmoid(a) + sigmoid(b) > 1 if and only if a > -b. With weights .3 and .7 it is false (the mutant).
    """
    tables = definitions.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    uniform = jnp.full((rewards.shape[-1],), -jnp.log(float(rewards.shape[-1])))
    game = MultiplayerGame(preferences=tables, ref_logp=uniform, tau=0.1, num_players=2)
    table = game.population(jnp.stack([jnp.asarray(weight), jnp.asarray(1 - weight)])).preference
    total = pick(own, rewards[0], rewards[0] + rewards[1])
    agree = jnp.sign(table - 0.5) * jnp.sign(definitions.outer_difference(total))
    distinct = jnp.abs(table - 0.5) > 1e-12
    return both(
        at_most(0.0, jnp.where(distinct, agree, 0.0), tolerance=0.0),
        equal(three_cycles(table), 0),
        equal(condorcet_winner(table), jnp.argmax(total)),
    )


def opposite_starts(key: Array) -> tuple[Array, Float[Array, "2 3"], Float[Array, "2 3"]]:
    """(which of three profiles, two policies near it, two policies anywhere)."""
    which_key, near_key, far_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, (), 0, 3)
    pure = jnp.stack([8.0 * (jnp.arange(3) == (which + 1) % 3), 8.0 * (jnp.arange(3) == (which + 2) % 3)])
    near = pure + jax.random.normal(near_key, (2, 3))
    far = 3 * jax.random.normal(far_key, (2, 3))
    return which, jax.vmap(definitions.normalised)(near), jax.vmap(definitions.normalised)(far)


def several_equilibria(
    which: Array, near: Array, far: Array, *, cold: float = 0.05, hot: float = 0.5, opposite: float = 1.0
) -> Array:
    r"""Rock-paper-scissors of margin .4 for one player, the opposite for the other: both want the first to win. At tau
    = .05 three equilibria attract (each from its own start, turned by one response from the next), and the uniform one
    does not; at tau = .5 it is the only one, and all starts find it.
    """
    table = library.rock_paper_scissors(0.4, 0.4, 0.4)
    other = pick(opposite, 1 - table, table)
    uniform = jnp.full((3,), -jnp.log(3.0))

    def game(tau: float) -> MultiplayerGame:
        return MultiplayerGame(
            preferences=jnp.stack([table, other]), ref_logp=uniform, tau=jnp.asarray(tau), num_players=2
        )

    def run(tau: float, start: Array) -> Array:
        return solve(game(tau), "egpo", num_steps=14, step_size=1 / jnp.asarray(tau), init_logp=start).logp

    found = run(cold, near)
    mode = jnp.stack([jnp.argmax(found[0]), jnp.argmax(found[1])])
    # The equilibrium of the first profile, by best responses to each other; the others are its turns.
    first, second = (jnp.where(jnp.arange(3) == i, 0.0, -50.0) for i in (1, 2))
    for _ in range(6):
        first, second = (
            definitions.best_response(table, uniform, cold, second),
            definitions.best_response(1 - table, uniform, cold, first),
        )
    expected = jnp.stack([jnp.roll(jnp.exp(first), which), jnp.roll(jnp.exp(second), which)])
    return both(
        equal(jnp.exp(found), expected, tolerance=LOOSE),
        equal(mode, jnp.stack([(which + 1) % 3, (which + 2) % 3])),
        at_most(0.99, jnp.max(jnp.exp(found), -1)),
        equal(duality_gap(game(cold), found), 0.0, tolerance=LOOSE),
        equal(duality_gap(game(cold), jnp.stack([uniform, uniform])), 0.0),
        equal(jnp.exp(run(hot, far)), 1 / 3, tolerance=LOOSE),
    )


def population_game(
    tables: Array, ref_logp: Law, tau: Array, logps: Array, numbers: Array, *, tilt: float = 0.0, sure: float = 0.5
) -> Array:
    r"""sum_m w_m P_m is antisymmetric about 1/2: the population's game is zero-sum and has one regularised Nash. For
    opposite annotators of equal weight it is 1/2 everywhere, and the Nash is the reference.
    """
    weights = jnp.append(numbers[1:], 1 - jnp.sum(numbers[1:]))
    game = MultiplayerGame(preferences=tables, ref_logp=ref_logp, tau=tau, num_players=3)
    population = game.population(weights)
    mean = jnp.sum(weights[:, None, None] * tables, 0) + tilt * jnp.arange(ref_logp.size)[:, None]
    at = nash(population)
    response = definitions.best_response(mean, ref_logp, tau, at)
    two = MultiplayerGame(preferences=jnp.stack([tables[0], 1 - tables[0]]), ref_logp=ref_logp, tau=tau, num_players=2)
    split = two.population(jnp.stack([jnp.asarray(sure), jnp.asarray(1 - sure)]))
    return both(
        equal(population.preference + population.preference.T, 1.0),
        equal(population.preference, mean),
        equal(game.population().preference, jnp.mean(tables, 0)),
        equal(jnp.exp(at), jnp.exp(response)),
        equal(split.preference, 0.5),
        equal(duality_gap(split, ref_logp), 0.0),
    )


def each_has_its_own_oracle(
    tables: Array, ref_logp: Law, tau: Array, logps: Array, numbers: Array, *, factor: float = 1.0, shift: float = 0.0
) -> Array:
    r"""With an oracle each: gap_i = max_pi J_i(pi, others) - J_i(pi_i, others), J_i = P_i(pi_i > mean of the others) -
    tau KL(pi_i || ref); a step of extragradient moves all players at once.
    """
    game = MultiplayerGame(preferences=tables, ref_logp=ref_logp, tau=tau, num_players=3)
    gaps, plain = duality_gap(game, logps), original_gap(game, logps)
    step = 0.5 / tau
    tables = jnp.where(jnp.asarray(shift) != 0, jnp.roll(tables, 1, 0), tables)

    def rates(policies: list[Array]) -> list[Array]:
        laws = [jnp.exp(x) for x in policies]
        mean = lambda i: sum(law for j, law in enumerate(laws) if j != i) / 2
        return [definitions.win_rate(tables[i], jnp.log(mean(i))) for i in range(3)]

    def move(rate: list[Array]) -> list[Array]:
        centres = [definitions.mixture(logp, ref_logp, 0.5) for logp in logps]
        return [definitions.normalised(c + factor * step * q) for c, q in zip(centres, rate, strict=True)]

    rate, slacks = rates(list(logps)), []
    alive = jnp.isfinite(ref_logp)
    for i in range(3):
        value = lambda logp, q=rate[i]: definitions.expectation(logp, q) - tau * definitions.kl(logp, ref_logp)
        response = definitions.gibbs(ref_logp, rate[i], factor * tau)
        slacks.append(equal(gaps[i], value(response) - value(logps[i])))
        best = jnp.max(jnp.where(alive, rate[i], -jnp.inf))
        slacks.append(equal(plain[i], best - definitions.expectation(logps[i], rate[i])))
        others = jnp.stack([logps[j] for j in range(3) if j != i])
        slacks.append(equal(jnp.exp(best_response(game, others, player=i)), jnp.exp(response)))
    after = jnp.stack(move(rates(move(rate))))
    return both(*slacks, equal(jnp.exp(solver_step(game, "egpo", logps, step)), jnp.exp(after)))


_source = functools.partial(Source, "Wu et al.", 2025, "2509.23102")

STATEMENTS = (
    Statement(
        id="games/HT1",
        says="two equally frequent Bradley-Terry annotators never cycle",
        formula=r"\sigma(a)+\sigma(b)>1\iff a+b>0",
        slack=two_equal_annotators,
        instance=two_rewards,
        source=Source("alignjax", 2026, "", "derived in the docstring"),
        mutants=({"weight": 0.3}, {"own": 1.0}),
    ),
    Statement(
        id="games/HT2",
        says="opposite annotators: three attracting equilibria at tau = .05, one equilibrium at .5",
        formula=r"P_2=1-P_1:\ \pi_i=\mathrm{BR}_i(\pi_j)",
        slack=several_equilibria,
        instance=opposite_starts,
        source=_source("Sec. 4 (heterogeneous players); derived in the docstring"),
        mutants=({"cold": 0.5}, {"hot": 0.05}, {"opposite": 0.0}),
    ),
    Statement(
        id="games/HT3",
        says="the population's game on the averaged oracle is antisymmetric, with one Nash",
        formula=r"\bar P=\sum_mw_mP_m,\ \bar P+\bar P^\top=1",
        slack=population_game,
        instance=annotators,
        source=Source("alignjax", 2026, "", "derived in the docstring"),
        mutants=({"tilt": 0.1}, {"sure": 0.9}),
    ),
    Statement(
        id="games/HT4",
        says="players with oracles of their own: gaps, best responses and steps, each with its own",
        formula=r"\mathrm{gap}_i=\max_\pi J_i(\pi,O)-J_i(\pi_i,O)",
        slack=each_has_its_own_oracle,
        instance=annotators,
        source=_source("v3, Eq. 9, and Eq. 18"),
        mutants=({"factor": 2.0}, {"shift": 1.0}),
    ),
)
