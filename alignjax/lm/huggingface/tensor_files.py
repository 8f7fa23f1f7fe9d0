"""The safetensors format: a length, a JSON header, the bytes of the tensors.

Read as views of the mapped file and written piece by piece, so that a tensor never stands twice in memory (the
library's own functions copy it).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Of tensors that are weights."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_PIECE = 1 << 20
"""Bytes that are brought in order at a time."""


class BadWeights(ValueError):
    """Weights that cannot be read; the message names the file and the tensor."""


class Entry(NamedTuple):
    """One tensor of a file that is mapped to memory."""

    file: Path
    code: str
    shape: tuple[int, ...]
    data: np.ndarray
    """Its bytes, still on the disk."""

    def array(self, name: str) -> np.ndarray:
        """The tensor, as a view of the file."""
        if self.code not in DTYPES:
            raise BadWeights(f"{self.file}: {name} has dtype {self.code}; weights are of {', '.join(DTYPES)}")
        return self.data.view(DTYPES[self.code]).reshape(self.shape)


def read(file: Path) -> dict[str, Entry]:
    """What a file holds; nothing of the tensors is read yet.

    Raises: BadWeights on a file that is not what its header says, as one whose download was cut.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or 8 + length > size:
            raise BadWeights(
                f"{file} is truncated or no safetensors file: {size} bytes, and its header alone ends later"
            )
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise BadWeights(f"{file} is no safetensors file: its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise BadWeights(f"{file} is no safetensors file: its header is no object, but a {type(header).__name__}")
    header.pop("__metadata__", None)
    end = 8 + length + _data_bytes(file, header)
    if end != size:
        what = "truncated" if size < end else "longer than its header says"
        raise BadWeights(f"{file} is {what}: it has {size} bytes of {end}")
    mapped = np.memmap(file, np.uint8, "r", offset=0)
    entries = {}
    for name, about in header.items():
        first, last = (8 + length + offset for offset in about["data_offsets"])
        code, shape = about["dtype"], tuple(about["shape"])
        if code in DTYPES and last - first != math.prod(shape) * DTYPES[code].itemsize:
            raise BadWeights(f"{file}: {name} of shape {shape} and dtype {code} cannot have {last - first} bytes")
        entries[name] = Entry(file, code, shape, mapped[first:last])
    return entries


def _is_tensor(about: Any) -> bool:
    match about:
        case {"dtype": str(), "shape": [*shape], "data_offsets": [first, last]}:
            return all(type(n) is int and n >= 0 for n in (*shape, first, last))
    return False


def _data_bytes(file: Path, header: Mapping[str, Any]) -> int:
    """How many bytes the tensors have together. Raises: BadWeights unless they lie one after the other."""
    for name, about in header.items():
        if not _is_tensor(about):
            raise BadWeights(
                f"{file} is no safetensors file: a tensor has dtype, shape and data_offsets [first, last]; {name} has "
                f"{json.dumps(about)[:200]}"
            )
    end = 0
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = about["data_offsets"]
        if first != end or last < first:
            raise BadWeights(f"{file}: {name} has data_offsets [{first}, {last}], but the one before it ends at {end}")
        end = last
    return end


class Tensor(NamedTuple):
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    value: Callable[[], np.ndarray]
    """Called when its turn comes; any strides."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write(file: Path, tensors: Iterable[Tensor]) -> None:
    """Writes a file, one tensor after the other; it has its name only when it is whole."""
    tensors = sorted(tensors, key=lambda tensor: tensor.name)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    offset = 0
    for tensor in tensors:
        ends = [offset, offset + tensor.num_bytes]
        header[tensor.name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with unfinished.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                _write_array(stream, tensor.value(), tensor.dtype)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_array(stream: Any, array: np.ndarray, dtype: np.dtype) -> None:
    """In C order, some rows at a time."""
    rows = max(1, _PIECE // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        piece = np.ascontiguousarray(array[first : first + rows], dtype)
        stream.write(piece.view(np.uint8).data)
