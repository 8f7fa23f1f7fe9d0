r"""Towards the original game: ONPO's average and its losses, COMAL's proximal steps, Nash-RS's rejection sampling."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, methods, population_grad
from alignjax.games import PreferenceGame, best_response, solve
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick
from theory.statements.inpo import iterated_problem, parts
from theory.statements.nash_md import game_policy_and_step
from theory.statements.sppo import rare_winner

Law = Float[Array, "A"]
ROUNDS = 30


def optimistic_average(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, constant: float = 1.0, printed: float = 0.0
) -> Array:
    r"""T gap(average of T) <= 2 D / h + 1 at every T, for h <= 1, D = max_y log 1 / pi_0(y).

    Proof: optimistic mirror descent's regret is at most D / h plus h/4 sum |pi_t - pi_{t-1}|_1^2 (win-rates move by at
    most half as much as policies) less 1/(4 h) times the same sum; the first step, which has no prediction, costs
    at most h / 2. Theorem 2 as printed has 4 sqrt(D) at h = min(1/2, sqrt D) (the mutant `printed`): a sure winner
    breaks it.
    """
    game, step = rare_winner(game, step)
    depth = -jnp.min(game.ref_logp)
    h = pick(printed, jnp.minimum(0.5, jnp.sqrt(depth)), step / 4.0)
    run = solve(game, "onpo", num_steps=ROUNDS, step_size=h)
    assert run.average_logp is not None
    rounds = jnp.arange(1.0, ROUNDS + 1)
    averages = jnp.cumsum(jnp.exp(run.trajectory[:-1]), 0) / rounds[:, None]
    gaps = 2 * (jnp.max(averages @ game.preference.T, -1) - 0.5)
    bound = pick(printed, 4 * jnp.sqrt(depth), 2 * constant * depth / h + constant)
    return both(at_most(rounds * gaps, bound), equal(jnp.exp(run.average_logp), averages[-1]))


def losses_of_a_step(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, base: float = 0.0
) -> Array:
    r"""ONPO's loss with base pi'_t is stationary at pi'_t e^{h P(y > nu)} / Z, nu the law of the pairs: nu = pi_t
    corrects the base, and the same pairs over the corrected base predict, as the solver does in one step.
    """
    preference, anchor, _, _ = parts(problem)
    rate = definitions.win_rate(preference, anchor)
    game = PreferenceGame(preference=preference, ref_logp=problem.ref_logp, tau=beta)
    corrected = definitions.normalised(pick(base, problem.ref_logp, anchor) + factor * step * rate)
    predicted = definitions.normalised(corrected + factor * step * rate)
    found, slacks = [], []
    for start, at in ((anchor, corrected), (corrected, predicted)):
        one = Problem(ref_logp=problem.ref_logp, preference=preference, anchor_logp=start, sampler_logp=anchor)
        slacks.append(equal(population_grad("onpo", one, at, step_size=step) / (1 + step), 0.0))
        found.append(methods["onpo"].optimum(one, step_size=step))
    played = solve(game, "onpo", num_steps=1, step_size=step, init_logp=anchor).logp
    return both(*slacks, equal(found[0], corrected), equal(found[1], predicted), equal(played, predicted))


def proximal_identity(
    table: Array, winner: Law, tau: Array, logp: Law, *, sign: float = 1.0, factor: float = 1.0, explicit: float = 0.0
) -> Array:
    r"""COMAL's step pi' ~ pi e^{h P pi'} has KL(w || pi) = KL(w || pi') + KL(pi' || pi) + h (P(w > pi') - 1/2) for
    every original Nash w, whatever the reference of the game.
    """
    h = 1 / jnp.maximum(tau, 0.2)
    game = PreferenceGame(preference=table, tau=1.0)
    after = solver_step(game, "comal", logp, h)
    after = pick(explicit, solver_step(game, "mwu", logp, h), after)
    implicit = definitions.normalised(logp + factor * h * definitions.win_rate(table, after))
    margin = definitions.wins(table, winner, after) - 0.5
    right = definitions.kl(winner, after) + sign * definitions.kl(after, logp) + factor * h * margin
    return both(equal(after, implicit), equal(definitions.kl(winner, logp), right))


def proximal_steps_come_nearer(
    table: Array, winner: Law, tau: Array, logp: Law, *, sign: float = 1.0, explicit: float = 0.0
) -> Array:
    r"""KL(w || pi_k) never rises along COMAL, for every original Nash w and every h.

    Multiplicative weights may go away (the mutant).

    Proof: games/PX1, whose other terms are not negative.
    """
    game = PreferenceGame(preference=table, tau=1.0)
    h, laws = 1 / jnp.maximum(tau, 0.2), [logp]
    for _ in range(3):
        here = laws[-1]
        laws.append(pick(explicit, solver_step(game, "mwu", here, h), solver_step(game, "comal", here, h)))
    distances = jnp.stack([definitions.kl(winner, x) for x in laws])
    return at_most(sign * distances[1:], sign * distances[:-1])


def rejected(key: Array) -> tuple[PreferenceGame, Law, Array]:
    """(game with tau >= 0.2, policy, uniform numbers for 400 proposals: the response, and whether it is kept)."""
    game_key, number_key = jax.random.split(key)
    game, logp = instances.game_and_policy(game_key)
    warm = PreferenceGame(preference=game.preference, ref_logp=game.ref_logp, tau=0.2 + game.tau)
    return warm, logp, jax.random.uniform(number_key, (2, 400))


def rejection_sampling(
    game: PreferenceGame, logp: Law, numbers: Array, *, factor: float = 1.0, swap: float = 0.0, rate: float = 1.0
) -> Array:
    r"""y' ~ ref, kept with probability e^{-P(pi > y') / tau}, has the law BR(pi), and is kept with probability at least
    e^{-1 / tau}.

    Proof: -P(pi > y') = P(y' > pi) - 1. Enumerated, and drawn: the shares of n kept responses are within sqrt(32 / (2
    n)) of the law, but for a chance of 1e-12 (Hoeffding).
    """
    loses = jnp.sum(jnp.exp(logp)[:, None] * game.preference, axis=0)  # P(pi > y')
    wins = pick(swap, 1 - loses, loses)
    keep = jnp.exp(-wins / (factor * game.tau))
    joint = jnp.exp(game.ref_logp) * keep
    response = jnp.exp(best_response(game, logp))
    steps = jnp.cumsum(jnp.exp(game.ref_logp))
    drawn = jnp.minimum(jnp.sum(numbers[0][:, None] * steps[-1] > steps[None, :], -1), steps.size - 1)
    kept = numbers[1] < keep[drawn]
    count = jnp.sum(kept)
    shares = jnp.zeros_like(response).at[drawn].add(kept) / jnp.maximum(count, 1)
    centre = definitions.mixture(logp, game.ref_logp, 0.5)
    against = definitions.win_rate(game.preference, jnp.log(joint / jnp.sum(joint)))
    stepped = definitions.normalised(centre + 0.5 / game.tau * against)
    return both(
        equal(joint / jnp.sum(joint), response),
        at_most(jnp.exp(-1 / (rate * game.tau)), jnp.sum(joint)),
        at_most(jnp.abs(shares - response), jnp.where(count > 0, jnp.sqrt(16 / jnp.maximum(count, 1)), 1.0)),
        equal(jnp.exp(solver_step(game, "nash_rs", logp, 0.5 / game.tau)), jnp.exp(stepped)),
    )


_ONPO, _COMAL = ("Zhang et al.", 2025, "2502.16852"), ("Liu et al.", 2024, "2410.23223")

STATEMENTS = (
    Statement(
        id="games/ON1",
        says="optimistic averages: T times the gap is bounded; Theorem 2's constant as printed is not enough",
        formula=r"T\,\mathrm{gap}(\bar\pi_T)\le\tfrac{2D}h+1",
        slack=optimistic_average,
        instance=game_policy_and_step,
        source=Source(*_ONPO, "Theorem 2, corrected in the docstring"),
        mutants=({"printed": 1.0}, {"constant": 0.25}),
    ),
    Statement(
        id="games/ON2",
        says="ONPO's loss over the base corrects and predicts, as the solver's step",
        formula=r"\pi'_te^{hP(y\succ\nu)}/Z",
        slack=losses_of_a_step,
        instance=iterated_problem,
        source=Source(*_ONPO, "the losses of the update in Theorem 2"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"base": 1.0}),
    ),
    Statement(
        id="games/PX1",
        says="COMAL's step is implicit, and its three-point identity is exact",
        formula=r"\mathrm{KL}(w\|\pi)=\mathrm{KL}(w\|\pi')+\mathrm{KL}(\pi'\|\pi)+h[P(w\succ\pi')-\tfrac12]",
        slack=proximal_identity,
        instance=instances.cyclic_game,
        source=Source(*_COMAL, "Lemma 1, with equality"),
        mutants=({"sign": -1.0}, {"factor": 2.0}, {"explicit": 1.0}),
    ),
    Statement(
        id="games/PX2",
        says="COMAL never moves away from an original Nash",
        formula=r"\mathrm{KL}(w\|\pi_{k+1})\le\mathrm{KL}(w\|\pi_k)",
        slack=proximal_steps_come_nearer,
        instance=instances.cyclic_game,
        source=Source(*_COMAL, "Theorem 1"),
        mutants=({"explicit": 1.0}, {"sign": -1.0}),
    ),
    Statement(
        id="games/RS1",
        says="Nash-RS: rejection sampling from the reference draws the best response",
        formula=r"\mu(y')e^{-P(\pi\succ y')/\tau}\propto\mathrm{BR}_\tau(\pi),\ \Pr[\mathrm{kept}]\ge e^{-1/\tau}",
        slack=rejection_sampling,
        instance=rejected,
        source=Source("Liu et al.", 2025, "2503.10990", "Sec. 5"),
        mutants=({"factor": 2.0}, {"swap": 1.0}, {"rate": 4.0}),
    ),
)
