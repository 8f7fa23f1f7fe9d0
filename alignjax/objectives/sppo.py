r"""SPPO: pointwise regression of the log-ratio on the win-rate, with the partition function left out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import laws
from alignjax.constrained import log_regression
from alignjax.equations import kept, square
from alignjax.feedback import win_rate as exact_win_rate
from alignjax.logspace import Scalar, as_float, log_ratio, masked_mean
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


def sppo_optimum(problem: Problem, *, step_size: Scalar) -> Float[Array, "*batch A"]:
    r"""The minimiser of sum_y nu(y) (log pi(y) - t(y))^2 over policies, t = log pi_t + h (P(y > pi_t) - 1/2).

    For every law nu with full support: `constrained.log_regression`, on the side where Jensen gives sum e^t >= 1. It is
    the iterate of multiplicative weights only where P(y > pi_t) is constant on the support.
    """
    anchor, law = laws.previous(problem, problem.ref_logp), laws.proposal(problem, problem.ref_logp)
    if isinstance(law, tuple):
        raise ValueError(f"sppo looks at one response at a time; sampler_logp was a tuple of {len(law)} laws")
    alive = ~jnp.isneginf(anchor) & ~jnp.isneginf(law)
    score = as_float(step_size) * (exact_win_rate(problem, anchor) - 0.5)
    return log_regression(jnp.where(alive, anchor + score, -jnp.inf), law)


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
