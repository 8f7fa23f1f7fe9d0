"""The figures of the P3O page, drawn from the cached runs of its claims."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from papers import p3o_experiments as toy
from papers import p3o_laws as laws
from papers.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, band, describe, log_axes, panels
from papers.record import Settings

STYLES = {
    "P3O, V1": (BLUE, "-"),
    "P3O, V2": (SKY, "--"),
    "DPO, soft": (GREEN, "-."),
    "PPO, V = 0": (VERMILION, ":"),
    "PPO, running V": (ORANGE, (0, (5, 1))),
    "PPO, exact V": (BLACK, (0, (1, 1))),
    "P3O, global std": (PURPLE, (0, (3, 1, 1, 1))),
    "P3O, within std": (GREY, (0, (8, 2))),
}
SHOWN = ("P3O, V1", "P3O, V2", "DPO, soft", "PPO, V = 0", "PPO, running V", "PPO, exact V")


def invariances(settings: Settings) -> Figure:
    """A table of changes: methods by what is moved."""
    run = laws.invariances(settings)
    names = ("P3O, V1", "P3O, V2", "P3O, product", "CoPG", "RLOO", "GRPO", "DPO", "IPO", "REINFORCE", "PPO")
    rows = [list(laws.LOSSES).index(name) for name in names]
    kinds = {
        "sample": "one pair",
        "on-policy": "expected,\non-policy",
        "off-policy": "expected,\noff-policy",
        "with V": "one pair, and\nV shifted too",
        "equivariant": "r, β, V × 3:\n3 × gradient",
        "invariant": "r, V × 3:\nsame gradient",
    }
    table = np.stack([np.median(run[kind][rows], 1) for kind in kinds], 1)
    fig, (ax,) = panels(1, size=(9.6, 6.2))
    ax.pcolormesh(table[::-1] < 1e-9, cmap=ListedColormap(["#F3D9CC", "#CFE3F0"]), vmin=0, vmax=1, edgecolors="white")
    for i, row in enumerate(table[::-1]):
        for j, x in enumerate(row):
            text = "0" if x < 1e-9 else f"{x:.2g}"
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=12, color=BLACK)
    ax.set_xticks(np.arange(len(kinds)) + 0.5, list(kinds.values()), fontsize=11)
    ax.set_yticks(np.arange(len(names)) + 0.5, names[::-1])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.axhline(2, color=BLACK, linewidth=1.2)
    ax.axvline(4, color=BLACK, linewidth=1.2)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("median change of the gradient (its largest entry)")
    ax.set_ylabel("loss")
    return fig


def frontier(settings: Settings) -> Figure:
    """Reward against KL while training, without a shift and with the largest."""
    run = toy.frontier(settings)
    titles = ("No shift", f"Prompts shifted, sd {toy.SHIFTS[2]:g}")
    fig, axes = panels(2, titles=titles, sharey=True, size=(6.4, 5.0))
    for ax, shift in zip(axes, (0, 2), strict=True):
        for name in SHOWN:
            i, (color, dashes) = toy.CONTENDERS.index(name), STYLES[name]
            x, y = run["kl"][i, shift].mean(0), run["reward"][i, shift].mean(0)
            ax.plot(x, y, color=color, linestyle=dashes, label=name)
            ax.plot(x[-1:], y[-1:], marker="o", color=color, linestyle="")
        describe(ax, "KL to the reference (nats)", "reward without shift" if shift == 0 else "", legend=False)
        ax.set_xlim(0, None)
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3)
    return fig


def training(settings: Settings) -> Figure:
    """J over rollouts with the largest shift; J against the shift for the scales."""
    run = toy.frontier(settings)
    fig, (left, right) = panels(
        2, titles=(f"Prompts shifted, sd {toy.SHIFTS[2]:g}", "What dividing by a scale does"), size=(6.4, 5.0)
    )
    time = toy.EVERY * np.arange(run["J"].shape[-1])
    relative = lambda name, shift: run["J"][toy.CONTENDERS.index(name), shift] - run["table"][:, None]
    for name in ("P3O, V1", "DPO, soft", "PPO, V = 0", "PPO, running V", "PPO, exact V"):
        color, dashes = STYLES[name]
        band(left, time, relative(name, 2), name, color, linestyle=dashes)
    left.set_ylim(-2.2, 0)
    describe(left, "rollouts", "J minus that of the best table", legend="lower right")
    last = toy.last(settings)
    for name, label in (
        ("P3O, V1", "P3O, rewards as they are"), ("P3O, within std", "P3O, std within prompts"),
        ("P3O, global std", "P3O, global std, as shipped"), ("PPO, V = 0", "PPO, V = 0"),
        ("PPO, running V", "PPO, running V"),
    ):  # fmt: skip
        color, dashes = STYLES[name]
        band(right, toy.SHIFTS, (last[name] - last["P3O, V1"][0]).T, label, color, linestyle=dashes, marker="o")
    right.set_ylim(-1.7, 0.2)
    right.set_xticks(toy.SHIFTS)
    describe(right, "sd of the prompts' shifts", "J at the end minus P3O's without shift", legend="lower left")
    return fig


def variance(settings: Settings) -> Figure:
    """Variance against shift; the factor of the shipped scale against shift."""
    run, scales = laws.variances(settings), toy.normalisation(settings)
    titles = ("Variance of a pair's gradient", "Reward differences after scaling")
    fig, (left, right) = panels(2, titles=titles)
    rows = (("REINFORCE", "REINFORCE", VERMILION, ":"), ("P3O, V1", "P3O", BLUE, "-"),
            ("REINFORCE, V", "exact value as baseline", BLACK, "--"))  # fmt: skip
    for name, label, color, dashes in rows:
        band(left, laws.VARIANCE_SHIFTS, run[name].T, label, color, linestyle=dashes, marker="o")
    log_axes(left, y=True)
    describe(left, "constant added to the prompt's rewards", "trace of the covariance", legend="upper left")
    size = np.linspace(0, 20, 200)
    right.plot(size, 1 / np.sqrt(1 + size**2), color=GREY, linestyle="-.", linewidth=1.4, label=r"$1/\sqrt{1 + s^2}$")
    band(right, scales["size"], scales["global"].T, "global std, as shipped", PURPLE, linestyle="--", marker="o")
    band(right, scales["size"], scales["within"].T, "std within prompts", BLUE, linestyle="-", marker="o")
    right.set_ylim(0, 1.1)
    describe(right, "sd s of the prompts' shifts", "factor on reward differences", legend="center right")
    return fig
