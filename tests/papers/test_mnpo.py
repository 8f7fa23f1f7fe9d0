"""The MNPO page: its record, and its key runs against NumPy and SciPy that share no code with them."""

import itertools

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.optimize import minimize
from scipy.special import log_softmax

from alignjax.objectives.mnpo import TABLE_1
from papers import mnpo_checks, mnpo_game_checks
from papers import mnpo_games as games
from papers import mnpo_losses as losses
from papers import mnpo_table as table
from papers.mnpo import PAPER
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
    assert len(formulas) >= 12
    for formula in formulas:
        shown = convert(formula)
        assert "<math" in shown and "\\" not in shown, formula
    assert all(claim.source.arxiv == "2509.23102" and claim.source.equation for claim in PAPER.claims)


def test_every_check_is_a_claim():
    wanted = {
        f for m in (mnpo_checks, mnpo_game_checks) for f in vars(m).values()
        if getattr(f, "__module__", "") == m.__name__ and not f.__name__.startswith("_")
    } - {mnpo_checks.listed, mnpo_checks.table_row}  # fmt: skip
    tests = {claim.test for claim in PAPER.claims}
    assert wanted <= tests
    assert len(tests - wanted) == len(TABLE_1)


def test_the_claims_of_proposition_1_and_of_the_table():
    stands = {claim.id.removeprefix("mnpo."): claim.stands for claim in PAPER.claims}
    assert stands["proposition-1"] == stands["proposition-1-counterexample"] == "contradicted"
    assert stands["proposition-1-corrected"] == "reproduced"
    for row in TABLE_1:
        assert stands[f"table-1-{row.name.lower()}"] == "reproduced"


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


# --- the losses against other code


def test_counterexamples_by_a_general_optimiser():
    """The loss on labels by hand, all pairs listed, minimised by BFGS."""
    run = losses.counterexamples()

    def best(preference, law, bases, target):
        size = len(law)

        def loss(logits):
            x = log_softmax(logits) - bases
            return sum(
                law[i] * law[j] * preference[i, j] * (x[i] - x[j] - target) ** 2
                for i, j in itertools.product(range(size), repeat=2)
            ) + sum(
                law[i] * law[j] * preference[j, i] * (x[j] - x[i] - target) ** 2
                for i, j in itertools.product(range(size), repeat=2)
            )

        return np.exp(log_softmax(minimize(loss, np.zeros(size), tol=1e-12).x))

    eta = 2.0
    certain = best(np.asarray([[0.5, 1], [0, 0.5]]), np.full(2, 0.5), np.log([0.5, 0.5]), 1 / (2 * eta))
    np.testing.assert_allclose(run["constant_hard"], certain, atol=1e-6)
    np.testing.assert_allclose(run["constant_ten"][0], 1 / (1 + np.exp(-eta / 2)), atol=1e-12)
    cycle = np.asarray([[0.5, 0, 1], [1, 0.5, 0], [0, 1, 0.5]])
    rock = np.asarray([0.5, 0.25, 0.25])
    np.testing.assert_allclose(run["opponents_hard"], best(cycle, np.full(3, 1 / 3), np.log(rock), 0.5), atol=1e-6)
    tilted = rock * np.exp(cycle @ rock)
    np.testing.assert_allclose(run["opponents_ten"], tilted / tilted.sum(), atol=1e-12)


@pytest.mark.slow
def test_printed_divergence_by_the_closed_form_of_labels():
    """R3: labels with the target c find prod_j pi_j^(1/J) exp(2 c P(y > nu)), nu the law of the pairs."""
    x, run = losses.worlds(QUICK), losses.proposition(QUICK)
    for row, eta in enumerate(losses.ETAS):
        for i in range(3):
            base = x["others"][:, i].mean(0)
            rates = [x["preference"][i] @ np.exp(law[i]) for law in (x["own"], *x["others"])]
            ten = log_softmax(base + eta * (rates[1] + rates[2]) / 2)
            for name, step in (("printed", 1 / eta), ("opponents", eta)):
                hard = log_softmax(base + step * rates[0])
                np.testing.assert_allclose(run[name][row, i], np.exp(ten) @ (ten - hard), rtol=1e-8)


def test_direct_losses_of_the_table_on_one_pair():
    """By hand at one labelled pair: DPO, IPO and SPPO, so that the rows are not compared with themselves."""
    samples = table.pairs(QUICK)
    pick = lambda field: np.asarray(getattr(samples, field))[3]
    over = pick("logp") - pick("ref_logp")
    direct = table.direct(0.3, 0.7)
    np.testing.assert_allclose(direct["DPO"](samples)[3], np.log1p(np.exp(-0.3 * (over[0] - over[1]))), rtol=1e-12)
    np.testing.assert_allclose(direct["IPO"](samples)[3], (over[0] - over[1] - 1 / 0.6) ** 2, rtol=1e-12)
    residual = pick("logp") - pick("anchor_logp") - 0.7 * (pick("win_rate") - 0.5)
    np.testing.assert_allclose(direct["SPPO"](samples)[3], np.mean(residual**2), rtol=1e-12)


def test_a_wrong_row_is_seen():
    wrong = np.asarray([[1.0, -1.0], [2.0, -2.0]])
    assert table.relative(2 * wrong, wrong, scaled=True) < 1e-15
    assert table.relative(2 * wrong, wrong, scaled=False) == 1.0
    assert table.relative(wrong[::-1], wrong, scaled=True) > 0.1
    assert table.relative(-wrong, wrong, scaled=True) == 1.0
    assert table.relative(np.asarray([np.inf]), np.asarray([1.0]), scaled=True) == np.inf


def test_scores_as_printed_and_of_winners():
    """Two responses: as printed log sigma(d) + log sigma(-d), largest at d = 0; the winner's alone at the true d."""
    run = losses.score_fits(QUICK)
    assert np.ptp(run["printed"], axis=-1).max() < 1e-6 < 0.1 < np.ptp(run["true"], axis=-1).min()
    assert np.abs(run["winner"] - run["true"]).max() < 1e-5


# --- the games against other code


@pytest.mark.slow
def test_plackett_luce_equilibria_by_enumeration():
    """Fixed-point iteration with every tuple of opponents listed."""
    run, scores = games.races(), np.asarray(games.SCORES)
    for row, n in enumerate(games.RACES[:3]):
        policy = np.full(3, 1 / 3)
        for _ in range(400):
            rate = np.zeros(3)
            for others in itertools.product(range(3), repeat=n - 1):
                chance = np.prod(policy[list(others)])
                rate += chance * np.exp(scores) / (np.exp(scores) + np.exp(scores[list(others)]).sum())
            response = np.exp(rate / 0.1)
            policy = 0.7 * policy + 0.3 * response / response.sum()
        np.testing.assert_allclose(run["policy"][row], policy, atol=1e-8)


@pytest.mark.slow
def test_dynamics_by_hand():
    """Eq. 10 in plain probabilities, two and three players of the start that is drawn."""
    run = games.dynamics(QUICK)
    comal = np.asarray([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    for row, n in enumerate((2, 3)):
        players = run["path"][row, 0, :n]
        for _ in range(20):
            new = []
            for i in range(n):
                others = np.delete(players, i, 0)
                weight = np.prod(others, 0) ** (1 / (n - 1)) * np.exp(0.05 * comal @ others.mean(0))
                new.append(weight / weight.sum())
            players = np.stack(new)
        np.testing.assert_allclose(run["path"][row, 20, :n], players, atol=1e-12)
    np.testing.assert_allclose(comal @ run["nash"], 0.5, atol=1e-12)


@pytest.mark.slow
def test_ends_of_opposite_annotators_are_equilibria():
    run = games.disagreement(QUICK)
    skew = games.MARGIN * np.asarray([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    assert len(run["all_0"]) == 7 and len(run["all_1"]) == 1
    for row, tau in enumerate(games.TAUS):
        for point in run[f"all_{row}"]:
            one, two = point[:3], point[3:]
            np.testing.assert_allclose(np.log(one), log_softmax(skew @ two / tau), atol=1e-7)
            np.testing.assert_allclose(np.log(two), log_softmax(-skew @ one / tau), atol=1e-7)
        known = np.abs(run[f"reached_{row}"][:, None] - run[f"all_{row}"][None]).max(-1).min(-1)
        assert known.max() < 1e-4
