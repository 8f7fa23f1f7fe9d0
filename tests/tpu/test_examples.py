"""The example files: what their generator writes, and of the kinds it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignjax import lm
from tpu.examples.generate import contents

EXAMPLES = Path(__file__).resolve().parents[2] / "tpu" / "examples"
KINDS = {
    "pairs": "pairs", "chats": "pairs", "sampled": "responses", "unpaired": "unpaired", "messages": "messages",
    "prompts": "prompts",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_an_example_is_of_its_kind_and_fits_the_tiny_model(name: str) -> None:
    path = EXAMPLES / f"{name}.jsonl"
    assert path.read_text(encoding="utf-8") == contents()[path.name]
    assert lm.data_kind(path) == KINDS[name]
    most = lm.preset("tiny").max_length
    prompts = lm.read_prompts(path, max_prompt_length=most)
    assert len(prompts) == 48
    assert prompts.columns.keys() >= ({"answer"} if name == "prompts" else set())
    if name != "prompts":
        read = lm.read_supervised if name == "messages" else lm.read_preferences
        data = read(path, max_length=most)
        assert len(data) == 48 and data.loss_mask.any(-1).all()


def test_there_are_no_others() -> None:
    assert {path.name for path in EXAMPLES.glob("*.jsonl")} == {f"{name}.jsonl" for name in KINDS} == set(contents())
