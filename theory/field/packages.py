"""Reaching the function of a package that is installed, and saying plainly when it is not."""

import ast
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def cut(package: str, file: str, *functions: str) -> dict[str, Callable[..., Any]] | None:
    """The named functions out of a file of an installed package, compiled from its source without importing it.

    Trainers import their whole framework; a pure function of arrays in one of their files does not need it. None if
    the package, the file or a function is missing.
    """
    try:
        spec = importlib.util.find_spec(package)  # of a top-level package: nothing is imported
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in functions}
    if set(found) != set(functions):
        return None
    # Annotations stay text: they name things of the file that are not needed.
    future = ast.parse("from __future__ import annotations").body
    module = ast.Module(body=[*future, *found.values()], type_ignores=[])
    names: dict[str, Any] = {"jax": jax, "jnp": jnp, "Array": jax.Array, **_SHORT}
    exec(compile(module, str(path), "exec"), names)
    return {name: names[name] for name in functions}


_SHORT: Mapping[str, Any] = {"sigmoid": jax.nn.sigmoid, "logsigmoid": jax.nn.log_sigmoid}


def four_arrays(function: Callable[..., Array], label_smoothing: float, name: str) -> Callable[..., Array]:
    """A pair loss with two more arguments, beta and label smoothing, as a loss of four arrays and `beta`."""

    def loss(
        policy_chosen_logps: Array,
        policy_rejected_logps: Array,
        reference_chosen_logps: Array,
        reference_rejected_logps: Array,
        beta: float = 0.1,
    ) -> Array:
        return function(
            policy_chosen_logps,
            policy_rejected_logps,
            reference_chosen_logps,
            reference_rejected_logps,
            beta,
            label_smoothing,
        )

    loss.__name__ = name
    return loss
