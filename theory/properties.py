"""Each audited property as an assertion: one line in your own pytest.

    from theory import properties

    def test_my_loss_is_sound():
        properties.check(my_loss, "gradient_finite", "extremes", "shift_invariant", kind="pair", hyper={"beta": 0.1})

    def test_where_it_goes():
        properties.goes_to(my_loss, "gibbs", kind="pair")

An assertion that fails shows the smallest counterexample that was found.
"""

import json
from typing import Any

from theory.auditing.report import WHY, Report
from theory.auditing.run import audit

NAMES = tuple(WHY)


def check(loss: Any, *names: str, **options: Any) -> Report:
    """Assert that the named properties (all that apply, if none is named) hold; `options` are those of
    `theory.audit`.
    """
    report = audit(loss, properties=names or NAMES, **options)
    wrong = {
        name: found
        for name, found in report.properties.items()
        if found.verdict == "fails" or (names and found.verdict != "holds")
    }
    if wrong:
        data = report.to_json()["properties"]
        lines = [f"{report.name}: {len(wrong)} of {len(report.properties)} properties do not hold"]
        for name, found in wrong.items():
            lines.append(f"{name} ({WHY[name][0]}): {found.verdict}. {found.explanation}")
            if found.counterexample is not None:
                lines.append(f"  for example {json.dumps(data[name]['counterexample'])}")
        raise AssertionError("\n".join(lines))
    return report


def goes_to(loss: Any, target: str, **options: Any) -> Report:
    """Assert the limit that descending the loss's gradient reaches: "gibbs", "ipo", "nash", "unbounded", ..."""
    report = audit(loss, **options)
    if report.target != target:
        raise AssertionError(f"{report.name} goes to {report.target!r}, not to {target!r}: {report.destination}")
    return report
