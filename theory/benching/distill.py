"""`theory bench distill`: the cost of an update of each method, and how exact laws grow with the responses."""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import Method, Problem, Samples, best_of_n, bond_reward, methods
from alignjax.best_of import quantiles
from theory.benching.games import Line, race

METHODS = (
    "reinforce", "rloo", "grpo", "ppo", "dpo", "bond", "jbond", "vbon", "bonbon", "qrpo", "copg", "agro", "dro", "p3o",
)  # fmt: skip
"""The plain policy gradient first: the others are measured against it. Those that are not registered are left out."""
LAW_N = 64


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """The flags of `theory bench distill` that `bench games` does not have."""
    parser.add_argument("--prompts", type=positive, default=256, metavar="X", help="distill: prompts of a batch (256)")
    parser.add_argument("--group", type=positive, default=8, metavar="K", help="distill: responses to a prompt (8)")
    parser.add_argument("--table", type=positive, default=1000, metavar="A", help="distill: logits of a prompt (1000)")
    parser.add_argument(
        "--largest", type=positive, default=1_000_000, metavar="A", help="distill: the largest exact law (1000000)"
    )


# --- updates


def batch(prompts: int, size: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits `[prompts, A]`, and what losses read of `shape` = (groups, K) responses to each prompt, with `index`."""
    rng = np.random.default_rng(seed)
    near = lambda: rng.normal(-5.0, 1.0, (prompts, *shape))
    reward = rng.normal(size=(prompts, *shape))
    fields = {
        "ref_logp": near(), "anchor_logp": near(), "behaviour_logp": near(), "reward": reward,
        "preference": 1 / (1 + np.exp(reward[..., None, :] - reward[..., :, None])), "value": reward.mean(-1),
    }  # fmt: skip
    arrays = {name: x.astype(np.float32) for name, x in fields.items()}
    arrays["index"] = rng.integers(0, size, (prompts, *shape))
    return rng.normal(size=(prompts, size)).astype(np.float32), arrays


def group_of(method: Method, k: int) -> int:
    """Responses of one group of this method: its own number, or k."""
    return method.num_responses or max(k, method.min_responses)


def update(name: str, prompts: int, size: int, k: int) -> Callable[[], np.ndarray]:
    """One jitted gradient of the mean loss over a batch, by the logits; about k responses to a prompt for each method.

    A method of pairs or triples gets k // 2 or k // 3 of them to each prompt.
    """
    method = methods[name]
    group = group_of(method, k)
    logits, given = batch(prompts, size, (max(1, k // group), group))
    index = given["index"]
    wanted = {field: given[field] for field in (*method.reads, *method.reads_if_present) if field in given}

    @jax.jit
    def gradient(logits: jax.Array, index: jax.Array, wanted: dict[str, jax.Array]) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            rows = jax.nn.log_softmax(x)
            logp = jnp.take_along_axis(rows, index.reshape(prompts, -1), -1).reshape(index.shape)
            return method(Samples(logp=logp, **wanted)).mean()

        return jax.grad(loss)(logits)

    arrays = jax.device_put((logits, index, wanted))
    return lambda: np.asarray(gradient(*arrays).block_until_ready())


def updates(prompts: int, size: int, k: int, repeats: int, progress: Callable[[str], None]) -> Iterator[Line]:
    """Updates per second of every method; `ratio` is reinforce's rate over it: its cost."""
    names = [name for name in METHODS if name in methods]
    runs = {name: (update(name, prompts, size, k), 1) for name in names}
    for name, (run, _) in runs.items():
        gradient = run()
        if not (np.isfinite(gradient).all() and np.abs(gradient).max() > 0):
            raise RuntimeError(f"{name} has no finite gradient that is not 0 on the batch of the benchmark")
    title = f"one gradient, {prompts} prompts of {k} responses, {size} logits, float32"
    # A single gradient takes milliseconds: many rounds, so that the median is one of a quiet moment.
    found = race(runs, 10 * repeats, progress)
    plain = found["reinforce"][0]
    for name, (rate, low, high) in found.items():
        yield Line(title, name, rate, low, high, plain / rate, "")


# --- exact laws


def law_instance(size: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """(ref_logp, reward) `[A]`, some rewards tied."""
    rng = np.random.default_rng(seed)
    ref = rng.normal(size=size)
    ref = ref - np.log(np.exp(ref).sum())
    return jnp.asarray(ref, jnp.float32), jnp.asarray(rng.normal(size=size).round(4), jnp.float32)


def summed(ref_logp: jax.Array, reward: jax.Array, n: int) -> jax.Array:
    r"""log ref + log sum_{i = 1}^N p_<=^{N - i} p_<^{i - 1}: the sum as it is written, O(A N) after the sort."""
    found = quantiles(ref_logp, reward)
    at_most, below = found.at_most, found.below

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        term = (n - 1.0 - i) * at_most + jnp.where(i == 0, 0.0, i * jnp.where(i == 0, 0.0, below))
        return jnp.logaddexp(total, term)

    return ref_logp + jax.lax.fori_loop(0, n, add, jnp.full_like(ref_logp, -jnp.inf))


def _optimum(name: str, **hyper: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda ref, reward: methods[name].optimum(Problem(ref_logp=ref, reward=reward), **hyper)


LAWS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "best_of_n": lambda ref, reward: best_of_n(ref, reward, LAW_N),
    "best_of_n, strict order": lambda ref, reward: best_of_n(ref, reward, LAW_N, ties="order"),
    "bond_reward": lambda ref, reward: bond_reward(ref, reward, LAW_N),
    "optimum of vbon without B": _optimum("vbon", n=4, include_b=False),
    "optimum of jbond": _optimum("jbond"),
    f"the sum of {LAW_N} terms, as written": lambda ref, reward: summed(ref, reward, LAW_N),
}
SLOW = ("optimum of jbond",)
"""A bisection of many passes: one decade less."""


def sizes(largest: int) -> list[int]:
    """1,000, 10,000, ... up to `largest`; at least two of them."""
    return [10**e for e in range(3, max(4, int(math.log10(largest) + 1e-9)) + 1)]


def laws(largest: int, repeats: int, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Seconds of each exact law by size, median of the repeats; `per_doubling` over the last decade, `power` of A."""
    for name, law in LAWS.items():
        grid = sizes(largest)
        grid = grid[:-1] if name in SLOW and len(grid) > 2 else grid
        seconds = []
        for size in grid:
            progress(f"{name}, {size} responses")
            ref, reward = law_instance(size)
            run = jax.jit(law)
            found = run(ref, reward).block_until_ready()
            if name.startswith("the sum"):
                worst = float(jnp.abs(jnp.exp(found) - jnp.exp(best_of_n(ref, reward, LAW_N))).max())
                if not worst < 1e-3:
                    raise RuntimeError(f"the sum as written is not best_of_n: probabilities differ by {worst:.3g}")
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                run(ref, reward).block_until_ready()
                times.append(time.perf_counter() - start)
            seconds.append(statistics.median(times))
        power = math.log(seconds[-1] / seconds[-2]) / math.log(grid[-1] / grid[-2])
        yield {"law": name, "sizes": grid, "seconds": seconds, "per_doubling": 2**power, "power": power}


# --- the command


def run(arguments: argparse.Namespace, progress: Callable[[str], None]) -> int:
    """Measure and print; 0 always, since a slow machine is not an error."""
    quiet = arguments.json
    shown = lambda text: None if quiet else print(text, flush=True)
    lines: list[Line] = []
    for line in updates(arguments.prompts, arguments.table, arguments.group, arguments.repeats, progress):
        progress("")
        if not lines:
            shown(f"{line.workload}\n  {'':<12} {'ms':>8}  {'[lowest, highest]':>18}  of reinforce's")
        spread = f"[{1e3 / line.high:.3g}, {1e3 / line.low:.3g}]"
        shown(f"  {line.contender:<12} {1e3 / line.rate:>8.3g}  {spread:>18}  {line.ratio:.3g}x")
        lines.append(line)
    grown: list[dict[str, Any]] = []
    for row in laws(arguments.largest, arguments.repeats, progress):
        progress("")
        if not grown:
            head = "".join(f"{f'A = {size:.0e}':>12}" for size in row["sizes"])
            shown(
                f"exact laws, ms (a law that sorts doubles in a little over 2x; a quadratic one in 4x)\n{'':<36}{head}"
            )
        cells = "".join(f"{1e3 * seconds:>12.3g}" for seconds in row["seconds"])
        shown(f"  {row['law']:<34}{cells}  {row['per_doubling']:.2f}x a doubling")
        grown.append(row)
    text = json.dumps({"lines": [line.as_json() for line in lines], "laws": grown}, indent=1)
    if quiet:
        print(text)
    if arguments.out is not None:
        path: Path = arguments.out
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return 0
