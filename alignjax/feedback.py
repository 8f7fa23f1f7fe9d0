"""From a problem to the arrays a loss reads: one table `[..., A]` (or `[..., A, A]`, ...) per field of `Samples`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alignjax import laws
from alignjax.problem import Problem
from alignjax.record import Method

sg = jax.lax.stop_gradient


def win_rate(problem: Problem, opponent_logp: Array) -> Array:
    r"""P(y beats nu) = sum_y' P(y, y') nu(y'), exactly."""
    return jnp.einsum("...ij,...j->...i", problem.preferences(), jnp.exp(opponent_logp))


def opponents(problem: Problem, logp: Array) -> Array | None:
    r"""`problem.opponent_logp` over every prompt, `[J, *batch, A]`, or None."""
    if problem.opponent_logp is None:
        return None
    # J comes first: without all batch axes behind it, it would be taken for one of them.
    batch = problem.batch_shape(logp=logp.shape[:-1])
    given = problem.opponent_logp
    missing = len(batch) - (given.ndim - 2)
    given = given.reshape((given.shape[0], *(1,) * missing, *given.shape[1:]))
    return jnp.broadcast_to(given, (given.shape[0], *batch, given.shape[-1]))


def history(problem: Problem, logp: Array) -> Array:
    r"""The J opponents or past policies `[J, *batch, A]`, or the previous iterate alone where the problem has none."""
    found = opponents(problem, logp)
    return laws.previous(problem, logp)[None] if found is None else found


def _behaviour(method: Method, problem: Problem, logp: Array, hyper: Mapping[str, Any]) -> Array:
    law = method.sampler(problem, logp, **method.own(method.sampler, hyper))
    if isinstance(law, tuple):
        raise ValueError(f"{method.name} has one behaviour policy; sampler_logp was a tuple of {len(law)}")
    return law


def _opponent_win_rate(method: Method, problem: Problem, logp: Array, hyper: Mapping[str, Any]) -> Array:
    if method.opponent is None:
        raise ValueError(f"{method.name} reads win_rate but its record names no opponent")
    law = method.opponent(problem, logp, **method.own(method.opponent, hyper))
    return win_rate(problem, law)


_COMMON: dict[str, Callable[[Method, Problem, Array, Mapping[str, Any]], Array | None]] = {
    "ref_logp": lambda method, problem, logp, hyper: problem.ref_logp,
    "behaviour_logp": _behaviour,
    "anchor_logp": lambda method, problem, logp, hyper: laws.previous(problem, logp),
    "opponent_logp": lambda method, problem, logp, hyper: opponents(problem, logp),
    "reward": lambda method, problem, logp, hyper: problem.rewards_or_raise(method.name),
    "rewards": lambda method, problem, logp, hyper: problem.rewards,
    "preference": lambda method, problem, logp, hyper: problem.preferences(),
    "win_rate": _opponent_win_rate,
    "value": lambda method, problem, logp, hyper: problem.value,
    "ref_token_logp": lambda method, problem, logp, hyper: problem.ref_token_logp,
    "mask": lambda method, problem, logp, hyper: problem.mask,
    "response_mask": lambda method, problem, logp, hyper: None,
    "label": lambda method, problem, logp, hyper: None,
}


def tables(
    method: Method, problem: Problem, policy: Mapping[str, Array], hyper: Mapping[str, Any]
) -> dict[str, Array | None]:
    """Every field the method's loss reads, over all A responses.

    Laws are detached from the policy; what the problem itself holds is not, so that gradients with respect to a
    reward or a preference are those of the loss (policy-gradient losses detach their advantages themselves).
    """
    found: dict[str, Array | None] = {}
    for name in (*method.reads, *method.reads_if_present):
        if name in policy:
            found[name] = policy[name]
        elif name in method.feedback:
            found[name] = sg(method.feedback[name](problem, policy["logp"], **method.own(method.feedback[name], hyper)))
        elif name in _COMMON:
            found[name] = _COMMON[name](method, problem, policy["logp"], hyper)
        else:
            found[name] = None
        if found[name] is None and name == "token_logp" and name in method.reads:
            raise ValueError(
                f"{method.name} reads tokens: give token_logp [..., A, T] beside logp (envs.TokenTree.policy has both)"
            )
        if found[name] is None and name in method.reads:
            raise ValueError(f"{method.name} needs {name!r}, which this problem lacks")
    return found
