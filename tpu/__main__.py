"""`python -m tpu`."""

import os
import signal
import sys
from pathlib import Path

# Compiled programs are kept between runs; JAX reads this when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:  # told to stop while it is loaded: to be started again, as later (distributed.py)
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(75))
    from tpu.cli import main

    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if status == 1:
        os._exit(status)  # without waiting for threads that cannot write: all they do is complain
    sys.exit(status)
