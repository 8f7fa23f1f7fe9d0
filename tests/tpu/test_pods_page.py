"""docs/pods.md and the README's commands: each is parsed here, and those of `launch` are run."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from papers.cli import _parser as papers_parser
from tests.tpu.processes import free_port
from theory.__main__ import _add_check
from tpu import layouts
from tpu.cli import main, parser
from tpu.launch.machines import slice_of
from tpu.launch.train import settings_of
from tpu.plan import work
from tpu.plan.chips import CHIPS, parse_topology
from tpu.plan.program import Request, read_request
from tpu.run_config import Settings

ROOT = Path(__file__).resolve().parents[2]


def check_parser() -> argparse.ArgumentParser:
    """That of `theory check`."""
    made = argparse.ArgumentParser()
    _add_check(made)
    return made


def commands(page: Path) -> list[str]:
    """The lines of its shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def check_command(line: str) -> str:
    """Does what can be done of it here; the program and its subcommand."""
    words = shlex.split(line, comments=True)
    if words[0] == "for":  # the processes of one machine; they are run below
        words = words[words.index("python") : words.index("&")]
        parser().parse_args([word.replace("$i", "1") for word in words[3:]])
        return "for"
    if words[:3] == ["python", "-m", "tpu"]:
        if words[3] == "launch":
            assert main(words[3:]) == 0, line
        else:
            parser().parse_args(words[3:])
        return f"tpu {words[3]}"
    if words[:2] == ["python", "-m"]:  # papers, theory: they have the flag and the device count here is 8
        assert "--devices" in line and words[2] in ("papers", "theory")
        given = words[3:] if words[2] == "papers" else words[4:]
        (papers_parser() if words[2] == "papers" else check_parser()).parse_args(given)
        return f"{words[2]} --devices"
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {word[2:-1] for word in words if word.startswith(".[")}
        assert named <= set(extras) and (ROOT / "constraints.txt").exists()
    elif words[0] == "make":
        made = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{word}:", made, flags=re.MULTILINE) for word in words[1:])
    else:
        assert "not run here" in line, f"neither checked nor marked: {line}"
    return words[0]


def test_the_commands_of_the_page_are_what_the_programs_take(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = [check_command(line) for line in commands(ROOT / "docs" / "pods.md")]
    assert done.count("tpu launch") == 5 and {"tpu plan", "pip", "kubectl", "sbatch", "bash"} <= set(done)
    written = {"job/jobset.yaml", "bucket-job/xpk.sh", "slurm-job/alignjax.sbatch", "hosts-job/alignjax.sh"}
    assert all((tmp_path / name).exists() for name in written)  # what the other commands name


def test_so_are_those_of_the_readme(capsys: Any) -> None:
    ours = [line for line in commands(ROOT / "README.md") if line.startswith("python -m tpu ")]
    done = [check_command(line) for line in ours if "DIR" not in line]
    assert {"tpu plan", "tpu launch", "tpu train", "tpu eval", "tpu generate"} <= set(done)


# --- what the recipes train is what was planned


def recipes(page: str) -> list[tuple[argparse.Namespace, Settings, int]]:
    """The launch flags, the settings and the number of devices of every 8B recipe of a page."""
    found = []
    for line in commands(ROOT / page):
        words = shlex.split(line, comments=True)
        if words[:4] == ["python", "-m", "tpu", "launch"]:
            given = parser().parse_args(words[3:])
            if given.topology:
                there = slice_of(given.topology)
                devices = there.hosts * there.chips
            else:
                devices = (given.nodes or len((given.hosts or "").split(","))) * (given.gpus or given.devices)
            found.append((given, settings_of(given.train, devices), devices))
    return found


def planned(settings: Settings, topology: str) -> Request:
    """What a plan of this training would be asked: nothing is filled in but what `train` fills in."""
    assert Path(settings.model).name == "llama3-8b"
    return Request(
        model="llama3-8b", topology=topology, method=settings.method, batch=settings.batch,
        seq=settings.max_length or read_request(Request(model="llama3-8b", topology=topology)).config.max_length,
        mesh=settings.mesh, remat=settings.remat, accumulate=settings.accumulate, optimizer=settings.optimizer,
        dtype=settings.dtype or settings.param_dtype, param_dtype=settings.param_dtype,
        reference_dtype=settings.reference_dtype or settings.param_dtype, history=settings.history,
    )  # fmt: skip


def peak(request: Request, devices: int) -> float:
    """Bytes of a chip, counted by hand."""
    job, sizes = read_request(request), layouts.sizes_of(request.mesh, devices)
    return work.argument_bytes(job, work.ways(sizes)) + work.temp_bytes(job, sizes)


@pytest.mark.parametrize("page, number", [("README.md", 1), ("docs/pods.md", 5)])
def test_every_recipe_trains_what_a_plan_that_fits_has_planned(page: str, number: int) -> None:
    found = recipes(page)
    assert len(found) == number
    for given, settings, devices in found:
        chip = given.topology and given.topology.partition(":")[0]
        chip = chip or given.chip  # else GPUs, of which JAX takes three quarters; the smallest that trains 8B has 40 GB
        room = CHIPS[chip].usable if chip else 0.75 * 40e9
        request = planned(settings, given.topology or "v5e:4x4")
        assert peak(request, devices) <= room, (given.train, peak(request, devices) / 2**30)
        assert (request.dtype, request.reference_dtype, request.remat) == ("bfloat16", "bfloat16", "full")  # as plans


@pytest.mark.parametrize("page", ["README.md", "docs/pods.md"])
def test_the_first_recipe_is_the_first_plan(page: str) -> None:
    line = next(x for x in commands(ROOT / page) if x.startswith("python -m tpu plan "))
    asked = parser().parse_args(shlex.split(line, comments=True)[3:])
    given, settings, devices = recipes(page)[0]
    assert given.topology == asked.topology and parse_topology(asked.topology).size == devices
    wanted = Request(
        model=asked.model, topology=asked.topology, method=asked.method, batch=asked.batch, seq=asked.seq,
        mesh=asked.mesh or f"fsdp={devices}", remat=asked.remat, accumulate=asked.accumulate,
        optimizer=asked.optimizer, reference_dtype=asked.reference_dtype, history=asked.history,
    )  # fmt: skip
    assert planned(settings, asked.topology) == wanted


def test_what_the_recipes_leave_out_does_not_fit() -> None:
    """So that the count above can fail: float32, no rematerialisation, rows of 8,192 tokens are what `train` takes."""
    given, _, devices = recipes("README.md")[0]
    bare = settings_of([word for word in given.train if word not in FLAGS], devices)
    assert peak(planned(bare, given.topology), devices) > CHIPS["v5e"].usable


FLAGS = ("--max-length", "2048", "--remat", "full", "--dtype", "--reference-dtype", "bfloat16")


@pytest.mark.long
def test_two_processes_on_one_machine(tmp_path: Path) -> None:
    """The command of the page as it is written, with a port and a folder of its own; and the same in one process."""
    (line,) = [x for x in commands(ROOT / "docs" / "pods.md") if x.startswith("for ")]
    line = line.replace("localhost:8476", f"localhost:{free_port()}").replace("python", shlex.quote(sys.executable), 1)
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    run = lambda text: subprocess.run(
        ["bash", "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    losses = []
    for name, text in {
        "two": line,
        "one": f"i=0; {line[line.index('JAX_PLATFORMS') : line.index(' --coordinator')]}",
    }.items():
        ran = run(text.replace("--out out/two", f"--out {tmp_path / name}"))
        assert (tmp_path / name / "model").is_dir(), ran.stderr
        losses.append([json.loads(x)["loss"] for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    assert len(losses[0]) == 20 and losses[0] == pytest.approx(losses[1], rel=1e-4)
