"""`METHODS`: name -> record, computed by scanning `objectives/` for modules with a `METHODS` tuple. Nothing is listed
by hand.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from alignjax import checks, objectives
from alignjax.record import Method


class Registry(Mapping[str, Method]):
    """A read-only mapping; an unknown name raises with the nearest one, and 'nash-md' is 'nash_md'."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = dict(methods)

    def __getitem__(self, name: str) -> Method:
        return self._methods[checks.member("method", name, self._methods)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.replace("-", "_") in self._methods

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def __repr__(self) -> str:
        return f"Registry({', '.join(self._methods)})"


def collect(modules: Mapping[str, object]) -> Registry:
    """The records of some modules; a duplicate name raises."""
    found: dict[str, Method] = {}
    home: dict[str, str] = {}
    for module_name, module in sorted(modules.items()):
        for method in getattr(module, "METHODS", ()):
            if method.name in found:
                raise ValueError(f"two methods are named {method.name!r}: in {home[method.name]} and {module_name}")
            found[method.name], home[method.name] = method, module_name
    return Registry(dict(sorted(found.items())))


def _scan() -> Registry:
    names = [info.name for info in pkgutil.walk_packages(objectives.__path__, f"{objectives.__name__}.")]
    return collect({name: importlib.import_module(name) for name in names})


METHODS = _scan()
