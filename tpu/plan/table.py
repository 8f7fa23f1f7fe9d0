"""docs/plans.md: models, slices and what a method holds beside the policy, from plans that are kept or made.

python -m tpu.plan.table docs/plans.md            makes what is not kept: half an hour and more
python -m tpu.plan.table docs/plans.md --kept     leaves it out
"""

import sys
from collections.abc import Callable, Sequence

from tpu.layouts import words as mesh_words
from tpu.plan import cache
from tpu.plan.chips import GIB
from tpu.plan.planning import Plan
from tpu.plan.program import Request

BESIDE = {
    "the policy alone": {"method": "dpo", "precomputed": "reference"},
    "a reference": {"method": "dpo"},
    "a reference and two opponents": {"method": "td_mnpo"},
}
"""What the program holds beside the policy -> such a request."""

SLICES: tuple[tuple[str, str, int, tuple[int, int, int]], ...] = (
    ("llama3.2-1b", "v5e:4x4", 1, (128, 128, 128)),
    ("llama3-8b", "v5e:4x4", 1, (32, 32, 16)),
    ("llama3-8b", "v5e:4x4", 2, (64, 64, 32)),
    ("llama3-8b", "v5e:8x8", 1, (64, 64, 64)),
    ("llama3-70b", "v5p:4x4x2", 1, (128, 128, 64)),
)
"""Model, slice, how many of them, and prompts for each of `BESIDE`."""

HEAD = (
    "model", "slices", "beside the policy", "prompts", "arguments GiB", "peak GiB", "Tflop executed", "needed",
    "GB on ICI", "GB on DCN", "s, serial", "MFU serial", "scheduled", "overlapped", "wires hidden", "compile, CPU s",
)  # fmt: skip

TEXT = """# Plans

Written by `python -m tpu.plan.table docs/plans.md`. All numbers are of one chip and one step: 2,048 tokens, two
responses to a prompt, float32 weights and Adam, a reference in bfloat16 and opponents in float32, full
rematerialisation, flash attention; log-probs of what is not there come with the data. What the numbers mean and how
they are made: [pods.md](pods.md). A combination that is not in the table has not been compiled.

*Serial* overlaps nothing: operations one after the other, and then all collectives. *Scheduled* plays the schedule of
the compiled program: of a collective, what lies between its start and its end is hidden, and how much of all of them
that is stands under *wires hidden*. *Overlapped* hides everything behind the longest of compute, HBM and wires. All
three are roofline bounds; nothing here has run on a TPU. The last column is processor time, all cores together; the
`compile_seconds` of `plan` are those of a clock.

For some sizes the compiler sums gradients over fsdp by all-reduce, which is twice the bytes of a scatter (fsdp=64 of 8B
on v5e:8x8, fsdp=32 of 70B on v5p:4x4x2); a plan says so, and another mesh may be quicker.
"""


def rows() -> list[tuple[str, Request]]:
    """(what is beside the policy, request) of every line."""
    return [
        (words, Request(model=model, topology=topology, slices=slices, batch=batch, **given))  # type: ignore[arg-type]
        for model, topology, slices, batches in SLICES
        for (words, given), batch in zip(BESIDE.items(), batches, strict=True)
    ]


def cells(beside: str, request: Request, plan: Plan) -> list[str]:
    """A line of the table."""
    chip, details, roof = plan.per_chip, plan.details, plan.details["roofline_seconds"]
    slices = request.topology if request.slices == 1 else f"{request.slices} x {request.topology}"
    start = [request.model, f"{slices} {mesh_words(details['mesh'])}", beside, str(request.batch)]
    capacity = f"{chip.hbm_capacity_bytes / GIB:.4g}"
    start += [f"{chip.argument_bytes / GIB:.1f}", f"{chip.peak_hbm_bytes / GIB:.1f} of {capacity}"]
    if not plan.fits:
        empty = [""] * (len(HEAD) - len(start) - 2)
        return [*start, "does not fit", *empty, f"{plan.compile_cpu_seconds:.0f}"]
    between = chip.collective_bytes.get("data/dcn", 0)
    within = sum(chip.collective_bytes.values()) - between
    return [
        *start, f"{chip.flops / 1e12:,.0f}", f"{chip.model_flops / 1e12:,.0f}", f"{within / 1e9:.0f}",
        f"{between / 1e9:.1f}" if between else "", f"{roof['serial']:.3f}", f"{plan.mfu:.1%}",
        f"{details['mfu_scheduled']:.1%}", f"{details['mfu_overlapped']:.1%}", f"{details['wires_hidden']:.0%}",
        f"{plan.compile_cpu_seconds:.0f}",
    ]  # fmt: skip


def page(plan: Callable[[Request], Plan | None]) -> str:
    """docs/plans.md; a line whose plan is None is left out."""
    made = [(words, request, found) for words, request in rows() if (found := plan(request)) is not None]
    return TEXT + "\n" + table([cells(*each) for each in made]) + "\n"


def table(lines: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *lines))


def main(arguments: Sequence[str]) -> int:
    """Writes the page, or prints how it is asked for; the exit status."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    files = [one for one in arguments if one != "--kept"]
    if len(files) != 1 or files[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    kept = lambda request: cache.read(cache.key(request))
    text = page(kept if "--kept" in arguments else cache.planned)
    with open(files[0], "w", encoding="utf-8") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
