"""What the chips say to each other: every collective of a compiled program, its mesh axes and its bytes.

Bytes are those that arrive at one chip of a ring of n: of an all-gather (n - 1) / n of its result, of a reduce-scatter
(n - 1) / n of what it is given, of an all-reduce both, of an all-to-all (n - 1) / n, of a permutation all. A compiler
may turn one of them into a loop of permutations around a matrix product (a windowed einsum), or carry it along in other
fusions: a collective is counted where it starts, and a loop as often as it runs.

Between slices libtpu hands a chip's part to its host, which sends it over DCN: of s slices an all-reduce is
2 (s - 1) / s of that part. These are named "data/dcn".
"""

import collections
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu.plan.counts import COLLECTIVES
from tpu.plan.hlo import Op, Program, Shape, Totals

Sizes = Mapping[str, int]
"""Mesh axis -> size, in order: device i of the program stands at `unravel_index(i, sizes)`."""
DCN = "data/dcn"
"""The axis `data` where it crosses slices."""
_BETWEEN_SLICES = {
    "ALL_REDUCE": ("all-reduce", lambda s: 2 * (s - 1) / s),
    "ALL_GATHER": ("all-gather", lambda s: s - 1),
    "REDUCE_SCATTER": ("reduce-scatter", lambda s: (s - 1) / s),
    "ALL_TO_ALL": ("all-to-all", lambda s: (s - 1) / s),
    "ONE_TO_ONE": ("collective-permute", lambda s: 1),
}
"""libtpu's name -> ours, and the bytes that arrive of one that is sent."""


def collectives(program: Program, mesh: Sizes, slices: int = 1) -> Totals:
    """ "kind axis" -> bytes that arrive at a chip in one run; an axis may be several, "data+fsdp"."""
    return program.totals(lambda op, _: of_op(program, op, mesh, slices))


def _between_slices(op: Op, slices: int) -> Totals:
    """What a chip's host sends to other slices. Raises: ValueError for a kind that is not known."""
    name = op.attribute(r'_xla_megascale_transfer_type="(\w+)"')
    if name is None:
        return collections.Counter()
    if name not in _BETWEEN_SLICES:
        raise ValueError(f"slices say {name} to each other in {op.name}, which is not known")
    kind, share = _BETWEEN_SLICES[name]
    return collections.Counter({f"{kind} {DCN}": op.shapes[0].bytes * share(slices)})


def by_axis(found: Mapping[str, float], mesh: Sizes) -> dict[str, int]:
    """Bytes of every axis that is split, and of the axes that are used together."""
    total: dict[str, int] = {axis: 0 for axis, size in mesh.items() if size > 1}
    for name, size in found.items():
        axis = name.split()[1]
        total[axis] = total.get(axis, 0) + int(size)
    return total


def of_op(program: Program, op: Op, mesh: Sizes, slices: int = 1) -> Totals:
    """The collectives that this operation starts, itself or inside of a fusion."""
    kind = op.kind.removesuffix("-start")
    if kind == "send":
        return _between_slices(op, slices)
    if kind in COLLECTIVES:
        return _one(op, kind, mesh)
    total: Totals = collections.Counter()
    if op.kind == "fusion":
        inside = program.called(op)
        starts = {n for op in inside.values() if '"AsyncCollectiveStart"' in op.rest for n in op.operands}
        for each in inside.values():
            carried = "async_collective_fusion_config" in each.rest and each.name not in starts
            kind = each.kind.removesuffix("-start")
            if kind in COLLECTIVES and not carried:
                scatters = kind == "all-reduce" and "all-reduce-scatter" in op.called[0]
                total.update(_one(each, "reduce-scatter" if scatters else kind, mesh, fused=scatters))
            elif each.kind == "fusion":
                total.update(of_op(program, each, mesh))
    return total


def _one(op: Op, kind: str, mesh: Sizes, *, fused: bool = False) -> Totals:
    groups = _groups(op, mesh)
    n, axis = len(groups[0]), _axis(groups, mesh)
    if n == 1 or axis is None:
        return collections.Counter()
    size: Any = sum(shape.bytes for shape in _results(op, kind))
    share = (n - 1) / n
    if kind == "all-reduce":
        size *= 2 * share
    elif kind == "reduce-scatter":
        size *= share if fused else n - 1  # inside of a fusion it is still an all-reduce: of the whole
    elif kind != "collective-permute":
        size *= share
    return collections.Counter({f"{kind} {axis}": size})


def _results(op: Op, kind: str) -> tuple[Shape, ...]:
    """The shapes of what it gives; a start gives (given, result, flags...)."""
    if not op.kind.endswith("-start") or kind == "all-reduce":
        return op.shapes
    if kind == "collective-permute":
        return op.shapes[:1]
    half = len(op.operands)
    return op.shapes[half : 2 * half]


def _axis(groups: np.ndarray, mesh: Sizes) -> str | None:
    """The mesh axes along which the devices of a group differ."""
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())), -1)  # [groups, n, axes]
    differs = (places != places[:, :1]).any((0, 1))
    return "+".join(axis for axis, yes in zip(mesh, differs, strict=True) if yes) or None


def _groups(op: Op, mesh: Sizes) -> np.ndarray:
    """The devices that speak to each other: `[groups, n]`; for permutations the pairs `[pairs, 2]`."""
    count = int(np.prod(list(mesh.values())))
    pairs = op.attribute(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}")
    if pairs is not None:
        return np.asarray([[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs)])
    listed = op.attribute(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}")
    if listed is not None:
        return np.asarray([[int(i) for i in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed)])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}:]*)\}", op.rest
    )
    if named is not None:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        over = re.findall(r"'([^']+)'", named[4])
        order = [i for i, name in enumerate(sizes) if name not in over] + [list(sizes).index(name) for name in over]
        ids = _iota(named[2] or str(count), named[3]).reshape(tuple(sizes.values())).transpose(order)
        return ids.reshape(-1, int(np.prod([sizes[name] for name in over])))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", op.rest)
    if iota is not None:
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    if "replica_groups={}" not in op.rest and "replica_groups" in op.rest:
        raise ValueError(f"the groups of {op.name} are written in a way that is not known: {op.rest[:200]}")
    return np.arange(count)[None]


def _iota(shape: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... in this shape, its axes in this order."""
    sizes = _numbers(shape)
    ids = np.arange(int(np.prod(sizes))).reshape(sizes)
    return ids if order is None else ids.transpose(_numbers(order))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
