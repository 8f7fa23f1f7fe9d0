"""Runs behind the BOND page that need no training: the law, its costs and win-rates, estimates, relatives' constants.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from alignjax import Problem, best_of_n, bond_reward, fit, gibbs, log_partition
from alignjax.best_of import best_of_n_ratio, quantile_cross_entropy, quantile_estimate, quantiles
from papers.bond_training import bandits, family, seeds
from papers.nash_md_experiments import normalised
from papers.record import Settings

Runs = dict[str, np.ndarray]

NUMBERS = np.asarray([2.0, 4.0, 8.0, 16.0])
MANY, BANDITS = 20_000, 5
"""Responses of a bandit in which ties between samples hardly ever happen, and how many such bandits."""


# --- Theorem 1, ties included


def winners(p: np.ndarray, reward: np.ndarray, n: int, rule: str) -> np.ndarray:
    """The law of the winner of n samples, every n-tuple counted; ties by "sample" (fair), "first" or "index"."""
    tuples = np.asarray(list(itertools.product(range(len(p)), repeat=n)))
    weight, scores = p[tuples].prod(1), reward[tuples]
    top = scores == scores.max(1, keepdims=True)
    if rule == "sample":
        share = top / top.sum(1, keepdims=True)
    else:
        rank = tuples if rule == "index" else np.broadcast_to(np.arange(n), tuples.shape)
        first = np.where(top, rank, rank.max() + 1).argmin(1)
        share = np.arange(n) == first[:, None]
    return np.asarray([(weight[:, None] * share * (tuples == y)).sum() for y in range(len(p))])


@functools.cache
def ties(settings: Settings) -> Runs:
    """Largest error in probability of the formula against enumeration, `[bandits]`, by rule for ties; N of 2 to 4.

    `index_refined`: with the order refined first (`ties="order"`).
    """
    rng = np.random.default_rng([settings.seed, 310])
    number = settings.size(300, 60)
    found: dict[str, list[float]] = {name: [] for name in ("sample", "first", "index", "index_refined")}
    laws = {ties: jax.jit(functools.partial(best_of_n, ties=ties)) for ties in ("sample", "order")}
    for i in range(number):
        p, reward, n = rng.dirichlet(np.ones(5)), rng.integers(0, 3, 5).astype(float), 2 + i % 3
        formula, refined = (np.exp(laws[name](np.log(p), reward, float(n))) for name in ("sample", "order"))
        for rule in ("sample", "first", "index"):
            found[rule].append(np.abs(formula - winners(p, reward, n, rule)).max())
        found["index_refined"].append(np.abs(refined - winners(p, reward, n, "index")).max())
    return {name: np.asarray(values) for name, values in found.items()}


@functools.cache
def identities(settings: Settings) -> Runs:
    """On random bandits with ties, N of 1 to 64: iterated best-of-N, the Gibbs form, Z, and Beirami's bound.

    `iterated`, `gibbs`: largest errors in probability; `value`: |log Z|; `ratio`: KL over log N - (N - 1) / N.
    """
    rng = np.random.default_rng([settings.seed, 311])
    number, size = settings.size(2000, 500), 12
    ref = normalised(rng.normal(size=(number, size)) * rng.uniform(0, 3, (number, 1)))
    reward = np.where(
        rng.uniform(size=(number, 1)) < 0.5, rng.integers(0, 4, (number, size)), rng.normal(size=(number, size))
    )
    n, m = 1 + np.exp(rng.uniform(-3, 4, (2, number)))
    once = np.asarray(best_of_n(ref, reward, n))
    twice = np.asarray(best_of_n(once, reward, m))
    score = np.asarray(bond_reward(ref, reward, n))
    tilted = np.asarray(gibbs(ref, score, 1 / (n - 1)))
    # From the definition: differences of powers of quantiles by comparison of all pairs.
    p = np.exp(ref)
    upto = np.einsum("ba,bya->by", p, reward[:, None, :] <= reward[:, :, None])
    below = np.einsum("ba,bya->by", p, reward[:, None, :] < reward[:, :, None])
    written = lambda n: p * (upto ** n[:, None] - below ** n[:, None]) / (upto - below)
    cost = (np.exp(once) * (once - ref)).sum(-1)
    wins = (np.exp(once) * 0.5 * (upto + below)).sum(-1)
    return {
        "law": np.abs(np.exp(once) - written(n)).max(-1),
        "iterated": np.abs(np.exp(twice) - written(n * m)).max(-1),
        "gibbs": np.abs(np.exp(tilted) - written(n)).max(-1),
        "value": np.abs(np.asarray(log_partition(ref, score, 1 / (n - 1)))),
        "ratio": cost / (np.log(n) - (n - 1) / n),
        "win_ratio": wins / (n / (n + 1)),
    }  # fmt: skip


# --- without atoms


@functools.cache
def without_atoms(settings: Settings) -> Runs:
    """Best-of-N in bandits of 20,000 responses, `[N, measures, seeds]`: KL, reverse, TV, chi2, win-rate, E log p_<=.

    `frontier` `[N, 3, seeds]`: KL, its win-rate, and the highest win-rate of any policy of that KL (the Gibbs policy of
    the win-rate against the reference).
    """
    rng = np.random.default_rng([settings.seed, 312])
    ref, reward = normalised(rng.normal(size=(BANDITS, MANY))), rng.normal(size=(BANDITS, MANY))
    found = quantiles(ref, reward)
    upto, below = np.exp(found.at_most), np.exp(found.below)
    middle = 0.5 * (upto + below)
    out, frontier = [], []
    for n in NUMBERS:
        best = ref + np.asarray(best_of_n_ratio(found, n))
        p, q = np.exp(best), np.exp(ref)
        cost, wins = (p * (best - ref)).sum(-1), (p * middle).sum(-1)
        rows = [cost, (q * (ref - best)).sum(-1), 0.5 * np.abs(p - q).sum(-1), (np.square(p) / q).sum(-1) - 1,
                wins, (p * np.log(upto)).sum(-1)]  # fmt: skip
        out.append(rows)
        highest = [highest_mean(ref[i], middle[i], cost[i]) for i in range(BANDITS)]
        frontier.append([cost, wins, highest])
    return {"measures": np.asarray(out), "frontier": np.asarray(frontier)}


def highest_mean(ref_logp: np.ndarray, score: np.ndarray, cost: float) -> float:
    """The highest E_pi[score] with KL(pi || ref) <= cost: of the Gibbs policy with that KL, by root finding."""

    def at(log_scale: float) -> tuple[float, float]:
        logp = normalised(ref_logp + np.exp(log_scale) * score)
        p = np.exp(logp)
        return float((p * (logp - ref_logp)).sum()), float((p * score).sum())

    return at(optimize.brentq(lambda x: at(x)[0] - cost, -8.0, 12.0, xtol=1e-8))[1]


@functools.cache
def against_reward(settings: Settings) -> Runs:
    """Expected reward of exact best-of-N less that of the Gibbs policy of the reward with the same KL, `[N, seeds]`.

    `curve_bon`, `curve_gibbs` `[3, points]`: KL, reward, win-rate of the first bandit.
    """
    problem = bandits(settings, seeds(settings), 30, 0)
    assert problem.reward is not None
    ref, reward = np.asarray(problem.ref_logp), np.asarray(problem.reward)
    gap = np.empty((len(NUMBERS), len(ref)))
    for i, n in enumerate(NUMBERS):
        best = np.asarray(best_of_n(ref, reward, n))
        for seed in range(len(ref)):
            p = np.exp(best[seed])
            cost = float((p * (best[seed] - ref[seed])).sum())
            gap[i, seed] = (p * reward[seed]).sum() - highest_mean(ref[seed], reward[seed], cost)
    return {"gap": gap}


@functools.cache
def win_rates(settings: Settings) -> Runs:
    """KL and win-rate of the exact best-of-N at 60 real N, `[seeds, points]`, and the best possible at these KLs."""
    problem = bandits(settings, seeds(settings), 30, 0)
    ref, reward = np.asarray(problem.ref_logp), np.asarray(problem.reward)
    found = quantiles(ref, reward)
    middle = 0.5 * (np.exp(found.at_most) + np.exp(found.below))
    numbers = np.geomspace(1.05, 64, 40)
    cost = family(problem, numbers)[0].T
    law = jax.jit(jax.vmap(lambda n: best_of_n(ref, reward, n)))
    wins = (np.exp(np.asarray(law(numbers))) * middle).sum(-1).T
    highest = np.asarray([[highest_mean(ref[s], middle[s], c) for c in cost[s]] for s in range(len(ref))])
    return {"cost": cost, "wins": wins, "highest": highest, "numbers": numbers}


# --- the factor B


SIZES = (3, 10, 100, 1000)


@functools.cache
def dropped_b(settings: Settings) -> Runs:
    """KL(best-of-8 || normalised ref p_<=^7), `[sizes, bandits]`, nats."""
    rng = np.random.default_rng([settings.seed, 313])
    shape = (len(SIZES), 50, SIZES[-1])
    # Responses without mass: one shape for all sizes.
    alive = np.arange(SIZES[-1]) < np.asarray(SIZES)[:, None, None]
    ref = normalised(np.where(alive, rng.normal(size=shape), -np.inf))
    found = quantiles(ref, rng.normal(size=shape))
    extra = np.asarray(best_of_n_ratio(found, 8.0)), np.asarray(best_of_n_ratio(found, 8.0, include_b=False))
    target, crude = (normalised(np.where(alive, ref + more, -np.inf)) for more in extra)
    gap = np.where(alive, target, 0.0) - np.where(alive, crude, 0.0)
    return {"kl": (np.exp(target) * gap).sum(-1)}


# --- estimates of the quantile

TRUE = np.asarray([0.1, 0.5, 0.9])
SAMPLES = 16


@functools.cache
def estimates(settings: Settings) -> Runs:
    """Draws of log p-hat - log p from 16 samples: `floor`, `add_one` `[p, draws]`; `zero` `[p, draws]` counts of 0."""
    rng = np.random.default_rng([settings.seed, 314])
    uniform = rng.uniform(size=(len(TRUE), settings.size(200_000, 100_000), SAMPLES))
    rules = {
        rule: np.asarray(quantile_estimate(TRUE[:, None, None], uniform, rule=rule))[..., 0]
        for rule in ("floor", "add_one")
    }
    zero = (uniform > TRUE[:, None, None]).all(-1)
    return {**{rule: values - np.log(TRUE)[:, None] for rule, values in rules.items()}, "zero": zero}


@functools.cache
def learned_quantile(settings: Settings) -> Runs:
    """Logits of a learned quantile after 600 exact steps; `error` in probability, `[seeds, A]`."""
    problem = bandits(settings, seeds(settings), 10, 3)
    assert problem.reward is not None
    p, reward = jnp.exp(problem.ref_logp), problem.reward

    def loss(logits: jax.Array) -> jax.Array:
        table = quantile_cross_entropy(logits[..., :, None], reward[..., :, None], reward[..., None, :])
        return (p[..., None, :] * table).sum()

    step = jax.jit(lambda x: x - 4.0 * jax.grad(loss)(x))
    logits = jnp.zeros_like(reward)
    for _ in range(600):
        logits = step(logits)
    truth = np.einsum("ba,bya->by", p, np.asarray(reward)[:, None, :] <= np.asarray(reward)[:, :, None])
    return {"error": np.abs(np.asarray(jax.nn.sigmoid(logits)) - truth), "truth": truth}


# --- relatives


@functools.cache
def vbon_scale(settings: Settings) -> Runs:
    """RLHF with the reward log(BoN / ref) / s at beta = 1 / (N - 1), trained: KL(pi || BoN) `[scale, N, seeds]`.

    Scales s = N, the official code's, and s = N - 1. `tempered`: error in probability of ref (BoN / ref)^{(N - 1) / N}.
    """
    base = bandits(settings, seeds(settings), 8, 4)
    ref, reward = base.ref_logp, base.reward
    assert reward is not None

    @jax.jit
    def one(n: jax.Array, scale: jax.Array) -> jax.Array:
        ratio = best_of_n_ratio(quantiles(ref, reward), n)
        problem = Problem(ref_logp=ref, reward=(n - 1) * ratio / scale)
        return fit("reinforce", problem, num_steps=6000, learning_rate=1.0, beta=1.0).logp

    numbers = np.asarray([2.0, 4.0, 8.0])
    kls, tempered = np.empty((2, 3, len(ref))), np.empty((3, len(ref)))
    for i, n in enumerate(numbers):
        target = np.asarray(best_of_n(ref, reward, n))
        for j, scale in enumerate((n, n - 1)):
            logp = np.asarray(one(jnp.asarray(n), jnp.asarray(scale)))
            kls[j, i] = (np.exp(logp) * (logp - target)).sum(-1)
            if j == 0:
                claimed = normalised(np.asarray(ref) + (n - 1) / n * (target - np.asarray(ref)))
                tempered[i] = np.abs(np.exp(logp) - np.exp(claimed)).max(-1)
    return {"kl": kls, "tempered": tempered}


@functools.cache
def bonbon_margin(settings: Settings) -> Runs:
    """(N - 1)(log U_max - log U_min) of N uniform quantiles, N = 2, 4, 8: `[N, draws]`."""
    rng = np.random.default_rng([settings.seed, 315])
    draws = settings.size(400_000, 200_000)
    out = []
    for n in (2, 4, 8):
        log_u = np.log(rng.uniform(size=(draws, n)))
        out.append((n - 1) * (log_u.max(-1) - log_u.min(-1)))
    return {"margin": np.asarray(out)}


QRPO_BETAS, QRPO_SIZES = np.asarray([0.1, 0.3, 1.0]), (10, 100, 1000, MANY)


@functools.cache
def qrpo_partition(settings: Settings) -> Runs:
    """log Z of the quantile reward under its reference, `[sizes, betas, seeds]`."""
    rng = np.random.default_rng([settings.seed, 316])
    out = []
    for size in QRPO_SIZES:
        alive = np.arange(MANY) < size
        ref = normalised(np.where(alive, rng.normal(size=(BANDITS, MANY)), -np.inf))
        score = np.exp(quantiles(ref, rng.normal(size=ref.shape)).at_most)
        out.append(np.log(np.exp(ref + score / QRPO_BETAS[:, None, None]).sum(-1)))
    return {"log_z": np.asarray(out)}
