"""Operations and bytes of a compiled program, counted from its text: matrix products, kernels, HBM traffic."""

import collections
import re

import numpy as np

from tpu.plan.hlo import Computation, Op, Program, Shape, Totals

FREE = frozenset(
    """parameter constant tuple get-tuple-element bitcast while conditional call after-all partition-id replica-id
    opt-barrier copy-done all-gather-done all-reduce-done collective-permute-done async-start async-update async-done
    send-done recv-done domain""".split()
)
"""Operations that move nothing themselves."""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_ASYNC = ("AsyncCollective", "AllocateBuffer", "AssumeGatherIndicesInBound")


def counts(program: Program, peak: float, bandwidth: float) -> Totals:
    """`flops`, `bytes` to and from HBM, and `seconds` of one run: every operation takes the longer of its operations at
    `peak` a second and its bytes at `bandwidth` a second, one operation after the other.
    """

    def count(op: Op, within: Computation) -> Totals:
        done, moved = flops(program, op, within), traffic(program, op, within)
        return collections.Counter(
            {"flops": done, "bytes": moved, "seconds": seconds(program, op, within, peak, bandwidth)}
        )

    return program.totals(count, lambda totals: totals["seconds"])


def seconds(program: Program, op: Op, within: Computation, peak: float, bandwidth: float) -> float:
    """Of one operation: the longer of its operations and its bytes. A collective has none: it is on wires meanwhile."""
    if op.kind.removesuffix("-start") in COLLECTIVES:
        return 0.0
    return max(flops(program, op, within) / peak, traffic(program, op, within) / bandwidth)


# --- operations -------------------------------------------------------------------------------------------------------


def flops(program: Program, op: Op, within: Computation) -> int:
    """Multiplications and additions of the matrix products in an operation; the rest is not worth counting."""
    if op.kind == "fusion":
        inside = program.called(op)
        return sum(flops(program, each, inside) for each in inside.values())
    if op.kind == "dot":
        given = within[op.operands[0]].shapes[0].dims
        summed = op.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2 * op.shapes[0].size * int(np.prod([given[int(d)] for d in summed.split(",") if d]))
    if op.kind == "convolution":
        return _convolution(op, *(within[name].shapes[0] for name in op.operands[:2]))
    if op.kind == "custom-call" and '"tpu_custom_call"' in op.rest:
        return _flash(op, [within[name].shapes[0] for name in op.operands])
    return 0


def _flash(op: Op, given: list[Shape]) -> int:
    """JAX's flash attention for TPU `[B, N, T, H]`, causal: it leaves out the blocks above the diagonal.

    Forwards 2 products, of keys and values 4, of queries 3.
    """
    if not given or len(given[0].dims) != 4 or "flash" not in op.name + op.rest[:2000]:
        return int(op.attribute(r'"cost_estimate":\{"flops":"(\d+)"') or 0)
    batch, heads, length, size = given[0].dims
    name = op.name + (op.attribute(r'op_name="([^"]*)"') or "")
    products = 4 if "bwd_dkv" in name else 3 if "bwd_dq" in name else 2
    block = next(b for b in (512, 256, 128, length) if length % b == 0)
    blocks = length // block
    return products * 2 * batch * heads * length * length * size * (blocks + 1) // (2 * blocks)


def _convolution(op: Op, left: Shape, right: Shape) -> int:
    """As XLA counts: products with padding are none. Its batched matrix products are convolutions as well."""
    labels = op.attribute(r"dim_labels=([\w?]+_[\w?]+->[\w?]+)")
    assert labels is not None
    ins, kernel, outs = re.split(r"_|->", labels)
    window = op.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(part.split("=", 1) for part in window.split())
    pairs = 1
    for i, size in enumerate(int(s) for s in fields.get("size", "").split("x") if s):
        field = lambda name, default, i=i: fields[name].split("x")[i] if name in fields else default
        low = int(field("pad", "0_0").split("_")[0])
        stride, step = int(field("stride", "1")), int(field("rhs_dilate", "1"))
        base, length = int(field("lhs_dilate", "1")), left.dims[ins.index(str(i))]
        out = np.arange(op.shapes[0].dims[outs.index(str(i))])[:, None]
        at = out * stride + np.arange(size)[None] * step - low
        pairs *= int(((at >= 0) & (at % base == 0) & (at // base < length)).sum())
    groups = int(op.attribute(r"batch_group_count=(\d+)") or 1)
    features = right.dims[kernel.index("i")] * right.dims[kernel.index("o")]
    return 2 * pairs * features * left.dims[ins.index("b")] // groups


# --- bytes ------------------------------------------------------------------------------------------------------------


def traffic(program: Program, op: Op, within: Computation) -> int:
    """Bytes read from and written to HBM: operands and results that do not lie in the chip's own memory.

    Of an array that is sliced, or updated in place, only the slice counts.
    """
    if op.kind in FREE or (op.kind == "custom-call" and any(name in op.rest for name in _ASYNC)):
        return 0
    given = [within[name].shapes[0] for name in op.operands if name in within and len(within[name].shapes) == 1]
    if op.kind == "fusion":
        return _fusion(program, op, given)
    if op.kind in ("dynamic-slice", "slice", "gather"):
        return 2 * _slow(op.shapes)
    if op.kind in ("dynamic-update-slice", "scatter"):
        return 2 * _slow(given[1:2] if op.kind == "dynamic-update-slice" else given[-1:])
    if op.kind in ("send", "recv"):  # to and from the host
        return op.shapes[0].bytes
    if op.kind.endswith("-start"):  # (given, result, flags), and of a copy (result, given, flags)
        result = op.shapes[0 if op.kind == "copy-start" or len(op.shapes) == 1 else 1]
        return result.bytes * (bool(_slow(given)) + (not result.fast))
    return _slow(op.shapes) + _slow(given)


def _slow(shapes: tuple[Shape, ...] | list[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if not shape.fast)


def _fusion(program: Program, op: Op, given: list[Shape]) -> int:
    inside = program.called(op)
    users = _users(inside)
    total = 0
    for each in inside.values():
        if each.kind == "parameter" and not each.shapes[0:1] == () and len(each.shapes) == 1:
            total += _read(program, each, users)
    root = inside[program.roots[op.called[0]]]
    last = [inside[name] for name in root.operands] if root.kind == "tuple" else [root]
    outs = op.shapes if len(op.shapes) == len(last) else ()
    for result, shape in zip(last, outs, strict=False):
        if shape.fast or result.kind == "parameter" or _carries(result):
            continue
        while result.kind in ("bitcast", "copy", "convert") and result.operands[0] in inside:
            result = inside[result.operands[0]]
        if result.kind == "dynamic-update-slice":
            total += inside[result.operands[1]].shapes[0].bytes
        else:
            total += shape.bytes
    return total


def _carries(op: Op) -> bool:
    """Whether it only takes an asynchronous collective along."""
    return "async_collective_fusion_config" in op.rest or any(name in op.rest for name in _ASYNC)


def _users(inside: Computation) -> dict[str, list[Op]]:
    """Name -> the operations that it is given to."""
    users: dict[str, list[Op]] = {}
    for each in inside.values():
        for name in each.operands:
            users.setdefault(name, []).append(each)
    return users


def _read(program: Program, parameter: Op, users: dict[str, list[Op]]) -> int:
    """Bytes of a fusion's operand that are read: slices of it, if it is only sliced, there or in a fusion inside."""
    shape, name = parameter.shapes[0], parameter.name
    if shape.fast:
        return 0
    uses = [use for use in users.get(name, []) if use.kind != "tuple" and not _carries(use)]
    seen = 0
    for use in uses:
        while use.kind == "bitcast" and len(users.get(use.name, [])) == 1:
            name, use = use.name, users[use.name][0]
        if use.kind in ("dynamic-slice", "slice", "gather") and use.operands[0] == name:
            seen += use.shapes[0].bytes
        elif use.kind == "fusion":
            inside = program.called(use)
            number = str(use.operands.index(name))
            its = next(each for each in inside.values() if each.kind == "parameter" and each.inner == number)
            seen += _read(program, its, _users(inside))
        elif use.kind == "dynamic-update-slice" and use.operands[0] == name:
            continue  # it lies where the result does
        else:
            return shape.bytes
    return min(seen, shape.bytes)
