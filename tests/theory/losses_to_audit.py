"""Strangers' losses, right and wrong, in the forms the audit accepts."""

import jax
import jax.numpy as jnp
import numpy as np


def _margin(pc, pr, rc, rr):
    return (pc - pr) - (rc - rr)


def right_pair(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    margin = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return -jax.nn.log_sigmoid(beta * margin).mean(), beta * margin


def overflowing_pair(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """log of the sigmoid."""
    margin = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return -jnp.log(jax.nn.sigmoid(beta * margin)).mean()


def clamped_pair(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """Clipped so that nothing overflows, and nothing is learnt from a large mistake."""
    margin = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return -jnp.log(jnp.clip(jax.nn.sigmoid(beta * margin), 1e-7, 1.0))


def swapped_reference(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    margin = _margin(policy_chosen_logps, policy_rejected_logps, reference_rejected_logps, reference_chosen_logps)
    return -jax.nn.log_sigmoid(beta * margin)


def batch_centred(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    margin = _margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return -jax.nn.log_sigmoid(0.1 * (margin - margin.mean())).mean()


def one_sided(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    """Not invariant to a constant on both log-probs."""
    chosen = policy_chosen_logps - reference_chosen_logps
    return -jax.nn.log_sigmoid(0.1 * (chosen - 0.5 * (policy_rejected_logps - reference_rejected_logps)))


def likelihood(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    """Supervised fine-tuning on the chosen responses."""
    return -policy_chosen_logps


def undetached(logp, ref_logp, reward):
    h = logp - ref_logp
    return -((reward - reward.mean(-1, keepdims=True) - 0.1 * h) * logp).mean(-1)


def forward_penalty(logp, ref_logp, reward):
    h = logp - ref_logp
    advantage = jax.lax.stop_gradient(reward - reward.mean(-1, keepdims=True))
    return (-advantage * logp + 0.1 * (jnp.expm1(-h) + h)).mean(-1)


def _h(token_logp, ref_token_logp, mask):
    keep = mask != 0
    return jnp.where(keep, token_logp, 0.0) - jnp.where(keep, ref_token_logp, 0.0)


def k1_mean(token_logp, ref_token_logp, mask):
    return ((token_logp - ref_token_logp) * mask).sum(-1) / mask.sum(-1)


def k2_tokens(token_logp, ref_token_logp, mask):
    return 0.5 * jnp.square(_h(token_logp, ref_token_logp, mask)).sum(-1)


def k2_sequence(token_logp, ref_token_logp, mask):
    return 0.5 * jnp.square(_h(token_logp, ref_token_logp, mask).sum(-1))


def k3_sequence(token_logp, ref_token_logp, mask):
    h = _h(token_logp, ref_token_logp, mask).sum(-1)
    return jnp.expm1(-h) + h


def k3_tokens(token_logp, ref_token_logp, mask):
    h = _h(token_logp, ref_token_logp, mask)
    return (jnp.expm1(-h) + h).sum(-1)


def point_logistic(logp, ref_logp, label, *, beta):
    h = beta * (logp - ref_logp)
    return -jax.nn.log_sigmoid((2 * label - 1) * h)


def wrong_shape(logp, ref_logp, reward):
    return logp


def raising(logp, ref_logp, reward):
    raise RuntimeError("the judge is asleep")


def not_jax(logp, ref_logp, reward):
    return np.asarray(logp).sum(-1)


def counting(logp, ref_logp, reward):
    return (logp > ref_logp).sum(-1)


def unreadable(a, b, c):
    return a


not_a_function = 3
