"""Policies over three responses as points of a triangle, for the figures of games."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from papers.figures import BLACK, GREY

CORNERS = np.asarray([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])


def triangle(ax: Axes, names: tuple[str, str, str]) -> None:
    """The simplex and the names of its corners, without axes."""
    closed = CORNERS[[0, 1, 2, 0]]
    ax.plot(closed[:, 0], closed[:, 1], color=GREY, linewidth=1.2, linestyle="-")
    for corner, name, shift in zip(CORNERS, names, ((-0.02, -0.06), (0.02, -0.06), (0.0, 0.03)), strict=True):
        ax.text(corner[0] + shift[0], corner[1] + shift[1], name, ha="center", va="center", color=GREY)
    ax.set_aspect("equal")
    ax.set_axis_off()


def path(ax: Axes, policies: np.ndarray, label: str, color: str, **line: Any) -> None:
    """A trajectory of probabilities `[points, 3]`."""
    look: Any = {"linewidth": 1.2, "linestyle": "-"} | line
    x, y = (policies @ CORNERS).T
    ax.plot(x, y, color=color, label=label, **look)


def mark(ax: Axes, policy: np.ndarray, label: str, marker: str, size: float) -> None:
    """One policy `[3]`."""
    ax.plot(*(policy @ CORNERS), color=BLACK, marker=marker, markersize=size, linestyle="", label=label)


def turns(policies: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """How often a path `[points, ..., 3]` has gone round `centre` `[..., 3]`, signed, `[points, ...]`, from 0."""
    place = (policies - centre) @ CORNERS
    angle = np.arctan2(place[..., 1], place[..., 0])
    return (np.unwrap(angle, axis=0) - angle[0]) / (2 * np.pi)
