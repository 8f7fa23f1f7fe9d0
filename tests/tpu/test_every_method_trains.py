"""Every method of the registry, and the two tasks beside them, trains the tiny model: online on prompts, and offline
where a file can feed it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import alignjax
from tpu.cli import main
from tpu.tasks import TASKS

pytestmark = pytest.mark.long
EXAMPLES = Path(__file__).resolve().parents[2] / "tpu" / "examples"
STEPS = 3


def of_files(name: str) -> bool:
    """Its own law is that of the data, and a file can feed it."""
    method = alignjax.methods[name]
    return method.sampler is alignjax.laws.data and "reward" not in method.feedback


OFFLINE = sorted({*filter(of_files, alignjax.methods), "nash_md_pg", "inpo", "mnpo"})
ONLINE = sorted({*alignjax.methods} - {*filter(of_files, alignjax.methods)} | {"dpo"})


def trained(name: str, out: Path, *more: str) -> list[dict[str, float]]:
    """The metrics of a run; its weights have moved from those of its own start."""
    arguments = ["--method", name, "--model", "tiny", "--steps", str(STEPS), "--batch", "8", "--out", str(out), *more]
    assert main(["train", *arguments, "--json"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert all(math.isfinite(row["loss"]) for row in rows) and rows[0]["grad_norm"] > 0, name
    return rows


@pytest.mark.parametrize("name", ONLINE)
def test_online(name: str, tmp_path: Path) -> None:
    data = "pairs.jsonl" if name == "spin" else "prompts.jsonl"
    reward = ["length", "brevity"] if name == "pama" else ["tpu.examples.rewards:letters"]
    rows = trained(
        name, tmp_path, "--data", str(EXAMPLES / data), "--reward", *reward, "--max-new-tokens", "8",
        "--max-length", "160", "--num-responses", str(alignjax.methods[name].num_responses or 2), "--pool-size", "4",
    )  # fmt: skip
    assert 1 <= rows[0]["completions/mean_length"] <= 8 or name == "spin"


@pytest.mark.parametrize("name", OFFLINE)
def test_offline(name: str, tmp_path: Path) -> None:
    pairs = not {"reward", "win_rate", "preference"} & set(alignjax.methods[name].reads)
    file = "pairs.jsonl" if pairs and alignjax.methods[name].num_responses == 2 else "sampled.jsonl"
    rows = trained(name, tmp_path, "--data", str(EXAMPLES / file))
    if name == "dpo":
        np.testing.assert_allclose(rows[0]["loss"], math.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_tasks(name: str, tmp_path: Path) -> None:
    file = "messages.jsonl" if name == "sft" else "pairs.jsonl"
    rows = trained(name, tmp_path, "--data", str(EXAMPLES / file))
    assert rows[-1]["loss"] < rows[0]["loss"]
