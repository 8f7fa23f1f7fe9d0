"""Which statements exercise which functions: a walk over the names that code mentions."""

import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from alignjax.games.solvers import SOLVERS
from alignjax.record import Method, Solver
from alignjax.registry import METHODS

OURS = ("alignjax", "theory")
Place = tuple[str, str]
"""(module, qualified name)."""


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | frozenset | list):
        for item in value:
            yield from _strings(item)


def _named(text: str) -> Iterator[Any]:
    """The method or the solver that a string names."""
    if text.isidentifier() and text in METHODS:
        yield METHODS[text]
    yield from (row for row in SOLVERS if row.name == text)


def _mentioned(function: types.FunctionType) -> Iterator[Any]:
    codes = list(_codes(function.__code__))
    texts = [text for code in codes for constant in code.co_consts for text in _strings(constant)]
    names = [name for code in codes for name in code.co_names]
    for text in texts:
        yield from _named(text)
    for name in names:
        found = function.__globals__.get(name)
        yield found
        if isinstance(found, types.ModuleType) and found.__name__.partition(".")[0] in OURS:
            # module.function, or getattr(module, "function").
            yield from (getattr(found, attribute, None) for attribute in (*names, *texts) if attribute.isidentifier())
    for cell in function.__closure__ or ():
        yield cell.cell_contents


def _parts(item: Any) -> Iterable[Any]:
    """What a thing stands for: the functions of a record, the methods of a class, the function under a wrapper."""
    if isinstance(item, functools.partial):
        named = [n for text in _strings(tuple(item.keywords.values())) for n in _named(text)]
        return (item.func, *item.args, *item.keywords.values(), *named)
    if isinstance(item, Method):
        return (item.loss, item.sampler, item.opponent, item.minimiser, item.anchor_update, *item.feedback.values())
    if isinstance(item, Solver):
        return (part for part in vars(item).values() if callable(part))
    if isinstance(item, type) and item.__module__.partition(".")[0] in OURS:
        return (getattr(v, "fget", v) for v in vars(item).values() if isinstance(v, types.FunctionType | property))
    if isinstance(item, Mapping) and not isinstance(item, type(METHODS)):
        return item.values()
    if dataclasses.is_dataclass(item) and not isinstance(item, type) and type(item).__module__.startswith(OURS):
        return (getattr(item, field.name) for field in dataclasses.fields(item))
    return (getattr(item, "__wrapped__", None), getattr(item, "jvp", None))


def reached(*roots: Any) -> frozenset[Place]:
    """Every function of ours that the roots may call, by static names: rather too many than too few."""
    seen: set[int] = set()
    places: set[Place] = set()
    stack = list(roots)
    while stack:
        item = stack.pop()
        if id(item) in seen or item is None:
            continue
        seen.add(id(item))
        if isinstance(item, types.FunctionType):
            if item.__module__.partition(".")[0] not in OURS:
                continue
            places.add((item.__module__, item.__qualname__))
            stack.extend(_mentioned(item))
            wrapped = getattr(item, "__wrapped__", None)
            stack.append(wrapped)
        elif not isinstance(item, str | int | float | types.ModuleType):
            stack.extend(_parts(item))
    return frozenset(places)
