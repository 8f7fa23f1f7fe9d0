r"""BOND: a policy distilled from best-of-N by a mixture of both KL divergences; J-BOND, vBoN, BoNBoN, QRPO beside it.

The target is pi_BoN = the best of N samples of an anchor: the reference, or a moving one (`anchor_logp`). It is the
KL-regularised optimum of the reward `bond_reward` at beta = 1 / (N - 1) as well (best_of.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import equations, laws
from alignjax.best_of import best_of_n_ratio, quantile_estimate, quantiles
from alignjax.equations import kept
from alignjax.kl_regularised import gibbs
from alignjax.logspace import Scalar, as_float, log_ratio, log_softmax, masked_mean
from alignjax.mixed_kl import mixed_kl_minimiser
from alignjax.objectives.nash_md import ema_of_parameters
from alignjax.problem import Problem
from alignjax.record import Method, Source

sg = jax.lax.stop_gradient
Group = Float[Array, "*batch K"]
Pair = Float[Array, "*batch 2"]
Triple = Float[Array, "*batch 3"]
Values = Float[Array, "*batch"]


def bond(
    logp: Pair, anchor_logp: Pair, reward: Pair, value: Values | None = None, *, weight: Scalar = 0.5
) -> Float[Array, "*batch"]:
    r"""BOND: likelihood of a best-of-N sample, and policy gradient on its log-density for a sample of the policy.

        loss = (1 - w) [-log pi(y_0)] + w [-sg(R - V) log pi(y_1)],    R = reward_1 - (log pi(y_1) - log anchor(y_1))

    The gradient is that of (1 - w) KL(pi_BoN || pi) + w KL(pi || pi_BoN), for y_0 a best-of-N sample of the anchor and
    y_1 a sample of the policy. `reward` is log pi_BoN - log anchor: (N - 1) log p_<= + log B, nats, exact on a table,
    (N - 1) times an estimate of log p_<= elsewhere (`best_of.quantile_estimate`). `value` is a baseline, such as the
    mean return of the other samples. `weight` w is the paper's beta: 0 imitates winners, 1 is the policy gradient.
    Source: Sessa et al., 2024, arXiv:2407.14622, Eq. 12 and Sec. 4.
    """
    logp, anchor_logp, reward = as_float(logp), as_float(anchor_logp), as_float(reward)
    returned = reward[..., 1] - log_ratio(logp, anchor_logp)[..., 1]
    returned = returned if value is None else returned - as_float(value)
    return -(1 - weight) * logp[..., 0] - weight * sg(returned) * logp[..., 1]


def vbon(logp: Group, anchor_logp: Group, reward: Group, response_mask: Group | None = None) -> Float[Array, "*batch"]:
    r"""Variational best-of-N: the backward half of BOND alone, on samples of the policy.

        loss = -mean_i sg[reward_i - h_i] log pi(y_i),    h_i = log pi(y_i) - log anchor(y_i)

    A surrogate with the gradient of KL(pi || pi_BoN); `reward` is log pi_BoN - log anchor, nats.
    Source: Amini et al., 2024, arXiv:2407.06057, Eq. 7.
    """
    return equations.field(as_float(logp), as_float(reward) - log_ratio(logp, anchor_logp), response_mask)


def jbond(
    logp: Triple,
    anchor_logp: Triple,
    reward: Triple,
    value: Values | None = None,
    *,
    weight: Scalar = 0.5,
    gamma: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    r"""J-BOND: best-of-2 of a moving anchor, from one sample of the policy and two of the anchor.

        r_J  = -log 16 if r_0 < min(r_1, r_2), else 0;      best = the better of responses 1 and 2
        R    = sg[r_J - (log pi(y_0) - log anchor(y_0))]
        loss = (1 - w) [-log pi(best)] + w [-(R - V) log pi(y_0)] + gamma sg[log pi(y_0) - log anchor(y_0)] log pi(y_0)

    Response 0 is the policy's, 1 and 2 are the anchor's (half of each where they tie); of `reward` only the order
    matters. E r_J = -log 16 (1 - p_<=)^2 is log p_<= at p_<= = 1/2. The last term has the gradient of gamma KL(pi ||
    anchor); the paper prints it with a minus, which would drive the policy away from its anchor.
    Source: Sessa et al., 2024, arXiv:2407.14622, Algorithm 2 and Eq. 19.
    """
    logp, reward = as_float(logp), sg(as_float(reward))
    shift = sg(log_ratio(logp, anchor_logp)[..., 0])
    worst = reward[..., 0] < jnp.minimum(reward[..., 1], reward[..., 2])
    returned = jnp.where(worst, -jnp.log(16.0), 0.0).astype(logp.dtype) - shift
    returned = returned if value is None else returned - as_float(value)
    better = 0.5 * (1 + jnp.sign(reward[..., 2] - reward[..., 1]))
    best = (1 - better) * logp[..., 1] + better * logp[..., 2]
    return -(1 - weight) * best + (gamma * shift - weight * sg(returned)) * logp[..., 0]


def bonbon(
    logp: Group, ref_logp: Group, reward: Group, response_mask: Group | None = None, *, sft_weight: Scalar = 0.005
) -> Float[Array, "*batch"]:
    r"""BoNBoN: likelihood of the best of the K responses, and IPO on the best against the worst.

        loss = a [-log pi(best)] + (1 - a) (h_best - h_worst - c_K)^2,    c_K = (K - 1) sum_{k < K} 1 / k

    c_K is the mean of log(pi_BoN / ref)(best) - log(pi_BoN / ref)(worst) without atoms: 1, 5.5, 18.15 for K = 2, 4, 8.
    The K responses are drawn from the reference, so that N = K is the size of the group; tied responses share. The
    official code puts DPO's logistic loss in the place of the square.
    Source: Gui et al., 2024, arXiv:2406.00832, Sec. 4.
    """
    logp, ratio, reward = kept(response_mask, as_float(logp), log_ratio(logp, ref_logp), sg(as_float(reward)))
    keep = jnp.ones_like(logp, bool) if response_mask is None else jnp.asarray(response_mask) != 0
    count = jnp.broadcast_to(keep, logp.shape).sum(-1).astype(logp.dtype)
    high = keep & (reward == jnp.where(keep, reward, -jnp.inf).max(-1, keepdims=True))
    low = keep & (reward == jnp.where(keep, reward, jnp.inf).min(-1, keepdims=True))
    harmonic = jax.scipy.special.digamma(jnp.maximum(count, 1.0)) + jnp.euler_gamma
    margin = ratio[..., :, None] - ratio[..., None, :] - ((count - 1) * harmonic)[..., None, None]
    square = masked_mean(jnp.square(margin), high[..., :, None] & low[..., None, :], axis=(-2, -1))
    loss = -sft_weight * masked_mean(logp, high) + (1 - sft_weight) * square
    return jnp.where(count > 1, loss, 0.0)


def qrpo(
    logp: Group, ref_logp: Group, reward: Group, response_mask: Group | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Quantile reward policy optimisation: regression on a reward whose partition function is known.

        loss = mean_i (q_i - beta log Z - beta h_i)^2,    Z = beta (e^{1 / beta} - 1),    h_i = logp_i - ref_logp_i

    `reward` is the quantile q = p_<= in [0, 1] under the reference; it is uniform there without atoms, which gives Z.
    Source: Matrenok et al., 2025, arXiv:2507.08068, Eq. 10.
    """
    beta = as_float(beta)
    log_z = 1 / beta + jnp.log(beta) + jnp.log(-jnp.expm1(-1 / beta))
    ratio, quantile = kept(response_mask, log_ratio(logp, ref_logp), sg(as_float(reward)))
    return masked_mean(equations.residual(beta * ratio, beta * log_z, quantile), response_mask)


# --- what they read on a table


def target_ratio(problem: Problem, logp: Array, *, n: Scalar = 4, include_b: bool = True) -> Float[Array, "*batch A"]:
    r"""log pi_BoN - log anchor = (N - 1) log p_<= + log B, exactly; without log B with `include_b=False`."""
    found = quantiles(laws.previous(problem, logp), problem.rewards_or_raise("bond"))
    return best_of_n_ratio(found, n, include_b=include_b)


def estimated_ratio(
    reward: Array, pool_reward: Array, *, n: Scalar = 4, include_b: bool = True
) -> Float[Array, "*batch K"]:
    r"""`target_ratio` from the rewards of samples of the anchor: (N - 1) log p_<= by its estimate, and log B = log N as
    where no two samples tie (left out with `include_b=False`).
    """
    return (n - 1) * quantile_estimate(reward, pool_reward) + (jnp.log(as_float(n)) if include_b else 0.0)


def estimated_quantile(reward: Array, pool_reward: Array) -> Float[Array, "*batch K"]:
    """`quantile_of` from the rewards of samples of the reference."""
    return jnp.exp(quantile_estimate(reward, pool_reward))


def anchor_of(problem: Problem, logp: Array) -> Float[Array, "*batch A"]:
    """The anchor, or the reference where there is none."""
    return laws.previous(problem, logp)


def quantile_of(problem: Problem, logp: Array) -> Float[Array, "*batch A"]:
    """p_<= under the reference."""
    return jnp.exp(quantiles(problem.ref_logp, problem.rewards_or_raise("qrpo")).at_most)


@laws.drawn_from("best_of_n", "policy")
def best_and_policy(problem: Problem, logp: Array, *, n: Scalar = 4) -> tuple[Array, Array]:
    """Response 0 is the best of N samples of the anchor, response 1 a sample of the policy."""
    return laws.best_of(problem, logp, n=n), laws.policy(problem, logp)


@laws.drawn_from("policy", "previous", "previous")
def policy_and_two_of_the_anchor(problem: Problem, logp: Array) -> tuple[Array, Array, Array]:
    """Response 0 is the policy's, responses 1 and 2 are the anchor's."""
    anchor = laws.previous(problem, logp)
    return laws.policy(problem, logp), anchor, anchor


def moving_anchor(anchor: Any, params: Any, step: Array, *, ema: Scalar = 0.98, anchor_steps: Scalar = 1) -> Any:
    r"""Every `anchor_steps` updates, anchor <- ema anchor + (1 - ema) params; ema = 0 is the hard update.

    The paper's rate eta is 1 - ema. Source: Sessa et al., 2024, arXiv:2407.14622, Algorithm 1 and Eq. 18.
    """
    due = (step + 1) % anchor_steps == 0
    moved = ema_of_parameters(anchor, params, ema=ema)
    return jax.tree.map(lambda old, new: jnp.where(due, new, old), anchor, moved)


# --- where they go


def bond_optimum(problem: Problem, *, n: Scalar, weight: Scalar, include_b: bool) -> Float[Array, "*batch A"]:
    r"""Best-of-N of the anchor for every weight; without B, the minimiser of (1 - w) KL(BoN || .) + w KL(. || Q), Q the
    normalised anchor p_<=^{N-1}.
    """
    anchor = laws.previous(problem, problem.ref_logp)
    target = laws.best_of(problem, problem.ref_logp, n=n)
    if include_b:
        return target
    crude = log_softmax(anchor + target_ratio(problem, anchor, n=n, include_b=False))
    return mixed_kl_minimiser(target, crude, 1 - as_float(weight), as_float(weight))


def vbon_optimum(problem: Problem, *, n: Scalar, include_b: bool) -> Float[Array, "*batch A"]:
    r"""Best-of-N of the anchor; without B, the normalised anchor p_<=^{N-1}."""
    anchor = laws.previous(problem, problem.ref_logp)
    return log_softmax(anchor + target_ratio(problem, anchor, n=n, include_b=include_b))


def jbond_optimum(problem: Problem, *, weight: Scalar, gamma: Scalar) -> Float[Array, "*batch A"]:
    r"""For an anchor that is held fixed, the minimiser of

        (1 - w) KL(Bo2 || pi) + w [KL(pi || anchor) - E_pi E r_J] + gamma KL(pi || anchor)

    with E r_J = -log 16 (1 - p_<=)^2: a slightly conservative best-of-2, exactly it at w = gamma = 0.
    """
    anchor = laws.previous(problem, problem.ref_logp)
    found = quantiles(anchor, problem.rewards_or_raise("jbond"))
    calibrated = -jnp.log(16.0) * jnp.square(-jnp.expm1(found.at_most))
    weight, gamma = as_float(weight), as_float(gamma)
    backward = weight + gamma
    pulled = gibbs(anchor, weight * calibrated, jnp.where(backward > 0, backward, 1.0))
    return mixed_kl_minimiser(laws.best_of(problem, anchor, n=2), pulled, 1 - weight, backward)


_SESSA = ("Sessa et al.", 2024, "2407.14622")

METHODS = (
    Method(
        loss=bond,
        sampler=best_and_policy,
        num_responses=2,
        feedback={"reward": target_ratio, "anchor_logp": anchor_of},
        estimates={"reward": estimated_ratio},
        pool=laws.previous,
        minimiser=bond_optimum,
        invariant_to=(),
        source=Source(*_SESSA, "Eq. 12"),
    ),
    Method(
        name="bond_moving",
        summary="BOND whose anchor follows the policy: iterative (ema = 0 every `anchor_steps`) or by moving averages.",
        loss=bond,
        sampler=best_and_policy,
        num_responses=2,
        feedback={"reward": target_ratio, "anchor_logp": anchor_of},
        estimates={"reward": estimated_ratio},
        pool=laws.previous,
        anchor_update=moving_anchor,
        anchor_start="reference",
        minimiser=bond_optimum,
        invariant_to=(),
        source=Source(*_SESSA, "Algorithm 1 and Eq. 18"),
    ),
    Method(
        loss=jbond,
        sampler=policy_and_two_of_the_anchor,
        num_responses=3,
        feedback={"anchor_logp": anchor_of},
        anchor_update=moving_anchor,
        anchor_start="reference",
        minimiser=jbond_optimum,
        invariant_to=("reward_shift", "reward_scale"),
        source=Source(*_SESSA, "Algorithm 2"),
    ),
    Method(
        loss=vbon,
        sampler=laws.policy,
        separable=True,
        feedback={"reward": target_ratio, "anchor_logp": anchor_of},
        estimates={"reward": estimated_ratio},
        pool=laws.previous,
        minimiser=vbon_optimum,
        invariant_to=("relabelling",),
        source=Source("Amini et al.", 2024, "2407.06057", "Eq. 7"),
    ),
    Method(
        loss=bonbon,
        sampler=laws.data,
        min_responses=2,
        no_optimum="the square fits a constant margin between the best and the worst of a group, which no table has "
        "for all groups; in the limit without atoms its mean is that of best-of-N",
        invariant_to=("reward_shift", "reward_scale", "relabelling"),
        source=Source("Gui et al.", 2024, "2406.00832", "Sec. 4"),
    ),
    Method(
        loss=qrpo,
        sampler=laws.data,
        separable=True,
        feedback={"reward": quantile_of},
        estimates={"reward": estimated_quantile},
        pool=laws.reference,
        no_optimum="its partition function is that of rewards without atoms; on a table not all residuals vanish",
        invariant_to=("relabelling",),
        source=Source("Matrenok et al.", 2025, "2507.08068", "Eq. 10"),
    ),
)
