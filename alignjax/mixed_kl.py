r"""The policy nearest to two others at once: one by forward KL, one by backward KL."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.constrained import bisect, omega
from alignjax.logspace import Scalar, as_float, log_softmax, per_batch


def mixed_kl_minimiser(
    target_logp: Float[Array, "*batch A"], pulled_logp: Float[Array, "*batch A"], forward: Scalar, backward: Scalar
) -> Float[Array, "*batch A"]:
    r"""argmin_pi forward KL(b || pi) + backward KL(pi || q), `[..., A]`.

    With a = forward / backward and the multiplier c of sum pi = 1, stationarity is a b / pi = log(pi / q) + c. Its
    root is log pi = log q - c + w, w + log w = log(a b / q) + c (Wright's omega). The mass falls in c; it is at least
    1 at c = 0, and c = a - KL(pi || q) at the root, so that a bisection over [0, a] finds it. backward = 0 gives b,
    forward = 0 gives q.
    """
    target, pulled = as_float(target_logp), as_float(pulled_logp)
    forward, backward = as_float(forward), as_float(backward)
    alone = (backward <= 0) | (forward <= 0)
    ratio = jnp.where(alone, 1.0, forward) / jnp.where(alone, 1.0, backward)
    alive = ~jnp.isneginf(pulled)
    both = alive & ~jnp.isneginf(target)
    base = jnp.where(alive, pulled, 0.0)
    gain = jnp.where(both, target, 0.0) - jnp.where(both, pulled, 0.0) + per_batch(jnp.log(ratio))

    def log_policy(multiplier: Array) -> Array:
        raised = jnp.where(both, omega(gain + multiplier[..., None]), 0.0)
        return jnp.where(alive, base - multiplier[..., None] + raised, -jnp.inf)

    shape = jnp.broadcast_shapes(target.shape, pulled.shape)[:-1]
    most = jnp.broadcast_to(ratio, shape).astype(pulled.dtype)
    heavy = lambda multiplier: jax.nn.logsumexp(log_policy(multiplier), -1) > 0
    root = bisect(heavy, jnp.zeros_like(most), most, num_steps=70)
    found = log_softmax(log_policy(root))
    found = jnp.where(per_batch(backward <= 0), target, found)
    return jnp.where(per_batch((forward <= 0) & (backward > 0)), pulled, found)
