"""Small random models of every family as `transformers` writes them, with the logits it computes.

    python tests/lm/make_fixtures.py [FOLDER]        needs the `parity` extra; tests/lm/fixtures by default

Each folder has config.json, safetensors and expected.npz: `tokens` and `mask` [2, 24] (the second row is padded on the
left) and float32 `logits` [2, 24, V]. All parameters are random, norms and biases too, so that none can be forgotten.
Windows are of 5 tokens and original lengths of 8, so that 24 tokens go past them. `OLD` are written in the layout that
transformers had before version 5 (rope_theta, rope_scaling, torch_dtype), which it still reads.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

FIXTURES = Path(__file__).resolve().parent / "fixtures"
V, T, PADDED = 40, 24, 7
SIZES = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8, "rope_theta": 50.0}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 50.0,
        "beta_fast": 2.0, "beta_slow": 0.5}  # fmt: skip
GEMMA3 = {"full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0},
          "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}}  # fmt: skip
FAMILIES = {
    "llama2": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 6, "attention_bias": True,
                         "mlp_bias": True, "max_position_embeddings": 32}),
    "llama_linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
                               "max_position_embeddings": 8, "hidden_act": "gelu"}),
    "llama_dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
                                "max_position_embeddings": 8, "hidden_act": "relu"}),
    "llama_bfloat16": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 5, "head_dim": 8}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
                        "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8, "rope_parameters": YARN, "max_position_embeddings": 32}),
    "gemma": ("Gemma", {"head_dim": 6, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2", {"head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 9, "num_hidden_layers": 3,
                          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {"head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 9, "num_hidden_layers": 3,
                          "rope_parameters": GEMMA3, "layer_types": ["sliding_attention", "full_attention",
                                                                     "sliding_attention"]}),
}  # fmt: skip
"""Name -> class, and what it has besides `SIZES`."""
OLD = ("llama2", "llama_linear", "mistral", "gemma2")


def old_layout(raw: dict) -> dict:
    """The same config.json as transformers 4 wrote it."""
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    raw["torch_dtype"] = raw.pop("dtype")
    return raw


def logits(folder: Path, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Row by row and from the folder anew: dynamic frequencies depend on what was seen before."""
    rows = []
    for row, keep in zip(torch.tensor(tokens), torch.tensor(mask), strict=True):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        positions = (keep.cumsum(0) - 1).clamp(min=0)
        with torch.no_grad():
            rows.append(model(row[None], attention_mask=keep[None], position_ids=positions[None]).logits[0].numpy())
    return np.stack(rows)


def make(name: str, folder: Path) -> None:
    """One fixture."""
    kind, extra = FAMILIES[name]
    config_class = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    config = getattr(transformers, config_class)(**(SIZES | extra))
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    if name == "llama_bfloat16":
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="4KB")
    else:
        model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name in OLD:
        raw = old_layout(json.loads((folder / "config.json").read_text()))
        (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    tokens = np.random.default_rng(0).integers(0, V, (2, T))
    mask = np.ones_like(tokens)
    mask[1, :PADDED] = 0
    np.savez_compressed(
        folder / "expected.npz", tokens=tokens.astype(np.int16), mask=mask.astype(bool),
        logits=logits(folder, tokens, mask),
    )  # fmt: skip


if __name__ == "__main__":
    for each in FAMILIES:
        make(each, (Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES) / each)
