r"""Log-space primitives. This is the only file with `where` tricks: select first, then compute.

A `where` after an unsafe operation still sends `0 * inf = NaN` through the gradient; one before it does not.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks

ArrayLike = jax.typing.ArrayLike
Scalar = Array | float
"""A hyperparameter: a Python or NumPy number, a scalar array, or a tracer (so that `vmap` can sweep it)."""


def as_float(x: ArrayLike) -> Array:
    """An array of at least float32: bfloat16, float16 and integers are promoted, float64 is kept."""
    if isinstance(x, int | float):
        return jnp.asarray(float(x))  # weakly typed: a Python number does not widen a float32 array under x64
    x = jnp.asarray(x)
    if x.weak_type and jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x * 1.0 if x.weak_type and x.dtype != bool else x.astype(jnp.result_type(float))
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_policy(logp: ArrayLike) -> Array:
    """Log-probs of at least float32; those given in 16 bits, which normalise to 16 bits only, are normalised again."""
    wide = as_float(logp)
    narrow = jnp.issubdtype(jnp.asarray(logp).dtype, jnp.floating) and jnp.asarray(logp).dtype.itemsize < 4
    return jax.nn.log_softmax(wide, axis=-1) if narrow else wide


def per_batch(x: ArrayLike) -> Array:
    """A scalar stays one; an array over batch axes `[...]` gets the response axis `[..., 1]`."""
    x = as_float(x)
    return x if x.ndim == 0 else x[..., None]


def log_softmax(x: ArrayLike) -> Array:
    """Log of the softmax over the last axis, in at least float32; -inf entries keep zero mass and zero gradient."""
    return jax.nn.log_softmax(as_float(x), axis=-1)


def scaled(weight: Array, x: Array) -> Array:
    """weight * x where 0 * anything is 0 and -inf stays -inf, with finite gradients in both."""
    finite = jnp.isfinite(x)
    product = weight * jnp.where(finite, x, 0.0)
    return jnp.where(finite | (weight == 0), product, jnp.where(weight > 0, x, -x))


def tilt(
    log_bases: ArrayLike | Sequence[ArrayLike],
    weights: ArrayLike,
    score: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
) -> Float[Array, "*batch A"]:
    r"""Normalised geometric mixture of laws, tilted by a score: the closed form behind most of the field.

        log pi(y) = sum_j w_j log b_j(y) + scale * score(y) - log Z

    Gibbs policies, best responses, every mirror-descent update of a game, decoding tilts and merging are this line.

    Args:
      log_bases: `[J, ..., A]` log-probabilities or logits, or a sequence of J arrays `[..., A]`. -inf is zero mass.
      weights: `[J]`, or `[J, ...]` with one weight per batch entry. They need not sum to 1. A base of weight 0 is
        ignored, whatever it holds.
      score: `[..., A]`, nats once multiplied by `scale`. -inf forbids a response.
      scale: scalar, or `[...]` over the batch.

    Returns: `[..., A]` log-probabilities.
    Raises: ValueError on mismatched axes; on NaN (in a base of non-zero weight), on +inf, and where no response keeps
      any mass, if the arguments are concrete.
    """
    if isinstance(log_bases, list | tuple):
        bases = jnp.stack(jnp.broadcast_arrays(*(as_float(base) for base in log_bases)))
    else:
        bases = as_float(jnp.asarray(log_bases))
    weights, score, scale = as_float(weights).astype(bases.dtype), as_float(score), per_batch(scale)
    if bases.ndim < 2:
        raise ValueError(f"log_bases must have the bases first and the responses last, got shape {bases.shape}")
    if weights.ndim == 0 or weights.shape[0] != bases.shape[0]:
        raise ValueError(f"weights must have one entry per base ({bases.shape[0]}), got shape {weights.shape}")
    if score.ndim > 0:
        checks.same_last_axis({"log_bases": bases, "score": score})
    # Batch axes of the weights are the last ones of the bases: lift them to the same rank, responses after them.
    rank = max(bases.ndim, weights.ndim + 1)
    columns = weights.reshape((weights.shape[0], *(1,) * (rank - weights.ndim - 1), *weights.shape[1:], 1))
    bases = bases.reshape((bases.shape[0], *(1,) * (rank - bases.ndim), *bases.shape[1:]))
    checks.broadcastable({"log_bases": bases.shape[1:-1], "weights": columns.shape[1:-1], "score": score.shape[:-1]})
    if checks.is_concrete(bases, weights, score, scale):
        checks.not_nan("weights", weights, forbid_inf=True)
        checks.not_nan("log_bases", jnp.where(columns == 0, 0.0, bases))
        checks.not_nan("score", score)
        checks.not_nan("scale", scale, forbid_inf=True)
    logp = _tilt(bases, columns, score, scale)
    if checks.is_concrete(logp) and bool(jnp.isnan(logp).any()):
        raise ValueError("log_bases, weights and score leave no response with finite positive mass in some row")
    return logp


@jax.jit
def _tilt(bases: Array, columns: Array, score: Array, scale: Array) -> Array:
    return log_softmax(scaled(columns, bases).sum(0) + scaled(scale, score))


def geometric_mixture(logp: Array, ref_logp: Array, mixture: ArrayLike) -> Float[Array, "*batch A"]:
    r"""log pi^{1-m} mu^{m} + const: the policy at mixture m = 0, the reference at m = 1.

    Source: Munos et al., 2023, arXiv:2312.00886, Eq. 4 (pi^mu_t with m = eta_t tau) and Section 7 (pi^beta).
    """
    mixture = as_float(mixture)
    return tilt((logp, ref_logp), jnp.stack([1 - mixture, mixture]))


def masked_sum(x: ArrayLike, mask: ArrayLike | None, axis: int | tuple[int, ...] = -1) -> Array:
    """Sum over the entries where `mask` is not 0; the others may hold anything, NaN included."""
    x = as_float(x)
    return x.sum(axis) if mask is None else jnp.where(jnp.asarray(mask) != 0, x, 0.0).sum(axis)


def masked_mean(x: ArrayLike, mask: ArrayLike | None, axis: int | tuple[int, ...] = -1) -> Array:
    """Mean over the entries where `mask` is not 0; 0 where there are none."""
    x = as_float(x)
    if mask is None:
        return x.mean(axis)
    count = jnp.sum(jnp.asarray(mask) != 0, axis).astype(x.dtype)
    return masked_sum(x, mask, axis) / jnp.maximum(count, 1.0)


def log_ratio(logp: ArrayLike, ref_logp: ArrayLike) -> Array:
    r"""h = log pi - log pi_ref, nats. A response with zero mass under both gets 0 (and zero gradient)."""
    logp, ref_logp = as_float(logp), as_float(ref_logp)
    both_zero = jnp.isneginf(logp) & jnp.isneginf(ref_logp)
    return jnp.where(both_zero, 0.0, logp) - jnp.where(both_zero, 0.0, ref_logp)
