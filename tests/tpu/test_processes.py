"""Several processes make the run that one makes: the same numbers, one ending, and either goes on with the other's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from tests.tpu import kill, processes
from tpu import distributed, global_arrays
from tpu.arguments import UsageError
from tpu.cli import main
from tpu.mesh import make_mesh

BASE = ("--data", str(kill.PAIRS), "--batch", "8", "--lr", "0.001", "--buckets", "1", "--mesh", "data=2,fsdp=2")
DOUBLE = ("--param-dtype", "float64")
DPO = ("--method", "dpo", *BASE, "--steps", "8", "--save-every", "4", "--eval-every", "8", "--eval-data",
       str(kill.PAIRS), "--max-new-tokens", "4", *DOUBLE)  # fmt: skip
RLOO = ("--method", "rloo", *BASE, "--steps", "3", "--reward", "length", "--num-responses", "2",
        "--max-new-tokens", "8", "--eval-prompts", "0", *DOUBLE)  # fmt: skip
SHORT = (*BASE, "--steps", "2", "--eval-prompts", "0", "--no-checks", *DOUBLE)
FAMILIES = {
    "adapters": ("--method", "dpo", *SHORT, "--lora-rank", "2"),
    "sft": ("--method", "sft", *SHORT, "--data", str(kill.PAIRS.with_name("unpaired.jsonl"))),
    "reward_model": ("--method", "reward_model", *SHORT),
    # Its rivals are written by a past policy, drawn at random: one of two from the second update on, of three after it.
    "past policies": ("--method", "mnpo_soft", *SHORT, "--reward", "length", "--history", "3", "--iteration-steps",
                      "1", "--max-new-tokens", "8", "--steps", "5"),
}  # fmt: skip
DEVICES = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill.small_model(tmp_path_factory.mktemp("model"))


def rows(out: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def worst(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> float:
    """The largest difference of two numbers of the same name, relative to the larger of the number and 1e-3."""
    assert [list(row) for row in first] == [list(row) for row in second]
    pairs = [(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a]
    return max(abs(a - b) / max(abs(a), 1e-3) for a, b in pairs)


# --- in one process


def test_what_a_process_holds_is_read_and_put_in_its_place() -> None:
    """Four devices on `data`, as if two processes had two each: rows 0..3 are one's, 4..7 the other's."""
    mesh = make_mesh("data=4", jax.devices()[:4])
    where = NamedSharding(mesh, PartitionSpec("data"))
    assert global_arrays.rows_here(where, (8,)).tolist() == list(range(8))
    batch = {"tokens": np.arange(24).reshape(8, 3), "reward": np.arange(8.0)}
    made = global_arrays.placed(batch, {name: where for name in batch}, 8, np.arange(8))
    for name, array in batch.items():
        assert made[name].sharding == where
        np.testing.assert_array_equal(made[name], array)


def test_a_share_is_put_where_its_rows_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a process need not follow each other: `data` may be wired across hosts in any order."""
    mesh = make_mesh("data=4", jax.devices()[:4])
    where = NamedSharding(mesh, PartitionSpec("data"))
    asked: list[np.ndarray] = []

    def made(shape: tuple[int, ...], sharding: Any, part: Any) -> None:
        asked.extend(part((slice(start, start + 2), slice(None))) for start in (0, 4))

    monkeypatch.setattr(jax, "make_array_from_callback", made)
    mine = np.array([0, 1, 4, 5])
    whole = np.arange(24).reshape(8, 3)
    global_arrays.placed({"tokens": whole[mine]}, {"tokens": where}, 8, mine)
    np.testing.assert_array_equal(asked, [whole[0:2], whole[4:6]])


@pytest.mark.parametrize(
    ("shape", "spec", "piece", "gathers"),
    [
        ((103, 8), (None, "fsdp"), 10 * 32, 11),  # 10 rows of 32 bytes at a time
        ((4, 6, 8), (None, None, "fsdp"), 10 * 32, 4),  # of 6 x 32 bytes: a layer at a time
        ((4, 6, 8), (None, None, "fsdp"), 10, 4),
        ((103, 8), (None, "fsdp"), 103 * 32, 1),
        ((104, 8), ("fsdp",), 10 * 32, 1),
    ],
)
def test_a_large_array_is_gathered_in_blocks(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], spec: tuple[Any, ...], piece: int, gathers: int
) -> None:
    """Their number, counted by hand, and the values."""
    mesh = make_mesh("fsdp=4", jax.devices()[:4])
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    held: list[int] = []
    read = global_arrays._read

    def counted(block: jax.Array) -> Any:
        assert block.is_fully_replicated
        held.append(block.nbytes)
        return read(block)

    monkeypatch.setattr(global_arrays, "_read", counted)
    monkeypatch.setattr(global_arrays, "PIECE", piece)
    found = global_arrays._gathered(jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec))))
    np.testing.assert_array_equal(found, x)  # type: ignore[arg-type]
    assert len(held) == gathers and (gathers == 1 or max(held) <= max(piece, x[0].nbytes))


def test_of_a_large_array_no_more_than_the_block_is_gathered() -> None:
    mesh = make_mesh("fsdp=4", jax.devices()[:4])
    split, whole = NamedSharding(mesh, PartitionSpec(None, "fsdp")), NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(np.zeros((103, 8), np.float32), split)
    text = global_arrays._block.lower(x, 20, 10, split, whole).compile().as_text() or ""
    assert re.findall(r"= f32\[([\d,]+)\]\S* all-gather", text) == ["10,8"]


def test_one_process_agrees_with_itself() -> None:
    assert distributed.everyone({"a": 1}) == [{"a": 1}] and distributed.first([2]) == [2]
    assert distributed.is_first() and not distributed.several() and not distributed.preempted(3)
    function = lambda texts: [len(text) for text in texts]
    assert global_arrays.shared(function) is function
    assert distributed.run(distributed.Processes(), lambda: 7) == 7


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"coordinator": "host:1"}, "--coordinator also needs --num-processes, --process-id"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "PORT 1..65535, got 'host'"),
        ({"coordinator": "h:65536", "num_processes": 2, "process_id": 0}, "PORT 1..65535, got 'h:65536'"),
        ({"coordinator": "h:0", "num_processes": 2, "process_id": 0}, "PORT 1..65535, got 'h:0'"),
        ({"coordinator": "h:\u00b2", "num_processes": 2, "process_id": 0}, "PORT 1..65535, got 'h:\u00b2'"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "must lie in 0..1 (--num-processes 2), got 2"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 1, "distributed": True}, "give one"),
    ],
)  # fmt: skip
def test_flags_that_say_too_little_or_too_much(given: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        distributed.Processes(**given)
    assert says in str(caught.value)


def test_the_environment_may_say_nothing(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: (_ for _ in ()).throw(ValueError("none\nhere")))
    with pytest.raises(UsageError, match="--distributed: the environment: none here"):
        distributed.start(distributed.Processes(distributed=True))
    assert main(["launch", "--on", "hosts", "--hosts", "a", "--port", "70000", "--", "--data", "x"]) == 2
    assert "--port: must be an integer in 1..65535, got '70000'" in capsys.readouterr().err
    assert main(["train", "--method", "dpo", "--data", "x", "--process-id", "0"]) == 2
    assert "--process-id also needs --coordinator, --num-processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "runtime"),
    [
        (UsageError("x"), 2, False), (RuntimeError("Gloo all-reduce failed"), 1, True), (ValueError("no"), 1, False),
        (KeyboardInterrupt(), 130, False),
    ],
)  # fmt: skip
def test_what_an_error_ends_all_with(error: BaseException, status: int, runtime: bool) -> None:
    assert distributed.exit_status(error) == status
    assert distributed._is_of_the_runtime(error) is runtime
    try:
        try:
            raise error
        except BaseException:
            raise UsageError("about it") from None
    except UsageError as wrapped:
        assert distributed._is_of_the_runtime(wrapped) is runtime


# --- in two


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes that are started: double precision, in which the order of sums hardly counts."""
    monkeypatch.setenv("JAX_ENABLE_X64", "1")


@pytest.mark.long
@pytest.mark.usefixtures("double")
def test_two_processes_give_the_numbers_of_one_and_go_on_with_its_run(model: Path, tmp_path: Path) -> None:
    """Offline: one and two processes, and each going on with what the other began, on another mesh as well.

    What the two begin is in a bucket, for which a mounted folder stands: nothing else outlives a run.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = (*DPO, "--model", str(model))
    longer = list(arguments)
    steps, mesh = longer.index("--steps") + 1, longer.index("--mesh") + 1
    longer[steps] = "16"
    processes.finish(one, longer, 1, devices=DEVICES)
    bucket = ("--out", f"file://{two}")
    said = processes.finish(two, (*arguments, *bucket), 2, devices=DEVICES)
    assert said.count("check reference: ok") == 1, "one of them speaks"
    assert [row["step"] for row in rows(two)] == list(range(8))
    assert worst(rows(one)[:8], rows(two)) < 1e-9
    assert worst(rows(one, "eval")[:2], rows(two, "eval")) < 1e-9
    sampled = rows(two, "samples")
    assert sampled == rows(one, "samples")[: len(sampled)] and len(sampled) == 8
    described = json.loads((two / "config.json").read_text())
    assert described["devices"] | {"platform": ""} == {"used": 4, "there": 4, "processes": 2, "platform": ""}
    assert described["identity"] == json.loads((one / "config.json").read_text())["identity"]
    # From two processes on one, with another mesh; and from there on two again.
    longer[steps], longer[mesh] = "12", "data=1,fsdp=4"
    said = processes.finish(two, (*longer, *bucket), 1, devices=DEVICES)
    assert "resumed after 8 updates" in said and "warning: mesh.data was 2 and is now 1" in said
    longer[steps], longer[mesh] = "16", "data=2,fsdp=2"
    processes.finish(two, (*longer, *bucket), 2, devices=DEVICES)
    assert worst(rows(one), rows(two)) < 1e-9 and len(rows(two)) == 16
    assert [row["num_tokens"] for row in rows(one)] == [row["num_tokens"] for row in rows(two)]
    weights = [load_file(out / "model" / "model.safetensors") for out in (one, two)]
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, rtol=1e-9, atol=1e-12)


@pytest.mark.long
@pytest.mark.usefixtures("double")
def test_two_processes_draw_and_score_what_one_does(model: Path, tmp_path: Path) -> None:
    """Online: the responses, their rewards and the updates; every text is scored once, by one of the two."""
    scored = tmp_path / "scored.txt"
    (tmp_path / "counted.py").write_text(
        "import os\n\n"
        "def score(prompts, completions):\n"
        f"    with open({str(scored)!r}, 'a') as file:\n"
        "        file.writelines(f'{os.getpid()} {len(completions)}\\n' for _ in range(1))\n"
        "    return [float(len(set(text))) for text in completions]\n"
    )
    arguments = [*RLOO, "--model", str(model)]
    arguments[arguments.index("length")] = "counted:score"
    out = {}
    for number in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "PATH", str(tmp_path))
            processes.finish(tmp_path / str(number), arguments, number, devices=DEVICES)
        out[number] = [line.split() for line in scored.read_text().splitlines()]
        scored.unlink()
    assert worst(rows(tmp_path / "1"), rows(tmp_path / "2")) < 1e-9
    assert sum(int(count) for _, count in out[1]) == sum(int(count) for _, count in out[2]) == 3 * 8 * 2
    assert len({process for process, _ in out[1]}) == 1 and len({process for process, _ in out[2]}) == 2


@pytest.mark.long
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_train_what_one_does(model: Path, tmp_path: Path, family: str) -> None:
    """What the two runs above do not have: other states, other data, other models that write."""
    one, two = tmp_path / "one", tmp_path / "two"
    for out, number in ((one, 1), (two, 2)):
        processes.finish(out, (*FAMILIES[family], "--model", str(model)), number, devices=DEVICES)
    assert len(rows(two)) == len(rows(one)) >= 2 and worst(rows(one), rows(two)) < 1e-9
    assert min(row["grad_norm"] for row in rows(two)) > 1e-3
    first, second = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    begun = load_file(model / "model.safetensors")
    assert set(first) == set(second) >= set(begun)
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, rtol=1e-9, atol=1e-12)
    assert max(float(np.abs(first[name] - array).max()) for name, array in begun.items()) > 1e-4, "it was trained"


@pytest.mark.long
@pytest.mark.usefixtures("double")
def test_an_error_of_one_ends_both_with_its_status(model: Path, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(
        "import jax\n\n"
        "def score(prompts, completions):\n"
        "    if jax.process_index() == 1:\n"
        "        raise OSError('the service of rewards is away')\n"
        "    return [0.0 for _ in completions]\n"
    )
    arguments = [*RLOO, "--model", str(model)]
    arguments[arguments.index("length")] = "fails:score"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "PATH", str(tmp_path))
        together = processes.Together(tmp_path / "run", arguments, 2, devices=DEVICES)
    assert together.wait() == [1, 1], together.said()
    assert "process 1 ended the run, status 1" in together.said()
    assert together.said().count("the service of rewards is away") >= 2
