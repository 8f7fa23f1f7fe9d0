r"""The laws tokens are drawn from, as transforms of log-probabilities: `[..., V] -> [..., V]`, normalised again.

A model gives log pi. What is sampled is often another law: sharpened by a temperature, cut to its likeliest tokens,
mixed with other models. Each of these is a function here, so that the log-prob of a token under the law it was drawn
from is known, and not confused with the policy's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.logspace import ArrayLike, Scalar, as_float, log_softmax

Law = Float[Array, "*batch V"]


def greedy(logp: ArrayLike) -> Law:
    """All mass on the likeliest token, the first of several: the limit of temperature 0."""
    logp = as_float(logp)
    best = jnp.argmax(logp, -1, keepdims=True) == jnp.arange(logp.shape[-1])
    return jnp.where(best, 0.0, -jnp.inf).astype(logp.dtype)


def temper(logp: ArrayLike, temperature: Scalar) -> Law:
    r"""pi^{1/temperature} / Z. `temperature` > 0; log-probs or logits. Raises: ValueError."""
    checks.positive("temperature", temperature)
    return log_softmax(as_float(logp) / temperature)


def keep_top_k(logp: ArrayLike, k: Scalar) -> Law:
    r"""The k likeliest tokens, renormalised: y stays if fewer than k tokens are likelier than it.

    Tokens tied with the k-th stay too, as in `transformers`. `k` >= 1; k >= V changes nothing. Raises: ValueError.
    """
    check_settings(1.0, k, None)
    return _kept(log_softmax(logp), k, jnp.ones_like)


def keep_top_p(logp: ArrayLike, p: Scalar) -> Law:
    r"""The nucleus, renormalised: y stays if the tokens likelier than it have less than p of the mass together.

    So the token that crosses p stays, and one token always does. Of tied tokens all stay or none (`transformers` cuts
    among them by their index). 0 < `p` <= 1; p = 1 changes nothing. Raises: ValueError.
    """
    check_settings(1.0, None, p)
    # Masses below are sums of floats, which may reach 1 too early: p = 1 is all there is.
    return _kept(log_softmax(logp), jnp.where(jnp.asarray(p) >= 1, jnp.inf, p), jnp.exp)


@functools.partial(jax.jit, static_argnames="weight")
def _kept(logp: Law, limit: ArrayLike, weight: Callable[[Array], Array]) -> Law:
    """Keeps the tokens whose likelier ones weigh less than `limit` together."""
    # -log p >= 0, and the bits of floats >= 0 are integers in the same order. The threshold is found bit by bit: 31
    # sums in place of a sort, which on a vocabulary of 100,000 costs more than a small model.
    integer = jnp.int64 if logp.dtype == jnp.float64 else jnp.int32
    surprise = jax.lax.bitcast_convert_type(jnp.abs(logp), integer)
    weights, limit = weight(logp), jnp.asarray(limit).astype(logp.dtype)

    def one_bit(i: Array, threshold: Array) -> Array:
        higher = threshold | (jnp.asarray(1, integer) << (jnp.iinfo(integer).bits - 2 - i).astype(integer))
        likelier = jnp.where(surprise < higher[..., None], weights, 0.0).sum(-1)
        return jnp.where(likelier < limit, higher, threshold)

    start = jnp.zeros(logp.shape[:-1], integer)
    threshold = jax.lax.fori_loop(0, jnp.iinfo(integer).bits - 1, one_bit, start)
    return log_softmax(jnp.where(surprise <= threshold[..., None], logp, -jnp.inf))


def mean_law(log_laws: Float[Array, "J *batch V"], log_weights: Float[Array, "J *batch"]) -> Law:
    r"""log sum_j w_j pi_j: the mean of J laws. `log_weights` are normalised over j first."""
    weights = jax.nn.log_softmax(as_float(log_weights), axis=0)
    return jax.nn.logsumexp(as_float(log_laws) + weights[..., None], axis=0)


def is_greedy(temperature: Scalar) -> bool:
    """Whether a temperature is the number 0; one that is traced is not."""
    return checks.is_concrete(temperature) and float(temperature) == 0


def check_settings(temperature: Scalar, top_k: Scalar | None, top_p: Scalar | None) -> None:
    """Raises: ValueError that names the argument."""
    if not is_greedy(temperature):
        checks.positive("temperature", temperature)
    if top_k is not None and checks.is_concrete(top_k):
        checks.whole("top_k", top_k.item() if isinstance(top_k, jax.Array) else top_k)
    if top_p is not None and checks.is_concrete(top_p):
        checks.between("top_p", top_p, 0.0, 1.0)
        if not float(top_p) > 0:
            raise ValueError(f"top_p must lie in (0, 1], got {float(top_p):g}")


def sampling_law(
    logp: ArrayLike, *, temperature: Scalar = 1.0, top_k: Scalar | None = None, top_p: Scalar | None = None
) -> Law:
    r"""Temperature, then top-k, then top-p of what top-k left: the order of `transformers`.

    `logp` `[..., V]`, log-probs or logits. A temperature that is the number 0 is `greedy`, whatever top-k and top-p.
    Raises: ValueError that names the argument.
    """
    check_settings(temperature, top_k, top_p)
    if is_greedy(temperature):
        return greedy(logp)
    law = temper(logp, temperature)
    law = law if top_k is None else keep_top_k(law, top_k)
    return law if top_p is None else keep_top_p(law, top_p)
