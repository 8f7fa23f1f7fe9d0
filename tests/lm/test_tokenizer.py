"""Tokens as `transformers` makes them; one beginning, a trained end, and folders that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers

from alignjax import lm
from alignjax.lm.chat import TemplateError
from alignjax.lm.tokenizer import begin, chat_trained, continue_tokens
from tests.lm.conversations import EXPECTED, FOLDERS, FOUR, TWO

HEADERS, CHATML, INST = (lm.load_tokenizer(FOLDERS / name) for name in ("headers", "chatml", "inst"))
MARKED = lm.load_tokenizer(FOLDERS / "chatml", chat_template="marked")
BYTES = lm.ByteTokenizer()
ALL = pytest.mark.parametrize("tokenizer", [BYTES, HEADERS, CHATML, MARKED, INST])


def words(tokenizer: Any, tokens: list[int], kept: list[bool]) -> str:
    """The trained tokens as text, ends of turn as |."""
    assert len(tokens) == len(kept)
    said = ["|" if t in tokenizer.stops else tokenizer.decode([t]) for t, k in zip(tokens, kept, strict=True) if k]
    return "".join(said)


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: f"{row['folder']}-{row['template']}-{row['conversation']}")
def test_chats_are_the_tokens_of_transformers(row: dict[str, Any]) -> None:
    """And so are the masks, where `transformers` has one: with generation blocks."""
    tokenizer = lm.load_tokenizer(FOLDERS / row["folder"], chat_template=row["template"])
    tokens = tokenizer.chat(row["messages"], row["add_generation_prompt"])
    assert tokens == row["tokens"]
    if any(row.get("mask", [])):
        tokens, trained = chat_trained(tokenizer, row["messages"])
        end = len(row["mask"]) - row["mask"][::-1].index(1)
        assert (tokens, trained) == (row["tokens"][:end], list(map(bool, row["mask"][:end])))


@ALL
def test_the_assistant_and_the_end_of_its_turns_are_trained_on(tokenizer: Any) -> None:
    """Not the headers that prompt it, and not the newline that a template writes after the end of a turn."""
    tokens, trained = chat_trained(tokenizer, FOUR)
    assert words(tokenizer, tokens, trained).replace(" ", "") == "a|b|"
    first = trained.index(True)
    assert tokens[:first] == tokenizer.chat(TWO[:1])  # what generation sees before it says "a"
    assert trained[-1] and tokens[-1] in tokenizer.stops


def test_the_end_of_turn_is_trained_on_where_a_block_leaves_it_out() -> None:
    source = (FOLDERS / "chatml" / "tokenizer_config.json").read_text(encoding="utf-8")
    template = json.loads(source)["chat_template"][1]["template"]
    outside = template.replace("message.content + '<|im_end|>' }}{% endgen", "message.content }}{% endgen")
    outside = outside.replace("{% endgeneration %}", "{% endgeneration %}{{ '<|im_end|>' }}")
    assert outside != template
    tokenizer = lm.load_tokenizer(FOLDERS / "chatml", chat_template=outside)
    assert chat_trained(tokenizer, FOUR) == chat_trained(MARKED, FOUR)
    silent = lm.load_tokenizer(FOLDERS / "chatml", chat_template=template.replace("+ '<|im_end|>'", ""))
    tokens, trained = chat_trained(silent, TWO)  # no end in the text: ours is added, and trained on
    assert tokens[-1] == silent.eos and words(silent, tokens, trained) == "a|"


@ALL
def test_one_beginning_of_sequence(tokenizer: Any) -> None:
    """Whether or not template (headers, inst) and post-processor (headers, inst) write one; chatml has none."""
    for tokens in (tokenizer.chat(FOUR), chat_trained(tokenizer, FOUR)[0], begin(tokenizer, tokenizer.encode("Hi"))):
        if tokenizer.bos is None:
            assert tokenizer is CHATML or tokenizer is MARKED
        else:
            assert tokens[0] == tokenizer.bos and tokens[1] != tokenizer.bos
    assert tokenizer.bos not in tokenizer.encode("Hi")
    if tokenizer.bos is not None:
        assert begin(tokenizer, [tokenizer.bos, tokenizer.bos, 7]) == begin(tokenizer, [7]) == [tokenizer.bos, 7]


def test_a_folder_may_say_that_nothing_begins_a_sequence(tmp_path: Path) -> None:
    copied(tmp_path, "headers", tokenizer_config={"add_bos_token": False})
    assert lm.load_tokenizer(tmp_path).bos is None


@pytest.mark.parametrize("adds", ["bos", "nothing", "eos"])
def test_a_folder_that_does_not_say_has_the_beginning_that_its_post_processor_adds(tmp_path: Path, adds: str) -> None:
    """As the `tokenizers` library runs it; `add_bos_token` overrules it, and a template that writes one keeps it."""
    first = HEADERS.encode("<|begin_of_text|>")
    after = json.loads((FOLDERS / "headers" / "tokenizer.json").read_text(encoding="utf-8"))["post_processor"]
    after["single"] = after["single"] if adds == "bos" else after["single"][::-1]  # the text, and then the token
    copied(tmp_path, "headers", tokenizer={"post_processor": None if adds == "nothing" else after})
    tokenizer = lm.load_tokenizer(tmp_path)
    assert (tokenizer.bos is not None) == (adds == "bos")
    if adds != "eos":
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("Hello there").ids
        assert begin(tokenizer, tokenizer.encode("Hello there")) == theirs
    assert tokenizer.chat(TWO) == HEADERS.chat(TWO) and tokenizer.chat(TWO)[:1] == first
    copied(tmp_path, "headers", tokenizer={"post_processor": None}, tokenizer_config={"add_bos_token": True})
    assert [lm.load_tokenizer(tmp_path).bos] == first


def test_the_tokens_named_in_a_folder() -> None:
    ids = {name: HEADERS.encode(name) for name in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")}
    assert [HEADERS.bos] == ids["<|begin_of_text|>"]
    assert [[stop] for stop in HEADERS.stops] == [ids["<|end_of_text|>"], ids["<|eot_id|>"]]  # of generation_config
    assert HEADERS.pad == HEADERS.eos == HEADERS.stops[0]  # no pad token is named
    assert CHATML.pad == CHATML.eos and [CHATML.eos] == CHATML.encode("<|im_end|>")
    assert (INST.bos, INST.eos) == (1, 2)  # of special_tokens_map.json, first in the vocabulary


@ALL
def test_text_goes_both_ways(tokenizer: Any) -> None:
    text = "naïve ☃ jumps over, twice.\n"
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(begin(tokenizer, [*tokens, tokenizer.eos])) == text
    again, spans = tokenizer.encode_spans(text)
    assert again == tokens and len(spans) == len(tokens) and spans[-1][1] == len(text)


@ALL
def test_a_response_follows_the_prompt_that_generation_sees(tokenizer: Any) -> None:
    """Also where letters of both would make one token, and where a space would be put before a text by itself."""
    for before, after in (("The quick bro", "wn fox"), ("Two plus", " two"), ("Two\n", "\nplus"), ("Wow", "☃!")):
        prompt = tokenizer.encode(before)
        assert tokenizer.decode([*prompt, *continue_tokens(tokenizer, before, prompt, after)]) == before + after
    assert HEADERS.encode("The quick brown fox")[: len(HEADERS.encode("The quick bro"))] != HEADERS.encode(
        "The quick bro"
    )


def test_bytes_are_a_folder_too(tmp_path: Path) -> None:
    """The `tokenizers` library reads from what `save` writes what `str.encode` gives."""
    BYTES.save(tmp_path / "a")
    read = lm.load_tokenizer(tmp_path / "a")
    read.save(tmp_path / "b")
    for tokenizer in (read, lm.load_tokenizer(tmp_path / "b")):
        text = "naïve ☃\n\0<|eos|>x"
        assert tokenizer.encode(text) == [*"naïve ☃\n\0".encode(), BYTES.eos, *b"x"] == BYTES.encode(text)
        same = ("bos", "eos", "pad", "stops", "vocab_size")
        assert all(getattr(tokenizer, name) == getattr(BYTES, name) for name in same)
        assert tokenizer.chat(FOUR) == BYTES.chat(FOUR) and chat_trained(tokenizer, FOUR) == chat_trained(BYTES, FOUR)


def test_a_saved_tokenizer_is_the_same_with_the_template_in_use(tmp_path: Path) -> None:
    for n, tokenizer in enumerate((HEADERS, CHATML, MARKED, INST)):
        tokenizer.save(tmp_path / str(n))
        read = lm.load_tokenizer(tmp_path / str(n))
        read.save(tmp_path / str(n))  # onto itself
        assert read.stops == tokenizer.stops and chat_trained(read, FOUR) == chat_trained(tokenizer, FOUR)
        assert read.template is not None and tokenizer.template is not None
        assert read.template.source == tokenizer.template.source
    assert not (tmp_path / "1" / "chat_template.jinja").exists()  # it has its own


def test_a_tokenizer_must_fit_the_model() -> None:
    lm.check_fits(BYTES, lm.preset("tiny"))
    lm.check_fits(BYTES, SimpleNamespace(vocab_size=259))
    with pytest.raises(ValueError, match=r"ids reach 258, but the model embeds 258 tokens \(ids 0..257\)"):
        lm.check_fits(BYTES, SimpleNamespace(vocab_size=258))


def copied(folder: Path, name: str, **changed: dict[str, Any] | str) -> Path:
    for path in (FOLDERS / name).iterdir():
        shutil.copy(path, folder)
    for file, change in changed.items():
        path = folder / f"{file}.json"
        if isinstance(change, str):
            path.write_text(change, encoding="utf-8")
        else:
            there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps(there | change), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer": '{"version": "1.0"'}, r"tokenizer\.json is no tokenizer"),
        ({"tokenizer_config": "[1]"}, r"tokenizer_config\.json must hold an object, got list"),
        ({"tokenizer_config": "{"}, r"tokenizer_config\.json is not JSON"),
        ({"tokenizer_config": {"eos_token": "<none>"}}, "eos_token '<none>' is not in tokenizer.json"),
        ({"tokenizer_config": {"eos_token": None}, "generation_config": "{}"}, "names no end of sequence"),
        ({"tokenizer_config": {"chat_template": [{"name": "a", "template": ""}]}}, "no default chat template; .* a"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told_why(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm.load_tokenizer(copied(tmp_path, "headers", **changed))


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        lm.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.model alone is not read"):
        lm.load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"'other' is no template and no name of one; .* has default, marked"):
        lm.load_tokenizer(FOLDERS / "chatml", chat_template="other")
    copied(tmp_path, "headers", tokenizer_config={"chat_template": None})
    with pytest.raises(TemplateError, match="has no chat template"):
        lm.load_tokenizer(tmp_path).chat(TWO)
