"""One line of the audited field, and what came out of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from theory.auditing.report import Property

Check = Callable[[Callable[..., Any]], Property]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A loss that people use, and the findings we stand by."""

    id: str
    """package/loss, what a pattern of the command matches."""
    package: str
    version: str
    """The version that was read."""
    where: str
    """File, function and lines in that version."""
    what: str
    kind: str
    """One of `theory.auditing.subject.KINDS`, or "exact": a function of whole distributions, with checks of its own."""
    function: Callable[..., Any]
    """Our transcription; for an executed entry, the package's own function."""
    expected: Mapping[str, str]
    """Finding -> what it is: "kl", "target" or a property's name. These are what is run."""
    right: str
    """What the loss does right."""
    remark: str
    """What the finding means for its user."""
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampler: str | None = None
    checks: Mapping[str, Check] = dataclasses.field(default_factory=dict)
    """Properties of this entry alone, by name."""
    theirs: Callable[[], Callable[..., Any] | None] | None = None
    """Loads the package's own function in the same form; None where it is not installed."""
    transcribed: bool = True
    """False if `function` is itself the package's own."""
    verified: str = ""
    """Where the transcription was compared with the package's own function, and over what."""
    compiles: bool = True
    """Whether the package's own function can be compiled by JAX."""
    ours: bool = False
    """A control: the right form, for comparison."""

    @property
    def sound(self) -> bool:
        """Whether every finding is in its favour."""
        return self.compiles and all(good(name, value) for name, value in self.expected.items())


def good(name: str, value: str) -> bool:
    """Whether a finding speaks for the loss; a target is what it is."""
    if name == "kl":
        return value in ("reverse", "does not apply")
    return name == "target" or not value.startswith("fails")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a run found about an entry."""

    entry: Entry
    observed: Mapping[str, str]
    example: str
    """The smallest counterexample, in a line; empty if nothing fails."""
    executed: str
    """"executed" (the package's own function ran), or "transcribed"."""
    agrees: bool | None
    """Whether the package's function equals our transcription; None if it could not be compared."""
    compiles: bool | None
    """Whether the package's own function can be compiled; None if it is not there."""

    @property
    def as_recorded(self) -> bool:
        """Every finding is the one we stand by, and the transcription is right."""
        return (
            dict(self.observed) == dict(self.entry.expected)
            and self.agrees is not False
            and self.compiles in (None, self.entry.compiles)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        e = self.entry
        return {
            "id": e.id,
            "package": e.package,
            "version": e.version,
            "where": e.where,
            "what": e.what,
            "kind": e.kind,
            "hyper": dict(e.hyper),
            "observed": dict(self.observed),
            "expected": dict(e.expected),
            "as_recorded": self.as_recorded,
            "counterexample": self.example,
            "executed": self.executed,
            "agrees_with_the_package": self.agrees,
            "package_compiles": self.compiles,
            "does_right": e.right,
            "remark": e.remark,
        }
