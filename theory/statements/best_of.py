r"""Best-of-N: its law by enumeration, what it costs and wins, and the reward whose regularised optimum it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import best_of_n, bond_reward
from alignjax.best_of import best_of_n_kl
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick

Law = Float[Array, "A"]
Reward = Float[Array, "A"]
SIZE = instances.SIZE


# --- instances


def tied_reward(key: Array) -> Reward:
    """Rewards of every size; in half of the instances rounded, so that several responses tie."""
    reward_key, coin_key = jax.random.split(key)
    reward = instances.reward(reward_key)
    return jnp.where(jax.random.uniform(coin_key) < 0.5, jnp.round(reward), reward)


def reference_and_reward(key: Array) -> tuple[Law, Reward, Array]:
    """(ref_logp, reward, n): zero masses and ties included, real N from 1.05 to 64."""
    keys = jax.random.split(key, 3)
    return instances.reference(keys[0]), tied_reward(keys[1]), instances.log_uniform(keys[2], 1.05, 64.0)


def with_a_policy(key: Array) -> tuple[Law, Reward, Array, Law]:
    """The same, and a policy of the reference's support."""
    first, second = jax.random.split(key)
    ref_logp, reward, n = reference_and_reward(first)
    return ref_logp, reward, n, instances.policy(second, ref_logp, zeros=False)


# --- definitions: pairwise comparisons and enumeration, nothing sorted


def mass(ref_logp: Law, wanted: Float[Array, "A A"]) -> Float[Array, "A"]:
    """sum over y' of ref(y') where `wanted` [y, y'] holds."""
    return jnp.sum(jnp.where(wanted, jnp.exp(ref_logp)[None, :], 0.0), 1)


def log_of(mass: Array) -> Array:
    """log, -inf at 0."""
    return jnp.where(mass > 0, jnp.log(jnp.where(mass > 0, mass, 1.0)), -jnp.inf)


def at_most_as_good(ref_logp: Law, reward: Reward) -> Float[Array, "A"]:
    """p_<=."""
    return mass(ref_logp, reward[None, :] <= reward[:, None])


def worse(ref_logp: Law, reward: Reward) -> Float[Array, "A"]:
    """p_<."""
    return mass(ref_logp, reward[None, :] < reward[:, None])


def written_out(ref_logp: Law, reward: Reward, n: Array | float) -> Law:
    r"""log of ref (p_<=^N - p_<^N) / (p_<= - p_<)."""
    below, upto = worse(ref_logp, reward), at_most_as_good(ref_logp, reward)
    alive = jnp.isfinite(ref_logp)
    width = mass(ref_logp, reward[None, :] == reward[:, None])
    share = jnp.where(alive, jnp.exp(ref_logp) / jnp.where(alive, width, 1.0), 0.0)
    return log_of(share * (upto**n - below**n))


_TRIPLES = np.asarray(list(itertools.product(range(SIZE), repeat=3)))


def best_of_three(ref_logp: Law, reward: Reward) -> Float[Array, "A"]:
    """Every triple of samples; a tie is settled by a fair draw among the tied samples."""
    p, scores = jnp.exp(ref_logp)[_TRIPLES], reward[_TRIPLES]
    winners = scores == scores.max(1, keepdims=True)
    share = jnp.prod(p, 1, keepdims=True) * winners / winners.sum(1, keepdims=True)
    return jnp.stack([jnp.sum(jnp.where(y == _TRIPLES, share, 0.0)) for y in range(SIZE)])


def win_rate(ref_logp: Law, reward: Reward, logp: Law, tie: Array | float = 0.5) -> Array:
    """The chance that a sample of a policy beats one of the reference; a tie counts `tie`."""
    gain = reward[:, None] - reward[None, :]
    table = jnp.where(gain > 0, 1.0, jnp.where(gain == 0, tie, 0.0))
    return definitions.wins(table, logp, ref_logp)


# --- B1 to B8


def law_by_enumeration(
    ref_logp: Law, reward: Reward, n: Array, *, more: float = 0.0, by_index: float = 0.0, sign: float = 1.0
) -> Array:
    r"""The law at N = 3, best and worst, is that of all triples; ties between samples included, and it sums to 1.

    Ties between responses settled by their index are another law (a mutant): the order must be refined first.
    """
    drawn = 3.0 + more
    found = pick(by_index, best_of_n(ref_logp, reward, drawn, ties="order"), best_of_n(ref_logp, sign * reward, drawn))
    lowest = best_of_n(ref_logp, reward, drawn, worst=True)
    return both(
        equal(jnp.exp(found), best_of_three(ref_logp, reward)),
        equal(jnp.exp(lowest), best_of_three(ref_logp, -reward)),
        equal(jnp.sum(jnp.exp(found)), 1.0),
    )


def strict_order(ref_logp: Law, reward: Reward, n: Array, *, first: float = 0.0, shift: float = 1e-11) -> Array:
    r"""`ties="order"` is the law of rewards made strict: of two that tie the lower index is the better one."""
    index = pick(first, jnp.arange(SIZE)[::-1], jnp.arange(SIZE))
    return equal(
        jnp.exp(best_of_n(ref_logp, reward, n, ties="order")),
        jnp.exp(written_out(ref_logp, reward - shift * index, n)),
    )


def real_n(ref_logp: Law, reward: Reward, n: Array, *, shift: float = 0.0, rate: float = 1.0) -> Array:
    r"""ref (p_<=^N - p_<^N) / (p_<= - p_<) for every real N >= 1, and the reference at N = 1."""
    found = best_of_n(ref_logp, reward, n)
    claimed = written_out(ref_logp, reward, rate * n + shift)
    one = best_of_n(ref_logp, reward, 1.0 + shift)
    return both(equal(jnp.exp(found), jnp.exp(claimed)), equal(jnp.exp(one), jnp.exp(ref_logp)))


def only_the_order_matters(ref_logp: Law, reward: Reward, n: Array, *, fold: float = 0.0, coarse: float = 0.0) -> Array:
    r"""Best-of-N of f(r) is best-of-N of r for strictly increasing f."""
    found = jnp.exp(best_of_n(ref_logp, reward, n))
    slacks = []
    for moved in (3.0 * reward - 7.0, jnp.exp(0.5 * reward), jnp.arctan(reward), reward**3 + reward):
        given = pick(fold, jnp.abs(reward), pick(coarse, jnp.floor(moved), moved))
        slacks.append(equal(jnp.exp(best_of_n(ref_logp, given, n)), found))
    return both(*slacks)


def iterated(ref_logp: Law, reward: Reward, n: Array, *, add: float = 0.0, power: float = 1.0) -> Array:
    r"""Bo_M(Bo_N(ref)) = Bo_{NM}(ref), here with M = 2.5 and with N = M thrice."""
    twice = best_of_n(best_of_n(ref_logp, reward, n), reward, 2.5)
    thrice = ref_logp
    for _ in range(3):
        thrice = best_of_n(thrice, reward, 1.7)
    total = pick(add, n + 2.5, (2.5 * n) ** power)
    return both(
        equal(jnp.exp(twice), jnp.exp(written_out(ref_logp, reward, total))),
        equal(jnp.exp(thrice), jnp.exp(written_out(ref_logp, reward, pick(add, 5.1, 1.7 ** (3.0 * power))))),
    )


def divergence_bound(ref_logp: Law, reward: Reward, n: Array, *, factor: float = 1.0, less: float = 1.0) -> Array:
    r"""KL(BoN || ref) <= log N - (N - 1) / N; equality only where no two samples tie."""
    divergence = definitions.kl(best_of_n(ref_logp, reward, n), ref_logp)
    bound = jnp.log(n) - less * (n - 1) / n
    return both(
        at_most(divergence, factor * bound),
        pick(less == 1.0, equal(bound, best_of_n_kl(n)), jnp.inf),
    )


def more_is_more(ref_logp: Law, reward: Reward, n: Array, *, grow: float = 1.3, top: float = 1.0) -> Array:
    r"""KL and win-rate do not fall in N, and KL <= -log ref(top class)."""
    small, large = (best_of_n(ref_logp, reward, k) for k in (n, jnp.maximum(grow * n, 1.0)))
    alive = jnp.isfinite(ref_logp)
    best = jnp.max(jnp.where(alive, reward, -jnp.inf))
    summit = jnp.sum(jnp.where(alive & (reward == best), jnp.exp(ref_logp), 0.0))
    return both(
        at_most(definitions.kl(small, ref_logp), definitions.kl(large, ref_logp)),
        at_most(win_rate(ref_logp, reward, small), win_rate(ref_logp, reward, large)),
        at_most(definitions.kl(large, ref_logp), -top * jnp.log(summit)),
    )


def win_rate_bounds(
    ref_logp: Law, reward: Reward, n: Array, *, half: float = 0.5, full: float = 1.0, factor: float = 1.0
) -> Array:
    r"""Against one sample, N / (N + 1) lies between the win-rate with ties as halves and that with ties as wins."""
    best = best_of_n(ref_logp, reward, n)
    claimed = factor * n / (n + 1)
    return both(
        at_most(win_rate(ref_logp, reward, best, half), claimed),
        at_most(claimed, win_rate(ref_logp, reward, best, full)),
    )


def gibbs_of_its_reward(ref_logp: Law, reward: Reward, n: Array, *, less: float = 1.0, shift: float = 0.0) -> Array:
    r"""BoN is the Gibbs policy of r_BOND at beta = 1 / (N - 1), and Z = 1: R_beta = r - beta log(BoN / ref) is 0.

    With R_beta constant it is the optimum of CoPG, AGRO and DRO with that reward too, and of RLHF.
    """
    score, beta = bond_reward(ref_logp, reward, n) + shift, 1.0 / (n - less)
    target = written_out(ref_logp, reward, n)
    alive = jnp.isfinite(ref_logp)
    score = jnp.where(alive, score, 0.0)
    value = beta * jax.nn.logsumexp(jnp.where(alive, ref_logp + score / beta, -jnp.inf))
    # Of a target of tiny mass the difference of powers keeps no digits.
    seen = alive & (target > -20) & (ref_logp > -12)
    residual = jnp.where(seen, score - beta * jnp.where(seen, target - ref_logp, 0.0), 0.0)
    return both(
        equal(jnp.exp(definitions.gibbs(ref_logp, score, beta)), jnp.exp(target)),
        equal(value, 0.0),
        equal(residual, 0.0, tolerance=1e-6),
    )


def factor_b(ref_logp: Law, reward: Reward, n: Array, *, upper: float = 1.0, lower: float = 0.0) -> Array:
    r"""1 <= B <= N; the worst response of all has B = 1 and ref^N; B is the sum of (p_< / p_<=)^i for i < N = 4."""
    alive = jnp.isfinite(ref_logp)
    upto = log_of(at_most_as_good(ref_logp, reward))
    upto = jnp.where(alive, upto, 0.0)
    log_b = jnp.where(alive, (n - 1) * (bond_reward(ref_logp, reward, n) - upto), 0.0)
    lowest = alive & (reward == jnp.min(jnp.where(alive, reward, jnp.inf)))
    alone = lowest & (jnp.sum(lowest) == 1)
    power = jnp.where(alone, jnp.exp(jnp.where(alone, n * ref_logp, 0.0)), 0.0)
    found = best_of_n(ref_logp, reward, n)
    four = jnp.where(alive, 3 * (bond_reward(ref_logp, reward, 4.0) - upto), 0.0)
    rho = jnp.where(alive, worse(ref_logp, reward) / jnp.where(alive, at_most_as_good(ref_logp, reward), 1.0), 0.0)
    return both(
        at_most(lower, jnp.where(alive, log_b, jnp.inf)),
        at_most(log_b, upper * jnp.log(n)),
        equal(jnp.where(lowest, log_b, 0.0), lower),
        equal(jnp.where(alone, jnp.exp(found), 0.0), power),
        equal(jnp.where(alive, jnp.exp(four), 0.0), jnp.where(alive, 1 + rho + rho**2 + rho**3, 0.0)),
    )


# --- vBoN


def binomial_form(ref_logp: Law, reward: Reward, n: Array, *, start: float = 1.0, power: float = 0.0) -> Array:
    r"""In a strict order best-of-4 is sum_{i = 1}^4 C(4, i) p_<^{4 - i} ref^i: i samples are y, the rest worse."""
    strict = reward - 1e-11 * jnp.arange(SIZE)
    below, p = worse(ref_logp, strict), jnp.exp(ref_logp)
    terms = [4 * below**3 * p, 6 * below**2 * p**2, 4 * below * p**3, p**4]
    total = sum(jnp.where(i < start - 1, 0.0, term) for i, term in enumerate(terms))
    return equal(total, jnp.exp(best_of_n(ref_logp, strict, 4.0 + power)))


def variational_bound(
    ref_logp: Law, reward: Reward, n: Array, logp: Law, *, power: float = 1.0, slackest: float = 1.0
) -> Array:
    r"""E_pi log BoN >= (N - 1) E_pi log p_<= + E_pi log ref, by at most log N."""
    expected = definitions.expectation(logp, jnp.where(jnp.isfinite(ref_logp), best_of_n(ref_logp, reward, n), 0.0))
    alive = jnp.isfinite(ref_logp)
    upto = jnp.where(alive, log_of(at_most_as_good(ref_logp, reward)), 0.0)
    lower = definitions.expectation(logp, (n - power) * upto + jnp.where(alive, ref_logp, 0.0))
    return both(at_most(lower, expected), at_most(expected, lower + slackest * jnp.log(n)))


_SESSA = ("Sessa et al.", 2024, "2407.14622")
_AMINI = ("Amini et al.", 2024, "2407.06057")

STATEMENTS = (
    Statement(
        id="bond/B1",
        says="best-of-3 and worst-of-3 are the law of all triples, ties between samples drawn fairly",
        formula=r"\pi_{\rm BoN}(y)=\mu(y)\frac{p_\le^N-p_<^N}{p_\le-p_<}",
        slack=law_by_enumeration,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Theorem 1; with ties, shown here"),
        mutants=({"more": 1.0}, {"by_index": 1.0}, {"sign": -1.0}),
    ),
    Statement(
        id="bond/B1-order",
        says="of two responses with the same reward the one with the lower index wins",
        formula=r"r(y_i)\to r(y_i)-\epsilon i",
        slack=strict_order,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Theorem 1, a strict order"),
        mutants=({"first": 1.0}, {"shift": 0.0}),
    ),
    Statement(
        id="bond/B1-real",
        says="the law for every real N; N = 1 is the reference",
        formula=r"\pi_{\rm BoN}=\mu\frac{p_\le^N-p_<^N}{p_\le-p_<}",
        slack=real_n,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Theorem 1"),
        mutants=({"shift": 0.01}, {"rate": 2.0}),
    ),
    Statement(
        id="bond/B2",
        says="only the order of the rewards matters",
        formula=r"\mathrm{BoN}(f\circ r)=\mathrm{BoN}(r)",
        slack=only_the_order_matters,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Sec. 3.1"),
        mutants=({"fold": 1.0}, {"coarse": 1.0}),
    ),
    Statement(
        id="bond/B3",
        says="best-of-M of best-of-N is best-of-NM, ties and real numbers included",
        formula=r"\mathrm{Bo}_M(\mathrm{Bo}_N(\mu))=\mathrm{Bo}_{NM}(\mu)",
        slack=iterated,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Sec. 5"),
        mutants=({"add": 1.0}, {"power": 1.1}),
    ),
    Statement(
        id="bond/B4",
        says="the divergence of best-of-N from its reference is bounded",
        formula=r"\mathrm{KL}(\pi_{\rm BoN}\|\mu)\le\log N-\tfrac{N-1}N",
        slack=divergence_bound,
        instance=reference_and_reward,
        source=Source("Beirami et al.", 2024, "2401.01879", "Theorem 1"),
        mutants=({"factor": 0.8}, {"less": 1.5}),
    ),
    Statement(
        id="bond/B5",
        says="divergence and win-rate do not fall in N; the divergence stays below that of the top class",
        formula=r"\mathrm{KL}(\pi_{\rm BoN}\|\mu)\le-\log\mu(\mathrm{top})",
        slack=more_is_more,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Sec. 3.1, derived"),
        mutants=({"grow": 0.9}, {"top": 0.9}),
    ),
    Statement(
        id="bond/B6",
        says="the win-rate against one sample is N / (N + 1), from below with ties as halves, from above as wins",
        formula=r"P(\mathrm{BoN}\succ\mu)\le\tfrac N{N+1}\le P(\mathrm{BoN}\succeq\mu)",
        slack=win_rate_bounds,
        instance=reference_and_reward,
        source=Source("Beirami et al.", 2024, "2401.01879", "the win-rate without atoms; with them, shown here"),
        mutants=({"half": 1.0}, {"full": 0.5}, {"factor": 0.9}, {"factor": 1.05}),
    ),
    Statement(
        id="bond/B7",
        says="best-of-N is the Gibbs policy of the BOND reward at 1 / (N - 1), with Z = 1",
        formula=r"\pi_{\rm BoN}=\mu e^{(N-1)r_{\rm BOND}},\quad r_{\rm BOND}=\log p_\le+\tfrac{\log B}{N-1}",
        slack=gibbs_of_its_reward,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Sec. 3.2"),
        mutants=({"less": 0.9}, {"shift": 0.1}),
    ),
    Statement(
        id="bond/B8",
        says="the factor B lies between 1 and N, and is 1 for the worst response",
        formula=r"1\le B=\sum_{i=1}^N(p_</p_\le)^{i-1}\le N",
        slack=factor_b,
        instance=reference_and_reward,
        source=Source(*_SESSA, "Theorem 1"),
        mutants=({"upper": 0.8}, {"lower": 0.05}),
    ),
    Statement(
        id="bond/V1",
        says="vBoN's binomial sum is the same law, in a strict order",
        formula=r"\pi_{\rm BoN}=\sum_{i=1}^N\binom Nip_<^{N-i}\mu^i",
        slack=binomial_form,
        instance=reference_and_reward,
        source=Source(*_AMINI, "Proposition 1"),
        mutants=({"start": 2.0}, {"power": 1.0}),
    ),
    Statement(
        id="bond/V2",
        says="vBoN's bound without the factor B, and that it is loose by at most log N",
        formula=r"0\le\mathbb E_\pi\log\pi_{\rm BoN}-(N-1)\mathbb E_\pi\log p_\le-\mathbb E_\pi\log\mu\le\log N",
        slack=variational_bound,
        instance=with_a_policy,
        source=Source(*_AMINI, "the lower bound of Sec. 3"),
        mutants=({"power": 1.5}, {"slackest": 0.8}),
    ),
)
