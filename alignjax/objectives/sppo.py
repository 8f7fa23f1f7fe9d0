r"""SPPO: pointwise regression of the log-ratio on the win-rate, with the partition function left out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import kept, square
from alignjax.feedback import win_rate as exact_win_rate
from alignjax.logspace import Scalar, as_float, log_ratio, log_softmax, masked_mean
from alignjax.problem import Problem
from alignjax.record import Method, Source

sg = jax.lax.stop_gradient
Group = Float[Array, "*batch K"]


def sppo(
    logp: Group, anchor_logp: Group, win_rate: Group, response_mask: Group | None = None, *, step_size: Scalar = 1.0
) -> Float[Array, "*batch"]:
    r"""Self-play preference optimisation: squared distance of every log-ratio from the step times its advantage.

        loss = mean_i (x_i - h sg[q_i - 1/2])^2,    x_i = log pi(y_i) - log pi_t(y_i)

    `win_rate` = q is P(y > pi_t), `anchor_logp` the previous iterate pi_t, `step_size` = h > 0 the paper's eta (its
    code's beta is 1 / eta, 0.001). The log-partition of pi_t exp(h q) is taken to be h / 2; it lies between h / 2 and
    h / 2 + h^2 / 8, so that a large step is far from multiplicative weights. A difference of two residuals is that of
    `inpo_soft` without a reference. Worked number: logp = anchor_logp and win-rates (1, 0) give h^2 / 4.
    Source: Wu et al., 2024, arXiv:2405.00675, the loss of its official code (sppo/trainer.py).
    """
    target = as_float(step_size) * (sg(as_float(win_rate)) - 0.5)
    ratio, target = kept(response_mask, log_ratio(logp, anchor_logp), target)
    return masked_mean(square(ratio, target=target), response_mask)


def _wright_omega(z: Array) -> Array:
    r"""The w > 0 with w + log w = z, by Newton on v = log w: v + e^v = z is convex, and the start is above its root."""

    def newton(_: int, v: Array) -> Array:
        return v - (v + jnp.exp(v) - z) / (1 + jnp.exp(v))

    start = jnp.where(z > 1, jnp.log(jnp.maximum(z, 1.0)), z)
    return jnp.exp(jax.lax.fori_loop(0, 10, newton, start))


def sppo_optimum(problem: Problem, *, step_size: Scalar) -> Float[Array, "*batch A"]:
    r"""The minimiser of sum_y nu(y) (log pi(y) - t(y))^2 over policies, t = log pi_t + h (P(y > pi_t) - 1/2).

    For every law nu with full support. Stationarity with the multiplier kappa >= 0 of sum pi = 1 is nu (u - t) = -kappa
    e^u, u = log pi, whose root is u = t - w with w + log w = t + log(kappa / nu). The mass falls in kappa, and by
    Jensen it is at least 1 at kappa = 0: one root, in [0, log sum_y e^t(y)], by bisection. It is the iterate of
    multiplicative weights only where P(y > pi_t) is constant on the support.
    """
    anchor, law = laws.previous(problem, problem.ref_logp), laws.proposal(problem, problem.ref_logp)
    if isinstance(law, tuple):
        raise ValueError(f"sppo looks at one response at a time; sampler_logp was a tuple of {len(law)} laws")
    alive = ~jnp.isneginf(anchor) & ~jnp.isneginf(law)
    score = as_float(step_size) * (exact_win_rate(problem, anchor) - 0.5)
    target, law, alive = jnp.broadcast_arrays(jnp.where(alive, anchor, 0.0) + score, law, alive)

    def log_policy(kappa: Array) -> Array:
        # A step off zero: log 0 there would be the mass of kappa = 0, but its gradient is not needed anywhere.
        tiny = jnp.finfo(target.dtype).tiny
        omega = _wright_omega(target + jnp.log(jnp.maximum(kappa, tiny))[..., None] - jnp.where(alive, law, 0.0))
        return jnp.where(alive, target - omega, -jnp.inf)

    def halve(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = 0.5 * (low + high)
        heavy = jax.nn.logsumexp(log_policy(middle), -1) > 0
        return jnp.where(heavy, middle, low), jnp.where(heavy, high, middle)

    most = jnp.maximum(jax.nn.logsumexp(jnp.where(alive, target, -jnp.inf), -1), 0.0)
    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(most), most))
    return log_softmax(log_policy(0.5 * (low + high)))


METHODS = (
    Method(
        loss=sppo,
        sampler=laws.proposal,
        opponent=laws.previous,
        separable=True,
        minimiser=sppo_optimum,
        invariant_to=("relabelling",),
        source=Source("Wu et al.", 2024, "2405.00675", "the loss of its official code"),
    ),
)
