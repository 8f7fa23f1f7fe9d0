"""Generation on the training mesh: the tokens of one device, from copies that lie by the rule, at a cost."""

from __future__ import annotations

import operator
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from alignjax import lm
from tests.tpu.test_rollout import CONFIG, OTHERS, POLICY, prompts, rollout
from tpu import resharding
from tpu.bridge import Others
from tpu.mesh import make_mesh
from tpu.partition import shardings
from tpu.resharding import Generation

AXES = lm.logical_axes(CONFIG)


def placed(params: Any, mesh: Any) -> Any:
    return jax.device_put(params, shardings(AXES, params, mesh))


def on(mesh: Any) -> Generation:
    return Generation(AXES, mesh, np.dtype("float32"))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["fsdp=8", "fsdp=4,tensor=2", "fsdp=4,sequence=2"])
def test_a_rollout_on_a_mesh_is_that_of_one_device(sizes: str) -> None:
    """Nash-MD: the policy's responses, and rivals from the mixture with the reference. One copy of each model."""
    mesh, key, batch = make_mesh(sizes), jax.random.key(3), prompts(16)
    plain = rollout("nash_md_pg")(POLICY, OTHERS, batch, key)
    there = on(mesh)
    split = rollout("nash_md_pg", generation=there)(
        placed(POLICY, mesh), Others(reference=placed(OTHERS.reference, mesh)), batch, key
    )
    for name in plain.batch:
        np.testing.assert_allclose(split.batch[name], plain.batch[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(split.batch["tokens"], plain.batch["tokens"])
    assert not there._held
    one = sum(map(by_hand(mesh), jax.tree.leaves(POLICY), leaf_axes()))
    assert split.metrics["timing/reshard_bytes"] == 2 * one and split.metrics["timing/reshard_seconds"] > 0
    assert there.cost()["timing/reshard_bytes"] == 0


def leaf_axes() -> Any:
    return jax.tree.leaves(AXES, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))


def by_hand(mesh: Any) -> Any:
    """Bytes that arrive: of a device's heads all columns but its own."""
    tensor, columns = mesh.shape["tensor"], mesh.shape["fsdp"] * mesh.shape["sequence"]

    def bytes_of(x: Any, axes: Any) -> int:
        own = 4 * x.size // (tensor if {"vocab", "heads", "kv_heads", "mlp"} & set(axes) else 1)
        return own - own // (columns if "embed" in axes else 1)

    return bytes_of


def test_where_a_copy_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make_mesh("fsdp=4,tensor=2")
    policy = placed(POLICY, mesh)
    there = Generation(AXES, mesh, np.dtype("bfloat16"))
    with there:
        copy = there.params(policy)
        assert all(map(operator.is_, jax.tree.leaves(there.params(policy)), jax.tree.leaves(copy)))
        kernel = copy["layers"]["mlp"]["up"]
        assert kernel.dtype == "bfloat16" and kernel.sharding.spec == jax.P(None, None, ("tensor",))
        assert policy["layers"]["mlp"]["up"].sharding.spec == jax.P(None, ("fsdp",), ("tensor",))
    assert len(there.rows(np.zeros((8, 3))).sharding.device_set) == 8
    assert there.rows(np.zeros((8, 3))).sharding.shard_shape((8, 3)) == (2, 3)
    assert there.rows(np.zeros((6, 3))).sharding.shard_shape((6, 3)) == (6, 3)  # 4 do not divide it
    # A device that is too small for it: it lies as it is trained.
    monkeypatch.setattr(resharding, "ROOM", 0.0)
    monkeypatch.setattr(
        type(mesh.local_mesh.devices.flat[0]), "memory_stats", lambda self: {"bytes_limit": 1}, raising=False
    )
    with there:
        assert there.params(policy)["layers"]["mlp"]["up"].sharding.spec == jax.P(None, ("fsdp",), ("tensor",))


def test_models_of_adapters_share_their_base_and_nothing_else() -> None:
    """Policy, reference (adapters off) and anchor (others) are three models, and what they sit on is copied once."""
    mesh = make_mesh("fsdp=8")
    model = lm.LoRA(base=CONFIG, rank=2)
    began = lm.lora.init(model, POLICY, jax.random.key(0))
    base, zero = placed(began["base"], mesh), jax.device_put(began["lora"], NamedSharding(mesh, jax.P()))
    policy = {"base": base, "lora": jax.tree.map(lambda x: x + 1.0, zero)}
    reference, anchor = {"base": base, "lora": {}}, {"base": base, "lora": zero}
    there = Generation(lm.logical_axes(model), mesh, np.dtype("float32"))
    with there:
        copies = [there.params(one) for one in (policy, reference, anchor)]
        for copy, one in zip(copies, (policy, reference, anchor), strict=True):
            assert jax.tree.structure(copy) == jax.tree.structure(one)
            jax.tree.map(np.testing.assert_array_equal, copy, one)
            assert all(map(operator.is_, jax.tree.leaves(copy["base"]), jax.tree.leaves(copies[0]["base"])))
