"""The layering of the repository, read from its source: who may import whom, and what may be committed."""

from __future__ import annotations

import ast
import importlib
import subprocess
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What no file of a layer may import. (`alignjax/lm` alone may use flax and orbax.)
FORBIDDEN = {
    "alignjax": {"papers", "tests", "theory", "tpu"},
    "theory": {"papers", "tests"},
    "tpu": {"papers", "tests"},
    "papers": {"tests"},
}

# More files than this are there, or the tests below look in the wrong place.
MINIMUM_FILES = {"alignjax": 10, "theory": 2, "tpu": 2, "papers": 2}

# Names in parts, so that this file is not itself a hit.
REGISTRY_HOSTS = [
    "pypi" + ".org",
    "pypi" + ".python.org",
    "files." + "pythonhosted.org",
    "conda." + "anaconda.org",
    "download." + "pytorch.org",
    "registry." + "npmjs.org",
    "static." + "crates.io",
    "proxy." + "golang.org",
]
MACHINE_PATHS = ["/wo" + "rk/", "/tm" + "p/"]


class Import(NamedTuple):
    module: str  # absolute dotted name
    line: int
    lazy: bool  # inside a function, or only for the type checker


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> list[str]:
    """The dotted name, in parts, of the package that a file is in."""
    return list(path.relative_to(ROOT).parent.parts)


def absolute(module: str | None, level: int, package: list[str]) -> str:
    """The absolute name of the module in `from <level dots><module> import ...`."""
    prefix = package[: len(package) - level + 1] if level else []
    return ".".join([*prefix, *([module] if module else [])])


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports_in(tree: ast.Module, package: list[str]) -> list[Import]:
    """Every import of a module, wherever it stands, with dynamic ones by literal name."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module, node.level, package)
            found.extend(Import(f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if name in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                found.append(Import(str(first.value), node.lineno, lazy))
        if isinstance(node, ast.If) and is_type_checking(node.test):
            visit_all(node.body, True)
            visit_all(node.orelse, lazy)
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            # Decorators and defaults run when the module is imported, the body does not.
            visit_all(node.args.defaults, lazy)
            visit_all([default for default in node.args.kw_defaults if default is not None], lazy)
            if isinstance(node, ast.Lambda):
                visit(node.body, True)
            else:
                visit_all(node.decorator_list, lazy)
                visit_all(node.body, True)
            return
        visit_all(ast.iter_child_nodes(node), lazy)

    def visit_all(nodes: Iterable[ast.AST], lazy: bool) -> None:
        for node in nodes:
            visit(node, lazy)

    visit(tree, False)
    return found


def imports_of(path: Path) -> list[Import]:
    return imports_in(ast.parse(path.read_text(encoding="utf-8"), str(path)), package_of(path))


def root_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_reader_sees_every_kind_of_import() -> None:
    tree = ast.parse(
        "import scipy.optimize as so\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    import flax\n"
        "else:\n"
        "    from ..theory import x\n"
        "def f(a=__import__('tpu')):\n"
        "    from . import y\n"
        "    import importlib\n"
        "    importlib.import_module('papers.z')\n"
        "class C:\n"
        "    import orbax.checkpoint\n"
    )
    assert imports_in(tree, ["alignjax", "sub"]) == [
        ("scipy.optimize", 1, False),
        ("typing.TYPE_CHECKING", 2, False),
        ("flax", 4, True),
        ("alignjax.theory.x", 6, False),
        ("tpu", 7, False),
        ("alignjax.sub.y", 8, True),
        ("importlib", 9, True),
        ("papers.z", 10, True),
        ("orbax.checkpoint", 12, False),
    ]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_downwards(package: str) -> None:
    files = sources(package)
    seen = [(path, one) for path in files for one in imports_of(path)]
    bad = [
        f"{where(path)}:{one.line} imports {one.module}"
        for path, one in seen
        if root_of(one.module) in FORBIDDEN[package]
    ]
    assert not bad, "\n".join(bad)
    assert len(files) > MINIMUM_FILES[package], f"only {len(files)} files in {package}/"
    assert len(seen) > len(files), "hardly any import was read"


def test_the_core_needs_neither_flax_nor_orbax_nor_scipy_to_import() -> None:
    files = sources("alignjax")
    bad, jax_users, lm_files = [], 0, 0
    for path in files:
        in_lm = package_of(path)[:2] == ["alignjax", "lm"]
        lm_files += in_lm
        found = imports_of(path)
        jax_users += any(root_of(one.module) == "jax" for one in found)
        for one in found:
            root = root_of(one.module)
            if (root in {"flax", "orbax"} and not in_lm) or (root == "scipy" and not one.lazy):
                bad.append(f"{where(path)}:{one.line} imports {one.module}")
    assert not bad, "\n".join(bad)
    assert len(files) - lm_files > MINIMUM_FILES["alignjax"] and jax_users > MINIMUM_FILES["alignjax"] // 2


def exported(tree: ast.Module) -> set[str]:
    """The string literals that a module's `__all__` is made of."""
    names: set[str] = set()
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            names |= {
                leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            }
    return names


def top_level(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with those under a top-level `if` or `try`."""
    for node in statements:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from top_level([*node.body, *node.orelse])


def bound_to_objects(tree: ast.Module, package: list[str]) -> set[str]:
    """Names that a package's `__init__` binds to something other than its own submodule."""
    names: set[str] = set()
    for node in top_level(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module, node.level, package)
            for alias in node.names:
                if base != ".".join(package):  # else: `from . import submodule`
                    names.add(alias.asname or alias.name)
    return names


def packages_with_init() -> Iterator[tuple[list[str], Path, set[str]]]:
    """Each package of alignjax that has an `__init__`, with the names of its modules."""
    for init in sorted((ROOT / "alignjax").rglob("__init__.py")):
        modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
        modules |= {path.parent.name for path in init.parent.glob("*/__init__.py")}
        yield package_of(init), init, modules


def test_no_module_bears_the_name_of_something_its_package_exports() -> None:
    """`alignjax.dpo` must not be a function or a module depending on what was imported before."""
    bad, packages, exports = [], 0, 0
    for package, init, modules in packages_with_init():
        tree = ast.parse(init.read_text(encoding="utf-8"), str(init))
        public = exported(tree)
        packages += 1
        exports += len(public)
        clashes = public & modules
        wrong = clashes & bound_to_objects(tree, package)
        if clashes - wrong:  # bound some other way: ask the package itself
            module = importlib.import_module(".".join(package))
            wrong |= {name for name in clashes if not isinstance(getattr(module, name), types.ModuleType)}
        bad += [f"{where(init)} exports {name!r}, which is also a module" for name in sorted(wrong)]
    assert not bad, "\n".join(bad)
    assert packages > 2 and exports > 20, f"saw {packages} packages that export {exports} names"


def test_nothing_committed_names_a_registry_or_a_path_of_one_machine() -> None:
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    bad, read = [], 0
    for name in filter(None, listing.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():  # deleted in the working tree, or a link
            continue
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        read += 1
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            bad += [f"{name}:{number} has {text}" for text in REGISTRY_HOSTS + MACHINE_PATHS if text in line]
    assert not bad, "\n".join(bad)
    assert read > 15, f"only {read} text files are committed"
