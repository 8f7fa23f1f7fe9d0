"""The checks of the ONPO page: each takes the settings and returns what the paper says beside what a run gave."""

import numpy as np

from papers import onpo_experiments as onpo
from papers.comal_experiments import kl
from papers.nash_md_checks import spread_of
from papers.record import NotTestable, Outcome, Settings

UNIFORM = np.ones(3) / 3
ROTATION = np.sqrt(3) / 6
"""The game's rotation at the Nash of 0/1 rock-paper-scissors: eigenvalues +-i sqrt(3)/6."""


# --- averages ---------------------------------------------------------------------------------------------------------


def _ratio(settings: Settings, which: str) -> Outcome:
    run = onpo.mirror_descent(settings)
    ratio = run[which]
    return Outcome(
        expected=1.0,
        measured=ratio.max(-1),
        relation="at most",
        runs=ratio.shape[1],
        spread=f"at the longest horizon: {spread_of(ratio[-1])}",
        note=f"largest ratio of gap to bound at T = {', '.join(str(t) for t in onpo.HORIZONS[: len(ratio)])}; D = "
        f"max_y log 1/pi_0(y), as the regret is against a single response: {spread_of(run['divergence'], 'nats')}",
    )


def theorem_1(settings: Settings) -> Outcome:
    """Mirror descent's average against 4 sqrt(D / T)."""
    return _ratio(settings, "paper")


def theorem_1_sharp(settings: Settings) -> Outcome:
    """And against sqrt(2 D / T)."""
    return _ratio(settings, "sharp")


def theorem_2(settings: Settings) -> Outcome:
    """T times the gap of ONPO's average where one response dominates, against 4 sqrt(D)."""
    run = onpo.optimistic(settings)
    divergence = np.log(onpo.DOMINANT)
    random = run["gap"].max(0) / (4 * np.sqrt(run["divergence"]))
    mended = ", ".join(f"{4 * d:.2f}" for d in divergence)
    return Outcome(
        expected=4 * np.sqrt(divergence),
        measured=run["dominant"].max(0),
        relation="at most",
        runs=len(divergence),
        spread=f"on random games, ratio to the bound: {spread_of(random)}; above it in {np.mean(random > 1):.0%}",
        note=f"{', '.join(str(k) for k in onpo.DOMINANT)} responses from a uniform start, D = log K, eta = 1/2. The "
        f"text at hand is garbled there; 2 D/eta = {mended} holds",
    )


def theorem_2_mended(settings: Settings) -> Outcome:
    """T times the gap on all games against 2 D / eta + 1."""
    run = onpo.optimistic(settings)
    regret, single = 2 * run["divergence"] / run["h"], 4 * np.log(onpo.DOMINANT)
    random, dominant = run["gap"].max(0), run["dominant"].max(0)
    bare = max((random / regret).max(), (dominant / single).max())
    return Outcome(
        expected=1.0,
        measured=[(random / (regret + 1)).max(), (dominant / (single + 1)).max()],
        relation="at most",
        runs=random.size + dominant.size,
        spread=f"ratio on random games: {spread_of(random / (regret + 1))}",
        note="largest ratio over every T, on random games and on those with a dominant response; without the + 1 it is "
        f"{bare:.3f}",
    )


def faster_than_mirror_descent(settings: Settings) -> Outcome:
    """ONPO's average gap over mirror descent's after T steps."""
    run = onpo.optimistic(settings)
    seen = run["slow"][-1] > 1e-12  # a game of ties has no gap at all
    ratio = run["gap"][-1][seen] / run["slow"][-1][seen]
    return Outcome(
        expected=1.0,
        measured=np.median(ratio),
        relation="less than",
        runs=ratio.size,
        spread=f"after {len(run['gap'])} steps: {spread_of(ratio)}; smaller in {np.mean(ratio < 1):.0%} of the games",
        note="median ratio of the gaps of the averages, each at the step of its theorem",
    )


# --- last policies ----------------------------------------------------------------------------------------------------


def last_iterate(settings: Settings) -> Outcome:
    """KL from the Nash at the end over that half-way, on every game where it is not yet at rounding."""
    run = onpo.last_policies(settings)
    path = run["onpo"]
    half = path[:, path.shape[1] // 2]
    seen = half > 1e-12
    ratio = (path[:, -1] / np.where(seen, half, 1.0))[seen]
    whole = path[:, -1] / path[:, 0]
    return Outcome(
        expected=1.0,
        measured=[ratio.max(), whole.max()],
        relation="less than",
        runs=whole.size,
        spread=f"KL after {run['times'][-1]:,} steps: {spread_of(path[:, -1], 'nats')}",
        note=f"largest ratio of the end to half-way and to the start; {np.mean(path[:, -1] < 1e-9):.0%} of the games "
        "are within 1e-9: the factor depends on the game",
    )


def mirror_descent_leaves(settings: Settings) -> Outcome:
    """The same for multiplicative weights: the share of games that end farther than they began."""
    run = onpo.last_policies(settings)["mwu"][0]
    ratio = run[-1] / run[0]
    return Outcome(
        expected=1.0,
        measured=ratio.min(),
        relation="greater than",
        runs=ratio.size,
        spread=spread_of(ratio),
        note="KL from the Nash at the end over that at the start, on the cycles of three responses",
    )


def linear_phase(settings: Settings) -> Outcome:
    """The factor per step of KL near the Nash of rock-paper-scissors."""
    run = onpo.rock_paper_scissors(settings)
    windows = ((3000, 4000), (3000, 4000), (500, 1000))
    found = []
    for path, (start, end) in zip(run["onpo"], windows, strict=True):
        divergence = kl(UNIFORM, path)
        found.append((divergence[end] / divergence[start]) ** (1 / (end - start)))
    return Outcome(
        expected=[onpo.optimistic_factor(h, ROTATION) ** 2 for h in onpo.RPS_STEPS],
        measured=found,
        tolerance=2e-5,
        runs=len(found),
        spread="gap after 4,000 steps: "
        + ", ".join(f"{g:.1e}" for g in (onpo.rps_gap(path[-1]) for path in run["onpo"])),
        note="KL factor per step at eta = 0.1, 1/8, 1/2, against the eigenvalues of the linear part, z^2 = z + i eta "
        "sqrt(3)/6 (2 z - 1); 4 of 10,000 steps or 1 of 1,000 is O(eta^2), hence slow",
    )


def optimism_matters(settings: Settings) -> Outcome:
    """The gap after 4,000 steps of both at eta = 0.1."""
    run = onpo.rock_paper_scissors(settings)
    gaps = [onpo.rps_gap(run["onpo"][0])[-1], onpo.rps_gap(run["mwu"])[-1]]
    first = onpo.rps_gap(onpo.RPS_START[None])[0]
    return Outcome(
        expected=1.0,
        measured=gaps[0] / gaps[1],
        relation="less than",
        note=f"from {first:.2f}, optimistic {gaps[0]:.3f}, multiplicative weights {gaps[1]:.3f}",
    )


def practical_step(settings: Settings) -> Outcome:
    """The least gap of the last policies at eta = 100."""
    gaps = onpo.rps_gap(onpo.rock_paper_scissors(settings)["practical"])
    return Outcome(
        expected=0.01,
        measured=gaps[-100:].min(),
        relation="at most",
        spread=f"gap over the last 100 of {len(gaps) - 1} exact iterations: {spread_of(gaps[-100:])}",
        note="a language model trained for an epoch at a small learning rate is far from these minimisers, so that "
        "its effective step is not the eta of its loss",
    )


# --- losses -----------------------------------------------------------------------------------------------------------


def hard_labels(settings: Settings) -> Outcome:
    """ONPO by minimisers of its loss against the solver."""
    run = onpo.losses(settings)
    return Outcome(
        expected=0.0,
        measured=run["apart"].max(),
        tolerance=1e-9,
        runs=run["apart"].shape[1],
        note=f"log-probabilities over {len(run['apart'])} steps; with the target eta in place of eta/2 the first step "
        f"is off by {np.median(run['wrong']):.2f} in the median",
    )


def gradient(settings: Settings) -> Outcome:
    """The population gradient of the loss at the exact step."""
    run = onpo.losses(settings)
    return Outcome(
        expected=0.0,
        measured=np.abs(run["gradient"]).max(),
        tolerance=1e-10,
        runs=len(run["gradient"]),
        note="pairs from a random law, which is then the opponent; at the start it is up to "
        f"{np.abs(run['away']).max():.2f}",
    )


def language_models(settings: Settings) -> NotTestable:
    """The tables of the paper."""
    return NotTestable(
        "Llama-3 and Mistral fine-tuning on eight GPUs with AlpacaEval 2 judges; neither models nor judgements are "
        "available here"
    )
