"""Named games and random generators, against their definitions."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import expit

from alignjax import games
from alignjax.games import library
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")


def cyclic(table):
    """Whether some three responses beat each other in a circle, strictly."""
    table = np.asarray(table)
    return any(
        table[..., i, j] > 0.5 and table[..., j, k] > 0.5 and table[..., k, i] > 0.5
        for i, j, k in itertools.permutations(range(table.shape[-1]), 3)
    )


def assert_preferences(table, size, atol=1e-12):
    table = np.asarray(table)
    assert table.shape[-2:] == (size, size)
    assert ((table >= 0) & (table <= 1)).all()
    np.testing.assert_allclose(table + np.swapaxes(table, -1, -2), 1, rtol=0, atol=atol)


def test_dice():
    # Each face against each: {2,4,9} beats {1,6,8} in 5 of 9, and so on round.
    faces = ((2, 4, 9), (1, 6, 8), (3, 5, 7))
    expected = [[np.mean([a > b for a in x for b in y]) for y in faces] for x in faces]
    np.fill_diagonal(expected := np.array(expected), 0.5)
    np.testing.assert_allclose(library.dice(), expected, atol=1e-15)
    assert cyclic(expected)


def test_generalised_rock_paper_scissors():
    table = np.asarray(library.rock_paper_scissors(0.1, 0.2, 0.3))
    assert (table[0, 1], table[1, 2], table[2, 0]) == pytest.approx((0.6, 0.7, 0.8))
    assert_preferences(table, 3)


def test_three_types_is_the_mixture_of_its_annotators():
    # Masses 1/3 - e, 1/3 + e/2, 1/3 + e/2; they say 2 > 1, 1 > 3, 3 > 2, and ties otherwise.
    e = 0.1
    expected = np.full((3, 3), 0.5)
    for mass, winner, loser in ((1 / 3 - e, 1, 0), (1 / 3 + e / 2, 0, 2), (1 / 3 + e / 2, 2, 1)):
        expected[winner, loser] += 0.5 * mass
        expected[loser, winner] -= 0.5 * mass
    np.testing.assert_allclose(library.three_types(e), expected, atol=1e-12)


def test_comal_and_constrained_rewards():
    np.testing.assert_allclose(library.comal(), [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    reward, table = library.constrained_rewards()
    np.testing.assert_allclose(reward, np.log([1, 9, 2]), atol=1e-15)
    # (0, 0, 1) beats (2/3, 1/3, 0) with probability 2/3 2/3 + 1/3 2/11 = 50/99.
    assert table[2] @ np.array([2 / 3, 1 / 3, 0]) == pytest.approx(50 / 99)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_circulant(size):
    table = np.asarray(library.circulant(size, 0.3))
    assert_preferences(table, size)
    np.testing.assert_allclose(table @ np.full(size, 1 / size), 0.5, atol=1e-12)  # uniform is a Nash
    assert ((table > 0.5).sum(-1) == (size - 1) // 2).all() and table[0, 1] == pytest.approx(0.8)


def test_random_preference():
    table = games.random_preference(jax.random.key(0), 5, (200,))
    assert_preferences(table, 5)
    lower = np.asarray(table)[:, *np.tril_indices(5, -1)]
    # Uniform on [0, 1]: mean 1/2 and variance 1/12, 2000 draws.
    assert abs(lower.mean() - 0.5) < 5 / np.sqrt(12 * lower.size)
    assert abs(lower.var() - 1 / 12) < 0.01
    # P(three random responses cycle) = 1/4.
    assert 0.15 < np.mean([cyclic(t[:3, :3]) for t in np.asarray(table)]) < 0.35


def test_two_equal_annotators_never_cycle_and_three_can():
    # sigma(a) + sigma(b) > 1 iff a + b > 0, so a majority of two follows the sum of the rewards.
    rng = np.random.default_rng(0)
    rewards = 3 * rng.normal(size=(500, 2, 4))
    table = np.asarray(games.annotator_mixture(rewards))
    expected = 0.5 * sum(expit(rewards[:, m, :, None] - rewards[:, m, None, :]) for m in range(2))
    np.testing.assert_allclose(table, expected, atol=1e-12)
    assert not any(cyclic(t) for t in table)
    three = games.annotator_mixture([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]])  # Condorcet's paradox
    assert cyclic(three)
    weighted = games.annotator_mixture(rewards[0], [0.2, 0.8])
    parts = [expit(rewards[0, m, :, None] - rewards[0, m, None, :]) for m in range(2)]
    np.testing.assert_allclose(weighted, 0.2 * parts[0] + 0.8 * parts[1], atol=1e-12)


def test_preference_embedding():
    # D = 2 with v = (r, 1) is Bradley-Terry; more pairs of axes add up.
    rng = np.random.default_rng(1)
    reward = rng.normal(size=4)
    vectors = np.stack([reward, np.ones(4)], -1)
    np.testing.assert_allclose(games.preference_embedding(vectors), oracles.bradley_terry(reward), atol=1e-12)
    more = np.concatenate([vectors, vectors], -1)
    np.testing.assert_allclose(games.preference_embedding(more), oracles.bradley_terry(2 * reward), atol=1e-12)
    assert_preferences(games.preference_embedding(rng.normal(size=(3, 5, 4))), 5)


def test_impartial_culture():
    table = np.asarray(games.impartial_culture(jax.random.key(0), 4, 7, (50,)))
    assert_preferences(table, 4, atol=1e-6)
    np.testing.assert_allclose(
        7 * table[:, *np.triu_indices(4, 1)] + 0.5, np.round(7 * table[:, *np.triu_indices(4, 1)]) + 0.5, atol=1e-5
    )  # sevenths
    one = np.asarray(games.impartial_culture(jax.random.key(1), 5, 1))
    assert not cyclic(one)  # one voter has a ranking
