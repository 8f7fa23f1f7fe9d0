"""The decoder: tokens to hidden states. Axes: B sequences, T positions, D model, N heads, H head, V words.

One flax module, scanned over its layers, whose parameters are stacked. Every parameter and the main activations name
their logical axes; who shards maps them to a mesh. Log-probabilities are made in `scoring`.

On a mesh whose rules split `position`, all that is done to each token alone is done where the token lies: norms, MLP,
projections, the stream between layers. Queries stay there too, and see the keys and values of the whole row, which are
gathered (of few heads, in the dtype of the computation).

Padding: `hidden` moves each row's padding to its right, where causality hides it, and moves the states back. So
positions count attended tokens only, whatever side the padding is on, and attention has nothing but the future to mask.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks
from alignjax.lm import attention
from alignjax.lm.config import DecoderConfig
from alignjax.lm.model import Params as Params
from alignjax.lm.rope import rotate, turn
from alignjax.logspace import as_float

Init = Callable[..., Array]
Axes = Mapping[str, int]
"""Logical name -> size, in order."""
ACTIVATION: Mapping[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu2": lambda x: jnp.square(nn.relu(x)),
    "relu6": nn.relu6,
    "leaky_relu": nn.leaky_relu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "hard_silu": nn.hard_silu,
    "linear": lambda x: x,
}


def _normal(fan_in: int) -> Init:
    return nn.initializers.normal(fan_in**-0.5)


def _param(module: nn.Module, name: str, init: Init, axes: Axes) -> Array:
    """A parameter with named axes, in the dtype of the computation."""
    config: DecoderConfig = module.config
    boxed = nn.with_logical_partitioning(init, tuple(axes))
    value: Any = module.param(name, boxed, tuple(axes.values()), jnp.dtype(config.param_dtype))
    return value.astype(config.compute_dtype)


def _linear(module: nn.Module, name: str, x: Array, ins: Axes, outs: Axes, bias: bool = False) -> Array:
    """x W (+ b), over all of `ins`; plus x A B where the collection `lora` has that name (`lora.py`)."""
    count = len(ins)
    kernel = _param(module, name, _normal(int(np.prod(list(ins.values())))), {**ins, **outs})
    y = jnp.tensordot(x, kernel, count)
    if bias:
        y = y + _param(module, f"{name}_bias", nn.initializers.zeros, outs)
    if module.has_variable("lora", name):
        adapter: Any = module.get_variable("lora", name)
        a, b = adapter["a"].astype(x.dtype), adapter["b"].astype(x.dtype)
        y = y + jnp.tensordot(jnp.tensordot(x, a, count), b, 1)
    return y


class Place(NamedTuple):
    """What all layers share: angles, and for a cache what each new token sees of it."""

    cos: Float[Array, "kinds B T half"]
    """`kinds`: plain layers, local ones."""
    sin: Float[Array, "kinds B T half"]
    start: Any = None
    """`[]`: where in the cache the new tokens go."""
    seen: Any = None
    """`[kinds, B, S, T]`: what they see of it."""


class RMSNorm(nn.Module):
    r"""x / sqrt(mean x^2 + eps) * (offset + scale), in at least float32."""

    config: DecoderConfig
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        c = self.config
        init = nn.initializers.constant(1.0 - c.norm_offset)
        scale = as_float(_param(self, "scale", init, {self.axis: x.shape[-1]}))
        wide = as_float(x)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + c.norm_epsilon)
        return (normed * (c.norm_offset + scale)).astype(x.dtype)


class Attention(nn.Module):
    """Rotary attention within a row, or over a cache of keys and values of all layers, which it extends."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, cache: Any, place: Place, layer: Array, local: Array) -> tuple[Array, Any]:
        c = self.config
        kv = {"kv_heads": c.kv_heads, "head": c.head_size}
        q = _linear(self, "query", x, {"embed": c.d_model}, {"heads": c.num_heads, "head": c.head_size}, c.qkv_bias)
        k = _linear(self, "key", x, {"embed": c.d_model}, kv, c.qkv_bias)
        v = _linear(self, "value", x, {"embed": c.d_model}, kv, c.qkv_bias)
        if c.qk_norm:
            q, k = RMSNorm(c, "head", name="query_norm")(q), RMSNorm(c, "head", name="key_norm")(k)
        cos, sin = (place.cos[0], place.sin[0])
        if place.cos.shape[0] > 1:
            cos, sin = jax.tree.map(lambda each: jnp.where(local, each[1], each[0]), (place.cos, place.sin))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q = nn.with_logical_constraint(q, ("prompt", "position", "heads", "head"))
        k, v = (nn.with_logical_constraint(y, ("prompt", "time", "kv_heads", "head")) for y in (k, v))
        scale = (c.query_scale or c.head_size) ** -0.5
        if cache is None:
            mixed = attention.causal(
                q, k, v, scale=scale, softcap=c.attention_softcap, window=c.window if any(c.local) else None,
                local=None if all(c.local) else local, implementation=c.attention,
            )  # fmt: skip
        else:
            at = tuple(jnp.asarray(i, jnp.int32) for i in (layer, 0, 0, place.start, 0))  # x64 would mix widths
            cache = tuple(
                jax.lax.dynamic_update_slice(old, jnp.swapaxes(new, 1, 2)[None].astype(old.dtype), at)
                for old, new in zip(cache, (k, v), strict=True)
            )
            k, v = (jax.lax.dynamic_index_in_dim(each, layer, keepdims=False) for each in cache)
            seen = place.seen[0] if place.seen.shape[0] == 1 else jnp.where(local, place.seen[1], place.seen[0])
            mixed = attention.cached(q, k, v, seen, scale=scale, softcap=c.attention_softcap)
        ins = {"heads": c.num_heads, "head": c.head_size}
        return _linear(self, "out", mixed, ins, {"embed": c.d_model}, c.out_bias), cache


class MLP(nn.Module):
    """(activation(x gate) * (x up)) down."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        d, m = {"embed": c.d_model}, {"mlp": c.d_mlp}
        gate, up = (_linear(self, name, x, d, m, c.mlp_bias) for name in ("gate", "up"))
        inner = nn.with_logical_constraint(ACTIVATION[c.activation](gate) * up, ("prompt", "position", "mlp"))
        return _linear(self, "down", inner, m, d, c.mlp_bias)


class Block(nn.Module):
    """Attention and MLP, each normed before (and after, with `post_norms`) and added to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, carry: Any, layer: Array, local: Array, place: Place) -> tuple[Any, None]:
        c = self.config
        x, cache = carry
        post = (lambda name, y: RMSNorm(c, name=name)(y)) if c.post_norms else (lambda name, y: y)
        x = nn.with_logical_constraint(x, ("prompt", "position", None))
        mixed, cache = Attention(c, name="attention")(RMSNorm(c, name="attention_norm")(x), cache, place, layer, local)
        x = x + post("attention_post_norm", mixed)
        x = x + post("mlp_post_norm", MLP(c, name="mlp")(RMSNorm(c, name="mlp_norm")(x)))
        return (x, cache), None


def _block(config: DecoderConfig) -> Any:
    """The block, rematerialised as the config says, and scanned over stacked parameters."""
    block: Any = Block
    if config.remat != "none":
        kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if config.remat == "dots" else None
        block = nn.remat(Block, policy=kept, prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True},
        in_axes=(0, 0, nn.broadcast),
        length=config.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class Decoder(nn.Module):
    """Embedding, blocks, final norm. The unembedding is a parameter only (`unembedding`): scoring chunks over it."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], place: Place, cache: Any = None) -> tuple[Array, Any]:
        c = self.config
        axes, init = {"vocab": c.vocab_size, "embed": c.d_model}, _normal(c.d_model)
        embedding = _param(self, "embedding", init, axes)
        if not c.tied:
            _param(self, "unembedding", init, axes)
        x = jnp.take(embedding, tokens, axis=0, mode="clip")  # padding may hold any id
        # Looked up by width, then handed to the prompts' own chips: the gradient of the table is summed where it lies.
        x = nn.with_logical_constraint(x, ("replica", "time", "embed"))
        x = nn.with_logical_constraint(x, ("prompt", "position", None))
        if c.scaled_embedding:
            x = x * jnp.asarray(c.d_model**0.5, x.dtype)
        layers, local = jnp.arange(c.num_layers), jnp.asarray(c.local)
        (x, cache), _ = _block(c)(c, name="layers")((x, cache), layers, local, place)
        return RMSNorm(c, name="norm")(x), cache


def _angles(config: DecoderConfig, positions: Array, lengths: Array) -> tuple[Array, Array]:
    """Cosines and sines of the plain layers, and of the local ones where those differ: `[kinds, B, T, half]` each."""
    kinds = [config.rope] if config.local_rope in (None, config.rope) else [config.rope, config.local_rope]
    wide = jnp.promote_types(config.compute_dtype, jnp.float32)
    pairs = [turn(rope, config.head_size, positions, lengths, wide) for rope in kinds]
    cos, sin = (jnp.stack(jnp.broadcast_arrays(*each)) for each in zip(*pairs, strict=True))
    return cos, sin


def hidden(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    keep: Bool[Array, "B T"],
    lora: Params | None = None,
) -> Float[Array, "B T D"]:
    """The state from which the token after each position is predicted; at padding it has no meaning."""
    order = jnp.argsort(~keep, axis=-1, stable=True)
    packed, kept = (jnp.take_along_axis(x, order, -1) for x in (tokens, keep))
    states = hidden_packed(config, params, packed, kept, lora)
    return jnp.take_along_axis(states, jnp.argsort(order, axis=-1)[..., None], 1)


def hidden_packed(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    keep: Bool[Array, "B T"],
    lora: Params | None = None,
) -> Float[Array, "B T D"]:
    """`hidden` of rows whose padding is on the right: no state moves, each stays on the device of its position."""
    positions = jnp.arange(tokens.shape[1])[None]
    place = Place(*_angles(config, positions, keep.sum(-1)))
    states, _ = Decoder(config).apply(_variables(params, lora), tokens, place)
    return nn.with_logical_constraint(states, ("prompt", "position", None))


def _variables(params: Params, lora: Params | None) -> dict[str, Params]:
    return {"params": params} if not lora else {"params": params, "lora": lora}


def unembedding(config: DecoderConfig, params: Params) -> Float[Array, "V D"]:
    """The matrix that turns hidden states into logits."""
    return params["embedding" if config.tied else "unembedding"].astype(config.compute_dtype)


# --- generation -------------------------------------------------------------------------------------------------------


@functools.partial(jax.tree_util.register_dataclass, data_fields=("keys", "values", "keep", "length"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens so far, in the order they came."""

    keys: Float[Array, "L B K T H"]
    values: Float[Array, "L B K T H"]
    keep: Bool[Array, "B T"]
    """Which slots hold a token that counts: not padding, not empty."""
    length: Int[Array, ""]
    """Slots in use, the same in every row."""


def empty_cache(config: DecoderConfig, batch: int, length: int) -> Cache:
    """Keys and values of no token yet, with room for `length` positions, in the dtype of the computation."""
    shape = (config.num_layers, batch, config.kv_heads, length, config.head_size)
    zeros = jnp.zeros(shape, config.compute_dtype)
    return Cache(zeros, jnp.zeros_like(zeros), jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))


def extend(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B S"],
    keep: Bool[Array, "B S"],
    cache: Cache,
    lora: Params | None = None,
) -> tuple[Float[Array, "B S D"], Cache]:
    """`hidden` of S further tokens after those in the cache, and the cache with them.

    One function for prompts (padded on either side, `keep` 0 there) and for single tokens. A row's positions count its
    own kept tokens, so that rows of different lengths may grow together.
    Raises: ValueError if the cache has no room (where its length is concrete).
    """
    room, new = cache.keep.shape[1], tokens.shape[1]
    used = int(cache.length) if checks.is_concrete(cache.length) else 0
    if used + new > room:
        raise ValueError(f"tokens are {new} more than the {used} in the cache, which has room for {room}")
    keep = keep != 0
    before = cache.keep.sum(-1, keepdims=True)
    own = jnp.maximum(before + jnp.cumsum(keep, -1) - 1, 0)  # [B, S]
    start = cache.length
    kept = jax.lax.dynamic_update_slice(cache.keep, keep, (jnp.zeros_like(start), start))
    past = own[:, :, None] - (jnp.cumsum(kept, -1) - 1)[:, None, :]
    seen = kept[:, None, :] & (past >= 0)
    sights = [seen] if config.window is None or all(config.local) else [seen, seen & (past < config.window)]
    if config.window is not None and all(config.local):
        sights = [seen & (past < config.window)]
    cos, sin = _angles(config, own, before[:, 0] + keep.sum(-1))
    place = Place(cos, sin, start, jnp.stack(sights))
    result: Any = Decoder(config).apply(_variables(params, lora), tokens, place, (cache.keys, cache.values))
    states, (keys, values) = result
    return states, Cache(keys, values, kept, start + new)


# --- parameters -------------------------------------------------------------------------------------------------------


def _boxed(config: DecoderConfig, key: Array) -> Params:
    one = jnp.zeros((1, 1), jnp.int32)
    place = Place(*_angles(config, one, one[0] + 1))
    return Decoder(dataclasses.replace(config, attention="xla")).init(key, one, place)["params"]


@functools.partial(jax.jit, static_argnames="config")
def _init(config: DecoderConfig, key: Array) -> Params:
    return nn.meta.unbox(_boxed(config, key))


def init(config: DecoderConfig, key: Array) -> Params:
    """Random parameters: a nested dict of arrays, those of the layers stacked on a first axis."""
    return _init(config, key)


def logical_axes(config: DecoderConfig) -> Mapping[str, Any]:
    """The names of every parameter's axes, as a tree of `PartitionSpec` like that of `init`; nothing is computed."""
    return nn.get_partition_spec(jax.eval_shape(lambda: _boxed(config, jax.random.key(0))))
