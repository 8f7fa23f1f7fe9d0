"""The loop of a training run: steps, evaluations, checkpoints, and going on exactly where it was cut off.

At the boundary t, after t updates: evaluate if that is due, save if that is due, and then make update t. A checkpoint
of the boundary t holds everything that the rest of the run depends on, so that a run which is killed at any moment and
resumed writes the same bytes into metrics.jsonl and ends at the same weights.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from alignjax import checks
from tpu.arguments import Failed, UsageError
from tpu.checkpoints import Checkpoints, best_of
from tpu.distributed import begin, first, is_first, preempted, several
from tpu.global_arrays import fetched
from tpu.metrics import RunLog, read_rows
from tpu.remote import SmallFiles
from tpu.run_folder import EXPORTED, FILES, check_same_run, exported_steps, held, write

Batch = Mapping[str, Any]


class Preempted(RuntimeError):
    """SIGTERM: the run saved itself and can be resumed."""


class Batches(Protocol):
    """An endless iterator whose position is plain data; the same seed gives the same batches on any machine."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(kw_only=True)
class Run:
    """A run that is put together and checked: everything the loop calls."""

    name: str
    out: Any
    """The folder: a `Path`, or one of a bucket with the same methods."""
    steps: int
    state: Any
    """At step 0, in place on the mesh. A pytree; `step` donates it."""
    reference: Any
    step: Callable[[Any, Any, Batch], tuple[Any, dict[str, Any]]]
    """(state, reference, batch) -> (state, metrics). With a loss or gradient that is not finite it returns the state it
    was given (see `keep_if_not_finite`).
    """
    batches: Batches
    learning_rate: Callable[[int], Any]
    identity: Mapping[str, Any]
    """What a resumed run must agree on."""
    described: Mapping[str, Any]
    """config.json, but for the identity."""
    yaml: str = ""
    """config.yaml."""
    prepare: Callable[[Any, Any, Batch, int], tuple[Batch, Mapping[str, Any]]] | None = None
    """(state, reference, batch of the data, t) -> (batch of the step, metrics, those of timing.jsonl as `timing/NAME`):
    online methods draw their responses here. Its randomness is a function of the seed and of t.
    """
    evaluate: Callable[[Any, Any], Mapping[str, float]] | None = None
    generate: Callable[[Any, Any, int], list[Mapping[str, Any]]] | None = None
    """(state, reference, step) -> rows of samples.jsonl: "text" and what else there is to say."""
    export: Callable[[Path, Any, Any], None] | None = None
    """(folder, state, reference): writes the trained model."""
    check: Callable[[Any, Any, int], list[str]] | None = None
    """(state, reference, updates made before) -> the checks at the start, a line each. Raises: UsageError."""
    copied: bool = False
    """`out` is a bucket: small files are written elsewhere and copied there (see `SmallFiles`)."""
    say: Callable[[str], None] = lambda line: None
    """Tells the user a line."""
    place: Callable[[Batch], Batch] | None = None
    """Puts a batch of NumPy arrays on a mesh that several processes make; None: the step takes it as it is."""
    save_every: int = 100
    save_async: bool = True
    """Go on while a checkpoint is being written; else no more than `save_every` updates can ever be lost."""
    keep: int = 2
    keep_best: str | None = None
    eval_every: int = 0
    flops_per_token: float | None = None
    peak_flops: float | None = None
    """Of the devices together, a second."""
    parts: Any = None
    """What it was put together from, for who looks closer."""
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the summary at the end says besides."""


# --- stopping


class Stop:
    """Within, SIGTERM asks for a stop at the next boundary. Only the main thread can be asked; elsewhere nothing
    changes. Of several processes any may be asked: JAX's runtime has the signal, and they agree on a boundary.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread() and not several()

    def at(self, boundary: int) -> bool:
        """Whether to stop here. All processes ask at every boundary."""
        return preempted(boundary) if several() else self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __enter__(self) -> "Stop":
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)


def keep_if_not_finite(step: Callable[..., tuple[Any, dict[str, Any]]]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A step that leaves the state as it was where the loss or the norm of the gradient is not finite, so that the
    parameters that made it so are there to be looked at. Jitted; the state is donated.
    """

    def guarded(state: Any, reference: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        new, metrics = step(state, reference, batch)
        fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        return jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state), metrics

    return jax.jit(guarded, donate_argnums=0)


# --- the loop


def train(run: Run, *, resume: bool = False, on_step: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Runs to `run.steps` and writes what `FILES` and `FOLDERS` name; a summary as plain data, in which the losses of
    rows that were lost are None.

    Raises: Failed on a loss that is not finite, a check that fails, a checkpoint that cannot be written; Preempted
    after SIGTERM; UsageError if `resume` is asked of another run, or another process writes into `run.out`.
    """
    with (
        held(run.out),
        SmallFiles(run.out, copied=run.copied, first=is_first()) as files,
        Checkpoints(run.out / "checkpoints", keep=run.keep, keep_best=run.keep_best) as checkpoints,
    ):
        loop = _Loop(run, files, checkpoints, on_step)
        try:
            loop.start(resume)
            with loop.stop:
                loop.go()
                return loop.finish()
        except OSError as error:
            where = f"{error.strerror or error}: {error.filename or run.out}"
            raise Failed(f"{where}; of the checkpoints {checkpoints.resumable()}") from error


class _Loop:
    """The state of the loop itself. Not exported: `train` is."""

    def __init__(self, run: Run, files: SmallFiles, checkpoints: Checkpoints, on_step: Any) -> None:
        self.run, self.files, self.checkpoints, self.on_step = run, files, checkpoints, on_step
        self.stop = Stop()
        self.folder = files.folder
        self.done = 0
        self.num_tokens = 0
        self.latest: dict[str, Any] = {}
        """The last metrics, of training and of evaluation: what `keep_best` looks at."""
        self.saved: int | None = None
        self.evaluated: int | None = None
        self.checks: list[str] = []
        self.started = time.perf_counter()
        self.seconds: list[float] = []

    def start(self, resume: bool) -> None:
        run = self.run
        if resume:
            self.files.fetch((*FILES, f"model/{EXPORTED}"))
            for line in check_same_run(run.out, run.identity, run.described, self.checkpoints.record()):
                self._warn(line)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored = self.checkpoints.restore(run.state)
            for warning in caught:
                if issubclass(warning.category, UserWarning):
                    self._warn(str(warning.message))
            if restored is not None:
                record = restored.record
                run.state, self.done = restored.state, restored.step
                self.num_tokens, self.latest = record["num_tokens"], dict(record["metrics"])
                self.saved = self.evaluated = self.done
                run.batches.set_state(record["batches"])
                self.checkpoints.drop_after(self.done)
                run.say(f"resumed after {self.done} updates")
            if self.done > run.steps:
                raise UsageError(f"--steps {run.steps} is fewer than the {self.done} updates that {run.out} has made")
        if run.check is not None and self.done < run.steps:
            self.checks = run.check(run.state, run.reference, self.done)
            for line in self.checks:
                run.say(line)
        if is_first():
            described = {**run.described, "identity": run.identity}
            write(self.folder / "config.json", json.dumps(described, indent=2) + "\n")
            write(self.folder / "config.yaml", run.yaml)

    @staticmethod
    def _warn(line: str) -> None:
        if is_first():
            print(f"warning: {line}", file=sys.stderr)

    def go(self) -> None:
        run = self.run
        with RunLog(self.folder, self.done, active=is_first(), warn=self._warn) as self.log:
            shown = is_first() and sys.stderr.isatty()
            bar = tqdm(total=run.steps, initial=self.done, desc=run.name, disable=not shown)
            with bar:
                while self.done < run.steps:
                    self._boundary()
                    self._step(bar)
                self._boundary()
                self.checkpoints.wait()

    def _boundary(self) -> None:
        run, done = self.run, self.done
        last = done >= run.steps
        due = run.eval_every > 0 and (done % run.eval_every == 0 or last)
        if due and self.evaluated != done:
            self._evaluate()
        stopping = self.stop.at(done) and not last
        due = done > 0 and (last or stopping or (run.save_every > 0 and done % run.save_every == 0))
        if due and self.saved != done:
            self._save()
        if stopping:
            self.checkpoints.wait()
            raise Preempted(f"stopped by SIGTERM after {done} of {run.steps} updates; --resume goes on from there")

    def _evaluate(self) -> None:
        run = self.run
        if run.evaluate is not None:
            found = {f"eval/{name}": float(value) for name, value in run.evaluate(run.state, run.reference).items()}
            self.latest |= self.log.write("eval", {"step": self.done, **found})
        if run.generate is not None:
            for row in run.generate(run.state, run.reference, self.done):
                self.log.write("samples", {"step": self.done, **row})
        self.evaluated = self.done

    def _save(self) -> None:
        run = self.run
        self.log.sync()
        self.files.send()
        record = {
            "identity": run.identity,
            "batches": run.batches.get_state(),
            "num_tokens": self.num_tokens,
            "metrics": self.latest,
        }
        self.checkpoints.save(self.done, run.state, record, self.latest)
        if not run.save_async:
            self.checkpoints.wait()
        self.saved = self.done

    def _step(self, bar: Any) -> None:
        run, t = self.run, self.done
        began = time.perf_counter()
        batch: Batch = next(run.batches)
        said: Mapping[str, Any] = {}
        if run.prepare is not None:
            batch, said = run.prepare(run.state, run.reference, batch, t)
        if run.place is not None:
            batch = run.place(batch)
        run.state, measured = run.step(run.state, run.reference, batch)
        metrics = {name: float(value) for name, value in {**jax.device_get(measured), **said}.items()}
        spent = {name.removeprefix("timing/"): metrics.pop(name) for name in [*metrics] if name.startswith("timing/")}
        took = time.perf_counter() - began
        tokens = _count(batch["attention_mask"])
        self.num_tokens += tokens
        row = {
            "step": t,
            "loss": metrics.pop("loss"),
            "grad_norm": metrics.pop("grad_norm"),
            "learning_rate": float(run.learning_rate(t)),
            "num_tokens": self.num_tokens,
            **metrics,
        }
        written = self.log.write("metrics", row)
        timing = {"step": t, "step_time": took, "tokens_per_second": tokens / took, **spent}
        if run.flops_per_token and run.peak_flops:
            timing["mfu"] = run.flops_per_token * timing["tokens_per_second"] / run.peak_flops
        self.log.write("timing", timing)
        self.seconds.append(took)
        self.latest |= {name: value for name, value in written.items() if name != "step"}
        shown = {"loss": f"{row['loss']:.4f}", "tok/s": f"{timing['tokens_per_second']:.0f}"}
        bar.set_postfix(shown | ({"mfu": f"{timing['mfu']:.1%}"} if "mfu" in timing else {}), refresh=False)
        bar.update()
        if self.on_step is not None:
            self.on_step(written)
        if run.keep_best is not None and not self.done:
            checks.member("metric (--keep-best)", best_of(run.keep_best)[0], self.latest)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(row[name]):
                raise Failed(f"{name} is {row[name]} at step {t}; {self._keep_for_replay(batch)}")
        self.done += 1

    def _keep_for_replay(self, batch: Batch) -> str:
        """The batch, and the state that met it."""
        run, t = self.run, self.done
        file = f"nan-batch-{t}.npz"
        arrays: dict[str, Any] = {name: np.asarray(x) for name, x in fetched(dict(batch)).items()}
        if is_first():
            np.savez(self.folder / file, **arrays)
        with Checkpoints(run.out / f"nan-state-{t}", keep=1) as kept:
            kept.save(t, run.state, {"identity": run.identity})
            kept.wait()
        return (
            f"a smaller --lr may help. The batch and the state before it are kept: look at them by "
            f"python -m tpu train --replay {run.out / file}"
        )

    def _export(self, export: Callable[[Path, Any, Any], None]) -> None:
        """The model beside its place, then into it; all processes give their part of it to the first, which writes."""
        model, beside = self.folder / "model", self.folder / "model.part"
        if is_first():
            shutil.rmtree(beside, ignore_errors=True)
        export(beside, self.run.state, self.run.reference)
        if not is_first():
            return
        write(beside / EXPORTED, json.dumps({"steps": self.done}) + "\n")
        if model.exists():  # of fewer updates: the run was made longer
            shutil.rmtree(model)
        os.replace(beside, model)

    def finish(self) -> dict[str, Any]:
        run = self.run
        if run.export is not None and first(exported_steps(self.folder / "model")) != self.done:
            self._export(run.export)
        self.files.send()
        rows = read_rows(self.folder / "metrics.jsonl") if is_first() else []
        losses = {row["step"]: row.get("loss") for row in rows}
        later = sorted(self.seconds[1:])
        # None where the row is lost. And so all wait for the model to be written.
        first_loss, final_loss = first([losses.get(0), losses.get(run.steps - 1)])
        return {
            **run.summary,
            "steps": run.steps,
            "first_loss": first_loss,
            "final_loss": final_loss,
            "seconds": time.perf_counter() - self.started,
            "first_step_seconds": self.seconds[0] if self.seconds else None,
            "step_seconds": later[len(later) // 2] if later else None,
            "checks": self.checks,
            "out": str(run.out),
        }


def _count(mask: Any) -> int:
    return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else int(jnp.count_nonzero(mask))
