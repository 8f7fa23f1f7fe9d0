"""The columns everyone uses: plain and conversational, JSONL and Parquet, cut and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from alignjax import lm
from alignjax.lm.text import BOS, EOS
from tests.lm.conversations import FOLDERS, FOUR, TWO

CHATML = lm.load_tokenizer(FOLDERS / "chatml")
HEADERS = lm.load_tokenizer(FOLDERS / "headers")
PAIR = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What"}
BAD = [{"role": "assistant", "content": "no"}]
CHAT_PAIR = {"prompt": TWO[:1], "chosen": TWO[1:], "rejected": BAD}
BOS_BYTES = [BOS]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sequences(data: lm.PreferenceData, row: int = 0) -> list[tuple[list[int], list[int]]]:
    """Of each response: all tokens, and those trained on."""
    return [
        (
            data.tokens[row, k][data.attention_mask[row, k]].tolist(),
            data.tokens[row, k][data.loss_mask[row, k]].tolist(),
        )
        for k in range(data.num_responses)
    ]


def test_conversations_are_what_generation_sees_and_says(tmp_path: Path) -> None:
    """The prompt's tokens are those of `chat`, the response ends with the end of turn; no newline after it."""
    for tokenizer in (CHATML, HEADERS, lm.ByteTokenizer()):
        data = lm.read_preferences(write(tmp_path / "a", CHAT_PAIR), max_length=200, tokenizer=tokenizer)
        prompt = tokenizer.chat(TWO[:1])
        end = {CHATML: "<|im_end|>", HEADERS: "<|eot_id|>"}.get(tokenizer, "<|eos|>")
        for (tokens, trained), said in zip(sequences(data), ("a", "no"), strict=True):
            assert trained == tokenizer.encode(said + end)
            assert tokens == prompt + trained
        assert data.prompt_texts == ("q",)


def test_the_prompt_may_stand_in_the_responses(tmp_path: Path) -> None:
    """Messages or text in common; a plain prompt beside conversations is the same again (as of UltraFeedback)."""
    explicit = lm.read_preferences(write(tmp_path / "a", CHAT_PAIR), max_length=200, tokenizer=CHATML)
    whole = {"chosen": TWO, "rejected": TWO[:1] + BAD}
    for row in (whole, {"prompt": "q", "messages": TWO, **whole}, {"prompt": TWO[:1], **whole}):
        data = lm.read_preferences(write(tmp_path / "b", row), max_length=200, tokenizer=CHATML)
        np.testing.assert_array_equal(data.tokens, explicit.tokens)
        np.testing.assert_array_equal(data.loss_mask, explicit.loss_mask)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("\n\nHuman: Hi\n\nAssistant: Yes.", "\n\nHuman: Hi\n\nAssistant: Yesterday.", "\n\nHuman: Hi\n\nAssistant:"),
        ("The sky is blue.", "The sky is brown.", "The sky is"),
        ("A: yes", "A: yes indeed", "A:"),
    ],
)
def test_texts_are_split_after_the_last_turn_or_word_they_share(
    tmp_path: Path, chosen: str, rejected: str, prompt: str
) -> None:
    data = lm.read_preferences(write(tmp_path / "a", {"chosen": chosen, "rejected": rejected}), max_length=64)
    assert data.prompt_texts == (prompt,)
    for (tokens, trained), text in zip(sequences(data), (chosen, rejected), strict=True):
        assert tokens == [*BOS_BYTES, *text.encode(), EOS]
        assert trained == [*text[len(prompt) :].encode(), EOS]


def test_other_names_of_columns_are_read(tmp_path: Path) -> None:
    named = {"prompts": "Hi", "chosen_responses": "Hello!", "rejected_responses": "What"}
    data = lm.read_preferences(write(tmp_path / "a", named, PAIR), max_length=32)
    np.testing.assert_array_equal(data.tokens[0], data.tokens[1])


def test_unpaired_responses_have_labels_and_groups_have_rewards(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "completion": "a", "label": True}, {"prompt": "Hi", "completion": "b", "label": 0}]
    data = lm.read_preferences(write(tmp_path / "a", *rows), max_length=32)
    assert data.num_responses == 1
    np.testing.assert_array_equal(data.feedback["label"], [[1], [0]])
    group = {"prompt": "Hi", "completions": ["a", "b", "c"], "rewards": [[1, 2], [3, 4], [5, 6.5]]}
    data = lm.read_preferences(write(tmp_path / "b", group), max_length=32)
    np.testing.assert_array_equal(data.feedback["rewards"], [[[1, 2], [3, 4], [5, 6.5]]])
    data = lm.read_preferences(write(tmp_path / "c", {**group, "rewards": [1, 2, 3]}), max_length=32)
    np.testing.assert_array_equal(data.feedback["reward"], [[1, 2, 3]])


def test_several_files_and_parquet_are_read_alike(tmp_path: Path) -> None:
    rows = [CHAT_PAIR, {**CHAT_PAIR, "rejected": [{"role": "assistant", "content": "never"}]}]
    lines = lm.read_preferences(write(tmp_path / "a.jsonl", *rows), max_length=200)
    table = pa.Table.from_pylist([{**row, "unused": None} for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    data = lm.read_preferences([tmp_path / "b.parquet", tmp_path / "a.jsonl"], max_length=200)
    np.testing.assert_array_equal(data.tokens, np.concatenate([lines.tokens] * 2))


def test_messages_are_trained_on_where_the_assistant_speaks(tmp_path: Path) -> None:
    data = lm.read_supervised(write(tmp_path / "a", {"messages": FOUR}), max_length=200)
    ((tokens, trained),) = sequences(data)
    assert bytes(t for t in tokens if t < BOS) == b"user: q\nassistant: a\nuser: r\nassistant: b"
    assert trained == [ord("a"), EOS, ord("b"), EOS] and not data.feedback and data.num_responses == 1
    assert data.prompt_texts == ("user: q\nassistant: a\nuser: r",)
    assert lm.read_prompts(tmp_path / "a", max_prompt_length=99).prompt_texts == data.prompt_texts
    for row in ({"prompt": "Hi", "completion": "Yo", "label": True}, {"prompt": TWO[:1], "completion": TWO[1:]}):
        data = lm.read_supervised(write(tmp_path / "b", row), max_length=200)
        said = "Yo" if row["prompt"] == "Hi" else "a"
        assert sequences(data)[0][1] == [*said.encode(), EOS] and not data.feedback


def test_prompts_are_padded_on_the_left_and_keep_their_columns(tmp_path: Path) -> None:
    rows = [{"prompt": "Hello", "answer": 3}, {"prompt": "Hi", "answer": 4, "more": 1}]
    data = lm.read_prompts(write(tmp_path / "a", *rows), max_prompt_length=32)
    assert data.prompts.shape == (2, 16)
    np.testing.assert_array_equal(data.prompts[1, -3:], [BOS, *b"Hi"])
    np.testing.assert_array_equal(data.prompt_mask.sum(-1), [6, 3])
    assert (np.sort(data.prompt_mask, -1) == data.prompt_mask).all()  # zeros, then ones
    assert data.prompt_texts == ("Hello", "Hi") and data.columns == {"answer": (3, 4)}


def test_any_file_has_prompts(tmp_path: Path) -> None:
    """Those that its own reader would find: a conversation is ready to be answered."""
    for row in (CHAT_PAIR, {"chosen": TWO, "rejected": TWO[:1] + BAD}, {"messages": TWO}, {"prompt": TWO[:1]}):
        data = lm.read_prompts(write(tmp_path / "a", row), max_prompt_length=99, tokenizer=CHATML)
        assert data.prompts[0][data.prompt_mask[0]].tolist() == CHATML.chat(TWO[:1])


def test_kinds_are_told_by_columns(tmp_path: Path) -> None:
    rows = {
        "pairs": PAIR, "responses": {"prompt": "a", "responses": ["b"]}, "messages": {"messages": TWO},
        "unpaired": {"prompt": "a", "completion": "b", "label": True}, "completion": {"prompt": "a", "completion": "b"},
        "prompts": {"prompts": "a"},
    }  # fmt: skip
    assert {lm.data_kind(write(tmp_path / "a", row)) for row in rows.values()} == set(rows)
    for kind, row in rows.items():
        assert lm.data_kind(write(tmp_path / "a", row)) == kind
    with pytest.raises(lm.DataError, match=r"line 1: missing 'prompt' or 'messages' \(is 'promt' meant\?\)"):
        lm.data_kind(write(tmp_path / "a", {"promt": "a"}))


@pytest.mark.parametrize("limit", [{"max_length": 8}, {"max_length": 32, "max_prompt_length": 7}])
def test_prompts_that_are_too_long(tmp_path: Path, limit: dict[str, int]) -> None:
    """`abcdefgh` and BOS are 9 tokens: 8 of room, or 7 allowed."""
    path = write(tmp_path / "a", PAIR | {"chosen": "x", "rejected": "y"}, PAIR | {"prompt": "abcdefgh"})
    with pytest.warns(UserWarning, match=r"1 of 2 rows were left out: their prompt has more than 7 tokens"):
        data = lm.read_preferences(path, **limit)
    assert (len(data), data.dropped, data.rows_read, data.prompts_cut) == (1, 1, 2, 0)
    with pytest.raises(lm.DataError, match=r"a, line 2: 'prompt' has 9 tokens with BOS"):
        lm.read_preferences(path, too_long="error", **limit)
    with pytest.raises(ValueError, match="unknown too_long 'cut'"):
        lm.read_preferences(path, too_long="cut", **limit)
    kept = b"fgh" if limit["max_length"] == 8 else b"cdefgh"  # half of 8 tokens, or 7, BOS among them
    with pytest.warns(UserWarning, match=r"1 of 2 prompts had more than 7 tokens; their last|responses were cut"):
        data = lm.read_preferences(path, too_long="truncate_left", **limit)
    assert (len(data), data.dropped, data.prompts_cut) == (2, 0, 1)
    assert (
        data.tokens[1, 0, : len(kept) + 1].tolist() == [BOS, *kept] and not data.loss_mask[1, 0, : len(kept) + 1].any()
    )
    with pytest.raises(lm.DataError, match=r"a: no row is left\. 1 of 1 rows were left out"):
        lm.read_preferences(write(tmp_path / "a", PAIR | {"prompt": "abcdefgh"}), **limit)


def test_a_pair_that_is_the_same_once_cut_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a", PAIR, PAIR | {"chosen": "x" * 40, "rejected": "x" * 41})
    with pytest.warns(UserWarning, match="1 of 2 rows were left out"):
        data = lm.read_preferences(path, max_length=32)
    assert len(data) == 1 and data.truncated == 0


def test_long_prompts_of_online_methods(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"prompt": "abcdefgh"}, {"prompt": "abc"})
    with pytest.warns(UserWarning, match="more than 7 tokens"):
        assert lm.read_prompts(path, max_prompt_length=7).prompt_texts == ("abc",)
    with pytest.warns(UserWarning, match="their last 7 are kept"):
        data = lm.read_prompts(path, max_prompt_length=7, too_long="truncate_left")
    assert data.prompts[0].tolist() == [BOS, *b"cdefgh"] and data.prompts_cut == 1


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        ("preferences", {"prompt": "a", "completion": "b"}, r"missing 'label' \(prompt and completion alone"),
        ("preferences", {"prompt": "a", "completion": "b", "label": "yes"}, "'label' must be true or false"),
        ("preferences", {"prompt": "a", "completion": "b", "chosen": "c"}, "'chosen', 'completion' exclude each other"),
        ("preferences", {"prompt": "a"}, r"missing 'chosen' and 'rejected' \(or 'responses'\); the row has 'prompt'"),
        ("preferences", {"prompt": "a", "chosen": TWO[1:], "rejected": "b"}, "must both be texts or both conv"),
        ("preferences", {**CHAT_PAIR, "chosen": TWO[:1]}, "'chosen' must end with a message of the assistant"),
        ("preferences", {**CHAT_PAIR, "prompt": TWO}, "the prompt ends with a message of the assistant"),
        ("preferences", {**CHAT_PAIR, "prompt": [{"role": "user"}]}, r"missing 'content' in prompt\[0\]"),
        ("preferences", {**CHAT_PAIR, "prompt": []}, "'prompt' is empty"),
        ("preferences", {**CHAT_PAIR, "chosen": [{"role": "assistant", "content": ""}]}, "content' is empty"),
        ("preferences", {**CHAT_PAIR, "chosen": [{"role": "assistant", "content": [1]}]}, "must be a text, got a list"),
        ("preferences", {"prompt": "a", "responses": ["b"], "rewards": [[1], [2]]}, "a list of 1 numbers"),
        ("preferences", {"prompt": "a", "responses": ["b", "c"], "rewards": [[1], [2, 3]]}, "as many objectives"),
        ("supervised", {"messages": TWO[:1]}, "holds none of the assistant"),
        ("supervised", {"messages": "a"}, "'messages' must be a list of messages"),
        (
            "supervised",
            {"prompt": "p", "chosen": "c"},
            r"missing 'messages' \(or 'prompt' and 'completion'\); the row has",
        ),
        ("supervised", {"message": TWO}, r"missing 'messages' \(or 'prompt' and 'completion'\) \(is 'message' meant"),
        ("supervised", {"messages": FOUR[1:]}, "the first message is the assistant's"),
        ("prompts", {"prompt": "a", "tools": "{"}, "'tools' is a text that is not JSON"),
        ("prompts", {"prompt": "a", "tools": {"a": 1}}, "'tools' must be a list, got an object"),
        (
            "prompts",
            {"prompt": "a", "chat_template_kwargs": "a"},
            "'chat_template_kwargs' must be an object, got a text",
        ),
        *(
            (read, row | {"chat_template_kwargs": {name: False}}, f"'chat_template_kwargs' must not hold {name!r}")
            for read, row in (("preferences", CHAT_PAIR), ("supervised", {"messages": TWO}), ("prompts", CHAT_PAIR))
            for name in ("add_generation_prompt", "messages", "tokenizer", "self")
        ),
        ("prompts", {"question": "a"}, "missing 'prompt'"),
        ("prompts", {"prompt": TWO}, "the prompt ends with a message of the assistant"),
    ],
)
def test_what_a_row_lacks_is_told(tmp_path: Path, read: str, row: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(lm.DataError, match=r"rows\.jsonl, line 1: .*" + message):
        if read == "prompts":
            lm.read_prompts(path, max_prompt_length=99, tokenizer=CHATML)
        else:
            getattr(lm, f"read_{read}")(path, max_length=99, tokenizer=CHATML)


def test_places_are_named_across_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", PAIR), write(tmp_path / "b", PAIR, {**PAIR, "rewards": [1, 2]})
    with pytest.raises(lm.DataError, match=r"b, line 2: it has 2 responses and rewards, but .*a, line 1 has 2 resp"):
        lm.read_preferences([first, second], max_length=32)
    table = pa.Table.from_pylist([PAIR, {**PAIR, "chosen": None}])
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(lm.DataError, match=r"c\.parquet, row 2: missing 'chosen'"):
        lm.read_preferences(tmp_path / "c.parquet", max_length=32)
    (tmp_path / "d.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-9])
    with pytest.raises(lm.DataError, match=r"d\.parquet, after row 0: not usable Parquet"):
        lm.read_preferences(tmp_path / "d.parquet", max_length=32)
    with pytest.raises(ValueError, match="at least one file"):
        lm.read_preferences([], max_length=32)


def test_a_template_that_renders_the_prompt_anew_is_refused(tmp_path: Path) -> None:
    """The generation prompt opens a thought that the whole conversation does not have."""
    think = "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    tokenizer = lm.load_tokenizer(FOLDERS / "chatml", chat_template=think)
    with pytest.raises(lm.DataError, match=r"line 1: the chat template renders the prompt differently"):
        lm.read_preferences(write(tmp_path / "a", CHAT_PAIR), max_length=99, tokenizer=tokenizer)


def test_tools_and_variables_reach_the_template(tmp_path: Path) -> None:
    """`tools` as a list or as JSON; a message that calls one need not say anything."""
    source = (
        "{{ tools | tojson }}{{ mood }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = lm.load_tokenizer(FOLDERS / "chatml", chat_template=source)
    call = [{"role": "assistant", "tool_calls": ["f"], "content": None}]
    for tools in ([{"name": "f"}], '[{"name": "f"}]'):
        row = {
            "prompt": TWO[:1],
            "chosen": call,
            "rejected": BAD,
            "tools": tools,
            "chat_template_kwargs": {"mood": "!"},
        }
        data = lm.read_preferences(write(tmp_path / "a", row), max_length=99, tokenizer=tokenizer)
        asked = '[{"name": "f"}]![user]q[assistant]'
        for (tokens, _), said in zip(sequences(data), ('["f"]', "no"), strict=True):
            assert tokens == [*tokenizer.encode(asked + said), tokenizer.eos]
        prompts = lm.read_prompts(tmp_path / "a", max_prompt_length=99, tokenizer=tokenizer)
        assert tokenizer.decode(prompts.prompts[0][prompts.prompt_mask[0]]) == asked
        messages = write(tmp_path / "b", {**row, "messages": TWO[:1] + call})
        supervised = lm.read_supervised(messages, max_length=99, tokenizer=tokenizer)
        assert sequences(supervised)[0] == sequences(data)[0]


def test_responses_of_several_messages_are_trained_on_in_part(tmp_path: Path) -> None:
    """What the user says in between is not."""
    row = {"prompt": FOUR[:1], "chosen": FOUR[1:], "rejected": BAD}
    data = lm.read_preferences(write(tmp_path / "a", row), max_length=200)
    tokens, trained = sequences(data)[0]
    assert trained == [ord("a"), EOS, ord("b"), EOS]
    assert tokens == sequences(lm.read_supervised(write(tmp_path / "b", {"messages": FOUR}), max_length=200))[0][0]
