r"""Reference solvers, never used by the algorithms they judge: Newton for the regularised Nash, an LP for the
original one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.games.game import PreferenceGame
from alignjax.logspace import ArrayLike, Scalar, as_float, log_softmax, per_batch

_START = 10.0  # the temperature where the continuation starts: the game is a small perturbation of its reference
_COOLING = 0.8
_MAX_STEPS = 2_000


def _residual(offset: Array, skew: Array, ref_logp: Array, tau: Array) -> Array:
    r"""F(x) = x - M softmax(log ref + x) / tau; at the equilibrium log pi = log ref + x - log Z."""
    return offset - skew @ jax.nn.softmax(ref_logp + offset) / tau


def _jacobian(offset: Array, skew: Array, ref_logp: Array, tau: Array) -> Array:
    r"""I - M S / tau with S = diag(pi) - pi pi^T: eigenvalues 1 +- i lambda / tau, so never singular (identity I8)."""
    policy = jax.nn.softmax(ref_logp + offset)
    covariance = jnp.diag(policy) - policy[:, None] * policy[None, :]
    return jnp.eye(policy.size, dtype=policy.dtype) - skew @ covariance / tau


@jax.custom_jvp
def _offset(skew: Array, ref_logp: Array, tau: Array) -> Array:
    """The root of F for one game, by damped Newton while the temperature cools from `_START` to tau."""
    lengths = 0.5 ** jnp.arange(8, dtype=skew.dtype)

    def size(x: Array, warm: Array) -> Array:
        return jnp.abs(_residual(x, skew, ref_logp, warm)).max()

    def go_on(state: tuple[Any, ...]) -> Array:
        _, warm, _, improved, count = state
        return ((warm > tau) | improved) & (count < _MAX_STEPS)

    def newton(state: tuple[Any, ...]) -> tuple[Any, ...]:
        x, warm, before, _, count = state
        jacobian = _jacobian(x, skew, ref_logp, warm)
        direction = jnp.linalg.solve(jacobian, -_residual(x, skew, ref_logp, warm))
        trials = x + lengths[:, None] * direction
        sizes = jax.vmap(size, (0, None))(trials, warm)
        best = jnp.argmin(sizes)
        improved = sizes[best] < before
        x = jnp.where(improved, trials[best], x)
        after = jnp.where(improved, sizes[best], before)
        cool = (warm > tau) & ((after < 1e-2) | ~improved)
        warm = jnp.where(cool, jnp.maximum(tau, warm * _COOLING), warm)
        return x, warm, jnp.where(cool, size(x, warm), after), improved | cool, count + 1

    warm = jnp.maximum(tau, jnp.asarray(_START, tau.dtype))
    start = jnp.zeros_like(ref_logp)
    state = (start, warm, size(start, warm), jnp.asarray(True), jnp.asarray(0))
    return jax.lax.while_loop(go_on, newton, state)[0]


@_offset.defjvp
def _offset_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # Implicit differentiation: F_x dx = M S d(log ref) / tau + dM pi / tau - M pi dtau / tau^2.
    skew, ref_logp, tau = primals
    d_skew, d_ref, d_tau = tangents
    x = _offset(skew, ref_logp, tau)
    policy = jax.nn.softmax(ref_logp + x)
    weighted = policy * jnp.where(policy > 0, d_ref, 0.0)
    moved = weighted - policy * weighted.sum()
    right = (skew @ moved + d_skew @ policy - skew @ policy * (d_tau / tau)) / tau
    return x, jnp.linalg.solve(_jacobian(x, skew, ref_logp, tau), right)


@jax.jit
def _nash(preference: Array, ref_logp: Array, tau: Array) -> Array:
    batch = np.broadcast_shapes(preference.shape[:-2], ref_logp.shape[:-1], tau.shape)
    size = ref_logp.shape[-1]
    dtype = jnp.result_type(preference, ref_logp, tau)
    skew = jnp.broadcast_to(preference.astype(dtype) - 0.5, (*batch, size, size)).reshape((-1, size, size))
    ref = jnp.broadcast_to(ref_logp.astype(dtype), (*batch, size)).reshape((-1, size))
    temperature = jnp.broadcast_to(tau.astype(dtype), batch).reshape(-1)
    offset = jax.vmap(_offset)(skew, ref, temperature)
    return log_softmax(ref + offset).reshape((*batch, size))


def nash(game: PreferenceGame) -> Float[Array, "*batch A"]:
    r"""Log-probs of the regularised Nash equilibrium: the policy that is its own best response.

        log pi(y) = log ref(y) + P(y > pi) / tau - log Z

    Unique for every tau > 0. Solved to rounding by damped Newton with continuation in tau; differentiable in
    preferences, reference and temperature by the implicit function theorem; batched over leading axes, `jit` and
    `vmap` safe.
    Source: Munos et al., 2023, arXiv:2312.00886, Prop. 1 (also: the logit quantal response equilibrium, McKelvey and
    Palfrey, 1995).
    """
    return _nash(game.preference, game.ref_logp, as_float(game.tau))


def mixture_equilibrium(
    preference: ArrayLike, ref_logp: ArrayLike, beta: Scalar, mixture: Scalar
) -> Float[Array, "*batch A"]:
    r"""The pi with pi proportional to ref exp(P(y > pi^{1-m} ref^m) / beta).

    Its mixture pi^{1-m} ref^m is the regularised Nash at temperature beta / (1 - m), and pi the best response to
    that. m = 0 is the Nash itself, m = 1 the best response to the reference. Source: Calandriello et al., 2024,
    arXiv:2403.08635, Prop. 5.2.
    """
    beta, mixture = as_float(beta), as_float(mixture)
    preference, ref_logp = as_float(preference), as_float(ref_logp)
    opponent = _nash(preference, ref_logp, beta / jnp.maximum(1 - mixture, 1e-30))
    advantage = jnp.einsum("...ij,...j->...i", preference - 0.5, jnp.exp(opponent))
    return log_softmax(ref_logp + advantage / per_batch(beta))


def von_neumann_winner(preference: ArrayLike) -> Float[np.ndarray, "*batch A"]:
    r"""Probabilities of a Nash equilibrium of the game without regularisation: max_x min_y P(x > y), whose value is
    1/2.

    A linear program for each matrix, by scipy's HiGHS (imported when called), in float64 on the host. Where there are
    several equilibria it returns a vertex of their set; the regularised Nash at small tau picks one by the reference
    instead.
    Raises: ValueError if P + P^T is not 1, TypeError under a JAX trace. Source: Dudik et al., 2015, arXiv:1502.06362;
      Kreweras, 1965.
    """
    if not checks.is_concrete(preference):
        raise TypeError("von_neumann_winner solves a linear program on the host: call it outside jit, vmap and grad")
    checks.preference_matrix("preference", preference)
    from scipy.optimize import linprog  # half of jax's import time again: only when called

    matrix = np.asarray(preference, np.float64)
    skew = 0.5 * (matrix - np.swapaxes(matrix, -1, -2))
    size = skew.shape[-1]

    def winner(game: np.ndarray) -> np.ndarray:
        # Variables (x, v): maximise v subject to (M^T x)_j >= v for every opponent j, x a distribution.
        solution = linprog(
            np.r_[np.zeros(size), -1.0],
            A_ub=np.c_[-game.T, np.ones(size)], b_ub=np.zeros(size),
            A_eq=np.r_[np.ones(size), 0.0][None], b_eq=[1.0],
            bounds=[(0, None)] * size + [(None, None)], method="highs",
        )  # fmt: skip
        if not solution.success:
            raise RuntimeError(f"the linear program failed: {solution.message}")
        policy = np.clip(solution.x[:size], 0.0, None)
        return policy / policy.sum()

    flat = skew.reshape((-1, size, size))
    return np.stack([winner(game) for game in flat]).reshape((*skew.shape[:-2], size))
