"""Log-probs of a model that stands still, made once and kept beside the data, so that training holds only the policy.

A file of `python -m tpu logprobs` (safetensors) knows responses by what they are: its key is a hash of the tokens that
are not padding and of which of them are trained. So the order of the rows, their batches and their padding may change;
texts, tokenizer, template and the lengths at which texts are cut may not, and if they do the keys are missing. The
model is known by its fingerprint.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax import checks
from alignjax.lm.pipeline import bucket_lengths
from alignjax.lm.preference_data import PreferenceData

Array = np.ndarray
FORMAT = "alignjax token log-probs, 1"
FIELDS: Mapping[str, str] = {
    "ref": "ref_token_logp",
    "anchor": "anchor_token_logp",
    "behaviour": "behaviour_token_logp",
    "opponent": "opponent_token_logp",
}
"""Role of the model -> the field of a batch that its log-probs are."""
TOKENS = ("tokens", "loss_mask", "attention_mask")


class Mismatch(ValueError):
    """A file of log-probs that is not one of this model, of this data, or at all."""


def response_keys(tokens: Array, loss_mask: Array, attention_mask: Array) -> Array:
    """`[M, T] -> [M]` uint64: a hash of each row's tokens without padding, and of which of them are trained."""
    found = np.empty(len(tokens), np.uint64)
    for row, seen in enumerate(np.asarray(attention_mask) != 0):
        digest = hashlib.blake2b(np.asarray(tokens[row][seen], "<i4").tobytes(), digest_size=8)
        digest.update(np.packbits(np.asarray(loss_mask[row][seen]) != 0).tobytes())
        found[row] = int.from_bytes(digest.digest(), "little")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class TokenLogps:
    """Log-probs of the trained tokens of M responses, one after the other."""

    keys: Array
    """`[M]` uint64, ascending."""
    starts: Array
    """`[M + 1]` int64: the tokens of response m are `values[starts[m]:starts[m + 1]]`."""
    values: Array
    """float32, nats."""

    @classmethod
    def of(cls, pieces: Mapping[int, Array]) -> "TokenLogps":
        """From key -> log-probs of the trained tokens."""
        keys = np.array(sorted(pieces), np.uint64)
        lengths = np.array([len(pieces[int(key)]) for key in keys], np.int64)
        values = [np.zeros(0, np.float32), *(pieces[int(key)] for key in keys)]
        return cls(keys, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.concatenate(values))

    def pieces(self) -> dict[int, Array]:
        """key -> log-probs of the trained tokens."""
        return {int(key): self.values[self.starts[m] : self.starts[m + 1]] for m, key in enumerate(self.keys)}

    def lookup(self, keys: Array) -> Array:
        """The place of each key, -1 where it is missing."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)

    def laid_out(self, tokens: Array, loss_mask: Array, attention_mask: Array) -> Array:
        """`[..., T]` float32: the log-probs in their places, 0 elsewhere. Raises: Mismatch on a missing row."""
        shape = np.shape(tokens)
        tokens, loss_mask, attention_mask = (
            np.asarray(x).reshape(-1, shape[-1]) for x in (tokens, loss_mask, attention_mask)
        )
        place = self.lookup(response_keys(tokens, loss_mask, attention_mask))
        missing = np.flatnonzero(place < 0)
        if len(missing):
            raise Mismatch(
                f"lacks {len(missing)} of {len(tokens)} responses (the first: {_place(int(missing[0]), shape)}). Rows, "
                "tokenizer, chat template and --max-length must be those it was made with; made again with the new "
                "ones it keeps what it has"
            )
        trained = (loss_mask != 0) & (attention_mask != 0)
        out = np.zeros(tokens.shape, np.float32)
        for row, m in enumerate(place):
            out[row, trained[row]] = self.values[self.starts[m] : self.starts[m + 1]]
        return out.reshape(shape)


def _place(row: int, shape: tuple[int, ...]) -> str:
    """In words, of the axes `[N, K, T]`."""
    if len(shape) != 3:
        return f"row {row}"
    return f"row {row // shape[1]}, response {row % shape[1]}"


# --- files


def write(path: str | Path, logps: TokenLogps, about: Mapping[str, str]) -> None:
    """In one move: whoever reads finds the old file or the whole new one. `about` has "model", the fingerprint."""
    from safetensors.numpy import save

    path = Path(path)
    data = save({"keys": logps.keys, "starts": logps.starts, "values": logps.values}, {"format": FORMAT, **about})
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read(path: str | Path) -> tuple[TokenLogps, dict[str, str]]:
    """The log-probs and what `write` was told about them. Raises: Mismatch if it is no such file; OSError."""
    from safetensors import SafetensorError, safe_open

    with open(path, "rb"):
        pass  # the library's own error for a file that is not there does not name it
    try:
        with safe_open(str(path), "numpy") as file:
            about = dict(file.metadata() or {})
            if about.get("format") != FORMAT:
                raise Mismatch(f"{path} is no file of python -m tpu logprobs")
            logps = TokenLogps(*(file.get_tensor(name) for name in ("keys", "starts", "values")))
    except SafetensorError as error:
        raise Mismatch(f"{path} is no file of python -m tpu logprobs, or a broken one ({error})") from None
    return logps, about


def check_model(path: str | Path, about: Mapping[str, str], fingerprint: str) -> None:
    """Raises: Mismatch if the file is another model's."""
    if about["model"] != fingerprint:
        raise Mismatch(
            f"{path} holds log-probs of another model: {about.get('name', '?')} with the fingerprint {about['model']}, "
            f"and this one has {fingerprint}"
        )


# --- made


def make(
    path: str | Path,
    data: PreferenceData,
    score: Callable[[dict[str, Array]], Any],
    about: Mapping[str, str],
    *,
    batch_size: int,
    save_seconds: float = 30.0,
    watch: Callable[[list[Any]], Iterable[Any]] = lambda steps: steps,
) -> dict[str, int]:
    """Scores the responses of `data` that the file lacks, and writes them to it; what it has, it keeps.

    `score`: a batch `[b, K, T]` -> token log-probs `[b, K, T]`, b always `batch_size`. The file is written at the end,
    and on the way at most every `save_seconds` and for at most a twentieth of the time, so that a run which was cut
    off goes on from there. `watch` sees the batches as they are taken (a progress bar).

    Returns: `responses` in the data, `scored` now, `kept` from before. Raises: Mismatch if the file is another
    model's; ValueError on log-probs that are not finite; OSError.
    """
    path = Path(path)
    pieces: dict[int, Array] = {}
    if path.exists():
        logps, there = read(path)
        check_model(path, there, about["model"])
        pieces = logps.pieces()
    n, k, length = data.tokens.shape
    keys = response_keys(*(getattr(data, name).reshape(n * k, length) for name in TOKENS)).reshape(n, k)
    todo = np.flatnonzero([any(int(key) not in pieces for key in row) for row in keys])
    kept = int(sum(int(key) in pieces for key in keys.ravel()))
    started, spent = time.monotonic(), 0.0
    saved = started
    for index, to in watch(_batches(data.lengths, todo, batch_size, length)):
        batch = data.rows(np.resize(index, batch_size), to)
        found = np.asarray(score({name: batch[name] for name in TOKENS}), np.float32)[: len(index)]
        trained = (batch["loss_mask"] & batch["attention_mask"])[: len(index)]
        if not np.isfinite(found[trained]).all():
            row, response, _ = (int(i) for i in np.argwhere(trained & ~np.isfinite(found))[0])
            raise ValueError(f"the model gives row {index[row]}, response {response} a log-prob that is not finite")
        for b, row in enumerate(index):
            pieces |= {int(keys[row, j]): found[b, j, trained[b, j]] for j in range(k)}
        now = time.monotonic()
        if now - saved > save_seconds and spent <= (now - started) / 20:
            write(path, TokenLogps.of(pieces), about)
            saved = time.monotonic()
            spent += saved - now
    if len(todo) or not path.exists():
        write(path, TokenLogps.of(pieces), about)
    return {"responses": n * k, "scored": n * k - kept, "kept": kept}


def _batches(lengths: Array, todo: Array, batch_size: int, longest: int) -> list[tuple[Array, int]]:
    """(rows, the length they are padded to): rows of like length together, in few different lengths."""
    if not len(todo):
        return []
    buckets = bucket_lengths(lengths, 4)
    order = todo[np.argsort(lengths[todo], kind="stable")]
    found = []
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        to = next(bucket for bucket in buckets if bucket >= lengths[index].max())
        found.append((index, min(to, longest)))
    return found


# --- used


def attach(
    data: PreferenceData, paths: str | Path | Sequence[str | Path], *, model: str | None = None, role: str | None = None
) -> PreferenceData:
    """The data with the log-probs of a file (or of J opponents' files) as a field: `ref_token_logp` `[N, K, T]`, ...

    `model`: the fingerprint (`tpu.fingerprint`) of the model that they must be of; None does not ask. `role`: of
    `FIELDS`; by default what the file was made as. Opponents' log-probs are `[N, J, K, T]`, in the order of the files.

    Raises: Mismatch (a ValueError) on another model's file, on responses that the file does not know, on what is no
      such file; OSError.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    found, roles = [], set()
    for path in files:
        logps, about = read(path)
        if model is not None:
            check_model(path, about, model)
        roles.add(about.get("role", "ref"))
        try:
            found.append(logps.laid_out(*(getattr(data, name) for name in TOKENS)))
        except Mismatch as error:
            raise Mismatch(f"{path} {error}") from None
    field = FIELDS[checks.member("role", role or next(iter(roles)), FIELDS)]
    if field == "opponent_token_logp":
        added = np.stack(found, 1)
    elif len(found) == 1:
        added = found[0]
    else:
        raise ValueError(f"{field} is of one model, but there are {len(files)} files")
    return dataclasses.replace(data, feedback={**data.feedback, field: added})
