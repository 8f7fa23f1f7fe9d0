r"""XPO: online DPO against responses of the reference, with a bonus for exploring."""

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import logistic, pair
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def xpo(
    logp: Pair, ref_logp: Pair, preference: Preference, *, beta: Scalar = 0.1, exploration: Scalar = 1e-5
) -> Float[Array, "*batch"]:
    r"""Exploratory preference optimisation: DPO, and optimism as a push away from the reference's responses.

        loss    = P l(0, 1) + (1 - P) l(1, 0) + alpha log pi(y_1),    P = preference[..., 0, 1]
        l(0, 1) = -log sigmoid(beta (h_0 - h_1)),    h_i = logp_i - ref_logp_i

    Response 0 is the policy's and response 1 the reference's, so that their order says nothing of the preference, which
    has to be given. `exploration` = alpha >= 0; `beta` > 0. Worked number: logp = ref_logp = (-1, -2) and alpha = .1
    give log 2 - .2 = 0.4931.
    Source: Xie et al., 2024, arXiv:2405.21046, Algorithm 1.
    """
    return pair(beta * log_ratio(logp, ref_logp), logistic, preference) + exploration * as_float(logp)[..., 1]


METHODS = (
    Method(
        loss=xpo,
        sampler=laws.policy_and_reference,
        num_responses=2,
        no_optimum=(
            "the bonus moves the stationary point away from RLHF's policy by an amount that depends on the law of the "
            "pairs, which is the policy's own; it is that policy at exploration = 0 under Bradley-Terry preferences"
        ),
        invariant_to=("reward_shift", "log_ratio_shift"),
        source=Source("Xie et al.", 2024, "2405.21046", "Algorithm 1"),
    ),
)
