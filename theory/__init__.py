"""Statements that can be checked, and the audit of anyone's loss. `python -m theory` lists what there is."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.auditing.logps import audit_logps as audit_logps
    from theory.auditing.logps import small_decoder as small_decoder
    from theory.auditing.report import Property as Property
    from theory.auditing.report import Report as Report
    from theory.auditing.run import audit as audit
    from theory.auditing.subject import AuditError as AuditError

_HOME = {
    "AuditError": "theory.auditing.subject",
    "Property": "theory.auditing.report",
    "Report": "theory.auditing.report",
    "audit": "theory.auditing.run",
    "audit_logps": "theory.auditing.logps",
    "small_decoder": "theory.auditing.logps",
}

__all__ = ["AuditError", "Property", "Report", "audit", "audit_logps", "small_decoder"]


def __getattr__(name: str) -> Any:
    # On first use: the audit needs Hypothesis, and `audit_logps` flax; checking statements needs neither.
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'theory' has no attribute {name!r}")
