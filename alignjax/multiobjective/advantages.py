r"""PAMA: advantages of M objectives become one, by closed forms (He and Maghsudi, 2025, arXiv:2508.07768).

Objectives are the last axis. The paper bounds the norm of the combined gradient by that of the combined advantage and
minimises the latter, a number: the projection of 0 on an interval. What that does and does not do is on the page
`python -m papers pama`. The paper's notes leave open whether the number is one per token or one per batch: both are
here, and the Gram matrix of the bound that does hold.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, as_float, masked_mean
from alignjax.multiobjective.minimum_norm import min_norm_of_gram

sg = jax.lax.stop_gradient


def _checked(advantages: ArrayLike, axes: int) -> Float[Array, "*batch M"]:
    shape = np.shape(advantages)
    if len(shape) < axes:
        raise ValueError(f"advantages must end in the axes {'[K, M]' if axes == 2 else '[M]'}, got shape {shape}")
    if shape[-1] == 0:
        raise ValueError(f"advantages must hold at least one objective on the last axis, got shape {shape}")
    checks.not_nan("advantages", advantages, forbid_inf=True)
    return as_float(advantages)


def noon(advantages: ArrayLike) -> Array:
    r"""Noon, "no negative": max(A, 0), elementwise. Source: He and Maghsudi, 2025, arXiv:2508.07768, Noon PPO.

    Raises: ValueError on an empty objective axis, NaN or infinities.
    """
    return jnp.maximum(_checked(advantages, 0) if np.ndim(advantages) else as_float(advantages), 0.0)


def pama(advantages: ArrayLike) -> tuple[Float[Array, "*batch"], Float[Array, "*batch M"]]:
    r"""The number of least size among the convex combinations of M advantages, and weights that give it.

        value = argmin_{s in [min A, max A]} |s| = clip(0, min_i A_i, max_i A_i)
        weights: the smallest A_i if all are > 0, the largest if all are < 0, else the extremes a and b with
                 A_a <= 0 <= A_b, c_a = A_b / (A_b - A_a), c_b = 1 - c_a

    `[..., M] -> [...], [..., M]`, in O(M). Ties take the first index; M = 1 gives (A, 1). Noon is not applied: of
    `noon(A)` the value is min_i A_i and the weights a vertex, always. No gradient flows through the weights.
    Worked number: (2, 5) gives 2 with (1, 0); (-1, 3) gives 0 with (0.75, 0.25).
    Raises: ValueError on an empty objective axis, NaN or infinities.
    Source: He and Maghsudi, 2025, arXiv:2508.07768, Theorem 1.
    """
    advantages = _checked(advantages, 1)
    low, high = advantages.min(-1), advantages.max(-1)
    value = jnp.clip(jnp.zeros_like(low), low, high)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    below, above = (sg(x / jnp.where(size > 0, size, 1.0)) for x in (low, high))  # within [-1, 1]
    apart = above - below
    on_low = jnp.where(above <= 0, 0.0, jnp.where(below >= 0, 1.0, above / jnp.where(apart > 0, apart, 1.0)))
    on_low = jnp.where(size > 0, on_low, 1.0)
    objectives = jnp.arange(advantages.shape[-1])
    at = lambda index: (objectives == index[..., None]).astype(advantages.dtype)
    lowest, highest = at(jnp.argmin(advantages, -1)), at(jnp.argmax(advantages, -1))
    return value, on_low[..., None] * lowest + (1 - on_low[..., None]) * highest


def pama_token(
    advantages: ArrayLike, *, use_noon: bool = True
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch M"]]:
    r"""PAMA sample by sample (or token by token): every one has its own closed form. `[..., M] -> [...], [..., M]`.

        A = min_i max(A_i, 0)        (with Noon: only what is good for every objective is reinforced)

    Source: He and Maghsudi, 2025, arXiv:2508.07768, Theorem 1, read per token.
    """
    return pama(noon(advantages) if use_noon else advantages)


def pama_batch(
    advantages: ArrayLike, *, reading: str = "scalar", use_noon: bool = True, response_mask: ArrayLike | None = None
) -> tuple[Float[Array, "*batch K"], Float[Array, "*batch M"]]:
    r"""PAMA once for a batch of K samples, on the M mean advantages: `[..., K, M] -> [..., K], [..., M]`.

        scalar:  A_k = s*,  the projection of 0 on the interval of the means, for every sample alike
        vertex:  A_k = sum_i c_i A_ki,  c the weights that give s*

    The scalar reading (that of a public implementation, yining610/ctwa) has no signal: E[s* grad log pi] = 0. With
    Noon the vertex is the objective whose mean positive advantage is smallest. `response_mask` `[..., K]`.
    Source: He and Maghsudi, 2025, arXiv:2508.07768, Theorem 1, read per batch.
    """
    checks.member("reading", reading, ("scalar", "vertex"))
    kept = _kept(advantages, response_mask)
    kept = noon(kept) if use_noon else kept
    keep = None if response_mask is None else jnp.asarray(response_mask)[..., None]
    value, weights = pama(masked_mean(kept, keep, -2))
    if reading == "scalar":
        return jnp.broadcast_to(value[..., None], kept.shape[:-1]), weights
    return (kept * weights[..., None, :]).sum(-1), weights


def pama_gram(
    advantages: ArrayLike,
    *,
    use_noon: bool = True,
    response_mask: ArrayLike | None = None,
    inside: ArrayLike | None = None,
) -> tuple[Float[Array, "*batch K"], Float[Array, "*batch M"]]:
    r"""PAMA with the bound that holds: a small quadratic program instead of the closed form.

        c = argmin_{simplex} c^T M c,    M_ij = mean_k I_ki I_kj,    A_k = sum_i c_i A_ki

    By Cauchy-Schwarz |sum c_i g_i|^2 <= E[(sum_i c_i I(A_i))^2] E|grad pi / pi|^2: MGDA-UB with the samples' ratios as
    the shared representation; O(M^2 K), whatever the number of parameters. `inside` `[..., K]`: where the clip lets a
    gradient through, I(A) = A 1{u <= 1 + c}. `[..., K, M] -> [..., K], [..., M]`.
    Source: Sener and Koltun, 2018, arXiv:1810.04650, Sec. 3.3; the bound of arXiv:2508.07768 corrected.
    """
    kept = _kept(advantages, response_mask)
    kept = noon(kept) if use_noon else kept
    through = kept if inside is None else jnp.where(jnp.asarray(inside)[..., None] != 0, kept, 0.0)
    size = jnp.abs(through).max((-2, -1), keepdims=True)
    through = sg(through / jnp.where(size > 0, size, 1.0))
    weights = min_norm_of_gram(jnp.einsum("...ki,...kj->...ij", through, through))
    return (kept * weights[..., None, :]).sum(-1), weights


def _kept(advantages: ArrayLike, response_mask: ArrayLike | None) -> Float[Array, "*batch K M"]:
    """Advantages with masked samples replaced by 0, before any arithmetic can meet what they hold."""
    if response_mask is not None and np.ndim(advantages) >= 2:
        advantages = jnp.where(jnp.asarray(response_mask)[..., None] != 0, as_float(advantages), 0.0)
    return _checked(advantages, 2)
