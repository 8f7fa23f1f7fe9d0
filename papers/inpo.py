"""Zhang et al., 2024, "Iterative Nash Policy Optimization", arXiv:2407.00617: its claims as runs, and its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import inpo_checks as checks
from papers import inpo_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Zhang et al.", 2024, "2407.00617", "")


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
    return Claim(id=f"inpo.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_GAMES = (
    "2,000 random games (400 with --quick) of 2 to 12 responses: uniform, 0/1 tournaments, annotators, voters, "
    "Bradley-Terry"
)
_PAIRS = (
    "100 (30) games of four responses, tau = 0.3, step 0.8, the law of the pairs enumerated, least squares in NumPy; "
    "300 (100) iterations"
)

CLAIMS = (
    # losses
    _claim(
        "hard-is-soft", "Proposition 6",
        "On pairs from the previous iterate, the loss on labels and the loss on win-rates differ by a constant.",
        "All pairs enumerated on 200 (50) random problems; the range of the difference over thirty random policies.",
        checks.hard_is_soft,
        r"E (h_t(\pi, y_w, y_l) - \frac{1}{2 \eta})^2 = E (h_t(\pi, y, y') - \frac{P(y \succ \pi_t) - P(y' \succ "
        r"\pi_t)}{\eta})^2 + c",
    ),
    _claim(
        "minimiser", "Eq. 5 and Proposition 6",
        "The minimiser of either loss is one step of online mirror descent on the regularised game.",
        "Enumerated gradients of both losses at the solver's step from random previous iterates.",
        checks.minimiser,
        r"\pi_{t+1} \propto \pi_t^{1 - \tau / \eta} \mu^{\tau / \eta} \exp(P \pi_t / \eta)",
    ),
    _claim(
        "magnetic", "Eq. 5, an identity of ours",
        "The iterate is that of magnetic mirror descent with the reference as magnet and the step h/(1 - h tau), h = "
        "1/eta.",
        "50 steps of the solver against the printed update of arXiv:2206.05825 in plain probabilities.",
        checks.magnetic,
        r"\eta_{\mathrm{MMD}} = \frac{h}{1 - h \tau}",
    ),
    _claim(
        "fixed-point", "Sec. 3",
        "The regularised Nash is where INPO rests, whatever its step.",
        "Gradients of both losses with policy and previous iterate at Newton's Nash.",
        checks.fixed_point,
    ),
    # theorems
    _claim(
        "average-gap", "Theorem 3",
        "The average policy's gap falls like sqrt(D/T), with C = max(B tau, 1) and the step of the theorem.",
        "200 (50) games of ten responses, tau = 0.01 and 0.1, horizons of 16 to 4,096 (256); gap times sqrt(T/D)/C.",
        checks.average_gap,
        r"\mathrm{DualGap}(\bar\pi_T) = O(C \sqrt{D / T}), \eta = C \sqrt{T / D}",
    ),
    _claim(
        "last-iterate", "Theorem 4",
        "With the step eta_t = tau (t + 2)/2 the last iterate is within 32 C^2/(tau^2 (T + 1)) of the Nash.",
        f"{_GAMES}, tau log-uniform in [0.02, 5], every horizon up to 1,000 (200), random starts.",
        checks.last_iterate,
        r"\mathrm{KL}(\pi^* \| \pi_T) \leq \frac{32 C^2}{\tau^2 (T + 1)}",
    ),
    _claim(
        "one-step", "Proof of Theorem 4",
        "One step contracts the divergence by 1 - tau/eta up to 8 C^2/eta^2.",
        "Every step of the same runs.",
        checks.one_step,
        r"\mathrm{KL}(\pi^* \| \pi_{t+1}) \leq (1 - \frac{\tau}{\eta}) \mathrm{KL}(\pi^* \| \pi_t)"
        r" + \frac{8 C^2}{\eta^2}",
    ),
    _claim(
        "lemma", "Lemma in the proof of Theorem 3",
        "Tilting a policy by delta moves a divergence by its inner product up to 2 max |delta|^2.",
        "600,000 (60,000) random triples.",
        checks.lemma,
        r"\mathrm{KL}(\pi \| \pi^+) \leq \mathrm{KL}(\pi \| \pi^-) + \langle \pi^- - \pi, \delta \rangle + 2 "
        r"\| \delta \|_\infty^2",
    ),
    _claim(
        "linear-rate", "Theorem 4, complemented here",
        "Ours: a constant step with h/(1 - h tau) of at most 4 tau converges linearly, by 1 - h tau in each step.",
        f"{_GAMES}, tau log-uniform in [0.01, 10]; the largest one-step factor along the runs.",
        checks.linear_rate,
        r"\frac{h}{1 - h \tau} \leq 4 \tau \Rightarrow \mathrm{KL}(\pi^* \| \pi_{t+1}) \leq (1 - h \tau) "
        r"\mathrm{KL}(\pi^* \| \pi_t)",
    ),
    _claim(
        "step-too-long", "Theorem 4, complemented here",
        "Ours: beyond it the rate fails. At four times the step there are games with tau below 0.1 that break it.",
        f"{_GAMES}; the games with tau up to 0.1, steps of two, four and eight times that.",
        checks.step_too_long,
    ),
    # cycles
    _claim(
        "cycling", "Sec. 3",
        "Iterative preference optimisation without the reference cycles where preferences do.",
        "300 (60) random cycles of three responses, step 0.1, 3,000 (1,500) iterations; the largest original gap of "
        "the last quarter over the first one.",
        checks.cycling,
    ),
    _claim(
        "converging", "Theorem 4",
        "On the same cycles INPO's last iterate converges.",
        "The same cycles, start and step, tau = 0.05; last over first regularised gap.",
        checks.converging,
    ),
    _claim(
        "bias", "Sec. 2, measured here",
        "What it converges to has an original gap of at most 2 tau log(1/min mu).",
        "Newton's Nash of the same cycles.",
        checks.bias,
        r"2 (\max_y P(y \succ \pi^*) - \frac{1}{2}) \leq 2 \tau \log \frac{1}{\min \mu}",
    ),
    # pairs
    _claim(
        "iid-pairs", "Algorithm 1",
        "Regression on pairs drawn from the previous iterate and labelled by the preference finds the mirror step, and "
        "its iteration the Nash.",
        f"{_PAIRS}.",
        checks.iid_pairs,
    ),
    _claim(
        "best-worst", "Sec. 5, practice",
        "If comparing the best with the worst of eight draws did no harm, the regression would find the same policy.",
        f"{_PAIRS}; best and worst by mean win-rate within the eight, pairs whose winner loses left out.",
        checks.best_worst,
        stands="contradicted",
    ),
    _claim(
        "argmax-labels", "Practice",
        "If labelling each pair by its likelier winner did no harm, the iteration would end at the Nash of the "
        "preferences.",
        f"{_PAIRS}; labels 1[P > 1/2].",
        checks.argmax_labels,
        stands="contradicted",
    ),
    _claim(
        "sign-matrix", "Practice, explained here",
        "Ours: it ends at the Nash of the game in which every majority is certain.",
        f"{_PAIRS}; Newton's Nash of the sign matrix.",
        checks.sign_matrix,
        r"P_{ij} \rightarrow 1[P_{ij} > \frac{1}{2}]",
    ),
    _claim(
        "sample-complexity", "Sec. 4",
        "The step can be learnt from labelled pairs alone: the divergence from it falls like 1/N.",
        "Least squares on 1,000 to 1,000,000 (100,000) labelled pairs, 100 (30) problems of five responses.",
        checks.sample_complexity,
        r"\mathrm{KL}(\pi_{t+1} \| \hat\pi) = O(1 / N)",
    ),
    _claim(
        "practice", "Sec. 5, read on a game",
        "If the published constants (eta = 0.005, tau = eta/3, three iterations) were read as exact steps, the policy "
        "would be nearer the Nash at tau than the reference is.",
        "Exact iterates on 200 (50) games of ten responses with cycles, start at the reference.",
        checks.practice,
        stands="contradicted",
    ),
    # what cannot be run here
    _claim(
        "benchmarks", "Table 1",
        "Three iterations lift LLaMA-3-8B to 42.6 % (length-controlled) on AlpacaEval 2 and 37.8 % on Arena-Hard, "
        "above iterative DPO and SPPO.",
        "Not run.",
        checks.benchmarks,
        stands="not testable here",
    ),
    _claim(
        "ablation", "Table 3",
        "Without the KL term the benchmarks fall.",
        "Not run.",
        checks.ablation,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="inpo-cycles",
        title="INPO goes in where iterative IPO goes round",
        caption="Left: one cyclic game from the same start at the same step. Right: gaps on random cycles of three "
        "responses, median and 10 to 90 % band: INPO's gap in its own game vanishes, its gap without KL stays at that "
        "of the regularised Nash, and iterative IPO's does not fall.",
        draw=figures.cycles,
    ),
    Figure(
        id="inpo-theorem",
        title="Steps: decaying and constant",
        caption="Left: divergence of the last iterate along Theorem 4's steps, tau^2 taken out, against the bound. "
        "Right: the largest one-step factor of a constant step over random games and their runs, in units of 1 - h "
        "tau; above 1 the linear rate does not hold.",
        draw=figures.theorem,
    ),
    Figure(
        id="inpo-pairs",
        title="Which pairs, which labels, how many",
        caption="Left: distance of the Nash from where the exact iteration ends, by the law of the compared responses "
        "(boxes: quartiles over games, whiskers: 10 and 90 %). Right: distance of the mirror step from least squares "
        "on N labelled pairs.",
        draw=figures.pairs,
    ),
    Figure(
        id="inpo-practice",
        title="The constants of practice, and the average policy",
        caption="Left: exact iterates at the published constants on random games, median and 10 to 90 % band. Right: "
        "the regularised gap of the average policy at Theorem 3's step over the horizon.",
        draw=figures.practice,
    ),
)

PAPER = Paper(
    name="inpo",
    title="Iterative Nash Policy Optimization (INPO)",
    source=SOURCE,
    summary=(
        "Self-play mirror descent on the KL-regularised preference game, each step a regression on labelled pairs. The "
        "theory holds in every run: labels are as good as win-rates, the minimiser is the mirror step, both bounds are "
        "valid and loose, and a constant step of up to about 4 tau converges linearly. What practice changes is not "
        "covered: pairs of the best and the worst draw, labels by the likelier winner, and a step of 200 where the "
        "theory asks for less than a hundredth each lead somewhere else than the Nash."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
