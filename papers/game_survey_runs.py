"""Runs behind the survey of solvers: preference-oracle calls to a given gap over the temperature, on the same games.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax.games import SOLVERS, PreferenceGame, duality_gap, original_gap, solve
from alignjax.sweeps import spread
from papers.nash_md_experiments import normalised
from papers.nash_md_policies import random_preferences
from papers.record import Settings

REGULARISED_LEVEL, ORIGINAL_LEVEL = 1e-6, 1e-4
SIZE = 10

REGULARISED = ("egpo", "omd", "nash_rs", "nash_ema", "nash_md")
"""One solver of each recursion whose target is the regularised Nash; `SAME` are the other names of two of them."""
SAME = {"mirror_prox": "egpo", "inpo": "omd", "mmd": "omd", "self_play": "omd"}
ORIGINAL = ("comal", "mpo", "onpo", "mwu")

NAMES = {
    "egpo": "EGPO = mirror-prox",
    "omd": "OMD = INPO = MMD",
    "nash_rs": "Nash-RS",
    "nash_ema": "Nash-EMA",
    "nash_md": "Nash-MD, theorem's steps",
    "comal": "COMAL",
    "mpo": "MPO",
    "onpo": "ONPO, last policy",
    "mwu": "MWU, average policy",
}

BLOCKS = 400
"""How many policies of a run are looked at: calls are known to one part in so many of the run's length."""


def temperatures(settings: Settings) -> np.ndarray:
    """The temperatures of the survey."""
    return np.geomspace(0.03, 1.0, 4) if settings.quick else np.geomspace(0.01, 1.0, 7)


def number_of_games(settings: Settings) -> int:
    """Games, at least 32: from there on they are solved with the games on the last axis."""
    return settings.size(64, 32)


def drawn(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The same games at every temperature: uniform preferences `[games, A, A]`, references with normal logits."""
    generator = np.random.default_rng([settings.seed, 200])
    number = number_of_games(settings)
    return random_preferences(generator, (number,), SIZE), normalised(generator.normal(size=(number, SIZE)))


def games_at(settings: Settings, tau: float) -> PreferenceGame:
    """The games of the survey at one temperature."""
    preference, ref_logp = drawn(settings)
    return spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=tau))


def longest(settings: Settings, target: str) -> int:
    """The most updates a run may take, a power of eight times `BLOCKS`."""
    return BLOCKS * (8**4 if target == "regularised" and not settings.quick else 8**3)


def first_updates(
    game: PreferenceGame, name: str, gap: Callable[[PreferenceGame, Array], Array], level: float, most: int,
    **options: Any,
) -> np.ndarray:  # fmt: skip
    """Updates until the gap of a solver's policy is below the level, `[games]`; infinite beyond `most` of them.

    Runs grow eightfold until all games are done: a game's number is known to an eighth of a per cent times the run it
    ended in, that is to 2 per cent at worst.
    """
    found = np.full(game.ref_logp.shape[0], np.inf)
    length = BLOCKS
    while length <= most and not np.isfinite(found).all():
        every = length // BLOCKS
        path = solve(game, name, num_steps=length, every=every, **options).trajectory
        below = np.asarray(gap(game, path)) < level
        found = np.where(np.isinf(found) & below.any(0), below.argmax(0) * every, found)
        length *= 8
    return found


def calls_of(name: str) -> int:
    """Oracle calls of one update."""
    calls = {row.name: row.oracle_calls for row in SOLVERS}[name]
    assert calls is not None
    return calls


@functools.cache
def regularised_calls(settings: Settings) -> dict[str, np.ndarray]:
    """Oracle calls to a regularised gap below 1e-6, each solver at its default step, `[temperatures, games]`."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in REGULARISED}
    for tau in temperatures(settings):
        game = games_at(settings, float(tau))
        for name, found in rows.items():
            updates = first_updates(game, name, duality_gap, REGULARISED_LEVEL, longest(settings, "regularised"))
            found.append(calls_of(name) * updates)
    return {name: np.stack(found) for name, found in rows.items()}


@functools.cache
def same_recursion(settings: Settings) -> dict[str, np.ndarray]:
    """The largest difference of log-probability along a run, of each solver in `SAME` from the one it is said to be."""
    game = games_at(settings, 0.3)
    paths = {n: solve(game, n, num_steps=BLOCKS).trajectory for n in (*SAME, *SAME.values()) if n != "self_play"}
    paths["self_play"] = solve(game, "self_play", num_steps=BLOCKS).trajectory
    return {name: np.asarray(jnp.abs(paths[name] - paths[other]).max((0, -1))) for name, other in SAME.items()}


def inner_steps(tau: float) -> int:
    """COMAL's extragradient steps in one prox, h = 2 / (1 + 2 tau): its error falls by e^10, as in MPO's default."""
    return math.ceil(10 / (2 * tau / (1 + 2 * tau)))


@functools.cache
def original_calls(settings: Settings) -> dict[str, np.ndarray]:
    """Oracle calls to an original gap below 1e-4, `[temperatures, games]`; MWU's is the gap of its average policy."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ORIGINAL}
    most = longest(settings, "original")
    for tau in temperatures(settings):
        game = games_at(settings, float(tau))
        inner = inner_steps(float(tau))
        outer = most // (2 * inner)
        prox = solve(game, "comal", num_steps=outer, inner_steps=inner).trajectory
        below = np.asarray(original_gap(game, prox)) < ORIGINAL_LEVEL
        rows["comal"].append(np.where(below.any(0), below.argmax(0) * 2.0 * inner, np.inf))
        rows["mpo"].append(first_updates(game, "mpo", original_gap, ORIGINAL_LEVEL, most))
    game = games_at(settings, 1.0)  # tau does not appear in the other two
    alike = len(temperatures(settings))
    rows["onpo"] = [first_updates(game, "onpo", original_gap, ORIGINAL_LEVEL, most)] * alike
    rows["mwu"] = [average_calls(game, most)] * alike
    return {name: np.stack(found) for name, found in rows.items()}


def average_calls(game: PreferenceGame, most: int) -> np.ndarray:
    """`most` where MWU's average policy has an original gap below 1e-4 after so many steps, at the step for them."""
    average = solve(game, "mwu", num_steps=most, every=most).average_logp
    assert average is not None
    return np.where(np.asarray(original_gap(game, average)) < ORIGINAL_LEVEL, most, np.inf)


SMALL = 0.11
"""Exponents are fitted over the temperatures up to here."""


def exponents(settings: Settings, name: str) -> np.ndarray:
    """The exponent of tau in a regularised solver's oracle calls at small temperatures, `[games]`."""
    tau = temperatures(settings)
    low = tau <= SMALL
    return slopes(tau[low], regularised_calls(settings)[name][low])


def slopes(tau: np.ndarray, calls: np.ndarray) -> np.ndarray:
    """The exponent of calls ~ tau^slope, least squares in logs, `[games]`; `calls` `[temperatures, games]`."""
    x = np.log(tau) - np.log(tau).mean()
    return x @ np.log(calls) / (x @ x)
