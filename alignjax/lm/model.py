"""`LanguageModel`: all that losses, generation and training know of a model. `DecoderConfig` is one; yours may be."""

from collections.abc import Mapping
from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int

Params = Mapping[str, Any]


class LanguageModel(Protocol):
    """A function from tokens to hidden states, plus an unembedding. Hashable: a static argument of `jit`.

    Axes: B sequences, T positions, S new positions, D model, V vocabulary.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_length(self) -> int:
        """Tokens of prompt and response together."""
        ...

    @property
    def logit_softcap(self) -> float | None:
        """c in logits = c tanh(h W^T / c); None for none."""
        ...

    def hidden(self, params: Params, tokens: Int[Array, "B T"], keep: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        """The states from which the token after each position is predicted; `keep` is 0 at padding, on either side."""
        ...

    def unembedding(self, params: Params) -> Float[Array, "V D"]:
        """The matrix that turns hidden states into logits."""
        ...

    def empty_cache(self, batch: int, length: int) -> Any:
        """Keys and values of no token yet, with room for `length` positions."""
        ...

    def extend(
        self, params: Params, tokens: Int[Array, "B S"], keep: Bool[Array, "B S"], cache: Any
    ) -> tuple[Float[Array, "B S D"], Any]:
        """`hidden` of S further tokens after those in the cache, and the cache with them."""
        ...


class Initialised(LanguageModel, Protocol):
    """A model that makes its own parameters, and names their axes for those who shard them."""

    def init(self, key: Array) -> Params: ...

    def logical_axes(self) -> Mapping[str, Any]: ...


def init(config: Initialised, key: Array) -> Params:
    """Random parameters of a model: a nested dict of arrays, those of a decoder's layers stacked on a first axis."""
    return config.init(key)


def logical_axes(config: Initialised) -> Mapping[str, Any]:
    """The names of every parameter's axes, as a tree of `PartitionSpec` like that of `init`; nothing is computed."""
    return config.logical_axes()
