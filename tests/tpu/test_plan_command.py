"""`python -m tpu plan`: what is refused and how, what is printed, and the flags of `train` that it names."""

import dataclasses
import json
import os
import subprocess
import sys
import types

import pytest

from tests.tpu.small_llama import SMALL
from tpu import cli, layouts
from tpu.arguments import Parser
from tpu.commands import train
from tpu.plan import cache, memory, planning, program, target
from tpu.plan.program import Request
from tpu.plan.train_flags import train_flags

ASKED = ["plan", "--model", "llama3-8b", "--topology", "v5e:4x4"]
EIGHT = Request(model="llama3-8b", topology="v5e:4x4", batch=32)
N = 8_030_261_248


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch) -> None:
    monkeypatch.setattr(cache, "read", lambda *_: None)
    monkeypatch.setattr(cache, "write", lambda *_: None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--mesh", "fsdp=8"], "mesh fsdp=8 has 8 devices, there are 16; the nearest that fits is fsdp=16"),
        (["--mesh", "fsdp=8", "--search"], "has 8 devices, there are 16"),
        (["--model", "llama3-70b", "--mesh", "fsdp=32"], "has 32 devices, there are 16"),  # memory is not to blame
        (["--mesh", "tensor=16"], "kv_heads"),
        (["--batch", "0"], "--batch: must be auto, or an integer >= 1; got '0'"),
        (["--batch", "-3"], "got '-3'"),
        (["--batch", "31"], "of 31 prompts the nearest that fit are 16 on fsdp=16 and 32 on fsdp=16"),
        (["--batch", "40", "--mesh", "fsdp=16"], "40 prompts the nearest that fit are 32 on fsdp=16 and 48 on fsdp=16"),
        (["--topology", "v5e:5x5"], "v5e:5x5 is not offered; slices of v5e are 1x1, 2x2, 2x4"),
        (["--topology", "v5p:3x4x4"], "v5p:3x4x4 is not offered"),
        (["--method", "sft"], "--method dpo --precomputed"),
        (["--method", "reward-model"], "--method dpo --precomputed"),
        (["--model", "gs://bucket/llama3-8b"], "config.json"),
        (["--reference-dtype", "float16"], "bfloat16"),
        (["--reference-dtype", "float64"], "float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_before_anything_is_said_or_compiled(
    monkeypatch, capsys, given, says
) -> None:
    monkeypatch.setattr(planning, "make_plan", lambda _: pytest.fail("it was compiled"))
    batch = [] if "--batch" in given or "fsdp=8" in given or "fsdp=32" in given else ["--batch", "32"]
    assert cli.main([*ASKED, *batch, *given]) == 2
    said = capsys.readouterr()
    assert says in said.err and said.out == "" and "takes a minute" not in said.err and "GiB" not in said.err


@pytest.mark.parametrize("wide", [[], ["--search"]])
def test_where_nothing_fits_the_least_is_printed_by_hand_counts_and_the_status_is_1(monkeypatch, capsys, wide) -> None:
    monkeypatch.setattr(planning, "make_plan", lambda _: pytest.fail("it was compiled"))
    asked = ["plan", "--model", "llama3-70b", "--topology", "v5e:4x4", *wide]
    assert cli.main([*asked, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    if wide:
        assert [row["fits"] for row in said["ranked"]] == [False]
    else:
        chip = said["per_chip"]
        assert said["fits"] is False and said["params"] == 70_553_706_496 and "by hand" in said["assumptions"][0]
        assert chip["argument_bytes"] + chip["temp_bytes"] == chip["peak_hbm_bytes"] > chip["hbm_capacity_bytes"]
        assert chip["argument_bytes"] == pytest.approx(70_553_706_496 * 14 / 16)
        assert cli.main(asked) == 1
        assert "DOES NOT FIT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mesh": "fsdp=4,tensor=4", "batch": 16, "accumulate": 2, "optimizer": "lion", "remat": "dots", "seq": 512},
        {"method": "td-mnpo", "history": 3, "reference_dtype": "float32"},
        {"precomputed": "reference"},
        {"slices": 2},
    ],
)
def test_the_flags_of_train_that_are_printed_say_what_was_planned(changes) -> None:
    request = dataclasses.replace(EIGHT, **changes)
    job = program.read_request(request)
    sizes = planning.looked_up(request)[2]
    flags = train_flags(dataclasses.replace(request, mesh=layouts.words(sizes)))
    parser = Parser()
    train.add_arguments(parser)
    told = train.settings_of(parser.parse_args([*flags, "--data", "pairs.jsonl"]))
    same = ("batch", "accumulate", "remat", "dtype", "param_dtype", "optimizer")
    assert all(getattr(told, name) == getattr(request, name) for name in same)
    assert told.method == job.method.name and told.max_length == request.seq
    assert layouts.sizes_of(told.mesh, 16 * request.slices, request.slices) == sizes
    assert told.reference_dtype == (request.reference_dtype if "ref" in job.models else None)
    assert "opponent" not in job.models or told.history == request.history == job.models["opponent"]


def test_the_command_prints_the_flags_of_train_and_scaled_units(monkeypatch, capsys, tmp_path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL))
    monkeypatch.setattr(target, "need_libtpu", lambda: None)
    monkeypatch.setattr(planning, "make_plan", planning.by_hand)
    asked = ["plan", "--model", str(file), "--topology", "v5e:2x4", "--batch", "8", "--seq", "128"]
    assert cli.main([*asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["train_flags"][:4] == ["--method", "dpo", "--mesh", "fsdp=8"] and said["compile_cpu_seconds"] == 0
    assert cli.main(asked) == 0
    out = capsys.readouterr().out
    parameters = (2 * 1024 * 256 + 4 * (4 * 256 * 256 + 3 * 256 * 768 + 2 * 256) + 256) * 4 / 8 / 2**20
    assert f"{parameters:.2f} MiB" in out and " us" in out and "0.00 GiB" not in out
    assert "--mesh fsdp=8 --batch 8" in out and "--dtype bfloat16" in out and "--remat full" in out


def test_what_a_chip_holds_at_the_start_by_hand() -> None:
    """N parameters in float32, two moments of them, a reference in bfloat16; tokens and two masks of every row."""
    job = program.read_request(EIGHT)
    found = memory.arguments(job, {"data": 1, "fsdp": 16, "sequence": 1, "tensor": 1})
    assert found["parameters"] == N * 4 // 16 and found["ref"] == N * 2 // 16
    assert found["optimiser"] == pytest.approx(2 * N * 4 / 16, rel=1e-6)
    rows = 32 * 2 / 16 * 2048
    assert rows * (4 + 1 + 1) <= found["batch"] < rows * (4 + 1 + 1) * 1.01
    bare = program.read_request(dataclasses.replace(EIGHT, optimizer="sgd", precomputed="reference"))
    assert memory.arguments(bare, {"data": 1, "fsdp": 16, "sequence": 1, "tensor": 1})["optimiser"] < 100


def test_arguments_and_temporaries_add_up_to_the_peak_whatever_the_compiler_calls_temporary(monkeypatch) -> None:
    """Sizes as libtpu gives them for 8B on v5e:4x4: arguments and its temp_size are more than its peak, by what lies in
    donated arguments; the program is not in it.
    """
    sizes = {"argument_size": 7.03e9, "temp_size": 13.11e9, "output_size": 6.02e9, "alias_size": 6.02e9,
             "generated_code_size": 0.2e9, "peak_memory": 15.68e9}  # fmt: skip
    given = types.SimpleNamespace(**{f"{name}_in_bytes": int(size) for name, size in sizes.items()})
    text = (
        "HloModule m\n\nENTRY %main (x: f32[8,8]) -> f32[8,8] {\n  %x = f32[8,8]{1,0} parameter(0)\n"
        "  ROOT %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n}\n"
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: given, as_text=lambda: text)
    monkeypatch.setattr(planning, "lower", lambda *_: types.SimpleNamespace(compile=lambda **_: compiled))
    monkeypatch.setattr(planning, "slice_mesh", lambda *_: target.cpu_mesh({"data": 1, "fsdp": 8, "tensor": 1}))
    plan = planning.make_plan(EIGHT)
    chip = plan.per_chip
    assert (chip.argument_bytes, chip.temp_bytes, chip.program_bytes) == (7_030_000_000, 8_650_000_000, 200_000_000)
    assert chip.peak_hbm_bytes == 15_680_000_000 and plan.fits
    assert plan.details["compiler_memory"]["temp_size"] == 13_110_000_000
    parts = plan.details["argument_bytes"]
    assert sum(parts.values()) == chip.argument_bytes and abs(parts["other"]) < 0.01 * chip.argument_bytes
    assert any("argument_bytes + temp_bytes = peak_hbm_bytes" in line for line in plan.assumptions)


def test_a_plan_is_of_what_the_environment_tells_the_compiler(monkeypatch) -> None:
    for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
        without = cache.key(EIGHT)
        monkeypatch.setenv(name, "--xla_tpu_enable_latency_hiding_scheduler=false")
        assert cache.key(EIGHT) != without
        monkeypatch.delenv(name)
        assert cache.key(EIGHT) == without


@pytest.mark.long
def test_libtpu_says_nothing_of_the_cloud_that_is_not_here() -> None:
    pytest.importorskip("libtpu")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
    asks = (
        "from tpu.plan import chips, target; import jax; jax.config.update('jax_platforms', 'cpu'); "
        "t = chips.parse_topology('v5e:2x4'); print(target.slice_mesh(t, {'fsdp': 8}).devices.size)"
    )
    done = subprocess.run([sys.executable, "-c", asks], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout == "8\n" and done.stderr == ""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"all-gather fsdp": 42e9, "all-reduce fsdp": 32.7e9}, "32.7 GB"),  # 8B on v5e:8x8, fsdp=64
        ({"all-gather fsdp": 42e9, "reduce-scatter fsdp": 16e9, "all-reduce fsdp": 1e9}, ""),
        ({"all-gather data": 1e9, "all-reduce data": 1e9}, ""),
        ({}, ""),
    ],
)
def test_gradients_that_are_not_scattered_are_told(said: dict[str, float], told: str) -> None:
    lines = planning._all_reduced(said)
    assert len(lines) == bool(told) and (not told or told in lines[0])
