r"""Hinge losses on pairs: RSO's on log-ratios, SLiC-HF's on log-probabilities."""

import functools

from jaxtyping import Array, Float

from alignjax import equations, laws
from alignjax.equations import pair
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def hinge(
    logp: Pair, ref_logp: Pair, preference: Preference | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Hinge on the margin of log-ratios.

        l(0, 1) = max(0, 1 - beta (h_0 - h_1)),    h_i = logp_i - ref_logp_i

    `beta` > 0. Worked number: logp = ref_logp gives 1. Source: Liu et al., 2023, arXiv:2309.06657, Eq. 12
    (hinge-norm).
    """
    return pair(beta * log_ratio(logp, ref_logp), equations.hinge, preference)


def slic(logp: Pair, preference: Preference | None = None, *, delta: Scalar = 1.0) -> Float[Array, "*batch"]:
    r"""SLiC-HF's rank calibration: a hinge of margin delta (nats) on log-probabilities, without a reference.

        l(0, 1) = max(0, delta - logp_0 + logp_1)

    Its regulariser, the cross-entropy of the reference's samples, is a term to add. Source: Zhao et al., 2023,
    arXiv:2305.10425, Eq. 3.
    """
    return pair(as_float(logp), functools.partial(equations.hinge, at=delta), preference)


METHODS = (
    Method(
        loss=hinge,
        sampler=laws.data,
        num_responses=2,
        no_optimum="the population loss is piecewise linear in the margins, and its minimisers are a set: margins of a "
        "pair sit on the kinks +-1/beta wherever the triangle of log-ratios allows it",
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Liu et al.", 2023, "2309.06657", "Eq. 12"),
    ),
    Method(
        loss=slic,
        sampler=laws.data,
        num_responses=2,
        no_optimum="the population loss is piecewise linear in the log-probabilities, and its minimisers are a set",
        invariant_to=("reward_shift", "relabelling"),
        source=Source("Zhao et al.", 2023, "2305.10425", "Eq. 3"),
    ),
)
