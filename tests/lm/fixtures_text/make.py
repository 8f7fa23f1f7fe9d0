"""Writes the tokenizer folders beside it, and expected.json: what `transformers` makes of conversations with them.

python tests/lm/fixtures_text/make.py     # with the `parity` extra

Three small tokenizers in the manner of three families, trained on the sentences below; made-up templates that use
what real ones use. The numbers of expected.json are those of `transformers`, never of alignjax.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
CORPUS = [
    "The quick brown fox jumps over the lazy dog.", "What is two plus two? Two plus two is four, of course.",
    "You are a helpful assistant.", "Hello there! How are you today?", "I am fine, thank you; and how are you?",
    "A prompt is answered by a response, and a response is judged.", "Please add five and ten. Gladly: fifteen.",
] * 4  # fmt: skip

HEADERS = """\
{%- if not date is defined %}
    {%- set date = strftime_now("%d %b %Y") %}
{%- endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ["system", "user", "assistant", "tool"] %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}
    {%- if message.role == "system" %}{{ "Today is " + date + ". " }}{% endif %}
    {{- message["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""
CHATML = """\
{% if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{% endif %}
{% for message in messages %}
  {% if message.role == 'tool' %}{% continue %}{% endif %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if tools %}{{ tools | tojson }}{% endif %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
MARKED = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
INST = """\
{% if messages[0]['role'] == 'system' %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}
{% else %}
{% set system = '' %}{% set turns = messages %}
{% endif %}
{% for message in turns %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set content = message['content'] %}
{% if loop.index0 == 0 %}{% set content = system + content %}{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- else %}
{{ ' ' + content.strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %}
"""

USER = [{"role": "user", "content": "What is two plus two?"}]
TWO = [*USER, {"role": "assistant", "content": "Two plus two is four."}]
LONG = [
    {"role": "system", "content": "You are  brief, naïve ☃."}, *TWO,
    {"role": "user", "content": " and five?\n"}, {"role": "assistant", "content": "Gladly: fifteen"},
]  # fmt: skip
CONVERSATIONS = {"user": USER, "two": TWO, "long": LONG}


def byte_level(specials: list[str], bos: str | None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in specials])
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def metaspace() -> Tokenizer:
    """As of SentencePiece: a space before the first word, bytes for letters it does not know."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    plain = json.loads(made.to_str())
    plain["added_tokens"] = [one for one in plain["added_tokens"] if one["content"] in ("<unk>", "<s>", "</s>")]
    made = Tokenizer.from_str(json.dumps(plain))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


def write(name: str, tokenizer: Tokenizer, settings: dict[str, Any], **files: Any) -> None:
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **settings}
    for file, value in {"tokenizer_config": settings, **files}.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2) + "\n"
        (folder / (f"{file}.json" if not isinstance(value, str) else f"{file}.jinja")).write_text(
            text, encoding="utf-8"
        )


def make() -> None:
    headers = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    made = byte_level(headers, "<|begin_of_text|>")
    ids = {name: made.token_to_id(name) for name in headers}
    write(
        "headers", made,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "chat_template": HEADERS},
        generation_config={"eos_token_id": [ids["<|end_of_text|>"], ids["<|eot_id|>"]]},
    )  # fmt: skip
    named = [{"name": "default", "template": CHATML}, {"name": "marked", "template": MARKED}]
    end = {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "normalized": False, "rstrip": False}
    write(
        "chatml", byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None),
        {"bos_token": None, "eos_token": end, "pad_token": "<|im_end|>", "chat_template": named},
    )  # fmt: skip
    write(
        "inst", metaspace(), {"add_bos_token": True}, chat_template=INST,
        special_tokens_map={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    )  # fmt: skip


def expected() -> dict[str, Any]:
    import transformers
    from transformers.utils import chat_template_utils

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(2024, 7, 26)

    chat_template_utils.datetime = Fixed
    found: dict[str, Any] = {"transformers": transformers.__version__, "chats": []}
    for name, template in (("headers", None), ("chatml", None), ("chatml", "marked"), ("inst", None)):
        given = json.loads((HERE / name / "tokenizer_config.json").read_text())
        special = HERE / name / "special_tokens_map.json"
        given |= json.loads(special.read_text()) if special.exists() else {}
        kept = {key: given[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if given.get(key)}
        kept = {key: value if isinstance(value, str) else value["content"] for key, value in kept.items()}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(HERE / name / "tokenizer.json"), **kept)
        listed = given.get("chat_template") or (HERE / name / "chat_template.jinja").read_text()
        if isinstance(listed, list):
            listed = next(one["template"] for one in listed if one["name"] == (template or "default"))
        tokenizer.chat_template = listed
        for which, messages in CONVERSATIONS.items():
            for prompted in (False, True):
                both = dict(add_generation_prompt=prompted)
                row = {
                    "folder": name, "template": template, "messages": messages, "add_generation_prompt": prompted,
                    "text": tokenizer.apply_chat_template(messages, tokenize=False, **both),
                    "tokens": list(tokenizer.apply_chat_template(messages, return_dict=True, **both)["input_ids"]),
                }  # fmt: skip
                if template == "marked" and not prompted:
                    row["mask"] = tokenizer.apply_chat_template(
                        messages, return_dict=True, return_assistant_tokens_mask=True
                    )["assistant_masks"]
                row["conversation"] = which
                found["chats"].append(row)
    return found


if __name__ == "__main__":
    make()
    (HERE / "expected.json").write_text(json.dumps(expected(), indent=1) + "\n", encoding="utf-8")
