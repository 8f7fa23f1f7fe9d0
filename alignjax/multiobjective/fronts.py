r"""Pareto fronts of KL-regularised problems, exactly, and measures of points: dominance, hypervolume, the gap.

The objectives are J_i(pi) = E_pi[r_i] - beta KL(pi || ref), all with the same penalty, maximised. Each is concave in
pi, so that linear scalarisation reaches every Pareto optimal point: pi_w proportional to ref exp(sum_i w_i r_i / beta).
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from alignjax import checks
from alignjax.divergences import kl
from alignjax.kl_regularised import gibbs, log_partition
from alignjax.logspace import ArrayLike, Scalar, as_float
from alignjax.problem import Problem
from alignjax.pytree import register


@register
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Front:
    """Points of a Pareto front, the policies that attain them, and the weights that found them; a pytree."""

    points: Float[Array, "*batch num M"]
    """E[r_i] - beta KL(pi || ref)."""
    logp: Float[Array, "*batch num A"]
    weights: Float[Array, "num M"]


def simplex_weights(num: int, num_objectives: int) -> Float[np.ndarray, "num M"]:
    r"""`num` weights on the simplex, the same ones every time: an even grid for two objectives.

    For more: the vertices, the centre, then a Kronecker sequence of low discrepancy mapped to the simplex by the gaps
    of its sorted coordinates (uniform in the limit). `num` = 1 is the centre.
    """
    num = checks.whole("num", num)
    m = checks.whole("num_objectives", num_objectives)
    if num == 1 or m == 1:
        return np.full((num, m), 1.0 / m)
    if m == 2:
        first = np.linspace(1.0, 0.0, num)
        return np.stack([first, 1.0 - first], -1)
    fixed = np.concatenate([np.eye(m), np.full((1, m), 1.0 / m)])[:num]
    # Powers of the root of x^m = x + 1, the generalised golden ratio of dimension m - 1.
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / m)
    cube = np.mod(0.5 + np.arange(1, num - len(fixed) + 1)[:, None] * root ** -np.arange(1.0, m), 1.0)
    ends = np.pad(np.sort(cube, -1), ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, 1.0)))
    return np.concatenate([fixed, np.diff(ends, axis=-1)])


def _rewards(problem: Problem, needed_by: str) -> Array:
    if problem.rewards is None:
        raise ValueError(f"{needed_by} needs `rewards` [..., A, M], which this problem lacks")
    return problem.rewards


def pareto_front(problem: Problem, beta: ArrayLike, num: int) -> Front:
    r"""`num` points of the exact Pareto front: log pi_w = log ref + sum_i w_i r_i / beta - log Z_w.

    `problem` with `rewards` `[..., A, M]`; `beta` > 0, a scalar or `[...]`. Weights as in `simplex_weights`.
    Raises: ValueError without `rewards`, if `beta` <= 0 or `num` < 1.
    Worked number: uniform reference over two, rewards (1, 0) and (0, 1), beta = 1: equal weights give the reference and
    the point (0.5, 0.5).
    """
    rewards = _rewards(problem, "pareto_front")
    checks.positive("beta", beta)
    weights = jnp.asarray(simplex_weights(num, rewards.shape[-1]), rewards.dtype)
    beta = as_float(beta)
    beta = beta if beta.ndim == 0 else beta[..., None]
    ref_logp = problem.ref_logp[..., None, :]
    logp = gibbs(ref_logp, jnp.einsum("...am,nm->...na", rewards, weights), beta)
    return Front(points=objectives(logp, ref_logp, rewards[..., None, :, :], beta), logp=logp, weights=weights)


def objectives(logp: ArrayLike, ref_logp: ArrayLike, rewards: ArrayLike, beta: ArrayLike) -> Float[Array, "*batch M"]:
    r"""J_i = E_pi[r_i] - beta KL(pi || ref) of every objective: `[..., A], [..., A], [..., A, M] -> [..., M]`."""
    expected = jnp.einsum("...a,...am->...m", jnp.exp(as_float(logp)), as_float(rewards))
    return expected - (as_float(beta) * kl(logp, ref_logp))[..., None]


def front_gap(problem: Problem, logp: ArrayLike, beta: Scalar, *, num_steps: int = 2_000) -> Float[Array, "*batch"]:
    r"""How far a policy is from the front: min over the simplex of max_pi w . J(pi) - w . J(policy); 0 on the front.

        gap = min_w  beta log Z_w - sum_i w_i J_i = min_w beta KL(policy || pi_w)

    Convex in w. For M = 2 by bisection of its derivative E_w[r_1 - r_2] - E[r_1 - r_2], to rounding; for more by
    `num_steps` of exponentiated gradient, of which the least value is returned: an upper bound. `[..., A] -> [...]`.
    """
    rewards = _rewards(problem, "front_gap")
    checks.positive("beta", beta)
    logp = as_float(logp)
    checks.same_last_axis({"logp": logp}, size=problem.num_responses)
    reached = objectives(logp, problem.ref_logp, rewards, beta)
    size = rewards.shape[-1]

    def gap(weights: Array) -> Array:
        scalar = jnp.einsum("...am,...m->...a", rewards, weights)
        best = as_float(beta) * log_partition(problem.ref_logp, scalar, beta)
        return best - (weights * reached).sum(-1)

    slope = jax.grad(lambda w: gap(w).sum())
    if size == 1:
        return gap(jnp.ones_like(reached))
    if size == 2:
        both = lambda first: jnp.stack([first, 1 - first], -1)

        def halve(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = interval
            middle = 0.5 * (low + high)
            by = slope(both(middle))
            rising = by[..., 0] > by[..., 1]
            return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

        low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(reached[..., 0]), jnp.ones_like(reached[..., 0])))
        return gap(both(0.5 * (low + high)))

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        logits, least = state
        weights = jax.nn.softmax(logits, -1)
        return (logits - rate * slope(weights), jnp.minimum(least, gap(weights))), None

    # The gap's curvature is a covariance of rewards over beta, at most range^2 / (4 beta).
    rate = 4 * as_float(beta) / jnp.maximum(jnp.ptp(rewards, axis=-2).max(), 1e-30) ** 2
    start = jnp.zeros_like(reached)
    (_, least), _ = jax.lax.scan(step, (start, jnp.full_like(reached[..., 0], jnp.inf)), None, num_steps)
    return least


def dominates(point: ArrayLike, other: ArrayLike) -> Bool[Array, "*batch"]:
    r"""`point` is at least as good in every objective, and better in one. `[..., M], [..., M] -> [...]`."""
    checks.same_last_axis({"point": point, "other": other})
    checks.not_nan("point", point)
    checks.not_nan("other", other)
    point, other = as_float(point), as_float(other)
    return (point >= other).all(-1) & (point > other).any(-1)


def nondominated(points: ArrayLike) -> Bool[Array, "*batch num"]:
    r"""Which of `num` points no other one dominates, `[..., num, M] -> [..., num]`; equal points are all kept."""
    if np.ndim(points) < 2 or np.shape(points)[-1] == 0:
        raise ValueError(f"points must end in the axes [num, M] with M >= 1, got shape {np.shape(points)}")
    points = as_float(points)
    return ~dominates(points[..., None, :, :], points[..., :, None, :]).any(-1)


def hypervolume(points: ArrayLike, reference_point: ArrayLike) -> float:
    r"""The volume dominated by `points` `[num, M]` above `reference_point` `[M]`, exactly (maximisation), for any M.

    Points that do not exceed the reference in every objective add nothing; no point at all has volume 0. Computed by
    exclusive volumes (WFG): fast for M = 2, a second for hundreds of points at M = 4. On the host, in float64.
    Worked number: (1, 2) and (2, 1) above (0, 0) have 3.
    Raises: ValueError on NaN, infinities and axes that do not match.
    Source: While, Bradstreet and Barone, 2012, "A fast way of calculating exact hypervolumes", Algorithm 1.
    """
    reference = np.asarray(reference_point, np.float64)
    table = np.asarray(points, np.float64)
    if reference.ndim != 1 or reference.size == 0:
        raise ValueError(f"reference_point must be [M] with M >= 1, got shape {reference.shape}")
    if table.ndim != 2 or table.shape[1] != reference.size:
        raise ValueError(f"points must be [num, {reference.size}] as reference_point has it, got shape {table.shape}")
    checks.not_nan("points", table, forbid_inf=True)
    checks.not_nan("reference_point", reference, forbid_inf=True)
    above = table - reference
    return _volume(above[(above > 0).all(-1)])


def _maximal(points: np.ndarray) -> np.ndarray:
    """The points nothing dominates, one of each, in descending order of the first objective."""
    points = np.unique(points, axis=0)[::-1]
    better = (points[:, None] >= points[None]).all(-1) & ~np.eye(len(points), dtype=bool)
    return points[~better.any(0)]


def _volume(points: np.ndarray) -> float:
    """Of points above the origin."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    points = _maximal(points)
    if points.shape[1] == 2:
        # By descending first objective the second one rises.
        return float((points[:, 0] * np.diff(points[:, 1], prepend=0.0)).sum())
    total = 0.0
    for point, later in zip(points, (points[i + 1 :] for i in itertools.count()), strict=False):
        total += float(point.prod()) - _volume(np.minimum(later, point))
    return total
