"""The train flags of a job: parsed by `train`'s own parser, and checked by what `train` checks itself with, as far as
it can be without the files; and against the number of devices."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from alignjax import checks, lm
from tpu import adapters, layouts, remote
from tpu.arguments import Parser, UsageError
from tpu.asked import check_length, named
from tpu.bridge import Others
from tpu.commands import train
from tpu.rewards import JUDGES, REWARDS
from tpu.run_config import Settings
from tpu.schedules import make_optimiser, make_schedule
from tpu.train_step import Carried

OURS = ("--resume", "--distributed", "--coordinator", "--num-processes", "--process-id")
"""Flags that the recipe sets."""
NOT_HERE = ("--overwrite", "--replay", "--json")
"""Flags that make no sense in a job that is started again and again."""


def expanded(given: Sequence[str]) -> list[str]:
    """The flags with what a `--config` says in its place: the hosts have no such file. Raises: UsageError."""
    words = train.expand(given)
    kept, skip = [], False
    for word in words:
        if not skip and word != "--config" and not word.startswith("--config="):
            kept.append(word)
        skip = word == "--config"
    return kept


def settings_of(given: Sequence[str], devices: int, slices: int = 1) -> Settings:
    """What the job trains. `given`: the flags behind `--`, without the word train.

    Raises: UsageError for flags that `train` does not take or that the recipe sets, for a run without --out, for what
    `train` itself would refuse, and for a mesh or a batch that does not divide over the devices (a mesh that does not
    fit the model, where it is a preset).
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
        if not settings.out:
            raise UsageError("--out is needed: a path that every host sees, where the restarted job looks")
        with jax.enable_x64(False):  # as on the hosts
            _check(settings)
        _check_mesh(settings, devices, slices)
    except (UsageError, ValueError, TypeError) as error:
        raise UsageError(f"train flags: {error}") from None
    return settings


def read_by(settings: Settings) -> Iterator[tuple[str, str]]:
    """(flag, path) of all that the job reads from files; a preset is none."""
    models = [("--model", settings.model)]
    models += [("--reference", settings.reference)] if settings.reference is not None else []
    yield from ((flag, path) for flag, path in models if path not in lm.PRESETS)
    for flag, found in (
        ("--data", settings.data),
        ("--eval-data", settings.eval_data),
        ("--ref-logps", settings.ref_logps),
        ("--reward", [name for name in _rewards(settings) if _is_folder(name)]),
    ):
        yield from ((flag, path) for path in found)


def _rewards(settings: Settings) -> list[str]:
    """Rewards by name, those that the judge is made of among them."""
    kind, _, judged = (settings.judge or "").partition(":")
    given = (*settings.reward, judged) if kind == "bt" else settings.reward
    return [name.strip() for text in given for name in text.split(",")]


def _is_folder(name: str) -> bool:
    return "/" in name or Path(name).is_dir()


def _check(settings: Settings) -> None:
    """What `train` would refuse before it reads a file. Raises: UsageError, ValueError."""
    settings, method, hyper = named(settings)
    remote.check(settings.out)
    for flag, path in read_by(settings):
        if flag in ("--ref-logps", "--reward") and remote.is_url(path):
            raise UsageError(f"{flag} {path} must be a file or folder of a disk that every host sees")
        remote.check(path)
        if flag in ("--model", "--reference") and not _is_folder(path):
            lm.preset(path)  # as `train` has it: what is no folder must be one
    for name in _rewards(settings):
        if ":" not in name and not _is_folder(name):
            checks.member("reward (or give module:function)", name, REWARDS)
    if settings.judge is not None and ":" not in settings.judge:
        checks.member("judge (or give module:function)", settings.judge, JUDGES)
    rate = make_schedule(
        settings.schedule, settings.learning_rate(), settings.schedule_steps or settings.steps, settings.warmup
    )
    make_optimiser(settings.optimizer, rate, weight_decay=settings.weight_decay, clip=settings.max_grad_norm or None)
    if method is not None:
        history = 0 if settings.ref_logps else settings.history
        carried = Carried.by(method, history=history, baseline=settings.baseline)
        if settings.lora_rank is not None:
            adapters.others_of(Others(history={} if carried.history else None))
        if settings.online:
            _check_rollout(settings, method, hyper)


def _check_rollout(settings: Settings, method: Any, hyper: Any) -> None:
    """Whether the method has the reward or judge that it needs. Their functions are the hosts'; here they have none."""
    from tpu.rewards import Judge, Reward
    from tpu.rollout import Rollout, plan_of

    unknown: Callable[..., Any] = lambda *_: None
    Rollout(
        config=lm.preset("tiny"), method=method, hyper=hyper, tokenizer=None,
        plan=plan_of(method, settings.num_responses, settings.sampler),
        reward=Reward("", unknown) if settings.reward else None,
        judge=Judge("", unknown) if settings.judge else None,
    )  # fmt: skip


def _check_mesh(settings: Settings, devices: int, slices: int) -> None:
    """Raises: UsageError, ValueError."""
    try:
        sizes = layouts.sizes_of(settings.mesh, devices, slices)
    except (KeyError, ValueError) as error:
        raise UsageError(f"--mesh {settings.mesh}: {error}") from None
    if math.prod(sizes.values()) != devices:
        raise UsageError(f"--mesh {settings.mesh} has {math.prod(sizes.values())} devices, the job has {devices}")
    parts = settings.accumulate * sizes["data"] * sizes["fsdp"]
    if settings.batch % parts:
        raise UsageError(
            f"--batch {settings.batch} does not divide over {layouts.words(sizes)}"
            f"{f' in {settings.accumulate} parts' if settings.accumulate > 1 else ''}; it must be a multiple of {parts}"
        )
    if settings.model not in lm.PRESETS:
        return
    config = lm.preset(settings.model)
    check_length(settings, config)
    shapes = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    prompts = {"value": jax.ShapeDtypeStruct((settings.batch,), "float32")}

    def why_not(these: layouts.Sizes) -> str | None:
        return layouts.why_not(these, lm.logical_axes(config), shapes, prompts, accumulate=settings.accumulate)

    try:
        layouts.chosen(sizes, devices, why_not, slices=slices)
    except ValueError as error:
        raise UsageError(f"--mesh does not fit --model {settings.model}: {error}") from None
