"""The witness of an equivalent mutant: the same values and gradients as the original on 1,000 random instances."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import Problem
from alignjax.equations import logistic
from alignjax.f_regularised import DIVERGENCES
from theory import instances

INSTANCES = 1_000
TOLERANCE = 1e-12
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
)


def _zeros(key: jax.Array, x: jax.Array) -> jax.Array:
    """Every tenth entry of every second array is -inf."""
    coin, which = jax.random.split(key)
    return jnp.where((jax.random.uniform(coin) < 0.5) & (jax.random.uniform(which, x.shape) < 0.1), -jnp.inf, x)


def _infinite(key: jax.Array, x: jax.Array) -> jax.Array:
    """Every tenth entry of every second array is -inf or inf."""
    return jnp.where(jnp.isneginf(_zeros(key, x)) & (x > 0), jnp.inf, _zeros(key, x))


def _mask(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """From empty to full."""
    share, which = jax.random.split(key)
    return jax.random.uniform(which, shape) < jnp.array([0.0, 0.3, 0.6, 1.0])[jax.random.randint(share, (), 0, 4)]


def _problem(key: jax.Array) -> Problem:
    keys = jax.random.split(key, 6)
    ref = instances.reference(keys[0])
    plain, _, _ = instances.smooth_problem(keys[1])
    return dataclasses.replace(
        plain, ref_logp=ref, sampler_logp=instances.policy(keys[2], ref), anchor_logp=instances.policy(keys[3], ref)
    )


def _problems(key: jax.Array) -> Problem:
    return dataclasses.replace(_problem(key), preference=instances.preference(jax.random.fold_in(key, 7)))


def _shape_of(function: Callable[..., Any]) -> tuple[int, ...]:
    """(K,) of a loss: pairs have two responses, tokens a second axis."""
    notes = " ".join(str(p.annotation) for p in inspect.signature(function).parameters.values())
    return (4, 3) if "T" in notes.split("batch K")[-1][:3] else (2,) if "batch 2" in notes else (4,)


def _scalars() -> dict[str, Draw]:
    def between(low: float, high: float) -> Draw:
        return lambda key: jax.random.uniform(key, minval=low, maxval=high)

    def sometimes(value: float, draw: Draw) -> Draw:
        return lambda key: jnp.where(jax.random.uniform(jax.random.fold_in(key, 1)) < 0.2, value, draw(key))

    return {
        "beta": instances.temperature, "tau": instances.temperature, "label_smoothing": between(0.0, 0.45),
        "clip_range": between(0.05, 0.6), "std_epsilon": sometimes(0.0, between(0.0, 0.5)), "delta": between(0.1, 4.0),
        "alpha": sometimes(1.0, between(0.05, 0.95)), "mixture": sometimes(0.0, sometimes(1.0, between(0.0, 1.0))),
        "ema": between(0.0, 1.0), "weight": sometimes(0.0, sometimes(1.0, between(0.0, 1.0))), "at": between(0.1, 2.0),
        "target": between(-3.0, 3.0), "shift": between(-1.0, 1.0),
        "t": lambda key: jnp.floor(10 * jax.random.uniform(key)), "scale": between(0.1, 4.0),
        "step_size": lambda key: jnp.exp(between(-3.0, 0.0)(key)),
    }  # fmt: skip


def _arrays(module: str, function: Callable[..., Any]) -> dict[str, Draw]:
    """A generator for every name an argument may have, in this module."""
    shape = (5,) if module.startswith(_LAWS) else _shape_of(function)
    group = shape[:1] if "token" not in " ".join(inspect.signature(function).parameters) else (4,)

    def normal(size: tuple[int, ...], scale: float = 1.0) -> Draw:
        return lambda key: scale * jax.random.normal(key, size)

    def law(key: jax.Array) -> jax.Array:
        return instances.policy(key, instances.reference(jax.random.fold_in(key, 3)))

    def ties(key: jax.Array) -> jax.Array:
        reward = instances.reward(key, group[0])
        return jnp.where(jax.random.uniform(key) < 0.1, jnp.round(reward[0], 1), reward)

    def preference(key: jax.Array) -> jax.Array:
        size = 5 if module.startswith((*_LAWS, "alignjax.problem")) else 2
        return instances.preference(key, size)

    logs: Draw = law if module.startswith(_LAWS) else lambda key: _zeros(key, -4 + jax.random.normal(key, shape))
    table: dict[str, Draw] = {
        "preference": preference, "skew": lambda key: preference(key) - 0.5, "reward": ties, "win_rate": lambda key:
        jax.random.uniform(key, group), "value": normal(()), "label": lambda key: (normal(group)(key) > 0) + 0.0,
        "response_mask": lambda key: _mask(key, group), "mask": lambda key: _mask(key, shape), "values": normal(shape),
        "problem": _problem, "game": instances.game, "params": normal((3,)), "anchor": normal((3,)),
        "offset": normal((5,)), "slack": lambda key: jnp.exp(normal((5,))(key)), "columns": normal((1, 1)),
        "bases": lambda key: law(key)[None], "log_bases": lambda key: law(key)[None],
        "weights": lambda key: jnp.round(2 * jax.random.uniform(key, (1,)), 1), "divergence": lambda key: None,
        "x": lambda key: _zeros(key, normal(shape)(key)), "advantage": normal(group), "margin": normal(shape, 2.0),
        "support": lambda key: (jnp.arange(5) < 2) | (normal((5,))(key) > 0),
    }  # fmt: skip
    for name in ("logp", "ref_logp", "old_logp", "behaviour_logp", "token_logp", "ref_token_logp", "logq", "centre",
                 "opponent_logp", "log_ratio"):  # fmt: skip
        table[name] = logs
    for name in ("score", "target", "weight"):
        table[name] = normal(shape if not module.startswith(_LAWS) else (5,))
    scalars = _scalars()
    own = () if not module.startswith("alignjax.equations") else ("target", "weight")
    table |= {name: draw for name, draw in scalars.items() if name not in own}
    if function.__name__ == "square":
        table["target"] = scalars["target"]
    if module.startswith("alignjax.equations"):
        table["score"] = lambda key: _infinite(key, normal(shape)(key))
    if function.__name__ == "scaled":
        table["weight"] = lambda key: jnp.round(2 * jax.random.uniform(key, (5,)) - 1, 1)
    return table


@dataclasses.dataclass(frozen=True)
class Case:
    """Instances on a leading axis, and what is not an array."""

    arrays: Mapping[str, Any]
    static: Mapping[str, Any]


def cases(module: str, function: Callable[..., Any]) -> Iterator[Case]:
    """Calls of a function: with every argument, and with the optional ones left out."""
    function = inspect.unwrap(function)
    parameters = inspect.signature(function).parameters
    known = _arrays(module, function)
    options: dict[str, tuple[Any, ...]] = {
        "link": (logistic,), "f": (lambda u: jnp.square(u - 1), lambda u: u * jnp.log(jnp.where(u > 0, u, 1.0))),
        "divergence": DIVERGENCES, "needed_by": ("the witness",), "ddof": (0.0, 1.0),
        "axis": (-1,), "slope_at_infinity": (jnp.inf, 2.0),
    }  # fmt: skip
    optional = [
        n for n, p in parameters.items() if p.default is None or (n in ("response_mask", "mask", "behaviour_logp"))
    ]
    seed = 0
    for left_out in ([], optional) if optional else ([],):
        static = {name: values for name, values in options.items() if name in parameters}
        for turn in range(max([len(values) for values in static.values()], default=1)):
            seed += 1
            chosen = {name: values[turn % len(values)] for name, values in static.items()}
            names = [n for n in parameters if n not in chosen and n not in left_out and n != "group_size"]
            chosen |= {"group_size": 3} if "group_size" in parameters else {}
            chosen |= {n: None for n in left_out if parameters[n].default is not None}
            if "win_rate" in names and "game" in names:
                names.remove("win_rate")

            def one(key: jax.Array, names: list[str] = names, seed: int = seed) -> dict[str, Any]:
                keys = jax.random.split(jax.random.fold_in(key, seed), len(names))
                drawn = {name: known[name](one_key) for name, one_key in zip(names, keys, strict=True)}
                if "logp" in drawn and "ref_logp" in drawn and not module.startswith("alignjax.games"):
                    # Zero mass under the reference is zero mass under the policy, except in a divergence.
                    drawn["logp"] = jnp.where(jnp.isneginf(drawn["ref_logp"]), -jnp.inf, drawn["logp"])
                if "problem" in drawn and seed % 2 == 0:
                    drawn["problem"] = _problems(key)
                return drawn

            arrays = jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.arange(INSTANCES)))
            yield Case(arrays, chosen)


def transplanted(tree: Any) -> Any:
    """The same instance, built of the classes of the modules that are imported now."""
    if isinstance(tree, tuple):
        return tuple(transplanted(item) for item in tree)
    if isinstance(tree, list):
        return [transplanted(item) for item in tree]
    if isinstance(tree, dict):
        return {name: transplanted(item) for name, item in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        cls = getattr(importlib.import_module(type(tree).__module__), type(tree).__qualname__)
        node = object.__new__(cls)
        for field in dataclasses.fields(tree):
            object.__setattr__(node, field.name, transplanted(getattr(tree, field.name)))
        return node
    return tree


def find(module: str, qualname: str) -> Callable[..., Any]:
    """A function of the modules that are imported now."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    function: Callable[..., Any] = getattr(found, "fget", found)
    return function


def responses(function: Callable[..., Any], case: Case) -> list[np.ndarray]:
    """Values, and gradients of a random combination of them, on every instance."""
    function_arrays = transplanted(dict(case.arrays))
    static = dict(case.static)

    def value(arrays: dict[str, Any]) -> Any:
        given = dict(arrays)
        own = given.pop("self", None)
        game = given.get("game")
        if game is not None and "win_rate" in inspect.signature(inspect.unwrap(function)).parameters:
            given["win_rate"] = game.win_rate
        return function(*([] if own is None else [own]), **given, **static)

    def total(moving: Any, fixed: Any, tree: Any) -> Any:
        out = value(jax.tree.unflatten(tree, [m if f is None else f for m, f in zip(moving, fixed, strict=True)]))
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(out)]
        parts = [jnp.sum(leaf * jnp.cos(1.0 + jnp.arange(leaf.size).reshape(leaf.shape))) for leaf in leaves]
        return sum(parts, jnp.zeros(())), leaves

    leaves, tree = jax.tree.flatten(function_arrays)
    moves = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    moving = [leaf if move else jnp.zeros(leaf.shape[:1]) for leaf, move in zip(leaves, moves, strict=True)]
    fixed = [None if move else leaf for leaf, move in zip(leaves, moves, strict=True)]
    both = jax.vmap(jax.grad(functools.partial(total, tree=tree), has_aux=True))
    gradients, values = both(moving, fixed)
    return [np.asarray(x) for x in (*values, *gradients)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Equal to 1e-12, infinities and NaN included."""
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape or not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            return False
    return True
