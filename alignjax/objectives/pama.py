r"""PAMA: several rewards as one advantage, by a closed form over the objectives (He and Maghsudi, 2025)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks, equations, laws, multiobjective
from alignjax.logspace import Scalar, as_float, log_ratio, masked_mean
from alignjax.problem import Problem
from alignjax.record import Method, Source

sg = jax.lax.stop_gradient
Group = Float[Array, "*batch K"]
COMBINATIONS = ("token", "batch", "batch_vertex", "gram", "linear")


def pama(
    logp: Group,
    ref_logp: Group,
    rewards: Float[Array, "*batch K M"],
    behaviour_logp: Group | None = None,
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.1,
    clip_range: Scalar = 0.2,
    combine: str = "token",
    use_noon: bool = True,
) -> Float[Array, "*batch"]:
    r"""Clipped policy gradient on the advantages of M objectives, combined in closed form.

        loss = -mean_k min(rho_k A_k, clip(rho_k, 1 - c, 1 + c) A_k),    rho_k = pi(y_k) / sg[pi_old(y_k)]
        A_k = min_i max(A_ki, 0),    A_ki = R_ki - mean_k R_ki,    R_ki = r_ki - beta (log pi_old - log ref)(y_k)

    A surrogate. `combine` says how the M advantages become one: "token", as above, for every response apart (with
    `use_noon` off, the number of least size between the smallest and the largest A_ki); "batch", one number for the
    whole group, whose gradient vanishes in large groups; "batch_vertex", the objective that number belongs to; "gram",
    the weights of the bound that holds (MGDA-UB); "linear", equal weights (MORLHF with `use_noon` off). The batch is
    the prompt's group of K: put several prompts on the K axis to share one number. Both batch readings need Noon.
    `behaviour_logp` is pi_old (the detached policy if absent). Worked number: two responses with rewards (2, 0) and
    (0, 0), at pi = ref: nothing is good for both objectives, so the gradient is 0.
    Source: He and Maghsudi, 2025, arXiv:2508.07768, Algorithm 1 and Theorem 1; group means instead of value heads.
    """
    checks.member("combine", combine, COMBINATIONS)
    if not use_noon and combine.startswith("batch"):
        raise ValueError(f"combine={combine!r} needs use_noon: without it the group's advantages have mean 0")
    logp = as_float(logp)
    old = sg(logp if behaviour_logp is None else as_float(behaviour_logp))
    (ratio,) = equations.kept(response_mask, log_ratio(old, ref_logp))
    regularised = sg(as_float(rewards) - beta * ratio[..., None])
    keep = None if response_mask is None else jnp.asarray(response_mask)[..., None] != 0
    centred = regularised - masked_mean(regularised, keep, -2)[..., None, :]
    centred = centred if keep is None else jnp.where(keep, centred, 0.0)
    if combine == "token":
        advantage, _ = multiobjective.pama_token(centred, use_noon=use_noon)
    elif combine == "gram":
        own, behind = equations.kept(response_mask, logp, old)
        inside = sg(own) - behind <= jnp.log1p(as_float(clip_range))
        advantage, _ = multiobjective.pama_gram(centred, use_noon=use_noon, response_mask=response_mask, inside=inside)
    elif combine == "linear":
        advantage = (multiobjective.noon(centred) if use_noon else centred).mean(-1)
    else:
        reading = "scalar" if combine == "batch" else "vertex"
        advantage, _ = multiobjective.pama_batch(
            centred, reading=reading, use_noon=use_noon, response_mask=response_mask
        )
    return equations.clipped_field(logp, old, advantage, clip_range, response_mask)


def objectives(problem: Problem, logp: Array) -> Float[Array, "*batch A M"]:
    """The rewards of the problem, or its only reward as one objective (and the method is Noon PPO)."""
    if problem.rewards is not None:
        return problem.rewards
    return problem.rewards_or_raise("pama (without `rewards`)")[..., None]


METHODS = (
    Method(
        loss=pama,
        sampler=laws.old_policy,
        min_responses=2,
        feedback={"rewards": objectives},
        no_optimum="every policy at which no response is better than average for all objectives at once is a fixed "
        "point, and such policies need not be Pareto optimal (see the page of the paper)",
        invariant_to=("reward_shift", "relabelling"),
        source=Source("He and Maghsudi", 2025, "2508.07768", "Algorithm 1"),
    ),
)
