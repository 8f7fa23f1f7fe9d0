"""`DecoderConfig`: what a decoder is, as data; and the presets by name."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import jax.numpy as jnp

from alignjax import checks
from alignjax.lm.text import VOCAB_SIZE

DTYPES = ("bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer: RMSNorm, rotary attention, SwiGLU. Hashable: a static argument of `jit`.

    Raises: ValueError, naming the argument, on sizes that do not fit together.
    """

    vocab_size: int = VOCAB_SIZE
    """By default that of `text`: bytes and specials."""
    d_model: int = 64
    d_mlp: int = 192
    num_layers: int = 2
    num_heads: int = 4
    max_length: int = 256
    """Tokens of prompt and response together."""
    tied: bool = True
    """The unembedding is the embedding, transposed."""
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    dtype: str = "float32"
    """Of the computation. Norms, softmaxes and log-probs are at least float32 whatever it is."""
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "d_mlp", "num_layers", "num_heads", "max_length"):
            checks.whole(name, getattr(self, name))
        for name in ("rope_base", "norm_epsilon"):
            checks.positive(name, getattr(self, name))
        for name in ("dtype", "param_dtype"):
            checks.member(name, getattr(self, name), DTYPES)
        if self.d_model % (2 * self.num_heads):
            raise ValueError(
                f"d_model = {self.d_model} must be a multiple of 2 num_heads = {2 * self.num_heads} "
                "(rotary heads have even size)"
            )

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.d_model // self.num_heads

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as JAX has it."""
        return jnp.dtype(self.dtype)


PRESETS: Mapping[str, DecoderConfig] = MappingProxyType({"tiny": DecoderConfig()})
"""name -> config."""


def preset(name: str) -> DecoderConfig:
    """The config of that name. Raises: UnknownName, which suggests the nearest one."""
    return PRESETS[checks.member("model", name, PRESETS)]
