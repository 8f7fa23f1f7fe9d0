"""A model by what a user types: `tiny`, a Hugging Face folder, or the folder of a run.

RUN/model                 what a run exported at its end; taken unless a checkpoint is newer
RUN/checkpoints/<step>    else the newest whole one; its config and tokenizer are those that the run began with
"""

import dataclasses
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax

from alignjax import lm
from tpu import remote
from tpu.arguments import UsageError


def load_model(spec: str, *, seed: int = 0, dtype: str | None = None) -> tuple[Any, Any, Any]:
    """(config, params, tokenizer).

    Args:
      spec: a preset, whose parameters are random; or a folder, also one in a bucket (see remote.py), where a run has to
        be done. A preset's name is a preset (./tiny is a folder).
      seed: of a preset's parameters.
      dtype: of the parameters; None is the folder's own, or the preset's.

    Raises: UsageError, ValueError or OSError that says what is wrong with the folder; UnknownName.
    """
    if remote.is_url(spec):
        copy = _fetched(spec)
        found = load_model(str(copy), dtype=dtype)
        for file in copy.glob("*.safetensors"):  # the tokenizer's are needed when the model is saved
            file.unlink()
        return found
    folder = Path(spec)
    if spec in lm.PRESETS or not folder.is_dir():
        if "/" in spec or folder.exists():
            raise UsageError(f"--model {spec}: {'not a folder' if folder.exists() else 'No such folder'}")
        config = lm.preset(spec)
        config = config if dtype is None else dataclasses.replace(config, param_dtype=dtype)
        return config, lm.init(config, jax.random.key(seed)), lm.ByteTokenizer()
    if is_run(folder):
        exported, steps = _exported(folder), _steps(folder / "checkpoints")
        if steps and (exported is None or steps[-1] > exported):
            return _from_checkpoint(folder, dtype)
        if exported is None:
            raise UsageError(f"--model {spec}: the run has neither a model nor a checkpoint yet")
        folder = folder / "model"
    config, params = lm.load(folder, dtype=dtype)
    tokenizer = lm.load_tokenizer(folder)
    lm.check_fits(tokenizer, config)
    return config, params, tokenizer


def _fetched(spec: str) -> Path:
    """A folder of weights in a bucket, or what a run there has exported, copied."""
    there = remote.place(spec)
    with remote.reached(there):
        if is_run(there):
            there = there / "model"
            if not (there / "trained.json").exists():
                raise UsageError(f"--model {spec}: the run has no model yet; to take a checkpoint copy its folder here")
    return remote.fetch(there, Path(tempfile.mkdtemp(dir=remote.kept())))


def is_run(folder: Any) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / "model").is_dir() or (folder / "checkpoints").is_dir()


def _exported(run: Path) -> int | None:
    """After how many updates RUN/model was written; None if it is not there."""
    if not (run / "model" / "config.json").is_file():
        return None
    try:
        return int(json.loads((run / "model" / "trained.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError):
        return 0


def _steps(checkpoints: Path) -> list[int]:
    names = [path.name for path in checkpoints.iterdir() if path.is_dir()] if checkpoints.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _from_checkpoint(run: Path, dtype: str | None) -> tuple[Any, Any, Any]:
    from alignjax.lm.huggingface.config_json import from_json
    from tpu.checkpoints import flat

    try:
        described = json.loads((run / "config.json").read_text(encoding="utf-8"))
        base = described["model"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--model {run}: its config.json does not say what the run is ({error})") from None
    if described.get("method") == "reward_model":
        raise UsageError(f"--model {run}: its checkpoints are of a reward model, which writes nothing")
    tokenizer: Any
    if base in lm.PRESETS:
        config, tokenizer = lm.preset(base), lm.ByteTokenizer()
    elif is_run(Path(base)):
        config, _, tokenizer = load_model(base)
    else:
        try:
            config = from_json(json.loads((Path(base) / "config.json").read_text(encoding="utf-8")))
            tokenizer = lm.load_tokenizer(base)
        except OSError as error:
            raise UsageError(f"--model {run}: it began with {base}: {error.strerror}: {error.filename}") from None
    like = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    arrays = _arrays(run / "checkpoints")
    names = [f"params/{name}" for name in flat(like)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(f"--model {run}: its checkpoint does not hold {missing[0]}, a parameter of {base}")
    params = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])
    if dtype is not None:
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    return config, params, tokenizer


def _arrays(folder: Path) -> dict[str, Any]:
    """Those of the newest checkpoint that can be read. One that is not whole has another name than its step."""
    import orbax.checkpoint as ocp

    problems = []
    for step in reversed(_steps(folder)):
        try:
            with warnings.catch_warnings(), ocp.StandardCheckpointer() as checkpointer:
                warnings.simplefilter("ignore")  # that the shardings are those of the file: one device is meant
                found: dict[str, Any] = checkpointer.restore((folder / str(step) / "state").absolute())
            return found
        except Exception as error:
            problems.append(f"step {step}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise UsageError(f"--model {folder.parent}: no checkpoint can be read ({'; '.join(problems)})")
