"""The EGPO page: its record, and its runs against NumPy that shares no code with them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latex2mathml.converter import convert

from alignjax.games import PreferenceGame, library
from papers import egpo_checks, egpo_orderings
from papers import egpo_simulation as simulation
from papers import egpo_theory as theory
from papers.egpo import PAPER
from papers.nash_md_experiments import normalised
from papers.nash_md_policies import random_preferences
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)
SAMPLED = ("egpo.sampled", "egpo.sampled-advantage")


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


# --- the record -------------------------------------------------------------------------------------------------------


def test_record():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 20
    for claim in PAPER.claims:
        assert claim.source.arxiv == "2503.08942"
        assert claim.source.equation, claim.id
        if claim.formula:
            shown = convert(claim.formula)
            assert "<math" in shown
            assert "\\" not in shown, claim.formula  # a command the converter does not know


def test_every_check_is_a_claim():
    tests = {
        name
        for module in (egpo_checks, egpo_orderings)
        for name, f in vars(module).items()
        if getattr(f, "__module__", "") == module.__name__ and name[0] != "_"
    }
    assert tests == {claim.test.__name__ for claim in PAPER.claims}


def lane(name):
    """Claims that run the sampled simulations are long, the others slow."""
    return [pytest.mark.long if name in SAMPLED else pytest.mark.slow]


@pytest.mark.parametrize("claim", [pytest.param(c, id=c.id, marks=lane(c.id)) for c in PAPER.claims])
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    if isinstance(outcome, NotTestable):
        assert outcome.reason
    else:
        assert outcome.runs >= 1


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(f, id=f.id, marks=[pytest.mark.long if f.id == "egpo-sampled" else pytest.mark.slow])
        for f in PAPER.figures
    ],
)
def test_every_figure_has_axes_with_labels(figure):
    axes = figure.draw(QUICK).axes
    assert axes
    for ax in axes:
        assert ax.get_xlabel()
        assert ax.lines


# --- the simulations against other code -------------------------------------------------------------------------------


def descended(algorithm, game, start, updates, *, rate, mixing=0.0, key=None):
    """The logits after some updates of a table."""
    return simulation.descend(
        game, jnp.asarray(start), key, rate, mixing,
        algorithm=algorithm, logits_of=simulation.table, points=1, every=updates,
    )  # fmt: skip


def policy_of(logits):
    return np.exp(normalised(np.asarray(logits)))


@pytest.fixture(scope="module")
def game():
    generator = np.random.default_rng(5)
    preference = random_preferences(generator, (1,), 4)
    ref_logp = normalised(generator.normal(size=(1, 4)))
    return PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=0.2)


def test_the_published_trajectory():
    """KL(pi* || pi_t) on the COMAL game, tau = .1, from (.2, .5, .3) at h = .5: digits of an earlier, separate run."""
    game = PreferenceGame(preference=library.comal()[None], tau=0.1)
    start = np.log([[0.2, 0.5, 0.3]])
    nash = np.asarray([0.337135850066, 0.283464109099, 0.379400040835])
    rate = 0.5 * 0.1 * 3 / 4
    digits = {
        simulation.EGPO: {1: 9.291e-2, 10: 3.411e-2, 50: 3.590e-4, 100: 1.161e-6},
        simulation.OMD: {1: 9.495e-2, 10: 4.340e-2, 50: 1.165e-3, 100: 1.259e-5},
    }
    for algorithm, wanted in digits.items():
        for updates, value in wanted.items():
            found = policy_of(descended(algorithm, game, start, updates, rate=rate)[1])[0]
            np.testing.assert_allclose((nash * np.log(nash / found)).sum(), value, rtol=1e-3)


def pair_loss(algorithm, theta, frozen, game, mixing):
    """The population loss by loops over pairs, the sampler and the opponent frozen at other logits."""
    preference, ref, beta = np.asarray(game.preference)[0], np.asarray(game.ref_logp)[0], float(game.tau[0])
    size, x, now = len(ref), normalised(theta) - ref, np.exp(normalised(frozen))
    mixed = now ** (1 - mixing) * np.exp(ref) ** mixing
    opponent = mixed / mixed.sum() if algorithm in (simulation.NASH_MD, simulation.NASH_MD_PG) else now
    wins, total = preference @ opponent, 0.0
    for y in range(size):
        if algorithm == simulation.NASH_MD_PG:
            advantage = wins[y] - 0.5 - beta * (normalised(frozen) - ref)[y]
            total -= now[y] * advantage * normalised(theta)[y]
            continue
        for other in range(size):
            if algorithm == simulation.OIPO2:
                law, target = now[y] * now[other], preference[y, other] - 0.5
            else:
                law, target = 1 / size**2, wins[y] - wins[other]
            total += law * (x[y] - x[other] - target / beta) ** 2
    return total


@pytest.mark.parametrize("algorithm", simulation.ALGORITHMS[:4])
def test_gradients_by_differences(game, algorithm):
    """One update is a step down the loss, whose slope is taken by central differences."""
    theta, mixing = np.asarray([0.3, -1.0, 0.4, 0.9]), 0.3
    slope = np.zeros(4)
    for i in range(4):
        ahead, behind = theta + 1e-5 * np.eye(4)[i], theta - 1e-5 * np.eye(4)[i]
        loss = [pair_loss(algorithm, x, theta, game, mixing) for x in (ahead, behind)]
        slope[i] = (loss[0] - loss[1]) / 2e-5
    moved = np.asarray(descended(algorithm, game, theta[None], 1, rate=0.01, mixing=mixing)[1])[0]
    np.testing.assert_allclose((theta - moved) / 0.01, slope, atol=1e-7)
    assert np.abs(slope).max() > 1e-2


@pytest.mark.parametrize("algorithm", simulation.ALGORITHMS[:4])
def test_sampled_gradients_are_unbiased(game, algorithm):
    """The mean of many draws is the exact gradient, up to five standard errors."""
    logp = jnp.asarray(normalised(np.asarray([[0.3, -1.0, 0.4, 0.9]])))
    rival = simulation.opponent_of(algorithm, logp, game.ref_logp, 0.3)
    chance = jax.random.uniform(jax.random.key(3), (400, 1, 100, 2), jnp.float64)
    draw = lambda numbers: simulation.sampled_gradient(algorithm, game, logp, rival, numbers)[0]
    found = np.asarray(jax.jit(jax.vmap(draw))(chance))
    exact = np.asarray(simulation.exact_gradient(algorithm, game, logp, rival))[0]
    error = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - exact) < 5 * error).all()
    assert (error > 0).all()
    assert np.abs(exact).max() > 10 * error.max()


def test_draws_follow_the_policy():
    chance = (np.arange(1000) + 0.5) / 1000
    found = np.asarray(simulation.draw(jnp.asarray(chance), jnp.log(jnp.asarray([0.2, 0.5, 0.3]))))
    np.testing.assert_array_equal(np.bincount(found), [200, 500, 300])


def test_the_floor_of_nash_md(game):
    """The code's Nash-MD in plain probabilities, run to rest: its gap by the definition is the predicted floor."""
    from alignjax.games import duality_gap
    from alignjax.games.equilibrium import mixture_equilibrium

    preference, mu, tau = np.asarray(game.preference)[0], np.exp(np.asarray(game.ref_logp)[0]), 0.2
    h, mixing, policy = 0.4, 0.04, np.exp(np.asarray(game.ref_logp)[0])
    for _ in range(5_000):
        rival = policy ** (1 - mixing) * mu**mixing
        policy = policy ** (1 - h * tau) * mu ** (h * tau) * np.exp(h * preference @ (rival / rival.sum()))
        policy /= policy.sum()
    resting = mixture_equilibrium(game.preference, game.ref_logp, game.tau, mixing)
    np.testing.assert_allclose(np.exp(np.asarray(resting))[0], policy, rtol=1e-8)
    value = tau * np.log((mu * np.exp(preference @ policy / tau)).sum()) + tau * (policy * np.log(policy / mu)).sum()
    np.testing.assert_allclose(np.asarray(duality_gap(game, resting)), 2 * value - 1, rtol=1e-6)
    assert 2 * value - 1 > 1e-7


def test_first_below():
    gaps = np.asarray([[1.0, 1.0, 0.0], [1e-7, 1.0, 1.0], [1.0, 1e-5, 1.0]])
    np.testing.assert_array_equal(simulation.first_below(gaps, 10), [10, np.inf, 0])


def test_official_numbers():
    """h = 4 lr / (beta A): .08, .8, .4; the code's mixing is half of h beta."""
    np.testing.assert_allclose([plan.step_size for plan in simulation.TABLES], [0.08, 0.8, 0.4])
    for plan in simulation.TABLES:
        np.testing.assert_allclose(plan.mixing, plan.step_size * plan.beta / 2)


def test_the_worst_factor_of_a_run(game):
    """EGPO in plain probabilities: the largest KL ratio over 1 - h tau along twenty steps, and the half step's."""
    preference, mu, tau, h = np.asarray(game.preference)[0], np.exp(np.asarray(game.ref_logp)[0]), 0.2, 1.1
    nash = mu.copy()
    for _ in range(4_000):
        nash = nash**0.9 * (mu * np.exp(preference @ nash / tau)) ** 0.1
        nash /= nash.sum()
    kl = lambda p: (nash * np.log(nash / p)).sum()
    policy, ratios, halves = np.asarray([0.7, 0.1, 0.1, 0.1]), [], []
    for _ in range(20):
        centre = policy ** (1 - h * tau) * mu ** (h * tau)
        half = centre * np.exp(h * preference @ policy)
        half /= half.sum()
        after = centre * np.exp(h * preference @ half)
        after /= after.sum()
        ratios.append(kl(after) / kl(policy) / (1 - h * tau))
        halves.append(kl(half) / kl(policy))
        policy = after
    start = jnp.log(jnp.asarray([[0.7, 0.1, 0.1, 0.1]]))
    run = theory.excess(game, jnp.log(jnp.asarray(nash))[None], start, jnp.asarray(h), name="egpo", num_steps=20)
    np.testing.assert_allclose(run["excess"], max(ratios), rtol=1e-5)
    np.testing.assert_allclose(run["half"], max(halves), rtol=1e-5)


def test_no_machine_paths():
    for path in Path(theory.__file__).parent.glob("egpo*.py"):
        assert "/work" not in path.read_text()
