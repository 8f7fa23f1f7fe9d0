"""docs/pods.md and the README's commands: each is parsed here, and those of `launch` are run."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from papers.cli import _parser as papers_parser
from theory.__main__ import _add_check
from tpu.cli import main, parser

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
    written = {"job/jobset.yaml", "job/xpk.sh", "slurm-job/alignjax.sbatch", "hosts-job/alignjax.sh"}
    assert all((tmp_path / name).exists() for name in written)  # what the other commands name


def test_so_are_those_of_the_readme(capsys: Any) -> None:
    ours = [line for line in commands(ROOT / "README.md") if line.startswith("python -m tpu ")]
    done = [check_command(line) for line in ours if "DIR" not in line]
    assert {"tpu plan", "tpu launch", "tpu train", "tpu eval", "tpu generate"} <= set(done)
