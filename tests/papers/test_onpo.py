"""The ONPO page: its runs against plain NumPy (its record and verdicts are tested with COMAL's)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.games import PreferenceGame
from papers import onpo_experiments as onpo
from papers.record import Settings

QUICK = Settings(quick=True)
RPS = np.asarray([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def optimistic(preference, start, h, steps):
    """Policies pi_1, pi_2, ... as printed: pi_t ~ pi'_t e^{h r_{t-1}}, pi'_{t+1} ~ pi'_t e^{h r_t}, pi_1 = pi'_1."""
    auxiliary, played, path = start, start, [start]
    for _ in range(steps):
        rate = preference @ played
        auxiliary = auxiliary * np.exp(h * rate)
        auxiliary /= auxiliary.sum()
        played = auxiliary * np.exp(h * rate)
        played /= played.sum()
        path.append(played)
    return np.stack(path)


@pytest.mark.slow
def test_the_dominant_response_by_hand():
    for size, worst in ((5, 6.08), (10, 8.79), (50, 15.16)):
        path = optimistic(onpo.dominant(size), np.ones(size) / size, 0.5, 100)[:-1]
        times = np.arange(1, 101)
        mean = np.cumsum(path, 0) / times[:, None]
        scaled = times * 2 * ((mean @ onpo.dominant(size).T).max(-1) - 0.5)
        game = PreferenceGame(preference=jnp.asarray(onpo.dominant(size))[None], tau=1.0)
        found = onpo.averages(game, game.ref_logp, 0.5, "onpo", 100)[:, 0] * times
        np.testing.assert_allclose(found, scaled, atol=1e-9)
        np.testing.assert_allclose(scaled.max(), worst, atol=0.01)
        assert scaled.max() > 4 * np.sqrt(np.log(size))


@pytest.mark.slow
def test_rock_paper_scissors_by_hand():
    run = onpo.rock_paper_scissors(QUICK)
    for rows, h, gap in zip(run["onpo"], onpo.RPS_STEPS, (0.0613, 0.0236, 0.0), strict=True):
        path = optimistic(RPS, onpo.RPS_START, h, 4000)
        np.testing.assert_allclose(rows[:1000], path[:1000], atol=1e-9)
        np.testing.assert_allclose(onpo.rps_gap(path[-1]), gap, atol=1e-4)
    policy = onpo.RPS_START
    for _ in range(500):
        policy = policy * np.exp(0.1 * RPS @ policy)
        policy /= policy.sum()
    np.testing.assert_allclose(run["mwu"][500], policy, atol=1e-10)


def test_the_linear_factor_by_the_companion_matrix():
    """Two logit errors and their predecessors through the linearised step; the Jacobian by hand at the uniform Nash."""
    h = 0.5
    turn = h * (RPS - 0.5) @ (np.eye(3) / 3 - np.ones((3, 3)) / 9)
    companion = np.block([[np.eye(3) + 2 * turn, -turn], [np.eye(3), np.zeros((3, 3))]])
    sizes = np.abs(np.linalg.eigvals(companion))
    inside = sizes[sizes < 1 - 1e-9].max()  # 1 is the shift of all logits
    np.testing.assert_allclose(onpo.optimistic_factor(h, np.sqrt(3) / 6), inside, rtol=1e-9)


def test_the_divergence_bound_is_that_of_a_vertex():
    start = np.log(np.asarray([0.7, 0.25, 0.05]))
    np.testing.assert_allclose(onpo.divergence_bound(start), np.log(20))
    np.testing.assert_allclose(onpo.divergence_bound(np.full(8, -np.log(8))), np.log(8))
    assert onpo.divergence_bound(np.asarray([0.0, -np.inf])) == 0


def test_an_average_of_mirror_descent_by_hand():
    """One game at one horizon, and its bound: gap = twice the average regret, which is at most D / (h T) + h / 8."""
    generator = np.random.default_rng(2)
    lower = np.tril(generator.uniform(size=(6, 6)) - 0.5, -1)
    preference, horizon = 0.5 + lower - lower.T, 200
    policy, total = np.ones(6) / 6, np.zeros(6)
    h = np.sqrt(8 * np.log(6) / horizon)
    for _ in range(horizon):
        total += policy
        policy = policy * np.exp(h * preference @ policy)
        policy /= policy.sum()
    gap = 2 * ((preference @ (total / horizon)).max() - 0.5)
    game = PreferenceGame(preference=jnp.asarray(preference)[None], tau=1.0)
    np.testing.assert_allclose(onpo.averages(game, game.ref_logp, h, "mwu", horizon)[-1, 0], gap, atol=1e-10)
    assert gap <= np.sqrt(2 * np.log(6) / horizon)


@pytest.mark.slow
def test_the_target_of_the_labels_matters():
    run = onpo.losses(QUICK)
    assert run["apart"].max() < 1e-9
    assert run["wrong"].min() > 0.01
    assert np.abs(run["away"]).max() > 0.01
