"""Runs behind the CoPG page on random laws: gradients and optima of the pair loss, its relatives, graphs of pairs."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse.csgraph import connected_components

from alignjax import Problem, methods, population_grad, population_loss
from alignjax.logspace import log_softmax
from alignjax.sweeps import spread
from papers.copg_experiments import BETA, FIRST, REF, REWARD, SECOND, Runs
from papers.record import Settings

SIZE = 5


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def instances(settings: Settings, stream: int) -> tuple[np.ndarray, ...]:
    """(log ref, reward, beta, logits, log mu_1, log mu_2) of random problems of five responses."""
    number = settings.size(2000, 300)
    generator = np.random.default_rng([settings.seed, stream])
    ref, first, second = (np.log(softmax(generator.normal(size=(number, SIZE)))) for _ in range(3))
    reward, logits = generator.normal(size=(number, SIZE)), 1.5 * generator.normal(size=(number, SIZE))
    return ref, reward, np.exp(generator.uniform(np.log(0.05), np.log(3.0), number)), logits, first, second


def over(function: Callable[..., Array], *given: np.ndarray) -> np.ndarray:
    """A function of one instance on all of them."""
    return np.asarray(jax.jit(jax.vmap(function))(*spread([jnp.asarray(x) for x in given])))


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|found - expected| over the larger of 1 and |expected|, the largest entry of each instance."""
    found, expected = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    return (np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(1)


def objective_gradient(ref: np.ndarray, reward: np.ndarray, beta: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """grad J of softmax logits, by hand: pi (R - E_pi R)."""
    p = softmax(logits)
    regularised = reward - beta[:, None] * (np.log(p) - ref)
    return p * (regularised - (p * regularised).sum(-1, keepdims=True))


@functools.cache
def theorem(settings: Settings) -> Runs:
    """Theorem 1: gradients at Gibbs(reward, beta), at Gibbs(reward, 2 beta), and the loss above its minimum."""
    ref, reward, beta, logits, first, second = instances(settings, 10)

    def problem(ref: Array, reward: Array, first: Array, second: Array) -> Problem:
        return Problem(ref_logp=ref, reward=reward, sampler_logp=(first, second))

    def gradient(ref: Array, reward: Array, first: Array, second: Array, beta: Array, at: Array) -> Array:
        return population_grad("copg", problem(ref, reward, first, second), at, beta=beta)

    def value(ref: Array, reward: Array, first: Array, second: Array, beta: Array, at: Array) -> Array:
        return population_loss("copg", problem(ref, reward, first, second), log_softmax(at), beta=beta)

    best = ref + reward / beta[:, None]
    twice = ref + reward / (2 * beta[:, None])
    here = (ref, reward, first, second, beta)
    h = np.log(softmax(logits)) - ref
    residual = reward - beta[:, None] * h
    gap = residual[:, :, None] - residual[:, None, :]
    weight = np.exp(first[:, :, None] + second[:, None, :])
    square = (weight * gap**2).sum((1, 2)) / (2 * beta)
    above = over(value, *here, logits) - over(value, *here, best)
    return {
        "at Gibbs": np.abs(over(gradient, *here, best)).max(-1),
        "at 2 beta": np.abs(over(gradient, *here, twice)).max(-1),
        "elsewhere": np.abs(over(gradient, *here, logits)).max(-1),
        "above": above,
        "square error": relative(above, square),
    }


@functools.cache
def properties(settings: Settings) -> Runs:
    """Properties 1 to 3 and the relatives: relative errors, one per instance."""
    ref, reward, beta, logits, law, _ = instances(settings, 11)
    here = (ref, reward, beta, logits)
    exact = objective_gradient(*here)

    def on_policy(name: str, size: int | None) -> np.ndarray:
        def run(ref: Array, reward: Array, beta: Array, logits: Array) -> Array:
            problem = Problem(ref_logp=ref, reward=reward, sampler_logp=log_softmax(logits))
            return population_grad(name, problem, logits, beta=beta, **({} if size is None else {"group_size": size}))

        return over(run, *here)

    copg = {size: on_policy("copg", size) for size in (2, 3)}
    found = {f"property 1, K = {size}": relative(gradient, -2 * exact) for size, gradient in copg.items()}
    found["p3o"] = relative(2 * on_policy("p3o", None), copg[2])
    found["agro on-policy"] = relative(on_policy("agro", 2), -beta[:, None] * exact)

    generator = np.random.default_rng([settings.seed, 12])
    drawn = generator.normal(size=(3, len(ref), 4))

    def sample(name: str, size: int) -> np.ndarray:
        def run(x: Array, reference: Array, r: Array, beta: Array) -> Array:
            return jax.grad(lambda x: methods[name].loss(x, reference, r, beta=beta))(x)

        return over(run, *(x[:, :size] for x in drawn), beta)

    for size in (2, 4):
        found[f"property 2, K = {size}"] = relative(sample("copg", size), 2 * sample("rloo", size))

    def as_ipo(x: Array, reference: Array, beta: Array) -> Array:
        return jax.grad(lambda x: methods["ipo"].loss(x, reference, beta=beta))(x)

    def quarter(x: Array, reference: Array, beta: Array) -> Array:
        return jax.grad(lambda x: methods["copg"].loss(x, reference, jnp.asarray([0.25, -0.25]), beta=beta))(x)

    two = (drawn[0][:, :2], drawn[1][:, :2], beta)
    found["property 3"] = relative(over(quarter, *two), 0.5 * beta[:, None] * over(as_ipo, *two))

    def pointwise(name: str, baseline: str) -> np.ndarray:
        def run(ref: Array, reward: Array, beta: Array, logits: Array, law: Array) -> Array:
            h = log_softmax(logits) - ref
            value = {"profiled": jnp.exp(law) @ (reward - beta * h), "mean": jnp.exp(law) @ reward, "": None}[baseline]
            problem = Problem(ref_logp=ref, reward=reward, sampler_logp=law, value=value)
            return population_grad(name, problem, logits, beta=beta)

        return over(run, *here, law)

    agro = pointwise("agro", "")
    found["agro is copg"] = relative(0.5 * beta[:, None] * pointwise("copg", ""), agro)
    found["agro is dro"] = relative(pointwise("dro", "profiled"), agro)
    here = (ref, reward, beta, ref + reward / beta[:, None])
    found["mean baseline at Gibbs"] = np.abs(pointwise("dro", "mean")).max(-1)
    return found


@functools.cache
def wrong_value(settings: Settings) -> Runs:
    """DRO with V below and a little above V*: gradient at the stated minimiser, its fixed point, distance to Gibbs."""
    ref, reward, beta, _, law, _ = instances(settings, 13)
    best = beta * np.log(np.exp(ref + reward / beta[:, None] - (reward / beta[:, None]).max(-1, keepdims=True)).sum(-1))
    best += reward.max(-1)
    generator = np.random.default_rng([settings.seed, 14])
    value = best - generator.uniform(0.02, 3.0, len(best)) * beta

    def solved(ref: Array, reward: Array, beta: Array, law: Array, value: Array) -> tuple[Array, Array]:
        problem = Problem(ref_logp=ref, reward=reward, sampler_logp=law, value=value)
        found = methods["dro"].optimum(problem, beta=beta)
        return found, population_grad("dro", problem, found, beta=beta)

    logp, gradient = jax.jit(jax.vmap(solved))(*spread([jnp.asarray(x) for x in (ref, reward, beta, law, value)]))
    logp = np.asarray(logp)
    own = (np.exp(law) * (reward - beta[:, None] * (logp - ref))).sum(-1)
    tilt = ref + (reward - np.exp(logp - law) * (own - value)[:, None]) / beta[:, None]
    return {
        "gradient": np.abs(np.asarray(gradient)).max(-1),
        "fixed point": np.abs(softmax(tilt) - np.exp(logp)).max(-1),
        "from Gibbs": np.abs(softmax(ref + reward / beta[:, None]) - np.exp(logp)).max(-1),
    }


@functools.cache
def graphs(settings: Settings) -> Runs:
    """Random supports of two laws on six responses: components of the graph of pairs and the Hessian's nullity."""
    number, size = settings.size(1000, 200), 6
    generator = np.random.default_rng([settings.seed, 15])
    ref, reward = np.log(softmax(generator.normal(size=(number, size)))), generator.normal(size=(number, size))
    beta = np.exp(generator.uniform(np.log(0.3), np.log(2.0), number))
    laws = []
    for _ in range(2):
        keep = generator.uniform(size=(number, size)) < generator.uniform(0.2, 1.0, (number, 1))
        keep[np.arange(number), generator.integers(0, size, number)] = True
        laws.append(np.where(keep, softmax(generator.normal(size=(number, size))), 0.0))
    first, second = (law / law.sum(-1, keepdims=True) for law in laws)
    edges = first[:, :, None] * second[:, None, :] > 0
    components = np.array([connected_components(e | e.T, directed=False)[0] for e in edges])

    def hessian(ref: Array, reward: Array, beta: Array, first: Array, second: Array) -> Array:
        # The slope of the population gradient in the log-ratios, where Gibbs is at (r - V*) / beta.
        def loss(h: Array) -> Array:
            each = lambda i, j: methods["copg"].loss(
                jnp.stack([h[i], h[j]]), jnp.zeros(2), jnp.stack([reward[i], reward[j]]), beta=beta
            )
            table = jax.vmap(jax.vmap(each, (None, 0)), (0, None))(jnp.arange(size), jnp.arange(size))
            return first @ table @ second

        return jax.hessian(loss)(reward / beta)

    eigenvalues = np.linalg.eigvalsh(over(hessian, ref, reward, beta, first, second))
    scale = eigenvalues.max(-1, keepdims=True)
    nullity = (eigenvalues < 1e-10 * np.maximum(scale, 1e-300)).sum(-1)
    nullity = np.where(scale[:, 0] < 1e-14, size, nullity)
    same = ((first > 0) == (second > 0)).all(-1)
    full = (first > 0).all(-1) & (second > 0).all(-1)
    return {"components": components, "nullity": nullity, "same": same, "full": full}


@functools.cache
def ipo_target(settings: Settings) -> Runs:
    """|pi_IPO - Gibbs of E_{y' ~ mu_2} sigma(r(y) - r(y'))|, largest entry: in the bandit, for two laws and for one."""
    ref, reward, beta, _, first, second = instances(settings, 16)

    def gap(ref: Array, reward: Array, beta: Array, first: Array, second: Array) -> Array:
        problem = Problem(ref_logp=ref, reward=reward, sampler_logp=(first, second))
        found = methods["ipo"].optimum(problem, beta=beta)
        stated = log_softmax(ref + jax.nn.sigmoid(reward[:, None] - reward[None, :]) @ jnp.exp(second) / beta)
        return jnp.abs(jnp.exp(found) - jnp.exp(stated)).max()

    return {
        "bandit": np.asarray(gap(*(jnp.asarray(x) for x in (REF, REWARD, BETA, np.log(FIRST), np.log(SECOND))))),
        "two laws": over(gap, ref, reward, beta, first, second),
        "one law": over(gap, ref, reward, beta, second, second),
        "distance": 0.5 * np.abs(np.exp(first) - np.exp(second)).sum(-1),
    }
