"""Compiler flags for pods: latency hiding and asynchronous collectives, each with its reason and source.

TPU flags go into `LIBTPU_INIT_ARGS`, GPU flags into `XLA_FLAGS`, before JAX starts. `python -m tpu flags` prints them,
and `python -m tpu plan` compiles with them. All of the TPU's but the last are what libtpu does unasked today (the 8B
step is planned alike with and without): a run that names them does not change when the defaults do.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from alignjax import checks

_MAXTEXT = "MaxText, benchmarks/xla_flags_library.py (github.com/AI-Hypercomputer/maxtext)"
_JAX_GPU = "docs.jax.dev/en/latest/gpu_performance_tips.html"
_NVIDIA = "docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance"
TPUS = ("v4", "v5e", "v5p", "v6e")


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag."""

    name: str
    value: str
    why: str
    source: str
    chips: tuple[str, ...] = TPUS
    """That it is for."""

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


FLAGS: tuple[Flag, ...] = (
    Flag(
        "xla_enable_async_all_gather", "true",
        "a parameter's all-gather is split into start and end, with the layer before it in between", _MAXTEXT,
    ),
    Flag(
        "xla_enable_async_collective_permute", "true",
        "the permutations that a gathered product is turned into run beside the product", _MAXTEXT,
    ),
    Flag(
        "xla_tpu_enable_async_collective_fusion", "true",
        "a collective is carried along in the fusions that run meanwhile", _MAXTEXT,
    ),
    Flag(
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather", "true",
        "so are all-gathers, which are most of what FSDP says", _MAXTEXT,
    ),
    Flag(
        "xla_tpu_enable_async_collective_fusion_multiple_steps", "true",
        "over several fusions, where one is too short to hide it", _MAXTEXT,
    ),
    Flag("xla_tpu_overlap_compute_collective_tc", "true", "the core computes while its collective goes on", _MAXTEXT),
    Flag(
        "xla_tpu_enable_data_parallel_all_reduce_opt", "true",
        "sums of gradients over `data`, between slices above all, go on while the next layer is differentiated",
        _MAXTEXT,
    ),
    Flag(
        "xla_tpu_data_parallel_opt_different_sized_ops", "true",
        "the same, over loop iterations and for parameters of different sizes", _MAXTEXT,
    ),
    Flag(
        "xla_jf_spmd_threshold_for_windowed_einsum_mib", "1000000",
        "never: parameters are gathered, and not sent round a ring of permutations between parts of a product, whose "
        "partial sums then lie in HBM, in bfloat16. DPO of 8B on v5e:4x4: 10% less time by the plan, serial, and 9% as "
        "scheduled",
        "measured with `python -m tpu plan`",
    ),
    Flag(
        "xla_gpu_enable_latency_hiding_scheduler", "true",
        "collectives are started early and awaited late", _JAX_GPU, ("gpu",),
    ),
    Flag(
        "xla_gpu_enable_pipelined_all_gather", "true",
        "the gather of the next layer's parameters begins in the iteration before", _NVIDIA, ("gpu",),
    ),
    Flag(
        "xla_gpu_enable_pipelined_reduce_scatter", "true",
        "the scatter of a layer's gradients ends in the iteration after", _NVIDIA, ("gpu",),
    ),
    Flag(
        "xla_gpu_enable_pipelined_all_reduce", "true",
        "the same for gradients that are summed over `data`", _NVIDIA, ("gpu",),
    ),
    Flag(
        "xla_gpu_enable_while_loop_double_buffering", "true",
        "two layers to an iteration of the scan, so that the pipelined gather needs no copy", _NVIDIA, ("gpu",),
    ),
    Flag(
        "xla_gpu_all_gather_combine_threshold_bytes", "1073741824",
        "a layer's parameters are gathered in one message, and not one by one", _NVIDIA, ("gpu",),
    ),
    Flag(
        "xla_gpu_reduce_scatter_combine_threshold_bytes", "134217728",
        "so are its gradients scattered; smaller, because they wait for the slowest of them", _NVIDIA, ("gpu",),
    ),
)  # fmt: skip
"""All of them."""

VARIABLES: Mapping[str, str] = MappingProxyType({**dict.fromkeys(TPUS, "LIBTPU_INIT_ARGS"), "gpu": "XLA_FLAGS"})
"""Chip -> the environment variable that its flags go into."""


def flags(chip: str) -> tuple[Flag, ...]:
    """Those for a chip: a TPU's name, or `gpu`. Raises: UnknownName."""
    checks.member("chip", chip, VARIABLES)
    return tuple(flag for flag in FLAGS if chip in flag.chips)


def environment(chip: str) -> tuple[str, str]:
    """(variable, value) that sets them, before JAX starts. Raises: UnknownName."""
    return VARIABLES[checks.member("chip", chip, VARIABLES)], " ".join(map(str, flags(chip)))


def shell(chip: str) -> str:
    """A line of shell that adds them to what the variable holds. Raises: UnknownName."""
    name, value = environment(chip)
    return f'export {name}="{value} ${{{name}:-}}"'


def compiler_options(chip: str) -> dict[str, str]:
    """The same for `lowered.compile(compiler_options=...)`. Raises: UnknownName."""
    return {flag.name: flag.value for flag in flags(chip)}
