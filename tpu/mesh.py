"""Meshes of devices with the axes `data`, `fsdp` and `tensor`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alignjax import checks

AXES = ("data", "fsdp", "tensor")


def parse_sizes(text: str) -> dict[str, int]:
    """`"data=4,tensor=2"` -> `{"data": 4, "tensor": 2}`."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if not equals or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise ValueError(f"mesh must look like data=4,tensor=2, with sizes >= 1; got {part.strip()!r}")
        name = checks.member("mesh axis", name, AXES)
        if name in sizes:
            raise ValueError(f"mesh names the axis {name!r} twice")
        sizes[name] = int(size)
    return sizes


def make_mesh(sizes: Mapping[str, int] | str | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over the first devices; by default over all of them, on `data`.

    Raises: ValueError if there are fewer devices than the sizes ask for.
    """
    devices = jax.devices() if devices is None else list(devices)
    if isinstance(sizes, str):
        sizes = parse_sizes(sizes)
    sizes = {"data": len(devices)} if sizes is None else sizes
    shape = tuple(checks.whole(f"mesh axis {axis}", sizes.get(axis, 1)) for axis in AXES)
    for name in sizes:
        checks.member("mesh axis", name, AXES)
    count = math.prod(shape)
    if count > len(devices):
        asked = ",".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(f"mesh {asked} needs {count} devices, but there are {len(devices)}")
    return Mesh(np.asarray(devices[:count], dtype=object).reshape(shape), AXES)
