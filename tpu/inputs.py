"""What a run reads: the rows of its files, the log-probs stored of them, and a reference that is named."""

import dataclasses
import hashlib
import json
import sys
import warnings
from typing import Any

import numpy as np

from alignjax import lm
from tpu import global_arrays, precompute, remote
from tpu.arguments import UsageError
from tpu.distributed import is_first
from tpu.fingerprint import fingerprint
from tpu.models import load_model
from tpu.run_config import Settings


def read_data(
    settings: Settings, paths: tuple[str, ...], config: Any, tokenizer: Any, rollout: Any, flag: str = "--data"
) -> Any:
    """The rows of the files that `flag` names, as this method needs them; what was cut or dropped is told on stderr."""
    longest = settings.max_length or config.max_length
    common = {"tokenizer": tokenizer, "too_long": settings.too_long}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            paths = tuple(map(remote.local, paths))
            most, room = settings.max_prompt_length, longest
            if rollout is not None:
                room = longest - settings.max_new_tokens
                if room < 1:
                    raise UsageError(
                        f"--max-new-tokens {settings.max_new_tokens} leaves no room for a prompt in {longest} tokens"
                    )
                most = min(room, most or room)
            if rollout is not None and "data" not in rollout.plan.slots:
                data: Any = lm.read_prompts(paths, max_prompt_length=most or room, **common)
            else:
                read = lm.read_supervised if settings.method == "sft" else lm.read_preferences
                data = read(paths, max_length=longest, max_prompt_length=most, **common)
        except OSError as error:
            raise UsageError(f"{flag} {error.filename or ', '.join(paths)}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(f"{flag} {error}") from None
    for warning in caught if is_first() else ():
        print(f"warning: {warning.message}", file=sys.stderr)
    return data


def named_reference(settings: Settings, config: Any) -> Any:
    """The parameters of `--reference`, in the memory of the host. `config`: of the decoder that is trained."""
    with global_arrays.on_host():
        there, params, _ = load_model(str(settings.reference), seed=settings.seed, dtype=settings.param_dtype)
    if dataclasses.replace(there, dtype=config.dtype, remat=config.remat) != config:
        raise UsageError(f"--reference {settings.reference} is a model of another shape than {settings.model}")
    return params


def with_logps(params: Any, data: Any, settings: Settings, config: Any) -> Any:
    """The data with the log-probs of `--ref-logps`, by what each file says it is; the reference's must be those of
    `--reference`, or without one the policy's own at the start.
    """
    roles: dict[str, list[str]] = {}
    for path in settings.ref_logps:
        roles.setdefault(precompute.read(path)[1].get("role", "ref"), []).append(path)
    for role, paths in roles.items():
        own = None
        if role == "ref":
            own = fingerprint(params if settings.reference is None else named_reference(settings, config))
        data = precompute.attach(data, paths, model=own, role=role)
    return data


def data_digest(data: Any) -> dict[str, Any]:
    """The rows as arrays, in 16 hexadecimal digits: what tokenizer, template and lengths made of the files."""
    digest = hashlib.sha256()
    for name in ("tokens", "loss_mask", "attention_mask", "prompts", "prompt_mask"):
        if hasattr(data, name):
            array = np.ascontiguousarray(getattr(data, name))
            digest.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    for name, column in sorted(getattr(data, "columns", {}).items()):  # a reward may read it
        digest.update(f"{name} {json.dumps(column, sort_keys=True, default=str)}".encode())
    for name, array in sorted(getattr(data, "feedback", {}).items()):
        digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return {"rows": len(data), "digest": digest.hexdigest()[:16]}
