"""Zhou et al., 2025, "Extragradient Preference Optimization", arXiv:2503.08942: its claims as runs, and its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import egpo_checks as checks
from papers import egpo_figures as figures
from papers import egpo_orderings as orderings
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Zhou et al.", 2025, "2503.08942", "")


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
    return Claim(id=f"egpo.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_GAMES = (
    "2,000 random games (400 with --quick) of 2 to 12 responses: uniform, 0/1 tournaments, annotators, voters, "
    "Bradley-Terry; beta log-uniform in [0.01, 10], starts far from the reference"
)
_OFFICIAL = (
    "The official settings on 50 games of our own (10 with --quick) of 10 responses, uniform preferences, references "
    "with normal logits, start at the reference"
)
_SAMPLED = (
    "The official settings with 100 sampled tuples an update, gradients of the library's own losses: 10 tables at beta "
    "= 0.01, and a network for 10 contexts of 100 responses at beta = 0.1"
)

CLAIMS = (
    # theory
    _claim(
        "linear-rate", "Theorem, as remembered",
        "With a step of at most 1/(beta + 3), the last iterate converges to the regularised Nash linearly.",
        f"{_GAMES}; the divergence after 200 (60) steps over the bound, the Nash by Newton's method.",
        checks.theorem,
        r"\mathrm{KL}(\pi^*_\beta \| \pi_T) \leq (1 - \eta \beta)^T \mathrm{KL}(\pi^*_\beta \| \pi_0)",
    ),
    _claim(
        "admissible-step", "Theorem, sharpened here",
        "Ours: each step contracts the divergence by 1 - h beta at least for every h up to 2/(1 + 2 beta), which is "
        "more than the remembered 1/(beta + 3).",
        f"{_GAMES}; the largest one-step factor along the runs.",
        checks.one_step,
        r"\eta \leq \frac{2}{1 + 2 \beta} \Rightarrow \mathrm{KL}(\pi^*_\beta \| \pi_{t+1}) \leq (1 - \eta \beta) "
        r"\mathrm{KL}(\pi^*_\beta \| \pi_t)",
    ),
    _claim(
        "step-too-long", "Theorem, sharpened here",
        "Ours: that range is right up to a factor below two. At twice the step the divergence rises in some game.",
        f"{_GAMES}; the games with beta up to 0.1, steps of up to four times 2/(1 + 2 beta).",
        checks.step_too_long,
    ),
    _claim(
        "two-calls", "Theorem, sharpened here",
        "Ours: at the largest of these steps the factor is at most 1/(1 + 2 beta) for two oracle calls, the rate of "
        "Nash mirror-prox.",
        f"{_GAMES}; the largest one-step factor times 1 + 2 beta.",
        checks.two_calls,
        r"\mathrm{KL}(\pi^*_\beta \| \pi_{t+1}) \leq \frac{1}{1 + 2 \beta} \mathrm{KL}(\pi^*_\beta \| \pi_t)",
    ),
    _claim(
        "oracle-calls", "Abstract; exponents derived here",
        "EGPO needs O(1/tau) oracle calls to a given gap, where mirror descent (online IPO 1, INPO) needs O(1/tau^2).",
        "64 (32) games of 10 responses, the same at every temperature, each solver at its default step (for mirror "
        "descent the largest with a proof); exponents fitted game by game.",
        checks.oracle_calls,
        r"N_{\mathrm{EGPO}} \propto \tau^{-1}, N_{\mathrm{OMD}} \propto \tau^{-2}",
    ),
    _claim(
        "fixed-point", "Eq. 6-7",
        "The fixed point of EGPO is the regularised Nash at every step size, and the gradient of its loss vanishes "
        "there.",
        "2,000 (400) games of 12 responses, beta log-uniform in [0.1, 10]; one step from Newton's Nash at four step "
        "sizes, beside Nash-MD at the same.",
        checks.fixed_point,
        r"\pi^*_\beta \propto \pi_{ref} \exp(P \pi^*_\beta / \beta)",
    ),
    _claim(
        "original-game", "Abstract",
        "Without regularisation of its own, the original game is solved in polynomial time by choosing beta in "
        "proportion to the wanted gap.",
        "64 (32) random games of 10 responses, uniform reference, four wanted gaps; the exponent of the updates over "
        "the inverse gap.",
        checks.original_game,
        r"\beta = \frac{\epsilon}{4 \log A}",
    ),
    # the loss
    _claim(
        "loss-is-update", "Practical implementation",
        "Gradient descent on the regression loss over uniform pairs is the mirror step, and with two gradients an "
        "extragradient step; the rate lr is the step 4 lr/(beta A).",
        "Enumerated gradients on 200 (50) random problems against the solvers; largest difference of log-probability.",
        checks.loss_is_update,
        r"\eta = \frac{4 \mathrm{lr}}{\beta A}",
    ),
    _claim(
        "three-samples", "Practical implementation",
        "One sampled opponent for both responses of a pair is enough: the gradient's mean is that with exact "
        "win-rates.",
        "All triples (y, y', y'') enumerated on the same problems; relative error of the gradient.",
        checks.three_samples,
        r"E_{y''} [P(y \succ y'') - P(y' \succ y'')] = P(y \succ \pi) - P(y' \succ \pi)",
    ),
    _claim(
        "same-losses", "Numerical simulations",
        "Ours: the simulations below descend the library's own losses, on tables and through networks.",
        "Their gradients against enumerated gradients of `egpo`, `online_ipo` and `nash_md_pg`, and their networks "
        "against `fit` on the same losses.",
        checks.same_losses,
    ),
    _claim(
        "code-mixing", "Official code",
        "If the weight of the reference in the code's Nash-MD were the one that belongs to its step, descent on its "
        "loss would pull with the same weight.",
        "One exact descent step on games of ties, where the pull is all that moves, at the three official settings.",
        checks.code_mixing,
        r"w = \eta \beta",
        stands="contradicted",
    ),
    # simulations
    _claim(
        "order-0.1", "Numerical simulations, beta = 0.1",
        "Online IPO 1 and EGPO converge, online IPO 2 is slower, Nash-MD stops at a floor, and Nash-MD-PG is last.",
        f"{_OFFICIAL}; 1,000 updates.",
        orderings.order_large,
    ),
    _claim(
        "order-0.01", "Numerical simulations, beta = 0.01",
        "EGPO reaches a gap of 1e-6 in more games than each of the others.",
        f"{_OFFICIAL}; 5,000 updates.",
        orderings.order_middle,
    ),
    _claim(
        "only-egpo", "Numerical simulations, beta = 0.01, read off a single run",
        "If one run's curve spoke for all games, online IPO 1 would not reach a gap of 1e-6 at beta = 0.01.",
        f"{_OFFICIAL}; the share of games in which it does.",
        orderings.only_egpo,
        stands="contradicted",
    ),
    _claim(
        "order-0.001", "Numerical simulations, beta = 0.001",
        "At the smallest beta EGPO alone comes near the Nash: its gap is far below those of all others.",
        f"{_OFFICIAL}; 100,000 updates.",
        orderings.order_small,
    ),
    _claim(
        "always", "Numerical simulations",
        "EGPO converges in every setting.",
        f"{_OFFICIAL}; the largest final gap over all games.",
        orderings.always_reached,
    ),
    _claim(
        "equal-calls", "Numerical simulations, counted by oracle calls",
        "The advantage at small beta is not one of counting an update for what are two oracle calls.",
        f"{_OFFICIAL}; EGPO after half of its updates.",
        orderings.equal_calls,
    ),
    _claim(
        "nash-md-floor", "Numerical simulations, explained here",
        "Ours: the plateau of Nash-MD in these curves is no noise. A constant step converges to the best response to "
        "the Nash of another temperature, and the gap of that policy is the floor.",
        f"{_OFFICIAL}; final gap over the predicted one, game by game.",
        orderings.nash_md_floor,
        r"\pi_\infty \propto \pi_{ref} \exp(P \nu / \beta), \nu = \pi^*_{\beta / (1 - m)}",
    ),
    _claim(
        "slow-policy-gradient", "Numerical simulations",
        "Nash-MD-PG hardly moves in the same number of updates.",
        f"{_OFFICIAL}; the share of its initial gap that is left, beta = 0.001 and 0.01.",
        orderings.slow_policy_gradient,
    ),
    _claim(
        "neural", "Numerical simulations, neural policies",
        "EGPO is ahead for a network that shares its weights among contexts, too.",
        "The official setting, beta = 0.01, 10,000 (3,000) updates of exact gradients: 2 (1) networks with two hidden "
        "layers of 10, ten contexts of 100 responses each.",
        orderings.neural_order,
    ),
    _claim(
        "sampled", "Abstract; numerical simulations with samples",
        "With sampled gradients EGPO still descends to a neighbourhood of the Nash.",
        f"{_SAMPLED}; 100,000 and 20,000 updates (4,000 and 1,000).",
        orderings.sampled_descends,
    ),
    _claim(
        "sampled-advantage", "Numerical simulations with samples",
        "If EGPO were ahead in the sampled simulations as it is in the exact ones, its late gap would be at most half "
        "of mirror descent's.",
        f"{_SAMPLED}; ratio of late gaps game by game.",
        orderings.sampled_advantage,
        stands="contradicted",
    ),
    _claim(
        "noise-long-steps", "Abstract",
        "At the long steps of the exact simulations EGPO's advantage survives sampled win-rates.",
        "30 (10) tables, win-rates from 100 sampled opponents an update, steps 0.8 (beta = 0.01) and 0.4 (beta = 0.1); "
        "median gap over the second half of the run.",
        orderings.sampled_long_steps,
    ),
    # what cannot be run here
    _claim(
        "curves", "Numerical simulations",
        "The digits of the published curves.",
        "Not run.",
        checks.published_curves,
        stands="not testable here",
    ),
    _claim(
        "language-models", "Language-model experiments",
        "Fine-tuned with EGPO, language models win more often than those of the four other algorithms.",
        "Not run.",
        checks.language_models,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="egpo-tables",
        title="The official simulations, exact",
        caption="Regularised duality gap over updates on games of our own at the three official settings, median and "
        "10 to 90 % band over games; an update of EGPO is two oracle calls. Last panel: where Nash-MD stops, against "
        "the gap of the policy at which its fixed-point equation says it must.",
        draw=figures.tables,
    ),
    Figure(
        id="egpo-neural",
        title="A network that shares its weights among contexts",
        caption="Exact gradients through a network with two hidden layers of ten units; the gap of each context "
        "against all policies, median and 10 to 90 % band over contexts.",
        draw=figures.neural,
    ),
    Figure(
        id="egpo-sampled",
        title="With 100 samples an update",
        caption="The same algorithms on sampled tuples at the official rates, median and 10 to 90 % band over ten "
        "games (left) and ten contexts of one network (right). Thin line: EGPO with exact gradients on the same games.",
        draw=figures.sampled,
    ),
    Figure(
        id="egpo-rates",
        title="Which steps contract",
        caption="Left: the largest one-step factor of the divergence in units of 1 - h beta, over random games and "
        "their runs; above 1 the rate does not hold. Right: every game's divergence at the end against the bound.",
        draw=figures.rates,
    ),
    Figure(
        id="egpo-noise",
        title="Noise at long steps",
        caption="Late gap of EGPO and of mirror descent in the same game with win-rates from 100 sampled opponents, "
        "one point a game. Below the dashed line EGPO is nearer the Nash.",
        draw=figures.noise,
    ),
)

PAPER = Paper(
    name="egpo",
    title="Extragradient Preference Optimization (EGPO)",
    source=SOURCE,
    summary=(
        "An extragradient step towards the regularised Nash of a preference game, as a regression on uniform pairs. "
        "The linear rate holds on every random game, for steps up to 2/(1 + 2 beta) and a little beyond; oracle calls "
        "grow like 1/tau where mirror descent's grow like 1/tau^2. The ordering of the official simulations is there "
        "on games of our own, with three remarks: at beta = 0.01 mirror descent converges in many games too; Nash-MD's "
        "plateau is the fixed point of its constant step, predicted game by game, and the code mixes with half the "
        "weight; and at the small rate of the sampled simulations EGPO has no clear advantage over mirror descent, "
        "while at long steps it has."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
