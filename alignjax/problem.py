"""`Problem`: a finite response set with a reference and feedback, on which every expectation is a sum."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from alignjax import checks
from alignjax.logspace import as_float, as_policy
from alignjax.pytree import register

LogPolicy = Float[Array, "*batch A"]


@register
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    r"""A table of A responses for each prompt; an immutable pytree, leading axes `...` are batch.

    Raises: ValueError, naming the argument, on mismatched last axes, NaN, policies that do not normalise, preferences
      that break P + P^T = 1 or leave [0, 1], and samplers or opponents with mass where the reference has none.
    """

    ref_logp: LogPolicy
    """Reference, normalised; -inf is zero mass: the response is out of the game."""
    reward: Float[Array, "*batch A"] | None = None
    rewards: Float[Array, "*batch A M"] | None = None
    """M objectives, always last."""
    preference: Float[Array, "*batch A A"] | None = None
    """preference[..., i, j] = P(i beats j). If it is absent, `preferences()` is Bradley-Terry of the reward."""
    sampler_logp: LogPolicy | tuple[LogPolicy, ...] | None = None
    """The law of the data (offline methods), the old policy (ppo, grpo): one for all responses, or a tuple, one per
    slot.
    """
    anchor_logp: LogPolicy | None = None
    """A moving anchor or the previous iterate."""
    opponent_logp: Float[Array, "J *batch A"] | None = None
    """J opponents or past policies, on the first axis."""
    value: Float[Array, "*batch"] | None = None
    """A baseline of the prompt."""
    ref_token_logp: Float[Array, "*batch A T"] | None = None
    """Per-token reference of the A sequences (a token tree)."""
    mask: Bool[Array, "*batch A T"] | None = None
    """Which tokens of the A sequences count."""

    def __post_init__(self) -> None:
        if self.ref_logp is None:
            raise ValueError("ref_logp must be given: log-probabilities [..., A] of the reference")
        sampler = self.sampler_logp
        if isinstance(sampler, list) and not (len(sampler) and np.ndim(sampler[0])):
            object.__setattr__(self, "sampler_logp", np.asarray(sampler))  # one law, as a list of numbers
        self._check(np.shape(self.ref_logp)[-1] if np.ndim(self.ref_logp) else 0)
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            if field.name == "sampler_logp" and isinstance(given, tuple | list):
                object.__setattr__(self, field.name, tuple(as_policy(law) for law in given))
            elif given is not None and field.name in ("ref_logp", "sampler_logp", "anchor_logp", "opponent_logp"):
                object.__setattr__(self, field.name, as_policy(given))
            elif given is not None and field.name != "mask":
                object.__setattr__(self, field.name, as_float(given))

    def _laws(self) -> dict[str, Any]:
        """Every law of the problem but the reference, by the name an error should use."""
        laws = {"anchor_logp": self.anchor_logp, "opponent_logp": self.opponent_logp}
        if isinstance(self.sampler_logp, tuple | list):
            if not self.sampler_logp:
                raise ValueError(
                    "sampler_logp must be a law [..., A] or a tuple of them, one per slot, got an empty tuple"
                )
            laws |= {f"sampler_logp[{slot}]": law for slot, law in enumerate(self.sampler_logp)}
        else:
            laws["sampler_logp"] = self.sampler_logp
        return {name: law for name, law in laws.items() if law is not None}

    def _check(self, size: int) -> None:
        """Values as they were given, so that a 16-bit law is held to 16 bits."""
        checks.log_policy("ref_logp", self.ref_logp)
        laws = self._laws()
        checks.same_last_axis({"reward": self.reward, **laws}, size=size)
        if self.preference is not None:
            checks.same_last_axis({"preference": self.preference}, size=size, axes=2)
        for name in ("rewards", "ref_token_logp", "mask"):
            given = getattr(self, name)
            if given is not None and (np.ndim(given) < 2 or np.shape(given)[-2] != size):
                last = "M" if name == "rewards" else "T"
                raise ValueError(f"{name} must end in the axes [{size}, {last}], got shape {np.shape(given)}")
        if self.rewards is not None and np.shape(self.rewards)[-1] == 0:
            raise ValueError("rewards must hold at least one objective on its last axis, got none")
        if self.mask is not None and self.ref_token_logp is not None:
            if np.shape(self.mask)[-1] != np.shape(self.ref_token_logp)[-1]:
                shapes = np.shape(self.mask), np.shape(self.ref_token_logp)
                raise ValueError(
                    f"mask and ref_token_logp must have the same tokens, got shapes {shapes[0]} and {shapes[1]}"
                )
        self.batch_shape()
        for name, law in laws.items():
            checks.log_policy(name, law)
            checks.covers("ref_logp", self.ref_logp, name, law)
        checks.not_nan("reward", self.reward, forbid_inf=True)
        checks.not_nan("rewards", self.rewards, forbid_inf=True)
        checks.not_nan("value", self.value, forbid_inf=True)
        checks.nonempty_mask("mask", self.mask)
        if self.ref_token_logp is not None and checks.is_concrete(self.ref_token_logp, self.mask):
            tokens = np.asarray(self.ref_token_logp, np.float64)
            checks.not_nan(
                "ref_token_logp", tokens if self.mask is None else np.where(np.asarray(self.mask), tokens, 0.0)
            )
        if self.preference is not None:
            checks.preference_matrix("preference", self.preference)

    def batch_shape(self, **more: tuple[int, ...]) -> tuple[int, ...]:
        """The common leading axes of all fields (and of more shapes, by name); an error names every one of them."""
        trailing = {"ref_logp": 1, "reward": 1, "anchor_logp": 1, "value": 0, "preference": 2, "rewards": 2}
        trailing |= {"ref_token_logp": 2, "mask": 2}
        laws = self._laws()
        trailing |= dict.fromkeys(laws, 1)
        shapes = {}
        for name, axes in trailing.items():
            given = laws.get(name, getattr(self, name, None))
            if given is not None:
                shape = np.shape(given)[1:] if name == "opponent_logp" else np.shape(given)
                shapes[name] = shape[: len(shape) - axes]
        return checks.broadcastable({**shapes, **more})

    @property
    def num_responses(self) -> int:
        """A."""
        return int(self.ref_logp.shape[-1])

    def preferences(self) -> Float[Array, "*batch A A"]:
        """The preference matrix: as given, or Bradley-Terry of the reward, P(i beats j) = sigmoid(r_i - r_j)."""
        if self.preference is not None:
            return self.preference
        if self.reward is None:
            raise ValueError("this problem has neither `preference` nor `reward`; pair methods need one of them")
        return bradley_terry(self.reward)

    def rewards_or_raise(self, needed_by: str) -> Float[Array, "*batch A"]:
        """The reward, or an error that says who needs it."""
        if self.reward is None:
            raise ValueError(f"{needed_by} needs `reward`, which this problem lacks")
        return self.reward


def bradley_terry(reward: Float[Array, "*batch A"]) -> Float[Array, "*batch A A"]:
    r"""P(i beats j) = sigmoid(r_i - r_j). Source: Bradley and Terry, 1952."""
    reward = as_float(reward)
    return jax.nn.sigmoid(reward[..., :, None] - reward[..., None, :])


def bradley_terry_reward(
    preference: Float[Array, "*batch A A"], needed_by: str, support: Array | None = None
) -> Float[Array, "*batch A"]:
    r"""The reward r (mean 0) with sigmoid(r_i - r_j) = P_ij, if there is one.

    Raises: ValueError if the preferences are certain (the reward is infinite) or not Bradley-Terry (log-odds do not
      add up along some triple), with the worst triple's defect, if the array is concrete. `support`: only these
      responses are looked at.
    """
    keep = jnp.ones(preference.shape[-1], bool) if support is None else support
    both = keep[..., :, None] & keep[..., None, :]
    odds = jnp.log(jnp.where(both, preference, 0.5)) - jnp.log(jnp.where(both, jnp.swapaxes(preference, -1, -2), 0.5))
    reward = jnp.where(keep, odds.sum(-1) / keep.sum(-1, keepdims=True), 0.0)
    if checks.is_concrete(odds):
        if not bool(jnp.isfinite(odds).all()):
            raise ValueError(f"{needed_by}: some preferences are exactly 0 or 1, so that no finite policy is optimal")
        gap = jnp.where(both, odds - (reward[..., :, None] - reward[..., None, :]), 0.0)
        defect = float(jnp.abs(gap).max())
        scale = float(jnp.abs(odds).max()) + 1.0
        if defect > scale * (1e-8 if odds.dtype == jnp.float64 else 2e-4):
            raise ValueError(
                f"{needed_by}: the stated optimum holds for Bradley-Terry preferences, and these are not (log-odds "
                f"differ from a difference of rewards by up to {defect:.3g} nats); the minimiser then depends on the "
                f"pair law"
            )
    return reward
