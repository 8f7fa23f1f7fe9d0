"""Rows of text to arrays: what is masked, what is refused, and at which line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignjax import lm
from alignjax.lm.text import BOS, EOS, PAD

PAIR = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What"}
SAMPLED = {"prompt": "Hi", "responses": ["a", "b"], "preference": 0.75, "rewards": [1, -1.5]}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_text_goes_both_ways() -> None:
    text = "naïve ☃\n\0"
    assert lm.decode([BOS, *lm.encode(text), EOS, PAD]) == text
    assert lm.decode([0xFF, ord("a")]) == "\ufffda"


def test_prompt_is_masked_on_both_sides_and_eos_is_trained(tmp_path: Path) -> None:
    data = lm.read_preferences(write(tmp_path / "a", PAIR, b"", {**PAIR, "extra": 1}), max_length=32)
    assert len(data) == 2 and data.num_responses == 2 and data.tokens.shape == (2, 2, 16) and not data.feedback
    for k, text in enumerate(("Hello!", "What")):
        row = [BOS, *b"Hi", *text.encode(), EOS]
        n = len(row)
        np.testing.assert_array_equal(data.tokens[0, k], row + [PAD] * (16 - n))
        np.testing.assert_array_equal(data.loss_mask[0, k], [0] * 3 + [1] * (n - 3) + [0] * (16 - n))
        np.testing.assert_array_equal(data.attention_mask[0, k], [1] * n + [0] * (16 - n))


def test_feedback_becomes_fields_of_samples(tmp_path: Path) -> None:
    """win_rate[0] = P(0 beats 1) = 0.75, win_rate[1] = P(1 beats 0) = 0.25; among three, the mean over the others."""
    data = lm.read_preferences(write(tmp_path / "a", {**SAMPLED, "behaviour_logps": [-3, -4]}), max_length=32)
    np.testing.assert_allclose(data.feedback["preference"], [[[0.5, 0.75], [0.25, 0.5]]])
    np.testing.assert_allclose(data.feedback["win_rate"], [[0.75, 0.25]])
    np.testing.assert_allclose(data.feedback["reward"], [[1, -1.5]])
    np.testing.assert_allclose(data.feedback["behaviour_logp"], [[-3, -4]])
    matrix = [[0.5, 0.9, 0.6], [0.1, 0.5, 0.3], [0.4, 0.7, 0.5]]
    three = {"prompt": "Hi", "completions": ["a", "b", "c"], "preference": matrix}
    data = lm.read_preferences(write(tmp_path / "b", three), max_length=32)
    np.testing.assert_allclose(data.feedback["win_rate"], [[0.75, 0.2, 0.55]], rtol=1e-6)


def test_long_responses_are_cut_at_their_end_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a", PAIR, {**PAIR, "rejected": "no"})
    with pytest.warns(UserWarning, match=r"2 of 4 responses were cut at max_length = 8"):
        data = lm.read_preferences(path, max_length=8)
    assert data.truncated == 2
    np.testing.assert_array_equal(data.tokens[0, 0], [BOS, *b"HiHello"])  # no EOS: it does not end there
    np.testing.assert_array_equal(data.tokens[0, 1], [BOS, *b"HiWhat", EOS])


def test_batches_shuffle_by_seed_and_cover_an_epoch(tmp_path: Path) -> None:
    path = write(tmp_path / "a", *({**PAIR, "chosen": chr(65 + n)} for n in range(7)))
    data = lm.read_preferences(path, max_length=32)

    def first(seed: int, count: int) -> list[list[int]]:
        batches = data.batches(3, seed)
        return [next(batches)["tokens"][:, 0, 3].tolist() for _ in range(count)]

    assert first(0, 6) == first(0, 6) != first(1, 6)
    taken = first(0, 4)
    assert len({*taken[0], *taken[1]}) == 6 and len({*taken[2], *taken[3]}) == 6  # two of three-and-a-bit per epoch
    assert taken[:2] != taken[2:]
    with pytest.raises(ValueError, match="batch_size = 8 is more than the 7 prompts"):
        next(data.batches(8))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"prompt": ', r"not JSON \(Expecting value at column"),
        (b'{"prompt": "\xff"}', "not UTF-8 text"),
        ([1], "a row must be an object with columns, got a list .JSONL has one object to a line, without brackets"),
        ({"chosen": "a", "rejected": "b"}, "missing 'prompt', and 'chosen' and 'rejected' do not begin alike"),
        (
            {"prompt": "a", "choosen": "b"},
            r"missing 'chosen' and 'rejected' \(or 'responses'\) \(is 'choosen' meant\?\)",
        ),
        ({"prompt": "a", "chosen": "b"}, "missing 'rejected'"),
        ({**PAIR, "prompt": ""}, "'prompt' is empty"),
        ({**PAIR, "rejected": ""}, "'rejected' is empty"),
        ({**PAIR, "chosen": 3}, "'chosen' must be a text, got a number"),
        ({**PAIR, "prompt": [{"role": "user"}]}, r"missing 'content' in prompt\[0\]"),
        ({**PAIR, "chosen": "What"}, "'chosen' and 'rejected' are identical"),
        ({**PAIR, "chosen": "x" * 40, "rejected": "x" * 41}, "identical once cut at max_length = 32"),
        ({**PAIR, "prompt": "x" * 31}, "'prompt' has 32 tokens with BOS; no room is left"),
        ({**PAIR, "chosen": "\ud800"}, "'chosen' holds half a surrogate pair"),
        ({**PAIR, "responses": ["a", "b"]}, "the columns 'chosen', 'rejected', 'responses' exclude each other"),
        ({**SAMPLED, "responses": "ab"}, "'responses' must be a list of texts, got a text"),
        ({**SAMPLED, "responses": []}, "'responses' is empty"),
        ({**SAMPLED, "responses": ["a", None]}, r"'responses\[1\]' must be a text, got null"),
        ({**SAMPLED, "preference": 1.5}, r"'preference' must hold probabilities in \[0, 1\], got 1.5"),
        ({**SAMPLED, "preference": True}, "'preference' must be a number, got a truth value"),
        (
            b'{"prompt": "a", "responses": ["b", "c"], "preference": NaN}',
            "'preference' must be a finite number, got nan",
        ),
        (
            {**SAMPLED, "rewards": [1e39, 1.0]},
            r"'rewards\[0\]' must be a finite number, got 1e\+39; float32 holds 3.4e",
        ),
        ({**SAMPLED, "preference": [[0.5, 0.7], [0.7, 0.5]]}, r"must satisfy P \+ P\^T = 1: at \(0, 1\)"),
        ({**SAMPLED, "preference": [[0.5, 0.7]]}, "'preference' must be 2 rows of 2 numbers, got 1 rows"),
        ({**SAMPLED, "responses": ["a", "b", "c"]}, "3 responses need a 3 x 3 matrix"),
        ({**SAMPLED, "rewards": [1]}, "'rewards' must be a list of 2 numbers, one per response, got 1 of them"),
        ({**SAMPLED, "behaviour_logps": [1, -1]}, "'behaviour_logps' must be log-probabilities, <= 0, got 1"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: .*" + message):
        lm.read_preferences(write(tmp_path / "rows.jsonl", PAIR, b"", row), max_length=32, too_long="error")


def test_rows_of_a_file_are_alike_and_there_are_some(tmp_path: Path) -> None:
    mixed = write(tmp_path / "mixed.jsonl", SAMPLED, {k: v for k, v in SAMPLED.items() if k != "rewards"})
    with pytest.raises(ValueError, match=r"line 2: it has 2 responses and preference, but line 1 has .* and rewards"):
        lm.read_preferences(mixed, max_length=32)
    with pytest.raises(ValueError, match="holds no rows"):
        lm.read_preferences(write(tmp_path / "empty.jsonl"), max_length=32)
