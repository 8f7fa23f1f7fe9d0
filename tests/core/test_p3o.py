"""P3O: its forms against NumPy by hand, P1-P4, invariances, scales, bad input, and one loss on four policies."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import alignjax as aj
from alignjax import envs, equations
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")
CLIPS = ("separate", "joint", "product")
FREE = {"clip_range": 1e9, "ratio_bound": np.inf}


def batch(seed=0, n=64, spread=0.5):
    """Pairs whose ratios leave the trust region about half of the time, on both sides."""
    rng = np.random.default_rng(seed)
    old, ref, reward = rng.normal(size=(3, n, 2))
    return {"logp": old + spread * rng.normal(size=(n, 2)), "ref_logp": ref, "reward": reward, "behaviour_logp": old}


def value_and_slope(fields, **hyper):
    def total(x):
        value = aj.methods["p3o"](aj.Samples(**{**fields, "logp": x}), **hyper)
        return value.sum(), value

    (_, value), slope = jax.value_and_grad(total, has_aux=True)(jnp.asarray(fields["logp"]))
    return np.asarray(value), np.asarray(slope)


@pytest.mark.parametrize("kl", ["recomputed", "rollout"])
@pytest.mark.parametrize("clip", CLIPS)
def test_every_form_against_numpy(clip, kl):
    for bound in (1.2, 10.0):
        hyper = {"beta": 0.3, "clip_range": 0.2, "ratio_bound": bound, "clip": clip, "kl": kl}
        fields = batch()
        value, slope = value_and_slope(fields, **hyper)
        expected, weights = oracles.loss_and_weights("p3o", fields, hyper)
        np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(slope, weights, rtol=1e-10, atol=1e-12)
        clipped = (slope == 0).mean()
        assert 0.1 < clipped < 0.9  # both sides of the trust region are there


def objective_gradient(ref, reward, beta, logits):
    logp = log_softmax(logits)
    regularised = reward - beta * (logp - ref)
    return np.exp(logp) * (regularised - np.exp(logp) @ regularised)


def instance(seed=0, size=4):
    rng = np.random.default_rng(seed)
    ref, old = oracles.policies(rng, 2, size)
    return ref, rng.normal(size=size), float(np.exp(rng.uniform(-2, 1))), rng.normal(size=size), old


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clip", CLIPS)
def test_without_clips_it_is_the_policy_gradient_for_any_old_policy(clip, seed):
    # P1; the KL of the rollout is another objective's off-policy.
    ref, reward, beta, logits, old = instance(seed)
    problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=old)
    exact = objective_gradient(ref, reward, beta, logits)
    found = aj.population_grad("p3o", problem, logits, beta=beta, clip=clip, **FREE)
    np.testing.assert_allclose(found, -exact, atol=1e-11)
    measured = aj.population_grad("p3o", problem, logits, beta=beta, clip=clip, kl="rollout", **FREE)
    assert np.abs(measured + exact).max() > 1e-3


@pytest.mark.parametrize("kl", ["recomputed", "rollout"])
@pytest.mark.parametrize("clip", CLIPS)
def test_at_the_old_policy_it_is_the_policy_gradient_with_every_clip(clip, kl):
    # P2, with the law given and absent; half of CoPG's and RLOO's own.
    ref, reward, beta, logits, _ = instance(1)
    exact = objective_gradient(ref, reward, beta, logits)
    for law in (None, log_softmax(logits)):
        problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=law)
        found = aj.population_grad("p3o", problem, logits, beta=beta, clip=clip, kl=kl, clip_range=0.01)
        np.testing.assert_allclose(found, -exact, atol=1e-12)
    copg = aj.population_grad("copg", problem, logits, beta=beta)
    np.testing.assert_allclose(copg, 2 * np.asarray(found), atol=1e-12)


@pytest.mark.parametrize("clip", CLIPS)
def test_a_shift_changes_no_sample_and_scale_multiplies(clip):
    # P3.
    fields, beta = batch(), 0.3
    _, slope = value_and_slope(fields, beta=beta, clip=clip)
    shift = 10 * np.random.default_rng(1).normal(size=(64, 1))
    _, shifted = value_and_slope({**fields, "reward": fields["reward"] + shift}, beta=beta, clip=clip)
    np.testing.assert_allclose(shifted, slope, atol=1e-11)
    _, scaled = value_and_slope({**fields, "reward": 3 * fields["reward"]}, beta=3 * beta, clip=clip)
    np.testing.assert_allclose(scaled, 3 * slope, atol=1e-11)
    assert np.abs(slope).max() > 0.1


def test_gibbs_is_stationary_whatever_the_old_policy():
    ref, reward, beta, _, old = instance(2)
    best = log_softmax(ref + reward / beta)
    for clip, law in itertools.product(CLIPS, (None, old)):
        problem = aj.Problem(ref_logp=ref, reward=reward, sampler_logp=law)
        np.testing.assert_allclose(aj.methods["p3o"].optimum(problem, beta=beta), best, atol=1e-12)
        assert np.abs(aj.population_grad("p3o", problem, best, beta=beta, clip=clip)).max() < 1e-12
    with pytest.raises(aj.NoOptimum, match="fixed old policy"):
        aj.methods["p3o"].optimum(problem, beta=beta, kl="rollout")


def two_sample_variance(name, reward, logits):
    """Trace of the covariance of the gradient of one pair on-policy, every pair enumerated; beta tiny."""
    logp = log_softmax(logits)
    pairs = np.array(list(itertools.product(range(len(reward)), repeat=2)))
    loss = functools.partial(aj.methods[name].loss, beta=1e-12)

    def gradient(pair):
        one = lambda z: loss(jax.nn.log_softmax(z)[pair], jnp.asarray(logp)[pair], jnp.asarray(reward)[pair])
        return jax.grad(one)(jnp.asarray(logits))

    gradients = np.asarray(jax.vmap(gradient)(pairs))
    weight = np.exp(logp[pairs].sum(-1))
    mean = weight @ gradients
    return weight @ ((gradients - mean) ** 2).sum(-1)


def test_the_variance_of_a_pair_does_not_know_the_shift():
    # P4; the policy gradient's grows with the square of the shift.
    rng = np.random.default_rng(0)
    reward, logits = rng.normal(size=5), rng.normal(size=5)
    pairwise = [two_sample_variance("p3o", reward + s, logits) for s in (0.0, 1.0, 10.0)]
    np.testing.assert_allclose(pairwise, pairwise[0], rtol=1e-9)
    plain = [two_sample_variance("reinforce", reward + s, logits) for s in (0.0, 1.0, 10.0)]
    assert plain[2] > 20 * plain[0] > 0
    # By hand: E[(d/2)^2 |e_i - e_j|^2] - |grad J|^2 with d = r_i - r_j; e_i - e_j loses the pi of the scores.
    p, gap = softmax(logits), reward[:, None] - reward[None, :]
    exact = p * (reward - p @ reward)
    second = (p[:, None] * p[None, :] * (gap / 2) ** 2 * 2 * (gap != 0)).sum()
    np.testing.assert_allclose(pairwise[0], second - exact @ exact, rtol=1e-8)


def test_scales_of_the_reward():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(4000, 2))
    shift = 5 * rng.normal(size=(4000, 1))
    within = np.sqrt(((reward[:, 0] - reward[:, 1]) ** 2).mean() / 2)
    for given in (reward, reward + shift):
        np.testing.assert_allclose(equations.within_prompt_scale(given), within, rtol=1e-9)
        np.testing.assert_allclose(equations.global_scale(given), given.std(), rtol=1e-12)
    # Two independent numbers of variance 1 and 25 make one of 26.
    assert abs(float(equations.global_scale(reward + shift)) - np.sqrt(26)) < 0.2
    groups = rng.normal(size=(50, 5))
    np.testing.assert_allclose(equations.within_prompt_scale(groups), np.sqrt(groups.var(-1, ddof=1).mean()))


# --- tokens -----------------------------------------------------------------------------------------------------------


def token_batch(seed=0, n=16, t=3):
    rng = np.random.default_rng(seed)
    logp, ref, old = np.log(rng.uniform(0.2, 0.9, size=(3, n, 2, t)))
    mask = np.ones((n, 2, t), bool)
    mask[::2, 0, 2] = False
    return logp, ref, old, rng.normal(size=(n, 2)), mask


def test_tokens_by_loops():
    logp, ref, old, reward, mask = token_batch()
    beta, eps, bound = 0.3, 0.2, 10.0
    total = lambda x: np.where(mask, x, 0.0).sum(-1)
    regularised = reward - beta * (total(logp) - total(ref))
    expected = np.zeros(len(reward))
    for n, i in itertools.product(range(len(reward)), range(2)):
        q = regularised[n, i] - regularised[n, 1 - i]
        weight = np.clip(np.exp(total(logp) - total(old))[n, 1 - i], 1 / bound, bound)
        for t in range(3):
            if mask[n, i, t]:
                rho = np.exp(logp[n, i, t] - old[n, i, t])
                expected[n] += 0.5 * max(-q * weight * rho, -q * weight * np.clip(rho, 1 - eps, 1 + eps))
    samples = aj.Samples.from_tokens(
        token_logp=logp, ref_token_logp=ref, behaviour_token_logp=old, mask=mask, reward=reward
    )
    np.testing.assert_allclose(aj.methods["p3o_token"](samples, beta=beta), expected, rtol=1e-10)


@pytest.mark.slow
def test_tokens_at_the_old_policy_are_the_sequence():
    logp, ref, _, reward, mask = token_batch()
    build = lambda x: aj.Samples.from_tokens(token_logp=x, ref_token_logp=ref, mask=mask, reward=reward)
    slope = lambda name: jax.grad(lambda x: aj.methods[name](build(x), beta=0.3).sum())(jnp.asarray(logp))
    np.testing.assert_allclose(slope("p3o_token"), slope("p3o"), atol=1e-12)
    tree = envs.TokenTree(vocab_size=2, length=2)
    logits = tree.random_logits(jax.random.key(1))
    problem = tree.problem(tree.random_logits(jax.random.key(0)), reward=np.array([0.3, -1.0, 0.5, 1.0]))

    def gradient(name):
        total = lambda x: aj.population_loss(name, problem, **tree.policy(x), beta=0.3)
        return jax.tree.leaves(jax.grad(total)(logits))

    for token, sequence in zip(gradient("p3o_token"), gradient("p3o"), strict=True):
        np.testing.assert_allclose(token, sequence, atol=1e-12)
        assert np.abs(sequence).max() > 1e-3


# --- bad input and limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hyper", "match"),
    [
        ({"clip_range": 0.0}, "clip_range must be a finite number > 0, got 0"),
        ({"clip_range": -0.2}, "clip_range must be a finite number > 0, got -0.2"),
        ({"ratio_bound": 0.5}, "ratio_bound must be at least 1, or inf for none, got 0.5"),
        ({"ratio_bound": float("nan")}, "ratio_bound must be at least 1"),
        ({"clip": "jiont"}, "unknown clip 'jiont'; did you mean 'joint'"),
        ({"kl": "never"}, "unknown kl 'never'.*recomputed, rollout"),
        ({"beta": 0.0}, "beta must be a finite number > 0"),
    ],
)
def test_bad_hyperparameters_are_named(hyper, match):
    fields = batch(n=2)
    with pytest.raises(ValueError, match=match):
        aj.methods["p3o"](aj.Samples(**fields), **hyper)


def test_bad_laws_are_named():
    problem = aj.Problem(ref_logp=np.log([0.5, 0.5]), reward=[0.0, 1.0])
    with pytest.raises(ValueError, match="draws 2 responses"):
        aj.population_grad("p3o", problem, [0.0, 0.0], group_size=3)
    laws = (np.log([0.5, 0.5]),) * 2
    with pytest.raises(ValueError, match="one behaviour policy"):
        aj.population_grad("p3o", aj.Problem(ref_logp=laws[0], reward=[0.0, 1.0], sampler_logp=laws), [0.0, 0.0])
    # A behaviour law without mass where the policy has some: those responses are never drawn, and nothing is NaN.
    narrow = aj.Problem(
        ref_logp=np.log([0.4, 0.3, 0.3]), reward=[0.0, 1.0, 2.0], sampler_logp=[np.log(0.5)] * 2 + [-np.inf]
    )
    for clip in CLIPS:
        gradient = np.asarray(aj.population_grad("p3o", narrow, [0.0, 0.1, 0.2], clip=clip))
        assert np.isfinite(gradient).all()
    with pytest.raises(ValueError, match="zero mass"):
        aj.population_grad("p3o", narrow, [0.0, -np.inf, 0.2])


@pytest.mark.slow
def test_far_policies_stay_finite_in_single_precision():
    with jax.enable_x64(False):
        fields = {
            "logp": [[-900.0, -1.0]],
            "behaviour_logp": [[-1.0, -2.0]],
            "ref_logp": [[-1.0, -1.0]],
            "reward": [[1.0, 0.0]],
        }
        fields = {name: np.asarray(x, np.float32) for name, x in fields.items()}
        for clip in CLIPS:
            value, slope = value_and_slope(fields, clip=clip)
            assert np.isfinite(value).all() and np.isfinite(slope).all()


# --- one loss, four policies ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("clip", CLIPS)
def test_a_table_a_bandit_a_tree_and_a_log_linear_policy(clip):
    rng = np.random.default_rng(3)
    tree = envs.TokenTree(vocab_size=2, length=2)
    reward, beta = 0.5 * rng.normal(size=4), 0.5
    problem = tree.problem(tree.random_logits(jax.random.key(0)), reward=reward)
    features = envs.LogLinearPolicy(features=rng.normal(size=(4, 3)), base_logp=problem.ref_logp)
    bandit = envs.Bandit(reward=reward, ref_logp=problem.ref_logp).problem()
    goal = softmax(np.asarray(problem.ref_logp) + reward / beta)
    run = functools.partial(aj.fit, "p3o", num_steps=1500, learning_rate=1.0, beta=beta, clip=clip)
    found = {
        "table": run(problem),
        "bandit": run(bandit),
        "tree": run(problem, policy=tree.policy, init_params=tree.zeros()),
        "log-linear": run(problem, policy=features.logp, init_params=features.zeros(), num_steps=6000),
        "sampled": run(bandit, key=jax.random.key(1), learning_rate=0.1, batch_size=64),
    }
    if clip == "separate":
        found["tokens"] = aj.fit(
            "p3o_token",
            problem,
            policy=tree.policy,
            init_params=tree.zeros(),
            num_steps=1500,
            learning_rate=1.0,
            beta=beta,
        )
    for kind, fitted in found.items():
        np.testing.assert_allclose(softmax(fitted.logp), goal, atol=0.05 if kind == "sampled" else 1e-4, err_msg=kind)
