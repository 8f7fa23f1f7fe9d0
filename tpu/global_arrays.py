"""Arrays on the devices of several processes: made from what each one holds, and read back by all or by one."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpu.distributed import everyone, is_first, several

PIECE = 1 << 28
"""Bytes above which an array is gathered in blocks of about so many."""


def connect(mesh: Mesh) -> None:
    """On CPUs, opens the connections that collectives over any of the mesh's axes need, while all processes are there.

    Gloo opens them at the first collective, and gives up after 30 seconds; one process may take longer than that to
    compile the program which another one has in its cache.
    """
    if not several() or mesh.devices.flat[0].platform != "cpu":
        return
    axes = [axis for axis, size in mesh.shape.items() if size > 1]
    together = [some for n in range(1, len(axes) + 1) for some in itertools.combinations(axes, n)]
    where = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    ones = jax.make_array_from_callback((mesh.size,), where, lambda index: np.ones(mesh.size)[index])

    def sums(x: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jax.lax.psum(x, some) for some in together)

    specs = PartitionSpec(mesh.axis_names)
    program = jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False))
    compiled = program.lower(ones).compile()
    everyone(None)
    jax.block_until_ready(compiled(ones))
    multihost_utils.sync_global_devices("connected")


def rows_here(where: NamedSharding, shape: tuple[int, ...]) -> np.ndarray:
    """Which indices of the first axis the devices of this process hold, ascending."""
    slices = [index[0] for index in where.addressable_devices_indices_map(shape).values() if index is not None]
    return np.unique([row for one in slices for row in range(*one.indices(shape[0]))])


def placed(batch: Mapping[str, Any], where: Mapping[str, NamedSharding], size: int, rows: np.ndarray) -> dict[str, Any]:
    """A batch of `size` rows on the mesh. The arrays are NumPy's, and hold all of it or the rows `rows` (ascending)."""

    def one(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            asked = np.arange(size)[index[0]]
            at = asked if len(array) == size else np.searchsorted(rows, asked)
            here: np.ndarray = array[at][(slice(None), *index[1:])]
            return here

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, part)

    return {name: one(np.asarray(array), where[name]) for name, array in batch.items()}


def on_host() -> contextlib.AbstractContextManager[Any]:
    """What is read within lies in the memory of the host, and not on its first device, until it is spread."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use an accelerator alone
        return contextlib.nullcontext()


def spread(tree: Any, where: Any) -> Any:
    """Arrays that every process holds whole, on the mesh."""
    if not several():
        return jax.device_put(tree, where)

    def one(x: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree, where)


def fetched(tree: Any) -> Any:
    """The arrays as NumPy's, on every process: for what is small."""
    if not several():
        return jax.device_get(tree)

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


@functools.partial(jax.jit, static_argnames="where")
def _whole(x: jax.Array, where: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, where)


@functools.partial(jax.jit, static_argnames=("size", "split", "where"))
def _block(x: jax.Array, start: Any, size: int, split: NamedSharding, where: NamedSharding) -> jax.Array:
    # Cut while it lies as `x` does: else the compiler gathers all of `x`, and then cuts.
    block = jax.lax.with_sharding_constraint(jax.lax.dynamic_slice_in_dim(x, start, size, 0), split)
    return jax.lax.with_sharding_constraint(block, where)


def _read(x: jax.Array) -> np.ndarray | None:
    """An array that lies whole on every device, on process 0; the others wait until it is there, and let it go."""
    here = x.addressable_data(0)
    if is_first():
        return np.asarray(here)
    here.block_until_ready()
    return None


def _gathered(x: jax.Array) -> np.ndarray | None:
    """An array that lies split over the devices of several processes, on process 0; a large one in blocks of its first
    axis (one layer, some rows of an embedding), if that is whole.
    """
    where = NamedSharding(x.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
    split = x.sharding.spec[0] if len(x.sharding.spec) else None  # type: ignore[attr-defined]
    if x.nbytes <= PIECE or split is not None:
        return _read(_whole(x, where))
    out = np.empty(x.shape, x.dtype) if is_first() else None
    size = max(1, PIECE * x.shape[0] // x.nbytes)
    for start in range(0, x.shape[0], size):
        start = min(start, x.shape[0] - size)  # the last block begins within the one before: one program for all
        block = _read(_block(x, start, size, x.sharding, where))
        if out is not None:
            out[start : start + size] = block
    return out


def on_first(tree: Any) -> Any:
    """The arrays as NumPy's on process 0, and None elsewhere: leaf by leaf, and a large one in blocks, so that no
    device holds more than a block beside its own part. All have to call it; a process alone has them.
    """
    if not several():
        return tree

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return np.asarray(x) if is_first() else None
        return _gathered(x)

    leaves, form = jax.tree.flatten(tree)
    found = [one(leaf) for leaf in leaves]
    return jax.tree.unflatten(form, found) if is_first() else None


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of lists of like length that gives a row for each entry, worked out by all processes together: each
    does its part of the entries, once, and all have the whole. So it is with lists by name.
    """
    if not several():
        return function

    @functools.wraps(function)
    def together(*lists: Any, **named: Any) -> np.ndarray:
        count, parts = len(lists[0]), jax.process_count()
        each = -(-count // parts)
        mine = np.minimum(np.arange(each) + jax.process_index() * each, count - 1)
        part = lambda one: [one[i] for i in mine] if isinstance(one, list) else one
        more = {name: part(one) for name, one in named.items()}
        found = np.asarray(function(*map(part, lists), **more), np.float64)
        if found.ndim == 0 or len(found) != each:
            return found  # whoever called it says what is wrong
        # As bytes: JAX would make float32 of them.
        bits = np.ascontiguousarray(found).view(np.uint8).reshape(each, -1)
        gathered = np.ascontiguousarray(multihost_utils.process_allgather(bits, tiled=True))
        rows: np.ndarray = gathered.view(np.float64).reshape(parts * each, *found.shape[1:])[:count]
        return rows

    return together
