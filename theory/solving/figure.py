"""The matrix as a heat map beside the equilibria as bars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from theory.solving.reading import SolveError
from theory.solving.words import ordered

# The style of the papers' figures: Okabe and Ito's colours, told apart by colour-blind readers.
PALETTE = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#CC79A7")
LIMIT = "#D55E00"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": True,
    "legend.edgecolor": "#DDDDDD",
    "svg.hashsalt": "alignjax",
}
NUMBERED_UP_TO = 12


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def draw(report: Mapping[str, Any], preference: np.ndarray, path: Path, top: int) -> None:
    """Writes the figure of the first `top` actions, in the order of the table."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SolveError("a figure needs matplotlib: pip install 'alignjax[docs]'") from error
    names = ordered(report)[:top]
    place = {name: i for i, name in enumerate(report["names"])}
    order = [place[name] for name in names]
    size = len(names)
    height = max(4.2, 1.8 + 0.42 * size)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(height + 8.2, height), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(height - 0.4, 6.6))
        _matrix(left, preference[np.ix_(order, order)], names)
        _bars(right, report, names)
        more = report["num_actions"] - size
        if more > 0:
            figure.supxlabel(f"the first {size} of {report['num_actions']} actions", fontsize=11, color="#6B6B6B")
        metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(path, dpi=140, metadata=metadata[path.suffix.lower()])


def _matrix(ax: Any, matrix: np.ndarray, names: list[str]) -> None:
    mesh = ax.imshow(matrix, cmap="PuOr_r", vmin=0, vmax=1, aspect="equal")
    ticks = range(len(names))
    ax.set_xticks(ticks, [_short(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, [_short(name) for name in names])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title("P(row beats column)")
    if len(names) <= NUMBERED_UP_TO:
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                dark = abs(value - 0.5) > 0.3
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9, color="white" if dark else "black")
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.8)
    bar.outline.set_visible(False)


def _bars(ax: Any, report: Mapping[str, Any], names: list[str]) -> None:
    shown = report["regularised"][-3:]
    series = [(f"τ = {row['tau']:g}", row["policy"], PALETTE[i]) for i, row in enumerate(shown)]
    series.append(("τ → 0", report["limit"]["policy"], LIMIT))
    for i, given in enumerate(report["policies"][:2]):
        series.append((_short(given["policy"], 28), given["probabilities"], ("#6B6B6B", "#000000")[i]))
    centres, width = np.arange(len(names)), 0.8 / len(series)
    for n, (label, policy, colour) in enumerate(series):
        offset = (n - (len(series) - 1) / 2) * width
        ax.barh(centres + offset, [policy[name] for name in names], height=0.9 * width, color=colour, label=label)
    reference = [report["reference"]["policy"][name] for name in names]
    for centre, value in zip(centres, reference, strict=True):
        ax.plot([value, value], [centre - 0.42, centre + 0.42], color="#6B6B6B", linestyle="--", linewidth=1.2,
                label="reference" if centre == 0 else None)  # fmt: skip
    ax.set_yticks(centres, [_short(name) for name in names])
    ax.invert_yaxis()
    ax.set_xlim(0)
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("probability")
    ax.set_title("equilibria of the regularised game")
    ax.legend(loc="best", fontsize=10)
