r"""ONPO: optimistic mirror descent on the game without regularisation, as a regression on pairs."""

import functools

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import pair, square
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.pair_optima import squared_optimum
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def onpo(
    logp: Pair, anchor_logp: Pair, preference: Preference | None = None, *, step_size: Scalar = 1.0
) -> Float[Array, "*batch"]:
    r"""Optimistic Nash policy optimisation: squared distance of the log-ratio margin from half the step.

        l(0, 1) = (x_0 - x_1 - h / 2)^2,    x = log pi - log pi'_t
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it response 0 is the chosen one

    `anchor_logp` is the auxiliary iterate pi'_t, and the law of the pairs says which half of a step it is: pairs from
    pi_{t-1} predict pi_t, pairs from pi_t correct pi'_{t+1}. `step_size` = h > 0 is the paper's eta. There is no
    reference in it: the average policy tends to the equilibrium of the original game.
    Source: Zhang, Yu, et al., 2025, arXiv:2502.16852, the losses of the update in Theorem 2.
    """
    return pair(log_ratio(logp, anchor_logp), functools.partial(square, target=as_float(step_size) / 2), preference)


def onpo_optimum(problem: Problem, *, step_size: Scalar) -> Float[Array, "*batch A"]:
    r"""pi'_t exp(h P(y > nu)) / Z, nu the law of the pairs; a linear system where two laws draw them."""
    law, anchor = laws.proposal(problem, problem.ref_logp), laws.previous(problem, problem.ref_logp)
    return squared_optimum(problem, (anchor,), (1.0,), law, step_size, "onpo")


METHODS = (
    Method(
        loss=onpo,
        sampler=laws.proposal,
        num_responses=2,
        minimiser=onpo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Zhang, Yu, et al.", 2025, "2502.16852", "the losses of the update in Theorem 2"),
    ),
)
