"""Numbers and verdicts in words: what the terminal and the page have in common."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SIGNS = {"equal": "", "at most": "≤", "at least": "≥", "less than": "<", "greater than": ">"}
VERDICTS = ("reproduced", "contradicted", "not testable here")
SHOWN = 4
"""Numbers of an array that are shown one by one."""


def number(value: Any) -> str:
    """Four significant digits; whole numbers whole."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return {"inf": "∞", "-inf": "−∞", "nan": "NaN"}.get(value, value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{value:.0f}" if abs(value) < 1e6 else f"{value:.4g}"
    return f"{value:.4g}"


def flat(value: Any) -> list[Any]:
    """The numbers of a nested list, in order."""
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list) else [value]


def numbers(value: Any) -> str:
    """A number, a few of them, or the range of many."""
    if isinstance(value, Mapping) and value["min"] == value["max"]:
        return f"{number(value['min'])} ({value['n']} numbers)"
    if isinstance(value, Mapping):
        return (
            f"{number(value['min'])} to {number(value['max'])}, median {number(value['median'])} ({value['n']} numbers)"
        )
    items = flat(value)
    if len(items) <= SHOWN:
        return ", ".join(number(item) for item in items) or "none"
    if all(item == items[0] for item in items):
        return f"{number(items[0])} ({len(items)} numbers)"
    finite = [item for item in items if not isinstance(item, str)]
    odd = sorted({number(item) for item in items if isinstance(item, str)})
    parts = [f"{number(min(finite))} to {number(max(finite))}"] if finite else []
    return f"{', '.join(parts + odd)} ({len(items)} numbers)"


def expected(claim: Mapping[str, Any]) -> str:
    """The expected side with its relation: "≤ 0.25"."""
    sign = SIGNS.get(claim["relation"] or "", "")
    return f"{sign} {numbers(claim['expected'])}".strip()


def closeness(claim: Mapping[str, Any]) -> str:
    """How far the measured numbers are from what is expected, beside what is allowed."""
    off = claim.get("deviation")
    if off is None or isinstance(off, str):
        return ""
    allowed = number(claim["tolerance"])
    several = len(flat(claim["measured"])) > 1 or isinstance(claim["measured"], Mapping)
    if claim["relation"] == "equal":
        return f"{'largest difference' if several else 'difference'} {number(off)}, allowed {allowed}"
    word = "tolerance" if claim["relation"] in ("at most", "at least") else "margin asked for:"
    slack = f", {word} {allowed}" if claim["tolerance"] else ""
    if off == 0:
        return f"{'the closest is ' if several else ''}at the bound{slack}"
    place, which = ("beyond", "the worst is ") if off > 0 else ("inside", "the closest is ")
    return f"{which if several else ''}{number(abs(off))} {place} the bound{slack}"


def counts(claims: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict, "failed" where a run raised; zeros are left out but for reproduced."""
    verdicts = [claim["verdict"] or "failed" for claim in claims]
    tally = {name: verdicts.count(name) for name in (*VERDICTS, "failed")}
    return {name: n for name, n in tally.items() if n or name == "reproduced"}


def plural(n: int, word: str) -> str:
    """1 claim, 2 claims."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def summary(claims: Sequence[Mapping[str, Any]]) -> str:
    """ "3 claims: 2 reproduced, 1 contradicted"."""
    return f"{plural(len(claims), 'claim')}: " + ", ".join(f"{n} {name}" for name, n in counts(claims).items())


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 20 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{math.floor(seconds / 60)} min {math.floor(seconds % 60)} s"
