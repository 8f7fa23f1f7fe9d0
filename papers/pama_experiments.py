"""The runs of the PAMA page: random bandits with several objectives, and rivals trained on exact gradients. Cached."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linprog

from alignjax import Problem, multiobjective, population_grad
from alignjax.divergences import kl
from alignjax.logspace import log_softmax
from alignjax.multiobjective.fronts import objectives
from alignjax.sweeps import spread
from papers.record import Settings

ARMS, BETA, STEPS, RATE = 20, 0.2, 4_000, 1.0
CORRELATIONS = (-0.8, -0.3, 0.5)
STRETCHES = ((40, 5), (40, 95))
"""What is kept of a trajectory: every fifth step, forty times, then every 95th."""
CAGRAD = 0.5


# --- random bandits without a penalty ---------------------------------------------------------------------------------


def correlated(generator: np.random.Generator, shape: tuple[int, ...], number: int, correlation: float) -> np.ndarray:
    """Normal rewards `[*shape, number]`, every two objectives with the same correlation."""
    root = np.linalg.cholesky(np.full((number, number), correlation) + (1 - correlation) * np.eye(number))
    return generator.normal(size=(*shape, number)) @ root.T


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def slopes(p: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The gradient in the logits of E[sg(value) log pi], `[..., A], [..., A, M] -> [..., M, A]`."""
    mean = (p[..., None] * value).sum(-2, keepdims=True)
    return np.swapaxes(p[..., None] * (value - mean), -1, -2)


def opposed(number: int) -> float:
    """Half the least correlation that so many rewards can have with one another."""
    return -0.5 / (number - 1)


@functools.lru_cache
def bandits(settings: Settings, count: int = 2_000, number: int = 2) -> dict[str, np.ndarray]:
    """Random policies over ten arms, opposed objectives (correlation -1/(2 (n - 1))), and the gradients in question."""
    generator = np.random.default_rng([settings.seed, 1, number])
    count = settings.size(count, count // 5)
    p = softmax(generator.normal(size=(count, 10)))
    rewards = correlated(generator, (count, 10), number, opposed(number))
    advantage = rewards - (p[..., None] * rewards).sum(-2, keepdims=True)
    noon = np.maximum(advantage, 0)
    true, kept = slopes(p, advantage), slopes(p, noon)
    means = (p[..., None] * noon).sum(-2)
    vertex = np.eye(number)[means.argmin(-1)]
    return {
        "p": p, "advantage": advantage, "noon": noon, "true": true, "kept": kept, "means": means, "vertex": vertex,
        "least": np.asarray(multiobjective.min_norm(kept)), "random": generator.dirichlet(np.ones(number), count),
    }  # fmt: skip


@functools.lru_cache
def bounds(settings: Settings) -> dict[str, np.ndarray]:
    """Left and right side of both bounds, for random weights, the vertex and the minimum norm."""
    run = bandits(settings)
    p, noon = run["p"], run["noon"]
    score = np.square(1 - p) + np.square(p).sum(-1, keepdims=True) - np.square(p)  # |grad log pi(y)|^2
    sides: dict[str, list[np.ndarray]] = {"left": [], "product": [], "moment": []}
    for name in ("random", "vertex", "least"):
        combined = np.einsum("nai,ni->na", noon, run[name])
        sides["left"].append(np.square(np.einsum("nia,ni->na", run["kept"], run[name])).sum(-1))
        mean_score = p - p * p.sum(-1, keepdims=True)  # sum_y pi(y) grad log pi(y)
        sides["product"].append(np.square((p * combined).sum(-1)) * np.square(mean_score).sum(-1))
        sides["moment"].append((p * combined**2).sum(-1) * (p * score).sum(-1))
    return {name: np.stack(rows) for name, rows in sides.items()}


@functools.lru_cache
def closed_forms(settings: Settings) -> dict[str, np.ndarray]:
    """Theorem 1's number and that of a linear program, min t with -t <= c . A <= t on the simplex."""
    generator = np.random.default_rng([settings.seed, 2])
    found: dict[str, list[float]] = {"closed": [], "program": [], "attained": []}
    for _ in range(settings.size(500, 100)):
        number = generator.integers(2, 7)
        a = generator.normal(size=number) + generator.choice([-2.0, 0.0, 2.0])
        value, weights = multiobjective.pama(a)
        program = linprog(
            np.r_[np.zeros(number), 1.0],
            A_ub=np.stack([np.r_[a, -1.0], np.r_[-a, -1.0]]), b_ub=np.zeros(2),
            A_eq=np.r_[np.ones(number), 0.0][None], b_eq=[1.0],
        )  # fmt: skip
        found["closed"].append(abs(float(value)))
        found["program"].append(program.fun)
        found["attained"].append(abs(float(np.asarray(weights) @ a) - float(value)))
    return {name: np.asarray(values) for name, values in found.items()}


@functools.lru_cache
def unanimity(settings: Settings) -> dict[tuple[int, str], np.ndarray]:
    """How many of ten arms are better than average for all of 2, 3 or 5 objectives, in random bandits."""
    generator = np.random.default_rng([settings.seed, 3])
    count = settings.size(5_000, 1_000)
    found = {}
    for number in (2, 3, 5):
        for name, correlation in (("opposed", opposed(number)), ("independent", 0.0)):
            p = softmax(generator.normal(size=(count, 10)))
            rewards = correlated(generator, (count, 10), number, correlation)
            advantage = rewards - (p[..., None] * rewards).sum(-2, keepdims=True)
            found[number, name] = (advantage > 0).all(-1).sum(-1)
    return found


# --- the counterexample -----------------------------------------------------------------------------------------------

THREE_REWARDS = np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]])
THREE_POLICY = np.array([0.1, 0.1, 0.8])
BETTER = np.array([0.3, 0.3, 0.4])


@functools.lru_cache
def counterexample() -> dict[str, Any]:
    """Three arms at which PAMA stands still although a policy that is better for both objectives is near."""
    advantage = THREE_REWARDS - THREE_POLICY @ THREE_REWARDS
    token, _ = multiobjective.pama_token(advantage)
    problem = Problem(ref_logp=jnp.asarray(np.log(THREE_POLICY)), rewards=jnp.asarray(THREE_REWARDS))
    step = population_grad("pama", problem, np.log(THREE_POLICY), beta=1e-12, group_size=3)
    return {
        "value": THREE_POLICY @ THREE_REWARDS, "better": BETTER @ THREE_REWARDS, "token": np.asarray(token),
        "true": float(multiobjective.stationarity(slopes(THREE_POLICY, advantage))),
        "noon": float(multiobjective.stationarity(slopes(THREE_POLICY, np.maximum(advantage, 0)))),
        "group": np.asarray(step),
    }  # fmt: skip


# --- training ---------------------------------------------------------------------------------------------------------


def _directions() -> dict[str, Callable[[Array, Array], Array]]:
    """name -> function(p `[A]`, advantages `[A, M]`) -> the ascent direction in the logits."""

    def rows(p: Array, value: Array) -> Array:
        return (p[:, None] * (value - p @ value)).T

    def token(p: Array, a: Array) -> Array:
        return rows(p, multiobjective.pama_token(a)[0][:, None])[0]

    def vertex(p: Array, a: Array) -> Array:
        kept = multiobjective.noon(a)
        return rows(p, kept).T @ multiobjective.pama(p @ kept)[1]

    return {
        "MORLHF": lambda p, a: multiobjective.linear(rows(p, a)).direction,
        "MGDA": lambda p, a: multiobjective.mgda(rows(p, a)).direction,
        "PCGrad": lambda p, a: multiobjective.pcgrad(rows(p, a)).direction,
        "CAGrad": lambda p, a: multiobjective.cagrad(rows(p, a), CAGRAD).direction,
        "Noon + MGDA": lambda p, a: multiobjective.mgda(rows(p, multiobjective.noon(a))).direction,
        "PAMA, token": token,
        "PAMA, batch vertex": vertex,
    }


METHODS = tuple(_directions())
WEIGHTS = np.linspace(0, 1, 9)
"""Weights of the first objective at which MORLHF is trained besides."""


def seeds(settings: Settings) -> int:
    """Runs at each correlation."""
    return settings.size(8, 5)


def _problems(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """References `[C, S, A]` and rewards `[C, S, A, 2]`."""
    generator = np.random.default_rng([settings.seed, 4])
    shape = (seeds(settings), ARMS)
    rewards = np.stack([correlated(generator, shape, 2, c) for c in CORRELATIONS])
    logits = generator.normal(size=(len(CORRELATIONS), *shape))
    return np.log(softmax(logits)), rewards


def _descend(ref_logp: Array, rewards: Array, direction: Callable[[Array, Array], Array]) -> Array:
    """Policies `[moments, A]` of plain steps on exact gradients."""

    def one(logits: Array, _: None) -> tuple[Array, None]:
        logp = log_softmax(logits)
        regularised = rewards - BETA * (logp - ref_logp)[:, None]
        p = jnp.exp(logp)
        return logits + RATE * direction(p, regularised - p @ regularised), None

    paths = [ref_logp[None]]
    logits = ref_logp
    for count, steps in STRETCHES:

        def stretch(logits: Array, _: None, steps: int = steps) -> tuple[Array, Array]:
            logits, _ = jax.lax.scan(one, logits, None, steps)
            return logits, log_softmax(logits)

        logits, path = jax.lax.scan(stretch, logits, None, count)
        paths.append(path)
    return jnp.concatenate(paths)


def moments() -> np.ndarray:
    """The steps at which trajectories are kept, 0 and the last one among them."""
    return np.cumsum([0, *(steps for count, steps in STRETCHES for _ in range(count))])


@functools.lru_cache
def training(settings: Settings) -> dict[str, Any]:
    """Every rival on every bandit: `[C, S, points, ...]` policies, objectives, gaps; `front [C, S, 201, 2]`."""
    ref_logp, rewards = (spread(jnp.asarray(x)) for x in _problems(settings))
    batched = lambda f: jax.jit(jax.vmap(jax.vmap(f)))
    problem = Problem(ref_logp=ref_logp, rewards=rewards)
    front = multiobjective.pareto_front(problem, BETA, 201)
    found: dict[str, Any] = {"front": np.asarray(front.points), "front_logp": np.asarray(front.logp)}
    measure = batched(
        lambda path, ref, r: (
            objectives(path, ref, r, BETA),
            jax.vmap(lambda x: multiobjective.front_gap(Problem(ref_logp=ref, rewards=r), x, BETA))(path),
        )
    )
    still = batched(
        lambda logp, ref, r: multiobjective.stationarity(
            jax.jacobian(lambda x: objectives(log_softmax(x), ref, r, BETA))(logp)
        )
    )
    for name, direction in _directions().items():
        path = batched(functools.partial(_descend, direction=direction))(ref_logp, rewards)
        points, gap = measure(path, ref_logp, rewards)
        found[name] = {
            "logp": np.asarray(path[:, :, -1]), "points": np.asarray(points), "gap": np.asarray(gap),
            "stationarity": np.asarray(still(path[:, :, -1], ref_logp, rewards)),
        }  # fmt: skip
    # MORLHF at other weights, by the natural gradient, which gets there in so many steps: is it the whole front?
    scalarised = []
    for w in WEIGHTS:
        weights = jnp.asarray([w, 1 - w])
        along = lambda p, a, weights=weights: a @ weights  # the natural gradient
        scalarised.append(batched(functools.partial(_descend, direction=along))(ref_logp, rewards)[:, :, -1])
    ends = jnp.stack(scalarised, 2)
    points, gap = measure(ends, ref_logp, rewards)
    exact = multiobjective.pareto_front(problem, BETA, len(WEIGHTS)).points[..., ::-1, :]  # from w = 0 to 1
    found["scalarised"] = {"points": np.asarray(points), "gap": np.asarray(gap), "exact": np.asarray(exact)}
    # How near a run ends to the optimum of one objective alone.
    alone = jnp.stack([front.logp[..., 0, :], front.logp[..., -1, :]], 2)
    for name in METHODS:
        end = jnp.asarray(found[name]["logp"])[:, :, None]
        found[name]["to_one"] = np.asarray(BETA * kl(end, alone)).min(-1)
    for name in METHODS:
        found[name]["volume"] = np.stack(
            [
                [_share(found["front"][c, s], found[name]["points"][c, s]) for s in range(seeds(settings))]
                for c in range(len(CORRELATIONS))
            ]
        )
    return found


def _share(front: np.ndarray, path: np.ndarray) -> float:
    """Hypervolume of the last point over that of the front, above the worst of the front and of the start."""
    reference = np.minimum(front.min(0), path[0])
    return multiobjective.hypervolume(path[-1:], reference) / multiobjective.hypervolume(front, reference)


# --- time -------------------------------------------------------------------------------------------------------------

TOKENS = 1_024


def best_time(function: Callable[[], Any], repeat: int) -> float:
    """The shortest of some calls, in seconds, after one that compiles."""
    jax.block_until_ready(function())
    took = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(function())
        took.append(time.perf_counter() - start)
    return min(took)


@functools.lru_cache
def timing(settings: Settings) -> dict[str, np.ndarray]:
    """Seconds of the combination alone: closed form and Gram form on 1,024 tokens, MGDA on gradients of d numbers."""
    numbers, sizes = np.array([2, 4, 8, 16]), np.array([10**4, 10**5, settings.size(10**6, 3 * 10**5)])
    repeat = settings.size(20, 8)
    generator = np.random.default_rng([settings.seed, 5])
    draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    token, gram = jax.jit(multiobjective.pama_token), jax.jit(multiobjective.pama_gram)
    products = jax.jit(multiobjective.gram_matrix)
    combine = jax.jit(lambda weights, g: jnp.tensordot(weights, g, axes=1))

    def mgda(g: Array) -> Array:
        return combine(multiobjective.min_norm_of_gram(products(g)), g)

    found: dict[str, list[float]] = {"token": [], "gram": [], "mgda": [], "mgda_by_size": []}
    for n in numbers:
        a, g = draw(TOKENS, n), draw(n, sizes[1])
        found["token"].append(best_time(functools.partial(token, a), repeat))
        found["gram"].append(best_time(functools.partial(gram, a), repeat))
        found["mgda"].append(best_time(functools.partial(mgda, g), repeat))
    for d in sizes:
        found["mgda_by_size"].append(best_time(functools.partial(mgda, draw(8, d)), repeat))
    return {name: np.asarray(values) for name, values in found.items()} | {"numbers": numbers, "sizes": sizes}
