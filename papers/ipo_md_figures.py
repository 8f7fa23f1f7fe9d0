"""The figures of the IPO-MD page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import ipo_md_experiments as runs
from papers.figures import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, describe, log_axes, panels, reference_line
from papers.nash_md_figures import _CORNERS, _simplex
from papers.record import Settings

COLOURS = (VERMILION, BLUE, GREEN, ORANGE)
DASHES = ("-.", "-", "--", ":")
RESPONSES = ("response 1", "response 2", "response 3")


def tabular(settings: Settings) -> Figure:
    """Descents on the simplex: dice, and COMAL's cycle with a reference of its own."""
    run = runs.tabular(settings)
    fig, axes = panels(2, titles=("Dice, uniform reference", "COMAL's cycle, reference (.7, .2, .1)"))
    for game, ax in enumerate(axes):
        _simplex(ax, RESPONSES)
        for name, path, colour, dashes in zip(runs.NAMES, run["path"], COLOURS, DASHES, strict=True):
            points = path[:, game] @ _CORNERS
            ax.plot(*points.T, color=colour, linestyle=dashes, linewidth=1.8, label=name)
            ax.plot(*points[-1], color=colour, marker="o", markersize=7, linestyle="")
        ax.plot(*(np.exp(runs.START) @ _CORNERS), color=BLACK, marker="s", linestyle="", label="start")
        nash = run["nash"][game] @ _CORNERS
        ax.plot(*nash, color=BLACK, marker="*", markersize=15, linestyle="", label="Nash at τ", zorder=5)
        ax.set_xlim(-0.35, 1.12)
        ax.legend(loc="upper left", fontsize=10)
    return fig


def coefficient(settings: Settings) -> Figure:
    """Where IPO-MD rests over its coefficient."""
    run = runs.curve(settings)
    fig, (left, right) = panels(2, titles=("Distance from the Nash", "Distance from the reference"))
    band(left, runs.CURVE, run["apart"].T, "median and 10–90 % band", BLUE)
    band(right, runs.CURVE, run["reference"].T, "median and 10–90 % band", GREEN)
    for ax, unit in ((left, "KL(Nash at τ ‖ policy)  (nats)"), (right, "KL(policy ‖ reference)  (nats)")):
        ax.axvline(0.125, color=GREY, linestyle=":", linewidth=1.4)
        ax.set_xlabel("mixture coefficient β")
        describe(ax, "mixture coefficient β (0: online, 1: offline IPO)", unit, legend="upper left")
    return fig


def gradient(settings: Settings) -> Figure:
    """Relative errors of Prop. 5.1's right side with and without centring."""
    run = runs.gradients(settings)
    fig, (ax,) = panels(1, size=(8.2, 5.2))
    rows = (
        ("reported", 0, "as reported, τ = 0.1", VERMILION, "-", "o"),
        ("reported", 1, "as reported, τ = 1", ORANGE, "--", "s"),
        ("centred", 0, "centred, τ = 0.1", BLUE, "-", "^"),
    )
    for name, row, label, colour, dashes, marker in rows:
        values = 100 * run[name][:, row].T
        band(ax, runs.MIXTURES, values, label, colour, linestyle=dashes, marker=marker)
    describe(
        ax, "mixture coefficient β", "relative error of the gradient (%)",
        title="Prop. 5.1 needs the log-ratio centred", legend="upper left",
    )  # fmt: skip
    return fig


def variance(settings: Settings) -> Figure:
    """Distributions of the variance ratios."""
    run, least = runs.variances(settings), runs.least_variance()
    fig, (left, right) = panels(2, titles=("Contrastive over one-sided", "Contrastive over Nash-MD-PG"), sharey=True)
    for row, (size, colour, dashes) in enumerate(zip(runs.SIZES, COLOURS, DASHES, strict=False)):
        for ax, name in ((left, "one_sided"), (right, "nash_md_pg")):
            values = np.sort(run[name][row])
            share = np.linspace(0, 1, len(values))
            ax.plot(values, share, color=colour, linestyle=dashes, label=f"{size} responses")
    left.plot(float(least["explicit"]), 0, color=BLACK, marker="D", clip_on=False, linestyle="", label="case by hand")
    reference_line(left, 0.5, "1/2", vertical=True)
    right.axvline(1.0, color=GREY, linestyle="--", linewidth=1.4)
    left.set_xlim(0.2, 1.02)
    log_axes(right, x=True)
    right.set_xlim(0.03, 100)
    describe(left, "ratio of variances", "share of games", legend="lower right")
    describe(right, "ratio of variances", "", legend="lower right")
    return fig


def online_dpo(settings: Settings) -> Figure:
    """Where online IPO and online DPO end, and online DPO's gradient at the Nash of two responses."""
    ends, run = runs.bradley_terry(), runs.online_dpo(settings)
    fig, (left, right) = panels(2, titles=("Rewards (0, 1, 2), τ = 0.5", "Two responses"))
    place = np.arange(3)
    bars = (
        ("nash", "Nash", GREY, -1.5),
        ("online_ipo", "online IPO ends", BLUE, -0.5),
        ("online_dpo", "online DPO ends", VERMILION, 0.5),
        ("rlhf", "RLHF, e^(r/τ)", ORANGE, 1.5),
    )
    for name, label, colour, shift in bars:
        left.bar(place + 0.2 * shift, ends[name], 0.18, color=colour, label=label)
    left.set_xticks(place, RESPONSES)
    left.grid(axis="x", visible=False)
    describe(left, "response", "probability", legend="upper left")
    right.plot(run["chances"], run["two"], color=VERMILION, marker="o", label="at the Nash, τ = 0.3")
    right.set_ylim(bottom=0)
    describe(right, "P(1 beats 2)", "norm of online DPO's gradient", legend="upper center")
    return fig
