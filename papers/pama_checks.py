"""The checks of the PAMA page: each takes the settings and returns what the paper says beside what a run gave."""

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import Problem, Samples, methods, multiobjective
from alignjax.logspace import log_softmax
from alignjax.multiobjective.fronts import objectives
from papers import pama_experiments as pama
from papers.nash_md_checks import spread_of
from papers.record import NotTestable, Outcome, Settings

TO_FRONT = ("MORLHF", "MGDA", "PCGrad", "CAGrad")


def _by_correlation(values: np.ndarray) -> str:
    """The median over seeds at each correlation."""
    return ", ".join(f"{np.median(row):.3g} at {c:+.1f}" for row, c in zip(values, pama.CORRELATIONS, strict=True))


# --- the closed form and its bounds -----------------------------------------------------------------------------------


def theorem(settings: Settings) -> Outcome:
    """|s*| against a linear program, and what the weights attain."""
    run = pama.closed_forms(settings)
    return Outcome(
        expected=0.0,
        measured=[np.abs(run["closed"] - run["program"]).max(), run["attained"].max()],
        tolerance=1e-9,
        runs=len(run["closed"]),
        note="largest difference of the value, and of what the weights give from it",
    )


def one_token(settings: Settings) -> Outcome:
    """Both sides of the bound for a single response: |sum c_i A_i grad log pi|^2."""
    run = pama.bandits(settings)
    arm = run["p"].argmax(-1)
    rows = np.arange(len(arm))
    score = np.eye(10)[arm] - run["p"]
    number = np.einsum("ni,ni->n", run["noon"][rows, arm], run["random"])
    gradients = run["noon"][rows, arm][:, :, None] * score[:, None]  # one for each objective
    left = np.square(np.einsum("nia,ni->na", gradients, run["random"])).sum(-1)
    least, _ = multiobjective.pama(run["noon"][rows, arm])
    weights = np.asarray(multiobjective.min_norm(gradients))
    norm = np.linalg.norm(np.einsum("nia,ni->na", gradients, weights), axis=-1)
    return Outcome(
        expected=0.0,
        measured=[
            np.abs(left - number**2 * np.square(score).sum(-1)).max(),
            np.abs(norm - np.asarray(least) * np.linalg.norm(score, axis=-1)).max(),
        ],
        tolerance=1e-9,
        runs=len(arm),
        note="the bound is an equality, and the closed form the true least norm",
    )


def product_bound(settings: Settings) -> Outcome:
    """How often the combined gradient exceeds the product of means."""
    run = pama.bounds(settings)
    broken = (run["left"] > run["product"] + 1e-12).mean(-1)
    return Outcome(
        expected=0.0,
        measured=broken,
        runs=run["left"].shape[1],
        note="share of violations for random weights, PAMA's vertex and the minimum norm: the mean of grad log pi is "
        f"0, and so is the bound; the left side is up to {run['left'].max():.3g}",
    )


def valid_bound(settings: Settings) -> Outcome:
    """Left over right side of the Cauchy-Schwarz bound."""
    run = pama.bounds(settings)
    ratio = run["left"] / run["moment"]
    return Outcome(
        expected=1.0,
        measured=ratio.max(-1),
        relation="at most",
        tolerance=1e-12,
        runs=ratio.shape[1],
        spread=f"left over right: {spread_of(ratio)}",
        note="random weights, PAMA's vertex, the minimum norm",
    )


def vertex(settings: Settings) -> Outcome:
    """sum c_i^2 of the weights of Noon advantages: 1 at a vertex only."""
    noon = pama.bandits(settings)["noon"]
    _, weights = multiobjective.pama(noon.reshape((-1, 2)))
    value, _ = multiobjective.pama(noon)
    return Outcome(
        expected=0.0,
        measured=[
            np.abs(np.square(weights).sum(-1) - 1).max(),
            np.abs(np.asarray(value) - noon.min(-1)).max(),
        ],
        runs=len(noon),
        note="sum of squared weights less 1, and value less the smallest positive part",
    )


def unanimity(settings: Settings) -> Outcome:
    """The share of bandits in which no arm is better than average for all of five opposed objectives."""
    run = pama.unanimity(settings)
    shown = "; ".join(f"n = {n}, {kind}: {v.mean():.2f} ({(v == 0).mean():.0%} none)" for (n, kind), v in run.items())
    return Outcome(
        expected=0.5,
        measured=(run[5, "opposed"] == 0).mean(),
        relation="at least",
        runs=len(run[5, "opposed"]),
        note=f"mean number of such arms out of ten: {shown}; opposed means a correlation of -1/(2 (n - 1)); one half "
        "is ours",
    )


def scalar_signal(settings: Settings) -> Outcome:
    """The exact expected update of one number for the whole batch."""
    run = pama.bandits(settings)
    value, _ = multiobjective.pama(run["means"])
    update = pama.slopes(run["p"], np.broadcast_to(np.asarray(value)[:, None, None], (*run["p"].shape, 1)))
    return Outcome(
        expected=0.0,
        measured=np.abs(update).max(),
        tolerance=1e-12,
        runs=len(update),
        spread=f"the number itself: {spread_of(np.asarray(value))}; the true least norm: "
        + spread_of(_norms(run, run["least"])),
    )


def _norms(run: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.einsum("nia,ni->na", run["kept"], weights), axis=-1)


def _quality(settings: Settings, number: int = 2) -> np.ndarray:
    """Norm of PAMA's choice on a batch over the true least norm, on Noon gradients."""
    run = pama.bandits(settings, number=number)
    return _norms(run, run["vertex"]) / _norms(run, run["least"])


def vertex_norm(settings: Settings) -> Outcome:
    """The median of that ratio."""
    ratio = _quality(settings)
    more = ", ".join(f"{np.median(_quality(settings, n)):.2f} with {n} objectives" for n in (3, 5))
    return Outcome(
        expected=1.0,
        measured=np.median(ratio),
        tolerance=0.01,
        runs=len(ratio),
        spread=spread_of(ratio),
        note=f"within 1 % in {(ratio < 1.01).mean():.1%} of the bandits; median {more}",
    )


def vertex_hurts(settings: Settings) -> Outcome:
    """How often the chosen direction lowers some objective's surrogate, to first order."""
    run = pama.bandits(settings)
    inner = lambda weights: np.einsum("nia,nja,nj->ni", run["kept"], run["kept"], weights).min(-1)
    chosen, least = inner(run["vertex"]), inner(run["least"])
    return Outcome(
        expected=0.0,
        measured=(chosen < 0).mean(),
        runs=len(chosen),
        note=f"MGDA's direction lowers one in {(least < -1e-12).mean():.1%}, by construction",
    )


def natural(settings: Settings) -> Outcome:
    """The least of E[A_i m] - E[m^2] over objectives and bandits."""
    run = pama.bandits(settings)
    m = run["noon"].min(-1)
    rate = np.einsum("na,na,nai->ni", run["p"], m, run["advantage"])
    return Outcome(
        expected=0.0,
        measured=(rate - (run["p"] * m**2).sum(-1)[:, None]).min(),
        tolerance=1e-12,
        relation="at least",
        runs=len(m),
        spread=f"rate of ascent: {spread_of(rate)}",
        note="derived here: with exact advantages the rule ascends every objective in the natural metric",
    )


def plain_metric(settings: Settings) -> Outcome:
    """How often the same rule, as a plain gradient step on the logits, lowers an objective."""
    run = pama.bandits(settings)
    direction = pama.slopes(run["p"], run["noon"].min(-1)[..., None])[:, 0]
    inner = np.einsum("nia,na->ni", run["true"], direction).min(-1)
    return Outcome(
        expected=0.05,
        measured=(inner < -1e-15).mean(),
        relation="greater than",
        runs=len(inner),
        note="share of bandits in which some objective falls to first order; 5 % is ours",
    )


# --- fixed points -----------------------------------------------------------------------------------------------------


def fixed_point(settings: Settings) -> Outcome:
    """Stationarity of both sets of gradients where PAMA's update is zero."""
    run = pama.counterexample()
    return Outcome(
        expected=0.0,
        measured=[run["true"], run["noon"]],
        tolerance=1e-9,
        note="least norms of the true and of the Noon gradients; PAMA's update there is "
        f"{np.abs(run['token']).max():g}",
    )


def dominated(settings: Settings) -> Outcome:
    """The update at the counterexample, exact and in groups of three, and what another policy has more."""
    run = pama.counterexample()
    gain = run["better"] - run["value"]
    return Outcome(
        expected=[0.0, 0.0, 0.04, 0.04],
        measured=[np.abs(run["token"]).max(), np.abs(run["group"]).max(), *gain],
        tolerance=1e-12,
        note=f"the policy (0.3, 0.3, 0.4) has ({run['better'][0]:.2f}, {run['better'][1]:.2f}) instead of "
        f"({run['value'][0]:.2f}, {run['value'][1]:.2f})",
    )


def converges(settings: Settings) -> Outcome:
    """Stationarity at the end of PAMA's runs, sample by sample."""
    run = pama.training(settings)
    end = run["PAMA, token"]["stationarity"]
    return Outcome(
        expected=0.0,
        measured=np.median(end, -1),
        tolerance=0.01,
        runs=end.size,
        spread=f"{spread_of(end)}; MORLHF: {spread_of(run['MORLHF']['stationarity'])}",
        note="median least norm of the gradients at the end, at correlations -0.8, -0.3 and 0.5",
    )


def reductions(settings: Settings) -> Outcome:
    """Gradients with one objective, and with the same one twice, against Noon PPO and PPO written out."""
    generator = np.random.default_rng([settings.seed, 6])
    logp, ref_logp, reward = generator.normal(size=(3, 50, 6)) - np.array([6.0, 6.0, 0.0])[:, None, None]
    centred = reward - pama.BETA * (logp - ref_logp)
    centred = centred - centred.mean(-1, keepdims=True)

    def slope(copies: int, **hyper: object) -> np.ndarray:
        rewards = jnp.asarray(np.repeat(reward[..., None], copies, -1))
        loss = lambda x: methods["pama"](
            Samples(logp=x, ref_logp=ref_logp, rewards=rewards), beta=pama.BETA, **hyper
        ).sum()
        return np.asarray(jax.grad(loss)(jnp.asarray(logp)))

    worst = [
        np.abs(
            slope(copies, combine=combine, use_noon=noon) + np.where(noon, np.maximum(centred, 0), centred) / 6
        ).max()
        for copies in (1, 2)
        for combine in ("token", "gram", "linear")
        for noon in (True, False)
    ]
    return Outcome(expected=0.0, measured=max(worst), tolerance=1e-9, runs=len(logp))


# --- the front --------------------------------------------------------------------------------------------------------


def stationary_iff_front(settings: Settings) -> Outcome:
    """Stationarity and gap on the front, and both at random policies."""
    generator = np.random.default_rng([settings.seed, 7])
    count = settings.size(200, 50)
    ref_logp = jnp.log(pama.softmax(generator.normal(size=(count, 6))))
    rewards = jnp.asarray(generator.normal(size=(count, 6, 2)))
    other = jnp.log(pama.softmax(generator.normal(size=(count, 6))))

    def measures(logp: jax.Array, ref: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
        slopes = jax.jacobian(lambda x: objectives(log_softmax(x), ref, r, pama.BETA))(logp)
        problem = Problem(ref_logp=ref, rewards=r)
        return multiobjective.stationarity(slopes), multiobjective.front_gap(problem, logp, pama.BETA)

    every = jax.jit(jax.vmap(measures))
    front = multiobjective.pareto_front(Problem(ref_logp=ref_logp, rewards=rewards), pama.BETA, 5).logp
    on = [np.asarray(x) for i in range(5) for x in every(front[:, i], ref_logp, rewards)]
    norm, gap = (np.asarray(x) for x in every(other, ref_logp, rewards))
    return Outcome(
        expected=[0.0, 0.0, 0.0],
        measured=[max(x.max() for x in on[::2]), max(x.max() for x in on[1::2]), ((norm < 1e-6) != (gap < 1e-6)).sum()],
        tolerance=1e-7,
        runs=count,
        spread=f"at random policies: norm {spread_of(norm)}; gap {spread_of(gap)}",
        note="largest least norm and gap on the front, and how many random policies have only one of them",
    )


def scalarisation(settings: Settings) -> Outcome:
    """MORLHF trained at nine weights: the gap, and the distance of its objectives from those of the Gibbs policies."""
    run = pama.training(settings)["scalarised"]
    return Outcome(
        expected=0.0,
        measured=[run["gap"].max(), np.abs(run["points"] - run["exact"]).max()],
        tolerance=1e-9,
        runs=run["points"].shape[0] * run["points"].shape[1],
        note="largest gap, and largest distance from the closed form's objectives",
    )


def rivals(settings: Settings) -> Outcome:
    """Median gap at the end of the rivals that use all of the gradients."""
    run = pama.training(settings)
    return Outcome(
        expected=0.0,
        measured=np.stack([np.median(run[name]["gap"][:, :, -1], -1) for name in TO_FRONT]),
        tolerance=0.01,
        runs=run["MGDA"]["gap"][:, :, -1].size,
        note="; ".join(f"{name}: {_by_correlation(run[name]['gap'][:, :, -1])}" for name in TO_FRONT),
    )


def pama_gap(settings: Settings) -> Outcome:
    """The same of PAMA, sample by sample."""
    run = pama.training(settings)
    gap = run["PAMA, token"]["gap"]
    return Outcome(
        expected=0.0,
        measured=np.median(gap[:, :, -1], -1),
        tolerance=0.01,
        runs=gap[:, :, -1].size,
        spread=f"{spread_of(gap[:, :, -1])}; at the start: {spread_of(gap[:, :, 0])}",
        note=f"median gap at correlations -0.8, -0.3 and 0.5 after {pama.STEPS} steps; Noon with MGDA: "
        + _by_correlation(run["Noon + MGDA"]["gap"][:, :, -1]),
    )


def beats_rivals(settings: Settings) -> Outcome:
    """PAMA's hypervolume less that of MORLHF at equal weights, run by run."""
    run = pama.training(settings)
    less = run["PAMA, token"]["volume"] - run["MORLHF"]["volume"]
    return Outcome(
        expected=0.0,
        measured=less.mean(-1),
        relation="greater than",
        runs=less.size,
        spread=spread_of(less),
        note="mean share of the front's hypervolume: "
        + "; ".join(f"{name} " + ", ".join(f"{m:.2f}" for m in run[name]["volume"].mean(-1)) for name in pama.METHODS),
    )


def collapse(settings: Settings) -> Outcome:
    """Share of batch-vertex runs that end next to the optimum of one objective alone, where rewards are opposed."""
    run = pama.training(settings)
    near, rival = run["PAMA, batch vertex"]["to_one"][:2], run["MGDA"]["to_one"][:2]
    end = run["PAMA, batch vertex"]["points"][:2, :, -1].min(-1)
    start = run["PAMA, batch vertex"]["points"][:2, :, 0].min(-1)
    return Outcome(
        expected=0.8,
        measured=(near < 0.05).mean(),
        relation="at least",
        runs=near.size,
        spread=f"regret against the nearer of both optima: {spread_of(near)}; MGDA: {spread_of(rival)}",
        note=f"the other objective ends below where it started in {(end < start).mean():.0%}; 0.05 and 80 % are ours",
    )


# --- what cannot be run here ------------------------------------------------------------------------------------------


def small_models(settings: Settings) -> NotTestable:
    """GPT-2 on film reviews."""
    return NotTestable("needs GPT-2, the film reviews and a sentiment model: none of them is part of this repository")


def large_model(settings: Settings) -> NotTestable:
    """A 7B model on helpfulness prompts."""
    return NotTestable("needs a 7B model, its reward models and a GPU for days; the paper's numbers are from one seed")
