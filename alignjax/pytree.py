"""Frozen dataclasses as pytrees whose checks run when a person builds one, not when JAX rebuilds one."""

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def register(cls: type[T]) -> type[T]:
    """Register a dataclass as a pytree: every field is a child, `None` fields vanish as usual.

    `jax.tree_util.register_dataclass` calls `__init__` on every unflatten, and with it our value checks, on tracers
    and on the placeholder objects JAX puts into trees. This one bypasses `__init__`.
    """
    names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in names], None

    def flatten(node: Any) -> tuple[list[Any], None]:
        return [getattr(node, name) for name in names], None

    def unflatten(_: None, children: Any) -> T:
        node = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(node, name, child)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
