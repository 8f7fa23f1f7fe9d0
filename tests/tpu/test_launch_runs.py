"""Real runs of two processes that the recipes of `tpu launch` start, stopped in the midst, started again by them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.tpu import standins
from tests.tpu.kill import rows, small_model
from tests.tpu.processes import free_port
from tests.tpu.standins import Pods, end, install, wait_for
from tpu.cli import main

pytestmark = pytest.mark.long
PAIRS = str(standins.ROOT / "tpu" / "examples" / "pairs.jsonl")


def launch(capsys: Any, where: list[str], train: list[str]) -> dict[str, Any]:
    """What `launch --json` prints."""
    assert main(["launch", *where, "--json", "--", *train]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of a run that is short, and long enough to be stopped."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device each
    model = small_model(tmp_path / "model")
    return [
        "--method", "dpo", "--model", str(model), "--data", PAIRS, "--steps", "100", "--batch", "4", "--lr", "0.001",
        "--no-checks", "--out", str(tmp_path / "out"), "--lost-after", "60",
    ]  # fmt: skip


def check_whole(out: Path, stopped: int) -> None:
    """It was stopped before the end, and every step stands once."""
    assert 0 < stopped < 100
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(range(100))
    assert (out / "model" / "model.safetensors").exists()


def test_two_hosts_over_ssh_and_one_is_preempted(run: list[str], capsys: Any, tmp_path: Path) -> None:
    where = ["--on", "hosts", "--hosts", "localhost,127.0.0.1", "--devices", "1", "--port", str(free_port())]
    found = launch(capsys, [*where, "--directory", str(tmp_path), "--python", sys.executable], run)
    script, out, said = tmp_path / "alignjax.sh", tmp_path / "out", tmp_path / "said"
    script.write_text(found["files"]["alignjax.sh"])
    with said.open("w") as file:
        process = subprocess.Popen(
            ["bash", script], cwd=tmp_path, env=install(tmp_path / "bin"), stderr=file, start_new_session=True
        )
    try:
        wait_for(lambda: rows(out) >= 2, process)
        os.kill(int((tmp_path / "alignjax-logs" / "1.pid").read_text()), signal.SIGTERM)
        wait_for(lambda: "start 1: 2 processes" in said.read_text(), process)
        stopped = rows(out)
        assert process.wait(300) == 0, said.read_text()
    finally:
        end(process)
    assert "status 75; started again" in said.read_text()
    check_whole(out, stopped)


def test_two_slurm_tasks_and_the_time_is_over(run: list[str], capsys: Any, tmp_path: Path) -> None:
    found = launch(
        capsys,
        ["--on", "slurm", "--nodes", "2", "--gpus", "1", "--directory", str(tmp_path), "--python", sys.executable],
        run,
    )
    (tmp_path / "run.sbatch").write_text(found["files"]["alignjax.sbatch"])
    # JAX takes the port 61440 + id mod 4096 in Slurm.
    environment = install(tmp_path / "bin") | {"TASKS": "2", "SLURM_JOB_ID": str(free_port() % 4096)}
    out, log = tmp_path / "out", (tmp_path / "log").open("a")
    command = ["bash", str(tmp_path / "run.sbatch")]
    start = lambda: subprocess.Popen(command, env=environment, stderr=log, stdout=log, start_new_session=True)
    process = start()
    try:
        wait_for(lambda: rows(out) >= 2, process)
        for task in (0, 1):  # --signal reaches the tasks
            os.kill(int((tmp_path / "bin" / f"task{task}").read_text()), signal.SIGTERM)
        assert process.wait(300) == 75, (tmp_path / "log").read_text()
        assert (tmp_path / "bin" / "requeued").read_text().split() == ["requeue", environment["SLURM_JOB_ID"]]
        stopped = rows(out)
        process = start()
        assert process.wait(300) == 0, (tmp_path / "log").read_text()
    finally:
        end(process)
        log.close()
    check_whole(out, stopped)


def test_two_pods_and_one_is_drained(run: list[str], capsys: Any, tmp_path: Path) -> None:
    mounted = ["--on", "gke", "--accelerator", "nvidia-l4", "--nodes", "2", "--gpus", "1", "--image", "x"]
    run = [word.replace(f"{standins.ROOT}/", "") for word in run]  # the image has the example
    found = launch(capsys, [*mounted, "--mount", f"claim:{tmp_path}", "--python", sys.executable], run)
    pods = Pods(yaml.safe_load(found["files"]["jobset.yaml"]), install(tmp_path / "bin"))
    out, log, address = tmp_path / "out", tmp_path / "log", f"127.0.0.1:{free_port()}"
    tell = lambda job, index: {"COORDINATOR": address}  # the pods' names are not resolved here
    started = pods.start(tell, log)
    try:
        wait_for(lambda: rows(out) >= 2, started[0])
        started[1].terminate()
        statuses = [process.wait(300) for process in started]
        assert statuses == [75, 75], log.read_text()
        assert pods.action(statuses[1], disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
        stopped = rows(out)
        started = pods.start(tell, log)
        assert [process.wait(300) for process in started] == [0, 0], log.read_text()
    finally:
        end(*started)
    check_whole(out, stopped)
