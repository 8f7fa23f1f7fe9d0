r"""Extragradient steps as an optax transformation: half a step, look at the opponent there, and step from the start.

    theta_{t+1/2} = theta_t + U(g(theta_t; nu = pi_t)),    theta_{t+1} = theta_t + U(g(theta_t; nu = pi_{t+1/2}))

U is the update of an inner optimiser, which sees one step: its state after the half step is thrown away. Both
gradients are taken at theta_t; the opponent nu alone is that of the half step.
Source: Zhou et al., 2025, arXiv:2503.08942; Korpelevich, 1976.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from alignjax import laws
from alignjax.record import Method

if TYPE_CHECKING:
    import optax


_OF_THE_ANCHOR = (laws.anchor, laws.previous, laws.proposal, laws.history_proposal, laws.data_and_previous)


class ExtragradientState(NamedTuple):
    """What `extragradient` remembers between its half steps and its full steps."""

    inner: Any
    """The inner optimiser's state before the half step."""
    start: Any
    """The parameters before the half step."""
    halfway: Bool[Array, ""]
    """The half step is done: the next update is the full one."""


def _choose(condition: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def extragradient(inner: "optax.GradientTransformation") -> "optax.GradientTransformation":
    r"""An optax optimiser whose updates are, in turn, a half step and the full step that replaces it.

    The half step is the update of `inner`. The full step undoes it, gives `inner` back the state it had, and makes its
    update from there; the gradient handed in must be the one at `evaluation_params`, against the opponent of the half
    step. Two updates are one step of the method, and one of `inner`, whose schedules count it once.
    """
    import optax  # a fifth of jax's import time again: only where an optimiser is used

    def init(params: Any) -> ExtragradientState:
        return ExtragradientState(inner.init(params), params, jnp.zeros((), bool))

    def update(gradient: Any, state: ExtragradientState, params: Any = None) -> tuple[Any, ExtragradientState]:
        if params is None:
            raise ValueError("extragradient needs the parameters: update(gradient, state, params)")
        start = evaluation_params(state, params)
        moves, moved = inner.update(gradient, state.inner, start)
        # From the half point back to the start, and the move from there: before the half step the way back is 0.
        updates = jax.tree.map(lambda s, p, move: (s - p) + move, start, params, moves)
        after = ExtragradientState(_choose(state.halfway, moved, state.inner), start, ~state.halfway)
        return updates, after

    return optax.GradientTransformation(init, update)


def evaluation_params(state: ExtragradientState, params: Any) -> Any:
    """Where the next gradient is to be taken: `params`, or after a half step the parameters before it."""
    return _choose(state.halfway, state.start, params)


@functools.cache
def against_anchor(method: Method) -> Method:
    """The method with the problem's anchor as its opponent in place of the policy: the full step's gradient.

    Raises: ValueError if the method's opponent is not the policy, so that a half step would show it nothing new.
    """
    if method.opponent is not laws.policy:
        law = "none" if method.opponent is None else f"the law {method.opponent.__name__!r}"
        raise ValueError(
            f"extragradient steps are for methods whose opponent is the policy itself, such as egpo; the opponent of "
            f"{method.name} is {law}"
        )
    reads = (*method.reads, *method.reads_if_present)
    if method.anchor_update is not None or "anchor_logp" in reads or method.sampler in _OF_THE_ANCHOR:
        raise ValueError(f"{method.name} has an anchor of its own, where extragradient steps put the half-step policy")
    return dataclasses.replace(method, opponent=laws.anchor)
