r"""The pair-regression lemma behind IPO, INPO and EGPO:
squared loss of differences x(y) - x(y') against an antisymmetric target.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, equations, methods, population_grad, population_loss
from alignjax.logspace import log_softmax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import both, equal, pick

Logits = Float[Array, "A"]


def _parts(problem: Problem) -> tuple[Array, Array]:
    """(preference, the one law of both responses)."""
    assert problem.preference is not None and isinstance(problem.sampler_logp, Array)
    return problem.preference, problem.sampler_logp


def minimiser_is_the_mean_target(problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0) -> Array:
    r"""x(y) = E_{y' ~ nu} t(y, y') + const minimises E_{nu x nu} (x - x' - t)^2, for every antisymmetric t.

    Proof: the derivative in x(y) is 4 nu(y) (x(y) - E x - E_{y'} t(y, y')), t being antisymmetric. Here t = (2 P -
    1) / (2 beta).
    """
    preference, law = _parts(problem)
    target = (2 * preference - 1) / (2 * beta)
    optimum = definitions.normalised(problem.ref_logp + factor * jnp.sum(target * jnp.exp(law)[None, :], axis=1))
    return equal(beta * population_grad("ipo", problem, optimum, beta=beta), 0.0)


def gradient_on_logits(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 4.0, centre: float = 1.0
) -> Array:
    r"""dL / dtheta_y = 4 nu(y) (x(y) - E_nu x - E_{y' ~ nu} t(y, y')): the softmax normaliser cancels."""
    preference, law = _parts(problem)
    nu = jnp.exp(law)
    x = definitions.softmax_of(logits) - problem.ref_logp
    target = (2 * preference - 1) / (2 * beta)
    claimed = factor * nu * (x - centre * jnp.sum(nu * x) - jnp.sum(target * nu[None, :], axis=1))
    return equal(population_grad("ipo", problem, logits, beta=beta), claimed)


def hard_labels_are_a_soft_target(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""E_label (x_w - x_l - c)^2 - E (x - x' - c (2 P - 1))^2 is the same number for every policy, E c^2 (1 - (2 P
    - 1)^2).

    So a hard-label constant c is a step 2 c against the opponent that draws the pairs. Here c = 1 / (2 beta).
    """
    preference, law = _parts(problem)
    c = 1 / (2 * beta)
    target = sign * factor * c * (2 * preference - 1)
    constant = definitions.pair_mean(law, law, jnp.square(c) - jnp.square(c * (2 * preference - 1)))
    slacks = []
    for logp in (definitions.softmax_of(logits), problem.ref_logp):
        x = logp - problem.ref_logp
        soft = definitions.pair_mean(law, law, jnp.square(definitions.outer_difference(x) - target))
        slacks.append(equal(population_loss("ipo", problem, logp, beta=beta), soft + constant))
    return both(*slacks)


def potential_targets_need_no_law(
    problem: Problem, logits: Logits, beta: Array, *, cyclic: float = 0.0, factor: float = 1.0
) -> Array:
    r"""If t(y, y') = u(y) - u(y') the minimiser is x = u + const for every two full-support laws of y and y'.

    Proof: the loss is then E ((x - u)(y) - (x - u)(y'))^2 >= 0, and 0 there. A cyclic target (the mutant) needs
    equal laws.
    """
    assert problem.reward is not None
    u = 0.2 * jnp.tanh(problem.reward)
    loop = 0.05 * jnp.sin(2 * jnp.pi * definitions.outer_difference(jnp.arange(5.0)) / 5)
    table = 0.5 + definitions.outer_difference(u) + pick(cyclic, loop, 0.0)
    exact = Problem(ref_logp=problem.ref_logp, preference=table, sampler_logp=problem.sampler_logp)
    optimum = definitions.gibbs(problem.ref_logp, u, factor * beta)
    return both(
        equal(beta * population_grad("ipo", exact, optimum, beta=beta), 0.0),
        equal(methods["ipo"].optimum(exact, beta=beta), optimum, tolerance=1e-8),
    )


def third_sample_is_unbiased(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""t = h [P(y, y'') - P(y', y'')] with one sampled opponent y'' has the expected gradient of t = h [P(y > nu) -
    P(y' > nu)].

    Proof: the gradient is linear in t. All triples (y, y', y'') are enumerated; y, y' are uniform, y'' follows nu.
    """
    preference, law = _parts(problem)
    step = 1 / beta
    sampled = step * (preference[:, None, :] - sign * preference[None, :, :])
    wins = definitions.win_rate(preference, law)

    def three(x: Array) -> Array:
        margin = definitions.outer_difference(log_softmax(x) - problem.ref_logp)
        each = equations.square(margin[:, :, None], target=sampled)
        return jnp.sum(each * jnp.exp(law)[None, None, :]) / 25

    centred = (definitions.softmax_of(logits) - problem.ref_logp) - factor * step * wins
    claimed = 4 / 5 * (centred - jnp.mean(centred))
    return equal(jax.grad(three)(logits), claimed)


_LEMMA = Source("alignjax", 2026, "", "derived in the docstring")

STATEMENTS = (
    Statement(
        id="games/R1",
        says="pair regression finds the mean target, whatever the antisymmetric target",
        formula=r"x(y)=\mathbb E_{y'\sim\nu}t(y,y')+\mathrm{const}",
        slack=minimiser_is_the_mean_target,
        instance=instances.smooth_preference_problem,
        source=_LEMMA,
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"factor": -1.0}),
    ),
    Statement(
        id="games/R2",
        says="pair regression's gradient on softmax logits",
        formula=r"\partial L/\partial\theta_y=4\nu(y)\big(x(y)-\bar x_\nu-\mathbb E_{y'}t(y,y')\big)",
        slack=gradient_on_logits,
        instance=instances.smooth_preference_problem,
        source=_LEMMA,
        mutants=({"factor": 2.0}, {"factor": -4.0}, {"centre": 0.0}),
    ),
    Statement(
        id="games/R3",
        says="hard labels with constant c are the soft target c (2P - 1), up to a constant",
        formula=r"\mathbb E(x_w-x_l-c)^2=\mathbb E(x-x'-c(2P-1))^2+\mathrm{const}",
        slack=hard_labels_are_a_soft_target,
        instance=instances.smooth_preference_problem,
        source=Source("Zhang et al.", 2024, "2407.00617", "Prop. 6; derived in the docstring"),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"sign": -1.0}),
    ),
    Statement(
        id="games/R4",
        says="a target that is a potential difference is found from any two laws",
        formula=r"t=u(y)-u(y')\Rightarrow x=u+\mathrm{const}",
        slack=potential_targets_need_no_law,
        instance=instances.smooth_problem,
        source=_LEMMA,
        mutants=({"cyclic": 1.0}, {"factor": 2.0}, {"factor": -1.0}),
    ),
    Statement(
        id="games/R5",
        says="one sampled opponent gives the expected gradient of the exact win-rate target",
        formula=r"t=h[P(y,y'')-P(y',y'')],\ y''\sim\nu",
        slack=third_sample_is_unbiased,
        instance=instances.smooth_preference_problem,
        source=Source("Zhou et al.", 2025, "2503.08942", "the practical loss; derived in the docstring"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"sign": -1.0}),
    ),
)
