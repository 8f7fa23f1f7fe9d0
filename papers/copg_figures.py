"""The figures of the CoPG page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import copg_experiments as toy
from papers import copg_laws as laws
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

COLOURS = (BLUE, GREEN, VERMILION, BLACK, ORANGE, PURPLE)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
LABELS = {
    "PG, b = 0": "policy gradient, b = 0",
    "PG, b = E r": r"policy gradient, b = E$_\pi$ r",
    "PG, b = E R": r"policy gradient, b = E$_\pi$ R$_\beta$",
}


def bandit(settings: Settings) -> Figure:
    """Regret over epochs, linear and logarithmic."""
    run = toy.bandit(settings)
    fig, (left, right) = panels(2, titles=("Regret", "The same, logarithmic"), size=(6.4, 5.0))
    epochs = np.arange(toy.EPOCHS + 1)
    for name, color, dashes in zip(toy.CONTENDERS, COLOURS, DASHES, strict=True):
        values = run[f"regret {name}"]
        for ax in (left, right):
            band(ax, epochs, np.maximum(values, 1e-9), LABELS.get(name, name), color, linestyle=dashes)
    for ax in (left, right):
        reference_line(ax, 100, "", vertical=True)
    left.annotate("100 epochs: the paper's figure", (108, 0.45), color=GREY, fontsize=12)
    left.set_xlim(0, toy.EPOCHS)
    right.set_xlim(0, toy.EPOCHS)
    left.set_ylim(0, 0.68)
    log_axes(right, y=True)
    right.set_ylim(1e-6, 2)
    describe(left, "epochs of 19 updates", r"$J(\pi^*) - J(\pi)$  (reward)", legend=False)
    describe(right, "epochs of 19 updates", "", legend=False)
    handles, names = left.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3)
    return fig


def policies(settings: Settings) -> Figure:
    """Bars of the policies after 600 epochs."""
    run = toy.bandit(settings)
    fig, (ax,) = panels(1, size=(8.6, 5.0))
    names = ("optimum", *toy.CONTENDERS)
    rows = [np.exp(toy.BEST)[None], *(np.exp(run[name][:, -1]) for name in toy.CONTENDERS)]
    place = np.arange(len(names))
    for arm, color in enumerate((BLUE, VERMILION, GREEN)):
        height = np.array([row[:, arm].mean() for row in rows])
        low = height - np.array([row[:, arm].min() for row in rows])
        high = np.array([row[:, arm].max() for row in rows]) - height
        label = f"arm {arm + 1}, reward {toy.REWARD[arm]:g}"
        ax.bar(
            place + 0.27 * (arm - 1),
            height,
            0.25,
            color=color,
            label=label,
            yerr=np.maximum([low, high], 0),
            ecolor=GREY,
        )
    ax.set_xticks(place, [n.replace("PG, ", "PG\n").replace("E R", r"E R$_\beta$") for n in names])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, 1)
    describe(ax, "objective", "probability", legend="upper center")
    return fig


def baselines(settings: Settings) -> Figure:
    """Distance from Gibbs over the steps of the off-policy field, for five baselines."""
    run = toy.averages(settings)
    fig, (ax,) = panels(1, size=(8.2, 5.2))
    rows = zip(toy.AVERAGES, (BLUE, GREEN, PURPLE, ORANGE, VERMILION), DASHES[:5], strict=True)
    for i, (name, color, dashes) in enumerate(rows):
        label = r"b = E$_\pi$ r, without KL" if i == 4 else rf"b = E R$_\beta$ under {name}"
        band(ax, run["time"], np.maximum(run["error"][:, i], 1e-15), label, color, linestyle=dashes)
    log_axes(ax, x=True, y=True)
    ax.set_ylim(1e-15, 1e2)
    ax.set_xlim(2, run["time"][-1])
    describe(ax, "steps", r"$\max_y |\log \pi(y) - \log \pi^*(y)|$  (nats)", legend="lower left")
    return fig


def pairs(settings: Settings) -> Figure:
    """Free directions against components of the graph of pairs; IPO's target against the distance of the laws."""
    run, target = laws.graphs(settings), laws.ipo_target(settings)
    fig, (left, right) = panels(2, titles=("CoPG: free directions of the optimum", "IPO: the stated target"))
    components, counts = np.unique(np.stack([run["components"], run["nullity"]]), axis=1, return_counts=True)
    left.scatter(components[0], components[1], s=12 + 2.5 * counts / counts.mean() * 40, color=BLUE, alpha=0.8)
    span = np.array([1, 6])
    left.plot(span, span, color=GREY, linestyle="--", linewidth=1.4, label="equal")
    left.set_xticks(range(1, 7))
    left.set_yticks(range(1, 7))
    describe(left, "components of the graph of pairs", "zero eigenvalues of the Hessian", legend="upper left")
    right.scatter(target["distance"], target["two laws"], s=10, color=VERMILION, alpha=0.5, label="random laws")
    distance = 0.5 * np.abs(toy.FIRST - toy.SECOND).sum()
    right.scatter([distance], [target["bandit"]], s=140, marker="*", color=BLACK, label="the paper's bandit", zorder=3)
    log_axes(right, y=True)
    right.set_xlim(0, None)
    describe(
        right, "total variation between the two laws", "error of a probability (largest arm)", legend="lower right"
    )
    return fig
