"""A batch that a loss was not finite on, met again by the state that met it: which prompts, which parameters."""

import dataclasses
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tpu import remote
from tpu.arguments import UsageError
from tpu.checkpoints import Checkpoints
from tpu.partition import laid_out
from tpu.run_config import Settings


def replay(file: Any, settings: Settings, *, as_json: bool = False) -> str:
    """What is not finite, as text: `file` is RUN/nan-batch-<step>.npz, beside RUN/nan-state-<step>.

    Raises: UsageError if the file is not of a run, or its state is gone.
    """
    from tpu.assembly import assemble

    found = re.fullmatch(r"nan-batch-(\d+)\.npz", file.name)
    state_folder = file.parent / f"nan-state-{found[1]}" if found else file
    if found is None or not file.is_file() or not state_folder.is_dir():
        raise UsageError(f"--replay {file} must be a file RUN/nan-batch-<step>.npz with RUN/nan-state-<step> beside it")
    run = assemble(dataclasses.replace(settings, checks=False))
    with Checkpoints(state_folder) as kept:
        restored = kept.restore(run.state)
    assert restored is not None
    with np.load(remote.local(str(file))) as saved:
        batch = {name: saved[name] for name in saved.files}
    return _told(look(run.parts, restored.state, run.reference, batch), as_json)


def look(parts: Any, state: Any, reference: Any, batch: Any) -> dict[str, Any]:
    """The loss of each prompt by itself, and the parameters whose value or gradient is not finite."""
    one = watched(parts)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    size = next(iter(batch.values())).shape[0]
    losses, slopes = [], set()
    for n in range(size):
        # As often as prompts are split over devices: the mean over them is the loss of the one.
        row = parts.placed({key: np.repeat(x[n : n + 1], parts.ways, 0) for key, x in batch.items()})
        value, fine = jax.device_get(one(state, reference, row))
        losses.append(float(value))
        slopes |= {name(path) for path, ok in jax.tree_util.tree_leaves_with_path(fine) if not ok}
    broken = [name(p) for p, x in jax.tree_util.tree_leaves_with_path(state.params) if not bool(jnp.isfinite(x).all())]
    return {"losses": losses, "parameters": broken, "gradients": sorted(slopes)}


def watched(parts: Any) -> Any:
    """(state, reference, rows) -> the mean loss of the rows, and which parts of its gradient are finite; jitted."""

    @jax.jit
    def one(state: Any, reference: Any, rows: Any) -> Any:
        def loss(params: Any) -> Any:
            sums = parts.sums(dataclasses.replace(state, params=params), reference, rows)
            return sums.loss / jnp.maximum(sums.count, 1)

        with laid_out(parts.mesh):
            value, slope = jax.value_and_grad(loss)(state.params)
        return value, jax.tree.map(lambda g: jnp.isfinite(g).all(), slope)

    return one


def _told(found: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps({**found, "losses": [x if np.isfinite(x) else None for x in found["losses"]]})
    lines = [
        f"prompt {n}: loss {x:g}{'' if np.isfinite(x) else '   <- not finite'}" for n, x in enumerate(found["losses"])
    ]
    lines.append(f"parameters that are not finite: {', '.join(found['parameters']) or 'none'}")
    lines.append(f"parameters whose gradient is not finite: {', '.join(found['gradients']) or 'none'}")
    return "\n".join(lines)
