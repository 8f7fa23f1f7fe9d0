"""A plan: the real step, compiled for a slice that need not be here, and what follows for memory and time."""

import dataclasses
import functools
import math
import re
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from tpu import xla_flags
from tpu.layouts import words
from tpu.plan import collectives, counts, hlo, memory, schedule, work
from tpu.plan.chips import GIB, HOST, Topology, parse_topology
from tpu.plan.layouts import chosen
from tpu.plan.program import Job, Request, lower, parameters, read_request
from tpu.plan.target import slice_mesh, spans


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerChip:
    """Bytes and operations of one step on one chip."""

    argument_bytes: int
    """Parameters, optimiser, other models, batch."""
    temp_bytes: int
    """Activations, gradients, gathered parameters: what lives beside the arguments where the step holds most."""
    peak_hbm_bytes: int
    """The most that lives at any one time: the sum of both."""
    program_bytes: int
    """Of the compiled program itself, which lies beside that."""
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
    """By the clock, on this machine and whatever else it had to do; `compile_cpu_seconds` are of the processor."""
    compile_cpu_seconds: float
    assumptions: list[str]
    details: dict[str, Any]
    """The roofline, every collective, bytes by what they hold."""

    def plain(self, details: bool = False) -> dict[str, Any]:
        """As JSON has it."""
        found = dataclasses.asdict(self)
        return found if details else {name: value for name, value in found.items() if name != "details"}


def looked_up(request: Request, *, on_tpu: bool = True) -> tuple[Job, Topology, dict[str, int]]:
    """What a plan begins with, before anything is compiled: the job, its slice and its mesh.

    Raises: ValueError or UnknownName for what cannot be planned; OSError for a config.json that cannot be read.
    """
    topology = parse_topology(request.topology)
    job = read_request(request, on_tpu=on_tpu)
    return job, topology, chosen(job, topology.size * request.slices)


def make_plan(request: Request, mesh: Mesh | None = None) -> Plan:
    """Compiles the step for the slice (or for `mesh`, in tests virtual CPU devices) and reads the program.

    Raises: ValueError or UnknownName for what cannot be planned; LookupError without libtpu.
    """
    on_tpu = mesh is None
    job, topology, sizes = looked_up(request, on_tpu=on_tpu)
    mesh = slice_mesh(topology, sizes, request.slices) if mesh is None else mesh
    lowered = lower(job, mesh)
    clocks = lambda: (time.perf_counter(), time.process_time())
    started = clocks()
    took = lambda: tuple(now - then for now, then in zip(clocks(), started, strict=True))
    try:
        with warnings.catch_warnings():
            # A program for a slice that is not here cannot be read back from JAX's own cache.
            warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
            compiled = lowered.compile(compiler_options=xla_flags.compiler_options(topology.kind) if on_tpu else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _too_large(job, topology, mesh, sizes, took(), str(error))
    seconds = took()
    analysis = compiled.memory_analysis()
    program = hlo.parse(compiled.as_text())
    done = counts.counts(program, topology.chip.peak, topology.chip.bandwidth)
    said = collectives.collectives(program, sizes, request.slices)
    raw = {name: int(getattr(analysis, f"{name}_in_bytes")) for name in MEMORY}
    # libtpu refuses a program by its peak. The CPU's compiler has only sizes that are not at one time.
    peak = raw["peak_memory"] if on_tpu else raw["argument_size"] + raw["temp_size"]
    wires = functools.partial(wire_seconds, topology, mesh, request.slices)
    scheduled = schedule.scheduled_seconds(
        program,
        lambda op, within: counts.seconds(program, op, within, topology.chip.peak, topology.chip.bandwidth),
        lambda op: collectives.of_op(program, op, sizes, request.slices),
        wires,
    )
    found = _Counted(
        raw["argument_size"], peak, raw["generated_code_size"], said, done["flops"], done["bytes"], done["seconds"],
        scheduled, raw,
    )  # fmt: skip
    return _plan(job, topology, sizes, seconds, found, wires, [])


MEMORY = ("argument_size", "temp_size", "output_size", "alias_size", "generated_code_size", "peak_memory")
"""What the compiler says of memory; `details` has it as `compiler_memory`."""


@dataclasses.dataclass(frozen=True)
class _Counted:
    """What a program needs of one chip."""

    argument: float
    peak: float
    """Bytes, and so are the arguments and the program."""
    program: float
    said: Mapping[str, float]
    """Collectives."""
    flops: float
    moved: float
    """To and from HBM."""
    core: float
    """Seconds of it alone."""
    scheduled: float | None
    """Seconds of the schedule; None: not known."""
    raw: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """`MEMORY`, of a program that was compiled."""


def wire_seconds(topology: Topology, mesh: Mesh, slices: int, kind: str, moved: float) -> float:
    """Seconds that so many bytes of a collective take to arrive at a chip.

    Args:
      kind: as `collectives.collectives` names it, "all-gather fsdp".
    """
    axis = kind.split()[1]
    if axis == collectives.DCN:
        return moved / topology.chip.dcn
    over = spans(mesh, axis)
    size = math.prod(mesh.shape[each] // (slices if each == "data" else 1) for each in axis.split("+"))
    return moved / topology.axis_bandwidth(over, size == math.prod(topology.shape[d] for d in over))


def _plan(
    job: Job, topology: Topology, sizes: Any, seconds: tuple[float, ...], found: _Counted,
    wires: Callable[[str, float], float], notes: list[str],
) -> Plan:  # fmt: skip
    chip, n, r = topology.chip, parameters(job.shapes()), job.request
    chips = topology.size * r.slices
    needed = work.model_flops(job) / chips
    over = {"ici": 0.0, "dcn": 0.0}
    for kind, moved in found.said.items():
        over["dcn" if kind.endswith(collectives.DCN) else "ici"] += wires(kind, moved)
    step = found.core + sum(over.values())
    overlapped = max(found.flops / chip.peak, found.moved / chip.bandwidth, *over.values())
    mfu = lambda seconds: needed / (seconds * chip.peak)
    table = 0 if job.config.tied else job.config.vocab_size * job.config.d_model
    per_chip = PerChip(
        argument_bytes=int(found.argument), temp_bytes=int(found.peak) - int(found.argument),
        peak_hbm_bytes=int(found.peak), program_bytes=int(found.program), hbm_capacity_bytes=chip.usable,
        flops=int(found.flops), model_flops=int(needed),
        collective_bytes=collectives.by_axis(found.said, sizes),
    )  # fmt: skip
    parts = memory.arguments(job, sizes)
    parts["other"] = int(found.argument) - sum(parts.values())
    roofline = {
        "compute": found.flops / chip.peak, "hbm": found.moved / chip.bandwidth, **over,
        "serial": step, "scheduled": step if found.scheduled is None else found.scheduled, "overlapped": overlapped,
    }  # fmt: skip
    return Plan(
        params=n, chips=chips, per_chip=per_chip, fits=found.peak <= chip.usable, step_seconds=step, mfu=mfu(step),
        compile_seconds=round(seconds[0], 1), compile_cpu_seconds=round(seconds[1], 1),
        assumptions=[*notes, *_assumptions(job, topology, sizes, table / n), *_all_reduced(found.said)],
        details={
            "mesh": dict(sizes),
            "roofline_seconds": roofline,
            "mfu_scheduled": mfu(roofline["scheduled"]),
            "mfu_overlapped": mfu(overlapped),
            "wires_hidden": (step - roofline["scheduled"]) / sum(over.values()) if any(over.values()) else 1.0,
            "hbm_bytes_moved": int(found.moved),
            "collectives": {name: int(size) for name, size in sorted(found.said.items(), key=lambda item: -item[1])},
            "argument_bytes": parts,
            "compiler_memory": dict(found.raw),
            "tokens": job.tokens,
        },
    )  # fmt: skip


def _assumptions(job: Job, topology: Topology, sizes: Any, looked_up: float) -> list[str]:
    r, chip = job.request, topology.chip
    models = ", ".join(f"{count} {role} forward" for role, count in job.models.items()) or "no other model"
    joined = f"{r.slices} slices of {topology}" if r.slices > 1 else str(topology)
    return [
        f"{joined} as {words(sizes)}: {chip.peak / 1e12:g} Tflop/s, {chip.bandwidth / 1e9:g} GB/s to "
        f"{chip.hbm / GIB:g} GiB HBM (15.75/16 of it usable), {chip.link / 1e9:g} GB/s a link and way (published)",
        f"{job.method.name}: {r.batch} prompts x {job.responses} responses x {r.seq} tokens, all attended and trained; "
        f"{models}; {r.param_dtype} weights, {r.reference_dtype} reference, {r.optimizer}, remat {r.remat}, "
        f"{r.accumulate} micro-batch(es), attention {job.config.attention}",
        "step_seconds: every operation at the longer of its flops at peak and its HBM bytes at full bandwidth, "
        "one after the other, and then all collectives, overlapping nothing; no other inefficiency. A bound, and not a "
        "measurement",
        "scheduled: the compiler's own schedule, where a collective that is started goes on beside the core until the "
        "operation that ends it; copies between memories are not taken to overlap",
        "collective bytes are those that arrive at a chip; an axis has the links of the dimensions of the slice "
        "that it spans, both ways where they are rings"
        + (
            f"; data/dcn is between slices, {chip.dcn / 1e9:g} GB/s a chip of its host's {HOST / 1e9:g}"
            if r.slices > 1
            else ""
        ),
        "model_flops: 6 N a token of the policy and 2 N of every other model, and causal attention within windows; "
        "N = all parameters" + (f", of which {looked_up:.0%} are a table that is only looked up" if looked_up else ""),
        "memory: argument_bytes + temp_bytes = peak_hbm_bytes, the most that lives at any one time by the compiler's "
        "account, and what has to fit; program_bytes lie beside it. (The compiler's own temp_size, in the details, is "
        "of all its temporaries and of no one time: what lies in donated arguments is in it too)",
        "compile_seconds: by the clock; compile_cpu_seconds: of the processor, all cores, as in docs/plans.md",
        "flops: matrix products and attention kernels of the compiled program, loops as often as they run",
    ]


def _all_reduced(said: Mapping[str, float]) -> list[str]:
    """Of gradients that the compiler does not scatter, as it does for some sizes of shards and some slices."""
    whole = said.get("all-reduce fsdp", 0.0)
    if whole <= sum(said.values()) / 10:
        return []
    return [
        f"gradients are summed over fsdp by all-reduce, {whole / 1e9:.3g} GB a step, where a scatter would be half of "
        "that: so the compiler chose for these sizes. Another fsdp, beside data or tensor, may be faster"
    ]


def _too_large(job: Job, topology: Topology, mesh: Mesh, sizes: Any, seconds: tuple[float, ...], error: str) -> Plan:
    """What is known of a program that the compiler refuses because it does not fit."""
    used = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)", error)
    peak = float(used[1]) * 1024 ** " KMGT".index(used[2] or " ") if used else 0.0
    wires = functools.partial(wire_seconds, topology, mesh, job.request.slices)
    note = "the compiler refused the program because it does not fit: all but its memory is counted by hand"
    return _plan(job, topology, sizes, seconds, _by_hand(job, topology, sizes, peak), wires, [note])


def by_hand(request: Request) -> Plan:
    """What is known of a step without compiling it: everything counted by hand.

    Raises: as `looked_up`.
    """
    job, topology, sizes = looked_up(request)
    chip = topology.chip
    peak = work.peak_bytes(job, sizes)
    wires = lambda kind, moved: moved / (chip.dcn if kind.endswith(collectives.DCN) else chip.link * chip.dims)
    note = "nothing was compiled: all is counted by hand, memory within about 10%"
    return _plan(job, topology, sizes, (0.0, 0.0), _by_hand(job, topology, sizes, peak), wires, [note])


def _by_hand(job: Job, topology: Topology, sizes: Any, peak: float) -> _Counted:
    argument = work.argument_bytes(job, work.ways(sizes))
    flops = work.executed_flops(job) / (topology.size * job.request.slices)
    said, core = work.said(job, sizes), flops / topology.chip.peak
    return _Counted(argument, max(peak, argument), 0.0, said, flops, 0.0, core, None)
