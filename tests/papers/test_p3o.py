"""The P3O page: its record, and its key runs against NumPy that shares no code with them."""

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.special import log_softmax, softmax

from papers import p3o_checks as checks
from papers import p3o_experiments as toy
from papers import p3o_laws as laws
from papers.p3o import PAPER
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


def test_the_record():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 18
    assert all(i.startswith("p3o.") for i in ids)
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


def test_pair_gradients_by_hand():
    """REINFORCE and P3O V1 at every pair, from their weights: c_1 (e_1 - pi) + c_2 (e_2 - pi)."""
    rng = np.random.default_rng(0)
    logits, reward = rng.normal(size=(1, laws.SIZE)), rng.normal(size=(1, laws.SIZE))
    ref, old = (log_softmax(rng.normal(size=(1, laws.SIZE)), -1) for _ in range(2))
    beta, p = 0.4, softmax(logits[0])
    found = np.asarray(laws.per_pair(logits, old, ref, reward, np.array([beta]), np.zeros(1)))[0]
    logp = np.log(p)
    full, rho = reward[0] - beta * (logp - ref[0]), np.exp(logp - old[0])
    names = list(laws.LOSSES)
    for row, (i, j) in enumerate(laws._PAIRS):
        for name in ("REINFORCE", "P3O, V1", "V1, no clip"):
            c = np.zeros(laws.SIZE)
            for a, b in ((i, j), (j, i)):
                if name == "REINFORCE":
                    c[a] -= 0.5 * full[a]
                    continue
                q = full[a] - full[b]
                weight = np.clip(rho[b], 0.1, 10) if name == "P3O, V1" else rho[b]
                free = name != "P3O, V1" or (rho[a] < 1.2 if q > 0 else rho[a] > 0.8)
                c[a] -= 0.5 * q * weight * rho[a] * free
            np.testing.assert_allclose(found[names.index(name), row], c - p * c.sum(), atol=1e-12, err_msg=name)


def test_variances_by_simulation():
    """The trace of the covariance of REINFORCE for two responses: half of one response's, enumerated."""
    run = laws.variances(QUICK)
    logits, _, ref, reward, beta = (x[3] for x in laws._instances(QUICK, 33))
    p = softmax(logits)
    for row, shift in enumerate(laws.VARIANCE_SHIFTS):
        full = reward + shift - beta * (np.log(p) - ref)
        each = full[:, None] * (np.eye(laws.SIZE) - p)
        mean = p @ each
        np.testing.assert_allclose(run["REINFORCE"][row, 3], 0.5 * p @ ((each - mean) ** 2).sum(-1), rtol=1e-9)
        centred = (full - p @ full)[:, None] * (np.eye(laws.SIZE) - p)
        exact = 0.5 * p @ ((centred - p @ centred) ** 2).sum(-1)
        np.testing.assert_allclose(run["REINFORCE, V"][row, 3], exact, rtol=1e-9)


def test_scales_of_a_batch_by_numpy():
    run = toy.normalisation(QUICK)
    np.testing.assert_allclose(run["within"], 1.0, atol=1e-9)
    expected = 1 / np.sqrt(1 + run["size"] ** 2)
    assert np.abs(run["global"].mean(1) / expected - 1).max() < 0.06
    assert (run["global"][0] == 1).all()


def test_a_world_has_rewards_of_variance_one_half_in_the_features():
    worlds = [toy._world(np.random.default_rng(seed)) for seed in range(40)]
    assert np.mean([w[2].var() for w in worlds]) == pytest.approx(1.0, abs=0.1)
    share = []
    for features, ref, reward, shift in worlds:
        np.testing.assert_allclose(np.exp(ref).sum(-1), 1)
        x, y = features.reshape(-1, toy.FEATURES), reward.ravel()
        share.append(1 - (y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).var() / y.var())
        assert shift.shape == (toy.PROMPTS,)
    assert np.mean(share) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_what_the_runs_start_from_and_are_judged_by():
    run = toy.frontier(QUICK)
    features, ref, reward, _ = toy._world(np.random.default_rng([QUICK.seed, 20, 0]))
    del features
    np.testing.assert_allclose(run["kl"][:, :, :, 0], 0, atol=1e-12)
    np.testing.assert_allclose(run["J"][:, :, 0, 0], (np.exp(ref) * reward).sum(-1).mean(), rtol=1e-10)
    np.testing.assert_allclose(run["J"], run["reward"] - toy.BETA * run["kl"], atol=1e-12)
    best = toy.BETA * np.log((np.exp(ref) * np.exp(reward / toy.BETA)).sum(-1)).mean()
    np.testing.assert_allclose(run["table"][0], best, rtol=1e-10)
    assert (run["J"] < run["table"][:, None]).all()
