"""The witness of an equivalent mutant: the same values and gradients as the original on 1,000 random instances."""

import dataclasses
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.equations import logistic
from alignjax.f_regularised import DIVERGENCES
from theory.mutation import draws

INSTANCES = 1_000
TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True)
class Case:
    """Instances on a leading axis, and what is not an array."""

    arrays: Mapping[str, Any]
    static: Mapping[str, Any]


_OPTIONS: dict[str, tuple[Any, ...]] = {
    "link": (logistic,), "f": (lambda u: jnp.square(u - 1), lambda u: u * jnp.log(jnp.where(u > 0, u, 1.0))),
    "divergence": DIVERGENCES, "needed_by": ("the witness",), "ddof": (0.0, 1.0), "axis": (-1,),
    "slope_at_infinity": (jnp.inf, 2.0), "num_steps": (7,), "player": (0, 2), "include_b": (True, False),
    "clip": ("separate", "joint", "product"), "kl": ("recomputed", "rollout"), "distance": ("squared", "logistic"),
    "combine": ("token", "batch", "batch_vertex", "gram", "linear", "token", "gram", "linear"),
    "use_noon": (True, True, True, True, True, False, False, False), "ties": ("sample", "order"),
    "rule": ("floor", "add_one"), "strict": (False, True), "reading": ("scalar", "vertex"),
    "worst": (False, True), "num": (5,), "num_objectives": (3,), "key": (None,), "name": ("egpo", "mwu", "nash_rs"),
}  # fmt: skip
"""What is no array, by the argument's name: the n-th case of an equation has the n-th of each, in turn."""
_OPTIONAL = ("response_mask", "mask", "behaviour_logp", "behaviour_token_logp")
_PROBLEMS = (draws.problem, draws.problem_of_players, draws.problem_of_pairs)


def cases(module: str, function: Callable[..., Any]) -> Iterator[Case]:
    """Calls of a function: with every argument, and with the optional ones left out."""
    function = inspect.unwrap(function)
    parameters = inspect.signature(function).parameters
    static = {name: values for name, values in _OPTIONS.items() if name in parameters}
    many = module.endswith("multiplayer") and {"game", "self"} & set(parameters)
    kinds = len(_PROBLEMS) if many or "problem" in parameters else 1
    turns = math.lcm(kinds, *(len(values) for values in static.values()))
    optional = [n for n, p in parameters.items() if p.default is None or n in _OPTIONAL]
    seed = 0
    for left_out in ([], optional) if optional else ([],):
        for turn in range(turns):
            seed += 1
            known = draws.by_name(module, function, turn % kinds)
            chosen = {name: values[turn % len(values)] for name, values in static.items()}
            names = [n for n in parameters if n not in chosen and n not in left_out and n != "group_size"]
            chosen |= {"group_size": 3} if "group_size" in parameters else {}
            chosen |= {n: None for n in left_out if parameters[n].default is not None}
            if "win_rate" in names and "game" in names:
                names.remove("win_rate")
            known["problem"] = _PROBLEMS[turn % kinds]

            def one(key: jax.Array, names: list[str] = names, seed: int = seed, known: Any = known) -> dict[str, Any]:
                keys = jax.random.split(jax.random.fold_in(key, seed), len(names))
                drawn = {name: known[name](one_key) for name, one_key in zip(names, keys, strict=True)}
                if "logp" in drawn and "ref_logp" in drawn and not module.startswith("alignjax.games"):
                    # Zero mass under the reference is zero mass under the policy, except in a divergence.
                    drawn["logp"] = jnp.where(jnp.isneginf(drawn["ref_logp"]), -jnp.inf, drawn["logp"])
                return drawn

            arrays = jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.arange(INSTANCES)))
            yield Case(arrays, chosen)


def transplanted(tree: Any) -> Any:
    """The same instance, built of the classes of the modules that are imported now."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        cls = getattr(importlib.import_module(type(tree).__module__), type(tree).__qualname__)
        return cls(*(transplanted(item) for item in tree))
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
        game, parameters = given.get("game"), inspect.signature(inspect.unwrap(function)).parameters
        if game is not None and "win_rate" in parameters:
            given["win_rate"] = game.win_rate
        if game is not None and getattr(parameters["game"].annotation, "__name__", "") == "Board":
            # A game as a solver's step sees it.
            board = importlib.import_module("alignjax.games.kernel").Board
            given["game"] = board(game.ref_logp, game.tau, game.others)
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
