"""The type of this house: a statement, with the instances it is tried on and the mutants that must break it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

from alignjax.record import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """An identity or a bound, as a slack that is >= 0 wherever it holds.

    The two sides must not share the formula under test: one from the definition, the other from the claim.
    """

    id: str
    """Family and row: "games/I1", "rl/C2"."""
    says: str
    """The statement in a line."""
    slack: Callable[..., Array]
    """slack(*instance, **variant) -> scalar (or array, whose minimum counts), >= 0 where the statement holds."""
    instance: Callable[[Array], Any]
    """key -> a random instance, as a tuple of pytrees; 10,000 keys are tried in one compiled call."""
    source: Source
    mutants: tuple[Mapping[str, Any], ...]
    """Keyword arguments of `slack` that make the statement wrong (a factor, a sign): each must make it FAIL.

    Numbers are stacked and evaluated by one program together with the statement itself.
    """
    formula: str = ""
    """LaTeX."""
    num_instances: int = 10_000
    on_host: bool = False
    """The slack needs the host (a linear program): instances are evaluated one by one, and may be fewer than 10,000."""
