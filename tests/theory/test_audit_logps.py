"""`audit_logps`: the five data mistakes, each made once, are named; the right function raises no alarm."""

import jax
import jax.numpy as jnp
import pytest

from alignjax import lm
from theory.auditing.logps import LOGPS_WHY, PAD, audit_logps, small_decoder
from theory.auditing.subject import AuditError

CONFIG, PARAMS = small_decoder()


def _table(tokens):
    return jax.nn.log_softmax(lm.logits(CONFIG, PARAMS, jnp.clip(tokens, 0, CONFIG.vocab_size - 1)), -1)


def _scored(tokens, shift=1):
    table = _table(tokens)[:, : tokens.shape[1] - shift]
    labels = jnp.clip(tokens[:, shift:], 0, CONFIG.vocab_size - 1)
    found = jnp.take_along_axis(table, labels[..., None], -1)[..., 0]
    return jnp.pad(found, ((0, 0), (shift, 0)))


def right(tokens, mask):
    return jnp.where(mask != 0, _scored(tokens), 0.0).sum(-1)


def ours(tokens, mask):
    # Padding is what lies outside the first and the last response token's reach: here, the pad id at either end.
    keep = (jnp.cumsum(tokens != PAD, -1) > 0) & (jnp.cumsum((tokens != PAD)[:, ::-1], -1)[:, ::-1] > 0)
    seen = keep & (tokens >= 0)
    return lm.token_logps(CONFIG, PARAMS, jnp.where(seen, tokens, 0), mask, seen)


def prompt_too(tokens, mask):
    return jnp.where((tokens != PAD) & (jnp.arange(tokens.shape[1]) > 0), _scored(tokens), 0.0).sum(-1)


def no_end(tokens, mask):
    end = (tokens == 257) & (jnp.cumsum(tokens == 257, -1) >= 1)
    return jnp.where((mask != 0) & ~end, _scored(tokens), 0.0).sum(-1)


def copying(tokens, mask):
    return jnp.where(mask != 0, _scored(tokens, shift=0), 0.0).sum(-1)


def drops_first(tokens, mask):
    inner = (mask != 0) & (jnp.cumsum(mask, -1) > 1)
    return jnp.where(inner, _scored(tokens), 0.0).sum(-1)


def averaging(tokens, mask):
    return right(tokens, mask) / mask.sum(-1)


def safe_averaging(tokens, mask):
    return right(tokens, mask) / jnp.maximum(mask.sum(-1), 1)


@pytest.mark.slow
def test_the_right_function_raises_no_alarm_on_the_right_side():
    verdicts = {name: found.verdict for name, found in audit_logps(right).properties.items()}
    assert set(verdicts) == set(LOGPS_WHY)
    # It takes no attention mask, so that left padding reaches the decoder: the one thing it does not do.
    assert verdicts.pop("padding_left") == "fails"
    assert set(verdicts.values()) == {"holds"}


def test_ours_passes_everything():
    report = audit_logps(ours)
    assert {found.verdict for found in report.properties.values()} == {"holds"}, str(report)


@pytest.mark.parametrize(
    ("fn", "name", "says"),
    [
        (prompt_too, "prompt_masked", "the prompt is counted"),
        (no_end, "eos_trained", "end of sequence is not counted"),
        (copying, "labels_aligned", "scored by its own logits"),
        (drops_first, "labels_aligned", "first response token is missing"),
        (averaging, "masked_inert", "without a response does not give 0"),
        (safe_averaging, "length_sum", "mean"),
    ],
)
def test_each_mistake_is_named(fn, name, says):
    found = audit_logps(fn).properties[name]
    assert found.verdict == "fails" and says in found.explanation


def test_what_it_cannot_use_is_said_plainly():
    with pytest.raises(AuditError, match=r"returned shape \(2, 1\)"):
        audit_logps(lambda tokens, mask: jnp.zeros((2, 1)))
    with pytest.raises(AuditError, match="raised KeyError"):
        audit_logps(lambda tokens, mask: {}["model"])
