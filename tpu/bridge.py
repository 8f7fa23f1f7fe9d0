"""The bridge from language models to a method: a batch of tokens under policy, reference, anchor and past policies, as
`Samples`; then the record itself.

    models on [B, K, T] -> token_logps [B, K, T] -> Samples -> method(samples) [B] -> sum and count over prompts

What a method reads is what its signature says. The policy is always scored; another model is scored only if the method
reads it and the batch does not bring its log-probs along (`ref_token_logp`, `anchor_token_logp` `[B, K, T]`,
`opponent_token_logp` `[B, J, K, T]`).
"""

import dataclasses
import functools
from collections.abc import Container, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import laws, lm
from alignjax.lm.model import LanguageModel, Params
from alignjax.logspace import masked_mean
from alignjax.record import Method
from alignjax.samples import Samples

Batch = Mapping[str, Any]
sg = jax.lax.stop_gradient

TOKENS = ("tokens", "loss_mask", "attention_mask")
FEEDBACK = ("preference", "reward", "rewards", "win_rate", "label", "value", "response_mask")
"""Fields of `Samples` that a batch may bring."""
SCORED = {"ref": "ref_token_logp", "anchor": "anchor_token_logp", "opponent": "opponent_token_logp"}
"""The other models of a step, and the field of a batch that spares their forward pass."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=("reference", "anchor", "history"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Others:
    """The models beside the policy, all detached; None where there is none."""

    reference: Params | None = None
    anchor: Params | None = None
    """A moving anchor or the previous iterate."""
    history: Params | None = None
    """J opponents or past policies, stacked on the first axis of every leaf, the newest first."""


def reads(method: Method, model: str) -> bool:
    """Whether a method reads log-probs of "ref", "anchor", "opponent" or "behaviour", of responses or of tokens."""
    fields = (*method.reads, *method.reads_if_present)
    return f"{model}_logp" in fields or f"{model}_token_logp" in fields


def scored(method: Method, given: Container[str], history: int) -> dict[str, int]:
    """The other models that a step runs forward, and how many of each: those that the method reads and whose log-probs
    are not among the fields `given` in the batch. `history`: J.
    """
    found = [role for role, field in SCORED.items() if reads(method, role) and field not in given]
    return {role: history if role == "opponent" else 1 for role in found}


def samples_of(
    config: LanguageModel, method: Method, params: Params, others: Others, batch: Batch, **more: Any
) -> Samples:
    """A batch under the policy and the other models that the method reads. `more`: further fields of `Samples`."""
    score = lambda p: lm.token_logps(config, p, *(batch[name] for name in TOKENS))
    given = dict(more)
    if reads(method, "ref"):
        given["ref_token_logp"] = _scored("ref_token_logp", batch, others.reference, score)
    if reads(method, "anchor"):
        given["anchor_token_logp"] = _scored("anchor_token_logp", batch, others.anchor, score)
    if reads(method, "opponent"):
        # One opponent after the other: J forward passes, and the memory of one.
        each = lambda p: jax.lax.map(score, p)
        found = _scored("opponent_token_logp", batch, others.history, each)
        given["opponent_token_logp"] = jnp.moveaxis(found, 1, 0) if "opponent_token_logp" in batch else found
    behaviour = "behaviour_token_logp" if "behaviour_token_logp" in batch else "behaviour_logp"
    for name in (*FEEDBACK, behaviour):
        if name in batch:
            given.setdefault(name, batch[name])
    return Samples.from_tokens(score(params), mask=batch["loss_mask"], **given)


def _scored(field: str, batch: Batch, params: Params | None, score: Any) -> Array:
    if field in batch:
        return sg(jnp.asarray(batch[field]))
    if params is None:
        raise ValueError(f"the batch has no {field}, and there is no model here to make it")
    return sg(score(sg(params)))


# --- sums, so that micro-batches add up


@functools.partial(jax.tree_util.register_dataclass, data_fields=("loss", "count", "metrics"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Sums:
    """The loss summed over the prompts that count, how many those are, and metrics as (sum, count). Sums of the parts
    of a batch add up to those of the batch, which means do not.
    """

    loss: Array
    count: Array
    metrics: dict[str, tuple[Array, Array]]

    def means(self) -> tuple[Array, dict[str, Array]]:
        """The loss and the metrics; 0 where nothing counts."""
        mean = lambda total, count: total / jnp.maximum(count, 1)
        return mean(self.loss, self.count), {name: mean(*pair) for name, pair in self.metrics.items()}


def prompt_losses(
    config: LanguageModel,
    method: Method,
    hyper: Mapping[str, Any],
    params: Params,
    others: Others | Params,
    batch: Batch,
    **more: Any,
) -> tuple[Float[Array, "B"], Samples]:
    """The method's loss of each prompt, and the samples it was computed on. `others` may be the reference alone."""
    others = others if isinstance(others, Others) else Others(reference=others)
    samples = samples_of(config, method, params, others, batch, **more)
    return method(samples, **hyper), samples


def method_sums(
    config: LanguageModel,
    method: Method,
    hyper: Mapping[str, Any],
    params: Params,
    others: Others | Params,
    batch: Batch,
    **more: Any,
) -> tuple[Sums, Samples]:
    """`prompt_losses`, summed over the prompts that have responses, and the samples."""
    losses, samples = prompt_losses(config, method, hyper, params, others, batch, **more)
    assert samples.response_mask is not None
    kept = samples.response_mask.all(-1) if method.num_responses else samples.response_mask.any(-1)
    paired = samples.num_responses == 2 and (method.num_responses == 2 or samples.preference is not None)
    # A method without a temperature has its implicit reward in nats.
    metrics = pair_metrics(samples, hyper.get("beta", 1.0)) if paired else {}
    if samples.ref_logp is not None:
        # Over the policy's own responses the mean log-ratio estimates KL(policy || reference), nats.
        own = laws.sources_of(method.sampler) == ("policy",)
        ratio = sg(samples.logp) - samples.ref_logp
        metrics["kl" if own else "log_ratio"] = _summed(ratio, samples.response_mask)
    return Sums(jnp.where(kept, losses, 0.0).sum(), kept.sum().astype(losses.dtype), metrics), samples


def mean_loss(
    config: LanguageModel,
    method: Method,
    hyper: Mapping[str, Any],
    params: Params,
    others: Others | Params,
    batch: Batch,
    **more: Any,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean over the prompts that have responses, and metrics."""
    return method_sums(config, method, hyper, params, others, batch, **more)[0].means()


def _summed(x: Array, counts: Array) -> tuple[Array, Array]:
    return jnp.where(counts, x, 0.0).sum(), counts.sum().astype(x.dtype)


def pair_metrics(samples: Samples, beta: Any) -> dict[str, tuple[Array, Array]]:
    r"""What everyone plots of pairs, as sums: implicit rewards beta (logp - base) and log-probs of chosen and rejected.

    The base is the reference, or the anchor for a method that has only that. The chosen response is the likelier winner
    where there are preferences, else the one of the larger reward or win-rate (ties are left out), else the first. A
    pair that misses a response does not count.
    """
    logp, base = sg(samples.logp), samples.anchor_logp if samples.ref_logp is None else samples.ref_logp
    swap, decided = jnp.zeros(logp.shape[:-1], bool), jnp.ones(logp.shape[:-1], bool)
    if samples.preference is not None:
        p = samples.preference[..., 0, 1]
        swap, decided = p < 0.5, p != 0.5
    elif (worth := samples.win_rate if samples.reward is None else samples.reward) is not None:
        swap, decided = worth[..., 0] < worth[..., 1], worth[..., 0] != worth[..., 1]
    if samples.response_mask is not None:
        decided = decided & jnp.asarray(samples.response_mask).all(-1)
    order = lambda x: jnp.where(swap[..., None], x[..., ::-1], x)
    add = lambda x: _summed(x, decided)
    ordered = order(logp)
    found = {"logps/chosen": add(ordered[..., 0]), "logps/rejected": add(ordered[..., 1])}
    if base is None:
        return found
    reward = order(beta * (logp - base))
    return {
        "rewards/chosen": add(reward[..., 0]),
        "rewards/rejected": add(reward[..., 1]),
        "rewards/margins": add(reward[..., 0] - reward[..., 1]),
        "rewards/accuracies": add((reward[..., 0] > reward[..., 1]).astype(logp.dtype)),
        **found,
    }


# --- a value of the prompt, learned beside the policy


def prompt_values(config: LanguageModel, params: Params, head: Mapping[str, Array], batch: Batch) -> Float[Array, "B"]:
    """V(x) = w . h + b, h the policy's state at the last token of the prompt; h is detached, the head is not."""
    tokens, trained, keep = (jnp.asarray(batch[name])[:, 0] for name in TOKENS)
    prompt = (keep != 0) & (jnp.cumsum(trained != 0, -1) == 0)
    states = sg(config.hidden(params, tokens, prompt))
    last = jnp.where(prompt.any(-1), tokens.shape[-1] - 1 - jnp.argmax(prompt[:, ::-1], -1), 0)
    state = jnp.take_along_axis(states, last[:, None, None], 1)[:, 0].astype(head["weight"].dtype)
    return state @ head["weight"] + head["bias"]


def value_regression(values: Float[Array, "B"], samples: Samples) -> Float[Array, ""]:
    """Half the summed squared error of V against the mean reward of the prompt's responses."""
    assert samples.reward is not None
    target = sg(masked_mean(samples.reward, samples.response_mask))
    return 0.5 * jnp.square(target - values).sum()
