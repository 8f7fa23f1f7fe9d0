"""`python -m theory field`: the audit run on losses that people use today."""

import argparse
import json
import sys
import textwrap
from pathlib import Path

from alignjax.checks import UnknownName
from theory.auditing.command import check_out, write
from theory.auditing.subject import AuditError
from theory.field.record import Finding

OK, DIFFERS, USAGE = 0, 1, 2
DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `theory field`."""
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="an id (tunix/grpo-kl), a part or a glob; default all"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--out", metavar="DIR", help="also write DIR/field.json")
    parser.add_argument("--docs", action="store_true", help="write docs/field.md and docs/dictionary.md (all entries)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def lines(finding: Finding) -> list[str]:
    """A finding for a terminal."""
    from theory.field.page import summary

    entry = finding.entry
    compared = {None: "", True: ", equal to our transcription", False: ", NOT equal to our transcription"}
    out = [
        f"{entry.id}  ({entry.package} {entry.version}; {finding.executed}{compared[finding.agrees]})",
        f"where: {entry.where}",
        f"finds: {summary(finding)}",
        f"right: {entry.right}",
        f"note: {entry.remark}",
    ]
    if finding.example:
        out.append(f"e.g. {finding.example}")
    if not finding.as_recorded:
        expected = dict(entry.expected)
        for name in {**expected, **finding.observed}:
            got, want = finding.observed.get(name), expected.get(name)
            if got != want:
                out.append(f"DIFFERS from what is recorded: {name} is {got}, recorded {want}")
        if finding.compiles not in (None, entry.compiles):
            out.append(f"DIFFERS from what is recorded: compiles is {finding.compiles}, recorded {entry.compiles}")
    wrap = lambda text, lead: textwrap.wrap(text, 118, initial_indent=lead, subsequent_indent=" " * (len(lead) + 2))
    return [line for i, text in enumerate(out) for line in wrap(text, "" if i == 0 else "  ")]


def run(arguments: argparse.Namespace) -> int:
    """0 if every finding is the one recorded (a defect we stand by is a success), 1 if one is not, 2 for a usage
    error.
    """
    from theory.field.page import dictionary_page, field_page
    from theory.field.run import examine, select

    terminal = sys.stderr.isatty()
    try:
        if arguments.docs and arguments.patterns:
            raise AuditError("--docs writes the whole page: leave out the patterns")
        chosen = select(arguments.patterns)
        folder = check_out(arguments.out) if arguments.out else None
        findings = []
        for i, entry in enumerate(chosen):
            if terminal:
                print(f"\r\033[K{i}/{len(chosen)} {entry.id} ...", end="", file=sys.stderr, flush=True)
            findings.append(examine(entry))
            if terminal:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            if not arguments.json:
                print("\n".join(lines(findings[-1])) + "\n", flush=True)
    except (AuditError, UnknownName) as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    off = [f.entry.id for f in findings if not f.as_recorded]
    report = {"entries": [f.to_json() for f in findings], "differ": off, "ok": not off}
    if folder is not None:
        write(folder / "field.json", json.dumps(report, indent=1) + "\n")
    if arguments.docs and not off:
        write(DOCS / "field.md", field_page(findings))
        write(DOCS / "dictionary.md", dictionary_page())
    if arguments.json:
        print(json.dumps(report))
    else:
        ran = sum(f.executed == "executed" for f in findings)
        print(f"{len(findings)} losses, {ran} executed from their package; {len(findings) - len(off)} as recorded")
        if off:
            print(f"not as recorded: {', '.join(off)}" + ("; no page was written" if arguments.docs else ""))
    return DIFFERS if off else OK
