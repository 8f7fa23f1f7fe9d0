"""Bandits and the log-linear policy against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

import alignjax as aj
from alignjax.envs import Bandit, LogLinearPolicy, random_bandit
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

REWARD = np.array([[0.0, 1.0, -0.5], [2.0, 0.0, 0.3]])


def test_pulls_have_the_mean_and_the_noise_they_say():
    bandit = Bandit(reward=REWARD, noise=0.5)
    arms = np.tile([[0, 1, 2]], (2, 1)).repeat(20_000, axis=1)
    pulls = np.asarray(bandit.pull(jax.random.key(0), arms)).reshape(2, 3, 20_000)
    assert np.abs(pulls.mean(-1) - REWARD).max() < 4.5 * 0.5 / np.sqrt(20_000)
    np.testing.assert_allclose(pulls.std(-1), 0.5, rtol=0.03)
    exact = Bandit(reward=REWARD).pull(jax.random.key(0), np.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(exact, [[-0.5, 0.0], [0.0, 0.0]])


def test_duels_are_bradley_terry():
    bandit = Bandit(reward=REWARD)
    arms = np.broadcast_to(np.array([1, 2]), (20_000, 2, 2)).swapaxes(0, 1)[0]
    wins = np.asarray(Bandit(reward=REWARD[0]).duel(jax.random.key(1), arms))
    p = expit(1.5)  # rewards 1 and -0.5
    assert set(np.unique(wins)) == {0.0, 1.0}
    assert abs(wins.mean() - p) < 4.5 * np.sqrt(p * (1 - p) / wins.size)
    assert bandit.num_arms == 3


def test_the_problem_of_a_bandit():
    sampler = oracles.policies(np.random.default_rng(0), 2, 3)
    problem = Bandit(reward=REWARD).problem(sampler)
    np.testing.assert_allclose(problem.ref_logp, -np.log(3), atol=1e-15)
    np.testing.assert_allclose(problem.preference, oracles.bradley_terry(REWARD), atol=1e-15)
    np.testing.assert_array_equal(problem.sampler_logp, sampler)
    drawn = random_bandit(jax.random.key(0), 4, (2,))
    assert drawn.reward.shape == drawn.ref_logp.shape == (2, 4)
    np.testing.assert_allclose(np.exp(drawn.ref_logp).sum(-1), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Bandit(reward=[0.0, np.nan]), "reward"),
        (lambda: Bandit(reward=[0.0, 1.0], noise=-1.0), "noise"),
        (lambda: Bandit(reward=[0.0, 1.0], ref_logp=[0.0, 0.0]), "ref_logp"),
        (lambda: Bandit(reward=[0.0, 1.0], ref_logp=np.log([0.2, 0.3, 0.5])), "ref_logp"),
        (lambda: LogLinearPolicy(np.zeros(3)), "features"),
        (lambda: LogLinearPolicy(np.array([[np.nan]])), "features"),
        (lambda: LogLinearPolicy(np.zeros((3, 2)), np.zeros(2)), "base_logp"),
        (lambda: LogLinearPolicy(np.zeros((3, 2)), np.array([0.0, np.nan, 0.0])), "base_logp"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_log_linear_policy():
    rng = np.random.default_rng(1)
    features, base, theta = rng.normal(size=(2, 4, 3)), oracles.policies(rng, 2, 4), rng.normal(size=3)
    env = LogLinearPolicy(features, base)
    np.testing.assert_allclose(env.logp(theta), log_softmax(base + features @ theta, -1), atol=1e-13)
    np.testing.assert_allclose(LogLinearPolicy(features).logp(env.zeros()), -np.log(4), atol=1e-15)
    # grad log pi(y) = phi(y) - E_pi phi.
    gradient = jax.grad(lambda t: env.logp(t)[0, 1])(jnp.asarray(theta))
    p = np.exp(log_softmax(base[0] + features[0] @ theta))
    np.testing.assert_allclose(gradient, features[0, 1] - p @ features[0], atol=1e-12)


def test_a_method_on_shared_parameters():
    # Features that span all tables: descending theta finds Gibbs, ref exp(r / beta).
    rng = np.random.default_rng(2)
    ref, reward = oracles.policies(rng, 3), rng.normal(size=3)
    env = LogLinearPolicy(np.eye(3), ref)
    problem = aj.Problem(ref_logp=ref, reward=reward)
    fitted = aj.fit(
        "reinforce", problem, num_steps=800, learning_rate=1.0, policy=env.logp, init_params=env.zeros(), beta=1.0
    )
    np.testing.assert_allclose(fitted.logp, log_softmax(ref + reward), atol=1e-6)
    assert fitted.params.shape == (3,)
