"""What an audit returns: a verdict for every property, the smallest counterexample, and why it matters."""

import dataclasses
import json
from typing import Any, Literal

import numpy as np

Verdict = Literal["holds", "fails", "does not apply", "not shown"]

WHY: dict[str, tuple[str, str]] = {
    "gradient_finite": (
        "the gradient exists and is finite on ordinary inputs",
        "one NaN poisons every parameter of the model",
    ),
    "gradient_correct": (
        "autodiff's gradient is that of the value (stop-gradients held fixed)",
        "a custom rule or a rounding trick that breaks the gradient trains something else",
    ),
    "jit_consistent": ("compiled and plain calls agree", "training runs compiled"),
    "vmap_consistent": ("one prompt at a time and a mapped batch agree", "sweeps and exact expectations map the loss"),
    "dtype_stable": (
        "bfloat16 and float32 inputs give what float64 gives, to their precision",
        "models hand over bfloat16",
    ),
    "extremes": (
        "value and gradient stay finite and right at log-probs of -1e4 and margins of 1e3 and 1e4",
        "long responses have such log-probs; log(sigmoid(x)) does not survive them",
    ),
    "masked_tokens_inert": (
        "masked tokens may hold anything and get no gradient; a row without tokens gives 0",
        "NaN * 0 is NaN, and padding must not teach",
    ),
    "padding_inert": (
        "the amount and the side of padding do not matter",
        "the loss of a response must not depend on its neighbours in the batch",
    ),
    "length_sum": (
        "a response twice as long counts twice (tokens are summed); the value says sum or mean",
        "a mean divides the KL temperature by the length",
    ),
    "permutation_equivariant": ("order carries no information", "responses and prompts come in any order"),
    "shift_invariant": (
        "a constant added to a prompt's rewards (pairs: to both log-probs) changes nothing",
        "rewards are known up to a prompt's constant",
    ),
    "scale_equivariant": (
        "rewards and beta scaled together scale the gradient",
        "otherwise the reward's scale is a hidden hyperparameter",
    ),
    "log_ratio_only": (
        "policy and reference matter through their log-ratio alone",
        "dependence on the bare log-prob is a length and frequency bias",
    ),
    "statistics_detached": (
        "advantages and penalties that weigh a log-prob carry no gradient of their own",
        "a missing stop-gradient changes the objective silently",
    ),
    "batch_separable": (
        "a prompt's loss does not depend on the other prompts of the batch",
        "else the result depends on batch size, sharding and accumulation",
    ),
    "unbiased_gradient": (
        "the expected gradient is that of E[reward] - beta KL(policy || reference) for one beta",
        "otherwise it climbs another objective",
    ),
    "finite_on_separable": (
        "certain preferences have a finite optimum",
        "otherwise only early stopping holds the policy near the reference",
    ),
    "chosen_rises": (
        "a step on a pair raises the chosen response's probability when responses share parameters",
        "likelihood displacement: both fall, and something else rises",
    ),
    "kl_direction": ("its KL term has the gradient of the reverse KL(policy || reference)", "k1 as a loss has none"),
}
"""Property -> (what it says, why it matters)."""


@dataclasses.dataclass(frozen=True)
class Property:
    """One property's outcome."""

    verdict: Verdict
    value: Any = None
    """Where there is more to say than yes or no: "sum", "reverse", a temperature."""
    counterexample: dict[str, Any] | None = None
    """The smallest input found on which it fails."""
    explanation: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """The whole audit of one loss."""

    name: str
    kind: str
    hyper: dict[str, Any]
    properties: dict[str, Property]
    target: str
    """The limit reached from Bradley-Terry labels: gibbs, ipo, nash, best_of_n, forward_kl, unbounded, unknown, ..."""
    kl: str
    """Which KL its gradient contains: reverse, forward, none, token_partial, other, does not apply."""
    kl_partial: str | None = None
    """Where `kl` is token_partial, which KL each token's own one is: reverse or forward."""
    destination: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The temperature fitted, the distance to each known target, what it picks on cyclic preferences."""
    seconds: float = 0.0

    def failed(self, expected: tuple[str, ...] = ()) -> list[str]:
        """The expected names that did not come out: properties that do not hold, or a target that was not reached."""
        return [
            name
            for name in expected
            if (self.properties[name].verdict != "holds" if name in self.properties else self.target != name)
        ]

    @property
    def kl_in_words(self) -> str:
        """`kl`, and of a partial one its direction."""
        return self.kl if self.kl_partial is None else f"{self.kl} ({self.kl_partial})"

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`."""
        return _plain(
            {
                "name": self.name,
                "kind": self.kind,
                "hyper": self.hyper,
                "target": self.target,
                "kl": self.kl,
                "kl_partial": self.kl_partial,
                "destination": self.destination,
                "seconds": self.seconds,
                "properties": {
                    name: {
                        "says": WHY.get(name, ("", ""))[0],
                        "why": WHY.get(name, ("", ""))[1],
                        **dataclasses.asdict(found),
                    }
                    for name, found in self.properties.items()
                },
            }
        )

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.kind}): goes to {self.target}; KL in its gradient: {self.kl_in_words}"]
        for name, found in self.properties.items():
            value = "" if found.value is None else f" [{found.value}]"
            lines.append(f"  {found.verdict:>14}  {name}{value}  {found.explanation}")
            if found.counterexample is not None:
                lines.append(f"{'':18}for example {json.dumps(_plain(found.counterexample))}")
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray) or hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)
