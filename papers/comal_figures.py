"""The figures of the COMAL page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import comal_experiments as comal
from papers import comal_magnets as magnets
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
)
from papers.record import Settings
from papers.simplex import mark, path, triangle

FLOOR = 1e-15


def synthetic(settings: Settings) -> Figure:
    """Trajectories on the simplex and original gaps."""
    run = comal.synthetic_paths(settings)
    fig, (left, right) = panels(2, titles=("Policies", "Gap of the original game"))
    triangle(left, ("a", "b", "c"))
    rows = (
        ("iter_dpo", "iterative DPO", VERMILION, "-"),
        ("iter_ipo", "iterative IPO", ORANGE, "--"),
        ("inpo", "INPO, τ = 0.1", GREEN, "-."),
    )
    for name, label, color, dashes in rows:
        path(left, run[name][:400], label, color, linestyle=dashes)
    path(left, run["comal_0"], "COMAL, τ = 0.1", BLUE, marker="o", markersize=4)
    mark(left, comal.START, "start", "s", 6)
    mark(left, magnets.NASH, "Nash", "*", 14)
    left.legend(loc="upper left", fontsize=11)
    left.set_xlim(-0.72, 1.08)
    shown = (*rows[:2], ("sppo", "SPPO", PURPLE, ":"), rows[2])
    for name, label, color, dashes in shown:
        gaps = comal.gap_of(run[name])
        right.plot(np.arange(1, len(gaps)), gaps[1:], color=color, linestyle=dashes, label=label, linewidth=1.6)
    for i, dashes in enumerate(("-", "--", ":")):
        gaps = np.maximum(comal.gap_of(run[f"comal_{i}"]), FLOOR)
        label = f"COMAL, τ = {comal.TEMPERATURES[i]:g}"
        right.plot(np.arange(1, len(gaps)), gaps[1:], color=BLUE, linestyle=dashes, label=label)
    log_axes(right, x=True, y=True)
    right.set_ylim(FLOOR / 3, 30)
    right.set_xlim(0.8, 2e4)
    describe(right, "iterations", "duality gap (win probability)", legend="lower right")
    return fig


def monotone(settings: Settings) -> Figure:
    """Divergence from equilibria along proximal paths, and the price of approximate inner solutions."""
    run = comal.proximal_paths(settings)
    fig, (left, right) = panels(2, titles=("Random games, exact steps", "Random cycles, τ = 0.1"))
    share = (run["kl"] / run["kl"][0]).mean(1)
    edges = (0.02, 0.1, 1.0, 5.0)
    bands = ((BLUE, "-"), (GREEN, "--"), (VERMILION, "-."))
    for low, high, (color, dashes) in zip(edges[:-1], edges[1:], bands, strict=True):
        chosen = (run["tau"] >= low) & (run["tau"] < high)
        label = f"τ from {low:g} to {high:g}"
        band(left, np.arange(len(share)), share[:, chosen].T, label, color, linestyle=dashes)
    left.set_ylim(0, 1.02)
    describe(left, "proximal steps k", r"KL($\pi^*\,\|\,\pi_k$) / KL($\pi^*\,\|\,\pi_0$)", legend="upper right")
    gap = np.maximum(comal.approximate(settings)["gap"], FLOOR)
    names = ("exact", *(f"{length:g}/(hτ) inner steps" for length in comal.INNER_LENGTHS))
    looks = ((BLACK, "-"), (VERMILION, "--"), (GREEN, "-."), (BLUE, ":"))
    for rows, name, (color, dashes) in zip(gap, names, looks, strict=True):
        band(right, np.arange(len(rows)), rows.T, name, color, linestyle=dashes)
    log_axes(right, y=True)
    right.set_ylim(FLOOR / 3, 10)
    describe(right, "proximal steps k", "original gap (win probability)", legend="lower left")
    return fig


def inner(settings: Settings) -> Figure:
    """Divergence over steps times h tau, with two rates."""
    run = comal.inner_loop(settings)
    fig, (ax,) = panels(1, size=(8.2, 5.2))
    grid = np.linspace(0, 12, 61)
    rows = []
    for kl, rate in zip(run["kl"].swapaxes(1, 2), run["rate"], strict=True):
        for path_kl, pull in zip(kl, rate, strict=True):
            time = -np.log1p(-np.minimum(pull, 1 - 1e-12)) * np.arange(len(path_kl))
            logs = np.log(np.maximum(path_kl / path_kl[0], 1e-14))
            rows.append(np.where(grid <= time[-1], np.exp(np.interp(grid, time, logs)), np.nan))
    shares = np.stack(rows)
    ax.plot(grid, np.exp(-grid / 2), color=BLACK, linestyle="--", label="rate of Theorem 2, 1 − ητ/2")
    ax.plot(grid, np.exp(-grid), color=PURPLE, linestyle="-.", label="without its half, 1 − ητ")
    ax.plot(grid, np.nanmax(shares, 0), color=VERMILION, linestyle=":", label="largest of the games")
    band(ax, grid, shares, "median and 10–90 % band", BLUE)
    log_axes(ax, y=True)
    ax.set_ylim(1e-12, 3)
    describe(
        ax,
        "−k log(1 − ητ), about k η τ",
        r"KL($\pi^*_\tau\,\|\,\mu_k$) / KL($\pi^*_\tau\,\|\,\mu_0$)",
        legend="lower left",
    )
    return fig


def magnets_moved(settings: Settings) -> Figure:
    """Gaps over moves of the magnet, and two lengths over h tau."""
    gap = np.maximum(magnets.table(settings)["gap"], FLOOR)
    fig, (left, right) = panels(2, titles=("Gap over moves of the magnet", "Inner length over hτ"))
    looks = ((BLUE, "-"), (GREEN, "--"), (VERMILION, "-."))
    for rows, length, (color, dashes) in zip(gap, magnets.TABLE, looks, strict=True):
        left.plot(rows, color=color, linestyle=dashes, label=f"{length} inner steps")
    log_axes(left, y=True)
    describe(left, "moves of the magnet", "original gap (win probability)", legend="lower left")
    run = magnets.scaling(settings)
    for name, label, color, marker in (
        ("cheapest", "most progress per step", BLUE, "o"),
        ("stable", "shortest that converges", VERMILION, "s"),
    ):
        right.plot(magnets.PULLS, run[f"{name}_linear"], color=color, linestyle="-", linewidth=1.4)
        right.plot(magnets.PULLS, run[name], color=color, marker=marker, linestyle="", label=label)
    ends = magnets.PULLS[[0, -1]]
    right.plot(ends, 1.87 / ends, color=GREY, linestyle=":", linewidth=1.4, label="∝ 1/(hτ)")
    right.plot(ends, np.sqrt(3 / ends), color=GREY, linestyle="--", linewidth=1.4, label="√(3/(hτ))")
    log_axes(right, x=True, y=True)
    describe(right, "hτ", "inner steps between moves", legend="upper right")
    return fig
