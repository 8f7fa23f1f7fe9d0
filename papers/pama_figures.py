"""The figures of the PAMA page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import pama_experiments as pama
from papers.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    band,
    describe,
    log_axes,
    panels,
    reference_line,
)
from papers.record import Settings

LOOKS = {
    "MORLHF": (BLACK, "--", "s"),
    "MGDA": (BLUE, "-", "o"),
    "PCGrad": (SKY, "-.", "v"),
    "CAGrad": (GREEN, ":", "^"),
    "Noon + MGDA": (PURPLE, "--", "D"),
    "PAMA, token": (VERMILION, "-", "P"),
    "PAMA, batch vertex": (ORANGE, "-.", "X"),
}
TITLES = [f"Correlation {c:+.1f}".replace("-", "−") for c in pama.CORRELATIONS]


def fronts(settings: Settings) -> Figure:
    """Front, paths and ends of every rival, one bandit for each correlation."""
    run = pama.training(settings)
    fig, axes = panels(4, titles=TITLES)
    for c, ax in enumerate(axes[:3]):
        front = run["front"][c, 0]
        ax.plot(front[:, 0], front[:, 1], color=GREY, linestyle="-", linewidth=4, alpha=0.5, label="Pareto front")
        for name, (color, dashes, marker) in LOOKS.items():
            path = run[name]["points"][c, 0]
            ax.plot(path[:, 0], path[:, 1], color=color, linestyle=dashes, linewidth=1.4)
            ax.plot(
                path[-1, 0], path[-1, 1],
                color=color, marker=marker, markersize=10, linestyle="", label=name, zorder=4, markeredgecolor="white",
            )  # fmt: skip
        start = run["MGDA"]["points"][c, 0, 0]
        ax.plot(*start, color=BLACK, marker="*", markersize=13, linestyle="", label="start", zorder=3)
        describe(ax, "objective 1 (reward − β KL)", "objective 2 (reward − β KL)", legend=False)
    axes[3].set_axis_off()
    axes[3].legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=13)
    return fig


def gaps(settings: Settings) -> Figure:
    """The gap to the front over the steps: median and band over the seeds."""
    run = pama.training(settings)
    steps = pama.moments()
    fig, axes = panels(4, titles=TITLES, sharey=True)
    for c, ax in enumerate(axes[:3]):
        for name, (color, dashes, _) in LOOKS.items():
            band(ax, steps[1:], np.maximum(run[name]["gap"][c, :, 1:], 1e-7), name, color, linestyle=dashes)
        log_axes(ax, x=True, y=True)
        describe(ax, "steps", "gap to the front (reward)", legend=False)
    axes[3].set_axis_off()
    axes[3].legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=13)
    return fig


def volumes(settings: Settings) -> Figure:
    """The hypervolume of each end point as a share of the front's, seed by seed."""
    run = pama.training(settings)
    fig, (ax,) = panels(1, size=(8.4, 5.0))
    for i, (name, (color, _, marker)) in enumerate(LOOKS.items()):
        for c in range(3):
            shares = run[name]["volume"][c]
            x = c + 0.11 * (i - 3)
            ax.plot(np.full(len(shares), x), shares, color=color, marker=marker, markersize=4, alpha=0.4, linestyle="")
            label = name if c == 0 else None
            ax.plot(x, np.median(shares), color=color, marker=marker, markersize=11, linestyle="", label=label)
    ax.set_xticks(range(3), [title.replace("Correlation ", "") for title in TITLES])
    ax.set_ylim(0, 1.0)
    describe(ax, "correlation of the two rewards", "hypervolume, share of the front's", legend=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=11)
    return fig


def vertex(settings: Settings) -> Figure:
    """How good the vertex is as a least norm, and how many responses are good for everyone."""
    fig, (left, right) = panels(2, titles=("PAMA's choice against the least norm", "Arms that all objectives like"))
    choice = pama.bandits(settings)
    norm = lambda w: np.linalg.norm(np.einsum("nia,ni->na", choice["kept"], w), axis=-1)
    ratio = norm(choice["vertex"]) / norm(choice["least"])
    left.hist(ratio, np.geomspace(1, 20, 40).tolist(), color=BLUE)
    log_axes(left, x=True)
    left.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    reference_line(left, float(np.median(ratio)), f"median {np.median(ratio):.2f}", vertical=True, color=VERMILION)
    describe(left, "norm of the chosen gradient / least norm", "bandits")
    run = pama.unanimity(settings)
    numbers, width = (2, 3, 5), 0.38
    for j, (kind, color, hatch) in enumerate((("independent", SKY, ""), ("opposed", VERMILION, "//"))):
        means = [run[n, kind].mean() for n in numbers]
        places = np.arange(3) + width * (j - 0.5)
        right.bar(places, means, width, color=color, hatch=hatch, label=f"{kind} rewards", edgecolor="white")
        for place, n, mean in zip(places, numbers, means, strict=True):
            none = f"none in\n{(run[n, kind] == 0).mean():.0%}"
            right.annotate(none, (place, mean), ha="center", va="bottom", fontsize=11)
    right.set_xticks(range(3), [str(n) for n in numbers])
    right.margins(y=0.2)
    describe(right, "objectives", "arms out of ten (mean)")
    return fig


def times(settings: Settings) -> Figure:
    """Seconds of the combination over objectives and over parameters."""
    run = pama.timing(settings)
    fig, (left, right) = panels(2, titles=("Over objectives", "Over parameters, 8 objectives"), sharey=True)
    d = run["sizes"][1]
    rows = (
        ("token", "closed form, 1,024 tokens", VERMILION, "-", "o"),
        ("gram", "Gram form, 1,024 tokens", GREEN, "--", "s"),
        ("mgda", f"MGDA, {d:,} parameters", BLUE, "-.", "^"),
    )
    eight = list(run["numbers"]).index(8)
    for name, label, color, dashes, marker in rows:
        left.plot(run["numbers"], 1e3 * run[name], color=color, linestyle=dashes, marker=marker, label=label)
        flat = np.full(3, run[name][eight]) if name != "mgda" else run["mgda_by_size"]
        right.plot(run["sizes"], 1e3 * flat, color=color, linestyle=dashes, marker=marker, label=label.split(",")[0])
    for ax, x in ((left, "objectives"), (right, "parameters")):
        log_axes(ax, x=True, y=True)
        describe(ax, x, "milliseconds", legend="upper left")
    left.set_xticks(run["numbers"], [str(n) for n in run["numbers"]])
    left.set_ylim(top=left.get_ylim()[1] * 6)
    return fig
