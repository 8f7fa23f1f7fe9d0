"""Exact minimisers of squared losses on pairs, from the losses' own gradients; no closed form, no iteration.

Such a loss is a quadratic function of the policy's logits: it has margins of log-probs, and the normalisation cancels.
"""

from typing import Any

import numpy as np

from alignjax import Problem, population_grad
from alignjax.record import Method
from papers.nash_md_experiments import normalised


def regression_minimiser(method: str | Method, problem: Problem, **hyper: Any) -> tuple[np.ndarray, np.ndarray]:
    """The minimiser of a squared pair loss by its own gradients, log-probs, and the least curvature of the loss.

    The gradient at logits x is g(0) + H x: A + 1 gradients give both, and x = -H^+ g(0). The curvature is the second
    smallest eigenvalue (the smallest is that of a shift of all logits, 0): positive where the minimiser is unique.
    """
    size, batch = problem.num_responses, problem.batch_shape()
    points = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(size + 1, *(1,) * len(batch), size)
    slopes = np.asarray(population_grad(method, problem, np.broadcast_to(points, (size + 1, *batch, size)), **hyper))
    hessian = np.moveaxis(slopes[1:] - slopes[0], 0, -1)
    logits = -(np.linalg.pinv(hessian, rcond=1e-13, hermitian=True) @ slopes[0][..., None])[..., 0]
    return normalised(logits), np.linalg.eigvalsh(hessian)[..., 1]


def divergence(logp: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(p || q) over the last axis."""
    return (np.exp(logp) * (logp - other)).sum(-1)


def wins(preference: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """P(y beats the policy)."""
    return (preference @ np.exp(logp)[..., None])[..., 0]
