"""The decoder: extending a cache is the same as reading the whole row; padding, windows, options; against NumPy."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from alignjax import lm
from alignjax.lm import attention, decoder
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
    keep[1, :4] = keep[2, -4:] = keep[3, :2] = keep[3, -1:] = keep[3, 5] = False
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
@pytest.mark.parametrize("prompt", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_extending_is_hidden(config: lm.DecoderConfig, prompt: int) -> None:
    """A prompt at once, then token by token, in a cache with room to spare."""
    tokens, keep = rows()
    params, cache = params_of(config), lm.decoder.empty_cache(config, 4, T + 3)
    states = []
    for at in [slice(0, prompt)] + [slice(t, t + 1) for t in range(prompt, T)]:
        state, cache = extend(config, params, tokens[:, at], keep[:, at], cache)
        states.append(state)
    assert int(cache.length) == T
    assert cache.keys.shape == (config.num_layers, 4, config.kv_heads, T + 3, config.head_size)
    np.testing.assert_array_equal(cache.keep, np.pad(keep, [(0, 0), (0, 3)]))
    got = np.where(keep[..., None], np.concatenate(states, 1), 0)
    wanted = hidden(config, params, tokens, keep)
    np.testing.assert_allclose(got, np.where(keep[..., None], wanted, 0), atol=2e-5)


def test_a_cache_without_room_is_refused() -> None:
    cache = lm.preset("tiny").empty_cache(2, 3)
    with pytest.raises(ValueError, match="tokens are 4 more than the 0 in the cache, which has room for 3"):
        lm.preset("tiny").extend({}, np.zeros((2, 4), int), np.ones((2, 4)), cache)


# --- attention --------------------------------------------------------------------------------------------------------


def by_hand(q: Any, k: Any, v: Any, scale: float, softcap: float | None, window: int | None) -> np.ndarray:
    """One query, one head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(q.shape[:3]):
        first = 0 if window is None else max(0, t - window + 1)
        head = n // (q.shape[2] // k.shape[2])
        scores = scale * k[b, first : t + 1, head] @ q[b, t, n]
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ v[b, first : t + 1, head]
    return out


def heads(length: int = 9, dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, length, n, 8)), dtype) for n in (4, 2, 2)]


@pytest.mark.parametrize(
    ("softcap", "window"),
    [(1.5, 3), *(pytest.param(*rest, marks=pytest.mark.slow) for rest in [(None, None), (None, 3), (1.5, None)])],
)
def test_attention_is_the_formula(softcap: float | None, window: int | None) -> None:
    """Everywhere, and with a window that holds or not as the layer has it."""
    attend = jax.jit(functools.partial(attention.causal, scale=0.7, softcap=softcap, window=window))
    wanted = by_hand(*heads(), 0.7, softcap, window)
    np.testing.assert_allclose(attend(*heads()), wanted, atol=1e-5)
    if window is not None:
        for local in (True, False):
            wanted = by_hand(*heads(), 0.7, softcap, window if local else None)
            np.testing.assert_allclose(attend(*heads(), local=np.asarray(local)), wanted, atol=1e-5)


@pytest.mark.slow
def test_double_stays_double(x64: None) -> None:
    got = attention.causal(*heads(dtype=jnp.float64), scale=0.7, window=3)
    np.testing.assert_allclose(got, by_hand(*heads(dtype=jnp.float64), 0.7, None, 3), atol=1e-14)


@pytest.mark.slow
def test_what_cudnn_is_asked_for_is_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments, honoured by plain JAX: causal, and a window whose first entry leaves out the token itself."""
    calls = []

    def plain(*arrays: Any, implementation: str | None = None, **options: Any) -> Any:
        calls.append(implementation)
        return jax_attention(*arrays, **options)

    jax_attention = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    monkeypatch.setattr(attention, "_cudnn_takes", lambda q: True)
    for window, local in ((None, None), (3, None), (3, True), (3, False)):
        flag = None if local is None else jnp.asarray(local)
        got = attention.causal(*heads(), scale=0.7, window=window, local=flag, implementation="cudnn")
        wanted = by_hand(*heads(), 0.7, None, None if local is False else window)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert set(calls) == {"cudnn"}


@pytest.mark.slow
def test_the_tpu_kernel_is_the_formula() -> None:
    """Interpreted; with heads of keys that several heads of queries share."""
    with pltpu.force_tpu_interpret_mode():
        got = attention.causal(*heads(128), scale=0.7, implementation="flash")
    np.testing.assert_allclose(got, by_hand(*heads(128), 0.7, None, None), atol=1e-5)


@pytest.mark.slow
def test_a_program_for_tpu_holds_the_kernel_and_the_axes() -> None:
    """Traced here for a mesh: the kernel stands on each device's own part, and activations are constrained."""
    config = dataclasses.replace(MISTRAL, attention="flash", window=None, max_length=128, num_kv_heads=2)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), devices=jax.devices()[:4],
                         axis_types=(jax.sharding.AxisType.Auto,) * 2)  # fmt: skip
    rules = [("prompt", "data"), ("heads", "tensor"), ("kv_heads", "tensor"), ("mlp", "tensor")]
    params = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    tokens = jnp.zeros((4, 128), jnp.int32)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        program = jax.export.export(jax.jit(config.hidden), platforms=["tpu"])(params, tokens, tokens == 0)
    text = program.mlir_module()
    assert text.count("tpu_custom_call") == 1 and "manual_computation" in text
    assert text.count("sharding_constraint") >= 5


@pytest.mark.parametrize(
    ("asked", "length", "options", "message"),
    [
        ("flash", 100, {}, r"'flash' cannot take float32 queries of shape \(2, 100, 4, 8\)"),
        ("flash", 128, {"window": 5}, "no window shorter"),
        ("cudnn", 128, {}, "cudnn takes half precision"),
        ("flash", 128, {"softcap": 2.0}, "soft cap 2.0"),
    ],
)
def test_a_kernel_asked_for_by_name_has_to_fit(asked: str, length: int, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention.causal(*heads(length), scale=1.0, implementation=asked, **options)
    assert attention.chosen("auto", heads(length)[0], None, None) == "xla"  # on a CPU


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rematerialisation_changes_no_gradient_and_keeps_less() -> None:
    tokens, keep = rows()

    def loss(config: lm.DecoderConfig, params: Any) -> Any:
        return jnp.square(decoder.hidden(config, params, jnp.asarray(tokens), jnp.asarray(keep))).sum()

    gradients, kept = {}, {}
    for remat in ("none", "dots", "full"):
        config = dataclasses.replace(GEMMA, remat=remat)
        gradients[remat] = jax.jit(jax.grad(functools.partial(loss, config)))(params_of(GEMMA))
        _, pull = jax.eval_shape(lambda p, c=config: jax.vjp(functools.partial(loss, c), p), params_of(GEMMA))
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pull))
    for remat in ("dots", "full"):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), gradients[remat],
                     gradients["none"])  # fmt: skip
    assert kept["full"] < kept["dots"] < kept["none"]


@pytest.mark.slow
def test_half_precision_is_near_and_gradients_are_in_single() -> None:
    tokens, keep = rows()
    half = dataclasses.replace(MISTRAL, dtype="bfloat16")
    states = hidden(half, params_of(MISTRAL), tokens, keep)
    assert states.dtype == jnp.bfloat16
    full = np.asarray(hidden(MISTRAL, params_of(MISTRAL), tokens, keep))
    error = np.abs(np.asarray(states, np.float32) - full)[keep]
    assert 1e-4 < error.max() < 0.3
    total = lambda p: decoder.hidden(half, p, jnp.asarray(tokens), jnp.asarray(keep)).astype(jnp.float32).sum()
    gradient = jax.eval_shape(jax.grad(total), params_of(MISTRAL))
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_a_row_of_padding_alone_has_finite_gradients() -> None:
    tokens, keep = rows()
    keep = keep.copy()
    keep[0] = False
    states = lambda p: jnp.where(keep[..., None], hidden(MISTRAL, p, tokens, keep), 0).sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(states)(params_of(MISTRAL))))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads = 3 must divide num_heads = 4"),
        ({"head_dim": 3}, "head_dim = 3 must be even"),
        ({"window": 0}, "window must be an integer >= 1, got 0"),
        ({"local_layers": (True,)}, "local_layers has 1 entries, but num_layers = 2"),
        ({"remat": "ful"}, "unknown remat 'ful'; did you mean 'full'"),
        ({"attention": "cuddn"}, "unknown attention 'cuddn'; did you mean 'cudnn'"),
        ({"activation": "swiglu"}, "unknown activation 'swiglu'"),
        ({"logit_softcap": 0.0}, "logit_softcap must be a finite number > 0, got 0"),
    ],
)
def test_bad_settings_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm.DecoderConfig(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "ntk"}, "unknown rope kind 'ntk'"),
        ({"kind": "yarn", "factor": 2.0}, "original_length of rope kind 'yarn' must be an integer >= 1, got None"),
        ({"base": 0.0}, "rope base must be a finite number > 0"),
        ({"kind": "llama3", "original_length": 8, "low_freq_factor": 4.0}, "low_freq_factor = 4.0 must be < high_freq"),
    ],
)
def test_bad_rotations_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rope(**wrong)


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
