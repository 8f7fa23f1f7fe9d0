r"""A log-linear policy: responses share parameters through features, as they do in a language model."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import as_float, log_softmax
from alignjax.pytree import register


@register
@dataclasses.dataclass(frozen=True, eq=False)
class LogLinearPolicy:
    r"""log pi(y | x) = base(y | x) + <phi(x, y), theta> - log Z(x), with one theta `[D]` for all prompts and
    responses.

    Gradients of one response move the others: likelihood displacement and everything else that tables cannot show.
    Raises: ValueError on NaN or mismatched axes.
    """

    features: Float[Array, "*batch A D"]
    base_logp: Float[Array, "*batch A"] | None = None
    """Log-probs at theta = 0; uniform if absent."""

    def __post_init__(self) -> None:
        features = as_float(self.features)
        checks.not_nan("features", features, forbid_inf=True)
        if features.ndim < 2:
            raise ValueError(f"features must end in the axes [A, D], got shape {features.shape}")
        object.__setattr__(self, "features", features)
        if self.base_logp is not None:
            checks.same_last_axis({"base_logp": self.base_logp}, size=features.shape[-2])
            checks.not_nan("base_logp", self.base_logp)
            object.__setattr__(self, "base_logp", as_float(self.base_logp))

    def zeros(self) -> Float[Array, "D"]:
        """The parameters of the base."""
        return jnp.zeros((self.features.shape[-1],), self.features.dtype)

    def logp(self, theta: Float[Array, "D"]) -> Float[Array, "*batch A"]:
        """Log-probabilities of all responses; what `fit(..., policy=env.logp)` wants."""
        scores = self.features @ as_float(theta)
        return log_softmax(scores if self.base_logp is None else scores + self.base_logp)
