"""Runs behind the SPPO page: the partition function, exact minimisers, averages, DNO. Cached on their settings."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

import alignjax as aj
from alignjax.games import PreferenceGame, library, solve, von_neumann_winner
from alignjax.logspace import ArrayLike
from alignjax.sweeps import spread
from papers import nash_md_experiments as games
from papers.comal_experiments import cycles, kl
from papers.onpo_experiments import averages, divergence_bound, drawn_games
from papers.record import Settings

Runs = dict[str, np.ndarray]

STEPS = np.asarray([0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0])
"""Steps eta of the comparison; the last is that of the official code, beta = 0.001."""
SIZE = 8
DRAWN = 5
"""Responses that the official code samples for each prompt."""


def uniform_games(generator: np.random.Generator, number: int, size: int = SIZE) -> np.ndarray:
    """Lower triangle uniform on [0, 1], `[number, size, size]`."""
    lower = np.tril(generator.uniform(size=(number, size, size)) - 0.5, -1)
    return 0.5 + lower - lower.swapaxes(1, 2)


def _problem(anchor: ArrayLike, law: ArrayLike, preference: ArrayLike) -> aj.Problem:
    """The previous policy as anchor and reference, and the law of the responses."""
    anchor, law = jnp.asarray(anchor), jnp.asarray(law)
    return aj.Problem(ref_logp=anchor, anchor_logp=anchor, sampler_logp=law, preference=jnp.asarray(preference))


@jax.jit
def _minimiser(problem: aj.Problem, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exact minimiser of the loss, and the population gradient there."""
    logp = aj.methods["sppo"].optimum(problem, step_size=h)
    return logp, aj.population_grad("sppo", problem, logp, step_size=h)


@functools.cache
def one_step(settings: Settings) -> Runs:
    """One SPPO step from random policies of eight responses at each of `STEPS`.

    `excess` `[steps, games]` log Z - eta/2; `apart` KL of the multiplicative-weights iterate from the exact minimiser
    of the loss; `gradient` the loss's population gradient at the minimiser, over eta; `mass` that the iterate puts on
    its favourite.
    """
    generator = np.random.default_rng([settings.seed, 60])
    number = settings.size(1000, 200)
    preference = uniform_games(generator, number)
    logp = games.normalised(generator.normal(size=(number, SIZE)))
    win_rate = np.einsum("nij,nj->ni", preference, np.exp(logp))
    problem = _problem(logp, logp, preference)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("excess", "apart", "gradient", "mass")}
    for h in STEPS:
        partition = logsumexp(logp + h * win_rate, axis=-1)
        tilted = logp + h * win_rate - partition[:, None]
        minimiser, slope = (np.asarray(x) for x in _minimiser(problem, h))
        found["excess"].append(partition - h / 2)
        # termwise non-negative, for divergences near rounding
        apart = tilted - minimiser
        found["apart"].append((np.exp(tilted) * (np.expm1(-apart) + apart)).sum(-1))
        found["gradient"].append(np.abs(slope).max(-1) / h)
        found["mass"].append(np.exp(tilted).max(-1))
    return {name: np.stack(rows) for name, rows in found.items()}


@functools.cache
def fixed_points(settings: Settings) -> Runs:
    """The minimiser against multiplicative weights where the win-rate is constant on the support: KL, at eta = 3."""
    start = np.full(3, -np.log(3))
    preference = cycles(np.random.default_rng([settings.seed, 61]), 50)
    nash = np.log(von_neumann_winner(preference))
    rows = []
    for logp in (nash, np.broadcast_to(start, nash.shape)):
        problem = _problem(logp, logp, preference)
        minimiser = np.asarray(aj.methods["sppo"].optimum(problem, step_size=3.0))
        tilted = games.normalised(logp + 3 * np.einsum("nij,nj->ni", preference, np.exp(logp)))
        rows.append(np.abs(minimiser - tilted).max(-1))
    return {"at_nash": rows[0], "elsewhere": rows[1]}


# --- the official estimate of win-rates -------------------------------------------------------------------------------


@functools.cache
def estimates(settings: Settings) -> Runs:
    """The mean of the official code's win-rate estimate given its response, over all tuples of five from a policy.

    P-hat of response i is the mean of P(y_i, y_j) over j = 1..5, i itself included. `slope` `[games]` of that mean less
    1/2 over the win-rate less 1/2, `residual` what is left of it.
    """
    generator = np.random.default_rng([settings.seed, 62])
    number, size = settings.size(20, 6), 4
    tuples = np.asarray(list(itertools.product(range(size), repeat=DRAWN)))
    slope, residual = [], []
    for preference in uniform_games(generator, number, size):
        policy = np.exp(games.normalised(generator.normal(size=size)))
        weights = policy[tuples].prod(1)
        first = preference[tuples[:, :1], tuples].mean(1)
        given = np.stack([weights[tuples[:, 0] == y] @ first[tuples[:, 0] == y] for y in range(size)]) / policy
        advantage = preference @ policy - 0.5
        slope.append((given - 0.5) @ advantage / (advantage @ advantage))
        residual.append(np.abs(given - 0.5 - slope[-1] * advantage).max())
    return {"slope": np.asarray(slope), "residual": np.asarray(residual)}


# --- averages and last policies ---------------------------------------------------------------------------------------


@functools.cache
def self_play(settings: Settings) -> Runs:
    """Averages of T policies of the exact method on random games: `ratio` `[T, games]` to sqrt(2 D / T), `gap`.

    At the step sqrt(8 D / T) of each horizon. `horizons` are the T.
    """
    game = drawn_games(settings, 63)
    bound = divergence_bound(np.asarray(game.ref_logp))
    horizons = np.asarray([10, 30, 100, 300, 1000, 3000][: settings.size(6, 4)])
    gaps = [averages(game, game.ref_logp, np.sqrt(8 * bound / t), "mwu", int(t))[-1] for t in horizons]
    ratio = np.stack([gap / np.sqrt(2 * bound / t) for gap, t in zip(gaps, horizons, strict=True)])
    return {"ratio": ratio, "gap": np.stack(gaps), "horizons": horizons}


@functools.cache
def on_cycles(settings: Settings) -> Runs:
    """Self-play at eta = 0.1 on random cycles of three, from one start; SPPO's own minimisers beside it.

    `last`, `average`, `minimiser_average` `[steps, games]` original gaps; `improvement` P(pi_{t+1} > pi_t) - 1/2,
    `claimed` KL(pi_{t+1} || pi_t) / eta, `identity` the residual of the improvement as an equation, `[steps, games]`;
    `away` `[steps + 1, games]` KL of the last policy from the Nash, `average_away` `[games]` that of the average;
    `path`, `average_path` `[steps, 3]` on the synthetic game of COMAL; `bound` `[steps]` 2 D / (eta T) + eta / 4.
    """
    generator = np.random.default_rng([settings.seed, 64])
    number, steps, h = settings.size(100, 30), settings.size(4000, 1500), 0.1
    preference = cycles(generator, number)
    preference[0] = np.asarray(library.comal())
    start = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=start, tau=1.0))
    path = np.exp(np.asarray(solve(game, "mwu", num_steps=steps, step_size=h).trajectory))
    before, after = path[:-1], path[1:]
    improvement = np.einsum("tni,nij,tnj->tn", after, preference - 0.5, before)
    forward, backward = kl(after, before), kl(before, after)

    @jax.jit
    def minimisers(first: jax.Array) -> jax.Array:
        def one(logp: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            problem = _problem(logp, logp, game.preference)
            return aj.methods["sppo"].optimum(problem, step_size=h), logp

        return jax.lax.scan(one, first, None, length=steps)[1]

    own = np.exp(np.asarray(minimisers(jnp.broadcast_to(start, (number, 3)))))
    times = np.arange(1, steps + 1)[:, None, None]

    def gap(policies: np.ndarray) -> np.ndarray:
        return 2 * (np.einsum("nij,tnj->tni", preference, policies).max(-1) - 0.5)

    mean, winner = np.cumsum(before, 0) / times, von_neumann_winner(preference)
    return {
        "last": gap(after),
        "average": gap(mean),
        "minimiser_average": gap(np.cumsum(own, 0) / times),
        "improvement": improvement,
        "claimed": forward / h,
        "identity": improvement - (forward + backward) / h,
        "away": kl(winner, path),
        "average_away": kl(winner, mean[-1]),
        "path": before[:, 0],
        "average_path": mean[:, 0],
        "bound": 2 * np.log(5) / (h * times[:, 0, 0]) + h / 4,
    }


# --- residuals and gradients ------------------------------------------------------------------------------------------


@functools.cache
def residuals(settings: Settings) -> Runs:
    """Differences of SPPO's residuals against INPO's without a reference, from the two losses of this library.

    `sppo` and `inpo` `[draws]`: squared differences. Each SPPO residual is read from its loss on a group of one
    response, by the gradient, 2 r. `dno` `[games, A]`: population gradients of DNO's loss at the next iterate, for
    random laws.
    """
    generator = np.random.default_rng([settings.seed, 65])
    number, h = settings.size(2000, 500), 1.7
    logp, anchor = (np.log(generator.uniform(0.01, 1, (number, 2))) for _ in range(2))
    rates = generator.uniform(size=(number, 2))
    single = aj.methods["sppo"].loss
    slope = jax.vmap(jax.grad(lambda x, a, q: single(x[None], a[None], q[None], step_size=h)))
    residual = np.stack([np.asarray(slope(logp[:, i], anchor[:, i], rates[:, i])) / 2 for i in range(2)])
    pairs = aj.methods["inpo_soft"].loss(
        jnp.asarray(logp), jnp.asarray(logp[:, ::-1]), jnp.asarray(anchor), jnp.asarray(rates), step_size=h, beta=0.0
    )
    table, size = settings.size(200, 50), 5
    start, law = (games.normalised(generator.normal(size=(table, size))) for _ in range(2))
    preference = uniform_games(generator, table, size)
    problem = _problem(start, law, preference)
    after = games.normalised(start + h * np.einsum("nij,nj->ni", preference, np.exp(start)))
    dno = aj.population_grad("dno", problem, jnp.asarray(after), step_size=h)
    away = aj.population_grad("dno", problem, jnp.asarray(start), step_size=h)
    return {
        "sppo": np.square(residual[0] - residual[1]),
        "inpo": np.asarray(pairs),
        "dno": np.asarray(dno),
        "dno_away": np.asarray(away),
    }
