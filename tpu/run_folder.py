"""The folder of a run: what is in it, who writes into it, whether it is the run that is resumed."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tpu.arguments import UsageError
from tpu.distributed import first, is_first
from tpu.remote import SmallFiles, is_url, reached
from tpu.run_config import differences

FILES = ("config.json", "config.yaml", "metrics.jsonl", "eval.jsonl", "samples.jsonl", "timing.jsonl")
FOLDERS = ("checkpoints", "model", "tensorboard")
"""What a run writes into its folder; with `nan-*` where its loss was not finite."""
EXPORTED = SmallFiles.LAST
"""In the folder of the model: after how many updates it was written."""
LOCK = ".lock"
"""Locked by the process that writes into the folder; says which that is, or was."""
WAIT = 120.0
"""Seconds that a run waits for another one to let go of its folder: one that is dying; one on a host that was lost,
whose locks NFS keeps for 90."""

_held: set[Path] = set()
"""The locks of this process."""


@contextlib.contextmanager
def held(out: Any) -> Iterator[None]:
    """Within, no other run writes into the folder, which is made if it is not there. Of several processes the first one
    holds it, and all wait for it. One that this process holds already stays held. A bucket is not locked.

    Raises: OSError; UsageError, naming the holder, if it is held by another process for `WAIT` seconds from now on.
    """
    with _locked(Path(out)) if is_first() and not is_url(out) else contextlib.nullcontext():
        first(None)
        yield


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    path = (out / LOCK).resolve()
    if path in _held:
        yield
        return
    with open(path, "a+", encoding="utf-8") as file:  # closing it lets go, and so does whatever ends the process
        _wait_for(file, path, out)
        with contextlib.suppress(OSError):  # a full disk: the name is for the message alone
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)


def _wait_for(file: IO[str], path: Path, out: Path) -> None:
    """Until the lock is this process's. It is one of POSIX: not inherited, so that no child keeps it for the dead."""
    until, told = time.monotonic() + WAIT, False
    while True:
        try:
            return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(f"warning: {path} cannot be locked ({error.strerror}): see that no other run writes into {out}",
                      file=sys.stderr)  # fmt: skip
                return
        file.seek(0)
        holder = file.read().strip() or "another process"
        if time.monotonic() >= until:
            raise UsageError(
                f"--out {out} is written into by {holder}: stop that run, or name another folder "
                f"(if its host is gone and the lock is not, delete {path})"
            )
        if not told:
            print(f"{out} is written into by {holder}; waiting up to {WAIT:g} s for it to end", file=sys.stderr)
        told = True
        time.sleep(0.1)


def holds_a_run(out: Any) -> bool:
    """Whether there is anything in a folder that a run wrote and that another would overwrite."""
    return any((out / name).exists() for name in FILES) or any(any((out / name).glob("*")) for name in FOLDERS)


def prepare_out(out: Any, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder and tries to write into it; of several processes the first one does, and all wait for it.

    Raises: OSError; UsageError if the folder holds a run that is neither to be resumed nor overwritten.
    """
    if is_first():
        with reached(out):
            _prepare(out, resume, overwrite)
    first(None)


def _prepare(folder: Any, resume: bool, overwrite: bool) -> None:
    from etils import epath

    out = epath.Path(folder)
    if holds_a_run(out):
        if overwrite and not resume:
            for name in FILES:
                (out / name).unlink(missing_ok=True)
            for there in (*(out / name for name in FOLDERS), *out.glob("nan-state-*")):
                there.rmtree(missing_ok=True)
            for file in out.glob("nan-batch-*.npz"):
                file.unlink()
        elif not resume:
            raise UsageError(
                f"--out {out} holds a run; go on with it by --resume, delete it by --overwrite, or name another folder"
            )
    if not is_url(out):  # a bucket has no folders
        out.mkdir(parents=True, exist_ok=True)
    probe = out / ".writable"
    probe.write_bytes(b"")
    probe.unlink()


def check_same_run(
    out: Any, identity: Mapping[str, Any], described: Mapping[str, Any], record: Mapping[str, Any] | None
) -> list[str]:
    """What may move the last bits: another mesh, other micro-batches, other versions.

    Raises: UsageError, naming each difference, if what is resumed is another run than what is there.
    """
    try:
        with reached(out):
            written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    there = written.get("identity") if record is None else record.get("identity")
    there = {name: value for name, value in (there or {}).items() if name != "accumulate"}  # as earlier runs have it
    found = differences(there, identity) if there else []
    if found:
        raise UsageError(f"--resume: {out} holds another run: {'; '.join(found)}")
    both = [n for n in ("mesh", "accumulate", "remat", "versions", "devices") if n in written and n in described]
    moved = differences({n: written[n] for n in both}, {n: described[n] for n in both})
    return [f"{change}; the last bits may differ from those of a run that was not cut off" for change in moved]


def write(path: Path, text: str) -> None:
    """In one move, so that no reader and no crash finds half of it."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def exported_steps(model: Path) -> int | None:
    """After how many updates the model in a folder was written."""
    try:
        steps: int = json.loads((model / EXPORTED).read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError):
        return None
    return steps
