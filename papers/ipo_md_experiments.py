"""Runs behind the IPO-MD page: minimisers, gradients, descents, variances, and online DPO.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from alignjax import Problem, geometric_mixture, kl, population_grad, population_loss
from alignjax.games import library
from alignjax.logspace import log_softmax
from alignjax.sweeps import spread
from papers.nash_md_experiments import Runs, equilibria, normalised, sigmoid
from papers.nash_md_policies import random_preferences, random_problems
from papers.pair_regression import divergence, regression_minimiser, wins
from papers.record import Settings

MIXTURES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.9)
"""The mixture coefficients at which gradients are compared; the paper's trained policies have 1/8."""
TAUS = (0.1, 1.0)
SIZES = (2, 3, 10)
"""Numbers of responses whose variances are compared."""


def best_response(preference: np.ndarray, ref_logp: np.ndarray, opponent: np.ndarray, tau: float) -> np.ndarray:
    """ref e^{P(y > opponent) / tau}, normalised, log-probs."""
    return normalised(ref_logp + wins(preference, opponent) / tau)


def _arrays(problem: Problem, logits: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.asarray(problem.preferences()), np.asarray(problem.ref_logp), normalised(np.asarray(logits))


def _relative(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)


@functools.cache
def offline(settings: Settings) -> Runs:
    """Offline IPO on pairs from a random law: `error` `[2, games]` of its minimiser against the best response to the
    law, `nash` the KL of that from the regularised Nash; `soft` `[2, games]`: how much the difference of tau times the
    squared loss and the loss of the paper's runs varies over six policies.
    """
    generator, number = np.random.default_rng([settings.seed, 200]), settings.size(1000, 200)
    problem, _ = random_problems(generator, number, 5)
    law = normalised(generator.normal(size=(number, 5)))
    policies = normalised(2 * generator.normal(size=(6, number, 5)))
    preference, ref = np.asarray(problem.preferences()), np.asarray(problem.ref_logp)
    here = Problem(ref_logp=problem.ref_logp, preference=problem.preference, sampler_logp=jnp.asarray(law))
    weight = np.exp(law[..., :, None] + law[..., None, :])
    found: dict[str, list[np.ndarray]] = {"error": [], "nash": [], "soft": []}
    for tau in TAUS:
        response = best_response(preference, ref, law, tau)
        found["error"].append(np.abs(regression_minimiser("ipo", here, beta=tau)[0] - response).max(-1))
        found["nash"].append(divergence(equilibria(preference, ref, tau), response))
        differences = []
        for logp in policies:
            ratio, x = (values[..., :, None] - values[..., None, :] for values in (logp, logp - ref))
            one = -ratio + tau * np.square(x)
            soft = (weight * (preference * one + (1 - preference) * np.swapaxes(one, -1, -2))).sum((-2, -1))
            differences.append(soft - tau * np.asarray(population_loss("ipo", here, jnp.asarray(logp), beta=tau)))
        found["soft"].append(np.ptp(np.stack(differences), axis=0))
    return {name: np.stack(rows) for name, rows in found.items()}


# --- gradients


@jax.jit
def _self_play(problem: Problem, logits: Array, tau: float) -> Array:
    """The gradient of P(pi > sg[pi]) - tau KL(pi || ref)."""
    opponent = jnp.exp(log_softmax(logits))

    def value(x: Array) -> Array:
        logp = log_softmax(x)
        gain = jnp.einsum("...i,...ij,...j->...", jnp.exp(logp), problem.preferences(), opponent)
        return (gain - tau * kl(logp, problem.ref_logp)).sum()

    return jax.grad(value)(logits)


def _score_sum(policy: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """sum_y w(y) grad log pi(y) with respect to logits."""
    return weight - policy * weight.sum(-1, keepdims=True)


@functools.cache
def gradients(settings: Settings) -> Runs:
    """Expected gradients at random policies of five responses, at tau = .1 and 1.

    `factor` and `residual` `[2, games]`: tau times the coefficient of online IPO's gradient on self-play's, and what
    that leaves, relative. `reported` and `centred` `[mixtures, 2, games]`: relative errors of Prop. 5.1's right side
    (with the factor 4 / tau) without and with centring; `ends` `[2, games]`: IPO-MD's gradient at 0 and 1 against
    online IPO's and offline IPO's on pairs from the reference.
    """
    number = settings.size(1000, 200)
    problem, logits = random_problems(np.random.default_rng([settings.seed, 201]), number, 5)
    preference, ref, logp = _arrays(problem, logits)
    policy, ratio = np.exp(logp), logp - ref
    found: dict[str, list[Any]] = {"factor": [], "residual": [], "reported": [], "centred": []}
    for tau in TAUS:
        online = np.asarray(population_grad("online_ipo", problem, logits, beta=tau))
        play = np.asarray(_self_play(problem, logits, tau))
        factor = (online * play).sum(-1) / np.square(play).sum(-1)
        found["factor"].append(factor * tau)
        found["residual"].append(_relative(factor[:, None] * play, online))
    for m in MIXTURES:
        reported: list[np.ndarray] = []
        centred: list[np.ndarray] = []
        law = np.asarray(geometric_mixture(jnp.asarray(logp), problem.ref_logp, m))
        nu, rate = np.exp(law), wins(preference, law)
        for tau in TAUS:
            true = np.asarray(population_grad("ipo_md", problem, logits, beta=tau, mixture=m))
            for rows, middle in ((reported, 0.0), (centred, (nu * ratio).sum(-1, keepdims=True))):
                weight = nu * (rate - 0.5 - tau * (ratio - middle))
                rows.append(_relative(-4 / tau * _score_sum(policy, weight), true))
        found["reported"].append(reported)
        found["centred"].append(centred)
    tau = TAUS[0]
    md = lambda m: np.asarray(population_grad("ipo_md", problem, logits, beta=tau, mixture=m))
    on, off = (np.asarray(population_grad(name, problem, logits, beta=tau)) for name in ("online_ipo", "ipo"))
    return {name: np.asarray(rows) for name, rows in found.items()} | {
        "ends": np.stack([_relative(md(0.0), on), _relative(md(1.0), off)])
    }


# --- where descents end


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def _rest(name: str, problem: Problem, start: Array, steps: int, rate: float, hyper: dict[str, Any]) -> Array:
    step = lambda _, logits: logits - rate * population_grad(name, problem, logits, **hyper)
    return log_softmax(jax.lax.fori_loop(0, steps, step, start))


def descend(name: str, problem: Problem, start: np.ndarray, steps: int, rate: float, **hyper: float) -> np.ndarray:
    """Log-probs at the end of an exact gradient descent on logits, every pair enumerated."""
    return np.asarray(_rest(name, problem, jnp.asarray(start), steps, rate, hyper))


REST_TAU = 0.4


@functools.cache
def ends(settings: Settings) -> Runs:
    """Exact descents at tau = .4 until they rest: online IPO from two starts, IPO-MD and Nash-MD-PG at 1/8 and 1/2.

    `online` `[2, games]`: largest difference of log-probability from Newton's Nash; `shared` `[2, games]`: of IPO-MD's
    end from Nash-MD-PG's; `mixture` `[2, games]`: of the end's mixture from Newton's Nash at tau / (1 - m); `apart`
    `[2, games]`: KL of the Nash at tau from the end itself; `at_nash` the online gradient's norm at Newton's Nash.
    """
    generator, number, tau = np.random.default_rng([settings.seed, 202]), settings.size(60, 20), REST_TAU
    preference, ref = random_preferences(generator, (number,), 4), normalised(0.5 * generator.normal(size=(number, 4)))
    problem = spread(Problem(ref_logp=jnp.asarray(ref), preference=jnp.asarray(preference)))
    nash = equilibria(preference, ref, tau)
    starts = generator.normal(size=(2, number, 4))
    steps, rate = 8000, 0.5 * tau
    online = [descend("online_ipo", problem, start, steps, rate, beta=tau) for start in starts]
    found: dict[str, list[np.ndarray]] = {"shared": [], "mixture": [], "apart": []}
    for m in (0.125, 0.5):
        ipo_md = descend("ipo_md", problem, starts[0], steps, rate, beta=tau, mixture=m)
        gradient = descend("nash_md_pg", problem, starts[1], steps, 4 * rate / tau, beta=tau, mixture=m)
        found["shared"].append(np.abs(ipo_md - gradient).max(-1))
        mixed = normalised((1 - m) * ipo_md + m * ref)
        found["mixture"].append(np.abs(mixed - equilibria(preference, ref, tau / (1 - m))).max(-1))
        found["apart"].append(divergence(nash, ipo_md))
    slope = np.asarray(population_grad("online_ipo", problem, jnp.asarray(nash), beta=tau))
    return {name: np.stack(rows) for name, rows in found.items()} | {
        "online": np.stack([np.abs(end - nash).max(-1) for end in online]),
        "at_nash": np.linalg.norm(slope, axis=-1),
    }


@functools.cache
def two_responses(settings: Settings) -> Runs:
    """Ends of online IPO and IPO-MD on two responses against offline IPO's minimiser: `[3, games]` differences."""
    generator, number, tau = np.random.default_rng([settings.seed, 203]), settings.size(60, 20), REST_TAU
    problem, logits = random_problems(generator, number, 2)
    law = jnp.asarray(normalised(generator.normal(size=(number, 2))))
    here = Problem(ref_logp=problem.ref_logp, preference=problem.preference, sampler_logp=law)
    found = regression_minimiser("ipo", here, beta=tau)[0]
    ends = [
        descend("ipo_md", problem, np.asarray(logits), 4000, 0.2 * tau, beta=tau, mixture=m) for m in (0.0, 0.125, 0.5)
    ]
    return {"apart": np.stack([np.abs(end - found).max(-1) for end in ends])}


DATA = np.log([0.6, 0.3, 0.1])
"""The law of the offline pairs in the tabular figure."""
TAU = 0.1
START = np.log([0.8, 0.15, 0.05])
NAMES = ("offline IPO", "online IPO", "IPO-MD, 1/8", "IPO-MD, 1/2")


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def _path(name: str, problem: Problem, start: Array, steps: int, rate: float, hyper: dict[str, Any]) -> Array:
    """Log-probs along an exact descent, `[steps + 1, ..., A]`."""

    def step(logits: Array, _: None) -> tuple[Array, Array]:
        logits = logits - rate * population_grad(name, problem, logits, **hyper)
        return logits, log_softmax(logits)

    return jnp.concatenate([log_softmax(start)[None], jax.lax.scan(step, start, None, steps)[1]])


@functools.cache
def tabular(settings: Settings) -> Runs:
    """Descents on two cycles of three responses at tau = .1: the dice with a uniform reference, and COMAL's cycle with
    the reference (.7, .2, .1). `path` `[4, steps + 1, 2, 3]` probabilities, the methods as in `NAMES`; `nash` and
    `response` `[2, 3]`: the regularised Nash and the best response to the law of the offline pairs.
    """
    preference = np.stack([np.asarray(library.dice()), np.asarray(library.comal())])
    ref = np.log([[1 / 3] * 3, [0.7, 0.2, 0.1]])
    data = np.stack([DATA, ref[1]])
    plain = Problem(ref_logp=jnp.asarray(ref), preference=jnp.asarray(preference))
    given = Problem(ref_logp=jnp.asarray(ref), preference=jnp.asarray(preference), sampler_logp=jnp.asarray(data))
    start, steps, rate = jnp.asarray(np.stack([START, START])), settings.size(40_000, 20_000), 0.1 * TAU
    rows: tuple[tuple[str, Problem, dict[str, Any]], ...] = (
        ("ipo", given, {"beta": TAU}),
        ("ipo_md", plain, {"beta": TAU, "mixture": jnp.asarray(0.0)}),
        ("ipo_md", plain, {"beta": TAU, "mixture": jnp.asarray(0.125)}),
        ("ipo_md", plain, {"beta": TAU, "mixture": jnp.asarray(0.5)}),
    )
    paths = [np.exp(np.asarray(_path(name, x, start, steps, rate, hyper))) for name, x, hyper in rows]
    return {
        "path": np.stack(paths),
        "nash": np.exp(equilibria(preference, ref, TAU)),
        "response": np.exp(best_response(preference, ref, data, TAU)),
    }


CURVE = np.linspace(0, 1, 21)


@functools.cache
def curve(settings: Settings) -> Runs:
    """The stationary point of IPO-MD over its coefficient, by Newton: `apart` `[21, games]` its KL from the Nash at tau
    = .1, `reference` the KL from it to the reference.
    """
    generator, number = np.random.default_rng([settings.seed, 204]), settings.size(400, 100)
    preference, ref = random_preferences(generator, (number,), 10), normalised(generator.normal(size=(number, 10)))
    nash, apart, reference = equilibria(preference, ref, TAU), [], []
    for m in CURVE:
        opponent = ref if m == 1 else equilibria(preference, ref, TAU / (1 - m))
        here = best_response(preference, ref, opponent, TAU)
        apart.append(divergence(nash, here))
        reference.append(divergence(here, ref))
    return {"apart": np.stack(apart), "reference": np.stack(reference)}


# --- variance


def pair_variances(policy: np.ndarray, f: np.ndarray, alone: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Means and total variances of one pair's estimate, y and y' from the policy `[..., A]`, all pairs enumerated.

    In this order: f(y, y') grad log pi(y) = X_1; (X_1 + X_2) / 2, X_2 the other way round; alone(y, y') grad log pi(y).
    """
    weight = policy[..., :, None] * policy[..., None, :]
    score = np.eye(policy.shape[-1]) - policy[..., None, :]
    first = f[..., None] * score[..., :, None, :]
    estimates = (first, (first + np.swapaxes(first, -2, -3)) / 2, alone[..., None] * score[..., :, None, :])
    means = [np.einsum("...ij,...ijk->...k", weight, x) for x in estimates]
    spread = [
        np.einsum("...ij,...ijk->...", weight, np.square(x - m[..., None, None, :]))
        for x, m in zip(estimates, means, strict=True)
    ]
    return means, spread


@functools.cache
def variances(settings: Settings) -> Runs:
    """Exact variances of one pair's gradient estimate for 2, 3 and 10 responses, tau = .1: ratios `[3, games]`.

    `one_sided`: (X_1 + X_2) / 2 over X_1, with X_1 = f(y, y') grad log pi(y), f = P - 1/2 - tau (x_y - x_y') and X_2
    the other way round; `nash_md_pg`: over Nash-MD-PG's estimate, whose f is P - 1/2 - tau x_y. `bias`: the largest
    difference of the means from online IPO's expected gradient, relative.
    """
    generator, number = np.random.default_rng([settings.seed, 205]), settings.size(4000, 1000)
    found: dict[str, list[np.ndarray]] = {"one_sided": [], "nash_md_pg": [], "bias": []}
    for size in SIZES:
        problem, logits = random_problems(generator, number, size)
        preference, ref, logp = _arrays(problem, logits)
        ratio = logp - ref
        f = preference - 0.5 - TAU * (ratio[:, :, None] - ratio[:, None, :])
        means, spread = pair_variances(np.exp(logp), f, preference - 0.5 - TAU * ratio[:, :, None])
        wanted = -TAU / 4 * np.asarray(population_grad("online_ipo", problem, logits, beta=TAU))
        found["bias"].append(np.max([_relative(mean, wanted) for mean in means], 0))
        found["one_sided"].append(spread[1] / spread[0])
        found["nash_md_pg"].append(spread[1] / spread[2])
    return {name: np.stack(rows) for name, rows in found.items()}


RARE = 0.01


@functools.cache
def least_variance() -> Runs:
    """How small the one-sided ratio gets: `explicit`, two responses of probability .01 of which the first always beats
    the second, a third that ties with both, policy and reference one; `least` `[2]`, a minimiser's over all
    antisymmetric f and all policies of two and of three responses.
    """
    policy = np.asarray([RARE, RARE, 1 - 2 * RARE])
    f = 0.5 * np.asarray([[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    generator, least = np.random.default_rng(0), []

    def ratio(f: np.ndarray, policy: np.ndarray) -> float:
        spread = pair_variances(policy, f, f)[1]
        return float(spread[1] / spread[0])

    for size in (2, 3):
        above = np.triu_indices(size, 1)

        def loss(x: np.ndarray, above: Any = above, size: int = size) -> float:
            upper = np.zeros((size, size))
            upper[above] = x[size:]
            return ratio(upper - upper.T, np.exp(normalised(x[:size])))

        starts = generator.normal(size=(8, size + len(above[0])))
        least.append(min(minimize(loss, start, method="BFGS").fun for start in starts))
    return {"explicit": np.asarray(ratio(f, policy)), "least": np.asarray(least)}


# --- online DPO


@functools.cache
def online_dpo(settings: Settings) -> Runs:
    """Online DPO's expected gradient: norms at the RLHF solution and at the Nash of Bradley-Terry games, `rlhf` and
    `nash` `[games]`; `formula`: at the Nash of any game against 2 tau pi (E sigma(q - q') - q), relative; `two` `[P]`:
    the norm at the Nash of two responses over P(1 > 2); `cycle`: at the Nash of an even cycle with a uniform reference.
    """
    generator, number, tau, size = np.random.default_rng([settings.seed, 206]), settings.size(500, 100), 0.3, 5
    ref, reward = normalised(generator.normal(size=(number, size))), generator.normal(size=(number, size))
    rated = Problem(ref_logp=jnp.asarray(ref), reward=jnp.asarray(reward))
    chance = sigmoid(reward[:, :, None] - reward[:, None, :])
    norm = lambda p, x: np.linalg.norm(np.asarray(population_grad("online_dpo", p, jnp.asarray(x), beta=tau)), axis=-1)
    preference = random_preferences(generator, (number,), size)
    nash = equilibria(preference, ref, tau)
    general = Problem(ref_logp=jnp.asarray(ref), preference=jnp.asarray(preference))
    policy, rate = np.exp(nash), wins(preference, nash)
    coin = (policy[:, None, :] * sigmoid(rate[:, :, None] - rate[:, None, :])).sum(-1)
    found = np.asarray(population_grad("online_dpo", general, jnp.asarray(nash), beta=tau))
    chances = np.linspace(0.05, 0.95, 19)
    pairs = np.stack([np.asarray([[0.5, p], [1 - p, 0.5]]) for p in chances])
    half = np.log(np.full((len(chances), 2), 0.5))
    two = Problem(ref_logp=jnp.asarray(half), preference=jnp.asarray(pairs))
    third = np.log(np.full(3, 1 / 3))
    cycle = Problem(ref_logp=jnp.asarray(third), preference=library.rock_paper_scissors())
    return {
        "rlhf": norm(rated, normalised(ref + reward / tau)),
        "nash": norm(rated, equilibria(chance, ref, tau)),
        "apart": divergence(equilibria(chance, ref, tau), normalised(ref + reward / tau)),
        "formula": _relative(2 * tau * policy * (coin - rate), found),
        "chances": chances,
        "two": norm(two, equilibria(pairs, half, tau)),
        "cycle": norm(cycle, third),
    }


@functools.cache
def bradley_terry() -> Runs:
    """Rewards (0, 1, 2) at tau = .5, uniform reference: the Nash, and where online IPO and online DPO end, `[3]`."""
    reward, ref = np.asarray([0.0, 1.0, 2.0]), np.log(np.full(3, 1 / 3))
    problem = Problem(ref_logp=jnp.asarray(ref), reward=jnp.asarray(reward))
    chance = sigmoid(reward[:, None] - reward[None, :])
    ends = {
        name: np.exp(descend(name, problem, np.zeros(3), 20_000, rate, beta=0.5))
        for name, rate in (("online_ipo", 0.1), ("online_dpo", 2.0))
    }
    return {
        "nash": np.exp(equilibria(chance[None], ref[None], 0.5))[0],
        "rlhf": np.exp(normalised(ref + reward / 0.5)),
    } | ends
