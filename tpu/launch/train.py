"""The train flags of a job: parsed by `train`'s own parser, and checked against the number of devices."""

import math
from collections.abc import Sequence

from tpu import remote
from tpu.arguments import Parser, UsageError
from tpu.commands import train
from tpu.layouts import sizes_of, words
from tpu.run_config import Settings

OURS = ("--resume", "--distributed", "--coordinator", "--num-processes", "--process-id")
"""Flags that the recipe sets."""
NOT_HERE = ("--overwrite", "--replay", "--json")
"""Flags that make no sense in a job that is started again and again."""


def settings_of(given: Sequence[str], devices: int, slices: int = 1) -> Settings:
    """What the job trains. `given`: the flags behind `--`, without the word train.

    Raises: UsageError for flags that `train` does not take or that the recipe sets, for a run without --out, and for a
    mesh or a batch that does not divide over the devices.
    """
    for flag in given:
        name = flag.partition("=")[0]
        if name in OURS:
            raise UsageError(f"train flags: {name} is set by the recipe; leave it out")
        if name in NOT_HERE:
            raise UsageError(f"train flags: {name} has no place in a job that is started again by itself; leave it out")
    parser = Parser(prog="python -m tpu train", add_help=False, allow_abbrev=False)
    train.add_arguments(parser)
    try:
        settings = train.settings_of(parser.parse_args(train.expand(given)))
    except UsageError as error:
        raise UsageError(f"train flags: {error}") from None
    if not settings.out:
        raise UsageError("train flags: --out is needed: a path that every host sees, where the restarted job looks")
    try:
        for path in (settings.out, settings.model, *settings.data):
            remote.check(path)
    except UsageError as error:
        raise UsageError(f"train flags: {error}") from None
    try:
        sizes = sizes_of(settings.mesh, devices, slices)
    except (KeyError, ValueError) as error:
        raise UsageError(f"train flags: --mesh {settings.mesh}: {error}") from None
    if math.prod(sizes.values()) != devices:
        raise UsageError(
            f"train flags: --mesh {settings.mesh} has {math.prod(sizes.values())} devices, the job has {devices}"
        )
    parts = settings.accumulate * sizes["data"] * sizes["fsdp"]
    if settings.batch % parts:
        raise UsageError(
            f"train flags: --batch {settings.batch} does not divide over {words(sizes)}"
            f"{f' in {settings.accumulate} parts' if settings.accumulate > 1 else ''}; it must be a multiple of {parts}"
        )
    return settings
