"""The checks of the COMAL page: each takes the settings and returns what the paper says beside what a run gave."""

import numpy as np

from papers import comal_experiments as comal
from papers import comal_magnets as magnets
from papers.nash_md_checks import spread_of
from papers.record import NotTestable, Outcome, Settings
from papers.simplex import turns

CYCLING = ("iter_dpo", "iter_ipo", "sppo")
"""The methods that the paper's synthetic figure shows going round."""


# --- the proximal point method ----------------------------------------------------------------------------------------


def identity(settings: Settings) -> Outcome:
    """KL before less KL after less what the identity says, for every equilibrium of every game."""
    residual = comal.proximal_paths(settings)["residual"]
    return Outcome(
        expected=0.0,
        measured=np.abs(residual).max(),
        tolerance=1e-10,
        runs=residual.shape[2],
        spread=spread_of(np.abs(residual), "nats"),
        note="derived here; its last term is never negative, which gives the lemma and by how much the divergence "
        "falls",
    )


def monotone(settings: Settings) -> Outcome:
    """The largest rise of the divergence from an equilibrium in one step."""
    run = comal.proximal_paths(settings)
    rise = np.diff(run["kl"], axis=0)
    fixed = np.stack([np.diff(comal.kl(magnets.NASH, path)).max() for path in _comal_paths(settings)])
    return Outcome(
        expected=0.0,
        measured=max(rise.max(), fixed.max()),
        tolerance=1e-12,
        relation="at most",
        runs=rise.shape[2],
        spread=f"change in one step: {spread_of(rise, 'nats')}",
        note=f"{rise.size} steps and equilibria at temperatures {run['tau'].min():.2g} to {run['tau'].max():.2g}, and "
        "the synthetic game at 0.1, 1 and 10",
    )


def last_iterate(settings: Settings) -> Outcome:
    """The original gap of the last policy of exact proximal steps on random cycles."""
    gap = comal.approximate(settings)["gap"][0]
    return Outcome(
        expected=1e-6,
        measured=gap[-1].max(),
        relation="at most",
        runs=gap.shape[1],
        spread=f"after {len(gap) - 1} steps: {spread_of(gap[-1])}; at the start: {spread_of(gap[0])}",
        note="no rate of the outer loop is claimed; 1e-6 is ours",
    )


def approximate(settings: Settings) -> Outcome:
    """The same with inner problems solved by a fixed number of steps of mirror descent."""
    gap = comal.approximate(settings)["gap"][1:]
    return Outcome(
        expected=1e-4,
        measured=gap[:, -1].max(-1),
        relation="at most",
        runs=gap.shape[2],
        spread="; ".join(
            f"inner length {length:g}/(h tau): {spread_of(row)}"
            for length, row in zip(comal.INNER_LENGTHS, gap[:, -1], strict=True)
        ),
        note="largest gap for inner problems solved to e^-2, e^-5 and e^-10, as their proved rate goes",
    )


# --- the synthetic experiment -----------------------------------------------------------------------------------------


def _comal_paths(settings: Settings) -> list[np.ndarray]:
    run = comal.synthetic_paths(settings)
    return [run[f"comal_{i}"] for i in range(len(comal.TEMPERATURES))]


def cycle(settings: Settings) -> Outcome:
    """Turns round the Nash of the three methods."""
    run = comal.synthetic_paths(settings)
    rounds = [abs(turns(run[name], magnets.NASH)[-1]) for name in CYCLING]
    least = [comal.gap_of(run[name])[1:].min() for name in CYCLING]
    return Outcome(
        expected=3.0,
        measured=rounds,
        relation="at least",
        note=f"full turns of Iter-DPO, Iter-IPO and SPPO in {len(run['sppo']) - 1} iterations at step {comal.STEP}; "
        "least "
        "gap on the way: " + ", ".join(f"{value:.3f}" for value in least),
    )


def diverge(settings: Settings) -> Outcome:
    """KL from the Nash at the end over that at the start, for the three methods."""
    run = comal.synthetic_paths(settings)
    divergence = [comal.kl(magnets.NASH, run[name]) for name in CYCLING]
    gaps = comal.gap_of(run["iter_ipo"])
    shown = [k for k in (10, 100, 1000, 2000) if k < len(gaps)]
    return Outcome(
        expected=1.0,
        measured=[path[-1] / path[0] for path in divergence],
        relation="greater than",
        note="they do not go round on one orbit but outwards, as multiplicative weights do in discrete time; gap of "
        "Iter-IPO at " + ", ".join(f"{k}: {gaps[k]:.3f}" for k in shown),
    )


def inpo_stalls(settings: Settings) -> Outcome:
    """INPO's original gap at the end, and how much it moves over the last half."""
    gaps = comal.gap_of(comal.synthetic_paths(settings)["inpo"])
    late = gaps[len(gaps) // 2 :]
    return Outcome(
        expected=0.0,
        measured=np.ptp(late),
        tolerance=1e-6,
        spread=f"gap at the end: {late[-1]:.4f}",
        note="its target is the regularised Nash at tau = 0.1, which is not the original one",
    )


def inpo_floor(settings: Settings) -> Outcome:
    """The original gap INPO is left with."""
    gaps = comal.gap_of(comal.synthetic_paths(settings)["inpo"])
    return Outcome(expected=0.01, measured=gaps[-1], relation="greater than", note="0.01 is ours; the start has 0.28")


def reaches_nash(settings: Settings) -> Outcome:
    """COMAL's original gap after 60 outer steps."""
    path = _comal_paths(settings)[0]
    gaps, divergence = comal.gap_of(path), comal.kl(magnets.NASH, path)
    return Outcome(
        expected=1e-11,
        measured=gaps[-1],
        relation="at most",
        spread="KL from the Nash after 0, 1, 2, 5, 10 steps: "
        + ", ".join(f"{divergence[k]:.2e}" for k in (0, 1, 2, 5, 10)),
        note=f"first below 1e-11 after {int((gaps <= 1e-11).argmax())} proximal steps",
    )


def any_temperature(settings: Settings) -> Outcome:
    """COMAL's gap after 60 steps at the larger temperatures, over that at the start."""
    gaps = [comal.gap_of(path) for path in _comal_paths(settings)]
    return Outcome(
        expected=1.0,
        measured=[path[-1] / path[0] for path in gaps],
        relation="less than",
        spread="gap after 60 steps: "
        + ", ".join(f"tau = {tau:g}: {path[-1]:.2g}" for tau, path in zip(comal.TEMPERATURES, gaps, strict=True)),
        note="every temperature gets there in the end, but one step goes the less far the higher it is",
    )


# --- the inner loop ---------------------------------------------------------------------------------------------------


def _slowest(settings: Settings) -> tuple[float, int, str]:
    """max (KL_{k+1} / KL_k - 1) / (h tau), how many steps were looked at, and the spread."""
    run = comal.inner_loop(settings)
    before, after = run["kl"][:, :-1], run["kl"][:, 1:]
    seen = before > 1e-10
    factor = (after / np.where(seen, before, 1.0) - 1) / run["rate"][:, None]
    return float(factor[seen].max()), int(seen.sum()), spread_of(factor[seen])


def inner_rate(settings: Settings) -> Outcome:
    """The slowest step of the inner loop in units of h tau, against 1/2."""
    slowest, count, spread = _slowest(settings)
    return Outcome(
        expected=-0.5,
        measured=slowest,
        relation="at most",
        runs=comal.inner_loop(settings)["kl"].shape[2],
        spread=spread,
        note=f"(KL after / KL before - 1) / (h tau) over {count} steps with h up to 4 tau / (1 + 4 tau^2)",
    )


def inner_rate_sharp(settings: Settings) -> Outcome:
    """The same against 1."""
    slowest, count, spread = _slowest(settings)
    return Outcome(
        expected=-1.0,
        measured=slowest,
        relation="at most",
        runs=comal.inner_loop(settings)["kl"].shape[2],
        spread=spread,
        note=f"the theorem's exponent without its half, over {count} steps: the rate of magnetic mirror descent",
    )


# --- magnets that move ------------------------------------------------------------------------------------------------


def mpo_converges(settings: Settings) -> Outcome:
    """MPO's original gap with 50 inner steps between moves."""
    gap = magnets.table(settings)["gap"][0]
    return Outcome(
        expected=1e-11,
        measured=gap[-1],
        relation="at most",
        spread="after 1, 5, 10, 20, 40 moves: " + ", ".join(f"{value:.1e}" for value in gap[magnets.MOVES]),
        note="50 inner steps are 1.9/(h tau) here",
    )


def mpo_too_few(settings: Settings) -> Outcome:
    """The same with 6, which a careless reading would allow."""
    gap = magnets.table(settings)["gap"]
    return Outcome(
        expected=0.01,
        measured=gap[2, -1],
        relation="at most",
        spread="after 1, 5, 10, 20, 40 moves: " + ", ".join(f"{value:.3f}" for value in gap[2, magnets.MOVES]),
        note=f"with 20 inner steps the gap is {gap[1, 40]:.1e} after 40 moves; 6 are too few to pay for what the "
        "steps of mirror descent lose, and it behaves like multiplicative weights",
    )


def shortest_length(settings: Settings) -> Outcome:
    """The exponent of the shortest inner length that comes nearer, and that length against the linear part."""
    run = magnets.scaling(settings)
    return Outcome(
        expected=-0.5,
        measured=magnets.exponent(run["stable"]),
        tolerance=0.07,
        spread="lengths "
        + ", ".join(f"{m} at h tau = {pull:g}" for m, pull in zip(run["stable"], magnets.PULLS, strict=True)),
        note="slope of log length over log h tau; the linear part, |g(m)| < 1, gives "
        + ", ".join(str(m) for m in run["stable_linear"]),
    )


def cheapest_length(settings: Settings) -> Outcome:
    """The exponent of the inner length that comes nearest for the same number of inner steps."""
    run = magnets.scaling(settings)
    return Outcome(
        expected=-1.0,
        measured=magnets.exponent(run["cheapest"]),
        tolerance=0.05,
        spread="lengths "
        + ", ".join(f"{m} at h tau = {pull:g}" for m, pull in zip(run["cheapest"], magnets.PULLS, strict=True)),
        note="slope of log length over log h tau; times h tau they are "
        + ", ".join(f"{m * pull:.2f}" for m, pull in zip(run["cheapest"], magnets.PULLS, strict=True)),
    )


def moving_reference(settings: Settings) -> Outcome:
    """INPO's minimisers with a moving reference against MPO."""
    run = magnets.moving_reference(settings)
    return Outcome(
        expected=0.0,
        measured=np.abs(run["inpo"] - run["mpo"]).max(),
        tolerance=1e-10,
        note=f"log-probabilities of {len(run['mpo']) - 1} iterates, tau / eta = 1/3, the reference moved every "
        f"{magnets.MOVED_EVERY}",
    )


def released_schedule(settings: Settings) -> Outcome:
    """The original gap of the exact schedule at three temperatures, largest over the last 20 moves."""
    late = magnets.moving_reference(settings)["released"][:, -20:].max(1)
    return Outcome(
        expected=0.01,
        measured=late,
        relation="at most",
        spread=", ".join(f"tau = {tau:.2g}: {gap:.2g}" for tau, gap in zip(magnets.RELEASED, late, strict=True)),
        note="largest gap over the last 20 of 200 moves; the last temperature is the script's, whose step h = 500 is "
        "some 190,000 times the largest with a proved rate, 4 tau. A language model trained for an epoch at "
        "a small learning rate is far from this minimiser",
    )


# --- annotators -------------------------------------------------------------------------------------------------------


def two_annotators(settings: Settings) -> Outcome:
    """Cycles among triples of responses under two Bradley-Terry annotators of equal weight."""
    cyclic = comal.annotators(settings)["two"]
    return Outcome(
        expected=0.0,
        measured=cyclic.sum(),
        runs=cyclic.size,
        note="sigmoid(a) + sigmoid(b) > 1 if and only if a + b > 0, so that the majority follows the sum of the "
        "rewards",
    )


def more_annotators(settings: Settings) -> Outcome:
    """The same with unequal weights, with three and with fifty annotators."""
    run = comal.annotators(settings)
    shares = [run[name].mean() for name in ("unequal", "three", "fifty")]
    return Outcome(
        expected=0.0,
        measured=shares,
        relation="greater than",
        runs=run["three"].size,
        note="share of cyclic triples: two annotators of weights 0.3 and 0.7, three, fifty; rewards of variance 9",
    )


def language_models(settings: Settings) -> NotTestable:
    """The tables of the paper."""
    return NotTestable(
        "Llama-3-8B fine-tuning and a preference model as judge; neither the models nor the judgements are available "
        "here"
    )
