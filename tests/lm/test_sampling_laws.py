"""Sampling laws against NumPy oracles that sort, in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.lm import sampling_laws as laws

B, V = 5, 9


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    z = np.random.default_rng(0).normal(size=(B, V)).astype(np.float32) * 2
    z[1, [2, 5, 7]] = z[1].max() + 1  # ties at the top
    z[2, :] = 0.5  # all tied
    z[3, [0, 4]] = -np.inf  # forbidden tokens
    z[4, 1:4] = z[4, 6]  # ties in the middle
    return z


def softmax(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def oracle(z: np.ndarray, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> np.ndarray:
    """One row at a time: token y stays if what is strictly likelier is fewer than k tokens, less than p of the mass."""
    p = softmax(np.asarray(z, np.float64) / temperature)
    if top_k is not None:
        p = np.stack([np.where([(row > y).sum() < top_k for y in row], row, 0.0) for row in p])
        p /= p.sum(-1, keepdims=True)
    if top_p < 1:
        p = np.stack([np.where([row[row > y].sum() < top_p for y in row], row, 0.0) for row in p])
    return p / p.sum(-1, keepdims=True)


CASES: list[dict[str, Any]] = [
    {"temperature": 0.3},
    *({"top_k": k} for k in (1, 2, 3, V, 50)),
    *({"top_p": p} for p in (1e-6, 0.3, 0.5, 0.9, 0.999, 1.0)),
    {"temperature": 1.7, "top_k": 4, "top_p": 0.6},
]


def test_laws_are_those_of_a_sort(logits: Any) -> None:
    for case in CASES:
        got = np.exp(np.asarray(laws.sampling_law(logits, **case), np.float64))
        np.testing.assert_allclose(got, oracle(logits, **case), atol=2e-6, err_msg=str(case))


def test_the_token_that_crosses_p_stays_and_one_always_does() -> None:
    """By hand: masses 0.5, 0.3, 0.2. At p = 0.6 the first does not reach it, the second crosses it."""
    logp = np.log([[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(np.exp(laws.keep_top_p(logp, 0.6)), [[0.625, 0.375, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(laws.keep_top_p(logp, 0.4)), [[1.0, 0.0, 0.0]], rtol=1e-6)


def test_all_of_tied_tokens_stay_or_none(logits: Any) -> None:
    assert np.isfinite(laws.keep_top_k(logits, 2))[1].tolist() == np.isin(np.arange(V), [2, 5, 7]).tolist()
    assert np.isfinite(laws.keep_top_p(logits, 0.1))[1].tolist() == np.isin(np.arange(V), [2, 5, 7]).tolist()
    assert np.isfinite(laws.keep_top_p(logits, 0.1))[2].all()


def test_p_of_one_and_k_of_all_change_nothing() -> None:
    """Also where the running mass in float32 is 1 long before the last token."""
    logp = jax.nn.log_softmax(jnp.linspace(0.0, -80.0, 300))
    for law in (laws.keep_top_p(logp, 1.0), laws.keep_top_k(logp, 300), laws.keep_top_k(logp, 10**6)):
        np.testing.assert_allclose(law, logp, atol=1e-5)


def test_top_k_counts_tokens_whose_probability_is_zero_in_float32() -> None:
    """exp(-200) is 0: an order of probabilities would not know the second from the third."""
    law = laws.keep_top_k(jnp.array([0.0, -200.0, -300.0, -400.0]), 2)
    assert np.isfinite(law).tolist() == [True, True, False, False]


def test_greedy_is_the_first_argmax(logits: Any) -> None:
    for law in (laws.greedy(logits), laws.sampling_law(logits, temperature=0, top_k=3, top_p=0.2)):
        np.testing.assert_array_equal(np.exp(law), np.eye(V)[logits.argmax(-1)])


def test_mean_of_laws_is_the_mean(logits: Any) -> None:
    p = softmax(logits)[:3, None] * np.ones((1, 4, 1))  # three laws, four rows
    weights = np.random.default_rng(1).dirichlet(np.ones(3), size=4).T
    got = laws.mean_law(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(weights)) + 7.0)
    np.testing.assert_allclose(np.exp(got), (weights[..., None] * p).sum(0), rtol=1e-5)


def test_settings_may_be_traced_and_other_dtypes_given(logits: Any) -> None:
    both = jax.jit(lambda t, k, p: laws.sampling_law(logits, temperature=t, top_k=k, top_p=p))(1.7, 4, 0.6)
    np.testing.assert_allclose(np.exp(both), oracle(logits, temperature=1.7, top_k=4, top_p=0.6), atol=2e-6)
    assert laws.keep_top_p(jnp.zeros((3,), jnp.bfloat16), 0.5).dtype == jnp.float32


@pytest.mark.slow
def test_double_precision(x64: None, logits: Any) -> None:
    wide = laws.sampling_law(np.asarray(logits, np.float64), temperature=1.7, top_k=4, top_p=0.6)
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(np.exp(wide), oracle(logits, temperature=1.7, top_k=4, top_p=0.6), atol=1e-14)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number > 0, got -1"),
        ({"temperature": np.nan}, "temperature must be a finite number > 0, got nan"),
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_k": 2.5}, "top_k must be an integer >= 1, got 2.5"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_settings_are_named(setting: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        laws.sampling_law(np.zeros(3), **setting)
