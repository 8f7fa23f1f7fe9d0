"""What a run writes down: one JSON object a line, and TensorBoard.

    metrics.jsonl   one object per optimiser step: "step", "loss" and TRL's names. The same bytes for the same run,
                    interrupted or not
    eval.jsonl      one object per evaluation, names begin with "eval/"; "step" counts the updates before it
    samples.jsonl   texts generated at each evaluation
    timing.jsonl    what depends on the clock: "step_time" (seconds), "tokens_per_second", "mfu"
    tensorboard/    all of these numbers

Torn last lines, of a process killed while it wrote, are dropped when the run goes on.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

FILES = ("metrics", "eval", "samples", "timing")
"""Names of the files, without ".jsonl"."""


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them, which knows no NaN: what is not finite is null."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines of a file and what they say, up to the first torn one."""
    found: list[tuple[bytes, dict[str, Any]]] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(row, dict):
            break
        found.append((line, row))
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file up to the first torn line; none if there is no file."""
    return [row for _, row in _lines(path)]


def truncate(path: Path, keep: Callable[[int], bool]) -> None:
    """Keeps the rows whose step is to be kept, in one move: a process killed here leaves the file before or after."""
    if not path.exists():
        return
    beside = path.with_suffix(".part")
    with open(beside, "wb") as file:
        file.writelines(line for line, row in _lines(path) if keep(row["step"]))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


class RunLog:
    """The files of a run in the folder `out`, from the step `start` on: what was written after it goes.

    A row of metrics.jsonl at step t belongs to update t, so that a checkpoint of `start` updates keeps t < start; an
    evaluation at step t was made after t updates and before the checkpoint of t, and stays. One that is not `active`
    (of several processes the first one writes) touches nothing.
    """

    def __init__(self, out: Path, start: int = 0, *, tensorboard: bool = True, active: bool = True) -> None:
        self._active, self._out = active, out
        self._board: Any = None
        self._files: dict[str, IO[str]] = {}
        if not active:
            return
        for name in FILES:
            after_updates = name in ("eval", "samples")
            keep = (lambda t: t <= start and start > 0) if after_updates else (lambda t: t < start)
            truncate(out / f"{name}.jsonl", keep)
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
