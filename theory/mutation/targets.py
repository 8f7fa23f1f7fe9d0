"""What is mutated: every equation of the library, found by scanning its modules."""

import ast
import fnmatch
import functools
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from alignjax import checks, objectives
from theory.mutation.operators import Mutant, mutants_of

MODULES = (
    "alignjax.equations", "alignjax.kl_estimators", "alignjax.kl_regularised", "alignjax.f_regularised",
    "alignjax.divergences", "alignjax.laws", "alignjax.logspace", "alignjax.feedback", "alignjax.problem",
    "alignjax.games.game", "alignjax.games.equilibrium", "alignjax.games.kernel",
    "alignjax.games.regularised_solvers", "alignjax.games.original_solvers", "alignjax.games.multiplayer",
    "alignjax.games.step_sizes", "alignjax.games.solvers", "alignjax.games.social_choice", "alignjax.best_of",
    "alignjax.mixed_kl", "alignjax.constrained", "alignjax.pair_optima", "alignjax.extragradient",
    "alignjax.multiobjective.advantages", "alignjax.multiobjective.combiners", "alignjax.multiobjective.fronts",
    "alignjax.multiobjective.minimum_norm",
)  # fmt: skip
"""Modules of equations; every module of `alignjax.objectives` is one too."""
METHODS_OF_CLASSES = {
    "alignjax.games.game": ("PreferenceGame.skew", "PreferenceGame.win_rate"),
    "alignjax.games.multiplayer": tuple(
        f"MultiplayerGame.{name}" for name in ("oracle_of", "others", "win_rate", "win_rate_against")
    ),
}
ROOT = Path(__file__).resolve().parent.parent.parent
NOT_EQUATIONS = {
    "alignjax.best_of": ("_checked", "_at_least_one"),
    "alignjax.constrained": ("bisect",),
    "alignjax.extragradient": ("against_anchor",),
    "alignjax.divergences": ("_laws",),
    "alignjax.feedback": ("_behaviour", "_opponent_win_rate", "tables"),
    "alignjax.games.equilibrium": (
        "damped_newton", "_offset", "_nash", "von_neumann_winner", "equilibria", "_strictly_complementary",
        "_to_boundary", "_nearest", "_least_divergence",
    ),
    "alignjax.games.game": ("check_policy", "by_kind", "version_of", "of_two"),
    "alignjax.games.multiplayer": ("_players", "_nodes", "_nash", "_symmetric"),
    "alignjax.games.original_solvers": ("prox",),
    "alignjax.games.social_choice": ("_matrix", "_shortest_cycle", "majority_cycle"),
    "alignjax.games.solvers": ("solver", "_one_for_all", "_run", "_start", "solve"),
    "alignjax.kl_regularised": ("_checked",),
    "alignjax.laws": ("drawn_from", "sources_of"),
    "alignjax.logspace": ("as_float", "per_batch"),
    "alignjax.multiobjective.advantages": ("_checked",),
    "alignjax.multiobjective.combiners": ("_simplex",),
    "alignjax.multiobjective.fronts": ("_rewards",),
    "alignjax.multiobjective.minimum_norm": ("checked_gradients", "_interior_point", "_polished"),
}  # fmt: skip
"""Checks of arguments, plumbing, and algorithms whose steps may differ as long as they converge (Newton, a linear
program, bisection, an interior point, an inner loop, a search for a cycle, whose mutants need not end): what they
return is held to the equations that they solve.
"""


def modules() -> tuple[str, ...]:
    """Every module that holds equations."""
    found = [info.name for info in pkgutil.walk_packages(objectives.__path__, f"{objectives.__name__}.")]
    return (*MODULES, *sorted(found))


@functools.cache
def source_of(module: str) -> tuple[str, str]:
    """(source, file name) of a module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8"), spec.origin


@functools.cache
def equations() -> dict[str, tuple[str, str]]:
    """Name in the table -> (module, function)."""
    found: dict[str, tuple[str, str]] = {}
    for module in modules():
        left_out = NOT_EQUATIONS.get(module, ())
        names = [n.name for n in ast.parse(source_of(module)[0]).body if isinstance(n, ast.FunctionDef)]
        for name in (*names, *METHODS_OF_CLASSES.get(module, ())):
            if name not in left_out:
                found[f"{module.removeprefix('alignjax.')}.{name}"] = (module, name)
    return found


def select(patterns: Iterable[str]) -> list[str]:
    """Equations whose name is, ends in, matches (a glob) or contains a pattern; all without patterns.

    Raises: UnknownName, with the nearest name.
    """
    known = equations()
    patterns = list(patterns)
    if not patterns:
        return list(known)
    chosen: set[str] = set()
    for pattern in patterns:
        exact = [name for name in known if pattern == name or name.endswith(f".{pattern}")]
        matched = exact or [name for name in known if fnmatch.fnmatchcase(name, pattern) or pattern in name]
        if not matched:
            ends = {name.rpartition(".")[2] for name in known}
            checks.member("equation", pattern, ends if checks.nearest(pattern, ends) else known)  # raises
        chosen.update(matched)
    return [name for name in known if name in chosen]


def mutants(names: Iterable[str]) -> list[Mutant]:
    """All mutants of some equations."""
    found: list[Mutant] = []
    for name in names:
        module, function = equations()[name]
        found += mutants_of(source_of(module)[0], module, function)
    return found
