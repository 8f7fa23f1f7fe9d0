r"""Reference solvers, never used by the algorithms they judge: Newton for the regularised Nash, an LP for the
original one.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.games.game import Game, by_kind, of_two
from alignjax.logspace import ArrayLike, Scalar, as_float, log_softmax, per_batch

_START = 10.0  # the temperature where the continuation starts: the game is a small perturbation of its reference
_SLOWEST, _FASTEST = 0.8, 0.05  # cooling: the factor from one temperature to the next
_NEAR = 1e-2  # a residual (of log-probabilities) from where the next temperature is tried
_PATIENCE = 6  # steps at one temperature before the path goes back
_PROGRESS = 0.999  # a residual that shrinks by less is rounding
_MAX_STEPS = 2_000
_NULL = 1e-10  # singular values of a skew part below it are zero
_LARGE = 500  # from here on HiGHS's interior point is three times as fast as its simplex


def _residual(offset: Array, skew: Array, ref_logp: Array, tau: Array) -> Array:
    r"""F(x) = x - M softmax(log ref + x) / tau; at the equilibrium log pi = log ref + x - log Z."""
    return offset - skew @ jax.nn.softmax(ref_logp + offset) / tau


def _jacobian(offset: Array, skew: Array, ref_logp: Array, tau: Array) -> Array:
    r"""I - M S / tau with S = diag(pi) - pi pi^T: eigenvalues 1 +- i lambda / tau, so never singular (identity I8)."""
    policy = jax.nn.softmax(ref_logp + offset)
    covariance = jnp.diag(policy) - policy[:, None] * policy[None, :]
    return jnp.eye(policy.size, dtype=policy.dtype) - skew @ covariance / tau


class _Path(NamedTuple):
    """Where the continuation stands: at temperature `warm`, whose predecessor `held_warm` was solved by `held`."""

    x: Array
    warm: Array
    size: Array  # of the residual at x and warm
    held: Array
    held_warm: Array
    rate: Array  # what the next cooling multiplies the temperature by
    steps: Array  # at this temperature
    taken: Array  # of all steps
    done: Array


def damped_newton(
    residual: Callable[[Array, Array], Array],
    jacobian: Callable[[Array, Array], Array],
    start: Array,
    tau: Array,
) -> Array:
    """The root x of residual(x, tau) `[A]` by damped Newton steps while the temperature cools from `_START` to tau.

    A temperature that takes one step or two makes the next cooling faster, and one that does not come near takes the
    path back to the last that did, with a slower one.
    """
    lengths = 0.5 ** jnp.arange(8, dtype=start.dtype)

    def size(x: Array, warm: Array) -> Array:
        return jnp.abs(residual(x, warm)).max()

    def newton(path: _Path) -> _Path:
        x, warm, steps = path.x, path.warm, path.steps + 1
        direction = jnp.linalg.solve(jacobian(x, warm), -residual(x, warm))
        trials = x + lengths[:, None] * direction
        sizes = jax.vmap(size, (0, None))(trials, warm)
        best = jnp.argmin(sizes)
        improved = sizes[best] < _PROGRESS * path.size
        x = jnp.where(improved, trials[best], x)
        after = jnp.where(improved, sizes[best], path.size)
        near = after < _NEAR
        back = ~near & (path.rate < _SLOWEST) & (~improved | (steps >= _PATIENCE))
        cool = ~back & (warm > tau) & (near | ~improved)
        slower = jnp.minimum(_SLOWEST, jnp.sqrt(path.rate))
        faster = jnp.where(steps <= 2, jnp.maximum(_FASTEST, jnp.square(path.rate)), path.rate)
        rate = jnp.where(back | (cool & (steps > 4)), slower, jnp.where(cool & near, faster, path.rate))
        held, held_warm = jnp.where(cool, x, path.held), jnp.where(cool, warm, path.held_warm)
        moved = back | cool
        x = jnp.where(back, held, x)
        warm = jnp.where(moved, jnp.maximum(tau, held_warm * rate), warm)
        return _Path(
            x, warm, jnp.where(moved, size(x, warm), after), held, held_warm, rate,
            steps=jnp.where(moved, 0, steps), taken=path.taken + 1, done=~moved & ~improved,
        )  # fmt: skip

    warm = jnp.maximum(tau, jnp.asarray(_START, tau.dtype))
    none = jnp.asarray(0)
    rate = jnp.asarray(_SLOWEST, tau.dtype)
    path = _Path(start, warm, size(start, warm), start, warm, rate, none, none, jnp.asarray(False))
    return jax.lax.while_loop(lambda path: ~path.done & (path.taken < _MAX_STEPS), newton, path).x


@jax.custom_jvp
def _offset(skew: Array, ref_logp: Array, tau: Array) -> Array:
    """The root of F for one game."""
    return damped_newton(
        lambda x, warm: _residual(x, skew, ref_logp, warm),
        lambda x, warm: _jacobian(x, skew, ref_logp, warm),
        jnp.zeros_like(ref_logp),
        tau,
    )


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


@by_kind
def nash(game: Game) -> Float[Array, "*batch A"]:
    r"""Log-probs of the regularised Nash equilibrium: the policy that is its own best response.

        log pi(y) = log ref(y) + P(y > pi) / tau - log Z

    Unique for every tau > 0. Solved to rounding by damped Newton with continuation in tau; differentiable in
    preferences, reference and temperature by the implicit function theorem; batched over leading axes, `jit` and
    `vmap` safe.
    Source: Munos et al., 2023, arXiv:2312.00886, Prop. 1 (also: the logit quantal response equilibrium, McKelvey and
    Palfrey, 1995).
    """
    game = of_two(game)
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
            bounds=[(0, None)] * size + [(None, None)],
            method="highs" if size < _LARGE else "highs-ipm",  # then with a crossover to a vertex
        )  # fmt: skip
        if not solution.success:
            raise RuntimeError(f"the linear program failed: {solution.message}")
        policy = np.clip(solution.x[:size], 0.0, None)
        return policy / policy.sum()

    flat = skew.reshape((-1, size, size))
    return np.stack([winner(game) for game in flat]).reshape((*skew.shape[:-2], size))


class Equilibria(NamedTuple):
    """The equilibria of a game without regularisation: a polytope, and the point of it nearest to a reference."""

    nearest: np.ndarray
    """Probabilities `[A]` of the equilibrium with the least KL(. || ref)."""
    support: np.ndarray
    """Mask `[A]`: the responses that some equilibrium plays. `nearest` plays them all."""
    dimension: int
    """Of the polytope of equilibria: 0 where there is one alone."""


def equilibria(preference: ArrayLike, ref_logp: ArrayLike | None = None) -> Equilibria:
    r"""All equilibria of max_x min_y P(x > y), and which of them the regularised ones lead to as tau -> 0.

        lim_{tau -> 0} nash(P, ref, tau) = argmin {KL(x || ref): x an equilibrium},   of most entropy if ref is uniform

    For pi_tau is the equilibrium of a monotone game, and every equilibrium x of the original one has P(x > pi_tau) >=
    1/2, so that <grad KL(pi_tau || ref), x - pi_tau> >= 0 and KL(pi_tau || ref) <= KL(x || ref) at every tau. The
    limit plays all that any equilibrium plays (the gradient is infinite where one is left out).

    One matrix, in float64 on the host, without a linear program: an interior-point method of the self-dual form (x,
    s >= 0, s = t - M x with x's = t -> 0) finds a strictly complementary pair, hence the support; on it the
    equilibria are the null vectors of M, over which Newton minimises the KL. Responses outside the reference's
    support are out of the game; `ref_logp` is uniform if absent.
    Raises: ValueError if P + P^T is not 1 or the reference does not fit, TypeError under a JAX trace.
    Source: derived here; Goldman and Tucker, 1956 (strict complementarity); Dutta and Laslier, 1999, Soc. Choice
      Welfare 16 (the support: the essential set; for tournaments Laffond et al., 1993: the bipartisan set).
    """
    if not checks.is_concrete(preference, ref_logp):
        raise TypeError("equilibria are found on the host: call it outside jit, vmap and grad")
    checks.preference_matrix("preference", preference)
    matrix = np.asarray(preference, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"preference must be one matrix [A, A], got shape {matrix.shape}")
    size = len(matrix)
    ref = np.full(size, -np.log(size)) if ref_logp is None else np.asarray(ref_logp, np.float64)
    checks.same_last_axis({"ref_logp": ref}, size=size)
    checks.log_policy("ref_logp", ref)
    inside = np.flatnonzero(~np.isneginf(ref))
    # To 13 decimals: what differs by the rounding of a sum is a tie.
    skew = np.round(0.5 * (matrix - matrix.T)[np.ix_(inside, inside)], 13)
    policy, support, dimension = _nearest(skew, ref[inside])
    nearest, mask = np.zeros(size), np.zeros(size, bool)
    nearest[inside], mask[inside] = policy, support
    return Equilibria(nearest, mask, dimension)


def _strictly_complementary(skew: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, s >= 0 with s = t - M x, sum x = 1, x's = t ~ 0 and x + s > 0, by a predictor-corrector along x s = const.

    x'M x = 0 makes t the complementarity itself, so that every iterate carries its certificate.
    """
    from scipy.linalg import LinAlgWarning, lu_factor, lu_solve

    size = len(skew)
    x, t = np.full(size, 1 / size), 1.0
    best, found = np.inf, (x, t - skew @ x)
    system = np.zeros((size + 1, size + 1))
    system[size, :size] = 1.0
    for _ in range(_MAX_STEPS):
        s = t - skew @ x
        left = float(x @ s)
        if min(x.min(), s.min()) <= 0 or left >= best:
            break
        best, found = left, (x, s)
        # (S - X M) dx + X dt = target - x s, sum dx = 0; ds = dt - M dx.
        system[:size, :size] = -x[:, None] * skew
        system[np.arange(size), np.arange(size)] += s
        system[:size, size] = x
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LinAlgWarning)  # singular to rounding: it is looked at here
            factors = lu_factor(system, check_finite=False)
        if not np.diag(factors[0]).all():
            break
        move = lu_solve(factors, np.append(-x * s, 0.0))  # straight at zero
        dx, ds = move[:size], move[size] - skew @ move[:size]
        reach = _to_boundary(x, dx, s, ds)
        ahead = max(float((x + reach * dx) @ (s + reach * ds)), 0.0)
        centre = (ahead / left) ** 3 * left / size
        move = lu_solve(factors, np.append(centre - x * s - dx * ds, 0.0))
        dx, ds = move[:size], move[size] - skew @ move[:size]
        reach = max(0.9, 1 - left) * _to_boundary(x, dx, s, ds)
        x, t = x + reach * dx, t + reach * move[size]
        x = x / x.sum()
    return found


def _to_boundary(x: np.ndarray, dx: np.ndarray, s: np.ndarray, ds: np.ndarray) -> float:
    """The longest step, at most 1, that keeps x and s non-negative."""
    shrink = max(float((-dx / x).max()), float((-ds / s).max()))
    return 1.0 if shrink <= 1 else 1 / shrink


def _nearest(skew: np.ndarray, ref_logp: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The equilibrium nearest to the reference, the support of all equilibria, the dimension of their set."""
    size = len(skew)
    x, s = _strictly_complementary(skew)
    support = x > s
    # On the support every equilibrium has M x = 0: the null vectors, of which x is one, with one sum.
    _, sizes, rows = np.linalg.svd(skew[np.ix_(support, support)])
    null = rows[(sizes <= _NULL * max(1.0, sizes[0])) | (sizes == sizes[-1])].T
    rest = skew[np.ix_(~support, support)]  # and M x <= 0 elsewhere
    point = null @ (null.T @ x[support])
    if (point <= 0).any() or (rest @ point >= 0).any():
        return x, support, null.shape[1] - 1  # the iterate, which carries its certificate
    point = point / point.sum()
    # The null vectors whose sum is zero: those orthogonal to the sums, in their coordinates.
    turns = null @ np.linalg.svd(null.sum(0)[None])[2][1:].T
    policy = np.zeros(size)
    policy[support] = _least_divergence(point, turns, rest, ref_logp[support]) if turns.shape[1] else point
    return policy / policy.sum(), support, turns.shape[1]


def _least_divergence(point: np.ndarray, turns: np.ndarray, rest: np.ndarray, ref_logp: np.ndarray) -> np.ndarray:
    """argmin KL(x || ref) over the x = point + turns z with x > 0, rest x <= 0: Newton with a barrier that fades.

    On its last round the divergence is above the least by 1e-14 for each row of `rest`.
    """
    across = rest @ turns

    def objective(y: np.ndarray, weight: float) -> float:
        slack = -rest @ y
        if min(y.min(), slack.min(initial=np.inf)) <= 0:
            return np.inf
        return float(y @ (np.log(y) - ref_logp) - weight * np.log(slack).sum())

    for weight in 10.0 ** np.arange(-2, -15, -1) if len(rest) else (0.0,):
        for _ in range(_MAX_STEPS):
            slack = -rest @ point
            slope = turns.T @ (np.log(point) - ref_logp) + across.T @ (weight / slack)
            curve = turns.T @ (turns / point[:, None]) + across.T @ (across * (weight / slack**2)[:, None])
            z = np.linalg.lstsq(curve, -slope)[0]  # where it is singular to rounding, the step that is left
            now, length = objective(point, weight), 1.0
            while length > 1e-9 and not objective(point + length * (turns @ z), weight) < now + 0.1 * length * (
                slope @ z
            ):
                length /= 2
            if length <= 1e-9:
                break  # no descent is left above rounding
            point = point + length * (turns @ z)
    return point
