r"""Solvers whose target is the KL-regularised Nash equilibrium at temperature tau.

Each is one step `step(game, logits, step_size, win_rate) -> logits` of the kernel (kernel.py): they share the centre
pi^{1 - h tau} ref^{h tau} and differ in whom the win-rate is measured against.
"""

from typing import NamedTuple

from jaxtyping import Array

from alignjax.games import step_sizes
from alignjax.games.kernel import Board, Logits, Oracle, extragradient_step, geometric_step, mix, pull
from alignjax.logspace import Scalar
from alignjax.record import Solver, Source


def nash_md(
    game: Board,
    logits: Logits,
    step_size: Array,
    win_rate: Oracle,
    *,
    mixture: Scalar | None = None,
) -> Logits:
    r"""Nash-MD: a mirror step from the mixture with the reference, against that mixture.

        pi^mu_t ~ pi_t^{1 - h tau} ref^{h tau},      pi_{t+1} ~ pi^mu_t exp(h P(. > pi^mu_t))

    At a constant step it converges to a policy whose mixture is the Nash at temperature tau / (1 - h tau), not to the
    Nash at tau; with the theorem's h_t = 2 / (tau (t + 2)), KL(pi* || pi_T) <= 8 / (tau^2 (T + 1)). `mixture` m puts
    another opponent, pi_t^{1-m} ref^m, in the mixture's place: m = 0 is self-play (mirror descent), m = 1 the best
    response to the reference. Source: Munos et al., 2023, arXiv:2312.00886, Eq. 4-5 and Theorem 1.
    """
    centre = pull(game, logits, step_size)
    opponent = centre if mixture is None else mix(logits, game.ref_logp, mixture)
    return geometric_step(centre, win_rate(opponent), step_size)


def self_play(game: Board, logits: Logits, step_size: Array, win_rate: Oracle) -> Logits:
    r"""Online mirror descent: the same centre, the policy itself as opponent.

        pi_{t+1} ~ pi_t^{1 - h tau} ref^{h tau} exp(h P(. > pi_t))

    The self-play end of Nash-MD, the exact INPO iterate, and magnetic mirror descent with the reference as magnet:
    one recursion, three papers. At a constant step with h / (1 - h tau) <= 4 tau, KL(pi* || pi_t) falls by the factor
    1 - h tau at least in every step.
    Source: Munos et al., 2023, arXiv:2312.00886, Sec. 6; Zhang et al., 2024, arXiv:2407.00617, Eq. 5; Sokota et al.,
    2022, arXiv:2206.05825, Theorem 3.4.
    """
    return geometric_step(pull(game, logits, step_size), win_rate(logits), step_size)


def reference_response(game: Board, logits: Logits, step_size: Array, win_rate: Oracle) -> Logits:
    r"""The other end: the same centre, the reference as opponent; it converges to the best response to the reference.

    Source: Munos et al., 2023, arXiv:2312.00886, Sec. 7.2 (beta = 1).
    """
    return geometric_step(pull(game, logits, step_size), win_rate(game.ref_logp), step_size)


def egpo(game: Board, logits: Logits, step_size: Array, win_rate: Oracle) -> Logits:
    r"""Extragradient: a half step of mirror descent to look where it leads, then the step itself against that.

        pi_{t+1/2} ~ pi_t^{1 - h tau} ref^{h tau} exp(h P(. > pi_t))
        pi_{t+1}   ~ pi_t^{1 - h tau} ref^{h tau} exp(h P(. > pi_{t+1/2}))

    KL(pi* || pi_t) falls by 1 - h tau at least in every step up to h = 2 / (1 + 2 tau): O(1 / tau) oracle calls, where
    mirror descent needs O(1 / tau^2). Source: Zhou et al., 2025, arXiv:2503.08942, Eq. 6-7.
    """
    return extragradient_step(game, game.ref_logp, logits, step_size, game.tau, win_rate)


def nash_rs(game: Board, logits: Logits, step_size: Array, win_rate: Oracle) -> Logits:
    r"""Nash-RS: a mirror step against the best response to the policy, which rejection sampling draws exactly.

        y' ~ ref accepted with probability exp(-P(pi_t > y') / tau) has the law BR(pi_t)
        pi_{t+1} ~ pi_t^{1 - h tau} ref^{h tau} exp(h P(. > BR(pi_t)))

    Descent on f(pi) = max_{pi'} J(pi', pi), half the duality gap up to a constant, which is (tau + 1 / (4 tau))-smooth
    and tau-strongly convex relative to the entropy: linear convergence for h <= 4 tau / (1 + 4 tau^2).
    Source: Liu et al., 2025, arXiv:2503.10990, Sec. 5.
    """
    accepted = game.ref_logp + win_rate(logits) / game.tau
    return geometric_step(pull(game, logits, step_size), win_rate(accepted), step_size)


class EmaState(NamedTuple):
    """The policy, and the geometric average of the past that it plays against."""

    logp: Logits
    average: Logits


def start_ema(game: Board, logits: Logits) -> EmaState:
    """The average starts at the initial policy."""
    return EmaState(logits, logits)


def nash_ema(game: Board, state: EmaState, step_size: Array, win_rate: Oracle, *, ema: Scalar = 0.9) -> EmaState:
    r"""Nash-EMA: the same centre, a geometric moving average of past policies as opponent.

        pi_{t+1} ~ pi_t^{1 - h tau} ref^{h tau} exp(h P(. > avg_t)),      avg_{t+1} ~ avg_t^{ema} pi_{t+1}^{1 - ema}

    The average of logits is what averaging parameters is on a table. Source: Munos et al., 2023, arXiv:2312.00886,
    Sec. 7.3 and Appendix F.3.
    """
    logits = geometric_step(pull(game, state.logp, step_size), win_rate(state.average), step_size)
    return EmaState(logits, mix(state.average, logits, 1 - ema))


_MUNOS = ("Munos et al.", 2023, "2312.00886")
_NASH = "the regularised Nash"
_SLOW = f"{_NASH}, linearly for h <= 4 tau / (1 + 4 tau^2): O(1 / tau^2) oracle calls"
_FAST = f"{_NASH}, linearly for h <= 2 / (1 + 2 tau): O(1 / tau) oracle calls"
_TWO_CALLS = "a half step and a full step from the same centre: two oracle calls"

SOLVERS = (
    Solver(
        step=nash_md,
        target="regularised",
        converges_to=f"{_NASH} with the theorem's steps; at a constant step its mixture is the Nash at "
        "tau / (1 - h tau)",
        default_step=step_sizes.decaying,
        theorem=step_sizes.decaying,
        canonical=step_sizes.same,
        source=Source(*_MUNOS, "Eq. 4-5, Theorem 1"),
    ),
    Solver(
        step=self_play,
        target="regularised",
        converges_to=f"{_NASH} for h < 2 tau / (tau^2 + lambda^2), +-i lambda the game's rotation there",
        default_step=step_sizes.mirror_descent_step,
        theorem=step_sizes.decaying,
        canonical=step_sizes.same,
        many_players=True,
        source=Source(*_MUNOS, "Sec. 6"),
    ),
    Solver(
        step=reference_response,
        target="reference",
        converges_to="the best response to the reference, which is not the Nash: its gap stays",
        default_step=step_sizes.mirror_descent_step,
        canonical=step_sizes.same,
        source=Source(*_MUNOS, "Sec. 7.2"),
    ),
    Solver(
        name="omd",
        step=self_play,
        target="regularised",
        converges_to=_SLOW,
        default_step=step_sizes.mirror_descent_step,
        theorem=step_sizes.mirror_descent_step,
        canonical=step_sizes.same,
        many_players=True,
        source=Source("Sokota et al.", 2022, "2206.05825", "Theorem 3.4"),
    ),
    Solver(
        name="inpo",
        step=self_play,
        target="regularised",
        converges_to=f"{_SLOW}; KL(pi* || pi_T) <= 32 max(B tau, 1)^2 / (tau^2 (T + 1)) with the theorem's steps",
        default_step=step_sizes.mirror_descent_step,
        theorem=step_sizes.decaying,
        canonical=step_sizes.inverse,
        many_players=True,
        source=Source("Zhang et al.", 2024, "2407.00617", "Eq. 5, Theorem 4"),
    ),
    Solver(
        name="mmd",
        step=self_play,
        target="regularised",
        converges_to=_SLOW,
        default_step=step_sizes.mirror_descent_step,
        theorem=step_sizes.mirror_descent_step,
        canonical=step_sizes.implicit,
        many_players=True,
        source=Source("Sokota et al.", 2022, "2206.05825", "Eq. 10, Theorem 3.4"),
    ),
    Solver(
        step=egpo,
        target="regularised",
        converges_to=_FAST,
        one_step=_TWO_CALLS,
        oracle_calls=2,
        default_step=step_sizes.mirror_prox_step,
        theorem=step_sizes.egpo_theorem_step,
        canonical=step_sizes.same,
        many_players=True,
        source=Source("Zhou et al.", 2025, "2503.08942", "Eq. 6-7"),
    ),
    Solver(
        name="mirror_prox",
        step=egpo,
        target="regularised",
        converges_to=f"{_FAST}: the factor 1 / (1 + 2 tau) for two of them",
        one_step=_TWO_CALLS,
        oracle_calls=2,
        default_step=step_sizes.mirror_prox_step,
        theorem=step_sizes.mirror_prox_step,
        canonical=step_sizes.implicit_in_tau,
        many_players=True,
        source=Source("Tiapkin et al.", 2025, "2505.19731", "Algorithm 1, Theorem 1"),
    ),
    Solver(
        step=nash_rs,
        target="regularised",
        converges_to=_SLOW,
        one_step="the best response to the policy is drawn, then a step against it: two oracle calls",
        oracle_calls=2,
        default_step=step_sizes.mirror_descent_step,
        source=Source("Liu et al.", 2025, "2503.10990", "Sec. 5"),
    ),
    Solver(
        step=nash_ema,
        init=start_ema,
        target="regularised",
        converges_to=f"{_NASH} where the average keeps up: h about 4 tau (1 - ema) / (1 + ema) and less; no theorem",
        default_step=step_sizes.lagging_step,
        canonical=step_sizes.same,
        source=Source(*_MUNOS, "Sec. 7.3"),
    ),
)
