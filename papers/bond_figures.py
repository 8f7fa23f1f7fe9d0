"""The figures of the BOND page, drawn from the cached runs of its claims."""

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.best_of import best_of_n_kl, effective_n
from papers import bond_anchors as anchors
from papers import bond_laws as laws
from papers import bond_training as training
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
from papers.record import Settings

WEIGHTS = (
    ("w = 0, forward KL alone", VERMILION, "--"),
    ("w = 1/2", BLUE, "-"),
    ("w = 1, backward KL alone", GREEN, "-."),
)


def _divergences(run: training.Runs) -> Figure:
    """N = 8: the two divergences and the log-quantile over steps, and one divergence against the other."""
    titles = ("Backward KL", "Forward KL", "Log-quantile", "Both, median path")
    fig, axes = panels(4, titles=titles)
    labels = ("KL(π ‖ best-of-8)  (nats)", "KL(best-of-8 ‖ π)  (nats)", "E log p≤  (nats)")
    for w, (name, color, dashes) in enumerate(WEIGHTS):
        for ax, row in zip(axes[:3], range(3), strict=True):
            values = run["divergence"][:, row, 1, w]
            band(ax, run["step"], values.T, name, color, linestyle=dashes)
        path = np.median(run["divergence"][:, :2, 1, w], -1)
        axes[3].plot(*path.T, color=color, linestyle=dashes, label=name)
        axes[3].plot(*path[-1], color=color, marker="o", linestyle="")
    for ax in axes[:2]:
        log_axes(ax, y=True)
    log_axes(axes[3], x=True, y=True)
    places: tuple[bool | str, ...] = (False, "upper right", "lower right")
    for ax, label, legend in zip(axes[:3], labels, places, strict=True):
        describe(ax, "updates", label, legend=legend)
    describe(axes[3], "backward KL  (nats)", "forward KL  (nats)", legend=False)
    return fig


def exact(settings: Settings) -> Figure:
    """Exact gradients."""
    return _divergences(training.exact(settings))


def sampled(settings: Settings) -> Figure:
    """Sixteen prompts and sixteen samples of the reference a step."""
    return _divergences(training.sampled(settings))


def restricted(settings: Settings) -> Figure:
    """Policies of the first bandit, and both divergences over the weight."""
    run = training.restricted(settings)
    fig, (left, right) = panels(2, titles=("Nearest Gaussians, one bandit", "The trade-off"))
    left.fill_between(training.POINTS, run["target"][0], color=GREY, alpha=0.35, linewidth=0, label="best-of-8")
    for row, (name, color, dashes) in zip((0, 2, 4), WEIGHTS, strict=True):
        left.plot(training.POINTS, run["policy"][row, 0], color=color, linestyle=dashes, label=name.split(",")[0])
    left.set_ylim(0, run["target"][0].max() * 1.7)
    describe(left, "response", "probability", legend="upper left")
    rows = ((0, "KL(π ‖ best-of-8)", BLUE, "-", "o"), (1, "KL(best-of-8 ‖ π)", VERMILION, "--", "s"))
    for row, name, color, dashes, marker in rows:
        values = run["divergence"][:, row].T
        band(right, training.GAUSSIAN_WEIGHTS, values, name, color, linestyle=dashes, marker=marker)
    log_axes(right, y=True)
    right.set_xticks(training.GAUSSIAN_WEIGHTS)
    describe(right, "weight w of the backward KL", "nats", legend="upper left")
    return fig


def rounds(settings: Settings) -> Figure:
    """Log-quantile over steps and over KL."""
    run = training.rounds(settings)
    fig, (left, right) = panels(2, titles=("Over updates", "Over KL from the reference"))
    looks = ((BLUE, "-"), (GREEN, (0, (5, 1))), (VERMILION, "--"), (ORANGE, "-."), (PURPLE, ":"))
    for k, ((name, *_), (color, dashes)) in enumerate(zip(training.PLANS, looks, strict=True)):
        band(left, run["step"], run["divergence"][:, 2, k].T, name, color, linestyle=dashes)
        cost, quantile = (np.median(run["divergence"][:, row, k], -1) for row in (3, 2))
        right.plot(cost, quantile, color=color, linestyle=dashes, label=name)
    problem = training.bandits(settings, training.seeds(settings), 30, 0)
    cost, quantile = training.family(problem, np.geomspace(1.0, 1e5, 200))
    right.plot(np.median(cost, -1), np.median(quantile, -1), color=GREY, linewidth=1.2, linestyle="-", zorder=1,
               label="exact best-of-N, all N")  # fmt: skip
    describe(left, "updates", "E log p≤  (nats)", legend="lower right")
    describe(right, "KL(π ‖ ref)  (nats)", "E log p≤  (nats)", legend="lower right")
    return fig


def moving(settings: Settings) -> Figure:
    """KL of anchors against the closed form, and of trained policies."""
    run, trained = anchors.perfect(settings), anchors.trained(settings, anchors.TRAINING_RATES[0])
    fig, (left, right) = panels(2, titles=("Perfect distillation every step", "Trained, exact gradients"))
    looks = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"))
    for i, (rate, last, (color, dashes)) in enumerate(zip(anchors.RATES, anchors.STEPS, looks, strict=True)):
        steps = np.arange(last + 1)
        name = f"η = {rate:g}" if rate < 1 else "η = 1, hard"
        band(left, steps, run["cost"][: last + 1, i].T, name, color, linestyle=dashes)
        marks = np.unique(np.linspace(0, last, 9).astype(int))
        n = np.asarray(effective_n(jnp.asarray(marks, float), 1 - rate, 2.0))
        closed = "closed form" if i == 0 else ""
        left.plot(
            marks, np.asarray(best_of_n_kl(jnp.asarray(n))), color=BLACK, marker="x", linestyle="", label=closed or None
        )
    describe(left, "steps", "KL(anchor ‖ ref)  (nats)", legend="lower right")
    steps = np.arange(1, len(trained["cost"]) + 1)
    for k, ((name, *_), (color, dashes)) in enumerate(zip(anchors.ANCHORS, looks, strict=False)):
        band(right, steps, trained["cost"][:, k].T, name, color, linestyle=dashes)
    describe(right, "updates", "KL(π ‖ ref)  (nats)", legend="upper left")
    return fig


def frontier(settings: Settings) -> Figure:
    """Win-rate over KL and its distance from the best possible."""
    finite, many = laws.win_rates(settings), laws.without_atoms(settings)["frontier"]
    fig, (left, right) = panels(2, titles=("Win-rate against one sample", "What best-of-N leaves"))
    cost, wins, highest = many.mean(-1).T
    fine = np.geomspace(1.01, 32, 200)
    left.plot(
        np.asarray(best_of_n_kl(jnp.asarray(fine))),
        fine / (fine + 1),
        color=BLUE,
        linestyle="-",
        label="best-of-N, N/(N + 1)",
    )
    left.plot(
        cost, highest, color=VERMILION, linestyle="", marker="^", markersize=8, label="best possible, 20,000 responses"
    )
    left.plot(cost, wins, color=BLUE, linestyle="", marker="o", label="best-of-N, 20,000 responses")
    for x, y, n in zip(cost, wins, laws.NUMBERS, strict=True):
        left.annotate(f"N = {n:g}", (x, y), xytext=(8, -12), textcoords="offset points", color=BLUE, fontsize=11)
    describe(left, "KL from the reference  (nats)", "win probability", legend="lower right")
    order = np.argsort(finite["numbers"])
    band(right, finite["numbers"][order], (finite["highest"] - finite["wins"])[:, order], "30 responses", GREEN)
    right.plot(
        laws.NUMBERS, highest - wins, color=VERMILION, linestyle="", marker="^", markersize=8, label="20,000 responses"
    )
    right.set_xscale("log", base=2)
    right.set_ylim(0, 0.0125)
    describe(right, "N", "gap in win probability", legend="upper right")
    return fig


def jbond(settings: Settings) -> Figure:
    """The reward's expectation, and how far the policy gets from its anchor with either sign."""
    run, signs = anchors.calibration(settings), anchors.signs(settings)
    fig, (left, right) = panels(2, titles=("The reward against log p≤", "The sign of the regulariser"))
    p = np.linspace(0.012, 1, 400)
    left.plot(p, np.log(p), color=BLACK, linestyle="-", label="log p≤")
    left.plot(run["p"], run["reward"], color=BLUE, linestyle="--", label="E of J-BOND's reward, enumerated")
    for cross in (0.1127, 0.5, 1.0):
        left.plot(cross, np.log(cross), color=VERMILION, marker="o", markersize=9, fillstyle="none", linestyle="")
        shift, side = ((6, -14), "left") if cross < 1 else ((-6, -18), "right")
        left.annotate(
            f"{cross:g}", (cross, np.log(cross)), xytext=shift, textcoords="offset points", ha=side, color=VERMILION
        )
    left.set_ylim(-4.2, 0.3)
    describe(left, "p≤", "nats", legend="lower right")
    for k, color in ((0, GREY), (1, ORANGE), (3, PURPLE)):
        for sign, (name, dashes) in enumerate((("plus", "-"), ("minus", "--"))):
            gamma = anchors.GAMMAS[k]
            if gamma == 0 and sign:
                continue
            label = "γ = 0" if gamma == 0 else f"γ = {gamma:g}, {name}"
            band(right, signs["step"][1:], signs["apart"][1:, sign, k].T, label, color, linestyle=dashes)
    log_axes(right, y=True)
    right.set_ylim(1e-4, 10)
    right.legend(loc="upper center", ncols=3, fontsize=11)
    describe(right, "updates", "KL(π ‖ anchor)  (nats)", legend=False)
    return fig


def _bars(ax: Axes, groups: list[str], rows: list[tuple[str, np.ndarray, str]]) -> None:
    place, width = np.arange(len(groups)), 0.8 / len(rows)
    for k, (name, values, color) in enumerate(rows):
        ax.bar(place + width * (k - (len(rows) - 1) / 2), values, 0.9 * width, color=color, label=name)
    ax.set_xticks(place, groups)
    ax.grid(axis="x", visible=False)


def approximations(settings: Settings) -> Figure:
    """What dropping B costs by size, and the bias of two estimates."""
    dropped, run = laws.dropped_b(settings)["kl"], laws.estimates(settings)
    fig, (left, right) = panels(2, titles=("Best-of-8 without the factor B", "Bias of the estimated log p≤"))
    band(left, laws.SIZES, np.maximum(dropped.T, 1e-8), "median and 10–90 % band", BLUE, marker="o")
    left.plot(laws.SIZES, dropped.max(-1), color=VERMILION, linestyle=":", marker="^", label="largest of 50 bandits")
    log_axes(left, x=True, y=True)
    describe(left, "responses", "KL(best-of-8 ‖ without B)  (nats)", legend="lower left")
    rows = [("floor 1/(2k)", run["floor"].mean(-1), BLUE), ("add one", run["add_one"].mean(-1), VERMILION)]
    _bars(right, [f"p≤ = {p:g}" for p in laws.TRUE], rows)
    reference_line(right, 0.0, "")
    describe(right, "16 samples of the reference", "nats", legend="upper right")
    return fig
