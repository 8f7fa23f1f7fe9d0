"""What the commands' arguments share: exit statuses, errors, types of values, and flags for hyperparameters."""

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from alignjax import checks
from alignjax.record import HYPERPARAMETERS, Method

OK, FAILED, USAGE = 0, 1, 2
PORTS = 65_535
"""The highest one."""


class UsageError(Exception):
    """What was asked for cannot be done; nothing was started. Exit status 2."""


class Failed(RuntimeError):
    """It was begun and could not be finished. Exit status 1."""


class Parser(argparse.ArgumentParser):
    """Errors are `UsageError`s, so that all are reported in one manner."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def whole(at_least: int, at_most: int | None = None) -> Callable[[str], int]:
    """An argument type: an integer >= `at_least`, and <= `at_most`."""

    def integer(text: str) -> int:
        try:
            value = checks.whole("it", int(text), at_least)
            if at_most is not None and value > at_most:
                raise ValueError
            return value
        except ValueError:
            allowed = f">= {at_least}" if at_most is None else f"in {at_least}..{at_most}"
            raise argparse.ArgumentTypeError(f"must be an integer {allowed}, got {text!r}") from None

    return integer


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> float:
    """An argument type: a finite number > 0."""
    value = _float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text!r}")
    return value


def not_negative(text: str) -> float:
    """An argument type: a finite number >= 0."""
    value = _float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a finite number >= 0, got {text!r}")
    return value


def number(text: str) -> float:
    """An argument type: any number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def truth(text: str) -> bool:
    """An argument type: true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def hyperparameters_of(methods: Mapping[str, Method]) -> dict[str, dict[str, Any]]:
    """Every hyperparameter of every method: name -> {method: default}."""
    found: dict[str, dict[str, Any]] = {}
    for method in methods.values():
        for name, default in method.defaults.items():
            found.setdefault(name, {})[method.name] = default
    return dict(sorted(found.items()))


def _defaults(of: Mapping[str, Any]) -> str:
    """ "0.1; grpo, dr_grpo 0.04": the commonest default, and the methods that have another."""
    by_value: dict[Any, list[str]] = {}
    for name, value in of.items():
        by_value.setdefault(value, []).append(name)
    ranked = sorted(by_value.items(), key=lambda item: -len(item[1]))
    first = f"{ranked[0][0]}" if len(ranked) > 1 or len(of) > 4 else f"{', '.join(of)} {ranked[0][0]}"
    return "; ".join([first, *(f"{', '.join(names)} {value}" for value, names in ranked[1:])])


def add_hyperparameters(parser: argparse.ArgumentParser, methods: Mapping[str, Method]) -> None:
    """A flag for each hyperparameter of the methods; `options.hyper_NAME` is None where it is not given."""
    group = parser.add_argument_group("hyperparameters", "by default those of the method")
    for name, of in hyperparameters_of(methods).items():
        text = HYPERPARAMETERS[name][1] if name in HYPERPARAMETERS else f"of {', '.join(of)}"
        one_of = lambda kind, of=of: any(isinstance(default, kind) for default in of.values())
        typed, shown = (str, "NAME") if one_of(str) else (truth, "true|false") if one_of(bool) else (number, "X")
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"hyper_{name}",
            type=typed,
            metavar=shown,
            help=f"{text} (default: {_defaults(of)})".replace("%", "%%"),
        )
