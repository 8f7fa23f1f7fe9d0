"""Flet-Berliac et al., 2024, "Contrastive Policy Gradient", arXiv:2406.19185: its claims as runs, and its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import copg_checks as checks
from papers import copg_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Flet-Berliac et al.", 2024, "2406.19185", "")


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
    return Claim(id=f"copg.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_BANDIT = (
    "The paper's bandit: rewards (2.5, 2, 1), 10,000 pairs from (.1, .2, .7) and (.05, .05, .9), beta = 0.5, Adam at "
    "1e-3, batches of 512, 20 seeds (6 with --quick) of data, labels and shuffles"
)
_LAWS = "2,000 (300) random problems of five responses, two random laws of the pair, beta from 0.05 to 3"
_FLOW = (
    "60 random bandits of five arms, a random law of the data and a far random start each, 60,000 (20,000) Euler steps "
    "of the expected off-policy gradient"
)

CLAIMS = (
    # the bandit
    _claim(
        "bandit-converges", "Sec. 5.1, Fig. 1",
        "CoPG finds the optimal policy from pairs of two laws that are far from it.",
        f"{_BANDIT}; largest regret after 600 epochs.",
        checks.bandit_converges,
        r"J(\pi^*) - J(\pi_T) \rightarrow 0",
    ),
    _claim(
        "bandit-in-a-hundred-epochs", "Sec. 5.1, Fig. 1",
        "A hundred epochs with these settings bring its regret to zero.",
        f"{_BANDIT}; mean regret after 100 epochs of 19 updates.",
        checks.bandit_in_a_hundred,
        stands="contradicted",
    ),
    _claim(
        "bandit-ipo", "Sec. 5.1, Fig. 1",
        "IPO on the same pairs, labelled by the reward, keeps a bias.",
        f"{_BANDIT}; smallest regret after 600 epochs.",
        checks.bandit_ipo,
    ),
    _claim(
        "bandit-no-baseline", "Sec. 5.1, Fig. 1",
        "Policy gradient without a baseline fails off-policy.",
        f"{_BANDIT}, no importance weights; it ends worse than it starts.",
        checks.bandit_plain,
    ),
    _claim(
        "bandit-value", "Sec. 5.1, Fig. 1",
        "Policy gradient with the value as its baseline is biased off-policy.",
        f"{_BANDIT}; b = E r under the policy, recomputed at every update; regret against that of the root of the "
        "expected gradient.",
        checks.bandit_value,
        r"b = E_{\pi}[r]",
    ),
    _claim(
        "bandit-regularised-value", "Sec. 5.1, with the value of Sec. 2",
        "The same with the regularised value, the value of the problem that is solved.",
        f"{_BANDIT}; b = E R under the policy, KL included.",
        checks.bandit_regularised_value,
        r"b = E_{\pi}[R_\beta]",
        stands="contradicted",
    ),
    _claim(
        "bandit-dpo", "Sec. 5.1, added here",
        "Ours: DPO on the labels that mislead IPO is unbiased, since they are Bradley-Terry of the reward.",
        f"{_BANDIT}; largest regret after 600 epochs against a twentieth of IPO's.",
        checks.bandit_dpo,
    ),
    # baselines
    _claim(
        "special-baseline", "Sec. 3",
        "Off-policy, the contrastive baseline is special: another one biases the solution.",
        f"{_FLOW} with averages of R under the policy, the reference and another law as baselines.",
        checks.special_baseline,
        stands="contradicted",
    ),
    _claim(
        "any-average", "Sec. 3, derived here",
        "Ours: with any average of the regularised reward as its baseline the off-policy gradient has one zero, the "
        "optimum.",
        f"{_FLOW}; share of runs within 1e-8 nats of the optimum, for four laws of the average.",
        checks.any_average,
        r"E_{\mu}[(R_\beta - E_{\nu}[R_\beta]) \nabla \log \pi] = 0 \Leftrightarrow \pi = \pi^*",
    ),
    _claim(
        "value-without-kl", "Sec. 3, derived here",
        "Ours: what biases is leaving the KL out of the baseline.",
        f"{_FLOW} with b = E r under the policy.",
        checks.value_without_kl,
    ),
    _claim(
        "stable", "Sec. 3, measured here",
        "Ours: the optimum is a stable zero for every average.",
        "Eigenvalues of the linearised field, 20,000 (4,000) random laws of data, average and optimum.",
        checks.stable,
    ),
    # theorem and properties
    _claim(
        "optimum", "Theorem 1",
        "For any two laws of the pair the optimum is the optimal policy of the regularised problem.",
        f"{_LAWS}; enumerated gradient at Gibbs(r, beta).",
        checks.optimum,
        r"\pi^* \propto \pi_{ref} \exp(r / \beta)",
    ),
    _claim(
        "square", "Proof of Theorem 1",
        "The loss is its minimum plus a square, so that there is nothing else to find.",
        f"{_LAWS}; relative error.",
        checks.square,
        r"L(\pi^*) - L(\pi) = \frac{1}{2\beta} E[(\Delta r - \beta \Delta h)^2]",
    ),
    _claim(
        "half-beta", "Eq. 11, read as code",
        "Ours: the beta / 2 inside the loss matters; with beta there, and autodiff through it, KL would count twice.",
        f"{_LAWS}; smallest gradient at Gibbs(r, 2 beta).",
        checks.twice,
    ),
    _claim(
        "policy-gradient", "Property 1",
        "On-policy its gradient is the policy gradient, twice.",
        f"{_LAWS}; enumerated, groups of two and three.",
        checks.policy_gradient,
        r"\nabla L = 2 \nabla J",
    ),
    _claim(
        "leave-one-out", "Property 2",
        "For two responses it is RLOO.",
        f"{_LAWS.split(',')[0]}; gradient of each sample.",
        checks.leave_one_out,
    ),
    _claim(
        "groups", "Property 2, for more responses",
        "Ours: the mean over the pairs of any group is twice RLOO, computed in O(K).",
        "Groups of four; gradient of each sample.",
        checks.groups,
        r"\sum_{i<j} \nabla l(y_i, y_j) = (k - 1) \sum_i (R_i - \bar{R}_{-i}) \nabla \log \pi(y_i)",
    ),
    _claim(
        "ipo", "Property 3",
        "With rewards of a quarter for the chosen and minus a quarter for the rejected it is IPO.",
        "Gradient of each sample, both signs and the factor beta / 2 as they should be.",
        checks.ipo,
        r"-\nabla l = \frac{1}{2\beta} \nabla (\frac{1}{2} - \beta \Delta h)^2",
    ),
    _claim(
        "relatives", "Related work, derived here",
        "Ours: with one law it is AGRO, DRO with the best V and the log-variance divergence; a pair of P3O is half of "
        "it.",
        f"{_LAWS}; enumerated gradients.",
        checks.relatives,
        r"\min_V L_{DRO} = \frac{1}{2} \mathrm{Var}_{\mu}(R_\beta)",
    ),
    _claim(
        "mean-baseline", "Related work, measured here",
        "Ours: the mean reward in the place of V (as in mirror descent with a mean baseline) moves the fixed point.",
        f"{_LAWS}; median of the gradient at Gibbs(r, beta).",
        checks.mean_baseline,
    ),
    _claim(
        "dro-value", "arXiv:2405.19107, Proposition 1",
        "DRO with a wrong V has a minimiser off the optimum, a fixed point with the error of V in its exponent.",
        f"{_LAWS.split(', two')[0]}; the minimiser solved, its gradient and its fixed point.",
        checks.dro_value,
        r"\pi_V \propto \pi_{ref} \exp(\frac{r}{\beta} - \frac{\pi_V}{\mu} \frac{V^{\pi_V} - V}{\beta})",
    ),
    _claim(
        "pair-graph", "Theorem 1, sharpened here",
        "Ours: the optimum is unique if and only if the pairs that can be drawn connect all responses.",
        "1,000 (200) random supports of two laws on six responses: zero eigenvalues against components.",
        checks.pair_graph,
    ),
    _claim(
        "supports", "Theorem 1, sharpened here",
        "Ours: laws that share the reference's support are enough and not needed.",
        "The same: share of unique optima where a law lacks a response.",
        checks.equal_supports,
    ),
    _claim(
        "ipo-target", "Sec. 5.1",
        "IPO optimises the win-rate against the second law of the pair.",
        "The exact minimiser of IPO against Gibbs of that win-rate, in the bandit and for two random laws.",
        checks.ipo_target,
        r"\max_\pi E_{\pi}[E_{y' \sim \mu_2}[\sigma(r(y) - r(y'))]] - \beta \mathrm{KL}",
        stands="contradicted",
    ),
    _claim(
        "ipo-target-one-law", "Sec. 5.1",
        "It does where one law draws both.",
        "The same with equal laws.",
        checks.ipo_target_one_law,
    ),
    # what cannot be run here
    _claim(
        "summaries", "Sec. 5.2, Fig. 6",
        "On TL;DR CoPG reaches a higher reward than IPO, and IPO than DPO.",
        "Not run.",
        checks.summaries,
        stands="not testable here",
    ),
    _claim(
        "temperatures", "Sec. 5.2",
        "CoPG is good for beta from 0.03 to 0.1 and collapses for smaller ones.",
        "Not run.",
        checks.temperatures,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="copg-bandit",
        title="The bandit of Figure 1, with two more contenders",
        caption="Regret over epochs of 19 Adam updates. Median and 10 to 90 % band over seeds (20, 6 with --quick). "
        "Policy gradient is unbiased once its baseline has the KL in it; DPO's floor is the noise of the labels.",
        draw=figures.bandit,
    ),
    Figure(
        id="copg-policies",
        title="Where they end",
        caption="Policies after 600 epochs; mean over seeds, bars from the smallest to the largest.",
        draw=figures.policies,
    ),
    Figure(
        id="copg-baselines",
        title="Is the baseline special?",
        caption="Expected off-policy gradient with five baselines: the distance from the optimum. Median and 10 to "
        "90 % band over 60 random bandits.",
        draw=figures.baselines,
    ),
    Figure(
        id="copg-pairs",
        title="What decides the optimum",
        caption="Left: random supports of two laws; the area of a dot is its number of cases. Right: largest error of "
        "a probability if IPO's optimum is read as Gibbs of the win-rate against the second law, over random laws.",
        draw=figures.pairs,
    ),
)

PAPER = Paper(
    name="copg",
    title="Contrastive Policy Gradient",
    source=SOURCE,
    summary=(
        "A policy gradient for pairs from anywhere, without importance weights. Theorem and properties hold to "
        "rounding, and so do two things the paper does not say: the optimum is unique as soon as the drawn pairs "
        "connect the responses, and groups of any size are RLOO. One message does not hold: the contrastive baseline "
        "is not special. Any average of the regularised reward works off-policy, the policy's own value among them; "
        "the biased curve of the paper is that of a value without KL. In the bandit CoPG needs about 200 epochs where "
        "the figure has 100, and IPO's stated target is exact for equal laws only."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
