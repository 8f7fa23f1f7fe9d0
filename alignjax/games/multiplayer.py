r"""Games of n players: one oracle for all or one each (heterogeneous annotators), pairwise or Plackett-Luce.

    J_i(pi_i, others) = E P_i(y_i beats the others) - tau KL(pi_i || ref)

The opponents' divergences are not added back, so that the gain of a player's best response is the player's own:
tau KL(pi_i || BR_i). With a different oracle for every player the game is general-sum and may have several equilibria:
which one a solver finds is then a matter of where it starts.
Source: Wu et al., 2025, arXiv:2509.23102 v3, Eq. 4, 7 and 9.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import checks
from alignjax.divergences import exact_kl
from alignjax.games.equilibrium import damped_newton, nash
from alignjax.games.game import Game, PreferenceGame, best_response, duality_gap, original_gap, version_of
from alignjax.logspace import ArrayLike, Scalar, as_float, as_policy, log_softmax, per_batch

Players = Float[Array, "n *batch A"]

ORACLES = ("pairwise", "plackett_luce")
NODES = 512
"""Nodes of the Plackett-Luce integral: exact to rounding while scores span less than about 80 nats."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MultiplayerGame(Game):
    """n players, a reference and a temperature; an immutable pytree, leading axes `...` are a batch of games.

    Policies of all players are `[n, ..., A]`, the player first.

    Raises: ValueError, naming the argument, if `oracle` and what it needs do not go together, P + P^T is not 1, the
      reference does not normalise, tau <= 0, there are fewer than two players, or axes do not match.
    """

    preferences: Float[Array, "*batch A A"] | None = None
    """P(i beats j): `[..., A, A]` shared by all, or `[n, ..., A, A]`, one for each player. It is per player if it has
    one axis more than the games (`ref_logp` and `tau`) have.
    """
    scores: Float[Array, "*batch A"] | None = None
    """Plackett-Luce scores in nats, `[..., A]`: the winner among y_1..y_n is y_i with probability softmax(R(y))_i."""
    ref_logp: Float[Array, "*batch A"]
    """Reference, normalised, the same for all players."""
    tau: Scalar
    """KL temperature, > 0: a number, or one for each game."""
    num_players: int
    """n >= 2."""
    oracle: str = "pairwise"
    """"pairwise": the mean of P_i against each opponent; "plackett_luce": the chance to win among all n at once."""

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("oracle", checks.member("oracle", self.oracle, ORACLES))
        put("num_players", checks.whole("num_players", self.num_players, at_least=2))
        needed, other = ("preferences", "scores") if self.oracle == "pairwise" else ("scores", "preferences")
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise ValueError(f'oracle="{self.oracle}" needs {needed} and no {other}')
        checks.positive("tau", self.tau)
        if self.ref_logp is None:
            raise ValueError("ref_logp must hold the reference's log-probs [..., A], got None")
        checks.log_policy("ref_logp", self.ref_logp)
        ref_logp, tau = as_policy(self.ref_logp), as_float(self.tau)
        size = ref_logp.shape[-1]
        batch = checks.broadcastable({"ref_logp": ref_logp.shape[:-1], "tau": tau.shape})
        if self.oracle == "pairwise":
            checks.preference_matrix("preferences", self.preferences)
            table = as_float(jnp.asarray(self.preferences))
            checks.same_last_axis({"preferences": table}, size=size, axes=2)
            axes = table.shape[:-2]
            if len(axes) > len(batch):
                if axes[0] != self.num_players:
                    raise ValueError(
                        f"preferences must be [..., A, A], or [n, ..., A, A] with n = {self.num_players} players "
                        f"first; got shape {table.shape} where the games (ref_logp, tau) have shape {batch}"
                    )
                axes = axes[1:]
                table = table.reshape((self.num_players, *(1,) * (len(batch) - len(axes)), *table.shape[1:]))
            batch = checks.broadcastable({"preferences": axes, "ref_logp and tau": batch})
            dtype = table.dtype
            put("preferences", table)
        else:
            checks.not_nan("scores", self.scores, forbid_inf=True)
            scores = as_float(jnp.asarray(self.scores))
            checks.same_last_axis({"scores": scores}, size=size)
            batch = checks.broadcastable({"scores": scores.shape[:-1], "ref_logp and tau": batch})
            dtype = scores.dtype
            put("scores", jnp.broadcast_to(scores, (*batch, size)))
        if isinstance(self.tau, int | float):
            tau = tau.astype(dtype)  # a Python number does not widen a float32 game
        put("ref_logp", jnp.broadcast_to(ref_logp, (*batch, size)))
        put("tau", jnp.broadcast_to(tau, batch))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[str, Array | None]], tuple[int, str]]:
        """Arrays are children; the number of players and the kind of oracle are structure."""
        names = ("preferences", "scores", "ref_logp", "tau")
        return [(name, getattr(self, name)) for name in names], (self.num_players, self.oracle)

    @classmethod
    def tree_unflatten(cls, fixed: tuple[int, str], children: tuple[Array, ...]) -> "MultiplayerGame":
        """Without the checks, which are for people."""
        game = object.__new__(cls)
        names = ("preferences", "scores", "ref_logp", "tau", "num_players", "oracle")
        for name, value in zip(names, (*children, *fixed), strict=True):
            object.__setattr__(game, name, value)
        return game

    @property
    def num_responses(self) -> int:
        """A."""
        return int(self.ref_logp.shape[-1])

    @property
    def shared_oracle(self) -> bool:
        """Whether all players ask the same oracle."""
        return self.preferences is None or self.preferences.ndim - 2 <= self.ref_logp.ndim - 1

    def start(self, init_logp: ArrayLike | None) -> Players:
        """Where all players start: what is given (`[n, ..., A]`, or `[..., A]` for all alike), or the reference."""
        shape = (self.num_players, *self.ref_logp.shape)
        if init_logp is None:
            return jnp.broadcast_to(self.ref_logp, shape)
        return jnp.broadcast_to(_players(self, "init_logp", init_logp, self.num_players), shape)

    def oracle_of(self, player: int) -> Float[Array, "*batch A A"]:
        """The preference matrix a player asks."""
        assert self.preferences is not None
        return self.preferences if self.shared_oracle else self.preferences[player]

    def others(self, logits: Players) -> Players:
        """The geometric mean of each player's opponents, as logits."""
        finite = jnp.where(jnp.isneginf(logits), 0.0, logits)
        mean = (finite.sum(0) - finite) / (self.num_players - 1)
        absent = jnp.isneginf(logits).astype(logits.dtype)
        return jnp.where(absent.sum(0) - absent > 0, -jnp.inf, mean)

    def win_rate(self, logits: Players) -> Players:
        """P_i(y beats the others) for every player and response, `[n, ..., A]`; policies may be given as logits."""
        if self.oracle == "pairwise":
            policy = jax.nn.softmax(logits)
            rivals = (policy.sum(0) - policy) / (self.num_players - 1)
            return jnp.einsum("...ij,...j->...i", self.preferences, rivals)
        assert self.scores is not None
        reach = _log_reach(self.scores, log_softmax(logits))
        return _against(self.scores, reach.sum(0) - reach)

    def win_rate_against(self, opponents_logp: Float[Array, "m *batch A"], player: int) -> Float[Array, "*batch A"]:
        """P_player(y beats these n - 1 opponents), for every response y."""
        if self.oracle == "pairwise":
            rivals = jnp.exp(opponents_logp).mean(0)
            return jnp.einsum("...ij,...j->...i", self.oracle_of(player), rivals)
        assert self.scores is not None
        return _against(self.scores, _log_reach(self.scores, opponents_logp).sum(0))

    def population(self, weights: ArrayLike | None = None) -> PreferenceGame:
        r"""The two-player game on the averaged oracle, sum_m w_m P_m (equal weights by default): antisymmetric again,
        so zero-sum with one regularised equilibrium, whoever the annotators are.

        Raises: ValueError with the Plackett-Luce oracle, or if the weights are not a distribution over the players.
        """
        if self.preferences is None:
            raise ValueError("population needs preferences: a Plackett-Luce game is given by scores")
        if self.shared_oracle:
            return PreferenceGame(preference=self.preferences, ref_logp=self.ref_logp, tau=self.tau)
        given = np.full(self.num_players, 1.0) / self.num_players if weights is None else weights
        share = as_float(given).astype(self.preferences.dtype)
        if share.shape != (self.num_players,):
            raise ValueError(f"weights must have shape ({self.num_players},), one per player, got {share.shape}")
        if checks.is_concrete(share) and (float(share.min()) < 0 or abs(float(share.sum()) - 1) > 1e-5):
            raise ValueError(f"weights must be non-negative and sum to 1, got {np.asarray(share).tolist()}")
        mean = jnp.tensordot(share, self.preferences, axes=1)
        return PreferenceGame(preference=mean, ref_logp=self.ref_logp, tau=self.tau)


# --- the Plackett-Luce integral


def _nodes(scores: Array) -> tuple[Array, Array]:
    """Gumbel heights g `[..., Q]` and their spacing. The integrands decay as e^{g + max R} to the left and doubly
    exponentially to the right, where the trapezoidal rule converges faster than any power.
    """
    low, high = -scores.max(-1) - 40.0, -scores.min(-1) + 4.0
    width = (high - low) / (NODES - 1)
    return low[..., None] + width[..., None] * jnp.arange(NODES, dtype=scores.dtype), width


def _log_reach(scores: Array, logp: Array) -> Float[Array, "... Q"]:
    r"""log sum_z pi(z) exp(-e^{g + R_z}): the chance that an opponent's arrival is later than e^g, at every node."""
    heights, _ = _nodes(scores)
    late = -jnp.exp(heights[..., None, :] + scores[..., :, None])
    return jax.nn.logsumexp(logp[..., :, None] + late, axis=-2)


def _against(scores: Array, log_reach: Array) -> Float[Array, "*batch A"]:
    r"""P(y first) = int e^{g + R_y} exp(-e^{g + R_y}) prod_j reach_j(g) dg: arrivals at rate e^R race, the first wins.

    With e^{-t e^R} the survival of an exponential clock, the softmax winner among n responses is the first of n
    clocks; one integral serves every n, where enumeration costs A^{n-1}.
    """
    heights, width = _nodes(scores)
    height = heights[..., None, :] + scores[..., :, None]
    density = height - jnp.exp(height) + log_reach[..., None, :]
    return jnp.exp(density).sum(-1) * width[..., None]


def plackett_luce(scores: ArrayLike, opponents_logp: ArrayLike) -> Float[Array, "*batch A"]:
    r"""P(y beats all m opponents at once) under Plackett-Luce, E e^{R_y} / (e^{R_y} + sum_j e^{R_{z_j}}), z_j ~ pi_j.

    Shapes: scores `[..., A]` nats, opponents `[m, ..., A]` log-probs -> `[..., A]`. m = 1 is Bradley-Terry.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 4 (Plackett, 1975; Luce, 1959).
    """
    checks.not_nan("scores", scores, forbid_inf=True)
    checks.log_policy("opponents_logp", opponents_logp)
    scores, logp = as_float(scores), as_policy(opponents_logp)
    if logp.ndim < 2:
        raise ValueError(f"opponents_logp must be [m, ..., A], the opponents first, got shape {logp.shape}")
    return _against(scores, _log_reach(scores, logp).sum(0))


# --- best responses, gaps, equilibria


def _players(game: MultiplayerGame, name: str, logp: ArrayLike, count: int) -> Array:
    """Policies of `count` players that fit the game, `[count, ..., A]`."""
    checks.same_last_axis({name: logp}, size=game.num_responses)
    checks.log_policy(name, logp)
    shape, batch = np.shape(logp), game.ref_logp.shape[:-1]
    if len(shape) - 1 <= len(batch) and name == "init_logp":
        logp = jnp.broadcast_to(as_policy(logp), (count, *batch, shape[-1]))
    elif len(shape) < 2 or shape[0] != count:
        raise ValueError(f"{name} must be [{count}, ..., A] with {count} players first, got shape {shape}")
    checks.broadcastable({name: np.shape(logp)[1:-1], "the game": batch})
    checks.covers("ref_logp", game.ref_logp, name, logp)
    return as_policy(logp)


@version_of(best_response, MultiplayerGame)
def _best_response(game: MultiplayerGame, opponents_logp: ArrayLike, player: int = 0) -> Float[Array, "*batch A"]:
    r"""argmax_pi J_i(pi, opponents): log BR(y) = log ref(y) + P_i(y beats the opponents) / tau - log Z."""
    if not isinstance(player, int | np.integer) or not 0 <= player < game.num_players:
        raise ValueError(f"player must be one of 0..{game.num_players - 1}, got {player!r}")
    opponents = _players(game, "opponents_logp", opponents_logp, game.num_players - 1)
    return log_softmax(game.ref_logp + game.win_rate_against(opponents, player) / per_batch(game.tau))


@version_of(duality_gap, MultiplayerGame)
def _duality_gap(game: MultiplayerGame, logps: ArrayLike) -> Float[Array, "n *batch"]:
    r"""max_pi J_i(pi, others) - J_i(pi_i, others) = tau KL(pi_i || BR_i) of each player, `[n, ...]`.

    Half of the two-player gap for n = 2 with a shared oracle. Source: Wu et al., 2025, arXiv:2509.23102 v3, Eq. 9.
    """
    players = _players(game, "logps", logps, game.num_players)
    response = log_softmax(game.ref_logp + game.win_rate(players) / per_batch(game.tau))
    return game.tau * exact_kl(players, response)


@version_of(original_gap, MultiplayerGame)
def _original_gap(game: MultiplayerGame, logps: ArrayLike) -> Float[Array, "n *batch"]:
    r"""max_y P_i(y beats the others) - P_i(pi_i beats the others) of each player: the gain without regularisation."""
    players = _players(game, "logps", logps, game.num_players)
    rate = game.win_rate(players)
    best = jnp.where(jnp.isneginf(game.ref_logp), -jnp.inf, rate).max(-1)
    return best - (jnp.exp(players) * rate).sum(-1)


@version_of(nash, MultiplayerGame)
def _nash(
    game: MultiplayerGame,
) -> Float[Array, "*batch A"]:
    r"""The symmetric regularised equilibrium of players who share an oracle, `[..., A]`: the policy that is each
    player's best response to n - 1 copies of itself.

    With the pairwise oracle it is the two-player one for every n. With Plackett-Luce it flattens as n grows, because
    chances to win scale like 1 / n; it is found by Newton steps while the temperature cools.
    Raises: ValueError where players have oracles of their own (several equilibria: use `solve` from each start).
    """
    if not game.shared_oracle:
        raise ValueError(
            "nash is the symmetric equilibrium of players who share an oracle; these have one each, and may have "
            "several equilibria: solve(game, 'egpo', init_logp=...) finds one for each start, and "
            "nash(game.population()) is that of the averaged oracle"
        )
    if game.preferences is not None:
        return nash(PreferenceGame(preference=game.preferences, ref_logp=game.ref_logp, tau=game.tau))
    assert game.scores is not None
    return _symmetric(game.scores, game.ref_logp, as_float(game.tau), num_players=game.num_players)


@functools.partial(jax.jit, static_argnames="num_players")
def _symmetric(scores: Array, ref_logp: Array, tau: Array, *, num_players: int) -> Array:
    """The root of F(x) = x - P(. > n - 1 copies of softmax(log ref + x)) / tau, for every game."""
    batch, size = ref_logp.shape[:-1], ref_logp.shape[-1]
    rivals = num_players - 1

    def one(scores: Array, ref_logp: Array, tau: Array) -> Array:
        def residual(offset: Array, warm: Array) -> Array:
            rate = _against(scores, rivals * _log_reach(scores, log_softmax(ref_logp + offset)))
            return offset - (rate - 1 / num_players) / warm

        return damped_newton(residual, jax.jacfwd(residual), jnp.zeros_like(ref_logp), tau)

    flat = functools.partial(jnp.reshape, shape=(-1, size))
    finite = jnp.where(jnp.isneginf(ref_logp), jnp.finfo(ref_logp.dtype).min / 4, ref_logp)
    offset = jax.vmap(one)(flat(scores), flat(finite), jnp.ravel(jnp.broadcast_to(tau, batch)))
    return log_softmax(ref_logp + offset.reshape((*batch, size)))
