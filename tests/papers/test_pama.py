"""The PAMA page: its record, and its key runs against NumPy and SciPy that share no code with them."""

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from papers import pama_checks as checks
from papers import pama_experiments as pama
from papers import pama_time_checks as times
from papers.pama import PAPER
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


# --- the record -------------------------------------------------------------------------------------------------------


def test_ids_sources_and_formulas():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 20 and all(i.startswith("pama.") for i in ids)
    assert all(claim.source.arxiv == "2508.07768" and claim.source.equation for claim in PAPER.claims)
    for formula in (claim.formula for claim in PAPER.claims if claim.formula):
        shown = convert(formula)
        assert "<math" in shown and "\\" not in shown, formula
        assert formula.count("{") == formula.count("}"), formula


def test_every_check_is_a_claim():
    tests = {
        name
        for module in (checks, times)
        for name, f in vars(module).items()
        if getattr(f, "__module__", "") == module.__name__ and name[0] != "_"
    }
    assert tests == {claim.test.__name__ for claim in PAPER.claims}
    assert len(PAPER.figures) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.id)
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    if isinstance(outcome, NotTestable):
        assert outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize("figure", PAPER.figures, ids=lambda figure: figure.id)
def test_every_figure_has_axes_with_labels(figure):
    axes = figure.draw(QUICK).axes
    assert axes
    for ax in axes:
        assert not ax.axison or (ax.get_xlabel() and ax.lines + ax.patches)


# --- the runs against other code --------------------------------------------------------------------------------------


def test_the_counterexample_by_hand():
    # Values (.42, .42); advantages (.58, -.42), (-.42, .58), (-.02, -.02): nothing is good for both.
    p, r = np.array([0.1, 0.1, 0.8]), np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]])
    run = pama.counterexample()
    np.testing.assert_allclose(run["value"], [0.42, 0.42])
    np.testing.assert_allclose(run["better"], [0.46, 0.46])
    a = r - p @ r
    assert (np.maximum(a, 0).min(1) == 0).all() and (run["token"] == 0).all()
    true = p * a[:, 0] / 2 + p * a[:, 1] / 2  # by symmetry the least norm is half and half
    np.testing.assert_allclose(run["true"], np.linalg.norm(true), rtol=1e-9)
    noon = np.maximum(a, 0)
    half = (p[:, None] * (noon - p @ noon)).mean(1)
    np.testing.assert_allclose(run["noon"], np.linalg.norm(half), rtol=1e-9)
    np.testing.assert_allclose([run["true"], run["noon"]], [0.0196, 0.0568], atol=5e-5)


def test_slopes_are_derivatives():
    rng = np.random.default_rng(0)
    logits, value = rng.normal(size=5), rng.normal(size=(5, 2))
    p = softmax(logits)
    found = pama.slopes(p, value)
    for i in range(5):
        step = 1e-6 * np.eye(5)[i]
        difference = (log_softmax(logits + step) - log_softmax(logits - step)) / 2e-6
        np.testing.assert_allclose(found[:, i], (p * difference) @ value, atol=1e-9)


def test_random_rewards_have_the_correlation_asked_for():
    rng = np.random.default_rng(1)
    found = np.corrcoef(pama.correlated(rng, (20_000,), 3, -0.4).T)
    np.testing.assert_allclose(found, np.where(np.eye(3), 1, -0.4), atol=0.03)


def test_least_norms_of_the_bandits():
    run = pama.bandits(QUICK)
    for i in range(0, 400, 40):
        g = run["kept"][i]
        norm = lambda c, g=g: np.linalg.norm(c * g[0] + (1 - c) * g[1])
        grid = min(np.linspace(0, 1, 4001), key=norm)
        best = minimize(lambda c, norm=norm: norm(c[0]) ** 2, [grid], bounds=[(0, 1)], options={"ftol": 1e-16}).x[0]
        np.testing.assert_allclose(norm(run["least"][i][0]), min(norm(best), norm(grid)), rtol=1e-4)


@pytest.mark.slow
def test_a_path_step_by_step():
    """MGDA and PAMA per token on one bandit, in NumPy, for the first steps that are kept."""
    run = pama.training(QUICK)
    ref_logp, rewards = (x[1, 2] for x in pama._problems(QUICK))
    for name in ("MGDA", "PAMA, token", "PAMA, batch vertex"):
        logits = ref_logp.copy()
        for _ in range(int(pama.moments()[2])):
            logp = log_softmax(logits)
            p = np.exp(logp)
            a = rewards - pama.BETA * (logp - ref_logp)[:, None]
            a = a - p @ a
            noon = np.maximum(a, 0)
            if name == "MGDA":
                g = (p[:, None] * a).T
                c = np.clip((g[1] - g[0]) @ g[1] / np.sum((g[0] - g[1]) ** 2), 0, 1)
                value = c * a[:, 0] + (1 - c) * a[:, 1]
            elif name == "PAMA, token":
                value = noon.min(1)
            else:
                value = noon[:, (p @ noon).argmin()]
            logits = logits + p * (value - p @ value)
        logp = log_softmax(logits)
        p = np.exp(logp)
        reached = p @ rewards - pama.BETA * (p @ (logp - ref_logp))
        np.testing.assert_allclose(run[name]["points"][1, 2, 2], reached, rtol=1e-9)


@pytest.mark.slow
def test_the_end_of_morlhf_is_the_best_weighted_sum():
    run = pama.training(QUICK)["scalarised"]
    ref_logp, rewards = (x[0, 1] for x in pama._problems(QUICK))
    for k, w in enumerate(pama.WEIGHTS):
        logits = ref_logp + rewards @ [w, 1 - w] / pama.BETA
        p = softmax(logits)
        reached = p @ rewards - pama.BETA * (p @ (np.log(p) - ref_logp))
        np.testing.assert_allclose(run["points"][0, 1, k], reached, atol=1e-9)
