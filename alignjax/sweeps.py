"""Sweeps over several devices: the leading axis of a batch (seeds, instances, games) is spread over them.

Computation follows its data: what is computed from a spread batch is spread alike, each device does its part, and the
numbers are those of one device up to rounding.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alignjax import checks

Tree = TypeVar("Tree")
_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


def number_of_devices(text: str) -> int:
    """`"8"` or `"all"` -> a number of devices.

    Raises: ValueError for anything else, and for more than there are, naming the flag that makes virtual ones of a CPU.
    """
    if text == "all":
        return len(jax.devices())
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"devices must be a number >= 1, or all; got {text!r}")
    return len(_first(int(text)))


def _first(number: int) -> list[Any]:
    there = jax.devices()
    if number > len(there):
        virtual = f": XLA_FLAGS=--xla_force_host_platform_device_count={number} makes virtual ones of a CPU"
        hint = virtual if jax.default_backend() == "cpu" else ""
        raise ValueError(f"devices = {number}, but there {'is' if len(there) == 1 else 'are'} {len(there)}{hint}")
    return list(there[:number])


@contextlib.contextmanager
def over(devices: int) -> Iterator[None]:
    """Within it `spread` uses so many devices; with 1 it does nothing. Raises: ValueError if there are fewer."""
    factors, rest = [], checks.whole("devices", devices, 1)
    for prime in range(2, devices + 1):
        while rest % prime == 0:
            factors.append(prime)
            rest //= prime
    grid = np.array(_first(devices), dtype=object).reshape(factors)
    token = _MESH.set(Mesh(grid, tuple(f"part{i}" for i in range(len(factors)))) if factors else None)
    try:
        yield
    finally:
        _MESH.reset(token)


def spread(batch: Tree) -> Tree:
    """The same arrays, their leading axis over the devices of `over`; outside it they are returned as they are.

    An axis that does not divide over all devices is spread over the largest number of them that their prime factors
    make and that divides it, and the others repeat what those do: 20 seeds on 8 devices are 4 parts. Numbers, and
    arrays without an axis, stay as they are.
    """
    mesh = _MESH.get()
    if mesh is None:
        return batch

    def put(x: Any) -> Any:
        if not jnp.ndim(x):
            return x
        used: list[str] = []
        for name, size in mesh.shape.items():
            if x.shape[0] % (size * math.prod(mesh.shape[other] for other in used)) == 0:
                used.append(name)
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(tuple(used) or None)))

    return jax.tree.map(put, batch)
