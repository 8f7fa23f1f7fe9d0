"""What the columns of a row say: a prompt, responses, what is known of them. No tokens yet.

Prompts and responses are texts, or conversations: lists of {"role": ..., "content": ...}. The kinds of rows, told by
their columns (other columns are kept beside prompts and ignored elsewhere):

    pairs        prompt, chosen, rejected           preference
    pairs        chosen, rejected                   their common beginning is the prompt
    responses    prompt, responses (or completions)   K of them; preference, rewards, behaviour_logps
    unpaired     prompt, completion, label          label: whether it is desirable
    completion   prompt, completion                 supervised
    messages     messages                           supervised: the assistant's
    prompts      prompt                             online methods

`preference` is P(responses[0] beats responses[1]), or a K x K matrix with P + P^T = 1; `rewards` are K numbers, or K
lists of M; `behaviour_logps` K log-probs under the policy that wrote the responses. A pair may have them too, the
chosen one first. Beside conversations `tools` (a list, or JSON) and `chat_template_kwargs` (an object) are handed to
the chat template. `prompts`, `chosen_responses` and `rejected_responses` are read as `prompt`, `chosen`, `rejected`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax import checks
from alignjax.lm.rows import kind

FEEDBACK_COLUMNS = ("preference", "rewards", "behaviour_logps", "label")
COLUMN_OF = {
    "preference": "preference",
    "win_rate": "preference",
    "reward": "rewards",
    "rewards": "rewards",
    "label": "label",
    "behaviour_logp": "behaviour_logps",
}
"""Field of `Samples` -> the column it is made from."""
ALIASES = {"prompts": "prompt", "chosen_responses": "chosen", "rejected_responses": "rejected"}
_LISTS = ("responses", "completions")
_KNOWN = ("prompt", "chosen", "rejected", "completion", "messages", "responses", "completions", *FEEDBACK_COLUMNS)
"""Columns that are none of the others misspelt."""
_OWN_NAMES = ("messages", "add_generation_prompt", "tokenizer", "self")
"""What no row can hand to the chat template: arguments of the functions on the way there."""
_TURN = "\n\nAssistant:"
"""Ends the prompt in texts of the form of Anthropic's hh-rlhf."""

Said = str | list[dict[str, Any]]
"""A text or a conversation."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row, checked."""

    prompt: Said
    """Of `messages` all of them, and no responses."""
    responses: tuple[Said, ...] = ()
    feedback: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Fields of `Samples` for one prompt: `[K]`, `[K, M]`, `[K, K]`."""
    paired: bool = False
    """Whether the responses are a chosen and a rejected one."""
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The columns that were not read."""
    names: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Variables of the chat template."""

    def described(self) -> str:
        """What all rows must have alike."""
        columns = list(dict.fromkeys(COLUMN_OF[field] for field in self.feedback))
        many = [f"{np.shape(v)[-1]} objectives" for field, v in self.feedback.items() if field == "rewards"]
        count = f"{len(self.responses)} response{'s' if len(self.responses) != 1 else ''}"
        return " and ".join([count, *(columns or ["no feedback columns"]), *many])


def renamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """With our names for columns that have others elsewhere."""
    return {name if (own := ALIASES.get(name)) is None or own in record else own: v for name, v in record.items()}


def _kind(record: Mapping[str, Any]) -> str | None:
    paired = [name for name in ("chosen", "rejected") if name in record]
    others = [name for name in (*_LISTS, "completion") if name in record]
    if bool(paired) + len(others) > 1:
        raise ValueError(f"the columns {', '.join(map(repr, [*paired, *others]))} exclude each other")
    if "completion" in others:
        return "unpaired" if "label" in record else "completion"
    if paired or others:
        return "pairs" if paired else "responses"
    return "messages" if "messages" in record else "prompts" if "prompt" in record else None


def kind_of(record: Mapping[str, Any]) -> str:
    """ "pairs", "responses", "unpaired", "completion", "messages" or "prompts" (see the module).

    Raises: ValueError if the columns are of no kind, or of two.
    """
    found = _kind(renamed(record))
    if found is None:
        raise ValueError(_missing("'prompt' or 'messages'", ("prompt", "messages", "chosen"), record))
    return found


def preference_row(record: Mapping[str, Any]) -> Row:
    """Pairs, responses or unpaired. Raises: ValueError (without the place)."""
    record = renamed(record)
    found = _kind(record)
    if found == "pairs":
        return _pair(record)
    if found == "responses":
        name = next(name for name in _LISTS if name in record)
        texts = record[name]
        if not isinstance(texts, list):
            raise ValueError(f"{name!r} must be a list of texts, got {kind(texts)}")
        if not texts:
            raise ValueError(f"{name!r} is empty")
        return _row(record, {f"{name}[{i}]": text for i, text in enumerate(texts)})
    if found == "unpaired":
        return _row(record, {"completion": record["completion"]})
    if found == "completion":
        raise ValueError(
            _missing("'label' (prompt and completion alone are for supervised training)", ["label"], record)
        )
    raise ValueError(_missing("'chosen' and 'rejected' (or 'responses')", ("chosen", "responses"), record))


def supervised_row(record: Mapping[str, Any]) -> Row:
    """Messages, or a prompt with its completion. Raises: ValueError (without the place)."""
    record = renamed(record)
    if "messages" in record:
        messages = said("messages", record["messages"])
        if isinstance(messages, str):
            raise ValueError("'messages' must be a list of messages, got a text")
        if not any(message["role"] == "assistant" for message in messages):
            raise ValueError("'messages' holds none of the assistant: nothing would be trained on")
        return Row(messages, names=_names(record))
    if "completion" in record:
        return _row(record, {"completion": record["completion"]}, feedback=False)
    raise ValueError(_missing("'messages' (or 'prompt' and 'completion')", ("messages", "completion"), record))


def prompt_row(record: Mapping[str, Any]) -> Row:
    """The prompt of a row of any kind, and its other columns. Raises: ValueError (without the place)."""
    record = renamed(record)
    read = ["prompt"]
    pair = "chosen" in record and "rejected" in record
    if "prompt" in record and not (pair and _implicit(record)):
        prompt = said("prompt", record["prompt"])
    elif pair:
        read = ["chosen", "rejected"]
        prompt = _split(said("chosen", record["chosen"]), said("rejected", record["rejected"]))[0]
    elif "messages" in record:
        read = ["messages"]
        prompt = said("messages", record["messages"])
        if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
            prompt = prompt[:-1]
    else:
        raise ValueError(_missing("'prompt'", ("prompt",), record))
    if not prompt:
        raise ValueError("'messages' holds no prompt")
    others = {name: value for name, value in record.items() if name not in read}
    return Row(prompt, others=others, names=_names(record))


def _implicit(record: Mapping[str, Any]) -> bool:
    """Whether a pair holds the prompt in its responses: also conversations beside a plain prompt do."""
    return "prompt" not in record or (isinstance(record["prompt"], str) and not isinstance(record["chosen"], str))


def _pair(record: Mapping[str, Any]) -> Row:
    named = {name: said(name, _column(record, name)) for name in ("chosen", "rejected")}
    chosen, rejected = named.values()
    if chosen == rejected:
        raise ValueError("'chosen' and 'rejected' are identical")
    if not _implicit(record):
        return _row(record, named, paired=True)
    prompt, chosen, rejected = _split(chosen, rejected)
    return Row(prompt, (chosen, rejected), _feedback(record, 2), paired=True, names=_names(record))


def _row(record: Mapping[str, Any], named: Mapping[str, Any], *, paired: bool = False, feedback: bool = True) -> Row:
    prompt = said("prompt", _column(record, "prompt"))
    responses = []
    for name, value in named.items():
        response = said(name, value)
        if isinstance(prompt, str) and not isinstance(response, str):
            raise ValueError(f"'prompt' is a text and {name!r} a conversation: make both the same")
        if not isinstance(prompt, str):
            if isinstance(response, str):
                response = [{"role": "assistant", "content": response}]
            elif response[: len(prompt)] == prompt:
                response = response[len(prompt) :]
            if not response or response[-1]["role"] != "assistant":
                raise ValueError(f"{name!r} must end with a message of the assistant")
        responses.append(response)
    known = _feedback(record, len(responses)) if feedback else {}
    return Row(prompt, tuple(responses), known, paired, names=_names(record))


def _split(chosen: Said, rejected: Said) -> tuple[Said, Said, Said]:
    """The prompt that two responses have in common, and the rest of each.

    Of conversations the messages they share. Of texts what they share up to the last "\\n\\nAssistant:", or without
    one up to the last white space, which then begins the responses.
    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("'chosen' and 'rejected' must both be texts or both conversations")
    most = min(len(chosen), len(rejected))
    shared = next((i for i in range(most) if chosen[i] != rejected[i]), most)
    if isinstance(chosen, str):
        turn = chosen.rfind(_TURN, 0, shared)
        spaces = [i for i in range(shared) if chosen[i].isspace() and i + 1 < most]
        shared = turn + len(_TURN) if turn >= 0 else max(spaces, default=0)
    else:
        while shared and chosen[shared - 1]["role"] == "assistant":
            shared -= 1
    if not 0 < shared < most:
        raise ValueError("missing 'prompt', and 'chosen' and 'rejected' do not begin alike, with a response each after")
    for name, one in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(one, str) and one[-1]["role"] != "assistant":
            raise ValueError(f"{name!r} must end with a message of the assistant")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def said(name: str, value: Any) -> Said:
    """A text or a conversation, checked; keys of messages that are null are left out."""
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        if not value:
            raise ValueError(f"{name!r} is empty")
        messages = [{key: given for key, given in message.items() if given is not None} for message in value]
        for i, message in enumerate(messages):
            for key in ("role", "content"):
                # Empty system prompts are common, and who calls a tool need not say anything.
                silent = key == "content" and (message["role"] == "system" or "tool_calls" in message)
                if silent and message.get(key, "") == "":
                    continue
                if key not in message:
                    raise ValueError(_missing(f"{key!r} in {name}[{i}]", [key], message))
                _text(f"{name}[{i}].{key}", message[key])
        return messages
    return _text(name, value)


def _names(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row hands to the chat template."""
    names = record.get("chat_template_kwargs") or {}
    if not isinstance(names, dict):
        raise ValueError(f"'chat_template_kwargs' must be an object, got {kind(names)}")
    own = [name for name in _OWN_NAMES if name in names]
    if own:
        raise ValueError(f"'chat_template_kwargs' must not hold {own[0]!r}, which is set here; other names are free")
    tools = record.get("tools") or None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) or None
        except ValueError:
            raise ValueError("'tools' is a text that is not JSON") from None
    if tools is not None and not isinstance(tools, list):
        raise ValueError(f"'tools' must be a list, got {kind(tools)}")
    return names if tools is None else {**names, "tools": tools}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a text, got {kind(value)}")
    if not value:
        raise ValueError(f"{name!r} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half a surrogate pair, which is no text") from None
    return value


def _column(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(_missing(repr(name), (name,), record))
    return record[name]


def _missing(what: str, names: Sequence[str], record: Mapping[str, Any]) -> str:
    others = [name for name in record if name not in _KNOWN]
    near = next((found for name in names if (found := checks.nearest(name, others))), None)
    hint = f" (is {near!r} meant?)" if near else ""
    return f"missing {what}{hint}; the row has {', '.join(map(repr, record)) or 'no columns'}"


def _feedback(record: Mapping[str, Any], k: int) -> dict[str, np.ndarray]:
    """Fields of `Samples` for one prompt."""
    found: dict[str, np.ndarray] = {}
    if "preference" in record:
        found["preference"] = _preference(record["preference"], k)
        if k > 1:
            others = found["preference"].sum(-1) - np.diagonal(found["preference"])
            found["win_rate"] = others / (k - 1)
    if "rewards" in record:
        value = record["rewards"]
        vectors = isinstance(value, list) and len(value) == k and all(isinstance(one, list) for one in value)
        if vectors:
            widths = sorted({len(one) for one in value})
            if len(widths) > 1 or not widths[0]:
                raise ValueError(f"'rewards' must hold as many objectives for every response, got {widths}")
            found["rewards"] = np.stack([_numbers(f"rewards[{i}]", one, widths[0]) for i, one in enumerate(value)])
        else:
            found["reward"] = _numbers("rewards", value, k)
    if "behaviour_logps" in record:
        found["behaviour_logp"] = _numbers("behaviour_logps", record["behaviour_logps"], k)
        if (found["behaviour_logp"] > 0).any():
            most = found["behaviour_logp"].max()
            raise ValueError(f"'behaviour_logps' must be log-probabilities, <= 0, got {most:g}")
    if "label" in record and k == 1:
        label = record["label"]
        if not isinstance(label, bool) and label not in (0, 1):
            raise ValueError(f"'label' must be true or false (or 1 or 0), got {label!r}")
        found["label"] = np.array([float(label)])
    return found


def _preference(value: Any, k: int) -> np.ndarray:
    if isinstance(value, list):
        if len(value) != k:
            raise ValueError(f"'preference' must be {k} rows of {k} numbers, got {len(value)} rows")
        matrix = np.stack([_numbers(f"preference[{i}]", row, k) for i, row in enumerate(value)])
    else:
        p = _number("preference", value)
        if k != 2:
            raise ValueError(f"'preference' as one number compares 2 responses; {k} responses need a {k} x {k} matrix")
        matrix = np.array([[0.5, p], [1 - p, 0.5]])
    checks.preference_matrix("'preference'", matrix)
    return matrix


def _numbers(name: str, value: Any, k: int) -> np.ndarray:
    if not isinstance(value, list) or len(value) != k:
        got = f"{len(value)} of them" if isinstance(value, list) else kind(value)
        raise ValueError(f"{name!r} must be a list of {k} numbers, one per response, got {got}")
    return np.array([_number(f"{name}[{i}]", one) for i, one in enumerate(value)])


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name!r} must be a number, got {kind(value)}")
    most = float(np.finfo(np.float32).max)
    if not -most <= value <= most:
        raise ValueError(f"{name!r} must be a finite number, got {value}; float32 holds {most:.2g}")
    return float(value)
