"""Adapters: off at the start and in the reference, merged into the same function, and alone in what is trained."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import lm
from alignjax.lm import lora

BASE = lm.DecoderConfig(
    family="qwen2", vocab_size=11, d_model=8, d_mlp=12, num_layers=2, num_heads=2, num_kv_heads=1, max_length=32,
    qkv_bias=True,
)  # fmt: skip
MODEL = lora.LoRA(base=BASE, rank=3, alpha=5.0)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 9))
KEEP = np.ones_like(TOKENS, bool)
KEEP[1, :3] = False
hidden = jax.jit(lambda model, params: model.hidden(params, TOKENS, KEEP), static_argnums=0)


@functools.cache
def start() -> Any:
    return lm.init(MODEL, jax.random.key(0))


@functools.cache
def moved() -> Any:
    """Adapters as training leaves them: neither factor is zero."""
    rng = np.random.default_rng(1)
    adapters = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), start()["lora"])
    return {"base": start()["base"], "lora": adapters}


def test_policy_is_reference_at_the_start_and_not_later() -> None:
    """Exactly: B = 0 adds zeros. The reference holds the base's own arrays, no copies."""
    reference = lora.reference(start())
    np.testing.assert_array_equal(hidden(MODEL, start()), hidden(MODEL, reference))
    np.testing.assert_array_equal(hidden(MODEL, reference), hidden(BASE, start()["base"]))
    assert np.abs(np.asarray(hidden(MODEL, moved()) - hidden(MODEL, lora.reference(moved())))).max() > 0.1
    assert reference["base"]["embedding"] is start()["base"]["embedding"] and not jax.tree.leaves(reference["lora"])


def test_merged_is_the_formula_and_the_same_function() -> None:
    """W + (alpha / rank) A B in NumPy, of a matrix with two axes of inputs and of one with two axes of outputs."""
    merged = lora.merged(MODEL, moved())
    for part, name, ins in (("attention", "query", 1), ("attention", "out", 2), ("mlp", "down", 1)):
        weight = np.asarray(moved()["base"]["layers"][part][name])
        a, b = (np.asarray(moved()["lora"]["layers"][part][name][x]) for x in "ab")
        inputs = int(np.prod(weight.shape[1 : 1 + ins]))
        wanted = [w.reshape(inputs, -1) + 5 / 3 * x.reshape(inputs, 3) @ y.reshape(3, -1)
                  for w, x, y in zip(weight, a, b, strict=True)]  # fmt: skip
        np.testing.assert_allclose(merged["layers"][part][name], np.reshape(wanted, weight.shape), atol=1e-5)
    np.testing.assert_allclose(hidden(BASE, merged), hidden(MODEL, moved()), atol=1e-4)
    assert jax.tree.structure(merged) == jax.tree.structure(dict(start()["base"]))
    np.testing.assert_array_equal(merged["layers"]["attention"]["query_bias"], 0)


def test_an_export_is_merged(tmp_path: Path) -> None:
    lm.save(tmp_path, MODEL, moved())
    config, params = lm.load(tmp_path)
    assert isinstance(config, lm.DecoderConfig)
    jax.tree.map(np.testing.assert_array_equal, params, lora.merged(MODEL, moved()))


@pytest.mark.slow
def test_adapters_are_few_and_have_gradients() -> None:
    """Those of the targets alone; after one step away from B = 0 both factors have a gradient."""
    model = lora.LoRA(base=BASE, rank=2, targets=("query", "down"))
    params = lora.init(model, start()["base"], jax.random.key(1))
    shapes = jax.tree.map(np.shape, params["lora"]["layers"])
    assert shapes == {
        "attention": {"query": {"a": (2, 8, 2), "b": (2, 2, 2, 4)}},
        "mlp": {"down": {"a": (2, 12, 2), "b": (2, 2, 8)}},
    }
    score = lambda adapters, p: jnp.square(model.hidden({**p, "lora": adapters}, TOKENS, KEEP)).sum()
    gradient = jax.jit(jax.grad(score))
    first = gradient(params["lora"], params)
    assert not any(
        np.any(node["a"]) for node in (first["layers"]["attention"]["query"], first["layers"]["mlp"]["down"])
    )
    ahead = jax.tree.map(lambda x, g: x - 1e-2 * g, params["lora"], first)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient(ahead, params)))


@pytest.mark.slow
def test_it_is_scored_and_sampled_like_any_model() -> None:
    """As its merged self is: the bridge to the losses, and generation."""
    merged = lora.merged(MODEL, moved())
    scored = lm.token_logps(MODEL, moved(), TOKENS, KEEP, KEEP)
    np.testing.assert_allclose(scored, lm.token_logps(BASE, merged, TOKENS, KEEP, KEEP), atol=1e-4)
    draw = lambda m, p: lm.generate(m, p, [[1, 2], [3]], jax.random.key(0), max_new_tokens=5)
    np.testing.assert_array_equal(draw(MODEL, moved()).tokens, draw(BASE, merged).tokens)


@pytest.mark.slow
def test_extending_is_hidden() -> None:
    states, _ = jax.jit(MODEL.extend)(moved(), TOKENS, KEEP, MODEL.empty_cache(2, 9))
    wanted = np.where(KEEP[..., None], hidden(MODEL, moved()), 0)
    np.testing.assert_allclose(np.where(KEEP[..., None], states, 0), wanted, atol=1e-4)


def test_axes_name_every_parameter() -> None:
    axes = lm.logical_axes(MODEL)
    jax.tree.map(lambda array, names: None if array.ndim == len(names) else pytest.fail(str(names)), start(), axes)
    assert tuple(axes["lora"]["layers"]["attention"]["out"]["a"]) == ("layers", "heads", "head", "rank")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"alpha": -1.0}, "alpha must be a finite number > 0, got -1"),
        ({"targets": ()}, "targets is empty; allowed are some of query, key"),
        ({"targets": ("q_proj",)}, "unknown target 'q_proj'"),
    ],
)
def test_bad_arguments_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora.LoRA(base=BASE, **wrong)
