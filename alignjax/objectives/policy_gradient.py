r"""REINFORCE, RLOO, PPO, GRPO and Dr. GRPO on sequence log-probabilities.

All average over the K responses of a group. On-policy, the population gradient of `reinforce`, `rloo` and `ppo` is
exactly that of -(E[reward] - beta KL(policy || reference)); `grpo` and `dr_grpo` are as published and have another.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import equations, laws
from alignjax.f_regularised import regularised_optimum
from alignjax.kl_estimators import k3
from alignjax.kl_regularised import gibbs
from alignjax.logspace import Scalar, as_float, log_ratio, masked_mean
from alignjax.problem import Problem
from alignjax.record import Method, NoOptimum, Source

sg = jax.lax.stop_gradient
Group = Float[Array, "*batch K"]


def _regularised_reward(logp: Group, ref_logp: Group, reward: Group, beta: Scalar) -> Group:
    r"""R = r - beta h, detached: the KL inside the reward, whose gradient is that of KL(policy || reference)."""
    return sg(as_float(reward) - beta * log_ratio(logp, ref_logp))


def reinforce(
    logp: Group,
    ref_logp: Group,
    reward: Group,
    value: Float[Array, "*batch"] | None = None,
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Policy gradient with the KL in the reward and an optional baseline.

        loss = -mean_i sg[r_i - beta h_i - V] log pi(y_i),    h_i = logp_i - ref_logp_i

    A surrogate: only its gradient has a meaning. `value` V: a baseline of the prompt, independent of the responses.
    Source: Williams, 1992, "Simple statistical gradient-following algorithms", Eq. 4 (the KL in the reward: Ziegler
    et al., 2019, arXiv:1909.08593, Eq. 2).
    """
    advantage = _regularised_reward(logp, ref_logp, reward, beta) - (
        0.0 if value is None else as_float(value)[..., None]
    )
    return equations.field(as_float(logp), advantage, response_mask)


def rloo(
    logp: Group, ref_logp: Group, reward: Group, response_mask: Group | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""REINFORCE with a leave-one-out baseline: the mean of the other responses to the prompt.

        loss = -mean_i sg[R_i - mean_{j != i} R_j] log pi(y_i),    R_i = r_i - beta h_i

    A surrogate, unbiased for every K >= 2. Source: Ahmadian et al., 2024, arXiv:2402.14740, Eq. 8.
    """
    regularised = _regularised_reward(logp, ref_logp, reward, beta)
    return equations.field(as_float(logp), equations.leave_one_out(regularised, response_mask), response_mask)


def ppo(
    logp: Group,
    ref_logp: Group,
    reward: Group,
    behaviour_logp: Group | None = None,
    value: Float[Array, "*batch"] | None = None,
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.1,
    clip_range: Scalar = 0.2,
) -> Float[Array, "*batch"]:
    r"""Clipped policy gradient on whole responses, the KL in the reward as measured at rollout.

        loss = -mean_i min(rho_i A_i, clip(rho_i, 1 - c, 1 + c) A_i)
        rho_i = pi(y_i) / sg[pi_old(y_i)],    A_i = sg[r_i - beta (log pi_old - log ref)(y_i) - V]

    `behaviour_logp` is pi_old (the detached policy if absent); `value` V is 0 if absent. `clip_range` c > 0.
    Source: Schulman et al., 2017, arXiv:1707.06347, Eq. 7; Ouyang et al., 2022, arXiv:2203.02155, Eq. 2.
    """
    logp = as_float(logp)
    old = sg(logp if behaviour_logp is None else as_float(behaviour_logp))
    advantage = _regularised_reward(old, ref_logp, reward, beta) - (
        0.0 if value is None else as_float(value)[..., None]
    )
    return equations.clipped_field(logp, old, advantage, clip_range, response_mask)


def _group_relative(
    logp: Group,
    ref_logp: Group,
    advantage: Group,
    behaviour_logp: Group | None,
    response_mask: Group | None,
    beta: Scalar,
    clip_range: Scalar,
) -> Float[Array, "*batch"]:
    logp = as_float(logp)
    old = sg(logp if behaviour_logp is None else as_float(behaviour_logp))
    penalty = beta * masked_mean(k3(*equations.kept(response_mask, logp, as_float(ref_logp))), response_mask)
    return equations.clipped_field(logp, old, advantage, clip_range, response_mask) + penalty


def grpo(
    logp: Group,
    ref_logp: Group,
    reward: Group,
    behaviour_logp: Group | None = None,
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.04,
    clip_range: Scalar = 0.2,
    std_epsilon: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    r"""Group-relative policy optimisation, as published: group-normalised rewards, and k3 as a loss term.

        loss = -mean_i min(rho_i A_i, clip(rho_i, 1 - c, 1 + c) A_i) + beta mean_i k3_i
        A_i = (r_i - mean r) / (std r + std_epsilon),    k3 = e^{-h} - 1 + h,    rho_i = pi(y_i) / sg[pi_old(y_i)]

    Two things to know. On-policy the expected gradient of k3 is that of the FORWARD KL(reference || policy), not of
    the reverse KL the penalty is named after (see `kl_estimators`). Dividing by the group's std makes the update
    invariant to the scale of the reward, and biased: with binary rewards and many responses it ascends 2
    arcsin(sqrt(p)) instead of p. The std is that of the group itself (ddof 0); a group without spread has advantage
    0.
    Source: Shao et al., 2024, arXiv:2402.03300, Eq. 3 and 4 (outcome supervision).
    """
    reward = sg(as_float(reward))
    centred = reward - equations.group_mean(reward, response_mask)
    spread = equations.group_std(reward, response_mask)
    # Equal rewards differ from their mean by rounding; that is no spread.
    (size,) = equations.kept(response_mask, jnp.abs(reward))
    flat = spread <= 8 * jnp.finfo(reward.dtype).eps * size.max(-1, keepdims=True)
    advantage = jnp.where(flat, 0.0, centred / jnp.where(flat, 1.0, spread + std_epsilon))
    return _group_relative(logp, ref_logp, advantage, behaviour_logp, response_mask, beta, clip_range)


def dr_grpo(
    logp: Group,
    ref_logp: Group,
    reward: Group,
    behaviour_logp: Group | None = None,
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.04,
    clip_range: Scalar = 0.2,
) -> Float[Array, "*batch"]:
    r"""GRPO done right: `grpo` without the division by the group's standard deviation.

        A_i = r_i - mean r

    A_i is (K - 1)/K of RLOO's, so that the reward's part of the gradient is (K - 1)/K of the policy gradient; the k3
    term is GRPO's, with the gradient of the forward KL. Source: Liu et al., 2025, arXiv:2503.20783, Sec. 3.2.
    """
    reward = sg(as_float(reward))
    advantage = reward - equations.group_mean(reward, response_mask)
    return _group_relative(logp, ref_logp, advantage, behaviour_logp, response_mask, beta, clip_range)


def gibbs_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""Gibbs(reward, beta): on-policy these are gradient descent on -J."""
    return gibbs(problem.ref_logp, problem.rewards_or_raise("the optimum"), beta)


def ppo_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""Gibbs(reward, beta) on-policy; with an old policy held fixed the clipped surrogate stops elsewhere."""
    if problem.sampler_logp is not None:
        raise NoOptimum(
            "ppo has no closed-form optimum with a fixed old policy (sampler_logp): its penalty is measured at that "
            "policy, and the clipped surrogate is flat outside the trust region"
        )
    return gibbs_optimum(problem, beta=beta)


def dr_grpo_optimum(problem: Problem, *, beta: Scalar, group_size: int) -> Float[Array, "*batch A"]:
    r"""argmax_pi (K - 1)/K E_pi[r] - beta KL(reference || policy): the forward-KL member of the f-regularised family.

    Derived here: on-policy the two parts of the gradient are those of E_pi[r] (K - 1)/K and of the forward KL.
    """
    reward = problem.rewards_or_raise("dr_grpo")
    return regularised_optimum(problem.ref_logp, reward, as_float(beta) * group_size / (group_size - 1), "forward_kl")


METHODS = (
    Method(
        loss=reinforce,
        sampler=laws.policy,
        separable=True,
        minimiser=gibbs_optimum,
        invariant_to=("relabelling",),
        source=Source("Williams", 1992, "", "Eq. 4", venue="Machine Learning 8"),
    ),
    Method(
        loss=rloo,
        sampler=laws.policy,
        min_responses=2,
        minimiser=gibbs_optimum,
        invariant_to=("reward_shift", "relabelling"),
        source=Source("Ahmadian et al.", 2024, "2402.14740", "Eq. 8"),
    ),
    Method(
        loss=ppo,
        sampler=laws.old_policy,
        separable=True,
        minimiser=ppo_optimum,
        invariant_to=("relabelling",),
        source=Source("Schulman et al.", 2017, "1707.06347", "Eq. 7"),
    ),
    Method(
        loss=grpo,
        sampler=laws.old_policy,
        min_responses=2,
        no_optimum="the group's standard deviation makes the reward's part of the gradient that of no expected reward "
        "(it depends on the law of the whole group)",
        invariant_to=("reward_shift", "reward_scale", "relabelling"),
        source=Source("Shao et al.", 2024, "2402.03300", "Eq. 3"),
    ),
    Method(
        loss=dr_grpo,
        sampler=laws.policy,
        min_responses=2,
        minimiser=dr_grpo_optimum,
        invariant_to=("reward_shift", "relabelling"),
        source=Source("Liu et al.", 2025, "2503.20783", "Sec. 3.2"),
    ),
)
