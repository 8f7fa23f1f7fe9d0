"""Writes the two example files beside it; made-up arithmetic and manners, the same bytes every time.

python tpu/examples/generate.py
"""

import json
import math
from pathlib import Path

HERE = Path(__file__).resolve().parent
THINGS = ("apples", "books", "chairs", "doors", "eggs", "forks", "guitars", "hats")
TEMPLATES = (
    ("What is {a} plus {b}?", "{a} plus {b} is {sum}.", "Who knows. Perhaps {wrong}."),
    ("I have {a} {thing} and buy {b} more.", "Then you have {sum} {thing}.", "Then you have {wrong} {thing}."),
    ("Count: {a} {thing}, {b} {thing}.", "That makes {sum}, thank you.", "No. Count them yourself."),
    ("Please add {a} and {b}.", "Gladly: {sum}.", "{sum}, and do not ask again."),
)
NUM_ROWS = 48


def rows() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Pairs, and the same texts as sampled responses with preferences."""
    pairs: list[dict[str, object]] = []
    sampled: list[dict[str, object]] = []
    for n in range(NUM_ROWS):
        a, b, thing = 2 + n % 7, 1 + (3 * n) % 11, THINGS[n % len(THINGS)]
        fill = {"a": a, "b": b, "sum": a + b, "wrong": a + b + 1 + n % 3, "thing": thing}
        prompt, good, bad = (text.format(**fill) for text in TEMPLATES[n % len(TEMPLATES)])
        pairs.append({"prompt": prompt, "chosen": good, "rejected": bad})
        reward = {good: 1.0 + 0.25 * (n % 4), bad: -0.5 + 0.25 * (n % 3)}
        first, second = (good, bad) if n % 2 else (bad, good)
        preference = 1 / (1 + math.exp(reward[second] - reward[first]))
        sampled.append(
            {
                "prompt": prompt,
                "responses": [first, second],
                "preference": round(preference, 4),
                "rewards": [reward[first], reward[second]],
            }
        )
    return pairs, sampled


def contents() -> dict[str, str]:
    """File name -> text."""
    pairs, sampled = rows()
    return {
        name: "".join(json.dumps(row) + "\n" for row in listed)
        for name, listed in (("pairs.jsonl", pairs), ("sampled.jsonl", sampled))
    }


if __name__ == "__main__":
    for name, text in contents().items():
        (HERE / name).write_text(text, encoding="utf-8")
