r"""Where losses on pairs are minimal over all policies: what squared and logistic regressions of preferences find.

A product of bases tilted by a score, log pi = sum_j w_j log b_j + h score - log Z, on the responses the reference
supports; leading axes are batch.
"""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.feedback import win_rate
from alignjax.kl_regularised import gibbs
from alignjax.logspace import Scalar, as_float, log_softmax, per_batch, scaled, tilt
from alignjax.problem import Problem, bradley_terry_reward

Weights = Sequence[Scalar] | Array


def _product(problem: Problem, bases: Sequence[Array] | Array, weights: Weights) -> Array:
    """sum_j w_j log b_j, and -inf where the reference has no mass: there every base may be -inf, of any weight."""
    dead = jnp.isneginf(problem.ref_logp)
    terms = (scaled(as_float(w), jnp.where(dead, 0.0, base)) for w, base in zip(weights, bases, strict=True))
    return jnp.where(dead, -jnp.inf, functools.reduce(operator.add, terms))


def tilted_bases(
    problem: Problem, bases: Sequence[Array] | Array, weights: Weights, score: Array, step: Scalar
) -> Float[Array, "*batch A"]:
    r"""prod_j b_j^{w_j} exp(step score) / Z: one update of every mirror-descent solver of a game.

    `bases` J arrays `[..., A]`, J `weights`, `score` `[..., A]`, `step` a scalar.
    """
    return tilt((_product(problem, bases, weights),), jnp.ones(1), score, step)


def squared_optimum(
    problem: Problem,
    bases: Sequence[Array] | Array,
    weights: Weights,
    law: Array | tuple[Array, ...],
    step: Scalar,
    needed_by: str,
) -> Float[Array, "*batch A"]:
    r"""The minimiser of E (x_w - x_l - step / 2)^2, x = log pi - sum_j w_j log b_j, over labelled pairs from `law`.

    Both responses from one law nu: prod_j b_j^{w_j} exp(step P(y > nu)) / Z, for any preferences. The opponent in the
    exponent is the law of the pairs, whatever the bases are, and a label's target of c makes the step 2 c.
    One law for each slot, nu_0 and nu_1: weighted least squares on the graph of pairs, w_ij = nu_0(i) nu_1(j) +
    nu_1(i) nu_0(j), whose normal equations sum_j w_ij (x_i - x_j - step (P_ij - 1/2)) = 0 are solved.
    Source: Azar et al., 2023, arXiv:2310.12036, Theorem 1, for one base; Zhang et al., 2024, arXiv:2407.00617, Prop. 6.
    """
    if not isinstance(law, tuple):
        return tilted_bases(problem, bases, weights, win_rate(problem, law), step)
    if len(law) != 2:
        raise ValueError(f"sampler_logp has {len(law)} laws, one per slot, but {needed_by} draws K = 2 responses")
    first, second = (jnp.exp(one) for one in law)
    weight = first[..., :, None] * second[..., None, :]
    weight = weight + jnp.swapaxes(weight, -1, -2)
    right = per_batch(step) * (weight * (problem.preferences() - 0.5)).sum(-1)
    laplacian = jnp.eye(weight.shape[-1]) * weight.sum(-1)[..., None, :] - weight
    score = (jnp.linalg.pinv(laplacian, hermitian=True) @ right[..., None])[..., 0]
    return log_softmax(_product(problem, bases, weights) + score)


def logistic_optimum(
    problem: Problem, base_logp: Array, needed_by: str, beta: Scalar, preference: Array | None = None
) -> Float[Array, "*batch A"]:
    r"""base exp(r / beta) / Z with r the Bradley-Terry reward: the minimiser of logistic losses on beta log(pi / base).

    Of the problem's preferences, or its own reward, or of `preference`; for every pair law of full support.
    Raises: ValueError if the preferences are not Bradley-Terry, or certain.
    """
    if preference is None and problem.preference is None:
        return gibbs(base_logp, problem.rewards_or_raise(needed_by), beta)
    support = ~jnp.isneginf(problem.ref_logp)
    table = problem.preferences() if preference is None else preference
    return gibbs(base_logp, bradley_terry_reward(table, needed_by, support), beta)
