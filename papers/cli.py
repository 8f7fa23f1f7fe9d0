"""`python -m papers`: lists the papers, runs their claims, draws their figures, writes the page.

Imports little before it must: `--help` does not wait for JAX.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from papers import wording

if TYPE_CHECKING:
    from papers.record import Paper

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("exact", "lm")
WIDTH = 100
COLOURS = {"reproduced": "32", "contradicted": "33", "not testable here": "36", "failed": "31", "differs": "31;1"}

DESCRIPTION = """\
Papers as runs: each claim of a paper with the verdict that a run computes, and its figures.

  python -m papers              lists the papers
  python -m papers NAME...      runs some of them
  python -m papers all          runs all of them
  python -m papers all --scale lm
                                runs all that have figures on a language model, a small one trained from scratch:
                                minutes with --quick, an hour or two without
  python -m papers docs         writes docs/ from the records (see: python -m papers docs --help)
"""
EPILOG = """\
Writes DIR/<paper>/claims.json (lm.json at --scale lm), the figures as PNG and SVG, and DIR/index.html, which also
keeps the papers of earlier runs. Runs of language models are kept in DIR/lm: what was interrupted is resumed.
Exit status: 0 if every verdict is the one we stand by (which may be "contradicted"), 1 if one differs or something
raised, 2 if the command line or DIR is wrong.
"""


class UsageError(ValueError):
    """What is wrong with the command line, in a line."""


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^32 - 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="papers to run, or all; nash-md and nash_md are the same"
    )
    parser.add_argument("--quick", action="store_true", help="smaller runs: fewer instances, steps and seeds")
    parser.add_argument(
        "--scale", choices=SCALES, default="exact",
        help="exact: tables (the default); lm: runs on a small language model, kept in DIR/lm and resumed",
    )  # fmt: skip
    parser.add_argument(
        "--devices", default="1", metavar="N",
        help="spread seeds, instances and games over N devices, or all (default: 1); for --scale exact",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where results go (default: out)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed of the runs (default: 0)")
    return parser


def _docs_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers docs",
        description="Writes methods.md, solvers.md, statements.md, claims.md and names.md from the records.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="where they go (default: docs)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout: the files written")
    return parser


def main(argv: Sequence[str] | None = None, papers: "Mapping[str, Paper] | None" = None) -> int:
    """Runs the command line and returns its exit status; `papers` stands in for those of the folder."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ≤ shows ?
    try:
        if arguments[:1] == ["docs"]:
            return _docs(_docs_parser().parse_args(arguments[1:]), papers)
        options = _parser().parse_args(arguments)
        return _run(options, papers) if options.names else _list(options, papers)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _known(papers: "Mapping[str, Paper] | None", scale: str = "exact") -> "Mapping[str, Paper]":
    """The papers of the folder at that scale. Imports JAX, with the compilation cache of the checkout."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from papers import collect

    try:
        if papers is None:
            return collect.scan(scale)
        for paper in papers.values():
            collect.check(paper)
        return papers
    except collect.PaperError as error:
        raise UsageError(str(error)) from error


def _chosen(names: Sequence[str], papers: "Mapping[str, Paper]") -> "list[Paper]":
    """The named papers, each once, in the order given; all of them for "all"."""
    from alignjax import checks

    chosen: dict[str, Paper] = {}
    for name in names:
        if name == "docs":
            raise UsageError("docs is a command of its own and comes first: python -m papers docs")
        if name == "all":
            chosen |= papers
            continue
        try:
            found = checks.member("paper", name, papers)
        except checks.UnknownName as error:
            raise UsageError(f"{error}" if papers else f"unknown paper {name!r}; there are none yet") from None
        chosen[found] = papers[found]
    return list(chosen.values())


# --- listing ----------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, papers: "Mapping[str, Paper] | None") -> int:
    known = _known(papers, options.scale)
    if options.json:
        rows = [
            {
                "name": paper.name,
                "title": paper.title,
                "source": str(paper.source),
                "claims": [claim.id for claim in paper.claims],
                "figures": [figure.id for figure in paper.figures],
            }
            for paper in known.values()
        ]
        print(json.dumps({"papers": rows}))
        return 0
    width = max([len(name) for name in known] + [8])
    print("papers:")
    for paper in known.values():
        tail = f" ({wording.plural(len(paper.claims), 'claim')}, {wording.plural(len(paper.figures), 'figure')})"
        room = WIDTH - width - 4 - len(tail)
        print(f"  {paper.name:<{width}}  {textwrap.shorten(paper.title, room, placeholder='…')}{tail}")
    if not known:
        print("  none yet")
    print("\nsubcommands:")
    for name, says in (
        ("NAME...", "run some papers (--quick, --seed N, --out DIR, --json)"),
        ("all", "run all of them"),
        ("docs", "write docs/ from the records"),
    ):
        print(f"  {name:<{width}}  {says}")
    return 0


# --- running ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(total: int, stream: TextIO) -> Iterator[Any]:
    """A function to call before each step; it draws a bar on a terminal and nothing elsewhere."""
    if not stream.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm

    shape = "{percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt}, {elapsed}: {desc}"
    with tqdm(total=total, file=stream, leave=False, bar_format=shape) as bar:
        begun = False

        def step(name: str) -> None:
            nonlocal begun
            bar.update(int(begun))
            begun = True
            bar.set_description_str(name)

        yield step


def _devices(options: argparse.Namespace) -> int:
    from alignjax import sweeps

    if options.scale != "exact" and options.devices != "1":
        raise UsageError("--devices is for --scale exact: the small language models are trained on one device")
    try:
        return sweeps.number_of_devices(options.devices)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _run(options: argparse.Namespace, papers: "Mapping[str, Paper] | None") -> int:
    chosen = _chosen(options.names, _known(papers, options.scale))
    from alignjax import sweeps
    from papers import run
    from papers.record import Settings

    devices = _devices(options)

    try:
        run.prepare(options.out, [paper.name for paper in chosen], options.scale)
    except run.OutError as error:
        raise UsageError(str(error)) from None
    settings = Settings(quick=options.quick, seed=options.seed)
    if options.scale != "exact":
        settings = dataclasses.replace(settings, out=str(options.out))
    records, unwritten = [], ""
    sized = [paper.within(settings) for paper in chosen]
    with (
        sweeps.over(devices),
        _progress(sum(len(paper.claims) + len(paper.figures) for paper in sized), sys.stderr) as step,
    ):
        for paper in chosen:
            record, files = run.run_paper(paper, settings, step, options.scale)
            records.append(record)
            try:
                run.save(options.out, record, files)
                index = run.write_index(options.out)
            except OSError as error:
                unwritten = f"--out {options.out}: {error}"
    ok = all(record["ok"] for record in records)
    if options.json:
        print(json.dumps(_answer(records, options.out, ok), allow_nan=False))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        for record in records:
            print(table(record, width=width, colour=colour))
        if not unwritten:
            print(index)
    if unwritten:
        raise UsageError(unwritten)
    return 0 if ok else 1


def _answer(records: Sequence[Mapping[str, Any]], out: Path, ok: bool) -> dict[str, Any]:
    """What --json prints; the paths as a shell in this folder would take them."""
    hidden = ("format", "drawings", "ok")
    rows = []
    for record in records:
        row = {key: value for key, value in record.items() if key not in hidden}
        row["figures"] = [str(out / path) for path in record["figures"]]
        row["errors"] = [
            f"figure {drawing['id']}: {drawing['error']}" for drawing in record["drawings"] if drawing["error"]
        ]
        rows.append(row)
    return {"papers": rows, "index": str(out / "index.html"), "ok": ok}


# --- the table on the terminal ----------------------------------------------------------------------------------------


def table(record: Mapping[str, Any], *, width: int = WIDTH, colour: bool = False) -> str:
    """A paper's claims in at most `width` columns, two lines each: the verdict and the numbers."""

    def paint(text: str, kind: str) -> str:
        return f"\033[{COLOURS[kind]}m{text}\033[0m" if colour else text

    def wrapped(text: str, indent: int) -> list[str]:
        pad = " " * indent
        return textwrap.wrap(text, width, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False)

    lines = textwrap.wrap(f"{record['name']}: {record['title']} ({record['source']})", width)
    first = max(len(verdict) for verdict in wording.VERDICTS)
    for claim in record["claims"]:
        verdict = claim["verdict"] or "failed"
        short = claim["id"].removeprefix(record["name"] + ".")
        head = f"  {paint(f'{verdict:<{first}}', verdict)}  {short}"
        if claim["error"]:
            body = claim["error"]
        elif claim["measured"] is None:
            body = claim["note"]
        else:
            body = f"measured {wording.numbers(claim['measured'])}, expected {wording.expected(claim)}"
            close = wording.closeness(claim)
            body += f"; {close}" if close else ""
            body += f"; {wording.plural(claim['runs'], 'run')}"
        if claim["verdict"] and not claim["agrees"]:
            head += paint(f"  DIFFERS: we stand by {claim['stands']!r}", "differs")
        elif claim["verdict"] == "contradicted":
            head += "  (as we say)"
        lines += [head, *wrapped(body, first + 4)]
    for drawing in record["drawings"]:
        if drawing["error"]:
            lines.append(f"  {paint('failed'.ljust(first), 'failed')}  figure {drawing['id']}")
            lines += wrapped(drawing["error"], first + 4)
    drawn = sum(not drawing["error"] for drawing in record["drawings"])
    tail = f"{wording.plural(drawn, 'figure')}, {wording.duration(record['seconds'])}"
    return "\n".join([*lines, *wrapped(f"{wording.summary(record['claims'])}; {tail}", 2), ""])


# --- docs -------------------------------------------------------------------------------------------------------------


def _docs(options: argparse.Namespace, papers: "Mapping[str, Paper] | None") -> int:
    known = _known(papers)
    small = _known(None, "lm") if papers is None else {}
    from papers import docs

    try:
        written = docs.write_all(options.out, known, small)
    except docs.OutError as error:
        raise UsageError(str(error)) from None
    if options.json:
        print(json.dumps({"files": [str(path) for path in written], "ok": True}))
    else:
        for path in written:
            print(path)
    return 0
