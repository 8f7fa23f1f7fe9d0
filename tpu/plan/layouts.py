"""Which layouts fit a slice, and of those the nearest to one that does not: `tpu.layouts`, for a request."""

import dataclasses

from tpu import layouts
from tpu.layouts import Sizes
from tpu.plan.program import Job


def why_not(job: Job, sizes: Sizes) -> str | None:
    """What does not divide over this mesh; None if all does."""
    return layouts.why_not(sizes, job.axes(), job.shapes(), job.batch(), accumulate=job.request.accumulate)


def chosen(job: Job, chips: int) -> dict[str, int]:
    """See `layouts.chosen`.

    Raises: ValueError with the sizes that do not fit, the nearest mesh that does, and the nearest batches.
    """
    r = job.request
    choose = lambda job: layouts.chosen(r.mesh, chips, lambda sizes: why_not(job, sizes), slices=r.slices)
    try:
        return choose(job)
    except ValueError as error:
        given = layouts.sizes_of("fsdp" if r.mesh is None else r.mesh, chips, r.slices)
        part = given["data"] * given["fsdp"] * r.accumulate
        fit = []
        for prompts in {r.batch // part * part, -(-r.batch // part) * part} - {0, r.batch}:
            other = dataclasses.replace(job, request=dataclasses.replace(r, batch=prompts))
            try:
                fit.append((prompts, layouts.words(choose(other))))
            except ValueError:
                pass
        if not fit:
            raise
        said = " and ".join(f"{prompts} on {mesh}" for prompts, mesh in sorted(fit))
        raise ValueError(f"{error}; of {r.batch} prompts the nearest that fit are {said}") from None
