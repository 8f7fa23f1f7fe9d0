r"""Divergences against their definitions as plain sums, and the inequalities between them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

import alignjax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import LOOSE, at_most, both, equal, pick

Law = Float[Array, "A"]


def _sum(values: Array, where: Array) -> Array:
    return jnp.sum(jnp.where(where, jnp.where(where, values, 0.0), 0.0))


def kl_is_its_sum(logp: Law, logq: Law, *, factor: float = 1.0, swap: float = 0.0) -> Array:
    r"""KL(p || q) = sum p log(p / q), infinite where q misses mass of p, and never negative."""
    by_sum = pick(swap, definitions.kl(logq, logp), definitions.kl(logp, logq))
    return both(equal(alignjax.kl(logp, logq), factor * by_sum), at_most(0.0, alignjax.kl(logp, logq), tolerance=0.0))


def kl_next_to_itself(logp: Law, logq: Law, *, factor: float = 1.0, size: float = 1e-9) -> Array:
    r"""KL(p || p (1 + eps u)) = eps^2 Var_p(u) / 2 + O(eps^3),
    resolved to eight digits where sum p log(p / q) has none left.
    """
    p = jnp.exp(logp)
    u = jnp.cos(3.0 * jnp.arange(logp.size))
    centred = u - jnp.sum(p * u)
    near = logp + jnp.log1p(size * centred)
    exact = 0.5 * size**2 * jnp.sum(p * jnp.square(centred))
    return equal(1e18 * alignjax.kl(logp, near), 1e18 * factor * exact, tolerance=LOOSE)


def reverse_kl_is_swapped(logp: Law, logq: Law, *, swap: float = 1.0, factor: float = 1.0) -> Array:
    r"""reverse_kl(p, q) = sum q log(q / p)."""
    return equal(
        alignjax.reverse_kl(logp, logq), factor * pick(swap, definitions.kl(logq, logp), definitions.kl(logp, logq))
    )


def jeffreys_weights(logp: Law, logq: Law, weight: Array, *, swap: float = 0.0, factor: float = 1.0) -> Array:
    r"""w KL(p || q) + (1 - w) KL(q || p); an end of weight 0 does not count, infinite or not."""
    one, other = definitions.kl(logp, logq), definitions.kl(logq, logp)
    share = pick(swap, 1 - weight, weight)
    by_sums = jnp.where(share > 0, share * one, 0.0) + jnp.where(share < 1, (1 - share) * other, 0.0)
    return equal(alignjax.jeffreys(logp, logq, weight), factor * by_sums)


def jensen_shannon_is_entropy_gain(logp: Law, logq: Law, *, factor: float = 1.0, most: float = 1.0) -> Array:
    r"""JS = H((p + q)/2) - (H(p) + H(q))/2 <= log 2."""

    def entropy(p: Array) -> Array:
        return -_sum(p * jnp.log(jnp.where(p > 0, p, 1.0)), p > 0)

    p, q = jnp.exp(logp), jnp.exp(logq)
    gain = entropy((p + q) / 2) - factor * (entropy(p) + entropy(q)) / 2
    value = alignjax.jensen_shannon(logp, logq)
    return both(equal(value, gain), at_most(value, most * jnp.log(2.0)))


def chi_square_is_second_moment(logp: Law, logq: Law, *, offset: float = 1.0, swap: float = 0.0) -> Array:
    r"""chi^2(p || q) = sum p^2 / q - 1 >= e^{KL(p || q)} - 1."""
    p, q = jnp.exp(logp), jnp.exp(logq)
    p, q = pick(swap, q, p), pick(swap, p, q)
    second = jnp.where(jnp.any((q == 0) & (p > 0)), jnp.inf, _sum(jnp.square(p) / jnp.where(q > 0, q, 1.0), q > 0))
    value = alignjax.chi_square(logp, logq)
    bounded = at_most(definitions.kl(logp, logq), jnp.log1p(value))
    return both(equal(value, second - offset), jnp.where(jnp.isfinite(value), bounded, jnp.inf))


def total_variation_is_best_event(logp: Law, logq: Law, *, factor: float = 1.0, pinsker: float = 0.5) -> Array:
    r"""TV = max over events of p(B) - q(B), over all 2^A of them, and TV^2 <= KL / 2 (Pinsker)."""
    size = logp.size
    events = (jnp.arange(2**size)[:, None] >> jnp.arange(size)) & 1
    best = jnp.max(events @ (jnp.exp(logp) - jnp.exp(logq)))
    value = alignjax.total_variation(logp, logq)
    return both(
        equal(value, factor * best), at_most(jnp.square(value), pinsker * definitions.kl(logp, logq), tolerance=1e-12)
    )


def laws_and_order(key: Array) -> tuple[Law, Law, Array]:
    """(logp, logq, order in (0, 3], or a weight when cut to [0, 1])."""
    logp, logq = instances.two_laws(key)
    order = 3 * jnp.abs(jnp.sin(1e3 * logp[jnp.argmax(logp)] + logq[jnp.argmax(logq)])) + 0.01
    return logp, logq, order


def laws_and_weight(key: Array) -> tuple[Law, Law, Array]:
    """(logp, logq, weight in [0, 1], its ends included)."""
    logp, logq, order = laws_and_order(key)
    return logp, logq, jnp.clip(1.2 * (order - 0.01) / 3 - 0.1, 0.0, 1.0)


def renyi_is_its_sum(
    logp: Law, logq: Law, order: Array, *, factor: float = 1.0, swap: float = 0.0, at_one: float = 1.0
) -> Array:
    r"""D_alpha = log(sum p^alpha q^{1 - alpha}) / (alpha - 1); KL at alpha = 1; it does not decrease with alpha."""
    p, q = jnp.exp(logp), jnp.exp(logq)
    both_alive = (p > 0) & (q > 0)
    a = pick(swap, 1 - order, order)
    total = _sum(jnp.where(both_alive, p, 1.0) ** a * jnp.where(both_alive, q, 1.0) ** (1 - a), both_alive)
    total = jnp.where((order > 1) & jnp.any((p > 0) & (q == 0)), jnp.inf, total)
    by_sum = jnp.log(total) / (order - 1)
    value = alignjax.renyi(logp, logq, order)
    regular = jnp.abs(order - 1) > 1e-3
    return both(
        jnp.where(regular, equal(value, factor * by_sum, tolerance=1e-8), jnp.inf),
        equal(alignjax.renyi(logp, logq, 1.0), at_one * definitions.kl(logp, logq)),
        at_most(value, alignjax.renyi(logp, logq, order + 0.2), tolerance=LOOSE),
    )


def alpha_is_its_sum(
    logp: Law, logq: Law, weight: Array, *, factor: float = 1.0, swap: float = 0.0, limit: float = 1.0
) -> Array:
    r"""D_a = (1 - sum p^{1 - a} q^a) / (a (1 - a)), which tends to KL(p || q) as a -> 0 and to KL(q || p) as a -> 1."""
    a = 0.05 + 0.9 * weight
    p, q = jnp.exp(logp), jnp.exp(logq)
    b = pick(swap, 1 - a, a)
    alive = (p > 0) & (q > 0)
    total = _sum(jnp.where(alive, p, 1.0) ** (1 - b) * jnp.where(alive, q, 1.0) ** b, alive)
    near_zero, near_one = alignjax.alpha_divergence(logp, logq, 1e-6), alignjax.alpha_divergence(logp, logq, 1 - 1e-6)
    forward, backward = definitions.kl(logp, logq), definitions.kl(logq, logp)
    return both(
        equal(alignjax.alpha_divergence(logp, logq, a), factor * (1 - total) / (a * (1 - a))),
        jnp.where(jnp.isfinite(forward), equal(near_zero, limit * forward, tolerance=1e-3), jnp.inf),
        jnp.where(jnp.isfinite(backward), equal(near_one, limit * backward, tolerance=1e-3), jnp.inf),
    )


def f_divergence_of_any_f(logp: Law, logq: Law, *, slope: float = 0.5, factor: float = 1.0) -> Array:
    r"""E_q f(p / q) + p(q = 0) f'(infinity):
    with f(u) = |u - 1| / 2 (slope 1/2) it is the total variation, sum |p - q| / 2.
    """
    value = alignjax.f_divergence(logp, logq, lambda u: factor * jnp.abs(u - 1) / 2, slope_at_infinity=slope)
    return equal(value, jnp.abs(jnp.exp(logp) - jnp.exp(logq)).sum() / 2)


STATEMENTS = (
    Statement(
        id="rl/V1",
        says="kl(p, q) is sum p log(p/q), +inf off the support, >= 0",
        formula=r"\mathrm{KL}(p\|q)=\sum_yp(y)\log\frac{p(y)}{q(y)}\ge0",
        slack=kl_is_its_sum,
        instance=instances.two_laws,
        source=Source("Kullback and Leibler", 1951, "", "Eq. 2.4", venue="Annals of Mathematical Statistics 22"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"swap": 1.0}),
    ),
    Statement(
        id="rl/V2",
        says="kl resolves laws that agree to nine digits",
        formula=r"\mathrm{KL}(p\|p(1+\epsilon u))=\tfrac{\epsilon^2}2\mathrm{Var}_p(u)+O(\epsilon^3)",
        slack=kl_next_to_itself,
        instance=instances.smooth_laws,
        source=Source("alignjax", 2026, "", "Taylor's theorem"),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"factor": 0.0}),
    ),
    Statement(
        id="rl/V3",
        says="reverse_kl(p, q) is KL(q || p)",
        formula=r"\mathrm{KL}(q\|p)",
        slack=reverse_kl_is_swapped,
        instance=instances.two_laws,
        source=Source("Kullback and Leibler", 1951, "", "Eq. 2.4", venue="Annals of Mathematical Statistics 22"),
        mutants=({"swap": 0.0}, {"factor": 0.5}),
    ),
    Statement(
        id="rl/V4",
        says="jeffreys weighs KL(p || q) by its weight and KL(q || p) by the rest",
        formula=r"w\,\mathrm{KL}(p\|q)+(1-w)\,\mathrm{KL}(q\|p)",
        slack=jeffreys_weights,
        instance=laws_and_weight,
        source=Source("Sessa et al.", 2024, "2407.14622", "Eq. 11"),
        mutants=({"swap": 1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/V5",
        says="jensen_shannon is the entropy gained by mixing, at most log 2",
        formula=r"\mathrm{JS}=H(\tfrac{p+q}2)-\tfrac12H(p)-\tfrac12H(q)\le\log2",
        slack=jensen_shannon_is_entropy_gain,
        instance=instances.two_laws,
        source=Source("Lin", 1991, "", "Eq. 3.4", venue="IEEE Transactions on Information Theory 37"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"most": 0.9}),
    ),
    Statement(
        id="rl/V6",
        says="chi_square is sum p^2/q - 1, and bounds KL",
        formula=r"\chi^2(p\|q)=\sum p^2/q-1\ge e^{\mathrm{KL}(p\|q)}-1",
        slack=chi_square_is_second_moment,
        instance=instances.two_laws,
        source=Source("van Erven and Harremoes", 2012, "1206.2459", "Eq. 7"),
        mutants=({"offset": 0.0}, {"offset": 2.0}, {"swap": 1.0}),
    ),
    Statement(
        id="rl/V7",
        says="total_variation is the largest difference over events, and obeys Pinsker",
        formula=r"\mathrm{TV}=\max_B p(B)-q(B)\le\sqrt{\mathrm{KL}/2}",
        slack=total_variation_is_best_event,
        instance=instances.two_laws,
        source=Source("van Erven and Harremoes", 2012, "1206.2459", "Eq. 31 (Pinsker)"),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"pinsker": 0.4}),
    ),
    Statement(
        id="rl/V8",
        says="renyi is its sum at every order, KL at order 1, and increases with the order",
        formula=r"D_\alpha(p\|q)=\tfrac1{\alpha-1}\log\sum p^\alpha q^{1-\alpha}",
        slack=renyi_is_its_sum,
        instance=laws_and_order,
        source=Source("van Erven and Harremoes", 2012, "1206.2459", "Eq. 9, Theorems 3 and 5"),
        mutants=({"factor": -1.0}, {"swap": 1.0}, {"at_one": 2.0}),
    ),
    Statement(
        id="rl/V9",
        says="alpha_divergence is its sum, with both KLs as limits",
        formula=r"D_a=\frac{1-\sum p^{1-a}q^a}{a(1-a)}",
        slack=alpha_is_its_sum,
        instance=laws_and_weight,
        source=Source("Wang et al.", 2023, "2309.16240", "Table 1"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"swap": 1.0}, {"limit": 2.0}),
    ),
    Statement(
        id="rl/V10",
        says="f_divergence of |u - 1|/2 is the total variation, mass off the support included",
        formula=r"D_f(p\|q)=\sum q f(p/q)+p(q=0)f'(\infty)",
        slack=f_divergence_of_any_f,
        instance=instances.two_laws,
        source=Source("Csiszar", 1967, "", "definition of f-divergences", venue="Studia Sci. Math. Hungarica 2"),
        mutants=({"slope": 1.0}, {"factor": 2.0}),
    ),
)
