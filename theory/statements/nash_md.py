r"""Nash-MD: its steps, its theorem, its constant-step fixed point, and the policy gradients built on it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, geometric_mixture, kl, methods, population_grad, population_loss
from alignjax.games import PreferenceGame, nash, solve
from alignjax.games.equilibrium import mixture_equilibrium
from alignjax.games.solvers import step as solver_step
from alignjax.games.step_sizes import nash_md_theorem_step
from alignjax.objectives.nash_md import ema_of_parameters
from alignjax.record import Source
from theory import definitions, instances
from theory.instances import TREE
from theory.record import Statement
from theory.slack import at_most, both, equal, pick
from theory.statements.kl_estimators import flat, sequence_logp

Law = Float[Array, "A"]
Logits = Float[Array, "A"]


def game_policy_and_step(key: Array) -> tuple[PreferenceGame, Law, Law, Array]:
    """(game, its Nash, a policy of the reference's support, step size h with h tau in (0, 1])."""
    game_key, policy_key, step_key = jax.random.split(key, 3)
    game = instances.game(game_key)
    weight = jax.random.uniform(step_key, minval=0.01, maxval=1.0)
    return game, nash(game), instances.policy(policy_key, game.ref_logp, zeros=False), weight / game.tau


def one_step_inequality(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, constant: float = 0.125, contraction: float = 1.0
) -> Array:
    r"""KL(pi* || pi_{t+1}) <= (1 - h tau) KL(pi* || pi_t) + h^2 / 8; the paper has 2 h^2.

    Proof: for pi+ ~ pi- e^d, KL(p || pi+) <= KL(p || pi-) + <pi- - p, d> + range(d)^2 / 8 (Hoeffding); here d = h P
    pi^mu lies in [0, h], and the inner product and the mixture's own divergence are dealt with as in the paper.
    """
    after = solver_step(game, "nash_md", logp, step)
    bound = (1 - contraction * step * game.tau) * definitions.kl(equilibrium, logp) + constant * step**2
    return at_most(definitions.kl(equilibrium, after), bound)


def theorem(game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, constant: float = 0.5) -> Array:
    r"""With h_t = 2 / (tau (t + 2)), KL(pi* || pi_T) <= 1 / (2 tau^2 (T + 1)) at every T; the paper has 8 / (tau^2
    (T + 1)).

    Proof: the paper's induction on NM1, whose h^2 / 8 is a sixteenth of its 2 h^2.
    """
    solution = solve(game, "nash_md", num_steps=40, step_size="theorem", init_logp=logp)
    distances = jax.vmap(lambda x: definitions.kl(equilibrium, x))(solution.trajectory[1:])
    return at_most(distances, constant / (game.tau**2 * (jnp.arange(1, 41) + 1)), tolerance=1e-10)


def theorem_schedule(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, factor: float = 1.0, offset: float = 2.0
) -> Array:
    r"""h_t tau (t + 2) = 2, so that h_0 tau = 1 and pi_1 = ref e^{P(y > ref)/tau} / Z, whatever pi_0 was,
    zeros included.
    """
    times = jnp.arange(10.0)
    deterministic = jnp.where(jnp.arange(logp.size) == jnp.argmax(game.ref_logp), 0.0, -jnp.inf)
    first = solve(game, "nash_md", num_steps=1, step_size="theorem", init_logp=deterministic).logp
    expected = definitions.best_response(game.preference, game.ref_logp, factor * game.tau, game.ref_logp)
    return both(
        equal(nash_md_theorem_step(times, jnp.asarray(game.tau)) * game.tau * (times + offset), 2 * factor),
        equal(jnp.exp(first), jnp.exp(expected)),
    )


def constant_step_fixed_point(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, factor: float = 1.0, itself: float = 0.0
) -> Array:
    r"""Nash-MD with a constant step stays at pi ~ ref e^{P(y > pi^mu)/tau}, whose mixture pi^mu is the Nash at tau
    / (1 - h tau).

    So it does not converge to the Nash at tau (the mutant).
    """
    weight = 0.9 * step * game.tau
    held = mixture_equilibrium(game.preference, game.ref_logp, game.tau, weight)
    at = pick(itself, equilibrium, held)
    mixed = definitions.mixture(at, game.ref_logp, weight)
    response = definitions.best_response(game.preference, game.ref_logp, game.tau / (1 - factor * weight), mixed)
    return both(
        equal(jnp.exp(solver_step(game, "nash_md", at, weight / game.tau)), jnp.exp(at)),
        equal(jnp.exp(mixed), jnp.exp(response)),
    )


def steps_by_hand(
    game: PreferenceGame,
    equilibrium: Law,
    logp: Law,
    step: Array,
    *,
    sign: float = 1.0,
    factor: float = 1.0,
    stale: float = 0.0,
) -> Array:
    r"""pi_{t+1} ~ pi_t^{1 - h tau} ref^{h tau} e^{h P(y > opponent)}; opponents:
    the mixture, the policy, the reference, pi^{1-m} ref^m.
    """
    h = 0.5 * step
    weight = factor * h * game.tau
    centre = definitions.mixture(logp, game.ref_logp, weight)
    eighth = definitions.mixture(logp, game.ref_logp, 0.125)

    def by_hand(opponent: Law) -> Array:
        return jnp.exp(definitions.normalised(centre + sign * h * definitions.win_rate(game.preference, opponent)))

    return both(
        equal(jnp.exp(solver_step(game, "nash_md", logp, h)), by_hand(pick(stale, logp, centre))),
        equal(jnp.exp(solver_step(game, "self_play", logp, h)), by_hand(pick(stale, centre, logp))),
        equal(jnp.exp(solver_step(game, "reference_response", logp, h)), by_hand(pick(stale, centre, game.ref_logp))),
        equal(jnp.exp(solver_step(game, "nash_md", logp, h, mixture=0.125)), by_hand(eighth)),
    )


def solve_is_a_loop(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""`solve` applies the step again and again, keeps the trajectory from the start,
    and reports the duality gap of the end.
    """
    found = solve(game, "self_play", num_steps=3, step_size=0.3 * step, init_logp=logp)
    rows = [logp]
    for _ in range(3):
        centre = definitions.mixture(rows[-1], game.ref_logp, 0.3 * step * game.tau)
        score = sign * factor * 0.3 * step * definitions.win_rate(game.preference, rows[-1])
        rows.append(definitions.normalised(centre + score))
    gap = definitions.duality_gap(game.preference, game.ref_logp, game.tau, rows[-1])
    return both(
        equal(jnp.exp(found.trajectory), jnp.exp(jnp.stack(rows))), equal(found.gap, gap), equal(found.logp, rows[-1])
    )


# --- policy gradients -----------------------------------------------------------------------------------------------


def _ascent(problem: Problem, logits: Logits, beta: Array, opponent: Law) -> Array:
    """grad of P(pi > sg[opponent]) - beta KL(pi || ref), by autodiff of the definition."""
    assert problem.preference is not None
    preference = problem.preference

    def value(x: Array) -> Array:
        logp = definitions.softmax_of(x)
        return definitions.wins(preference, logp, opponent) - beta * definitions.kl(logp, problem.ref_logp)

    return jax.grad(value)(logits)


def policy_gradient_against_the_mixture(
    problem: Problem, logits: Logits, beta: Array, *, weight: float = 0.25, sign: float = 1.0, moving: float = 0.0
) -> Array:
    r"""Nash-MD-PG's population gradient is -grad [P(pi > sg[pi^{1-m} ref^m]) - beta KL(pi || ref)];
    1/2 is a baseline.
    """
    opponent = definitions.mixture(definitions.softmax_of(logits), problem.ref_logp, weight)
    found = population_grad("nash_md_pg", problem, logits, beta=beta, mixture=0.25)
    grouped = population_grad("nash_md_pg", problem, logits, beta=beta, mixture=0.25, group_size=2)
    exact = -sign * _ascent(problem, logits, beta, opponent)
    return both(equal(found, exact + moving * jnp.exp(definitions.softmax_of(logits))), equal(grouped, found))


def policy_gradient_against_the_anchor(
    problem: Problem, logits: Logits, beta: Array, *, sign: float = 1.0, itself: float = 0.0, keep: float = 0.9
) -> Array:
    r"""Nash-EMA-PG's gradient has the anchor as opponent, held fixed; its optimum is then the best response to it.

    The anchor is moved to keep * anchor + (1 - keep) * params.
    """
    assert problem.preference is not None and problem.reward is not None
    alive = jnp.isfinite(problem.ref_logp)
    anchor = definitions.normalised(jnp.where(alive, problem.reward, -jnp.inf))
    held = Problem(ref_logp=problem.ref_logp, preference=problem.preference, anchor_logp=anchor)
    opponent = pick(itself, definitions.softmax_of(logits), anchor)
    optimum = methods["nash_ema_pg"].optimum(held, beta=beta)
    response = definitions.best_response(problem.preference, problem.ref_logp, beta, opponent)
    free = methods["nash_ema_pg"].optimum(Problem(ref_logp=problem.ref_logp, preference=problem.preference), beta=beta)
    moved = ema_of_parameters({"w": jnp.ones(2)}, {"w": 3 * jnp.ones(2)}, ema=0.9)
    return both(
        equal(
            population_grad("nash_ema_pg", held, logits, beta=beta), -sign * _ascent(problem, logits, beta, opponent)
        ),
        equal(jnp.exp(optimum), jnp.exp(response)),
        equal(jnp.exp(free), jnp.exp(definitions.best_response(problem.preference, problem.ref_logp, beta, free))),
        equal(moved["w"], keep + 3 * (1 - keep)),
    )


def tree_problem(key: Array) -> tuple[Any, Any, Array, Array]:
    """(logits, reference logits, preference over the nine sequences, beta)."""
    policy_key, preference_key, beta_key = jax.random.split(key, 3)
    logits, ref_logits = instances.token_policies(policy_key)
    table = instances.preference(preference_key, TREE.num_leaves)
    return logits, ref_logits, table, instances.log_uniform(beta_key, 0.05, 2.0)


def token_gradient_is_the_sequence_gradient(
    logits: Any,
    ref_logits: Any,
    table: Array,
    beta: Array,
    *,
    sign: float = 1.0,
    factor: float = 1.0,
    myopic: float = 0.0,
) -> Array:
    r"""nash_md_pg_token, token by token with the reward-to-go of the KL, has the gradient of P(pi > sg[opponent]) -
    beta KL.

    Without the future log-ratios (the mutant: conditional KLs at frozen prefixes) the gradient is another one.
    """
    problem = TREE.problem(ref_logits, preference=table)
    ref_logp = sequence_logp(ref_logits)
    opponent = definitions.mixture(sequence_logp(logits), ref_logp, 0.125)

    def loss(z: Any) -> Array:
        return population_loss("nash_md_pg_token", problem, beta=beta, mixture=0.125, **TREE.policy(z))

    def value(z: Any) -> Array:
        logp = sequence_logp(z)
        return definitions.wins(table, logp, opponent) - factor * beta * definitions.kl(logp, ref_logp)

    def short(z: Any) -> Array:
        prefix = jnp.exp(definitions.softmax_of(logits[0][0]))
        first = definitions.kl(definitions.softmax_of(z[0][0]), definitions.softmax_of(ref_logits[0][0]))
        rest = [
            definitions.kl(definitions.softmax_of(a), definitions.softmax_of(b))
            for a, b in zip(z[1], ref_logits[1], strict=True)
        ]
        return definitions.wins(table, sequence_logp(z), opponent) - beta * (first + jnp.sum(prefix * jnp.stack(rest)))

    exact = pick(myopic, flat(jax.grad(short)(logits)), flat(jax.grad(value)(logits)))
    return equal(flat(jax.grad(loss)(logits)), -sign * exact)


def mixing_logits(logp: Law, logq: Law, *, shift: float = 0.0, weight: float = 0.3) -> Array:
    r"""log pi^{1-m} ref^m is the log-softmax of (1 - m) z + m z_ref for raw logits as for log-probs;
    m = 0 and 1 are the ends.
    """
    raw = geometric_mixture(logp + 3.0, logq - 2.0 + shift * jnp.arange(logq.size), 0.3)
    product = jnp.exp(logp) ** (1 - weight) * jnp.exp(logq) ** weight
    return both(
        equal(jnp.exp(geometric_mixture(logp, logq, 0.3)), product / product.sum()),
        equal(raw, geometric_mixture(logp, logq, 0.3)),
        equal(geometric_mixture(logp, logq, 0.0), logp),
        equal(geometric_mixture(logp, logq, 1.0), logq),
    )


def token_mixture_is_another(logits: Any, ref_logits: Any, *, token: float = 0.0, swap: float = 0.0) -> Array:
    r"""A sequence mixture's log-ratio to pi^{1-m} ref^m is one constant;
    mixing prefix by prefix (the mutant) gives another law.
    """
    logp, ref_logp = sequence_logp(logits), sequence_logp(ref_logits)
    nodes = tuple(geometric_mixture(a, b, 0.4) for a, b in zip(logits, ref_logits, strict=True))
    mixed = pick(token, TREE.leaf_logp(nodes), geometric_mixture(logp, ref_logp, pick(swap, 0.6, 0.4)))
    offset = mixed - 0.6 * logp - 0.4 * ref_logp
    return both(equal(offset, offset.mean()), equal(jnp.exp(mixed).sum(), 1.0), at_most(0.0, kl(mixed, logp)))


_MUNOS = ("Munos et al.", 2023, "2312.00886")

STATEMENTS = (
    Statement(
        id="games/NM1",
        says="one Nash-MD step, with h^2/8 where the paper has 2 h^2",
        formula=r"\mathrm{KL}(\pi^*_\tau\|\pi_{t+1})\le(1-h\tau)\mathrm{KL}(\pi^*_\tau\|\pi_t)+\tfrac{h^2}8",
        slack=one_step_inequality,
        instance=game_policy_and_step,
        source=Source(*_MUNOS, "Theorem 1, with the constant derived in the docstring"),
        mutants=({"constant": 0.0}, {"contraction": 2.0}, {"constant": -0.125}),
    ),
    Statement(
        id="games/NM2",
        says="Nash-MD's theorem at every T, with a constant 16 times smaller",
        formula=r"h_t=\tfrac2{\tau(t+2)}\Rightarrow\mathrm{KL}(\pi^*_\tau\|\pi_T)\le\tfrac1{2\tau^2(T+1)}",
        slack=theorem,
        instance=game_policy_and_step,
        source=Source(*_MUNOS, "Theorem 1, with the constant derived in the docstring"),
        mutants=({"constant": 1e-3}, {"constant": -0.5}),
    ),
    Statement(
        id="games/NM2b",
        says="the theorem's schedule forgets the initial policy in its first step",
        formula=r"h_0\tau=1\Rightarrow\pi_1\propto\mu e^{P(y\succ\mu)/\tau}",
        slack=theorem_schedule,
        instance=game_policy_and_step,
        source=Source(*_MUNOS, "Theorem 1"),
        mutants=({"factor": 2.0}, {"offset": 1.0}),
    ),
    Statement(
        id="games/NM3",
        says="at a constant step Nash-MD's mixture is the Nash, at tau / (1 - h tau)",
        formula=r"\pi\propto\mu e^{P(y\succ\pi^\mu)/\tau},\ \pi^\mu=\pi^*_{\tau/(1-h\tau)}",
        slack=constant_step_fixed_point,
        instance=game_policy_and_step,
        source=Source("Calandriello et al.", 2024, "2403.08635", "Prop. 5.2, applied to Nash-MD's update"),
        mutants=({"factor": 0.0}, {"factor": -1.0}, {"itself": 1.0}),
    ),
    Statement(
        id="games/NM4",
        says="Nash-MD-PG's population gradient is that of the win-rate against the frozen mixture",
        formula=r"\nabla L=-\nabla[P(\pi\succ\mathrm{sg}\,\pi^{1-m}\mu^m)-\beta\,\mathrm{KL}(\pi\|\mu)]",
        slack=policy_gradient_against_the_mixture,
        instance=instances.on_policy_problem,
        source=Source(*_MUNOS, "Sec. 7.2"),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"weight": 0.75}, {"moving": 0.01}),
    ),
    Statement(
        id="games/NM4b",
        says="Nash-EMA-PG plays against its anchor",
        formula=r"\nabla L=-\nabla[P(\pi\succ\bar\pi)-\beta\,\mathrm{KL}(\pi\|\mu)]",
        slack=policy_gradient_against_the_anchor,
        instance=instances.on_policy_problem,
        source=Source(*_MUNOS, "Sec. 7.3, Appendix F.3"),
        mutants=({"sign": -1.0}, {"itself": 1.0}, {"keep": 0.1}),
    ),
    Statement(
        id="games/NM5",
        says="token by token, the reward-to-go of the KL makes Nash-MD-PG's gradient exact",
        formula=r"-\mathbb E\sum_n[P-\tfrac12-\beta\sum_{m\ge n}h_m]\nabla\log\pi(y_n|y_{<n})",
        slack=token_gradient_is_the_sequence_gradient,
        instance=tree_problem,
        source=Source(*_MUNOS, "Appendix F.2"),
        mutants=({"sign": -1.0}, {"factor": 2.0}, {"myopic": 1.0}),
    ),
    Statement(
        id="games/NM6",
        says="mixing raw logits is mixing log-probabilities",
        formula=r"\pi^{1-m}\mu^m=\mathrm{softmax}((1-m)z+mz_\mu)",
        slack=mixing_logits,
        instance=instances.smooth_laws,
        source=Source(*_MUNOS, "Sec. 7.2"),
        mutants=({"shift": 0.1}, {"weight": 0.7}),
    ),
    Statement(
        id="games/NM6b",
        says="the mixture of sequences is not the mixture token by token",
        formula=r"\log\pi^{(m)}(y)-(1-m)\log\pi(y)-m\log\mu(y)=-\log Z",
        slack=token_mixture_is_another,
        instance=instances.token_policies,
        source=Source(*_MUNOS, "Sec. 7.2 (one-step-at-a-time regularised policies)"),
        mutants=({"token": 1.0}, {"swap": 1.0}),
    ),
    Statement(
        id="games/NM7",
        says="the steps of nash_md, self_play and reference_response, written out",
        formula=r"\pi_{t+1}\propto\pi_t^{1-h\tau}\mu^{h\tau}e^{hP(y\succ\nu)}",
        slack=steps_by_hand,
        instance=game_policy_and_step,
        source=Source(*_MUNOS, "Eq. 4-6"),
        mutants=({"sign": -1.0}, {"factor": 0.5}, {"stale": 1.0}),
    ),
    Statement(
        id="games/NM8",
        says="solve is the step in a loop, and reports the duality gap",
        formula=r"\pi_0,\pi_1,\pi_2,\pi_3",
        slack=solve_is_a_loop,
        instance=game_policy_and_step,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"factor": 2.0}, {"sign": -1.0}),
    ),
)
