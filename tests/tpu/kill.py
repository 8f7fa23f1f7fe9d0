"""Runs that are killed: `python -m tpu train` in a process of its own, SIGKILL at random moments, resumed, compared.

python tests/tpu/kill.py --kills 20        # prints each kill, and whether the bytes agree with those of a whole run
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAIRS = ROOT / "tpu" / "examples" / "pairs.jsonl"
SAME = ("metrics.jsonl", "eval.jsonl", "samples.jsonl", "model/model.safetensors")
"""Files that have to have the same bytes."""
DPO = (
    "--method", "dpo", "--data", str(PAIRS), "--steps", "40", "--batch", "4", "--save-every", "3", "--keep-best",
    "loss", "--eval-every", "13", "--eval-data", str(PAIRS), "--max-new-tokens", "8", "--mesh", "data=1",
)  # fmt: skip
ONLINE = (
    "--method", "reinforce", "--data", str(PAIRS), "--steps", "12", "--batch", "4", "--save-every", "2", "--reward",
    "length", "--max-new-tokens", "8", "--num-responses", "2", "--mesh", "data=1", "--baseline", "running",
)  # fmt: skip


def small_model(folder: Path) -> Path:
    """A Hugging Face folder of one small layer: little to compile."""
    import jax

    from alignjax import lm

    config = lm.DecoderConfig(d_model=16, d_mlp=16, num_layers=1, num_heads=2, max_length=96)
    lm.save(folder, config, lm.init(config, jax.random.key(0)), lm.ByteTokenizer())
    return folder


def start(out: Path, arguments: Sequence[str], file_size: int | None = None) -> subprocess.Popen[str]:
    """The command with --resume, in a process group of its own; no file may grow beyond `file_size` kB."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)  # one CPU device
    command = [sys.executable, "-m", "tpu", "train", "--out", str(out), *arguments, "--resume"]
    if file_size is not None:
        command = ["bash", "-c", f'ulimit -f {file_size}; exec "$0" "$@"', *command]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(out: Path, arguments: Sequence[str]) -> str:
    """Runs to the end; what it printed."""
    process = start(out, arguments)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def started(out: Path, arguments: Sequence[str], updates: int) -> subprocess.Popen[str]:
    """A run that has made so many updates, or has ended."""
    process = start(out, arguments)
    while process.poll() is None and rows(out) < updates:
        time.sleep(0.001)
    return process


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
    """Signals the process; what it had printed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    return process.communicate()[0]


def rows(out: Path) -> int:
    """Whole lines of metrics.jsonl."""
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def writing(out: Path) -> list[Path]:
    """Checkpoints that are being written."""
    return list((out / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def kill_at_random(out: Path, arguments: Sequence[str], rng: random.Random, most: int) -> str:
    """One kill: at a random moment of the start, or after a random number of further updates and a random wait."""
    process, began = start(out, arguments), rows(out)
    if rng.random() < 0.2:
        wait, target = rng.uniform(0.0, 4.0), None
    else:
        wait, target = rng.uniform(0.0, 0.2), rng.randint(1, most)
    while target is not None and process.poll() is None:
        now = rows(out)
        began = min(began, now)  # a resume cuts the file
        if now >= began + target:
            break
        time.sleep(0.001)
    time.sleep(wait)
    alive, there = process.poll() is None, bool(writing(out))
    kill(process)
    return f"killed after {rows(out)} updates{', in a checkpoint' if there else ''}" if alive else "it was done already"


def kill_in_checkpoint(out: Path, arguments: Sequence[str]) -> bool:
    """One kill while a checkpoint is being written; False if the run was faster."""
    process = start(out, arguments)
    while process.poll() is None and not writing(out):
        pass
    kill(process)
    return bool(writing(out))


def differing(first: Path, second: Path) -> list[str]:
    """The files of `SAME` whose bytes are not equal; one that neither has is no difference."""
    read = lambda out, name: (out / name).read_bytes() if (out / name).exists() else None
    return [name for name in SAME if read(first, name) != read(second, name)]


def main() -> int:
    """Kills one run so many times and compares it with one that was not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-checkpoint", type=int, default=3, help="of them, those while a checkpoint is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--online", action="store_true", help="REINFORCE, which samples, in place of DPO")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        arguments = (*(ONLINE if options.online else DPO), "--model", str(small_model(out / "model")), "--lr", "0.001")
        finish(out / "whole", arguments)
        done = inside = 0
        while done < options.kills:
            if inside < options.in_checkpoint:
                hit = kill_in_checkpoint(out / "killed", arguments)
                inside += hit
                done += hit
                print("killed in a checkpoint" if hit else "the checkpoint was faster", flush=True)
            else:
                said = kill_at_random(out / "killed", arguments, rng, 4)
                done += "done" not in said
                print(said, flush=True)
            if rows(out / "killed") >= int(arguments[arguments.index("--steps") + 1]):
                finish(out / "killed", arguments)
                print(
                    f"  whole: differing {differing(out / 'whole', out / 'killed') or 'nowhere'}; another run",
                    flush=True,
                )
                (out / "killed").rename(out / f"killed-{done}")
        finish(out / "killed", arguments)
        found = differing(out / "whole", out / "killed")
        print(f"{done} kills; differing: {', '.join(found) or 'nothing'}")
        return 1 if found else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
