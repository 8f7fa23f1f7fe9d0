r"""P3O: the policy gradient from pairs of any old policy, what its clips and a prompt's constant do, its variance."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, methods, population_grad
from alignjax.logspace import log_softmax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import both, equal, pick

Logits = Float[Array, "A"]
CLIPS = ("separate", "joint", "product")
_FREE = {"clip_range": 1e9, "ratio_bound": float("inf")}


def _old(key: Array) -> tuple[Problem, Logits, Array]:
    """(problem with an old policy as its one law, logits, beta)."""
    problem, logits, beta = instances.smooth_problem(key, 4)
    assert isinstance(problem.sampler_logp, tuple)
    plain = Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=problem.sampler_logp[0])
    return plain, logits, beta


def _ascent(problem: Problem, logits: Logits, beta: Array) -> Array:
    assert problem.reward is not None
    logp = definitions.softmax_of(logits)
    return definitions.policy_gradient(logp, problem.reward - beta * (logp - problem.ref_logp))


def any_old_policy(
    problem: Problem, logits: Logits, beta: Array, *, clip: str, sign: float = 1.0, kl: float = 1.0, factor: float = 1.0
) -> Array:
    r"""Without clips E_old grad = -grad J, for pairs of any old policy; and 0 at Gibbs with every clip (P1)."""
    found = population_grad("p3o", problem, logits, beta=beta, clip=clip, **_FREE)
    assert problem.reward is not None
    best = definitions.gibbs(problem.ref_logp, problem.reward, factor * beta)
    return both(
        equal(found, -sign * _ascent(problem, logits, kl * beta)),
        equal(population_grad("p3o", problem, best, beta=beta, clip=clip), 0.0),
    )


def at_the_old_policy(
    problem: Problem, logits: Logits, beta: Array, *, sign: float = 1.0, moved: float = 0.0, scale: float = 0.5
) -> Array:
    r"""At the old policy every form is -grad J, however small its clip, and half of CoPG's gradient (P2)."""
    here = log_softmax(logits + moved * jnp.arange(4.0))
    problem = Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=here)
    exact = -sign * _ascent(problem, logits, beta)
    copg = population_grad("copg", problem, logits, beta=beta)
    slacks = [equal(scale * copg, exact)]
    for clip in CLIPS:
        slacks.append(equal(population_grad("p3o", problem, logits, beta=beta, clip=clip, clip_range=0.05), exact))
    return both(*slacks)


def pair(key: Array) -> tuple[Array, Array, Array, Array]:
    """(logp, old logp, ref_logp, reward) of two responses, ratios on both sides of the trust region."""
    x = jax.random.normal(key, (4, 2))
    return x[0], x[0] + 0.3 * x[1], x[2], x[3]


def constants_and_scales(
    logp: Array,
    old: Array,
    ref_logp: Array,
    reward: Array,
    *,
    slope: float = 0.0,
    power: float = 1.0,
    cold: float = 1.0,
) -> Array:
    r"""r + c leaves a pair's gradient as it is, (r, beta) times s multiplies it by s: for every clip and kl (P3)."""
    slacks, s = [], 3.0
    moved = reward + 5.0 + slope * jnp.arange(2)
    for clip, kl in itertools.product(CLIPS, ("recomputed", "rollout")):
        slope_of = lambda r, beta, clip=clip, kl=kl: jax.grad(
            lambda x: methods["p3o"].loss(x, ref_logp, r, old, beta=beta, clip=clip, kl=kl)
        )(logp)
        base = slope_of(reward, 0.3)
        slacks.append(equal(slope_of(moved, 0.3), base))
        slacks.append(equal(slope_of(s * reward, s * cold * 0.3), s**power * base))
    return both(*slacks)


def clipped_by_cases(
    logp: Array,
    old: Array,
    ref_logp: Array,
    reward: Array,
    *,
    eps: float = 0.2,
    pessimist: float = 1.0,
    bound: float = 1.5,
    kl: float = 1.0,
) -> Array:
    r"""The three clipped losses and their slopes by cases: a response is free where its step does not help too much."""
    beta, h = 0.3, logp - ref_logp
    q = (reward[0] - reward[1]) - kl * beta * (h[0] - h[1])
    rho = jnp.exp(logp - old)
    bounded = lambda x: jnp.where(x > bound, bound, jnp.where(x < 1 / bound, 1 / bound, x))

    def cases(gain: Array, x: Array, centre: Array | float) -> tuple[Array, Array]:
        free = jnp.where(gain > 0, x < centre + eps, x > centre - eps)
        free = pick(pessimist, free, jnp.abs(x - centre) < eps)
        edge = jnp.where(x > centre, centre + eps, centre - eps)
        return -gain * jnp.where(free, x, edge), jnp.where(free, -gain, 0.0)

    slacks = []
    for clip in CLIPS:
        loss = lambda x, clip=clip: methods["p3o"].loss(x, ref_logp, reward, old, beta=beta, ratio_bound=1.5, clip=clip)
        found, slope = jax.value_and_grad(loss)(logp)
        if clip == "joint":
            before = (old - ref_logp)[0] - (old - ref_logp)[1]
            value, each = cases(q * bounded(rho[0] * rho[1]), h[0] - h[1], before)
            expected, exact = 0.5 * value, 0.5 * each * jnp.asarray([1.0, -1.0])
        else:
            rows = []
            for i, gain in ((0, q), (1, -q)):
                weight = bounded(rho[1 - i])
                inside = clip == "product"
                value, each = cases(gain if inside else gain * weight, rho[i] * weight if inside else rho[i], 1.0)
                rows.append((0.5 * value, 0.5 * each * (rho[i] * weight if inside else rho[i])))
            expected, exact = rows[0][0] + rows[1][0], jnp.stack([rows[0][1], rows[1][1]])
        slacks += [equal(found, expected), equal(slope, exact)]
    return both(*slacks)


def variance_without_a_shift(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 0.25, share: float = 1.0, slope: float = 0.0
) -> Array:
    r"""E |g|^2 of a pair on-policy = sum_ij pi_i pi_j (R_i - R_j)^2 / 4 * 2 1{i != j}, at every shift (P4)."""
    assert problem.reward is not None
    logp = definitions.softmax_of(logits)
    p = jnp.exp(logp)
    regularised = problem.reward - beta * (logp - problem.ref_logp)
    gap = jnp.square(definitions.outer_difference(regularised))
    exact = factor * 2 * share * jnp.sum(p[:, None] * p[None, :] * gap)
    total = jnp.zeros(())
    for i, j in itertools.product(range(4), repeat=2):
        rows = jnp.asarray([i, j])
        shown = problem.reward[rows] + 7.0 + slope * jnp.arange(2)
        gradient = jax.grad(
            lambda x, rows=rows, shown=shown: methods["p3o"].loss(
                log_softmax(x)[rows], problem.ref_logp[rows], shown, log_softmax(logits)[rows], beta=beta
            )
        )(logits)
        total = total + p[i] * p[j] * jnp.sum(jnp.square(gradient))
    return equal(total, exact)


_WU = functools.partial(Source, "Wu et al.", 2023, "2310.00212")

STATEMENTS = (
    *(
        Statement(
            id=f"p3o/P1-{clip}",
            says=f"Without clips P3O ({clip}) is the policy gradient for pairs of any old policy; Gibbs is stationary.",
            formula=r"\mathbb E_{\rm old}\nabla L=-\nabla J(\pi)",
            slack=functools.partial(any_old_policy, clip=clip),
            instance=_old,
            source=_WU("Sec. 4"),
            mutants=({"sign": -1.0}, {"kl": 0.5}, {"factor": 2.0}),
        )
        for clip in CLIPS
    ),
    Statement(
        id="p3o/P2",
        says="At the old policy every clip gives the policy gradient, half of CoPG's.",
        formula=r"\nabla L=-\nabla J",
        slack=at_the_old_policy,
        instance=_old,
        source=_WU("Sec. 4"),
        mutants=({"sign": 0.5}, {"moved": 0.3}, {"scale": 1.0}),
    ),
    Statement(
        id="p3o/P3",
        says="A constant of the prompt changes no pair's gradient; rewards and temperature scale it.",
        formula=r"(r,\beta)\to(sr+c(x),s\beta)\Rightarrow\nabla L\to s\nabla L",
        slack=constants_and_scales,
        instance=pair,
        source=_WU("Sec. 3"),
        mutants=({"slope": 0.1}, {"power": 2.0}, {"cold": 0.5}),
    ),
    Statement(
        id="p3o/clips",
        says="The three clipped losses and their slopes, case by case.",
        formula=r"\max\{-qw\rho,-qw\,\mathrm{clip}(\rho,1\pm\epsilon)\}",
        slack=clipped_by_cases,
        instance=pair,
        source=_WU("Algorithm 1"),
        mutants=({"eps": 0.1}, {"pessimist": 0.0}, {"bound": 3.0}, {"kl": 0.0}),
    ),
    Statement(
        id="p3o/P4",
        says="The second moment of a pair's gradient is that of differences: no shift is in it.",
        formula=r"\mathbb E|g|^2=\frac12\sum_{ij}\pi_i\pi_j(R_i-R_j)^2",
        slack=variance_without_a_shift,
        instance=_old,
        source=_WU("Sec. 4"),
        mutants=({"factor": 0.5}, {"share": 0.5}, {"slope": 0.3}),
    ),
)
