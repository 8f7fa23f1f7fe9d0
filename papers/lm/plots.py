"""Curves of runs: measures over steps, and one measure against another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from papers.figures import BLACK, BLUE, GREEN, GREY, LINE_STYLES, ORANGE, PURPLE, SKY, VERMILION, band

Runs = Mapping[str, Mapping[str, np.ndarray]]
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
MARKERS = "os^Dv*PX"


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of the i-th curve."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def over_steps(ax: Axes, runs: Runs, name: str, labels: Sequence[str] | None = None) -> None:
    """Median over seeds and the band from the lowest to the highest run."""
    for index, label in enumerate(runs if labels is None else labels):
        one = runs[label]
        band(ax, one["step"][0], one[name], label, quantiles=(0.0, 1.0), **look(index))


def against(ax: Axes, runs: Runs, x: str, y: str, labels: Sequence[str] | None = None) -> None:
    """The path of the medians over seeds; a mark at its end, and a small one for the end of each run."""
    for index, label in enumerate(runs if labels is None else labels):
        one, style = runs[label], look(index)
        ax.plot(np.median(one[x], 0), np.median(one[y], 0), label=label, linewidth=1.8, **style)
        marker = MARKERS[index % len(MARKERS)]
        ax.plot(np.median(one[x], 0)[-1], np.median(one[y], 0)[-1], marker=marker, linestyle="", color=style["color"])
        if len(one[x]) > 1:
            ax.plot(one[x][:, -1], one[y][:, -1], marker=marker, markersize=3, linestyle="", color=style["color"])


def ends(ax: Axes, runs: Runs, x: str, y: str, label: str, index: int, points: int = 3) -> None:
    """Where runs end, one mark a setting with the range over seeds, joined in the order of x."""
    from papers.lm.runs import last

    at = np.asarray([np.median(last(one[x], points)) for one in runs.values()])
    values = [last(one[y], points) for one in runs.values()]
    middle = np.asarray([np.median(v) for v in values])
    spread = np.asarray([[m - v.min(), v.max() - m] for m, v in zip(middle, values, strict=True)]).T
    order = np.argsort(at)
    style = look(index)
    ax.errorbar(
        at[order], middle[order], spread[:, order], label=label, marker=MARKERS[index % len(MARKERS)], capsize=3,
        **style,
    )  # fmt: skip
