r"""The one kernel under every solver: a mirror step from weighted bases, tilted by a win-rate.

    log pi_{t+1} = sum_j w_j log b_j + h q_t + const

The rows of `SOLVERS` differ in the bases and in the opponent behind q. Policies are carried here as logits, log pi up
to a constant for each prompt: the oracle normalises what it is asked about, and `solve` what it returns. This drops a
log-softmax from every update, which is most of its cost.

The step size is always the canonical h: log pi_{t+1} = (1 - h tau) log pi_t + h tau log ref + h q_t + const. A paper's
own symbol is turned into h by its row (`Solver.canonical`); papers that print an inverse step have h = 1 / eta.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.logspace import Scalar, scaled

Logits = Float[Array, "*batch A"]
Oracle = Callable[[Logits], Float[Array, "*batch A"]]
"""The win-rate of every response against a policy, up to a constant: one call of the preference oracle."""
Schedule = Callable[[Array, Any, int], Array]
"""schedule(t, game, num_steps) -> the canonical h at t = 0, 1, ...: `t` `[T, 1...]` gives `[T, ...]`."""


class Board(NamedTuple):
    """A game as a step sees it. `solve` chooses the layout (games first or games last): a step is elementwise, and only
    the oracle knows which axis the responses have.
    """

    ref_logp: Logits
    tau: Array
    """The temperature, in a shape that broadcasts against logits; so does every step size."""
    others: Callable[[Logits], Logits]
    """The geometric mean of each player's opponents; in a game of two, the policy itself."""


def mix(first: Logits, second: Logits, weight: Scalar) -> Logits:
    r"""(1 - w) first + w second: the geometric mixture, as logits. A base of weight 0 is ignored, zeros included."""
    weight = jnp.asarray(weight)
    return scaled(1 - weight, first) + scaled(weight, second)


def magnet_weight(step_size: Array, tau: Array) -> Array:
    r"""h tau, exactly 1 where it is 1 up to rounding, so that a first theorem step forgets the initial policy."""
    fraction = step_size * tau
    return jnp.where(jnp.abs(fraction - 1) < 8 * jnp.finfo(fraction.dtype).eps, 1.0, fraction)


def pull(game: Board, logits: Logits, step_size: Array) -> Logits:
    r"""pi^{1 - h tau} ref^{h tau}: the centre of every KL-regularised mirror step."""
    return mix(logits, game.ref_logp, magnet_weight(step_size, game.tau))


def geometric_step(centre: Logits, win_rate: Array, step_size: Array) -> Logits:
    r"""log pi_{t+1} = log centre + h q + const."""
    return centre + step_size * win_rate


def extragradient_step(
    game: Board, magnet: Logits, logits: Logits, step_size: Array, tau: Array, win_rate: Oracle
) -> Logits:
    r"""Two mirror steps from the same centre pi^{1 - h tau} magnet^{h tau}: against pi, then against the half step.

    pi_{t+1/2} ~ centre e^{h P pi_t},      pi_{t+1} ~ centre e^{h P pi_{t+1/2}}
    """
    centre = mix(logits, magnet, magnet_weight(step_size, tau))
    half = geometric_step(centre, win_rate(logits), step_size)
    return geometric_step(centre, win_rate(half), step_size)
