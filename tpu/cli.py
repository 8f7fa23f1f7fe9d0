"""`python -m tpu`: the command line. Alone it lists what there is."""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import alignjax
from alignjax import checks
from tpu.arguments import FAILED, OK, USAGE, Failed, Parser, UsageError
from tpu.commands import commands


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="python -m tpu", description="Language models. Alone it lists what there is.", allow_abbrev=False)
    top.add_argument("--json", action="store_true", help="list what there is as one JSON object")
    known = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, module in commands().items():
        module.add_arguments(
            known.add_parser(
                name,
                help=module.SAYS,
                description=inspect.getdoc(module.run) or module.SAYS,
                epilog=getattr(module, "EPILOG", None),
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
        )
    return top


def listing() -> dict[str, Any]:
    """What there is, as plain data."""
    from alignjax import lm
    from tpu.tasks import TASKS

    methods = {name: {"says": m.says, "reads": list(m.reads)} for name, m in alignjax.methods.items()}
    says = {name: module.SAYS for name, module in commands().items()}
    tasks = {name: says for name, (_, says) in TASKS.items()}
    return {"commands": says, "models": list(lm.PRESETS), "tasks": tasks, "methods": methods}


def _print_listing() -> None:
    there = listing()
    print("python -m tpu COMMAND --help\n\ncommands")
    for name, says in there["commands"].items():
        print(f"  {name:18} {says}")
    print(f"\nmodels\n  {', '.join(there['models'])}, or a Hugging Face folder\n\ntasks")
    for name, says in there["tasks"].items():
        print(f"  {name:18} {says}")
    print("\nmethods")
    for name, method in there["methods"].items():
        print(f"  {name:18} {method['says']}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (by default that of the process) and returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = "python -m tpu"
    try:
        if given and not given[0].startswith("-"):
            given[0] = checks.member("command", given[0], commands())
            name += f" {given[0]}"
            expand = getattr(commands()[given[0]], "expand", None)
            given[1:] = given[1:] if expand is None else expand(given[1:])
        options = parser().parse_args(given)
        if options.command is not None:
            status: int = commands()[options.command].run(options)
            return status
        if options.json:
            print(json.dumps(listing()))
        else:
            _print_listing()
        sys.stdout.flush()
        return OK
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else OK
    except BrokenPipeError:  # whoever reads has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except Failed as error:
        print(f"{name}: failed: {error}", file=sys.stderr)
        return FAILED
    except (UsageError, checks.UnknownName) as error:
        print(f"{name}: error: {error} (see {name} --help)", file=sys.stderr)
        return USAGE
