"""Writes the example files beside it, one for each kind of data; made-up arithmetic and manners, always the same.

pairs.jsonl      prompt, chosen, rejected                        every method of pairs
sampled.jsonl    prompt, responses, preference, rewards          methods of preferences and rewards
chats.jsonl      the pairs as conversations, prompts included    the same, through a chat template
unpaired.jsonl   prompt, completion, label                       methods of single responses
messages.jsonl   messages                                        supervised
prompts.jsonl    prompt, answer                                  online methods

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


Row = dict[str, object]


def rows() -> dict[str, list[Row]]:
    """File name -> its rows."""
    found: dict[str, list[Row]] = {
        name: [] for name in ("pairs", "sampled", "chats", "unpaired", "messages", "prompts")
    }
    for n in range(NUM_ROWS):
        a, b, thing = 2 + n % 7, 1 + (3 * n) % 11, THINGS[n % len(THINGS)]
        fill = {"a": a, "b": b, "sum": a + b, "wrong": a + b + 1 + n % 3, "thing": thing}
        prompt, good, bad = (text.format(**fill) for text in TEMPLATES[n % len(TEMPLATES)])
        found["pairs"].append({"prompt": prompt, "chosen": good, "rejected": bad})
        reward = {good: 1.0 + 0.25 * (n % 4), bad: -0.5 + 0.25 * (n % 3)}
        first, second = (good, bad) if n % 2 else (bad, good)
        preference = 1 / (1 + math.exp(reward[second] - reward[first]))
        found["sampled"].append(
            {
                "prompt": prompt,
                "responses": [first, second],
                "preference": round(preference, 4),
                "rewards": [reward[first], reward[second]],
            }
        )
        asked = {"role": "user", "content": prompt}
        chosen, rejected = ([asked, {"role": "assistant", "content": text}] for text in (good, bad))
        found["chats"].append({"chosen": chosen, "rejected": rejected})
        found["unpaired"].append({"prompt": prompt, "completion": first, "label": first == good})
        manners = [{"role": "user", "content": "Thanks!"}, {"role": "assistant", "content": "You are welcome."}]
        found["messages"].append({"messages": [*chosen, *manners] if n % 3 == 0 else chosen})
        found["prompts"].append({"prompt": prompt, "answer": a + b})
    return found


def contents() -> dict[str, str]:
    """File name -> text."""
    return {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in listed) for name, listed in rows().items()}


if __name__ == "__main__":
    for name, text in contents().items():
        (HERE / name).write_text(text, encoding="utf-8")
