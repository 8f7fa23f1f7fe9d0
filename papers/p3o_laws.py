"""Runs behind the P3O page without training: every pair of small tables, its gradient under each loss, and its odds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import methods
from alignjax.logspace import log_softmax
from alignjax.sweeps import spread
from papers.p3o_experiments import Runs
from papers.record import Settings

SIZE = 5
_FREE = {"clip_range": 1e9, "ratio_bound": float("inf")}
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "P3O, V1": ("p3o", {}),
    "P3O, V2": ("p3o", {"clip": "joint"}),
    "P3O, product": ("p3o", {"clip": "product"}),
    "V1, no clip": ("p3o", _FREE),
    "V2, no clip": ("p3o", {"clip": "joint", **_FREE}),
    "product, no clip": ("p3o", {"clip": "product", **_FREE}),
    "V1, KL at rollout": ("p3o", {"kl": "rollout"}),
    "CoPG": ("copg", {}),
    "RLOO": ("rloo", {}),
    "GRPO": ("grpo", {}),
    "DPO": ("dpo", {}),
    "IPO": ("ipo", {}),
    "REINFORCE": ("reinforce", {}),
    "REINFORCE, V": ("reinforce", {}),
    "PPO": ("ppo", {}),
}
"""Name -> record and hyperparameters, on pairs. `value` goes to PPO and to REINFORCE with V alone."""
_PAIRS = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1).reshape(-1, 2)


@jax.jit
@jax.vmap
def per_pair(logits: Array, old: Array, ref: Array, reward: Array, beta: Array, value: Array) -> Array:
    """Gradients of every loss at every pair of an instance, `[losses, 25, 5]`, with respect to the logits."""
    r, preference = reward[_PAIRS], jax.nn.sigmoid(reward[_PAIRS] - reward[_PAIRS[:, ::-1]])
    half = jnp.full((len(_PAIRS),), 0.5)
    table = jnp.stack([half, preference[:, 0], preference[:, 1], half], -1).reshape((-1, 2, 2))

    def losses(x: Array) -> Array:
        known = {"logp": log_softmax(x)[_PAIRS], "ref_logp": ref[_PAIRS], "behaviour_logp": old[_PAIRS]}
        known |= {"reward": r, "preference": table, "value": jnp.broadcast_to(value, half.shape)}
        rows = []
        for label, (name, hyper) in LOSSES.items():
            method = methods[name]
            fields = set(method.reads) | set(method.reads_if_present) & known.keys()
            if name == "reinforce" and label != "REINFORCE, V":
                fields -= {"value"}
            rows.append(method.loss(**{field: known[field] for field in fields}, beta=beta, **hyper))
        return jnp.stack(rows)

    return jax.jacrev(losses)(logits)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _expected(gradients: np.ndarray, law: np.ndarray) -> np.ndarray:
    """The mean over pairs drawn from a law, `[n, losses, 5]`."""
    weight = (law[:, _PAIRS[:, 0]] * law[:, _PAIRS[:, 1]])[:, None, :, None]
    return (weight * gradients).sum(2)


def _instances(settings: Settings, stream: int) -> tuple[np.ndarray, ...]:
    """(logits, log old, log ref, reward, beta): an old policy one step away, so that the clips act at some pairs."""
    number = settings.size(1000, 200)
    generator = np.random.default_rng([settings.seed, stream])
    logits = generator.normal(size=(number, SIZE))
    old = np.log(softmax(logits + 0.4 * generator.normal(size=(number, SIZE))))
    ref = np.log(softmax(generator.normal(size=(number, SIZE))))
    beta = np.exp(generator.uniform(np.log(0.05), np.log(1.0), number))
    return logits, old, ref, generator.normal(size=(number, SIZE)), beta


def _run(*given: np.ndarray) -> np.ndarray:
    return np.asarray(per_pair(*spread([jnp.asarray(x) for x in given])))


def _largest(x: np.ndarray) -> np.ndarray:
    """Largest absolute entry of each loss and instance, `[losses, n]`."""
    return np.abs(x).reshape(x.shape[0], x.shape[1], -1).max(-1).T


@functools.cache
def gradients(settings: Settings) -> Runs:
    """Expected gradients against -grad J, off- and on-policy: `[losses, n]` largest errors."""
    logits, old, ref, reward, beta = _instances(settings, 30)
    zero, here = np.zeros(len(beta)), np.log(softmax(logits))
    p = np.exp(here)
    regularised = reward - beta[:, None] * (here - ref)
    exact = -p * (regularised - (p * regularised).sum(-1, keepdims=True))
    away, near = (_run(logits, law, ref, reward, beta, zero) for law in (old, here))
    return {
        "off-policy": _largest(_expected(away, np.exp(old)) - exact[:, None]),
        "on-policy": _largest(_expected(near, p) - exact[:, None]),
        "against copg": _largest(2 * near[:, :1] - near[:, 7:8])[0],
        "rollout, first step": _largest(near[:, 6:7] - near[:, :1])[0],
        "rollout, later": _largest(_expected(away, np.exp(old))[:, 6:7] - _expected(away, np.exp(old))[:, :1])[0],
    }


@functools.cache
def invariances(settings: Settings) -> Runs:
    """What a shift of a prompt's rewards and a scale of all do to each loss: `[losses, n]` largest changes.

    "sample": the gradient of a pair; "on-policy", "off-policy": its expectation; "with V": the shift goes to V too;
    "equivariant": (r, beta, V) times 3 against the gradient times 3; "invariant": r and V alone times 3.
    """
    logits, old, ref, reward, beta = _instances(settings, 31)
    here = np.log(softmax(logits))
    shift = np.random.default_rng([settings.seed, 32]).normal(size=len(beta))
    moved, value = reward + shift[:, None], 0.3 * np.ones(len(beta))
    base, other = (_run(logits, old, ref, r, beta, value) for r in (reward, moved))
    near, near_other = (_run(logits, here, ref, r, beta, value) for r in (reward, moved))
    informed = _run(logits, old, ref, moved, beta, value + shift)
    scaled = _run(logits, old, ref, 3 * reward, 3 * beta, 3 * value)
    alone = _run(logits, old, ref, 3 * reward, beta, 3 * value)
    law = np.exp(old)
    return {
        "sample": _largest(other - base),
        "on-policy": _largest(_expected(near_other, np.exp(here)) - _expected(near, np.exp(here))),
        "off-policy": _largest(_expected(other, law) - _expected(base, law)),
        "with V": _largest(informed - base),
        "equivariant": _largest(scaled - 3 * base),
        "invariant": _largest(alone - base),
    }


VARIANCE_SHIFTS = np.asarray([0.0, 0.3, 1.0, 3.0, 10.0])


@functools.cache
def variances(settings: Settings) -> Runs:
    """Trace of the covariance of a pair's gradient on-policy, `[shifts, n]`; the value of the last is E R, exactly."""
    logits, _, ref, reward, beta = _instances(settings, 33)
    here = np.log(softmax(logits))
    p = np.exp(here)
    found: dict[str, list[np.ndarray]] = {"REINFORCE": [], "P3O, V1": [], "REINFORCE, V": []}
    for size in VARIANCE_SHIFTS:
        moved = reward + size
        value = (p * (moved - beta[:, None] * (here - ref))).sum(-1)
        each = _run(logits, here, ref, moved, beta, value)
        mean = _expected(each, p)
        spread = _expected(np.square(each - mean[:, :, None]).sum(-1, keepdims=True), p)[..., 0]
        for name, rows in found.items():
            rows.append(spread[:, list(LOSSES).index(name)])
    return {name: np.stack(rows) for name, rows in found.items()}
