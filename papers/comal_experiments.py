"""Runs behind the COMAL page: proximal paths, the synthetic game, inner loops and magnets. Cached on their settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import expit, rel_entr

import alignjax as aj
from alignjax.games import PreferenceGame, equilibria, library, original_gap, solve, von_neumann_winner
from alignjax.sweeps import spread
from papers import nash_md_experiments as games
from papers.record import Settings

Runs = dict[str, np.ndarray]

START = np.asarray([0.2, 0.5, 0.3])
"""The initial policy of the synthetic experiment, and there the reference."""
STEP = 0.3
"""The canonical step of the methods that take one best-response step after another on the synthetic game."""
TEMPERATURES = np.asarray([0.1, 1.0, 10.0])
"""The proximal temperatures that are compared on the synthetic game."""
RIVALS = 4
"""Equilibria of the original game that each proximal path is measured against."""

_gap = jax.jit(original_gap)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of probabilities over the last axis; zeros of p count nothing."""
    return rel_entr(p, q).sum(-1)


def synthetic(tau: float = 0.1) -> PreferenceGame:
    """The paper's game with its start as reference."""
    return PreferenceGame(preference=library.comal(), ref_logp=jnp.log(jnp.asarray(START)), tau=tau)


# --- proximal paths on random games -----------------------------------------------------------------------------------


def _split(winner: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """An equilibrium of a game of copies: the mass of each response shared between it and its twin."""
    return np.stack([winner * shares, winner * (1 - shares)], -1).reshape(*shares.shape[:-1], -1)


def games_with_equilibria(generator: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """`[number, 12, 12]` preferences and `[RIVALS, number, 12]` equilibria of the original games, by linear programs.

    In every second game each response has a twin, so that there is a continuum of equilibria; in the others the rivals
    lie between a vertex of the equilibria and their centre (one point where it is unique).
    """
    drawn = np.array(games.random_games(generator, number, 1.0, 1.0, smallest=games.SIZE).preference)
    half = games.SIZE // 2
    shares = generator.uniform(size=(RIVALS, number, half))
    rivals = np.empty((RIVALS, number, games.SIZE))
    for i in range(number):
        if i % 2:
            drawn[i] = np.kron(drawn[i, :half, :half], np.ones((2, 2)))
            rivals[:, i] = _split(von_neumann_winner(drawn[i, ::2, ::2]), shares[:, i])
        else:
            vertex, centre = von_neumann_winner(drawn[i]), equilibria(drawn[i]).nearest
            weight = np.linspace(0, 1, RIVALS)[:, None]
            rivals[:, i] = weight * vertex + (1 - weight) * centre
    return drawn, rivals


@functools.cache
def proximal_paths(settings: Settings) -> Runs:
    """Exact proximal steps (Newton's method) on random games, tau log-uniform in [0.02, 5], from random policies.

    `kl` `[steps + 1, RIVALS, games]` to the equilibria of the original game, `residual` of the identity `[steps,
    RIVALS, games]`, `gap` `[steps + 1, games]` of the original game, `tau` `[games]`.
    """
    generator = np.random.default_rng([settings.seed, 40])
    number, steps = games.CHUNK, settings.size(24, 8)
    preference, rivals = games_with_equilibria(generator, number)
    tau = np.exp(generator.uniform(np.log(0.02), np.log(5.0), number))
    path = [games.normalised(2 * generator.normal(size=(number, games.SIZE)))]
    residual = []
    for _ in range(steps):
        path.append(games.equilibria(preference, path[-1], tau))
        before, after = np.exp(path[-2]), np.exp(path[-1])
        advantage = np.einsum("rni,nij,nj->rn", rivals, preference, after) - 0.5
        right = kl(rivals, after) + kl(after, before) + advantage / tau
        residual.append(kl(rivals, before) - right)
    policies = np.exp(np.stack(path))
    return {
        "kl": np.stack([kl(rivals, p) for p in policies]),
        "residual": np.stack(residual),
        "gap": 2 * (np.einsum("nij,tnj->tni", preference, policies).max(-1) - 0.5),
        "tau": tau,
    }


# --- the synthetic game -----------------------------------------------------------------------------------------------


def dpo_reward(preference: np.ndarray, law: np.ndarray, reward: np.ndarray) -> np.ndarray:
    r"""The Bradley-Terry reward fitted to pairs from law x law, by Newton's method from `reward`.

    sum_y' law(y') (P(y, y') - sigmoid(r_y - r_y')) = 0 for every y: the likelihood's gradient with law(y) taken out,
    so that rare responses are fitted as well as common ones.
    """
    for _ in range(50):
        chance = expit(reward[:, None] - reward[None, :])
        slope = law * chance * (1 - chance)
        jacobian = np.diag(slope.sum(1)) - slope
        move = np.linalg.lstsq(jacobian, (law * (preference - chance)).sum(1), rcond=None)[0]
        reward = reward + move / max(1.0, np.abs(move).max())
        if np.abs(move).max() < 1e-12:
            break
    return reward - law @ reward


def iterative_dpo(preference: np.ndarray, start: np.ndarray, beta: float, steps: int) -> np.ndarray:
    """Exact iterates of DPO whose reference and pair law are the last policy: `[steps + 1, A]` probabilities."""
    logits, reward, path = np.log(start), np.zeros(len(start)), [start]
    for _ in range(steps):
        reward = dpo_reward(preference, path[-1], reward)
        logits = games.normalised(logits + reward / beta)
        path.append(np.exp(logits))
    return np.stack(path)


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def _minimisers(preference: Array, start: Array, hyper: dict[str, Array], *, name: str, steps: int) -> Array:
    """Exact minimisers of a method's loss, one after another, each with the last as anchor, reference and pair law."""

    def one(logp: Array, _: None) -> tuple[Array, Array]:
        problem = aj.Problem(ref_logp=logp, anchor_logp=logp, sampler_logp=logp, preference=preference)
        after = aj.methods[name].optimum(problem, **hyper)
        return after, after

    return jnp.concatenate([start[None], jax.lax.scan(one, start, None, length=steps)[1]])


def minimisers(preference: Array, start: np.ndarray, name: str, steps: int, **hyper: float) -> np.ndarray:
    """`_minimisers` as probabilities `[steps + 1, A]`."""
    arrays = {key: jnp.asarray(value) for key, value in hyper.items()}
    return np.exp(_minimisers(preference, jnp.log(jnp.asarray(start)), arrays, name=name, steps=steps))


@functools.cache
def synthetic_paths(settings: Settings) -> Runs:
    """Policies `[steps + 1, 3]` of the five methods on the synthetic game, and of COMAL at each temperature."""
    steps = settings.size(4000, 1000)
    game, matrix = synthetic(), np.asarray(library.comal())
    run = {
        "iter_dpo": iterative_dpo(matrix, START, 4 / STEP, steps),
        "iter_ipo": minimisers(game.preference, START, "ipo", steps, beta=1 / STEP),
        "sppo": minimisers(game.preference, START, "sppo", steps, step_size=STEP),
        "inpo": np.exp(np.asarray(solve(game, "inpo", num_steps=steps).trajectory)),
    }
    for i, tau in enumerate(TEMPERATURES):
        run[f"comal_{i}"] = np.exp(np.asarray(solve(synthetic(tau), "comal", num_steps=60).trajectory))
    return run


def gap_of(policies: np.ndarray) -> np.ndarray:
    """Gap of the original synthetic game, by its definition."""
    return 2 * ((policies @ np.asarray(library.comal()).T).max(-1) - 0.5)


# --- the inner loop ---------------------------------------------------------------------------------------------------

INNER_FRACTIONS = np.asarray([0.1, 0.5, 1.0])
"""Inner steps as fractions of the largest h with a proved rate, 4 tau / (1 + 4 tau^2)."""


@functools.cache
def inner_loop(settings: Settings) -> Runs:
    """Mirror descent to random magnets: `kl` `[fractions, steps + 1, games]`, `rate` h tau `[fractions, games]`."""
    generator = np.random.default_rng([settings.seed, 41])
    number, steps = games.CHUNK, settings.size(400, 100)
    game = games.random_games(generator, number, 0.02, 5.0)
    goal, tau = np.exp(np.asarray(games.equilibrium_of(game))), np.asarray(game.tau)
    start = games.random_policies(generator, game, 1)[0]
    found, rates = [], []
    for fraction in INNER_FRACTIONS:
        h = fraction * 4 * tau / (1 + 4 * tau**2)
        sizes = jnp.broadcast_to(jnp.asarray(h), (steps, number))
        path = np.exp(games.run_solver(game, start, sizes, name="mmd", num_steps=steps))
        found.append(np.stack([kl(goal, p) for p in path]))
        rates.append(h * tau)
    return {"kl": np.stack(found), "rate": np.stack(rates)}


@functools.cache
def approximate(settings: Settings) -> Runs:
    """Proximal steps whose inner problem gets `length / (h tau)` steps of mirror descent: gaps of the last policies.

    On random cycles of three responses at tau = 0.1; `gap` `[lengths, moves + 1, games]`, the exact prox first.
    """
    number, moves, tau = settings.size(200, 50), 60, 0.1
    preference, h = cycles(np.random.default_rng([settings.seed, 42]), number), 4 * tau / (1 + 4 * tau**2)
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.log(jnp.asarray(START)), tau=tau))
    rows = [solve(game, "comal", num_steps=moves).trajectory]
    for length in INNER_LENGTHS:
        inner = round(length / (h * tau))
        rows.append(
            solve(game, "mpo", num_steps=moves * inner, step_size=h, magnet_steps=inner, every=inner).trajectory
        )
    return {"gap": np.stack([np.asarray(_gap(game, jnp.asarray(row))) for row in rows])}


INNER_LENGTHS = (2.0, 5.0, 10.0)
"""Inner lengths of `approximate`, in units of 1 / (h tau)."""


def cycles(generator: np.random.Generator, number: int) -> np.ndarray:
    """`[number, 3, 3]` rock-paper-scissors games with three margins uniform in [0.1, 0.5]."""
    a, b, c = generator.uniform(0.1, 0.5, (3, number))
    matrix = np.full((number, 3, 3), 0.5)
    for i, j, margin in ((0, 1, a), (1, 2, b), (2, 0, c)):
        matrix[:, i, j] += margin
        matrix[:, j, i] -= margin
    return matrix


# --- two and more Bradley-Terry annotators ----------------------------------------------------------------------------


@functools.cache
def annotators(settings: Settings) -> Runs:
    """Share of random triples of responses that are a majority cycle, for mixtures of Bradley-Terry annotators."""
    generator = np.random.default_rng([settings.seed, 43])
    number = settings.size(400_000, 40_000)
    found: Runs = {}
    for name, weights in (
        ("two", [0.5, 0.5]),
        ("unequal", [0.3, 0.7]),
        ("three", [1 / 3] * 3),
        ("fifty", [0.02] * 50),
    ):
        rewards = 3 * generator.normal(size=(len(weights), 3, number))
        odds = [rewards[:, i] - rewards[:, (i + 1) % 3] for i in range(3)]
        # sum_m w_m tanh(d_m / 2) = 2 P - 1 exactly antisymmetric, so that a tie is not a cycle by rounding
        sign = np.stack([np.einsum("m,mn->n", np.asarray(weights), np.tanh(d / 2)) for d in odds])
        found[name] = np.asarray((sign > 0).all(0) | (sign < 0).all(0))
    return found
