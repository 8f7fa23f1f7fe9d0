r"""The recurrences of the benchmark, written by hand for NumPy, for jnp and for torch, in their fastest layouts.

Nothing here is used by the library. Each contender is a function of (skew `[B, A, A]`, reference `[B, A]`, tau, h,
steps) -> a call without arguments that runs those steps and returns policies `[B, A]`, so that a run can be checked.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Run = Callable[[], np.ndarray]
Rates = Callable[[Any], Any]

# --- one update from a centre, given softmax and the product with the skew part: shared by NumPy and jnp


def _nash_md(theta: Any, ref: Any, w: float, h: float, rate: Rates) -> Any:
    centre = (1 - w) * theta + w * ref
    return centre + h * rate(centre)


def _omd(theta: Any, ref: Any, w: float, h: float, rate: Rates) -> Any:
    return (1 - w) * theta + w * ref + h * rate(theta)


def _egpo(theta: Any, ref: Any, w: float, h: float, rate: Rates) -> Any:
    centre = (1 - w) * theta + w * ref
    return centre + h * rate(centre + h * rate(theta))


def _mwu(theta: Any, ref: Any, w: float, h: float, rate: Rates) -> Any:
    return theta + h * rate(theta)


UPDATES = {"nash_md": _nash_md, "omd": _omd, "egpo": _egpo, "mwu": _mwu}


# --- jnp: the limit


def hand_written(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int) -> Run:
    """Games on the last axis, the actions of the product unrolled, one softmax an oracle call, constants folded."""
    table, base, size = jnp.moveaxis(jnp.asarray(skew), 0, -1), jnp.asarray(ref).T, ref.shape[-1]

    def rate(table: jax.Array, theta: jax.Array) -> jax.Array:
        policy = jax.nn.softmax(theta, axis=0)
        return functools.reduce(jnp.add, (table[:, j] * policy[j] for j in range(size)))

    @jax.jit
    def run(table: jax.Array, base: jax.Array) -> jax.Array:
        update = lambda theta, _: (
            UPDATES[name](theta, base, h * tau, h, functools.partial(rate, table)),
            None,
        )
        return jax.nn.softmax(jax.lax.scan(update, base, None, length=steps)[0], axis=0).T

    return lambda: np.asarray(run(table, base))


# --- NumPy


def _numpy_softmax(theta: np.ndarray, axis: int) -> np.ndarray:
    policy = np.exp(theta - theta.max(axis, keepdims=True))
    policy /= policy.sum(axis, keepdims=True)
    return policy


def numpy_loop(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int) -> Run:
    """One game after the other, one step after the other."""

    def run() -> np.ndarray:
        out = []
        for matrix, base in zip(skew, ref, strict=True):
            theta = base
            rate = lambda x, matrix=matrix: matrix @ _numpy_softmax(x, -1)
            for _ in range(steps):
                theta = UPDATES[name](theta, base, h * tau, h, rate)
            out.append(_numpy_softmax(theta, -1))
        return np.stack(out)

    return run


def numpy_games_first(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int) -> Run:
    """All games at once, a batched matrix product."""

    def run() -> np.ndarray:
        theta = ref
        rate = lambda x: np.matmul(skew, _numpy_softmax(x, -1)[..., None])[..., 0]
        for _ in range(steps):
            theta = UPDATES[name](theta, ref, h * tau, h, rate)
        return _numpy_softmax(theta, -1)

    return run


def numpy_games_last(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int) -> Run:
    """All games at once on the last axis, the product as a sum over actions."""
    table, base = np.ascontiguousarray(np.moveaxis(skew, 0, -1)), np.ascontiguousarray(ref.T)

    def rate(x: np.ndarray) -> np.ndarray:
        policy = _numpy_softmax(x, 0)
        total = table[:, 0] * policy[0]
        for j in range(1, len(policy)):
            total += table[:, j] * policy[j]
        return total

    def run() -> np.ndarray:
        theta = base
        for _ in range(steps):
            theta = UPDATES[name](theta, base, h * tau, h, rate)
        return _numpy_softmax(theta, 0).T

    return run


# --- torch: the manner of EGPO's official simulation


def torch_loop(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int) -> Run | None:
    """Batched autograd on the IPO-gradient loss, one optimiser step at a time; None without torch, or for the others.

    The learning rate is h tau A / 4, with which plain gradient descent on the loss over uniform pairs is the update.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return None
    if name not in ("omd", "egpo"):
        return None
    matrix, base, size = torch.tensor(skew), torch.tensor(ref), ref.shape[-1]

    def loss(theta: Any, opponent: Any) -> Any:
        ratio = torch.log_softmax(theta, -1) - base
        target = torch.einsum("bij,bj->bi", matrix, torch.softmax(opponent, -1).detach()) / tau
        gap = ratio - target
        return torch.square(gap[:, :, None] - gap[:, None, :]).mean((1, 2)).sum()

    def run() -> np.ndarray:
        theta = base.clone().requires_grad_(True)
        optimizer = torch.optim.SGD([theta], lr=h * tau * size / 4)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(theta, theta).backward()
            if name == "egpo":
                backup = theta.detach().clone()
                optimizer.step()
                half = theta.detach().clone()
                with torch.no_grad():
                    theta.copy_(backup)
                optimizer.zero_grad()
                loss(theta, half).backward()
            optimizer.step()
        return torch.softmax(theta, -1).detach().numpy()

    return run


def open_spiel_mmd(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int) -> Run | None:
    """OpenSpiel's magnetic mirror descent, game after game, uniform magnet; None without it, or for the others."""
    if name != "omd":
        return None
    try:
        import pyspiel  # type: ignore[import-not-found]
        from open_spiel.python.algorithms import mmd_dilated  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        return None
    eta = h / (1 - h * tau)

    def run() -> np.ndarray:
        out = []
        for matrix in skew.astype(np.float64):
            labels = [str(k) for k in range(len(matrix))]
            game = pyspiel.create_matrix_game("game", "game", labels, labels, matrix, -matrix)
            solver = mmd_dilated.MMDDilatedEnt(pyspiel.convert_to_turn_based(game), alpha=tau, stepsize=eta)
            for _ in range(steps):
                solver.update_sequences()
            policy = solver.get_policies().action_probabilities(solver.game.new_initial_state())
            out.append([policy[k] for k in range(len(matrix))])
        return np.asarray(out)

    return run
