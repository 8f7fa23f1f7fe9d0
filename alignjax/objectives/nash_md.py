r"""Nash-MD-PG and Nash-EMA-PG: policy gradient against an opponent that moves with the policy (Munos et al., 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax import equations, laws
from alignjax.feedback import win_rate as exact_win_rate
from alignjax.games.equilibrium import mixture_equilibrium
from alignjax.kl_estimators import kl_tokens_to_go
from alignjax.kl_regularised import gibbs
from alignjax.logspace import Scalar, as_float, log_ratio, masked_mean, masked_sum
from alignjax.problem import Problem
from alignjax.record import Method, Source

sg = jax.lax.stop_gradient
Group = Float[Array, "*batch K"]
Tokens = Float[Array, "*batch K T"]


def nash_md_pg(
    logp: Group, ref_logp: Group, win_rate: Group, response_mask: Group | None = None, *, beta: Scalar = 0.1
) -> Float[Array, "*batch"]:
    r"""Policy gradient on the probability of beating an opponent, with the KL in the reward.

        loss = -mean_i sg[P(y_i > opponent) - 1/2 - beta h_i] log pi(y_i),    h_i = logp_i - ref_logp_i

    A surrogate with the gradient of -(P(pi > sg[opponent]) - beta KL(pi || ref)); 1/2 is a baseline. `win_rate` is
    exact on a table, P(y_i > y'') for a sampled opponent y'' elsewhere. The method's opponent is the geometric
    mixture pi^{1-m} ref^m, whose `mixture` m is apart from `beta` > 0 (the paper's tau): m = 0 is self-play, m = 1
    best response to the reference.
    Source: Munos et al., 2023, arXiv:2312.00886, Sec. 7.2.
    """
    advantage = as_float(win_rate) - 0.5 - beta * log_ratio(logp, ref_logp)
    return equations.field(as_float(logp), advantage, response_mask)


def nash_md_pg_token(
    token_logp: Tokens,
    ref_token_logp: Tokens,
    win_rate: Group,
    mask: Tokens | None = None,
    response_mask: Group | None = None,
    *,
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Nash-MD-PG token by token, with the reward-to-go of the KL.

        loss = -mean_i sum_n sg[P(y_i > opponent) - 1/2 - beta sum_{m >= n} h_im] log pi(y_in | y_i,<n)

    The same expected gradient as `nash_md_pg` and less variance: a token does not answer for the log-ratios before
    it. Without the sum over m >= n (h_in alone) the gradient is biased as soon as there are two tokens.
    Source: Munos et al., 2023, arXiv:2312.00886, Appendix F.2.
    """
    outcome = sg(as_float(win_rate) - 0.5) * masked_sum(token_logp, mask)
    return masked_mean(beta * kl_tokens_to_go(token_logp, ref_token_logp, mask) - outcome, response_mask)


def ema_of_parameters(anchor: Any, params: Any, *, ema: Scalar = 0.999) -> Any:
    r"""anchor <- ema anchor + (1 - ema) params, on parameters (on a table: a geometric average of policies).

    The paper's appendix writes the average towards the initial parameters; this is the usual moving one, which starts
    there.
    Source: Munos et al., 2023, arXiv:2312.00886, Appendix F.3.
    """
    # Equal entries stay as they are, -inf (no mass) among them.
    return jax.tree.map(
        lambda a, p: jnp.where(a == p, p, ema * a + (1 - ema) * jnp.where(a == p, 0.0, p)), anchor, params
    )


def nash_md_pg_optimum(problem: Problem, *, beta: Scalar, mixture: Scalar) -> Float[Array, "*batch A"]:
    r"""pi proportional to ref exp(P(y > pi^{1-m} ref^m) / beta): the Nash equilibrium at tau = beta if m = 0.

    At m > 0 it is the mixture that is an equilibrium, at the temperature beta / (1 - m). Source: Calandriello et al.,
    2024, arXiv:2403.08635, Prop. 5.2.
    """
    return mixture_equilibrium(problem.preferences(), problem.ref_logp, beta, mixture)


def nash_ema_pg_optimum(problem: Problem, *, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""The best response to the anchor where one is held fixed; else the regularised Nash, where the average has
    caught up.
    """
    if problem.anchor_logp is not None:
        return gibbs(problem.ref_logp, exact_win_rate(problem, problem.anchor_logp), beta)
    return mixture_equilibrium(problem.preferences(), problem.ref_logp, beta, 0.0)


_MUNOS = "Munos et al."

METHODS = (
    Method(
        loss=nash_md_pg,
        sampler=laws.policy,
        opponent=laws.mixture,
        separable=True,
        minimiser=nash_md_pg_optimum,
        invariant_to=("relabelling",),
        source=Source(_MUNOS, 2023, "2312.00886", "Sec. 7.2"),
    ),
    Method(
        loss=nash_md_pg_token,
        sampler=laws.policy,
        opponent=laws.mixture,
        separable=True,
        minimiser=nash_md_pg_optimum,
        invariant_to=("relabelling",),
        source=Source(_MUNOS, 2023, "2312.00886", "Appendix F.2"),
    ),
    Method(
        name="nash_ema_pg",
        summary="Nash-MD-PG against a moving average of the policy's own parameters.",
        loss=nash_md_pg,
        sampler=laws.policy,
        opponent=laws.anchor,
        anchor_update=ema_of_parameters,
        separable=True,
        minimiser=nash_ema_pg_optimum,
        invariant_to=("relabelling",),
        source=Source(_MUNOS, 2023, "2312.00886", "Sec. 7.3 and Appendix F.3"),
    ),
)
