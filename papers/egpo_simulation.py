"""EGPO's official simulations on games of our own: five algorithms, tables and a network, exact and sampled.

The algorithms are gradient descent on losses; on a table the first, the third and the last are mirror steps, which
`solve` runs. Each run is cached on its settings, so that claims and figures share it.
Source: Zhou et al., 2025, arXiv:2503.08942, and its code, simulations/{configs,grid_search,loss_funcs,policies}.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import alignjax as aj
from alignjax import geometric_mixture
from alignjax.games import PreferenceGame, duality_gap, solve
from alignjax.logspace import log_softmax
from alignjax.sweeps import spread
from papers.nash_md_experiments import normalised
from papers.nash_md_policies import random_preferences
from papers.record import Settings

Runs = dict[str, np.ndarray]

OMD, OIPO2, NASH_MD, NASH_MD_PG, EGPO = ALGORITHMS = ("omd", "online_ipo", "nash_md", "nash_md_pg", "egpo")
NAMES = {
    OMD: "online IPO 1 (OMD)",
    OIPO2: "online IPO 2",
    NASH_MD: "Nash-MD",
    NASH_MD_PG: "Nash-MD-PG",
    EGPO: "EGPO",
}
ON_POLICY = (OIPO2, NASH_MD_PG)
"""Those whose gradient is a mean over the policy's own responses; that of the others is over uniform pairs."""

CUT = 1e-6
"""The gap at which the official code ends a curve."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The official numbers of one simulation."""

    beta: float
    rate: float
    """Of gradient descent on the loss."""
    updates: int
    actions: int = 10

    @property
    def step_size(self) -> float:
        """The canonical step that the rate is on a table, for losses on uniform pairs: h = 4 lr / (beta A)."""
        return 4 * self.rate / (self.beta * self.actions)

    @property
    def mixing(self) -> float:
        """The weight of the reference in Nash-MD's opponent in the code, 2 lr / A: half of h beta."""
        return 2 * self.rate / self.actions


TABLES = (Schedule(0.001, 2e-4, 100_000), Schedule(0.01, 0.02, 5_000), Schedule(0.1, 0.1, 1_000))
SAMPLED_TABLE = Schedule(0.01, 2e-4, 100_000)
NETWORK = Schedule(0.01, 0.003, 10_000, actions=100)
SAMPLED_NETWORK = Schedule(0.1, 0.001, 20_000, actions=100)
CONTEXTS, WIDTH, SAMPLES = 10, 10, 100


def random_game(generator: np.random.Generator, batch: tuple[int, ...], actions: int, beta: float) -> PreferenceGame:
    """Uniform lower triangles, references with normal logits."""
    preference = random_preferences(generator, batch, actions)
    ref_logp = normalised(generator.normal(size=(*batch, actions)))
    return spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=beta))


# --- gradients with respect to the logits -----------------------------------------------------------------------------


def opponent_of(algorithm: str, logp: Array, ref_logp: Array, mixing: float) -> Array:
    """Whom the win-rates are against: the policy, or its mixture with the reference."""
    return geometric_mixture(logp, ref_logp, mixing) if algorithm in (NASH_MD, NASH_MD_PG) else logp


def exact_gradient(algorithm: str, game: PreferenceGame, logp: Array, opponent: Array) -> Array:
    r"""The population gradient in closed form, q the win-rates against the opponent, x = log pi / ref.

    uniform pairs   4 / A (x - mean x - (q - mean q) / beta)
    online IPO 2    4 pi (x - E_pi x - (q - 1/2) / beta)
    Nash-MD-PG      -pi (q - beta x - E_pi[q - beta x])
    """
    x, win_rate = logp - game.ref_logp, game.win_rate(opponent)
    beta = jnp.asarray(game.tau)[..., None]
    if algorithm not in ON_POLICY:
        residual = x - win_rate / beta
        return 4 / game.num_responses * (residual - residual.mean(-1, keepdims=True))
    policy, advantage = jnp.exp(logp), win_rate - beta * x
    centred = advantage - (policy * advantage).sum(-1, keepdims=True)
    return -(4 / beta if algorithm == OIPO2 else 1) * policy * centred


def draw(chance: Array, logp: Array) -> Array:
    """Responses of each policy `[..., A]` by inverse transform, from uniform numbers `[..., n]`."""
    below = jnp.cumsum(jnp.exp(logp), -1)[..., None, :-1]
    return (chance[..., None] > below).sum(-1)


def sampled_gradient(algorithm: str, game: PreferenceGame, logp: Array, opponent: Array, chance: Array) -> Array:
    """The gradient of the library's own loss on drawn tuples: a pair and one opponent for both of its responses.

    `chance` `[..., n, 2]` are the uniform numbers of n tuples.
    """
    if algorithm in ON_POLICY:
        # Both draw a response and its opponent from policies; for online IPO 2 these two are the pair.
        rival = draw(chance[..., 1], opponent)
        first = draw(chance[..., 0], logp)
        index = jnp.stack([first, rival] if algorithm == OIPO2 else [first], -1)
    else:
        size = game.num_responses
        pair = jnp.minimum((chance[..., 0] * size**2).astype(int), size**2 - 1)
        index, rival = jnp.stack(divmod(pair, size), -1), draw(chance[..., 1], opponent)
    flat = index.reshape((*index.shape[:-2], -1))
    pick = lambda table: jnp.take_along_axis(table, flat, -1).reshape(index.shape)
    rows = (flat * game.num_responses + jnp.repeat(rival, index.shape[-1], -1)).reshape(flat.shape)
    wins = jnp.take_along_axis(game.preference.reshape((*game.preference.shape[:-2], -1)), rows, -1)
    wins, ref_logp, beta = wins.reshape(index.shape), pick(game.ref_logp), jnp.asarray(game.tau)[..., None]

    def loss(picked: Array) -> Array:
        if algorithm == OIPO2:
            first = wins[..., 0]
            table = jnp.stack([jnp.stack([0 * first, first], -1), jnp.stack([1 - first, 0 * first], -1)], -2)
            each_loss = aj.methods["online_ipo"].loss(picked, ref_logp, table, beta=beta)
        elif algorithm == NASH_MD_PG:
            each_loss = aj.methods["nash_md_pg"].loss(picked, ref_logp, wins, beta=beta[..., None])
        else:
            each_loss = aj.methods["egpo"].loss(picked, ref_logp, wins, beta=beta)
        return each_loss.mean(-1).sum()

    slope = jax.grad(loss)(pick(logp)).reshape(flat.shape)
    hits = flat[..., None] == jnp.arange(game.num_responses)
    gradient = jnp.einsum("...n,...na->...a", slope, hits.astype(slope.dtype))
    return gradient - jnp.exp(logp) * gradient.sum(-1, keepdims=True)  # through the log-softmax


# --- descent ----------------------------------------------------------------------------------------------------------

Logits = Callable[[Any], Array]


@functools.partial(jax.jit, static_argnames=("algorithm", "logits_of", "points", "every"))
def descend(
    game: PreferenceGame,
    params: Any,
    key: Array | None,
    rate: float,
    mixing: float,
    *,
    algorithm: str,
    logits_of: Logits,
    points: int,
    every: int,
) -> tuple[Array, Any]:
    """The gap after every `every`-th of `points * every` updates, the start first `[points + 1, ...]`; parameters.

    EGPO takes two gradients at the same parameters: against the policy, and against the policy of the half step.
    Gradients are exact, or with a key from samples.
    """

    def moved(params: Any, opponent: Array | None, chance: Array | None) -> Any:
        logits, back = jax.vjp(logits_of, params)
        logp = log_softmax(logits)
        rival = opponent_of(algorithm, logp, game.ref_logp, mixing) if opponent is None else opponent
        if chance is None:
            gradient = exact_gradient(algorithm, game, logp, rival)
        else:
            gradient = sampled_gradient(algorithm, game, logp, rival, chance)
        (slope,) = back(gradient)
        return jax.tree.map(lambda x, g: x - rate * g, params, slope)

    def update(params: Any, chance: Array | None) -> tuple[Any, None]:
        after = moved(params, None, None if chance is None else chance[0])
        if algorithm == EGPO:
            after = moved(params, log_softmax(logits_of(after)), None if chance is None else chance[1])
        return after, None

    def several(params: Any, key: Array | None) -> tuple[Any, Array]:
        shape = (every, 2 if algorithm == EGPO else 1, *game.ref_logp.shape[:-1], SAMPLES, 2)
        # All numbers of a block at once: one by one they would cost as much as the rest of an update.
        chance = None if key is None else jax.random.uniform(key, shape, game.ref_logp.dtype)
        params, _ = jax.lax.scan(update, params, chance, length=every)
        return params, duality_gap(game, log_softmax(logits_of(params)))

    keys = None if key is None else jax.random.split(key, points)
    last, gaps = jax.lax.scan(several, params, keys, length=points)
    return jnp.concatenate([duality_gap(game, log_softmax(logits_of(params)))[None], gaps]), last


def table(logits: Array) -> Array:
    """The table's parameters are its logits."""
    return logits


@functools.cache
def network() -> Any:
    """A flax network with one learnt input for each context and the same weights for all, as in the official code."""
    from flax import linen as nn  # of the extra `lm`: only this simulation needs it

    class Shared(nn.Module):
        """Two hidden layers of ReLU, a linear head of one logit for each response."""

        contexts: int = CONTEXTS
        width: int = WIDTH
        actions: int = 100

        @nn.compact
        def __call__(self) -> Array:
            """Logits `[contexts, actions]`."""
            init: Any = {"kernel_init": nn.initializers.xavier_normal(), "param_dtype": jnp.float64}
            x = self.param("inputs", nn.initializers.normal(1.0), (self.contexts, self.width), jnp.float64)
            for _ in range(2):
                x = nn.relu(nn.Dense(self.width, **init)(x))
            return nn.Dense(self.actions, **init)(x)

    return Shared()


@functools.cache
def networks() -> Logits:
    """Parameters of several networks -> their logits `[networks, contexts, A]`."""
    return jax.vmap(network().apply)


def new_networks(seed: int, number: int) -> Any:
    """Parameters of `number` networks, stacked."""
    return jax.jit(jax.vmap(network().init))(jax.random.split(jax.random.key(seed), number))


def _single(tree: Any) -> Any:
    """In single precision."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _key(settings: Settings, stream: int) -> Array:
    return jax.random.fold_in(jax.random.key(settings.seed, impl="rbg"), stream)


def first_below(gaps: np.ndarray, every: int, level: float = CUT) -> np.ndarray:
    """Updates until the gap `[points + 1, ...]` first is below the level, infinite where it never is."""
    below = gaps < level
    return np.where(below.any(0), below.argmax(0) * every, np.inf)


POINTS = 1_000


@functools.cache
def tables(settings: Settings) -> list[Runs]:
    """Exact tables, one entry for each of `TABLES`: the gap `[points + 1, games]` of each algorithm.

    Also `<name>.last` `[games, A]` for the mirror steps, and `floor`, `sharp_floor`: the gap of the policy that
    Nash-MD with the code's mixing, and with the one that belongs to its step, comes to rest at.
    """
    from alignjax.games.equilibrium import mixture_equilibrium

    found = []
    number = settings.size(50, 10)
    preference = random_preferences(np.random.default_rng([settings.seed, 100]), (number,), 10)
    ref_logp = normalised(np.random.default_rng([settings.seed, 101]).normal(size=(number, 10)))
    for plan in TABLES:
        game = spread(PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=plan.beta))
        every = plan.updates // POINTS
        runs: Runs = {"every": np.asarray(every)}
        for name in ALGORITHMS:
            if name in ON_POLICY:
                gap, last = descend(
                    game, game.ref_logp, None, plan.rate, plan.mixing,
                    algorithm=name, logits_of=table, points=POINTS, every=every,
                )  # fmt: skip
            else:
                extra: dict[str, Any] = {"mixture": plan.mixing} if name == NASH_MD else {}
                run = solve(game, name, num_steps=plan.updates, step_size=plan.step_size, every=every, **extra)
                gap, last = duality_gap(game, run.trajectory), run.logp
            runs[name], runs[f"{name}.last"] = np.asarray(gap), np.asarray(last)
        for label, mixing in (("floor", plan.mixing), ("sharp_floor", 2 * plan.mixing)):
            resting = mixture_equilibrium(game.preference, game.ref_logp, game.tau, mixing)
            runs[label] = np.asarray(duality_gap(game, resting))
        found.append(runs)
    return found


@functools.cache
def sampled_tables(settings: Settings) -> Runs:
    """Tables with 100 drawn tuples an update: gaps `[points + 1, games]`, and `exact`, EGPO's without sampling."""
    plan, updates = SAMPLED_TABLE, settings.size(SAMPLED_TABLE.updates, 4_000)
    game = random_game(np.random.default_rng([settings.seed, 102]), (CONTEXTS,), plan.actions, plan.beta)
    points = updates // 100
    exact = solve(game, EGPO, num_steps=updates, step_size=plan.step_size, every=100).trajectory
    runs: Runs = {"every": np.asarray(100), "exact": np.asarray(duality_gap(game, exact))}
    game = _single(game)  # the noise is far above its rounding
    for stream, name in enumerate(ALGORITHMS):
        gap, _ = descend(
            game, game.ref_logp, _key(settings, 1 + stream), plan.rate, plan.mixing,
            algorithm=name, logits_of=table, points=points, every=100,
        )  # fmt: skip
        runs[name] = np.asarray(gap)
    return runs


def _neural(settings: Settings, plan: Schedule, number: int, updates: int, stream: int, sampled: bool) -> Runs:
    points = 100
    params = new_networks(settings.seed + stream, number)
    preference = random_preferences(np.random.default_rng([settings.seed, stream]), (number, CONTEXTS), plan.actions)
    game = PreferenceGame(
        preference=jnp.asarray(preference), ref_logp=log_softmax(networks()(params)), tau=jnp.asarray(plan.beta)
    )
    runs: Runs = {"every": np.asarray(updates // points)}
    if sampled:
        game, params = _single((game, params))
    for shift, name in enumerate(ALGORITHMS):
        gap, _ = descend(
            game, params, _key(settings, stream + shift) if sampled else None, plan.rate, plan.mixing,
            algorithm=name, logits_of=networks(), points=points, every=updates // points,
        )  # fmt: skip
        runs[name] = np.asarray(gap).reshape((points + 1, -1))
    return runs


@functools.cache
def neural(settings: Settings) -> Runs:
    """Exact gradients through networks: gaps `[points + 1, networks x contexts]`."""
    return _neural(settings, NETWORK, settings.size(2, 1), settings.size(NETWORK.updates, 3_000), 110, False)


@functools.cache
def sampled_neural(settings: Settings) -> Runs:
    """Networks with 100 drawn tuples for each context and update."""
    return _neural(settings, SAMPLED_NETWORK, 1, settings.size(SAMPLED_NETWORK.updates, 1_000), 120, True)
