r"""The KL-regularised problem: maximise J(pi) = E_pi[r] - beta KL(pi || ref).

Everything here is exact on a finite response set `[..., A]`; leading axes are batch. `beta` > 0 is a scalar, or
`[...]` over the batch; rewards have the unit of beta nats.

Sources: Todorov, 2006 (linearly solvable control); Rafailov et al., 2023, arXiv:2305.18290, Eq. 3-4; Korbak et al.,
2022, arXiv:2205.11275.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.divergences import kl
from alignjax.logspace import ArrayLike, as_float, log_ratio, per_batch, tilt


def _checked(ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> None:
    checks.same_last_axis({"ref_logp": ref_logp, "reward": reward})
    checks.log_policy("ref_logp", ref_logp)
    checks.not_nan("reward", reward)
    checks.positive("beta", beta)
    shapes = {"ref_logp": np.shape(ref_logp)[:-1], "reward": np.shape(reward)[:-1], "beta": np.shape(beta)}
    checks.broadcastable(shapes)
    if checks.is_concrete(reward) and np.isposinf(np.asarray(reward, np.float64)).any():
        raise ValueError("reward holds inf; allowed are finite rewards, and -inf for a response that is forbidden")


def gibbs(ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Float[Array, "*batch A"]:
    r"""The optimum of the KL-regularised problem: log pi*(y) = log ref(y) + r(y) / beta - log Z.

    Shapes: `[..., A]`, `[..., A]`, scalar or `[...]` -> `[..., A]` log-probabilities. A response the reference gives
      no mass keeps none; a reward of -inf forbids a response.
    Raises: ValueError if `beta` <= 0, on NaN, on a reference that does not normalise, on mismatched last axes.
    Source: Rafailov et al., 2023, arXiv:2305.18290, Eq. 4.
    Worked number: uniform ref over two, r = (0, 1), beta = 1 gives sigmoid(1) = 0.7311 on the second.
    """
    _checked(ref_logp, reward, beta)
    return tilt((ref_logp,), jnp.ones(1), reward, 1.0 / as_float(beta))


def log_partition(ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Float[Array, "*batch"]:
    r"""log Z = log sum_y ref(y) exp(r(y) / beta), nats."""
    _checked(ref_logp, reward, beta)
    return jax.nn.logsumexp(as_float(ref_logp) + as_float(reward) / per_batch(beta), axis=-1)


def optimal_value(ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Float[Array, "*batch"]:
    r"""V* = J(pi*) = beta log Z (identity C1); E_ref[r] <= V* <= max r (C3)."""
    return as_float(beta) * log_partition(ref_logp, reward, beta)


def objective(logp: ArrayLike, ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Float[Array, "*batch"]:
    r"""J(pi) = E_pi[r] - beta KL(pi || ref), to be maximised; -inf where pi leaves the reference's support."""
    _checked(ref_logp, reward, beta)
    checks.same_last_axis({"logp": logp, "reward": reward})
    p, reward = jnp.exp(as_float(logp)), as_float(reward)
    return jnp.where(p > 0, p * jnp.where(p > 0, reward, 0.0), 0.0).sum(-1) - as_float(beta) * kl(logp, ref_logp)


def suboptimality(logp: ArrayLike, ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Float[Array, "*batch"]:
    r"""V* - J(pi) = beta KL(pi || pi*), for every policy (identity C2): the regret is a divergence."""
    return as_float(beta) * kl(logp, gibbs(ref_logp, reward, beta))


def regularised_reward(
    logp: ArrayLike, ref_logp: ArrayLike, reward: ArrayLike, beta: ArrayLike
) -> Float[Array, "*batch A"]:
    r"""R_beta(y) = r(y) - beta log(pi(y) / ref(y)): constant in y, and then equal to V*, iff pi = pi* (C6)."""
    return as_float(reward) - per_batch(beta) * log_ratio(logp, ref_logp)
