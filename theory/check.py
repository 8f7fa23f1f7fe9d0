"""The runner: every statement and every mutant of it on the same random instances, in one compiled call."""

import collections
import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.record import keyword_only
from alignjax.sweeps import spread
from theory.record import Statement
from theory.slack import recording

SEEDS_PER_RUN = 1_000_000
"""Run S tries the instances S * 1,000,000, S * 1,000,000 + 1, ...: an instance's number says everything about it."""
AHEAD = 3
"""Statements that are traced before the first of them has run."""


@dataclasses.dataclass(frozen=True)
class MutantResult:
    """What became of one mutant: killed if its slack is negative on some instance."""

    variant: Mapping[str, Any]
    smallest_slack: float
    worst_seed: int

    @property
    def killed(self) -> bool:
        """Whether some instance showed it wrong."""
        return not self.smallest_slack >= 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a statement."""

    statement: Statement
    instances: int
    smallest_slack: float
    worst_seed: int
    mutants: tuple[MutantResult, ...]
    seconds: float
    error: str = ""

    @property
    def verdict(self) -> str:
        """`holds`, or the first of what is wrong."""
        if self.error:
            return "error"
        if not self.smallest_slack >= 0:
            return "false"
        if not self.mutants:
            return "no mutants"
        if not all(mutant.killed for mutant in self.mutants):
            return "mutant survived"
        return "holds"

    @property
    def passed(self) -> bool:
        """The statement holds on every instance, and every mutant fails on some."""
        return self.verdict == "holds"

    def as_json(self) -> dict[str, Any]:
        """Plain data; a slack that is not finite is null."""
        statement = self.statement
        source = {field: value for field, value in dataclasses.asdict(statement.source).items() if value != ""}
        return {
            "id": statement.id,
            "says": statement.says,
            "formula": statement.formula,
            "source": source,
            "instances": self.instances,
            "smallest_slack": _finite(self.smallest_slack),
            "worst_seed": self.worst_seed,
            "mutants": [
                {
                    "variant": dict(mutant.variant),
                    "smallest_slack": _finite(mutant.smallest_slack),
                    "worst_seed": mutant.worst_seed,
                    "killed": mutant.killed,
                }
                for mutant in self.mutants
            ],
            "verdict": self.verdict,
            "error": self.error or None,
            "seconds": round(self.seconds, 3),
        }


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def variants(statement: Statement) -> list[dict[str, Any]]:
    """The statement itself first, then its mutants, each with every keyword of the slack."""
    defaults = {
        name: value
        for name, value in keyword_only(statement.slack).items()
        if any(name in m for m in statement.mutants)
    }
    for mutant in statement.mutants:
        unknown = [name for name in mutant if name not in defaults]
        if unknown:
            raise TypeError(f"{statement.id}: the slack has no keyword {unknown[0]!r} that a mutant could set")
    return [defaults, *({**defaults, **mutant} for mutant in statement.mutants)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def slack_of_all(statement: Statement) -> Callable[..., jax.Array]:
    """(one instance) -> the slack of the statement and of each mutant, `[1 + mutants]`.

    Numbers are stacked and mapped over, so that one program serves all mutants and what they share is computed once.
    """
    rows = variants(statement)
    numeric = all(_is_number(value) for row in rows for value in row.values())

    def smallest(instance: tuple[Any, ...], variant: Mapping[str, Any]) -> jax.Array:
        slack = jnp.min(jnp.asarray(statement.slack(*instance, **variant)))
        return jnp.where(jnp.isnan(slack), -jnp.inf, slack)

    def evaluate(*instance: Any) -> jax.Array:
        if statement.on_host or not numeric or not rows[0]:
            return jnp.stack([smallest(instance, row) for row in rows])
        stacked = {name: jnp.asarray([float(row[name]) for row in rows]) for name in rows[0]}
        return jax.vmap(lambda variant: smallest(instance, variant))(stacked)

    return evaluate


class Instances:
    """The random instances of a run, each generator called once and shared by the statements that use it."""

    def __init__(self, seed: int) -> None:
        self.first = seed * SEEDS_PER_RUN
        self._made: dict[tuple[Callable[..., Any], int], Any] = {}

    def __call__(self, generator: Callable[..., Any], count: int) -> Any:
        """`count` instances on a leading axis."""
        if (generator, count) not in self._made:
            self._made[generator, count] = draw(generator, np.arange(self.first, self.first + count))
        return self._made[generator, count]


def draw(generator: Callable[..., Any], seeds: np.ndarray) -> Any:
    """The instances of some seeds on a leading axis, in one compiled call, over the devices of `sweeps.over`."""
    return jax.jit(jax.vmap(lambda seed: generator(jax.random.key(seed))))(spread(jnp.asarray(seeds)))


Slacks = Callable[[], np.ndarray]


def prepare(statement: Statement, instances: Instances, number: int, pool: concurrent.futures.Executor) -> Slacks:
    """Draw, trace, and start compiling; what is returned waits for the program, runs it, and has the slacks."""
    given = instances(statement.instance, number)
    evaluate = slack_of_all(statement)
    if statement.on_host:
        host = jax.device_get(given)
        rows = [jax.tree.map(lambda x, i=i: x[i], host) for i in range(number)]
        return lambda: np.stack([np.asarray(evaluate(*row)) for row in rows])
    compiled = pool.submit(jax.jit(jax.vmap(evaluate)).lower(*given).compile)
    return lambda: np.asarray(compiled.result()(*given))


def judge(statement: Statement, number: int, first: int, slacks: np.ndarray, seconds: float) -> Result:
    """The smallest slack of every column, and where it was."""
    worst, smallest = slacks.argmin(0), slacks.min(0)
    mutants = tuple(
        MutantResult(variant, float(smallest[i]), int(first + worst[i]))
        for i, variant in enumerate(statement.mutants, 1)
    )
    return Result(statement, number, float(smallest[0]), int(first + worst[0]), mutants, seconds)


def check(statements: Iterable[Statement], *, count: int | None = None, seed: int = 0) -> Iterator[Result]:
    """Results in order, in float64. The caller's precision is left as it was, also between two results.

    `count` instances of each (its own number by default; never more than that on the host). While one program is
    compiled by another thread the next one is traced: compiling is most of a cold run.
    """
    instances = Instances(seed)

    def attempt(statement: Statement, number: int, work: Callable[[], Any]) -> tuple[Any, float]:
        """What `work` returns, or a Result that tells the error: a broken library breaks a statement, not the run."""
        start = time.perf_counter()
        try:
            with jax.enable_x64(True):
                found = work()
        except Exception as problem:
            message = f"{type(problem).__name__}: {problem}".splitlines()[0]
            found = Result(statement, number, float("nan"), instances.first, (), time.perf_counter() - start, message)
        return found, time.perf_counter() - start

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting: collections.deque[tuple[Statement, int, Any, float]] = collections.deque()

        def finish() -> Result:
            statement, number, slacks, before = waiting.popleft()
            if isinstance(slacks, Result):
                return slacks
            found, seconds = attempt(statement, number, slacks)
            if isinstance(found, Result):
                return found
            return judge(statement, number, instances.first, found, before + seconds)

        for statement in statements:
            number = statement.num_instances if count is None else count
            number = min(number, statement.num_instances) if statement.on_host else number
            work = functools.partial(prepare, statement, instances, number, pool)
            waiting.append((statement, number, *attempt(statement, number, work)))
            if len(waiting) > AHEAD:
                yield finish()
        while waiting:
            yield finish()


def replay(statement: Statement, seed: int) -> tuple[float, list[tuple[str, np.ndarray, np.ndarray]]]:
    """One instance again: its slack, and (relation, left, right) of every comparison the statement makes."""
    relations: list[str] = []

    def both_sides(*instance: Any) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        with recording() as sides:
            slack = jnp.min(jnp.asarray(statement.slack(*instance)))
        relations[:] = [relation for relation, _, _ in sides]
        return slack, [(left, right) for _, left, right in sides]

    with jax.enable_x64(True):
        given = draw(statement.instance, np.asarray([seed]))
        if statement.on_host:
            slack, sides = both_sides(*jax.tree.map(lambda x: x[0], jax.device_get(given)))
        else:
            # The same batched program as in the check, for a batch of one.
            slack, sides = jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(both_sides))(*given))
    rows = [(relation, np.asarray(a), np.asarray(b)) for relation, (a, b) in zip(relations, sides, strict=True)]
    return float(slack), rows
