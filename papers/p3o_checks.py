"""The checks of the P3O page: each takes the settings and returns what the paper says beside what a run gave."""

import numpy as np

from papers import p3o_experiments as toy
from papers import p3o_laws as laws
from papers.record import NotTestable, Outcome, Settings

_NAMES = list(laws.LOSSES)


def _rows(table: np.ndarray, *names: str) -> np.ndarray:
    return np.stack([table[_NAMES.index(name)] for name in names])


def _spread(values: np.ndarray) -> str:
    return f"median {np.median(values):.2g}, range {values.min():.2g} to {values.max():.2g}"


def _zero(errors: np.ndarray, note: str = "", tolerance: float = 1e-9) -> Outcome:
    return Outcome(
        expected=0.0, measured=errors.max(), tolerance=tolerance, runs=errors.shape[-1], spread=_spread(errors),
        note=note,
    )  # fmt: skip


def _mean(values: np.ndarray) -> str:
    """Mean over seeds and its standard error."""
    return f"{values.mean():.4f} (s.e. {values.std(ddof=1) / np.sqrt(len(values)):.4f})"


_CLIPPED = ("P3O, V1", "P3O, V2", "P3O, product")

# --- gradients --------------------------------------------------------------------------------------------------------


def policy_gradient(settings: Settings) -> Outcome:
    """Clipped losses where the policy is the old one."""
    return _zero(_rows(laws.gradients(settings)["on-policy"], *_CLIPPED))


def any_old_policy(settings: Settings) -> Outcome:
    """Losses without clips, for pairs of another policy."""
    run = laws.gradients(settings)["off-policy"]
    clipped = np.median(_rows(run, *_CLIPPED), 1)
    return _zero(
        _rows(run, "V1, no clip", "V2, no clip", "product, no clip"),
        "with eps = 0.2 and C = 10 the median largest error is "
        + ", ".join(f"{x:.3f} ({name})" for x, name in zip(clipped, ("V1", "V2", "product"), strict=True)),
    )


def half_of_copg(settings: Settings) -> Outcome:
    """Twice a pair's gradient against CoPG's."""
    return _zero(laws.gradients(settings)["against copg"])


def rollout(settings: Settings) -> Outcome:
    """KL of the rollout against KL of the current policy, after the first inner step."""
    run = laws.gradients(settings)
    return Outcome(
        expected=1e-6, measured=np.quantile(run["rollout, later"], 0.1), relation="greater than",
        runs=run["rollout, later"].size, spread=_spread(run["rollout, later"]),
        note=f"at the first inner step they differ by {run['rollout, first step'].max():.0e}; later only the "
        "recomputed KL makes the unclipped loss the policy gradient of the regularised objective",
    )  # fmt: skip


# --- invariance -------------------------------------------------------------------------------------------------------


def invariant(settings: Settings) -> Outcome:
    """Change of a pair's gradient under a shift of the prompt's rewards: P3O and DPO."""
    return _zero(_rows(laws.invariances(settings)["sample"], *_CLIPPED, "DPO"))


def others_invariant(settings: Settings) -> Outcome:
    """The same for RLOO, GRPO, CoPG and IPO."""
    return _zero(_rows(laws.invariances(settings)["sample"], "RLOO", "GRPO", "CoPG", "IPO"))


def ppo_not_invariant(settings: Settings) -> Outcome:
    """Change of PPO's expected gradient off-policy, with a value that does not follow."""
    run = laws.invariances(settings)
    change = _rows(run["off-policy"], "PPO")[0]
    return Outcome(
        expected=1e-3, measured=np.median(change), relation="greater than", runs=change.size, spread=_spread(change),
        note=f"a single pair's gradient changes by up to {_rows(run['sample'], 'PPO').max():.2g}",
    )  # fmt: skip


def ppo_on_policy(settings: Settings) -> Outcome:
    """The same where the policy is the old one."""
    return _zero(_rows(laws.invariances(settings)["on-policy"], "PPO", "REINFORCE"))


def ppo_informed(settings: Settings) -> Outcome:
    """The same with a value that follows the shift."""
    return _zero(_rows(laws.invariances(settings)["with V"], "PPO", "REINFORCE, V"))


def scale(settings: Settings) -> Outcome:
    """Rewards and temperature times three."""
    run = laws.invariances(settings)
    other = _rows(run["invariant"], "P3O, V1").min()
    return _zero(
        _rows(run["equivariant"], *_CLIPPED),
        f"rewards alone times three change some gradient by at least {other:.2g}; only GRPO, which divides by the "
        f"spread of the group, does not mind ({_rows(run['invariant'], 'GRPO').max():.0e})",
    )


def shipped_scale(settings: Settings) -> Outcome:
    """The factor by which a global standard deviation shrinks reward differences, prompts shifted by 5."""
    run = toy.normalisation(settings)
    factor = run["global"][list(run["size"]).index(5.0)]
    return Outcome(
        expected=1.0, measured=factor.mean(), tolerance=0.05, runs=factor.size, spread=_spread(factor),
        note="rewards of variance 1, batches of 64 pairs; 1 / sqrt(26) = 0.196 for many prompts. What is shipped is "
        "invariant to one constant for all prompts only",
    )  # fmt: skip


def within_scale(settings: Settings) -> Outcome:
    """The same for the standard deviation within prompts."""
    run = toy.normalisation(settings)
    return Outcome(
        expected=1.0, measured=run["within"].reshape(len(run["size"]), -1), tolerance=1e-9, runs=run["within"].shape[1],
        spread=_spread(run["within"]), note="sqrt(mean (r_1 - r_2)^2 / 2): `equations.within_prompt_scale`",
    )  # fmt: skip


# --- variance ---------------------------------------------------------------------------------------------------------


def variance_of_shift(settings: Settings) -> Outcome:
    """Variance of a pair's gradient at every shift over that at none."""
    run = laws.variances(settings)["P3O, V1"]
    plain = laws.variances(settings)["REINFORCE"]
    growth = plain[-1].mean() / plain[0].mean()
    return Outcome(
        expected=1.0, measured=run / run[0], tolerance=1e-6, runs=run.shape[1],
        spread=f"at no shift: {_spread(run[0])}",
        note=f"REINFORCE's grows {growth:.0f}-fold from no shift to 10",
    )  # fmt: skip


def variance_of_values(settings: Settings) -> Outcome:
    """Variance with the exact value as baseline over that of the pair."""
    run = laws.variances(settings)
    ratio = run["REINFORCE, V"][0] / run["P3O, V1"][0]
    plain = run["REINFORCE"][0] / run["P3O, V1"][0]
    return Outcome(
        expected=1.0, measured=np.median(ratio), relation="less than", runs=ratio.size, spread=_spread(ratio),
        note="two responses to each; a pair is shift-proof, not of least variance: without a shift even REINFORCE "
        f"without a baseline has {np.median(plain):.2f} of its variance (median)",
    )  # fmt: skip


# --- training ---------------------------------------------------------------------------------------------------------


def training_does_not_move(settings: Settings) -> Outcome:
    """Largest difference of J between shifts, over runs and contenders that do not see the shift."""
    run = toy.last(settings)
    names = ("P3O, V1", "P3O, V2", "DPO, soft")
    moved = np.stack([np.abs(run[name] - run[name][0]).max(0) for name in names])
    return _zero(moved, "J: " + "; ".join(f"{name} {_mean(run[name][0])}" for name in names), tolerance=1e-6)


def ppo_degrades(settings: Settings) -> Outcome:
    """J of PPO without a value at the largest shift minus that of P3O, paired over seeds."""
    run = toy.last(settings)
    gap = run["P3O, V1"][2] - run["PPO, V = 0"][2]
    rows = zip(toy.SHIFTS, run["PPO, V = 0"], strict=True)
    return Outcome(
        expected=0.0, measured=gap.mean() - 2 * gap.std(ddof=1) / np.sqrt(len(gap)), relation="greater than",
        runs=len(gap), spread="; ".join(f"J at sd {size:g}: {_mean(x)}" for size, x in rows),
        note=f"P3O's lead at sd {toy.SHIFTS[2]:g}: {_mean(gap)}; measured: that minus two standard errors",
    )  # fmt: skip


def ppo_with_values(settings: Settings) -> Outcome:
    """P3O's lead over PPO with a good value of each prompt."""
    run = toy.last(settings)
    names = ("PPO, running V", "PPO, exact V")
    leads = np.stack([run["P3O, V1"][2] - run[name][2] for name in names], -1)
    error = leads.std(0, ddof=1) / np.sqrt(len(leads))
    return Outcome(
        expected=0.0, measured=leads.mean(0) - 2 * error, relation="greater than", runs=len(leads),
        spread="; ".join(f"over {name}: {_mean(leads[:, i])}" for i, name in enumerate(names)),
        note="largest shift; the values are those of each prompt, as a table may have them: a running mean (which "
        "starts at the mean under the reference) and the exact one. Their policies do not move with the shift either",
    )  # fmt: skip


def shipped_training(settings: Settings) -> Outcome:
    """J of P3O with the shipped scale at the largest shift over that at none."""
    run = toy.last(settings)
    kept = run["P3O, global std"][2] / run["P3O, global std"][0]
    rows = zip(toy.SHIFTS, run["P3O, global std"], strict=True)
    return Outcome(
        expected=1.0, measured=kept.mean(), tolerance=0.1, runs=len(kept),
        spread="; ".join(f"J at sd {size:g}: {_mean(x)}" for size, x in rows),
        note="rewards over a running standard deviation and clipped at 10, the KL coefficient as it is: the larger the "
        "shift, the weaker the reward against the KL",
    )  # fmt: skip


def within_training(settings: Settings) -> Outcome:
    """The same with the standard deviation within prompts."""
    run = toy.last(settings)["P3O, within std"]
    return _zero(np.abs(run - run[0]).max(0)[None], f"J {_mean(run[0])} at every shift", tolerance=1e-6)


# --- what cannot be run -----------------------------------------------------------------------------------------------


def frontiers(settings: Settings) -> NotTestable:
    """The frontiers on TL;DR and HH."""
    return NotTestable(
        "the frontiers of reward against KL are those of Pythia and Llama policies of up to 6 billion parameters on "
        "TL;DR and HH, one run each, with reward models that cannot be trained here"
    )


def judged(settings: Settings) -> NotTestable:
    """The win-rates by GPT-4."""
    return NotTestable("57.0 % of wins over PPO is GPT-4's judgement of samples from 6-billion-parameter policies")
