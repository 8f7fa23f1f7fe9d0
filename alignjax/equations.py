r"""The pieces most objectives are made of: links, contrasts and detached statistics. Arrays in, unreduced arrays out.

A method is a choice in a few slots (score, contrast, link, statistic, ...); here each slot's choices are functions,
and a method's file composes them. Leading axes are batch; the response axis K is last; scores and margins are nats.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.logspace import ArrayLike, Scalar, as_float, log_ratio, masked_mean, scaled

sg = jax.lax.stop_gradient
Link = Callable[[Array], Array]

# --- links: margin -> loss


def logistic(margin: Array) -> Array:
    r"""-log sigmoid(m) = log(1 + e^{-m}): convex, unbounded minimiser on certain labels."""
    return jax.nn.softplus(-margin)


def hinge(margin: Array, *, at: Scalar = 1.0) -> Array:
    r"""max(0, at - m)."""
    return jax.nn.relu(at - margin)


def square(margin: Array, *, target: Scalar) -> Array:
    r"""(m - target)^2."""
    return jnp.square(margin - target)


def bernoulli_cross_entropy(margin: Array, *, target: ArrayLike) -> Array:
    r"""-sigmoid(t) log sigmoid(m) - sigmoid(-t) log sigmoid(-m), t the target margin; t = inf is `logistic`."""
    target = as_float(target)
    return jax.nn.sigmoid(target) * logistic(margin) + jax.nn.sigmoid(-target) * logistic(-margin)


def bernoulli_kl(margin: Array, *, target: ArrayLike) -> Array:
    r"""KL(Ber(sigmoid(t)) || Ber(sigmoid(m))), t the target margin: the cross-entropy minus its minimum over m."""
    p, q = jax.nn.sigmoid(as_float(target)), jax.nn.sigmoid(-as_float(target))
    return (
        bernoulli_cross_entropy(margin, target=target) + jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlogy(q, q)
    )


# --- scores


def base_score(
    logp: ArrayLike, bases: Sequence[ArrayLike] | Array, weights: Sequence[Scalar] | Array
) -> Float[Array, "*batch K"]:
    r"""x = log pi - sum_j w_j log b_j, nats: the log-ratio to a weighted product of J bases.

    `logp` `[..., K]`; `bases` J arrays `[..., K]` or one `[J, ..., K]`; J `weights`, which need not sum to 1.
    """
    if len(bases) != len(weights):
        raise ValueError(f"every base needs one weight: there are {len(bases)} bases and {len(weights)} weights")
    terms = (scaled(as_float(w), as_float(b)) for w, b in zip(weights, bases, strict=True))
    return log_ratio(logp, functools.reduce(operator.add, terms, jnp.zeros_like(as_float(logp))))


def detached_margin(feedback: Array) -> Float[Array, "*batch"]:
    r"""sg[q_0 - q_1]: the difference of two responses' feedback as a target. `[..., 2]` -> `[...]`."""
    feedback = sg(as_float(feedback))
    return feedback[..., 0] - feedback[..., 1]


def kept(response_mask: ArrayLike | None, *arrays: Array) -> tuple[Array, ...]:
    """Arrays with masked responses replaced by 0, before any arithmetic can meet what they hold."""
    if response_mask is None:
        return arrays
    keep = jnp.asarray(response_mask) != 0
    return tuple(jnp.where(keep, array, 0.0) for array in arrays)


# --- contrasts: scores of responses -> one number per prompt


def pair(score: Array, link: Link, preference: ArrayLike | None = None) -> Float[Array, "*batch"]:
    r"""P l(s_0 - s_1) + (1 - P) l(s_1 - s_0), with P = preference[..., 0, 1]; without one, response 0 is the chosen.

    `score` `[..., 2]`, `preference` `[..., 2, 2]`.
    """
    # Two scores at the same infinity have no margin: 0, and no gradient, not NaN.
    alike = jnp.isinf(score[..., 0]) & (score[..., 0] == score[..., 1])
    margin = jnp.where(alike, 0.0, score[..., 0]) - jnp.where(alike, 0.0, score[..., 1])
    if preference is None:
        return link(margin)
    p = as_float(preference)[..., 0, 1]
    return p * link(margin) + (1 - p) * link(-margin)


def point(
    score: Array, label: Array, link: Link, shift: ArrayLike = 0.0, response_mask: ArrayLike | None = None
) -> Float[Array, "*batch"]:
    r"""mean_i l(sign_i (s_i - shift)), sign = +1 where `label` is 1 and -1 where it is 0. `[..., K]` -> `[...]`."""
    return masked_mean(link((2 * as_float(label) - 1) * (score - shift)), response_mask)


def listwise(score: Array, target: Array, response_mask: ArrayLike | None = None) -> Float[Array, "*batch"]:
    r"""-sum_i target_i log softmax(s)_i: weighted cross-entropy over the K responses."""
    score = as_float(score)
    if response_mask is not None:
        keep = jnp.asarray(response_mask) != 0
        score, target = jnp.where(keep, score, -jnp.inf), jnp.where(keep, target, 0.0)
        return -jnp.where(keep, target * jnp.where(keep, jax.nn.log_softmax(score, -1), 0.0), 0.0).sum(-1)
    return -(target * jax.nn.log_softmax(score, -1)).sum(-1)


def field(logp: Array, weight: Array, response_mask: ArrayLike | None = None) -> Float[Array, "*batch"]:
    r"""-mean_i sg[w_i] log pi(y_i): a policy-gradient surrogate; only its gradient has a meaning. `[..., K]` ->
    `[...]`.
    """
    weight, logp = kept(response_mask, weight, logp)
    return masked_mean(-sg(weight) * logp, response_mask)


def clipped_field(
    logp: Array, old_logp: Array, advantage: Array, clip_range: Scalar, response_mask: ArrayLike | None = None
) -> Float[Array, "*batch"]:
    r"""-mean_i min(rho_i A_i, clip(rho_i, 1 - c, 1 + c) A_i), rho = pi / sg[pi_old], A detached. `[..., K]` ->
    `[...]`.

    Source: Schulman et al., 2017, arXiv:1707.06347, Eq. 7.
    """
    logp, old_logp, advantage = kept(response_mask, logp, old_logp, advantage)
    ratio, advantage = jnp.exp(logp - sg(old_logp)), sg(advantage)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    return masked_mean(-jnp.minimum(ratio * advantage, clipped * advantage), response_mask)


def residual(score: Array, value: Array, target: Array) -> Array:
    r"""(s + V - target)^2: consistency of a score with a value. Elementwise."""
    return jnp.square(score + value - target)


# --- statistics: detached functions of feedback


def group_mean(reward: Array, response_mask: ArrayLike | None = None) -> Float[Array, "*batch 1"]:
    r"""Mean over the K responses of a prompt, keeping the axis."""
    return masked_mean(sg(reward), response_mask)[..., None]


def group_std(reward: Array, response_mask: ArrayLike | None = None, ddof: Scalar = 0) -> Float[Array, "*batch 1"]:
    r"""Standard deviation over the K responses of a prompt, keeping the axis; `ddof` 0 or 1."""
    reward = sg(as_float(reward))
    centred = jnp.square(reward - group_mean(reward, response_mask))
    count = _count(reward, response_mask)
    return jnp.sqrt(masked_mean(centred, response_mask)[..., None] * count / jnp.maximum(count - ddof, 1.0))


def leave_one_out(reward: Array, response_mask: ArrayLike | None = None) -> Float[Array, "*batch K"]:
    r"""r_i minus the mean of the others: (r_i - mean) K / (K - 1); 0 in a group of one.

    Source: Kool et al., 2019; Ahmadian et al., 2024, arXiv:2402.14740, Eq. 8.
    """
    reward = sg(as_float(reward))
    count = _count(reward, response_mask)
    return (reward - group_mean(reward, response_mask)) * jnp.where(count > 1, count / jnp.maximum(count - 1, 1.0), 0.0)


def group_covariance(first: Array, second: Array, response_mask: ArrayLike | None = None) -> Float[Array, "*batch"]:
    r"""1/(K - 1) sum_i (a_i - mean a)(b_i - mean b) = mean_{i < j} (a_i - a_j)(b_i - b_j) / 2; 0 in a group of one.

    Not detached: gradients flow through both. `[..., K]`, `[..., K]` -> `[...]`.
    """
    first, second = kept(response_mask, as_float(first), as_float(second))
    count = jnp.broadcast_to(_count(first, response_mask), (*first.shape[:-1], 1))[..., 0]
    centred = lambda x: x - masked_mean(x, response_mask)[..., None]
    product = masked_mean(centred(first) * centred(second), response_mask)
    return product * jnp.where(count > 1, count / jnp.maximum(count - 1, 1.0), 0.0)


def within_prompt_scale(reward: ArrayLike) -> Float[Array, ""]:
    r"""Standard deviation of rewards within their prompts, sqrt(mean (r_i - r_j)^2 / 2), over a batch `[..., K]`.

    Shifting all rewards of a prompt does not change it: P3O on r / scale keeps its invariance. K >= 2.
    """
    reward = sg(as_float(reward))
    return jnp.sqrt(group_covariance(reward, reward).mean())


def global_scale(reward: ArrayLike) -> Float[Array, ""]:
    r"""Standard deviation of all rewards of a batch `[..., K]`, what a running one tends to: prompts' means are in it.

    Source: the official code of Wu et al., 2023, arXiv:2310.00212 (scale_reward = "running").
    """
    return sg(as_float(reward)).std()


def _count(reward: Array, response_mask: ArrayLike | None) -> Float[Array, "*batch 1"]:
    if response_mask is None:
        return jnp.asarray(float(reward.shape[-1]), reward.dtype)
    return jnp.sum(jnp.asarray(response_mask) != 0, -1, keepdims=True).astype(reward.dtype)
