"""Sampled losses and gradients agree with the population in the mean, within their standard errors."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

import alignjax as aj
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

A, B, KEYS = 3, 2, 2000
READ_TOKENS = {name for name, method in aj.methods.items() if "token_logp" in method.reads}


def instance():
    rng = np.random.default_rng(20)
    return {
        "ref_logp": oracles.policies(rng, B, A),
        "reward": rng.normal(size=(B, A)),
        "preference": oracles.preferences(rng, B, A),
        "anchor_logp": oracles.policies(np.random.default_rng(23), B, A),
        "opponent_logp": oracles.policies(np.random.default_rng(24), 2, B, A),
    }, 1.2 * rng.normal(size=(B, A))


def problem_for(name, fields):
    sampler = oracles.policies(np.random.default_rng(21), B, A)
    return aj.Problem(**fields, sampler_logp=sampler if name in ("dpo", "ipo", "p3o", "ppo", "grpo") else None)


# The loss in the last column is a mean over draws with a meaning, or the same surrogate.
FAST = [
    ("dpo", {"beta": 0.5}),
    ("ipo_md", {"beta": 1.0}),
    ("grpo", {"group_size": 3}),
    ("nash_md_pg", {"mixture": 0.5}),
]
# Squares of sampled win-rates have their variance in the loss, the same for every policy: the gradient is right.
VARIANCE_IN_THE_LOSS = ("egpo", "inpo_soft", "mnpo_soft", "sppo")
# The win-rates go through a sigmoid: one sampled opponent is not enough, as its docstring says and a test below shows.
BIASED = ("dno",)
OTHERS = [(name, {}) for name in aj.methods if name not in READ_TOKENS | {n for n, _ in FAST} | set(BIASED)]


def check(name, hyper, hard, losses_too=True):
    fields, logits = instance()
    problem = problem_for(name, fields)
    logp = log_softmax(logits, -1)

    @jax.jit
    @jax.vmap
    def draws(key):
        # The same key, hence the same groups, twice: XLA shares the draws.
        given = {"num_samples": 4, "hard_labels": hard, **hyper}
        loss = aj.sampled_loss(name, problem, logp, key, **given) if losses_too else 0.0
        return loss, aj.sampled_grad(name, problem, logits, key, **given)

    losses, gradients = map(np.asarray, draws(jax.random.split(jax.random.key(5), KEYS)))
    exact = np.asarray(aj.population_grad(name, problem, logits, **hyper))
    pairs = [(gradients, exact)]
    fields_read = (*aj.methods[name].reads, *aj.methods[name].reads_if_present)
    if losses_too and name not in VARIANCE_IN_THE_LOSS and not (hard and "preference" not in fields_read):
        pairs.append((losses, np.asarray(aj.population_loss(name, problem, logp, **hyper))))
    for sampled, expected in pairs:
        error = sampled.std(0) / np.sqrt(KEYS)
        assert (error > 0).all()
        z = np.abs(sampled.mean(0) - expected) / error
        assert z.max() < 4.5, z


@pytest.mark.parametrize(("name", "hyper"), [FAST[0], FAST[2]], ids=["dpo", "grpo"])
def test_mean_over_draws_is_the_population(name, hyper):
    check(name, hyper, hard=False, losses_too=False)


@pytest.mark.parametrize(("name", "hyper"), [FAST[1], FAST[3]], ids=["ipo_md", "nash_md_pg"])
def test_mean_over_draws_with_hard_labels_is_the_population(name, hyper):
    check(name, hyper, hard=True, losses_too=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hyper"), OTHERS + FAST, ids=[n for n, _ in OTHERS + FAST])
def test_mean_over_draws_is_the_population_for_every_method(name, hyper):
    check(name, hyper, hard=False)


def reads_comparisons(name):
    method = aj.methods[name]
    return bool({"preference", "win_rate"} & {*method.reads, *method.reads_if_present})


def test_dno_with_one_sampled_opponent_is_biased():
    # By enumeration: E s(P(y, z) - P(y', z')) is not s(q - q'), if by a hundredth of the gradient at most here.
    fields, logits = instance()
    certain = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    problem = aj.Problem(**fields | {"preference": certain})
    sampled = jax.jit(jax.vmap(lambda key: aj.sampled_grad("dno", problem, logits, key, num_samples=500)))
    draws = np.asarray(sampled(jax.random.split(jax.random.key(8), 200)))
    laws, expected = np.exp(fields["anchor_logp"]), np.zeros((B, A))
    x = logits - fields["anchor_logp"]
    for i, j, z, w in np.ndindex(A, A, A, A):
        gap = 1 / (1 + np.exp(-(x[:, i] - x[:, j]))) - 1 / (1 + np.exp(-(certain[i, z] - certain[j, w])))
        weight = laws[:, i] * laws[:, j] * laws[:, z] * laws[:, w] * gap
        expected += weight[:, None] * (np.eye(A)[i] - np.eye(A)[j])
    error = draws.std(0) / np.sqrt(len(draws))
    exact = np.asarray(aj.population_grad("dno", problem, logits))
    assert (np.abs(draws.mean(0) - expected) < 4.5 * error).all()
    assert 5e-4 < np.abs(expected - exact).max() < 5e-3


HARD = [(name, hyper) for name, hyper in FAST + OTHERS if reads_comparisons(name)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hyper"), HARD, ids=[n for n, _ in HARD])
def test_hard_labels_average_to_the_population_for_every_method(name, hyper):
    check(name, hyper, hard=True)


def test_two_laws_one_for_each_slot():
    # IPO with unequal laws on cyclic preferences: the slots must not be exchanged or merged.
    fields, logits = instance()
    rng = np.random.default_rng(22)
    first, second = oracles.policies(rng, B, A, spread=2), oracles.policies(rng, B, A, spread=2)
    problem = aj.Problem(**fields, sampler_logp=(first, second))
    sampled = np.asarray(aj.sampled_grad("ipo", problem, logits, jax.random.key(6), num_samples=100_000, beta=1.0))
    exact = np.asarray(aj.population_grad("ipo", problem, logits, beta=1.0))
    merged = np.asarray(aj.population_grad("ipo", aj.Problem(**fields, sampler_logp=first), logits, beta=1.0))
    # One draw's gradient has entries below about 4; 100000 of them leave 4.5 standard errors of 0.06.
    assert np.abs(sampled - exact).max() < 0.06
    assert np.abs(merged - exact).max() > 0.12


def test_draws_depend_on_the_key_alone():
    fields, logits = instance()
    problem = problem_for("dpo", fields)
    one, same, other = (
        np.asarray(aj.sampled_grad("dpo", problem, logits, jax.random.key(k), num_samples=4)) for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.shape == (B, A)
