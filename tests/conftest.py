"""Settings of every test run; they have to be made before JAX is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEVICES = 8

if "jax" in sys.modules:
    raise RuntimeError("JAX was imported before tests/conftest.py could set its platform and device count")

# CPU only, so that results and device counts are the same everywhere.
os.environ["JAX_PLATFORMS"] = os.environ.get("ALIGNJAX_TEST_PLATFORMS", "cpu")
flags = [f"--xla_force_host_platform_device_count={DEVICES}"]
# A test's program runs for milliseconds and is compiled for hundreds: unoptimised, the tests take half the time.
# `make test-long` compiles as users do.
if not os.environ.get("ALIGNJAX_TEST_OPTIMISED"):
    flags += ["--xla_backend_optimization_level=0"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later ones do not know it, and abort
        flags += ["--xla_cpu_use_fusion_emitters=false"]
given = os.environ.get("XLA_FLAGS", "").split()
names = {flag.split("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in flags if flag.split("=")[0] not in names)])
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# `import theory, papers, tpu` has to work however pytest is started.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax
import pytest
from hypothesis import HealthCheck, settings

# Compilation makes first examples slow, and the fixtures below hold no state.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("quick", max_examples=10, derandomize=True, **_COMMON)
settings.register_profile("ci", max_examples=50, derandomize=True, print_blob=True, **_COMMON)
settings.register_profile("thorough", max_examples=1000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)
