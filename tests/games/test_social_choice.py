"""Social choice against loops over pairs, subsets and triples, and games whose answer is known by hand."""

import itertools

import jax
import numpy as np
import pytest

from alignjax import games

CIRCLE = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])


def tied(seed, size):
    """A random matrix with ties in a third of the pairs."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.choice([-0.5, -0.2, 0.0, 0.0, 0.1, 0.3], size=(size, size)), 1)
    return 0.5 + upper - upper.T


MANY = np.stack([tied(seed, 5) for seed in range(200)])


def smith_by_subsets(matrix):
    """The smallest set that beats its complement, by enumeration: of all subsets, small ones first."""
    for count in range(1, len(matrix) + 1):
        for chosen in itertools.combinations(range(len(matrix)), count):
            rest = [j for j in range(len(matrix)) if j not in chosen]
            if all(matrix[i, j] > 0.5 for i in chosen for j in rest):
                return set(chosen)
    raise AssertionError("the whole set beats the empty one")


def rings(matrix):
    """Every cycle of three, once, with its narrowest win."""
    for i, j, k in itertools.permutations(range(len(matrix)), 3):
        if i < min(j, k) and min(matrix[i, j], matrix[j, k], matrix[k, i]) > 0.5:
            yield (i, j, k), min(matrix[i, j], matrix[j, k], matrix[k, i])


def test_borda_and_copeland_by_loops():
    borda, copeland = np.asarray(games.borda(MANY)), np.asarray(games.copeland(MANY))
    for matrix, mean, wins in zip(MANY, borda, copeland, strict=True):
        for i in range(5):
            against = [matrix[i, j] for j in range(5) if j != i]
            assert mean[i] == pytest.approx(np.mean(against), abs=1e-6)
            assert wins[i] == sum(1.0 if p > 0.5 else 0.5 if p == 0.5 else 0.0 for p in against)


def test_condorcet_winner_by_loops():
    found = np.asarray(games.condorcet_winner(MANY))
    expected = [next((i for i in range(5) if all(m[i, j] > 0.5 for j in range(5) if j != i)), -1) for m in MANY]
    np.testing.assert_array_equal(found, expected)
    assert 0 < (found >= 0).sum() < len(MANY), "both cases occur"


def test_smith_set_by_enumeration_of_subsets():
    found = np.asarray(games.smith_set(MANY))
    sizes = set()
    for matrix, mask in zip(MANY, found, strict=True):
        assert set(np.flatnonzero(mask)) == smith_by_subsets(matrix)
        sizes.add(int(mask.sum()))
    assert sizes >= {1, 3, 5}


def test_three_cycles_by_enumeration():
    found = np.asarray(games.three_cycles(MANY))
    np.testing.assert_array_equal(found, [len(list(rings(m))) for m in MANY])
    assert found.min() == 0 and found.max() >= 3


def test_cycles_of_a_large_regular_tournament():
    # Each of A = 301 beats 150 others: C(A, 3) - A C(150, 2) cycles (Kendall and Babington Smith, 1940).
    size = 301
    assert games.three_cycles(games.library.circulant(size)) == size * 300 * 299 // 6 - size * 150 * 149 // 2


def test_the_shown_cycle_is_the_widest():
    for matrix in MANY[:60]:
        found, all_rings = games.majority_cycle(matrix), dict(rings(matrix))
        if all_rings:
            assert len(found) == 3
            i, j, k = found
            assert min(matrix[i, j], matrix[j, k], matrix[k, i]) == max(all_rings.values())
        else:
            assert len(found) != 3
            assert all(matrix[i, j] > 0.5 for i, j in zip(found, [*found[1:], *found[:1]], strict=True))


def test_ties_can_leave_only_a_longer_cycle():
    # a > b > c > d > a, with a ~ c and b ~ d: no cycle of three, one of four. With e beaten by all in front.
    square = np.full((5, 5), 0.5)
    for i, j in ((1, 2), (2, 3), (3, 4), (4, 1), (1, 0), (2, 0), (3, 0), (4, 0)):
        square[i, j], square[j, i] = 0.8, 0.2
    assert games.three_cycles(square) == 0
    assert games.majority_cycle(square) in {(1, 2, 3, 4), (2, 3, 4, 1), (3, 4, 1, 2), (4, 1, 2, 3)}
    np.testing.assert_array_equal(games.smith_set(square), [False, True, True, True, True])


def test_a_ranking_has_a_winner_and_no_cycle():
    chain = np.where(np.triu(np.ones((6, 6)), 1) > 0, 0.7, 0.3) + 0.2 * np.eye(6)
    assert games.condorcet_winner(chain) == 0
    assert games.majority_cycle(chain) == ()
    assert games.three_cycles(chain) == 0
    np.testing.assert_array_equal(games.smith_set(chain), np.arange(6) == 0)
    np.testing.assert_array_equal(games.copeland(chain), [5, 4, 3, 2, 1, 0])


def test_of_longer_cycles_a_shortest_is_shown():
    # A ring of five, one of four, and one of five again; all else is a tie.
    rings = ((0, 1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12, 13))
    preference = np.full((14, 14), 0.5)
    for ring in rings:
        for i, j in zip(ring, [*ring[1:], ring[0]], strict=True):
            preference[i, j], preference[j, i] = 0.9, 0.1
    assert set(games.majority_cycle(preference)) == set(rings[1])


def test_rounding_is_a_tie_and_margin_says_what_else_is():
    near = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1))], [0.5, 0.5]], np.float32)
    assert near[0, 1] > 0.5
    assert games.condorcet_winner(near) == -1
    close = np.array([[0.5, 0.52], [0.48, 0.5]])
    assert games.condorcet_winner(close) == 0
    assert games.condorcet_winner(close, margin=0.05) == -1


def test_batches_jit_and_vmap():
    batch = np.stack([CIRCLE, np.full((3, 3), 0.5), CIRCLE.T]).reshape(3, 1, 3, 3)
    rules = (games.borda, games.copeland, games.condorcet_winner, games.smith_set, games.three_cycles)

    def every(preference):
        return [rule(preference) for rule in rules]

    plain = every(batch)
    assert all(found.shape[:2] == (3, 1) for found in plain)
    one_by_one = [np.stack([np.asarray(rule(matrix))[None] for matrix in batch[:, 0]]) for rule in rules]
    for others in (jax.jit(every)(batch), jax.jit(jax.vmap(every))(batch), one_by_one):
        for found, other in zip(plain, others, strict=True):
            np.testing.assert_allclose(found, other, atol=1e-6)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(games.majority_cycle)(CIRCLE)
    with pytest.raises(ValueError, match="one matrix"):
        games.majority_cycle(batch)


def test_bad_matrices_are_named():
    with pytest.raises(ValueError, match="preference must satisfy"):
        games.borda([[0.5, 0.9], [0.9, 0.5]])
    with pytest.raises(ValueError, match="preference must be square"):
        games.smith_set(np.zeros((2, 3)))
    assert games.borda([[0.5]]).tolist() == [0.5]
