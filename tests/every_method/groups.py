"""Groups of responses with every field a loss may read, for tests that run over the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax

import alignjax as aj

B, T = 3, 2
METHODS = dict(aj.methods)
assert METHODS, "the registry is empty"
NAMES = sorted(METHODS)


def arrays(k: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Every field of `Samples`, for B prompts and k responses; token fields sum to the sequence fields."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(size=(B, k, k)) - 0.5, 1)
    out: dict[str, np.ndarray] = {
        "reward": rng.normal(size=(B, k)),
        "rewards": rng.normal(size=(B, k, 2)),
        "preference": 0.5 + upper - np.swapaxes(upper, -1, -2),
        "win_rate": rng.uniform(size=(B, k)),
        "label": np.broadcast_to(np.arange(k) % 2, (B, k)).astype(float),
        "value": rng.normal(size=B),
    }
    for name in ("", "ref_", "behaviour_", "anchor_", "opponent_"):
        lead = (2,) if name == "opponent_" else ()
        tokens = log_softmax(rng.normal(size=(*lead, B, k, T, 5)), -1)[..., 0]
        out[f"{name}token_logp"] = tokens
        out[f"{name}logp"] = tokens.sum(-1)
    return out


def size_of(name: str) -> int:
    return METHODS[name].num_responses or max(2, METHODS[name].min_responses)


def read(name: str) -> tuple[str, ...]:
    """What the method reads, apart from masks."""
    fields = (*METHODS[name].reads, *METHODS[name].reads_if_present)
    return tuple(field for field in fields if field not in ("mask", "response_mask"))


def samples(name: str, given: dict[str, Any], **more: Any) -> aj.Samples:
    """Samples with the fields the method reads; `logp` is always there."""
    return aj.Samples(**{field: given[field] for field in {*read(name), "logp"}}, **more)


def policy_field(name: str) -> str:
    """The field through which the method's gradient reaches the policy."""
    return "token_logp" if "token_logp" in METHODS[name].reads else "logp"
