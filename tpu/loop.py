"""A training run: what it is (`Run`), and the loop that does it and writes it down."""

import dataclasses
import functools
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import optax
from jax.sharding import Mesh
from tqdm import tqdm

import alignjax
from alignjax import lm
from alignjax.lm.preference_data import PreferenceData
from alignjax.record import Method
from tpu.partition import batch_shardings
from tpu.train_step import (
    TrainState,
    as_read,
    check_method,
    init_state,
    make_train_step,
    mean_loss,
    state_shardings,
)


class FailedRun(RuntimeError):
    """The run began and could not be finished."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that determines a run. Raises: ValueError or TypeError if its parts do not fit together."""

    method: Method
    hyper: Mapping[str, Any]
    """Those of the loss, resolved."""
    model_name: str
    model: lm.DecoderConfig
    data_path: str
    data: PreferenceData
    batch_size: int
    steps: int
    learning_rate: float
    seed: int
    mesh: Mesh
    out: Path

    def __post_init__(self) -> None:
        check_method(self.method, self.data.feedback, self.data.num_responses)
        if self.batch_size > len(self.data):
            raise ValueError(f"--batch {self.batch_size} is more than the {len(self.data)} rows of --data")
        try:
            batch_shardings(self.example(), self.mesh)
        except ValueError as error:
            raise ValueError(f"--batch {self.batch_size} does not fit --mesh: {error}") from None
        try:
            state_shardings(self.model, optax.adam(self.learning_rate), self.mesh)
        except ValueError as error:
            raise ValueError(f"--model {self.model_name} does not fit --mesh: {error}") from None
        # Traced and not run: what the method itself refuses (an unknown divergence, say) is refused now.
        shapes = jax.eval_shape(lambda: lm.init(self.model, jax.random.key(0)))
        jax.eval_shape(
            functools.partial(mean_loss, self.model, self.method, self.hyper), shapes, shapes, self.example()
        )

    def example(self) -> dict[str, Any]:
        """A batch: names and shapes of every batch."""
        return as_read(self.method, next(self.data.batches(self.batch_size, self.seed)))

    def resolved(self) -> dict[str, Any]:
        """The run as plain data, defaults filled in."""
        return {
            "method": self.method.name,
            "source": str(self.method.source),
            "hyperparameters": dict(self.hyper),
            "model": {"name": self.model_name, **dataclasses.asdict(self.model)},
            "data": {
                "path": self.data_path,
                "prompts": len(self.data),
                "responses": self.data.num_responses,
                "length": int(self.data.tokens.shape[-1]),
                "truncated": self.data.truncated,
                "feedback": list(self.data.feedback),
            },
            "optimiser": {"name": "adam", "learning_rate": self.learning_rate},
            "batch": self.batch_size,
            "steps": self.steps,
            "seed": self.seed,
            "mesh": {axis: int(size) for axis, size in self.mesh.shape.items()},
            "devices": {"used": self.mesh.size, "there": jax.device_count(), "platform": jax.default_backend()},
            "versions": {
                "alignjax": alignjax.__version__,
                "jax": jax.__version__,
                "flax": flax.__version__,
                "python": platform.python_version(),
            },
        }


def prepare_out(out: Path) -> None:
    """Makes the folder and tries to write into it. Raises: OSError."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "metrics.jsonl", "a", encoding="utf-8"):
        pass


def train(run: Run, *, on_step: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Runs, writing `config.json`, `metrics.jsonl` (one object per step) and `params` (orbax) into `run.out`.

    `metrics.jsonl` holds at "step" t = 0, 1, ... what was measured before update t, so that step 0 is the reference:
    there the loss of DPO is log 2.

    Returns: a summary as plain data. Raises: FailedRun on a loss that is not finite.
    """
    started = time.perf_counter()
    prepare_out(run.out)
    (run.out / "config.json").write_text(json.dumps(run.resolved(), indent=2) + "\n", encoding="utf-8")
    optimiser = optax.adam(run.learning_rate)
    state, ref_params = init_state(run.model, optimiser, jax.random.key(run.seed), run.mesh)
    step = make_train_step(run.model, run.method, run.hyper, optimiser, run.mesh, run.example())
    batches = run.data.batches(run.batch_size, run.seed)
    losses: list[float] = []
    seconds: list[float] = []
    with open(run.out / "metrics.jsonl", "w", encoding="utf-8") as log:
        for count in tqdm(range(run.steps), desc=run.method.name, disable=not sys.stderr.isatty()):
            began = time.perf_counter()
            state, measured = step(state, ref_params, as_read(run.method, next(batches)))
            metrics = {name: float(value) for name, value in jax.device_get(measured).items()}
            seconds.append(time.perf_counter() - began)
            row = {"step": count, "loss": metrics.pop("loss"), "grad_norm": metrics.pop("grad_norm"), **metrics}
            # JSON has no NaN: what is not finite is null.
            plain = {name: value if math.isfinite(value) else None for name, value in row.items()}
            log.write(json.dumps(plain) + "\n")
            log.flush()
            losses.append(row["loss"])
            if on_step is not None:
                on_step(plain)
            for name in ("loss", "grad_norm"):
                if not math.isfinite(row[name]):
                    raise FailedRun(
                        f"{name} is {row[name]} at step {count}; a smaller --lr may help. "
                        f"The metrics so far are in {run.out / 'metrics.jsonl'}"
                    )
    save_params(run.out / "params", state)
    return {
        "method": run.method.name,
        "steps": run.steps,
        "first_loss": losses[0],
        "final_loss": losses[-1],
        "seconds": time.perf_counter() - started,
        "first_step_seconds": seconds[0],
        "step_seconds": sorted(seconds[1:])[len(seconds[1:]) // 2] if len(seconds) > 1 else None,
        "truncated": run.data.truncated,
        "out": str(run.out),
    }


def save_params(path: Path, state: TrainState) -> None:
    """The parameters as an orbax checkpoint (`StandardCheckpointer().restore(path)` reads it)."""
    import orbax.checkpoint  # slow to import, needed at the end only

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), state.params, force=True)
