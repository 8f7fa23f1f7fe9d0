"""What the chips can do, as their maker publishes it, and how the chips of a slice are wired.

Peak, HBM and interconnect: cloud.google.com/tpu/docs (system architecture, one page for each version); one way of one
link, chips of a host, and the network of a host: "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus). Usable
HBM is what XLA allows itself: on v5e the 15.75 GiB of its own error message, elsewhere the same share.
"""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType

from alignjax import checks

GIB = 2**30
HOST = 25e9
"""Bytes a second into a host over the data centre's network (DCN), which is what joins slices."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Numbers of one chip; a second and a byte are the units."""

    peak: float
    """bfloat16 operations a second."""
    hbm: float
    """Bytes of memory."""
    bandwidth: float
    """Bytes a second to and from it."""
    link: float
    """Bytes a second over one link of the interconnect, one way."""
    dims: int
    """Of the torus: two links each."""
    wraps: int
    """A dimension whose size is a multiple of this is a ring; others are lines."""
    host: int
    """Chips that share one host, and its network."""

    @property
    def dcn(self) -> float:
        """Bytes a second from other slices: a chip's share of its host's network."""
        return HOST / self.host

    @property
    def usable(self) -> int:
        """Bytes that a program may take."""
        return int(self.hbm * 15.75 / 16)


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v4": Chip(275e12, 32 * GIB, 1228e9, 45e9, 3, 4, 4),
        "v5e": Chip(197e12, 16 * GIB, 819e9, 45e9, 2, 16, 8),
        "v5p": Chip(459e12, 95 * GIB, 2765e9, 90e9, 3, 4, 4),
        "v6e": Chip(918e12, 32 * GIB, 1640e9, 90e9, 2, 16, 8),
    }
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: "v5e:4x4"."""

    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """What each of it can do."""
        return CHIPS[self.kind]

    @property
    def size(self) -> int:
        """Chips."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    def axis_bandwidth(self, spans: tuple[int, ...], whole: bool = True) -> float:
        """Bytes a second into a chip along a mesh axis that spans these dimensions of the slice, or a part of them:
        both directions of a ring, one of a line. A smaller slice than a cube of v4 or v5p has no rings.
        """
        rings = whole and all(n % self.chip.wraps == 0 for n in self.shape if self.chip.dims == 3)
        ways = [2 if rings and self.shape[d] % self.chip.wraps == 0 else 1 for d in spans]
        return self.chip.link * max(sum(ways), 1)


def parse_topology(text: str) -> Topology:
    """`"v5e:4x4"` -> a slice of 16 chips. Raises: ValueError, saying what is allowed; UnknownName for another chip."""
    kind, colon, sizes = text.partition(":")
    kind = checks.member("chip", kind, CHIPS)
    dims = CHIPS[kind].dims
    if not colon or not re.fullmatch("x".join([r"[1-9]\d{0,3}"] * dims), sizes):
        example = "x".join(["4"] * dims)
        raise ValueError(f"topology must look like {kind}:{example} ({dims} sizes for a {kind}), got {text!r}")
    return Topology(kind, tuple(int(n) for n in sizes.split("x")))
