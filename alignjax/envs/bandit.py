r"""Multi-armed and contextual bandits with a reference policy: noisy rewards around a table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from alignjax import checks
from alignjax.logspace import Scalar, as_float, as_policy, log_softmax
from alignjax.problem import Problem, bradley_terry
from alignjax.pytree import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bandit:
    """Mean rewards `[..., A]` (leading axes are contexts) with Gaussian noise, and a reference policy.

    Raises: ValueError on NaN, a reference that does not normalise, mismatched last axes, or negative noise.
    """

    reward: Float[Array, "*contexts A"]
    """Mean reward of each arm."""
    ref_logp: Float[Array, "*contexts A"] = None  # type: ignore[assignment]  # always an array once built
    """Reference; uniform if absent."""
    noise: Scalar = 0.0
    """Standard deviation of a pull."""

    def __post_init__(self) -> None:
        reward = as_float(self.reward)
        checks.not_nan("reward", reward, forbid_inf=True)
        checks.between("noise", self.noise, 0.0, float("inf"), open_high=True)
        if self.ref_logp is None:
            ref_logp = log_softmax(jnp.zeros_like(reward))
        else:
            checks.same_last_axis({"reward": reward, "ref_logp": self.ref_logp})
            checks.log_policy("ref_logp", self.ref_logp)
            checks.broadcastable({"reward": reward.shape[:-1], "ref_logp": np.shape(self.ref_logp)[:-1]})
            ref_logp = as_policy(self.ref_logp)
        object.__setattr__(self, "reward", reward)
        object.__setattr__(self, "ref_logp", ref_logp)

    @property
    def num_arms(self) -> int:
        """A."""
        return int(self.reward.shape[-1])

    def pull(self, key: Array, arms: Int[Array, "*contexts K"]) -> Float[Array, "*contexts K"]:
        """Noisy rewards of K pulls in each context."""
        arms = jnp.asarray(arms)
        means = jnp.take_along_axis(jnp.broadcast_to(self.reward, (*arms.shape[:-1], self.num_arms)), arms, -1)
        return means + as_float(self.noise) * jax.random.normal(key, arms.shape, means.dtype)

    def duel(self, key: Array, arms: Int[Array, "*contexts 2"]) -> Float[Array, "*contexts"]:
        """1 where the first of two arms is preferred, drawn from Bradley-Terry of the mean rewards."""
        arms = jnp.asarray(arms)
        means = jnp.take_along_axis(jnp.broadcast_to(self.reward, (*arms.shape[:-1], self.num_arms)), arms, -1)
        p = jax.nn.sigmoid(means[..., 0] - means[..., 1])
        return (jax.random.uniform(key, p.shape, p.dtype) < p).astype(p.dtype)

    def problem(self, sampler_logp: Float[Array, "*contexts A"] | None = None) -> Problem:
        """The bandit as a table: exact mean rewards and their Bradley-Terry preferences."""
        return Problem(
            ref_logp=self.ref_logp, reward=self.reward, preference=bradley_terry(self.reward), sampler_logp=sampler_logp
        )


def random_bandit(key: Array, num_arms: int, contexts: tuple[int, ...] = (), noise: Scalar = 0.0) -> Bandit:
    """Standard normal rewards and a softmax of standard normal logits as reference."""
    num_arms = checks.whole("num_arms", num_arms)
    reward_key, ref_key = jax.random.split(key)
    shape = (*contexts, num_arms)
    reference = log_softmax(jax.random.normal(ref_key, shape))
    return Bandit(reward=jax.random.normal(reward_key, shape), ref_logp=reference, noise=noise)
