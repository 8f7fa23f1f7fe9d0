"""Regressions on pairs, held to closed forms: a margin, its distance from a target, and the slope of that distance."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import methods
from alignjax.objectives.mnpo import multi_base_pair
from alignjax.samples import Samples
from theory import definitions
from theory.mutation.contracts import group_of
from theory.slack import both, equal

Distance = Callable[[Array], tuple[Array, Array]]
"""margin -> (distance, its slope)."""
_BETA, _STEP, _DECAY, _SHARE = 0.3, 0.7, 0.6, 0.4


def _square(target: Array | float) -> Distance:
    return lambda m: (jnp.square(m - target), 2 * (m - target))


def _coin(scale: Array | float, target: Array | float = jnp.inf) -> Distance:
    """Cross-entropy of two coins with the logits target and scale m."""
    p = definitions.sigmoid(jnp.asarray(target))

    def distance(m: Array) -> tuple[Array, Array]:
        lose, win = definitions.minus_log_sigmoid(-scale * m), definitions.minus_log_sigmoid(scale * m)
        return p * win + (1 - p) * lose, scale * (definitions.sigmoid(scale * m) - p)

    return distance


def _expected(margin: Array, distance: Distance, p: Array | float) -> tuple[Array, Array]:
    """P D(m) + (1 - P) D(-m), and its gradient in the two log-probs."""
    (win, up), (lose, down) = distance(margin), distance(-margin)
    slope = p * up - (1 - p) * down
    return p * win + (1 - p) * lose, jnp.stack([slope, -slope])


def pairs_by_hand(key: Array) -> Array:
    """Every iterative loss on pairs: labels certain and soft, feedback detached."""
    one = group_of(key, 2)
    logp, ref, anchor, others = (one[n] for n in ("logp", "ref_logp", "anchor_logp", "opponent_logp"))
    pull, win = _STEP * _BETA, one["win_rate"][0] - one["win_rate"][1]
    past = (others[0] + _DECAY * others[1]) / (1 + _DECAY)
    half, step, beta = _square(_STEP / 2), {"step_size": _STEP}, {"beta": _BETA}
    reward = one["reward"][0] - one["reward"][1]
    labels: dict[str, tuple[Array, Distance, dict[str, float]]] = {
        "inpo": (pull * ref + (1 - pull) * anchor, half, step | beta),
        "onpo": (anchor, half, step),
        "mnpo": (others.sum(0) / 2, half, step),
        "td_mnpo": (pull * ref + (1 - pull) * past, half, step | beta | {"history_decay": _DECAY}),
        "ht_mnpo": (pull * ref + (1 - pull) * others.sum(0) / 2, half, step | beta),
        "dno_prct": (anchor, _coin(_BETA), beta),
    }
    rates: dict[str, tuple[Array, Distance, dict[str, float]]] = {
        "inpo_soft": (pull * ref + (1 - pull) * anchor, _square(_STEP * win), step | beta),
        "mnpo_soft": (others.sum(0) / 2, _square(_STEP * win), step),
        "egpo": (ref, _square(win / _BETA), beta),
        "dno": (anchor, _coin(1 / _STEP, win), step),
        "eo_mnpo": (
            (1 - _SHARE) * ref + _SHARE * others.sum(0) / 2, _square(reward / _BETA), beta | {"external_weight": _SHARE}
        ),
        "spin": (anchor, _coin(_BETA), beta),
    }  # fmt: skip
    slacks = []
    for name, (base, distance, hyper) in (labels | rates).items():
        margin = (logp - base)[0] - (logp - base)[1]
        reads = (*methods[name].reads, *methods[name].reads_if_present)
        for soft in (False, True) if name in labels else (False,):
            given = {field: one[field] for field in reads if soft or field != "preference"}
            loss, slope = _expected(margin, distance, one["preference"][0, 1] if soft else 1.0)
            total = lambda fields, name=name, hyper=hyper: methods[name](Samples(**fields), **hyper)
            slopes = jax.grad(total)(given)
            slacks += [equal(total(given), loss), equal(slopes["logp"], slope)]
            slacks += [equal(slopes[field], 0.0) for field in ("win_rate", "reward") if field in slopes]
    # XPO: DPO, and a push of alpha away from response 1.
    loss, slope = _expected((logp - ref)[0] - (logp - ref)[1], _coin(_BETA), one["preference"][0, 1])
    explore = lambda x: methods["xpo"].loss(x, ref, one["preference"], beta=_BETA, exploration=0.2)
    found, got = jax.value_and_grad(explore)(logp)
    slacks += [equal(found, loss + 0.2 * logp[1]), equal(got, slope + jnp.array([0.0, 0.2]))]
    return both(*slacks)


def bases_in_general(key: Array) -> Array:
    """`multi_base_pair` with any weights, scale, target and distance: KL(Ber(s(t)) || Ber(s(m))) written out."""
    one, c, t, slacks = group_of(key, 2), 1.7, 0.8, []
    margin = one["logp"] - 0.3 * one["ref_logp"] - 1.4 * one["anchor_logp"]
    margin = margin[0] - margin[1]
    p = definitions.sigmoid(jnp.asarray(t))
    entropy = p * jnp.log(p) + (1 - p) * jnp.log(1 - p)
    kinds: dict[str, Distance] = {
        "squared": lambda m: (jnp.square(c * m - t), 2 * c * (c * m - t)),
        "logistic": lambda m: (_coin(c, t)(m)[0] + entropy, _coin(c, t)(m)[1]),
    }
    for kind, distance in kinds.items():
        for soft in (False, True):
            loss, slope = _expected(margin, distance, one["preference"][0, 1] if soft else 1.0)
            call = lambda x, kind=kind, soft=soft: multi_base_pair(
                x, (one["ref_logp"], one["anchor_logp"]), (0.3, 1.4), one["preference"] if soft else None, target=t,
                distance=kind, scale=c,
            )  # fmt: skip
            found, got = jax.value_and_grad(call)(one["logp"])
            slacks += [equal(found, loss), equal(got, slope)]
    return both(*slacks)


def pointwise_by_hand(key: Array) -> Array:
    """SPPO: every kept response has its own square, whose slope is twice its residual over their number."""
    one = group_of(key, 4)
    given: dict[str, Any] = {name: one[name] for name in ("logp", "anchor_logp", "win_rate")}
    error = one["logp"] - one["anchor_logp"] - _STEP * (one["win_rate"] - 0.5)
    slacks = []
    for mask in (jnp.ones(4), jnp.array([1.0, 0.0, 1.0, 1.0])):
        full = given | {"response_mask": mask}
        total = lambda fields: methods["sppo"](Samples(**fields), step_size=_STEP)
        slopes = jax.grad(total)(full)
        slacks += [
            equal(total(full), (mask * jnp.square(error)).sum() / mask.sum()),
            equal(slopes["logp"], 2 * mask * error / mask.sum()),
            equal(slopes["win_rate"], 0.0),
        ]
    return both(*slacks, equal(total(given), jnp.square(error).sum() / 4))


def token_clips_by_cases(key: Array) -> Array:
    """P3O by tokens: a token's ratio is free where its step does not help its response too much; the gain and the
    weight are those of whole responses; what is masked is not there, and a masked response leaves no pair.
    """
    one, beta, eps, bound, slacks = group_of(key, 2), 0.3, 0.2, 1.3, []
    lengths = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    logp, ref, old = one["token_logp"], one["ref_token_logp"], one["behaviour_token_logp"]
    for mask, behaviour in itertools.product((None, lengths), (None, old)):
        keep = jnp.ones((2, 3)) if mask is None else mask
        ratio = jnp.exp(logp - behaviour) if behaviour is not None else jnp.ones((2, 3))
        whole = jnp.where(keep > 0, ratio, 1.0).prod(-1)
        weight = jnp.where(whole > bound, bound, jnp.where(whole < 1 / bound, 1 / bound, whole))[::-1]
        worth = one["reward"] - beta * (keep * (logp - ref)).sum(-1)
        gain = ((worth - worth[::-1]) * weight)[:, None]
        free = jnp.where(gain > 0, ratio < 1 + eps, ratio > 1 - eps)
        edge = jnp.where(gain > 0, 1 + eps, 1 - eps)
        value = -0.5 * (keep * gain * jnp.where(free, ratio, edge)).sum()
        slope = -0.5 * keep * gain * jnp.where(free, ratio, 0.0)
        dirty = {"ref_token_logp": jnp.where(keep > 0, ref, jnp.nan), "reward": one["reward"]}
        dirty |= {"token_logp": jnp.where(keep > 0, logp, jnp.nan)} | ({} if mask is None else {"mask": mask})
        dirty |= {} if behaviour is None else {"behaviour_token_logp": jnp.where(keep > 0, behaviour, jnp.nan)}
        for responses in (None, jnp.ones(2), jnp.array([1.0, 0.0])):
            given = dirty | ({} if responses is None else {"response_mask": responses})
            call = lambda fields: methods["p3o_token"].loss(**fields, beta=beta, clip_range=eps, ratio_bound=bound)
            found, slopes = call(given), jax.grad(call)(given)
            both_there = 1.0 if responses is None else responses.min()
            slacks += [equal(found, both_there * value), equal(slopes["token_logp"], both_there * slope)]
            slacks += [
                equal(slopes[name], 0.0) for name in slopes if name not in ("token_logp", "mask", "response_mask")
            ]
    return both(*slacks)


BY_HAND: tuple[tuple[str, str, Any], ...] = (
    ("pairs", "iterative losses on pairs are distances of margins", pairs_by_hand),
    ("bases", "the general loss of several bases", bases_in_general),
    ("p3o-token", "P3O clips by tokens", token_clips_by_cases),
    ("sppo", "SPPO is a mean of squares", pointwise_by_hand),
)
"""(name, what it says, slack of a key)."""
