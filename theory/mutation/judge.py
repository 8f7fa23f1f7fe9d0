"""The judges of a mutant: the statements and properties that exercise its function, and the witness of equivalence."""

import contextlib
import dataclasses
import functools
import importlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from theory import check
from theory.mutation import properties, targets, witness
from theory.mutation.operators import Mutant
from theory.mutation.reach import Place, reached
from theory.mutation.world import world
from theory.record import Statement
from theory.registry import all_statements

INSTANCES = 48
"""Instances of each statement a mutant is held to: a wrong equation shows on the first few."""
FIRST = 16
"""The most specific statements, tried before the witness is asked (as are those that killed another mutant of the
function); a mutant that the witness cannot tell from the original meets no more.
"""
SLOW = 1.0
"""Seconds of processor time above which a statement is tried after the others."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    status: str
    """killed, equivalent or survived."""
    by: str = ""
    """The statement or property that killed it, or the witness."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A statement or a declared property, and the functions it exercises."""

    statement: Statement
    module: str
    tuple_name: str
    places: frozenset[Place]
    from_generator: frozenset[Place]

    def in_this_world(self) -> Statement:
        """The same record, of the modules that are imported now."""
        rows: Sequence[Statement] = getattr(importlib.import_module(self.module), self.tuple_name)
        return next(row for row in rows if row.id == self.statement.id)


def _home(statement: Statement) -> str:
    """The module whose STATEMENTS hold a statement."""
    for name in _statement_modules():
        if any(row is statement for row in importlib.import_module(name).STATEMENTS):
            return name
    raise LookupError(statement.id)


@functools.cache
def _statement_modules() -> tuple[str, ...]:
    import pkgutil

    from theory import statements

    names = [info.name for info in pkgutil.walk_packages(statements.__path__, f"{statements.__name__}.")]
    return tuple(name for name in names if hasattr(importlib.import_module(name), "STATEMENTS"))


@functools.cache
def battery() -> tuple[Item, ...]:
    """Every statement that runs on the device, and every property, the most specific first."""
    rows = [(s, _home(s), "STATEMENTS") for s in all_statements().values() if not s.on_host]
    rows += [(s, properties.__name__, "PROPERTIES") for s in properties.PROPERTIES]
    items = [
        Item(s, module, name, reached(s.slack, s.instance), reached(s.instance)) for s, module, name in rows
    ]  # fmt: skip
    return tuple(sorted(items, key=lambda item: len(item.places)))


_killers: dict[Place, list[str]] = {}
_seconds: dict[str, float] = {}


def items_for(mutant: Mutant, rows: Sequence[Item] | None = None) -> list[Item]:
    """The statements and properties that exercise a mutant's function, the most specific first."""
    place = (mutant.module, mutant.function)
    return [item for item in (battery() if rows is None else rows) if place in item.places]


def likely_first(place: Place, rows: Sequence[Item]) -> list[Item]:
    """The slow statements last; of the others, those that killed another mutant of the function first, the latest of
    them first.
    """
    latest = _killers.get(place, [])

    def rank(item: Item) -> tuple[bool, int]:
        name = item.statement.id
        return _seconds.get(name, 0.0) > SLOW, (latest.index(name) if name in latest else len(latest))

    return sorted(rows, key=rank)


def _killed(place: Place, item: Item) -> None:
    latest = _killers.setdefault(place, [])
    if item.statement.id in latest:
        latest.remove(item.statement.id)
    latest.insert(0, item.statement.id)


@functools.cache
def _drawn(generator: Any) -> Any:
    return jax.device_get(check.draw(generator, np.arange(INSTANCES)))


def smallest_slack(item: Item, redraw: bool) -> float:
    """The smallest slack over the instances, in the world of now; NaN counts as -inf."""
    statement = item.in_this_world()
    given = check.draw(statement.instance, np.arange(INSTANCES)) if redraw else None
    if given is None:
        given = witness.transplanted(_drawn(item.statement.instance))
    slack = np.asarray(jax.vmap(lambda *one: statement.slack(*one))(*given))
    return float(np.where(np.isnan(slack), -np.inf, slack).min())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mutants divide by zero and overflow; nobody needs to hear of it."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def killer(mutant: Mutant, rows: Sequence[Item]) -> str:
    """The first statement or property that a mutant breaks, with how, or "".

    Instances are the original's; where the generator itself calls the mutated function, they are made anew as well.
    """
    place = (mutant.module, mutant.function)
    again = [(item, True) for item in rows if place in item.from_generator]
    for item, redraw in [*((item, False) for item in rows), *again]:
        started, name = time.process_time(), item.statement.id
        try:
            slack = smallest_slack(item, redraw)
        except Exception as error:
            _killed(place, item)
            return f"{name} ({type(error).__name__})"
        # The quickest time: the first one compiles.
        _seconds[name] = min(time.process_time() - started, _seconds.get(name, float("inf")))
        if not slack >= 0:
            _killed(place, item)
            return name
    return ""


def seen_through(module: str, qualname: str) -> list[str]:
    """The functions of a module by which a function can be seen: itself, or for a private one those that use it."""
    if not qualname.startswith("_"):
        return [qualname]
    others = [name for place, name in targets.equations().values() if place == module and not name.startswith("_")]
    users = [name for name in others if (module, qualname) in reached(witness.find(module, name))]
    return users or [qualname]


def is_equivalent(mutant: Mutant, source: str, filename: str) -> bool:
    """Whether a mutant returns the same values and gradients as the original on all instances of the witness.

    A private helper is its callers' business: the mutant is equivalent if all of them return the same.
    """
    try:
        originals = [
            (name, case, answer)
            for name in seen_through(mutant.module, mutant.function)
            for case, answer in _original(mutant.module, name)
        ]
    except LookupError:  # nobody knows how to draw its arguments, or it refuses them all: no witness
        return False
    code = mutant.compile(source, filename)
    with world(mutant.module, code):
        try:
            for name, case, answer in originals:
                if not witness.same(witness.responses(witness.find(mutant.module, name), case), answer):
                    return False
        except Exception:  # what the mutant does with an instance is its own; the original has answered them all
            return False
    return True


@functools.cache
def _original(module: str, qualname: str) -> list[tuple[witness.Case, list[np.ndarray]]]:
    function = witness.find(module, qualname)
    found = []
    for case in witness.cases(module, function):
        # What the original refuses (a problem without opponents, a loop that does not differentiate) is no instance.
        with contextlib.suppress(ValueError, TypeError):
            found.append((case, witness.responses(function, case)))
    if not any(np.size(array) for _, answer in found for array in answer):
        raise LookupError(f"no instance of {module}.{qualname}")
    return found


def judge(mutant: Mutant, rows: Sequence[Item] | None = None) -> Verdict:
    """Killed by the first statement or property it breaks; else equivalent with a witness, or a survivor."""
    source, filename = targets.source_of(mutant.module)
    mine = items_for(mutant, rows)
    with jax.enable_x64(True), quiet():
        for item in mine:
            _drawn(item.statement.instance)

        def killed_by(rows: Sequence[Item]) -> str:
            with world(mutant.module, mutant.compile(source, filename)):
                return killer(mutant, rows)

        place = (mutant.module, mutant.function)
        before = [item for n, item in enumerate(mine) if n < FIRST or item.statement.id in _killers.get(place, [])]
        by = killed_by(likely_first(place, before))
        if not by and is_equivalent(mutant, source, filename):
            return Verdict(mutant, "equivalent", f"witness: {witness.INSTANCES:,} instances")
        by = by or killed_by(likely_first(place, [item for item in mine if item not in before]))
        if by:
            return Verdict(mutant, "killed", by)
    return Verdict(mutant, "survived")


def broken(rows: Sequence[Item]) -> list[str]:
    """Statements and properties that the library itself does not pass: they could kill nothing honestly."""
    found = []
    with jax.enable_x64(True), quiet():
        for item in rows:
            _drawn(item.statement.instance)
        with world():
            for item in rows:
                try:
                    slack = smallest_slack(item, False)
                except Exception as error:
                    found.append(f"{item.statement.id} ({type(error).__name__}: {error})")
                    continue
                if not slack >= 0:
                    found.append(item.statement.id)
    return found
