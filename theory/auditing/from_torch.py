"""A function of PyTorch tensors as a function of JAX arrays: PyTorch computes the value and the first derivative.

PyTorch is imported on first use and is no dependency. What is detached inside the function (`detach`, `no_grad`,
`item`, `data`) is constant to its gradient, as `stop_gradient` is in JAX; `frozen` holds it at its value, so that the
gradient can be compared with finite differences.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory.auditing.errors import AuditError

FRAMEWORKS = ("jax", "torch")
_DETACHING = ("detach", "detach_", "item", "tolist", "numpy", "__float__", "__int__", "__bool__")
Meet = Callable[[Any], Any]


def uses_torch(function: Callable[..., Any]) -> bool:
    """Whether a function is one of tensors: an annotation names torch, or its module imports torch and not jax."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner)
    notes = getattr(inner, "__annotations__", {})
    if any("torch" in (note if isinstance(note, str) else f"{note!r}") for note in notes.values()):
        return True
    home = sys.modules.get(type(inner).__module__ if not hasattr(inner, "__globals__") else "")
    names = getattr(inner, "__globals__", None) or vars(home or ModuleType("none"))
    modules = {value.__name__.partition(".")[0] for value in names.values() if isinstance(value, ModuleType)}
    return "torch" in modules and "jax" not in modules


def _torch() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise AuditError("auditing a function of torch tensors needs PyTorch: pip install torch (the extra `parity`)")
    return importlib.import_module("torch")


# --- arrays and tensors


def _tensor(array: Any) -> Any:
    torch, array = _torch(), np.array(array)  # a copy: PyTorch wants to own what it may write to
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> np.ndarray:
    torch, tensor = _torch(), tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _leaves(arrays: Any) -> list[Any]:
    """Tensors that ask for a gradient where they can have one."""
    tensors = [_tensor(array) for array in arrays]
    return [t.requires_grad_() if t.is_floating_point() else t for t in tensors]


def _first(out: Any) -> Any:
    out = out[0] if isinstance(out, tuple | list) else out
    return _torch().as_tensor(out)


# --- what is detached, held

_meet: list[Meet] = []
"""Receives what is detached while a function runs; a global, for callbacks run in threads of their own."""


@contextlib.contextmanager
def _meeting(meet: Meet) -> Iterator[None]:
    _meet.append(meet)
    try:
        yield
    finally:
        _meet.remove(meet)


def _observed() -> Any:
    """A context in which everything that leaves the graph passes through `_meet`."""
    torch = _torch()
    if not _meet:
        return contextlib.nullcontext()
    meet, mode = _meet[-1], torch.overrides.TorchFunctionMode

    class Observe(mode):  # type: ignore[misc,valid-type]
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            graph = torch.is_grad_enabled()
            out = function(*args, **(kwargs or {}))
            name = getattr(function, "__name__", "")
            of_data = name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.data
            if name in _DETACHING or of_data or (not graph and torch.is_tensor(out) and out.is_floating_point()):
                return meet(out)
            return out

    return Observe()


def frozen(function: Callable[[Any], Any], at: Any, *others: Any) -> list[Any]:
    """The values of a function (of tensors somewhere inside) at other points, with what it detaches held at `at`."""
    kept: list[Any] = []

    def record(value: Any) -> Any:
        kept.append(value.clone() if hasattr(value, "clone") else value)
        return value

    with _meeting(record):
        np.asarray(function(at))
    out = []
    for x in others:
        held = iter(kept)
        with _meeting(lambda _, held=held: next(held)):  # type: ignore[misc]
            out.append(np.asarray(function(x)))
    return out


# --- the function of arrays


def _value(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    tensors = _leaves(arrays)
    with _torch().enable_grad(), _observed():
        out = _first(function(*tensors))
    return _array(out)


def _gradient(function: Callable[..., Any], cotangent: Any, *arrays: Any) -> tuple[np.ndarray, ...]:
    """The pull-back of a cotangent to every array of floating-point numbers, the others left out."""
    torch, tensors = _torch(), _leaves(arrays)
    with torch.enable_grad():
        out = _first(function(*tensors))
    moving = [t for t in tensors if t.requires_grad]
    found = torch.autograd.grad(out, moving, _tensor(cotangent).to(out.dtype), allow_unused=True)
    return tuple(_array(torch.zeros_like(t) if g is None else g) for t, g in zip(moving, found, strict=True))


def _over_batches(function: Callable[..., Any], ndims: tuple[int, ...]) -> Callable[..., Any]:
    """The same function on arrays that share leading axes added by vmap: mapped by PyTorch, or else a loop."""
    torch = _torch()

    def run(*tensors: Any) -> Any:
        extra = tensors[0].ndim - ndims[0]
        if not extra:
            return _first(function(*tensors))
        lead = tensors[0].shape[:extra]
        flat = [t.reshape((-1, *t.shape[extra:])) for t in tensors]
        one = lambda *row: _first(function(*row))
        if _meet:  # what is detached is met row by row
            out = torch.stack([one(*row) for row in zip(*flat, strict=True)])
        else:
            try:
                out = torch.func.vmap(one)(*flat)
            except Exception:  # `item`, control flow on values, ...: PyTorch cannot map it
                out = torch.stack([one(*row) for row in zip(*flat, strict=True)])
        return out.reshape((*lead, *out.shape[1:]))

    return run


def _struct(shape: Any, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def _concrete(*arrays: Any) -> bool:
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


def as_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on JAX arrays: positional arguments are arrays, keywords go to it as they are.

    Raises: AuditError where PyTorch is not installed.
    """
    _torch()
    names = [*inspect.signature(function).parameters]

    @functools.wraps(function)
    def call(*arrays: Any, **hyper: Any) -> Any:
        given = functools.partial(function, **hyper)
        arrays = tuple(jnp.asarray(array) for array in arrays)
        if _concrete(*arrays):  # so that its errors are its own, not those of a callback
            return jnp.asarray(_value(given, *arrays))
        # A log-prob is a negative number, and 1 is a mask, a label and a reward.
        plain = [np.full(a.shape, -1 if "logp" in n else 1, a.dtype) for n, a in zip(names, arrays, strict=False)]
        return _bridge(given, tuple(a.ndim for a in arrays), _outcome(given, plain))(*arrays)

    return call


def _outcome(given: Callable[..., Any], plain: list[np.ndarray]) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the result, from a call on plain numbers."""
    with _torch().enable_grad():
        out = _first(given(*_leaves(plain)))
    if not out.requires_grad:
        raise TypeError("its result has no grad_fn: nothing in it depends on a tensor that requires a gradient")
    return _struct(out.shape, _array(out).dtype)


def _on_host(compute: Callable[..., Any], out: Any, *arrays: Any) -> Any:
    """`jax.pure_callback` that keeps float64: a callback may run in a thread in which x64 is off, where its arguments
    would be narrowed on the way. Eight bytes travel as two times four.
    """
    dtypes = [np.dtype(a.dtype) for a in arrays]
    kinds = [np.dtype(s.dtype) for s in out]

    def packed(x: Any) -> Any:
        return jax.lax.bitcast_convert_type(x, jnp.uint32) if x.dtype.itemsize == 8 else x

    def run(*given: Any) -> tuple[np.ndarray, ...]:
        wide = [np.asarray(x, order="C") for x in given]
        found = compute(*(x.view(t)[..., 0] if t.itemsize == 8 else x for x, t in zip(wide, dtypes, strict=True)))
        found = [np.asarray(y).astype(t) for y, t in zip(found, kinds, strict=True)]
        return tuple(np.ascontiguousarray(y)[..., None].view(np.uint32) if y.dtype.itemsize == 8 else y for y in found)

    shapes = tuple(
        jax.ShapeDtypeStruct((*s.shape, 2), np.uint32) if t.itemsize == 8 else s
        for s, t in zip(out, kinds, strict=True)
    )
    found = jax.pure_callback(run, shapes, *map(packed, arrays), vmap_method="broadcast_all")
    return tuple(
        jax.lax.bitcast_convert_type(y, t) if t.itemsize == 8 else y for y, t in zip(found, kinds, strict=True)
    )


def _bridge(given: Callable[..., Any], ndims: tuple[int, ...], out: jax.ShapeDtypeStruct) -> Callable[..., Any]:
    over = _over_batches(given, ndims)

    @jax.custom_vjp
    def value(*arrays: Any) -> Any:
        return _on_host(lambda *given: (_value(over, *given),), (out,), *arrays)[0]

    @jax.custom_jvp
    def gradient(cotangent: Any, *arrays: Any) -> Any:
        structs = tuple(_struct(a.shape, a.dtype) for a in arrays if _moves(a))
        return _on_host(functools.partial(_gradient, over), structs, cotangent, *arrays)

    @gradient.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError("second derivatives of a function of torch tensors are not available")

    # Where numbers are at hand no callback is needed, and errors are the function's own.
    def ahead(*arrays: Any) -> Any:
        seen = jnp.asarray(_value(over, *arrays)) if _concrete(*arrays) else value(*arrays)
        return seen, arrays

    def back(arrays: Any, cotangent: Any) -> Any:
        at_hand = _concrete(cotangent, *arrays)
        slopes = _gradient(over, cotangent, *arrays) if at_hand else gradient(cotangent, *arrays)
        found = iter([jnp.asarray(slope) for slope in slopes])
        return tuple(next(found) if _moves(a) else np.zeros(a.shape, jax.dtypes.float0) for a in arrays)

    value.defvjp(ahead, back)
    return value


def _moves(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))
