"""Random arguments for the witness: a generator for every name that an argument of an equation may have."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import Problem
from alignjax.best_of import quantiles
from alignjax.games import MultiplayerGame
from alignjax.games.original_solvers import MagnetState, OptimisticState
from alignjax.games.regularised_solvers import EmaState
from theory import instances

Draw = Callable[[jax.Array], Any]

_LAWS = (
    "alignjax.divergences",
    "alignjax.kl_regularised",
    "alignjax.games",
    "alignjax.logspace",
    "alignjax.f_regularised",
    "alignjax.laws",
    "alignjax.feedback",
    "alignjax.problem",
    "alignjax.pair_optima",
    "alignjax.best_of",
    "alignjax.constrained",
    "alignjax.mixed_kl",
)
_STATES = {"EmaState": EmaState, "OptimisticState": OptimisticState, "MagnetState": MagnetState}
"""States of solvers that are more than a policy, by the name of their annotation."""


def zeros(key: jax.Array, x: jax.Array) -> jax.Array:
    """Every tenth entry of every second array is -inf."""
    coin, which = jax.random.split(key)
    return jnp.where((jax.random.uniform(coin) < 0.5) & (jax.random.uniform(which, x.shape) < 0.1), -jnp.inf, x)


def _infinite(key: jax.Array, x: jax.Array) -> jax.Array:
    """Every tenth entry of every second array is -inf or inf."""
    return jnp.where(jnp.isneginf(zeros(key, x)) & (x > 0), jnp.inf, zeros(key, x))


def _mask(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """From empty to full."""
    share, which = jax.random.split(key)
    return jax.random.uniform(which, shape) < jnp.array([0.0, 0.3, 0.6, 1.0])[jax.random.randint(share, (), 0, 4)]


def problem(key: jax.Array) -> Problem:
    """A reward, a sampler and an anchor."""
    keys = jax.random.split(key, 6)
    ref = instances.reference(keys[0])
    plain, _, _ = instances.smooth_problem(keys[1])
    return dataclasses.replace(
        plain, ref_logp=ref, sampler_logp=instances.policy(keys[2], ref), anchor_logp=instances.policy(keys[3], ref)
    )


def problem_of_players(key: jax.Array) -> Problem:
    """Preferences beside the reward, several rewards, opponents and a value too."""
    keys = jax.random.split(jax.random.fold_in(key, 7), 5)
    one = problem(key)
    return dataclasses.replace(
        one, preference=instances.preference(keys[0]), rewards=jax.random.normal(keys[1], (5, 2)),
        opponent_logp=jnp.stack([instances.policy(k, one.ref_logp) for k in keys[2:4]]),
        value=0.3 * jax.random.normal(keys[4]),
    )  # fmt: skip


def problem_of_pairs(key: jax.Array) -> Problem:
    """Preferences, and one law for each of the two responses."""
    one = problem(key)
    laws = tuple(instances.policy(k, one.ref_logp) for k in jax.random.split(jax.random.fold_in(key, 11)))
    table = instances.preference(jax.random.fold_in(key, 12))
    return dataclasses.replace(one, preference=table, sampler_logp=laws, anchor_logp=None)


def game_of_players(key: jax.Array, kind: int) -> MultiplayerGame:
    """Three players who ask the same oracle, or one each, or Plackett-Luce."""
    keys = jax.random.split(key, 5)
    ref_logp, tau = instances.reference(keys[0]), instances.temperature(keys[1])
    if kind == 2:
        scores = 2 * jax.random.normal(keys[2], (5,))
        return MultiplayerGame(scores=scores, ref_logp=ref_logp, tau=tau, num_players=3, oracle="plackett_luce")
    tables = jnp.stack([instances.preference(k) for k in keys[2:]])
    shared = tables[0] if kind == 0 else tables
    return MultiplayerGame(preferences=shared, ref_logp=ref_logp, tau=tau, num_players=3)


def shape_of(function: Callable[..., Any]) -> tuple[int, ...]:
    """(K,) of a loss, 2 for pairs and 3 for triples, or (K, T)."""
    notes = " ".join(str(p.annotation) for p in inspect.signature(function).parameters.values())
    size = 2 if "batch 2" in notes else 3 if "batch 3" in notes else 4
    return (size, 3) if "batch K T" in notes or "batch 2 T" in notes else (size,)


def _between(low: float, high: float) -> Draw:
    return lambda key: jax.random.uniform(key, minval=low, maxval=high)


def _sometimes(value: float, draw: Draw) -> Draw:
    return lambda key: jnp.where(jax.random.uniform(jax.random.fold_in(key, 1)) < 0.2, value, draw(key))


def _whole(low: int, high: int) -> Draw:
    return lambda key: jnp.floor(_between(low, high + 1)(key))


def _scalars() -> dict[str, Draw]:
    share = _sometimes(0.0, _sometimes(1.0, _between(0.0, 1.0)))
    return {
        "beta": instances.temperature, "tau": instances.temperature, "label_smoothing": _between(0.0, 0.45),
        "clip_range": _between(0.05, 0.6), "std_epsilon": _sometimes(0.0, _between(0.0, 0.5)),
        "delta": _between(0.1, 4.0), "alpha": _sometimes(1.0, _between(0.05, 0.95)), "mixture": share,
        "ema": _between(0.0, 1.0), "weight": share, "at": _between(0.1, 2.0), "target": _between(-3.0, 3.0),
        "shift": _between(-1.0, 1.0), "t": _whole(0, 9), "scale": _between(0.1, 4.0),
        "step_size": lambda key: jnp.exp(_between(-3.0, 0.0)(key)), "eta": _between(0.1, 2.0),
        "n": _sometimes(1.0, _between(1.0, 9.0)), "gamma": _sometimes(0.0, _between(0.0, 1.0)), "sft_weight": share,
        "history_decay": _between(0.2, 1.0), "external_weight": share, "exploration": _between(0.0, 1.0),
        "ratio_bound": _between(1.0, 3.0), "anchor_steps": _whole(1, 3), "magnet_steps": _whole(1, 4),
        "step": _whole(0, 5), "forward": share, "backward": share, "c": _sometimes(0.0, _between(0.0, 0.95)),
    }  # fmt: skip


def by_name(module: str, function: Callable[..., Any], kind: int = 0) -> dict[str, Draw]:
    """A generator for every name an argument may have, in this module; `kind` says which of several games."""
    of_laws = module.startswith(_LAWS)
    many, count = module.endswith("multiplayer"), 1 if module.endswith("logspace") else 2
    notes = {name: str(p.annotation) for name, p in inspect.signature(function).parameters.items()}
    shape = (5,) if of_laws else shape_of(function)
    group = shape[:1] if len(shape) == 2 or "token" not in " ".join(notes) else (4,)

    def normal(size: tuple[int, ...], scale: float = 1.0) -> Draw:
        return lambda key: scale * jax.random.normal(key, size)

    def several(draw: Draw, count: int) -> Draw:
        return lambda key: jnp.stack([draw(k) for k in jax.random.split(key, count)])

    def law(key: jax.Array) -> jax.Array:
        return instances.policy(key, instances.reference(jax.random.fold_in(key, 3)))

    def ties(key: jax.Array) -> jax.Array:
        reward = instances.reward(key, group[0])
        return jnp.where(jax.random.uniform(key) < 0.1, jnp.round(reward[0], 1), reward)

    def preference(key: jax.Array) -> jax.Array:
        size = 5 if module.startswith((*_LAWS, "alignjax.problem")) else 2
        return instances.preference(key, size)

    def state(key: jax.Array) -> Any:
        known = [name for name in _STATES if name in notes["state"]]
        if not known:  # an optimiser's, say
            raise LookupError(f"no {notes['state']} can be drawn")
        cls: Any = _STATES[known[0]]
        keys = dict(zip(cls._fields, jax.random.split(key, len(cls._fields)), strict=True))
        return cls(**{n: jnp.floor(3 * normal((5,))(k)) if n == "age" else law(k) for n, k in keys.items()})

    logs: Draw = law if of_laws else lambda key: zeros(key, -4 + jax.random.normal(key, shape))
    games: Draw = (lambda key: game_of_players(key, kind)) if many else instances.game
    table: dict[str, Draw] = {
        "preference": preference, "skew": lambda key: preference(key) - 0.5, "reward": ties, "win_rate": lambda key:
        jax.random.uniform(key, group), "value": normal(()), "label": lambda key: (normal(group)(key) > 0) + 0.0,
        "response_mask": lambda key: _mask(key, group), "mask": lambda key: _mask(key, shape), "values": normal(shape),
        "problem": problem, "game": games, "self": games, "params": normal((3,)), "anchor": normal((3,)),
        "offset": normal((5,)), "slack": lambda key: jnp.exp(normal((5,))(key)), "columns": normal((1, 1)),
        "bases": several(logs, count), "log_bases": several(law, 1), "past": several(logs, 2),
        "weights": lambda key: jnp.round(2 * jax.random.uniform(key, (count,)), 1),
        "divergence": lambda key: None, "feedback": normal((2,)), "rewards": normal((*group, 2)),
        "x": lambda key: zeros(key, normal(shape)(key)), "advantage": normal(group), "margin": normal(shape, 2.0),
        "support": lambda key: (jnp.arange(5) < 2) | (normal((5,))(key) > 0), "scores": normal((5,), 2.0),
        "logits": several(law, 3) if many else law, "logps": several(law, 3), "opponents_logp": several(law, 2),
        "first": law if of_laws else normal(shape), "second": law if of_laws else normal(shape), "magnet": law,
        "state": state, "z": lambda key: jax.random.uniform(key, (5,), minval=-30.0, maxval=20.0),
        "gradients": normal((3, 4)), "advantages": normal((4, 3)), "gram": lambda key: jnp.cov(normal((3, 9))(key)),
    }  # fmt: skip
    for name in ("logp", "ref_logp", "old_logp", "behaviour_logp", "token_logp", "ref_token_logp", "logq", "centre",
                 "opponent_logp", "log_ratio", "anchor_logp", "behaviour_token_logp", "base_logp", "law",
                 "target_logp", "pulled_logp"):  # fmt: skip
        table[name] = logs
    if "found" in notes:
        table["found"] = lambda key: quantiles(law(key), ties(key))
    table["pool_reward"] = table["sampled_reward"] = lambda key: jnp.round(normal((7,))(key))
    if module.startswith("alignjax.best_of"):
        table |= {"logit": normal(()),
                  "reward": lambda key: jnp.round(normal((5,))(key)),
                  "rival_reward": lambda key: jnp.round(normal((5,))(key))}  # fmt: skip
    if module.startswith("alignjax.multiobjective"):
        table |= {"weights": lambda key: jax.nn.softmax(normal((3,))(key)), "values": normal((3,)), "ideal": lambda key:
                  2 + normal((3,))(key), "inside": lambda key: _mask(key, (4,)), "point": lambda key:
                  jnp.round(normal((2,))(key)), "other": lambda key: jnp.round(normal((2,))(key)),
                  "points": lambda key: jnp.round(normal((6, 2))(key)), "rewards": normal((5, 2)),
                  "logp": law if module.endswith("fronts") else table["logp"],
                  "ref_logp": law if module.endswith("fronts") else table["ref_logp"]}  # fmt: skip
    if module.endswith("social_choice"):
        table["margin"] = _between(0.0, 0.2)
    if "J *batch" in notes.get("opponent_logp", ""):
        table["opponent_logp"] = several(logs, 2)
    for name in ("score", "target", "weight"):
        table[name] = normal(shape)
    own = () if not module.startswith("alignjax.equations") else ("target", "weight")
    table |= {name: draw for name, draw in _scalars().items() if name not in own}
    if function.__name__ == "square":
        table["target"] = _between(-3.0, 3.0)
    if module.startswith("alignjax.equations"):
        table["score"] = lambda key: _infinite(key, normal(shape)(key))
    if module.startswith(("alignjax.pair_optima", "alignjax.constrained")):
        table["target"] = table["score"] = normal(shape)
    if function.__name__ == "scaled":
        table["weight"] = lambda key: jnp.round(2 * jax.random.uniform(key, (5,)) - 1, 1)
    return table
