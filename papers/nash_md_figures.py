"""The figures of the Nash-MD page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from papers import nash_md_experiments as games
from papers import nash_md_policies as policies
from papers.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, band, describe, log_axes, panels
from papers.record import Settings


def theorem(settings: Settings) -> Figure:
    """Measured divergence and two bounds, over steps."""
    run = games.theorem(settings)
    scaled = (run["kl"][1:] * run["tau"] ** 2).T
    horizon = np.arange(1, scaled.shape[1] + 1)
    fig, (ax,) = panels(1, size=(8.2, 5.2))
    ax.plot(horizon, 8 / (horizon + 1), color=BLACK, linestyle="--", label="bound of Theorem 1, 8/(T + 1)")
    ax.plot(
        horizon, 0.5 / (horizon + 1), color=PURPLE, linestyle="-.", label="with Hoeffding's constant, 1/(2 (T + 1))"
    )
    ax.plot(horizon, scaled.max(0), color=VERMILION, linestyle=":", label="largest of the games")
    band(ax, horizon, np.maximum(scaled, 1e-14), "median and 10–90 % band", BLUE)
    log_axes(ax, x=True, y=True)
    ax.set_ylim(1e-12, 1e6)
    title = f"Nash-MD on {scaled.shape[0]:,} random games stays far below its bound"
    describe(ax, "steps T", r"$\tau^2\,$KL$(\pi^*_\tau\,\|\,\pi_T)$  (nats)", title=title, legend="upper right")
    return fig


def steps(settings: Settings) -> Figure:
    """Gap of the policy, and gap of the mixture in the other game."""
    run = games.steps(settings)
    fig, (left, right) = panels(
        2, titles=("Policy, in the game at τ = 0.1", "Mixture, in the game at τ / (1 − ητ)"), sharey=True
    )
    time = np.arange(run["gap"].shape[0])
    colors, dashes = (BLUE, GREEN, ORANGE), ("-", "--", "-.")
    for i, fraction in enumerate(games.STEPS_TAU):
        label = f"constant, ητ = {fraction:g}"
        for ax, name in ((left, "gap"), (right, "mixture_gap")):
            band(ax, time, np.maximum(run[name][:, i].T, 1e-20), label, colors[i], linestyle=dashes[i])
    band(left, time, np.maximum(run["gap"][:, 3].T, 1e-20), "theorem, ητ = 2/(t + 2)", BLACK, linestyle=":")
    for ax in (left, right):
        log_axes(ax, y=True)
        ax.set_ylim(1e-15, 10)
        ax.set_xlim(0, time[-1])
    describe(left, "steps", "regularised duality gap (win probability)", legend="lower left")
    describe(right, "steps", "", legend="upper right")
    return fig


def three_types(settings: Settings) -> Figure:
    """Mass of the three responses along epsilon, for the Nash and for the fitted reward."""
    run = games.examples(settings)
    epsilon = run["epsilon"]
    winner, reward = run["winner"][: len(epsilon)], run["reward"][: len(epsilon)]
    fig, axes = panels(2, titles=("Nash equilibrium", "Policy of a Bradley–Terry reward"), sharey=True)
    fine = np.linspace(epsilon[0], epsilon[-1], 2001)
    best = np.eye(3)[np.where(fine > 0, 0, 1)]
    assert (reward.argmax(-1)[epsilon != 0] == np.where(epsilon[epsilon != 0] > 0, 0, 1)).all()
    for y, (color, dashes) in enumerate(zip((BLUE, VERMILION, GREEN), ("-", "--", "-."), strict=True)):
        axes[0].plot(epsilon, winner[:, y], color=color, linestyle=dashes, label=f"response {y + 1}")
        axes[1].plot(fine, best[:, y], color=color, linestyle=dashes, label=f"response {y + 1}")
    for ax, legend in zip(axes, ("upper center", "center right"), strict=True):
        ax.set_ylim(-0.04, 1.04)
        describe(
            ax, "ε: how far the kinds are from equal shares", "probability" if ax is axes[0] else "", legend=legend
        )
    return fig


_CORNERS = np.asarray([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])


def _simplex(ax: Axes, names: tuple[str, str, str]) -> None:
    closed = _CORNERS[[0, 1, 2, 0]]
    ax.plot(closed[:, 0], closed[:, 1], color=GREY, linewidth=1.2, linestyle="-")
    for corner, name, shift in zip(_CORNERS, names, ((-0.02, -0.06), (0.02, -0.06), (0.0, 0.03)), strict=True):
        ax.text(corner[0] + shift[0], corner[1] + shift[1], name, ha="center", va="center", color=GREY)
    ax.set_aspect("equal")
    ax.set_axis_off()


def iterates(settings: Settings) -> Figure:
    """Trajectories on the dice, and gaps of last and average iterates."""
    run = games.averages(settings)
    fig, (left, right) = panels(2, titles=("Trajectories on one cycle", "Gaps on random cycles"))
    _simplex(left, ("response 1", "response 2", "response 3"))
    cycle, inward = run["path_self_play"][:600] @ _CORNERS, run["path_nash_md"] @ _CORNERS
    left.plot(*cycle.T, color=VERMILION, linewidth=1.2, linestyle="-", label="self-play without KL")
    left.plot(
        *inward.T, color=BLUE, linewidth=1.2, linestyle="-", marker="o", markersize=3.5, label="Nash-MD, τ = 0.05"
    )
    left.plot(*cycle[0], marker="s", color=BLACK, linestyle="", label="start and reference")
    left.plot(*(run["nash"] @ _CORNERS), marker="*", markersize=15, color=BLACK, linestyle="", label="Nash at τ = 0.05")
    left.plot(
        *(run["winner"] @ _CORNERS),
        marker="+",
        markersize=12,
        markeredgewidth=2,
        color=BLACK,
        linestyle="",
        label="Nash without KL",
    )
    left.legend(loc="upper left", fontsize=11)
    left.set_xlim(-0.62, 1.1)
    time = np.arange(run["last_nash_md"].shape[0])
    kept = np.unique(np.geomspace(1, time[-1], 200).astype(int))
    rows = (
        ("last_self_play", "self-play, last", VERMILION, "-"),
        ("average_self_play", "self-play, average", ORANGE, "--"),
        ("average_nash_md", "Nash-MD, average", GREEN, "-."),
        ("last_nash_md", "Nash-MD, last", BLUE, "-"),
    )
    for name, label, color, dashes in rows:
        band(right, kept, np.maximum(run[name][kept, 1:].T, 1e-16), label, color, linestyle=dashes)
    log_axes(right, x=True, y=True)
    describe(right, "steps", "duality gap (win probability)", legend="lower left")
    return fig


def sampling(settings: Settings) -> Figure:
    """Bars of the fitted rewards, and of the Nash of the fitted preference model."""
    run = games.examples(settings)
    reward, equilibria = run["reward"][-4:-1], run["nash"][-4:-1]
    titles = ("Fitted Bradley–Terry reward", "Nash of the fitted preference model")
    fig, (left, right) = panels(2, titles=titles)
    names = ["uniform", "(.6, .3, .1)", "(.1, .3, .6)"]
    place = np.arange(3)
    for y, color in enumerate((BLUE, VERMILION, GREEN)):
        for ax, values in ((left, reward), (right, equilibria)):
            ax.bar(place + 0.27 * (y - 1), values[:, y], 0.25, color=color, label=f"response {y + 1}")
    for row, values in enumerate(reward):
        best = int(values.argmax())
        left.text(row + 0.27 * (best - 1), values[best] + 0.005, "★", ha="center", va="bottom")
    left.axhline(0, color=GREY, linewidth=1)
    left.set_ylim(-0.55, 0.45)
    right.set_ylim(0, 0.62)
    for ax, unit, legend in ((left, "reward (nats)", "lower left"), (right, "probability", "upper right")):
        ax.set_xticks(place, names)
        ax.grid(axis="x", visible=False)
        describe(ax, "law of the compared responses", unit, legend=legend)
    return fig


def tokens(settings: Settings) -> Figure:
    """Bias without reward-to-go over length, and the two mixtures over the coefficient."""
    run = policies.trees(settings)
    lengths = policies.lengths(settings)
    titles = ("Gradient with and without reward-to-go", "Token-wise against sequence mixture")
    fig, (left, right) = panels(2, titles=titles)
    band(left, lengths, np.maximum(run["myopic"].T, 1e-17), "own log-ratio only", VERMILION, marker="o")
    band(left, lengths, np.maximum(run["to_go"].T, 1e-17), "reward-to-go", BLUE, marker="s", linestyle="--")
    log_axes(left, y=True)
    left.set_xticks(lengths)
    left.set_ylim(1e-17, 10)
    describe(left, "tokens in a sequence", "relative error of the gradient", legend="center right")
    colors = (BLUE, GREEN, ORANGE, VERMILION)
    for color, dashes, length, rows in zip(
        colors, ("-", "--", "-.", ":"), lengths[1:], run["forward"][1:], strict=False
    ):
        band(right, policies.TOKEN_MIXTURES, rows, f"{length} tokens", color, linestyle=dashes)
    describe(
        right,
        "mixture coefficient m (0: policy, 1: reference)",
        "KL(sequence ‖ token-wise)  (nats)",
        legend="upper right",
    )
    return fig


def mixture(settings: Settings) -> Figure:
    """Win-rates and gaps over the mixture coefficient, means with two standard errors."""
    runs = policies.curves(settings)
    fig, (left, right) = panels(2, titles=("Win-rate against the other policies", "Distance from equilibrium"))
    m = policies.MIXTURES

    def curve(ax: Axes, values: np.ndarray, label: str, color: str, dashes: str, marker: str) -> None:
        mean, error = values.mean(0), 2 * values.std(0, ddof=1) / np.sqrt(len(values))
        ax.plot(m, mean, color=color, linestyle=dashes, marker=marker, label=label)
        ax.fill_between(m, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)

    rows = (
        ("exact", "cycles: exact optimum", BLUE, "-", "o"),
        ("sampled", "cycles: trained from samples", VERMILION, "--", "s"),
        ("shared", "cycles: trained, shared features", GREEN, "-.", "^"),
        ("annotators_exact", "few cycles: exact optimum", PURPLE, ":", "D"),
    )
    for name, label, color, dashes, marker in rows:
        curve(left, runs[name]["win_rate"], label, color, dashes, marker)
    left.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    curve(right, runs["exact"]["regularised"], "gap with KL", BLUE, "-", "o")
    curve(right, runs["exact"]["original"], "gap without KL", PURPLE, "--", "s")
    for ax in (left, right):
        ax.axvspan(0.125, 0.375, color=ORANGE, alpha=0.12, linewidth=0)
    left.annotate(
        "best in\nthe paper", (0.25, 0.02), xycoords=("data", "axes fraction"), ha="center", va="bottom", color=GREY
    )
    left.set_ylim(top=0.555)
    describe(left, "mixture coefficient m (1: best response to the reference)", "win probability", legend="upper right")
    describe(right, "mixture coefficient m (0: self-play)", "duality gap (win probability)", legend="upper left")
    return fig
