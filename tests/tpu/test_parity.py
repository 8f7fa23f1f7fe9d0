"""The parity check, where torch and transformers are there: it holds on a checkpoint and notices a wrong formula."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from alignjax import lm
from tpu import parity

pytestmark = pytest.mark.long


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = lm.DecoderConfig(vocab_size=61, d_model=32, d_mlp=48, num_layers=2, num_heads=4, max_length=64)
    lm.save(tmp_path / "model", config, lm.init(config, jax.random.key(1)))
    return tmp_path / "model"


def test_losses_and_gradients_are_those_of_the_published_formulas(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = parity.compare(checkpoint)
    assert report["holds"] and len(report["rows"]) == 1 + 2 * len(parity.FORMULAS)
    other = dataclasses.replace(parity.FORMULAS["sigmoid"], hyper={"beta": 1.01 * parity.BETA})
    formulas: dict[str, Any] = {"sigmoid": other}
    monkeypatch.setattr(parity, "FORMULAS", formulas)
    rows = parity.compare(checkpoint)["rows"]
    assert rows["logits"]["holds"] and not rows["sigmoid -> dpo: gradient"]["holds"]
