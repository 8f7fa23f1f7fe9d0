"""What a run writes down: one JSON object a line, and TensorBoard.

    metrics.jsonl   one object per optimiser step: "step", "loss" and TRL's names. The same bytes for the same run,
                    interrupted or not
    eval.jsonl      one object per evaluation, names begin with "eval/"; "step" counts the updates before it
    samples.jsonl   texts generated at each evaluation
    timing.jsonl    what depends on the clock: "step_time" (seconds), "tokens_per_second", "mfu"
    tensorboard/    all of these numbers

Lines that cannot be read are dropped when the run goes on: the last one, of a process that was killed, in silence;
others, of a machine that broke down, with a warning. The rows around them stay.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

FILES = ("metrics", "eval", "samples", "timing")
"""Names of the files, without ".jsonl"."""


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them, which knows no NaN: what is not finite is null."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}


def _lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """The lines of a file and what they say, but for broken ones; and how many are broken before the last line."""
    found: list[tuple[bytes, dict[str, Any]]] = []
    broken = 0
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if (row := _read(line)) is not None:
            found.append((line, row))
        elif line.endswith(b"\n"):
            broken += 1
    return found, broken


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if whole else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file but for broken ones; none if there is no file."""
    return [row for _, row in _lines(path)[0]]


def truncate(path: Path, keep: Callable[[int], bool]) -> tuple[set[int], int]:
    """Keeps the rows whose step is to be kept, in one move: a process killed here leaves the file before or after.

    Returns the steps that are kept, and how many lines were broken before the last one.
    """
    if not path.exists():
        return set(), 0
    lines, broken = _lines(path)
    kept = [(line, row["step"]) for line, row in lines if keep(row["step"])]
    beside = path.with_suffix(".part")
    with open(beside, "wb") as file:
        file.writelines(line for line, _ in kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    return {step for _, step in kept}, broken


def ranges(numbers: Iterable[int]) -> str:
    """`[1, 2, 3, 7]` -> "1-3, 7"."""
    found: list[list[int]] = []
    for n in sorted(numbers):
        if found and n == found[-1][-1] + 1:
            found[-1][1:] = [n]
        else:
            found.append([n])
    return ", ".join("-".join(map(str, ends)) for ends in found)


class RunLog:
    """The files of a run in the folder `out`, from the step `start` on: what was written after it goes.

    A row of metrics.jsonl at step t belongs to update t, so that a checkpoint of `start` updates keeps t < start; an
    evaluation at step t was made after t updates and before the checkpoint of t, and stays. `warn` is told of rows that
    are not there, or cannot be read. One that is not `active` (of several processes the first one writes) touches
    nothing.
    """

    def __init__(
        self,
        out: Path,
        start: int = 0,
        *,
        tensorboard: bool = True,
        active: bool = True,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._active, self._out = active, out
        self._board: Any = None
        self._files: dict[str, IO[str]] = {}
        if not active:
            return
        for name in FILES:
            after_updates = name in ("eval", "samples")
            keep = (lambda t: t <= start and start > 0) if after_updates else (lambda t: t < start)
            there, broken = truncate(out / f"{name}.jsonl", keep)
            missing = set() if after_updates else set(range(start)) - there
            if missing:
                warn(f"{name}.jsonl lacks the steps {ranges(missing)}; the run goes on without these rows")
            elif broken:
                warn(f"{name}.jsonl: broken lines that are dropped: {broken}")
        self._files |= {name: open(out / f"{name}.jsonl", "a", encoding="utf-8") for name in ("metrics", "timing")}
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start if start else None)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()

    def write(self, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """One line of one of the `FILES`, on its way to the disk when this returns; the row as it was written."""
        row = plain(row)
        if not self._active:
            return row
        if name not in self._files:
            self._files[name] = open(self._out / f"{name}.jsonl", "a", encoding="utf-8")
        self._files[name].write(json.dumps(row) + "\n")
        self._files[name].flush()
        if self._board is not None:
            for key, value in row.items():
                if key == "text":
                    self._board.add_text("samples", value, row["step"])
                elif key != "step" and isinstance(value, int | float):
                    self._board.add_scalar(key, value, row["step"])
        return row

    def sync(self) -> None:
        """Everything written so far is on the disk: done before a checkpoint says that it happened."""
        for file in self._files.values():
            os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()
