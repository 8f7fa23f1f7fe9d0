r"""Step sizes of the solvers, all in the canonical h: defaults, theorems, and what the papers' own symbols are in it.

A schedule is `schedule(t, game, num_steps) -> h` at t = 0, 1, ...; it may leave out the axes along which it does not
change, for `solve` broadcasts it over time and games. A conversion is `conversion(eta, tau) -> h`.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

# --- schedules


def nash_md_theorem_step(t: Array, tau: Array) -> Array:
    r"""h_t = 2 / (tau (t + 2)), t = 0, 1, ...: h_0 tau = 1. Source: Munos et al., 2023, arXiv:2312.00886, Theorem 1."""
    return 2.0 / (tau * (t + 2.0))


def decaying(t: Array, game: Any, num_steps: int) -> Array:
    r"""h_t = 2 / (tau (t + 2)), t = 0, 1, ...: h_0 tau = 1, so that the start is forgotten at once."""
    return nash_md_theorem_step(t, game.tau)


def mirror_descent_step(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = 4 tau / (1 + 4 tau^2), the largest step whose linear rate 1 - h tau is proved.

    The implicit step h / (1 - h tau) is then 4 tau = tau / L^2, with L = 1/2 the largest entry of P - 1/2.
    """
    return 4 * game.tau / (1 + 4 * jnp.square(game.tau))


def lagging_step(t: Array, game: Any, num_steps: int) -> Array:
    r"""h / (1 - h tau) = 4 tau / 19, mirror descent's step over the lag (1 + ema) / (1 - ema) at ema = 0.9.

    An opponent that lags turns rotation into growth, as long steps do.
    """
    implicit = 4 * game.tau / 19
    return implicit / (1 + implicit * game.tau)


def mirror_prox_step(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = 2 / (1 + 2 tau): the factor 1 / (1 + 2 tau) for two oracle calls."""
    return 2 / (1 + 2 * game.tau)


def egpo_theorem_step(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = 1 / (tau + 3)."""
    return 1 / (3 + game.tau)


def hedge_step(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = sqrt(8 D / T), D = max_y log 1 / ref(y), which is log A for a uniform reference.

    From the reference, the average of T policies then has a gap of at most sqrt(2 D / T).
    """
    divergence = jnp.maximum(jnp.where(jnp.isneginf(game.ref_logp), 0.0, -game.ref_logp).max(-1), 1e-3)
    return jnp.sqrt(8 * divergence / max(num_steps, 1))


def half(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = 1/2."""
    return jnp.asarray(0.5)


def eighth(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = 1/8: the last policy converges where the equilibrium is unique."""
    return jnp.asarray(0.125)


def proximal_step(t: Array, game: Any, num_steps: int) -> Array:
    r"""h = 1 / tau: the prox at the game's own temperature."""
    return 1 / game.tau


# --- the papers' symbols


def same(eta: Array, tau: Array) -> Array:
    r"""h = eta."""
    return eta


def inverse(eta: Array, tau: Array) -> Array:
    r"""h = 1 / eta: an inverse step."""
    return 1 / eta


def implicit(eta: Array, tau: Array) -> Array:
    r"""h = eta / (1 + eta tau): an implicit step."""
    return eta / (1 + eta * tau)


def implicit_in_tau(eta: Array, tau: Array) -> Array:
    r"""h = eta / (tau (1 + eta)): an implicit step in units of 1 / tau."""
    return eta / (tau * (1 + eta))
