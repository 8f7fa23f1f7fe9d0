r"""How often a magnet may move: MPO's inner length on the synthetic game, simulated and from its linear part.

With m inner steps h towards a magnet that then moves to the policy, an error of the logits along the rotation +-i
lambda of the equilibrium is multiplied, from one move to the next, by

    g(m) = a^m + h tau (1 - a^m) / (1 - a),      a = 1 - h tau + i h lambda

since one inner step takes an error x with a fixed magnet error z to a x + h tau z. For small h and m = c / (h tau) this
is |g| < 1 for every c > 0 (sin(c rho) < rho sinh(c), rho = lambda / tau); at the next order the steps' own growth has
to be paid for, and |g| < 1 needs m of the order 1 / sqrt(h tau).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.games import PreferenceGame, library, solve
from papers import comal_experiments as comal
from papers import nash_md_experiments as games
from papers.record import Settings

Runs = dict[str, np.ndarray]

TABLE = (50, 20, 6)
"""Inner steps between moves in the comparison at tau = 0.1 and implicit step 0.4."""
MOVES = np.asarray([1, 5, 10, 20, 40])
PULLS = np.asarray([0.08, 0.04, 0.02, 0.01, 0.005])
"""h tau of the scaling, at tau = 0.1."""
TAU = 0.1
NASH = np.asarray([4.0, 3.0, 4.0]) / 11


@functools.cache
def table(settings: Settings) -> Runs:
    """Original gap after 0, 1, ... moves of the magnet, `[lengths, moves + 1]`."""
    moves, game = 60, comal.synthetic(TAU)
    paths = [
        solve(game, "mpo", num_steps=moves * m, eta=0.4, magnet_steps=m, every=m, init_logp=game.ref_logp).trajectory
        for m in TABLE
    ]
    return {"gap": np.stack([comal.gap_of(np.exp(np.asarray(path))) for path in paths])}


def rotation() -> float:
    """lambda: the eigenvalues of M (diag(pi) - pi pi^T) at the Nash of the synthetic game are 0 and +-i lambda."""
    skew = np.asarray(library.comal()) - 0.5
    return float(np.abs(np.linalg.eigvals(skew @ (np.diag(NASH) - np.outer(NASH, NASH))).imag).max())


def growth(length: np.ndarray, h: np.ndarray | float, tau: float) -> np.ndarray:
    """|g(m)|."""
    a = 1 - h * tau + 1j * h * rotation()
    return np.abs(a**length + h * tau * (1 - a**length) / (1 - a))


@functools.partial(jax.jit, static_argnames="budget")
def _paths(lengths: jax.Array, h: jax.Array, near: jax.Array, *, budget: int) -> jax.Array:
    """Trajectories `[lengths, budget + 1, 3]` from policy and magnet `near`."""
    game = PreferenceGame(preference=library.comal(), ref_logp=near, tau=TAU)

    def path(length: jax.Array) -> jax.Array:
        return solve(game, "mpo", num_steps=budget, step_size=h, magnet_steps=length).trajectory

    return jax.vmap(path)(lengths)


@functools.cache
def scaling(settings: Settings) -> Runs:
    """The shortest inner length from which moves bring the policy nearer (`stable`), and that of most progress for
    each inner step (`cheapest`), for each h tau: simulated from a policy close to the Nash, and (`*_linear`) from |g|.

    `rates` `[pulls, lengths]` are the simulated -log |g| / m at `lengths`, -inf where that is too long to try.
    """
    near = jnp.asarray(games.normalised(np.log(NASH) + 1e-5 * np.asarray([1.0, -0.5, 0.2])))
    lengths = np.unique(np.append(np.arange(1, 41), np.geomspace(41, 600, settings.size(80, 40)).astype(int)))
    rows = []
    for pull in PULLS:
        budget = round(20 / pull)  # long enough for several moves, too short to reach rounding
        moves = np.maximum(budget // lengths, 1)
        reached = np.minimum(moves * lengths, budget)
        paths = np.asarray(_paths(jnp.asarray(lengths), jnp.asarray(pull / TAU), near, budget=budget))
        away = np.log(NASH) - np.stack([paths[:, 0], paths[np.arange(len(lengths)), reached]])
        divergence = (NASH * (np.expm1(-away) + away)).sum(-1)  # termwise non-negative: exact where it is tiny
        rate = -0.5 * np.log(divergence[1] / divergence[0]) / reached
        rows.append(np.where(lengths <= budget / 2, rate, -np.inf))
    rates = np.stack(rows)
    every = np.arange(1, 2000)
    linear = np.stack([-np.log(growth(every, pull / TAU, TAU)) / every for pull in PULLS])
    return {
        "lengths": lengths,
        "rates": rates,
        "stable": lengths[(rates > 0).argmax(1)],
        "cheapest": lengths[rates.argmax(1)],
        "stable_linear": every[(linear > 0).argmax(1)],
        "cheapest_linear": every[linear.argmax(1)],
    }


def exponent(lengths: np.ndarray) -> float:
    """The slope of log length over log h tau."""
    return float(np.polyfit(np.log(PULLS), np.log(lengths), 1)[0])


# --- INPO whose reference is moved ------------------------------------------------------------------------------------

MOVED_EVERY = 12
RATIO = 1 / 3
"""h tau of the released script: tau / eta in its inverse step."""


def inpo_with_moving_reference(h: float, moves: int) -> np.ndarray:
    """Minimisers of INPO's pairwise loss on the synthetic game, its reference replaced by the policy every 12 of them.

    `[12 moves + 1, 3]` log-probabilities; each minimiser from the linear system of the enumerated labelled pairs.
    """
    matrix = np.asarray(library.comal())
    logp = reference = np.log(comal.START)
    path = [logp]
    for t in range(MOVED_EVERY * moves):
        logp = pair_regression(matrix, np.exp(logp), RATIO * reference + (1 - RATIO) * logp, h / 2)
        path.append(logp)
        if (t + 1) % MOVED_EVERY == 0:
            reference = logp
    return np.stack(path)


def pair_regression(preference: np.ndarray, law: np.ndarray, base: np.ndarray, target: float) -> np.ndarray:
    r"""The policy of least squares sum_{y, y'} law(y) law(y') P(y, y') (x_y - x_y' - target)^2, x = log pi - base.

    A winner y and its loser y' in every row, so that the target stands for hard labels. Weighted least squares.
    """
    size = len(law)
    rows, weights = np.zeros((size * size, size)), np.empty(size * size)
    for k, (y, other) in enumerate(np.ndindex(size, size)):
        rows[k, y] += 1
        rows[k, other] -= 1
        weights[k] = np.sqrt(law[y] * law[other] * preference[y, other])
    x = np.linalg.lstsq(weights[:, None] * rows, weights * target, rcond=1e-14)[0]
    return games.normalised(base + x)


@functools.cache
def moving_reference(settings: Settings) -> Runs:
    """The two algorithms at h tau = 1/3, tau = 0.5: `inpo` and `mpo` log-probabilities; `released` gaps by tau.

    `released` `[taus, moves + 1]`: original gap of the exact schedule at the temperatures `RELEASED`.
    """
    moves, tau = 20, 0.5
    game = comal.synthetic(tau)
    run = solve(game, "mpo", num_steps=MOVED_EVERY * moves, step_size=RATIO / tau, magnet_steps=MOVED_EVERY)
    gaps = []
    for temperature in RELEASED:
        path = solve(
            comal.synthetic(temperature),
            "mpo",
            num_steps=MOVED_EVERY * 200,
            step_size=RATIO / temperature,
            magnet_steps=MOVED_EVERY,
            every=MOVED_EVERY,
        ).trajectory
        gaps.append(comal.gap_of(np.exp(np.asarray(path))))
    return {
        "inpo": inpo_with_moving_reference(RATIO / tau, moves),
        "mpo": np.asarray(run.trajectory),
        "released": np.stack(gaps),
    }


RELEASED = np.asarray([0.5, 0.1, 0.002 / 3])
"""Temperatures of the released schedule; the last is the script's own, eta = 0.002 and tau = eta / 3."""
