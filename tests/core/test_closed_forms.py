"""Gibbs policies, tilts and f-regularised optima against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import log_softmax, logsumexp

import alignjax as aj
from alignjax import logspace
from alignjax.f_regularised import regularised_optimum
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")


def instance(size=4, batch=(2,)):
    rng = np.random.default_rng(0)
    return oracles.policies(rng, *batch, size), rng.normal(size=(*batch, size)), oracles.policies(rng, *batch, size)


def test_worked_number():
    # Uniform over two, r = (0, 1), beta = 1: sigmoid(1) = 0.7310585786 on the second.
    assert np.exp(aj.gibbs(np.log([0.5, 0.5]), [0.0, 1.0], 1.0))[1] == pytest.approx(0.7310585786300049, abs=1e-15)


def test_the_optimum_its_value_and_the_regret():
    ref, reward, logp = instance()
    beta = np.array([0.1, 2.0])
    optimum = log_softmax(ref + reward / beta[:, None], -1)

    @jax.jit
    def everything(x):
        given = (ref, reward, beta)
        return aj.log_partition(*given), aj.optimal_value(*given), aj.objective(x, *given), aj.suboptimality(x, *given)

    np.testing.assert_allclose(aj.gibbs(ref, reward, beta), optimum, atol=1e-13)
    log_z = logsumexp(ref + reward / beta[:, None], -1)
    partition, best, reached, regret = everything(logp)
    np.testing.assert_allclose(partition, log_z, rtol=1e-13)
    np.testing.assert_allclose(best, beta * log_z, rtol=1e-13)
    j = lambda x: (np.exp(x) * (reward - beta[:, None] * (x - ref))).sum(-1)
    np.testing.assert_allclose(reached, j(logp), atol=1e-13)
    np.testing.assert_allclose(regret, beta * log_z - j(logp), atol=1e-12)
    np.testing.assert_allclose(everything(optimum)[2], beta * log_z, atol=1e-12)


def test_gibbs_shapes_lists_and_zeros():
    assert aj.gibbs([0.0], [3.0], 1).tolist() == [0.0]
    np.testing.assert_allclose(aj.gibbs(np.log([0.5, 0.5]).tolist(), [0, 1], 1), log_softmax([0, 1]), atol=1e-15)
    ref = np.array([np.log(0.5), np.log(0.5), -np.inf])
    np.testing.assert_allclose(np.exp(aj.gibbs(ref, [0.0, 0.0, 9.0], 1.0)), [0.5, 0.5, 0], atol=1e-15)
    np.testing.assert_allclose(np.exp(aj.gibbs(np.log([0.5, 0.5]), [0.0, -np.inf], 1.0)), [1, 0], atol=1e-15)
    assert aj.gibbs(np.log([0.5, 0.5]), np.zeros((2, 3, 2)), 1.0).shape == (2, 3, 2)
    # A reward that e^(r / beta) could not hold.
    np.testing.assert_allclose(aj.gibbs(np.log([0.5, 0.5]), [0.0, 1e4], 1e-2), [-1e6, 0], rtol=1e-12)


def test_gibbs_gradients():
    # d (beta log Z) / d r = pi*, d (beta log Z) / d beta = -KL(pi* || ref): identity C4.
    ref, reward, _ = instance(4, ())
    value = lambda r, b: aj.optimal_value(ref, r, b)
    by_reward, by_beta = jax.jit(jax.grad(value, argnums=(0, 1)))(reward, 0.3)
    optimum = log_softmax(ref + reward / 0.3)
    np.testing.assert_allclose(by_reward, np.exp(optimum), atol=1e-13)
    np.testing.assert_allclose(by_beta, -(np.exp(optimum) * (optimum - ref)).sum(), rtol=1e-12)


def test_tilt_of_weighted_bases():
    rng = np.random.default_rng(1)
    bases, score = oracles.policies(rng, 3, 2, 4), rng.normal(size=(2, 4))
    weights = np.array([0.5, -0.25, 1.0])
    expected = log_softmax(np.einsum("j,jba->ba", weights, bases) + 0.7 * score, -1)
    np.testing.assert_allclose(aj.tilt(bases, weights, score, 0.7), expected, atol=1e-13)
    np.testing.assert_allclose(aj.tilt(list(bases), weights, score, 0.7), expected, atol=1e-13)
    per_prompt = rng.uniform(size=(3, 2))
    scale = np.array([0.2, 3.0])
    expected = log_softmax(np.einsum("jb,jba->ba", per_prompt, bases) + scale[:, None] * score, -1)
    np.testing.assert_allclose(aj.tilt(bases, per_prompt, score, scale), expected, atol=1e-13)


@pytest.mark.parametrize("hole", [-np.inf, np.nan, np.inf])
def test_a_base_of_weight_zero_is_ignored(hole):
    base = log_softmax([0.1, 0.5, -0.3])
    odd = np.array([hole, 0.0, hole])
    np.testing.assert_allclose(aj.tilt((base, odd), [1.0, 0.0]), base, atol=1e-15)
    run = jax.jit(lambda b, w: aj.tilt((b, odd), w)[0])
    weights = np.array([1.0, 0.0])
    assert run(base, weights) == pytest.approx(base[0])
    by_base, by_weight = jax.jit(jax.grad(run, argnums=(0, 1)))(base, weights)
    np.testing.assert_allclose(by_base, np.array([1, 0, 0]) - np.exp(base), atol=1e-14)
    assert np.isfinite(by_weight[0])


def test_tilt_keeps_zero_mass_and_forbids():
    base = np.log([0.5, 0.5, 1e-300])
    base[2] = -np.inf
    other = log_softmax([0.1, 0.5, -0.3])
    got = np.asarray(aj.tilt((base, other), [0.5, 0.5]))
    np.testing.assert_allclose(got[:2], log_softmax(0.5 * base[:2] + 0.5 * other[:2]), atol=1e-14)
    assert got[2] == -np.inf
    np.testing.assert_allclose(np.exp(aj.tilt((other,), [1.0], [-np.inf, 0, 0]))[0], 0)
    with pytest.raises(ValueError, match="no response"):
        aj.tilt((base, np.array([-np.inf, -np.inf, 0.0])), [0.5, 0.5])
    gradient = jax.jit(jax.grad(lambda s: aj.tilt((base,), jnp.ones(1), s)[0]))(np.zeros(3))
    np.testing.assert_allclose(gradient, [0.5, -0.5, 0], atol=1e-14)


def test_geometric_mixture():
    ref, _, logp = instance()
    np.testing.assert_allclose(
        aj.geometric_mixture(logp, ref, 0.3), log_softmax(0.7 * logp + 0.3 * ref, -1), atol=1e-13
    )
    np.testing.assert_allclose(aj.geometric_mixture(logp, ref, 0.0), logp, atol=1e-14)
    pure = np.array([0.0, -np.inf])
    np.testing.assert_allclose(aj.geometric_mixture(pure, np.log([0.5, 0.5]), 1.0), np.log([0.5, 0.5]), atol=1e-15)


def test_masked_sums_and_means():
    x, mask = np.array([[1.0, np.nan, 3.0], [np.inf, np.nan, -np.inf]]), np.array([[1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(logspace.masked_sum(x, mask), [4, 0])
    np.testing.assert_array_equal(logspace.masked_mean(x, mask), [2, 0])
    gradient = jax.jit(jax.grad(lambda y: logspace.masked_mean(y, mask).sum()))(x)
    np.testing.assert_array_equal(gradient, [[0.5, 0, 0.5], [0, 0, 0]])


f_optimum = regularised_optimum

SLOPES = {  # f'(u), arXiv:2309.16240, Table 1
    "reverse_kl": lambda u: np.log(u) + 1,
    "forward_kl": lambda u: -1 / u,
    "js": lambda u: np.log(2 * u / (1 + u)),
    "alpha": lambda u: (1 - u**-0.3) / 0.3,
}


@pytest.mark.parametrize("divergence", SLOPES)
def test_the_f_regularised_optimum_is_stationary(divergence):
    # beta f'(pi / ref) = r - lambda with one lambda for all responses, and pi sums to 1.
    ref, reward, _ = instance()
    for beta in (0.05, 1.0, 20.0):
        logp = np.asarray(f_optimum(ref, reward, beta, divergence, 0.3))
        np.testing.assert_allclose(np.exp(logp).sum(-1), 1, atol=1e-12)
        multiplier = reward - beta * SLOPES[divergence](np.exp(logp - ref))
        np.testing.assert_allclose(multiplier, multiplier[:, :1] * np.ones(4), atol=1e-7 if beta < 1 else 1e-9)


def test_the_forward_kl_optimum_by_scipy():
    # pi = beta ref / (lambda - r), lambda by Brent's method.
    ref, reward, _ = instance(4, ())
    total = lambda lam: (0.5 * np.exp(ref) / (lam - reward)).sum() - 1
    lam = brentq(total, reward.max() + 1e-9, reward.max() + 10, xtol=1e-14)
    expected = np.log(0.5 * np.exp(ref) / (lam - reward))
    np.testing.assert_allclose(f_optimum(ref, reward, 0.5, "forward-kl"), expected, atol=1e-10)
    dead = f_optimum(np.append(ref, -np.inf), np.append(reward, 99.0), 0.5, "forward_kl")
    np.testing.assert_allclose(dead[:4], expected, atol=1e-10)
    assert dead[4] == -np.inf


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision(dtype):
    with jax.enable_x64(False):
        ref = jnp.asarray([0.2, -0.4, 1.0], dtype)
        got = jax.jit(aj.gibbs)(jax.nn.log_softmax(ref), jnp.asarray([0.5, 0.25, -1.0], dtype), 0.5)
        assert got.dtype == jnp.float32
    expected = log_softmax(np.asarray(ref, float) + np.array([1.0, 0.5, -2.0]))
    np.testing.assert_allclose(got, expected, atol=0.02 if dtype == jnp.bfloat16 else 1e-6)
