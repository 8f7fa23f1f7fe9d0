r"""Laws at the root of a scalar multiplier: the pieces of minimisers that the constraint sum pi = 1 keeps from a closed
form.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.logspace import ArrayLike, as_float, log_softmax


def omega(z: ArrayLike) -> Array:
    r"""The Wright omega function: the w > 0 with w + log w = z, elementwise.

    By Newton on v = log w: v + e^v = z is convex, and the start is above its root. omega(1) = 1; omega(z) -> e^z as z
    -> -inf. Source: Corless and Jeffrey, 2002, "The Wright omega function".
    """
    z = as_float(z)

    def newton(_: int, v: Array) -> Array:
        return v - (v + jnp.exp(v) - z) / (1 + jnp.exp(v))

    start = jnp.where(z > 1, jnp.log(jnp.maximum(z, 1.0)), z)
    return jnp.exp(jax.lax.fori_loop(0, 10, newton, start))


def omega_below(z: ArrayLike) -> Array:
    r"""The w in (0, 1] with log w - w = z, for z <= -1, elementwise: -W_0(-e^z). omega_below(-1) = 1.

    By Newton on v = log w: v - e^v = z is concave and increasing for v < 0. Its slope is 0 at the end v = 0, so the
    start is the root of the quadratic there.
    """
    z = as_float(z)
    low = jnp.maximum(-1.0 - z, 0.0)
    tiny = jnp.finfo(z.dtype).tiny

    def newton(_: int, v: Array) -> Array:
        return jnp.minimum(v - (v - jnp.exp(v) - z) / jnp.maximum(-jnp.expm1(v), tiny), 0.0)

    # A double root at the end: rounding there is that of the square root, and steps must not throw v away.
    near = low < 64 * jnp.finfo(z.dtype).eps
    start = -jnp.sqrt(2 * low)
    start = jnp.where(z < -3, z, start)
    moved = jax.lax.fori_loop(0, 10, newton, jnp.where(near, -1.0, start))
    return jnp.exp(jnp.where(near, start, moved))


def bisect(above: Callable[[Array], Array], low: Array, high: Array, num_steps: int = 60) -> Array:
    r"""The x in [low, high], elementwise, up to which `above(x)` is true and from which it is false.

    `low`, `high` of one shape; `above` returns booleans of that shape and is true at `low` first. No gradient: see
    `implicit`.
    """

    def halve(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = 0.5 * (low + high)
        up = above(middle)
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jax.lax.fori_loop(0, num_steps, halve, (low, high))
    return 0.5 * (low + high)


def implicit(f: Callable[[Array], Array], root: Array) -> Array:
    r"""A root of f, elementwise, with its derivative in what f closes over, by the implicit function theorem:
    x - f(x) / f'(x) at the fixed x = `root`. First derivatives only; none where f' = 0.
    """
    x = jax.lax.stop_gradient(root)
    slope = jax.lax.stop_gradient(jax.jvp(f, (x,), (jnp.ones_like(x),))[1])
    moved = f(x) / jnp.where(slope == 0, 1.0, slope)
    # A root that was found is not moved: what is left of f there is rounding.
    return x - jnp.where(slope == 0, 0.0, moved - jax.lax.stop_gradient(moved))


def log_regression(target: ArrayLike, law: ArrayLike) -> Float[Array, "*batch A"]:
    r"""The minimiser of sum_y nu(y) (log pi(y) - t(y))^2 over policies: targets `t` that no policy need have.

    Args: `target` t and `law` log nu, `[..., A]`; responses where either is -inf are out of the game.

    Stationarity with the multiplier kappa of sum pi = 1 is nu (u - t) = -kappa e^u, u = log pi. The mass falls in
    kappa, and is sum e^t at kappa = 0.

    * sum e^t >= 1: u = t - w with w + log w = t + log(kappa / nu), and kappa in [0, log sum e^t]. The only stationary
      point, and the minimiser.
    * sum e^t < 1: u = t + w with log w - w = t + log(-kappa / nu), w <= 1, where the loss is convex in pi. A local
      minimum. Where e^t is so small that w = 1 at one response is not enough mass, there is none with w <= 1: NaN.
    """
    target, law = jnp.broadcast_arrays(as_float(target), as_float(law))
    alive = ~jnp.isneginf(target) & ~jnp.isneginf(law)
    t, ratio = jnp.where(alive, target, 0.0), jnp.where(alive, target - jnp.where(alive, law, 0.0), 0.0)
    tiny = jnp.finfo(t.dtype).tiny
    log = lambda x: jnp.log(jnp.maximum(x, tiny))[..., None]  # off zero: log 0 would be the mass of kappa = 0
    masked = lambda x: jnp.where(alive, x, -jnp.inf)
    mass = lambda x: jax.nn.logsumexp(masked(x), -1)

    pressed = lambda kappa: t - omega(ratio + log(kappa))
    most = jnp.maximum(mass(t), jnp.finfo(t.dtype).eps)  # at kappa = 0 itself nothing could be differentiated
    kappa = bisect(lambda kappa: mass(pressed(kappa)) > 0, jnp.zeros_like(most), most)
    low = pressed(implicit(lambda kappa: mass(pressed(kappa)), kappa))

    # kappa from 0 to where the response with the largest e^t / nu has w = 1, as a share of that.
    depth = jnp.where(alive, ratio - masked(ratio).max(-1, keepdims=True), 0.0) - 1.0
    lifted = lambda share: t + omega_below(depth + log(share))
    one = jnp.ones_like(most)
    share = bisect(lambda share: mass(lifted(share)) < 0, jnp.zeros_like(one), one)
    high = lifted(implicit(lambda share: mass(lifted(share)), share))
    high = jnp.where((mass(lifted(one)) < 0)[..., None], jnp.nan, high)
    return log_softmax(masked(jnp.where((mass(t) >= 0)[..., None], low, high)))
