r"""The law of the best of N samples, exactly and in log space, and the reward whose optimum it is.

With p_<(y), p_<=(y) the chances that one sample of the policy is worse than y, and at most as good,

    pi_BoN(y) = pi(y) (p_<=^N - p_<^N) / (p_<= - p_<) = pi(y) p_<=^{N-1} B,      B = sum_{i=1}^N (p_< / p_<=)^{i-1}

exact with ties too, where the winner among tied samples is a random or the first one. One sort, so O(A log A).
Source: Sessa et al., 2024, arXiv:2407.14622, Theorem 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, Scalar, as_float, as_policy, per_batch

LogPolicy = Float[Array, "*batch A"]

TIES = ("sample", "order")


class Quantiles(NamedTuple):
    """Log-probabilities, under one sample of a policy, of what is worse than y and of y's equals; `[..., A]` each."""

    at_most: Array
    """log p_<=(y): a sample is at most as good."""
    equal: Array
    """log of the mass of the tie class of y: p_<= - p_<."""

    @property
    def below(self) -> Array:
        """log p_<(y): a sample is worse; -inf for the worst class."""
        share = jnp.exp(self.equal - jnp.where(jnp.isneginf(self.at_most), 0.0, self.at_most))
        worst = (share >= 1) | jnp.isneginf(self.at_most)
        return jnp.where(worst, -jnp.inf, self.at_most + jnp.log1p(-jnp.where(worst, 0.5, share)))


def quantiles(logp: ArrayLike, reward: ArrayLike, *, ties: str = "sample") -> Quantiles:
    r"""log p_<= and log of the tie class of every response, `[..., A]`.

    Masses are added up from both ends: log p_<= is log1p(-p_>) in the upper half, where a sum from below would lose
    what N - 1 then multiplies. `ties="order"` makes every response its own class, the one with the lower index the
    better of two with the same reward.
    Raises: ValueError on NaN or infinite rewards, and on log-probs that do not normalise.
    """
    checks.member("ties", ties, TIES)
    logp, reward = _checked(logp, reward)
    return _quantiles(logp, reward, ties=ties, worst=False)


def _checked(logp: ArrayLike, reward: ArrayLike) -> tuple[Array, Array]:
    checks.log_policy("logp", logp)
    checks.not_nan("reward", reward, forbid_inf=True)
    logp, reward = as_policy(logp), as_float(reward)
    checks.same_last_axis({"logp": logp, "reward": reward})
    batch = checks.broadcastable({"logp": logp.shape[:-1], "reward": reward.shape[:-1]})
    size = logp.shape[-1]
    return jnp.broadcast_to(logp, (*batch, size)), jnp.broadcast_to(reward, (*batch, size))


@functools.partial(jax.jit, static_argnames=("ties", "worst"))
def _quantiles(logp: Array, reward: Array, *, ties: str, worst: bool) -> Quantiles:
    """`worst` turns the order round, that of equal rewards too."""
    order = jnp.argsort(-reward, axis=-1, stable=True)
    order = order[..., ::-1] if worst else order
    mass, ranked = jnp.take_along_axis(logp, order, -1), jnp.take_along_axis(reward, order, -1)
    first = jnp.concatenate([jnp.ones_like(ranked[..., :1], bool), ranked[..., 1:] != ranked[..., :-1]], -1)
    if ties == "order":
        first = jnp.ones_like(first)
    # Classes are runs of equal rewards, the best first. What stands above and at or below a class is read at its head.
    down = _cumulated(mass)
    up = jnp.flip(_cumulated(jnp.flip(mass, -1)), -1)
    above = jnp.concatenate([jnp.full_like(down[..., :1], -jnp.inf), down[..., :-1]], -1)
    above = jax.lax.cummax(jnp.where(first, above, -jnp.inf), axis=first.ndim - 1)
    at_or_below = jax.lax.cummin(jnp.where(first, up, jnp.inf), axis=first.ndim - 1)
    upper = above < -jnp.log(2.0)
    rest = jnp.log1p(-jnp.exp(jnp.where(upper, above, -1.0)))
    at_most = jnp.where(upper, rest, at_or_below)
    equal = _mass_of_runs(mass, first)
    back = jnp.argsort(order, axis=-1)
    return Quantiles(*(jnp.take_along_axis(x, back, -1) for x in (at_most, equal)))


def _cumulated(logp: Array) -> Array:
    """log of the cumulative sum of exp(logp) along the last axis, by a balanced scan."""
    return jax.lax.associative_scan(jnp.logaddexp, logp, axis=-1)


def _mass_of_runs(mass: Array, first: Array) -> Array:
    """log of the total mass of the run each entry belongs to; a run of one keeps its entry untouched."""
    size = mass.shape[-1]

    def one(row: Array, head: Array) -> Array:
        run = jnp.cumsum(head) - 1
        peak = jax.ops.segment_max(row, run, size)[run]
        safe = jnp.where(jnp.isneginf(peak), 0.0, peak)
        total = jax.ops.segment_sum(jnp.exp(row - safe), run, size)[run]
        alone = jax.ops.segment_sum(jnp.ones_like(row), run, size)[run] == 1
        return jnp.where(alone, row, safe + jnp.log(jnp.where(alone, 1.0, total)))

    flat = jax.vmap(one)(mass.reshape((-1, size)), first.reshape((-1, size)))
    return flat.reshape(mass.shape)


def _log_b(found: Quantiles, n: Array) -> Array:
    r"""log B = log((1 - rho^N) / (1 - rho)), rho = p_< / p_<=, in [0, log N]."""
    log_share = found.equal - jnp.where(jnp.isneginf(found.at_most), 0.0, found.at_most)
    tiny = log_share < 0.9 * jnp.log(jnp.finfo(log_share.dtype).tiny)
    whole = jnp.exp(log_share) >= 1
    share = jnp.exp(jnp.where(tiny | whole, -1.0, jnp.minimum(log_share, 0.0)))
    inside = jnp.log(-jnp.expm1(n * jnp.log1p(-share))) - jnp.log(share)
    return jnp.where(whole, 0.0, jnp.where(tiny, jnp.log(n), inside))


def best_of_n_ratio(found: Quantiles, n: Scalar, *, include_b: bool = True) -> Float[Array, "*batch A"]:
    r"""log pi_BoN - log pi = (N - 1) log p_<= + log B, or without log B what remains where no two samples tie."""
    n = per_batch(n)
    power = jnp.where(n == 1, 0.0, (n - 1) * jnp.where(n == 1, 0.0, found.at_most))
    return power + _log_b(found, n) if include_b else power


def best_of_n(logp: ArrayLike, reward: ArrayLike, n: Scalar, *, ties: str = "sample", worst: bool = False) -> LogPolicy:
    r"""Log-probs of the best (or worst) of N independent samples of a policy, `[..., A]`.

        pi_BoN(y) = pi(y) (p_<=^N - p_<^N) / (p_<= - p_<)

    Args:
      logp: `[..., A]` log-probs of the policy that is sampled.
      reward: `[..., A]`; only its order matters.
      n: N >= 1, an integer or a real number, or one for each batch entry. N = 1 is the policy, and applying M and N
        one after the other is applying N M.
      ties: "sample", the winner among tied samples is a random or the first one, so that a tie class keeps its
        proportions; "order", of two responses with the same reward the one with the lower index wins.
      worst: the worst of N instead.

    Raises: ValueError on n < 1, NaN or infinite rewards, log-probs that do not normalise, axes that do not match.
    Source: Sessa et al., 2024, arXiv:2407.14622, Theorem 1.
    """
    checks.member("ties", ties, TIES)
    _at_least_one("n", n)
    logp, reward = _checked(logp, reward)
    found = _quantiles(logp, reward, ties=ties, worst=worst)
    ratio = best_of_n_ratio(found, as_float(n).astype(logp.dtype))
    return jnp.where(jnp.isneginf(logp), -jnp.inf, jnp.where(jnp.isneginf(logp), 0.0, logp) + ratio)


def bond_reward(ref_logp: ArrayLike, reward: ArrayLike, n: Scalar, *, ties: str = "sample") -> LogPolicy:
    r"""The reward whose KL-regularised optimum at beta = 1 / (N - 1) is best-of-N, with Z = 1.

        r_BOND(y) = log p_<=(y) + log(B) / (N - 1)

    `[..., A]` nats; N > 1. Its optimal value is exactly 0.
    Raises: ValueError on n <= 1 (at N = 1 the temperature is infinite) and as in `best_of_n`.
    Source: Sessa et al., 2024, arXiv:2407.14622, Sec. 3.2.
    """
    checks.member("ties", ties, TIES)
    _at_least_one("n", n)
    if checks.is_concrete(n) and not float(np.min(np.asarray(n))) > 1:
        raise ValueError(f"n must be more than 1 (beta = 1 / (n - 1)), got {n!r}")
    logp, reward = _checked(ref_logp, reward)
    found = _quantiles(logp, reward, ties=ties, worst=False)
    n = per_batch(as_float(n).astype(logp.dtype))
    return found.at_most + _log_b(found, n) / (n - 1)


def _at_least_one(name: str, n: Any) -> None:
    if isinstance(n, bool | str) or n is None:
        raise ValueError(f"{name} must be a number >= 1, got {n!r}")
    checks.not_nan(name, n, forbid_inf=True)
    if checks.is_concrete(n) and float(np.min(np.asarray(n))) < 1:
        raise ValueError(f"{name} must be at least 1 (how many samples the best is taken of), got {n!r}")


# --- what best-of-N costs and wins where no two samples tie


def best_of_n_kl(n: Scalar) -> Array:
    r"""log N - (N - 1) / N: KL(best-of-N || policy) in nats without atoms, its least upper bound with them.

    Source: Beirami et al., 2024, arXiv:2401.01879, Theorem 1.
    """
    n = as_float(n)
    return jnp.log(n) - (n - 1) / n


def best_of_n_forward_kl(n: Scalar) -> Array:
    r"""N - 1 - log N: KL(policy || best-of-N) without atoms, nats."""
    n = as_float(n)
    return n - 1 - jnp.log(n)


def best_of_n_win_rate(n: Scalar) -> Array:
    r"""N / (N + 1): the chance that best-of-N beats one sample of the policy, without atoms."""
    n = as_float(n)
    return n / (n + 1)


def effective_n(step: Scalar, ema: Scalar, n: Scalar) -> Array:
    r"""(1 + (1 - ema)(n - 1))^t: the N of an anchor that is t times averaged with its own best-of-n, without atoms.

    For logits that are averaged with weight `ema` on the past, after perfect distillation in every step; ema = 0 is the
    hard update, n^t. Its KL divergence from the start grows linearly in t at last, by log(1 + (1 - ema)(n - 1)) a step.
    """
    return jnp.power(1 + (1 - as_float(ema)) * (as_float(n) - 1), as_float(step))


# --- estimates of the quantile

RULES = ("floor", "add_one")


def quantile_estimate(
    reward: ArrayLike, sampled_reward: ArrayLike, *, rule: str = "floor", strict: bool = False
) -> Float[Array, "*batch K"]:
    r"""log of the share of k samples of the reference that are at most as good as each response.

        p = #{j: r(y'_j) <= r(y)} / k;    "floor": at least 1 / (2 k);    "add_one": (count + 1) / (k + 1)

    A count of zero has probability (1 - p_<=)^k and an infinite logarithm, and the paper gives no rule for it. `strict`
    counts what is worse.
    Shapes: reward `[..., K]`, sampled_reward `[..., k]` -> `[..., K]`.
    Source: Sessa et al., 2024, arXiv:2407.14622, Sec. 4.1; "add_one" with `strict` is the code of Amini et al., 2024,
      arXiv:2407.06057.
    """
    checks.member("rule", rule, RULES)
    checks.not_nan("reward", reward)
    checks.not_nan("sampled_reward", sampled_reward)
    reward, sampled = as_float(reward)[..., :, None], as_float(sampled_reward)[..., None, :]
    k = sampled.shape[-1]
    if k == 0:
        raise ValueError("sampled_reward must hold at least one sample on its last axis, got none")
    count = (sampled < reward if strict else sampled <= reward).astype(sampled.dtype).sum(-1)
    if rule == "add_one":
        return jnp.log((count + 1) / (k + 1))
    return jnp.log(jnp.maximum(count / k, 0.5 / k))


def quantile_cross_entropy(logit: Float[Array, "*batch"], reward: ArrayLike, rival_reward: ArrayLike) -> Array:
    r"""Cross-entropy of a learned quantile sigmoid(logit) on 1{r(y') <= r(y)}, y' one sample of the reference.

    Its minimiser is p_<=(y). Elementwise. Source: Sessa et al., 2024, arXiv:2407.14622, Appendix B.1.
    """
    beaten = (as_float(rival_reward) <= as_float(reward)).astype(jnp.result_type(float))
    logit = as_float(logit)
    return beaten * jax.nn.softplus(-logit) + (1 - beaten) * jax.nn.softplus(logit)
