"""Auditing the entries: only the findings that each records, on the package's own function where it is installed."""

import fnmatch
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import checks
from theory.auditing import destination, population
from theory.auditing.report import WHY, Property
from theory.auditing.run import audit_with_subject
from theory.auditing.subject import KINDS, POLICY, Subject, subject_of
from theory.field.entries import ENTRIES
from theory.field.record import Entry, Finding, good


def select(patterns: Sequence[str], entries: Sequence[Entry] = ENTRIES) -> list[Entry]:
    """Entries whose id is a pattern, has it as a part, or matches it as a glob; all without patterns.

    Raises: alignjax.checks.UnknownName, with the nearest id, if a pattern matches nothing.
    """
    if not patterns:
        return list(entries)
    chosen: set[str] = set()
    for pattern in patterns:
        hits = {e.id for e in entries if pattern in e.id or fnmatch.fnmatchcase(e.id, pattern)}
        chosen |= hits or {checks.member("entry", pattern, [e.id for e in entries])}
    return [e for e in entries if e.id in chosen]


def _phrase(found: Property) -> str:
    return found.verdict if found.value is None else f"{found.verdict} [{found.value}]"


def _short(value: Any) -> str:
    """A counterexample in a line: numbers to four places."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(item)}" for name, item in value.items())
    if isinstance(value, np.ndarray | jax.Array):
        return _short(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{round(value, 4) + 0.0:g}"
    return value if isinstance(value, str) else json.dumps(value)


def kl_example(subject: Subject) -> str:
    """What the expected gradient is and what it should be, at one policy over four responses."""
    count = population.NUM_INSTANCES
    ref = np.broadcast_to(np.log(np.asarray([1.0, 1.0, 1.0, 3.0]) / 6), (count, 4))
    p = np.asarray([3.0, 1.0, 1.0, 1.0]) / 6  # not uniform: a bare log-prob must show
    with jax.enable_x64(True):
        at = jnp.broadcast_to(jnp.log(jnp.asarray(p)), (count, 4))
        flat, even = np.zeros((count, 4)), np.full((count, 4, 4), 0.5)
        problem = population.population_problem(subject, ref, flat, even)
        got = np.asarray(population.gradient_field(subject)(at, problem))[0]
    h = np.log(p) - ref[0]
    true = p * (h - p @ h)
    responses = "four responses of two tokens" if "token" in subject.kind else "four responses"
    return (
        f"{responses}, policy (3, 1, 1, 1)/6, reference (1, 1, 1, 3)/6: expected gradient in the logits {_short(got)}, "
        f"of the KL {_short(true)}"
    )


def _target(subject: Subject) -> str:
    with jax.enable_x64(True):
        target, note = destination.destination(subject)
    temperature = note.get("temperature")
    return target if temperature is None else f"{target} at {float(f'{temperature:.3g}'):g}"


def _values_and_gradients(subject: Subject, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Prompt by prompt, without compilation: some packages' functions do not compile."""
    policy = POLICY[subject.kind]
    values, gradients = [], []
    for i in range(len(batch[policy])):
        row = {name: jnp.asarray(array[i : i + 1]) for name, array in batch.items()}

        def total(x: Any, row: dict[str, Any] = row) -> Any:
            return jnp.sum(jnp.asarray(subject.raw({**row, policy: x})))

        value, gradient = jax.value_and_grad(total)(row[policy])
        values.append(np.asarray(value))
        gradients.append(np.asarray(gradient))
    return np.stack(values), np.concatenate(gradients)


def agrees(entry: Entry, theirs: Callable[..., Any]) -> bool:
    """Whether the package's function and our transcription have the same values and gradients on random batches."""
    rng = np.random.default_rng(0)
    shape = {"pair": (8, 2), "point": (8,), "group": (8, 4), "token": (8, 5), "token_group": (8, 4, 5)}[entry.kind]
    batch: dict[str, Any] = {name: -rng.uniform(0.1, 4.0, shape) for name in KINDS[entry.kind] if "logp" in name}
    lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
    batch |= {"mask": (np.arange(shape[-1]) < lengths).astype(float)}
    batch |= {"label": rng.integers(0, 2, shape).astype(float), "reward": rng.standard_normal(shape[:2])}
    given = {name: batch[name] for name in KINDS[entry.kind]}
    ours, other = (
        _values_and_gradients(subject_of(f, kind=entry.kind, hyper=entry.hyper), given)
        for f in (entry.function, theirs)
    )
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(ours, other, strict=True))


def _compiles(entry: Entry, function: Callable[..., Any]) -> bool:
    subject = subject_of(function, kind=entry.kind, hyper=entry.hyper)
    zeros = {name: jnp.zeros((1, 2) if entry.kind != "point" else (1,)) for name in KINDS[entry.kind]}
    try:
        jax.make_jaxpr(subject.raw)(zeros)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError, TypeError):
        return False
    return True


def examine(entry: Entry) -> Finding:
    """Run what an entry records, and nothing else."""
    theirs = entry.theirs() if entry.theirs is not None else None
    same = None if theirs is None else agrees(entry, theirs)
    compiles = None if theirs is None else _compiles(entry, theirs)
    # What cannot be traced cannot be audited further; its transcription, equal to it, can.
    function = theirs if theirs is not None and compiles else entry.function
    executed = "transcribed" if theirs is None and entry.transcribed else "executed"
    observed: dict[str, str] = {}
    examples: dict[str, str] = {}

    def note(name: str, found: Property) -> None:
        observed[name] = _phrase(found)
        if found.verdict == "fails" and found.counterexample is not None:
            examples[name] = f"{name}: {_short(found.counterexample)}"

    if entry.kind != "exact":
        wanted = tuple(name for name in entry.expected if name in WHY)
        given: dict[str, Any] = {"kind": entry.kind, "hyper": entry.hyper, "sampler": entry.sampler}
        plain = tuple(name for name in wanted if name != "kl_direction")
        report, subject = audit_with_subject(function, **given, properties=plain)
        for name in plain:
            note(name, report.properties[name])
        if "kl_direction" in wanted:
            # In double precision: a package that computes in float32 leaves rounding where a gradient vanishes.
            exact, wide = audit_with_subject(
                entry.function if same else function, **given, properties=("kl_direction",)
            )
            note("kl_direction", exact.properties["kl_direction"])
            observed["kl"] = f"{exact.kl}, forward" if exact.kl_partial == "forward" else exact.kl
            if not good("kl", exact.kl):
                examples["kl_direction"] = kl_example(wide)
        if "target" in entry.expected:
            observed["target"] = _target(subject)
    for name, check in entry.checks.items():
        note(name, check(function))
    order = [name for name in entry.expected if name in observed]
    own = [examples[name] for name in (*entry.checks, *order) if name in examples]
    return Finding(
        entry=entry,
        observed={name: observed[name] for name in order},
        example=own[0] if own else "",
        executed=executed,
        agrees=same,
        compiles=compiles,
    )


def examine_all(entries: Sequence[Entry]) -> Iterator[Finding]:
    """One finding after another."""
    for entry in entries:
        yield examine(entry)
