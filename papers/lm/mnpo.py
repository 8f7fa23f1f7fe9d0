"""MNPO on a small language model: iterations of MNPO, INPO, SPPO and DPO under a judge whose taste is cyclic."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from alignjax.record import Source
from papers.figures import GREY, describe, panels, reference_line
from papers.lm import plots
from papers.lm.claims import above_zero, claim_of, figure_of
from papers.lm.runs import Experiment, late, results, seeds
from papers.lm.training import Spec
from papers.record import NotTestable, Outcome, Paper, Settings

SOURCE = Source("Wu et al.", 2025, "2509.23102", "")
STEP, TAU, DPO_BETA = 8.0, 0.05, 0.5
"""Near 1/2 log-odds are four times win-rates, so that 4 / DPO_BETA is DPO's step: all take one size."""
METHODS: dict[str, dict[str, Any]] = {
    "TD-MNPO": {"method": "td_mnpo", "hyper": {"step_size": STEP, "beta": TAU}, "history": 2, "sampler": "previous"},
    "INPO": {"method": "inpo", "hyper": {"step_size": STEP, "beta": TAU}},
    "SPPO": {"method": "sppo", "hyper": {"step_size": STEP}},
    "DPO, iterated": {"method": "dpo", "hyper": {"beta": DPO_BETA}, "sampler": "previous"},
    "MNPO": {"method": "mnpo", "hyper": {"step_size": STEP}, "history": 2, "sampler": "previous"},
}
_claim, _figure = claim_of("mnpo", SOURCE), figure_of("mnpo")


def iterations(settings: Settings) -> Experiment:
    """Pairs of the previous iterate, labelled by the judge; it is renewed at the end of each iteration."""
    length = settings.size(40, 25)
    specs = {
        name: Spec(
            responses=2, score="cyclic", rate=3e-4, iteration=length, every=length, steps=length * settings.size(8, 4),
            **METHODS[name],
        )
        for name in list(METHODS)[: settings.size(5, 4)]
    }  # fmt: skip
    return Experiment(paper="mnpo", name="iterations", specs=specs, seeds=seeds(settings, 5))


def less_exploited(settings: Settings) -> Outcome | NotTestable:
    """How much more DPO is exploited than TD-MNPO and INPO, the mean over the later iterations."""
    found = results(settings, iterations(settings))
    ends = {name: late(one["exploited"]) for name, one in found.items()}
    return above_zero(
        {f"DPO less {name}": ends["DPO, iterated"] - ends[name] for name in ("TD-MNPO", "INPO")},
        runs=sum(len(one["kl"]) for one in found.values()),
        spread="; ".join(
            f"{name}: {x.mean():.3f}, KL {late(found[name]['kl']).mean():.2f}" for name, x in ends.items()
        ),
        note="Highest win-rate of a response about one topic: against DPO less against the other. "
        "DPO's reference is the base model: all of the pull is to where little can be exploited, of which the others "
        "keep a share.",
    )  # fmt: skip


def history_helps(settings: Settings) -> Outcome | NotTestable:
    """How much more INPO is exploited than TD-MNPO."""
    found = results(settings, iterations(settings))
    ends = {name: late(found[name]["exploited"]) for name in ("TD-MNPO", "INPO")}
    gain = ends["INPO"] - ends["TD-MNPO"]
    return above_zero(
        {"INPO less TD-MNPO": gain}, runs=2 * len(gain),
        spread="; ".join(f"{name}: {x.mean():.3f}" for name, x in ends.items()),
    )  # fmt: skip


def _late_exploited(settings: Settings) -> tuple[dict[str, np.ndarray], int]:
    """The highest win-rate against each method, over the later iterations, `[seeds]`; and how many runs there are."""
    found = results(settings, iterations(settings))
    ends = {name: late(one["exploited"]) for name, one in found.items()}
    return ends, sum(len(one["kl"]) for one in found.values())


def best(settings: Settings) -> Outcome | NotTestable:
    """How much more each rival is exploited than TD-MNPO."""
    ends, count = _late_exploited(settings)
    gains = {f"{name} less TD-MNPO": x - ends["TD-MNPO"] for name, x in ends.items() if name != "TD-MNPO"}
    return above_zero(gains, runs=count, spread="; ".join(f"{name}: {x.mean():.3f}" for name, x in ends.items()))


def without_reference(settings: Settings) -> Outcome | NotTestable:
    """How much more SPPO and MNPO are exploited than INPO."""
    ends, count = _late_exploited(settings)
    return above_zero({f"{name} less INPO": ends[name] - ends["INPO"] for name in ("SPPO", "MNPO")}, runs=count)


def draw(settings: Settings) -> Drawing:
    """Exploitation, win-rate against the base model and KL over iterations, and topics."""
    found = results(settings, iterations(settings))
    titles = ("Highest win-rate against it", "Win-rate against the base model", "KL from the base model", "Topics")
    fig, axes = panels(4, titles=titles)
    length = next(iter(iterations(settings).specs.values())).iteration
    counted = {name: {**one, "step": one["step"] / length} for name, one in found.items()}
    rows = (("exploited", "win probability"), ("win_rate", "win probability"), ("kl", "KL(π ‖ base)  (nats)"))
    for ax, (name, label) in zip(axes, rows, strict=False):
        plots.over_steps(ax, counted, name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        describe(ax, "iteration", label, legend=name == "kl")
    reference_line(axes[0], 0.5, "unbeatable", color=GREY)
    for index, (name, one) in enumerate(found.items()):
        path, style = one["topics"].mean(0), plots.look(index)
        axes[3].plot(path[:, 0], path[:, 1], label=name, **style)
        axes[3].plot(*path[-1, :2], marker=plots.MARKERS[index], linestyle="", color=style["color"])
    describe(axes[3], "share of people", "share of money", legend=False)
    return fig


CLAIMS = (
    _claim(
        "less-exploited", "Table 2, read for intransitive preferences",
        "Game methods (TD-MNPO, INPO) end less exploited than iterated DPO under a cyclic judge.",
        f"Step size {STEP:g} and temperature {TAU:g}; DPO with β = {DPO_BETA:g}, near 1/2 the same step. Labels are "
        "drawn from the judge; mean over the later half of the iterations.",
        less_exploited, stands="contradicted",
    ),
    _claim(
        "history", "Table 2, read for intransitive preferences",
        "Two past policies among the opponents (TD-MNPO) are better than one (INPO).",
        "The same runs; exploitation of INPO less that of TD-MNPO.", history_helps, full_only=True,
    ),
    _claim(
        "best", "Table 2, read for intransitive preferences", "TD-MNPO ends the least exploited of all.",
        "The same runs; each rival less TD-MNPO. Iterated DPO, whose reference is the base model, ends as little "
        "exploited; the other three more.",
        best, full_only=True, stands="not testable here",
    ),
    _claim(
        "without-reference", "Eq. 10, derived here",
        "Ours: without a reference among the bases (SPPO, MNPO as in Eq. 15) the iterates circle away from where they "
        "cannot be exploited.",
        "The same runs; SPPO and MNPO less INPO, which differs from SPPO by its pull to the reference. Five seeds show "
        "it of SPPO, and leave it open of MNPO.",
        without_reference, full_only=True, stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    _figure(
        "iterations", "MNPO, INPO, SPPO and DPO over iterations",
        "The judge prefers people to money, money to things and things to people. Medians over seeds; bands: all of "
        "them. Last panel: what the responses are about.",
        draw, iterations,
    ),
)  # fmt: skip

PAPER = Paper(
    name="mnpo",
    title="Multiplayer Nash Preference Optimization",
    source=SOURCE,
    summary=(
        "A decoder of two layers, trained from scratch on templated reviews. In every iteration pairs of the previous "
        "iterate are labelled by a judge who prefers people to money, money to things and things to people: no policy "
        "is best, and each is measured by the highest win-rate against it. In the full runs SPPO and MNPO, without a "
        "reference, spiral outwards; INPO and iterated DPO circle; TD-MNPO, with two past policies, spirals inwards."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
