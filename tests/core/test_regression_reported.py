"""Reproductions of reported defects; each belongs in the file named in its comment once it passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax as aj
from alignjax import games
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")


def test_a_list_of_numbers_is_one_data_law():  # core/test_population.py
    law = np.log([0.2, 0.8])
    problem = aj.Problem(ref_logp=np.log([0.5, 0.5]), reward=[0.0, 1.0], sampler_logp=law.tolist())
    np.testing.assert_array_equal(problem.sampler_logp, law)


@pytest.mark.parametrize("size", [3, 30])
def test_policies_in_bfloat16(size):  # core/test_population.py, games/test_game.py
    with jax.enable_x64(False):
        for seed in range(10):
            logp = jax.nn.log_softmax(jax.random.normal(jax.random.key(seed), (size,), jnp.bfloat16))
            problem = aj.Problem(ref_logp=logp, reward=jnp.ones(size, jnp.bfloat16), sampler_logp=logp)
            assert jnp.isfinite(aj.population_loss("dpo", problem, logp))
            game = games.PreferenceGame(preference=jnp.full((size, size), 0.5, jnp.bfloat16), tau=0.1)
            assert jnp.isfinite(games.duality_gap(game, logp)) and jnp.isfinite(games.payoff(game, logp, logp))
            assert aj.envs.Bandit(reward=jnp.ones(size), ref_logp=logp).problem().ref_logp.dtype == jnp.float32


def test_a_mask_shared_by_the_prompts():  # core/test_samples.py
    tokens = np.full((2, 3, 4), -1.0)
    mask = np.ones((3, 4))
    mask[0, 2:] = 0
    np.testing.assert_allclose(aj.Samples.from_tokens(token_logp=tokens, mask=mask).logp, [[-2, -4, -4]] * 2)


def test_sampled_gradients_check_the_support_too():  # core/test_bad_input.py
    problem = aj.Problem(ref_logp=[0.0, -np.inf], reward=[0.0, 1.0])
    with pytest.raises(ValueError, match="ref_logp has zero mass"):
        aj.sampled_grad("rloo", problem, np.zeros(2), jax.random.key(0))


def test_a_temperature_for_each_prompt_is_not_one_for_each_response():  # core/test_population.py or test_bad_input.py
    rng = np.random.default_rng(0)
    problem = aj.Problem(ref_logp=oracles.policies(rng, 2, 3), reward=rng.normal(size=(2, 3)))
    logits, beta = rng.normal(size=(2, 3)), np.array([0.1, 0.9])
    try:
        got = aj.population_grad("dpo", problem, logits, beta=beta)
    except (TypeError, ValueError) as error:
        assert "beta" in str(error)
        return
    for b in range(2):
        expected = aj.population_grad("dpo", problem, logits, beta=beta[b])
        np.testing.assert_allclose(got[b], expected[b], atol=1e-12)


def test_bounded_divergences_where_the_ratio_overflows():  # core/test_divergences.py
    # Disjoint up to e^-10000: alpha divergence f(0) + 1 / alpha with f(0) = -1 / (alpha - 1), at alpha = .5: 4.
    p, q = np.array([0.0, -1e4]), np.array([-1e4, 0.0])
    assert aj.alpha_divergence(p, q, 0.5) == pytest.approx(4.0)
    assert aj.chi_square(p, q) == np.inf


def test_forward_kl_scores_of_equal_responses_cancel():  # every_method: extremes and ties of f_dpo
    samples = aj.Samples(logp=[-1e4, -1e4], ref_logp=[-1.0, -1.0])
    assert aj.methods["f_dpo"](samples, divergence="forward_kl") == pytest.approx(np.log(2))


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_the_f_regularised_optimum_under_jit(divergence):  # core/test_closed_forms.py: f_optimum = jax.jit(...)
    from alignjax.f_regularised import regularised_optimum

    rng = np.random.default_rng(0)
    ref, reward = oracles.policies(rng, 200, 4), rng.normal(size=(200, 4))
    jitted = jax.jit(regularised_optimum, static_argnums=3)(ref, reward, 0.3, divergence, 0.3)
    np.testing.assert_allclose(np.exp(jitted).sum(-1), 1, atol=1e-12)
