r"""EGPO: the rate of its steps, and that gradient descent on its loss is these steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import alignjax as aj
from alignjax import Problem, methods, population_grad
from alignjax.extragradient import against_anchor
from alignjax.games import PreferenceGame
from alignjax.games.kernel import mix
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick
from theory.statements.nash_md import game_policy_and_step

Law = Float[Array, "A"]


def linear_rate(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, rate: float = 1.0, stretch: float = 1.0
) -> Array:
    r"""KL(pi* || pi_{t+1}) <= (1 - h tau) KL(pi* || pi_t) from every pi_t if h <= 2 / (1 + 2 tau); at equality the
    factor is 1 / (1 + 2 tau), Nash mirror-prox's for two queries.
    """
    before = definitions.kl(equilibrium, logp)
    h = stretch * (step * game.tau) * 2 / (1 + 2 * game.tau)
    largest = stretch * 2 / (1 + 2 * game.tau)
    return both(
        at_most(definitions.kl(equilibrium, solver_step(game, "egpo", logp, h)), (1 - rate * h * game.tau) * before),
        at_most(
            definitions.kl(equilibrium, solver_step(game, "mirror_prox", logp, largest)),
            before / (1 + rate * 2 * game.tau),
        ),
    )


def descent_is_the_step(
    problem: Problem, logits: Array, beta: Array, *, factor: float = 4.0, half: float = 1.0
) -> Array:
    r"""Gradient descent on EGPO's loss with uniform pairs and rate lr is mirror descent at h = 4 lr / (beta A); with
    the gradient at theta_t against the half step's policy it is the extragradient step.
    """
    assert problem.preference is not None
    size = logits.shape[-1]
    rate = 0.2 * beta * size  # h beta = 0.8 beta <= 1 where beta <= 1.25
    rate = rate / jnp.maximum(beta, 1.0)
    h = factor * rate / (beta * size)
    plain = Problem(ref_logp=problem.ref_logp, preference=problem.preference)
    game = PreferenceGame(preference=problem.preference, ref_logp=problem.ref_logp, tau=beta)
    logp = definitions.softmax_of(logits)
    looked = definitions.softmax_of(logits - rate * population_grad("egpo", plain, logits, beta=beta))
    opponent = dataclasses.replace(plain, anchor_logp=pick(half, looked, logp))
    stepped = definitions.softmax_of(
        logits - rate * population_grad(against_anchor(methods["egpo"]), opponent, logits, beta=beta)
    )
    return both(
        equal(looked, solver_step(game, "omd", logp, h)),
        equal(stepped, solver_step(game, "egpo", logp, h)),
    )


def sampled_opponent_is_unbiased(
    problem: Problem, logits: Array, beta: Array, *, sign: float = 1.0, factor: float = 1.0
) -> Array:
    r"""The win-rates against one sampled y'' ~ nu give EGPO's expected gradient: every y'' is enumerated.

    The target enters linearly. The loss itself is larger by the variance of the target.
    """
    assert problem.preference is not None and isinstance(problem.sampler_logp, Array)
    size = logits.shape[-1]
    law, wins = problem.sampler_logp, problem.preference
    first, second = (axis.ravel() for axis in jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"))
    index = jnp.stack([first, second], -1)
    margin = definitions.softmax_of(logits) - problem.ref_logp

    def loss_and_slope(win_rate: Array) -> tuple[Array, Array]:
        """Values [pairs], and the loss's derivative in the log-prob of response 0."""
        pairs = [margin[index], jnp.zeros((size * size, 2)), win_rate[index]]
        samples = aj.Samples(logp=pairs[0], ref_logp=pairs[1], win_rate=pairs[2])
        value = methods["egpo"](samples, beta=beta)
        shift = jnp.array([1.0, 0.0])
        up, down = (
            methods["egpo"](dataclasses.replace(samples, logp=pairs[0] + s * shift), beta=beta) for s in (1, -1)
        )
        return value, (up - down) / 2  # exact: the loss is a square

    each = [loss_and_slope(sign * wins[:, z]) for z in range(size)]
    weight = jnp.exp(law)
    exact_value, exact_slope = loss_and_slope(factor * definitions.win_rate(wins, law))
    slope = sum(weight[z] * each[z][1] for z in range(size))
    value = sum(weight[z] * each[z][0] for z in range(size))
    spread = jnp.stack([definitions.outer_difference(wins[:, z]).ravel() for z in range(size)])
    mean = jnp.sum(weight[:, None] * spread, 0)
    variance = jnp.sum(weight[:, None] * jnp.square(spread - mean), 0) / jnp.square(beta)
    return both(equal(slope, exact_slope), equal(value, exact_value + variance))


def fixed_point_at_every_step(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, mixed: float = 0.0, hotter: float = 1.0
) -> Array:
    r"""EGPO stays at the Nash for every h, and its loss has no gradient there; constant-step Nash-MD does not stay."""
    response = definitions.best_response(game.preference, game.ref_logp, hotter * game.tau, equilibrium)
    slacks = []
    for share in (0.1, 0.5, 1.0):
        after = pick(
            mixed, solver_step(game, "nash_md", response, 0.5 * step), solver_step(game, "egpo", response, share * step)
        )
        slacks.append(equal(jnp.exp(after), jnp.exp(equilibrium)))
    problem = Problem(ref_logp=game.ref_logp, preference=game.preference)
    gradient = game.tau * population_grad("egpo", problem, response, beta=game.tau)
    return both(*slacks, equal(gradient, 0.0), equal(methods["egpo"].optimum(problem, beta=game.tau), equilibrium))


def steps_differentiate(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, factor: float = 1.0, held: float = 0.0
) -> Array:
    r"""The derivative of an extragradient step in the policy, tau and h together is that of its definition; and a base
    of weight 0 is ignored, zeros included.
    """
    h = 0.5 * step
    alive = jnp.isfinite(game.ref_logp)
    ref = jnp.where(alive, game.ref_logp, 0.0)
    direction = jnp.where(alive, jnp.sin(1.0 + jnp.arange(logp.size)), 0.0)

    def one(by_hand: bool, t: Array) -> Array:
        moved = PreferenceGame(preference=game.preference, ref_logp=game.ref_logp, tau=game.tau * (1 + 0.3 * t))
        start, size = jnp.where(alive, jnp.where(alive, logp, 0.0) + t * direction, -jnp.inf), h * (1 + t)
        if not by_hand:
            return jnp.exp(solver_step(moved, "egpo", start, size))
        held_at = pick(held, jax.lax.stop_gradient(size), size)
        weight = held_at * moved.tau
        centre = jnp.where(alive, (1 - weight) * jnp.where(alive, start, 0.0) + weight * ref, -jnp.inf)
        opponent = definitions.softmax_of(start)
        for _ in range(2):
            # Not `normalised`, whose derivative through a maximum is not one where XLA computes it twice.
            rate = definitions.win_rate(game.preference, opponent)
            opponent = definitions.softmax_of(centre + factor * size * rate)
        return jnp.exp(opponent)

    at, along = (jnp.zeros(()),), (jnp.ones(()),)
    found, expected = (jax.jvp(functools.partial(one, by_hand), at, along) for by_hand in (False, True))
    gone = jnp.where(jnp.arange(logp.size) == jnp.argmax(game.ref_logp), -jnp.inf, game.ref_logp)
    kept = jnp.exp(mix(logp, gone, factor - 1))
    return both(
        *(equal(x / (1 + h), y / (1 + h)) for x, y in zip(found, expected, strict=True)), equal(kept, jnp.exp(logp))
    )


_ZHOU = ("Zhou et al.", 2025, "2503.08942")

STATEMENTS = (
    Statement(
        id="games/EG1",
        says="extragradient contracts by 1 - h tau up to h = 2 / (1 + 2 tau)",
        formula=r"\mathrm{KL}(\pi^*\|\pi_{t+1})\le(1-h\tau)\mathrm{KL}(\pi^*\|\pi_t)",
        slack=linear_rate,
        instance=game_policy_and_step,
        source=Source("Tiapkin et al.", 2025, "2505.19731", "Theorem 1; Zhou et al., 2025"),
        mutants=({"rate": 2.0}, {"stretch": 3.0}),
    ),
    Statement(
        id="games/EG2",
        says="gradient descent on EGPO's loss is the mirror step h = 4 lr / (beta A)",
        formula=r"h=4\,\mathrm{lr}/(\beta A)",
        slack=descent_is_the_step,
        instance=instances.smooth_preference_problem,
        source=Source(*_ZHOU, "the loss of its official code; derived here"),
        mutants=({"factor": 2.0}, {"half": 0.0}),
    ),
    Statement(
        id="games/EG3",
        says="one sampled opponent leaves EGPO's expected gradient as it is",
        formula=r"\mathbb E_{y''\sim\nu}\nabla\ell(P(\cdot,y''))=\nabla\ell(P\nu)",
        slack=sampled_opponent_is_unbiased,
        instance=instances.smooth_preference_problem,
        source=Source(*_ZHOU, "the practical loss; derived in the docstring"),
        mutants=({"sign": -1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="games/EG4",
        says="EGPO's fixed point is the regularised Nash at every step size",
        formula=r"\pi^*_\tau=\mathrm{EG}_h(\pi^*_\tau)\ \forall h",
        slack=fixed_point_at_every_step,
        instance=game_policy_and_step,
        source=Source(*_ZHOU, "Theorem 1"),
        mutants=({"mixed": 1.0}, {"hotter": 1.5}),
    ),
    Statement(
        id="games/EG5",
        says="an extragradient step has the derivative of its definition",
        formula=r"\tfrac{d}{dt}\mathrm{EG}_{h(t)}(\pi_t;\tau(t))",
        slack=steps_differentiate,
        instance=game_policy_and_step,
        source=Source(*_ZHOU, "Eq. 6-7; autodiff of the definition"),
        mutants=({"factor": 2.0}, {"held": 1.0}),
    ),
)
