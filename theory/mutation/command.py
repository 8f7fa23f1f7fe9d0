"""`python -m theory mutants`: the mutation score of every equation on the command line."""

import argparse
import json
import os
import sys
import time
from typing import Any

import jax

from alignjax.checks import UnknownName
from theory.mutation import score, targets, witness
from theory.mutation.judge import Verdict
from theory.mutation.page import page

CACHE = targets.ROOT / ".cache" / "jax"


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `theory mutants`."""
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="an equation (objectives.dpo.dpo), its end (dpo), a glob (kl_estimators.*) or a part; default all",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--sample", type=_at_least_one, metavar="N", help="only N of the mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which ones --sample draws (default 0)")
    parser.add_argument("--list", action="store_true", help="print the mutants and judge none")
    parser.add_argument("--docs", action="store_true", help="with all equations: also write docs/mutants.md")
    parser.add_argument("--workers", type=_at_least_one, default=2, metavar="W", help="processes (default 2)")


def _use_cache() -> dict[str, Any]:
    """Keep compiled programs between runs, unless the environment or the caller already says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    return {name: jax.config.values[name] for name in names}


def _row(name: str, found: score.Score, width: int) -> str:
    return (
        f"{name:<{width}}  {found.mutants:>7}  {found.killed:>6}  {found.equivalent:>10}  {found.survived:>8}  "
        f"{100 * found.value:5.1f} %"
    )


def _as_json(verdict: Verdict) -> dict[str, Any]:
    mutant = verdict.mutant
    return {
        "equation": mutant.equation, "operator": mutant.operator, "line": mutant.line, "before": mutant.before,
        "after": mutant.after, "status": verdict.status, "by": verdict.by or None,
    }  # fmt: skip


def _of(found: score.Score) -> dict[str, Any]:
    return {
        "mutants": found.mutants, "killed": found.killed, "equivalent": found.equivalent, "survived": found.survived,
        "score": round(found.value, 4),
    }  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """0 if the score is at least 95 % of the mutants that are not equivalent, 1 if not, 2 for an unknown equation."""
    try:
        names = targets.select(arguments.patterns)
    except UnknownName as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.docs and (arguments.patterns or arguments.sample):
        print("error: --docs takes all equations and all of their mutants", file=sys.stderr)
        return 2
    mutants = score.sample(targets.mutants(names), arguments.sample, arguments.seed)
    if arguments.list:
        for mutant in mutants:
            print(mutant.diff)
        print(f"{len(mutants)} mutants of {len({mutant.equation for mutant in mutants})} equations")
        return 0
    terminal = sys.stderr.isatty()

    def progress(done: int, name: str) -> None:
        if terminal:
            print(f"\r\033[K{done}/{len(mutants)} {name}", end="", file=sys.stderr, flush=True)

    started = time.perf_counter()
    settings = _use_cache()
    try:
        verdicts = list(score.run(mutants, workers=arguments.workers, progress=progress, settings=settings))
    finally:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - started
    total, rows = score.score(verdicts), score.by_equation(verdicts)
    if arguments.docs:
        how = f"{seconds / 60:.0f} minutes, {arguments.workers} processes."
        (targets.ROOT / "docs" / "mutants.md").write_text(page(verdicts, how), encoding="utf-8")
    if arguments.json:
        report = {
            **_of(total), "passed": total.passed, "seconds": round(seconds, 1),
            "equations": {name: _of(row) for name, row in rows.items()}, "verdicts": [_as_json(v) for v in verdicts],
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        return 0 if total.passed else 1
    width = max((len(name) for name in rows), default=8)
    print(f"{'equation':<{width}}  mutants  killed  equivalent  survived    score")
    for name, row in rows.items():
        print(_row(name, row, width))
        for verdict in verdicts:
            if verdict.mutant.equation == name and verdict.status == "survived":
                print(f"    survived: {verdict.mutant.diff}")
    print(_row("all", total, width))
    print(f"equivalent: the same values and gradients on {witness.INSTANCES:,} instances; {seconds:.0f} s")
    return 0 if total.passed else 1
