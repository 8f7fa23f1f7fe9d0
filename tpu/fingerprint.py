"""A short name for the exact bits of a tree of arrays: the same on every mesh, without gathering anything on a host."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from tpu.global_arrays import fetched


def _words(x: Array) -> UInt32[Array, "..."]:
    """The bits of `x` as uint32, with a last axis of words for types wider than that."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    size = x.dtype.itemsize
    if size >= 4:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint16 if size == 2 else jnp.uint8).astype(jnp.uint32)


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The finaliser of MurmurHash3: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _sums(x: Array) -> UInt32[Array, "2"]:
    """Two sums over the array of a hash of (place, bits), modulo 2^32: no order of summation can change them."""
    words = _words(jnp.asarray(x))
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    one = _mixed(words ^ _mixed(place + jnp.uint32(0x9E3779B9)))
    other = _mixed((words + jnp.uint32(0x7F4A7C15)) ^ _mixed(place ^ jnp.uint32(0x5851F42D)))
    return jnp.stack([one.sum(dtype=jnp.uint32), other.sum(dtype=jnp.uint32)])


@functools.partial(jax.jit)
def _all_sums(leaves: list[Array]) -> list[Array]:
    return [_sums(leaf) for leaf in leaves]


def fingerprint(tree: Any) -> str:
    """16 hexadecimal digits of the names, shapes, dtypes and bits of all leaves. -0.0 and 0.0 differ, as do NaNs."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    sums = fetched(_all_sums([jnp.asarray(leaf) for _, leaf in named]))
    digest = hashlib.sha256()
    for (path, leaf), pair in zip(named, sums, strict=True):
        leaf = jnp.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype} {pair[0]:08x}{pair[1]:08x}\n".encode())
    return digest.hexdigest()[:16]
