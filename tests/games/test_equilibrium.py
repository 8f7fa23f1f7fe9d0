"""The regularised Nash and the von Neumann winner against other solvers, written digits and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import alignjax as aj
from alignjax import games
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

COMAL = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
# Extragradient mirror steps until the gap is below 1e-12, in float64; see also test_digits_by_extragradient.
COMAL_NASH = (0.337135850066, 0.283464109099, 0.379400040835)


def respond(preference, ref_logp, tau, opponent_logp):
    """The best response, in NumPy."""
    return log_softmax(ref_logp + oracles.win_rates(preference, opponent_logp) / np.asarray(tau)[..., None], axis=-1)


def random_game(seed, size, batch=()):
    rng = np.random.default_rng(seed)
    return oracles.preferences(rng, *batch, size), oracles.policies(rng, *batch, size)


GAMES = 6  # every test of three responses solves a batch of this size: one compilation for all
UNIFORM = np.full(3, -np.log(3))


def solved(*rows):
    """Nash policies of up to six games of three responses, given as (preference, ref_logp, tau)."""
    rows = [*rows, *[rows[0]] * (GAMES - len(rows))]
    preference, ref_logp, tau = (np.stack([np.asarray(row[n]) for row in rows]) for n in range(3))
    return np.asarray(games.nash(games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)))


def test_digits_of_a_published_cycle():
    logp = solved((COMAL, UNIFORM, 0.1))[0]
    np.testing.assert_allclose(np.exp(logp), COMAL_NASH, rtol=0, atol=1e-11)
    assert 2 * (COMAL @ np.exp(logp) - 0.5).max() == pytest.approx(0.024489777240, abs=1e-11)  # the original gap


def test_against_extragradient():
    # An independent algorithm, without a linear solve.
    found = oracles.nash_fixed_point(COMAL, UNIFORM, 0.1)
    np.testing.assert_allclose(np.exp(found), COMAL_NASH, rtol=0, atol=1e-11)
    rows = [(*random_game(seed, 3), tau) for seed, tau in enumerate((0.05, 0.1, 0.3, 1.0, 3.0, 10.0))]
    for row, logp in zip(rows, solved(*rows), strict=True):
        np.testing.assert_allclose(logp, oracles.nash_fixed_point(*row), atol=1e-12)


@pytest.mark.parametrize("size", [3, pytest.param(20, marks=pytest.mark.slow), 50])
def test_fixed_point_of_the_best_response(size):
    # All temperatures in one batch; the residual is evaluated by NumPy.
    tau = np.array([0.01, 0.03, 0.1, 0.5, 2.0, 10.0])
    preference, ref_logp = random_game(size, size, (GAMES,))
    logp = np.asarray(games.nash(games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)))
    np.testing.assert_allclose(logp, respond(preference, ref_logp, tau, logp), rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.exp(logp).sum(-1), 1, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 10])
def test_fixed_point_on_many_games(size):
    tau = np.geomspace(0.01, 10, 200)
    rng = np.random.default_rng(1)
    preference, ref_logp = oracles.preferences(rng, 200, size), oracles.policies(rng, 200, size, spread=3)
    preference[::7] = np.round(preference[::7])  # certain ones among them
    preference[:, np.arange(size), np.arange(size)] = 0.5
    logp = np.asarray(games.nash(games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)))
    np.testing.assert_allclose(logp, respond(preference, ref_logp, tau, logp), rtol=0, atol=1e-10)


def test_certain_preferences_and_two_responses():
    # 0/1 rock-paper-scissors: uniform by symmetry. Two responses: P_12 - 1/2 is the advantage over every
    # opponent, so that the log-odds are log(ref_1 / ref_2) + (P_12 - 1/2) / tau; the third has no mass.
    circle = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    two = np.log([0.2, 0.8, 1e-300])
    two[2] = -np.inf
    sure = np.array([[0.5, 1, 0], [0, 0.5, 0], [1, 1, 0.5]])
    mild = np.array([[0.5, 0.7, 0], [0.3, 0.5, 0], [1, 1, 0.5]])
    logp = solved((circle, UNIFORM, 0.01), (sure, two, 0.01), (mild, two, 0.1), (mild, two, 10.0))
    np.testing.assert_allclose(logp[0], UNIFORM, atol=1e-12)
    assert np.isneginf(logp[1:4, 2]).all()
    odds = np.log(0.25) + np.array([0.5 / 0.01, 0.2 / 0.1, 0.2 / 10])
    np.testing.assert_allclose(logp[1:4, 0] - logp[1:4, 1], odds, atol=1e-9)


def test_shift_and_scale_identities():
    # I9: doubling (P - 1/2, tau) together changes nothing; a permutation permutes. I10: tau -> inf gives the reference.
    preference, ref_logp = random_game(7, 3)
    preference = 0.5 + 0.5 * (preference - 0.5)
    order = np.array([2, 0, 1])
    plain, doubled, permuted, hot, *_ = solved(
        (preference, ref_logp, 0.1),
        (2 * preference - 0.5, ref_logp, 0.2),
        (preference[order][:, order], ref_logp[order], 0.1),
        (preference, ref_logp, 1e9),
    )
    np.testing.assert_allclose(plain, doubled, atol=1e-12)
    np.testing.assert_allclose(plain[order], permuted, atol=1e-12)
    np.testing.assert_allclose(hot, ref_logp, atol=1e-8)


def test_low_temperature_approaches_the_winner():
    # Identity I7: the original gap is at most 2 tau log(1 / min ref).
    rows = [(*random_game(9, 3), tau) for tau in (0.01, 0.03, 0.1, 0.5, 2.0, 10.0)]
    for (preference, ref_logp, tau), logp in zip(rows, solved(*rows), strict=True):
        assert 2 * (preference @ np.exp(logp) - 0.5).max() <= -2 * tau * ref_logp.min() + 1e-12


@pytest.mark.slow
def test_one_response():
    assert games.nash(games.PreferenceGame(preference=[[0.5]], tau=1.0)).tolist() == [0.0]


def test_under_jit_and_vmap():
    preference, ref_logp = random_game(2, 3, (GAMES,))
    tau = np.geomspace(0.01, 10, GAMES)
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    mapped = np.asarray(jax.jit(jax.vmap(games.nash))(game))
    np.testing.assert_allclose(mapped, games.nash(game), atol=1e-12)
    np.testing.assert_allclose(mapped, respond(preference, ref_logp, tau, mapped), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_one_game_at_many_temperatures():
    preference, ref_logp = random_game(2, 3)
    tau = np.geomspace(0.01, 10, GAMES)
    several = np.asarray(games.nash(games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)))
    assert several.shape == (GAMES, 3)
    np.testing.assert_allclose(several, respond(preference, ref_logp, tau, several), atol=1e-10)


def test_gradients_by_finite_differences():
    # Central differences of the solver along directions that keep P + P^T = 1; the last response has no mass.
    preference, ref_logp = random_game(3, 4)
    ref_logp = log_softmax(np.where(np.arange(4) == 3, -np.inf, ref_logp))
    weight = np.array([1.0, -2.0, 0.5, 0.0])
    rng = np.random.default_rng(4)
    skew = np.triu(rng.normal(size=(4, 4)), 1)
    skew -= skew.T
    shift = rng.normal(size=4)

    @jax.jit
    @jax.value_and_grad
    def value(t):
        game = games.PreferenceGame(
            preference=preference + t[0] * skew, ref_logp=jax.nn.log_softmax(ref_logp + t[1] * shift), tau=0.2 + t[2]
        )
        return jnp.where(weight == 0, 0.0, games.nash(game)) @ weight

    gradient = np.asarray(value(jnp.zeros(3))[1])
    steps = 1e-5 * np.eye(3)
    expected = [(float(value(jnp.asarray(e))[0]) - float(value(jnp.asarray(-e))[0])) / 2e-5 for e in steps]
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-7)
    assert (np.abs(expected) > 1e-3).all()


def test_single_precision_is_usable():
    preference, ref_logp = random_game(6, 3, (GAMES,))
    tau = np.array([0.02, 0.05, 0.2, 1.0, 5.0, 10.0])
    with jax.enable_x64(False):
        game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
        low = games.nash(game)
        assert low.dtype == jnp.float32
    high = games.nash(games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau))
    np.testing.assert_allclose(low, high, atol=1e-3)


def test_winner_of_generalised_rock_paper_scissors():
    # Nash proportional to (b, c, a): every response by the margin of the edge it does not touch; solved by hand.
    for a, b, c in ((0.5, 0.5, 0.5), (0.1, 0.2, 0.4), (0.45, 0.05, 0.3)):
        table = games.library.rock_paper_scissors(a, b, c)
        np.testing.assert_allclose(games.von_neumann_winner(table), np.array([b, c, a]) / (a + b + c), atol=1e-9)
    np.testing.assert_allclose(games.von_neumann_winner(COMAL.tolist()), np.array([4, 3, 4]) / 11, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, -0.1, -0.3])
def test_winner_of_three_types_of_annotators(epsilon):
    # arXiv:2312.00886, Sec. 3.2: the Nash is (1/3 + eps/2, 1/3 + eps/2, 1/3 - eps).
    table = games.library.three_types(epsilon)
    expected = [1 / 3 + epsilon / 2, 1 / 3 + epsilon / 2, 1 / 3 - epsilon]
    np.testing.assert_allclose(games.von_neumann_winner(table), expected, atol=1e-9)


def test_winner_in_a_batch_is_unbeaten():
    preference, _ = random_game(8, 6, (2, 3))
    winner = games.von_neumann_winner(preference)
    assert winner.shape == (2, 3, 6)
    assert oracles.win_rates(preference, np.log(np.maximum(winner, 1e-300))).max() < 0.5 + 1e-8  # value 1/2
    np.testing.assert_allclose(winner.sum(-1), 1)


def test_winner_refuses_a_trace():
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(games.von_neumann_winner)(COMAL)


@pytest.mark.parametrize("mixture", [0.0, 0.25, 1.0])
def test_equilibrium_against_a_mixture(mixture):
    # pi ~ ref exp(P pi_m / beta), and pi_m = pi^{1-m} ref^m is the Nash at beta / (1 - m): arXiv:2403.08635, Prop. 5.2.
    preference, ref_logp = random_game(10, 3)
    logp = np.asarray(aj.games.equilibrium.mixture_equilibrium(preference, ref_logp, 0.2, mixture))
    mixed = log_softmax((1 - mixture) * logp + mixture * ref_logp)
    np.testing.assert_allclose(logp, respond(preference, ref_logp, 0.2, mixed), atol=1e-11)
    if mixture < 1:
        np.testing.assert_allclose(mixed, respond(preference, ref_logp, 0.2 / (1 - mixture), mixed), atol=1e-11)
