"""The Nash-MD page: its record, and its key runs against NumPy and SciPy that share no code with them."""

from pathlib import Path

import jax
import numpy as np
import pytest
from latex2mathml.converter import convert
from scipy.optimize import minimize

from papers import nash_md_checks as checks
from papers import nash_md_experiments as games
from papers import nash_md_policies as policies
from papers.nash_md import PAPER
from papers.record import NotTestable, Settings

QUICK = Settings(quick=True)


@pytest.fixture(scope="module", autouse=True)
def double():
    """The harness runs papers in double precision; cached runs must not mix."""
    with jax.enable_x64(True):
        yield


# --- the record -------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_ours():
    ids = [claim.id for claim in PAPER.claims]
    assert len(set(ids)) == len(ids) >= 16
    assert all(i.startswith("nash-md.") for i in ids)


def test_every_formula_becomes_mathml():
    formulas = [claim.formula for claim in PAPER.claims if claim.formula]
    assert len(formulas) >= 20
    for formula in formulas:
        shown = convert(formula)
        assert "<math" in shown, formula
        assert "\\" not in shown, formula  # a command the converter does not know
        assert formula.count("{") == formula.count("}"), formula


def test_every_check_is_a_claim_and_every_figure_is_drawn_from_the_page():
    tests = {
        name for name, f in vars(checks).items() if getattr(f, "__module__", "") == checks.__name__ and name[0] != "_"
    }
    helpers = {"spread_of", "with_error"}
    assert tests - helpers == {claim.test.__name__ for claim in PAPER.claims}
    assert len(PAPER.figures) >= 6


def test_sources_name_a_place_in_the_paper():
    for claim in PAPER.claims:
        assert claim.source.arxiv == "2312.00886"
        assert claim.source.equation, claim.id


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


# --- the runs against other code --------------------------------------------------------------------------------------


def test_nash_md_recursion_and_its_divergence():
    """Nash-MD as printed, Eq. 4-5, in plain probabilities; the equilibrium by damped fixed-point iteration."""
    generator = np.random.default_rng([QUICK.seed, 0])
    game = games.random_games(generator, games.number_of_games(QUICK), 0.02, 5.0)
    run = games.theorem(QUICK)
    tau = np.asarray(game.tau)
    chosen = np.flatnonzero((tau > 0.3) & (tau < 3))[::25][:6]
    assert len(chosen) == 6
    for i in chosen:
        preference, mu, t_max = np.asarray(game.preference)[i], np.exp(np.asarray(game.ref_logp)[i]), 30
        nash = mu.copy()
        for _ in range(3000):
            response = mu * np.exp(preference @ nash / tau[i])
            nash = 0.8 * nash + 0.2 * response / response.sum()
        keep = mu > 0
        policy = np.where(keep, 1.0, 0.0) / keep.sum()  # any start: the first step forgets it
        for t in range(t_max):
            eta = 2 / (tau[i] * (t + 2))
            mixture = np.where(keep, policy ** (1 - eta * tau[i]) * mu ** (eta * tau[i]), 0.0)
            mixture /= mixture.sum()
            policy = mixture * np.exp(eta * preference @ mixture)
            policy /= policy.sum()
            divergence = (nash[keep] * np.log(nash[keep] / policy[keep])).sum()
            np.testing.assert_allclose(run["kl"][t + 1, i], divergence, rtol=1e-6, atol=1e-13)


def test_the_bounds_are_those_of_the_paper():
    """A run that sits exactly on 8 / (tau^2 (T + 1)) has the ratio 1 everywhere."""
    tau = np.asarray([0.1, 2.0])
    horizon = np.arange(1, 6)[:, None]
    on_the_bound = np.concatenate([np.full((1, 2), 9.0), 8 / (tau**2 * (horizon + 1))])
    np.testing.assert_allclose(games.bound_ratio({"kl": on_the_bound, "tau": tau}, 8.0), 1.0)
    np.testing.assert_allclose(games.bound_ratio({"kl": on_the_bound, "tau": tau}, 0.5), 16.0)


def test_one_step_constants_of_a_trajectory():
    """KL_{t+1} = (1 - eta tau) KL_t + c eta^2 gives c back."""
    tau, c = np.asarray([0.3, 1.5]), 0.07
    kl = [np.asarray([2.0, 1.0])]
    for t in range(6):
        eta = 2 / (tau * (t + 2))
        kl.append((1 - eta * tau) * kl[-1] + c * eta**2)
    np.testing.assert_allclose(checks._trajectory_constants({"kl": np.stack(kl), "tau": tau}), c)


def test_bradley_terry_maximum_likelihood_by_scipy():
    run = games.examples(QUICK)
    for row, law in zip((-4, -3, -2), games.PAIR_LAWS, strict=True):
        preference = run["shown"][row]

        def loss(free, preference=preference, law=law):
            reward = np.append(free, -free.sum())
            odds = reward[:, None] - reward[None, :]
            return (np.outer(law, law) * preference * np.logaddexp(0, -odds)).sum()

        found = minimize(loss, np.zeros(2), tol=1e-14).x
        np.testing.assert_allclose(run["reward"][row], np.append(found, -found.sum()), atol=2e-5)


def test_three_types_are_the_kinds_of_the_paper():
    """P from the kinds: 1/3 - eps say 2 over 1, 1/3 + eps/2 say 1 over 3, as many 3 over 2, otherwise ties."""
    eps = 0.1
    kinds = ((1 / 3 - eps, 1, 0), (1 / 3 + eps / 2, 0, 2), (1 / 3 + eps / 2, 2, 1))
    preference = np.full((3, 3), 0.5)
    for mass, winner, loser in kinds:
        preference[winner, loser] += 0.5 * mass
        preference[loser, winner] -= 0.5 * mass
    np.testing.assert_allclose(games.examples(QUICK)["shown"][-3], preference, atol=1e-12)


def test_constant_step_limit_and_its_mixture():
    """The recursion in plain probabilities, run to rest: its mixture is the Nash at tau/(1 - eta tau)."""
    run, tau, number = games.steps(QUICK), 0.1, games.number_of_games(QUICK) // 4
    drawn = games.random_games(np.random.default_rng([QUICK.seed, 4]), 4 * number, tau, tau, smallest=games.SIZE)
    preference, mu = np.asarray(drawn.preference)[1], np.exp(np.asarray(drawn.ref_logp)[1])

    def nash(temperature):
        policy = mu.copy()
        for _ in range(20_000):
            response = mu * np.exp(preference @ policy / temperature)
            policy = policy**0.97 * (response / response.sum()) ** 0.03
            policy /= policy.sum()
        return policy

    for row, fraction in enumerate(games.STEPS_TAU):
        eta, policy = fraction / tau, np.full(games.SIZE, 1 / games.SIZE)
        for _ in range(3000):
            mixture = policy ** (1 - fraction) * mu**fraction
            mixture /= mixture.sum()
            policy = mixture * np.exp(eta * preference @ mixture)
            policy /= policy.sum()
        mixture = policy ** (1 - fraction) * mu**fraction
        mixture /= mixture.sum()
        np.testing.assert_allclose(mixture, nash(tau / (1 - fraction)), rtol=1e-6)
        target = nash(tau)
        np.testing.assert_allclose(run["kl"][row, 1], (target * np.log(target / policy)).sum(), rtol=1e-4)


def test_variance_ratio_of_the_baseline_by_listing_draws():
    problem, logits = policies.random_problems(np.random.default_rng([QUICK.seed, 10]), 200, 8)
    policy = np.exp(games.normalised(np.asarray(logits)))[3]
    mu, preference = np.exp(np.asarray(problem.ref_logp))[3], np.asarray(problem.preferences())[3]
    rival = policy**0.5 * mu**0.5
    rival /= rival.sum()
    variances = []
    for half in (0.5, 0.0):
        draws, weights = [], []
        for y in range(8):
            for other in range(8):
                advantage = preference[y, other] - half - 0.1 * np.log(policy[y] / mu[y])
                draws.append((np.eye(8)[y] - policy) * advantage)
                weights.append(policy[y] * rival[other])
        draws, weights = np.asarray(draws), np.asarray(weights)
        mean = weights @ draws
        variances.append(weights @ np.square(draws - mean).sum(-1))
    np.testing.assert_allclose(policies.gradients(QUICK)["variance"][2, 3], variances[0] / variances[1], rtol=1e-8)


def test_two_token_mixtures_by_hand():
    """The run on two tokens again: product of per-token mixtures against the mixture of nine sequences, m = 1/2."""
    run = policies.trees(QUICK)
    generator = np.random.default_rng([QUICK.seed, 20, 2])
    number = run["forward"].shape[1]
    policies.random_preferences(generator, (number,), 9)
    policy, reference = ([generator.normal(size=(number, 3**t, 3)) for t in range(2)] for _ in range(2))

    def probabilities(levels):
        first, second = (np.exp(games.normalised(level[7])) for level in levels)
        return first[0][:, None] * second

    sequence = np.sqrt(probabilities(policy) * probabilities(reference))
    sequence /= sequence.sum()
    tokenwise = probabilities([0.5 * (a + b) for a, b in zip(policy, reference, strict=True)])
    assert run["forward"][1, 7, 4] > 1e-5
    np.testing.assert_allclose(run["forward"][1, 7, 4], (sequence * np.log(sequence / tokenwise)).sum(), rtol=1e-8)


def test_judges_of_the_mixture_curve():
    """A table of two known policies: the average over the others leaves the policy itself out."""
    preference, ref_logp, _ = policies.worlds(QUICK)
    shape = (2, len(policies.MIXTURES), policies.PROMPTS, policies.RESPONSES)
    drawn = games.normalised(np.random.default_rng(0).normal(size=shape))
    found = policies.judged(drawn, preference[0, :2], ref_logp[:2])
    p = np.exp(drawn)
    for seed in range(2):
        for m in range(shape[1]):
            wins = [
                np.mean([p[seed, m, x] @ preference[0, seed, x] @ p[seed, n, x] for x in range(policies.PROMPTS)])
                for n in range(shape[1])
                if n != m
            ]
            np.testing.assert_allclose(found["win_rate"][seed, m], np.mean(wins), rtol=1e-10)
    np.testing.assert_allclose(found["table"] + np.swapaxes(found["table"], 1, 2), 1.0, rtol=1e-10)


def test_optima_of_the_curve_are_stationary():
    """At each mixture m: pi ~ ref exp(P(. > pi^{1-m} ref^m) / beta), put together from probabilities."""
    preference, ref_logp, _ = policies.worlds(QUICK)
    log_optima = policies.optima(preference[0], ref_logp)
    for m, log_policy in zip(policies.MIXTURES, log_optima[1].transpose(0, 1, 2), strict=True):
        policy, mu = np.exp(log_policy), np.exp(ref_logp[1])
        rival = policy ** (1 - m) * mu**m
        rival /= rival.sum(-1, keepdims=True)
        response = mu * np.exp(np.einsum("xab,xb->xa", preference[0, 1], rival) / policies.CURVE_BETA)
        np.testing.assert_allclose(policy, response / response.sum(-1, keepdims=True), rtol=1e-7, atol=1e-12)


def test_margin_is_the_middle_against_the_ends():
    scores = np.asarray([[0.1, 0.5, 0.6, 0.7, 0.0, 0.0, 0.0, 0.0, 0.2]])
    np.testing.assert_allclose(policies.margin(scores), [[0.5, 0.4]])


def test_no_machine_paths():
    for path in Path(games.__file__).parent.glob("nash_md*.py"):
        text = path.read_text()
        assert "/work" not in text
        assert "/home" not in text
