"""Declared properties of methods and equations, as slacks: what records, signatures and docstrings promise.

They are records like statements, but live here: they are trivial as mathematics (a derivative is a derivative, a
masked response has no influence), and only a mutant breaks them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import (
    Problem,
    divergences,
    equations,
    kl_estimators,
    laws,
    logspace,
)
from alignjax.record import Source
from theory import definitions, instances
from theory.mutation import (
    best_of_by_hand,
    choices_by_hand,
    objectives_by_hand,
    pairs_by_hand,
    steps_by_hand,
    sums_by_hand,
)
from theory.mutation.contracts import OF_METHODS
from theory.mutation.definitions_of_losses import f_dpo_by_hand, nash_md_by_hand
from theory.mutation.derivatives import (
    divergences_differentiate,
    dro_differentiates,
    f_regularised_differentiates,
    games_differentiate,
    pieces_differentiate,
    regularised_problem_differentiates,
    tilt_differentiates,
)
from theory.record import Statement
from theory.slack import both, equal

_HERE = Source("alignjax", 2026, "", "signature or docstring")


def _laws_and_numbers(key: Array) -> tuple[Array, ...]:
    """(logits, logits of a reference, rewards, number in (0.2, 0.8))."""
    keys = jax.random.split(key, 4)
    first, second, reward = (jax.random.normal(k, (4,)) for k in keys[:3])
    return first, second, reward, jax.random.uniform(keys[3], minval=0.2, maxval=0.8)


def divergences_at_their_edges(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """Responses without mass under both laws change no divergence and no gradient; infinite ends of weight 0 do not
    count; orders of laws far apart do not overflow.
    """
    slacks = []
    dead = jnp.array([-jnp.inf])
    names = ("kl", "reverse_kl", "jensen_shannon", "chi_square", "total_variation")
    functions: list[Callable[..., Array]] = [getattr(divergences, name) for name in names]
    functions += [lambda p, q: divergences.renyi(p, q, 2 + number), lambda p, q: divergences.renyi(p, q, number)]
    functions += [lambda p, q: divergences.alpha_divergence(p, q, number), divergences.jeffreys]
    functions += [
        lambda p, q: divergences.f_divergence(p, q, lambda u: jnp.square(jnp.sqrt(u + 0.1) - 1), slope_at_infinity=1.0)
    ]
    functions += [lambda p, q: divergences.f_divergence(p, q, lambda u: jnp.square(u - 1))]
    p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    wider, narrow = jnp.append(q + jnp.log(0.5), jnp.log(0.5)), jnp.append(p, dead)
    for function in functions:
        expected = jax.value_and_grad(function, argnums=(0, 1))(p, q)
        value, slopes = jax.value_and_grad(function, argnums=(0, 1))(narrow, jnp.append(q, dead))
        slacks += [equal(value, expected[0])]
        slacks += [equal(one[:4], other) for one, other in zip(slopes, expected[1], strict=True)]
        # Mass of q where p has none: every gradient stays finite.
        if function not in (divergences.reverse_kl, divergences.jeffreys):
            slacks.append(equal(0.0 * jax.grad(function)(narrow, wider), 0.0))
        # And mass of p where q has none, also where the divergence is infinite.
        slacks.append(equal(0.0 * jnp.stack(jax.grad(function, argnums=(0, 1))(wider, narrow)), 0.0))
    slacks.append(equal(divergences.jeffreys(wider, narrow, 0.0), definitions.kl(narrow, wider)))
    slacks.append(equal(divergences.jeffreys(narrow, wider, 1.0), definitions.kl(narrow, wider)))
    slacks.append(equal(logspace.log_ratio(narrow, jnp.append(q, dead)), jnp.append(p - q, 0.0)))
    slacks.append(equal(logspace.log_ratio(narrow, wider)[4], -jnp.inf))
    slacks.append(equal(logspace.log_ratio(wider, narrow)[4], jnp.inf))
    shared = jnp.exp(number * p + (1 - number) * q)
    for left, right, lost in ((narrow, wider, 0.5 ** (1 - number)), (wider, narrow, 0.5**number)):
        kept = shared if left is narrow else jnp.exp(number * q + (1 - number) * p)
        order = jnp.log(lost * kept.sum()) / (number - 1)
        slacks.append(equal(divergences.renyi(left, right, number), order))
        slacks.append(equal(0.0 * jax.grad(divergences.renyi)(left, right, number), 0.0))
    far = jax.nn.log_softmax(400 * jnp.arange(4.0))
    by_logs = jax.nn.logsumexp(3 * p - 2 * far) / 2
    near_one = 1 + 1.5e-6  # not yet the limit
    close = jax.nn.logsumexp(near_one * p + (1 - near_one) * q) / (near_one - 1)
    return both(
        *slacks,
        equal(divergences.renyi(p, far, 3.0), by_logs),
        equal(divergences.renyi(p, q, near_one), close, tolerance=1e-8),
    )


def f_divergence_is_its_sum(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """sum_y q f(p / q) in the order of its arguments, mass where q has none (or underflows) at the price of the slope
    at infinity, which has a gradient too.
    """
    p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    convex = lambda u: jnp.square(jnp.sqrt(u + 0.1) - jnp.sqrt(1.1))  # f(u) / u -> 1
    by_hand = jnp.sum(jnp.exp(q) * convex(jnp.exp(p - q)))
    # Half of p lies where q has nothing.
    wider = jnp.append(p + jnp.log(0.5), jnp.log(0.5))
    inside = jnp.sum(jnp.exp(q) * convex(0.5 * jnp.exp(p - q)))
    slacks = [equal(divergences.f_divergence(p, q, convex), by_hand)]
    for nothing in (-jnp.inf, -1_000.0):

        def priced(logp: Array, nothing: float = nothing) -> Array:
            return divergences.f_divergence(logp, jnp.append(q, nothing), convex, slope_at_infinity=2.0)

        slacks += [equal(priced(wider), inside + 1.0), equal(jax.grad(priced)(wider)[4], 1.0)]
    return both(*slacks)


def contrasts_at_infinity(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """Two scores at the same infinity have no margin and no gradient; one at an infinity decides."""
    table = jnp.stack([jnp.stack([0.5 * number, number]), jnp.stack([1 - number, 0.5 * number])])
    up, slacks = jnp.inf, []
    nothing = jnp.log(2.0)  # the logistic loss of no margin
    for score, loss, turned in (
        ((up, up), nothing, nothing), ((-up, -up), nothing, nothing), ((up, first[0]), 0.0, up),
        ((-up, first[0]), up, 0.0), ((first[0], up), up, 0.0), ((first[0], -up), 0.0, up), ((up, -up), 0.0, up),
    ):  # fmt: skip
        given = jnp.stack([jnp.asarray(x) for x in score])
        contrast = lambda s: equations.pair(s, equations.logistic)
        slacks += [equal(contrast(given), loss), equal(contrast(given[::-1]), turned)]
        soft = nothing if loss is nothing else up
        slacks.append(equal(equations.pair(given, equations.logistic, table), soft))
        # A label that is certainly wrong pulls with slope 1 on either score; one that is right or undecided with none.
        pull = 1.0 if loss is up else 0.0
        slacks.append(equal(jax.grad(contrast)(given), jnp.array([-pull, pull])))
    return both(*slacks)


def tilt_at_its_edges(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """A base of weight 0 and a score of scale 0 are ignored, infinities and their gradients included; a negative power
    of no mass is no law; weights may vary over a batch.
    """
    hole = second.at[0].set(-jnp.inf)
    forbidden = reward.at[0].set(-jnp.inf)

    def of_weights(base: Array) -> Array:
        turn = jnp.cos(jnp.arange(3.0))
        return jax.grad(lambda w: logspace.tilt((first, base), w)[1:] @ turn)(jnp.array([1.0, 0.0]))

    weights = jnp.stack([jnp.stack([number, 1 - number, 0.5 * number]), jnp.stack([1 - number, number, number])])
    each = [logspace.tilt((first, second), weights[:, row]) for row in range(3)]
    return both(
        equal(logspace.tilt((first, hole), jnp.array([1.0, 0.0])), jax.nn.log_softmax(first)),
        equal(of_weights(hole), of_weights(hole.at[0].set(0.0))),
        equal(logspace.tilt((first,), jnp.ones(1), forbidden, 0.0), jax.nn.log_softmax(first)),
        equal(logspace.tilt((first,), jnp.ones(1), forbidden, number)[0], -jnp.inf),
        equal(jnp.isnan(logspace.tilt((first, hole), jnp.array([1.0, -1.0]))).astype(first.dtype), 1.0),
        equal(logspace.tilt(jnp.stack([first, second]), weights), jnp.stack(each)),
    )


def narrow_laws_are_normalised(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """Log-probs of 16 bits are widened and normalised; wider ones are taken as they are."""
    almost = jax.nn.log_softmax(first) + 0.01 * number
    slacks = [equal(logspace.as_policy(almost.astype(wide)), almost.astype(wide)) for wide in ("float32", "float64")]
    for narrow in ("bfloat16", "float16"):
        given = almost.astype(narrow)
        expected = jax.nn.log_softmax(given.astype("float32"))
        slacks.append(equal(logspace.as_policy(given), expected, tolerance=1e-6))
    return both(*slacks)


def _with_zeros(key: Array) -> tuple[Problem, Array]:
    """(problem with laws of every kind, policy): some responses have no mass."""
    keys = jax.random.split(key, 5)
    ref = instances.reference(keys[0])
    problem = Problem(
        ref_logp=ref, reward=instances.reward(keys[1]), sampler_logp=instances.policy(keys[2], ref),
        anchor_logp=instances.policy(keys[3], ref),
    )  # fmt: skip
    return problem, instances.policy(keys[4], ref)


def laws_are_what_they_say(problem: Problem, logp: Array) -> Array:
    """Each law is the one its name says, and none of them lets a gradient through."""
    bare = Problem(ref_logp=problem.ref_logp)
    assert isinstance(problem.sampler_logp, Array) and problem.anchor_logp is not None
    two = Problem(ref_logp=problem.ref_logp, sampler_logp=(problem.sampler_logp, logp))
    alive = jnp.isfinite(problem.ref_logp)
    flat = alive / jnp.sum(alive)
    expected = [
        (laws.reference(problem, logp), problem.ref_logp), (laws.policy(problem, logp), logp),
        (laws.data(problem, logp), problem.sampler_logp), (laws.data(bare, logp), problem.ref_logp),
        (laws.data(two, logp)[1], logp), (laws.old_policy(problem, logp), problem.sampler_logp),
        (laws.old_policy(bare, logp), logp), (laws.old_policy(two, logp)[0], problem.sampler_logp),
        (laws.anchor(problem, logp), problem.anchor_logp), (laws.anchor(bare, logp), logp),
        (laws.uniform(problem, logp), jnp.log(flat)),
        (laws.mixture(problem, logp, mixture=0.3), definitions.mixture(logp, problem.ref_logp, 0.3)),
    ]  # fmt: skip
    safe = jnp.where(jnp.isfinite(logp), logp, -3.0)
    drawn, anchor = problem.sampler_logp, problem.anchor_logp

    def total(x: Array, shift: Array) -> Array:
        ref_logp = problem.ref_logp
        here = Problem(ref_logp=ref_logp + shift, sampler_logp=drawn + shift, anchor_logp=anchor + shift)
        pair = Problem(ref_logp=ref_logp, sampler_logp=(drawn + shift, x))
        names = (laws.reference, laws.policy, laws.data, laws.old_policy, laws.anchor, laws.mixture, laws.uniform)
        every = [law(one, x) for one in (here, pair) for law in names]
        every += [law(Problem(ref_logp=problem.ref_logp + shift), x) for law in names]
        leaves = jax.tree.leaves(every)
        return sum((jnp.sum(jnp.where(jnp.isfinite(leaf), leaf, 0.0) * jnp.cos(jnp.arange(5.0))) for leaf in leaves),
                   jnp.zeros(()))  # fmt: skip

    slopes = jax.grad(total, argnums=(0, 1))(safe, jnp.zeros(5))
    return both(
        *(equal(jnp.exp(jnp.asarray(a)), jnp.exp(jnp.asarray(b))) for a, b in expected),
        *(equal(slope, 0.0) for slope in slopes),
    )


def statistics_are_detached(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """No gradient passes a statistic of the group, the weight of a field, or an old policy; a group of one has no
    baseline; a group without responses has no loss.
    """
    mask, one = jnp.array([1.0, 1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0, 0.0])

    def detached(r: Array) -> Array:
        parts = [equations.group_mean(r, mask), equations.group_std(r, mask), equations.group_std(r, ddof=1)]
        parts += [equations.group_mean(r), equations.leave_one_out(r, mask) * first, equations.leave_one_out(r) * first]
        return jnp.sum(jnp.concatenate(parts))

    return both(
        equal(jax.grad(detached)(reward), 0.0),
        equal(jax.grad(lambda w: equations.field(first, w, mask))(reward), 0.0),
        equal(jax.grad(lambda o: equations.clipped_field(first, o, reward, 0.2))(second), 0.0),
        equal(jax.grad(lambda a: equations.clipped_field(first, second, a, 0.2))(reward), 0.0),
        equal(equations.leave_one_out(reward, one), 0.0),
        equal(equations.leave_one_out(reward[:1]), 0.0),
        equal(equations.group_std(reward[:1], ddof=1), 0.0),
        equal(equations.field(first, reward, jnp.zeros(4)), 0.0),
        *(
            equal(array * (1 - mask), 0.0)
            for array in equations.kept(mask, 1.0 + jnp.square(first), jnp.square(reward))
        ),
        equal(logspace.masked_mean(reward, jnp.zeros(4)), 0.0),
        equal(logspace.masked_mean(reward, one), reward[1]),
        equal(logspace.masked_sum(jnp.where(mask > 0, reward, jnp.nan), mask), reward @ mask),
        equal(logspace.masked_mean(jnp.where(mask > 0, reward, jnp.nan), mask), reward @ mask / 3),
        equal(logspace.masked_mean(reward, None), reward.sum() / 4),
    )


def estimators_detach(first: Array, second: Array, reward: Array, number: Array) -> Array:
    """KL losses with a detached factor: value and gradient, token by token, masked or not."""
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    dirty = jnp.where(mask > 0, first, jnp.nan), jnp.where(mask > 0, second, jnp.nan)
    h = (first - second) * mask
    later = jnp.stack([h[n:].sum() for n in range(4)])
    plain = jnp.stack([(first - second)[n:].sum() for n in range(4)])
    to_go, myopic = kl_estimators.kl_tokens_to_go, kl_estimators.kl_tokens_myopic
    # A token without mass under both laws has log-ratio 0, and the gradients of the others do not see it.
    without = jnp.array([-jnp.inf, 0.0, 0.0, 0.0])
    rest = jnp.append(0.0, (first - second)[1:])
    return both(
        equal(jax.grad(myopic)(first + without, second + without), rest),
        equal(jax.grad(to_go)(first + without, second + without), jnp.cumsum(rest[::-1])[::-1]),
        equal(to_go(*dirty, mask), jnp.sum(later * first * mask)),
        equal(to_go(first, second), jnp.sum(plain * first)),
        equal(myopic(*dirty, mask), jnp.sum(h * first)),
        equal(myopic(first, second), jnp.sum((first - second) * first)),
        equal(jax.grad(to_go)(first, second, mask), later * mask),
        equal(jax.grad(myopic)(first, second, mask), h),
        equal(jax.grad(to_go, argnums=1)(first, second, mask), 0.0),
        equal(jax.grad(myopic, argnums=1)(first, second), 0.0),
        equal(kl_estimators.k1_in_reward(first, second), (first - second) * first),
        equal(jax.grad(lambda b: kl_estimators.k1_in_reward(first, b).sum())(second), 0.0),
    )


def _key(key: Array) -> tuple[Array]:
    return (key,)


def _property(name: str, says: str, slack: Callable[..., Array], instance: Callable[[Array], Any]) -> Statement:
    return Statement(id=f"property/{name}", says=says, slack=slack, instance=instance, source=_HERE, mutants=())


_EQUATIONS: tuple[Statement, ...] = (
    _property("grad-divergences", "divergences have the gradient of their value", divergences_differentiate,
              _laws_and_numbers),
    _property("edges-divergences", "divergences at zero mass", divergences_at_their_edges, _laws_and_numbers),
    _property("f-divergence", "an f-divergence is its sum, off the support too", f_divergence_is_its_sum,
              _laws_and_numbers),
    _property("grad-regularised", "the KL-regularised problem differentiates", regularised_problem_differentiates,
              _laws_and_numbers),
    _property("grad-dro", "the optimum of DRO at a given value differentiates", dro_differentiates, _laws_and_numbers),
    _property("grad-f", "scores of f-DPO differentiate", f_regularised_differentiates, _laws_and_numbers),
    _property("grad-pieces", "pieces of losses differentiate", pieces_differentiate, _laws_and_numbers),
    _property("infinite-scores", "a pair of scores of which one or both are infinite", contrasts_at_infinity,
              _laws_and_numbers),
    _property("grad-games", "games differentiate", games_differentiate, _laws_and_numbers),
    _property("grad-tilt", "tilt differentiates", tilt_differentiates, _laws_and_numbers),
    _property("edges-tilt", "tilt at weights and scales of 0, below 0, and over a batch", tilt_at_its_edges,
              _laws_and_numbers),
    _property("narrow", "laws of 16 bits are normalised again", narrow_laws_are_normalised, _laws_and_numbers),
    _property("statistics", "statistics of a group are detached, and 0 where there is no group",
              statistics_are_detached, _laws_and_numbers),
    _property("estimators", "detached factors of KL losses, token by token", estimators_detach, _laws_and_numbers),
    _property("f-dpo", "f-DPO is the formula of its docstring", f_dpo_by_hand, _key),
    _property("nash-md", "Nash-MD-PG is the formula of its docstring", nash_md_by_hand, _key),
    _property("laws", "laws are detached and as named", laws_are_what_they_say, _with_zeros),
)  # fmt: skip

_BY_HAND: tuple[Statement, ...] = tuple(
    _property(name, says, slack, _key)
    for module in (best_of_by_hand, choices_by_hand, objectives_by_hand, pairs_by_hand, steps_by_hand, sums_by_hand)
    for name, says, slack in module.BY_HAND
)

PROPERTIES: tuple[Statement, ...] = (*_EQUATIONS, *_BY_HAND, *OF_METHODS)
