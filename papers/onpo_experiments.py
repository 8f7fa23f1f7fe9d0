"""Runs behind the ONPO page: averages against regret bounds, last policies, losses. Cached on their settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import alignjax as aj
from alignjax.games import PreferenceGame, library, original_gap, solve
from alignjax.sweeps import spread
from papers import comal_experiments as cyclic
from papers import nash_md_experiments as games
from papers.comal_magnets import pair_regression
from papers.record import Settings

Runs = dict[str, np.ndarray]

DOMINANT = (5, 10, 50)
"""Responses of the games with one that always wins, the others tied."""
RPS_START = np.asarray([0.5, 0.3, 0.2])
RPS_STEPS = np.asarray([0.1, 0.125, 0.5])
PRACTICAL = 100.0
"""The step of the paper's language-model runs: 1 / eta = 0.01."""


def divergence_bound(start: np.ndarray) -> np.ndarray:
    """D = max_y log 1 / pi_0(y), the largest KL of a policy from the start: a vertex, with which regret compares."""
    return -np.where(np.isneginf(start), 0.0, start).min(-1)


@functools.partial(jax.jit, static_argnames=("name", "num_steps"))
def _averages(game: PreferenceGame, start: Array, h: Array, *, name: str, num_steps: int) -> Array:
    """Original gap of the average of the first T policies, T = 1, 2, ..., `[num_steps, games]`."""
    path = solve(game, name, num_steps=num_steps, step_size=h, init_logp=start).trajectory[:-1]
    times = jnp.arange(1, num_steps + 1)[:, None, None]
    return original_gap(game, jnp.log(jnp.cumsum(jnp.exp(path), 0) / times))


def averages(game: PreferenceGame, start: Array, h: np.ndarray | float, name: str, num_steps: int) -> np.ndarray:
    """`_averages` with one constant step for each game."""
    sizes = jnp.broadcast_to(jnp.asarray(h, float), game.ref_logp.shape[:-1])
    return np.asarray(_averages(game, start, sizes, name=name, num_steps=num_steps))


def drawn_games(settings: Settings, stream: int) -> PreferenceGame:
    """Random games of 2 to 12 responses with references of three spreads; 0/1 tournaments are a fifth of them."""
    return games.random_games(np.random.default_rng([settings.seed, stream]), games.CHUNK, 1.0, 1.0)


def dominant(size: int) -> np.ndarray:
    """One response beats all others for certain; the others are tied."""
    matrix = np.full((size, size), 0.5)
    matrix[0, 1:], matrix[1:, 0] = 1.0, 0.0
    return matrix


# --- averages ---------------------------------------------------------------------------------------------------------

HORIZONS = (10, 100, 1000)


@functools.cache
def mirror_descent(settings: Settings) -> Runs:
    """Mirror descent's averages at the paper's step sqrt(D / T) and at sqrt(8 D / T).

    Ratios `[horizons, games]` of the original gap of the average of T policies from the reference to the paper's bound,
    4 sqrt(D / T), and to sqrt(2 D / T).
    """
    game = drawn_games(settings, 50)
    bound = divergence_bound(np.asarray(game.ref_logp))
    horizons = HORIZONS[: settings.size(3, 2)]
    found = np.empty((2, len(horizons), games.CHUNK))
    for i, horizon in enumerate(horizons):
        for k, (factor, constant) in enumerate(((1.0, 4.0), (8.0, np.sqrt(2)))):
            step = np.sqrt(factor * bound / horizon)
            gap = averages(game, game.ref_logp, step, "mwu", horizon)[-1]
            found[k, i] = gap / (constant * np.sqrt(bound / horizon))
    return {"paper": found[0], "sharp": found[1], "divergence": bound}


@functools.cache
def optimistic(settings: Settings) -> Runs:
    """T times the original gap of ONPO's average at every T: `gap` `[T, games]` on random games, and where one wins.

    At h = min(1/2, sqrt D), the step of Theorem 2; `h`, `divergence` `[games]`; `dominant` `[T, 3]`.
    """
    steps, game = settings.size(1000, 300), drawn_games(settings, 51)
    bound = divergence_bound(np.asarray(game.ref_logp))
    h = np.minimum(0.5, np.sqrt(bound))
    times = np.arange(1, steps + 1)[:, None]
    rows = []
    for size in DOMINANT:
        one = PreferenceGame(preference=jnp.asarray(dominant(size))[None], tau=1.0)
        rows.append(averages(one, one.ref_logp, 0.5, "onpo", steps)[:, 0])
    return {
        "gap": times * averages(game, game.ref_logp, h, "onpo", steps),
        "slow": times * averages(game, game.ref_logp, np.sqrt(8 * bound / steps), "mwu", steps),
        "h": h,
        "divergence": bound,
        "dominant": times * np.stack(rows, -1),
    }


# --- last policies ----------------------------------------------------------------------------------------------------


def optimistic_factor(h: float, rotation: float) -> float:
    r"""The factor of the logits' error near an interior Nash, a step: the larger |z| of z^2 = z + i h lambda (2 z - 1).

    ONPO without its auxiliary: theta_{t+1} = theta_t + h (2 M pi_t - M pi_{t-1}).
    """
    turn = 1j * h * rotation
    return float(np.abs(np.roots([1, -1 - 2 * turn, turn])).max())


@functools.cache
def rock_paper_scissors(settings: Settings) -> Runs:
    """The 0/1 game from (.5, .3, .2), 4,000 steps: ONPO at three steps, multiplicative weights at 0.1.

    `onpo` `[steps, T + 1, 3]` and `mwu` `[T + 1, 3]` probabilities.
    """
    game = PreferenceGame(preference=library.rock_paper_scissors(), ref_logp=jnp.log(jnp.asarray(RPS_START)), tau=1.0)
    steps = 4000
    rows = [solve(game, "onpo", num_steps=steps, step_size=float(h)).trajectory for h in RPS_STEPS]
    mwu = solve(game, "mwu", num_steps=steps, step_size=float(RPS_STEPS[0])).trajectory
    practical = solve(game, "onpo", num_steps=400, step_size=PRACTICAL).trajectory
    return {
        "onpo": np.exp(np.asarray(jnp.stack(rows))),
        "mwu": np.exp(np.asarray(mwu)),
        "practical": np.exp(np.asarray(practical)),
    }


def rps_gap(policies: np.ndarray) -> np.ndarray:
    """The original gap of rock-paper-scissors, by its definition."""
    return 2 * ((policies @ np.asarray(library.rock_paper_scissors()).T).max(-1) - 0.5)


@functools.cache
def last_policies(settings: Settings) -> Runs:
    """Last policies on random games with one equilibrium: cycles of three, uniform games of five and seven responses.

    At h = 1/8 from random policies: `kl` `[sizes, points, games]` from the Nash (by linear programs) at `times`, and
    multiplicative weights' `mwu`, the same; `mixed` `[sizes, games]`: whether the Nash plays more than one response.
    """
    generator = np.random.default_rng([settings.seed, 52])
    number, every = 40, 400
    points = settings.size(100, 25)
    onpo: list[np.ndarray] = []
    mwu: list[np.ndarray] = []
    mixed = []
    for size in (3, 5, 7):
        if size == 3:
            preference = cyclic.cycles(generator, number)
        else:
            lower = np.tril(generator.uniform(size=(number, size, size)) - 0.5, -1)
            preference = 0.5 + lower - lower.swapaxes(1, 2)
        start = jnp.asarray(games.normalised(generator.normal(size=(number, size))))
        goal = aj.games.von_neumann_winner(preference)
        mixed.append(goal.max(-1) < 1 - 1e-9)
        game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=start, tau=1.0))
        for name, rows in (("onpo", onpo), ("mwu", mwu)):
            run = solve(game, name, num_steps=every * points, step_size=0.125, every=every)
            rows.append(cyclic.kl(goal, np.exp(np.asarray(run.trajectory))))
    times = every * np.arange(points + 1)
    return {"onpo": np.stack(onpo), "mwu": np.stack(mwu), "mixed": np.stack(mixed), "times": times}


# --- the losses -------------------------------------------------------------------------------------------------------


@functools.cache
def losses(settings: Settings) -> Runs:
    """ONPO by its own losses on random games of five responses, against the solver, and the loss's gradient.

    `apart` `[steps, games]`: largest difference of log-probability between minimisers of hard-labelled pairs and the
    solver's iterates; `gradient` at the exact step; `wrong` the difference after one step with the target eta instead.
    """
    generator = np.random.default_rng([settings.seed, 53])
    number, steps, h, size = settings.size(40, 10), 6, 0.5, 5
    lower = np.tril(generator.uniform(size=(number, size, size)) - 0.5, -1)
    preference = 0.5 + lower - lower.swapaxes(1, 2)
    start = games.normalised(generator.normal(size=(number, size)))
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(start), tau=1.0))
    exact = np.asarray(solve(game, "onpo", num_steps=steps, step_size=h).trajectory)
    apart, wrong = np.empty((steps, number)), np.empty(number)
    for n, (matrix, first) in enumerate(zip(preference, start, strict=True)):
        played = auxiliary = first
        for t in range(steps):
            law = np.exp(played)
            if t == 0:
                twice = pair_regression(matrix, law, pair_regression(matrix, law, first, h), h)
                wrong[n] = np.abs(twice - exact[1, n]).max()
            auxiliary = pair_regression(matrix, law, auxiliary, h / 2)  # pairs from pi_t correct
            played = pair_regression(matrix, law, auxiliary, h / 2)  # and predict pi_{t+1}
            apart[t, n] = np.abs(played - exact[t + 1, n]).max()
    law = jnp.asarray(games.normalised(generator.normal(size=(number, size))))
    problem = aj.Problem(
        ref_logp=game.ref_logp, anchor_logp=game.ref_logp, sampler_logp=law, preference=game.preference
    )
    tilted = jax.nn.log_softmax(game.ref_logp + h * game.win_rate(law))
    gradient = aj.population_grad("onpo", problem, tilted, step_size=h)
    away = aj.population_grad("onpo", problem, game.ref_logp, step_size=h)
    return {"apart": apart, "wrong": wrong, "gradient": np.asarray(gradient), "away": np.asarray(away)}
