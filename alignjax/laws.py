r"""Laws over the responses: who draws the samples, who is the opponent. All detached from the policy.

A law is `law(problem, logp, **hyperparameters) -> [..., A]` log-probabilities (or a tuple, one per response slot). A
record names one for its responses and, apart from it, one for its opponent.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.logspace import Scalar, geometric_mixture
from alignjax.problem import Problem

LogPolicy = Float[Array, "*batch A"]
sg = jax.lax.stop_gradient


def reference(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The reference."""
    return sg(problem.ref_logp)


def policy(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The policy itself, detached: on-policy samples, self-play."""
    return sg(logp)


def data(problem: Problem, logp: LogPolicy) -> LogPolicy | tuple[LogPolicy, ...]:
    """The law of the data: `problem.sampler_logp`, or the reference."""
    if problem.sampler_logp is None:
        return sg(problem.ref_logp)
    return jax.tree.map(sg, problem.sampler_logp)


def old_policy(problem: Problem, logp: LogPolicy) -> LogPolicy | tuple[LogPolicy, ...]:
    """The policy that drew the samples: `problem.sampler_logp`, or the detached policy."""
    return sg(logp) if problem.sampler_logp is None else jax.tree.map(sg, problem.sampler_logp)


def mixture(problem: Problem, logp: LogPolicy, *, mixture: Scalar = 0.125) -> LogPolicy:
    r"""The geometric mixture pi^{1-m} ref^m of the detached policy: self-play at m = 0, the reference at m = 1."""
    return sg(geometric_mixture(sg(logp), problem.ref_logp, mixture))


def anchor(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The moving anchor: `problem.anchor_logp`, or the detached policy where a run has none yet."""
    return sg(logp if problem.anchor_logp is None else problem.anchor_logp)


def uniform(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """Uniform over the responses the reference supports."""
    support = ~jnp.isneginf(problem.ref_logp)
    return sg(jnp.where(support, -jnp.log(support.sum(-1, keepdims=True)), -jnp.inf))
