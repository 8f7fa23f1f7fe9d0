"""Updates per second of the game solvers, against NumPy, torch, OpenSpiel and the fastest jnp loop we can write."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import games
from alignjax.games import solvers
from theory.benching import contenders
from theory.benching.contenders import Run

TAU, STEP = 0.1, 0.3


@dataclasses.dataclass(frozen=True)
class Line:
    """One contender in one workload."""

    workload: str
    contender: str
    rate: float
    """Game updates per second, median of the repeats."""
    low: float
    high: float
    ratio: float
    """Our rate over this one."""
    aim: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def workload(num_games: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Skew parts `[B, A, A]` of random games and normal references `[B, A]`, float32."""
    rng = np.random.default_rng(seed)
    lower = np.tril(rng.uniform(size=(num_games, size, size)) - 0.5, -1)
    theta = rng.normal(size=(num_games, size))
    ref = theta - np.log(np.exp(theta).sum(-1, keepdims=True))
    return (lower - np.swapaxes(lower, -1, -2)).astype(np.float32), ref.astype(np.float32)


def game_of(skew: np.ndarray, ref: np.ndarray, tau: float) -> games.PreferenceGame:
    """The games as a user would build them."""
    return games.PreferenceGame(preference=jnp.asarray(skew + np.float32(0.5)), ref_logp=jnp.asarray(ref), tau=tau)


def ours(name: str, skew: np.ndarray, ref: np.ndarray, tau: float, h: float, steps: int, every: int) -> Run:
    """`alignjax.games.solve` as a user calls it, checks and gap of the last policy included."""
    game = game_of(skew, ref, tau)
    return lambda: np.exp(games.solve(game, name, num_steps=steps, step_size=h, every=every).logp)


def _updates(run: Run, updates: int) -> float:
    start = time.perf_counter()
    run()
    return updates / (time.perf_counter() - start)


def race(
    runs: dict[str, tuple[Run, int]], repeats: int, progress: Callable[[str], None]
) -> dict[str, tuple[float, float, float]]:
    """Median, lowest and highest rate of each contender; repeats go round, so that noise meets all alike."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for name, (run, _) in runs.items():
        progress(f"compiling {name}")
        run()
    for repeat in range(repeats):
        for name, (run, updates) in runs.items():
            progress(f"{name}, {repeat + 1} of {repeats}")
            rates[name].append(_updates(run, updates))
    return {name: (statistics.median(found), min(found), max(found)) for name, found in rates.items()}


AIMS = {
    "hand-written jnp": "<= 1.5x slower", "NumPy, games last": ">= 4x", "NumPy, games first": ">= 4x",
    "NumPy, one game at a time": ">= 300x", "torch autograd": ">= 100x", "OpenSpiel MMD": ">= 100x",
}  # fmt: skip


def compare(
    name: str, num_games: int, size: int, steps: int, repeats: int, progress: Callable[[str], None], every: int = 0
) -> Iterator[Line]:
    """One solver on one batch of games against everything there is, and that all reach the same policies."""
    skew, ref = workload(num_games, size)
    few_games, few = max(1, num_games // 100), max(1, steps // 20)
    uniform = np.full_like(ref, -np.log(size))
    made: dict[str, tuple[Run | None, int, int]] = {
        "alignjax": (ours(name, skew, ref, TAU, STEP, steps, every or steps), num_games, steps),
        "hand-written jnp": (contenders.hand_written(name, skew, ref, TAU, STEP, steps), num_games, steps),
        "NumPy, games last": (contenders.numpy_games_last(name, skew, ref, TAU, STEP, few), num_games, few),
        "NumPy, games first": (contenders.numpy_games_first(name, skew, ref, TAU, STEP, few), num_games, few),
        "NumPy, one game at a time": (
            contenders.numpy_loop(name, skew[:few_games], ref[:few_games], TAU, STEP, few), few_games, few,
        ),
        "torch autograd": (contenders.torch_loop(name, skew, ref, TAU, STEP, few), num_games, few),
        "OpenSpiel MMD": (
            contenders.open_spiel_mmd(name, skew[:few_games], uniform[:few_games], TAU, STEP, few), few_games, few,
        ),
    }  # fmt: skip
    runs = {label: (run, count * length) for label, (run, count, length) in made.items() if run is not None}
    for label, (run, count, length) in made.items():
        if run is not None and label not in ("alignjax", "hand-written jnp"):
            start = uniform if label.startswith("OpenSpiel") else ref
            expected = ours(name, skew[:count], start[:count], TAU, STEP, length, length)()
            _same(label, run(), expected)
        elif label == "hand-written jnp" and run is not None:
            _same(label, run(), made["alignjax"][0]())  # type: ignore[misc]
    found = race(runs, repeats, progress)
    mine = found["alignjax"][0]
    title = f"{name}, {num_games} games of {size} actions, float32"
    for label, (rate, low, high) in found.items():
        yield Line(title, label, rate, low, high, mine / rate, AIMS.get(label, ""))
    for label, (run, _, _) in made.items():
        if run is None and (label.startswith("torch") or name == "omd"):
            note = "not installed" if name in ("omd", "egpo") else "written for omd and egpo only"
            yield Line(title, label, float("nan"), float("nan"), float("nan"), float("nan"), AIMS[label], note)


def _same(label: str, found: np.ndarray, expected: np.ndarray) -> None:
    worst = float(np.abs(found - expected).max())
    if not worst < 1e-3:
        raise RuntimeError(f"{label} does not do the same updates: policies differ by {worst:.3g}")


def every_solver(
    num_games: int, size: int, steps: int, repeats: int, progress: Callable[[str], None]
) -> Iterator[Line]:
    """Every row of `SOLVERS` at its default step, on the same games."""
    skew, ref = workload(num_games, size)
    game = game_of(skew, ref, TAU)
    runs: dict[str, tuple[Run, int]] = {}
    for row in games.SOLVERS:
        length = max(1, steps // 50) if row.oracle_calls is None else steps
        run = lambda name=row.name, length=length: np.asarray(
            games.solve(game, name, num_steps=length, every=length).logp
        )
        runs[row.name] = (run, num_games * length)
    found = race(runs, repeats, progress)
    for name, (rate, low, high) in found.items():
        calls = solvers.solver(name).oracle_calls
        note = f"{calls} oracle call{'s' if calls != 1 else ''} an update" if calls else "an update is a solved prox"
        yield Line(f"every solver, {num_games} games of {size} actions", name, rate, low, high, float("nan"), "", note)


def official_egpo(steps: int, repeats: int, progress: Callable[[str], None]) -> Iterator[Line]:
    """EGPO's own simulation: 10 games of 10 actions, the gap at every step; torch does one step at a time."""
    skew, ref = workload(10, 10, seed=1)
    game = game_of(skew, ref, TAU)
    gaps = jax.jit(lambda path: games.duality_gap(game, path))

    def mine() -> np.ndarray:
        found = games.solve(game, "egpo", num_steps=steps, step_size=STEP)
        return np.asarray(gaps(found.trajectory)[-1])

    few = max(1, steps // 400)
    rival = contenders.torch_loop("egpo", skew, ref, TAU, STEP, few)
    runs: dict[str, tuple[Run, int]] = {"alignjax, gap at every step": (mine, 10 * steps)}
    if rival is not None:
        runs["torch, one step at a time, no gap"] = (rival, 10 * few)
    found = race(runs, repeats, progress)
    fastest = found["alignjax, gap at every step"][0]
    title = "egpo, the official 10 games of 10 actions"
    for label, (rate, low, high) in found.items():
        aim = ">= 1000x" if label.startswith("torch") else "about 3e6 a second"
        yield Line(title, label, rate, low, high, fastest / rate, aim)
    if rival is None:
        nan = float("nan")
        yield Line(title, "torch, one step at a time, no gap", nan, nan, nan, nan, ">= 1000x", "not installed")


def memory(num_games: int, size: int, steps: int) -> dict[str, float]:
    """MiB that the compiled run holds (arguments, results, scratch), with every policy stored and with the last."""
    skew, ref = workload(num_games, size)
    game = game_of(skew, ref, TAU)
    found = {}
    for label, every in (("every policy stored", 1), ("every 100th", min(100, steps)), ("the last only", steps)):
        compiled = solvers._run.lower(
            game, game.ref_logp, jnp.float32(TAU), jnp.full(steps, STEP), None, {},
            row=solvers.solver("nash_md"), every=every, num_samples=1, games_last=True,
        ).compile()  # fmt: skip
        analysis = compiled.memory_analysis()
        assert analysis is not None
        size_in_bytes = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
        found[label] = size_in_bytes / 2**20
    return found
