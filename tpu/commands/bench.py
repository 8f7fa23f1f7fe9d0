"""`python -m tpu bench`."""

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignjax import checks
from tpu.arguments import FAILED, OK, Failed, UsageError, whole

if TYPE_CHECKING:
    from tpu.benching.race import Line

SAYS = "speed and memory beside named rivals, and beside what the machine could do; scaling, counted"
WHAT: Mapping[str, str] = {
    "dpo": "a step of DPO beside TRL's trainer",
    "memory": "of the log-prob step against the vocabulary, beside the plain formula",
    "generate": "sampling beside transformers",
    "overhead": "each method's loss and metrics on top of the model",
    "gpu": "learning and generation of a decoder of 1B, where there is an accelerator",
    "all": "all of these",
    "scaling": "what one chip computes, holds and is told, on 8 to 512 chips, counted: nothing is measured",
}
EPILOG = "\n".join(f"  {name:10} {says}" for name, says in WHAT.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench`."""
    parser.add_argument("what", nargs="?", default="all", metavar="WHAT", help=f"{', '.join(WHAT)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; the numbers mean little"
    )
    parser.add_argument("--repeats", type=whole(1), metavar="R", help="rounds, for medians (default: 5; quick: 2)")
    parser.add_argument(
        "--trl-python", metavar="PATH", help="an interpreter that has torch, transformers and trl (default: this one)"
    )
    parser.add_argument("--model", metavar="NAME", help="of scaling: a preset or config.json (default: llama3.2-1b)")
    parser.add_argument("--seq", type=whole(2), metavar="T", help="of scaling: tokens of a sequence (default: 2048)")
    parser.add_argument(
        "--chips", type=_chips, metavar="N,N", help="of scaling (default: 8 to 512 by doublings; quick: 8,64,512)"
    )
    parser.add_argument("--fsdp", type=whole(1), metavar="N", help="of scaling: chips on fsdp at most (default: 32)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to FILE, or a page to FILE.md")


def run(options: argparse.Namespace) -> int:
    """Measure, each contender in turns with its rivals, and print medians, spreads, ratios and limits.

    A limit is what this machine could do at best, by a product and a sum that are timed in the same run. What cannot be
    measured here says why, and is no error; nor is a slow machine.

    `scaling` compiles the real step of one prompt a chip for virtual devices, and counts. Exit status 1 if a chip's
    share of flops, of memory or of what is said on an axis of the mesh grows with the number of chips.
    """
    if options.what == "scaling":
        return _scaling(options)
    import jax

    from tpu.benching import accelerator, dpo, generation, memory, overhead, race
    from tpu.run_config import git_commit, versions

    try:
        what = checks.member("benchmark", options.what, WHAT)
    except checks.UnknownName as error:
        raise UsageError(str(error)) from None
    repeats, python = options.repeats or (2 if options.quick else 5), options.trl_python
    wanted = [name for name in WHAT if name not in ("all", "scaling")] if what == "all" else [what]
    needs_limits = {"dpo", "generate", "gpu"} & set(wanted)
    size, mebibytes = (512, 64) if options.quick else (2_048, 512)
    machine = race.machine(3, size, mebibytes) if needs_limits else race.Machine(0.0, 0.0)
    of: Mapping[str, Callable[[], list[Line]]] = {
        "dpo": lambda: dpo.lines(options.quick, repeats, python, machine),
        "memory": lambda: memory.lines(options.quick),
        "generate": lambda: generation.lines(options.quick, repeats, python, machine),
        "overhead": lambda: overhead.lines(options.quick, repeats),
        "gpu": lambda: accelerator.lines(options.quick, repeats, machine),
    }
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "processor": _processor(), "devices": [d.device_kind for d in jax.devices()], "cores": _cores(),
            "flops": machine.flops, "bytes_per_second": machine.bytes,
        },
        "versions": versions(), "git_commit": git_commit(), "repeats": repeats, "quick": options.quick, "lines": [],
    }  # fmt: skip
    if not options.json and needs_limits:
        print(_limits(machine))
    for name in wanted:
        if sys.stderr.isatty():
            print(f"measuring {name} ...", file=sys.stderr)
        found = of[name]()
        report["lines"] += [{"benchmark": name, **line.as_json()} for line in found]
        if not options.json:
            print("\n".join(table(found)), flush=True)
    if options.json:
        print(json.dumps(report))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        text = page(report) if options.out.suffix == ".md" else json.dumps(report, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
    return OK


def _chips(text: str) -> tuple[int, ...]:
    """An argument type: "8,16,32"."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 1 for part in parts):
        raise argparse.ArgumentTypeError(f"must be numbers of chips > 1, like 8,16,32, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _scaling(options: argparse.Namespace) -> int:
    from tpu.benching import scaling
    from tpu.plan.program import read_model

    given = {"model": options.model, "seq": options.seq, "width": options.fsdp}
    if options.chips or options.quick:
        given["weak"] = options.chips or (8, 64, 512)
        given["strong"] = given["weak"][:: max(len(given["weak"]) - 1, 1)]  # the smallest and the largest
    asked = scaling.Asked(**{name: value for name, value in given.items() if value is not None})
    found = []
    try:
        read_model(asked.model)
        for point in scaling.points(asked):
            found.append(point)
            if not options.json and sys.stderr.isatty():
                print(
                    f"{len(found)} of {len(asked.points())}: {point['kind']}, {point['chips']} chips", file=sys.stderr
                )
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {asked.model}: {error}") from None
    except RuntimeError as error:
        raise Failed(str(error)) from None
    report = scaling.report(asked, found)
    text = json.dumps(report) if options.json else "\n".join(scaling.table(found) + scaling.lines(report))
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        page = scaling.page(asked, found) if options.out.suffix == ".md" else json.dumps(report, indent=1) + "\n"
        options.out.write_text(page, encoding="utf-8")
    return OK if report["flat"] else FAILED


def _limits(machine: Any) -> str:
    return f"this machine: {machine.flops / 1e9:.0f} GFLOP/s in a product, {machine.bytes / 1e9:.1f} GB/s from memory"


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cells(line: Mapping[str, Any]) -> list[str]:
    """who, median, spread, ratio, limit, aim, note."""
    plain = lambda x: "" if x is None else f"{x:,.0f}" if abs(x) >= 1_000 else f"{x:.3g}"
    value, low, high, ratio = (line.get(name) for name in ("value", "low", "high", "ratio"))
    cpu = line.get("more", {}).get("ratio_of_cpu_seconds")
    return [
        line["who"],
        "-" if value is None else f"{plain(value)} {line['unit']}",
        "" if low is None else f"{plain(low)} to {plain(high)}",
        ("" if ratio is None else f"{ratio:.2f}x") + ("" if cpu is None else f" ({cpu:.2f}x by CPU time)"),
        "" if line.get("limit") is None else plain(line["limit"]),
        line.get("aim", ""),
        line.get("note", ""),
    ]


HEAD = ["", "median", "lowest to highest", "ours is better by", "limit", "aim", ""]


def table(found: list[Any]) -> list[str]:
    """The lines as text, a title over each workload."""
    rows = [_cells(line.as_json()) for line in found]
    width = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    text: list[str] = []
    title = None
    for line, row in zip(found, rows, strict=True):
        if line.what != title:
            title = line.what
            text += ["", title] + ([] if len(text) else ["  " + "  ".join(map(str.ljust, HEAD, width)).rstrip()])
        text.append("  " + "  ".join(map(str.ljust, row, width)).rstrip())
    return text


def page(report: Mapping[str, Any]) -> str:
    """docs/bench.md."""
    machine, lines = report["machine"], report["lines"]
    text = [
        "# Speed and memory",
        "",
        "Written by `python -m tpu bench --out docs/bench.md`. Contenders take turns; medians of "
        f"{report['repeats']} rounds, with the lowest and highest. A limit is what the machine could do at best: "
        "its own product of matrices and its own sum over memory, timed in the same run. CPU time counts all threads, "
        "and suffers less from what else runs on the machine.",
        "",
        f"{report['date']}, {machine['processor']}, cores: {machine['cores']}, devices: "
        f"{', '.join(sorted(set(machine['devices'])))}: "
        f"{machine['flops'] / 1e9:.0f} GFLOP/s, {machine['bytes_per_second'] / 1e9:.1f} GB/s. "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + ".",
    ]
    title = None
    for line in lines:
        if line["what"] != title:
            title = line["what"]
            text += ["", f"## {line['benchmark']}: {title}", "", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
        text.append(f"| {' | '.join(_cells(line))} |")
    return "\n".join(text)
