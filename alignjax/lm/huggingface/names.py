"""What each parameter is called in a Hugging Face file, and how its axes lie there.

A file has one tensor a layer, matrices as [out, in]; here layers are stacked and matrices are [in..., out...], with
heads as axes of their own. Both ways the values are moved, never computed with.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.lm import decoder
from alignjax.lm.config import DecoderConfig
from alignjax.lm.huggingface.families import FAMILIES

_PROJECTIONS = {
    "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    "query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm",
}  # fmt: skip
_TOP = {
    ("embedding",): "model.embed_tokens.weight",
    ("unembedding",): "lm_head.weight",
    ("norm", "scale"): "model.norm.weight",
}


class Parameter(NamedTuple):
    """One parameter of the decoder, and its tensors in a file."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    """`[L, ...]` where it is stacked."""
    dtype: Any
    names: tuple[str, ...]
    """Of the tensors: one a layer, or one."""
    inputs: int
    """How many axes are the input of a matrix; 0: it is none."""

    @property
    def stacked(self) -> bool:
        """Whether its first axis is the layers."""
        return self.path[0] == "layers"

    @property
    def one_shape(self) -> tuple[int, ...]:
        """Of one layer."""
        return self.shape[1:] if self.stacked else self.shape

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Of a tensor in the file."""
        own = self.one_shape
        if not self.inputs:
            return own if self.path[0] in ("embedding", "unembedding") else (int(np.prod(own)),)
        return int(np.prod(own[self.inputs :])), int(np.prod(own[: self.inputs]))

    def from_file(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor of the file, with our axes: a view."""
        return (tensor.T if self.inputs else tensor).reshape(self.one_shape)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """One layer's parameter, with the file's axes: a view."""
        flat = array.reshape(self.file_shape[::-1])
        return flat.T if self.inputs else flat.reshape(self.file_shape)


def _layer_name(norms: Mapping[str, str], path: tuple[str, ...]) -> tuple[str, int]:
    """The name within a layer, and how many axes are inputs."""
    *_, parent, last = path
    if last == "scale":
        return f"{norms.get(parent) or _PROJECTIONS[parent]}.weight", 0
    if last.endswith("_bias"):
        return f"{_PROJECTIONS[last.removesuffix('_bias')]}.bias", 0
    return f"{_PROJECTIONS[last]}.weight", 2 if last == "out" else 1


def parameters(config: DecoderConfig) -> list[Parameter]:
    """All parameters of a decoder, with the names of their tensors."""
    norms = FAMILIES[config.family].norms
    shapes = jax.eval_shape(lambda: decoder.init(config, jax.random.key(0)))
    found = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = tuple(key.key for key in keys)
        if path[0] != "layers":
            found.append(Parameter(path, leaf.shape, leaf.dtype, (_TOP[path],), 0))
            continue
        name, inputs = _layer_name(norms, path)
        names = tuple(f"model.layers.{i}.{name}" for i in range(config.num_layers))
        found.append(Parameter(path, leaf.shape, leaf.dtype, names, inputs))
    return found
