"""The real training step of a method, traced without an array: shapes go in, a lowered program comes out."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import alignjax
from alignjax import checks, lm
from alignjax.lm import attention
from alignjax.record import Method
from tpu import train_step
from tpu.bridge import SCORED, TOKENS, reads, scored
from tpu.partition import BATCH_AXES
from tpu.remote import is_url
from tpu.run_config import DTYPES
from tpu.schedules import OPTIMISERS, make_optimiser, make_schedule
from tpu.tasks import TASKS

Struct = jax.ShapeDtypeStruct
PRECOMPUTED: Mapping[str, tuple[str, ...]] = {"none": (), "reference": ("ref",), "all": ("ref", "opponent")}
"""What `python -m tpu logprobs` has made beforehand -> the models that need not be there. (An anchor moves.)"""
WIDTHS = tuple(name for name in DTYPES if name != "float64")
"""The dtypes of `train` that a TPU has."""
_TASK = {"sft": "one sequence a prompt (half a batch of dpo's)", "reward_model": "two sequences a prompt"}
_INTEGERS, _FLAGS = ("tokens", "label"), ("loss_mask", "attention_mask", "response_mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is planned."""

    model: str
    """A preset, a config.json, or a folder that has one."""
    topology: str
    """Of one slice: `v5e:4x4`."""
    slices: int = 1
    """How many of them; `data` is what crosses them."""
    method: str = "dpo"
    batch: int = 16
    """Prompts of the global batch."""
    seq: int = 2048
    """Tokens of prompt and response together."""
    mesh: str | None = None
    """`fsdp=8,tensor=2`; None: the widest `fsdp` that fits."""
    precomputed: str = "none"
    """`PRECOMPUTED`: whose log-probs come with the batch; these models are left out of the program."""
    remat: str = "full"
    accumulate: int = 1
    """Micro-batches."""
    optimizer: str = "adamw"
    dtype: str = "bfloat16"
    """Of the computation."""
    param_dtype: str = "float32"
    """Of the policy; Adam's moments are as wide."""
    reference_dtype: str = "bfloat16"
    history: int = 2
    """Opponents, for a method that has any."""
    attention: str | None = None
    """None: the flash kernel where it takes the shapes, else plain JAX."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A request with its names looked up."""

    request: Request
    config: lm.DecoderConfig
    method: Method

    @property
    def responses(self) -> int:
        """To a prompt."""
        return self.method.num_responses or max(2, self.method.min_responses)

    @property
    def tokens(self) -> int:
        """Of the global batch."""
        return self.request.batch * self.responses * self.request.seq

    @property
    def models(self) -> dict[str, int]:
        """The other models that the step runs forward, and how many of each."""
        made = {SCORED[role] for role in PRECOMPUTED[self.request.precomputed]}
        return scored(self.method, made, self.request.history)

    def shapes(self) -> Any:
        """Of the policy's parameters."""
        return _shapes(self.config)

    def axes(self) -> Any:
        """Their logical axes."""
        return _axes(self.config)

    def batch(self) -> dict[str, Struct]:
        """What the step is given."""
        r = self.request
        sizes = {"prompt": r.batch, "response": self.responses, "time": r.seq, "opponent": r.history, "objective": 2}
        made = {*SCORED.values(), "value", "behaviour_logp", "response_mask"}  # by the step itself
        wanted = {*TOKENS, *self.method.reads} - made
        if reads(self.method, "behaviour"):
            wanted.add("behaviour_token_logp")
        wanted |= {SCORED[role] for role in PRECOMPUTED[r.precomputed] if reads(self.method, role)}
        dtype = lambda name: jnp.int32 if name in _INTEGERS else jnp.bool_ if name in _FLAGS else jnp.float32
        return {
            name: Struct(tuple(sizes[axis] for axis in axes), dtype(name))
            for name, axes in BATCH_AXES.items()
            if name in wanted
        }


@functools.cache
def _shapes(config: lm.DecoderConfig) -> Any:
    return jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))


@functools.cache
def _axes(config: lm.DecoderConfig) -> Any:
    return lm.logical_axes(config)


def read_model(model: str) -> lm.DecoderConfig:
    """A preset, a config.json or its folder.

    Raises: UnknownName; ValueError for a URL; OSError or ValueError on a file that is none.
    """
    if is_url(model):
        raise ValueError(
            f"--model {model}: a plan reads no weights, but the config.json beside them, and from a disk: copy that "
            "file (gcloud storage cp), and name the copy"
        )
    path = Path(model)
    if model in lm.PRESETS or not (path.suffix == ".json" or path.is_dir()):
        return lm.preset(model)
    from alignjax.lm.huggingface.config_json import from_json

    file = path / "config.json" if path.is_dir() else path
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None


def read_request(request: Request, *, on_tpu: bool = True) -> Job:
    """Raises: ValueError or UnknownName, naming what does not fit; OSError for a config.json that cannot be read."""
    config = read_model(request.model)
    name = request.method.replace("-", "_")
    if name in TASKS:
        raise ValueError(
            f"--method {name} is trained, but not planned: it is one model on {_TASK[name]}. Nearest in cost is "
            "--method dpo --precomputed, which runs the policy alone on two sequences a prompt"
        )
    method = alignjax.methods[checks.member("method", name, alignjax.methods)]
    if request.seq > config.max_length:
        raise ValueError(f"seq = {request.seq} is more than the {config.max_length} that {request.model} takes")
    for name, options in (
        ("precomputed", PRECOMPUTED),
        ("dtype", WIDTHS),
        ("param_dtype", WIDTHS),
        ("reference_dtype", WIDTHS),
        ("optimizer", OPTIMISERS),
    ):
        checks.member(name, getattr(request, name), options)
    if request.precomputed != "none" and not any(reads(method, role) for role in PRECOMPUTED[request.precomputed]):
        raise ValueError(f"{method.name} reads no reference: there are no log-probs of it to compute beforehand")
    changes: dict[str, Any] = {"dtype": request.dtype, "param_dtype": request.param_dtype, "remat": request.remat}
    config = dataclasses.replace(config, **changes, attention=request.attention or "xla")
    if request.attention is None and on_tpu:
        q = Struct((1, request.seq, config.num_heads, config.head_size), config.compute_dtype)
        try:
            attention.chosen("flash", q, config.attention_softcap, config.window if any(config.local) else None)  # type: ignore[arg-type]
            config = dataclasses.replace(config, attention="flash")
        except ValueError:
            pass
    return Job(request, config, method)


def parameters(shapes: Any) -> int:
    """How many."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def lower(job: Job, mesh: Mesh) -> Any:
    """The step of `make_train_step`, lowered for the devices of the mesh; nothing is compiled or computed.

    Raises: ValueError, naming the array, if the model or the batch does not divide over the mesh.
    """
    r = job.request
    optimiser = make_optimiser(r.optimizer, make_schedule("constant", 1e-6, 1))
    carried = train_step.Carried.by(job.method, history=job.models.get("opponent", 0))
    params, batch = job.shapes(), job.batch()
    state = jax.eval_shape(lambda p: train_step.new_state(optimiser, p, carried, d_model=job.config.d_model), params)
    narrow = lambda x: Struct(x.shape, jnp.dtype(r.reference_dtype))
    reference = jax.tree.map(narrow, params) if "ref" in job.models else None
    where: Mapping[str, Any] = {}
    if reference is None:
        where = {"reference_where": jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())}
    hyper = train_step.loss_hyperparameters(job.method, {})
    step: Any = train_step.make_train_step(
        job.config, job.method, hyper, optimiser, mesh, batch, carried=carried, accumulate=r.accumulate, **where
    )
    return step.lower(state, reference, batch)
