"""Payoff, best response and gaps against NumPy; written digits; the game as a container."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, rel_entr

from alignjax import games
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

COMAL = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])


def instance(seed=0, size=4, batch=(2,)):
    rng = np.random.default_rng(seed)
    return (
        oracles.preferences(rng, *batch, size),
        oracles.policies(rng, *batch, size),
        oracles.policies(rng, *batch, size),
        oracles.policies(rng, *batch, size),
        np.linspace(0.1, 0.7, int(np.prod(batch))).reshape(batch),
    )


def kl(a, b):
    return rel_entr(np.exp(a), np.exp(b)).sum(-1)


def payoff(preference, ref_logp, tau, a, b):
    wins = np.einsum("...i,...ij,...j->...", np.exp(a), preference, np.exp(b))
    return wins - tau * kl(a, ref_logp) + tau * kl(b, ref_logp)


FUNCTIONS = ("best_response", "best_response_value", "duality_gap", "duality_gap_by_value", "original_gap")


@jax.jit
def everything(game, logp, other):
    """All quantities in one compilation; the eager calls are in test_eager_is_jit_is_vmap."""
    return {"payoff": games.payoff(game, logp, other), "self": games.payoff(game, logp, logp)} | {
        name: getattr(games, name)(game, other) for name in FUNCTIONS
    }


def test_digits_of_the_published_cycle():
    # (.2, .5, .3) against the matrix of arXiv:2410.23223 at tau = .1: computed apart, in float64 by the formulas below.
    game = games.PreferenceGame(preference=COMAL, tau=0.1)
    logp = np.log([0.2, 0.5, 0.3])
    response = np.exp(games.best_response(game, logp))
    np.testing.assert_allclose(response, [0.065805723073, 0.132516453006, 0.801677823921], rtol=0, atol=1e-11)
    assert games.duality_gap(game, logp) == pytest.approx(0.118279090714, abs=1e-11)
    assert games.original_gap(game, logp) == pytest.approx(0.28, abs=1e-12)  # 2 (.64 - .5), by hand


def test_payoff_best_response_and_gaps():
    preference, ref_logp, logp, other, tau = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    got = everything(game, logp, other)
    np.testing.assert_allclose(got["payoff"], payoff(preference, ref_logp, tau, logp, other), atol=1e-13)
    np.testing.assert_allclose(got["self"], 0.5, atol=1e-13)  # antisymmetry
    np.testing.assert_allclose(game.win_rate(other), oracles.win_rates(preference, other), atol=1e-14)
    exponent = ref_logp + oracles.win_rates(preference, other) / tau[:, None]
    response = log_softmax(exponent, -1)
    np.testing.assert_allclose(got["best_response"], response, atol=1e-12)
    value = tau * (logsumexp(exponent, -1) + kl(other, ref_logp))
    np.testing.assert_allclose(got["best_response_value"], value, atol=1e-12)
    gap = 2 * payoff(preference, ref_logp, tau, response, other) - 1  # by definition, J(a, b) = 1 - J(b, a)
    np.testing.assert_allclose(got["duality_gap"], gap, atol=1e-12)
    np.testing.assert_allclose(got["duality_gap_by_value"], gap, atol=1e-12)
    original = 2 * (oracles.win_rates(preference, other).max(-1) - 0.5)
    np.testing.assert_allclose(got["original_gap"], original, atol=1e-13)


def test_the_best_response_is_the_best():
    preference, ref_logp, logp, other, tau = instance(1)
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    response = np.asarray(everything(game, logp, other)["best_response"])
    best = payoff(preference, ref_logp, tau, response, other)
    rng = np.random.default_rng(2)
    for spread in (1e-3, 0.1, 1.0):
        tried = log_softmax(response + spread * rng.normal(size=response.shape), -1)
        assert (payoff(preference, ref_logp, tau, tried, other) < best).all()
    assert (payoff(preference, ref_logp, tau, logp, other) < best).all()


def test_the_gap_resolves_what_rounding_would_hide():
    # Near the equilibrium the gap is quadratic: 2 tau KL, here about 1e-22, where 2 J - 1 sees only rounding.
    game = games.PreferenceGame(preference=COMAL, tau=0.1)
    nash = oracles.nash_fixed_point(COMAL, np.full(3, -np.log(3)), 0.1)
    step = np.array([1.0, -1.0, 0.0])
    gaps = [float(games.duality_gap(game, log_softmax(nash + e * step))) for e in (1e-9, 1e-10)]
    assert 0 < gaps[1] < gaps[0] < 1e-16
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=1e-3)


def test_responses_without_reference_mass_are_out_of_the_game():
    # Oracle: the game without the response, which would otherwise beat all.
    preference, ref_logp, logp, _, tau = instance(3)
    more = np.pad(preference, ((0, 0), (0, 1), (0, 1)), constant_values=0.5)
    more[:, 4, :4], more[:, :4, 4] = 1.0, 0.0
    pad = lambda x: np.pad(x, ((0, 0), (0, 1)), constant_values=-np.inf)
    big = games.PreferenceGame(preference=more, ref_logp=pad(ref_logp), tau=tau)
    small = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    full, part = everything(big, pad(logp), pad(logp)), everything(small, logp, logp)
    for name in FUNCTIONS[1:]:
        np.testing.assert_allclose(full[name], part[name], atol=1e-12)
    assert np.isneginf(full["best_response"][:, 4]).all()


def test_a_policy_with_zero_mass_has_a_finite_gap_and_gradient():
    preference, ref_logp, _, _, _ = instance(4, 3, ())
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=0.3)
    pure = np.array([0.0, -np.inf, -np.inf])
    # 2 tau KL(pure || BR) = -2 tau log BR(0), by hand.
    expected = -0.6 * log_softmax(ref_logp + preference[:, 0] / 0.3)[0]
    assert games.duality_gap(game, pure) == pytest.approx(expected, abs=1e-12)
    gradient = jax.jit(jax.grad(lambda z: games.duality_gap(game, jax.nn.log_softmax(z))))(
        np.array([0.0, -np.inf, 1.0])
    )
    assert np.isfinite(gradient).all()


def test_uniform_reference_by_default_and_lists():
    game = games.PreferenceGame(preference=COMAL.tolist(), tau=1)
    np.testing.assert_allclose(game.ref_logp, -np.log(3), atol=1e-15)
    assert game.num_responses == 3
    np.testing.assert_allclose(game.skew, COMAL - 0.5, atol=1e-15)


def test_eager_is_jit_is_vmap():
    preference, ref_logp, logp, other, tau = instance(5)
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    jitted = everything(game, logp, other)
    mapped = jax.jit(jax.vmap(everything))(game, logp, other)
    for name in FUNCTIONS:
        eager = getattr(games, name)(game, other)
        np.testing.assert_allclose(jitted[name], eager, atol=1e-13)
        np.testing.assert_allclose(mapped[name], eager, atol=1e-13)
    np.testing.assert_allclose(jitted["payoff"], games.payoff(game, logp, other), atol=1e-14)


def test_single_precision():
    with jax.enable_x64(False):
        game = games.PreferenceGame(preference=COMAL, tau=0.5)
        logp = jax.nn.log_softmax(jnp.asarray([0.0, 1.0, -1.0]))
        gap = games.duality_gap(game, logp)
        assert gap.dtype == jnp.float32
    full = games.duality_gap(games.PreferenceGame(preference=COMAL, tau=0.5), log_softmax([0.0, 1.0, -1.0]))
    np.testing.assert_allclose(gap, full, rtol=1e-5)
