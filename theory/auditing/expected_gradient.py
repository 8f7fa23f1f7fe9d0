"""The expected gradient itself: is it that of the regularised reward, which KL is in it, what does one step do."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax import kl_estimators
from alignjax.logspace import log_softmax
from alignjax.problem import Problem
from theory import strategies
from theory.auditing.population import NUM_INSTANCES, NUM_RESPONSES, TREE, gradient_field, instances, population_problem
from theory.auditing.report import Property, Verdict
from theory.auditing.search import plain, smallest
from theory.auditing.subject import Subject
from theory.auditing.targets import normalise


def unbiased_gradient(subject: Subject) -> Property:
    """The expected gradient against -(grad E[r] - beta grad KL(policy || reference)), one beta >= 0 for all
    instances.
    """
    if subject.kind not in ("group", "token_group"):
        return Property("does not apply", None, None, "it is not a policy gradient")
    case = instances(1.0)
    given = population_problem(subject, case.ref_logp, case.reward, case.preference)
    gradient = np.asarray(gradient_field(subject)(jnp.asarray(case.start), given))
    p = np.exp(normalise(case.start))
    h = np.log(p) - case.ref_logp
    value = lambda x: p * (x - (p * x).sum(-1, keepdims=True))
    score = case.reward
    if subject.method is not None and "win_rate" in subject.method.reads:
        score = _win_rates(subject, given, np.log(p))
    columns = np.stack([-value(score).ravel(), value(h).ravel()], -1)
    (scale, weighted), *_ = np.linalg.lstsq(columns, gradient.ravel(), rcond=None)
    left = np.abs(gradient.ravel() - columns @ np.asarray([scale, weighted])).max() / np.abs(gradient).max()
    if left < 1e-6 and scale > 0 and weighted >= -1e-9 * scale:
        beta = max(float(weighted / scale), 0.0)
        return Property("holds", round(beta, 9), None, f"{scale:.4g} times the gradient at beta = {beta:.4g}")
    example = {"reward": case.reward[0], "policy": p[0], "reference": np.exp(case.ref_logp[0]), "gradient": gradient[0]}
    return Property("fails", None, plain(example), f"parallel for no beta: {100 * left:.1f}% of it is left over")


def _win_rates(subject: Subject, problem: Problem, logp: np.ndarray) -> np.ndarray:
    method = subject.method
    assert method is not None and method.opponent is not None
    rival = method.opponent(problem, jnp.asarray(logp), **method.own(method.opponent, subject.hyper))
    return np.einsum("nij,nj->ni", np.asarray(problem.preferences()), np.exp(np.asarray(rival)))


class KL(NamedTuple):
    """Which KL an expected gradient contains."""

    name: str
    """reverse, forward, none, token_partial, other, does not apply."""
    partial: str | None
    """The direction of each token's own KL, "reverse" or "forward", where the name is token_partial."""
    found: Property


_KNOWN_KLS: dict[str, tuple[str, str | None, str]] = {
    "reverse": ("reverse", None, "KL(policy || reference)"),
    "forward": ("forward", None, "KL(reference || policy), the forward one"),
    "each token, reverse": ("token_partial", "reverse", "each token's own KL, without its effect on later ones"),
    "each token, forward": (
        "token_partial",
        "forward",
        "each token's own forward KL, without its effect on later ones",
    ),
}
"""What a gradient is compared with -> (the report's name, the direction of a partial one, in words)."""


def kl_direction(subject: Subject) -> KL:
    """The gradient that is left where rewards are all equal, against that of each KL."""
    if subject.kind in ("pair", "point"):
        why = "the reference enters through the margin"
        return KL("does not apply", None, Property("does not apply", None, None, why))
    case = instances(1.0)
    flat, even = np.zeros_like(case.reward), np.full((NUM_INSTANCES, NUM_RESPONSES, NUM_RESPONSES), 0.5)
    problem = population_problem(subject, case.ref_logp, flat, even)
    gradient = np.asarray(gradient_field(subject)(jnp.asarray(case.start), problem))
    p, q = np.exp(normalise(case.start)), np.exp(case.ref_logp)
    h = np.log(p) - case.ref_logp
    known = {"reverse": p * (h - (p * h).sum(-1, keepdims=True)), "forward": p - q}
    if subject.kind in ("token", "token_group"):
        for direction in ("reverse", "forward"):
            own = _myopic(jnp.asarray(case.start), jnp.asarray(case.ref_logp), forward=direction == "forward")
            known[f"each token, {direction}"] = np.asarray(own)
    size = np.abs(gradient).max()
    reads = _reads_reference(subject)
    # Relative to the KL's own gradient, so that a loss which casts to float32 inside counts by its rounding.
    if size < 2e-6 * np.abs(known["reverse"]).max():
        if not reads:
            return KL("none", None, Property("does not apply", "none", None, "it does not read the reference"))
        why = "the reference is read, and the expected gradient does not contain it"
        return KL("none", None, Property("fails", "none", None, why))
    for key, slope in known.items():
        c = (gradient * slope).sum() / (slope * slope).sum()
        if c > 0 and np.abs(gradient - c * slope).max() < 1e-5 * size:
            name, partial, words = _KNOWN_KLS[key]
            holds: Verdict = "holds" if name == "reverse" else "fails"
            return KL(name, partial, Property(holds, name, None, f"{c:.4g} times that of {words}"))
    example = plain({"policy": p[0], "reference": q[0], "gradient": gradient[0]})
    return KL("other", None, Property("fails", "other", example, "the gradient is that of no KL"))


@functools.partial(jax.jit, static_argnames=("forward",))
def _myopic(logits: Array, ref_logp: Array, *, forward: bool) -> Array:
    """Gradient of sum over the policy's prefixes of each conditional KL, the prefixes held fixed."""
    weight = jax.lax.stop_gradient(jnp.exp(log_softmax(logits)))
    reference = TREE.token_logp(TREE.conditionals(ref_logp))

    def total(x: Array) -> Array:
        tokens = TREE.token_logp(TREE.conditionals(log_softmax(x)))
        each = (
            kl_estimators.k3(tokens, reference).sum(-1)
            if forward
            else kl_estimators.kl_tokens_myopic(tokens, reference)
        )
        return (weight * each).sum()

    return jax.grad(total)(logits)


def _reads_reference(subject: Subject) -> bool:
    """Whether the value or the gradient moves with the reference."""
    strategy = subject.batches(lowest=-8.0)
    name = "ref_token_logp" if "token" in subject.kind else "ref_logp"

    def moves(batch: dict[str, Any]) -> bool:
        other = {**batch, name: batch[name] - 1.0}
        before, after = subject.value_and_grad(batch), subject.value_and_grad(other)
        return any(np.abs(x - y).max() > 1e-5 for x, y in zip(before, after, strict=True))

    return smallest(strategy, moves, examples=20) is not None


def chosen_rises(subject: Subject) -> Property:
    """One small step on a pair, three responses that share two features: does the chosen one become likelier?"""
    if subject.kind != "pair":
        return Property("does not apply", None, None, "there is no chosen response")

    def rise(features: np.ndarray) -> float:
        start = np.zeros((1, 2)) - np.log(3.0)
        _, gradient = subject.value_and_grad({"logp": start, "ref_logp": start})
        directions = features - features.mean(0)  # grad log pi_i at the uniform policy
        step = gradient[0] @ directions[:2]
        return -float(directions[0] @ step)

    size = float(np.abs(subject.value_and_grad({"logp": np.zeros((1, 2)), "ref_logp": np.zeros((1, 2))})[1]).max())
    if size < 1e-9:
        return Property("not shown", None, None, "the gradient is 0 where policy and reference agree")
    found = smallest(strategies.arrays((3, 2), -2.0, 2.0), lambda x: rise(x) < -1e-4 * size, examples=400)
    if found is None:
        return Property("holds")
    example = {"features": found, "rate_of_log_prob_of_the_chosen": rise(found) / size}
    why = "the chosen response's probability falls (likelihood displacement)"
    return Property("fails", None, plain(example), why)
