"""What was asked of a run, checked before anything is read: numbers out of range, and settings without an effect."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax

import alignjax
from alignjax import checks, lm
from alignjax.lm.sampling_laws import check_settings
from alignjax.record import Method
from tpu.arguments import UsageError
from tpu.checkpoints import best_of
from tpu.run_config import Settings
from tpu.tasks import TASKS
from tpu.train_step import loss_hyperparameters

ONLINE = ("sampler", "num_responses", "opponents", "pool_size", "hard_labels")
"""Settings of those who write and judge the responses of an online run."""


def named(settings: Settings) -> tuple[Settings, Method | None, Mapping[str, Any]]:
    """The settings with the method's name as it is written, the method (None is one of the tasks), and its
    hyperparameters in full; all that can be checked of them without reading a file.

    Raises: UsageError, ValueError, UnknownName.
    """
    task_name = settings.method.replace("-", "_")
    known = [*alignjax.methods, *TASKS]
    method = None if task_name in TASKS else alignjax.methods[checks.member("method", task_name, known)]
    settings = dataclasses.replace(settings, method=task_name if method is None else method.name)
    if method is None and settings.hyper:
        raise UsageError(f"{task_name} has no hyperparameters, got {', '.join(settings.hyper)}")
    if method is None and settings.online:
        raise UsageError(f"{task_name} is trained on a file; a reward or a judge would have no effect")
    check_asked(settings, has_reference=method is not None)
    hyper = {} if method is None else loss_hyperparameters(method, settings.hyper, online=settings.online)
    return settings, method, hyper


def check_length(settings: Settings, config: lm.DecoderConfig) -> None:
    """Raises: UsageError if rows are asked for that are longer than the model takes."""
    if settings.max_length is not None and settings.max_length > config.max_length:
        raise UsageError(
            f"--max-length {settings.max_length} is more than the {config.max_length} that {settings.model} takes"
        )


def check_asked(settings: Settings, *, has_reference: bool) -> None:
    """`has_reference`: a method is trained, and not one of the tasks, which compare with no other model.

    Raises: UsageError, ValueError.
    """
    try:
        check_settings(settings.temperature, settings.top_k, settings.top_p)
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from None
    default = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name in () if settings.online else ONLINE:
        if getattr(settings, name) != default[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} is of responses that are drawn and scored (--reward or --judge); these "
                "come from the file, and it would have no effect"
            )
    if settings.reference is not None and not has_reference:
        raise UsageError(f"--reference: {settings.method} has none, and it would have no effect")
    _check_adapters(settings)
    if settings.reference_dtype is not None and (settings.lora_rank is not None or not has_reference):
        why = f"{settings.method} has none" if not has_reference else "with adapters it is the model they sit on"
        raise UsageError(f"--reference-dtype is of a frozen reference of its own; {why}")
    for name in ("dtype", "param_dtype", "reference_dtype"):
        if getattr(settings, name) == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise UsageError(
                f"--{name.replace('_', '-')} float64: JAX has float32 in its place, unless it is started with "
                "JAX_ENABLE_X64=1 in the environment"
            )


def _check_adapters(settings: Settings) -> None:
    if settings.lora_rank is None:
        if settings.lora_alpha is not None:
            raise UsageError("--lora-alpha is of adapters: give --lora-rank as well")
        return
    if settings.reference is not None:
        raise UsageError("--reference: with --lora-rank the reference is the model itself, its adapters off")
    if settings.method == "reward_model":
        raise UsageError("--lora-rank: a reward model is trained whole")


def check_keep_best(settings: Settings, metrics: Iterable[str], evaluated: Iterable[str]) -> None:
    """`metrics`: of an update; `evaluated`: of an evaluation, the loss included. Raises: UnknownName."""
    if settings.keep_best is None:
        return
    known = {*metrics, "learning_rate", "num_tokens"}
    if settings.eval_every and settings.eval_data:
        known |= {f"eval/{name}" for name in evaluated}
    checks.member("metric (--keep-best)", best_of(settings.keep_best)[0], sorted(known))
