"""Rows to tokens: prompt and responses, which tokens are trained on, and what is done where they are too long."""

import dataclasses
from collections.abc import Sequence

from alignjax import checks
from alignjax.lm.columns import Row, Said
from alignjax.lm.tokenizer import (
    Tokenizer,
    begin,
    chat_trained,
    continue_tokens,
    end,
    template_of,
)

TOO_LONG = ("drop", "error", "truncate_left")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Tokens at most, and what is done with a prompt that has more: `too_long`.

    drop            its row is left out and counted
    error           the first such row is an error
    truncate_left   its beginning is cut (BOS stays), counted; `max_prompt_length` tokens, by default half of
                    `max_length`, are kept

    Responses are cut at their end where prompt and response are more than `max_length`; that is counted, too.
    """

    max_length: int
    """Of prompt and response together."""
    max_prompt_length: int | None = None
    """By default a prompt may fill all but one token."""
    too_long: str = "drop"

    def __post_init__(self) -> None:
        checks.whole("max_length", self.max_length, 2)
        if self.max_prompt_length is not None:
            checks.whole("max_prompt_length", self.max_prompt_length)
        checks.member("too_long", self.too_long, TOO_LONG)

    @property
    def prompt(self) -> int:
        """The longest prompt that is left as it is."""
        return min(self.max_length - 1, self.max_prompt_length or self.max_length)

    @property
    def kept(self) -> int:
        """What `truncate_left` leaves of a longer one."""
        return min(self.prompt, self.max_prompt_length or max(1, self.max_length // 2))


@dataclasses.dataclass
class Counts:
    """What was cut and left out."""

    rows: int = 0
    dropped: int = 0
    """Rows whose prompt was too long, or whose responses were of no use once cut."""
    prompts_cut: int = 0
    truncated: int = 0
    """Responses that were cut."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Prompt with BOS; responses with their end of sequence; which of a response's tokens are trained on."""

    prompt: list[int]
    responses: list[list[int]]
    trained: list[list[bool]]


def encode_prompt(tokenizer: Tokenizer, row: Row) -> tuple[str, list[int]]:
    """The text of a prompt, ready to be answered, and its tokens without a BOS of ours."""
    prompt = row.prompt
    if isinstance(prompt, str):
        text = prompt
    else:
        if prompt[-1]["role"] == "assistant":
            raise ValueError("the prompt ends with a message of the assistant: move it into the response")
        text = template_of(tokenizer).render(prompt, add_generation_prompt=True, **row.names)
    return text, tokenizer.encode(text)


def encode_row(tokenizer: Tokenizer, row: Row) -> Encoded:
    """Raises: ValueError (without the place)."""
    if not row.responses:  # messages
        assert not isinstance(row.prompt, str)
        tokens, trained = chat_trained(tokenizer, row.prompt, **row.names)
        start = trained.index(True)
        return Encoded(tokens[:start], [tokens[start:]], [trained[start:]])
    text, bare = encode_prompt(tokenizer, row)
    prompt = begin(tokenizer, bare)
    pairs = [_response(tokenizer, row, response, text, bare, prompt) for response in row.responses]
    return Encoded(prompt, [tokens for tokens, _ in pairs], [trained for _, trained in pairs])


def _response(
    tokenizer: Tokenizer, row: Row, response: Said, text: str, bare: Sequence[int], start: Sequence[int]
) -> tuple[list[int], list[bool]]:
    if isinstance(row.prompt, str) or isinstance(response, str):
        assert isinstance(response, str)
        tokens = end(tokenizer, continue_tokens(tokenizer, text, bare, response))
        return tokens, [True] * len(tokens)
    whole = [*row.prompt, *response]
    if len(response) == 1:
        written = template_of(tokenizer).render(whole, **row.names)
        if not written.startswith(text):
            raise ValueError(
                "the chat template renders the prompt differently with a generation prompt than with the response: "
                f"...{text[-20:]!r} is no beginning of the whole"
            )
        tokens = end(tokenizer, continue_tokens(tokenizer, text, bare, written[len(text) :]))
        return tokens, [True] * len(tokens)
    tokens, trained = chat_trained(tokenizer, whole, **row.names)
    if tokens[: len(start)] != list(start):
        raise ValueError("the chat template renders the prompt differently when several messages follow")
    return tokens[len(start) :], trained[len(start) :]


def fit(encoded: Encoded, limits: Limits, counts: Counts, *, bos: bool, paired: bool = False) -> Encoded | None:
    """The row within its limits, or None if it is left out; `counts` is changed. Raises: ValueError where it must."""
    prompt = encoded.prompt
    if len(prompt) > limits.prompt:
        if limits.too_long == "drop":
            counts.dropped += 1
            return None
        if limits.too_long == "error":
            told = f"more than max_prompt_length = {limits.prompt}"
            if limits.prompt == limits.max_length - 1:
                told = f"no room is left for a response in max_length = {limits.max_length}"
            raise ValueError(f"'prompt' has {len(prompt)} tokens with BOS; {told}")
        counts.prompts_cut += 1
        prompt = [*prompt[:bos], *prompt[len(prompt) - limits.kept + bos :]]
    room = limits.max_length - len(prompt)
    responses = [tokens[:room] for tokens in encoded.responses]
    lost = None
    if paired and responses[0] == responses[1]:
        lost = "'chosen' and 'rejected' are identical"
    elif not all(any(trained[:room]) for trained in encoded.trained):
        lost = "a response has no message of the assistant"
    if lost and limits.too_long == "error":
        raise ValueError(f"{lost} once cut at max_length = {limits.max_length}")
    if lost:
        counts.dropped += 1
        return None
    counts.truncated += sum(len(tokens) > room for tokens in encoded.responses)
    return Encoded(prompt, responses, [trained[:room] for trained in encoded.trained])


def prompt_text(row: Row) -> str:
    """A prompt for judges: a text as it is; of a conversation one message its content, several "role: content" each.

    Of `messages` the last is left out if it is the assistant's.
    """
    prompt = row.prompt
    if isinstance(prompt, str):
        return prompt
    prompt = prompt[:-1] if prompt[-1]["role"] == "assistant" else prompt
    said = [str(message.get("content", "")) for message in prompt]
    if len(prompt) == 1:
        return said[0]
    return "\n".join(f"{message['role']}: {content}" for message, content in zip(prompt, said, strict=True))


def report(counts: Counts, limits: Limits, responses: int) -> list[str]:
    """What was cut and left out, in sentences; [] if nothing was."""
    found = []
    if counts.dropped:
        found.append(
            f"{counts.dropped} of {counts.rows} rows were left out: their prompt has more than {limits.prompt} tokens, "
            "or their responses are the same once cut"
        )
    if counts.prompts_cut:
        found.append(
            f"{counts.prompts_cut} of {counts.rows} prompts had more than {limits.prompt} tokens; their last "
            f"{limits.kept} are kept (too_long = 'truncate_left')"
        )
    if counts.truncated:
        found.append(
            f"{counts.truncated} of {responses} responses were cut at max_length = {limits.max_length} (their start is "
            "kept, their end of sequence is lost)"
        )
    return found
