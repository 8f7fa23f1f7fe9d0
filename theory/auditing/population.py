r"""Exact small populations of a loss: the expected gradient that autodiff returns, and the point its descent reaches.

Every expectation is enumerated by the library's own machinery (`alignjax.population`), so that nothing is sampled and
the reached point is exact: descent by Adam, then Newton's method on the gradient field until it stops.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax.envs import TokenTree
from alignjax.logspace import log_softmax
from alignjax.population import expected_loss, split
from alignjax.problem import Problem
from theory.auditing.subject import HELD, Subject

TREE = TokenTree(2, 2)
NUM_INSTANCES, NUM_RESPONSES = 6, 4


@dataclasses.dataclass(frozen=True)
class Instances:
    """Random problems with 4 responses each."""

    ref_logp: np.ndarray
    reward: np.ndarray
    start: np.ndarray
    """Some policy's logits, away from the reference."""

    @functools.cached_property
    def preference(self) -> np.ndarray:
        """Bradley-Terry of the reward."""
        return 1 / (1 + np.exp(self.reward[:, None, :] - self.reward[:, :, None]))


def instances(scale: float, seed: int = 0) -> Instances:
    """Normal rewards times `scale`, references and starting policies of moderate spread."""
    rng = np.random.default_rng(seed)
    shape = (NUM_INSTANCES, NUM_RESPONSES)
    ref = 0.7 * rng.standard_normal(shape)
    ref = ref - np.log(np.exp(ref).sum(-1, keepdims=True))
    return Instances(ref, scale * rng.standard_normal(shape), ref + 0.7 * rng.standard_normal(shape))


def _policy(subject: Subject, logits: Array) -> dict[str, Array]:
    logp = log_softmax(logits)
    if subject.kind not in ("token", "token_group"):
        return {"logp": logp}
    return {"logp": logp, "token_logp": TREE.token_logp(TREE.conditionals(logp))}


def population_problem(subject: Subject, ref_logp: Any, reward: Any, preference: Any) -> Problem:
    tokens: dict[str, Any] = {}
    if subject.kind in ("token", "token_group"):
        tokens = {
            "ref_token_logp": TREE.token_logp(TREE.conditionals(jnp.asarray(ref_logp))),
            "mask": jnp.asarray(TREE.mask),
        }
    held = {
        field: jnp.asarray(ref_logp)[None] if field == "opponent_logp" else jnp.asarray(ref_logp)
        for field in HELD
        if subject.method is not None and field in subject.method.reads
    }
    return Problem(
        **held,
        ref_logp=jnp.asarray(ref_logp),
        reward=jnp.asarray(reward),
        preference=None if preference is None else jnp.asarray(preference),
        **tokens,
    )


@functools.lru_cache(maxsize=256)
def gradient_field(subject: Subject) -> Callable[[Array, Problem], Array]:
    """(logits, problem) -> the expected gradient of each instance, compiled once for a subject."""
    method = subject.as_method
    size = {"group": 3, "token_group": 2}.get(subject.kind)
    given = dict(subject.hyper) if subject.method is not None else {}
    k, numbers, fixed = split(method, given if size is None or method.num_responses else {**given, "group_size": size})

    def total(logits: Array, problem: Problem) -> Array:
        policy = _policy(subject, logits)
        return expected_loss(problem, policy, numbers, method=method, k=k, fixed=fixed).sum()

    return jax.jit(jax.grad(total))


@functools.partial(jax.jit, static_argnames=("field", "num_steps"))
def adam(logits: Array, problem: Problem, field: Callable[..., Array], num_steps: int) -> Array:
    """Adam at rate 0.1, cosine to 0: reaches the neighbourhood whatever the loss's scale."""

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        x, m, v = carry
        g = field(x, problem)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        rate = 0.1 * 0.5 * (1 + jnp.cos(jnp.pi * t / num_steps))
        x = x - rate * (m / (1 - 0.9 ** (t + 1))) / (jnp.sqrt(v / (1 - 0.99 ** (t + 1))) + 1e-14)
        return (x, m, v), None

    zeros = jnp.zeros_like(logits)
    return jax.lax.scan(step, (logits, zeros, zeros), jnp.arange(num_steps, dtype=logits.dtype))[0][0]


@functools.partial(jax.jit, static_argnames=("field",))
def _newton(logits: Array, problem: Problem, field: Callable[..., Array]) -> tuple[Array, Array]:
    """Newton on the field of each instance (its gauge, a constant, fixed): the logits, and the last step's size."""
    a = logits.shape[-1]
    basis = jnp.eye(a, dtype=logits.dtype)

    def step(x: Array, _: None) -> tuple[Array, Array]:
        g = field(x, problem)
        # By differences: the sampler's law is detached inside the field, and jvp would not see it move.
        columns = [(field(x + 1e-5 * e, problem) - field(x - 1e-5 * e, problem)) / 2e-5 for e in basis]
        jacobian = jnp.stack(columns, -1)
        size = jnp.abs(jacobian).max((-1, -2), keepdims=True)
        move = -jnp.linalg.solve(jacobian + size / a, g[..., None])[..., 0]
        move = jnp.where(jnp.isfinite(move), move, 0.0)
        length = jnp.abs(move).max(-1, keepdims=True)
        return x + move * jnp.minimum(1.0, 1.0 / jnp.maximum(length, 1e-30)), length[..., 0]

    logits, lengths = jax.lax.scan(step, logits, None, length=12)
    return logits, lengths[-1]


@dataclasses.dataclass(frozen=True)
class Reached:
    """Where the descent of a set of instances ended."""

    logp: np.ndarray
    finite: bool
    """Newton's steps vanished on every instance: a stationary point, not a slope towards infinity."""


def descend(subject: Subject, problem: Problem, start: np.ndarray, num_steps: int = 2_000) -> Reached:
    """Follow the gradient that autodiff returns, from `start`."""
    field = gradient_field(subject)
    near = adam(jnp.asarray(start), problem, field, num_steps)
    logits, last = _newton(near, problem, field)
    settled = np.asarray(last) < 1e-6
    moved = np.abs(np.exp(log_softmax(logits)) - np.exp(log_softmax(near))).max(-1) / 2
    finite = bool(settled.all() and np.isfinite(np.asarray(logits)).all() and (moved < 0.25).all())
    return Reached(np.asarray(log_softmax(logits if finite else near)), finite)
