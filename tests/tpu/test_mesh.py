"""Meshes: layouts by name, slices, and the nearest layout to one that does not fit."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from tpu.layouts import LAYOUTS, chosen, sizes_of, words
from tpu.mesh import make_mesh


def test_named_layouts() -> None:
    """By hand, for 8 devices, for 2 slices of 16, and for 256."""
    by_name = {name: words(sizes_of(name, 8)) for name in LAYOUTS}
    assert by_name == {
        "data": "data=8", "fsdp": "fsdp=8", "tensor": "tensor=8", "data+fsdp": "data=2,fsdp=4",
        "fsdp+tensor": "fsdp=4,tensor=2", "data+fsdp+tensor": "data=2,fsdp=2,tensor=2", "sequence": "sequence=8",
        "fsdp+sequence": "fsdp=4,sequence=2", "fsdp+sequence+tensor": "fsdp=2,sequence=2,tensor=2",
    }  # fmt: skip
    assert words(sizes_of("fsdp", 32, slices=2)) == "data=2,fsdp=16"
    assert words(sizes_of("fsdp+tensor", 256)) == "fsdp=64,tensor=4"
    assert words(sizes_of("fsdp+tensor", 48)) == "fsdp=12,tensor=4"
    assert all(np.prod(list(sizes_of(name, 24).values())) == 24 for name in LAYOUTS)


def test_data_alone_crosses_slices() -> None:
    mesh = make_mesh("data=4,fsdp=2", slices=2)
    assert [d.id for d in mesh.devices[:2].flat] == [0, 1, 2, 3]  # virtual devices: the first half is the first slice
    there = [Chip(i, i % 4) for i in range(8)]
    devices = make_mesh("fsdp=4,data=2", [there[i] for i in (5, 0, 7, 2, 1, 4, 3, 6)], slices=2).devices
    assert [{chip.slice_index for chip in row.flat} for row in devices] == [{0}, {1}]
    for call, said in (
        (lambda: make_mesh("fsdp", slices=3), "8 devices are no whole number of devices for each of slices = 3"),
        (lambda: make_mesh("data=2,fsdp=4", slices=4), "data=2,fsdp=4: data=2 is no multiple of slices = 4"),
        (lambda: make_mesh("fsdp=8", slices=2), "data=1 is no multiple of slices = 2"),
        (lambda: make_mesh("data=8", slices=0), "slices must be an integer >= 1"),
        (lambda: make_mesh("data=4,fsdp=2", there, slices=4), "slices = 4, but the devices are of 2"),
        (lambda: make_mesh("data+fsdp+tensor", jax.devices()[:4]), "data=2,fsdp=2 leaves nothing for tensor"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of two slices of 2 x 2 chips, as far as a mesh asks."""

    id: int
    place: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    @property
    def slice_index(self) -> int:
        return self.id // 4

    @property
    def process_index(self) -> int:
        return self.slice_index

    @property
    def coords(self) -> tuple[int, int, int]:
        return (self.place % 2, self.place // 2, 0)


def test_a_layout_that_does_not_fit_is_refused_with_the_nearest() -> None:
    """By a rule of our own: at most 4 on `tensor`, and `fsdp` even."""
    rule = lambda sizes: "tensor > 4" if sizes["tensor"] > 4 else "odd" if sizes["fsdp"] % 2 else None
    assert words(chosen("fsdp+tensor", 16, rule)) == "fsdp=4,tensor=4"
    assert words(chosen(None, 16, rule)) == "fsdp=16" and words(chosen(None, 16, rule, slices=4)) == "data=4,fsdp=4"
    for asked, said in (
        ("tensor", "tensor > 4; the nearest that fits is fsdp=4,tensor=4"),
        ("data=16", "odd; the nearest that fits is data=8,fsdp=2"),
        ("fsdp=32", "mesh fsdp=32 has 32 devices, there are 16; the nearest that fits is fsdp=16"),
    ):
        with pytest.raises(ValueError, match=said):
            chosen(asked, 16, rule)
    with pytest.raises(ValueError, match="nothing; no mesh of 16 devices fits"):
        chosen("fsdp", 16, lambda sizes: "nothing")
    with pytest.raises(
        ValueError, match="no mesh of 4 chips fits: too wide; with the positions split, fsdp=2,sequence=2 does"
    ):
        chosen(None, 4, lambda sizes: "too wide" if sizes["sequence"] < 2 else None)
