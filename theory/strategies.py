r"""Hypothesis strategies for alignment: policies, rewards, preferences by class, token trees, masked batches.

Public: use them in your own property tests. Everything is drawn as small decimals in NumPy arrays, so that
counterexamples shrink to numbers a person can read. `theory.properties` has the assertions that go with them.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from alignjax.envs import TokenTree

PREFERENCE_CLASSES = ("bradley_terry", "cyclic", "deterministic", "mixture", "any")


def quarters(low: float, high: float) -> st.SearchStrategy[float]:
    """Multiples of 1/4 in [low, high]; they shrink towards 0 (or the end nearest to it)."""
    return st.integers(int(np.ceil(4 * low)), int(np.floor(4 * high))).map(lambda k: k / 4)


def arrays(shape: tuple[int, ...], low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    """Arrays of quarters."""
    size = int(np.prod(shape))
    return st.lists(quarters(low, high), min_size=size, max_size=size).map(lambda x: np.asarray(x).reshape(shape))


@st.composite
def log_policies(draw: st.DrawFn, num_responses: int, *, zeros: bool = False, lowest: float = -30.0) -> np.ndarray:
    """Normalised log-probs `[A]`, with masses down to e^lowest and, with `zeros`, exact zeros (-inf; never all)."""
    logits = draw(arrays((num_responses,), lowest, 0.0))
    if zeros:
        keep = draw(st.integers(0, num_responses - 1))
        dead = draw(st.lists(st.booleans(), min_size=num_responses, max_size=num_responses))
        logits = np.where(np.asarray(dead) & (np.arange(num_responses) != keep), -np.inf, logits)
    peak = logits.max()
    return logits - peak - np.log(np.exp(logits - peak).sum())


@st.composite
def rewards(draw: st.DrawFn, num_responses: int, *, ties: bool = True, scale: float = 4.0) -> np.ndarray:
    """Rewards `[A]` in [-scale, scale]; with `ties` often equal, without never."""
    if ties:
        return draw(arrays((num_responses,), -scale, scale))
    steps = draw(st.permutations(range(num_responses)))
    return (np.asarray(steps) - (num_responses - 1) / 2) * (2 * scale / max(num_responses, 2))


@st.composite
def preference_matrices(draw: st.DrawFn, num_responses: int, kind: str = "any") -> np.ndarray:
    """Matrices `[A, A]` with P + P^T = 1, by class.

    "bradley_terry": sigmoid of reward differences. "cyclic": at least one cycle 0 > 1 > 2 > 0 (A >= 3).
    "deterministic": 0 and 1 off the diagonal. "mixture": several Bradley-Terry annotators. "any": entries anywhere in
    [0, 1].
    """
    n = num_responses
    if kind not in PREFERENCE_CLASSES:
        raise ValueError(f"kind must be one of {PREFERENCE_CLASSES}, got {kind!r}")
    if kind == "cyclic" and n < 3:
        raise ValueError(f"a cycle needs at least 3 responses, got {n}")
    if kind in ("bradley_terry", "mixture"):
        count = 1 if kind == "bradley_terry" else draw(st.integers(2, 4))
        tables = []
        for _ in range(count):
            r = draw(rewards(n))
            tables.append(1 / (1 + np.exp(r[None, :] - r[:, None])))
        return np.mean(tables, axis=0)
    size = n * (n - 1) // 2
    unit = st.sampled_from([0.0, 1.0]) if kind == "deterministic" else st.integers(0, 16).map(lambda k: k / 16)
    upper = np.zeros((n, n))
    upper[np.triu_indices(n, 1)] = draw(st.lists(unit, min_size=size, max_size=size))
    matrix = np.triu(upper, 1)
    matrix = matrix + np.tril(1 - matrix.T, -1) + 0.5 * np.eye(n)
    if kind == "cyclic":
        for i, j in ((0, 1), (1, 2), (2, 0)):
            matrix[i, j] = draw(st.integers(9, 16)) / 16
            matrix[j, i] = 1 - matrix[i, j]
    return matrix


@st.composite
def token_trees(
    draw: st.DrawFn, *, max_vocab: int = 3, max_length: int = 3
) -> tuple[TokenTree, tuple[np.ndarray, ...]]:
    """A token tree, with or without an end of sequence, and the logits of a policy on it, one array per depth."""
    vocab, length = draw(st.integers(2, max_vocab)), draw(st.integers(1, max_length))
    tree = TokenTree(vocab, length, eos=draw(st.none() | st.integers(0, vocab - 1)))
    return tree, tuple(draw(arrays((vocab**t, vocab), -3.0, 3.0)) for t in range(length))


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...], *, allow_empty: bool = False) -> np.ndarray:
    """Right-padded 0/1 masks over the last axis: lengths from 1 (or 0) to T."""
    *lead, length = shape
    count = int(np.prod(lead)) if lead else 1
    lengths = draw(st.lists(st.integers(0 if allow_empty else 1, length), min_size=count, max_size=count))
    return (np.arange(length) < np.asarray(lengths)[:, None]).astype(float).reshape(shape)


FEEDBACK = ("reward", "rewards", "win_rate", "value", "preference")
"""Fields of `Samples` that a loss of any kind may read beside its own: `batches(kind, more=...)` draws them."""


def _feedback(name: str, prompts: int, responses: int) -> st.SearchStrategy[np.ndarray]:
    """One of FEEDBACK: two objectives, win-rates and preferences in sixteenths, a value for each prompt."""
    if name in ("win_rate", "preference"):
        count = prompts * (responses if name == "win_rate" else 1)
        shares = st.lists(st.integers(0, 16).map(lambda k: k / 16), min_size=count, max_size=count).map(np.asarray)
        if name == "win_rate":
            return shares.map(lambda p: p.reshape((prompts, responses)))
        half = np.full(prompts, 0.5)
        return shares.map(lambda p: np.moveaxis(np.asarray([[half, p], [1 - p, half]]), -1, 0))
    shape = {"reward": (prompts, responses), "rewards": (prompts, responses, 2), "value": (prompts,)}[name]
    return arrays(shape, -4.0, 4.0)


@st.composite
def batches(
    draw: st.DrawFn,
    kind: str,
    *,
    prompts: int = 2,
    responses: int = 3,
    tokens: int = 3,
    lowest: float = -20.0,
    binary_reward: bool = False,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The arrays of a loss of one of the audit's kinds, by `Samples` field name, and `more` fields of FEEDBACK."""
    reward = st.integers(0, 1).map(float) if binary_reward else quarters(-4.0, 4.0)

    def rewarded(shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        return np.asarray(draw(st.lists(reward, min_size=size, max_size=size))).reshape(shape)

    responses = 2 if kind == "pair" else responses
    extra = {name: draw(_feedback(name, prompts, responses)) for name in more}
    if kind in ("pair", "group"):
        wide = (prompts, responses)
        out = {"logp": draw(arrays(wide, lowest, 0.0)), "ref_logp": draw(arrays(wide, lowest, 0.0))}
        return {**out, **extra} if kind == "pair" else {**out, "reward": rewarded(wide), **extra}
    if kind == "point":
        labels = draw(st.lists(st.integers(0, 1).map(float), min_size=prompts, max_size=prompts))
        logp, ref = draw(arrays((prompts,), lowest, 0.0)), draw(arrays((prompts,), lowest, 0.0))
        return {"logp": logp, "ref_logp": ref, "label": np.asarray(labels)}
    shape: tuple[int, ...] = (prompts, tokens) if kind == "token" else (prompts, responses, tokens)
    out = {
        "token_logp": draw(arrays(shape, lowest / 4, 0.0)),
        "ref_token_logp": draw(arrays(shape, lowest / 4, 0.0)),
        "mask": draw(masks(shape)),
    }
    return out if kind == "token" else {**out, "reward": rewarded(shape[:-1]), **extra}
