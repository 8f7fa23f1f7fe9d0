"""The survey's figure: oracle calls over the temperature."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from papers import game_survey_runs as runs
from papers.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, band, describe, log_axes, panels
from papers.record import Settings

LOOKS = {
    "egpo": (BLUE, "-", "o"),
    "omd": (VERMILION, "--", "s"),
    "nash_rs": (GREEN, "-.", "^"),
    "nash_ema": (PURPLE, (0, (5, 1)), "D"),
    "nash_md": (ORANGE, ":", "v"),
    "comal": (BLUE, "-", "o"),
    "mpo": (VERMILION, "--", "s"),
    "onpo": (SKY, "-.", "^"),
}


def _calls(
    ax: Axes, tau: np.ndarray, calls: np.ndarray, name: str, most: float, quantiles: tuple[float, float] = (0.1, 0.9)
) -> None:
    """Median and band; a game that does not arrive counts as `most`, and no point is drawn where most do not."""
    shown = np.where(np.isinf(calls), most, np.maximum(calls, 1)).T
    arrived = np.isfinite(np.median(calls, -1))
    color, dashes, marker = LOOKS[name]
    band(
        ax, tau[arrived], shown[:, arrived], runs.NAMES[name], color,
        quantiles=quantiles, linestyle=dashes, marker=marker, markersize=5,
    )  # fmt: skip


def oracle_calls(settings: Settings) -> Figure:
    """Left: to a regularised gap of 1e-6. Right: to an original gap of 1e-4."""
    tau = runs.temperatures(settings)
    regularised, original = runs.regularised_calls(settings), runs.original_calls(settings)
    titles = ("To a gap of $10^{-6}$ in the game at τ", "To a gap of $10^{-4}$ in the game without KL")
    fig, (left, right) = panels(2, titles=titles, size=(6.4, 5.4))
    for name in runs.REGULARISED:
        _calls(left, tau, regularised[name], name, np.inf)
    low = tau[tau <= 3 * runs.SMALL]
    for name, power, text, factor in (("egpo", -1, "1/τ", 0.4), ("omd", -2, "1/τ²", 5.0)):
        guide = factor * np.median(regularised[name][0]) * (low / low[0]) ** power
        left.plot(low, guide, color=GREY, linestyle="--", linewidth=1.3)
        left.annotate(text, (low[-1], guide[-1]), xytext=(5, 0), textcoords="offset points", color=GREY, va="center")
    most = runs.longest(settings, "original")
    for name in ("comal", "mpo", "onpo"):
        _calls(right, tau, original[name], name, most, (0.25, 0.75))
    right.axhline(most, color=GREY, linestyle="--", linewidth=1.3)
    right.annotate(
        f"MWU, average policy: in no game by {most:,}", (1, most), xycoords=("axes fraction", "data"),
        xytext=(-4, 5), textcoords="offset points", ha="right", va="bottom", color=GREY, fontsize=11,
    )  # fmt: skip
    for ax in (left, right):
        log_axes(ax, x=True, y=True)
    top = max(np.max(x[np.isfinite(x)]) for x in regularised.values())
    left.set_ylim(1, 200 * top)
    right.set_ylim(300, 60 * most)
    describe(left, "temperature τ", "calls of the preference oracle", legend="upper right")
    describe(right, "temperature τ (ONPO has none)", "", legend="upper right")
    return fig
