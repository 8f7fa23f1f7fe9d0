"""The decoder: extending a cache is the same as reading the whole row; padding, windows, options; against NumPy."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import lm
from alignjax.lm import decoder
from alignjax.lm.rope import Rope

T, V = 11, 13
GEMMA = lm.DecoderConfig(
    vocab_size=V, d_model=16, d_mlp=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, max_length=32,
    window=3, local_layers=(True, False, True), local_rope=Rope(base=100.0), rope=Rope(kind="linear", factor=4.0),
    activation="gelu_tanh", qkv_bias=True, qk_norm=True, post_norms=True, norm_offset=1.0, scaled_embedding=True,
    query_scale=9.0, attention_softcap=2.0,
)  # fmt: skip
"""All that a Gemma has, with a window of three tokens, and more."""
MISTRAL = lm.DecoderConfig(
    vocab_size=V, d_model=16, d_mlp=24, num_layers=2, num_heads=2, num_kv_heads=1, max_length=32, window=4, tied=False
)
hidden = jax.jit(decoder.hidden, static_argnums=0)
extend = jax.jit(decoder.extend, static_argnums=0)


@functools.cache
def params_of(config: lm.DecoderConfig) -> Any:
    """Random, so that nothing is where it starts: norms and biases too."""
    shapes = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.4, x.dtype), shapes)


@functools.cache
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Four rows: whole, padded on the left, on the right, and on both sides with a hole."""
    tokens = np.random.default_rng(1).integers(0, V, (4, T))
    keep = np.ones((4, T), bool)
    keep[1, :4] = keep[2, -4:] = keep[3, :2] = keep[3, -2:] = keep[3, 5] = False
    return tokens, keep


def alone(config: lm.DecoderConfig, tokens: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Each row without its padding, at its places; zeros elsewhere."""
    out = np.zeros((*tokens.shape, config.d_model), np.float32)
    for b in range(len(tokens)):
        row = tokens[b, keep[b]][None]
        out[b, keep[b]] = hidden(config, params_of(config), row, np.ones_like(row, bool))[0]
    return out


@pytest.mark.parametrize("config", [MISTRAL, pytest.param(GEMMA, marks=pytest.mark.slow)], ids=["mistral", "gemma"])
def test_padding_anywhere_moves_nothing(config: lm.DecoderConfig) -> None:
    tokens, keep = rows()
    wanted = alone(config, tokens, keep)
    got = hidden(config, params_of(config), np.where(keep, tokens, -7), keep)
    np.testing.assert_allclose(np.where(keep[..., None], got, 0), wanted, atol=2e-5)


@pytest.mark.parametrize("config", [MISTRAL, pytest.param(GEMMA, marks=pytest.mark.slow)], ids=["mistral", "gemma"])
@pytest.mark.parametrize("prompt", [1, 6])
def test_extending_is_hidden(config: lm.DecoderConfig, prompt: int) -> None:
    """A prompt at once, then token by token, in a cache with room to spare."""
    tokens, keep = rows()
    params, cache = params_of(config), lm.decoder.empty_cache(config, 4, T + 3)
    states = []
    for at in [slice(0, prompt)] + [slice(t, t + 1) for t in range(prompt, T)]:
        state, cache = extend(config, params, tokens[:, at], keep[:, at], cache)
        states.append(state)
    assert int(cache.length) == T
    assert cache.keys.shape == (config.num_layers, 4, T + 3, config.kv_heads, config.head_size)
    np.testing.assert_array_equal(cache.keep, np.pad(keep, [(0, 0), (0, 3)]))
    got = np.where(keep[..., None], np.concatenate(states, 1), 0)
    wanted = hidden(config, params, tokens, keep)
    np.testing.assert_allclose(got, np.where(keep[..., None], wanted, 0), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3.2-1b", 1_235_814_400),
        ("mistral-7b", 7_241_732_096),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen3-8b", 8_190_735_360),
        ("gemma-2b", 2_506_172_416),
        ("gemma2-9b", 9_241_705_984),
        ("gemma2-2b", 2_614_341_888),
        ("gemma3-1b", 999_885_952),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, count: int) -> None:
    """As the model pages have it."""
    shapes = jax.eval_shape(lambda: lm.init(lm.preset(name), jax.random.key(0)))
    assert sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(shapes)) == count
