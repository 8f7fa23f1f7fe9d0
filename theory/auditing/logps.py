r"""`audit_logps`: a user's log-prob function against the five data mistakes that every trainer has made.

The function is asked for the log-probs of responses under a small decoder of ours, and its answers are compared with
the right ones and with those of each mistake: a prompt that is not masked, an end of sequence masked because it
equals the pad token, labels shifted by one, NaN under a zero mask, padding on the wrong side.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory.auditing.report import Property, Report
from theory.auditing.subject import AuditError

EOS, PAD = 257, 258
_CLOSE = 2e-3

LOGPS_WHY: dict[str, tuple[str, str]] = {
    "prompt_masked": ("only response tokens count", "a prompt that is trained on is likelihood training on questions"),
    "eos_trained": (
        "the end of sequence counts, also where it is the pad token",
        "a model that is never taught to stop does not",
    ),
    "labels_aligned": (
        "the token at position t is scored by the logits at t - 1, and the first response token counts",
        "off by one trains the model to copy",
    ),
    "masked_inert": (
        "masked positions may hold any id (-100 among them), and a row without a response gives 0",
        "NaN under a zero mask is still NaN",
    ),
    "padding_right": ("padding on the right changes nothing", "else a response's loss depends on its neighbours"),
    "padding_left": (
        "padding on the left changes nothing",
        "left-padded prompts meet the decoder at shifted positions",
    ),
    "length_sum": ("tokens are summed; the value says sum or mean", "a mean divides the temperature by the length"),
}


@functools.cache
def small_decoder() -> tuple[Any, Any]:
    """(config, params) of the decoder the audit asks about: build your function on `alignjax.lm.logits`."""
    from alignjax import lm

    config = lm.DecoderConfig(d_model=32, d_mlp=64, num_layers=2, num_heads=2, max_length=32)
    # Larger than fresh weights, so that tokens differ by nats and mistakes show.
    return config, jax.tree.map(lambda x: 3.0 * x, lm.init(config, jax.random.key(7)))


def _oracle(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """log p(token t | those before it) where the mask is 1, else 0: `[B, T]`."""
    from alignjax import lm

    config, params = small_decoder()
    table = np.asarray(jax.nn.log_softmax(lm.logits(config, params, jnp.asarray(tokens)), -1), np.float64)
    scored = np.zeros(tokens.shape)
    for t in range(1, tokens.shape[1]):
        scored[:, t] = np.take_along_axis(table[:, t - 1], tokens[:, t, None], -1)[:, 0]
    return np.where(mask != 0, scored, 0.0)


def _example(pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Two rows: prompt, response, end of sequence, padding on the right."""
    rows = [([10, 20, 30], [40, 50, 60, 70], 3), ([11, 21], [41, 51], 6)]
    tokens = [[256, *prompt, *answer, EOS, *[pad] * fill] for prompt, answer, fill in rows]
    mask = [[0] * (len(p) + 1) + [1] * (len(a) + 1) + [0] * fill for p, a, fill in rows]
    return np.asarray(tokens), np.asarray(mask)


def audit_logps(fn: Callable[[Any, Any], Any]) -> Report:
    """Audit `fn(tokens, mask)`, log-probs of responses under `small_decoder()`.

    tokens: `[B, T]` integers (beginning of sequence, prompt, response, end of sequence, padding); mask: `[B, T]`, 1
    on the tokens of the response, its end included. `fn` returns sums (or means) `[B]`, or `[B, T]` with 0 where the
    mask is 0, or a tuple that starts with one of them. Returns a `Report` whose properties are those of `LOGPS_WHY`.
    Raises AuditError if it raises or returns another shape.
    """

    def ask(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        try:
            out = fn(jnp.asarray(tokens), jnp.asarray(mask))
        except Exception as error:
            raise AuditError(f"the log-prob function raised {type(error).__name__}: {error}") from error
        out = np.asarray(out[0] if isinstance(out, tuple | list) else out, np.float64)
        if out.shape == tokens.shape:
            return out.sum(-1)
        if out.shape != tokens.shape[:1]:
            raise AuditError(
                f"the log-prob function returned shape {out.shape}; allowed are [B] or [B, T] = {tokens.shape}"
            )
        return out

    tokens, mask = _example(PAD)
    token_logp = _oracle(tokens, mask)
    right, given = token_logp.sum(-1), ask(tokens, mask)
    counts = mask.sum(-1)
    mean = not _same(given, right) and _same(given, right / counts)
    unit = counts if mean else np.ones_like(counts)
    found: dict[str, Property] = {}

    everything = _oracle(tokens, tokens != PAD).sum(-1)
    known = {
        "the prompt is counted": everything,
        "the prompt is counted, averaged": everything / (tokens != PAD)[:, 1:].sum(-1),
        "the first response token is missing": _without_first(token_logp, mask).sum(-1),
        "each token is scored by its own logits": _shifted(tokens, mask, 0),
        "labels are shifted by two": _shifted(tokens, mask, 2),
        "the end of sequence is missing": np.where(tokens == EOS, 0.0, token_logp).sum(-1),
    }
    looks_like = [name for name, value in known.items() if _same(given, value)]
    example = {"tokens": tokens, "mask": mask, "got": given, "right": right}
    ok = mean or _same(given, right)
    for name, causes in {
        "prompt_masked": ("the prompt is counted", "the prompt is counted, averaged"),
        "labels_aligned": (
            "the first response token is missing",
            "each token is scored by its own logits",
            "labels are shifted by two",
        ),
    }.items():
        blamed = [cause for cause in looks_like if cause in causes]
        if blamed:
            found[name] = Property("fails", None, example, blamed[0])
        else:
            found[name] = Property(
                "holds" if ok else "not shown", None, None, "" if ok else "the value is that of no known form"
            )

    tokens_eos, mask_eos = _example(EOS)
    want = _oracle(tokens_eos, mask_eos).sum(-1) / unit
    got = ask(tokens_eos, mask_eos)
    if "the end of sequence is missing" in looks_like or (ok and not _same(got, want)):
        seen = {"tokens": tokens_eos, "mask": mask_eos, "got": got, "right": want}
        found["eos_trained"] = Property(
            "fails", None, seen, "the end of sequence is not counted where it equals the pad token"
        )
    else:
        found["eos_trained"] = Property("holds" if ok else "not shown")

    found["masked_inert"] = _masked_inert(ask, tokens, mask, given)
    found["padding_right"] = _padding(ask, tokens, mask, given, "right")
    found["padding_left"] = _padding(ask, tokens, mask, given, "left")
    if mean:
        found["length_sum"] = Property("fails", "mean", None, "the mean of the response's tokens")
    else:
        found["length_sum"] = Property("holds" if ok else "not shown", "sum" if ok else None)
    name = getattr(fn, "__name__", "log-prob function")
    return Report(name, "logps", {}, {n: found[n] for n in LOGPS_WHY}, "does not apply", "does not apply")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.isfinite(a).all() and np.abs(a - b).max() <= _CLOSE * (1 + np.abs(b).max()))


def _without_first(token_logp: np.ndarray, mask: np.ndarray) -> np.ndarray:
    first = mask.argmax(-1)
    return np.where(np.arange(mask.shape[1]) == first[:, None], 0.0, token_logp)


def _shifted(tokens: np.ndarray, mask: np.ndarray, by: int) -> np.ndarray:
    """Sums where the token at t is scored by the logits at t - by."""
    from alignjax import lm

    config, params = small_decoder()
    table = np.asarray(jax.nn.log_softmax(lm.logits(config, params, jnp.asarray(tokens)), -1), np.float64)
    total = np.zeros(len(tokens))
    for t in range(by, tokens.shape[1]):
        total += mask[:, t] * np.take_along_axis(table[:, t - by], tokens[:, t, None], -1)[:, 0]
    return total


def _masked_inert(ask: Callable[..., np.ndarray], tokens: np.ndarray, mask: np.ndarray, given: np.ndarray) -> Property:
    after = np.cumsum(mask, -1) == mask.sum(-1, keepdims=True)
    hidden = after & (mask == 0)
    for filler in (-100, 263, 0):
        other = np.where(hidden, filler, tokens)
        got = ask(other, mask)
        if not _same(got, given):
            return Property("fails", None, {"tokens": other, "mask": mask, "got": got, "before": given},
                            f"padding that holds the id {filler} is seen")  # fmt: skip
    none = mask * np.asarray([[1], [0]])
    got = ask(tokens, none)
    if not (np.isfinite(got).all() and abs(got[1]) < 1e-6):
        return Property(
            "fails", None, {"tokens": tokens, "mask": none, "got": got}, "a row without a response does not give 0"
        )
    return Property("holds")


def _padding(
    ask: Callable[..., np.ndarray], tokens: np.ndarray, mask: np.ndarray, given: np.ndarray, side: str
) -> Property:
    """Four more pads on one side. On the left a function of (tokens, mask) must find the padding itself."""
    widths = ((0, 0), (0, 4) if side == "right" else (4, 0))
    wide, wide_mask = np.pad(tokens, widths, constant_values=PAD), np.pad(mask, widths)
    got = ask(wide, wide_mask)
    if _same(got, given):
        return Property("holds")
    return Property("fails", None, {"tokens": wide, "mask": wide_mask, "got": got, "before": given},
                    f"padding on the {side} changes the log-probs")  # fmt: skip
