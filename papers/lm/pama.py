"""PAMA on a small language model: sentiment and length at once, beside MGDA and scalarised rewards."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from alignjax.record import Source
from papers.figures import describe, panels
from papers.lm import plots
from papers.lm.claims import claim_of, figure_of
from papers.lm.runs import Experiment, last, results, seeds
from papers.lm.training import Spec
from papers.record import Outcome, Paper, Settings

SOURCE = Source("He and Maghsudi", 2025, "2508.07768", "")
METHODS: dict[str, dict[str, Any]] = {
    "PAMA": {"method": "pama", "hyper": {"combine": "token"}},
    "MGDA": {"method": "mgda"},
    "MORLHF, equal weights": {"method": "pama", "hyper": {"combine": "linear", "use_noon": False}},
    "PAMA, batch vertex": {"method": "pama", "hyper": {"combine": "batch_vertex"}},
    "MGDA-UB": {"method": "pama", "hyper": {"combine": "gram", "use_noon": False}},
}
OBJECTIVES = ("sentiment", "length")
_claim, _figure = claim_of("pama", SOURCE), figure_of("pama")


def both(settings: Settings) -> Experiment:
    """Four responses a prompt, beta = 0.05."""
    names = list(METHODS)[: settings.size(5, 3)]
    specs = {
        name: Spec(
            method=METHODS[name]["method"], hyper={"beta": 0.05, **METHODS[name].get("hyper", {})}, responses=4,
            score="objectives", rate=3e-4, steps=settings.size(150, 60), every=settings.size(15, 10),
        )
        for name in names
    }  # fmt: skip
    return Experiment(paper="pama", name="objectives", specs=specs, seeds=seeds(settings))


def _ends(settings: Settings) -> tuple[dict[str, np.ndarray], int]:
    """Sentiment and length at the end, `[2]`, the mean over seeds; and how many runs there are."""
    found = results(settings, both(settings))
    ends = {name: np.asarray([last(one[key]).mean() for key in OBJECTIVES]) for name, one in found.items()}
    return ends, sum(len(one["kl"]) for one in found.values())


def _says(ends: dict[str, np.ndarray]) -> str:
    return "; ".join(f"{name}: sentiment {x[0]:.2f}, length {x[1]:.2f}" for name, x in ends.items())


def dominates(settings: Settings) -> Outcome:
    """PAMA's two objectives less MGDA's, and less MORLHF's."""
    ends, count = _ends(settings)
    gains = [ends["PAMA"] - ends[name] for name in ("MGDA", "MORLHF, equal weights")]
    return Outcome(
        expected=0.0, measured=np.stack(gains), relation="greater than", runs=count, spread=_says(ends),
        note="Rows: over MGDA, over MORLHF. Columns: sentiment, length.",
    )  # fmt: skip


def both_rise(settings: Settings) -> Outcome:
    """What each objective gains under MGDA and MORLHF."""
    found = results(settings, both(settings))
    gains = [
        [float((last(found[name][key]) - found[name][key][:, 0]).mean()) for key in OBJECTIVES]
        for name in ("MGDA", "MORLHF, equal weights")
    ]
    return Outcome(
        expected=0.0, measured=gains, relation="greater than", runs=2 * len(found["MGDA"]["kl"]),
        note="Rows: MGDA, MORLHF. Columns: sentiment, length.",
    )  # fmt: skip


def draw(settings: Settings) -> Drawing:
    """Both objectives over steps, and one against the other."""
    found = results(settings, both(settings))
    fig, axes = panels(3, titles=("Sentiment", "Length", "One against the other"), columns=3)
    for ax, name, label in zip(axes, OBJECTIVES, ("VADER sentiment", "share of the longest"), strict=False):
        plots.over_steps(ax, found, name)
        describe(ax, "updates", label, legend="lower right" if name == "length" else False)
    plots.against(axes[2], found, "length", "sentiment")
    describe(axes[2], "length", "VADER sentiment", legend=False)
    return fig


CLAIMS = (
    _claim(
        "dominates", "Table 1, GPT-2 on IMDb",
        "PAMA ends with more of both objectives, sentiment and length, than MGDA and than MORLHF.",
        "Rewards: VADER's sentiment, and words over the most there can be; equal updates for each method.", dominates,
        stands="contradicted",
    ),
    _claim(
        "both-rise", "derived here", "Ours: MGDA and equal weights raise both objectives of the base model.",
        "The same runs.", both_rise,
    ),
)  # fmt: skip

FIGURES = (
    _figure(
        "objectives", "Sentiment and length: PAMA, MGDA and scalarised",
        "Four responses a prompt, β = 0.05. Lines: medians over seeds; bands: all of them. Last panel: paths from the "
        "base model.",
        draw, both,
    ),
)  # fmt: skip

PAPER = Paper(
    name="pama",
    title="Pareto Multi-Objective Alignment for Language Models",
    source=SOURCE,
    summary=(
        "A decoder of two layers, trained from scratch on templated reviews, with two rewards of a response: VADER's "
        "sentiment and length. Length is the easier one: PAMA, which follows what is good for both at once, and MGDA "
        "drive it to its end and move sentiment less than equal weights do."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
