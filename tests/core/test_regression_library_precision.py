"""Named and random games hold double precision when it is enabled."""

import jax
import numpy as np
import pytest

from alignjax import games

pytestmark = pytest.mark.usefixtures("x64")


def test_dice_in_double_precision():
    # Five of nine pairs of faces, counted by hand.
    expected = 0.5 + np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / 18
    np.testing.assert_allclose(games.library.dice(), expected, rtol=0, atol=1e-15)


def test_shares_of_voters_add_up_in_double_precision():
    table = np.asarray(games.impartial_culture(jax.random.key(0), 4, 7, (50,)))
    np.testing.assert_allclose(table + np.swapaxes(table, -1, -2), 1, rtol=0, atol=1e-12)
