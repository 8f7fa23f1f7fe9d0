"""The checks of the SPPO page: each takes the settings and returns what the paper says beside what a run gave."""

import numpy as np

from papers import sppo_experiments as sppo
from papers.nash_md_checks import spread_of
from papers.record import NotTestable, Outcome, Settings

PRACTICAL = len(sppo.STEPS) - 1
"""The row of the official code's step."""


def _medians(values: np.ndarray) -> str:
    return "medians " + ", ".join(
        f"{np.median(row):.2g} at eta = {h:g}" for h, row in zip(sppo.STEPS, values, strict=True)
    )


# --- the partition function -------------------------------------------------------------------------------------------


def partition_small(settings: Settings) -> Outcome:
    """log Z less eta/2 at small steps."""
    excess = sppo.one_step(settings)["excess"]
    return Outcome(
        expected=0.0,
        measured=np.abs(excess[:2]).max(-1),
        tolerance=0.01,
        runs=excess.shape[1],
        spread=_medians(excess),
        note="largest at eta = 0.1 and 0.3, in nats; the tolerance is ours",
    )


def partition_practical(settings: Settings) -> Outcome:
    """The same at the official step."""
    excess = sppo.one_step(settings)["excess"][PRACTICAL]
    return Outcome(
        expected=0.0,
        measured=np.median(excess),
        tolerance=1.0,
        runs=excess.size,
        spread=spread_of(excess, "nats"),
        note="there log Z is eta times the best response's win-rate, up to its log-mass",
    )


def partition_bound(settings: Settings) -> Outcome:
    """The excess over its bounds, both sides."""
    excess = sppo.one_step(settings)["excess"]
    above = (excess / (sppo.STEPS[:, None] ** 2 / 8)).max()
    return Outcome(
        expected=[1.0, 0.0],
        measured=[above, -excess.min()],
        tolerance=1e-12,
        relation="at most",
        runs=excess.size,
        spread=f"share of the upper bound: {spread_of(excess / (sppo.STEPS[:, None] ** 2 / 8))}",
        note="Jensen below (the mean win-rate against oneself is 1/2), Hoeffding above",
    )


def minimiser_small(settings: Settings) -> Outcome:
    """KL of the multiplicative-weights iterate from the loss's minimiser at small steps."""
    run = sppo.one_step(settings)
    apart = run["apart"][:3]
    return Outcome(
        expected=0.0,
        measured=apart.max(-1),
        tolerance=1e-4,
        runs=apart.shape[1],
        spread=_medians(run["apart"]),
        note="largest at eta = 0.1, 0.3 and 1; the tolerance is ours; population gradient of the loss at the "
        f"minimiser, over eta: at most {run['gradient'].max():.1e}",
    )


def minimiser_practical(settings: Settings) -> Outcome:
    """The same at the official step."""
    run = sppo.one_step(settings)
    apart, mass = run["apart"][PRACTICAL], run["mass"][PRACTICAL]
    return Outcome(
        expected=0.0,
        measured=np.median(apart),
        tolerance=0.01,
        runs=apart.size,
        spread=spread_of(apart, "nats"),
        note=f"the iterate itself is a best response: mass on one response {spread_of(mass)}",
    )


def fixed_points(settings: Settings) -> Outcome:
    """The minimiser against the iterate at the Nash of a cycle, and away from it."""
    run = sppo.fixed_points(settings)
    return Outcome(
        expected=0.0,
        measured=run["at_nash"].max(),
        tolerance=1e-10,
        runs=run["at_nash"].size,
        note=f"log-probabilities; from the uniform policy they differ by {spread_of(run['elsewhere'])}",
    )


def residuals(settings: Settings) -> Outcome:
    """Squared differences of SPPO's residuals against INPO's loss at temperature 0."""
    run = sppo.residuals(settings)
    return Outcome(
        expected=0.0,
        measured=np.abs(run["sppo"] - run["inpo"]).max(),
        tolerance=1e-10,
        runs=run["inpo"].size,
        spread=f"INPO's loss: {spread_of(run['inpo'])}",
        note="what log Z was replaced by cancels in the difference: a pair needs no guess of it",
    )


# --- the estimate of win-rates ----------------------------------------------------------------------------------------


def estimate(settings: Settings) -> Outcome:
    """The slope of the estimate's mean over the win-rate."""
    slope = sppo.estimates(settings)["slope"]
    return Outcome(
        expected=1.0,
        measured=slope,
        tolerance=0.01,
        runs=slope.size,
        note="advantages, less 1/2 each; the comparison of a response with itself, a tie, is in the mean of five",
    )


def estimate_mended(settings: Settings) -> Outcome:
    """The slope against (K - 1) / K."""
    run = sppo.estimates(settings)
    return Outcome(
        expected=(sppo.DRAWN - 1) / sppo.DRAWN,
        measured=run["slope"],
        tolerance=1e-10,
        runs=run["slope"].size,
        note=f"nothing else is left of the mean (up to {run['residual'].max():.1e}), so that eta is 4/5 of what is set",
    )


# --- averages and last policies ---------------------------------------------------------------------------------------


def average(settings: Settings) -> Outcome:
    """The gap of the average over sqrt(2 D / T)."""
    run = sppo.self_play(settings)
    median = np.median(run["gap"], -1)
    fit = np.polyfit(np.log(run["horizons"]), np.log(median), 1)[0]
    return Outcome(
        expected=1.0,
        measured=run["ratio"].max(-1),
        relation="at most",
        runs=run["ratio"].shape[1],
        spread="median gap "
        + ", ".join(f"{gap:.3f} at T = {t}" for gap, t in zip(median, run["horizons"], strict=True)),
        note=f"largest ratio at each T, D = max log 1/pi_0; the median gap falls like T^{fit:.2f}",
    )


def own_average(settings: Settings) -> Outcome:
    """The gap of the average of the loss's own minimisers over the bound of the exact method."""
    run = sppo.on_cycles(settings)
    ratio = run["minimiser_average"] / run["bound"][:, None]
    return Outcome(
        expected=1.0,
        measured=ratio.max(),
        relation="at most",
        runs=ratio.shape[1],
        spread=f"gap at the end: {spread_of(run['minimiser_average'][-1])}; exact: {spread_of(run['average'][-1])}",
        note="largest ratio over all T to 2 D/(eta T) + eta/4 at eta = 0.1",
    )


def spo_average(settings: Settings) -> Outcome:
    """The gap of the average over the regret bound at a fixed step."""
    run = sppo.on_cycles(settings)
    ratio = run["average"] / run["bound"][:, None]
    return Outcome(
        expected=1.0,
        measured=ratio.max(),
        relation="at most",
        runs=ratio.shape[1],
        spread=f"gap at the end: {spread_of(run['average'][-1])}; KL of it from the winner: "
        + spread_of(run["average_away"], "nats"),
        note="largest ratio over all T to 2 D/(eta T) + eta/4",
    )


def last_leaves(settings: Settings) -> Outcome:
    """KL of the last policy from the winner, end over start."""
    run = sppo.on_cycles(settings)
    ratio = run["away"][-1] / run["away"][0]
    return Outcome(
        expected=1.0,
        measured=ratio.min(),
        relation="greater than",
        runs=ratio.size,
        spread=f"{spread_of(ratio)}; the average's gap is {np.median(run['average'][-1]):.3f}, the last policy's "
        f"{np.median(run['last'][-1]):.2f} in the median",
    )


# --- DNO --------------------------------------------------------------------------------------------------------------


def improvement(settings: Settings) -> Outcome:
    """The improvement in a step over what is claimed of it."""
    run = sppo.on_cycles(settings)
    ratio = run["improvement"] / run["claimed"]
    return Outcome(
        expected=1.0,
        measured=ratio.min(),
        relation="at least",
        runs=ratio.size,
        spread=f"improvement over KL(pi_{{t+1}} || pi_t)/h: {spread_of(ratio)}",
        note="every step of every path; about twice what is claimed",
    )


def improvement_identity(settings: Settings) -> Outcome:
    """The improvement less both divergences."""
    left = sppo.on_cycles(settings)["identity"]
    return Outcome(
        expected=0.0,
        measured=np.abs(left).max(),
        tolerance=1e-12,
        runs=left.size,
        spread=f"improvement itself: {spread_of(sppo.on_cycles(settings)['improvement'])}",
    )


def improvement_converges(settings: Settings) -> Outcome:
    """KL of the last policy from the Nash, which every step improved on the one before."""
    run = sppo.on_cycles(settings)
    ratio = run["away"][-1] / run["away"][0]
    return Outcome(
        expected=1.0,
        measured=ratio,
        relation="less than",
        runs=ratio.size,
        spread=spread_of(ratio),
        note=f"smallest improvement of a step: {run['improvement'].min():.1e}; in a cycle each policy beats the last, "
        "and the first beats them",
    )


def dno_gradient(settings: Settings) -> Outcome:
    """The population gradient of DNO's loss at the next iterate."""
    run = sppo.residuals(settings)
    return Outcome(
        expected=0.0,
        measured=np.abs(run["dno"]).max(),
        tolerance=1e-10,
        runs=len(run["dno"]),
        note=f"at the policy itself it is up to {np.abs(run['dno_away']).max():.3f}",
    )


def language_models(settings: Settings) -> NotTestable:
    """The tables of the paper."""
    return NotTestable(
        "Mistral-7B and Llama-3-8B fine-tuning with PairRM as oracle and a GPT-4 judge; neither models nor judgements "
        "are available here"
    )
