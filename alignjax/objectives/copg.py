r"""CoPG, AGRO and DRO: squared losses that ask the regularised reward R = r - beta h to be the same for every response.

R is constant in y only at Gibbs(reward, beta), where it is beta log Z: whoever drew the responses, and without
importance weights.
"""

import numpy as np
from jaxtyping import Array, Float

from alignjax import checks, laws
from alignjax.constrained import log_regression
from alignjax.equations import group_covariance, kept, residual
from alignjax.kl_regularised import gibbs, optimal_value
from alignjax.logspace import Scalar, as_float, log_ratio, masked_mean, per_batch
from alignjax.problem import Problem
from alignjax.record import Method, NoOptimum, Source

Group = Float[Array, "*batch K"]


def copg(
    logp: Group, ref_logp: Group, reward: Group, response_mask: Group | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Contrastive policy gradient: rewards of a pair against its log-ratios, from any law of the responses.

        l(y, y') = (R_{beta/2}(y) - R_{beta/2}(y')) (h(y) - h(y')),    R_b = r - b h,    h = logp - ref_logp
        loss     = -mean_{i < j} l(y_i, y_j)

    Not a surrogate: autodiff goes through R, and the half of beta makes that the gradient of sg[R_beta(y) - R_beta(y')]
    (log pi(y) - log pi(y')). For responses of the policy it is -2 grad J in expectation, for every K >= 2, with J =
    E[r] - beta KL(policy || reference); from any other law it vanishes at the same policy. In O(K): sum_{i<j} (a_i -
    a_j)(b_i - b_j) = K sum_i (a_i - mean a) b_i. Worked number: rewards (1, 0) and log-ratios (1, 0) at beta = 1/2
    give -3/4. Source: Flet-Berliac et al., 2024, arXiv:2406.19185, Eq. 11.
    """
    h, reward = kept(response_mask, log_ratio(logp, ref_logp), as_float(reward))
    return -2 * group_covariance(reward - 0.5 * beta * h, h, response_mask)


def agro(
    logp: Group, ref_logp: Group, reward: Group, response_mask: Group | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Any-generation reward optimisation: half the variance of the regularised reward over a group.

        loss = 1/(2 (K - 1)) sum_i (R_i - mean R)^2,    R_i = r_i - beta h_i,    h = logp - ref_logp

    The unbiased variance: for one law of the responses the expectation is 1/2 Var R = beta^2/2 Var log(pi / pi*), the
    log-variance divergence to Gibbs(reward, beta), and `dro`'s loss at its best V. It is beta/2 times `copg` plus a
    constant, group by group; for responses of the policy the gradient is -beta grad J. Worked number: rewards (1, 0)
    and equal log-ratios give 1/4. Source: Tang et al., 2025, arXiv:2503.19612, the consistency loss.
    """
    (regularised,) = kept(response_mask, as_float(reward) - beta * log_ratio(logp, ref_logp))
    return 0.5 * group_covariance(regularised, regularised, response_mask)


def dro(
    logp: Group,
    ref_logp: Group,
    reward: Group,
    value: Float[Array, "*batch"],
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Direct reward optimisation: one response at a time, its regularised reward against a value of the prompt.

        loss = 1/2 mean_i (r_i - V - beta h_i)^2,    h = logp - ref_logp

    `value` V is learned beside the policy by the same loss (its gradient flows here too); on a problem without one it
    is V* = beta log Z, and then the optimum is Gibbs(reward, beta). With another V it is not: see `dro_optimum`. V =
    E[r], as a mean baseline has it, is another V. Worked number: reward 1, V = 0 and equal log-probs give 1/2.
    Source: Richemond et al., 2024, arXiv:2405.19107, Eq. 5 (the paper's tau is beta here).
    """
    h, reward = kept(response_mask, log_ratio(logp, ref_logp), as_float(reward))
    return 0.5 * masked_mean(residual(beta * h, per_batch(value), reward), response_mask)


def consistent(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""Gibbs(reward, beta), for any laws of the responses; alone where pairs that are drawn connect all responses.

    Source: Flet-Berliac et al., 2024, arXiv:2406.19185, Theorem 1, which asks for laws of full support.
    """
    return gibbs(problem.ref_logp, problem.rewards_or_raise("the optimum"), beta)


def value_or_optimal(problem: Problem, logp: Array, *, beta: Scalar = 0.1) -> Float[Array, "*batch"]:
    r"""`problem.value`, or V* = beta log Z."""
    if problem.value is not None:
        return problem.value
    return optimal_value(problem.ref_logp, problem.rewards_or_raise("dro"), beta)


def dro_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""Gibbs(reward, beta) where V is V*; where it is given, the policy with nu (r - V - beta h) proportional to pi.

    That is pi = ref exp{r/beta - (pi/nu) (V_pi - V)/beta} / e^{V/beta} with the multiplier V_pi - V = E_nu[r - beta h]
    - V. Above V* the loss need not be convex there, and the policy is a local minimum. Source: Richemond et al., 2024,
    arXiv:2405.19107, Theorem 1 and Proposition 1; `constrained.log_regression`.
    Raises: NoOptimum where V is so far above V* that no policy is stationary with beta h - (r - V) <= beta.
    """
    reward = problem.rewards_or_raise("dro")
    if problem.value is None:
        return gibbs(problem.ref_logp, reward, beta)
    law = laws.data(problem, problem.ref_logp)
    if isinstance(law, tuple):
        raise ValueError(f"dro looks at one response at a time; sampler_logp was a tuple of {len(law)} laws")
    found = log_regression(problem.ref_logp + (reward - per_batch(problem.value)) / as_float(beta), law)
    if checks.is_concrete(found) and np.isnan(np.asarray(found)).any():
        raise NoOptimum(
            "dro has no closed-form optimum at this value: it is so far above beta log Z that its square loss is not "
            "convex where it is stationary"
        )
    return found


METHODS = (
    Method(
        loss=copg,
        sampler=laws.data,
        min_responses=2,
        minimiser=consistent,
        invariant_to=("reward_shift", "relabelling"),
        source=Source("Flet-Berliac et al.", 2024, "2406.19185", "Eq. 11"),
    ),
    Method(
        loss=agro,
        sampler=laws.data,
        min_responses=2,
        minimiser=consistent,
        invariant_to=("reward_shift", "relabelling"),
        source=Source("Tang et al.", 2025, "2503.19612", "the consistency loss"),
    ),
    Method(
        loss=dro,
        sampler=laws.data,
        separable=True,
        minimiser=dro_optimum,
        feedback={"value": value_or_optimal},
        invariant_to=("relabelling",),
        source=Source("Richemond et al.", 2024, "2405.19107", "Eq. 5"),
    ),
)
