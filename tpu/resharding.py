"""Generation on the training mesh: parameters lie for it as they need, once for each rollout.

    train      prompts over data x fsdp, parameters over fsdp x sequence x tensor, in the dtype they are kept in
    generate   prompts over data x fsdp x sequence, parameters over tensor alone, in the dtype of the computation

A copy is made once of each model that writes in a rollout, and let go of at its end. Where it would take more than
`ROOM` of a device, parameters lie as they are trained, rounded, and are gathered for every token. That goes by the
device alone, and not by what is free on it, so that a run that goes on draws what it would have drawn.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from alignjax.lm.model import Params
from tpu.partition import GENERATION, RULES, shardings

ROOM = 1 / 3
"""Of the memory of a device, at most that much for the copy of a model."""


@dataclasses.dataclass
class Moved:
    """What it cost, since it was last asked for."""

    bytes: int = 0
    """That arrived at a device."""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Generation:
    """Where parameters and prompts lie while responses are drawn."""

    axes: Any
    """The tree of the logical axes of the model's parameters."""
    mesh: Mesh
    dtype: Any
    """Of the computation."""
    moved: Moved = dataclasses.field(default_factory=Moved)
    _held: dict[int, tuple[jax.Array, jax.Array]] = dataclasses.field(default_factory=dict)
    """Arrays and their copies, by the id of the first (which is nobody else's while it is held)."""

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *error: object) -> None:
        self._held.clear()

    def params(self, params: Params) -> Params:
        """The model for generation: copies that are kept until the end of the `with` that they are made in. What two
        models share (what adapters sit on) is copied once.
        """
        leaves, form = jax.tree.flatten(params)
        where = jax.tree.leaves(self._where(params))
        new = {id(x): (x, to) for x, to in zip(leaves, where, strict=True) if id(x) not in self._held}
        if new:
            arrays, places = zip(*new.values(), strict=True)
            self._held.update(zip(new, zip(arrays, self._copies(arrays, places), strict=True), strict=True))
        made: Params = jax.tree.unflatten(form, [self._held[id(x)][1] for x in leaves])
        return made

    def _copies(self, arrays: tuple[jax.Array, ...], where: tuple[NamedSharding, ...]) -> list[jax.Array]:
        """Their cost is added to `moved` (the first ones' with the time to compile). It waits for them."""
        arriving = sum(_arriving(x, new, _narrow(x, self.dtype)) for x, new in zip(arrays, where, strict=True))
        jax.block_until_ready(arrays)
        started = time.perf_counter()
        there = tuple(x.sharding for x in arrays)
        made: list[jax.Array] = jax.block_until_ready(_copied(list(arrays), there, where, self.dtype))
        self.moved.seconds += time.perf_counter() - started
        self.moved.bytes += arriving
        return made

    def rows(self, array: np.ndarray) -> jax.Array:
        """An array whose first axis is that of prompts, over as many devices as divide it."""
        prompt = GENERATION["prompt"]
        ways = (prompt[:count] for count in range(len(prompt), -1, -1))
        size = lambda axes: math.prod(self.mesh.shape[axis] for axis in axes)
        axes = next(axes for axes in ways if len(array) % size(axes) == 0)
        where = NamedSharding(self.mesh, jax.sharding.PartitionSpec(axes or None))
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    def cost(self) -> Mapping[str, float]:
        """What was moved since this was last asked, for timing.jsonl."""
        found = {"timing/reshard_seconds": self.moved.seconds, "timing/reshard_bytes": float(self.moved.bytes)}
        self.moved.bytes, self.moved.seconds = 0, 0.0
        return found

    def _where(self, params: Params) -> Any:
        """By `GENERATION`, or where that does not fit by `RULES`."""
        axes = {name: {} if isinstance(own, Mapping) and not own else self.axes[name] for name, own in params.items()}
        where = shardings(axes, params, self.mesh, GENERATION)
        pairs = list(zip(*map(jax.tree.leaves, (params, where)), strict=True))
        needed = sum(math.prod(w.shard_shape(x.shape)) * np.dtype(_narrow(x, self.dtype)).itemsize for x, w in pairs)
        stats = self.mesh.local_mesh.devices.flat[0].memory_stats() or {}
        most = ROOM * stats.get("bytes_limit", math.inf)
        return where if needed <= most else shardings(axes, params, self.mesh, RULES)


def _narrow(x: Any, dtype: Any) -> Any:
    return dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype


@functools.partial(jax.jit, static_argnames=("there", "where", "dtype"))
def _copied(leaves: list[jax.Array], there: Any, where: Any, dtype: Any) -> list[jax.Array]:
    """Rounded where they lie, so that what travels is in the dtype of the computation."""
    fixed = jax.lax.with_sharding_constraint
    triples = zip(leaves, there, where, strict=True)
    return [fixed(fixed(x.astype(_narrow(x, dtype)), old), new) for x, old, new in triples]


def _arriving(x: jax.Array, new: NamedSharding, dtype: Any) -> int:
    """Bytes of the new part of a device that it does not have: of the first device, like any other's."""
    count = 1
    common = 1
    device = next(iter(new.addressable_devices))
    has, wants = (s.devices_indices_map(x.shape)[device] for s in (x.sharding, new))
    for size, old, own in zip(x.shape, has, wants, strict=True):
        (a, b, _), (c, d, _) = old.indices(size), own.indices(size)
        count *= d - c
        common *= max(0, min(b, d) - max(a, c))
    return (count - common) * int(np.dtype(dtype).itemsize)
