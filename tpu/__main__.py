"""`python -m tpu`."""

import os
import sys
from pathlib import Path

# Compiled programs are kept between runs; JAX reads this when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))

if __name__ == "__main__":
    from tpu.cli import main

    sys.exit(main())
