"""The flags of `train` that describe a planned step: its defaults are others."""

import alignjax
from tpu.bridge import reads
from tpu.plan.program import PRECOMPUTED, Request


def train_flags(request: Request) -> list[str]:
    """What `python -m tpu train` has to be told beside --model, --data and --out, word by word.

    `request` names its mesh. Where log-probs come with the data, their files are given as well (--ref-logps).
    """
    r = request
    name = r.method.replace("-", "_")
    method = alignjax.methods[name]
    found = {
        "method": name, "mesh": r.mesh, "batch": r.batch, "accumulate": r.accumulate, "max-length": r.seq,
        "remat": r.remat, "dtype": r.dtype, "param-dtype": r.param_dtype, "optimizer": r.optimizer,
    }  # fmt: skip
    if reads(method, "ref") and "ref" not in PRECOMPUTED[r.precomputed]:
        found["reference-dtype"] = r.reference_dtype
    if reads(method, "opponent"):
        found["history"] = r.history
    return [word for name, value in found.items() for word in (f"--{name}", str(value))]
