"""The checks of the Nash-MD page: each takes the settings and returns what the paper says beside what a run gave."""

import dataclasses
import itertools

import numpy as np

from papers import nash_md_experiments as games
from papers import nash_md_policies as policies
from papers.record import NotTestable, Outcome, Settings


def spread_of(values: np.ndarray, unit: str = "") -> str:
    """Median and range in words."""
    values = np.asarray(values)
    unit = f" {unit}" if unit else ""
    return f"median {np.median(values):.3g}{unit}, range {values.min():.3g} to {values.max():.3g}"


def with_error(values: np.ndarray) -> str:
    """Mean over seeds and its standard error, one entry per column."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return ", ".join(f"{m:+.4f} (s.e. {e:.4f})" for m, e in zip(values.mean(0), error, strict=True))


# --- Theorem 1 --------------------------------------------------------------------------------------------------------


def last_iterate(settings: Settings) -> Outcome:
    """KL(pi* || pi_T) over its bound, for every horizon of every game."""
    run = games.theorem(settings)
    ratio = games.bound_ratio(run, 8.0)
    return Outcome(
        expected=1.0,
        measured=ratio.max(),
        relation="at most",
        runs=ratio.shape[1],
        spread=f"at T = {len(ratio)}: {spread_of(ratio[-1])}",
        note=f"{ratio.size} horizons and games, none above the bound; the largest ratio seen would allow the constant "
        f"{8 * ratio.max():.2g} in place of 8",
    )


def _trajectory_constants(run: games.Runs) -> np.ndarray:
    fraction = 2 / (np.arange(run["kl"].shape[0] - 1)[:, None] + 2)
    return (run["kl"][1:] - (1 - fraction) * run["kl"][:-1]) * (run["tau"] / fraction) ** 2


def one_step(settings: Settings) -> Outcome:
    """The constant the one-step inequality needs, from random policies and along the theorem's trajectories."""
    drawn = games.one_step(settings)
    paths = [_trajectory_constants(run(settings)).max() for run in (games.theorem, games.rare_responses)]
    return Outcome(
        expected=2.0,
        measured=max(drawn.max(), *paths),
        relation="at most",
        runs=drawn.size,
        spread=f"over random steps: {spread_of(drawn)}",
        note=f"largest along the theorem's trajectories: {max(paths):.3g}",
    )


def improved_constant(settings: Settings) -> Outcome:
    """The bounds with 1/8 a step, and 1/2 over tau^2 (T + 1)."""
    drawn = games.one_step(settings)
    runs = [run(settings) for run in (games.theorem, games.rare_responses)]
    constants = [drawn.max(), *(_trajectory_constants(run).max() for run in runs)]
    ratios = np.concatenate([games.bound_ratio(run, 0.5) for run in runs], 1)
    return Outcome(
        expected=[1.0, 0.125],
        measured=[ratios.max(), max(constants)],
        relation="at most",
        runs=drawn.size + ratios.shape[1],
        spread=f"ratio to the improved bound at the last step: {spread_of(ratios[-1])}",
        note="derived here, not in the paper: by Hoeffding's lemma a tilt by eta P(. > opponent), which lies in [0, "
        "eta], costs "
        "eta^2/8 in place of 2 eta^2, and the paper's induction then gives a sixteenth of its bound",
    )


def initial_policy(settings: Settings) -> Outcome:
    """How far apart two runs from different policies end."""
    run = games.theorem(settings)
    return Outcome(
        expected=0.0,
        measured=run["apart"].max(),
        tolerance=1e-10,
        runs=run["apart"].size,
        spread=f"divergence of the first start from the Nash: {spread_of(run['kl'][0], 'nats')}",
        note="eta_0 tau = 1, so that the first mixture is the reference whatever the policy was",
    )


def rare_responses(settings: Settings) -> Outcome:
    """The ratio to the bound by decades of the reference's smallest mass."""
    run = games.rare_responses(settings)
    worst = games.bound_ratio(run, 8.0).max(0)
    edges = (-np.inf, -300.0, -100.0, -20.0, 0.0)
    bands = [(run["rarest"] > low) & (run["rarest"] <= high) for low, high in itertools.pairwise(edges)]
    return Outcome(
        expected=1.0,
        measured=[worst[band].max() for band in bands],
        relation="at most",
        runs=worst.size,
        spread=f"smallest log-mass of the reference: {spread_of(run['rarest'], 'nats')}",
        note="one number for each range of the smallest mass: below e^-300, to e^-100, to e^-20, above; games in each: "
        + ", ".join(str(band.sum()) for band in bands),
    )


# --- the regularised equilibrium --------------------------------------------------------------------------------------


def unique(settings: Settings) -> Outcome:
    """Runs from different starts against each other and against Newton."""
    run = games.uniqueness(settings)
    return Outcome(
        expected=0.0,
        measured=[run["starts_apart"].max(), run["newton_apart"].max()],
        tolerance=1e-8,
        runs=run["starts_apart"].size,
        spread=f"divergence between the starts: {spread_of(run['start_spread'], 'nats')}",
        note="largest difference of log-probability between starts, and to Newton's method",
    )


def fixed_point(settings: Settings) -> Outcome:
    """The Nash against its own best response."""
    residual = games.uniqueness(settings)["residual"]
    return Outcome(
        expected=0.0, measured=residual.max(), tolerance=1e-9, runs=residual.size, spread=spread_of(residual)
    )


def unbeatable(settings: Settings) -> Outcome:
    """The regularised preference of random policies over the Nash."""
    value = games.uniqueness(settings)["rival"]
    return Outcome(
        expected=0.5,
        measured=value.max(),
        tolerance=1e-12,
        relation="at most",
        runs=value.size,
        spread=spread_of(value),
    )


def constant_sum(settings: Settings) -> Outcome:
    """The regularised preference both ways round."""
    total = games.uniqueness(settings)["sum"]
    return Outcome(
        expected=[1.0, 1.0],
        measured=[total.min(), total.max()],
        tolerance=1e-9,
        runs=total.size,
        note="smallest and largest sum",
    )


# --- steps and averages -----------------------------------------------------------------------------------------------


def last_against_average(settings: Settings) -> Outcome:
    """Nash-MD's gap at its average iterate over the gap at its last."""
    run = games.averages(settings)
    last, average = run["last_nash_md"][-1, 1:], run["average_nash_md"][-1, 1:]
    ratio = average / last
    return Outcome(
        expected=1.0,
        measured=np.median(ratio),
        relation="greater than",
        runs=ratio.size,
        spread=f"average over last: {spread_of(ratio)}; the last is better in {np.mean(ratio > 1):.0%} of the games",
        note=f"regularised gap of the last iterate: {spread_of(last)}",
    )


def self_play_cycles(settings: Settings) -> Outcome:
    """Self-play without regularisation: the gap of its last iterate over that of its average."""
    run = games.averages(settings)
    last, average = run["last_self_play"][-1, 1:], run["average_self_play"][-1, 1:]
    ratio = last / average
    return Outcome(
        expected=1.0,
        measured=ratio.min(),
        relation="greater than",
        runs=ratio.size,
        spread=f"last over average: {spread_of(ratio)}",
        note=f"gap of the last iterate: {spread_of(last)}; of the average: {spread_of(average)}",
    )


def constant_step(settings: Settings) -> Outcome:
    """Where a constant step ends: its divergence from the Nash."""
    run = games.steps(settings)
    divergence = run["kl"][:3]
    gap = np.median(run["gap"][-1], -1)
    return Outcome(
        expected=0.0,
        measured=np.median(divergence, -1),
        tolerance=1e-8,
        runs=divergence.shape[1],
        spread=f"eta tau = 0.05: {spread_of(divergence[0], 'nats')}; 0.5: {spread_of(divergence[2], 'nats')}",
        note=f"medians for eta tau = 0.05, 0.1, 0.5 at tau = 0.1, after 500 steps, the last of which moved no "
        "log-probability by more "
        f"than {run['moved'].max():.1g}; regularised gap {gap[0]:.2g}, {gap[1]:.2g}, {gap[2]:.2g}, and {gap[3]:.2g} "
        "(still falling) "
        "with the theorem's decaying step, which is all the paper's theorem speaks of",
    )


def constant_step_mixture(settings: Settings) -> Outcome:
    """The mixture of the limit against Newton's Nash at the other temperature."""
    error = games.steps(settings)["mixture_error"]
    return Outcome(
        expected=0.0,
        measured=error.max(-1),
        tolerance=1e-7,
        runs=error.shape[1],
        spread=spread_of(error),
        note="largest difference of log-probability for eta tau = 0.05, 0.1, 0.5; derived here",
    )


# --- examples ---------------------------------------------------------------------------------------------------------


def three_types_nash(settings: Settings) -> Outcome:
    """The linear program's equilibrium along epsilon."""
    run = games.examples(settings)
    epsilon = run["epsilon"]
    winner = run["winner"][: len(epsilon)]
    jump = np.abs(np.diff(winner, axis=0)).max() / np.diff(epsilon).max()
    return Outcome(
        expected=np.stack([1 / 3 + epsilon / 2, 1 / 3 + epsilon / 2, 1 / 3 - epsilon], -1),
        measured=winner,
        tolerance=1e-9,
        runs=len(epsilon),
        note=f"no mass moves faster than {jump:.2g} per unit of epsilon: no jump",
    )


def three_types_jump(settings: Settings) -> Outcome:
    """The favourite of the fitted reward on both sides of zero."""
    run = games.examples(settings)
    epsilon = run["epsilon"]
    reward = run["reward"][: len(epsilon)]
    nonzero = np.abs(epsilon) > 1e-12
    return Outcome(
        expected=np.where(epsilon[nonzero] > 0, 1, 2),
        measured=1 + reward[nonzero].argmax(-1),
        runs=int(nonzero.sum()),
        spread=f"lead of the best reward over the next: {spread_of(np.diff(np.sort(reward[nonzero]))[:, -1], 'nats')}",
        note="the response with the largest maximum-likelihood reward, which RLHF without regularisation plays with "
        "all its mass",
    )


def dice(settings: Settings) -> Outcome:
    """The dice by listing outcomes, their Nash by a linear program and by Newton, and their Bradley-Terry reward."""
    run = games.examples(settings)
    wins = games.dice_wins()
    cycle = [wins[0, 1], wins[1, 2], wins[2, 0]]
    return Outcome(
        expected=[5 / 9] * 3 + [1 / 3] * 6 + [0.0] * 3,
        measured=[*cycle, *run["winner"][-1], *run["nash"][-1], *run["reward"][-1]],
        tolerance=1e-9,
        runs=1,
        note="each die beats the next with 5/9, both equilibria are uniform, and the fitted reward is flat: it sees "
        "no preference at all",
    )


def reward_sampling(settings: Settings) -> Outcome:
    """How many different favourites the reward has under three laws of the pairs."""
    reward = games.examples(settings)["reward"][-4:-1]
    shown = "; ".join("(" + ", ".join(f"{x:.3f}" for x in row) + ")" for row in reward)
    return Outcome(
        expected=1,
        measured=len(set(reward.argmax(-1).tolist())),
        relation="greater than",
        runs=3,
        spread=f"rewards in nats: {shown}",
        note="pairs uniform, from (.6, .3, .1) and from (.1, .3, .6); favourites "
        + ", ".join(str(1 + i) for i in reward.argmax(-1)),
    )


def preference_sampling(settings: Settings) -> Outcome:
    """The preference model and its Nash fitted under the same three laws."""
    run = games.examples(settings)
    fitted, truth, equilibria = (run[name][-4:-1] for name in ("preference", "shown", "nash"))
    return Outcome(
        expected=0.0,
        measured=[np.abs(fitted - truth).max(), np.ptp(equilibria, axis=0).max()],
        tolerance=1e-9,
        runs=3,
        note="largest error of the fitted preferences, and largest change of the Nash (tau = 0.02) from law to law",
    )


def constrained(settings: Settings) -> Outcome:
    """The best of a family of policies by reward and by worst-case win-rate."""
    run = games.constrained(settings)
    return Outcome(
        expected=[2 / 3, 1 / 3, 0.0, 0.0, 0.0, 1.0, 50 / 99],
        measured=[*run["best_reward"], *run["best_win_rate"], run["win_rate"]],
        tolerance=1e-9,
        runs=1,
        note=f"the first earns {run['reward_gap']:.3f} nats more reward than the second, and loses to it",
    )


# --- the policy gradient ----------------------------------------------------------------------------------------------


def gradient(settings: Settings) -> Outcome:
    """The expected gradient of the loss against autodiff of the objective."""
    error = policies.gradients(settings)["surrogate"]
    return Outcome(expected=0.0, measured=error.max(-1), tolerance=1e-10, runs=error.size, spread=spread_of(error))


def baseline(settings: Settings) -> Outcome:
    """The expected gradient with the baseline 1/2 against the one without."""
    error = policies.gradients(settings)["baseline"]
    return Outcome(expected=0.0, measured=error.max(-1), tolerance=1e-10, runs=error.size, spread=spread_of(error))


def baseline_variance(settings: Settings) -> Outcome:
    """Variance of a single draw with the baseline over that without."""
    ratio = policies.gradients(settings)["variance"]
    return Outcome(
        expected=1.0,
        measured=np.median(ratio, -1),
        relation="less than",
        runs=ratio.size,
        spread=spread_of(ratio),
        note=f"medians at the mixtures 0, 1/8, 1/2, 1; the baseline raised the variance in {np.mean(ratio > 1):.1%} "
        "of the problems",
    )


def unbiased(settings: Settings) -> Outcome:
    """Sampled gradients against the exact one, in standard errors."""
    run = policies.sampled(settings)
    return Outcome(
        expected=5.0,
        measured=np.abs(run["z"]).max(),
        relation="at most",
        runs=int(run["draws"]),
        spread=f"root mean square of {run['z'].size} z-scores: {np.sqrt(np.mean(run['z'] ** 2)):.3g} (1 if unbiased); "
        f"largest standard error {run['error'].max():.2g} on entries up to {np.abs(run['exact']).max():.2g}",
    )


def mixture_divergence(settings: Settings) -> Outcome:
    """The gradient of the divergence to the mixture against m times that to the reference."""
    error = policies.gradients(settings)["mixture_kl"]
    return Outcome(expected=0.0, measured=error.max(-1), tolerance=1e-10, runs=error.size, spread=spread_of(error))


def moving_average(settings: Settings) -> Outcome:
    """Nash-EMA-PG's policy and average against Newton's Nash."""
    run = policies.moving_average(settings)
    return Outcome(
        expected=0.0,
        measured=[run["policy"].max(), run["average"].max()],
        tolerance=1e-8,
        runs=run["policy"].size,
        spread=f"before training: {spread_of(run['start'], 'nats')}",
        note="divergence from the Nash of the policy and of the averaged policy, exact gradients, tau = 0.3, average "
        "0.98",
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


def token_mixture(settings: Settings) -> Outcome:
    """How far the product of per-token mixtures is from the mixture of sequences."""
    run = policies.trees(settings)
    inner = run["forward"][:, :, 1:-1]
    longer = inner[1:]
    ends = np.abs(run["forward"][:, :, [0, -1]]).max()
    medians = ", ".join(
        f"T = {t}: {np.median(x[:, 3]):.2g}" for t, x in zip(policies.lengths(settings), inner, strict=True)
    )
    return Outcome(
        expected=1e-12,
        measured=longer.min(),
        relation="greater than",
        runs=longer.shape[0] * longer.shape[1],
        spread=f"{spread_of(longer, 'nats')}; medians at m = 1/2: {medians}",
        note=f"KL(sequence mixture || token-wise mixture) for m strictly inside (0, 1) and two tokens or more; with "
        "one token, and at m = "
        f"0 and 1, it is at most {max(ends, inner[0].max()):.1g}; both normalise to {run['mass'].max():.1g}",
    )


def raw_logits(settings: Settings) -> Outcome:
    """Mixing raw logits at each token against mixing log-probabilities."""
    apart = policies.trees(settings)["raw_apart"]
    return Outcome(expected=0.0, measured=apart.max(), tolerance=1e-12, runs=apart.shape[0] * apart.shape[1])


def reward_to_go(settings: Settings) -> Outcome:
    """The token loss with reward-to-go against autodiff of the sequence objective."""
    error = policies.trees(settings)["to_go"]
    return Outcome(expected=0.0, measured=error.max(-1), tolerance=1e-10, runs=error.size, spread=spread_of(error))


def missing_reward_to_go(settings: Settings) -> Outcome:
    """The relative error of the expected gradient without it, for two tokens and more."""
    error = policies.trees(settings)["myopic"]
    medians = ", ".join(
        f"T = {t}: {np.median(row):.2g}" for t, row in zip(policies.lengths(settings), error, strict=True)
    )
    return Outcome(
        expected=1e-6,
        measured=error[1:].min(-1),
        relation="greater than",
        runs=error[1:].size,
        spread=f"relative error of the gradient, {spread_of(error[1:])}; medians {medians}",
        note=f"smallest relative error at each length from two tokens on; with one token it is {error[0].max():.1g}",
    )


# --- the mixture coefficient ------------------------------------------------------------------------------------------


def _curve(settings: Settings, setting: str) -> Outcome:
    """The win-rate of the mixtures 1/8 to 3/8 over that of each end, less two standard errors."""
    scores = policies.curves(settings)[setting]["win_rate"]
    margin = policies.margin(scores)
    best = policies.MIXTURES[scores.mean(0).argmax()]
    curve = ", ".join(f"{x:.4f}" for x in scores.mean(0))
    return Outcome(
        expected=0.0,
        measured=policies.lower_limit(margin),
        relation="greater than",
        runs=len(scores),
        spread=f"margin over self-play, over the best response to the reference: {with_error(margin)}",
        note=f"measured is the mean less two standard errors; best coefficient here {best:g}; mean win-rates for m = "
        f"0, 1/8, ..., 1: {curve}",
    )


def curve_exact(settings: Settings) -> Outcome:
    """At the exact optimum of each mixture."""
    return _curve(settings, "exact")


def curve_sampled(settings: Settings) -> Outcome:
    """Tables trained from samples."""
    return _curve(settings, "sampled")


def curve_shared(settings: Settings) -> Outcome:
    """Shared features trained from samples."""
    return _curve(settings, "shared")


def curve_annotators(settings: Settings) -> Outcome:
    """At the exact optimum, on preferences with few cycles; what training does to it is in the note."""
    trained = policies.margin(policies.curves(settings)["annotators_sampled"]["win_rate"])
    outcome = _curve(settings, "annotators_exact")
    note = f"{outcome.note}; the margins of policies trained from samples there: {with_error(trained)}"
    return dataclasses.replace(outcome, note=note)


def curve_gap(settings: Settings) -> Outcome:
    """The regularised gap of self-play less that of the mixtures 1/8 to 3/8."""
    run = policies.curves(settings)["exact"]
    better = -policies.margin(run["regularised"])[:, :1]
    curve = ", ".join(f"{x:.3g}" for x in run["regularised"].mean(0))
    original = ", ".join(f"{x:.3g}" for x in run["original"].mean(0))
    return Outcome(
        expected=0.0,
        measured=better.mean(0) + 2 * better.std(0, ddof=1) / np.sqrt(len(better)),
        relation="greater than",
        runs=len(better),
        spread=f"self-play's gap less theirs: {with_error(better)}",
        note=f"measured is the mean plus two standard errors, and still below zero; mean regularised gaps for m = 0, "
        f"1/8, ..., 1: {curve}; "
        f"gaps of the game without regularisation: {original}; the paper itself judges by win-rates only",
    )


def best_response_end(settings: Settings) -> Outcome:
    """The mean win-rate of m = 1 against the other coefficients, in three settings."""
    runs = {name: policies.curves(settings)[name] for name in policies.CYCLIC}
    scores = np.stack([run["win_rate"][:, -1] for run in runs.values()], -1)
    error = scores.std(0, ddof=1) / np.sqrt(len(scores))
    against = np.stack([run["table"][:, -1, 0] for run in runs.values()], -1).mean(0)
    return Outcome(
        expected=0.5,
        measured=scores.mean(0) + 2 * error,
        relation="less than",
        runs=len(scores),
        spread="; ".join(f"{n}: {m:.4f} (s.e. {e:.4f})" for n, m, e in zip(runs, scores.mean(0), error, strict=True)),
        note="mean plus two standard errors at the exact optimum, for sampled tables and for shared features; "
        "against self-play alone its "
        "mean win-rates are " + ", ".join(f"{x:.4f}" for x in against),
    )


# --- what cannot be run -----------------------------------------------------------------------------------------------


def summarisation(settings: Settings) -> NotTestable:
    """The table of win-rates."""
    return NotTestable(
        "the win-rates come from T5X-Large policies trained for 10,000 steps on TL;DR against a 3-billion-parameter "
        "preference model and "
        "judged by PaLM 2 Large; neither the checkpoints nor the judge are public, and the half-width of a cell is "
        "0.023"
    )


def preference_accuracy(settings: Settings) -> NotTestable:
    """The test accuracy of the preference and the reward model."""
    return NotTestable(
        "the accuracies (about 0.78 against 0.76) are those of T5X-XL models fine-tuned on 92,820 human comparisons; "
        "the checkpoints are not "
        "public, and a table has no held-out accuracy"
    )
