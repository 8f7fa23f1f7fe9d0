"""The BOND page: its record, and its runs against NumPy and SciPy or against the library's own training."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.optimize import minimize

import alignjax as aj
from papers import bond_anchors as anchors
from papers import bond_checks as checks
from papers import bond_laws as laws
from papers import bond_training as training
from papers.bond import PAPER
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def test_the_record():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 12
    for claim in (claim for claim in PAPER.claims if claim.formula):
        shown = convert(claim.formula)
        assert "\\" not in shown, claim.id  # a command the converter does not know
        assert claim.formula.count("{") == claim.formula.count("}"), claim.id
    tests = {
        name for name, f in vars(checks).items() if getattr(f, "__module__", "") == checks.__name__ and name[0] != "_"
    }
    assert tests == {claim.test.__name__ for claim in PAPER.claims}


@pytest.mark.slow
@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.id)
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    assert outcome.reason if isinstance(outcome, NotTestable) else outcome.runs >= 1


@pytest.mark.slow
@pytest.mark.parametrize("figure", PAPER.figures, ids=lambda figure: figure.id)
def test_every_figure_has_axes_with_labels(figure):
    for ax in figure.draw(QUICK).axes:
        assert ax.get_xlabel() and (ax.lines + ax.patches)


# --- the runs against other code


def test_winners_by_a_loop():
    p, reward = np.asarray([0.2, 0.5, 0.3]), np.asarray([1.0, 1.0, 0.0])
    by_rule = {rule: np.zeros(3) for rule in ("sample", "first", "index")}
    for drawn in itertools.product(range(3), repeat=3):
        weight = np.prod(p[list(drawn)])
        best = max(reward[list(drawn)])
        tied = [y for y in drawn if reward[y] == best]
        for y in tied:
            by_rule["sample"][y] += weight / len(tied)
        by_rule["first"][tied[0]] += weight
        by_rule["index"][min(tied)] += weight
    for rule, expected in by_rule.items():
        np.testing.assert_allclose(laws.winners(p, reward, 3, rule), expected, atol=1e-14)


def test_the_exact_steps_are_those_of_fit():
    problem = training.bandits(QUICK, 3, 6, 99)
    for weight in (0.0, 0.5, 1.0):
        target = aj.best_of_n(problem.ref_logp, problem.reward, 4.0)
        mine = training.descended(problem.ref_logp, target, jnp.asarray(weight), 20)
        run = aj.fit("bond", problem, num_steps=20, learning_rate=0.5, n=4.0, weight=weight)
        np.testing.assert_allclose(jax.nn.log_softmax(mine), run.logp, atol=1e-10)


@pytest.mark.slow
def test_trained_anchors_are_those_of_bond_moving():
    problem = training.bandits(QUICK, training.seeds(QUICK), 30, 0)
    small = aj.Problem(ref_logp=problem.ref_logp[:2], reward=problem.reward[:2])
    run = anchors.trained(QUICK, 0.5)
    for k, (_, eta, every) in enumerate(anchors.ANCHORS):
        found = aj.fit("bond_moving", small, num_steps=60, learning_rate=0.5, n=2.0, ema=1.0 - eta, anchor_steps=every)
        cost = aj.kl(found.logp, small.ref_logp)
        np.testing.assert_allclose(run["cost"][59, k, :2], cost, rtol=1e-6)


def test_drawing_by_inversion():
    logp = np.log(np.asarray([0.2, 0.5, 0.3]))
    uniform = (np.arange(1000) + 0.5) / 1000
    counts = np.bincount(np.asarray(training.drawn(jnp.asarray(uniform), jnp.asarray(logp))), minlength=3)
    np.testing.assert_array_equal(counts, [200, 500, 300])


def test_the_highest_mean_by_scipy():
    """Maximise the mean under a bound on the divergence, over logits, with SLSQP."""
    rng = np.random.default_rng(0)
    ref = np.log(rng.dirichlet(np.ones(4)))
    score, cost = rng.normal(size=4), 0.3

    def policy(x):
        p = np.exp(x - x.max())
        return p / p.sum()

    bound = {"type": "ineq", "fun": lambda x: cost - (policy(x) * (np.log(policy(x)) - ref)).sum()}
    found = minimize(lambda x: -(policy(x) * score).sum(), ref, constraints=bound, method="SLSQP", tol=1e-12)
    np.testing.assert_allclose(laws.highest_mean(ref, score, cost), -found.fun, atol=1e-6)


@pytest.mark.slow
def test_the_restricted_minimiser_by_scipy():
    run = training.restricted(QUICK)
    target = np.log(run["target"][0])
    for i, weight in enumerate(training.GAUSSIAN_WEIGHTS):

        def loss(x, weight=weight):
            logp = training.gaussians(np.asarray(x[0]), np.asarray(np.clip(x[1], np.log(0.05), np.log(6.0))))
            forward = (np.exp(target) * (target - logp)).sum()
            return (1 - weight) * forward + weight * (np.exp(logp) * (logp - target)).sum()

        starts = itertools.product((-1.5, 0.0, 1.5), (-1.5, 0.0, 1.0))
        best = min(minimize(loss, start, method="Nelder-Mead", tol=1e-10).fun for start in starts)
        backward, forward = run["divergence"][i, :2, 0]
        np.testing.assert_allclose((1 - weight) * forward + weight * backward, best, atol=2e-3)


def test_winners_are_drawn_from_best_of_n():
    """Shares of 200,000 draws against the law."""
    problem = training.bandits(QUICK, 1, 4, 98)
    target = aj.best_of_n(problem.ref_logp, problem.reward, 4.0)[0]
    uniform = jnp.asarray(np.random.default_rng(0).uniform(size=200_000))
    drawn = np.bincount(np.asarray(training.drawn(uniform, target)), minlength=4) / 200_000
    np.testing.assert_allclose(drawn, np.exp(target), atol=5e-3)


def test_the_printed_sign_is_minus_the_right_one():
    problem = training.bandits(QUICK, 2, 4, 97)
    problem = aj.Problem(ref_logp=problem.ref_logp, reward=problem.reward, anchor_logp=problem.ref_logp[::-1])
    grad = functools.partial(aj.population_grad, problem=problem, logits=0.5 * problem.ref_logp)
    right, printed = anchors.SIGNS
    without = grad(right, gamma=0.0)
    np.testing.assert_allclose(grad(printed, gamma=0.7) - without, without - grad(right, gamma=0.7), atol=1e-14)
