"""The figures of the INPO page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import inpo_experiments as runs
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
from papers.nash_md_figures import _CORNERS as CORNERS
from papers.nash_md_figures import _simplex as simplex
from papers.record import Settings


def cycles(settings: Settings) -> Figure:
    """Iterative IPO circles, INPO goes in."""
    run = runs.cycles(settings)
    fig, (left, right) = panels(2, titles=("Trajectories on one cycle", "Gaps on random cycles"))
    simplex(left, ("response 1", "response 2", "response 3"))
    circle, inward = run["path_ipo"][:900] @ CORNERS, run["path_inpo"] @ CORNERS
    left.plot(*circle.T, color=VERMILION, linewidth=1.2, linestyle="-", label="iterative IPO (no KL)")
    left.plot(*inward.T, color=BLUE, linewidth=1.6, linestyle="-", label="INPO, τ = 0.05")
    left.plot(*circle[0], marker="s", color=BLACK, linestyle="", label="start")
    left.plot(*(run["nash"] @ CORNERS), marker="*", markersize=15, color=BLACK, linestyle="", label="Nash at τ = 0.05")
    left.plot(
        *(run["winner"] @ CORNERS), marker="+", markersize=12, markeredgewidth=2, color=BLACK, linestyle="",
        label="Nash without KL",
    )  # fmt: skip
    left.legend(loc="upper left", fontsize=11)
    left.set_xlim(-0.62, 1.1)
    kept = np.unique(np.linspace(0, len(run["ipo"]) - 1, 300).astype(int))
    for name, label, color, dashes in (
        ("ipo", "iterative IPO, gap without KL", VERMILION, "--"),
        ("inpo_original", "INPO, gap without KL", PURPLE, "-."),
        ("inpo", "INPO, gap with KL", BLUE, "-"),
    ):
        band(right, kept, np.maximum(run[name][kept].T, 1e-16), label, color, linestyle=dashes)
    log_axes(right, y=True)
    describe(right, "iterations", "duality gap (win probability)", legend="lower left")
    return fig


def theorem(settings: Settings) -> Figure:
    """Theorem 4's schedule against its bound, and constant steps against the linear rate."""
    run, constant = runs.last_iterate(settings), runs.constant_steps(settings)
    fig, (left, right) = panels(2, titles=("Theorem 4: decaying steps", "Constant steps"))
    scaled = (run["kl"][1:] * run["tau"] ** 2).T
    horizon = np.arange(1, scaled.shape[1] + 1)
    left.plot(horizon, 32 / (horizon + 1), color=BLACK, linestyle="--", label="bound, 32 / (T + 1)")
    left.plot(horizon, scaled.max(0), color=VERMILION, linestyle=":", label="largest of the games")
    band(left, horizon, np.maximum(scaled, 1e-14), "median and 10–90 % band", BLUE)
    log_axes(left, x=True, y=True)
    left.set_ylim(1e-12, 1e7)
    describe(left, "iterations T", r"$\tau^2\,$KL$(\pi^*\,\|\,\pi_T)$  (nats)", legend="upper right")
    groups = ((0.01, 0.1, BLUE, "o", "-"), (0.1, 1.0, GREEN, "s", "--"), (1.0, 10.1, ORANGE, "^", "-."))
    for low, high, color, marker, dashes in groups:
        inside = (constant["tau"] >= low) & (constant["tau"] < high)
        worst = constant["excess"][:, inside].max(-1)
        label = f"τ from {low:g} to {min(high, 10):g}"
        right.plot(runs.MULTIPLES, worst, color=color, marker=marker, linestyle=dashes, label=label)
    right.set_xscale("log", base=2)
    right.set_xticks(runs.MULTIPLES, [f"{m:g}" for m in runs.MULTIPLES])
    reference_line(right, 1.0, "1 − hτ")
    right.axvline(1.0, color=GREY, linestyle="--", linewidth=1.4)
    describe(right, "h / (1 − hτ), in units of 4τ", "largest factor, over 1 − hτ", legend="upper left")
    return fig


def pairs(settings: Settings) -> Figure:
    """What the law of the pairs does, and how many are needed."""
    run, samples = runs.pairs(settings), runs.sample_complexity(settings)
    fig, (left, right) = panels(2, titles=("Where the iteration ends", "One step from N labelled pairs"))
    rows = (
        ("iid", "two draws,\nlabels by chance", BLUE),
        ("argmax", "two draws,\nlikelier winner", VERMILION),
        ("best", f"best and worst\nof {runs.DRAWS}", ORANGE),
    )
    values = [run[f"kl_{name}"] for name, _, _ in rows] + [run["kl_ref"]]
    boxes = left.boxplot(values, whis=(10, 90), showfliers=False, patch_artist=True, widths=0.55)
    for box, color in zip(boxes["boxes"], [color for *_, color in rows] + [GREY], strict=True):
        box.set_facecolor(color)
        box.set_alpha(0.6)
    for line in boxes["medians"]:
        line.set_color(BLACK)
    left.set_xticks(range(1, 5), [label for _, label, _ in rows] + ["(the\nreference)"], fontsize=10.5)
    left.grid(axis="x", visible=False)
    describe(left, "the compared responses", "KL(Nash ‖ last iterate)  (nats)", legend=False)
    sizes = runs.sample_sizes(settings)
    band(right, sizes, samples["kl"].T, "median and 10–90 % band", BLUE, marker="o")
    middle = np.median(samples["kl"], -1)
    right.plot(sizes, middle[0] * sizes[0] / sizes, color=GREY, linestyle="--", label="proportional to 1/N")
    log_axes(right, x=True, y=True)
    describe(right, "labelled pairs N", "KL(mirror step ‖ estimate)  (nats)", legend="upper right")
    return fig


def practice(settings: Settings) -> Figure:
    """Exact iterates at the constants of practice, and the average's gap over the horizon."""
    run, average = runs.practice(settings), runs.averages(settings)
    fig, (left, right) = panels(2, titles=("η = 0.005, τ = η / 3, exact steps", "Theorem 3: the average policy"))
    band(left, np.arange(len(run["gap"])), run["gap"].T, "median and 10–90 % band", VERMILION, marker="o", markersize=4)
    reference_line(left, float(np.median(run["gap"][0])), "the reference, in the median game")
    left.set_ylim(0, 1.15)
    describe(left, "iterations", "regularised duality gap", legend="upper right")
    horizon = np.asarray(runs.horizons(settings))
    for row, (tau, color, dashes) in enumerate(((0.01, BLUE, "-"), (0.1, GREEN, "-."))):
        band(right, horizon, average["gap"][row].T, f"τ = {tau:g}", color, linestyle=dashes, marker="o", markersize=4)
    guide = np.median(average["gap"][0, 0]) * np.sqrt(horizon[0] / horizon)
    right.plot(horizon, guide, color=GREY, linestyle="--", label=r"proportional to 1/$\sqrt{T}$")
    log_axes(right, x=True, y=True)
    describe(right, "iterations T, each with its own step", "gap of the average policy", legend="lower left")
    return fig
