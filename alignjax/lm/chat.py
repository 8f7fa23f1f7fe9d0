r"""Chat templates: a conversation to text, and which characters of it are trained on. jinja2, sandboxed.

A template is rendered as `transformers` does (trim_blocks, lstrip_blocks, loop controls, `tojson`, `strftime_now`,
`raise_exception`, the names of the special tokens), except that `strftime_now` tells a fixed date: the same data are
the same tokens on any day, so a run resumed tomorrow is the run of today.

Trained on are the assistant's messages. Where the template has `{% generation %}` blocks they say which characters
that is. Otherwise message i is what rendering messages 0..i adds to rendering 0..i-1 with a generation prompt:

    render(m[:i], add_generation_prompt=True)  is a prefix of  render(m[:i+1])  is a prefix of  render(m)

and a template for which that is not so (it rewrites earlier turns) is refused, with what to do.
"""

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

Message = Mapping[str, Any]
"""{"role": ..., "content": ...}; a template may read more."""
Span = tuple[int, int]
"""First character, and the one after the last."""

DATE = datetime.datetime(2024, 7, 26)
"""What `strftime_now` tells, unless another is given: the date that Llama's templates fall back to."""
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around generation blocks while a template is rendered: noncharacters, which no text may hold."""


class TemplateError(ValueError):
    """A conversation that a template cannot render, or a template that cannot tell what is trained on."""


class ChatTemplate:
    """A template with its special tokens."""

    def __init__(self, source: str, specials: Mapping[str, str] | None = None, now: datetime.datetime = DATE) -> None:
        """`specials`: `bos_token`, `eos_token`, ... as text. Raises: TemplateError if `source` is not a template."""
        self.source = source
        self.specials = dict(specials or {})
        self.now = now
        self.marks = re.search(r"\{%-?\+?\s*generation\b", source) is not None
        """Whether it has `{% generation %}` blocks."""
        self._compiled = _compiled(source, now)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False, **names: Any) -> str:
        """The text of a conversation. `names`: further variables of the template. Raises: TemplateError."""
        return self._marked(messages, add_generation_prompt, names).replace(_OPEN, "").replace(_CLOSE, "")

    def render_trained(self, messages: Sequence[Message], **names: Any) -> tuple[str, list[Span]]:
        """The text of a conversation, and the characters of it that are trained on, in order.

        Raises: TemplateError; also if the template cannot tell (see the module).
        """
        if not self.marks:
            text = self.render(messages, **names)
            return text, self._differences(messages, text, names)
        pieces = re.split(f"([{_OPEN}{_CLOSE}])", self._marked(messages, False, names))
        text, spans, start = "", [], 0
        for piece in pieces:
            if piece == _OPEN:
                start = len(text)
            elif piece == _CLOSE:
                spans.append((start, len(text)))
            else:
                text += piece
        return text, [span for span in spans if span[0] < span[1]]

    def _marked(self, messages: Sequence[Message], add_generation_prompt: bool, names: Mapping[str, Any]) -> str:
        import jinja2

        if not messages:
            raise TemplateError("a conversation must have at least one message")
        plain = [{name: value for name, value in message.items() if value is not None} for message in messages]
        for i, message in enumerate(plain):
            written = json.dumps(message, ensure_ascii=False, default=str)
            if _OPEN in written or _CLOSE in written:
                raise TemplateError(f"message {i} holds U+FDD0 or U+FDD1, which are no characters")
        variables = {"tools": None, "documents": None, **self.specials, **names}
        try:
            return self._compiled.render(messages=plain, add_generation_prompt=add_generation_prompt, **variables)
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(str(message.get("role")) for message in plain)
            raise TemplateError(f"the chat template refuses the roles {roles}: {error}") from None

    def _differences(self, messages: Sequence[Message], text: str, names: Mapping[str, Any]) -> list[Span]:
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if i == 0:
                raise TemplateError("the first message is the assistant's: there is no prompt that it answers")
            before = self.render(messages[:i], add_generation_prompt=True, **names)
            after = self.render(messages[: i + 1], **names)
            if not (after.startswith(before) and text.startswith(after)):
                which = "the messages that follow" if after.startswith(before) else "the generation prompt"
                raise TemplateError(
                    f"message {i} cannot be told from the rest of the text: the chat template renders what stands "
                    f"before differently by {which}. It needs {{% generation %}} blocks around what is trained on"
                )
            spans.append((len(before), len(after)))
        return spans


@functools.lru_cache(maxsize=32)
def _compiled(source: str, now: datetime.datetime) -> Any:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: its text, between the two marks."""

        tags = {"generation"}  # noqa: RUF012  (jinja2's own form)

        def parse(self, parser: Any) -> list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            mark = lambda text: nodes.Output([nodes.TemplateData(text)]).set_lineno(line)
            return [mark(_OPEN), nodes.Scope(body).set_lineno(line), mark(_CLOSE)]

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: now.strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TemplateError(f"the chat template is not one: {error}") from None
