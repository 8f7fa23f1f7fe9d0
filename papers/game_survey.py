"""A survey of no single paper: oracle calls of every solver over the temperature, on the same games."""

from collections.abc import Callable

from alignjax.record import Source
from papers import game_survey_checks as checks
from papers import game_survey_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("alignjax", 2025, "", "", venue="a survey of this library's own")


def _claim(
    name: str,
    source: Source,
    says: str,
    how: str,
    test: Callable[[Settings], Outcome | NotTestable],
    formula: str = "",
    *,
    stands: Verdict = "reproduced",
) -> Claim:
    return Claim(id=f"game-survey.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_GAMES = (
    "64 random games (32 with --quick) of ten responses, uniform preferences, references with normal logits, the same "
    "at every temperature from 0.01 (0.03) to 1; each solver from the reference at its default step"
)

CLAIMS = (
    _claim(
        "fast",
        Source("Zhou et al.", 2025, "2503.08942", "abstract; exponent derived here"),
        "Extragradient steps (EGPO, Nash mirror-prox) need O(1/tau) oracle calls.",
        f"{_GAMES}; calls to a regularised gap of 1e-6.",
        checks.fast,
        r"N \propto \tau^{-1}",
    ),
    _claim(
        "slow",
        Source("Sokota et al.", 2022, "2206.05825", "Theorem 3.4"),
        "Mirror descent and its kin, with steps proportional to tau, need O(1/tau^2).",
        f"{_GAMES}; calls to a regularised gap of 1e-6.",
        checks.slow,
        r"N \propto \tau^{-2}",
    ),
    _claim(
        "decaying",
        Source("Munos et al.", 2023, "2312.00886", "Theorem 1"),
        "If the decaying steps of Nash-MD's theorem lay between the two, it would need no more calls than mirror "
        "descent at its constant step.",
        f"{_GAMES}; ratio of median calls to a regularised gap of 1e-6.",
        checks.decaying,
        stands="contradicted",
    ),
    _claim(
        "always",
        SOURCE,
        "Every solver of the regularised game arrives, in every game and at every temperature.",
        f"{_GAMES}; at most 1,638,400 (204,800) updates.",
        checks.always,
    ),
    _claim(
        "same",
        SOURCE,
        "INPO, magnetic mirror descent and self-play are one recursion at their default steps, EGPO and mirror-prox "
        "another.",
        f"{_GAMES}; tau = 0.3, largest difference of log-probability along the runs.",
        checks.same,
    ),
    _claim(
        "cold",
        SOURCE,
        "At the smallest temperature EGPO needs the fewest calls of all.",
        f"{_GAMES}; ratio to the best other solver in the same game.",
        checks.cold,
    ),
    _claim(
        "warm",
        SOURCE,
        "If EGPO were the cheapest at every temperature, it would be so at tau = 1.",
        f"{_GAMES}; ratio to mirror descent in the same game.",
        checks.warm,
        stands="contradicted",
    ),
    _claim(
        "original",
        SOURCE,
        "For the game without KL, proximal steps solved inside by extragradient ones (COMAL) are the cheapest at their "
        "best temperature.",
        f"{_GAMES}; calls to an original gap of 1e-4 by the last policy; MPO and ONPO at their defaults.",
        checks.original,
    ),
    _claim(
        "averages",
        Source("Swamy et al.", 2024, "2401.04056", "Algorithm 1"),
        "The average of multiplicative weights is no match for last iterates: it does not come to 1e-4.",
        f"{_GAMES}; 204,800 calls, at the step of the theorem for so many.",
        checks.averages,
    ),
)

FIGURES = (
    Figure(
        id="game-survey",
        title="Oracle calls of every solver over the temperature",
        caption="Calls of the preference oracle, not updates, until the gap of the last policy is small; the same "
        "random games at every temperature, every solver at its default step; medians over games. Left: solvers whose "
        "target is the regularised Nash, 10 to 90 % band. Right: those of the original game, quartile band, where tau "
        "is the temperature of the prox or the magnet; a game that does not arrive counts as the dashed line.",
        draw=figures.oracle_calls,
    ),
)

PAPER = Paper(
    name="game-survey",
    title="Which solver for which game: oracle calls over the temperature",
    source=SOURCE,
    summary=(
        "Every solver of preference games on the same games, counted in oracle calls. Below a temperature of about 0.2 "
        "extragradient steps are the cheapest, in proportion to 1/tau where the others go with 1/tau^2; above it plain "
        "mirror descent is. For the game without KL, COMAL at a small temperature needs the fewest calls, and averages "
        "of multiplicative weights are orders of magnitude away."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
