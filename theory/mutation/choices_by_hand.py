"""Best-of-N, multipliers, extragradient steps and social choice, held to integrals, roots and enumeration."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from alignjax import best_of, constrained
from alignjax.extragradient import evaluation_params, extragradient
from alignjax.games import PreferenceGame, social_choice, solvers
from theory import definitions, instances
from theory.slack import at_most, both, equal

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_U = 0.5 * (_NODES + 1)


def _mean(values: Array) -> Array:
    """The integral over a uniform quantile."""
    return jnp.sum(0.5 * _WEIGHTS * values)


def best_of_n_without_atoms(key: Array) -> Array:
    """Divergences and win-rate are integrals over the quantile u, whose density is N u^{N-1} for the best of N."""
    n = 1.5 + 4 * jax.random.uniform(key)
    density = n * _U ** (n - 1)
    grown = jnp.ones(())
    for _ in range(3):
        grown = grown * (1 + 0.3 * (n - 1))
    step = jax.grad(lambda m: best_of.best_of_n_kl(m) + best_of.best_of_n_forward_kl(m))(n)
    return both(
        equal(best_of.best_of_n_kl(n), _mean(density * jnp.log(density)), tolerance=1e-5),
        equal(best_of.best_of_n_forward_kl(n), -_mean(jnp.log(density)), tolerance=1e-3),
        equal(best_of.best_of_n_win_rate(n), _mean(density * _U), tolerance=1e-6),
        equal(jax.grad(best_of.best_of_n_win_rate)(n), 1 / (n + 1) ** 2),
        equal(jax.grad(best_of.best_of_n_kl)(n), 1 / n - 1 / n**2),
        equal(step, 1 - 1 / n**2),
        equal(best_of.effective_n(3, 0.7, n), grown),
        equal(jax.grad(lambda m: best_of.effective_n(1, 0.7, m))(n), 0.3),
    )


def best_of_n_of_tables(key: Array) -> Array:
    """Best and worst of N with ties, by masses; a tie broken by order is a reward that is a little less."""
    keys = jax.random.split(key, 3)
    logp, n = instances.smooth_law(keys[0], 5), 1 + 3 * jax.random.uniform(keys[1])
    logp = jnp.append(logp, -jnp.inf)
    reward = jnp.round(jax.random.normal(keys[2], (6,)))
    broken = reward - 1e-3 * jnp.arange(6)

    def exact(reward: Array) -> Array:
        p = jnp.exp(logp)
        worse, as_good = ((p * (x < reward[:, None])).sum(-1) for x in (reward, reward - 1e-9))
        equals = as_good - worse
        return jnp.where(p > 0, p * (as_good**n - worse**n) / jnp.where(equals > 0, equals, 1.0), 0.0)

    def rewarded(reward: Array, ties: str) -> Array:
        found = best_of.bond_reward(logp[:5], reward[:5], n + 1, ties=ties)
        ratio = best_of.best_of_n(logp[:5], reward[:5], n + 1, ties=ties) - logp[:5]
        return equal(n * found, ratio)

    slacks = [rewarded(reward, "sample"), rewarded(reward, "order")]
    for ties, one in (("sample", reward), ("order", broken)):
        for worst in (False, True):
            found = jnp.exp(best_of.best_of_n(logp, reward, n, ties=ties, worst=worst))
            slacks.append(equal(found, exact(-one if worst else one)))
        at = best_of.quantiles(logp, reward, ties=ties)
        p = jnp.exp(logp)[:5]
        cumulated = (jnp.exp(logp) * (one <= one[:5, None])).sum(-1)
        same = (jnp.exp(logp) * (one == one[:5, None])).sum(-1)
        slacks += [equal(jnp.exp(at.at_most[:5]), cumulated), equal(jnp.exp(at.equal[:5]), same)]
        slacks += [equal(jnp.exp(at.below[:5]), cumulated - same), at_most(0.0, p.min())]
    # The mass moves as the formula does.
    direction = jnp.sin(1.0 + jnp.arange(5.0))

    def moved(t: Array, by_hand: bool) -> Array:
        law = definitions.softmax_of(logp[:5] + t * direction)
        if not by_hand:
            return jnp.exp(best_of.best_of_n(law, reward[:5], n))
        p, r = jnp.exp(law), reward[:5]
        worse, as_good = (p * (r < r[:, None])).sum(-1), (p * (r <= r[:, None])).sum(-1)
        return p * (as_good**n - jnp.where(worse > 1e-12, worse, 1e-300) ** n) / (as_good - worse)

    slopes = [jax.jvp(lambda t, w=w: moved(t, w), (jnp.zeros(()),), (jnp.ones(()),))[1] for w in (False, True)]
    return both(*slacks, equal(slopes[0], slopes[1], tolerance=1e-7))


def estimated_quantiles(key: Array) -> Array:
    """Shares of samples, floored at half a sample or with one added; the cross-entropy of a coin and its slope."""
    logit = jax.random.normal(key)
    sampled, reward = jnp.array([0.0, 1.0, 1.0, 3.0]), jnp.array([-1.0, 1.0, 2.0, 3.0])
    estimate = best_of.quantile_estimate
    cross = best_of.quantile_cross_entropy
    win = jnp.log1p(jnp.exp(-logit))
    return both(
        equal(estimate(reward, sampled), jnp.log(jnp.array([1 / 8, 3 / 4, 3 / 4, 1.0]))),
        equal(estimate(reward, sampled, strict=True), jnp.log(jnp.array([1 / 8, 1 / 4, 3 / 4, 3 / 4]))),
        equal(estimate(reward, sampled, rule="add_one"), jnp.log(jnp.array([1.0, 4.0, 4.0, 5.0]) / 5)),
        equal(estimate(reward, sampled, rule="add_one", strict=True), jnp.log(jnp.array([1.0, 2.0, 4.0, 4.0]) / 5)),
        *(equal(cross(logit, 1.0, rival), win) for rival in (0.0, 1.0)),
        equal(cross(logit, 1.0, 2.0), win + logit),
        equal(jax.grad(cross)(logit, 1.0, 0.0), definitions.sigmoid(logit) - 1),
        equal(jax.grad(cross)(logit, 1.0, 2.0), definitions.sigmoid(logit)),
    )


def roots_of_omega(key: Array) -> Array:
    """omega solves w + log w = z with the slope w / (1 + w); omega_below log w - w = z with w <= 1."""
    keys = jax.random.split(key, 2)
    z = jnp.append(10 * jax.random.normal(keys[0], (6,)), jnp.array([1.0, -40.0, 60.0]))
    w = constrained.omega(z)
    below = jnp.append(-1.0 - 5 * jax.random.uniform(keys[1], (5,)), jnp.array([-1.0, -1.0 - 1e-6, -3.0, -40.0]))
    v = constrained.omega_below(below)
    return both(
        equal(w + jnp.log(w), z),
        equal(jax.vmap(jax.grad(constrained.omega))(z), w / (1 + w), tolerance=1e-8),
        equal(jnp.log(v) - v, below),
        at_most(v, 1.0),
    )


def roots_move(key: Array) -> Array:
    """A root moves as the implicit function theorem says; where f is flat it stays."""
    c = 0.5 + jnp.exp(10 * jax.random.normal(key, (3,)))
    cube = lambda c, start: constrained.implicit(lambda x: x**3 - c, start)
    root, slope = jax.vmap(jax.value_and_grad(cube))(c, jnp.cbrt(c))
    flat = jax.value_and_grad(lambda c: constrained.implicit(lambda x: 0.0 * x + c, jnp.ones(())))(0.0)
    return both(
        equal(root, jnp.cbrt(c)), equal(3 * root**2 * slope, 1.0), equal(jnp.stack(flat), jnp.array([1.0, 0.0]))
    )


def roots_of_multipliers(key: Array) -> Array:
    """A regression on targets that no policy has is stationary; on the law's own, less a constant, it is the law,
    unless they are more than one nat below it.
    """
    keys = jax.random.split(key, 2)
    law, slacks = instances.smooth_law(keys[0], 4), []
    for shift in (0.4, -0.02):
        target = instances.smooth_law(keys[1], 4) + shift
        logp = constrained.log_regression(jnp.append(target, -jnp.inf), jnp.append(law, -jnp.inf))
        pull = jnp.exp(law) * (logp[:4] - target) / jnp.exp(logp[:4])
        slacks += [equal(pull, pull.mean(), tolerance=1e-7), equal(jnp.exp(logp).sum(), 1.0)]
    down = [constrained.log_regression(law - less, law) for less in (0.9, 1.1)]
    return both(*slacks, equal(down[0], law, tolerance=1e-7), equal(jnp.isnan(down[1]), 1.0))


def half_steps_are_undone(key: Array) -> Array:
    """Gradient descent with momentum: the odd updates look ahead, the even ones start again from where they began."""
    start, *gradients = jax.random.normal(key, (5, 3))
    rate, momentum = 0.1, 0.9
    optimiser = extragradient(optax.sgd(rate, momentum=momentum))
    state, params, slacks = optimiser.init(start), start, []
    speed, origin = jnp.zeros(3), start
    for pair in (gradients[:2], gradients[2:]):
        ahead = [origin - rate * (momentum * speed + g) for g in pair]
        for g, expected, here in zip(pair, ahead, (1.0, 0.0), strict=True):
            at, slope = jax.jvp(lambda x, state=state: evaluation_params(state, x), (params,), (jnp.ones(3),))
            slacks += [equal(at, origin), equal(slope, here)]
            updates, state = optimiser.update(g, state, params)
            params = params + updates
            slacks.append(equal(params, expected))
        speed, origin = momentum * speed + pair[1], ahead[1]
    return both(*slacks)


def majorities_by_enumeration(key: Array) -> Array:
    """Borda, Copeland, Condorcet, Smith and the three-cycles of five responses, by going through subsets and triples;
    ties, and a margin below which a win is a tie.
    """
    table = jnp.round(8 * instances.preference(key)) / 8
    table = jnp.where(jnp.eye(5, dtype=bool), 0.5, jnp.triu(table, 1) + jnp.tril(1 - jnp.triu(table, 1).T, -1))
    slacks = [equal(social_choice.borda(table), (table.sum(-1) - 0.5) / 4)]
    slacks.append(equal(jax.grad(lambda p: social_choice.borda(p)[0])(table)[0], 0.25))
    slacks.append(equal(social_choice.borda(jnp.full((1, 1), 0.5)), 0.5))
    for margin in (None, 0.2):
        beats = table > 0.5 + (margin or 0.0)
        ties = (~beats & ~beats.T).sum(-1) - 1
        slacks.append(equal(social_choice.copeland(table, margin=margin), beats.sum(-1) + ties / 2))
        wins = [jnp.all(beats[i] | (jnp.arange(5) == i)) for i in range(5)]
        winner = jnp.select(wins, list(range(5)), -1)
        slacks.append(equal(social_choice.condorcet_winner(table, margin=margin), winner))
        smith = jnp.ones(5, bool)
        for size in (4, 3, 2, 1):
            for inside in itertools.combinations(range(5), size):
                outside = [j for j in range(5) if j not in inside]
                closed = jnp.all(jnp.stack([beats[i, j] for i in inside for j in outside]))
                smith = jnp.where(closed, jnp.isin(jnp.arange(5), jnp.array(inside)), smith)
        slacks.append(equal(social_choice.smith_set(table, margin=margin), smith))
        cycles = sum(
            (beats[i, j] & beats[j, k] & beats[k, i]).astype(int)
            for a, b, c in itertools.combinations(range(5), 3)
            for i, j, k in ((a, b, c), (a, c, b))
        )
        slacks.append(equal(social_choice.three_cycles(table, margin=margin), cycles))
    return both(*slacks)


def cycles_of_known_games(key: Array) -> Array:
    """The widest of two three-cycles, a cycle of four among ties, and no cycle."""
    noise = jax.random.uniform(key)  # one number of an instance, so that it is one

    def table(size: int, wins: dict[tuple[int, int], float]) -> np.ndarray:
        found = np.full((size, size), 0.5)
        for (i, j), p in wins.items():
            found[i, j], found[j, i] = p, 1 - p
        return found

    two = table(4, {(0, 1): 0.6, (1, 2): 0.6, (2, 0): 0.6, (1, 3): 0.9, (3, 0): 0.9, (2, 3): 0.55})
    wide = table(4, {(0, 1): 0.9, (1, 2): 0.6, (2, 0): 0.6, (1, 3): 0.9, (3, 0): 0.9, (2, 3): 0.55})
    four = table(5, {(0, 1): 0.6, (1, 2): 0.7, (2, 3): 0.8, (3, 0): 0.9, (4, 0): 0.9})
    known: list[tuple[Any, set[tuple[int, ...]], float | None]] = [
        (two, {(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 1, 3), (1, 3, 0), (3, 0, 1)}, None),
        (wide, {(0, 1, 3), (1, 3, 0), (3, 0, 1)}, None),
        (four, {(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)}, None),
        (four, {()}, 0.15),
        (table(3, {(0, 1): 0.7, (1, 2): 0.7, (0, 2): 0.7}), {()}, None),
    ]
    right = [tuple(social_choice.majority_cycle(one, margin=margin)) in allowed for one, allowed, margin in known]
    return equal(noise + jnp.array(right, float), noise + 1.0)


def oracles_of_solve(key: Array) -> Array:
    """The exact oracle, the one with the games last, and the sampled one: a certain policy draws itself, any other a
    mean of columns that is right on average.
    """
    keys = jax.random.split(key, 4)
    tables = jnp.stack([instances.preference(k, 3) for k in keys[:2]])
    logits = jax.random.normal(keys[2], (2, 3))
    game = PreferenceGame(preference=tables[0], ref_logp=jnp.log(jnp.full(3, 1 / 3)), tau=0.5)
    exact = jnp.stack(
        [definitions.win_rate(p, jax.nn.log_softmax(x)) - 0.5 for p, x in zip(tables, logits, strict=True)]
    )
    last = solvers._unrolled(jnp.moveaxis(tables - 0.5, 0, -1))
    turn = jnp.cos(jnp.arange(3.0))
    slopes = [
        jax.grad(lambda x, f=f: f(x) @ turn)(logits[0])
        for f in (solvers._exact(game), lambda x: last(jnp.stack([x, logits[1]], -1))[:, 0])
    ]
    slope = jax.grad(lambda x: (tables[0] @ jax.nn.softmax(x)) @ turn)(logits[0])
    certain = jnp.array([0.0, 900.0, 0.0])
    one = jax.vmap(lambda k: solvers._sampled(game, k, 1)(logits[0]))(jax.random.split(keys[3], 2_000))
    off = jnp.abs(one[:, None, :] - (tables[0] - 0.5).T[None]).max(-1).min(-1)
    twice = solvers._sampled(game, keys[3], 400)
    calls = jnp.stack([twice(logits[0]), twice(logits[0])])
    return both(
        equal(solvers._exact(game)(logits[0]), exact[0]),
        equal(last(logits.T).T, exact),
        *(equal(found, slope) for found in slopes),
        equal(solvers._sampled(game, keys[3], 7)(certain), tables[0][:, 1] - 0.5),
        equal(off, 0.0),
        equal(one.mean(0), exact[0], tolerance=0.06),
        equal(calls, exact[0], tolerance=0.15),
        at_most(1e-12, jnp.abs(jnp.diff(one[:50], axis=0)).max() + (jnp.abs(tables[0] - 0.5).max() < 0.1), tolerance=0),
        equal(solvers.policy_of(logits), logits),
    )


BY_HAND: tuple[tuple[str, str, Any], ...] = (
    ("best-of-atoms", "best-of-N without atoms is an integral", best_of_n_without_atoms),
    ("best-of-ties", "best and worst of N, ties and all", best_of_n_of_tables),
    ("quantiles", "estimates of a quantile", estimated_quantiles),
    ("omega", "omega and its lower branch solve their equations", roots_of_omega),
    ("implicit", "roots move by the implicit function theorem", roots_move),
    ("roots", "multipliers solve their equations", roots_of_multipliers),
    ("extragradient", "half steps are undone", half_steps_are_undone),
    ("majorities", "social choice by enumeration", majorities_by_enumeration),
    ("cycles", "cycles of known games", cycles_of_known_games),
    ("oracles", "the oracles of solve", oracles_of_solve),
)
"""(name, what it says, slack of a key)."""
