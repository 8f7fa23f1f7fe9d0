"""The limits that are known by name, and how far a policy is from each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax.f_regularised import regularised_optimum
from theory.auditing.population import Instances


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    return float(0.5 * np.abs(np.exp(a) - np.exp(b)).sum(-1).max())


def normalise(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _slope(weight: np.ndarray, score: np.ndarray, log_ratio: np.ndarray) -> float:
    """The one c with log_ratio = c score + a constant of the instance, least squares under the reached policy."""
    centre = lambda x: x - (weight * x).sum(-1, keepdims=True)
    s, h = centre(score), centre(log_ratio)
    power = (weight * s * s).sum()
    return float((weight * s * h).sum() / power) if power > 1e-14 else 0.0


def best_of(ref_logp: np.ndarray, reward: np.ndarray, n: float) -> np.ndarray:
    """Log-probs of the best of n draws from the reference (rewards without ties)."""
    p = np.exp(ref_logp)
    below = (p[:, None, :] * (reward[:, None, :] < reward[:, :, None])).sum(-1)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum((below + p) ** n - below**n, 1e-300))


@jax.jit
def _forward_optima(ref_logp: Array, reward: Array, betas: Array) -> Array:
    return jax.vmap(lambda beta: regularised_optimum(ref_logp, reward, beta, "forward_kl"))(betas)


def _search(
    family: Callable[[np.ndarray], np.ndarray], found: np.ndarray, low: float, high: float
) -> tuple[float, float]:
    """The member of a one-parameter family (on a log scale) nearest to what was found: (distance, parameter)."""
    grid = np.exp(np.linspace(np.log(low), np.log(high), 240))
    for _ in range(4):
        errors = 0.5 * np.abs(np.exp(family(grid)) - np.exp(found)).sum(-1).max(-1)
        i = int(np.argmin(errors))
        best = float(errors[i]), float(grid[i])
        grid = np.exp(np.linspace(np.log(grid[max(i - 1, 0)]), np.log(grid[min(i + 1, len(grid) - 1)]), 240))
    return best


def distances(found: np.ndarray, case: Instances, preference: np.ndarray) -> dict[str, tuple[float, float | None]]:
    """Name of a known target -> (largest total variation, the fitted temperature or number), one for all instances."""
    weight, log_ratio = np.exp(found), found - case.ref_logp
    ref = np.exp(case.ref_logp)
    table: dict[str, tuple[float, float | None]] = {"reference": (total_variation(found, case.ref_logp), None)}
    scores = {
        "gibbs": case.reward,
        "ipo": np.einsum("nij,nj->ni", preference, ref),
        "nash": np.einsum("nij,nj->ni", preference, weight),
    }
    for name, score in scores.items():
        c = _slope(weight, score, log_ratio)
        if c > 0:
            table[name] = (total_variation(found, normalise(case.ref_logp + c * score)), 1 / c)
    table["forward_kl"] = _search(
        lambda betas: np.asarray(_forward_optima(case.ref_logp, case.reward, jnp.asarray(betas))), found, 1e-3, 1e3
    )
    table["best_of_n"] = _search(
        lambda ns: np.stack([normalise(best_of(case.ref_logp, case.reward, n)) for n in ns]), found, 1.0, 256.0
    )
    # What likelihood training on chosen responses reaches: the law of the chosen one.
    table["conditional_law"] = (total_variation(found, normalise(case.ref_logp + np.log(scores["ipo"]))), None)
    return table
