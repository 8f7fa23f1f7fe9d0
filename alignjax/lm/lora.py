r"""LoRA: a frozen decoder and small trained adapters. y = x W + (alpha / rank) (x A) B, and B starts at zero.

model = lora.LoRA(base=config, rank=16, alpha=32.0)             # a `LanguageModel`, like its base
params = lora.init(model, base_params, jax.random.key(0))       # {"base": ..., "lora": ...}
lora.reference(params)                                          # the same with the adapters off: no second copy
base_params = lora.merged(model, params)                        # W + (alpha / rank) A B, for the base's own config

At the start the policy is its reference. Train `params["lora"]` alone.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from alignjax import checks
from alignjax.lm import decoder
from alignjax.lm.config import DecoderConfig
from alignjax.lm.model import Params

TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
"""The matrices of a layer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """A decoder with adapters; hashable, and a `LanguageModel`. Raises: ValueError, naming the argument."""

    base: DecoderConfig
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS
    """Which matrices of each layer have an adapter."""

    def __post_init__(self) -> None:
        checks.whole("rank", self.rank)
        checks.positive("alpha", self.alpha)
        if not self.targets:
            raise ValueError(f"targets is empty; allowed are some of {', '.join(TARGETS)}")
        for target in self.targets:
            checks.member("target", target, TARGETS)

    @property
    def vocab_size(self) -> int:
        """That of the base; so are all but the parameters."""
        return self.base.vocab_size

    @property
    def max_length(self) -> int:
        """Tokens of prompt and response together."""
        return self.base.max_length

    @property
    def logit_softcap(self) -> float | None:
        """c in logits = c tanh(h W^T / c)."""
        return self.base.logit_softcap

    @property
    def d_model(self) -> int:
        """Size of a hidden state."""
        return self.base.d_model

    @property
    def dtype(self) -> str:
        """Of the computation."""
        return self.base.dtype

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as JAX has it."""
        return self.base.compute_dtype

    def _scaled(self, params: Params) -> Params:
        """The adapters with alpha / rank in B, as the decoder reads them."""
        scale = self.alpha / self.rank
        is_adapter = lambda node: isinstance(node, Mapping) and set(node) == {"a", "b"}
        return jax.tree.map(lambda ab: {"a": ab["a"], "b": ab["b"] * scale}, params["lora"], is_leaf=is_adapter)

    def init(self, key: Array) -> Params:
        """Random parameters of base and adapters."""
        first, second = jax.random.split(key)
        return init(self, decoder.init(self.base, first), second)

    def logical_axes(self) -> Mapping[str, Any]:
        """The names of every parameter's axes."""
        base = decoder.logical_axes(self.base)
        axes: dict[str, Any] = {}
        for part, name in _matrices(self):
            layers, *both = base["layers"][part][name]
            ins, outs = both[: _inputs(name)], both[_inputs(name) :]
            ab = {"a": PartitionSpec(layers, *ins, "rank"), "b": PartitionSpec(layers, "rank", *outs)}
            axes.setdefault(part, {})[name] = ab
        return {"base": base, "lora": {"layers": axes}}

    def hidden(self, params: Params, tokens: Array, keep: Array) -> Array:
        """The states from which the token after each position is predicted: `[B, T] -> [B, T, D]`."""
        return decoder.hidden(self.base, params["base"], tokens, keep, self._scaled(params))

    def hidden_packed(self, params: Params, tokens: Array, keep: Array) -> Array:
        """`hidden` of rows whose padding is on the right."""
        return decoder.hidden_packed(self.base, params["base"], tokens, keep, self._scaled(params))

    def unembedding(self, params: Params) -> Array:
        """The matrix `[V, D]` that turns hidden states into logits."""
        return decoder.unembedding(self.base, params["base"])

    def empty_cache(self, batch: int, length: int) -> Any:
        """Keys and values of no token yet, with room for `length` positions."""
        return decoder.empty_cache(self.base, batch, length)

    def extend(self, params: Params, tokens: Array, keep: Array, cache: Any) -> tuple[Array, Any]:
        """`hidden` of further tokens `[B, S]` after those in the cache, and the cache with them."""
        return decoder.extend(self.base, params["base"], tokens, keep, cache, self._scaled(params))


def _inputs(name: str) -> int:
    """How many axes of a layer's matrix are its input."""
    return 2 if name == "out" else 1


def _matrices(model: LoRA) -> list[tuple[str, str]]:
    """Where the adapters are: (part of the layer, matrix)."""
    return [("mlp" if name in ("gate", "up", "down") else "attention", name) for name in model.targets]


def init(model: LoRA, base_params: Params, key: Array) -> Params:
    """`{"base": base_params, "lora": adapters}`: A uniform within 1 / sqrt(inputs), B zero; at least float32."""
    return {"base": base_params, "lora": _adapters(model, key)}


@functools.partial(jax.jit, static_argnames="model")
def _adapters(model: LoRA, key: Array) -> Params:
    dtype = jnp.promote_types(model.base.param_dtype, jnp.float32)
    shapes = jax.eval_shape(lambda: decoder.init(model.base, jax.random.key(0)))["layers"]
    adapters: dict[str, Any] = {}
    for i, (part, name) in enumerate(_matrices(model)):
        layers, *both = shapes[part][name].shape
        ins, outs = both[: _inputs(name)], both[_inputs(name) :]
        bound = math.prod(ins) ** -0.5
        a = jax.random.uniform(jax.random.fold_in(key, i), (layers, *ins, model.rank), dtype, -bound, bound)
        adapters.setdefault(part, {})[name] = {"a": a, "b": jnp.zeros((layers, model.rank, *outs), dtype)}
    return {"layers": adapters}


def reference(params: Params) -> Params:
    """The parameters with the adapters switched off: the base's own arrays, and the function of the base."""
    return {"base": params["base"], "lora": {}}


def merged(model: LoRA, params: Params) -> Params:
    """The parameters of the base's config with the adapters in them: W + (alpha / rank) A B, in W's own dtype."""
    layers = {part: dict(node) for part, node in params["base"]["layers"].items()}
    for part, name in _matrices(model) if params["lora"] else ():
        adapter, weight = params["lora"]["layers"][part][name], layers[part][name]
        product = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(adapter["a"], adapter["b"])
        wide = weight.astype(product.dtype) + product * (model.alpha / model.rank)
        layers[part][name] = wide.astype(weight.dtype)
    return {**params["base"], "layers": layers}
