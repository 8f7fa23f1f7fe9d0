"""Runs behind the MNPO page that play games: Eq. 10's dynamics, equilibria of n players, annotators who disagree.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import root

from alignjax.games import MultiplayerGame, PreferenceGame, duality_gap, library, nash, solve
from alignjax.sweeps import spread
from papers.nash_md_experiments import Runs, equilibria, normalised, sigmoid
from papers.nash_md_policies import random_preferences
from papers.pair_regression import divergence, wins
from papers.record import Settings

PLAYERS = (2, 3, 5)
"""Numbers of players whose dynamics are compared."""
STEPS = 500
"""Steps of the one start that is drawn."""
RACES = (2, 3, 4, 6)
"""Numbers of players of the Plackett-Luce games."""
SCORES = (0.0, 0.5, 1.0)
REFERENCE, TAU = np.log([0.7, 0.2, 0.1]), 0.1
"""Of the regularised game that Eq. 7 asks for. Eq. 10 sees neither."""
MARGIN, TAUS = 0.4, (0.05, 0.5)
"""The annotators who disagree: rock, paper, scissors of this margin and its opposite, at two temperatures."""


def _uniform(*shape: int) -> np.ndarray:
    return np.full(shape, -np.log(shape[-1]))


def game_of(num_players: int, ref: np.ndarray, tau: Any, **oracle: Any) -> Any:
    """A game of n players from NumPy arrays: `preferences` or `scores`, one reference for each game."""
    arrays = {name: spread(jnp.asarray(value)) for name, value in oracle.items()}
    kind = "plackett_luce" if "scores" in oracle else "pairwise"
    return MultiplayerGame(ref_logp=jnp.asarray(ref), tau=tau, num_players=num_players, oracle=kind, **arrays)


def two_of(preference: np.ndarray, ref: np.ndarray, tau: Any) -> PreferenceGame:
    """The game of two."""
    return spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref), tau=tau))


def original(preference: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Duality gap without regularisation, 2 (max_y P(y > pi) - 1/2), of probabilities."""
    return 2 * ((preference @ policy[..., None])[..., 0].max(-1) - 0.5)


def _spread(players: np.ndarray) -> np.ndarray:
    """How far apart the players are, `[n, games, A]` -> `[games]`: range of log(pi_i / pi_j), largest over i and j."""
    between = players[:, None] - players[None]
    return np.ptp(between, axis=-1).max((0, 1))


def play(game: Any, start: np.ndarray, steps: int, size: float | np.ndarray, every: int = 1) -> np.ndarray:
    """The trajectory of Eq. 10, `[points, n, games, A]` log-probs."""
    found = solve(game, "mnpo", num_steps=steps, step_size=jnp.asarray(size), init_logp=jnp.asarray(start), every=every)
    return np.asarray(found.trajectory)


# --- Eq. 10


@functools.cache
def starts(settings: Settings) -> Runs:
    """Players who start alike against NumPy's multiplicative weights; players who do not: how fast they meet.

    `alike` `[players, games]`: largest difference of log-probability after 50 steps; `rate`: the factor by which the
    players approach in a step, over 8 steps of .05; `far`: how far apart they are at the end over the start.
    """
    generator, number = np.random.default_rng([settings.seed, 120]), settings.size(500, 100)
    table = random_preferences(generator, (number,), 4)
    found: dict[str, list[np.ndarray]] = {"alike": [], "rate": [], "far": []}
    for n in PLAYERS:
        game = game_of(n, _uniform(number, 4), TAU, preferences=table)
        start = normalised(generator.normal(size=(number, 4)))
        plain = start
        for _ in range(50):
            plain = normalised(plain + 0.3 * wins(table, plain))
        together = play(game, np.stack([start] * n), 50, 0.3, 50)[-1]
        found["alike"].append(np.abs(together - plain).max((0, -1)))
        path = play(game, normalised(generator.normal(size=(n, number, 4))), 8, 0.05)
        found["far"].append(_spread(path[-1]) / _spread(path[0]))
        found["rate"].append(found["far"][-1] ** (1 / 8))
    return {name: np.stack(rows) for name, rows in found.items()}


@functools.cache
def dynamics(settings: Settings) -> Runs:
    """Eq. 10 on the COMAL cycle from distinct starts, random but for the first, step .05, 3,000 steps.

    `average` and `last` `[players, points, starts]`: original gaps of the first player's average policy and of its
    policy; `regularised`: that average's gap in the game of Eq. 7 with `REFERENCE` and `TAU`; `path` `[players,
    points, 5, 3]`: the policies of one start (NaN for players there are not); `time`; `nash` and `target`: the
    equilibria without and with regularisation.
    """
    number, steps, every = settings.size(64, 16), 3000, 10
    table = np.asarray(library.comal())
    start = normalised(np.random.default_rng([settings.seed, 121]).normal(size=(max(PLAYERS), number, 3)))
    start[:3, 0] = np.log([[0.75, 0.15, 0.1], [0.2, 0.2, 0.6], [0.15, 0.7, 0.15]])  # the one that is drawn
    asked = two_of(table, REFERENCE, TAU)
    found: dict[str, list[np.ndarray]] = {"average": [], "last": [], "regularised": [], "path": []}
    for n in PLAYERS:
        references = np.broadcast_to(REFERENCE, (number, 3))
        game = game_of(n, references, TAU, preferences=np.broadcast_to(table, (number, 3, 3)))
        path = np.exp(play(game, start[:n], steps, 0.05))
        total = np.cumsum(path[:-1, 0], 0) / np.arange(1, steps + 1)[:, None, None]
        kept = slice(every - 1, None, every)
        found["average"].append(original(table, total[kept]))
        found["last"].append(original(table, path[1:, 0][kept]))
        found["regularised"].append(np.asarray(duality_gap(asked, jnp.log(total[kept]))))
        few = np.full((STEPS + 1, max(PLAYERS), 3), np.nan)
        few[:, :n] = path[: STEPS + 1, :, 0]
        found["path"].append(few)
    return {name: np.stack(rows) for name, rows in found.items()} | {
        "time": np.arange(every, steps + 1, every),
        "nash": np.asarray([4, 3, 4]) / 11,
        "target": np.exp(np.asarray(nash(asked))),
    }


HORIZONS = (100, 1600)


@functools.cache
def rates(settings: Settings) -> Runs:
    """Gaps of the average policy with h = sqrt(8 D / T), D = max log 1 / pi_0, `[players, horizons, games]`.

    `gap`: the original one; `ratio`: over multiplicative weights' bound sqrt(2 D / T); players start apart.
    `regularised`: the same policy's gap in the game of Eq. 7, with a random reference and tau = .1.
    """
    generator, number = np.random.default_rng([settings.seed, 122]), settings.size(300, 60)
    table, ref = random_preferences(generator, (number,), 4), normalised(generator.normal(size=(number, 4)))
    asked = two_of(table, ref, TAU)
    found: dict[str, list[list[np.ndarray]]] = {"ratio": [], "gap": [], "regularised": []}
    for n in PLAYERS:
        game = game_of(n, ref, TAU, preferences=table)
        start = normalised(0.5 * generator.normal(size=(n, number, 4)))
        size = -start.min((0, -1))
        means = [
            np.exp(play(game, start, horizon, np.sqrt(8 * size / horizon))[:-1, 0]).mean(0) for horizon in HORIZONS
        ]
        found["gap"].append([original(table, mean) for mean in means])
        bounds = [np.sqrt(2 * size / horizon) for horizon in HORIZONS]
        found["ratio"].append([gap / bound for gap, bound in zip(found["gap"][-1], bounds, strict=True)])
        found["regularised"].append([np.asarray(duality_gap(asked, jnp.log(mean))) for mean in means])
    return {name: np.asarray(rows) for name, rows in found.items()}


# --- equilibria of Eq. 7


@functools.cache
def symmetric(settings: Settings) -> Runs:
    """Extragradient play of n players from distinct starts: `nash` `[players, games]`, the largest difference of any
    player's log-probability from the two-player Nash, and `apart`, that of three players of a Plackett-Luce game
    from one another (tau = .2). `half`: the v3 gap by its definition less half of the two-player gap; `gap`: itself.
    """
    generator, number, tau = np.random.default_rng([settings.seed, 123]), settings.size(200, 40), 0.2
    table, ref = random_preferences(generator, (number,), 4), normalised(generator.normal(size=(number, 4)))
    target = equilibria(table, ref, tau)
    scores, few = 3 * generator.normal(size=(number, 4)), settings.size(30, 10)
    found: dict[str, list[np.ndarray]] = {"nash": [], "apart": []}
    for n in PLAYERS:
        start = jnp.asarray(normalised(2 * generator.normal(size=(n, number, 4))))
        game = game_of(n, ref, tau, preferences=table)
        end = solve(game, "egpo", num_steps=400, every=400, step_size=1.0, init_logp=start).logp
        found["nash"].append(np.abs(np.asarray(end) - target).max((0, -1)))
        if n == 3:  # of two players it is a mean of pairs
            race = game_of(n, ref[:few], tau, scores=scores[:few])
            end = solve(race, "egpo", num_steps=60, every=60, step_size=2.5, init_logp=start[:, :few]).logp
            found["apart"].append(np.ptp(np.asarray(end), axis=0).max(-1))
    logp = normalised(2 * generator.normal(size=(number, 4)))
    rate = wins(table, logp)
    value = lambda p: (np.exp(p) * rate).sum(-1) - tau * divergence(p, ref)
    best = normalised(ref + rate / tau)
    gap = value(best) - value(logp)
    two = np.asarray(duality_gap(two_of(table, ref, tau), jnp.asarray(logp)))
    game = game_of(2, ref, tau, preferences=table)
    ours = np.asarray(duality_gap(game, jnp.asarray(np.stack([logp, logp]))))[0]
    half = np.maximum(np.abs(gap - two / 2), np.abs(gap - ours))
    return {name: np.stack(rows) for name, rows in found.items()} | {"half": half, "gap": gap}


@functools.cache
def races() -> Runs:
    """The symmetric Plackett-Luce equilibrium of scores (0, .5, 1) at tau = .1, uniform reference, for each n.

    `policy` `[races, 3]`; `own`: a player's chance to win among n; `rlhf`: the policy e^{R / tau}. `scaled`: the
    policies at tau 4 (n - 1) / n^2, since among equals the chance to win rises by (n - 1) / n^2 for each nat of score.
    """
    policies, own, scaled = [], [], []
    twice = lambda row: np.stack([row, row])
    for n in RACES:
        tau = 0.1 * jnp.asarray([1.0, 4 * (n - 1) / n**2])
        game = game_of(n, twice(_uniform(3)), tau, scores=twice(np.asarray(SCORES)))
        logp = nash(game)
        rate = game.win_rate(jnp.broadcast_to(logp, (n, 2, 3)))[0]
        policies.append(np.exp(np.asarray(logp[0])))
        scaled.append(np.exp(np.asarray(logp[1])))
        own.append(float(policies[-1] @ np.asarray(rate[0])))
    rlhf = np.exp(normalised(np.asarray(SCORES) / 0.1))
    return {"policy": np.stack(policies), "own": np.asarray(own), "scaled": np.stack(scaled), "rlhf": rlhf}


# --- annotators who disagree


def opposite(tau: Any, number: int) -> Any:
    """Two players whose annotators say the opposite of each other, `number` copies."""
    skew = MARGIN * np.asarray([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    table = np.broadcast_to(0.5 + np.stack([skew, -skew])[:, None], (2, number, 3, 3))
    return game_of(2, _uniform(number, 3), tau, preferences=table)


def distinct(points: np.ndarray, apart: float = 1e-4) -> np.ndarray:
    """The points `[n, d]` that are not within `apart` of one before."""
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.abs(point - one).max() > apart for one in kept):
            kept.append(point)
    return np.stack(kept) if kept else np.empty((0, points.shape[-1]))


def _all_equilibria(game: Any, tau: float, generator: np.random.Generator, tries: int) -> np.ndarray:
    """Roots of pi_i = BR_i(other) from random starts, stable or not, as probabilities `[found, 6]`."""
    tables = np.asarray(game.preferences)[:, 0]

    def miss(logits: np.ndarray) -> np.ndarray:
        logp = normalised(logits.reshape(2, 3))
        response = np.stack([tables[i] @ np.exp(logp[1 - i]) / tau for i in range(2)])
        return (logits.reshape(2, 3) - (response - response.mean(-1, keepdims=True))).ravel()

    found = []
    for _ in range(tries):
        solution = root(miss, generator.normal(size=6) * generator.choice([0.3, 2.0, 8.0]), tol=1e-13)
        if solution.success and np.abs(miss(solution.x)).max() < 1e-9:
            found.append(np.exp(normalised(solution.x.reshape(2, 3))).ravel())
    return distinct(np.stack(found))


@functools.cache
def disagreement(settings: Settings) -> Runs:
    """The game of opposite annotators from random starts: where play ends at tau = .05 and .5.

    `reached_0`, `reached_1`: the distinct ends at the two temperatures, `[ends, 6]`; `all_0`, `all_1`: all equilibria
    that a root finder met; `gap`: the largest player's gap at the end of any run; `population`: how far the averaged
    oracle's Nash is from the reference.
    """
    generator, number = np.random.default_rng([settings.seed, 124]), settings.size(400, 80)
    found, gaps = {}, []
    for row, tau in enumerate(TAUS):
        game = opposite(tau, number)
        start = jnp.asarray(normalised(2 * generator.normal(size=(2, number, 3))))
        end = solve(game, "egpo", num_steps=2000, every=2000, step_size=0.5, init_logp=start)
        gaps.append(np.asarray(end.gap).max())
        found[f"reached_{row}"] = distinct(np.exp(np.asarray(end.logp)).transpose(1, 0, 2).reshape(number, 6))
        found[f"all_{row}"] = _all_equilibria(game, tau, generator, settings.size(300, 100))
    middle = nash(opposite(TAUS[0], 1).population())
    return found | {"gap": np.asarray(gaps), "population": np.abs(np.asarray(middle) - np.log(1 / 3)).max()}


@functools.cache
def basins(settings: Settings) -> Runs:
    """Which equilibrium play reaches at tau = .05 from each start of player 1, player 2 at the reference.

    `start` and `last` `[points, 3]`, player 1's policies; `end` `[points]`, the response it settles on, or -1 for none.
    """
    side = settings.size(60, 24)
    grid = np.asarray([(i, j, side - i - j) for i in range(side + 1) for j in range(side + 1 - i)], float)
    first = (grid + 0.02) / (side + 0.06)
    start = np.log(np.stack([first, np.full_like(first, 1 / 3)]))
    game = opposite(TAUS[0], len(first))
    end = solve(game, "egpo", num_steps=2000, every=2000, step_size=0.5, init_logp=jnp.asarray(start))
    last = np.exp(np.asarray(end.logp))[0]
    settled = last.max(-1) > 0.5
    return {"start": first, "end": np.where(settled, last.argmax(-1), -1), "last": last}


@functools.cache
def branches(settings: Settings) -> Runs:
    """Where play of the opposite annotators ends at temperatures `tau` `[T]`: player 1's `last` `[T, starts, 3]`."""
    generator = np.random.default_rng([settings.seed, 126])
    tau, each = np.linspace(0.04, 0.3, settings.size(53, 27)), 12
    game = opposite(jnp.asarray(np.repeat(tau, each)), len(tau) * each)
    start = jnp.asarray(normalised(2 * generator.normal(size=(2, len(tau) * each, 3))))
    end = solve(game, "egpo", num_steps=2000, every=2000, step_size=0.5, init_logp=start)
    return {"tau": tau, "last": np.exp(np.asarray(end.logp))[0].reshape(len(tau), each, 3)}


@functools.cache
def annotators(settings: Settings) -> Runs:
    """Cycles among three responses of Bradley-Terry annotators, rewards N(0, 9); extragradient play of two annotators.

    `cycles` `[5]`: frequencies for two equal, two of weights (.3, .7), three equal, ten equal and fifty equal ones;
    `gap` `[games]`: the larger player's gap after play on random two-annotator games of four responses, tau = .02;
    `unique`: the largest difference between ends from four starts in the population's game, `skew` of its oracle.
    """
    generator, number = np.random.default_rng([settings.seed, 125]), settings.size(40_000, 8_000)
    cycles = []
    for weights in ([0.5, 0.5], [0.3, 0.7], [1 / 3] * 3, [0.1] * 10, [0.02] * 50):
        count = 0
        for _ in range(4):
            rewards = 3 * generator.normal(size=(number // 4, len(weights), 3))
            table = np.einsum("m,nmij->nij", weights, sigmoid(rewards[..., :, None] - rewards[..., None, :]))
            above = table > 0.5
            around = above[:, 0, 1] & above[:, 1, 2] & above[:, 2, 0]
            count += int((around | (above[:, 1, 0] & above[:, 2, 1] & above[:, 0, 2])).sum())
        cycles.append(count / number)
    games = settings.size(200, 30)
    table = random_preferences(generator, (2, games), 4)
    game = game_of(2, _uniform(games, 4), 0.02, preferences=table)
    end = solve(game, "egpo", num_steps=4000, every=4000, step_size=0.5)
    crowd = game.population()
    ends = [
        np.asarray(solve(
            crowd, "egpo", num_steps=4000, every=4000, step_size=0.5,
            init_logp=jnp.asarray(normalised(2 * generator.normal(size=(games, 4)))),
        ).logp)
        for _ in range(4)
    ]  # fmt: skip
    return {
        "cycles": np.asarray(cycles),
        "gap": np.asarray(end.gap).max(0),
        "unique": np.ptp(np.stack(ends), axis=0).max(-1),
        "skew": np.abs(np.asarray(crowd.preference) + np.swapaxes(np.asarray(crowd.preference), -1, -2) - 1).max(),
    }
