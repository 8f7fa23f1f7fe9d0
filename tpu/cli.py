"""`python -m tpu`: the command line. Alone it lists what there is."""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import alignjax
from alignjax import checks
from alignjax.record import HYPERPARAMETERS, Method

OK, FAILED, USAGE = 0, 1, 2
COMMANDS: Mapping[str, str] = {"train": "train a language model with any method on a file of preferences"}


class UsageError(Exception):
    """What was asked for cannot be done; nothing was started."""


class Parser(argparse.ArgumentParser):
    """Errors are `UsageError`s, so that all are reported in one manner."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _whole(at_least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        try:
            return checks.whole("it", int(text), at_least)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer >= {at_least}, got {text!r}") from None

    return integer


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def hyperparameters_of(methods: Mapping[str, Method]) -> dict[str, dict[str, Any]]:
    """Every hyperparameter of every method: name -> {method: default}."""
    found: dict[str, dict[str, Any]] = {}
    for method in methods.values():
        for name, default in method.defaults.items():
            found.setdefault(name, {})[method.name] = default
    return dict(sorted(found.items()))


def _defaults(of: Mapping[str, Any]) -> str:
    """ "0.1; grpo, dr_grpo 0.04": the commonest default, and the methods that have another."""
    by_value: dict[Any, list[str]] = {}
    for name, value in of.items():
        by_value.setdefault(value, []).append(name)
    ranked = sorted(by_value.items(), key=lambda item: -len(item[1]))
    first = f"{ranked[0][0]}" if len(ranked) > 1 or len(of) > 4 else f"{', '.join(of)} {ranked[0][0]}"
    return "; ".join([first, *(f"{', '.join(names)} {value}" for value, names in ranked[1:])])


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="python -m tpu", description="Sharded training. Alone it lists what there is.", allow_abbrev=False
    )
    top.add_argument("--json", action="store_true", help="list what there is as one JSON object")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    train = commands.add_parser(
        "train",
        help=COMMANDS["train"],
        description="Train a language model with any method on a file of preferences. Responses come from the file, "
        "and so do opponents: the win-rate of a response is the preference for it over the other responses to its "
        "prompt, whatever law the method itself would draw them from.",
        epilog="Exit status: 0 done, 1 the run failed, 2 it could not start. Several virtual CPU devices: "
        "XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu python -m tpu train ...",
        allow_abbrev=False,
    )
    train.add_argument("--method", required=True, metavar="NAME", help="the objective; `python -m tpu` lists them")
    train.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="JSON lines with the columns prompt, chosen, rejected; or prompt, responses, preference (rewards)",
    )
    train.add_argument("--model", default="tiny", metavar="NAME", help="a preset (default: tiny)")
    train.add_argument("--steps", type=_whole(1), default=50, metavar="N", help="updates (default: 50)")
    train.add_argument("--batch", type=_whole(1), default=8, metavar="B", help="prompts per step (default: 8)")
    train.add_argument("--lr", type=_positive, default=1e-3, help="learning rate of Adam (default: 0.001)")
    train.add_argument("--seed", type=_whole(0), default=0, help="of the parameters and the order of rows (default: 0)")
    train.add_argument(
        "--max-length", type=_whole(2), metavar="T", help="of prompt and response in tokens (default: the model's)"
    )
    train.add_argument(
        "--mesh", metavar="AXES", help="e.g. data=4,tensor=2; axes data, fsdp, tensor (default: all devices on data)"
    )
    train.add_argument("--out", metavar="DIR", help="metrics, config and parameters (default: out/train-METHOD)")
    train.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    group = train.add_argument_group("hyperparameters", "by default those of the method")
    for name, of in hyperparameters_of(alignjax.methods).items():
        text = HYPERPARAMETERS[name][1] if name in HYPERPARAMETERS else f"of {', '.join(of)}"
        words = any(isinstance(default, str) for default in of.values())
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"hyper_{name}",
            type=str if words else _number,
            metavar="NAME" if words else "X",
            help=f"{text} (default: {_defaults(of)})".replace("%", "%%"),
        )
    return top


def listing() -> dict[str, Any]:
    """What there is, as plain data."""
    from alignjax import lm

    methods = {name: {"says": m.says, "reads": list(m.reads)} for name, m in alignjax.methods.items()}
    return {"commands": dict(COMMANDS), "models": list(lm.PRESETS), "methods": methods}


def _print_listing() -> None:
    there = listing()
    print("python -m tpu COMMAND --help\n\ncommands")
    for name, says in there["commands"].items():
        print(f"  {name:18} {says}")
    print(f"\nmodels\n  {', '.join(there['models'])}\n\nmethods")
    for name, method in there["methods"].items():
        print(f"  {name:18} {method['says']}")


def _plan(options: argparse.Namespace) -> Any:
    """A checked `Run`. Whatever is wrong with what was asked for is found here, before any work."""
    from alignjax import lm
    from tpu.loop import Run, prepare_out
    from tpu.mesh import make_mesh
    from tpu.train_step import loss_hyperparameters

    method = alignjax.methods[options.method]
    given = {n[len("hyper_") :]: v for n, v in vars(options).items() if n.startswith("hyper_") and v is not None}
    hyper = loss_hyperparameters(method, given)
    model = lm.preset(options.model)
    max_length = options.max_length or model.max_length
    if max_length > model.max_length:
        raise UsageError(f"--max-length {max_length} is more than the {model.max_length} that {options.model} takes")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = lm.read_preferences(options.data, max_length=max_length)
    except OSError as error:
        raise UsageError(f"--data {options.data}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"--data {error}") from None
    try:
        mesh = make_mesh(options.mesh)
    except ValueError as error:
        raise UsageError(f"--mesh: {error}") from None
    run = Run(
        method=method, hyper=hyper, model_name=options.model, model=model, data_path=str(options.data), data=data,
        batch_size=options.batch, steps=options.steps, learning_rate=options.lr, seed=options.seed, mesh=mesh,
        out=Path(options.out or f"out/train-{method.name}"),
    )  # fmt: skip
    try:
        prepare_out(run.out)
    except OSError as error:
        raise UsageError(f"--out {run.out}: {error.strerror or error}") from None
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return run


def _train(options: argparse.Namespace) -> int:
    import jax

    from tpu.loop import FailedRun, train

    try:
        run = _plan(options)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    try:
        summary = train(run)
    except (FailedRun, OSError, jax.errors.JaxRuntimeError) as error:
        print(f"python -m tpu train: failed: {error}", file=sys.stderr)
        return FAILED
    if options.json:
        print(json.dumps(summary))
        return OK
    speed = "" if summary["step_seconds"] is None else f", {1e3 * summary['step_seconds']:.0f} ms a step"
    print(
        f"{summary['method']}: {summary['steps']} steps in {summary['seconds']:.1f} s{speed}; "
        f"loss {summary['first_loss']:.4f} -> {summary['final_loss']:.4f}\n{run.out / 'metrics.jsonl'}"
    )
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (by default that of the process) and returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = "python -m tpu"
    try:
        first = next((one for one in given if not one.startswith("-")), None)
        if first is not None and first == given[0]:
            checks.member("command", first, COMMANDS)
            name += f" {first}"
        options = parser().parse_args(given)
        if options.command is None:
            if options.json:
                print(json.dumps(listing()))
            else:
                _print_listing()
            return OK
        return _train(options)
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else OK
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except (UsageError, checks.UnknownName) as error:
        print(f"{name}: error: {error} (see {name} --help)", file=sys.stderr)
        return USAGE
