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


def freeze(function: Callable[..., Array], *example: Any) -> tuple[Callable[..., list[Array]], Callable[..., Array]]:
    """Two functions of arguments shaped like `example`: `kept(*args)`, the values of the stop-gradients there, and
    `frozen(kept, *args)`, the value of `function` with them held. Stop-gradients inside loops are not seen.
    """
    closed = jax.make_jaxpr(function)(*example)

    def kept(*arguments: Any) -> list[Array]:
        met: list[Array] = []

        def record(value: Array) -> Array:
            met.append(value)
            return value

        _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), record)
        return met

    def frozen(held: list[Array], *arguments: Any) -> Array:
        replay: Iterator[Array] = iter(held)
        return _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), lambda _: next(replay))[0]

    return kept, frozen
