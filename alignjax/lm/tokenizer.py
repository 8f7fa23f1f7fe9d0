"""Tokenizers: bytes, and those of Hugging Face folders. Conversations to tokens, and which of them are trained on.

tokenizer = lm.load_tokenizer("path/to/model")     # or lm.ByteTokenizer()
tokens = tokenizer.chat([{"role": "user", "content": "Hi"}])      # ready to be answered

If the model's sequences have a beginning (`load_tokenizer` says when), each begins with one such token, whether or not
the chat template writes it; the tokenizer's post-processor is never run. Which tokens are trained on is told by
position, never by id: the end of sequence is trained on also where it is the padding token.
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from alignjax.lm import text
from alignjax.lm.chat import ChatTemplate, Message, Span, TemplateError


class Tokenizer(Protocol):
    """All that data, generation and training know of a tokenizer."""

    @property
    def bos(self) -> int | None:
        """Begins every sequence; None if the model's sequences begin with nothing."""
        ...

    @property
    def eos(self) -> int: ...

    @property
    def pad(self) -> int:
        """May be `eos`."""
        ...

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end a response, `eos` first: in many models the end of a turn is another one."""
        ...

    @property
    def vocab_size(self) -> int:
        """The highest id, plus 1."""
        ...

    @property
    def template(self) -> ChatTemplate | None: ...

    def encode(self, text: str) -> list[int]:
        """Without specials, but for those that are written out in the text."""
        ...

    def encode_spans(self, text: str) -> tuple[list[int], list[Span]]:
        """`encode`, and the characters that each token stands for."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Without specials."""
        ...

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation, by default ready to be answered. Raises: TemplateError."""
        ...

    def save(self, folder: str | Path) -> None:
        """The files from which `load_tokenizer` makes this tokenizer again."""
        ...


def begin(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """The tokens after exactly one beginning-of-sequence token, or none if the model has none."""
    bos = tokenizer.bos
    if bos is None:
        return list(tokens)
    start = next((i for i, token in enumerate(tokens) if token != bos), len(tokens))
    return [bos, *tokens[start:]]


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Raises: TemplateError if there is none."""
    if tokenizer.template is None:
        raise TemplateError("the tokenizer has no chat template; conversations need one (plain texts do not)")
    return tokenizer.template


def chat_tokens(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
    """`Tokenizer.chat`, for those who write one: the template's text, encoded whole, after one BOS."""
    written = template_of(tokenizer).render(messages, add_generation_prompt=add_generation_prompt)
    return begin(tokenizer, tokenizer.encode(written))


def continue_tokens(tokenizer: Tokenizer, before: str, prompt: Sequence[int], after: str) -> list[int]:
    """Tokens of the text `after`, which follows the text `before`, whose tokens are `prompt` (no BOS needed).

    The two are encoded together and the prompt's tokens taken off. Where they are not a prefix (letters on the two
    sides merge into one token) `after` is encoded by itself, so that the prompt is the one seen in generation.
    """
    whole = tokenizer.encode(before + after)
    if whole[: len(prompt)] == list(prompt):
        return whole[len(prompt) :]
    # After a newline, because some tokenizers put a space before the first word of a text.
    line, alone = tokenizer.encode("\n"), tokenizer.encode("\n" + after)
    return alone[len(line) :] if alone[: len(line)] == line else tokenizer.encode(after)


def end(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """A response up to its end of turn, which is added (`eos`) where the text has none.

    What a template writes after the last end of turn (a newline) is no response: generation stops before.
    """
    last = next((i for i in reversed(range(len(tokens))) if tokens[i] in tokenizer.stops), None)
    if last is not None and not tokenizer.decode(tokens[last + 1 :]).strip():
        return list(tokens[: last + 1])
    return [*tokens, tokenizer.eos]


def chat_trained(tokenizer: Tokenizer, messages: Sequence[Message], **names: Any) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation and which are trained on: the assistant's words and the end of its turns.

    The end of turn is trained on also where the template's `{% generation %}` block leaves it out; a newline that
    the template writes after it is not (generation stops before). What follows the last trained token is left out;
    a conversation whose last turn has no end gets `eos`.

    `names`: further variables of the template. Raises: TemplateError.
    """
    written, spans = template_of(tokenizer).render_trained(messages, **names)
    tokens, places = tokenizer.encode_spans(written)
    trained = [False] * len(tokens)
    last = 0
    for first_character, end_character in spans:
        # A token counts if it holds a character of the span; one that holds none (a lone normaliser's space) does not.
        inside = [
            i for i in range(last, len(tokens)) if places[i][0] < end_character and places[i][1] > first_character
        ]
        if not inside:
            continue
        start, last = inside[0], inside[-1] + 1
        stop = next((i for i in reversed(range(start, last)) if tokens[i] in tokenizer.stops), None)
        if stop is not None and not tokenizer.decode(tokens[stop + 1 : last]).strip():
            last = stop + 1
        elif last < len(tokens) and tokens[last] in tokenizer.stops:
            last += 1
        trained[start:last] = [True] * (last - start)
    if not any(trained):
        raise TemplateError("nothing of the conversation is trained on: it has no message of the assistant")
    tokens, trained = tokens[:last], trained[:last]
    if tokens[-1] not in tokenizer.stops:
        tokens, trained = [*tokens, tokenizer.eos], [*trained, True]
    whole = begin(tokenizer, tokens)
    more = len(whole) - len(tokens)
    return whole, [False] * more + trained if more >= 0 else trained[-more:]


class ByteTokenizer:
    """UTF-8 bytes and three specials (`alignjax.lm.text`), the tokenizer of the tiny model.

    In texts the specials are written <|bos|>, <|eos|> and <|pad|>. A conversation is one "role: content" a line.
    """

    bos, eos, pad = text.BOS, text.EOS, text.PAD
    stops = (text.EOS,)
    vocab_size = text.PAD + 1

    @property
    def template(self) -> ChatTemplate:
        return _byte_template()

    def encode(self, written: str) -> list[int]:
        pieces = re.split(_BYTE_SPECIALS, written)
        return [t for piece in pieces for t in ([_BYTE_IDS[piece]] if piece in _BYTE_IDS else text.encode(piece))]

    def encode_spans(self, written: str) -> tuple[list[int], list[Span]]:
        tokens: list[int] = []
        spans: list[Span] = []
        at = 0
        for piece in re.split(_BYTE_SPECIALS, written):
            if piece in _BYTE_IDS:
                tokens.append(_BYTE_IDS[piece])
                spans.append((at, at + len(piece)))
            else:
                tokens += text.encode(piece)
                spans += [(at + i, at + i + 1) for i, letter in enumerate(piece) for _ in text.encode(letter)]
            at += len(piece)
        return tokens, spans

    def decode(self, tokens: Iterable[int]) -> str:
        return text.decode(tokens)

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        return chat_tokens(self, messages, add_generation_prompt)

    def save(self, folder: str | Path) -> None:
        """As a Hugging Face tokenizer: a BPE over bytes without merges, the same ids."""
        from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
        from tokenizers import Tokenizer as Fast

        vocabulary = {letter: byte for byte, letter in _byte_letters().items()}
        fast = Fast(models.BPE(vocab=vocabulary, merges=[]))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.decoder = decoders.ByteLevel()
        fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _BYTE_IDS])
        first = text.SPECIALS[text.BOS]
        fast.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, text.BOS)])
        names = {f"{kind}_token": text.SPECIALS[getattr(text, kind.upper())] for kind in ("bos", "eos", "pad")}
        settings = {**names, "chat_template": text.CHAT_TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fast.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


_BYTE_IDS = {name: token for token, name in text.SPECIALS.items()}
_BYTE_SPECIALS = "(" + "|".join(map(re.escape, _BYTE_IDS)) + ")"


@functools.cache
def _byte_template() -> ChatTemplate:
    names = {"bos_token": text.SPECIALS[text.BOS], "eos_token": text.SPECIALS[text.EOS]}
    return ChatTemplate(text.CHAT_TEMPLATE, names)


def _byte_letters() -> dict[int, str]:
    """Byte -> the printable letter that stands for it in a byte-level vocabulary (GPT-2's bijection)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def check_fits(tokenizer: Tokenizer, config: Any) -> None:
    """Raises: ValueError, with both sizes, if the tokenizer has ids that the model does not embed.

    A model may have more rows than the tokenizer has ids: vocabularies are padded to round sizes.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer does not fit the model: its ids reach {tokenizer.vocab_size - 1}, but the model embeds "
            f"{config.vocab_size} tokens (ids 0..{config.vocab_size - 1})"
        )
