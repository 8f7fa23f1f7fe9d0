r"""The table of exact solvers, and `solve`, which runs any of them on a game or a batch of games in one scan.

The steps are in regularised_solvers.py (target: the Nash at temperature tau) and original_solvers.py (target: the game
without regularisation), all on the kernel of kernel.py. The step size is the canonical h everywhere.
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
from alignjax.games import original_solvers, regularised_solvers
from alignjax.games.game import Game, PreferenceGame, check_policy, duality_gap, original_gap
from alignjax.games.kernel import Board, Logits, Oracle, Schedule
from alignjax.logspace import ArrayLike, as_float, log_softmax, per_batch
from alignjax.pytree import register
from alignjax.record import Solver

LogPolicy = Float[Array, "*batch A"]

SOLVERS = regularised_solvers.SOLVERS + original_solvers.SOLVERS

UNROLLED = 24
"""Games of up to so many responses are laid out with the games last when there are many: see `_run`."""
MANY_GAMES = 32


@register
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Solution:
    """What `solve` returns: a pytree. In a game of n players every policy has the player's axis first."""

    logp: LogPolicy
    """The last policy."""
    trajectory: Float[Array, "points *batch A"]
    """Every `every`-th policy, `[num_steps / every + 1, ..., A]`, the initial one first."""
    gap: Float[Array, "*batch"]
    """The duality gap of the last policy: of the regularised game, or of the original one where that is the solver's
    target; in a game of n players each player's own.
    """
    average_logp: LogPolicy | None = None
    """The arithmetic mean of the policies played, pi_0 to pi_{T-1}, for the solvers whose guarantee is about it."""


def solver(name: str) -> Solver:
    """The record of a solver; an unknown name raises with the nearest one."""
    by_name = {row.name: row for row in SOLVERS}
    return by_name[checks.member("solver", name, by_name)]


def step(game: Game, name: str, logp: LogPolicy, step_size: Array | float, **hyperparameters: Any) -> LogPolicy:
    """One step of a solver whose state is its policy alone: `[..., A] -> [..., A]` log-probs. No checks: for loops."""
    row = solver(name)
    if row.init is not None:
        raise ValueError(f"the state of {row.name} is more than its policy; use solve")
    board = Board(game.ref_logp, per_batch(game.tau), game.others)
    return log_softmax(row.step(board, logp, per_batch(step_size), game.win_rate, **hyperparameters))


def _step_sizes(row: Solver, game: Any, step_size: Any, num_steps: int) -> Array:
    """`[num_steps]` or `[num_steps, ...]` canonical steps, from a number, an array over games, a schedule,
    "theorem", or the row's default.
    """
    tau = as_float(game.tau)
    times = jnp.arange(num_steps, dtype=tau.dtype)
    column = times.reshape((-1,) + (1,) * tau.ndim)

    def over_games(schedule: Schedule) -> Array:
        return jnp.broadcast_to(schedule(column, game, num_steps), (num_steps, *game.ref_logp.shape[:-1]))

    if step_size is None:
        assert row.default_step is not None
        return over_games(row.default_step)
    if isinstance(step_size, str):
        if step_size != "theorem":
            raise ValueError(f'step_size must be a number, a schedule t -> number, or "theorem", got {step_size!r}')
        if row.theorem is None:
            raise ValueError(f'{row.name} has no theorem with a step size; step_size="theorem" is not allowed')
        return over_games(row.theorem)
    if callable(step_size):
        sizes = jax.vmap(lambda t: as_float(step_size(t)))(times)
    else:
        constant = as_float(step_size)
        sizes = jnp.broadcast_to(constant, (num_steps, *constant.shape))
    checks.positive("step_size", sizes)
    # Time is the first axis of the sizes; the axes of tau are games.
    fraction = sizes.reshape(num_steps, *(1,) * max(0, tau.ndim - (sizes.ndim - 1)), *sizes.shape[1:]) * tau
    if row.pulls and checks.is_concrete(fraction) and num_steps and float(jnp.max(fraction)) > 1 + 1e-6:
        raise ValueError(
            f"step_size * tau must be at most 1 (it is the weight of the reference in the mixture), "
            f"got {float(jnp.max(fraction)):.6g}"
        )
    return sizes


def _canonical(row: Solver, game: Any, eta: Any) -> Array:
    """The canonical step of a paper's own eta."""
    if row.canonical is None:
        raise TypeError(f"{row.name} has no step size eta of its own; give the canonical step_size")
    checks.positive("eta", eta)
    return row.canonical(as_float(eta), as_float(game.tau))


def _one_for_all(x: Array, axes: int) -> Array:
    """`x` without its axes of games (those after the first `axes`) where all games have the same number: a scalar is
    half the work of a vector in the inner loop.
    """
    if x.ndim == axes or x.size == 0 or not checks.is_concrete(x):
        return x
    flat = np.asarray(x).reshape((*x.shape[:axes], -1))
    return jnp.asarray(flat[..., 0]) if (flat == flat[..., :1]).all() else x


def policy_of(state: Any) -> Logits:
    """The policy's logits in a solver's state."""
    return state if isinstance(state, jax.Array) else state.logp


def _exact(game: Any) -> Oracle:
    """The exact win-rate; less 1/2 in a game of two, so that logits without a reference do not drift away."""
    if not isinstance(game, PreferenceGame):
        return game.win_rate  # type: ignore[no-any-return]
    return lambda logits: jnp.einsum("...ij,...j->...i", game.skew, jax.nn.softmax(logits))


def _unrolled(skew: Float[Array, "A A games"]) -> Oracle:
    """The exact win-rate less 1/2 with the games last, as a sum of A columns: A multiplications of long vectors
    instead of many small matrix products.
    """

    def win_rate(logits: Logits) -> Array:
        policy = jax.nn.softmax(logits, axis=0)
        return functools.reduce(jnp.add, (skew[:, j] * policy[j] for j in range(skew.shape[0])))

    return win_rate


def _sampled(game: PreferenceGame, key: Array, num_samples: int) -> Oracle:
    """Win-rates against `num_samples` opponents drawn from the policy, as counts."""
    calls: list[int] = []

    def win_rate(logits: Logits) -> Array:
        calls.append(1)
        # Inverse transform: one uniform number for each draw, and counts from the empirical distribution function.
        below = jnp.cumsum(jax.nn.softmax(logits), -1)[..., :-1]
        draws = jax.random.uniform(
            jax.random.fold_in(key, len(calls)), (num_samples, *logits.shape[:-1], 1), logits.dtype
        )
        reached = (draws > below).astype(logits.dtype).mean(0)
        ends = jnp.ones_like(logits[..., :1])
        shares = jnp.concatenate([ends, reached], -1) - jnp.concatenate([reached, 0 * ends], -1)
        return jnp.einsum("...ij,...j->...i", game.skew, shares)

    return win_rate


@functools.partial(jax.jit, static_argnames=("row", "every", "num_samples", "games_last"))
def _run(
    game: Any,
    init_logp: Array,
    tau: Array,
    step_sizes: Array,
    key: Array | None,
    numbers: Mapping[str, Any],
    *,
    row: Solver,
    every: int,
    num_samples: int,
    games_last: bool,
) -> tuple[Array, Array, Array | None]:
    """The last policy, the kept ones, and the sum of those played.

    `games_last` puts the games of a batch on the last axis, where they fill the vector units, and takes the products
    apart (`_unrolled`); the step itself is the same function.
    """
    num_steps, batch = step_sizes.shape[0], init_logp.shape[:-1]
    if games_last:

        def last(x: Array, rank: int) -> Array:
            shape = x.shape[x.ndim - rank :]
            return jnp.moveaxis(jnp.broadcast_to(x, (*batch, *shape)).reshape((-1, *shape)), 0, -1)

        start = last(init_logp, 1)
        sizes = step_sizes if step_sizes.ndim == 1 else jax.vmap(lambda x: last(x, 0))(step_sizes)
        board = Board(last(game.ref_logp, 1), tau if tau.ndim == 0 else last(tau, 0), lambda logits: logits)
        exact = _unrolled(last(game.skew, 2))
    else:
        board = Board(game.ref_logp, per_batch(tau), game.others)
        start, sizes, exact = init_logp, per_batch(step_sizes), _exact(game)
    axis = 0 if games_last else -1

    def one(carry: tuple[Any, Array | None], inputs: tuple[Array, Array | None]) -> tuple[Any, None]:
        (state, total), (size, step_key) = carry, inputs
        if total is not None:
            total = total + jax.nn.softmax(policy_of(state), axis=axis)
        oracle = exact if step_key is None else _sampled(game, step_key, num_samples)
        return (row.step(board, state, size, oracle, **numbers), total), None

    def several(carry: Any, inputs: Any) -> tuple[Any, Array]:
        carry, _ = jax.lax.scan(one, carry, inputs)
        return carry, policy_of(carry[0])

    keys = None if key is None else jax.random.split(key, num_steps)
    grouped = jax.tree.map(lambda x: x.reshape((num_steps // every, every, *x.shape[1:])), (sizes, keys))
    state = start if row.init is None else row.init(board, start)
    (_, total), points = jax.lax.scan(several, (state, jnp.zeros_like(start) if row.averages else None), grouped)
    if games_last:
        points = jnp.moveaxis(points, -1, 1).reshape((-1, *init_logp.shape))
        total = None if total is None else jnp.moveaxis(total, -1, 0).reshape(init_logp.shape)
    points = jnp.concatenate([init_logp[None], log_softmax(points)])
    return points[-1], points, total


def _start(game: Any, init_logp: ArrayLike | None) -> Array:
    """Where to start, `[..., A]` (in a game of n players `[n, ..., A]`)."""
    if isinstance(game, PreferenceGame):
        return game.ref_logp if init_logp is None else check_policy(game, "init_logp", init_logp)
    return game.start(init_logp)  # type: ignore[no-any-return]


def solve(
    game: Game,
    name: str,
    *,
    num_steps: int,
    step_size: float | Array | Callable[[Array], Array] | str | None = None,
    eta: float | Array | None = None,
    init_logp: ArrayLike | None = None,
    every: int = 1,
    key: Array | None = None,
    num_samples: int = 100,
    **hyperparameters: Any,
) -> Solution:
    r"""Run a solver on a game (or a batch of games) for `num_steps` steps, in one `lax.scan`.

    Args:
      game: `PreferenceGame`; leading axes are games, all solved at once. Or a `MultiplayerGame`.
      name: a row of `SOLVERS`: nash_md, omd, inpo, mmd, egpo, mirror_prox, nash_rs, nash_ema (the regularised game);
        mwu, onpo, comal, mpo, mnpo (the original one); self_play, reference_response. docs/solvers.md is the table.
      num_steps: updates; a multiple of `every`. What one update is stands in the row (`Solver.one_step`).
      step_size: the canonical h > 0, with h tau <= 1 where the reference pulls: a number (or an array over games), a
        schedule t -> h with t = 0, 1, ..., "theorem" for the step of the paper's theorem, or nothing for the row's
        default.
      eta: instead of `step_size`, the paper's own symbol (`Solver.canonical` says what it is).
      init_logp: `[..., A]`, where to start; the reference by default.
      every: keep each `every`-th policy.
      key: estimate each win-rate from `num_samples` sampled opponents instead of exactly.

    Returns: `Solution` with `.logp`, `.trajectory` `[num_steps / every + 1, ..., A]` (the initial policy first),
      `.gap`, and `.average_logp` for the solvers whose guarantee is about the average.
    Raises: ValueError on what is not allowed, UnknownName (with the nearest name) for an unknown solver.
    """
    row = solver(name)
    if not isinstance(game, Game):
        raise TypeError(f"game must be a PreferenceGame or a MultiplayerGame, got {type(game).__name__}")
    alone = isinstance(game, PreferenceGame)
    if not alone and not row.many_players:
        able = ", ".join(one.name for one in SOLVERS if one.many_players)
        raise ValueError(f"{row.name} solves games of two players only; for more there are: {able}")
    num_steps = checks.whole("num_steps", num_steps, at_least=0)
    every = checks.whole("every", every)
    num_samples = checks.whole("num_samples", num_samples)
    if num_steps % every:
        raise ValueError(f"num_steps must be a multiple of every, got num_steps = {num_steps} and every = {every}")
    if key is not None and not (row.sampled and alone):
        raise ValueError(f"{row.name} asks for exact win-rates here; key must be None")
    if eta is not None and step_size is not None:
        raise TypeError("give step_size (the canonical h) or eta (the paper's own symbol), not both")
    for given in hyperparameters:
        if given not in row.defaults:
            raise TypeError(f"{row.name} has no hyperparameter {given!r} (it has: {', '.join(row.defaults) or 'none'})")
    for share in ("mixture", "ema"):
        if hyperparameters.get(share) is not None:
            checks.between(share, hyperparameters[share], 0.0, 1.0)
    if hyperparameters.get("magnet_steps") is not None:
        checks.positive("magnet_steps", hyperparameters["magnet_steps"])
    if "inner_steps" in hyperparameters:
        hyperparameters["inner_steps"] = checks.whole("inner_steps", hyperparameters["inner_steps"])
    hyperparameters = {n: v for n, v in hyperparameters.items() if v is not None}
    start = _start(game, init_logp)
    sizes = _step_sizes(row, game, step_size if eta is None else _canonical(row, game, eta), num_steps)
    if isinstance(game, PreferenceGame):
        batch = np.broadcast_shapes(
            game.preference.shape[:-2], game.ref_logp.shape[:-1], start.shape[:-1], sizes.shape[1:]
        )
        dtype = jnp.result_type(game.preference, game.ref_logp, start)
        start = jnp.broadcast_to(start, (*batch, start.shape[-1]))
    else:
        batch, dtype = start.shape[:-1], jnp.result_type(*jax.tree.leaves(game), start)
    start = start.astype(dtype)
    game, sizes = jax.tree.map(lambda x: x.astype(dtype), (game, sizes))
    games_last = alone and key is None and start.shape[-1] <= UNROLLED and int(np.prod(batch)) >= MANY_GAMES
    last, trajectory, total = _run(
        game,
        start,
        _one_for_all(as_float(game.tau), 0),
        _one_for_all(sizes, 1),
        key,
        hyperparameters,
        row=row,
        every=every,
        num_samples=num_samples,
        games_last=games_last,
    )
    gap = original_gap if row.target == "original" else duality_gap
    average = None if total is None else jnp.log(total / num_steps) if num_steps else last
    return Solution(logp=last, trajectory=trajectory, gap=gap(game, last), average_logp=average)
