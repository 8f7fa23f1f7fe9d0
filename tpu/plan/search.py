"""Which layout, rematerialisation, micro-batches and models in the program: tried in the order that hand counts give.

All combinations are counted by hand (`work`); those whose memory is far from fitting are dropped, and the quickest of
the others are compiled, a few. What is compared is the time of a sequence: the step's, serial, and for log-probs that
come with the data the forward passes that made them, once. Where no batch is asked for, each combination has the
largest that fits.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignjax.lm.config import REMAT
from tpu import layouts
from tpu.bridge import reads
from tpu.plan import work
from tpu.plan.chips import Topology, parse_topology
from tpu.plan.layouts import chosen, why_not
from tpu.plan.planning import Plan, by_hand
from tpu.plan.program import PRECOMPUTED, Job, Request, read_request
from tpu.plan.train_flags import train_flags

SLACK = 1.08
"""By how much hand counts may say that a step does not fit, and it is compiled all the same."""
WIDEST = {"sequence": 1, "tensor": 8}
"""Of meshes that are tried unasked."""
MOST = 64
"""Prompts of a micro-batch on one chip, at most."""
ACCUMULATE = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A combination, counted by hand."""

    request: Request
    peak_bytes: float
    seconds: float
    """Of a sequence."""


@dataclasses.dataclass(frozen=True)
class Found:
    """One that was compiled."""

    request: Request
    plan: Plan
    seconds: float
    """Of a sequence."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        r, details = self.request, self.plan.details
        return {
            "mesh": r.mesh, "remat": r.remat, "accumulate": r.accumulate, "precomputed": r.precomputed,
            "batch": r.batch, "train_flags": train_flags(r), "fits": self.plan.fits,
            "seconds_per_sequence": self.seconds,
            "step_seconds": self.plan.step_seconds, "mfu": self.plan.mfu, "mfu_scheduled": details["mfu_scheduled"],
            "peak_hbm_bytes": self.plan.per_chip.peak_hbm_bytes, "compile_seconds": self.plan.compile_seconds,
            "compile_cpu_seconds": self.plan.compile_cpu_seconds,
        }  # fmt: skip


def search(
    request: Request, plan: Callable[[Request], Plan], *, tries: int = 4, wide: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Found], int, int]:  # fmt: skip
    """(what was compiled: what fits first, and of that the quickest; how many combinations; how many of them dropped).
    If all were dropped, nothing is compiled: the one that needs least is there, by hand counts (`planning.by_hand`).

    Args:
      request: `batch` 0 asks for the largest that fits; a mesh that is named is the only one.
      plan: makes the plan of a request.
      tries: how many combinations are compiled; a batch that turns out too large is made smaller without counting.
      wide: False keeps layout, rematerialisation, micro-batches and models as asked, and looks for the batch alone.
      say: is told what is compiled.

    Raises: ValueError if the mesh does not fit the slice, or nothing divides over it.
    """
    topology = parse_topology(request.topology)
    if request.mesh is not None:  # whatever memory says, it has to be one of this slice
        _any(request, topology, wide)
    given = list(_space(request, topology, wide))
    if not given:
        _any(request, topology, wide)
        raise ValueError(f"no combination divides over {request.slices} x {topology}")
    fits = sorted((one for one in given if one.peak_bytes <= topology.chip.usable * SLACK), key=lambda one: one.seconds)
    if not fits:
        least = min(given, key=lambda one: one.peak_bytes)
        say(f"nothing fits {topology.chip.usable / 2**30:.1f} GiB a chip; the least of {len(given)} combination(s) "
            f"needs {least.peak_bytes / 2**30:.1f} GiB by hand counts ({_words(least.request)})")  # fmt: skip
        return [Found(least.request, by_hand(least.request), least.seconds)], len(given), len(given)
    found: list[Found] = []
    for number, one in enumerate(fits[:tries]):
        say(f"{number + 1} of {min(tries, len(fits))}: {_words(one.request)}, by hand "
            f"{one.peak_bytes / 2**30:.1f} GiB and {1e3 * one.seconds:.1f} ms a sequence")  # fmt: skip
        tried = _largest(one.request, plan, say) if request.batch == 0 else [(one.request, plan(one.request))]
        found += [Found(asked, made, _a_sequence(asked, made)) for asked, made in tried]
    found.sort(key=lambda each: (not each.plan.fits, each.seconds))
    return found, len(given), len(given) - len(fits)


def _any(request: Request, topology: Topology, wide: bool) -> dict[str, int]:
    """The mesh of a request for any batch. Raises: as `layouts.chosen`."""
    accumulate = 1 if wide else request.accumulate
    batch = request.batch or topology.size * request.slices * accumulate
    job = read_request(dataclasses.replace(request, batch=batch, accumulate=accumulate))
    return chosen(job, topology.size * request.slices)


def _words(r: Request) -> str:
    parts = [r.mesh or "", f"remat {r.remat}", f"{r.batch} prompts"]
    parts += [f"in {r.accumulate} parts"] * (r.accumulate > 1) + [f"{r.precomputed} beforehand"] * (
        r.precomputed != "none"
    )
    return ", ".join(parts)


def _space(request: Request, topology: Topology, wide: bool) -> Iterator[Candidate]:
    """Every combination that divides, counted by hand; with the largest batch that fits where none is asked for."""
    method = read_request(dataclasses.replace(request, batch=1)).method
    precomputed = ["none"] + [n for n, roles in PRECOMPUTED.items() if roles and reads(method, roles[-1])]
    accumulates = ACCUMULATE if wide and request.batch else (request.accumulate,)
    remats, before = (REMAT, precomputed) if wide else ((request.remat,), [request.precomputed])
    meshes = _meshes(request, topology, wide)
    for sizes, remat, accumulate, left_out in itertools.product(meshes, remats, accumulates, before):
        ways = sizes["data"] * sizes["fsdp"] * accumulate
        made = lambda prompts, s=sizes, m=remat, a=accumulate, p=left_out: read_request(
            dataclasses.replace(request, mesh=layouts.words(s), remat=m, accumulate=a, precomputed=p, batch=prompts)
        )
        job = made(request.batch or ways * _most(made(ways), sizes, topology))
        if why_not(job, sizes) is None:
            yield Candidate(job.request, work.peak_bytes(job, sizes), _by_hand(job, sizes, topology))


def _meshes(request: Request, topology: Topology, wide: bool) -> Iterator[Mapping[str, int]]:
    chips = topology.size * request.slices
    if request.mesh is not None:
        yield layouts.sizes_of(request.mesh, chips, request.slices)
    elif not wide:  # the one that a plan takes by itself
        yield _any(request, topology, wide)
    else:
        for sizes in layouts.layouts(chips, request.slices):
            if all(sizes[axis] <= widest for axis, widest in WIDEST.items()):
                yield sizes


def _most(job: Job, sizes: Mapping[str, int], topology: Topology) -> int:
    """How many times the batch of `job`, one prompt on every chip that has any, fits by hand counts."""
    twice = dataclasses.replace(job, request=dataclasses.replace(job.request, batch=2 * job.request.batch))
    one, two = work.peak_bytes(job, sizes), work.peak_bytes(twice, sizes)
    return int(min(max((topology.chip.usable - one) // (two - one) + 1, 1), MOST))


def _by_hand(job: Job, sizes: Mapping[str, int], topology: Topology) -> float:
    step = work.seconds(job, sizes, topology.chip)
    made = work.beforehand_seconds(job, math.prod(sizes.values()), topology.chip)
    return (step + made) / (job.request.batch * job.responses)


def _a_sequence(request: Request, plan: Plan) -> float:
    job, chip = read_request(request), parse_topology(request.topology).chip
    made = work.beforehand_seconds(job, plan.chips, chip)
    return (plan.step_seconds + made) / (request.batch * job.responses)


def _largest(
    request: Request, plan: Callable[[Request], Plan], say: Callable[[str], None]
) -> list[tuple[Request, Plan]]:
    """The batches that were tried around one: one that fits, and the next larger that does not, or is as large as is
    tried. A program that does not fit is refused early, so that trying costs little.
    """
    sizes = layouts.parse_sizes(request.mesh or "")
    part = sizes.get("data", 1) * sizes.get("fsdp", 1) * request.accumulate
    tried: dict[int, tuple[Request, Plan]] = {}
    count = request.batch // part

    def fits(n: int) -> bool:
        if n not in tried:
            say(f"  {n * part} prompts")
            asked = dataclasses.replace(request, batch=n * part)
            tried[n] = asked, plan(asked)
        return tried[n][1].fits

    low, high = 0, MOST + 1  # what fits, what does not
    while True:
        low, high = (count, high) if fits(count) else (low, count)
        if high - low <= 1:
            return list(tried.values())
        chip = tried[count][1].per_chip  # temporaries are in proportion to the batch, nearly
        guess = int(count * (chip.hbm_capacity_bytes - chip.argument_bytes) / max(chip.temp_bytes, 1))
        count = min(max(guess if len(tried) < 4 else (low + high) // 2, low + 1), high - 1)
