"""Training adapters alone: the state holds nothing else, and the frozen decoder comes with the reference, which it is.

reference                {"base": decoder's parameters, "lora": {}}    an argument of the step, held once
state.params, anchors    the adapters
policy                   {"base": reference["base"], "lora": state.params}
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.lm import lora
from tpu.bridge import Batch, Others, Sums


def policy_of(reference: Any, adapters: Any) -> Any:
    """The parameters of the model with these adapters; None for None."""
    return None if adapters is None else {"base": reference["base"], "lora": adapters}


def others_of(others: Others) -> Others:
    """The other models with their decoder. Raises: ValueError for a history, whose models would need one each."""
    if others.history is not None:
        raise ValueError("past policies of adapters are not kept: train without --lora-rank")
    return Others(reference=others.reference, anchor=policy_of(others.reference, others.anchor))


@dataclasses.dataclass(frozen=True, eq=False)
class AdapterTask:
    """A task whose trained parameters are the adapters."""

    whole: Any
    """The task of the whole model."""

    @property
    def name(self) -> str:
        """That of the task."""
        return str(self.whole.name)

    @property
    def method(self) -> Any:
        """The record, for those who ask for its anchor; None for a task that is no method."""
        return getattr(self.whole, "method", None)

    @property
    def hyper(self) -> Mapping[str, Any]:
        """Its hyperparameters."""
        hyper: Mapping[str, Any] = self.whole.hyper
        return hyper

    def sums(self, trained: Any, others: Others, batch: Batch, baseline: Any) -> Sums:
        """See `Task`."""
        policy = {**trained, "params": policy_of(others.reference, trained["params"])}
        sums: Sums = self.whole.sums(policy, others_of(others), batch, baseline)
        return sums


def export(model: lora.LoRA, reference: Any, adapters: Any) -> Any:
    """The decoder's parameters with the adapters merged in."""
    return lora.merged(model, policy_of(reference, adapters))
