"""The loop with a step of two numbers: what is written, what comes back after a stop at any place, schedules, flops."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from tpu import flops, loop, run_folder
from tpu.arguments import Failed, UsageError
from tpu.bridge import scored
from tpu.metrics import read_rows
from tpu.run_config import Settings, as_arguments, as_yaml, differences, identity
from tpu.schedules import make_optimiser, make_schedule


class Counting:
    """Batches n, n + 1, ... of data."""

    def __init__(self) -> None:
        self.n = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        self.n += 1
        return {"x": np.float32(self.n), "attention_mask": np.ones((2, self.n % 3 + 1), bool)}

    def get_state(self) -> int:
        return self.n

    def set_state(self, state: int) -> None:
        self.n = state


def _step(state: Any, reference: Any, batch: Mapping[str, Any]) -> Any:
    """A chaotic map driven by the batch: a bit that is off anywhere shows everywhere after."""
    x = 3.9 * state["x"] * (1 - state["x"])
    x = jnp.clip(x + 1e-3 * jnp.sin(batch["x"]) + reference, 0.01, 0.99)
    loss = jnp.where(batch["x"] == state["bad"], jnp.nan, x)
    return {**state, "x": x, "count": state["count"] + 1}, {"loss": loss, "grad_norm": x, "kl": state["x"]}


step = loop.keep_if_not_finite(_step)


def run(out: Path, steps: int = 12, bad: float = -1.0, **more: Any) -> loop.Run:
    out.mkdir(parents=True, exist_ok=True)
    state = {"x": jnp.float32(0.3), "count": jnp.int32(0), "bad": jnp.float32(bad)}
    return loop.Run(
        name="test", out=out, steps=steps, state=state, reference=jnp.float32(1e-4), step=step, batches=Counting(),
        learning_rate=lambda t: 0.1 / (1 + t), identity={"seed": 0, "hyper": {"beta": 0.1}},
        evaluate=lambda state, reference: {"x": state["x"]}, generate=lambda s, r, t: [{"text": f"after {t}"}],
        export=lambda folder, state, reference: (folder.mkdir(), (folder / "x").write_text(str(state["x"])))[0],
        **{"save_every": 4, "eval_every": 5, "described": {"name": "test"}, **more},
    )  # fmt: skip


FILES = ("metrics.jsonl", "eval.jsonl", "samples.jsonl", "model/x", "model/trained.json")


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


class Killed(BaseException):
    """As kill -9: nothing of the loop runs after it."""


def killed_after(updates: int) -> Callable[[Any], None]:
    """An `on_step` that kills the run at the update after so many."""
    seen: list[Any] = []

    def stop(row: Any) -> None:
        seen.append(row)
        if len(seen) > updates:
            raise Killed

    return stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    summary = loop.train(run(out))
    rows = read_rows(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(12)) and summary["final_loss"] == rows[-1]["loss"]
    assert rows[3]["learning_rate"] == 0.1 / 4
    assert [row["num_tokens"] for row in rows[:4]] == [4, 10, 12, 16]  # 2 (2 + 3 + 1 + 2)
    assert [row["step"] for row in read_rows(out / "eval.jsonl")] == [0, 5, 10, 12]
    assert rows[5]["kl"] == pytest.approx(read_rows(out / "eval.jsonl")[1]["eval/x"])
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["12", "8"]
    assert {row["step"] for row in read_rows(out / "timing.jsonl")} == set(range(12))
    return contents(out)


@pytest.mark.parametrize("cuts", [(0,), (4, 4), (5, 2)])
def test_a_run_that_is_cut_goes_on_to_the_same_bytes(
    whole: dict[str, bytes], tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    for cut in cuts:
        with pytest.raises(Killed):
            loop.train(run(tmp_path), resume=True, on_step=killed_after(cut))
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 7, "los')  # a line that was being written
    loop.train(run(tmp_path), resume=True)
    assert contents(tmp_path) == whole
    loop.train(run(tmp_path), resume=True)  # finished: nothing changes
    assert contents(tmp_path) == whole


def test_a_longer_run_goes_on_and_a_shorter_one_is_refused(tmp_path: Path) -> None:
    loop.train(run(tmp_path, 6, eval_every=0))
    loop.train(run(tmp_path, 9, eval_every=0), resume=True)
    loop.train(run(tmp_path / "whole", 9, eval_every=0))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert (tmp_path / "model/x").read_bytes() == (tmp_path / "whole/model/x").read_bytes()
    with pytest.raises(UsageError, match="--steps 8 is fewer than the 9 updates"):
        loop.train(run(tmp_path, 8), resume=True)


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    loop.train(run(tmp_path, 4))
    other = run(tmp_path, 5)
    other.identity = {"seed": 1, "hyper": {"beta": 0.2}}
    with pytest.raises(UsageError, match=r"hyper.beta was 0.1 and is now 0.2; seed was 0 and is now 1"):
        loop.train(other, resume=True)
    # Also where no checkpoint was written yet.
    with pytest.raises(Killed):
        loop.train(run(tmp_path / "new"), on_step=killed_after(0))
    other.out = tmp_path / "new"
    with pytest.raises(UsageError, match="seed was 0 and is now 1"):
        loop.train(other, resume=True)


def test_sigterm_saves_and_stops_at_the_next_boundary(whole: dict[str, bytes], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ask = lambda row: os.kill(os.getpid(), signal.SIGTERM) if row["step"] == 5 else None
    with pytest.raises(loop.Preempted, match="after 6 of 12 updates"):
        loop.train(run(tmp_path), on_step=ask)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "checkpoints/6").is_dir()
    loop.train(run(tmp_path), resume=True)
    assert contents(tmp_path) == whole


def test_a_loss_that_is_not_finite_stops_with_its_batch_and_the_state_before(tmp_path: Path) -> None:
    from tpu.checkpoints import Checkpoints

    made = run(tmp_path, bad=7.0)
    with pytest.raises(Failed, match=r"loss is nan at step 6; .*--replay .*nan-batch-6.npz"):
        loop.train(made)
    with np.load(tmp_path / "nan-batch-6.npz") as saved:
        assert saved["x"] == 7 and set(saved.files) == {"x", "attention_mask"}
    with Checkpoints(tmp_path / "nan-state-6") as kept:
        found = kept.restore(made.state)
    assert found is not None and int(found.state["count"]) == 6
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] is None and float(found.state["x"]) == rows[5]["loss"]
    assert not (tmp_path / "model").exists()


def test_the_best_is_kept_by_a_metric_that_there_is(tmp_path: Path) -> None:
    loop.train(run(tmp_path, keep=1, keep_best="max:eval/x", save_every=1))
    rows = {row["step"]: row["eval/x"] for row in read_rows(tmp_path / "eval.jsonl")}
    best = max((rows[5], 5), (rows[10], 10), (rows[12], 12), (rows[0], 0))[1]
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept[-1] == 12 and best <= kept[0] < best + 5
    with pytest.raises(ValueError, match=r"unknown metric \(--keep-best\) 'los'; did you mean 'loss'"):
        loop.train(run(tmp_path / "new", keep_best="los"))


def test_another_mesh_and_other_micro_batches_are_told(tmp_path: Path, capsys: Any) -> None:
    before = run(tmp_path, 2, described={"mesh": {"data": 1}, "accumulate": 1, "name": "a"})
    before.identity = {**before.identity, "accumulate": 1}  # as runs had it for which it was not free
    loop.train(before)
    loop.train(run(tmp_path, 3, described={"mesh": {"data": 2}, "accumulate": 2, "name": "b"}), resume=True)
    said = capsys.readouterr().err
    for change in ("mesh.data was 1 and is now 2", "accumulate was 1 and is now 2"):
        assert f"warning: {change}; the last bits may differ" in said


def test_nothing_is_written_if_a_check_fails(tmp_path: Path) -> None:
    def check(state: Any, reference: Any, done: int) -> list[str]:
        raise UsageError("check bos failed")

    with pytest.raises(UsageError, match="bos"):
        loop.train(run(tmp_path, check=check))
    assert not run_folder.holds_a_run(tmp_path)
    said: list[str] = []
    loop.train(run(tmp_path, 1, check=lambda s, r, done: [f"fine after {done}"], say=said.append))
    assert said == ["fine after 0"] and run_folder.holds_a_run(tmp_path)


def test_a_folder_with_a_run_is_neither_overwritten_nor_lost(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    run_folder.prepare_out(tmp_path, resume=False, overwrite=False)
    loop.train(run(tmp_path, 2))
    with pytest.raises(UsageError, match="--resume, delete it by --overwrite"):
        run_folder.prepare_out(tmp_path, resume=False, overwrite=False)
    run_folder.prepare_out(tmp_path, resume=True, overwrite=False)
    assert run_folder.holds_a_run(tmp_path)
    run_folder.prepare_out(tmp_path, resume=False, overwrite=True)
    assert not run_folder.holds_a_run(tmp_path) and {p.name for p in tmp_path.iterdir()} == {"mine.txt", ".lock"}


# --- settings


def test_settings_in_yaml_come_back_and_flags_go_before_them(tmp_path: Path) -> None:
    from tpu.cli import parser
    from tpu.commands.train import expand, settings_of

    asked = Settings(method="dpo", data=("a.jsonl", "b c.jsonl"), lr=1e-5, hyper={"beta": 0.3}, checks=False, top_k=3)
    (tmp_path / "run.yaml").write_text(as_yaml(asked))
    read = lambda *flags: settings_of(
        parser().parse_args(["train", *expand(["--config", str(tmp_path / "run.yaml"), *flags])])
    )
    assert read() == asked
    changed = read("--beta", "0.1", "--data", "c.jsonl", "--checks", "--lr=2e-5")
    assert changed.hyper == {"beta": 0.1} and changed.data == ("c.jsonl",) and changed.checks and changed.lr == 2e-5
    assert changed.top_k == 3
    # The run in OUT is where a resume begins.
    (tmp_path / "config.yaml").write_text(as_yaml(asked))
    resumed = settings_of(parser().parse_args(["train", *expand(["--out", str(tmp_path), "--resume"])]))
    assert resumed == Settings(**{**asked.__dict__, "out": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("btch: 3", "unknown setting in .* 'btch'; did you mean 'batch'"),
        ("hyperparameters: 3", "hyperparameters must be a mapping, got 3"),
        ("hyperparameters: {betta: 3}", "did you mean 'beta'"),
        ("- a", "must be a mapping of settings, got list"),
        ("resume2: [", "is not YAML"),
        ("batch: {a: 1}", "batch must be a value or a list"),
        ("batch: true", "batch must be a value, got True"),
        ("checks: 3", "checks must be true or false, got 3"),
    ],
)
def test_a_yaml_file_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    known = {"batch": True, "checks": False, "no-checks": False, "beta": True}
    with pytest.raises(ValueError, match=message):
        as_arguments(str(tmp_path / "bad.yaml"), known)


def test_what_a_resume_has_to_agree_on() -> None:
    facts: dict[str, Any] = {"hyperparameters": {"beta": 0.1}, "model": "ab", "data": {"digest": "cd"}}
    base = Settings(method="dpo", data=("x",))
    here = identity(base, facts)
    changed = lambda **change: differences(here, identity(Settings(**{**base.__dict__, **change}), facts))
    assert (
        changed(
            steps=99,
            out="there",
            mesh="data=1",
            keep=9,
            accumulate=2,
            remat="full",
            data=("moved.jsonl",),
            checks=False,
        )
        == []
    )
    assert changed(lr=1e-3) == []  # what it is by default
    assert changed(seed=1) == ["seed was 0 and is now 1"]
    assert changed(schedule="cosine") == ["schedule was 'constant' and is now 'cosine'",
                                          "schedule_steps was None and is now 50"]  # fmt: skip
    other = identity(base, {**facts, "data": {"digest": "ef"}, "hyperparameters": {"beta": 0.2}})
    assert differences(here, other) == ["data.digest was 'cd' and is now 'ef'",
                                        "hyperparameters.beta was 0.1 and is now 0.2"]  # fmt: skip
    # A decay ends with the steps, so that more of them are another run, unless its end is given.
    decaying = Settings(method="dpo", data=("x",), schedule="linear")
    longer = Settings(method="dpo", data=("x",), schedule="linear", steps=60)
    kept = Settings(method="dpo", data=("x",), schedule="linear", steps=60, schedule_steps=50)
    assert differences(identity(decaying, facts), identity(longer, facts)) == ["schedule_steps was 50 and is now 60"]
    assert differences(identity(decaying, facts), identity(kept, facts)) == []


# --- schedules and optimisers, against their formulas


def rates(name: str, steps: int, warmup: int = 0) -> np.ndarray:
    schedule = make_schedule(name, 2.0, steps, warmup)
    return np.asarray([schedule(t) for t in range(steps + 2)])


@pytest.mark.slow
def test_schedules() -> None:
    t = np.arange(10)
    np.testing.assert_allclose(rates("constant", 10)[:10], 2.0)
    np.testing.assert_allclose(rates("linear", 10)[:10], 2 * (1 - t / 10), rtol=1e-6)
    np.testing.assert_allclose(rates("cosine", 10)[:10], 1 + np.cos(np.pi * t / 10), rtol=1e-6)
    np.testing.assert_allclose(rates("wsd", 20)[:20], [*[2.0] * 18, 2.0, 1.0], rtol=1e-6)  # the last tenth falls
    assert all(rates(name, 10)[10] == 0 for name in ("linear", "cosine", "wsd"))
    np.testing.assert_allclose(rates("constant", 10, 4)[:6], [0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(rates("linear", 6, 2), [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(rates("constant", 3, 1)[:3], 2.0)
    with pytest.raises(ValueError, match="warmup = 4 is more than the 3 updates"):
        make_schedule("cosine", 1.0, 3, 4)
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        make_schedule("cosin", 1.0, 3)


@functools.cache
def moved(name: str, **more: Any) -> Any:
    """The first update on a gradient of ones, from parameters of 2."""
    params = {"norm": {"scale": jnp.full(3, 2.0)}, "query": jnp.full((3, 4), 2.0), "query_bias": jnp.full(4, 2.0)}
    optimiser = make_optimiser(name, make_schedule("constant", 0.1, 5), **more)
    updates, _ = optimiser.update(jax.tree.map(jnp.ones_like, params), optimiser.init(params), params)
    return updates


@pytest.mark.slow
def test_optimisers_decay_matrices_alone_and_clip_by_the_global_norm() -> None:
    norm = np.sqrt(3 + 12 + 4)
    np.testing.assert_allclose(moved("sgd", clip=None)["query"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(moved("sgd")["query"], -0.1 / norm, rtol=1e-6)
    np.testing.assert_allclose(moved("sgd", clip=2.0)["norm"]["scale"], -0.2 / norm, rtol=1e-6)
    for name in ("adamw", "lion", "adafactor"):
        plain, decayed = moved(name), moved(name, weight_decay=0.5)
        np.testing.assert_allclose(plain["query"], -0.1, rtol=1e-3)  # the first step of all three is the sign
        np.testing.assert_allclose(decayed["query"] - plain["query"], -0.1 * 0.5 * 2, rtol=1e-3)
        np.testing.assert_array_equal(decayed["norm"]["scale"], plain["norm"]["scale"])
        np.testing.assert_array_equal(decayed["query_bias"], plain["query_bias"])
    np.testing.assert_array_equal(moved("adam")["query"], moved("adamw")["query"])
    with pytest.raises(ValueError, match="sgd has no weight decay"):
        make_optimiser("sgd", make_schedule("constant", 0.1, 5), weight_decay=0.1)


def test_flops() -> None:
    class Device:
        def __init__(self, kind: str, platform: str) -> None:
            self.device_kind, self.platform = kind, platform

    assert flops.peak([Device("TPU v5 lite", "tpu")] * 4) == 4 * 197e12
    assert flops.peak([Device("NVIDIA H100 80GB HBM3", "gpu")]) == 989e12
    assert flops.peak([Device("cpu", "cpu")]) is None and flops.peak(jax.devices()) is None
    assert flops.per_token(100) == 600 and flops.per_token(100, 1) == 800  # alone, and with a reference
    assert flops.per_token(100, 1 + 1 + 3) == (6 + 2 * 5) * 100  # reference, anchor and three opponents
    # DPO of adapters: forwards, backwards to what is below, the reference; the adapters themselves get gradients.
    assert flops.per_token(100, 1, adapters=7) == (2 + 2 + 2) * 100 + 6 * 7


@pytest.mark.parametrize(
    ("method", "given", "wanted"),
    [
        ("dpo", (), {"ref": 1}),
        ("dpo", ("ref_token_logp",), {}),
        ("inpo", (), {"ref": 1, "anchor": 1}),
        ("td_mnpo", ("tokens",), {"ref": 1, "opponent": 3}),
        ("td_mnpo", ("opponent_token_logp",), {"ref": 1}),
        ("slic", (), {}),
    ],
)
def test_models_that_a_step_runs(method: str, given: tuple[str, ...], wanted: dict[str, int]) -> None:
    assert scored(alignjax.methods[method], given, 3) == wanted


def test_config_is_written_before_the_first_update(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        loop.train(run(tmp_path), on_step=killed_after(0))
    assert json.loads((tmp_path / "config.json").read_text())["identity"] == {"seed": 0, "hyper": {"beta": 0.1}}
