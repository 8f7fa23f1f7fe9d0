"""`Samples`: what the generic machinery carries from a sampler to a loss. One prompt, K responses, T tokens."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, masked_sum
from alignjax.pytree import register

_PER_RESPONSE = (
    "logp", "ref_logp", "behaviour_logp", "anchor_logp", "opponent_logp", "reward", "win_rate", "label",
)  # fmt: skip
_PER_TOKEN = (
    "token_logp", "ref_token_logp", "behaviour_token_logp", "anchor_token_logp", "opponent_token_logp",
)  # fmt: skip


@register
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    r"""K responses to each prompt and what is known of them; an immutable pytree, leading axes `...` are batch.

    The field names are the closed vocabulary of losses: a loss's positional arguments must be among them. The
    response axis K is last (before T, M or another K), never two halves of a batch. Log-probabilities are nats, of
    the whole response (token SUMS); a field that is absent is None.

    Raises: ValueError on NaN outside a mask, mismatched axes, preferences that break P + P^T = 1, and on a mask with
      an empty row, if the arrays are concrete. Under a trace a row with an empty mask contributes 0.
    """

    logp: Float[Array, "*batch K"]
    """Policy."""
    ref_logp: Float[Array, "*batch K"] | None = None
    """Reference."""
    behaviour_logp: Float[Array, "*batch K"] | None = None
    """The law the responses were drawn from, at the time (the old policy of PPO and GRPO)."""
    anchor_logp: Float[Array, "*batch K"] | None = None
    """A moving anchor or previous iterate."""
    opponent_logp: Float[Array, "J *batch K"] | None = None
    """J opponents or past policies, on the first axis."""
    reward: Float[Array, "*batch K"] | None = None
    rewards: Float[Array, "*batch K M"] | None = None
    """M objectives, always last."""
    preference: Float[Array, "*batch K K"] | None = None
    """preference[..., i, j] = P(response i beats response j); hard labels are 0 and 1."""
    win_rate: Float[Array, "*batch K"] | None = None
    """P(response beats the opponent): exact, or against sampled opponents."""
    label: Float[Array, "*batch K"] | None = None
    """Desirable (1) or not (0)."""
    value: Float[Array, "*batch"] | None = None
    """A baseline of the prompt."""
    token_logp: Float[Array, "*batch K T"] | None = None
    ref_token_logp: Float[Array, "*batch K T"] | None = None
    behaviour_token_logp: Float[Array, "*batch K T"] | None = None
    anchor_token_logp: Float[Array, "*batch K T"] | None = None
    opponent_token_logp: Float[Array, "J *batch K T"] | None = None
    mask: Bool[Array, "*batch K T"] | None = None
    """Which tokens count. A mask `[..., K]` given to the constructor is the `response_mask`."""
    response_mask: Bool[Array, "*batch K"] | None = None
    """Which responses count."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            if given is not None and not hasattr(given, "dtype"):
                object.__setattr__(self, field.name, jnp.asarray(given))
        if np.ndim(self.logp) == 0:
            raise ValueError("logp must have the response axis K last, got a scalar")
        if self.mask is not None and np.ndim(self.mask) == np.ndim(self.logp):
            if self.response_mask is not None:
                raise ValueError("mask [..., K] is the response_mask: give one of the two")
            object.__setattr__(self, "response_mask", self.mask)
            object.__setattr__(self, "mask", None)
        self._check_shapes()
        self._check_batch()
        self._check_values()

    def _check_shapes(self) -> None:
        k = np.shape(self.logp)[-1]
        if k == 0:
            raise ValueError(f"logp must hold at least one response on its last axis, got shape {np.shape(self.logp)}")
        for name in (*_PER_RESPONSE, "response_mask"):
            self._shape(name, 1, (k,))
        self._shape("preference", 2, (k, k))
        if self.rewards is not None:
            self._shape("rewards", 2, (k, np.shape(self.rewards)[-1]))
        t = next((np.shape(x)[-1] for n in _PER_TOKEN if (x := getattr(self, n)) is not None and np.ndim(x)), None)
        for name in (*_PER_TOKEN, "mask"):
            given = getattr(self, name)
            if given is not None:
                self._shape(name, 2, (k, t if t is not None else np.shape(given)[-1]))

    def _check_batch(self) -> None:
        trailing = dict.fromkeys((*_PER_RESPONSE, "response_mask"), 1) | dict.fromkeys((*_PER_TOKEN, "mask"), 2)
        trailing |= {"rewards": 2, "preference": 2, "value": 0}
        shapes = {}
        for name, axes in trailing.items():
            given = getattr(self, name)
            if given is not None:
                shape = np.shape(given)[1:] if name.startswith("opponent") else np.shape(given)
                shapes[name] = shape[: len(shape) - axes]
        checks.broadcastable(shapes)

    def _shape(self, name: str, axes: int, expected: tuple[int, ...]) -> None:
        given = getattr(self, name)
        if given is not None and (np.ndim(given) < axes or np.shape(given)[-axes:] != expected):
            wanted = ", ".join(map(str, expected))
            raise ValueError(
                f"{name} must end in the axes [{wanted}] (logp has K = {expected[0]}), got {np.shape(given)}"
            )

    def _check_values(self) -> None:
        if self.mask is not None:
            checks.nonempty_mask("mask", self.mask)
        if self.response_mask is not None:
            checks.nonempty_mask("response_mask", self.response_mask)
        responses, tokens = self.response_mask, self.mask
        for name in (*_PER_RESPONSE, "value"):
            checks.not_nan(name, _outside(getattr(self, name), responses if name != "value" else None))
        seen = tokens
        if responses is not None and checks.is_concrete(tokens, responses):
            rows = (np.asarray(responses) != 0)[..., None]
            seen = rows if tokens is None else (np.asarray(tokens) != 0) & rows
        for name in _PER_TOKEN:
            checks.not_nan(name, _outside(getattr(self, name), seen))
        if checks.is_concrete(responses):
            rows = None if responses is None else np.asarray(responses)[..., None]
            checks.not_nan("rewards", _outside(self.rewards, rows))
        checks.probabilities("win_rate", _outside(self.win_rate, responses))
        checks.probabilities("label", _outside(self.label, responses))
        if self.preference is not None and checks.is_concrete(self.preference, responses):
            preference = np.asarray(self.preference)
            if responses is not None:
                keep = np.asarray(responses) != 0
                preference = np.where(keep[..., :, None] & keep[..., None, :], preference, 0.5)
            checks.preference_matrix("preference", preference)

    @classmethod
    def from_tokens(
        cls,
        token_logp: ArrayLike,
        ref_token_logp: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        behaviour_token_logp: ArrayLike | None = None,
        anchor_token_logp: ArrayLike | None = None,
        opponent_token_logp: ArrayLike | None = None,
        **feedback: Any,
    ) -> "Samples":
        """From per-token log-probs `[..., K, T]`: sums them over the mask, and keeps the tokens.

        Masked positions may hold anything and have no influence. A response without a token is an error at the
        boundary; under a trace it leaves its group (a pair that misses one contributes 0). `feedback`: the other
        fields of `Samples`, log-probs of whole responses among them where their tokens are not known.
        """
        tokens = {
            "token_logp": token_logp,
            "ref_token_logp": ref_token_logp,
            "behaviour_token_logp": behaviour_token_logp,
            "anchor_token_logp": anchor_token_logp,
            "opponent_token_logp": opponent_token_logp,
        }
        known = {field.name for field in dataclasses.fields(cls)}
        for name in feedback:
            checks.member("field of Samples", name, known)
            by_token = name.replace("logp", "token_logp")
            if name == "logp" or (name.endswith("_logp") and tokens.get(by_token) is not None):
                raise ValueError(f"{name} is the sum of {by_token} here: give one of the two, or use Samples(...)")
        if np.ndim(token_logp) < 2:
            raise ValueError(f"token_logp must end in the axes [K, T], got shape {np.shape(token_logp)}")
        if mask is not None:
            if np.shape(mask)[-2:] != np.shape(token_logp)[-2:]:
                raise ValueError(f"mask must end in the axes {np.shape(token_logp)[-2:]}, got shape {np.shape(mask)}")
            checks.nonempty_mask("mask", mask)
            mask = jnp.broadcast_to(jnp.asarray(mask) != 0, np.broadcast_shapes(np.shape(mask), np.shape(token_logp)))
            with_tokens = mask.any(-1)
            given_mask = feedback.get("response_mask")
            feedback["response_mask"] = (
                with_tokens if given_mask is None else with_tokens & (jnp.asarray(given_mask) != 0)
            )
        for name, given in tokens.items():
            if given is None:
                continue
            given = jnp.asarray(given)
            if given.ndim < 2 or given.shape[-2:] != np.shape(token_logp)[-2:]:
                wanted = np.shape(token_logp)[-2:]
                raise ValueError(f"{name} must end in the axes {wanted} of token_logp, got shape {given.shape}")
            checks.not_nan(name, _outside(given, _and_rows(mask, feedback.get("response_mask"))))
            given = given if mask is None else jnp.where(_and_rows(mask, feedback["response_mask"]), given, 0.0)
            feedback[name] = given
            feedback[name.replace("token_", "")] = masked_sum(given, mask)
        return cls(mask=mask, **feedback)

    @property
    def num_responses(self) -> int:
        """K."""
        return int(self.logp.shape[-1])


def _and_rows(mask: Any, responses: Any) -> Any:
    """The token mask, without the tokens of responses that do not count."""
    if responses is None or mask is None:
        return mask
    return (jnp.asarray(mask) != 0) & (jnp.asarray(responses) != 0)[..., None]


def _outside(array: Any, mask: Any) -> Any:
    """`array` with what the mask hides replaced by 0, on the host; None if a tracer is involved."""
    if array is None or not checks.is_concrete(array, mask):
        return None
    if mask is None:
        return array
    return np.where(np.asarray(mask) != 0, np.asarray(array), np.zeros((), np.asarray(array).dtype))
