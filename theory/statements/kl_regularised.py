r"""The KL-regularised problem max E_pi[r] - beta KL(pi || ref): Gibbs policies, values, regrets, tilts."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import alignjax
from alignjax.kl_regularised import regularised_reward
from alignjax.logspace import log_softmax
from alignjax.problem import bradley_terry, bradley_terry_reward
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick

Law = Float[Array, "A"]
Reward = Float[Array, "A"]


def value_of_the_optimum(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, factor: float = 1.0, power: float = 1.0
) -> Array:
    r"""J(pi*) = beta log Z with pi* = ref e^{r/beta} / Z.
    Proof: r = beta (log pi* - log ref + log Z); take E under pi*.
    """
    optimum = alignjax.gibbs(ref_logp, reward, beta)
    log_z = jnp.log(jnp.sum(jnp.exp(ref_logp + (reward - reward.max()) / beta))) + reward.max() / beta
    return both(
        equal(
            definitions.objective(optimum, ref_logp, reward, beta),
            factor * alignjax.optimal_value(ref_logp, reward, beta),
        ),
        equal(alignjax.log_partition(ref_logp, reward, beta), power * log_z),
        equal(jnp.exp(optimum), jnp.exp(definitions.gibbs(ref_logp, reward, beta))),
    )


def regret_is_a_divergence(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, factor: float = 1.0, swap: float = 0.0
) -> Array:
    r"""V* - J(pi) = beta KL(pi || pi*) for every pi: maximising J is projecting on the Gibbs policy.

    Proof: J(pi) = E_pi[beta log(pi* / ref) + beta log Z] - beta KL(pi || ref) = V* - beta KL(pi || pi*).
    """
    optimum = definitions.gibbs(ref_logp, reward, beta)
    best = definitions.objective(optimum, ref_logp, reward, beta)
    mine = definitions.objective(logp, ref_logp, reward, beta)
    regret = pick(swap, beta * definitions.kl(optimum, logp), alignjax.suboptimality(logp, ref_logp, reward, beta))
    return both(equal(best - mine, factor * regret), equal(mine, alignjax.objective(logp, ref_logp, reward, beta)))


def value_lies_between(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, lower: float = 0.0, upper: float = 0.0
) -> Array:
    r"""E_ref[r] <= beta log Z <= max r over the reference's support (Jensen; a mean is at most the maximum)."""
    value = alignjax.optimal_value(ref_logp, reward, beta)
    top = jnp.max(jnp.where(jnp.isfinite(ref_logp), reward, -jnp.inf))
    return both(at_most(definitions.expectation(ref_logp, reward) + lower, value), at_most(value, top - upper))


def derivatives_of_the_value(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, factor: float = 1.0, sign: float = -1.0
) -> Array:
    r"""d V* / d r(y) = pi*(y) and d V* / d beta = -KL(pi* || ref) (the envelope theorem)."""
    by_reward, by_beta = jax.grad(alignjax.optimal_value, (1, 2))(ref_logp, reward, beta)
    optimum = definitions.gibbs(ref_logp, reward, beta)
    return both(
        equal(by_reward, factor * jnp.exp(optimum)),
        equal(by_beta, sign * definitions.kl(optimum, ref_logp), tolerance=1e-8),
    )


def dual_of_the_value(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, shift: float = 0.0, factor: float = 1.0
) -> Array:
    r"""V* = min_V V - beta + beta E_ref e^{(r - V)/beta}, attained at V = V*.
    Proof: convex in V, derivative 1 - E_ref e^{(r - V)/beta}.
    """
    value = alignjax.optimal_value(ref_logp, reward, beta)

    def dual(v: Array) -> Array:
        alive = jnp.isfinite(ref_logp)
        exponent = jnp.where(alive, ref_logp, 0.0) + (reward - v) / beta
        return v - factor * beta + beta * jnp.sum(jnp.where(alive, jnp.exp(exponent), 0.0))

    others = value + beta * jnp.linspace(-2.0, 2.0, 9)
    return both(equal(dual(value + shift * beta), value), at_most(value, jax.vmap(dual)(others)))


def regularised_reward_is_flat(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, sign: float = 1.0, factor: float = 1.0
) -> Array:
    r"""R_beta(y) - V* = -beta log(pi(y) / pi*(y)): constant in y iff pi = pi*, and then V*.
    Proof: put r = beta log(pi*/ref) + V* in.
    """
    optimum = definitions.gibbs(ref_logp, reward, beta)
    value = definitions.objective(optimum, ref_logp, reward, beta)
    alive = jnp.isfinite(logp)
    excess = jnp.where(alive, regularised_reward(logp, ref_logp, reward, beta) - factor * value, 0.0)
    claimed = jnp.where(alive, -sign * beta * (jnp.where(alive, logp, 0.0) - jnp.where(alive, optimum, 0.0)), 0.0)
    at_optimum = jnp.where(jnp.isfinite(ref_logp), regularised_reward(optimum, ref_logp, reward, beta), factor * value)
    return both(equal(excess, claimed), equal(at_optimum, factor * value))


def shift_and_scale(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, moved: float = 1.0, scaled: float = 3.0
) -> Array:
    r"""r -> r + c leaves the optimum and every regret and adds c to V*;
    (r, beta) -> (s r, s beta) leaves the optimum.
    """
    c, s = 0.7, 3.0
    optimum = alignjax.gibbs(ref_logp, reward, beta)
    return both(
        equal(jnp.exp(alignjax.gibbs(ref_logp, reward + c, beta)), jnp.exp(optimum)),
        equal(
            alignjax.suboptimality(logp, ref_logp, reward + c, beta),
            alignjax.suboptimality(logp, ref_logp, reward, beta),
        ),
        equal(
            alignjax.optimal_value(ref_logp, reward + c, beta),
            alignjax.optimal_value(ref_logp, reward, beta) + moved * c,
        ),
        equal(jnp.exp(alignjax.gibbs(ref_logp, s * reward, scaled * beta)), jnp.exp(optimum)),
    )


def policy_gradient_of_the_objective(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, sign: float = 1.0, baseline: float = 1.0
) -> Array:
    r"""grad_theta J = pi (R_beta - E_pi R_beta) for softmax logits:
    the derivative of log pi inside R_beta contributes nothing.
    """
    alive = jnp.isfinite(logp)
    logits = jnp.where(alive, logp, -jnp.inf)
    gradient = jax.grad(lambda x: alignjax.objective(log_softmax(x), ref_logp, reward, beta))(logits)
    regularised = reward - sign * beta * definitions.log_ratio(logp, ref_logp)
    centred = definitions.policy_gradient(logp, regularised)
    mean = definitions.expectation(logp, regularised)
    return equal(gradient, centred + (1 - baseline) * jnp.exp(logp) * mean)


def bases(key: Array) -> tuple[Law, Law, Law, Reward, Array]:
    """Three laws, a score and a scale."""
    keys = jax.random.split(key, 5)
    laws = [instances.reference(one, zeros=i < 2) for i, one in enumerate(keys[:3])]
    # Something must stay in every one of them, or no law is left.
    alive = jnp.isfinite(laws[0]) | (jnp.arange(instances.SIZE) == 0)
    first = definitions.normalised(jnp.where(alive, jnp.where(jnp.isfinite(laws[0]), laws[0], -1.0), -jnp.inf))
    second = definitions.normalised(jnp.where(jnp.arange(instances.SIZE) == 0, jnp.maximum(laws[1], -2.0), laws[1]))
    return first, second, laws[2], instances.reward(keys[3]), jax.random.normal(keys[4])


def tilt_is_a_product(
    a: Law, b: Law, c: Law, score: Reward, scale: Array, *, weight: float = 0.7, sign: float = 1.0, unused: float = 0.0
) -> Array:
    r"""tilt((a, b, c), (.7, .3, 0), s, k) is a^.7 b^.3 e^{k s} / Z;
    a base of weight 0 does not matter, not even its zeros.
    """
    product = jnp.exp(a) ** weight * jnp.exp(b) ** 0.3 * jnp.exp(c) ** unused * jnp.exp(sign * scale * score)
    holes = jnp.where(jnp.arange(a.size) == 1, -jnp.inf, c)
    found = alignjax.tilt((a, b, holes), jnp.array([0.7, 0.3, 0.0]), score, scale)
    return equal(jnp.exp(found), product / jnp.sum(product))


def bradley_terry_and_back(
    ref_logp: Law, reward: Reward, beta: Array, logp: Law, *, factor: float = 1.0, swap: float = 0.0
) -> Array:
    r"""P_ij = e^{r_i} / (e^{r_i} + e^{r_j}), and its log-odds give back r - mean r on any support."""
    first, second = jnp.exp(reward)[:, None], jnp.exp(reward)[None, :]
    table = bradley_terry(reward)
    support = jnp.isfinite(ref_logp)
    mean = jnp.sum(jnp.where(support, reward, 0.0)) / support.sum()
    back = bradley_terry_reward(table, "rl/C10", support)
    return both(
        equal(table, pick(swap, second, first) / (first + second)),
        equal(back, jnp.where(support, factor * (reward - mean), 0.0)),
    )


def reparametrised(a: Law, b: Law, *, sign: float = -1.0, weight: float = 0.0) -> Array:
    r"""log_softmax is x - log sum e^x; masked_mean and masked_sum skip what a mask hides."""
    x = a + 3 * b
    hide = jnp.arange(a.size) != 1
    dirty = jnp.where(hide, x, jnp.nan)
    kept = jnp.concatenate([x[:1], x[2:]])
    count = a.size - 1
    return both(
        equal(log_softmax(x), x + sign * jnp.log(jnp.sum(jnp.exp(x)))),
        equal(alignjax.logspace.masked_sum(dirty, hide), kept.sum() + weight),
        equal(alignjax.logspace.masked_mean(dirty, hide), kept.sum() / count),
        equal(alignjax.logspace.masked_mean(x, np.zeros(a.size)), 0.0),
    )


_HERE = "derived in the docstring"

STATEMENTS = (
    Statement(
        id="rl/C1",
        says="the optimum's value is beta log Z",
        formula=r"J(\pi^*)=\beta\log\sum_y\pi_{\rm ref}(y)e^{r(y)/\beta}",
        slack=value_of_the_optimum,
        instance=instances.regularised_problem,
        source=Source("Rafailov et al.", 2023, "2305.18290", "Eq. 3-4, Appendix A.1"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"power": 2.0}),
    ),
    Statement(
        id="rl/C2",
        says="regret is beta KL(policy || optimum), for every policy",
        formula=r"V^*-J(\pi)=\beta\,\mathrm{KL}(\pi\|\pi^*)",
        slack=regret_is_a_divergence,
        instance=instances.regularised_problem,
        source=Source("Korbak et al.", 2022, "2205.11275", "Sec. 4; derived in the docstring"),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"swap": 1.0}),
    ),
    Statement(
        id="rl/C3",
        says="the value lies between the reference's mean reward and the best reward",
        formula=r"\mathbb E_{\rm ref}[r]\le\beta\log Z\le\max r",
        slack=value_lies_between,
        instance=instances.regularised_problem,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"lower": 0.01}, {"upper": 0.01}),
    ),
    Statement(
        id="rl/C4",
        says="the value's derivative in the reward is the optimum, in beta minus its KL",
        formula=r"\partial_{r(y)}V^*=\pi^*(y),\quad\partial_\beta V^*=-\mathrm{KL}(\pi^*\|\pi_{\rm ref})",
        slack=derivatives_of_the_value,
        instance=instances.regularised_problem,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"factor": 2.0}, {"sign": 1.0}, {"sign": -0.5}),
    ),
    Statement(
        id="rl/C5",
        says="the value is the minimum of a convex dual",
        formula=r"V^*=\min_V\{V-\beta+\beta\,\mathbb E_{\rm ref}e^{(r-V)/\beta}\}",
        slack=dual_of_the_value,
        instance=instances.regularised_problem,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"shift": 0.1}, {"factor": 2.0}, {"factor": -1.0}),
    ),
    Statement(
        id="rl/C6",
        says="the regularised reward is flat exactly at the optimum, at the value",
        formula=r"r(y)-\beta\log\tfrac{\pi(y)}{\pi_{\rm ref}(y)}=V^*-\beta\log\tfrac{\pi(y)}{\pi^*(y)}",
        slack=regularised_reward_is_flat,
        instance=instances.regularised_problem,
        source=Source(
            "Richemond et al.", 2024, "2405.19107", "the equation behind Theorem 1; derived in the docstring"
        ),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/C7",
        says="a reward shift moves only the value; reward and beta scale together",
        formula=r"\pi^*(r+c,\beta)=\pi^*(r,\beta)=\pi^*(sr,s\beta),\quad V^*(r+c)=V^*(r)+c",
        slack=shift_and_scale,
        instance=instances.regularised_problem,
        source=Source("Rafailov et al.", 2023, "2305.18290", "Lemma 2"),
        mutants=({"moved": 0.0}, {"moved": 2.0}, {"scaled": 1.0}),
    ),
    Statement(
        id="rl/C8",
        says="the gradient of J is the policy gradient with the KL in the reward",
        formula=r"\nabla_\theta J=\pi\odot(R_\beta-\mathbb E_\pi R_\beta)",
        slack=policy_gradient_of_the_objective,
        instance=instances.regularised_problem,
        source=Source("Korbak et al.", 2022, "2205.11275", "Sec. 4; Williams, 1992"),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"sign": 0.0}, {"baseline": 0.0}),
    ),
    Statement(
        id="rl/C9",
        says="tilt is the normalised product of powers of laws and an exponential",
        formula=r"\prod_jb_j(y)^{w_j}e^{ks(y)}/Z",
        slack=tilt_is_a_product,
        instance=bases,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"weight": 1.0}, {"sign": -1.0}, {"unused": 0.3}),
    ),
    Statement(
        id="rl/C10",
        says="bradley_terry is e^ri / (e^ri + e^rj), and its log-odds give the reward back",
        formula=r"P_{ij}=\frac{e^{r_i}}{e^{r_i}+e^{r_j}}",
        slack=bradley_terry_and_back,
        instance=instances.regularised_problem,
        source=Source("Bradley and Terry", 1952, "", "the model", venue="Biometrika 39"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"swap": 1.0}),
    ),
    Statement(
        id="rl/C11",
        says="log_softmax normalises; masked sums and means skip what is masked",
        formula=r"\log\mathrm{softmax}(x)=x-\log\sum e^x",
        slack=reparametrised,
        instance=instances.smooth_laws,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"sign": 1.0}, {"weight": 1.0}),
    ),
)
