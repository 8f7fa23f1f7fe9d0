r"""f-DPO: DPO with another divergence than reverse KL in the regulariser."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import logistic, pair
from alignjax.f_regularised import regularised_optimum, score
from alignjax.logspace import Scalar, log_ratio
from alignjax.problem import Problem, bradley_terry_reward
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def f_dpo(
    logp: Pair,
    ref_logp: Pair,
    preference: Preference | None = None,
    *,
    beta: Scalar = 0.1,
    divergence: str = "reverse_kl",
    alpha: Scalar = 0.5,
) -> Float[Array, "*batch"]:
    r"""DPO for the problem E_pi[r] - beta E_ref[f(pi / ref)].

        l(0, 1) = -log sigmoid(beta (f'(u_0) - f'(u_1))),    u_i = pi(y_i) / ref(y_i)

    `divergence`: reverse_kl (that is `dpo`), forward_kl, js, or alpha with `alpha` in (0, 1). `beta` > 0.
    Source: Wang et al., 2023, arXiv:2309.16240, Eq. 7.
    """
    return pair(beta * score(log_ratio(logp, ref_logp), divergence, alpha), logistic, preference)


def f_dpo_optimum(problem: Problem, *, beta: Scalar, divergence: str, alpha: Scalar) -> Float[Array, "*batch A"]:
    r"""The optimum of the f-regularised problem at the Bradley-Terry reward. Source: arXiv:2309.16240, Theorem 1."""
    if problem.preference is None:
        reward = problem.rewards_or_raise("f_dpo")
    else:
        reward = bradley_terry_reward(problem.preference, "f_dpo", ~jnp.isneginf(problem.ref_logp))
    return regularised_optimum(problem.ref_logp, reward, beta, divergence, alpha)


METHODS = (
    Method(
        loss=f_dpo,
        sampler=laws.data,
        num_responses=2,
        minimiser=f_dpo_optimum,
        invariant_to=("reward_shift", "relabelling"),
        source=Source("Wang et al.", 2023, "2309.16240", "Eq. 7"),
    ),
)
