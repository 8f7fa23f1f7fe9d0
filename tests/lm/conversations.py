"""Tokenizer folders and conversations that tests of text share."""

import json
from pathlib import Path
from typing import Any

FOLDERS = Path(__file__).parent / "fixtures_text"
"""Written by make.py there: headers and inst with a BOS of template and post-processor, chatml without, end = pad."""
EXPECTED: list[dict[str, Any]] = json.loads((FOLDERS / "expected.json").read_text(encoding="utf-8"))["chats"]
"""What `transformers` makes of conversations."""
TWO = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
FOUR = [*TWO, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]
