"""Bytes as tokens: no vocabulary file, nothing to download. 0..255 are UTF-8 bytes, then three specials."""

from collections.abc import Iterable

BOS = 256
EOS = 257
PAD = 258
VOCAB_SIZE = 264
"""256 bytes, three specials, and five ids that are never used: a size that 2, 4 and 8 devices can divide."""
SPECIALS = {BOS: "<|bos|>", EOS: "<|eos|>", PAD: "<|pad|>"}
"""How the specials are written in chat templates."""
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "assistant: {% generation %}{{ message.content }}<|eos|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message.role }}: {{ message.content }}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""One message a line, "role: content"."""


def encode(text: str) -> list[int]:
    """The UTF-8 bytes of a text, without specials.

    Raises: UnicodeEncodeError (a ValueError) on half a surrogate pair, which no bytes stand for.
    """
    return list(text.encode("utf-8"))


def decode(tokens: Iterable[int]) -> str:
    """The text of the bytes among `tokens`; specials are left out, bytes that are not UTF-8 become U+FFFD."""
    return bytes(int(t) for t in tokens if 0 <= int(t) < BOS).decode("utf-8", errors="replace")
