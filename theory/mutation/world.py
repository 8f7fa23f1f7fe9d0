"""A second copy of the library in which one function is another one. The first copy is never touched."""

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, ModuleType
from typing import Any, ClassVar

ROOTS = ("alignjax", "theory")


class _Loader(importlib.abc.Loader):
    def __init__(self, code: CodeType) -> None:
        self.code = code

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


class _Remembering(importlib.machinery.SourceFileLoader):
    """Compiles the source of a module once for all worlds."""

    codes: ClassVar[dict[str, CodeType | None]] = {}

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code."""
        if fullname not in self.codes:
            self.codes[fullname] = super().get_code(fullname)
        return self.codes[fullname]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module in a code object, and the others of ours where they are."""

    def __init__(self, name: str, code: CodeType) -> None:
        self.name, self.code = name, code

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """The spec of the one module, or of another one of ours."""
        if fullname != self.name:
            found = importlib.machinery.PathFinder.find_spec(fullname, path) if _is_ours(fullname) else None
            if found is not None and isinstance(found.loader, importlib.machinery.SourceFileLoader):
                found.loader = _Remembering(fullname, found.loader.path)
            return found
        return importlib.machinery.ModuleSpec(fullname, _Loader(self.code), origin=self.code.co_filename)


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ROOTS


def _ours() -> list[str]:
    return [name for name in sys.modules if _is_ours(name)]


@contextlib.contextmanager
def world(module: str = "", code: CodeType | None = None) -> Iterator[None]:
    """Inside, imports of `alignjax` and `theory` give fresh modules, with `code` in the place of `module`'s.

    So a mutant of a shared equation reaches every loss, optimum and statement built on it, through their ordinary
    imports, and no compiled program of the original is mistaken for the mutant's. Outside, nothing has changed.
    """
    saved = {name: sys.modules.pop(name) for name in _ours()}
    finders = [] if code is None else [_Finder(module, code)]
    sys.meta_path[:0] = finders
    try:
        yield
    finally:
        for finder in finders:
            sys.meta_path.remove(finder)
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(saved)
