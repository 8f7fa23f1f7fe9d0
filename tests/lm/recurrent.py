"""A language model of one's own, small enough that NumPy knows its laws: recurrent, without keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

V, D, STOP = 4, 6, 3


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """s <- s/2 + E[token], hidden = tanh(s): order matters, padding does not, and there are no keys and values."""

    vocab_size: int = V
    max_length: int = 64
    logit_softcap: float | None = 3.0

    def unembedding(self, params: Mapping[str, Any]) -> jax.Array:
        return params["out"]

    def empty_cache(self, batch: int, length: int) -> Any:
        return {"state": jnp.zeros((batch, D)), "used": jnp.int32(0)}

    def extend(self, params: Mapping[str, Any], tokens: Any, keep: Any, cache: Any) -> Any:
        def one(state: Any, column: Any) -> Any:
            token, kept = column
            state = jnp.where(kept[:, None], state / 2 + params["in"][token], state)
            return state, jnp.tanh(state)

        state, hidden = jax.lax.scan(one, cache["state"], (tokens.T, keep.T))
        return jnp.moveaxis(hidden, 0, 1), {"state": state, "used": cache["used"] + tokens.shape[1]}

    def hidden(self, params: Mapping[str, Any], tokens: Any, keep: Any) -> jax.Array:
        return self.extend(params, tokens, keep, self.empty_cache(*tokens.shape))[0]


def parameters(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(V, D)).astype(np.float32) for name in ("in", "out")}


def next_law(params: Any, before: Any) -> np.ndarray:
    """The model again, in NumPy, without a cache: pi(. | before)."""
    state = np.zeros(D)
    for token in before:
        state = state / 2 + params["in"][token]
    z = 3 * np.tanh(params["out"].astype(np.float64) @ np.tanh(state) / 3)
    return np.exp(z) / np.exp(z).sum()
