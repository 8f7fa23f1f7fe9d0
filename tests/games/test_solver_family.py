"""Every row of the table of solvers: iterates against NumPy recursions, step sizes, layouts, fixed points, averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from alignjax import games
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

B, A, T = 2, 3, 9
RPS = 0.5 + 0.5 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])


def instance(seed=0, batch=B, size=A):
    rng = np.random.default_rng(seed)
    return [oracles.preferences(rng, batch, size), *(oracles.policies(rng, batch, size) for _ in range(2))]


def softmax(x):
    return np.exp(log_softmax(x, -1))


def recursion(name, preference, ref, tau, start, h, num_steps=T):
    """Policies of each solver in NumPy, in probabilities and with powers of them: no logits, no shared kernel."""
    rate = lambda policy: np.einsum("...ij,...j->...i", preference, policy)
    normal = lambda x: x / x.sum(-1, keepdims=True)
    mu, policy = np.exp(ref), np.exp(start)
    out, aux, average, magnet = [policy], policy, policy, mu
    for t in range(num_steps):
        centre = policy ** (1 - h * tau) * mu ** (h * tau)
        if name in ("omd", "inpo", "mmd"):
            policy = normal(centre * np.exp(h * rate(policy)))
        elif name in ("egpo", "mirror_prox"):
            policy = normal(centre * np.exp(h * rate(normal(centre * np.exp(h * rate(policy))))))
        elif name == "nash_rs":
            policy = normal(centre * np.exp(h * rate(normal(mu * np.exp(rate(policy) / tau)))))
        elif name == "nash_ema":
            policy = normal(centre * np.exp(h * rate(average)))
            average = normal(average**0.9 * policy**0.1)
        elif name in ("mwu", "mnpo"):
            policy = normal(policy * np.exp(h * rate(policy)))
        elif name == "onpo":
            played = rate(policy)
            aux = normal(aux * np.exp(h * played))
            policy = normal(aux * np.exp(h * played))
        elif name == "mpo":
            policy = normal(policy ** (1 - h * tau) * magnet ** (h * tau) * np.exp(h * rate(policy)))
            if (t + 1) % 4 == 0:
                magnet = policy
        elif name == "comal":
            policy = np.exp(
                [oracles.nash_fixed_point(p, np.log(x), 1 / h) for p, x in zip(preference, policy, strict=True)]
            )
        out.append(policy)
    return np.stack(out)


NAMES = ("omd", "inpo", "mmd", "egpo", "mirror_prox", "nash_rs", "nash_ema", "mwu", "mnpo", "onpo", "mpo", "comal")
REGULARISED = ("omd", "inpo", "mmd", "egpo", "mirror_prox", "nash_rs", "nash_ema")


@pytest.mark.parametrize("name", NAMES)
def test_every_iterate_of_every_solver(name):
    preference, ref, start = instance()
    tau, h = 0.4, 0.9
    game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=tau)
    more = {"magnet_steps": 4} if name == "mpo" else {}
    expected = recursion(name, preference, ref, tau, start, h)
    found = games.solve(game, name, num_steps=T, step_size=h, init_logp=start, **more)
    np.testing.assert_allclose(np.exp(found.trajectory), expected, atol=1e-10 if name == "comal" else 1e-12)
    np.testing.assert_allclose(np.exp(found.trajectory).sum(-1), 1, atol=1e-13)
    if name in ("mwu", "mnpo", "onpo"):
        np.testing.assert_allclose(np.exp(found.average_logp), expected[:-1].mean(0), atol=1e-12)
        gap = 2 * (np.einsum("...ij,...j->...i", preference, expected[-1]).max(-1) - 0.5)
        np.testing.assert_allclose(found.gap, gap, atol=1e-12)
    else:
        assert found.average_logp is None


@pytest.mark.parametrize(
    "name",
    ["nash_md", "onpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("egpo", "nash_ema", "mpo", "comal"))],
)
def test_the_layout_of_many_games_changes_nothing(name):
    # 40 small games are laid out with the games last; three at a time they are not.
    preference, ref, start = instance(1, 40)
    tau, h = np.linspace(0.1, 0.9, 40), np.linspace(0.9, 0.3, 40)
    solve = lambda keep: games.solve(
        games.PreferenceGame(preference=preference[keep], ref_logp=ref[keep], tau=tau[keep]), name,
        num_steps=6, every=3, step_size=h[keep], init_logp=start[keep],
    )  # fmt: skip
    many = solve(slice(None))
    assert many.trajectory.shape == (3, 40, A)
    for first in range(0, 12, 3):
        few = solve(slice(first, first + 3))
        np.testing.assert_allclose(many.trajectory[:, first : first + 3], few.trajectory, atol=1e-9)
        if few.average_logp is not None:
            np.testing.assert_allclose(many.average_logp[first : first + 3], few.average_logp, atol=1e-12)
    # One number for all games is the same as an array of it, and more axes of games are the same as one.
    game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=0.3)
    one = games.solve(game, name, num_steps=6, step_size=0.5).logp
    np.testing.assert_allclose(games.solve(game, name, num_steps=6, step_size=np.full(40, 0.5)).logp, one, atol=1e-12)
    folded = games.PreferenceGame(preference=preference.reshape(8, 5, A, A), ref_logp=ref.reshape(8, 5, A), tau=0.3)
    shaped = games.solve(folded, name, num_steps=6, step_size=np.full(5, 0.5)).logp
    np.testing.assert_allclose(shaped.reshape(40, A), one, atol=1e-12)


@pytest.mark.slow
def test_zero_mass_stays_zero_in_both_layouts():
    preference, _, _ = instance(2, 40)
    ref = np.log([0.7, 0.3, 1.0])
    ref[2] = -np.inf
    for keep in (slice(0, 2), slice(None)):
        game = games.PreferenceGame(preference=preference[keep], ref_logp=ref, tau=0.3)
        for name in NAMES:
            found = games.solve(game, name, num_steps=3, step_size=0.5)
            assert np.isneginf(found.logp[..., 2]).all() and np.isfinite(found.logp[..., :2]).all(), name
            assert np.isfinite(found.gap).all()


def test_symbols_of_the_papers():
    # Table 0.2 of the conventions: who writes a step and who an inverse step.
    preference, ref, start = instance()
    tau = 0.4
    game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=tau)
    run = lambda name, **size: games.solve(game, name, num_steps=3, init_logp=start, **size).logp
    steps = {
        "nash_md": 0.8, "egpo": 0.8, "onpo": 0.8, "mwu": 0.8, "mnpo": 0.8, "omd": 0.8,
        "inpo": 1 / 0.8, "mmd": 0.8 / (1 + 0.8 * tau), "mirror_prox": 0.8 / (tau * 1.8),
    }  # fmt: skip
    for name, h in steps.items():
        np.testing.assert_allclose(run(name, eta=0.8), run(name, step_size=h), atol=1e-13, err_msg=name)
    with pytest.raises(TypeError, match="nash_rs has no step size eta"):
        run("nash_rs", eta=0.8)
    with pytest.raises(TypeError, match="not both"):
        run("egpo", eta=0.8, step_size=0.8)
    with pytest.raises(ValueError, match="eta"):
        run("inpo", eta=0.0)


def test_default_and_theorem_steps():
    tau = np.array([0.1, 2.0])
    preference, ref, start = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=tau)
    depth = -ref.min(-1)
    expected = {
        "omd": 4 * tau / (1 + 4 * tau**2), "inpo": 4 * tau / (1 + 4 * tau**2), "mpo": 4 * tau / (1 + 4 * tau**2),
        "egpo": 2 / (1 + 2 * tau), "mirror_prox": 2 / (1 + 2 * tau), "comal": 1 / tau, "onpo": np.array([0.5, 0.5]),
        "mwu": np.sqrt(8 * depth / 4),
    }  # fmt: skip
    for name, h in expected.items():
        solve = lambda **size: games.solve(game, name, num_steps=4, init_logp=start, **size).logp  # noqa: B023
        np.testing.assert_allclose(solve(), solve(step_size=h), atol=1e-12, err_msg=name)
    theorem = {"egpo": 1 / (3 + tau), "onpo": np.array([0.125, 0.125]), "mmd": 4 * tau / (1 + 4 * tau**2)}
    for name, h in theorem.items():
        solve = lambda size: games.solve(game, name, num_steps=4, init_logp=start, step_size=size).logp  # noqa: B023
        np.testing.assert_allclose(solve("theorem"), solve(h), atol=1e-12, err_msg=name)
    decaying = lambda t: 2 / (tau * (t + 2))
    for name in ("nash_md", "inpo"):
        solve = lambda size: games.solve(game, name, num_steps=4, init_logp=start, step_size=size).logp  # noqa: B023
        np.testing.assert_allclose(solve("theorem"), solve(decaying), atol=1e-12, err_msg=name)
    for name in ("nash_rs", "mpo"):
        with pytest.raises(ValueError, match="no theorem"):
            games.solve(game, name, num_steps=4, step_size="theorem")


@pytest.mark.parametrize("name", [*REGULARISED, "comal"])
def test_the_regularised_equilibrium_is_a_fixed_point(name):
    # `nash` is Newton's; COMAL stays where its prox has the equilibrium of the original game, the dice's uniform one.
    for size in (2, 5, 20):
        preference, ref, _ = instance(3, 40, size)
        tau = np.geomspace(0.01, 10, 40)
        if name == "comal":
            game = games.PreferenceGame(preference=0.5 + (RPS - 0.5) / 9, tau=0.1)
            equilibrium = np.log(np.full(3, 1 / 3))
        else:
            game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=tau)
            equilibrium = games.nash(game)
        after = games.solve(game, name, num_steps=1, init_logp=equilibrium).logp
        np.testing.assert_allclose(np.exp(after), np.exp(equilibrium), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARISED)
def test_the_default_step_reaches_the_equilibrium(name):
    preference, ref, start = instance(4, 40, 6)
    steps = {0.5: 2_000} if name == "nash_ema" else {0.05: 4_000, 0.5: 200}
    for tau, num_steps in steps.items():
        game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=tau)
        found = games.solve(game, name, num_steps=num_steps, every=num_steps, init_logp=start)
        nash = np.stack([oracles.nash_fixed_point(p, r, tau) for p, r in zip(preference, ref, strict=True)])
        np.testing.assert_allclose(np.exp(found.logp), np.exp(nash), atol=1e-9)


def test_original_game_averages_and_last_policies():
    # The COMAL game: a 3-cycle whose Nash is (4, 3, 4) / 11, from (.2, .5, .3).
    matrix = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    start, nash = np.log([0.2, 0.5, 0.3]), np.array([4, 3, 4]) / 11
    depth = np.log(1 / 0.2)  # from the start to the furthest vertex
    game = games.PreferenceGame(preference=matrix, tau=0.1)
    gap = lambda policy: 2 * (matrix @ policy - 0.5).max()
    mwu = games.solve(game, "mwu", num_steps=4000, every=4000, step_size=0.05, init_logp=start)
    assert gap(np.exp(mwu.average_logp)) <= 2 * depth / (0.05 * 4000) + 0.05 / 4 < 0.05 < mwu.gap
    onpo = games.solve(game, "onpo", num_steps=4000, every=4000, init_logp=start)
    assert gap(np.exp(onpo.average_logp)) <= (2 * depth / 0.5 + 1) / 4000
    assert onpo.gap < 1e-6
    # KL(Nash || pi_k) of the exact prox with reference pi_0 = start, k = 0, 1, 2, 5, 10.
    comal = games.solve(game, "comal", num_steps=10, init_logp=start)
    distance = rel_entr(nash, np.exp(comal.trajectory)).sum(-1)
    np.testing.assert_allclose(distance[[0, 1, 2, 5, 10]], [0.122, 0.0211, 0.00417, 2.7e-5, 6e-9], rtol=0.05)
    # alpha = .1, eta = .4 (implicit), 50 inner steps: gap after 1, 5 and 10 magnets.
    anchored = games.PreferenceGame(preference=matrix, tau=0.1, ref_logp=start)
    mpo = games.solve(anchored, "mpo", num_steps=500, every=50, eta=0.4, magnet_steps=50)
    gaps = [gap(np.exp(mpo.trajectory[k])) for k in (1, 5, 10)]
    np.testing.assert_allclose(gaps, [6.0e-2, 7.6e-4, 1.4e-6], rtol=0.05)


def test_magnetic_mirror_descent_of_openspiel():
    # A = [[0,-1,3],[1,0,-3],[-3,3,0]], alpha = .1, step alpha / max|A|^2, from uniform; gaps after updates 0, 100, ...
    # and the policy after 1,000, of a run of the released package. Payoffs and alpha are divided by 6 here.
    payoff = np.array([[0, -1, 3], [1, 0, -3], [-3, 3, 0.0]])
    game = games.PreferenceGame(preference=0.5 + payoff / 6, tau=0.1 / 6)
    found = games.solve(game, "mmd", num_steps=1000, eta=6 * 0.1 / 9)
    np.testing.assert_allclose(np.exp(found.logp), [0.38489162, 0.41788395, 0.19722442], atol=1e-8)
    gaps = 6 * games.duality_gap(game, found.trajectory[1::100])
    expected = [1.1187, 0.38474, 0.62155, 0.43336, 1.2053, 0.45957, 0.33165, 0.30657, 0.23726, 0.57035]
    np.testing.assert_allclose(gaps, expected, rtol=1e-4)


def test_sampled_opponents_of_a_two_call_solver():
    # The mean of many one-step runs: E h P(counts) is exact for the first call of mirror descent.
    preference, ref, start = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=0.2)
    exact = games.solve(game, "omd", num_steps=1, step_size=0.6, init_logp=start).logp
    many = games.solve(
        game, "omd", num_steps=1, step_size=0.6, init_logp=start, key=jax.random.key(0), num_samples=40_000
    ).logp
    assert 0 < np.abs(many - exact).max() < 6 * 0.6 * 0.5 / np.sqrt(40_000)
    noisy = [
        games.solve(game, "egpo", num_steps=2, step_size=0.6, key=jax.random.key(k), num_samples=20).logp
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-4
    with pytest.raises(ValueError, match="comal asks for exact win-rates"):
        games.solve(game, "comal", num_steps=1, key=jax.random.key(0))


def test_one_step_outside_of_solve():
    preference, ref, start = instance()
    game = games.PreferenceGame(preference=preference, ref_logp=ref, tau=np.array([0.2, 0.4]))
    for name in ("egpo", "comal", "mwu"):
        inside = games.solve(game, name, num_steps=1, step_size=0.7, init_logp=start).logp
        np.testing.assert_allclose(games.step(game, name, start, 0.7), inside, atol=1e-12)
    with pytest.raises(ValueError, match="more than its policy"):
        games.step(game, "onpo", start, 0.7)


def test_what_is_not_allowed():
    game = games.PreferenceGame(preference=RPS, tau=0.5)
    for name in ("omd", "egpo", "mpo"):
        with pytest.raises(ValueError, match="step_size \\* tau must be at most 1"):
            games.solve(game, name, num_steps=1, step_size=2.5)
    for name in ("mwu", "onpo", "comal", "mnpo"):
        assert np.isfinite(games.solve(game, name, num_steps=1, step_size=2.5).logp).all()
    with pytest.raises(ValueError, match="ema"):
        games.solve(game, "nash_ema", num_steps=1, ema=1.5)
    with pytest.raises(ValueError, match="magnet_steps"):
        games.solve(game, "mpo", num_steps=1, magnet_steps=0)
    with pytest.raises(ValueError, match="inner_steps"):
        games.solve(game, "comal", num_steps=1, inner_steps=0)
    assert jax.jit(lambda g: games.solve(g, "comal", num_steps=2).logp)(game).shape == (A,)
    assert jnp.isfinite(jax.grad(lambda tau: games.solve(
        games.PreferenceGame(preference=RPS, ref_logp=np.log([0.5, 0.3, 0.2]), tau=tau), "egpo", num_steps=3,
        step_size=0.5,
    ).gap)(0.5))  # fmt: skip
