"""Plans that were made are kept: a compile takes minutes, and gives the same for the same request and the same code."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

from tpu.plan import planning
from tpu.plan.planning import PerChip, Plan
from tpu.plan.program import Request

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "plans"


def key(request: Request) -> str:
    """Of what a plan depends on: the request, a config.json it names, the code, the versions of JAX and libtpu, and
    what the environment tells the compiler.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(request), sort_keys=True).encode())
    given = Path(request.model)
    files = [given / "config.json" if given.is_dir() else given]
    asking = ("search.py", "table.py")  # these ask for plans, or show them
    for pattern in ("alignjax/**/*.py", "tpu/*.py", "tpu/plan/*.py"):
        files += sorted(file for file in ROOT.glob(pattern) if file.name not in asking)
    for file in files:
        if file.is_file():
            digest.update(file.read_bytes())
    for package in ("jax", "jaxlib", "flax", "optax", "libtpu"):
        try:
            digest.update(f"{package} {importlib.metadata.version(package)}".encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(f"{package} none".encode())
    for variable in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
        digest.update(f"{variable}={' '.join(os.environ.get(variable, '').split())}\n".encode())
    digest.update(sys.version.encode())
    return digest.hexdigest()[:32]


def read(name: str, folder: Path = FOLDER) -> Plan | None:
    """The plan that was kept under that `key`; None if there is none, or its file cannot be read."""
    try:
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return Plan(**found | {"per_chip": PerChip(**found["per_chip"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(name: str, plan: Plan, folder: Path = FOLDER) -> None:
    """Keeps a plan under the `key` that its request had before it was made: the code may change meanwhile.

    A folder that cannot be written is no error: the plan is there all the same.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(plan.plain(details=True), file)
        os.replace(file.name, folder / f"{name}.json")
    except OSError:
        pass


def planned(request: Request, fresh: bool = False) -> Plan:
    """The plan that was kept, or one that is made now, and kept. Raises: as `planning.make_plan`."""
    name = key(request)
    plan = None if fresh else read(name)
    if plan is None:
        plan = planning.make_plan(request)
        write(name, plan)
    return plan
