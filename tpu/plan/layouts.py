"""Which layouts fit a slice, and of those the nearest to one that does not: `tpu.layouts`, for a request."""

from tpu import layouts
from tpu.layouts import Sizes
from tpu.plan.program import Job


def why_not(job: Job, sizes: Sizes) -> str | None:
    """What does not divide over this mesh; None if all does."""
    return layouts.why_not(sizes, job.axes(), job.shapes(), job.batch(), accumulate=job.request.accumulate)


def chosen(job: Job, chips: int) -> dict[str, int]:
    """See `layouts.chosen`. Raises: ValueError with the sizes that do not fit and the nearest mesh that does."""
    return layouts.chosen(job.request.mesh, chips, lambda sizes: why_not(job, sizes), slices=job.request.slices)
