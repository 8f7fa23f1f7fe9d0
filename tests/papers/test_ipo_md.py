"""The IPO-MD page: its record, and its key runs against NumPy that shares no code with them."""

import itertools

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.special import expit, log_softmax

from papers import ipo_md_checks as checks
from papers import ipo_md_experiments as runs
from papers.ipo_md import PAPER
from papers.nash_md_policies import random_problems
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


# --- the record


def test_formulas_become_mathml_and_sources_name_a_place():
    formulas = [claim.formula for claim in PAPER.claims if claim.formula]
    assert len(formulas) >= 10
    for formula in formulas:
        shown = convert(formula)
        assert "<math" in shown and "\\" not in shown, formula
    assert all(claim.source.arxiv == "2403.08635" and claim.source.equation for claim in PAPER.claims)


def test_every_check_is_a_claim():
    mine = {f for f in vars(checks).values() if getattr(f, "__module__", "") == checks.__name__}
    assert {f for f in mine if not f.__name__.startswith("_")} == {claim.test for claim in PAPER.claims}


@pytest.mark.slow
@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.id)
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    if isinstance(outcome, NotTestable):
        assert outcome.reason
    else:
        assert outcome.runs >= 1


@pytest.mark.slow
@pytest.mark.parametrize("figure", PAPER.figures, ids=lambda figure: figure.id)
def test_every_figure_has_axes_with_labels(figure):
    axes = figure.draw(QUICK).axes
    assert axes
    for ax in axes:
        assert not ax.axison or (ax.get_xlabel() and ax.lines + ax.patches)


# --- the runs against other code


def test_variances_by_listing_draws():
    generator = np.random.default_rng(0)
    policy, f = generator.dirichlet(np.ones(3)), generator.normal(size=(3, 3))
    f = f - f.T
    alone = generator.normal(size=(3, 3))
    means, spread = runs.pair_variances(policy, f, alone)
    score = np.eye(3) - policy
    rows = [
        lambda y, z: f[y, z] * score[y],
        lambda y, z: (f[y, z] * score[y] + f[z, y] * score[z]) / 2,
        lambda y, z: alone[y, z] * score[y],
    ]
    for found_mean, found, draw in zip(means, spread, rows, strict=True):
        draws = np.asarray([draw(y, z) for y, z in itertools.product(range(3), repeat=2)])
        weight = np.asarray([policy[y] * policy[z] for y, z in itertools.product(range(3), repeat=2)])
        np.testing.assert_allclose(found_mean, weight @ draws, atol=1e-14)
        np.testing.assert_allclose(found, weight @ np.square(draws - weight @ draws).sum(-1), rtol=1e-12)


def test_the_case_by_hand_saves_more_than_half():
    """Pairs (1, 2) and (2, 1) alone count: 2 w f^2 (1/2 - w) over 2 w f^2 (|e_1 - pi|^2 - w), w = rare^2."""
    rare = runs.RARE
    policy = np.asarray([rare, rare, 1 - 2 * rare])
    expected = (0.5 - rare**2) / (((np.eye(3)[0] - policy) ** 2).sum() - rare**2)
    np.testing.assert_allclose(runs.least_variance()["explicit"], expected, rtol=1e-12)
    assert expected < 0.26


@pytest.mark.slow
def test_gradient_of_ipo_md_by_listing_pairs():
    """dL/dtheta_k by hand at one problem, and the reported form's error from it."""
    problem, logits = random_problems(np.random.default_rng([QUICK.seed, 201]), 200, 5)
    i, m, tau = 7, 0.125, 0.1
    preference, ref = np.asarray(problem.preferences())[i], np.asarray(problem.ref_logp)[i]
    logp = log_softmax(np.asarray(logits)[i])
    x, nu = logp - ref, np.exp(log_softmax((1 - m) * logp + m * ref))
    gradient = np.zeros(5)
    for y, z in itertools.product(range(5), repeat=2):
        slope = sum(
            p * sign * 2 * (sign * (x[y] - x[z]) - 1 / (2 * tau))
            for p, sign in ((preference[y, z], 1), (preference[z, y], -1))
        )
        gradient += nu[y] * nu[z] * slope * (np.eye(5)[y] - np.eye(5)[z])
    score = np.eye(5) - np.exp(logp)
    reported = -4 / tau * sum(nu[y] * (preference[y] @ nu - 0.5 - tau * x[y]) * score[y] for y in range(5))
    error = np.linalg.norm(reported - gradient) / np.linalg.norm(gradient)
    np.testing.assert_allclose(runs.gradients(QUICK)["reported"][runs.MIXTURES.index(m), 0, i], error, rtol=1e-8)
    assert error > 1e-4


@pytest.mark.slow
def test_ends_on_the_simplex_are_fixed_points():
    """Each end by its own equation, in plain probabilities: pi ~ ref exp(P(y > pi^{1-m} ref^m) / tau)."""
    run = runs.tabular(QUICK)
    comal = np.asarray([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    ref = np.asarray([0.7, 0.2, 0.1])
    for row, m in enumerate((1.0, 0.0, 0.125, 0.5)):
        policy = run["path"][row, -1, 1]
        rival = policy ** (1 - m) * ref**m
        response = ref * np.exp(comal @ (rival / rival.sum()) / runs.TAU)
        np.testing.assert_allclose(policy, response / response.sum(), atol=1e-9)


def test_online_dpo_by_listing_pairs():
    """Its gradient at the Nash of two responses, all four pairs: 2 tau pi_1 pi_2 (sigma(q_1 - q_2) - P) / 2 a side."""
    run, tau = runs.online_dpo(QUICK), 0.3
    for chance, norm in zip(run["chances"], run["two"], strict=True):
        first = expit((chance - 0.5) / tau)
        slope = 2 * tau * first * (1 - first) * (expit(chance - 0.5) - chance)
        np.testing.assert_allclose(norm, np.sqrt(2) * abs(slope), atol=1e-14)


def test_no_machine_paths():
    from pathlib import Path

    folder = Path(runs.__file__).parent
    for path in (*folder.glob("ipo_md*.py"), *folder.glob("mnpo*.py"), folder / "pair_regression.py"):
        text = path.read_text()
        assert "/work" not in text and "/home" not in text
