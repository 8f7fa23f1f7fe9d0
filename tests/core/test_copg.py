"""CoPG, AGRO and DRO, and log-regression: G1-G8 of the pair loss, scales and relatives, by enumeration in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import lambertw, log_softmax, softmax, wrightomega

import alignjax as aj
from alignjax import constrained, envs
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")
A = 4


def instance(seed=0, size=A):
    """(reference, reward, beta, logits, mu1, mu2)."""
    rng = np.random.default_rng(seed)
    ref, mu1, mu2 = oracles.policies(rng, 3, size)
    return ref, rng.normal(size=size), float(np.exp(rng.uniform(-2, 1))), 1.5 * rng.normal(size=size), mu1, mu2


def gibbs(ref, reward, beta):
    return log_softmax(ref + reward / beta)


def objective_gradient(ref, reward, beta, logits):
    """grad J of softmax logits: pi (R - E_pi R)."""
    logp = log_softmax(logits)
    regularised = reward - beta * (logp - ref)
    return np.exp(logp) * (regularised - np.exp(logp) @ regularised)


def pair_value(ref, reward, beta, logp, mu1, mu2):
    """L = E_{mu1 mu2} (R_{beta/2}(y) - R_{beta/2}(y')) (h(y) - h(y')), pair by pair."""
    h = logp - ref
    total = 0.0
    for i, j in itertools.product(range(len(ref)), repeat=2):
        half = (reward[i] - beta / 2 * h[i]) - (reward[j] - beta / 2 * h[j])
        total += np.exp(mu1[i] + mu2[j]) * half * (h[i] - h[j])
    return total


SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_population_of_two_laws(seed):
    # L and its gradient E_mu1[(R - E_mu2 R) grad log pi] + E_mu2[(R - E_mu1 R) grad log pi] (spec 3.1).
    ref, reward, beta, logits, mu1, mu2 = instance(seed)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=(mu1, mu2))
    logp = log_softmax(logits)
    value = aj.population_loss("copg", problem, logp, beta=beta)
    np.testing.assert_allclose(value, -pair_value(ref, reward, beta, logp, mu1, mu2), rtol=1e-12)
    regularised = reward - beta * (logp - ref)
    weight = np.exp(mu1) * (regularised - np.exp(mu2) @ regularised)
    weight += np.exp(mu2) * (regularised - np.exp(mu1) @ regularised)
    expected = weight - np.exp(logp) * weight.sum()
    found = aj.population_grad("copg", problem, logits, beta=beta)
    np.testing.assert_allclose(found, -expected, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_gibbs_is_the_optimum_and_the_loss_above_it_is_a_square(seed):
    # G1, G2, Theorem 1.
    ref, reward, beta, logits, mu1, mu2 = instance(seed)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=(mu1, mu2))
    best, logp = gibbs(ref, reward, beta), log_softmax(logits)
    np.testing.assert_allclose(aj.methods["copg"].optimum(problem, beta=beta), best, atol=1e-12)
    assert np.abs(aj.population_grad("copg", problem, best, beta=beta)).max() < 1e-12
    h = logp - ref
    gap = (reward - beta * h)[:, None] - (reward - beta * h)[None, :]
    weight = np.exp(mu1[:, None] + mu2[None, :])
    above = aj.population_loss("copg", problem, logp, beta=beta) - aj.population_loss("copg", problem, best, beta=beta)
    np.testing.assert_allclose(above, (weight * gap**2).sum() / (2 * beta), rtol=1e-10)
    lowest = -(weight * (reward[:, None] - reward[None, :]) ** 2).sum() / (2 * beta)
    np.testing.assert_allclose(aj.population_loss("copg", problem, best, beta=beta), lowest, rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_law_is_agro_is_profiled_dro_is_the_log_variance(seed):
    # G3 and line 2 of the cross-method map.
    ref, reward, beta, logits, mu, _ = instance(seed)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=mu)
    logp, best = log_softmax(logits), gibbs(ref, reward, beta)
    variance = lambda x: np.exp(mu) @ (x - np.exp(mu) @ x) ** 2
    agro = aj.population_loss("agro", problem, logp, beta=beta, group_size=3)
    np.testing.assert_allclose(agro, beta**2 / 2 * variance(logp - best), rtol=1e-10)
    copg = aj.population_loss("copg", problem, logp, beta=beta, group_size=3)
    np.testing.assert_allclose(copg, -(variance(reward) - variance(reward - beta * (logp - ref))) / beta, atol=1e-12)
    mean = np.exp(mu) @ (reward - beta * (logp - ref))
    profiled = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=mu, value=mean)
    np.testing.assert_allclose(aj.population_loss("dro", profiled, logp, beta=beta), agro, rtol=1e-10)
    gradients = [
        np.asarray(aj.population_grad("agro", problem, logits, beta=beta, group_size=2)),
        np.asarray(aj.population_grad("dro", profiled, logits, beta=beta)),
        beta / 2 * np.asarray(aj.population_grad("copg", problem, logits, beta=beta, group_size=2)),
    ]
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], atol=1e-12)
    assert np.abs(gradients[0]).max() > 1e-3


@pytest.mark.parametrize("k", [2, 3, 4])
def test_scales_on_policy(k):
    # G4: -2 grad J for every group size, -beta grad J for AGRO.
    ref, reward, beta, logits, _, _ = instance(7)
    logp = log_softmax(logits)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=logp)
    exact = objective_gradient(ref, reward, beta, logits)
    for name, scale in (("copg", 2.0), ("agro", beta)):
        found = aj.population_grad(name, problem, logits, beta=beta, group_size=k)
        np.testing.assert_allclose(found, -scale * exact, atol=1e-12, err_msg=name)
    rloo = aj.population_grad("rloo", problem, logits, beta=beta, group_size=k)
    np.testing.assert_allclose(rloo, -exact, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_group_is_the_sum_of_leave_one_out(k):
    # G5: the sum over pairs is (k - 1) times RLOO's sum over responses; the mean over pairs is 2 RLOO's mean.
    rng = np.random.default_rng(k)
    logp, ref, reward = rng.normal(size=(3, 6, k))
    batch = lambda x: aj.Samples(logp=x, ref_logp=ref, reward=reward)
    slope = lambda name: np.asarray(jax.grad(lambda x: aj.methods[name](batch(x), beta=0.7).sum())(jnp.asarray(logp)))
    np.testing.assert_allclose(slope("copg"), 2 * slope("rloo"), atol=1e-12)
    summed = k * (k - 1) / 2 * slope("copg")
    np.testing.assert_allclose(summed, (k - 1) * (k * slope("rloo")), atol=1e-12)
    if k == 2:
        np.testing.assert_allclose(slope("copg"), 2 * slope("p3o"), atol=1e-12)


def test_ipo_is_copg_with_rewards_of_a_quarter():
    # G6: grad copg = 1/(2 beta) grad (1/2 - beta D)^2 = beta/2 grad ipo, response 0 chosen.
    rng = np.random.default_rng(0)
    logp, ref = rng.normal(size=(2, 8, 2))
    reward = np.broadcast_to([0.25, -0.25], (8, 2))
    beta = 0.3
    copg = jax.grad(lambda x: aj.methods["copg"].loss(x, ref, reward, beta=beta).sum())(logp)
    ipo = jax.grad(lambda x: aj.methods["ipo"].loss(x, ref, beta=beta).sum())(logp)
    np.testing.assert_allclose(copg, beta / 2 * ipo, atol=1e-12)
    other = jax.grad(lambda x: aj.methods["copg"].loss(x, ref, 2 * reward, beta=beta).sum())(logp)
    assert np.abs(other - beta / 2 * ipo).max() > 0.1


def test_a_constant_of_the_prompt_changes_no_sample():
    # G7.
    rng = np.random.default_rng(0)
    logp, ref, reward = rng.normal(size=(3, 8, 3))
    shift = 5 * rng.normal(size=(8, 1))
    for name in ("copg", "agro"):
        slope = lambda r, name=name: jax.grad(lambda x: aj.methods[name].loss(x, ref, r, beta=0.4).sum())(logp)
        np.testing.assert_allclose(slope(reward + shift), slope(reward), atol=1e-12)


@pytest.mark.parametrize(("connected", "second"), [(True, [0.5, 0.0, 0.5, 0.0]), (False, [0.5, 0.5, 0.0, 0.0])])
def test_the_pair_graph_decides_uniqueness(connected, second):
    # G8. Laws (.5, .5, 0, 0): edges 0-0, 0-1, 1-1 against themselves; a bridge to 2 where the second law has it; the
    # kernel of the Hessian at Gibbs has one dimension (the constant) per component of the graph of pairs.
    first = np.array([0.25, 0.25, 0.25, 0.25]) if connected else np.array([0.5, 0.5, 0.0, 0.0])
    ref, reward, beta = instance(1)[:3]
    laws = tuple(np.log(np.maximum(x, 1e-300)) for x in (first, np.array(second)))
    laws = tuple(np.where(x < -600, -np.inf, x) for x in laws)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=laws)
    best = jnp.asarray(gibbs(ref, reward, beta))
    hessian = np.asarray(jax.jacfwd(lambda x: aj.population_grad("copg", problem, x, beta=beta))(best))
    weight = np.outer(first, second) + np.outer(second, first)
    laplacian = np.diag(weight.sum(1)) - weight
    null = lambda m: int((np.abs(np.linalg.eigvalsh((m + m.T) / 2)) < 1e-9).sum())
    assert null(laplacian) == (1 if connected else 3)
    assert null(hessian) == null(laplacian)


def test_autodiff_goes_through_the_reward():
    # With R_beta in the place of R_{beta/2} the optimum would be that of 2 beta (spec 3.1).
    ref, reward, beta, _, mu1, mu2 = instance(2)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=(mu1, mu2))
    twice = gibbs(ref, reward, 2 * beta)
    assert np.abs(aj.population_grad("copg", problem, twice, beta=beta)).max() > 1e-3
    assert np.abs(aj.population_grad("copg", problem, twice, beta=2 * beta)).max() < 1e-12


def test_groups_of_hundreds_and_far_rewards_in_single_precision():
    # O(K) on centred numbers: rewards around 10^4 lose nothing but their own rounding.
    rng = np.random.default_rng(0)
    logp, ref, reward = rng.normal(size=(3, 512))
    far = np.round(reward, 3) + 1e4
    fields = {"logp": logp[None], "ref_logp": ref[None], "reward": far[None]}
    exact, _ = oracles.loss_and_weights("copg", {n: x for n, x in fields.items()}, {"beta": 0.5})
    with jax.enable_x64(False):
        single = aj.methods["copg"].loss(*(x.astype(np.float32) for x in fields.values()), beta=0.5)
        assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=2e-3)


def test_a_group_of_one_has_no_pairs():
    one = aj.Samples(logp=jnp.zeros((1, 3)), ref_logp=jnp.ones((1, 3)), reward=jnp.ones((1, 3)),
                     response_mask=jnp.array([[1, 0, 0]]))  # fmt: skip
    for name in ("copg", "agro"):
        assert float(aj.methods[name](one)[0]) == 0


# --- DRO --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_dro_with_the_right_and_with_a_wrong_value(seed):
    ref, reward, beta, _, mu, _ = instance(seed)
    best = beta * np.log(np.exp(ref + reward / beta).sum())
    problem = functools.partial(aj.Problem, ref_logp=ref, reward=reward, sampler_logp=mu)
    for right in (None, best):
        found = aj.methods["dro"].optimum(problem(value=right), beta=beta)
        np.testing.assert_allclose(found, gibbs(ref, reward, beta), atol=1e-8)
    for wrong in (best - 1.0, best - 8 * beta, best + 0.02 * beta):
        logp = np.asarray(aj.methods["dro"].optimum(problem(value=wrong), beta=beta))
        # Stationary for the population, on the fixed point of Richemond et al., Prop. 1, and found by SciPy.
        assert np.abs(aj.population_grad("dro", problem(value=wrong), logp, beta=beta)).max() < 1e-9
        own = np.exp(mu) @ (reward - beta * (logp - ref))
        fixed = log_softmax(ref + reward / beta - np.exp(logp - mu) * (own - wrong) / beta)
        np.testing.assert_allclose(logp, fixed, atol=1e-8)
        loss = lambda z, wrong=wrong: 0.5 * np.exp(mu) @ (reward - wrong - beta * (log_softmax(z) - ref)) ** 2
        rival = min((minimize(loss, s * np.random.default_rng(s).normal(size=A), tol=1e-13) for s in range(4)),
                    key=lambda r: r.fun)  # fmt: skip
        assert loss(logp) <= rival.fun + 1e-9
        assert np.abs(np.exp(logp) - np.exp(gibbs(ref, reward, beta))).max() > 1e-4


def test_dro_with_the_mean_reward_stops_elsewhere():
    # V = E_mu r, a mean baseline: the gradient at Gibbs is not zero (spec 1.7).
    largest = 0.0
    for seed in range(20):
        ref, reward, beta, _, mu, _ = instance(seed)
        problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=mu, value=np.exp(mu) @ reward)
        largest = max(largest, np.abs(aj.population_grad("dro", problem, gibbs(ref, reward, beta), beta=beta)).max())
    assert largest > 0.1


@pytest.mark.slow
def test_a_value_far_above_has_no_closed_form():
    problem = aj.Problem(ref_logp=np.log([0.5, 0.5]), reward=[0.0, 1.0], value=9.0)
    with pytest.raises(aj.NoOptimum, match="so far above beta log Z"):
        aj.methods["dro"].optimum(problem, beta=0.5)
    two = np.log([[0.5, 0.5]] * 2)
    with pytest.raises(ValueError, match="one response at a time"):
        given = aj.Problem(ref_logp=two[0], reward=[0.0, 1.0], value=0.1, sampler_logp=tuple(two))
        aj.methods["dro"].optimum(given, beta=0.5)


# --- the pieces of constrained.py -------------------------------------------------------------------------------------


def test_the_two_branches_of_omega():
    z = np.concatenate([np.linspace(-700, 700, 1001), [0.0, 1.0, -1.0]])
    np.testing.assert_allclose(constrained.omega(z), wrightomega(z), rtol=1e-12)
    below = -1 - np.logspace(-12, 2.5, 500)
    np.testing.assert_allclose(constrained.omega_below(below), -lambertw(-np.exp(below)).real, rtol=1e-6)
    found = np.asarray(constrained.omega_below(below))
    np.testing.assert_allclose(np.log(found) - found, below, rtol=1e-12)
    assert float(constrained.omega_below(-1.0)) == 1.0
    assert abs(float(constrained.bisect(lambda x: x**2 < 2, jnp.zeros(()), 2 * jnp.ones(()))) - np.sqrt(2)) < 1e-15


@pytest.mark.slow
def test_log_regression_in_single_precision_and_with_dead_responses():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(20, 6)) - rng.uniform(0.8, 3, size=(20, 1))
    law = oracles.policies(rng, 20, 6)
    target[:, 2], law[:, 4] = -np.inf, -np.inf
    law = log_softmax(law, -1)
    double = np.asarray(constrained.log_regression(target, law))
    keep = [0, 1, 3, 5]
    alive = np.asarray(constrained.log_regression(target[:, keep], law[:, keep]))
    np.testing.assert_allclose(double[:, keep], alive, atol=1e-12)
    solved = np.isfinite(alive).all(-1)
    assert np.isneginf(double[solved][:, [2, 4]]).all()
    assert solved.sum() >= 8  # both signs of the multiplier are among them
    assert {True, False} == set(np.exp(target[:, keep]).sum(-1)[solved] > 1)
    with jax.enable_x64(False):
        single = np.asarray(constrained.log_regression(target.astype(np.float32), law.astype(np.float32)))
    kept = solved & np.isfinite(single[:, keep]).all(-1)
    np.testing.assert_allclose(np.exp(single[kept]), np.exp(double[kept]), atol=2e-3)


@pytest.mark.parametrize("sum_of_targets", [2.0, 1.0, 0.97])
def test_log_regression_is_differentiable(sum_of_targets):
    """Against differences, on both sides of the multiplier 0 and at it."""
    rng = np.random.default_rng(1)
    law = np.log(rng.dirichlet(np.full(5, 5.0)))
    target = law + 0.1 * rng.normal(size=5)
    target += np.log(sum_of_targets) - np.logaddexp.reduce(target)
    weight, step = rng.normal(size=5), 1e-5
    f = jax.jit(lambda t, nu: weight @ constrained.log_regression(t, nu))
    found = jax.grad(f, (0, 1))(target, law)
    along = lambda d: [(f(target + d, law) - f(target - d, law)), f(target, law + d) - f(target, law - d)]
    expected = np.array([along(step * d) for d in np.eye(5)]).T / (2 * step)
    np.testing.assert_allclose(np.stack(found), expected, atol=2e-5 if sum_of_targets == 1 else 2e-8)


# --- one loss, four policies ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copg", "agro", "dro"])
def test_a_table_a_bandit_a_tree_and_a_log_linear_policy(name):
    rng = np.random.default_rng(3)
    tree = envs.TokenTree(vocab_size=2, length=2)
    reward, beta = rng.normal(size=4), 0.5
    laws = oracles.policies(rng, 4)
    problem = tree.problem(tree.random_logits(jax.random.key(0)), reward=reward, sampler_logp=laws)
    features = envs.LogLinearPolicy(features=rng.normal(size=(4, 3)), base_logp=problem.ref_logp)
    bandit = envs.Bandit(reward=reward, ref_logp=problem.ref_logp).problem(sampler_logp=laws)
    goal = softmax(np.asarray(problem.ref_logp) + reward / beta)
    run = functools.partial(
        aj.fit, name, num_steps=3000, learning_rate=0.3 / (beta if name != "copg" else 1), beta=beta
    )
    found = {
        "table": run(problem),
        "bandit": run(bandit),
        "tree": run(problem, policy=tree.policy, init_params=tree.zeros()),
        "log-linear": run(problem, policy=features.logp, init_params=features.zeros()),
        "sampled": run(bandit, key=jax.random.key(1), num_steps=4000, learning_rate=0.05, batch_size=16),
    }
    for kind, fitted in found.items():
        np.testing.assert_allclose(softmax(fitted.logp), goal, atol=0.05 if kind == "sampled" else 1e-4, err_msg=kind)
