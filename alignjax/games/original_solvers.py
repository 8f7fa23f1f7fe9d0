r"""Solvers whose target is a Nash equilibrium of the original game, tau = 0 (a von Neumann winner).

They have no fixed reference to return to: the base of a step is the policy itself (`mwu`, `onpo`, `mnpo`), or a
reference that moves (`comal`, `mpo`). The averages of the first kind converge; the last policies of the second do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.games import step_sizes
from alignjax.games.kernel import Board, Logits, Oracle, extragradient_step, geometric_step, magnet_weight, mix
from alignjax.logspace import Scalar
from alignjax.record import Solver, Source


def mwu(game: Board, logits: Logits, step_size: Array, win_rate: Oracle) -> Logits:
    r"""Multiplicative weights in self-play: what SPO, SPPO, DNO and iterative IPO do when they are exact.

        pi_{t+1} ~ pi_t exp(h P(. > pi_t))

    The average policy has a gap of at most 2 D / (h T) + h / 4, D = max_y log 1 / pi_0(y), so sqrt(2 D / T) with
    h = sqrt(8 D / T); the last one cycles and, in discrete time, moves away from an interior equilibrium.
    Source: Swamy et al., 2024, arXiv:2401.04056, Algorithm 1; Wu et al., 2024, arXiv:2405.00675, Eq. 3 and Theorem 4.1.
    """
    return geometric_step(logits, win_rate(logits), step_size)


def mnpo(game: Board, logits: Logits, step_size: Array, win_rate: Oracle) -> Logits:
    r"""MNPO: each of n players steps from the geometric mean of the others, against all of them.

        pi_i^{t+1} ~ prod_{j != i} (pi_j^t)^{1 / (n - 1)} exp(h mean_{j != i} P_i(. > pi_j^t))

    Neither tau nor the reference appears, so that the limit of the averages is an equilibrium of the original game.
    Players who start alike stay alike, and are `mwu` for every n (the two-player game here). Three and more merge by
    the factor 1 / (n - 1) a step; two change places for ever.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 10.
    """
    return geometric_step(game.others(logits), win_rate(logits), step_size)


class OptimisticState(NamedTuple):
    """The policy that is played, and the auxiliary one that is corrected."""

    logp: Logits
    auxiliary: Logits


def start_optimistic(game: Board, logits: Logits) -> OptimisticState:
    """Both start at the initial policy."""
    return OptimisticState(logits, logits)


def onpo(game: Board, state: OptimisticState, step_size: Array, win_rate: Oracle) -> OptimisticState:
    r"""ONPO, optimistic mirror descent: play as if the last win-rate came again, then correct.

        pi'_{t+1} ~ pi'_t exp(h P(. > pi_t)),      pi_{t+1} ~ pi'_{t+1} exp(h P(. > pi_t))

    One oracle call a step. The average has a gap of at most (2 D / h + O(1)) / T, D = max_y log 1 / pi_0(y);
    the last policy converges where the equilibrium is unique.
    Source: Zhang et al., 2025, arXiv:2502.16852, Algorithm 1.
    """
    rate = win_rate(state.logp)
    corrected = geometric_step(state.auxiliary, rate, step_size)
    return OptimisticState(geometric_step(corrected, rate, step_size), corrected)


def prox(
    game: Board, magnet: Logits, tau: Array, win_rate: Oracle, max_steps: int, tolerance: float
) -> Float[Array, "*batch A"]:
    r"""The regularised Nash with `magnet` as reference at temperature tau, by extragradient steps (`egpo`).

    h = 2 / (1 + 2 tau) contracts by 1 / (1 + 2 tau); the loop ends when no logit moves by more than `tolerance`.
    """
    step_size = 2 / (1 + 2 * tau)
    alive = ~jnp.isneginf(magnet)
    origin = jnp.where(alive, magnet, 0.0)

    def place(offset: Array) -> Array:
        return jnp.where(alive, origin + offset, -jnp.inf)

    def go_on(state: tuple[Array, Array, Array]) -> Array:
        _, moved, count = state
        return (moved > tolerance) & (count < max_steps)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        offset, _, count = state
        after = extragradient_step(game, jnp.zeros_like(offset), offset, step_size, tau, lambda x: win_rate(place(x)))
        return after, jnp.abs(after - offset).max(), count + 1

    start = (jnp.zeros_like(origin), jnp.asarray(jnp.inf, origin.dtype), jnp.asarray(0))
    return place(jax.lax.while_loop(go_on, step, start)[0])


def comal(game: Board, logits: Logits, step_size: Array, win_rate: Oracle, *, inner_steps: int = 20_000) -> Logits:
    r"""COMAL, the proximal point method: the next policy is the regularised Nash with the present one as reference.

        pi_{k+1} = Nash of J at temperature 1 / h with reference pi_k:   pi_{k+1} ~ pi_k exp(h P(. > pi_{k+1}))

    KL(pi' || pi_k) falls in every step for every Nash pi' of the original game and every h, and the last policy
    converges. The implicit step is solved inside, to rounding or for `inner_steps` extragradient steps at most.
    Source: Liu et al., 2024, arXiv:2410.23223, Algorithm 1 and Theorem 1.
    """
    return prox(game, logits, 1 / step_size, win_rate, inner_steps, 16 * float(jnp.finfo(logits.dtype).eps))


class MagnetState(NamedTuple):
    """The policy, its magnet, and for how many steps the magnet has stood still."""

    logp: Logits
    magnet: Logits
    age: Logits


def start_magnet(game: Board, logits: Logits) -> MagnetState:
    """The magnet starts at the reference."""
    return MagnetState(logits, jnp.broadcast_to(game.ref_logp, logits.shape), jnp.zeros_like(logits))


def mpo(
    game: Board, state: MagnetState, step_size: Array, win_rate: Oracle, *, magnet_steps: Scalar | None = None
) -> MagnetState:
    r"""MPO, mirror descent towards a magnet that follows: one inner step; now and then the magnet moves to the policy.

        pi_{t+1} ~ pi_t^{1 - h tau} magnet^{h tau} exp(h P(. > pi_t))

    Between moves it is `mmd` towards the Nash at tau with the magnet as reference; the sequence of those converges to
    a Nash of the original game. `magnet_steps`: steps between moves, 10 / (h tau) by default, after which the inner
    problem is solved to e^-10. Too few behave like multiplicative weights and may diverge first.
    Source: Wang et al., 2024, arXiv:2410.16714, Algorithm 1.
    """
    fraction = magnet_weight(step_size, game.tau)
    centre = mix(state.logp, state.magnet, fraction)
    logits = geometric_step(centre, win_rate(state.logp), step_size)
    period = 10 / fraction if magnet_steps is None else magnet_steps
    age = state.age + 1
    due = age >= period
    return MagnetState(logits, jnp.where(due, logits, state.magnet), jnp.where(due, 0.0, age))


_AVERAGE = "its average converges to a Nash of the original game; the last policy may cycle"

SOLVERS = (
    Solver(
        step=mwu,
        target="original",
        converges_to=f"{_AVERAGE}: gap of the average <= sqrt(2 D / T) with the theorem's step, D = max log 1 / ref",
        pulls=False,
        averages=True,
        default_step=step_sizes.hedge_step,
        theorem=step_sizes.hedge_step,
        canonical=step_sizes.same,
        many_players=True,
        source=Source("Swamy et al.", 2024, "2401.04056", "Algorithm 1"),
    ),
    Solver(
        step=onpo,
        init=start_optimistic,
        target="original",
        converges_to="a Nash of the original game where it is unique; gap of the average = O(1 / T)",
        one_step="a correction and a prediction with one and the same win-rate: one oracle call",
        pulls=False,
        averages=True,
        default_step=step_sizes.half,
        theorem=step_sizes.eighth,
        canonical=step_sizes.same,
        many_players=True,
        source=Source("Zhang et al.", 2025, "2502.16852", "Algorithm 1, Theorem 3"),
    ),
    Solver(
        step=comal,
        target="original",
        converges_to="a Nash of the original game, last policy; KL to each of them never rises",
        one_step="an outer prox, solved inside by extragradient steps: as many oracle calls as those need, 2 each",
        oracle_calls=None,
        pulls=False,
        sampled=False,
        default_step=step_sizes.proximal_step,
        theorem=step_sizes.proximal_step,
        source=Source("Liu et al.", 2024, "2410.23223", "Algorithm 1, Theorem 1"),
    ),
    Solver(
        step=mpo,
        init=start_magnet,
        target="original",
        converges_to="a Nash of the original game, last policy, where each magnet stands long enough",
        one_step="one inner step: one oracle call; the magnet moves every `magnet_steps` of them",
        default_step=step_sizes.mirror_descent_step,
        canonical=step_sizes.implicit,
        source=Source("Wang et al.", 2024, "2410.16714", "Algorithm 1"),
    ),
    Solver(
        step=mnpo,
        target="original",
        converges_to=_AVERAGE,
        pulls=False,
        averages=True,
        default_step=step_sizes.hedge_step,
        theorem=step_sizes.hedge_step,
        canonical=step_sizes.same,
        many_players=True,
        source=Source("Wu et al.", 2025, "2509.23102", "Eq. 10"),
    ),
)
