"""What the same symbol means in papers and libraries, with conversions to ours that are checked numerically.

A `check` returns the largest discrepancy of its conversion, over random numbers, in double precision.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignjax import equations, kl_estimators
from alignjax.f_regularised import score
from alignjax.games import PreferenceGame, solvers
from alignjax.kl_regularised import gibbs
from alignjax.objectives.dpo import cdpo, dpo, robust_dpo
from alignjax.objectives.ipo import ipo
from theory.field import losses

Check = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Row:
    """One meaning of one symbol."""

    symbol: str
    where: str
    meaning: str
    conversion: str
    check: Check
    """The largest discrepancy of the conversion."""


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _pairs() -> tuple[Any, Any]:
    rng = _rng()
    return jnp.asarray(-rng.uniform(0.5, 6.0, (32, 2))), jnp.asarray(-rng.uniform(0.5, 6.0, (32, 2)))


def _four(loss: Callable[..., Any], logp: Any, ref: Any, **hyper: Any) -> Any:
    return loss(logp[..., 0], logp[..., 1], ref[..., 0], ref[..., 1], **hyper)


def _same(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def _same_with_gradient(one: Callable[[Any], Any], other: Callable[[Any], Any], at: Any) -> float:
    """Values, and gradients of their sums."""
    gradients = (jax.grad(lambda x, f=f: f(x).sum())(at) for f in (one, other))
    return max(_same(one(at), other(at)), _same(*gradients))


@dataclasses.dataclass(frozen=True)
class _Game:
    """A random regularised game, a policy on it, and the win-rates against that policy."""

    tau: float

    @property
    def preference(self) -> np.ndarray:
        rng = _rng()
        skew = rng.uniform(-0.4, 0.4, (5, 5))
        return 0.5 + np.triu(skew, 1) - np.triu(skew, 1).T

    @property
    def ref(self) -> np.ndarray:
        return _log_softmax(np.random.default_rng(1).standard_normal(5))

    @property
    def logp(self) -> np.ndarray:
        return _log_softmax(np.random.default_rng(2).standard_normal(5))

    @property
    def win_rate(self) -> np.ndarray:
        return self.preference @ np.exp(self.logp)

    def step(self, name: str, h: float, **hyper: Any) -> np.ndarray:
        """One canonical step of a solver of ours."""
        game = PreferenceGame(
            preference=jnp.asarray(self.preference), ref_logp=jnp.asarray(self.ref), tau=jnp.asarray(self.tau)
        )
        return np.asarray(solvers.step(game, name, jnp.asarray(self.logp), h, **hyper))


# --- beta and tau


def dpo_beta() -> float:
    """At gibbs(r, beta) the gradient of DPO on Bradley-Terry preferences is zero."""
    rng, beta = _rng(), 0.3
    reward, ref = rng.standard_normal((16, 2)), _log_softmax(rng.standard_normal((16, 2)))
    p = 1 / (1 + np.exp(-(reward[:, None, :] - reward[:, :, None]).swapaxes(-1, -2)))
    at = gibbs(jnp.asarray(ref), jnp.asarray(reward), beta)
    return _same(jax.grad(lambda x: dpo(x, jnp.asarray(ref), jnp.asarray(p), beta=beta).sum())(at), 0.0)


def ipo_tau() -> float:
    """Ours at beta = tau against Eq. 17 written out."""
    (logp, ref), tau = _pairs(), 0.3
    h = logp - ref
    return _same(ipo(logp, ref, beta=tau), (h[:, 0] - h[:, 1] - 1 / (2 * tau)) ** 2)


def ipo_mean_beta() -> float:
    """L^2 times the length-averaged loss at beta is the paper's at tau = beta / L."""
    (logp, ref), beta, length = _pairs(), 0.3, losses.LENGTH
    return _same_with_gradient(
        lambda x: length**2 * _four(losses.ipo_mean, x, ref, beta=beta), lambda x: ipo(x, ref, beta=beta / length), logp
    )


def copg_beta() -> float:
    """(1/2 - beta margin)^2 is beta^2 times the paper's loss at tau = beta."""
    (logp, ref), beta = _pairs(), 0.3
    return _same_with_gradient(
        lambda x: _four(losses.ipo_scaled, x, ref, beta=beta), lambda x: beta**2 * ipo(x, ref, beta=beta), logp
    )


def dpo_norm_beta() -> float:
    """DPO on mean log-probs of L tokens at beta is DPO at beta / L."""
    (logp, ref), beta, length = _pairs(), 5.0, 20.0
    return _same_with_gradient(
        lambda x: dpo(x / length, ref / length, beta=beta), lambda x: dpo(x, ref, beta=beta / length), logp
    )


def reward_beta() -> float:
    """At gibbs(r, beta) the gradient of E[r] - beta KL(policy || reference) is zero."""
    rng, beta = _rng(), 0.3
    reward, ref = jnp.asarray(rng.standard_normal(6)), jnp.asarray(_log_softmax(rng.standard_normal(6)))

    def value(x: Any) -> Any:
        logp = jax.nn.log_softmax(x)
        return (jnp.exp(logp) * (reward - beta * (logp - ref))).sum()

    return _same(jax.grad(value)(gibbs(ref, reward, beta)), 0.0)


def mean_kl_beta() -> float:
    """A penalty averaged over L tokens at beta is one summed over them at beta / L."""
    rng, beta, length = _rng(), 0.04, 7
    token, ref = (jnp.asarray(-rng.uniform(0.1, 3.0, (8, length))) for _ in range(2))
    mask = jnp.ones((8, length))
    mean, total = (f(losses.k3, "k3") for f in (losses.averaged, losses.summed))
    return _same_with_gradient(
        lambda x: beta * mean(x, ref, mask), lambda x: beta / length * total(x, ref, mask), token
    )


def label_smoothing() -> float:
    """TRL's 'sigmoid' with label_smoothing is ours `cdpo`, its 'robust' is ours `robust_dpo`."""
    (logp, ref), beta, eps = _pairs(), 0.3, losses.EPS
    smoothed = lambda x: cdpo(x, ref, beta=beta, label_smoothing=eps)
    corrected = lambda x: robust_dpo(x, ref, beta=beta, label_smoothing=eps)
    return max(
        _same_with_gradient(lambda x: _four(losses.conservative, x, ref, beta=beta), smoothed, logp),
        _same_with_gradient(lambda x: _four(losses.robust, x, ref, beta=beta), corrected, logp),
    )


def simpo_gamma() -> float:
    """gamma as a margin of the scaled rewards, against gamma/beta as one of the mean log-probs."""
    (logp, ref), beta, ratio = _pairs(), 2.0, 0.5
    gap = (logp[:, 0] - logp[:, 1]) / losses.LENGTH
    return _same(losses.simpo(logp, ref, beta=beta, gamma=beta * ratio), -jax.nn.log_sigmoid(beta * (gap - ratio)))


# --- steps of games


def nash_md_eta() -> float:
    """argmax of eta P(pi > mixture) - KL(pi || mixture), with mixture pi^{1 - eta tau} ref^{eta tau}: h = eta."""
    game, eta = _Game(tau=0.4), 0.7
    mixture = _log_softmax((1 - eta * game.tau) * game.logp + eta * game.tau * game.ref)
    published = _log_softmax(mixture + eta * game.preference @ np.exp(mixture))
    return _same(game.step("nash_md", eta), published)


def inpo_eta() -> float:
    """INPO's regression has its zero at our self-play step with h = 1 / eta."""
    game, eta = _Game(tau=0.4), 2.5
    logp = game.step("self_play", 1 / eta)
    r = logp - game.tau / eta * game.ref - (eta - game.tau) / eta * game.logp
    q = game.win_rate / eta
    return _same(r[:, None] - r[None, :], q[:, None] - q[None, :])


def sppo_eta() -> float:
    """TRL's sppo_hard at beta is the paper's squared error at eta = 1 / beta, with P = 1 and 0."""
    (logp, ref), beta = _pairs(), 0.4
    h, eta = logp - ref, 1 / beta
    published = (h[:, 0] - eta * (1 - 0.5)) ** 2 + (h[:, 1] - eta * (0 - 0.5)) ** 2
    return _same(_four(losses.sppo_hard, logp, ref, beta=beta), published)


def mmd_eta() -> float:
    """pi' ~ [pi ref^{eta alpha} exp(eta q)]^{1/(1 + eta alpha)} is h = eta / (1 + eta alpha), tau = alpha."""
    game, eta = _Game(tau=0.4), 0.9
    alpha = game.tau
    published = _log_softmax((game.logp + eta * alpha * game.ref + eta * game.win_rate) / (1 + eta * alpha))
    return _same(game.step("self_play", eta / (1 + eta * alpha)), published)


def egpo_beta() -> float:
    """theta' = (1 - eta beta) theta + eta beta theta_ref + eta q in logits is the step h = eta at tau = beta."""
    game, eta = _Game(tau=0.4), 0.7
    beta = game.tau
    published = _log_softmax((1 - eta * beta) * game.logp + eta * beta * game.ref + eta * game.win_rate)
    return _same(game.step("self_play", eta), published)


def mixture_coefficient() -> float:
    """Softmax of (1 - c) logits of the policy + c logits of the reference is pi^{1-m} ref^m at m = c."""
    from alignjax.logspace import geometric_mixture

    rng, c = _rng(), 0.3
    policy, ref = rng.standard_normal(6), rng.standard_normal(6)  # logits: constants drop out
    ours = geometric_mixture(jnp.asarray(_log_softmax(policy)), jnp.asarray(_log_softmax(ref)), c)
    return _same(ours, _log_softmax((1 - c) * policy + c * ref))


def coin_flip_coefficient() -> float:
    """A coin that takes the policy's response with probability c: the arithmetic mixture, ours only at the ends."""
    from alignjax.logspace import geometric_mixture

    game = _Game(tau=0.4)
    worst = 0.0
    for c in (0.0, 0.5, 1.0):
        drawn = np.log(c * np.exp(game.logp) + (1 - c) * np.exp(game.ref))
        ours = geometric_mixture(jnp.asarray(game.logp), jnp.asarray(game.ref), 1 - c)
        far = _same(drawn, ours)
        worst = max(worst, far if c in (0.0, 1.0) else float(far < 1e-2))  # in between they must differ
    return worst


# --- divergences and statistics


def trl_alpha() -> float:
    """f'(u) = (u^{a - 1} - 1)/(a - 1) of TRL is ours at alpha = 1 - a, up to a constant."""
    a, h = 0.3, _rng().standard_normal(32)
    theirs, ours = (np.exp((a - 1) * h) - 1) / (a - 1), np.asarray(score(jnp.asarray(h), "alpha", 1 - a))
    return _same(theirs[1:] - theirs[:-1], ours[1:] - ours[:-1])


def group_std() -> float:
    """Advantages with Bessel's correction are ours times sqrt((K - 1) / K)."""
    reward = _rng().standard_normal((8, 5))
    centred = reward - reward.mean(-1, keepdims=True)
    ours = centred / np.asarray(equations.group_std(jnp.asarray(reward)))
    return _same(centred / reward.std(-1, ddof=1, keepdims=True), np.sqrt(4 / 5) * ours)


def bond_beta() -> float:
    """The weighted sum of the two KLs has its minimum, 0, at the target for every weight: no temperature in it."""
    rng = _rng()
    target = jnp.asarray(_log_softmax(rng.standard_normal(5)))

    def jeffreys(x: Any, weight: float) -> Any:
        logp = jax.nn.log_softmax(x)
        forward = (jnp.exp(target) * (target - logp)).sum()
        backward = (jnp.exp(logp) * (logp - target)).sum()
        return (1 - weight) * forward + weight * backward

    return max(_same(jax.grad(jeffreys)(target, w), 0.0) for w in (0.0, 0.3, 1.0))


def _expected_gradient(elementwise: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any]:
    """Of an estimator under the policy, and of the two KLs, over six responses."""
    rng = _rng()
    x, ref = jnp.asarray(rng.standard_normal(6)), jnp.asarray(_log_softmax(rng.standard_normal(6)))
    p = jax.nn.softmax(x)
    estimated = jax.grad(lambda x: (p * elementwise(jax.nn.log_softmax(x), ref)).sum())(x)
    logp = jax.nn.log_softmax
    reverse = jax.grad(lambda x: (jnp.exp(logp(x)) * (logp(x) - ref)).sum())(x)
    forward = jax.grad(lambda x: (jnp.exp(ref) * (ref - logp(x))).sum())(x)
    return estimated, reverse, forward


def k1_as_loss() -> float:
    """Expected gradient 0."""
    return _same(_expected_gradient(losses.k1)[0], 0.0)


def k1_in_reward() -> float:
    """Expected gradient of the reverse KL."""
    estimated, reverse, _ = _expected_gradient(kl_estimators.k1_in_reward)
    return _same(estimated, reverse)


def k2_as_loss() -> float:
    """Expected gradient of the reverse KL."""
    estimated, reverse, _ = _expected_gradient(losses.k2)
    return _same(estimated, reverse)


def k3_as_loss() -> float:
    """Expected gradient of the forward KL."""
    estimated, _, forward = _expected_gradient(losses.k3)
    return _same(estimated, forward)


def k3_weighted_as_loss() -> float:
    """Expected gradient of the reverse KL."""
    estimated, reverse, _ = _expected_gradient(losses.k3_weighted)
    return _same(estimated, reverse)


def optax_order() -> float:
    """kl_divergence(a, b) is KL(b || exp a)."""
    rng = _rng()
    a, b = (_log_softmax(rng.standard_normal(6)) for _ in range(2))
    return _same(optax.losses.kl_divergence(jnp.asarray(a), jnp.exp(jnp.asarray(b))), (np.exp(b) * (b - a)).sum())


ROWS: tuple[Row, ...] = (
    Row(
        "beta",
        "DPO (arXiv:2305.18290 Eq. 7); TRL, tunix, EasyDeL, OpenRLHF 'sigmoid'",
        "KL temperature: the optimum is ref exp(r / beta) / Z; log-probs summed over tokens",
        "ours: beta",
        dpo_beta,
    ),
    Row(
        "beta",
        "PPO, RLOO: the coefficient of k1 in the reward (TRL RLOOConfig.beta)",
        "KL temperature of E[r] - beta KL(policy || reference)",
        "ours: beta",
        reward_beta,
    ),
    Row(
        "beta",
        "GRPO penalties averaged over a response's tokens (tunix default)",
        "coefficient of a KL per token, averaged over L tokens",
        "ours, summed over tokens: beta / L. Which KL it is: see `kl`",
        mean_kl_beta,
    ),
    Row(
        "beta",
        "open-instruct 'dpo_norm' (default 5.0), TRL 'sigmoid_norm'",
        "DPO on log-probs averaged over L tokens",
        "ours: beta / L where both responses have L tokens; otherwise no beta",
        dpo_norm_beta,
    ),
    Row(
        "beta",
        "TRL 'sppo_hard'; SPPO's eta (arXiv:2405.00675)",
        "each log-ratio is fitted to +-1/(2 beta), the paper's eta (P - 1/2) at P = 1 and 0",
        "canonical step h = eta = 1 / beta (tau = 0)",
        sppo_eta,
    ),
    Row(
        "beta",
        "EGPO (Zhou, Fazel and Du, 2025)",
        "regularisation of the game, beside the step eta",
        "ours: tau = beta, h = eta",
        egpo_beta,
    ),
    Row(
        "beta",
        "BOND (arXiv:2407.14622)",
        "weight in [0, 1] of the backward KL(policy || best-of-N) beside the forward one (Jeffreys)",
        "none: a weight, not a temperature; the optimum does not depend on it",
        bond_beta,
    ),
    Row(
        "tau",
        "IPO (arXiv:2310.12036 Eq. 17); Nash-MD (arXiv:2312.00886)",
        "KL temperature of preferences: the optimum is ref exp(P / tau) / Z",
        "ours: beta of a loss, tau of a game",
        ipo_tau,
    ),
    Row(
        "ipo",
        "paper, original DPO repository, COMAL, OpenRLHF",
        "(margin - 1/(2 beta))^2 on summed log-probs",
        "ours: `ipo` at the same beta",
        ipo_tau,
    ),
    Row(
        "ipo",
        "TRL, EasyDeL",
        "(margin / L - 1/(2 beta))^2: log-probs averaged over L tokens",
        "ours: `ipo` at beta / L, over L^2 (equal lengths; otherwise no beta)",
        ipo_mean_beta,
    ),
    Row(
        "ipo",
        "CoPG (arXiv:2406.19185), rewards that differ by 1/2",
        "(1/2 - beta margin)^2",
        "ours: `ipo` at the same beta, times beta^2 (value and gradient)",
        copg_beta,
    ),
    Row(
        "eta",
        "Nash-MD (arXiv:2312.00886 Eq. 4-5)",
        "step of the mirror descent; eta tau is the weight of the reference in the centre",
        "canonical step h = eta; mixture m = eta tau",
        nash_md_eta,
    ),
    Row(
        "eta",
        "INPO (arXiv:2407.00617)",
        "an INVERSE step: the target of its regression is 1/(2 eta)",
        "canonical step h = 1 / eta",
        inpo_eta,
    ),
    Row(
        "alpha, eta",
        "MMD (arXiv:2206.05825)",
        "temperature alpha and step eta of a proximal update, implicit in the regulariser",
        "tau = alpha, h = eta / (1 + eta alpha)",
        mmd_eta,
    ),
    Row(
        "mixture",
        "Nash-MD-PG (arXiv:2312.00886 Sec. 7, there beta); TRL mixture_coef (until its removal)",
        "weight of the reference's logits in the rival's",
        "ours: mixture m, the same",
        mixture_coefficient,
    ),
    Row(
        "mixture_coef",
        "EasyDeL Nash-MD",
        "probability that the rival response is the policy's own: a coin per response",
        "m = 1 - coefficient at 0 and 1 only; in between it is an arithmetic mixture, ours a geometric one",
        coin_flip_coefficient,
    ),
    Row(
        "alpha",
        "TRL f_alpha_divergence_coef",
        "f'(u) = (u^{a - 1} - 1)/(a - 1): reverse KL at a = 1",
        "ours (arXiv:2309.16240): alpha = 1 - a",
        trl_alpha,
    ),
    Row(
        "label_smoothing",
        "TRL, EasyDeL: 'sigmoid' against 'robust'",
        "belief that labels are flipped (cDPO) against an unbiased correction for flips (robust)",
        "ours: `cdpo` and `robust_dpo`; two losses under one option",
        label_smoothing,
    ),
    Row(
        "gamma",
        "TRL simpo_gamma against SimPO's gamma_beta_ratio",
        "margin of beta times the mean log-probs, against margin of the mean log-probs",
        "simpo_gamma = beta gamma_beta_ratio",
        simpo_gamma,
    ),
    Row(
        "std",
        "GRPO in TRL, tunix and verl",
        "Bessel's correction (ddof 1); an epsilon is added",
        "their advantages are ours (ddof 0) times sqrt((K - 1) / K)",
        group_std,
    ),
    Row(
        "kl",
        "tunix kl_loss_mode='kl', verl 'k1', as a loss",
        "log pi - log ref, differentiated",
        "expected gradient 0: no KL",
        k1_as_loss,
    ),
    Row(
        "kl",
        "RLOO, PPO: log pi - log ref inside the reward, detached",
        "k1 as a penalty",
        "gradient of the reverse KL(policy || reference)",
        k1_in_reward,
    ),
    Row(
        "mse_kl, k2",
        "tunix, verl",
        "half the squared log-ratio, as a loss",
        "gradient of the reverse KL, for one token; per token over a response, each token's own",
        k2_as_loss,
    ),
    Row(
        "low_var_kl, k3",
        "GRPO (arXiv:2402.03300 Eq. 4), tunix, verl, open-instruct kl_estimator=2",
        "ref/pi - 1 - log(ref/pi), as a loss",
        "gradient of the FORWARD KL(reference || policy); value of the reverse one",
        k3_as_loss,
    ),
    Row(
        "kl (use_bias_correction_kl)",
        "TRL GRPO's default",
        "k3 times the importance ratio",
        "gradient of the reverse KL, for one token; per token over a response, each token's own",
        k3_weighted_as_loss,
    ),
    Row(
        "kl_divergence(a, b)",
        "optax.losses (log_predictions, targets)",
        "KL(b || exp a): the second argument is the first of the KL",
        "reverse KL(policy || reference): kl_divergence(log reference, policy)",
        optax_order,
    ),
)
