"""`python -m tpu train`."""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import alignjax
from tpu.arguments import OK, Failed, UsageError, add_hyperparameters, positive, whole

SAYS = "train a language model with any method on a file of preferences"
EPILOG = """Exit status: 0 done, 1 the run failed, 2 it could not start. Several virtual CPU devices:
XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu python -m tpu train ..."""


def add_arguments(train: argparse.ArgumentParser) -> None:
    """The flags of `train`."""
    train.add_argument("--method", required=True, metavar="NAME", help="the objective; `python -m tpu` lists them")
    train.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="JSON lines with the columns prompt, chosen, rejected; or prompt, responses, preference (rewards)",
    )
    train.add_argument("--model", default="tiny", metavar="NAME", help="a preset (default: tiny)")
    train.add_argument("--steps", type=whole(1), default=50, metavar="N", help="updates (default: 50)")
    train.add_argument("--batch", type=whole(1), default=8, metavar="B", help="prompts per step (default: 8)")
    train.add_argument("--lr", type=positive, default=1e-3, help="learning rate of Adam (default: 0.001)")
    train.add_argument("--seed", type=whole(0), default=0, help="of the parameters and the order of rows (default: 0)")
    train.add_argument(
        "--max-length", type=whole(2), metavar="T", help="of prompt and response in tokens (default: the model's)"
    )
    train.add_argument(
        "--mesh", metavar="AXES", help="e.g. data=4,tensor=2; axes data, fsdp, tensor (default: all devices on data)"
    )
    train.add_argument("--out", metavar="DIR", help="metrics, config and parameters (default: out/train-METHOD)")
    train.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    add_hyperparameters(train, alignjax.methods)


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


def run(options: argparse.Namespace) -> int:
    """Train a language model with any method on a file of preferences.

    Responses come from the file, and so do opponents: the win-rate of a response is the preference for it over the
    other responses to its prompt, whatever law the method itself would draw them from.
    """
    import jax

    from tpu.loop import FailedRun, train

    try:
        planned = _plan(options)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    try:
        summary = train(planned)
    except (FailedRun, OSError, jax.errors.JaxRuntimeError) as error:
        raise Failed(str(error)) from None
    if options.json:
        print(json.dumps(summary))
        return OK
    speed = "" if summary["step_seconds"] is None else f", {1e3 * summary['step_seconds']:.0f} ms a step"
    print(
        f"{summary['method']}: {summary['steps']} steps in {summary['seconds']:.1f} s{speed}; "
        f"loss {summary['first_loss']:.4f} -> {summary['final_loss']:.4f}\n{planned.out / 'metrics.jsonl'}"
    )
    return OK
