"""What a run begins with: the parameters that were read, in no more memory than the run has anyway."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpu import assembly
from tpu.models import load_model
from tpu.run_config import Settings

EXAMPLES = Path(__file__).resolve().parents[2] / "tpu" / "examples"
NAMED = {"reward": ("length",), "reference": "tiny", "reference_dtype": "bfloat16"}


def held() -> int:
    """Bytes of all arrays that there are; two may be one in memory, as here those of the host and of the device."""
    gc.collect()
    arrays = (x for x in jax.live_arrays() if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
    pieces = [piece.data for x in arrays for piece in x.addressable_shards]
    return sum({piece.unsafe_buffer_pointer(): piece.nbytes for piece in pieces}.values())


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes on the device while each program runs that is made meanwhile: what is there, and what it makes."""
    real, found = jax.jit, []

    class Watched:
        def __init__(self, *args: Any, **settings: Any) -> None:
            self.program = real(*args, **settings)

        def __call__(self, *args: Any) -> Any:
            if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args)):
                needs = self.program.lower(*args).compile().memory_analysis()
                makes = needs.output_size_in_bytes + needs.temp_size_in_bytes - needs.alias_size_in_bytes
                found.append(held() + makes)
            return self.program(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.program, name)

    monkeypatch.setattr(jax, "jit", Watched)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({"method": "dpo", "reference_dtype": "bfloat16"}, 3 * 4 + 2),
        ({"method": "dpo"}, 4 * 4),
        ({"method": "slic"}, 3 * 4),
        ({"method": "sft"}, 3 * 4),
        (
            {"method": "nash_ema_pg", "reward": ("length",), "reference": "tiny", "reference_dtype": "bfloat16"},
            4 * 4 + 2,
        ),
    ],
)
def test_no_array_is_there_twice(settings: dict[str, Any], width: int, peaks: list[int]) -> None:
    """`width`: bytes a parameter of policy, Adam's moments, anchor and reference, by hand."""
    _, params, _ = load_model("tiny")
    params = jax.tree.map(np.array, params)
    before = held()
    data = "messages.jsonl" if settings["method"] == "sft" else "pairs.jsonl"
    run = assembly.assemble(
        Settings(data=(str(EXAMPLES / data),), batch=4, mesh="data=1", max_length=64, max_new_tokens=8, **settings)
    )
    size = sum(x.size for x in jax.tree.leaves(params))
    assert run.flops_per_token == (8 if run.reference is not None else 6) * size
    assert peaks and (max(peaks) - before) / size == pytest.approx(width, abs=0.1)
    jax.tree.map(np.testing.assert_array_equal, run.state.params, params)
    if run.reference is not None:
        dtype = settings.get("reference_dtype", "float32")
        jax.tree.map(np.testing.assert_array_equal, run.reference, jax.tree.map(lambda x: jnp.astype(x, dtype), params))
    if run.state.anchor is not None:
        jax.tree.map(np.testing.assert_array_equal, run.state.anchor, params)


@pytest.mark.slow
def test_flops_of_adapters() -> None:
    """The frozen decoder needs no gradient of its own: forwards, backwards through it, and the reference."""
    run = assembly.assemble(
        Settings(
            method="dpo", data=(str(EXAMPLES / "pairs.jsonl"),), batch=4, mesh="data=1", max_length=64, lora_rank=2
        )
    )
    frozen, trained = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (run.reference, run.state.params))
    assert run.flops_per_token == 6 * frozen + 6 * trained
