"""Sessa et al., 2024, "BOND: Aligning LLMs with Best-of-N Distillation", arXiv:2407.14622: claims as runs, figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import bond_checks as checks
from papers import bond_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Sessa et al.", 2024, "2407.14622", "")


def _claim(
    name: str,
    where: str | Source,
    says: str,
    how: str,
    test: Callable[[Settings], Outcome | NotTestable],
    formula: str = "",
    *,
    stands: Verdict = "reproduced",
) -> Claim:
    source = where if isinstance(where, Source) else dataclasses.replace(SOURCE, equation=where)
    return Claim(id=f"bond.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_BANDITS = "2,000 random bandits (500 with --quick) of 12 responses, half of them with ties, real N up to 56"
_COUNTED = "300 (60) bandits of 5 responses in which rewards tie, N = 2, 3, 4, every N-tuple counted"
_LARGE = "5 bandits of 20,000 responses, N = 2, 4, 8, 16"
_TRAINED = (
    "20 bandits (8 with --quick) of 30 responses, normal rewards and reference logits; w is the weight of the backward "
    "divergence, the paper's beta. Exact gradients of rate 0.5, and samples: 16 prompts a step, 16 samples behind each "
    "quantile, B dropped, rate 0.1"
)
_ROUNDS = "The same bandits, exact gradients, w = 1/2, twelve rounds of 250 steps; the iterated anchor moves after each"
_PEAKS = (
    "20 (8) bandits of 101 responses on a line, rewards with two peaks, N = 8; the global minimiser over Gaussians "
    "of two parameters"
)

CLAIMS = (
    # the law
    _claim(
        "law", "Theorem 1",
        "The law of the best of N samples has a closed form.",
        f"{_BANDITS}, against powers of quantiles by comparing all pairs; and {_COUNTED}.",
        checks.theorem_1,
        r"\pi_{BoN}(y) = \pi_{ref}(y) p_{\leq}(y)^{N-1} \sum_{i=1}^{N} (\frac{p_{<}(y)}{p_{\leq}(y)})^{i-1}",
    ),
    _claim(
        "ties", "Theorem 1, beyond its assumption",
        "Ours: the formula is exact with ties too, if a random or the first one of the tied samples wins.",
        f"{_COUNTED}.",
        checks.ties,
        r"p_{\leq}(y) - p_{<}(y) = \pi_{ref}(\{y' : r(y') = r(y)\})",
    ),
    _claim(
        "ties-by-index", "Theorem 1, read for ties settled by a fixed order",
        "If ties are settled by a fixed order of the responses, the formula may be used with quantiles of the reward. "
        "(The paper settles ties so, and refines the order first; code that does not is wrong.)",
        f"{_COUNTED}; the lower index wins.",
        checks.ties_by_index,
        stands="contradicted",
    ),
    _claim(
        "gibbs", "Sec. 3.2",
        "Best-of-N is the optimum of RLHF for one reward and one temperature.",
        f"{_BANDITS}. Ours: the partition function is 1.",
        checks.gibbs_form,
        r"\pi_{BoN} = \pi_{ref} e^{(N-1) r_{BOND}}, r_{BOND} = \log p_{\leq} + \frac{1}{N-1} \log B",
    ),
    _claim(
        "iterated-law", "Sec. 5",
        "Best-of-n of best-of-n, M times, is best-of-n^M of the reference.",
        f"{_BANDITS}; two different real numbers one after the other.",
        checks.iterated_law,
        r"\mathrm{Bo}_M(\mathrm{Bo}_N(\pi)) = \mathrm{Bo}_{NM}(\pi)",
    ),
    _claim(
        "divergence-bound", Source("Beirami et al.", 2024, "2401.01879", "Theorem 1"),
        "The divergence of best-of-N from its reference is at most log N - (N - 1)/N.",
        f"{_BANDITS}, and {_LARGE}.",
        checks.beirami,
        r"\mathrm{KL}(\pi_{BoN} \| \pi_{ref}) \leq \log N - \frac{N-1}{N}",
    ),
    _claim(
        "closed-forms", "Sec. 3.1, derived here",
        "Where no two samples tie every divergence of best-of-N depends on N alone.",
        f"{_LARGE}; six numbers against integrals of the density N u^(N-1).",
        checks.closed_forms,
        r"\mathrm{KL}(\pi_{ref} \| \pi_{BoN}) = N - 1 - \log N, E \log p_{\leq} = -\frac{1}{N}",
    ),
    _claim(
        "near-optimal", Source("Gui et al.", 2024, "2406.00832", "Sec. 3"),
        "Best-of-N has nearly the highest win-rate that its divergence allows.",
        f"{_LARGE}, and 20 (8) bandits of 30 with 40 numbers N; against the Gibbs policy of the win-rate.",
        checks.near_optimal,
    ),
    # training
    _claim(
        "both-divergences", "Sec. 4.3 and Figure 2, at toy scale",
        "With w = 1/2 the backward divergence is lower than with w = 0, and the forward one lower than with w = 1.",
        f"{_TRAINED}; N = 4, 8, 16.",
        checks.both_divergences,
        r"J^w = (1 - w) \mathrm{KL}(\pi_{BoN} \| \pi) + w \mathrm{KL}(\pi \| \pi_{BoN})",
    ),
    _claim(
        "both-divergences-at-the-end", "Figure 2, read beyond its noise",
        "If that were so at any time, it would be so near convergence of exact gradients. (The paper's curves are of "
        "sampled ones.)",
        f"{_TRAINED}; exact, step 1,000, N = 4, 8, 16.",
        checks.both_divergences_at_the_end,
        stands="contradicted",
    ),
    _claim(
        "log-quantile", "Figure 2, at toy scale",
        "The log-quantile with w = 1/2 is close to that with w = 1, and w = 0 lags behind.",
        f"{_TRAINED}; N = 4, 8, 16.",
        checks.log_quantile,
    ),
    _claim(
        "trade-off", "Sec. 4.3, derived here",
        "Ours: in a family that cannot represent best-of-N the weight trades one divergence for the other.",
        f"{_PEAKS}; w = 0, 1/4, 1/2, 3/4, 1.",
        checks.restricted_trade_off,
    ),
    _claim(
        "best-of-both", "Sec. 4.3, read for policies of little capacity",
        "If w = 1/2 had the best of both divergences in such a family too, it would be within a factor of two of each "
        "end. (The paper shows it for one network.)",
        f"{_PEAKS}.",
        checks.restricted_best_of_both,
        stands="contradicted",
    ),
    _claim(
        "iterated-goes-on", "Sec. 5 and Figure 4, at toy scale",
        "Iterated BOND with a small n goes on where one-shot BOND with N = 16 has stopped.",
        f"{_ROUNDS}.",
        checks.iterated_goes_on,
    ),
    _claim(
        "one-shot-saturates", "Figure 4, at toy scale",
        "One-shot BOND saturates, at a lower quantile for a smaller N.",
        f"{_ROUNDS}; N = 4, 8, 16.",
        checks.one_shot_saturates,
    ),
    _claim(
        "same-frontier", "Figure 4, at toy scale",
        "Iterated and one-shot BOND move along the same frontier of quantile and divergence.",
        f"{_ROUNDS}; against the exact best-of-N of the same divergence, N real.",
        checks.same_frontier,
    ),
    # approximations
    _claim(
        "without-b", "Sec. 4.2",
        "The factor B can be left out.",
        "50 bandits of 1,000 responses, N = 8.",
        checks.dropping_b,
        r"\pi_{BoN} \approx \frac{1}{Z} \pi_{ref} p_{\leq}^{N-1}",
    ),
    _claim(
        "without-b-small", "Sec. 4.2, read for few responses",
        "If that held for any number of responses, it would hold for three.",
        "50 bandits of 3 responses, N = 8.",
        checks.dropping_b_small,
        stands="contradicted",
    ),
    _claim(
        "estimate-bias", "Sec. 4.1, derived here",
        "Ours: estimates of log p from 16 samples are biased, by amounts that depend on the rule for a count of 0.",
        "200,000 (100,000) draws of each, against binomial sums.",
        checks.estimate_bias,
        r"E[\log \hat{p}] - \log p",
    ),
    _claim(
        "learned-quantile", "Appendix B.1",
        "Cross-entropy on one comparison with the reference learns the quantile.",
        "A table of logits, exact gradients, 20 (8) bandits of 10 responses; largest error in probability.",
        checks.learned_quantile,
    ),
    # anchors
    _claim(
        "effective-n", "Eq. 18, derived here",
        "Ours: without ties an anchor averaged on logits is itself a best-of-N, with a closed form for N.",
        "6 (3) bandits of 1,000 responses, n = 2, perfect distillation in every step, up to N = 50.",
        checks.effective_number,
        r"N_{eff}(t) = (1 + \eta (n - 1))^t",
    ),
    _claim(
        "linear-kl", "Sec. 6 and Figure 5",
        "With a moving average the divergence from the reference grows steadily, at last linearly.",
        "The same runs, where the effective N goes from 20 to 50; slope over the one derived here.",
        checks.linear_growth,
        r"\frac{d}{dt} \mathrm{KL} \rightarrow \log(1 + \eta (n - 1))",
    ),
    _claim(
        "speed", "Sec. 6 and Figure 5",
        "A moving average with eta = 0.02 is as fast as a hard update every 50 steps, if every step distils perfectly.",
        "The same runs: steps of eta = 0.02 to the divergence of four hard updates, over four.",
        checks.speed,
        r"P = \frac{\log n}{\log(1 + \eta (n - 1))}",
        stands="contradicted",
    ),
    _claim(
        "speed-in-training", "Sec. 6 and Figure 5, at toy scale",
        "The same while a policy is being trained, which lags behind its target.",
        "20 (8) bandits of 30 responses, n = 2, w = 1/2, exact gradients of rate 0.5, 400 steps; hard updates every "
        "35 and 50.",
        checks.speed_in_training,
    ),
    _claim(
        "lower-kl", "Figure 5, at toy scale",
        "At the same reward a moving average has a lower divergence from the reference than hard updates.",
        "20 (8) bandits of 30 responses, n = 2, w = 1/2, exact gradients, 400 steps; mean over log-quantiles that both "
        "reach, hard updates every 50 steps.",
        checks.lower_kl,
        stands="contradicted",
    ),
    _claim(
        "rate", "Figure 6",
        "A larger eta moves away from the reference faster.",
        "The runs with perfect distillation, eta = 0.02, 0.05, 0.1; the smallest ratio of neighbours after 40 steps.",
        checks.rate_sets_speed,
    ),
    # J-BOND
    _claim(
        "calibrated", "Eq. 17 and Figure 8",
        "The reward of J-BOND is log p in expectation at p = 1/2.",
        "60 responses of equal mass; the expectation read off J-BOND's enumerated gradient.",
        checks.calibrated,
        r"E[r_J] = -\log 16 (1 - p_{\leq})^2",
    ),
    _claim(
        "crossings", "Figure 8, derived here",
        "Ours: it meets log p at 0.1127 and at 1 as well, so that it is off by little from 0.11 on.",
        "The same run.",
        checks.crossings,
    ),
    _claim(
        "conservative", "Sec. 6",
        "J-BOND's reward stands for best-of-2. Ours: of a fixed anchor it makes a slightly more conservative one.",
        "50 bandits of 20 responses; the exact minimiser for w = 0, 1/2, 1, whose gradient statement bond/J1 checks.",
        checks.conservative,
    ),
    _claim(
        "printed-sign", "Algorithm 2, G_Reg",
        "With the sign that is printed, gamma keeps the policy near its anchor.",
        "20 (8) bandits of 6 responses, exact J-BOND, eta = 0.02, rate 0.2, 300 steps; the largest divergence from the "
        "anchor with gamma = 2 over that with gamma = 0.",
        checks.printed_sign,
        r"G_{Reg} = -\nabla \log \pi(y) \log \frac{\pi(y)}{\pi_{anc}(y)}",
        stands="contradicted",
    ),
    _claim(
        "right-sign", "Eq. 19 and Figure 6",
        "A larger gamma keeps the policy nearer its anchor.",
        "The same runs with a plus before G_Reg; each gamma of 1/2, 1, 2 over the one before, in the worst bandit.",
        checks.right_sign,
        r"\nabla \mathrm{KL}(\pi \| \pi_{anc}) = E[\nabla \log \pi(y) \log \frac{\pi(y)}{\pi_{anc}(y)}]",
    ),
    _claim(
        "reward-against-kl", "Figure 7, read as a statement about optima",
        "If the better curve of J-BOND over REINFORCE came from its target, best-of-N would have more reward than the "
        "optimum of REINFORCE with the same divergence. (The paper compares training runs and does not say so.)",
        "20 (8) bandits of 30 responses, exact optima, N = 2, 4, 8, 16.",
        checks.better_than_reinforce,
        stands="contradicted",
    ),
    # relatives
    _claim(
        "vbon-code", Source("Amini et al.", 2024, "2407.06057", "official code"),
        "The official code of vBoN, which divides the reward by N with a KL weight of 1/(N - 1), has best-of-N as its "
        "optimum.",
        "20 (8) bandits of 8 responses trained by exact gradients; divergence from best-of-N at N = 2, 4, 8.",
        checks.vbon_code,
        stands="contradicted",
    ),
    _claim(
        "bonbon-constant", Source("Gui et al.", 2024, "2406.00832", "Sec. 4"),
        "BoNBoN's margin is the mean log-ratio of the best against the worst of N.",
        "400,000 (200,000) groups of uniform quantiles.",
        checks.bonbon_constant,
        r"\frac{1}{2 \beta_N} = (N - 1) \sum_{k=1}^{N-1} \frac{1}{k}",
    ),
    _claim(
        "qrpo-constant", Source("Matrenok et al.", 2025, "2507.08068", "Eq. 10"),
        "With the quantile as the reward the partition function is known.",
        "5 bandits each of 10 to 20,000 responses; those of 20,000 decide.",
        checks.qrpo_constant,
        r"Z = \beta (e^{1/\beta} - 1)",
    ),
    # what cannot be run here
    _claim(
        "summarisation", "Figure 2 and Figure 4",
        "On XSum, BOND with w = 1/2 lowers both divergences of a T5 policy, and iterated BOND keeps improving.",
        "Not run.",
        checks.summarisation,
        stands="not testable here",
    ),
    _claim(
        "gemma", "Figures 5 to 7 and the benchmarks",
        "J-BOND trains Gemma 2B and 7B to a better reward at a given divergence than REINFORCE.",
        "Not run.",
        checks.gemma,
        stands="not testable here",
    ),
)  # fmt: skip

_BAND = "Median and 10 to 90 % band over bandits."

FIGURES = (
    Figure(
        id="bond-training",
        title="Both divergences fall with half of each",
        caption="N = 8, exact gradients. Either end neglects the other divergence; w = 1/2 lowers both. Last panel: "
        f"median path from the reference, the end marked. {_BAND}",
        draw=figures.exact,
    ),
    Figure(
        id="bond-training-sampled",
        title="The same from samples",
        caption="N = 8; 16 prompts a step, each quantile from 16 samples of the reference, the factor B dropped: what "
        f"remains at the end is the noise and bias of the estimates. {_BAND}",
        draw=figures.sampled,
    ),
    Figure(
        id="bond-capacity",
        title="Where capacity is short, the weight is a choice",
        caption="Best-of-8 has two peaks, the policies are Gaussians: w = 0 covers both, w = 1 seeks one, and w = 1/2 "
        f"lies between; no weight has the best of both. Right: {_BAND.lower()}",
        draw=figures.restricted,
    ),
    Figure(
        id="bond-rounds",
        title="One-shot BOND stops, iterated BOND goes on",
        caption="Log-quantile over updates and over the divergence from the reference; all runs end on the curve of "
        f"the exact best-of-N. Left: {_BAND.lower()} Right: medians.",
        draw=figures.rounds,
    ),
    Figure(
        id="bond-anchors",
        title="A moving anchor is best-of-N with an N that grows exponentially",
        caption="Left: anchors averaged with their own best-of-2, and the closed form (1 + eta)^t. Right: a table "
        f"that lags behind its target, at rate 0.5. {_BAND}",
        draw=figures.moving,
    ),
    Figure(
        id="bond-frontier",
        title="Best-of-N is near the best win-rate its divergence allows",
        caption="Left: 20,000 responses, mean of 5 bandits. Right: the win-rate it leaves to the Gibbs policy of the "
        f"win-rate, at most 0.01. {_BAND}",
        draw=figures.frontier,
    ),
    Figure(
        id="bond-jbond",
        title="J-BOND's reward, and the sign of its regulariser",
        caption="Left: the crude reward meets log p three times. Right: with the printed minus the policy is driven "
        f"from its anchor, until both are at one response. {_BAND}",
        draw=figures.jbond,
    ),
    Figure(
        id="bond-approximations",
        title="What the approximations cost",
        caption="Left: the factor B matters for few responses only, 50 bandits each. Right: mean of the estimated log "
        "p less its true value; bars from 100,000 draws or more.",
        draw=figures.approximations,
    ),
)

PAPER = Paper(
    name="bond",
    title="BOND: Aligning LLMs with Best-of-N Distillation",
    source=SOURCE,
    summary=(
        "Best-of-N sampling as a policy of its own, distilled by a mixture of both divergences. The law, its reward "
        "and its iteration are exact, with ties too; training on tables shows what the paper's curves show, except "
        "near convergence at N = 4, where the backward divergence alone is ahead, and in families of little capacity, "
        "where no weight has the best of both. The moving anchor has a closed form; with perfect distillation eta = "
        "0.02 is as fast as a hard update every 35 steps, and near the paper's 50 for a learner that lags. The "
        "regulariser of J-BOND is printed with the wrong sign: as printed it drives "
        "the policy from its anchor."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
