r"""Losses on pairs (DPO, IPO, f-DPO, hinges): their formulas, minimisers, minimum values and invariances."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import Problem, Samples, methods, population_grad, population_loss
from alignjax.f_regularised import score
from alignjax.logspace import log_softmax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import at_most, both, equal, pick

Pair = Float[Array, "2"]
Logits = Float[Array, "A"]


def pair_of_responses(key: Array) -> tuple[Pair, Pair, Array, Array, Array]:
    """(logp, ref_logp, P(0 beats 1), beta, eps): two responses and how they compare."""
    keys = jax.random.split(key, 5)
    logp = -3 + 2 * jax.random.normal(keys[0], (2,))
    ref_logp = logp + jax.random.normal(keys[1], (2,))
    p = jnp.round(jax.random.uniform(keys[2]), 1)
    return logp, ref_logp, p, instances.log_uniform(keys[3], 0.05, 3.0), 0.45 * jax.random.uniform(keys[4])


def _evaluate(name: str, logp: Pair, ref_logp: Pair, p: Array, **hyper: Any) -> tuple[Array, Array]:
    """The library's loss with a preference, and without one (response 0 is then the chosen one)."""
    table = (
        jnp.array([[0.5, 0.0], [0.0, 0.5]]) + p * jnp.array([[0, 1], [0, 0]]) + (1 - p) * jnp.array([[0, 0], [1, 0]])
    )
    soft = methods[name](Samples(logp=logp, ref_logp=ref_logp, preference=table), **hyper)
    hard = methods[name](Samples(logp=logp, ref_logp=ref_logp), **hyper)
    return soft, hard


def dpo_formula(
    logp: Pair, ref_logp: Pair, p: Array, beta: Array, eps: Array, *, sign: float = 1.0, factor: float = 1.0
) -> Array:
    r"""-P log sigma(beta D) - (1 - P) log sigma(-beta D), D = h_0 - h_1,
    and its gradient -beta sigma(-beta D) grad D.
    """
    margin = sign * factor * beta * ((logp[0] - logp[1]) - (ref_logp[0] - ref_logp[1]))
    win, lose = definitions.minus_log_sigmoid(margin), definitions.minus_log_sigmoid(-margin)
    soft, hard = _evaluate("dpo", logp, ref_logp, p, beta=beta)
    gradient = jax.grad(lambda x: _evaluate("dpo", x, ref_logp, p, beta=beta)[1])(logp)
    slope = -factor * beta * definitions.sigmoid(-margin)
    return both(
        equal(soft, p * win + (1 - p) * lose), equal(hard, win), equal(gradient, slope * jnp.array([1.0, -1.0]))
    )


def cdpo_formula(
    logp: Pair, ref_logp: Pair, p: Array, beta: Array, eps: Array, *, flip: float = 1.0, factor: float = 1.0
) -> Array:
    r"""The mean of DPO's loss over labels flipped with probability eps: DPO at (1 - eps) P + eps (1 - P)."""
    margin = factor * beta * ((logp[0] - logp[1]) - (ref_logp[0] - ref_logp[1]))
    noise = flip * eps
    noisy = (1 - noise) * p + noise * (1 - p)
    win, lose = definitions.minus_log_sigmoid(margin), definitions.minus_log_sigmoid(-margin)
    soft, hard = _evaluate("cdpo", logp, ref_logp, p, beta=beta, label_smoothing=eps)
    return both(equal(soft, noisy * win + (1 - noisy) * lose), equal(hard, (1 - noise) * win + noise * lose))


def robust_dpo_is_unbiased(
    logp: Pair, ref_logp: Pair, p: Array, beta: Array, eps: Array, *, flip: float = 1.0, factor: float = 1.0
) -> Array:
    r"""Averaged over the flips, (1 - eps) l(label) + eps l(flipped label), the loss is DPO's on the clean label."""
    margin = factor * beta * ((logp[0] - logp[1]) - (ref_logp[0] - ref_logp[1]))
    clean = definitions.minus_log_sigmoid(margin)
    as_is, _ = _evaluate("robust_dpo", logp, ref_logp, jnp.ones(()), beta=beta, label_smoothing=eps)
    flipped, _ = _evaluate("robust_dpo", logp, ref_logp, jnp.zeros(()), beta=beta, label_smoothing=eps)
    return equal((1 - flip * eps) * as_is + flip * eps * flipped, clean)


def hinge_formula(
    logp: Pair, ref_logp: Pair, p: Array, beta: Array, eps: Array, *, sign: float = 1.0, at: float = 1.0
) -> Array:
    r"""P max(0, 1 - beta D) + (1 - P) max(0, 1 + beta D)."""
    margin = sign * beta * ((logp[0] - logp[1]) - (ref_logp[0] - ref_logp[1]))
    win, lose = jnp.where(margin < at, at - margin, 0.0), jnp.where(margin > -at, at + margin, 0.0)
    soft, hard = _evaluate("hinge", logp, ref_logp, p, beta=beta)
    return both(equal(soft, p * win + (1 - p) * lose), equal(hard, win))


def slic_formula(
    logp: Pair, ref_logp: Pair, p: Array, beta: Array, eps: Array, *, sign: float = 1.0, factor: float = 1.0
) -> Array:
    r"""P max(0, delta - log pi_0 + log pi_1) + (1 - P) max(0, delta + log pi_0 - log pi_1):
    the reference plays no part.
    """
    margin, delta = sign * (logp[0] - logp[1]), factor * beta
    win, lose = jnp.where(margin < delta, delta - margin, 0.0), jnp.where(margin > -delta, delta + margin, 0.0)
    soft, hard = _evaluate("slic", logp, ref_logp, p, delta=beta)
    return both(equal(soft, p * win + (1 - p) * lose), equal(hard, win))


def ipo_formula(
    logp: Pair, ref_logp: Pair, p: Array, beta: Array, eps: Array, *, sign: float = 1.0, factor: float = 1.0
) -> Array:
    r"""P (D - 1/(2 beta))^2 + (1 - P) (D + 1/(2 beta))^2."""
    margin = (logp[0] - logp[1]) - sign * (ref_logp[0] - ref_logp[1])
    target = factor / (2 * beta)
    win, lose = jnp.square(margin - target), jnp.square(-margin - target)
    soft, hard = _evaluate("ipo", logp, ref_logp, p, beta=beta)
    return both(equal(soft, p * win + (1 - p) * lose), equal(hard, win))


# --- minimisers -----------------------------------------------------------------------------------------------------


def dpo_minimiser(problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0, shift: float = 0.0) -> Array:
    r"""Gibbs(r, beta) minimises DPO for every pair law nu_0 x nu_1 of full support; the minimum is E H(sigma(r - r')).

    Proof: each pair's cross-entropy is at least the entropy of its label, with equality iff beta (h - h') = r - r';
    Gibbs attains it in all pairs at once.
    """
    reward = problem.reward
    assert reward is not None and isinstance(problem.sampler_logp, tuple)
    optimum = definitions.gibbs(problem.ref_logp, reward, factor * beta)
    label = definitions.sigmoid(definitions.outer_difference(reward))
    entropy = label * definitions.minus_log_sigmoid(definitions.outer_difference(reward))
    first, second = problem.sampler_logp
    least = definitions.pair_mean(first, second, entropy + entropy.T)
    return both(
        equal(population_grad("dpo", problem, optimum, beta=beta), 0.0),
        equal(population_loss("dpo", problem, optimum, beta=beta), least + shift),
        at_most(least, population_loss("dpo", problem, log_softmax(logits), beta=beta)),
        equal(methods["dpo"].optimum(problem, beta=beta), optimum),
    )


def label_noise_minimisers(
    problem: Problem, logits: Logits, beta: Array, *, noise: float = 0.2, factor: float = 1.0
) -> Array:
    r"""cDPO on the de-noised and robust DPO on the noisy Bradley-Terry table both have the minimiser Gibbs(r, beta).

    cDPO is DPO at (1 - eps) P + eps (1 - P), robust DPO is DPO at (P - eps) / (1 - 2 eps).
    """
    assert problem.reward is not None
    clean = definitions.sigmoid(definitions.outer_difference(jnp.clip(problem.reward, -0.3, 0.3)))
    optimum = definitions.gibbs(problem.ref_logp, jnp.clip(problem.reward, -0.3, 0.3), factor * beta)
    sharper = dataclasses.replace(problem, preference=(clean - noise) / (1 - 2 * noise))
    noisy = dataclasses.replace(problem, preference=(1 - noise) * clean + noise * (1 - clean))
    found = [
        methods["cdpo"].optimum(sharper, beta=beta, label_smoothing=0.2),
        methods["robust_dpo"].optimum(noisy, beta=beta, label_smoothing=0.2),
    ]
    return both(
        equal(found[0], optimum, tolerance=1e-8),
        equal(found[1], optimum, tolerance=1e-8),
        equal(population_grad("cdpo", sharper, optimum, beta=beta, label_smoothing=0.2), 0.0),
        equal(population_grad("robust_dpo", noisy, optimum, beta=beta, label_smoothing=0.2), 0.0),
    )


def ipo_minimiser(problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0, flip: float = 0.0) -> Array:
    r"""pi(y) = ref(y) e^{P(y > nu)/beta} / Z minimises IPO for any preferences, both responses drawn from nu.

    It is also the maximiser of P(pi > nu) - beta KL(pi || ref), the problem IPO set out to solve.
    """
    preference, law = problem.preference, problem.sampler_logp
    assert preference is not None and law is not None and not isinstance(law, tuple)
    wins = definitions.win_rate(pick(flip, preference.T, preference), law)
    optimum = definitions.gibbs(problem.ref_logp, wins, factor * beta)
    other = log_softmax(logits)
    value = definitions.objective(optimum, problem.ref_logp, definitions.win_rate(preference, law), beta)
    return both(
        equal(population_grad("ipo", problem, optimum, beta=beta), 0.0, tolerance=1e-8),
        equal(methods["ipo"].optimum(problem, beta=beta), optimum),
        at_most(population_loss("ipo", problem, optimum, beta=beta), population_loss("ipo", problem, other, beta=beta)),
        at_most(definitions.objective(other, problem.ref_logp, definitions.win_rate(preference, law), beta), value),
    )


def ipo_two_laws(problem: Problem, logits: Logits, beta: Array, *, one_law: float = 0.0, factor: float = 1.0) -> Array:
    r"""With two laws the minimiser solves weighted least squares;
    IPO's closed form for one law is not stationary then.
    """
    assert isinstance(problem.sampler_logp, tuple)
    noise = 0.4 * jnp.sin(5 * logits)
    table = 0.5 + jnp.tril(0.3 * jnp.cos(definitions.outer_difference(7 * noise)), -1)
    table = table - jnp.tril(table - 0.5, -1).T
    cyclic = Problem(ref_logp=problem.ref_logp, preference=table, sampler_logp=problem.sampler_logp)
    solved = methods["ipo"].optimum(cyclic, beta=factor * beta)
    closed = definitions.gibbs(problem.ref_logp, definitions.win_rate(table, problem.sampler_logp[0]), beta)
    gradient = population_grad("ipo", cyclic, pick(one_law, closed, solved), beta=beta)
    return equal(gradient * beta, 0.0, tolerance=1e-8)


_F: dict[str, Any] = {
    "reverse_kl": lambda u: u * jnp.log(u),
    "forward_kl": lambda u: -jnp.log(u),
    "js": lambda u: u * jnp.log(u) - (u + 1) * jnp.log((u + 1) / 2),
    "alpha": lambda u: (u ** (1 - 0.3) - (1 - 0.3) * u - 0.3) / (0.3 * (0.3 - 1)),
}


def f_dpo_minimiser(
    problem: Problem, logits: Logits, beta: Array, *, divergence: str, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""The optimum has beta f'(pi / ref) = r - lambda, maximises E_pi r - beta E_ref f(pi / ref), and minimises f-DPO.

    f is written out and differentiated here; the score is f' up to a constant.
    """
    reward = problem.reward
    assert reward is not None
    f, settings = _F[divergence], {"beta": beta, "divergence": divergence, "alpha": 0.3}
    slope = jax.vmap(jax.grad(f))
    optimum = methods["f_dpo"].optimum(problem, **settings)
    level = sign * beta * slope(jnp.exp(optimum - problem.ref_logp)) - factor * reward
    ratio = jnp.exp(log_softmax(logits) - problem.ref_logp)
    scores = score(jnp.log(ratio), divergence, 0.3) - slope(ratio)

    def value(logp: Array) -> Array:
        penalty = jnp.sum(jnp.exp(problem.ref_logp) * f(jnp.exp(logp - problem.ref_logp)))
        return jnp.sum(jnp.exp(logp) * reward) - beta * penalty

    return both(
        equal(level, level.mean(), tolerance=1e-7),
        equal(jnp.exp(optimum).sum(), 1.0),
        equal(scores, scores.mean()),
        at_most(value(log_softmax(logits)), value(optimum)),
        equal(population_grad("f_dpo", problem, optimum, **settings), 0.0, tolerance=1e-7),
    )


def reward_shift_is_harmless(
    problem: Problem, logits: Logits, beta: Array, *, shift: float = 0.7, tilt_by: float = 0.0
) -> Array:
    r"""r -> r + c changes neither losses nor optima of methods on pairs."""
    assert problem.reward is not None
    moved = Problem(
        ref_logp=problem.ref_logp,
        reward=problem.reward + shift + tilt_by * jnp.arange(problem.reward.size),
        sampler_logp=problem.sampler_logp,
    )
    slacks = []
    for name in ("dpo", "ipo", "hinge", "slic"):
        hyper: dict[str, Any] = {"delta": beta} if name == "slic" else {"beta": beta}
        before, after = (population_loss(name, one, log_softmax(logits), **hyper) for one in (problem, moved))
        slacks.append(equal(before, after))
    settings = {"beta": beta, "divergence": "js"}
    slacks.append(equal(*(methods["f_dpo"].optimum(one, **settings) for one in (problem, moved)), tolerance=1e-8))
    slacks.append(equal(*(methods["dpo"].optimum(one, beta=beta) for one in (problem, moved))))
    return both(*slacks)


_HERE = "derived in the docstring"
_RAFAILOV = ("Rafailov et al.", 2023, "2305.18290")
_TWO = ({"sign": -1.0}, {"factor": 2.0}, {"factor": 0.5})


def _f_row(row: int, divergence: str, words: str, formula: str) -> Statement:
    return Statement(
        id=f"rl/D{row}",
        says=f"f-DPO with {words} is minimised by the optimum of its regularised problem",
        formula=formula,
        slack=functools.partial(f_dpo_minimiser, divergence=divergence),
        instance=instances.smooth_problem,
        source=Source("Wang et al.", 2023, "2309.16240", "Theorem 1, Table 1"),
        mutants=({"factor": 2.0}, {"factor": 0.5}, {"sign": -1.0}),
    )


STATEMENTS = (
    Statement(
        id="rl/D1",
        says="dpo is the logistic loss of the margin of log-ratios, soft labels and gradient included",
        formula=r"-\log\sigma(\beta\Delta),\quad\nabla=-\beta\,\sigma(-\beta\Delta)\nabla\Delta",
        slack=dpo_formula,
        instance=pair_of_responses,
        source=Source(*_RAFAILOV, "Eq. 7 and the gradient below it"),
        mutants=_TWO,
    ),
    Statement(
        id="rl/D2",
        says="Gibbs minimises DPO for every pair of full-support laws; the minimum is the labels' entropy",
        formula=r"\arg\min L_{\rm DPO}\propto\pi_{\rm ref}e^{r/\beta},\quad\min L=\mathbb E\,H(\sigma(r-r'))",
        slack=dpo_minimiser,
        instance=instances.smooth_problem,
        source=Source(*_RAFAILOV, "Eq. 4-7; any pair law: derived in the docstring"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"shift": 1e-3}),
    ),
    Statement(
        id="rl/D3",
        says="cdpo is DPO's loss averaged over flipped labels",
        formula=r"-(1-\epsilon)\log\sigma(m)-\epsilon\log\sigma(-m)",
        slack=cdpo_formula,
        instance=pair_of_responses,
        source=Source("Mitchell", 2023, "", "Eq. 3", venue="A note on DPO with noisy preferences"),
        mutants=({"flip": 0.0}, {"flip": -1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/D4",
        says="robust_dpo, averaged over flips, is DPO on the clean label",
        formula=r"\mathbb E_{\rm flips}\,\ell_{\rm robust}=\ell_{\rm DPO}",
        slack=robust_dpo_is_unbiased,
        instance=pair_of_responses,
        source=Source("Chowdhury et al.", 2024, "2403.00409", "Eq. 13"),
        mutants=({"flip": 0.0}, {"flip": 2.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/D5",
        says="cdpo and robust_dpo have the optimum of the table that they believe in",
        formula=r"(1-\epsilon)P+\epsilon(1-P),\quad(P-\epsilon)/(1-2\epsilon)",
        slack=label_noise_minimisers,
        instance=instances.smooth_problem,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"noise": 0.1}, {"noise": 0.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/D6",
        says="hinge is max(0, 1 - beta margin)",
        formula=r"\max(0,1-\beta\Delta)",
        slack=hinge_formula,
        instance=pair_of_responses,
        source=Source("Liu et al.", 2023, "2309.06657", "Eq. 12"),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"at": 2.0}),
    ),
    Statement(
        id="rl/D7",
        says="slic is a hinge of margin delta on log-probabilities",
        formula=r"\max(0,\delta-\log\pi(y_w)+\log\pi(y_l))",
        slack=slic_formula,
        instance=pair_of_responses,
        source=Source("Zhao et al.", 2023, "2305.10425", "Eq. 3"),
        mutants=({"sign": -1.0}, {"sign": 2.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/D8",
        says="ipo is the squared distance of the margin from 1 / (2 beta)",
        formula=r"(\Delta-\tfrac1{2\beta})^2",
        slack=ipo_formula,
        instance=pair_of_responses,
        source=Source("Azar et al.", 2023, "2310.12036", "Eq. 17"),
        mutants=_TWO,
    ),
    Statement(
        id="rl/D9",
        says="IPO's minimiser is the best response to its data, whatever the preferences",
        formula=r"\pi(y)\propto\pi_{\rm ref}(y)e^{P(y\succ\nu)/\beta}",
        slack=ipo_minimiser,
        instance=instances.smooth_preference_problem,
        source=Source("Azar et al.", 2023, "2310.12036", "Eq. 7, Theorem 1"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"flip": 1.0}),
    ),
    Statement(
        id="rl/D10",
        says="with two laws IPO's minimiser solves a weighted least-squares problem instead",
        formula=r"\sum_jw_{ij}(h_i-h_j-\tfrac{2P_{ij}-1}{2\beta})=0",
        slack=ipo_two_laws,
        instance=instances.smooth_problem,
        source=Source("alignjax", 2026, "", "normal equations of the squared loss"),
        mutants=({"one_law": 1.0}, {"factor": 2.0}),
    ),
    _f_row(11, "reverse_kl", "reverse KL", r"f(u)=u\log u"),
    _f_row(12, "forward_kl", "forward KL", r"f(u)=-\log u"),
    _f_row(13, "js", "Jensen-Shannon", r"f(u)=u\log u-(u+1)\log\tfrac{u+1}2"),
    _f_row(14, "alpha", "the alpha divergence", r"f(u)=\tfrac{u^{1-\alpha}-(1-\alpha)u-\alpha}{\alpha(\alpha-1)}"),
    Statement(
        id="rl/D15",
        says="a reward shift changes no loss and no optimum of a method on pairs",
        formula=r"L(r+c)=L(r)",
        slack=reward_shift_is_harmless,
        instance=instances.smooth_problem,
        source=Source(*_RAFAILOV, "Lemma 1 and 2"),
        mutants=({"tilt_by": 0.1}, {"tilt_by": -0.1}),
    ),
)
