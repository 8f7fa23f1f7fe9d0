"""The folder of a run: what is in it, whether it may be written into, whether it is the run that is resumed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpu.arguments import UsageError
from tpu.distributed import first, is_first
from tpu.remote import SmallFiles, is_url, reached
from tpu.run_config import differences

FILES = ("config.json", "config.yaml", "metrics.jsonl", "eval.jsonl", "samples.jsonl", "timing.jsonl")
FOLDERS = ("checkpoints", "model", "tensorboard")
"""What a run writes into its folder; with `nan-*` where its loss was not finite."""
EXPORTED = SmallFiles.LAST
"""In the folder of the model: after how many updates it was written."""


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
    """What may move the last bits: another mesh, other versions.

    Raises: UsageError, naming each difference, if what is resumed is another run than what is there.
    """
    try:
        with reached(out):
            written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    there = written.get("identity") if record is None else record.get("identity")
    found = differences(there, identity) if there else []
    if found:
        raise UsageError(f"--resume: {out} holds another run: {'; '.join(found)}")
    named = ("mesh", "versions", "devices")
    moved = [differences(written[n], described[n], f"{n}.") for n in named if n in written and n in described]
    return [
        f"{change}; the last bits may differ from those of a run that was not cut off" for m in moved for change in m
    ]


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
