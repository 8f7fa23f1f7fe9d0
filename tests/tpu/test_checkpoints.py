"""Checkpoints: what is kept, what is read when the newest is broken, and fingerprints that see one bit."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tpu.arguments import Failed
from tpu.checkpoints import Checkpoints, best_of, flat
from tpu.fingerprint import fingerprint
from tpu.mesh import make_mesh


@functools.cache
def state(shift: float = 0.0) -> Any:
    drawn = np.random.default_rng(0).normal(size=(40, 50)) + shift
    params = {"a": jnp.asarray(drawn, jnp.float32), "b": {"c": jnp.ones(3, jnp.bfloat16)}}
    momentum = optax.sgd(1e-3, momentum=0.9).init(params)
    return {"params": params, "optimiser": momentum, "step": jnp.zeros((), jnp.int32), "none": None}


def same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_last_few_and_the_best_stay_and_come_back(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 4.0, 5: 5.0}  # None: it was not finite
    with Checkpoints(tmp_path / "c", keep=2, keep_best="loss") as kept:
        assert kept.restore(state()) is None and kept.record() is None
        for step, loss in losses.items():
            kept.save(step, state(step), {"batches": {"step": step}}, {"loss": loss, "other": -step})
        kept.wait()
        assert kept.steps() == [2, 4, 5]
    with Checkpoints(tmp_path / "c", keep=2, keep_best="loss") as kept:  # another process would see the same
        found = kept.restore(state())
        assert found is not None and found.step == 5 and found.record["batches"] == {"step": 5}
        same(found.state, state(5))
        kept.drop_after(4)
        assert kept.steps() == [2, 4]
        kept.save(5, state(9.0), {}, {"loss": 0.5})
        kept.wait()
        assert kept.steps() == [4, 5] or kept.steps() == [2, 4, 5]
        same(kept.restore(state()).state, state(9.0))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("loss", ("loss", False)), ("eval/loss", ("eval/loss", False)), ("reward", ("reward", True)),
     ("min:kl", ("kl", False)), ("max:loss", ("loss", True)), ("rewards/accuracies", ("rewards/accuracies", True))],
)  # fmt: skip
def test_which_way_is_better(text: str, expected: tuple[str, bool]) -> None:
    assert best_of(text) == expected


def _flip(folder: Path) -> None:
    """One bit of the file that holds the arrays."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _empty(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [_flip, _empty])
def test_a_broken_checkpoint_is_passed_over_and_told(tmp_path: Path, spoil: Any) -> None:
    with Checkpoints(tmp_path / "c", keep=3) as kept:
        for step in (1, 2):
            kept.save(step, state(step), {"x": step})
        kept.wait()
    spoil(tmp_path / "c" / "2" / "state")
    with Checkpoints(tmp_path / "c", keep=3) as kept:
        with pytest.warns(UserWarning, match=r"step 2 is broken: .*; going on from the one of step 1"):
            found = kept.restore(state())
        assert found is not None and found.step == 1
        same(found.state, state(1))
    spoil(tmp_path / "c" / "1" / "state")
    with Checkpoints(tmp_path / "c", keep=3) as kept, pytest.raises(Failed, match=r"no checkpoint in .* can be read"):
        kept.restore(state())


def test_what_cannot_be_written_names_the_checkpoint_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path / "c", keep=1) as kept:
        kept.save(1, state(1), {})
        kept.wait()

        def full(*arguments: Any, **more: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(kept._manager, "save", full)
        says = r"step 2 could not be written into .*: no space is left on the device; the one of step 1 is whole"
        with pytest.raises(Failed, match=says):
            kept.save(2, state(2), {})
        monkeypatch.undo()
        same(kept.restore(state()).state, state(1))  # type: ignore[union-attr]


def test_a_fingerprint_sees_every_bit_name_and_place_and_no_mesh() -> None:
    tree = {"a": jnp.arange(16.0).reshape(8, 2), "b": jnp.arange(3, dtype=jnp.int8), "c": jnp.ones(2, jnp.bfloat16)}
    known = fingerprint(tree)
    assert known == fingerprint({name: np.asarray(x) for name, x in tree.items()}) and len(known) == 16
    spread = jax.device_put(tree["a"], jax.sharding.NamedSharding(make_mesh("data=8"), jax.P("data")))
    assert fingerprint({**tree, "a": spread}) == known
    bit = np.asarray(tree["a"]).view(np.uint32).copy()
    bit[3, 1] ^= 1
    others = [
        {**tree, "a": jnp.asarray(bit.view(np.float32))},
        {**tree, "a": tree["a"].at[0, 0].set(-0.0)},
        {**tree, "a": tree["a"][::-1]},
        {**tree, "a": tree["a"].reshape(2, 8)},
        {**tree, "b": tree["b"].astype(jnp.uint8)},
        {"d": tree["a"], "b": tree["b"], "c": tree["c"]},
        {**tree, "c": tree["c"].astype(jnp.float32)},
    ]
    assert len({known, *map(fingerprint, others)}) == 1 + len(others)


def test_names_do_not_depend_on_classes() -> None:
    assert set(flat(state())) >= {"params/a", "params/b/c", "step"} and "none" not in flat(state())
    assert list(flat(jnp.ones(2))) == ["value"]
    json.dumps(list(flat(state())))
