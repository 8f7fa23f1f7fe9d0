"""The page of types: what a method, a solver and a source are. Data that names functions; the functions stay
functions.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax import checks
from alignjax.logspace import as_float
from alignjax.problem import Problem
from alignjax.samples import Samples

Law = Callable[..., "Array | tuple[Array, ...]"]
"""law(problem, logp, **own hyperparameters) -> log-probs [..., A], or a tuple of them, one per response slot
(laws.py).
"""

SAMPLE_FIELDS = tuple(field.name for field in dataclasses.fields(Samples))


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an equation stands. `arxiv` is "" for what is not there, and then `venue` says where."""

    authors: str
    year: int
    arxiv: str
    equation: str
    venue: str = ""

    def __str__(self) -> str:
        place = f"arXiv:{self.arxiv}" if self.arxiv else self.venue
        return ", ".join(part for part in (self.authors, str(self.year), place, self.equation) if part)


class NoOptimum(ValueError):
    """The method has no closed-form optimum here; the message is the sentence that says why."""


def _positive(name: str, value: Any) -> None:
    checks.positive(name, value)


def _unit(name: str, value: Any) -> None:
    checks.between(name, value, 0.0, 1.0)


def _below_half(name: str, value: Any) -> None:
    checks.between(name, value, 0.0, 0.5, open_high=True)


def _open_unit(name: str, value: Any) -> None:
    if checks.is_concrete(value) and not 0.0 < float(value) < 1.0:
        raise ValueError(f"{name} must lie in (0, 1), got {float(value):g}")


def _over_zero_unit(name: str, value: Any) -> None:
    if checks.is_concrete(value) and not 0.0 < float(value) <= 1.0:
        raise ValueError(f"{name} must lie in (0, 1], got {float(value):g}")


def _not_negative(name: str, value: Any) -> None:
    checks.between(name, value, 0.0, float("inf"), open_high=True)


def _at_least_one(name: str, value: Any) -> None:
    if checks.is_concrete(value) and not 1.0 <= float(value) < float("inf"):
        raise ValueError(f"{name} must be at least 1, got {float(value):g}")


def _bound(name: str, value: Any) -> None:
    if checks.is_concrete(value) and not float(value) >= 1.0:
        raise ValueError(f"{name} must be at least 1, or inf for none, got {float(value):g}")


HYPERPARAMETERS: dict[str, tuple[Callable[[str, Any], None], str]] = {
    "beta": (_positive, "KL temperature, > 0; rewards have the unit of beta nats"),
    "mixture": (_unit, "weight of the reference in the geometric mixture, in [0, 1]; 0 is self-play"),
    "ema": (_unit, "weight of the past in the moving average of parameters, in [0, 1]"),
    "label_smoothing": (_below_half, "probability that a label is flipped, in [0, 0.5)"),
    "clip_range": (_positive, "half-width of the clip of the probability ratio around 1, > 0"),
    "ratio_bound": (_bound, "largest importance weight C >= 1, smallest 1/C; inf for none"),
    "alpha": (_open_unit, "order of the alpha divergence, in (0, 1); 0 is reverse KL, 1 forward KL"),
    "std_epsilon": (_not_negative, "added to the group's standard deviation, >= 0"),
    "step_size": (_positive, "the canonical step h of a game's iteration, > 0, whatever the paper's letter"),
    "history_decay": (_over_zero_unit, "a past policy's weight relative to the next newer one's, in (0, 1]"),
    "external_weight": (_unit, "share of the external opponents in the base, in [0, 1]; 0 is the reference alone"),
    "exploration": (_not_negative, "weight of log pi of the reference's responses in the loss, >= 0"),
    "n": (_at_least_one, "how many samples the best is taken of, >= 1; a real number in exact laws"),
    "weight": (_unit, "weight of the backward KL(policy || target), in [0, 1]; 0 is the forward KL alone"),
    "gamma": (_not_negative, "weight of a further KL(policy || anchor), >= 0"),
    "sft_weight": (_unit, "weight of the log-likelihood of the best response, in [0, 1]"),
    "anchor_steps": (_at_least_one, "updates between two moves of the anchor, >= 1"),
    "delta": (_positive, "margin of the calibration hinge in nats, > 0"),
}
"""What a hyperparameter's name means, in every method that has it, and the check it must pass."""


def keyword_only(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only names of a function and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Method:
    r"""An alignment objective: the loss, the law its samples must come from, its feedback, its optimum, its source.

    What can be read from signatures is: the loss's positional names are the fields of `Samples` it reads (those with
    default None are optional), and the keyword-only names of the loss, the sampler and the opponent are the
    hyperparameters, with their defaults. `methods[name](samples, **hyperparameters) -> [...]` evaluates the loss.
    """

    loss: Callable[..., Array]
    """The plain function of arrays, unreduced over the batch: `[..., K] -> [...]`."""
    source: Source
    sampler: Law
    """The law of the K responses (detached from the policy)."""
    opponent: Callable[..., Array] | None = None
    """The law of the opponent behind `win_rate`: apart from the sampler."""
    minimiser: Callable[..., Array] | None = None
    """minimiser(problem, **hyperparameters) -> log-probs of the population optimum (or stationary point)."""
    no_optimum: str = ""
    """Why there is no `minimiser`."""
    name: str = ""
    summary: str = ""
    """One line, where the loss is shared and its docstring speaks of another method."""
    num_responses: int | None = None
    """K where the method fixes it (pairs: 2)."""
    min_responses: int = 1
    separable: bool = False
    """The loss is a mean over responses that do not see each other, so that its expectation does not depend on K."""
    feedback: Mapping[str, Callable[..., Array]] = dataclasses.field(default_factory=dict)
    """Extra fields: name -> function(problem, logp, **hyperparameters) -> table; `feedback.py` knows the common ones.
    """
    estimates: Mapping[str, Callable[..., Array]] = dataclasses.field(default_factory=dict)
    """The same fields where responses are sampled: name -> function(reward `[..., K]`, pool_reward `[..., n]`, **own
    hyperparameters), from the rewards of further samples, the pool.
    """
    pool: Law | None = None
    """The law of the pool."""
    anchor_update: Callable[..., Any] | None = None
    """anchor_update(anchor, params, **own hyperparameters) -> anchor: the runner carries the anchor as state. An
    argument `step` gets the number of the update, 0, 1, ....
    """
    anchor_start: str = "policy"
    """Where a carried anchor of tables starts: at the initial "policy", or at the "reference"."""
    invariant_to: tuple[str, ...] = ()
    """Declared invariances: "reward_shift", "reward_scale" (of reward and beta together: see each), "relabelling"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.loss.__name__)
        for field in self.reads + self.reads_if_present:
            checks.member(f"positional argument of {self.name}", field, SAMPLE_FIELDS)
        if (self.minimiser is None) == (not self.no_optimum):
            raise ValueError(f"{self.name}: give either a minimiser or the sentence why there is none")

    # --- read from signatures

    @functools.cached_property
    def _positional(self) -> dict[str, Any]:
        parameters = inspect.signature(self.loss).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields of `Samples` the loss needs."""
        return tuple(name for name, default in self._positional.items() if default is inspect.Parameter.empty)

    @property
    def reads_if_present(self) -> tuple[str, ...]:
        """Fields the loss uses where they are given."""
        return tuple(name for name, default in self._positional.items() if default is not inspect.Parameter.empty)

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Every hyperparameter (of loss, sampler, opponent, anchor and feedback) and its default."""
        found: dict[str, Any] = {}
        for function in (
            self.loss,
            self.sampler,
            self.opponent,
            self.anchor_update,
            *self.feedback.values(),
            *self.estimates.values(),
        ):
            if function is not None:
                found |= keyword_only(function)
        return found

    @property
    def says(self) -> str:
        """The summary, or the first line of the loss's docstring."""
        return self.summary or (inspect.getdoc(self.loss) or self.name).splitlines()[0]

    @property
    def has_optimum(self) -> bool:
        """Whether `optimum` returns a policy."""
        return self.minimiser is not None

    # --- use

    def hyperparameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults overridden by what was given; TypeError for an unknown name, ValueError for a value that is not
        allowed.
        """
        for name in given:
            if name not in self.defaults:
                near = checks.nearest(name, self.defaults)
                hint = f"; did you mean {near!r}?" if near else ""
                known = ", ".join(self.defaults) or "none"
                raise TypeError(f"{self.name} has no hyperparameter {name!r}{hint} (it has: {known})")
        merged = {**self.defaults, **given}
        for name, value in merged.items():
            if value is inspect.Parameter.empty:
                raise TypeError(f"{self.name} needs the hyperparameter {name!r}")
            if name in HYPERPARAMETERS:
                if isinstance(value, str | bool | list | tuple | dict) or value is None:
                    raise ValueError(f"{name} must be a number, got {value!r}: {HYPERPARAMETERS[name][1]}")
                if np.ndim(value):
                    raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}; sweep it with jax.vmap")
                HYPERPARAMETERS[name][0](name, value)
            elif isinstance(self.defaults[name], bool) and not isinstance(value, bool | np.bool_):
                raise ValueError(f"{name} of {self.name} must be True or False, got {value!r}")
            elif isinstance(value, np.bool_):
                merged[name] = bool(value)
        return merged

    def own(self, function: Callable[..., Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Those hyperparameters that `function` takes."""
        return {name: hyper[name] for name in keyword_only(function) if name in hyper}

    def group_size(self, given: int | None) -> int:
        """K of a population quantity: fixed by the method, given, or 2."""
        if given is None:
            return self.num_responses or max(2, self.min_responses)
        size = checks.whole("group_size", given, at_least=1)
        if self.num_responses is not None and size != self.num_responses:
            raise ValueError(f"{self.name} draws {self.num_responses} responses to a prompt; group_size was {size}")
        if size < self.min_responses:
            raise ValueError(
                f"{self.name} needs at least {self.min_responses} responses to a prompt; group_size was {size}"
            )
        return size

    def evaluate(self, arrays: Mapping[str, Array | None], hyper: Mapping[str, Any]) -> Array:
        """The loss on arrays by field name, without checks."""
        read = {name: arrays[name] for name in self.reads}
        read |= {name: arrays.get(name) for name in self.reads_if_present}
        return self.loss(**read, **self.own(self.loss, hyper))

    def __call__(self, samples: Samples, **hyperparameters: Any) -> Array:
        """The loss of each prompt, `[...]`. Masked responses have no influence; a prompt without any contributes 0.

        Raises: ValueError if a field is missing or K does not fit, TypeError for an unknown hyperparameter.
        """
        hyper = self.hyperparameters(hyperparameters)
        for field in self.reads:
            if getattr(samples, field) is None and field != "response_mask":
                raise ValueError(f"{self.name} needs the field {field!r}, which these samples lack")
        k = samples.num_responses
        if self.num_responses is not None and k != self.num_responses:
            raise ValueError(f"{self.name} needs K = {self.num_responses} responses to a prompt, got {k}")
        if k < self.min_responses:
            raise ValueError(f"{self.name} needs K >= {self.min_responses} responses to a prompt, got {k}")
        keep = samples.response_mask
        fields = (*self.reads, *self.reads_if_present)
        arrays = {field: select(field, getattr(samples, field), keep) for field in fields}
        value = self.evaluate(arrays, hyper)
        if keep is None or "response_mask" in fields:
            return value
        kept = jnp.asarray(keep) != 0
        return jnp.where(kept.all(-1) if self.num_responses else kept.any(-1), value, 0.0)

    def optimum(self, problem: Problem, **hyperparameters: Any) -> Array:
        """Log-probs of the exact minimiser over tables (for on-policy methods: the stationary point), `[..., A]`.

        Raises: NoOptimum (a ValueError) with the sentence why, where there is none.
        """
        given = dict(hyperparameters)
        size = self.group_size(given.pop("group_size", None))
        hyper = self.hyperparameters(given)
        if self.minimiser is None:
            raise NoOptimum(f"{self.name} has no closed-form optimum: {self.no_optimum}")
        return self.minimiser(problem, **self.own(self.minimiser, {**hyper, "group_size": size}))


def select(field: str, array: Array | None, keep: Array | None) -> Array | None:
    """`array` with masked responses replaced by 0 (preferences: 1/2) before any arithmetic can meet them."""
    if array is None or keep is None or field in ("value", "response_mask"):
        return array
    kept = jnp.asarray(keep) != 0
    if field == "preference":
        return jnp.where(kept[..., :, None] & kept[..., None, :], as_float(array), 0.5)
    if field == "mask":
        return jnp.asarray(array) != 0
    if field in ("rewards",) or "token" in field:
        kept = kept[..., None]
    return jnp.where(kept, array, 0)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Solver:
    """An exact solver of a preference game: one step, what it converges to, its step sizes, and its source."""

    step: Callable[..., Any]
    """step(game, state, step_size, win_rate, **own hyperparameters) -> state; `win_rate(logits)` asks the oracle. The
    state is the policy's logits, or a tuple of arrays whose field `logp` is.
    """
    target: str
    """"regularised" (the Nash equilibrium at temperature tau), "original" (tau = 0), or "reference" (the best response
    to the reference). `solve` reports the original game's gap for "original", else the regularised one's.
    """
    converges_to: str
    source: Source
    name: str = ""
    init: Callable[..., Any] | None = None
    """init(game, logits) -> state, where the state is more than the policy."""
    one_step: str = "one mirror step: one oracle call"
    """What one step of `solve` is."""
    oracle_calls: int | None = 1
    """Win-rates asked for in one step; None where their number depends on the game."""
    default_step: Callable[..., Array] | None = None
    """default_step(t, game, num_steps) -> the canonical h where none is given."""
    theorem: Callable[..., Array] | None = None
    """theorem(t, game, num_steps) -> the step size of the paper's theorem at t = 0, 1, ..."""
    canonical: Callable[..., Array] | None = None
    """canonical(eta, tau) -> h: the paper's own eta, by the name `eta` in `solve`."""
    pulls: bool = True
    """h tau is the weight of a reference or a magnet, so that it must not exceed 1."""
    averages: bool = False
    """The guarantee is for the average policy: `solve` returns it too."""
    sampled: bool = True
    """Works with sampled win-rates (a key)."""
    many_players: bool = False
    """Solves games of many players as well."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.step.__name__)

    @property
    def says(self) -> str:
        """The first line of the step's docstring."""
        return (inspect.getdoc(self.step) or self.name).splitlines()[0]

    @property
    def defaults(self) -> dict[str, Any]:
        """Hyperparameters of the step and their defaults."""
        return keyword_only(self.step)
