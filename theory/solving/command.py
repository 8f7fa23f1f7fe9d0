"""`python -m theory solve FILE`: equilibria, winners and cycles of a user's own preference matrix."""

import argparse
import json
import math
import sys
import traceback
from pathlib import Path
from typing import Any

from theory.auditing.command import check_out, write
from theory.auditing.subject import AuditError
from theory.solving.reading import TOLERANCE, SolveError, amount, policy, read

OK, USAGE = 0, 2
TAUS = "1,0.1,0.01"
IMAGES = (".png", ".svg", ".pdf")
EXAMPLES = """examples:
  python -m theory solve votes.csv
  python -m theory solve games.npy --tau 0.05 --json
  python -m theory solve arena.csv --counts --smoothing jeffreys --figure arena.png
  python -m theory solve votes.csv --policy "a=0.5,b=1/2" --ref reference.json

files:
  .csv   a square matrix, row beats column, with or without a header and a column of names; or one match a row,
         with the columns winner,loser and, if you like, count
  .json  [[...]], {"names": [...], "preference": [[...]]} or {"names": [...], "wins": [[...]]}
  .npy   a matrix
  Entries are probabilities with P + P^T = 1, or win counts. The diagonal is not read: it is 1/2.
"""


def _taus(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise argparse.ArgumentTypeError(f"must be numbers > 0 with commas between, got {text!r}")
    return sorted(set(values), reverse=True)


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `theory solve`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="a matrix of preferences or win counts: .csv, .json or .npy")
    add("--tau", type=_taus, default=_taus(TAUS), metavar="T,T", help=f"KL temperatures > 0 (default {TAUS})")
    add("--ref", default="uniform", metavar="POLICY", help="the reference: uniform (default), or as --policy")
    add(
        "--policy", action="append", default=[], metavar="POLICY",
        help='a policy whose gap to tell, "a=0.5,b=1/2" or a file (.csv, .json, .npy); repeatable',
    )  # fmt: skip
    add("--counts", action="store_true", help="the numbers are win counts (detected where integers exceed 1)")
    add(
        "--smoothing", default="laplace", metavar="RULE",
        help="pseudo-count on both sides of a played pair: laplace (1, default), jeffreys (1/2), none, or a number",
    )  # fmt: skip
    add(
        "--symmetrise", action="store_true",
        help=f"take (P + 1 - P^T)/2 where P + P^T is off 1 by more than {TOLERANCE:g}",
    )  # fmt: skip
    add("--lp", action=argparse.BooleanOptionalAction, help="solve the linear program or not (default: up to 1000)")
    add("--top", type=_count, default=12, metavar="N", help="actions in the table and the figure (default 12)")
    add("--json", action="store_true", help="print the report as one JSON object")
    add("--figure", type=Path, metavar="FILE", help="draw the matrix and the equilibria to a .png, .svg or .pdf")
    add("--out", metavar="DIR", help="also write DIR/NAME.json and DIR/NAME.png, NAME that of the file")
    add("--debug", action="store_true", help="show the traceback of an error")


def _strict(value: Any) -> Any:
    """JSON has no infinities: they are written as strings."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def run(arguments: argparse.Namespace) -> int:
    """0 with a report, 2 with one line on what cannot be used."""
    terminal = sys.stderr.isatty()

    def progress(name: str) -> None:
        if terminal:
            print(f"\r\033[K{name} ...", end="", file=sys.stderr, flush=True)

    try:
        return _run(arguments, progress)
    except (SolveError, AuditError, OSError) as error:
        if arguments.debug:
            traceback.print_exc()
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        progress_cleared(terminal)
        print(f"error: {what}", file=sys.stderr)
        return USAGE


def progress_cleared(terminal: bool) -> None:
    """Leave no trace of the line that was overwritten."""
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace, progress: Any) -> int:
    amount(arguments.smoothing)
    if arguments.figure is not None:
        if arguments.figure.suffix.lower() not in IMAGES:
            raise SolveError(f"--figure must end in one of {', '.join(IMAGES)}, got {str(arguments.figure)!r}")
        if not arguments.figure.resolve().parent.is_dir():
            raise SolveError(f"--figure {str(arguments.figure)!r} is in a folder that does not exist")
    table = read(
        arguments.file, counts=arguments.counts, smoothing=arguments.smoothing, symmetrise=arguments.symmetrise
    )
    reference = None if arguments.ref == "uniform" else policy("--ref", arguments.ref, table.names)
    policies = [(text, policy("--policy", text, table.names)) for text in arguments.policy]
    folder = check_out(arguments.out) if arguments.out else None

    from theory.solving.report import solve

    report = solve(table, arguments.tau, reference=reference, policies=policies, lp=arguments.lp, progress=progress)
    progress_cleared(sys.stderr.isatty())
    report = {"file": str(arguments.file), **report}
    plain = json.dumps(_strict(report), indent=1, allow_nan=False)
    drawn = [arguments.figure] if arguments.figure is not None else []
    if folder is not None:
        write(folder / f"{arguments.file.stem}.json", plain + "\n")
        drawn.append(folder / f"{arguments.file.stem}.png")
    if drawn:
        from theory.solving.figure import draw

        for path in drawn:
            draw(report, table.preference, path, arguments.top)
    if arguments.json:
        print(plain)
    else:
        from theory.solving.words import text

        print(text(str(arguments.file), report, arguments.top))
        for path in [*drawn, *([folder / f"{arguments.file.stem}.json"] if folder is not None else [])]:
            print(path)
    return OK
