"""Looking at a run: the loss on other data, texts, the checks at the start, and the model at the end."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import lm
from tpu import adapters, invariants
from tpu.arguments import UsageError
from tpu.distributed import is_first
from tpu.global_arrays import fetched, on_first
from tpu.inputs import read_data
from tpu.partition import spec
from tpu.parts import Batch, Parts, scorer
from tpu.resharding import Generation
from tpu.train_step import TrainState, check_method

EVAL_SEED = 1
"""What sets the keys of evaluations apart from those of rollouts."""


def evaluator(parts: Parts) -> Callable[[TrainState, Any], Mapping[str, float]]:
    """The loss and metrics of the step on `--eval-data`, row by row, without an update: micro-batch by micro-batch, on
    the mesh as the step has them.
    """
    settings = parts.settings
    if parts.rollout is not None:
        raise UsageError("--eval-data: an online method is evaluated on the rewards it is trained on; see also `eval`")
    data = read_data(settings, settings.eval_data, parts.decoder, parts.tokenizer, None, "--eval-data")
    if parts.method is not None:
        check_method(parts.method, data.feedback, data.num_responses)
    try:
        spec(("position",), (data.length,), parts.mesh, name="tokens")
    except ValueError as error:
        raise UsageError(f"--eval-data does not fit --mesh: {error}") from None

    sums = jax.jit(parts.sums)

    def evaluate(state: TrainState, reference: Any) -> Mapping[str, float]:
        total: Any = None
        for start in range(0, len(data), parts.at_once):
            rows = parts.read(data.rows(np.arange(start, min(start + parts.at_once, len(data)))))
            # One program at a time: on CPUs several that talk to other processes may wait for each other's threads.
            found = jax.block_until_ready(sums(state, reference, parts.placed(rows, parts.at_once)))
            total = found if total is None else jax.block_until_ready(jax.tree.map(jnp.add, total, found))
        loss, metrics = total.means()
        return {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}

    return evaluate


def generator(parts: Parts) -> Callable[[TrainState, Any, int], list[Mapping[str, Any]]] | None:
    """A few responses to the first prompts of the evaluation's data, or of the training's."""
    settings = parts.settings
    if settings.method == "reward_model" or not settings.eval_prompts:
        return None
    from tpu.rollout import prompts_of, step_key, stops_of

    rows = parts.data.rows(np.arange(min(settings.eval_prompts, len(parts.data))))
    found = prompts_of(rows, parts.tokenizer.pad)
    new = min(settings.max_new_tokens, parts.config.max_length - found["prompts"].shape[-1])
    if new < 1:
        return None
    stops = stops_of(parts.tokenizer)
    there = None
    if parts.mesh.size > 1:
        there = Generation(lm.logical_axes(parts.config), parts.mesh, parts.decoder.compute_dtype)

    def generate(state: TrainState, reference: Any, step: int) -> list[Mapping[str, Any]]:
        key = jax.random.fold_in(step_key(settings.seed, step), EVAL_SEED)
        policy: Any = parts.policy(state, reference)
        rows: Any = [found["prompts"], found["prompt_mask"]]
        with there or contextlib.nullcontext():
            if there is not None:
                policy, rows = there.params(policy), [there.rows(x) for x in rows]
            made = lm.generate(
                parts.config, policy, rows[0], key, max_new_tokens=new, temperature=settings.temperature,
                top_k=settings.top_k, top_p=settings.top_p, stop=stops, attention_mask=rows[1],
                pad=parts.tokenizer.pad,
            )  # fmt: skip
            made = fetched(made)
        text = lambda tokens, mask: parts.tokenizer.decode([int(t) for t, m in zip(tokens, mask, strict=True) if m])
        prompts = [text(*pair) for pair in zip(found["prompts"], found["prompt_mask"], strict=True)]
        written = [text(*pair) for pair in zip(made.tokens, made.mask, strict=True)]
        return [{"prompt": prompt, "text": out} for prompt, out in zip(prompts, written, strict=True)]

    return generate


def export(parts: Parts, folder: Path, state: TrainState, reference: Any) -> None:
    """A Hugging Face folder, with the tokenizer. Of several processes the first one writes, with the help of all."""
    if parts.config is parts.decoder:
        params = state.params
    else:
        params = adapters.export(parts.config, reference, state.params)
    params = on_first(params)
    if not is_first():
        return
    if parts.settings.method == "reward_model":
        from tpu.reward_model import save_reward_model

        save_reward_model(folder, parts.decoder, params, parts.tokenizer)
    else:
        lm.save(folder, parts.decoder, params, parts.tokenizer)


def check(parts: Parts, state: TrainState, reference: Any, done: int) -> list[str]:
    """See `invariants`; one line each."""
    raw = parts.batches.batch(parts.batches.get_state()["step"], whole=True)
    batch = parts.prepare(state, reference, raw, done)[0]
    found = [_check_reference(parts, state, reference, batch, done)]
    dtype = parts.decoder.dtype

    sums = jax.jit(parts.sums)

    def summed(part: Batch) -> tuple[Any, Any]:
        made = jax.block_until_ready(sums(state, reference, parts.placed(part)))
        return made.loss, made.count

    some = {name: x[: max(parts.at_once, 2)] for name, x in batch.items()}
    found.append(invariants.same_for_halves(summed, some, dtype=dtype))
    tokenizer = parts.tokenizer
    found.append(invariants.one_bos(batch, tokenizer.bos))
    longest = parts.settings.max_length or parts.config.max_length
    if parts.rollout is None:
        from tpu.rollout import stops_of

        found.append(invariants.eos_is_trained(batch, stops_of(tokenizer), tokenizer.pad, longest))
    specials = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    found.append(invariants.tokenizer_fits(batch, specials, tokenizer.vocab_size, parts.config.vocab_size))
    invariants.require(found)
    return [str(check) for check in found]


def _check_reference(parts: Parts, state: TrainState, reference: Any, batch: Batch, done: int) -> invariants.Check:
    name = "reference"
    if done:
        return invariants.Check(name, None, f"resumed after {done} updates; the reference is the one of the checkpoint")
    if parts.settings.reference is not None:
        return invariants.Check(name, None, f"--reference {parts.settings.reference} is a model of its own")
    stored = batch.get("ref_token_logp")
    if stored is None and (reference is None or parts.method is None):
        return invariants.Check(name, None, f"{parts.settings.method} has no reference")
    score = scorer(parts.config, parts.mesh)
    each = lambda params: np.concatenate([fetched(score(params, parts.placed(b))) for b in parts.in_parts(batch)])
    policy = each(parts.policy(state, reference)).sum(-1)
    there = each(reference) if stored is None else np.asarray(stored)
    there = np.where(np.asarray(batch["loss_mask"]) != 0, there, 0.0).sum(-1)
    narrow = parts.settings.reference_dtype if stored is None else None
    dtype = max(parts.decoder.dtype, narrow or parts.decoder.dtype, key=invariants.TOLERANCE.__getitem__)
    return invariants.policy_is_reference(policy, there, dtype=dtype, precomputed=stored is not None)
