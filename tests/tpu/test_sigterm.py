"""SIGTERM before a run has begun to train: it ends at once, with the status on which it is started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tpu.processes import ROOT, free_port

RESTART = 75
# As a compiler does, this neither runs Python nor can be interrupted: a mutex that nobody unlocks.
STUCK = "lock = ctypes.CDLL(None).pthread_mutex_lock; mutex = ctypes.create_string_buffer(64); lock(mutex); lock(mutex)"
RUN = f"""
import ctypes, os, sys
from tpu import distributed

def work():
    print("assembling", flush=True)
    {STUCK}

coordinator, number, mine = sys.argv[1:]
several = {{"coordinator": coordinator, "num_processes": int(number), "process_id": int(mine), "lost_after": 5}}
print("started", flush=True)
sys.exit(distributed.run(distributed.Processes(**(several if coordinator else {{}})), work))
"""
LOADING = """
import os, runpy, signal, sys, types

class Loading(types.ModuleType):
    def __getattr__(self, name):
        os.kill(os.getpid(), signal.SIGTERM)

sys.modules["tpu.cli"] = Loading("tpu.cli")
sys.argv = ["tpu", "train"]
runpy.run_module("tpu", run_name="__main__")
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are gone at the end, with their children."""
    there: list[subprocess.Popen[str]] = []
    yield there
    for process in there:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start(there: list[subprocess.Popen[str]], program: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    there.append(process)
    return process


def until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def handled(process: int) -> bool:
    """Whether it has a handler of its own for SIGTERM."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_while_it_is_loaded(started: list[subprocess.Popen[str]]) -> None:
    process = start(started, LOADING)
    assert process.wait(120) == RESTART


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_while_it_is_put_together_or_waits_for_the_others(started: list[subprocess.Popen[str]]) -> None:
    """One alone; one of two whose other does not come; one of two that are both there, which the other notices."""
    alone = start(started, RUN, "", "1", "0")
    waits = start(started, RUN, f"127.0.0.1:{free_port()}", "2", "0")
    together = f"127.0.0.1:{free_port()}"
    two = [start(started, RUN, together, "2", str(i)) for i in range(2)]
    for process in (alone, *two):
        until(process, "assembling")
    until(waits, "started")
    while waits.poll() is None and not handled(waits.pid):
        time.sleep(0.05)
    for process in (alone, waits, two[1]):
        process.send_signal(signal.SIGTERM)
    for process in (alone, waits, two[1]):
        said = process.communicate(timeout=60)[1]
        assert process.returncode == RESTART and "stopped by SIGTERM before it began to train" in said, said
    said = two[0].communicate(timeout=120)[1]
    assert two[0].returncode == RESTART and "another process of the run was lost" in said, said
