"""Several processes as one run: how they start, agree on plain data, and end together.

The engine is JAX's own multi-controller runtime (`jax.distributed`): process 0 coordinates, every process beats its
heart, and all of them run the same programs on global arrays (global_arrays.py). What this file adds is how they end:

    an error here       is told to the others, and all end with its exit status
    SIGTERM anywhere    JAX's preemption service agrees on a step; all save there and end with status 75. Before the
                        first step there is nothing to save: the process ends at once, and the others as below
    a lost process      no heartbeat for --lost-after seconds, or a coordinator that is gone: JAX aborts the others,
                        and the parent of each, which does nothing but wait, ends with 75 in place of the abort
"""

import atexit
import contextlib
import ctypes
import dataclasses
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from alignjax import checks
from tpu.arguments import FAILED, PORTS, USAGE, UsageError

RESTART = 75
"""EX_TEMPFAIL of sysexits.h: start the same command again."""
_ENDED, _ALL_KNOW = "alignjax/ended", "alignjax/all-know"
_PATIENCE = 10.0
"""Seconds that a process which fails waits for the others to know."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Which processes make the run. All None, and not `distributed`: this one alone.

    Raises: UsageError if only some of coordinator, number and id are given, or the id is none of the numbers.
    """

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    process_id: int | None = None
    distributed: bool = False
    """All of it from the environment (Slurm, Open MPI, GKE, Cloud TPU), as JAX finds it."""
    lost_after: int = 60
    """Seconds without a heartbeat after which a process is lost, and the others end."""

    def __post_init__(self) -> None:
        given = {
            "--coordinator": self.coordinator, "--num-processes": self.num_processes, "--process-id": self.process_id,
        }  # fmt: skip
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise UsageError(
                f"{', '.join(n for n in given if n not in missing)} also needs {', '.join(missing)} "
                "(or --distributed alone, which reads the environment)"
            )
        if self.coordinator is None:
            return
        if self.distributed:
            raise UsageError("--distributed reads what --coordinator, --num-processes and --process-id say: give one")
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= PORTS:
            raise UsageError(f"--coordinator must be HOST:PORT of process 0, PORT 1..{PORTS}, got {self.coordinator!r}")
        assert self.num_processes is not None and self.process_id is not None
        if not 0 <= self.process_id < self.num_processes:
            raise UsageError(
                f"--process-id must lie in 0..{self.num_processes - 1} (--num-processes {self.num_processes}), "
                f"got {self.process_id}"
            )

    @property
    def several(self) -> bool:
        """Whether the runtime of several processes is started at all."""
        return self.distributed or self.coordinator is not None


def start(processes: Processes) -> None:
    """Joins the run; nothing happens for a process alone. Call it before JAX has touched a device.

    Raises: UsageError if the environment says too little, or the coordinator does not answer.
    """
    if not processes.several:
        return
    try:
        jax.distributed.initialize(
            processes.coordinator, processes.num_processes, processes.process_id,
            initialization_timeout=max(60, min(300, 5 * processes.lost_after)),
            heartbeat_timeout_seconds=processes.lost_after, shutdown_timeout_seconds=max(processes.lost_after, 60),
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        asked = "--distributed: the environment" if processes.distributed else f"--coordinator {processes.coordinator}"
        raise UsageError(f"{asked}: {' '.join(str(error).split())}") from None


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and speaks; so is a process alone."""
    return not several() or jax.process_index() == 0


# --- agreeing on plain data


def _client() -> Any:
    from jax._src import distributed  # there is no public name for it; orbax asks here as well

    return distributed.global_state.client


_told = 0


def everyone(value: Any, *, seconds: float = 86_400.0) -> list[Any]:
    """What every process says, in their order; JSON. All of them have to call it, and it waits for the last."""
    global _told
    if not several():
        return [value]
    _told += 1
    mine = f"alignjax/told/{_told}"
    _client().key_value_set(f"{mine}/{jax.process_index()}", json.dumps(value))
    read = lambda p: json.loads(_client().blocking_key_value_get(f"{mine}/{p}", int(1000 * seconds)))
    return [read(process) for process in range(jax.process_count())]


def first(value: Any) -> Any:
    """What process 0 says; JSON."""
    return everyone(value if is_first() else None)[0]


def same(name: str, value: Any) -> None:
    """Raises: UsageError if not all processes say the same."""
    said = everyone(value)
    for process, other in enumerate(said):
        if other != said[0]:
            raise UsageError(f"{name} must be the same in all processes: {_difference(said[0], other, process)}")


def _difference(zero: Any, other: Any, process: int) -> str:
    if isinstance(zero, dict) and isinstance(other, dict):
        names = [name for name in {**zero, **other} if zero.get(name) != other.get(name)]
        return "; ".join(
            f"{name} is {zero.get(name)!r} in process 0 and {other.get(name)!r} in process {process}" for name in names
        )
    return f"{zero!r} in process 0 and {other!r} in process {process}"


def preempted(step: int) -> bool:
    """Whether a process was sent SIGTERM and all of them have agreed to stop at this step. Called at every step."""
    from jax.experimental import multihost_utils

    return several() and bool(multihost_utils.reached_preemption_sync_point(step))


# --- ending together

_begun = mmap.mmap(-1, 1)
"""1 once a run has something to save. Seen by the parent of `run` as well."""
_NOTHING_YET = b"python -m tpu train: stopped by SIGTERM before it began to train: there was nothing to save\n"


def begin() -> None:
    """From here on SIGTERM is up to the run, which saves itself."""
    _begun[0] = 1


@contextlib.contextmanager
def _ends_at_once() -> Iterator[None]:
    """Until `begin`, SIGTERM ends this process with 75. The signal itself wakes a thread that does it: the main one may
    be compiling or reading, where it handles nothing.
    """
    _begun[0] = 0
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGTERM, lambda number, frame: _end_at_once())
    woken = signal.set_wakeup_fd(write)
    threading.Thread(target=_listen_for_sigterm, args=(read,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
        os.close(write)


def _listen_for_sigterm(read: int) -> None:
    while number := os.read(read, 1):
        if number[0] == signal.SIGTERM:
            _end_at_once()
    os.close(read)


def _end_at_once() -> None:
    if not _begun[0]:
        os.write(2, _NOTHING_YET)
        os._exit(RESTART)


def run(processes: Processes, work: Callable[[], int]) -> int:
    """`work()` as a part of the run of several processes; its exit status. A process alone just works.

    The work is done in a child, so that an abort by the runtime ends with the status 75. SIGTERM before `begin` does.
    """
    if not processes.several:
        with _ends_at_once():
            return work()
    _begun[0] = 0
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return _waited_for(child, processes)
    _dies_with_parent()
    started = False
    try:
        start(processes)
        started = True
        threading.Thread(target=_listen, daemon=True).start()
        return work()
    except BaseException as error:
        if started and several():
            _end_all(error, processes.lost_after)
        raise


def _waited_for(child: int, processes: Processes) -> int:
    """The exit status of the run; signals go on to the child."""
    nothing_yet = False

    def pass_on(number: int, frame: Any) -> None:
        nonlocal nothing_yet
        nothing_yet |= number == signal.SIGTERM and not _begun[0]
        with contextlib.suppress(ProcessLookupError):  # the runtime would only note it
            os.kill(child, signal.SIGKILL if nothing_yet else number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGTERM or (nothing_yet and status == -signal.SIGKILL):
        os.write(2, _NOTHING_YET)
        return RESTART
    if status == -signal.SIGABRT:
        who = "" if processes.process_id is None else f" {processes.process_id}"
        print(
            f"python -m tpu train: process{who}: another process of the run was lost (see above); "
            "with --resume the run goes on from its newest checkpoint",
            file=sys.stderr,
        )
        return RESTART
    return status if status >= 0 else 128 - status


def _dies_with_parent() -> None:
    """Linux: SIGKILL when the parent is gone, so that a killed parent leaves no child behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def exit_status(error: BaseException) -> int:
    """That of the command line for an error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return USAGE if isinstance(error, UsageError | checks.UnknownName) else FAILED


_leaving = threading.Lock()


def _end_all(error: BaseException, lost_after: int) -> None:
    """Tells the others, and makes sure that nothing waits for them later."""
    if _is_of_the_runtime(error):
        # Another process is gone, most likely, or about to say why: then this one is ended in the midst of it.
        time.sleep(lost_after + _PATIENCE)
    status = exit_status(error)
    _leaving.acquire()
    told = {"process": jax.process_index(), "status": status, "says": f"{type(error).__name__}: {error}"}
    try:
        _client().key_value_set(_ENDED, json.dumps(told))
    except Exception:  # another one was faster
        pass
    _all_know()
    atexit.register(_leave, status)  # before JAX's own, which waits for everyone


def _all_know() -> None:
    try:
        _client().wait_at_barrier(_ALL_KNOW, int(1000 * _PATIENCE))
    except Exception:  # one of them is stuck: it ends when this one is gone
        pass
    if jax.process_index() == 0:
        time.sleep(0.5)  # the coordinator leaves last


def _leave(status: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # a full disk, a reader that has left
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _listen() -> None:
    """Ends this process when another one says that it failed."""
    while True:
        time.sleep(0.5)
        try:
            told = json.loads(_client().key_value_try_get(_ENDED))
        except Exception:  # nothing yet
            continue
        if not _leaving.acquire(timeout=_PATIENCE):
            return
        if told["process"] != jax.process_index():
            print(
                f"python -m tpu train: process {told['process']} ended the run, status {told['status']}: "
                f"{told['says']}",
                file=sys.stderr,
            )
        _all_know()
        _leave(told["status"])


def _is_of_the_runtime(error: BaseException | None) -> bool:
    """Whether an error is what a collective says when a process is gone."""
    words = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "oordination", "Socket closed", "Connection", "arrier", "NCCL")
    while error is not None:
        if any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False
