"""CoPG on a small language model: sweeps of beta beside DPO and IPO, offline, with a learned reward model as truth."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from alignjax.record import Source
from papers.figures import describe, panels
from papers.lm import plots
from papers.lm.claims import above_zero, claim_of, figure_of
from papers.lm.runs import Experiment, last, results, seeds
from papers.lm.training import Spec
from papers.record import NotTestable, Outcome, Paper, Settings

SOURCE = Source("Flet-Berliac et al.", 2024, "2406.19185", "")
BETAS = {"copg": (0.1, 0.3, 1.0, 3.0), "dpo": (0.03, 0.1, 0.3, 1.0), "ipo": (0.03, 0.1, 0.3, 1.0)}
NAMES = {"copg": "CoPG", "dpo": "DPO", "ipo": "IPO"}
_claim, _figure = claim_of("copg", SOURCE), figure_of("copg")


def sweep(settings: Settings, method: str) -> Experiment:
    """One method at its values of beta, on pairs of the base model; labels rank them by the reward."""
    betas = BETAS[method][1:3] if settings.quick else BETAS[method]
    common: dict[str, Any] = {"sampler": "reference", "score": "learned", "sharpness": 1e3, "rate": 3e-4}
    specs = {
        f"β = {beta:g}": Spec(
            method=method, hyper={"beta": beta}, steps=settings.size(300, 150), every=settings.size(30, 25), **common
        )
        for beta in betas
    }
    return Experiment(paper="copg", name=method, specs=specs, seeds=seeds(settings, 5))


def copg_sweep(settings: Settings) -> Experiment:
    """CoPG."""
    return sweep(settings, "copg")


def dpo_sweep(settings: Settings) -> Experiment:
    """DPO."""
    return sweep(settings, "dpo")


def ipo_sweep(settings: Settings) -> Experiment:
    """IPO."""
    return sweep(settings, "ipo")


SWEEPS = {"copg": copg_sweep, "dpo": dpo_sweep, "ipo": ipo_sweep}


def _best(settings: Settings, method: str) -> tuple[str, dict[str, np.ndarray]]:
    """The beta with the highest mean reward at the end, and its runs."""
    found = results(settings, SWEEPS[method](settings))
    label = max(found, key=lambda name: last(found[name]["learned"]).mean())
    return label, found[label]


def best_reward(settings: Settings) -> Outcome | NotTestable:
    """CoPG's best beta against DPO's and IPO's best."""
    best = {method: _best(settings, method) for method in SWEEPS}
    ends = {method: last(one["learned"]) for method, (_, one) in best.items()}
    return above_zero(
        {f"over {NAMES[other]}": ends["copg"] - ends[other] for other in ("ipo", "dpo")},
        runs=sum(len(experiment(settings).specs) * len(experiment(settings).seeds) for experiment in SWEEPS.values()),
        spread="; ".join(
            f"{NAMES[m]}, {label}: {ends[m].mean():.3f}, KL {last(one['kl']).mean():.1f}"
            for m, (label, one) in best.items()
        ),
        note="The reward of CoPG's best β less that of the other's best.",
    )  # fmt: skip


def improves(settings: Settings) -> Outcome:
    """What the best beta of CoPG gains on the base model."""
    label, one = _best(settings, "copg")
    gain = last(one["learned"]) - one["learned"][:, 0]
    return Outcome(
        expected=0.0, measured=float(gain.min()), tolerance=0.1, relation="greater than", runs=len(gain),
        spread=f"{label}: from {one['learned'][:, 0].mean():.2f} to {last(one['learned']).mean():.2f}",
    )  # fmt: skip


def small_beta(settings: Settings) -> Outcome | NotTestable:
    """The reward of CoPG's best beta less that of the smallest."""
    found = results(settings, copg_sweep(settings))
    ends = {name: last(one["learned"]) for name, one in found.items()}
    smallest, best = next(iter(ends)), _best(settings, "copg")[0]
    return above_zero(
        {f"{best} less {smallest}": ends[best] - ends[smallest]},
        runs=sum(len(one["kl"]) for one in found.values()),
        spread="; ".join(
            f"{name}: reward {ends[name].mean():.2f}, KL {last(one['kl']).mean():.1f}" for name, one in found.items()
        ),
    )  # fmt: skip


def draw(settings: Settings) -> Drawing:
    """A panel for each method's sweep, and reward against KL at the end."""
    fig, axes = panels(4, titles=("CoPG", "DPO", "IPO", "Reward over KL, end of each run"), sharey=True)
    for index, (ax, method) in enumerate(zip(axes, SWEEPS, strict=False)):
        found = results(settings, SWEEPS[method](settings))
        plots.over_steps(ax, found, "learned")
        describe(ax, "updates", "learned reward")
        plots.ends(axes[3], found, "kl", "learned", NAMES[method], index)
    describe(axes[3], "KL(π ‖ base)  (nats)", "learned reward")
    return fig


CLAIMS = (
    _claim(
        "improves", "Sec. 5", "From pairs of another policy alone CoPG raises the reward of what the policy generates.",
        "Pairs of the base model scored by a reward model learned from noisy comparisons; CoPG's best β, the worst "
        "seed; more than 0.1 is asked for.",
        improves,
    ),
    _claim(
        "best", "Figure 6", "At their best β CoPG reaches a higher reward than IPO, and than DPO.",
        "Labels for DPO and IPO rank each pair by the reward model, as in the paper; mean of the last measurements.",
        best_reward,
        full_only=True,
        stands="contradicted",
    ),
    _claim(
        "small-beta", "Figure 3", "CoPG's reward falls where β is too small.",
        "CoPG's sweep: the reward at the best β less that at the smallest. Here the smallest is no worse: it goes "
        "further for the same reward.",
        small_beta, full_only=True, stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    _figure(
        "sweeps", "Sweeps of β: CoPG, DPO and IPO on the same pairs",
        "Learned reward of generations from held runs of each β; bands: all seeds. Last panel: where the runs end.",
        draw, *SWEEPS.values(),
    ),
)  # fmt: skip

PAPER = Paper(
    name="copg",
    title="Contrastive Policy Gradient",
    source=SOURCE,
    summary=(
        "A decoder of two layers, trained from scratch on templated reviews. Offline: all see pairs that the base "
        "model wrote; the truth is a reward model learned from noisy comparisons. CoPG reads its rewards, DPO and "
        "IPO the ranking of each pair."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
