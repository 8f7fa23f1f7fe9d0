"""P3O on a small language model: reward against KL beside PPO and DPO, with and without shifts of the prompts."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from alignjax.record import Source
from papers.figures import describe, panels
from papers.lm import plots
from papers.lm.claims import above_zero, claim_of, figure_of, gains_at_equal
from papers.lm.runs import Experiment, last, results, seeds
from papers.lm.training import Spec
from papers.record import NotTestable, Outcome, Paper, Settings

SOURCE = Source("Wu et al.", 2023, "2310.00212", "")
METHODS: dict[str, dict[str, Any]] = {
    "P3O": {"method": "p3o"},
    "PPO": {"method": "ppo", "baseline": "running"},
    "PPO, learned value": {"method": "ppo", "baseline": "head"},
    "DPO, online": {"method": "online_dpo", "hard": False},
}
"""PPO's value is the running mean of all rewards, or a head that values prompts."""
SHIFT = 2.0
"""Standard deviation over prompts; that of sentiment within a prompt is about 0.5."""
_claim, _figure = claim_of("p3o", SOURCE), figure_of("p3o")


def _runs(settings: Settings, shift: float) -> Experiment:
    betas = (0.1,) if settings.quick else (0.03, 0.1, 0.3)
    specs = {
        f"{name}, β = {beta:g}": Spec(
            hyper={"beta": beta}, shift=shift, inner=2, rate=2e-4, sharpness=1.0, steps=settings.size(120, 60),
            every=settings.size(12, 10), **kind,
        )
        for name, kind in METHODS.items()
        if not (settings.quick and name == "PPO, learned value")
        for beta in betas
    }  # fmt: skip
    return Experiment(paper="p3o", name=f"shift-{shift:g}", specs=specs, seeds=seeds(settings, 5))


def plain(settings: Settings) -> Experiment:
    """Sentiment as it is."""
    return _runs(settings, 0.0)


def shifted(settings: Settings) -> Experiment:
    """A shift of each prompt is added."""
    return _runs(settings, SHIFT)


def _of(found: dict[str, dict[str, np.ndarray]], name: str) -> dict[str, dict[str, np.ndarray]]:
    """The runs of a method, by beta."""
    return {label.split(", β")[-1]: one for label, one in found.items() if label.rsplit(", β", 1)[0] == name}


def frontier(settings: Settings) -> Outcome | NotTestable:
    """P3O's sentiment at equal KL, less that of each rival, mean over beta."""
    found = results(settings, plain(settings))
    gains = {}
    for name in ("PPO", "DPO, online"):
        pairs = zip(_of(found, "P3O").values(), _of(found, name).values(), strict=True)
        gains[f"over {name}"] = np.mean([gains_at_equal(*pair, "kl", "sentiment") for pair in pairs], 0)
    return above_zero(
        gains, runs=sum(len(one["kl"]) for one in found.values()),
        note="Sentiment over the divergences that both reach, without shifts: P3O less PPO, P3O less DPO.",
    )  # fmt: skip


def _loss(settings: Settings, name: str) -> tuple[np.ndarray, str, int]:
    """What the shift costs in sentiment at the end, the mean over beta, `[seeds]`."""
    before, after = (_of(results(settings, runs(settings)), name) for runs in (plain, shifted))
    costs = [last(before[b]["sentiment"]) - last(after[b]["sentiment"]) for b in before]
    says = "; ".join(f"β{b}: {cost.mean():+.3f}" for b, cost in zip(before, costs, strict=True))
    return np.mean(costs, 0), says, 2 * sum(len(one["kl"]) for one in before.values())


def invariant(settings: Settings) -> Outcome:
    """What the shift costs P3O and DPO."""
    costs = {name: _loss(settings, name) for name in ("P3O", "DPO, online")}
    return Outcome(
        expected=0.0, measured=[cost[0].mean() for cost in costs.values()], tolerance=0.02,
        runs=sum(cost[2] for cost in costs.values()),
        spread="; ".join(f"{name} {cost[1]}" for name, cost in costs.items()),
        note="Sentiment lost at the end. Same seeds draw the same responses until rounding parts them.",
    )  # fmt: skip


def ppo_is_not(settings: Settings) -> Outcome:
    """What it costs PPO with a running mean."""
    cost, says, runs = _loss(settings, "PPO")
    return Outcome(expected=0.0, measured=cost.mean(), tolerance=0.05, relation="greater than", runs=runs, spread=says)


def value_mends(settings: Settings) -> Outcome | NotTestable:
    """What it costs PPO with a running mean, less what it costs with a learned value."""
    with_value, says, runs = _loss(settings, "PPO, learned value")
    without, others, _ = _loss(settings, "PPO")
    return above_zero(
        {"running mean less learned value": without - with_value}, runs=2 * runs,
        spread=f"learned value {says}; running mean {others}",
    )  # fmt: skip


def draw(settings: Settings) -> Drawing:
    """Paths of sentiment over KL, without and with the shift."""
    fig, axes = panels(
        2, titles=("Sentiment as it is", f"A shift of each prompt, sd {SHIFT:g}"), sharey=True, sharex=True
    )
    for ax, runs in zip(axes, (plain, shifted), strict=True):
        found = results(settings, runs(settings))
        for index, name in enumerate(METHODS):
            several = _of(found, name)
            style = plots.look(index)
            for k, one in enumerate(several.values()):
                x, y = (np.median(one[key], 0) for key in ("kl", "sentiment"))
                ax.plot(x, y, label=name if k == 0 else None, linewidth=1.6, **style)
                ax.plot(x[-1], y[-1], marker=plots.MARKERS[index], linestyle="", color=style["color"])
        describe(ax, "KL(π ‖ base)  (nats)", "VADER sentiment", legend="lower right" if runs is plain else False)
    return fig


CLAIMS = (
    _claim(
        "invariant", "Sec. 3, invariance", "A shift of the reward by prompt does not move P3O and DPO.",
        f"Shifts of standard deviation {SHIFT:g}, the same seeds with and without.", invariant,
    ),
    _claim(
        "ppo-is-not", "Sec. 3, invariance", "PPO does.",
        "The same, PPO with the running mean of all rewards as its value; more than 0.05 of sentiment is asked for.",
        ppo_is_not,
    ),
    _claim(
        "value", "Sec. 3, read for PPO with a critic",
        "Ours: a value of the prompt that is learned mends some of it.", "The same with a value head.", value_mends,
        full_only=True,
    ),
    _claim(
        "frontier", "Figures 1 and 2", "P3O's frontier of reward and KL lies above that of PPO, and of DPO.",
        "Pairs, two updates a rollout; mean difference of sentiment at equal KL, over β. Without shifts of the "
        "prompts the three are alike.",
        frontier, full_only=True, stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    _figure(
        "frontier", "Reward against KL, and what a shift of each prompt does",
        "Paths from the base model, one for each β, medians over seeds. Sentiment is measured without the shift.",
        draw, plain, shifted,
    ),
)  # fmt: skip

PAPER = Paper(
    name="p3o",
    title="Pairwise Proximal Policy Optimization",
    source=SOURCE,
    summary=(
        "A decoder of two layers, trained from scratch on templated reviews, with VADER's sentiment as the reward. "
        "Online: 32 pairs a step, two updates on each rollout. A constant that is added to the rewards of a prompt "
        "changes nothing for P3O and DPO, to the last sampled token, and costs PPO without a value of the prompt."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
