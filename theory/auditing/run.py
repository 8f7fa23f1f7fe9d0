"""`audit`: all the properties of one loss."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.record import Law
from theory.auditing import destination, expected_gradient, numeric, structure
from theory.auditing.report import WHY, Property, Report
from theory.auditing.subject import KINDS, AuditError, Subject, check_runs, subject_of

PROPERTIES: dict[str, Callable[[Subject], Property]] = {
    "gradient_finite": numeric.gradient_finite,
    "gradient_correct": numeric.gradient_correct,
    "jit_consistent": numeric.jit_consistent,
    "vmap_consistent": numeric.vmap_consistent,
    "dtype_stable": numeric.dtype_stable,
    "extremes": numeric.extremes,
    "masked_tokens_inert": structure.masked_tokens_inert,
    "padding_inert": structure.padding_inert,
    "length_sum": structure.length_sum,
    "permutation_equivariant": structure.permutation_equivariant,
    "shift_invariant": structure.shift_invariant,
    "scale_equivariant": structure.scale_equivariant,
    "log_ratio_only": structure.log_ratio_only,
    "statistics_detached": structure.statistics_detached,
    "batch_separable": structure.batch_separable,
    "unbiased_gradient": expected_gradient.unbiased_gradient,
    "finite_on_separable": destination.finite_on_separable,
    "chosen_rises": expected_gradient.chosen_rises,
}
_OF_JAX = ("jit_consistent", "vmap_consistent")
_EXACT = ("unbiased_gradient", "finite_on_separable")


def _first_batch(subject: Subject) -> dict[str, Any]:
    rng, kind, k = np.random.default_rng(0), subject.kind, subject.num_responses or 4
    shape = {"pair": (3, 2), "point": (3,), "group": (3, k), "token": (3, 5), "token_group": (3, k, 5)}[kind]
    batch = {name: -rng.uniform(0.5, 3.0, shape) for name in KINDS[kind] if "logp" in name}
    batch |= {"mask": np.ones(shape)} if "mask" in KINDS[kind] else {}
    batch |= {"label": np.asarray([1.0, 0.0, 1.0])} if "label" in KINDS[kind] else {}
    batch |= {"reward": rng.standard_normal(shape[:2])} if "reward" in KINDS[kind] else {}
    return {name: jnp.asarray(batch[name]) for name in KINDS[kind]}


def audit(
    loss: Any,
    *,
    kind: str | None = None,
    hyper: Mapping[str, Any] | None = None,
    sampler: Law | str | None = None,
    properties: tuple[str, ...] | None = None,
    progress: Callable[[str], None] | None = None,
    framework: str | None = None,
) -> Report:
    """Learn what a loss really does: hand over the function, get a verdict on each property and the limit it reaches.

    Args:
      loss: a function of JAX arrays or of torch tensors, a method's record or key, or "package.module:function".
      kind: pair, point, group, token or token_group (see `theory.auditing.subject.KINDS`); read from the signature
        where it can be.
      hyper: keyword arguments of the function, such as {"beta": 0.1}.
      sampler: "reference", "policy" or "uniform" (or a law of `alignjax.laws`): who draws the responses of a bare
        function. Pairs and points come from the reference by default, groups and tokens from the policy.
      properties: only these.
      progress: called with each property's name before it is tried.
      framework: "jax" or "torch"; read from the function where it can be: one whose annotations name torch, or whose
        module imports torch and not jax, is one of torch tensors (PyTorch is needed, and only then).

    Returns: a `Report`.
    Raises: AuditError, with a plain sentence, if the function cannot be called, returns a wrong shape, or is not
      differentiable.
    """
    report, _ = audit_with_subject(
        loss, kind=kind, hyper=hyper, sampler=sampler, properties=properties, progress=progress, framework=framework
    )
    return report


def audit_with_subject(
    loss: Any,
    *,
    kind: str | None = None,
    hyper: Mapping[str, Any] | None = None,
    sampler: Law | str | None = None,
    properties: tuple[str, ...] | None = None,
    progress: Callable[[str], None] | None = None,
    framework: str | None = None,
) -> tuple[Report, Subject]:
    """`audit`, and the subject it was about (for figures)."""
    started = time.perf_counter()
    subject = subject_of(loss, kind=kind, hyper=hyper, sampler=sampler, framework=framework)
    wanted = tuple(WHY) if properties is None else properties
    for name in wanted:
        if name not in WHY:
            raise AuditError(f"unknown property {name!r}; known: {', '.join(WHY)}")
    check_runs(subject, _first_batch(subject))
    traceable = _traceable(subject)
    found: dict[str, Property] = {}
    target, kl, partial = "unknown", "does not apply", None
    note: dict[str, Any] = {}
    for name in wanted:
        if progress is not None:
            progress(name)
        if subject.framework == "torch" and name in _OF_JAX:
            found[name] = Property("does not apply", None, None, "it is PyTorch that runs the function, as it is")
        elif traceable is not None and name != "jit_consistent":
            found[name] = Property("not shown", None, None, traceable)
        elif name == "kl_direction":
            with jax.enable_x64(True):
                kl, partial, found[name] = expected_gradient.kl_direction(subject)
        elif name in _EXACT:
            with jax.enable_x64(True):
                found[name] = PROPERTIES[name](subject)
        else:
            found[name] = PROPERTIES[name](subject)
    if traceable is None and properties is None:
        if progress is not None:
            progress("where it goes")
        with jax.enable_x64(True):
            target, note = destination.destination(subject)
            cycles = destination.on_cycles(subject)
            note = {**note, "on_cycles": cycles} if cycles else note
        if found["batch_separable"].verdict == "fails":
            # One prompt at a time is not what such a loss sees: what it reaches then means nothing.
            target, note = "unknown", {"because": "the loss depends on the other prompts of its batch"}
    report = Report(
        name=subject.name,
        kind=subject.kind,
        hyper=dict(subject.hyper),
        properties=found,
        target=target,
        kl=kl,
        kl_partial=partial,
        destination=note,
        seconds=round(time.perf_counter() - started, 2),
    )
    return report, subject


def _traceable(subject: Subject) -> str | None:
    """None if the loss can be compiled and mapped; else why not."""
    try:
        jax.make_jaxpr(subject.rows)(_first_batch(subject))
        return None
    except Exception as error:
        return f"it cannot be traced by JAX: {str(error).splitlines()[0]}"
