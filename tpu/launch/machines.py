"""The hosts of a TPU slice, and what GKE and XPK call it.

Sources: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (machine types, topologies, labels) and the table of
XPK (github.com/AI-Hypercomputer/xpk, src/xpk/core/system_characteristics.py).
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from tpu.plan.chips import parse_topology

HOST = 4
"""Chips of a host; a slice of one chip is a host of one."""
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""The slices of v5e and v6e."""
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""The slices of v4 and v5p that are smaller than a cube; larger ones are of whole cubes of 4x4x4."""
MOST = {"v4": 4096, "v5p": 6144}
"""Chips of the largest slices: a whole pod of v4 (cloud.google.com/tpu/docs/v4), 96 cubes of v5p (the same, v5p)."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    accelerator: str
    """Node label cloud.google.com/gke-tpu-accelerator."""
    machine: str
    """Machine type of the node pool, up to the chips of a host."""
    xpk: str
    """--tpu-type, up to the number."""
    cores: int
    """What XPK counts for a chip."""


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "v4": _Kind("tpu-v4-podslice", "ct4p-hightpu", "v4", 2),
        "v5e": _Kind("tpu-v5-lite-podslice", "ct5lp-hightpu", "v5litepod", 1),
        "v5p": _Kind("tpu-v5p-slice", "ct5p-hightpu", "v5p", 2),
        "v6e": _Kind("tpu-v6e-slice", "ct6e-standard", "v6e", 1),
    }
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """The machines of one TPU slice."""

    name: str
    """As it was asked for: "v5p:4x4x2"."""
    hosts: int
    chips: int
    """Of a host."""
    accelerator: str
    """Node label cloud.google.com/gke-tpu-accelerator."""
    topology: str
    """Node label cloud.google.com/gke-tpu-topology; sizes in GKE's order."""
    machine: str
    """Machine type of the node pool."""
    xpk: str
    """--tpu-type of XPK; v4 and v5p count cores, two to a chip."""


def slice_of(text: str) -> Slice:
    """`"v5e:4x4"` -> 4 hosts of 4 chips.

    Raises: ValueError or UnknownName for what is no topology, or one that is not offered.
    """
    topology = parse_topology(text)
    kind = KINDS[topology.kind]
    label = "x".join(map(str, sorted(topology.shape)))
    if len(topology.shape) == 2:
        allowed, made = label in FLAT, ", ".join(FLAT)
    else:
        label = "2x2x1" if label == "1x2x2" else label
        most = MOST[topology.kind]
        allowed = label in SMALL or (all(n % 4 == 0 for n in topology.shape) and topology.size <= most)
        made = f"{', '.join(SMALL)}, and larger ones whose sizes are multiples of 4, of {most} chips at most"
    if not allowed:
        raise ValueError(f"topology {text} is not offered; slices of {topology.kind} are {made}")
    chips = math.prod(topology.shape)
    a_host = min(chips, HOST)
    machine, xpk = f"{kind.machine}-{a_host}t", f"{kind.xpk}-{chips * kind.cores}"
    return Slice(text, chips // a_host, a_host, kind.accelerator, label, machine, xpk)
