"""A trained reward model on disk: the decoder's Hugging Face folder and, beside it, `reward_head.safetensors`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import lm
from tpu.rewards import FeedbackError
from tpu.tasks import scores

HEAD = "reward_head.safetensors"
BATCH = 16
MULTIPLE = 32


def save_reward_model(folder: Path, config: Any, params: Any, tokenizer: Any = None) -> None:
    """`params`: {"decoder", "head"}, as the task `reward_model` trains them."""
    from safetensors.numpy import save_file

    lm.save(folder, config, params["decoder"], tokenizer)
    save_file({"head": np.asarray(params["head"])}, str(folder / HEAD))


def load_reward_model(folder: Path) -> Any:
    """A function (prompts, completions) -> rewards, of a model's folder or of the run that trained it.

    Raises: FeedbackError if the folder holds no reward model; what `lm.load` raises.
    """
    from safetensors.numpy import load_file

    from tpu.models import load_model

    where = folder if (folder / HEAD).is_file() else folder / "model"
    if not (where / HEAD).is_file():
        raise FeedbackError(f"reward {folder}: it holds no {HEAD}; train one with --method reward_model")
    config, decoder, tokenizer = load_model(str(where))
    params = {"decoder": decoder, "head": jnp.asarray(load_file(str(where / HEAD))["head"])}
    score = jax.jit(lambda params, batch: scores(config, params, batch)[:, 0])

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        found = []
        start = [] if tokenizer.bos is None else [tokenizer.bos]
        for first in range(0, len(prompts), BATCH):
            rows = [
                [*start, *tokenizer.encode(prompt), *tokenizer.encode(text), tokenizer.eos]
                for prompt, text in zip(prompts[first : first + BATCH], completions[first : first + BATCH], strict=True)
            ]
            longest = max(map(len, rows))
            if longest > config.max_length:
                raise FeedbackError(f"reward {folder}: a text of {longest} tokens; the model takes {config.max_length}")
            length = min(config.max_length, -(-longest // MULTIPLE) * MULTIPLE)
            tokens = np.full((BATCH, 1, length), tokenizer.pad, np.int32)
            keep = np.zeros(tokens.shape, bool)
            for n, row in enumerate(rows):
                tokens[n, 0, : len(row)], keep[n, 0, : len(row)] = row, True
            keep[len(rows) :, 0, 0] = True
            found.append(np.asarray(score(params, {"tokens": tokens, "attention_mask": keep}))[: len(rows)])
        return np.concatenate(found)

    return reward
