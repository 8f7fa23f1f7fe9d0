"""Attention. Axes: B sequences, S queries, T keys, N heads, K heads of keys and values (K divides N), H head.

Two callers: `causal` of whole rows whose padding stands on the right (nothing is masked but the future: the fused
kernels of GPU and TPU take that), and `cached` over a cache.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "flash")
"""`xla`: plain JAX, everywhere. `cudnn`: NVIDIA's, in half precision. `flash`: JAX's Pallas kernel for TPU."""
FLASH_BLOCK = 128


def _cudnn_takes(q: Array) -> bool:
    return q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def _flash_takes(q: Array) -> bool:
    return q.dtype in (jnp.bfloat16, jnp.float32) and q.shape[1] % FLASH_BLOCK == 0


def chosen(asked: str, q: Array, softcap: float | None, window: int | None) -> str:
    """The implementation for these shapes.

    Raises: ValueError if one was asked for by name that cannot take them; `auto` falls back to `xla`.
    """
    whole = softcap is None and q.shape[2] % _heads_ways() == 0
    fits = {
        "xla": True,
        "cudnn": whole and _cudnn_takes(q),
        "flash": whole and _flash_takes(q) and (window is None or window >= q.shape[1]),
    }
    if asked == "auto":
        fast = {"gpu": "cudnn", "tpu": "flash"}.get(jax.default_backend(), "xla")
        return fast if fits[fast] else "xla"
    if not fits[asked]:
        raise ValueError(
            f"attention = {asked!r} cannot take {q.dtype} queries of shape {q.shape} with soft cap {softcap} and "
            f"window {window}; cudnn takes half precision and heads of 8, 16, ..., 128, flash takes a multiple of "
            f"{FLASH_BLOCK} positions and no window shorter than them, neither a soft cap, and on a mesh that splits "
            f"positions both a multiple of {_heads_ways()} heads. 'auto' picks what fits"
        )
    return asked


def masked(
    q: Float[Array, "B S N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    seen: Bool[Array, "#B S T"],
    *,
    scale: float,
    softcap: float | None = None,
) -> Float[Array, "B S N H"]:
    """softmax(softcap tanh(scale q k / softcap)) v over the keys that `seen` shows."""
    if softcap is None and q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], scale=scale)
    # JAX's own knows no soft cap, and takes its softmax in float32 whatever it is given: double has to stay double.
    return cached(q, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), seen, scale=scale, softcap=softcap)


def cached(
    q: Float[Array, "B S N H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    seen: Bool[Array, "#B S T"],
    *,
    scale: float,
    softcap: float | None = None,
) -> Float[Array, "B S N H"]:
    """`masked`, with the heads of keys and values before the time: a product reads them as they lie in the cache.

    With the time first each step would transpose the whole cache, which on a CPU is nearly all of its cost.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    grouped = q.reshape(*q.shape[:2], k.shape[1], -1, q.shape[-1])
    scores = jnp.einsum("BSKGH,BKTH->BKGST", grouped, k, preferred_element_type=wide) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, jnp.finfo(wide).min)).astype(v.dtype)
    return jnp.einsum("BKGST,BKTH->BSKGH", weights, v).reshape(q.shape)


def _mesh_axes(*names: str) -> tuple[tuple[str, ...], ...]:
    """The mesh axes that these logical axes are split over, by the mesh and the logical rules in force."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return ((),) * len(names)
    found = ((nn.logical_to_mesh_axes((name,)) or (None,))[0] or () for name in names)
    axes = ((each,) if isinstance(each, str) else each for each in found)
    return tuple(tuple(a for a in each if mesh.shape.get(a, 1) > 1) for each in axes)


def _heads_ways() -> int:
    """Over how many devices a fused kernel's heads are split where positions are split; else 1."""
    heads, position = _mesh_axes("heads", "position")
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[a] for a in (*heads, *position)) if position else 1


def _on_each_device(kernel: Callable[..., Array]) -> Callable[..., Array]:
    """The kernel on each device's own rows and heads: the compiler cannot split a Pallas call.

    By the mesh (`jax.set_mesh`) and the logical rules (`flax.linen.logical_axis_rules`) in force; the plain kernel
    where there are none. Where positions are split the kernel has whole rows of fewer heads instead (an all-to-all).
    """
    prompt, heads, position = _mesh_axes("prompt", "heads", "position")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return kernel
    split = jax.sharding.PartitionSpec(prompt or None, None, (*heads, *position) or None, None)
    return jax.shard_map(kernel, mesh=mesh, in_specs=(split,) * 3, out_specs=split, check_vma=False)


def _flash(q: Array, k: Array, v: Array, scale: float) -> Array:
    """JAX's Pallas kernel for TPU, which has as many heads of keys as of queries."""
    repeats = q.shape[2] // k.shape[2]
    kernel = _on_each_device(functools.partial(_flash_here, scale=scale))
    return kernel(q, jnp.repeat(k, repeats, 2), jnp.repeat(v, repeats, 2))


def _cudnn(q: Array, k: Array, v: Array, *, scale: float, window: int | None = None) -> Array:
    """NVIDIA's kernel, which JAX itself splits over rows and heads, but not over positions."""
    span = None if window is None else (window - 1, 0)
    kernel: Callable[..., Array] = functools.partial(
        jax.nn.dot_product_attention, is_causal=True, scale=scale, local_window_size=span, implementation="cudnn"
    )
    if _heads_ways() > 1:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], 2) for x in (k, v))
        kernel = _on_each_device(kernel)
    return kernel(q, k, v)


def _flash_here(q: Array, k: Array, v: Array, *, scale: float) -> Array:
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

    block = next(b for b in (512, 256, FLASH_BLOCK) if q.shape[1] % b == 0)
    names = ("q", "k_major", "k", "q_major_dkv", "k_major_dkv", "k_dkv", "q_dkv", "k_major_dq", "k_dq", "q_dq")
    sizes = BlockSizes(block_b=1, **{f"block_{name}": block for name in names})
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q, k, v)]
    return jnp.swapaxes(flash_attention(*heads_first, causal=True, sm_scale=scale, block_sizes=sizes), 1, 2)


def causal(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    local: Bool[Array, ""] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B T N H"]:
    """Each position sees itself and those before it; with `window` the last `window` of them, itself counted.

    `local`: whether the window holds in this layer (None: yes).
    """
    if window is not None and window >= q.shape[1]:
        window = None
    picked = chosen(implementation, q, softcap, window)
    if picked == "xla":
        t = jnp.arange(q.shape[1])
        past = t[:, None] - t
        seen = past >= 0
        if window is not None:
            seen &= (past < window) if local is None else (past < window) | ~local
        return masked(q, k, v, seen[None], scale=scale, softcap=softcap)
    if picked == "flash":
        return _flash(q, k, v, scale)
    fused = functools.partial(_cudnn, scale=scale)
    if window is None:
        return fused(q, k, v)
    windowed = functools.partial(fused, window=window)
    return windowed(q, k, v) if local is None else jax.lax.cond(local, windowed, fused, q, k, v)
