r"""The f-regularised problem: maximise E_pi[r] - beta E_ref[f(pi / ref)], for f of KL, forward KL, Jensen-Shannon,
alpha.

Source: Wang et al., 2023, arXiv:2309.16240, Table 1 and Theorem 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import Scalar, as_float, log_softmax, per_batch

DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")


def score(log_ratio: Array, divergence: str, alpha: Scalar = 0.5) -> Array:
    r"""f'(e^h) up to a constant: what takes the place of the log-ratio h.

    reverse KL h; forward KL -e^{-h}; Jensen-Shannon log sigmoid(h); alpha -e^{-alpha h} / alpha.
    Source: Wang et al., 2023, arXiv:2309.16240, Table 1.
    """
    divergence = checks.member("divergence", divergence, DIVERGENCES)
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "forward_kl":
        return -jnp.exp(-log_ratio)
    if divergence == "js":
        return jax.nn.log_sigmoid(log_ratio)
    return -jnp.exp(-alpha * log_ratio) / alpha


def _log_inverse_slope(slack: Array, divergence: str, alpha: Array) -> Array:
    """log u with f'(u) = s, for s = (r - lambda) / beta; `slack` is the distance of s below the end of its domain."""
    if divergence == "forward_kl":  # -1/u = s < 0
        return -jnp.log(slack)
    if divergence == "js":  # log(2u / (1 + u)) = s < log 2: u = e^s / (2 - e^s), with e^s = 2 e^{-slack}
        return -slack - jnp.log(-jnp.expm1(-slack))
    return -jnp.log(alpha * slack) / alpha  # (1 - u^-alpha) / alpha = s < 1 / alpha


def regularised_optimum(
    ref_logp: Float[Array, "*batch A"],
    reward: Float[Array, "*batch A"],
    beta: Scalar,
    divergence: str,
    alpha: Scalar = 0.5,
) -> Float[Array, "*batch A"]:
    r"""argmax_pi E_pi[r] - beta E_ref[f(pi / ref)]: pi = ref (f')^{-1}((r - lambda) / beta), lambda the root of sum
    pi = 1.

    The root is bracketed and bisected on the log of its distance from the end of the domain, where pi blows up.
    Shapes `[..., A]` -> `[..., A]`. Source: Wang et al., 2023, arXiv:2309.16240, Theorem 1.
    """
    divergence = checks.member("divergence", divergence, DIVERGENCES)
    ref_logp, alpha = as_float(ref_logp), as_float(alpha)
    scaled = as_float(reward) / per_batch(beta)
    if divergence == "reverse_kl":
        return log_softmax(ref_logp + scaled)
    support = ~jnp.isneginf(ref_logp)
    top = jnp.where(support, scaled, -jnp.inf).max(-1, keepdims=True)
    # Fused, the difference can round below 0, and the logarithm would be NaN.
    below = jnp.where(support, jnp.maximum(top - scaled, 0.0), 0.0)

    def log_total(
        log_gap: Array,
    ) -> Array:  # decreasing in the gap between lambda and the end of the best response's domain
        logp = jnp.where(support, ref_logp + _log_inverse_slope(jnp.exp(log_gap) + below, divergence, alpha), -jnp.inf)
        return jax.nn.logsumexp(logp, axis=-1, keepdims=True)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        too_much = log_total(middle) > 0
        return jnp.where(too_much, middle, low), jnp.where(too_much, high, middle)

    low, high = jnp.full_like(top, -80.0), jnp.full_like(top, 80.0)
    low, high = jax.lax.fori_loop(0, 80, halve, (low, high))
    # The root is where it is; how it moves with the arguments is one step of Newton's method from it.
    root = jax.lax.stop_gradient(0.5 * (low + high))
    slope = jax.lax.stop_gradient(jax.jvp(log_total, (root,), (jnp.ones_like(root),))[1])
    gap = jnp.exp(root - log_total(root) / slope)
    return log_softmax(jnp.where(support, ref_logp + _log_inverse_slope(gap + below, divergence, alpha), -jnp.inf))
