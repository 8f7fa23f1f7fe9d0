"""What of its collectives a compiled program hides: its own schedule, played on one core and the wires of each axis.

A TPU program is printed in the order in which it runs. Work on the core is done one operation after the other; a
collective that is started goes on by itself, one after the other on the wires of its axis, and the operation that ends
it waits. A collective that is not split into start and end makes the core wait for all of it. Copies between memories
are left on the core, though they run by themselves: what is hidden is not made too much of.
"""

import collections
import functools
from collections.abc import Callable, Mapping

from tpu.plan.hlo import Computation, Op, Program, Totals, branches

Count = Callable[[Op, Computation], float]
Said = Callable[[Op], Totals]
Wires = Callable[[str, float], float]


def scheduled_seconds(program: Program, core: Count, said: Said, wires: Wires) -> float:
    """How long one run takes, in seconds.

    Args:
      core: seconds of an operation on the core.
      said: the collectives that an operation starts, "kind axis" -> bytes.
      wires: seconds that so many bytes of "kind axis" take.
    """

    @functools.cache
    def of(name: str) -> float:
        computation = program.computations[name]
        ends = _ends(program, computation)
        starts = set(ends.values())
        now, free = 0.0, collections.defaultdict[str, float](float)
        arrives: dict[str, float] = {}
        for op in computation.values():
            if op.kind == "while":
                now += program.trips(op, computation) * of(op.attribute(r"body=%([\w.\-]+)") or "")
            elif op.kind == "conditional":
                now += max(map(of, branches(op)))
            elif op.kind in ("call", "async-start"):
                now += sum(map(of, op.called))
            if op.name in ends:
                now = max(now, arrives.get(ends[op.name], 0.0))
            for kind, size in said(op).items():
                axis = kind.split()[1]
                free[axis] = max(free[axis], now) + wires(kind, size)
                arrives[op.name] = max(arrives.get(op.name, 0.0), free[axis])
            if op.name not in starts:
                now = max(now, arrives.get(op.name, 0.0))
            now += core(op, computation)
        return now

    return of(program.entry)


def _ends(program: Program, computation: Computation) -> Mapping[str, str]:
    """The operation that ends a collective -> the one that started it.

    `all-gather-done(%all-gather-start)`; between slices `recv-done` ends what `send` began; and where a collective is
    carried along in fusions, the one that has `AsyncCollectiveDone` ends what the fusion with `AsyncCollectiveStart`
    began, which stands at the other end of its operands.
    """
    sent = {key: op.name for op in computation.values() if op.kind == "send" and (key := _rendezvous(op))}
    found: dict[str, str | None] = {}
    for op in computation.values():
        if op.kind == "recv-done":
            found[op.name] = sent.get(_rendezvous(computation[op.operands[0]]) or "")
        elif op.kind.endswith("-done") and op.kind != "send-done":
            found[op.name] = op.operands[0]
        elif op.kind == "fusion" and _has(program, op, "AsyncCollectiveDone"):
            found[op.name] = _start(program, computation, op)
    return {end: start for end, start in found.items() if start is not None}


def _rendezvous(op: Op) -> str | None:
    return op.attribute(r'_xla_host_transfer_rendezvous="([^"]*)"')


def _has(program: Program, op: Op, mark: str) -> bool:
    return any(f'"{mark}"' in each.rest for each in program.called(op).values())


def _start(program: Program, computation: Computation, done: Op) -> str | None:
    """The nearest fusion with `AsyncCollectiveStart` among what the operands come from."""
    queue, seen = collections.deque(done.operands), set()
    while queue:
        name = queue.popleft()
        op = computation.get(name)
        if op is None or name in seen:
            continue
        seen.add(name)
        if op.kind == "fusion" and _has(program, op, "AsyncCollectiveStart"):
            return name
        if op.kind in ("fusion", "get-tuple-element", "bitcast", "opt-barrier"):
            queue.extend(op.operands)
    return None
