"""What a run of two processes survives: each fault done to one and the same run, and counted.

python tests/tpu/faults.py                  # 20 kills of one process, and the other faults: about an hour on 2 cores
python tests/tpu/faults.py --docs           # ... and the table into docs/faults.md
python tests/tpu/faults.py --kills 2 --once # in small
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.tpu import kill  # noqa: E402
from tests.tpu.processes import LOST_AFTER, Together, finish  # noqa: E402

INTERVAL = 5
"""Updates between two checkpoints."""
RESTART = 75
DEVICES, MESH = 4, "data=2,fsdp=2"
"""Of two processes together: `fsdp` within each, `data` across."""
GROUP = (
    "--method", "dpo", "--data", str(kill.PAIRS), "--batch", "8", "--save-every", str(INTERVAL), "--no-save-async",
    "--eval-prompts", "0", "--lr", "0.0003", "--buckets", "1", "--no-checks",
)  # fmt: skip


@dataclasses.dataclass
class Fault:
    """What was done, so many times, and what it cost."""

    name: str
    times: int = 0
    lost: list[int] = dataclasses.field(default_factory=list)
    """Updates made again, each time."""
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Until the last process had ended."""
    statuses: set[int] = dataclasses.field(default_factory=set)
    """Of the processes that were not killed."""
    differing: str = "0"
    """Of the bits of metrics.jsonl and, at the end, of the weights."""


class Victim:
    """One run of two processes, the one that the faults are done to."""

    def __init__(self, out: Path, arguments: Sequence[str], rng: random.Random) -> None:
        self.out, self.arguments, self.rng = out, (*arguments, "--mesh", MESH), rng
        self.made = 0
        """Updates, as far as it ever came."""

    def start(self, **how: int) -> Together:
        return Together(self.out, self.arguments, 2, devices=DEVICES, **how)

    def until(self, together: Together, done: Callable[[], bool]) -> None:
        """Waits for something, or for the end of a process."""
        while together.running() and not done():
            time.sleep(0.002)

    def end(self, together: Together, fault: Fault, began: float, killed: Sequence[int] = ()) -> None:
        """Waits for all to end, and notes what it took; the next start says what was lost."""
        statuses = together.wait(120 + 10 * LOST_AFTER)
        fault.times += 1
        fault.seconds.append(time.monotonic() - began)
        fault.statuses |= {status for i, status in enumerate(statuses) if i not in killed}
        self.made = max(self.made, kill.rows(self.out))  # a start may have cut them, to make them again

    def go_on(self, fault: Fault | None, further: int) -> Together:
        """Starts again and runs until `further` updates are made beyond those that were; notes what was lost."""
        before, together = self.made, self.start()
        begun = lambda: re.search(r"resumed after (\d+) updates", together.said())
        self.until(together, lambda: begun() is not None or (not before and kill.rows(self.out) > 0))
        found = begun()
        if fault is not None and (found is not None or not before):
            fault.lost.append(before - int(found[1]) if found else 0)
        self.until(together, lambda: kill.rows(self.out) >= before + further)
        return together

    def checkpoints(self) -> list[int]:
        """Steps of the whole ones."""
        folder = self.out / "checkpoints"
        return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


def differing_rows(first: Path, second: Path) -> int:
    """Bits of metrics.jsonl that differ, of the rows that both have."""
    one, other = ((out / "metrics.jsonl").read_bytes().splitlines() for out in (first, second))
    return sum(bits(a, b) for a, b in zip(one, other, strict=False))


def bits(first: bytes, second: bytes) -> int:
    """How many differ."""
    short = min(len(first), len(second))
    both = zip(first[:short], second[:short], strict=True)
    return sum((a ^ b).bit_count() for a, b in both) + 8 * abs(len(first) - len(second))


def corrupt(step: Path) -> None:
    """Turns some bytes of the largest file of a checkpoint's arrays over."""
    largest = max((p for p in (step / "state").rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    with open(largest, "r+b") as file:
        size = largest.stat().st_size
        file.seek(size // 3)
        found = file.read(size // 3)
        file.seek(size // 3)
        file.write(bytes(255 - byte for byte in found))


def run_all(base: Path, kills: int, *, once: bool, seed: int, say: Callable[[str], None]) -> list[Fault]:
    """Every fault, in a folder; raises AssertionError where the run does not survive one."""
    rng = random.Random(seed)
    few = 1 if once else 3
    steps = INTERVAL * (2 * kills + 4 * few + 8)
    arguments = (*GROUP, "--model", str(kill.small_model(base / "model")), "--steps", str(steps))
    whole = base / "whole"
    began = time.monotonic()
    finish(whole, (*arguments, "--mesh", MESH), devices=DEVICES)
    say(f"left alone: {steps} updates in {time.monotonic() - began:.0f} s")
    victim = Victim(base / "victim", arguments, rng)
    found: list[Fault] = []

    def noted(fault: Fault) -> None:
        count = differing_rows(whole, victim.out)
        fault.differing = str(count)
        assert count == 0, f"{fault.name}: {count} bits of metrics.jsonl differ"
        assert max(fault.lost, default=0) <= INTERVAL, f"{fault.name}: more updates lost than an interval has: {fault}"
        found.append(fault)
        say(f"{fault}")

    fault, previous = Fault("SIGKILL to one of two processes, at random moments"), None
    for number in range(kills):
        if number and rng.random() < 0.1:  # while it starts
            together = victim.start()
            time.sleep(rng.uniform(0.0, 20.0))
        else:
            together = victim.go_on(previous, rng.randint(2, 9))
            time.sleep(rng.uniform(0.0, 0.3))
        if not together.running():
            together.wait()
            raise AssertionError(f"it ended by itself: {together.said()}")
        who = rng.randrange(2)
        moment = time.monotonic()
        together.signal(who, signal.SIGKILL)
        victim.end(together, fault, moment, [who])
        previous = fault
        took = f"the other ended in {fault.seconds[-1]:.1f} s"
        say(f"  kill {number + 1}: process {who}, after {victim.made} updates; {took}")
    together = victim.go_on(fault, 1)
    noted(fault)

    fault = Fault("SIGKILL to both while a checkpoint is written")
    while fault.times < few:
        before = victim.checkpoints()
        victim.until(together, lambda: bool(kill.writing(victim.out)))
        moment = time.monotonic()
        for who in (0, 1):
            together.signal(who, signal.SIGKILL)
        inside = bool(kill.writing(victim.out)) and victim.checkpoints() == before
        victim.end(together, fault, moment, [0, 1])
        fault.times -= not inside  # it was faster: that was no such kill
        together = victim.go_on(fault if inside else None, 1)
    fault.seconds = []
    noted(fault)

    for who in (0, 1):
        fault = Fault(f"SIGTERM to process {who}")
        moment = time.monotonic()
        together.signal(who, signal.SIGTERM)
        victim.end(together, fault, moment)
        assert victim.made in victim.checkpoints(), "no checkpoint of the last update"
        assert f"stopped by SIGTERM after {victim.made} of" in together.said()
        if who == 1:
            # And the newest checkpoint, which holds all, is broken.
            lost = Fault("newest checkpoint corrupted", times=1)
            newest, older = victim.made, victim.checkpoints()[-2]
            shutil.copytree(victim.out, base / "elsewhere")
            corrupt(victim.out / "checkpoints" / str(newest))
            together = victim.go_on(lost, 1)
            said = f"the checkpoint of step {newest} is broken"
            assert said in together.said() and f"going on from the one of step {older}" in together.said()
            fault.lost.append(0)
            noted(fault)
            noted(lost)
        else:
            together = victim.go_on(fault, 3)
            noted(fault)

    fault = Fault("no space left on the disk of one process")
    together.signal(0, signal.SIGKILL)
    together.wait()
    victim.made = max(victim.made, kill.rows(victim.out))
    for _ in range(few):
        moment = time.monotonic()
        together = victim.start(file_size=8)
        victim.end(together, fault, moment)
        assert "could not be written into" in together.said(), together.said()
        together = victim.go_on(fault, 1)
        together.signal(0, signal.SIGKILL)
        together.wait()
        victim.made = max(victim.made, kill.rows(victim.out))
    fault.seconds = []
    noted(fault)

    finish(victim.out, victim.arguments, devices=DEVICES)
    differ = kill.differing(whole, victim.out)
    assert differ == [], f"after all of it: {differ}"
    say("weights of the end: the same bits as those of the run that was left alone")
    return found if once else found + moved(base, arguments, steps)


def moved(base: Path, arguments: Sequence[str], steps: int) -> list[Fault]:
    """The run that was stopped by SIGTERM, gone on with on other meshes."""
    found = []
    short = list(arguments)
    for name, mesh, number in (("mesh data=1,fsdp=2,tensor=2", "data=1,fsdp=2,tensor=2", 2), ("one process", MESH, 1)):
        out = base / f"moved-{number}"
        shutil.copytree(base / "elsewhere", out)
        began = kill.rows(out)
        short[short.index("--steps") + 1] = str(min(steps, began + 4 * INTERVAL))
        said = finish(out, (*short, "--mesh", mesh), number, devices=DEVICES)
        assert f"resumed after {began} updates" in said
        read = lambda run: [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rows = [read(base / "whole"), read(out)]
        pairs = list(zip(*rows, strict=False))
        assert all(a["num_tokens"] == b["num_tokens"] for a, b in pairs), "other rows"
        worst = max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in pairs)
        differing = f"loss to {worst:.0e} over {len(rows[1]) - began} updates"
        found.append(Fault(f"restart with {name}", 1, [0], [], {0}, differing))
    return found


def table(faults: Sequence[Fault]) -> str:
    """Markdown."""
    lines = [
        "| fault | times | updates lost, each time (most) | status of the others | ended within | differing bits |",
        "|---|---|---|---|---|---|",
    ]
    for f in faults:
        lost = ", ".join(map(str, f.lost)) if f.lost else "-"
        seconds = f"{max(f.seconds):.1f} s" if f.seconds else "-"
        statuses = ", ".join(map(str, sorted(f.statuses))) or "-"
        most = f"{lost} ({max(f.lost, default=0)})" if len(f.lost) > 1 else lost
        lines.append(f"| {f.name} | {f.times} | {most} | {statuses} | {seconds} | {f.differing} |")
    return "\n".join(lines)


PAGE = """# Faults: what a run of two processes survives

`python tests/tpu/faults.py --docs` did all of this to one and the same DPO run: two processes of two virtual devices
each (`{mesh}`, gloo), a checkpoint every {interval} updates (`--no-save-async`), `--lost-after {lost}`. After each
fault the same command was started again. The bits are those of `metrics.jsonl` and of the weights at the end, against
a run that was left alone.

{table}

- **Updates lost** are those made again: at most the {interval} of one checkpoint interval. Without `--no-save-async` a
  run goes on while a checkpoint is written, and one that is killed just then loses those updates as well.
- Where a kill came before the run had gone on, the next number of the row is that of both kills.
- **Ended within**: from the fault to the end of the last process. A lost process 0 is noticed at once, another one when
  its heartbeat is missed for `--lost-after` seconds; an error on one process ends all with its status.
- On another mesh sums are in another order: the rows of every update are the same, the losses agree to rounding.
- In `make test-long` the same is done in small.
"""


def main() -> int:
    """Does it all, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of one of the two processes")
    parser.add_argument("--once", action="store_true", help="the other faults once each, on this mesh alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", action="store_true", help="write docs/faults.md")
    options = parser.parse_args()
    say = lambda line: print(line, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = run_all(Path(folder), options.kills, once=options.once, seed=options.seed, say=say)
    print(table(found))
    if options.docs:
        page = PAGE.format(mesh=MESH, interval=INTERVAL, lost=LOST_AFTER, table=table(found))
        (ROOT / "docs" / "faults.md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    sys.exit(main())
