"""Weak and strong scaling by counting: what one chip computes, holds and is told, on 8 to 512 chips.

The real step is compiled for that many virtual CPU devices, in a process of its own, and its program is read; nothing
runs. The step is in float32, because XLA's CPU compiler has no sums of bfloat16 over devices: its collectives have
twice the bytes of those on a TPU, at every size alike. Beside it stand the bounds of "How to Scale Your Model"
(jax-ml.github.io/scaling-book/training): how many tokens a chip needs for its work to take longer than its wires.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tpu.layouts import words
from tpu.plan.chips import CHIPS, Chip

TOLERANCE = 0.05
"""By how much a number that should stay flat may grow."""
_CHILD = "from tpu.benching.scaling import count; count()"
_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Code for the CPU is not run, and need not be good; what XLA makes of the program is not changed by these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is counted."""

    model: str = "llama3.2-1b"
    method: str = "dpo"
    seq: int = 2048
    per_chip: int = 1
    """Prompts a chip, in weak scaling."""
    weak: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Chips."""
    strong: tuple[int, ...] = (8, 64, 512)
    width: int = 32
    """Of `fsdp`; more chips are on `data`."""
    beyond: str = "data"
    """The axis of chips beyond `width`: `data` or `fsdp`."""

    def points(self) -> list[tuple[str, int, int]]:
        """(weak or strong, chips, prompts); strong scaling has the prompts of the widest weak point."""
        most = self.per_chip * max(*self.weak, *self.strong)
        return [("weak", n, n * self.per_chip) for n in self.weak] + [("strong", n, most) for n in self.strong]

    def mesh(self, chips: int) -> dict[str, int]:
        """`fsdp` up to `width`, and the axis beyond."""
        if self.beyond == "fsdp":
            return {"fsdp": chips}
        inner = min(chips, self.width)
        return {"data": chips // inner, "fsdp": inner}


def count() -> None:
    """In a process of its own: reads `Asked` as JSON and prints a line of JSON for each of its points."""
    given = json.loads(sys.stdin.read())
    asked = Asked(**given | {name: tuple(given[name]) for name in ("weak", "strong")})
    from tpu.layouts import sizes_of
    from tpu.plan import collectives, hlo, target
    from tpu.plan.counts import counts
    from tpu.plan.program import Request, lower, read_request

    for kind, chips, prompts in asked.points():
        sizes = sizes_of(asked.mesh(chips), chips)
        request = Request(
            model=asked.model, topology="v5p:1x1x1", method=asked.method, batch=prompts, seq=asked.seq,
            dtype="float32", reference_dtype="float32", attention="xla",
        )  # fmt: skip
        compiled = lower(read_request(request, on_tpu=False), target.cpu_mesh(sizes)).compile()
        memory, program = compiled.memory_analysis(), hlo.parse(compiled.as_text())
        said = collectives.collectives(program, sizes)
        point = {
            "kind": kind, "chips": chips, "mesh": words(sizes), "prompts": prompts,
            "flops": int(counts(program, 1.0, 1.0)["flops"]),
            "argument_bytes": memory.argument_size_in_bytes, "temp_bytes": memory.temp_size_in_bytes,
            "collective_bytes": collectives.by_axis(said, sizes), "ring": {a: n for a, n in sizes.items() if n > 1},
            "collectives": {name: int(size) for name, size in said.items()},
        }  # fmt: skip
        print(json.dumps(point), flush=True)


def points(asked: Asked) -> Iterator[dict[str, Any]]:
    """The counts of every point, as they come.

    Raises: RuntimeError with the last of what the other process said, if it failed.
    """
    devices = max(*asked.weak, *asked.strong)
    env = os.environ | {
        "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {_XLA}",
    }  # fmt: skip
    with (
        tempfile.TemporaryFile("w+") as errors,  # a pipe that nobody reads could fill
        subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=env,
        ) as child,
    ):  # fmt: skip
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(dataclasses.asdict(asked)))
        child.stdin.close()
        for line in child.stdout:
            yield json.loads(line)
        if child.wait():
            errors.seek(0)
            raise RuntimeError("counting failed: " + "\n".join(errors.read().strip().splitlines()[-3:]))


def payload(point: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of each axis as if its ring were endless: of n devices (n - 1) / n of that arrives at one."""
    sizes = {axis: _devices(point, axis) for axis in point["collective_bytes"]}
    return {axis: size * sizes[axis] / (sizes[axis] - 1) for axis, size in point["collective_bytes"].items()}


def _devices(point: Mapping[str, Any], axis: str) -> int:
    """Of the ring of `data+fsdp`."""
    return math.prod(point["ring"][each] for each in axis.split("+"))


def grows(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of a chip's share does not stay flat in weak scaling; nothing, if all does.

    Flops and bytes are compared between every two sizes; bytes of an axis with `payload`, where the axis is there.
    Memory may shrink, as `fsdp` gets wider.
    """
    weak = sorted((point for point in found if point["kind"] == "weak"), key=lambda point: point["chips"])
    rows: dict[str, list[tuple[int, float]]] = {}
    for point in weak:
        at = lambda name, value, n=point["chips"]: rows.setdefault(name, []).append((n, value))
        at("flops", point["flops"])
        at("memory", point["argument_bytes"] + point["temp_bytes"])
        for axis, size in payload(point).items():
            at(f"collective bytes on {axis}", size)
    told = []
    for name, row in rows.items():
        least = row[0]
        for n, value in row[1:]:
            if value > least[1] * (1 + TOLERANCE):
                told.append(f"{name}: {least[1]:.4g} on {least[0]} chips, {value:.4g} on {n}")
                break
            least = min(least, (n, value), key=lambda pair: pair[1])
    return told


def bounds(chip: Chip, d_mlp: int) -> dict[str, float]:
    """The scaling book's: tokens a chip (or chips, or tokens a slice) from which work takes longer than wires.

    C is the peak, W both ways of one axis of the torus, M its axes, F the width of the MLP.
    """
    intensity, axes = chip.peak / (2 * chip.link), chip.dims
    return {
        "fsdp: tokens a chip, more than C / (W M)": intensity / axes,
        "tensor: chips, fewer than F / (C / W), along one axis": d_mlp / intensity,
        "fsdp + tensor: tokens a chip, more than 4 (C / W)^2 / (M_x M_y F)": 4
        * intensity**2
        / (max(axes - 1, 1) * d_mlp),
        "data between slices: tokens a slice, more than C / W_dcn": chip.peak / chip.dcn,
    }


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The points as text, per chip."""
    axes = list(dict.fromkeys(axis for point in found for axis in point["collective_bytes"]))
    head = ["chips", "mesh", "prompts", "Tflop", "arguments GB", "temporaries GB", *(f"{axis} GB" for axis in axes)]
    text = []
    for kind in ("weak", "strong"):
        rows = [
            [
                str(p["chips"]), p["mesh"], str(p["prompts"]), f"{p['flops'] / 1e12:.3g}",
                f"{p['argument_bytes'] / 1e9:.3f}", f"{p['temp_bytes'] / 1e9:.3f}",
                *(f"{p['collective_bytes'][axis] / 1e9:.3f}" if axis in p["collective_bytes"] else "" for axis in axes),
            ]
            for p in found if p["kind"] == kind
        ]  # fmt: skip
        if rows:
            width = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            text += ["", f"{kind} scaling, of one chip"]
            text += ["  " + "  ".join(map(str.rjust, row, width)) for row in (head, *rows)]
    return text


def report(asked: Asked, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All of it as one JSON object; `flat` is the verdict."""
    from tpu.plan.program import read_model

    told, config = grows(found), read_model(asked.model)
    return {
        "asked": dataclasses.asdict(asked), "points": list(found), "flat": not told, "grows": told,
        "tokens_a_chip": asked.per_chip * 2 * asked.seq,
        "bounds": {name: bounds(chip, config.d_mlp) for name, chip in CHIPS.items()},
    }  # fmt: skip


def lines(said: Mapping[str, Any]) -> list[str]:
    """A report as text, after the table."""
    text = ["", "bounds of the scaling book (jax-ml.github.io/scaling-book/training)"]
    names = list(said["bounds"])
    for bound in next(iter(said["bounds"].values())):
        numbers = ", ".join(f"{name} {said['bounds'][name][bound]:,.0f}" for name in names)
        text.append(f"  {bound}: {numbers}")
    text += [f"  here: {said['tokens_a_chip']:,} tokens a chip in weak scaling", ""]
    if said["flat"]:
        return [*text, *_flat(said["points"])]
    return [*text, "weak scaling is NOT flat:", *(f"  {line}" for line in said["grows"])]


def _flat(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `grows` has compared, with the numbers: on an axis of n chips (n - 1) / n of a payload arrive, so that the
    payload is flat, and the column comes nearer to it.
    """
    rings: dict[str, list[tuple[int, float, float]]] = {}
    for point in found:
        for axis, size in payload(point).items() if point["kind"] == "weak" else ():
            rings.setdefault(axis, []).append(
                (_devices(point, axis), point["collective_bytes"][axis] / 1e9, size / 1e9)
            )
    within = f"no more than {TOLERANCE:.0%}"
    text = [f"weak scaling: what a chip computes and what it holds grow by {within}; of n chips on an axis"]
    text += [f"(n - 1) / n of a payload arrive at each, and it is the payload that grows by {within}:"]
    for axis, row in rings.items():
        (n, first, least), (m, last, most) = min(row), max(row)
        text.append(
            f"  {axis}: {first:.3g} GB of a payload of {least:.3g} where n = {n}"
            + (f", {last:.3g} of {most:.3g} where n = {m}" if m > n else "")
        )
    return text


def page(asked: Asked, found: Sequence[Mapping[str, Any]]) -> str:
    """docs/scaling.md."""
    return (
        f"""# Scaling, by counting

Written by `python -m tpu bench scaling --out docs/scaling.md`: the real step of {asked.method} for {asked.model} at
{asked.seq:,} tokens, compiled for virtual CPU devices, and its program read. Nothing ran. Weak scaling has
{asked.per_chip} prompt(s) a chip, strong scaling as many as the widest of those; `fsdp` is at most {asked.width}, and
more chips are on `{asked.beyond}`. Collectives are in float32 here (XLA's CPU compiler has no other sums over devices),
twice what a TPU is told, and gradients are summed where a TPU scatters them; temporaries have whole attention matrices,
where a TPU has a flash kernel. So it is not the height of a column that counts, but whether it grows with the chips.

```
"""
        + "\n".join(table(found) + lines(report(asked, found))).strip()
        + "\n```\n"
    )
