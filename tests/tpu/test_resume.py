"""Exact resume: runs that are killed, stopped or run out of disk go on to the same bytes as one that is left alone."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tpu import kill


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill.small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A run that was left alone, and its arguments."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    arguments = (*kill.DPO, "--model", str(model), "--lr", "0.001")
    kill.finish(out, arguments)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(40))
    return out, arguments


@pytest.mark.long
def test_a_kill_in_a_checkpoint(whole: Any, tmp_path: Path) -> None:
    reference, arguments = whole
    out = tmp_path / "run"
    assert any(kill.kill_in_checkpoint(out, arguments) for _ in range(5))
    assert 0 < kill.rows(out) < 40
    kill.finish(out, arguments)
    assert kill.differing(reference, out) == []
    assert kill.writing(out) == []
    before = {name: (out / name).stat().st_mtime_ns for name in kill.SAME}
    kill.finish(out, arguments)  # already finished: nothing is done
    assert {name: (out / name).stat().st_mtime_ns for name in ("model/model.safetensors",)} == {
        "model/model.safetensors": before["model/model.safetensors"]
    }
    assert kill.differing(reference, out) == []


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_moments(whole: Any, tmp_path: Path, seed: int) -> None:
    reference, arguments = whole
    rng, out = random.Random(seed), tmp_path / "run"
    for _ in range(3):
        kill.kill_at_random(out, arguments, rng, 8)
    kill.finish(out, arguments)
    assert kill.differing(reference, out) == []


@pytest.mark.long
def test_kills_of_a_run_that_samples(model: Path, tmp_path: Path) -> None:
    """REINFORCE with a running baseline: responses and the baseline are part of what has to come back."""
    arguments = (*kill.ONLINE, "--model", str(model), "--lr", "0.001")
    kill.finish(tmp_path / "whole", arguments)
    rng = random.Random(2)
    for _ in range(2):
        kill.kill_at_random(tmp_path / "run", arguments, rng, 4)
    kill.finish(tmp_path / "run", arguments)
    assert kill.differing(tmp_path / "whole", tmp_path / "run") == []


@pytest.mark.long
def test_sigterm_saves_and_says_that_it_may_be_resumed(whole: Any, tmp_path: Path) -> None:
    reference, arguments = whole
    out = tmp_path / "run"
    process = kill.started(out, arguments, 8)
    said = kill.kill(process, signal.SIGTERM)
    assert process.returncode == 75, said
    done = kill.rows(out)
    assert f"stopped by SIGTERM after {done} of 40 updates" in said and 8 <= done < 40
    assert (out / "checkpoints" / str(done)).is_dir()
    kill.finish(out, arguments)
    same = [name for name in kill.SAME if name not in kill.differing(reference, out)]
    assert same == list(kill.SAME)


@pytest.mark.long
def test_half_the_devices_go_on_with_two_micro_batches(model: Path, tmp_path: Path, capsys: Any) -> None:
    """The batch is the same, and so are the rows of metrics.jsonl, to rounding."""
    from tpu.cli import main

    arguments = ["train", *kill.DPO, "--model", str(model), "--lr", "0.001", "--eval-every", "0", "--no-checks"]
    go = lambda out, steps, *more: main([*arguments, "--out", str(tmp_path / out), "--steps", steps, *more])
    assert go("whole", "4", "--mesh", "data=2") == 0 and go("half", "2", "--mesh", "data=2") == 0
    assert go("half", "4", "--mesh", "data=1", "--accumulate", "2", "--resume") == 0
    said = capsys.readouterr().err
    assert "warning: accumulate was 1 and is now 2; the last bits may differ" in said
    one, other = (
        [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        for out in ("whole", "half")
    )
    assert len(one) == len(other) == 4 and one[:2] == other[:2]
    for a, b in zip(one[2:], other[2:], strict=True):
        assert list(a) == list(b) and a["num_tokens"] == b["num_tokens"]
        np.testing.assert_allclose([*b.values()], [*a.values()], rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_a_second_run_waits_for_the_first_to_save_itself(whole: Any, tmp_path: Path) -> None:
    """As a job that is started again while its predecessor is still dying."""
    reference, arguments = whole
    out = tmp_path / "run"
    first = kill.started(out, arguments, 5)
    first.send_signal(signal.SIGSTOP)  # it takes its time
    second = kill.start(out, arguments)
    assert second.stdout is not None
    waiting = next((line for line in second.stdout if "waiting up to" in line), "")
    assert f"{out} is written into by process {first.pid} on " in waiting and first.poll() is None
    first.send_signal(signal.SIGTERM)
    said = kill.kill(first, signal.SIGCONT)
    assert first.returncode == 75, said
    said = second.communicate()[0]
    assert second.returncode == 0 and "resumed after" in said, said
    assert kill.differing(reference, out) == []


@pytest.mark.long
def test_a_disk_that_is_full_leaves_the_checkpoints_before(whole: Any, tmp_path: Path) -> None:
    """No file may grow beyond 24 kB: the arrays of the state do not fit, as on a full disk."""
    reference, arguments = whole
    out = tmp_path / "run"
    kill.kill_in_checkpoint(out, arguments)
    process = kill.start(out, arguments)
    while process.poll() is None and len([p for p in (out / "checkpoints").glob("*") if p.name.isdigit()]) < 2:
        time.sleep(0.001)
    kill.kill(process)
    there = sorted(int(p.name) for p in (out / "checkpoints").glob("*") if p.name.isdigit())
    process = kill.start(out, arguments, file_size=24)
    said = process.communicate()[0]
    assert process.returncode == 1, said
    # Not at the start of a line: a thread of the writer may be in the middle of one.
    assert "python -m tpu train: failed: the checkpoint of step " in said
    assert "could not be written into" in said and f"the one of step {there[-1]} is whole" in said
    kill.finish(out, arguments)
    assert kill.differing(reference, out) == []


@pytest.mark.long
def test_a_run_is_not_resumed_as_another(whole: Any, tmp_path: Path, capsys: Any) -> None:
    from tpu.cli import main

    reference, arguments = whole
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    base = ["train", *arguments, "--out", str(out), "--json"]
    assert main(base) == 2
    assert f"--out {out} holds a run; go on with it by --resume, delete it by --overwrite" in capsys.readouterr().err
    for change, says in (
        (["--beta", "0.2"], "hyperparameters.beta was 0.1 and is now 0.2"),
        (["--lr", "0.002"], "lr was 0.001 and is now 0.002"),
        (["--seed", "1"], "seed was 0 and is now 1"),
        (["--method", "ipo"], "method was 'dpo' and is now 'ipo'"),
        (["--model", "tiny"], "model was "),
    ):
        assert main([*base, "--resume", *change]) == 2, change
        assert says in capsys.readouterr().err
    assert main([*base, "--resume", "--steps", "39"]) == 2
    assert "--steps 39 is fewer than the 40 updates" in capsys.readouterr().err
    assert kill.differing(reference, out) == []
    # More steps, by the settings that are there.
    assert main(["train", "--out", str(out), "--resume", "--steps", "42", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 42
    lines = (out / "metrics.jsonl").read_bytes().splitlines()
    assert lines[:40] == (reference / "metrics.jsonl").read_bytes().splitlines() and len(lines) == 42
    assert json.loads((out / "model" / "trained.json").read_text()) == {"steps": 42}
