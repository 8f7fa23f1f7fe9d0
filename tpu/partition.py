"""The only place that says how a logical axis is laid out on the mesh."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alignjax import checks

RULES: Mapping[str, tuple[str, ...]] = {
    # data
    "prompt": ("data", "fsdp"),
    "replica": ("data",),  # prompts, where each chip has a part of the width
    "response": (),  # never: the K responses to a prompt are compared with each other
    "time": (),
    "position": ("sequence",),  # the time of activations
    "opponent": (),
    "objective": (),
    # parameters
    "vocab": ("tensor",),
    "embed": ("fsdp", "sequence"),
    "layers": (),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head": (),
    "mlp": ("tensor",),
    "rank": (),
}
"""Logical axis -> the mesh axes it is split over."""

GENERATION: Mapping[str, tuple[str, ...]] = {
    **RULES,
    "prompt": ("data", "fsdp", "sequence"),
    "position": (),
    "embed": (),
}
"""The same while responses are drawn: a token is one position, and would have every parameter gathered for it. So each
device holds its heads and MLP of the whole model, and the prompts are split over all that `tensor` leaves."""

BATCH_AXES: Mapping[str, tuple[str, ...]] = {
    "tokens": ("prompt", "response", "time"),
    "loss_mask": ("prompt", "response", "time"),
    "attention_mask": ("prompt", "response", "time"),
    "preference": ("prompt", "response", "response"),
    "win_rate": ("prompt", "response"),
    "reward": ("prompt", "response"),
    "rewards": ("prompt", "response", "objective"),
    "label": ("prompt", "response"),
    "value": ("prompt",),
    "behaviour_logp": ("prompt", "response"),
    "response_mask": ("prompt", "response"),
    "ref_token_logp": ("prompt", "response", "time"),
    "anchor_token_logp": ("prompt", "response", "time"),
    "behaviour_token_logp": ("prompt", "response", "time"),
    "opponent_token_logp": ("prompt", "opponent", "response", "time"),
}
"""The axes of what a training step reads."""


def spec(
    axes: Sequence[str],
    shape: Sequence[int],
    mesh: Mesh,
    *,
    name: str = "array",
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """How one array is split. A mesh axis is used once: the first dimension that wants it has it.

    Raises: ValueError with the sizes if a dimension cannot be split evenly; UnknownName for an axis without a rule.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{name} has {len(shape)} dimensions, but axes {tuple(axes)}")
    used: set[str] = set()
    parts: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        wanted = rules[checks.member("logical axis", axis, rules)]
        names = tuple(one for one in wanted if mesh.shape.get(one, 1) > 1 and one not in used)
        ways = 1
        for one in names:
            ways *= mesh.shape[one]
        if size % ways:
            split = " x ".join(f"{one}={mesh.shape[one]}" for one in names)
            raise ValueError(
                f"{name}: axis {axis!r} of size {size} cannot be split evenly over {split} ({ways} devices)"
            )
        used.update(names)
        parts.append(names or None)
    return PartitionSpec(*parts)


def shardings(axes: Any, arrays: Any, mesh: Mesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> Any:
    """A `NamedSharding` for every leaf of `arrays` (anything with a shape); `axes` is a tree like it of axis names."""

    def one(path: Any, array: Any, names: Sequence[str]) -> NamedSharding:
        return NamedSharding(mesh, spec(tuple(names), array.shape, mesh, name=jax.tree_util.keystr(path), rules=rules))

    return jax.tree_util.tree_map_with_path(one, arrays, axes)


def batch_shardings(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """How a batch is split: prompts over `data` and `fsdp`, responses never."""
    axes = {name: BATCH_AXES[checks.member("batch field", name, BATCH_AXES)] for name in batch}
    return {name: NamedSharding(mesh, spec(axes[name], batch[name].shape, mesh, name=name)) for name in batch}


@contextlib.contextmanager
def laid_out(mesh: Mesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> Iterator[None]:
    """What is traced within lies on the mesh by the rules: activations, and kernels that run on each device's own."""
    known = [(axis, tuple(m for m in wanted if m in mesh.shape) or None) for axis, wanted in rules.items()]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(known):
        yield
