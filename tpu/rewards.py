"""Rewards and judges of texts: yours as `module:function`, a folder of a trained reward model, or the built-in ones.

    reward(prompts, completions) -> one number, or M numbers, for each completion    (lists of equal length)
    judge(prompts, first, second) -> P(first beats second), one for each pair

Prompts are texts as the user wrote them: of a conversation the content of its one message, or "role: content" lines. A
function that has a parameter of the name of a column gets that column, a list alike; one with `**names` gets all.
So it does `prompt_ids` and `completion_ids` (of a judge `first_ids` and `second_ids`), the tokens, and `tokenizer`.

What a user's function returns is checked here, sample by sample, before any of it reaches a loss.
"""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax import checks

Texts = Sequence[str]
Function = Callable[..., Any]


class FeedbackError(ValueError):
    """A reward or a judge that failed; the message names the function and the sample."""


# --- built in


def length(prompts: Texts, completions: Texts) -> list[float]:
    """Words of the completion."""
    return [float(len(text.split())) for text in completions]


def brevity(prompts: Texts, completions: Texts) -> list[float]:
    """Minus the words of the completion."""
    return [-float(len(text.split())) for text in completions]


def variety(prompts: Texts, completions: Texts) -> list[float]:
    """Distinct words among the words of the completion, in [0, 1]; 0 for a text without words."""
    return [len(set(words)) / len(words) if (words := text.split()) else 0.0 for text in completions]


def vader(prompts: Texts, completions: Texts) -> list[float]:
    """Sentiment in [-1, 1] by VADER (Hutto and Gilbert, 2014); needs the package vaderSentiment."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise FeedbackError("the reward 'vader' needs the package vaderSentiment (the extra 'docs' has it)") from None
    score = SentimentIntensityAnalyzer().polarity_scores
    return [float(score(text)["compound"]) for text in completions]


def longer(prompts: Texts, first: Texts, second: Texts) -> list[float]:
    """The text with more words wins; 1/2 each where they tie."""
    return [0.5 + 0.5 * float(np.sign(len(a.split()) - len(b.split()))) for a, b in zip(first, second, strict=True)]


def cyclic(prompts: Texts, first: Texts, second: Texts) -> list[float]:
    """Rock, paper, scissors on the number of words modulo 3: k + 1 beats k, with probability 0.9."""
    turn = [(len(a.split()) - len(b.split())) % 3 for a, b in zip(first, second, strict=True)]
    return [(0.5, 0.9, 0.1)[t] for t in turn]


REWARDS: Mapping[str, Function] = {f.__name__: f for f in (length, brevity, variety, vader)}
JUDGES: Mapping[str, Function] = {f.__name__: f for f in (longer, cyclic)}


# --- what is called


@dataclasses.dataclass(frozen=True)
class Prompts:
    """B prompts, and what is known of them beside their texts."""

    texts: Texts
    ids: Sequence[Sequence[int]] | None = None
    """The tokens that were answered."""
    columns: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    """Of the data, `[B]` each."""
    tokenizer: Any = None
    """Of `ids`, and of those of the responses."""

    def named(self, rows: Sequence[int]) -> dict[str, Any]:
        """What a function may ask for by name, for the prompts of these numbers."""
        found: dict[str, Any] = {name: [column[b] for b in rows] for name, column in self.columns.items()}
        if self.ids is not None:
            found |= {"prompt_ids": [self.ids[b] for b in rows], "tokenizer": self.tokenizer}
        return found


@dataclasses.dataclass(frozen=True)
class Written:
    """K responses to each of B prompts: texts `[B][K]`, and the tokens they are of, with the one that ended them."""

    texts: Sequence[Texts]
    ids: Sequence[Sequence[Sequence[int]]] | None = None


def _asked(prompts: Texts | Prompts) -> Prompts:
    return prompts if isinstance(prompts, Prompts) else Prompts(prompts)


def _written(responses: Sequence[Texts] | Written) -> Written:
    return responses if isinstance(responses, Written) else Written(responses)


@dataclasses.dataclass(frozen=True)
class Reward:
    """`reward(prompts, completions) -> [B, K]`, or `[B, K, M]`: a named function on nested lists, with checks."""

    name: str
    function: Function

    def __call__(self, prompts: Texts | Prompts, completions: Sequence[Texts] | Written) -> np.ndarray:
        asked, written = _asked(prompts), _written(completions)
        k = len(written.texts[0]) if written.texts else 0
        rows = [b for b in range(len(asked.texts)) for _ in range(k)]
        flat_prompts, flat = [asked.texts[b] for b in rows], [text for texts in written.texts for text in texts]
        named = asked.named(rows)
        if written.ids is not None:
            named["completion_ids"] = [ids for each in written.ids for ids in each]
        got = _called(f"reward {self.name}", self.function, (flat_prompts, flat), named)
        if got.ndim > 2:
            raise FeedbackError(f"reward {self.name} returned shape {got.shape}; one or M numbers a completion are due")
        with np.errstate(over="ignore"):  # 1e39 is a number here, and infinite where losses are computed
            fine = np.isfinite(got.astype(np.float32))
        bad = ~fine.reshape(len(flat), -1).all(-1)
        if bad.any():
            i = int(np.argmax(bad))
            raise FeedbackError(
                f"reward {self.name} returned {got[i]} for sample {i} (prompt {i // k}, response {i % k}): prompt "
                f"{_short(flat_prompts[i])}, completion {_short(flat[i])}; numbers that float32 holds are allowed"
            )
        return got.reshape(len(asked.texts), k, *got.shape[1:])


@dataclasses.dataclass(frozen=True)
class Judge:
    """`judge(prompts, first, second) -> [B]`: P(first beats second), checked; both orders are asked and averaged."""

    name: str
    function: Function

    def __call__(self, prompts: Texts, first: Texts, second: Texts, **named: Any) -> np.ndarray:
        other = {_OTHER_WAY.get(name, name): value for name, value in named.items()}
        return 0.5 * (self._one(prompts, first, second, named) + 1.0 - self._one(prompts, second, first, other))

    def _one(self, prompts: Texts, first: Texts, second: Texts, named: Mapping[str, Any]) -> np.ndarray:
        got = _called(f"judge {self.name}", self.function, (list(prompts), list(first), list(second)), named)
        if got.ndim != 1:
            raise FeedbackError(f"judge {self.name} returned shape {got.shape}; one probability a pair is due")
        bad = ~((got >= 0) & (got <= 1))
        if bad.any():
            i = int(np.argmax(bad))
            raise FeedbackError(
                f"judge {self.name} returned {got[i]:g} for sample {i}: prompt {_short(prompts[i])}, first "
                f"{_short(first[i])}, second {_short(second[i])}; P(first beats second) must lie in [0, 1]"
            )
        return got

    def matrix(self, prompts: Texts | Prompts, completions: Sequence[Texts] | Written) -> np.ndarray:
        """`[B, K, K]`: P(completion i beats completion j) for all pairs."""
        return self.against(prompts, completions, None)

    def against(
        self,
        prompts: Texts | Prompts,
        completions: Sequence[Texts] | Written,
        others: Sequence[Texts] | Written | None,
    ) -> np.ndarray:
        """`[B, K, J]`: P(completion i beats other j); without `others` they meet each other, the diagonal being 1/2."""
        asked, one = _asked(prompts), _written(completions)
        other = one if others is None else _written(others)
        own, rivals, count = len(one.texts[0]), len(other.texts[0]), len(asked.texts)
        pairs = [(i, j) for i in range(own) for j in range(rivals) if others is not None or i < j]
        found = np.full((count, own, rivals), 0.5)
        if not pairs:
            return found
        every = [(b, i, j) for b in range(count) for i, j in pairs]
        rows = [b for b, _, _ in every]
        named = asked.named(rows)
        if one.ids is not None and other.ids is not None:
            named["first_ids"] = [one.ids[b][i] for b, i, _ in every]
            named["second_ids"] = [other.ids[b][j] for b, _, j in every]
        first = [one.texts[b][i] for b, i, _ in every]
        second = [other.texts[b][j] for b, _, j in every]
        chance = self([asked.texts[b] for b in rows], first, second, **named).reshape(count, len(pairs))
        for n, (i, j) in enumerate(pairs):
            found[:, i, j] = chance[:, n]
            if others is None:
                found[:, j, i] = 1.0 - chance[:, n]
        return found


_OTHER_WAY = {"first_ids": "second_ids", "second_ids": "first_ids"}


def _taken(name: str, function: Function, count: int, named: Mapping[str, Any]) -> dict[str, Any]:
    """What of `named` a function takes, beside its first `count` arguments. Raises: FeedbackError if it needs more."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin may not tell
        return {}
    texts, rest = {p.name for p in parameters[:count]}, parameters[count:]
    own = [p for p in rest if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in own if p.default is p.empty and p.name not in named]
    if missing:
        there = ", ".join(named) or "none"
        raise FeedbackError(f"{name} takes {missing[0]!r}, but no column of the data is called so (there: {there})")
    if any(p.kind is p.VAR_KEYWORD for p in rest):
        return {key: value for key, value in named.items() if key not in texts}
    return {p.name: named[p.name] for p in own if p.name in named}


def _called(name: str, function: Function, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> np.ndarray:
    count = len(arguments[0])
    taken = _taken(name, function, len(arguments), named)
    try:
        got = function(*arguments, **taken)
    except FeedbackError:
        raise
    except Exception as error:
        raise FeedbackError(f"{name} raised {type(error).__name__}: {error}") from error
    try:
        array = np.asarray(got, dtype=np.float64)
    except (TypeError, ValueError):
        raise FeedbackError(f"{name} must return numbers, got {_short(repr(got))}") from None
    if array.ndim == 0 or array.shape[0] != count:
        raise FeedbackError(f"{name} must return {count} entries, one for each sample, got shape {array.shape}")
    return array


def _short(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")


# --- by name


def load(spec: str | Function) -> Reward:
    """A reward by name: built in, `module:function`, a reward model's folder, or several with commas (a vector).

    Raises: FeedbackError, UnknownName.
    """
    if not isinstance(spec, str):
        return Reward(getattr(spec, "__name__", repr(spec)), spec)
    parts = [part.strip() for part in spec.split(",")]
    if len(parts) > 1:
        each = [load(part) for part in parts]

        def together(prompts: Texts, texts: Texts, **named: Any) -> np.ndarray:
            got = (_called(f"reward {one.name}", one.function, (prompts, texts), named) for one in each)
            return np.stack(list(got), -1)

        return Reward(spec, together)
    if Path(spec).is_dir():
        from tpu.reward_model import load_reward_model

        return Reward(spec, load_reward_model(Path(spec)))
    return Reward(spec, _function("reward", spec, REWARDS))


def load_judge(spec: str | Function) -> Judge:
    r"""A judge by name: built in, `module:function`, or `bt:REWARD`, sigmoid(r(first) - r(second)) of any reward.

    Raises: FeedbackError, UnknownName.
    """
    if not isinstance(spec, str):
        return Judge(getattr(spec, "__name__", repr(spec)), spec)
    if spec.startswith("bt:"):
        return bradley_terry(load(spec[3:]))
    return Judge(spec, _function("judge", spec, JUDGES))


def bradley_terry(reward: Reward) -> Judge:
    """The judge of a reward."""

    def judge(
        prompts: Texts, first: Texts, second: Texts, prompt_ids: Any = None, first_ids: Any = None,
        second_ids: Any = None, tokenizer: Any = None, **columns: Any,
    ) -> np.ndarray:  # fmt: skip
        ids = None if first_ids is None else list(zip(first_ids, second_ids, strict=True))
        asked = Prompts(prompts, prompt_ids, columns, tokenizer)
        both = reward(asked, Written(list(zip(first, second, strict=True)), ids))
        if both.ndim > 2:
            raise FeedbackError(f"judge bt:{reward.name} needs one reward, got {both.shape[-1]}")
        return 1.0 / (1.0 + np.exp(np.clip(both[:, 1] - both[:, 0], -700, 700)))

    return Judge(f"bt:{reward.name}", judge)


def _function(kind: str, spec: str, built_in: Mapping[str, Function]) -> Function:
    module, colon, name = spec.partition(":")
    if not colon:
        return built_in[checks.member(f"{kind} (or give module:function)", spec, built_in)]
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside the caller is found, however the command was started
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise FeedbackError(f"{kind} {spec}: importing {module} raised {type(error).__name__}: {error}") from error
    function = getattr(found, name, None)
    if not callable(function):
        known = [key for key, value in vars(found).items() if callable(value)]
        near = checks.nearest(name, known)
        raise FeedbackError(
            f"{kind} {spec}: {module} has no function {name!r}" + (f"; is {near!r} meant?" if near else "")
        )
    return function
