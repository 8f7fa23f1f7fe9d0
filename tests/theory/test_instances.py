"""The random instances are what they say, and the hard ones are among them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import Problem
from alignjax.games import PreferenceGame
from theory import instances

pytestmark = pytest.mark.usefixtures("x64")


def many(generator: Callable[..., Any], count: int = 500) -> Any:
    return jax.jit(jax.vmap(generator))(jax.random.split(jax.random.key(1), count))


def total(logp: Any) -> np.ndarray:
    return np.exp(np.asarray(logp)).sum(-1)


def test_games_are_games() -> None:
    game, logp = many(instances.game_and_policy)
    table, ref = np.asarray(game.preference), np.asarray(game.ref_logp)
    np.testing.assert_allclose(table + np.swapaxes(table, -1, -2), 1.0, atol=1e-15)
    assert table.min() >= 0 and table.max() <= 1
    np.testing.assert_allclose(total(ref), 1.0, atol=1e-12)
    np.testing.assert_allclose(total(logp), 1.0, atol=1e-12)
    assert not (np.isfinite(logp) & ~np.isfinite(ref)).any()
    # The library's own checks, on concrete arrays.
    for i in range(20):
        PreferenceGame(preference=table[i], ref_logp=ref[i], tau=np.asarray(game.tau)[i])


def test_hard_games_are_common() -> None:
    game, logp = many(instances.game_and_policy)
    ref, tau = np.asarray(game.ref_logp), np.asarray(game.tau)
    holes = ~np.isfinite(ref)
    assert 0.1 < holes.any(-1).mean() < 0.5
    assert (np.isfinite(ref).sum(-1) >= 2).all()
    assert (np.where(holes, 0.0, ref).min(-1) < -10).mean() > 0.05
    assert (total(logp) > 0).all() and (np.exp(logp).max(-1) > 0.99).mean() > 0.05
    assert (np.isneginf(logp) & ~holes).any()
    assert tau.min() < 0.03 and tau.max() > 3
    margin = np.abs(np.asarray(game.preference) - 0.5).max((-1, -2))
    assert (margin == 0.5).any() and (margin < 1e-3).any()


@pytest.mark.slow
def test_problems_are_problems() -> None:
    for generator in (
        instances.smooth_problem, instances.smooth_preference_problem, instances.on_policy_problem,
    ):  # fmt: skip
        problem, logits, beta = many(generator, 50)
        assert (np.asarray(beta) > 0).all()
        np.testing.assert_allclose(total(problem.ref_logp), 1.0, atol=1e-12)
        np.testing.assert_array_equal(np.isfinite(logits), np.isfinite(problem.ref_logp))
        for i in range(5):
            one = jax.tree.map(lambda x, i=i: np.asarray(x)[i], problem)
            Problem(ref_logp=one.ref_logp, reward=one.reward, preference=one.preference, sampler_logp=one.sampler_logp)
    ref_logp, _, _, logp = many(instances.regularised_problem)
    assert np.isneginf(ref_logp).any() and not (np.isfinite(logp) & ~np.isfinite(ref_logp)).any()


def test_cyclic_games_have_the_nash_they_name() -> None:
    table, winner, _, logp = many(instances.cyclic_game)
    wins = np.einsum("nij,nj->ni", np.asarray(table), np.exp(winner))
    np.testing.assert_allclose(wins[:, :3], 0.5, atol=1e-12)
    assert (wins[:, 3] <= 0.5 + 1e-12).all() and (wins[:, 3] < 0.4).any()
    np.testing.assert_allclose(total(logp), 1.0, atol=1e-12)


def test_groups_keep_two_and_lose_some() -> None:
    _, _, _, mask = many(instances.group)
    kept = np.asarray(mask).sum(-1)
    assert kept.min() == 2 and kept.max() == 4


def test_the_same_key_is_the_same_instance() -> None:
    first, second = (instances.game_and_policy(jax.random.key(5)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    other = instances.game_and_policy(jax.random.key(6))
    assert not bool(jnp.all(other[1] == first[1]))
