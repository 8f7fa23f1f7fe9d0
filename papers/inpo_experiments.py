"""Runs behind the INPO page: the losses and their minimisers, the theorems, and what practice does to the pairs.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import kl, population_grad, population_loss
from alignjax.games import PreferenceGame, duality_gap, library, original_gap, solve
from alignjax.games.solvers import step as solver_step
from alignjax.logspace import log_softmax
from alignjax.problem import Problem
from alignjax.sweeps import spread
from papers.egpo_theory import excess
from papers.nash_md_experiments import (
    equilibria,
    equilibrium_of,
    normalised,
    number_of_games,
    random_games,
    random_policies,
    theorem_steps,
)
from papers.nash_md_policies import random_preferences
from papers.record import Settings

Runs = dict[str, np.ndarray]

# --- losses -----------------------------------------------------------------------------------------------------------

STEP, BETA = 1.5, 0.2


@functools.cache
def losses(settings: Settings) -> Runs:
    """The two losses on random problems with random previous iterates, all pairs enumerated.

    `apart`: range over thirty policies of hard less soft loss, over the range of the soft one. `hard`, `soft`: largest
    entry of their gradients at the mirror step, over that at the previous iterate. `at_nash`: of both gradients where
    policy and previous iterate are the Nash.
    """
    generator = np.random.default_rng([settings.seed, 300])
    number, size = settings.size(200, 50), 8
    preference = jnp.asarray(random_preferences(generator, (number,), size))
    ref_logp, anchor = (jnp.asarray(normalised(generator.normal(size=(number, size)))) for _ in range(2))
    problem = Problem(ref_logp=ref_logp, preference=preference, anchor_logp=anchor)
    game = spread(PreferenceGame(preference=preference, ref_logp=ref_logp, tau=BETA))
    hyper = {"step_size": STEP, "beta": BETA}
    policies = jnp.asarray(normalised(2 * generator.normal(size=(30, number, size))))
    values = {n: np.asarray(population_loss(n, problem, policies, **hyper)) for n in ("inpo", "inpo_soft")}
    stepped = solver_step(game, "inpo", anchor, STEP)
    found = {"apart": np.ptp(values["inpo"] - values["inpo_soft"], 0) / np.ptp(values["inpo_soft"], 0)}
    for label, name in (("hard", "inpo"), ("soft", "inpo_soft")):
        there, before = (population_grad(name, problem, x, **hyper) for x in (stepped, anchor))
        found[label] = np.asarray(jnp.abs(there).max(-1) / jnp.abs(before).max(-1))
    nash = jnp.asarray(equilibria(np.asarray(preference), np.asarray(ref_logp), BETA))
    resting = Problem(ref_logp=ref_logp, preference=preference, anchor_logp=nash)
    slopes = [population_grad(name, resting, nash, **hyper) for name in ("inpo", "inpo_soft")]
    return found | {"at_nash": np.asarray(jnp.abs(jnp.stack(slopes)).max((0, 2)))}


@functools.cache
def magnetic(settings: Settings) -> Runs:
    """The paper's iterate against magnetic mirror descent as it is printed, in plain probabilities.

    `apart`: largest difference of log-probability along 50 steps. Source of the second: Sokota et al., 2022,
    arXiv:2206.05825, Eq. 10: x' ~ [x rho^{eta alpha} exp(eta A x)]^{1 / (1 + eta alpha)}.
    """
    generator = np.random.default_rng([settings.seed, 301])
    number, size, tau, inverse = settings.size(200, 50), 8, 0.1, 4.0
    preference = random_preferences(generator, (number,), size)
    rho = np.exp(normalised(generator.normal(size=(number, size))))
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(np.log(rho)), tau=tau))
    path = np.asarray(solve(game, "inpo", num_steps=50, eta=inverse).trajectory)
    h = 1 / inverse
    eta, x, apart = h / (1 - h * tau), rho, np.zeros(number)
    for logp in path[1:]:
        x = (x * rho ** (eta * tau) * np.exp(eta * np.einsum("nij,nj->ni", preference, x))) ** (1 / (1 + eta * tau))
        x = x / x.sum(-1, keepdims=True)
        apart = np.maximum(apart, np.abs(np.log(x) - logp).max(-1))
    return {"apart": apart}


@functools.cache
def lemma(settings: Settings) -> np.ndarray:
    """(KL(pi || pi+) - KL(pi || pi-) - <pi- - pi, delta>) / max |delta|^2 on random draws, pi+ ~ pi- e^delta."""
    generator = np.random.default_rng([settings.seed, 302])
    number = settings.size(200_000, 20_000)
    worst = []
    for size in (2, 3, 8):
        rival, before = (np.exp(normalised(2 * generator.normal(size=(number, size)))) for _ in range(2))
        delta = 10 ** generator.uniform(-1.5, 0.5, (number, 1)) * generator.choice([-1.0, 1.0], (number, size))
        total = (before * np.exp(delta)).sum(-1)
        moved = np.log(total) - (rival * delta).sum(-1)  # KL(pi || pi+) - KL(pi || pi-)
        worst.append((moved - ((before - rival) * delta).sum(-1)) / np.square(delta).max(-1))
    return np.stack(worst)


# --- theorems ---------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="num_steps")
def _decaying(game: PreferenceGame, equilibrium: Array, start: Array, steps: Array, num_steps: int) -> Array:
    def one(logp: Array, step: Array) -> tuple[Array, Array]:
        logp = solver_step(game, "inpo", logp, step)
        return logp, kl(equilibrium, logp)

    _, divergence = jax.lax.scan(one, start, steps[:, None] / game.tau, length=num_steps)
    return jnp.concatenate([kl(equilibrium, start)[None], divergence])


@functools.cache
def last_iterate(settings: Settings) -> Runs:
    """Theorem 4's schedule on random games: `kl` `[T + 1, games]`, `tau`."""
    generator = np.random.default_rng([settings.seed, 303])
    game = random_games(generator, number_of_games(settings), 0.02, 5.0)
    start = random_policies(generator, game, 1)[0]
    num_steps = settings.size(1000, 200)
    fractions = jnp.asarray(theorem_steps(num_steps, 1.0))  # h tau
    divergence = _decaying(game, equilibrium_of(game), start, fractions, num_steps)
    return {"kl": np.asarray(divergence), "tau": np.asarray(game.tau)}


MULTIPLES = np.asarray([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
"""Implicit steps h / (1 - h tau) that are tried, in units of 4 tau."""


@functools.cache
def constant_steps(settings: Settings) -> Runs:
    """INPO at constant steps on random games, tau log-uniform in [0.01, 10]: `excess` `[steps, games]`, `tau`."""
    generator = np.random.default_rng([settings.seed, 304])
    game = random_games(generator, number_of_games(settings), 0.01, 10.0)
    start = random_policies(generator, game, 1)[0]
    tau = np.asarray(game.tau)
    implicit = MULTIPLES[:, None] * 4 * tau
    step = jnp.asarray(implicit / (1 + implicit * tau))
    start = jnp.broadcast_to(start, (len(MULTIPLES), *start.shape))
    run = excess(game, equilibrium_of(game), start, step, name="inpo", num_steps=settings.size(200, 60))
    return {"excess": np.asarray(run["excess"]), "tau": tau}


def horizons(settings: Settings) -> tuple[int, ...]:
    """The horizons of Theorem 3, each with its own constant step."""
    return (16, 64, 256) if settings.quick else (16, 64, 256, 1024, 4096)


@functools.cache
def averages(settings: Settings) -> Runs:
    """Theorem 3: the regularised gap of the average of T policies at the step sqrt(D / T), `gap` `[taus, T, games]`.

    `scaled` is the gap times sqrt(T / D); `reach` the largest tau |log pi / ref| along the run.
    """
    generator = np.random.default_rng([settings.seed, 305])
    number, size = settings.size(200, 50), 10
    preference = random_preferences(generator, (number,), size)
    ref_logp = normalised(generator.normal(size=(number, size)))
    divergence = -ref_logp.min(-1)
    gaps, reach = [], []
    for tau in (0.01, 0.1):
        game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=tau))
        row = []
        for horizon in horizons(settings):
            step = jnp.minimum(jnp.asarray(np.sqrt(divergence / horizon)), 1 / tau)
            path = solve(game, "inpo", num_steps=horizon, step_size=step).trajectory
            mean = jnp.log(jnp.exp(path[:-1]).mean(0))
            row.append(np.asarray(duality_gap(game, mean - jax.nn.logsumexp(mean, axis=-1, keepdims=True))))
            reach.append(tau * float(jnp.abs(path - game.ref_logp).max()))
        gaps.append(np.stack(row))
    gap = np.stack(gaps)
    scale = np.sqrt(np.asarray(horizons(settings))[:, None] / divergence)
    return {"gap": gap, "scaled": gap * scale, "reach": np.asarray(reach)}


# --- cycles -----------------------------------------------------------------------------------------------------------


@functools.cache
def cycles(settings: Settings) -> Runs:
    """Random cycles of three responses, uniform reference: INPO at tau = 0.05 against iterative IPO (no KL), step 0.1.

    `inpo` the regularised gap, `inpo_original` and `ipo` the original ones, `[T + 1, games]`; `path_inpo`, `path_ipo`
    `[T + 1, 3]` probabilities in the first game, whose equilibria are `nash` and `winner`. `bias` the original gap of
    the Nash over 2 tau log(1 / min ref).
    """
    number, num_steps, tau = settings.size(300, 60), settings.size(3000, 1500), 0.05
    margins = jnp.asarray(np.random.default_rng([settings.seed, 306]).uniform(0.1, 0.5, (3, number)))
    preference = jax.vmap(library.rock_paper_scissors)(*margins).at[0].set(library.comal())
    start = jnp.broadcast_to(jnp.log(jnp.asarray([0.2, 0.5, 0.3])), (number, 3))
    game = spread(PreferenceGame(preference=preference, tau=tau))
    inpo = solve(game, "inpo", num_steps=num_steps, step_size=0.1, init_logp=start).trajectory
    ipo = solve(game, "mwu", num_steps=num_steps, step_size=0.1, init_logp=start).trajectory
    nash = jnp.asarray(equilibria(np.asarray(preference), np.full((number, 3), -np.log(3)), tau))
    a, b, c = (float(preference[0, i, j] - 0.5) for i, j in ((0, 1), (1, 2), (2, 0)))
    # Each response is played by the margin of the edge it does not touch; both orientations of the cycle.
    winner = np.abs([b, c, a]) / np.abs([a, b, c]).sum()
    return {
        "inpo": np.asarray(duality_gap(game, inpo)),
        "inpo_original": np.asarray(original_gap(game, inpo)),
        "ipo": np.asarray(original_gap(game, ipo)),
        "path_inpo": np.exp(np.asarray(inpo[:, 0])),
        "path_ipo": np.exp(np.asarray(ipo[:, 0])),
        "nash": np.exp(np.asarray(nash[0])),
        "winner": winner,
        "bias": np.asarray(original_gap(game, nash)) / (2 * tau * np.log(3)),
    }


# --- pairs ------------------------------------------------------------------------------------------------------------


def least_squares(law: np.ndarray, target: float) -> np.ndarray:
    """The x (mean 0) that minimises sum_wl law_wl (x_w - x_l - target)^2; `law` `[..., A, A]` of winners and losers."""
    weight = law + np.swapaxes(law, -1, -2)
    right = target * (law.sum(-1) - law.sum(-2))
    laplacian = np.eye(law.shape[-1]) * weight.sum(-1)[..., None, :] - weight
    return (np.linalg.pinv(laplacian, hermitian=True) @ right[..., None])[..., 0]


def regressed(game: PreferenceGame, anchor: np.ndarray, law: np.ndarray, step: float) -> np.ndarray:
    """INPO's next policy from pairs with the given law of winner and loser: base times e^x, x by least squares."""
    pull = step * np.asarray(game.tau)[..., None]
    return normalised((1 - pull) * anchor + pull * np.asarray(game.ref_logp) + least_squares(law, step / 2))


def iid_law(preference: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Winner and loser of two draws from the previous iterate."""
    p = np.exp(anchor)
    return 2 * p[..., :, None] * p[..., None, :] * preference


def best_worst_law(preference: np.ndarray, anchor: np.ndarray, draws: int) -> np.ndarray:
    """Winner and loser where the best and the worst of `draws` responses are compared, all draws enumerated.

    Best and worst by mean win-rate within the group; pairs whose winner does not beat its loser are left out.
    """
    number, size = anchor.shape
    counts = np.asarray([c for c in itertools.product(range(draws + 1), repeat=size) if sum(c) == draws])
    ways = np.asarray([math.factorial(draws) / math.prod(map(math.factorial, c)) for c in counts])
    chance = ways * np.exp(np.einsum("na,ca->nc", anchor, counts))
    score = np.einsum("nij,cj->nci", preference, counts)
    present = counts[None] > 0
    best = np.where(present, score, -np.inf).argmax(-1)
    worst = np.where(present, score, np.inf).argmin(-1)
    law = np.zeros((number, size, size))
    row = np.arange(number)[:, None]
    kept = np.take_along_axis(preference[row, best], worst[..., None], -1)[..., 0] > 0.5
    np.add.at(law, (np.broadcast_to(row, best.shape), best, worst), np.where(kept, chance, 0.0))
    return law / law.sum((-1, -2), keepdims=True)


PAIRS_TAU, PAIRS_STEP, DRAWS = 0.3, 0.8, 8


@functools.cache
def pairs(settings: Settings) -> Runs:
    """Three laws of the pairs on the same games of four responses, tau = 0.3, h = 0.8, pairs enumerated.

    `step_*`: KL of the mirror step from the policy that regression finds, from a random previous iterate. After 300
    iterations: `kl_*` of the Nash from the policy; `sign_*` of the Nash of the sign matrix. The laws: `iid` with
    probabilities as labels, `argmax` the same pairs with the likelier winner, `best` the best and the worst of eight.
    """
    generator = np.random.default_rng([settings.seed, 307])
    number, size = settings.size(100, 30), 4
    preference = random_preferences(generator, (number,), size)
    sign = 0.5 + 0.5 * np.sign(np.round(preference - 0.5, 12))
    ref_logp = normalised(generator.normal(size=(number, size)))
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=PAIRS_TAU))
    nash, sign_nash = (equilibria(matrix, ref_logp, PAIRS_TAU) for matrix in (preference, sign))
    laws = {
        "iid": lambda anchor: iid_law(preference, anchor),
        "argmax": lambda anchor: iid_law(sign, anchor),
        "best": lambda anchor: best_worst_law(preference, anchor, DRAWS),
    }
    anchor = normalised(generator.normal(size=(number, size)))
    mirror = solver_step(game, "inpo", jnp.asarray(anchor), PAIRS_STEP)
    found: Runs = {}
    for name, law in laws.items():
        found[f"step_{name}"] = np.asarray(kl(mirror, jnp.asarray(regressed(game, anchor, law(anchor), PAIRS_STEP))))
        logp = ref_logp
        for _ in range(settings.size(300, 100)):
            logp = regressed(game, logp, law(logp), PAIRS_STEP)
        found[f"kl_{name}"] = np.asarray(kl(jnp.asarray(nash), jnp.asarray(logp)))
        found[f"sign_{name}"] = np.asarray(kl(jnp.asarray(sign_nash), jnp.asarray(logp)))
    return found | {"kl_ref": np.asarray(kl(jnp.asarray(nash), jnp.asarray(ref_logp)))}


def sample_sizes(settings: Settings) -> np.ndarray:
    """Numbers of labelled pairs."""
    return np.geomspace(1e3, 1e5 if settings.quick else 1e6, 5 if settings.quick else 7).round().astype(int)


@functools.cache
def sample_complexity(settings: Settings) -> Runs:
    """`kl` `[N, runs]` of the mirror step from least squares on N labelled pairs, five responses, step 1, tau = 0.2."""
    generator = np.random.default_rng([settings.seed, 308])
    number, size, step = settings.size(100, 30), 5, 1.0
    preference = random_preferences(generator, (number,), size)
    ref_logp, anchor = (normalised(generator.normal(size=(number, size))) for _ in range(2))
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=0.2))
    mirror = solver_step(game, "inpo", jnp.asarray(anchor), step)
    p = np.exp(anchor)
    together = (p[:, :, None] * p[:, None, :]).reshape((number, -1))
    found = []
    for size_of_sample in sample_sizes(settings):
        count = generator.multinomial(size_of_sample, together / together.sum(-1, keepdims=True))
        count = count.reshape(preference.shape)
        wins = generator.binomial(count, preference)
        law = wins + np.swapaxes(count - wins, -1, -2)
        found.append(np.asarray(kl(mirror, jnp.asarray(regressed(game, anchor, law, step)))))
    return {"kl": np.stack(found)}


# --- the constants of practice ----------------------------------------------------------------------------------------

PRACTICE_ETA = 0.005
PRACTICE_RATIO = 1 / 3
"""The paper's eta and tau / eta: h = 200 and tau = 1/600."""


@functools.cache
def practice(settings: Settings) -> Runs:
    """Exact INPO at the paper's eta = 0.005, tau = eta / 3 on random games of ten responses.

    `gap` the regularised one `[iterations + 1, games]`.
    """
    generator = np.random.default_rng([settings.seed, 309])
    number = settings.size(200, 50)
    preference = random_preferences(generator, (number,), 10)
    ref_logp = normalised(generator.normal(size=(number, 10)))
    tau = PRACTICE_RATIO * PRACTICE_ETA
    game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=tau))
    run = solve(game, "inpo", num_steps=30, eta=PRACTICE_ETA)
    return {"gap": np.asarray(duality_gap(game, run.trajectory)), "logp": np.asarray(log_softmax(run.logp))}
