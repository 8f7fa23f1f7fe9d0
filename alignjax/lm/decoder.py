"""The decoder: tokens to hidden states. Axes: B sequences, T positions, D model, N heads, H head, V vocabulary.

Every parameter is declared with the logical names of its axes; `logical_axes` reads them as data, and who shards maps
them to a mesh. Log-probabilities are made in `scoring`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from alignjax.lm.config import DecoderConfig
from alignjax.logspace import as_float

Params = Mapping[str, Any]
Init = Callable[..., Array]


def _normal(fan_in: int) -> Init:
    return nn.initializers.normal(fan_in**-0.5)


def _param(module: nn.Module, name: str, init: Init, shape: tuple[int, ...], axes: tuple[str, ...]) -> Array:
    """A parameter with named axes, in the dtype of the computation."""
    config: DecoderConfig = module.config
    value: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.dtype(config.param_dtype))
    return value.astype(config.compute_dtype)


class RMSNorm(nn.Module):
    r"""x / sqrt(mean x^2 + eps) * scale, in at least float32."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        scale = _param(self, "scale", nn.initializers.ones, (x.shape[-1],), ("embed",))
        wide = as_float(x)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.config.norm_epsilon)
        return normed.astype(x.dtype) * scale


def rotate(x: Float[Array, "B T N H"], positions: Int[Array, "B T"], base: float) -> Float[Array, "B T N H"]:
    """Rotary position embedding (halves convention); scores then depend on differences of positions only."""
    half = x.shape[-1] // 2
    wide = as_float(x)
    angle = positions[..., None, None] * base ** (-jnp.arange(half, dtype=wide.dtype) / half)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = wide[..., :half], wide[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def attend(q: Array, k: Array, v: Array, keep: Bool[Array, "B T"]) -> Float[Array, "B T N H"]:
    """Causal softmax attention over the keys that `keep` lets be seen."""
    seen = keep[:, None, None, :]
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v, mask=seen, is_causal=True)
    # JAX's own takes its softmax in float32 whatever it is given; double precision is for checks, and has to be double.
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / q.shape[-1] ** 0.5
    seen = seen & jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min))
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v)


class Attention(nn.Module):
    """Causal attention; padded keys are seen by nobody."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, positions: Int[Array, "B T"], keep: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        c = self.config
        shape, axes = (c.d_model, c.num_heads, c.head_dim), ("embed", "heads", "head")
        q, k, v = (
            jnp.einsum("BTD,DNH->BTNH", x, _param(self, name, _normal(c.d_model), shape, axes))
            for name in ("query", "key", "value")
        )
        q, k = rotate(q, positions, c.rope_base), rotate(k, positions, c.rope_base)
        mixed = attend(q, k, v, keep)
        out = _param(self, "out", _normal(c.d_model), (c.num_heads, c.head_dim, c.d_model), ("heads", "head", "embed"))
        return jnp.einsum("BTNH,NHD->BTD", mixed, out)


class MLP(nn.Module):
    """SwiGLU: (silu(x gate) * (x up)) down."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        gate = _param(self, "gate", _normal(c.d_model), (c.d_model, c.d_mlp), ("embed", "mlp"))
        up = _param(self, "up", _normal(c.d_model), (c.d_model, c.d_mlp), ("embed", "mlp"))
        down = _param(self, "down", _normal(c.d_mlp), (c.d_mlp, c.d_model), ("mlp", "embed"))
        return (nn.silu(x @ gate) * (x @ up)) @ down


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, positions: Array, keep: Array) -> Float[Array, "B T D"]:
        x = x + Attention(self.config, name="attention")(RMSNorm(self.config, name="norm_1")(x), positions, keep)
        return x + MLP(self.config, name="mlp")(RMSNorm(self.config, name="norm_2")(x))


class Decoder(nn.Module):
    """Embedding, blocks, final norm. The unembedding is a parameter only (`unembedding`): scoring chunks over it."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], keep: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        c = self.config
        shape, axes, init = (c.vocab_size, c.d_model), ("vocab", "embed"), _normal(c.d_model)
        embedding = _param(self, "embedding", init, shape, axes)
        if not c.tied:
            _param(self, "unembedding", init, shape, axes)
        # Positions count attended tokens, so that padding on the left moves nothing.
        positions = jnp.maximum(jnp.cumsum(keep, -1) - 1, 0)
        x = jnp.take(embedding, tokens, axis=0, mode="clip")  # padding may hold any id
        for layer in range(c.num_layers):
            x = Block(c, name=f"layer_{layer}")(x, positions, keep)
        return RMSNorm(c, name="norm")(x)


def hidden(config: DecoderConfig, params: Params, tokens: Array, keep: Array) -> Float[Array, "B T D"]:
    """The state from which the token after each position is predicted."""
    states: Array = Decoder(config).apply({"params": params}, tokens, keep)  # type: ignore[assignment]
    return states


def unembedding(config: DecoderConfig, params: Params) -> Float[Array, "V D"]:
    """The matrix that turns hidden states into logits."""
    return params["embedding" if config.tied else "unembedding"].astype(config.compute_dtype)


def _boxed(config: DecoderConfig, key: Array) -> Params:
    one = jnp.zeros((1, 1), jnp.int32)
    return Decoder(config).init(key, one, one == 0)["params"]


@functools.partial(jax.jit, static_argnames="config")
def _init(config: DecoderConfig, key: Array) -> Params:
    return nn.meta.unbox(_boxed(config, key))


def init(config: DecoderConfig, key: Array) -> Params:
    """Random parameters: a nested dict of arrays."""
    return _init(config, key)


def logical_axes(config: DecoderConfig) -> Mapping[str, Any]:
    """The names of every parameter's axes, as a tree of `PartitionSpec` like that of `init`; nothing is computed."""
    return nn.get_partition_spec(jax.eval_shape(lambda: _boxed(config, jax.random.key(0))))


def is_axes(node: Any) -> bool:
    """Whether a node of `logical_axes` is the names of one parameter."""
    return isinstance(node, PartitionSpec)
