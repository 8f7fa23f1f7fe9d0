"""What is benchmarked: models without a meaning, texts of fixed lengths, and how many operations a step must make."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax import lm

LLAMA_1B = lm.DecoderConfig(
    vocab_size=128_256, d_model=2_048, d_mlp=8_192, num_layers=16, num_heads=32, num_kv_heads=8, max_length=2_048,
    dtype="bfloat16", remat="full",
)  # fmt: skip
"""The sizes of Llama 3.2 1B."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A model, and pairs of `length` tokens, half of them the prompt."""

    config: lm.DecoderConfig
    pairs: int
    length: int

    @property
    def tokens(self) -> int:
        """Positions of a batch."""
        return 2 * self.pairs * self.length

    def __str__(self) -> str:
        c = self.config
        return (
            f"{self.pairs} pairs of {self.length} tokens, {c.num_layers} layers of {c.d_model}, vocabulary "
            f"{c.vocab_size:,}, {c.dtype}"
        )


def small(quick: bool, vocab_size: int = 32_000) -> Size:
    """What a CPU can do in seconds."""
    if quick:
        return Size(lm.DecoderConfig(vocab_size=1_024, d_model=64, d_mlp=128, num_layers=2, max_length=128), 2, 64)
    config = lm.DecoderConfig(
        vocab_size=vocab_size, d_model=256, d_mlp=768, num_layers=6, num_heads=8, max_length=512
    )  # fmt: skip
    return Size(config, 4, 256)


def texts(size: Size, seed: int = 0) -> list[dict[str, str]]:
    """Rows of letters that are `size.length` tokens each with BOS and EOS."""
    rng = np.random.default_rng(seed)
    word = lambda n: "".join(chr(97 + i) for i in rng.integers(0, 26, size=(n,)))
    prompt, response = size.length // 2 - 1, size.length - size.length // 2 - 1
    return [
        {"prompt": word(prompt), "chosen": word(response), "rejected": word(response)} for _ in range(size.pairs)
    ]  # fmt: skip


def batch(size: Size, folder: Path) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """The texts as the training step takes them, and as they are."""
    rows = texts(size)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = lm.read_preferences(path, max_length=size.length)
    found = data.rows(np.arange(len(data)))
    if found["tokens"].shape != (size.pairs, 2, size.length):
        raise ValueError(f"the texts are {found['tokens'].shape}, not {(size.pairs, 2, size.length)}")
    return found, rows


def weights(config: lm.DecoderConfig) -> int:
    """Parameters that multiply a token in the layers: all but the tables."""
    shapes = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    tables = config.vocab_size * config.d_model * (1 if config.tied else 2)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) - tables


def flops(size: Size, trained: int, passes: float) -> float:
    r"""2 a weight and token a pass; the unembedding for trained tokens alone; attention's two products, causal.

    `passes`: 1 forwards, 2 backwards; 3 for a policy and 1 for its reference. What is computed again is not counted.
    """
    c = size.config
    attention = 2 * size.tokens * size.length * c.num_heads * c.head_size * c.num_layers
    head = 2 * trained * c.vocab_size * c.d_model
    return passes * (2 * weights(c) * size.tokens + head + attention)


def place(tree: Any) -> Any:
    """On the device, once."""
    return jax.block_until_ready(jax.device_put(tree))
