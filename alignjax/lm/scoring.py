r"""Log-probabilities of given tokens: the bridge from a language model to the objectives.

`Samples.from_tokens(token_logps(...), ...)` is all that an objective needs of a language model. Any
`model.LanguageModel` is scored; its softcap is honoured.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks
from alignjax.lm import fused
from alignjax.lm.model import LanguageModel, Params

ArrayLike = jax.typing.ArrayLike


def _checked(
    config: LanguageModel, tokens: ArrayLike, attention_mask: ArrayLike | None
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
    _in_vocabulary("tokens", config, tokens, keep)
    return tokens.reshape(-1, shape[-1]), keep.reshape(-1, shape[-1])


def _in_vocabulary(name: str, config: LanguageModel, ids: Array, keep: Array) -> None:
    if not checks.is_concrete(ids, keep):
        return
    seen = np.asarray(ids)[np.asarray(keep)]
    if seen.size and not (seen.min() >= 0 and seen.max() < config.vocab_size):
        raise ValueError(
            f"{name} must lie in [0, vocab_size = {config.vocab_size}), got values in [{seen.min()}, {seen.max()}]"
        )


def _mask(name: str, mask: ArrayLike | None, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    if mask is None:
        return jnp.ones(shape, bool)
    if np.shape(mask) != shape:
        raise ValueError(f"{name} must have the shape {shape} of tokens, got {np.shape(mask)}")
    return jnp.asarray(mask) != 0


@functools.partial(jax.jit, static_argnames="config")
def _logits(config: LanguageModel, params: Params, tokens: Array, keep: Array) -> Array:
    return fused.project(config.hidden(params, tokens, keep), config.unembedding(params), config.logit_softcap)


def logits(
    config: LanguageModel, params: Params, tokens: ArrayLike, attention_mask: ArrayLike | None = None
) -> Float[Array, "*batch T V"]:
    r"""Logits of the token AFTER each position, softcap included, in at least float32: `[B, T] -> [B, T, V]`.

    `attention_mask` `[B, T]`: 0 where a position is padding, which may hold anything and has no influence (what is
    returned there has no meaning). Leading axes are free. `token_logps` does without the axis V.
    """
    shape = np.shape(tokens)
    return _logits(config, params, *_checked(config, tokens, attention_mask)).reshape(*shape, config.vocab_size)


@functools.partial(jax.jit, static_argnames=("config", "chunk", "with_entropy"))
def _scored(
    config: LanguageModel,
    policies: Sequence[Params],
    tokens: Int[Array, "B T"],
    trained: Bool[Array, "B T"],
    keep: Bool[Array, "B T"],
    others: Int[Array, "B T S"] | None,
    chunk: int | None,
    with_entropy: bool = False,
) -> list[tuple[Float[Array, "B T S+1"], Float[Array, "B T"] | None]]:
    """Of every policy: log-probs of the tokens and of the other targets, and the entropy. 0 where nothing counts."""
    order = jnp.argsort(~keep, axis=-1, stable=True)  # padding to the right, where causality hides it
    pack = lambda x: jnp.take_along_axis(x, order if x.ndim == 2 else order[..., None], 1)
    place = jnp.argsort(order, axis=-1)
    ahead = lambda x: jnp.roll(x, -1, 1)  # what is predicted from a state; from the last one nothing that counts
    first = jnp.arange(tokens.shape[1]) == 0
    packed, kept, counts = pack(tokens), pack(keep), ahead(pack(trained & keep) & ~first)
    targets = ahead(packed)[..., None]
    if others is not None:
        targets = jnp.concatenate([targets, ahead(pack(others)).astype(targets.dtype)], -1)

    def back(x: Array) -> Array:
        x = jnp.roll(x, 1, 1)
        return jnp.take_along_axis(x, place if x.ndim == 2 else place[..., None], 1)

    def one(params: Params) -> tuple[Array, Array | None]:
        # A model that can do without moving its states says so (see `decoder.hidden_packed`).
        states = getattr(config, "hidden_packed", config.hidden)(params, packed, kept)
        score = functools.partial(
            fused.target_logps, states, config.unembedding(params), targets, mask=counts,
            softcap=config.logit_softcap, chunk=chunk,
        )  # fmt: skip
        if not with_entropy:
            return back(score()), None
        logp, entropy = score(with_entropy=True)
        return back(logp), back(entropy)

    return [one(params) for params in policies]


def token_logps(
    config: LanguageModel,
    params: Params,
    tokens: ArrayLike,
    loss_mask: ArrayLike,
    attention_mask: ArrayLike | None = None,
    *,
    chunk: int | None = None,
) -> Float[Array, "*batch T"]:
    r"""log p(token t | tokens before t) at position t, nats, in at least float32: `[B, T] -> [B, T]`.

    It is 0, with zero gradient, where `loss_mask` `[B, T]` is 0, at the first token (nothing comes before it) and at
    padding. `attention_mask` as in `logits`. Leading axes are free. `[B, T, V]` never exists: logits are made `chunk`
    positions at a time (by default so many that memory does not grow with V), and again in the backward pass.

    Raises: ValueError, naming the argument, on shapes that do not fit and on tokens outside the vocabulary.
    """
    return token_logps_each(config, (params,), tokens, loss_mask, attention_mask, chunk=chunk)[0]


def token_logps_each(
    config: LanguageModel,
    policies: Sequence[Params],
    tokens: ArrayLike,
    loss_mask: ArrayLike,
    attention_mask: ArrayLike | None = None,
    *,
    chunk: int | None = None,
) -> list[Float[Array, "*batch T"]]:
    """`token_logps` of several policies on one batch, in one program that checks and masks it once."""
    shape = np.shape(tokens)
    tokens, keep = _checked(config, tokens, attention_mask)
    trained = _mask("loss_mask", loss_mask, shape).reshape(keep.shape)
    found = _scored(config, tuple(policies), tokens, trained, keep, None, _chunk(chunk))
    return [logp.reshape(shape) for logp, _ in found]


class TokenStatistics(NamedTuple):
    """What one pass tells of every token; 0 with zero gradient where `token_logps` is."""

    logp: Float[Array, "*batch T"]
    """log p(token t | tokens before t), nats."""
    entropy: Float[Array, "*batch T"]
    """Of the law of token t given those before it, nats."""
    target_logp: Float[Array, "*batch T S"] | None
    """log p(targets[t, s] | tokens before t), nats; None without targets."""


def token_statistics(
    config: LanguageModel,
    params: Params,
    tokens: ArrayLike,
    loss_mask: ArrayLike,
    attention_mask: ArrayLike | None = None,
    *,
    targets: ArrayLike | None = None,
    chunk: int | None = None,
) -> TokenStatistics:
    r"""`token_logps` with the entropy of every token's law and the log-probs of other tokens in its place.

    `targets` `[B, T, S]`: S tokens that might stand at position t, for methods that distil another model. Everything is
    differentiable and comes from one pass over the logits.

    Raises: ValueError, naming the argument, on shapes that do not fit and on tokens outside the vocabulary.
    """
    shape = np.shape(tokens)
    tokens, keep = _checked(config, tokens, attention_mask)
    trained = _mask("loss_mask", loss_mask, shape)
    others = None
    if targets is not None:
        others = jnp.asarray(targets)
        if others.shape[:-1] != shape or not jnp.issubdtype(others.dtype, jnp.integer):
            raise ValueError(f"targets must be integers of shape {(*shape, 'S')}, got {others.dtype} {others.shape}")
        _in_vocabulary("targets", config, others, trained & keep.reshape(shape))
        others = others.reshape(*keep.shape, -1)
    trained = trained.reshape(keep.shape)
    ((logp, entropy),) = _scored(config, (params,), tokens, trained, keep, others, _chunk(chunk), with_entropy=True)
    assert entropy is not None
    other = None if targets is None else logp[..., 1:].reshape(np.shape(targets))
    return TokenStatistics(logp[..., 0].reshape(shape), entropy.reshape(shape), other)


def _chunk(chunk: int | None) -> int | None:
    return None if chunk is None else checks.whole("chunk", chunk)
