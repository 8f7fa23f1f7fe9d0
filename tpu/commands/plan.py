"""`python -m tpu plan`."""

import argparse
import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tpu.arguments import FAILED, OK, Failed, UsageError, whole

if TYPE_CHECKING:
    from tpu.plan.planning import Plan
    from tpu.plan.program import Request
    from tpu.plan.search import Found

SAYS = "what a training step would need on a TPU slice: compiled for it, on a machine that has none"
EPILOG = """Exit status: 0 it fits, 1 it does not fit (the plan is printed; where nothing fits, the least by hand
counts) or failed, 2 it cannot be planned. Plans are kept in .cache/plans. See docs/pods.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `plan`."""
    parser.add_argument("--model", required=True, metavar="NAME", help="a preset, a config.json, or its folder")
    parser.add_argument("--topology", required=True, metavar="SLICE", help="v5e:4x4, v5p:4x4x8, v4:..., v6e:...")
    parser.add_argument(
        "--slices", type=whole(1), default=1, metavar="N", help="of that topology, over DCN (default: 1)"
    )
    parser.add_argument("--method", default="dpo", metavar="NAME", help="(default: dpo)")
    parser.add_argument(
        "--batch",
        type=_batch,
        default=0,
        metavar="B",
        help="prompts of the global batch, or auto: the most that fit (the default)",
    )
    parser.add_argument(
        "--search", nargs="?", type=whole(1), const=4, metavar="N",
        help="try layouts, remat, micro-batches and log-probs beforehand; compile the best N by hand (4), and rank",
    )  # fmt: skip
    parser.add_argument("--seq", type=whole(2), default=2048, metavar="T", help="tokens of a sequence (default: 2048)")
    parser.add_argument("--mesh", metavar="AXES", help="e.g. fsdp=8,tensor=2 (default: the widest fsdp that fits)")
    parser.add_argument(
        "--precomputed", nargs="?", const="reference", default="none", metavar="WHOSE",
        help="log-probs that come with the data: reference (so without a word), or all: opponents' too (default: none)",
    )  # fmt: skip
    parser.add_argument("--remat", default="full", metavar="NAME", help="none, dots or full (default: full)")
    parser.add_argument("--accumulate", type=whole(1), default=1, metavar="N", help="micro-batches (default: 1)")
    parser.add_argument("--optimizer", default="adamw", metavar="NAME", help="as in training (default: adamw)")
    parser.add_argument(
        "--reference-dtype", default="bfloat16", metavar="NAME", help="of a frozen reference (default: bfloat16)"
    )
    parser.add_argument("--history", type=whole(1), default=2, metavar="J", help="opponents (default: 2)")
    parser.add_argument("--fresh", action="store_true", help="compile even if the plan was made before")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--details", action="store_true", help="with --json: the roofline and every collective as well")


def run(options: argparse.Namespace) -> int:
    """Compiles the real training step ahead of time for a TPU slice, and says what it needs of each chip."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs; a chip that is here stays free
    from tpu.launch.machines import slice_of
    from tpu.layouts import words
    from tpu.plan import cache, planning, target
    from tpu.plan.program import Request
    from tpu.plan.search import search
    from tpu.plan.train_flags import train_flags

    request = Request(
        model=options.model, topology=options.topology, slices=options.slices, method=options.method,
        batch=options.batch, seq=options.seq, mesh=options.mesh, precomputed=options.precomputed, remat=options.remat,
        accumulate=options.accumulate, optimizer=options.optimizer, history=options.history,
        reference_dtype=options.reference_dtype,
    )  # fmt: skip
    say: Callable[[str], None] = (lambda _: None) if options.json else lambda text: print(text, file=sys.stderr)
    planned = functools.partial(cache.planned, fresh=options.fresh)
    try:
        slice_of(options.topology)  # one that is offered
        if options.batch and options.search is None:
            if options.fresh or cache.read(cache.key(request)) is None:
                planning.looked_up(request)
                target.need_libtpu()
                say("compiling; 1B takes a minute or two, 8B some minutes")
            plan = planned(request)
        else:
            wide = options.search is not None
            found, combinations, dropped = search(request, planned, tries=options.search or 1, wide=wide, say=say)
            if wide:
                return _print_search(found, combinations, dropped, options.json)
            request, plan = found[0].request, found[0].plan
    except LookupError as error:
        if isinstance(error, KeyError):
            raise
        raise Failed(str(error)) from None
    except OSError as error:
        raise UsageError(f"--model {error.filename}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    flags = train_flags(dataclasses.replace(request, mesh=words(plan.details["mesh"])))
    if options.json:
        more = {"batch": request.batch, "train_flags": flags}
        print(json.dumps(plan.plain(details=options.details) | more))
    else:
        _print(plan, request, flags)
    return OK if plan.fits else FAILED


def _batch(text: str) -> int:
    """An argument type: prompts, or `auto`, which is 0: as many as fit."""
    try:
        return 0 if text == "auto" else whole(1)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be auto, or an integer >= 1; got {text!r}") from None


def _print_search(found: Sequence["Found"], combinations: int, dropped: int, as_json: bool) -> int:
    rows = [each.plain() for each in found]
    if as_json:
        print(json.dumps({"combinations": combinations, "dropped_by_hand_counts": dropped, "ranked": rows}))
    else:
        compiled = f"{len(rows)} compiled" if dropped < combinations else "the least of them, by hand"
        print(f"{combinations} combinations; {dropped} dropped because hand counts do not fit; {compiled}\n")
        print("  ms a sequence  MFU serial  scheduled  peak GiB  prompts  layout")
        for row in rows:
            parts = [row["mesh"], f"remat={row['remat']}", f"accumulate={row['accumulate']}"]
            parts += [f"{row['precomputed']} log-probs beforehand"] * (row["precomputed"] != "none")
            parts += ["DOES NOT FIT"] * (not row["fits"])
            print(
                f"  {1e3 * row['seconds_per_sequence']:13.2f}  {row['mfu']:10.1%}  {row['mfu_scheduled']:9.1%}"
                f"  {row['peak_hbm_bytes'] / 2**30:8.2f}  {row['batch']:7}  {', '.join(parts)}"
            )
        print(f"\nthe first, as flags of train: {shlex.join(rows[0]['train_flags'])}")
    return OK if any(row["fits"] for row in rows) else FAILED


def _print(plan: "Plan", request: "Request", flags: Sequence[str]) -> None:
    chip, roof = plan.per_chip, plan.details["roofline_seconds"]
    line = lambda name, text: print(f"  {name:22}{text:>12}")
    print(
        f"{plan.params:,} parameters on {plan.chips} chips, "
        f"{request.batch} prompts, {plan.details['tokens']:,} tokens a step\n"
    )
    for name, size in plan.details["argument_bytes"].items():
        if name != "other" or abs(size) >= 0.001 * chip.argument_bytes:
            line(name if name != "other" else "padding, other", _bytes(size))
    line("arguments", _bytes(chip.argument_bytes))
    line("temporaries", _bytes(chip.temp_bytes))
    fits = "fits" if plan.fits else "DOES NOT FIT"
    print(f"  {'peak':22}{_bytes(chip.peak_hbm_bytes):>12} of {_bytes(chip.hbm_capacity_bytes)}: {fits}")
    if chip.program_bytes:
        line("program, beside it", _bytes(chip.program_bytes))
    flops, needed = _scaled(chip.flops, "", 1e3), _scaled(chip.model_flops, "", 1e3)
    print(f"\n  {'flops':22}{flops:>12}, of which the model needs {needed}")
    said = plan.details["collectives"]
    for name, size in said.items():
        if size >= 0.001 * max(said.values()):
            line(name, _scaled(size, "B", 1e3))
    print()
    for name, seconds in roof.items():
        line(name, _seconds(seconds))
    print(
        f"  {'MFU':22}{plan.mfu:>12.1%} serial, "
        f"{plan.details['mfu_scheduled']:.1%} as the compiler schedules it, "
        f"{plan.details['mfu_overlapped']:.1%} with full overlap"
    )
    if plan.compile_seconds:
        print(
            f"  {'compiled in':22}{plan.compile_seconds:10.1f} s by the clock, "
            f"{plan.compile_cpu_seconds:.0f} s of processor"
        )
    logps = "" if request.precomputed == "none" else "\n  and --ref-logps: files of `python -m tpu logprobs`"
    print(f"\nas flags of train, whose defaults are others:\n  {shlex.join(flags)}{logps}\n")
    for text in plan.assumptions:
        print(f"* {text}")


def _scaled(value: float, unit: str, base: float) -> str:
    """1234567 B -> "1.23 MB"; `base` 1024 is for bytes of memory, "1.18 MiB"."""
    size, power = abs(value), 0
    while size >= base and power < 5:
        size, power = size / base, power + 1
    prefix = " kMGTP"[power].strip() if base == 1e3 else ["", "Ki", "Mi", "Gi", "Ti", "Pi"][power]
    return f"{'-' * (value < 0)}{size:.{2 if power else 0}f} {prefix}{unit}".rstrip()


def _bytes(size: float) -> str:
    return _scaled(size, "B", 1024.0)


def _seconds(seconds: float) -> str:
    """0.01234 -> "12.34 ms"."""
    unit, scale = ("s", 1.0) if seconds >= 1 or not seconds else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{seconds * scale:.2f} {unit}"
