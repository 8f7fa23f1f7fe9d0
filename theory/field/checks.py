"""Properties that belong to one loss of the field."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory.auditing.report import Property


def _pair_gradient(loss: Callable[..., Any], chosen: float, rejected: float) -> np.ndarray:
    """d loss / d (chosen, rejected) where policy and reference agree."""
    at = jnp.asarray([chosen, rejected])
    return np.asarray(jax.grad(lambda x: loss(x[:1], x[1:], at[:1], at[1:]).sum())(at))


def chosen_first_goes_up(loss: Callable[..., Any]) -> Property:
    """A first step, taken where policy and reference agree, must raise the chosen response's own log-prob."""
    for chosen in (-1.0, -2.0, -4.0):
        slope = _pair_gradient(loss, chosen, -1.0)
        if slope[0] >= 0:
            example = {"logp": [chosen, -1.0], "ref_logp": [chosen, -1.0], "gradient": slope.round(4).tolist()}
            return Property("fails", None, example, "descent LOWERS the chosen response")
    return Property("holds")


def long_responses_teach(loss: Callable[..., Any]) -> Property:
    """A pair of long responses, 1 nat a token, must still have a gradient."""
    for length in (10, 25, 50, 100, 200):
        slope = _pair_gradient(loss, -float(length), -float(length))
        if np.abs(slope).max() < 1e-8:
            example = {"tokens": length, "logp": [-length, -length], "largest gradient": float(np.abs(slope).max())}
            return Property("fails", None, example, "the weight of a long pair underflows: nothing is learnt from it")
    return Property("holds")


def pull_on_the_far_side(loss: Callable[..., Any]) -> Property:
    """A token that the policy has made much rarer than the reference has must be pulled back."""
    one = jnp.ones((1, 1))
    for gap in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0):
        slope = float(jax.grad(lambda x, gap=gap: loss(x, x * 0, one).sum())(-gap * one)[0, 0])
        if slope == 0.0:
            example = {"token_logp": [-gap], "ref_token_logp": [0.0], "gradient": 0.0}
            return Property("fails", None, example, "a clamp turns the penalty off beyond this gap")
    return Property("holds")


def _of_two(kl: Callable[..., Any], direction: str) -> Callable[[jax.Array], jax.Array]:
    """A KL of two logits to the reference (1/4, 3/4), read as each argument order allows."""
    ref = jnp.asarray([0.25, 0.75])
    if direction == "policy first":
        return lambda x: kl(jax.nn.log_softmax(x), ref)
    return lambda x: kl(jnp.log(ref), jax.nn.softmax(x))


def _which(kl: Callable[..., Any], direction: str) -> tuple[str, float, np.ndarray]:
    x = jnp.asarray([0.0, 0.0])
    value, slope = jax.value_and_grad(_of_two(kl, direction))(x)
    p, q = np.asarray([0.5, 0.5]), np.asarray([0.25, 0.75])
    h = np.log(p / q)
    known = {"reverse": p * (h - p @ h), "forward": p - q}
    name = min(known, key=lambda name: np.abs(known[name] - np.asarray(slope)).max())
    ok = np.allclose(known[name], slope, atol=1e-6)
    return (name if ok else "other"), float(value), np.asarray(slope)


def order_of_arguments(kl: Callable[..., Any]) -> Property:
    """kl(log of the policy, reference): is it the KL(policy || reference) that this order suggests?"""
    name, value, slope = _which(kl, "policy first")
    example = {"policy": [0.5, 0.5], "reference": [0.25, 0.75], "value": round(value, 4), "gradient": slope.tolist()}
    if name == "reverse":
        return Property("holds", name)
    why = "the second argument is the first of the KL: kl(log policy, reference) = KL(reference || policy)"
    return Property("fails", name, example, why)


def reverse_with_swapped_arguments(kl: Callable[..., Any]) -> Property:
    """kl(log reference, policy) is KL(policy || reference), value and gradient."""
    name, _, _ = _which(kl, "reference first")
    return Property("holds" if name == "reverse" else "fails", name)


def empty_responses_are_harmless(kl: Callable[..., Any]) -> Property:
    """A response without mass in the policy, in the reference, or in both (a banned token) gives no NaN."""
    dead = -jnp.inf
    first = jax.grad(lambda x: kl(jax.nn.log_softmax(jnp.append(x, dead)), jnp.asarray([0.5, 0.5, 0.0])))
    second = jax.grad(lambda x: kl(jnp.log(jnp.asarray([0.25, 0.5, 0.25])), jax.nn.softmax(jnp.append(x, dead))))
    at = jnp.asarray([0.0, 0.0])
    for name, gradient in (
        ("kl(log policy, reference), both without mass on the third response", first(at)),
        ("kl(log reference, policy), the policy without mass on the third response", second(at)),
    ):
        if not np.isfinite(gradient).all():
            return Property(
                "fails", None, {"case": name, "gradient": [str(float(g)) for g in gradient]}, "NaN gradient"
            )
    return Property("holds")
