"""What a run does beside its steps (checks, evaluation, replay) lies on the mesh as the steps do, and says the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from alignjax import lm
from alignjax.samples import Samples
from tpu import observe
from tpu.assembly import assemble
from tpu.bridge import Others, pair_metrics
from tpu.mesh import make_mesh
from tpu.partition import batch_shardings, shardings
from tpu.parts import Parts, filled, scorer
from tpu.plan.chips import parse_topology
from tpu.plan.target import slice_mesh
from tpu.replay import look, watched
from tpu.run_config import Settings
from tpu.tasks import RewardModel, scores
from tpu.train_step import MethodTask, TrainState

Struct = jax.ShapeDtypeStruct
WIDE = lm.DecoderConfig(
    d_model=256, d_mlp=512, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=128, vocab_size=512, max_length=256,
    attention="flash", dtype="bfloat16",
)  # fmt: skip


def parts_of(config: lm.DecoderConfig, mesh: Any, batch: int = 8, accumulate: int = 1) -> Parts:
    """DPO on a model of these sizes; nothing else of a run is there."""
    method = alignjax.methods["dpo"]
    rest = dict.fromkeys(field.name for field in dataclasses.fields(Parts) if field.name != "cache")
    task = MethodTask(config, method, {"beta": 0.1})
    settings = SimpleNamespace(method="dpo", batch=batch, accumulate=accumulate)
    return Parts(**rest | {"settings": settings, "decoder": config, "config": config, "task": task, "method": method,
                           "mesh": mesh})  # fmt: skip


def shapes_of(parts: Parts, prompts: int, length: int) -> tuple[TrainState, Any, dict[str, Struct]]:
    """State, reference and a batch as they lie on the mesh, without an array."""
    mesh = parts.mesh
    like = jax.eval_shape(lambda: lm.init(parts.decoder, jax.random.key(0)))
    where = shardings(lm.logical_axes(parts.decoder), like, mesh)
    params = jax.tree.map(lambda x, w: Struct(x.shape, x.dtype, sharding=w), like, where)
    fields = {"tokens": jnp.int32, "loss_mask": jnp.bool_, "attention_mask": jnp.bool_}
    plain = {name: Struct((prompts, 2, length), dtype) for name, dtype in fields.items()}
    there = batch_shardings(plain, mesh)
    batch = {name: Struct(x.shape, x.dtype, sharding=there[name]) for name, x in plain.items()}
    return TrainState(params=params, optimiser=(), step=Struct((), jnp.int32)), params, batch


def programs(parts: Parts, prompts: int, length: int = 128) -> dict[str, Any]:
    """Name -> the program of each, traced for shapes."""
    state, params, batch = shapes_of(parts, prompts, length)
    return {
        "evaluation": jax.jit(parts.sums).trace(state, params, batch),
        "log-probs": scorer(parts.config, parts.mesh).trace(params, batch),
        "replay": watched(parts).trace(state, params, batch),
    }


def test_kernels_run_on_each_devices_own_rows() -> None:
    """XLA cannot split a Pallas call: it must stand in a `shard_map`."""
    for name, program in programs(parts_of(WIDE, make_mesh("fsdp=8")), 8).items():
        text = str(program.jaxpr)
        assert "pallas_call" in text and "shard_map" in text, name


def test_a_batch_is_filled_up_by_prompts_that_count_nowhere() -> None:
    rng = np.random.default_rng(0)
    batch = {"tokens": rng.integers(0, 9, (3, 2, 4)), "loss_mask": np.ones((3, 2, 4), bool), "reward": np.eye(3, 2)}
    found = filled(batch, 5)
    np.testing.assert_array_equal(found["loss_mask"].any((1, 2)), [True, True, True, False, False])
    np.testing.assert_array_equal(found["tokens"][3:], batch["tokens"][[2, 2]])
    np.testing.assert_array_equal(found["reward"][:3], batch["reward"])
    assert batch["loss_mask"].all()
    for name, x in filled(batch, 3).items():
        np.testing.assert_array_equal(x, batch[name])
    placed = parts_of(WIDE, make_mesh("fsdp=4")).placed({n: batch[n] for n in ("tokens", "loss_mask")})
    assert placed["tokens"].shape == (4, 2, 4) and placed["tokens"].sharding.shard_shape((4, 2, 4)) == (1, 2, 4)


def test_prompts_without_responses_count_in_no_metric_of_pairs() -> None:
    logp = np.array([[-1.0, -2.0], [-4.0, -3.0], [0.0, 0.0]])
    mask = np.array([[True, True], [True, True], [False, False]])
    measured = jax.jit(lambda logp, mask: pair_metrics(Samples(logp=logp, ref_logp=0 * logp, response_mask=mask), 1.0))
    some, every = pair_metrics(Samples(logp=logp[:2], ref_logp=0 * logp[:2]), 1.0), measured(logp, mask)
    for name, (total, count) in some.items():
        assert count == every[name][1] == 2 and every[name][0] == pytest.approx(float(total)), name


def test_prompts_without_responses_do_not_count_for_a_reward_model() -> None:
    config = lm.DecoderConfig(d_model=16, d_mlp=16, num_layers=1, num_heads=2, vocab_size=32, max_length=16)
    task = RewardModel(config)
    trained = {"params": task.init(lm.init(config, jax.random.key(0)), jax.random.key(1))}
    trained["params"]["head"] = jax.random.normal(jax.random.key(2), (16,))
    seen = np.ones((3, 2, 16), bool)
    tokens = np.random.default_rng(1).integers(0, 32, seen.shape)
    batch = {"tokens": tokens, "loss_mask": seen & (np.arange(16) > 7), "attention_mask": seen}
    sums = lambda batch: jax.jit(task.sums)(trained, Others(), batch, None)
    found, wanted = sums(filled({n: x[:2] for n, x in batch.items()}, 3)), sums(batch)
    assert found.count == 2 and wanted.count == 3
    r = jax.jit(scores, static_argnums=0)(config, trained["params"], batch)
    margin = np.asarray(r[:2, 0] - r[:2, 1], np.float64)
    assert float(found.loss) == pytest.approx(np.log1p(np.exp(-margin)).sum(), rel=1e-5)
    assert float(found.metrics["margin"][0]) == pytest.approx(margin.sum(), rel=1e-5)
    assert float(found.metrics["mean_reward"][0]) == pytest.approx(float(np.asarray(r[:2]).sum()), rel=1e-5)


@pytest.mark.slow
def test_evaluation_takes_no_more_of_a_device_than_its_part() -> None:
    """Against one device with all of it; the batch is split, and parameters are gathered layer by layer."""
    config = lm.DecoderConfig(
        d_model=64, d_mlp=256, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8, vocab_size=256, max_length=128
    )
    temporaries = {}
    for mesh in ("data=1", "fsdp=8"):
        program = programs(parts_of(config, make_mesh(mesh)), 32)["evaluation"]
        temporaries[mesh] = program.lower().compile().memory_analysis().temp_size_in_bytes
    assert temporaries["fsdp=8"] < temporaries["data=1"] / 6


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pairs, of which no batch of four comes out even."""
    file = tmp_path_factory.mktemp("looking") / "pairs.jsonl"
    said = [{"prompt": f"Say {n}.", "chosen": "a" * (n % 5 + 1), "rejected": "b" * (n % 3 + 1)} for n in range(11)]
    file.write_text("".join(json.dumps(row) + "\n" for row in said))
    return file


@pytest.mark.slow
def test_on_a_mesh_all_is_said_that_one_device_says(rows: Path) -> None:
    """Evaluation of 11 rows, 4 at a time, the checks, and a replay; by the state of one device that is none of step 0,
    and on the mesh by micro-batches of half as many.
    """
    told: dict[str, Any] = {}
    for mesh, accumulate in (("data=1", 1), ("fsdp=2,tensor=2", 2)):
        run = assemble(Settings(
            method="dpo", data=(str(rows),), eval_data=(str(rows),), batch=4, mesh=mesh, accumulate=accumulate,
            max_length=64, eval_prompts=3, max_new_tokens=4,
        ))  # fmt: skip
        moved = jax.tree.map(lambda x: x + 0.01 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
                             run.reference)  # fmt: skip
        state = dataclasses.replace(run.state, params=jax.device_put(moved, jax.tree.map(lambda x: x.sharding,
                                                                                         run.reference)))  # fmt: skip
        assert run.evaluate is not None and run.generate is not None
        batch = run.parts.read(run.parts.batches.batch(0))
        told[mesh] = (
            run.evaluate(state, run.reference), look(run.parts, state, run.reference, batch),
            observe.check(run.parts, run.state, run.reference, 0), run.generate(state, run.reference, 1),
        )  # fmt: skip
    (one, one_look, one_checks, one_texts), (other, other_look, other_checks, other_texts) = told.values()
    assert set(one) == set(other) and abs(one["rewards/margins"]) > 1e-4
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert other_look.pop("losses") == pytest.approx(one_look.pop("losses"), rel=1e-5)
    assert one_look == other_look == {"parameters": [], "gradients": []} and one_texts == other_texts
    assert [line[:15] for line in one_checks] == [line[:15] for line in other_checks]
    assert all(": ok: " in line or ": skipped: " in line for line in (*one_checks, *other_checks)), other_checks
    assert any(line.startswith("check accumulation: ok") for line in other_checks)


@pytest.mark.long
def test_all_of_it_compiles_for_a_slice_that_is_not_here() -> None:
    pytest.importorskip("libtpu")
    mesh = slice_mesh(parse_topology("v5e:2x2"), {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1})
    for name, program in programs(parts_of(WIDE, mesh), 4, 256).items():
        assert "tpu_custom_call" in program.lower().compile().as_text(), name
