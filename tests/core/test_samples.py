"""`Samples` and `Problem` as containers: tokens, masks, checks on concrete arrays only, pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import alignjax as aj
from alignjax import games
from tests.core import oracles


def tokens(batch, k, t, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=(*batch, k, t)) < 0.6
    mask[..., 0] |= ~mask.any(-1)
    return -rng.exponential(size=(*batch, k, t)), -rng.exponential(size=(*batch, k, t)), mask


@given(
    st.sampled_from([(), (2,)]),
    st.sampled_from([1, 3]),
    st.sampled_from([4]),
    st.integers(0, 100),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.sampled_from([bool, np.int32, np.float32]),
)
def test_from_tokens_sums_over_the_mask(batch, k, t, seed, junk, kind):
    logp, ref, mask = tokens(batch, k, t, seed)
    dirty = np.where(mask, logp, junk), np.where(mask, ref, junk)
    samples = aj.Samples.from_tokens(token_logp=dirty[0], ref_token_logp=dirty[1], mask=mask.astype(kind))
    np.testing.assert_allclose(samples.logp, np.where(mask, logp, 0).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(samples.ref_logp, np.where(mask, ref, 0).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(samples.token_logp, np.where(mask, logp, 0), rtol=1e-6)
    np.testing.assert_array_equal(samples.mask, mask)
    assert samples.num_responses == k and samples.behaviour_logp is None


def test_from_tokens_takes_lists_and_needs_no_mask():
    samples = aj.Samples.from_tokens([[-1.0, -2.0], [-0.5, -0.25]], reward=[1.0, 0.0])
    np.testing.assert_allclose(samples.logp, [-3.0, -0.75])
    np.testing.assert_allclose(samples.reward, [1.0, 0.0])
    assert samples.mask is None and samples.ref_logp is None
    every = aj.Samples.from_tokens(
        *[np.full((2, 3), -1.0)] * 2, behaviour_token_logp=np.full((2, 3), -2.0),
        anchor_token_logp=np.full((2, 3), -3.0), opponent_token_logp=np.full((4, 2, 3), -4.0),
    )  # fmt: skip
    np.testing.assert_allclose(every.behaviour_logp, [-6, -6])
    np.testing.assert_allclose(every.anchor_logp, [-9, -9])
    np.testing.assert_allclose(every.opponent_logp, np.full((4, 2), -12))


def test_token_samples_give_the_loss_of_their_sums():
    logp, ref, mask = tokens((3,), 2, 4)
    by_tokens = aj.Samples.from_tokens(token_logp=logp, ref_token_logp=ref, mask=mask)
    sums = aj.Samples(logp=(logp * mask).sum(-1), ref_logp=(ref * mask).sum(-1))
    np.testing.assert_allclose(aj.methods["dpo"](by_tokens), aj.methods["dpo"](sums), rtol=1e-5)


def test_worked_losses():
    # logp = ref_logp: DPO log 2, IPO 1 / (4 beta^2) = 25, hinge 1.
    equal = aj.Samples(logp=[-1.0, -2.0], ref_logp=[-1.0, -2.0])
    assert aj.methods["dpo"](equal) == pytest.approx(np.log(2), rel=1e-6)
    assert aj.methods["ipo"](equal, beta=0.1) == pytest.approx(25, rel=1e-6)
    assert aj.methods["hinge"](equal) == pytest.approx(1)
    # h = (1, -1), beta = .5: -log sigmoid(1) = 0.3132617 if response 0 is chosen, 1.3132617 if response 1 is.
    apart = {"logp": [-1.0, -3.0], "ref_logp": [-2.0, -2.0]}
    assert aj.methods["dpo"](aj.Samples(**apart), beta=0.5) == pytest.approx(0.3132617, rel=1e-5)
    other = aj.Samples(**apart, preference=[[0.5, 0.0], [1.0, 0.5]])
    assert aj.methods["dpo"](other, beta=0.5) == pytest.approx(1.3132617, rel=1e-5)


def test_a_mask_over_responses_is_the_response_mask():
    samples = aj.Samples(logp=np.zeros((2, 3)), mask=np.array([[1, 1, 0], [1, 0, 0]]))
    assert samples.mask is None
    np.testing.assert_array_equal(samples.response_mask, [[1, 1, 0], [1, 0, 0]])


def test_gradients_flow_through_from_tokens():
    logp, ref, mask = tokens((3,), 2, 4)

    @jax.jit
    @jax.grad
    def gradient(x):
        return aj.methods["ipo"](aj.Samples.from_tokens(token_logp=x, ref_token_logp=ref, mask=mask)).sum()

    # d/d token = 2 (h_0 - h_1 - 5) on each token of response 0 that counts, the opposite on response 1.
    h = ((logp - ref) * mask).sum(-1)
    slope = 2 * (h[:, 0] - h[:, 1] - 5)
    expected = np.stack([slope, -slope], -1)[..., None] * mask
    np.testing.assert_allclose(gradient(logp), expected, rtol=1e-4)


REBUILT = {
    "Problem": lambda: aj.Problem(
        ref_logp=np.log([0.5, 0.5]), reward=np.ones(2), sampler_logp=(np.log([0.5, 0.5]), np.log([0.2, 0.8]))
    ),
    "Samples": lambda: aj.Samples(logp=np.zeros((2, 2)), preference=np.full((2, 2, 2), 0.5), mask=np.ones((2, 2))),
    "PreferenceGame": lambda: games.PreferenceGame(preference=np.full((2, 2), 0.5), tau=1.0),
    "Bandit": lambda: aj.envs.Bandit(reward=np.ones(2)),
    "LogLinearPolicy": lambda: aj.envs.LogLinearPolicy(np.ones((2, 2))),
}


@pytest.mark.parametrize("name", REBUILT)
def test_rebuilding_a_pytree_runs_no_checks(name):
    node = REBUILT[name]()
    for rebuilt in (
        jax.tree.map(lambda _: object(), node),
        jax.tree.map(lambda x: jnp.full(jnp.shape(x), jnp.nan), node),
        jax.tree.map(lambda x: jnp.shape(x), node, is_leaf=lambda x: hasattr(x, "shape")),
        jax.tree.unflatten(jax.tree.structure(node), [None] * len(jax.tree.leaves(node))),
    ):
        assert type(rebuilt) is type(node)
    same = jax.tree.unflatten(jax.tree.structure(node), jax.tree.leaves(node))
    for got, want in zip(jax.tree.leaves(same), jax.tree.leaves(node), strict=True):
        assert got is want
    passed = jax.jit(lambda x: x)(node)
    np.testing.assert_array_equal(jax.tree.leaves(passed)[0], jax.tree.leaves(node)[0])
    with pytest.raises(AttributeError):
        node.reward = 1  # immutable


BAD_VALUES = {
    # what a call does eagerly is in test_bad_input.py; under a trace none of these may raise
    "gibbs": lambda x: aj.gibbs(x, jnp.zeros(2), -1.0 + 0 * x[0]),
    "kl": lambda x: aj.kl(x, x),
    "Problem": lambda x: aj.Problem(ref_logp=x, preference=jnp.stack([x, x]), sampler_logp=x).ref_logp,
    "Samples": lambda x: aj.Samples(logp=x * jnp.nan, preference=jnp.stack([x, x]), mask=jnp.stack([x, 0 * x])).logp,
    "from_tokens": lambda x: aj.Samples.from_tokens(jnp.stack([x, x]), mask=jnp.stack([x, 0 * x])).logp,
    "dpo": lambda x: aj.methods["dpo"](aj.Samples(logp=x, ref_logp=x), beta=x[0] - 10),
    "population_grad": lambda x: aj.population_grad("dpo", aj.Problem(ref_logp=x, reward=x), x, beta=x[0] - 10),
    "best_response": lambda x: games.best_response(
        games.PreferenceGame(preference=jnp.stack([x, x]), tau=x[0] - 10), x
    ),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_value_checks_cost_nothing_under_jit(name):
    # No error though the values are not allowed, and nothing of the checks is in the program.
    bad = jnp.asarray([3.0, -1.0])
    jax.eval_shape(BAD_VALUES[name], bad)
    program = str(jax.make_jaxpr(BAD_VALUES[name])(bad))
    assert not any(word in program for word in ("callback", "debug", "infeed", "outfeed"))
    with pytest.raises(ValueError):
        BAD_VALUES[name](bad)


def test_shape_checks_hold_under_jit():
    with pytest.raises(ValueError, match="reward"):
        jax.jit(lambda x: aj.gibbs(x, jnp.zeros(3), 1.0))(jnp.zeros(2))
    with pytest.raises(ValueError, match="ref_logp"):
        jax.jit(lambda x: aj.Samples(logp=x, ref_logp=jnp.zeros(3)).logp)(jnp.zeros(2))


def test_the_registry_is_a_mapping():
    assert len(aj.methods) == len(list(aj.methods)) > 10
    assert "nash-md-pg" in aj.methods and "nash_md_pg" in aj.methods and "nothing" not in aj.methods
    assert aj.methods["nash-md-pg"] is aj.methods["nash_md_pg"]
    assert "dpo" in repr(aj.methods)
    rng = np.random.default_rng(0)
    problem = aj.Problem(ref_logp=oracles.policies(rng, 3), reward=rng.normal(size=3))
    logits = rng.normal(size=3)
    by_record = aj.population_grad(aj.methods["rloo"], problem, logits)
    np.testing.assert_array_equal(by_record, aj.population_grad("rloo", problem, logits))
