"""Claims and figures of the runs on language models: how they are named and sourced, and comparisons of curves."""

import dataclasses
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure as Drawing

from alignjax.record import Source
from papers.lm.runs import Experiment
from papers.record import Claim, Figure, NotTestable, Outcome, Settings, Verdict

Made = Callable[..., Claim]


def claim_of(paper: str, source: Source) -> Made:
    """A maker of the claims of one paper."""

    def claim(
        name: str,
        where: str,
        says: str,
        how: str,
        test: Callable[[Settings], Outcome | NotTestable],
        *,
        stands: Verdict = "reproduced",
        full_only: bool = False,
    ) -> Claim:
        return Claim(
            id=f"{paper}.lm-{name}", says=says, how=how, source=dataclasses.replace(source, equation=where), test=test,
            stands=stands, full_only=full_only,
        )  # fmt: skip

    return claim


def figure_of(paper: str) -> Callable[..., Figure]:
    """A maker of the figures of one paper; the page says which runs each is drawn from."""

    def figure(
        name: str,
        title: str,
        caption: str,
        draw: Callable[[Settings], Drawing],
        *experiments: Callable[[Settings], Experiment],
        full_only: bool = False,
    ) -> Figure:
        says = lambda settings: "; ".join(experiment(settings).says() for experiment in experiments)
        return Figure(id=f"lm-{name}", title=title, caption=caption, draw=draw, runs=says, full_only=full_only)

    return figure


def gain_at_equal(x: np.ndarray, y: np.ndarray, other_x: np.ndarray, other_y: np.ndarray) -> float:
    """The mean of y - other_y over the x that both paths reach, `[points]` each.

    A path may go back and forth: at each x it has the mean of its y at its nearest points, by interpolation over its
    points in the order of x. NaN where the paths have no x in common.
    """
    low, high = max(x.min(), other_x.min()), min(x.max(), other_x.max())
    if not low < high:
        return float("nan")
    grid = np.linspace(low, high, 50)[1:]
    first, second = np.argsort(x), np.argsort(other_x)
    return float(np.mean(np.interp(grid, x[first], y[first]) - np.interp(grid, other_x[second], other_y[second])))
