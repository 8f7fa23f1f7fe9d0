r"""Gradients of M objectives become one direction: the same call for a table, a bandit and a model's pytree.

    combiner(gradients, ...) -> Combined(direction, weights),    direction = sum_i weights_i g_i

`gradients` is a pytree whose leaves have the objectives on their first axis, `[M, ...]`; `direction` is the same tree
without it. Objectives are maximised: the direction is to be followed uphill (with gradients of losses, descended).
Every combiner decides on the M x M Gram matrix alone, an inner product over the whole model; the weights carry no
gradient. `jax.vmap` maps over batches. What PAMA weighs by its advantages goes through `linear`:
`linear(gradients, pama_gram(advantages).weights)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, Scalar, as_float
from alignjax.multiobjective.minimum_norm import gram_matrix, min_norm_of_gram

sg = jax.lax.stop_gradient


class Combined(NamedTuple):
    """What a combiner returns."""

    direction: Any
    """sum_i weights_i g_i, the tree of the gradients without the objective axis."""
    weights: Float[Array, "M"]
    """On the simplex for `linear` and `mgda`; any numbers for the others."""


def _combine(gradients: Any, weights: Array) -> Combined:
    weights = sg(weights)
    return Combined(
        jax.tree.map(
            lambda leaf: jnp.tensordot(weights.astype(as_float(leaf).dtype), as_float(leaf), axes=1), gradients
        ),
        weights,
    )


def _simplex(name: str, weights: ArrayLike | None, size: int) -> Array:
    """Uniform if None; else M numbers >= 0 that add up to 1."""
    if weights is None:
        return jnp.full(size, 1.0 / size)
    weights = as_float(weights)
    if weights.shape != (size,):
        raise ValueError(f"{name} must have one entry per objective, [{size}], got shape {weights.shape}")
    checks.between(name, weights, 0.0, float("inf"), open_high=True)
    if checks.is_concrete(weights) and abs(float(np.asarray(weights, np.float64).sum()) - 1) > 1e-5:
        raise ValueError(f"{name} must add up to 1, got {float(np.asarray(weights, np.float64).sum()):g}")
    return weights


def linear(gradients: Any, weights: ArrayLike | None = None) -> Combined:
    r"""Linear scalarisation (MORLHF): sum_i w_i g_i with fixed weights on the simplex, uniform by default."""
    size = gram_matrix(gradients).shape[0]
    return _combine(gradients, _simplex("weights", weights, size))


def mgda(gradients: Any) -> Combined:
    r"""MGDA: the shortest vector in the convex hull of the gradients; it ascends every objective, or is 0.

    Source: Désidéri, 2012; Sener and Koltun, 2018, arXiv:1810.04650, Eq. 3.
    """
    return _combine(gradients, min_norm_of_gram(gram_matrix(gradients)))


def chebyshev(gradients: Any, values: ArrayLike, ideal: ArrayLike, weights: ArrayLike | None = None) -> Combined:
    r"""Weighted Chebyshev: the gradient of -max_i w_i (ideal_i - J_i), which is that of the worst objective, times w_i.

    `values` J `[M]`, `ideal` `[M]` a point no objective exceeds, `weights` on the simplex (uniform by default). Where
    several are the worst, their mean: a subgradient. Source: Miettinen, 1999, "Nonlinear Multiobjective Optimization",
    Sec. 3.4.
    """
    size = gram_matrix(gradients).shape[0]
    values, ideal = as_float(values), as_float(ideal)
    for name, given in (("values", values), ("ideal", ideal)):
        if given.shape != (size,):
            raise ValueError(f"{name} must have one entry per objective, [{size}], got shape {given.shape}")
        checks.not_nan(name, given, forbid_inf=True)
    weights = _simplex("weights", weights, size)
    regret = weights * (ideal - values)
    worst = (regret == regret.max()).astype(weights.dtype)
    return _combine(gradients, weights * worst / worst.sum())


def pcgrad(gradients: Any, key: Array | None = None) -> Combined:
    r"""PCGrad: each gradient loses its component against every other one it conflicts with; the sum of what is left.

        g_i <- g_i - <g_i, g_j> / |g_j|^2 g_j    for every j in turn with <g_i, g_j> < 0

    The others are met in random order with a `key`, in the order of the objectives without one (for M = 2 there is one
    order). Source: Yu et al., 2020, arXiv:2001.06782, Algorithm 1.
    """
    gram = sg(gram_matrix(gradients))
    size = gram.shape[0]
    given = jnp.tile(jnp.arange(size), (size, 1))
    orders = given if key is None else jax.random.permutation(key, given, axis=1, independent=True)
    square = jnp.diagonal(gram)

    def project(own: Array, order: Array) -> Array:
        def meet(row: Array, j: Array) -> tuple[Array, None]:
            against = jnp.where(j == own, 0.0, jnp.minimum(row @ gram[:, j], 0.0))
            share = against / jnp.where(square[j] > 0, square[j], 1.0)
            return row - share * (jnp.arange(size) == j), None

        return jax.lax.scan(meet, (jnp.arange(size) == own).astype(gram.dtype), order)[0]

    return _combine(gradients, jax.vmap(project)(jnp.arange(size), orders).sum(0))


def cagrad(gradients: Any, c: Scalar = 0.5) -> Combined:
    r"""CAGrad: the direction near the mean gradient g_0 that helps the worst objective most.

        max_d min_i <g_i, d>   with   |d - g_0| <= c |g_0|
        d = g_0 + c |g_0| g_w / |g_w|,    w = argmin_{simplex} <g_w, g_0> + c |g_0| |g_w|

    `c` in [0, 1): 0 is the mean gradient, near 1 MGDA's direction. The dual is solved exactly: |g_w| s is the least of
    |g_w|^2 / (2 m) + m s^2 / 2 over m > 0, for fixed m a minimum-norm problem of shifted gradients, and m by bisection.
    Source: Liu et al., 2021, arXiv:2110.14048, Eq. 3-4 and Algorithm 1.
    """
    checks.between("c", c, 0.0, 1.0, open_high=True)
    full = sg(gram_matrix(gradients))
    size = full.shape[0]
    scale = jnp.max(jnp.diagonal(full))
    gram = jnp.where(scale > 0, full / jnp.where(scale > 0, scale, 1.0), 0.0)
    mean = jnp.full(size, 1.0 / size, gram.dtype)
    with_mean = gram @ mean
    square = jnp.maximum(mean @ with_mean, 0.0)
    radius = as_float(c) * jnp.sqrt(square)

    def inner(m: Array) -> Array:
        # |g_w|^2 / (2 m) + <g_w, g_0> is |g_w + m g_0|^2 / (2 m) less a constant.
        return min_norm_of_gram(gram + m * (with_mean[:, None] + with_mean[None, :]) + m**2 * square)

    def norm(weights: Array) -> Array:
        return jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0.0))

    def halve(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = 0.5 * (low + high)
        short = norm(inner(middle)) > radius * middle
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    safe = jnp.where(radius > 0, radius, 1.0)
    low, high = jax.lax.fori_loop(0, 50, halve, (jnp.zeros_like(safe), 1.0 / safe))
    weights = inner(0.5 * (low + high))
    length = norm(weights)
    share = jnp.where((radius > 0) & (length > 0), radius / jnp.where(length > 0, length, 1.0), 0.0)
    return _combine(gradients, mean + share * weights)
