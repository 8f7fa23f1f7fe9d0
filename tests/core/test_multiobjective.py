"""Several objectives: closed forms, minimum norms, combiners and fronts against SciPy, enumeration and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

import alignjax as aj
from alignjax import multiobjective as mo

pytestmark = pytest.mark.usefixtures("x64")


def by_slsqp(gradients):
    """The least norm in the hull, by another solver."""
    m = len(gradients)
    gram = gradients @ gradients.T
    best = min(
        (
            minimize(
                lambda c: c @ gram @ c,
                start,
                jac=lambda c: 2 * gram @ c,
                bounds=[(0, 1)] * m,
                constraints={"type": "eq", "fun": lambda c: c.sum() - 1, "jac": lambda c: np.ones(m)},
                method="SLSQP",
                options={"ftol": 1e-15, "maxiter": 500},
            )
            for start in (np.full(m, 1 / m), np.eye(m)[0])
        ),
        key=lambda found: found.fun,
    )
    return best.fun


def lagrange(gradients):
    """By enumeration of supports: the least feasible value of every equality-constrained problem."""
    m, best = len(gradients), np.inf
    for size in range(1, m + 1):
        for chosen in map(list, itertools.combinations(range(m), size)):
            g = gradients[chosen]
            border = np.block([[g @ g.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            c = np.linalg.lstsq(border, np.r_[np.zeros(size), 1.0], rcond=None)[0][:-1]
            if abs(c.sum() - 1) < 1e-9 and (c > -1e-12).all():
                best = min(best, np.sum((c @ g) ** 2))
    return best


# --- PAMA's closed form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantages", "value", "weights"),
    [
        ([2.0, 5.0], 2.0, [1, 0]),
        ([-1.0, 3.0], 0.0, [0.75, 0.25]),
        ([-4.0, -2.0, -3.0], -2.0, [0, 1, 0]),
        ([3.0, 1.0, 1.0], 1.0, [0, 1, 0]),  # a tie: the first
        ([0.0, 3.0], 0.0, [1, 0]),
        ([-3.0, 0.0], 0.0, [0, 1]),
        ([0.0, 0.0], 0.0, [1, 0]),
        ([7.0], 7.0, [1]),
        ([-7.0], -7.0, [1]),
        ([-2.0, -1.0, 6.0], 0.0, [0.75, 0, 0.25]),
    ],
)
def test_pama_by_hand(advantages, value, weights):
    found, c = mo.pama(advantages)
    assert float(found) == value
    np.testing.assert_allclose(c, weights, atol=1e-15)


def test_pama_is_the_least_square_on_the_simplex():
    rng = np.random.default_rng(0)
    for m in (2, 3, 5):
        for a in rng.normal(size=(20, m)) + rng.choice([-2.0, 0.0, 2.0], size=(20, 1)):
            value, weights = mo.pama(a)
            assert weights.min() >= 0 and abs(weights.sum() - 1) < 1e-14
            np.testing.assert_allclose(weights @ a, value, atol=1e-14)
            np.testing.assert_allclose(value**2, lagrange(a[:, None]), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e307])
def test_pama_at_any_scale(scale):
    value, weights = mo.pama(np.array([[-1.0, 3.0], [2.0, 5.0]]) * scale)
    np.testing.assert_allclose(weights, [[0.75, 0.25], [1, 0]], rtol=1e-14)
    np.testing.assert_allclose(value, [0.0, 2 * scale], rtol=1e-14)


def test_noon_makes_the_weights_a_vertex():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(500, 4))
    value, weights = mo.pama_token(a)
    assert (np.sort(weights, -1) == [0, 0, 0, 1]).all()
    np.testing.assert_array_equal(value, np.maximum(a, 0).min(-1))
    np.testing.assert_array_equal(mo.noon([-1.0, 0.0, 2.0]), [0, 0, 2])


def test_readings_of_a_batch():
    # Means of the positive parts: (1, 2) and so the first objective, and its mean.
    a = np.array([[2.0, -1.0], [-3.0, 4.0]])
    scalar, weights = mo.pama_batch(a)
    np.testing.assert_array_equal(scalar, [1, 1])
    np.testing.assert_array_equal(weights, [1, 0])
    np.testing.assert_array_equal(mo.pama_batch(a, reading="vertex")[0], [2, 0])
    # Without Noon the means are -1/2 and 3/2: three quarters and one quarter.
    combined, weights = mo.pama_batch(a, reading="vertex", use_noon=False)
    np.testing.assert_allclose(weights, [0.75, 0.25])
    np.testing.assert_allclose(combined, a @ [0.75, 0.25])
    # Samples that do not count.
    dirty = np.concatenate([a, [[np.nan, np.inf]]])
    masked, weights = mo.pama_batch(dirty, response_mask=[1, 1, 0])
    np.testing.assert_array_equal(masked, [1, 1, 1])
    np.testing.assert_array_equal(weights, [1, 0])


def test_gram_weights_minimise_the_mean_square():
    rng = np.random.default_rng(2)
    for m in (2, 3, 4):
        a = rng.normal(size=(30, m)) * np.arange(1, m + 1)
        for use_noon in (False, True):
            kept = np.maximum(a, 0) if use_noon else a
            combined, weights = mo.pama_gram(a, use_noon=use_noon)
            np.testing.assert_allclose(combined, kept @ weights)
            np.testing.assert_allclose(np.sum((kept @ weights) ** 2), lagrange(kept.T), rtol=1e-9)
    inside = np.arange(30) < 20
    np.testing.assert_allclose(mo.pama_gram(a, inside=inside)[1], mo.pama_gram(a[:20])[1], atol=1e-12)


# --- the minimum norm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "d"), [(2, 1), (2, 4), (3, 2), (4, 6), (6, 3)])
def test_min_norm_against_enumeration_of_supports(m, d):
    rng = np.random.default_rng([m, d])
    gradients = rng.normal(size=(8, m, d)) + rng.normal(size=(8, 1, d))
    weights = mo.min_norm(gradients)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-14)
    assert mo.kkt_residual(gradients, weights).max() < 1e-12
    for g, c in zip(gradients, weights, strict=True):
        np.testing.assert_allclose(np.sum((c @ g) ** 2), lagrange(g), atol=1e-12)
        np.testing.assert_allclose(np.sum((c @ g) ** 2), by_slsqp(g), atol=1e-6)


def test_min_norm_of_two_by_the_formula():
    np.testing.assert_allclose(mo.min_norm([[1.0, 0], [0, 2]]), [0.8, 0.2])
    np.testing.assert_allclose(mo.min_norm([[1.0, 0], [3, 0]]), [1, 0])
    np.testing.assert_allclose(mo.min_norm([[1.0, 1], [1, 1]]), [0.5, 0.5])


RNG = np.random.default_rng(3)
DEGENERATE = {
    "one": np.ones((1, 3)),
    "zero": np.zeros((4, 3)),
    "one is zero": np.concatenate([np.zeros((1, 3)), RNG.normal(size=(3, 3))]),
    "equal": np.ones((5, 3)),
    "collinear": np.outer([1.0, 2, 3, 0.5, 7], [1.0, 2, 3]),
    "both ways": np.outer([1.0, -2, 3, 0.5, 7], [1.0, 2, 3]),
    "threefold": np.repeat(RNG.normal(size=(3, 6)), 3, 0),
    "unlike scales": RNG.normal(size=(5, 4)) * np.array([[1], [1e-8], [1e3], [1e-3], [1]]),
    "tiny": 1e-200 * RNG.normal(size=(5, 4)),
    "huge": 1e200 * RNG.normal(size=(5, 4)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_min_norm_of_degenerate_gradients(name):
    gradients = DEGENERATE[name]
    weights = np.asarray(mo.min_norm(gradients))
    assert weights.min() >= 0 and abs(weights.sum() - 1) < 1e-14
    assert mo.kkt_residual(gradients, weights) < 1e-12
    if name in ("zero", "one", "equal"):
        np.testing.assert_allclose(weights, 1 / len(gradients))
    if name not in ("tiny", "huge"):
        single = mo.min_norm(gradients.astype(np.float32))
        assert single.dtype == jnp.float32 and mo.kkt_residual(gradients, single) < 2e-6


def test_the_certificate_is_not_always_zero():
    g = np.array([[1.0, 0], [0, 2]])
    # At (1, 0): |d|^2 - <g_2, d> = 1, over the largest squared norm 4.
    np.testing.assert_allclose(mo.kkt_residual(g, [1.0, 0]), 0.25)
    assert mo.kkt_residual(g, [0.8, 0.1]) > 0.09 and mo.kkt_residual(g, [1.1, -0.1]) > 0.09


def test_min_norm_under_jit_vmap_and_grad():
    gradients = np.random.default_rng(4).normal(size=(3, 2, 4, 5))
    weights = mo.min_norm(gradients)
    np.testing.assert_allclose(jax.jit(mo.min_norm)(gradients), weights, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(mo.min_norm)(gradients), weights, atol=1e-12)
    slope = jax.grad(lambda g: (mo.min_norm(g) @ jnp.ones((4,))).sum())(jnp.asarray(gradients[0]))
    assert (slope == 0).all()


# --- combiners --------------------------------------------------------------------------------------------------------


def tree(seed=5, m=3):
    rng = np.random.default_rng(seed)
    leaves = {"a": rng.normal(size=(m, 2, 3)), "b": [rng.normal(size=(m, 4)), rng.normal(size=(m,))]}
    flat = np.concatenate([leaves["a"].reshape((m, -1)), leaves["b"][0], leaves["b"][1][:, None]], -1)
    return jax.tree.map(jnp.asarray, leaves), flat


COMBINERS = {
    "linear": lambda g: mo.linear(g, [0.2, 0.3, 0.5]),
    "mgda": mo.mgda,
    "chebyshev": lambda g: mo.chebyshev(g, [1.0, 2.0, 0.5], [2.0, 2.0, 2.0]),
    "pcgrad": mo.pcgrad,
    "cagrad": mo.cagrad,
}


@pytest.mark.parametrize("name", COMBINERS)
def test_a_pytree_is_its_flat_vector(name):
    leaves, flat = tree()
    direction, weights = COMBINERS[name](leaves)
    table, same = COMBINERS[name](jnp.asarray(flat))
    np.testing.assert_allclose(weights, same, atol=1e-10)
    np.testing.assert_allclose(table, flat.T @ np.asarray(weights), atol=1e-12)
    assert direction["a"].shape == (2, 3) and direction["b"][1].shape == ()
    together = np.concatenate([np.ravel(x) for x in jax.tree.leaves(direction)])
    np.testing.assert_allclose(together, table, atol=1e-10)
    np.testing.assert_allclose(mo.gram_matrix(leaves), flat @ flat.T, atol=1e-12)
    jitted = jax.jit(COMBINERS[name])(leaves)
    np.testing.assert_allclose(jitted.weights, weights, atol=1e-10)


@pytest.mark.parametrize("name", COMBINERS)
def test_single_precision_gradients_stay_so(name):
    leaves, flat = tree()
    single = COMBINERS[name](jax.tree.map(lambda x: x.astype(jnp.float32), leaves))
    assert {x.dtype for x in jax.tree.leaves(single.direction)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(single.weights, COMBINERS[name](jnp.asarray(flat)).weights, atol=1e-4)


def test_mgda_ascends_every_objective():
    _, flat = tree(m=4)
    direction, _ = mo.mgda(jnp.asarray(flat))
    np.testing.assert_allclose(np.sum(np.asarray(direction) ** 2), lagrange(flat), rtol=1e-10)
    assert (flat @ np.asarray(direction) >= np.sum(np.asarray(direction) ** 2) - 1e-12).all()
    np.testing.assert_allclose(mo.stationarity(jnp.asarray(flat)), np.sqrt(lagrange(flat)), rtol=1e-10)
    opposite = jnp.asarray([[1.0, 2.0], [-2.0, -4.0]])
    assert mo.stationarity(opposite) < 1e-12


def test_pcgrad_as_printed():
    rng = np.random.default_rng(6)
    for m in (2, 4):
        g = rng.normal(size=(m, 5))
        total = np.zeros(5)
        for i in range(m):
            own = g[i].copy()
            for j in range(m):
                if j != i and own @ g[j] < 0:
                    own -= own @ g[j] / (g[j] @ g[j]) * g[j]
            total += own
        np.testing.assert_allclose(mo.pcgrad(jnp.asarray(g)).direction, total, atol=1e-12)
    # A random order of the others: another direction for some key, the same for two objectives.
    keys = jax.random.split(jax.random.key(0), 20)
    several = np.stack([mo.pcgrad(jnp.asarray(g), key).direction for key in keys])
    assert np.ptp(several, axis=0).max() > 1e-3
    np.testing.assert_allclose(mo.pcgrad(jnp.asarray(g[:2]), keys[0]).direction, mo.pcgrad(g[:2]).direction, atol=1e-12)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("m", [2, 3])
def test_cagrad_is_the_best_in_its_ball(c, m):
    # The primal: max_d min_i <g_i, d> over |d - g_0| <= c |g_0|. Weak duality certifies the answer.
    rng = np.random.default_rng([int(10 * c), m])
    for g in rng.normal(size=(4, m, 6)):
        mean = g.mean(0)
        radius = c * np.linalg.norm(mean)
        d = np.asarray(mo.cagrad(jnp.asarray(g), c).direction)
        assert np.linalg.norm(d - mean) <= radius * (1 + 1e-9) + 1e-12
        reached = (g @ d).min()
        if m == 2:
            dual = minimize_scalar(
                lambda w, g=g, mean=mean, radius=radius: (w * g[0] + (1 - w) * g[1]) @ mean
                + radius * np.linalg.norm(w * g[0] + (1 - w) * g[1]),
                bounds=(0, 1), method="bounded", options={"xatol": 1e-12},
            ).fun  # fmt: skip
            np.testing.assert_allclose(reached, dual, atol=1e-7)
        for _ in range(300):
            rival = rng.normal(size=6)
            assert (g @ (mean + radius * rival / np.linalg.norm(rival))).min() <= reached + 1e-9


def test_chebyshev_follows_the_worst():
    g = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(mo.chebyshev(g, [1.0, 0.0], [2.0, 2.0]).direction, [0, 0.5])
    np.testing.assert_allclose(mo.chebyshev(g, [1.0, 0.0], [2.0, 2.0], [0.9, 0.1]).direction, [0.9, 0])
    np.testing.assert_allclose(mo.chebyshev(g, [1.0, 1.0], [2.0, 2.0]).direction, [0.25, 0.25])


def test_identical_objectives_leave_no_choice():
    one = np.random.default_rng(7).normal(size=5)
    same = jnp.asarray(np.tile(one, (3, 1)))
    for combined, factor in (
        (mo.linear(same), 1),
        (mo.mgda(same), 1),
        (mo.pcgrad(same), 3),
        (mo.cagrad(same, 0.5), 1.5),  # the ball's edge, along the gradient
    ):
        np.testing.assert_allclose(combined.direction, factor * one, rtol=1e-9)


# --- fronts and their measures ----------------------------------------------------------------------------------------


def random_problem(seed, a=6, m=2):
    rng = np.random.default_rng(seed)
    return aj.Problem(ref_logp=log_softmax(rng.normal(size=a)), rewards=rng.normal(size=(a, m)))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_front_maximises_every_weighted_sum(m):
    problem, beta = random_problem(8, m=m), 0.4
    front = mo.pareto_front(problem, beta, 7)
    assert front.points.shape == (7, m) and front.logp.shape == (7, 6)
    rewards, ref = np.asarray(problem.rewards), np.asarray(problem.ref_logp)

    def reached(logits):
        p = softmax(logits)
        return p @ rewards - beta * (p @ (np.log(p) - ref))

    for point, logp, w in zip(front.points, front.logp, front.weights, strict=True):
        np.testing.assert_allclose(point, reached(np.asarray(logp)), atol=1e-12)
        best = minimize(lambda x, w=w: -w @ reached(x), np.zeros(6), method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose(w @ point, -best.fun, atol=1e-9)
    assert mo.nondominated(front.points).all()


def test_weights_cover_the_simplex():
    for m in (2, 3, 4):
        w = mo.simplex_weights(400, m)
        assert w.shape == (400, m) and w.min() >= 0
        np.testing.assert_allclose(w.sum(-1), 1)
        np.testing.assert_allclose(w.mean(0), 1 / m, atol=0.02)
        # Uniform on the simplex: E w_1^2 = 2 / (m (m + 1)).
        np.testing.assert_allclose((w**2).mean(), 2 / (m * (m + 1)), rtol=0.05)
        assert (np.linalg.norm(w[:, None] - np.eye(m), axis=-1).min(0) == 0).all()
    np.testing.assert_allclose(mo.simplex_weights(3, 2), [[1, 0], [0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(mo.simplex_weights(1, 3), np.full((1, 3), 1 / 3))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_gap_is_zero_on_the_front_and_a_divergence_elsewhere(m):
    problem, beta = random_problem(9, m=m), 0.4
    front = mo.pareto_front(problem, beta, 300)
    assert np.abs(jax.vmap(lambda logp: mo.front_gap(problem, logp, beta))(front.logp[:40])).max() < (
        1e-12 if m < 3 else 1e-3
    )
    other = jnp.asarray(log_softmax(np.random.default_rng(10).normal(size=6)))
    divergence = beta * aj.kl(other, front.logp).min()  # over 300 weights
    gap = mo.front_gap(problem, other, beta)
    assert 0 < gap <= divergence + 1e-3 and divergence <= gap * (1 + (2e-3 if m < 3 else 0.1))


def by_inclusion_exclusion(points, reference):
    """Volume of a union of boxes."""
    total, sides = 0.0, np.maximum(np.asarray(points) - reference, 0)
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(range(len(points)), size):
            total += (-1) ** (size + 1) * np.prod(sides[list(chosen)].min(0))
    return total


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_hypervolume_against_inclusion_and_exclusion(m):
    rng = np.random.default_rng(m)
    for _ in range(5):
        points = rng.normal(size=(7, m)).round(1)  # with ties, and points below the reference
        reference = np.full(m, -0.5)
        np.testing.assert_allclose(
            mo.hypervolume(points, reference), by_inclusion_exclusion(points, reference), atol=1e-12
        )


def test_hypervolume_by_hand_and_by_monte_carlo():
    assert mo.hypervolume([[1, 2], [2, 1]], [0, 0]) == 3
    assert mo.hypervolume([[1, 2], [2, 1], [2, 1], [0.5, 0.5]], [0, 0]) == 3
    assert mo.hypervolume([[1, 2], [5, 0], [-1, 9]], [0, 0]) == 2  # on or below the reference: nothing
    assert mo.hypervolume(np.zeros((0, 3)), [0, 0, 0]) == 0
    rng = np.random.default_rng(11)
    points = rng.uniform(size=(60, 4))
    inside = np.mean([(u <= points).all(-1).any() for u in rng.uniform(size=(20_000, 4))])
    np.testing.assert_allclose(mo.hypervolume(points, np.zeros(4)), inside, atol=0.015)


def test_dominance():
    assert mo.dominates([1.0, 2.0], [1.0, 1.0]) and not mo.dominates([1.0, 1.0], [1.0, 1.0])
    assert not mo.dominates([2.0, 0.0], [1.0, 1.0])
    points = np.array([[1.0, 1.0], [1, 1], [0, 2], [0, 1], [2, -1], [2, -2]])
    np.testing.assert_array_equal(mo.nondominated(points), [True, True, True, False, True, False])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mo.pama(np.zeros((3, 0))), "at least one objective"),
        (lambda: mo.pama([1.0, np.nan]), "advantages holds nan"),
        (lambda: mo.pama(1.0), "must end in the axes"),
        (lambda: mo.noon([np.nan]), "advantages holds nan"),
        (lambda: mo.pama_batch([1.0, 2.0]), r"axes \[K, M\]"),
        (lambda: mo.pama_batch(np.zeros((2, 2)), reading="mean"), "unknown reading"),
        (lambda: mo.min_norm(np.zeros((0, 3))), "at least one objective"),
        (lambda: mo.min_norm(np.zeros(3)), r"axes \[M, D\]"),
        (lambda: mo.min_norm([[np.inf, 1.0]]), "gradients holds inf"),
        (lambda: mo.kkt_residual(np.zeros((2, 3)), [1.0]), "last axis of weights"),
        (lambda: mo.gram_matrix({}), "first axis"),
        (lambda: mo.gram_matrix({"a": np.zeros((2, 3)), "b": np.zeros((3, 3))}), "same M objectives"),
        (lambda: mo.mgda({"a": np.zeros((0, 3))}), "at least one objective"),
        (lambda: mo.mgda({"a": np.full((2, 3), np.nan)}), "gradients holds nan"),
        (lambda: mo.linear(np.ones((2, 3)), [0.5, 0.6]), "add up to 1"),
        (lambda: mo.linear(np.ones((2, 3)), [1.0]), "one entry per objective"),
        (lambda: mo.cagrad(np.ones((2, 3)), 1.0), "c must lie in"),
        (lambda: mo.chebyshev(np.ones((2, 3)), [1.0], [1.0, 1.0]), "one entry per objective"),
        (lambda: mo.hypervolume([[1.0, 2.0]], [0.0]), "as reference_point has it"),
        (lambda: mo.hypervolume([[np.nan, 2.0]], [0.0, 0.0]), "points holds nan"),
        (lambda: mo.nondominated([1.0]), "must end in the axes"),
        (lambda: mo.pareto_front(aj.Problem(ref_logp=[0.0]), 1.0, 3), "needs `rewards`"),
        (lambda: mo.pareto_front(random_problem(0), 0.0, 3), "beta must be"),
        (lambda: mo.pareto_front(random_problem(0), 1.0, 0), "num must be"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
