"""Wu et al., 2024, SPPO, arXiv:2405.00675, with SPO and DNO: claims as runs, and figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import sppo_checks as checks
from papers import sppo_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Wu et al.", 2024, "2405.00675", "")
SPO = Source("Swamy et al.", 2024, "2401.04056", "")
DNO = Source("Rosset et al.", 2024, "2404.03715", "")


def _claim(
    name: str,
    where: str,
    says: str,
    how: str,
    test: Callable[[Settings], Outcome | NotTestable],
    formula: str = "",
    *,
    stands: Verdict = "reproduced",
    paper: Source = SOURCE,
) -> Claim:
    source = dataclasses.replace(paper, equation=where)
    return Claim(id=f"sppo.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_STEPS = "1,000 (200 with --quick) random games of eight responses and random policies, exact win-rates"
_CYCLES = "100 (30) random cycles of three responses from (0.2, 0.5, 0.3), eta = 0.1, 4,000 (1,500) steps"

CLAIMS = (
    # averages and last policies
    _claim(
        "average", "Theorem 4.1",
        "The average policy of the exact method has a duality gap of order 1/sqrt(T).",
        "400 random games of 2 to 12 responses; T = 10 to 3,000 (300), eta = sqrt(8 D/T); against sqrt(2 D/T), our "
        "constant.",
        checks.average,
        r"\mathrm{DualGap}(\bar\pi_T) \leq \sqrt{2 D / T}",
    ),
    _claim(
        "own-average", "Theorem 4.1, for the loss as it is",
        "Ours: at a small step the exact minimisers of SPPO's loss do as well on average.",
        f"{_CYCLES}; the constrained minimiser of the loss in every step.",
        checks.own_average,
    ),
    _claim(
        "spo-average", "Sec. on theory",
        "The average of self-play on win-rates approaches a minimax winner, where no response can have a reward.",
        f"{_CYCLES}; the winner by linear programs.",
        checks.spo_average,
        paper=SPO,
    ),
    _claim(
        "spo-last", "Sec. on theory, measured here",
        "Ours: the last policy does not; it ends farther from the winner than it began, in every game.",
        f"{_CYCLES}.",
        checks.last_leaves,
        paper=SPO,
    ),
    # the partition function
    _claim(
        "partition-small", "Loss, and its official code",
        "The log-partition of a step can be replaced by eta/2: so it is at small steps.",
        f"{_STEPS}; eta = 0.1 and 0.3.",
        checks.partition_small,
        r"\log Z \approx \frac{\eta}{2}",
    ),
    _claim(
        "partition-practical", "Loss, and its official code",
        "It can be replaced by eta/2 at the step of the official code, eta = 1,000.",
        f"{_STEPS}; median of log Z - eta/2.",
        checks.partition_practical,
        r"\log Z \approx \frac{\eta}{2}",
        stands="contradicted",
    ),
    _claim(
        "partition-bound", "Loss, derived here",
        "Ours: the log-partition is between eta/2 and eta/2 + eta^2/8.",
        f"{_STEPS}; eta = 0.1 to 1,000.",
        checks.partition_bound,
        r"0 \leq \log Z - \frac{\eta}{2} \leq \frac{\eta^2}{8}",
    ),
    _claim(
        "minimiser-small", "Loss",
        "The minimiser of the loss is the step of multiplicative weights: so it is, nearly, for eta up to 1.",
        f"{_STEPS}; KL of the exact step from the exact minimiser over policies.",
        checks.minimiser_small,
        r"\pi_{t+1} \propto \pi_t e^{\eta P(y \succ \pi_t)}",
    ),
    _claim(
        "minimiser-practical", "Loss, and its official code",
        "It is so at eta = 1,000.",
        f"{_STEPS}; median KL.",
        checks.minimiser_practical,
        r"\pi_{t+1} \propto \pi_t e^{\eta P(y \succ \pi_t)}",
        stands="contradicted",
    ),
    _claim(
        "fixed-points", "Loss, derived here",
        "Ours: the minimiser is the exact step where the win-rate is constant on the support, as at an interior Nash.",
        "50 random cycles, eta = 3, at the Nash and at the uniform policy.",
        checks.fixed_points,
    ),
    _claim(
        "pairs", "Loss, derived here",
        "Ours: the difference of two SPPO residuals is INPO's residual without a reference.",
        "2,000 (500) random pairs, both losses of this library.",
        checks.residuals,
        r"r_{\mathrm{SPPO}}(y) - r_{\mathrm{SPPO}}(y') = r_{\mathrm{INPO}}(y, y'), \quad \tau = 0",
    ),
    # the estimate
    _claim(
        "estimate", "Official code",
        "The mean of preferences over the five drawn responses estimates a response's win-rate without bias.",
        "20 (6) random games of four responses and random policies; all 1,024 draws of five listed; slope of the "
        "mean estimate over the win-rate.",
        checks.estimate,
        r"E[\hat P(y \succ \pi_t) | y] = P(y \succ \pi_t)",
        stands="contradicted",
    ),
    _claim(
        "estimate-mended", "Official code, mended here",
        "Ours: it shrinks advantages by (K - 1)/K, as a smaller step would.",
        "The same lists.",
        checks.estimate_mended,
        r"E[\hat P | y] - \frac{1}{2} = \frac{K - 1}{K} (P(y \succ \pi_t) - \frac{1}{2})",
    ),
    # DNO
    _claim(
        "dno-improvement", "Monotone improvement",
        "Each exact step of DNO wins against the policy before it, by at least its divergence over the step.",
        f"{_CYCLES}; the smallest ratio.",
        checks.improvement,
        r"P(\pi_{t+1} \succ \pi_t) \geq \frac{1}{2} + \frac{1}{h} \mathrm{KL}(\pi_{t+1} \| \pi_t)",
        paper=DNO,
    ),
    _claim(
        "dno-identity", "Monotone improvement, sharpened here",
        "Ours: by exactly both divergences over the step.",
        f"{_CYCLES}.",
        checks.improvement_identity,
        r"P(\pi_{t+1} \succ \pi_t) = \frac{1}{2} + \frac{1}{h}"
        r" [\mathrm{KL}(\pi_{t+1} \| \pi_t) + \mathrm{KL}(\pi_t \| \pi_{t+1})]",
        paper=DNO,
    ),
    _claim(
        "dno-convergence", "Monotone improvement, read as convergence",
        "If improving on the last policy in every step meant coming nearer to the Nash, exact DNO would. (The paper "
        "does not say so.)",
        f"{_CYCLES}; KL from the Nash at the end over that at the start.",
        checks.improvement_converges,
        stands="contradicted",
        paper=DNO,
    ),
    _claim(
        "dno-loss", "Algorithm 1",
        "The minimiser of DNO's loss is the exact next policy, whatever law draws the pairs.",
        "200 (50) random games of five responses, random laws; enumerated population gradient there.",
        checks.dno_gradient,
        paper=DNO,
    ),
    _claim(
        "language-models", "Experiments",
        "SPPO brings Mistral-7B from 17.11 % to 28.53 % on AlpacaEval 2 in three iterations.",
        "Not run.",
        checks.language_models,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="sppo-partition",
        title="The partition function is small at small steps only",
        caption="Left: what the loss leaves out, log Z - eta/2, with the bound derived here. Right: divergence of "
        "the exact step from the exact minimiser of the loss. Median and 10 to 90 % band over random games of eight "
        "responses.",
        draw=figures.partition,
    ),
    Figure(
        id="sppo-averages",
        title="The average goes in, the last policy out",
        caption="Left: self-play at eta = 0.1 on the game of COMAL's synthetic experiment. Right: duality gaps on "
        "random cycles, median and 10 to 90 % band; dashed: the regret bound at this step, D = log 5.",
        draw=figures.averages,
    ),
    Figure(
        id="sppo-improvement",
        title="Improvement is not convergence",
        caption="Left: how much each exact step wins against the policy before it, and DNO's lower bound. Right: "
        "divergence from the Nash on the same paths. Median and 10 to 90 % band over random cycles.",
        draw=figures.improvement,
    ),
)  # fmt: skip

PAPER = Paper(
    name="sppo",
    title="Self-Play Preference Optimization for Language Model Alignment",
    source=SOURCE,
    summary=(
        "Multiplicative weights in self-play, as a regression for each response. As theory, with SPO and DNO beside "
        "it, all holds: averages improve like 1/sqrt(T), each step beats the one before by an exact amount, and still "
        "the last policy turns outwards. The loss leaves out the partition function but for eta/2, which is right up "
        "to eta^2/8: good at small steps, and without meaning at the official one, where an exact minimiser is "
        "nowhere near multiplicative weights. The official estimate of win-rates compares each response with itself "
        "as well, and so shrinks the step by a fifth."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
