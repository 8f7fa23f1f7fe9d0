"""Runs behind the BOND page about moving anchors and J-BOND. Each is cached on its settings."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import Problem, best_of_n, fit, kl, methods, population_grad
from alignjax.best_of import quantiles
from alignjax.objectives.bond import jbond
from papers.bond_training import bandits, family, measures, seeds
from papers.nash_md_experiments import normalised
from papers.record import Settings

Runs = dict[str, np.ndarray]

RATES = np.asarray([0.02, 0.05, 0.1, 1.0])
"""The paper's eta, 1 - ema; 1 is the hard update."""
STEPS = np.asarray([200, 81, 42, 5])
"""How far each anchor is followed: an effective N of about 50, and 32."""


@functools.cache
def perfect(settings: Settings) -> Runs:
    """Anchors averaged on logits with their own best-of-2, bandits of 1,000 responses: perfect distillation each step.

    `cost` and `log_quantile` `[steps + 1, rates, seeds]`: KL(anchor || ref) and E log p_<= under the reference. A hard
    update every P steps is the row of eta = 1 with P steps between its entries.
    """
    rng = np.random.default_rng([settings.seed, 321])
    shape = (settings.size(6, 3), 1000)
    # Masses that differ, but none so large that two samples tie often at an effective N of 50.
    ref, reward = jnp.asarray(normalised(0.3 * rng.normal(size=shape))), rng.normal(size=shape)
    at_most = quantiles(ref, reward).at_most

    def step(anchor: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        moved = (1 - rates) * anchor + rates * best_of_n(anchor, reward, 2.0)
        logp = jax.nn.log_softmax(moved)
        return logp, (kl(logp, ref), (jnp.exp(logp) * at_most).sum(-1))

    rates = jnp.asarray(RATES)[:, None, None]
    start = jnp.broadcast_to(ref, (len(RATES), *ref.shape))
    run = jax.jit(lambda start: jax.lax.scan(step, start, None, length=int(STEPS.max()))[1])
    cost, log_quantile = (np.asarray(x) for x in run(start))
    first = np.zeros_like(cost[:1]), np.broadcast_to((np.exp(ref) * at_most).sum(-1), log_quantile[:1].shape)
    return {"cost": np.concatenate([first[0], cost]), "log_quantile": np.concatenate([first[1], log_quantile])}


ANCHORS = (("EMA, η = 0.02", 0.02, 1), ("hard, every 50 steps", 1.0, 50), ("hard, every 35 steps", 1.0, 35))
"""(name, eta, steps between two moves)."""


TRAINING_RATES = (0.5, 2.0, 8.0)


@functools.cache
def trained(settings: Settings, rate: float) -> Runs:
    """BOND with n = 2 and w = 1/2, 400 exact steps towards Bo_2(anchor), bandits of 30 responses.

    `cost`, `log_quantile` of the policy `[steps, anchors, seeds]`; `frontier`: log-quantile of the exact best-of-N of
    the same KL.
    """
    problem = bandits(settings, seeds(settings), 30, 0)
    ref, reward = problem.ref_logp, problem.reward
    assert reward is not None

    def one(eta: Array, every: Array) -> Any:
        def step(carry: tuple[Array, Array], count: Array) -> tuple[tuple[Array, Array], Any]:
            logits, anchor = carry
            target = best_of_n(jax.nn.log_softmax(anchor), reward, 2.0)

            def loss(x: Array) -> Array:
                logp = jax.nn.log_softmax(x)
                return 0.5 * (kl(target, logp) + kl(logp, target)).sum()

            logits = logits - rate * jax.grad(loss)(logits)
            due = (count + 1) % every == 0
            anchor = jnp.where(due, (1 - eta) * anchor + eta * logits, anchor)
            found = measures(problem, jax.nn.log_softmax(logits), 2.0)
            return (logits, anchor), (found[3], found[2], jax.nn.log_softmax(anchor))

        return jax.lax.scan(step, (ref, ref), jnp.arange(400))[1]

    etas, every = jnp.asarray([eta for _, eta, _ in ANCHORS]), jnp.asarray([steps for _, _, steps in ANCHORS])
    cost, log_quantile, anchor = (np.moveaxis(np.asarray(x), 0, 1) for x in jax.jit(jax.vmap(one))(etas, every))
    known = family(problem, np.geomspace(1.0, 1e4, 300))
    frontier = np.stack([np.interp(cost[..., s], known[0][:, s], known[1][:, s]) for s in range(cost.shape[-1])], -1)
    return {"cost": cost, "log_quantile": log_quantile, "frontier": frontier, "anchor": anchor[-1]}


# --- J-BOND

GAMMAS = np.asarray([0.0, 0.5, 1.0, 2.0])
BLOCK = 10


def _printed(
    logp: Array, anchor_logp: Array, reward: Array, value: Array | None = None, *, weight: Any = 0.5, gamma: Any = 0.0
) -> Array:
    """J-BOND with the minus that the paper prints before G_Reg, in a sum of gradients that are descended."""
    return jbond(logp, anchor_logp, reward, value, weight=weight, gamma=-gamma)


SIGNS = (methods["jbond"], dataclasses.replace(methods["jbond"], loss=_printed, name="jbond_printed"))


@functools.cache
def signs(settings: Settings) -> Runs:
    """Exact J-BOND on bandits of 6 responses, eta = 0.02, rate 0.2, 300 steps: `apart` `[points, signs, gammas, seeds]`

    is KL(pi || anchor) every 10 steps, `cost` KL(pi || ref); signs: the right one, the printed one.
    """
    problem = bandits(settings, seeds(settings), 6, 6)
    out = []
    for method in SIGNS:

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, 0, 0))
        def advance(gamma: Array, logp: Array, anchor: Array, method: Any = method) -> tuple[Array, Array]:
            here = dataclasses.replace(problem, anchor_logp=anchor)
            run = fit(
                method, here, num_steps=BLOCK, learning_rate=0.2, init_logp=logp, gamma=gamma, weight=0.5, ema=0.98
            )
            assert run.anchor_logp is not None
            return run.logp, run.anchor_logp

        logp = anchor = jnp.broadcast_to(problem.ref_logp, (len(GAMMAS), *problem.ref_logp.shape))
        rows = []
        for _ in range(300 // BLOCK):
            logp, anchor = advance(jnp.asarray(GAMMAS), logp, anchor)
            rows.append([np.asarray(kl(logp, anchor)), np.asarray(kl(logp, problem.ref_logp))])
        out.append(rows)
    found = np.asarray(out)  # [signs, points, 2, gammas, seeds]
    found = np.concatenate([np.zeros_like(found[:, :1]), found], 1)
    return {
        "apart": np.moveaxis(found[:, :, 0], 0, 1),
        "cost": np.moveaxis(found[:, :, 1], 0, 1),
        "step": BLOCK * np.arange(found.shape[1]),
    }


@functools.cache
def gradient_signs(settings: Settings) -> Runs:
    """Cosines `[2, seeds]` of the gamma term of both signs' expected gradient with autodiff of KL(pi || anchor)."""
    problem = bandits(settings, seeds(settings), 6, 6)
    rng = np.random.default_rng([settings.seed, 320])
    shape = np.shape(problem.ref_logp)
    anchor = jnp.asarray(normalised(rng.normal(size=shape)))
    here = dataclasses.replace(problem, anchor_logp=anchor)
    logits = rng.normal(size=shape)
    wanted = jax.grad(lambda x: kl(jax.nn.log_softmax(x), anchor).sum())(jnp.asarray(logits))
    out = []
    for method in SIGNS:
        with_it, without = (population_grad(method, here, logits, gamma=gamma) for gamma in (1.0, 0.0))
        term = np.asarray(with_it - without)
        out.append((term * wanted).sum(-1) / np.linalg.norm(term, axis=-1) / np.linalg.norm(wanted, axis=-1))
    return {"cosine": np.asarray(out)}


@functools.cache
def calibration(settings: Settings) -> Runs:
    """E r_J at p_<= = 1/60, ..., 1, read off J-BOND's expected gradient on 60 responses of equal mass.

    At pi = anchor and w = 1 that gradient is -pi (E r_J - mean), and E r_J = 0 for the best response.
    """
    size = 60
    ref = jnp.full(size, -jnp.log(size))
    problem = Problem(ref_logp=ref, anchor_logp=ref, reward=jnp.arange(size, dtype=float))
    gradient = np.asarray(population_grad("jbond", problem, ref, weight=1.0, gamma=0.0))
    reward = -gradient * size
    return {"p": np.arange(1, size + 1) / size, "reward": reward - reward[-1]}


@functools.cache
def conservative(settings: Settings) -> Runs:
    """KL(argmin of J-BOND || Bo2) and E log p_<= of both, anchor fixed, 50 bandits of 20 responses, w = 0, 1/2, 1."""
    problem = bandits(settings, 50, 20, 7)
    target = np.asarray(best_of_n(problem.ref_logp, problem.reward, 2.0))  # type: ignore[arg-type]
    at_most = np.asarray(quantiles(problem.ref_logp, problem.reward).at_most)  # type: ignore[arg-type]
    out, log_quantile = [], [(np.exp(target) * at_most).sum(-1)]
    for weight in (0.0, 0.5, 1.0):
        logp = np.asarray(methods["jbond"].optimum(problem, weight=weight, gamma=0.0))
        out.append((np.exp(logp) * (logp - target)).sum(-1))
        log_quantile.append((np.exp(logp) * at_most).sum(-1))
    return {"kl": np.asarray(out), "log_quantile": np.asarray(log_quantile)}
