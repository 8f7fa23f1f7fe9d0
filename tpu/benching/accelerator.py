"""On an accelerator: the share of its peak that learning reaches, and generation beside what its memory allows."""

import tempfile
from pathlib import Path

import jax
import numpy as np

import alignjax
from alignjax import lm
from tpu import flops as peaks
from tpu.benching import dpo, generation, work
from tpu.benching.race import Line, Machine, not_measured, rate_lines, take_turns

AIM = ">= 55 %"
METHODS = ("dpo", "copg")


def lines(quick: bool, repeats: int, machine: Machine) -> list[Line]:
    """Model FLOP/s of DPO and CoPG, and tokens a second of generation; or that there is no accelerator."""
    size = work.Size(work.LLAMA_1B, 1 if quick else 4, 2_048)
    what = f"learning step: {size}"
    peak = peaks.peak(jax.devices()[:1])
    if peak is None:
        why = "no GPU or TPU here" if jax.default_backend() == "cpu" else f"peak of {jax.devices()[0]} is not known"
        return [not_measured(what, name, "% of peak", why, AIM) for name in METHODS] + [
            not_measured(f"generation: {work.LLAMA_1B.d_model} wide, 16 layers", "alignjax", "tokens/s", why)
        ]
    params = lm.init(size.config, jax.random.key(0))
    found = [share(size, name, params, peak, repeats) for name in METHODS]
    rows, before, new = 16, 512, 256
    prompts = np.random.default_rng(0).integers(0, size.config.vocab_size, (rows, before))
    run = generation.contender(size.config, params, prompts, new, 1)
    most = generation.limit(size.config, rows, before + new // 2, machine)
    told = take_turns({"alignjax": run}, repeats)
    return [*found, *rate_lines(f"generate {new} after {before}, {rows} prompts: {size}", told, "alignjax", limit=most)]


def share(size: work.Size, name: str, params: object, peak: float, repeats: int) -> Line:
    """Model FLOP/s (nothing that is computed again) of one device, in percent of its peak."""
    with tempfile.TemporaryDirectory() as folder:
        batch = work.batch(size, Path(folder))[0]
    method = alignjax.methods[name]
    if "reward" in method.reads:
        batch["reward"] = np.tile(np.array([1, 0], np.float32), (size.pairs, 1))
    run = dpo.step_of(size, name, params, {k: v for k, v in batch.items()})
    needed = work.flops(size, int(batch["loss_mask"].sum()), 4)
    rates = sorted(100 * needed / one["seconds"] / peak for one in take_turns({name: run}, repeats)[name])
    return Line(
        what=f"learning step: {size}", who=name, value=rates[len(rates) // 2], unit="% of peak", low=rates[0],
        high=rates[-1], limit=100.0, aim=AIM,
    )  # fmt: skip
