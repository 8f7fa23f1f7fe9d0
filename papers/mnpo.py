"""Wu et al., 2025, "Multiplayer Nash Preference Optimization", arXiv:2509.23102 v3: its claims as runs, its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import mnpo_checks as checks
from papers import mnpo_figures as figures
from papers import mnpo_game_checks as game_checks
from papers import mnpo_table as table
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Wu et al.", 2025, "2509.23102", "")


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
    return Claim(id=f"mnpo.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_WRONG: Verdict = "contradicted"
_GAMES = (
    "2,000 random games (200 with --quick) of five responses, the player's own policy and two opponents random, "
    "eta = 1/2 and 2; the minimiser of a loss by its own enumerated gradients"
)
_PLAY = "Random games of four responses, players from random distinct starts, n = 2, 3 and 5"
_OPPOSITE = "Rock, paper, scissors of margin .4 and its opposite, uniform reference"
_TABLE = (
    "Gradients with respect to the log-probs of 4,000 (500) random labelled pairs against the method's own loss; no "
    "factor allowed"
)


def _row(name: str, says: str) -> Claim:
    test = checks.table_row(name)
    return _claim(f"table-1-{name.lower()}", f"Table 1, row {name}", says, _TABLE, test)


_ROWS = {
    "SimPO": "SimPO is the loss with one player, no opponent and an infinite target (beta in front of the margin).",
    "CPO": "CPO is the loss with one player, no opponent and an infinite target (beta in front of the margin).",
    "DPO": "DPO is the loss with the reference as its opponent and an infinite target (beta in front of the margin).",
    "Distill-DPO": "Distill-DPO is the squared loss with the reference as its opponent. Corrected: its target is the "
    "difference of rewards, where infinity is printed.",
    "DNO": "DNO is the loss with pi_t as its opponent. Corrected: the target is the difference of win-rates; the "
    "infinite one that is printed is DNO's practical form.",
    "SPIN": "SPIN is the loss with pi_t as its opponent and an infinite target. Corrected: beta stands in front of the "
    "margin and is not the weight of pi_t.",
    "SPPO": "SPPO is the squared loss with pi_t as its opponent. Corrected: SPPO squares each response's residual; "
    "the pair's loss is the square of their difference.",
    "IPO": "IPO is the squared loss with the reference as its opponent and the target 1 / (2 tau).",
    "INPO": "INPO is the squared loss with pi_t and the reference as opponents. Corrected: the target is 1 / (2 eta), "
    "and the weight printed at j = 1 is that of pi_t.",
}

CLAIMS = (
    # the objective
    _claim(
        "ranking", "Eq. 6",
        "Maximising the listwise objective fits the Plackett-Luce scores that the comparisons came from.",
        "Exact maximum likelihood over pools of three out of five responses, 100 (20) random scores; median range.",
        checks.ranking,
        r"E_{y_i \in \{y_1, ..., y_k\}} [R(y_i) - \log \sum_j e^{R(y_j)}]",
        stands=_WRONG,
    ),
    _claim(
        "ranking-of-winners", "Eq. 6, corrected here",
        "With the term of the response that won alone, the objective does fit the scores.",
        "The same fits; largest error of a score.",
        checks.ranking_of_winners,
        r"E_{y_w} [R(y_w) - \log \sum_j e^{R(y_j)}]",
    ),
    _claim(
        "symmetric", "Sec. 3.1, below Eq. 7",
        "Players who share an oracle have the same policy at equilibrium.",
        f"{_PLAY}, tau = .2, extragradient play until nothing moves; mean of pairwise preferences and Plackett-Luce.",
        game_checks.symmetric,
        r"\pi_1^* = \pi_2^* = \ldots = \pi_n^*",
    ),
    _claim(
        "same-equilibrium", "Eq. 7 and 8, derived here",
        "Ours: with the mean of pairwise preferences as its oracle the n-player game has the two-player equilibrium, "
        "whatever n is.",
        f"{_PLAY}; where they end against Newton's method for two players.",
        game_checks.same_equilibrium,
        r"\pi^*(y) \propto \mu(y) \exp(P(y \succ \pi^*) / \tau)",
    ),
    _claim(
        "plackett-luce", "Eq. 5 and 7, measured here",
        "Ours: with the Plackett-Luce oracle more players flatten the equilibrium.",
        "Newton's method on the n-player equilibrium; mass on the best of three responses, n against the next "
        "smaller n.",
        game_checks.plackett_luce,
        r"P(y \succ y_2, ..., y_n) = \frac{e^{R(y)}}{e^{R(y)} + \sum_j e^{R(y_j)}}",
    ),
    _claim(
        "one-in-n", "v1, Sec. 3.1",
        "At equilibrium a player wins against the others with probability 1/n.",
        "The Plackett-Luce equilibria of the claim above; the chance by quadrature.",
        game_checks.one_in_n,
        r"P(\pi^* \succ \pi^*, ..., \pi^*) = \frac{1}{n}",
    ),
    _claim(
        "gap", "Eq. 9",
        "The gain of the best deviation measures the distance from equilibrium. For two players it is half of the "
        "usual duality gap, and tau times the divergence from the best response.",
        "Random games and policies: the definition, half of the two-player gap, and tau KL; largest difference.",
        game_checks.half_gap,
        r"\max_{\pi'} J(\pi', O_\pi) - J(\pi, O_\pi) = \tau \mathrm{KL}(\pi \| \mathrm{BR}(O_\pi))",
    ),
    # Eq. 10
    _claim(
        "alike", "Eq. 10, derived here",
        "Ours: players who start alike run two-player multiplicative weights, whatever n is.",
        "Random games, n = 2, 3 and 5 copies of a random policy, against multiplicative weights in NumPy.",
        game_checks.alike,
        r"\pi^{t+1} \propto \pi^t \exp(\eta P(y \succ \pi^t))",
    ),
    _claim(
        "merging", "Eq. 10, measured here",
        "Ours: three and more players who start apart merge, by the factor 1 / (n - 1) a step.",
        f"{_PLAY}; range of their log-ratios over eight steps of .05.",
        game_checks.merging,
    ),
    _claim(
        "swapping", "Eq. 10, measured here",
        "Ours: two players who start apart change places at every step and never merge.",
        f"{_PLAY.replace('n = 2, 3 and 5', 'n = 2')}; range of their log-ratio over eight steps of .05.",
        game_checks.swapping,
    ),
    _claim(
        "average", "Sec. 3.1, below Eq. 10",
        "The average policy of Eq. 10 converges at the rate 1 / sqrt(T) to a Nash equilibrium.",
        f"{_PLAY}, h = sqrt(8 D / T); gap of the game without regularisation over multiplicative weights' bound.",
        game_checks.average_gap,
        r"\mathrm{gap}(\bar\pi_T) = O(\frac{1}{\sqrt{T}})",
    ),
    _claim(
        "regularised-target", "Eq. 7 to 10",
        "The equilibrium that Eq. 10 converges to is that of the regularised objective of Eq. 7, from which it is "
        "derived.",
        "The same average policies: their gap in the game of Eq. 7 with a random reference and tau = .1.",
        game_checks.regularised_target,
        stands=_WRONG,
    ),
    _claim(
        "last-iterate", "Eq. 10, measured here",
        "Ours: the last policies of Eq. 10 cycle, for every n.",
        "COMAL's cycle of three responses, 64 (16) random starts; original gap of the last over that of the average.",
        game_checks.last_iterate,
    ),
    # the losses
    _claim(
        "lemma-1", "Lemma 1",
        "The update of Eq. 10 is the unique minimiser of the loss on win-rates.",
        f"{_GAMES}; least curvature of the loss.",
        checks.lemma,
    ),
    _claim(
        "proposition-1", "Proposition 1",
        "The loss on labels, with the target 1 / (2 eta), is the loss on win-rates up to a constant.",
        _GAMES,
        checks.proposition,
        r"L'_t(\pi) = L_t(\pi) + \mathrm{const}",
        stands=_WRONG,
    ),
    _claim(
        "proposition-1-counterexample", "Proposition 1",
        "The same, on the two smallest cases: the minimisers are one policy.",
        "Two responses with equal opponents, and three responses with one opponent; minimisers of both losses.",
        checks.counterexample,
        stands=_WRONG,
    ),
    _claim(
        "proposition-1-constant", "Proposition 1, first half",
        "The same where every opponent is the law of the pairs, with 1 / (2 eta) and with eta / 2.",
        _GAMES.replace("two opponents random", "both opponents equal to it"),
        checks.proposition_constant,
        stands=_WRONG,
    ),
    _claim(
        "proposition-1-opponents", "Proposition 1, second half",
        "The same with the target put right, eta / 2, and opponents that are not the law of the pairs.",
        _GAMES,
        checks.proposition_opponents,
        stands=_WRONG,
    ),
    _claim(
        "proposition-1-corrected", "Proposition 1, corrected here",
        "Ours: with the target eta / 2, and the law of the pairs as the opponent in the win-rate, the two losses do "
        "differ by a constant, whatever the bases are.",
        _GAMES,
        checks.proposition_corrected,
        r"E (h_t(y_w, y_l) - \frac{\eta}{2})^2 = E (h_t(y, y') - \eta [P(y \succ \nu) - P(y' \succ \nu)])^2"
        r" + \mathrm{const}",
    ),
    # Table 1
    *(_row(name, _ROWS[name]) for name in table.NAMES),
    _claim(
        "table-1-as-printed", "Eq. 17 and Table 1",
        "Every row is a case of the loss as printed, which has no beta in front of the margin.",
        f"{_TABLE.replace('no factor allowed', 'after the best factor')}, beta = .3, h = .7.",
        checks.table_printed,
        stands=_WRONG,
    ),
    # TD-, EO-MNPO and the code
    _claim(
        "effective-temperature", "Eq. 17 and its official code, derived here",
        "Ours: the released loss has as its fixed point the two-player Nash at tau = eta ratio.",
        "The loss's minimiser iterated on 80 (40) random games with its two last policies as history, against "
        "Newton's method.",
        checks.effective_temperature,
        r"\pi \propto \mu \exp(\frac{P(y \succ \pi)}{\eta \cdot \mathrm{ratio}})",
    ),
    _claim(
        "history-weights", "official code, measured here",
        "Ours: the history weights that the released configs set, and the trainer does not read, would not change "
        "where it ends.",
        "The same iteration with the weights (.25, .75).",
        checks.history_weights,
    ),
    _claim(
        "short-weights", "Eq. 17, derived here",
        "Ours: importance weights that sum to less than one, which the paper allows, add an entropy and flatten the "
        "reference.",
        "The same iteration with weights .25 on the reference and .5 on the history, against the Nash so changed.",
        checks.short_weights,
        r"\pi \propto \mu^{\frac{w}{1 - \Lambda}} \exp(\frac{P(y \succ \pi)}{\eta (1 - \Lambda)})",
    ),
    _claim(
        "token-means", "official code against Eq. 15",
        "The released loss, which is on means over tokens, takes the step 1 / eta of the formula on sums.",
        f"Responses of 1, 2, 4 and 8 tokens; {_GAMES[:1].lower()}{_GAMES[1:]}.",
        checks.token_means,
        stands=_WRONG,
    ),
    _claim(
        "external", "Eq. 20",
        "With external opponents the regularised reward is maximal at a product of the reference and of their "
        "policies, tilted by the reward.",
        "100 (20) random problems, two external policies: BFGS on the objective, and the minimiser of the loss.",
        checks.external,
        r"\pi \propto \mu^{\tau_0 / \tau} \prod_i \pi_i^{\tau_i / \tau} e^{R / \tau}",
    ),
    # heterogeneous players
    _claim(
        "several-equilibria", "Sec. 3.3",
        "With an oracle for each player the game has no guarantee of one equilibrium. Measured here: opposite "
        "annotators have three ends at tau = .05 and one at .5.",
        f"{_OPPOSITE}; extragradient play from 400 (80) random starts.",
        game_checks.several_equilibria,
        r"P_2 = 1 - P_1",
    ),
    _claim(
        "population", "Sec. 3.3, derived here",
        "Ours: the game on the annotators' averaged oracle has one equilibrium, which does not depend on the start.",
        "200 (30) pairs of random annotators; four starts each.",
        game_checks.population,
        r"\bar{P} = \sum_m w_m P_m",
    ),
    _claim(
        "two-annotators", "Sec. 3.3, derived here",
        "Ours: an equal mixture of two Bradley-Terry annotators is never cyclic.",
        "40,000 (8,000) random mixtures on three responses, rewards N(0, 9); three and more annotators beside it.",
        game_checks.two_annotators,
        r"\sigma(a) + \sigma(b) > 1 \Leftrightarrow a + b > 0",
    ),
    _claim(
        "extragradient", "Sec. 3.3, measured here",
        "Ours: extragradient play of two random annotators' players ends at an equilibrium all the same.",
        "200 (30) random two-annotator games of four responses.",
        game_checks.extragradient,
    ),
    # what cannot be run here
    _claim(
        "benchmarks", "Table 2",
        "TD-MNPO is better than DPO, SimPO, SPPO and INPO on instruction-following benchmarks.",
        "Not run.",
        checks.benchmarks,
        stands="not testable here",
    ),
    _claim(
        "number-of-players", "Sec. 5",
        "More players help, up to three or four.",
        "Not run.",
        checks.number_of_players,
        stands="not testable here",
    ),
    _claim(
        "heterogeneous", "Table 2",
        "Players with reward models of their own do better still.",
        "Not run.",
        checks.heterogeneous,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="mnpo-players",
        title="Two players change places, three become one",
        caption="Eq. 10 with step .05 on COMAL's cycle of three responses. 500 steps. Left: two players, marked at "
        "every 27th step, and the two runs of self-play that they take turns in. Right: three players; after the first "
        "few steps they are one policy, which cycles. One start each.",
        draw=figures.players,
    ),
    Figure(
        id="mnpo-gaps",
        title="What Eq. 10 converges to",
        caption="Duality gaps of the first player's average policy on COMAL's cycle, step .05, random distinct "
        "starts: median and 10 to 90 % band. Left: without regularisation. Right: in the regularised game with "
        "reference (.7, .2, .1) and tau = .1, which Eq. 10 does not know.",
        draw=figures.gaps,
    ),
    Figure(
        id="mnpo-plackett-luce",
        title="More players, flatter policies",
        caption="The symmetric regularised equilibrium of n players, scores (0, .5, 1), uniform reference. With the "
        "mean of pairwise preferences nothing depends on n. Exact: no runs to average.",
        draw=figures.plackett_luce,
    ),
    Figure(
        id="mnpo-selection",
        title="Annotators who disagree: the start selects the equilibrium",
        caption="Two players whose annotators say the opposite of each other, extragradient play. Left: tau = .05, "
        "player 2 starts at the reference; colours say which response player 1 ends at. Right: player 1's "
        "probabilities at the end by size, twelve random starts at each temperature.",
        draw=figures.selection,
    ),
    Figure(
        id="mnpo-proposition",
        title="Proposition 1, printed and corrected",
        caption="Left: KL between the minimiser on win-rates and the one on labels over random games (for the last "
        "curve the largest difference of log-probability); with both corrections it is rounding. Right: the smallest "
        "case in which the opponent matters, where labels of uniform pairs move nothing.",
        draw=figures.proposition,
    ),
    Figure(
        id="mnpo-table",
        title="Table 1, row by row",
        caption="Relative error of each row's gradient against the method's own loss on random labelled pairs: as "
        "printed, after the best factor, at two settings, and corrected (no factor).",
        draw=figures.rows,
    ),
)  # fmt: skip

PAPER = Paper(
    name="mnpo",
    title="Multiplayer Nash Preference Optimization",
    source=SOURCE,
    summary=(
        "Preference games of n players. What holds: the equilibrium is symmetric, the update is the unique minimiser "
        "of the loss on win-rates, its average policy converges, and most of Table 1 after corrections. What does not: "
        "the loss on labels is not the loss on win-rates up to a constant (the constant and the opponent are both off; "
        "corrected, it is), the iteration does not aim at the regularised game it is derived from, and the listwise "
        "objective as printed ranks nothing. And n does less than it seems: players merge within a few steps, with "
        "pairwise preferences the equilibrium is the two-player one for every n, and with Plackett-Luce more players "
        "are more regularisation."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
