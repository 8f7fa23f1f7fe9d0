r"""Solvers are differentiable in the game, the start and the step size: autodiff against central differences."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import Problem
from alignjax.games import MultiplayerGame, PreferenceGame, best_response, duality_gap, original_gap, solve
from alignjax.games.solvers import solver
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import LOOSE, equal
from theory.statements.multiplayer import annotators

_WIDTH = 1e-5


def _slope(function: Callable[[Array], Array]) -> tuple[Array, Array]:
    """(autodiff, central difference) of a function of one number, at 0."""
    _, found = jax.jvp(function, (jnp.zeros(()),), (jnp.ones(()),))
    below, above = jax.vmap(function)(jnp.array([-_WIDTH, _WIDTH]))
    return found, (above - below) / (2 * _WIDTH)


def every_row_differentiates(problem: Problem, logits: Array, beta: Array, *, factor: float = 1.0) -> Array:
    r"""d/dt of the policy of every solver, with the start, the reference, tau and h moving together; and of the default
    steps, the theorems' and the papers' symbols. Nothing on the way is detached (the mutant 0).
    """
    assert problem.preference is not None
    table = problem.preference
    wave = jnp.sin(1.0 + jnp.arange(logits.size))

    def game(t: Array) -> PreferenceGame:
        ref_logp = definitions.softmax_of(problem.ref_logp + t * wave)
        return PreferenceGame(preference=table, ref_logp=ref_logp, tau=beta * (1 + 0.5 * t))

    def policies(t: Array) -> Array:
        start, h = definitions.softmax_of(logits + t * wave[::-1]), 0.25 * (1 + t)
        single = ("nash_md", "self_play", "reference_response", "egpo", "nash_rs", "mwu", "mnpo", "comal")
        rows = [solver_step(game(t), name, start, h) for name in single]
        run = functools.partial(solve, game(t), num_steps=2, step_size=h, init_logp=start)
        rows += [run("nash_ema").logp, run("onpo").logp, run("mpo", magnet_steps=1).logp]
        return jnp.exp(jnp.stack(rows))

    def steps(t: Array) -> Array:
        found, eta = [], 0.7 * (1 + t)
        for name in ("nash_md", "omd", "inpo", "mmd", "egpo", "mirror_prox", "nash_ema", "mwu", "comal", "mpo"):
            row = solver(name)
            for rule in (row.default_step, row.theorem):
                found += [] if rule is None else [rule(jnp.arange(3.0), game(t), 3).sum()]
            found += [] if row.canonical is None else [row.canonical(eta, game(t).tau)]
        return jnp.stack(found)

    slacks = []
    for function in (policies, steps):
        found, difference = _slope(function)
        slacks.append(equal(found, factor * difference, tolerance=LOOSE))
    return jnp.min(jnp.stack(slacks))


def many_players_differentiate(
    tables: Array, ref_logp: Array, tau: Array, logps: Array, numbers: Array, *, factor: float = 1.0
) -> Array:
    r"""d/dt of gaps, best responses and steps of three players with an oracle each, their policies and tau moving."""
    alive = jnp.isfinite(ref_logp)
    wave = jnp.where(alive, jnp.sin(1.0 + jnp.arange(3 * ref_logp.size)).reshape(3, -1), 0.0)
    # Policies of a few nats: a difference of two numbers sees no further.
    logits = jnp.where(alive, jnp.tanh(jnp.where(alive, logps, 0.0)), -jnp.inf)
    # The maximum in the original gap has no derivative where two responses are as good.
    laws = jnp.exp(jax.vmap(definitions.softmax_of)(logits))
    rates = jnp.einsum("nij,nj->ni", tables, (jnp.sum(laws, 0) - laws) / 2)
    ranked = jnp.sort(jnp.where(alive, rates, -jnp.inf), -1)
    clear = ranked[:, -1] - ranked[:, -2] > 1e-3

    def quantities(t: Array) -> Array:
        game = MultiplayerGame(preferences=tables, ref_logp=ref_logp, tau=0.3 + tau * (1 + 0.5 * t), num_players=3)
        players = jax.vmap(definitions.softmax_of)(jnp.where(alive, logits + t * wave, -jnp.inf))
        found = (best_response(game, players[1:], player=0), *solver_step(game, "mnpo", players, 0.25 * (1 + t)))
        gaps = (duality_gap(game, players), jnp.where(clear, original_gap(game, players), 0.0))
        return jnp.concatenate([*gaps, *map(jnp.exp, found)])

    found, difference = _slope(quantities)
    return equal(found, factor * difference, tolerance=LOOSE)


STATEMENTS = (
    Statement(
        id="games/SV7",
        says="solvers and their step sizes differentiate in the game, the start and the step",
        formula=r"\tfrac{d}{dt}\pi_T(\pi_0(t),\mu(t),\tau(t),h(t))",
        slack=every_row_differentiates,
        instance=instances.smooth_preference_problem,
        source=Source("alignjax", 2026, "", "central differences"),
        mutants=({"factor": 0.0}, {"factor": 2.0}),
    ),
    Statement(
        id="games/SV8",
        says="games of many players differentiate: gaps, best responses and steps",
        formula=r"\tfrac{d}{dt}\mathrm{gap}_i(\pi(t);\tau(t))",
        slack=many_players_differentiate,
        instance=annotators,
        source=Source("alignjax", 2026, "", "central differences"),
        mutants=({"factor": 0.0}, {"factor": 2.0}),
    ),
)
