"""`python -m tpu plan`."""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tpu.arguments import FAILED, OK, Failed, UsageError, whole

if TYPE_CHECKING:
    from tpu.plan.search import Found

SAYS = "what a training step would need on a TPU slice: compiled for it, on a machine that has none"
EPILOG = """Exit status: 0 it fits, 1 it does not fit (the plan is printed) or failed, 2 it cannot be planned. Plans
are kept in .cache/plans. See docs/pods.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `plan`."""
    parser.add_argument("--model", required=True, metavar="NAME", help="a preset, a config.json, or its folder")
    parser.add_argument("--topology", required=True, metavar="SLICE", help="v5e:4x4, v5p:4x4x8, v4:..., v6e:...")
    parser.add_argument(
        "--slices", type=whole(1), default=1, metavar="N", help="of that topology, over DCN (default: 1)"
    )
    parser.add_argument("--method", default="dpo", metavar="NAME", help="(default: dpo)")
    parser.add_argument(
        "--batch", type=_batch, default=0, metavar="B", help="prompts of the global batch (default: auto, what fits)"
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
    from tpu.plan import cache
    from tpu.plan.program import Request
    from tpu.plan.search import search

    request = Request(
        model=options.model, topology=options.topology, slices=options.slices, method=options.method,
        batch=options.batch, seq=options.seq, mesh=options.mesh, precomputed=options.precomputed, remat=options.remat,
        accumulate=options.accumulate, optimizer=options.optimizer, history=options.history,
        reference_dtype=options.reference_dtype,
    )  # fmt: skip
    say: Callable[[str], None] = (lambda _: None) if options.json else lambda text: print(text, file=sys.stderr)
    planned = functools.partial(cache.planned, fresh=options.fresh)
    try:
        if options.batch and options.search is None:
            if options.fresh or cache.read(cache.key(request)) is None:
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
    if options.json:
        print(json.dumps(plan.plain(details=options.details) | {"batch": request.batch}))
    else:
        _print(plan, request)
    return OK if plan.fits else FAILED


def _batch(text: str) -> int:
    """An argument type: prompts, or 0 or `auto`: as many as fit."""
    return 0 if text == "auto" else whole(0)(text)


def _print_search(found: Sequence["Found"], combinations: int, dropped: int, as_json: bool) -> int:
    rows = [each.plain() for each in found]
    if as_json:
        print(json.dumps({"combinations": combinations, "dropped_by_hand_counts": dropped, "ranked": rows}))
    else:
        print(f"{combinations} combinations; {dropped} dropped because hand counts do not fit; {len(rows)} compiled\n")
        print("  ms a sequence  MFU serial  scheduled  peak GiB  prompts  layout")
        for row in rows:
            words = [row["mesh"], f"remat={row['remat']}", f"accumulate={row['accumulate']}"]
            words += [f"{row['precomputed']} log-probs beforehand"] * (row["precomputed"] != "none")
            words += ["DOES NOT FIT"] * (not row["fits"])
            print(
                f"  {1e3 * row['seconds_per_sequence']:13.2f}  {row['mfu']:10.1%}  {row['mfu_scheduled']:9.1%}"
                f"  {row['peak_hbm_bytes'] / 2**30:8.2f}  {row['batch']:7}  {', '.join(words)}"
            )
    return OK if any(row["fits"] for row in rows) else FAILED


def _print(plan: Any, request: Any) -> None:
    from tpu.plan.chips import GIB

    chip, roof = plan.per_chip, plan.details["roofline_seconds"]
    gib = lambda size: f"{size / GIB:8.2f} GiB"
    print(
        f"{plan.params / 1e9:.3f}B parameters on {plan.chips} chips, "
        f"{request.batch} prompts, {plan.details['tokens']:,} tokens a step\n"
    )
    for name, size in plan.details["argument_bytes"].items():
        print(f"  {name:22}{gib(size)}")
    print(f"  {'arguments':22}{gib(chip.argument_bytes)}\n  {'temporaries':22}{gib(chip.temp_bytes)}")
    fits = "fits" if plan.fits else "DOES NOT FIT"
    print(f"  {'peak':22}{gib(chip.peak_hbm_bytes)} of {gib(chip.hbm_capacity_bytes).strip()}: {fits}\n")
    print(f"  {'flops':22}{chip.flops / 1e12:8.2f} T, of which the model needs {chip.model_flops / 1e12:.2f} T")
    for name, size in plan.details["collectives"].items():
        if size >= 1e6:
            print(f"  {name:22}{size / 1e9:8.3f} GB")
    print()
    for name, seconds in roof.items():
        print(f"  {name:22}{1e3 * seconds:8.1f} ms")
    print(
        f"  {'MFU':22}{plan.mfu:8.1%} serial, "
        f"{plan.details['mfu_scheduled']:.1%} as the compiler schedules it, "
        f"{plan.details['mfu_overlapped']:.1%} with full overlap"
    )
    print(
        f"  {'compiled in':22}{plan.compile_seconds:8.1f} s, {plan.details['compile_cpu_seconds']:.0f} s of processor\n"
    )
    for line in plan.assumptions:
        print(f"* {line}")
