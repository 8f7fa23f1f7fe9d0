"""The sharded step: equal on every mesh, right at step 0, going down; and which methods a file can feed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import alignjax
from alignjax import lm
from tpu.bridge import Others
from tpu.mesh import make_mesh
from tpu.partition import RULES, spec
from tpu.tasks import Sft
from tpu.train_step import (
    Carried,
    MethodTask,
    as_read,
    baseline_of,
    check_method,
    init_state,
    loss_hyperparameters,
    make_train_step,
    mean_loss,
    new_state,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "tpu" / "examples"
CONFIG = lm.DecoderConfig(d_model=16, d_mlp=16, num_layers=1, num_heads=2, max_length=64)
ADAM = optax.adam(1e-2, eps=1e-3)  # the large eps keeps tiny gradients from becoming updates of full size


def example(method: str, num: int = 8) -> dict[str, Any]:
    file = "pairs.jsonl" if method == "dpo" else "sampled.jsonl"
    data = lm.read_preferences(EXAMPLES / file, max_length=64)
    return as_read(alignjax.methods[method], next(data.batches(num)))


def two_steps(method: str, mesh: str) -> tuple[Any, Any]:
    """Metrics of both steps, and the last state; step 1 is no longer at the reference."""
    record, where, batch = alignjax.methods[method], make_mesh(mesh), example(method)
    state, reference = init_state(CONFIG, ADAM, jax.random.key(0), where)
    assert state.params["embedding"].sharding.is_fully_replicated == ("fsdp" not in mesh and "tensor" not in mesh)
    step = make_train_step(CONFIG, record, loss_hyperparameters(record, {}), ADAM, where, batch)
    state, first = step(state, reference, batch)
    state, second = step(state, reference, batch)
    return jax.device_get((first, second)), state


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "nash_md_pg"])
def test_every_mesh_gives_the_same_step(method: str) -> None:
    metrics, plain = two_steps(method, "data=1")
    assert int(plain.step) == 2
    meshes = ("data=8", "data=4,tensor=2", "fsdp=8") if method == "dpo" else ("data=4,tensor=2",)
    for mesh in meshes:
        sharded_metrics, sharded = two_steps(method, mesh)
        for got, wanted in zip(sharded_metrics, metrics, strict=True):
            assert got.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=f"{mesh} {name}")
        # The moments of Adam are the gradients, so these compare gradients, parameters and everything else.
        paths, wanted_leaves = zip(*jax.tree_util.tree_leaves_with_path(plain), strict=True)
        for path, got, wanted in zip(paths, jax.tree.leaves(sharded), wanted_leaves, strict=True):
            scale = np.abs(np.asarray(wanted)).max()
            label = f"{mesh} {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * scale, err_msg=label)
        assert len({d for leaf in jax.tree.leaves(sharded.params) for d in leaf.sharding.device_set}) == 8
        if mesh != "data=8":
            assert not sharded.params["embedding"].sharding.is_fully_replicated
            assert sharded.optimiser[0].mu["embedding"].sharding == sharded.params["embedding"].sharding


def test_step_0_is_the_reference_and_the_loss_goes_down() -> None:
    """DPO at policy = reference: loss log 2, rewards 0, no accuracy yet. Then 30 steps on one batch."""
    method, mesh, batch = alignjax.methods["dpo"], make_mesh("data=1"), example("dpo")
    state, reference = init_state(CONFIG, ADAM, jax.random.key(0), mesh)
    before = jax.device_get(reference)
    step = make_train_step(CONFIG, method, {"beta": 0.1}, ADAM, mesh, batch)
    state, first = step(state, reference, batch)
    np.testing.assert_allclose(first["loss"], np.log(2), rtol=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        np.testing.assert_allclose(first[name], 0, atol=1e-5)
    for _ in range(30):
        state, last = step(state, reference, batch)
    assert last["loss"] < 0.5 * first["loss"] and last["rewards/accuracies"] == 1
    np.testing.assert_allclose(
        last["rewards/margins"], last["rewards/chosen"] - last["rewards/rejected"], rtol=1e-4, atol=1e-5
    )
    jax.tree.map(np.testing.assert_array_equal, reference, before)


@pytest.mark.slow
def test_metrics_of_sampled_pairs_follow_the_preference() -> None:
    """The chosen response is the likelier winner, in whichever place it stands."""
    batch = example("nash_md_pg")
    method, hyper = alignjax.methods["nash_md_pg"], {"beta": 0.1}
    policy, reference = (lm.init(CONFIG, key) for key in jax.random.split(jax.random.key(0)))
    there = lambda b: mean_loss(CONFIG, method, hyper, policy, reference, b)
    exchanged = {name: array[:, ::-1] for name, array in batch.items()}
    exchanged["preference"] = batch["preference"][:, ::-1, ::-1]
    (loss, metrics), (other_loss, other_metrics) = there(batch), there(exchanged)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, other_metrics[name], rtol=1e-4, err_msg=name)
    first = batch["preference"][:, 0, 1] > 0.5
    assert 0 < first.sum() < len(first)  # both orders are there
    scored = lm.token_logps(CONFIG, policy, batch["tokens"], batch["loss_mask"], batch["attention_mask"]).sum(-1)
    np.testing.assert_allclose(metrics["logps/chosen"], np.where(first, *scored.T).mean(), rtol=1e-5)


def full_batch(method: Any, prompts: int = 4, time: int = 12) -> dict[str, Any]:
    """A batch with every field, of random tokens and feedback, for the K of the method."""
    k, rng = method.num_responses or 2, np.random.default_rng(0)
    p = rng.uniform(size=(prompts, k, k))
    reward = rng.normal(size=(prompts, k, 2))
    trained = np.arange(time) >= 5
    return {
        "tokens": rng.integers(0, 200, (prompts, k, time)).astype(np.int32),
        "loss_mask": np.broadcast_to(trained, (prompts, k, time)),
        "attention_mask": np.ones((prompts, k, time), bool),
        "preference": (0.5 + 0.5 * (p - p.swapaxes(-1, -2))).astype(np.float32),
        "win_rate": rng.uniform(size=(prompts, k)).astype(np.float32),
        "reward": reward[..., 0].astype(np.float32),
        "rewards": reward.astype(np.float32),
        "behaviour_token_logp": np.where(trained, -5.0, 0.0) * np.ones((prompts, k, 1), np.float32),
    }


def test_every_method_is_fed_and_the_files_that_cannot_feed_one_are_refused() -> None:
    """Traced: each method's sums on a batch with every field, with the models it reads; and what a file lacks."""
    params = jax.eval_shape(lambda: lm.init(CONFIG, jax.random.key(0)))
    from_file = set(example("nash_md_pg"))
    for name, method in alignjax.methods.items():
        carried = Carried.by(method)
        batch = as_read(method, full_batch(method))
        check_method(method, batch, method.num_responses or 2, online=True)
        state = jax.eval_shape(lambda p, c=carried: new_state(ADAM, p, c, d_model=16), params)
        task = MethodTask(CONFIG, method, loss_hyperparameters(method, {}, online=True), baseline_of(method))
        trained = {"params": params, "value": state.value}
        others = Others(params, state.anchor, state.history)
        sums = jax.eval_shape(task.sums, trained, others, batch, None)
        assert sums.loss.shape == () and sums.count.shape == ()
        assert (state.anchor is not None) == ("anchor_logp" in method.reads or method.anchor_update is not None)
        assert (state.history is not None) == ("opponent_logp" in method.reads)
        if "reward" in method.feedback:
            with pytest.raises(ValueError, match=rf"{name} reads a reward that is made from samples"):
                check_method(method, {*from_file, "reward"}, method.num_responses or 2)
        for field in {"reward", "win_rate", "rewards"} & set(method.reads):
            column = r"'preference'" if field == "win_rate" else r"'rewards'"
            with pytest.raises(ValueError, match=f"{column}|made from samples"):
                check_method(method, {*from_file} - {field}, method.num_responses or 2)


def test_the_law_of_a_spec() -> None:
    mesh = make_mesh("data=2,fsdp=2,tensor=2")
    assert spec(("prompt", "response", "time"), (8, 2, 5), mesh) == PartitionSpec(("data", "fsdp"), None, None)
    assert spec(("vocab", "embed"), (264, 16), mesh) == PartitionSpec(("tensor",), ("fsdp",))
    assert spec(("mlp", "vocab"), (4, 3), mesh) == PartitionSpec(("tensor",), None)  # a mesh axis is used once
    assert spec(("prompt",), (3,), make_mesh("data=1")) == PartitionSpec(None)
    assert RULES["response"] == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: spec(("prompt", "time"), (6, 3), m, name="tokens"),
         r"tokens: axis 'prompt' of size 6 cannot be split evenly over data=4 \(4 devices\)"),
        (lambda m: spec(("prompts",), (8,), m), "unknown logical axis 'prompts'; did you mean 'prompt'"),
        (lambda m: spec(("prompt",), (8, 2), m), "has 2 dimensions, but axes"),
        (lambda m: make_mesh("data=3,tensor=3"), "mesh data=3,tensor=3 needs 9 devices, but there are 8"),
        (lambda m: make_mesh("dta=2"), "unknown mesh axis 'dta'; did you mean 'data'"),
        (lambda m: make_mesh("data=0"), "must look like data=4,tensor=2, with sizes >= 1; got 'data=0'"),
        (lambda m: make_mesh("dta"), "got 'dta' .by name there are data, fsdp"),
        (lambda m: make_mesh("data=2,data=2"), "names the axis 'data' twice"),
        (lambda m: make_mesh({"data": 2.0}), "mesh axis data must be an integer >= 1"),
        (lambda m: make_train_step(CONFIG, alignjax.methods["dpo"], {}, ADAM, m, example("dpo", 6)),
         "axis 'prompt' of size 6 cannot be split evenly over data=4"),
        (lambda m: init_state(CONFIG, ADAM, jax.random.key(0), make_mesh("tensor=4")),
         r"\['key'\]: axis 'kv_heads' of size 2 cannot be split evenly over tensor=4"),
        (lambda m: check_method(alignjax.methods["dpo"], (), 3), "dpo needs 2 responses to a prompt; the data have 3"),
        (lambda m: check_method(alignjax.methods["rloo"], ("reward",), 1), "rloo needs at least 2 responses"),
        (lambda m: check_method(alignjax.methods["nash_md_pg"], (), 2),
         "nash_md_pg reads win_rate: the data lack the column 'preference'"),
        (lambda m: check_method(alignjax.methods["grpo"], ("win_rate",), 2),
         "grpo reads reward: the data lack the column 'rewards'"),
        (lambda m: loss_hyperparameters(alignjax.methods["nash_md_pg"], {"mixture": 0.5}),
         "mixture belongs to a law that nash_md_pg draws from"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(make_mesh("data=4,tensor=2"))


def test_tokens_are_counted_over_all_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 rows of 5 tokens, of which the last n = 0..3, 0..3 are trained: 12, however the batch is split."""
    monkeypatch.setattr(lm, "token_logps", lambda config, params, tokens, trained, there: jnp.float32(-1) * trained)
    trained = np.arange(5) >= 5 - (np.arange(8) % 4)[:, None]
    batch = {"tokens": np.zeros((8, 5), int), "loss_mask": trained, "attention_mask": np.ones((8, 5), bool)}
    sums = lambda rows: Sft(CONFIG).sums({"params": None}, Others(), {n: x[rows] for n, x in batch.items()}, None)
    parts = jax.tree.map(lambda a, b: a + b, sums(slice(0, 3)), sums(slice(3, 8)))
    for found in (sums(slice(None)), parts):
        loss, metrics = found.means()
        assert float(loss) == 1.0 and float(metrics["num_trained_tokens"]) == 12
