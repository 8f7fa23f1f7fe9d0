"""What every method must satisfy; a new method is covered by being listed."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax as aj
from tests.core import oracles
from tests.every_method import groups
from tests.every_method.groups import METHODS, NAMES, B, policy_field, read, samples, size_of

every_method = pytest.mark.parametrize("name", NAMES)


def with_policy(batch, name, x):
    """`batch` with the policy's field replaced, and no checks: what a training step does."""
    leaves = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return aj.Samples(**{**leaves, policy_field(name): x})


@functools.cache
def value_and_grad(name):
    def total(x, batch):
        value = METHODS[name](with_policy(batch, name, x))
        return value.sum(), value

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def evaluate(name, batch):
    (_, value), gradient = value_and_grad(name)(jnp.asarray(getattr(batch, policy_field(name))), batch)
    return np.asarray(value), np.asarray(gradient)


def oracle_for(name, given, hyper):
    """NumPy value and gradient weights, for the methods the oracles know."""
    fields = {n: given[n] for n in given if n not in ("behaviour_logp", "value") or n in read(name)}
    return oracles.loss_and_weights(name, fields, hyper)


KNOWN = [
    *oracles.PAIRS,
    *oracles.ON_FEEDBACK,
    *oracles.CONSISTENCY,
    "reinforce",
    "rloo",
    "ppo",
    "grpo",
    "dr_grpo",
    "nash_md_pg",
    "nash_ema_pg",
]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.usefixtures("x64")
def test_loss_and_gradient_of_a_group(name):
    # NumPy formulas of the papers, derivatives by hand.
    given = groups.arrays(size_of(name))
    value, gradient = evaluate(name, samples(name, given))
    expected, weights = oracle_for(name, given, METHODS[name].defaults)
    np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient, weights, rtol=1e-10, atol=1e-12)


@every_method
@pytest.mark.usefixtures("x64")
def test_eager_is_jit_is_vmap(name):
    batch = samples(name, groups.arrays(size_of(name)))
    jitted, _ = evaluate(name, batch)
    assert jitted.shape == (B,) and np.isfinite(jitted).all()
    eager = np.asarray(METHODS[name](batch))
    np.testing.assert_allclose(eager, jitted, rtol=1e-12, atol=1e-13)
    axes = jax.tree_util.tree_map_with_path(lambda path, _: 1 if "opponent" in str(path) else 0, batch)
    mapped = jax.jit(jax.vmap(METHODS[name], in_axes=(axes,)))(batch)
    np.testing.assert_allclose(mapped, jitted, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@every_method
@pytest.mark.usefixtures("x64")
def test_a_loop_over_prompts_and_more_leading_axes(name):
    batch = samples(name, groups.arrays(size_of(name)))
    expected = evaluate(name, batch)[0]
    opponent = lambda path: "opponent" in str(path)
    for b in range(B):
        one = jax.tree_util.tree_map_with_path(lambda path, x, b=b: x[:, b] if opponent(path) else x[b], batch)
        np.testing.assert_allclose(METHODS[name](one), expected[b], rtol=1e-12, atol=1e-13)
    deep = jax.tree_util.tree_map_with_path(
        lambda path, x: x[:, None, :, None] if opponent(path) else x[None, :, None], batch
    )
    np.testing.assert_allclose(METHODS[name](deep)[0, :, 0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@every_method
def test_low_precision_in_finite_single_precision_out(name):
    given = groups.arrays(size_of(name))
    with jax.enable_x64(True):
        exact, exact_gradient = evaluate(name, samples(name, given))
    single, gradient = evaluate(name, samples(name, given))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-3, atol=1e-3)
    half = samples(name, {field: jnp.asarray(x, jnp.bfloat16) for field, x in given.items()})
    value, gradient = evaluate(name, half)
    assert value.dtype == np.float32 and np.isfinite(value).all() and np.isfinite(gradient.astype(float)).all()
    # The inputs are rounded to 3 digits; IPO's squared distance from 1 / (2 beta) = 5 is the most sensitive.
    np.testing.assert_allclose(value, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("junk", [np.nan, *(pytest.param(x, marks=pytest.mark.slow) for x in (np.inf, -np.inf))])
def test_masked_responses_are_inert(name, junk):
    k = size_of(name)
    if METHODS[name].num_responses:
        # A pair that misses a response contributes nothing; the other prompts are as they were.
        clean, mask = groups.arrays(k), np.ones((B, k), bool)
        mask[1, 0] = False
        expected, expected_gradient = map(np.array, evaluate(name, samples(name, clean)))
        expected[1], expected_gradient[1] = 0, 0
    else:
        # Three of five are kept, others in each prompt: as if there were only three. Oracle: the group without them.
        clean, k = groups.arrays(3), 5
        mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 0, 0]], bool)
        expected, small = evaluate(name, samples(name, clean))
        expected_gradient = np.zeros((B, k, *small.shape[2:]), small.dtype)
        expected_gradient[mask] = small.reshape((-1, *small.shape[2:]))
    dirty = {}
    for field, x in groups.arrays(k, seed=1).items():
        if field == "value":
            dirty[field] = clean[field]
            continue
        x = np.array(x)
        if field == "preference":
            x[~(mask[:, :, None] & mask[:, None, :])] = junk
            x[mask[:, :, None] & mask[:, None, :]] = clean[field][_full(clean[field], mask)]
        elif field.startswith("opponent"):
            x[:, mask], x[:, ~mask] = clean[field][:, _kept(clean, mask)].reshape(x[:, mask].shape), junk
        else:
            x[mask], x[~mask] = clean[field][_kept(clean, mask)].reshape(x[mask].shape), junk
        dirty[field] = x
    value, gradient = evaluate(name, samples(name, dirty, response_mask=mask))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def _kept(clean, mask):
    """Which entries of the clean arrays the mask keeps: all of a smaller group, or the same of a pair."""
    k = clean["logp"].shape[-1]
    return mask if k == mask.shape[-1] else np.ones((B, k), bool)


def _full(table, mask):
    kept = mask if table.shape[-1] == mask.shape[-1] else np.ones(table.shape[:-1], bool)
    return kept[:, :, None] & kept[:, None, :]


@every_method
def test_masked_tokens_are_inert(name):
    k, t = size_of(name), groups.T
    given = groups.arrays(k)
    mask = np.ones((B, k, t), bool)
    mask[0, 0, 1] = mask[2, 1, 0] = False

    def build(junk, x, mask):
        fields = {f if "token" in f else f.replace("logp", "token_logp") for f in read(name) if f.endswith("logp")}
        tokens = {f: jnp.where(mask, given[f], junk) for f in fields} | {"token_logp": jnp.where(mask, x, junk)}
        rest = {f: given[f] for f in read(name) if "logp" not in f}
        return aj.Samples.from_tokens(mask=mask, **tokens, **rest)

    @jax.jit
    def run(x, junk, mask):
        total = lambda x: (lambda v: (v.sum(), v))(METHODS[name](build(junk, x, mask)))
        return jax.value_and_grad(total, has_aux=True)(x)

    x = given["token_logp"]
    (_, expected), expected_gradient = run(x, 0.0, mask)
    assert (np.asarray(expected_gradient)[~mask] == 0).all()
    for junk in (np.nan, -np.inf, np.inf):
        (_, value), gradient = run(x, junk, mask)
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(gradient, expected_gradient)
    # A response without a token contributes 0 under jit, and is an error outside.
    mask[1] = False
    (_, value), gradient = run(x, np.nan, mask)
    assert value[1] == 0 and (np.asarray(gradient)[1] == 0).all()
    np.testing.assert_allclose(value[np.array([0, 2])], expected[np.array([0, 2])], rtol=1e-6)
    with pytest.raises(ValueError, match="mask has an empty row"):
        build(0.0, x, mask)


@every_method
def test_extremes_and_ties_are_finite(name):
    # All responses at e^-10000, with and without spread, equal rewards, certain preferences.
    k = size_of(name)
    given = groups.arrays(k)
    for field, x in given.items():
        if field.endswith("logp"):
            given[field] = np.full_like(x, -1e4 / (groups.T if "token" in field else 1))
    given["reward"] = np.zeros((B, k))
    given["preference"] = np.where(np.eye(k, dtype=bool), 0.5, np.triu(np.ones((k, k)), 1)) * np.ones((B, 1, 1))
    given["win_rate"] = np.ones((B, k))
    for spread in (0.0, 3.0):
        moved = {f: x - spread * np.arange(B * k).reshape((B, k)) if f == "logp" else x for f, x in given.items()}
        value, gradient = evaluate(name, samples(name, moved))
        assert np.isfinite(value).all() and np.isfinite(gradient).all()


def changed(name, field, move):
    """The gradient before and after `field` is moved, in double precision."""
    given = groups.arrays(size_of(name))
    before = evaluate(name, samples(name, given))[1]
    given[field] = move(given[field])
    return before, evaluate(name, samples(name, given))[1]


BASES = ("ref_logp", "anchor_logp", "opponent_logp")
MOVES = {
    # invariance: the fields it is about, and the move
    "reward_shift": (("reward",), lambda x: x + np.array([[1.0], [-2.0], [0.5]])),
    "reward_scale": (("reward",), lambda x: 3.0 * x),
    "log_ratio_shift": (BASES, lambda x: x - np.array([[1.0], [2.0], [0.5]])),
}


@pytest.mark.parametrize(
    ("name", "invariance", "field"),
    [(n, i, field) for n in NAMES for i, (fields, _) in MOVES.items() for field in fields if field in read(n)],
)
@pytest.mark.usefixtures("x64")
def test_declared_invariances_hold_and_others_do_not(name, invariance, field):
    before, after = changed(name, field, MOVES[invariance][1])
    if invariance in METHODS[name].invariant_to:
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-11)
    elif invariance != "log_ratio_shift":
        assert np.abs(after - before).max() > 1e-3


@every_method
@pytest.mark.usefixtures("x64")
def test_relabelling_moves_the_gradient_along(name):
    k = size_of(name)
    given = groups.arrays(k)
    order = np.roll(np.arange(k), 1)
    moved = {}
    for field, x in given.items():
        if field == "preference":
            moved[field] = x[:, order][:, :, order]
        elif field == "value":
            moved[field] = x
        else:
            moved[field] = np.take(x, order, axis=2 if field.startswith("opponent") else 1)
    if "relabelling" in METHODS[name].invariant_to:
        value, gradient = evaluate(name, samples(name, given))
        other, moved_gradient = evaluate(name, samples(name, moved))
        np.testing.assert_allclose(other, value, atol=1e-11)
        np.testing.assert_allclose(moved_gradient, gradient[:, order], atol=1e-11)


PAIRS = [name for name in NAMES if METHODS[name].num_responses == 2 and "preference" in METHODS[name].reads_if_present]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_soft_labels_mix_the_two_orders(name):
    # P l(0, 1) + (1 - P) l(1, 0); without preferences response 0 is the chosen one.
    given = groups.arrays(2)
    soft, _ = evaluate(name, samples(name, given))
    fields = {field: given[field] for field in ("logp", *BASES) if field in read(name)}
    chosen = np.asarray(METHODS[name](aj.Samples(**fields)))
    swapped = np.asarray(METHODS[name](aj.Samples(**{field: x[..., ::-1] for field, x in fields.items()})))
    p = given["preference"][:, 0, 1]
    np.testing.assert_allclose(soft, p * chosen + (1 - p) * swapped, rtol=1e-12)


@every_method
def test_defaults_are_those_of_the_signatures(name):
    method = METHODS[name]
    expected = {}
    for function in (method.loss, method.sampler, method.opponent, method.anchor_update, *method.feedback.values()):
        for parameter in inspect.signature(function).parameters.values() if function else ():
            if parameter.kind is parameter.KEYWORD_ONLY:
                expected[parameter.name] = parameter.default
    assert dict(method.defaults) == expected


@every_method
def test_the_record_says_what_and_where_from(name):
    method = METHODS[name]
    text = inspect.getdoc(method.loss)
    assert text and method.says == (method.summary or text.splitlines()[0])
    assert re.search(r"^ {4}.*= ", text, re.M), "the docstring has an indented formula"
    assert "Source:" in text
    assert method.source.authors and 1950 < method.source.year < 2100 and method.source.equation
    if method.source.arxiv:
        assert re.fullmatch(r"\d{4}\.\d{4,5}", method.source.arxiv)
        if method.name == method.loss.__name__:
            assert method.source.arxiv in text
    else:
        assert method.source.venue
    assert method.name == name and aj.methods[name.replace("_", "-")] is method
    assert method.has_optimum != bool(method.no_optimum)


ON_TABLES = [name for name in NAMES if "token_logp" not in METHODS[name].reads]


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_TABLES)
def test_a_problem_of_one_response_has_nothing_to_learn(name):
    one = aj.Problem(
        ref_logp=[0.0], reward=[2.0], preference=[[0.5]], rewards=[[1.0, 2.0]], anchor_logp=[0.0], opponent_logp=[[0.0]]
    )
    assert aj.population_grad(name, one, [3.0]).tolist() == [0.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_TABLES)
def test_single_precision_population_gradient_of_thirty_responses(name):
    rng = np.random.default_rng(0)
    fields = {"ref_logp": oracles.policies(rng, 30), "reward": rng.normal(size=30)}
    logits = rng.normal(size=30)
    fields["opponent_logp"] = oracles.policies(rng, 2, 30)
    single = aj.population_grad(name, aj.Problem(**fields), logits)
    with jax.enable_x64(True):
        double = aj.population_grad(name, aj.Problem(**fields), logits)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=1e-3, atol=2e-5)
