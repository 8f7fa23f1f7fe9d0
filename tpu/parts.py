"""What a run is put together from, and how the state's arrays become models and batches."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import lm
from tpu import adapters
from tpu.bridge import TOKENS, Others
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
    """Those of the decoder at the start."""
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

    def others(self, state: TrainState, reference: Any) -> Others:
        """The models beside the policy."""
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        return others if self.config is self.decoder else adapters.others_of(others)

    def sums(self, state: TrainState, reference: Any, batch: Batch) -> Any:
        """The loss and metrics of a batch in sums, at the state's parameters."""
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        trained = {"params": state.params} | ({} if state.value is None else {"value": state.value})
        return self.task.sums(trained, others, batch, state.baseline)

    def read(self, batch: Batch) -> Batch:
        """The part of a batch that the step uses."""
        if self.method is not None:
            return as_read(self.method, batch)
        return {name: x for name, x in batch.items() if name in (*TOKENS, "preference")}
