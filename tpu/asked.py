"""What was asked of a run, checked before anything is read: numbers out of range, and settings without an effect."""

import dataclasses
from collections.abc import Iterable

import jax

from alignjax import checks
from alignjax.lm.sampling_laws import check_settings
from tpu.arguments import UsageError
from tpu.checkpoints import best_of
from tpu.run_config import Settings

ONLINE = ("sampler", "num_responses", "opponents", "pool_size", "hard_labels")
"""Settings of those who write and judge the responses of an online run."""


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
    for name in ("dtype", "param_dtype", "reference_dtype"):
        if getattr(settings, name) == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise UsageError(
                f"--{name.replace('_', '-')} float64: JAX has float32 in its place, unless it is started with "
                "JAX_ENABLE_X64=1 in the environment"
            )


def check_keep_best(settings: Settings, metrics: Iterable[str], evaluated: Iterable[str]) -> None:
    """`metrics`: of an update; `evaluated`: of an evaluation, the loss included. Raises: UnknownName."""
    if settings.keep_best is None:
        return
    known = {*metrics, "learning_rate", "num_tokens"}
    if settings.eval_every and settings.eval_data:
        known |= {f"eval/{name}" for name in evaluated}
    checks.member("metric (--keep-best)", best_of(settings.keep_best)[0], sorted(known))
