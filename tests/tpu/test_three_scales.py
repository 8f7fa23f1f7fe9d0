"""One function at three scales: on a vocabulary small enough to enumerate, the training step's gradient of a decoder is
the exact population gradient, method by method, through the same record."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from alignjax import lm
from tpu.train_step import prompt_losses

V, PROMPT = 3, (2, 0)
BETA = 0.4
# Every response of two tokens, after one prompt: 9 of them. Responses differ in their prefixes, so tokens matter.
RESPONSES = np.stack(np.unravel_index(np.arange(V**2), (V, V)), -1)
TOKENS = np.concatenate([np.tile(PROMPT, (V**2, 1)), RESPONSES], -1)
MASK = np.tile([False, False, True, True], (V**2, 1))
PAIRS = np.stack(np.unravel_index(np.arange(V**4), (V**2, V**2)), -1)
CONFIG = lm.DecoderConfig(
    vocab_size=V, d_model=8, d_mlp=8, num_layers=1, num_heads=2, max_length=4, dtype="float64", param_dtype="float64"
)


def distance(a: Any, b: Any) -> float:
    """Largest difference between two trees, relative to the largest entry."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "nash_md_pg", "nash_md_pg_token"])
def test_the_step_is_the_population_on_average(x64: None, name: str) -> None:
    method = alignjax.methods[name]
    policy, reference = (lm.init(CONFIG, key) for key in jax.random.split(jax.random.key(3)))
    score = lambda p: lm.token_logps(CONFIG, p, TOKENS, MASK)[:, 2:]  # [9, 2]
    draw = jax.random.uniform(jax.random.key(4), (V**2, V**2), jnp.float64)
    preference = np.asarray(0.5 + 0.5 * (draw - draw.T))
    ref_tokens = score(reference)
    # DPO's data come from a law of their own; Nash-MD's from the policy, whose rival in a pair is the other response:
    # self-play, mixture = 0.
    data = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(5), (V**2,), jnp.float64))
    law = data if name == "dpo" else score(policy).sum(-1)
    np.testing.assert_allclose(np.exp(score(policy).sum(-1)).sum(), 1, rtol=1e-12)
    problem = alignjax.Problem(
        ref_logp=ref_tokens.sum(-1), ref_token_logp=ref_tokens, preference=preference,
        sampler_logp=data if name == "dpo" else None,
    )  # fmt: skip
    own = {} if name == "dpo" else {"mixture": 0.0}

    def population(p: Any) -> Any:
        tokens = score(p)
        given = {"token_logp": tokens} if "token_logp" in method.reads else {}
        return alignjax.population_loss(name, problem, tokens.sum(-1), beta=BETA, **own, **given)

    weight = np.exp(np.asarray(law))[PAIRS].prod(-1)  # [81]
    both = preference[PAIRS[:, :, None], PAIRS[:, None, :]]  # [81, 2, 2]
    batch = {"tokens": TOKENS[PAIRS], "loss_mask": MASK[PAIRS], "attention_mask": np.ones_like(TOKENS)[PAIRS]}
    batch |= {"preference": both, "win_rate": np.stack([both[:, 0, 1], both[:, 1, 0]], -1)}

    def step(p: Any, batch: Any) -> Any:
        return (weight * prompt_losses(CONFIG, method, {"beta": BETA}, p, reference, batch)[0]).sum()

    exact, sampled = jax.jit(jax.grad(population))(policy), jax.jit(jax.grad(step))(policy, batch)
    assert distance(sampled, exact) < 1e-10
    # A check that can fail: with the two win-rates (for dpo, the two preferences) exchanged it is far off.
    wrong = {**batch, "win_rate": batch["win_rate"][:, ::-1], "preference": np.swapaxes(both, -1, -2)}
    assert distance(jax.jit(jax.grad(step))(policy, wrong), exact) > 1e-2
