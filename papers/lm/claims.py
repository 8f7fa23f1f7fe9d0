"""Claims and figures of the runs on language models: how they are named and sourced, and comparisons of curves."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure as Drawing
from scipy.stats import t as student

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


def gains_at_equal(
    ours: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], x: str, y: str
) -> Float[np.ndarray, "seeds"]:
    """`gain_at_equal` of the runs of each seed."""
    pairs = zip(ours[x], ours[y], other[x], other[y], strict=True)
    return np.asarray([gain_at_equal(*each) for each in pairs])


def above_zero(
    gains: Mapping[str, np.ndarray], *, runs: int, spread: str = "", note: str = ""
) -> Outcome | NotTestable:
    """Whether the mean of every gain `[seeds]` is above 0, further than the half-width of its 95 % interval.

    A mean that is below 0 by more than its half-width contradicts; between the two, these seeds cannot tell. The
    interval is Student's over seeds; one seed has none, and its sign counts.
    """
    means = {name: float(np.mean(x)) for name, x in gains.items()}
    widths = {name: _half_width(x) for name, x in gains.items()}
    each = "; ".join(f"{name}: {means[name]:+.4f} ± {widths[name]:.4f}" for name in gains)
    each += f" (95 %, {len(next(iter(gains.values())))} seeds)"
    says = f"{each}; {spread}" if spread else each
    if np.isnan(list(means.values())).any():
        return NotTestable(f"{runs} runs have paths without a common range: {says}")
    if any(abs(means[name]) <= widths[name] for name in gains) and all(means[n] > -widths[n] for n in gains):
        return NotTestable(f"{runs} runs cannot tell it from its opposite: {says}. {note}".strip())
    return Outcome(
        expected=0.0, measured=list(means.values()), relation="greater than", runs=runs, spread=says, note=note
    )


def _half_width(x: np.ndarray) -> float:
    return float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else 0.0
