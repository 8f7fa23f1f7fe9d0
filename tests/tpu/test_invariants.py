"""Each invariant holds on data as it should be, and objects to the one mistake that it is there for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tpu import invariants
from tpu.arguments import UsageError

BOS, EOS, PAD = 1, 2, 0
TOKENS = np.array([[[1, 7, 8, 9, 2, 0], [1, 7, 8, 5, 5, 2]], [[1, 3, 4, 2, 0, 0], [1, 3, 6, 6, 6, 6]]])
LENGTH = TOKENS.shape[-1]
ATTENTION = np.arange(LENGTH) < np.array([[5, 6], [4, 6]])[..., None]  # the last response was cut: it has no end
LOSS = ATTENTION & (np.arange(LENGTH) >= np.array([[3, 3], [2, 2]])[..., None])


def batch(**changes: Any) -> dict[str, Any]:
    return {"tokens": TOKENS, "loss_mask": LOSS, "attention_mask": ATTENTION} | changes


def edited(array: np.ndarray, at: tuple[int, ...], value: Any) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


def test_policy_and_reference() -> None:
    logp = np.array([[-3.0, -4.0], [-5.0, -6.0]])
    assert invariants.policy_is_reference(logp, logp + 1e-5).holds
    off = edited(logp, (1, 0), -5.3)
    found = invariants.policy_is_reference(logp, off)
    assert found.holds is False
    assert "response 0 of row 1 of the first batch the log-prob -5.0000 and the reference -5.3000" in found.says
    assert "differ by 0.3 >" in found.says and "--reference" in found.says
    assert invariants.policy_is_reference(logp, off, dtype="bfloat16").holds  # that is its rounding
    stored = invariants.policy_is_reference(logp, off, precomputed=True)
    assert stored.holds is False and "another model, tokenizer or template" in stored.says
    assert invariants.policy_is_reference(logp, edited(logp, (0, 0), np.nan)).holds is False


def test_halves_add_up_for_sums_and_not_for_means() -> None:
    """The mean over the tokens of a batch with unequal halves is not the mean of their means: the bug of TRL #2615."""
    loss = np.array([[0.5, 1.0], [4.0, 2.0], [3.0, 3.0], [1.0, 0.5], [9.0, 9.0]])  # of five rows, two responses each
    lengths = np.array([[1, 2], [4, 3], [1, 1], [0, 0], [4, 4]])  # the fourth was left out
    data = {"loss": loss, "loss_mask": np.arange(4) < lengths[..., None]}
    first, second = invariants.halves(data)
    np.testing.assert_array_equal(first["loss"], loss[[0, 2]])
    np.testing.assert_array_equal(second["loss"], loss[[1, 3]])

    def rows(b: Any) -> tuple[Any, Any]:
        there = b["loss_mask"].any((-1, -2))
        return (b["loss"].sum(-1) * there).sum(), there.sum()

    found = invariants.same_for_halves(rows, data)
    assert found.holds and f"{(1.5 + 6.0 + 6.0) / 3:.6f}" in found.says  # of the first four rows, three of which count

    def token_mean(b: Any) -> tuple[Any, Any]:  # a loss that is divided by the tokens of its own part
        weight = b["loss_mask"].sum(-1)
        return len(weight) * (b["loss"] * weight).sum() / weight.sum(), len(weight)

    found = invariants.same_for_halves(token_mean, data)
    assert found.holds is False and "it depends on how the batch is split" in found.says
    counted = lambda b: (rows(b)[0], max(rows(b)[1], 2))  # a masked row is counted in a small part
    assert invariants.same_for_halves(counted, data).holds is False
    assert invariants.same_for_halves(rows, {name: array[:1] for name, array in data.items()}).holds is None


def test_a_loss_that_is_no_number_is_no_fault_of_the_split() -> None:
    """The loop stops on it and keeps the batch; a model that computes none is told of as such."""
    found = invariants.same_for_halves(lambda part: (np.nan, 3.0), batch())
    assert found.holds is None and "the loss of the first batch is nan" in found.says
    found = invariants.policy_is_reference(np.full((2, 1), np.nan), np.zeros((2, 1)))
    assert found.holds is False and "the model computes no numbers on it" in found.says


def test_one_beginning_of_sequence() -> None:
    assert invariants.one_bos(batch(), BOS).holds
    assert invariants.one_bos(batch(), None).holds is None
    twice = invariants.one_bos(batch(tokens=edited(TOKENS, (0, 1, 1), BOS)), BOS)
    assert twice.holds is False and "sequence 1" in twice.says and "has two of them" in twice.says
    absent = invariants.one_bos(batch(tokens=edited(TOKENS, (1, 0, 0), 9)), BOS)
    assert absent.holds is False and "sequence 2" in absent.says and "none at its start" in absent.says
    moved = {name: np.roll(array, 1, -1) for name, array in batch().items()}  # padded on the left
    moved["attention_mask"] = np.roll(ATTENTION & (np.arange(LENGTH) < 5), 1, -1)
    assert invariants.one_bos(moved, BOS).holds
    later = invariants.one_bos(batch(tokens=edited(TOKENS, (0, 1, 2), BOS)), BOS)  # a template that begins each turn so
    assert later.holds
    both = np.where(TOKENS == EOS, BOS, TOKENS)  # one token for both ends, as in GPT-2
    assert invariants.one_bos(batch(tokens=both), BOS).holds


def test_the_end_of_sequence_is_trained() -> None:
    assert invariants.eos_is_trained(batch(), (EOS,), PAD, LENGTH).holds
    padded = batch(tokens=np.where(TOKENS == PAD, EOS, TOKENS))  # pad is the end of sequence
    found = invariants.eos_is_trained(padded, (EOS,), EOS, LENGTH)
    assert found.holds and "which pads as well" in found.says and "in 3 responses" in found.says
    masked = batch(tokens=padded["tokens"], loss_mask=LOSS & (padded["tokens"] != EOS))
    found = invariants.eos_is_trained(masked, (EOS,), EOS, LENGTH)
    assert found.holds is False and "not trained in 2 responses (the first: 0)" in found.says
    assert "masked because it is the pad token too" in found.says
    # The cut response is no mistake, unless there was room for its end.
    assert invariants.eos_is_trained(batch(), (EOS,), PAD, LENGTH + 1).holds is False


@pytest.mark.parametrize(
    ("specials", "size", "vocab", "says"),
    [
        ({"bos": 1}, 11, 10, "the tokenizer has 11 tokens"),
        ({"pad": 10}, 10, 10, "pad is 10"),
        ({}, 9, 9, "the data hold token 9"),
    ],
)
def test_the_tokenizer_fits(specials: dict[str, int], size: int, vocab: int, says: str) -> None:
    assert invariants.tokenizer_fits(batch(), {"bos": 1, "eos": 2, "pad": None}, 10, 10).holds
    found = invariants.tokenizer_fits(batch(), specials, size, vocab)
    assert found.holds is False and says in found.says


def test_what_fails_is_refused_with_every_reason() -> None:
    good, bad = invariants.Check("bos", True, "fine"), invariants.Check("eos", False, "masked")
    invariants.require([good, invariants.Check("bos", None, "has none")])
    with pytest.raises(UsageError, match="check eos failed: masked; check eos failed: masked"):
        invariants.require([bad, good, bad])
    assert str(good) == "check bos: ok: fine" and str(bad) == "check eos: FAILED: masked"
