r"""PAMA and its rivals: the closed form, the bound that holds and the one that does not, common ascent, the front."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, multiobjective, population_grad
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick

Law = Float[Array, "A"]
Table = Float[Array, "A M"]
M = 3

_PAMA = "He and Maghsudi"
_OURS = Source("alignjax", 2026, "", "derived here")


def advantages(key: Array) -> tuple[Array, Array]:
    """(M numbers, weights on the simplex): of any sign, all positive, all negative, with ties and zeros."""
    kind_key, normal_key, weight_key = jax.random.split(key, 3)
    noise = jax.random.normal(normal_key, (M,))
    kinds = jnp.stack([noise, jnp.abs(noise), -jnp.abs(noise), noise.at[1].set(noise[0]), jnp.round(noise)])
    return kinds[jax.random.randint(kind_key, (), 0, 5)], jax.random.dirichlet(weight_key, jnp.ones(M))


def bandit(key: Array) -> tuple[Law, Table, Array]:
    """(logp, rewards of three objectives, weights on the simplex): independent or opposed, full support."""
    law_key, reward_key, kind_key, weight_key = jax.random.split(key, 4)
    rewards = jax.random.normal(reward_key, (instances.SIZE, M))
    shared = 2 * rewards[:, :1] * jnp.array([1.0, 1.0, 1.0]) + rewards
    opposed = rewards[:, :1] * jnp.array([1.0, -1.0, 0.5]) + 0.3 * rewards
    kinds = jnp.stack([rewards, shared, opposed])
    rewards = kinds[jax.random.randint(kind_key, (), 0, 3)]
    return instances.smooth_law(law_key), rewards, jax.random.dirichlet(weight_key, jnp.ones(M))


def regularised_bandit(key: Array) -> tuple[Problem, Law, Array, Array]:
    """(problem with three objectives, a policy, beta, weights)."""
    bandit_key, ref_key, beta_key = jax.random.split(key, 3)
    logp, rewards, weights = bandit(bandit_key)
    problem = Problem(ref_logp=instances.smooth_law(ref_key), rewards=rewards)
    return problem, logp, instances.log_uniform(beta_key, 0.1, 3.0), weights


def vectors(key: Array) -> tuple[Array, Array]:
    """(three gradients of four parameters, a vector): independent, nearly aligned, or opposed and of unlike sizes."""
    kind_key, normal_key, common_key, size_key = jax.random.split(key, 4)
    noise, common = jax.random.normal(normal_key, (M, 4)), jax.random.normal(common_key, (4,))
    sizes = jnp.exp(2 * jax.random.normal(size_key, (M, 1)))
    kinds = jnp.stack([noise, common + 0.2 * noise, sizes * noise])
    return kinds[jax.random.randint(kind_key, (), 0, 3)], common


def _centred(logp: Law, rewards: Table) -> Table:
    return rewards - jnp.sum(jnp.exp(logp)[:, None] * rewards, 0)


def _gradients(logp: Law, values: Table) -> Float[Array, "M A"]:
    """The gradient in the logits of E[sg(value) log pi], one row for each objective."""
    return jax.vmap(lambda column: definitions.policy_gradient(logp, column), in_axes=1)(values)


def closed_form(a: Array, other: Array, *, factor: float = 1.0, middle: float = 0.0) -> Array:
    r"""|s*| <= |c . A| for every c on the simplex, and the weights attain s*.

    Proof: the values c . A are the interval [min A, max A], of which s* is the point next to 0.
    """
    value, weights = multiobjective.pama(a)
    value = pick(middle, jnp.mean(a), factor * value)
    return both(
        equal(jnp.dot(weights, a), value),
        at_most(jnp.abs(value), jnp.abs(jnp.dot(other, a))),
        at_most(0.0, jnp.min(weights)),
        equal(jnp.sum(weights), 1.0),
    )


def noon_is_unanimity(a: Array, other: Array, *, factor: float = 1.0, vertex: float = 1.0) -> Array:
    r"""With Noon s* = min_i max(A_i, 0), and the weights are a vertex: two objectives never share."""
    value, weights = multiobjective.pama_token(a)
    kept = [factor * pick(x > 0, x, 0.0) for x in a]
    return both(equal(value, functools.reduce(jnp.minimum, kept)), equal(jnp.sum(weights**2), vertex))


def cauchy_schwarz(logp: Law, rewards: Table, weights: Array, *, moments: float = 0.0, constant: float = 1.0) -> Array:
    r"""|sum c_i g_i|^2 <= E[(sum c_i A_i)^2] E|grad log pi|^2. With a product of means instead it is false.

    Proof: sum c_i g_i = E[(sum c_i A_i) grad log pi]. In logits E|grad log pi|^2 = 1 - sum pi^2, but the mean of grad
    log pi is 0.
    """
    p = jnp.exp(logp)
    kept = jnp.maximum(_centred(logp, rewards), 0.0)
    combined = kept @ weights
    second = pick(moments, jnp.square(jnp.sum(p * combined)), jnp.sum(p * jnp.square(combined)))
    scores = jnp.eye(p.size) - p
    spread = jnp.sum(p * jnp.sum(jnp.square(scores), -1))
    return at_most(jnp.sum(jnp.square(weights @ _gradients(logp, kept))), constant * second * spread)


def gram_is_the_least_bound(
    logp: Law, rewards: Table, weights: Array, *, uniform: float = 0.0, first: float = 0.0
) -> Array:
    r"""`pama_gram` minimises that bound: no weights have a smaller mean square."""
    kept = jnp.maximum(_centred(logp, rewards), 0.0)
    _, found = multiobjective.pama_gram(_centred(logp, rewards))
    found = pick(first, jnp.eye(M)[0], pick(uniform, jnp.ones(M) / M, found))
    return at_most(jnp.sum(jnp.square(kept @ found)), jnp.sum(jnp.square(kept @ weights)))


def scalar_has_no_signal(logp: Law, rewards: Table, weights: Array, *, vertex: float = 0.0, tilt: float = 0.0) -> Array:
    r"""One number for a whole batch, the same for every response: E[s* grad log pi] = 0."""
    centred = _centred(logp, rewards)
    scalar, _ = multiobjective.pama_batch(centred)
    own, _ = multiobjective.pama_batch(centred, reading="vertex")
    return equal(definitions.policy_gradient(logp, pick(vertex, own, scalar) + tilt * centred[:, 0]), 0.0)


def natural_ascent(
    logp: Law, rewards: Table, weights: Array, *, factor: float = 1.0, average: float = 0.0, plain: float = 0.0
) -> Array:
    r"""Moving the logits along m = min_i max(A_i, 0) raises every E r_i, at the rate E[A_i m] >= E[m^2].

    Proof: the derivative is Cov(r_i, m) = E[A_i m], and A_i m >= m^2 at every response. In the plain metric of the
    logits, along pi m less its mean, it can be negative.
    """
    m, _ = multiobjective.pama_token(_centred(logp, rewards))
    m = pick(average, jnp.mean(jnp.maximum(_centred(logp, rewards), 0.0), -1), m)
    along = pick(plain, definitions.policy_gradient(logp, m), m)
    reached = lambda logits: jnp.exp(definitions.softmax_of(logits)) @ rewards
    _, rates = jax.jvp(reached, (logp,), (along,))
    floor = pick(plain, 0.0, factor * jnp.sum(jnp.exp(logp) * jnp.square(m)))
    return at_most(floor, rates)


def least_norm(gradients: Array, common: Array, *, factor: float = 1.0, uniform: float = 0.0) -> Array:
    r"""At the least norm <g_i, d> >= |d|^2 for every i, with equality where c_i > 0; the certificate says so."""
    weights = pick(uniform, jnp.ones(M) / M, multiobjective.min_norm(gradients))
    d = weights @ gradients
    inner, unit = gradients @ d, jnp.max(jnp.sum(jnp.square(gradients), -1))
    return both(
        at_most(factor * jnp.sum(d * d) / unit, inner / unit),
        equal(jnp.sum(weights * inner) / unit, jnp.sum(d * d) / unit),
        at_most(multiobjective.kkt_residual(gradients, weights), 0.0),
        equal(multiobjective.stationarity(gradients), jnp.linalg.norm(d)),
    )


def exact_on_a_line(gradients: Array, common: Array, *, factor: float = 1.0, apart: float = 0.0) -> Array:
    r"""If all gradients are multiples of one vector, g_i = A_i v, PAMA's number is the least norm: |s*| |v|."""
    scale = gradients[:, 0]
    value, _ = multiobjective.pama(scale)
    least = multiobjective.stationarity(scale[:, None] * common + apart * gradients)
    # A root of a difference of squares: 1e-16 of the largest of them.
    return equal(factor * jnp.abs(value) * jnp.linalg.norm(common), least, tolerance=1e-7)


def the_whole_front(
    problem: Problem, logp: Law, beta: Array, weights: Array, *, cooler: float = 1.0, strict: float = 0.0
) -> Array:
    r"""pi_w = Gibbs(sum w_i r_i, beta) is Pareto stationary and best in the weighted sum; others have beta KL less."""
    rewards = problem.rewards
    assert rewards is not None
    on_front = definitions.gibbs(problem.ref_logp, rewards @ weights, cooler * beta)
    reached = lambda x: jnp.stack([definitions.objective(x, problem.ref_logp, r, beta) for r in rewards.T])
    slopes = jax.jacobian(lambda x: reached(definitions.softmax_of(x)))(on_front)
    regret = jnp.dot(weights, reached(on_front) - reached(logp))
    return both(
        equal(weights @ slopes, 0.0, tolerance=1e-8),
        at_most(multiobjective.stationarity(slopes), 0.0, tolerance=1e-7),
        equal(regret, beta * definitions.kl(logp, on_front) + strict),
        equal(multiobjective.fronts.objectives(logp, problem.ref_logp, rewards, beta), reached(logp)),
    )


def gap_is_the_nearest(
    problem: Problem, logp: Law, beta: Array, weights: Array, *, share: float = 1.0, reverse: float = 0.0
) -> Array:
    r"""The gap of two objectives is min_w beta KL(policy || pi_w): no weight is nearer, and the best one is as near."""
    rewards = problem.rewards
    assert rewards is not None
    two = Problem(ref_logp=problem.ref_logp, rewards=rewards[:, :2])
    grid = jnp.concatenate([jnp.linspace(0, 1, 41), weights[:1]])
    fronts = jax.vmap(lambda w: definitions.gibbs(two.ref_logp, w * rewards[:, 0] + (1 - w) * rewards[:, 1], beta))(
        grid
    )
    away = jax.vmap(lambda x: pick(reverse, definitions.kl(x, logp), definitions.kl(logp, x)))(fronts)
    gap = multiobjective.front_gap(two, logp, beta)
    # The curvature in w is Var(r_1 - r_2) / beta: what a grid of 41 may miss.
    missed = jnp.square(jnp.ptp(rewards[:, 0] - rewards[:, 1])) / (8 * beta) / 80**2
    return both(at_most(gap, share * beta * away), at_most(beta * jnp.min(away), gap + missed))


def linear_method(
    problem: Problem, logp: Law, beta: Array, weights: Array, *, factor: float = 2 / 3, noon: float = 0.0
) -> Array:
    r"""`pama` with equal weights and no Noon descends -(K - 1)/K of the mean objective: MORLHF."""
    rewards = problem.rewards
    assert rewards is not None
    small = Problem(ref_logp=definitions.normalised(problem.ref_logp[:3]), rewards=rewards[:3])
    policy = definitions.normalised(logp[:3])
    regularised = rewards[:3] - beta * (policy - small.ref_logp)[:, None]
    value = jnp.mean(pick(noon, jnp.maximum(_centred(policy, regularised), 0.0), regularised), -1)
    found = population_grad("pama", small, policy, beta=beta, combine="linear", use_noon=False, group_size=3)
    return equal(found, -factor * definitions.policy_gradient(policy, value))


STATEMENTS = (
    Statement(
        id="pama/T1",
        says="the closed form is the number of least size among convex combinations",
        formula=r"s^*=\mathrm{proj}_{[\min A,\max A]}(0),\quad s^{*2}=\min_{c\in\Delta}(\textstyle\sum c_iA_i)^2",
        slack=closed_form,
        instance=advantages,
        source=Source(_PAMA, 2025, "2508.07768", "Theorem 1"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"middle": 1.0}),
    ),
    Statement(
        id="pama/T2",
        says="with Noon the closed form is the smallest positive part and the weights a vertex",
        formula=r"s^*=\min_i\max(A_i,0),\quad c\in\{e_1,\dots,e_M\}",
        slack=noon_is_unanimity,
        instance=advantages,
        source=_OURS,
        mutants=({"factor": 2.0}, {"vertex": 0.5}),
    ),
    Statement(
        id="pama/B1",
        says="the bound on the combined gradient, by Cauchy and Schwarz",
        formula=r"\|\sum c_ig_i\|^2\le\mathbb E[(\sum c_iA_i)^2]\,\mathbb E\|\nabla\log\pi\|^2",
        slack=cauchy_schwarz,
        instance=bandit,
        source=Source(_PAMA, 2025, "2508.07768", "the bound before Theorem 1, corrected"),
        mutants=({"moments": 1.0}, {"constant": 0.5}),
    ),
    Statement(
        id="pama/B2",
        says="pama_gram minimises the bound that holds",
        formula=r"c=\mathrm{argmin}_{\Delta}c^\top\mathbb E[AA^\top]c",
        slack=gram_is_the_least_bound,
        instance=bandit,
        source=Source("Sener and Koltun", 2018, "1810.04650", "Sec. 3.3"),
        mutants=({"uniform": 1.0}, {"first": 1.0}),
    ),
    Statement(
        id="pama/S1",
        says="one number for the whole batch has no expected gradient",
        formula=r"\mathbb E[s^*\nabla\log\pi]=0",
        slack=scalar_has_no_signal,
        instance=bandit,
        source=_OURS,
        mutants=({"vertex": 1.0}, {"tilt": 0.1}),
    ),
    Statement(
        id="pama/N1",
        says="the smallest positive advantage is a direction of natural ascent for every objective",
        formula=r"\mathrm{Cov}_\pi(r_i,m)=\mathbb E[A_im]\ge\mathbb E[m^2]\ge0",
        slack=natural_ascent,
        instance=bandit,
        source=_OURS,
        mutants=({"factor": 2.0}, {"average": 1.0}, {"plain": 1.0}),
    ),
    Statement(
        id="pama/K1",
        says="the minimum norm satisfies its optimality conditions",
        formula=r"\langle g_i,d\rangle\ge\|d\|^2,\ d=\sum c_ig_i",
        slack=least_norm,
        instance=vectors,
        source=Source("Sener and Koltun", 2018, "1810.04650", "Eq. 3"),
        mutants=({"factor": 1.5}, {"uniform": 1.0}),
    ),
    Statement(
        id="pama/K2",
        says="PAMA's number is the minimum norm where all gradients are multiples of one vector",
        formula=r"g_i=A_iv\Rightarrow\min_{\Delta}\|\sum c_ig_i\|=|s^*|\|v\|",
        slack=exact_on_a_line,
        instance=vectors,
        source=_OURS,
        mutants=({"factor": 2.0}, {"apart": 0.5}),
    ),
    Statement(
        id="pama/F1",
        says="weighted sums reach Pareto stationary policies, and their regret is a divergence",
        formula=r"\pi_w\propto\pi_{\rm ref}e^{\sum w_ir_i/\beta},"
        r"\quad w\cdot(J(\pi_w)-J(\pi))=\beta\mathrm{KL}(\pi\|\pi_w)",
        slack=the_whole_front,
        instance=regularised_bandit,
        source=_OURS,
        mutants=({"cooler": 0.5}, {"strict": 0.1}),
    ),
    Statement(
        id="pama/F2",
        says="the gap to the front is the divergence from its nearest policy",
        formula=r"\min_w[\max_{\pi'}w\cdot J(\pi')-w\cdot J(\pi)]=\min_w\beta\mathrm{KL}(\pi\|\pi_w)",
        slack=gap_is_the_nearest,
        instance=regularised_bandit,
        source=_OURS,
        mutants=({"share": 0.5}, {"reverse": 1.0}),
    ),
    Statement(
        id="pama/M1",
        says="pama with equal weights and no Noon is the policy gradient of the mean objective",
        formula=r"\nabla L=-\tfrac{K-1}K\tfrac1M\sum_i\nabla J_i",
        slack=linear_method,
        instance=regularised_bandit,
        source=Source("Rafailov et al.", 2023, "2305.18290", "Eq. 3"),
        mutants=({"factor": 1.0}, {"noon": 1.0}),
    ),
)
