"""What reviews are scored by: VADER's sentiment, length, and a judge whose taste is cyclic. Functions of texts.

(The learned reward model is the world's: see world.py.)
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from papers.lm import corpus

TOPICS = tuple(corpus.TOPICS)
"""Order of the axis of topics."""
Texts = Sequence[str]


@functools.cache
def _analyser() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@functools.lru_cache(maxsize=500_000)
def _compound(text: str) -> float:
    return float(_analyser().polarity_scores(text)["compound"]) if text else 0.0


def sentiment(prompts: Texts, completions: Texts) -> list[float]:
    """VADER's compound score in [-1, 1], computed once a text: its rules about negations, boosters, "but" and "!" are
    VADER's own.
    """
    return [_compound(text) for text in completions]


def length(prompts: Texts, completions: Texts) -> list[float]:
    """Words over the most there can be, in [0, 1]."""
    return [len(text.split()) / corpus.LONGEST for text in completions]


def topics(completions: Texts) -> np.ndarray:
    """What texts are about: shares of their words on people, money and things, `[texts, 3]`.

    A quarter is added to each count before they are divided by their sum: a text about nothing has equal shares.
    """
    counts = np.full((len(completions), len(TOPICS)), 0.25)
    for row, text in zip(counts, completions, strict=True):
        for word in text.split():
            for column, topic in enumerate(TOPICS):
                row[column] += word in corpus.TOPICS[topic]
    return counts / counts.sum(-1, keepdims=True)


SHARPNESS = 6.0
CYCLE = np.asarray([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
"""People beat money, money beats things, things beat people."""


def prefers(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    r"""P(first beats second) = sigmoid(s f^T C g) of two arrays of topic shares `[..., 3]`, which broadcast.

    Antisymmetric, P(a, b) + P(b, a) = 1, and cyclic: no reward orders the topics so.
    """
    return 1 / (1 + np.exp(-SHARPNESS * np.einsum("...i,ij,...j->...", first, CYCLE, second)))


def cyclic(prompts: Texts, first: Texts, second: Texts) -> np.ndarray:
    """The judge: `prefers` on what the texts are about."""
    return prefers(topics(first), topics(second))


def objectives(prompts: Texts, completions: Texts) -> np.ndarray:
    """Sentiment and length, `[texts, 2]`."""
    return np.stack([sentiment(prompts, completions), length(prompts, completions)], -1)


def mean_objective(prompts: Texts, completions: Texts) -> np.ndarray:
    """The mean of the two."""
    return objectives(prompts, completions).mean(-1)
