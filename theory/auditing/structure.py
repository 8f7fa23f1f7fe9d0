"""Properties of the form: masks, padding, length, order, shifts, scale, what the loss depends on."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from theory.auditing.report import Property
from theory.auditing.search import differs, plain, smallest
from theory.auditing.subject import KINDS, POLICY, Subject, rescaled

_TOKENS = ("token", "token_group")
_SAME = 2e-5
NOT_TOKENS = Property("does not apply", None, None, "it reads whole responses, not tokens")


WIN_RATE = Property("does not apply", None, None, "its feedback is a win-rate in [0, 1]")


def reads_win_rate(subject: Subject) -> bool:
    """Whether the feedback is a win-rate, which has neither a free constant nor a scale."""
    return subject.method is not None and "win_rate" in subject.method.reads


def masked_tokens_inert(subject: Subject) -> Property:
    """Put anything into masked slots: the value and every other gradient stay, theirs is zero; a row without tokens
    gives 0.
    """
    if subject.kind not in _TOKENS:
        return NOT_TOKENS
    for filler in (np.nan, np.inf, -np.inf, -1e4, 7.0):

        def violates(batch: dict[str, Any], filler: float = filler) -> bool:
            masked = batch["mask"] == 0
            if not masked.any():
                return False
            value, gradient = subject.value_and_grad(batch)
            dirty = {**batch}
            for name in ("token_logp", "ref_token_logp"):
                dirty[name] = np.where(masked, filler, batch[name])
            got, slope = subject.value_and_grad(dirty)
            return differs(got, value, _SAME) or differs(slope, gradient, _SAME) or bool((slope[masked] != 0).any())

        found = smallest(subject.batches(), violates, examples=40)
        if found is not None:
            return Property(
                "fails", None, plain(found, filler=str(filler)), f"a masked token that holds {filler} is seen"
            )

    def empty_row_counts(batch: dict[str, Any]) -> bool:
        gone = {**batch, "mask": np.concatenate([np.zeros_like(batch["mask"][:1]), batch["mask"][1:]])}
        value, gradient = subject.value_and_grad(gone)
        return not (np.isfinite(gradient).all() and abs(value[0]) <= 1e-6 and (gradient[0] == 0).all())

    found = smallest(subject.batches(), empty_row_counts, examples=20)
    if found is not None:
        return Property("fails", None, plain(found), "a row without any token does not contribute 0")
    return Property("holds")


def padding_inert(subject: Subject) -> Property:
    """Two more masked columns, on the right or on the left."""
    if subject.kind not in _TOKENS:
        return NOT_TOKENS
    for side in ("right", "left"):

        def violates(batch: dict[str, Any], side: str = side) -> bool:
            value, gradient = subject.value_and_grad(batch)
            widths = [(0, 0)] * (batch["mask"].ndim - 1) + [(0, 2) if side == "right" else (2, 0)]
            wide = {n: np.pad(a, widths) if a.ndim == len(widths) else a for n, a in batch.items()}
            got, slope = subject.value_and_grad(wide)
            inner = slope[..., :-2] if side == "right" else slope[..., 2:]
            return differs(got, value, _SAME) or differs(inner, gradient, _SAME)

        found = smallest(subject.batches(), violates, examples=30)
        if found is not None:
            return Property("fails", None, plain(found), f"padding on the {side} changes the result")
    return Property("holds")


def length_sum(subject: Subject) -> Property:
    """The same tokens twice: a sum doubles, a mean stays."""
    if subject.kind not in _TOKENS:
        return NOT_TOKENS
    ratios, of_sum = [], []
    rng = np.random.default_rng(0)
    k = subject.num_responses or 3
    shape = (1, 3) if subject.kind == "token" else (1, k, 3)
    for _ in range(8):
        batch = {
            "token_logp": -rng.uniform(0.5, 2.0, shape),
            "ref_token_logp": -rng.uniform(2.5, 4.0, shape),
            "mask": np.ones(shape),
        }
        if subject.kind == "token_group":
            batch["reward"] = np.zeros(shape[:-1])
        twice = {n: a if n == "reward" else np.concatenate([a, a], -1) for n, a in batch.items()}
        if subject.kind == "token":
            one, two = subject.value_and_grad(batch)[0], subject.value_and_grad(twice)[0]
            larger = {**batch, "ref_token_logp": 2 * batch["ref_token_logp"] - batch["token_logp"]}
            of_sum.append(not differs(two, subject.value_and_grad(larger)[0], 1e-4))
        else:
            # A surrogate's value means little: look at the size of the gradient of each token with rewards that matter.
            batch["reward"] = twice["reward"] = np.linspace(1.0, -1.0, k)[None]
            same = {"ref_token_logp": batch["token_logp"]}
            one = np.abs(subject.value_and_grad({**batch, **same})[1]).sum()
            both = {"ref_token_logp": twice["token_logp"]}
            two = np.abs(subject.value_and_grad({**twice, **both})[1]).sum()
        if np.abs(one).max() > 1e-9:
            ratios.append(float(np.reshape(two, -1)[0] / np.reshape(one, -1)[0]))
    if not ratios:
        return Property("not shown", None, None, "the value is 0 on every input tried")
    if np.allclose(ratios, 2.0, rtol=0.02):
        return Property("holds", "sum", None, "tokens are summed")
    if of_sum and all(of_sum):
        return Property("holds", "sum", None, "it is a function of the summed log-ratio")
    if np.allclose(ratios, 1.0, rtol=0.02):
        return Property("fails", "mean", None, "tokens are averaged: the temperature is divided by the length")
    return Property("fails", "other", {"ratios": ratios}, "a response twice as long counts neither once nor twice")


def permutation_equivariant(subject: Subject) -> Property:
    """Prompts in another order; in a group, responses in another order."""
    turn = {"group", "token_group"}

    def violates(batch: dict[str, Any]) -> bool:
        value, gradient = subject.value_and_grad(batch)
        got, slope = subject.value_and_grad({n: a[::-1] for n, a in batch.items()})
        if differs(got[::-1], value, _SAME) or differs(slope[::-1], gradient, _SAME):
            return True
        if subject.kind in turn:
            rolled = {n: a if n == "value" else np.roll(a, 1, axis=1) for n, a in batch.items()}
            got, slope = subject.value_and_grad(rolled)
            return differs(got, value, _SAME) or differs(np.roll(slope, -1, axis=1), gradient, _SAME)
        raw = subject.raw({n: jnp.asarray(a[::-1]) for n, a in batch.items()})
        plain_raw = np.asarray(subject.raw({n: jnp.asarray(a) for n, a in batch.items()}))
        return differs(np.asarray(raw)[::-1] if plain_raw.ndim else raw, plain_raw, _SAME)

    found = smallest(subject.batches(), violates, examples=30)
    return Property("holds") if found is None else Property("fails", None, plain(found), "the order matters")


def _unchanged(
    subject: Subject, change: Callable[[dict[str, Any]], dict[str, Any]], **more: Any
) -> dict[str, Any] | None:
    """An example where both the value and the gradient change; None if one of them never does."""
    strategy = subject.batches(lowest=-8.0, **more)

    def value_moves(batch: dict[str, Any]) -> bool:
        return differs(subject.value_and_grad(change(batch))[0], subject.value_and_grad(batch)[0], 1e-4)

    def gradient_moves(batch: dict[str, Any]) -> bool:
        return differs(subject.value_and_grad(change(batch))[1], subject.value_and_grad(batch)[1], 1e-4)

    if smallest(strategy, value_moves, examples=40) is None:
        return None
    return smallest(strategy, gradient_moves, examples=40)


def shift_invariant(subject: Subject) -> Property:
    """A constant of the prompt: on all rewards, or for a pair loss on both policy log-probs."""
    if subject.kind == "token":
        return Property("does not apply", None, None, "a regulariser reads no feedback")
    if subject.kind == "point":
        return Property("does not apply", None, None, "a binary label cannot be shifted")
    if reads_win_rate(subject) and subject.kind != "pair":
        return WIN_RATE
    rewards = [n for n in ("reward", "rewards") if n in subject.more] or ["reward"]
    name = "logp" if subject.kind == "pair" and "reward" not in subject.more else rewards[0]
    found = _unchanged(subject, lambda batch: {**batch, name: batch[name] + 3.0})
    if found is None:
        return Property("holds")
    what = "both policy log-probs" if name == "logp" else "all rewards of a prompt"
    return Property("fails", None, plain(found, shift=3.0), f"a constant on {what} changes the gradient")


def scale_equivariant(subject: Subject) -> Property:
    """Rewards (and beta, where there is one) times s: the gradient times s."""
    if "reward" not in KINDS[subject.kind]:
        return Property("does not apply", None, None, "it reads no rewards")
    if reads_win_rate(subject):
        return WIN_RATE
    with_beta = "beta" in subject.hyper
    other, what = (rescaled(subject, 2.0), "rewards and beta") if with_beta else (subject, "rewards")

    def gradients(batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        return (
            other.value_and_grad({**batch, "reward": 2.0 * batch["reward"]})[1],
            subject.value_and_grad(batch)[1],
        )

    strategy = subject.batches(lowest=-8.0)
    found = smallest(strategy, lambda batch: differs(gradients(batch)[0], 2.0 * gradients(batch)[1], 1e-3), examples=40)
    if found is None:
        return Property("holds", "equivariant", None, f"the gradient scales with {what}")

    def rewards_move(batch: dict[str, Any]) -> bool:
        return differs(subject.value_and_grad({**batch, "reward": 2.0 * batch["reward"]})[1], gradients(batch)[1], 1e-3)

    if smallest(strategy, rewards_move, examples=40) is None:
        return Property("fails", "invariant", plain(found, scale=2.0), "the scale of the rewards changes nothing")
    return Property(
        "fails", "neither", plain(found, scale=2.0), f"scaling {what} by 2 does not scale the gradient by 2"
    )


def log_ratio_only(subject: Subject) -> Property:
    """A constant on policy and reference of each response (or token): value, or for surrogates gradient, stay."""
    policy = POLICY[subject.kind]

    def change(batch: dict[str, Any]) -> dict[str, Any]:
        offset = -np.arange(1.0, batch[policy].size + 1).reshape(batch[policy].shape) / 2
        return {**batch, policy: batch[policy] + offset, f"ref_{policy}": batch[f"ref_{policy}"] + offset}

    found = _unchanged(subject, change)
    if found is None:
        return Property("holds")
    return Property("fails", None, plain(found), "log-probs matter beyond the log-ratio policy / reference")


def statistics_detached(subject: Subject) -> Property:
    """In a surrogate, what weighs a log-prob must not move with it.

    The gradient of sum_i sg[w_i] log pi_i is w, a function of log-ratios and rewards; a weight that is not detached
    adds (dw_i / dlog pi_i) log pi_i, which moves when policy and reference are shifted together.
    """
    if subject.kind not in ("group", "token", "token_group"):
        return Property("does not apply", None, None, "a pair or point loss is differentiated as a whole")
    policy = POLICY[subject.kind]

    def shifted(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, policy: batch[policy] - 2.0, f"ref_{policy}": batch[f"ref_{policy}"] - 2.0}

    def violates(batch: dict[str, Any]) -> bool:
        return differs(subject.value_and_grad(shifted(batch))[1], subject.value_and_grad(batch)[1], 1e-4)

    found = smallest(subject.batches(lowest=-8.0), violates, examples=40)
    if found is None:
        return Property("holds")
    return Property(
        "fails",
        None,
        plain(found, shift=-2.0),
        "the gradient contains a bare log-prob: a weight that should be detached is differentiated",
    )


def batch_separable(subject: Subject) -> Property:
    """A batch of two against each prompt alone: values (or their mean or sum), and no gradient across."""

    def violates(batch: dict[str, Any]) -> bool:
        given = {name: jnp.asarray(array) for name, array in batch.items()}
        together = np.asarray(subject.raw(given), np.float64)
        apart = subject.value_and_grad(batch)[0]
        if together.ndim:
            return differs(together, apart, _SAME)
        return differs(together, apart.mean(), _SAME) and differs(together, apart.sum(), _SAME)

    found = smallest(subject.batches(lowest=-8.0), violates, examples=40)
    if found is None:
        return Property("holds")
    return Property("fails", None, plain(found), "a prompt's loss changes with the other prompts of its batch")
