"""Batch axes that only the data law has."""

import jax
import numpy as np
import pytest

import alignjax as aj
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

A, B = 3, 2
SAMPLER = oracles.policies(np.random.default_rng(1), B, A)


def fields():
    rng = np.random.default_rng(0)
    return {"ref_logp": oracles.policies(rng, B, A), "preference": oracles.preferences(rng, B, A)}


def test_fit_gives_every_prompt_of_a_data_law_its_own_logits():
    # One reference and reward, two data laws: as if both had been repeated.
    x = fields()
    one = {n: x[n][0] for n in ("ref_logp", "preference")}
    narrow = aj.Problem(**one, sampler_logp=SAMPLER)
    wide = aj.Problem(**{n: np.stack([v] * B) for n, v in one.items()}, sampler_logp=SAMPLER)
    fits = [aj.fit("ipo", p, num_steps=2, learning_rate=0.1, beta=0.5) for p in (narrow, wide)]
    assert fits[0].logp.shape == (B, A)
    np.testing.assert_allclose(fits[0].logp, fits[1].logp, atol=1e-13)


def test_sampling_from_a_law_for_each_prompt():
    # A law of each prompt on one response only: the only pair there is, (y, y), has margin 0 and target +-1/(2 beta).
    x = {n: v[0] for n, v in fields().items()}
    law = np.log([[1.0, 1e-300, 1e-300], [1e-300, 1.0, 1e-300]])
    problem = aj.Problem(**x, sampler_logp=law)
    loss = aj.sampled_loss("ipo", problem, x["ref_logp"], jax.random.key(0), num_samples=4, beta=0.5)
    np.testing.assert_allclose(loss, [1.0, 1.0], atol=1e-12)
