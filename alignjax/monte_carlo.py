r"""The sampled twin of `population.py`: the same record, the same loss call, draws instead of enumeration."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.feedback import tables
from alignjax.logspace import ArrayLike, log_softmax
from alignjax.population import check_drawn, check_logits, check_policy, resolve, sampler_laws, split
from alignjax.problem import Problem
from alignjax.record import Method


def gather_drawn(name: str, table: Array, index: Array) -> Array:
    """The entries of a table at drawn tuples: `[..., A]` and index `[..., n, K]` -> `[..., n, K]`."""
    lead = index.shape[:-2]
    if name == "value":
        return jnp.broadcast_to(table, lead)[..., None]
    if name == "opponent_logp":
        return jax.vmap(lambda one: gather_drawn("logp", one, index))(table)
    trailing = 2 if name in ("preference", "rewards", "mask") or "token" in name else 1
    rest = table.shape[table.ndim - trailing :]
    flat = jnp.broadcast_to(table, lead + rest).reshape((-1, *rest))
    rows = index.reshape((-1, *index.shape[-2:]))
    if name == "preference":
        picked = jax.vmap(lambda t, i: t[i[:, :, None], i[:, None, :]])(flat, rows)
    else:
        picked = jax.vmap(lambda t, i: t[i])(flat, rows)
    return picked.reshape(lead + picked.shape[1:])


def draw(key: Array, law: Float[Array, "*batch A"], lead: tuple[int, ...], num: int) -> Array:
    """`num` responses of each prompt, `[*lead, num]`."""
    law = jnp.broadcast_to(law, (*lead, law.shape[-1]))
    return jnp.moveaxis(jax.random.categorical(key, law, axis=-1, shape=(num, *lead)), 0, -1)


def flip(key: Array, probability: Array) -> Array:
    """1 with the given probability, else 0."""
    return (jax.random.uniform(key, probability.shape, probability.dtype) < probability).astype(probability.dtype)


def hard_preference(key: Array, preference: Float[Array, "*batch K K"]) -> Float[Array, "*batch K K"]:
    """One comparison of every pair, 0 or 1 with P + P^T = 1, and 1/2 on the diagonal."""
    above = jnp.triu(jnp.ones(preference.shape[-2:], preference.dtype), 1)
    wins = flip(key, preference) * above
    return wins + above.T - jnp.swapaxes(wins, -1, -2) + 0.5 * jnp.eye(above.shape[-1], dtype=above.dtype)


@functools.partial(jax.jit, static_argnames=("method", "k", "fixed", "num_samples", "hard_labels"))
def mean_loss(
    problem: Problem,
    policy: Mapping[str, Array],
    key: Array,
    numbers: Mapping[str, Any],
    *,
    method: Method,
    k: int,
    fixed: tuple[tuple[str, Any], ...],
    num_samples: int,
    hard_labels: bool,
) -> Float[Array, "*batch"]:
    """The mean loss of `num_samples` drawn groups, `[...]`."""
    hyper = {**numbers, **dict(fixed)}
    logp = policy["logp"]
    draw_key, opponent_key, label_key = jax.random.split(key, 3)
    laws = sampler_laws(method, problem, logp, hyper, k)
    lead = problem.batch_shape(logp=logp.shape[:-1])
    slots = [
        draw(slot_key, law, lead, num_samples)
        for slot_key, law in zip(jax.random.split(draw_key, k), laws, strict=True)
    ]
    index = jnp.stack(slots, -1)
    arrays: dict[str, Array | None] = {}
    for name, table in tables(method, problem, policy, hyper).items():
        arrays[name] = None if table is None else gather_drawn(name, table, index)
    if "win_rate" in arrays and method.opponent is not None:
        # The oracle is asked about sampled opponents: one y'' for each response, P(y, y'') for its win-rate.
        law = jax.lax.stop_gradient(method.opponent(problem, logp, **method.own(method.opponent, hyper)))
        rivals = draw(opponent_key, law, lead, num_samples * k).reshape(index.shape)
        rows = gather_drawn("rewards", problem.preferences(), index)
        wins = jnp.take_along_axis(rows, rivals[..., None], -1)[..., 0]
        arrays["win_rate"] = flip(label_key, wins) if hard_labels else wins
    preference = arrays.get("preference")
    if preference is not None and hard_labels:
        arrays["preference"] = hard_preference(label_key, preference)
    return method.evaluate(arrays, hyper).mean(-1)


def sampled_loss(
    name: str | Method,
    problem: Problem,
    logp: ArrayLike,
    key: Array,
    *,
    num_samples: int = 1,
    hard_labels: bool = False,
    **hyperparameters: Any,
) -> Float[Array, "*batch"]:
    r"""A Monte-Carlo draw of `population_loss`: the mean over `num_samples` groups of K responses for each prompt.

    `hard_labels` draws each comparison as 0 or 1 instead of handing the loss its probability; the expected gradient
    is the same. Opponents are sampled, one for each response. Other arguments and errors as in `population_loss`.
    """
    method = resolve(name)
    k, numbers, fixed = split(method, hyperparameters)
    k = k if hyperparameters.get("group_size") is None else method.group_size(hyperparameters["group_size"])
    logp = check_policy(method, problem, logp)
    check_drawn(method, problem, logp, {**numbers, **dict(fixed)}, k)
    num_samples = checks.whole("num_samples", num_samples)
    return mean_loss(
        problem, {"logp": logp}, key, numbers,
        method=method, k=k, fixed=fixed, num_samples=num_samples, hard_labels=bool(hard_labels),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("method", "k", "fixed", "num_samples", "hard_labels"))
def _sampled_grad(problem: Problem, logits: Array, key: Array, numbers: Mapping[str, Any], **static: Any) -> Array:
    return jax.grad(lambda x: mean_loss(problem, {"logp": log_softmax(x)}, key, numbers, **static).sum())(logits)


def sampled_grad(
    name: str | Method,
    problem: Problem,
    logits: ArrayLike,
    key: Array,
    *,
    num_samples: int = 1,
    hard_labels: bool = False,
    **hyperparameters: Any,
) -> Float[Array, "*batch A"]:
    r"""The gradient of `sampled_loss` with respect to the logits: an unbiased draw of `population_grad`."""
    method = resolve(name)
    k, numbers, fixed = split(method, hyperparameters)
    logits = check_logits(method, problem, logits, {**numbers, **dict(fixed)}, k)
    num_samples = checks.whole("num_samples", num_samples)
    return _sampled_grad(
        problem, logits, key, numbers,
        method=method, k=k, fixed=fixed, num_samples=num_samples, hard_labels=bool(hard_labels),
    )  # fmt: skip
