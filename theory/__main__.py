"""`python -m theory`: the statements that can be checked, and the command that checks them."""

import argparse
import difflib
import importlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from alignjax import sweeps
from alignjax.checks import UnknownName
from theory import check as runner
from theory.record import Statement
from theory.registry import all_statements, select

OK, FAILED, USAGE = 0, 1, 2
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "jax"


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless the environment already says where."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class Progress:
    """A line on the terminal that is overwritten; nothing where there is no terminal."""

    def __init__(self, stream: IO[str], total: int) -> None:
        self.stream, self.total, self.on = stream, total, stream.isatty()

    def show(self, done: int, name: str) -> None:
        """`done` statements are behind us; `name` is being checked."""
        if self.on:
            self.stream.write(f"\r\x1b[2K{done}/{self.total} {name}")
            self.stream.flush()

    def clear(self) -> None:
        """Leave no trace."""
        if self.on:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else str(value)


def _row(result: runner.Result, width: int) -> str:
    killed = sum(mutant.killed for mutant in result.mutants)
    slack, dead = _number(result.smallest_slack), f"{killed}/{len(result.mutants)}"
    return (
        f"{result.statement.id:<{width}}  {result.verdict:<15}  {slack:>9}  {result.worst_seed:>9}  {dead:>4}  "
        f"{result.seconds:5.1f}s  {result.statement.says}"
    )


def _why(result: runner.Result) -> list[str]:
    """What to look at when a statement did not pass."""
    name = result.statement.id
    if result.verdict == "error":
        return [f"  {result.error}"]
    if result.verdict == "false":
        return [f"  see both sides: python -m theory check {name} --instance {result.worst_seed}"]
    if result.verdict == "mutant survived":
        return [f"  survived: {dict(mutant.variant)}" for mutant in result.mutants if not mutant.killed]
    return ["  a statement without mutants shows nothing: name at least one change that must break it"]


def run_check(arguments: argparse.Namespace) -> int:
    """`check`: 0 only if every statement holds and every mutant dies."""
    use_compilation_cache()
    chosen = select(arguments.patterns, all_statements())
    if arguments.instance is not None:
        return _replay(chosen, arguments)
    devices = sweeps.number_of_devices(arguments.devices)
    width = max(len(statement.id) for statement in chosen)
    start = time.perf_counter()
    progress = Progress(sys.stderr, len(chosen))
    results: list[runner.Result] = []
    if not arguments.json:
        print(f"{'statement':<{width}}  {'verdict':<15}  {'slack':>9}  {'worst':>9}  dead  {'time':>6}  says")
    progress.show(0, chosen[0].id)
    with sweeps.over(devices):
        for result in runner.check(chosen, count=arguments.instances, seed=arguments.seed):
            results.append(result)
            progress.clear()
            if not arguments.json:
                print("\n".join([_row(result, width), *([] if result.passed else _why(result))]), flush=True)
            if len(results) < len(chosen):
                progress.show(len(results), chosen[len(results)].id)
    failed = [result.statement.id for result in results if not result.passed]
    seconds = time.perf_counter() - start
    report = {
        "statements": [result.as_json() for result in results],
        "seed": arguments.seed,
        "passed": not failed,
        "seconds": round(seconds, 1),
    }
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "statements.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if arguments.json:
        print(json.dumps(report, indent=1, allow_nan=False))
    else:
        mutants = sum(len(result.mutants) for result in results)
        print(f"{len(results) - len(failed)} of {len(results)} hold, with {mutants} mutants, in {seconds:.0f} s")
        if failed:
            print(f"failed: {', '.join(failed)}")
    return FAILED if failed else OK


def _replay(chosen: Sequence[Statement], arguments: argparse.Namespace) -> int:
    if len(chosen) != 1:
        raise ValueError(f"--instance replays one statement; {len(chosen)} were chosen")
    (statement,) = chosen
    slack, sides = runner.replay(statement, arguments.instance)
    holds = slack >= 0
    if arguments.json:
        rows = [{"relation": relation, "left": a.tolist(), "right": b.tolist()} for relation, a, b in sides]
        found = {"id": statement.id, "instance": arguments.instance, "slack": slack, "sides": rows, "holds": holds}
        # JSON has no infinities: they are written as strings.
        print(json.dumps(json.loads(json.dumps(found), parse_constant=str), indent=1))
        return OK if holds else FAILED
    print(f"{statement.id}: {statement.says}\n{statement.source}\ninstance {arguments.instance}")
    for relation, a, b in sides:
        with np.printoptions(precision=15, threshold=100, linewidth=120):
            print(f"left  {a}\n  {relation}\nright {b}")
    print(f"slack {slack:.6g}: {'holds' if holds else 'FALSE'}")
    return OK if holds else FAILED


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value}")
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="an id (games/I1), its end (I1), a glob (rl/C*) or a part; default all",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--instances", type=_at_least_one, metavar="N", help="instances of each statement (default 10000)"
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="S", help="another S, other instances (default 0)")
    parser.add_argument(
        "--instance", type=_natural, metavar="SEED", help="replay this instance of one statement, both sides printed"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write DIR/statements.json")
    parser.add_argument(
        "--devices", default="1", metavar="N", help="spread the instances over N devices, or all (default 1)"
    )


def _later(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported when it is called: listing commands need not import them all."""

    def call(*arguments: Any) -> Any:
        use_compilation_cache()
        return getattr(importlib.import_module(module), function)(*arguments)

    return call


def _command(says: str, module: str) -> "tuple[str, Callable[[argparse.ArgumentParser], None], Command]":
    """A subcommand that lives in a module of its own, with `add_arguments` and `run`."""
    return says, _later(module, "add_arguments"), _later(module, "run")


Command = Callable[[argparse.Namespace], int]
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Command]] = {
    "check": ("try statements, and mutants of them, on random instances", _add_check, run_check),
    "audit": _command("property-test anyone's loss and see where its gradient goes", "theory.auditing.command"),
    "field": _command("the audit of losses that people use today, and what we say of each", "theory.field.command"),
    "solve": _command(
        "equilibria, winners and cycles of your own preference matrix, certified", "theory.solving.command"
    ),
    "bench": _command(
        "cost of game solvers and of distillation methods, against named rivals", "theory.benching.command"
    ),
    "mutants": _command("break every built-in objective and see that its properties notice", "theory.mutation.command"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (says, add, _) in COMMANDS.items():
        add(commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}."))
    return parser


def _listing() -> str:
    lines = ["commands (each has --help):"]
    lines += [f"  {name:<8} {says}" for name, (says, _, _) in COMMANDS.items()]
    known = all_statements()
    width = max(len(name) for name in known)
    lines.append("statements:")
    lines += [f"  {name:<{width}}  {textwrap.shorten(s.says, 118 - width)}" for name, s in known.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 if all that was checked came out as stated, 1 if not, 2 for a usage error."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given:
        print(_listing())
        return OK
    if not given[0].startswith("-") and given[0] not in COMMANDS:
        near = difflib.get_close_matches(given[0], COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: unknown command {given[0]!r}{hint} (known: {', '.join(COMMANDS)})", file=sys.stderr)
        return USAGE
    try:
        arguments = _parser().parse_args(given)
    except SystemExit as stop:  # argparse prints its own message
        return stop.code if isinstance(stop.code, int) else USAGE
    try:
        return COMMANDS[arguments.command][2](arguments)
    except (UnknownName, ValueError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OK) from None
