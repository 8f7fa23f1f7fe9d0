"""The SPPO page: its runs against plain NumPy and SciPy (its record and verdicts are tested with COMAL's)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from papers import sppo_experiments as sppo
from papers.record import Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def test_the_minimiser_by_scipy():
    """sum_y pi_t (log pi - log pi_t - h (q - 1/2))^2 over the simplex, by a quasi-Newton method on logits."""
    generator = np.random.default_rng(1)
    preference = sppo.uniform_games(generator, 1, 4)[0]
    policy, h = generator.dirichlet(np.ones(4)), 4.0
    target = np.log(policy) + h * (preference @ policy - 0.5)

    def loss(free):
        logits = np.append(free, 0.0)
        return policy @ (logits - np.log(np.exp(logits).sum()) - target) ** 2

    best = np.append(minimize(loss, np.zeros(3), tol=1e-15).x, 0.0)
    found = np.asarray(sppo._minimiser(sppo._problem(np.log(policy), np.log(policy), preference), jnp.asarray(h))[0])
    np.testing.assert_allclose(found, best - np.log(np.exp(best).sum()), atol=1e-5)
    exact = target - np.log(np.exp(target).sum())
    assert np.abs(found - exact).max() > 1e-3  # not multiplicative weights


def test_the_partition_of_two_responses():
    """One always wins and each has half the mass: log Z - h/2 = log cosh(h/4), near its bound for small h."""
    for h in (0.1, 2.0, 50.0):
        win_rate = np.asarray([0.75, 0.25])
        excess = np.log(0.5 * np.exp(h * win_rate).sum()) - h / 2
        np.testing.assert_allclose(excess, np.log(np.cosh(h / 4)), atol=1e-12)
        assert 0 <= excess <= h**2 / 8


@pytest.mark.slow
def test_partitions_of_the_run_by_hand():
    generator = np.random.default_rng([QUICK.seed, 60])
    preference = sppo.uniform_games(generator, 200)
    logits = generator.normal(size=(200, sppo.SIZE))
    policy = np.exp(logits[7]) / np.exp(logits[7]).sum()
    run = sppo.one_step(QUICK)
    for row, h in enumerate(sppo.STEPS[:5]):
        partition = policy @ np.exp(h * preference[7] @ policy)
        np.testing.assert_allclose(run["excess"][row, 7], np.log(partition) - h / 2, atol=1e-10)


def test_the_estimate_by_listing():
    """E[P-hat | y_1 = y] = ((K - 1) P(y > pi) + 1/2) / K, here from draws of the policy instead of a list."""
    generator = np.random.default_rng(5)
    preference = sppo.uniform_games(generator, 1, 4)[0]
    policy = np.asarray([0.1, 0.2, 0.3, 0.4])
    draws = generator.choice(4, p=policy, size=(200_000, sppo.DRAWN))
    mean = np.asarray([preference[y, draws[draws[:, 0] == y]].mean() for y in range(4)])
    wanted = (4 * (preference @ policy) + 0.5) / 5
    np.testing.assert_allclose(mean, wanted, atol=4e-3)
    assert np.abs(mean - preference @ policy).max() > 0.01
    np.testing.assert_allclose(sppo.estimates(QUICK)["slope"], 0.8, atol=1e-12)


@pytest.mark.slow
def test_self_play_on_the_synthetic_game_by_hand():
    matrix = np.asarray([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    run = sppo.on_cycles(QUICK)
    policy, total = np.asarray([0.2, 0.5, 0.3]), np.zeros(3)
    for t in range(200):
        np.testing.assert_allclose(run["path"][t], policy, atol=1e-10)
        total += policy
        after = policy * np.exp(0.1 * matrix @ policy)
        after /= after.sum()
        np.testing.assert_allclose(run["improvement"][t, 0], after @ matrix @ policy - 0.5, atol=1e-12)
        policy = after
    np.testing.assert_allclose(run["average"][199, 0], 2 * ((matrix @ total).max() / 200 - 0.5), atol=1e-10)
    np.testing.assert_allclose(run["bound"][199], 2 * np.log(5) / (0.1 * 200) + 0.1 / 4)


@pytest.mark.slow
def test_residuals_by_hand():
    run = sppo.residuals(QUICK)
    generator = np.random.default_rng([QUICK.seed, 65])
    logp, anchor = (np.log(generator.uniform(0.01, 1, (500, 2))) for _ in range(2))
    rates = generator.uniform(size=(500, 2))
    ratio = logp - anchor
    residual = ratio[:, 0] - ratio[:, 1] - 1.7 * (rates[:, 0] - rates[:, 1])
    np.testing.assert_allclose(run["sppo"], residual**2, atol=1e-10)
    np.testing.assert_allclose(run["inpo"], residual**2, atol=1e-10)
