"""Boundary checks: which argument, what it was, what is allowed.

Shapes are always known and always checked. Values are checked on concrete arrays only: under `jit`, `vmap` or `grad`
an argument is a tracer, the check returns at once, and nothing of it is compiled.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


class UnknownName(KeyError, ValueError):
    """A name that is not in a closed list; the message suggests the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_concrete(*values: Any) -> bool:
    """True if no leaf of `values` is a tracer."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(values))


def _numbers(value: Any) -> np.ndarray:
    """A float64 copy on the host: bfloat16 and integers included."""
    return np.asarray(value, dtype=np.float64)


def _tolerance(value: Any) -> float:
    """How far from 1 a sum of probabilities may be, by the precision the caller used."""
    dtype = np.dtype(getattr(value, "dtype", np.float64))
    if dtype.itemsize >= 8:
        return 1e-6
    return 1e-3 if dtype.itemsize >= 4 else 5e-2


def _where(bad: np.ndarray) -> str:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"at index {index}" if index else "(the only entry)"


def not_nan(name: str, value: Any, *, forbid_inf: bool = False) -> None:
    """No NaN; with `forbid_inf` no infinities either."""
    if value is None or not is_concrete(value):
        return
    numbers = _numbers(value)
    bad = ~np.isfinite(numbers) if forbid_inf else np.isnan(numbers)
    if bad.any():
        allowed = "finite numbers" if forbid_inf else "numbers"
        raise ValueError(f"{name} holds {numbers[bad][0]} {_where(bad)}; allowed are {allowed}")


def positive(name: str, value: Any) -> None:
    """A temperature or a step: > 0 and finite."""
    if not is_concrete(value):
        return
    numbers = _numbers(value)
    bad = ~((numbers > 0) & np.isfinite(numbers))
    if bad.any():
        raise ValueError(f"{name} must be a finite number > 0, got {numbers[bad].flat[0]:g}")


def between(name: str, value: Any, low: float, high: float, *, open_high: bool = False) -> None:
    """A number in [low, high], or [low, high) with `open_high`."""
    if not is_concrete(value):
        return
    numbers = _numbers(value)
    bad = ~((numbers >= low) & ((numbers < high) if open_high else (numbers <= high)))
    if bad.any():
        end = ")" if open_high else "]"
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}{end}, got {numbers[bad].flat[0]:g}")


def whole(name: str, value: Any, at_least: int = 1) -> int:
    """A Python or NumPy integer >= `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value}")
    return int(value)


def probabilities(name: str, value: Any) -> None:
    """Entries in [0, 1]."""
    if value is None or not is_concrete(value):
        return
    not_nan(name, value)
    numbers = _numbers(value)
    slack = _tolerance(value)
    bad = (numbers < -slack) | (numbers > 1 + slack)
    if bad.any():
        raise ValueError(f"{name} must hold probabilities in [0, 1], got {numbers[bad][0]:g} {_where(bad)}")


def log_policy(name: str, value: Any) -> None:
    """Log-probabilities that normalise over the last axis; -inf (zero mass) is allowed."""
    if value is None:
        return
    if np.ndim(value) == 0:
        raise ValueError(f"{name} must have at least one axis (the responses), got a scalar")
    if np.shape(value)[-1] == 0:
        raise ValueError(f"{name} must have at least one response on its last axis, got shape {np.shape(value)}")
    if not is_concrete(value):
        return
    not_nan(name, value)
    with np.errstate(over="ignore"):
        total = np.exp(_numbers(value)).sum(-1)
    bad = ~(np.abs(total - 1) <= _tolerance(value))
    if bad.any():
        raise ValueError(
            f"{name} must be normalised log-probabilities over its last axis: exp sums to {total[bad].flat[0]:.6g}"
            f"{' ' + _where(bad) if total.ndim else ''}, not 1 (apply jax.nn.log_softmax to logits; take the log of "
            f"probabilities)"
        )


def preference_matrix(name: str, value: Any) -> None:
    """P[..., i, j] = P(i beats j): entries in [0, 1] and P + P^T = 1, so 1/2 on the diagonal."""
    shape = np.shape(value)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"{name} must be square on its last two axes, got shape {shape}")
    if not is_concrete(value):
        return
    probabilities(name, value)
    numbers = _numbers(value)
    excess = np.abs(numbers + np.swapaxes(numbers, -1, -2) - 1)
    bad = excess > _tolerance(value)
    if bad.any():
        *batch, i, j = (int(k) for k in np.unravel_index(np.argmax(excess), excess.shape))
        p, q = numbers[(*batch, i, j)], numbers[(*batch, j, i)]
        raise ValueError(
            f"{name} must satisfy P + P^T = 1: at {(*batch, i, j)} P[i, j] = {p:g} and P[j, i] = {q:g} sum to {p + q:g}"
        )


def same_last_axis(arrays: Mapping[str, Any], size: int | None = None, axes: int = 1) -> None:
    """All given arrays share the size of their last `axes` axes; `None` entries are skipped."""
    first: str | None = None
    for name, value in arrays.items():
        if value is None:
            continue
        shape = np.shape(value)
        if len(shape) < axes:
            raise ValueError(f"{name} must have at least {axes} axes, got shape {shape}")
        if size is None:
            first, size = name, shape[-1]
        if any(n != size for n in shape[len(shape) - axes :]):
            against = f"that of {first}, {size}" if first else str(size)
            raise ValueError(f"the last axis of {name} must be {against}, got shape {shape}")


def broadcastable(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The common leading shape, or an error that names every shape."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"leading (batch) axes do not broadcast: {listed}") from None


def covers(reference_name: str, reference: Any, name: str, value: Any) -> None:
    """Absolute continuity: `reference` has mass wherever `value` has some (both log-probabilities)."""
    if reference is None or value is None or not is_concrete(reference, value):
        return
    hole = np.isneginf(_numbers(reference)) & ~np.isneginf(_numbers(value))
    if hole.any():
        raise ValueError(
            f"{reference_name} has zero mass {_where(hole)}, where {name} has some; "
            f"allowed is mass of {name} only where {reference_name} has some"
        )


def nonempty_mask(name: str, mask: Any) -> None:
    """0/1 entries, and at least one 1 in every row of the last axis."""
    if mask is None or not is_concrete(mask):
        return
    numbers = _numbers(mask)
    odd = ~np.isin(numbers, (0.0, 1.0))
    if odd.any():
        raise ValueError(f"{name} must hold 0 and 1 (or booleans), got {numbers[odd][0]:g} {_where(odd)}")
    empty = ~(numbers != 0).any(-1)
    if empty.any():
        raise ValueError(f"{name} has an empty row {_where(empty)}; allowed are rows with at least one 1")


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, if any is close; one of the same letters comes first."""
    plain = name.replace("-", "_")
    found = difflib.get_close_matches(plain, list(options), n=5, cutoff=0.5)
    return min(found, key=lambda option: sorted(option) != sorted(plain), default=None)


def member(kind: str, name: Any, options: Iterable[str]) -> str:
    """`name` if it is one of `options` ('nash-md' and 'nash_md' are the same), else `UnknownName`."""
    listed = sorted(options)
    if isinstance(name, str):
        plain = {option.replace("-", "_"): option for option in listed}
        if name.replace("-", "_") in plain:
            return plain[name.replace("-", "_")]
    near = nearest(str(name), listed)
    hint = f"did you mean {near!r}? " if near else ""
    raise UnknownName(f"unknown {kind} {name!r}; {hint}known: {', '.join(listed)}")
