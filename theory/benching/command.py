"""`python -m theory bench games|distill`: ratios against named rivals, all measured in the same run."""

import argparse
import json
import math
import sys
from pathlib import Path

from theory.benching import distill, games
from theory.benching.games import Line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `theory bench`."""
    parser.add_argument(
        "what", choices=("games", "distill"), help="solvers of preference games, or updates and exact laws of methods"
    )
    parser.add_argument("--games", type=_positive, default=1000, metavar="B", help="games in the batch (default 1000)")
    parser.add_argument("--actions", type=_positive, default=10, metavar="A", help="responses of a game (default 10)")
    parser.add_argument("--steps", type=_positive, default=2000, metavar="T", help="updates in a run (default 2000)")
    parser.add_argument("--repeats", type=_positive, default=5, metavar="R", help="runs, for medians (default 5)")
    parser.add_argument("--solver", action="append", default=[], choices=("nash_md", "omd", "egpo", "mwu"),
                        help="compare this one (repeatable; default nash_md, omd, egpo)")  # fmt: skip
    distill.add_arguments(parser, _positive)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to FILE")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


def _show(line: Line) -> str:
    if line.note == "not installed" or math.isnan(line.rate):
        return f"  {line.contender:<34} {'-':>10}  {'':>21}  {'':>9}  {line.aim:<16} {line.note}"
    spread = f"[{line.low / 1e6:.3g}, {line.high / 1e6:.3g}]"
    ratio = "" if math.isnan(line.ratio) else f"{line.ratio:.3g}x"
    return f"  {line.contender:<34} {line.rate / 1e6:>10.4g}  {spread:>21}  {ratio:>9}  {line.aim:<16} {line.note}"


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 0 always, since a slow machine is not an error."""
    lines: list[Line] = []
    title = ""
    quiet = arguments.json

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[2K{what}")
            sys.stderr.flush()

    if arguments.what == "distill":
        return distill.run(arguments, progress)

    def tell(line: Line) -> None:
        nonlocal title
        lines.append(line)
        progress("")
        if quiet:
            return
        if line.workload != title:
            title = line.workload
            head = f"  {'':<34} {'median':>10}  {'[lowest, highest]':>21}  {'ours is':>9}  aim"
            print(f"{title} (million game updates a second)\n{head}", flush=True)
        print(_show(line), flush=True)

    shape = (arguments.games, arguments.actions, arguments.steps, arguments.repeats, progress)
    for name in arguments.solver or ("nash_md", "omd", "egpo"):
        for line in games.compare(name, *shape):
            tell(line)
    for line in games.official_egpo(max(400, arguments.steps), arguments.repeats, progress):
        tell(line)
    for line in games.every_solver(*shape):
        tell(line)
    progress("memory")
    held = games.memory(arguments.games, arguments.actions, arguments.steps)
    progress("")
    if not quiet:
        print(f"memory of nash_md, {arguments.games} games, {arguments.steps} steps:")
        print("\n".join(f"  {label:<34} {size:>10.1f} MiB" for label, size in held.items()))
    report = {"lines": [line.as_json() for line in lines], "memory_mib": held}
    text = json.dumps(json.loads(json.dumps(report), parse_constant=lambda _: None), indent=1)
    if quiet:
        print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 0
