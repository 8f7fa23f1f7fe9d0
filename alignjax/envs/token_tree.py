r"""A token tree: all V^T sequences of T tokens, enumerated, so that token-level effects are tested exactly.

A sequence method on the tree is a tabular method on its leaves; a token method is a method on its nodes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks
from alignjax.logspace import ArrayLike, as_float, log_softmax, masked_sum
from alignjax.problem import Problem

Nodes = tuple[Float[Array, "*batch nodes V"], ...]


@dataclasses.dataclass(frozen=True)
class TokenTree:
    r"""The full V-ary tree of depth T. Its parameters are one array per depth, `logits[t]: [..., V^t, V]`.

    Leaf number y is the sequence of its base-V digits, first token first. With an end-of-sequence token `eos`,
    everything after it is masked and forced (another `eos` with probability 1), so that the V^T - sum leaves with
    other continuations have zero mass: `canonical` says which leaves have some. At most 10^6 leaves.
    """

    vocab_size: int
    length: int
    eos: int | None = None

    def __post_init__(self) -> None:
        checks.whole("vocab_size", self.vocab_size)
        checks.whole("length", self.length)
        if self.num_leaves > 10**6:
            raise ValueError(
                f"vocab_size = {self.vocab_size}, length = {self.length} make {self.num_leaves} leaves, above 1000000"
            )
        if self.eos is not None and not 0 <= self.eos < self.vocab_size:
            raise ValueError(f"eos must be a token in [0, {self.vocab_size}), got {self.eos}")

    @property
    def num_leaves(self) -> int:
        """A = V^T."""
        return int(self.vocab_size) ** int(self.length)

    @functools.cached_property
    def tokens(self) -> Int[np.ndarray, "A T"]:
        """The sequence of each leaf."""
        digits = np.unravel_index(np.arange(self.num_leaves), (self.vocab_size,) * self.length)
        return np.stack(digits, -1)

    @functools.cached_property
    def mask(self) -> Bool[np.ndarray, "A T"]:
        """Which tokens count: all up to the first `eos`, that one included."""
        if self.eos is None:
            return np.ones((self.num_leaves, self.length), bool)
        ended = np.cumsum(self.tokens == self.eos, -1) - (self.tokens == self.eos)
        return ended == 0

    @functools.cached_property
    def canonical(self) -> Bool[np.ndarray, "A"]:
        """Leaves that can have mass: after an `eos` come only more of it."""
        return (
            np.all(self.mask | (self.tokens == self.eos), -1)
            if self.eos is not None
            else np.ones(self.num_leaves, bool)
        )

    def _ended(self, depth: int) -> np.ndarray:
        """Which nodes of a depth lie behind an `eos`."""
        if self.eos is None or depth == 0:
            return np.zeros(self.vocab_size**depth, bool)
        digits = np.stack(np.unravel_index(np.arange(self.vocab_size**depth), (self.vocab_size,) * depth), -1)
        return np.any(digits == self.eos, -1)

    def _node_logp(self, logits: Sequence[ArrayLike]) -> Nodes:
        if len(logits) != self.length:
            raise ValueError(f"logits must have one array per depth ({self.length}), got {len(logits)}")
        out = []
        for depth, level in enumerate(logits):
            expected = (self.vocab_size**depth, self.vocab_size)
            if np.shape(level)[-2:] != expected:
                raise ValueError(f"logits[{depth}] must end in the axes {expected}, got shape {np.shape(level)}")
            checks.not_nan(f"logits[{depth}]", level)
            logp = log_softmax(level)
            if self.eos is not None:
                forced = jnp.where(jnp.arange(self.vocab_size) == self.eos, 0.0, -jnp.inf)
                logp = jnp.where(self._ended(depth)[:, None], forced, logp)
            out.append(logp)
        return tuple(out)

    def zeros(self, batch: tuple[int, ...] = ()) -> Nodes:
        """Logits of the policy that is uniform at every node."""
        return tuple(jnp.zeros((*batch, self.vocab_size**t, self.vocab_size)) for t in range(self.length))

    def random_logits(self, key: Array, scale: float = 1.0, batch: tuple[int, ...] = ()) -> Nodes:
        """Independent normal logits at every node."""
        keys = jax.random.split(key, self.length)
        return tuple(scale * jax.random.normal(k, z.shape) for k, z in zip(keys, self.zeros(batch), strict=True))

    def leaf_logp(self, logits: Sequence[ArrayLike]) -> Float[Array, "*batch A"]:
        r"""log pi(y) = sum_t log pi(y_t | y_<t) of every sequence, from logits (or log-probs) `[..., V^t, V]` per
        depth.
        """
        total = jnp.zeros((1,))
        for level in self._node_logp(logits):
            total = (total[..., :, None] + level).reshape((*level.shape[:-2], -1))
        return total

    def conditionals(self, leaf_logp: ArrayLike) -> Nodes:
        r"""log pi(y_t | y_<t) at every node, from log-probs of the leaves: the inverse of `leaf_logp`.

        Where a node has no mass its conditional is not determined: forced after `eos`, uniform elsewhere.
        """
        checks.same_last_axis({"leaf_logp": leaf_logp}, size=self.num_leaves)
        checks.not_nan("leaf_logp", leaf_logp)
        mass = as_float(leaf_logp)
        levels: list[Array] = []
        for depth in reversed(range(self.length)):
            children = mass.reshape((*mass.shape[:-1], self.vocab_size**depth, self.vocab_size))
            alive = ~jnp.isneginf(children).all(-1, keepdims=True)
            levels.append(log_softmax(jnp.where(alive, children, 0.0)))
            safe = jax.nn.logsumexp(jnp.where(alive, children, 0.0), axis=-1)
            mass = jnp.where(alive[..., 0], safe, -jnp.inf)
        return self._node_logp(tuple(reversed(levels)))

    def token_logp(self, logits: Sequence[ArrayLike]) -> Float[Array, "*batch A T"]:
        """log pi(y_t | y_<t) of the tokens of every leaf; 0 where they are masked."""
        columns = []
        for depth, level in enumerate(self._node_logp(logits)):
            flat = level.reshape((*level.shape[:-2], -1))
            columns.append(flat[..., np.arange(self.num_leaves) // self.vocab_size ** (self.length - depth - 1)])
        return jnp.where(self.mask, jnp.stack(columns, -1), 0.0)

    def policy(self, logits: Sequence[ArrayLike]) -> dict[str, Any]:
        """`logp` of the leaves and `token_logp` of their tokens: what `fit(..., policy=tree.policy)` wants."""
        tokens = self.token_logp(logits)
        logp = jnp.where(self.canonical, masked_sum(tokens, self.mask), -jnp.inf)
        return {"logp": logp, "token_logp": tokens}

    def problem(self, ref_logits: Sequence[ArrayLike], **feedback: Any) -> Problem:
        """The tree as a table of V^T responses, with the reference's tokens; `feedback` goes to `Problem`."""
        reference = self.policy(ref_logits)
        return Problem(
            ref_logp=reference["logp"], ref_token_logp=reference["token_logp"], mask=jnp.asarray(self.mask), **feedback
        )
