"""Learning rates over a run, and the optimiser: names and numbers to optax."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from alignjax import checks

SCHEDULES: Mapping[str, str] = {
    "constant": "lr after the warm-up",
    "cosine": "half a cosine from lr down to 0",
    "linear": "a line from lr down to 0",
    "wsd": "lr, and a line down to 0 over the last tenth (warm-up, stable, decay)",
}
OPTIMISERS: Mapping[str, str] = {
    "adamw": "Adam with decoupled weight decay",
    "adam": "Adam; no weight decay",
    "adafactor": "factored second moments: memory of rows and columns",
    "sgd": "gradient descent without momentum",
    "lion": "the sign of an interpolated momentum: half of Adam's memory",
}
WSD_DECAY = 0.1
"""The share of the updates over which `wsd` decays."""


def make_schedule(name: str, learning_rate: float, steps: int, warmup: int = 0) -> optax.Schedule:
    r"""update t = 0, 1, ... -> its learning rate; over the first `warmup` updates it is lr (t + 1) / warmup.

    A decay ends after `steps` updates: the first update that would have the rate 0 is the one that is not made.
    Raises: UnknownName; ValueError if the warm-up is longer than the run.
    """
    name = checks.member("schedule", name, SCHEDULES)
    if warmup > steps:
        raise ValueError(f"warmup = {warmup} is more than the {steps} updates there are")
    rest = max(steps - warmup, 1)
    if name == "constant":
        after = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, rest)
    elif name == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, rest)
    else:
        decay = max(round(WSD_DECAY * steps), 1)
        stable = max(rest - decay, 0)
        falling = optax.linear_schedule(learning_rate, 0.0, rest - stable)
        after = optax.join_schedules([optax.constant_schedule(learning_rate), falling], [stable])
    if not warmup:
        return after
    # From lr / warmup in the first update to lr in the last of the warm-up.
    rising = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rising, after], [warmup])


def _decayed(params: Any) -> Any:
    """Which parameters weight decay applies to: all but norms' scales and biases, told by the last name of the path."""

    def one(path: tuple[Any, ...], leaf: Any) -> bool:
        last = jax.tree_util.keystr(path[-1:], simple=True)
        return last != "scale" and not last.endswith("bias")

    return jax.tree_util.tree_map_with_path(one, params)


def make_optimiser(
    name: str, schedule: optax.Schedule, *, weight_decay: float = 0.0, clip: float | None = 1.0
) -> optax.GradientTransformation:
    """The optimiser of that name; gradients are first scaled down to the global norm `clip`, None for no such limit.

    An update takes learning rate x `weight_decay` of a weight away. Adafactor's learning rate is absolute, as Adam's
    is: not relative to the size of each parameter.

    Raises: UnknownName; ValueError for a weight decay with an optimiser that has none.
    """
    name = checks.member("optimiser", name, OPTIMISERS)
    if weight_decay and name in ("adam", "sgd"):
        raise ValueError(f"{name} has no weight decay, got weight_decay = {weight_decay:g}; adamw has one")
    if name == "adamw":
        made = optax.adamw(schedule, weight_decay=weight_decay, mask=_decayed)
    elif name == "adam":
        made = optax.adam(schedule)
    elif name == "adafactor":
        rate = weight_decay or None  # optax decays after the learning rate, which would then not scale it
        direction = optax.adafactor(
            multiply_by_parameter_scale=False, weight_decay_rate=rate, weight_decay_mask=_decayed if rate else None
        )
        made = optax.chain(direction, optax.scale_by_learning_rate(schedule, flip_sign=False))
    elif name == "sgd":
        made = optax.sgd(schedule)
    else:
        made = optax.lion(schedule, weight_decay=weight_decay, mask=_decayed)
    return made if clip is None else optax.chain(optax.clip_by_global_norm(clip), made)
