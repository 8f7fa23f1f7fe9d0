"""`python -m tpu flags`."""

import argparse
import dataclasses
import json

from alignjax import checks
from tpu.arguments import OK, UsageError

SAYS = "compiler flags that hide communication, each with its reason"
EPILOG = """eval "$(python -m tpu flags --chip v5e --shell)" sets them, before JAX starts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `flags`."""
    parser.add_argument("--chip", metavar="NAME", help="v4, v5e, v5p, v6e or gpu (default: all)")
    parser.add_argument("--shell", action="store_true", help="one line of shell that sets them; needs --chip")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Lists the XLA and libtpu flags for latency hiding and asynchronous collectives."""
    from tpu import xla_flags

    if options.shell and options.chip is None:
        raise UsageError("--shell needs --chip")
    try:
        chips = list(xla_flags.VARIABLES) if options.chip is None else [options.chip]
        found = {chip: xla_flags.flags(chip) for chip in chips}
    except checks.UnknownName as error:
        raise UsageError(f"--chip: {error}") from None
    if options.shell:
        print(xla_flags.shell(options.chip))
    elif options.json:
        print(json.dumps({
            chip: {"variable": xla_flags.VARIABLES[chip], "flags": [dataclasses.asdict(flag) for flag in flags]}
            for chip, flags in found.items()
        }))  # fmt: skip
    else:
        for flag in dict.fromkeys(flag for flags in found.values() for flag in flags):
            where = f"{', '.join(flag.chips)}, in {xla_flags.VARIABLES[flag.chips[0]]}"
            print(f"{flag}\n  {where}: {flag.why}\n  {flag.source}")
    return OK
