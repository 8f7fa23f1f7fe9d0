"""Rows of JSONL and Parquet files, in order, each with where it stands."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class DataError(ValueError):
    """A row that cannot be used; the message names the file and the line."""


def as_paths(paths: Paths) -> tuple[Path, ...]:
    """One path or several."""
    listed = tuple(Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths))
    if not listed:
        raise ValueError("paths must name at least one file, got none")
    return listed


def read_rows(paths: Paths) -> Iterator[tuple[str, dict[str, Any]]]:
    """ "FILE, line 3" (JSONL; blank lines are skipped) or "FILE, row 3" (Parquet), and its columns.

    A file is Parquet if it begins as one, whatever its name. Raises: DataError, OSError.
    """
    for path in as_paths(paths):
        with open(path, "rb") as file:
            parquet = file.read(4) == b"PAR1"
        yield from _parquet(path) if parquet else _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    yield where, _parsed(line)
                except ValueError as error:
                    raise DataError(f"{where}: {error}") from None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start + 1})") from None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}); data are JSONL or Parquet") from None
    except RecursionError:
        raise ValueError("not usable JSON (nested too deeply)") from None
    if not isinstance(record, dict):
        what = "a list (JSONL has one object to a line, without brackets around them)"
        got = what if isinstance(record, list) else kind(record)
        raise ValueError(f"a row must be an object with columns, got {got}")
    return record


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A null is an absent column."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {name: value for name, value in record.items() if value is not None}
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}, after row {number}: not usable Parquet ({error})") from None


def kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return "a list of messages"
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
