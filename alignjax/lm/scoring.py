r"""Log-probabilities of given tokens: the bridge from a decoder to the objectives.

`Samples.from_tokens(token_logps(...), ...)` is all that an objective needs of a language model.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks
from alignjax.lm.config import DecoderConfig
from alignjax.lm.decoder import Params, hidden, unembedding

ArrayLike = jax.typing.ArrayLike


def _checked(
    config: DecoderConfig, tokens: ArrayLike, attention_mask: ArrayLike | None
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """`tokens` and the attention mask as `[B, T]`, leading axes merged."""
    shape = np.shape(tokens)
    if len(shape) < 2:
        raise ValueError(f"tokens must have the axes [..., B, T], got shape {shape}")
    if not 1 <= shape[-1] <= config.max_length:
        raise ValueError(f"tokens have length {shape[-1]}; the model takes 1 to max_length = {config.max_length}")
    tokens = jnp.asarray(tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers, got {tokens.dtype}")
    keep = _mask("attention_mask", attention_mask, shape)
    if checks.is_concrete(tokens, keep):
        seen = np.asarray(tokens)[np.asarray(keep)]
        if seen.size and not (seen.min() >= 0 and seen.max() < config.vocab_size):
            raise ValueError(
                f"tokens must lie in [0, vocab_size = {config.vocab_size}), got values in [{seen.min()}, {seen.max()}]"
            )
    return tokens.reshape(-1, shape[-1]), keep.reshape(-1, shape[-1])


def _mask(name: str, mask: ArrayLike | None, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    if mask is None:
        return jnp.ones(shape, bool)
    if np.shape(mask) != shape:
        raise ValueError(f"{name} must have the shape {shape} of tokens, got {np.shape(mask)}")
    return jnp.asarray(mask) != 0


def _project(h: Float[Array, "... D"], matrix: Float[Array, "V D"]) -> Float[Array, "... V"]:
    """Logits, accumulated and returned in at least float32."""
    wide = jnp.promote_types(h.dtype, jnp.float32)
    return jnp.einsum("...D,VD->...V", h, matrix, preferred_element_type=wide)


@functools.partial(jax.jit, static_argnames="config")
def _logits(config: DecoderConfig, params: Params, tokens: Array, keep: Array) -> Array:
    return _project(hidden(config, params, tokens, keep), unembedding(config, params))


def logits(
    config: DecoderConfig, params: Params, tokens: ArrayLike, attention_mask: ArrayLike | None = None
) -> Float[Array, "*batch T V"]:
    r"""Logits of the token AFTER each position, in at least float32: `[B, T] -> [B, T, V]`.

    `attention_mask` `[B, T]`: 0 where a position is padding, which may hold anything and has no influence (what is
    returned there has no meaning). Leading axes are free. `token_logps` does without the axis V.
    """
    shape = np.shape(tokens)
    return _logits(config, params, *_checked(config, tokens, attention_mask)).reshape(*shape, config.vocab_size)


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def _token_logps(
    config: DecoderConfig, params: Params, tokens: Array, trained: Array, keep: Array, chunk: int
) -> Array:
    length = tokens.shape[1] - 1
    if length == 0:
        return jnp.zeros(tokens.shape, jnp.promote_types(config.compute_dtype, jnp.float32))
    states = hidden(config, params, tokens, keep)[:, :-1]
    matrix = unembedding(config, params)
    counts = trained[:, 1:] & keep[:, 1:] & keep[:, :-1]
    targets = jnp.where(counts, tokens[:, 1:], 0)

    @jax.checkpoint  # the logits of a chunk are computed again in the backward pass, not kept
    def score(h: Float[Array, "B c D"], target: Int[Array, "B c"]) -> Float[Array, "B c"]:
        z = _project(h, matrix)
        return jnp.take_along_axis(z, target[..., None], -1)[..., 0] - jax.nn.logsumexp(z, -1)

    if length <= chunk:
        scored = score(states, targets)
    else:
        # Chunks of time, not of the batch: a batch that is sharded stays so.
        rest = -length % chunk
        split = lambda x: jnp.moveaxis(
            jnp.pad(x, [(0, 0), (0, rest)] + [(0, 0)] * (x.ndim - 2)).reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0
        )
        scored = jax.lax.map(lambda x: score(*x), (split(states), split(targets)))
        scored = jnp.moveaxis(scored, 0, 1).reshape(tokens.shape[0], -1)[:, :length]
    return jnp.pad(jnp.where(counts, scored, 0.0), [(0, 0), (1, 0)])


def token_logps(
    config: DecoderConfig,
    params: Params,
    tokens: ArrayLike,
    loss_mask: ArrayLike,
    attention_mask: ArrayLike | None = None,
    *,
    chunk: int = 128,
) -> Float[Array, "*batch T"]:
    r"""log p(token t | tokens before t) at position t, in at least float32: `[B, T] -> [B, T]`.

    It is 0, with zero gradient, where `loss_mask` `[B, T]` is 0, at the first token (nothing comes before it) and at
    padding. `attention_mask` as in `logits`. Leading axes are free. `[B, T, V]` never exists: logits are made `chunk`
    positions at a time, and again in the backward pass.
    """
    shape = np.shape(tokens)
    tokens, keep = _checked(config, tokens, attention_mask)
    trained = _mask("loss_mask", loss_mask, shape).reshape(keep.shape)
    return _token_logps(config, params, tokens, trained, keep, checks.whole("chunk", chunk)).reshape(shape)
