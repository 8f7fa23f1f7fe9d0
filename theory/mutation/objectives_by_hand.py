"""Several objectives: closed forms for two gradients, optimality for more, volumes by counting cells."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax import Problem, methods, multiobjective
from alignjax.multiobjective import fronts, minimum_norm
from alignjax.samples import Samples
from theory import definitions, instances
from theory.mutation.contracts import group_of
from theory.slack import at_most, both, equal

PLASTIC = 1.324717957244746
"""The root of x^3 = x + 1."""


def _nearest_to_zero(a: Array, b: Array) -> Array:
    """The share of a in the point of the segment from a to b that is nearest to 0."""
    apart = (b - a) @ (b - a)
    return jnp.where(apart > 0, jnp.clip(((b - a) @ b) / jnp.where(apart > 0, apart, 1.0), 0.0, 1.0), 0.5)


def advantages_in_closed_form(key: Array) -> Array:
    """PAMA's number is the projection of 0 on an interval, and its weights give it; per sample, per batch and by the
    Gram matrix, masked or not; no gradient through the weights.
    """
    signs = jnp.array([[1.0], [-1.0], [0.0], [1.0]])
    table = jnp.abs(jax.random.normal(key, (4, 3))) * signs
    table = table.at[2:].set(jax.random.normal(jax.random.fold_in(key, 1), (2, 3)))
    mask, slacks = jnp.array([1.0, 1.0, 0.0, 1.0]), []
    exact = jnp.where((table > 0).all(-1), table.min(-1), jnp.where((table < 0).all(-1), table.max(-1), 0.0))
    value, weights = multiobjective.pama(table)
    slacks += [equal(value, exact), equal((weights * table).sum(-1), exact), equal(weights.sum(-1), 1.0)]
    slacks += [at_most(0.0, weights.min()), equal((weights > 0).sum(-1) <= 2, 1.0)]
    zero, on_first = multiobjective.pama(jnp.zeros((1, 3)))
    slacks += [equal(zero, 0.0), equal(on_first, jnp.array([[1.0, 0.0, 0.0]]))]
    slope = jax.grad(lambda x: (multiobjective.pama(x)[1] ** 2).sum())(table)
    slacks += [equal(slope, 0.0), equal(multiobjective.noon(table), jnp.where(table > 0, table, 0.0))]
    slope = jax.grad(lambda x: multiobjective.pama(x)[0].sum())(table)
    slacks.append(equal(slope, (table == exact[:, None]).astype(float)))
    slacks.append(equal(multiobjective.noon(-2.0), 0.0))
    good = jnp.where(table > 0, table, 0.0)
    slacks.append(equal(multiobjective.pama_token(table)[0], good.min(-1)))
    slacks.append(equal(multiobjective.pama_token(table, use_noon=False)[0], exact))
    dirty = jnp.where(mask[:, None] > 0, table, jnp.nan)
    for use_noon, keep, one in itertools.product((True, False), (None, mask), (table, table + 3.0)):
        given = one if keep is None else jnp.where(mask[:, None] > 0, one, jnp.nan)
        held = jnp.where(one > 0, one, 0.0) if use_noon else one
        means = held.mean(0) if keep is None else held[jnp.array([0, 1, 3])].mean(0)
        held = held if keep is None else held * mask[:, None]
        options: dict[str, Any] = {"use_noon": use_noon, "response_mask": keep}
        scalar, same = multiobjective.pama_batch(given, **options)
        vertex, found = multiobjective.pama_batch(given, reading="vertex", **options)
        middle = jnp.where((means > 0).all(), means.min(), jnp.where((means < 0).all(), means.max(), 0.0))
        slacks += [equal(scalar, middle), equal((found * means).sum(), middle), equal(vertex, held @ found)]
        slacks += [equal(same, found), at_most(0.0, found.min())]
        combined, c = multiobjective.pama_gram(given[:, :2], **options)
        a, b = held[:, 0], held[:, 1]
        share = _nearest_to_zero(a, b)
        slacks += [equal(c[0], share, tolerance=1e-7), equal(combined, held[:, :2] @ c), equal(c.sum(), 1.0)]
        inside = jnp.array([1.0, 0.0, 1.0, 1.0])
        _, c = multiobjective.pama_gram(given[:, :2], inside=inside, **options)
        slacks.append(equal(c[0], _nearest_to_zero(a * inside, b * inside), tolerance=1e-7))
    slope = jax.grad(lambda x: multiobjective.pama_gram(x, use_noon=False)[0].sum())(table)
    slacks.append(equal(slope, multiobjective.pama_gram(table, use_noon=False)[1][None, :]))
    kept = multiobjective.pama_batch(dirty, reading="vertex", use_noon=False, response_mask=mask)[0]
    return both(*slacks, equal(kept[2], 0.0))


def pama_by_hand(key: Array) -> Array:
    """The clipped policy gradient on the combined advantages, for each way of combining them."""
    one, beta, clip, slacks = group_of(key, 4), 0.3, 0.2, []
    old, mask = one["behaviour_logp"], jnp.array([1.0, 0.0, 1.0, 1.0])
    for keep, behaviour in itertools.product((jnp.ones(4), mask), (None, old)):
        before = one["logp"] if behaviour is None else behaviour
        regularised = one["rewards"] - beta * (before - one["ref_logp"])[:, None]
        centred = keep[:, None] * (regularised - (keep[:, None] * regularised).sum(0) / keep.sum())
        good = jnp.where(centred > 0, centred, 0.0)
        means = good.sum(0) / keep.sum()
        ratio = jnp.exp(one["logp"] - before)
        through = good * (ratio <= 1 + clip)[:, None]
        share = _nearest_to_zero(through[:, 0], through[:, 1])
        free = jnp.stack([share, 1 - share])
        ways: dict[tuple[str, bool], Array] = {
            ("token", True): good.min(-1),
            ("token", False): jnp.clip(0.0, centred.min(-1), centred.max(-1)),
            ("linear", True): good.mean(-1), ("linear", False): centred.mean(-1),
            ("batch", True): jnp.full(4, means.min()), ("batch_vertex", True): good[:, jnp.argmin(means)],
            ("gram", True): good @ free,
        }  # fmt: skip
        for (combine, use_noon), advantage in ways.items():
            given = {n: one[n] for n in ("logp", "ref_logp", "rewards")} | {"response_mask": keep}
            given |= {} if behaviour is None else {"behaviour_logp": behaviour}
            call = lambda x, given=given, combine=combine, use_noon=use_noon: methods["pama"](
                Samples(**{**given, "logp": x}), beta=beta, clip_range=clip, combine=combine, use_noon=use_noon
            )
            found, slope = jax.value_and_grad(call)(one["logp"])
            clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
            worth = jnp.minimum(ratio * advantage, clipped * advantage) * keep
            pulls = jnp.where((clipped == ratio) | (ratio * advantage < clipped * advantage), ratio * advantage, 0.0)
            slacks.append(equal(found, -worth.sum() / keep.sum(), tolerance=1e-7))
            slacks.append(equal(slope, -pulls * keep / keep.sum(), tolerance=1e-7))
            still = jax.grad(lambda f, c=combine, n=use_noon: methods["pama"](Samples(**f), combine=c, use_noon=n))(
                given
            )
            slacks += [equal(still["rewards"], 0.0)]
            slacks += [equal(still["behaviour_logp"], 0.0)] if behaviour is not None else []
    return both(*slacks)


def shortest_combinations(key: Array) -> Array:
    """MGDA: closed form for two, optimality for three, certified by a residual that sees what is wrong."""
    table = jax.random.normal(key, (3, 4))
    gram = table @ table.T
    c = minimum_norm.min_norm(table)
    d = c @ table
    share = _nearest_to_zero(table[0], table[1])
    two = minimum_norm.min_norm(table[:2])
    largest = jnp.diagonal(gram).max()
    matrix, right = gram + jnp.eye(3), table[:, :2]
    wrong = jnp.array([0.5, 0.4, 0.3])
    inner = gram @ wrong
    gap = (wrong @ inner - inner.min()) / largest
    tree = {"a": table[:, :3], "b": table[:, 3]}
    return both(
        equal(two, jnp.stack([share, 1 - share]), tolerance=1e-8),
        equal(c.sum(), 1.0), at_most(0.0, c.min()), at_most(d @ d, (table @ d).min(), tolerance=1e-7),
        equal(minimum_norm.min_norm_of_gram(gram), c, tolerance=1e-6),
        equal(minimum_norm.min_norm(1e200 * table), c, tolerance=1e-6),
        equal(minimum_norm.min_norm(jnp.zeros((3, 4))), 1 / 3), equal(minimum_norm.min_norm(jnp.zeros((2, 0))), 0.5),
        equal(minimum_norm.min_norm(table[:1]), 1.0), equal(minimum_norm.min_norm(jnp.stack([d, d])), 0.5),
        equal(jax.grad(lambda x: (minimum_norm.min_norm(x)[0] ** 2))(table), 0.0),
        equal(minimum_norm.gram_matrix(tree), gram),
        equal(jax.grad(lambda x: minimum_norm.gram_matrix(x)[0, 1])(table), jnp.stack([table[1], table[0], 0 * d])),
        equal(minimum_norm._solve(matrix, right), jnp.linalg.inv(matrix) @ right),
        equal(minimum_norm.kkt_residual(table, wrong), jnp.maximum(gap, 0.2)),
        equal(minimum_norm.kkt_residual(table, jnp.array([1.4, -0.4, 0.0])) >= 0.4 - 1e-12, 1.0),
        equal(minimum_norm.kkt_residual(table, c), 0.0, tolerance=1e-7),
        equal(minimum_norm.kkt_residual(0 * table, jnp.full(3, 1 / 3)), 0.0),
        equal(minimum_norm.stationarity(tree), jnp.sqrt(d @ d), tolerance=1e-7),
        equal(jax.grad(minimum_norm.stationarity)(table), c[:, None] * d / jnp.sqrt(d @ d), tolerance=1e-6),
    )  # fmt: skip


def directions_uphill(key: Array) -> Array:
    """The combiners: weights that are given, the worst objective's, projections of two, and the best worst case."""
    table = jax.random.normal(key, (3, 2))
    values, ideal = jnp.array([1.0, 2.0, 0.0]), jnp.array([3.0, 3.0, 3.0])
    weights = jnp.array([0.5, 0.3, 0.2])
    uniform = multiobjective.linear(table)
    worst = multiobjective.chebyshev(table, values, ideal, weights)
    tied = multiobjective.chebyshev(table, values * 0, ideal)
    a, b = table[0], table[1]
    less = lambda x, y: x - jnp.minimum(x @ y, 0.0) / (y @ y) * y
    in_turn = sum((less(less(table[i], table[j]), table[k]) for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1))), 0 * a)
    mean, c = table.mean(0), 0.4
    best = multiobjective.cagrad(table, c).direction
    radius = c * jnp.sqrt(mean @ mean)
    angles = np.linspace(0.0, 2 * np.pi, 181)
    around = mean + radius * jnp.stack([np.cos(angles), np.sin(angles)], -1)
    away = jax.grad(lambda x: (multiobjective.linear(x, weights).direction ** 1).sum())(table)
    return both(
        equal(uniform.direction, mean), equal(uniform.weights, 1 / 3),
        equal(multiobjective.linear(table, weights).direction, weights @ table),
        equal(away, jnp.broadcast_to(weights[:, None], (3, 2))),
        equal(multiobjective.mgda(table[:2]).weights[0], _nearest_to_zero(a, b), tolerance=1e-8),
        equal(worst.direction, 0.5 * a), equal(worst.weights, jnp.array([0.5, 0.0, 0.0])),
        equal(tied.direction, table.mean(0) / 3),
        equal(multiobjective.pcgrad(table[:2]).direction, less(a, b) + less(b, a)),
        equal(multiobjective.pcgrad(table).direction, in_turn),
        equal(multiobjective.pcgrad(jnp.stack([a, 0 * a])).direction, a),
        equal(multiobjective.cagrad(table, 0.0).direction, mean),
        equal(multiobjective.cagrad(0 * table, c).direction, 0.0),
        at_most((best - mean) @ (best - mean), radius**2, tolerance=1e-6),
        at_most((around @ table.T).min(-1).max(), (table @ best).min(), tolerance=1e-6),
        equal(multiobjective.cagrad(10 * table, c).direction, 10 * best, tolerance=1e-6),
    )  # fmt: skip


def fronts_of_tables(key: Array) -> Array:
    """Points and policies of a front are Gibbs laws; the gap is the least KL to one of them, over a grid of weights."""
    keys = jax.random.split(key, 3)
    ref_logp, logp = instances.smooth_law(keys[0], 4), instances.smooth_law(keys[1], 4)
    rewards, beta = jax.random.normal(keys[2], (4, 3)), 0.7
    slacks = []
    for m in (2, 3):
        problem = Problem(ref_logp=ref_logp, rewards=rewards[:, :m])
        front = fronts.pareto_front(problem, beta, 5)
        slacks += [equal(front.weights.sum(-1), 1.0), equal(front.weights[0], jnp.eye(m)[0])]
        for w, found, point in zip(front.weights, front.logp, front.points, strict=True):
            law = definitions.gibbs(ref_logp, rewards[:, :m] @ w, beta)
            values = [definitions.objective(law, ref_logp, rewards[:, i], beta) for i in range(m)]
            slacks += [equal(found, law), equal(point, jnp.stack(values))]
        far = lambda w, m=m: beta * definitions.kl(logp, definitions.gibbs(ref_logp, rewards[:, :m] @ w, beta))
        grid = jnp.asarray(fronts.simplex_weights(41 if m == 2 else 300, m))
        least = jax.vmap(far)(grid).min()
        gap = fronts.front_gap(problem, logp, beta, num_steps=300)
        slacks += [
            at_most(gap, least + (0.0 if m == 2 else 0.02), tolerance=1e-6),
            at_most(least, gap + 0.05),
            at_most(0.0, gap),
        ]
        on_it = fronts.front_gap(problem, front.logp[2], beta, num_steps=300)
        slacks.append(equal(on_it, 0.0, tolerance=1e-9 if m == 2 else 0.05))
    one = Problem(ref_logp=ref_logp, rewards=rewards[:, :1])
    exact = definitions.kl(logp, definitions.gibbs(ref_logp, rewards[:, 0], beta))
    return both(*slacks, equal(fronts.front_gap(one, logp, beta), beta * exact))


def weights_and_volumes(key: Array) -> Array:
    """Low-discrepancy weights by the plastic number; dominance by loops; volumes by counting unit cells."""
    noise = jax.random.uniform(key)  # one number of an instance, so that it is one
    found = fronts.simplex_weights(9, 3)
    right = [found[:3] - np.eye(3), found[3] - 1 / 3, fronts.simplex_weights(1, 3) - 1 / 3]
    right += [fronts.simplex_weights(3, 2) - [[1, 0], [0.5, 0.5], [0, 1]], fronts.simplex_weights(4, 1) - 1]
    for n, row in enumerate(found[4:], 1):
        cuts = np.sort([(0.5 + n / PLASTIC) % 1, (0.5 + n / PLASTIC**2) % 1])
        right.append(row - [cuts[0], cuts[1] - cuts[0], 1 - cuts[1]])
    for seed, m in itertools.product(range(2), (1, 2, 3)):
        points = np.random.default_rng(seed).integers(-1, 5, (6, m))
        cells = itertools.product(range(5), repeat=m)
        count = sum(any((np.asarray(cell) < point).all() for point in points) for cell in cells)
        right.append(np.asarray(fronts.hypervolume(points + 2.0, np.full(m, 2.0)) - count))
        better = [any((q >= p).all() and (q > p).any() for q in points) for p in points]
        right.append(np.asarray(fronts.nondominated(points)) * 1.0 - (1.0 - np.asarray(better)))
        right.append(np.asarray(fronts.dominates(points[0], points[1])) * 1.0
                     - float((points[0] >= points[1]).all() and (points[0] > points[1]).any()))  # fmt: skip
    right.append(np.asarray(fronts.hypervolume(np.zeros((0, 2)), np.zeros(2))))
    right.append(np.asarray(fronts.hypervolume(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 1.0]]), np.zeros(2)) - 3.0))
    return both(*(equal(noise + jnp.asarray(error), noise, tolerance=1e-7) for error in right))


BY_HAND: tuple[tuple[str, str, Any], ...] = (
    ("advantages", "advantages of several objectives", advantages_in_closed_form),
    ("pama", "PAMA is a clipped policy gradient", pama_by_hand),
    ("shortest", "the shortest combination of gradients", shortest_combinations),
    ("uphill", "directions of combiners", directions_uphill),
    ("fronts", "fronts are Gibbs laws", fronts_of_tables),
    ("volumes", "weights, dominance and volumes", weights_and_volumes),
)
"""(name, what it says, slack of a key)."""
