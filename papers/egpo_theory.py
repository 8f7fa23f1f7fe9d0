"""Runs behind the EGPO page that test its theory: rates, admissible steps, the loss and its update, the original game.

Each is cached on its settings, so that claims and figures share it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import alignjax as aj
from alignjax import fit, kl, laws, population_grad
from alignjax.games import PreferenceGame, original_gap, solve
from alignjax.games.solvers import step as solver_step
from alignjax.logspace import log_softmax
from alignjax.problem import Problem
from alignjax.record import Method
from papers import egpo_simulation as simulation
from papers.nash_md_experiments import equilibrium_of, normalised, random_games, random_policies
from papers.nash_md_policies import random_preferences, random_problems
from papers.record import Settings

Runs = dict[str, np.ndarray]

RESOLVED = 1e-18
"""A divergence below it is rounding: its ratio to the next is not looked at."""
MULTIPLES = np.asarray([0.25, 0.5, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0])
"""Steps that are tried, in units of 2 / (1 + 2 beta)."""


# --- rates ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("name", "num_steps"))
def excess(
    game: PreferenceGame, equilibrium: Array, start: Array, step: Array, *, name: str, num_steps: int
) -> dict[str, Array]:
    """Along a run of a solver, the largest KL_{t+1} / ((1 - h beta) KL_t), and of the half step over KL_t; ends.

    Shapes `[..., games]` with the steps on the first axis.
    """
    factor = 1 - step * game.tau

    def one(carry: tuple[Array, Array, Array, Array], _: None) -> tuple[Any, None]:
        logp, now, worst, half = carry
        after = solver_step(game, name, logp, step)
        then = kl(equilibrium, after)
        look = now > RESOLVED
        worst = jnp.maximum(worst, jnp.where(look, then / jnp.where(look, factor * now, 1.0), 0.0))
        middle = kl(equilibrium, solver_step(game, "omd", logp, step))
        half = jnp.maximum(half, jnp.where(look, middle / jnp.where(look, now, 1.0), 0.0))
        return (after, then, worst, half), None

    first = kl(equilibrium, start)
    none = jnp.zeros_like(first)
    (_, last, worst, half), _ = jax.lax.scan(one, (start, first, none, none), None, length=num_steps)
    bound = factor**num_steps * first
    return {"excess": worst, "half": half, "final": last, "bound": bound}


@functools.cache
def rates(settings: Settings) -> Runs:
    """EGPO on random games with beta log-uniform in [0.01, 10], far starts, steps from small to too long.

    `[steps, games]` with the steps of `MULTIPLES` and the theorem's 1 / (beta + 3) last; `excess` above 1 is a step
    that contracts by less than 1 - h beta; NaN where h beta >= 1. `beta` `[games]`.
    """
    generator = np.random.default_rng([settings.seed, 130])
    game = random_games(generator, settings.size(2000, 400), 0.01, 10.0)
    equilibrium = equilibrium_of(game)
    start = random_policies(generator, game, 1)[0]
    beta = np.asarray(game.tau)
    steps = np.concatenate([MULTIPLES[:, None] * 2 / (1 + 2 * beta), 1 / (3 + beta)[None]])
    allowed = steps * beta < 1 - 1e-9
    tried = jnp.asarray(np.where(allowed, steps, 0.5 / beta))
    start = jnp.broadcast_to(start, (len(steps), *start.shape))
    runs = excess(game, equilibrium, start, tried, name="egpo", num_steps=settings.size(200, 60))
    found = {n: np.asarray(x) for n, x in runs.items()}
    return {n: np.where(allowed, x, np.nan) for n, x in found.items()} | {"beta": beta, "step": steps}


def first_break(run: Runs) -> np.ndarray:
    """The least step of `MULTIPLES`, in their units, at which a game's divergence falls too slowly; inf if none."""
    with np.errstate(invalid="ignore"):
        broken = run["excess"][: len(MULTIPLES)] > 1 + 1e-9
    return np.where(broken.any(0), MULTIPLES[broken.argmax(0)], np.inf)


# --- the loss and its update ------------------------------------------------------------------------------------------


@functools.cache
def losses(settings: Settings) -> Runs:
    """Exact gradients of the losses on random problems, against updates and estimators they should be.

    `update`: largest error of the policy after gradient descent on the loss, from mirror descent at 4 lr / (beta A).
    `three_sample`: of the gradient with one sampled opponent for both responses, all triples enumerated, relative.
    `closed`: of the simulations' closed-form gradients, relative. `extragradient`: of `fit` from `solve`, by log-prob.
    """
    size, number, beta = 8, settings.size(200, 50), 0.2
    problem, logits = random_problems(np.random.default_rng([settings.seed, 131]), number, size)
    game = PreferenceGame(preference=problem.preferences(), ref_logp=problem.ref_logp, tau=beta)
    logp = log_softmax(logits)
    exact = population_grad("egpo", problem, logits, beta=beta)
    rate = 0.15
    descended = log_softmax(logits - rate * exact)
    stepped = solver_step(game, "omd", logp, 4 * rate / (beta * size))
    run = fit("egpo", problem, num_steps=40, learning_rate=rate, init_logp=logp, extragradient=True, beta=beta)
    mirror = solve(game, "egpo", num_steps=40, step_size=4 * rate / (beta * size), init_logp=logp)
    norm = jnp.linalg.norm(exact, axis=-1)
    closed = []
    for name, mixing, method in (
        (simulation.OMD, 0.0, "egpo"),
        (simulation.OIPO2, 0.0, "online_ipo"),
        (simulation.NASH_MD, 0.25, _nash_md_loss()),
        (simulation.NASH_MD_PG, 0.25, "nash_md_pg"),
    ):
        hyper = {"beta": beta} | ({"mixture": mixing} if mixing else {})
        true = population_grad(method, problem, logits, **hyper)
        rival = simulation.opponent_of(name, logp, problem.ref_logp, mixing)
        formula = simulation.exact_gradient(name, game, logp, rival)
        closed.append(jnp.abs(formula - true).max(-1) / jnp.linalg.norm(true, axis=-1))
    apart = _triples(problem, logits, beta) - exact
    found = {
        "update": jnp.abs(descended - stepped).max(-1),
        "three_sample": jnp.linalg.norm(apart, axis=-1) / norm,
        "extragradient": jnp.abs(run.logp - mirror.logp).max(-1),
        "closed": jnp.stack(closed),
    }
    return {name: np.asarray(x) for name, x in found.items()}


def _nash_md_loss() -> Method:
    """The loss of EGPO against the mixture with the reference: the code's Nash-MD."""
    return dataclasses.replace(aj.methods["egpo"], opponent=laws.mixture)


@jax.jit
def _triples(problem: Problem, logits: Array, beta: float) -> Array:
    """The expected gradient of the loss when P(y, y'') and P(y', y''), of one y'' of the policy, are its win-rates."""
    size = logits.shape[-1]
    first, second, rival = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    index = np.stack([first.ravel(), second.ravel()], -1)
    weight = jnp.exp(log_softmax(logits))[..., rival.ravel()] / size**2
    wins = problem.preferences()[..., index, rival.ravel()[:, None]]

    def loss(x: Array) -> Array:
        each = aj.methods["egpo"].loss(log_softmax(x)[..., index], problem.ref_logp[..., index], wins, beta=beta)
        return (jax.lax.stop_gradient(weight) * each).sum()

    return jax.grad(loss)(logits)


@functools.cache
def code_mixing(settings: Settings) -> Runs:
    """Which weight the reference has in one descent step on the code's Nash-MD loss, over the code's mixing weight.

    On a game of ties alone the win-rates are equal, and the step is the pull: theta' = (1 - w) theta + w ref.
    """
    number = settings.size(50, 10)
    ratios = []
    for plan in simulation.TABLES:
        generator = np.random.default_rng([settings.seed, 132])
        ref_logp, logp = normalised(generator.normal(size=(2, number, plan.actions)))
        ties = np.full((number, plan.actions, plan.actions), 0.5)
        problem = Problem(ref_logp=jnp.asarray(ref_logp), preference=jnp.asarray(ties))
        slope = population_grad(_nash_md_loss(), problem, logp, beta=plan.beta, mixture=plan.mixing)
        moved = plan.rate * np.asarray(slope)
        away = logp - ref_logp
        away = away - away.mean(-1, keepdims=True)
        weight = (moved * away).sum(-1) / (away * away).sum(-1)
        ratios.append(weight / plan.mixing)
    return {"ratio": np.stack(ratios)}


# --- fixed points -----------------------------------------------------------------------------------------------------


@functools.cache
def fixed_points(settings: Settings) -> Runs:
    """How far one step from the Nash moves a log-probability, `[steps, games]`: EGPO, and Nash-MD at the same steps.

    `gradient`: the population gradient of the loss there, `[games]`.
    """
    generator = np.random.default_rng([settings.seed, 133])
    game = random_games(generator, settings.size(2000, 400), 0.1, 10.0, smallest=12)
    equilibrium = equilibrium_of(game)
    fractions = np.asarray([0.01, 0.1, 0.5, 1.0])
    moves: dict[str, list[np.ndarray]] = {"egpo": [], "nash_md": []}
    for fraction in fractions:
        for name, found in moves.items():
            after = solver_step(game, name, equilibrium, fraction / game.tau)
            found.append(np.asarray(jnp.abs(after - equilibrium).max(-1)))
    problem = Problem(ref_logp=game.ref_logp[:50], preference=game.preference[:50])
    beta = jnp.asarray(game.tau)[:50]
    slope = jax.vmap(lambda p, x, b: population_grad("egpo", p, x, beta=b))(problem, equilibrium[:50], beta)
    return {name: np.stack(found) for name, found in moves.items()} | {"gradient": np.asarray(slope)}


# --- the original game, and noise -------------------------------------------------------------------------------------

TARGETS = np.asarray([0.3, 0.1, 0.03, 0.01])


@functools.cache
def original(settings: Settings) -> Runs:
    """Updates until EGPO's policy has an original gap below each of `TARGETS`, `[targets, games]`.

    beta = gap / (4 log 1 / min ref), at which the regularised Nash itself has half of that gap at most.
    """
    number = settings.size(64, 32)
    preference = random_preferences(np.random.default_rng([settings.seed, 134]), (number,), 10)
    found = []
    for target in TARGETS:
        beta = float(target / (4 * np.log(10)))
        game = PreferenceGame(preference=jnp.asarray(preference), tau=beta)
        most = int(np.ceil(12 / beta / 500)) * 500
        path = solve(game, "egpo", num_steps=most, every=most // 500).trajectory
        gap = np.asarray(original_gap(game, path))
        found.append(simulation.first_below(gap, most // 500, target))
    return {"updates": np.stack(found)}


@functools.cache
def noisy(settings: Settings) -> dict[str, Runs]:
    """Mirror steps with win-rates from 100 sampled opponents an update, at the official steps of the exact runs.

    For each of the two larger betas: the median gap over the last half of the run, `[games]`, of each solver.
    """
    found = {}
    for stream, plan in enumerate(simulation.TABLES[1:]):
        generator = np.random.default_rng([settings.seed, 135])
        game = simulation.random_game(generator, (settings.size(30, 10),), plan.actions, plan.beta)
        updates = 1_000 if settings.quick else min(plan.updates, 4_000)
        rows = {}
        for name in (simulation.OMD, simulation.EGPO):
            run = solve(
                game, name, num_steps=updates, step_size=plan.step_size, every=updates // 200,
                key=jax.random.fold_in(jax.random.key(settings.seed, impl="rbg"), 140 + stream), num_samples=100,
            )  # fmt: skip
            gaps = np.asarray(aj.games.duality_gap(game, run.trajectory))
            rows[name] = np.median(gaps[len(gaps) // 2 :], 0)
        found[f"{plan.beta:g}"] = rows
    return found


def _furthest(params: Any, others: Any) -> float:
    """The largest difference of a parameter."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True)
    return max(float(jnp.abs(one - other).max()) for one, other in pairs)


@functools.cache
def network_loops(settings: Settings) -> Runs:
    """Parameters after a few updates of each algorithm: the simulations' loop against `fit` on the library's losses.

    The largest difference over all parameters, for each of `simulation.ALGORITHMS`, and how far they moved.
    """
    plan = dataclasses.replace(simulation.NETWORK, actions=12, rate=0.05)
    net = simulation.network().clone(actions=plan.actions)
    params = net.init(jax.random.key(settings.seed))
    many = jax.tree.map(lambda x: x[None], params)
    generator = np.random.default_rng([settings.seed, 136])
    preference = random_preferences(generator, (simulation.CONTEXTS,), plan.actions)
    ref_logp = log_softmax(net.apply(params))
    problem = Problem(ref_logp=ref_logp, preference=jnp.asarray(preference))
    game = PreferenceGame(preference=jnp.asarray(preference)[None], ref_logp=ref_logp[None], tau=jnp.asarray(plan.beta))
    mixing, updates = 0.1, 5
    logits_of = jax.vmap(net.apply)
    policy = lambda p: log_softmax(net.apply(p))
    apart, moved = [], []
    for name, method, hyper in (
        (simulation.OMD, "egpo", {}),
        (simulation.OIPO2, "online_ipo", {}),
        (simulation.NASH_MD, _nash_md_loss(), {"mixture": mixing}),
        (simulation.NASH_MD_PG, "nash_md_pg", {"mixture": mixing}),
        (simulation.EGPO, "egpo", {"extragradient": True}),
    ):
        _, last = simulation.descend(
            game,
            many,
            None,
            plan.rate * plan.beta,
            mixing,
            algorithm=name,
            logits_of=logits_of,
            points=1,
            every=updates,
        )
        run = fit(
            method, problem, num_steps=updates, learning_rate=plan.rate * plan.beta, policy=policy, init_params=params,
            beta=plan.beta, **hyper,
        )  # fmt: skip
        apart.append(_furthest(jax.tree.map(lambda x: x[0], last), run.params))
        moved.append(_furthest(params, run.params))
    return {"apart": np.asarray(apart), "moved": np.asarray(moved)}
