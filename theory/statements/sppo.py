r"""SPPO, multiplicative weights and DNO: what is left out, what the average is worth, what one step improves."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import alignjax as aj
from alignjax import Problem, methods, population_grad
from alignjax.games import PreferenceGame, solve
from alignjax.games.solvers import step as solver_step
from alignjax.objectives.inpo import inpo_soft
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick
from theory.statements.inpo import iterated_problem, parts
from theory.statements.nash_md import game_policy_and_step

Law = Float[Array, "A"]


def partition_function(
    problem: Problem, logits: Array, beta: Array, step: Array, *, upper: float = 1 / 24, lower: float = 0.5
) -> Array:
    r"""0 <= log sum_y pi_t(y) e^{h P(y > pi_t)} - h / 2 <= h^2 / 24: SPPO puts h / 2 for it.

    Proof: P(y > pi_t) has mean 1/2 under pi_t (Jensen). Hoeffding gives h^2 / 8; but responses of mass s win at most s
    - s^2 / 2 together (Landau), so that the win-rate is below a uniform number in convex order, and log Z - h / 2 below
    log(sinh(h/2) / (h/2)). At the policy of multiplicative weights the residual is -(log Z - h / 2) for every
    response, so that the gradient on the logits is -2 (log Z - h / 2) (pi_t - pi_{t+1}): zero only where the win-rate
    is constant.
    """
    preference, anchor, _, _ = parts(problem)
    own = Problem(ref_logp=problem.ref_logp, preference=preference, anchor_logp=anchor)
    game = PreferenceGame(preference=preference, ref_logp=problem.ref_logp, tau=beta)
    rate = definitions.win_rate(preference, anchor)
    excess = jnp.log(definitions.expectation(anchor, jnp.exp(step * (rate - lower))))
    after = solver_step(game, "mwu", anchor, step)
    claimed = -2 * excess * (jnp.exp(anchor) - jnp.exp(after))
    return both(
        at_most(0.0, excess),
        at_most(excess, upper * jnp.square(step)),
        equal(population_grad("sppo", own, after, step_size=step) / (1 + step), claimed / (1 + step)),
    )


def residuals_of_a_pair(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, pull: float = 0.0
) -> Array:
    r"""The square of a difference of two SPPO residuals is INPO's loss on win-rates at tau = 0.

    A residual is half of the derivative of SPPO's loss on one response in its log-prob.
    """
    preference, anchor, _, _ = parts(problem)
    logp, rate = definitions.softmax_of(logits), definitions.win_rate(preference, anchor)

    def alone(x: Array, base: Array, q: Array) -> Array:
        samples = aj.Samples(logp=x[None], anchor_logp=base[None], win_rate=q[None])
        return methods["sppo"](samples, step_size=step)

    residual = jax.vmap(jax.grad(alone))(logp, anchor, rate) / 2
    index = jnp.stack(jnp.meshgrid(jnp.arange(logp.size), jnp.arange(logp.size), indexing="ij"), -1)
    picked = [x[index] for x in (logp, problem.ref_logp, anchor, factor * rate)]
    together = inpo_soft(*picked, step_size=step, beta=pull * beta)
    return equal(jnp.square(definitions.outer_difference(residual)), together)


def rare_winner(game: PreferenceGame, step: Array) -> tuple[PreferenceGame, Array]:
    """(game, h up to 4) of an instance: its preferences from the uniform reference, or a sure winner of small mass."""
    share = step * game.tau  # uniform
    size = instances.SIZE
    first = jnp.arange(size) == 0
    table = 0.5 + 0.5 * (first[:, None] & ~first[None, :]) - 0.5 * (first[None, :] & ~first[:, None])
    mass = 1e-4 * 2000.0 ** (2 * share)
    hard = share < 0.5
    ref_logp = jnp.log(jnp.where(hard, jnp.where(first, mass, (1 - mass) / (size - 1)), 1 / size))
    one = PreferenceGame(preference=jnp.where(hard, table, game.preference), ref_logp=ref_logp, tau=game.tau)
    return one, 0.05 * 80.0 ** jnp.mod(7 * share, 1.0)


def gap_of(preference: Array, law: Law) -> Array:
    """2 (max_y P(y > pi) - 1/2)."""
    return 2 * (jnp.max(definitions.win_rate(preference, law)) - 0.5)


def average_of_hedge(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, constant: float = 2.0, lag: float = 0.25
) -> Array:
    r"""The average of T policies has a gap of at most 2 D / (h T) + h / 4, D = max_y log 1 / pi_0(y); sqrt(2 D / T) at
    the theorem's step.

    Proof: Hedge's regret is at most D / h + h T / 8, the payoffs having a range of 1, and the gap is 2 regret / T.
    """
    game, step = rare_winner(game, step)
    count = 12
    depth = -jnp.min(game.ref_logp)
    run = solve(game, "mwu", num_steps=count, step_size=step)
    tuned = solve(game, "mwu", num_steps=count, step_size="theorem")
    played = jnp.log(jnp.mean(jnp.exp(run.trajectory[:-1]), 0))
    assert run.average_logp is not None and tuned.average_logp is not None
    return both(
        at_most(gap_of(game.preference, run.average_logp), constant * depth / (step * count) + lag * step),
        at_most(gap_of(game.preference, tuned.average_logp), jnp.sqrt(constant * depth / count)),
        equal(run.average_logp, played),
        equal(run.gap, gap_of(game.preference, run.logp)),
    )


def one_step_improves(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, both_ways: float = 1.0
) -> Array:
    r"""DNO's target wins against the previous iterate by eta [KL(pi' || pi_t) + KL(pi_t || pi')], eta = 1 / h; the
    paper has the first of the two as a lower bound.

    Proof: games/I5. No convergence follows: such steps may cycle.
    """
    preference, anchor, _, _ = parts(problem)
    after = methods["dno"].optimum(problem, step_size=step)
    game = PreferenceGame(preference=preference, ref_logp=problem.ref_logp, tau=beta)
    won = step * (definitions.wins(preference, after, anchor) - 0.5)
    forward, back = definitions.kl(after, anchor), definitions.kl(anchor, after)
    return both(
        equal(won, factor * (forward + both_ways * back)),
        at_most(forward, won),
        equal(solver_step(game, "mwu", anchor, step), after),
    )


def contrast_finds_the_target(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, base: float = 0.0
) -> Array:
    r"""DNO's cross-entropy is stationary at pi_t e^{h P(y > pi_t)} / Z for every law of the pairs."""
    preference, anchor, _, _ = parts(problem)
    start = pick(base, problem.ref_logp, anchor)
    target = definitions.normalised(start + factor * step * definitions.win_rate(preference, anchor))
    return both(
        equal(population_grad("dno", problem, target, step_size=step) * step, 0.0),
        equal(methods["dno"].optimum(problem, step_size=step), target),
    )


_SPPO, _DNO = ("Wu et al.", 2024, "2405.00675"), ("Rosset et al.", 2024, "2404.03715")

STATEMENTS = (
    Statement(
        id="games/SP1",
        says="SPPO's h / 2 is at most h^2 / 24 below the log-partition, and moves its minimiser",
        formula=r"0\le\log Z-\tfrac h2\le\tfrac{h^2}{24}",
        slack=partition_function,
        instance=iterated_problem,
        source=Source(*_SPPO, "the approximation of log Z; derived in the docstring"),
        mutants=({"upper": 0.02}, {"lower": 0.6}, {"lower": 0.4}),
    ),
    Statement(
        id="games/SP2",
        says="a difference of two SPPO residuals is INPO's without a reference",
        formula=r"(r_y-r_{y'})^2=\ell_{\rm INPO}^{\tau=0}(y,y')",
        slack=residuals_of_a_pair,
        instance=iterated_problem,
        source=Source(*_SPPO, "the loss of its official code; derived in the docstring"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"pull": 1.0}),
    ),
    Statement(
        id="games/SP3",
        says="multiplicative weights: the gap of the average policy",
        formula=r"\mathrm{gap}(\bar\pi_T)\le\tfrac{2D}{hT}+\tfrac h4,\ \sqrt{2D/T}",
        slack=average_of_hedge,
        instance=game_policy_and_step,
        source=Source("Swamy et al.", 2024, "2401.04056", "Theorem 1, with Hedge's constants"),
        mutants=({"constant": 1.0}, {"constant": 0.5, "lag": 0.0}),
    ),
    Statement(
        id="games/DN1",
        says="DNO's target wins by eta times both divergences",
        formula=r"P(\pi'\succ\pi_t)=\tfrac12+\eta[\mathrm{KL}(\pi'\|\pi_t)+\mathrm{KL}(\pi_t\|\pi')]",
        slack=one_step_improves,
        instance=iterated_problem,
        source=Source(*_DNO, "the monotone improvement of Sec. 3, with equality"),
        mutants=({"factor": 2.0}, {"both_ways": 0.0}),
    ),
    Statement(
        id="games/DN2",
        says="DNO's contrastive loss finds its target from any law of the pairs",
        formula=r"\nabla L(\pi_te^{hP(y\succ\pi_t)}/Z)=0\ \forall\nu",
        slack=contrast_finds_the_target,
        instance=iterated_problem,
        source=Source(*_DNO, "Algorithm 1"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"base": 1.0}),
    ),
)
