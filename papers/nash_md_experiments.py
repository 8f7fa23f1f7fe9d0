"""Runs behind the Nash-MD page that need a game and no training: theorems, steps, examples.

Each is cached on its settings, so that claims and figures share it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import fit, geometric_mixture, kl
from alignjax.games import (
    PreferenceGame,
    best_response,
    duality_gap,
    library,
    nash,
    original_gap,
    payoff,
    solve,
    von_neumann_winner,
)
from alignjax.games.solvers import step as solver_step
from alignjax.games.step_sizes import nash_md_theorem_step
from alignjax.problem import Problem
from alignjax.sweeps import spread
from papers.record import Settings

Runs = dict[str, np.ndarray]

SIZE = 12
"""Responses of the largest random game; smaller ones give some no reference mass, so that one shape serves all."""

STEPS_TAU = np.asarray([0.05, 0.1, 0.5])
"""The constant steps that are compared, as eta tau."""


def number_of_games(settings: Settings) -> int:
    """How many random games an experiment has: the same for all, so that what solves them is compiled once."""
    return settings.size(2000, 400)


def random_games(
    generator: np.random.Generator, number: int, low: float, high: float, *, rarest: float = 0.0, smallest: int = 2
) -> PreferenceGame:
    """Uniform, tournament, annotator, voter and Bradley-Terry games of `smallest` to 12 responses, tau log-uniform.

    In each game one response's reference mass is divided by up to e^`rarest`. Drawn by NumPy: nothing to compile.
    """
    uniform = np.tril(generator.uniform(size=(number, SIZE, SIZE)) - 0.5, -1)
    uniform = 0.5 + uniform - np.swapaxes(uniform, -1, -2)
    tournament = 0.5 + 0.5 * np.sign(uniform - 0.5)
    rewards = 3 * generator.normal(size=(4, number, SIZE))
    annotators = sigmoid(rewards[:3, :, :, None] - rewards[:3, :, None, :]).mean(0)
    transitive = sigmoid(rewards[3, :, :, None] - rewards[3, :, None, :])
    votes = generator.uniform(size=(5, number, SIZE))
    voters = 0.5 + 0.5 * np.sign(votes[..., :, None] - votes[..., None, :]).mean(0)
    count = np.arange(number)
    preference = np.stack([uniform, tournament, annotators, voters, transitive])[count % 5, count]
    sizes = smallest + count % (SIZE + 1 - smallest)
    logits = np.asarray([0.0, 1.0, 3.0])[(count // 5) % 3][:, None] * generator.normal(size=(number, SIZE))
    logits[:, 0] -= rarest * generator.uniform(size=number)
    ref_logp = normalised(np.where(np.arange(SIZE) < sizes[:, None], logits, -np.inf))
    tau = np.exp(generator.uniform(np.log(low), np.log(high), number))
    return spread(
        PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=jnp.asarray(tau))
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x)."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def normalised(logits: np.ndarray) -> np.ndarray:
    """Log-softmax over the last axis; -inf stays zero mass."""
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def random_policies(generator: np.random.Generator, game: PreferenceGame, number: int, scale: float = 4.0) -> Array:
    """`[number, games, A]` softmax policies with normal logits, on the support of the reference."""
    logits = scale * generator.normal(size=(number, *game.ref_logp.shape))
    return jnp.asarray(normalised(np.where(np.isneginf(np.asarray(game.ref_logp)), -np.inf, logits)))


@jax.jit
def furthest(game: PreferenceGame, logp: Array, other: Array) -> Array:
    """The largest difference of log-probability in each game, over the responses in it."""
    return jnp.abs(jnp.where(jnp.isneginf(game.ref_logp), 0.0, logp - other)).max(-1)


_kl, _gap, _original_gap = jax.jit(kl), jax.jit(duality_gap), jax.jit(original_gap)
_payoff, _best_response, _mixture = jax.jit(payoff), jax.jit(best_response), jax.jit(geometric_mixture)


CHUNK = 400


def equilibria(preference: np.ndarray, ref_logp: np.ndarray, tau: np.ndarray | float) -> np.ndarray:
    """Log-probs of the regularised Nash of any number of games `[n, A, A]` with A <= 12, in chunks of one shape.

    Games are padded with responses of reference mass zero, so that the Newton solver is compiled once for the whole
    page.
    """
    number, size = ref_logp.shape
    tau = np.broadcast_to(tau, number)
    found = np.empty((number, size))
    for start in range(0, number, CHUNK):
        rows = np.minimum(np.arange(start, start + CHUNK), number - 1)
        matrix, reference = np.full((CHUNK, SIZE, SIZE), 0.5), np.full((CHUNK, SIZE), -np.inf)
        matrix[:, :size, :size], reference[:, :size] = preference[rows], ref_logp[rows]
        game = PreferenceGame(
            preference=jnp.asarray(matrix), ref_logp=jnp.asarray(reference), tau=jnp.asarray(tau[rows])
        )
        kept = slice(start, min(start + CHUNK, number))
        found[kept] = np.asarray(nash(game))[: kept.stop - start, :size]
    return found


def equilibrium_of(game: PreferenceGame) -> Array:
    """`equilibria` of a batch of games."""
    return jnp.asarray(equilibria(*(np.asarray(x) for x in (game.preference, game.ref_logp, game.tau))))


@functools.partial(jax.jit, static_argnames=("name", "num_steps", "every"))
def run_solver(
    game: PreferenceGame, init_logp: Array, step_sizes: Array, *, name: str, num_steps: int, every: int = 1
) -> Array:
    """The trajectory of `solve` as one compiled program; `step_sizes` is `[num_steps, ...]`."""
    schedule = lambda t: step_sizes[t.astype(int)]
    return solve(game, name, num_steps=num_steps, step_size=schedule, init_logp=init_logp, every=every).trajectory


# --- Theorem 1 --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="num_steps")
def _theorem(game: PreferenceGame, equilibrium: Array, starts: Array, num_steps: int) -> tuple[Array, Array]:
    """KL(pi* || pi_t) for t = 1..T from the first start, and how far the starts are apart at the end."""

    tau = jnp.asarray(game.tau)[None]

    def step(logp: Array, t: Array) -> tuple[Array, Array]:
        logp = solver_step(game, "nash_md", logp, nash_md_theorem_step(t, tau))
        return logp, kl(equilibrium, logp[0])

    last, divergence = jax.lax.scan(step, starts, jnp.arange(num_steps, dtype=starts.dtype))
    apart = furthest(game, last[0], last[1])
    return divergence, apart


def _theorem_run(game: PreferenceGame, generator: np.random.Generator, num_steps: int) -> Runs:
    equilibrium = equilibrium_of(game)
    starts = random_policies(generator, game, 2)
    divergence, apart = _theorem(game, equilibrium, starts, num_steps)
    finite = jnp.where(jnp.isneginf(game.ref_logp), jnp.inf, game.ref_logp)
    return {
        "kl": np.concatenate([np.asarray(_kl(equilibrium, starts[0]))[None], np.asarray(divergence)]),
        "apart": np.asarray(apart),
        "tau": np.asarray(game.tau),
        "rarest": np.asarray(finite.min(-1)),
    }


def theorem_steps(num_steps: int, tau: float) -> np.ndarray:
    """The theorem's step sizes, t = 0, 1, ..."""
    return np.asarray(nash_md_theorem_step(jnp.arange(num_steps, dtype=float), jnp.asarray(tau)))


@functools.cache
def theorem(settings: Settings) -> Runs:
    """Nash-MD with the theorem's steps on random games: `kl` `[T + 1, games]`, `apart`, `tau`, `rarest` `[games]`."""
    generator = np.random.default_rng([settings.seed, 0])
    game = random_games(generator, number_of_games(settings), 0.02, 5.0)
    return _theorem_run(game, generator, settings.size(1000, 200))


@functools.cache
def rare_responses(settings: Settings) -> Runs:
    """The same where the reference gives some response a mass down to e^-600."""
    generator = np.random.default_rng([settings.seed, 1])
    game = random_games(generator, number_of_games(settings), 0.02, 5.0, rarest=600.0)
    return _theorem_run(game, generator, settings.size(1000, 200))


def bound_ratio(run: Runs, constant: float) -> np.ndarray:
    """KL(pi* || pi_T) tau^2 (T + 1) / constant for T = 1, 2, ...: `[T, games]`, above 1 where a bound fails."""
    horizon = np.arange(1, run["kl"].shape[0])[:, None]
    return run["kl"][1:] * run["tau"] ** 2 * (horizon + 1) / constant


@jax.jit
def _one_step(game: PreferenceGame, equilibrium: Array, logp: Array, fraction: Array) -> Array:
    step_size = fraction / game.tau
    after = kl(equilibrium, solver_step(game, "nash_md", logp, step_size))
    return (after - (1 - fraction) * kl(equilibrium, logp)) / step_size**2


@functools.cache
def one_step(settings: Settings) -> np.ndarray:
    """(KL_{t+1} - (1 - eta tau) KL_t) / eta^2 from random policies with random eta tau in (0, 1]: `[draws]`."""
    generator = np.random.default_rng([settings.seed, 2])
    game = random_games(generator, number_of_games(settings), 0.02, 5.0)
    number = settings.size(20, 10)
    logp = random_policies(generator, game, number)
    fraction = jnp.asarray(1 - generator.uniform(size=(number, *game.ref_logp.shape[:-1])))
    return np.asarray(_one_step(game, equilibrium_of(game), logp, fraction)).ravel()


# --- the regularised equilibrium --------------------------------------------------------------------------------------


@functools.cache
def uniqueness(settings: Settings) -> Runs:
    """Mirror descent from far apart starts against Newton, the residual of the best response, rivals of the Nash."""
    generator = np.random.default_rng([settings.seed, 3])
    game = random_games(generator, number_of_games(settings), 0.2, 2.0)
    equilibrium = equilibrium_of(game)
    starts = random_policies(generator, game, 4, 6.0)
    # The linear rate 1 - h tau of mirror descent is certain for h / (1 - h tau) <= 4 tau.
    step_size = jnp.asarray(4 * game.tau / (1 + 4 * game.tau**2))[None]
    step_sizes = jnp.broadcast_to(step_size, (400, *step_size.shape))
    found = run_solver(game, starts, step_sizes, name="self_play", num_steps=400, every=400)[-1]
    rivals = random_policies(generator, game, 50, 3.0)
    same = jnp.broadcast_to(equilibrium, rivals.shape)
    value, back = np.asarray(_payoff(game, rivals, same)), np.asarray(_payoff(game, same, rivals))
    return {
        "start_spread": np.asarray(_kl(starts[:1], starts[1:])),
        "starts_apart": np.asarray(furthest(game, found, found[:1])),
        "newton_apart": np.asarray(furthest(game, found, equilibrium)),
        "residual": np.asarray(furthest(game, equilibrium, _best_response(game, equilibrium))),
        "rival": value,
        "sum": value + back,
    }


# --- the step size ----------------------------------------------------------------------------------------------------


@functools.cache
def steps(settings: Settings) -> Runs:
    """Constant steps and the theorem's on the same games, tau = 0.1, all twelve responses.

    `gap` `[T + 1, 4, games]` in the game at tau (the theorem's schedule last), `mixture_gap` that of the mixture at
    tau / (1 - eta tau) (constant steps only), and at the end: `kl` of the Nash from the policy, `mixture_error` in
    log-probability, `moved`, the change of log-probability in the last step.
    """
    tau, number, num_steps = 0.1, number_of_games(settings) // 4, 500
    generator = np.random.default_rng([settings.seed, 4])
    drawn = random_games(generator, 4 * number, tau, tau, smallest=SIZE)
    # The same games at tau and at each tau / (1 - eta tau), in one batch.
    warmer = np.repeat(np.concatenate([tau / (1 - STEPS_TAU), [tau]]), number)
    preference, ref_logp = (np.asarray(x)[:number] for x in (drawn.preference, drawn.ref_logp))
    preference, ref_logp = np.tile(preference, (4, 1, 1)), np.tile(ref_logp, (4, 1))
    every = spread(
        PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=jnp.asarray(warmer))
    )
    game = dataclasses.replace(every, tau=jnp.full(4 * number, tau))
    step_sizes = np.repeat(np.append(STEPS_TAU / tau, 0.0)[None], num_steps, 0)
    step_sizes[:, -1] = theorem_steps(num_steps, tau)
    start = np.tile(np.asarray(random_policies(generator, drawn, 1, 2.0))[0, :number], (4, 1))
    sizes = jnp.asarray(np.repeat(step_sizes, number, 1))
    path = run_solver(game, jnp.asarray(start), sizes, name="nash_md", num_steps=num_steps)
    # The last quarter followed the theorem's schedule: its mixture weight is not looked at.
    weight = jnp.asarray(np.repeat(np.append(STEPS_TAU, 0.0), number))
    mixed = _mixture(path, every.ref_logp, weight[None])
    apart = furthest(every, jnp.stack([mixed[-1], path[-1]]), jnp.stack([equilibrium_of(every), path[-2]]))
    shape = (4, number)
    return {
        "gap": np.asarray(_gap(game, path)).reshape((-1, *shape)),
        "mixture_gap": np.asarray(_gap(every, mixed)).reshape((-1, *shape))[:, :3],
        "kl": np.asarray(_kl(equilibrium_of(game), path[-1])).reshape(shape),
        "mixture_error": np.asarray(apart[0]).reshape(shape)[:3],
        "moved": np.asarray(apart[1]).reshape(shape)[:3],
    }


@functools.cache
def averages(settings: Settings) -> Runs:
    """Last and average iterates on random cycles of three responses.

    Self-play on the game without regularisation (its gap), Nash-MD with the theorem's steps on the game at tau =
    0.05 (its
    gap), `[T + 1, games]`. The first game, with the start as its reference, is there to be drawn: `path_self_play` and
    `path_nash_md` `[T + 1, 3]` are its probabilities, `nash` and `winner` its equilibria with and without
    regularisation.
    """
    number, num_steps, tau = settings.size(500, 100), settings.size(4000, 2000), 0.05
    margins = jnp.asarray(np.random.default_rng([settings.seed, 5]).uniform(0.1, 0.5, (3, number)))
    preference = jax.jit(jax.vmap(library.rock_paper_scissors))(*margins).at[0].set(library.comal())
    start = normalised(np.asarray([1.5, 0.0, -1.5]))
    ref_logp = np.full((number, 3), -np.log(3))
    ref_logp[0] = start

    def both(
        game: PreferenceGame, name: str, step_sizes: np.ndarray, gap: Callable[..., Array]
    ) -> tuple[np.ndarray, ...]:
        first = jnp.asarray(np.broadcast_to(start, game.ref_logp.shape))
        path = run_solver(game, first, jnp.asarray(step_sizes)[:, None], name=name, num_steps=num_steps)
        probabilities = np.exp(np.asarray(path))
        mean = np.cumsum(probabilities, 0) / np.arange(1, num_steps + 2)[:, None, None]
        return np.asarray(gap(game, path)), np.asarray(gap(game, np.log(mean))), probabilities[:, 0]

    free = both(
        PreferenceGame(preference=preference, ref_logp=jnp.asarray(ref_logp), tau=1e-9),
        "self_play",
        np.full(num_steps, 0.1),
        _original_gap,
    )
    tied = both(
        PreferenceGame(preference=preference, ref_logp=jnp.asarray(ref_logp), tau=tau),
        "nash_md",
        theorem_steps(num_steps, tau),
        _gap,
    )
    names = ("last", "average", "path")
    found = {f"{name}_self_play": x for name, x in zip(names, free, strict=True)}
    drawn = np.asarray(preference[0])
    found |= {"nash": np.exp(equilibria(drawn[None], start[None], tau)[0]), "winner": von_neumann_winner(drawn)}
    return found | {f"{name}_nash_md": x for name, x in zip(names, tied, strict=True)}


# --- examples ---------------------------------------------------------------------------------------------------------


def bradley_terry_fit(preference: Array, pair_law: Array) -> np.ndarray:
    """The maximum-likelihood Bradley-Terry reward (mean 0) when both responses come from `pair_law` `[..., A]`.

    DPO's population loss at beta = 1 with a uniform reference is that likelihood: its log-policy is the reward.
    """
    size = preference.shape[-1]
    batch = np.broadcast_shapes(preference.shape[:-2], pair_law.shape[:-1])
    problem = Problem(
        ref_logp=jnp.full((*batch, size), -jnp.log(float(size))),
        preference=jnp.broadcast_to(preference, (*batch, size, size)),
        sampler_logp=jnp.log(jnp.broadcast_to(pair_law, (*batch, size))),
    )
    logp = fit("dpo", problem, num_steps=3000, learning_rate=4.0, beta=1.0).logp
    return np.asarray(logp - logp.mean(-1, keepdims=True))


PAIR_LAWS = np.asarray([[1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])


def preference_fit(preference: Array, pair_law: Array) -> Array:
    """The maximum-likelihood preference model, one free logit for each pair, when pairs come from `pair_law`."""
    weight = pair_law[:, :, None] * pair_law[:, None, :]

    def likelihood(score: Array) -> Array:
        return -(weight * preference * jax.nn.log_sigmoid(score - jnp.swapaxes(score, -1, -2))).sum()

    @jax.jit
    def descend(score: Array) -> Array:
        score = jax.lax.fori_loop(0, 1000, lambda _, s: s - 4.0 * jax.grad(likelihood)(s), score)
        return jax.nn.sigmoid(score - jnp.swapaxes(score, -1, -2))

    return descend(jnp.zeros((len(pair_law), *preference.shape)))


def dice_wins() -> np.ndarray:
    """The three dice, by listing all 9 outcomes of each pair."""
    faces = ((2, 4, 9), (1, 6, 8), (3, 5, 7))
    wins = np.asarray([[np.mean([a > b for a, b in itertools.product(x, y)]) for y in faces] for x in faces])
    np.fill_diagonal(wins, 0.5)
    return wins


@functools.cache
def examples(settings: Settings) -> Runs:
    """Fitted rewards and Nash equilibria of all three-response examples, in one batch.

    Rows: the three kinds of annotators along `epsilon` with uniform pairs; the same at epsilon = 0.1 under each of
    `PAIR_LAWS` (there the equilibrium is that of the fitted preference model); the dice. `reward`, `nash` (at tau =
    0.02),
    `winner` (of the game without regularisation, by a linear program) are `[rows, 3]`; `shown` are the true
    preferences and
    `preference` those whose equilibria are taken, `[rows, 3, 3]`.
    """
    side = settings.size(20, 8)
    epsilon = np.linspace(-0.3, 0.3, 2 * side + 1)
    types = jax.vmap(library.three_types)(jnp.asarray(np.append(epsilon, 0.1)))
    laws, wins = jnp.asarray(PAIR_LAWS), jnp.asarray(dice_wins())[None]
    fitted = preference_fit(types[-1], laws)
    pair_laws = jnp.concatenate([jnp.full((len(epsilon), 3), 1 / 3), laws, jnp.full((1, 3), 1 / 3)])
    shown = jnp.concatenate([types[:-1], jnp.repeat(types[-1:], 3, 0), wins])
    preference = jnp.concatenate([types[:-1], fitted, wins])
    return {
        "epsilon": epsilon,
        "preference": np.asarray(preference),
        "shown": np.asarray(shown),
        "reward": bradley_terry_fit(shown, pair_laws),
        "nash": np.exp(equilibria(np.asarray(preference), np.full(preference.shape[:-1], -np.log(3)), 0.02)),
        "winner": von_neumann_winner(preference),
    }


@functools.cache
def constrained(settings: Settings) -> Runs:
    """The feasible policies (2a, a, 1 - 3a) on a grid: the best by reward, and by worst-case win-rate."""
    reward, preference = (np.asarray(x) for x in library.constrained_rewards())
    a = np.linspace(0, 1 / 3, 1001)
    policies = np.stack([2 * a, a, 1 - 3 * a], -1)
    wins = policies @ preference @ policies.T
    return {
        "best_reward": policies[np.argmax(policies @ reward)],
        "best_win_rate": policies[np.argmax(wins.min(1))],
        "win_rate": wins[0, -1],
        "reward_gap": (policies @ reward)[-1] - (policies @ reward)[0],
    }
