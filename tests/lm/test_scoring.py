"""`logits` and `token_logps` against NumPy, and what must not influence them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import lm
from tests.lm.programs import arrays_of

CONFIG = lm.DecoderConfig(vocab_size=11, d_model=16, d_mlp=24, num_layers=1, num_heads=2, max_length=32, tied=False)
B, T = 3, 14


@pytest.fixture(scope="module")
def params() -> Any:
    return lm.init(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, CONFIG.vocab_size, (B, T))


@pytest.fixture(scope="module")
def loss_mask() -> np.ndarray:
    """Another one in every row, so that rows cannot be confused; it asks for the first token too."""
    return np.array([[1] * T, [0] * 5 + [1] * 9, [1, 0] * 7])


def oracle(logits: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """log p of each token, in float64, one at a time."""
    z = np.asarray(logits, np.float64)
    out = np.zeros(tokens.shape)
    for b in range(tokens.shape[0]):
        for t in range(1, tokens.shape[1]):
            if mask[b, t]:
                row = z[b, t - 1]
                out[b, t] = row[tokens[b, t]] - row.max() - np.log(np.exp(row - row.max()).sum())
    return out


@pytest.mark.parametrize("chunk", [128, 5])  # one chunk, and three with a ragged end (13 predictions)
def test_token_logps_are_those_of_the_logits(params: Any, tokens: Any, loss_mask: Any, chunk: int) -> None:
    wanted = oracle(lm.logits(CONFIG, params, tokens), tokens, loss_mask)
    got = lm.token_logps(CONFIG, params, tokens, loss_mask, chunk=chunk)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert np.all(np.asarray(got)[:, 0] == 0) and np.all(np.asarray(got)[loss_mask == 0] == 0)


@pytest.mark.slow
def test_gradient_is_that_of_the_plain_formula(params: Any, tokens: Any, loss_mask: Any) -> None:
    weight = np.random.default_rng(1).normal(size=(B, T))

    def plain(p: Any) -> Any:
        logp = jax.nn.log_softmax(lm.logits(CONFIG, p, tokens))[:, :-1]
        picked = jnp.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
        return (weight * loss_mask)[:, 1:].ravel() @ picked.ravel()

    chunked = lambda p: (weight * lm.token_logps(CONFIG, p, tokens, loss_mask, chunk=5)).sum()
    for a, b in zip(*(jax.tree.leaves(jax.jit(jax.grad(f))(params)) for f in (chunked, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_the_vocabulary_axis_is_never_whole() -> None:
    """No array of the gradient's program has B x T x V entries: 2 x 32 x 11; a chunk's logits have 2 x 4 x 11."""
    tokens = np.zeros((2, 32), int)
    params = jax.eval_shape(lambda: lm.init(CONFIG, jax.random.key(0)))

    def sizes(chunk: int) -> set[tuple[int, ...]]:
        loss = lambda p: lm.token_logps(CONFIG, p, tokens, np.ones_like(tokens), chunk=chunk).sum()
        found = arrays_of(jax.grad(loss), params)
        return {s for s in found if s and s[-1] == CONFIG.vocab_size and np.prod(s) > 16 * CONFIG.vocab_size}

    assert sizes(chunk=128) == {(2, 32, 11)}  # the check sees it where it is
    assert sizes(chunk=4) == set()


def test_later_tokens_have_no_influence(params: Any, tokens: Any) -> None:
    other = tokens.copy()
    other[:, 9:] = (other[:, 9:] + 1) % CONFIG.vocab_size
    a, b = lm.logits(CONFIG, params, tokens), lm.logits(CONFIG, params, other)
    np.testing.assert_array_equal(a[:, :9], b[:, :9])
    assert np.abs(np.asarray(a - b))[:, 9:].max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_inert(params: Any, tokens: Any, side: str) -> None:
    """Whatever ids it holds, on either side, in values and gradients; on the left positions do not move."""
    ones = np.ones_like(tokens)
    width = [(0, 0), (0, 4) if side == "right" else (4, 0)]
    inside = slice(0, T) if side == "right" else slice(4, None)
    attention = np.pad(ones, width)

    def score(p: Any, fill: int) -> Any:
        padded = np.pad(tokens, width, constant_values=fill)
        return lm.token_logps(CONFIG, p, padded, np.pad(ones, width, constant_values=1), attention)

    plain = lm.token_logps(CONFIG, params, tokens, ones)
    padded = score(params, -100)
    np.testing.assert_allclose(padded[:, inside], plain, rtol=1e-5, atol=1e-5)
    outside = np.asarray(padded)[attention == 0]
    assert outside.size and np.all(outside == 0)
    np.testing.assert_array_equal(score(params, 7), padded)
    gradients = [jax.grad(lambda p, fill=fill: score(p, fill).sum())(params) for fill in (-100, 7)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients[0]))


def test_a_token_after_a_gap_is_scored_by_the_tokens_before_the_gap(tokens: Any) -> None:
    """Padding between prompt and response, and before both: every token but the first kept one has a log-prob."""
    config, params = Bigrams(), bigrams(0)
    attention = np.ones((B, T), int)
    attention[0, 3:6] = attention[1, :2] = attention[1, 7] = 0
    found = lm.token_statistics(config, params, tokens, np.ones_like(tokens), attention)
    wanted = np.zeros((B, T))
    for row, keep, out in zip(tokens, attention == 1, wanted, strict=True):
        out[np.flatnonzero(keep)[1:]] = law(params, 1.5)[row[keep][:-1], row[keep][1:]]
    np.testing.assert_allclose(found.logp, wanted, rtol=1e-5, atol=1e-6)
    assert np.array_equal(np.asarray(found.entropy) > 0, wanted < 0)


@pytest.mark.slow
def test_masked_tokens_have_no_gradient(params: Any, tokens: Any) -> None:
    """Tokens after the last trained one may be anything: neither the value nor the gradient moves."""
    mask = np.zeros_like(tokens)
    mask[:, 4:8] = 1
    other = tokens.copy()
    other[:, 8:] = 0
    both = [
        jax.value_and_grad(lambda p, t=t: lm.token_logps(CONFIG, p, t, mask).sum())(params) for t in (tokens, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)
    nothing = jax.grad(lambda p: lm.token_logps(CONFIG, p, tokens, 0 * mask).sum())(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(nothing))


@dataclasses.dataclass(frozen=True)
class Bigrams:
    """A user's own model: the state after a token is that token's row of a table, whatever came before."""

    vocab_size: int = 11
    max_length: int = 32
    logit_softcap: float | None = 1.5

    def hidden(self, params: Any, tokens: Any, keep: Any) -> Any:
        return jnp.where(keep[..., None], params["rows"][jnp.clip(tokens, 0, 10)], jnp.nan)

    def unembedding(self, params: Any) -> Any:
        return params["words"]


def bigrams(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.normal(size=(11, 4))) for name in ("rows", "words")}


def law(params: Any, cap: float) -> np.ndarray:
    """`[11, 11]`: log p(next | this), in NumPy."""
    z = cap * np.tanh(np.float64(params["rows"]) @ np.float64(params["words"]).T / cap)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_any_model_is_scored_with_its_softcap_entropy_and_other_targets(tokens: Any, loss_mask: Any) -> None:
    """Against the model's own table of bigrams; padding has NaN states here."""
    config, params = Bigrams(), bigrams(0)
    attention = np.ones_like(tokens)
    attention[0, :3] = attention[1, 10:] = 0
    others = np.random.default_rng(1).integers(0, 11, (B, T, 3))
    table = law(params, 1.5)
    counts = (loss_mask * attention)[:, 1:] * attention[:, :-1] == 1
    assert not counts.all(-1).any() and counts.any(-1).all()
    rows = table[tokens[:, :-1]]
    pick = lambda ids: np.take_along_axis(rows, ids[:, 1:], -1)
    found = lm.token_statistics(config, params, tokens, loss_mask, attention, targets=others, chunk=5)
    wanted = (pick(tokens[..., None])[..., 0], -(np.exp(rows) * rows).sum(-1), pick(others))
    for got, right in zip(found, wanted, strict=True):
        mask = counts.reshape(*counts.shape, *(1,) * (right.ndim - 2))
        np.testing.assert_allclose(got[:, 1:], np.where(mask, right, 0), rtol=1e-5, atol=1e-6)
        assert not np.any(got[:, 0])
    np.testing.assert_array_equal(lm.token_logps(config, params, tokens, loss_mask, attention, chunk=5), found.logp)
    assert lm.token_statistics(config, params, tokens, loss_mask).target_logp is None
    z = np.where(attention[..., None], lm.logits(config, params, tokens, attention), 0)
    np.testing.assert_allclose(
        jax.nn.log_softmax(z)[attention == 1], table[tokens][attention == 1], rtol=1e-5, atol=1e-6
    )


def test_a_sequence_of_one_token_has_nothing_to_score() -> None:
    score = jax.jit(lambda p: lm.token_statistics(Bigrams(), p, [[5], [6]], [[1], [1]], targets=[[[1]], [[2]]]))
    assert all(not np.any(x) and np.shape(x)[:2] == (2, 1) for x in score(bigrams(0)))


def test_several_policies_on_one_batch(tokens: Any, loss_mask: Any) -> None:
    policies = [bigrams(seed) for seed in range(3)]
    found = lm.token_logps_each(Bigrams(), policies, tokens, loss_mask)
    assert len(found) == 3 and not np.allclose(found[0], found[1])
    for got, params in zip(found, policies, strict=True):
        right = np.take_along_axis(law(params, 1.5)[tokens[:, :-1]], tokens[:, 1:, None], -1)[..., 0]
        np.testing.assert_allclose(got[:, 1:], np.where(loss_mask[:, 1:], right, 0), rtol=1e-5, atol=1e-6)


def test_leading_axes_are_free(params: Any, tokens: Any, loss_mask: Any) -> None:
    stacked = lm.token_logps(CONFIG, params, tokens.reshape(1, B, T), loss_mask.reshape(1, B, T))
    np.testing.assert_array_equal(stacked[0], lm.token_logps(CONFIG, params, tokens, loss_mask))


def test_bfloat16_computes_and_float32_comes_out(params: Any, tokens: Any, loss_mask: Any) -> None:
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    logits, logps = lm.logits(half, params, tokens), lm.token_logps(half, params, tokens, loss_mask)
    assert logits.dtype == logps.dtype == jnp.float32
    assert np.isfinite(logits).all() and np.isfinite(logps).all()
    full = lm.token_logps(CONFIG, params, tokens, loss_mask)
    assert 1e-4 < np.abs(np.asarray(logps - full)).max() < 0.2  # eight bits of mantissa, and really used


def test_tied_parameters_are_one_array_fewer_and_axes_name_every_parameter() -> None:
    tied = dataclasses.replace(CONFIG, tied=True)
    for config, names in ((CONFIG, {"embedding", "unembedding"}), (tied, {"embedding"})):
        params = jax.eval_shape(lambda config=config: lm.init(config, jax.random.key(0)))
        assert {name for name in params if "embedding" in name} == names
        jax.tree.map(lambda array, axes: None if len(array.shape) == len(tuple(axes)) else pytest.fail(str(axes)),
                     params, lm.logical_axes(config))  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, t: lm.logits(CONFIG, p, t[0]), r"tokens must have the axes \[\.\.\., B, T\], got shape \(14,\)"),
        (lambda p, t: lm.logits(CONFIG, p, t * 1.0), "tokens must be integers, got float"),
        (lambda p, t: lm.logits(CONFIG, p, t + 1), r"vocab_size = 11\), got values in \[1, 11\]"),
        (lambda p, t: lm.logits(CONFIG, p, np.tile(t, 3)), "length 42; the model takes 1 to max_length = 32"),
        (lambda p, t: lm.logits(CONFIG, p, t, t[:2]), r"attention_mask must have the shape \(3, 14\)"),
        (lambda p, t: lm.token_logps(CONFIG, p, t, t[:2]), r"loss_mask must have the shape \(3, 14\)"),
        (lambda p, t: lm.token_logps(CONFIG, p, t, t, chunk=0), "chunk must be an integer >= 1, got 0"),
        (
            lambda p, t: lm.token_statistics(CONFIG, p, t, t, targets=t),
            r"targets must be integers of shape \(3, 14, 'S'\)",
        ),
        (
            lambda p, t: lm.token_statistics(CONFIG, p, t, t * 0 + 1, targets=t[..., None] + 1),
            r"targets must lie in \[0, vocab_size = 11\), got values in \[1, 11\]",
        ),
        (lambda p, t: lm.DecoderConfig(d_model=30, num_heads=4), "d_model = 30 must be a multiple of 2 num_heads = 8"),
        (lambda p, t: lm.DecoderConfig(num_layers=0), "num_layers must be an integer >= 1, got 0"),
        (lambda p, t: lm.DecoderConfig(dtype="float23"), "unknown dtype 'float23'; did you mean 'float32'"),
        (lambda p, t: lm.preset("tyni"), "unknown model 'tyni'; did you mean 'tiny'"),
    ],
)
def test_bad_arguments_are_named(params: Any, tokens: Any, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(params, tokens)
