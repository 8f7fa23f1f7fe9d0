"""The subcommands, one file each. A file has `SAYS`, one line; `add_arguments(parser)`; and `run(options) -> int`.

`run` returns an exit status (0 done, 1 failed, 2 could not start) or raises `UsageError` or `Failed`
(`tpu.arguments`). Its docstring is the description in `--help`, `EPILOG` where there is one the end of it. What is slow
to import (orbax, grain, flax) is imported inside `run`: every command's file is read whenever one is called.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType


def commands() -> Mapping[str, ModuleType]:
    """name -> module, by scanning this folder; `bench_memory.py` would be the command `bench-memory`."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
