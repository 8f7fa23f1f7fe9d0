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

from alignjax.record import Method
from theory.auditing.report import WHY, Property, Report
from theory.auditing.run import audit
from theory.auditing.search import fewer
from theory.auditing.subject import subject_of

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
    _raise_for(report, wrong)
    return report


def _raise_for(report: Report, wrong: dict[str, Property]) -> None:
    if not wrong:
        return
    data = report.to_json()["properties"]
    lines = [f"{report.name}: {len(wrong)} of {len(report.properties)} properties do not hold"]
    for name, found in wrong.items():
        lines.append(f"{name} ({WHY[name][0]}): {found.verdict}. {found.explanation}")
        if found.counterexample is not None:
            lines.append(f"  for example {json.dumps(data[name]['counterexample'])}")
    raise AssertionError("\n".join(lines))


def declared(method: Method) -> dict[str, str]:
    """What the record of a method promises, in the words of the audit: property -> the verdict or value it must have.

    Every record promises a finite gradient, prompts that do not see each other and, of tokens, that masked ones have
    no influence; the rest is in `invariant_to`.
    """
    kind, reads = subject_of(method).kind, method.reads
    wanted = {"gradient_finite": "holds", "batch_separable": "holds"}
    if kind in ("token", "token_group"):
        wanted["masked_tokens_inert"] = "holds"
    if "relabelling" in method.invariant_to:
        wanted["permutation_equivariant"] = "holds"
    # The audit's shift is of the rewards; of pairs without any, of both log-probs of the policy: their log-ratios.
    of_rewards = bool({"reward", "rewards"} & set(reads))
    shift = "log_ratio_shift" if kind == "pair" and not of_rewards else "reward_shift"
    if shift in method.invariant_to and (kind == "pair" or of_rewards):
        wanted["shift_invariant"] = "holds"
    if "reward_scale" in method.invariant_to and "reward" in reads:
        wanted["scale_equivariant"] = "invariant"
    return wanted


def check_declared(method: Method, *, share: float = 1.0) -> Report:
    """Assert what a record promises (`declared`), on this share of the audit's examples."""
    wanted = declared(method)
    with fewer(share):
        report = audit(method, properties=tuple(wanted))
    found = report.properties
    _raise_for(report, {n: found[n] for n, want in wanted.items() if want not in (found[n].verdict, found[n].value)})
    return report


def goes_to(loss: Any, target: str, **options: Any) -> Report:
    """Assert the limit that descending the loss's gradient reaches: "gibbs", "ipo", "nash", "unbounded", ..."""
    report = audit(loss, **options)
    if report.target != target:
        raise AssertionError(f"{report.name} goes to {report.target!r}, not to {target!r}: {report.destination}")
    return report
