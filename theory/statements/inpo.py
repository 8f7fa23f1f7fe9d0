r"""INPO: its losses find the mirror-descent iterate, its theorem with the constant the proof gives, its linear rate."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, methods, population_grad
from alignjax.games import PreferenceGame, solve
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal
from theory.statements.nash_md import game_policy_and_step

Law = Float[Array, "A"]


def iterated_problem(key: Array) -> tuple[Problem, Float[Array, "A"], Array, Array]:
    """(problem with a previous iterate, a law of pairs and two opponents; logits; beta; h with h beta < 1)."""
    preference_key, normal_key, number_key = jax.random.split(key, 3)
    noise = jax.random.normal(normal_key, (6, instances.SIZE))
    laws = jax.vmap(definitions.normalised)(noise[:5])
    problem = Problem(
        ref_logp=laws[0],
        preference=instances.preference(preference_key),
        anchor_logp=laws[1],
        sampler_logp=laws[2],
        opponent_logp=laws[3:],
    )
    first, second = jax.random.uniform(number_key, (2,))
    beta = 0.1 * 30.0**first
    return problem, 1.5 * noise[5], beta, (0.05 + 0.9 * second) / beta


def parts(problem: Problem) -> tuple[Array, Law, Law, Float[Array, "J A"]]:
    """(preference, previous iterate, law of the pairs, opponents)."""
    assert problem.preference is not None and isinstance(problem.sampler_logp, Array)
    assert problem.anchor_logp is not None and problem.opponent_logp is not None
    return problem.preference, problem.anchor_logp, problem.sampler_logp, problem.opponent_logp


def minimiser_is_the_iterate(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, weight: float = 1.0
) -> Array:
    r"""ref^{h beta} pi_t^{1 - h beta} e^{h P(y > pi_t)} / Z: no gradient of either loss, on pairs from pi_t (labels) or
    from any law (win-rates), and the iterate of the solver.
    """
    preference, anchor, _, _ = parts(problem)
    pull = weight * step * beta
    rate = definitions.win_rate(preference, anchor)
    after = definitions.normalised(pull * problem.ref_logp + (1 - pull) * anchor + factor * step * rate)
    own = Problem(ref_logp=problem.ref_logp, preference=preference, anchor_logp=anchor)
    game = PreferenceGame(preference=preference, ref_logp=problem.ref_logp, tau=beta)
    hyper = {"step_size": step, "beta": beta}
    return both(
        equal(population_grad("inpo", own, after, **hyper) / (1 + step), 0.0),
        equal(population_grad("inpo_soft", problem, after, **hyper) / (1 + step), 0.0),
        equal(methods["inpo"].optimum(own, **hyper), after),
        equal(methods["inpo_soft"].optimum(problem, **hyper), after),
        equal(solver_step(game, "inpo", anchor, step), after),
    )


def same_as_magnetic_mirror_descent(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, power: float = 1.0, factor: float = 1.0
) -> Array:
    r"""INPO's step h = 1 / eta is MMD's [pi ref^{e tau} e^{e P}]^{1/(1 + e tau)}, the implicit e = h / (1 - h tau)."""
    h = 0.9 * step
    implicit = factor * h / (1 - h * game.tau)
    alive = jnp.isfinite(game.ref_logp)
    own, ref = jnp.where(alive, logp, 0.0), jnp.where(alive, game.ref_logp, 0.0)
    tilted = own + implicit * (game.tau * ref + definitions.win_rate(game.preference, logp))
    magnetic = definitions.normalised(jnp.where(alive, tilted / (1 + power * implicit * game.tau), -jnp.inf))
    return equal(jnp.exp(solver_step(game, "inpo", logp, h)), jnp.exp(magnetic))


def theorem_four(
    game: PreferenceGame,
    equilibrium: Law,
    logp: Law,
    step: Array,
    *,
    constant: float = 0.125,
    contraction: float = 1.0,
    last: float = 2.0,
) -> Array:
    r"""KL(pi* || pi_{t+1}) <= (1 - h tau) KL(pi* || pi_t) + h^2 (1 + tau B)^2 / 8, B the range of log(pi_t / ref); with
    h_t = 2 / (tau (t + 2)), KL(pi* || pi_T) <= 2 / (tau^2 (T + 1)). The paper has 8 h^2 C^2 and 32 C^2.

    Proof: for pi+ ~ pi e^d, KL(p || pi+) <= KL(p || pi) + <pi - p, d> + range(d)^2 / 8 (Hoeffding); here d = h (P pi -
    tau log(pi / ref)), whose inner product is -h tau [KL(pi || pi*) + KL(pi* || pi)] (games/I4). The theorem's steps
    forget the start and keep tau B <= 1, so that h^2 / 2 is left, and the induction of games/NM2 gives 4 / 2.
    """
    after = solver_step(game, "inpo", logp, step)
    ratio = definitions.log_ratio(logp, game.ref_logp)
    alive = jnp.isfinite(logp)
    spread = jnp.max(jnp.where(alive, ratio, -jnp.inf)) - jnp.min(jnp.where(alive, ratio, jnp.inf))
    bound = (1 - contraction * step * game.tau) * definitions.kl(equilibrium, logp)
    one = at_most(definitions.kl(equilibrium, after), bound + constant * jnp.square(step * (1 + game.tau * spread)))
    run = solve(game, "inpo", num_steps=20, step_size="theorem", init_logp=logp)
    distances = jax.vmap(lambda x: definitions.kl(equilibrium, x))(run.trajectory[1:])
    rate = last / (game.tau**2 * (jnp.arange(1, 21) + 1))
    return both(one, at_most(distances, rate, tolerance=1e-10))


def linear_rate(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, rate: float = 1.0, stretch: float = 1.0
) -> Array:
    r"""KL(pi* || pi_{t+1}) <= (1 - h tau) KL(pi* || pi_t) from every pi_t if h / (1 - h tau) <= 4 tau."""
    h = stretch * (step * game.tau) * 4 * game.tau / (1 + 4 * game.tau**2)
    after = solver_step(game, "inpo", logp, h)
    return at_most(definitions.kl(equilibrium, after), (1 - rate * h * game.tau) * definitions.kl(equilibrium, logp))


_ZHANG = ("Zhang et al.", 2024, "2407.00617")

STATEMENTS = (
    Statement(
        id="games/IN1",
        says="INPO's losses have the mirror-descent iterate as their minimiser",
        formula=r"\mu^{h\tau}\pi_t^{1-h\tau}e^{hP(y\succ\pi_t)}/Z",
        slack=minimiser_is_the_iterate,
        instance=iterated_problem,
        source=Source(*_ZHANG, "Eq. 5, Prop. 6"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"weight": 0.5}),
    ),
    Statement(
        id="games/IN2",
        says="INPO's iterate is magnetic mirror descent's, at the implicit step",
        formula=r"\eta_{\rm MMD}=h/(1-h\tau)",
        slack=same_as_magnetic_mirror_descent,
        instance=game_policy_and_step,
        source=Source("Sokota et al.", 2022, "2206.05825", "Eq. 10; derived in the docstring"),
        mutants=({"factor": 2.0}, {"power": 0.0}),
    ),
    Statement(
        id="games/IN3",
        says="INPO's Theorem 4 holds with a sixteenth of its last-iterate constant",
        formula=r"\mathrm{KL}(\pi^*\|\pi_T)\le\frac{2}{\tau^2(T+1)}",
        slack=theorem_four,
        instance=game_policy_and_step,
        source=Source(*_ZHANG, "Theorem 4, sharpened in the docstring"),
        mutants=({"constant": 0.0}, {"contraction": 4.0}, {"last": 0.001}),
    ),
    Statement(
        id="games/IN4",
        says="INPO with a constant step is linear up to an implicit step of 4 tau",
        formula=r"\mathrm{KL}(\pi^*\|\pi_{t+1})\le(1-h\tau)\mathrm{KL}(\pi^*\|\pi_t)",
        slack=linear_rate,
        instance=game_policy_and_step,
        source=Source("Sokota et al.", 2022, "2206.05825", "Theorem 3.4"),
        mutants=({"rate": 2.0}, {"stretch": 8.0}),
    ),
)
