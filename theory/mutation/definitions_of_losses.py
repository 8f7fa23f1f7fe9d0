"""Losses against the formulas of their docstrings, response by response: what an expectation does not see (a baseline,
the scale of a loss whose gradient vanishes at its optimum anyway).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import methods
from alignjax.samples import Samples
from theory import definitions
from theory.mutation.contracts import group_of
from theory.slack import both, equal

_SLOPES: dict[str, Any] = {
    "reverse_kl": lambda u: jnp.log(u),
    "forward_kl": lambda u: -1 / u,
    "js": lambda u: jnp.log(2 * u / (1 + u)),
    "alpha": lambda u: (1 - u**-0.3) / 0.3,
}


def f_dpo_by_hand(key: Array) -> Array:
    """-log sigmoid(beta (f'(u_0) - f'(u_1))) with f' written out, for certain and for soft labels."""
    one = group_of(key, 2)
    p, slacks = one["preference"][0, 1], []
    for name, slope in _SLOPES.items():
        u = slope(jnp.exp(one["logp"] - one["ref_logp"]))
        margin = 0.7 * (u[0] - u[1])
        win, lose = definitions.minus_log_sigmoid(margin), definitions.minus_log_sigmoid(-margin)
        settings = {"beta": 0.7, "divergence": name, "alpha": 0.3}
        hard = Samples(logp=one["logp"], ref_logp=one["ref_logp"])
        soft = Samples(logp=one["logp"], ref_logp=one["ref_logp"], preference=one["preference"])
        slacks.append(equal(methods["f_dpo"](hard, **settings), win))
        slacks.append(equal(methods["f_dpo"](soft, **settings), p * win + (1 - p) * lose))
    return both(*slacks)


def nash_md_by_hand(key: Array) -> Array:
    """sg[P - 1/2 - beta h] on every response, and with the log-ratios still to come on every token."""
    one = group_of(key, 4)
    beta, kept = 0.3, one["mask"].astype(one["logp"].dtype)
    h = one["logp"] - one["ref_logp"]
    advantage = one["win_rate"] - 0.5 - beta * h
    tokens = kept * (one["token_logp"] - one["ref_token_logp"])
    later = jnp.stack([tokens[:, n:].sum(-1) for n in range(tokens.shape[-1])], -1)
    each = kept * (one["win_rate"][:, None] - 0.5 - beta * later)

    def loss(logp: Array) -> Array:
        given = Samples(logp=logp, ref_logp=one["ref_logp"], win_rate=one["win_rate"])
        return methods["nash_md_pg"](given, beta=beta)

    def token_loss(token_logp: Array) -> Array:
        given = Samples(
            logp=one["logp"], token_logp=token_logp, ref_token_logp=one["ref_token_logp"], mask=one["mask"],
            win_rate=one["win_rate"],
        )  # fmt: skip
        return methods["nash_md_pg_token"](given, beta=beta)

    return both(
        equal(loss(one["logp"]), -jnp.mean(advantage * one["logp"])),
        equal(jax.grad(loss)(one["logp"]), -advantage / 4),
        equal(token_loss(one["token_logp"]), -jnp.sum(each * one["token_logp"]) / 4),
        equal(jax.grad(token_loss)(one["token_logp"]), -each / 4),
    )
