"""Chat templates: rendered as `transformers` does, and which characters are trained on."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from alignjax.lm.chat import ChatTemplate, TemplateError
from alignjax.lm.tokenizer_folder import load_tokenizer
from tests.lm.conversations import EXPECTED, FOLDERS, FOUR, TWO

PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def trained(source: str, messages: list[dict[str, Any]]) -> list[str]:
    text, spans = ChatTemplate(source).render_trained(messages)
    assert text == ChatTemplate(source).render(messages)
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: f"{row['folder']}-{row['template']}-{row['conversation']}")
def test_renders_what_transformers_renders(row: dict[str, Any]) -> None:
    template = load_tokenizer(FOLDERS / row["folder"], chat_template=row["template"]).template
    assert template is not None
    text = template.render(row["messages"], add_generation_prompt=row["add_generation_prompt"])
    assert text == row["text"]


def test_the_assistant_s_messages_are_what_they_add_to_a_prompt() -> None:
    assert trained(PLAIN, FOUR) == ["a;", "b;"]
    assert trained(PLAIN, FOUR[:3]) == ["a;"]


def test_generation_blocks_tell_what_is_trained_on() -> None:
    source = (
        "{%- for m in messages %}[{{ m.role }}]"
        "{%- if m.role == 'assistant' %}{% generation %}{{ m.content | upper }}{% endgeneration %}"
        "{%- else %}{{ m.content }}{% endif %};{% endfor %}"
    )
    assert trained(source, FOUR) == ["A", "B"]
    assert trained(source, FOUR[:1]) == []


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    """The first drops what the assistant said before the last turn, the second has a prompt that no answer keeps."""
    forgets = PLAIN.replace("{{ m.content }}", "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}")
    with pytest.raises(TemplateError, match=r"message 1 cannot be told .* by the messages that follow.*generation"):
        ChatTemplate(forgets).render_trained(FOUR)
    thinks = PLAIN.replace("[assistant]{% endif %}", "[assistant]<think>{% endif %}")
    with pytest.raises(TemplateError, match=r"message 1 cannot be told .* by the generation prompt"):
        ChatTemplate(thinks).render_trained(TWO)
    with pytest.raises(TemplateError, match="first message is the assistant's"):
        ChatTemplate(PLAIN).render_trained(TWO[1:])


def test_the_date_is_fixed_unless_one_is_given() -> None:
    """26 July 2024 was a Friday, 1 January 2000 a Saturday."""
    source = "{{ strftime_now('%A') }}"
    assert ChatTemplate(source).render(TWO) == "Friday"
    assert ChatTemplate(source, now=datetime.datetime(2000, 1, 1)).render(TWO) == "Saturday"


def test_blocks_whitespace_json_and_missing_values_are_those_of_transformers() -> None:
    """trim_blocks, lstrip_blocks; json without HTML's escapes; a null is an absent key."""
    assert ChatTemplate("a\n  {% if true %}\nb\n  {% endif %}\nc").render(TWO) == "a\nb\nc"
    assert ChatTemplate("{{ {'b': '<é>', 'a': 1} | tojson }}").render(TWO) == '{"b": "<é>", "a": 1}'
    calls = [{**TWO[0], "tool_calls": None}]
    assert ChatTemplate("{{ 'tool_calls' in messages[0] }}").render(calls) == "False"
    assert ChatTemplate("{{ tools is none }}{{ x }}").render(TWO, x=3) == "True3"


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        ("{% for", TWO, "the chat template is not one: "),
        ("{{ raise_exception('no ' + messages[0].role) }}", TWO, "refuses the roles user, assistant: no user"),
        ("{{ ''.__class__.__mro__ }}", TWO, "refuses the roles"),  # the sandbox
        ("{{ messages.append(1) }}", TWO, "refuses the roles"),  # immutable
        ("{{ messages[0].content + 1 }}", TWO, "refuses the roles"),
        (PLAIN, [], "at least one message"),
        (PLAIN, [{"role": "user", "content": "\ufdd0"}], r"message 0 holds U\+FDD0"),
    ],
)
def test_what_a_template_cannot_do_is_told(source: str, messages: list[Any], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source).render(messages)


@pytest.mark.slow
def test_every_template_that_trl_carries_renders_alike() -> None:
    """Needs the `parity` extra. Characters trained on too, where the template marks them."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    trl = pytest.importorskip("trl")
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<p>", "unk_token": "<u>"}
    system = [{"role": "system", "content": "S"}, *FOUR]
    now = datetime.datetime.now()
    seen = 0
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        template = ChatTemplate(source, names, now)
        for messages in (TWO[:1], TWO, system):
            try:
                both = [
                    utils.render_jinja_template([messages], chat_template=source, add_generation_prompt=p, **names)[0][
                        0
                    ]
                    for p in (False, True)
                ]
                _, spans = utils.render_jinja_template(
                    [messages], chat_template=source, return_assistant_tokens_mask=template.marks, **names
                )
            except Exception:  # a template that refuses this conversation
                continue
            assert [template.render(messages, add_generation_prompt=p) for p in (False, True)] == both, path.name
            if template.marks:
                assert template.render_trained(messages)[1] == [tuple(span) for span in spans[0]], path.name
            seen += 1
    assert seen > 50
