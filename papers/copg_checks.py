"""The checks of the CoPG page: each takes the settings and returns what the paper says beside what a run gave."""

import numpy as np

from papers import copg_experiments as toy
from papers import copg_laws as laws
from papers.record import NotTestable, Outcome, Settings


def _spread(values: np.ndarray) -> str:
    return f"median {np.median(values):.2g}, range {values.min():.2g} to {values.max():.2g}"


def _regret(settings: Settings, name: str) -> np.ndarray:
    """`[seeds, 3]`: after 100, 200 and 600 epochs."""
    return toy.bandit(settings)[f"regret {name}"][:, [100, 200, 600]]


def _over_seeds(regret: np.ndarray) -> str:
    mean, low, high = regret.mean(0), regret.min(0), regret.max(0)
    return "; ".join(
        f"{epochs} epochs: {m:.2e} ({a:.2e} to {b:.2e})"
        for epochs, m, a, b in zip((100, 200, 600), mean, low, high, strict=True)
    )


def _identity(errors: np.ndarray, note: str = "") -> Outcome:
    return Outcome(
        expected=0.0, measured=errors.max(), tolerance=1e-9, runs=errors.size, spread=_spread(errors), note=note
    )


# --- the bandit -------------------------------------------------------------------------------------------------------


def bandit_converges(settings: Settings) -> Outcome:
    """CoPG's regret after 600 epochs."""
    regret = _regret(settings, "CoPG")
    return Outcome(
        expected=0.0, measured=regret[:, 2].max(), tolerance=1e-9, runs=len(regret), spread=_over_seeds(regret),
        note="the rewards carry no noise, so that a finite data set has the same optimum as an infinite one",
    )  # fmt: skip


def bandit_in_a_hundred(settings: Settings) -> Outcome:
    """CoPG's regret after 100 epochs of 19 updates."""
    regret = _regret(settings, "CoPG")
    path = toy.bandit(settings)["regret CoPG"]
    when = [int((path < bound).argmax(1).max()) for bound in (1e-3, 1e-4)]
    return Outcome(
        expected=0.0, measured=regret[:, 0].mean(), tolerance=1e-3, runs=len(regret), spread=_over_seeds(regret),
        note=f"every run is below 1e-3 from epoch {when[0]} and below 1e-4 from epoch {when[1]}; a hundred epochs of "
        "19 updates of 1e-3 are too few, so an epoch of the figure must be longer or its step larger than stated",
    )  # fmt: skip


def bandit_ipo(settings: Settings) -> Outcome:
    """IPO's regret against that of CoPG."""
    regret = _regret(settings, "IPO")
    resting = float(toy.regret(toy.resting_points(settings)["IPO"]))
    return Outcome(
        expected=0.1, measured=regret[:, 2].min(), relation="greater than", runs=len(regret),
        spread=_over_seeds(regret), note=f"with all the data in the world it rests at regret {resting:.4f}",
    )  # fmt: skip


def bandit_plain(settings: Settings) -> Outcome:
    """Policy gradient without a baseline, against its start."""
    regret, start = _regret(settings, "PG, b = 0"), toy.bandit(settings)["regret PG, b = 0"][0, 0]
    return Outcome(
        expected=start, measured=regret.min(), relation="greater than", runs=len(regret), spread=_over_seeds(regret),
        note=f"it starts at {start:.4f}: rewards are positive, so that it imitates the arms that are often drawn",
    )  # fmt: skip


def bandit_value(settings: Settings) -> Outcome:
    """Policy gradient with b = E_pi r, against its resting point."""
    regret = _regret(settings, "PG, b = E r")
    point = toy.resting_points(settings)["PG, b = E r"]
    low = toy.bandit(settings)["regret PG, b = E r"].min(1)
    return Outcome(
        expected=float(toy.regret(point)), measured=regret[:, 2].mean(), tolerance=2e-3, runs=len(regret),
        spread=_over_seeds(regret),
        note="expected: the root of the population field by SciPy, the policy "
        f"({', '.join(f'{p:.4f}' for p in np.exp(point))}); on the way the runs pass {low.mean():.4f}",
    )  # fmt: skip


def bandit_regularised_value(settings: Settings) -> Outcome:
    """Policy gradient with b = E_pi R_beta, against the bias the paper has for it."""
    regret = _regret(settings, "PG, b = E R")
    return Outcome(
        expected=1e-3, measured=regret[:, 2].max(), relation="greater than", runs=len(regret),
        spread=_over_seeds(regret),
        note="no bias: the regularised value is an average of R_beta as CoPG's own baseline is; the curve of the "
        "paper's figure is that of the value without KL",
    )  # fmt: skip


def bandit_dpo(settings: Settings) -> Outcome:
    """DPO's regret after 600 epochs, against IPO's."""
    regret, other = _regret(settings, "DPO"), _regret(settings, "IPO")
    return Outcome(
        expected=0.05 * other[:, 2].mean(), measured=regret[:, 2].max(), relation="less than", runs=len(regret),
        spread=_over_seeds(regret), note="what is left is the noise of 10,000 labels, not a bias",
    )  # fmt: skip


# --- baselines --------------------------------------------------------------------------------------------------------


def special_baseline(settings: Settings) -> Outcome:
    """Distance from Gibbs of off-policy runs with other averages of R_beta."""
    error = toy.averages(settings)["error"][:, 1:4, -1]
    return Outcome(
        expected=1e-6, measured=error.max(), relation="greater than", runs=error.size, spread=_spread(error),
        note="largest |log pi - log pi*| of 60 Euler runs with each of b = E R_beta under the policy, the reference "
        "and an unrelated law: none is biased",
    )  # fmt: skip


def any_average(settings: Settings) -> Outcome:
    """Share of the runs that reach Gibbs, for each law of the baseline."""
    error = toy.averages(settings)["error"][:, :4, -1]
    return Outcome(
        expected=1.0, measured=(error < 1e-8).mean(0), runs=error.size, spread=_spread(error),
        note="at a zero of the field mu (R - b) = c pi; averaging R - b under nu gives c sum nu pi / mu = 0: c is 0",
    )  # fmt: skip


def value_without_kl(settings: Settings) -> Outcome:
    """Distance from Gibbs of the runs with b = E_pi r."""
    error = toy.averages(settings)["error"][:, 4, -1]
    return Outcome(
        expected=1e-3, measured=np.quantile(error, 0.1), relation="greater than", runs=error.size,
        spread=_spread(error), note="measured: the tenth percentile of |log pi - log pi*|",
    )  # fmt: skip


def stable(settings: Settings) -> Outcome:
    """Smallest real part of the linearised fields."""
    run = toy.stability(settings)
    return Outcome(
        expected=0.0, measured=[run["slowest"].min(), run["own slowest"].min()], relation="greater than",
        runs=run["slowest"].size, spread=_spread(run["slowest"]),
        note=f"for an average under the policy the matrix is symmetric (up to {run['asymmetry'].max():.0e}) and "
        "positive; for other laws no eigenvalue had a negative real part, which is measured and not proved",
    )  # fmt: skip


# --- theorem and properties -------------------------------------------------------------------------------------------


def optimum(settings: Settings) -> Outcome:
    """Gradient at Gibbs for two random laws."""
    run = laws.theorem(settings)
    return _identity(run["at Gibbs"], f"elsewhere the gradient is at least {run['elsewhere'].min():.1e}")


def square(settings: Settings) -> Outcome:
    """The loss above its minimum, as a square."""
    run = laws.theorem(settings)
    return _identity(run["square error"], f"the smallest loss above the minimum: {run['above'].min():.1e}")


def twice(settings: Settings) -> Outcome:
    """Gradient at Gibbs(2 beta) of the loss with beta / 2 inside."""
    error = laws.theorem(settings)["at 2 beta"]
    return Outcome(
        expected=1e-6, measured=error.min(), relation="greater than", runs=error.size, spread=_spread(error),
        note="with beta in the place of beta / 2 (and autodiff through it) the optimum would be Gibbs(r, 2 beta)",
    )  # fmt: skip


def policy_gradient(settings: Settings) -> Outcome:
    """On-policy gradient against 2 grad J."""
    run = laws.properties(settings)
    return _identity(np.concatenate([run["property 1, K = 2"], run["property 1, K = 3"]]))


def leave_one_out(settings: Settings) -> Outcome:
    """Per-sample gradient of a pair against RLOO's."""
    return _identity(laws.properties(settings)["property 2, K = 2"])


def groups(settings: Settings) -> Outcome:
    """The mean over the pairs of a group of four against RLOO's."""
    return _identity(laws.properties(settings)["property 2, K = 4"])


def ipo(settings: Settings) -> Outcome:
    """Gradient with rewards of a quarter against IPO's."""
    return _identity(laws.properties(settings)["property 3"])


def relatives(settings: Settings) -> Outcome:
    """AGRO, profiled DRO, log-variance and P3O against CoPG."""
    run = laws.properties(settings)
    names = ("agro is copg", "agro is dro", "agro on-policy", "p3o")
    return _identity(np.concatenate([run[name] for name in names]))


def mean_baseline(settings: Settings) -> Outcome:
    """Gradient at Gibbs of the square loss with V = E r."""
    error = laws.properties(settings)["mean baseline at Gibbs"]
    return Outcome(
        expected=0.01, measured=np.median(error), relation="greater than", runs=error.size, spread=_spread(error)
    )


def dro_value(settings: Settings) -> Outcome:
    """The fixed point of DRO with a wrong V."""
    run = laws.wrong_value(settings)
    return Outcome(
        expected=0.0, measured=[run["gradient"].max(), run["fixed point"].max()], tolerance=1e-7,
        runs=run["gradient"].size, spread=f"distance from Gibbs: {_spread(run['from Gibbs'])}",
        note="V from 0.02 to 3 beta below V*; the policy solved by bisection over Wright's omega",
    )  # fmt: skip


def pair_graph(settings: Settings) -> Outcome:
    """Nullity of the Hessian in the log-ratios minus the number of components."""
    run = laws.graphs(settings)
    difference = run["nullity"] - run["components"]
    one = run["components"] == 1
    return Outcome(
        expected=0.0, measured=np.abs(difference).max(), runs=difference.size,
        spread=f"{one.sum()} connected graphs, {(~one).sum()} not",
        note="1 is the constant, which no policy has free: one component is a unique optimum",
    )  # fmt: skip


def equal_supports(settings: Settings) -> Outcome:
    """Share of unique optima among laws of which one or both lack responses."""
    run = laws.graphs(settings)
    unique = run["nullity"] == 1
    share, among = unique[~run["full"]].mean(), int((~run["full"]).sum())
    same = run["same"] & ~run["full"]
    return Outcome(
        expected=0.1, measured=share, relation="greater than", runs=among,
        spread=f"unique with both laws full: {unique[run['full']].mean():.3f} of {int(run['full'].sum())}; with equal "
        f"supports that lack a response: {unique[same].sum()} of {int(same.sum())}",
        note="the condition is sufficient and not necessary: a graph of pairs that connects all responses is enough",
    )  # fmt: skip


def ipo_target(settings: Settings) -> Outcome:
    """Distance of IPO's minimiser from the stated one, for two laws."""
    run = laws.ipo_target(settings)
    return Outcome(
        expected=0.0, measured=[float(run["bandit"]), run["two laws"].max()], tolerance=1e-6,
        runs=run["two laws"].size + 1, spread=f"random laws: {_spread(run['two laws'])}",
        note="measured: in the paper's bandit, and the worst of the random laws",
    )  # fmt: skip


def ipo_target_one_law(settings: Settings) -> Outcome:
    """The same for one law of both responses."""
    return _identity(laws.ipo_target(settings)["one law"])


# --- what cannot be run -----------------------------------------------------------------------------------------------


def summaries(settings: Settings) -> NotTestable:
    """The curves of TL;DR."""
    return NotTestable(
        "the curves are those of Llama-2-7B on Reddit TL;DR against a reward model of the same size, neither of which "
        "can be trained here, and the paper gives them without numbers"
    )


def temperatures(settings: Settings) -> NotTestable:
    """The sweep of beta on TL;DR."""
    return NotTestable(
        "that betas from 0.03 to 0.1 are good and smaller ones collapse is a finding about finite runs of a language "
        "model; on a table every beta has its own optimum and reaches it"
    )
