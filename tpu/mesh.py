"""Meshes of devices with the axes of `AXES`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tpu.layouts import AXES, sizes_of, words


def make_mesh(
    sizes: Mapping[str, int] | str | None = None, devices: Sequence[Any] | None = None, *, slices: int = 1
) -> Mesh:
    """A mesh over the first devices; by default over all of them, on `data`.

    `sizes` are those of the axes, `{"fsdp": 4, "tensor": 2}` or `"fsdp=4,tensor=2"`, or the name of one of
    `layouts.LAYOUTS`. With several `slices` `data` is what crosses them, over DCN: real devices know their slice,
    virtual ones are taken in equal blocks.
    Raises: ValueError if there are fewer devices than the sizes ask for, if `data` is no multiple of `slices`, or if
      the devices are of another number of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    found = sizes_of(sizes, len(devices), slices)
    count = math.prod(found.values())
    if count > len(devices):
        raise ValueError(f"mesh {words(found)} needs {count} devices, but there are {len(devices)}")
    if count < len(devices):  # some of a torus are no torus
        return Mesh(np.asarray(devices[:count], dtype=object).reshape(tuple(found.values())), AXES)
    return Mesh(arranged(found, devices, slices), AXES)


def num_slices(devices: Sequence[Any] | None = None) -> int:
    """TPU slices that the devices (by default all) are of; 1 for anything else."""
    devices = jax.devices() if devices is None else devices
    return len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) or 1


def arranged(sizes: Mapping[str, int], devices: Sequence[Any], slices: int = 1) -> np.ndarray:
    """The devices in the shape of the sizes; on TPU those that say most to each other as near as the wires allow.

    Raises: ValueError if they are of another number of slices.
    """
    shape = tuple(sizes.values())
    if devices[0].platform != "tpu":
        return np.asarray(devices, dtype=object).reshape(shape)
    from jax.experimental import mesh_utils

    there = num_slices(devices)
    if there != slices:
        raise ValueError(f"slices = {slices}, but the devices are of {there}")
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    inner, outer = (shape[0] // slices, *shape[1:]), (slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
