"""Best-of-N against enumeration of all N-tuples, its closed forms and its precision; the BOND family's gradients."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import alignjax as aj
from alignjax import best_of, envs
from alignjax.mixed_kl import mixed_kl_minimiser

x64 = pytest.mark.usefixtures("x64")


def enumerated(p, reward, n, worst=False):
    """The winner of every n-tuple, ties shared among the tied samples."""
    out, sign = np.zeros(len(p)), -1 if worst else 1
    for drawn in itertools.product(range(len(p)), repeat=n):
        scores = sign * reward[list(drawn)]
        winners = [y for y, score in zip(drawn, scores, strict=True) if score == scores.max()]
        for y in winners:
            out[y] += np.prod(p[list(drawn)]) / len(winners)
    return out


@x64
@pytest.mark.parametrize("seed", range(4))
def test_the_law_of_the_best_and_of_the_worst(seed):
    rng = np.random.default_rng(seed)
    p, reward = rng.dirichlet(np.ones(5)), rng.integers(0, 3, 5).astype(float)
    strict = reward - 1e-6 * np.arange(5)  # of two tied responses the one with the lower index wins
    for n in (1, 2, 4):
        for worst in (False, True):
            found = np.exp(aj.best_of_n(np.log(p), reward, n, worst=worst))
            np.testing.assert_allclose(found, enumerated(p, reward, n, worst), atol=1e-13)
            found = np.exp(aj.best_of_n(np.log(p), reward, n, ties="order", worst=worst))
            np.testing.assert_allclose(found, enumerated(p, strict, n, worst), atol=1e-13)
    # One after the other is the product, for real numbers too; only the order of rewards matters.
    twice = aj.best_of_n(aj.best_of_n(np.log(p), reward, 2.5), reward, 3)
    np.testing.assert_allclose(twice, aj.best_of_n(np.log(p), reward, 7.5), atol=1e-11)
    np.testing.assert_allclose(
        aj.best_of_n(np.log(p), np.exp(3 * reward), 7.5), aj.best_of_n(np.log(p), reward, 7.5), atol=1e-13
    )


@x64
def test_batches_zero_mass_jit_vmap_and_gradients():
    rng = np.random.default_rng(0)
    logp, reward = np.log(rng.dirichlet(np.ones(4), (2, 3))), rng.normal(size=(3, 4)).round(1)
    logp[..., 1] = -np.inf
    logp = log_softmax(logp, -1)
    n = np.array([1.0, 2.0, 5.0])
    found = aj.best_of_n(logp, reward, n)
    for i, j in itertools.product(range(2), range(3)):
        expected = enumerated(np.exp(logp[i, j]), reward[j], int(n[j]))
        np.testing.assert_allclose(np.exp(found[i, j]), expected, atol=1e-13)
    assert np.isneginf(found[..., 1]).all()
    mapped = jax.jit(jax.vmap(lambda x: aj.best_of_n(x, reward, n)))(logp)
    np.testing.assert_allclose(np.exp(mapped), np.exp(found), atol=1e-14)
    # d log p_BoN / d logits, by differences; equal rewards and the best and worst classes included.
    x, r, step = rng.normal(size=4), np.array([1.0, 1.0, 2.0, 0.0]), 1e-6
    value = lambda x: aj.best_of_n(jax.nn.log_softmax(x), r, 3)
    jacobian = jax.jacobian(value)(x)
    numeric = np.stack([(value(x + step * e) - value(x - step * e)) / (2 * step) for e in np.eye(4)], -1)
    np.testing.assert_allclose(jacobian, numeric, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 300, 1000])
def test_single_precision(size):
    rng = np.random.default_rng(size)
    for n in (2, 64, 1000, 4096):
        for spread in (1, 5, 15):
            single = log_softmax(rng.normal(size=size) * spread).astype(np.float32)
            reward = rng.normal(size=size).astype(np.float32)
            reward = np.round(3 * reward) if spread == 5 else reward
            found = np.asarray(aj.best_of_n(single, reward, n))
            with jax.enable_x64(True):
                exact = np.asarray(aj.best_of_n(log_softmax(single.astype(np.float64)), reward.astype(np.float64), n))
            assert found.dtype == np.float32 and exact.dtype == np.float64
            assert np.abs(np.exp(found) - np.exp(exact)).max() < 2e-5
            assert (np.abs(found - exact) <= 2e-5 * np.maximum(1, np.abs(exact))).all()
            with jax.enable_x64(True):
                assert abs(np.exp(exact).sum() - 1) < 1e-11
    rare = np.float32([np.log(1e-30), 0.0])
    np.testing.assert_allclose(aj.best_of_n(rare, [1.0, 0.0], 4), [np.log(4e-30), 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aj.best_of_n(rare, [0.0, 1.0], 4096), [4096 * np.log(1e-30), 0], rtol=1e-5, atol=1e-6)


@x64
def test_the_reward_whose_optimum_is_best_of_n():
    rng = np.random.default_rng(1)
    p, reward = rng.dirichlet(np.ones(6)), rng.integers(0, 4, 6).astype(float)
    for n in (2, 3.5, 40):
        found = aj.bond_reward(np.log(p), reward, n)
        # Gibbs at 1 / (n - 1), and Z = 1: the optimal value is 0.
        target = np.log(p) + (n - 1) * np.asarray(found)
        np.testing.assert_allclose(target, aj.best_of_n(np.log(p), reward, n), atol=1e-12)
        np.testing.assert_allclose(aj.optimal_value(np.log(p), found, 1 / (n - 1)), 0, atol=1e-12)
        below = np.log([p[reward <= r].sum() for r in reward])
        assert (found >= below - 1e-13).all() and (found <= below + np.log(n) / (n - 1) + 1e-13).all()
    quantiles = best_of.quantiles(np.log(p), reward)
    np.testing.assert_allclose(np.exp(quantiles.at_most), [p[reward <= r].sum() for r in reward], atol=1e-14)
    np.testing.assert_allclose(np.exp(quantiles.below), [p[reward < r].sum() for r in reward], atol=1e-14)


@x64
def test_closed_forms_without_atoms():
    # A uniform reference over many responses is close to none tying.
    size = 20_000
    ref, reward = np.full(size, -np.log(size)), np.arange(size, dtype=float)
    for n in (2, 4, 8):
        best = np.asarray(aj.best_of_n(ref, reward, n))
        p = np.exp(best)
        np.testing.assert_allclose((p * (best - ref)).sum(), best_of.best_of_n_kl(n), atol=2e-3)
        assert (p * (best - ref)).sum() <= best_of.best_of_n_kl(n)
        np.testing.assert_allclose((np.exp(ref) * (ref - best)).sum(), best_of.best_of_n_forward_kl(n), rtol=5e-3)
        wins = (p * (np.arange(size) + 0.5) / size).sum()
        np.testing.assert_allclose(wins, best_of.best_of_n_win_rate(n), atol=1e-3)
        # The anchor p_<=^a averaged with its own best-of-n on logits has exponents that follow the closed form.
        anchor = ref
        for _ in range(5):
            anchor = log_softmax(0.9 * anchor + 0.1 * np.asarray(aj.best_of_n(anchor, reward, n)))
        effective = 1 / (1 - (np.exp(anchor) * (np.arange(size) + 1) / size).sum()) - 1
        np.testing.assert_allclose(effective, best_of.effective_n(5, 0.9, n), rtol=2e-3)


@x64
def test_quantile_estimates():
    reward, sampled = np.array([[0.0, 1.0, 5.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])
    expected = np.log([[1 / 8, 1 / 4, 1.0]])
    np.testing.assert_allclose(best_of.quantile_estimate(reward, sampled), expected)
    np.testing.assert_allclose(
        best_of.quantile_estimate(reward, sampled, rule="add_one", strict=True), np.log([[1 / 5, 1 / 5, 1.0]])
    )
    # Biases of the logarithm at k = 16, by the binomial sum: -.153, -.035, -.004 and +.310, +.030, +.003.
    from scipy.stats import binom

    for p, floor, add in ((0.1, -0.153, 0.310), (0.5, -0.035, 0.030), (0.9, -0.004, 0.003)):
        for rule, bias in (("floor", floor), ("add_one", add)):
            counts = np.arange(17)
            values = [
                best_of.quantile_estimate([0.0], np.r_[np.full(c, -1.0), np.full(16 - c, 1.0)], rule=rule)[0]
                for c in counts
            ]
            found = (binom.pmf(counts, 16, p) * np.asarray(values)).sum() - np.log(p)
            np.testing.assert_allclose(found, bias, atol=6e-4)
    # The learned quantile's minimiser is p_<=.
    p, rewards = np.array([0.2, 0.5, 0.3]), np.array([0.0, 1.0, 2.0])
    truth = np.cumsum(p)[:2]
    slope = jax.grad(lambda x: sum(
        p[j] * best_of.quantile_cross_entropy(x, rewards[:2], rewards[j]).sum() for j in range(3)
    ))(np.log(truth / (1 - truth)))  # fmt: skip
    np.testing.assert_allclose(slope, 0, atol=1e-15)


def test_what_is_not_allowed():
    logp = np.log([0.5, 0.5])
    for n, match in ((0.5, "n must be at least 1"), (np.nan, "n"), ("4", "n must be a number"), (True, "n must be")):
        with pytest.raises(ValueError, match=match):
            aj.best_of_n(logp, [0.0, 1.0], n)
    with pytest.raises(ValueError, match="n must be more than 1"):
        aj.bond_reward(logp, [0.0, 1.0], 1)
    for n in ("3", None, 0.5):
        with pytest.raises(ValueError, match="n must be"):
            aj.bond_reward(logp, [0.0, 1.0], n)
    for bad in (np.zeros((3, 0)), [np.inf, 1.0]):
        with pytest.raises(ValueError, match="advantages"):
            aj.multiobjective.noon(bad)
    for reward in ([np.nan, 0.0], [np.inf, 0.0]):
        with pytest.raises(ValueError, match="reward"):
            aj.best_of_n(logp, reward, 2)
    with pytest.raises(ValueError, match="ties"):
        aj.best_of_n(logp, [0.0, 1.0], 2, ties="random")
    with pytest.raises(ValueError, match="logp"):
        aj.best_of_n([0.0, 0.0], [0.0, 1.0], 2)
    with pytest.raises(ValueError, match="n must be at least 1"):
        aj.population_loss("bond", aj.Problem(ref_logp=logp, reward=[0.0, 1.0]), logp, n=0.5)
    with pytest.raises(ValueError, match="sampled_reward"):
        best_of.quantile_estimate([0.0], np.zeros(0))
    np.testing.assert_allclose(aj.best_of_n(logp, [1.0, 1.0], 7), logp, atol=1e-7)


# --- the objectives


def problem(seed=0, anchor=True, size=4):
    rng = np.random.default_rng(seed)
    draw = lambda: np.log(rng.dirichlet(np.ones(size), 2))
    reward = rng.normal(size=(2, size))
    reward[0, 1] = reward[0, 0]
    return aj.Problem(ref_logp=draw(), reward=reward, anchor_logp=draw() if anchor else None), draw()


def descend(value, logp):
    """Gradient over logits of a NumPy-free definition, by autodiff of probabilities."""
    return np.asarray(jax.grad(lambda x: value(jax.nn.softmax(x)).sum())(jnp.asarray(logp)))


def kl(p, q):
    return (p * (jnp.log(p) - jnp.log(q))).sum(-1)


@pytest.mark.slow
@x64
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("anchor", [False, True])
def test_bond_descends_the_mixture_of_both_divergences(weight, anchor):
    given, logp = problem(anchor=anchor)
    base = np.exp(np.asarray(given.anchor_logp if anchor else given.ref_logp))
    target = np.stack([enumerated(p, np.asarray(r), 3) for p, r in zip(base, given.reward, strict=True)])
    expected = descend(lambda p: (1 - weight) * kl(target, p) + weight * kl(p, target), logp)
    found = aj.population_grad("bond", given, logp, n=3, weight=weight)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    if weight == 1:
        np.testing.assert_allclose(aj.population_grad("vbon", given, logp, n=3), expected, atol=1e-12)
    np.testing.assert_allclose(aj.methods["bond"].optimum(given, n=3, weight=weight), np.log(target), atol=1e-12)
    # Without B: the backward target is the normalised anchor p_<=^{n - 1}.
    below = np.stack([[p[r <= one].sum() for one in r] for p, r in zip(base, np.asarray(given.reward), strict=True)])
    crude = base * below**2
    crude = crude / crude.sum(-1, keepdims=True)
    expected = descend(lambda p: (1 - weight) * kl(target, p) + weight * kl(p, crude), logp)
    found = aj.population_grad("bond", given, logp, n=3, weight=weight, include_b=False)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    optimum = aj.methods["bond"].optimum(given, n=3, weight=weight, include_b=False)
    slope = descend(lambda p: (1 - weight) * kl(target, p) + weight * kl(p, crude), optimum)
    np.testing.assert_allclose(slope, 0, atol=1e-12)


@x64
@pytest.mark.parametrize(("weight", "gamma"), [(0.5, 0.0), (0.3, 0.7), (0.0, 0.0), (1.0, 0.2)])
def test_jbond_descends_its_objective_with_the_right_sign(weight, gamma):
    given, logp = problem(1)
    base, reward = np.exp(np.asarray(given.anchor_logp)), np.asarray(given.reward)
    target = np.stack([enumerated(p, r, 2) for p, r in zip(base, reward, strict=True)])
    above = np.stack([[p[r > one].sum() for one in r] for p, r in zip(base, reward, strict=True)])
    crude = -np.log(16) * above**2

    def objective(p):
        pulled = weight * (kl(p, base) - (p * crude).sum(-1)) + gamma * kl(p, base)
        return (1 - weight) * kl(target, p) + pulled

    found = aj.population_grad("jbond", given, logp, weight=weight, gamma=gamma)
    np.testing.assert_allclose(found, descend(objective, logp), atol=1e-12)
    optimum = aj.methods["jbond"].optimum(given, weight=weight, gamma=gamma)
    np.testing.assert_allclose(descend(objective, optimum), 0, atol=1e-11)


@x64
def test_mixed_kl_minimiser_at_its_ends_and_between():
    rng = np.random.default_rng(0)
    b, q = rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(5), 3)
    b[0, 2] = 0
    b[0] /= b[0].sum()
    with np.errstate(divide="ignore"):
        log_b = np.log(b)
    for forward, backward in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1e-4), (1e-4, 1.0), (3.0, 7.0)):
        found = np.asarray(mixed_kl_minimiser(log_b, np.log(q), forward, backward))
        np.testing.assert_allclose(np.exp(found).sum(-1), 1, atol=1e-12)
        with np.errstate(divide="ignore", invalid="ignore"):
            field = np.where(np.exp(found) > 0, -forward * b / np.exp(found) + backward * (found - np.log(q)), np.nan)
        spread = np.nanmax(field, -1) - np.nanmin(field, -1)  # stationarity: constant where there is mass
        np.testing.assert_allclose(spread, 0, atol=1e-6)
    np.testing.assert_allclose(np.exp(mixed_kl_minimiser(log_b, np.log(q), 1.0, 0.0)), b, atol=1e-14)


@x64
def test_bonbon_on_a_group():
    # N = 4: c = 3 (1 + 1/2 + 1/3) = 5.5. Best is response 1, worst 2 and 3 tie: the square is shared.
    logp, ref = np.log([0.1, 0.4, 0.3, 0.2]), np.log([0.25, 0.25, 0.4, 0.1])
    h = logp - ref
    margins = [(h[1] - h[j] - 5.5) ** 2 for j in (2, 3)]
    expected = -0.1 * logp[1] + 0.9 * np.mean(margins)
    batch = aj.Samples(logp=logp, ref_logp=ref, reward=[1.0, 3.0, 0.0, 0.0])
    np.testing.assert_allclose(aj.methods["bonbon"](batch, sft_weight=0.1), expected, rtol=1e-12)
    # The constant is the mean over N uniform quantiles of (N - 1) (log U_max - log U_min).
    draws = np.sort(np.random.default_rng(0).uniform(size=(400_000, 4)), -1)
    assert abs(3 * np.log(draws[:, -1] / draws[:, 0]).mean() - 5.5) < 0.05


@x64
def test_qrpo_has_zero_loss_at_its_optimum_without_atoms():
    size, beta = 4000, 0.3
    quantile = (np.arange(size) + 0.5) / size
    ref = np.full(size, -np.log(size))
    log_z = np.log(beta * np.expm1(1 / beta))
    logp = ref + quantile / beta - log_z
    batch = aj.Samples(logp=logp, ref_logp=ref, reward=quantile)
    assert float(aj.methods["qrpo"](batch, beta=beta)) < 1e-20
    np.testing.assert_allclose(np.exp(logp).sum(), 1, atol=1e-6)


@x64
def test_moving_anchors_are_carried_by_fit():
    given, _ = problem(2, anchor=False)
    reward = np.asarray(given.reward)
    ref = np.asarray(given.ref_logp)

    def by_hand(steps, ema, every):
        logits, anchor = ref.copy(), ref.copy()
        for t in range(steps):
            target = np.stack(
                [enumerated(np.exp(a), r, 2) for a, r in zip(log_softmax(anchor, -1), reward, strict=True)]
            )
            p = np.exp(log_softmax(logits, -1))
            backward = p * (np.log(p / target) - kl(p, target)[:, None])
            logits = logits - 0.2 * (0.5 * (p - target) + 0.5 * np.asarray(backward))
            if (t + 1) % every == 0:
                anchor = ema * anchor + (1 - ema) * logits
        return log_softmax(logits, -1), log_softmax(anchor, -1)

    for ema, every in ((0.9, 1), (0.0, 3)):
        found = aj.fit("bond_moving", given, num_steps=7, learning_rate=0.2, n=2, ema=ema, anchor_steps=every)
        logp, anchor = by_hand(7, ema, every)
        np.testing.assert_allclose(found.logp, logp, atol=1e-12)
        np.testing.assert_allclose(found.anchor_logp, anchor, atol=1e-12)
    # The anchor starts at the reference wherever the policy starts.
    start = np.log(np.full((2, 4), 0.25))
    kept = aj.fit("bond_moving", given, num_steps=3, learning_rate=0.2, n=2, ema=1.0, init_logp=start)
    np.testing.assert_allclose(kept.anchor_logp, ref, atol=1e-12)


@x64
@pytest.mark.parametrize("name", ["bond", "jbond", "vbon"])
def test_a_bandit_a_token_tree_and_a_log_linear_policy(name):
    rng = np.random.default_rng(3)
    tree = envs.TokenTree(vocab_size=2, length=2)
    given = tree.problem(tree.zeros(), reward=rng.normal(size=4))
    rate: dict[str, Any] = {"learning_rate": 0.5, "num_steps": 800}
    fixed = {"ema": 1.0} if name == "jbond" else {}
    goal = np.exp(aj.methods[name].optimum(given))
    features = envs.LogLinearPolicy(features=np.eye(4), base_logp=given.ref_logp)
    bandit = envs.Bandit(reward=given.reward, ref_logp=given.ref_logp).problem()
    fits = {
        "table": aj.fit(name, given, **rate, **fixed),
        "bandit": aj.fit(name, bandit, **rate, **fixed),
        "tree": aj.fit(name, given, policy=tree.policy, init_params=tree.zeros(), **rate, **fixed),
        "log-linear": aj.fit(name, given, policy=features.logp, init_params=features.zeros(), **rate, **fixed),
    }
    for kind, found in fits.items():
        np.testing.assert_allclose(np.exp(found.logp), goal, atol=1e-3, err_msg=kind)
