r"""The rows of the table of solvers: what a step is, what it leaves where it is, each paper's symbol, the default step.

The right sides are the papers' own updates, written as products of laws (`definitions.gibbs`, `definitions.mixture`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.games import PreferenceGame, solve
from alignjax.games.solvers import solver
from alignjax.games.solvers import step as solver_step
from alignjax.record import Source
from theory import definitions
from theory.record import Statement
from theory.slack import both, equal, pick
from theory.statements.nash_md import game_policy_and_step

Law = Float[Array, "A"]


def fixed_points(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, blend: float = 0.0, mixed: float = 0.0
) -> Array:
    r"""One step of a solver of the regularised game leaves its Nash where it is, at every h with h tau <= 1.

    Nash-MD does not: its opponent is the mixture with the reference (the mutant `mixed`).
    """
    at = pick(blend, definitions.mixture(equilibrium, logp, blend), equilibrium)
    names = ("omd", "inpo", "mmd", "egpo", "mirror_prox", "nash_rs")
    slacks = [equal(jnp.exp(solver_step(game, name, at, step)), jnp.exp(at)) for name in names]
    averaged = solve(game, "nash_ema", num_steps=2, step_size=step, init_logp=at).logp
    stays = pick(mixed, solver_step(game, "nash_md", at, 0.5 * step), averaged)
    return both(*slacks, equal(jnp.exp(stays), jnp.exp(at)))


def two_call_steps(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, half: float = 1.0, factor: float = 1.0
) -> Array:
    r"""EGPO steps against its own half step, Nash-RS against the best response to the policy; both from pi^{1 - h tau}
    ref^{h tau}.
    """
    centre = definitions.mixture(logp, game.ref_logp, factor * step * game.tau)

    def by_hand(opponent: Law) -> Array:
        return definitions.normalised(centre + step * definitions.win_rate(game.preference, opponent))

    looked = pick(half, by_hand(logp), logp)
    accepted = definitions.best_response(game.preference, game.ref_logp, half * game.tau + (1 - half), logp)
    return both(
        equal(jnp.exp(solver_step(game, "egpo", logp, step)), jnp.exp(by_hand(looked))),
        equal(jnp.exp(solver_step(game, "mirror_prox", logp, step)), jnp.exp(by_hand(looked))),
        equal(jnp.exp(solver_step(game, "nash_rs", logp, step)), jnp.exp(by_hand(accepted))),
    )


def steps_with_memory(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, ema: float = 0.7, stale: float = 0.0
) -> Array:
    r"""Nash-EMA plays against avg_{t+1} ~ avg_t^m pi_{t+1}^{1-m}; ONPO corrects pi'_{t+1} ~ pi'_t e^{h P pi_t} and
    predicts pi_{t+1} ~ pi'_{t+1} e^{h P pi_t}. Three steps of each; the averages start at pi_0.
    """
    h = 0.5 * step
    rate = lambda opponent: definitions.win_rate(game.preference, opponent)
    policy, average = logp, logp
    rows = []
    for _ in range(3):
        centre = definitions.mixture(policy, game.ref_logp, h * game.tau)
        policy = definitions.normalised(centre + h * rate(pick(stale, policy, average)))
        average = definitions.mixture(average, policy, 1 - ema)
        rows.append(policy)
    averaged = solve(game, "nash_ema", num_steps=3, step_size=h, init_logp=logp, ema=0.7)
    policy, auxiliary = logp, logp
    corrected = []
    for _ in range(3):
        auxiliary = definitions.normalised(auxiliary + h * rate(policy))
        policy = definitions.normalised(auxiliary + pick(stale, 0.0, h * rate(policy)))
        corrected.append(policy)
    optimistic = solve(game, "onpo", num_steps=3, step_size=h, init_logp=logp)
    return both(
        equal(jnp.exp(averaged.trajectory[1:]), jnp.exp(jnp.stack(rows))),
        equal(jnp.exp(optimistic.trajectory[1:]), jnp.exp(jnp.stack(corrected))),
    )


def moving_magnet(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, sign: float = 1.0, held: float = 0.0
) -> Array:
    r"""MPO: pi_{t+1} ~ pi_t^{1 - h tau} magnet^{h tau} e^{h P pi_t}; the magnet starts at the reference and moves to
    the policy every `magnet_steps` steps, by default every 10 / (h tau).
    """

    def one(one_game: PreferenceGame, policy: Law, magnet: Law, h: Array | float) -> Law:
        centre = definitions.mixture(policy, magnet, h * one_game.tau)
        return definitions.normalised(centre + sign * h * definitions.win_rate(one_game.preference, policy))

    policy, magnet, rows = logp, game.ref_logp, []
    for t in range(5):
        policy = one(game, policy, magnet, 0.5 * step)
        magnet = pick(held, magnet, policy) if t % 2 else magnet
        rows.append(policy)
    given = solve(game, "mpo", num_steps=5, step_size=0.5 * step, init_logp=logp, magnet_steps=2)
    # h tau = 0.49 and tau >= 1: the magnet moves after 21 steps, the first number above 10 / 0.49, and nothing grows.
    calm = PreferenceGame(preference=game.preference, ref_logp=game.ref_logp, tau=1.0 + game.tau)
    h = 0.49 / calm.tau
    moved = jax.lax.fori_loop(0, 21, lambda _, x: one(calm, x, calm.ref_logp, h), logp)
    after = one(calm, moved, pick(held, calm.ref_logp, moved), h)
    default = solve(calm, "mpo", num_steps=22, step_size=h, init_logp=logp)
    return both(
        equal(jnp.exp(given.trajectory[1:]), jnp.exp(jnp.stack(rows))), equal(jnp.exp(default.logp), jnp.exp(after))
    )


def symbols_of_the_papers(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, power: float = 1.0, inverse: float = 1.0
) -> Array:
    r"""A paper's update in its own eta is the canonical step at `canonical(eta, tau)`.

    INPO: e^{P/eta} ref^{tau/eta} pi^{1 - tau/eta}. MMD and MPO: [pi ref^{eta tau} e^{eta P}]^{1/(1 + eta tau)}.
    Mirror-prox: [pi ref^eta e^{eta P/tau}]^{1/(1 + eta)}. The others write h.
    """
    tau, rate = game.tau, definitions.win_rate(game.preference, logp)
    alive = jnp.isfinite(game.ref_logp)
    own, ref = jnp.where(alive, logp, 0.0), jnp.where(alive, game.ref_logp, 0.0)

    def law(weights: Array) -> Array:
        return jnp.exp(definitions.normalised(jnp.where(alive, weights, -jnp.inf)))

    def at(name: str, eta: Array) -> Array:
        canonical = solver(name).canonical
        assert canonical is not None
        return jnp.exp(solver_step(game, "omd", logp, canonical(eta, tau)))

    eta = 1 / step  # of INPO: eta >= tau
    inverted = law(inverse * rate / eta + tau / eta * ref + (1 - tau / eta) * own)
    implicit = law((own + step * tau * ref + step * rate) / (1 + power * step * tau))
    units = step * tau  # of mirror-prox
    relative = law((own + units * ref + units * rate / tau) / (1 + power * units))
    plain = law((1 - step * tau) * own + step * tau * ref + inverse * step * rate)
    direct = ("nash_md", "self_play", "reference_response", "omd", "egpo", "nash_ema", "mwu", "onpo", "mnpo")
    return both(
        equal(at("inpo", eta), inverted),
        equal(at("mmd", step), implicit),
        equal(at("mpo", step), implicit),
        equal(at("mirror_prox", units), relative),
        *(equal(at(name, step), plain) for name in direct),
    )


def default_and_theorem_steps(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, factor: float = 1.0, offset: float = 2.0
) -> Array:
    r"""Default steps: h / (1 - h tau) is 4 tau for mirror descent, 2 for extragradient, 4 tau / 19 for Nash-EMA; a
    decaying step has h_t tau (t + 2) = 2, Hedge h^2 T = 8 max log(1 / ref), ONPO 1/2, COMAL h tau = 1.

    Theorems: EGPO h (tau + 3) = 1, ONPO 1/8; decaying for Nash-MD, self-play and INPO; the defaults of the others.
    """
    tau, times, count = game.tau, jnp.arange(4.0), 4

    def default(name: str) -> Array:
        row = solver(name).default_step
        assert row is not None
        return row(times, game, count)

    def theorem(name: str) -> Array:
        row = solver(name).theorem
        assert row is not None
        return row(times, game, count)

    def implicit(h: Array) -> Array:
        return h / (1 - h * tau)

    depth = jnp.max(jnp.where(jnp.isfinite(game.ref_logp), -game.ref_logp, 0.0))
    slow, fast, hedge = factor * 4 * tau, factor * 2.0, factor * 8 * depth
    mirror = ("self_play", "reference_response", "omd", "inpo", "mmd", "nash_rs", "mpo")
    return both(
        *(equal(implicit(default(name)), slow) for name in mirror),
        *(equal(implicit(theorem(name)), slow) for name in ("omd", "mmd")),
        *(equal(implicit(h), fast) for h in (default("egpo"), default("mirror_prox"), theorem("mirror_prox"))),
        equal(19 * implicit(default("nash_ema")), slow),
        *(equal(h * tau * (times + offset), 2.0) for h in (default("nash_md"), theorem("nash_md"))),
        *(equal(theorem(name) * tau * (times + offset), 2.0) for name in ("self_play", "inpo")),
        *(equal(jnp.square(h(name)) * count, hedge) for name in ("mwu", "mnpo") for h in (default, theorem)),
        equal(theorem("egpo") * (tau + 3), 1.0),
        *(equal(h("comal") * tau, factor) for h in (default, theorem)),
        equal(2 * default("onpo"), factor),
        equal(8 * theorem("onpo"), factor),
    )


def proximal_problem(
    game: PreferenceGame, equilibrium: Law, logp: Law, step: Array, *, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""MMD's step is the maximiser of eta [<pi, P pi_t> - tau KL(pi || ref)] - KL(pi || pi_t), and mirror descent's at
    h = eta / (1 + eta tau).

    By autodiff of that objective: its gradient on the logits vanishes at the step. The sequence of OpenSpiel's
    implementation is in tests/games.
    """
    rate = definitions.win_rate(game.preference, logp)

    def objective(x: Array) -> Array:
        law = definitions.softmax_of(x)
        gain = sign * definitions.expectation(law, rate) - factor * game.tau * definitions.kl(law, game.ref_logp)
        return step * gain - definitions.kl(law, logp)

    after = solve(game, "mmd", num_steps=1, eta=step, init_logp=logp).logp
    scale = 1 + step * game.tau
    mirror = solver_step(game, "omd", logp, step / (1 + step * game.tau))
    return both(
        equal(jax.grad(objective)(after) / scale, 0.0), equal(jnp.exp(after), jnp.exp(mirror)), equal(after, mirror)
    )


def _row(name: str, says: str, formula: str, slack: Any, mutants: tuple[dict[str, float], ...], *source: Any) -> Any:
    where = Source(*source) if source else Source("alignjax", 2026, "", "the papers' updates, in the docstring")
    return Statement(
        id=f"games/{name}", says=says, formula=formula, slack=slack, instance=game_policy_and_step, source=where,
        mutants=mutants,
    )  # fmt: skip


STATEMENTS = (
    _row(
        "SV1",
        "the regularised Nash is a fixed point of every step towards it",
        r"\pi^*_\tau=\mathrm{step}(\pi^*_\tau)",
        fixed_points,
        ({"blend": 0.1}, {"mixed": 1.0}),
    ),
    _row(
        "SV2",
        "EGPO steps against its half step, Nash-RS against the best response",
        r"\pi_{t+1}\propto\pi_t^{1-h\tau}\mu^{h\tau}e^{hP(y\succ\nu_t)}",
        two_call_steps,
        ({"half": 0.0}, {"factor": 0.5}),
    ),
    _row(
        "SV3",
        "Nash-EMA and ONPO, three steps of each by hand",
        r"\bar\pi_{t+1}\propto\bar\pi_t^m\pi_{t+1}^{1-m};\ \pi_{t+1}\propto\pi'_{t+1}e^{hP\pi_t}",
        steps_with_memory,
        ({"ema": 0.3}, {"stale": 1.0}),
    ),
    _row(
        "SV4",
        "MPO's magnet moves to the policy, by default every 10 / (h tau) steps",
        r"\pi_{t+1}\propto\pi_t^{1-h\tau}\rho_t^{h\tau}e^{hP\pi_t}",
        moving_magnet,
        ({"sign": -1.0}, {"held": 1.0}),
        "Wang et al.", 2024, "2410.16714", "Algorithm 1",
    ),
    _row(
        "SV5",
        "each paper's own step size is the canonical one by its row's conversion",
        r"h=\eta,\ 1/\eta,\ \eta/(1+\eta\tau),\ \eta/(\tau(1+\eta))",
        symbols_of_the_papers,
        ({"power": 2.0}, {"power": 0.0}, {"inverse": 2.0}),
    ),
    _row(
        "SV6",
        "the default steps and those of the theorems",
        r"\tfrac h{1-h\tau}=4\tau,\ 2,\ \tfrac{4\tau}{19};\ h_t\tau(t+2)=2;\ h^2T=8D",
        default_and_theorem_steps,
        ({"factor": 2.0}, {"factor": 0.5}, {"offset": 1.0}),
    ),
    _row(
        "MM1",
        "magnetic mirror descent solves its proximal problem, and is mirror descent",
        r"\arg\max_\pi\eta[\pi^\top P\pi_t-\tau\mathrm{KL}(\pi\|\mu)]-\mathrm{KL}(\pi\|\pi_t)",
        proximal_problem,
        ({"factor": 2.0}, {"sign": -1.0}),
        "Sokota et al.", 2022, "2206.05825", "Eq. 10",
    ),
)  # fmt: skip
