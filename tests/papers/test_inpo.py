"""The INPO page: its record, and its runs against NumPy and loops that share no code with them."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latex2mathml.converter import convert

from alignjax import population_grad
from alignjax.games import PreferenceGame, von_neumann_winner
from alignjax.games.library import comal
from alignjax.problem import Problem
from papers import inpo_checks as checks
from papers import inpo_experiments as runs
from papers.inpo import PAPER
from papers.nash_md_experiments import normalised
from papers.nash_md_policies import random_preferences
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def test_record():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 16
    for claim in PAPER.claims:
        assert claim.source.arxiv == "2407.00617"
        assert claim.source.equation, claim.id
        if claim.formula:
            shown = convert(claim.formula)
            assert "<math" in shown
            assert "\\" not in shown, claim.formula  # a command the converter does not know


def test_every_check_is_a_claim():
    tests = {
        name for name, f in vars(checks).items() if getattr(f, "__module__", "") == checks.__name__ and name[0] != "_"
    }
    assert tests == {claim.test.__name__ for claim in PAPER.claims}


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
        assert not ax.axison or (ax.get_xlabel() and ax.lines)


# --- the runs against other code --------------------------------------------------------------------------------------


def small_games(number, size, seed=0):
    generator = np.random.default_rng(seed)
    preference = random_preferences(generator, (number,), size)
    ref_logp, anchor = (normalised(generator.normal(size=(number, size))) for _ in range(2))
    return preference, ref_logp, anchor


def test_least_squares_row_by_row():
    """One weighted equation for each ordered pair, by NumPy's solver."""
    law = np.random.default_rng(1).uniform(size=(4, 4))
    np.fill_diagonal(law, 0)
    rows, right = [], []
    for winner, loser in itertools.permutations(range(4), 2):
        weight = np.sqrt(law[winner, loser])
        rows.append(weight * (np.eye(4)[winner] - np.eye(4)[loser]))
        right.append(weight * 0.7)
    expected = np.linalg.lstsq(np.asarray(rows), np.asarray(right), rcond=None)[0]
    np.testing.assert_allclose(runs.least_squares(law, 0.7), expected - expected.mean(), atol=1e-12)


def test_the_regression_minimises_the_library_loss():
    """INPO's population gradient on labels vanishes at the policy that least squares finds, and not at the anchor."""
    preference, ref_logp, anchor = small_games(5, 4)
    game = PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=0.3)
    found = runs.regressed(game, anchor, runs.iid_law(preference, anchor), 0.8)
    problem = Problem(
        ref_logp=jnp.asarray(ref_logp), preference=jnp.asarray(preference), anchor_logp=jnp.asarray(anchor)
    )
    at = lambda logp: float(jnp.abs(population_grad("inpo", problem, logp, step_size=0.8, beta=0.3)).max())
    assert at(found) < 1e-12
    assert at(anchor) > 1e-3


def test_best_against_worst_draw_by_draw():
    """All ordered draws of four among three responses, the best and the worst by mean win-rate in the group."""
    preference, _, anchor = small_games(3, 3, seed=2)
    found = runs.best_worst_law(preference, anchor, 4)
    for table, policy, law in zip(preference, np.exp(anchor), found, strict=True):
        expected = np.zeros((3, 3))
        for group in itertools.product(range(3), repeat=4):
            score = {y: sum(table[y, other] for other in group) for y in set(group)}
            best, worst = max(score, key=score.get), min(score, key=score.get)
            if table[best, worst] > 0.5:
                expected[best, worst] += np.prod(policy[list(group)])
        np.testing.assert_allclose(law, expected / expected.sum(), atol=1e-12)


def test_the_law_of_labelled_pairs():
    preference, _, anchor = small_games(2, 4)
    law = runs.iid_law(preference, anchor)
    np.testing.assert_allclose(law.sum((-1, -2)), 1.0)
    p = np.exp(anchor[0])
    np.testing.assert_allclose(law[0, 1, 2], 2 * p[1] * p[2] * preference[0, 1, 2])


def test_cycles_in_plain_probabilities():
    """Iterative IPO and INPO as printed, on the first game, and its Nash without KL by a linear program."""
    run, preference = runs.cycles(QUICK), np.asarray(comal())
    np.testing.assert_allclose(run["winner"], von_neumann_winner(preference), atol=1e-9)
    for name, tau in (("path_ipo", 0.0), ("path_inpo", 0.05)):
        policy = np.asarray([0.2, 0.5, 0.3])
        for t in range(200):
            policy = policy ** (1 - 0.1 * tau) * (1 / 3) ** (0.1 * tau) * np.exp(0.1 * preference @ policy)
            policy /= policy.sum()
            np.testing.assert_allclose(run[name][t + 1], policy, rtol=1e-8)
    win_rate = preference @ run["path_ipo"][-1]
    np.testing.assert_allclose(run["ipo"][-1, 0], 2 * (win_rate.max() - 0.5), rtol=1e-8)


def test_the_bound_is_that_of_the_paper():
    """A run that sits exactly on 32 / (tau^2 (T + 1)) has the ratio 1 everywhere."""
    tau, horizon = np.asarray([0.1, 2.0]), np.arange(1, 6)[:, None]
    on_the_bound = np.concatenate([np.full((1, 2), 9.0), 32 / (tau**2 * (horizon + 1))])
    np.testing.assert_allclose(checks._bound_ratio({"kl": on_the_bound, "tau": tau}, 32.0), 1.0)


def test_the_lemma_by_its_definition():
    """The first draws again: both divergences and the inner product as sums."""
    generator = np.random.default_rng([QUICK.seed, 302])
    number = runs.lemma(QUICK).shape[1]
    rival, before = (np.exp(normalised(2 * generator.normal(size=(number, 2)))) for _ in range(2))
    delta = 10 ** generator.uniform(-1.5, 0.5, (number, 1)) * generator.choice([-1.0, 1.0], (number, 2))
    for i in np.flatnonzero(delta[:, 0] != delta[:, 1])[:5]:
        after = before[i] * np.exp(delta[i])
        after /= after.sum()
        kl = lambda p, i=i: (rival[i] * np.log(rival[i] / p)).sum()
        rest = kl(after) - kl(before[i]) - (before[i] - rival[i]) @ delta[i]
        np.testing.assert_allclose(runs.lemma(QUICK)[0, i], rest / np.abs(delta[i]).max() ** 2, rtol=1e-7, atol=1e-10)


def test_practice_is_a_step_of_two_hundred():
    """The gap after one step, h = 200 and tau = 1/600, from its definition on the first game."""
    generator = np.random.default_rng([QUICK.seed, 309])
    number = runs.practice(QUICK)["gap"].shape[1]
    preference = random_preferences(generator, (number,), 10)[0]
    mu = np.exp(normalised(generator.normal(size=(number, 10))))[0]
    logp = normalised(np.log(mu) + 200 * preference @ mu)  # from mu, both bases are mu
    value = normalised_value(np.log(mu) + 600 * preference @ np.exp(logp)) / 600
    gap = 2 * (value + (np.exp(logp) * (logp - np.log(mu))).sum() / 600) - 1
    np.testing.assert_allclose(runs.practice(QUICK)["gap"][1, 0], gap, rtol=1e-8)


def normalised_value(logits):
    """log sum exp."""
    return logits.max() + np.log(np.exp(logits - logits.max()).sum())


def test_no_machine_paths():
    for path in Path(runs.__file__).parent.glob("inpo*.py"):
        assert "/work" not in path.read_text()
