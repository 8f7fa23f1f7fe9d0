r"""CoPG, AGRO and DRO: the pair loss as a square, its gradients and optima, its relatives, what makes it unique."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from alignjax import Problem, methods, population_grad, population_loss
from alignjax.logspace import log_softmax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import both, equal

Logits = Float[Array, "A"]
Law = Float[Array, "A"]


def _two_laws(problem: Problem) -> tuple[Problem, Law, Law, Array]:
    """The problem with its reward and two laws alone, and (law of slot 0, law of slot 1, reward)."""
    assert problem.reward is not None and isinstance(problem.sampler_logp, tuple)
    first, second = problem.sampler_logp
    plain = Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=(first, second))
    return plain, first, second, problem.reward


def _regularised(problem: Problem, logp: Law, beta: ScalarLike) -> Array:
    assert problem.reward is not None
    return problem.reward - beta * (logp - problem.ref_logp)


def gradient_of_two_laws(
    problem: Problem, logits: Logits, beta: Array, *, sign: float = 1.0, inside: float = 1.0, crossed: float = 1.0
) -> Array:
    r"""E_mu1[(R - E_mu2 R) grad log pi] + E_mu2[(R - E_mu1 R) grad log pi], and 0 at Gibbs(r, beta) (G1, Theorem 1)."""
    plain, first, second, reward = _two_laws(problem)
    logp = definitions.softmax_of(logits)
    regularised = _regularised(plain, logp, inside * beta)
    means = [definitions.expectation(law, regularised) for law in (first, second)]
    weight = jnp.exp(first) * (regularised - crossed * means[1]) + jnp.exp(second) * (regularised - crossed * means[0])
    best = definitions.gibbs(plain.ref_logp, reward, inside * beta)
    return both(
        equal(population_grad("copg", plain, logits, beta=beta), -sign * definitions.weighted_score(logp, weight)),
        equal(population_grad("copg", plain, best, beta=beta), 0.0),
        equal(jnp.exp(methods["copg"].optimum(plain, beta=beta)), jnp.exp(best)),
    )


def square_above_the_optimum(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 0.5, inside: float = 1.0
) -> Array:
    r"""L(pi) - L(pi*) = 1/(2 beta) E (dr - beta dh)^2 and L(pi*) = -1/(2 beta) E dr^2, L the loss (G2)."""
    plain, first, second, reward = _two_laws(problem)
    logp, best = log_softmax(logits), definitions.gibbs(plain.ref_logp, reward, beta)
    loss = lambda x: population_loss("copg", plain, x, beta=beta)
    gap = definitions.outer_difference(_regularised(plain, logp, inside * beta))
    lowest = definitions.pair_mean(first, second, jnp.square(definitions.outer_difference(reward)))
    return both(
        equal(beta * (loss(logp) - loss(best)), factor * definitions.pair_mean(first, second, jnp.square(gap))),
        equal(beta * loss(best), -factor * lowest),
    )


def one_law(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 0.5, shift: float = 0.0, scale: float = 0.5
) -> Array:
    r"""One law: AGRO = 1/2 Var R = beta^2/2 Var log(pi/pi*) = DRO at V = E R; its gradient is beta/2 CoPG's (G3)."""
    _, law, _, reward = _two_laws(problem)
    logp, best = log_softmax(logits), definitions.gibbs(problem.ref_logp, reward, beta)
    with_law = functools.partial(Problem, ref_logp=problem.ref_logp, reward=reward, sampler_logp=law)
    variance = lambda x: definitions.expectation(law, jnp.square(x - definitions.expectation(law, x)))
    regularised = _regularised(problem, logp, beta)
    value = definitions.expectation(law, regularised) + shift
    agro = population_loss("agro", with_law(), logp, beta=beta)
    return both(
        equal(agro, factor * variance(regularised)),
        equal(agro, factor * beta**2 * variance(logp - best)),
        equal(agro, population_loss("dro", with_law(value=value), logp, beta=beta)),
        equal(
            population_grad("agro", with_law(), logits, beta=beta),
            scale * beta * population_grad("copg", with_law(), logits, beta=beta),
        ),
    )


def on_policy(problem: Problem, logits: Logits, beta: Array, *, size: int, sign: float = 1.0, kl: float = 1.0) -> Array:
    r"""On-policy CoPG's gradient is -2 grad J for every group size, AGRO's -beta grad J (G4)."""
    logp = definitions.softmax_of(logits)
    here = Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=log_softmax(logits))
    ascent = definitions.policy_gradient(logp, _regularised(problem, logp, kl * beta))
    return both(
        equal(population_grad("copg", here, logits, beta=beta, group_size=size), -2 * sign * ascent),
        equal(population_grad("agro", here, logits, beta=beta, group_size=size), -beta * sign * ascent),
    )


def group(key: Array) -> tuple[Array, Array, Array]:
    """(logp, ref_logp, reward) of four responses."""
    return tuple(jax.random.normal(key, (3, 4)))  # type: ignore[return-value]


def group_is_leave_one_out(
    logp: Array, ref_logp: Array, reward: Array, *, factor: float = 1.0, half: float = 0.5, quarter: float = 0.25
) -> Array:
    r"""sum_{i<j} grad l = (K - 1) sum_i (R_i - mean of the others) grad log pi; IPO at rewards of 1/4 (G5, G6)."""
    beta = 0.7
    regularised = reward - beta * (logp - ref_logp)
    others = jnp.stack([(regularised.sum() - regularised[i]) / 3 for i in range(4)])
    exact = -3 * (regularised - others) / 6
    slope = jax.grad(lambda x: methods["copg"].loss(x, ref_logp, reward, beta=beta))(logp)
    labels = jnp.asarray([quarter, -quarter])
    pair = jax.grad(lambda x: methods["copg"].loss(x, ref_logp[:2], labels, beta=beta))(logp[:2])
    margin = (logp - ref_logp)[0] - (logp - ref_logp)[1]
    by_hand = -(0.5 - beta * margin) * jnp.asarray([1.0, -1.0])
    loops = [
        -((reward - half * beta * (logp - ref_logp))[i] - (reward - half * beta * (logp - ref_logp))[j])
        * ((logp - ref_logp)[i] - (logp - ref_logp)[j])
        for i in range(4)
        for j in range(i)
    ]
    return both(
        equal(slope, factor * exact),
        equal(pair, factor * by_hand),
        equal(methods["copg"].loss(logp, ref_logp, reward, beta=beta), sum(loops) / 6),
    )


def shifted(logp: Array, ref_logp: Array, reward: Array, *, constant: float = 3.0, slope: float = 0.0) -> Array:
    r"""A constant added to the rewards of a prompt changes no gradient of CoPG and AGRO (G7)."""
    moved = reward + constant + slope * jnp.arange(4)
    slacks = []
    for name in ("copg", "agro"):
        gradient: Any = jax.grad(functools.partial(methods[name].loss, beta=0.7))
        slacks.append(equal(gradient(logp, ref_logp, moved), gradient(logp, ref_logp, reward)))
    return both(*slacks)


def thinned(key: Array) -> tuple[Problem, Array]:
    """(problem, beta): two laws, each of which lacks about half of the responses."""
    problem, _, beta = instances.smooth_problem(key)
    assert isinstance(problem.sampler_logp, tuple)
    laws = []
    for slot, law in enumerate(problem.sampler_logp):
        drop_key, keep_key = jax.random.split(jax.random.fold_in(key, slot))
        stays = jnp.arange(law.shape[-1]) == jax.random.randint(keep_key, (), 0, law.shape[-1])
        laws.append(
            definitions.normalised(jnp.where(stays | jax.random.bernoulli(drop_key, 0.5, law.shape), law, -jnp.inf))
        )
    return Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=tuple(laws)), beta


def pair_graph(problem: Problem, beta: Array, *, factor: float = 1.0, one_way: float = 0.0) -> Array:
    r"""At Gibbs the Hessian in log pi is beta times the Laplacian of the pairs: free along its components (G8).

    Edge weights mu_1(y) mu_2(y') + mu_2(y) mu_1(y'). Reachability by squaring the adjacency matrix.
    """
    plain, first, second, reward = _two_laws(problem)
    one = jnp.exp(first)[:, None] * jnp.exp(second)[None, :]
    weight = one + (1 - one_way) * one.T
    laplacian = jnp.diag(weight.sum(1)) - weight
    size = weight.shape[-1]

    def loss(x: Array) -> Array:
        table = jax.vmap(
            jax.vmap(lambda i, j: methods["copg"].loss(x[pair(i, j)], plain.ref_logp[pair(i, j)], reward[pair(i, j)],
                                                       beta=beta), (None, 0)), (0, None)
        )(jnp.arange(size), jnp.arange(size))  # fmt: skip
        return jnp.sum(one * table)

    pair = lambda i, j: jnp.stack([i, j])
    hessian = jax.hessian(loss)(definitions.gibbs(plain.ref_logp, reward, beta))
    reach = ((weight > 0) | jnp.eye(size, dtype=bool)).astype(weight.dtype)
    for _ in range(3):
        reach = (reach @ reach > 0).astype(weight.dtype)
    return both(equal(hessian / beta, factor * laplacian), equal(hessian @ reach.T / beta, 0.0))


def dro_at_a_wrong_value(
    problem: Problem, logits: Logits, beta: Array, *, sign: float = 1.0, wrong: float = 1.0
) -> Array:
    r"""DRO at V <= V* rests where pi = ref exp{r/beta - (pi/mu)(V_pi - V)/beta} / Z; at V* that is Gibbs (spec 1.7)."""
    _, law, _, reward = _two_laws(problem)
    best = beta * jnp.log(jnp.sum(jnp.exp(problem.ref_logp + (reward - reward.max()) / beta))) + reward.max()
    offset = 0.1 + jax.nn.sigmoid(logits[0])
    with_value = lambda v: Problem(ref_logp=problem.ref_logp, reward=reward, sampler_logp=law, value=v)
    found = methods["dro"].optimum(with_value(best - wrong * offset * beta), beta=beta)
    own = definitions.expectation(law, _regularised(problem, found, beta))
    pull = jnp.exp(found - law) * (own - (best - offset * beta)) / beta
    free = Problem(ref_logp=problem.ref_logp, reward=reward, sampler_logp=law)
    right = definitions.gibbs(problem.ref_logp, reward, beta)
    return both(
        equal(jnp.exp(found), jnp.exp(definitions.normalised(problem.ref_logp + reward / beta - sign * pull)),
              tolerance=1e-7),
        equal(population_grad("dro", with_value(best - wrong * offset * beta), found, beta=beta) / beta, 0.0,
              tolerance=1e-7),
        equal(jnp.exp(methods["dro"].optimum(free, beta=beta)), jnp.exp(right)),
    )  # fmt: skip


def any_average(problem: Problem, logits: Logits, beta: Array, *, kl: float = 1.0, level: float = 0.0) -> Array:
    r"""The off-policy field with b = E_nu R vanishes at Gibbs for every nu; at another policy it has R constant or not.

    At a zero mu (R - b) = c pi; averaging R - b under nu gives c sum nu pi / mu = 0. Here: the field is zero at Gibbs,
    and elsewhere its average (1 / mu) under nu is E_nu R - b = 0 with a positive sum of nu pi / mu, so that c = 0.
    """
    plain, law, other, reward = _two_laws(problem)

    def field(logp: Law) -> Array:
        regularised = _regularised(plain, logp, beta)
        baseline = definitions.expectation(other, _regularised(plain, logp, kl * beta)) + level
        return jnp.exp(law) * (regularised - baseline)

    best = definitions.gibbs(plain.ref_logp, reward, beta)
    logp = definitions.softmax_of(logits)
    return both(
        equal(definitions.weighted_score(best, field(best)), 0.0),
        equal(definitions.expectation(other, field(logp) / jnp.exp(law)), 0.0),
    )


_PAPER = functools.partial(Source, "Flet-Berliac et al.", 2024, "2406.19185")
_TWO = instances.smooth_problem

STATEMENTS = (
    Statement(
        id="copg/G1",
        says="CoPG's population gradient for two laws, and its zero at Gibbs whatever they are.",
        formula=r"\nabla L=\mathbb E_{\mu_1}[(R-\mathbb E_{\mu_2}R)\nabla\log\pi]"
        r"+\mathbb E_{\mu_2}[(R-\mathbb E_{\mu_1}R)\nabla\log\pi]",
        slack=gradient_of_two_laws,
        instance=_TWO,
        source=_PAPER("Theorem 1"),
        mutants=({"sign": -1.0}, {"inside": 2.0}, {"crossed": 0.5}),
    ),
    Statement(
        id="copg/G2",
        says="CoPG's loss is its minimum plus the expected square of the differences of regularised rewards.",
        formula=r"L(\pi)-L(\pi^*)=\frac1{2\beta}\mathbb E(\Delta r-\beta\Delta h)^2",
        slack=square_above_the_optimum,
        instance=_TWO,
        source=_PAPER("Proof of Theorem 1"),
        mutants=({"factor": 1.0}, {"inside": 0.5}),
    ),
    Statement(
        id="copg/G3",
        says="With one law CoPG, AGRO, DRO at its best value and the log-variance divergence are one loss.",
        formula=r"\min_V L_{\rm DRO}=\frac12\mathrm{Var}_\mu R_\beta"
        r"=\frac{\beta^2}2\mathrm{Var}_\mu\log\frac\pi{\pi^*}",
        slack=one_law,
        instance=_TWO,
        source=Source("Tang et al.", 2025, "2503.19612", "the consistency loss"),
        mutants=({"factor": 1.0}, {"shift": 0.3}, {"scale": 1.0}),
    ),
    *(
        Statement(
            id=f"copg/G4-{size}",
            says=f"On-policy, groups of {size}: CoPG descends -2 J, AGRO -beta J.",
            formula=r"\nabla L=2\nabla J",
            slack=functools.partial(on_policy, size=size),
            instance=functools.partial(instances.on_policy_problem, size=4, zeros=False),
            source=_PAPER("Property 1"),
            mutants=({"sign": -1.0}, {"sign": 0.5}, {"kl": 0.5}),
        )
        for size in (2, 3)
    ),
    Statement(
        id="copg/G5",
        says="The pairs of a group are leave-one-out, in O(K); with rewards of a quarter a pair is IPO.",
        formula=r"\sum_{i<j}\nabla\ell(y_i,y_j)=(K-1)\sum_i(R_i-\bar R_{-i})\nabla\log\pi(y_i)",
        slack=group_is_leave_one_out,
        instance=group,
        source=_PAPER("Properties 2 and 3"),
        mutants=({"factor": 2.0}, {"half": 1.0}, {"quarter": 0.5}),
    ),
    Statement(
        id="copg/G7",
        says="A constant of the prompt changes no gradient of a group.",
        formula=r"r\to r+c(x)",
        slack=shifted,
        instance=group,
        source=_PAPER("Eq. 11"),
        mutants=({"slope": 0.1}, {"slope": -1.0}),
    ),
    Statement(
        id="copg/G8",
        says="The optimum is free along the components of the graph of pairs that are drawn, and nowhere else.",
        formula=r"\nabla^2L=\beta\,(D-W),\quad W=\mu_1\mu_2^\top+\mu_2\mu_1^\top",
        slack=pair_graph,
        instance=thinned,
        source=_PAPER("Theorem 1, sharpened"),
        mutants=({"factor": 0.5}, {"one_way": 1.0}),
    ),
    Statement(
        id="copg/baseline",
        says="Off-policy any average of the regularised reward is a baseline that leaves Gibbs the only zero.",
        formula=r"\mathbb E_\mu[(R-\mathbb E_\nu R)\nabla\log\pi]=0\Rightarrow R={\rm const}",
        slack=any_average,
        instance=_TWO,
        source=_PAPER("Sec. 3"),
        mutants=({"kl": 0.0}, {"level": 0.1}),
    ),
    Statement(
        id="copg/dro-value",
        says="DRO with a value below V* rests at a fixed point with the error of the value in its exponent.",
        formula=r"\pi_V\propto\pi_{\rm ref}\exp\{r/\beta-\frac{\pi_V}\mu\frac{V^{\pi_V}-V}\beta\}",
        slack=dro_at_a_wrong_value,
        instance=_TWO,
        source=Source("Richemond et al.", 2024, "2405.19107", "Proposition 1"),
        mutants=({"sign": -1.0}, {"wrong": 0.5}),
    ),
)
