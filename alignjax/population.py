r"""The exact population loss of any method: all A^K tuples of responses, weighted by the sampler's probabilities.

    L(pi) = sum_{y_1..y_K} prod_k nu_k(y_k) loss(y_1..y_K),      nu detached

The loss is called once, on arrays `[..., N, K]` with N = A^K, exactly as it is on a batch of samples. Where a method
has a stop-gradient the value is a surrogate; its gradient is what autodiff of the sampled loss gives in expectation.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.feedback import tables
from alignjax.logspace import ArrayLike, as_float, as_policy, log_softmax
from alignjax.problem import Problem
from alignjax.record import Method

MAX_TUPLES = 10**6


def resolve(method: str | Method) -> Method:
    """A record, by name or as it is."""
    if isinstance(method, Method):
        return method
    from alignjax.registry import METHODS  # the registry imports every objective, and they import records

    return METHODS[method]


def split(
    method: Method, hyperparameters: Mapping[str, Any]
) -> tuple[int, dict[str, Any], tuple[tuple[str, Any], ...]]:
    """Checked hyperparameters as (K, numbers that may be traced, names and flags that may not)."""
    given = dict(hyperparameters)
    size = given.pop("group_size", None)
    k = method.group_size(size)
    if size is None and method.separable:
        k = max(1, method.min_responses)
    hyper = method.hyperparameters(given)
    fixed = tuple((n, v) for n, v in hyper.items() if isinstance(v, str | bool) or v is None)
    return k, {n: v for n, v in hyper.items() if n not in dict(fixed)}, fixed


def sampler_laws(method: Method, problem: Problem, logp: Array, hyper: Mapping[str, Any], k: int) -> tuple[Array, ...]:
    """The law of each of the K slots, detached."""
    law = method.sampler(problem, logp, **method.own(method.sampler, hyper))
    laws = law if isinstance(law, tuple) else (law,) * k
    if len(laws) != k:
        raise ValueError(
            f"sampler_logp has {len(laws)} laws, one per slot, but {method.name} draws K = {k} responses here"
        )
    return tuple(jax.lax.stop_gradient(law) for law in laws)


def gather(name: str, table: Array, index: Array | np.ndarray) -> Array:
    """The entries of a table at tuples of responses: `[..., A]` and index `[N, K]` -> `[..., N, K]`."""
    if name == "value":
        return table[..., None]
    if name == "preference":
        return table[..., index[:, :, None], index[:, None, :]]
    if name in ("rewards", "mask") or "token" in name:
        return table[..., index, :]
    return table[..., index]


@functools.partial(jax.jit, static_argnames=("method", "k", "fixed"))
def expected_loss(
    problem: Problem,
    policy: Mapping[str, Array],
    numbers: Mapping[str, Any],
    *,
    method: Method,
    k: int,
    fixed: tuple[tuple[str, Any], ...],
) -> Float[Array, "*batch"]:
    """The exact expectation, `[...]`; `policy` holds `logp` `[..., A]` and, for token methods, `token_logp` `[..., A,
    T]`.
    """
    hyper = {**numbers, **dict(fixed)}
    a = problem.num_responses
    index = np.stack(np.unravel_index(np.arange(a**k), (a,) * k), axis=-1)
    laws = sampler_laws(method, problem, policy["logp"], hyper, k)
    log_weight = functools.reduce(jnp.add, (laws[slot][..., index[:, slot]] for slot in range(k)))
    drawn = jnp.exp(log_weight) > 0  # a weight that underflows is none: 0 * inf would be NaN
    arrays: dict[str, Array | None] = {}
    for name, table in tables(method, problem, policy, hyper).items():
        if table is None:
            arrays[name] = None
            continue
        picked = gather(name, table, index)
        # A tuple that is never drawn must not send inf * 0 into the gradient: replace what the loss would see of it.
        hide = drawn.reshape(drawn.shape + (1,) * _axes_after_tuple(name))
        arrays[name] = jnp.where(hide, picked, jnp.zeros((), picked.dtype))
    value = method.evaluate(arrays, hyper)
    weight = jnp.where(drawn, jnp.exp(jnp.where(drawn, log_weight, 0.0)), 0.0)
    return (weight * value).sum(-1)


def _axes_after_tuple(name: str) -> int:
    if name == "value":
        return 0
    return 2 if name in ("preference", "rewards", "mask") or "token" in name else 1


@functools.partial(jax.jit, static_argnames=("method", "k", "fixed"))
def _expected_grad(problem: Problem, logits: Array, numbers: Mapping[str, Any], **static: Any) -> Array:
    def total(x: Array) -> Array:
        return expected_loss(problem, {"logp": log_softmax(x)}, numbers, **static).sum()

    return jax.grad(total)(logits)


def refuse_if_too_large(method: Method, problem: Problem, k: int, asked: Any) -> None:
    a = problem.num_responses
    size = max(k, asked) if isinstance(asked, int) else k
    if a**size > MAX_TUPLES:
        raise ValueError(
            f"{method.name}: A = {a} responses and K = {size} draws make A^K = {a**size} tuples, above the limit of "
            f"{MAX_TUPLES}; use a smaller group_size, or sample (a key in `fit`, `sampled_loss`)"
        )


def check_policy(method: Method, problem: Problem, logp: ArrayLike, name: str = "logp") -> Array:
    """A policy that fits the problem: its last axis, its normalisation, its support inside the reference's."""
    checks.same_last_axis({name: logp}, size=problem.num_responses)
    checks.log_policy(name, logp)
    problem.batch_shape(**{name: np.shape(logp)[:-1]})
    checks.covers("ref_logp", problem.ref_logp, name, logp)
    return as_policy(logp)


def check_tokens(problem: Problem, logp: Array, token_logp: ArrayLike) -> Array:
    """Per-token log-probs that fit the problem: `[..., A, T]`, no NaN where the mask counts."""
    shape = np.shape(token_logp)
    length = None if problem.ref_token_logp is None else problem.ref_token_logp.shape[-1]
    if len(shape) < 2 or shape[-2] != problem.num_responses or (length is not None and shape[-1] != length):
        wanted = f"[{problem.num_responses}, {'T' if length is None else length}]"
        raise ValueError(f"token_logp must end in the axes {wanted}, got shape {shape}")
    problem.batch_shape(logp=logp.shape[:-1], token_logp=shape[:-2])
    if checks.is_concrete(token_logp, problem.mask):
        tokens = np.asarray(token_logp, np.float64)
        checks.not_nan("token_logp", tokens if problem.mask is None else np.where(problem.mask, tokens, 0.0))
    return as_float(token_logp)


def check_drawn(method: Method, problem: Problem, logp: Array, hyper: Mapping[str, Any], k: int) -> None:
    """The policy has mass wherever the sampler draws: the loss is infinite elsewhere."""
    if checks.is_concrete(problem, logp, hyper):
        for law in sampler_laws(method, problem, logp, hyper, k):
            checks.covers("logp", logp, "the law of the samples", law)


def check_logits(
    method: Method, problem: Problem, logits: ArrayLike, hyper: Mapping[str, Any], k: int
) -> Float[Array, "*batch A"]:
    """Logits whose softmax is a policy that fits the problem."""
    checks.same_last_axis({"logits": logits}, size=problem.num_responses)
    checks.not_nan("logits", logits)
    logits = as_float(logits)
    if checks.is_concrete(logits):
        if np.isposinf(np.asarray(logits)).any():  # NumPy: under a trace a jnp operation would be traced
            raise ValueError("logits hold inf; allowed are finite numbers, and -inf for no mass")
        logp = check_policy(method, problem, log_softmax(logits), "softmax(logits)")
        check_drawn(method, problem, logp, hyper, k)
    return logits


def population_loss(
    name: str | Method,
    problem: Problem,
    logp: ArrayLike,
    *,
    token_logp: ArrayLike | None = None,
    **hyperparameters: Any,
) -> Float[Array, "*batch"]:
    r"""The exact expected loss of a policy, `[...]`, unreduced over prompts.

    Args:
      name: a method, by its key in `alignjax.methods` or as a record.
      problem: A responses, reference, feedback, and the data's law where the method learns from data.
      logp: `[..., A]` normalised log-probabilities.
      token_logp: `[..., A, T]`, for methods that read tokens (`envs.TokenTree.token_logp`).
      hyperparameters: those of the method, and `group_size` = K (default 2; pairs have 2). Responses are iid, the
        diagonal y = y' is included, weights are products of the sampler's probabilities.

    Raises: ValueError if A^K exceeds 10^6, a field is missing, or an argument is not allowed (see `Problem`).
    """
    method = resolve(name)
    k, numbers, fixed = split(method, hyperparameters)
    logp = check_policy(method, problem, logp)
    refuse_if_too_large(method, problem, k, hyperparameters.get("group_size"))
    check_drawn(method, problem, logp, {**numbers, **dict(fixed)}, k)
    policy = {"logp": logp}
    if token_logp is not None:
        policy["token_logp"] = check_tokens(problem, logp, token_logp)
    return expected_loss(problem, policy, numbers, method=method, k=k, fixed=fixed)


def population_grad(
    name: str | Method, problem: Problem, logits: ArrayLike, **hyperparameters: Any
) -> Float[Array, "*batch A"]:
    r"""The expected gradient that autodiff of the loss gives, with respect to the logits: `[..., A] -> [..., A]`.

    The policy is log_softmax(logits). Each prompt has its own gradient. Arguments and errors as in `population_loss`.
    """
    method = resolve(name)
    k, numbers, fixed = split(method, hyperparameters)
    refuse_if_too_large(method, problem, k, hyperparameters.get("group_size"))
    logits = check_logits(method, problem, logits, {**numbers, **dict(fixed)}, k)
    return _expected_grad(problem, logits, numbers, method=method, k=k, fixed=fixed)
