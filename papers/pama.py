"""He and Maghsudi, 2025, "Pareto Multi-Objective Alignment", arXiv:2508.07768: its claims as runs, and its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import pama_checks as checks
from papers import pama_figures as figures
from papers import pama_time_checks as times
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("He and Maghsudi", 2025, "2508.07768", "")


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
    return Claim(id=f"pama.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_BANDITS = (
    "2,000 (400 with --quick) random policies over ten arms with two normal rewards of correlation -1/2, exact Noon "
    "advantages"
)
_RUNS = (
    "Two rewards with correlation -0.8, -0.3 and 0.5, K = 20 arms, beta = 0.2, 4,000 exact gradient steps of size 1 on "
    "the logits from the reference, 8 (5) random bandits each"
)

CLAIMS = (
    _claim(
        "closed-form", "Theorem 1",
        "The least square of a convex combination of the advantages has a closed form.",
        "500 (100) random sets of two to six advantages against a linear program.",
        checks.theorem,
        r"\min_{c \in \Delta} (\sum_i c_i A_i)^2 = (\mathrm{proj}_{[\min A, \max A]} 0)^2",
    ),
    _claim(
        "one-token", "the bound before Theorem 1",
        "For one sampled token the bound is an equality, and the closed form is the true least norm.",
        f"{_BANDITS}; the most likely arm as the only sample.",
        checks.one_token,
        r"\| \sum_i c_i A_i \nabla \log \pi \|^2 = (\sum_i c_i A_i)^2 \| \nabla \log \pi \|^2",
    ),
    _claim(
        "product-bound", "the bound before Theorem 1",
        "The norm of the combined gradient is at most the product of the means of advantage and score.",
        f"{_BANDITS}; both sides by enumeration, for three choices of weights.",
        checks.product_bound,
        r"\| E[\sum_i c_i A_i \nabla \log \pi] \|^2 \leq \| E[\sum_i c_i A_i] \|^2 \| E[\nabla \log \pi] \|^2",
        stands="contradicted",
    ),
    _claim(
        "valid-bound", "the bound before Theorem 1, corrected here",
        "Ours: with second moments the bound holds. Its minimiser is a small quadratic program, not the closed form.",
        "The same runs against the bound of Cauchy and Schwarz.",
        checks.valid_bound,
        r"\| E[\sum_i c_i A_i \nabla \log \pi] \|^2 \leq E[(\sum_i c_i A_i)^2] E[\| \nabla \log \pi \|^2]",
    ),
    _claim(
        "vertex", "Noon PPO and Theorem 1, derived here",
        "Ours: after Noon the weights are always a vertex: nothing is ever blended.",
        f"{_BANDITS}, arm by arm.",
        checks.vertex,
        r"A_i \geq 0 \Rightarrow s^* = \min_i A_i",
    ),
    _claim(
        "unanimity", "Theorem 1 per token, measured here",
        "Ours: per token only what is good for every objective is reinforced; with five objectives that is seldom "
        "anything.",
        "5,000 (1,000) random bandits of ten arms; arms better than average for all of 2, 3 or 5 objectives.",
        checks.unanimity,
    ),
    _claim(
        "batch-scalar", "Algorithm 1, one number per batch, derived here",
        "Ours: one number for a whole batch has no expected gradient.",
        f"{_BANDITS}; the enumerated update, and how large the number is.",
        checks.scalar_signal,
        r"E[s^* \nabla \log \pi] = 0",
    ),
    _claim(
        "vertex-norm", "Sec. 4, read as an approximation of the minimum norm",
        "The closed form's weights on a batch give the least norm of the combined gradient.",
        f"{_BANDITS}; norm at PAMA's weights over the least norm.",
        checks.vertex_norm,
        r"\| \sum_i c_i g_i \| = \min_{c \in \Delta} \| \sum_i c_i g_i \|",
        stands="contradicted",
    ),
    _claim(
        "vertex-ascent", "Sec. 4, read as MGDA",
        "The direction that the closed form chooses on a batch lowers no objective.",
        f"{_BANDITS}; inner products of the chosen gradient with both.",
        checks.vertex_hurts,
        r"\langle g_i, d \rangle \geq 0",
        stands="contradicted",
    ),
    _claim(
        "natural-ascent", "Theorem 1 per token, derived here",
        "Ours, in PAMA's favour: per token, as a natural gradient, the update raises every objective.",
        f"{_BANDITS}; the covariance of each advantage with the smallest positive part.",
        checks.natural,
        r"E[A_i m] \geq E[m^2], \quad m = \min_i \max(A_i, 0)",
    ),
    _claim(
        "plain-metric", "Theorem 1 per token, measured here",
        "Ours: as a plain gradient step on the logits the same update can lower an objective.",
        f"{_BANDITS}; inner products with the true gradients.",
        checks.plain_metric,
    ),
    _claim(
        "fixed-points", "Theorem 2",
        "Where PAMA's update vanishes the point is Pareto stationary.",
        "Three arms with rewards (1, 0), (0, 1), (0.4, 0.4) and the policy (0.1, 0.1, 0.8), by hand.",
        checks.fixed_point,
        r"\sum_i c_i \nabla L_i(\theta^*) = 0",
        stands="contradicted",
    ),
    _claim(
        "dominated", "Theorem 2, derived here",
        "Ours: at that policy PAMA does not move, although a policy better for both objectives is near.",
        "The same three arms; also the enumerated gradient of the method in groups of three.",
        checks.dominated,
        r"J(0.3, 0.3, 0.4) = (0.46, 0.46) > (0.42, 0.42)",
    ),
    _claim(
        "converges", "Theorem 2, at toy scale",
        "PAMA converges to a Pareto stationary point.",
        f"{_RUNS}; the least norm of the gradients at the end.",
        checks.converges,
        r"\| \sum_i c_i \nabla J_i \| \rightarrow 0",
        stands="contradicted",
    ),
    _claim(
        "reductions", "Algorithm 1",
        "With one objective, or with the same one several times, PAMA is Noon PPO.",
        "50 random groups of six; gradients of the method against those written out, three combinations.",
        checks.reductions,
    ),
    _claim(
        "stationary-front", "Theorem 2, derived here",
        "Ours: in the KL-regularised bandit Pareto stationary policies are those on the front.",
        "200 (50) random bandits of six arms: five policies of the exact front, and random ones.",
        checks.stationary_iff_front,
        r"\min_{c \in \Delta} \| \sum_i c_i \nabla J_i \| = 0"
        r" \Leftrightarrow \pi \propto \mu e^{\sum_i w_i r_i / \beta}",
    ),
    _claim(
        "scalarisation", "related work, derived here",
        "Ours: linear scalarisation reaches the whole front, because every objective is concave in the policy.",
        f"{_RUNS.replace('gradient steps', 'natural gradient steps')}; MORLHF at nine weights.",
        checks.scalarisation,
        r"\pi_w \propto \mu e^{\sum_i w_i r_i / \beta}",
    ),
    _claim(
        "rivals-front", "Sec. 5, at toy scale",
        "MORLHF, MGDA, PCGrad and CAGrad reach the front.",
        f"{_RUNS}; the gap, that is how much more some weighted sum of the objectives could be.",
        checks.rivals,
        r"\min_w [\max_{\pi'} w \cdot J(\pi') - w \cdot J(\pi)] = 0",
    ),
    _claim(
        "pama-front", "Sec. 5, at toy scale",
        "PAMA reaches the front.",
        f"{_RUNS}; the gap, sample by sample.",
        checks.pama_gap,
        r"\min_w [\max_{\pi'} w \cdot J(\pi') - w \cdot J(\pi)] = 0",
        stands="contradicted",
    ),
    _claim(
        "beats-rivals", "Sec. 5, at toy scale",
        "PAMA consistently outperforms linear scalarisation.",
        f"{_RUNS}; hypervolume of the last point, as a share of the front's.",
        checks.beats_rivals,
        stands="contradicted",
    ),
    _claim(
        "batch-vertex", "Algorithm 1, the batch's vertex, measured here",
        "Ours: training the objective with the smallest mean positive advantage feeds on itself and ends at one "
        "objective's optimum.",
        f"{_RUNS}; the regret against the nearer of both single optima, at the two negative correlations.",
        checks.collapse,
    ),
    _claim(
        "order-n", "Abstract",
        "The combination costs O(n) in the number of objectives and nothing in the number of parameters.",
        "Wall-clock of the compiled closed form, best of 20 (8); the slope on log axes.",
        times.order_n,
        r"O(n)",
    ),
    _claim(
        "cheaper", "Abstract",
        "It is much cheaper than the minimum norm, which costs O(n^2 d).",
        "Wall-clock of both at eight objectives, on the largest gradients of the figure.",
        times.cheaper,
        r"O(n) \ll O(n^2 d)",
    ),
    _claim(
        "gram-cheap", "Abstract, measured here",
        "Ours: the program of the bound that holds is cheap as well, and sees no parameters either.",
        "Wall-clock of both on the same advantages.",
        times.gram_is_cheap,
        r"O(n^2 T)",
    ),
    _claim(
        "imdb", "Sec. 5",
        "GPT-2 on film reviews: PAMA is ahead of MORLHF and MGDA-UB in sentiment and in length.",
        "Not run.",
        checks.small_models,
        stands="not testable here",
    ),
    _claim(
        "seven-billion", "Sec. 5",
        "LLaMA-2 7B on helpfulness prompts: PAMA is ahead in harmlessness (and last in length).",
        "Not run.",
        checks.large_model,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="pama-fronts",
        title="Where each method ends",
        caption="The exact front (grey), the path of every method from the reference (star) and where it ends, one "
        "bandit for each correlation. The rivals that use all of the gradients reach the front at different points; "
        "PAMA per token stops short of it, and the batch's vertex runs to an end of it.",
        draw=figures.fronts,
    ),
    Figure(
        id="pama-gaps",
        title="The distance to the front while training",
        caption="How much more some weighted sum of the objectives could be: median and 10 to 90 % band over 8 random "
        "bandits (5 with --quick) for each correlation. Exact gradients, no noise. PCGrad adds gradients where the "
        "others average them: its steps are twice as long.",
        draw=figures.gaps,
    ),
    Figure(
        id="pama-volumes",
        title="Hypervolume of one policy",
        caption="The volume dominated by the last policy as a share of that of the front, above the worst of the front "
        "and of the start; large marks are medians over the bandits, small ones the bandits. One point cannot have all "
        "of it.",
        draw=figures.volumes,
    ),
    Figure(
        id="pama-vertex",
        title="The closed form is a vertex and a vote",
        caption="Left: norm of the gradient that the closed form picks on a batch over the least norm in the hull, on "
        "2,000 (400) random bandits with two opposed rewards. Right: how many of ten arms are better than average for "
        "all objectives; opposed rewards have a correlation of -1/(2 (n - 1)).",
        draw=figures.vertex,
    ),
    Figure(
        id="pama-times",
        title="What a combination costs",
        caption="Best of several runs, compiled, on CPU. The closed form and the Gram form see advantages only; MGDA "
        "sees gradients, and its backward passes (one for each objective) are not counted.",
        draw=figures.times,
    ),
)

PAPER = Paper(
    name="pama",
    title="Pareto Multi-Objective Alignment for Language Models",
    source=SOURCE,
    summary=(
        "Several rewards, Noon advantages, and a closed form instead of the minimum norm of gradients. The closed form "
        "is right for what it minimises, and it costs O(n) as claimed. But the bound that leads to it is false for "
        "expectations: the one that holds asks for a small quadratic program, which costs no parameters either. With "
        "Noon the closed form is a vote, the smallest positive advantage, and its fixed points need not be Pareto "
        "stationary: three arms are enough to see it. Read per token it stops short of the front, read as one number "
        "per batch it has no signal, read as the batch's vertex it runs to one objective. In its favour: per token, as "
        "a natural gradient, it raises every objective. Linear scalarisation, MGDA, PCGrad and CAGrad reach the front. "
        "The paper does not say which reading is meant; all are here."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
