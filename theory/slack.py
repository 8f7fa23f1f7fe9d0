r"""Slacks: numbers that are >= 0 where a statement holds, with the tolerance of float64 arithmetic in them.

`equal` is relative, so that the smallest slack of an identity reads "tolerance minus the worst relative error";
`at_most` is in the units of its arguments, so that the smallest slack of a bound says how tight the bound is.
"""

import contextlib
from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, ScalarLike

EXACT = 1e-9
"""Sums of a few dozen float64 terms, solved linear systems, autodiff."""
LOOSE = 1e-6
"""Eigenvalues of matrices that are not normal, differences that cancel, truncated series."""

Sides = list[tuple[str, Array, Array]]
_recording: list[Sides] = []


@contextlib.contextmanager
def recording() -> Iterator[Sides]:
    """Collects (relation, left, right) of every comparison made inside, for a replay that prints both sides."""
    sides: Sides = []
    _recording.append(sides)
    try:
        yield sides
    finally:
        _recording.remove(sides)


def _note(relation: str, left: Array, right: Array) -> None:
    for sides in _recording:
        sides.append((relation, left, right))


def equal(left: Array | ScalarLike, right: Array | ScalarLike, *, tolerance: ScalarLike = EXACT) -> Array:
    r"""tolerance - |left - right| / (1 + max(|left|, |right|)), the smallest entry;
    equal infinities are equal, NaN is not.
    """
    left, right = jnp.broadcast_arrays(jnp.asarray(left), jnp.asarray(right))
    _note("=", left, right)
    same = (left == right) & ~jnp.isfinite(left)
    a, b = jnp.where(same, 0.0, left), jnp.where(same, 0.0, right)
    error = jnp.abs(a - b) / (1 + jnp.maximum(jnp.abs(a), jnp.abs(b)))
    # One infinity against a number divides inf by inf: that is no equality.
    return jnp.min(tolerance - jnp.where(jnp.isnan(error), jnp.inf, error))


def at_most(left: Array | ScalarLike, right: Array | ScalarLike, *, tolerance: ScalarLike = EXACT) -> Array:
    r"""right - left, plus what rounding may cost, tolerance (1 + min(|left|, |right|)); the smallest entry."""
    left, right = jnp.broadcast_arrays(jnp.asarray(left), jnp.asarray(right))
    _note("<=", left, right)
    room = right - left + tolerance * (1 + jnp.minimum(jnp.abs(left), jnp.abs(right)))
    # Everything is at most +inf, +inf itself included.
    room = jnp.where((right == jnp.inf) & ~jnp.isnan(left), jnp.inf, room)
    return jnp.min(jnp.where(jnp.isnan(room), -jnp.inf, room))


def both(*slacks: Array) -> Array:
    """A conjunction: the smallest of several slacks."""
    return jnp.min(jnp.stack([jnp.asarray(slack) for slack in slacks]))


def pick(flag: ScalarLike, if_true: Array | ScalarLike, otherwise: Array | ScalarLike) -> Array:
    """`if_true` where `flag` is not 0. Flags of mutants are numbers, so that all mutants share one compiled program."""
    return jnp.where(jnp.asarray(flag) != 0, if_true, otherwise)
