"""The devices that a program is compiled for: a TPU slice that is not here, or virtual CPU devices.

JAX describes a slice from libtpu alone, on a machine without a TPU. `make setup-pods` installs it.
"""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tpu.mesh import arranged
from tpu.plan.chips import Topology

MISSING = "compiling for a TPU slice needs libtpu, which is not installed: `make setup-pods`, or pip install 'jax[tpu]'"
_QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
          "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
          "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # fmt: skip
"""No cloud is asked what machine this is, nothing is said about there being no answer (what is compiled for has nothing
to do with it), and several plans may be made at once."""


def has_libtpu() -> bool:
    """Whether libtpu is installed; it is not imported."""
    return importlib.util.find_spec("libtpu") is not None


def need_libtpu() -> None:
    """Raises: LookupError, naming the command that installs it, if it is missing."""
    if not has_libtpu():
        raise LookupError(MISSING)


def slice_mesh(topology: Topology, sizes: Mapping[str, int], slices: int = 1) -> Mesh:
    """A mesh over a TPU slice that need not exist, or over several; `data` is what crosses them.

    Raises: LookupError, naming the command, without libtpu; ValueError if no such slice is made.
    """
    need_libtpu()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as elsewhere
    try:
        there = topologies.get_topology_desc(platform="tpu", topology_name=str(topology), **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology {topology} is not made: {str(error).splitlines()[0]}") from None
    return Mesh(arranged(sizes, there.devices, slices), tuple(sizes))


def cpu_mesh(sizes: Mapping[str, int]) -> Mesh:
    """A mesh over virtual CPU devices, for tests. Raises: ValueError if there are too few."""
    count, devices = int(np.prod(list(sizes.values()))), jax.devices("cpu")
    if count > len(devices):
        raise ValueError(f"the mesh needs {count} devices, but there are {len(devices)}")
    return Mesh(np.asarray(devices[:count], dtype=object).reshape(tuple(sizes.values())), tuple(sizes))


def spans(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """The dimensions of the slice along which a mesh axis ("data+fsdp": several) runs; none for virtual devices."""
    devices: Any = mesh.devices
    if not hasattr(devices.flat[0], "coords"):
        return ()
    coords = np.asarray([device.coords for device in devices.flat]).reshape(*devices.shape, -1)
    over = tuple(i for i, name in enumerate(mesh.axis_names) if name in axis.split("+"))
    first = np.take(coords, [0], axis=over[0])
    for i in over[1:]:
        first = np.take(first, [0], axis=i)
    return tuple(int(d) for d in np.flatnonzero((coords != first).any(tuple(range(coords.ndim - 1)))))
