"""Games of n players: oracles by enumeration, gaps by their definition, equilibria, the averaged population."""

import itertools

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, rel_entr

from alignjax import games
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

A = 3


def policies(seed, *shape, size=A):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(size), shape))


def enumerated(scores, opponents):
    """P(y is the winner of a softmax over all scores), by every tuple of opponents."""
    size, total = len(scores), np.zeros(len(scores))
    for y in range(size):
        for others in itertools.product(range(size), repeat=len(opponents)):
            weight = np.exp(sum(one[z] for one, z in zip(opponents, others, strict=True)))
            total[y] += weight * np.exp(scores[y]) / np.exp(scores[[y, *others]]).sum()
    return total


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_plackett_luce_against_enumeration(spread):
    scores = spread * np.random.default_rng(0).normal(size=4)
    for count in (1, 2, 3):
        opponents = policies(count, count, size=4)
        np.testing.assert_allclose(games.plackett_luce(scores, opponents), enumerated(scores, opponents), atol=1e-13)
    one = policies(5, 1, size=4)
    bradley_terry = (1 / (1 + np.exp(scores[None] - scores[:, None]))) @ np.exp(one[0])
    np.testing.assert_allclose(games.plackett_luce(scores, one), bradley_terry, atol=1e-13)
    np.testing.assert_allclose(games.plackett_luce(scores + 7, one), bradley_terry, atol=1e-13)


def make(kind, players=3):
    rng = np.random.default_rng(1)
    ref = policies(2)
    if kind == "plackett_luce":
        return games.MultiplayerGame(scores=rng.normal(size=A), ref_logp=ref, tau=0.3, num_players=players, oracle=kind)
    table = oracles.preferences(rng, players, A)
    return games.MultiplayerGame(
        preferences=table if kind == "own" else table[0], ref_logp=ref, tau=0.3, num_players=players
    )


def rate_by_hand(game, logps, player):
    others = np.delete(np.asarray(logps), player, 0)
    if game.oracle == "plackett_luce":
        return enumerated(np.asarray(game.scores), others)
    return np.asarray(game.oracle_of(player)) @ np.exp(others).mean(0)


@pytest.mark.parametrize("kind", ["shared", "own", "plackett_luce"])
def test_win_rates_best_responses_and_gaps(kind):
    game = make(kind)
    logps = policies(3, 3)
    np.testing.assert_allclose(game.others(logps)[1], (logps[0] + logps[2]) / 2, atol=1e-14)
    gaps, plain = games.duality_gap(game, logps), games.original_gap(game, logps)
    for player in range(3):
        rate = rate_by_hand(game, logps, player)
        np.testing.assert_allclose(game.win_rate(logps)[player], rate, atol=1e-13)
        response = games.best_response(game, np.delete(logps, player, 0), player=player)
        np.testing.assert_allclose(response, log_softmax(game.ref_logp + rate / 0.3), atol=1e-12)
        np.testing.assert_allclose(plain[player], rate.max() - np.exp(logps[player]) @ rate, atol=1e-13)

        # The gap by its definition: the maximum of J over policies, by a general optimiser, less J here.
        def objective(logits, rate=rate):
            logp = log_softmax(logits)
            return np.exp(logp) @ rate - 0.3 * rel_entr(np.exp(logp), np.exp(game.ref_logp)).sum()

        best = -minimize(lambda x: -objective(x), np.zeros(A), tol=1e-14).fun
        np.testing.assert_allclose(gaps[player], best - objective(logps[player]), atol=1e-8)


def test_two_players_who_share_an_oracle_have_half_the_gap_each():
    preference, ref = make("shared").preferences, policies(2)
    two = games.MultiplayerGame(preferences=preference, ref_logp=ref, tau=0.3, num_players=2)
    one = games.PreferenceGame(preference=preference, ref_logp=ref, tau=0.3)
    logp = policies(4)
    half = games.duality_gap(one, logp) / 2
    np.testing.assert_allclose(games.duality_gap(two, np.stack([logp, logp])), [half, half], atol=1e-14)


@pytest.mark.parametrize("players", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))])
def test_symmetric_equilibria(players):
    game = make("shared", players)
    nash = games.nash(game)
    expected = oracles.nash_fixed_point(np.asarray(game.preferences), np.asarray(game.ref_logp), 0.3)
    np.testing.assert_allclose(nash, expected, atol=1e-10)
    found = games.solve(game, "egpo", num_steps=200, init_logp=policies(6, players))
    np.testing.assert_allclose(found.logp, np.broadcast_to(nash, (players, A)), atol=1e-9)
    # Plackett-Luce: mass on the best of r = (0, .5, 1) at tau = .1 from the numbers of the specification.
    best = {2: 0.718, 4: 0.624}.get(players)
    race = games.MultiplayerGame(
        scores=[0, 0.5, 1.0], ref_logp=np.log(np.ones(3) / 3), tau=0.1, num_players=players, oracle="plackett_luce"
    )
    logp = games.nash(race)
    everyone = np.broadcast_to(logp, (players, 3))
    assert games.duality_gap(race, everyone).max() < 1e-25
    np.testing.assert_allclose((np.exp(logp) * race.win_rate(everyone)[0]).sum(), 1 / players, atol=1e-12)
    if best:
        np.testing.assert_allclose(np.exp(logp)[2], best, atol=5e-4)


def test_mnpo_of_players_who_start_alike_is_multiplicative_weights():
    start = policies(7)
    preference = make("shared").preferences
    plain = games.PreferenceGame(preference=preference, ref_logp=policies(2), tau=0.3)
    expected = games.solve(plain, "mwu", num_steps=12, step_size=0.4, init_logp=start).trajectory
    for players in (2, 3, 5):
        game = games.MultiplayerGame(preferences=preference, ref_logp=policies(2), tau=0.3, num_players=players)
        found = games.solve(game, "mnpo", num_steps=12, step_size=0.4, init_logp=start)
        assert found.trajectory.shape == (13, players, A) and found.gap.shape == (players,)
        np.testing.assert_allclose(found.trajectory, np.repeat(expected[:, None], players, 1), atol=1e-12)


def test_mnpo_by_hand_and_merging():
    game = make("own")
    start = policies(8, 3)
    logps = start
    for _ in range(4):
        new = [
            np.delete(logps, i, 0).mean(0) + 0.4 * rate_by_hand(game, logps, i) for i in range(3)
        ]  # Eq. 10 with h = eta  # fmt: skip
        logps = log_softmax(np.stack(new), -1)
    found = games.solve(game, "mnpo", num_steps=4, step_size=0.4, init_logp=start)
    np.testing.assert_allclose(found.logp, logps, atol=1e-12)
    # Distinct players of a shared oracle merge by 1 / (n - 1) a step for n >= 3; two change places.
    apart = lambda x: np.abs(x - x.mean(0)).max()
    for players in (3, 5):
        path = games.solve(
            make("shared", players), "mnpo", num_steps=10, step_size=0.05, init_logp=policies(9, players)
        ).trajectory
        ratio = (apart(path[10]) / apart(path[0])) ** 0.1
        assert abs(ratio - 1 / (players - 1)) < 0.05
    two = games.solve(make("shared", 2), "mnpo", num_steps=10, step_size=0.05, init_logp=policies(9, 2)).trajectory
    assert apart(two[10]) > 0.5 * apart(two[0])


def test_opposite_annotators_have_several_equilibria_and_the_population_one():
    # Oracles P and 1 - P: a common-payoff game. RPS of margin .4: three equilibria at tau = .05, one at .5.
    skew = 0.4 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    table = 0.5 + np.stack([skew, -skew])
    ends = {}
    for tau in (0.05, 0.5):
        game = games.MultiplayerGame(preferences=table, ref_logp=np.log(np.ones(3) / 3), tau=tau, num_players=2)
        found = []
        for seed in range(12):
            last = games.solve(game, "egpo", num_steps=4000, every=4000, step_size=0.5, init_logp=policies(seed, 2))
            if last.gap.max() < 1e-10:
                found.append(np.exp(last.logp).round(4))
        ends[tau] = {one.tobytes() for one in found}
        with pytest.raises(ValueError, match="several equilibria"):
            games.nash(game)
        np.testing.assert_allclose(game.population().preference, 0.5, atol=1e-15)
        np.testing.assert_allclose(games.nash(game.population()), game.ref_logp, atol=1e-14)
        weighted = game.population([0.75, 0.25]).preference
        np.testing.assert_allclose(weighted, 0.5 + 0.5 * skew, atol=1e-15)
    assert len(ends[0.05]) >= 2 and len(ends[0.5]) == 1


def test_batches_of_games_jit_and_vmap():
    rng = np.random.default_rng(3)
    table = oracles.preferences(rng, 4, A)
    game = games.MultiplayerGame(preferences=table, ref_logp=policies(1, 4), tau=0.2, num_players=3)
    assert game.shared_oracle
    logps = policies(2, 3, 4)
    gap = games.duality_gap(game, logps)
    assert gap.shape == (3, 4)
    for b in range(4):
        one = games.MultiplayerGame(preferences=table[b], ref_logp=policies(1, 4)[b], tau=0.2, num_players=3)
        np.testing.assert_allclose(gap[:, b], games.duality_gap(one, logps[:, b]), atol=1e-14)
        np.testing.assert_allclose(games.nash(game)[b], games.nash(one), atol=1e-12)
    jitted = jax.jit(lambda g, x: games.solve(g, "mnpo", num_steps=3, init_logp=x).logp)(game, logps)
    np.testing.assert_allclose(jitted, games.solve(game, "mnpo", num_steps=3, init_logp=logps).logp, atol=1e-13)
    axes = jax.tree.map(lambda _: 0, game)
    mapped = jax.vmap(games.duality_gap, in_axes=(axes, 1), out_axes=1)(game, logps)
    np.testing.assert_allclose(mapped, gap, atol=1e-14)


def test_what_is_not_allowed():
    ref, table = policies(1), make("own").preferences
    build = lambda **given: games.MultiplayerGame(**{"ref_logp": ref, "tau": 0.2, "num_players": 3} | given)
    with pytest.raises(ValueError, match="n = 4 players"):
        build(preferences=table, num_players=4)
    with pytest.raises(ValueError, match='oracle="pairwise" needs preferences'):
        build(scores=np.zeros(3))
    with pytest.raises(ValueError, match='oracle="plackett_luce" needs scores'):
        build(preferences=table, oracle="plackett_luce")
    with pytest.raises(ValueError, match="pairwise"):
        build(preferences=table, oracle="pairwize")
    with pytest.raises(ValueError, match="num_players"):
        build(preferences=table[0], num_players=1)
    with pytest.raises(ValueError, match="preferences"):
        build(preferences=0.9 * table)
    with pytest.raises(ValueError, match="tau"):
        build(preferences=table, tau=0.0)
    game = build(preferences=table)
    with pytest.raises(ValueError, match="logps must be"):
        games.duality_gap(game, ref)
    with pytest.raises(ValueError, match="player must be one of"):
        games.best_response(game, policies(0, 2), player=3)
    with pytest.raises(ValueError, match="nash_md solves games of two players only"):
        games.solve(game, "nash_md", num_steps=1)
    with pytest.raises(ValueError, match="weights"):
        game.population([0.5, 0.6, 0.2])
