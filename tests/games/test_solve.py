"""`solve`: iterates against NumPy, shapes, schedules, batches, sampled opponents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from alignjax import games
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

B, A = 2, 3
DICE = 0.5 + np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / 18  # each beats the next with probability 5/9


def instance(seed=0):
    rng = np.random.default_rng(seed)
    return oracles.preferences(rng, B, A), oracles.policies(rng, B, A), oracles.policies(rng, B, A)


def step(name, preference, ref_logp, tau, logp, h):
    """One step in NumPy: log pi' = (1 - h tau) log pi + h tau log ref + h P opponent."""
    tau, h = np.asarray(tau)[..., None], np.asarray(h)[..., None]
    centre = log_softmax((1 - h * tau) * logp + h * tau * ref_logp, -1)
    opponent = {"nash_md": centre, "self_play": logp, "reference_response": ref_logp}[name]
    return log_softmax(centre + h * oracles.win_rates(preference, opponent), -1)


def run(name, preference, ref_logp, tau, logp, sizes):
    out = [logp]
    for h in sizes:
        out.append(step(name, preference, ref_logp, tau, out[-1], h))
    return np.stack(out)


def test_digits_of_one_step_on_the_dice():
    # pi = (.6, .3, .1), eta = 5, tau = .1, uniform reference: mixture, then next; computed apart from the formulas.
    game = games.PreferenceGame(preference=DICE, tau=0.1)
    start = np.log([0.6, 0.3, 0.1])
    mixture = log_softmax(0.5 * start + 0.5 * np.log(1 / 3))
    np.testing.assert_allclose(np.exp(mixture), [0.472733874990, 0.334273328702, 0.192992796309], rtol=0, atol=1e-11)
    solution = games.solve(game, "nash_md", num_steps=1, step_size=5.0, init_logp=start)
    expected = [0.490920061312, 0.308819594189, 0.200260344499]
    np.testing.assert_allclose(np.exp(solution.logp), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["nash_md", "self_play", "reference_response"])
def test_every_iterate(name):
    preference, ref_logp, start = instance()
    tau = 0.7
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    expected = run(name, preference, ref_logp, tau, start, [0.6] * 6)
    solution = games.solve(game, name, num_steps=6, step_size=0.6, init_logp=start)
    assert solution.trajectory.shape == (7, B, A) and solution.gap.shape == (B,)
    np.testing.assert_allclose(solution.trajectory, expected, atol=1e-12)
    np.testing.assert_allclose(solution.logp, expected[-1], atol=1e-12)
    response = log_softmax(ref_logp + oracles.win_rates(preference, expected[-1]) / tau, -1)
    gap = 2 * tau * rel_entr(np.exp(expected[-1]), np.exp(response)).sum(-1)
    np.testing.assert_allclose(solution.gap, gap, atol=1e-12)


def test_every_keeps_each_nth_policy():
    preference, ref_logp, start = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=0.2)
    full = games.solve(game, "nash_md", num_steps=6, step_size=0.6, init_logp=start)
    thin = games.solve(game, "nash_md", num_steps=6, step_size=0.6, init_logp=start, every=3)
    assert thin.trajectory.shape == (3, B, A)
    np.testing.assert_allclose(thin.trajectory, full.trajectory[::3], atol=1e-14)
    np.testing.assert_array_equal(thin.trajectory[0], start)


def test_step_sizes_as_number_array_schedule_and_theorem():
    # Theorem 1 of arXiv:2312.00886: eta_t = 2 / (tau (t + 2)), t = 0, 1, ...
    preference, ref_logp, start = instance()
    tau = 0.7
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    solve = lambda step_size: games.solve(game, "nash_md", num_steps=6, step_size=step_size, init_logp=start).trajectory
    decaying = run("nash_md", preference, ref_logp, tau, start, [0.8 / (t + 1) for t in range(6)])
    np.testing.assert_allclose(solve(lambda t: 0.8 / (t + 1)), decaying, atol=1e-12)
    per_game = np.array([0.3, 0.7])
    np.testing.assert_allclose(
        solve(per_game), run("nash_md", preference, ref_logp, tau, start, [per_game] * 6), atol=1e-12
    )
    theorem = run("nash_md", preference, ref_logp, tau, start, [2 / (tau * (t + 2)) for t in range(6)])
    np.testing.assert_allclose(solve("theorem"), theorem, atol=1e-12)


def test_the_theorem_bounds_the_distance_to_the_equilibrium():
    # KL(pi* || pi_T) <= 8 / (tau^2 (T + 1)); the oracle of pi* is an extragradient solver.
    preference, ref_logp, start = instance(1)
    tau = 0.5
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    path = np.asarray(games.solve(game, "nash_md", num_steps=300, step_size="theorem", init_logp=start).trajectory)
    nash = np.stack([oracles.nash_fixed_point(p, r, tau) for p, r in zip(preference, ref_logp, strict=True)])
    distance = rel_entr(np.exp(nash), np.exp(path)).sum(-1)
    bound = 8 / (tau**2 * (np.arange(1, 301) + 1))
    assert (distance[1:] <= bound[:, None]).all()
    assert distance[-1].max() < 1e-5
    # eta_0 tau = 1: the first step forgets where it started.
    elsewhere = games.solve(game, "nash_md", num_steps=300, step_size="theorem").trajectory
    np.testing.assert_allclose(elsewhere[1], path[1], atol=1e-12)


def test_the_first_theorem_step_forgets_even_zeros():
    # h_0 tau = 1 for every temperature, also where 2 / (2 tau) times tau rounds to something else.
    tau = np.linspace(0.05, 2, 40)
    assert (2 / (2 * tau) * tau != 1).any()
    game = games.PreferenceGame(preference=DICE, tau=tau)
    pure = np.array([0.0, -np.inf, -np.inf])
    path = games.solve(game, "nash_md", num_steps=2, step_size="theorem", init_logp=pure).trajectory
    plain = games.solve(game, "nash_md", num_steps=2, step_size="theorem").trajectory
    np.testing.assert_allclose(path[1:], plain[1:], atol=1e-12)


def test_a_constant_step_finds_a_mixture_that_is_another_equilibrium():
    # At a constant step the mixture is the Nash at tau / (1 - h tau): fixed point of its own best response there.
    preference, ref_logp, start = instance(2)
    tau, h = 0.5, 0.8
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    logp = np.asarray(games.solve(game, "nash_md", num_steps=300, step_size=h, init_logp=start).logp)
    mixture = log_softmax((1 - h * tau) * logp + h * tau * ref_logp, -1)
    warm = tau / (1 - h * tau)
    np.testing.assert_allclose(
        mixture, log_softmax(ref_logp + oracles.win_rates(preference, mixture) / warm, -1), atol=1e-10
    )
    # Self-play at a small step finds the Nash at tau itself.
    plain = np.asarray(games.solve(game, "self_play", num_steps=300, step_size=h, init_logp=start).logp)
    np.testing.assert_allclose(plain, log_softmax(ref_logp + oracles.win_rates(preference, plain) / tau, -1), atol=1e-9)


def test_the_mixture_of_nash_md_as_a_hyperparameter():
    # m = 0 is self-play and m = 1 the response to the reference: the other rows.
    preference, ref_logp, start = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=0.2)
    solve = lambda name, **m: games.solve(game, name, num_steps=6, step_size=0.6, init_logp=start, **m).logp
    np.testing.assert_allclose(solve("nash_md", mixture=0.0), solve("self_play"), atol=1e-12)
    np.testing.assert_allclose(solve("nash-md", mixture=1.0), solve("reference_response"), atol=1e-12)
    assert np.abs(solve("nash_md") - solve("self_play")).max() > 1e-3


def test_sampled_opponents():
    # Mean of the next log-odds over many opponents: E of h (P counts) is h P opponent, up to noise of h / sqrt(n).
    preference, ref_logp, start = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=0.2)
    solve = lambda key, n=20_000: (
        games.solve(
            game, "nash_md", num_steps=1, step_size=0.6, init_logp=start, key=jax.random.key(key), num_samples=n
        ).logp
    )
    exact = run("nash_md", preference, ref_logp, 0.2, start, [0.6])[-1]
    assert np.abs(solve(0) - exact).max() < 6 * 0.6 * 0.5 / np.sqrt(20_000)
    np.testing.assert_array_equal(solve(0, 50), solve(0, 50))
    assert np.abs(solve(0, 50) - solve(1, 50)).max() > 1e-4


def test_zero_steps_one_response_and_starts_in_a_batch():
    preference, ref_logp, start = instance()
    game = games.PreferenceGame(preference=preference[0], ref_logp=ref_logp[0], tau=0.2)
    nothing = games.solve(game, "nash_md", num_steps=0, step_size=0.5)
    assert nothing.trajectory.shape == (1, A)
    np.testing.assert_allclose(nothing.logp, ref_logp[0], atol=1e-15)
    many = games.solve(game, "nash_md", num_steps=6, step_size=0.6, init_logp=start)
    assert many.trajectory.shape == (7, B, A) and many.gap.shape == (B,)
    for b in range(B):
        one = run("nash_md", preference[0], ref_logp[0], 0.2, start[b], [0.6] * 6)
        np.testing.assert_allclose(many.trajectory[:, b], one, atol=1e-12)
    single = games.solve(games.PreferenceGame(preference=[[0.5]], tau=1.0), "nash_md", num_steps=2, step_size=0.5)
    assert single.logp.tolist() == [0.0] and single.gap == 0


def test_jit_and_vmap_of_solve():
    preference, ref_logp, _ = instance()
    tau = 0.7
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    solve = lambda g: games.solve(g, "nash_md", num_steps=6, step_size=0.6)
    eager = solve(game)
    axes = jax.tree.map(lambda x: None if x.ndim == 0 else 0, game)
    mapped = jax.jit(jax.vmap(solve, in_axes=(axes,)))(game)
    np.testing.assert_allclose(mapped.logp, eager.logp, atol=1e-13)
    np.testing.assert_allclose(jnp.moveaxis(mapped.trajectory, 0, 1), eager.trajectory, atol=1e-13)


def test_every_solver_says_what_it_is():
    assert games.SOLVERS
    for row in games.SOLVERS:
        assert row.name and row.converges_to and row.says and row.source.year
        assert row.target in ("regularised", "original", "reference")
