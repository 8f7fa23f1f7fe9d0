"""The checks of the MNPO page that regress: settings in, what the paper says beside what a run gave out."""

import math
from collections.abc import Callable

import numpy as np

from alignjax.objectives.mnpo import TABLE_1
from papers import mnpo_losses as losses
from papers import mnpo_table as table
from papers.nash_md_checks import spread_of
from papers.record import NotTestable, Outcome, Settings


def listed(values: np.ndarray, digits: int = 3) -> str:
    """Numbers, joined by commas."""
    return ", ".join(f"{value:.{digits}g}" for value in np.ravel(values))


# --- Eq. 6 ----------------------------------------------------------------------------------------------------------


def ranking(settings: Settings) -> Outcome:
    """Scores fitted with Eq. 6 as it is printed: their range against the true ones'."""
    run = losses.score_fits(settings)
    true, found = np.ptp(run["true"], axis=-1), np.ptp(run["printed"], axis=-1)
    return Outcome(
        expected=np.median(true),
        measured=np.median(found),
        tolerance=0.01,
        runs=len(true),
        spread=f"range of the fitted scores: {spread_of(found, 'nats')}",
        note="median range of five scores; each response of a pool in turn takes the winner's place, so that the data "
        "say nothing about who won, and equal scores are the maximum, for two responses as well",
    )


def ranking_of_winners(settings: Settings) -> Outcome:
    """The same with the winner's term alone: largest error of a score."""
    run = losses.score_fits(settings)
    error = np.abs(run["winner"] - run["true"]).max(-1)
    return Outcome(expected=0.0, measured=error.max(), tolerance=1e-5, runs=len(error), spread=spread_of(error, "nats"))


# --- Lemma 1, Proposition 1 -------------------------------------------------------------------------------------------


def lemma(settings: Settings) -> Outcome:
    """The minimiser of Eq. 14 against Eq. 10, and how many losses are flat in some direction."""
    run = losses.proposition(settings)
    return Outcome(
        expected=0.0,
        measured=[run["lemma"].max(), float((run["curvature"] < 1e-8).sum())],
        tolerance=1e-10,
        runs=run["lemma"].size,
        spread=f"least curvature: {spread_of(run['curvature'])}",
        note="largest difference of log-probability, and the number of games without a unique minimiser",
    )


def proposition(settings: Settings) -> Outcome:
    """Proposition 1 as printed: the variation of the difference of the two losses, and their minimisers."""
    run, small = losses.proposition(settings), losses.counterexamples()
    return Outcome(
        expected=0.0,
        measured=[np.median(run["printed_spread"]), np.median(run["printed"])],
        tolerance=1e-10,
        runs=run["printed"].size,
        spread=f"KL of the minimisers: {spread_of(run['printed'], 'nats')}",
        note="medians of how much the difference of the losses varies over six policies, and of the KL between the "
        f"minimisers, eta = {losses.ETAS}. Smallest counterexample: two responses, the first always preferred, "
        f"everything uniform, eta = 2: Eq. 10 gives ({listed(small['constant_ten'])}), Eq. 15 "
        f"({listed(small['constant_hard'])})",
    )


def counterexample(settings: Settings) -> Outcome:
    """The two smallest counterexamples: Eq. 10 and the minimiser of Eq. 15, in probabilities."""
    run = losses.counterexamples()
    return Outcome(
        expected=[*run["constant_ten"], *run["opponents_ten"]],
        measured=[*run["constant_hard"], *run["opponents_hard"]],
        tolerance=1e-10,
        runs=2,
        spread=f"Eq. 10: ({listed(run['constant_ten'])}) and ({listed(run['opponents_ten'])}); Eq. 15: "
        f"({listed(run['constant_hard'])}) and ({listed(run['opponents_hard'])})",
        note="first (the constant): two responses, P = 1, all uniform, eta = 2. Second (the opponent; eta = 1, where "
        "the two constants agree): rock, paper, scissors, one opponent who plays rock half of the time. Labels of "
        "uniform pairs say that all three are equally good, so Eq. 15 stays at the opponent; Eq. 10 moves to paper. "
        "With two responses the second cannot happen: the opponent does not matter there",
    )


def proposition_constant(settings: Settings) -> Outcome:
    """With every opponent equal to the pairs' law: the printed constant, and half of the step."""
    run = losses.proposition(settings)
    return Outcome(
        expected=[0.0, 0.0],
        measured=[np.median(run["constant"]), np.median(np.abs(run["constant_fixed"]))],
        tolerance=1e-10,
        runs=run["constant"].size,
        spread=f"KL of the minimisers with 1 / (2 eta): {spread_of(run['constant'], 'nats')}",
        note="median KL with the target 1 / (2 eta), as printed, and with eta / 2: eta is the step in Eq. 10 and the "
        "inverse step in Eq. 15, and the two agree at eta = 1 alone",
    )


def proposition_opponents(settings: Settings) -> Outcome:
    """With the right constant and distinct opponents."""
    run = losses.proposition(settings)
    return Outcome(
        expected=[0.0, 0.0],
        measured=[np.median(run["opponents_spread"]), np.median(run["opponents"])],
        tolerance=1e-10,
        runs=run["opponents"].size,
        spread=f"KL of the minimisers: {spread_of(run['opponents'], 'nats')}; medians for eta = {losses.ETAS}: "
        + listed(np.median(run["opponents"], -1)),
        note="medians of the variation of the losses' difference and of the KL between the minimisers: labels compare "
        "a response with the law of the pairs, not with the opponents",
    )


def proposition_corrected(settings: Settings) -> Outcome:
    """With both corrections: the difference of the losses, and the minimisers."""
    run = losses.proposition(settings)
    return Outcome(
        expected=[0.0, 0.0],
        measured=[run["corrected_spread"].max(), run["corrected"].max()],
        tolerance=1e-10,
        runs=run["corrected"].size,
        note="largest variation of the losses' difference over six policies, and largest difference of log-probability "
        "between the minimiser of the labels and prod_j pi_j^{1/(n-1)} exp(eta P(y > nu)), nu the law of the pairs; "
        "the bases are free",
    )


# --- Table 1 ----------------------------------------------------------------------------------------------------------

_CORRECTION = {row.name: row.correction for row in TABLE_1}
_BESIDE = {
    "SPPO": "second number: the mean of the squared residuals less SPPO's loss",
    "DNO": "second number: the printed row, whose target is infinite, against DNO-Prct at beta = 1",
}


def table_row(name: str) -> Callable[[Settings], Outcome]:
    """The corrected row against the method's own loss."""
    place = table.NAMES.index(name)

    def check(settings: Settings) -> Outcome:
        run = table.errors(settings)
        measured = [run["corrected"][place]]
        if name == "SPPO":
            measured.append(run["residuals"])
        if name == "DNO":
            measured.append(run["practical"])
        off = run["printed"][place]
        size = "an infinite loss" if math.isinf(off) else f"its gradient is off by {off:.0%} at beta = .3, h = .7"
        parts = [_CORRECTION[name], "it holds as printed" if off == 0 else f"as printed: {size}", _BESIDE.get(name, "")]
        return Outcome(
            expected=np.zeros(len(measured)),
            measured=measured,
            tolerance=1e-10,
            runs=settings.size(4000, 500),
            note="; ".join(part for part in parts if part),
        )

    return check


def table_printed(settings: Settings) -> Outcome:
    """All rows as printed, after the best factor."""
    run = table.errors(settings)
    named = ", ".join(
        f"{name} {'∞' if math.isinf(off) else f'{off:.2f}'}"
        for name, off in zip(table.NAMES, run["printed"], strict=True)
    )
    fine = [name for name, off in zip(table.NAMES, run["unit"], strict=True) if off < 1e-10]
    return Outcome(
        expected=np.zeros(len(table.NAMES)),
        measured=run["printed"],
        tolerance=1e-10,
        runs=settings.size(4000, 500),
        spread=named,
        note="relative error of the gradient after the best factor, at beta = .3 and h = .7. At beta = h = 1 those of "
        f"{', '.join(fine)} vanish: what they lack is beta in front of the margin, and for INPO that its target is "
        "1 / (2 eta)",
    )


# --- TD-, HT-, EO-MNPO ------------------------------------------------------------------------------------------------


def effective_temperature(settings: Settings) -> Outcome:
    """The end of TD-MNPO's iteration against Newton's Nash at eta ratio."""
    error = losses.fixed_points(settings)["effective"]
    return Outcome(
        expected=0.0,
        measured=error.max(-1),
        tolerance=1e-8,
        runs=error.size,
        spread=spread_of(error),
        note=f"ratio {listed(np.asarray(losses.RATIO))} by eta {listed(np.asarray(losses.ETA))}; largest difference "
        "of log-probability",
    )


def history_weights(settings: Settings) -> Outcome:
    """The fixed point with the configured weights, which the released trainer does not read."""
    run = losses.fixed_points(settings)
    return Outcome(
        expected=0.0,
        measured=run["weights"].max(),
        tolerance=1e-8,
        runs=run["weights"].size,
        spread=f"KL between one step with (.25, .75) and with equal weights: {spread_of(run['step'], 'nats')}",
        note="largest difference of log-probability at the end. The configs set `weights`, the trainer reads "
        "`history_weights` and takes equal ones: a step differs, its fixed point does not",
    )


def short_weights(settings: Settings) -> Outcome:
    """Weights that sum to less than one: the end against the Nash with a flattened reference."""
    run = losses.fixed_points(settings)
    reference, past = losses.SHARES
    return Outcome(
        expected=0.0,
        measured=run["short"].max(),
        tolerance=1e-8,
        runs=run["short"].size,
        spread=f"KL from the Nash with the reference itself: {spread_of(run['short_nash'], 'nats')}",
        note=f"weights {reference} and {past}: what is missing to one multiplies an entropy, and the reference enters "
        "with the power w_ref / (1 - w_past)",
    )


def token_means(settings: Settings) -> Outcome:
    """The step a loss on per-token means takes, over the one it is given."""
    run = losses.token_means(settings)
    step = np.median(run["step"], -1)
    return Outcome(
        expected=np.ones(len(step)),
        measured=step,
        tolerance=1e-6,
        runs=run["step"].size,
        spread=f"what the step leaves unexplained: {run['residual'].max():.1g}",
        note=f"step taken over 1 / eta for responses of {losses.LENGTHS} tokens: it is the length. At the released "
        "eta = .0075 the target is 66.7 nats a token, which no policy reaches: within a nat a token of the start the "
        "square is linear to 1.5 %",
    )


def external(settings: Settings) -> Outcome:
    """EO-MNPO's objective by a general optimiser, and its loss, against the closed form."""
    run = losses.external(settings)
    return Outcome(
        expected=[0.0, 0.0],
        measured=[run["objective"].max(), run["loss"].max()],
        tolerance=1e-6,
        runs=run["loss"].size,
        note="largest difference of probability from the objective's maximum (BFGS), and of log-probability from the "
        "minimiser of the regression",
    )


# --- what cannot be run here ------------------------------------------------------------------------------------------


def benchmarks(settings: Settings) -> NotTestable:
    """Table 2: AlpacaEval 2, Arena-Hard, MT-Bench."""
    return NotTestable(
        "needs Gemma-2-9B-it, ArmoRM labels of 60,000 prompts and a GPT-5-mini judge (reported, AlpacaEval 2 / "
        "Arena-Hard / MT-Bench: INPO 56.09 / 48.03 / 6.95, TD-MNPO 57.27 / 52.26 / 7.03)"
    )


def number_of_players(settings: Settings) -> NotTestable:
    """The ablation over n."""
    return NotTestable(
        "needs the same training runs (reported for n = 1..4: 53.32, 54.34, 57.27, 57.42). What n does to equilibria "
        "and to the dynamics is in the claims above"
    )


def heterogeneous(settings: Settings) -> NotTestable:
    """The reward models as players."""
    return NotTestable(
        "needs three 8B reward models as players (reported AlpacaEval 2: ArmoRM 57.63, Skywork 56.01, Athene 59.64)"
    )
