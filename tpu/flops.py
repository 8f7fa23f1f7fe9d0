"""Floating-point operations: of a training step, and the most that a device makes in a second."""

from collections.abc import Iterable
from typing import Any

import jax

PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "GB200": 2250e12,
    "L4": 121e12,
    "L40S": 362e12,
}
"""Dense bfloat16 operations a second by a part of the device's name, as its maker publishes them."""


def peak(devices: Iterable[Any]) -> float | None:
    """Of the devices together; None where one of them is not known (a CPU)."""
    total = 0.0
    for device in devices:
        kind = str(device.device_kind)
        known = [name for name in PEAK if name.lower() in kind.lower()]
        if not known or device.platform == "cpu":
            return None
        total += PEAK[max(known, key=len)]
    return total


def per_token(params: Any, reference: bool) -> float:
    r"""6 N a token for the policy, forwards and backwards, and 2 N more for a reference's forward pass.

    N counts the parameters that multiply a token: all but a table that is only looked up. Attention's own
    products (12 layers length width at most) are left out, as are recomputations, so that this is what the model
    needs and not what the machine did.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tied = not any("unembedding" in jax.tree_util.keystr(path) for path, _ in leaves)
    table = lambda path: jax.tree_util.keystr(path[-1:], simple=True) == "embedding"
    n = sum(leaf.size for path, leaf in leaves if tied or not table(path))
    return (8.0 if reference else 6.0) * n
