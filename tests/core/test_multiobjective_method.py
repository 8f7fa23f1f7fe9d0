"""The method `pama`: its gradient by enumeration with NumPy, and one loss on a table, a bandit, a tree and features."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import alignjax as aj
from alignjax import multiobjective as mo
from alignjax.envs import LogLinearPolicy, TokenTree

BETA = 0.3
COMBINATIONS = ("token", "batch", "batch_vertex", "gram", "linear")


def random_problem(seed=0, a=3, m=2):
    rng = np.random.default_rng(seed)
    return aj.Problem(ref_logp=log_softmax(rng.normal(size=a)), rewards=rng.normal(size=(a, m))), rng.normal(size=a)


def combined(advantages, combine, use_noon):
    """`[K, M]` to `[K]`, from the formulas, with two objectives."""
    kept = np.maximum(advantages, 0) if use_noon else advantages
    nearest = lambda x: min(max(0.0, x.min()), x.max())
    if combine == "token":
        return np.array([nearest(row) for row in kept])
    if combine == "linear":
        return kept.mean(1)
    if combine == "batch":
        return np.full(len(kept), nearest(kept.mean(0)))
    grid = np.linspace(0, 1, 200_001)
    if combine == "batch_vertex":
        mean = kept.mean(0)
        size = np.abs(grid * mean[0] + (1 - grid) * mean[1])
    else:
        gram = kept.T @ kept
        size = grid**2 * gram[0, 0] + 2 * grid * (1 - grid) * gram[0, 1] + (1 - grid) ** 2 * gram[1, 1]
    c = grid[size == size.min()]
    c = c.max() if combine == "batch_vertex" else c.mean()  # no advantage anywhere: any weights
    return c * kept[:, 0] + (1 - c) * kept[:, 1]


CHOICES = [(combine, True) for combine in COMBINATIONS] + [(c, False) for c in ("token", "gram", "linear")]


@pytest.mark.parametrize(("combine", "use_noon"), CHOICES)
@pytest.mark.usefixtures("x64")
def test_the_gradient_is_that_of_the_combined_advantage(combine, use_noon):
    problem, logits = random_problem()
    logp, ref = log_softmax(logits), np.asarray(problem.ref_logp)
    regularised = np.asarray(problem.rewards) - BETA * (logp - ref)[:, None]
    expected = np.zeros(3)
    for group in itertools.product(range(3), repeat=3):
        rows = regularised[list(group)]
        weight = combined(rows - rows.mean(0), combine, use_noon)
        score = np.eye(3)[list(group)] - np.exp(logp)
        expected -= np.exp(logp[list(group)].sum()) * (weight[:, None] * score).mean(0)
    found = aj.population_grad("pama", problem, logits, beta=BETA, combine=combine, use_noon=use_noon, group_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-5 if combine == "gram" else 1e-10)


@pytest.mark.usefixtures("x64")
def test_one_number_for_the_group_has_no_signal_in_large_groups_only():
    # E s* grad log pi is 0 for an s* that does not depend on the samples; in a small group it does.
    problem, logits = random_problem(1)
    sizes = [
        np.abs(aj.population_grad("pama", problem, logits, beta=BETA, combine="batch", group_size=k)).max()
        for k in (2, 4, 8)
    ]
    assert sizes[2] < 0.6 * sizes[1] and sizes[1] < sizes[0]


@pytest.mark.usefixtures("x64")
def test_the_clip_acts_on_what_is_good():
    samples = aj.Samples(
        logp=[-1.0, -2.0], ref_logp=[-1.5, -1.5], behaviour_logp=[-1.5, -1.5], rewards=[[2.0, 4.0], [0.0, 0.0]]
    )
    # Advantages (1, 2) and (-1, -2): the first response has 1, and its ratio e^{1/2} is beyond 1.2.
    np.testing.assert_allclose(aj.methods["pama"](samples), -1.2 / 2)
    np.testing.assert_allclose(aj.methods["pama"](samples, clip_range=1.0), -np.exp(0.5) / 2)
    # The Gram matrix of what gets through the clip is 0: uniform weights.
    np.testing.assert_allclose(aj.methods["pama"](samples, combine="gram"), -1.2 * 1.5 / 2)


@pytest.mark.usefixtures("x64")
def test_one_objective_is_noon_ppo_and_without_noon_dr_grpo():
    rng = np.random.default_rng(2)
    group = {name: log_softmax(rng.normal(size=(2, 4, 5)))[..., 0] for name in ("logp", "ref_logp")}
    reward = rng.normal(size=(2, 4))
    slope = lambda name, given, **hyper: jax.grad(
        lambda x: aj.methods[name](aj.Samples(**{**group, "logp": x}, **given), **hyper).sum()
    )(jnp.asarray(group["logp"]))
    regularised = reward - BETA * (group["logp"] - group["ref_logp"])
    centred = regularised - regularised.mean(-1, keepdims=True)
    for combine in ("token", "gram", "linear"):
        one = {"rewards": reward[..., None]}
        np.testing.assert_allclose(
            slope("pama", one, beta=BETA, combine=combine), -np.maximum(centred, 0) / 4, atol=1e-12
        )
        both = slope("pama", one, beta=BETA, combine=combine, use_noon=False)
        np.testing.assert_allclose(both, -centred / 4, atol=1e-12)
        np.testing.assert_allclose(both, 0.75 * slope("rloo", {"reward": reward}, beta=BETA), atol=1e-12)
        # Identical objectives: the same.
        twice = {"rewards": np.stack([reward, reward], -1)}
        np.testing.assert_allclose(slope("pama", twice, beta=BETA, combine=combine, use_noon=False), both, atol=1e-12)


def test_one_loss_on_a_table_a_bandit_a_tree_and_features():
    tree = TokenTree(3, 2)
    rng = np.random.default_rng(3)
    # Two objectives that agree on what is worst.
    rewards = np.stack([np.linspace(0, 1, 9), np.linspace(0, 1, 9) ** 2], -1).astype(np.float32)
    reference = tree.random_logits(jax.random.key(0))
    problem = tree.problem(reference, rewards=rewards)
    features = LogLinearPolicy(rng.normal(size=(9, 6)).astype(np.float32), problem.ref_logp)
    policies = {
        "table": {},
        "bandit": {"key": jax.random.key(1), "batch_size": 64},
        "tree": {"policy": tree.policy, "init_params": reference},
        "features": {"policy": features.logp, "init_params": features.zeros()},
    }
    start = mo.fronts.objectives(problem.ref_logp, problem.ref_logp, rewards, BETA)
    for name, how in policies.items():
        fitted = aj.fit("pama", problem, num_steps=60, learning_rate=2.0, beta=BETA, **how)
        reached = mo.fronts.objectives(fitted.logp, problem.ref_logp, rewards, BETA)
        assert (reached > start + 0.02).all(), name
    # Objectives that never agree: nothing moves, on the table or in the tree.
    opposed = tree.problem(reference, rewards=np.stack([rewards[:, 0], -rewards[:, 0]], -1))
    for how in (policies["table"], policies["tree"]):
        still = aj.fit("pama", opposed, num_steps=5, learning_rate=2.0, beta=BETA, **how)
        np.testing.assert_allclose(still.logp, problem.ref_logp, atol=1e-5)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="unknown combine 'tokens'"):
        aj.population_loss("pama", random_problem()[0], [0.0, -np.inf, -np.inf], combine="tokens")
    with pytest.raises(ValueError, match="needs use_noon"):
        aj.fit("pama", random_problem()[0], num_steps=1, learning_rate=1.0, combine="batch", use_noon=False)
    with pytest.raises(ValueError, match="without `rewards`"):
        aj.fit("pama", aj.Problem(ref_logp=[0.0]), num_steps=1, learning_rate=1.0)
    with pytest.raises(aj.NoOptimum, match="need not be Pareto optimal"):
        aj.methods["pama"].optimum(random_problem()[0])
