"""The figures of the EGPO page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from papers import egpo_simulation as simulation
from papers import egpo_theory as theory
from papers.egpo_simulation import ALGORITHMS, CUT, EGPO, NAMES, NASH_MD, NASH_MD_PG, OIPO2, OMD
from papers.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    band,
    describe,
    log_axes,
    panels,
    reference_line,
)
from papers.record import Settings

LOOKS = {
    EGPO: (BLUE, "-"),
    OMD: (VERMILION, "--"),
    NASH_MD: (GREEN, "-."),
    OIPO2: (ORANGE, (0, (5, 1))),
    NASH_MD_PG: (PURPLE, ":"),
}
"""Colour and dashes of each algorithm, the same in every figure."""
LOWEST = 1e-14


def _curves(ax: Axes, run: simulation.Runs, *, floor: float = LOWEST) -> None:
    """Gaps over updates: median over games and 10 to 90 % band."""
    for name in (EGPO, OMD, NASH_MD, OIPO2, NASH_MD_PG):
        gap = run[name]
        kept = np.unique(np.linspace(0, len(gap) - 1, 201).astype(int))
        color, dashes = LOOKS[name]
        band(ax, kept * int(run["every"]), np.maximum(gap[kept].T, floor), NAMES[name], color, linestyle=dashes)
    log_axes(ax, y=True)


def tables(settings: Settings) -> Figure:
    """Exact tables at the three betas, and the floor of Nash-MD against its prediction."""
    runs = simulation.tables(settings)
    titles = [f"β = {plan.beta:g}" for plan in simulation.TABLES] + ["Nash-MD's floor at β = 0.1, game by game"]
    fig, axes = panels(4, titles=titles)
    for i, (ax, run) in enumerate(zip(axes[:3], runs, strict=True)):
        _curves(ax, run)
        ax.set_ylim(LOWEST, 30)
        ax.axhline(CUT, color=GREY, linestyle="--", linewidth=1.2)
        describe(ax, "updates", "regularised duality gap", legend="lower left" if i == 0 else False)
    axes[0].annotate("the official curves end at $10^{-6}$", (0, CUT / 2), va="top", color=GREY, fontsize=11)
    ax, last = axes[3], runs[2]
    ends = np.asarray([last["floor"].min() / 2, last["sharp_floor"].max() * 2])
    ax.plot(ends, ends, color=GREY, linestyle="--", label="predicted = measured")
    ax.plot(
        last["floor"], last[NASH_MD][-1], color=GREEN, linestyle="", marker="o", markersize=5, label="the code's mixing"
    )
    log_axes(ax, x=True, y=True)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    describe(ax, "gap at rest predicted from the Nash at β / (1 − m)", "final gap of Nash-MD", legend="upper left")
    return fig


def sampled(settings: Settings) -> Figure:
    """100 samples an update: tables and networks."""
    fig, (left, right) = panels(2, titles=("Tables, β = 0.01", "One network for ten contexts, β = 0.1"))
    run = simulation.sampled_tables(settings)
    _curves(left, run)
    every = int(run["every"])
    exact = np.median(run["exact"], -1)
    left.plot(np.arange(len(exact)) * every, np.maximum(exact, LOWEST), color=BLACK, linewidth=1.4, linestyle="-")
    left.annotate("EGPO without sampling", (0.62, 0.06), xycoords="axes fraction", ha="right", fontsize=11)
    left.set_ylim(3e-5, 30)
    _curves(right, simulation.sampled_neural(settings))
    describe(left, "updates", "regularised duality gap", legend=False)
    left.legend(loc="upper center", ncols=2, fontsize=10.5)
    describe(right, "updates", "", legend=False)
    return fig


def neural(settings: Settings) -> Figure:
    """Exact gradients through a network."""
    run = simulation.neural(settings)
    fig, (ax,) = panels(1, size=(8.2, 5.2))
    _curves(ax, run)
    reference_line(ax, CUT, "the official curves end here")
    ax.set_ylim(1e-10, 30)
    title = f"A network for ten contexts of 100 responses, β = {simulation.NETWORK.beta:g}"
    describe(ax, "updates", "regularised duality gap", title=title, legend=False)
    ax.legend(loc="upper right", ncols=2, fontsize=10.5)
    return fig


def rates(settings: Settings) -> Figure:
    """Which steps contract by 1 - h beta."""
    run = theory.rates(settings)
    fig, (left, right) = panels(2, titles=("The worst step of all runs", "The bound and the end of each run"))
    number = len(theory.MULTIPLES)
    groups = ((0.01, 0.1, BLUE, "o", "-"), (0.1, 0.5, GREEN, "s", "--"), (0.5, 10.1, ORANGE, "^", "-."))
    for low, high, color, marker, dashes in groups:
        inside = (run["beta"] >= low) & (run["beta"] < high)
        excess = run["excess"][:number, inside]
        some = np.isfinite(excess).any(-1)
        left.plot(
            theory.MULTIPLES[some], np.nanmax(excess[some], -1),
            color=color, marker=marker, linestyle=dashes, label=f"β from {low:g} to {min(high, 10):g}",
        )  # fmt: skip
    reference_line(left, 1.0, "2 / (1 + 2β)", vertical=True)
    reference_line(left, 1.0, "1 − hβ")
    log_axes(left, y=True)
    describe(left, "step h, in units of 2 / (1 + 2β)", "largest factor, over 1 − hβ", legend="center left")
    row = list(theory.MULTIPLES).index(1.0)
    for index, color, marker, label in ((row, BLUE, "o", "h = 2 / (1 + 2β)"), (-1, VERMILION, "^", "h = 1 / (β + 3)")):
        right.plot(
            np.maximum(run["bound"][index], 1e-30), np.maximum(run["final"][index], 1e-33),
            color=color, marker=marker, linestyle="", markersize=3, alpha=0.6, rasterized=True, label=label,
        )  # fmt: skip
    line = np.asarray([1e-30, 30.0])
    right.plot(line, line, color=GREY, linestyle="--", label="the bound")
    log_axes(right, x=True, y=True)
    steps = settings.size(200, 60)
    describe(
        right,
        f"(1 − hβ)$^{{{steps}}}$ of the initial divergence",
        f"KL(π* ‖ π) after {steps} steps",
        legend="lower right",
    )
    return fig


def noise(settings: Settings) -> Figure:
    """Late gaps with sampled win-rates, game by game: EGPO against mirror descent."""
    run = theory.noisy(settings)
    fig, (ax,) = panels(1, size=(7.4, 5.6))
    looks = {"0.01": (BLUE, "o"), "0.1": (ORANGE, "^")}
    values = np.concatenate([np.concatenate(list(rows.values())) for rows in run.values()])
    ends = np.asarray([values.min() / 2, values.max() * 2])
    ax.plot(ends, ends, color=GREY, linestyle="--", label="equal")
    for (beta, rows), plan in zip(run.items(), simulation.TABLES[1:], strict=True):
        color, marker = looks[beta]
        ax.plot(
            rows[OMD],
            rows[EGPO],
            color=color,
            marker=marker,
            linestyle="",
            label=f"β = {beta}, step h = {plan.step_size:g}",
        )
    log_axes(ax, x=True, y=True)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    describe(
        ax,
        "late gap of mirror descent",
        "late gap of EGPO",
        title="100 sampled opponents an update",
        legend="upper left",
    )
    return fig


assert set(LOOKS) == set(ALGORITHMS)
