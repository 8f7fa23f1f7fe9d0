"""Files and flags to arrays: preference matrices, win counts and policies, refused with one line where they are bad."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.checks import nearest

SUFFIXES = (".csv", ".json", ".npy")
SMOOTHING = {"laplace": 1.0, "jeffreys": 0.5, "none": 0.0}
"""Pseudo-counts: what is added to both sides of every pair that has been played."""
TOLERANCE = 1e-2
"""How far P + P^T may be from 1 (two decimals, rounded) before it takes `--symmetrise`."""


class SolveError(ValueError):
    """A file or a flag that cannot be used: one line that says which and why."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A preference matrix with names, and what was done to the file's numbers to get it."""

    names: tuple[str, ...]
    preference: np.ndarray
    data: dict[str, Any]
    notes: tuple[str, ...]


def read(path: Path, *, counts: bool = False, smoothing: str = "laplace", symmetrise: bool = False) -> Table:
    """The matrix of a file. Integers above 1 are win counts; `counts` says so of any numbers."""
    names, numbers, is_counts = _load(path)
    _check_square(path, names, numbers)
    _check_numbers(path, names, numbers)
    off = ~np.eye(len(numbers), dtype=bool)
    detected = bool((numbers[off] > 1).any() and (numbers[off] >= 0).all() and not (numbers[off] * 2 % 1).any())
    if counts or is_counts or detected:
        return _from_counts(path, names, numbers, smoothing, detected and not (counts or is_counts))
    return _from_preferences(path, names, numbers, symmetrise)


def amount(text: str) -> float:
    """The pseudo-count that `--smoothing` names, or is."""
    try:
        value = SMOOTHING[text] if text in SMOOTHING else float(text)
    except ValueError:
        value = -1.0
    if not (np.isfinite(value) and value >= 0):
        raise SolveError(f"--smoothing must be one of {', '.join(SMOOTHING)} or a number >= 0, got {text!r}")
    return value


# Files


def _open(path: Path) -> Path:
    if path.suffix.lower() not in SUFFIXES:
        raise SolveError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    if not path.exists():
        raise SolveError(f"{path} does not exist")
    if path.is_dir():
        raise SolveError(f"{path} is a folder")
    if path.stat().st_size == 0:
        raise SolveError(f"{path} is empty")
    return path


def _load(path: Path) -> tuple[tuple[str, ...], np.ndarray, bool]:
    """Names, numbers and whether the file itself says that they are wins."""
    suffix = _open(path).suffix.lower()
    if suffix == ".npy":
        numbers = _array(path)
        if numbers.ndim != 2:
            raise SolveError(f"{path} must hold a matrix, got an array of shape {numbers.shape}")
        return _numbered(len(numbers)), numbers, False
    if suffix == ".json":
        return _matrix_json(path)
    return _matrix_csv(path)


def _array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SolveError(f"{path} is not an array of numbers that numpy.load can read") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "biuf":
        raise SolveError(f"{path} must hold real numbers, got {getattr(loaded, 'dtype', type(loaded).__name__)}")
    return loaded.astype(np.float64)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SolveError(f"{path} is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise SolveError(f"{path} is not JSON: {error.msg} at line {error.lineno}") from error


def _rows(path: Path) -> list[list[str]]:
    """The cells of a CSV file (commas, semicolons or tabs), without empty lines and comments."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise SolveError(f"{path} is not text in UTF-8") from error
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise SolveError(f"{path} has no rows")
    separator = max(",;\t", key=lines[0].count)
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]


def _matrix_json(path: Path) -> tuple[tuple[str, ...], np.ndarray, bool]:
    content = _json(path)
    given, wins = None, False
    if isinstance(content, dict):
        keys = [key for key in ("preference", "wins") if key in content]
        if len(keys) != 1:
            raise SolveError(f'{path} must have the key "preference" or the key "wins", got {sorted(content)}')
        wins, given, content = keys == ["wins"], content.get("names"), content[keys[0]]
    if not isinstance(content, list) or not content or not all(isinstance(row, list) for row in content):
        raise SolveError(f'{path} must hold a list of rows, or {{"names": [...], "preference": [[...]]}}')
    cells = [["" if cell is None else str(cell) for cell in row] for row in content]
    names = _numbered(len(cells)) if given is None else tuple(map(str, given)) if isinstance(given, list) else ()
    if len(names) != len(cells):
        raise SolveError(f"{path} has {len(names)} names for {len(cells)} rows")
    return names, _parse(path, names, cells), wins


def _matrix_csv(path: Path) -> tuple[tuple[str, ...], np.ndarray, bool]:
    rows = _rows(path)
    head = [cell.lower() for cell in rows[0]]
    if {"winner", "loser"} <= set(head):
        return *_matches(path, head, rows[1:]), True
    header: list[str] | None = None
    if _is_header(rows):
        header, rows = rows[0], rows[1:]
    if not rows:
        raise SolveError(f"{path} has a header and no rows")
    first, column = None, [row[0] for row in rows]
    if len(rows[0]) == len(rows) + 1 and (header is not None or _are_words(column) or _are_places(column)):
        first, rows = column, [row[1:] for row in rows]
    if header is not None and first is not None and len(header) == len(first) + 1:
        header = header[1:]  # the corner
    if header is not None and first is not None and header != first:
        off = next((i for i, (a, b) in enumerate(zip(header, first, strict=False)) if a != b), None)
        detail = f"{len(header)} and {len(first)}" if off is None else f"{header[off]!r} and {first[off]!r}"
        raise SolveError(f"{path} must name its columns as its rows, in the same order: {detail}")
    names = tuple(header or first or _numbered(len(rows)))
    return names, _parse(path, names, rows), False


def _are_words(cells: Sequence[str]) -> bool:
    """One of them at least is neither a number nor a blank."""
    return any(cell not in ("", "-") and not _is_number(cell) for cell in cells)


def _are_places(cells: Sequence[str]) -> bool:
    """0, 1, 2, ... or 1, 2, 3, ..., as tables are written whose rows have no names."""
    return list(cells) in ([str(i + k) for i in range(len(cells))] for k in (0, 1))


def _is_header(rows: list[list[str]]) -> bool:
    """Words, or numbers that stand again in the first column under a corner that is no number (a symmetric table of
    numbers is a table), or the places of the columns over a square.
    """
    again = len(rows) > 1 and not _is_number(rows[0][0]) and rows[0][1:] == [row[0] for row in rows[1:]]
    return _are_words(rows[0][1:]) or again or (len(rows) == len(rows[0]) + 1 and _are_places(rows[0]))


def _matches(path: Path, head: list[str], rows: list[list[str]]) -> tuple[tuple[str, ...], np.ndarray]:
    """One row for each match (winner, loser), or many matches with their count."""
    columns = {name: head.index(name) for name in ("winner", "loser")}
    count = next((head.index(name) for name in ("count", "wins", "n") if name in head), None)
    order: dict[str, int] = {}
    entries = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise SolveError(f"{path} has {len(row)} cells in row {number}, and {len(head)} in its header")
        winner, loser = (row[columns[name]] for name in ("winner", "loser"))
        value = "1" if count is None else row[count]
        if not winner or not loser or winner == loser:
            raise SolveError(f"{path} has no two names in row {number}: {winner!r}, {loser!r}")
        if not _is_number(value) or not (np.isfinite(float(value)) and float(value) >= 0):
            raise SolveError(f"{path} has the count {value!r} in row {number}; allowed are numbers >= 0")
        entries.append((order.setdefault(winner, len(order)), order.setdefault(loser, len(order)), float(value)))
    wins = np.zeros((len(order), len(order)))
    for i, j, times in entries:
        wins[i, j] += times
    if not entries:
        raise SolveError(f"{path} has a header and no rows")
    return tuple(order), wins


def _numbered(size: int) -> tuple[str, ...]:
    return tuple(str(i + 1) for i in range(size))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Cells to numbers; a blank or a dash is allowed on the diagonal, where it stands for nothing."""
    numbers = np.full((len(rows), len(rows[0])), np.nan)
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise SolveError(f"{path} has {len(row)} numbers in row {_name(names, i)}, and {len(rows[0])} in the first")
        for j, cell in enumerate(row):
            if i == j and cell in ("", "-"):
                continue
            if not _is_number(cell):
                what = repr(cell) if cell else "nothing"
                raise SolveError(f"{path} has {what} at row {_name(names, i)}, column {_name(names, j)}; not a number")
            numbers[i, j] = float(cell)
    return numbers


def _name(names: Sequence[str], i: int) -> str:
    return repr(names[i]) if i < len(names) else str(i + 1)


# Checks


def _check_square(path: Path, names: Sequence[str], numbers: np.ndarray) -> None:
    rows, columns = numbers.shape
    if rows != columns:
        raise SolveError(f"{path} must hold a square matrix, got {rows} rows and {columns} columns")
    if rows < 2:
        raise SolveError(f"{path} must hold at least two actions, got {rows}")
    if len(names) != rows:
        raise SolveError(f"{path} has {len(names)} names for {rows} rows")
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled or "" in names:
        raise SolveError(f"{path} must name every action once, got " + (f"{doubled[0]!r} twice" if doubled else "''"))


def _check_numbers(path: Path, names: Sequence[str], numbers: np.ndarray) -> None:
    bad = ~np.isfinite(numbers) & ~np.eye(len(numbers), dtype=bool)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise SolveError(f"{path} has {numbers[i, j]} at row {names[i]!r}, column {names[j]!r}; allowed are numbers")


def _diagonal(numbers: np.ndarray, expected: float) -> str:
    diagonal = np.diag(numbers)
    odd = diagonal[~(np.isnan(diagonal) | (diagonal == expected))]
    return f"set to 1/2; the file has {odd[0]:g} there, which is not used" if odd.size else "1/2"


def _from_preferences(path: Path, names: tuple[str, ...], numbers: np.ndarray, symmetrise: bool) -> Table:
    size = len(numbers)
    diagonal = _diagonal(numbers, 0.5)
    matrix = np.where(np.eye(size, dtype=bool), 0.5, numbers)
    bad = (matrix < 0) | (matrix > 1)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise SolveError(
            f"{path} has {matrix[i, j]:g} at row {names[i]!r}, column {names[j]!r}; allowed are probabilities in "
            f"[0, 1], or win counts (--counts)"
        )
    excess = np.abs(matrix + matrix.T - 1)
    i, j = (int(k) for k in np.unravel_index(np.argmax(excess), excess.shape))
    largest, pairs = float(excess[i, j]), int((np.triu(excess) > TOLERANCE + 1e-9).sum())
    says = (
        f"P({names[i]} beats {names[j]}) + P({names[j]} beats {names[i]}) = {matrix[i, j]:g} + {matrix[j, i]:g}, off 1 "
        f"by {largest:.3g}"
    )
    if pairs and not symmetrise:
        raise SolveError(
            f"{path} is not antisymmetric: {says}, the largest of {pairs} pair{'s' * (pairs > 1)} off by more than "
            f"{TOLERANCE:g}; --symmetrise takes (P + 1 - P^T) / 2, --counts reads wins"
        )
    notes = [f"diagonal: {diagonal}"]
    if largest > 1e-12:
        notes.append(f"antisymmetry: {says} at most; solved is (P + 1 - P^T) / 2")
    else:
        notes.append("antisymmetry: P + P^T = 1 to rounding")
    data = {
        "kind": "preferences",
        "diagonal": diagonal,
        "antisymmetry": {"largest": largest, "at": [names[i], names[j]], "symmetrised": largest > 0},
    }
    return Table(names, _antisymmetric(matrix), data, tuple(notes))


def _antisymmetric(matrix: np.ndarray) -> np.ndarray:
    """(P + 1 - P^T) / 2, exactly: P[i, j] + P[j, i] = 1 and 1/2 on the diagonal."""
    return 0.5 + 0.5 * (matrix - matrix.T)


def _from_counts(path: Path, names: tuple[str, ...], wins: np.ndarray, smoothing: str, detected: bool) -> Table:
    pseudo = amount(smoothing)
    diagonal = _diagonal(wins, 0.0)
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    if (wins < 0).any():
        i, j = np.argwhere(wins < 0)[0]
        raise SolveError(f"{path} has {wins[i, j]:g} at row {names[i]!r}, column {names[j]!r}; allowed are counts >= 0")
    played = wins + wins.T
    upper = np.triu(np.ones_like(wins, bool), 1)
    unplayed = int((upper & (played == 0)).sum())
    rate = np.where(played > 0, (wins + pseudo) / np.where(played > 0, played + 2 * pseudo, 1.0), 0.5)
    called = next((f"{name} " for name, value in SMOOTHING.items() if value == pseudo and pseudo), "").capitalize()
    rule = f"{called}smoothing, {pseudo:g} added to both sides of every played pair" if pseudo else "no smoothing"
    notes = [
        f"win counts{' (integers above 1)' if detected else ''}: {played[upper].sum():g} matches; {rule}",
        f"unplayed pairs: {unplayed} of {int(upper.sum())}, taken as 1/2",
        f"diagonal: {diagonal}",
    ]
    if detected and (played[upper] == 100).all():
        notes.append("every pair sums to 100: if these are percentages, divide them by 100")
    data = {
        "kind": "wins",
        "matches": float(played[upper].sum()),
        "smoothing": {"rule": rule, "pseudo_count": pseudo},
        "unplayed_pairs": unplayed,
        "diagonal": diagonal,
        "antisymmetry": {"largest": 0.0, "at": None, "symmetrised": False},
    }
    return Table(names, _antisymmetric(rate), data, tuple(notes))


# Policies


def policy(flag: str, text: str, names: Sequence[str]) -> np.ndarray:
    """Probabilities from "a=0.5,b=1/2" (names left out have none), "uniform", or a file."""
    if text == "uniform":
        return np.full(len(names), 1 / len(names))
    if "=" in text and not Path(text).exists():
        return _checked(flag, _by_name(flag, _pairs(flag, text), names))
    path = _open(Path(text))
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _checked(flag, _in_order(flag, _array(path).ravel(), names))
    if suffix == ".json":
        content = _json(path)
        if isinstance(content, dict):
            return _checked(flag, _by_name(flag, {str(k): _value(flag, str(v)) for k, v in content.items()}, names))
        if isinstance(content, list):
            return _checked(flag, _in_order(flag, np.array([_value(flag, str(v)) for v in content]), names))
        raise SolveError(f"{path} must hold a list of probabilities, or an object of names and probabilities")
    rows = _rows(path)
    if all(len(row) == 2 for row in rows) and not (len(names) == 2 and len(rows) == 1):
        body = rows[1:] if not _is_fraction(rows[0][1]) else rows
        return _checked(flag, _by_name(flag, {name: _value(flag, cell) for name, cell in body}, names))
    return _checked(flag, _in_order(flag, np.array([_value(flag, cell) for row in rows for cell in row]), names))


def _pairs(flag: str, text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, sign, value = part.rpartition("=")
        if not sign or not name.strip():
            raise SolveError(f"{flag} takes NAME=PROBABILITY,..., uniform or a file, got {part!r}")
        found[name.strip()] = _value(flag, value.strip())
    return found


def _is_fraction(text: str) -> bool:
    try:
        float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return _is_number(text)
    return True


def _value(flag: str, text: str) -> float:
    if not _is_fraction(text):
        raise SolveError(f"{flag} takes probabilities, got {text!r}")
    return float(Fraction(text)) if "/" in text else float(text)


def _by_name(flag: str, given: dict[str, float], names: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(names)}
    values = np.zeros(len(names))
    for name, value in given.items():
        if name not in place:
            near = nearest(name, names)
            hint = f"; did you mean {near!r}?" if near else ""
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise SolveError(f"{flag} names {name!r}, which is no action{hint} (actions: {some})")
        values[place[name]] = value
    return values


def _in_order(flag: str, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    if values.shape != (len(names),):
        raise SolveError(f"{flag} must have {len(names)} probabilities, one for each action, got {values.size}")
    return values


def _checked(flag: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all() or (values < 0).any():
        raise SolveError(f"{flag} must hold probabilities >= 0, got {values[~(values >= 0) | ~np.isfinite(values)][0]}")
    total = float(values.sum())
    if abs(total - 1) > 1e-6:
        raise SolveError(f"{flag} must sum to 1, got {total:.9g}")
    return values / total
