"""Looking for a counterexample: Hypothesis draws and shrinks, within a budget, and always the same ones."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample, Unsatisfiable

_SETTINGS = hypothesis.settings(
    max_examples=60,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


_shares: list[float] = [1.0]


@contextlib.contextmanager
def fewer(share: float) -> Iterator[None]:
    """Inside, every search draws this share of its examples (at least five): for a quick look at many losses."""
    _shares.append(share)
    try:
        yield
    finally:
        _shares.pop()


def smallest(strategy: st.SearchStrategy[Any], violates: Callable[[Any], bool], examples: int = 60) -> Any | None:
    """The smallest drawn example that violates, or None if none of `examples` does."""
    share = _shares[-1]
    budget = examples if share == 1 else max(5, round(share * examples))
    settings = hypothesis.settings(_SETTINGS, max_examples=budget)
    try:
        return hypothesis.find(strategy, violates, settings=settings, random=random.Random(0))
    except (NoSuchExample, Unsatisfiable):
        return None


def differs(a: Any, b: Any, tolerance: float) -> bool:
    """Whether `a` differs from the baseline `b` by more than `tolerance`, relative to their size.

    A baseline that is not finite shows nothing about another property (`gradient_finite` reports it).
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if not np.isfinite(b).all():
        return False
    if not np.isfinite(a).all():
        return True
    return bool((np.abs(a - b) > tolerance * (1 + np.maximum(np.abs(a), np.abs(b)))).any())


def plain(example: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An example for the report."""
    return {name: np.asarray(value).tolist() for name, value in {**example, **more}.items()}
