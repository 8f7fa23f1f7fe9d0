r"""DNO: contrastive regression on win-rates, and its practical form, iterative DPO."""

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import bernoulli_cross_entropy, detached_margin, logistic, pair
from alignjax.feedback import win_rate as exact_win_rate
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.pair_optima import logistic_optimum, tilted_bases
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]
Preference = Float[Array, "*batch 2 2"]


def dno(logp: Pair, anchor_logp: Pair, win_rate: Pair, *, step_size: Scalar = 1.0) -> Float[Array, "*batch"]:
    r"""Direct Nash optimisation: cross-entropy between a difference of win-rates and a margin, as logits.

        loss = -s(t) log s(m) - s(-t) log s(-m),    t = sg[q_0 - q_1],  m = (x_0 - x_1) / h,  x = log pi - log pi_t

    s is the sigmoid, `win_rate` = q is P(y > pi_t), `anchor_logp` the previous iterate pi_t, `step_size` = h > 0 the
    canonical step: the paper's eta is its inverse. q enters through a sigmoid, so that the win-rate against a single
    sampled opponent biases the gradient (by about a hundredth): average it over many.
    Worked number: win-rates (.5, .5) at logp = anchor_logp give log 2 = 0.6931.
    Source: Rosset et al., 2024, arXiv:2404.03715, Algorithm 1.
    """
    margin = pair(log_ratio(logp, anchor_logp), lambda m: m) / as_float(step_size)
    return bernoulli_cross_entropy(margin, target=detached_margin(win_rate))


def dno_prct(
    logp: Pair, anchor_logp: Pair, preference: Preference | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Practical direct Nash optimisation: DPO whose reference is the previous iterate.

        l(0, 1) = -log sigmoid(beta (x_0 - x_1)),    x = log pi - log pi_t
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it response 0 is the chosen one

    `anchor_logp` is the previous iterate pi_t, `beta` > 0 DPO's. Worked number: logp = anchor_logp gives log 2.
    Source: Rosset et al., 2024, arXiv:2404.03715, Algorithm 2.
    """
    return pair(beta * log_ratio(logp, anchor_logp), logistic, preference)


def dno_optimum(problem: Problem, *, step_size: Scalar) -> Float[Array, "*batch A"]:
    r"""pi_t exp(h P(y > pi_t)) / Z, for every law of the pairs with full support: there both logits are equal."""
    anchor = laws.previous(problem, problem.ref_logp)
    return tilted_bases(problem, (anchor,), (1.0,), exact_win_rate(problem, anchor), step_size)


def dno_prct_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""pi_t exp(r / beta) / Z with r the Bradley-Terry reward, for every pair law of full support."""
    return logistic_optimum(problem, laws.previous(problem, problem.ref_logp), "dno_prct", beta)


METHODS = (
    Method(
        loss=dno,
        sampler=laws.proposal,
        opponent=laws.previous,
        num_responses=2,
        minimiser=dno_optimum,
        invariant_to=("log_ratio_shift", "relabelling"),
        source=Source("Rosset et al.", 2024, "2404.03715", "Algorithm 1"),
    ),
    Method(
        loss=dno_prct,
        sampler=laws.proposal,
        num_responses=2,
        minimiser=dno_prct_optimum,
        invariant_to=("reward_shift", "log_ratio_shift", "relabelling"),
        source=Source("Rosset et al.", 2024, "2404.03715", "Algorithm 2"),
    ),
)
