"""Sampling with the key/value cache, beside transformers' generate on the same weights and prompts."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from alignjax import lm
from tpu.benching import work
from tpu.benching.race import Line, Machine, Rival, Told, beside_rival, clocked

AIM = ">= 3"


def contender(
    config: lm.DecoderConfig, params: object, prompts: np.ndarray, new: int, samples: int
) -> Callable[[], Told]:
    """Each call draws anew."""
    seeds = itertools.count()

    def run() -> object:
        key = jax.random.key(next(seeds))
        return lm.generate(config, params, prompts, key, max_new_tokens=new, num_samples=samples)  # type: ignore[arg-type]

    return clocked(run, len(prompts) * samples * new)


def limit(config: lm.DecoderConfig, rows: int, length: int, machine: Machine) -> float:
    """Tokens a second if each step reads all weights and all of the cache once, or multiplies by them, the slower."""
    size = np.dtype(config.compute_dtype).itemsize
    all_weights = work.weights(config) + config.vocab_size * config.d_model
    cache = 2 * rows * length * config.num_layers * config.kv_heads * config.head_size
    seconds = max(size * (all_weights + cache) / machine.bytes, 2 * rows * all_weights / machine.flops)
    return rows / seconds


def lines(quick: bool, repeats: int, python: str | None, machine: Machine) -> list[Line]:
    """Ours, transformers'."""
    config = work.small(quick).config
    rows, samples, before, new = (2, 2, 16, 16) if quick else (4, 2, 64, 128)
    prompts = np.random.default_rng(0).integers(0, 256, (rows, before))
    what = (
        f"generate {new} tokens after {before}, {rows} prompts x {samples} samples, {config.num_layers} layers of "
        f"{config.d_model}, vocabulary {config.vocab_size:,}"
    )
    params = lm.init(config, jax.random.key(0))
    ours = contender(config, params, prompts, new, samples)
    most = limit(config, rows * samples, before + new // 2, machine)
    with tempfile.TemporaryDirectory() as folder:
        lm.save(Path(folder), config, params, lm.ByteTokenizer())
        job = {"task": "generate", "folder": folder, "prompts": prompts.tolist(), "new_tokens": new, "samples": samples}
        start = lambda: Rival(python, job, ("torch", "transformers"))
        return beside_rival(what, ours, "transformers generate", start, repeats, AIM, most)
