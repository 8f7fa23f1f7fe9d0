r"""Rotary positions: how fast each pair of a head's dimensions turns, plain or stretched for longer texts.

A pair i of a head of size H turns by angle position * w_i, w_i = base^(-2i/H); the kinds of `Rope` change w.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from alignjax import checks

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """The law of the angles. Raises: ValueError, naming the argument, on a kind that lacks what it needs."""

    base: float = 10_000.0
    kind: str = "default"
    """`default`; `linear`: positions divided by `factor`; `dynamic`: the base grows with the length of the text;
    `llama3`: slow pairs divided by `factor`, fast ones not; `yarn`: likewise, by a ramp, and scores sharpened."""
    factor: float = 1.0
    original_length: int | None = None
    """The length of training before the stretch: all kinds but `default` and `linear` need it."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    """Of `yarn`: cosines and sines are multiplied by it; None: 0.1 ln(factor) + 1, or what the two below give."""
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self) -> None:
        checks.member("rope kind", self.kind, KINDS)
        checks.positive("rope base", self.base)
        checks.positive("rope factor", self.factor)
        if self.kind in ("dynamic", "llama3", "yarn"):
            checks.whole(f"original_length of rope kind {self.kind!r}", self.original_length)
        if self.kind == "llama3" and not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor = {self.low_freq_factor} must be < high_freq_factor = {self.high_freq_factor}"
            )

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _mscale(self.factor, self.mscale) / _mscale(self.factor, self.mscale_all_dim)
        return _mscale(self.factor)


def _mscale(factor: float, by: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def _yarn(rope: Rope, w: np.ndarray, head_dim: int) -> np.ndarray:
    """A ramp over pairs, from those that turn `beta_fast` times over the original length to `beta_slow`."""
    assert rope.original_length is not None

    def pair(turns: float) -> float:
        return head_dim * math.log(rope.original_length / (turns * 2 * math.pi)) / (2 * math.log(rope.base))  # type: ignore[operator]

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low if high != low else 1e-3), 0, 1)
    return w / rope.factor * ramp + w * (1 - ramp)


def _llama3(rope: Rope, w: np.ndarray) -> np.ndarray:
    """Between the two wavelengths, a linear mixture of the stretched and the plain."""
    assert rope.original_length is not None
    turns = rope.original_length * w / (2 * math.pi)
    smooth = np.clip((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1)
    return (1 - smooth) * w / rope.factor + smooth * w


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """w `[H/2]`, in float64. Of `dynamic`: those of a text no longer than the original length."""
    w = rope.base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        return w / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, w)
    return _yarn(rope, w, head_dim) if rope.kind == "yarn" else w


def turn(
    rope: Rope, head_dim: int, positions: Int[Array, "B T"], lengths: Int[Array, "B"], dtype: jnp.dtype
) -> tuple[Float[Array, "B T half"], Float[Array, "B T half"]]:
    """Cosines and sines of the angles at `positions`; `lengths` is how long each text is (`dynamic` asks)."""
    w = jnp.asarray(frequencies(rope, head_dim), dtype)
    if rope.kind == "dynamic":
        assert rope.original_length is not None
        longer = jnp.maximum(lengths, rope.original_length).astype(dtype) / rope.original_length
        stretch = (rope.factor * longer - (rope.factor - 1)) ** (head_dim / (head_dim - 2))
        powers = jnp.arange(0, head_dim, 2, dtype=dtype) / head_dim
        w = w * stretch[:, None, None] ** -powers  # base' = base * stretch
    angle = positions[..., None].astype(dtype) * w
    return jnp.cos(angle) * rope.magnitude, jnp.sin(angle) * rope.magnitude


def rotate(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T half"], sin: Float[Array, "B T half"]
) -> Float[Array, "B T N H"]:
    """The rotation (halves convention, in the dtype of `cos`); scores then depend on differences of positions only."""
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
