"""Files of prompts and responses to arrays. Host-side NumPy; every row that cannot be used is reported with its place.

`read_preferences` (pairs, K responses, or one with a label), `read_supervised` (messages, or a prompt with its
completion) and `read_prompts` (prompts alone) read JSONL and Parquet; `alignjax.lm.columns` lists the columns.

One prompt's tokens: BOS, prompt, response, end of sequence, padding. Prompts and responses are encoded together,
and apart where a token would straddle the two. Only responses are trained on, to their end of sequence included.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax import checks
from alignjax.lm import encoding
from alignjax.lm.columns import COLUMN_OF as COLUMN_OF
from alignjax.lm.columns import FEEDBACK_COLUMNS as FEEDBACK_COLUMNS
from alignjax.lm.columns import Row, kind_of, preference_row, prompt_row, supervised_row
from alignjax.lm.encoding import Counts, Encoded, Limits
from alignjax.lm.pipeline import batches, padded_length
from alignjax.lm.rows import DataError as DataError
from alignjax.lm.rows import Paths, as_paths, read_rows
from alignjax.lm.tokenizer import ByteTokenizer, Tokenizer, begin


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreferenceData:
    """N prompts with K responses each, padded on the right to one length T. Supervised data have K = 1."""

    tokens: np.ndarray
    """`[N, K, T]` int32: BOS, prompt, response, end of sequence, padding."""
    loss_mask: np.ndarray
    """`[N, K, T]`: the tokens trained on: of the response, its end of sequence included, and never of the prompt."""
    attention_mask: np.ndarray
    """`[N, K, T]`: all but padding."""
    feedback: Mapping[str, np.ndarray]
    """Fields of `Samples`, of those the files have; what is per token (`ref_token_logp` `[N, K, T]`) may be added."""
    prompt_texts: tuple[str, ...] = ()
    """`[N]`: for judges."""
    rows_read: int = 0
    """How many rows the files have."""
    truncated: int = 0
    """How many responses were cut at `max_length`: their end is lost, and with it the end of sequence."""
    prompts_cut: int = 0
    """How many prompts were cut at their beginning."""
    dropped: int = 0
    """How many rows were left out, being too long."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_responses(self) -> int:
        """K."""
        return int(self.tokens.shape[1])

    @property
    def length(self) -> int:
        """T."""
        return int(self.tokens.shape[-1])

    @property
    def lengths(self) -> np.ndarray:
        """`[N]`: tokens of a prompt with its longest response."""
        return self.attention_mask.sum(-1).max(-1)

    @property
    def num_tokens(self) -> np.ndarray:
        """`[N]`: tokens of a prompt with each of its responses, all together."""
        return self.attention_mask.sum((-1, -2))

    def rows(self, index: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        """Some prompts, as the flat mapping a training step takes, padded to `length` (by default T)."""
        found = {name: getattr(self, name)[index, :, :length] for name in ("tokens", "loss_mask", "attention_mask")}
        for name, array in self.feedback.items():
            found[name] = array[index][..., :length] if name.endswith("token_logp") else array[index]
        return found

    def batches(self, batch_size: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """`lm.batches` in one length."""
        return batches(self, batch_size, seed=seed, bucket=False)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PromptData:
    """N prompts, padded on the left to one length P, so that responses follow at one place."""

    prompts: np.ndarray
    """`[N, P]` int32: padding, BOS, prompt."""
    prompt_mask: np.ndarray
    """`[N, P]`: all but padding."""
    prompt_texts: tuple[str, ...]
    """`[N]`: for judges."""
    columns: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """The other columns that every row has, `[N]` each: what a reward may compare with (an answer, say)."""
    rows_read: int = 0
    prompts_cut: int = 0
    """How many prompts were cut at their beginning."""
    dropped: int = 0
    """How many rows were left out, being too long."""
    num_responses: int = 1

    def __len__(self) -> int:
        return self.prompts.shape[0]

    @property
    def length(self) -> int:
        """P."""
        return int(self.prompts.shape[-1])

    @property
    def lengths(self) -> np.ndarray:
        """`[N]`: tokens of a prompt."""
        return self.prompt_mask.sum(-1)

    @property
    def num_tokens(self) -> np.ndarray:
        """`[N]`: `lengths`."""
        return self.lengths

    def rows(self, index: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        """Some prompts, padded to `length` (by default P)."""
        start = 0 if length is None else self.length - length
        return {"prompts": self.prompts[index, start:], "prompt_mask": self.prompt_mask[index, start:]}


def data_kind(paths: Paths) -> str:
    """The kind of the first row: "pairs", "responses", "unpaired", "completion", "messages" or "prompts".

    Raises: DataError, OSError.
    """
    for where, record in read_rows(paths):
        try:
            return kind_of(record)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
    raise _no_rows(paths)


def read_preferences(
    paths: Paths,
    *,
    max_length: int,
    tokenizer: Tokenizer | None = None,
    max_prompt_length: int | None = None,
    too_long: str = "drop",
) -> PreferenceData:
    """Pairs, K responses with feedback, or single responses with a label, of one file or several.

    `tokenizer`: by default bytes. `too_long`: what is done with a prompt of more than `max_prompt_length` tokens (by
    default one that leaves no room for a response): "drop", "error" or "truncate_left" (`encoding.Limits`). A
    response that does not fit is cut at its end. One warning each tells how many were dropped and cut.

    Raises: DataError (a ValueError) naming the place of the first row that cannot be used; OSError.
    """
    return _read(paths, preference_row, _limits(max_length, max_prompt_length, too_long), tokenizer)


def read_supervised(
    paths: Paths,
    *,
    max_length: int,
    tokenizer: Tokenizer | None = None,
    max_prompt_length: int | None = None,
    too_long: str = "drop",
) -> PreferenceData:
    """Messages, of which the assistant's are trained on, or prompts with their completions; K = 1, no feedback.

    Arguments and errors are those of `read_preferences`. What comes before the first trained token is the prompt.
    """
    return _read(paths, supervised_row, _limits(max_length, max_prompt_length, too_long), tokenizer)


def read_prompts(
    paths: Paths, *, max_prompt_length: int, tokenizer: Tokenizer | None = None, too_long: str = "drop"
) -> PromptData:
    """The prompts of rows of any kind. Arguments and errors are those of `read_preferences`."""
    checks.whole("max_prompt_length", max_prompt_length)
    tokenizer = tokenizer or ByteTokenizer()
    limits = _limits(max_prompt_length + 1, max_prompt_length, too_long)

    def encode(row: Row) -> Encoded:
        return Encoded(begin(tokenizer, encoding.encode_prompt(tokenizer, row)[1]), [], [])

    kept, counts = _kept(paths, prompt_row, encode, limits, tokenizer)
    _warn(counts, limits, 0)
    length = _padded(max(len(encoded.prompt) for _, encoded in kept), max_prompt_length)
    prompts = np.full((len(kept), length), tokenizer.pad, np.int32)
    mask = np.zeros((len(kept), length), bool)
    for n, (_, encoded) in enumerate(kept):
        prompts[n, length - len(encoded.prompt) :] = encoded.prompt
        mask[n, length - len(encoded.prompt) :] = True
    names = [name for name in kept[0][0].others if all(name in row.others for row, _ in kept)]
    return PromptData(
        prompts=prompts,
        prompt_mask=mask,
        prompt_texts=tuple(encoding.prompt_text(row) for row, _ in kept),
        columns={name: tuple(row.others[name] for row, _ in kept) for name in names},
        rows_read=counts.rows,
        prompts_cut=counts.prompts_cut,
        dropped=counts.dropped,
    )


def _limits(max_length: int, max_prompt_length: int | None, too_long: str) -> Limits:
    return Limits(max_length=max_length, max_prompt_length=max_prompt_length, too_long=too_long)


def _read(
    paths: Paths, parse: Callable[[Mapping[str, Any]], Row], limits: Limits, tokenizer: Tokenizer | None
) -> PreferenceData:
    tokenizer = tokenizer or ByteTokenizer()
    kept, counts = _kept(paths, parse, lambda row: encoding.encode_row(tokenizer, row), limits, tokenizer)
    _warn(counts, limits, len(kept) * len(kept[0][1].responses))
    longest = max(len(one.prompt) + len(tokens) for _, one in kept for tokens in one.responses)
    shape = (len(kept), len(kept[0][1].responses), _padded(longest, limits.max_length))
    tokens = np.full(shape, tokenizer.pad, np.int32)
    loss_mask, attention_mask = np.zeros(shape, bool), np.zeros(shape, bool)
    for n, (_, one) in enumerate(kept):
        for k, (response, trained) in enumerate(zip(one.responses, one.trained, strict=True)):
            start, stop = len(one.prompt), len(one.prompt) + len(response)
            tokens[n, k, :stop] = one.prompt + response
            loss_mask[n, k, start:stop] = trained
            attention_mask[n, k, :stop] = True
    fields = kept[0][0].feedback
    return PreferenceData(
        tokens=tokens,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        feedback={name: np.stack([row.feedback[name] for row, _ in kept]).astype(np.float32) for name in fields},
        prompt_texts=tuple(encoding.prompt_text(row) for row, _ in kept),
        rows_read=counts.rows,
        truncated=counts.truncated,
        prompts_cut=counts.prompts_cut,
        dropped=counts.dropped,
    )


def _kept(
    paths: Paths,
    parse: Callable[[Mapping[str, Any]], Row],
    encode: Callable[[Row], Encoded],
    limits: Limits,
    tokenizer: Tokenizer,
) -> tuple[list[tuple[Row, Encoded]], Counts]:
    """The rows that are used, all alike."""
    kept: list[tuple[Row, Encoded]] = []
    counts = Counts()
    first: tuple[str, str] | None = None
    for where, record in read_rows(paths):
        counts.rows += 1
        try:
            row = parse(record)
            described = row.described()
            if first is None:
                first = (where, described)
            elif described != first[1]:
                there = first[0] if len(as_paths(paths)) > 1 else first[0].rpartition(", ")[2]
                raise ValueError(f"it has {described}, but {there} has {first[1]}")
            within = encoding.fit(encode(row), limits, counts, bos=tokenizer.bos is not None, paired=row.paired)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if within is not None:
            kept.append((row, within))
    if not counts.rows:
        raise _no_rows(paths)
    if not kept:
        raise DataError(f"{_listed(paths)}: no row is left. {' '.join(encoding.report(counts, limits, 0))}")
    return kept, counts


def _warn(counts: Counts, limits: Limits, responses: int) -> None:
    for sentence in encoding.report(counts, limits, responses):
        warnings.warn(sentence, stacklevel=4)


def _padded(longest: int, most: int) -> int:
    return min(most, int(padded_length(np.asarray(longest))))


def _listed(paths: Paths) -> str:
    return ", ".join(map(str, as_paths(paths)))


def _no_rows(paths: Paths) -> DataError:
    names: Sequence[str] = [str(path) for path in as_paths(paths)]
    return DataError(f"{', '.join(names)} hold{'s' if len(names) == 1 else ''} no rows")
