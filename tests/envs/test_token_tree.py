"""The token tree is the table of its leaves; token losses have the expected gradient of sequence losses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

import alignjax as aj
from alignjax.envs import TokenTree
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

V, T = 2, 2
TREE = TokenTree(vocab_size=V, length=T)


def logits_for(tree, seed, batch=()):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(*batch, tree.vocab_size**t, tree.vocab_size)) for t in range(tree.length))


def by_walking(tree, logits):
    """Log-probs of the leaves and tokens by walking each sequence from the root, in plain Python."""
    leaves = []
    for sequence in itertools.product(range(tree.vocab_size), repeat=tree.length):
        node, ended, tokens = 0, False, []
        for level, token in zip(logits, sequence, strict=True):
            if ended:
                tokens.append(0.0 if token == tree.eos else -np.inf)
            else:
                tokens.append(log_softmax(level[node])[token])
            ended = ended or token == tree.eos
            node = node * tree.vocab_size + token
        leaves.append(tokens)
    tokens = np.array(leaves)
    return tokens.sum(-1), tokens


@pytest.mark.parametrize("eos", [None, 0, 2])
def test_leaves_and_tokens_by_walking(eos):
    tree = TokenTree(vocab_size=3, length=3, eos=eos)
    logits = logits_for(tree, 0)
    logp, tokens = by_walking(tree, logits)
    np.testing.assert_allclose(tree.leaf_logp(logits), logp, atol=1e-13)
    np.testing.assert_allclose(np.exp(tree.leaf_logp(logits)).sum(), 1, atol=1e-12)
    np.testing.assert_array_equal(tree.tokens, list(itertools.product(range(3), repeat=3)))
    policy = tree.policy(logits)
    np.testing.assert_allclose(policy["logp"], logp, atol=1e-13)
    np.testing.assert_allclose(policy["token_logp"], np.where(tree.mask, tokens, 0.0), atol=1e-13)
    np.testing.assert_array_equal(tree.canonical, np.isfinite(logp))
    # A token counts if no eos stands before it.
    mask = [[eos not in sequence[:t] for t in range(3)] for sequence in itertools.product(range(3), repeat=3)]
    np.testing.assert_array_equal(tree.mask, mask)


@pytest.mark.parametrize("eos", [None, 1])
def test_conditionals_invert_the_leaves(eos):
    tree = TokenTree(vocab_size=3, length=2, eos=eos)
    logits = logits_for(tree, 1, (2,))
    found = tree.conditionals(tree.leaf_logp(logits))
    for depth, (level, expected) in enumerate(zip(found, logits, strict=True)):
        reached = np.array([eos is None or depth == 0 or n != eos for n in range(3**depth)])
        np.testing.assert_allclose(level[:, reached], log_softmax(expected, -1)[:, reached], atol=1e-12)
    np.testing.assert_allclose(tree.leaf_logp(found), tree.leaf_logp(logits), atol=1e-12)


def test_conditionals_of_a_dead_branch_are_uniform():
    leaves = np.array([-np.inf, -np.inf, np.log(0.25), np.log(0.75)])
    root, second = TREE.conditionals(leaves)
    np.testing.assert_allclose(np.exp(root), [[0, 1]], atol=1e-15)
    np.testing.assert_allclose(np.exp(second), [[0.5, 0.5], [0.25, 0.75]], atol=1e-15)
    np.testing.assert_allclose(TREE.leaf_logp((root, second)), leaves, atol=1e-14)
    gradient = jax.jit(jax.grad(lambda x: TREE.conditionals(x)[1][1, 0]))(leaves)
    assert np.isfinite(gradient).all()


@functools.cache
def round_trip(vocab_size, length):
    tree = TokenTree(vocab_size=vocab_size, length=length)
    return jax.jit(lambda leaves: tree.leaf_logp(tree.conditionals(leaves)))


@given(st.sampled_from([(2, 1), (3, 2)]), st.sampled_from([(), (2,)]), st.integers(0, 100))
def test_round_trip_on_many_trees(shape, batch, seed):
    leaves = oracles.policies(np.random.default_rng(seed), *batch, shape[0] ** shape[1], spread=3)
    np.testing.assert_allclose(round_trip(*shape)(leaves), leaves, atol=1e-11)


def instance(tree=TREE):
    rng = np.random.default_rng(2)
    ref, now = logits_for(tree, 3), logits_for(tree, 4)
    preference = oracles.preferences(rng, tree.num_leaves)
    reward = rng.normal(size=tree.num_leaves)
    others = np.stack([tree.leaf_logp(logits_for(tree, seed)) for seed in (5, 6)])
    problem = tree.problem(ref, preference=preference, reward=reward, opponent_logp=others)
    return problem, now


def chain(tree, logits, leaf_gradient):
    """d log pi(leaf) / d logits by hand: at each node on the way, one-hot minus the conditional."""
    out = [np.zeros_like(level) for level in logits]
    for weight, sequence in zip(
        leaf_gradient, itertools.product(range(tree.vocab_size), repeat=tree.length), strict=True
    ):
        node = 0
        for depth, token in enumerate(sequence):
            out[depth][node] += weight * (np.eye(tree.vocab_size)[token] - np.exp(log_softmax(logits[depth][node])))
            node = node * tree.vocab_size + token
    return out


FAST = ("ipo", "rloo", "nash_md_pg")
SEQUENCE = [n for n, m in aj.methods.items() if not any("token" in f for f in m.reads)]
assert set(FAST) <= set(SEQUENCE)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SEQUENCE])
def test_a_sequence_method_on_the_tree_is_the_method_on_its_leaves(name):
    # Oracle: the table's gradient in log pi(leaf), through the chain rule by hand.
    problem, logits = instance()
    leaf = by_walking(TREE, logits)[0]
    # The loss depends on normalised leaves, so its gradient in logits = log pi is its gradient in log pi, centred.
    table = np.asarray(aj.population_grad(name, problem, leaf))
    tree_loss = lambda x: aj.population_loss(name, problem, TREE.leaf_logp(x))
    got = jax.jit(jax.grad(tree_loss))(logits)
    for level, expected in zip(got, chain(TREE, logits, table), strict=True):
        np.testing.assert_allclose(level, expected, atol=1e-12)


def token_gradient(name, tree, problem, logits, **hyper):
    def loss(x):
        policy = tree.policy(x)
        return aj.population_loss(name, problem, policy["logp"], token_logp=policy["token_logp"], **hyper)

    return jax.jit(jax.grad(loss))(logits)


@pytest.mark.parametrize("eos", [None, pytest.param(1, marks=pytest.mark.slow)])
def test_the_token_form_has_the_expected_gradient_of_the_sequence_form(eos):
    # Policy gradient against the frozen mixture, -pi (P pi_m - beta h) centred, through the chain rule by hand.
    tree = TokenTree(vocab_size=2, length=2, eos=eos)
    problem, logits = instance(tree)
    got = token_gradient("nash_md_pg_token", tree, problem, logits, beta=0.3, mixture=0.25)
    leaf, ref = by_walking(tree, logits)[0], np.asarray(problem.ref_logp)
    alive = np.isfinite(leaf)
    mixed = np.where(alive, 0.75 * np.where(alive, leaf, 0) + 0.25 * np.where(alive, ref, 0), -np.inf)
    h = np.where(alive, leaf, 0) - np.where(alive, ref, 0)
    advantage = oracles.win_rates(np.asarray(problem.preference), log_softmax(mixed)) - 0.5 - 0.3 * h
    weights = -np.exp(leaf) * advantage
    expected = chain(tree, logits, np.where(alive, weights, 0.0))
    np.testing.assert_allclose(got[0], expected[0], atol=1e-12)
    reached = [n for n in range(2) if n != eos]
    np.testing.assert_allclose(np.asarray(got[1])[reached], expected[1][reached], atol=1e-12)


def test_without_the_reward_to_go_the_kl_gradient_is_biased():
    # The exact gradient of KL(pi || ref) is that of kl_tokens_to_go in expectation; kl_tokens_myopic misses the future.
    from alignjax import kl_estimators

    logits, ref = logits_for(TREE, 5), logits_for(TREE, 6)
    ref_tokens = TREE.token_logp(ref)

    @jax.jit
    def gradients(x):
        weight = jax.lax.stop_gradient(jnp.exp(TREE.leaf_logp(x)))
        mean = lambda f: jax.grad(lambda z: (weight * f(TREE.token_logp(z), ref_tokens)).sum())(x)[0]
        return mean(kl_estimators.kl_tokens_to_go), mean(kl_estimators.kl_tokens_myopic)

    to_go, myopic = map(np.asarray, gradients(logits))

    def kl(root):
        p, q = by_walking(TREE, (root, logits[1]))[0], by_walking(TREE, ref)[0]
        return (np.exp(p) * (p - q)).sum()

    step = 1e-6 * np.array([[1.0, 0.0]])
    slope = (kl(logits[0] + step) - kl(logits[0] - step)) / 2e-6
    np.testing.assert_allclose(to_go, [[slope, -slope]], atol=1e-9)
    assert np.abs(myopic - to_go).max() > 0.01


def test_fit_on_the_tree_finds_the_optimum_of_the_table():
    problem, _ = instance()
    fitted = aj.fit(
        "nash_md_pg_token", problem, num_steps=4000, learning_rate=1.0, policy=TREE.policy,
        init_params=TREE.zeros(), beta=1.0, mixture=0.0,
    )  # fmt: skip
    logp = np.asarray(fitted.logp)
    wins = oracles.win_rates(np.asarray(problem.preference), logp)
    np.testing.assert_allclose(logp, log_softmax(np.asarray(problem.ref_logp) + wins), atol=1e-6)


def test_random_and_zero_logits():
    zeros = TREE.zeros((3,))
    assert [z.shape for z in zeros] == [(3, 1, 2), (3, 2, 2)]
    np.testing.assert_allclose(TREE.leaf_logp(zeros), -np.log(4), atol=1e-15)
    drawn = TREE.random_logits(jax.random.key(0), 2.0)
    assert [z.shape for z in drawn] == [(1, 2), (2, 2)]
    assert not np.array_equal(drawn[0], TREE.random_logits(jax.random.key(1), 2.0)[0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: TokenTree(vocab_size=0, length=2), "vocab_size"),
        (lambda: TokenTree(vocab_size=2, length=0), "length"),
        (lambda: TokenTree(vocab_size=2, length=2, eos=2), "eos"),
        (lambda: TokenTree(vocab_size=10, length=7), "10000000"),
        (lambda: TREE.leaf_logp([np.zeros((1, 2))]), "one array per depth"),
        (lambda: TREE.leaf_logp([np.zeros((1, 2)), np.zeros((3, 2))]), r"logits\[1\]"),
        (lambda: TREE.leaf_logp([np.full((1, 2), np.nan), np.zeros((2, 2))]), r"logits\[0\]"),
        (lambda: TREE.conditionals(np.zeros(3)), "leaf_logp"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
