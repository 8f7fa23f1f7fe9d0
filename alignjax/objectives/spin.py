r"""SPIN: self-play fine-tuning, which tells the data from the previous iterate's own responses."""

from jaxtyping import Array, Float

from alignjax import laws
from alignjax.equations import logistic, pair
from alignjax.logspace import Scalar, as_float, log_ratio
from alignjax.pair_optima import tilted_bases
from alignjax.problem import Problem
from alignjax.record import Method, Source

Pair = Float[Array, "*batch 2"]


def spin(logp: Pair, anchor_logp: Pair, *, beta: Scalar = 0.1) -> Float[Array, "*batch"]:
    r"""Self-play fine-tuning: logistic loss on the margin of the data's response over the previous iterate's.

        loss = -log sigmoid(beta (x_0 - x_1)),    x = log pi - log pi_t

    Response 0 is the data's and response 1 is drawn from the previous iterate pi_t, `anchor_logp`; nobody compares
    them. `beta` > 0 is the paper's lambda. Worked number: logp = anchor_logp gives log 2 = 0.6931.
    Source: Chen et al., 2024, arXiv:2401.01335, Eq. 4.7, with the logistic loss.
    """
    return pair(beta * log_ratio(logp, anchor_logp), logistic)


def spin_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""pi_t (p_data / pi_t)^{1 / beta} / Z: the data's law at beta = 1, and a fixed point where the two laws agree.

    Of two responses the data's one is y_i with probability p_i a_j / (p_i a_j + p_j a_i), a = pi_t: Bradley-Terry with
    the reward log(p / a), which beta log(pi / a) has to be.
    """
    data, anchor = laws.data_and_previous(problem, problem.ref_logp)
    power = 1.0 / as_float(beta)
    return tilted_bases(problem, (anchor, data), (1 - power, power), as_float(0.0), 1.0)


METHODS = (
    Method(
        loss=spin,
        sampler=laws.data_and_previous,
        num_responses=2,
        minimiser=spin_optimum,
        invariant_to=("log_ratio_shift",),
        source=Source("Chen et al.", 2024, "2401.01335", "Eq. 4.7"),
    ),
)
