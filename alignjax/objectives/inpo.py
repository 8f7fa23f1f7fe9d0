r"""INPO: mirror descent on the regularised game as a regression on pairs (Zhang, Yu, et al., 2024)."""

import functools
from typing import Any

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import base_score, detached_margin, pair, square
from alignjax.feedback import win_rate as exact_win_rate
from alignjax.logspace import Scalar, as_float
from alignjax.pair_optima import squared_optimum, tilted_bases
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def _bases(ref_logp: Array, anchor_logp: Array, step_size: Scalar, beta: Scalar) -> dict[str, Any]:
    """Reference and previous iterate, and their weights h beta and 1 - h beta."""
    pull = as_float(step_size) * as_float(beta)
    return {"bases": (ref_logp, anchor_logp), "weights": (pull, 1 - pull)}


def inpo(
    logp: Pair,
    ref_logp: Pair,
    anchor_logp: Pair,
    preference: Preference | None = None,
    *,
    step_size: Scalar = 1.0,
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Iterative Nash policy optimisation on labels: squared distance of a log-ratio margin from half the step.

        l(0, 1) = (x_0 - x_1 - h / 2)^2,    x = log pi - h beta log ref - (1 - h beta) log pi_t
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it response 0 is the chosen one

    `anchor_logp` is the previous iterate pi_t, `beta` > 0 the game's temperature (the paper's tau), and `step_size` =
    h > 0 the canonical step: the paper's eta is its inverse, h = 1 / eta, and its ratio tau / eta is h beta. On pairs
    from pi_t the minimiser is one step of mirror descent; in general the law of the pairs is the opponent.
    Worked number: logp = ref_logp = anchor_logp gives h^2 / 4, 0.25 at h = 1.
    Source: Zhang et al., 2024, arXiv:2407.00617, Algorithm 1 and Prop. 6.
    """
    score = base_score(logp, **_bases(ref_logp, anchor_logp, step_size, beta))
    return pair(score, functools.partial(square, target=as_float(step_size) / 2), preference)


def inpo_soft(
    logp: Pair, ref_logp: Pair, anchor_logp: Pair, win_rate: Pair, *, step_size: Scalar = 1.0, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Iterative Nash policy optimisation on win-rates: squared distance from the step times their difference.

        loss = (x_0 - x_1 - h sg[q_0 - q_1])^2,    x = log pi - h beta log ref - (1 - h beta) log pi_t

    `win_rate` = q is P(y > pi_t), or P(y > y'') for a sampled y'' of pi_t (then the value has a constant more, and the
    gradient is right in the mean). The other arguments are those of `inpo`, whose loss differs by a constant on pairs
    from pi_t. The target is a difference, so that any law of the pairs with full support has the same minimiser.
    Source: Zhang et al., 2024, arXiv:2407.00617, Prop. 6.
    """
    score = base_score(logp, **_bases(ref_logp, anchor_logp, step_size, beta))
    return pair(score, functools.partial(square, target=as_float(step_size) * detached_margin(win_rate)))


def inpo_optimum(problem: Problem, *, step_size: Scalar, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""ref^{h beta} pi_t^{1 - h beta} exp(h P(y > nu)) / Z, nu the law of the pairs; a linear system for two laws.

    At nu = pi_t it is one step of mirror descent, whose fixed point is the regularised Nash equilibrium.
    """
    law = laws.proposal(problem, problem.ref_logp)
    bases = _bases(problem.ref_logp, laws.previous(problem, problem.ref_logp), step_size, beta)
    return squared_optimum(problem, **bases, law=law, step=step_size, needed_by="inpo")


def inpo_soft_optimum(problem: Problem, *, step_size: Scalar, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""ref^{h beta} pi_t^{1 - h beta} exp(h P(y > pi_t)) / Z, for every law of the pairs with full support."""
    anchor = laws.previous(problem, problem.ref_logp)
    bases = _bases(problem.ref_logp, anchor, step_size, beta)
    return tilted_bases(problem, **bases, score=exact_win_rate(problem, anchor), step=step_size)


METHODS = (
    Method(
        loss=inpo,
        sampler=laws.proposal,
        num_responses=2,
        minimiser=inpo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Zhang et al.", 2024, "2407.00617", "Algorithm 1 and Prop. 6"),
    ),
    Method(
        loss=inpo_soft,
        sampler=laws.proposal,
        opponent=laws.previous,
        num_responses=2,
        minimiser=inpo_soft_optimum,
        invariant_to=("log_ratio_shift", "relabelling"),
        source=Source("Zhang et al.", 2024, "2407.00617", "Prop. 6"),
    ),
)
