"""Zhang, Yu, et al., 2025, optimistic Nash policy optimisation, arXiv:2502.16852: claims as runs, and figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import onpo_checks as checks
from papers import onpo_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Zhang, Yu, et al.", 2025, "2502.16852", "")


def _claim(
    name: str,
    where: str,
    says: str,
    how: str,
    test: Callable[[Settings], Outcome | NotTestable],
    formula: str = "",
    *,
    stands: Verdict = "reproduced",
) -> Claim:
    source = dataclasses.replace(SOURCE, equation=where)
    return Claim(id=f"onpo.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_GAMES = (
    "400 random games of 2 to 12 responses (uniform, 0/1 tournaments, annotators, voters, Bradley-Terry), from "
    "references of three spreads"
)
_RPS = "Rock-paper-scissors with certain wins from (0.5, 0.3, 0.2), 4,000 steps"
_LAST = (
    "120 random games of 3 (cycles), 5 and 7 responses (uniform), eta = 1/8, random starts, 40,000 (10,000 with "
    "--quick) steps; the Nash by linear programs"
)

CLAIMS = (
    _claim(
        "theorem-1", "Theorem 1",
        "The average policy of online mirror descent has a duality gap of at most 4 sqrt(D/T).",
        f"{_GAMES}; T = 10, 100, 1,000 (the first two); eta = sqrt(D/T). (The text read prints D/T.)",
        checks.theorem_1,
        r"\mathrm{DualGap}(\bar\pi_T) \leq 4 \sqrt{D / T}",
    ),
    _claim(
        "theorem-1-sharp", "Theorem 1, sharpened here",
        "Ours: with eta = sqrt(8 D/T) it is at most sqrt(2 D/T), nearly a third of that.",
        "The same games at that step.",
        checks.theorem_1_sharp,
        r"\mathrm{DualGap}(\bar\pi_T) \leq \sqrt{2 D / T}",
    ),
    _claim(
        "theorem-2", "Theorem 2, as far as the text could be read",
        "The average policy of the optimistic method has a duality gap of at most 4 sqrt(D)/T.",
        "One response that always wins among 5, 10 and 50, uniform start, eta = min(1/2, sqrt D) = 1/2; the largest "
        "T times gap over T up to 1,000 (300).",
        checks.theorem_2,
        r"T \cdot \mathrm{DualGap}(\bar\pi_T) \leq 4 \sqrt{D}",
        stands="contradicted",
    ),
    _claim(
        "theorem-2-mended", "Theorem 2, mended here",
        "Ours: T times the gap is at most 2 D/eta + 1, the standard bound for optimistic regret.",
        f"{_GAMES}, and the games of the claim above; every T up to 1,000 (300), eta = min(1/2, sqrt D).",
        checks.theorem_2_mended,
        r"T \cdot \mathrm{DualGap}(\bar\pi_T) \leq \frac{2 D}{\eta} + 1",
    ),
    _claim(
        "faster", "Theorems 1 and 2",
        "The optimistic average has a smaller gap than that of mirror descent.",
        f"{_GAMES}; 1,000 (300) steps.",
        checks.faster_than_mirror_descent,
    ),
    _claim(
        "last-iterate", "Theorem 3",
        "Where the Nash is unique and eta is at most 1/8, the last policy converges to it.",
        _LAST + ".",
        checks.last_iterate,
        r"\mathrm{KL}(\pi^* \| \pi_t) = O(C^{-t})",
    ),
    _claim(
        "mirror-descent-leaves", "Motivation of Theorem 3",
        "Without optimism the last policy does not converge: on cycles it moves away from the Nash.",
        "The 40 cycles of three responses among them, multiplicative weights at the same step.",
        checks.mirror_descent_leaves,
    ),
    _claim(
        "linear-phase", "Theorem 3",
        "Near the Nash the convergence is linear, at a rate of the instance.",
        f"{_RPS}; late KL factors at eta = 0.1, 1/8 and 1/2 against eigenvalues derived here.",
        checks.linear_phase,
        r"z^2 = z + i \eta \lambda (2 z - 1)",
    ),
    _claim(
        "optimism", "Theorem 3",
        "One optimistic term makes the difference between going in and going out.",
        f"{_RPS} at eta = 0.1; gap of the last policy with it over gap without it.",
        checks.optimism_matters,
    ),
    _claim(
        "practical-step", "Experiments, read as an exact algorithm",
        "If its iterations were exact, ONPO would converge at the step of its experiments, 1/eta = 0.01. (The "
        "paper's theorem asks for eta of at most 1/8.)",
        "Rock-paper-scissors from (0.5, 0.3, 0.2), 400 exact iterations at eta = 100.",
        checks.practical_step,
        stands="contradicted",
    ),
    _claim(
        "hard-labels", "Losses after Theorem 2",
        "Regression of the log-ratio margin of labelled pairs on eta/2 realises both halves of a step: pairs from "
        "the last policy predict, pairs from the played one correct.",
        "40 (10) random games of five responses, six steps at eta = 1/2; least squares over all labelled pairs "
        "against the recursion in closed form.",
        checks.hard_labels,
        r"E (\log \frac{\pi(y_w)}{\pi(y_l)} - \log \frac{\pi'_t(y_w)}{\pi'_t(y_l)} - \frac{\eta}{2})^2",
    ),
    _claim(
        "gradient", "Losses after Theorem 2",
        "The gradient of this library's loss vanishes at the exact step, whatever law draws the pairs.",
        "The same games, random laws; enumerated population gradient, largest entry.",
        checks.gradient,
    ),
    _claim(
        "language-models", "Experiments",
        "On AlpacaEval 2 ONPO gains 9.9 % and 21.2 % over the best baseline.",
        "Not run.",
        checks.language_models,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="onpo-averages",
        title="Averages: 1/T with optimism",
        caption="Left: duality gap of the average policy on random games over 2D/eta + 1, median and 10 to 90 % "
        "band; dashed: the bound we stand by. Mirror descent runs at the best step for the last T. Right: T times "
        "the gap where one of K responses always wins; dotted: 4 sqrt(D) as extracted, long dashes: 2D/eta. Exact: "
        "no runs to average.",
        draw=figures.averages,
    ),
    Figure(
        id="onpo-last",
        title="Last policies on rock-paper-scissors",
        caption="Left: multiplicative weights turn outwards, ONPO inwards, from the same start. Right: divergence "
        "from the Nash, and the slopes that the eigenvalues of the linear part give. Exact: no runs to average.",
        draw=figures.last,
    ),
    Figure(
        id="onpo-games",
        title="Last policies on random games",
        caption="Divergence from the unique Nash along ONPO at eta = 1/8 and along multiplicative weights: median "
        "and 10 to 90 % band over 40 cycles (left) and those of 80 games of five and seven responses whose Nash is "
        "mixed (right).",
        draw=figures.random_games,
    ),
)  # fmt: skip

PAPER = Paper(
    name="onpo",
    title="Improving LLM General Preference Alignment via Optimistic Online Mirror Descent",
    source=SOURCE,
    summary=(
        "Mirror descent that expects the last win-rates to come again. Its last policy does converge where mirror "
        "descent turns outwards, linearly in the end and at the rate that the eigenvalues of the game give, and "
        "averages improve like 1/T. The constant of the averages' theorem, as far as the text could be read, fails as "
        "soon as one of many responses dominates; the standard one, 2D/eta, holds everywhere. The regression on "
        "labels is an exact step. At the step sizes of the language-model experiments the exact method would not "
        "converge."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
