r"""Sampled estimators of KL(pi || ref), as values and as losses: what each one's gradient really estimates.

With y ~ pi and h = log pi(y) - log ref(y), all functions are elementwise and unreduced. The value and the gradient
are two different questions: the mean of k1 is the KL, yet the mean of its gradient is zero. `ESTIMATORS` lists for
each what the expected gradient of the *loss* is when y ~ sg[pi]; the statements `rl/K*` check every row.

Sources: Schulman, 2020, "Approximating KL divergence" (k1, k2, k3); Tang and Munos, 2025, arXiv:2506.09477 (the
gradients); Shao et al., 2024, arXiv:2402.03300, Eq. 4 (k3 in GRPO).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.logspace import ArrayLike, as_float, log_ratio

sg = jax.lax.stop_gradient
Values = Float[Array, "*shape"]


def k1(logp: ArrayLike, ref_logp: ArrayLike) -> Values:
    r"""k1 = h. Unbiased value; as a loss its expected gradient is 0: the reference drops out."""
    return log_ratio(logp, ref_logp)


def k2(logp: ArrayLike, ref_logp: ArrayLike) -> Values:
    r"""k2 = h^2 / 2. Biased value; as a loss its expected gradient is that of KL(pi || ref)."""
    return 0.5 * jnp.square(log_ratio(logp, ref_logp))


def k3(logp: ArrayLike, ref_logp: ArrayLike) -> Values:
    r"""k3 = e^{-h} - 1 + h >= 0. Unbiased value; as a loss its expected gradient is that of the forward KL(ref ||
    pi).
    """
    h = log_ratio(logp, ref_logp)
    return jnp.expm1(-h) + h


def k1_in_reward(logp: ArrayLike, ref_logp: ArrayLike) -> Values:
    r"""sg[h] log pi: the KL as a detached penalty in the reward; its expected gradient is that of KL(pi || ref)."""
    return sg(log_ratio(logp, ref_logp)) * as_float(logp)


def k3_weighted(logp: ArrayLike, ref_logp: ArrayLike) -> Values:
    r"""(pi / sg[pi]) k3: the importance weight restores the score term, and the gradient of KL(pi || ref)."""
    logp = as_float(logp)
    return jnp.exp(logp - sg(logp)) * k3(logp, ref_logp)


def reward_to_go(values: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, "*batch T"]:
    r"""sum_{m >= n} values_m along the last axis, masked entries counting 0 (and returning 0)."""
    values = as_float(values)
    if mask is not None:
        values = jnp.where(jnp.asarray(mask) != 0, values, 0.0)
    total = jnp.flip(jnp.cumsum(jnp.flip(values, -1), -1), -1)
    return total if mask is None else jnp.where(jnp.asarray(mask) != 0, total, 0.0)


def kl_tokens_to_go(
    token_logp: ArrayLike, ref_token_logp: ArrayLike, mask: ArrayLike | None = None
) -> Float[Array, "*batch"]:
    r"""sum_n sg[sum_{m >= n} h_m] log pi(y_n | y_<n): a token-level loss whose expected gradient is that of KL(pi ||
    ref).

    A token answers for the log-ratio of all that follows it. Leaving out the future (h_n alone) misses the effect of
    a token on later KL: see `kl_tokens_myopic`. Shapes `[..., T]` -> `[...]`; masked tokens may hold anything.
    Source: Munos et al., 2023, arXiv:2312.00886, Appendix F.2.
    """
    token_logp, ref_token_logp = _select(token_logp, mask), _select(ref_token_logp, mask)
    to_go = reward_to_go(log_ratio(token_logp, ref_token_logp), mask)
    return (sg(to_go) * token_logp).sum(-1)


def kl_tokens_myopic(
    token_logp: ArrayLike, ref_token_logp: ArrayLike, mask: ArrayLike | None = None
) -> Float[Array, "*batch"]:
    r"""sum_n sg[h_n] log pi(y_n | y_<n): token by token, without the future. Biased as soon as T >= 2.

    Its expected gradient is E sum_n of the gradient of each conditional KL at frozen prefixes (the same as of
    token-wise k2), not that of the sequence's KL(pi || ref). Here because it is widely shipped, and so that the bias
    can be measured.
    """
    token_logp, ref_token_logp = _select(token_logp, mask), _select(ref_token_logp, mask)
    return (sg(log_ratio(token_logp, ref_token_logp)) * token_logp).sum(-1)


def _select(x: ArrayLike, mask: ArrayLike | None) -> Array:
    x = as_float(x)
    return x if mask is None else jnp.where(jnp.asarray(mask) != 0, x, 0.0)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """`mean`: what the value averages to under y ~ pi; `gradient`: what the loss's gradient averages to."""

    loss: Callable[[ArrayLike, ArrayLike], Array]
    mean: str
    gradient: str


ESTIMATORS: dict[str, Estimator] = {
    "k1": Estimator(k1, mean="KL(pi || ref)", gradient="zero"),
    "k2": Estimator(k2, mean="E_pi[h^2] / 2, biased", gradient="reverse"),
    "k3": Estimator(k3, mean="KL(pi || ref)", gradient="forward"),
    "k1_in_reward": Estimator(k1_in_reward, mean="a surrogate: no meaning", gradient="reverse"),
    "k3_weighted": Estimator(k3_weighted, mean="KL(pi || ref)", gradient="reverse"),
}
