"""Tokenizers of Hugging Face folders: tokenizer.json and the small files beside it, on the `tokenizers` library."""

import datetime
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.lm.chat import DATE, ChatTemplate, Message, Span
from alignjax.lm.tokenizer import chat_tokens

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt", "generation_config.json",
)  # fmt: skip
"""What `save` copies, of those there are."""


class FolderTokenizer:
    """`load_tokenizer` makes it."""

    def __init__(
        self, folder: Path, fast: Any, template: ChatTemplate | None, bos: int | None, pad: int, stops: tuple[int, ...]
    ) -> None:
        self.folder = folder
        self.template = template
        self.bos, self.eos, self.pad, self.stops = bos, stops[0], pad, stops
        self.vocab_size: int = max(fast.get_vocab(with_added_tokens=True).values()) + 1
        self._fast = fast

    def encode(self, text: str) -> list[int]:
        return list(self._fast.encode_batch_fast([text], add_special_tokens=False)[0].ids)  # without the spans

    def encode_spans(self, text: str) -> tuple[list[int], list[Span]]:
        encoding = self._fast.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def decode(self, tokens: Iterable[int]) -> str:
        return str(self._fast.decode([int(token) for token in tokens], skip_special_tokens=True))

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        return chat_tokens(self, messages, add_generation_prompt)

    def save(self, folder: str | Path) -> None:
        """Copies the files it was read from; the template that is in use becomes the default."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (self.folder / name).exists() and folder.resolve() != self.folder.resolve():
                shutil.copyfile(self.folder / name, folder / name)
        there = _templates(folder, _settings(folder)).get("default")
        if self.template is not None and self.template.source != there:
            (folder / "chat_template.jinja").write_text(self.template.source, encoding="utf-8")


def load_tokenizer(
    folder: str | Path, *, chat_template: str | None = None, now: datetime.datetime = DATE
) -> FolderTokenizer:
    """The tokenizer of a Hugging Face folder.

    `chat_template`: a template, or the name of one of those in the folder, instead of its default (which is
    chat_template.jinja, or `chat_template` of tokenizer_config.json). `now`: the date templates are told.

    Sequences begin with the folder's `bos_token`, if it names one and says `"add_bos_token": true` or, where it does
    not say, its post-processor puts it first. (Otherwise only conversations do whose template writes it.)
    Responses end with `eos_token` or another `eos_token_id` of generation_config.json. Without a `pad_token` the
    end of sequence is padding.

    Raises: FileNotFoundError without a tokenizer.json; ValueError on a file that cannot be read, naming it.
    """
    folder = Path(folder)
    fast = _fast(folder)
    settings = _settings(folder)
    generation, model = _json(folder / "generation_config.json"), _json(folder / "config.json")
    written = {name: _written(value) for name, value in settings.items() if name.endswith("_token")}
    names = {name: value for name, value in written.items() if value is not None}

    def ids(kind: str) -> list[int]:
        """All that the files name for bos, eos or pad, the tokenizer's own first."""
        named = names.get(f"{kind}_token")
        own = fast.token_to_id(named) if named is not None else None
        if named is not None and own is None:
            raise ValueError(f"{folder}: {kind}_token {named!r} is not in tokenizer.json")
        listed = [own]
        for source in (generation, model):
            value = source.get(f"{kind}_token_id")
            listed += value if isinstance(value, list) else [value]
        known = [token for token in listed if isinstance(token, int) and fast.id_to_token(token) is not None]
        return list(dict.fromkeys(known))

    stops = tuple(ids("eos"))
    if not stops:
        raise ValueError(
            f"{folder} names no end of sequence: no eos_token in tokenizer_config.json, no eos_token_id elsewhere"
        )
    bos = ids("bos")[:1] if "bos_token" in names else []
    asked = settings.get("add_bos_token")
    if bos and not (_begins_with(fast, bos[0]) if asked is None else asked):
        bos = []
    template = _template(folder, settings, chat_template)
    return FolderTokenizer(
        folder, fast, None if template is None else ChatTemplate(template, names, now),
        bos[0] if bos else None, (ids("pad") or [stops[0]])[0], stops,
    )  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    return _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")


def _fast(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        others = [name for name in ("tokenizer.model", "vocab.json", "spiece.model") if (folder / name).exists()]
        hint = f" ({others[0]} alone is not read: save it as a fast tokenizer)" if others else ""
        raise FileNotFoundError(f"{folder} has no tokenizer.json{hint}")
    try:
        fast = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{path} is no tokenizer: {error}") from None
    fast.no_padding()
    fast.no_truncation()
    return fast


def _begins_with(fast: Any, token: int) -> bool:
    """Whether the post-processor puts the token before a text."""
    plain, whole = (fast.encode("a", add_special_tokens=special).ids[:1] for special in (False, True))
    return whole == [token] != plain


def _json(path: Path) -> dict[str, Any]:
    """An object; {} if the file is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object, got {type(value).__name__}")
    return value


def _written(value: Any) -> str | None:
    """A special token's text: a string, or an object with `content`."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else None


def _templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Name -> chat template; "default" is the one in use if none is asked for."""
    found = settings.get("chat_template")
    named = {} if found is None else {"default": found}
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found}
    paths = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    named |= {path.stem: path.read_text(encoding="utf-8") for path in paths}
    if (folder / "chat_template.jinja").is_file():
        named["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return named


def _template(folder: Path, settings: Mapping[str, Any], asked: str | None) -> str | None:
    named = _templates(folder, settings)
    if asked is None:
        if named and "default" not in named:
            raise ValueError(f"{folder} has no default chat template; give chat_template, one of {', '.join(named)}")
        return named.get("default")
    if asked not in named and "{" not in asked:
        there = ", ".join(named) or "none"
        raise ValueError(f"chat_template {asked!r} is no template and no name of one; {folder} has {there}")
    return named.get(asked, asked)
