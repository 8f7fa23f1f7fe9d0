"""All statements, computed by scanning `statements/` for modules with a `STATEMENTS` tuple.
Nothing is listed by hand.
"""

import fnmatch
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping

from alignjax import checks
from theory import statements
from theory.record import Statement


def _order(name: str) -> tuple[object, ...]:
    """`games/I2` before `games/I10`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def collect(modules: Mapping[str, object]) -> dict[str, Statement]:
    """The statements of some modules by id; a duplicate id raises."""
    found: dict[str, Statement] = {}
    home: dict[str, str] = {}
    for module_name, module in sorted(modules.items()):
        for statement in getattr(module, "STATEMENTS", ()):
            if statement.id in found:
                first = home[statement.id]
                raise ValueError(f"two statements have the id {statement.id!r}: in {first} and {module_name}")
            found[statement.id], home[statement.id] = statement, module_name
    return {name: found[name] for name in sorted(found, key=_order)}


@functools.cache
def all_statements() -> dict[str, Statement]:
    """Every statement of `theory.statements`, by id."""
    names = [info.name for info in pkgutil.walk_packages(statements.__path__, f"{statements.__name__}.")]
    return collect({name: importlib.import_module(name) for name in names})


def select(patterns: Iterable[str], known: Mapping[str, Statement]) -> list[Statement]:
    """Those whose id is, matches (a glob) or contains one of the patterns; all without patterns.

    An id, or the part after its slash, is taken as itself: "I1" is not "I10". Raises: UnknownName, with the nearest id.
    """
    patterns = list(patterns)
    if not patterns:
        return list(known.values())
    chosen: set[str] = set()
    for pattern in patterns:
        exact = [name for name in known if pattern in (name, name.partition("/")[2])]
        matched = exact or [name for name in known if fnmatch.fnmatchcase(name, pattern) or pattern in name]
        if not matched:
            checks.member("statement", pattern, known)  # raises
        chosen.update(matched)
    return [statement for name, statement in known.items() if name in chosen]
