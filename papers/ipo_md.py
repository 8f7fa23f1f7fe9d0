"""Calandriello et al., 2024, "Human Alignment of Large Language Models through Online Preference Optimisation",
arXiv:2403.08635: its claims as runs, and its figures.
"""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import ipo_md_checks as checks
from papers import ipo_md_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Calandriello et al.", 2024, "2403.08635", "")


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
    return Claim(id=f"ipo-md.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_WRONG: Verdict = "contradicted"
_GAMES = "1,000 random games (200 with --quick) of five responses and random policies, tau = .1 and 1"
_DESCENT = (
    "Exact gradient descent on 60 (20) random games of four responses, tau = .4, every pair enumerated, until it rests"
)
_PAIRS = (
    "4,000 (1,000) random games and policies of 2, 3 and 10 responses, tau = .1; exact variances of one pair's estimate"
)
_BT = "500 (100) Bradley-Terry games of five responses, tau = .3; the enumerated gradient"

CLAIMS = (
    # minimisers
    _claim(
        "offline-minimiser", "Sec. 3",
        "Offline IPO's minimiser is the best response to the law of its data, not the Nash.",
        "1,000 (200) random games, pairs from a random law; the minimiser by the loss's own gradients.",
        checks.offline_minimiser,
        r"\pi(y) \propto \mu(y) \exp(P(y \succ \mu_0) / \tau)",
    ),
    _claim(
        "soft-loss", "Sec. 4",
        "The loss of the paper's runs, a margin and a square weighted by the preference, is tau times the squared loss "
        "up to a constant.",
        "The same games; the difference of the two over six random policies.",
        checks.soft_loss,
        r"p L(y, y') + (1 - p) L(y', y), L(y, y') = -\log \frac{\pi(y)}{\pi(y')} + \tau (x_y - x_{y'})^2",
    ),
    _claim(
        "online-nash", "Proposition 4.1",
        "The stationary point of online IPO is the regularised Nash.",
        f"{_DESCENT}; two far apart starts, against Newton's method.",
        checks.online_stationary,
        r"\nabla L(\pi) = 0 \Leftrightarrow \pi = \pi^*_\tau",
    ),
    _claim(
        "self-play", "Proposition 4.2",
        "Online IPO's expected gradient is proportional to that of self-play in the regularised game.",
        f"{_GAMES}: enumerated gradient against autodiff of the objective.",
        checks.self_play_gradient,
        r"\nabla L = -\frac{4}{\tau} \nabla [P(\pi \succ \mathrm{sg} \pi) - \tau \mathrm{KL}(\pi \| \mu)]",
    ),
    _claim(
        "shared-points", "Sec. 5",
        "IPO-MD and Nash-MD-PG with the same coefficient share their stationary point.",
        f"{_DESCENT}; both methods, from different starts.",
        checks.shared_points,
        r"\pi_\beta \propto \mu \exp(P(y \succ \pi_\beta^{1-\beta} \mu^\beta) / \tau)",
    ),
    _claim(
        "mixture-nash", "Proposition 5.2",
        "There the mixture with the reference is the Nash at the temperature tau / (1 - beta).",
        f"{_DESCENT}; the mixture of IPO-MD's end against Newton's method.",
        checks.mixture_is_nash,
        r"\pi_\beta^{1-\beta} \mu^\beta = \pi^*_{\tau / (1 - \beta)}",
    ),
    _claim(
        "interpolation", "Sec. 5",
        "IPO-MD goes from online IPO to offline IPO on the reference's pairs as beta goes from 0 to 1.",
        f"{_GAMES}; gradients at both ends, tau = .1.",
        checks.interpolation,
    ),
    _claim(
        "two-responses", "Appendix E",
        "With two responses offline IPO, online IPO and IPO-MD have one solution.",
        "60 (20) random games of two responses; ends of exact descents against offline IPO's minimiser.",
        checks.two_responses,
    ),
    _claim(
        "tabular", "Appendix E",
        "On a cycle of three responses with a uniform reference online IPO and IPO-MD find the Nash.",
        "Exact descents on three non-transitive dice, tau = .1, from (.8, .15, .05). The paper's own matrix was not at "
        "hand.",
        checks.tabular,
    ),
    _claim(
        "tabular-offline", "Appendix E",
        "Offline IPO does not: it ends at the best response to its data.",
        "The same, pairs from (.6, .3, .1).",
        checks.tabular_offline,
    ),
    # Prop. 5.1
    _claim(
        "gradient-as-reported", "Proposition 5.1, as two reading notes report it",
        "IPO-MD's gradient is Nash-MD-PG's integrand averaged over the mixture instead of the policy.",
        f"{_GAMES}; enumerated gradient against the right side with its factor put right, coefficients 1/8 and 1/2.",
        checks.reported_gradient,
        r"\nabla L \propto -E_{y \sim \nu} [\nabla \log \pi(y) (P(y \succ \nu) - \frac{1}{2} - \tau x_y)],"
        r" x_y = \log \frac{\pi(y)}{\mu(y)}",
        stands=_WRONG,
    ),
    _claim(
        "gradient-centred", "Proposition 5.1, corrected here",
        "Ours: with the log-ratio centred under the mixture it is, and the factor is -4 / tau.",
        f"{_GAMES}; eight coefficients from 0 to .9.",
        checks.centred_gradient,
        r"\nabla L = -\frac{4}{\tau} E_{y \sim \nu} [\nabla \log \pi(y) (P(y \succ \nu) - \frac{1}{2}"
        r" - \tau (x_y - E_\nu x))]",
    ),
    # variance
    _claim(
        "lower-variance", "Sec. 5, on variance",
        "Using both responses of a pair never has more variance than using one, with the same weights.",
        _PAIRS,
        checks.lower_variance,
        r"\mathrm{Var} [\frac{X_1 + X_2}{2}] \leq \mathrm{Var} [X_1]",
    ),
    _claim(
        "half-the-variance", "Sec. 5, on variance, read as a limit",
        "If the two halves of a pair were never negatively correlated, this would save at most half of the variance. "
        "(The paper does not say so; one is tempted to.)",
        f"{_PAIRS}; one case by hand; and a minimiser over all weights and policies.",
        checks.half_the_variance,
        r"\mathrm{Var} [\frac{X_1 + X_2}{2}] \geq \frac{1}{2} \mathrm{Var} [X_1]",
        stands=_WRONG,
    ),
    _claim(
        "nash-md-pg-variance", "Sec. 5, on variance",
        "The contrastive estimate has less variance than Nash-MD-PG's.",
        _PAIRS,
        checks.nash_md_pg_variance,
        stands=_WRONG,
    ),
    # online DPO
    _claim(
        "online-dpo-rlhf", "Sec. 4, derived here",
        "Ours: under Bradley-Terry preferences online DPO is stationary at the RLHF solution.",
        _BT,
        checks.online_dpo_at_rlhf,
        r"\pi \propto \mu e^{r / \tau}",
    ),
    _claim(
        "online-dpo-nash", "Sec. 4, read as a statement about DPO",
        "If any contrastive loss on the policy's own pairs would do, online DPO would be stationary at the Nash as "
        "well.",
        _BT,
        checks.online_dpo_at_nash,
        stands=_WRONG,
    ),
    _claim(
        "online-dpo-condition", "Sec. 4, derived here",
        "Ours: at the Nash its gradient vanishes only where every win-rate is the mean of the sigmoids of its "
        "differences: with two responses at P = 1/2 alone, and on an even cycle.",
        "Random games against the formula, two responses at 19 preferences, and rock, paper, scissors.",
        checks.online_dpo_condition,
        r"P(y \succ \pi^*) = \sum_{y'} \pi^*(y') \sigma(P(y \succ \pi^*) - P(y' \succ \pi^*))",
    ),
    # what cannot be run here
    _claim(
        "summarisation", "Sec. 6",
        "On XSum summaries IPO and IPO-MD are preferred to DPO, Nash-MD-PG, SLiC and RL.",
        "Not run.",
        checks.summarisation,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="ipo-md-tabular",
        title="Offline, online and in between",
        caption="Exact gradient descents on two cycles of three responses, tau = .1, from one start; a dot is where a "
        "path rests. Left: dice, uniform reference, offline pairs from (.6, .3, .1): online IPO and IPO-MD meet at the "
        "Nash. Right: a reference of (.7, .2, .1), from which the offline pairs come too: IPO-MD rests on the way to "
        "the best response to the reference.",
        draw=figures.tabular,
    ),
    Figure(
        id="ipo-md-coefficient",
        title="What the mixture coefficient costs",
        caption="IPO-MD's stationary point on random games of ten responses, tau = .1: median and 10 to 90 % band over "
        "games. Dotted: the coefficient of the paper's runs, 1/8.",
        draw=figures.coefficient,
    ),
    Figure(
        id="ipo-md-gradient",
        title="Proposition 5.1, reported and centred",
        caption="Relative error of the right side of Proposition 5.1 against the enumerated gradient: median and 10 to "
        "90 % band over random games and policies.",
        draw=figures.gradient,
    ),
    Figure(
        id="ipo-md-variance",
        title="When contrast lowers the variance",
        caption="Ratios of exact variances of one pair's gradient estimate over random games and policies, tau = .1, "
        "as distribution functions. Left of 1 the contrastive estimate is better.",
        draw=figures.variance,
    ),
    Figure(
        id="ipo-md-online-dpo",
        title="Online DPO goes elsewhere",
        caption="Left: where online IPO and online DPO end on a Bradley-Terry game, beside the Nash and the RLHF "
        "solution. Right: the gradient of online DPO at the Nash of two responses. Exact: no runs to average.",
        draw=figures.online_dpo,
    ),
)  # fmt: skip

PAPER = Paper(
    name="ipo-md",
    title="Human Alignment of Large Language Models through Online Preference Optimisation",
    source=SOURCE,
    summary=(
        "IPO on the policy's own pairs is self-play in a regularised preference game, and on pairs from a mixture with "
        "the reference it is Nash-MD. The propositions about stationary points and gradients hold, with a factor 4 / "
        "tau, once the log-ratio of Proposition 5.1 is centred under the mixture. The variance argument holds against "
        "the one-sided form of the same estimate, and not against Nash-MD-PG as it is used; how much contrast can save "
        "is more than half with three responses or more. Online DPO does not find the Nash, but the RLHF solution."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
