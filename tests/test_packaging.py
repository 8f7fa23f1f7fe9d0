"""What the wheel holds, and what importing the package costs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["flax", "matplotlib", "orbax", "scipy"]


def declared_version() -> str:
    text = (ROOT / "alignjax" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert match, "alignjax/__init__.py has no literal __version__"
    return match[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that no build directory is left in the source tree."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    where = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "out", "*.egg-info")
    shutil.copytree(ROOT, where / "source", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "./source", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "--no-index", "--wheel-dir", "made"], cwd=where, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (where / "made").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"alignjax", f"alignjax-{declared_version()}.dist-info"}
    assert "alignjax/py.typed" in names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "alignjax").rglob("*.py")}
    assert len(sources) > 10
    # A module that is missing is most often in a folder without an __init__.py.
    assert {name for name in names if name.endswith(".py")} == sources


def test_the_wheel_describes_itself(wheel: zipfile.ZipFile) -> None:
    info = f"alignjax-{declared_version()}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    needed = {
        re.split(r"[^\w.-]", line.removeprefix("Requires-Dist: "))[0]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert needed == {"chex", "jax", "jaxtyping", "numpy", "optax", "scipy"}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {declared_version()}\n" in citation
    try:
        installed = importlib.metadata.version("alignjax")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("alignjax is not installed here")
    assert installed == declared_version()


def test_importing_alignjax_imports_nothing_heavy() -> None:
    code = (
        "import sys, json, alignjax\n"
        "print(json.dumps([alignjax.__version__, alignjax.__file__, sorted(sys.modules)]))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"importing alignjax printed: {done.stderr}"
    version, file, modules = json.loads(done.stdout)
    assert version == declared_version()
    assert Path(file) == ROOT / "alignjax" / "__init__.py"
    assert "jax" in modules  # or the list is not what it seems
    loaded = [name for name in modules if name.partition(".")[0] in HEAVY]
    assert not loaded, loaded
