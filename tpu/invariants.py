"""What must hold before the first update of any run, or its numbers mean something else; one line each.

The mistakes that these find are the ones that users of other trainers report: a reference that is not the one meant, a
loss that depends on how the batch is split, two beginnings of sequence, an end of sequence that is masked because it
pads as well, a tokenizer of another model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tpu.arguments import UsageError

Batch = Mapping[str, Any]
TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.5}
"""Nats by which the log-prob of a whole response may differ between two programs that compute the same, by dtype."""


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at, whether it is so, and the sentence with the numbers. `holds` is None: it does not apply."""

    name: str
    holds: bool | None
    says: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "skipped"}[self.holds]
        return f"check {self.name}: {mark}: {self.says}"


def policy_is_reference(policy: Any, reference: Any, *, dtype: str = "float32", precomputed: bool = False) -> Check:
    """At step 0 both give every response the same log-prob (`[B, K]`, nats): the loss of DPO is ln 2, margins are 0."""
    gap = np.abs(np.asarray(policy, np.float64) - np.asarray(reference, np.float64))
    worst = float(np.where(np.isnan(gap), np.inf, gap).max())
    source = "precomputed reference log-probs" if precomputed else "reference"
    if worst <= TOLERANCE[dtype]:
        return Check("reference", True, f"policy and {source} agree at step 0 to {worst:.1e} nats")
    row, response = (int(i) for i in np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape))
    here, there = float(np.asarray(policy)[row, response]), float(np.asarray(reference)[row, response])
    why = (
        "the model computes no numbers on it: are its weights whole, and is --dtype wide enough?"
        if not np.isfinite(here)
        else "they were made by another model, tokenizer or template, or for other rows; make them again by "
        "python -m tpu logprobs"
        if precomputed
        else "with adapters it must be the model they sit on; a reference of its own is named by --reference"
    )
    return Check(
        "reference",
        False,
        f"at step 0 the policy gives response {response} of row {row} of the first batch the log-prob {here:.4f} and "
        f"the {source} {there:.4f}, which differ by {worst:.3g} > {TOLERANCE[dtype]:g} nats; {why}",
    )


def halves(batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every other prompt of a batch, and the rest; the last one stays out where their number is odd."""
    even = np.shape(batch["loss_mask"])[0] // 2 * 2
    return tuple({name: np.asarray(x)[start:even:2] for name, x in batch.items()} for start in (0, 1))  # type: ignore[return-value]


def same_for_halves(sums: Callable[[Batch], tuple[Any, Any]], batch: Batch, *, dtype: str = "float32") -> Check:
    """`sums(batch)` -> (summed loss, count): that of the batch is the sum of those of its halves, so that micro-batches
    weighted by their counts give the loss of the whole.
    """
    first, second = halves(batch)
    if not np.shape(first["loss_mask"])[0]:
        return Check("accumulation", None, "a batch of one prompt has no halves")
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    whole, first_sums, second_sums = (tuple(float(x) for x in sums(part)) for part in (both, first, second))
    count = first_sums[1] + second_sums[1]
    numbers = [whole[0], first_sums[0], second_sums[0]]
    if not np.isfinite(numbers).all():  # the loop stops on it, and keeps the batch
        return Check("accumulation", None, f"the loss of the first batch is {whole[0]}: there is nothing to compare")
    mean, accumulated = whole[0] / max(whole[1], 1), (first_sums[0] + second_sums[0]) / max(count, 1)
    room = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2}[dtype] * max(1.0, abs(mean))
    if abs(mean - accumulated) <= room and whole[1] == count:
        return Check("accumulation", True, f"the loss of a batch, {mean:.6f}, is that of its accumulated halves")
    return Check(
        "accumulation",
        False,
        f"the loss of a batch is {mean:.6g} over {whole[1]:g}, that of its accumulated halves {accumulated:.6g} over "
        f"{count:g}: it depends on how the batch is split",
    )


def _rows(batch: Batch, name: str) -> np.ndarray:
    """`[N, T]`: every sequence of the batch."""
    array = np.asarray(batch[name])
    return array.reshape(-1, array.shape[-1])


def one_bos(batch: Batch, bos: int | None) -> Check:
    """Each sequence begins with one beginning of sequence, not two. Later ones are the template's: some begin each turn
    so.
    """
    if bos is None:
        return Check("bos", None, "the tokenizer has no beginning of sequence")
    tokens, seen = _rows(batch, "tokens"), _rows(batch, "attention_mask") != 0
    used = seen.any(-1)
    tokens, seen = tokens[used], seen[used]
    first = seen.argmax(-1)
    starts = tokens[np.arange(len(tokens)), first] == bos
    second = np.minimum(first + 1, tokens.shape[-1] - 1)
    doubled = (tokens[np.arange(len(tokens)), second] == bos) & (second > first)
    bad = ~starts | doubled
    if not bad.any():
        return Check("bos", True, f"one beginning of sequence ({bos}) at the start of each of {len(tokens)} sequences")
    row = int(np.argmax(bad))
    what = "two of them" if starts[row] else "none at its start"
    why = "does the chat template write one, and the tokenizer another?" if starts[row] else "was it left out?"
    return Check(
        "bos", False, f"sequence {row} must begin with one beginning of sequence ({bos}) and has {what}; {why}"
    )


def eos_is_trained(batch: Batch, stops: Sequence[int], pad: int, max_length: int) -> Check:
    """The end of each response, one of `stops`, counts in the loss, also where padding is the same token; a response
    that was cut at `max_length` has lost it.
    """
    tokens, trained = _rows(batch, "tokens"), _rows(batch, "loss_mask") != 0
    seen = _rows(batch, "attention_mask") != 0
    ended, whole = (np.isin(tokens, stops) & trained).any(-1), trained.any(-1) & (seen.sum(-1) < max_length)
    bad = whole & ~ended
    if not bad.any():
        also = ", which pads as well," if pad in stops else ""
        return Check(
            "eos", True, f"the end of sequence ({_listed(stops)}){also} is trained in {int(ended.sum())} responses"
        )
    row = int(np.argmax(bad))
    why = "it is masked because it is the pad token too" if pad in stops else "it is missing or masked"
    return Check(
        "eos",
        False,
        f"the end of sequence ({_listed(stops)}) is not trained in {int(bad.sum())} responses (the first: {row}); "
        f"{why}",
    )


def _listed(tokens: Sequence[int]) -> str:
    return " or ".join(map(str, tokens))


def tokenizer_fits(batch: Batch, specials: Mapping[str, int | None], size: int, vocab_size: int) -> Check:
    """Every token that the tokenizer can make has a row in the model's embedding."""
    named = {name: token for name, token in specials.items() if token is not None and not 0 <= token < vocab_size}
    used = int(_rows(batch, "tokens")[_rows(batch, "attention_mask") != 0].max(initial=0))
    if size <= vocab_size and not named and used < vocab_size:
        return Check("tokenizer", True, f"{size} tokens of the tokenizer, {vocab_size} rows of the model's embedding")
    what = [f"{name} is {token}" for name, token in named.items()]
    what += [f"the data hold token {used}"] if used >= vocab_size else []
    what += [f"the tokenizer has {size} tokens"] if size > vocab_size else []
    return Check(
        "tokenizer", False, f"the model knows {vocab_size} tokens, but {'; '.join(what)}: it is another model's"
    )


def require(checks: Sequence[Check]) -> None:
    """Raises: UsageError with every check that does not hold."""
    failed = [check for check in checks if check.holds is False]
    if failed:
        raise UsageError("; ".join(f"check {c.name} failed: {c.says}" for c in failed) + " (--no-checks skips this)")
