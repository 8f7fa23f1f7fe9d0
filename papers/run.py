"""Runs a paper: claims to verdicts, figures to files. Whatever raises is recorded, and the rest still runs."""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from papers import figures, page
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings

FORMAT = "alignjax papers 1"
"""Marks the files of ours: another file of the same name is never overwritten."""
FILES = {"exact": "claims.json", "lm": "lm.json"}
"""scale -> where a paper's results at that scale lie, in its folder."""
LONGEST = 20
"""An array of more numbers is summarised."""

Json = dict[str, Any]


# --- to JSON ----------------------------------------------------------------------------------------------------------


def _leaf(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int):
        return int(value)
    value = float(value)
    if np.isfinite(value):
        return value
    return "nan" if np.isnan(value) else ("inf" if value > 0 else "-inf")


def plain(value: Any) -> Any:
    """Numbers as JSON takes them: nested lists, long arrays as {min, median, max, n}, NaN and infinities as strings."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        array = array.astype(float)
    if array.ndim == 0:
        return _leaf(array[()])
    if array.size <= LONGEST:
        return [plain(row) for row in array]
    with np.errstate(invalid="ignore"):
        middle = np.nan if np.isnan(array.astype(float)).any() else np.median(array)
    low, high = (np.nan, np.nan) if np.isnan(middle) else (array.min(), array.max())
    return {"min": _leaf(low), "median": _leaf(middle), "max": _leaf(high), "n": int(array.size)}


def deviation(outcome: Outcome) -> Any:
    """The worst entry: |measured - expected|, or how far beyond the bound it is (negative: room to spare)."""
    want, got = np.asarray(outcome.expected, float), np.asarray(outcome.measured, float)
    with np.errstate(invalid="ignore"):
        over = {"equal": np.abs(got - want), "at most": got - want, "less than": got - want}.get(
            outcome.relation, want - got
        )
    return plain(np.max(over)) if over.size else None


# --- one claim, one figure --------------------------------------------------------------------------------------------


def _report(what: str, error: Exception) -> str:
    """The traceback to stderr, one line for the table and the page."""
    print(f"{what} raised:", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {error}".strip().rstrip(":")


@contextlib.contextmanager
def _surroundings() -> Any:
    """Double precision, the figures' style, and what is printed goes to stderr: stdout is for results."""
    with jax.enable_x64(True), figures.style(), contextlib.redirect_stdout(sys.stderr):
        yield


def run_claim(claim: Claim, settings: Settings) -> Json:
    """One row of claims.json. `verdict` is None, and `error` says why, where the test raised."""
    row: Json = {
        "id": claim.id,
        "source": str(claim.source),
        "statement": claim.says,
        "how": claim.how,
        "expected": None,
        "measured": None,
        "tolerance": None,
        "relation": None,
        "deviation": None,
        "runs": 0,
        "spread": "",
        "note": "",
        "verdict": None,
        "stands": claim.stands,
        "agrees": False,
        "seconds": 0.0,
        "formula": claim.formula,
        "error": "",
    }
    start = time.perf_counter()
    try:
        with _surroundings():
            outcome = claim.test(settings)
            if isinstance(outcome, NotTestable):
                row |= {"note": outcome.reason, "verdict": outcome.verdict}
            elif isinstance(outcome, Outcome):
                row |= {name: plain(getattr(outcome, name)) for name in ("expected", "measured", "tolerance")}
                row |= {name: getattr(outcome, name) for name in ("relation", "runs", "spread", "note", "verdict")}
                row |= {"deviation": deviation(outcome), "runs": int(outcome.runs)}
            else:
                raise TypeError(f"the test must return an Outcome or NotTestable, got {type(outcome).__name__}")
    except Exception as error:
        row |= {"verdict": None, "error": _report(f"claim {claim.id}", error)}
    row["agrees"] = row["verdict"] == claim.stands
    row["seconds"] = round(time.perf_counter() - start, 3)
    return row


def run_figure(paper: str, figure: Figure, settings: Settings) -> tuple[Json, dict[str, bytes]]:
    """One entry of "drawings" and its files by path, relative to the folder of the index."""
    row: Json = {
        "id": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "png": f"{paper}/{figure.id}.png",
        "svg": f"{paper}/{figure.id}.svg",
        "runs": "" if figure.runs is None else figure.runs(settings),
        "seconds": 0.0,
        "error": "",
    }
    files: dict[str, bytes] = {}
    start = time.perf_counter()
    try:
        with _surroundings():
            files = {row[suffix]: data for suffix, data in figures.render(figure.draw(settings)).items()}
    except Exception as error:
        row["error"] = _report(f"figure {figure.id}", error)
    row["seconds"] = round(time.perf_counter() - start, 3)
    return row, files


# --- one paper --------------------------------------------------------------------------------------------------------


def run_paper(
    paper: Paper, settings: Settings, step: Callable[[str], None] = lambda _: None, scale: str = "exact"
) -> tuple[Json, dict]:
    """The paper's record (JSON) and its figure files by path; `step(name)` is called before each claim and figure."""
    start, paper = time.perf_counter(), paper.within(settings)
    claims, drawings = [], []
    files: dict[str, bytes] = {}
    for claim in paper.claims:
        step(claim.id)
        claims.append(run_claim(claim, settings))
    for figure in paper.figures:
        step(f"{paper.name}/{figure.id}")
        row, drawn = run_figure(paper.name, figure, settings)
        drawings.append(row)
        files |= drawn
    record: Json = {
        "format": FORMAT,
        "name": paper.name,
        "title": paper.title,
        "source": str(paper.source),
        "summary": paper.summary,
        "scale": scale,
        "settings": {"quick": settings.quick, "seed": settings.seed},
        "claims": claims,
        "figures": list(files),
        "drawings": drawings,
        "seconds": round(time.perf_counter() - start, 3),
        "ok": all(row["agrees"] for row in claims) and not any(row["error"] for row in drawings),
    }
    return record, files


# --- files ------------------------------------------------------------------------------------------------------------


class OutError(ValueError):
    """The folder for results cannot be written to, or holds something of the user's that would be lost."""


def write(path: Path, data: bytes | str) -> None:
    """All of the file or none of it: a temporary file beside it, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Json | None:
    """A claims.json of ours, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def prepare(out: Path, names: Iterable[str], scale: str = "exact") -> None:
    """Makes the folders and tries to write there, before any long work.

    Raises: OutError, naming --out, also where a file that this command did not write would be overwritten.
    """
    for folder in (out, *(out / name for name in names)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.getpid()}.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OutError(f"--out {out}: cannot write to {folder}: {error.strerror or error}") from None
        claims = folder / FILES[scale]
        if folder != out and claims.exists() and read(claims) is None:
            raise OutError(f"--out {out}: {claims} was not written by this command, and would be lost")
    index = out / "index.html"
    try:
        theirs = index.exists() and page.GENERATOR not in index.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise OutError(f"--out {out}: cannot read {index}: {error.strerror or error}") from None
    if theirs:
        raise OutError(f"--out {out}: {index} was not written by this command, and would be lost")


def save(out: Path, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """The figures, then claims.json (lm.json), which lists them."""
    for path, data in files.items():
        write(out / path, data)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write(out / record["name"] / FILES[record["scale"]], text + "\n")


def write_index(out: Path) -> Path:
    """The page of every paper whose results lie in `out`, those of earlier runs and of both scales included."""
    records = [
        record
        for folder in sorted(path for path in out.iterdir() if path.is_dir())
        for name in FILES.values()
        if (record := read(folder / name)) is not None
    ]
    write(out / "index.html", page.render(records, lambda path: (out / path).read_bytes()))
    return out / "index.html"
