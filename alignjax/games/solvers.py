r"""Exact tabular solvers: every row is `tilt` of weighted bases by a win-rate; rows differ in the bases and in the
opponent.

The step size is always the canonical h: log pi_{t+1} = (1 - h tau) log pi_t + h tau log ref + h q_t + const (papers
that print an inverse step have h = 1 / eta). One call of `win_rate` is one call of the preference oracle.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.games.game import PreferenceGame, check_policy, duality_gap, original_gap
from alignjax.logspace import ArrayLike, Scalar, as_float, geometric_mixture, tilt
from alignjax.pytree import register
from alignjax.record import Solver, Source

LogPolicy = Float[Array, "*batch A"]
Oracle = Callable[[LogPolicy], Float[Array, "*batch A"]]


def pull(game: PreferenceGame, logp: LogPolicy, step_size: Array) -> LogPolicy:
    r"""pi^{1 - h tau} ref^{h tau}: the centre of every KL-regularised mirror step.

    h tau = 1 up to rounding is exactly 1, so that a first theorem step forgets the initial policy, zeros included.
    """
    fraction = step_size * game.tau
    fraction = jnp.where(jnp.abs(fraction - 1) < 8 * jnp.finfo(fraction.dtype).eps, 1.0, fraction)
    return geometric_mixture(logp, game.ref_logp, fraction)


def geometric_step(centre: LogPolicy, win_rate: Array, step_size: Array) -> LogPolicy:
    r"""The one kernel: log pi_{t+1} = log centre + h q - log Z."""
    return tilt((centre,), jnp.ones(1), win_rate, step_size)


def nash_md(
    game: PreferenceGame,
    logp: LogPolicy,
    step_size: Array,
    win_rate: Oracle,
    *,
    mixture: Scalar | None = None,
) -> LogPolicy:
    r"""Nash-MD: a mirror step from the mixture with the reference, against that mixture.

        pi^mu_t ~ pi_t^{1 - h tau} ref^{h tau},      pi_{t+1} ~ pi^mu_t exp(h P(. > pi^mu_t))

    At a constant step it converges to a policy whose mixture is the Nash at temperature tau / (1 - h tau), not to the
    Nash at tau; with the theorem's h_t = 2 / (tau (t + 2)), KL(pi* || pi_T) <= 8 / (tau^2 (T + 1)). `mixture` m puts
    another opponent, pi_t^{1-m} ref^m, in the mixture's place: m = 0 is self-play (mirror descent), m = 1 the best
    response to the reference. Source: Munos et al., 2023, arXiv:2312.00886, Eq. 4-5 and Theorem 1.
    """
    centre = pull(game, logp, step_size)
    opponent = centre if mixture is None else geometric_mixture(logp, game.ref_logp, mixture)
    return geometric_step(centre, win_rate(opponent), step_size)


def self_play(game: PreferenceGame, logp: LogPolicy, step_size: Array, win_rate: Oracle) -> LogPolicy:
    r"""The self-play end of Nash-MD: the same centre, the policy itself as opponent (online mirror descent).

    Source: Munos et al., 2023, arXiv:2312.00886, Sec. 6 (Eq. 6, without the mixture as opponent).
    """
    return geometric_step(pull(game, logp, step_size), win_rate(logp), step_size)


def reference_response(game: PreferenceGame, logp: LogPolicy, step_size: Array, win_rate: Oracle) -> LogPolicy:
    r"""The other end: the same centre, the reference as opponent; it converges to the best response to the reference.

    Source: Munos et al., 2023, arXiv:2312.00886, Sec. 7.2 (beta = 1).
    """
    return geometric_step(pull(game, logp, step_size), win_rate(game.ref_logp), step_size)


def nash_md_theorem_step(t: Array, tau: Array) -> Array:
    r"""h_t = 2 / (tau (t + 2)), t = 0, 1, ...: h_0 tau = 1. Source: Munos et al., 2023, arXiv:2312.00886, Theorem 1."""
    return 2.0 / (tau * (t + 2.0))


_MUNOS = ("Munos et al.", 2023, "2312.00886")

SOLVERS = (
    Solver(
        step=nash_md,
        target="regularised",
        converges_to="the regularised Nash with the theorem's steps; at a constant step its mixture is the Nash at "
        "tau / (1 - h tau)",
        theorem=nash_md_theorem_step,
        source=Source(*_MUNOS, "Eq. 4-5, Theorem 1"),
    ),
    Solver(
        step=self_play,
        target="regularised",
        converges_to="the regularised Nash for h < 2 tau / (tau^2 + lambda^2), +-i lambda the game's rotation there",
        theorem=nash_md_theorem_step,
        source=Source(*_MUNOS, "Sec. 6"),
    ),
    Solver(
        step=reference_response,
        target="regularised",
        converges_to="the best response to the reference, which is not the Nash: its gap stays",
        source=Source(*_MUNOS, "Sec. 7.2"),
    ),
)


@register
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Solution:
    """What `solve` returns: a pytree."""

    logp: LogPolicy
    """The last policy."""
    trajectory: Float[Array, "points *batch A"]
    """Every `every`-th policy, `[num_steps / every + 1, ..., A]`, the initial one first."""
    gap: Float[Array, "*batch"]
    """The duality gap of the last policy: of the regularised game, or of the original one where that is the solver's
    target.
    """


def solver(name: str) -> Solver:
    """The record of a solver; an unknown name raises with the nearest one."""
    by_name = {row.name: row for row in SOLVERS}
    return by_name[checks.member("solver", name, by_name)]


def _step_sizes(row: Solver, game: PreferenceGame, step_size: Any, num_steps: int) -> Array:
    """`[num_steps]` or `[num_steps, ...]` canonical steps, from a number, an array over games, a schedule, or
    "theorem".
    """
    tau = as_float(game.tau)
    times = jnp.arange(num_steps, dtype=tau.dtype)
    if isinstance(step_size, str):
        if step_size != "theorem":
            raise ValueError(f'step_size must be a number, a schedule t -> number, or "theorem", got {step_size!r}')
        if row.theorem is None:
            raise ValueError(f'{row.name} has no theorem with a step size; step_size="theorem" is not allowed')
        return row.theorem(times.reshape((-1,) + (1,) * tau.ndim), tau)
    if callable(step_size):
        sizes = jax.vmap(lambda t: as_float(step_size(t)))(times)
    else:
        constant = as_float(step_size)
        sizes = jnp.broadcast_to(constant, (num_steps, *constant.shape))
    checks.positive("step_size", sizes)
    # Time is the first axis of the sizes; the axes of tau are games.
    fraction = sizes.reshape(sizes.shape + (1,) * max(0, tau.ndim - (sizes.ndim - 1))) * tau
    if checks.is_concrete(fraction) and num_steps and float(jnp.max(fraction)) > 1 + 1e-6:
        raise ValueError(
            f"step_size * tau must be at most 1 (it is the weight of the reference in the mixture), "
            f"got {float(jnp.max(fraction)):.6g}"
        )
    return sizes


@functools.partial(jax.jit, static_argnames=("row", "every", "num_samples"))
def _run(
    game: PreferenceGame,
    init_logp: Array,
    step_sizes: Array,
    key: Array | None,
    numbers: Mapping[str, Any],
    *,
    row: Solver,
    every: int,
    num_samples: int,
) -> tuple[Array, Array]:
    num_points = step_sizes.shape[0] // every

    def oracle(step_key: Array | None, calls: list[int]) -> Oracle:
        def win_rate(opponent_logp: LogPolicy) -> Array:
            if step_key is None:
                return game.win_rate(opponent_logp)
            calls.append(1)
            call_key = jax.random.fold_in(step_key, len(calls))
            draws = jax.random.categorical(call_key, opponent_logp, shape=(num_samples, *opponent_logp.shape[:-1]))
            counts = jax.nn.one_hot(draws, opponent_logp.shape[-1], dtype=opponent_logp.dtype).mean(0)
            return jnp.einsum("...ij,...j->...i", game.preference, counts)

        return win_rate

    def one(logp: Array, inputs: tuple[Array, Array | None]) -> tuple[Array, None]:
        step_size, step_key = inputs
        return row.step(game, logp, step_size, oracle(step_key, []), **numbers), None

    def several(logp: Array, inputs: Any) -> tuple[Array, Array]:
        logp, _ = jax.lax.scan(one, logp, inputs)
        return logp, logp

    keys = None if key is None else jax.random.split(key, step_sizes.shape[0])
    grouped = jax.tree.map(lambda x: x.reshape((num_points, every, *x.shape[1:])), (step_sizes, keys))
    last, points = jax.lax.scan(several, init_logp, grouped)
    return last, jnp.concatenate([init_logp[None], points])


def solve(
    game: PreferenceGame,
    name: str,
    *,
    num_steps: int,
    step_size: float | Array | Callable[[Array], Array] | str,
    init_logp: ArrayLike | None = None,
    every: int = 1,
    key: Array | None = None,
    num_samples: int = 100,
    **hyperparameters: Any,
) -> Solution:
    r"""Run a solver on a game (or a batch of games) for `num_steps` steps, in one `lax.scan`.

    Args:
      game: `PreferenceGame`; leading axes are games, all solved at once.
      name: a row of `SOLVERS`: nash_md, self_play, reference_response.
      num_steps: updates; a multiple of `every`.
      step_size: the canonical h > 0 with h tau <= 1: a number (or an array over games), a schedule t -> h with t = 0,
        1, ..., or "theorem" for the schedule of the paper's theorem.
      init_logp: `[..., A]`, where to start; the reference by default.
      every: keep each `every`-th policy.
      key: estimate each win-rate from `num_samples` sampled opponents instead of exactly.

    Returns: `Solution` with `.logp`, `.trajectory` `[num_steps / every + 1, ..., A]` (the initial policy first) and
      `.gap`.
    Raises: ValueError on what is not allowed, UnknownName (with the nearest name) for an unknown solver.
    """
    row = solver(name)
    num_steps = checks.whole("num_steps", num_steps, at_least=0)
    every = checks.whole("every", every)
    num_samples = checks.whole("num_samples", num_samples)
    if num_steps % every:
        raise ValueError(f"num_steps must be a multiple of every, got num_steps = {num_steps} and every = {every}")
    for given in hyperparameters:
        if given not in row.defaults:
            raise TypeError(f"{row.name} has no hyperparameter {given!r} (it has: {', '.join(row.defaults) or 'none'})")
    if hyperparameters.get("mixture") is not None:
        checks.between("mixture", hyperparameters["mixture"], 0.0, 1.0)
    hyperparameters = {n: v for n, v in hyperparameters.items() if v is not None}
    start = game.ref_logp if init_logp is None else check_policy(game, "init_logp", init_logp)
    sizes = _step_sizes(row, game, step_size, num_steps)
    batch = np.broadcast_shapes(game.preference.shape[:-2], game.ref_logp.shape[:-1], start.shape[:-1], sizes.shape[1:])
    dtype = jnp.result_type(game.preference, game.ref_logp, start)
    start = jnp.broadcast_to(start, (*batch, start.shape[-1])).astype(dtype)
    game, sizes = jax.tree.map(lambda x: x.astype(dtype), (game, sizes))
    last, trajectory = _run(game, start, sizes, key, hyperparameters, row=row, every=every, num_samples=num_samples)
    gap = duality_gap if row.target == "regularised" else original_gap
    return Solution(logp=last, trajectory=trajectory, gap=gap(game, last))
