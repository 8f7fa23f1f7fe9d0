"""The checks of the MNPO page that play: equilibria of n players, Eq. 10, annotators who disagree."""

import numpy as np

from papers import mnpo_games as games
from papers.mnpo_checks import listed
from papers.nash_md_checks import spread_of
from papers.record import Outcome, Settings

# --- equilibria and Eq. 10 --------------------------------------------------------------------------------------------


def symmetric(settings: Settings) -> Outcome:
    """How far apart players end who start apart, with the mean of pairs and with Plackett-Luce."""
    run = games.symmetric(settings)
    return Outcome(
        expected=0.0,
        measured=[run["nash"].max(), run["apart"].max()],
        tolerance=1e-6,
        runs=run["nash"].size + run["apart"].size,
        note="largest difference of log-probability with the mean of pairwise preferences (n = 2, 3, 5) and "
        "with Plackett-Luce (n = 3)",
    )


def same_equilibrium(settings: Settings) -> Outcome:
    """Where n players end, against Newton's two-player Nash."""
    error = games.symmetric(settings)["nash"]
    return Outcome(
        expected=0.0,
        measured=error.max(-1),
        tolerance=1e-10,
        runs=error.size,
        spread=spread_of(error),
        note="n = 2, 3, 5; against copies of one policy the mean over opponents is the two-player win-rate",
    )


def plackett_luce(settings: Settings) -> Outcome:
    """Mass on the best response at the Plackett-Luce equilibrium of n players, each against the next smaller n."""
    run = games.races()
    best = run["policy"][:, -1]
    return Outcome(
        expected=best[:-1],
        measured=best[1:],
        tolerance=0.02,
        relation="less than",
        runs=len(best),
        spread=f"mass on the best of n = {games.RACES}: {listed(best)}",
        note=f"scores (0, .5, 1), tau = .1; e^(R / tau) would give it {run['rlhf'][-1]:.3f}. A chance to win among n "
        f"is of the size 1 / n, so that more players are more regularisation; at tau 4 (n - 1) / n^2 the masses are "
        f"{listed(run['scaled'][:, -1])}",
    )


def one_in_n(settings: Settings) -> Outcome:
    """A player's own chance to win at the equilibrium."""
    own = games.races()["own"]
    return Outcome(
        expected=1 / np.asarray(games.RACES), measured=own, tolerance=1e-10, runs=len(own),
        note=f"Plackett-Luce, n = {games.RACES}; with the mean of pairwise preferences it is 1/2 for every n",
    )  # fmt: skip


def half_gap(settings: Settings) -> Outcome:
    """The gap of Eq. 9 by its definition against half of the two-player one and against tau KL."""
    run = games.symmetric(settings)
    return Outcome(
        expected=0.0,
        measured=run["half"].max(),
        tolerance=1e-12,
        runs=run["half"].size,
        spread=f"gap of Eq. 9: {spread_of(run['gap'])}",
    )


def alike(settings: Settings) -> Outcome:
    """n players from one start against multiplicative weights."""
    error = games.starts(settings)["alike"]
    return Outcome(
        expected=0.0, measured=error.max(-1), tolerance=1e-11, runs=error.size, note=f"n = {games.PLAYERS}, 50 steps"
    )


def merging(settings: Settings) -> Outcome:
    """The factor by which three and five players approach in a step: smallest and largest of the games."""
    rate = games.starts(settings)["rate"][1:]
    return Outcome(
        expected=np.repeat([1 / (n - 1) for n in games.PLAYERS[1:]], 2),
        measured=np.stack([rate.min(-1), rate.max(-1)], -1).ravel(),
        tolerance=0.02,
        runs=rate.size,
        spread=f"n = 3: {spread_of(rate[0])}; n = 5: {spread_of(rate[1])}",
        note="smallest and largest factor a step for n = 3, then for n = 5; after ten steps nothing of the population "
        "is left but copies of one policy",
    )


def swapping(settings: Settings) -> Outcome:
    """How far apart two players are after eight steps, over the start."""
    far = games.starts(settings)["far"][0]
    return Outcome(
        expected=[1.0, 1.0],
        measured=[far.min(), far.max()],
        tolerance=0.1,
        runs=far.size,
        spread=spread_of(far),
        note="smallest and largest ratio. Player 1 steps from player 2's policy and back: two runs of self-play that "
        "never meet, with the players taking turns in them",
    )


def average_gap(settings: Settings) -> Outcome:
    """Original gap of the average policy over multiplicative weights' bound."""
    run = games.rates(settings)
    ratio, gap = run["ratio"], np.median(run["gap"], -1)
    return Outcome(
        expected=1.0,
        measured=ratio.max((0, 2)),
        relation="at most",
        runs=ratio.size,
        spread=f"median gap at T = {games.HORIZONS}: n = 2 {listed(gap[0])}; n = 5 {listed(gap[2])}",
        note="largest ratio to sqrt(2 D / T), D = max log 1 / pi_0, for each T; the gap is that of the game without "
        "regularisation",
    )


def regularised_target(settings: Settings) -> Outcome:
    """The same average policies in the game of Eq. 7."""
    gap = np.median(games.rates(settings)["regularised"], -1)
    cycle = games.dynamics(settings)
    return Outcome(
        expected=0.0,
        measured=gap[:, -1],
        tolerance=0.01,
        runs=games.rates(settings)["regularised"][0, 0].size,
        spread=f"n = 3, T = {games.HORIZONS}: medians {listed(gap[1])}",
        note="median regularised gap of the average policy for n = 2, 3, 5: it does not fall with T, since neither the "
        "reference nor tau is in Eq. 10. On the COMAL cycle with reference (.7, .2, .1) and tau = .1 the original gap "
        f"of the average at T = 3,000 is {listed(np.median(cycle['average'][:, -1], -1))}, the regularised one "
        f"{listed(np.median(cycle['regularised'][:, -1], -1))}",
    )


def last_iterate(settings: Settings) -> Outcome:
    """Original gaps of the last policies over those of the averages."""
    run = games.dynamics(settings)
    ratio = run["last"][:, -1] / run["average"][:, -1]
    return Outcome(
        expected=1.0,
        measured=np.median(ratio, -1),
        relation="greater than",
        runs=ratio.size,
        spread=f"gap of the last policy: {listed(np.median(run['last'][:, -1], -1))}; "
        f"of the average: {listed(np.median(run['average'][:, -1], -1))} (medians, n = 2, 3, 5)",
        note="median ratio for n = 2, 3, 5, step .05, T = 3,000, random starts",
    )


def several_equilibria(settings: Settings) -> Outcome:
    """How many ends play has from random starts at tau = .05 and .5."""
    run = games.disagreement(settings)
    return Outcome(
        expected=[3, 1],
        measured=[len(run["reached_0"]), len(run["reached_1"])],
        runs=2 * settings.size(400, 80),
        spread=f"a root finder meets {len(run['all_0'])} equilibria at tau = .05 and {len(run['all_1'])} at .5: the "
        "uniform one is there at every tau, and play leaves it",
        note=f"ends that play reaches, each with a gap below {max(run['gap'].max(), 1e-16):.0e}; in each of the three "
        "both players settle on a pair of responses that suits both annotators",
    )


def population(settings: Settings) -> Outcome:
    """The averaged oracle: ends from four starts, its antisymmetry, and opposite annotators."""
    run, two = games.annotators(settings), games.disagreement(settings)
    return Outcome(
        expected=0.0,
        measured=[run["unique"].max(), run["skew"], two["population"]],
        tolerance=1e-6,
        runs=run["unique"].size,
        note="largest difference of log-probability between ends of four starts (tau = .02); |P + P' - 1|; distance of "
        "the opposite annotators' Nash from the reference: they cancel",
    )


def two_annotators(settings: Settings) -> Outcome:
    """Frequency of cycles among three responses for mixtures of Bradley-Terry annotators."""
    cycles = games.annotators(settings)["cycles"]
    return Outcome(
        expected=0.0,
        measured=cycles[0],
        runs=settings.size(40_000, 8_000),
        spread=f"weights (.3, .7): {cycles[1]:.4f}; three equal: {cycles[2]:.3f}; ten: {cycles[3]:.3f}; fifty: "
        f"{cycles[4]:.3f}",
        note="sigma(a) + sigma(b) > 1 exactly if a + b > 0, so that the majority of two equal annotators follows the "
        "sum of their rewards; cycles need a third annotator, or unequal weights",
    )


def extragradient(settings: Settings) -> Outcome:
    """The share of random two-annotator games in which extragradient play ends at an equilibrium."""
    gap = games.annotators(settings)["gap"]
    return Outcome(
        expected=1.0,
        measured=np.mean(gap < 1e-8),
        runs=gap.size,
        spread=f"gap of the worse player: {spread_of(gap)}",
        note="four responses, step .5, tau = .02, 4,000 steps; seen, not proved: the paper claims nothing here",
    )
