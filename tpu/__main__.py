"""`python -m tpu`."""

import os
import sys
from pathlib import Path

# Compiled programs are kept between runs; JAX reads this when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

if __name__ == "__main__":
    from tpu.cli import main

    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if status == 1:
        os._exit(status)  # without waiting for threads that cannot write: all they do is complain
    sys.exit(status)
