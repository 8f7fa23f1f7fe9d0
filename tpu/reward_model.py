"""A trained reward model on disk: the decoder's Hugging Face folder and, beside it, `reward_head.safetensors`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import lm
from alignjax.lm.columns import Row
from alignjax.lm.encoding import Counts, Encoded, Limits, encode_row, fit
from alignjax.lm.tokenizer import begin
from tpu.rewards import FeedbackError, Function
from tpu.tasks import scores

HEAD = "reward_head.safetensors"
BATCH = 16
MULTIPLE = 32
PROBE = "A probe: naïve 12,345 tokens.\n"
"""Tokenizers that split this alike are taken for one."""


def save_reward_model(folder: Path, config: Any, params: Any, tokenizer: Any = None) -> None:
    """`params`: {"decoder", "head"}, as the task `reward_model` trains them."""
    from safetensors.numpy import save_file

    lm.save(folder, config, params["decoder"], tokenizer)
    save_file({"head": np.asarray(params["head"])}, str(folder / HEAD))


def load_reward_model(folder: Path) -> Function:
    """A reward of a model's folder, or of the run that trained it. It scores tokens as it was trained on them: prompt,
    response and its end, cut as `lm.read_preferences` cuts them.

    The tokens are those that were drawn (`prompt_ids`, `completion_ids`) if they are of its own tokenizer and template;
    else, or where there are none, texts are encoded by its own, which plain prompts alone allow.

    Raises: FeedbackError if the folder holds no reward model; what `lm.load` raises.
    """
    from safetensors.numpy import load_file

    from tpu.models import load_model

    where = folder if (folder / HEAD).is_file() else folder / "model"
    if not (where / HEAD).is_file():
        raise FeedbackError(f"reward {folder}: it holds no {HEAD}; train one with --method reward_model")
    config, decoder, own = load_model(str(where))
    params = {"decoder": decoder, "head": jnp.asarray(load_file(str(where / HEAD))["head"])}
    score = jax.jit(lambda params, batch: scores(config, params, batch)[:, 0])
    limits = Limits(max_length=config.max_length, too_long="truncate_left")
    told: list[str] = []

    def sequences(prompts: Any, texts: Any, prompt_ids: Any, completion_ids: Any, tokenizer: Any) -> list[list[int]]:
        same = prompt_ids is not None and completion_ids is not None and same_tokens(own, tokenizer)
        counts = Counts()
        found = []
        for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            if same:
                response = list(completion_ids[n])
                response = response if response and response[-1] in own.stops else [*response, own.eos]
                row = Encoded(list(prompt_ids[n]), [response], [[True] * len(response)])
            elif prompt_ids is None or list(prompt_ids[n]) == begin(tokenizer, tokenizer.encode(prompt)):
                row = encode_row(own, Row(prompt, (text,)))
            else:
                raise FeedbackError(
                    f"reward {folder}: its tokenizer or chat template is not the policy's, and a prompt is a "
                    f"conversation, or was cut: {prompt[:60]!r}; train it from a model of the policy's family"
                )
            within = fit(row, limits, counts, bos=own.bos is not None)
            assert within is not None  # nothing is dropped
            found.append(within.prompt + within.responses[0])
        if counts.truncated + counts.prompts_cut and not told:
            told.append(
                f"warning: reward {folder}: {counts.truncated} of {len(found)} responses and {counts.prompts_cut} "
                f"prompts were cut to the {config.max_length} tokens that it takes; it is told once"
            )
            print(told[0], file=sys.stderr)
        return found

    def reward(
        prompts: Sequence[str], completions: Sequence[str], prompt_ids: Any = None, completion_ids: Any = None,
        tokenizer: Any = None,
    ) -> np.ndarray:  # fmt: skip
        every = sequences(prompts, completions, prompt_ids, completion_ids, tokenizer)
        found = []
        for first in range(0, len(every), BATCH):
            rows = every[first : first + BATCH]
            length = min(config.max_length, -(-max(map(len, rows)) // MULTIPLE) * MULTIPLE)
            tokens = np.full((BATCH, 1, length), own.pad, np.int32)
            keep = np.zeros(tokens.shape, bool)
            for n, row in enumerate(rows):
                tokens[n, 0, : len(row)], keep[n, 0, : len(row)] = row, True
            keep[len(rows) :, 0, 0] = True
            found.append(np.asarray(score(params, {"tokens": tokens, "attention_mask": keep}))[: len(rows)])
        return np.concatenate(found)

    return reward


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers make the same tokens of texts and of conversations."""
    said = lambda t: (t.vocab_size, t.bos, t.eos, t.stops, t.template and t.template.source, t.encode(PROBE))
    return other is not None and bool(said(one) == said(other))
