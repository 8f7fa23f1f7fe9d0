"""The architectures that are known, as data: what each calls its tensors, has always, and leaves out of config.json."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PLAIN_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
GEMMA_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture."""

    model_type: str
    architecture: str
    defaults: Mapping[str, Any]
    """What `transformers` takes for a key that config.json lacks."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `DecoderConfig` that every model of the family has."""
    norms: Mapping[str, str] = dataclasses.field(default_factory=lambda: PLAIN_NORMS)
    activation_key: str = "hidden_act"
    biases: str = "none"
    """`qkv`: always there; `attention_bias`: of query, key, value and out, if config.json says so."""


_COMMON = {
    "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "sliding_window": None,
}  # fmt: skip
_LLAMA = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048,
}  # fmt: skip
_QWEN = {
    **_LLAMA, "vocab_size": 151_936, "intermediate_size": 22_016, "max_position_embeddings": 32_768,
    "num_key_value_heads": 32, "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28,
}  # fmt: skip
_GEMMA = {
    "vocab_size": 256_000, "hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
_GEMMA2 = {
    **_GEMMA, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "sliding_window": 4096, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip
_GEMMA3 = {
    **_GEMMA2, "vocab_size": 262_208, "max_position_embeddings": 131_072,
    "final_logit_softcapping": None, "attn_logit_softcapping": None, "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
}  # fmt: skip
_GEMMA_ALWAYS = {"norm_offset": 1.0, "scaled_embedding": True}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.model_type: family
        for family in (
            Family(model_type="llama", architecture="LlamaForCausalLM", defaults=_COMMON | _LLAMA,
                   biases="attention_bias"),
            Family(model_type="mistral", architecture="MistralForCausalLM",
                   defaults=_COMMON | _LLAMA | {"intermediate_size": 14_336, "num_key_value_heads": 8,
                                                "max_position_embeddings": 131_072, "sliding_window": 4096}),
            Family(model_type="qwen2", architecture="Qwen2ForCausalLM", defaults=_COMMON | _QWEN, biases="qkv"),
            Family(model_type="qwen3", architecture="Qwen3ForCausalLM", defaults=_COMMON | _QWEN | {"head_dim": 128},
                   fixed={"qk_norm": True}, biases="attention_bias"),
            Family(model_type="gemma", architecture="GemmaForCausalLM", defaults=_COMMON | _GEMMA,
                   fixed=_GEMMA_ALWAYS, biases="attention_bias"),
            Family(model_type="gemma2", architecture="Gemma2ForCausalLM", defaults=_COMMON | _GEMMA2,
                   fixed=_GEMMA_ALWAYS | {"post_norms": True}, norms=GEMMA_NORMS, biases="attention_bias",
                   activation_key="hidden_activation"),
            Family(model_type="gemma3_text", architecture="Gemma3ForCausalLM", defaults=_COMMON | _GEMMA3,
                   fixed=_GEMMA_ALWAYS | {"post_norms": True, "qk_norm": True}, norms=GEMMA_NORMS,
                   biases="attention_bias", activation_key="hidden_activation"),
        )
    }
)  # fmt: skip
"""model_type -> family."""

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "relu2": "relu2", "relu6": "relu6", "leaky_relu": "leaky_relu",
    "mish": "mish", "tanh": "tanh", "sigmoid": "sigmoid", "hardswish": "hard_silu", "linear": "linear",
}  # fmt: skip
"""`transformers`' names of activations -> ours."""
