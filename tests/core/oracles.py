r"""Oracles in plain NumPy: the loss of a group, and the weights c_i of its gradient sum_i c_i grad log pi(y_i).

Written from the papers' formulas, with derivatives taken by hand; nothing here calls the library.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, softmax

__all__ = [
    "CONSISTENCY", "ON_FEEDBACK", "PAIRS", "bradley_terry", "enumerate_population", "loss_and_weights", "mixed_bases",
    "nash_fixed_point", "policies", "preferences", "softplus", "win_rates",
]  # fmt: skip

PAIRS = (
    "cdpo", "dno_prct", "dpo", "f_dpo", "hinge", "ht_mnpo", "inpo", "ipo", "ipo_md", "mnpo", "online_dpo", "online_ipo",
    "onpo", "robust_dpo", "slic", "td_mnpo",
)  # fmt: skip
"""Losses on pairs with a label."""
ON_FEEDBACK = ("dno", "egpo", "eo_mnpo", "inpo_soft", "mnpo_soft", "spin", "sppo", "xpo")
"""Losses on pairs without one, or with more than one, and SPPO's."""
CONSISTENCY = ("agro", "copg", "dro", "p3o")
"""Losses on differences of regularised rewards."""
_HALF_STEP = ("ht_mnpo", "inpo", "mnpo", "onpo", "td_mnpo")


def softplus(x: Any) -> np.ndarray:
    return np.logaddexp(0.0, x)


def policies(rng: np.random.Generator, *shape: int, spread: float = 1.0) -> np.ndarray:
    """Random normalised log-probabilities."""
    return log_softmax(spread * rng.normal(size=shape), axis=-1)


def preferences(rng: np.random.Generator, *batch_and_size: int) -> np.ndarray:
    """Random preference matrices, in general cyclic: iid uniform upper triangle."""
    *batch, size = batch_and_size
    upper = np.triu(rng.uniform(size=(*batch, size, size)) - 0.5, 1)
    return 0.5 + upper - np.swapaxes(upper, -1, -2)


def bradley_terry(reward: np.ndarray) -> np.ndarray:
    return expit(reward[..., :, None] - reward[..., None, :])


def win_rates(preference: np.ndarray, opponent_logp: np.ndarray) -> np.ndarray:
    return np.einsum("...ij,...j->...i", preference, np.exp(opponent_logp))


def mixed_bases(name: str, group: dict[str, np.ndarray], hyper: dict[str, Any]) -> np.ndarray:
    """sum_j w_j log b_j of the losses on log-ratios: the bases and weights of each paper, written out."""
    if name in ("dno", "dno_prct", "onpo", "spin", "sppo"):
        return group["anchor_logp"]
    if name in ("mnpo", "mnpo_soft"):
        return group["opponent_logp"].mean(0)
    ref = group["ref_logp"]
    if name in ("inpo", "inpo_soft"):
        pull = hyper["step_size"] * hyper["beta"]
        return pull * ref + (1 - pull) * group["anchor_logp"]
    if name in ("td_mnpo", "ht_mnpo"):
        pull = hyper["step_size"] * hyper["beta"]
        weights = hyper.get("history_decay", 1.0) ** np.arange(len(group["opponent_logp"]))
        past = sum(w * b for w, b in zip(weights, group["opponent_logp"], strict=True)) / weights.sum()
        return pull * ref + (1 - pull) * past
    if name == "eo_mnpo":
        share = hyper["external_weight"]
        return (1 - share) * ref + share * group["opponent_logp"].mean(0)
    return ref


def _on_feedback(name: str, group: dict[str, np.ndarray], hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient weights of the losses in `ON_FEEDBACK`."""
    x = group["logp"] - mixed_bases(name, group, hyper)
    if name == "sppo":
        residual = x - hyper["step_size"] * (group["win_rate"] - 0.5)
        return (residual**2).mean(-1), 2 * residual / x.shape[-1]
    m, signs = x[..., 0] - x[..., 1], np.array([1.0, -1.0])
    if name == "spin":
        return softplus(-hyper["beta"] * m), -hyper["beta"] * expit(-hyper["beta"] * m)[..., None] * signs
    if name == "xpo":
        p, beta, alpha = group["preference"][..., 0, 1], hyper["beta"], hyper["exploration"]
        value = p * softplus(-beta * m) + (1 - p) * softplus(beta * m) + alpha * group["logp"][..., 1]
        return value, beta * (expit(beta * m) - p)[..., None] * signs + alpha * np.array([0.0, 1.0])
    gap = lambda field: group[field][..., 0] - group[field][..., 1]
    if name == "dno":
        h, t = hyper["step_size"], gap("win_rate")
        value = expit(t) * softplus(-m / h) + expit(-t) * softplus(m / h)
        return value, ((expit(m / h) - expit(t)) / h)[..., None] * signs
    target = {
        "egpo": lambda: gap("win_rate") / hyper["beta"],
        "eo_mnpo": lambda: gap("reward") / hyper["beta"],
        "inpo_soft": lambda: hyper["step_size"] * gap("win_rate"),
        "mnpo_soft": lambda: hyper["step_size"] * gap("win_rate"),
    }[name]()
    return (m - target) ** 2, 2 * (m - target)[..., None] * signs


def _consistency(name: str, group: dict[str, np.ndarray], hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """CoPG, AGRO, DRO and P3O by loops over the responses and their pairs."""
    logp, r, beta = group["logp"], group["reward"], hyper["beta"]
    h, k = logp - group["ref_logp"], logp.shape[-1]
    value, c = np.zeros(logp.shape[:-1]), np.zeros_like(logp)
    if name == "dro":
        residual = r - group["value"][..., None] - beta * h
        return 0.5 * (residual**2).mean(-1), -beta * residual / k
    if name == "p3o":
        old, eps, bound = group.get("behaviour_logp", logp), hyper["clip_range"], hyper["ratio_bound"]
        clip = lambda x, low, high: np.minimum(np.maximum(x, low), high)
        measured = h if hyper.get("kl", "recomputed") == "recomputed" else old - group["ref_logp"]
        rho, g = np.exp(logp - old), r - beta * measured
        if hyper.get("clip") == "joint":
            gain = (g[..., 0] - g[..., 1]) * clip(rho[..., 0] * rho[..., 1], 1 / bound, bound)
            moved = (logp - old)[..., 0] - (logp - old)[..., 1]
            free = np.where(gain > 0, moved < eps, moved > -eps)
            centre = h[..., 0] - h[..., 1] - moved
            value = -0.5 * gain * (centre + np.where(free, moved, np.sign(gain) * eps))
            return value, -0.5 * np.where(free, gain, 0.0)[..., None] * np.array([1.0, -1.0])
        for i, j in ((0, 1), (1, 0)):
            weight, q = clip(rho[..., j], 1 / bound, bound), g[..., i] - g[..., j]
            x = weight * rho[..., i] if hyper.get("clip") == "product" else rho[..., i]
            gain = q if hyper.get("clip") == "product" else q * weight
            free = np.where(gain > 0, x < 1 + eps, x > 1 - eps)
            value = value - 0.5 * gain * np.where(free, x, 1 + np.sign(gain) * eps)
            c[..., i] = -0.5 * np.where(free, gain * x, 0.0)
        return value, c
    for i, j in itertools.combinations(range(k), 2):
        pairs, full = k * (k - 1) / 2, (r - beta * h)[..., i] - (r - beta * h)[..., j]
        if name == "agro":
            value, slope = value + 0.5 * (full**2 / 2) / pairs, -0.5 * beta * full / pairs
        else:
            half = (r - beta / 2 * h)[..., i] - (r - beta / 2 * h)[..., j]
            value, slope = value - half * (h[..., i] - h[..., j]) / pairs, -full / pairs
        c[..., i] += slope
        c[..., j] -= slope
    return value, c


def _score(name: str, logp: np.ndarray, ref_logp: np.ndarray | None, hyper: dict[str, Any]) -> tuple[Any, Any]:
    """The score of a response in a pair loss and its derivative in log pi."""
    if name == "slic":
        return logp, np.ones_like(logp)
    assert ref_logp is not None
    u = np.exp(logp - ref_logp)
    if name in ("ipo", "online_ipo", "ipo_md", *_HALF_STEP):
        return np.log(u), np.ones_like(u)
    beta = hyper["beta"]
    if name != "f_dpo":
        return beta * np.log(u), beta * np.ones_like(u)
    a = hyper.get("alpha", 0.5)
    slope, curvature = {  # f'(u) and u f''(u), arXiv:2309.16240, Table 1
        "reverse_kl": (np.log(u) + 1, np.ones_like(u)),
        "forward_kl": (-1 / u, 1 / u),
        "js": (np.log(2 * u / (1 + u)), 1 / (1 + u)),
        "alpha": ((1 - u**-a) / a, u**-a),
    }[hyper.get("divergence", "reverse_kl")]
    return beta * slope, beta * curvature


def _link(name: str, m: np.ndarray, hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """l(m) and l'(m) of a pair loss."""
    eps = hyper.get("label_smoothing")
    if name in ("dpo", "f_dpo", "dno_prct", "online_dpo"):
        return softplus(-m), -expit(-m)
    if name == "cdpo":
        return (1 - eps) * softplus(-m) + eps * softplus(m), -(1 - eps) * expit(-m) + eps * expit(m)
    if name == "robust_dpo":
        scale = 1 - 2 * eps
        return (
            ((1 - eps) * softplus(-m) - eps * softplus(m)) / scale,
            (-(1 - eps) * expit(-m) - eps * expit(m)) / scale,
        )
    if name in ("ipo", "online_ipo", "ipo_md", *_HALF_STEP):
        target = hyper["step_size"] / 2 if name in _HALF_STEP else 1 / (2 * hyper["beta"])
        return (m - target) ** 2, 2 * (m - target)
    at = hyper["delta"] if name == "slic" else 1.0
    return np.maximum(0.0, at - m), -(m < at).astype(float)


def loss_and_weights(name: str, group: dict[str, np.ndarray], hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Value `[N]` and c `[N, K]` of groups of K responses; `group` holds arrays `[N, K]` (preference `[N, K, K]`)."""
    logp, ref = group["logp"], group.get("ref_logp")
    if name in ON_FEEDBACK:
        return _on_feedback(name, group, hyper)
    if name in PAIRS:
        score, slope = _score(name, logp, None if name == "slic" else mixed_bases(name, group, hyper), hyper)
        m = score[..., 0] - score[..., 1]
        p = group["preference"][..., 0, 1] if "preference" in group else np.ones_like(m)
        up, d_up = _link(name, m, hyper)
        down, d_down = _link(name, -m, hyper)
        d_m = p * d_up - (1 - p) * d_down
        return p * up + (1 - p) * down, d_m[..., None] * slope * np.array([1.0, -1.0])
    assert ref is not None
    if name in CONSISTENCY:
        return _consistency(name, group, hyper)
    k = logp.shape[-1]
    beta = hyper["beta"]
    h = logp - ref
    if name in ("nash_md_pg", "nash_ema_pg"):
        c = -(group["win_rate"] - 0.5 - beta * h) / k
        return (c * logp).sum(-1), c
    reward = group["reward"]
    baseline = group.get("value", np.zeros(logp.shape[:-1]))[..., None]
    if name == "reinforce":
        c = -(reward - beta * h - baseline) / k
        return (c * logp).sum(-1), c
    if name == "rloo":
        regularised = reward - beta * h
        others = np.stack([np.delete(regularised, i, -1).mean(-1) for i in range(k)], -1)
        c = -(regularised - others) / k
        return (c * logp).sum(-1), c
    old = group.get("behaviour_logp", logp)
    rho = np.exp(logp - old)
    clip = hyper["clip_range"]
    if name == "ppo":
        advantage = reward - beta * (old - ref) - baseline
    else:
        advantage = reward - reward.mean(-1, keepdims=True)
        if name == "grpo":
            spread = np.sqrt((advantage**2).mean(-1, keepdims=True))
            flat = np.ptp(reward, axis=-1, keepdims=True) == 0
            advantage = np.where(flat, 0.0, advantage / np.where(flat, 1.0, spread + hyper.get("std_epsilon", 0.0)))
    clipped = np.clip(rho, 1 - clip, 1 + clip)
    moves = ~((advantage > 0) & (rho > 1 + clip)) & ~((advantage < 0) & (rho < 1 - clip))
    value = -np.minimum(rho * advantage, clipped * advantage).mean(-1)
    c = -np.where(moves, advantage * rho, 0.0) / k
    if name in ("grpo", "dr_grpo"):
        value = value + beta * (np.exp(-h) - 1 + h).mean(-1)
        c = c + beta * (1 - np.exp(-h)) / k
    return value, c


def enumerate_population(
    name: str,
    logits: np.ndarray,
    tables: dict[str, np.ndarray],
    laws: list[np.ndarray],
    hyper: dict[str, Any],
) -> tuple[float, np.ndarray]:
    """Expected loss and logit gradient for one prompt, tuple by tuple; `laws` are the log-probs of the K slots."""
    logp = log_softmax(logits)
    value, gradient = 0.0, np.zeros_like(logits)
    for responses in itertools.product(range(logits.size), repeat=len(laws)):
        y = list(responses)
        weight = np.prod([np.exp(law[i]) for law, i in zip(laws, y, strict=True)])
        group = {n: t[np.ix_(y, y)] if n == "preference" else t[..., y] for n, t in tables.items() if n != "value"}
        group = {n: a[:, None] if n == "opponent_logp" else a[None] for n, a in group.items()}
        group["logp"] = logp[y][None]
        if "value" in tables:
            group["value"] = tables["value"][None]
        one, c = loss_and_weights(name, group, hyper)
        value += weight * one[0]
        for i, c_i in zip(y, c[0], strict=True):
            gradient += weight * c_i * (np.eye(logits.size)[i] - softmax(logits))
    return float(value), gradient


def nash_fixed_point(preference: np.ndarray, ref_logp: np.ndarray, tau: float, steps: int = 200_000) -> np.ndarray:
    """The regularised Nash by extragradient mirror steps (no linear solve, no continuation): log-probs."""
    step = 2 / (1 + 2 * tau)  # the largest step with a linear rate 1 - step tau: arXiv:2503.08942, Theorem 1
    logp = ref_logp.copy()
    for _ in range(steps):
        centre = (1 - step * tau) * logp + step * tau * ref_logp
        half = log_softmax(centre + step * (preference - 0.5) @ np.exp(logp))
        new = log_softmax(centre + step * (preference - 0.5) @ np.exp(half))
        moved = np.abs(new - logp).max()
        logp = new
        if moved < 1e-15:
            break
    return logp
