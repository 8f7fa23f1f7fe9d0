"""Floating-point operations: of a training step, and the most that a device makes in a second."""

from collections.abc import Iterable
from typing import Any

FORWARD, BACKWARD = 1, 2
"""Passes over the parameters, of 2 operations for each of them and a token."""
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


def per_token(parameters: int, others: int = 0, adapters: int = 0) -> float:
    r"""What the mathematics of a step needs for a token: 6 N for the policy, forwards and backwards, and 2 N for the
    forward pass of every other model that the step runs.

    `parameters`: N, all of the decoder's, as is the custom; a table that is only looked up is among them. `others`: how
    many models. `adapters`: the parameters n of adapters that alone are trained: then 4 N + 6 n for the policy, as what
    is frozen needs no gradient of its own. Attention's products and recomputations are left out.
    """
    own = FORWARD + BACKWARD - (1 if adapters else 0)
    return 2.0 * ((own + FORWARD * others) * parameters + (FORWARD + BACKWARD) * adapters)
