"""Nash-MD on a small language model: the mixture coefficient, under a judge whose taste is cyclic."""

import numpy as np
from matplotlib.figure import Figure as Drawing

from alignjax.record import Source
from papers.figures import GREY, describe, heat_map, panels, reference_line
from papers.lm import corpus, plots
from papers.lm.claims import above_zero, claim_of, figure_of
from papers.lm.runs import SAMPLES, Experiment, late, results, seeds
from papers.lm.scorers import prefers
from papers.lm.training import Spec
from papers.record import NotTestable, Outcome, Paper, Settings

SOURCE = Source("Munos et al.", 2023, "2312.00886", "")
_claim, _figure = claim_of("nash-md", SOURCE), figure_of("nash-md")


def mixtures(settings: Settings) -> Experiment:
    """From self-play (0) to the best response to the base model (1)."""
    every = (0.0, 0.25, 1.0) if settings.quick else (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    specs = {
        f"m = {m:g}": Spec(
            method="nash_md_pg", hyper={"beta": 0.02, "mixture": m}, responses=4, score="cyclic", rate=3e-4,
            steps=settings.size(200, 100), every=settings.size(20, 20),
        )
        for m in every
    }  # fmt: skip
    return Experiment(paper="nash-md", name="mixture", specs=specs, seeds=seeds(settings, 5), measure="with_responses")


def payoff(settings: Settings) -> tuple[list[str], np.ndarray]:
    """P(row beats column) at the end of the runs, `[seeds, mixtures, mixtures]`, the mean over prompts."""
    found = results(settings, mixtures(settings))
    shape = (-1, len(corpus.PROMPTS), SAMPLES, 3)
    shares = [one["responses"][:, -1].reshape(shape) for one in found.values()]
    against = lambda a, b: prefers(a[:, :, :, None], b[:, :, None, :]).mean((1, 2, 3))
    return list(found), np.moveaxis(np.asarray([[against(a, b) for b in shares] for a in shares]), -1, 0)


def _exploited(settings: Settings) -> tuple[dict[str, np.ndarray], int]:
    found = results(settings, mixtures(settings))
    return {name: late(one["exploited"]) for name, one in found.items()}, sum(len(x["kl"]) for x in found.values())


def inner_is_best(settings: Settings) -> Outcome | NotTestable:
    """The mean win-rate over the other mixtures of the best inner one, less that of either end."""
    names, table = payoff(settings)
    mean = (table.sum(2) - np.diagonal(table, axis1=1, axis2=2)) / (len(names) - 1)
    best = 1 + int(mean.mean(0)[1:-1].argmax())
    return above_zero(
        {f"{names[best]} less {names[end]}": mean[:, best] - mean[:, end] for end in (0, -1)}, runs=mean.size,
        spread="; ".join(f"{name}: {x:.3f}" for name, x in zip(names, mean.mean(0), strict=True)),
        note="Mean win-rate against the other mixtures; the best of the inner ones less self-play, and less the best "
        "response.",
    )  # fmt: skip


def best_response_is_exploited(settings: Settings) -> Outcome:
    """The highest win-rate against the best response, less that against the least exploited inner mixture."""
    ends, count = _exploited(settings)
    means = {name: x.mean() for name, x in ends.items()}
    inner = min(list(means.values())[1:-1])
    return Outcome(
        expected=0.0, measured=float(means["m = 1"] - inner), relation="greater than", runs=count,
        spread="; ".join(f"{name}: {x:.3f}" for name, x in means.items()),
    )  # fmt: skip


def beats_base(settings: Settings) -> Outcome:
    """The win-rate of the best response against the base model."""
    found = results(settings, mixtures(settings))
    ends = {name: late(one["win_rate"]) for name, one in found.items()}
    return Outcome(
        expected=0.5, measured=float(ends["m = 1"].min()), relation="greater than", runs=len(ends["m = 1"]),
        spread="; ".join(f"{name}: {x.mean():.3f}" for name, x in ends.items()),
    )  # fmt: skip


def draw(settings: Settings) -> Drawing:
    """How far each can be exploited, over steps and at the end; and what they win of each other."""
    found = results(settings, mixtures(settings))
    fig, axes = panels(
        4, titles=("Highest win-rate against it", "Second half of the runs", "Topics over updates", "Who beats whom")
    )
    chosen = list(found) if len(found) < 5 else ["m = 0", "m = 0.125", "m = 0.375", "m = 1"]
    plots.over_steps(axes[0], found, "exploited", chosen)
    reference_line(axes[0], 0.5, "unbeatable", color=GREY)
    describe(axes[0], "updates", "win probability")
    x = [float(name.split("= ")[1]) for name in found]
    for index, (name, label) in enumerate((("exploited", "of the best pure response against it"),
                                           ("win_rate", "its own, against the base model"))):  # fmt: skip
        values = [late(one[name]) for one in found.values()]
        axes[1].plot(x, [v.mean() for v in values], label=label, marker=plots.MARKERS[index], **plots.look(index))
    describe(axes[1], "mixture coefficient m", "win probability")
    for index, name in enumerate(chosen):
        path = found[name]["topics"].mean(0)
        axes[2].plot(path[:, 0], path[:, 1], label=name, **plots.look(index))
        axes[2].plot(*path[-1, :2], marker=plots.MARKERS[index], linestyle="", color=plots.look(index)["color"])
    describe(axes[2], "share of people", "share of money")
    names, tables = payoff(settings)
    table = tables.mean(0)
    heat_map(axes[3], range(len(names)), range(len(names)), table, "P(row beats column)", limits=(0.4, 0.6))
    for i, j in np.ndindex(table.shape):
        axes[3].text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color="white", fontsize=10)
    for ticks in (axes[3].set_xticks, axes[3].set_yticks):
        ticks(range(len(names)), [name.split("= ")[1] for name in names])
    describe(axes[3], "m of the column", "m of the row", legend=False)
    return fig


CLAIMS = (
    _claim(
        "inner", "Table 1", "A mixture coefficient inside (0, 1) beats both ends, self-play and the best response.",
        "Nash-MD-PG with four sampled opponents from the tokenwise mixture; the judge prefers people to money, money "
        "to things and things to people.",
        inner_is_best,
        full_only=True,
    ),
    _claim(
        "best-response", "Table 1", "The best response to the base model is exploited more than inner mixtures.",
        "The same runs; the highest win-rate that a response about one topic has against the policy, the mean over the "
        "second half of each run, for runs that cycle.",
        best_response_is_exploited,
    ),
    _claim(
        "beats-base", "Table 1, the row of SFT", "The best response beats the base model.", "The same runs, m = 1.",
        beats_base,
    ),
)  # fmt: skip

FIGURES = (
    _figure(
        "mixture", "Nash-MD over the mixture coefficient",
        "The judge's taste is cyclic. m = 0 is self-play, m = 1 the best response to the base model. Means over seeds; "
        "bands: all of them.",
        draw, mixtures,
    ),
)  # fmt: skip

PAPER = Paper(
    name="nash-md",
    title="Nash Learning from Human Feedback",
    source=SOURCE,
    summary=(
        "A decoder of two layers, trained from scratch on templated reviews, and a judge who prefers people to money, "
        "money to things and things to people. Opponents are sampled from the tokenwise mixture of the policy and the "
        "base model. Self-play circles through the topics; the best response to the base model goes straight to one, "
        "and can be exploited there."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
