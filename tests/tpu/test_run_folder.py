"""One run at a time writes into a folder: held while it runs, let go of however it ends, waited for, and named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tpu.test_loop import Killed, killed_after, run
from tpu import loop, run_folder
from tpu.arguments import UsageError

OTHER = """
import fcntl, os, sys
with open(sys.argv[1], "a") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("held", flush=True)
        sys.exit()
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), f"process {os.getpid()} on elsewhere".encode())
    print("mine", flush=True)
    sys.stdin.read()
"""


class Other:
    """Another process that asks for the lock of a folder, by `fcntl` alone, and keeps it until it is killed."""

    def __init__(self, out: Path) -> None:
        command = [sys.executable, "-S", "-c", OTHER, str(out / ".lock")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.says = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_run_holds_its_folder_until_it_ends(tmp_path: Path) -> None:
    seen: list[Any] = []

    def ask(row: Any) -> None:
        if row["step"] in (0, 3):
            other = Other(tmp_path)
            other.kill()
            seen.append(other.says)

    with run_folder.held(tmp_path):  # as the command does, which looks into the folder first
        loop.train(run(tmp_path, 4, eval_every=0), on_step=ask)
        other = Other(tmp_path)
        other.kill()
        seen.append(other.says)
    assert seen == ["held"] * 3
    with pytest.raises(Killed):
        loop.train(run(tmp_path, 6, eval_every=0), resume=True, on_step=killed_after(0))
    other = Other(tmp_path)
    other.kill()
    assert other.says == "mine"


def test_a_second_run_is_refused_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(run_folder, "WAIT", 0.3)
    unfinished = tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    other = Other(tmp_path)
    try:
        holder = f"process {other.process.pid} on elsewhere"
        with pytest.raises(UsageError, match=f"--out {tmp_path} is written into by {holder}: stop that run"):
            loop.train(run(tmp_path), resume=True)
    finally:
        other.kill()
    assert f"{holder}; waiting up to 0.3 s" in capsys.readouterr().err
    assert unfinished.is_dir() and sorted(p.name for p in tmp_path.iterdir()) == [".lock", "checkpoints"]


def test_a_run_waits_for_one_that_is_dying(tmp_path: Path) -> None:
    """What a killed process wrote into the file stays, and does no harm."""
    other = Other(tmp_path)
    assert other.says == "mine"
    dies = threading.Timer(0.5, other.kill)
    dies.start()
    with run_folder.held(tmp_path):
        assert other.process.poll() is not None
        assert "elsewhere" not in (tmp_path / ".lock").read_text()
    dies.join()
    with run_folder.held(tmp_path):
        pass


def test_where_nothing_can_be_locked_the_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refused(*asked: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_folder.fcntl, "lockf", refused)
    loop.train(run(tmp_path, 2, eval_every=0))
    assert "cannot be locked (Function not implemented): see that no other run" in capsys.readouterr().err
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 1
