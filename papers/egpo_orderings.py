"""The checks of the EGPO page that read its simulations: orderings, floors, noise."""

import numpy as np

from papers import egpo_simulation as simulation
from papers import egpo_theory as theory
from papers.egpo_simulation import ALGORITHMS, CUT, EGPO, NAMES, NASH_MD, NASH_MD_PG, OIPO2, OMD
from papers.nash_md_checks import spread_of
from papers.record import Outcome, Settings


def _ends(run: simulation.Runs) -> dict[str, np.ndarray]:
    return {name: run[name][-1] for name in ALGORITHMS}


def _reached(run: simulation.Runs) -> str:
    every = int(run["every"])
    first = {name: simulation.first_below(run[name], every) for name in ALGORITHMS}
    return "; ".join(
        f"{NAMES[n]}: {np.isfinite(u).sum()} of {u.size}"
        + (f" after {np.median(u[np.isfinite(u)]):.0f} updates" if np.isfinite(u).any() else "")
        for n, u in first.items()
    )


def _gaps(run: simulation.Runs, names: tuple[str, ...] = ALGORITHMS) -> str:
    return "; ".join(f"{NAMES[n]}: {spread_of(run[n][-1])}" for n in names)


def order_large(settings: Settings) -> Outcome:
    """beta = 0.1: final gaps from first to last."""
    run = simulation.tables(settings)[2]
    middle = {name: np.median(gap) for name, gap in _ends(run).items()}
    best = max(run[OMD][-1].max(), run[EGPO][-1].max())
    return Outcome(
        expected=[CUT, 1.0, 1.0, 1.0],
        measured=[
            best,
            middle[EGPO] / middle[OIPO2],
            middle[OIPO2] / middle[NASH_MD],
            middle[NASH_MD] / middle[NASH_MD_PG],
        ],
        relation="less than",
        runs=run[EGPO].shape[1],
        spread=_gaps(run),
        note="largest final gap of mirror descent and EGPO, then ratios of median final gaps along the order EGPO, "
        f"online IPO 2, Nash-MD, Nash-MD-PG; a gap of 1e-6 was reached by {_reached(run)}",
    )


def always_reached(settings: Settings) -> Outcome:
    """EGPO's final gap in the worst game, at each beta."""
    runs = simulation.tables(settings)
    return Outcome(
        expected=CUT,
        measured=[run[EGPO][-1].max() for run in runs],
        relation="less than",
        runs=runs[0][EGPO].shape[1],
        spread="; ".join(spread_of(run[EGPO][-1]) for run in runs),
        note="the largest final gap of all games at beta = 0.001, 0.01, 0.1, within the official number of updates",
    )


def _share_reached(run: simulation.Runs) -> dict[str, float]:
    return {name: np.isfinite(simulation.first_below(run[name], int(run["every"]))).mean() for name in ALGORITHMS}


def order_middle(settings: Settings) -> Outcome:
    """beta = 0.01: in how many games more than each other algorithm EGPO reaches 1e-6."""
    run = simulation.tables(settings)[1]
    share = _share_reached(run)
    return Outcome(
        expected=0.0,
        measured=[share[EGPO] - share[name] for name in ALGORITHMS if name != EGPO],
        relation="greater than",
        runs=run[EGPO].shape[1],
        spread=_gaps(run),
        note="difference of the shares of games, to online IPO 1, online IPO 2, Nash-MD, Nash-MD-PG; a gap of 1e-6 was "
        f"reached by {_reached(run)}",
    )


def only_egpo(settings: Settings) -> Outcome:
    """beta = 0.01: the share of games in which mirror descent reaches 1e-6 as well."""
    run = simulation.tables(settings)[1]
    end = run[OMD][-1]
    return Outcome(
        expected=0.0,
        measured=_share_reached(run)[OMD],
        runs=end.size,
        spread=f"final gap of mirror descent: {spread_of(end)}",
        note=f"share of games; the step h = {simulation.TABLES[1].step_size:g} is within mirror descent's stability "
        "where the game turns little, and far outside elsewhere: the gap spreads over thirty decades, so that one run "
        "shows either",
    )


def order_small(settings: Settings) -> Outcome:
    """beta = 0.001: EGPO's final gap over the best of the others, in the median game."""
    run = simulation.tables(settings)[0]
    ends = _ends(run)
    others = np.min([gap for name, gap in ends.items() if name != EGPO], axis=0)
    ratio = ends[EGPO] / others
    return Outcome(
        expected=0.01,
        measured=np.median(ratio),
        relation="less than",
        runs=ratio.size,
        spread=_gaps(run),
        note="EGPO's final gap over the smallest of the other four in the same game; below 1 in "
        f"{np.mean(ratio < 1):.0%} of the games. A gap of 1e-6 was reached by {_reached(run)}",
    )


def equal_calls(settings: Settings) -> Outcome:
    """EGPO at half its updates against the others at all of theirs, beta = 0.001 and 0.01."""
    runs = simulation.tables(settings)[:2]
    half = [np.median(run[EGPO][len(run[EGPO]) // 2]) for run in runs]
    best = [min(np.median(gap) for name, gap in _ends(run).items() if name != EGPO) for run in runs]
    return Outcome(
        expected=1.0,
        measured=np.divide(half, best),
        relation="less than",
        runs=runs[0][EGPO].shape[1],
        note="median gap of EGPO after half of the updates over the best median of the others after all of them, beta "
        "= 0.001 and 0.01: an update of EGPO asks the oracle twice",
    )


def nash_md_floor(settings: Settings) -> Outcome:
    """The final gap of Nash-MD over its predicted floor, game by game, beta = 0.1."""
    run = simulation.tables(settings)[2]
    ratio = run[NASH_MD][-1] / run["floor"]
    return Outcome(
        expected=1.0,
        measured=ratio,
        tolerance=1e-6,
        runs=ratio.size,
        spread=f"floor: {spread_of(run['floor'])}",
        note="the gap of the policy that is the best response to the Nash at beta/(1 - m), m the code's mixing weight, "
        f"by Newton; at the weight that belongs to the step the floor would be {np.median(run['sharp_floor']):.2g} in "
        f"the median, {np.median(run['sharp_floor'] / run['floor']):.2f} times as high",
    )


def slow_policy_gradient(settings: Settings) -> Outcome:
    """How much of its gap Nash-MD-PG keeps at the two smaller betas."""
    runs = simulation.tables(settings)
    kept = [run[NASH_MD_PG][-1] / run[NASH_MD_PG][0] for run in runs]
    return Outcome(
        expected=0.5,
        measured=[np.median(x) for x in kept[:2]],
        relation="at least",
        runs=kept[0].size,
        spread="; ".join(spread_of(x) for x in kept[:2]),
        note=f"median of final over initial gap; at beta = 0.1 it is {np.median(kept[2]):.2f}. One rate serves all "
        "five losses, and this one's gradient is beta/4 of online IPO 2's: the comparison is one of scales, not of "
        "methods",
    )


def neural_order(settings: Settings) -> Outcome:
    """Networks, exact gradients: EGPO's final gap over each other's, medians over contexts."""
    run = simulation.neural(settings)
    ends = {name: np.median(gap) for name, gap in _ends(run).items()}
    return Outcome(
        expected=1.0,
        measured=[ends[EGPO] / ends[name] for name in ALGORITHMS if name != EGPO],
        relation="less than",
        runs=run[EGPO].shape[1],
        spread=_gaps(run),
        note="ratio of medians over contexts, ten to a network, to online IPO 1, online IPO 2, Nash-MD, Nash-MD-PG; a "
        f"gap of 1e-6 was reached by {_reached(run)}",
    )


def _tail(gap: np.ndarray) -> np.ndarray:
    return np.median(gap[3 * len(gap) // 4 :], 0)


def sampled_descends(settings: Settings) -> Outcome:
    """Sampled gradients: EGPO's late gap over its initial one, on tables and networks."""
    runs = simulation.sampled_tables(settings), simulation.sampled_neural(settings)
    ratio = [np.median(_tail(run[EGPO]) / run[EGPO][0]) for run in runs]
    exact = runs[0]["exact"]
    return Outcome(
        expected=1.0,
        measured=ratio,
        relation="less than",
        runs=runs[0][EGPO].shape[1] + runs[1][EGPO].shape[1],
        spread=f"late gap on tables: {spread_of(_tail(runs[0][EGPO]))}; on networks: {spread_of(_tail(runs[1][EGPO]))}",
        note="median over games of the gap in the last quarter of the run over the first gap, tables and networks; "
        f"without sampling, tables end at {np.median(exact[-1]):.2g}",
    )


def sampled_advantage(settings: Settings) -> Outcome:
    """Sampled gradients at the official small rate: EGPO's late gap over mirror descent's."""
    runs = simulation.sampled_tables(settings), simulation.sampled_neural(settings)
    ratio = [_tail(run[EGPO]) / _tail(run[OMD]) for run in runs]
    return Outcome(
        expected=0.5,
        measured=[np.median(x) for x in ratio],
        relation="at most",
        runs=sum(x.size for x in ratio),
        spread=f"tables: {spread_of(ratio[0])}; networks: {spread_of(ratio[1])}",
        note="late gap of EGPO over that of mirror descent in the same game, tables and networks; h = 4 lr/(beta A) is "
        f"{simulation.SAMPLED_TABLE.step_size:.3g} there, a step at which mirror descent is stable as well",
    )


def sampled_long_steps(settings: Settings) -> Outcome:
    """Sampled win-rates at the exact runs' steps: EGPO's late gap over mirror descent's."""
    run = theory.noisy(settings)
    ratio = {beta: rows[EGPO] / rows[OMD] for beta, rows in run.items()}
    return Outcome(
        expected=1.0,
        measured=np.median(ratio["0.01"]),
        relation="less than",
        runs=ratio["0.01"].size,
        spread=f"EGPO over mirror descent at beta = 0.01: {spread_of(ratio['0.01'])}; gap of EGPO: "
        f"{spread_of(run['0.01'][EGPO])}",
        note=f"at beta = 0.1, where mirror descent is stable, the ratio is {np.median(ratio['0.1']):.2f} and both stop "
        f"at {np.median(run['0.1'][EGPO]):.1g}",
    )
