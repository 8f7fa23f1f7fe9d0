"""Runs behind the CoPG page: the paper's three-arm bandit with every baseline, random laws, graphs of pairs.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.optimize import root

from alignjax import methods
from alignjax.kl_regularised import gibbs, objective, regularised_reward
from alignjax.logspace import log_softmax
from alignjax.sweeps import spread
from papers.record import Settings

Runs = dict[str, np.ndarray]

REWARD = np.asarray([2.5, 2.0, 1.0])
FIRST, SECOND = np.asarray([0.1, 0.2, 0.7]), np.asarray([0.05, 0.05, 0.9])
BETA, RATE, PAIRS, BATCH = 0.5, 1e-3, 10_000, 512
"""The bandit of Section 5.1: rewards, the two laws of the pairs, and the settings of its Figure 1."""
STEPS = PAIRS // BATCH
"""Updates in an epoch."""
EPOCHS = 600
CONTENDERS = ("CoPG", "DPO", "IPO", "PG, b = 0", "PG, b = E r", "PG, b = E R")

REF = np.full(3, -np.log(3.0))
BEST = np.asarray(REF + REWARD / BETA) - np.log(np.exp(REF + REWARD / BETA).sum())


def regret(logp: Any, ref_logp: Any = REF, reward: Any = REWARD, beta: Any = BETA) -> Any:
    """J(pi*) - J(pi), by the objective's definition (not by the divergence it equals)."""
    best = gibbs(ref_logp, reward, beta)
    return objective(best, ref_logp, reward, beta) - objective(logp, ref_logp, reward, beta)


def _counts(generator: np.random.Generator, epochs: int) -> np.ndarray:
    """How often each labelled pair (first, second, who won) is in each minibatch, `[epochs * STEPS, 3, 3, 2]`.

    One data set of 10,000 pairs with a Bradley-Terry label each, shuffled anew in every epoch; the last 272 pairs of
    an epoch are dropped.
    """
    first, second = generator.choice(3, PAIRS, p=FIRST), generator.choice(3, PAIRS, p=SECOND)
    wins = generator.uniform(size=PAIRS) < 1 / (1 + np.exp(REWARD[second] - REWARD[first]))
    kind = (first * 3 + second) * 2 + wins
    rows = np.empty((epochs * STEPS, 18), np.int16)
    for epoch in range(epochs):
        shuffled = kind[generator.permutation(PAIRS)[: STEPS * BATCH]].reshape(STEPS, BATCH)
        place = shuffled + 18 * np.arange(STEPS)[:, None]
        rows[epoch * STEPS : (epoch + 1) * STEPS] = np.bincount(place.ravel(), minlength=18 * STEPS).reshape(STEPS, 18)
    return rows.reshape(-1, 3, 3, 2)


_INDEX = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(9, 2).astype(np.int32)


def _losses(logits: Array, counts: Array) -> Array:
    """The sum over contenders of the mean loss of a minibatch: the library's records on its nine kinds of pairs."""
    logp = dict(zip(CONTENDERS, log_softmax(logits), strict=True))
    ref, reward = jnp.asarray(REF)[_INDEX], jnp.asarray(REWARD)[_INDEX]
    number = counts.reshape(9, 2).sum(-1)
    won = counts.reshape(9, 2)[:, 1] / jnp.maximum(number, 1)
    preference = jnp.zeros((9, 2, 2)).at[:, 0, 1].set(won).at[:, 1, 0].set(1 - won)
    value: dict[str, Callable[[Array], Array]] = {
        "PG, b = 0": lambda x: jnp.zeros(()),
        "PG, b = E r": lambda x: jnp.exp(x) @ REWARD,
        "PG, b = E R": lambda x: jnp.exp(x) @ regularised_reward(x, REF, REWARD, BETA),
    }
    each = methods["copg"].loss(logp["CoPG"][_INDEX], ref, reward, beta=BETA)
    for name in ("DPO", "IPO"):
        each += methods[name.lower()].loss(logp[name][_INDEX], ref, preference, beta=BETA)
    for name, baseline in value.items():
        x = logp[name]
        each += methods["reinforce"].loss(x[_INDEX], ref, reward, jnp.broadcast_to(baseline(x), (9,)), beta=BETA)
    return (number * each).sum() / BATCH


@jax.jit
def _trained(counts: Array) -> Array:
    """Policies after each epoch, `[seeds, epochs + 1, contenders, 3]`, from `[seeds, epochs * STEPS, 3, 3, 2]`.

    The contenders have logits of their own, and Adam works entry by entry: one program trains them apart.
    """
    adam = optax.adam(RATE)
    slope = jax.grad(_losses)

    def one(counts: Array) -> Array:
        def step(carry: Any, batch: Array) -> tuple[Any, None]:
            logits, state = carry
            updates, state = adam.update(slope(logits, batch.astype(logits.dtype)), state)
            return (logits + updates, state), None

        def epoch(carry: Any, batches: Array) -> tuple[Any, Array]:
            carry, _ = jax.lax.scan(step, carry, batches)
            return carry, log_softmax(carry[0])

        start = jnp.zeros((len(CONTENDERS), 3))
        _, path = jax.lax.scan(epoch, (start, adam.init(start)), counts.reshape(-1, STEPS, 3, 3, 2))
        return jnp.concatenate([log_softmax(start)[None], path])

    return jax.vmap(one)(counts)


@functools.cache
def bandit(settings: Settings) -> Runs:
    """`<contender>`: policies after each epoch, `[seeds, 601, 3]`; `regret <contender>` `[seeds, 601]`."""
    seeds = settings.size(20, 6)
    generators = [np.random.default_rng([settings.seed, seed]) for seed in range(seeds)]
    counts = jnp.asarray(np.stack([_counts(generator, EPOCHS) for generator in generators]))
    paths = np.asarray(_trained(spread(counts)))
    runs = {name: paths[:, :, i] for i, name in enumerate(CONTENDERS)}
    return runs | {f"regret {name}": np.asarray(regret(path)) for name, path in runs.items()}


def _field_of(law: np.ndarray, baseline: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], np.ndarray]:
    def field(free: np.ndarray) -> np.ndarray:
        logits = np.append(free, 0.0)
        logp = logits - np.log(np.exp(logits).sum())
        weight = law * (REWARD - BETA * (logp - REF) - baseline(np.exp(logp)))
        return (weight - np.exp(logp) * weight.sum())[:2]

    return field


@functools.cache
def resting_points(settings: Settings) -> Runs:
    """Where the off-policy gradient of the bandit, with all the data in the world, rests: by SciPy's root finder."""
    law = 0.5 * (FIRST + SECOND)
    values = {
        "PG, b = E r": lambda p: p @ REWARD,
        "PG, b = E R": lambda p: p @ (REWARD - BETA * (np.log(p) - REF)),
    }
    found = {}
    for name, value in values.items():
        solution = root(_field_of(law, value), BEST[:2] - BEST[2], tol=1e-14)
        assert solution.success
        logits = np.append(solution.x, 0.0)
        found[name] = logits - np.log(np.exp(logits).sum())
    problem_p = 1 / (1 + np.exp(REWARD[None, :] - REWARD[:, None]))
    weight = np.outer(FIRST, SECOND) + np.outer(SECOND, FIRST)
    target = (problem_p - 0.5) / BETA
    score = np.linalg.lstsq(np.diag(weight.sum(1)) - weight, (weight * target).sum(1), rcond=None)[0]
    found["IPO"] = REF + score - np.log(np.exp(REF + score).sum())
    return found


# --- is the baseline special? -----------------------------------------------------------------------------------------

SIZE = 5
AVERAGES = ("the law itself", "the policy", "the reference", "another law", "policy, without KL")


@functools.partial(jax.jit, static_argnames=("num_steps", "every"))
def _flows(ref: Array, reward: Array, beta: Array, law: Array, other: Array, start: Array, num_steps: int, every: int):
    """Euler runs of the off-policy field with five baselines; largest |log pi - log pi*| over time."""
    best = gibbs(ref, reward, beta)

    def run(kind: int) -> Array:
        def field(logits: Array) -> Array:
            logp = log_softmax(logits)
            plain = regularised_reward(logp, ref, reward, beta)
            under = jnp.stack([law, jnp.exp(logp), jnp.exp(ref), other, jnp.exp(logp)])[kind]
            averaged = reward if kind == 4 else plain
            weight = law * (plain - under @ averaged)
            return weight - jnp.exp(logp) * weight.sum()

        def step(_: int, logits: Array) -> Array:
            return logits + 0.5 / beta * field(logits)

        def record(logits: Array, _: None) -> tuple[Array, Array]:
            logits = jax.lax.fori_loop(0, every, step, logits)
            return logits, jnp.abs(log_softmax(logits) - best).max()

        return jax.lax.scan(record, start, None, length=num_steps // every)[1]

    return jnp.stack([run(kind) for kind in range(len(AVERAGES))])


@functools.cache
def averages(settings: Settings) -> Runs:
    """`error` `[instances, 5, times]`: distance from Gibbs of the runs with each baseline; `time` in steps."""
    number, steps, every = 60, settings.size(60_000, 20_000), 20
    generator = np.random.default_rng([settings.seed, 1])
    policy = lambda spread: np.asarray(log_softmax(spread * generator.normal(size=(number, SIZE))))
    ref, law, other = policy(1.0), np.exp(policy(1.0)), np.exp(policy(1.0))
    reward, start = generator.normal(size=(number, SIZE)), 2 * generator.normal(size=(number, SIZE))
    beta = np.exp(generator.uniform(np.log(0.4), np.log(2.0), number))
    run = jax.vmap(functools.partial(_flows, num_steps=steps, every=every))
    error = np.asarray(run(*spread([jnp.asarray(x) for x in (ref, reward, beta, law, other, start)])))
    return {"error": error, "time": every * np.arange(1, error.shape[-1] + 1)}


@functools.cache
def stability(settings: Settings) -> Runs:
    """The field linearised at Gibbs, `[instances]`: smallest real part of its eigenvalues off the constant.

    d field / d logits at pi*, by hand: R changes by -beta (d - pi* d), its average under nu by the same averaged. For
    an average under pi* the matrix is compared with its transpose.
    """
    number = settings.size(20_000, 4_000)
    generator = np.random.default_rng([settings.seed, 2])
    normal = lambda: 2 * generator.normal(size=(number, SIZE))
    law, nu, best = (np.exp(x - np.log(np.exp(x).sum(-1, keepdims=True))) for x in (normal(), normal(), normal()))
    eye = np.eye(SIZE)

    def matrix(average: np.ndarray) -> np.ndarray:
        slope = -(eye - average[:, None, :])  # of R - b, in units of beta: the average under pi* cancels
        weighted = law[:, :, None] * slope
        return weighted - best[:, :, None] * weighted.sum(1, keepdims=True)

    basis = np.linalg.qr(np.concatenate([np.ones((SIZE, 1)), eye[:, 1:]], 1))[0][:, 1:]  # orthogonal to constants
    reduced = lambda m: -np.einsum("ia,nij,jb->nab", basis, m, basis)
    own = reduced(matrix(best))
    return {
        "slowest": np.linalg.eigvals(reduced(matrix(nu))).real.min(-1),
        "asymmetry": np.abs(own - np.swapaxes(own, 1, 2)).max((1, 2)),
        "own slowest": np.linalg.eigvalsh(0.5 * (own + np.swapaxes(own, 1, 2))).min(-1),
    }
