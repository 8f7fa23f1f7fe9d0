r"""P3O: the policy gradient of a pair of responses, with a trust region and without a baseline."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks, laws
from alignjax.kl_regularised import gibbs
from alignjax.logspace import Scalar, as_float, log_ratio, masked_sum
from alignjax.problem import Problem
from alignjax.record import Method, NoOptimum, Source

sg = jax.lax.stop_gradient
Pair = Float[Array, "*batch 2"]
Tokens = Float[Array, "*batch 2 T"]

CLIPS = ("separate", "joint", "product")
KL_AT = ("recomputed", "rollout")


def _difference(reward: Array, logp: Array, ref_logp: Array, beta: Scalar) -> Array:
    r"""(q, -q), q = sg[(r_0 - r_1) - beta (h_0 - h_1)]: what each response gains on the other. `[..., 2]`."""
    regularised = sg(as_float(reward) - beta * log_ratio(logp, ref_logp))
    return regularised - regularised[..., ::-1]


def _bounded(log_ratio_to_old: Array, ratio_bound: Scalar) -> Array:
    r"""sg[clip(rho, 1/C, C)] of a log-ratio, without overflow for a finite C."""
    log_bound = jnp.log(as_float(ratio_bound))
    return sg(jnp.exp(jnp.clip(log_ratio_to_old, -log_bound, log_bound)))


def p3o(
    logp: Pair,
    ref_logp: Pair,
    reward: Pair,
    behaviour_logp: Pair | None = None,
    *,
    beta: Scalar = 0.05,
    clip_range: Scalar = 0.2,
    ratio_bound: Scalar = 10.0,
    clip: str = "separate",
    kl: str = "recomputed",
) -> Float[Array, "*batch"]:
    r"""Pairwise proximal policy optimisation: a clipped policy gradient on the difference of two rewards.

        q_0 = sg[r_0 - r_1 - beta (h_0 - h_1)] = -q_1,    rho_i = pi(y_i) / sg[pi_old(y_i)],    cl(x) = clip(x, 1/C, C)
        loss = 1/2 sum_i max(-q_i w_i rho_i, -q_i w_i clip(rho_i, 1 - c, 1 + c)),    w_i = sg[cl(rho_{1-i})]

    `clip="separate"` (V1) is that. "product" clips sg(rho_{1-i}) rho_i as one number to 1 -+ c. "joint" (V2) clips the
    margin D = h_0 - h_1 to D_old -+ c: 1/2 max(-q w D, -q w clip(D)), w = sg[cl(rho_0 rho_1)], q = q_0.
    `behaviour_logp` is pi_old, the detached policy if absent; `clip_range` c > 0; `ratio_bound` C >= 1, inf for none.
    `kl="recomputed"`: h of the current policy, as the authors' code has it; "rollout": of pi_old, as the paper's
    algorithm.

    A surrogate: with the KL recomputed and nothing clipped its expected gradient is -grad J for pairs of any old
    policy, with J = E[r] - beta KL(policy || reference); for pairs of the policy, with every clip. A response of the
    pair adds half of `copg`'s gradient.
    Source: Wu et al., 2023, arXiv:2310.00212, Algorithm 1 (the forms are those of its official code).
    """
    checks.member("clip", clip, CLIPS)
    checks.member("kl", kl, KL_AT)
    logp, ref_logp = as_float(logp), as_float(ref_logp)
    old = sg(logp if behaviour_logp is None else as_float(behaviour_logp))
    q = _difference(reward, logp if kl == "recomputed" else old, ref_logp, beta)
    step = log_ratio(logp, old)
    if clip == "joint":
        h = log_ratio(logp, ref_logp)
        before = log_ratio(old, ref_logp)
        margin, centre = h[..., 0] - h[..., 1], before[..., 0] - before[..., 1]
        gain = q[..., 0] * _bounded(step.sum(-1), ratio_bound)
        return 0.5 * _pessimist(gain, margin, jnp.clip(margin, centre - clip_range, centre + clip_range))
    within = functools.partial(jnp.clip, min=1 - clip_range, max=1 + clip_range)
    ratio, weight = jnp.exp(step), _bounded(step[..., ::-1], ratio_bound)
    if clip == "product":
        together = weight * ratio
        return 0.5 * _pessimist(q, together, within(together)).sum(-1)
    return 0.5 * _pessimist(q * weight, ratio, within(ratio)).sum(-1)


def _pessimist(gain: Array, x: Array, clipped: Array) -> Array:
    r"""max(-q x, -q clip(x))."""
    return jnp.maximum(-gain * x, -gain * clipped)


def p3o_token(
    token_logp: Tokens,
    ref_token_logp: Tokens,
    reward: Pair,
    behaviour_token_logp: Tokens | None = None,
    mask: Tokens | None = None,
    response_mask: Pair | None = None,
    *,
    beta: Scalar = 0.05,
    clip_range: Scalar = 0.2,
    ratio_bound: Scalar = 10.0,
) -> Float[Array, "*batch"]:
    r"""P3O with each token's ratio clipped apart: the rewards and the KL stay those of whole responses.

        loss = 1/2 sum_i sum_n max(-q_i w_i rho_in, -q_i w_i clip(rho_in, 1 - c, 1 + c)),    w_i = sg[cl(rho_{1-i})]

    rho_in is the ratio of token n, rho_i = prod_n rho_in that of the response; q, cl and the rest as in `p3o`. The
    gradient is that of `p3o` where the policy is the old one; elsewhere it is not corrected for the tokens before n
    and after. A problem has no tokens of an old policy: on it the samples are the policy's.
    Source: Wu et al., 2023, arXiv:2310.00212, the option clip_tokenwise of its official code.
    """
    token_logp = as_float(token_logp)
    old = sg(token_logp if behaviour_token_logp is None else as_float(behaviour_token_logp))
    if mask is None:
        keep = jnp.ones_like(token_logp, bool)
    else:
        keep = jnp.asarray(mask) != 0
    step = log_ratio(jnp.where(keep, token_logp, 0.0), jnp.where(keep, old, 0.0))
    q = _difference(reward, masked_sum(token_logp, mask), masked_sum(ref_token_logp, mask), beta)
    gain = (q * _bounded(step.sum(-1)[..., ::-1], ratio_bound))[..., None]
    ratio = jnp.exp(step)
    each = _pessimist(gain, ratio, jnp.clip(ratio, 1 - clip_range, 1 + clip_range))
    value = 0.5 * masked_sum(each, mask).sum(-1)
    return value if response_mask is None else jnp.where((jnp.asarray(response_mask) != 0).all(-1), value, 0.0)


def p3o_optimum(problem: Problem, *, beta: Scalar, kl: str = "recomputed") -> Float[Array, "*batch A"]:
    r"""Gibbs(reward, beta): there q = 0 for every pair, whatever the old policy and the clips.

    With an old policy held fixed the loss is flat outside the trust region too, so that a run may stop before.
    Raises: NoOptimum for `kl="rollout"` with an old policy held fixed.
    """
    if kl == "rollout" and problem.sampler_logp is not None:
        raise NoOptimum(
            "p3o has no closed-form optimum with the KL of a fixed old policy (sampler_logp): the penalty is measured "
            "at that policy, and does not move"
        )
    return gibbs(problem.ref_logp, problem.rewards_or_raise("p3o"), beta)


_WU = functools.partial(Source, "Wu et al.", 2023, "2310.00212")

METHODS = (
    Method(
        loss=p3o,
        sampler=laws.old_policy,
        num_responses=2,
        minimiser=p3o_optimum,
        invariant_to=("reward_shift", "relabelling"),
        source=_WU("Algorithm 1"),
    ),
    Method(
        loss=p3o_token,
        sampler=laws.policy,
        num_responses=2,
        minimiser=p3o_optimum,
        invariant_to=("reward_shift", "relabelling"),
        source=_WU("clip_tokenwise of its official code"),
    ),
)
