"""Autodiff of every equation against central differences: what holds no stop-gradient has the gradient of its value."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import divergences, equations, f_regularised, games, kl_estimators, kl_regularised, logspace
from alignjax import problem as problems
from alignjax.games import PreferenceGame, solvers, step_sizes
from alignjax.games.equilibrium import mixture_equilibrium
from alignjax.objectives import copg
from alignjax.objectives.nash_md import ema_of_parameters
from theory.slack import both, equal

_STEP = 1e-5


def derivative(function: Callable[..., Any], *arguments: Array, at: float = 1e-6) -> Array:
    """Autodiff along a fixed direction in every argument, against the central difference."""
    directions = [jnp.sin(1.0 + 2.0 * index + jnp.arange(x.size)).reshape(x.shape) for index, x in enumerate(arguments)]
    slacks = []
    for index, direction in enumerate(directions):

        def along(t: Array, index: int = index, direction: Array = direction) -> Array:
            moved = [x + t * direction if i == index else x for i, x in enumerate(arguments)]
            return jnp.ravel(function(*moved))

        _, slope = jax.jvp(along, (jnp.zeros(()),), (jnp.ones(()),))
        difference = (along(jnp.asarray(_STEP)) - along(jnp.asarray(-_STEP))) / (2 * _STEP)
        slacks.append(equal(slope, difference, tolerance=at))
    return both(*slacks)


def _pair_of(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda a, b, *rest: function(jax.nn.log_softmax(a), jax.nn.log_softmax(b), *rest)


def divergences_differentiate(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """Every divergence has the gradient of its value, in both laws and in its order."""
    plain = ("kl", "reverse_kl", "jensen_shannon", "chi_square", "total_variation")
    slacks = [derivative(_pair_of(getattr(divergences, name)), first, second) for name in plain]
    slacks.append(
        derivative(_pair_of(lambda p, q: divergences.f_divergence(p, q, lambda u: u * jnp.log(u))), first, second)
    )
    ordered = ("jeffreys", "renyi", "alpha_divergence")
    slacks += [derivative(_pair_of(getattr(divergences, name)), first, second, number) for name in ordered]
    slacks.append(derivative(_pair_of(lambda p, q: divergences.renyi(p, q, 1.0)), first, second))
    return both(*slacks)


def regularised_problem_differentiates(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """So does everything of the KL-regularised problem, in policy, reference, reward and temperature."""
    slacks = []
    for name in ("gibbs", "log_partition", "optimal_value"):
        function = getattr(kl_regularised, name)
        slacks.append(derivative(lambda b, r, t, f=function: f(jax.nn.log_softmax(b), r, t), second, reward, number))
    for name in ("objective", "suboptimality", "regularised_reward"):
        slacks.append(derivative(_pair_of(getattr(kl_regularised, name)), first, second, reward, number))
    return both(*slacks)


def dro_differentiates(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """And the policy of DRO at a value that is given, below the optimal one."""

    ref_logp = jax.nn.log_softmax(second)
    best = kl_regularised.optimal_value(ref_logp, reward, 0.7)

    def optimum(v: Array) -> Array:
        return copg.dro_optimum(problems.Problem(ref_logp=ref_logp, reward=reward, value=v), beta=0.7)

    def value(v: Array) -> Array:
        return copg.value_or_optimal(problems.Problem(ref_logp=ref_logp, value=v), first)

    return both(derivative(optimum, best - 0.1 - number, at=1e-5), derivative(value, number))


def f_regularised_differentiates(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """And the scores of f-DPO, and the optimum of its problem, which a response without reference mass leaves as it
    is.
    """
    slacks = []
    for name in f_regularised.DIVERGENCES:
        slacks.append(derivative(lambda h, a, name=name: f_regularised.score(h, name, a), first, number))

        def optimum(b: Array, r: Array, name: str = name) -> Array:
            return f_regularised.regularised_optimum(jax.nn.log_softmax(b), r, 0.7, name, 0.3)

        slacks.append(derivative(optimum, second, reward, at=1e-5))
        more = jnp.append(second, -jnp.inf), jnp.append(reward, 5.0)
        found = jnp.exp(optimum(*more))
        slacks += [equal(found[:4], jnp.exp(optimum(second, reward)), tolerance=1e-7), equal(found[4], 0.0)]
    return both(*slacks)


def pieces_differentiate(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """And the pieces of losses that hold no stop-gradient; a field and a clip in the log-probabilities."""
    table = jnp.stack([jnp.stack([0.5 * number, number]), jnp.stack([1 - number, 0.5 * number])])
    mask = jnp.array([1.0, 1.0, 0.0, 1.0])
    label = jnp.array([1.0, 0.0, 1.0, 0.0])
    return both(
        derivative(lambda s, p: equations.pair(s, equations.logistic, p), first[:2], table),
        derivative(lambda s: equations.pair(s, equations.logistic), first[:2]),
        derivative(lambda s, c: equations.point(s, label, equations.logistic, c, mask), first, number),
        derivative(lambda s: equations.listwise(s, second, mask), first),
        derivative(lambda s: equations.listwise(s, second), first),
        derivative(equations.residual, first, second, reward),
        derivative(lambda m, t: equations.square(m, target=t), first, number),
        derivative(lambda m, t: equations.hinge(m, at=t), first, number),
        derivative(lambda x: equations.field(x, reward, mask), first),
        derivative(lambda x: equations.clipped_field(x, second, reward, number, mask), first, at=1e-5),
        derivative(kl_estimators.k1, first, second),
        derivative(kl_estimators.k2, first, second),
        derivative(kl_estimators.k3, first, second),
        derivative(lambda b: kl_estimators.k3_weighted(first, b), second),
        derivative(kl_estimators.reward_to_go, first),
        derivative(lambda x: kl_estimators.reward_to_go(x, mask), first),
        derivative(lambda x: logspace.masked_mean(x, mask), first),
        derivative(lambda x: logspace.masked_sum(x, mask), first),
        derivative(logspace.log_ratio, first, second),
        derivative(problems.bradley_terry, reward),
        derivative(lambda a, p, e: ema_of_parameters(a, p, ema=e), first, second, number),
        equal(problems.bradley_terry_reward(problems.bradley_terry(reward), "it"), reward - reward.mean()),
        derivative(lambda r: problems.bradley_terry_reward(problems.bradley_terry(r), "it"), reward),
    )


def games_differentiate(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """And the game, its best response, its gaps and, by the implicit function theorem, its equilibrium."""
    lower = jnp.tril(0.4 * jnp.sin(3 * reward[:, None] + jnp.arange(4)), -1)
    half = 0.5 * jnp.ones((4, 4))

    def game(b: Array, m: Array, t: Array) -> PreferenceGame:
        return PreferenceGame(preference=half + m - m.T, ref_logp=jax.nn.log_softmax(b), tau=t)

    def in_game(function: Callable[..., Array]) -> Array:
        return derivative(
            lambda b, m, t, x: function(game(b, m, t), jax.nn.log_softmax(x)), second, lower, number, first
        )

    return both(
        in_game(games.best_response),
        in_game(games.best_response_value),
        in_game(games.duality_gap),
        in_game(games.duality_gap_by_value),
        in_game(games.original_gap),
        equal(game(second, lower, number).skew, lower - lower.T),
        derivative(lambda t: step_sizes.nash_md_theorem_step(jnp.asarray(3.0), t), number),
        in_game(lambda one, logp: solvers.step(one, "nash_md", logp, 0.4 / one.tau)),
        in_game(lambda one, logp: solvers.step(one, "nash_md", logp, 0.4 / one.tau, mixture=0.3)),
        in_game(lambda one, logp: solvers.step(one, "self_play", logp, 0.4 / one.tau)),
        in_game(lambda one, logp: solvers.step(one, "reference_response", logp, 0.4 / one.tau)),
        in_game(lambda one, logp: games.payoff(one, logp, games.best_response(one, logp))),
        in_game(lambda one, logp: games.payoff(one, one.ref_logp, logp)),
        derivative(lambda b, m, t: games.nash(game(b, m, t)), second, lower, number),
        derivative(
            lambda b, m, t: mixture_equilibrium(half + m - m.T, jax.nn.log_softmax(b), t, 0.3), second, lower, number
        ),
    )


def tilt_differentiates(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """And `tilt`, in bases, weights, score and scale."""
    return both(
        derivative(lambda a, b, w, s, c: logspace.tilt((a, b), w, s, c), first, second, second[:2], reward, number),
        derivative(logspace.geometric_mixture, first, second, number),
    )
