"""Steps of solvers, their step sizes and games of many players at their edges: numbers and limits worked by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax.games import MultiplayerGame, PreferenceGame, best_response, duality_gap, original_gap, step_sizes
from alignjax.games.solvers import _canonical, _step_sizes, solver
from theory import instances
from theory.slack import both, equal


def step_sizes_of_known_games(key: Array) -> Array:
    """Every schedule and every paper's symbol at tau = 1/2, and the hedge's at references of known range."""
    noise = 0.1 * jax.random.uniform(key)  # one number of an instance, so that it is one
    game = PreferenceGame(preference=jnp.full((3, 3), 0.5), ref_logp=jnp.log(jnp.array([0.5, 0.5, 0.0])), tau=0.5)
    certain = PreferenceGame(preference=jnp.full((2, 2), 0.5), ref_logp=jnp.log(jnp.array([1.0, 0.0])), tau=0.5)
    t, eta, tau = jnp.arange(3.0), jnp.asarray(0.8), jnp.asarray(0.5)
    expected = (
        (step_sizes.nash_md_theorem_step(t, tau), np.array([2.0, 4 / 3, 1.0])),
        (step_sizes.decaying(t, game, 3), np.array([2.0, 4 / 3, 1.0])),
        (step_sizes.mirror_descent_step(t, game, 3), 1.0),
        (step_sizes.lagging_step(t, game, 3), (2 / 19) / (1 + 1 / 19)),
        (step_sizes.mirror_prox_step(t, game, 3), 1.0),
        (step_sizes.egpo_theorem_step(t, game, 3), 2 / 7),
        (step_sizes.hedge_step(t, game, 8), np.sqrt(np.log(2.0))),
        (step_sizes.hedge_step(t, game, 0), np.sqrt(8 * np.log(2.0))),
        (step_sizes.hedge_step(t, certain, 8), np.sqrt(1e-3)),
        (step_sizes.half(t, game, 3), 0.5),
        (step_sizes.eighth(t, game, 3), 0.125),
        (step_sizes.proximal_step(t, game, 3), 2.0),
        (step_sizes.same(eta, tau), 0.8),
        (step_sizes.inverse(eta, tau), 1.25),
        (step_sizes.implicit(eta, tau), 0.8 / 1.4),
        (step_sizes.implicit_in_tau(eta, tau), 0.8 / 0.9),
    )
    return both(*(equal(found + noise, value + noise) for found, value in expected))


def _three(key: Array) -> tuple[Array, Array, Array, Array]:
    """(three oracles, scores, reference, logits of three policies)."""
    keys = jax.random.split(key, 4)
    tables = jnp.stack([instances.preference(k, 4) for k in jax.random.split(keys[0], 3)])
    logits = jax.random.normal(keys[3], (3, 4))
    return tables, jax.random.normal(keys[1], (4,)), instances.smooth_law(keys[2], 4), logits


def step_sizes_of_solve(key: Array) -> Array:
    """What `solve` makes of a step size: the row's default, the theorem's, a schedule, a number, a number for each
    game; and of a paper's symbol. All of it moves with tau.
    """
    tau = jnp.stack([jnp.asarray(0.5), 0.3 + 0.4 * jax.random.uniform(key)])
    ref_logp = jnp.log(jnp.full((2, 3), 1 / 3))

    def game(t: Array) -> PreferenceGame:
        return PreferenceGame(preference=jnp.full((3, 3), 0.5), ref_logp=ref_logp, tau=tau + t)

    def sizes(t: Array) -> Array:
        given = (("omd", None), ("inpo", "theorem"), ("omd", lambda n: 0.1 / (1 + n)), ("omd", 0.2 + t))
        found = [jnp.broadcast_to(_step_sizes(solver(n), game(t), h, 3).reshape(3, -1), (3, 2)) for n, h in given]
        each = _step_sizes(solver("omd"), game(t), jnp.array([0.1, 0.3]), 3)
        return jnp.stack([*found, each, jnp.broadcast_to(_canonical(solver("inpo"), game(t), 1.6 + t), (3, 2))])

    def by_hand(t: Array) -> Array:
        at, n = tau + t, jnp.arange(3.0)[:, None]
        rows = (
            4 * at / (1 + 4 * at**2),
            2 / (at * (n + 2)),
            0.1 / (1 + n),
            0.2 + t,
            jnp.array([0.1, 0.3]),
            1 / (1.6 + t),
        )
        return jnp.stack([jnp.broadcast_to(row, (3, 2)) for row in rows])

    at = (jnp.zeros(()),), (jnp.ones(()),)
    return both(*(equal(a, b) for a, b in zip(jax.jvp(sizes, *at), jax.jvp(by_hand, *at), strict=True)))


def opponents_who_gave_up(key: Array) -> Array:
    """A response that an opponent does not play has no mass in the mean of the opponents; one that only the player
    itself does not play has.
    """
    tables, _, ref_logp, logits = _three(key)
    game = MultiplayerGame(preferences=tables, ref_logp=ref_logp, tau=0.5, num_players=3)
    found = game.others(logits.at[0, 0].set(-jnp.inf))
    mean = jnp.stack([(logits[1] + logits[2]) / 2, (logits[0] + logits[2]) / 2, (logits[0] + logits[1]) / 2])
    return both(
        equal(found[0], mean[0]), equal(found[1:, 1:], mean[1:, 1:]), equal(found[1:, 0], -jnp.inf)
    )  # fmt: skip


def many_players_by_enumeration(key: Array) -> Array:
    """Win-rates of three players, pairwise and by Plackett-Luce, are sums over what the two others do; gaps and best
    responses follow; all of it moves with oracles and scores as the sums do.
    """
    tables, scores, ref_logp, logits = _three(key)
    trios = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    p, turn = jax.nn.softmax(logits), jnp.sin(1.0 + jnp.arange(12.0)).reshape(3, 4)
    tau, wave = 0.5, jnp.cos(jnp.arange(4.0))

    def pairwise(tables: Array) -> Array:
        return jnp.stack(
            [0.5 * tables[i] @ p[j] + 0.5 * tables[i] @ p[k] for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]
        )

    def luce(scores: Array) -> Array:
        e = jnp.exp(scores)
        chance = e[:, None, None] / (e[:, None, None] + e[None, :, None] + e[None, None, :])
        return jnp.stack([jnp.einsum("abc,b,c->a", chance, p[j], p[k]) for _, j, k in trios])

    def of_tables(tables: Array) -> MultiplayerGame:
        return MultiplayerGame(preferences=tables, ref_logp=ref_logp, tau=tau, num_players=3)

    def of_scores(scores: Array) -> MultiplayerGame:
        return MultiplayerGame(scores=scores, ref_logp=ref_logp, tau=tau, num_players=3, oracle="plackett_luce")

    slacks: list[Array] = []
    lower = jnp.tril(jnp.ones((4, 4)), -1) * 1e-2
    skew = (lower - lower.T) * jnp.arange(1.0, 4.0)[:, None, None]
    laws = jax.nn.log_softmax(logits)
    for build, rates, point, direction in ((of_tables, pairwise, tables, skew), (of_scores, luce, scores, wave)):

        def all_of(rate: Array) -> tuple[Array, ...]:
            response = jax.nn.log_softmax(ref_logp + rate / tau)
            divergence = (p * (laws - response)).sum(-1)
            rates, gain = (turn * rate).sum(), rate.max(-1) - (p * rate).sum(-1)
            return rates, rates, (turn * response).sum(), (turn[:, 0] * tau * divergence).sum(), turn[:, 0] @ gain

        def by_hand(t: Array, rates: Any = rates, point: Any = point, direction: Any = direction) -> Array:
            return jnp.stack(all_of(rates(point + t * direction)))

        def by_game(t: Array, build: Any = build, point: Any = point, direction: Any = direction) -> Array:
            game = build(point + t * direction)
            against = [(laws[jnp.array([j, k])], i) for i, j, k in trios]
            one_by_one = jnp.stack([game.win_rate_against(others, i) for others, i in against])
            responses = jnp.stack([best_response(game, others, i) for others, i in against])
            found = ((turn * game.win_rate(logits)).sum(), (turn * one_by_one).sum(), (turn * responses).sum())
            gaps = ((turn[:, 0] * duality_gap(game, laws)).sum(), (turn[:, 0] * original_gap(game, laws)).sum())
            return jnp.stack([*found, *gaps])

        at = (jnp.zeros(()),), (jnp.ones(()),)
        for found, exact in zip(jax.jvp(by_game, *at), jax.jvp(by_hand, *at), strict=True):
            slacks.append(equal(found, exact))
    shared = MultiplayerGame(preferences=tables[0], ref_logp=ref_logp, tau=tau, num_players=3)
    slope = jax.grad(lambda x: (MultiplayerGame(preferences=x, ref_logp=ref_logp, tau=tau, num_players=3).oracle_of(2)
                                * jnp.arange(4.0)).sum())(tables)  # fmt: skip
    return both(
        *slacks,
        equal(shared.oracle_of(2), tables[0]),
        equal(slope, jnp.zeros((3, 4, 4)).at[2].set(jnp.arange(4.0))),
    )


BY_HAND: tuple[tuple[str, str, Any], ...] = (
    ("step-sizes", "step sizes are the numbers of their formulas", step_sizes_of_known_games),
    ("steps-of-solve", "the step sizes that solve takes", step_sizes_of_solve),
    ("gave-up", "the mean of opponents who gave a response up", opponents_who_gave_up),
    ("three-players", "three players are enumerated", many_players_by_enumeration),
)
"""(name, what it says, slack of a key)."""
