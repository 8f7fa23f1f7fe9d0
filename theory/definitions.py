r"""Definitions written out as sums over a finite set: the side of a statement that shares no code with `alignjax`.

Nothing here imports `alignjax`. Laws are log-probabilities `[A]` whose -inf entries are zero mass; preferences are
`[A, A]`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

Law = Float[Array, "A"]


def expectation(logp: Law, values: Float[Array, "A"]) -> Float[Array, ""]:
    r"""E_p[values]; where p has no mass the value does not count, whatever it is."""
    p = jnp.exp(logp)
    return jnp.sum(p * jnp.where(p > 0, values, 0.0))


def kl(logp: Law, logq: Law) -> Float[Array, ""]:
    r"""sum_y p(y) (log p(y) - log q(y)), with 0 log 0 = 0."""
    p = jnp.exp(logp)
    inside = p > 0
    return jnp.sum(jnp.where(inside, p * (jnp.where(inside, logp, 0.0) - jnp.where(inside, logq, 0.0)), 0.0))


def normalised(log_weights: Float[Array, "A"]) -> Law:
    r"""log(w / sum w), from log-weights; by exp, sum and log."""
    shifted = log_weights - jnp.max(log_weights)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted)))


def gibbs(ref_logp: Law, score: Float[Array, "A"], temperature: ScalarLike) -> Law:
    r"""ref(y) exp(score(y) / temperature) / Z."""
    return normalised(ref_logp + score / temperature)


def mixture(logp: Law, ref_logp: Law, weight: ScalarLike) -> Law:
    r"""pi^{1-m} ref^m / Z on the support of both."""
    alive = jnp.isfinite(logp) & jnp.isfinite(ref_logp)
    safe = (1 - weight) * jnp.where(alive, logp, 0.0) + weight * jnp.where(alive, ref_logp, 0.0)
    return normalised(jnp.where(alive, safe, -jnp.inf))


def objective(logp: Law, ref_logp: Law, reward: Float[Array, "A"], beta: ScalarLike) -> Float[Array, ""]:
    r"""J(pi) = E_pi[r] - beta KL(pi || ref)."""
    return expectation(logp, reward) - beta * kl(logp, ref_logp)


def win_rate(preference: Float[Array, "A A"], opponent_logp: Law) -> Float[Array, "A"]:
    r"""P(y beats nu) = sum_y' P(y, y') nu(y')."""
    return jnp.sum(preference * jnp.exp(opponent_logp)[None, :], axis=1)


def wins(preference: Float[Array, "A A"], logp: Law, opponent_logp: Law) -> Float[Array, ""]:
    r"""P(pi beats nu) = sum_y sum_y' pi(y) P(y, y') nu(y')."""
    return jnp.sum(jnp.exp(logp)[:, None] * preference * jnp.exp(opponent_logp)[None, :])


def payoff(
    preference: Float[Array, "A A"], ref_logp: Law, tau: ScalarLike, logp: Law, opponent_logp: Law
) -> Float[Array, ""]:
    r"""J(pi, nu) = P(pi beats nu) - tau KL(pi || ref) + tau KL(nu || ref)."""
    return wins(preference, logp, opponent_logp) - tau * kl(logp, ref_logp) + tau * kl(opponent_logp, ref_logp)


def best_response(preference: Float[Array, "A A"], ref_logp: Law, tau: ScalarLike, opponent_logp: Law) -> Law:
    r"""ref(y) exp(P(y beats nu) / tau) / Z."""
    return gibbs(ref_logp, win_rate(preference, opponent_logp), tau)


def duality_gap(preference: Float[Array, "A A"], ref_logp: Law, tau: ScalarLike, logp: Law) -> Float[Array, ""]:
    r"""max_a J(a, pi) - min_b J(pi, b), each extremum attained by the best response in that seat."""
    response = best_response(preference, ref_logp, tau, logp)
    attack = payoff(preference, ref_logp, tau, response, logp)
    defence = payoff(preference, ref_logp, tau, logp, response)
    return attack - defence


def policy_gradient(logp: Law, advantage: Float[Array, "A"]) -> Float[Array, "A"]:
    r"""sum_y pi(y) A(y) grad log pi(y) with respect to softmax logits: pi(y) (A(y) - E_pi A)."""
    p = jnp.exp(logp)
    advantage = jnp.where(p > 0, advantage, 0.0)
    return p * (advantage - jnp.sum(p * advantage))


def weighted_score(logp: Law, weight: Float[Array, "A"]) -> Float[Array, "A"]:
    r"""sum_y w(y) grad log pi(y) with respect to softmax logits: w - pi sum w."""
    return weight - jnp.exp(logp) * jnp.sum(weight)


def log_ratio(logp: Law, ref_logp: Law) -> Float[Array, "A"]:
    r"""h = log pi - log ref where pi has mass, 0 elsewhere (there it is multiplied by 0)."""
    alive = jnp.isfinite(logp)
    return jnp.where(alive, jnp.where(alive, logp, 0.0) - jnp.where(alive, ref_logp, 0.0), 0.0)


def sigmoid(x: Array) -> Array:
    r"""1 / (1 + e^{-x})."""
    return 1.0 / (1.0 + jnp.exp(-x))


def minus_log_sigmoid(x: Array) -> Array:
    r"""log(1 + e^{-x}), arranged so that e^{-|x|} is the only exponential."""
    return jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.maximum(-x, 0.0)


def pair_mean(first: Law, second: Law, table: Float[Array, "A A"]) -> Float[Array, ""]:
    r"""sum_y sum_y' nu_0(y) nu_1(y') table(y, y'); entries that are never drawn do not count."""
    weight = jnp.exp(first)[:, None] * jnp.exp(second)[None, :]
    return jnp.sum(jnp.where(weight > 0, weight * jnp.where(weight > 0, table, 0.0), 0.0))


def outer_difference(x: Float[Array, "A"]) -> Float[Array, "A A"]:
    r"""x(y) - x(y')."""
    return x[:, None] - x[None, :]


def softmax_of(logits: Float[Array, "A"]) -> Law:
    r"""Log-probabilities of softmax logits, for autodiff of a definition; -inf entries are constants."""
    alive = jnp.isfinite(logits)
    top = jax.lax.stop_gradient(jnp.max(logits))
    weights = jnp.where(alive, jnp.exp(jnp.where(alive, logits, 0.0) - top), 0.0)
    return jnp.where(alive, jnp.where(alive, logits, 0.0) - top - jnp.log(jnp.sum(weights)), -jnp.inf)
