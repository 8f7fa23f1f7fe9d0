"""The COMAL page, and the records of the pages of self-play; key runs against NumPy and SciPy that share no code."""

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.optimize import minimize

from papers import comal_checks as checks
from papers import comal_experiments as comal
from papers import comal_magnets as magnets
from papers.comal import PAPER
from papers.onpo import PAPER as ONPO
from papers.record import NotTestable, Settings
from papers.simplex import CORNERS, turns
from papers.sppo import PAPER as SPPO

QUICK = Settings(quick=True)
GAME = np.asarray([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


# --- the records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", (PAPER, ONPO, SPPO), ids=lambda paper: paper.name)
def test_records(paper):
    assert len({claim.test for claim in paper.claims}) == len(paper.claims) >= 13
    assert len(paper.figures) >= 3
    for claim in paper.claims:
        assert claim.source.equation, claim.id
        if claim.formula:
            assert "\\" not in convert(claim.formula), claim.formula  # a command the converter does not know


def _cases(*papers):
    return [pytest.param(case, id=case.id) for paper in papers for case in paper]


@pytest.mark.slow
@pytest.mark.parametrize("claim", _cases(PAPER.claims, ONPO.claims, SPPO.claims))
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    assert isinstance(outcome, NotTestable) or outcome.runs >= 1


@pytest.mark.slow
@pytest.mark.parametrize("figure", _cases(PAPER.figures, ONPO.figures, SPPO.figures))
def test_every_figure_has_axes_with_labels(figure):
    for ax in figure.draw(QUICK).axes:
        assert not ax.axison or (ax.get_xlabel() and ax.lines)


# --- the runs against other code --------------------------------------------------------------------------------------


def prox(preference, policy, tau):
    """The regularised Nash with `policy` as reference, in plain probabilities, by a damped fixed point."""
    found = policy.copy()
    for _ in range(6000):
        response = policy * np.exp(preference @ found / tau)
        found = found**0.98 * (response / response.sum()) ** 0.02
        found /= found.sum()
    return found


@pytest.mark.slow
def test_proximal_path_of_the_synthetic_game():
    run = comal.synthetic_paths(QUICK)
    for row, tau in ((0, 0.1), (1, 1.0)):
        policy = comal.START
        for k in range(1, 4):
            policy = prox(GAME, policy, tau)
            np.testing.assert_allclose(run[f"comal_{row}"][k], policy, atol=1e-9)


@pytest.mark.slow
def test_published_digits():
    """Divergences and gaps of other implementations of the same runs, to the digits they were given with."""
    run = comal.synthetic_paths(QUICK)
    nash = np.asarray([4, 3, 4]) / 11
    for row, digits in ((0, (0.122, 0.0211, 0.00417, 2.7e-5, 6e-9)), (1, (0.122, 0.117, 0.113, 0.0995, 0.0841))):
        divergence = comal.kl(nash, run[f"comal_{row}"])[[0, 1, 2, 5, 10]]
        np.testing.assert_allclose(divergence, digits, rtol=0.03)
    gaps = comal.gap_of(run["iter_ipo"])[[10, 100, 1000]]
    np.testing.assert_allclose(gaps, (0.224, 0.26, 0.631), atol=6e-4)
    np.testing.assert_allclose(comal.gap_of(run["inpo"])[-1], 0.0588, atol=1e-4)
    table = magnets.table(QUICK)["gap"]
    np.testing.assert_allclose(table[0, [1, 5, 10]], (6.0e-2, 7.6e-4, 1.4e-6), rtol=0.02)
    np.testing.assert_allclose(table[2, magnets.MOVES], (0.249, 0.259, 0.330, 0.266, 0.162), atol=6e-4)


def test_gap_by_definition():
    policy = np.asarray([0.2, 0.5, 0.3])
    best = max(GAME[i] @ policy for i in range(3))
    np.testing.assert_allclose(comal.gap_of(policy), 2 * best - 1)
    np.testing.assert_allclose(comal.gap_of(policy), 0.28)


def test_the_identity_fails_at_another_temperature():
    """The check can fail: at 1.1 tau the same numbers leave a residual."""
    policy, nash, tau = comal.START, np.asarray([1.0, 0.0, 0.0]), 0.3
    after = prox(GAME, policy, tau)

    def residual(temperature):
        advantage = nash @ GAME @ after - 0.5
        return comal.kl(nash, policy) - comal.kl(nash, after) - comal.kl(after, policy) - advantage / temperature

    # any comparator: the identity is about the prox, its sign about the equilibrium
    assert abs(residual(tau)) < 1e-9 < 1e-3 < abs(residual(1.1 * tau))


def test_rivals_are_equilibria():
    preference, rivals = comal.games_with_equilibria(np.random.default_rng(3), 6)
    np.testing.assert_allclose(preference + preference.swapaxes(1, 2), 1.0)
    np.testing.assert_allclose(rivals.sum(-1), 1.0)
    assert rivals.min() >= -1e-12
    worst = np.einsum("rni,nij->rnj", rivals, preference).min(-1)
    np.testing.assert_allclose(worst, 0.5, atol=1e-9)
    assert np.ptp(rivals[:, 1], axis=0).max() > 0.01  # a continuum: twins


def test_dpo_reward_by_scipy():
    law, preference = np.asarray([0.6, 0.3, 0.1]), GAME
    found = comal.dpo_reward(preference, law, np.zeros(3))

    def loss(free):
        reward = np.append(free, 0.0)
        odds = reward[:, None] - reward[None, :]
        return (np.outer(law, law) * preference * np.logaddexp(0, -odds)).sum()

    best = np.append(minimize(loss, np.zeros(2), tol=1e-14).x, 0.0)
    np.testing.assert_allclose(found - found[-1], best, atol=2e-5)
    tiny = comal.dpo_reward(preference, np.asarray([1e-30, 1e-30, 1.0]), np.zeros(3))
    np.testing.assert_allclose(tiny - tiny[2], (np.log(4), -np.log(9), 0), atol=1e-9)  # log-odds against the third


def test_pair_regression_is_a_step_against_the_law():
    generator = np.random.default_rng(0)
    base, law = np.log(generator.dirichlet(np.ones(3))), generator.dirichlet(np.ones(3))
    step = np.exp(base + 0.7 * GAME @ law)
    np.testing.assert_allclose(np.exp(magnets.pair_regression(GAME, law, base, 0.35)), step / step.sum(), rtol=1e-10)


def test_growth_by_the_linear_recursion():
    h, tau, length = 0.2, 0.1, 13
    factor, magnet, error = 1 - h * tau + 1j * h * magnets.rotation(), 1.0, 1.0 + 0j
    for _ in range(length):
        error = factor * error + h * tau * magnet
    np.testing.assert_allclose(magnets.growth(length, h, tau), abs(error))


def test_rotation_by_finite_differences():
    """The linear part of h (M softmax(theta)) at the Nash has the eigenvalues 0 and +- i lambda."""
    theta, slope = np.log(magnets.NASH), np.empty((3, 3))
    for j in range(3):
        ends = [np.exp(theta + sign * 1e-6 * np.eye(3)[j]) for sign in (1, -1)]
        slope[:, j] = (GAME - 0.5) @ (ends[0] / ends[0].sum() - ends[1] / ends[1].sum()) / 2e-6
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(slope).imag).max(), magnets.rotation(), rtol=1e-6)


def test_turns_of_a_circle():
    angle = np.linspace(0, 5 * np.pi, 400)
    centre = np.asarray([0.3, 0.3, 0.4])
    xy = centre @ CORNERS + 0.1 * np.stack([np.cos(angle), np.sin(angle)], -1)
    third = xy[:, 1] / CORNERS[2, 1]
    second = xy[:, 0] - 0.5 * third
    np.testing.assert_allclose(turns(np.stack([1 - second - third, second, third], -1), centre)[-1], 2.5)


def test_cycles_of_annotators_by_definition():
    run = comal.annotators(QUICK)
    generator = np.random.default_rng([QUICK.seed, 43])
    number = QUICK.size(400_000, 40_000)
    generator.normal(size=(2, 3, number))
    rewards = 3 * generator.normal(size=(2, 3, number))[:, :, :4000]
    odds = rewards[:, :, None] - rewards[:, None, :]
    preference = np.einsum("m,mijn->nij", [0.3, 0.7], 1 / (1 + np.exp(-odds)))
    ahead = preference[:, [0, 1, 2], [1, 2, 0]]
    np.testing.assert_array_equal(run["unequal"][:4000], (ahead > 0.5).all(1) | (ahead < 0.5).all(1))


def test_a_rise_of_the_divergence_would_be_seen(monkeypatch):
    run = {"kl": np.asarray([[[1.0]], [[0.5]], [[0.6]]]), "tau": np.ones(1)}
    monkeypatch.setattr(comal, "proximal_paths", lambda settings: run)
    monkeypatch.setattr(checks, "_comal_paths", lambda settings: [np.tile(comal.START, (3, 1))])
    assert checks.monotone(QUICK).verdict == "contradicted"
