r"""Random instances, key -> arrays: games, policies, problems. Hard ones are common, not rare.

Every generator mixes regimes, chosen by the key: temperatures over two decades, references with tiny masses and
with none, preferences that are uniform, certain, near ties or Bradley-Terry, policies from almost uniform to almost
deterministic. `smooth_*` keeps full
support and moderate log-ratios, for statements that differentiate logits or exponentiate log-ratios. All of it is
pure: `jit` and `vmap` work.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem
from alignjax.envs import TokenTree
from alignjax.games import PreferenceGame, nash
from theory.definitions import normalised

SIZE = 5
"""Responses of a table: odd, so that full cycles exist, and small enough for 10,000 games in a second."""
TREE = TokenTree(3, 2)
"""The smallest tree on which a token's effect on later tokens shows: 9 sequences."""

Law = Float[Array, "A"]


def log_uniform(key: Array, low: float, high: float) -> Float[Array, ""]:
    """A positive number whose logarithm is uniform."""
    return jnp.exp(jax.random.uniform(key, minval=jnp.log(low), maxval=jnp.log(high)))


def temperature(key: Array) -> Float[Array, ""]:
    """tau or beta, from 0.02 to 5."""
    return log_uniform(key, 0.02, 5.0)


def preference(key: Array, size: int = SIZE) -> Float[Array, "A A"]:
    """P + P^T = 1: entries uniform, or all certain (0/1), or near ties (within 1e-3 of 1/2),
    or Bradley-Terry of wide rewards.
    """
    kind_key, uniform_key, reward_key = jax.random.split(key, 3)
    margin = jax.random.uniform(uniform_key, (size, size), minval=-0.5, maxval=0.5)
    reward = 3 * jax.random.normal(reward_key, (size,))
    rated = jax.nn.sigmoid(reward[:, None] - reward[None, :]) - 0.5
    kinds = jnp.stack([margin, margin, 0.5 * jnp.sign(margin), 1e-3 * margin, rated])
    lower = jnp.tril(kinds[jax.random.randint(kind_key, (), 0, 5)], -1)
    return 0.5 + lower - lower.T


def reference(key: Array, size: int = SIZE, zeros: bool = True) -> Law:
    """Uniform, spread over one nat, or over many (masses down to 1e-12);
    with `zeros` every third loses some of its responses.
    """
    scale_key, normal_key, zero_key, which_key = jax.random.split(key, 4)
    scale = jnp.array([0.0, 1.0, 1.0, 6.0])[jax.random.randint(scale_key, (), 0, 4)]
    logits = scale * jax.random.normal(normal_key, (size,))
    if zeros:
        lost = (jax.random.uniform(which_key, (size,)) < 0.4) & (jax.random.uniform(zero_key) < 1 / 3)
        # Two responses always stay, so that there is something to choose.
        first = jax.random.randint(zero_key, (), 0, size)
        kept = (jnp.arange(size) == first) | (jnp.arange(size) == (first + 1) % size)
        logits = jnp.where(lost & ~kept, -jnp.inf, logits)
    return normalised(logits)


def policy(key: Array, ref_logp: Law, zeros: bool = True) -> Law:
    """Inside the reference's support: almost uniform, near the reference, spread, or almost deterministic;
    sometimes with zeros of its own.
    """
    kind_key, normal_key, zero_key = jax.random.split(key, 3)
    noise = jax.random.normal(normal_key, ref_logp.shape)
    alive = jnp.isfinite(ref_logp)
    base = jnp.where(alive, ref_logp, 0.0)
    kinds = jnp.stack([0.1 * noise, base + 1e-3 * noise, 2 * noise, 2 * noise, 8 * noise])
    logits = kinds[jax.random.randint(kind_key, (), 0, 5)]
    if zeros:
        drop = (jax.random.uniform(zero_key) < 0.2) & (noise < jnp.max(jnp.where(alive, noise, -jnp.inf)) - 1.5)
        logits = jnp.where(drop, -jnp.inf, logits)
    return normalised(jnp.where(alive, logits, -jnp.inf))


def reward(key: Array, size: int = SIZE) -> Float[Array, "A"]:
    """Normal rewards of size 1, 3 or 1e-3 (near ties), sometimes binary."""
    kind_key, normal_key = jax.random.split(key)
    noise = jax.random.normal(normal_key, (size,))
    kinds = jnp.stack([noise, 3 * noise, 1e-3 * noise, (noise > 0).astype(noise.dtype)])
    return kinds[jax.random.randint(kind_key, (), 0, 4)]


# --- games ----------------------------------------------------------------------------------------------------------


def game(key: Array, zeros: bool = True) -> PreferenceGame:
    """A random regularised game."""
    preference_key, reference_key, tau_key = jax.random.split(key, 3)
    return PreferenceGame(
        preference=preference(preference_key), ref_logp=reference(reference_key, zeros=zeros), tau=temperature(tau_key)
    )


def game_and_policy(key: Array) -> tuple[PreferenceGame, Law]:
    """(game, logp)."""
    game_key, policy_key = jax.random.split(key)
    one = game(game_key)
    return one, policy(policy_key, one.ref_logp)


def game_and_policies(key: Array) -> tuple[PreferenceGame, Law, Law]:
    """(game, logp, other logp), both with the support of the reference."""
    game_key, first_key, second_key = jax.random.split(key, 3)
    one = game(game_key)
    return one, policy(first_key, one.ref_logp, zeros=False), policy(second_key, one.ref_logp, zeros=False)


def game_and_nash(key: Array) -> tuple[PreferenceGame, Law, Law]:
    """(game, logp of its regularised Nash as the library solves it, another policy)."""
    one, logp = game_and_policy(key)
    return one, nash(one), logp


def cyclic_game(key: Array) -> tuple[Float[Array, "4 4"], Law, Array, Law]:
    r"""(P, w, tau, policy): a generalised rock-paper-scissors with a fourth response that loses to the others; w is
    its original Nash.

    With margins a = M_12, b = M_23, c = M_31 that is (b, c, a, 0) / (a + b + c), written down by hand.
    """
    margin_key, lose_key, tau_key, policy_key = jax.random.split(key, 4)
    a, b, c = jax.random.uniform(margin_key, (3,), minval=0.02, maxval=0.5)
    worse = jax.random.uniform(lose_key, (3,), minval=0.0, maxval=0.5)
    upper = jnp.zeros((4, 4)).at[0, 1].set(a).at[1, 2].set(b).at[0, 2].set(-c).at[:3, 3].set(worse)
    winner = jnp.log(jnp.stack([b, c, a, 0 * a]) / (a + b + c))
    return 0.5 + upper - upper.T, winner, temperature(tau_key), policy(policy_key, jnp.zeros(4), zeros=False)


# --- problems -------------------------------------------------------------------------------------------------------


def regularised_problem(key: Array) -> tuple[Law, Float[Array, "A"], Array, Law]:
    """(ref_logp, reward, beta, logp), zero masses included."""
    reference_key, reward_key, beta_key, policy_key = jax.random.split(key, 4)
    ref_logp = reference(reference_key)
    return ref_logp, reward(reward_key), temperature(beta_key), policy(policy_key, ref_logp)


def two_laws(key: Array) -> tuple[Law, Law]:
    """(logp, logq), each with zero masses the other may have."""
    first_key, second_key, near_key, coin_key = jax.random.split(key, 4)
    first, second = reference(first_key), reference(second_key)
    near = normalised(first + 1e-4 * jax.random.normal(near_key, first.shape))
    return first, jnp.where(jax.random.uniform(coin_key) < 0.2, near, second)


def smooth_law(key: Array, size: int = SIZE, scale: float = 1.0) -> Law:
    """Full support, log-ratios of a few nats."""
    return normalised(scale * jax.random.normal(key, (size,)))


def smooth_laws(key: Array) -> tuple[Law, Law]:
    """Two of them."""
    first_key, second_key = jax.random.split(key)
    return smooth_law(first_key, scale=2.0), smooth_law(second_key)


def smooth_problem(key: Array, size: int = SIZE) -> tuple[Problem, Float[Array, "A"], Array]:
    """(problem, logits, beta): full support, reward and its Bradley-Terry preferences,
    its own law for each of the two slots.
    """
    keys = jax.random.split(key, 6)
    problem = Problem(
        ref_logp=smooth_law(keys[0], size),
        reward=reward(keys[1], size),
        sampler_logp=(smooth_law(keys[2], size), smooth_law(keys[3], size)),
    )
    return problem, 1.5 * jax.random.normal(keys[4], (size,)), log_uniform(keys[5], 0.1, 3.0)


def smooth_preference_problem(key: Array) -> tuple[Problem, Float[Array, "A"], Array]:
    """(problem, logits, beta): any preferences (cyclic ones as a rule), one law for both slots."""
    keys = jax.random.split(key, 5)
    problem = Problem(ref_logp=smooth_law(keys[0]), preference=preference(keys[1]), sampler_logp=smooth_law(keys[2]))
    return problem, 1.5 * jax.random.normal(keys[3], (SIZE,)), log_uniform(keys[4], 0.1, 3.0)


def on_policy_problem(key: Array, size: int = SIZE, zeros: bool = True) -> tuple[Problem, Float[Array, "A"], Array]:
    """(problem, logits, beta) for on-policy methods; some responses are out of the game."""
    keys = jax.random.split(key, 5)
    ref_logp = reference(keys[0], size, zeros=zeros)
    alive = jnp.isfinite(ref_logp)
    problem = Problem(ref_logp=ref_logp, reward=reward(keys[1], size), preference=preference(keys[2], size))
    logits = jnp.where(alive, 2 * jax.random.normal(keys[3], (size,)), -jnp.inf)
    return problem, logits, log_uniform(keys[4], 0.02, 3.0)


def group(key: Array, size: int = 4) -> tuple[Array, Array, Array, Array]:
    """(logp, ref_logp, reward, mask) of a group of K responses:
    numbers a language model could give, at least two kept.
    """
    keys = jax.random.split(key, 4)
    logp = -5 + jax.random.normal(keys[0], (size,))
    ref_logp = logp + jax.random.normal(keys[1], (size,))
    mask = (jax.random.uniform(keys[3], (size,)) < 0.6) | (jnp.arange(size) < 2)
    return logp, ref_logp, reward(keys[2], size), mask


def token_policies(key: Array) -> tuple[Any, Any]:
    """(logits, reference logits) of the nodes of `TREE`."""
    first_key, second_key = jax.random.split(key)
    return TREE.random_logits(first_key), TREE.random_logits(second_key)
