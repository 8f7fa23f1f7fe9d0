"""One style for every figure: palette, sizes, bands over runs, log axes, direct labels; same runs, same files.

Figures are made without pyplot, so that no backend is chosen for whoever imports this. Take
`fig, axes = panels(2, titles=...)`, draw, return `fig`; the harness opens `style()` around the drawing and saves it.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
"""Okabe and Ito's colours, told apart by colour-blind readers; their yellow is left out, which is faint on white."""
GREY = "#6B6B6B"
"""For references, bounds and guides."""
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
"""The i-th line has the i-th colour and the i-th dashes, so that a grey print still tells them apart."""
COLOUR_MAP = "cividis"
"""For heat maps: even in lightness and safe for colour-blind readers."""

PANEL_SIZE = (6.4, 4.5)
"""Width and height of one panel, in inches."""
DPI = 160

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=LINE_STYLES),
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "lines.linewidth": 2.2,
    "lines.markersize": 6,
    "legend.fontsize": 12,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "#DDDDDD",
    "legend.handlelength": 2.4,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "image.cmap": COLOUR_MAP,
    "mathtext.fontset": "dejavusans",
    "savefig.dpi": DPI,
    "svg.fonttype": "path",
    "svg.hashsalt": "alignjax",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The style, for as long as the block runs."""
    with matplotlib.rc_context(STYLE):
        yield


def panels(
    n: int = 1,
    *,
    titles: Sequence[str] = (),
    columns: int | None = None,
    size: tuple[float, float] = PANEL_SIZE,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, row by row, at most two to a row unless `columns` says so; `size` is one panel's."""
    columns = min(n, 2 if columns is None else columns)
    rows = math.ceil(n / columns)
    with style():
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
        axes = list(grid[:n])
        for unused in grid[n:]:
            unused.remove()
        for ax, title in zip(axes, titles, strict=False):
            ax.set_title(title)
    return figure, axes


def describe(ax: Axes, x: str, y: str, *, title: str = "", legend: bool | str = True) -> None:
    """Axis labels (with units), a title, and a legend where something has a label; `legend` may be its place."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title)
    if legend and ax.get_legend_handles_labels()[0]:
        place: Any = legend if isinstance(legend, str) else "best"
        ax.legend(loc=place)


def band(
    ax: Axes,
    x: Any,
    runs: Any,
    label: str = "",
    color: str | None = None,
    *,
    quantiles: tuple[float, float] = (0.1, 0.9),
    **line: Any,
) -> tuple[Line2D, PolyCollection]:
    """The median over runs `[runs, points]` and the band between two quantiles; a single run `[points]` is a line.

    NaN (a run that stopped early) is left out of the quantiles; a point without any run is left blank.
    """
    runs = np.asarray(runs, float)
    runs = runs[None] if runs.ndim == 1 else runs
    if runs.ndim != 2:
        raise ValueError(f"runs must be [runs, points], got shape {runs.shape}")
    low, middle, high = np.full((3, runs.shape[1]), np.nan)
    seen = ~np.isnan(runs).all(0)
    low[seen], middle[seen], high[seen] = np.nanquantile(runs[:, seen], [quantiles[0], 0.5, quantiles[1]], axis=0)
    if color:
        line["color"] = color
    (drawn,) = ax.plot(x, middle, label=label or None, **line)
    filled = ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    return drawn, filled


def log_axes(ax: Axes, *, x: bool = False, y: bool = False) -> None:
    """Logarithmic axes with a tick at each decade and none in between labelled."""
    for wanted, axis, scale in ((x, ax.xaxis, ax.set_xscale), (y, ax.yaxis, ax.set_yscale)):
        if wanted:
            scale("log")
            axis.set_major_locator(LogLocator(base=10, numticks=8))
            axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=100))
            axis.set_minor_formatter(NullFormatter())


def reference_line(ax: Axes, value: float, text: str, *, vertical: bool = False, color: str = GREY) -> None:
    """A dashed guide across the panel with its text beside it: a bound, an equilibrium value."""
    if vertical:
        ax.axvline(value, color=color, linestyle="--", linewidth=1.4)
        ax.annotate(
            text,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(5, -4),
            textcoords="offset points",
            va="top",
            color=color,
            fontsize=12,
        )
    else:
        ax.axhline(value, color=color, linestyle="--", linewidth=1.4)
        ax.annotate(
            text,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=color,
            fontsize=12,
        )


def direct_labels(ax: Axes, lines: Mapping[str, Line2D], *, gap: float = 1.2) -> None:
    """The name of each line at its right end, in its colour, moved apart where they would meet: no legend to look up.

    Call it last, when scales and limits are set. `gap` is the least distance in font sizes.
    """
    size = float(matplotlib.rcParams["font.size"])
    per_point = ax.figure.dpi / 72
    ends = {}
    for text, line in lines.items():
        x, y = (np.asarray(values, float) for values in line.get_data())
        finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if finite.size:
            ends[text] = np.asarray(ax.transData.transform((x[finite[-1]], y[finite[-1]])))
    below = -math.inf
    for text, end in sorted(ends.items(), key=lambda item: item[1][1]):
        height = max(end[1], below + gap * size * per_point)
        below = height
        ax.annotate(
            text,
            tuple(ax.transData.inverted().transform(end)),
            xytext=(6, (height - end[1]) / per_point),
            textcoords="offset points",
            va="center",
            color=lines[text].get_color(),
            annotation_clip=False,
        )


def heat_map(
    ax: Axes, x: Any, y: Any, values: Any, label: str, *, log: bool = False, limits: tuple[float, float] | None = None
) -> Any:
    """`values [len(y), len(x)]` as colours over a grid, with a labelled colour bar."""
    low, high = limits or (None, None)
    norm = LogNorm(low, high) if log else Normalize(low, high)
    mesh = ax.pcolormesh(
        np.asarray(x), np.asarray(y), np.asarray(values), shading="nearest", norm=norm, rasterized=True
    )
    ax.grid(False)
    bar = ax.figure.colorbar(mesh, ax=ax)
    bar.set_label(label)
    return mesh


def render(figure: Figure) -> dict[str, bytes]:
    """`{"png": ..., "svg": ...}`, the same bytes for the same figure: no dates, no versions, no random ids."""
    files = {}
    with style():
        for suffix, metadata in (
            ("png", {"Software": None}),
            ("svg", {"Date": None, "Creator": None}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=DPI, metadata=metadata)
            files[suffix] = buffer.getvalue()
    return files


def save(figure: Figure, stem: Path) -> None:
    """Writes stem.png and stem.svg, for a look at a figure outside the harness."""
    for suffix, data in render(figure).items():
        stem.with_suffix(f".{suffix}").write_bytes(data)
