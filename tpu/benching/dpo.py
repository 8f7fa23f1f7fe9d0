"""A step of DPO, forwards, backwards and Adam, beside TRL's trainer on the same weights and texts."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import optax

import alignjax
from alignjax import lm
from tpu.benching import work
from tpu.benching.race import Line, Machine, Rival, Told, beside_rival, clocked
from tpu.mesh import make_mesh
from tpu.train_step import init_state, make_train_step

AIM = ">= 1.5"


def step_of(size: work.Size, method: str, params: object, batch: dict) -> Callable[[], Told]:
    """One update as a contender; it goes on from where the last one was."""
    record, mesh = alignjax.methods[method], make_mesh("data=1")
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6))
    state, reference = init_state(size.config, optimiser, jax.random.key(0), mesh, params=params)  # type: ignore[arg-type]
    step = make_train_step(size.config, record, {"beta": 0.1}, optimiser, mesh, batch)
    kept = [state]

    def run() -> object:
        kept[0], metrics = step(kept[0], reference, placed)
        return metrics, kept[0]

    placed = work.place(batch)
    return clocked(run, size.tokens)


def lines(quick: bool, repeats: int, python: str | None, machine: Machine) -> list[Line]:
    """Ours, TRL's."""
    size = work.small(quick)
    what = f"DPO step: {size}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batch, rows = work.batch(size, folder)
        params = lm.init(size.config, jax.random.key(0))
        lm.save(folder, size.config, params, lm.ByteTokenizer())
        job = {"task": "dpo", "folder": name, "rows": rows, "length": size.length, "steps": repeats + 1}
        limit = size.tokens * machine.flops / work.flops(size, int(batch["loss_mask"].sum()), 4)
        start = lambda: Rival(python, job, ("torch", "transformers", "trl"))
        ours = step_of(size, "dpo", params, batch)
        return beside_rival(what, ours, "TRL DPOTrainer", start, repeats, AIM, limit)
