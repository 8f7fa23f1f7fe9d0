"""Liu et al., 2024, COMAL, arXiv:2410.23223, and MPO's moving magnet: claims as runs, and figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import comal_checks as checks
from papers import comal_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Liu et al.", 2024, "2410.23223", "")
MPO = Source("Wang et al.", 2024, "2410.16714", "")


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
    return Claim(id=f"comal.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_GAMES = (
    "400 random games of 12 responses, half of them with a twin for each response and so a continuum of equilibria; "
    "tau log-uniform in [0.02, 5]; 24 (8 with --quick) exact proximal steps by Newton's method from random policies; "
    "four equilibria of the original game each, by linear programs"
)
_CYCLES = "200 (50) random cycles of three responses from one start, 60 proximal steps at tau = 0.1"
_SYNTHETIC = "The paper's game P(b > a) = P(c > b) = 0.9, P(a > c) = 0.8 from (0.2, 0.5, 0.3)"
_ITERATIONS = "4,000 (1,000) exact iterations at step 0.3"

CLAIMS = (
    # the proximal point method
    _claim(
        "monotone", "Lemma on Algorithm 1",
        "The divergence from every equilibrium of the original game never rises, at any temperature.",
        f"{_GAMES}; the largest rise in one step, also on the paper's own game.",
        checks.monotone,
        r"\mathrm{KL}(\pi^* \| \pi_{k+1}) \leq \mathrm{KL}(\pi^* \| \pi_k)",
    ),
    _claim(
        "prox-identity", "Lemma on Algorithm 1, sharpened here",
        "Ours: by how much it falls, exactly.",
        f"{_GAMES}; both sides from their definitions.",
        checks.identity,
        r"\mathrm{KL}(\pi^* \| \pi_k) = \mathrm{KL}(\pi^* \| \pi_{k+1}) + \mathrm{KL}(\pi_{k+1} \| \pi_k)"
        r" + \frac{1}{\tau} (P(\pi^* \succ \pi_{k+1}) - \frac{1}{2})",
    ),
    _claim(
        "last-iterate", "Theorem 1",
        "The last policy converges to an equilibrium of the original game.",
        f"{_CYCLES}; largest duality gap of the original game at the end.",
        checks.last_iterate,
    ),
    _claim(
        "approximate", "Theorem 3",
        "It still converges where the inner problems are solved approximately.",
        f"{_CYCLES}; inner problems by 2, 5 and 10 over h tau steps of mirror descent.",
        checks.approximate,
    ),
    # the synthetic experiment
    _claim(
        "others-cycle", "Synthetic experiment",
        "Iterative DPO, iterative IPO and SPPO cycle.",
        f"{_SYNTHETIC}; {_ITERATIONS}; turns round the Nash. Each iterate is the exact minimiser of its loss on pairs "
        "from the last policy (for DPO a fitted Bradley-Terry reward).",
        checks.cycle,
    ),
    _claim(
        "others-go-outwards", "Synthetic experiment, measured here",
        "Ours: they end farther from the Nash than they began.",
        f"{_SYNTHETIC}; {_ITERATIONS}; the divergence from the Nash at the end over that at the start.",
        checks.diverge,
    ),
    _claim(
        "inpo-constant", "Synthetic experiment",
        "INPO's duality gap settles at a constant.",
        f"{_SYNTHETIC}; tau = 0.1, the start as reference, 4,000 (1,000) iterations; range of the gap over the last "
        "half.",
        checks.inpo_stalls,
    ),
    _claim(
        "inpo-floor", "Synthetic experiment",
        "That constant is not zero.",
        "The same run.",
        checks.inpo_floor,
    ),
    _claim(
        "comal-gap", "Synthetic experiment",
        "COMAL brings the gap of the same game to 1e-11.",
        f"{_SYNTHETIC}; 60 proximal steps at tau = 0.1.",
        checks.reaches_nash,
    ),
    _claim(
        "any-temperature", "Lemma on Algorithm 1",
        "It makes progress at every temperature.",
        f"{_SYNTHETIC}; 60 proximal steps at tau = 0.1, 1 and 10; gap at the end over gap at the start.",
        checks.any_temperature,
    ),
    # the inner loop
    _claim(
        "inner-rate", "Theorem 2",
        "The inner loop, multiplicative weights towards a fixed reference, contracts by 1 - eta tau / 2 in every step.",
        "400 random games, tau log-uniform in [0.02, 5], three steps up to the largest with a proved rate, from "
        "random policies, 400 (100) steps; the slowest step.",
        checks.inner_rate,
        r"\mathrm{KL}(\pi^*_\tau \| \mu_{k+1}) \leq (1 - \frac{\eta \tau}{2})^k \mathrm{KL}(\pi^*_\tau \| \mu_1)",
    ),
    _claim(
        "inner-rate-sharp", "Theorem 2, sharpened here",
        "Ours: it contracts by 1 - eta tau, without the half.",
        "The same runs.",
        checks.inner_rate_sharp,
        r"\mathrm{KL}(\pi^*_\tau \| \mu_{k+1}) \leq (1 - \eta \tau) \mathrm{KL}(\pi^*_\tau \| \mu_k)",
    ),
    # magnets that move
    _claim(
        "mpo", "Algorithm 1",
        "Mirror descent towards a magnet that now and then moves to the policy converges to the original Nash.",
        f"{_SYNTHETIC}; tau = 0.1, implicit step 0.4, 50 steps between moves, 60 moves.",
        checks.mpo_converges,
        paper=MPO,
    ),
    _claim(
        "mpo-too-few", "Algorithm 1, read without its inner length",
        "If the number of steps between moves did not matter, 6 would do. (The paper asks for the inner problem to "
        "be solved.)",
        "The same run with 6 in place of 50.",
        checks.mpo_too_few,
        stands="contradicted",
        paper=MPO,
    ),
    _claim(
        "mpo-shortest", "Algorithm 1, measured here",
        "Ours: the shortest inner length that converges at all grows like one over the square root of h tau.",
        "The same game at tau = 0.1 from a policy near its Nash, h tau = 0.08 to 0.005: the first length after which "
        "the divergence falls from move to move.",
        checks.shortest_length,
        r"m_{\min} \propto (h \tau)^{-1/2}",
        paper=MPO,
    ),
    _claim(
        "mpo-cheapest", "Algorithm 1, measured here",
        "Ours: the inner length that makes most progress for its steps grows like 1/(h tau).",
        "The same runs: the length with the largest fall of log divergence for each inner step.",
        checks.cheapest_length,
        r"m_{\mathrm{best}} \propto (h \tau)^{-1}",
        paper=MPO,
    ),
    _claim(
        "moving-reference", "Practical algorithm and its released code",
        "COMAL in practice is INPO whose reference is replaced by the policy every few iterations, which is MPO on "
        "the same numbers.",
        f"{_SYNTHETIC}; tau = 0.5; minimisers of INPO's loss by least squares over all labelled pairs, reference "
        "replaced every 12, against MPO's recursion.",
        checks.moving_reference,
    ),
    _claim(
        "released-schedule", "Released code, read as an exact algorithm",
        "If its iterations were exact, the released schedule (tau/eta = 1/3, reference replaced every 12) would "
        "converge at the released eta = 0.002, as it does at larger temperatures.",
        f"{_SYNTHETIC}; the exact recursion at tau = 0.5, 0.1 and 0.002/3, 200 moves.",
        checks.released_schedule,
        stands="contradicted",
    ),
    # annotators
    _claim(
        "two-annotators", "Preference oracles of two reward models, derived here",
        "Ours: an equal mixture of two Bradley-Terry annotators has no cycles, so that it cannot tell a method for "
        "intransitive preferences from one for rewards.",
        "400,000 (40,000) random triples of responses.",
        checks.two_annotators,
        r"\sigma(a) + \sigma(b) > 1 \Leftrightarrow a + b > 0",
    ),
    _claim(
        "more-annotators", "Preference oracles of several reward models, measured here",
        "Ours: unequal weights or a third annotator are enough for cycles.",
        "The same triples with other annotators.",
        checks.more_annotators,
    ),
    _claim(
        "language-models", "Sec. on experiments with language models",
        "COMAL on Llama-3-8B wins 71.37 % on average, more than iterative IPO and INPO.",
        "Not run.",
        checks.language_models,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="comal-synthetic",
        title="The synthetic game: five methods from one start",
        caption="Left: policies on the simplex. Iterative DPO and IPO turn outwards (first 400 iterations), INPO "
        "stops at the regularised Nash, COMAL (dots) goes to the Nash of the game. Right: the gap of the original "
        "game; a proximal step of COMAL counts as one iteration. Exact: no runs to average.",
        draw=figures.synthetic,
    ),
    Figure(
        id="comal-monotone",
        title="The divergence from every equilibrium falls",
        caption="Left: KL from the equilibria of the original game along exact proximal steps on random games, as a "
        "share of its start: median and 10 to 90 % band for low, middle and high temperatures. Right: the original "
        "gap on random cycles with exact and approximate inner solutions, medians and bands.",
        draw=figures.monotone,
    ),
    Figure(
        id="comal-inner",
        title="The inner loop is faster than its theorem",
        caption="Divergence from the regularised Nash along mirror descent, over steps times h tau: median, 10 to 90 "
        "% band and largest of 400 random games, with the theorem's rate and the one without its half.",
        draw=figures.inner,
    ),
    Figure(
        id="comal-magnets",
        title="How long a magnet must stand",
        caption="Left: original gap over moves of the magnet with 50, 20 and 6 inner steps between them. Right: the "
        "shortest inner length that converges and the one of most progress per inner step, simulated (marks) and "
        "from the linear part of the dynamics (lines). Exact: no runs to average.",
        draw=figures.magnets_moved,
    ),
)  # fmt: skip

PAPER = Paper(
    name="comal",
    title="COMAL: A Convergent Meta-Algorithm for Aligning LLMs with General Preferences",
    source=SOURCE,
    summary=(
        "A proximal point method for the preference game without regularisation: each policy is the regularised Nash "
        "with the last one as reference. Everything the theory says holds, and more: the divergence from every "
        "equilibrium falls by an exact amount, and the inner loop is twice as fast as its theorem. The synthetic "
        "figure comes out: iterative DPO, IPO and SPPO turn outwards, INPO keeps a gap, COMAL reaches rounding. The "
        "practical form is MPO's moving magnet; how long the magnet must stand is measured here, and at the released "
        "step an exact run would not converge. Two Bradley-Terry annotators of equal weight have no cycles to be "
        "robust against."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
