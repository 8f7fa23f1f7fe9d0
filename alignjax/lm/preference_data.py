"""Preference data: JSON lines to arrays `[N, K, T]`. Host-side NumPy; every rejected row is reported with its line.

Two kinds of rows, one kind per file:

    {"prompt": "...", "chosen": "...", "rejected": "..."}
    {"prompt": "...", "responses": ["...", "..."], "preference": 0.8, "rewards": [1.2, 0.3]}

`responses` (or `completions`) are K texts. `preference` is P(responses[0] beats responses[1]), or a K x K matrix
with P + P^T = 1. `preference`, `rewards` (K numbers) and `behaviour_logps` (K log-probs under the policy that wrote
the responses) are optional, in every row of a file or in none; a pair may have them too, the chosen one first. Other
columns are ignored.
"""

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax import checks
from alignjax.lm.text import BOS, EOS, PAD, encode

FEEDBACK_COLUMNS = ("preference", "rewards", "behaviour_logps")
COLUMN_OF = {
    "preference": "preference",
    "win_rate": "preference",
    "reward": "rewards",
    "behaviour_logp": "behaviour_logps",
}
"""Field of `Samples` -> the column it is made from."""
LENGTH_MULTIPLE = 16


class DataError(ValueError):
    """A row that cannot be used; the message names the file and the line."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreferenceData:
    """N prompts with K responses each, padded on the right to one length T."""

    tokens: np.ndarray
    """`[N, K, T]` int32: BOS, prompt, response, EOS, padding."""
    loss_mask: np.ndarray
    """`[N, K, T]`: the tokens of the response, EOS included. The prompt is masked in every response."""
    attention_mask: np.ndarray
    """`[N, K, T]`: all but padding."""
    feedback: Mapping[str, np.ndarray]
    """Fields of `Samples`, of those the file has: `preference`, `win_rate`, `reward`, `behaviour_logp`."""
    truncated: int = 0
    """How many responses were cut at `max_length`: their end is lost, and with it EOS."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_responses(self) -> int:
        """K."""
        return int(self.tokens.shape[1])

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Some prompts, as the flat mapping a training step takes."""
        masks = {name: getattr(self, name)[index] for name in ("tokens", "loss_mask", "attention_mask")}
        return masks | {name: array[index] for name, array in self.feedback.items()}

    def batches(self, batch_size: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches without end: each epoch a new order, which depends on the seed and the epoch alone.

        The prompts that do not fill a last batch are left out of that epoch.
        """
        checks.whole("batch_size", batch_size)
        if batch_size > len(self):
            raise ValueError(f"batch_size = {batch_size} is more than the {len(self)} prompts there are")
        epoch = 0
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
            for start in range(0, len(self) - batch_size + 1, batch_size):
                yield self.rows(order[start : start + batch_size])
            epoch += 1


@dataclasses.dataclass(frozen=True)
class _Row:
    """One line, checked and tokenised."""

    prompt: list[int]
    responses: list[list[int]]
    feedback: dict[str, np.ndarray]
    truncated: int


def read_preferences(path: str | Path, *, max_length: int) -> PreferenceData:
    """The rows of a JSONL file.

    A response that does not fit is cut at its end (its start is kept), counted in `truncated`, and one warning
    tells how many were. A prompt that leaves no room for a response is an error.

    Raises: DataError (a ValueError) naming the line of the first row that cannot be used; OSError.
    """
    checks.whole("max_length", max_length)
    rows: list[_Row] = []
    first: tuple[int, tuple[str, ...], int] | None = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                record = _parse(line)
                row = _row(record, max_length)
            except ValueError as error:
                raise DataError(f"{where}: {error}") from None
            shape = (tuple(c for c in FEEDBACK_COLUMNS if c in record), len(row.responses))
            if first is None:
                first = (number, *shape)
            elif shape != first[1:]:
                here, there = _described(*shape), _described(*first[1:])
                raise DataError(f"{where}: it has {here}, but line {first[0]} has {there}")
            rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no rows")
    return _stacked(rows, max_length)


def _described(columns: Sequence[str], k: int) -> str:
    return f"{k} responses and {' and '.join(columns) or 'no feedback columns'}"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start + 1})") from None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not usable JSON (nested too deeply)") from None
    if not isinstance(record, dict):
        raise ValueError(f"a row must be an object with columns, got {_kind(record)}")
    return record


def _row(record: Mapping[str, Any], max_length: int) -> _Row:
    paired = "chosen" in record or "rejected" in record
    listed = [name for name in ("responses", "completions") if name in record]
    if paired + len(listed) > 1:
        names = [*(name for name in ("chosen", "rejected") if name in record), *listed]
        raise ValueError(f"the columns {', '.join(map(repr, names))} exclude each other")
    if not paired and not listed:
        raise ValueError(_missing("'chosen' and 'rejected' (or 'responses')", ("chosen", "responses"), record))
    prompt = _text("prompt", _column(record, "prompt"))
    if paired:
        named = {name: _text(name, _column(record, name)) for name in ("chosen", "rejected")}
    else:
        texts = record[listed[0]]
        if not isinstance(texts, list):
            raise ValueError(f"{listed[0]!r} must be a list of texts, got {_kind(texts)}")
        if not texts:
            raise ValueError(f"{listed[0]!r} is empty")
        named = {f"{listed[0]}[{i}]": _text(f"{listed[0]}[{i}]", text) for i, text in enumerate(texts)}
    if paired and named["chosen"] == named["rejected"]:
        raise ValueError("'chosen' and 'rejected' are identical")
    start = [BOS, *prompt]
    room = max_length - len(start)
    if room < 1:
        raise ValueError(
            f"'prompt' has {len(start)} tokens with BOS; no room is left for a response in max_length = {max_length}"
        )
    whole = [[*text, EOS] for text in named.values()]
    responses = [tokens[:room] for tokens in whole]
    if paired and responses[0] == responses[1]:
        raise ValueError(f"'chosen' and 'rejected' are identical once cut at max_length = {max_length}")
    cut = sum(len(tokens) > room for tokens in whole)
    return _Row(start, responses, _feedback(record, len(responses)), cut)


def _column(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(_missing(repr(name), (name,), record))
    return record[name]


def _missing(what: str, names: Sequence[str], record: Mapping[str, Any]) -> str:
    near = next((found for name in names if (found := checks.nearest(name, record))), None)
    hint = f" (is {near!r} meant?)" if near else ""
    return f"missing {what}{hint}; the row has {', '.join(map(repr, record)) or 'no columns'}"


def _text(name: str, value: Any) -> list[int]:
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a text, got {_kind(value)}")
    if not value:
        raise ValueError(f"{name!r} is empty")
    try:
        return encode(value)
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half a surrogate pair, which is no text") from None


def _feedback(record: Mapping[str, Any], k: int) -> dict[str, np.ndarray]:
    """Fields of `Samples` for one prompt."""
    found: dict[str, np.ndarray] = {}
    if "preference" in record:
        found["preference"] = _preference(record["preference"], k)
        if k > 1:
            others = found["preference"].sum(-1) - np.diagonal(found["preference"])
            found["win_rate"] = others / (k - 1)
    for column, field in (("rewards", "reward"), ("behaviour_logps", "behaviour_logp")):
        if column in record:
            found[field] = _numbers(column, record[column], k)
    if "behaviour_logp" in found and (found["behaviour_logp"] > 0).any():
        raise ValueError(f"'behaviour_logps' must be log-probabilities, <= 0, got {found['behaviour_logp'].max():g}")
    return found


def _preference(value: Any, k: int) -> np.ndarray:
    if isinstance(value, list):
        if len(value) != k:
            raise ValueError(f"'preference' must be {k} rows of {k} numbers, got {len(value)} rows")
        matrix = np.stack([_numbers(f"preference[{i}]", row, k) for i, row in enumerate(value)])
    else:
        p = _number("preference", value)
        if k != 2:
            raise ValueError(f"'preference' as one number compares 2 responses; {k} responses need a {k} x {k} matrix")
        matrix = np.array([[0.5, p], [1 - p, 0.5]])
    checks.preference_matrix("'preference'", matrix)
    return matrix


def _numbers(name: str, value: Any, k: int) -> np.ndarray:
    if not isinstance(value, list) or len(value) != k:
        got = f"{len(value)} of them" if isinstance(value, list) else _kind(value)
        raise ValueError(f"{name!r} must be a list of {k} numbers, one per response, got {got}")
    return np.array([_number(f"{name}[{i}]", one) for i, one in enumerate(value)])


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name!r} must be a number, got {_kind(value)}")
    number = float(value) if abs(value) < 1e300 else float("inf")
    if not np.isfinite(number):
        raise ValueError(f"{name!r} must be a finite number, got {value}")
    return number


def _kind(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return "a list of messages (conversations are not read yet)"
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _stacked(rows: Sequence[_Row], max_length: int) -> PreferenceData:
    longest = max(len(row.prompt) + len(tokens) for row in rows for tokens in row.responses)
    length = min(max_length, -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
    shape = (len(rows), len(rows[0].responses), length)
    tokens = np.full(shape, PAD, np.int32)
    loss_mask, attention_mask = np.zeros(shape, bool), np.zeros(shape, bool)
    for n, row in enumerate(rows):
        for k, response in enumerate(row.responses):
            start, end = len(row.prompt), len(row.prompt) + len(response)
            tokens[n, k, :end] = row.prompt + response
            loss_mask[n, k, start:end] = True
            attention_mask[n, k, :end] = True
    truncated = sum(row.truncated for row in rows)
    if truncated:
        total = shape[0] * shape[1]
        warnings.warn(
            f"{truncated} of {total} responses were cut at max_length = {max_length} (their start is kept, their "
            "end of sequence is lost)",
            stacklevel=3,
        )
    feedback = {name: np.stack([row.feedback[name] for row in rows]).astype(np.float32) for name in rows[0].feedback}
    return PreferenceData(
        tokens=tokens, loss_mask=loss_mask, attention_mask=attention_mask, feedback=feedback, truncated=truncated
    )
