"""A compiled program as XLA prints it: computations of operations, and how often each of them runs.

XLA's own cost analysis counts the body of a loop once. Here totals are folded over the call graph: the body of a
`while` as often as it runs, of a conditional the dearest branch.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Totals = collections.Counter[str]
"""What was counted -> how much of it."""

BYTES = {"pred": 1, "s2": 1, "u2": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
         "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}  # fmt: skip
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_FAST = re.compile(r"S\([1-9]\d*\)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of one array."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool
    """It lies in the chip's own memory (VMEM, SMEM, flags), not in HBM."""

    @property
    def size(self) -> int:
        """Entries."""
        size = 1
        for d in self.dims:
            size *= d
        return size

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self.size * BYTES.get(self.dtype, 1 if self.dtype.startswith("f8") else 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One operation."""

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    """Of its results."""
    operands: tuple[str, ...]
    inner: str
    """What stands between its parentheses."""
    rest: str
    """Its attributes."""

    @property
    def bytes(self) -> int:
        """Of all results."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.rest)
        return None if found is None else found[1]

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """The computation that it is made of, or calls."""
        found = re.search(r"\b(?:calls|to_apply)=%([\w.\-]+)", self.rest)
        return () if found is None else (found[1],)


Computation = Mapping[str, Op]
"""name -> operation, in order; the last is the root unless `Program.roots` says otherwise."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A module: computations by name, of each the name of its root, and the entry."""

    computations: Mapping[str, Computation]
    roots: Mapping[str, str]
    entry: str

    def called(self, op: Op) -> Computation:
        """The computation that a fusion, a call or an asynchronous start runs."""
        return self.computations[op.called[0]] if op.called else {}

    def trips(self, loop: Op, within: Computation) -> int:
        """How often the body of a `while` runs.

        Raises: ValueError if the program does not tell.
        """
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known is not None:
            return int(known)
        condition, body = (loop.attribute(rf"{part}=%([\w.\-]+)") or "" for part in ("condition", "body"))
        bounds = list(self._integers(condition))
        if not bounds:
            raise ValueError(f"the loop {loop.name} runs as often as its data say")
        counter = next((op.attribute(r"index=(\d+)") for op in self.computations[condition].values()
                        if op.kind == "get-tuple-element"), "0")  # fmt: skip
        rest = max(bounds) - self._start(loop, within, int(counter or 0))
        return max(-(-rest // self._step(body, int(counter or 0))), 0)

    def _integers(self, name: str) -> Iterator[int]:
        for op in self.computations[name].values():
            if (value := _integer(op)) is not None:
                yield value
            for inner in op.called:
                yield from self._integers(inner)

    def _start(self, loop: Op, within: Computation, counter: int) -> int:
        """The value that the counter starts at: 0 unless the program shows another constant."""
        start = within.get(loop.operands[0])
        if start is None or start.kind != "tuple":
            return 0
        return _integer(_through_copies(within, start.operands[counter])) or 0

    def _step(self, body: str, counter: int) -> int:
        """How much is added to the counter in a round: 1 unless the program shows another constant."""
        inside = self.computations[body]
        root = inside[self.roots[body]]
        following = _through_copies(inside, root.operands[counter]) if root.kind == "tuple" else None
        if following is None or following.kind != "add":
            return 1
        steps = [_integer(_through_copies(inside, name)) for name in following.operands]
        return next((step for step in steps if step), 1)

    def totals(
        self, count: Callable[[Op, Computation], Totals], dearest: Callable[[Any], float] = Totals.total
    ) -> Totals:
        """`count` of every operation, as often as it runs; of a conditional the dearest branch.

        `count` is asked of the operations of every computation that runs on its own. What it says of a fusion is final:
        it looks inside by itself.
        """

        @functools.cache
        def of(name: str) -> Totals:
            total: Totals = collections.Counter()
            computation = self.computations[name]
            for op in computation.values():
                total.update(count(op, computation))
                if op.kind == "while":
                    times = self.trips(op, computation)
                    body = op.attribute(r"body=%([\w.\-]+)")
                    total.update({k: v * times for k, v in of(body or "").items()})
                elif op.kind == "conditional":
                    total.update(max((of(branch) for branch in branches(op)), key=dearest))
                elif op.kind in ("call", "async-start"):
                    for inner in op.called:
                        total.update(of(inner))
            return total

        return of(self.entry)


def _integer(op: Op | None) -> int | None:
    """The value of an integer constant."""
    if op is None or op.kind != "constant" or not re.fullmatch(r"-?\d+", op.inner.strip()):
        return None
    return int(op.inner)


def _through_copies(within: Computation, name: str) -> Op | None:
    op = within.get(name)
    while op is not None and op.kind in ("copy", "bitcast"):
        op = within.get(op.operands[0])
    return op


def branches(op: Op) -> list[str]:
    """The computations that a conditional chooses from."""
    listed = op.attribute(r"branch_computations=\{([^}]*)\}")
    if listed is not None:
        return _NAME.findall(listed)
    return [name for part in ("true", "false") if (name := op.attribute(rf"{part}_computation=%([\w.\-]+)"))]


def parse(text: str) -> Program:
    """`compiled.as_text()` as a `Program`. Raises: ValueError if there is no entry."""
    computations: dict[str, dict[str, Op]] = {}
    roots: dict[str, str] = {}
    entry = current = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            if line.endswith("{") and ("->" in line):
                current = _NAME.search(line)[1]  # type: ignore[index]
                computations[current] = {}
                entry = current if line.startswith("ENTRY") else entry
            elif line.startswith("}"):
                current = ""
        elif current and " = " in line:
            op = _op(line)
            computations[current][op.name] = op
            if line.lstrip().startswith("ROOT "):
                roots[current] = op.name
    if not entry:
        raise ValueError("the text of the program has no entry computation")
    return Program(computations, roots, entry)


def _op(line: str) -> Op:
    left, right = line.strip().removeprefix("ROOT ").split(" = ", 1)
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    start = right.index("(", end)
    stop = _closing(right, start)
    inner = right[start + 1 : stop]
    shapes = tuple(
        Shape(dtype, tuple(int(d) for d in dims.split(",") if d), bool(_FAST.search(layout)))
        for dtype, dims, layout in _ARRAY.findall(right[:end])
    )
    return Op(
        left.removeprefix("%"), right[end:start].strip(), shapes, tuple(_NAME.findall(inner)), inner, right[stop + 1 :]
    )


def _closing(text: str, at: int) -> int:
    """Where the bracket that opens at `at` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, at):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"a bracket does not close in {text[:80]!r}")
