"""The value of a function with every stop-gradient held at its value at a point: what autodiff differentiates."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array


def _run(jaxpr: Any, consts: Any, inputs: Any, meet: Callable[[Array], Array]) -> list[Any]:
    """Evaluate a jaxpr, passing the output of each `stop_gradient` through `meet`; calls are entered."""
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if equation.primitive.name == "stop_gradient":
            out = [meet(given[0])]
        elif inner is not None and hasattr(inner, "consts") and equation.primitive.name in _CALLS:
            out = _run(inner.jaxpr, inner.consts, given, meet)
        else:
            out = equation.primitive.bind(*given, **equation.params)
            out = out if equation.primitive.multiple_results else [out]
        values.update(zip(equation.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "remat", "checkpoint")


def freeze(function: Callable[[Array], Array], at: Array) -> tuple[Callable[[Array], Array], int]:
    """`function` with its stop-gradients frozen at `at`, and how many there are (those inside loops are not seen)."""
    closed = jax.make_jaxpr(function)(at)
    kept: list[Array] = []

    def record(value: Array) -> Array:
        kept.append(value)
        return value

    _run(closed.jaxpr, closed.consts, [at], record)

    def frozen(x: Array) -> Array:
        replay: Iterator[Array] = iter(kept)
        return _run(closed.jaxpr, closed.consts, [x], lambda _: next(replay))[0]

    return frozen, len(kept)
