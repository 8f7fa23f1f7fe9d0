r"""Log-probs of targets and entropy from hidden states: unembedding, softcap, softmax and gather in one function.

    z = softcap(h W^T) / temperature,    log p(v) = z_v - logsumexp(z),    H = -sum_v p(v) log p(v)

The logits `[T, V]` never exist. They are made for a few positions at a time, and again in the derivative, so that of
the vocabulary's size only W and its gradient are kept. Chunks are of time, never of the batch; rows, and positions that
are split, stay on their devices. Where a mask is given each row's counted positions go first, and chunks without any
are left out: prompts cost nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks

ArrayLike = jax.typing.ArrayLike

LOGITS_AT_ONCE = 2**26
"""Entries of the largest array of logits: 256 MiB in float32, whatever the vocabulary."""


class _Options(NamedTuple):
    softcap: float | None
    temperature: float
    chunk: int
    entropy: bool
    rows: tuple[str, ...] = ()
    """The mesh axes that the batch is split over,"""
    time: tuple[str, ...] = ()
    """and the positions,"""
    columns: tuple[str, ...] = ()
    """and of these the ones that the gradient of W is scattered over, by its columns D."""


def chunk_length(batch: int, length: int, vocab_size: int) -> int:
    """How many positions at a time: as `LOGITS_AT_ONCE` allows, and where logits are many an eighth of them, so that
    there are chunks to leave out, but not so few that products are slow.
    """
    positions = batch * length
    chunks = max(1, min(8, positions * vocab_size // 2**23, positions // 512))
    return max(1, min(-(-length // chunks), LOGITS_AT_ONCE // (batch * vocab_size or 1)))


def capped(z: Array, softcap: float | None) -> Array:
    """c tanh(z / c), or z without a cap."""
    return z if softcap is None else softcap * jnp.tanh(z / softcap)


def project(
    h: Float[Array, "*batch D"], matrix: Float[Array, "V D"], softcap: float | None = None
) -> Float[Array, "*batch V"]:
    """Logits, accumulated, capped and returned in at least float32."""
    wide = jnp.promote_types(jnp.result_type(h, matrix), jnp.float32)
    return capped(jnp.einsum("...D,VD->...V", h, matrix, preferred_element_type=wide), softcap)


@overload
def target_logps(
    h: ArrayLike, matrix: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None, softcap: float | None = None,
    temperature: float = 1.0, chunk: int | None = None, with_entropy: Literal[False] = False,
) -> Array: ...  # fmt: skip


@overload
def target_logps(
    h: ArrayLike, matrix: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None, softcap: float | None = None,
    temperature: float = 1.0, chunk: int | None = None, with_entropy: Literal[True],
) -> tuple[Array, Array]: ...  # fmt: skip


def target_logps(
    h: ArrayLike,
    matrix: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
    with_entropy: bool = False,
) -> Array | tuple[Array, Array]:
    r"""log p(target) under softmax(softcap(h W^T) / temperature), in nats and at least float32.

    Args:
      h: `[..., T, D]` hidden states; leading axes are batch. A single state `[D]` is fine.
      matrix: `[V, D]`, the unembedding W.
      targets: `[..., T]` token ids, or `[..., T, S]`: S targets of every position for the price of one.
      mask: `[..., T]`. Where it is 0 the results are 0 with exactly zero gradient, whatever h (NaN too) and targets.
      softcap: c in c tanh(z / c); None for none. It is applied before the temperature.
      temperature: > 0, a Python number.
      chunk: positions of time per array of logits `[..., chunk, V]`; by default what `LOGITS_AT_ONCE` allows.
      with_entropy: also the entropy of the whole law at every position, `[..., T]` nats, differentiable.

    Returns: log-probs of the shape of `targets`; with `with_entropy` the pair (log-probs, entropy).

    Reverse-mode derivatives of any order (and forward over reverse) are right; forward mode alone raises TypeError.
    The gradient of `matrix` is accumulated in at least float32.

    Raises: ValueError on shapes that do not fit, on targets outside [0, V) where nothing masks them (concrete arrays
      only), on a softcap or temperature <= 0.
    """
    h, matrix, targets = jnp.asarray(h), jnp.asarray(matrix), jnp.asarray(targets)
    several = targets.ndim == h.ndim
    _check(h, matrix, targets, mask)
    for name, value in (("softcap", softcap), ("temperature", temperature)):
        if value is not None:
            checks.positive(name, value)
    if mask is not None:
        keep = jnp.asarray(mask) != 0
        h = jnp.where(keep[..., None], h, 0)  # before the unsafe operation: 0 * NaN is NaN in a gradient
        targets = jnp.where(keep[..., None] if several else keep, targets, 0)
    shape, lead = targets.shape, h.shape[:-1]
    length = lead[-1] if lead else 1
    batch = int(np.prod(lead[:-1]))
    rows, time, columns, own = _placed(batch, length, h.shape[-1])
    if chunk is None:
        chunk = chunk_length(*own, matrix.shape[0])
    options = _Options(
        softcap and float(softcap), float(temperature), checks.whole("chunk", chunk), with_entropy, rows, time, columns
    )
    logp, entropy = _fused(
        h.reshape(batch, length, h.shape[-1]),
        matrix,
        targets.reshape(batch, length, shape[-1] if several else 1),
        None if mask is None else keep.reshape(batch, length),
        options,
    )
    logp = logp.reshape(shape)
    if mask is not None:
        logp = jnp.where(keep[..., None] if several else keep, logp, 0.0)
    if not with_entropy:
        return logp
    assert entropy is not None
    entropy = entropy.reshape(lead)
    return logp, entropy if mask is None else jnp.where(keep, entropy, 0.0)


def _check(h: Array, matrix: Array, targets: Array, mask: ArrayLike | None) -> None:
    if matrix.ndim != 2 or h.ndim < 1 or h.shape[-1] != matrix.shape[-1]:
        raise ValueError(f"h must be [..., D] and matrix [V, D], got {h.shape} and {matrix.shape}")
    for name, array in (("h", h), ("matrix", matrix)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, got {array.dtype}")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be integers, got {targets.dtype}")
    lead = h.shape[:-1]
    if targets.shape[: len(lead)] != lead or targets.ndim > h.ndim:
        raise ValueError(f"targets must have the axes {lead} of h, and at most one more, got {targets.shape}")
    if mask is not None and np.shape(mask) != lead:
        raise ValueError(f"mask must have the axes {lead} of h, got {np.shape(mask)}")
    if checks.is_concrete(targets, mask):
        ids = np.asarray(targets)
        ids = ids if mask is None else ids[np.asarray(mask) != 0]
        if ids.size and not (ids.min() >= 0 and ids.max() < matrix.shape[0]):
            raise ValueError(
                f"targets must lie in [0, V = {matrix.shape[0]}), got values in [{ids.min()}, {ids.max()}]"
            )


# --- on a mesh --------------------------------------------------------------------------------------------------------


def _placed(batch: int, length: int, width: int) -> tuple[Any, Any, Any, tuple[int, int]]:
    """The mesh axes of rows, positions and columns (see `_Options`) by the mesh and the logical rules in force, where
    they divide; and how many rows and positions each device has.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return (), (), (), (batch, length)

    def axes(name: str, size: int, among: Any = None) -> tuple[tuple[str, ...], int]:
        found = (nn.logical_to_mesh_axes((name,)) or (None,))[0] or ()
        several = (found,) if isinstance(found, str) else found
        split = tuple(a for a in several if mesh.shape.get(a, 1) > 1 and (among is None or a in among))
        ways = math.prod(mesh.shape[a] for a in split)
        return (split, ways) if size % ways == 0 else ((), 1)

    (rows, many), (time, parts) = axes("prompt", batch), axes("position", length)
    return rows, time, axes("embed", width, (*rows, *time))[0], (batch // many, length // parts)


def _on_each_device(score: Callable[..., Any], options: _Options, given: str, gives: str) -> Callable[..., Any]:
    """The function on each device's own rows and positions: W is gathered once and its gradient summed once, not in
    every chunk. What is given and returned, a letter each: t of every token, w the matrix, g its gradient.
    """
    axes = (*options.rows, *options.time)
    if not axes:
        return score
    P = jax.sharding.PartitionSpec
    specs = {"t": P(options.rows or None, options.time or None), "w": P(), "g": P(None, options.columns or None)}
    where = lambda letters: tuple(specs[letter] for letter in letters)
    return jax.shard_map(score, in_specs=where(given), out_specs=where(gives), axis_names=set(axes), check_vma=False)


# --- the function and its derivative: h [B, T, D], targets [B, T, S], keep [B, T] -------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _fused(
    h: Array, matrix: Array, targets: Array, keep: Array | None, options: _Options
) -> tuple[Array, Array | None]:
    return _forward(h, matrix, targets, keep, options)[0]


def _forward(h: Array, matrix: Array, targets: Array, keep: Array | None, options: _Options) -> tuple[Any, Any]:
    score = functools.partial(_forward_here, options=options)
    logp, total, entropy = _on_each_device(score, options, "twtt", "ttt")(h, matrix, targets, keep)
    return (logp, entropy), (h, matrix, targets, keep, total, entropy)


def _forward_here(h: Array, matrix: Array, targets: Array, keep: Array | None, options: _Options) -> Any:
    def some(_: None, x: tuple[Float[Array, "B c D"], Int[Array, "B c S"]]) -> tuple[None, Any]:
        z = project(x[0], matrix, options.softcap) / options.temperature
        total = jax.nn.logsumexp(z, -1, keepdims=True)
        logp = jnp.take_along_axis(z, x[1], -1) - total
        entropy = (jnp.exp(z - total) * (total - z)).sum(-1) if options.entropy else None
        return None, (logp, total, entropy)

    return _over_time(some, None, (h, targets), keep, options.chunk)[1]


def _backward(options: _Options, residuals: Any, cotangents: Any) -> tuple[Array, Array, None, None]:
    matrix = residuals[1]
    score = functools.partial(_backward_here, options=options)
    dh, dmatrix = _on_each_device(score, options, "twtttttt", "tg")(*residuals, *cotangents)
    return dh, dmatrix.astype(matrix.dtype), None, None


def _backward_here(
    h: Array, matrix: Array, targets: Array, keep: Array | None, total: Array, entropy: Array | None, g: Array,
    g_entropy: Array | None, options: _Options,
) -> tuple[Array, Array]:  # fmt: skip
    r"""dz_v = g (1[v = target] - p_v) - g_H p_v (log p_v + H), times the slope of the cap."""
    narrow = jnp.result_type(h, matrix)

    def some(dmatrix: Float[Array, "V D"], x: Any) -> tuple[Array, Array]:
        h, targets, total, entropy, g, g_entropy = x
        z = project(h, matrix, options.softcap)
        logp = z / options.temperature - total
        weight = g.sum(-1, keepdims=True)
        if options.entropy:
            weight = weight + g_entropy[..., None] * (logp + entropy[..., None])
        dz = _add_at(-jnp.exp(logp) * weight, targets, g) / options.temperature
        if options.softcap is not None:
            dz = dz * (1 - jnp.square(z / options.softcap))
        dz = dz.astype(narrow)
        dh = jnp.einsum("BTV,VD->BTD", dz, matrix, preferred_element_type=total.dtype).astype(h.dtype)
        return dmatrix + jnp.einsum("BTV,BTD->VD", dz, h, preferred_element_type=total.dtype), dh

    zero = jnp.zeros(matrix.shape, total.dtype)
    dmatrix, dh = _over_time(some, zero, (h, targets, total, entropy, g, g_entropy), keep, options.chunk)
    # Over the devices too it is summed before it is rounded to the dtype of W.
    others = tuple(a for a in (*options.rows, *options.time) if a not in options.columns)
    if options.columns:  # first: the others, slices among them, are then told a part only
        dmatrix = jax.lax.psum_scatter(dmatrix, options.columns, scatter_dimension=1, tiled=True)
    if others:
        dmatrix = jax.lax.psum(dmatrix, others)
    return dh, dmatrix


_fused.defvjp(_forward, _backward)


@jax.vmap  # not by indices of rows: so that a scatter into a sharded batch is known to be local
@jax.vmap
def _add_at(dz: Float[Array, "V"], targets: Int[Array, "S"], g: Float[Array, "S"]) -> Float[Array, "V"]:
    return dz.at[targets].add(g)


def _over_time(
    step: Callable[..., Any], carry: Any, arrays: Any, keep: Bool[Array, "B T"] | None, chunk: int
) -> tuple[Any, Any]:
    """`scan` of a step over chunks of axis 1; what it returns of them is joined again, 0 where it was left out."""
    length = jax.tree.leaves(arrays)[0].shape[1]
    if length <= chunk:
        return step(carry, arrays)
    rest = -length % chunk  # padding: its cotangents are zero, and its results are cut off

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0), (0, rest)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :length]

    if keep is None:
        carry, out = jax.lax.scan(step, carry, jax.tree.map(split, arrays))
        return carry, jax.tree.map(join, out)

    order = jnp.argsort(~keep, axis=1, stable=True)
    place = lambda x, index: jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), 1)
    longest = keep.sum(1).max()
    nothing = lambda x: jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), jax.eval_shape(step, carry, x)[1])

    def counted(carry: Any, x: Any) -> tuple[Any, Any]:
        start, x = x
        return jax.lax.cond(start < longest, step, lambda carry, x: (carry, nothing(x)), carry, x)

    chunks = jax.tree.map(lambda x: split(place(x, order)), arrays)
    carry, out = jax.lax.scan(counted, carry, (jnp.arange(0, length, chunk), chunks))
    back = jnp.argsort(order, axis=1)
    return carry, jax.tree.map(lambda x: place(join(x), back), out)
