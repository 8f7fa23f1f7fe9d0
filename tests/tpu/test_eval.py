"""Evaluation against enumeration, on a model of which NumPy knows the laws; then the commands."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import lm
from tests.lm.recurrent import STOP, Recurrent, V, next_law, parameters
from tpu import evaluation, rewards
from tpu.cli import main, parser
from tpu.commands.eval import _read
from tpu.models import load_model
from tpu.rollout import Sampling

MODEL = Recurrent()
POLICY, REFERENCE = (MODEL, parameters(0)), (MODEL, parameters(1))
N = 3
EXAMPLES = Path(__file__).resolve().parents[2] / "tpu" / "examples"
PAIRS = str(EXAMPLES / "pairs.jsonl")


class Letters:
    """Tokens 0, 1, 2 are words a, b, c; 3 ends a response and is not written."""

    bos, eos, pad, stops, vocab_size = None, STOP, 0, (STOP,), V

    def decode(self, tokens: Any) -> str:
        return " ".join("abc"[t] for t in tokens)


ASKED = [[1, 0, 2], [2], [0, 0]]
PROMPTS = {
    "prompts": np.array([[0] * (3 - len(row)) + row for row in ASKED]),
    "prompt_mask": np.array([[0] * (3 - len(row)) + [1] * len(row) for row in ASKED]),
}
TEXTS = ["one", "two", "three"]
RESPONSES = [r for n in range(1, N + 1) for r in itertools.product(range(V), repeat=n)
             if STOP not in r[:-1] and (len(r) == N or r[-1] == STOP)]  # fmt: skip


def exact(prompt: list[int]) -> dict[str, float]:
    """By enumeration: KL(policy || reference), the mean number of tokens, and the summed entropies of their laws."""
    found = {"kl": 0.0, "length": 0.0, "ended": 0.0, "entropy": 0.0, "words": 0.0}
    for response in RESPONSES:
        logs = np.zeros(2)
        entropy = 0.0
        for t, token in enumerate(response):
            laws = [next_law(params, [*prompt, *response[:t]]) for _, params in (POLICY, REFERENCE)]
            logs += [np.log(law[token]) for law in laws]
            entropy -= (laws[0] * np.log(laws[0])).sum()
        mass = np.exp(logs[0])
        found["kl"] += mass * (logs[0] - logs[1])
        found["length"] += mass * len(response)
        found["ended"] += mass * (response[-1] == STOP)
        found["entropy"] += mass * entropy
        found["words"] += mass * sum(token != STOP for token in response)
    return found


def measured(**changes: Any) -> Any:
    return evaluation.evaluate(
        POLICY, Letters(), PROMPTS, TEXTS, jax.random.key(0), reward=rewards.load("length"),
        **{"num_samples": 2000, "reference": REFERENCE, "sampling": Sampling(max_new_tokens=N), **changes},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Any:
    return measured()[0]


def test_numbers_are_those_of_enumeration(found: Any) -> None:
    """2,000 responses to each of 3 prompts. Errors over responses, as these prompts are all there are."""
    truth = [exact(prompt) for prompt in ASKED]
    mean = {name: np.mean([one[name] for one in truth]) for name in truth[0]}
    for name, wanted, spread in (
        ("kl", mean["kl"], 4.0), ("length", mean["length"], 1.5), ("ended", mean["ended"], 0.5),
        ("reward", mean["words"], 1.5), ("entropy", mean["entropy"] / mean["length"], 0.5),
    ):  # fmt: skip
        assert found[name] == pytest.approx(wanted, abs=4 * spread / 6000**0.5), name
    assert found["branching"] == pytest.approx(np.exp(found["entropy"]))
    assert mean["kl"] > 0.5


@pytest.mark.slow
def test_one_prompt_has_the_standard_error_of_its_responses() -> None:
    one = {name: array[:1] for name, array in PROMPTS.items()}
    got, responses = evaluation.evaluate(
        POLICY, Letters(), one, TEXTS[:1], jax.random.key(1), sampling=Sampling(max_new_tokens=N), num_samples=2000,
        reference=REFERENCE,
    )  # fmt: skip
    assert abs(got["kl"] - exact(ASKED[0])["kl"]) < 4 * got["kl_se"] < 0.3
    lengths = responses.made.mask.sum(-1)[0]
    assert got["length_se"] == pytest.approx(lengths.std(ddof=1) / 2000**0.5)


@pytest.mark.slow
def test_kl_is_that_of_the_law_that_was_sampled() -> None:
    """Greedy: one response to a prompt, of mass 1, so that the KL divergence is minus its log-prob in the reference."""
    got = measured(num_samples=2, sampling=Sampling(max_new_tokens=N, temperature=0.0))[0]
    wanted = []
    for prompt in ASKED:
        row, logp = list(prompt), 0.0
        while len(row) < len(prompt) + N and (row == prompt or row[-1] != STOP):
            token = int(next_law(POLICY[1], row).argmax())
            logp += np.log(next_law(REFERENCE[1], row)[token])
            row.append(token)
        wanted.append(-logp)
    assert got["kl"] == pytest.approx(np.mean(wanted), rel=1e-4)


@pytest.mark.slow
def test_a_model_against_itself_is_at_distance_zero_and_wins_half() -> None:
    """Also before a judge who prefers what he reads first: both orders are asked."""
    first = rewards.Judge("first", lambda prompts, a, b: [0.9] * len(a))
    others = measured(num_samples=3)[1].texts
    got = measured(num_samples=3, reference=POLICY, judge=first, rivals=others)[0]
    assert abs(got["kl"]) < 1e-5 and got["win_rate"] == pytest.approx(0.5)


@pytest.mark.slow
def test_responses_do_not_depend_on_the_batch() -> None:
    """Three prompts two at a time: the last batch is filled up, and what fills it is thrown away."""
    all_at_once, pairs = (measured(num_samples=4, batch=batch) for batch in (3, 2))
    assert all_at_once[1].texts == pairs[1].texts and len(pairs[1].texts) == 3
    for name, value in all_at_once[0].items():
        if name != "best_of_n":
            assert pairs[0][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_win_rate_counts_every_response_against_every_rival() -> None:
    rivals = [["a"], ["a b"], [""]]
    got, responses = measured(num_samples=5, judge=rewards.load_judge("longer"), rivals=rivals)
    score = lambda a, b: 0.5 + 0.5 * np.sign(len(a.split()) - len(b.split()))
    wanted = [np.mean([score(text, other[0]) for text in texts])
              for texts, other in zip(responses.texts, rivals, strict=True)]  # fmt: skip
    assert got["win_rate"] == pytest.approx(np.mean(wanted))
    assert got["win_rate_se"] == pytest.approx(np.std(wanted, ddof=1) / 3**0.5)


# --- estimates


def test_errors_are_over_prompts() -> None:
    x = np.random.default_rng(0).normal(size=(7, 4)) + np.arange(7)[:, None]
    value, error = evaluation.estimate(x)
    assert value == pytest.approx(x.mean())
    assert error == pytest.approx(x.mean(1).std(ddof=1) / 7**0.5)
    assert np.isnan(evaluation.estimate(x[:1, :1])[1])
    assert evaluation.estimate(x[:1])[1] == pytest.approx(x[0].std(ddof=1) / 2)


def test_the_error_of_a_ratio_is_its_spread_over_many_draws() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (4000, 50, 2)).astype(float)
    totals = counts * (1 + 0.2 * rng.normal(size=counts.shape)) + counts**2 / 9
    each = np.array([evaluation.estimate(t, c) for t, c in zip(totals[:1000], counts[:1000], strict=True)])
    spread = (totals.sum((1, 2)) / counts.sum((1, 2))).std()
    assert np.sqrt((each[:, 1] ** 2).mean()) == pytest.approx(spread, rel=0.05)


def test_best_of_n_is_the_mean_over_all_subsets() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 6)).round(1)  # with ties
    curve = evaluation.best_of_n_curve(scores)
    assert [point["n"] for point in curve] == [1, 2, 4, 6]
    for point in curve:
        subsets = list(itertools.combinations(range(6), point["n"]))
        each = np.array([[row[list(s)].max() for s in subsets] for row in scores]).mean(1)
        assert point["reward"] == pytest.approx(each.mean())
        assert point["reward_se"] == pytest.approx(each.std(ddof=1) / 3**0.5)


@pytest.mark.slow
def test_pairs_have_the_metrics_of_their_log_probs(tmp_path: Path) -> None:
    """Seven pairs, three at a time, and the numbers one pair at a time."""
    lines = Path(PAIRS).read_text(encoding="utf-8").splitlines()[:7]
    (tmp_path / "seven.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (config, params, _), (_, other, _) = (load_model("tiny", seed=seed) for seed in (0, 1))
    data = lm.read_preferences(tmp_path / "seven.jsonl", max_length=128)
    got = evaluation.evaluate_pairs((config, params), (config, other), data, beta=0.5, batch=3)
    arrays = (data.tokens, data.loss_mask, data.attention_mask)
    logp, ref = (np.asarray(lm.token_logps(config, p, *arrays)).sum(-1) for p in (params, other))
    reward = 0.5 * (logp - ref)
    wanted = {
        "logps/chosen": logp[:, 0], "logps/rejected": logp[:, 1], "rewards/chosen": reward[:, 0],
        "rewards/rejected": reward[:, 1], "rewards/margins": reward[:, 0] - reward[:, 1],
        "rewards/accuracies": reward[:, 0] > reward[:, 1],
    }  # fmt: skip
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        assert got[name] == pytest.approx(values.mean(), rel=1e-4, abs=1e-4), name


# --- the commands


def said(capsys: Any, *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)


@pytest.mark.slow
def test_generate_prints_each_response_with_both_log_probs(capsys: Any) -> None:
    common = ("generate", "--prompt", "Hello", "A longer prompt", "--max-new-tokens", "6", "--temperature", "0.5")
    out = said(capsys, *common, "--num-samples", "2")
    assert [row["prompt"] for row in out["responses"]] == ["Hello", "A longer prompt"]
    for row in out["responses"]:
        assert len(row["completions"]) == 2
        for one in row["completions"]:
            assert one["logp"] < 0 and one["law_logp"] != one["logp"] and len(one["tokens"]) <= 6
    alone = said(capsys, *common[:3], *common[4:])  # the other prompt and the second sample change nothing
    assert alone["responses"][0]["completions"][0]["tokens"] == out["responses"][0]["completions"][0]["tokens"]
    assert main([*common]) == 0
    assert "prompt: Hello" in capsys.readouterr().out


@pytest.mark.slow
def test_eval_of_two_models_and_a_folder(capsys: Any, tmp_path: Path) -> None:
    config, params, tokenizer = load_model("tiny", seed=3)
    lm.save(tmp_path / "other", config, params, tokenizer)
    common = ("eval", "--model", str(tmp_path / "other"), "tiny", "--data", PAIRS, "--reference", "tiny",
              "--reward", "length", "--judge", "longer", "--max-new-tokens", "8", "--num-prompts", "3",
              "--num-samples", "2")  # fmt: skip
    out = said(capsys, *common, "--out", str(tmp_path / "out"))
    other, tiny = out["models"]
    assert tiny["model"] == "tiny" and abs(tiny["kl"]) < 1e-4 and other["kl"] > 1
    assert tiny["rewards/margins"] == 0 and other["rewards/margins"] != 0
    assert other["prompts"] == 3 and {"win_rate", "reward_se", "best_of_n", "branching"} <= other.keys()
    assert json.loads((tmp_path / "out" / "eval.json").read_text()) == out
    lines = (tmp_path / "out" / "responses.jsonl").read_text().splitlines()
    assert len(lines) == 6 and len(json.loads(lines[0])["completions"]) == 2
    assert main([*common]) == 0
    text = capsys.readouterr().out
    assert "±" in text and "tiny: reward of the best of n  1: " in text


@pytest.mark.slow
def test_against_the_data_the_rival_is_the_chosen_response(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A judge who knows the chosen text gives it every match."""
    code = "def judge(prompts, a, b): return [0.5 + 0.5 * (x == 'YES') - 0.5 * (y == 'YES') for x, y in zip(a, b)]"
    (tmp_path / "knows.py").write_text(code + "\n")
    (tmp_path / "data.jsonl").write_text('{"prompt": "Q", "chosen": "YES", "rejected": "no"}\n' * 2)
    monkeypatch.syspath_prepend(tmp_path)
    out = said(capsys, "eval", "--model", "tiny", "--data", str(tmp_path / "data.jsonl"), "--judge", "knows:judge",
               "--max-new-tokens", "4", "--num-samples", "1")  # fmt: skip
    assert out["against"] == "data" and out["models"][0]["win_rate"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "give --prompt TEXT ... or --data FILE ..."),
        (["generate", "--prompt", "a", "--top-p", "0"], "--top-p must lie in (0, 1], got 0"),
        (["generate", "--prompt", "a", "--temperature", "-1"], "argument --temperature: must be a finite number >= 0"),
        (["generate", "--prompt", "a", "--max-new-tokens", "256"], "--max-new-tokens 256 leaves no room for a prompt"),
        (["generate", "--prompt", "a" * 300], "is 301 tokens; 1 to 192 leave room"),
        (["generate", "--prompt", "a", "--model", "tyni"], "unknown model 'tyni'; did you mean 'tiny'"),
        (["generate", "--prompt", "a", "--model", "no/folder"], "--model no/folder: No such folder"),
        (["generate", "--prompt", "a", "--model", str(EXAMPLES)], "--model"),
        (["generate", "--data", "none.jsonl"], "--data none.jsonl: No such file or directory"),
        (["eval", "--model", "tiny", "--data", "none.jsonl"], "--data none.jsonl: No such file or directory"),
        (["eval", "--model", "tiny", "--data", PAIRS, "--reward", "lenght"], "did you mean 'length'"),
        (["eval", "--model", "tiny", "--data", PAIRS, "--against", "reference"], "name the --reference"),
    ],
)
def test_what_cannot_start_says_why(capsys: Any, arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


@pytest.mark.parametrize("number, expected", [("3", 3), ("1000", 48)])
def test_more_prompts_than_there_are_are_all(number: str, expected: int) -> None:
    options = parser().parse_args(["eval", "--model", "tiny", "--data", PAIRS, "--num-prompts", number])
    asked = _read(options, lm.preset("tiny"), lm.ByteTokenizer())
    assert len(asked["texts"]) == len(asked["rivals"].texts) == len(asked["prompts"]["prompts"]) == expected
