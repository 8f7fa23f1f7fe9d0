"""The survey of solvers: its record, and its counts against NumPy loops."""

from pathlib import Path

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert

from alignjax.games import SOLVERS, duality_gap, original_gap
from papers import game_survey_checks as checks
from papers import game_survey_runs as runs
from papers.game_survey import PAPER
from papers.record import Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def test_record():
    tests = {
        name for name, f in vars(checks).items() if getattr(f, "__module__", "") == checks.__name__ and name[0] != "_"
    }
    assert tests == {claim.test.__name__ for claim in PAPER.claims}
    for claim in PAPER.claims:
        assert "\\" not in convert(claim.formula or "a")


def test_every_solver_is_in_the_survey():
    """Each row of the table of solvers by its target; `reference_response` aims at neither game, `mnpo` is `mwu`."""
    regularised = {row.name for row in SOLVERS if row.target == "regularised"}
    assert regularised == {*runs.REGULARISED, *runs.SAME}
    original = {row.name for row in SOLVERS if row.target == "original"}
    assert original == {*runs.ORIGINAL, "mnpo"}


LANES = {"game-survey.original": pytest.mark.long}
"""Which claims are not of the slow lane."""


@pytest.mark.parametrize(
    "claim", [pytest.param(c, marks=LANES.get(c.id, pytest.mark.slow), id=c.id) for c in PAPER.claims]
)
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    assert outcome.runs >= 1


@pytest.mark.slow
def test_the_figure_has_axes_with_labels():
    axes = PAPER.figures[0].draw(QUICK).axes
    assert [len(ax.get_legend_handles_labels()[0]) for ax in axes] == [5, 3]
    assert all(ax.get_xlabel() for ax in axes)


def regularised_gap(policy, preference, mu, tau):
    """2 max_a J(a, pi) - 1, from the value of the best response."""
    value = tau * np.log((mu * np.exp(preference @ policy / tau)).sum()) + tau * (policy * np.log(policy / mu)).sum()
    return 2 * value - 1


@pytest.mark.parametrize("name", ["omd", "egpo"])
def test_calls_in_plain_probabilities(name):
    """Updates to a gap of 1e-6 at tau = 0.3, counted one by one in a loop over two games."""
    tau = 0.3
    game = runs.games_at(QUICK, tau)
    found = runs.first_updates(game, name, duality_gap, runs.REGULARISED_LEVEL, runs.BLOCKS)
    h = 4 * tau / (1 + 4 * tau**2) if name == "omd" else 2 / (1 + 2 * tau)
    for index in (0, 7):
        preference, mu = np.asarray(game.preference[index]), np.exp(np.asarray(game.ref_logp[index]))
        policy, count = mu.copy(), 0
        while regularised_gap(policy, preference, mu, tau) >= 1e-6:
            centre = policy ** (1 - h * tau) * mu ** (h * tau)
            rival = policy
            if name == "egpo":
                rival = centre * np.exp(h * preference @ policy)
                rival /= rival.sum()
            policy = centre * np.exp(h * preference @ rival)
            policy /= policy.sum()
            count += 1
        assert found[index] == count


def test_longer_runs_are_looked_at_every_eighth_step():
    """ONPO's count from a long run is the true one, or up to eight steps late."""
    game = runs.games_at(QUICK, 1.0)
    found = runs.first_updates(game, "onpo", original_gap, 1e-3, 8 * runs.BLOCKS)
    index = np.flatnonzero(np.isfinite(found) & (found > runs.BLOCKS))[0]
    preference = np.asarray(game.preference[index])
    auxiliary = policy = np.exp(np.asarray(game.ref_logp[index]))
    count = 0
    while 2 * ((preference @ policy).max() - 0.5) >= 1e-3:
        rate = np.exp(0.5 * preference @ policy)
        auxiliary = auxiliary * rate / (auxiliary * rate).sum()
        policy = auxiliary * rate / (auxiliary * rate).sum()
        count += 1
    assert count <= found[index] <= count + 8


def test_slopes_of_a_power_law():
    tau = np.geomspace(0.01, 1, 5)
    calls = 3 * tau[:, None] ** np.asarray([-1.0, -2.0])
    np.testing.assert_allclose(runs.slopes(tau, calls), [-1, -2])


def test_calls_of_an_update():
    assert [runs.calls_of(name) for name in ("egpo", "omd", "nash_rs", "mpo")] == [2, 1, 2, 1]
    # h = 2 / (1 + 2 tau) and ten e-foldings of 1 - h tau
    assert runs.inner_steps(0.5) == 20


def test_no_machine_paths():
    for path in Path(runs.__file__).parent.glob("game_survey*.py"):
        assert "/work" not in path.read_text()
