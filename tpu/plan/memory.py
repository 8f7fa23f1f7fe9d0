"""What a chip holds when a step begins, by what it is: counted by hand from shapes."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from tpu.plan import work
from tpu.plan.program import Job
from tpu.schedules import make_optimiser, make_schedule


def arguments(job: Job, sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes on a chip of a mesh of these `sizes`: `parameters`, the other models by their roles, `optimiser`, `batch`.

    What the optimiser keeps of a parameter is split as the parameter is, if it has its shape; a factored moment is not.
    """
    split = work.ways(sizes)
    shapes = job.shapes()
    kept = jax.eval_shape(make_optimiser(job.request.optimizer, make_schedule("constant", 1e-6, 1)).init, shapes)
    like = {leaf.shape for leaf in jax.tree.leaves(shapes)}
    found = {name: size / split for name, size in work.held(job).items()}
    found["optimiser"] = sum(_size(leaf) / (split if leaf.shape in like else 1) for leaf in jax.tree.leaves(kept))
    rows = sizes["data"] * sizes["fsdp"]
    found["batch"] = sum(map(_size, job.batch().values())) / rows / sizes["sequence"]
    return {name: int(size) for name, size in found.items()}


def _size(array: Any) -> float:
    return math.prod(array.shape) * array.dtype.itemsize
