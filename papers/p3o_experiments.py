"""Runs behind the P3O page that train: sixteen prompts with shared features, pairs, and rewards shifted by prompt.

Each is cached on its settings, so that claims and figures share it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from alignjax import gibbs, kl, methods
from alignjax.equations import global_scale, within_prompt_scale
from alignjax.kl_regularised import objective
from alignjax.logspace import log_softmax
from alignjax.sweeps import spread
from papers.record import Settings

Runs = dict[str, np.ndarray]

PROMPTS, ARMS, FEATURES = 16, 20, 12
BETA, PAIRS, INNER, RATE = 0.2, 64, 4, 0.02
SHIFTS = (0.0, 5.0, 20.0)
"""Standard deviation of the constant that is added to all rewards of a prompt; rewards themselves have 1."""
EVERY = 10
"""Rollouts between two looks at the policy."""
CONTENDERS = (
    "P3O, V1", "P3O, global std", "P3O, within std", "P3O, V2", "DPO, soft", "PPO, V = 0", "PPO, running V",
    "PPO, exact V",
)  # fmt: skip
RUNNING = 0.9
"""Weight of the past in the running mean of a prompt's rewards, and in the running variance of all."""


def _losses(logp: Array, old: Array, ref: Array, reward: Array, value: Array) -> Array:
    """The sum over contenders of the records' mean loss on 64 pairs: `[8, 64, 2]` each, `ref` `[64, 2]`."""
    ref = jnp.broadcast_to(ref, logp.shape)
    pairs = lambda name, rows, **hyper: methods[name].loss(
        logp[rows], ref[rows], reward[rows], old[rows], beta=BETA, **hyper
    )
    first = jax.nn.sigmoid(reward[4:5, :, 0] - reward[4:5, :, 1])
    table = jnp.stack([jnp.full_like(first, 0.5), first, 1 - first, jnp.full_like(first, 0.5)], -1)
    soft = methods["dpo"].loss(logp[4:5], ref[4:5], table.reshape((1, -1, 2, 2)), beta=BETA)
    last = slice(5, 8)
    ppo = methods["ppo"].loss(logp[last], ref[last], reward[last], old[last], value, beta=BETA)
    each = (pairs("p3o", slice(0, 3)), pairs("p3o", slice(3, 4), clip="joint"), soft, ppo)
    return sum((x.mean(-1).sum() for x in each), jnp.zeros(()))


@functools.partial(jax.jit, static_argnames="rollouts")
def _trained(key: Array, features: Array, ref: Array, reward: Array, shift: Array, rollouts: int) -> Array:
    """Log-policies `[rollouts / EVERY + 1, contenders, PROMPTS, ARMS]` of one world; updates see shifted rewards.

    One program for all: each contender has its own parameters and draws its own responses, with common random numbers.
    """
    policy = lambda theta: log_softmax(jnp.einsum("pad,cd->cpa", features, theta) + ref)
    adam, slope = optax.adam(RATE), jax.grad(lambda theta, given: _losses(given[0](policy(theta)), *given[1:]))
    shown, number = reward + shift[:, None], len(CONTENDERS)

    def rollout(carry: Any, key: Array) -> tuple[Any, None]:
        theta, state, running, variance = carry
        prompt_key, arm_key = jax.random.split(key)
        old = policy(theta)
        prompt = jax.random.randint(prompt_key, (PAIRS,), 0, PROMPTS)
        draw = lambda table: jax.random.categorical(arm_key, table[prompt][:, None], axis=-1, shape=(PAIRS, 2))
        arms = jax.vmap(draw)(old)
        at = lambda table: jax.vmap(lambda t, a: t[prompt[:, None], a])(table, arms)
        whole = lambda table: jnp.broadcast_to(table, (number, *table.shape))
        seen, regularised = at(whole(shown)), shown - BETA * (old - ref)
        # As shipped: rewards over a running standard deviation, clipped at 10 of them; the KL keeps its weight.
        scale = jnp.stack([global_scale(seen[1]), within_prompt_scale(seen[2])])
        variance = RUNNING * variance + (1 - RUNNING) * scale**2
        seen = seen.at[1].set(jnp.clip(seen[1] / jnp.sqrt(variance[0]), -10, 10))
        seen = seen.at[2].set(seen[2] / jnp.sqrt(variance[1]))
        exact = (jnp.exp(old[7]) * regularised[7]).sum(-1)
        value = jnp.stack([jnp.zeros(PROMPTS), running, exact])[:, prompt]
        given = (at, at(old), at(whole(ref)), seen, value)

        def inner(carry: Any, _: None) -> tuple[Any, None]:
            theta, state = carry
            updates, state = adam.update(slope(theta, given), state)
            return (theta + updates, state), None

        (theta, state), _ = jax.lax.scan(inner, (theta, state), None, length=INNER)
        count = jnp.zeros(PROMPTS).at[prompt].add(2.0)
        mean = jnp.zeros(PROMPTS).at[prompt].add(at(regularised)[6].sum(-1)) / jnp.maximum(count, 1)
        running = jnp.where(count > 0, RUNNING * running + (1 - RUNNING) * mean, running)
        return (theta, state, running, variance), None

    def look(carry: Any, keys: Array) -> tuple[Any, Array]:
        carry, _ = jax.lax.scan(rollout, carry, keys)
        return carry, policy(carry[0])

    start = jnp.zeros((number, FEATURES))
    # The running mean starts at the prompt's mean under the reference, as a value fitted before training would, and
    # the running variances at what their batches tend to.
    value, unit = (jnp.exp(ref) * shown).sum(-1), jnp.ones(())
    carry = (start, adam.init(start), value, jnp.stack([shown.var(), unit]))
    keys = jax.random.split(key, rollouts).reshape(-1, EVERY)
    return jnp.concatenate([policy(start)[None], jax.lax.scan(look, carry, keys)[1]])


def _world(generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(features, log ref, reward, shift of unit size): rewards of variance 1, half of it in the features."""
    features = generator.normal(size=(PROMPTS, ARMS, FEATURES))
    ref = np.asarray(log_softmax(generator.normal(size=(PROMPTS, ARMS))))
    reward = features @ generator.normal(size=FEATURES) / np.sqrt(2 * FEATURES)
    reward += generator.normal(size=(PROMPTS, ARMS)) / np.sqrt(2)
    return features, ref, reward, generator.normal(size=PROMPTS)


@functools.cache
def frontier(settings: Settings) -> Runs:
    """`J`, `kl`, `reward` `[contenders, shifts, seeds, looks]`: means over prompts, by rewards without the shift."""
    seeds, rollouts = settings.size(10, 4), settings.size(600, 150)
    worlds = [_world(np.random.default_rng([settings.seed, 20, seed])) for seed in range(seeds)]
    features, ref, reward, unit = (spread(jnp.asarray(np.stack(x))) for x in zip(*worlds, strict=True))
    keys = jax.random.split(jax.random.key(settings.seed), seeds)
    run = jax.vmap(functools.partial(_trained, rollouts=rollouts))
    # shifts, seeds, looks, contenders, prompts, arms
    logp = jnp.stack([run(keys, features, ref, reward, size * unit) for size in SHIFTS])
    logp = jnp.moveaxis(logp, 3, 0)
    divergence = kl(logp, ref[:, None])
    gained = (jnp.exp(logp) * reward[:, None]).sum(-1)
    found = {"kl": divergence, "reward": gained, "J": gained - BETA * divergence}
    best = gibbs(ref, reward, BETA)
    table = objective(best, ref, reward, BETA).mean(-1)
    return {name: np.asarray(x.mean(-1)) for name, x in found.items()} | {"table": np.asarray(table)}


def last(settings: Settings, what: str = "J") -> dict[str, np.ndarray]:
    """`[shifts, seeds]` of each contender: the mean of the last fifth of the looks."""
    run = frontier(settings)[what]
    return {name: run[i, :, :, -max(1, run.shape[-1] // 5) :].mean(-1) for i, name in enumerate(CONTENDERS)}


@functools.cache
def normalisation(settings: Settings) -> Runs:
    """By how much a scale shrinks reward differences when prompts are shifted: `[shifts, seeds]` for both scales."""
    seeds, sizes = settings.size(50, 20), np.asarray([0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0])
    generator = np.random.default_rng([settings.seed, 21])
    reward, unit = generator.normal(size=(seeds, 64, 2)), generator.normal(size=(seeds, 64, 1))
    shown = reward + sizes[:, None, None, None] * unit
    scale = {"global": global_scale, "within": within_prompt_scale}
    found = {
        name: np.asarray(jax.vmap(jax.vmap(f))(jnp.asarray(shown)))[:1] / np.asarray(jax.vmap(jax.vmap(f))(shown))
        for name, f in scale.items()
    }
    return found | {"size": sizes}
