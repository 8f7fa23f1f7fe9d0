"""`fused.target_logps` against the plain formula in double precision, and what it must never make or touch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alignjax.lm import fused
from alignjax.lm.fused import target_logps
from tests.lm.programs import arrays_of

B, T, D, V = 2, 7, 5, 11


def draw(seed: int, several: int | None = None, batch: tuple[int, ...] = (B,)) -> tuple[Any, Any, Any]:
    """h, matrix, targets."""
    rng = np.random.default_rng(seed)
    shape = (*batch, T) if several is None else (*batch, T, several)
    return rng.normal(size=(*batch, T, D)), rng.normal(size=(V, D)), rng.integers(0, V, shape)


def oracle(h: Any, matrix: Any, targets: Any, cap: float | None, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """One position after the other, in NumPy."""
    logp, entropy = np.zeros(targets.shape), np.zeros(h.shape[:-1])
    for index in np.ndindex(h.shape[:-1]):
        z = np.array([h[index] @ row for row in matrix])
        z = (z if cap is None else cap * np.tanh(z / cap)) / temperature
        law = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        logp[index] = np.log(law[targets[index]])
        entropy[index] = -law @ np.log(law)
    return logp, entropy


CASES = [  # targets a position, softcap, temperature, chunk
    pytest.param(None, None, 1.0, None, id="plain"),
    pytest.param(None, 1.5, 0.7, 3, id="cap-temperature-ragged-chunks"),
    pytest.param(4, None, 1.0, 2, id="several"),
    pytest.param(3, 2.0, 1.3, 5, id="several-cap-temperature"),
]


@pytest.mark.parametrize(("several", "cap", "temperature", "chunk"), CASES)
def test_values_and_gradients_are_those_of_the_formula(
    x64: None, several: int | None, cap: float | None, temperature: float, chunk: int | None
) -> None:
    h, matrix, targets = draw(0, several)
    if several:
        targets[..., 1] = targets[..., 0]  # the same token twice: its gradients add up
    weight = np.random.default_rng(1).normal(size=targets.shape)
    entropy_weight = np.random.default_rng(2).normal(size=(B, T))

    def ours(h: Any, matrix: Any) -> Any:
        both = target_logps(h, matrix, targets, softcap=cap, temperature=temperature, chunk=chunk, with_entropy=True)
        return (weight * both[0]).sum() + (entropy_weight * both[1]).sum(), both

    def plain(h: Any, matrix: Any) -> Any:
        z = h @ matrix.T
        logp = jax.nn.log_softmax((z if cap is None else cap * jnp.tanh(z / cap)) / temperature)
        picked = jnp.take_along_axis(logp, targets.reshape(B, T, -1), -1).reshape(targets.shape)
        return (weight * picked).sum() - (entropy_weight * (jnp.exp(logp) * logp).sum(-1)).sum()

    gradient, both = jax.jit(jax.grad(ours, (0, 1), has_aux=True))(h, matrix)
    for got, wanted in zip(both, oracle(h, matrix, targets, cap, temperature), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(gradient, jax.jit(jax.grad(plain, (0, 1)))(h, matrix), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_second_derivatives_are_right_and_forward_mode_says_no(x64: None) -> None:
    h, matrix, targets = draw(3, 2)

    def ours(h: Any, matrix: Any) -> Any:
        logp, entropy = target_logps(h, matrix, targets, softcap=3.0, chunk=3, with_entropy=True)
        return jnp.sin(logp).sum() + jnp.square(entropy).sum()

    def plain(h: Any, matrix: Any) -> Any:
        logp = jax.nn.log_softmax(3.0 * jnp.tanh(h @ matrix.T / 3.0))
        picked = jnp.take_along_axis(logp, targets, -1)
        return jnp.sin(picked).sum() + jnp.square((jnp.exp(logp) * logp).sum(-1)).sum()

    def twice(f: Any) -> Any:
        squares = lambda *x: sum(jnp.square(g).sum() for g in jax.grad(f, (0, 1))(*x))
        return jax.jit(jax.grad(squares, (0, 1)))(h, matrix)

    for got, wanted in zip(twice(ours), twice(plain), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(ours, (h, matrix), (h, matrix))


def test_a_sure_law_has_no_entropy_and_a_flat_one_log_v(x64: None) -> None:
    """Logits (0, ..., 0) and (1e4, 0, ..., 0): finite values and gradients at both ends."""
    h = np.array([[0.0], [1e4]])
    matrix = np.eye(V, 1)
    f = lambda h: target_logps(h, matrix, np.array([3, 0]), with_entropy=True)
    (logp, entropy), (gradient,) = jax.jit(lambda h: (lambda v, b: (v, b((np.ones(2), np.ones(2)))))(*jax.vjp(f, h)))(h)
    np.testing.assert_allclose(logp, [-np.log(V), 0], atol=1e-12)
    np.testing.assert_allclose(entropy, [np.log(V), 0], atol=1e-12)
    np.testing.assert_allclose(gradient[:, 0], [-1 / V, 0], atol=1e-12)  # d log p_3 / dz_0; entropy is at its top


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_masked_positions_touch_nothing(fill: float) -> None:
    """Whatever stands there, in hidden states, targets or the cotangents of the results."""
    h, matrix, targets = draw(4, 2)
    mask = np.random.default_rng(5).integers(0, 2, (B, T))
    assert 0 < mask.sum() < mask.size

    @jax.jit
    def score(h: Any, matrix: Any, targets: Any, seed: Any) -> Any:
        f = lambda h, m: target_logps(h, m, targets, mask=mask, chunk=3, with_entropy=True)
        both, back = jax.vjp(f, h, matrix)
        return both, back((jnp.broadcast_to(seed[..., None], targets.shape), seed))

    clean, wanted = score(*(np.float32(x) for x in (h, matrix)), targets, np.float32(mask))
    h[mask == 0], targets[mask == 0] = fill, -100
    dirty, got = score(*(np.float32(x) for x in (h, matrix)), targets, np.where(mask, np.float32(1), fill))
    jax.tree.map(np.testing.assert_array_equal, (dirty, got), (clean, wanted))
    for zero in (*dirty, got[0]):
        assert np.all(np.asarray(zero)[mask == 0] == 0)
    assert all(np.isfinite(x).all() and np.any(x) for x in (*dirty, *got))


def test_gradients_of_16_bit_inputs_are_accumulated_in_32() -> None:
    """2,048 equal contributions: a sum in bfloat16 would stop growing at 256 of them."""
    length = 2_048
    h, matrix = jnp.ones((1, length, 1), jnp.bfloat16), jnp.zeros((2, 1), jnp.bfloat16)
    f = lambda m: target_logps(h, m, np.zeros((1, length), int), chunk=4)
    logp, (gradient,) = jax.jit(lambda m: (lambda v, back: (v, back(jnp.ones_like(v))))(*jax.vjp(f, m)))(matrix)
    assert logp.dtype == jnp.float32
    np.testing.assert_allclose(logp, np.log(0.5), rtol=1e-6)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(float)[:, 0], [length / 2, -length / 2])  # 1 - p = 1/2 each


@pytest.mark.parametrize("vocab", [64, 1_024, 4_096])
def test_memory_is_flat_in_the_vocabulary(monkeypatch: pytest.MonkeyPatch, vocab: int) -> None:
    """Of what has the axis V only W itself and the logits of a chunk are made, those never above the bound."""
    monkeypatch.setattr(fused, "LOGITS_AT_ONCE", 16_384)
    h, matrix = jax.ShapeDtypeStruct((4, 32, 8), jnp.float32), jax.ShapeDtypeStruct((vocab, 8), jnp.float32)
    f = lambda h, m: sum(x.sum() for x in target_logps(h, m, np.zeros((4, 32), int), with_entropy=True))
    with_axis = {s for s in arrays_of(jax.grad(f, (0, 1)), h, matrix) if s and vocab in s} - {(vocab, 8)}
    assert with_axis and max(np.prod(s) for s in with_axis) <= 16_384
    assert {s for s in with_axis if len(s) == 3 and s[-1] == vocab} == {(4, min(32, 4_096 // vocab), vocab)}


def test_chunks_are_within_the_bound_and_neither_many_nor_small() -> None:
    for batch, length, vocab in [(16, 512, 8_192), (16, 512, 262_144), (3, 1_000, 151_936), (64, 2_048, 32_000)]:
        chunk = fused.chunk_length(batch, length, vocab)
        assert 1 <= chunk <= length and batch * chunk * vocab <= fused.LOGITS_AT_ONCE
        full = batch * (chunk + 1) * vocab > fused.LOGITS_AT_ONCE
        assert full or (batch * chunk >= 512 and -(-length // chunk) == 8)
    assert [fused.chunk_length(*x) for x in [(1, 7, 11), (16, 256, 264), (4, 1, 50_257)]] == [7, 256, 1]
    assert fused.chunk_length(1_000, 10, 262_144) == 1  # a batch is never split


@pytest.mark.slow
def test_chunks_without_a_counted_position_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 positions in chunks of 3, at most 4 of a row counted: 2 of 4 chunks are made, forwards and backwards."""
    made: list[int] = []
    project = fused.project

    def counting(*x: Any) -> Any:
        jax.debug.callback(lambda: made.append(1))
        return project(*x)

    monkeypatch.setattr(fused, "project", counting)
    rng = np.random.default_rng(9)
    h, matrix, targets = rng.normal(size=(2, 12, D)), rng.normal(size=(V, D)), rng.integers(0, V, (2, 12))
    mask = np.zeros((2, 12), bool)
    mask[0, [1, 5, 10, 11]] = mask[1, [0, 7]] = True
    for given, wanted in ((mask, 4), (mask | True, 8), (mask & False, 0)):
        f = lambda h, m, given=given: target_logps(h, m, targets, mask=given, chunk=3).sum()
        jax.block_until_ready(jax.jit(jax.grad(f, (0, 1)))(np.float32(h), np.float32(matrix)))
        jax.effects_barrier()
        assert len(made) == wanted
        made.clear()


def test_leading_axes_vmap_and_a_single_state() -> None:
    h, matrix, targets = draw(6, 2, batch=(3, 2))
    h, matrix = np.float32(h), np.float32(matrix)
    merged = target_logps(h, matrix, targets, chunk=3)
    f = jax.jit(jax.vmap(lambda h, t: target_logps(h, matrix, t, chunk=3)))
    np.testing.assert_allclose(f(h, targets), merged, rtol=1e-5)
    one = target_logps(h[1, 0, 4], matrix, targets[1, 0, 4])
    assert one.shape == (2,)
    np.testing.assert_allclose(one, merged[1, 0, 4], rtol=1e-5)
    assert target_logps(h[1, 0, 4], matrix, targets[1, 0, 4, 0]).shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("tensor", [1, 2])
def test_batch_and_vocabulary_stay_sharded(tensor: int) -> None:
    """The same numbers on 8 devices, and none of them gathers another's states, logits or rows of the matrix."""
    rng = np.random.default_rng(7)
    h, matrix = (np.float32(rng.normal(size=shape)) for shape in ((8, 12, D), (16, D)))
    targets = rng.integers(0, 16, (8, 12))
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(8 // tensor, tensor), ("data", "tensor"))
    rows, words = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", "tensor"))

    mask = rng.integers(0, 2, (8, 12))

    def f(h: Any, matrix: Any, targets: Any, mask: Any = mask) -> Any:
        both = target_logps(h, matrix, targets, chunk=4, with_entropy=True, mask=mask)
        return jnp.square(both[0]).sum() + both[1].sum()

    slope = jax.grad(f, (0, 1))
    step = jax.jit(slope, in_shardings=(rows, words, rows, rows), out_shardings=(rows, words))
    text = step.lower(h, matrix, targets, mask).compile().as_text()
    assert "all-reduce(" in text
    assert not [name for name in ("all-gather(", "all-to-all(", "collective-permute(") if name in text]
    for got, wanted in zip(step(h, matrix, targets, mask), jax.jit(slope)(h, matrix, targets), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"matrix": np.zeros((V, D + 1))},
            r"h must be \[\.\.\., D\] and matrix \[V, D\], got \(2, 7, 5\) and \(11, 6\)",
        ),
        ({"h": np.zeros((B, T, D), int)}, "h must be floating point, got int"),
        ({"targets": np.zeros((B, T))}, "targets must be integers, got float"),
        ({"targets": np.zeros((B, 6), int)}, r"targets must have the axes \(2, 7\) of h, and at most one more"),
        ({"targets": np.full((B, T), V)}, r"targets must lie in \[0, V = 11\), got values in \[11, 11\]"),
        ({"mask": np.zeros((B, 6))}, r"mask must have the axes \(2, 7\) of h, got \(2, 6\)"),
        ({"softcap": 0.0}, "softcap must be a finite number > 0, got 0"),
        ({"temperature": -1.0}, "temperature must be a finite number > 0, got -1"),
        ({"chunk": 0}, "chunk must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    h, matrix, targets = draw(8)
    given = {"h": h, "matrix": matrix, "targets": targets} | change
    with pytest.raises(ValueError, match=message):
        target_logps(given.pop("h"), given.pop("matrix"), given.pop("targets"), **given)
