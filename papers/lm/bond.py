"""BOND on a small language model: Figures 2, 4, 5, 6 and 7 of Sessa et al., 2024, with VADER's sentiment as reward."""

import functools
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from alignjax.record import Source
from papers.figures import describe, panels
from papers.lm import plots
from papers.lm.claims import above_zero, claim_of, figure_of, gains_at_equal
from papers.lm.runs import Experiment, last, results, seeds
from papers.lm.training import Spec
from papers.record import NotTestable, Outcome, Paper, Settings

SOURCE = Source("Sessa et al.", 2024, "2407.14622", "")
WEIGHTS = {"w = 0, forward": 0.0, "w = 1/2": 0.5, "w = 1, backward": 1.0}
RATE = 3e-4
_claim, _figure = claim_of("bond", SOURCE), figure_of("bond")


# --- experiments ------------------------------------------------------------------------------------------------------


def _spec(settings: Settings, method: str, steps: int = 200, **hyper: Any) -> Spec:
    """A method of this paper; J-BOND and moving anchors keep n in their hyperparameters."""
    crude = {} if method == "jbond" else {"include_b": False}
    return Spec(
        method=method, hyper=hyper | crude, baseline="batch", fixed=method == "bond", rate=RATE,
        steps=settings.size(steps, 120), every=20,
    )  # fmt: skip


_experiment = functools.partial(Experiment, paper="bond")


def weights(settings: Settings) -> Experiment:
    """Figure 2: N = 8, three weights of the backward divergence."""
    specs = {name: _spec(settings, "bond", n=8, weight=w) for name, w in WEIGHTS.items()}
    return _experiment(name="weights", specs=specs, seeds=seeds(settings), measure="divergences")


def iterated(settings: Settings) -> Experiment:
    """Figure 4: a hard update of the anchor every 60 steps with n = 2, 4, against N = 4, 8, 16."""
    specs = {f"N = {n}": _spec(settings, "bond", 300, n=n, weight=0.5) for n in (4, 8, 16)}
    specs |= {
        f"n = {n}, iterated": _spec(settings, "bond_moving", 300, n=n, weight=0.5, ema=0.0, anchor_steps=60)
        for n in (2, 4)
    }
    return _experiment(name="iterated", specs=specs, seeds=seeds(settings, 2), measure="divergences", n=16)


def anchors(settings: Settings) -> Experiment:
    """Figure 5: a moving average of rate 0.02 against a hard update every 50 steps."""
    specs = {
        "EMA, η = 0.02": _spec(settings, "jbond", 250, weight=0.5, ema=0.98),
        "hard, every 50 steps": _spec(settings, "jbond", 250, weight=0.5, ema=0.0, anchor_steps=50),
    }
    return _experiment(name="anchors", specs=specs, seeds=seeds(settings, 5))


def rates(settings: Settings) -> Experiment:
    """Figure 6: the rate of the moving average."""
    specs = {f"η = {eta:g}": _spec(settings, "jbond", weight=0.5, ema=1 - eta) for eta in (0.01, 0.05, 0.1)}
    return _experiment(name="rates", specs=specs, seeds=seeds(settings, 2))


def gammas(settings: Settings) -> Experiment:
    """Figure 6: the weight of KL(policy || anchor)."""
    specs = {f"γ = {g:g}": _spec(settings, "jbond", weight=0.5, ema=0.95, gamma=g) for g in (0.0, 0.5, 1.0, 2.0)}
    return _experiment(name="gammas", specs=specs, seeds=seeds(settings, 2))


def reinforce(settings: Settings) -> Experiment:
    """Figure 7: REINFORCE with two samples a prompt and a leave-one-out baseline."""
    specs = {
        f"REINFORCE, β = {beta:g}": Spec(
            method="rloo", hyper={"beta": beta}, rate=RATE, steps=settings.size(200, 120), every=20
        )
        for beta in (0.01, 0.03, 0.1, 0.3)
    }
    return _experiment(name="reinforce", specs=specs, seeds=seeds(settings, 5))


# --- claims -----------------------------------------------------------------------------------------------------------


def both_divergences(settings: Settings) -> Outcome:
    """What w = 1/2 gains on either end, at the end of the runs."""
    found = results(settings, weights(settings))
    ends = {name: {key: last(one[key]) for key in ("backward", "forward")} for name, one in found.items()}
    forward, half, backward = (ends[name] for name in WEIGHTS)
    gains = [forward["backward"] - half["backward"], backward["forward"] - half["forward"]]
    return Outcome(
        expected=0.0, measured=[float(x.mean()) for x in gains], relation="greater than", runs=3 * len(gains[0]),
        spread="; ".join(
            f"{name}: backward {one['backward'].mean():.2f}, forward {one['forward'].mean():.2f} nats"
            for name, one in ends.items()
        ),
        note="How far w = 1/2 is below w = 0 in the backward divergence, and below w = 1 in the forward one, nats.",
    )  # fmt: skip


def log_quantile(settings: Settings) -> Outcome:
    """How far the forward divergence alone lags behind w = 1/2."""
    found = results(settings, weights(settings))
    quantile = {name: last(found[name]["log_quantile"]) for name in WEIGHTS}
    lag = quantile["w = 1/2"] - quantile["w = 0, forward"]
    return Outcome(
        expected=0.0, measured=float(lag.mean()), relation="greater than", runs=2 * len(lag),
        spread="; ".join(f"{name}: {x.mean():.3f}" for name, x in quantile.items()),
    )  # fmt: skip


def iterated_goes_on(settings: Settings) -> Outcome:
    """Log-quantile of iterated n = 4 less that of one-shot N = 4 and N = 16, at the end."""
    found = results(settings, iterated(settings))
    ends = {name: last(one["log_quantile"]) for name, one in found.items()}
    gains = [ends["n = 4, iterated"] - ends[name] for name in ("N = 4", "N = 16")]
    return Outcome(
        expected=0.0, measured=[float(x.mean()) for x in gains], relation="greater than", runs=3 * len(gains[0]),
        spread="; ".join(f"{name}: {x.mean():.3f}" for name, x in ends.items()),
        note="The log-quantile of iterated n = 4 less that of N = 4, and less that of N = 16.",
    )  # fmt: skip


def one_shot_saturates(settings: Settings) -> Outcome:
    """The order of the log-quantiles of N = 4, 8, 16 at the end."""
    found = results(settings, iterated(settings))
    ends = [last(found[f"N = {n}"]["log_quantile"]).mean() for n in (4, 8, 16)]
    return Outcome(
        expected=0.0, measured=np.diff(ends), relation="greater than", runs=3 * len(found["N = 4"]["kl"]),
        spread="N = 4, 8, 16: " + ", ".join(f"{x:.3f}" for x in ends),
    )  # fmt: skip


def lower_kl(settings: Settings) -> Outcome | NotTestable:
    """KL of hard updates less that of the moving average at equal sentiment, each seed."""
    found = results(settings, anchors(settings))
    ema, hard = found.values()
    gains = gains_at_equal(hard, ema, "sentiment", "kl")
    return above_zero({"hard less EMA": gains}, runs=2 * len(gains), note="KL at equal sentiment, nats.")


def rate_sets_speed(settings: Settings) -> Outcome:
    """Differences of the KL at the end between neighbouring rates."""
    found = results(settings, rates(settings))
    ends = [last(one["kl"]).mean() for one in found.values()]
    return Outcome(
        expected=0.0, measured=np.diff(ends), relation="greater than", runs=3 * len(found["η = 0.01"]["kl"]),
        spread=", ".join(f"{name}: {x:.2f}" for name, x in zip(found, ends, strict=True)) + " nats",
    )  # fmt: skip


def gamma_holds_back(settings: Settings) -> Outcome:
    """KL at the end with gamma = 2 less that with gamma = 0."""
    found = results(settings, gammas(settings))
    ends = {name: last(one["kl"]) for name, one in found.items()}
    gain = ends["γ = 2"] - ends["γ = 0"]
    return Outcome(
        expected=0.0, measured=float(gain.mean()), relation="less than", runs=2 * len(gain),
        spread=", ".join(f"{name}: {x.mean():.2f}" for name, x in ends.items()) + " nats",
    )  # fmt: skip


def better_than_reinforce(settings: Settings) -> Outcome | NotTestable:
    """Sentiment of J-BOND less that of REINFORCE at equal KL, at each temperature."""
    jbond = results(settings, anchors(settings))["EMA, η = 0.02"]
    rivals = results(settings, reinforce(settings))
    return above_zero(
        {f"over {name}": gains_at_equal(jbond, one, "kl", "sentiment") for name, one in rivals.items()},
        runs=len(jbond["kl"]) + sum(len(one["kl"]) for one in rivals.values()),
        note="Mean gain of sentiment over the divergences that both curves reach.",
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_weights(settings: Settings) -> Drawing:
    """Figure 2."""
    found = results(settings, weights(settings))
    fig, axes = panels(4, titles=("Backward KL", "Forward KL", "Log-quantile", "Sentiment over KL"))
    rows = (("backward", "KL(π ‖ best-of-8)  (nats)"), ("forward", "KL(best-of-8 ‖ π)  (nats)"))
    for ax, (name, label) in zip(axes, (*rows, ("log_quantile", "E log p≤  (nats)")), strict=False):
        plots.over_steps(ax, found, name)
        describe(ax, "updates", label, legend=name == "backward")
    plots.against(axes[3], found, "kl", "sentiment")
    describe(axes[3], "KL(π ‖ base)  (nats)", "VADER sentiment", legend=False)
    return fig


def draw_iterated(settings: Settings) -> Drawing:
    """Figure 4."""
    found = results(settings, iterated(settings))
    fig, axes = panels(3, titles=("Sentiment", "Log-quantile", "Over KL from the base model"), columns=3)
    plots.over_steps(axes[0], found, "sentiment")
    plots.over_steps(axes[1], found, "log_quantile")
    plots.against(axes[2], found, "kl", "log_quantile")
    describe(axes[0], "updates", "VADER sentiment", legend="lower right")
    describe(axes[1], "updates", "E log p≤  (nats)", legend=False)
    describe(axes[2], "KL(π ‖ base)  (nats)", "E log p≤  (nats)", legend=False)
    return fig


def _three(settings: Settings, *experiments: Experiment) -> Drawing:
    """Sentiment and KL over updates, and one over the other."""
    found = {
        name.replace("EMA", "J-BOND") if len(experiments) > 1 else name: one
        for experiment in experiments
        for name, one in results(settings, experiment).items()
    }
    fig, axes = panels(3, titles=("Sentiment", "KL from the base model", "Sentiment over KL"), columns=3)
    for ax, name, label in zip(axes, ("sentiment", "kl"), ("VADER sentiment", "KL(π ‖ base)  (nats)"), strict=False):
        plots.over_steps(ax, found, name)
        describe(ax, "updates", label, legend=name == "sentiment")
    plots.against(axes[2], found, "kl", "sentiment")
    describe(axes[2], "KL(π ‖ base)  (nats)", "VADER sentiment", legend=False)
    return fig


def draw_anchors(settings: Settings) -> Drawing:
    """Figure 5."""
    return _three(settings, anchors(settings))


def draw_rates(settings: Settings) -> Drawing:
    """Figure 6, first half."""
    return _three(settings, rates(settings))


def draw_gammas(settings: Settings) -> Drawing:
    """Figure 6, second half."""
    return _three(settings, gammas(settings))


def jbond_alone(settings: Settings) -> Experiment:
    """The moving average of Figure 5."""
    found = anchors(settings)
    return _experiment(name="anchors", specs=dict(list(found.specs.items())[:1]), seeds=found.seeds)


def draw_reinforce(settings: Settings) -> Drawing:
    """Figure 7."""
    return _three(settings, jbond_alone(settings), reinforce(settings))


CLAIMS = (
    _claim(
        "both-divergences", "Figure 2",
        "With w = 1/2 the backward divergence is lower than with w = 0, and the forward one lower than with w = 1.",
        "N = 8, quantiles from 16 samples, B dropped; both divergences by Monte Carlo with quantiles from 256 samples "
        "of the base model a prompt.",
        both_divergences,
    ),
    _claim(
        "log-quantile", "Figure 2",
        "With the forward divergence alone (w = 0) the log-quantile lags behind w = 1/2.",
        "The same runs.", log_quantile,
    ),
    _claim(
        "iterated-goes-on", "Figure 4",
        "Iterated BOND with a small n goes on where one-shot BOND with N = 4, and N = 16, has stopped.",
        "w = 1/2; the anchor becomes the policy every 60 steps.", iterated_goes_on, full_only=True,
    ),
    _claim(
        "one-shot-saturates", "Figure 4", "One-shot BOND saturates, at a lower log-quantile for a smaller N.",
        "The same runs, N = 4, 8, 16.", one_shot_saturates, full_only=True,
    ),
    _claim(
        "lower-kl", "Figure 5", "At the same reward a moving average has a lower divergence than hard updates.",
        "J-BOND, η = 0.02 against a hard update every 50 steps; mean over the sentiments that both reach.",
        lower_kl, full_only=True,
    ),
    _claim(
        "rate", "Figure 6", "A larger η moves away from the base model faster.",
        "J-BOND, γ = 0; differences of the KL at the end between neighbouring η.", rate_sets_speed, full_only=True,
    ),
    _claim(
        "gamma", "Figure 6", "A larger γ keeps the policy back.", "J-BOND, η = 0.05; γ = 2 against γ = 0.",
        gamma_holds_back, full_only=True,
    ),
    _claim(
        "reinforce", "Figure 7", "J-BOND has more reward at the same divergence than REINFORCE at every temperature.",
        "J-BOND with η = 0.02; REINFORCE with two samples a prompt, each the other's baseline. At the highest of four "
        "temperatures, where REINFORCE goes least far, five seeds do not tell them apart.",
        better_than_reinforce, full_only=True, stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    _figure("divergences", "Figure 2: both divergences fall with half of each",
            "Sentiment is the reward, N = 8. Lines: medians over seeds; bands: all of them.", draw_weights, weights),
    _figure("iterated", "Figure 4: one-shot BOND stops, iterated BOND goes on",
            "w = 1/2; the anchor becomes the policy every 60 updates.", draw_iterated, iterated, full_only=True),
    _figure("anchors", "Figure 5: a moving average against hard updates", "J-BOND, γ = 0.", draw_anchors, anchors,
            full_only=True),
    _figure("rates", "Figure 6: the rate of the moving average", "J-BOND, γ = 0.", draw_rates, rates, full_only=True),
    _figure("gammas", "Figure 6: the weight of the regulariser", "J-BOND, η = 0.05.", draw_gammas, gammas,
            full_only=True),
    _figure("reinforce", "Figure 7: J-BOND against REINFORCE",
            "J-BOND has no temperature to tune: its one path beside REINFORCE's at four.", draw_reinforce, jbond_alone,
            reinforce, full_only=True),
)  # fmt: skip

PAPER = Paper(
    name="bond",
    title="BOND: Aligning LLMs with Best-of-N Distillation",
    source=SOURCE,
    summary=(
        "A decoder of two layers, trained from scratch on templated reviews, with VADER's sentiment as the reward. The "
        "target, best-of-N of the base model, is known by 256 samples of each prompt, so that both divergences from it "
        "are measured and not only the reward."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
