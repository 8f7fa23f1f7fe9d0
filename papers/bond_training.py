"""Runs behind the BOND page that train: divergences over steps, iterated rounds, a family of two parameters.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import Problem, best_of_n, kl
from alignjax.best_of import quantile_estimate, quantiles
from alignjax.objectives.bond import bond
from alignjax.sweeps import spread
from papers.nash_md_experiments import normalised
from papers.record import Settings

Runs = dict[str, np.ndarray]

NUMBERS, WEIGHTS = np.asarray([4.0, 8.0, 16.0]), np.asarray([0.0, 0.5, 1.0])
"""N, and the weight of the backward divergence (the paper's beta)."""
EXACT_EVERY, SAMPLED_EVERY = 50, 50
BATCH = 16
"""Prompts of a sampled step, and samples of the reference behind each quantile."""


def seeds(settings: Settings) -> int:
    """How many bandits."""
    return settings.size(20, 8)


@functools.cache
def bandits(settings: Settings, number: int, size: int, stream: int) -> Problem:
    """Bandits with normal rewards and normal reference logits, `[number, size]`."""
    rng = np.random.default_rng([settings.seed, 300, stream])
    ref_logp = jnp.asarray(normalised(rng.normal(size=(number, size))))
    return spread(Problem(ref_logp=ref_logp, reward=jnp.asarray(rng.normal(size=(number, size)))))


def measures(problem: Problem, logp: Any, n: Any) -> tuple[Array, Array, Array, Array]:
    """KL(pi || BoN), KL(BoN || pi), E_pi log p_<=, KL(pi || ref), over the batch axes of `logp`."""
    assert problem.reward is not None
    target = best_of_n(problem.ref_logp, problem.reward, n)
    log_quantile = (jnp.exp(logp) * quantiles(problem.ref_logp, problem.reward).at_most).sum(-1)
    return kl(logp, target), kl(target, logp), log_quantile, kl(logp, problem.ref_logp)


def descended(logits: Array, target: Array, weight: Array, num_steps: int) -> Array:
    """Exact gradient steps of rate 0.5 on (1 - w) KL(target || pi) + w KL(pi || target).

    What `fit("bond", ...)` does, whose gradient enumerates pairs of responses: see the tests.
    """

    def loss(x: Array) -> Array:
        logp = jax.nn.log_softmax(x)
        return ((1 - weight) * kl(target, logp) + weight * kl(logp, target)).sum()

    return jax.lax.fori_loop(0, num_steps, lambda _, x: x - 0.5 * jax.grad(loss)(x), logits)


@functools.cache
def exact(settings: Settings) -> Runs:
    """Gradient descent on the exact loss, rate 0.5, from the reference.

    `divergence` `[points, 4, N, weights, seeds]`: the four measures every 50 steps, from step 0 to 1,000.
    """
    problem = bandits(settings, seeds(settings), 30, 0)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, 0))
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def advance(n: Array, weight: Array, logits: Array) -> tuple[Array, Any]:
        found = descended(logits, best_of_n(problem.ref_logp, problem.reward, n), weight, EXACT_EVERY)  # type: ignore[arg-type]
        return found, jnp.stack(measures(problem, jax.nn.log_softmax(found), n))

    logp = jnp.broadcast_to(problem.ref_logp, (3, 3, *problem.ref_logp.shape))
    start = jax.vmap(lambda n: jnp.stack(measures(problem, problem.ref_logp, n)))(NUMBERS)
    points = [np.broadcast_to(np.asarray(start)[:, None], (3, 3, *start.shape[1:]))]
    for _ in range(1000 // EXACT_EVERY):
        logp, found = advance(jnp.asarray(NUMBERS), jnp.asarray(WEIGHTS), logp)
        points.append(np.asarray(found))
    return {"divergence": np.moveaxis(np.stack(points), 3, 1), "step": EXACT_EVERY * np.arange(len(points))}


def drawn(uniform: Array, logp: Array) -> Array:
    """Responses by inverting the distribution function: uniforms `[B]` -> indices `[B]`."""
    upto = jnp.cumsum(jnp.exp(logp))
    return jnp.minimum((upto[None, :] < uniform[:, None] * upto[-1]).sum(-1), logp.size - 1)


@functools.cache
def sampled(settings: Settings) -> Runs:
    """Stochastic gradients as in the paper: 16 prompts a step, 16 samples behind each quantile, B dropped.

    Rate 0.1, 2,000 steps; estimates of 0 become 1/32; the baseline is the mean return of the other samples.
    """
    problem = bandits(settings, seeds(settings), 30, 0)
    assert problem.reward is not None
    quantile = jnp.exp(quantiles(problem.ref_logp, problem.reward).at_most)

    def one(ref: Array, upto: Array, best: Array, key: Array, n: Array, weight: Array) -> Array:
        """One bandit, one N, one weight: policies every 50 steps."""

        def step(logits: Array, key: Array) -> tuple[Array, None]:
            uniform = jax.random.uniform(key, (2 + BATCH, BATCH))
            winner, own = drawn(uniform[0], best), drawn(uniform[1], jax.nn.log_softmax(logits))
            # A sample of the reference is at most as good as y if and only if its own uniform is at most p_<=(y).
            estimate = (n - 1) * quantile_estimate(upto[own][:, None], uniform[2:].T)[:, 0]
            reward = jnp.stack([jnp.zeros(BATCH), estimate], -1)

            def loss(x: Array) -> Array:
                logp = jax.nn.log_softmax(x)
                both = jnp.stack([logp[winner], logp[own]], -1)
                anchor = jnp.stack([ref[winner], ref[own]], -1)
                returned = jax.lax.stop_gradient(reward[:, 1] - both[:, 1] + anchor[:, 1])
                others = (returned.sum() - returned) / (BATCH - 1)
                return bond(both, anchor, reward, others, weight=weight).mean()

            return logits - 0.1 * jax.grad(loss)(logits), None

        def block(logits: Array, key: Array) -> tuple[Array, Array]:
            logits, _ = jax.lax.scan(step, logits, jax.random.split(key, SAMPLED_EVERY))
            return logits, jax.nn.log_softmax(logits)

        return jax.lax.scan(block, ref, jax.random.split(key, 2000 // SAMPLED_EVERY))[1]

    over_seeds = jax.vmap(one, (0, 0, 0, 0, None, None))
    best = jax.vmap(lambda n: best_of_n(problem.ref_logp, problem.reward, n))(jnp.asarray(NUMBERS))  # type: ignore[arg-type]
    over_weights = jax.vmap(over_seeds, (None, None, None, None, None, 0))
    everything = jax.jit(jax.vmap(over_weights, (None, None, 0, None, 0, None)))
    keys = spread(jax.random.split(jax.random.key(settings.seed), seeds(settings)))
    logp = everything(problem.ref_logp, quantile, best, keys, jnp.asarray(NUMBERS), jnp.asarray(WEIGHTS))
    logp = jnp.moveaxis(logp, 3, 1)  # [N, points, weights, seeds, A]
    found = jax.vmap(lambda x, n: jnp.stack(measures(problem, x, n)))(logp, jnp.asarray(NUMBERS))
    points = np.moveaxis(np.asarray(found), (2, 1, 0), (0, 1, 2))
    first = exact(settings)["divergence"][:1]
    return {"divergence": np.concatenate([first, points]), "step": SAMPLED_EVERY * np.arange(len(points) + 1)}


# --- rounds

ROUND = 250
PLANS = (("n = 2, iterated", 2.0, True), ("n = 4, iterated", 4.0, True), ("N = 4", 4.0, False), ("N = 8", 8.0, False),
         ("N = 16", 16.0, False))  # fmt: skip
"""(name, n, whether the anchor becomes the policy after each round)."""


@functools.cache
def rounds(settings: Settings) -> Runs:
    """Iterated BOND against one-shot BOND, w = 1/2: twelve rounds of 250 exact steps.

    `divergence` `[points, 4, plans, seeds]` every 50 steps (its first two measures with N = 16); `frontier`: the
    log-quantile of an exact best-of-N with real N and the same KL, `[points, plans, seeds]`.
    """
    problem = bandits(settings, seeds(settings), 30, 0)
    reward = problem.reward
    assert reward is not None

    @jax.jit
    @jax.vmap
    def advance(n: Array, logits: Array, anchor: Array) -> tuple[Array, Any]:
        found = descended(logits, best_of_n(anchor, reward, n), jnp.asarray(0.5), EXACT_EVERY)
        logp = jax.nn.log_softmax(found)
        return logp, jnp.stack(measures(problem, logp, 16.0))

    numbers = jnp.asarray([n for _, n, _ in PLANS])
    moves = np.asarray([moving for _, _, moving in PLANS])
    logp = anchor = jnp.broadcast_to(problem.ref_logp, (len(PLANS), *problem.ref_logp.shape))
    points = []
    for step in range(EXACT_EVERY, 12 * ROUND + 1, EXACT_EVERY):
        logp, found = advance(numbers, logp, anchor)
        points.append(np.asarray(found))
        if step % ROUND == 0:
            anchor = jnp.where(moves[:, None, None], logp, anchor)
    divergence = np.moveaxis(np.stack(points), 2, 1)
    cost, log_quantile = family(problem, np.geomspace(1.0, 1e5, 400))
    frontier = np.empty_like(divergence[:, 2])
    for seed in range(divergence.shape[-1]):
        frontier[..., seed] = np.interp(divergence[:, 3, :, seed], cost[:, seed], log_quantile[:, seed])
    return {"divergence": divergence, "frontier": frontier, "step": EXACT_EVERY * np.arange(1, len(points) + 1)}


def family(problem: Problem, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL from the reference and log-quantile of the exact best-of-N at every N, `[numbers, seeds]` each."""

    @jax.jit
    @jax.vmap
    def one(n: Array) -> tuple[Array, Array]:
        found = measures(problem, best_of_n(problem.ref_logp, problem.reward, n), n)  # type: ignore[arg-type]
        return found[3], found[2]

    cost, log_quantile = one(jnp.asarray(numbers))
    return np.asarray(cost), np.asarray(log_quantile)


# --- a family that cannot represent best-of-N

GAUSSIAN_WEIGHTS = np.asarray([0.0, 0.25, 0.5, 0.75, 1.0])
POINTS = np.linspace(-3.0, 3.0, 101)


def gaussians(mean: np.ndarray, log_sd: np.ndarray) -> np.ndarray:
    """Log-probs over the 101 points of Gaussians with these means and log standard deviations, `[..., 101]`."""
    return normalised(-0.5 * np.square((POINTS - mean[..., None]) / np.exp(log_sd)[..., None]))


@functools.cache
def restricted(settings: Settings) -> Runs:
    """Best-of-8 of a wide Gaussian under a reward with two peaks, in the family of two-parameter Gaussians.

    `divergence` `[weights, 4, seeds]` at the minimiser of (1 - w) KL(BoN || pi) + w KL(pi || BoN), found by five
    rounds of a grid over mean and log standard deviation; `policy`, `target` `[..., 101]` of the first bandit.
    """
    rng = np.random.default_rng([settings.seed, 301])
    number = seeds(settings)
    centres = np.stack([rng.uniform(-2.0, -1.0, number), rng.uniform(1.0, 2.0, number)], -1)
    heights, widths = rng.uniform(0.8, 1.0, (number, 2)), rng.uniform(0.2, 0.4, (number, 2))
    bumps = heights[..., None] * np.exp(-0.5 * np.square((POINTS - centres[..., None]) / widths[..., None]))
    reward = bumps.sum(1)
    ref = gaussians(np.zeros(number), np.full(number, np.log(1.5)))
    problem = Problem(ref_logp=jnp.asarray(ref), reward=jnp.asarray(reward))
    target = np.asarray(best_of_n(ref, reward, 8.0))
    best = np.zeros((len(GAUSSIAN_WEIGHTS), number, 2))
    radius = np.asarray([3.0, 3.0])
    best[..., 1] = -1.0
    for _ in range(5):
        offsets = np.stack(np.meshgrid(*(np.linspace(-r, r, 25) for r in radius), indexing="ij"), -1).reshape(-1, 2)
        for i, weight in enumerate(GAUSSIAN_WEIGHTS):
            tried = best[i, :, None] + offsets
            tried[..., 1] = np.clip(tried[..., 1], np.log(0.05), np.log(6.0))
            logp = gaussians(tried[..., 0], tried[..., 1])
            forward = (np.exp(target)[:, None] * (target[:, None] - logp)).sum(-1)
            backward = (np.exp(logp) * (logp - target[:, None])).sum(-1)
            best[i] = np.take_along_axis(
                tried, ((1 - weight) * forward + weight * backward).argmin(1)[:, None, None], 1
            )[:, 0]
        radius = radius / 8
    policy = gaussians(best[..., 0], best[..., 1])
    found = np.stack([np.stack(measures(problem, row, 8.0)) for row in policy])
    return {"divergence": found, "policy": np.exp(policy), "target": np.exp(target), "reward": reward}
