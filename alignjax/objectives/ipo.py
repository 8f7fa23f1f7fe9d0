r"""IPO and its online members: squared distance of the log-ratio margin from a bounded target."""

import functools

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import pair, square
from alignjax.games.equilibrium import mixture_equilibrium
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.pair_optima import squared_optimum
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def ipo(
    logp: Pair, ref_logp: Pair, preference: Preference | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Identity preference optimisation: squared distance of the log-ratio margin from its target.

        l(0, 1) = (h_0 - h_1 - 1 / (2 beta))^2,    h_i = logp_i - ref_logp_i
        loss    = P l(0, 1) + (1 - P) l(1, 0),     P = preference[..., 0, 1]; without it response 0 is the chosen one

    `logp`, `ref_logp`: nats, summed over tokens (some trainers divide by length: pass means to reproduce them).
    `beta` > 0 (the paper's tau). Worked number: logp = ref_logp gives 1 / (4 beta^2), 25 at beta = 0.1.
    Source: Azar et al., 2023, arXiv:2310.12036, Eq. 17.
    """
    target = 0.5 / as_float(beta)
    return pair(log_ratio(logp, ref_logp), functools.partial(square, target=target), preference)


def ipo_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""ref(y) exp(P(y > nu) / beta) / Z where nu draws both responses; a linear system where two laws draw them.

    With one law this is Azar et al., 2023, arXiv:2310.12036, Eq. 7 and Theorem 1, for any preferences.
    """
    law = laws.data(problem, problem.ref_logp)
    return squared_optimum(problem, (problem.ref_logp,), (1.0,), law, 1.0 / as_float(beta), "ipo")


def online_ipo_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""The regularised Nash equilibrium at tau = beta. Source: Calandriello et al., 2024, arXiv:2403.08635, Prop.
    4.1.
    """
    return mixture_equilibrium(problem.preferences(), problem.ref_logp, beta, 0.0)


def ipo_md_optimum(problem: Problem, *, beta: Scalar, mixture: Scalar) -> Float[Array, "*batch A"]:
    r"""pi proportional to ref exp(P(y > pi^{1-m} ref^m) / beta), whose mixture is the Nash equilibrium at beta / (1 -
    m).

    Shared with `nash_md_pg`. Source: Calandriello et al., 2024, arXiv:2403.08635, Prop. 5.2.
    """
    return mixture_equilibrium(problem.preferences(), problem.ref_logp, beta, mixture)


METHODS = (
    Method(
        loss=ipo,
        sampler=laws.data,
        num_responses=2,
        minimiser=ipo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Azar et al.", 2023, "2310.12036", "Eq. 17"),
    ),
    Method(
        name="online_ipo",
        summary="IPO on pairs drawn from the policy itself: its stationary point is the regularised Nash equilibrium.",
        loss=ipo,
        sampler=laws.policy,
        num_responses=2,
        minimiser=online_ipo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Calandriello et al.", 2024, "2403.08635", "Sec. 4"),
    ),
    Method(
        name="ipo_md",
        summary="IPO on pairs drawn from the geometric mixture of policy and reference.",
        loss=ipo,
        sampler=laws.mixture,
        num_responses=2,
        minimiser=ipo_md_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Calandriello et al.", 2024, "2403.08635", "Sec. 5"),
    ),
)
