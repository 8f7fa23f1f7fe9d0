"""Metrics of pairs: which of two responses is the chosen one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignjax import lm
from alignjax.samples import Samples
from tpu.bridge import pair_metrics
from tpu.cli import parser
from tpu.commands.eval import _read

LOGP = np.array([[-1.0, -2.0], [-5.0, -3.0], [-4.0, -7.0]])
REF = np.array([[-1.5, -1.0], [-5.5, -4.0], [-4.0, -4.0]])


def means(**feedback: Any) -> dict[str, float]:
    found = pair_metrics(Samples(logp=LOGP, ref_logp=REF, **feedback), 2.0)
    return {name: float(total / count) for name, (total, count) in found.items()}


@pytest.mark.parametrize("field", ["reward", "win_rate"])
def test_the_chosen_one_is_the_better_one(field: str) -> None:
    """By hand: rows 0 and 1 have their second response above the first, row 2 is a tie and stays out."""
    got = means(**{field: np.array([[0.1, 0.9], [0.2, 0.3], [0.5, 0.5]])})
    assert got["logps/chosen"] == pytest.approx((-2 - 3) / 2) and got["logps/rejected"] == pytest.approx((-1 - 5) / 2)
    # beta (logp - ref_logp) of the second responses: -2 and 2; of the first ones 1 and 1.
    assert got["rewards/chosen"] == pytest.approx(0) and got["rewards/rejected"] == pytest.approx(1)
    assert got["rewards/accuracies"] == pytest.approx(0.5) and got["rewards/margins"] == pytest.approx(-1)


def test_preferences_come_first_and_without_anything_the_first_response_is_meant() -> None:
    preference = np.tile([[0.5, 0.9], [0.1, 0.5]], (3, 1, 1))
    first = means()
    assert first["logps/chosen"] == pytest.approx(LOGP[:, 0].mean())
    assert means(preference=preference, reward=np.tile([0.0, 1.0], (3, 1))) == first


@pytest.mark.parametrize(
    ("more", "pairs", "ranked"),
    [
        ({"completions": ["a", "b"], "rewards": [0.0, 1.0]}, True, True),
        ({"completions": ["a", "b"], "preference": 0.3}, True, True),
        ({"completions": ["a", "b"]}, False, True),
        ({"chosen": "a", "rejected": "b", "rewards": [0.0, 1.0]}, True, False),
    ],
)
def test_eval_tells_of_pairs_where_one_is_the_chosen(more: Any, pairs: bool, ranked: bool, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "p", **more}) + "\n")
    options = parser().parse_args(["eval", "--model", "tiny", "--data", str(file), "--max-new-tokens", "8"])
    asked = _read(options, lm.preset("tiny"), lm.ByteTokenizer())
    assert (asked["pairs"] is not None) == pairs and asked["ranked"] == ranked
