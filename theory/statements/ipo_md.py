r"""Online IPO and IPO-MD: their gradients, their stationary points, and what online DPO does instead."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, laws, methods, population_grad
from alignjax.games.equilibrium import mixture_equilibrium
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import LOOSE, at_most, both, equal, pick

Law = Float[Array, "A"]
Logits = Float[Array, "A"]

ONLINE_DPO = dataclasses.replace(methods["dpo"], name="online_dpo", sampler=laws.policy)
"""DPO on pairs that the policy itself draws."""


def _game(problem: Problem) -> tuple[Array, Law]:
    assert problem.preference is not None
    return problem.preference, problem.ref_logp


def offline_is_a_best_response(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0, online: float = 0.0
) -> Array:
    r"""Offline IPO on pairs from ref finds ref e^{P(y > ref)/beta}: one best response, not the Nash."""
    preference, ref_logp = _game(problem)
    plain = Problem(ref_logp=ref_logp, preference=preference)
    response = definitions.best_response(preference, ref_logp, factor * beta, ref_logp)
    equilibrium = methods["online_ipo"].optimum(plain, beta=beta)
    found = pick(online, equilibrium, methods["ipo"].optimum(plain, beta=beta))
    return both(
        equal(jnp.exp(found), jnp.exp(response)),
        equal(beta * population_grad("ipo", plain, response, beta=beta), 0.0, tolerance=1e-8),
    )


def online_gradient_is_self_play(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 4.0, shift: float = 0.0
) -> Array:
    r"""grad L = -(4 / beta) grad [P(pi > sg[pi]) - beta KL(pi || ref)], which is zero at the Nash at tau = beta.

    Proof: games/R2 with nu = pi, where E_pi grad log pi = 0 removes the centring.
    """
    preference, ref_logp = _game(problem)
    opponent = definitions.softmax_of(logits)

    def value(x: Array) -> Array:
        logp = definitions.softmax_of(x)
        return definitions.wins(preference, logp, opponent) - beta * definitions.kl(logp, ref_logp)

    equilibrium = methods["online_ipo"].optimum(problem, beta=beta)
    response = definitions.best_response(preference, ref_logp, (1 + shift) * beta, equilibrium)
    stationary = definitions.normalised(jnp.where(jnp.isfinite(ref_logp), response, -jnp.inf))
    return both(
        equal(beta * population_grad("online_ipo", problem, logits, beta=beta), -factor * jax.grad(value)(logits)),
        equal(beta * population_grad("online_ipo", problem, stationary, beta=beta), 0.0, tolerance=1e-8),
        equal(jnp.exp(equilibrium), jnp.exp(response)),
    )


def mixture_gradient_is_centred(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 4.0, centre: float = 1.0, weight: float = 0.25
) -> Array:
    r"""grad L = -(4 / beta) E_{y ~ nu} [grad log pi(y) (P(y > nu) - 1/2 - beta (x(y) - E_nu x))], nu = pi^{1-m}
    ref^m, x = log(pi / ref).

    Proof: games/R2. The centring matters: E_nu grad log pi is not 0 where nu is not pi (the paper's Prop. 5.1 as it is
    usually quoted leaves it out).
    """
    preference, ref_logp = _game(problem)
    logp = definitions.softmax_of(logits)
    law = definitions.mixture(logp, ref_logp, weight)
    nu, x = jnp.exp(law), definitions.log_ratio(logp, ref_logp)
    residual = definitions.win_rate(preference, law) - 0.5 - beta * (x - centre * jnp.sum(nu * x))
    claimed = -factor * definitions.weighted_score(logp, nu * residual)
    return equal(beta * population_grad("ipo_md", problem, logits, beta=beta, mixture=0.25), claimed)


def shared_stationary_points(
    problem: Problem, logits: Logits, beta: Array, *, weight: float = 0.25, temperature: float = 1.0
) -> Array:
    r"""IPO-MD and Nash-MD-PG of the same m are both stationary at pi ~ ref e^{P(y > pi^{1-m} ref^m)/beta},
    the optimum of both.
    """
    preference, ref_logp = _game(problem)
    hyper = {"beta": beta, "mixture": 0.25}
    optima = [methods[name].optimum(problem, **hyper) for name in ("ipo_md", "nash_md_pg")]
    law = definitions.mixture(optima[0], ref_logp, weight)
    at = definitions.best_response(preference, ref_logp, temperature * beta, law)
    return both(
        equal(beta * population_grad("ipo_md", problem, at, **hyper), 0.0),
        equal(population_grad("nash_md_pg", problem, at, **hyper), 0.0),
        *(equal(jnp.exp(optimum), jnp.exp(at)) for optimum in optima),
    )


def mixture_is_the_equilibrium(
    problem: Problem, logits: Logits, beta: Array, *, hotter: float = 1.0, itself: float = 0.0
) -> Array:
    r"""With pi ~ ref e^{P(y > nu)/beta} and nu = pi^{1-m} ref^m, nu is the Nash at beta / (1 - m), for every m in
    [0, 1].

    Proof: log nu = (1 - m) log pi + m log ref = log ref + (1 - m) P nu / beta + const. At m = 1, pi is the best
    response to ref.
    """
    preference, ref_logp = _game(problem)
    slacks = []
    for m in (0.6, 1.0):
        at = mixture_equilibrium(preference, ref_logp, beta, m)
        law = definitions.mixture(at, ref_logp, m)
        slacks.append(equal(jnp.exp(at), jnp.exp(definitions.best_response(preference, ref_logp, beta, law))))
        if m < 1:
            fixed = pick(itself, at, law)
            response = definitions.best_response(preference, ref_logp, beta / (1 - hotter * m), fixed)
            slacks.append(equal(jnp.exp(fixed), jnp.exp(response)))
    return both(*slacks)


def online_dpo_is_not_nash(
    problem: Problem, logits: Logits, beta: Array, *, at_nash: float = 0.0, factor: float = 1.0
) -> Array:
    r"""Under Bradley-Terry online DPO is stationary at Gibbs(r, beta), the RLHF solution,
    and not at the Nash (the mutant).
    """
    assert problem.reward is not None
    rated = Problem(ref_logp=problem.ref_logp, reward=problem.reward)
    rlhf = definitions.gibbs(problem.ref_logp, problem.reward, factor * beta)
    equilibrium = methods["online_ipo"].optimum(rated, beta=beta)
    return equal(population_grad(ONLINE_DPO, rated, pick(at_nash, equilibrium, rlhf), beta=beta), 0.0)


def _variances(p: Array, f: Array, sign: Array | float) -> tuple[Array, Array, Array, Array]:
    """Mean and total variance of X_1 and of (X_1 + X_2)/2 over all pairs of responses."""
    score = jnp.eye(p.size) - p[None, :]
    first = f[:, :, None] * score[:, None, :]
    contrast = (first + sign * jnp.swapaxes(first, 0, 1)) / 2
    weight = (p[:, None] * p[None, :])[:, :, None]
    means = [jnp.sum(weight * values, (0, 1)) for values in (first, contrast)]
    spread = [jnp.sum(weight * jnp.square(v - m)) for v, m in zip((first, contrast), means, strict=True)]
    return means[0], means[1], spread[0], spread[1]


def contrast_lowers_the_variance(
    problem: Problem, logits: Logits, beta: Array, *, upper: float = 1.0, lower: float = 0.5, sign: float = 1.0
) -> Array:
    r"""With an antisymmetric f and y, y' ~ pi, Var[(X_1 + X_2)/2] <= Var[X_1], X_1 = f(y, y') grad log pi(y) and
    X_2 = f(y', y) grad log pi(y'); both have online IPO's expected gradient. With two responses it is at least half.

    Proof: X_1 and X_2 have the same law, and Cauchy-Schwarz bounds their covariance. With two responses E <X_1,
    X_2> is 4 (f p_1 p_2)^2 and |E X_1|^2 is half of it, so that the covariance is positive. With three or more it
    can be negative: a minimiser finds ratios down to 1/4, so that "at least half" does not hold in general. All pairs
    are enumerated.
    """
    preference, ref_logp = _game(problem)
    logp = definitions.softmax_of(logits)
    f = preference - 0.5 - beta * definitions.outer_difference(definitions.log_ratio(logp, ref_logp))
    mean, mean_of_contrast, single, pair = _variances(jnp.exp(logp), f, sign)
    found = -beta / 4 * population_grad("online_ipo", problem, logits, beta=beta)
    alive = jnp.argsort(~jnp.isfinite(logits), stable=True)[:2]
    two = jnp.exp(definitions.normalised(logits[alive]))
    _, _, single_of_two, pair_of_two = _variances(two, f[alive][:, alive], sign)
    return both(
        equal(mean, found, tolerance=1e-8),
        equal(mean_of_contrast, found, tolerance=1e-8),
        at_most(pair, upper * single, tolerance=LOOSE),
        at_most(lower * single_of_two, pair_of_two, tolerance=LOOSE),
    )


_CALANDRIELLO = ("Calandriello et al.", 2024, "2403.08635")

STATEMENTS = (
    Statement(
        id="games/IM1",
        says="offline IPO finds the best response to the law of its data",
        formula=r"\pi\propto\mu e^{P(y\succ\mu)/\beta}",
        slack=offline_is_a_best_response,
        instance=instances.on_policy_problem,
        source=Source("Azar et al.", 2023, "2310.12036", "Eq. 7"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"online": 1.0}),
    ),
    Statement(
        id="games/IM2",
        says="online IPO's gradient is 4/beta times self-play's; it is stationary at the Nash",
        formula=r"\nabla L=-\tfrac4\beta\nabla[P(\pi\succ\mathrm{sg}\,\pi)-\beta\,\mathrm{KL}(\pi\|\mu)]",
        slack=online_gradient_is_self_play,
        instance=instances.on_policy_problem,
        source=Source(*_CALANDRIELLO, "Prop. 4.1 and 4.2"),
        mutants=({"factor": 2.0}, {"factor": -4.0}, {"shift": 0.1}),
    ),
    Statement(
        id="games/IM3",
        says="IPO-MD's gradient, with the centring that Prop. 5.1 needs",
        formula=r"-\tfrac4\beta\mathbb E_\nu[\nabla\log\pi(y)(P(y\succ\nu)-\tfrac12-\beta(x_y-\mathbb E_\nu x))]",
        slack=mixture_gradient_is_centred,
        instance=instances.on_policy_problem,
        source=Source(*_CALANDRIELLO, "Prop. 5.1, corrected in the docstring"),
        mutants=({"factor": 2.0}, {"centre": 0.0}, {"weight": 0.75}),
    ),
    Statement(
        id="games/IM4",
        says="IPO-MD and Nash-MD-PG share their stationary point",
        formula=r"\pi\propto\mu e^{P(y\succ\pi^{1-m}\mu^m)/\beta}",
        slack=shared_stationary_points,
        instance=instances.on_policy_problem,
        source=Source(*_CALANDRIELLO, "Prop. 5.2"),
        mutants=({"weight": 0.75}, {"weight": 0.0}, {"temperature": 2.0}, {"temperature": -1.0}),
    ),
    Statement(
        id="games/IM5",
        says="that point's mixture is the Nash at beta / (1 - m)",
        formula=r"\pi^{1-m}\mu^m=\pi^*_{\beta/(1-m)}",
        slack=mixture_is_the_equilibrium,
        instance=instances.on_policy_problem,
        source=Source(*_CALANDRIELLO, "Prop. 5.2"),
        mutants=({"hotter": 0.0}, {"hotter": -1.0}, {"itself": 1.0}),
    ),
    Statement(
        id="games/IM6",
        says="online DPO is stationary at the RLHF solution of Bradley-Terry preferences, not at the Nash",
        formula=r"\nabla L_{\rm online\,DPO}(\mu e^{r/\beta}/Z)=0",
        slack=online_dpo_is_not_nash,
        instance=instances.smooth_problem,
        source=Source(*_CALANDRIELLO, "Sec. 4; derived in the docstring"),
        mutants=({"at_nash": 1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="games/IM7",
        says="contrasting a pair never adds variance; of two responses it keeps at least half",
        formula=r"\mathrm{Var}[\tfrac{X_1+X_2}2]\le\mathrm{Var}[X_1]",
        slack=contrast_lowers_the_variance,
        instance=instances.on_policy_problem,
        source=Source(*_CALANDRIELLO, "the variance argument of Sec. 4; derived in the docstring"),
        mutants=({"upper": 0.9}, {"lower": 0.6}, {"sign": -1.0}),
    ),
)
