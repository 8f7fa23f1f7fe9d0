r"""MNPO's game of n players: its step, what it converges to, its gap; and Plackett-Luce, one against many."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.games import MultiplayerGame, PreferenceGame, best_response, duality_gap, nash, plackett_luce, solve
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick

Law = Float[Array, "A"]
Players = Float[Array, "n A"]


def annotators(key: Array) -> tuple[Float[Array, "3 A A"], Law, Array, Players, Array]:
    """(three oracles, reference, tau, the policies of three players, (step size, two weights of the oracles))."""
    table_key, reference_key, policy_key, number_key = jax.random.split(key, 4)
    tables = jax.vmap(instances.preference)(jax.random.split(table_key, 3))
    ref_logp = instances.reference(reference_key)
    logps = jax.vmap(lambda k: instances.policy(k, ref_logp, zeros=False))(jax.random.split(policy_key, 3))
    numbers = jax.random.uniform(number_key, (4,))
    return tables, ref_logp, 0.02 * 250.0 ** numbers[0], logps, numbers[1:] * jnp.array([4.0, 0.5, 0.5])


def shared(game: PreferenceGame, count: int) -> MultiplayerGame:
    """n players who ask the same oracle."""
    return MultiplayerGame(preferences=game.preference, ref_logp=game.ref_logp, tau=game.tau, num_players=count)


def mean_opponent(logps: Players, player: int) -> Law:
    """The arithmetic mean of the other players."""
    others = [jnp.exp(logp) for j, logp in enumerate(logps) if j != player]
    return jnp.log(sum(others[1:], others[0]) / len(others))


def equation_ten(
    tables: Array,
    ref_logp: Law,
    tau: Array,
    logps: Players,
    numbers: Array,
    *,
    factor: float = 1.0,
    sign: float = 1.0,
    merge: float = 0.5,
) -> Array:
    r"""A player steps from the geometric mean of the others by h times the mean win-rate; players who start alike are
    multiplicative weights for every n; the difference of two players turns round and shrinks by 1 / (n - 1).

    log pi_i' - log pi_j' = -[log pi_i - log pi_j + h P (pi_i - pi_j)] / (n - 1) + const.
    """
    game = PreferenceGame(preference=tables[0], ref_logp=ref_logp, tau=tau)
    step = numbers[0]
    many = shared(game, 3)
    after = solver_step(many, "mnpo", logps, step)
    slacks = []
    for i in range(3):
        first, second = (logps[j] for j in range(3) if j != i)
        rate = definitions.win_rate(game.preference, mean_opponent(logps, i))
        by_hand = definitions.mixture(first, second, 0.5) + sign * factor * step * rate
        slacks.append(equal(jnp.exp(after[i]), jnp.exp(definitions.normalised(by_hand))))
    hedge = [logps[0]]
    for _ in range(2):
        hedge.append(
            definitions.normalised(hedge[-1] + factor * step * definitions.win_rate(game.preference, hedge[-1]))
        )
    for count in (2, 5):
        alike = solve(shared(game, count), "mnpo", num_steps=2, step_size=step, init_logp=logps[0])
        slacks.append(equal(jnp.exp(alike.logp), jnp.exp(hedge[-1])[None]))
    alone = solve(game, "mnpo", num_steps=2, step_size=step, init_logp=logps[0]).trajectory
    alive = jnp.isfinite(game.ref_logp)
    gap = definitions.log_ratio(logps[0], logps[1])
    rates = definitions.win_rate(game.preference, logps[0]) - definitions.win_rate(game.preference, logps[1])
    residual = definitions.log_ratio(after[0], after[1]) + merge * (gap + step * rates)
    spread = jnp.max(jnp.where(alive, residual, -jnp.inf)) - jnp.min(jnp.where(alive, residual, jnp.inf))
    scale = 1 + jnp.max(jnp.abs(gap))
    return both(*slacks, equal(jnp.exp(alone), jnp.exp(jnp.stack(hedge))), equal(spread / scale, 0.0))


def target_is_the_original_game(
    table: Array, winner: Law, tau: Array, logp: Law, *, regularised: float = 0.0, lag: float = 0.25
) -> Array:
    r"""Eq. 10 has neither ref nor tau: n copies of an original Nash stay, those of the regularised Nash do not (the
    mutant); the average of n players who start alike at pi_0 has a gap of at most 2 D / (h T) + h / 4.
    """
    game = PreferenceGame(preference=table, ref_logp=logp, tau=tau)
    at = pick(regularised, nash(game), winner)
    slacks = []
    for count in (2, 4):
        copies = jnp.broadcast_to(at, (count, at.size))
        slacks.append(equal(jnp.exp(solver_step(shared(game, count), "mnpo", copies, 0.5)), jnp.exp(copies)))
    run = solve(shared(game, 3), "mnpo", num_steps=20, step_size=1.0)
    average = jnp.mean(jnp.exp(run.trajectory[:-1, 0]), 0)
    gap = 2 * (jnp.max(definitions.win_rate(table, jnp.log(average))) - 0.5)
    assert run.average_logp is not None
    depth = -jnp.min(logp)
    return both(*slacks, at_most(gap, depth / 10 + lag), equal(jnp.exp(run.average_logp), average[None]))


def symmetric_equilibrium(
    tables: Array, ref_logp: Law, tau: Array, logps: Players, numbers: Array, *, scale: float = 0.0, blend: float = 0.0
) -> Array:
    r"""With a pairwise oracle the symmetric regularised equilibrium is the two-player one for every n: its own best
    response, whatever the number of copies, so that no player gains. (The mutant scales tau by n - 1.)
    """
    game = PreferenceGame(preference=tables[0], ref_logp=ref_logp, tau=tau)
    slacks = []
    for count in (2, 3, 6):
        many = shared(game, count)
        at = nash(many)
        colder = tau * (count - 1) ** scale
        at = pick(blend, definitions.mixture(at, logps[0], blend), at)
        response = definitions.best_response(game.preference, ref_logp, colder, at)
        copies = jnp.broadcast_to(at, (count, at.size))
        slacks += [equal(jnp.exp(at), jnp.exp(response)), equal(duality_gap(many, copies), 0.0, tolerance=1e-12)]
        slacks.append(equal(jnp.exp(best_response(many, copies[1:], player=count - 1)), jnp.exp(response)))
    return both(*slacks)


def gap_of_each_player(
    tables: Array,
    ref_logp: Law,
    tau: Array,
    logps: Players,
    numbers: Array,
    *,
    factor: float = 1.0,
    returned: float = 0.0,
) -> Array:
    r"""max_pi J_i(pi, others) - J_i(pi_i, others) with J_i = P(pi_i > mean of the others) - tau KL(pi_i || ref): for
    two copies, half of the two-player gap, in which the opponent's divergence comes back.
    """
    game = PreferenceGame(preference=tables[0], ref_logp=ref_logp, tau=tau)

    def value(logp: Law, opponent: Law) -> Array:
        return definitions.wins(game.preference, logp, opponent) - game.tau * definitions.kl(logp, game.ref_logp)

    found = duality_gap(shared(game, 3), logps)
    slacks = []
    for i in range(3):
        opponent = mean_opponent(logps, i)
        response = definitions.best_response(game.preference, game.ref_logp, game.tau, opponent)
        gain = value(response, opponent) - value(logps[i], opponent)
        slacks.append(equal(found[i], factor * gain))
    pair = duality_gap(shared(game, 2), jnp.stack([logps[0], logps[0]]))
    two = definitions.duality_gap(game.preference, game.ref_logp, game.tau, logps[0])
    return both(*slacks, equal(pair, pick(returned, two, two / 2)))


# --- Plackett-Luce


def scored_players(key: Array) -> tuple[Float[Array, "3"], Float[Array, "3 3"]]:
    """(scores up to a dozen nats apart, the policies of three players) over three responses."""
    score_key, scale_key, policy_key = jax.random.split(key, 3)
    scores = instances.log_uniform(scale_key, 0.01, 6.0) * jax.random.normal(score_key, (3,))
    return scores, jax.vmap(lambda k: instances.smooth_law(k, 3, scale=2.0))(jax.random.split(policy_key, 3))


def _first_of(scores: Array, opponents: Array, temperature: float = 1.0) -> Array:
    """P(y wins) by enumeration of all opponents' responses."""
    total = jnp.zeros_like(scores)
    weights = jnp.exp(temperature * (scores - jnp.max(scores)))
    for picks in itertools.product(range(scores.size), repeat=len(opponents)):
        chance = jnp.prod(jnp.stack([jnp.exp(opponents[j][z]) for j, z in enumerate(picks)]))
        total = total + chance * weights / (weights + sum(weights[z] for z in picks))
    return total


def one_against_many(scores: Array, logps: Array, *, temperature: float = 1.0, rivals: float = 1.0) -> Array:
    r"""P(y beats z_1..z_m) = E e^{R_y} / (e^{R_y} + sum_j e^{R_{z_j}}), by enumeration, with its derivative in the
    opponents; m = 1 is Bradley-Terry.
    """
    opponents = logps[1:]
    pair = definitions.sigmoid(temperature * definitions.outer_difference(scores))
    along = (jnp.sin(1.0 + jnp.arange(6.0)).reshape(2, 3),)
    value, slope = jax.jvp(functools.partial(plackett_luce, scores), (opponents,), along)
    many, moves = jax.jvp(lambda x: _first_of(scores, x, temperature), (opponents,), along)
    return both(
        equal(plackett_luce(scores, opponents[:1]), definitions.win_rate(pair, opponents[0])),
        equal(value, pick(rivals, many, _first_of(scores, opponents[:1], temperature))),
        equal(slope, moves),
    )


def _race(scores: Array) -> MultiplayerGame:
    return MultiplayerGame(
        scores=scores, ref_logp=jnp.full(scores.shape, -jnp.log(3.0)), tau=0.3, num_players=3, oracle="plackett_luce"
    )


def one_of_them_wins(scores: Array, logps: Array, *, total: float = 1.0, rivals: float = 1.0) -> Array:
    r"""sum_i P(pi_i is first) = 1, so that each of n copies is first with probability 1 / n; a best response to the
    others is ref e^{P/tau} / Z.
    """
    race = _race(scores)
    rates = race.win_rate(logps)
    against = pick(rivals, _first_of(scores, logps[1:]), _first_of(scores, logps[1:2]))
    return both(
        equal(jnp.sum(jnp.exp(logps) * rates), total),
        equal(best_response(race, logps[1:]), definitions.gibbs(race.ref_logp, against, 0.3)),
    )


def shifts_do_not_matter(scores: Array, logps: Array, *, power: float = 0.0, factor: float = 1.0) -> Array:
    r"""P(y beats the others) is the same at R + c, by the integral at R + 3 and the enumeration at R."""
    expected = _first_of(factor * scores + power * jnp.arange(3.0), logps[1:])
    return equal(plackett_luce(scores + 3.0, logps[1:]), expected)


_source = functools.partial(Source, "Wu et al.", 2025, "2509.23102")

STATEMENTS = (
    Statement(
        id="games/MN1",
        says="MNPO's Eq. 10: alike it is multiplicative weights, three and more players merge by 1 / (n - 1)",
        formula=r"\pi_i\propto\prod_{j\ne i}\pi_j^{1/(n-1)}e^{\frac h{n-1}\sum_{j\ne i}P\pi_j}",
        slack=equation_ten,
        instance=annotators,
        source=_source("Eq. 10"),
        mutants=({"factor": 2.0}, {"sign": -1.0}, {"merge": 1.0}, {"merge": -0.5}),
    ),
    Statement(
        id="games/MN2",
        says="MNPO aims at the original game: no reference and no temperature appear",
        formula=r"w=\mathrm{step}(w),\ \mathrm{gap}(\bar\pi_T)\le\tfrac{2D}{hT}+\tfrac h4",
        slack=target_is_the_original_game,
        instance=instances.cyclic_game,
        source=_source("Eq. 10 against Eq. 7; derived in the docstring"),
        mutants=({"regularised": 1.0}, {"lag": -0.5}),
    ),
    Statement(
        id="games/MN3",
        says="with a pairwise oracle n players have the equilibrium of two",
        formula=r"\pi^*_{\tau,n}=\pi^*_\tau",
        slack=symmetric_equilibrium,
        instance=annotators,
        source=_source("Eq. 7 and 8; derived in the docstring"),
        mutants=({"scale": 1.0}, {"scale": -1.0}, {"blend": 0.1}),
    ),
    Statement(
        id="games/MN7",
        says="a player's gap is what the best response gains; for n = 2 half of the two-player gap",
        formula=r"\max_\pi J_i(\pi,O)-J_i(\pi_i,O)=\tfrac12\mathrm{gap}\ (n=2)",
        slack=gap_of_each_player,
        instance=annotators,
        source=_source("v3, Eq. 9"),
        mutants=({"factor": 2.0}, {"returned": 1.0}),
    ),
    Statement(
        id="games/PL1",
        says="Plackett-Luce against many by one integral is the enumeration; against one it is Bradley-Terry",
        formula=r"\mathbb E\frac{e^{R_y}}{e^{R_y}+\sum_je^{R_{z_j}}}",
        slack=one_against_many,
        instance=scored_players,
        source=_source("Eq. 4"),
        mutants=({"temperature": 2.0}, {"temperature": -1.0}, {"rivals": 0.0}),
    ),
    Statement(
        id="games/PL2",
        says="one of the players wins",
        formula=r"\sum_iP(\pi_i\succ\{\pi_j\}_{j\ne i})=1",
        slack=one_of_them_wins,
        instance=scored_players,
        source=_source("Eq. 4 and 7"),
        mutants=({"total": 1.5}, {"rivals": 0.0}),
    ),
    Statement(
        id="games/PL3",
        says="Plackett-Luce does not see a shift of the scores",
        formula=r"P_{R+c}=P_R",
        slack=shifts_do_not_matter,
        instance=scored_players,
        source=_source("Eq. 4"),
        mutants=({"power": 1.0}, {"factor": 2.0}),
    ),
)
