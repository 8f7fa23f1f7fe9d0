"""Checkpoints of a run: orbax's, asynchronous, the last few and the best; the newest whole one is what a resume takes.

    RUN/checkpoints/<step>/state      every array of the state, named by its place in the tree
    RUN/checkpoints/<step>/record     JSON: the iterator's position, fingerprints, what the run is, its last metrics

A checkpoint is written beside its place and renamed into it, so that a process killed while writing leaves the ones
before it as they were. Each carries the fingerprint of its arrays; one that cannot be read, or whose bits are not those
that were written, is passed over with a warning.
"""

import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax

from tpu.arguments import Failed
from tpu.distributed import everyone, first, several
from tpu.fingerprint import fingerprint
from tpu.remote import is_url


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read and found whole."""

    step: int
    state: Any
    record: Mapping[str, Any]


def best_of(text: str) -> tuple[str, bool]:
    """`"loss"`, `"min:kl"`, `"max:reward"` -> the metric, and whether more of it is better.

    A name alone is better low if it ends in "loss", and high otherwise, as the trainers of `transformers` have it.
    """
    direction, colon, name = text.partition(":")
    if colon and direction in ("min", "max"):
        return name, direction == "max"
    return text, not text.endswith("loss")


def flat(tree: Any) -> dict[str, Any]:
    """The leaves by name; nothing depends on the classes the tree is made of."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf for path, leaf in leaves}


class Checkpoints:
    """The checkpoints in a folder. `keep` newest ones stay, and with `keep_best` (see `best_of`) the best one too."""

    def __init__(self, folder: Any, *, keep: int = 2, keep_best: str | None = None) -> None:
        import orbax.checkpoint as ocp
        from etils import epath
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._ocp = ocp
        policies: list[Any] = [LatestN(keep)]
        if keep_best is not None:
            name, more = best_of(keep_best)
            worst = -math.inf if more else math.inf
            # JSON has no NaN: a metric that is not finite is null, and never the best.
            value = lambda metrics: worst if metrics is None or metrics.get(name) is None else metrics[name]
            policies.append(BestN(get_metric_fn=value, reverse=not more, n=1))
        path = epath.Path(folder)
        self.folder = path if is_url(path) else path.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies), cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(barrier_sync_fn=_meets_others(ocp)),
        )  # fmt: skip
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._manager.close()
        elif not several():  # what was begun may still become whole; why it does not was told already
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Of the whole checkpoints, from old to new."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, record: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
        """Begins to write; arrays are copied before this returns, so that the state may be donated.

        Raises: Failed if this checkpoint, or the one before it, cannot be written.
        """
        args = self._ocp.args
        record = {**record, "step": step, "fingerprint": fingerprint(state)}
        numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}
        parts = args.Composite(state=args.StandardSave(flat(state)), record=args.JsonSave(record))
        try:
            self._manager.save(step, args=parts, metrics=numbers)
        except Exception as error:
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Until what was begun is written. Raises: Failed if it cannot be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(None, error) from error

    def resumable(self, but: int | None = None) -> str:
        """In words, from where `--resume` goes on."""
        try:
            whole = [step for step in self.steps() if step != but]
        except Exception:
            whole = []
        return f"the one of step {whole[-1]} is whole, and --resume goes on from it" if whole else "there is none yet"

    def _failed(self, step: int | None, error: Exception) -> Failed:
        which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        reason = "no space is left on the device" if "No space left" in str(error) else _first_line(error)
        return Failed(f"{which} could not be written into {self.folder}: {reason}; {self.resumable(step)}")

    def restore(self, like: Any) -> Restored | None:
        """The newest whole checkpoint, with the shapes, dtypes and shardings of `like`; None if there is none.

        One that is broken is passed over, and a warning says so.
        Raises: Failed if there are checkpoints and all of them are broken.
        """
        broken: list[str] = []
        for step in reversed(first(self.steps())):
            found, problem = None, None
            try:
                found = self._read(step, like)
            except Exception as error:
                problem = _first_line(error)
            # What one process cannot read, none takes; the fingerprint is worked out by all of them together.
            problems = [told for told in everyone(problem) if told is not None]
            if found is not None and not problems and fingerprint(found.state) != found.record["fingerprint"]:
                problems.append("its arrays are not those that were written")
            if found is None or problems:
                broken.append(f"the checkpoint of step {step} is broken: {problems[0]}")
                continue
            for message in broken:
                warnings.warn(f"{message}; going on from the one of step {step}", stacklevel=2)
            return found
        if broken:
            raise Failed(f"no checkpoint in {self.folder} can be read: {'; '.join(broken)}")
        return None

    def record(self) -> Mapping[str, Any] | None:
        """That of the newest checkpoint whose record can be read."""
        for step in reversed(self.steps()):
            try:
                return self._record(step)
            except Exception:
                continue
        return None

    def _alone(self, path: Any, handler: Any, args: Any) -> Any:
        """Reads what this process wants of a part of a checkpoint, without waiting for the others: a part that only one
        of them finds broken would leave the others waiting.
        """
        me = jax.process_index()
        options = self._ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
        )
        with self._ocp.Checkpointer(
            handler(multiprocessing_options=options), multiprocessing_options=options
        ) as checkpointer:
            return checkpointer.restore(path, args=args)

    def _record(self, step: int) -> Mapping[str, Any]:
        where = self.folder / str(step) / "record"
        record: Mapping[str, Any] = self._alone(where, self._ocp.JsonCheckpointHandler, self._ocp.args.JsonRestore())
        return record

    def _read(self, step: int, like: Any) -> Restored:
        record = self._record(step)
        leaf = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))
        wanted = flat(jax.tree.map(leaf, like))
        where = self.folder / str(step) / "state"
        got = self._alone(where, self._ocp.StandardCheckpointHandler, self._ocp.args.StandardRestore(wanted))
        state = jax.tree.unflatten(jax.tree.structure(like), [got[name] for name in wanted])
        return Restored(step, state, record)

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints after this one: what a resume passed over, and will write again."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)


def _meets_others(ocp: Any) -> Callable[..., None]:
    """How processes meet after writing. One that could not write does not wait for the others: its error ends them."""
    meet: Callable[..., None] = ocp.multihost.get_barrier_sync_fn()

    def unless_failed(*, key: str, timeout_ms: int) -> None:
        if sys.exception() is None:  # orbax meets in a `finally`
            meet(key=key, timeout_ms=timeout_ms)

    return unless_failed


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
