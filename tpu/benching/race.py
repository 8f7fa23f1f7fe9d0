"""What benchmarks share: a line of a table, clocks, a rival in another interpreter, and what the machine can do."""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

Told = Mapping[str, Any]
"""How long a run took: `seconds` by the clock, `cpu` of all threads, `tokens`."""


class NotMeasured(RuntimeError):
    """Why a number could not be had; said in the table, and no failure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One measured number."""

    what: str
    """The workload."""
    who: str
    value: float | None
    """The median; None where it was not measured, and `note` says why."""
    unit: str
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    """Ours over this one's, so that more than 1 is better."""
    limit: float | None = None
    """What the machine could do at best, in the same unit."""
    aim: str = ""
    note: str = ""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, "", {})}


def not_measured(what: str, who: str, unit: str, why: object, aim: str = "") -> Line:
    """The line that says so."""
    return Line(what=what, who=who, value=None, unit=unit, aim=aim, note=f"not measured: {why}")


def clocked(run: Callable[[], Any], tokens: int = 0) -> Callable[[], Told]:
    """A function of JAX as a contender."""

    def once() -> Told:
        at, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        return {"seconds": time.perf_counter() - at, "cpu": time.process_time() - cpu, "tokens": tokens}

    return once


def take_turns(contenders: Mapping[str, Callable[[], Told]], repeats: int) -> dict[str, list[Told]]:
    """Each once without counting, then `repeats` rounds one after the other, so that a busy moment hits all alike."""
    for run in contenders.values():
        run()
    found: dict[str, list[Told]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            found[name].append(run())
    return found


def rate_lines(what: str, told: Mapping[str, Sequence[Told]], ours: str, **facts: Any) -> list[Line]:
    """Tokens a second of each contender, and ours over theirs."""
    rates = {name: sorted(one["tokens"] / one["seconds"] for one in runs) for name, runs in told.items()}
    median = {name: statistics.median(values) for name, values in rates.items()}
    work = {name: statistics.median(one["cpu"] / one["tokens"] for one in runs) for name, runs in told.items()}
    lines = []
    for name, values in rates.items():
        lines.append(
            Line(
                what=what, who=name, value=median[name], unit="tokens/s", low=values[0], high=values[-1],
                ratio=None if name == ours else median[ours] / median[name],
                limit=facts.get("limit") if name == ours else None, aim=facts.get("aim", "") if name != ours else "",
                note=facts.get("notes", {}).get(name, ""),
                more={"cpu_seconds_per_1000_tokens": 1e3 * work[name],
                      **({} if name == ours else {"ratio_of_cpu_seconds": work[name] / work[ours]})},
            )
        )  # fmt: skip
    return lines


# --- a rival in another interpreter


class Rival:
    """`in_torch.py` at work; call it for one run. Raises: NotMeasured if it cannot start or breaks off."""

    def __init__(self, python: str | None, job: Mapping[str, Any], needs: Sequence[str]) -> None:
        if python is None and not all(find_spec(name) for name in needs):
            raise NotMeasured(f"{' and '.join(needs)} are not installed here (see --trl-python)")
        script = Path(__file__).with_name("in_torch.py")
        command = [python or sys.executable, str(script), json.dumps(job)]
        self._errors = tempfile.TemporaryFile("w+")
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
        except OSError as error:
            self._errors.close()
            raise NotMeasured(f"{python}: {error.strerror}") from None
        try:
            self.versions: Mapping[str, str] = self._heard()["versions"]
        except NotMeasured:
            self.close()
            raise

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise NotMeasured((self._errors.read().strip().splitlines() or ["the rival ended without a word"])[-1])
        found: dict[str, Any] = json.loads(line)
        return found

    def __call__(self) -> Told:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_heard` has its last words
        return self._heard()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()


def beside_rival(
    what: str, ours: Callable[[], Told], rival: str, start: Callable[[], Rival], repeats: int, aim: str, limit: float
) -> list[Line]:
    """The lines of "alignjax" and of a rival taking turns; where the rival cannot start, the line that says why."""
    contenders, missing, notes, other = {"alignjax": ours}, [], {}, None
    try:
        other = contenders[rival] = start()
        notes[rival] = ", ".join(f"{name} {version}" for name, version in other.versions.items())
    except NotMeasured as error:
        missing = [not_measured(what, rival, "tokens/s", error, aim)]
    try:
        told = take_turns(contenders, repeats)
    finally:
        if other is not None:
            other.close()
    return [*rate_lines(what, told, "alignjax", limit=limit, aim=aim, notes=notes), *missing]


# --- what the machine can do


@dataclasses.dataclass(frozen=True)
class Machine:
    """Measured in the same run, by the programs that any code here could be at best."""

    flops: float
    """Of a large product, a second."""
    bytes: float
    """Read from memory, a second: of a sum over an array that no cache holds."""


def machine(repeats: int = 5, size: int = 2048, mebibytes: int = 512) -> Machine:
    """The best of a few runs; on an accelerator products are of bfloat16."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    long = jnp.ones((mebibytes * 2**20 // 4,), jnp.float32)
    total = jax.jit(jnp.sum)
    best = lambda run: min(one["seconds"] for one in take_turns({"": clocked(run)}, repeats)[""])
    return Machine(2 * size**3 / best(lambda: product(a)), long.nbytes / best(lambda: total(long)))
