"""The equilibria of the original game: closed forms, the linear program, and the regularised path they must end."""

import jax
import numpy as np
import pytest

from alignjax import games
from tests.games.test_social_choice import CIRCLE, tied

pytestmark = pytest.mark.usefixtures("x64")

RPS = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
TWO_ROCKS = RPS[np.ix_([0, 0, 1, 2], [0, 0, 1, 2])]


def gap(preference, policy):
    return 2 * ((preference - 0.5) @ policy).max()


def divergence(policy, reference):
    mass = policy > 0
    return policy[mass] @ np.log(policy[mass] / reference[mass])


def kinked(a, b):
    """1 ties 2, and 3 loses to 1 by a and beats 2 by b: (p, 1 - p, 0) is an equilibrium where p >= b / (a + b)."""
    return np.array([[0.5, 0.5, 0.5 + a], [0.5, 0.5, 0.5 - b], [0.5 - a, 0.5 + b, 0.5]])


def test_copies_share_by_the_reference():
    # Each of rock, paper, scissors has 1/3; within rock KL is least where the copies are as in the reference.
    plain = games.equilibria(TWO_ROCKS)
    np.testing.assert_allclose(plain.nearest, [1 / 6, 1 / 6, 1 / 3, 1 / 3], atol=1e-12)
    assert plain.dimension == 1 and plain.support.all()
    skewed = games.equilibria(TWO_ROCKS, np.log([0.1, 0.3, 0.2, 0.4]))
    np.testing.assert_allclose(skewed.nearest, [1 / 12, 3 / 12, 1 / 3, 1 / 3], atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.1), (0.1, 0.3), (0.2, 0.2), (0.05, 0.45)])
def test_the_nearest_may_lie_where_an_unused_response_is_as_good(a, b):
    found = games.equilibria(kinked(a, b))
    p = max(0.5, b / (a + b))  # most entropy on the segment
    np.testing.assert_allclose(found.nearest, [p, 1 - p, 0], atol=1e-7)
    assert found.dimension == 1
    np.testing.assert_array_equal(found.support, [True, True, False])
    assert gap(kinked(a, b), found.nearest) < 1e-12


def test_all_ties_return_the_reference():
    reference = np.array([0.1, 0.2, 0.3, 0.4])
    found = games.equilibria(np.full((4, 4), 0.5), np.log(reference))
    np.testing.assert_allclose(found.nearest, reference, atol=1e-12)
    assert found.dimension == 3


def test_one_winner_and_one_cycle():
    winner = games.equilibria([[0.5, 0.6, 0.9], [0.4, 0.5, 0.2], [0.1, 0.8, 0.5]])
    assert winner.nearest.tolist() == [1, 0, 0] and winner.dimension == 0
    # Margins .4, .2, .3: the Nash is (b, c, a) / (a + b + c), whatever the reference.
    circle = games.equilibria(CIRCLE, np.log([0.9, 0.05, 0.05]))
    np.testing.assert_allclose(circle.nearest, np.array([0.2, 0.3, 0.4]) / 0.9, atol=1e-12)
    assert circle.dimension == 0


@pytest.mark.parametrize("seed", range(6))
def test_tournaments_have_one_equilibrium_of_odd_support(seed):
    # Fisher and Ryan, 1992; Laffond, Laslier and Le Breton, 1993: a 6x6 game of +-1, and the linear program agrees.
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.choice([-0.5, 0.5], size=(6, 6)), 1)
    preference = 0.5 + upper - upper.T
    found = games.equilibria(preference)
    assert found.dimension == 0
    assert found.support.sum() % 2 == 1
    np.testing.assert_allclose(found.nearest, games.von_neumann_winner(preference), atol=1e-9)
    assert gap(preference, found.nearest) < 1e-14


def test_the_regularised_path_ends_there_and_its_divergence_only_grows():
    # Newton at tau > 0 knows nothing of the polytope. Uniform and skewed references, many ties.
    several = 0
    taus = np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-6])
    for seed in range(12):
        preference = tied(seed, 5)
        rng = np.random.default_rng(seed)
        reference = rng.dirichlet(np.full(5, 2.0)) if seed % 2 else np.full(5, 0.2)
        found = games.equilibria(preference, np.log(reference))
        game = games.PreferenceGame(preference=preference, ref_logp=np.log(reference), tau=taus)
        path = np.exp(np.asarray(games.nash(game)))
        assert np.abs(path[-1] - found.nearest).sum() < 1e-4
        assert np.abs(path[-1] - found.nearest).sum() <= 0.2 * np.abs(path[2] - found.nearest).sum() + 1e-7
        spent = [divergence(policy, reference) for policy in path]
        assert (np.diff(spent) >= -1e-9).all()
        assert spent[-1] <= divergence(found.nearest, reference) + 1e-9
        vertex = games.von_neumann_winner(preference)
        assert divergence(found.nearest, reference) <= divergence(vertex, reference) + 1e-9
        several += found.dimension > 0
        assert gap(preference, found.nearest) < 1e-12
    assert several >= 3


def test_a_response_without_reference_mass_is_out_of_the_game():
    found = games.equilibria(CIRCLE, np.log([0.5, 0.5, 1e-300]) + np.array([0, 0, -np.inf]))
    np.testing.assert_array_equal(found.nearest, [1, 0, 0])  # 1 beats 2, and 3 is not there
    np.testing.assert_array_equal(found.support, [True, False, False])


def test_refusals():
    with pytest.raises(ValueError, match="one matrix"):
        games.equilibria(np.full((2, 3, 3), 0.5))
    with pytest.raises(ValueError, match="ref_logp"):
        games.equilibria(CIRCLE, np.zeros(3))
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(games.equilibria)(CIRCLE)


@pytest.mark.slow
def test_five_hundred_responses():
    preference = np.asarray(games.random_preference(jax.random.key(0), 500))
    found = games.equilibria(preference)
    assert gap(preference, found.nearest) < 1e-12
    np.testing.assert_allclose(found.nearest, games.von_neumann_winner(preference), atol=1e-7)
    assert found.support.sum() % 2 == 1 and found.dimension == 0


def test_the_linear_program_of_many_responses_is_exact(monkeypatch):
    # The interior point of HiGHS, which large games take, on a small one.
    monkeypatch.setattr(games.equilibrium, "_LARGE", 2)
    np.testing.assert_allclose(games.von_neumann_winner(CIRCLE), np.array([2, 3, 4]) / 9, atol=1e-9)


def test_fast_cooling_that_overshoots_goes_back():
    # A cycle seen from far references: from a temperature many times higher Newton stalls at gaps of 0.5.
    cycle = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    far = np.array([[-17.15, -2.54, -0.08], [-13.87, -12.67, -0.01], [-9.0, -0.5, -3.0], [0.0, -14.0, -6.0]])
    ref = far - np.log(np.exp(far).sum(-1, keepdims=True))
    for tau in (1e-3, 1e-4):
        game = games.PreferenceGame(preference=cycle, ref_logp=ref, tau=tau)
        policy = np.exp(np.asarray(games.nash(game)))
        reply = ref + policy @ cycle.T / tau
        reply = np.exp(reply - reply.max(-1, keepdims=True))
        np.testing.assert_allclose(policy, reply / reply.sum(-1, keepdims=True), atol=1e-9)


def test_a_response_played_rarely_is_played():
    # The Nash is (b, c, a) / (a + b + c): the third is played twice in ten thousand.
    a, b, c = 1e-4, 0.3, 0.2
    found = games.equilibria(games.library.rock_paper_scissors(a, b, c))
    np.testing.assert_allclose(found.nearest, np.array([b, c, a]) / (a + b + c), rtol=1e-9)
    assert found.support.all()


def test_copies_and_ties_of_every_kind_leave_no_warning():
    # Where the interior-point system ends singular; every warning is an error in the tests.
    dimensions = set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(2, 13))
        upper = np.triu(rng.choice([[-0.5, 0, 0.5], [-0.1, 0, 0.1], [-0.2, 0.1, 0.3]][seed % 3], (size, size)), 1)
        copies = rng.integers(0, size, size=size) if seed % 2 else np.arange(size)
        preference = 0.5 + (upper - upper.T)[np.ix_(copies, copies)]
        logits = 5 * rng.normal(size=size)
        found = games.equilibria(preference, logits - np.log(np.exp(logits).sum()))
        assert gap(preference, found.nearest) < 1e-12
        assert found.nearest.sum() == pytest.approx(1) and (found.nearest >= 0).all()
        dimensions.add(found.dimension)
    assert dimensions >= {0, 1, 2, 3, 4}
