"""The run: mutants of chosen equations, judged by two processes, and the score."""

import collections
import concurrent.futures
import dataclasses
import gc
import itertools
import multiprocessing
import pathlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from theory.mutation.judge import Verdict, judge
from theory.mutation.operators import Mutant

PASS = 0.95
CHUNK = 48
"""Mutants of one module that a process judges one after the other: the first ones compile what the others meet."""
CHUNKS_OF_A_PROCESS = 4
"""A process makes room for a new one after so many: every world leaves compiled programs behind, about 10 MB."""
MAPPINGS = 30_000
"""Memory mappings of a process above which it forgets its compiled programs."""
LOOK = 8
"""How many mutants are judged before they are counted again: that reads a line for each."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Mutants of one equation, or of all, by what became of them."""

    killed: int
    equivalent: int
    survived: int

    @property
    def mutants(self) -> int:
        """All of them."""
        return self.killed + self.equivalent + self.survived

    @property
    def value(self) -> float:
        """Killed mutants over those that are not equivalent; 1 where there are none."""
        different = self.killed + self.survived
        return self.killed / different if different else 1.0

    @property
    def passed(self) -> bool:
        """At least 95 %."""
        return self.value >= PASS


def score(verdicts: Sequence[Verdict]) -> Score:
    """The score of some verdicts."""
    count = collections.Counter(verdict.status for verdict in verdicts)
    return Score(count["killed"], count["equivalent"], count["survived"])


def by_equation(verdicts: Sequence[Verdict]) -> dict[str, Score]:
    """The score of every equation, in the order of the verdicts."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.mutant.equation, []).append(verdict)
    return {name: score(rows) for name, rows in groups.items()}


def sample(mutants: Sequence[Mutant], size: int | None, seed: int) -> list[Mutant]:
    """Some of the mutants, in their order; all of them if `size` is None or not smaller."""
    if size is None or size >= len(mutants):
        return list(mutants)
    chosen = sorted(random.Random(seed).sample(range(len(mutants)), size))
    return [mutants[index] for index in chosen]


def _prepare(settings: dict[str, Any]) -> None:
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)


def _chunks(mutants: Sequence[Mutant]) -> Iterator[Sequence[Mutant]]:
    """Up to CHUNK neighbours of one module each."""
    for _, group in itertools.groupby(mutants, key=lambda mutant: mutant.module):
        rows = list(group)
        yield from (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _judge_all(mutants: Sequence[Mutant]) -> list[Verdict]:
    found = []
    for mutant in mutants:
        found.append(judge(mutant))
        _make_room(len(found))
    gc.collect()
    return found


def _make_room(judged: int) -> None:
    """Forgets compiled programs before the kernel refuses them memory: it allows a process 65,530 mappings (Linux)."""
    import jax

    maps = pathlib.Path("/proc/self/maps")
    if judged % LOOK == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()
        gc.collect()


def run(
    mutants: Sequence[Mutant],
    *,
    workers: int = 2,
    progress: Callable[[int, str], None] | None = None,
    settings: dict[str, Any] | None = None,
) -> Iterator[Verdict]:
    """Verdicts in the order of the mutants. One worker judges in this process; several are processes of their own.

    `settings` are JAX settings that other processes should have (the compilation cache, say).
    """
    chunks = list(_chunks(mutants))
    done = 0
    if workers == 1 or len(chunks) < 2:
        for mutant in mutants:
            if progress is not None:
                progress(done, mutant.equation)
            yield judge(mutant)
            done += 1
            _make_room(done)
        return
    # New processes one by one: max_tasks_per_child hangs once a process has left (CPython gh-115634).
    here = threading.local()
    opened: list[concurrent.futures.ProcessPoolExecutor] = []

    def judged(chunk: Sequence[Mutant]) -> list[Verdict]:
        if getattr(here, "left", 0) == 0:
            if hasattr(here, "pool"):
                here.pool.shutdown()
            context = multiprocessing.get_context("spawn")
            here.pool = concurrent.futures.ProcessPoolExecutor(1, context, _prepare, (settings or {},))
            here.left = CHUNKS_OF_A_PROCESS
            opened.append(here.pool)
        here.left -= 1
        verdicts: list[Verdict] = here.pool.submit(_judge_all, chunk).result()
        return verdicts

    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        futures = [threads.submit(judged, chunk) for chunk in chunks]
        try:
            for chunk, future in zip(chunks, futures, strict=True):
                if progress is not None:
                    progress(done, chunk[0].equation)
                verdicts = future.result()
                done += len(verdicts)
                yield from verdicts
        finally:
            for future in futures:
                future.cancel()
            for pool in opened:
                pool.shutdown(cancel_futures=True)
