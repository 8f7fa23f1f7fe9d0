"""`solve` with a temperature for each game: the NumPy iterates of tests/games/test_solve.py, batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from alignjax import games
from tests.core import oracles
from tests.games.test_solve import A, B, instance, run

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", ["nash_md", "self_play", "reference_response"])
def test_every_iterate_with_a_temperature_for_each_game(name):
    preference, ref_logp, start = instance()
    tau = np.array([0.2, 0.9])
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    expected = run(name, preference, ref_logp, tau, start, [0.6] * 6)
    solution = games.solve(game, name, num_steps=6, step_size=0.6, init_logp=start)
    assert solution.trajectory.shape == (7, B, A) and solution.gap.shape == (B,)
    np.testing.assert_allclose(solution.trajectory, expected, atol=1e-12)
    np.testing.assert_allclose(solution.logp, expected[-1], atol=1e-12)
    response = log_softmax(ref_logp + oracles.win_rates(preference, expected[-1]) / tau[:, None], -1)
    gap = 2 * tau * rel_entr(np.exp(expected[-1]), np.exp(response)).sum(-1)
    np.testing.assert_allclose(solution.gap, gap, atol=1e-12)


def test_batched_step_sizes_as_number_array_schedule_and_theorem():
    # Theorem 1 of arXiv:2312.00886: eta_t = 2 / (tau (t + 2)), t = 0, 1, ...
    preference, ref_logp, start = instance()
    tau = np.array([0.2, 0.9])
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


def test_batched_jit_and_vmap_of_solve():
    preference, ref_logp, _ = instance()
    tau = np.array([0.2, 0.9])
    game = games.PreferenceGame(preference=preference, ref_logp=ref_logp, tau=tau)
    solve = lambda g: games.solve(g, "nash_md", num_steps=6, step_size=0.6)
    eager = solve(game)
    mapped = jax.jit(jax.vmap(solve))(game)
    np.testing.assert_allclose(mapped.logp, eager.logp, atol=1e-13)
    np.testing.assert_allclose(jnp.moveaxis(mapped.trajectory, 0, 1), eager.trajectory, atol=1e-13)
