"""Several processes of `python -m tpu train` on this machine, with virtual devices: started, killed, waited for."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEVICES = 8
PATH = ""
"""A folder of modules that the processes may import."""
LOST_AFTER = 10
"""Seconds: `--lost-after` of the runs here."""


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Together:
    """`python -m tpu train ARGUMENTS --out OUT --resume` in `number` processes of `devices / number` each.

    No file that the last one writes may grow beyond `file_size` kB.
    """

    def __init__(
        self,
        out: Path,
        arguments: Sequence[str],
        number: int = 2,
        *,
        devices: int = DEVICES,
        file_size: int | None = None,
    ) -> None:
        self.out, port = out, free_port()
        self.files = [open(out.parent / f"{out.name}.{i}.log", "w+") for i in range(number)]
        self.all: list[subprocess.Popen[bytes]] = []
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [PATH])]),
        }
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        # Compiling is what costs here.
        quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices // number} {quick}"
        base = [sys.executable, "-m", "tpu", "train", "--out", str(out), *arguments, "--resume"]
        # As a disk that is full; what is printed goes elsewhere.
        full = ["bash", "-c", f'exec > >(cat) 2>&1; ulimit -f {file_size}; exec "$0" "$@"']
        for i, file in enumerate(self.files):
            one = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", str(number), "--process-id", str(i))
            several = (*one, "--lost-after", str(LOST_AFTER)) if number > 1 else ()
            first = full if file_size is not None and i == number - 1 else []
            self.all.append(
                subprocess.Popen(
                    [*first, *base, *several], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )  # fmt: skip

        atexit.register(self.end)  # those of a test that failed

    def end(self) -> None:
        """Those that are still there are killed."""
        for i, process in enumerate(self.all):
            if process.poll() is None:
                self.signal(i, signal.SIGKILL)

    def running(self) -> bool:
        """Whether all of them are."""
        return all(process.poll() is None for process in self.all)

    def signal(self, process: int, number: int) -> None:
        """To one of them: its parent, or with SIGKILL, as a host is lost, its whole group."""
        with contextlib.suppress(ProcessLookupError):
            send = os.killpg if number == signal.SIGKILL else os.kill
            send(self.all[process].pid, number)

    def wait(self, seconds: float = 300.0) -> list[int]:
        """The exit statuses. Raises: AssertionError, with what they said, if one does not end."""
        until = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, until - time.monotonic())) for process in self.all]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended after {seconds} s: {self.said()}") from None
        finally:
            for i in range(len(self.all)):
                self.signal(i, signal.SIGKILL)
            for file in self.files:
                file.close()

    def said(self) -> str:
        """What all of them printed."""
        return "\n".join(Path(file.name).read_text(errors="replace") for file in self.files)


def finish(out: Path, arguments: Sequence[str], number: int = 2, **how: object) -> str:
    """Runs to the end; what was printed."""
    together = Together(out, arguments, number, **how)  # type: ignore[arg-type]
    statuses = together.wait()
    assert statuses == [0] * number, (statuses, together.said())
    return together.said()
