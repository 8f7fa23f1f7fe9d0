r"""BOND, J-BOND and vBoN: whose gradients they follow, where they rest, and what their anchors and rewards do."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, best_of_n, bond_reward, methods, population_grad
from alignjax.best_of import effective_n
from alignjax.mixed_kl import mixed_kl_minimiser
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick
from theory.statements.best_of import at_most_as_good, best_of_three, log_of, tied_reward, written_out

Law = Float[Array, "A"]
Logits = Float[Array, "A"]


def anchored_problem(key: Array) -> tuple[Problem, Logits, Array]:
    """(problem with a moving anchor, logits, weight in [0, 1]), full support, ties included."""
    keys = jax.random.split(key, 5)
    problem = Problem(
        ref_logp=instances.smooth_law(keys[0]), anchor_logp=instances.smooth_law(keys[1]), reward=tied_reward(keys[2])
    )
    return problem, 1.5 * jax.random.normal(keys[3], (instances.SIZE,)), jax.random.uniform(keys[4])


def _anchor(problem: Problem) -> tuple[Law, Array]:
    assert problem.anchor_logp is not None and problem.reward is not None
    return problem.anchor_logp, problem.reward


def _descended(objective: object, logits: Logits) -> Array:
    return jax.grad(lambda x: objective(definitions.softmax_of(x)))(logits)  # type: ignore[operator]


def mixture_gradient(
    problem: Problem, logits: Logits, weight: Array, *, swap: float = 0.0, forward: float = 1.0, backward: float = 1.0
) -> Array:
    r"""grad L = grad[(1 - w) KL(BoN || pi) + w KL(pi || BoN)], BoN of the anchor by enumeration, N = 3.

    At w = 0 it is that of the likelihood of winners, pi - BoN; at w = 1 it is vBoN's.
    """
    anchor, reward = _anchor(problem)
    target = jnp.log(best_of_three(anchor, reward))
    share = pick(swap, 1 - weight, weight)

    def objective(logp: Law) -> Array:
        return forward * (1 - share) * definitions.kl(target, logp) + backward * share * definitions.kl(logp, target)

    one_sided = [_descended(lambda logp, d=d: d(logp), logits) for d in (
        lambda logp: forward * definitions.kl(target, logp), lambda logp: backward * definitions.kl(logp, target)
    )]  # fmt: skip
    return both(
        equal(population_grad("bond", problem, logits, n=3.0, weight=weight), _descended(objective, logits)),
        equal(jnp.exp(definitions.softmax_of(logits)) - jnp.exp(target), one_sided[0]),
        equal(population_grad("vbon", problem, logits, n=3.0), one_sided[1]),
    )


def backward_is_rlhf(
    problem: Problem, logits: Logits, weight: Array, *, scale: float = 1.0, less: float = 1.0
) -> Array:
    r"""grad KL(pi || BoN) = -(N - 1) E_pi[grad log pi (r_BOND - beta log(pi / anchor))], beta = 1 / (N - 1)."""
    anchor, reward = _anchor(problem)
    n = 1.5 + 10 * weight
    score, logp = bond_reward(anchor, reward, n), definitions.softmax_of(logits)
    advantage = score - definitions.log_ratio(logp, anchor) / (n - less)
    rlhf = -scale * (n - 1) * definitions.policy_gradient(logp, advantage)
    there = Problem(ref_logp=anchor, reward=score)
    return both(
        equal(population_grad("bond", problem, logits, n=n, weight=1.0), rlhf),
        equal((n - 1) * population_grad("reinforce", there, logits, beta=1 / (n - less)), rlhf),
    )


def shared_target(problem: Problem, logits: Logits, weight: Array, *, shift: float = 0.0, hotter: float = 1.0) -> Array:
    r"""BoN is stationary for BOND at every weight, and with r_BOND and beta = 1 / (N - 1) for RLHF, DPO and CoPG."""
    anchor, reward = _anchor(problem)
    n = 1.5 + 4 * weight
    at = written_out(anchor, reward, n + shift)
    there = Problem(ref_logp=anchor, reward=bond_reward(anchor, reward, n))
    beta = hotter / (n - 1)
    slacks = [equal(population_grad("bond", problem, at, n=n, weight=weight), 0.0)]
    slacks += [
        equal(population_grad(name, there, at, beta=beta) / beta, 0.0)
        for name in ("reinforce", "rloo", "dpo", "copg", "agro", "dro")
    ]
    return both(*slacks)


def without_b(problem: Problem, logits: Logits, weight: Array, *, include_b: float = 0.0, power: float = 1.0) -> Array:
    r"""Without log B the stationary point at w = 1 is anchor p_<=^{N - 1} / Z, and with it best-of-N, N = 3."""
    anchor, reward = _anchor(problem)
    upto = log_of(at_most_as_good(anchor, reward))
    crude = definitions.normalised(anchor + 2 * power * upto)
    whole = jnp.log(best_of_three(anchor, reward))
    dropped = population_grad("bond", problem, pick(include_b, whole, crude), n=3.0, weight=1.0, include_b=False)
    kept = population_grad("vbon", problem, pick(include_b, crude, whole), n=3.0)
    return both(equal(dropped, 0.0), equal(kept, 0.0))


def jbond_objective(
    problem: Problem, logits: Logits, weight: Array, *, sign: float = 1.0, height: float = 16.0, n: float = 2.0
) -> Array:
    r"""J-BOND descends (1 - w) KL(Bo2 || pi) + w [KL(pi || anc) - E_pi E r_J] + gamma KL(pi || anc).

    E r_J = -log 16 (1 - p_<=)^2. With the minus that the paper prints before the last term it would not (a mutant).
    """
    anchor, reward = _anchor(problem)
    target = best_of_n(anchor, reward, n)
    gamma = 2 * weight**2
    score = -jnp.log(height) * jnp.square(1 - at_most_as_good(anchor, reward))

    def objective(logp: Law) -> Array:
        near = definitions.kl(logp, anchor)
        pulled = weight * (near - definitions.expectation(logp, score)) + sign * gamma * near
        return (1 - weight) * definitions.kl(target, logp) + pulled

    found = population_grad("jbond", problem, logits, weight=weight, gamma=gamma)
    at = methods["jbond"].optimum(problem, weight=weight, gamma=gamma)
    return both(
        equal(found, _descended(objective, logits)),
        equal(_descended(objective, at), 0.0, tolerance=1e-8),
    )


def jbond_reward(problem: Problem, logits: Logits, weight: Array, *, weakly: float = 0.0, root: float = 0.0) -> Array:
    r"""E r_J by all pairs of anchor samples is -log 16 (1 - p_<=)^2, which at p_<= = 1/2 is log p_<=."""
    anchor, reward = _anchor(problem)
    p, lowest = jnp.exp(anchor), jnp.minimum(reward[:, None], reward[None, :])
    beaten = pick(weakly, reward[:, None, None] <= lowest, reward[:, None, None] < lowest)
    expected = -jnp.log(16.0) * jnp.sum(jnp.where(beaten, p[:, None] * p[None, :], 0.0), (1, 2))
    claimed = -jnp.log(16.0) * jnp.square(1 - at_most_as_good(anchor, reward))
    half = 0.5 + root
    return both(equal(expected, claimed), equal(-jnp.log(16.0) * (1 - half) ** 2, jnp.log(half)))


def nearest_to_two(problem: Problem, logits: Logits, weight: Array, *, swap: float = 0.0, scale: float = 1.0) -> Array:
    r"""The minimiser of f KL(b || pi) + w KL(pi || q): its gradient vanishes there, and no other policy is lower."""
    first, second = problem.ref_logp, _anchor(problem)[0]
    forward, backward = 1 - weight, 0.05 + weight
    at = mixed_kl_minimiser(pick(swap, second, first), pick(swap, first, second), scale * forward, backward)

    def objective(logp: Law) -> Array:
        return forward * definitions.kl(first, logp) + backward * definitions.kl(logp, second)

    return both(
        equal(_descended(objective, at), 0.0, tolerance=1e-8),
        at_most(objective(at), objective(definitions.softmax_of(logits))),
    )


def moving_anchor(problem: Problem, logits: Logits, weight: Array, *, hard: float = 0.0, linear: float = 0.0) -> Array:
    r"""Where no two samples tie, an anchor ref u^{m - 1} / Z averaged on logits with its best-of-n stays such a law,

        m <- m (1 + eta (n - 1)):     log anchor = (m - 1) log u,  log Bo_n(anchor) = (n m - 1) log u

    so that `effective_n` after t steps is (1 + eta (n - 1))^t, and n^t for eta = 1.
    """
    eta, n, m = weight, 2 + jnp.abs(logits[0]), jnp.ones(())
    for _ in range(4):
        exponent = (1 - eta) * (m - 1) + eta * (n * m - 1)
        m = exponent + 1
    claimed = effective_n(4.0, pick(hard, 0.0, 1 - eta), n)
    claimed = pick(linear, 1 + 4 * eta * (n - 1), claimed)
    return equal(m, claimed)


_SESSA = ("Sessa et al.", 2024, "2407.14622")

STATEMENTS = (
    Statement(
        id="bond/G1",
        says="BOND follows the mixture of both divergences; its ends are winners' likelihood and vBoN",
        formula=r"\nabla[(1-w)\mathrm{KL}(\pi_{\rm BoN}\|\pi)+w\mathrm{KL}(\pi\|\pi_{\rm BoN})]",
        slack=mixture_gradient,
        instance=anchored_problem,
        source=Source(*_SESSA, "Eq. 12"),
        mutants=({"swap": 1.0}, {"forward": 2.0}, {"backward": -1.0}),
    ),
    Statement(
        id="bond/G2",
        says="the backward gradient is N - 1 times RLHF's with the BOND reward",
        formula=r"\nabla\mathrm{KL}(\pi\|\pi_{\rm BoN})=-(N-1)\nabla[\mathbb E_\pi r_{\rm BOND}-\beta\mathrm{KL}]",
        slack=backward_is_rlhf,
        instance=anchored_problem,
        source=Source(*_SESSA, "Sec. 4.2"),
        mutants=({"scale": 2.0}, {"less": 0.5}),
    ),
    Statement(
        id="bond/G3",
        says="BOND at every weight, and RLHF, DPO, CoPG, AGRO, DRO with the BOND reward, are stationary at best-of-N",
        formula=r"\nabla L(\pi_{\rm BoN})=0",
        slack=shared_target,
        instance=anchored_problem,
        source=Source(*_SESSA, "Sec. 3.2"),
        mutants=({"shift": 0.1}, {"hotter": 1.2}),
    ),
    Statement(
        id="bond/G4",
        says="without the factor B the backward optimum is the normalised anchor p_<=^(N-1)",
        formula=r"\pi\propto\mu p_\le^{N-1}",
        slack=without_b,
        instance=anchored_problem,
        source=Source(*_SESSA, "Sec. 4.1; derived here"),
        mutants=({"include_b": 1.0}, {"power": 1.5}),
    ),
    Statement(
        id="bond/J1",
        says="J-BOND's gradient and optimum, with the regulariser that pulls towards the anchor",
        formula=r"(1-w)\mathrm{KL}(\mathrm{Bo}_2\|\pi)-w\mathbb E_\pi r_J+(w+\gamma)\mathrm{KL}(\pi\|\mu)",
        slack=jbond_objective,
        instance=anchored_problem,
        source=Source(*_SESSA, "Algorithm 2 and Eq. 19, the sign corrected"),
        mutants=({"sign": -1.0}, {"height": 8.0}, {"n": 3.0}),
    ),
    Statement(
        id="bond/J2",
        says="J-BOND's reward in expectation, and its calibration at one half",
        formula=r"\mathbb E r_J=-\log16(1-p_\le)^2",
        slack=jbond_reward,
        instance=anchored_problem,
        source=Source(*_SESSA, "Eq. 17"),
        mutants=({"weakly": 1.0}, {"root": 0.01}),
    ),
    Statement(
        id="bond/M1",
        says="the policy nearest to two others, one by forward and one by backward divergence",
        formula=r"\arg\min_\pi f\mathrm{KL}(b\|\pi)+w\mathrm{KL}(\pi\|q)",
        slack=nearest_to_two,
        instance=anchored_problem,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"swap": 1.0}, {"scale": 1.2}),
    ),
    Statement(
        id="bond/A1",
        says="the effective N of a moving anchor grows by one factor a step",
        formula=r"N_{\rm eff}(t)=(1+\eta(n-1))^t",
        slack=moving_anchor,
        instance=anchored_problem,
        source=Source(*_SESSA, "Eq. 18; the closed form is derived here"),
        mutants=({"hard": 1.0}, {"linear": 1.0}),
    ),
)
