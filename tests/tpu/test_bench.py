"""`python -m tpu bench`: the arithmetic of its tables, its rivals, and that what cannot be measured says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import alignjax
from alignjax import lm
from alignjax.lm import fused
from tpu.benching import accelerator, generation, memory, overhead, work
from tpu.benching.race import Line, Machine, NotMeasured, Rival, rate_lines, take_turns
from tpu.cli import main
from tpu.commands.bench import page, table

CONFIG = lm.DecoderConfig(
    vocab_size=300, d_model=16, d_mlp=24, num_layers=2, num_heads=4, num_kv_heads=2, max_length=64
)
SIZE = work.Size(CONFIG, pairs=3, length=20)


def interpreter(folder: Path, body: str) -> str:
    """A program that is called as an interpreter and does what `body`, of shell, says."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    run = lambda name: lambda: calls.append(name) or {"seconds": float(len(calls)), "cpu": 1.0, "tokens": 12}
    told = take_turns({"a": run("a"), "b": run("b")}, 2)
    assert "".join(calls) == "ababab"
    assert [one["seconds"] for one in told["a"]] == [3.0, 5.0] and [one["seconds"] for one in told["b"]] == [4.0, 6.0]


def test_rates_and_ratios() -> None:
    """Ours: 100, 50 and 25 tokens a second; theirs 10, twice the processor time for half the tokens."""
    ours = [{"seconds": s, "cpu": 2.0, "tokens": 100} for s in (1.0, 2.0, 4.0)]
    theirs = [{"seconds": 5.0, "cpu": 4.0, "tokens": 50}]
    us, them = rate_lines("w", {"us": ours, "them": theirs}, "us", limit=80.0, aim=">= 3", notes={"them": "v1"})
    assert (us.value, us.low, us.high, us.limit, us.ratio, us.aim) == (50.0, 25.0, 100.0, 80.0, None, "")
    assert (them.value, them.ratio, them.limit, them.aim, them.note) == (10.0, 5.0, None, ">= 3", "v1")
    assert them.more == {"cpu_seconds_per_1000_tokens": 80.0, "ratio_of_cpu_seconds": 4.0}


def test_a_rival_answers_in_another_interpreter(tmp_path: Path) -> None:
    ready = """echo '{"ready": true, "versions": {"torch": "9"}}'"""
    answer = """echo '{"seconds": 2.0, "cpu": 3.0, "tokens": 10}'"""
    rival = Rival(interpreter(tmp_path, f"{ready}\nwhile read line; do {answer}; done"), {"task": "dpo"}, ())
    try:
        assert rival.versions == {"torch": "9"}
        assert [rival(), rival()] == [{"seconds": 2.0, "cpu": 3.0, "tokens": 10}] * 2
    finally:
        rival.close()
    with pytest.raises(NotMeasured, match="no module of that name"):
        Rival(interpreter(tmp_path, "echo first >&2; echo 'no module of that name' >&2; exit 1"), {}, ())
    dies = Rival(interpreter(tmp_path, f"{ready}\nread line\necho 'out of memory' >&2"), {}, ())
    with pytest.raises(NotMeasured, match="out of memory"):
        dies()
    dies.close()
    with pytest.raises(NotMeasured, match="No such file"):
        Rival(str(tmp_path / "absent"), {}, ())
    with pytest.raises(NotMeasured, match="no_such_package_here are not installed"):
        Rival(None, {}, ("no_such_package_here",))


def test_operations_are_counted_as_by_hand() -> None:
    """Width 16, two layers: q 16 x 16, k and v 16 x 8, out 16 x 16, three of 16 x 24 for the MLP, and two norms of 16;
    a norm at the end.
    """
    each = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24 + 2 * 16
    assert work.weights(CONFIG) == 2 * each + 16
    tokens = 2 * 3 * 20
    assert SIZE.tokens == tokens
    attention = tokens * (20 / 2) * 2 * 2 * 16 * 2  # half of the keys, two products, 16 wide, two layers
    wanted = 4 * (2 * tokens * work.weights(CONFIG) + 2 * 55 * 300 * 16 + attention)
    assert work.flops(SIZE, 55, 4) == wanted
    # Two prompts of 10 tokens: float32 weights and the keys and values of 8 a layer are read once a step.
    read = 4 * (work.weights(CONFIG) + 300 * 16 + 2 * 2 * 10 * 2 * 8)
    fast = Machine(flops=1e30, bytes=1e6)
    np.testing.assert_allclose(generation.limit(CONFIG, 2, 10, fast), 2 / (read / 1e6))
    np.testing.assert_allclose(
        generation.limit(CONFIG, 2, 10, Machine(flops=1e6, bytes=1e30)), 1e6 / 2 / (work.weights(CONFIG) + 300 * 16)
    )


def test_texts_are_as_long_as_they_say(tmp_path: Path) -> None:
    batch, rows = work.batch(SIZE, tmp_path)
    assert batch["tokens"].shape == (3, 2, 20) and batch["attention_mask"].all() and len(rows) == 3
    assert batch["loss_mask"].sum(-1).tolist() == [[10, 10]] * 3


@pytest.mark.slow
def test_every_method_finds_what_it_reads() -> None:
    for name, method in alignjax.methods.items():
        both, arrays = overhead.program(name, 2, 4)
        (loss, _), gradient = jax.eval_shape(both, *arrays)
        assert loss.shape == () and gradient.shape == (2, method.group_size(None), 4), name


@pytest.mark.slow
def test_memory_is_read_from_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain formula keeps at least one array of all logits; ours at most a few chunks and what is as large as W."""
    monkeypatch.setattr(fused, "LOGITS_AT_ONCE", 2**14)
    need = lambda score, vocab: memory.mebibytes(score, 2, 64, 8, vocab)
    for vocab in (2_048, 8_192):
        logits, matrix = 2 * 64 * vocab * 4 / 2**20, vocab * 8 * 4 / 2**20
        assert need(memory.plain, vocab) >= logits
        assert need(fused.target_logps, vocab) <= 4 * 2**16 / 2**20 + 4 * matrix < logits


@pytest.mark.long
def test_the_share_of_a_peak() -> None:
    """A peak a million times lower is a share a million times higher, but for the clock."""
    small = work.Size(CONFIG, 1, 20)
    params = lm.init(CONFIG, jax.random.key(0))
    line = accelerator.share(small, "dpo", params, 1e9, 1)
    needed = work.flops(small, 20, 4)
    assert line.value is not None and 0 < line.value and line.unit == "% of peak"
    seconds = needed / (line.value / 100 * 1e9)
    assert 1e-5 < seconds < 10


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["bench", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_what_is_not_measured_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, report = run(capsys, "gpu", "--quick", "--out", str(tmp_path / "bench.md"))
    assert status == 0 and report["machine"]["flops"] > 1e8 and report["machine"]["bytes_per_second"] > 1e7
    assert [line["who"] for line in report["lines"]] == ["dpo", "copg", "alignjax"]
    for line in report["lines"]:
        assert "value" not in line and line["note"] == "not measured: no GPU or TPU here"
    text = (tmp_path / "bench.md").read_text()
    assert "| dpo | - |" in text and "not measured: no GPU or TPU here" in text and report["date"] in text
    assert main(["bench", "memry"]) == 2
    assert "unknown benchmark 'memry'; did you mean 'memory'" in capsys.readouterr().err


def test_tables() -> None:
    lines = [
        Line(what="w", who="alignjax", value=1234.5, unit="tokens/s", low=0.5, high=2.0, limit=9e4),
        Line(what="w", who="theirs", value=12.0, unit="tokens/s", ratio=102.9, aim=">= 3", note="v1",
             more={"ratio_of_cpu_seconds": 7.0}),
    ]  # fmt: skip
    text = table(lines)
    assert text[1] == "w" and "1,234 tokens/s" in text[3] and "0.5 to 2" in text[3] and "90,000" in text[3]
    assert "102.90x (7.00x by CPU time)" in text[4] and text[4].endswith("v1")
    machine = {"processor": "P", "cores": 2, "devices": ["cpu"], "flops": 1e9, "bytes_per_second": 2e9}
    rows = [{"benchmark": "dpo", **line.as_json()} for line in lines]
    report = {"repeats": 3, "date": "D", "machine": machine, "versions": {"jax": "1"}, "lines": rows}
    assert page(report).count("## dpo: w") == 1 and "| theirs | 12 tokens/s |" in page(report)


@pytest.mark.slow
def test_the_quick_step_of_dpo_runs_beside_a_rival(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    python = interpreter(tmp_path, "echo 'no torch' >&2; exit 1")
    status, report = run(capsys, "dpo", "--quick", "--repeats", "1", "--trl-python", python)
    ours, theirs = report["lines"]
    assert status == 0 and ours["value"] > 0 and ours["limit"] > 0 and report["quick"]
    assert theirs["note"] == "not measured: no torch" and "value" not in theirs


@pytest.mark.slow
def test_the_quick_generation_runs_beside_a_rival(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = """echo '{"ready": true, "versions": {"torch": "9", "transformers": "8"}}'"""
    answer = """echo '{"seconds": 1e9, "cpu": 3.0, "tokens": 10}'"""
    python = interpreter(tmp_path, f"{said}\nwhile read line; do {answer}; done")
    status, report = run(capsys, "generate", "--quick", "--repeats", "1", "--trl-python", python)
    ours, theirs = report["lines"]
    assert status == 0 and ours["value"] > 0 and theirs["ratio"] > 1e6 and theirs["note"] == "torch 9, transformers 8"
