"""What a step needs, counted by hand from the sizes of the model: the other half of a plan, and its check.

A token costs 2 operations for every parameter forwards and 4 backwards; attention 4 H for every head and pair of
positions forwards, of which causality leaves half.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from tpu import flops
from tpu.flops import BACKWARD, FORWARD
from tpu.plan.chips import Chip
from tpu.plan.program import Job, parameters

AT_WORK = 5
"""What a layer holds on the way back, of what its products give: about what compiled steps of 8B and 70B have."""
TRAFFIC = 45
"""Bytes to and from HBM for every entry of the stream between layers, in a layer and a pass, beside what products hide:
about what compiled steps of 8B and 70B have."""


def attention_flops(job: Job, passes: float, *, windows: bool = False) -> float:
    """Of all layers and the global batch; `passes`: a forward pass is 1, a backward pass 2.

    `windows`: what the mathematics needs, in a local layer the tokens of its window; a program for TPU hides the others
    only after it has made their scores.
    """
    c, seq = job.config, job.request.seq
    spans = [min(c.window or seq, seq) if windows and local else seq for local in c.local]
    seen = sum(span * (1 - span / (2 * seq)) for span in spans)  # by a token, on average: fewer at the beginning
    return passes * 4 * c.num_heads * c.head_size * job.tokens * seen


def model_flops(job: Job) -> float:
    """What the mathematics of a step needs, globally: 6 N a token for the policy, 2 N for every other model, attention.

    N are all parameters, as is the custom; a table that is only looked up is among them.
    """
    passes = FORWARD + BACKWARD + FORWARD * sum(job.models.values())
    own = flops.per_token(parameters(job.shapes()), sum(job.models.values())) * job.tokens
    return own + attention_flops(job, passes, windows=True)


def executed_flops(job: Job) -> float:
    """What the program does, globally: without what is only looked up, and with what `remat` does again.

    The unembedding is always made again, in chunks of positions; of a layer the last product is not, which nothing
    backwards reads.
    """
    c, others = job.config, sum(job.models.values())
    head = c.vocab_size * c.d_model
    layers = parameters(job.shapes()) - head * (1 if c.tied else 2)
    again = 1 if c.remat == "full" else 0
    passes = FORWARD + BACKWARD + again + others
    last = again * c.num_layers * c.d_mlp * c.d_model
    return 2 * (passes * layers - last + (4 + others) * head) * job.tokens + attention_flops(job, passes)


def gathered_bytes(job: Job, ways: int, width: int) -> float:
    """FSDP: what arrives at a chip of `ways` when every parameter is gathered whole for every pass over it: forwards
    and again backwards (with `remat` by one gather for both) of the policy, forwards of the others. The unembedding is
    kept for the way back. The lookup of a token takes rows of its table, and gathers nothing.

    `width`: bytes of a gathered entry.
    """
    c = job.config
    head = c.vocab_size * c.d_model
    layers = parameters(job.shapes()) - head * (1 if c.tied else 2)
    others = sum(job.models.values())
    return ((2 + others) * layers + (1 + others) * head) * width * (ways - 1) / ways


def held(job: Job) -> dict[str, float]:
    """Bytes of all parameters of each model that stays in memory, globally: the policy's, and by the others' roles."""
    n = parameters(job.shapes())
    own = jnp.dtype(job.request.param_dtype).itemsize
    width = {"ref": jnp.dtype(job.request.reference_dtype).itemsize}
    return {"parameters": n * own, **{role: count * n * width.get(role, own) for role, count in job.models.items()}}


def argument_bytes(job: Job, ways: int) -> float:
    """Parameters, the two moments of Adam, and the other models, split so many ways."""
    own = held(job)
    return (sum(own.values()) + 2 * own["parameters"]) / ways


def ways(sizes: Mapping[str, int]) -> int:
    """Over how many chips a parameter is split."""
    return sizes["fsdp"] * sizes["sequence"] * sizes["tensor"]


def said(job: Job, sizes: Mapping[str, int]) -> dict[str, float]:
    """Bytes that arrive at a chip, by collective and axis: parameters gathered and gradients scattered over `fsdp`
    (and `sequence`), and summed over `data`, within a slice and then between slices.

    What `tensor` says of activations: two all-reduces of a layer forwards and two backwards, and again with `remat`.
    """
    r, c = job.request, job.config
    width = jnp.dtype(r.dtype).itemsize
    split, over = sizes["fsdp"] * sizes["sequence"], sizes["tensor"]
    found: dict[str, float] = {}
    if split > 1:
        axis = "+".join(name for name in ("fsdp", "sequence") if sizes[name] > 1)
        gathered = r.accumulate * gathered_bytes(job, split, width) / over
        scattered = r.accumulate * parameters(job.shapes()) * width * (split - 1) / split / over
        found |= {f"all-gather {axis}": gathered, f"reduce-scatter {axis}": scattered}
    whole = 2 * parameters(job.shapes()) * width / (split * over)
    within = sizes["data"] // r.slices
    if within > 1:
        found["all-reduce data"] = r.accumulate * whole * (within - 1) / within
    if r.slices > 1:
        found["all-reduce data/dcn"] = r.accumulate * whole / within * (r.slices - 1) / r.slices
    if over > 1:
        passes = 2 * (FORWARD + 1 + (c.remat == "full") + sum(job.models.values()))
        mine = job.tokens / (sizes["data"] * split) * c.d_model * width
        found["all-reduce tensor"] = passes * c.num_layers * 2 * mine * (over - 1) / over
    return found


def peak_bytes(job: Job, sizes: Mapping[str, int]) -> float:
    """The most that lives on a chip, about: arguments and what lives within a step."""
    return argument_bytes(job, ways(sizes)) + temp_bytes(job, sizes)


def temp_bytes(job: Job, sizes: Mapping[str, int]) -> float:
    """What lives within a step on a chip at its fullest, about. On the way back through the layers: what they keep, one
    layer at work, two that are gathered, and all gradients. Or at the log-probs: what the layers keep, the unembedding
    and its gradient.
    """
    r, c, n = job.request, job.config, parameters(job.shapes())
    own, narrow = jnp.dtype(r.param_dtype).itemsize, jnp.dtype(r.dtype).itemsize
    tokens = job.tokens / r.accumulate / (sizes["data"] * sizes["fsdp"] * sizes["sequence"])
    wide = c.num_heads * c.head_size + 2 * c.kv_heads * c.head_size + 2 * c.d_mlp
    dots = narrow * (wide / sizes["tensor"] + 2 * c.d_model)  # of a token in a layer
    rest = narrow * ((c.num_heads * c.head_size + 2 * c.d_mlp) / sizes["tensor"] + 4 * c.d_model)
    kept = narrow * c.d_model + {"full": 0, "dots": dots, "none": dots + rest}[c.remat]
    head = c.vocab_size * c.d_model / sizes["tensor"]
    layer = (n - c.vocab_size * c.d_model * (1 if c.tied else 2)) / c.num_layers / sizes["tensor"]
    gathered = 2 * layer * narrow if ways(sizes) > sizes["tensor"] else 0.0
    back = tokens * AT_WORK * dots + gathered + n * own / ways(sizes)
    return tokens * c.num_layers * kept + max(back, head * (narrow + 4))


def seconds(job: Job, sizes: Mapping[str, int], chip: Chip) -> float:
    """Of a step, about, with nothing overlapped: flops at the peak, what layers read and write, and wires."""
    c = job.config
    chips = math.prod(sizes.values())
    passes = FORWARD + BACKWARD + (c.remat == "full") + sum(job.models.values())
    moved = job.tokens / chips * c.num_layers * c.d_model * TRAFFIC * passes + 8 * parameters(job.shapes()) * 4 / ways(
        sizes
    )
    links = {"data/dcn": chip.dcn}
    wires = sum(size / links.get(name.split()[1], chip.link * chip.dims) for name, size in said(job, sizes).items())
    return executed_flops(job) / chips / chip.peak + moved / chip.bandwidth + wires


def beforehand_seconds(job: Job, chips: int, chip: Chip) -> float:
    """Of making the log-probs of a batch that the step does not make itself, once: forward passes, at the peak."""
    free = dataclasses.replace(job, request=dataclasses.replace(job.request, precomputed="none"))
    left_out = sum(free.models.values()) - sum(job.models.values())
    one = 2 * parameters(job.shapes()) * job.tokens + attention_flops(job, FORWARD)
    return left_out * one / chips / chip.peak
