r"""Solvers are differentiable in the game, the start and the step size: autodiff against central differences."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import Problem
from alignjax.games import PreferenceGame, solve
from alignjax.games.solvers import solver
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import LOOSE, equal

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
)
