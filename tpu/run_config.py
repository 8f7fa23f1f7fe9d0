"""`Settings`: what a user asks of a training run, as plain data; what of it a resumed run must agree on.

The fields are the flags of `python -m tpu train` and the keys of its YAML file; their defaults stand here alone.
"""

import dataclasses
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alignjax import checks
from tpu import remote

DTYPES = ("bfloat16", "float32", "float64")
"""That a run may have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags of a run. Paths are as they were typed; `hyper` holds only what was given."""

    method: str
    data: tuple[str, ...]
    model: str = "tiny"
    out: str = ""
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # the reference and the past
    reference: str | None = None
    ref_logps: tuple[str, ...] = ()
    # optimisation
    steps: int = 50
    batch: int = 8
    accumulate: int = 1
    lr: float | None = None
    schedule: str = "constant"
    schedule_steps: int | None = None
    warmup: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    # the model
    dtype: str | None = None
    param_dtype: str = "float32"
    reference_dtype: str | None = None
    remat: str = "none"
    lora_rank: int | None = None
    lora_alpha: float | None = None
    # lengths
    max_length: int | None = None
    max_prompt_length: int | None = None
    too_long: str = "drop"
    buckets: int | None = None
    # what is carried along
    baseline: str | None = None
    history: int = 2
    iteration_steps: int = 25
    fixed_history: bool = False
    # online
    reward: tuple[str, ...] = ()
    judge: str | None = None
    sampler: str | None = None
    num_responses: int | None = None
    opponents: int = 1
    pool_size: int = 16
    hard_labels: bool = False
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    # machine
    mesh: str | None = None
    # what is kept and looked at
    save_every: int = 100
    save_async: bool = True
    keep: int = 2
    keep_best: str | None = None
    eval_every: int = 0
    eval_data: tuple[str, ...] = ()
    eval_prompts: int = 4
    checks: bool = True

    @property
    def online(self) -> bool:
        """Responses are drawn from the policy and scored, and not read from the file."""
        return bool(self.reward) or self.judge is not None

    @property
    def folder(self) -> Any:
        """`out`, or where it is by default; one in a bucket has the methods of a `Path`. Raises: UsageError."""
        return remote.place(self.out or f"out/train-{self.method}")

    @property
    def has_weights(self) -> bool:
        """The model is read, and no preset, whose weights are random."""
        return remote.is_url(self.model) or Path(self.model).is_dir()

    def learning_rate(self) -> float:
        """`lr`, or 1e-3 for a preset, which starts from scratch, 1e-6 for weights, 1e-5 for adapters on them."""
        if self.lr is not None:
            return self.lr
        if not self.has_weights:
            return 1e-3
        return 1e-6 if self.lora_rank is None else 1e-5

    def num_buckets(self) -> int:
        """`buckets`, or 1 for a preset, where compiling costs more than padding, and 4 for weights."""
        return self.buckets or (4 if self.has_weights else 1)


FREE = frozenset({"out", "steps", "mesh", "save_every", "save_async", "keep", "keep_best", "eval_every", "eval_data",
                  "eval_prompts", "checks", "remat", "accumulate", "data", "model", "reference", "ref_logps",
                  "hyper"})  # fmt: skip
"""Settings that a resumed run may change, or that `identity` says in another form: a path may, what lies there may not.
`remat` and `accumulate` say how an update is computed and not what it is: sums over micro-batches are those over the
batch, to rounding."""


def identity(settings: Settings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a run's numbers depend on. `facts`: hyperparameters in full, and the fingerprints of what the
    paths of model, reference and data hold.

    A decaying schedule depends on its length, so that `steps` belong to it; a constant one goes on for ever.
    """
    fields = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name not in FREE}
    fields["buckets"], fields["lr"] = settings.num_buckets(), settings.learning_rate()
    endless = settings.schedule == "constant"
    fields["schedule_steps"] = None if endless else settings.schedule_steps or settings.steps
    merged: dict[str, Any] = json.loads(json.dumps({**fields, **facts}))
    return merged


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two identities disagree on, in words, nested ones by dotted names."""
    found: list[str] = []
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {old!r} and is now {new!r}")
    return found


# --- YAML


def as_arguments(path: str, known: Mapping[str, bool], text: str | None = None) -> list[str]:
    """A YAML file of settings as the flags it stands for; a list is a flag with several values, `true` a bare flag.

    `known`: flag (without dashes) -> whether it takes a value. Hyperparameters may stand in a mapping of their own.
    `text`: what the file says, where it was read already.
    Raises: ValueError, UnknownName naming the nearest flag, OSError.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8") if text is None else text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"--config {path} must be a mapping of settings, got {type(loaded).__name__}")
    nested = loaded.pop("hyperparameters", None) or {}
    if not isinstance(nested, dict):
        raise ValueError(f"--config {path}: hyperparameters must be a mapping, got {nested!r}")
    found: list[str] = []
    for key, value in {**loaded, **nested}.items():
        name = checks.member(f"setting in {path}", str(key), known).replace("_", "-")
        negated = f"no-{name}" in known
        if value is None:
            continue
        if isinstance(value, dict):
            raise ValueError(f"--config {path}: {key} must be a value or a list, got a mapping")
        if isinstance(value, bool):
            if known[name] and key not in nested:
                raise ValueError(f"--config {path}: {key} must be a value, got {value}")
            if known[name]:
                found += [f"--{name}={value}"]
                continue
            found += [f"--{name}"] if value else [f"--no-{name}"] if negated else []
        elif not known[name]:
            raise ValueError(f"--config {path}: {key} must be true or false, got {value!r}")
        elif isinstance(value, list):
            found += [f"--{name}", *map(str, value)] if value else []
        else:
            found += [f"--{name}={value}"]
    return found


def as_yaml(settings: Settings) -> str:
    """The settings in full; `--config` reads it back."""
    fields = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name != "hyper"}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return yaml.safe_dump({**plain, "hyperparameters": dict(settings.hyper)}, sort_keys=False)


# --- what it ran on


def versions() -> dict[str, str]:
    """The versions of what the numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in ("alignjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this checkout, "+" behind it where tracked files differ; None outside a checkout."""
    here = Path(__file__).resolve().parent
    ask = lambda *words: subprocess.run(
        ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
