"""The figures of the SPPO page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import sppo_experiments as sppo
from papers.comal_experiments import START
from papers.comal_magnets import NASH
from papers.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    band,
    describe,
    log_axes,
    panels,
    reference_line,
)
from papers.record import Settings
from papers.simplex import mark, path, triangle


def partition(settings: Settings) -> Figure:
    """Excess of log Z with its bound, and what it does to the minimiser."""
    run = sppo.one_step(settings)
    fig, (left, right) = panels(2, titles=("What η/2 leaves out of log Z", "What that does to the minimiser"))
    left.plot(sppo.STEPS, sppo.STEPS**2 / 8, color=BLACK, linestyle="--", label="bound η²/8")
    left.plot(sppo.STEPS, sppo.STEPS / 2, color=GREY, linestyle=":", label="η/2 itself")
    band(left, sppo.STEPS, run["excess"].T, "log Z − η/2", BLUE, marker="o")
    band(right, sppo.STEPS, np.maximum(run["apart"].T, 1e-16), "KL(exact step ‖ minimiser)", VERMILION, marker="s")
    for ax in (left, right):
        log_axes(ax, x=True, y=True)
        ax.axvline(sppo.STEPS[-1], color=GREY, linestyle="--", linewidth=1.2)
        ax.annotate(
            "official code",
            (sppo.STEPS[-1], 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(-5, 0),
            textcoords="offset points",
            ha="right",
            color=GREY,
            fontsize=12,
        )
    describe(left, "step η", "nats", legend="upper left")
    describe(right, "step η", "nats", legend="upper left")
    return fig


def averages(settings: Settings) -> Figure:
    """Last and average policies on cycles: the simplex and the gaps."""
    run = sppo.on_cycles(settings)
    fig, (left, right) = panels(2, titles=("Policies on one cycle", "Gaps on random cycles"))
    triangle(left, ("a", "b", "c"))
    path(left, run["path"][:1500], "last policy", VERMILION, linewidth=1.0)
    path(left, run["average_path"], "average policy", BLUE, linewidth=2.0)
    mark(left, START, "start", "s", 6)
    mark(left, NASH, "Nash", "*", 14)
    left.legend(loc="upper left", fontsize=11)
    left.set_xlim(-0.5, 1.08)
    times = np.arange(1, len(run["last"]) + 1)
    kept = np.unique(np.geomspace(1, len(times), 300).astype(int)) - 1
    right.plot(times[kept], run["bound"][kept], color=BLACK, linestyle="--", label="bound 2D/(ηT) + η/4")
    rows = (
        ("last", "last policy", VERMILION, "-"),
        ("average", "average", BLUE, "-"),
        ("minimiser_average", "average of SPPO's minimisers", GREEN, ":"),
    )
    for name, label, color, dashes in rows:
        band(right, times[kept], run[name][kept].T, label, color, linestyle=dashes)
    log_axes(right, x=True, y=True)
    right.set_ylim(3e-4, 60)
    describe(right, "steps T", "duality gap (win probability)", legend="lower left")
    return fig


def improvement(settings: Settings) -> Figure:
    """Improvement of every step, and the divergence from the Nash meanwhile."""
    run = sppo.on_cycles(settings)
    fig, (left, right) = panels(2, titles=("Every step wins against the last", "And yet the Nash recedes"))
    times = np.arange(1, len(run["improvement"]) + 1)
    kept = np.unique(np.linspace(1, len(times), 300).astype(int)) - 1
    band(left, times[kept], run["improvement"][kept].T, r"P($\pi_{t+1}\succ\pi_t$) − 1/2", BLUE)
    band(left, times[kept], run["claimed"][kept].T, "DNO's bound", PURPLE, linestyle="--")
    log_axes(left, y=True)
    describe(left, "steps t", "win probability", legend="lower left")
    share = run["away"] / run["away"][0]
    band(right, np.arange(len(share))[:: max(1, len(share) // 300)], share[:: max(1, len(share) // 300)].T, "", BLUE)
    reference_line(right, 1.0, "at the start")
    describe(right, "steps t", r"KL($\pi^*\,\|\,\pi_t$) over its start")
    return fig
