"""A plan: the real step, compiled for a slice that need not be here, and what follows for memory and time."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from tpu.plan import collectives, counts, hlo, work
from tpu.plan.chips import GIB, Topology, parse_topology
from tpu.plan.layouts import chosen, words
from tpu.plan.program import Job, Request, lower, parameters, read_request
from tpu.plan.target import slice_mesh, spans


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerChip:
    """Bytes and operations of one step on one chip."""

    argument_bytes: int
    """Parameters, optimiser, other models, batch."""
    temp_bytes: int
    """Activations, gradients, gathered parameters: all that lives within a step."""
    peak_hbm_bytes: int
    """At any one time; less than the sum of both where the memory of one is used again for the other."""
    hbm_capacity_bytes: int
    flops: int
    """As executed, recomputations counted."""
    model_flops: int
    """What the mathematics needs."""
    collective_bytes: dict[str, int]
    """What arrives at the chip, by mesh axis."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What `python -m tpu plan --json` prints."""

    params: int
    """Of the policy alone."""
    chips: int
    per_chip: PerChip
    fits: bool
    step_seconds: float
    """Serial: nothing overlaps."""
    mfu: float
    """model_flops in step_seconds, of the peak."""
    compile_seconds: float
    assumptions: list[str]
    details: dict[str, Any]
    """The roofline, every collective, bytes by what they hold."""

    def plain(self, details: bool = False) -> dict[str, Any]:
        """As JSON has it."""
        found = dataclasses.asdict(self)
        return found if details else {name: value for name, value in found.items() if name != "details"}


def make_plan(request: Request, mesh: Mesh | None = None) -> Plan:
    """Compiles the step for the slice (or for `mesh`, in tests virtual CPU devices) and reads the program.

    Raises: ValueError or UnknownName for what cannot be planned; LookupError without libtpu.
    """
    topology = parse_topology(request.topology)
    job = read_request(request, on_tpu=mesh is None)
    sizes = chosen(job, topology.size)
    mesh = slice_mesh(topology, sizes) if mesh is None else mesh
    lowered = lower(job, mesh)
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _too_large(job, topology, mesh, sizes, time.perf_counter() - started, str(error))
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    program = hlo.parse(compiled.as_text())
    chip = topology.chip
    done = counts.counts(program, chip.peak, chip.bandwidth)
    said = collectives.collectives(program, sizes)
    # By this number libtpu refuses a program; the sum of arguments and temporaries counts reused memory twice.
    peak = memory.peak_memory_in_bytes or memory.argument_size_in_bytes + memory.temp_size_in_bytes
    wires = _wires(topology, mesh, said)
    return _plan(
        job, topology, sizes, seconds,
        argument=memory.argument_size_in_bytes, temp=memory.temp_size_in_bytes, peak=peak, said=dict(said),
        flops=done["flops"], moved=done["bytes"], serial=done["seconds"], wires=wires, notes=[],
    )  # fmt: skip


def _wires(topology: Topology, mesh: Mesh, said: Mapping[str, float]) -> float:
    """Seconds that all collectives take, one after the other."""
    seconds = 0.0
    for name, moved in said.items():
        axis = name.split()[1]
        over = spans(mesh, axis)
        size = math.prod(mesh.shape[each] for each in axis.split("+"))
        whole = size == math.prod(topology.shape[d] for d in over)
        seconds += moved / topology.axis_bandwidth(over, whole)
    return seconds


def _plan(
    job: Job, topology: Topology, sizes: Any, seconds: float, *, argument: int, temp: int, peak: int,
    said: dict[str, float], flops: float, moved: float, serial: float, wires: float, notes: list[str],
) -> Plan:  # fmt: skip
    chip, n = topology.chip, parameters(job.shapes())
    needed = work.model_flops(job) / topology.size
    step = serial + wires
    overlapped = max(flops / chip.peak, moved / chip.bandwidth, wires)
    mfu = needed / (step * chip.peak)
    r = job.request
    looked_up = 0 if job.config.tied else job.config.vocab_size * job.config.d_model
    per_chip = PerChip(
        argument_bytes=int(argument), temp_bytes=int(temp), peak_hbm_bytes=int(peak), hbm_capacity_bytes=chip.usable,
        flops=int(flops), model_flops=int(needed), collective_bytes=collectives.by_axis(said, sizes),
    )  # fmt: skip
    share = lambda width, count=1: int(count * n * width / (sizes["fsdp"] * sizes["tensor"]))
    own = jax.numpy.dtype(r.param_dtype).itemsize
    narrow = jax.numpy.dtype(r.reference_dtype).itemsize
    return Plan(
        params=n, chips=topology.size, per_chip=per_chip, fits=peak <= chip.usable, step_seconds=step, mfu=mfu,
        compile_seconds=round(seconds, 1),
        assumptions=[*notes, *_assumptions(job, topology, sizes, looked_up / n)],
        details={
            "mesh": dict(sizes),
            "roofline_seconds": {
                "compute": flops / chip.peak, "hbm": moved / chip.bandwidth, "ici": wires, "dcn": 0.0,
                "serial": step, "overlapped": overlapped,
            },
            "mfu_overlapped": needed / (overlapped * chip.peak),
            "hbm_bytes_moved": int(moved),
            "collectives": {name: int(size) for name, size in sorted(said.items(), key=lambda item: -item[1])},
            "argument_bytes": {
                "parameters": share(own),
                "optimiser": max(int(argument) - share(own) - sum(
                    share(narrow if role == "ref" else own, count) for role, count in job.models.items()), 0),
                **{role: share(narrow if role == "ref" else own, count) for role, count in job.models.items()},
            },
            "tokens": job.tokens,
        },
    )  # fmt: skip


def _assumptions(job: Job, topology: Topology, sizes: Any, looked_up: float) -> list[str]:
    r, chip = job.request, topology.chip
    models = ", ".join(f"{count} {role} forward" for role, count in job.models.items()) or "no other model"
    return [
        f"{topology} as {words(sizes)}: {chip.peak / 1e12:g} Tflop/s, {chip.bandwidth / 1e9:g} GB/s to "
        f"{chip.hbm / GIB:g} GiB HBM (15.75/16 of it usable), {chip.link / 1e9:g} GB/s a link and way (published)",
        f"{job.method.name}: {r.batch} prompts x {job.responses} responses x {r.seq} tokens, all attended and trained; "
        f"{models}; {r.param_dtype} weights, {r.reference_dtype} reference, {r.optimizer}, remat {r.remat}, "
        f"{r.accumulate} micro-batch(es), attention {job.config.attention}",
        "step_seconds: every operation at the longer of its flops at peak and its HBM bytes at full bandwidth, "
        "one after the other, and then all collectives, overlapping nothing; no other inefficiency. A bound, and not a "
        "measurement",
        "collective bytes are those that arrive at a chip; an axis has the links of the dimensions of the slice "
        "that it spans, both ways where they are rings",
        "model_flops: 6 N a token of the policy and 2 N of every other model, and causal attention; N = all parameters"
        + (f", of which {looked_up:.0%} are a table that is only looked up" if looked_up else ""),
        "flops: matrix products and attention kernels of the compiled program, loops as often as they run",
    ]


def _too_large(job: Job, topology: Topology, mesh: Mesh, sizes: Any, seconds: float, error: str) -> Plan:
    """What is known of a program that the compiler refuses because it does not fit."""
    used = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)", error)
    argument = work.argument_bytes(job, sizes["fsdp"] * sizes["tensor"])
    peak = float(used[1]) * 1024 ** " KMGT".index(used[2] or " ") if used else argument
    flops = work.executed_flops(job) / topology.size
    width = jax.numpy.dtype(job.request.dtype).itemsize
    gathered = work.gathered_bytes(job, sizes["fsdp"], width)
    said = {"all-gather fsdp": gathered, "reduce-scatter fsdp": gathered / (2 + sum(job.models.values()))}
    wires = _wires(topology, mesh, said)
    return _plan(
        job, topology, sizes, seconds, argument=int(argument), temp=int(max(peak - argument, 0)), peak=int(peak),
        said=said if sizes["fsdp"] > 1 else {}, flops=flops, moved=0.0, serial=flops / topology.chip.peak, wires=wires,
        notes=["the compiler refused the program because it does not fit: all but its memory is counted by hand"],
    )  # fmt: skip
