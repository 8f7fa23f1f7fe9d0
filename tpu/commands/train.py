"""`python -m tpu train`."""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import alignjax
from tpu import remote
from tpu.arguments import OK, Failed, Parser, UsageError, add_hyperparameters, not_negative, positive, whole
from tpu.distributed import RESTART as PREEMPTED
from tpu.distributed import Processes, is_first, same
from tpu.distributed import run as in_processes
from tpu.run_config import DTYPES, Settings, as_arguments
from tpu.schedules import OPTIMISERS, SCHEDULES

SAYS = "train a language model with any method, on a file or on responses that it draws and a reward or judge scores"
EPILOG = """exit status
  0   done (also if it was done before), 1 the run failed, 2 it could not start (or another one writes into OUT),
      75 stopped by SIGTERM and saved, or before it had begun, or another process of the run was lost: a launcher
      runs the same command again. With --resume it is right for the
      first start as well. Several processes end together, with the status of the first one that fails.

files in OUT
  config.json, config.yaml   the run in full; the second is read by --config
  metrics.jsonl              one object per update; the same bytes whether the run was interrupted or not
  eval.jsonl, samples.jsonl  evaluations and generated texts; timing.jsonl what depends on the clock
  tensorboard/  checkpoints/<step>/  model/ (a Hugging Face folder, at the end)

Several processes, the same command in each but for the last number (OUT is in a bucket, or on a disk of all):
  python -m tpu train ... --resume --coordinator HOST:1234 --num-processes 2 --process-id 0

Several virtual CPU devices: XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu"""
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}


class _Flags:
    """Adds flags whose defaults are those of `Settings`; a flag that is not given is None."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser

    def __call__(self, name: str, says: str, **how: Any) -> None:
        default = DEFAULTS[name]
        if default not in (None, (), "", dataclasses.MISSING) and "(default" not in says:
            says = f"{says} (default: {default})"
        self.parser.add_argument(f"--{name.replace('_', '-')}", help=says.replace("%", "%%"), **how)


def add_arguments(train: argparse.ArgumentParser) -> None:
    """The flags of `train`."""
    one_of = lambda names: {"choices": sorted(names), "metavar": "NAME"}
    flag = _Flags(train)
    flag("method", "the objective, or sft or reward_model; `python -m tpu` lists them", required=True, metavar="NAME")
    columns = "JSONL or Parquet, also in gs://; prompt, chosen, rejected; prompt, responses, rewards; and so on"
    flag("data", columns, required=True, nargs="+", metavar="FILE")
    flag("model", "a preset, a run or a Hugging Face folder, also in gs://", metavar="DIR")
    out = "where everything is written: a folder, gs://BUCKET/PATH, or file:///PATH of a mounted bucket"
    flag("out", f"{out} (default: out/train-METHOD)", metavar="DIR")
    train.add_argument("--config", metavar="FILE", help="a YAML file of these settings; flags go before it")
    resume = (
        "go on with the run in OUT exactly; start it if it is not there. Settings that are not given are those of OUT"
    )
    train.add_argument("--resume", action="store_true", help=resume)
    train.add_argument("--overwrite", action="store_true", help="delete the run in OUT first")
    train.add_argument(
        "--replay", metavar="FILE", help="look at a batch that a loss was not finite on (nan-batch-*.npz)"
    )
    train.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")

    flag = _Flags(train.add_argument_group("optimisation"))
    flag("steps", "updates", type=whole(1), metavar="N")
    flag("batch", "prompts per update", type=whole(1), metavar="B")
    flag("accumulate", "micro-batches that an update is made of", type=whole(1), metavar="N")
    flag("lr", "learning rate (default: 1e-3 for a preset; 1e-6 for a folder, 1e-5 with adapters)", type=positive)
    flag("schedule", "; ".join(f"{name}: {says}" for name, says in SCHEDULES.items()), **one_of(SCHEDULES))
    flag("schedule_steps", "updates until a decay ends (default: --steps)", type=whole(1), metavar="N")
    flag("warmup", "updates over which the learning rate rises", type=whole(0), metavar="N")
    flag("optimizer", "; ".join(f"{name}: {says}" for name, says in OPTIMISERS.items()), **one_of(OPTIMISERS))
    flag("weight_decay", "of matrices, not of norms and biases", type=not_negative, metavar="X")
    flag("max_grad_norm", "global norm that gradients are scaled down to; 0: none", type=not_negative, metavar="X")
    flag("seed", "of parameters, order of rows and everything sampled", type=whole(0))

    flag = _Flags(train.add_argument_group("model and machine"))
    flag("dtype", "of the computation (default: that of the parameters)", **one_of(DTYPES))
    flag("param_dtype", "of the parameters that the optimiser updates", **one_of(DTYPES))
    flag("reference_dtype", "of a frozen reference (default: that of the parameters)", **one_of(DTYPES))
    flag("remat", "what the backward pass computes again: none, full, dots", **one_of(("none", "full", "dots")))
    flag("lora_rank", "train adapters of this rank; the reference does without them", type=whole(1), metavar="R")
    flag("lora_alpha", "their scale is alpha / rank (default: twice the rank)", type=positive, metavar="X")
    flag("mesh", "e.g. fsdp=4,tensor=2, or by name: fsdp+tensor (default: all devices on data)", metavar="AXES")

    _add_processes(train)

    flag = _Flags(train.add_argument_group("data"))
    flag("max_length", "tokens of prompt and response (default: the model's)", type=whole(2), metavar="T")
    flag("max_prompt_length", "tokens of a prompt (default: what leaves room)", type=whole(1), metavar="T")
    flag("buckets", "lengths at most that batches are padded to, each compiled once (default: 1 for a preset, else 4)",
         type=whole(1), metavar="N")  # fmt: skip
    flag("too_long", "what is done with longer prompts: drop, error, truncate_left",
         **one_of(("drop", "error", "truncate_left")))  # fmt: skip

    flag = _Flags(train.add_argument_group("reference and past policies"))
    flag("reference", "a model that is not the one trained (default: a frozen copy)", metavar="DIR")
    flag("ref_logps", "files of `python -m tpu logprobs`, in place of the models", nargs="+", metavar="FILE")
    flag("baseline", "a value of the prompt for methods that take one", **one_of(("none", "head", "running")))
    flag("history", "past policies that are kept, for methods that read them", type=whole(1), metavar="J")
    flag("iteration_steps", "updates after which anchor and history are renewed", type=whole(1), metavar="N")
    train.add_argument("--fixed-history", action=argparse.BooleanOptionalAction, help="they stay as they are")

    group = train.add_argument_group("online", "responses are drawn from the policy if a reward or a judge is named")
    flag = _Flags(group)
    flag("reward", "module:function, a reward model's folder, length, brevity, variety or vader; several: a vector",
         nargs="+", metavar="NAME")  # fmt: skip
    flag("judge", "module:function of P(first beats second), or longer, cyclic", metavar="NAME")
    flag("sampler", "who writes the responses (default: the method's own law)",
         **one_of(("policy", "reference", "previous", "mixture")))  # fmt: skip
    flag("num_responses", "to each prompt (default: the method's, or 4)", type=whole(1), metavar="K")
    flag("opponents", "samples of the opponent that a win-rate is estimated from", type=whole(1), metavar="N")
    flag("pool_size", "samples that quantiles are estimated from", type=whole(1), metavar="N")
    group.add_argument(
        "--hard-labels", action=argparse.BooleanOptionalAction, help="draw preferences as 0 or 1 by their probabilities"
    )
    flag("max_new_tokens", "of a response", type=whole(1), metavar="T")
    flag("temperature", "of sampling; part of the law", type=not_negative, metavar="X")
    flag("top_k", "sample from so many tokens", type=whole(1), metavar="K")
    flag("top_p", "sample from the likeliest tokens of this mass", type=positive, metavar="P")

    flag = _Flags(train.add_argument_group("checkpoints and evaluation"))
    flag("save_every", "updates between two checkpoints; 0: at the end only", type=whole(0), metavar="N")
    waits = "go on while a checkpoint is written; without it at most --save-every updates can be lost (default: yes)"
    train.add_argument("--save-async", action=argparse.BooleanOptionalAction, help=waits)
    flag("keep", "newest checkpoints that stay", type=whole(1), metavar="N")
    flag("keep_best", "a metric; its best checkpoint stays too. max:NAME or min:NAME (default: min for *loss)")
    flag("eval_every", "updates between two evaluations; 0: none", type=whole(0), metavar="N")
    flag("eval_data", "files to evaluate the loss on", nargs="+", metavar="FILE")
    flag("eval_prompts", "prompts to generate for at each evaluation", type=whole(0), metavar="N")
    checked = (
        "check at the start that policy and reference agree, that micro-batches add up, that each sequence begins once "
        "and its end is trained, that the tokenizer fits (default: yes)"
    )
    train.add_argument("--checks", action=argparse.BooleanOptionalAction, help=checked)
    add_hyperparameters(train, alignjax.methods)


def _add_processes(train: argparse.ArgumentParser) -> None:
    """Which processes make the run; no part of its settings."""
    group = train.add_argument_group("several processes", "each runs this command; together they are one run")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; the port is one that is free there")
    group.add_argument("--num-processes", type=whole(1), metavar="N", help="of the run")
    group.add_argument("--process-id", type=whole(0), metavar="I", help="this one, from 0")
    group.add_argument(
        "--distributed", action="store_true", help="find the three in the environment: Slurm, Open MPI, GKE, Cloud TPU"
    )
    lost = f"seconds without a sign of life after which a process is lost and the others end with 75 (default: {LOST})"
    group.add_argument("--lost-after", type=whole(1), default=LOST, metavar="SECONDS", help=lost)


PROCESSES = ("coordinator", "num_processes", "process_id", "distributed", "lost_after")
LOST = Processes.lost_after


# --- flags, YAML and the run that is there


def _early(given: Sequence[str]) -> argparse.Namespace:
    """What has to be known before the rest is read."""
    early = Parser(add_help=False, allow_abbrev=False)
    for name in ("--config", "--out", "--replay"):
        early.add_argument(name)
    early.add_argument("--resume", action="store_true")
    return early.parse_known_args(list(given))[0]


def _written(run: Any) -> tuple[str, str | None]:
    """The settings of a run: their file, and what it says."""
    file = run / "config.yaml"
    try:
        return str(file), remote.text_of(file)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


def expand(given: Sequence[str]) -> list[str]:
    """The arguments behind those of `--config`, or of the run that is resumed or looked at."""
    early = _early(given)
    path, text = early.config, None
    if path is None and early.replay is not None:
        path, text = _written(remote.place(early.replay).parent)
        if text is None:
            raise UsageError(f"--replay {early.replay} must be a file RUN/nan-batch-<step>.npz; there is no {path}")
    elif path is None and early.resume and early.out:
        path, text = _written(remote.place(early.out))
        path = None if text is None else path
    if path is None:
        if early.resume and not any(word.partition("=")[0] in ("--method", "--data") for word in given):
            raise UsageError(f"--resume: {early.out or 'no --out'} holds no run; to start one give --method and --data")
        return list(given)
    parser = Parser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    known = {}
    for action in parser._actions:
        for option in action.option_strings:
            known[option.removeprefix("--")] = action.nargs != 0
    for name in ("config", "resume", "overwrite", "replay", "json", *PROCESSES):
        known.pop(name.replace("_", "-"))
    try:
        return [*as_arguments(path, known, text), *given]
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def settings_of(options: argparse.Namespace) -> Settings:
    """What was asked for; what was not is as `Settings` has it."""
    given = {name: value for name, value in vars(options).items() if name in DEFAULTS and value is not None}
    hyper = {n[len("hyper_") :]: v for n, v in vars(options).items() if n.startswith("hyper_") and v is not None}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return Settings(**{**given, **lists, "hyper": hyper})


def run(options: argparse.Namespace) -> int:
    """Train a language model with any method of the registry, or with sft or reward_model.

    Responses come from the file; if a reward or a judge is named they are drawn from the policy, the reference or the
    mixture, as the method's own laws say. From a file opponents come as well: the win-rate of a response is the
    preference for it over the other responses to its prompt, whatever law the method would draw them from.

      python -m tpu train --method dpo --model tiny --data tpu/examples/pairs.jsonl --steps 100 --out out/dpo
      python -m tpu train --method rloo --model DIR --data prompts.jsonl --reward my_package.rewards:score --out out/rl
      python -m tpu train --out out/dpo --resume
    """
    if options.resume and options.overwrite:
        raise UsageError("--resume goes on with the run in OUT and --overwrite deletes it: give one of them")
    if options.out:
        remote.place(options.out)  # what it cannot be is told before anything is started
    processes = Processes(**{name: getattr(options, name) for name in PROCESSES})
    if processes.several and options.replay is not None:
        raise UsageError("--replay looks at a batch in one process")
    return in_processes(processes, functools.partial(_run, options))


def _run(options: argparse.Namespace) -> int:
    """The run, or this process's part of it."""
    import contextlib
    import logging

    import jax

    from tpu import loop, run_folder
    from tpu.assembly import assemble
    from tpu.rewards import FeedbackError

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax prints what is raised here as well
    settings = settings_of(options)
    same("the command", {name: getattr(settings, name) for name in ("accumulate", "remat", "mesh")})
    if options.replay is not None:
        from tpu.replay import replay

        print(replay(remote.place(options.replay), settings, as_json=options.json))
        return OK
    try:
        made = assemble(settings)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    quiet = options.json or not is_first()
    made.say = (lambda line: None) if quiet else print
    with contextlib.ExitStack() as until_the_end:
        try:
            until_the_end.enter_context(run_folder.held(made.out))
            run_folder.prepare_out(made.out, resume=options.resume, overwrite=options.overwrite)
        except OSError as error:
            raise UsageError(f"--out {settings.folder}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(str(error)) from None
        try:
            summary = loop.train(made, resume=options.resume)
        except loop.Preempted as stopped:
            if is_first():
                print(f"python -m tpu train: {stopped}", file=sys.stderr)
            return PREEMPTED
        except (FeedbackError, jax.errors.JaxRuntimeError) as error:
            raise Failed(str(error)) from None
    if not is_first():
        return OK
    if options.json:
        print(json.dumps(summary))
        return OK
    speed = "" if summary["step_seconds"] is None else f", {1e3 * summary['step_seconds']:.0f} ms a step"
    losses = " -> ".join(
        "?" if loss is None else f"{loss:.4f}" for loss in (summary["first_loss"], summary["final_loss"])
    )
    print(
        f"{summary['method']}: {summary['steps']} steps in {summary['seconds']:.1f} s{speed}; "
        f"loss {losses}\n{made.out / 'metrics.jsonl'}"
    )
    return OK
