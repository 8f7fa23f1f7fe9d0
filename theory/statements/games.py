r"""The KL-regularised symmetric preference game: payoff, best response, gap, equilibrium."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import geometric_mixture, jeffreys, kl
from alignjax.games import (
    PreferenceGame,
    best_response,
    best_response_value,
    duality_gap,
    duality_gap_by_value,
    nash,
    original_gap,
    payoff,
    von_neumann_winner,
)
from alignjax.games.equilibrium import _jacobian
from alignjax.games.kernel import geometric_step
from alignjax.logspace import log_ratio, log_softmax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import LOOSE, at_most, both, equal, pick

Law = Float[Array, "A"]


def payoff_is_a_double_sum(
    game: PreferenceGame, logp: Law, other: Law, *, sign: float = 1.0, swap: float = 0.0
) -> Array:
    r"""J(pi, nu) = sum pi(y) P(y, y') nu(y') - tau KL(pi || ref) + tau KL(nu || ref), and J(pi, nu) = 1 - J(nu, pi)."""
    by_sums = definitions.payoff(game.preference, game.ref_logp, sign * game.tau, logp, other)
    exchanged = definitions.payoff(game.preference, game.ref_logp, game.tau, other, logp)
    left = payoff(game, logp, other)
    return both(equal(left, pick(swap, exchanged, by_sums)), equal(left, 1 - payoff(game, other, logp)))


def best_response_wins(
    game: PreferenceGame, logp: Law, other: Law, *, factor: float = 1.0, shift: float = 0.0
) -> Array:
    r"""J(BR(nu), nu) - J(pi, nu) = tau KL(pi || BR(nu)) >= 0: no policy does better against nu.

    Proof: J(pi, nu) = tau E_pi[log ref + P nu / tau - log pi] + const, which is -tau KL(pi || BR(nu)) + const. Its
    optimality is also tried directly, on policies between the best response and pi.
    """
    response = best_response(game, other)
    value = definitions.payoff(game.preference, game.ref_logp, game.tau, response, other)
    mine = definitions.payoff(game.preference, game.ref_logp, game.tau, logp, other)
    near = jnp.log(0.99 * jnp.exp(response) + 0.01 * jnp.exp(logp))
    nearby = definitions.payoff(game.preference, game.ref_logp, game.tau, near, other)
    return both(
        equal(value - mine, factor * game.tau * definitions.kl(logp, response) + shift),
        at_most(nearby, value),
    )


def best_response_has_this_value(game: PreferenceGame, logp: Law, *, sign: float = 1.0, baseline: float = 0.0) -> Array:
    r"""max_pi J(pi, nu) = tau log sum_y ref(y) e^{P(y > nu) / tau} + tau KL(nu || ref), by playing the response."""
    response = definitions.best_response(game.preference, game.ref_logp, game.tau, logp)
    played = definitions.payoff(game.preference, game.ref_logp, sign * game.tau, response, logp)
    return equal(played - baseline, best_response_value(game, logp))


def gap_is_kl_to_best_response(game: PreferenceGame, logp: Law, *, factor: float = 1.0, swap: float = 0.0) -> Array:
    r"""max_a J(a, pi) - min_b J(pi, b) = 2 tau KL(pi || BR(pi)).

    Proof: by antisymmetry the gap is 2 max_a J(a, pi) - 1 = 2 [J(BR, pi) - J(pi, pi)], and a KL-regularised linear
    objective is sub-optimal by exactly tau KL to its maximiser. The left side plays the best response in both
    seats.
    """
    response = best_response(game, logp)
    gap = payoff(game, response, logp) - payoff(game, logp, response)
    by_hand = definitions.duality_gap(game.preference, game.ref_logp, game.tau, logp)
    claimed = pick(swap, 2 * game.tau * definitions.kl(response, logp), factor * duality_gap(game, logp))
    return both(equal(gap, claimed), equal(by_hand, claimed))


def gap_from_the_value(game: PreferenceGame, logp: Law, *, factor: float = 1.0, offset: float = 0.0) -> Array:
    r"""gap(pi) = 2 [tau log sum ref e^{P pi / tau} + tau KL(pi || ref)] - 1:
    one log-sum-exp instead of two games played.
    """
    by_hand = definitions.duality_gap(game.preference, game.ref_logp, game.tau, logp)
    return equal(by_hand, factor * duality_gap_by_value(game, logp) + offset)


def win_of_the_equilibrium(
    game: PreferenceGame, equilibrium: Law, logp: Law, *, factor: float = 1.0, swap: float = 0.0, bound: float = 2.0
) -> Array:
    r"""J(pi*, pi) = 1/2 + tau KL(pi || pi*), hence gap(pi) >= 2 tau KL(pi || pi*).

    Proof: pi* is the best response to itself, so that J(pi, pi*) = 1/2 - tau KL(pi || pi*); antisymmetry turns it
    round.
    """
    won = definitions.payoff(game.preference, game.ref_logp, game.tau, equilibrium, logp)
    backward = pick(swap, kl(equilibrium, logp), kl(logp, equilibrium))
    return both(
        equal(won, 0.5 + factor * game.tau * backward),
        at_most(
            bound * game.tau * kl(logp, equilibrium),
            definitions.duality_gap(game.preference, game.ref_logp, game.tau, logp),
        ),
    )


def strongly_monotone(game: PreferenceGame, logp: Law, other: Law, *, factor: float = 1.0, sign: float = 1.0) -> Array:
    r"""<F(pi) - F(nu), pi - nu> = tau [KL(pi || nu) + KL(nu || pi)] with F(pi) = -P pi + tau log(pi / ref).

    Proof: the skew part of P drops out of the quadratic form, and the logarithms leave the two divergences.
    """
    field = [-sign * game.win_rate(x) + game.tau * log_ratio(x, game.ref_logp) for x in (logp, other)]
    left = jnp.sum((field[0] - field[1]) * (jnp.exp(logp) - jnp.exp(other)))
    # The sign of P does not matter, M being skew: that is the point of the identity, and no mutant.
    return equal(left, factor * game.tau * 2 * jeffreys(logp, other))


def hedge_improves(game: PreferenceGame, logp: Law, other: Law, *, factor: float = 1.0, sign: float = 1.0) -> Array:
    r"""If pi' ~ pi e^{P pi / eta} then P(pi' > pi) = 1/2 + eta [KL(pi' || pi) + KL(pi || pi')].

    Proof: log(pi' / pi) = P pi / eta - log Z; take the expectation under pi' and under pi, and subtract.
    """
    eta = jnp.asarray(game.tau)
    after = log_softmax(geometric_step(logp, game.win_rate(logp), 1 / eta))
    won = definitions.wins(game.preference, after, logp)
    return equal(won, 0.5 + factor * eta * (definitions.kl(after, logp) + sign * definitions.kl(logp, after)))


def proximal_step(table: Array, winner: Law, tau: Array, logp: Law, *, sign: float = 1.0, factor: float = 1.0) -> Array:
    r"""KL(w || pi) = KL(w || pi') + KL(pi' || pi) + (P(w > pi') - 1/2) / tau, where pi' is the Nash with reference
    pi at tau and w a Nash of the game without regularisation.

    Proof: log pi' = log pi + P pi' / tau - log Z and log Z = 1/(2 tau) - KL(pi' || pi), by the expectation under
    pi' itself.
    """
    after = nash(PreferenceGame(preference=table, ref_logp=logp, tau=tau))
    margin = definitions.wins(table, winner, after) - 0.5
    right = kl(winner, after) + sign * kl(after, logp) + factor * margin / tau
    return both(equal(definitions.kl(winner, logp), right), at_most(0.0, margin))


def dominated_reference(key: Array) -> tuple[PreferenceGame, Law]:
    """One response beats all others surely, and the reference gives it e^{-u / (2 tau)}:
    there the bound is nearly attained.
    """
    game_key, u_key, tau_key, plain_key = jax.random.split(key, 4)
    tau = instances.log_uniform(tau_key, 0.01, 0.1)
    mass = jnp.exp(-jax.random.uniform(u_key, minval=0.3, maxval=1.5) / (2 * tau))
    size = instances.SIZE
    ref_logp = jnp.log(jnp.where(jnp.arange(size) == 0, mass, (1 - mass) / (size - 1)))
    first = jnp.arange(size) == 0
    table = 0.5 + 0.5 * (first[:, None] & ~first[None, :]) - 0.5 * (first[None, :] & ~first[:, None])
    hard = PreferenceGame(preference=table, ref_logp=ref_logp, tau=tau)
    easy = instances.game(game_key)
    choose = jax.random.uniform(plain_key) < 0.5
    game = jax.tree.map(lambda x, y: jnp.where(choose, x, y), hard, easy)
    return game, nash(game)


def bias_of_regularisation(game: PreferenceGame, equilibrium: Law, *, factor: float = 2.0) -> Array:
    r"""2 (max_y P(y > pi*) - 1/2) <= 2 tau log(1 / min ref): how far the regularised Nash is from the original one.

    Proof: log pi*(y) - log ref(y) = P(y > pi*) / tau - log Z with log Z = 1/(2 tau) - KL(pi* || ref); use pi*(y) <=
    1 and KL >= 0.
    """
    smallest = jnp.min(jnp.where(jnp.isfinite(game.ref_logp), game.ref_logp, 0.0))
    by_sums = 2 * jnp.max(
        jnp.where(jnp.isfinite(game.ref_logp), definitions.win_rate(game.preference, equilibrium) - 0.5, -1.0)
    )
    return both(
        at_most(original_gap(game, equilibrium), factor * game.tau * -smallest),
        equal(original_gap(game, equilibrium), by_sums),
    )


def jacobian_of_the_fixed_point(
    game: PreferenceGame, logp: Law, other: Law, *, sign: float = 1.0, real: float = 1.0
) -> Array:
    r"""f(x) = x - M softmax(log ref + x) / tau has f' = I - M S / tau, S = diag(pi) - pi pi^T, whose eigenvalues
    are 1 +- i lambda / tau.

    M S is similar to a skew matrix (S^{1/2} M S^{1/2}), so that |eig| >= 1: Newton is always well posed.
    """
    offset = jnp.where(jnp.isfinite(game.ref_logp), log_ratio(logp, game.ref_logp), 0.0)
    ref = jnp.where(jnp.isfinite(game.ref_logp), game.ref_logp, -jnp.inf)

    def f(x: Array) -> Array:
        weights = jnp.where(jnp.isfinite(ref), jnp.exp(jnp.where(jnp.isfinite(ref), ref, 0.0) + x), 0.0)
        policy = weights / jnp.sum(weights)
        return x - sign * (game.preference - 0.5) @ policy / game.tau

    matrix = _jacobian(offset, game.preference - 0.5, ref, jnp.asarray(game.tau))
    eigenvalues = jnp.linalg.eigvals(matrix)
    return both(
        equal(jax.jacfwd(f)(offset), matrix),
        equal(eigenvalues.real, real, tolerance=LOOSE),
        at_most(1.0, jnp.abs(eigenvalues), tolerance=LOOSE),
    )


def nash_is_a_fixed_point(
    game: PreferenceGame, equilibrium: Law, logp: Law, *, factor: float = 1.0, blend: float = 0.0
) -> Array:
    r"""pi*(y) = ref(y) e^{P(y > pi*) / tau} / Z, so that its duality gap is 0."""
    at = pick(blend, geometric_mixture(equilibrium, logp, blend), equilibrium)
    response = definitions.best_response(game.preference, game.ref_logp, factor * game.tau, at)
    gap = definitions.duality_gap(game.preference, game.ref_logp, game.tau, at)
    return both(
        equal(jnp.exp(at), jnp.exp(response)), equal(at, response, tolerance=1e-8), equal(gap, 0.0, tolerance=1e-12)
    )


def smooth_game_with_tangent(key: Array) -> tuple[PreferenceGame, PreferenceGame]:
    """A game with full support, and a direction in which all of it moves."""
    game_key, preference_key, reference_key, tau_key = jax.random.split(key, 4)
    game = instances.game(game_key, zeros=False)
    lower = jnp.tril(jax.random.normal(preference_key, game.preference.shape), -1)
    ref_logp = jax.random.normal(reference_key, game.ref_logp.shape)
    return game, jax.tree.unflatten(
        jax.tree.structure(game), [lower - lower.T, ref_logp, game.tau * jax.random.normal(tau_key)]
    )


def nash_is_differentiable(
    game: PreferenceGame, tangent: PreferenceGame, *, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""d pi* = dT with T the fixed-point map log pi -> log ref + P pi / tau - log Z, at the tangent (d log pi*, dP,
    d ref, d tau).

    The left side is the library's implicit derivative, the right side autodiff of the map, without a linear solve.
    """

    def fixed_point_map(logp: Array, preference: Array, ref_logp: Array, tau: Array) -> Array:
        score = ref_logp + (preference @ jnp.exp(logp)) / tau
        return (
            score
            - jnp.log(jnp.sum(jnp.exp(score - jax.lax.stop_gradient(score.max()))))
            - jax.lax.stop_gradient(score.max())
        )

    logp, moved = jax.jvp(nash, (game,), (tangent,))
    primals = (logp, game.preference, game.ref_logp, game.tau)
    tangents = (moved, sign * tangent.preference, tangent.ref_logp, factor * tangent.tau)
    _, mapped = jax.jvp(fixed_point_map, primals, tangents)
    scale = 1 + jnp.max(jnp.abs(moved))
    return equal(moved / scale, mapped / scale, tolerance=1e-8)


def invariances(
    game: PreferenceGame,
    equilibrium: Law,
    logp: Law,
    *,
    tau_factor: float = 2.0,
    relabel: float = 1.0,
    tilt_by: float = 0.0,
) -> Array:
    r"""P -> P + c, a relabelling, and (P - 1/2, tau) -> (P - 1/2, tau) / 2 leave pi* where it is.

    The mutants are in what is expected: the best response to pi* in a game that was changed in another way.
    """
    order = np.roll(np.arange(logp.size), 2)
    moved = PreferenceGame(
        preference=game.preference[order][:, order] + 0.3, ref_logp=game.ref_logp[order], tau=game.tau
    )
    halved = PreferenceGame(preference=0.5 + (game.preference - 0.5) / 2, ref_logp=game.ref_logp, tau=game.tau / 2)
    tilted = game.preference + tilt_by * jnp.arange(logp.size)[:, None]
    expected = definitions.best_response(tilted, game.ref_logp, tau_factor / 2 * game.tau, equilibrium)
    return both(
        equal(jnp.exp(nash(moved)), jnp.exp(pick(relabel, expected[order], expected))),
        equal(jnp.exp(nash(halved)), jnp.exp(expected)),
    )


def hot_limit(
    game: PreferenceGame, equilibrium: Law, logp: Law, *, bound: float = 1.0, factor: float = 1.0, share: float = 0.5
) -> Array:
    r"""tau [KL(pi* || ref) + KL(ref || pi*)] = P(pi* > ref) - 1/2 <= 1/2 and |log(pi* / ref)| <= 1 / tau: pi* ->
    ref as tau -> infinity.

    Proof: the first is J(pi*, ref) = 1/2 + tau KL(ref || pi*) written out. The second: log(pi* / ref) = (M pi*) /
    tau - log Z, where both terms lie in [-1/(2 tau), 1/(2 tau)].
    """
    alive = jnp.isfinite(game.ref_logp)
    distance = jnp.max(jnp.abs(jnp.where(alive, equilibrium, 0.0) - jnp.where(alive, game.ref_logp, 0.0)))
    divergence = game.tau * 2 * jeffreys(equilibrium, game.ref_logp)
    return both(
        at_most(distance, bound / game.tau),
        equal(factor * divergence, definitions.wins(game.preference, equilibrium, game.ref_logp) - 0.5),
        at_most(divergence, share),
    )


def gap_is_a_distance(
    game: PreferenceGame, equilibrium: Law, logp: Law, *, blend: float = 0.0, bound: float = 1.0
) -> Array:
    r"""gap >= 0, with equality at pi* and nowhere else:
    a policy with gap g has tau |pi - pi*|_1^2 <= g (Pinsker on gap >= 2 tau KL).
    """
    at = pick(blend, geometric_mixture(equilibrium, logp, blend), equilibrium)
    distance = jnp.abs(jnp.exp(logp) - jnp.exp(equilibrium)).sum()
    return both(
        at_most(0.0, duality_gap_by_value(game, logp)),
        equal(duality_gap(game, at), 0.0, tolerance=1e-12),
        at_most(bound * game.tau * jnp.square(distance), duality_gap(game, logp)),
    )


def matrix_only(key: Array) -> tuple[Array]:
    """(preference,)."""
    return (instances.preference(key),)


def original_nash_by_linear_program(preference: np.ndarray, *, uniform: float = 0.0, value: float = 0.5) -> Array:
    r"""The von Neumann winner x of any game has max_y P(y > x) = 1/2: the value of a symmetric game.

    A linear program on the host, so that fewer instances are tried than elsewhere; games/L1 tries the closed form
    on 10,000 games.
    """
    size = preference.shape[-1]
    policy = np.full(size, 1 / size) if uniform else von_neumann_winner(preference)
    return both(
        equal((preference * policy[None, :]).sum(1).max(), value), equal(policy.sum(), 1.0), at_most(0.0, policy)
    )


_HERE = "derived in the docstring"
_MUNOS = ("Munos et al.", 2023, "2312.00886")

STATEMENTS = (
    Statement(
        id="games/B1",
        says="the payoff is its double sum, and antisymmetric",
        formula=r"J(\pi,\nu)=\pi^\top P\nu-\tau\,\mathrm{KL}(\pi\|\mu)+\tau\,\mathrm{KL}(\nu\|\mu)=1-J(\nu,\pi)",
        slack=payoff_is_a_double_sum,
        instance=instances.game_and_policies,
        source=Source(*_MUNOS, "Eq. 2 and 3"),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"swap": 1.0}),
    ),
    Statement(
        id="games/B2",
        says="no policy beats the best response, and the shortfall is tau KL to it",
        formula=r"J(\mathrm{BR}(\nu),\nu)-J(\pi,\nu)=\tau\,\mathrm{KL}(\pi\|\mathrm{BR}(\nu))",
        slack=best_response_wins,
        instance=instances.game_and_policies,
        source=Source(*_MUNOS, "proof of Prop. 1"),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"shift": 1e-3}),
    ),
    Statement(
        id="games/B3",
        says="the best response's value is a log-sum-exp",
        formula=r"\max_\pi J(\pi,\nu)=\tau\log\sum_y\mu(y)e^{P(y\succ\nu)/\tau}+\tau\,\mathrm{KL}(\nu\|\mu)",
        slack=best_response_has_this_value,
        instance=instances.game_and_policy,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"sign": -1.0}, {"baseline": 0.5}),
    ),
    Statement(
        id="games/I1",
        says="duality gap = 2 tau KL(policy || its best response)",
        formula=r"\max_a J(a,\pi)-\min_b J(\pi,b)=2\tau\,\mathrm{KL}(\pi\|\mathrm{BR}_\tau(\pi))",
        slack=gap_is_kl_to_best_response,
        instance=instances.game_and_policy,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": 0.5}, {"factor": 2.0}, {"factor": -1.0}, {"swap": 1.0}),
    ),
    Statement(
        id="games/I2",
        says="duality gap from the value of the best response",
        formula=r"\mathrm{gap}(\pi)=2\big[\tau\log\sum\mu e^{P\pi/\tau}+\tau\,\mathrm{KL}(\pi\|\mu)\big]-1",
        slack=gap_from_the_value,
        instance=instances.game_and_policy,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": 0.5}, {"factor": 2.0}, {"offset": 1.0}),
    ),
    Statement(
        id="games/I3",
        says="the equilibrium beats every policy by tau KL(policy || equilibrium)",
        formula=r"J(\pi^*_\tau,\pi)=\tfrac12+\tau\,\mathrm{KL}(\pi\|\pi^*_\tau)"
        r"\ \Rightarrow\ \mathrm{gap}(\pi)\ge2\tau\,\mathrm{KL}(\pi\|\pi^*_\tau)",
        slack=win_of_the_equilibrium,
        instance=instances.game_and_nash,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"swap": 1.0}, {"bound": 3.0}),
    ),
    Statement(
        id="games/I4",
        says="the game is strongly monotone, with equality",
        formula=r"\langle F(\pi)-F(\nu),\pi-\nu\rangle=\tau[\mathrm{KL}(\pi\|\nu)+\mathrm{KL}(\nu\|\pi)]",
        slack=strongly_monotone,
        instance=instances.game_and_policies,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": 0.5}, {"factor": 2.0}, {"factor": -1.0}),
    ),
    Statement(
        id="games/I5",
        says="one Hedge step wins by eta times the Jeffreys divergence",
        formula=r"\pi'\propto\pi e^{P\pi/\eta}\Rightarrow P(\pi'\succ\pi)"
        r"=\tfrac12+\eta[\mathrm{KL}(\pi'\|\pi)+\mathrm{KL}(\pi\|\pi')]",
        slack=hedge_improves,
        instance=instances.game_and_policies,
        source=Source(
            "Rosset et al.", 2024, "2404.03715", "the exact form of the stated inequality, derived in the docstring"
        ),
        mutants=({"factor": 2.0}, {"sign": 0.0}, {"sign": -1.0}),
    ),
    Statement(
        id="games/I6",
        says="a proximal step's decrease of KL to an original Nash, exactly",
        formula=r"\mathrm{KL}(\pi^\dagger\|\pi_k)=\mathrm{KL}(\pi^\dagger\|\pi_{k"
        r"+1})+\mathrm{KL}(\pi_{k+1}\|\pi_k)+\tfrac1\tau[P(\pi^\dagger\succ\pi_{k+1})-\tfrac12]",
        slack=proximal_step,
        instance=instances.cyclic_game,
        source=Source("Liu et al.", 2024, "2410.23223", "the exact form of its lemma, derived in the docstring"),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"factor": 2.0}, {"factor": 0.0}),
    ),
    Statement(
        id="games/I7",
        says="the regularised Nash is a 2 tau log(1/min ref)-equilibrium of the original game",
        formula=r"2(\max_yP(y\succ\pi^*_\tau)-\tfrac12)\le2\tau\log(1/\mu_{\min})",
        slack=bias_of_regularisation,
        instance=dominated_reference,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": 1.0}, {"factor": 1.5}),
    ),
    Statement(
        id="games/I8",
        says="the fixed-point map's Jacobian is I - M S / tau, with eigenvalues of real part 1",
        formula=r"f'(\theta)=I-MS/\tau,\quad \mathrm{eig}=1\pm i\lambda/\tau",
        slack=jacobian_of_the_fixed_point,
        instance=instances.game_and_policies,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"real": 2.0}),
    ),
    Statement(
        id="games/I9",
        says="shifts of P, relabelling, and scaling P - 1/2 and tau together leave the equilibrium",
        formula=r"\pi^*(P+c,\tau)=\pi^*(P,\tau)=\pi^*(\tfrac12+s(P-\tfrac12),s\tau)",
        slack=invariances,
        instance=instances.game_and_nash,
        source=Source("alignjax", 2026, "", "the equilibrium condition, read off"),
        mutants=({"tau_factor": 1.0}, {"relabel": 0.0}, {"tilt_by": 0.01}),
    ),
    Statement(
        id="games/I10",
        says="the equilibrium tends to the reference as tau grows, at rate 1/tau",
        formula=r"|\log(\pi^*_\tau/\mu)|\le1/\tau,\quad \tau[\mathrm{KL}(\pi^*\|\mu)+\mathrm{KL}(\mu\|\pi^*)]"
        r"=P(\pi^*\succ\mu)-\tfrac12",
        slack=hot_limit,
        instance=instances.game_and_nash,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"bound": 0.4}, {"factor": 2.0}, {"share": 0.25}),
    ),
    Statement(
        id="games/G11",
        says="the gap is >= 0, and 0 at the equilibrium and nowhere else",
        formula=r"\mathrm{gap}(\pi)\ge\tau\|\pi-\pi^*_\tau\|_1^2,\quad\mathrm{gap}(\pi^*_\tau)=0",
        slack=gap_is_a_distance,
        instance=instances.game_and_nash,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"blend": 0.05}, {"bound": 2.5}),
    ),
    Statement(
        id="games/G12",
        says="the von Neumann winner by linear program has value 1/2",
        formula=r"\max_yP(y\succ x)=\tfrac12",
        slack=original_nash_by_linear_program,
        instance=matrix_only,
        source=Source("Dudik et al.", 2015, "1502.06362", "Sec. 2"),
        mutants=({"uniform": 1.0}, {"value": 0.51}),
        num_instances=300,
        on_host=True,
    ),
    Statement(
        id="games/N1",
        says="the regularised Nash is its own best response, and its gap vanishes to rounding",
        formula=r"\pi^*_\tau(y)\propto\mu(y)e^{P(y\succ\pi^*_\tau)/\tau}",
        slack=nash_is_a_fixed_point,
        instance=instances.game_and_nash,
        source=Source(*_MUNOS, "Prop. 1"),
        mutants=({"factor": 1.01}, {"factor": -1.0}, {"blend": 0.05}),
    ),
    Statement(
        id="games/N2",
        says="the equilibrium's derivative in preferences, reference and temperature is the implicit one",
        formula=r"d\log\pi^*=dT(\log\pi^*),\ T=\log\mu+P\pi/\tau-\log Z",
        slack=nash_is_differentiable,
        instance=smooth_game_with_tangent,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": -1.0}, {"factor": 2.0}, {"sign": -1.0}),
    ),
)
