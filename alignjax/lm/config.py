"""`DecoderConfig`: what a decoder is, as data; and the presets by name."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from alignjax import checks
from alignjax.lm.attention import IMPLEMENTATIONS
from alignjax.lm.model import Params
from alignjax.lm.rope import Rope
from alignjax.lm.text import VOCAB_SIZE

DTYPES = ("bfloat16", "float16", "float32", "float64")
ACTIVATIONS = (
    "silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "relu6", "leaky_relu", "mish", "tanh", "sigmoid",
    "hard_silu", "linear",
)  # fmt: skip
REMAT = ("none", "full", "dots")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer: RMSNorm, rotary attention, a gated MLP. Hashable: a static argument of `jit`.

    It is a `model.LanguageModel`. Llama, Mistral, Qwen 2 and 3 and Gemma 1, 2 and 3 are settings of it.

    Raises: ValueError, naming the argument, on sizes that do not fit together.
    """

    family: str = "llama"
    """The architecture that an export is written as (`huggingface.FAMILIES`); the model does not read it."""
    vocab_size: int = VOCAB_SIZE
    """By default that of `text`: bytes and specials."""
    d_model: int = 64
    d_mlp: int = 192
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int | None = None
    """Heads of keys and values, a divisor of `num_heads`; None: as many."""
    head_dim: int | None = None
    """None: d_model / num_heads."""
    max_length: int = 256
    """Tokens of prompt and response together."""
    tied: bool = True
    """The unembedding is the embedding, transposed."""
    rope: Rope = dataclasses.field(default_factory=Rope)
    local_rope: Rope | None = None
    """Of the local layers; None: `rope`."""
    window: int | None = None
    """A local layer sees this many tokens, the last one counted; None: all."""
    local_layers: tuple[bool, ...] | None = None
    """Which layers are local; None: every one, if there is a window."""
    activation: str = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """Queries and keys are normed, head by head."""
    post_norms: bool = False
    """What attention and MLP add to the stream is normed too."""
    norm_offset: float = 0.0
    """A norm multiplies by offset + scale."""
    norm_epsilon: float = 1e-6
    scaled_embedding: bool = False
    """Embeddings are multiplied by sqrt(d_model)."""
    query_scale: float | None = None
    """Scores are divided by its root; None: the size of a head."""
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    """c in logits = c tanh(h W^T / c)."""
    dtype: str = "float32"
    """Of the computation. Norms, softmaxes and log-probs are at least float32 whatever it is."""
    param_dtype: str = "float32"
    attention: str = "auto"
    """`attention.IMPLEMENTATIONS`; `auto` goes by the device that the program is traced for."""
    remat: str = "none"
    """What the backward pass computes again: `none`; `full`: every layer; `dots`: all but matrix products."""
    source: str = ""
    """The config.json that it was read from, if any: what an export keeps of it (token ids, ...)."""
    tensor_dtypes: tuple[tuple[str, str], ...] = ()
    """The tensors of the file, and their dtypes there, that were not of the widest dtype of their parameter."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "d_mlp", "num_layers", "num_heads", "max_length"):
            checks.whole(name, getattr(self, name))
        for name in ("num_kv_heads", "head_dim", "window"):
            if getattr(self, name) is not None:
                checks.whole(name, getattr(self, name))
        checks.positive("norm_epsilon", self.norm_epsilon)
        for name in ("query_scale", "attention_softcap", "logit_softcap"):
            if getattr(self, name) is not None:
                checks.positive(name, getattr(self, name))
        allowed = {"dtype": DTYPES, "param_dtype": DTYPES, "activation": ACTIVATIONS, "remat": REMAT,
                   "attention": IMPLEMENTATIONS}  # fmt: skip
        for name, options in allowed.items():
            checks.member(name, getattr(self, name), options)
        if self.head_dim is None and self.d_model % (2 * self.num_heads):
            raise ValueError(
                f"d_model = {self.d_model} must be a multiple of 2 num_heads = {2 * self.num_heads} "
                "(rotary heads have even size)"
            )
        if self.head_size % 2:
            raise ValueError(f"head_dim = {self.head_dim} must be even (a rotary head is made of pairs)")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_kv_heads = {self.num_kv_heads} must divide num_heads = {self.num_heads}")
        if self.local_layers is not None and len(self.local_layers) != self.num_layers:
            raise ValueError(f"local_layers has {len(self.local_layers)} entries, but num_layers = {self.num_layers}")

    @property
    def head_size(self) -> int:
        """Of one head."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def local(self) -> tuple[bool, ...]:
        """Which layers see a window, or turn by `local_rope`."""
        none = self.window is None and self.local_rope is None
        return (not none,) * self.num_layers if self.local_layers is None else self.local_layers

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as JAX has it."""
        return jnp.dtype(self.dtype)

    # `model.LanguageModel`. The decoder is imported late: it needs this file.

    def init(self, key: Array) -> Params:
        """Random parameters."""
        from alignjax.lm import decoder

        return decoder.init(self, key)

    def logical_axes(self) -> Mapping[str, Any]:
        """The names of every parameter's axes."""
        from alignjax.lm import decoder

        return decoder.logical_axes(self)

    def hidden(self, params: Params, tokens: Array, keep: Array) -> Array:
        """The states from which the token after each position is predicted: `[B, T] -> [B, T, D]`."""
        from alignjax.lm import decoder

        return decoder.hidden(self, params, tokens, keep)

    def hidden_packed(self, params: Params, tokens: Array, keep: Array) -> Array:
        """`hidden` of rows whose padding is on the right."""
        from alignjax.lm import decoder

        return decoder.hidden_packed(self, params, tokens, keep)

    def unembedding(self, params: Params) -> Array:
        """The matrix `[V, D]` that turns hidden states into logits."""
        from alignjax.lm import decoder

        return decoder.unembedding(self, params)

    def empty_cache(self, batch: int, length: int) -> Any:
        """Keys and values of no token yet, with room for `length` positions."""
        from alignjax.lm import decoder

        return decoder.empty_cache(self, batch, length)

    def extend(self, params: Params, tokens: Array, keep: Array, cache: Any) -> tuple[Array, Any]:
        """`hidden` of further tokens `[B, S]` after those in the cache, and the cache with them."""
        from alignjax.lm import decoder

        return decoder.extend(self, params, tokens, keep, cache)


_LLAMA = {
    "vocab_size": 128_256, "rope": Rope(base=500_000.0), "max_length": 8192, "norm_epsilon": 1e-5,
    "tied": False,
}  # fmt: skip
_LLAMA_1B_ROPE = Rope(base=500_000.0, kind="llama3", factor=32.0, original_length=8192)
_QWEN = {"vocab_size": 151_936, "rope": Rope(base=1e6)}
_GEMMA = {
    "head_dim": 256, "activation": "gelu_tanh", "norm_offset": 1.0, "scaled_embedding": True, "max_length": 8192,
    "vocab_size": 256_000,
}  # fmt: skip
_GEMMA2 = _GEMMA | {
    "family": "gemma2", "post_norms": True, "window": 4096, "query_scale": 256.0, "attention_softcap": 50.0,
    "logit_softcap": 30.0,
}  # fmt: skip


def _large(d_model: int, d_mlp: int, num_layers: int, num_heads: int, num_kv_heads: int, **more: Any) -> DecoderConfig:
    """A published model: computes in bfloat16 over float32 parameters."""
    sizes = {"d_model": d_model, "d_mlp": d_mlp, "num_layers": num_layers, "num_heads": num_heads,
             "num_kv_heads": num_kv_heads, "dtype": "bfloat16"}  # fmt: skip
    return DecoderConfig(**{**more, **sizes})


def _local(num_layers: int, pattern: int) -> tuple[bool, ...]:
    """Every `pattern`-th layer is global."""
    return tuple((i + 1) % pattern != 0 for i in range(num_layers))


PRESETS: Mapping[str, DecoderConfig] = MappingProxyType(
    {
        "tiny": DecoderConfig(),
        "llama3-8b": _large(4096, 14_336, 32, 32, 8, **_LLAMA),
        "llama3-70b": _large(8192, 28_672, 80, 64, 8, **_LLAMA),
        "llama3.2-1b": _large(
            2048, 8192, 16, 32, 8, **_LLAMA | {"rope": _LLAMA_1B_ROPE, "max_length": 131_072, "tied": True}
        ),
        "mistral-7b": _large(
            4096, 14_336, 32, 32, 8, family="mistral", vocab_size=32_000, window=4096, max_length=32_768,
            norm_epsilon=1e-5, tied=False,
        ),
        "qwen2.5-0.5b": _large(896, 4864, 24, 14, 2, family="qwen2", qkv_bias=True, max_length=32_768, **_QWEN),
        "qwen3-0.6b": _large(
            1024, 3072, 28, 16, 8, family="qwen3", head_dim=128, qk_norm=True, max_length=40_960, **_QWEN
        ),
        "qwen3-8b": _large(
            4096, 12_288, 36, 32, 8, family="qwen3", head_dim=128, qk_norm=True, max_length=40_960, tied=False, **_QWEN
        ),
        "gemma-2b": _large(2048, 16_384, 18, 8, 1, family="gemma", **_GEMMA),
        "gemma2-2b": _large(2304, 9216, 26, 8, 4, local_layers=_local(26, 2), **_GEMMA2),
        "gemma2-9b": _large(3584, 14_336, 42, 16, 8, local_layers=_local(42, 2), **_GEMMA2),
        "gemma3-1b": _large(
            1152, 6912, 26, 4, 1, family="gemma3_text", post_norms=True, qk_norm=True, window=512, query_scale=256.0,
            local_layers=_local(26, 6), rope=Rope(base=1e6), local_rope=Rope(base=10_000.0),
            **_GEMMA | {"vocab_size": 262_144, "max_length": 32_768},
        ),
    }
)  # fmt: skip
"""name -> config. `tiny` is byte-level and compiles in seconds; the others have the published sizes, and no weights."""


def preset(name: str) -> DecoderConfig:
    """The config of that name. Raises: UnknownName, which suggests the nearest one."""
    return PRESETS[checks.member("model", name, PRESETS)]
