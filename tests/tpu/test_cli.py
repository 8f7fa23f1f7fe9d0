"""`python -m tpu` in process: exit statuses, what is written, and messages that name the argument."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import alignjax
from alignjax import lm
from tpu import precompute, rewards
from tpu.arguments import UsageError
from tpu.assembly import assemble
from tpu.cli import main, parser
from tpu.commands.train import expand, settings_of
from tpu.examples.generate import contents
from tpu.fingerprint import fingerprint
from tpu.run_config import Settings, as_yaml

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
    there = json.loads(capsys.readouterr().out)
    assert set(there) == {"commands", "models", "tasks", "methods"} and set(there["tasks"]) == {"sft", "reward_model"}


def test_help_has_a_flag_for_every_hyperparameter(capsys: Any) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    names = {name for method in alignjax.methods.values() for name in method.defaults}
    assert names and all(f"--{name.replace('_', '-')} " in text for name in names)


@pytest.mark.slow
def test_a_run_writes_its_config_metrics_and_model(capsys: Any, tmp_path: Path) -> None:
    arguments = ["train", "--method", "dpo", "--data", PAIRS, "--steps", "3", "--mesh", "data=2", "--beta", "0.2"]
    arguments += ["--eval-every", "2", "--eval-data", PAIRS, "--max-new-tokens", "4", "--eval-prompts", "2"]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.err == ""
    assert (summary["method"], summary["steps"], summary["out"]) == ("dpo", 3, "out/train-dpo")
    assert len(summary["checks"]) == 5 and all(": ok: " in line for line in summary["checks"])
    out = tmp_path / "out/train-dpo"
    read = lambda name: [json.loads(line) for line in (out / name).read_text().splitlines()]
    rows = read("metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in read("timing.jsonl")] == [0, 1, 2]
    assert summary["first_loss"] == rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert summary["final_loss"] == rows[-1]["loss"] and summary["seconds"] > 0
    assert {"grad_norm", "learning_rate", "logps/chosen", "logps/rejected", "loss", "num_tokens", "rewards/accuracies",
            "rewards/chosen", "rewards/margins", "rewards/rejected", "step"} <= set(rows[0])  # fmt: skip
    data = lm.read_preferences(PAIRS, max_length=64)
    assert rows[2]["num_tokens"] < 3 * data.attention_mask.sum((1, 2)).max() * 8
    evaluated = read("eval.jsonl")
    assert [row["step"] for row in evaluated] == [0, 2, 3]  # and at the end
    assert evaluated[0]["eval/loss"] == pytest.approx(np.log(2), rel=1e-5) and evaluated[2]["eval/loss"] < 0.69
    assert [row["step"] for row in read("samples.jsonl")] == [0, 0, 2, 2, 3, 3]
    config = json.loads((out / "config.json").read_text())
    assert config["hyperparameters"] == {"beta": 0.2} and config["mesh"] == {
            "data": 2, "fsdp": 1, "sequence": 1, "tensor": 1,
        }  # fmt: skip
    assert config["versions"]["jax"] == jax.__version__ and len(config["git_commit"]) >= 40
    _, saved = lm.load(out / "model")
    start = lm.init(lm.preset("tiny"), jax.random.key(0))
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), start, saved)
    assert 1e-4 < max(jax.tree.leaves(moved)) < 1e-2  # three steps of Adam at 0.001
    # The metrics of step 2 are of the state after two updates, which the final model is one update from.
    assert main([*arguments]) == 2  # again, into the same folder
    assert "--out out/train-dpo holds a run; go on with it by --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert "dpo: 3 steps in" in capsys.readouterr().out
    # The written settings are the run: the same bytes from them, and flags go before them.
    arguments = ["train", "--config", "out/train-dpo/config.yaml", "--out", "again", "--no-checks", "--eval-every", "0"]
    assert main([*arguments]) == 0
    assert "check" not in capsys.readouterr().out
    assert Path("again/metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()
    assert not Path("again/eval.jsonl").exists()


@pytest.mark.long
def test_hyphens_are_underscores_and_sampled_pairs_train(capsys: Any) -> None:
    arguments = ["train", "--method", "nash-md-pg-token", "--data", SAMPLED, "--steps", "2", "--mesh", "data=1"]
    assert main([*arguments, "--out", "here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "nash_md_pg_token"
    assert len(Path("here/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_fails_the_run_and_can_be_looked_at(capsys: Any) -> None:
    arguments = ["train", "--method", "dpo", "--data", PAIRS, "--steps", "9", "--mesh", "data=1", "--lr", "1e38"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "failed: " in captured.err and " at step 1; a smaller --lr may help" in captured.err
    assert "python -m tpu train --replay out/train-dpo/nan-batch-1.npz" in captured.err
    assert "Traceback" not in captured.err
    rows = [json.loads(line) for line in Path("out/train-dpo/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and rows[0]["loss"] is not None and None in rows[1].values()
    assert not Path("out/train-dpo/model").exists()
    assert main(["train", "--replay", "out/train-dpo/nan-batch-1.npz", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    # Every parameter is of the size of 1e38 and finite, as is the loss; its gradient is not.
    assert len(told["losses"]) == 8 and "embedding" in told["gradients"] and told["parameters"] == []
    assert main(["train", "--replay", "out/train-dpo/nan-batch-2.npz"]) == 2


@pytest.mark.slow
def test_a_first_loss_that_is_no_number_is_kept_for_replay(capsys: Any) -> None:
    """Rewards that float32 holds, and whose differences it does not: no fault of how the batch is split."""
    row = {"prompt": "p", "completions": ["a", "b"], "rewards": [3e38, -3e38]}
    Path("big.jsonl").write_text((json.dumps(row) + "\n") * 8)
    assert main(["train", "--method", "rloo", "--data", "big.jsonl", "--mesh", "data=1", "--steps", "1"]) == 1
    said = capsys.readouterr()
    assert "check accumulation: skipped: the loss of the first batch is" in said.out
    assert " at step 0; " in said.err and Path("out/train-rloo/nan-batch-0.npz").is_file()


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "data", "more"),
    [
        ("sft", "chat.jsonl", []),
        ("reward_model", PAIRS, []),
        ("dpo", PAIRS, ["--lora-rank", "2", "--accumulate", "2", "--schedule", "cosine", "--warmup", "1"]),
        ("rloo", PAIRS, ["--reward", "length", "--max-new-tokens", "4", "--num-responses", "2", "--optimizer", "lion"]),
    ],
)
def test_tasks_adapters_and_online(capsys: Any, method: str, data: str, more: list[str]) -> None:
    rows = [{"prompt": f"Say {n}.", "completion": f"{n}" * (1 + n)} for n in range(8)]
    Path("chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["train", "--method", method, "--data", data, "--steps", "2", "--mesh", "data=1", "--batch", "4", "--json"]
    assert main([*base, "--out", "run", *more]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert not any("FAILED" in line for line in summary["checks"]) and np.isfinite(summary["final_loss"])
    config, params = lm.load("run/model")
    assert config.num_layers == 1
    start = lm.init(lm.preset("tiny"), jax.random.key(0))
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), start, params)
    assert max(jax.tree.leaves(moved)) > 0
    if "--lora-rank" in more:
        assert moved["embedding"] == 0 and moved["layers"]["attention"]["query"] > 0
        rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
        assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-3])  # warm-up, start of the cosine
    if method == "rloo":
        last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
        assert {"reward", "reward_std", "entropy", "completions/mean_length", "completions/clipped_ratio"} <= set(last)
    if method == "reward_model":
        assert Path("run/model/reward_head.safetensors").is_file()


DPO = ["train", "--method", "dpo", "--data", PAIRS]
RLOO = ["train", "--method", "rloo", "--data", PAIRS, "--reward", "length", "--max-new-tokens", "4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], "unknown command 'tarin'; did you mean 'train'"),
        (["train"], "the following arguments are required: --method, --data"),
        (["train", "--method", "dpoo", "--data", PAIRS], "unknown method 'dpoo'; did you mean 'dpo'"),
        (["train", "--method", "nash_md_pg", "--data", PAIRS], "the data lack the column 'preference'"),
        (["train", "--resume", "--out", "nothing"], "--resume: nothing holds no run; to start one give --method and"),
        ([*DPO, "--model", "."], ". has no config.json"),
        (["train", "--method", "grpo", "--data", PAIRS], "the data lack the column 'rewards'; online (--reward or"),
        (["train", "--method", "dop", "--data", PAIRS], "did you mean 'dpo'?"),
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
        (
            [*DPO, "--batch", "6", "--mesh", "data=4"],
            "axis 'prompt' of size 6 cannot be split evenly over data=4 (4 devices); the nearest that fits is",
        ),
        ([*DPO, "--batch", "60"], "--batch 60 is more than the 48 rows of --data"),
        ([*DPO, "--mesh", "data=16"], "--mesh: mesh data=16 needs 16 devices, but there are 8"),
        ([*DPO, "--mesh", "tensor=8"], "--mesh does not fit --model tiny and --batch 8: "),
        ([*DPO, "--max-length", "65"], "--max-length 65 is more than the 64 that tiny takes"),
        ([*DPO, "--max-length", "9"], "48 of 48 rows were left out: their prompt has more than 8 tokens"),
        ([*DPO, "--max-length", "9", "--too-long", "error"], "pairs.jsonl, line 1: "),
        ([*DPO, "--max-grad-norm", "-1"], "argument --max-grad-norm: must be a finite number >= 0, got '-1'"),
        ([*DPO, "--accumulate", "3"], "a batch of 8 prompts cannot be split into accumulate = 3 equal parts"),
        ([*DPO, "--schedule", "cosin"], "argument --schedule: invalid choice: 'cosin'"),
        ([*DPO, "--warmup", "51"], "warmup = 51 is more than the 50 updates there are"),
        ([*DPO, "--optimizer", "sgd", "--weight-decay", "0.1"], "sgd has no weight decay, got weight_decay = 0.1"),
        ([*DPO, "--lora-alpha", "2"], "--lora-alpha is of adapters"),
        ([*DPO, "--lora-rank", "2", "--reference", "."], "with --lora-rank the reference is the model itself"),
        ([*DPO, "--ref-logps", "none.safetensors"], "--ref-logps none.safetensors: No such file"),
        ([*DPO, "--ref-logps", "bad.jsonl"], "--ref-logps: bad.jsonl is no file of python -m tpu logprobs"),
        ([*RLOO, "--top-p", "1.5"], "--top-p must lie in [0, 1], got 1.5"),
        ([*DPO, "--sampler", "policy"], "--sampler is of responses that are drawn and scored (--reward or --judge)"),
        ([*DPO, "--num-responses", "2"], "--num-responses is of responses that are drawn"),
        ([*DPO, "--opponents", "2"], "--opponents is of responses that are drawn"),
        ([*DPO, "--pool-size", "8"], "--pool-size is of responses that are drawn"),
        ([*DPO, "--hard-labels"], "--hard-labels is of responses that are drawn"),
        (["train", "--method", "sft", "--data", PAIRS, "--reference", "tiny"], "--reference: sft has none"),
        (["train", "--method", "reward-model", "--data", PAIRS, "--reference", "tiny"], "reward_model has none"),
        ([*DPO, "--resume", "--overwrite"], "--resume goes on with the run in OUT and --overwrite deletes it"),
        ([*DPO, "--param-dtype", "float64"], "--param-dtype float64: JAX has float32 in its place, unless it is"),
        ([*DPO, "--eval-data", "none.jsonl"], "--eval-data none.jsonl: No such file"),
        ([*DPO, "--eval-data", "bad.jsonl"], "--eval-data bad.jsonl, line 2: not JSON"),
        (["train", "--method", "bond", "--data", PAIRS, "--include-b", "3"], "--include-b: must be true or false, got"),
        ([*DPO, "--judge", "longr"], "did you mean 'longer'"),
        (["train", "--method", "sft", "--data", PAIRS, "--beta", "1"], "sft has no hyperparameters, got beta"),
        (
            ["train", "--method", "rloo", "--data", PAIRS, "--reward", "length", "--max-new-tokens", "64"],
            "--max-new-tokens 64 leaves no room for a prompt in 64 tokens",
        ),
        (["train", "--config", "none.yaml"], "--config none.yaml: No such file"),
        (["train", "--config", "bad.yaml"], "unknown setting in bad.yaml 'bacth'; did you mean 'batch'"),
        (["train", "--config", "bad.jsonl"], "--config bad.jsonl is not YAML: expected"),
        (["train", "--config", "odd.yaml"], "argument --lr: must be a finite number > 0, got 'fast'"),
        (["train", "--replay", "nan-batch-1.npz", *DPO[1:]], "--replay nan-batch-1.npz must be a file RUN/nan-batch-"),
        ([*DPO, "--out", "bad.jsonl"], "--out bad.jsonl: File exists"),
        ([*DPO, "--out", "bad.jsonl/deeper"], "--out bad.jsonl/deeper: Not a directory"),
    ],
)
def test_what_cannot_start_says_why(capsys: Any, arguments: list[str], message: str) -> None:
    good = Path(PAIRS).read_text().splitlines()[0]
    Path("bad.jsonl").write_text(f"{good}\nnonsense\n")
    Path("bad.yaml").write_text("method: dpo\nbacth: 4\n")
    Path("odd.yaml").write_text(f"method: dpo\ndata: {PAIRS}\nlr: fast\n")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert not Path("out").exists()


def test_a_truth_value_is_a_hyperparameter_of_the_command_line_and_of_yaml() -> None:
    read = lambda *words: settings_of(parser().parse_args(["train", *expand(words)]))
    for word, value in (("False", False), ("true", True)):
        asked = read("--method", "bond", "--data", PAIRS, "--include-b", word)
        assert asked.hyper == {"include_b": value}
        Path("run.yaml").write_text(as_yaml(asked))
        assert read("--config", "run.yaml") == asked


def test_cut_responses_are_told(capsys: Any) -> None:
    """Before anything else: this run has too few rows for its batch."""
    assert main([*DPO, "--max-length", "48", "--batch", "60"]) == 2
    cut = int((lm.read_preferences(PAIRS, max_length=96).lengths > 48).sum())
    said = capsys.readouterr().err
    assert "of 96 responses were cut at max_length = 48" in said and cut > 0


def test_the_example_files_are_what_their_generator_writes() -> None:
    for name, text in contents().items():
        assert (EXAMPLES / name).read_text(encoding="utf-8") == text


def test_stored_log_probs_must_be_those_of_the_reference(capsys: Any) -> None:
    """Of the named one as well as of the policy; online nothing of them would be read."""
    other = fingerprint(lm.init(lm.preset("tiny"), jax.random.key(7)))
    zeros = lambda batch: np.zeros(batch["tokens"].shape)
    about = {"model": other, "role": "ref", "name": "tiny"}
    precompute.make("other.safetensors", lm.read_preferences(PAIRS, max_length=64), zeros, about, batch_size=16)
    for more in ([], ["--reference", "tiny"]):
        assert main([*DPO, *more, "--ref-logps", "other.safetensors"]) == 2
        assert "--ref-logps: other.safetensors holds log-probs of another model" in capsys.readouterr().err
    online = ["--reward", "length", "--max-new-tokens", "4", "--ref-logps", "other.safetensors"]
    assert main([*DPO, *online]) == 2
    assert "--ref-logps are of responses in a file; online they are drawn" in capsys.readouterr().err


@pytest.mark.slow
def test_stored_log_probs_take_the_place_of_the_reference(capsys: Any) -> None:
    """The same run, to rounding, and the check of the start on what is stored."""
    base = ["--data", PAIRS, "--mesh", "data=1", "--json"]
    assert main(["logprobs", *base, "--out", "ref.safetensors"]) == 0
    assert main(["logprobs", *base, "--out", "other.safetensors", "--seed", "1"]) == 0
    train = ["train", "--method", "dpo", *base, "--steps", "2", "--beta", "0.5"]
    assert main([*train, "--out", "held"]) == 0
    capsys.readouterr()
    assert main([*train, "--out", "stored", "--ref-logps", "ref.safetensors"]) == 0
    told = json.loads(capsys.readouterr().out)["checks"]
    assert "policy and precomputed reference log-probs agree at step 0" in told[0]
    read = lambda out: [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    for held, stored in zip(read("held"), read("stored"), strict=True):
        assert held.keys() == stored.keys()
        for name in held:
            assert stored[name] == pytest.approx(held[name], rel=1e-4, abs=1e-5), name
    assert read("stored")[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert read("stored")[1]["loss"] != pytest.approx(np.log(2), rel=1e-5)
    assert main([*train, "--out", "wrong", "--ref-logps", "other.safetensors"]) == 2
    assert "holds log-probs of another model" in capsys.readouterr().err
    assert main([*train, "--out", "named", "--reference", "tiny", "--ref-logps", "ref.safetensors"]) == 0
    assert read("named") == read("stored")
    # What is stored is not resumed without.
    assert main([*train, "--out", "stored", "--resume", "--ref-logps", "other.safetensors"]) == 2


def test_prompts_leave_room_beside_responses_of_the_data(capsys: Any) -> None:
    """SPIN, 64 tokens: long responses stay whole beside short drawn ones, and a prompt without room is left out."""
    rows = [{"prompt": f"Q{n}", "chosen": "long " * 11, "rejected": "no"} for n in range(8)]
    rows.append({"prompt": "Q" * 50, "chosen": "short", "rejected": "no"})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(method="spin", data=("rows.jsonl",), mesh="data=1", reward=("length",), max_new_tokens=16)
    parts = assemble(settings).parts
    assert "1 of 9 rows were left out: their prompt has more than 48 tokens" in capsys.readouterr().err
    assert parts.rollout.length == 64 and len(parts.data) == 8
    assert parts.rollout.prompt_texts == tuple(f"Q{n}" for n in range(8))
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    row = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [{"role": "assistant", "content": "no"}]}
    Path("turns.jsonl").write_text((json.dumps(row) + "\n") * 8)
    with pytest.raises(UsageError, match="spin takes its first response from the data, and there others speak within"):
        assemble(dataclasses.replace(settings, data=("turns.jsonl",), max_new_tokens=4))


@pytest.mark.slow
def test_a_reward_is_asked_alike_in_training_and_in_eval(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """About what the user of a conversation said, with the column that it names."""
    rows = [{"prompt": [{"role": "user", "content": f"Say {n}."}], "answer": n} for n in range(4)]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen: dict[str, set[tuple[str, int]]] = {}
    for command, more in (
        ("train", ["--method", "rloo", "--batch", "4", "--steps", "1", "--mesh", "data=1", "--eval-prompts", "0"]),
        ("eval", ["--model", "tiny", "--num-samples", "2"]),
    ):

        def score(prompts: list[str], completions: list[str], answer: list[int], name: str = command) -> list[float]:
            seen.setdefault(name, set()).update(zip(prompts, answer, strict=True))
            return [0.0] * len(completions)

        monkeypatch.setitem(rewards.REWARDS, "length", score)  # type: ignore[arg-type]
        arguments = ["--data", "chats.jsonl", "--reward", "length", "--max-new-tokens", "4", *more]
        assert main([command, *arguments]) == 0, capsys.readouterr().err
    assert seen["train"] == seen["eval"] == {(f"Say {n}.", n) for n in range(4)}


@pytest.mark.slow
def test_a_metric_that_is_none_is_told_before_the_first_update(capsys: Any) -> None:
    """Offline, online and of evaluations; names that there are pass."""
    base = ["--mesh", "data=1", "--out", "here", "--keep-best"]
    for arguments, message in (
        ([*DPO, *base, "rewards/accuracy"], "did you mean 'rewards/accuracies'"),
        ([*DPO, *base, "eval/loss"], "unknown metric (--keep-best) 'eval/loss'"),  # nothing is evaluated
        ([*RLOO, *base, "max:rewad"], "did you mean 'reward'"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err and not Path("here").exists()
    settings = Settings(method="dpo", data=(PAIRS,), mesh="data=1", keep_best="eval/rewards/accuracies", eval_every=1,
                        eval_data=(PAIRS,))  # fmt: skip
    assert assemble(settings).keep_best == "eval/rewards/accuracies"


@pytest.mark.slow
def test_stored_log_probs_take_the_place_of_past_policies(capsys: Any) -> None:
    """The numbers of a run that holds its one opponent fixed, and no past policy in the state."""
    base = ["--data", PAIRS, "--mesh", "data=1", "--json"]
    assert main(["logprobs", *base, "--as", "opponent", "--out", "past.safetensors"]) == 0
    train = ["train", "--method", "mnpo", *base, "--steps", "2"]
    assert main([*train, "--out", "held", "--history", "1", "--fixed-history"]) == 0
    assert main([*train, "--out", "stored", "--ref-logps", "past.safetensors"]) == 0
    capsys.readouterr()
    read = lambda out: [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    for held, stored in zip(read("held"), read("stored"), strict=True):
        assert stored == pytest.approx(held, rel=1e-4, abs=1e-5)
    settings = Settings(method="mnpo", data=(PAIRS,), mesh="data=1", ref_logps=("past.safetensors",))
    assert assemble(settings).state.history is None
    assert assemble(dataclasses.replace(settings, ref_logps=())).state.history is not None


@pytest.mark.slow
def test_a_reference_may_be_narrower_than_the_policy(capsys: Any) -> None:
    """Its weights are rounded: log-ratios move by about a rounding, and the check at step 0 has room for that."""
    arguments = ["train", "--method", "dpo", "--data", PAIRS, "--steps", "2", "--mesh", "data=1", "--json", "--out"]
    rows = {}
    for name, more in {"whole": [], "narrow": ["--reference-dtype", "bfloat16"]}.items():
        assert main([*arguments, name, *more]) == 0
        assert all(": ok: " in line for line in json.loads(capsys.readouterr().out)["checks"])
        rows[name] = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
    assert rows["whole"][0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(rows["whole"], rows["narrow"], strict=True)]
    assert all(1e-7 < gap < 1e-2 for gap in gaps), gaps
    assert rows["whole"][0]["logps/chosen"] == rows["narrow"][0]["logps/chosen"]  # the policy is not rounded
    for more, message in (
        (["--lora-rank", "2"], "with adapters it is the model they sit on"),
        (["--method", "slic"], "holds no reference"),
        (["--method", "sft", "--data", str(EXAMPLES / "unpaired.jsonl")], "sft has none"),
    ):
        assert main([*arguments, "other", "--reference-dtype", "bfloat16", *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.long
def test_a_folder_of_weights_trains_on_any_mesh_and_goes_on_on_another(capsys: Any) -> None:
    config = lm.preset("tiny")
    lm.save("model", config, lm.init(config, jax.random.key(3)), lm.ByteTokenizer())
    base = ["train", "--method", "dpo", "--data", PAIRS, "--model", "model", "--lr", "0.001", "--buckets", "1"]
    base += ["--optimizer", "adafactor", "--json"]
    assert main([*base, "--mesh", "data=1", "--steps", "3", "--out", "one"]) == 0
    assert main([*base, "--mesh", "data=2,fsdp=2", "--steps", "2", "--out", "other"]) == 0
    capsys.readouterr()
    assert main([*base, "--mesh", "fsdp=2", "--steps", "3", "--out", "other", "--resume"]) == 0
    assert "warning: mesh.data was 2 and is now 1; the last bits may differ" in capsys.readouterr().err
    read = lambda out: [json.loads(line)["loss"] for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(read("other"), read("one"), rtol=1e-4)
    assert len(read("one")) == 3
