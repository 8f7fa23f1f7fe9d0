"""`python -m tpu` in process: exit statuses, what is written, and messages that name the argument."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import alignjax
from alignjax import lm
from tpu.cli import main
from tpu.examples.generate import contents

EXAMPLES = Path(__file__).resolve().parents[2] / "tpu" / "examples"
PAIRS, SAMPLED = str(EXAMPLES / "pairs.jsonl"), str(EXAMPLES / "sampled.jsonl")


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One layer under the name of the preset, and a folder of its own."""
    small = lm.DecoderConfig(d_model=16, d_mlp=16, num_layers=1, num_heads=2, max_length=64)
    monkeypatch.setattr("alignjax.lm.config.PRESETS", {"tiny": small})
    monkeypatch.chdir(tmp_path)


def test_alone_it_lists_what_there_is(capsys: Any) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("train", *alignjax.methods)) and "tiny" in text
    assert main(["--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"commands", "models", "methods"}


def test_help_has_a_flag_for_every_hyperparameter(capsys: Any) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    names = {name for method in alignjax.methods.values() for name in method.defaults}
    assert names and all(f"--{name.replace('_', '-')} " in text for name in names)


@pytest.mark.slow
def test_a_run_writes_its_config_metrics_and_parameters(capsys: Any, tmp_path: Path) -> None:
    import orbax.checkpoint

    arguments = ["train", "--method", "dpo", "--data", PAIRS, "--steps", "3", "--mesh", "data=2", "--beta", "0.2"]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.err == ""
    assert (summary["method"], summary["steps"], summary["out"]) == ("dpo", 3, "out/train-dpo")
    rows = [json.loads(line) for line in (tmp_path / "out/train-dpo/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert summary["first_loss"] == rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert summary["final_loss"] == rows[-1]["loss"] and summary["seconds"] > 0
    assert {"loss", "grad_norm", "logps/chosen", "logps/rejected", "rewards/accuracies", "rewards/chosen",
            "rewards/margins", "rewards/rejected", "step"} == set(rows[0])  # fmt: skip
    config = json.loads((tmp_path / "out/train-dpo/config.json").read_text())
    assert config["hyperparameters"] == {"beta": 0.2} and config["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        start = lm.init(lm.preset("tiny"), jax.random.key(0))
        saved = checkpointer.restore(tmp_path / "out/train-dpo/params", start)
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), start, saved)
    assert 1e-4 < max(jax.tree.leaves(moved)) < 1e-2  # three steps of Adam at 0.001
    assert main([*arguments]) == 0  # again, into the same folder
    assert "dpo: 3 steps in" in capsys.readouterr().out


@pytest.mark.slow
def test_hyphens_are_underscores_and_sampled_pairs_train(capsys: Any) -> None:
    arguments = ["train", "--method", "nash-md-pg-token", "--data", SAMPLED, "--steps", "2", "--mesh", "data=1"]
    assert main([*arguments, "--out", "here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "nash_md_pg_token"
    assert len(Path("here/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_fails_the_run(capsys: Any) -> None:
    arguments = ["train", "--method", "dpo", "--data", PAIRS, "--steps", "9", "--mesh", "data=1", "--lr", "1e38"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "failed: " in captured.err and " at step 1; a smaller --lr may help" in captured.err
    assert captured.out == "" and "Traceback" not in captured.err
    rows = [json.loads(line) for line in Path("out/train-dpo/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and rows[0]["loss"] is not None and None in rows[1].values()
    assert not Path("out/train-dpo/params").exists()


DPO = ["train", "--method", "dpo", "--data", PAIRS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], "unknown command 'tarin'; did you mean 'train'"),
        (["train"], "the following arguments are required: --method, --data"),
        (["train", "--method", "dpoo", "--data", PAIRS], "unknown method 'dpoo'; did you mean 'dpo'"),
        (["train", "--method", "nash_md_pg", "--data", PAIRS], "the data lack the column 'preference'"),
        (["train", "--method", "dpo", "--data", "none.jsonl"], "--data none.jsonl: No such file"),
        (["train", "--method", "dpo", "--data", "."], "--data .: Is a directory"),
        (["train", "--method", "dpo", "--data", "bad.jsonl"], "--data bad.jsonl, line 2: not JSON"),
        ([*DPO, "--model", "tny"], "unknown model 'tny'; did you mean 'tiny'"),
        ([*DPO, "--beta", "0"], "beta must be a finite number > 0, got 0"),
        ([*DPO, "--beta", "x"], "argument --beta: must be a number, got 'x'"),
        ([*DPO, "--clip-range", "0.1"], "dpo has no hyperparameter 'clip_range' (it has: beta)"),
        (["train", "--method", "f_dpo", "--data", PAIRS, "--divergence", "reverse-kll"], "'reverse-kll'"),
        (["train", "--method", "nash_md_pg", "--data", SAMPLED, "--mixture", "0.5"], "mixture belongs to a law"),
        ([*DPO, "--bta", "1"], "unrecognized arguments: --bta"),
        ([*DPO, "--steps", "0"], "argument --steps: must be an integer >= 1, got '0'"),
        ([*DPO, "--lr", "nan"], "argument --lr: must be a finite number > 0, got 'nan'"),
        ([*DPO, "--batch", "6", "--mesh", "data=4"], "--batch 6 does not fit --mesh: tokens: axis 'prompt' of size 6"),
        ([*DPO, "--batch", "60"], "--batch 60 is more than the 48 rows of --data"),
        ([*DPO, "--mesh", "data=16"], "--mesh: mesh data=16 needs 16 devices, but there are 8"),
        ([*DPO, "--mesh", "tensor=4"], "--model tiny does not fit --mesh: "),
        ([*DPO, "--max-length", "65"], "--max-length 65 is more than the 64 that tiny takes"),
        ([*DPO, "--max-length", "9"], "--data " + PAIRS + ", line 1: 'prompt' has"),
        ([*DPO, "--out", "bad.jsonl"], "--out bad.jsonl: File exists"),
        ([*DPO, "--out", "bad.jsonl/deeper"], "--out bad.jsonl/deeper: Not a directory"),
    ],
)
def test_what_cannot_start_says_why(capsys: Any, arguments: list[str], message: str) -> None:
    good = Path(PAIRS).read_text().splitlines()[0]
    Path("bad.jsonl").write_text(f"{good}\nnonsense\n")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert not Path("out").exists()


@pytest.mark.slow
def test_cut_responses_are_told(capsys: Any) -> None:
    assert main([*DPO, "--max-length", "48", "--steps", "1", "--mesh", "data=1", "--json"]) == 0
    captured = capsys.readouterr()
    cut = json.loads(captured.out)["truncated"]
    assert cut > 0 and f"warning: {cut} of 96 responses were cut at max_length = 48" in captured.err


def test_the_example_files_are_what_their_generator_writes() -> None:
    for name, text in contents().items():
        assert (EXAMPLES / name).read_text(encoding="utf-8") == text
