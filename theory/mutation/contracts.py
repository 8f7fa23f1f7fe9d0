"""What the record of a method promises, as properties of each method: nothing here names a method."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import Problem, Samples, bradley_terry, laws, methods, population_grad
from alignjax.f_regularised import DIVERGENCES
from alignjax.record import Method
from theory.record import Statement
from theory.slack import at_most, both, equal

Fields = dict[str, Array]
_KNOWN = (
    "logp", "ref_logp", "reward", "win_rate", "behaviour_logp", "preference", "value", "token_logp", "ref_token_logp",
    "mask", "response_mask", "anchor_logp", "opponent_logp", "rewards", "behaviour_token_logp",
)  # fmt: skip
_PER_RESPONSE = (
    "logp", "ref_logp", "reward", "win_rate", "behaviour_logp", "token_logp", "ref_token_logp", "mask", "anchor_logp",
    "rewards", "behaviour_token_logp",
)  # fmt: skip
_DETACHED = ("reward", "win_rate", "behaviour_logp", "value")
"""Feedback that only ever enters a detached advantage; a link's preference is a weight instead."""
TOKENS = 3


def group_of(key: Array, size: int) -> Fields:
    """Every field a loss may read, for one prompt with `size` responses."""
    keys = jax.random.split(key, 11)
    tokens = -jnp.exp(jax.random.normal(keys[0], (size, TOKENS)))
    ref_tokens = tokens + 0.5 * jax.random.normal(keys[1], (size, TOKENS))
    reward = jax.random.normal(keys[2], (size,))
    margin = jnp.tril(jax.random.uniform(keys[3], (size, size), minval=-0.4, maxval=0.4), -1)
    return {
        "logp": tokens.sum(-1), "ref_logp": ref_tokens.sum(-1), "reward": reward,
        "win_rate": jax.random.uniform(keys[4], (size,)),
        "behaviour_logp": tokens.sum(-1) + 0.3 * jax.random.normal(keys[5], (size,)),
        "preference": 0.5 + margin - margin.T, "value": jax.random.normal(keys[6]), "token_logp": tokens,
        "anchor_logp": tokens.sum(-1) + 0.4 * jax.random.normal(keys[7], (size,)),
        "opponent_logp": tokens.sum(-1) + 0.4 * jax.random.normal(keys[8], (2, size)),
        "rewards": jax.random.normal(keys[9], (size, 2)),
        "behaviour_token_logp": tokens + 0.2 * jax.random.normal(keys[10], (size, TOKENS)),
        "ref_token_logp": ref_tokens, "mask": jnp.arange(TOKENS) <= jnp.arange(size)[:, None] % TOKENS,
    }  # fmt: skip


def _read(method: Method, fields: Mapping[str, Array]) -> Fields:
    names = (*method.reads, *method.reads_if_present)
    return {name: fields[name] for name in names if name in fields}


def _value(method: Method, fields: Mapping[str, Array]) -> Array:
    given = _read(method, fields)
    return method(Samples(**{"logp": fields["logp"], **given}))


def _picked(fields: Mapping[str, Array], order: Array) -> Fields:
    """Some responses of a group, in some order."""
    found = {name: fields[name][order] for name in _PER_RESPONSE if name in fields} | {"value": fields["value"]}
    found |= {"opponent_logp": fields["opponent_logp"][:, order]}
    return found | {"preference": fields["preference"][order][:, order]}


def masked_responses_are_inert(key: Array, *, name: str) -> Array:
    """A group with masked responses has the loss and the gradient of the group without them; a masked pair has 0."""
    method = methods[name]
    policy = "token_logp" if "token_logp" in method.reads else "logp"
    if method.num_responses is not None:
        size = method.num_responses
        keep = jnp.arange(size) > 0
        fields = group_of(key, size) | {"response_mask": keep}
        dirty = fields | {policy: jnp.where(keep, fields[policy], jnp.nan)}
        return both(equal(_value_masked(method, dirty), 0.0), equal(_slope(method, dirty, policy), 0.0))
    fields = group_of(key, 4)
    kept = jnp.array([0, 1, 3])
    keep = jnp.arange(4) != 2
    column = keep if policy == "logp" else keep[:, None]
    dirty = fields | {policy: jnp.where(column, fields[policy], jnp.nan), "response_mask": keep}
    fewer = _picked(fields, kept) | {"response_mask": jnp.ones(3, bool)}
    slope = _slope(method, dirty, policy)
    return both(
        equal(_value_masked(method, dirty), _value(method, fewer)),
        equal(slope[kept], _slope(method, fewer, policy)),
        equal(slope[2], 0.0),
    )


def _value_masked(method: Method, fields: Mapping[str, Array]) -> Array:
    given = _read(method, fields)
    return method(Samples(**{"logp": fields["logp"], **given, "response_mask": fields["response_mask"]}))


def _slope(method: Method, fields: Mapping[str, Array], policy: str) -> Array:
    return jax.grad(lambda x: _value_masked(method, {**fields, policy: x}))(fields[policy])


def order_does_not_matter(key: Array, *, name: str) -> Array:
    """Declared "relabelling": responses in another order, with their feedback, have the same loss and gradient."""
    method = methods[name]
    size = method.num_responses or 4
    fields = group_of(key, size)
    order = jnp.arange(size)[::-1]
    turned = _picked(fields, order)
    policy = "token_logp" if "token_logp" in method.reads else "logp"
    slopes = [jax.grad(lambda x, f=f: _value(method, {**f, policy: x}))(f[policy]) for f in (fields, turned)]
    return both(equal(_value(method, fields), _value(method, turned)), equal(slopes[0][order], slopes[1]))


def rewards_may_move(key: Array, *, name: str, shift: float, scale: float) -> Array:
    """Declared "reward_shift" and "reward_scale": the gradient on a group does not see them."""
    method = methods[name]
    fields = group_of(key, method.num_responses or 4)
    moved = fields | {"reward": scale * fields["reward"] + shift}
    slopes = [jax.grad(lambda x, f=f: _value(method, {**f, "logp": x}))(f["logp"]) for f in (fields, moved)]
    return equal(slopes[0], slopes[1])


def feedback_is_detached(key: Array, *, name: str) -> Array:
    """No gradient reaches rewards, win-rates, baselines or the old policy; one that is left out is the neutral one."""
    method = methods[name]
    fields = group_of(key, method.num_responses or 4)
    slacks = []
    for field in _DETACHED:
        if field in (*method.reads, *method.reads_if_present):
            slope = jax.grad(lambda x, field=field: _value(method, {**fields, field: x}))(fields[field])
            slacks.append(equal(slope, 0.0))
    policy = "token_logp" if "token_logp" in method.reads else "logp"
    neutral = {"value": jnp.zeros(()), "behaviour_logp": fields["logp"], "mask": jnp.ones((4, TOKENS), bool)}
    for field, instead in neutral.items():
        if field in method.reads_if_present:
            without = {other: array for other, array in fields.items() if other != field}
            given = {**fields, field: instead}
            slopes = [jax.grad(lambda x, f=f: _value(method, {**f, policy: x}))(f[policy]) for f in (without, given)]
            slacks += [equal(_value(method, without), _value(method, given)), equal(slopes[0], slopes[1])]
    if {"reward", "value"} <= {*method.reads, *method.reads_if_present}:
        # A baseline is subtracted from the reward.
        less = {**fields, "reward": fields["reward"] - fields["value"], "value": jnp.zeros(())}
        slopes = [jax.grad(lambda x, f=f: _value(method, {**f, "logp": x}))(f["logp"]) for f in (fields, less)]
        slacks.append(equal(slopes[0], slopes[1]))
    return both(*slacks)


def gradient_is_that_of_the_value(key: Array, *, name: str) -> Array:
    """Methods on pairs are losses, not surrogates: autodiff in the policy is the central difference of the value."""
    method = methods[name]
    fields = group_of(key, method.num_responses or 2)
    direction, step = jnp.array([1.0, -0.6]), 1e-6
    slacks = []
    hard = {field: array for field, array in fields.items() if field != "preference"}
    choices: list[dict[str, Any]] = [{}]
    if "divergence" in method.defaults:
        choices = [{"divergence": divergence} for divergence in DIVERGENCES]
    for given, hyper in itertools.product((fields, hard), choices):

        def along(t: Array, given: Fields = given, hyper: dict[str, Any] = hyper) -> Array:
            moved = {**_read(method, given), "logp": given["logp"] + t * direction}
            return method(Samples(**moved), **hyper)

        slope = jax.grad(along)(jnp.zeros(()))
        difference = (along(jnp.asarray(step)) - along(jnp.asarray(-step))) / (2 * step)
        slacks.append(equal(slope, difference, tolerance=1e-5))
    return both(*slacks)


def chosen_is_preferred(key: Array, *, name: str) -> Array:
    """At the reference a certain label pulls the chosen response up and the other one down, by the same amount, and
    soft labels interpolate between the two certain ones.
    """
    method = methods[name]
    fields = group_of(key, 2)
    at = fields["logp"]
    bases = {"ref_logp": at, "anchor_logp": at, "opponent_logp": jnp.stack([at, at])}
    hard = {field: array for field, array in fields.items() if field != "preference"} | bases
    slope = jax.grad(lambda x: _value(method, {**hard, "logp": x}))(fields["logp"])
    turned = _picked({**hard, "preference": fields["preference"]}, jnp.array([1, 0]))
    other = _value(method, {field: array for field, array in turned.items() if field != "preference"})
    p = fields["preference"][0, 1]
    soft = _value(method, hard | {"preference": fields["preference"]})
    if not {"ref_logp", "anchor_logp", "opponent_logp"} & set(
        method.reads
    ):  # without a reference the pull may have saturated
        return equal(soft, p * _value(method, hard) + (1 - p) * other)
    return both(
        at_most(slope[0], -1e-6),
        equal(slope[0], -slope[1]),
        equal(soft, p * _value(method, hard) + (1 - p) * other),
    )


def _held(method: Method, key: Array) -> dict[str, Array]:
    """The previous iterate and two other players, where a method reads them."""
    laws = jax.nn.log_softmax(0.5 * jax.random.normal(key, (3, 2)))
    wanted = {"anchor_logp": laws[0], "opponent_logp": laws[1:]}
    return {field: law for field, law in wanted.items() if field in method.reads}


def optimum_differentiates(key: Array, *, name: str) -> Array:
    """The stated optimum has the gradient of its value, in reward and reference; iterates are constants to it."""
    method, keys, step = methods[name], jax.random.split(key, 3), 1e-5
    held = _held(method, keys[2])
    held |= {"sampler_logp": jnp.log(jnp.array([0.3, 0.7]))} if method.sampler is laws.data_and_previous else {}
    base, reward = jax.random.normal(keys[0], (2,)), 0.3 * jax.random.normal(keys[1], (2,))
    turn = jnp.array([1.0, -0.6])
    slacks = []
    for preferences in (False, True):

        def along(t: Array, preferences: bool = preferences) -> Array:
            table = bradley_terry(reward + t * turn) if preferences else None
            ref_logp = jax.nn.log_softmax(base + t * turn[::-1])
            return method.optimum(Problem(ref_logp=ref_logp, reward=reward + t * turn, preference=table, **held))

        _, slope = jax.jvp(along, (jnp.zeros(()),), (jnp.ones(()),))
        difference = (along(jnp.asarray(step)) - along(jnp.asarray(-step))) / (2 * step)
        slacks.append(equal(slope, difference, tolerance=1e-5))
    return both(*slacks)


def optimum_is_stationary(key: Array, *, name: str) -> Array:
    """The stated optimum has gradient 0, and another policy has not: with rewards only, and with preferences."""
    method = methods[name]
    keys = jax.random.split(key, 3)
    held = _held(method, keys[2])
    ref_logp, reward = jax.nn.log_softmax(jax.random.normal(keys[0], (2,))), 0.4 * jax.random.normal(keys[1], (2,))
    slacks = []
    for problem in (
        Problem(ref_logp=ref_logp, reward=reward, **held),
        Problem(ref_logp=ref_logp, reward=-reward, preference=bradley_terry(reward), **held),
    ):
        optimum = method.optimum(problem)
        beta = method.defaults.get("beta", 1.0)
        gradient = population_grad(method, problem, optimum)
        slacks.append(equal(beta * gradient, 0.0, tolerance=1e-7))
        aside = population_grad(method, problem, optimum + jnp.array([0.5, 0.0]))
        slacks.append(at_most(1e-13, jnp.abs(aside).max(), tolerance=0.0))
    return both(*slacks)


def _properties() -> list[Statement]:
    found = []

    def add(what: str, says: str, function: Any, name: str, **fixed: Any) -> None:
        found.append(
            Statement(
                id=f"method/{name}/{what}",
                says=says,
                slack=functools.partial(function, name=name, **fixed),
                instance=lambda key: (key,),
                source=methods[name].source,
                mutants=(),
            )
        )

    for name, method in methods.items():
        reads = (*method.reads, *method.reads_if_present)
        if not set(reads) <= set(_KNOWN):
            continue
        if method.num_responses is not None and "token_logp" in reads:
            continue  # a pair of sequences: its own tests
        add("masked", "masked responses are inert", masked_responses_are_inert, name)
        if method.num_responses == 2 and "preference" in method.reads_if_present:
            add("chosen", "the chosen response is preferred", chosen_is_preferred, name)
            add("gradient", "the gradient is that of the value", gradient_is_that_of_the_value, name)
        if "relabelling" in method.invariant_to:
            add("relabelling", "the order of responses does not matter", order_does_not_matter, name)
        if "reward" in reads and "reward_shift" in method.invariant_to:
            add("shift", "rewards may shift", rewards_may_move, name, shift=0.7, scale=1.0)
        if "reward" in reads and "reward_scale" in method.invariant_to:
            add("scale", "rewards may be scaled", rewards_may_move, name, shift=0.0, scale=3.0)
        if method.has_optimum and not any("token" in field for field in reads):
            if not (method.separable and method.opponent is laws.previous):  # the root of a bisection has no gradient
                add("optimum-gradient", "the optimum has the gradient of its value", optimum_differentiates, name)
            add("optimum", "the stated optimum is stationary", optimum_is_stationary, name)
        on_policy = method.sampler in (laws.policy, laws.old_policy) and not method.name.endswith("_token")
        if set(reads) & set(_DETACHED) and (on_policy or "win_rate" in reads):
            add("detached", "feedback is detached", feedback_is_detached, name)
    return found


OF_METHODS: tuple[Statement, ...] = tuple(_properties())
