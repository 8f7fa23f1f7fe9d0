"""Folders of weights, read and written: one tensor at a time, and only the part of it that a device asks for."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from alignjax import checks
from alignjax.lm.config import DTYPES, DecoderConfig
from alignjax.lm.huggingface import tensor_files
from alignjax.lm.huggingface.config_json import from_json, to_json
from alignjax.lm.huggingface.names import Parameter, parameters
from alignjax.lm.huggingface.tensor_files import BadWeights, Entry
from alignjax.lm.lora import LoRA, merged
from alignjax.lm.model import Params
from alignjax.lm.tokenizer_folder import FILES as TOKENIZER_FILES

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_OTHERS = re.compile(r"rotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\.")
"""Tensors that are no part of the language model, or no weights."""
_ALIGNMENT = 64
"""Of a buffer that JAX takes over on a CPU without copying it."""


def _entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder by its plain name, and where its bytes are."""
    if (folder / WEIGHTS).exists():
        files = [WEIGHTS]
        listed: Mapping[str, str] = {}
    elif (folder / INDEX).exists():
        listed = _weight_map(folder / INDEX)
        files = sorted(set(listed.values()))
    else:
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())) or "nothing"
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX} (it has {there})")
    absent = [name for name in files if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(f"{folder} lacks {len(absent)} of {len(files)} shards: {', '.join(absent)}")
    found: dict[str, Entry] = {}
    for file in files:
        found |= tensor_files.read(folder / file)
    lost = sorted(set(listed) - set(found))
    if lost:
        raise BadWeights(f"{folder}: {INDEX} lists {lost[0]} in {listed[lost[0]]}, which does not have it")
    return {_plain_name(name): entry for name, entry in found.items() if not _OTHERS.search(name)}


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file, by an index of shards."""
    try:
        found = json.loads(index.read_text())
    except ValueError as error:
        raise BadWeights(f"{index} is no index of shards: it is no JSON ({error})") from None
    listed = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise BadWeights(f"{index} is no index of shards: it has no object weight_map of tensors and their files")
    return listed


def _plain_name(name: str) -> str:
    """As a model of text alone has it, with its head."""
    name = name.replace("language_model.", "", 1) if "language_model." in name else name
    name = name.removeprefix("model.")
    return name if name.startswith("lm_head.") else f"model.{name}"


def _check(folder: Path, config: DecoderConfig, wanted: list[Parameter], found: Mapping[str, Entry]) -> None:
    """Every tensor is there, in its shape and in a dtype of weights, and there is none besides."""
    shapes = {name: parameter.file_shape for parameter in wanted for name in parameter.names}
    more = sorted(set(found) - set(shapes) - ({"lm_head.weight"} if config.tied else set()))
    missing = sorted(set(shapes) - set(found))
    for what, names in (("lacks the tensors", missing), ("has unexpected tensors", more)):
        if names:
            dots = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise BadWeights(
                f"{folder} {what} {', '.join(names[:5])}{dots}, going by its {CONFIG} (a {config.family} model of "
                f"{config.num_layers} layers, embeddings {'tied' if config.tied else 'not tied'})"
            )
    for name, shape in shapes.items():
        entry = found[name]
        if entry.shape != shape:
            raise BadWeights(f"{entry.file}: {name} has shape {entry.shape}; {CONFIG} makes it {shape}")
        entry.array(name)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that JAX can take over."""
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + size].view(dtype).reshape(shape)


def _reader(parameter: Parameter, found: Mapping[str, Entry], dtype: np.dtype) -> Callable[[Any], np.ndarray]:
    """Index of a part of a parameter -> that part, from the files."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        names = parameter.names[index[0]] if parameter.stacked else parameter.names
        inner = index[1:] if parameter.stacked else index
        views = [parameter.from_file(found[name].array(name))[inner] for name in names]
        out = _aligned((len(views), *views[0].shape), dtype)
        for place, view in zip(out, views, strict=True):
            place[...] = view
        return out if parameter.stacked else out[0]

    return read


def load(
    folder: str | Path, dtype: Any = None, *, sharding: Callable[[tuple[str, ...]], Sharding] | None = None
) -> tuple[DecoderConfig, Params]:
    """The config and the parameters of a Hugging Face folder: config.json and safetensors, in shards or in one.

    `dtype`: of the parameters and of the computation; None: that of the files (one that differs from layer to layer
    becomes the widest, and is written back as it was: `tensor_dtypes`). To compute in bfloat16 over float32
    parameters, load float32 and `dataclasses.replace(config, dtype="bfloat16")`. `sharding`: path of a parameter ->
    where it goes; each host then reads only its part.
    Raises: FileNotFoundError on a folder without config or weights, or that lacks a shard; ValueError on a truncated
    shard, on tensors that are missing, too many, or of another shape or dtype than config.json makes them, on unknown
    architectures, and on config keys that cannot be honoured.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} has no {CONFIG}{'' if folder.exists() else ' (there is no such folder)'}")
    try:
        raw = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is no JSON: {error}") from None
    config = from_json(raw)
    found = _entries(folder)
    wanted = parameters(config)
    _check(folder, config, wanted, found)
    if dtype is not None:
        name = checks.member("dtype", dtype if isinstance(dtype, str) else jnp.dtype(dtype).name, DTYPES)
        config = dataclasses.replace(config, dtype=name, param_dtype=name)
    params: dict[str, Any] = {}
    odd: list[tuple[str, str]] = []
    here = jnp.zeros(()).sharding  # where this process puts its arrays, unless told otherwise
    for parameter in wanted:
        codes = {name: found[name].code for name in parameter.names}
        widest = _widest(codes.values())
        kind = tensor_files.DTYPES[widest] if dtype is None else jnp.dtype(config.param_dtype)
        if jax.dtypes.canonicalize_dtype(kind) != kind:
            wide = next((name for name, code in codes.items() if code == "F64"), parameter.names[0])
            raise ValueError(f"{folder}: {wide} is float64; give dtype='float32', or set jax_enable_x64")
        odd += [(name, code) for name, code in codes.items() if dtype is None and code != widest]
        read = _reader(parameter, found, kind)
        place = sharding(parameter.path) if sharding else here
        *above, last = parameter.path
        node = params
        for key in above:
            node = node.setdefault(key, {})
        node[last] = jax.make_array_from_callback(parameter.shape, place, read)
    if dtype is None:
        name = params["embedding"].dtype.name
        config = dataclasses.replace(config, dtype=name, param_dtype=name, tensor_dtypes=tuple(odd))
    return config, params


def _widest(codes: Iterable[str]) -> str:
    """The dtype that holds all of these exactly."""
    several = set(codes)
    return "F32" if several == {"F16", "BF16"} else max(several, key=lambda code: tensor_files.DTYPES[code].itemsize)


@jax.jit
def _layer(stacked: jax.Array, i: jax.Array) -> jax.Array:
    return stacked[i]


def _on_host(array: jax.Array, layer: int | None) -> np.ndarray:
    """A parameter, or one layer of it; on a CPU a view."""
    if isinstance(array, jax.Array) and any(device.platform != "cpu" for device in array.devices()):
        return np.asarray(array if layer is None else _layer(array, layer))  # type: ignore[arg-type]
    host = np.asarray(array)
    return host if layer is None else host[layer]


def _tensors(config: DecoderConfig, params: Params) -> list[tensor_files.Tensor]:
    """What is to be written, in order of names; nothing is moved yet."""
    given = {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dict(params))}
    wanted = parameters(config)
    if set(given) != {parameter.path for parameter in wanted}:
        odd = sorted("/".join(path) for path in set(given) ^ {parameter.path for parameter in wanted})
        raise ValueError(f"params are not those of the config; on one side only: {', '.join(odd)}")
    tensors, own = [], dict(config.tensor_dtypes)
    for parameter in wanted:
        array = given[parameter.path]
        if array.shape != parameter.shape:
            raise ValueError(f"params: {'/'.join(parameter.path)} has shape {array.shape}, not {parameter.shape}")
        if np.dtype(array.dtype) not in tensor_files.DTYPES.values():
            raise ValueError(f"params: {'/'.join(parameter.path)} has dtype {array.dtype}; allowed are {DTYPES}")
        for i, name in enumerate(parameter.names):
            kind = tensor_files.DTYPES[own[name]] if name in own else np.dtype(array.dtype)
            value = lambda p=parameter, a=array, i=i: p.to_file(_on_host(a, i if p.stacked else None))
            tensors.append(tensor_files.Tensor(name, parameter.file_shape, kind, value))
    return tensors


def _shards(tensors: list[tensor_files.Tensor], limit: int) -> dict[str, list[tensor_files.Tensor]]:
    """File name -> its tensors."""
    groups: list[list[tensor_files.Tensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(t.num_bytes for t in groups[-1]) + tensor.num_bytes > limit:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def save(
    folder: str | Path,
    config: DecoderConfig | LoRA,
    params: Params,
    tokenizer: Any = None,
    *,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a folder that `load` and `transformers` read: config.json, safetensors, tokenizer files.

    Each tensor keeps its dtype. Adapters are merged. `tokenizer`: one with a method `save(folder)`, or a folder whose
    tokenizer files are copied. `shard_bytes`: the most that a file holds, but for a tensor larger than that. Files of
    the same names are replaced, each when the new one is whole, and other weights in the folder are removed.
    Raises: ValueError on params that are not of this config, and on a config for which its family has no words.
    """
    if isinstance(config, LoRA):
        params = merged(config, params)
        config = config.base
    folder = Path(folder)
    raw = to_json(config, str(np.dtype(params["embedding"].dtype)))
    tensors = _tensors(config, params)
    checks.whole("shard_bytes", shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, shard_bytes)
    for name, group in shards.items():
        tensor_files.write(folder / name, group)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors)},
            "weight_map": {tensor.name: file for file, group in shards.items() for tensor in group},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for old in folder.glob("model*.safetensors*"):
        if old.name not in shards and not (old.name == INDEX and len(shards) > 1):
            old.unlink()
    if hasattr(tokenizer, "save"):
        tokenizer.save(folder)
    elif tokenizer is not None:
        for name in TOKENIZER_FILES:
            if (Path(tokenizer) / name).exists() and Path(tokenizer).resolve() != folder.resolve():
                shutil.copyfile(Path(tokenizer) / name, folder / name)
    (folder / CONFIG).write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n")
