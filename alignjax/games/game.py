r"""The KL-regularised symmetric preference game, its best response and its duality gap.

    J(pi_1, pi_2) = pi_1^T P pi_2 - tau KL(pi_1 || ref) + tau KL(pi_2 || ref),      J(pi_1, pi_2) = 1 - J(pi_2, pi_1)

Source: Munos et al., 2023, arXiv:2312.00886, Eq. 2 and 3.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.divergences import exact_kl
from alignjax.logspace import ArrayLike, Scalar, as_float, as_policy, per_batch, tilt
from alignjax.pytree import register

LogPolicy = Float[Array, "*batch A"]
F = TypeVar("F", bound=Callable[..., Any])


class Game:
    """A game with a reference and a temperature: of two players (`PreferenceGame`) or of more (`MultiplayerGame`)."""

    ref_logp: LogPolicy
    tau: Scalar

    def win_rate(self, opponent_logp: LogPolicy) -> Array:
        """P(y beats the opponents), for every response y."""
        raise NotImplementedError

    def others(self, logits: LogPolicy) -> LogPolicy:
        """The geometric mean of a player's opponents."""
        raise NotImplementedError


@register
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreferenceGame(Game):
    """Preferences, a reference and a temperature; an immutable pytree, leading axes are a batch of games.

    Raises: ValueError, naming the argument, if P + P^T is not 1, a probability leaves [0, 1], the reference does not
      normalise, tau <= 0, something is NaN, or axes do not match.
    """

    preference: Float[Array, "*batch A A"]
    """preference[..., i, j] = P(i beats j)."""
    ref_logp: LogPolicy = None  # type: ignore[assignment]  # always an array once built
    """Reference, normalised; uniform if absent. -inf takes a response out of the game."""
    tau: Scalar
    """KL temperature, > 0: a number, or one for each game."""

    def __post_init__(self) -> None:
        preference = as_float(self.preference)
        checks.preference_matrix("preference", self.preference)
        checks.positive("tau", self.tau)
        size = preference.shape[-1]
        if self.ref_logp is None:
            ref_logp = jnp.full((size,), -jnp.log(float(size)), preference.dtype)
        else:
            checks.same_last_axis({"ref_logp": self.ref_logp}, size=size)
            checks.log_policy("ref_logp", self.ref_logp)
            ref_logp = as_policy(self.ref_logp)
        tau = as_float(self.tau)
        if isinstance(self.tau, int | float):
            tau = tau.astype(preference.dtype)  # a Python number does not widen a float32 game
        batch = checks.broadcastable(
            {"preference": preference.shape[:-2], "ref_logp": ref_logp.shape[:-1], "tau": tau.shape}
        )
        # All leaves share the batch, so that `vmap` over a batch of games needs no axes.
        object.__setattr__(self, "preference", jnp.broadcast_to(preference, (*batch, size, size)))
        object.__setattr__(self, "ref_logp", jnp.broadcast_to(ref_logp, (*batch, size)))
        object.__setattr__(self, "tau", jnp.broadcast_to(tau, batch))

    @property
    def num_responses(self) -> int:
        """A."""
        return int(self.preference.shape[-1])

    @property
    def skew(self) -> Float[Array, "*batch A A"]:
        """M = P - 1/2 = -M^T: the same updates and best responses as P, and half its size."""
        return self.preference - 0.5

    def win_rate(self, opponent_logp: LogPolicy) -> Float[Array, "*batch A"]:
        """P(y beats the opponent), for every response y. The opponent may be given as logits."""
        return jnp.einsum("...ij,...j->...i", self.preference, jax.nn.softmax(opponent_logp))

    def others(self, logits: LogPolicy) -> LogPolicy:
        """The geometric mean of a player's opponents: in a symmetric game of two, the policy itself."""
        return logits


_KINDS: dict[str, dict[type, Callable[..., Any]]] = {}


def by_kind(function: F) -> F:
    """A function of a game of two that other kinds of games have versions of (`version_of`), chosen by `game`."""
    versions = _KINDS.setdefault(function.__name__, {})

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        game = args[0] if args else kwargs.get("game")
        return versions.get(type(game), function)(*args, **kwargs)

    return call  # type: ignore[return-value]


def version_of(function: Callable[..., Any], kind: type) -> Callable[[F], F]:
    """Register the version of a function for a kind of game."""

    def register_version(version: F) -> F:
        _KINDS[function.__name__][kind] = version
        return version

    return register_version


def of_two(game: Game) -> PreferenceGame:
    """The game, if it is one of two players; what has more is dispatched before (multiplayer.py)."""
    if not isinstance(game, PreferenceGame):
        raise TypeError(f"game must be a PreferenceGame or a MultiplayerGame, got {type(game).__name__}")
    return game


def check_policy(game: PreferenceGame, name: str, logp: ArrayLike) -> Array:
    """A policy that fits the game: its axis, its normalisation, its support inside the reference's."""
    checks.same_last_axis({name: logp}, size=game.num_responses)
    checks.log_policy(name, logp)
    checks.broadcastable({name: np.shape(logp)[:-1], "the game": game.ref_logp.shape[:-1]})
    checks.covers("ref_logp", game.ref_logp, name, logp)
    return as_policy(logp)


def payoff(game: PreferenceGame, logp: ArrayLike, opponent_logp: ArrayLike) -> Float[Array, "*batch"]:
    r"""J(pi_1, pi_2): the win-rate of the first less its KL, plus the opponent's KL. J(pi, pi) = 1/2."""
    logp, opponent_logp = check_policy(game, "logp", logp), check_policy(game, "opponent_logp", opponent_logp)
    wins = (jnp.exp(logp) * game.win_rate(opponent_logp)).sum(-1)
    return wins - game.tau * exact_kl(logp, game.ref_logp) + game.tau * exact_kl(opponent_logp, game.ref_logp)


@by_kind
def best_response(game: Game, opponent_logp: ArrayLike, player: int = 0) -> LogPolicy:
    r"""argmax_pi J(pi, nu): log BR(y) = log ref(y) + P(y > nu) / tau - log Z.

    Shapes: `[..., A] -> [..., A]` log-probabilities; in a game of n players the opponents are `[n - 1, ..., A]` and
    `player` says whose response it is. Source: Munos et al., 2023, arXiv:2312.00886, proof of Prop. 1.
    """
    game = of_two(game)
    opponent_logp = check_policy(game, "opponent_logp", opponent_logp)
    return _best_response(game, opponent_logp)


@jax.jit
def _best_response(game: PreferenceGame, opponent_logp: Array) -> Array:
    advantage = jnp.einsum("...ij,...j->...i", game.skew, jnp.exp(opponent_logp))
    return tilt((game.ref_logp,), jnp.ones(1), advantage, 1 / game.tau)


def best_response_value(game: PreferenceGame, opponent_logp: ArrayLike) -> Float[Array, "*batch"]:
    r"""max_pi J(pi, nu) = tau log sum_y ref(y) exp(P(y > nu) / tau) + tau KL(nu || ref)."""
    opponent_logp = check_policy(game, "opponent_logp", opponent_logp)
    free_energy = jax.nn.logsumexp(game.ref_logp + game.win_rate(opponent_logp) / per_batch(game.tau), axis=-1)
    return game.tau * (free_energy + exact_kl(opponent_logp, game.ref_logp))


@by_kind
def duality_gap(game: Game, logp: ArrayLike) -> Float[Array, "*batch"]:
    r"""max_a J(a, pi) - min_b J(pi, b) = 2 tau KL(pi || BR(pi)): 0 at the regularised equilibrium and only there.

    Computed by that identity (I1), whose terms are non-negative: it resolves gaps far below 1e-16. The definition
    gives 2 max_a J(a, pi) - 1 (`duality_gap_by_value`, identity I2). NashConv of the symmetric profile;
    "exploitability" is half of it.
    Shapes: `[..., A] -> [...]`, in units of win probability; in a game of n players `[n, ..., A] -> [n, ...]`, each
    player's own gain. Source: Zhang et al., 2024, arXiv:2407.00617, Sec. 2.
    """
    game = of_two(game)
    logp = check_policy(game, "logp", logp)
    return _duality_gap(game, logp)


@jax.jit
def _duality_gap(game: PreferenceGame, logp: Array) -> Array:
    return 2 * game.tau * exact_kl(logp, _best_response(game, logp))


def duality_gap_by_value(game: PreferenceGame, logp: ArrayLike) -> Float[Array, "*batch"]:
    r"""2 [tau logsumexp(log ref + P pi / tau) + tau KL(pi || ref)] - 1: the gap from the best response's value
    (identity I2).
    """
    return 2 * best_response_value(game, logp) - 1


@by_kind
def original_gap(game: Game, logp: ArrayLike) -> Float[Array, "*batch"]:
    r"""NashConv of the game without regularisation, 2 (max_y P(y > pi) - 1/2), over the responses the reference
    supports.
    """
    game = of_two(game)
    logp = check_policy(game, "logp", logp)
    reachable = ~jnp.isneginf(game.ref_logp)
    return 2 * jnp.where(reachable, game.win_rate(logp) - 0.5, -jnp.inf).max(-1)
