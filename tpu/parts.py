"""What a run is put together from, and how the state's arrays become models and batches."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from alignjax import lm
from tpu import adapters, global_arrays
from tpu.bridge import TOKENS, Others
from tpu.partition import RULES, batch_shardings, laid_out
from tpu.run_config import Settings
from tpu.train_step import Carried, TrainState, as_read

Batch = Mapping[str, Any]


@dataclasses.dataclass(kw_only=True)
class Parts:
    """What a run is put together from, as far as it is known."""

    settings: Settings
    decoder: lm.DecoderConfig
    config: Any
    """The model: the decoder, or the decoder with adapters."""
    params: Any
    """Those of the decoder at the start, until the state has them."""
    tokenizer: Any
    task: Any
    """What the step descends: `MethodTask`, or one of `TASKS`."""
    method: Any
    """The record; None for a task."""
    hyper: Mapping[str, Any]
    carried: Carried
    data: Any
    batches: Any
    rollout: Any
    mesh: Any
    optimiser: Any
    schedule: Any
    cache: dict[int, Any] = dataclasses.field(default_factory=dict)
    """The last prepared batch, by step: the checks look at the first one before the loop does."""

    def prepare(self, state: TrainState, reference: Any, batch: Batch, step: int) -> tuple[Batch, Mapping[str, Any]]:
        """See `Run.prepare`: the fields that the step reads, sampled where the method is trained online."""
        if step not in self.cache:
            metrics: Mapping[str, Any] = {}
            if self.rollout is not None:
                from tpu.rollout import step_key

                rolled = self.rollout(
                    self.policy(state, reference), self.others(state, reference), batch,
                    step_key(self.settings.seed, step),
                )  # fmt: skip
                batch, metrics = rolled.batch, rolled.metrics
            self.cache.clear()
            self.cache[step] = self.read(batch), metrics
        return self.cache[step]

    def policy(self, state: TrainState, reference: Any) -> Any:
        """The language model's parameters."""
        if self.config is not self.decoder:
            return adapters.policy_of(reference, state.params)
        return state.params["decoder"] if self.settings.method == "reward_model" else state.params

    def started(self, state: TrainState, reference: Any) -> Any:
        """The decoder's parameters at the start, of the state and the reference of step 0."""
        policy = self.policy(state, reference)
        return policy if self.config is self.decoder else policy["base"]

    def others(self, state: TrainState, reference: Any) -> Others:
        """The models beside the policy."""
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        return others if self.config is self.decoder else adapters.others_of(others)

    def sums(self, state: TrainState, reference: Any, batch: Batch) -> Any:
        """The loss and metrics of a batch in sums, at the state's parameters; traced, it lies on the mesh."""
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        trained = {"params": state.params} | ({} if state.value is None else {"value": state.value})
        with laid_out(self.mesh):
            return self.task.sums(trained, others, batch, state.baseline)

    def read(self, batch: Batch) -> Batch:
        """The part of a batch that the step uses."""
        if self.method is not None:
            return as_read(self.method, batch)
        return {name: x for name, x in batch.items() if name in (*TOKENS, "preference")}

    # --- batches that are not trained on

    @property
    def ways(self) -> int:
        """Over how many devices the prompts of a batch are split."""
        return math.prod(self.mesh.shape[axis] for axis in RULES["prompt"])

    @property
    def at_once(self) -> int:
        """Prompts of a micro-batch: what the devices have room for."""
        return self.settings.batch // self.settings.accumulate

    def in_parts(self, batch: Batch) -> Iterator[Batch]:
        """Micro-batches, one after the other; the last may have fewer prompts."""
        for start in range(0, len(batch["tokens"]), self.at_once):
            yield {name: x[start : start + self.at_once] for name, x in batch.items()}

    def placed(self, batch: Batch, size: int | None = None) -> Batch:
        """NumPy arrays that every process has whole, on the mesh as those of a step are: filled up to `size` prompts,
        or to as many as the mesh divides, by prompts that count nowhere (see `filled`).
        """
        size = -(-len(batch["tokens"]) // self.ways) * self.ways if size is None else size
        full = filled(batch, size)
        return global_arrays.placed(full, batch_shardings(full, self.mesh), size, np.arange(size))


def filled(batch: Batch, size: int) -> dict[str, np.ndarray]:
    """A batch of `size` prompts: those that it lacks are its last one again, with no token that is trained."""
    more = size - len(batch["tokens"])
    found = {name: np.concatenate([x, np.repeat(x[-1:], more, 0)]) for name, x in batch.items()}
    found["loss_mask"][size - more :] = 0
    return found


def scorer(config: lm.LanguageModel, mesh: Any) -> Callable[[Any, Batch], Any]:
    """score(params, batch) -> log-probs of the tokens of a batch that lies on the mesh, `[B, K, T]`; jitted."""

    @jax.jit
    def score(params: Any, batch: Batch) -> Any:
        with laid_out(mesh):
            return lm.token_logps(config, params, *(batch[name] for name in TOKENS))

    return score
