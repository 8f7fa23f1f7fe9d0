r"""The point of least norm in the convex hull of M gradients: MGDA's direction, and the measure of Pareto stationarity.

    c* = argmin_{c in simplex} |sum_i c_i g_i|^2 = argmin c^T G c,    G_ij = <g_i, g_j>

Everything is computed from the M x M Gram matrix, which of a model's gradients is a sum over its leaves: the
parameters are read once, in O(M^2 D), and never gathered. At the solution d = sum_i c_i g_i every objective has
<g_i, d> >= |d|^2, with equality where c_i > 0: d is an ascent direction of all of them, or 0.

Sources: Désidéri, 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", C. R. Acad. Sci.
350; Sener and Koltun, 2018, arXiv:1810.04650, Eq. 3-4.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, as_float

State = tuple[Array, Array, Array, Array, Array, Array]
_ITERATIONS = 40
"""At most so many interior-point steps; ten to twenty reach rounding."""


def checked_gradients(gradients: ArrayLike) -> Float[Array, "*batch M D"]:
    """An array `[..., M, D]` of finite numbers with at least one objective."""
    shape = np.shape(gradients)
    if len(shape) < 2:
        raise ValueError(f"gradients must end in the axes [M, D], got shape {shape}")
    if shape[-2] == 0:
        raise ValueError(f"gradients must hold at least one objective on the axis before the last, got shape {shape}")
    checks.not_nan("gradients", gradients, forbid_inf=True)
    return as_float(gradients)


def gram_matrix(gradients: Any) -> Float[Array, "M M"]:
    r"""G_ij = sum over the leaves of <g_i, g_j>: the only thing a combiner reads of a model's gradients.

    `gradients`: a pytree whose leaves all have the objectives on their first axis, `[M, ...]`. No leaf is reshaped
    or concatenated, so that leaves may be sharded. At least float32.
    Raises: ValueError if there is no leaf or no objective, if leaves disagree on M, on NaN and infinities.
    """
    leaves = [as_float(leaf) for leaf in jax.tree.leaves(gradients)]
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        shapes = [leaf.shape for leaf in leaves]
        raise ValueError(f"every leaf of gradients must have the same M objectives on its first axis, got {shapes}")
    if 0 in sizes:
        raise ValueError("gradients must hold at least one objective on the first axis, got none")
    checks.not_nan("gradients", jnp.concatenate([jnp.abs(x).max(initial=0.0)[None] for x in leaves]), forbid_inf=True)
    axes = [tuple(range(1, leaf.ndim)) for leaf in leaves]
    exact = jax.lax.Precision.HIGHEST
    each = (jnp.tensordot(x, x, axes=(over, over), precision=exact) for x, over in zip(leaves, axes, strict=True))
    return functools.reduce(jnp.add, each)


def _relative(gram: Array) -> Array:
    """The Gram matrix over its largest entry; zero stays zero."""
    scale = jnp.max(jnp.diagonal(gram, axis1=-2, axis2=-1), -1)[..., None, None]
    return jnp.where(scale > 0, gram / jnp.where(scale > 0, scale, 1.0), 0.0)


def _gap(gram: Array, weights: Array) -> Array:
    """|d|^2 - min_i <g_i, d> in units of the Gram matrix, `[..., M, M], [..., M] -> [...]`."""
    inner = jnp.einsum("...ij,...j->...i", gram, weights)
    return jnp.sum(weights * inner, -1) - inner.min(-1)


def _two(gram: Array) -> Array:
    r"""c_1 = clip(<g_2 - g_1, g_2> / |g_1 - g_2|^2, 0, 1). Source: Sener and Koltun, 2018, arXiv:1810.04650, Eq. 6."""
    g11, g12, g22 = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    apart = g11 - 2 * g12 + g22
    # Equal gradients: any weights do.
    first = jnp.where(apart > 0, jnp.clip((g22 - g12) / jnp.where(apart > 0, apart, 1.0), 0.0, 1.0), 0.5)
    return jnp.stack([first, 1 - first], -1)


def _solve(matrix: Array, right: Array) -> Array:
    """matrix x = right for a positive definite `[M, M]` and `[M, k]`, by elimination.

    M is small and often mapped over a batch: plain array operations compile and run anywhere, LAPACK calls do not.
    """

    def eliminate(k: int, table: Array) -> Array:
        row = table[k] / table[k, k]
        return (table - table[:, k, None] * row).at[k].set(row)

    size = matrix.shape[-1]
    return jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix, right], 1))[:, size:]


def _interior_point(gram: Array) -> Array:
    r"""min c^T G c / 2 on the simplex by Mehrotra's predictor-corrector: one `[M, M]` factorisation a step.

    Optimality is G c - y 1 - z = 0, sum c = 1, c_i z_i = 0 with c, z >= 0. Collinear and equal gradients make G
    singular, which the barrier's diagonal z / c mends.
    """
    size = gram.shape[-1]
    eps = jnp.finfo(gram.dtype).eps
    tiny = jnp.asarray(eps**2, gram.dtype)
    ones, zeros = jnp.ones(size, gram.dtype), jnp.zeros(size, gram.dtype)

    def newton(c: Array, z: Array, dual: Array, primal: Array, centre: Array) -> tuple[Array, Array, Array]:
        # G dc - dy - dz = -dual, sum dc = -primal, z dc + c dz = centre - c z
        both = _solve(gram + jnp.diag(z / c + 0.01 * eps), jnp.stack([-dual + (centre - c * z) / c, ones], -1))
        dy = (-primal - both[:, 0].sum()) / both[:, 1].sum()
        dc = both[:, 0] + dy * both[:, 1]
        return dc, dy, (centre - c * z - z * dc) / c

    def longest(x: Array, dx: Array) -> Array:
        return jnp.min(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1.0), jnp.inf), initial=1.0)

    def step(state: State) -> State:
        count, c, y, z, best, least = state
        dual, primal, mean = gram @ c - y - z, c.sum() - 1, jnp.mean(c * z)
        dc, dy, dz = newton(c, z, dual, primal, zeros)
        along = jnp.minimum(longest(c, dc), longest(z, dz))
        ahead = jnp.mean((c + along * dc) * (z + along * dz))
        centre = mean * (ahead / jnp.maximum(mean, tiny)) ** 3 - dc * dz
        dc, dy, dz = newton(c, z, dual, primal, centre)
        along = 0.99 * jnp.minimum(longest(c, dc), longest(z, dz))
        good = jnp.isfinite(dc).all() & jnp.isfinite(dz).all() & jnp.isfinite(dy)
        move = lambda x, dx: jnp.where(good, x + along * dx, x)
        c, y, z = jnp.maximum(move(c, dc), tiny), move(y, dy), jnp.maximum(move(z, dz), tiny)
        point = c / c.sum()
        gap = _gap(gram, point)
        return count + 1, c, y, z, jnp.where(gap < least, point, best), jnp.minimum(gap, least)

    start = ones / size
    inner = gram @ start
    y = inner.min() - 1.0
    state = (jnp.zeros((), int), start, y, inner - y, start, _gap(gram, start))
    unsolved = lambda state: (state[0] < _ITERATIONS) & (state[-1] > eps)
    return _polished(gram, jax.lax.while_loop(unsolved, step, state)[-2])


def _polished(gram: Array, weights: Array) -> Array:
    """Exact zeros, and the exact solution on the rest, where that is no worse."""
    size = weights.shape[-1]
    eps = jnp.finfo(gram.dtype).eps
    inner = gram @ weights
    # Complementarity tells who takes part: either the weight or the multiplier is 0.
    support = weights > jnp.maximum(inner - weights @ inner, 1e-2 * jnp.sqrt(eps))
    keep = support.astype(gram.dtype)
    # Proximal steps: where equal gradients leave weights undetermined, those of the interior stay.
    near = 100 * eps**0.75
    matrix = gram * keep[:, None] * keep[None, :] + jnp.diag(1 - keep + near)

    def step(_: int, point: Array) -> Array:
        solved = _solve(matrix, jnp.stack([-keep * (gram @ (keep * point)), keep], -1))
        level = (1 - jnp.sum(keep * (point + solved[:, 0]))) / jnp.sum(keep * solved[:, 1])
        return keep * (point + solved[:, 0] + level * solved[:, 1])

    solved = jnp.maximum(jax.lax.fori_loop(0, 3, step, keep * weights), 0.0)
    total = solved.sum()
    solved = solved / jnp.where(total > 0, total, 1.0)
    good = jnp.isfinite(solved).all() & (total > 0) & (_gap(gram, solved) <= _gap(gram, weights) + 2 * size * eps)
    return jnp.where(good, solved, weights)


def min_norm_of_gram(gram: ArrayLike) -> Float[Array, "*batch M"]:
    r"""The weights c* of least c^T G c on the simplex, `[..., M, M] -> [..., M]`: `min_norm` where only G is at hand.

    Closed form for two objectives, an interior-point method with an exact last solve for more; no gradient flows
    through the weights. G must be positive semi-definite. Where all gradients are 0 the weights are uniform.
    """
    gram = jax.lax.stop_gradient(as_float(gram))
    if gram.ndim < 2 or gram.shape[-1] != gram.shape[-2] or gram.shape[-1] == 0:
        raise ValueError(f"gram must be square on its last two axes with at least one objective, got {gram.shape}")
    checks.not_nan("gram", gram, forbid_inf=True)
    return _min_norm_of_gram(gram)


@jax.jit
def _min_norm_of_gram(gram: Array) -> Array:
    size = gram.shape[-1]
    if size == 1:
        return jnp.ones(gram.shape[:-1], gram.dtype)
    gram = _relative(gram)
    if size == 2:
        found = _two(gram)
    else:
        flat = gram.reshape((-1, size, size))
        found = jax.vmap(_interior_point)(flat).reshape(gram.shape[:-1])
    zero = jnp.max(jnp.abs(gram), (-2, -1)) == 0
    return jnp.where(zero[..., None], 1.0 / size, found)


def _gram(gradients: Array) -> Array:
    """G of `[..., M, D]`, of vectors divided by the largest entry: squares neither overflow nor vanish."""
    if gradients.shape[-1] == 0:
        return jnp.zeros((*gradients.shape[:-1], gradients.shape[-2]), gradients.dtype)
    scale = jnp.abs(gradients).max((-2, -1), keepdims=True)
    unit = gradients / jnp.where(scale > 0, scale, 1.0)
    return jnp.einsum("...id,...jd->...ij", unit, unit, precision=jax.lax.Precision.HIGHEST)


def min_norm(gradients: ArrayLike) -> Float[Array, "*batch M"]:
    r"""The weights c on the simplex for which |sum_i c_i g_i| is least: MGDA. `[..., M, D] -> [..., M]`.

    One objective gives 1, two a closed form, more an interior-point method; `kkt_residual` certifies the answer (about
    1e-15 in float64). All-zero gradients give uniform weights; equal or collinear ones are fine. No gradient flows
    through the weights. Worked number: (1, 0) and (0, 2) give (0.8, 0.2).
    Raises: ValueError on NaN, infinities, an empty objective axis, or fewer than two axes.
    Source: Désidéri, 2012; Sener and Koltun, 2018, arXiv:1810.04650, Eq. 3-6.
    """
    return min_norm_of_gram(_gram(jax.lax.stop_gradient(checked_gradients(gradients))))


def kkt_residual(gradients: ArrayLike, weights: ArrayLike) -> Float[Array, "*batch"]:
    r"""How far weights are from MGDA's optimality, relative to the largest squared norm: 0 exactly at the optimum.

        max( |d|^2 - min_i <g_i, d>,  |sum c - 1|,  -min_i c_i ),    d = sum_i c_i g_i,   g over max_i |g_i|

    The first entry is the duality gap: |d|^2 exceeds the least value by at most twice that. `[..., M, D], [..., M] ->
    [...]`.
    """
    gradients = checked_gradients(gradients)
    weights = as_float(weights)
    checks.same_last_axis({"weights": weights}, size=gradients.shape[-2])
    gap = _gap(_relative(_gram(gradients)), weights)
    return jnp.maximum(gap, jnp.maximum(jnp.abs(weights.sum(-1) - 1), -weights.min(-1)))


def stationarity(gradients: Any) -> Float[Array, ""]:
    r"""min over the simplex of |sum_i c_i g_i|: 0 exactly where the point is Pareto stationary.

    `gradients`: a pytree with the objectives first on every leaf, `[M, ...]`; a table is one leaf. Same unit as a
    gradient's norm. Source: Désidéri, 2012.
    """
    # The norm of the combination, not the root of c^T G c: that would be lost in rounding near 0.
    weights = min_norm_of_gram(gram_matrix(gradients))
    leaves = [as_float(leaf) for leaf in jax.tree.leaves(gradients)]
    combined = [jnp.tensordot(weights.astype(leaf.dtype), leaf, axes=1) for leaf in leaves]
    return jnp.sqrt(functools.reduce(jnp.add, [jnp.sum(jnp.square(leaf)) for leaf in combined]))
