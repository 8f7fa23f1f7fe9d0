r"""EGPO: regression on the win-rates against the policy itself, to be descended by extragradient steps."""

import functools

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import detached_margin, pair, square
from alignjax.games.equilibrium import mixture_equilibrium
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]


def egpo(logp: Pair, ref_logp: Pair, win_rate: Pair, *, beta: Scalar = 0.1) -> Float[Array, "*batch"]:
    r"""Squared distance of the log-ratio margin from the difference of win-rates over the temperature.

        loss = (h_0 - h_1 - sg[q_0 - q_1] / beta)^2,    h_i = logp_i - ref_logp_i

    `win_rate` = q is P(y > pi), or P(y > y'') for a sampled y'' of pi; `beta` > 0 is the game's temperature (the
    paper's, too). On a table with uniform pairs, gradient descent on the logits with the rate `lr` is mirror descent on
    the regularised game with the canonical step h = 4 lr / (beta A), A the number of responses: `fit(...,
    extragradient=True)` makes it the paper's method, whose second gradient is taken at the same parameters against the
    opponent of the half step. Worked number: logp = ref_logp and win-rates (.6, .4) give (.2 / .1)^2 = 4.
    Source: Zhou et al., 2025, arXiv:2503.08942; the loss of its official code (simulations/loss_funcs.py).
    """
    target = detached_margin(win_rate) / as_float(beta)
    return pair(log_ratio(logp, ref_logp), functools.partial(square, target=target))


def egpo_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""The regularised Nash equilibrium at tau = beta: the only policy that is its own best response."""
    return mixture_equilibrium(problem.preferences(), problem.ref_logp, beta, 0.0)


METHODS = (
    Method(
        loss=egpo,
        sampler=laws.uniform,
        opponent=laws.policy,
        num_responses=2,
        minimiser=egpo_optimum,
        invariant_to=("log_ratio_shift", "relabelling"),
        source=Source("Zhou et al.", 2025, "2503.08942", "the loss of its official code"),
    ),
)
