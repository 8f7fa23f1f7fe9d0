"""Scales of rewards, weighted bases, laws without opponents and objectives of a problem: plain sums."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import Problem, best_of, equations, feedback, laws
from alignjax.multiobjective import fronts
from alignjax.objectives import pama
from theory import instances
from theory.mutation.derivatives import derivative
from theory.slack import both, equal


def scales_of_rewards(key: Array) -> Array:
    """Standard deviations, within prompts with K - 1 and over all rewards with their number; both detached."""
    reward = jax.random.normal(key, (3, 4)) * jnp.array([[0.1], [1.0], [5.0]])
    scales = equations.within_prompt_scale, equations.global_scale
    found = jnp.stack([scale(reward) for scale in scales])
    exact = jnp.stack([jnp.sqrt(reward.var(-1, ddof=1).mean()), jnp.sqrt(((reward - reward.mean()) ** 2).mean())])
    slopes = [jax.grad(scale)(reward) for scale in scales]
    return both(equal(found, exact), *(equal(slope, 0.0) for slope in slopes))


def weighted_bases(key: Array) -> Array:
    """The log-ratio to a product of bases, also where a base of weight 0 has no mass; it differentiates in all."""
    keys = jax.random.split(key, 3)
    logp, one, other = (instances.smooth_law(k, 4) for k in keys)
    weights = jnp.array([0.7, -1.3])
    by_hand = logp - 0.7 * one + 1.3 * other
    gone = one.at[1].set(-jnp.inf)
    score = lambda x, a, b, w: equations.base_score(x, (a, b), w)
    return both(
        equal(equations.base_score(logp, (one, other), weights), by_hand),
        equal(equations.base_score(logp, (gone, other), (0.0, -1.3)), logp + 1.3 * other),
        derivative(score, logp, one, other, weights),
    )


def laws_of_a_history(key: Array) -> Array:
    """The anchor where there is one, the opponents' mean where there are some; detached from everything."""
    keys = jax.random.split(key, 5)
    logp, ref, anchor, first, second = (instances.smooth_law(k, 4) for k in keys)
    reward, many = jnp.sin(3 * logp), jnp.stack([first, second])
    mean = jnp.log((jnp.exp(first) + jnp.exp(second)) / 2)
    bare, moved = Problem(ref_logp=ref, reward=reward), Problem(ref_logp=ref, reward=reward, anchor_logp=anchor)
    played = Problem(ref_logp=ref, anchor_logp=anchor, opponent_logp=many)

    def all_of(ref: Array, anchor: Array, many: Array, logp: Array) -> Array:
        given: dict[str, Any] = {"ref_logp": ref, "reward": reward, "anchor_logp": anchor}
        problem = Problem(**given, opponent_logp=many)
        found = laws.previous(problem, logp), laws.average_opponent(problem, logp), laws.best_of(problem, logp, n=3)
        bare = Problem(ref_logp=ref, reward=reward)
        return jnp.stack([*found, laws.previous(bare, logp), *laws.policy_and_reference(problem, logp)])

    slopes = jax.jacobian(all_of, (0, 1, 2, 3))(ref, anchor, many, logp)
    return both(
        equal(jnp.stack([laws.previous(bare, logp), laws.previous(moved, logp)]), jnp.stack([ref, anchor])),
        equal(jnp.stack([laws.average_opponent(bare, logp), laws.average_opponent(moved, logp)]),
              jnp.stack([ref, anchor])),
        equal(laws.average_opponent(played, logp), mean),
        equal(laws.best_of(moved, logp, n=3), best_of.best_of_n(anchor, reward, 3)),
        equal(jnp.stack(laws.policy_and_reference(moved, logp)), jnp.stack([logp, ref])),
        equal(feedback.history(played, logp), many),
        equal(feedback.history(moved, logp), anchor[None]),
        derivative(lambda x: feedback.history(Problem(ref_logp=ref, opponent_logp=x), logp), many),
        *(equal(slope, 0.0) for slope in slopes),
    )  # fmt: skip


def objectives_of_a_problem(key: Array) -> Array:
    """Several rewards, or the only one; and E[r] - beta KL of a policy, in everything it is made of."""
    keys = jax.random.split(key, 3)
    logp, ref = (instances.smooth_law(k, 4) for k in keys[:2])
    rewards, beta = jax.random.normal(keys[2], (4, 2)), jnp.asarray(0.3)
    several = lambda r: pama.objectives(Problem(ref_logp=ref, rewards=r), logp)
    single = lambda r: pama.objectives(Problem(ref_logp=ref, reward=r), logp)
    by_hand = jnp.exp(logp) @ rewards - 0.3 * (jnp.exp(logp) * (logp - ref)).sum()
    return both(
        equal(several(rewards), rewards),
        equal(single(rewards[:, 0]), rewards[:, :1]),
        derivative(several, rewards),
        derivative(single, rewards[:, 0]),
        equal(fronts.objectives(logp, ref, rewards, beta), by_hand),
        derivative(fronts.objectives, logp, ref, rewards, beta),
    )


BY_HAND: tuple[tuple[str, str, Any], ...] = (
    ("scales-of-rewards", "scales of rewards", scales_of_rewards),
    ("weighted-bases", "weighted bases", weighted_bases),
    ("laws-of-a-history", "laws with and without a history", laws_of_a_history),
    ("objectives-of-a-problem", "objectives of a problem", objectives_of_a_problem),
)
"""(name, what it says, slack of a key)."""
