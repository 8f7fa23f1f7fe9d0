"""A reward and a judge as users write them (`--reward tpu.examples.rewards:letters`)."""

from collections.abc import Sequence


def letters(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The share of letters and spaces among the characters of each completion."""
    return [sum(c.isalpha() or c == " " for c in text) / max(len(text), 1) for text in completions]


def polite(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
    """P(first beats second): the text that says please or thank you is likelier to win."""
    kind = lambda text: any(word in text.lower() for word in ("please", "thank", "gladly"))
    return [0.5 + 0.4 * (kind(a) - kind(b)) for a, b in zip(first, second, strict=True)]
