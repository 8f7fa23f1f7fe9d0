"""Runs behind the MNPO page that regress: Lemma 1, Proposition 1, fixed points of TD- and EO-MNPO, the code's means.

Each is cached on its settings, so that claims and figures share it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from alignjax import Problem, laws, methods, population_loss
from alignjax.objectives.mnpo import multi_base_pair
from alignjax.record import Method
from papers.nash_md_experiments import Runs, equilibria, normalised
from papers.nash_md_policies import random_preferences
from papers.pair_regression import divergence, regression_minimiser, wins
from papers.record import Settings

SIZE = 5
"""Responses of the random games."""
ETAS = (0.5, 2.0)
"""The steps of Eq. 10 that are tried. At 1 the step and its inverse are the same, and so are the two constants."""
SHARES = (0.25, 0.5)
"""Weights of the reference and of the history that sum to less than one, as Eq. 17 allows."""
RATIO, ETA = (1 / 3, 0.85), (0.6, 1.5)
"""The official code's `ratio` and `eta` (an inverse step), at sizes where the iteration settles."""


def _the_sampler(problem: Problem, logp: Array) -> Array:
    law = laws.proposal(problem, logp)
    assert not isinstance(law, tuple)
    return law


def _against_the_sampler(name: str) -> Method:
    """A method on win-rates whose opponent is the law of the pairs."""
    return dataclasses.replace(methods[name], name=f"{name}_corrected", opponent=_the_sampler)


def _short_weights(
    logp: Array, ref_logp: Array, opponent_logp: Array, preference: Array | None = None, *, step_size: Any = 1.0
) -> Array:
    """Eq. 17 with weights that sum to less than one."""
    reference, past = SHARES
    weights = (reference, *(past / len(opponent_logp) for _ in opponent_logp))
    return multi_base_pair(logp, (ref_logp, *opponent_logp), weights, preference, target=step_size / 2)


def _fixed_weights(
    logp: Array, ref_logp: Array, opponent_logp: Array, preference: Array | None = None, *,
    step_size: Any = 1.0, pull: Any = 0.5, newest: Any = 0.5, tokens: Any = 1.0,
) -> Array:  # fmt: skip
    """The official code's loss on a history of two: `newest` is the first's weight, log-probs are means of `tokens`."""
    weights = (pull, (1 - pull) * newest, (1 - pull) * (1 - newest))
    bases = [base / tokens for base in (ref_logp, *opponent_logp)]
    return multi_base_pair(logp / tokens, bases, weights, preference, target=step_size / 2)


CORRECTED = _against_the_sampler("mnpo_soft")
SHORT = dataclasses.replace(methods["td_mnpo"], loss=_short_weights, name="short_weights")
RELEASED = dataclasses.replace(methods["td_mnpo"], loss=_fixed_weights, name="released_code")


@functools.cache
def worlds(settings: Settings) -> Mapping[str, np.ndarray]:
    """Random games of five responses, references, the player's own policy (which draws the pairs), two opponents."""
    generator, number = np.random.default_rng([settings.seed, 100]), settings.size(2000, 200)
    draw = lambda *shape: normalised(generator.normal(size=(*shape, number, SIZE)))
    return {
        "preference": random_preferences(generator, (number,), SIZE),
        "ref": draw(), "own": draw(), "others": draw(2), "score": draw(), "policies": draw(6),
    }  # fmt: skip


def _problem(x: Mapping[str, np.ndarray], **more: Any) -> Problem:
    fields: dict[str, Any] = {"ref_logp": x["ref"], "preference": x["preference"], "anchor_logp": x["own"]} | more
    return Problem(**{name: jnp.asarray(value) for name, value in fields.items()})


def _spread(hard: tuple[Any, float], soft: tuple[Any, float], problem: Problem, policies: np.ndarray) -> np.ndarray:
    """Largest less smallest difference of two losses over policies: 0 where they differ by a constant."""
    values = [
        np.stack([np.asarray(population_loss(name, problem, jnp.asarray(p), step_size=step)) for p in policies])
        for name, step in (hard, soft)
    ]
    return np.ptp(values[0] - values[1], axis=0)


@functools.cache
def proposition(settings: Settings) -> Runs:
    """Eq. 14 and Eq. 15 on the same games: minimisers, and by how much the difference of the losses varies.

    All `[2, games]`, one row for each eta. `printed`: KL(Eq. 10 || minimiser of Eq. 15 as printed); `constant`: the
    same where every opponent is the law of the pairs; `opponents`: with the target eta / 2 and distinct opponents;
    `corrected`: with both put right, and `..._spread` of the losses themselves.
    """
    x = worlds(settings)
    distinct = _problem(x, opponent_logp=x["others"])
    alike = _problem(x, opponent_logp=np.stack([x["own"]] * 2))
    found: dict[str, list[np.ndarray]] = {}

    def put(name: str, value: np.ndarray) -> None:
        found.setdefault(name, []).append(value)

    for eta in ETAS:
        product = x["others"].mean(0)
        average = np.mean([wins(x["preference"], other) for other in x["others"]], 0)
        ten = normalised(product + eta * average)
        ten_alike = normalised(x["own"] + eta * wins(x["preference"], x["own"]))
        at_the_sampler = normalised(product + eta * wins(x["preference"], x["own"]))
        soft, curvature = regression_minimiser("mnpo_soft", distinct, step_size=eta)
        put("lemma", np.abs(soft - ten).max(-1))
        put("curvature", curvature)
        # The library's step h makes a label's target h / 2: the printed 1 / (2 eta) is h = 1 / eta.
        put("printed", divergence(ten, regression_minimiser("mnpo", distinct, step_size=1 / eta)[0]))
        put("constant", divergence(ten_alike, regression_minimiser("mnpo", alike, step_size=1 / eta)[0]))
        put("constant_fixed", divergence(ten_alike, regression_minimiser("mnpo", alike, step_size=eta)[0]))
        put("opponents", divergence(ten, regression_minimiser("mnpo", distinct, step_size=eta)[0]))
        hard = regression_minimiser("mnpo", distinct, step_size=eta)[0]
        put("corrected", np.abs(hard - at_the_sampler).max(-1))
        put("printed_spread", _spread(("mnpo", 1 / eta), ("mnpo_soft", eta), distinct, x["policies"]))
        put("opponents_spread", _spread(("mnpo", eta), ("mnpo_soft", eta), distinct, x["policies"]))
        put("corrected_spread", _spread(("mnpo", eta), (CORRECTED, eta), distinct, x["policies"]))
    return {name: np.stack(rows) for name, rows in found.items()}


@functools.cache
def counterexamples() -> Runs:
    """The smallest cases in which Proposition 1 fails: probabilities of Eq. 10 and of the minimiser of Eq. 15.

    `constant`: two responses, the first always preferred, all policies uniform, eta = 2. `opponents`: rock, paper,
    scissors, one opponent that plays rock with 1/2, uniform pairs, eta = 1 (where the two constants agree).
    """
    one = Problem(ref_logp=jnp.log(jnp.full(2, 0.5)), preference=jnp.asarray([[0.5, 1.0], [0.0, 0.5]]))
    certain = regression_minimiser("mnpo", one, step_size=1 / 2.0)[0]
    skew = 0.5 * np.asarray([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])  # paper beats rock, and so on
    rock = np.log([0.5, 0.25, 0.25])
    two = Problem(
        ref_logp=jnp.log(jnp.full(3, 1 / 3)), preference=jnp.asarray(0.5 + skew), opponent_logp=jnp.asarray(rock)[None]
    )
    cycle = regression_minimiser("mnpo", two, step_size=1.0)[0]
    return {
        "constant_ten": np.exp(normalised(2.0 * np.asarray([0.75, 0.25]))),
        "constant_hard": np.exp(certain),
        "opponents_ten": np.exp(normalised(rock + wins(0.5 + skew, rock))),
        "opponents_hard": np.exp(cycle),
    }


# --- fixed points


def _iterate(method: Method | str, x: Mapping[str, np.ndarray], steps: int, **hyper: Any) -> np.ndarray:
    """The loss's minimiser again and again, pairs from the newest policy, its two last iterates as the history."""
    older = newest = x["ref"]
    for _ in range(steps):
        problem = _problem(x, opponent_logp=np.stack([newest, older]), anchor_logp=newest)
        older, newest = newest, regression_minimiser(method, problem, **hyper)[0]
    return newest


@functools.cache
def fixed_points(settings: Settings) -> Runs:
    """Where TD-MNPO settles, against Newton's Nash: largest differences of log-probability `[games]` or `[4, games]`.

    `effective`: at tau = eta ratio, for two ratios and two etas; `weights`: with the history weighted (.25, .75);
    `step`: KL between one step with those weights and with equal ones; `short`: weights that sum to 3/4.
    """
    number = settings.size(80, 40)
    x = {name: value[..., :number, :] for name, value in worlds(settings).items() if name != "preference"}
    x["preference"] = worlds(settings)["preference"][:number]
    steps = settings.size(150, 120)
    effective = []
    for ratio in RATIO:
        for eta in ETA:
            end = _iterate("td_mnpo", x, steps, step_size=1 / eta, beta=ratio * eta)
            nash = equilibria(x["preference"], x["ref"], ratio * eta)
            effective.append(np.abs(end - nash).max(-1))
    ratio, eta = RATIO[0], ETA[1]
    weighted = _iterate(RELEASED, x, steps, step_size=1 / eta, pull=ratio, newest=0.25)
    nash = equilibria(x["preference"], x["ref"], ratio * eta)
    problem = _problem(x, opponent_logp=x["others"], anchor_logp=x["others"][0])
    both = [regression_minimiser(RELEASED, problem, step_size=1 / eta, pull=ratio, newest=w)[0] for w in (0.5, 0.25)]
    reference, past = SHARES
    flattened = normalised(reference / (1 - past) * x["ref"])
    short = _iterate(SHORT, x, steps, step_size=1 / eta)
    return {
        "effective": np.stack(effective),
        "weights": np.abs(weighted - nash).max(-1),
        "step": divergence(*both),
        "short": np.abs(short - equilibria(x["preference"], flattened, eta * (1 - past))).max(-1),
        "short_nash": divergence(equilibria(x["preference"], x["ref"], eta * (1 - past)), short),
    }


LENGTHS = (1, 2, 4, 8)


@functools.cache
def token_means(settings: Settings) -> Runs:
    """The step that a loss on per-token means takes, over the one it is given: `[lengths, games]`.

    The minimiser's log-ratio to its bases, regressed on the win-rates against the pairs' law. `residual`: what the
    regression leaves, relative.
    """
    x, eta, pull = worlds(settings), 2.0, 1 / 3
    problem = _problem(x, opponent_logp=x["others"], anchor_logp=x["own"])
    base = pull * x["ref"] + (1 - pull) * x["others"].mean(0)
    rate = wins(x["preference"], x["own"])
    rate = rate - rate.mean(-1, keepdims=True)
    slopes, residuals = [], []
    for length in LENGTHS:
        hyper = {"step_size": 1 / eta, "pull": pull, "newest": 0.5, "tokens": float(length)}
        moved = regression_minimiser(RELEASED, problem, **hyper)[0] - base
        moved = moved - moved.mean(-1, keepdims=True)
        slope = (moved * rate).sum(-1) / np.square(rate).sum(-1)
        slopes.append(slope * eta)
        residuals.append(np.linalg.norm(moved - slope[:, None] * rate, axis=-1) / np.linalg.norm(moved, axis=-1))
    return {"step": np.stack(slopes), "residual": np.stack(residuals)}


@functools.cache
def external(settings: Settings) -> Runs:
    """EO-MNPO: the objective's maximum by a general optimiser, against its closed form and the loss's minimiser."""
    number, beta, weight = settings.size(100, 20), 0.4, 0.6
    x = worlds(settings)
    ref, others, reward = x["ref"][:number], x["others"][:, :number], x["score"][:number]
    closed = normalised((1 - weight) * ref + weight * others.mean(0) + reward / beta)
    taus = beta * np.asarray([1 - weight, weight / 2, weight / 2])

    def maximum(i: int) -> np.ndarray:
        bases = np.stack([ref[i], *others[:, i]])

        def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
            logp = normalised(logits)
            p = np.exp(logp)
            value = reward[i] - taus @ (logp - bases)
            return -float(p @ value), -p * (value - p @ value)

        return normalised(minimize(loss, np.zeros(SIZE), jac=True, method="BFGS", options={"gtol": 1e-10}).x)

    problem = Problem(
        ref_logp=jnp.asarray(ref), reward=jnp.asarray(reward), opponent_logp=jnp.asarray(others),
        preference=jnp.asarray(x["preference"][:number]),
    )  # fmt: skip
    found = regression_minimiser("eo_mnpo", problem, beta=beta, external_weight=weight)[0]
    best = np.stack([maximum(i) for i in range(number)])
    return {"objective": np.abs(np.exp(best) - np.exp(closed)).max(-1), "loss": np.abs(found - closed).max(-1)}


# --- Eq. 6


@functools.cache
def score_fits(settings: Settings) -> Runs:
    """Plackett-Luce scores by maximum likelihood, exact expectations over pools of three of five responses.

    `true`, `printed` (Eq. 6: every response of the pool in turn), `winner` (the one that won), all `[fits, 5]`, mean 0.
    """
    generator = np.random.default_rng([settings.seed, 101])
    pools = np.asarray([[i, j, k] for i in range(5) for j in range(i) for k in range(j)])
    rows: dict[str, list[np.ndarray]] = {"true": [], "printed": [], "winner": []}
    for _ in range(settings.size(100, 20)):
        true = generator.normal(size=SIZE)
        true = true - true.mean()
        chance = np.exp(normalised(true[pools]))

        def fit(weight: np.ndarray) -> np.ndarray:
            def loss(scores: np.ndarray) -> tuple[float, np.ndarray]:
                logp = normalised(scores[pools])
                slope = np.zeros(SIZE)
                np.add.at(slope, pools, np.exp(logp) * weight.sum(-1, keepdims=True) - weight)
                return -float((weight * logp).sum()), slope

            start = generator.normal(size=SIZE)
            found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
            return found - found.mean()

        for name, row in (("true", true), ("printed", fit(np.full_like(chance, 1 / 3))), ("winner", fit(chance))):
            rows[name].append(row)
    return {name: np.stack(values) for name, values in rows.items()}
