r"""Laws over the responses: who draws the samples, who is the opponent. All detached from the policy.

A law is `law(problem, logp, **hyperparameters) -> [..., A]` log-probabilities (or a tuple, one per response slot). A
record names one for its responses and, apart from it, one for its opponent. On a table a law is computed; a language
model has to sample it, and `drawn_from` says from what.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.best_of import best_of_n
from alignjax.logspace import Scalar, geometric_mixture
from alignjax.problem import Problem

LogPolicy = Float[Array, "*batch A"]
sg = jax.lax.stop_gradient
_Law = TypeVar("_Law", bound=Callable)

SOURCES = ("policy", "reference", "previous", "mixture", "past", "best_of_n", "data")
"""Who can write a response: the policy; the reference; the anchor or previous iterate; the geometric mixture of the
policy and the reference; a past policy, any of them at random; the best of n samples of the anchor; the data's author.
"""


def drawn_from(*sources: str) -> Callable[[_Law], _Law]:
    """Marks a law with who writes its responses, of `SOURCES`: one for every response, or one per slot."""
    for source in sources:
        checks.member("source", source, SOURCES)

    def mark(law: _Law) -> _Law:
        law.sources = sources  # type: ignore[attr-defined]
        return law

    return mark


def sources_of(law: Callable) -> tuple[str, ...]:
    """Who writes a law's responses. Raises: ValueError for a law that only tables have."""
    found: tuple[str, ...] | None = getattr(law, "sources", None)
    if found is None:
        raise ValueError(f"the law {getattr(law, '__name__', law)!r} does not say what a language model samples")
    return found


@drawn_from("reference")
def reference(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The reference."""
    return sg(problem.ref_logp)


@drawn_from("policy")
def policy(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The policy itself, detached: on-policy samples, self-play."""
    return sg(logp)


@drawn_from("reference")
def data(problem: Problem, logp: LogPolicy) -> LogPolicy | tuple[LogPolicy, ...]:
    """The law of the data: `problem.sampler_logp`, or the reference (which samples where a run has prompts alone)."""
    if problem.sampler_logp is None:
        return sg(problem.ref_logp)
    return jax.tree.map(sg, problem.sampler_logp)


@drawn_from("policy")
def old_policy(problem: Problem, logp: LogPolicy) -> LogPolicy | tuple[LogPolicy, ...]:
    """The policy that drew the samples: `problem.sampler_logp`, or the detached policy."""
    return sg(logp) if problem.sampler_logp is None else jax.tree.map(sg, problem.sampler_logp)


@drawn_from("mixture")
def mixture(problem: Problem, logp: LogPolicy, *, mixture: Scalar = 0.125) -> LogPolicy:
    r"""The geometric mixture pi^{1-m} ref^m of the detached policy: self-play at m = 0, the reference at m = 1."""
    return sg(geometric_mixture(sg(logp), problem.ref_logp, mixture))


@drawn_from("previous")
def anchor(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The moving anchor: `problem.anchor_logp`, or the detached policy where a run has none yet."""
    return sg(logp if problem.anchor_logp is None else problem.anchor_logp)


@drawn_from("previous")
def previous(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """The previous iterate: `problem.anchor_logp`, or the reference, where a run of iterations starts."""
    return sg(problem.ref_logp if problem.anchor_logp is None else problem.anchor_logp)


@drawn_from("previous")
def proposal(problem: Problem, logp: LogPolicy) -> LogPolicy | tuple[LogPolicy, ...]:
    """The law of an iterative method's pairs: `problem.sampler_logp`, or the previous iterate."""
    return previous(problem, logp) if problem.sampler_logp is None else data(problem, logp)


@drawn_from("previous")
def history_proposal(problem: Problem, logp: LogPolicy) -> LogPolicy | tuple[LogPolicy, ...]:
    """`problem.sampler_logp`, or the anchor, or the newest of `problem.opponent_logp`, or the reference."""
    if problem.sampler_logp is None and problem.anchor_logp is None and problem.opponent_logp is not None:
        return sg(problem.opponent_logp[0])
    return proposal(problem, logp)


@drawn_from("past")
def average_opponent(problem: Problem, logp: LogPolicy) -> LogPolicy:
    r"""One of the J opponents at random, (1 / J) sum_j pi_j; the previous iterate where there are none."""
    if problem.opponent_logp is None:
        return previous(problem, logp)
    # The mean over J as a logsumexp: a response that no opponent plays keeps zero mass.
    return sg(jax.nn.logsumexp(problem.opponent_logp, 0) - jnp.log(float(problem.opponent_logp.shape[0])))


@drawn_from("best_of_n")
def best_of(problem: Problem, logp: LogPolicy, *, n: Scalar = 4) -> LogPolicy:
    """The best of N samples of the anchor, or of the reference where there is none, exactly."""
    return sg(best_of_n(previous(problem, logp), problem.rewards_or_raise("best-of-N"), n))


@drawn_from("data", "previous")
def data_and_previous(problem: Problem, logp: LogPolicy) -> tuple[LogPolicy, LogPolicy]:
    """Response 0 from the data's law, response 1 from the previous iterate."""
    law = data(problem, logp)
    if isinstance(law, tuple):
        raise ValueError(
            f"the data have one law here, and response 1 comes from the previous iterate; sampler_logp was a tuple of "
            f"{len(law)}"
        )
    return law, previous(problem, logp)


@drawn_from("policy", "reference")
def policy_and_reference(problem: Problem, logp: LogPolicy) -> tuple[LogPolicy, LogPolicy]:
    """Response 0 from the policy, response 1 from the reference."""
    return policy(problem, logp), reference(problem, logp)


@drawn_from("reference")
def uniform(problem: Problem, logp: LogPolicy) -> LogPolicy:
    """Uniform over the responses the reference supports. Texts have no such law: the reference, of full support too."""
    support = ~jnp.isneginf(problem.ref_logp)
    count = support.sum(-1, keepdims=True, dtype=problem.ref_logp.dtype)
    return sg(jnp.where(support, -jnp.log(count), -jnp.inf))
