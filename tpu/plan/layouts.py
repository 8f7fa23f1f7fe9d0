"""Which layouts fit a slice, and of those the nearest to one that does not."""

import math
from collections.abc import Iterator, Mapping

import jax

from tpu.mesh import AXES, parse_sizes
from tpu.partition import batch_shardings, shardings
from tpu.plan.program import Job

Sizes = Mapping[str, int]


def why_not(job: Job, sizes: Sizes) -> str | None:
    """What does not divide over this mesh; None if all does."""
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    r = job.request
    try:
        shardings(job.axes(), job.shapes(), mesh)  # type: ignore[arg-type]
        batch_shardings(job.batch(), mesh)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)
    if r.batch % r.accumulate or r.batch // r.accumulate % (sizes["data"] * sizes["fsdp"]):
        return f"micro-batches: {r.batch} prompts in {r.accumulate} parts do not divide over data x fsdp"
    return None


def layouts(chips: int) -> Iterator[dict[str, int]]:
    """Every mesh of that many chips."""
    divisors = [d for d in range(1, chips + 1) if chips % d == 0]
    for fsdp in reversed(divisors):
        for tensor in (d for d in divisors if chips // fsdp % d == 0):
            yield dict(zip(AXES, (chips // fsdp // tensor, fsdp, tensor), strict=True))


def chosen(job: Job, chips: int) -> dict[str, int]:
    """The mesh asked for, or the one with the widest `fsdp`, then `data`.

    Raises: ValueError with the sizes that do not fit and the nearest mesh that does.
    """
    asked = job.request.mesh
    fit = lambda sizes: why_not(job, sizes) is None
    if asked is None:
        best = next(filter(fit, layouts(chips)), None)
        if best is None:
            raise ValueError(f"no mesh of {chips} chips fits: {_smallest(job, chips)}")
        return best
    given = {axis: parse_sizes(asked).get(axis, 1) for axis in AXES}
    count = math.prod(given.values())
    reason = f"mesh {asked} has {count} devices, the slice {chips}" if count != chips else why_not(job, given)
    if reason is None:
        return given
    far = lambda sizes: sum(abs(math.log2(sizes[axis] / given[axis])) for axis in AXES)
    nearest = min(filter(fit, layouts(chips)), key=far, default=None)
    advice = "no mesh of this slice fits" if nearest is None else f"the nearest that fits is {words(nearest)}"
    raise ValueError(f"{reason}; {advice}")


def _smallest(job: Job, chips: int) -> str:
    return str(why_not(job, dict(zip(AXES, (1, chips, 1), strict=True))))


def words(sizes: Sizes) -> str:
    """`fsdp=8,tensor=2`."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or f"{AXES[0]}=1"
