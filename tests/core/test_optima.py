"""Stated optima are stationary, alone in that, and found by `fit`; the others say why they have none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax

import alignjax as aj
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

A, B = 3, 2


def fields(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "ref_logp": oracles.policies(rng, B, A),
        "reward": rng.normal(size=(B, A)),
        "preference": oracles.preferences(rng, B, A),
    }


SAMPLER = oracles.policies(np.random.default_rng(1), B, A)
SECOND = oracles.policies(np.random.default_rng(2), B, A)
ON_TABLES = [name for name, method in aj.methods.items() if "token_logp" not in method.reads]
WITH_OPTIMUM = [name for name in ON_TABLES if aj.methods[name].has_optimum]
WITHOUT = [name for name in ON_TABLES if not aj.methods[name].has_optimum]
assert WITH_OPTIMUM and WITHOUT
# Preferences that are no Bradley-Terry: allowed where the optimum does not need them to be.
CYCLIC = (
    "ipo", "online_ipo", "ipo_md", "nash_md_pg", "nash_ema_pg", "inpo", "inpo_soft", "onpo", "egpo", "dno", "sppo",
    "mnpo", "mnpo_soft", "td_mnpo", "ht_mnpo",
)  # fmt: skip
# Iterative methods: of these the optimum depends on the previous iterate, or on other players.
ANCHOR = oracles.policies(np.random.default_rng(4), B, A)
OPPONENTS = oracles.policies(np.random.default_rng(5), 2, B, A)
READS_ANCHOR = ("inpo", "inpo_soft", "onpo", "dno", "dno_prct", "sppo", "spin", "mnpo", "td_mnpo", "ht_mnpo")
READS_OPPONENTS = ("mnpo", "mnpo_soft", "td_mnpo", "ht_mnpo", "eo_mnpo")


def problem_for(name, sampler=None, seed=0):
    x = fields(seed)
    if name not in CYCLIC:
        x.pop("preference")
    x |= {"anchor_logp": ANCHOR} if name in READS_ANCHOR else {}
    x |= {"opponent_logp": OPPONENTS} if name in READS_OPPONENTS else {}
    return aj.Problem(**x, sampler_logp=sampler)


def given(name):
    return {n: x for n, x in (("beta", 0.5), ("step_size", 1.3)) if n in aj.methods[name].defaults}


def cases():
    for name in WITH_OPTIMUM:
        # cdpo and robust_dpo: smoothed Bradley-Terry preferences are no longer so; without smoothing they are dpo's.
        hyper = {"label_smoothing": 0.0} if name in ("cdpo", "robust_dpo") else {}
        yield name, hyper | given(name), None
    yield "ipo", {"beta": 0.5}, "one"
    yield "ipo", {"beta": 0.5}, "two"
    yield "dpo", {"beta": 0.5}, "two"
    yield "td_mnpo", {"beta": 0.5, "step_size": 0.7, "history_decay": 0.6}, "two"
    for name in ("dno", "egpo", "eo_mnpo", "inpo_soft", "mnpo_soft"):  # targets with a potential: any laws will do
        yield name, given(name), "two"
    for name in ("inpo", "onpo", "mnpo", "ht_mnpo"):
        yield name, given(name), "two"
    for name in ("spin", "sppo", "dno_prct"):
        yield name, given(name), "one"
    for divergence in ("forward_kl", "js", "alpha"):
        yield "f_dpo", {"beta": 0.5, "divergence": divergence}, "one"
    yield "dr_grpo", {"beta": 0.5, "group_size": 3}, None


# The bases of these are others' too, and the linear system of two laws is IPO's.
SLOW = {(name, "two") for name in ("eo_mnpo", "ht_mnpo", "inpo", "inpo_soft", "mnpo", "mnpo_soft", "onpo", "egpo")}
SLOW |= {("dno_prct", None), ("dno_prct", "one"), ("spin", None), ("ht_mnpo", None), ("onpo", None), ("dno", None)}
SLOW |= {("sppo", "one"), ("mnpo", None), ("inpo_soft", None)}


@pytest.mark.parametrize(
    ("name", "hyper", "kind"),
    [
        pytest.param(*c, id=f"{c[0]}-{c[2]}-{i}", marks=[pytest.mark.slow] * ((c[0], c[2]) in SLOW))
        for i, c in enumerate(cases())
    ],
)
def test_the_stated_optimum_is_stationary_and_its_neighbours_are_not(name, hyper, kind):
    problem = problem_for(name, {None: None, "one": SAMPLER, "two": (SAMPLER, SECOND)}[kind])
    optimum = np.asarray(aj.methods[name].optimum(problem, **hyper))
    assert optimum.shape == (B, A)
    np.testing.assert_allclose(np.exp(optimum).sum(-1), 1, atol=1e-12)
    assert np.abs(aj.population_grad(name, problem, optimum, **hyper)).max() < 1e-10
    rng = np.random.default_rng(3)
    for spread in (0.1, 0.1, 0.5, 0.5):
        step = spread * rng.normal(size=(B, A))
        gradient = np.asarray(aj.population_grad(name, problem, optimum + step, **hyper))
        assert (np.abs(gradient).max(-1) > 1e-4).all()


def test_the_optima_in_closed_form():
    # Gibbs of the reward, for every method whose optimum it is; the best response to the data for IPO.
    x = fields()
    gibbs = log_softmax(x["ref_logp"] + x["reward"] / 0.5, -1)
    for name in ("dpo", "reinforce", "rloo", "ppo", "f_dpo"):
        np.testing.assert_allclose(
            aj.methods[name].optimum(problem_for(name), beta=0.5), gibbs, atol=1e-12, err_msg=name
        )
    problem = problem_for("ipo", SAMPLER)
    expected = log_softmax(x["ref_logp"] + oracles.win_rates(x["preference"], SAMPLER) / 0.5, -1)
    np.testing.assert_allclose(aj.methods["ipo"].optimum(problem, beta=0.5), expected, atol=1e-12)
    # Equal laws in both slots: the linear system is the closed form.
    both = aj.methods["ipo"].optimum(problem_for("ipo", (SAMPLER, SAMPLER)), beta=0.5)
    np.testing.assert_allclose(both, expected, atol=1e-10)


def test_optimal_margins_of_noisy_labels():
    # Two responses, a label of certainty .8: cdpo's margin is logit of the smoothed one, .9 .8 + .1 .2 = .74;
    # robust_dpo's of the cleaned one, (.8 - .1) / .8 = .875.
    problem = aj.Problem(ref_logp=np.log([0.3, 0.7]), preference=[[0.5, 0.8], [0.2, 0.5]])
    for name, p in (("cdpo", 0.74), ("robust_dpo", 0.875), ("dpo", 0.8)):
        hyper = {} if name == "dpo" else {"label_smoothing": 0.1}
        optimum = np.asarray(aj.methods[name].optimum(problem, beta=0.5, **hyper))
        h = optimum - np.log([0.3, 0.7])
        assert expit(0.5 * (h[0] - h[1])) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("name", ["dpo", "f_dpo"])
def test_an_optimum_that_needs_bradley_terry_says_so(name):
    x = fields()
    with pytest.raises(ValueError, match="Bradley-Terry"):
        aj.methods[name].optimum(aj.Problem(ref_logp=x["ref_logp"], preference=x["preference"]))
    fine = aj.Problem(ref_logp=x["ref_logp"], preference=oracles.bradley_terry(x["reward"]))
    expected = log_softmax(x["ref_logp"] + x["reward"] / 0.5, -1)
    np.testing.assert_allclose(aj.methods[name].optimum(fine, beta=0.5), expected, atol=1e-9)
    certain = aj.Problem(ref_logp=np.log([0.5, 0.5]), preference=[[0.5, 1], [0, 0.5]])
    with pytest.raises(ValueError, match="exactly 0 or 1"):
        aj.methods[name].optimum(certain)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_method_without_an_optimum_says_why(name):
    method = aj.methods[name]
    with pytest.raises(aj.NoOptimum) as caught:
        method.optimum(problem_for(name))
    assert method.no_optimum in str(caught.value) and name in str(caught.value)
    assert len(method.no_optimum.split()) > 5


def test_ppo_has_no_optimum_with_an_old_policy_held_fixed():
    with pytest.raises(aj.NoOptimum, match="sampler_logp"):
        aj.methods["ppo"].optimum(problem_for("ppo", SAMPLER))


def test_optima_keep_zero_mass_out():
    x = fields()
    ref = np.concatenate([x["ref_logp"], np.full((B, 1), -np.inf)], -1)
    reward = np.concatenate([x["reward"], np.full((B, 1), 30.0)], -1)
    for name in ("dpo", "ipo", "online_ipo", "dr_grpo"):
        big = np.asarray(aj.methods[name].optimum(aj.Problem(ref_logp=ref, reward=reward), beta=0.5))
        small = aj.methods[name].optimum(aj.Problem(ref_logp=x["ref_logp"], reward=x["reward"]), beta=0.5)
        assert np.isneginf(big[:, 3]).all()
        np.testing.assert_allclose(big[:, :3], small, atol=1e-10, err_msg=name)


# --- fit


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("ipo", 0.4),
        ("nash_md_pg", 1.0),
        *(pytest.param(n, rate, marks=pytest.mark.slow) for n, rate in (("dpo", 4.0), ("rloo", 1.0), ("dr_grpo", 1.0))),
    ],
)
def test_fit_reaches_the_optimum(name, rate):
    # Descent from the reference, exact gradients; the oracle of the optimum is NumPy.
    x = fields()
    fitted = aj.fit(name, problem_for(name), num_steps=2000, learning_rate=rate, beta=1.0, **_mixture(name))
    assert fitted.logp.shape == (B, A) and fitted.trace.shape == (2000, B)
    ref, reward, preference = x["ref_logp"], x["reward"], x["preference"]
    if name == "nash_md_pg":
        expected = np.stack([oracles.nash_fixed_point(p, r, 1.0) for p, r in zip(preference, ref, strict=True)])
    elif name == "dr_grpo":
        expected = np.asarray(aj.methods[name].optimum(problem_for(name), beta=1.0))  # tested above
    else:
        expected = log_softmax(ref + (oracles.win_rates(preference, ref) if name == "ipo" else reward), -1)
    np.testing.assert_allclose(fitted.logp, expected, atol=1e-5)


def _mixture(name):
    return {"mixture": 0.0} if name == "nash_md_pg" else {}


def test_the_first_steps_of_fit_by_hand():
    # theta <- theta - rate grad, two steps; the trace holds the loss before each update.
    problem = problem_for("ipo", SAMPLER)
    fitted = aj.fit("ipo", problem, num_steps=2, learning_rate=lambda t: 0.1 / (t + 1), init_logp=SECOND, beta=0.5)
    x, logits, trace = fields(), SECOND.copy(), []
    for t in range(2):
        for b in range(B):
            tables = {"ref_logp": x["ref_logp"][b], "preference": x["preference"][b]}
            value, gradient = oracles.enumerate_population("ipo", logits[b], tables, [SAMPLER[b]] * 2, {"beta": 0.5})
            trace.append(value)
            logits[b] -= 0.1 / (t + 1) * gradient
    np.testing.assert_allclose(fitted.trace, np.reshape(trace, (2, B)), atol=1e-12)
    np.testing.assert_allclose(fitted.logp, log_softmax(logits, -1), atol=1e-12)
    np.testing.assert_allclose(fitted.params, logits, atol=1e-12)


def test_fit_with_an_optax_optimiser():
    problem = problem_for("rloo")
    made = aj.fit("rloo", problem, num_steps=2, optimizer=optax.sgd(0.3))
    given = aj.fit("rloo", problem, num_steps=2, optimizer=optax.sgd, learning_rate=0.3)
    plain = aj.fit("rloo", problem, num_steps=2, learning_rate=0.3)
    np.testing.assert_allclose(made.logp, plain.logp, atol=1e-13)
    np.testing.assert_allclose(given.logp, plain.logp, atol=1e-13)


def test_fit_over_learning_rates_and_seeds_by_vmap():
    problem = problem_for("rloo")
    run = lambda rate, beta: aj.fit("rloo", problem, num_steps=2, learning_rate=rate, beta=beta)
    both = jax.vmap(run)(jnp.asarray([0.1, 0.3]), jnp.asarray([0.2, 0.5]))
    assert both.logp.shape == (2, B, A) and both.trace.shape == (2, 2, B)
    np.testing.assert_allclose(both.logp[1], run(0.3, 0.5).logp, atol=1e-13)


@pytest.mark.slow
def test_sampled_fit_comes_near_the_optimum():
    problem = problem_for("rloo")
    run = lambda key: aj.fit(
        "rloo", problem, num_steps=600, learning_rate=lambda t: 2.0 / (1 + 0.05 * t), beta=1.0, key=key, batch_size=64
    )
    fitted = jax.vmap(run)(jax.random.split(jax.random.key(0), 2))
    x = fields()
    optimum = log_softmax(x["ref_logp"] + x["reward"], -1)
    start = np.abs(x["ref_logp"] - optimum).max()
    assert np.abs(fitted.logp - optimum).max() < 0.15 < start
    assert not np.array_equal(fitted.logp[0], fitted.logp[1])
    assert fitted.trace.shape == (2, 600, B)


def test_a_moving_anchor_is_carried():
    # ema = 1 keeps the initial anchor, the reference: Nash-EMA is then descent against the reference, as mixture = 1.
    problem = problem_for("nash_ema_pg")
    fixed = aj.fit(
        "nash_ema_pg", problem, num_steps=3, learning_rate=0.5, ema=1.0, beta=0.5, init_logp=problem.ref_logp
    )
    against_ref = aj.fit("nash_md_pg", problem, num_steps=3, learning_rate=0.5, mixture=1.0, beta=0.5)
    np.testing.assert_allclose(fixed.logp, against_ref.logp, atol=1e-12)
    np.testing.assert_allclose(fixed.anchor_logp, problem.ref_logp, atol=1e-12)
    # ema = 0: the anchor is the policy of the last step: self-play.
    moving = aj.fit("nash_ema_pg", problem, num_steps=3, learning_rate=0.5, ema=0.0, beta=0.5)
    self_play = aj.fit("nash_md_pg", problem, num_steps=3, learning_rate=0.5, mixture=0.0, beta=0.5)
    np.testing.assert_allclose(moving.logp, self_play.logp, atol=1e-12)


def test_fit_of_zero_steps_starts_at_the_reference():
    problem = problem_for("rloo")
    fitted = aj.fit("rloo", problem, num_steps=0, learning_rate=0.1)
    np.testing.assert_allclose(fitted.logp, problem.ref_logp, atol=1e-14)
    assert fitted.trace.shape == (0, B)
