"""Rewards and judges: what users hand over is called as they expect, and checked sample by sample."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from tpu import global_arrays, rewards

PROMPTS = ["a", "b"]
TEXTS = [["one", "one two", "one two three"], ["x y", "x", ""]]


def test_a_users_function_gets_flat_lists_and_the_groups_come_back() -> None:
    seen: list[Any] = []

    def mine(prompts: list[str], completions: list[str]) -> list[float]:
        seen.append((prompts, completions))
        return [float(len(text)) for text in completions]

    got = rewards.load(mine)(PROMPTS, TEXTS)
    np.testing.assert_array_equal(got, [[3, 7, 13], [3, 1, 0]])
    assert seen == [(["a", "a", "a", "b", "b", "b"], ["one", "one two", "one two three", "x y", "x", ""])]


def test_several_rewards_are_a_vector() -> None:
    got = rewards.load("length, brevity")(PROMPTS, TEXTS)
    np.testing.assert_array_equal(got[..., 0], [[1, 2, 3], [2, 1, 0]])
    np.testing.assert_array_equal(got[..., 1], -got[..., 0])
    np.testing.assert_allclose(rewards.load("variety")(["p"], [["a a b b", ""]]), [[0.5, 0]])


def test_a_judge_is_asked_in_both_orders() -> None:
    """One who always prefers the first text prefers nobody."""
    biased = rewards.load_judge(lambda prompts, first, second: np.ones(len(prompts)))
    np.testing.assert_array_equal(biased.matrix(PROMPTS, TEXTS), np.full((2, 3, 3), 0.5))
    cyclic = rewards.load_judge("cyclic").matrix(PROMPTS, TEXTS)
    np.testing.assert_allclose(cyclic + np.swapaxes(cyclic, -1, -2), 1)
    np.testing.assert_allclose(cyclic[0, 1, 0], 0.9)  # two words beat one,
    np.testing.assert_allclose(cyclic[0, 2, 1], 0.9)  # three beat two,
    np.testing.assert_allclose(cyclic[0, 0, 2], 0.9)  # and one beats three
    against = rewards.load_judge("longer").against(PROMPTS, TEXTS, [["q q", "q q q"], ["q", "q q"]])
    np.testing.assert_array_equal(against, [[[0, 0], [0.5, 0], [1, 0.5]], [[1, 0.5], [0.5, 0], [0, 0]]])


def test_the_judge_of_a_reward_is_bradley_terry() -> None:
    matrix = rewards.load_judge("bt:length").matrix(PROMPTS, TEXTS)
    words = np.array([[1, 2, 3], [2, 1, 0]])
    wanted = 1 / (1 + np.exp(-(words[..., :, None] - words[..., None, :])))
    np.testing.assert_allclose(matrix, wanted)


ASKED = rewards.Prompts(PROMPTS, [[7], [8, 9]], {"answer": [1, 2], "unit": ["m", "s"]}, tokenizer="its tokenizer")
IDS = [[[10 * b + k] for k in range(3)] for b in range(2)]


def test_a_function_gets_the_columns_that_it_names() -> None:
    seen: dict[str, Any] = {}

    def one(prompts: list[str], completions: list[str], answer: list[int], scale: float = 2.0) -> list[float]:
        return [scale * a + len(text.split()) for a, text in zip(answer, completions, strict=True)]

    def every(prompts: list[str], completions: list[str], **named: Any) -> list[float]:
        seen.update(named)
        return [0.0] * len(completions)

    np.testing.assert_array_equal(rewards.load(one)(ASKED, TEXTS), [[3, 4, 5], [6, 5, 4]])
    rewards.load(every)(ASKED, rewards.Written(TEXTS, IDS))
    assert seen == {
        "answer": [1, 1, 1, 2, 2, 2], "unit": [*"mmmsss"], "prompt_ids": [[7]] * 3 + [[8, 9]] * 3,
        "completion_ids": [[0], [1], [2], [10], [11], [12]], "tokenizer": "its tokenizer",
    }  # fmt: skip
    with pytest.raises(rewards.FeedbackError, match=r"one takes 'answer', but no column.*\(there: unit\)"):
        rewards.load(one)(rewards.Prompts(PROMPTS, columns={"unit": ["m", "s"]}), TEXTS)


def test_a_judge_and_the_judge_of_a_reward_get_them_too() -> None:
    """With the tokens of each of the two, also when the order is turned."""
    asked: list[Any] = []

    def judge(prompts: Any, first: Any, second: Any, *, unit: Any, first_ids: Any, second_ids: Any) -> Any:
        asked.extend(zip(prompts, unit, first, first_ids, second, second_ids, strict=True))
        return [0.5] * len(prompts)

    rewards.load_judge(judge).against(ASKED, rewards.Written([["a"], ["b"]], [[[1]], [[2]]]),
                                      rewards.Written([["c"], ["d"]], [[[3]], [[4]]]))  # fmt: skip
    assert asked == [
        ("a", "m", "a", [1], "c", [3]), ("b", "s", "b", [2], "d", [4]),
        ("a", "m", "c", [3], "a", [1]), ("b", "s", "d", [4], "b", [2]),
    ]  # fmt: skip
    worth = lambda prompts, texts, answer, completion_ids: [
        a * ids[0] for a, ids in zip(answer, completion_ids, strict=True)
    ]
    matrix = rewards.bradley_terry(rewards.load(worth)).matrix(ASKED, rewards.Written(TEXTS, IDS))
    worths = np.array([[0.0, 1, 2], [20, 22, 24]])
    np.testing.assert_allclose(matrix, 1 / (1 + np.exp(worths[:, None, :] - worths[:, :, None])))


def test_processes_share_out_named_lists_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two processes is asked about its half, by position and by name."""
    seen: list[Any] = []

    def mine(prompts: Any, completions: Any, answer: Any = (), tokenizer: Any = None) -> list[float]:
        seen.append((prompts, completions, answer, tokenizer))
        return [0.0] * len(prompts)

    monkeypatch.setattr(global_arrays, "several", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(
        global_arrays.multihost_utils, "process_allgather", lambda x, tiled: np.concatenate([x, x]), raising=True
    )
    rewards.Reward("mine", global_arrays.shared(mine))(ASKED, TEXTS)
    assert seen == [(["b"] * 3, TEXTS[1], [2, 2, 2], "its tokenizer")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rewards.load(lambda p, c: [math.nan if t == "x" else 0.0 for t in c])(PROMPTS, TEXTS),
         r"returned nan for sample 4 \(prompt 1, response 1\): prompt 'b', completion 'x'"),
        (lambda: rewards.load(lambda p, c: [1e39 if t == "x" else 0.0 for t in c])(PROMPTS, TEXTS),
         r"returned 1e\+39 for sample 4 .*completion 'x'; numbers that float32 holds"),
        (lambda: rewards.load(lambda p, c: [[0.0, -1e39]] * 6)(PROMPTS, TEXTS), "for sample 0"),
        (lambda: rewards.load(lambda p, c: [0.0])(PROMPTS, TEXTS), r"must return 6 entries.* got shape \(1,\)"),
        (lambda: rewards.load(lambda p, c: ["good"] * 6)(PROMPTS, TEXTS), "must return numbers"),
        (lambda: rewards.load(lambda p, c: 1 / 0)(PROMPTS, TEXTS), "raised ZeroDivisionError"),
        (lambda: rewards.load_judge(lambda p, a, b: [1.3] * len(p)).matrix(PROMPTS, TEXTS),
         r"returned 1.3 for sample 0: prompt 'a', first 'one', second 'one two'; P\(first beats second\)"),
        (lambda: rewards.load("lenght"), "unknown reward.*did you mean 'length'"),
        (lambda: rewards.load("no_such_module:f"), "importing no_such_module raised ModuleNotFoundError"),
        (lambda: rewards.load("tpu.rewards:lenght"), "has no function 'lenght'; is 'length' meant"),
        (lambda: rewards.load_judge("bt:length,brevity").matrix(PROMPTS, TEXTS), "needs one reward, got 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
