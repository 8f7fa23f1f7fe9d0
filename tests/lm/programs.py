"""What a program makes on its way, read from its jaxpr."""

from __future__ import annotations

from typing import Any

import jax


def arrays_of(f: Any, *arguments: Any) -> set[tuple[int, ...]]:
    """The shapes of everything that a program makes."""
    found: set[tuple[int, ...]] = set()

    def visit(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            found.update(tuple(v.aval.shape) for v in equation.outvars)
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(f)(*arguments).jaxpr)
    return found
