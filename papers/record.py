"""The types of this house: a claim and its computed verdict, a figure, a paper. Data that names plain functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from alignjax.record import Source

Verdict = Literal["reproduced", "contradicted", "not testable here"]
Relation = Literal["equal", "at most", "at least", "less than", "greater than"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How large a run is. Experiments take it, so that figures and claims can share one cached run."""

    quick: bool = False
    seed: int = 0
    out: str = "out"
    """The folder of results; runs that take long are kept there."""

    def size(self, full: int, quick: int) -> int:
        """A count: instances, steps or seeds."""
        return quick if self.quick else full


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the paper says and what a run gave; the verdict follows from the numbers and cannot be typed.

    `expected` comes from the paper (a closed form, a bound, an ordering), `measured` from a run that does not use that
    closed form. The claim holds if, for every entry, measured `relation` expected up to `tolerance` (absolute); what is
    not finite, and nothing at all, does not hold.
    """

    expected: Any
    measured: Any
    tolerance: float = 0.0
    relation: Relation = "equal"
    runs: int = 1
    """Independent runs: instances, seeds."""
    spread: str = ""
    """Median and range over the runs, or a standard error, in words."""
    note: str = ""
    """What a reader should know beside the number: the tightest constant seen, the corrected form."""

    @property
    def holds(self) -> bool:
        """Whether the numbers say what the paper says."""
        expected, measured = np.asarray(self.expected, float), np.asarray(self.measured, float)
        if not measured.size or not np.isfinite(measured).all():
            return False
        checks = {
            "equal": np.abs(measured - expected) <= self.tolerance,
            "at most": measured <= expected + self.tolerance,
            "at least": measured >= expected - self.tolerance,
            "less than": measured < expected - self.tolerance,
            "greater than": measured > expected + self.tolerance,
        }
        return bool(np.all(checks[self.relation]))

    @property
    def verdict(self) -> Verdict:
        """Computed from expected, measured, tolerance and relation."""
        return "reproduced" if self.holds else "contradicted"


@dataclasses.dataclass(frozen=True)
class NotTestable:
    """A claim that cannot be run here, and why; never a silent skip."""

    reason: str
    verdict: Verdict = dataclasses.field(default="not testable here", init=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of a paper as something that can be run."""

    id: str
    """Paper and name: "nash-md.last-iterate"."""
    says: str
    """The paper's statement, in a sentence of ours."""
    how: str
    """How it was tested."""
    source: Source
    test: Callable[[Settings], Outcome | NotTestable]
    stands: Verdict
    """The verdict we stand by: a run that computes another one fails."""
    formula: str = ""
    """LaTeX, shown as MathML."""
    full_only: bool = False
    """Left out of a quick run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and how to draw it."""

    id: str
    """File name without suffix."""
    title: str
    caption: str
    """What to see, how many runs, what the band is."""
    draw: Callable[[Settings], Any]
    """settings -> matplotlib Figure."""
    runs: Callable[[Settings], str] | None = None
    """settings -> which kept runs it is drawn from, in words."""
    full_only: bool = False
    """Left out of a quick run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper's page."""

    name: str
    """As on the command line: "nash-md"."""
    title: str
    source: Source
    summary: str
    """What it is about and what this page found, in a few sentences."""
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]

    def within(self, settings: Settings) -> "Paper":
        """What a run of this size does: a quick one leaves out what is only for the full one."""
        keep = lambda rows: tuple(row for row in rows if not (settings.quick and row.full_only))
        return dataclasses.replace(self, claims=keep(self.claims), figures=keep(self.figures))
