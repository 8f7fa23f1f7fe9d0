r"""DPO and its label-noise variants: a logistic loss on the margin of log-ratios."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import logistic, pair
from alignjax.logspace import Scalar, log_ratio
from alignjax.pair_optima import logistic_optimum
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def dpo(
    logp: Pair, ref_logp: Pair, preference: Preference | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Direct preference optimisation: logistic regression of preferences on the implicit reward beta h.

        l(0, 1) = -log sigmoid(beta (h_0 - h_1)),    h_i = logp_i - ref_logp_i
        loss    = P l(0, 1) + (1 - P) l(1, 0),       P = preference[..., 0, 1]; without it response 0 is the chosen one

    `logp`, `ref_logp`: nats, summed over tokens. `beta` > 0. Worked number: logp = ref_logp gives log 2 = 0.6931.
    Source: Rafailov et al., 2023, arXiv:2305.18290, Eq. 7.
    """
    return pair(beta * log_ratio(logp, ref_logp), logistic, preference)


def cdpo(
    logp: Pair,
    ref_logp: Pair,
    preference: Preference | None = None,
    *,
    beta: Scalar = 0.1,
    label_smoothing: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Conservative DPO: the cross-entropy against labels believed to be flipped with probability eps.

        l(0, 1) = -(1 - eps) log sigmoid(m) - eps log sigmoid(-m),    m = beta (h_0 - h_1)

    `label_smoothing` = eps in [0, 0.5); 0 is `dpo`. The optimal margin of a certain label is finite:
    log((1-eps)/eps).
    Source: Mitchell, 2023, "A note on DPO with noisy preferences", Eq. 3.
    """
    eps = label_smoothing
    return pair(beta * log_ratio(logp, ref_logp), lambda m: (1 - eps) * logistic(m) + eps * logistic(-m), preference)


def robust_dpo(
    logp: Pair,
    ref_logp: Pair,
    preference: Preference | None = None,
    *,
    beta: Scalar = 0.1,
    label_smoothing: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Robust DPO: an unbiased estimate of the clean DPO loss from labels flipped with probability eps.

        l(0, 1) = [-(1 - eps) log sigmoid(m) + eps log sigmoid(-m)] / (1 - 2 eps),    m = beta (h_0 - h_1)

    `label_smoothing` = eps in [0, 0.5); 0 is `dpo`. Averaged over the flips it equals DPO's loss on the clean label.
    Source: Chowdhury et al., 2024, arXiv:2403.00409, Eq. 13.
    """
    eps = label_smoothing
    return pair(
        beta * log_ratio(logp, ref_logp),
        lambda m: ((1 - eps) * logistic(m) - eps * logistic(-m)) / (1 - 2 * eps),
        preference,
    )


def dpo_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""Gibbs(r, beta) with r the Bradley-Terry reward, for every pair law of full support. Source: arXiv:2305.18290,
    Eq. 4.
    """
    return logistic_optimum(problem, problem.ref_logp, "dpo", beta)


def cdpo_optimum(problem: Problem, *, beta: Scalar, label_smoothing: Scalar) -> Float[Array, "*batch A"]:
    r"""DPO's optimum at the smoothed preferences (1 - eps) P + eps (1 - P), where these are Bradley-Terry (two
    responses: always).
    """
    p = problem.preferences()
    smoothed = (1 - label_smoothing) * p + label_smoothing * (1 - p)
    return logistic_optimum(problem, problem.ref_logp, "cdpo (smoothed preferences)", beta, smoothed)


def robust_dpo_optimum(problem: Problem, *, beta: Scalar, label_smoothing: Scalar) -> Float[Array, "*batch A"]:
    r"""DPO's optimum at the de-noised preferences (P - eps) / (1 - 2 eps), where these are Bradley-Terry and inside
    (0, 1).
    """
    clean = (problem.preferences() - label_smoothing) / (1 - 2 * label_smoothing)
    clean = jnp.clip(clean, 0.0, 1.0)
    return logistic_optimum(problem, problem.ref_logp, "robust_dpo (de-noised preferences)", beta, clean)


def online_dpo_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""Gibbs(r, beta) with r the Bradley-Terry reward: there the gradient is zero for every law of the pairs, the
    policy's too.
    """
    return logistic_optimum(problem, problem.ref_logp, "online_dpo", beta)


METHODS = (
    Method(
        loss=dpo,
        sampler=laws.data,
        num_responses=2,
        minimiser=dpo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Rafailov et al.", 2023, "2305.18290", "Eq. 7"),
    ),
    Method(
        loss=cdpo,
        sampler=laws.data,
        num_responses=2,
        minimiser=cdpo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Mitchell", 2023, "", "Eq. 3", venue="A note on DPO with noisy preferences"),
    ),
    Method(
        loss=robust_dpo,
        sampler=laws.data,
        num_responses=2,
        minimiser=robust_dpo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Chowdhury et al.", 2024, "2403.00409", "Eq. 13"),
    ),
    Method(
        name="online_dpo",
        summary="DPO on pairs drawn from the policy itself: under Bradley-Terry its stationary point is RLHF's policy.",
        loss=dpo,
        sampler=laws.policy,
        num_responses=2,
        minimiser=online_dpo_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Guo et al.", 2024, "2402.04792", "Sec. 3"),
    ),
)
