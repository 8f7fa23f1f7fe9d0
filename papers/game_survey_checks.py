"""The checks of the survey of solvers: exponents over the temperature, who is cheapest where, who arrives."""

import numpy as np

from papers import game_survey_runs as runs
from papers.nash_md_checks import spread_of
from papers.record import Outcome, Settings


def _exponents(settings: Settings, names: tuple[str, ...], expected: float, tolerance: float) -> Outcome:
    found = {name: runs.exponents(settings, name) for name in names}
    return Outcome(
        expected=expected,
        measured=[np.median(x) for x in found.values()],
        tolerance=tolerance,
        runs=runs.number_of_games(settings),
        spread="; ".join(f"{runs.NAMES[name]}: {spread_of(x)}" for name, x in found.items()),
        note="exponent of tau in the oracle calls to a regularised gap of 1e-6, least squares over tau up to "
        f"{runs.SMALL:g}: " + ", ".join(runs.NAMES[name] for name in names),
    )


def fast(settings: Settings) -> Outcome:
    """The exponent of extragradient steps."""
    return _exponents(settings, ("egpo",), -1.0, 0.25)


def slow(settings: Settings) -> Outcome:
    """The exponents of the solvers with one gradient a step."""
    return _exponents(settings, ("omd", "nash_rs", "nash_ema"), -2.0, 0.3)


def decaying(settings: Settings) -> Outcome:
    """Median calls of Nash-MD with its theorem's steps over those of mirror descent, at every temperature."""
    calls, tau = runs.regularised_calls(settings), runs.temperatures(settings)
    middle = {name: np.median(calls[name], -1) for name in ("nash_md", "omd", "egpo")}
    ratio = middle["nash_md"] / middle["omd"]
    return Outcome(
        expected=1.0,
        measured=ratio,
        relation="at most",
        runs=runs.number_of_games(settings),
        spread=f"median calls of Nash-MD by temperature: {', '.join(f'{x:.3g}' for x in middle['nash_md'])}; over "
        f"those of EGPO {', '.join(f'{x:.3g}' for x in middle['nash_md'] / middle['egpo'])}",
        note=f"ratio by temperature, tau = {', '.join(f'{x:.2g}' for x in tau)}; the steps that a theorem needs for "
        "every horizon are not those that are best for one gap",
    )


def always(settings: Settings) -> Outcome:
    """The share of games and temperatures in which each regularised solver arrives."""
    calls = runs.regularised_calls(settings)
    return Outcome(
        expected=1.0,
        measured=[np.isfinite(calls[name]).mean() for name in runs.REGULARISED],
        runs=calls["omd"].size,
        note="share of games and temperatures: " + ", ".join(runs.NAMES[name] for name in runs.REGULARISED),
    )


def same(settings: Settings) -> Outcome:
    """The largest difference of log-probability between solvers that are said to be one."""
    apart = runs.same_recursion(settings)
    return Outcome(
        expected=0.0,
        measured=[x.max() for x in apart.values()],
        tolerance=1e-10,
        runs=runs.number_of_games(settings),
        note=", ".join(f"{name} and {other}" for name, other in runs.SAME.items()) + f"; {runs.BLOCKS} steps each",
    )


def cold(settings: Settings) -> Outcome:
    """EGPO's calls over those of the best other solver at the smallest temperature, game by game."""
    calls = runs.regularised_calls(settings)
    ratio = calls["egpo"][0] / np.min([calls[name][0] for name in runs.REGULARISED if name != "egpo"], axis=0)
    return Outcome(
        expected=1.0,
        measured=np.median(ratio),
        relation="less than",
        runs=ratio.size,
        spread=spread_of(ratio),
        note=f"at tau = {runs.temperatures(settings)[0]:g}; medians of calls: "
        + "; ".join(f"{runs.NAMES[name]} {np.median(calls[name][0]):.3g}" for name in runs.REGULARISED),
    )


def warm(settings: Settings) -> Outcome:
    """EGPO's calls over mirror descent's at tau = 1."""
    calls, tau = runs.regularised_calls(settings), runs.temperatures(settings)
    ratio = calls["egpo"] / calls["omd"]
    first = tau[np.median(ratio, -1) > 1]
    return Outcome(
        expected=1.0,
        measured=np.median(ratio[-1]),
        relation="at most",
        runs=ratio.shape[1],
        spread=spread_of(ratio[-1]),
        note=f"EGPO over mirror descent at tau = {tau[-1]:g}; the median ratio is above 1 from tau = {first.min():.2g} "
        "on among those tried: two calls a step are then one too many",
    )


def original(settings: Settings) -> Outcome:
    """COMAL's calls at its best temperature over those of ONPO and of MPO at its best."""
    calls = runs.original_calls(settings)
    middle = {name: np.median(calls[name], -1) for name in runs.ORIGINAL}
    best = {name: x.min() for name, x in middle.items()}
    at = {name: runs.temperatures(settings)[x.argmin()] for name, x in middle.items()}
    return Outcome(
        expected=1.0,
        measured=[best["comal"] / best[name] if np.isfinite(best[name]) else np.nan for name in ("onpo", "mpo")],
        relation="less than",
        runs=runs.number_of_games(settings),
        spread=f"median calls: COMAL {best['comal']:.3g} at tau = {at['comal']:.2g}, MPO {best['mpo']:.3g} at "
        f"{at['mpo']:.2g}, ONPO {best['onpo']:.3g}",
        note="COMAL's inner problem is solved by extragradient steps whose error falls by e^10; two calls each",
    )


def averages(settings: Settings) -> Outcome:
    """The share of games in which the average of multiplicative weights arrives."""
    reached = np.isfinite(runs.original_calls(settings)["mwu"][0])
    most = runs.longest(settings, "original")
    return Outcome(
        expected=0.0,
        measured=reached.mean(),
        runs=reached.size,
        note=f"within {most:,} calls, each horizon with the step of its theorem; its bound sqrt(2 D/T) asks for more "
        "than 1e8",
    )
