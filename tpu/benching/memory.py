"""Memory of the log-prob step, forwards and backwards, against the vocabulary: ours beside the plain formula.

Read from the compiled program: what it needs beside its arguments and results. The results include the gradient of the
unembedding, `[V, D]`; whoever trains it has to hold that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.lm import fused
from tpu.benching.race import Line

VOCABULARIES = (8_192, 32_768, 65_536, 131_072, 262_144)


def plain(h: jax.Array, matrix: jax.Array, targets: jax.Array, **_: Any) -> jax.Array:
    """The formula as one writes it."""
    logp = jax.nn.log_softmax(fused.project(h, matrix))
    return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0]


def mebibytes(score: Callable[..., Any], batch: int, length: int, width: int, vocab_size: int) -> float:
    """Of temporaries of the compiled gradient, MiB."""
    h = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)
    matrix = jax.ShapeDtypeStruct((vocab_size, width), jnp.float32)
    targets = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    step = jax.jit(jax.grad(lambda h, m, t: score(h, m, t).sum(), (0, 1)))
    analysis: Any = step.lower(h, matrix, targets).compile().memory_analysis()
    return float(analysis.temp_size_in_bytes) / 2**20


def lines(quick: bool, vocabularies: Sequence[int] | None = None) -> list[Line]:
    """Two lines a vocabulary."""
    batch, length, width = (2, 64, 32) if quick else (16, 512, 256)
    found = []
    for vocab in vocabularies or (VOCABULARIES[:2] if quick else VOCABULARIES):
        what = f"log-prob step, {batch} x {length} tokens, width {width}, vocabulary {vocab:,}"
        ours, theirs = (mebibytes(f, batch, length, width, vocab) for f in (fused.target_logps, plain))
        matrix = vocab * width * 4 / 2**20
        note = f"W and its gradient are {matrix:.0f} MiB each"
        found += [
            Line(what=what, who="alignjax", value=ours, unit="MiB", note=note),
            Line(what=what, who="plain formula", value=theirs, unit="MiB", ratio=theirs / ours),
        ]
    return found
