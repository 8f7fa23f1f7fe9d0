"""One function at three scales: on a vocabulary small enough to enumerate, the training step's gradient of a decoder is
the exact population gradient, method by method, through the same record."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from alignjax import lm
from alignjax.feedback import tables
from tpu.bridge import Others, prompt_losses

V, PROMPT = 3, (2, 0)
# Every response of two tokens, after one prompt: 9 of them. Responses differ in their prefixes, so tokens matter.
RESPONSES = np.stack(np.unravel_index(np.arange(V**2), (V, V)), -1)
TOKENS = np.concatenate([np.tile(PROMPT, (V**2, 1)), RESPONSES], -1)
MASK = np.tile([False, False, True, True], (V**2, 1))
CONFIG = lm.DecoderConfig(
    vocab_size=V, d_model=8, d_mlp=8, num_layers=1, num_heads=2, max_length=4, dtype="float64", param_dtype="float64"
)
QUICK = ("dpo", "nash_md_pg_token")


def distance(a: Any, b: Any) -> float:
    """Largest difference between two trees, relative to the largest entry."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return float(np.abs(a - b).max() / np.abs(b).max())


def score(params: Any) -> Any:
    """Log-probs of the response's tokens, `[9, 2]`."""
    return lm.token_logps(CONFIG, params, TOKENS, MASK)[:, 2:]


def gathered(table: Any, tuples: np.ndarray, field: str) -> Any:
    """What a table `[9, ...]` says of every tuple of responses."""
    if field == "value":
        return jnp.broadcast_to(table, tuples.shape[:1])
    if field == "preference":
        return table[tuples[:, :, None], tuples[:, None, :]]
    return table[tuples]


def check(name: str) -> None:
    """The expected gradient of the step, all tuples of K responses weighted by their law, is the population's."""
    method = alignjax.methods[name]
    k = method.group_size(None)
    keys = iter(jax.random.split(jax.random.key(3), 9))
    policy, reference, anchor, *past = (lm.init(CONFIG, next(keys)) for _ in range(5))
    history = jax.tree.map(lambda *x: jnp.stack(x), *past)
    draw = jax.random.uniform(next(keys), (V**2, V**2), jnp.float64)
    reward = jax.random.normal(next(keys), (V**2, 2), jnp.float64)
    sampled_by_others = jax.nn.log_softmax(2 * jax.random.normal(next(keys), (V**2,), jnp.float64))
    whole = lambda p: score(p).sum(-1)
    problem = alignjax.Problem(
        ref_logp=whole(reference), ref_token_logp=score(reference), preference=0.5 + 0.5 * (draw - draw.T),
        reward=reward[:, 0], rewards=reward, anchor_logp=whole(anchor), opponent_logp=jnp.stack([*map(whole, past)]),
        # Only methods of data have a law of their own; the others draw from the models.
        sampler_logp=sampled_by_others if method.sampler is alignjax.laws.data else None,
    )  # fmt: skip
    hyper = method.hyperparameters({})

    def population(p: Any) -> Any:
        given = {"token_logp": score(p)} if "token_logp" in method.reads else {}
        return alignjax.population_loss(name, problem, whole(p), **given)

    law = method.sampler(problem, whole(policy), **method.own(method.sampler, hyper))
    laws = law if isinstance(law, tuple) else (law,) * k
    tuples = np.array(list(itertools.product(range(V**2), repeat=k)))
    weight = np.exp(sum(np.asarray(one)[tuples[:, i]] for i, one in enumerate(laws)))
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-12)
    models = {"logp", "ref_logp", "token_logp", "ref_token_logp", "anchor_logp", "opponent_logp", "mask"}
    found = tables(method, problem, {"logp": whole(policy), "token_logp": score(policy)}, hyper)
    batch = {"tokens": TOKENS[tuples], "loss_mask": MASK[tuples], "attention_mask": np.ones_like(TOKENS)[tuples]}
    batch |= {f: gathered(t, tuples, f) for f, t in found.items() if t is not None and f not in models}
    others = Others(reference=reference, anchor=anchor, history=history)

    def step(p: Any, batch: Any) -> Any:
        return (weight * prompt_losses(CONFIG, method, hyper, p, others, batch)[0]).sum()

    exact, sampled = jax.jit(jax.grad(population))(policy), jax.jit(jax.grad(step))(policy, batch)
    assert distance(sampled, exact) < 1e-9, name
    # A check that can fail: it is far off if a response's tokens are those of the next response.
    wrong = {**batch, "tokens": TOKENS[(tuples + 1) % V**2]}
    assert distance(jax.jit(jax.grad(step))(policy, wrong), exact) > 1e-2, name


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_the_step_is_the_population_on_average(x64: None, name: str) -> None:
    check(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in alignjax.methods if name not in QUICK])
def test_the_step_of_every_method_is_the_population_on_average(x64: None, name: str) -> None:
    check(name)
