"""The figures of the ONPO page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.figure import Figure

from papers import onpo_experiments as onpo
from papers.comal_experiments import kl
from papers.figures import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, band, describe, log_axes, panels
from papers.onpo_checks import ROTATION, UNIFORM
from papers.record import Settings
from papers.simplex import mark, path, triangle


def averages(settings: Settings) -> Figure:
    """Gaps of averages over T with their bounds, and T times the gap where one response dominates."""
    run = onpo.optimistic(settings)
    fig, (left, right) = panels(2, titles=("Averages on random games", "One dominant response"))
    times = np.arange(1, len(run["gap"]) + 1)
    scale = 1 / (2 * run["divergence"] / run["h"] + 1)
    left.plot(times, 1 / times, color=BLACK, linestyle="--", label="(2D/η + 1)/T, for ONPO")
    band(left, times, (run["gap"] / times[:, None] * scale).T, "ONPO", BLUE)
    band(left, times, (run["slow"] / times[:, None] * scale).T, "mirror descent", VERMILION, linestyle="-.")
    log_axes(left, x=True, y=True)
    describe(left, "steps T", "gap of the average / (2D/η + 1)", legend="lower left")
    looks = ((BLUE, "-"), (GREEN, "--"), (VERMILION, "-."))
    for size, rows, (color, dashes) in zip(onpo.DOMINANT, run["dominant"].T, looks, strict=True):
        right.plot(times, rows, color=color, linestyle=dashes, label=f"K = {size}")
        right.plot(times[[0, -1]], [4 * np.sqrt(np.log(size))] * 2, color=color, linestyle=":", linewidth=1.4)
        right.plot(times[[0, -1]], [4 * np.log(size)] * 2, color=color, linestyle=(0, (5, 1)), linewidth=1.0)
    right.plot([], [], color=BLACK, linestyle=":", linewidth=1.4, label="4√D, as extracted")
    right.plot([], [], color=BLACK, linestyle=(0, (5, 1)), linewidth=1.0, label="2D/η")
    log_axes(right, x=True)
    right.set_ylim(0, 25)
    describe(right, "steps T", "T × gap of the average", legend="upper left")
    return fig


def last(settings: Settings) -> Figure:
    """Trajectories and divergences of both on rock-paper-scissors."""
    run = onpo.rock_paper_scissors(settings)
    fig, (left, right) = panels(2, titles=("Policies", "Divergence from the Nash"))
    triangle(left, ("rock", "paper", "scissors"))
    path(left, run["mwu"][:2500], "multiplicative weights, η = 0.1", VERMILION)
    path(left, run["onpo"][2][:400], "ONPO, η = 1/2", BLUE)
    mark(left, onpo.RPS_START, "start", "s", 6)
    mark(left, UNIFORM, "Nash", "*", 14)
    left.legend(loc="upper left", fontsize=11)
    left.set_xlim(-0.85, 1.1)
    right.plot(kl(UNIFORM, run["mwu"]), color=VERMILION, linestyle="-", label="multiplicative weights, η = 0.1")
    looks = (("0.1", ORANGE, "--"), ("1/8", GREEN, "-."), ("1/2", BLUE, "-"))
    for h, rows, (name, color, dashes) in zip(onpo.RPS_STEPS, run["onpo"], looks, strict=True):
        divergence = np.maximum(kl(UNIFORM, rows), 1e-16)
        right.plot(divergence, color=color, linestyle=dashes, label=f"ONPO, η = {name}")
        middle = 800 if h > 0.2 else 2500
        span = np.asarray([0, 4000])
        line = divergence[middle] * onpo.optimistic_factor(h, ROTATION) ** (2.0 * (span - middle))
        label = "slope of the linear part" if h > 0.2 else None
        right.plot(span, line, color=PURPLE, linestyle=":", linewidth=1.4, label=label)
    log_axes(right, y=True)
    right.set_ylim(1e-15, 1e3)
    describe(right, "steps", r"KL($\pi^*\,\|\,\pi_t$)  (nats)", legend="lower right")
    return fig


def random_games(settings: Settings) -> Figure:
    """Divergence of last policies on random games."""
    run = onpo.last_policies(settings)
    fig, (left, right) = panels(
        2, titles=("Cycles of three responses", "Games of five and seven, Nash mixed"), sharey=True
    )
    for name, label, color, dashes in (
        ("mwu", "multiplicative weights", VERMILION, "-."),
        ("onpo", "ONPO, η = 1/8", BLUE, "-"),
    ):
        band(left, run["times"], np.maximum(run[name][0].T, 1e-15), label, color, linestyle=dashes)
        both = np.concatenate([rows.T[some] for rows, some in zip(run[name][1:], run["mixed"][1:], strict=True)])
        band(right, run["times"], np.maximum(both, 1e-15), label, color, linestyle=dashes)
    for ax in (left, right):
        log_axes(ax, y=True)
        ax.set_ylim(1e-15, 100)
    describe(left, "steps", r"KL($\pi^*\,\|\,\pi_t$)  (nats)", legend="lower left")
    describe(right, "steps", "", legend=False)
    return fig
