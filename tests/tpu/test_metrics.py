"""What a run writes down, read again where some of it is torn or lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tpu.test_loop import run
from tpu import loop
from tpu.metrics import RunLog, ranges, read_rows, truncate


def test_rows_after_a_checkpoint_go_and_a_torn_one_does_not_hurt(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 0, "loss": 0.10}\n{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_rows(file)] == [0, 1, 2]
    truncate(file, lambda t: t < 1)
    assert file.read_bytes() == b'{"step": 0, "loss": 0.10}\n'  # the bytes as they were
    file.write_bytes(b'{"step": 0}\n\xff\xfe\n{"loss": 2}\n3\n{"step": 2}\n{"step": 3}')
    assert read_rows(file) == [{"step": 0}, {"step": 2}]
    with RunLog(tmp_path, 1, tensorboard=False) as log:
        log.write("metrics", {"step": 1, "loss": float("nan")})
    assert file.read_text() == '{"step": 0}\n{"step": 1, "loss": null}\n'


def test_rows_that_cannot_be_read_are_named_and_those_around_them_stay(tmp_path: Path, capsys: Any) -> None:
    """Line 3 is torn, lines 5 and 6 ran into each other, lines 8 and 9 are zeros; then no file is there at all."""
    loop.train(run(tmp_path))
    files = {name: tmp_path / f"{name}.jsonl" for name in ("metrics", "eval")}
    lines, evaluated = files["metrics"].read_bytes().splitlines(keepends=True), files["eval"].read_bytes()
    files["metrics"].write_bytes(
        b"".join(
            [*lines[:3], lines[3][:10] + b"\n", lines[4], lines[5][:20], *lines[6:8], b"\0" * 99 + b"\n", *lines[10:]]
        )
    )
    files["eval"].write_bytes(b"{\n" + evaluated)
    capsys.readouterr()
    summary = loop.train(run(tmp_path), resume=True)
    assert (
        summary["first_loss"] == json.loads(lines[0])["loss"] and summary["final_loss"] == json.loads(lines[11])["loss"]
    )
    kept = [line for t, line in enumerate(lines) if t not in (3, 5, 6, 8, 9)]
    assert files["metrics"].read_bytes() == b"".join(kept) and files["eval"].read_bytes() == evaluated
    said = capsys.readouterr().err
    assert "warning: metrics.jsonl lacks the steps 3, 5-6, 8-9; the run goes on" in said and said.count("warning") == 2
    assert "warning: eval.jsonl: broken lines that are dropped: 1" in said
    files["metrics"].unlink()
    summary = loop.train(run(tmp_path), resume=True)
    assert summary["first_loss"] is None and summary["final_loss"] is None
    assert "metrics.jsonl lacks the steps 0-11" in capsys.readouterr().err


def test_steps_in_words() -> None:
    assert ranges([]) == "" and ranges([4]) == "4" and ranges([9, 1, 2, 3, 7, 8]) == "1-3, 7-9"
