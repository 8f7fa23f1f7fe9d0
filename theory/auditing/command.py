"""`python -m theory audit package.module:loss`: the audit on the command line."""

import argparse
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from alignjax.checks import nearest
from theory.auditing.report import WHY, Report
from theory.auditing.subject import KINDS, AuditError

_MARK = {"holds": "ok", "fails": "FAILS", "does not apply": "-", "not shown": "?"}
TARGETS = (
    "gibbs", "ipo", "nash", "best_of_n", "forward_kl", "conditional_law", "reference", "stated_optimum", "unbounded",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `theory audit`."""
    parser.add_argument("loss", help="package.module:function, the key of a method of ours, or all (every method)")
    parser.add_argument("--kind", help=f"one of {', '.join(KINDS)}; read from the signature where it can be")
    parser.add_argument(
        "--hyper", action="append", default=[], metavar="NAME=VALUE", help="a keyword argument of the loss (repeatable)"
    )
    parser.add_argument("--sampler", help="reference, policy or uniform: who draws the responses of a bare function")
    parser.add_argument(
        "--torch",
        action="store_true",
        help="the loss is a function of torch tensors (read from its annotations, or from its module: one that imports "
        "torch and not jax)",
    )
    parser.add_argument(
        "--expect",
        default="",
        metavar="NAME,NAME",
        help="properties that must hold, or the target that must be reached; exit 1 if one does not",
    )
    parser.add_argument("--out", default="out/audit", help="folder of the page and the JSON (default: out/audit)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument("--docs", action="store_true", help="with all: also write docs/audit.md")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def value_of(text: str) -> Any:
    """A number, true or false, or the text itself."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError:
        return text


def hyperparameters(pairs: list[str]) -> dict[str, Any]:
    """["beta=0.1", "a=1,b=2"] -> {"beta": 0.1, "a": 1, "b": 2}."""
    found = {}
    for item in (part for pair in pairs for part in pair.split(",") if part):
        name, sign, text = item.partition("=")
        if not sign or not name.strip():
            raise AuditError(f"--hyper takes NAME=VALUE, got {item!r}")
        found[name.strip()] = value_of(text.strip())
    return found


def expected(text: str) -> tuple[str, ...]:
    """The names of `--expect`, each a property or a target."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in WHY and name not in TARGETS:
            near = nearest(name, [*WHY, *TARGETS])
            hint = f"; did you mean {near!r}?" if near else ""
            raise AuditError(f"--expect {name!r} is neither a property nor a target{hint}")
    return names


def table(report: Report) -> str:
    """The report for a terminal."""
    note = report.destination
    lines = [f"{report.name} ({report.kind})", ""]
    for name, found in report.properties.items():
        value = "" if found.value is None else f" [{found.value}]"
        lines.append(f"  {_MARK[found.verdict]:>5}  {name}{value}")
        if found.verdict in ("fails", "not shown"):
            lines.append(f"         {WHY[name][0]}: {found.explanation}")
            lines.append(f"         why it matters: {WHY[name][1]}")
            if found.counterexample is not None:
                data = report.to_json()["properties"][name]["counterexample"]
                lines.append(f"         smallest counterexample: {json.dumps(data)}")
    lines += ["", f"  goes to: {report.target}"]
    if "temperature" in note and note["temperature"] is not None:
        lines[-1] += f" (fitted temperature or number {note['temperature']:.6g}, one for all instances)"
    if note.get("distances"):
        near = list(note["distances"].items())[:4]
        lines.append("  distance to known targets (total variation): " + ", ".join(f"{n} {d:.2g}" for n, d in near))
    if note.get("on_cycles"):
        cycles = note["on_cycles"]
        lines.append(
            f"  on cyclic preferences nearest to: {cycles['nearest']} ({cycles['distances'][cycles['nearest']]:.2g})"
        )
    lines.append(f"  KL in its gradient: {report.kl_in_words}")
    return "\n".join(lines)


def check_out(folder: str) -> Path:
    """A folder that can be written to, before any work; AuditError if it cannot."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise AuditError(f"--out {folder!r} cannot be written to: {error.strerror or error}") from error
    return path


def write(path: Path, text: str) -> None:
    """All of a file or nothing of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def run(arguments: argparse.Namespace) -> int:
    """0 if every expected name came out, 1 if one did not, 2 if the loss cannot be audited."""
    from theory.auditing.page import page
    from theory.auditing.run import audit_with_subject

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the user's module, as `python -m` would find it
    terminal = sys.stderr.isatty()

    def progress(name: str) -> None:
        if terminal:
            print(f"\r\033[K{name} ...", end="", file=sys.stderr, flush=True)

    try:
        names = expected(arguments.expect)
        folder = check_out(arguments.out)
        if arguments.loss == "all":
            from theory.auditing.table import run_all

            return run_all(arguments, folder)
        report, subject = audit_with_subject(
            arguments.loss,
            kind=arguments.kind,
            hyper=hyperparameters(arguments.hyper),
            sampler=arguments.sampler,
            framework="torch" if arguments.torch else None,
            progress=progress,
        )
    except AuditError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in report.name)
    write(folder / f"{stem}.json", json.dumps(report.to_json(), indent=1) + "\n")
    write(folder / f"{stem}.html", page(report, subject))
    missing = report.failed(names)
    if arguments.json:
        print(json.dumps({**report.to_json(), "expected": list(names), "missing": missing, "ok": not missing}))
    else:
        print(table(report))
        print(f"\n  {folder / f'{stem}.html'}")
        for name in missing:
            print(f"  expected, and not so: {name}")
    return 1 if missing else 0
