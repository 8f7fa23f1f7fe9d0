r"""Generators of preference matrices: arrays (or a key) in, `[..., A, A]` out."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import as_float
from alignjax.problem import bradley_terry

Preference = Float[Array, "*batch A A"]


def random_preference(key: Array, size: int, batch: tuple[int, ...] = ()) -> Preference:
    r"""Lower triangle iid uniform on [0, 1], the upper its complement: the generic, usually cyclic game.

    Source: Zhou et al., 2025, arXiv:2503.08942, numerical simulations.
    """
    size = checks.whole("size", size)
    lower = jnp.tril(jax.random.uniform(key, (*batch, size, size)) - 0.5, -1)
    return 0.5 + lower - jnp.swapaxes(lower, -1, -2)


def annotator_mixture(rewards: Float[Array, "*batch M A"], weights: Float[Array, "M"] | None = None) -> Preference:
    r"""sum_m w_m sigmoid(r_m,i - r_m,j): M Bradley-Terry annotators, equal weights by default.

    Two annotators of equal weight are never cyclic; three, or unequal weights, can be.
    """
    rewards = as_float(rewards)
    tables = bradley_terry(rewards)
    if weights is None:
        return tables.mean(-3)
    weights = as_float(weights)
    checks.same_last_axis({"weights": weights}, size=rewards.shape[-2])
    if checks.is_concrete(weights):
        checks.probabilities("weights", weights)
        total = float(np.asarray(weights).sum())
        if abs(total - 1) > 1e-4:
            raise ValueError(f"weights must sum to 1, got {total:g}")
    return jnp.einsum("...mij,m->...ij", tables, weights)


def preference_embedding(vectors: Float[Array, "*batch A D"]) -> Preference:
    r"""P = sigmoid(<R v_i, v_j>) with R block-diagonal of quarter turns (D even): any skew score can be written so.

    Bradley-Terry is D = 2 with v = (r, 1). Source: Zhang et al., 2024, arXiv:2410.02197, general preference
    embedding.
    """
    vectors = as_float(vectors)
    if vectors.shape[-1] % 2:
        raise ValueError(f"vectors must have an even last axis, got shape {vectors.shape}")
    pairs = vectors.reshape((*vectors.shape[:-1], -1, 2))
    first, second = pairs[..., 0], pairs[..., 1]
    score = jnp.einsum("...ik,...jk->...ij", first, second)
    return jax.nn.sigmoid(score - jnp.swapaxes(score, -1, -2))


def impartial_culture(key: Array, size: int, voters: int, batch: tuple[int, ...] = ()) -> Preference:
    r"""The share of `voters` uniformly random rankings that put i before j."""
    size, voters = checks.whole("size", size), checks.whole("voters", voters)
    scores = jax.random.uniform(key, (*batch, voters, size))
    before = as_float(scores[..., :, None] > scores[..., None, :]).mean(-3)
    return jnp.where(np.eye(size, dtype=bool), 0.5, before)
