r"""`fit`: descend any method on a problem, exactly (every gradient enumerated) or from samples, in one `lax.scan`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.extragradient import against_anchor, evaluation_params, extragradient
from alignjax.logspace import ArrayLike, as_float, log_softmax
from alignjax.monte_carlo import mean_loss
from alignjax.population import (
    check_drawn,
    check_policy,
    check_tokens,
    expected_loss,
    refuse_if_too_large,
    resolve,
    split,
)
from alignjax.problem import Problem
from alignjax.pytree import register
from alignjax.record import Method

if TYPE_CHECKING:
    import optax

_BATCHES = ("one_batch", "two_batches")

Policy = Callable[[Any], "Array | Mapping[str, Array]"]
"""parameters -> log-probs `[..., A]`, or {"logp": ..., "token_logp": [..., A, T]} for methods that read tokens."""


@register
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """What `fit` returns: a pytree, so that `jax.vmap(fit)` over seeds or hyperparameters returns stacked ones."""

    logp: Float[Array, "*batch A"]
    """The policy after the last step."""
    trace: Float[Array, "num_steps *batch"]
    """The loss of each prompt at each step, before its update (sampled: of the drawn groups)."""
    params: Any
    """The parameters after the last step; without a `policy`, the logits."""
    anchor_logp: Float[Array, "*batch A"] | None = None
    """The moving anchor after the last step, for methods that carry one."""


def _fields(policy: Policy, params: Any) -> Mapping[str, Array]:
    out = policy(params)
    return out if isinstance(out, Mapping) else {"logp": out}


@functools.partial(
    jax.jit,
    static_argnames=(
        "method",
        "k",
        "fixed",
        "num_steps",
        "optimizer",
        "policy",
        "batch_size",
        "hard_labels",
        "learning_rate_of",
        "batches",
    ),
)
def _run(
    problem: Problem,
    params: Any,
    anchor: Any,
    alive: Array | None,
    key: Array | None,
    learning_rate: Array | None,
    numbers: Mapping[str, Any],
    *,
    method: Method,
    k: int,
    fixed: tuple[tuple[str, Any], ...],
    num_steps: int,
    optimizer: "optax.GradientTransformation | None",
    policy: Policy | None,
    batch_size: int,
    hard_labels: bool,
    learning_rate_of: Callable[[Array], Array] | None,
    batches: str | None,
) -> Fit:
    if policy is None:
        assert alive is not None
        # A free logit for every response that is alive. Those of the dead are kept at 0: an optimiser that decays
        # weights would turn -inf into NaN.
        policy = lambda logits: log_softmax(jnp.where(alive, logits, -jnp.inf))
    static = {"k": k, "fixed": fixed}
    carries = method.anchor_update is not None

    def losses(params: Any, problem: Problem, key: Array | None, method: Method) -> tuple[Array, Array]:
        fields = _fields(policy, params)
        if key is None:
            each = expected_loss(problem, fields, numbers, method=method, **static)
        else:
            sampled = {**static, "num_samples": batch_size, "hard_labels": hard_labels}
            each = mean_loss(problem, fields, key, numbers, method=method, **sampled)
        # The sum, so that every prompt of a batch of tables descends its own gradient at the given rate.
        return each.sum(), each

    def logp_of(params: Any) -> Array:
        return jax.lax.stop_gradient(_fields(policy, params)["logp"])

    slope = jax.grad(losses, has_aux=True)

    def step(carry: tuple[Any, Any, Any], step_and_key: tuple[Array, Array | None]) -> tuple[Any, Array]:
        params, anchor, state = carry
        count, step_key = step_and_key
        here = dataclasses.replace(problem, anchor_logp=logp_of(anchor)) if carries else problem
        if batches is not None:
            assert optimizer is not None
            keys = (step_key, step_key)
            if step_key is not None and batches == "two_batches":
                keys = tuple(jax.random.split(step_key))
            gradient, each = slope(params, here, keys[0], method)
            updates, state = optimizer.update(gradient, state, params)
            half = optax.apply_updates(params, updates)
            there = dataclasses.replace(problem, anchor_logp=logp_of(half))
            gradient, _ = slope(evaluation_params(state, half), there, keys[1], against_anchor(method))
            updates, state = optimizer.update(gradient, state, half)
            return (optax.apply_updates(half, updates), anchor, state), each
        gradient, each = slope(params, here, step_key, method)
        if optimizer is None:
            rate = learning_rate if learning_rate_of is None else learning_rate_of(count)
            params = jax.tree.map(lambda x, g: (x - rate * g).astype(x.dtype), params, gradient)
        else:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        if carries:
            update = method.anchor_update
            assert update is not None
            counted = {"step": count} if "step" in inspect.signature(update).parameters else {}
            anchor = update(anchor, params, **counted, **method.own(update, {**numbers, **dict(fixed)}))
        return (params, anchor, state), each

    if optimizer is not None or batches is not None:
        import optax  # a fifth of jax's import time again: only where an optimiser is used
    if batches is not None:
        plain = learning_rate if learning_rate_of is None else learning_rate_of
        optimizer = extragradient(optax.sgd(plain) if optimizer is None else optimizer)
    state = None if optimizer is None else optimizer.init(params)
    keys = None if key is None else jax.random.split(key, num_steps)
    (params, anchor, _), trace = jax.lax.scan(step, (params, anchor, state), (jnp.arange(num_steps), keys))
    return Fit(
        logp=_fields(policy, params)["logp"],
        trace=trace,
        params=params if alive is None else jnp.where(alive, params, -jnp.inf),
        anchor_logp=_fields(policy, anchor)["logp"] if carries else None,
    )


def _check_parametrisation(method: Method, problem: Problem, policy: Policy, params: Any) -> None:
    """What the policy returns at the start fits the problem."""
    fields = _fields(policy, params)
    if "logp" not in fields:
        raise ValueError(f"policy(init_params) must return log-probs, or a mapping with 'logp'; got {sorted(fields)}")
    logp = check_policy(method, problem, fields["logp"], "policy(init_params)")
    if "token_logp" in fields:
        check_tokens(problem, logp, fields["token_logp"])
    if method.anchor_update is not None and problem.anchor_logp is not None:
        raise ValueError("anchor_logp of the problem has no parameters: with a policy, the anchor starts at them")


def _batches(method: Method, asked: bool | str) -> str | None:
    """How the two gradients of an extragradient step are drawn, or None for plain steps."""
    if asked is False:
        return None
    if not isinstance(asked, bool) and asked not in _BATCHES:
        raise ValueError(f"extragradient must be True, False, 'one_batch' or 'two_batches', got {asked!r}")
    against_anchor(method)  # or the error that says why there is none
    return _BATCHES[0] if asked is True else asked


def fit(
    name: str | Method,
    problem: Problem,
    *,
    num_steps: int,
    learning_rate: float | Array | Callable[[Array], Array] | None = None,
    optimizer: "optax.GradientTransformation | Callable[..., optax.GradientTransformation] | None" = None,
    init_logp: ArrayLike | None = None,
    key: Array | None = None,
    batch_size: int = 32,
    hard_labels: bool = False,
    policy: Policy | None = None,
    init_params: Any = None,
    extragradient: bool | str = False,
    **hyperparameters: Any,
) -> Fit:
    r"""Minimise a method on a problem by gradient steps on the logits; exact without a `key`, sampled with one.

    Args:
      name: a method, by its key in `alignjax.methods` or as a record.
      problem: as in `population_loss`. Each prompt of a batch has its own logits and descends its own gradient.
      num_steps: number of updates, one `lax.scan`.
      learning_rate: a number or a schedule step -> number, for plain gradient descent.
      optimizer: an optax optimiser (used as it is; `learning_rate` is then not used), or a function such as
        `optax.adam` that makes one of `learning_rate`.
      init_logp: `[..., A]` where to start; the reference by default.
      key: sample `batch_size` groups of K responses for each prompt and step, instead of enumerating.
      hard_labels: when sampling, draw comparisons as 0 or 1.
      policy, init_params: another parametrisation, params -> log-probs `[..., A]` (or a mapping with `token_logp`): a
        token tree, shared features, a network.
      extragradient: each step takes two gradients at the same parameters, the second one against the opponent as it is
        after a half step (Zhou et al., 2025, arXiv:2503.08942); for methods whose opponent is the policy, such as
        `egpo`. Sampled, True or "one_batch" draws both gradients from one key, "two_batches" from two.
      hyperparameters: those of the method, and `group_size`.

    Returns: `Fit` with `.logp` `[..., A]` and `.trace` `[num_steps, ...]`. `vmap` over seeds, beta or learning rates
      works.
    Raises: ValueError or TypeError on what is not allowed, before anything runs.
    """
    method = resolve(name)
    k, numbers, fixed = split(method, hyperparameters)
    if key is not None and hyperparameters.get("group_size") is None:
        k = method.group_size(None)
    num_steps = checks.whole("num_steps", num_steps, at_least=0)
    batch_size = checks.whole("batch_size", batch_size)
    if key is None:
        refuse_if_too_large(method, problem, k, hyperparameters.get("group_size"))
    if learning_rate is None and (optimizer is None or not hasattr(optimizer, "update")):
        raise TypeError("fit needs learning_rate=..., or an optax optimizer=... that already has one")
    schedule = learning_rate if callable(learning_rate) else None
    constant = None if learning_rate is None or callable(learning_rate) else as_float(learning_rate)
    if constant is not None:
        checks.positive("learning_rate", constant)
    if optimizer is not None and not (callable(optimizer) or hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax optimiser, or a function of learning_rate, got {optimizer!r}")
    if constant is not None and constant.ndim:
        raise ValueError(f"learning_rate must be a scalar or a schedule, got shape {constant.shape}; use jax.vmap")
    if optimizer is not None and not hasattr(optimizer, "update"):
        optimizer = optimizer(learning_rate)
    if (policy is None) != (init_params is None):
        raise TypeError("policy and init_params go together: a function of parameters, and where they start")
    batches = _batches(method, extragradient)
    if policy is None:
        start = problem.ref_logp if init_logp is None else check_policy(method, problem, init_logp, "init_logp")
        check_drawn(method, problem, start, {**numbers, **dict(fixed)}, k)
        batch = problem.batch_shape(init_logp=start.shape[:-1])
        dtype = jnp.result_type(*jax.tree.leaves((problem, start)), jnp.float32)
        start = jnp.broadcast_to(start, (*batch, start.shape[-1])).astype(dtype)
        alive = ~jnp.isneginf(start)
        params: Any = jnp.where(alive, start, 0.0)
        first = problem.ref_logp if method.anchor_start == "reference" else start
        anchor = jnp.broadcast_to(first if problem.anchor_logp is None else problem.anchor_logp, start.shape)
        anchor = jnp.where(alive, anchor.astype(dtype), 0.0)
    else:
        if init_logp is not None:
            raise TypeError("init_logp starts a table; with a policy, give init_params")
        params, alive = jax.tree.map(as_float, init_params), None
        anchor = params
        _check_parametrisation(method, problem, policy, params)
    return _run(
        problem, params, anchor if method.anchor_update is not None else None, alive, key,
        constant, numbers,
        method=method, k=k, fixed=fixed, num_steps=num_steps, optimizer=optimizer, policy=policy,
        batch_size=batch_size, hard_labels=bool(hard_labels), learning_rate_of=schedule,
        batches=batches,
    )  # fmt: skip
