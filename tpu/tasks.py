"""What stands beside the methods in a run: supervised warm-up (`sft`) and the reward model (`reward_model`).

A task is what `make_train_step` descends (see `Task` in train_step.py), and says which parameters it trains.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import lm
from alignjax.equations import logistic, pair
from alignjax.lm.model import LanguageModel, Params
from tpu.bridge import TOKENS, Batch, Others, Sums

sg = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True, eq=False)
class Sft:
    r"""Supervised warm-up: -log pi(response), the mean over the trained TOKENS of the batch (not over rows)."""

    config: LanguageModel
    name: str = "sft"

    def init(self, params: Params, key: Array) -> Params:
        """The parameters trained: the model's."""
        return params

    def axes(self) -> Any:
        """The names of their axes."""
        return lm.logical_axes(self.config)  # type: ignore[arg-type]

    def sums(self, trained: Any, others: Others, batch: Batch, baseline: Any) -> Sums:
        """See `Task`; the count is of tokens."""
        logp = lm.token_logps(self.config, trained["params"], *(batch[name] for name in TOKENS))
        counted = (jnp.asarray(batch["loss_mask"]) != 0) & (jnp.asarray(batch["attention_mask"]) != 0)
        counted = counted.at[..., 0].set(False)
        count = counted.sum().astype(logp.dtype)
        return Sums(-logp.sum(), count, {"num_trained_tokens": (count, jnp.zeros(()))})  # a sum and no mean


def scores(config: LanguageModel, params: Params, batch: Batch) -> Float[Array, "B K"]:
    r"""r(x, y) = w . h at the last token of the response, at least float32. `params`: {"decoder", "head" [D]}."""
    shape = batch["tokens"].shape
    tokens, keep = (jnp.asarray(batch[name]).reshape(-1, shape[-1]) for name in ("tokens", "attention_mask"))
    keep = keep != 0
    last = jnp.where(keep.any(-1), shape[-1] - 1 - jnp.argmax(keep[:, ::-1], -1), 0)
    states = config.hidden(params["decoder"], tokens, keep)
    state = jnp.take_along_axis(states, last[:, None, None], 1)[:, 0]
    wide = jnp.promote_types(state.dtype, jnp.float32)
    return (state.astype(wide) @ params["head"].astype(wide)).reshape(shape[:-1])


@dataclasses.dataclass(frozen=True, eq=False)
class RewardModel:
    r"""A reward model by Bradley and Terry: -log sigmoid(r(chosen) - r(rejected)), a linear head on the decoder.

    `preference[..., 0, 1]`, where there is one, weighs the two orders. Only differences are determined; the head starts
    at 0. Source: Bradley and Terry, 1952; Christiano et al., 2017, arXiv:1706.03741, Eq. 1.
    """

    config: LanguageModel
    name: str = "reward_model"

    def init(self, params: Params, key: Array) -> Params:
        """The parameters trained: decoder and head."""
        width = self.config.unembedding(params).shape[-1]
        return {"decoder": params, "head": jnp.zeros(width, jnp.float32)}

    def axes(self) -> Any:
        """The names of their axes."""
        return {"decoder": lm.logical_axes(self.config), "head": ("embed",)}  # type: ignore[arg-type]

    def sums(self, trained: Any, others: Others, batch: Batch, baseline: Any) -> Sums:
        """See `Task`."""
        if batch["tokens"].shape[1] != 2:
            raise ValueError(f"reward_model compares 2 responses to a prompt; the data have {batch['tokens'].shape[1]}")
        reward = scores(self.config, trained["params"], batch)
        preference = batch.get("preference")
        losses = pair(reward, logistic, preference)
        sign = 1.0 if preference is None else jnp.sign(preference[..., 0, 1] - 0.5)
        margin = sg(sign * (reward[..., 0] - reward[..., 1]))
        kept = (jnp.asarray(batch["loss_mask"]) != 0).any(-1).all(-1)  # a pair has two responses
        count = kept.sum().astype(losses.dtype)
        total = lambda x: jnp.where(kept, x, 0.0).sum()
        metrics = {
            "accuracy": (total(margin > 0), count),
            "margin": (total(margin), count),
            "mean_reward": (total(sg(reward).sum(-1)), 2 * count),
        }
        return Sums(total(losses), count, metrics)


TASKS: Mapping[str, tuple[Callable[[LanguageModel], Any], str]] = {
    "sft": (Sft, "supervised warm-up on prompt and completion, or on messages"),
    "reward_model": (RewardModel, "a reward model from comparisons: prompt, chosen, rejected"),
}
"""name -> (task of a model, what it is)."""
