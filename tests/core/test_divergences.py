"""Divergences against scipy and NumPy, with zeros, near-equal laws and gradients; KL estimators by enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

import alignjax as aj
from alignjax import kl_estimators
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")


def alpha_f(u, a):
    return (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1))  # arXiv:2309.16240, Table 1


# name -> (the library's, the definition on probabilities by scipy or NumPy)
DIVERGENCES = {
    "kl": (aj.kl, lambda p, q: rel_entr(p, q).sum(-1)),
    "reverse_kl": (aj.reverse_kl, lambda p, q: rel_entr(q, p).sum(-1)),
    "jeffreys": (
        functools.partial(aj.jeffreys, weight=0.3),
        lambda p, q: 0.3 * rel_entr(p, q).sum(-1) + 0.7 * rel_entr(q, p).sum(-1),
    ),
    "jensen_shannon": (
        aj.jensen_shannon,
        lambda p, q: 0.5 * (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum(-1),
    ),
    "chi_square": (aj.chi_square, lambda p, q: ((p - q) ** 2 / q).sum(-1)),
    "total_variation": (aj.total_variation, lambda p, q: 0.5 * np.abs(p - q).sum(-1)),
    "renyi": (functools.partial(aj.renyi, alpha=0.7), lambda p, q: np.log((p**0.7 * q**0.3).sum(-1)) / -0.3),
    "renyi_2": (functools.partial(aj.renyi, alpha=2.0), lambda p, q: np.log((p**2 / q).sum(-1))),
    "alpha": (functools.partial(aj.alpha_divergence, alpha=0.4), lambda p, q: (q * alpha_f(p / q, 0.4)).sum(-1)),
}
JITTED = {name: jax.jit(function) for name, (function, _) in DIVERGENCES.items()}


@pytest.mark.parametrize("name", [n for n in DIVERGENCES if n != "chi_square"])
def test_values_and_gradients(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 4))
    divergence, oracle = DIVERGENCES[name]

    @jax.jit
    def value_and_slope(a, b):
        total = lambda a, b: divergence(jax.nn.log_softmax(a), jax.nn.log_softmax(b)).sum()
        return divergence(jax.nn.log_softmax(a), jax.nn.log_softmax(b)), jax.grad(total, (0, 1))(a, b)

    value, (by_first, by_second) = value_and_slope(x, y)
    assert value.shape == (2, 3)  # leading axes broadcast
    np.testing.assert_allclose(value, oracle(softmax(x, -1), softmax(y, -1)), rtol=1e-11)
    along, across = rng.normal(size=x.shape), rng.normal(size=y.shape)
    slope = lambda e: oracle(softmax(x + e * along, -1), softmax(y + e * across, -1)).sum()
    expected = (slope(1e-6) - slope(-1e-6)) / 2e-6
    assert (by_first * along).sum() + (by_second * across).sum() == pytest.approx(expected, rel=1e-6)


@given(st.sampled_from([1, 4]), st.sampled_from([(), (3,)]), st.integers(0, 1000), st.sampled_from([0.1, 3.0, 30.0]))
def test_kl_on_many_laws(size, batch, seed, spread):
    rng = np.random.default_rng(seed)
    p, q = oracles.policies(rng, *batch, size, spread=spread), oracles.policies(rng, *batch, size, spread=spread)
    expected = (np.exp(p) * (p - q)).sum(-1)
    np.testing.assert_allclose(JITTED["kl"](p, q), expected, rtol=1e-9, atol=1e-12)
    assert (np.asarray(JITTED["kl"](p, q)) >= 0).all()


def logs(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


# p, q, and by hand: KL(p||q), KL(q||p), JS, chi^2, TV, Renyi_.7, Renyi_2, alpha_.4
L2, L43 = np.log(2), np.log(4 / 3)
ZEROS = [
    # p without a response of q: KL(q || p) is infinite.
    (
        logs(0.5, 0.5, 0), logs(0.25, 0.25, 0.5),
        {"kl": L2, "reverse_kl": np.inf, "total_variation": 0.5, "chi_square": 1.0, "renyi_2": L2,
         "jensen_shannon": 0.5 * L43 + 0.5 * (0.5 * np.log(2 / 3) + 0.5 * L2),
         "renyi": L2, "alpha": 0.5 * alpha_f(2.0, 0.4) + 0.5 * alpha_f(0.0, 0.4)},
    ),
    # and the other way round: a response only p has costs infinity, or its slope at infinity, 1/alpha.
    (
        logs(0.25, 0.25, 0.5), logs(0.5, 0.5, 0),
        {"kl": np.inf, "reverse_kl": L2, "total_variation": 0.5, "chi_square": np.inf, "renyi_2": np.inf,
         "renyi": np.log(0.5**0.7) / -0.3, "alpha": alpha_f(0.5, 0.4) + 0.5 / 0.4},
    ),
    # disjoint: the ends of the bounded ones.
    (
        logs(1, 0, 0), logs(0, 0.5, 0.5),
        {"kl": np.inf, "reverse_kl": np.inf, "jensen_shannon": L2, "total_variation": 1.0, "chi_square": np.inf,
         "renyi": np.inf, "renyi_2": np.inf, "alpha": alpha_f(0.0, 0.4) + 1 / 0.4},
    ),
    # the same response missing in both counts nothing.
    (
        logs(0.5, 0.5, 0), logs(0.5, 0.5, 0),
        dict.fromkeys(("kl", "reverse_kl", "jeffreys", "jensen_shannon", "chi_square", "total_variation", "renyi",
                       "renyi_2", "alpha"), 0.0),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ZEROS)))
def test_zeros(case):
    p, q, expected = ZEROS[case]
    for name, value in expected.items():
        np.testing.assert_allclose(JITTED[name](p, q), value, rtol=1e-12, atol=1e-15, err_msg=name)


def test_an_end_of_weight_zero_is_left_out_of_jeffreys():
    p, q = logs(0.5, 0.5, 0), logs(0.25, 0.25, 0.5)
    assert aj.jeffreys(p, q, 1.0) == pytest.approx(L2)  # KL(p || q) alone; the other end is infinite
    assert aj.jeffreys(q, p, 0.0) == pytest.approx(L2)
    assert aj.jeffreys(p, q) == np.inf
    # The order of the ends: weight KL(p || q) + (1 - weight) KL(q || p).
    a, b = logs(0.1, 0.9), logs(0.5, 0.5)
    ends = rel_entr([0.1, 0.9], [0.5, 0.5]).sum(), rel_entr([0.5, 0.5], [0.1, 0.9]).sum()
    assert aj.jeffreys(a, b, 0.9) == pytest.approx(0.9 * ends[0] + 0.1 * ends[1])


def test_gradients_at_zeros_are_finite():
    logits = np.array([0.3, -np.inf, -0.2])
    q = log_softmax(np.array([0.1, -np.inf, 0.4]))

    @jax.jit
    def gradients(x):
        return [
            jax.grad(lambda z, f=f: f(jax.nn.log_softmax(z), q))(x) for f in (aj.kl, aj.reverse_kl, aj.jensen_shannon)
        ]

    small = np.array([0.3, -0.2])
    p, r = softmax(small), log_softmax(small) - q[[0, 2]]
    kl_gradient = p * (r - p @ r)  # by hand, on the two responses that have mass
    for gradient in gradients(logits):
        assert np.isfinite(gradient).all() and gradient[1] == 0
    np.testing.assert_allclose(gradients(logits)[0][np.array([0, 2])], kl_gradient, atol=1e-13)
    np.testing.assert_allclose(gradients(logits)[1][np.array([0, 2])], p - np.exp(q[[0, 2]]), atol=1e-13)


def test_near_equal_laws_keep_their_digits():
    # Laws a relative 1e-12 apart: KL = sum p e^2 / 2 to first order, 1e-24, where the plain sum has only rounding.
    p = log_softmax(np.array([0.2, -0.4, 1.0]))
    for size in (1e-6, 1e-12):
        e = size * np.array([1.0, -2.0, 0.5])
        e -= np.exp(p) @ e
        expected = 0.5 * np.exp(p) @ e**2
        # log p + e itself is rounded to 2e-16, a part in 1e4 of the difference.
        moved = p + e
        np.testing.assert_allclose(JITTED["kl"](moved, p), expected, rtol=2e-3)
        np.testing.assert_allclose(JITTED["kl"](p, moved), expected, rtol=2e-3)
        np.testing.assert_allclose(JITTED["jeffreys"](p, moved), expected, rtol=2e-3)


def test_renyi_at_and_around_one_is_kl():
    p, q = log_softmax([0.2, -0.4, 1.0]), log_softmax([0.0, 0.5, 0.1])
    expected = (np.exp(p) * (p - q)).sum()
    for alpha in (1.0, 1 + 1e-7, 1 - 1e-5, 1 + 1e-5):
        assert aj.renyi(p, q, alpha) == pytest.approx(expected, rel=1e-4)


def test_an_f_divergence_of_ones_own():
    # f(u) = (sqrt u - 1)^2: squared Hellinger, sum (sqrt p - sqrt q)^2.
    p, q = log_softmax([0.2, -0.4, 1.0]), log_softmax([0.0, 0.5, 0.1])
    got = aj.f_divergence(p, q, lambda u: (jnp.sqrt(u) - 1) ** 2, slope_at_infinity=1.0)
    assert got == pytest.approx(((np.exp(p / 2) - np.exp(q / 2)) ** 2).sum())


def test_extreme_log_probabilities():
    p, q = np.array([0.0, -1e4]), np.array([-1e4, 0.0])
    for name, expected in {"kl": 1e4, "reverse_kl": 1e4, "jensen_shannon": L2, "total_variation": 1.0}.items():
        assert JITTED[name](p, q) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision(dtype):
    p, q = jnp.asarray([[0.2, -0.4, 1.0]], dtype), jnp.asarray([0.0, 0.5, 0.1], dtype)
    p, q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    value = jax.jit(aj.kl)(p, q)
    assert value.dtype == jnp.float32
    exact = np.exp(np.asarray(p, float)) * (np.asarray(p, float) - np.asarray(q, float))
    np.testing.assert_allclose(value, exact.sum(-1), rtol=0.05 if dtype == jnp.bfloat16 else 1e-4)


def test_expected_gradients_of_the_kl_estimators():
    # Sums over all responses of pi(y) times autodiff of the loss; the targets by hand: grad KL(pi || ref) =
    # pi (h - E h), grad KL(ref || pi) = pi - ref.
    logits = np.array([0.5, -1.0, 0.2, 0.0])
    ref = log_softmax([0.1, 0.4, -0.6, 0.0])
    p, h = softmax(logits), log_softmax(logits) - ref

    @jax.jit
    def means(x):
        out = {}
        for name, row in kl_estimators.ESTIMATORS.items():
            loss = lambda z, row=row: (p * row.loss(jax.nn.log_softmax(z), ref)).sum()
            out[name] = jax.value_and_grad(loss)(x)
        return out

    reverse, forward = p * (h - p @ h), p - np.exp(ref)
    targets = {"zero": np.zeros(4), "reverse": reverse, "forward": forward}
    exact = {"k1": p @ h, "k2": p @ h**2 / 2, "k3": p @ h, "k3_weighted": p @ h, "k1_in_reward": p @ (h * np.log(p))}
    expected = {"k1": "zero", "k2": "reverse", "k3": "forward", "k1_in_reward": "reverse", "k3_weighted": "reverse"}
    for name, (value, gradient) in means(logits).items():
        assert kl_estimators.ESTIMATORS[name].gradient == expected[name]
        assert value == pytest.approx(exact[name], abs=1e-12), name
        np.testing.assert_allclose(gradient, targets[expected[name]], atol=1e-13, err_msg=name)


def test_reward_to_go():
    # Sums from the right, masked entries counting nothing, by hand.
    got = kl_estimators.reward_to_go([[1.0, 2.0, 4.0], [1.0, np.nan, 4.0]], [[1, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(got, [[7, 6, 4], [5, 0, 4]])
    np.testing.assert_array_equal(kl_estimators.reward_to_go([1.0, 2.0, 4.0]), [7, 6, 4])
