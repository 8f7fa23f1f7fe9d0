"""Properties of the numbers: the gradient exists and is right, transformations and precisions agree, extremes
survive.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from theory.auditing import from_torch
from theory.auditing.frozen import freeze
from theory.auditing.report import Property
from theory.auditing.search import differs, plain, smallest
from theory.auditing.subject import POLICY, Subject


def gradient_finite(subject: Subject) -> Property:
    """Search ordinary inputs for a value or gradient that is not finite."""

    def violates(batch: dict[str, Any]) -> bool:
        value, gradient = subject.value_and_grad(batch)
        return not (np.isfinite(value).all() and np.isfinite(gradient).all())

    found = smallest(subject.batches(), violates)
    if found is None:
        return Property("holds")
    value, gradient = subject.value_and_grad(found)
    return Property("fails", None, plain(found, value=value, gradient=gradient), "not finite on an ordinary input")


def gradient_correct(subject: Subject, tolerance: float = 1e-5) -> Property:
    """Autodiff against central differences in float64, along random directions, with stop-gradients held fixed."""
    policy = POLICY[subject.kind]
    step = 1e-5

    def total(x: Array, rest: dict[str, Array]) -> Array:
        return subject.rows({policy: x, **rest}).sum()

    with jax.enable_x64(True):

        @jax.jit
        def slopes(x: Array, direction: Array, rest: dict[str, Array]) -> tuple[Array, Array]:
            kept, frozen = freeze(total, x, rest)
            held = kept(x, rest)
            ahead, behind = (frozen(held, x + sign * step * direction, rest) for sign in (1, -1))
            return (ahead - behind) / (2 * step), (jax.grad(total)(x, rest) * direction).sum()

        def slopes_of_torch(x: Array, direction: Array, rest: dict[str, Array]) -> tuple[Any, Any]:
            ahead, behind = from_torch.frozen(lambda at: total(at, rest), x, x + step * direction, x - step * direction)
            return (ahead - behind) / (2 * step), (jax.grad(total)(x, rest) * direction).sum()

        def violates(batch: dict[str, Any]) -> bool:
            rng = np.random.default_rng(0)
            # Off the grid of quarters, where kinks of a hinge or a clip like to sit.
            x = jnp.asarray(batch[policy] + 0.0137 * rng.standard_normal(batch[policy].shape))
            rest = {name: jnp.asarray(array) for name, array in batch.items() if name != policy}
            direction = jnp.asarray(rng.standard_normal(x.shape))
            if subject.kind in ("token", "token_group"):
                direction = direction * rest["mask"]
            finite, exact = (slopes if subject.framework == "jax" else slopes_of_torch)(x, direction, rest)
            return differs(finite, exact, tolerance)

        found = smallest(subject.batches(lowest=-6.0), violates, examples=30)
    if found is None:
        return Property("holds")
    return Property("fails", None, plain(found), "autodiff and finite differences in float64 disagree")


def jit_consistent(subject: Subject) -> Property:
    """The plain call and the compiled one."""
    compiled = jax.jit(subject.raw)

    def violates(batch: dict[str, Any]) -> bool:
        given = {name: jnp.asarray(array) for name, array in batch.items()}
        return differs(subject.raw(given), compiled(given), 2e-5)

    try:
        found = smallest(subject.batches(), violates, examples=15)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError, TypeError) as error:
        return Property("fails", None, None, f"cannot be compiled: {str(error).splitlines()[0]}")
    return Property("holds") if found is None else Property("fails", None, plain(found), "jit changes the value")


def vmap_consistent(subject: Subject) -> Property:
    """Prompts mapped by vmap, and a loop over them."""

    def violates(batch: dict[str, Any]) -> bool:
        given = {name: jnp.asarray(array) for name, array in batch.items()}
        loop = [
            np.reshape(subject.raw({name: array[i : i + 1] for name, array in given.items()}), -1)[0]
            for i in range(given[POLICY[subject.kind]].shape[0])
        ]
        return differs(subject.rows(given), loop, 2e-5)

    found = smallest(subject.batches(), violates, examples=15)
    return Property("holds") if found is None else Property("fails", None, plain(found), "vmap changes the value")


def dtype_stable(subject: Subject) -> Property:
    """bfloat16 and float32 inputs against float64 on the very same numbers."""

    def violates(batch: dict[str, Any]) -> bool:
        narrow = {name: np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64) for name, array in batch.items()}
        with jax.enable_x64(True):
            value, gradient = subject.value_and_grad(narrow)
        for dtype, tolerance in ((jnp.float32, 1e-4), (jnp.bfloat16, 2e-2)):
            got, slope = subject.value_and_grad({name: jnp.asarray(array, dtype) for name, array in narrow.items()})
            # Results that are themselves bfloat16 are compared to bfloat16's resolution at the size of the inputs.
            if differs(got, value, tolerance) or differs(slope, gradient, tolerance):
                return True
        return False

    found = smallest(subject.batches(lowest=-8.0), violates, examples=25)
    if found is None:
        return Property("holds")
    return Property(
        "fails", None, plain(found), "narrow inputs give another result than float64: compute in float32 inside"
    )


def _extreme_batches(kind: str, k: int) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Inputs no small test meets: log-probs of -1e4, margins of +-1e3 and +-1e4, ties, one token."""
    out = []
    if kind in ("pair", "group"):
        plain_row, reward = np.full((1, k), -2.0), np.linspace(-1.0, 1.0, k)[None]
        cases = {"all at -1e4": np.full((1, k), -1e4), "ties": plain_row}
        for slot in range(k):
            cases[f"response {slot} at -1e4"] = np.where(np.arange(k) == slot, -1e4, plain_row)
        for margin in (1e3, 1e4):
            cases[f"margin of -{margin:g}"] = np.where(np.arange(k) == 0, -margin - 2.0, plain_row)
            cases[f"margin of +{margin:g}"] = np.where(np.arange(k) == 0, plain_row, -margin - 2.0)
        for name, logp in cases.items():
            for where, ref in (("reference apart", plain_row), ("reference equal", logp)):
                batch = {"logp": logp, "ref_logp": ref}
                out.append((f"{name}, {where}", batch if kind == "pair" else {**batch, "reward": reward}))
        if kind == "pair":
            out.append(("reference at -1e4", {"logp": plain_row, "ref_logp": np.asarray([[-1e4, -2.0]])}))
    elif kind == "point":
        for label in (0.0, 1.0):
            for one, other in ((-1e4, -2.0), (-1e4, -1e4), (-2.0, -1e3)):
                batch = {"logp": np.asarray([one]), "ref_logp": np.asarray([other]), "label": np.asarray([label])}
                out.append((f"log-prob {one:g}, reference {other:g}, label {label:g}", batch))
    else:
        shape = (1, 2) if kind == "token" else (1, k, 2)
        for name, value, base in (("one token at -1e4", -1e4, -2.0), ("both at -1e4", -1e4, -1e4)):
            for length in (1, 2):
                token = np.full(shape, -2.0)
                token[..., 0] = value
                reference = np.full(shape, -2.0)
                reference[..., 0] = base
                mask = np.ones(shape) * (np.arange(2) < length)
                tokens: dict[str, Any] = {"token_logp": token, "ref_token_logp": reference, "mask": mask}
                if kind == "token_group":
                    tokens["reward"] = np.linspace(-1.0, 1.0, k)[None]
                out.append((f"{name}, {length} token{'s' * (length > 1)}", tokens))
    return out


def extremes(subject: Subject) -> Property:
    """Finite, and the same in float32 as in float64, where log-probs and margins are extreme."""
    for name, batch in _extreme_batches(subject.kind, subject.num_responses or (2 if subject.kind == "pair" else 3)):
        with jax.enable_x64(True):
            wide: Mapping[str, Any] = {n: np.asarray(a, np.float64) for n, a in batch.items()}
            value, gradient = subject.value_and_grad(wide)
        got, slope = subject.value_and_grad({n: np.asarray(a, np.float32) for n, a in batch.items()})
        numbers = (value, gradient, got, slope)
        if not all(np.isfinite(x).all() for x in numbers):
            explanation = f"not finite at {name}"
        elif differs(got, value, 1e-3) or differs(slope, gradient, 1e-3):
            explanation = f"float32 and float64 disagree at {name}"
        else:
            continue
        return Property("fails", None, plain(batch, value=value, gradient=gradient), explanation)
    return _clamp(subject) or Property("holds")


def _clamp(subject: Subject) -> Property | None:
    """A loss that was clamped: its slope falls at once from its steepest to nothing, on the side of large mistakes."""
    if subject.kind != "pair":
        return None
    margins = -np.geomspace(1.0, 1e4, 240)
    rows = {"logp": np.stack([margins - 2.0, np.full_like(margins, -2.0)], -1), "ref_logp": np.full((240, 2), -2.0)}
    with jax.enable_x64(True):
        value, gradient = subject.value_and_grad(rows)
    slope = np.abs(gradient).max(-1)
    steep = slope > 0.5 * slope.max()
    drops = np.flatnonzero(steep[:-1] & (slope[1:] < 1e-3 * slope.max()))
    if slope.max() < 1e-9 or not drops.size or (slope[drops[0] + 1 :] > 1e-3 * slope.max()).any():
        return None
    at = int(drops[0])
    example = {"margin": margins[at + 1], "value": value[at + 1], "slope_before": slope[at], "slope": slope[at + 1]}
    why = f"the gradient vanishes at margins below {margins[at]:.0f}: something clamps the loss of a large mistake"
    return Property("fails", None, plain(example), why)
