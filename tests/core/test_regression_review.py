"""What a review of the public API found, each with its own oracle."""
# ruff: noqa: E501 (a table of calls)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import alignjax as aj
from alignjax import games

P3, Q3 = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.2, 0.6])


def test_tilt_takes_more_batch_axes_in_the_weights_than_in_the_bases(x64):
    weights = np.asarray([0.1, 0.9])
    expected = [(1 - m) * P3 + m * Q3 for m in weights]  # NumPy, normalised below
    expected = [row - np.log(np.exp(row).sum()) for row in expected]
    np.testing.assert_allclose(aj.geometric_mixture(P3, Q3, weights), expected, atol=1e-14)
    stacked = aj.tilt((jnp.stack([P3] * 2)[None], jnp.stack([Q3] * 2)[None]), np.stack([1 - weights, weights]))
    np.testing.assert_allclose(stacked[0], expected, atol=1e-14)


def test_a_step_is_held_to_every_temperature_at_its_own_time():
    game = games.PreferenceGame(preference=games.library.comal(), tau=np.asarray([1.0, 5.0]))
    with pytest.raises(ValueError, match=r"at most 1 .* got 4\.5"):  # 0.9 * 5 at t = 0
        games.solve(game, "nash_md", num_steps=2, step_size=lambda t: jnp.where(t == 0, 0.9, 0.1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "rloo", "nash_ema_pg"])
def test_float32_problems_stay_float32_under_x64(x64, name):
    narrow = np.asarray(P3, np.float32)
    problem = aj.Problem(ref_logp=narrow, reward=np.asarray([0, 1, 2], np.float32), anchor_logp=narrow)
    for other in ("egpo", "bond", "vbon"):
        assert aj.population_loss(other, problem, narrow).dtype == jnp.float32
    assert aj.fit(name, problem, num_steps=2, learning_rate=0.1).logp.dtype == jnp.float32
    assert aj.gibbs(narrow, problem.reward, 0.5).dtype == jnp.float32
    game = games.PreferenceGame(preference=np.asarray(games.library.comal(), np.float32), tau=0.1)
    assert games.solve(game, "nash_md", num_steps=2, step_size="theorem").logp.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_gradients_of_the_f_regularised_optimum(x64, divergence):
    def mass(reward, beta):
        problem = aj.Problem(ref_logp=P3, reward=reward)
        return aj.methods["f_dpo"].optimum(problem, beta=beta, divergence=divergence)[2]

    reward, step = jnp.asarray([0.0, 1.0, 2.0]), 1e-5
    by_reward, by_beta = jax.grad(mass, (0, 1))(reward, 0.5)
    for i in range(3):  # central differences
        moved = [mass(reward.at[i].add(sign * step), 0.5) for sign in (1, -1)]
        assert by_reward[i] == pytest.approx(float(moved[0] - moved[1]) / (2 * step), abs=1e-7)
    moved = [mass(reward, 0.5 + sign * step) for sign in (1, -1)]
    assert by_beta == pytest.approx(float(moved[0] - moved[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "ppo", "reinforce", "rloo"])
def test_near_deterministic_policies_have_finite_population_gradients(name):
    problem, sure = aj.Problem(ref_logp=P3, reward=[0, 1, 2]), np.asarray([0, -1e4, -1e4])
    assert np.isfinite(aj.population_loss(name, problem, sure))
    # Only the first response is ever drawn, and its softmax gradient is (1 - pi, -pi, -pi) = 0.
    np.testing.assert_allclose(aj.population_grad(name, problem, sure), 0, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-2, weight_decay=0.1),
        optax.lion(1e-2),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    ],
    ids=["adamw", "lion", "decayed sgd"],
)
def test_weight_decay_leaves_responses_without_mass_alone(optimizer):
    problem = aj.Problem(ref_logp=np.log([0.6, 0.4, 1e-300]).clip(-1e3) * [1, 1, np.inf], reward=[0.0, 1.0, 2.0])
    logp = np.asarray(aj.fit("dpo", problem, num_steps=5, optimizer=optimizer).logp)
    assert np.isneginf(logp[2]) and np.isfinite(logp[:2]).all()


def test_gradients_reach_the_feedback_through_fit(x64):
    def mass(reward):
        problem = aj.Problem(ref_logp=P3, reward=reward)
        return aj.fit("dpo", problem, num_steps=4, learning_rate=0.3, beta=0.3).logp[2]

    reward, step = jnp.asarray([0.0, 1.0, 2.0]), 1e-5
    found = jax.grad(mass)(reward)
    moved = [float(mass(reward.at[i].add(step)) - mass(reward.at[i].add(-step))) / (2 * step) for i in range(3)]
    np.testing.assert_allclose(found, moved, atol=1e-8)
    assert np.abs(moved).min() > 1e-3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: aj.population_loss("dpo", aj.Problem(ref_logp=P3, reward=[0, 1, 2]), Q3, beta=np.ones(2)), "beta must be a scalar"),
        (lambda: aj.methods["dpo"].hyperparameters({"beta": "0.1"}), "beta must be a number"),
        (lambda: aj.Problem(ref_logp=np.stack([P3] * 3), sampler_logp=np.stack([P3] * 2)), "sampler_logp"),
        (lambda: aj.Samples(logp=np.zeros((2, 2)), ref_logp=np.zeros((3, 2))), r"logp \(2,\), ref_logp \(3,\)"),
        (lambda: aj.fit("dpo", aj.Problem(ref_logp=P3, reward=[0, 1, 2]), num_steps=1, learning_rate=0.1, init_logp=np.log([0.5, 0.5, 1e-300]) * [1, 1, np.inf]), "zero mass"),
        (lambda: aj.fit("dpo", aj.Problem(ref_logp=P3, reward=[0, 1, 2]), num_steps=1, learning_rate=0.1, policy=lambda x: x, init_params=np.zeros(3)), r"policy\(init_params\) must be normalised"),
        (lambda: aj.fit("dpo", aj.Problem(ref_logp=P3, reward=[0, 1, 2]), num_steps=1, learning_rate=0.1, optimizer="adam"), "optimizer must be an optax optimiser"),
        (lambda: aj.gibbs(P3, [0, np.inf, 1], 1.0), "reward holds inf"),
    ],
)  # fmt: skip
def test_errors_name_their_argument(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()


def test_a_batch_of_games_maps(x64):
    game = games.PreferenceGame(preference=games.random_preference(jax.random.key(0), 3, (4,)), tau=0.1)
    np.testing.assert_allclose(jax.vmap(games.nash)(game), games.nash(game), atol=1e-12)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "ppo", "grpo", "dr_grpo"])
def test_the_plain_loss_ignores_masked_responses(name):
    loss, mask = aj.methods[name].loss, jnp.asarray([1, 1, 0])
    dirty = [jnp.asarray(x) for x in ([-1.0, -2.0, jnp.nan], [-1.5, -1.0, jnp.nan], [1.0, 2.0, jnp.nan])]
    clean = [x[:2] for x in dirty]
    slope = jax.grad(lambda x: loss(x, *dirty[1:], response_mask=mask))(dirty[0])
    np.testing.assert_allclose(slope[:2], jax.grad(lambda x: loss(x, *clean[1:]))(clean[0]), rtol=1e-5)
    assert slope[2] == 0


def test_checks_under_a_trace_leave_concrete_constants_alone():
    """Inside jit an operation on a constant is traced: checks of constants must not branch on one."""
    problem = aj.Problem(ref_logp=P3, reward=[0.0, 1.0, 2.0])
    game = games.PreferenceGame(preference=games.library.comal(), tau=0.1)

    @jax.jit
    def everything(key):
        start = jnp.asarray(P3)
        return (
            aj.sampled_grad("rloo", problem, start, key),
            aj.population_grad("dpo", problem, start),
            aj.population_loss("ipo", problem, start),
            aj.fit("dpo", problem, num_steps=2, learning_rate=0.1, init_logp=start, key=key).logp,
            aj.methods["dpo"].optimum(problem, beta=0.3),
            aj.methods["ipo_md"].optimum(problem),
            aj.gibbs(start, jnp.arange(3.0), 0.5),
            aj.tilt((start, start), jnp.asarray([0.5, 0.5])),
            aj.kl(start, start) + aj.renyi(start, start, 0.5) + aj.alpha_divergence(start, start, 0.5),
            games.solve(game, "nash_md", num_steps=2, step_size=lambda t: 0.1 / (t + 1), init_logp=start).gap,
            games.best_response(game, start),
            games.nash(games.PreferenceGame(preference=games.library.comal(), ref_logp=start, tau=jnp.asarray(0.1))),
            games.annotator_mixture(jnp.ones((2, 3)), jnp.asarray([0.3, 0.7])),
            aj.methods["dpo"](aj.Samples(logp=start[None, :2], ref_logp=start[None, :2])),
            aj.Samples.from_tokens(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)), jnp.ones((1, 2, 3))).logp,
        )

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(everything(jax.random.key(0))))


def test_gradient_of_an_f_divergence_with_an_infinite_slope(x64):
    # f(u) = u log u: the KL divergence, whose gradient in the logits of p is p (d - KL).
    p, q = np.exp(P3), np.exp(Q3)
    d = P3 - Q3
    found = jax.grad(lambda z: aj.f_divergence(jax.nn.log_softmax(z), Q3, lambda u: u * jnp.log(u)))(jnp.asarray(P3))
    np.testing.assert_allclose(found, p * (d - (p * d).sum()), atol=1e-12)
    assert q.sum() == pytest.approx(1)


def test_a_player_is_any_integer_and_a_game_has_a_reference():
    table, ref = games.library.comal(), np.log(np.full(3, 1 / 3))
    game = games.MultiplayerGame(preferences=table, ref_logp=ref, tau=0.1, num_players=2)
    found = games.best_response(game, ref[None], player=np.int64(1))
    np.testing.assert_array_equal(found, games.best_response(game, ref[None], player=1))
    with pytest.raises(ValueError, match=r"player must be one of 0\.\.1, got 2"):
        games.best_response(game, ref[None], player=2)
    with pytest.raises(ValueError, match=r"ref_logp must hold the reference's log-probs \[..., A\], got None"):
        games.MultiplayerGame(preferences=table, ref_logp=None, tau=0.1, num_players=2)


def test_a_switch_is_true_or_false():
    problem = aj.Problem(ref_logp=P3, reward=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="include_b of bond must be True or False, got 1"):
        aj.population_loss("bond", problem, P3, include_b=1)
    on = [aj.population_loss("bond", problem, Q3, include_b=yes) for yes in (np.True_, True)]
    assert on[0] == on[1] != aj.population_loss("bond", problem, Q3, include_b=False)
