"""The figures of the MNPO page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import mnpo_games as games
from papers import mnpo_losses as losses
from papers import mnpo_table as table
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
from papers.nash_md_figures import _CORNERS, _simplex
from papers.record import Settings

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)
DASHES = ("-", "--", "-.")
RESPONSES = ("response 1", "response 2", "response 3")


def players(settings: Settings) -> Figure:
    """Two and three players on the cycle: the first take turns in two runs of self-play, the others become one."""
    run = games.dynamics(settings)
    fig, (left, right) = panels(2, titles=("Two players change places", "Three merge within a few steps"))
    for ax in (left, right):
        _simplex(ax, RESPONSES)
    steps = np.arange(games.STEPS + 1)
    for i, (colour, marker) in enumerate(zip(COLOURS[:2], "o^", strict=True)):
        orbit = run["path"][0][steps, (steps + i) % 2] @ _CORNERS
        left.plot(*orbit.T, color=GREY, linewidth=1.2, linestyle=DASHES[i], label=f"self-play {i + 1}")
        shown = run["path"][0][::27, i] @ _CORNERS  # an odd stride: now in one run, now in the other
        left.plot(*shown.T, color=colour, linestyle="", marker=marker, markersize=6, label=f"player {i + 1}")
    for i, colour in enumerate(COLOURS[:3]):
        points = run["path"][1][:, i] @ _CORNERS
        right.plot(*points.T, color=colour, linewidth=1.4, linestyle="-")
        right.plot(*points[0], color=colour, marker="s", markersize=9, linestyle="", label=f"player {i + 1}, start")
    for ax in (left, right):
        ax.plot(*(run["nash"] @ _CORNERS), color=BLACK, marker="*", markersize=14, linestyle="", label="Nash, no KL")
        ax.set_xlim(-0.25, 1.15)
        ax.legend(loc="upper left", fontsize=10)
    return fig


def gaps(settings: Settings) -> Figure:
    """Gaps of averages and last policies, without regularisation and in the game of Eq. 7."""
    run = games.dynamics(settings)
    fig, (left, right) = panels(
        2, titles=("Game without KL: averages converge", "Game of Eq. 7: they do not"), sharey=True
    )
    for row, n in enumerate(games.PLAYERS):
        colour, dashes = COLOURS[row], DASHES[row]
        band(left, run["time"], run["average"][row].T, f"average, n = {n}", colour, linestyle=dashes)
        left.plot(run["time"], np.median(run["last"][row], -1), color=colour, linewidth=0.8, linestyle=":")
        band(right, run["time"], run["regularised"][row].T, f"average, n = {n}", colour, linestyle=dashes)
    left.plot([], [], color=GREY, linewidth=0.8, linestyle=":", label="last policies (medians)")
    for ax in (left, right):
        log_axes(ax, x=True, y=True)
        ax.set_ylim(1e-4, 2)
    describe(left, "steps T", "duality gap (win probability)", legend="lower left")
    describe(right, "steps T", "", legend="lower left")
    return fig


def plackett_luce(settings: Settings) -> Figure:
    """The best response's mass and a player's chance to win, over the number of players."""
    run, n = games.races(), np.asarray(games.RACES)
    fig, (left, right) = panels(2, titles=("Mass on the best response", "A player's chance to win"))
    rows = (
        ("policy", "Plackett–Luce, τ = 0.1", VERMILION, "o", "-"),
        ("scaled", "Plackett–Luce, τ = 0.1 · 4(n − 1)/n²", BLUE, "s", "--"),
    )
    for name, label, colour, marker, dashes in rows:
        left.plot(n, run[name][:, -1], color=colour, marker=marker, linestyle=dashes, label=label)
    two = run["policy"][0, -1]
    left.plot(n, np.full(len(n), two), color=GREEN, linestyle=":", marker="^", label="mean of pairs, τ = 0.1")
    reference_line(left, run["rlhf"][-1], "RLHF, e^(R/τ)")
    left.set_ylim(0.3, 1.05)
    right.plot(n, run["own"], color=VERMILION, marker="o", label="Plackett–Luce: 1/n")
    right.plot(n, np.full(len(n), 0.5), color=GREEN, linestyle=":", marker="^", label="mean of pairs: 1/2")
    right.set_ylim(0, 0.6)
    for ax in (left, right):
        ax.set_xticks(n)
        describe(ax, "players n", "probability", legend="lower left")
    return fig


def selection(settings: Settings) -> Figure:
    """Basins of the opposite annotators' equilibria, and where play ends over the temperature."""
    run, paths = games.basins(settings), games.branches(settings)
    fig, (left, right) = panels(
        2, titles=("Where player 1 starts decides", "Three ends at low temperature, one at high")
    )
    _simplex(left, RESPONSES)
    size = 9 * (60 / np.sqrt(2 * len(run["start"]))) ** 2
    for end, colour, marker in zip((0, 1, 2), COLOURS, "os^", strict=False):
        points = run["start"][run["end"] == end] @ _CORNERS
        left.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            color=colour,
            marker=marker,
            label=f"ends at response {end + 1}",
            linewidths=0,
        )
    rest = run["start"][run["end"] < 0] @ _CORNERS
    left.scatter(rest[:, 0], rest[:, 1], s=size, color=BLACK, marker="x", label="stays in the middle")
    left.set_xlim(-0.4, 1.15)
    left.legend(loc="upper left", fontsize=10, markerscale=1.5)
    ends = np.sort(paths["last"], -1)[..., ::-1]
    tau = np.repeat(paths["tau"], ends.shape[1])
    rows = zip(("largest", "middle", "smallest"), COLOURS, "os^", strict=False)
    for y, (name, colour, marker) in enumerate(rows):
        right.plot(tau, ends[..., y].ravel(), color=colour, marker=marker, markersize=5, linestyle="", label=name)
    last = paths["tau"][(ends[..., 0] > 0.4).any(-1)].max()
    reference_line(right, last, f"τ ≈ {last:.2f}", vertical=True)
    right.set_ylim(-0.04, 1.14)
    describe(right, "temperature τ", "player 1's probabilities at the end", legend="center left")
    return fig


def proposition(settings: Settings) -> Figure:
    """Distances between the two minimisers under three recipes, and the counterexample with three responses."""
    run, small = losses.proposition(settings), losses.counterexamples()
    fig, (left, right) = panels(2, titles=("Labels against win-rates", "Rock, paper, scissors"))
    rows = (
        ("printed", "as printed", VERMILION, "-"),
        ("opponents", "constant right", ORANGE, "--"),
        ("corrected", "both right", BLUE, "-."),
    )
    for name, label, colour, dashes in rows:
        values = np.sort(np.maximum(run[name].ravel(), 1e-17))
        left.plot(values, np.linspace(0, 1, len(values)), color=colour, linestyle=dashes, label=label)
    log_axes(left, x=True)
    left.set_xlim(1e-17, 1)
    describe(left, "KL between the two minimisers (nats)", "share of games", legend="center")
    place = np.arange(3)
    bars = (
        (np.asarray([0.5, 0.25, 0.25]), "opponent's policy", GREY, -1),
        (small["opponents_ten"], "Eq. 10 (win-rates)", BLUE, 0),
        (small["opponents_hard"], "Eq. 15 (labels)", VERMILION, 1),
    )
    for values, label, colour, shift in bars:
        right.bar(place + 0.27 * shift, values, 0.25, color=colour, label=label)
    right.set_xticks(place, ["rock", "paper", "scissors"])
    right.grid(axis="x", visible=False)
    right.set_ylim(0, 0.65)
    describe(right, "response", "probability after one step", legend="upper right")
    return fig


def rows(settings: Settings) -> Figure:
    """Relative errors of the rows of Table 1."""
    run = table.errors(settings)
    fig, (ax,) = panels(1, size=(8.2, 5.4))
    place = np.arange(len(table.NAMES))[::-1]
    finite = np.isfinite(run["printed"])
    ax.barh(place[finite] + 0.2, run["printed"][finite], 0.36, color=VERMILION, label="as printed, β = 0.3, h = 0.7")
    ax.barh(place[finite] - 0.2, run["unit"][finite], 0.36, color=ORANGE, label="as printed, β = h = 1")
    ax.barh(place[~finite], 1.0, 0.76, color="none", edgecolor=VERMILION, hatch="//")
    for y in place[~finite]:
        ax.text(0.5, y, "the loss is infinite", ha="center", va="center", backgroundcolor="white")
    ax.plot(run["corrected"], place, color=BLUE, marker="D", linestyle="", label="corrected", clip_on=False)
    ax.set_yticks(place, table.NAMES)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1)
    title = "Table 1: eight of nine rows need a correction"
    assert (run["printed"] > 1e-10).sum() == 8
    describe(ax, "relative error of the gradient (best factor)", "", title=title, legend=False)
    ax.set_ylabel("row of the table")
    fig.legend(loc="outside lower center", ncols=3, fontsize=11)
    return fig
