"""Losses as published, written down as ours in a few lines each: the formula, not the code, of the named function.

The arrays have the names and shapes of `theory.auditing.subject.KINDS`; each returns one value per prompt.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

sg = jax.lax.stop_gradient
log_sigmoid = jax.nn.log_sigmoid
Loss = Callable[..., Array]
Elementwise = Callable[[Array, Array], Array]


# --- what each package adds per token


def k1(logp: Array, ref_logp: Array) -> Array:
    """The plain log-ratio."""
    return logp - ref_logp


def k2(logp: Array, ref_logp: Array) -> Array:
    """Half its square."""
    return 0.5 * jnp.square(logp - ref_logp)


def k3(logp: Array, ref_logp: Array) -> Array:
    """ref/pi - 1 - log(ref/pi)."""
    return jnp.exp(ref_logp - logp) - (ref_logp - logp) - 1


def k3_weighted(logp: Array, ref_logp: Array) -> Array:
    """k3 times the token's own importance ratio (1 on-policy, but differentiated)."""
    return jnp.exp(logp - sg(logp)) * k3(logp, ref_logp)


def k3_clamped(logp: Array, ref_logp: Array) -> Array:
    """k3 with its exponent held in [-20, 20] and its value in [-10, 10]."""
    gap = jnp.clip(ref_logp - logp, -20.0, 20.0)
    return jnp.clip(jnp.exp(gap) - gap - 1, -10.0, 10.0)


def k3_value_k2_gradient(logp: Array, ref_logp: Array) -> Array:
    """The value of clamped k3, the gradient of k2."""
    other = k2(logp, ref_logp)
    return other - sg(other) + sg(k3_clamped(logp, ref_logp))


def undetached_ratio(logp: Array, ref_logp: Array) -> Array:
    """(log pi - log ref) log pi, differentiated as a whole: the factor of grad log pi is 2 log pi - log ref."""
    return (logp - ref_logp) * logp


def detached_ratio(logp: Array, ref_logp: Array) -> Array:
    """sg[log pi - log ref] log pi."""
    return sg(logp - ref_logp) * logp


def summed(elementwise: Elementwise, name: str) -> Loss:
    """A token loss: the sum over a response's tokens."""

    def loss(token_logp: Array, ref_token_logp: Array, mask: Array) -> Array:
        return (elementwise(token_logp, ref_token_logp) * mask).sum(-1)

    loss.__name__ = name
    return loss


def averaged(elementwise: Elementwise, name: str) -> Loss:
    """A token loss: the mean over a response's tokens."""

    def loss(token_logp: Array, ref_token_logp: Array, mask: Array) -> Array:
        return (elementwise(token_logp, ref_token_logp) * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)

    loss.__name__ = name
    return loss


def detached_ratio_of_the_response(token_logp: Array, ref_token_logp: Array, mask: Array) -> Array:
    """The same with the whole response as one token: sg[sum h] sum log pi."""
    return detached_ratio((token_logp * mask).sum(-1), (ref_token_logp * mask).sum(-1))


# --- policy gradients


def k3_of_the_response(logp: Array, ref_logp: Array, reward: Array) -> Array:
    """k3 of whole responses, as a loss beside a reward that it does not read."""
    return k3(logp, ref_logp).mean(-1)


def rloo_k1_in_reward(logp: Array, ref_logp: Array, reward: Array, *, beta: float = 0.05) -> Array:
    """Leave-one-out advantages of r - beta h, on the ratio of the response to itself."""
    regularised = sg(reward - beta * (logp - ref_logp))
    size = reward.shape[-1]
    others = (regularised.sum(-1, keepdims=True) - regularised) / (size - 1)
    return -(jnp.exp(logp - sg(logp)) * (regularised - others)).mean(-1)


# --- pairs

Four = tuple[Array, Array, Array, Array]


def _margin(chosen: Array, rejected: Array, ref_chosen: Array, ref_rejected: Array) -> Array:
    return (chosen - rejected) - (ref_chosen - ref_rejected)


def pair(of_margin: Callable[..., Array], name: str) -> Loss:
    """A loss in the four arrays of a trainer, from a function of (margin, beta)."""

    def loss(
        policy_chosen_logps: Array,
        policy_rejected_logps: Array,
        reference_chosen_logps: Array,
        reference_rejected_logps: Array,
        beta: float = 0.1,
    ) -> Array:
        margin = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
        return of_margin(margin, beta)

    loss.__name__ = name
    return loss


EPS = 0.1
"""Label smoothing of the noisy-label losses."""
LENGTH = 2
"""Tokens in each response of the pair losses that average log-probs."""

sigmoid = pair(lambda m, beta: -log_sigmoid(beta * m), "sigmoid")
hinge = pair(lambda m, beta: jax.nn.relu(1 - beta * m), "hinge")
ipo_sum = pair(lambda m, beta: jnp.square(m - 1 / (2 * beta)), "ipo_sum")
ipo_mean = pair(lambda m, beta: jnp.square(m / LENGTH - 1 / (2 * beta)), "ipo_mean")
ipo_scaled = pair(lambda m, beta: jnp.square(0.5 - beta * m), "ipo_scaled")
conservative = pair(lambda m, beta: -(1 - EPS) * log_sigmoid(beta * m) - EPS * log_sigmoid(-beta * m), "conservative")
robust = pair(
    lambda m, beta: (-(1 - EPS) * log_sigmoid(beta * m) + EPS * log_sigmoid(-beta * m)) / (1 - 2 * EPS), "robust"
)


def exo_pair(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
    beta: float = 0.1,
) -> Array:
    """KL of the policy's choice between the two to the smoothed label."""
    m = beta * _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    keep, flip = jnp.log1p(-EPS), jnp.log(EPS)
    return jax.nn.sigmoid(m) * (log_sigmoid(m) - keep) + jax.nn.sigmoid(-m) * (log_sigmoid(-m) - flip)


def sppo_hard(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
    beta: float = 0.5,
) -> Array:
    """Each log-ratio to its own target +-1 / (2 beta)."""
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    return jnp.square(chosen - 0.5 / beta) + jnp.square(rejected + 0.5 / beta)


def wpo_summed_weight(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
    beta: float = 0.1,
) -> Array:
    """DPO times exp of the SUMMED log-probs, at most 1, differentiated: a `[B]` array meets a `[B, T]` mask (B = 1)."""
    m = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    weight = jnp.exp(jnp.minimum(policy_chosen_logps + policy_rejected_logps, 0.0))
    return -weight * log_sigmoid(beta * m)


def wpo_mean_weight(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
    beta: float = 0.1,
    length: float = 200.0,
) -> Array:
    """DPO times a detached exp of the MEAN log-probs of responses of `length` tokens."""
    m = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    weight = jnp.exp(jnp.minimum((policy_chosen_logps + policy_rejected_logps) / length, 0.0))
    return -sg(weight) * log_sigmoid(beta * m)


def simpo(logp: Array, ref_logp: Array, beta: float = 2.0, gamma: float = 1.0) -> Array:
    """Logistic in the mean log-probs with a margin gamma; the reference is not read."""
    gap = (logp[..., 0] - logp[..., 1]) / LENGTH
    return -log_sigmoid(beta * gap - gamma)


def orpo(logp: Array, ref_logp: Array, beta: float = 0.1) -> Array:
    """-log p of the chosen response - beta log sigmoid(difference of log-odds), in mean log-probs; no reference."""
    mean = logp / LENGTH
    odds = mean - jnp.log1p(-jnp.exp(mean))
    return -mean[..., 0] - beta * log_sigmoid(odds[..., 0] - odds[..., 1])


# --- points


def kto(logp: Array, ref_logp: Array, label: Array, beta: float = 0.1) -> Array:
    """1 - sigmoid(+-(beta h - z)), z the batch's mean log-ratio, at least 0, detached.

    The package estimates z on mismatched prompts and responses of the batch; here it is the batch itself, which is
    enough to show that prompts are coupled.
    """
    h = logp - ref_logp
    centre = beta * jnp.maximum(sg(h.mean()), 0.0)
    sign = 2 * label - 1
    return 1 - jax.nn.sigmoid(sign * (beta * h - centre))
