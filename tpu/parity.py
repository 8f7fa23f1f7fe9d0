"""Parity with PyTorch on a checkpoint: logits against `transformers`; losses and gradients of the pairwise methods
against the formulas that TRL publishes, in torch, on the forward pass of `transformers`.
The policy is the checkpoint with a little noise, so that it differs from its reference; both are exported by `lm.save`
and loaded by `transformers`, so that the export is tried as well. Gradients come back as a folder of tensors with the
checkpoint's names, which `lm.load` reads. Needs the extra `parity`.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import alignjax
from alignjax import lm
from alignjax.samples import Samples

BETA = 0.1
SMOOTHING = 0.1
LOGITS, LOSS, GRADIENT = 1e-4, 1e-5, 1e-4
"""Largest errors: of logits, of losses relative to 1 + |loss|, of gradients relative to the largest entry."""


@dataclasses.dataclass(frozen=True)
class Formula:
    """A loss of TRL's DPOTrainer (1.16) on sums of log-probs, and the method here that it should be."""

    method: str
    hyper: Mapping[str, Any]
    torch: Callable[[Any, Any, Any, Any, Any], Any]
    """(torch, chosen log-ratio, rejected log-ratio, chosen tokens, rejected tokens) -> [B]."""
    per_token: bool = False
    """TRL divides log-ratios by the tokens of the response here, and so do we for the comparison."""


FORMULAS: Mapping[str, Formula] = {
    "sigmoid": Formula(
        "dpo", {"beta": BETA}, lambda t, c, r, m, n: -t.nn.functional.logsigmoid(BETA * (c - r))
    ),
    "hinge": Formula("hinge", {"beta": BETA}, lambda t, c, r, m, n: t.relu(1 - BETA * (c - r))),
    "ipo": Formula(
        "ipo", {"beta": BETA}, lambda t, c, r, m, n: (c / m - r / n - 1 / (2 * BETA)) ** 2, per_token=True
    ),
    "robust": Formula(
        "robust_dpo",
        {"beta": BETA, "label_smoothing": SMOOTHING},
        lambda t, c, r, m, n: (
            -(1 - SMOOTHING) * t.nn.functional.logsigmoid(BETA * (c - r))
            + SMOOTHING * t.nn.functional.logsigmoid(-BETA * (c - r))
        )
        / (1 - 2 * SMOOTHING),
    ),
    "sigmoid, label_smoothing": Formula(
        "cdpo",
        {"beta": BETA, "label_smoothing": SMOOTHING},
        lambda t, c, r, m, n: (
            -(1 - SMOOTHING) * t.nn.functional.logsigmoid(BETA * (c - r))
            - SMOOTHING * t.nn.functional.logsigmoid(-BETA * (c - r))
        ),
    ),
}  # fmt: skip
"""TRL's `loss_type` -> formula. `label_smoothing` with sigmoid is that of TRL before 1.0."""


def random_pairs(
    vocab_size: int, max_length: int, seed: int, *, pairs: int = 3, pad: int | None = None
) -> dict[str, np.ndarray]:
    """Right-padded pairs with one prompt each: tokens, loss_mask and attention_mask `[B, 2, T]`.

    `pad` is no token of a text: torch's embedding gives it no gradient, wherever it stands.
    """
    others = np.array([token for token in range(vocab_size) if token != pad])
    rng = np.random.default_rng(seed)
    length = min(24, max_length)
    tokens = np.zeros((pairs, 2, length), np.int32)
    trained, keep = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for n in range(pairs):
        prompt = rng.choice(others, rng.integers(2, length // 2))
        for k in range(2):
            response = rng.choice(others, rng.integers(1, length - len(prompt) + 1))
            end = len(prompt) + len(response)
            tokens[n, k, :end] = np.concatenate([prompt, response])
            trained[n, k, len(prompt) : end], keep[n, k, :end] = True, True
    return {"tokens": tokens, "loss_mask": trained, "attention_mask": keep}


def noisy(params: Any, seed: int, scale: float = 0.05) -> Any:
    """Parameters with relative noise: another policy, of the same sizes."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x * (1 + scale * jax.random.normal(k, x.shape, x.dtype)) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def compare(folder: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Largest errors by name, and whether each is within its bound.

    Raises: ImportError without torch and transformers; what `lm.load` raises.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config, reference = lm.load(folder, dtype="float32")
    config = dataclasses.replace(config, dtype="float32", param_dtype="float32")
    policy = noisy(reference, seed)
    pad = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("pad_token_id")
    batch = random_pairs(config.vocab_size, config.max_length, seed, pad=pad)
    flat = {name: array.reshape(-1, array.shape[-1]) for name, array in batch.items()}
    ids, keep = torch.tensor(flat["tokens"], dtype=torch.long), torch.tensor(flat["attention_mask"])
    report: dict[str, Any] = {"model": str(folder), "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        own, gradients = Path(temporary) / "policy", Path(temporary) / "gradients"
        lm.save(own, config, policy)
        theirs = AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32, attn_implementation="eager")
        behind = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        theirs.train(False), behind.train(False)

        def token_logps(model: Any) -> Any:
            logp = torch.log_softmax(model(input_ids=ids, attention_mask=keep.long()).logits.float(), -1)
            return logp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]

        def read(tensors: Any) -> Any:
            gradients.mkdir(exist_ok=True)
            shutil.copy(own / "config.json", gradients / "config.json")
            save_file(tensors, str(gradients / "model.safetensors"), metadata={"format": "pt"})
            return lm.load(gradients, dtype="float32")[1]

        with torch.no_grad():
            logits = theirs(input_ids=ids, attention_mask=keep.long()).logits.float().numpy()
            ref = token_logps(behind)
        ours = np.asarray(lm.logits(config, policy, flat["tokens"], flat["attention_mask"]))
        error = np.abs(ours - logits)[flat["attention_mask"]].max()
        report["rows"]["logits"] = {"error": float(error), "bound": LOGITS}
        mask = torch.tensor(flat["loss_mask"][:, 1:])
        for name, formula in FORMULAS.items():
            theirs.zero_grad()
            ratio = ((token_logps(theirs) - ref) * mask).sum(-1).reshape(-1, 2)
            counts = mask.sum(-1).reshape(-1, 2)
            value = formula.torch(torch, ratio[:, 0], ratio[:, 1], counts[:, 0], counts[:, 1]).mean()
            value.backward()
            loss, slope = _ours(config, policy, reference, batch, formula)
            wanted = read({n: p.grad.contiguous() for n, p in theirs.named_parameters()})
            scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
            difference = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), slope, wanted)))
            missed = abs(float(loss) - value.item()) / (1 + abs(value.item()))
            report["rows"][f"{name} -> {formula.method}: loss"] = {"error": missed, "bound": LOSS}
            report["rows"][f"{name} -> {formula.method}: gradient"] = {"error": difference / scale, "bound": GRADIENT}
    for row in report["rows"].values():
        row["holds"] = bool(row["error"] <= row["bound"])
    report["holds"] = all(row["holds"] for row in report["rows"].values())
    return report


def _ours(config: Any, policy: Any, reference: Any, batch: Mapping[str, Any], formula: Formula) -> Any:
    method = alignjax.methods[formula.method]
    counts = batch["loss_mask"].sum(-1) if formula.per_token else 1
    whole = lambda p: lm.token_logps(config, p, *(batch[n] for n in ("tokens", "loss_mask", "attention_mask"))).sum(-1)
    behind = jax.lax.stop_gradient(whole(reference))
    loss = lambda p: method(Samples(logp=whole(p) / counts, ref_logp=behind / counts), **formula.hyper).mean()
    return jax.jit(jax.value_and_grad(loss))(policy)
