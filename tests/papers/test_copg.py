"""The CoPG page: its record, and its key runs against NumPy that shares no code with them."""

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.special import log_softmax, softmax

from papers import copg_checks as checks
from papers import copg_experiments as toy
from papers import copg_laws as laws
from papers.copg import PAPER
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def test_the_record():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 20
    assert all(i.startswith("copg.") for i in ids)
    for claim in PAPER.claims:
        assert claim.source.equation, claim.id
        if claim.formula:
            assert "\\" not in convert(claim.formula), claim.id
    public = {n for n, f in vars(checks).items() if getattr(f, "__module__", "") == checks.__name__ and n[0] != "_"}
    assert public == {claim.test.__name__ for claim in PAPER.claims}


@pytest.mark.slow
@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.id)
def test_the_verdict_is_the_one_we_stand_by(claim):
    outcome = claim.test(QUICK)
    assert outcome.verdict == claim.stands
    assert outcome.reason if isinstance(outcome, NotTestable) else outcome.runs >= 1


@pytest.mark.slow
@pytest.mark.parametrize("figure", PAPER.figures, ids=lambda figure: figure.id)
def test_every_figure_has_axes_with_labels(figure):
    axes = figure.draw(QUICK).axes
    assert axes and all(ax.get_xlabel() for ax in axes)


def test_the_numbers_of_the_bandit():
    # pi* = (.7054, .2595, .0351), J* = 2.1252 and the regret .2919 of the start, by hand.
    best = np.exp(2 * toy.REWARD) / np.exp(2 * toy.REWARD).sum()
    np.testing.assert_allclose(np.exp(toy.BEST), best)
    np.testing.assert_allclose(best, [0.7054, 0.2595, 0.0351], atol=5e-5)
    value = 0.5 * np.log(np.exp(2 * toy.REWARD).mean())
    assert value == pytest.approx(2.1252, abs=5e-5)
    start = np.log(np.full(3, 1 / 3))
    assert float(toy.regret(start)) == pytest.approx(value - toy.REWARD.mean(), abs=1e-12)
    policy = np.array([0.2, 0.5, 0.3])  # C2: the regret is beta KL(pi || pi*)
    assert float(toy.regret(np.log(policy))) == pytest.approx(0.5 * (policy * np.log(policy / best)).sum(), abs=1e-12)


def test_the_minibatches_are_shuffled_epochs_of_one_data_set():
    counts = toy._counts(np.random.default_rng(0), 2)
    assert counts.shape == (2 * 19, 3, 3, 2)
    assert (counts.sum((1, 2, 3)) == 512).all()
    share = counts.sum((0, 3)) / counts.sum()
    np.testing.assert_allclose(share.sum(1), toy.FIRST, atol=0.02)
    np.testing.assert_allclose(share.sum(0), toy.SECOND, atol=0.02)
    wins = counts[:, 0, 2, 1].sum() / counts[:, 0, 2].sum()
    assert wins == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.03)
    both = counts.reshape(2, 19, -1).sum(1)
    assert np.abs(both[0] - both[1]).max() <= 272  # epochs differ by the pairs that were dropped


def test_two_epochs_of_adam_by_hand():
    """CoPG and the policy gradient with b = E R by NumPy, Adam written out."""
    counts = toy._counts(np.random.default_rng(3), 2)
    paths = np.asarray(toy._trained(counts[None]))[0]

    def gradient(name, logits, batch):
        logp, total = log_softmax(logits), np.zeros(3)
        full = toy.REWARD - toy.BETA * (logp - toy.REF)
        value = softmax(logits) @ full
        for i in range(3):
            for j in range(3):
                number = batch[i, j].sum() / toy.BATCH
                gain = np.zeros(3)
                if name == "CoPG":
                    gain[i] += full[i] - full[j]
                    gain[j] -= full[i] - full[j]
                else:
                    gain[i] += 0.5 * (full[i] - value)
                    gain[j] += 0.5 * (full[j] - value)
                total -= number * (gain - softmax(logits) * gain.sum())
        return total

    for name in ("CoPG", "PG, b = E R"):
        logits, first, second = np.zeros(3), np.zeros(3), np.zeros(3)
        for t, batch in enumerate(counts, 1):
            g = gradient(name, logits, batch)
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            logits = logits - 1e-3 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(paths[-1, toy.CONTENDERS.index(name)], log_softmax(logits), atol=1e-9, err_msg=name)


def test_the_resting_points_of_the_bandit():
    run = toy.resting_points(QUICK)
    # spec: (.8115, .1675, .0209) at regret .01482, and IPO at (.4242, .3527, .2231) and .1525.
    np.testing.assert_allclose(np.exp(run["PG, b = E r"]), [0.8115, 0.1675, 0.0209], atol=1e-4)
    np.testing.assert_allclose(np.exp(run["IPO"]), [0.4242, 0.3527, 0.2231], atol=1e-4)
    np.testing.assert_allclose(np.exp(run["PG, b = E R"]), np.exp(toy.BEST), atol=1e-8)


def test_the_linearised_field_by_finite_differences():
    rng = np.random.default_rng(0)
    law, nu, best = (softmax(rng.normal(size=4)) for _ in range(3))
    beta, reward = 0.7, 0.7 * np.log(best)  # uniform reference: Gibbs is `best`

    def field(logits):
        logp = log_softmax(logits)
        full = reward - beta * (logp + np.log(4))
        weight = law * (full - nu @ full)
        return weight - softmax(logits) * weight.sum()

    at = np.log(best)
    found = np.stack([(field(at + 1e-6 * e) - field(at - 1e-6 * e)) / 2e-6 for e in np.eye(4)], -1)
    slope = law[:, None] * -(np.eye(4) - nu)
    np.testing.assert_allclose(found, beta * (slope - np.outer(best, slope.sum(0))), atol=1e-8)


def test_objective_gradients_by_finite_differences():
    ref, reward, beta, logits, *_ = (x[:1] for x in laws.instances(QUICK, 11))
    value = lambda z: softmax(z) @ (reward[0] - beta[0] * (log_softmax(z) - ref[0]))
    found = [(value(logits[0] + 1e-6 * e) - value(logits[0] - 1e-6 * e)) / 2e-6 for e in np.eye(laws.SIZE)]
    np.testing.assert_allclose(laws.objective_gradient(ref, reward, beta, logits)[0], found, atol=1e-8)
