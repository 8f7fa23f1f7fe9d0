r"""Exact divergences between laws on a finite response set, arguments in mathematical order: `kl(p, q)` = KL(p || q).

All take normalised log-probabilities `[..., A]`, return nats `[...]` (total variation: a probability) and follow 0
log 0 = 0; they are +inf where the mathematics says so. A policy that does not normalise, NaN, and mismatched last
axes are ValueErrors that name the argument.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, Scalar, as_float

LogPolicy = Float[Array, "*batch A"]
Nats = Float[Array, "*batch"]


def _laws(logp: ArrayLike, logq: ArrayLike) -> tuple[Array, Array]:
    checks.same_last_axis({"logp": logp, "logq": logq})
    checks.log_policy("logp", logp)
    checks.log_policy("logq", logq)
    checks.broadcastable({"logp": np.shape(logp)[:-1], "logq": np.shape(logq)[:-1]})
    logp, logq = as_float(logp), as_float(logq)
    dtype = jnp.promote_types(logp.dtype, logq.dtype)
    logp, logq = jnp.broadcast_arrays(logp.astype(dtype), logq.astype(dtype))
    return logp, logq


@jax.jit
def exact_kl(logp: Array, logq: Array) -> Array:
    """`kl` of arrays that were checked already (a law promoted from 16 bits no longer normalises to 32)."""
    p_zero, q_zero = jnp.isneginf(logp), jnp.isneginf(logq)
    safe_p, safe_q = jnp.where(p_zero, 0.0, logp), jnp.where(q_zero, 0.0, logq)
    p, q = jnp.where(p_zero, 0.0, jnp.exp(safe_p)), jnp.where(q_zero, 0.0, jnp.exp(safe_q))
    d = jnp.where(p_zero | q_zero, 0.0, safe_p - safe_q)
    near = jnp.abs(d) < 1.0
    small = jnp.where(near, d, 0.0)
    terms = jnp.where(near & ~p_zero, p * (jnp.expm1(-small) + small), q - p + p * d)
    terms = jnp.where(q_zero & ~p_zero, jnp.inf, terms)
    return terms.sum(-1)


def kl(logp: ArrayLike, logq: ArrayLike) -> Nats:
    r"""Kullback-Leibler divergence KL(p || q) = sum_y p (log p - log q), nats.

    Computed as sum_y p (e^{-d} - 1 + d) with d = log p - log q: the same number for normalised laws, but every term
    is non-negative and exact to second order, so that it resolves 1e-30 next to an equilibrium instead of 1e-16.

    Shapes: `[..., A]`, `[..., A]` -> `[...]`. Source: Kullback and Leibler, 1951.
    """
    return exact_kl(*_laws(logp, logq))


def reverse_kl(logp: ArrayLike, logq: ArrayLike) -> Nats:
    r"""KL(q || p): `kl` with its arguments exchanged."""
    return kl(logq, logp)


def jeffreys(logp: ArrayLike, logq: ArrayLike, weight: Scalar = 0.5) -> Nats:
    r"""weight KL(p || q) + (1 - weight) KL(q || p), nats.

    With p the policy and q the best-of-N law this is BOND's objective, whose own weight beta is ours on the backward
    KL(policy || best-of-N). `weight` in [0, 1]; an end of weight 0 is left out, also where it is infinite.
    Source: Sessa et al., 2024, arXiv:2407.14622, Eq. 11.
    """
    checks.between("weight", weight, 0.0, 1.0)
    laws = _laws(logp, logq)
    weight = as_float(weight)
    forward, backward = exact_kl(*laws), exact_kl(*laws[::-1])
    return jnp.where(weight > 0, weight * forward, 0.0) + jnp.where(weight < 1, (1 - weight) * backward, 0.0)


def jensen_shannon(logp: ArrayLike, logq: ArrayLike) -> Nats:
    r"""KL(p || m)/2 + KL(q || m)/2 with m = (p + q)/2, in [0, log 2] nats. Source: Lin, 1991, Eq. 3.4."""
    logp, logq = _laws(logp, logq)
    none = jnp.isneginf(logp) & jnp.isneginf(logq)
    middle = jnp.logaddexp(jnp.where(none, 0.0, logp), jnp.where(none, 0.0, logq)) - jnp.log(2.0)
    middle = jnp.where(none, -jnp.inf, middle)
    return 0.5 * (exact_kl(logp, middle) + exact_kl(logq, middle))


def chi_square(logp: ArrayLike, logq: ArrayLike) -> Nats:
    r"""Pearson's chi^2(p || q) = sum_y (p - q)^2 / q; the f-divergence of f(u) = (u - 1)^2."""
    logp, logq = _laws(logp, logq)
    dead, q_zero, d, p, q = _parts(logp, logq)
    near = jnp.abs(d) < 1.0
    close = q * jnp.square(jnp.expm1(jnp.where(near, d, 0.0)))
    far = jnp.exp(jnp.where(dead, 0.0, 2 * jnp.where(dead, 0.0, logp) - jnp.where(dead, 0.0, logq))) - 2 * p + q
    terms = jnp.where(dead, q, jnp.where(near, close, far))
    return jnp.where(q_zero & (p > 0), jnp.inf, terms).sum(-1)


def _parts(logp: Array, logq: Array) -> tuple[Array, Array, Array, Array, Array]:
    """(one of the two has no mass, q has none, log p - log q or 0, p, q)."""
    p_zero, q_zero = jnp.isneginf(logp), jnp.isneginf(logq)
    dead = p_zero | q_zero
    p = jnp.where(p_zero, 0.0, jnp.exp(jnp.where(p_zero, 0.0, logp)))
    q = jnp.where(q_zero, 0.0, jnp.exp(jnp.where(q_zero, 0.0, logq)))
    return dead, q_zero, jnp.where(dead, 0.0, logp) - jnp.where(dead, 0.0, logq), p, q


def total_variation(logp: ArrayLike, logq: ArrayLike) -> Float[Array, "*batch"]:
    r"""sum_y |p - q| / 2, in [0, 1]."""
    logp, logq = _laws(logp, logq)
    return 0.5 * jnp.abs(jnp.exp(logp) - jnp.exp(logq)).sum(-1)


def renyi(logp: ArrayLike, logq: ArrayLike, alpha: Scalar) -> Nats:
    r"""Renyi's D_alpha(p || q) = log(sum_y p^alpha q^{1 - alpha}) / (alpha - 1), nats; KL(p || q) at alpha = 1.

    `alpha` > 0. Source: Renyi, 1961; van Erven and Harremoes, 2012, arXiv:1206.2459, Eq. 9.
    """
    checks.positive("alpha", alpha)
    logp, logq = _laws(logp, logq)
    alpha = as_float(alpha)
    near_one = jnp.abs(alpha - 1.0) < 1e-6
    order = jnp.where(near_one, 2.0, alpha)
    p_zero, q_zero = jnp.isneginf(logp), jnp.isneginf(logq)
    dead = p_zero | q_zero
    exponent = order * jnp.where(dead, 0.0, logp) + (1 - order) * jnp.where(dead, 0.0, logq)
    exponent = jnp.where(dead, jnp.where(q_zero & ~p_zero & (order > 1), jnp.inf, -jnp.inf), exponent)
    peak = exponent.max(-1, keepdims=True)
    shift = jnp.where(jnp.isfinite(peak), peak, 0.0)
    total = jnp.log(jnp.exp(exponent - shift).sum(-1)) + shift[..., 0]
    return jnp.where(near_one, exact_kl(logp, logq), total / (order - 1))


def alpha_divergence(logp: ArrayLike, logq: ArrayLike, alpha: Scalar) -> Nats:
    r"""f-DPO's alpha divergence: E_q f(p / q), f(u) = (u^{1-a} - (1-a) u - a) / (a (a - 1)), for alpha a in (0, 1).

    KL(p || q) as a -> 0, KL(q || p) as a -> 1. Source: Wang et al., 2023, arXiv:2309.16240, Table 1.
    """
    if checks.is_concrete(alpha) and not 0.0 < float(alpha) < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), got {float(alpha):g}")
    logp, logq = _laws(logp, logq)
    a = as_float(alpha)
    dead, _, d, p, q = _parts(logp, logq)
    near = jnp.abs(d) < 1.0
    small = jnp.where(near, d, 0.0)
    close = q * (jnp.expm1((1 - a) * small) - (1 - a) * jnp.expm1(small))
    mixed = jnp.exp((1 - a) * jnp.where(dead, 0.0, logp) + a * jnp.where(dead, 0.0, logq))
    far = jnp.where(dead, 0.0, mixed) - (1 - a) * p - a * q
    return jnp.where(near & ~dead, close, far).sum(-1) / (a * (a - 1))


def f_divergence(
    logp: ArrayLike, logq: ArrayLike, f: Callable[[Array], Array], *, slope_at_infinity: Scalar = jnp.inf
) -> Nats:
    r"""D_f(p || q) = sum_y q f(p / q) for a convex f with f(1) = 0; `f` is applied elementwise to u = p / q.

    `slope_at_infinity` = lim f(u)/u prices mass where q has none (q f(p/q) -> p * slope). `f` must be finite at 0.
    Source: Csiszar, 1967; Ali and Silvey, 1966.
    """
    logp, logq = _laws(logp, logq)
    p_zero, q_zero = jnp.isneginf(logp), jnp.isneginf(logq)
    q_zero = q_zero | (jnp.exp(jnp.where(q_zero, 0.0, logq)) == 0)  # underflow is no mass: 0 * f(inf) would be NaN
    q = jnp.where(q_zero, 0.0, jnp.exp(jnp.where(q_zero, 0.0, logq)))
    u = jnp.exp(jnp.where(p_zero | q_zero, 0.0, logp) - jnp.where(p_zero | q_zero, 0.0, logq))
    inside = q * f(jnp.where(p_zero, 0.0, u))
    off_support = jnp.where(p_zero, 0.0, jnp.exp(jnp.where(p_zero, 0.0, logp)))
    # An infinite price is chosen, not multiplied: 0 * inf would reach the gradient of laws that never pay it.
    slope = jnp.asarray(slope_at_infinity, off_support.dtype)
    finite = off_support * jnp.where(jnp.isinf(slope), 0.0, slope)
    off_support = jnp.where(off_support > 0, jnp.where(jnp.isinf(slope), slope, finite), 0.0)
    return jnp.where(q_zero, off_support, inside).sum(-1)
