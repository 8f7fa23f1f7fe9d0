"""The checks of the IPO-MD page: each takes the settings and returns what the paper says beside what a run gave."""

import numpy as np

from papers import ipo_md_experiments as runs
from papers.mnpo_checks import listed
from papers.nash_md_checks import spread_of
from papers.record import NotTestable, Outcome, Settings

# --- where the losses are minimal -------------------------------------------------------------------------------------


def offline_minimiser(settings: Settings) -> Outcome:
    """Offline IPO's minimiser against the best response to the data's law."""
    run = runs.offline(settings)
    return Outcome(
        expected=0.0,
        measured=run["error"].max(-1),
        tolerance=1e-9,
        runs=run["error"].size,
        spread=f"KL of the Nash from that policy: {spread_of(run['nash'][0], 'nats')} (tau = .1)",
        note=f"largest difference of log-probability at tau = {listed(np.asarray(runs.TAUS))}; the Nash is another "
        "policy",
    )


def soft_loss(settings: Settings) -> Outcome:
    """The variation, over policies, of the difference between the two forms of the loss."""
    spread = runs.offline(settings)["soft"]
    return Outcome(
        expected=0.0, measured=spread.max(-1), tolerance=1e-9, runs=spread.size, spread=spread_of(spread),
        note="largest less smallest difference over six policies, for each tau",
    )  # fmt: skip


def online_stationary(settings: Settings) -> Outcome:
    """Ends of online IPO's descents against Newton's Nash, and the gradient there."""
    run = runs.ends(settings)
    return Outcome(
        expected=0.0,
        measured=[*run["online"].max(-1), run["at_nash"].max()],
        tolerance=1e-7,
        runs=run["online"].size,
        note="largest difference of log-probability from two starts, and the norm of the gradient at the Nash",
    )


def self_play_gradient(settings: Settings) -> Outcome:
    """The factor between the two gradients, and what it leaves."""
    run = runs.gradients(settings)
    return Outcome(
        expected=[-4.0, -4.0, 0.0],
        measured=[run["factor"].min(), run["factor"].max(), run["residual"].max()],
        tolerance=1e-8,
        runs=run["factor"].size,
        note="smallest and largest of tau times the factor over games, and the largest relative difference: the factor "
        "is -4 / tau",
    )


def shared_points(settings: Settings) -> Outcome:
    """The end of IPO-MD against that of Nash-MD-PG."""
    run = runs.ends(settings)
    return Outcome(
        expected=0.0,
        measured=run["shared"].max(-1),
        tolerance=1e-7,
        runs=run["shared"].size,
        spread=f"KL of the Nash at tau from the common end: {spread_of(run['apart'], 'nats')}",
        note="largest difference of log-probability for coefficients 1/8 and 1/2, from different starts",
    )


def mixture_is_nash(settings: Settings) -> Outcome:
    """The mixture of IPO-MD's end against Newton's Nash at tau / (1 - beta)."""
    run = runs.ends(settings)
    return Outcome(
        expected=0.0,
        measured=run["mixture"].max(-1),
        tolerance=1e-7,
        runs=run["mixture"].size,
        note="largest difference of log-probability for coefficients 1/8 and 1/2",
    )


def interpolation(settings: Settings) -> Outcome:
    """IPO-MD's gradient at both ends of its coefficient."""
    error = runs.gradients(settings)["ends"]
    return Outcome(
        expected=[0.0, 0.0], measured=error.max(-1), tolerance=1e-10, runs=error.size,
        note="largest relative difference from online IPO, and from offline IPO on pairs of the reference",
    )  # fmt: skip


def two_responses(settings: Settings) -> Outcome:
    """Two responses: ends of online IPO and IPO-MD against offline IPO."""
    apart = runs.two_responses(settings)["apart"]
    return Outcome(
        expected=0.0,
        measured=apart.max(-1),
        tolerance=1e-8,
        runs=apart.size,
        note="largest difference of log-probability for coefficients 0, 1/8, 1/2: a difference of win-rates is P(1 > "
        "2) - 1/2 against anybody",
    )


def tabular(settings: Settings) -> Outcome:
    """The ends of online IPO and IPO-MD on the dice."""
    run = runs.tabular(settings)
    end = run["path"][1:, -1, 0]
    return Outcome(
        expected=0.0,
        measured=np.abs(end - run["nash"][0]).max(-1),
        tolerance=1e-8,
        runs=len(end),
        note="largest difference of probability from the Nash for online IPO and for IPO-MD at 1/8 and 1/2. The "
        "reference is uniform, so that all of these temperatures share the uniform Nash",
    )


def tabular_offline(settings: Settings) -> Outcome:
    """The end of offline IPO on the dice: its distance from the Nash and from the best response to its data."""
    run = runs.tabular(settings)
    end = run["path"][0, -1, 0]
    return Outcome(
        expected=[0.01],
        measured=[np.abs(end - run["nash"][0]).max()],
        relation="greater than",
        runs=1,
        spread=f"it ends at ({listed(end)}), {np.abs(end - run['response'][0]).max():.1g} from the best response to "
        "its data",
        note="pairs from (.6, .3, .1); largest difference of probability from the Nash",
    )


# --- Prop. 5.1 --------------------------------------------------------------------------------------------------------


def reported_gradient(settings: Settings) -> Outcome:
    """Prop. 5.1 without centring, the factor put right, at 1/8 and 1/2."""
    error = runs.gradients(settings)["reported"]
    inner = error[[runs.MIXTURES.index(m) for m in (0.125, 0.5)]]
    return Outcome(
        expected=0.0,
        measured=np.median(inner, -1).ravel(),
        tolerance=1e-8,
        runs=inner.size,
        spread=f"at 1/8: {spread_of(inner[0])}; at 1/2: {spread_of(inner[1])}",
        note="median relative error at (1/8, tau = .1), (1/8, 1), (1/2, .1), (1/2, 1); at 0 it is "
        f"{error[0].max():.0e}. The mean of grad log pi under the mixture is not 0 unless the mixture is the policy",
    )


def centred_gradient(settings: Settings) -> Outcome:
    """The same with the log-ratio centred under the mixture."""
    error = runs.gradients(settings)["centred"]
    return Outcome(
        expected=0.0, measured=error.max((1, 2)), tolerance=1e-9, runs=error.size,
        note=f"largest relative error at the coefficients {listed(np.asarray(runs.MIXTURES))}; the factor is -4 / tau",
    )  # fmt: skip


# --- variance ---------------------------------------------------------------------------------------------------------


def lower_variance(settings: Settings) -> Outcome:
    """The contrastive estimate's variance over the one-sided one's."""
    run = runs.variances(settings)
    ratio = run["one_sided"]
    return Outcome(
        expected=1.0,
        measured=ratio.max(-1),
        tolerance=1e-9,
        relation="at most",
        runs=ratio.size,
        spread=f"medians for {runs.SIZES} responses: {listed(np.median(ratio, -1))}",
        note=f"largest ratio for {runs.SIZES} responses; all estimates have online IPO's mean (largest relative "
        f"difference {run['bias'].max():.0e})",
    )


def half_the_variance(settings: Settings) -> Outcome:
    """How small the ratio gets, with two responses and with more."""
    ratio, least = runs.variances(settings)["one_sided"].min(-1), runs.least_variance()
    return Outcome(
        expected=0.5,
        measured=[*ratio, float(least["explicit"])],
        relation="at least",
        runs=runs.variances(settings)["one_sided"].size,
        spread=f"a minimiser over all antisymmetric f and policies finds {least['least'][0]:.4f} for two responses "
        f"and {least['least'][1]:.4f} for three",
        note=f"smallest ratio for {runs.SIZES} responses, and of one case by hand: two responses of probability .01, "
        "the first always beats the second, a third ties with both. With two responses the bound holds",
    )


def nash_md_pg_variance(settings: Settings) -> Outcome:
    """The contrastive estimate's variance over Nash-MD-PG's."""
    ratio = runs.variances(settings)["nash_md_pg"]
    return Outcome(
        expected=1.0,
        measured=ratio.max(-1),
        tolerance=1e-9,
        relation="at most",
        runs=ratio.size,
        spread=f"medians for {runs.SIZES} responses: {listed(np.median(ratio, -1))}; it is the larger one in "
        + ", ".join(f"{share:.0%}" for share in np.mean(ratio > 1, -1)),
        note=f"largest ratio for {runs.SIZES} responses at random policies, tau = .1: Nash-MD-PG has no log-ratio of "
        "the second response, which adds noise to the contrastive estimate",
    )


# --- online DPO -------------------------------------------------------------------------------------------------------


def online_dpo_at_rlhf(settings: Settings) -> Outcome:
    """Online DPO's gradient at the RLHF solution of Bradley-Terry games."""
    norm = runs.online_dpo(settings)["rlhf"]
    return Outcome(
        expected=0.0, measured=norm.max(), tolerance=1e-10, runs=norm.size, spread=spread_of(norm),
        note=f"rewards (0, 1, 2), tau = .5: it ends at ({listed(runs.bradley_terry()['online_dpo'])})",
    )  # fmt: skip


def online_dpo_at_nash(settings: Settings) -> Outcome:
    """Online DPO's gradient at the Nash of the same games."""
    run = runs.online_dpo(settings)
    return Outcome(
        expected=0.0,
        measured=np.median(run["nash"]),
        tolerance=1e-6,
        runs=run["nash"].size,
        spread=f"norm: {spread_of(run['nash'])}",
        note="median norm of the gradient; the two policies are a median KL of "
        f"{np.median(run['apart']):.2g} nats apart. Rewards (0, 1, 2), tau = .5: the Nash is "
        f"({listed(runs.bradley_terry()['nash'])})",
    )


def online_dpo_condition(settings: Settings) -> Outcome:
    """The gradient at the Nash against its formula, and the two cases where it vanishes."""
    run = runs.online_dpo(settings)
    even = np.isclose(run["chances"], 0.5)
    return Outcome(
        expected=[0.0, 0.0, 0.0, 0.0],
        measured=[
            run["formula"].max(), run["two"][even].max(), float((run["two"][~even] < 1e-6).sum()), run["cycle"].max()
        ],
        tolerance=1e-10,
        runs=run["formula"].size + run["two"].size,
        spread=f"norm with two responses, P(1 > 2) other than 1/2: {spread_of(run['two'][~even])}",
        note="largest relative difference from the formula on random games; the norm with two responses at P = 1/2; "
        "how many other P have none; the norm on an even cycle with a uniform reference",
    )  # fmt: skip


# --- what cannot be run here ------------------------------------------------------------------------------------------


def summarisation(settings: Settings) -> NotTestable:
    """The table of side-by-side comparisons."""
    return NotTestable(
        "needs T5X-L policies trained on XSum and a PaLM 2 judge (reported, IPO-MD against: DPO .600, Nash-MD-PG .608, "
        "SLiC .594, RL .778; IPO against IPO-MD .515)"
    )
