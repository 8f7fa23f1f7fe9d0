"""config.json to `DecoderConfig` and back, in both layouts of the rotary settings and of the dtype.

old: "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", ...} or null, "torch_dtype": "bfloat16"
new: "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", ...},      "dtype": "bfloat16"
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from alignjax import checks
from alignjax.lm.config import DecoderConfig
from alignjax.lm.huggingface.families import ACTIVATIONS, FAMILIES, Family
from alignjax.lm.rope import KINDS, Rope

_ROPE_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate",
                 "attention_factor", "mscale", "mscale_all_dim")  # fmt: skip
_NOT_OF_THE_MODEL = ("dtype", "param_dtype", "attention", "remat", "source", "tensor_dtypes")

_TYPES: tuple[tuple[str, tuple[type, ...], tuple[str, ...]], ...] = (
    ("an object", (dict,), ("rope_scaling", "rope_parameters")),
    ("a list", (list,), ("layer_types",)),
    ("a list of names", (list, str), ("architectures",)),
    ("a name", (str,), ("model_type", "hidden_act", "hidden_activation")),
    ("a whole number", (int,), ("num_hidden_layers", "max_position_embeddings", "max_window_layers",
                                "sliding_window_pattern", "_sliding_window_pattern")),
    ("a number", (int, float), ("attn_logit_softcapping", "final_logit_softcapping")),
    ("a number", (int, float, str), ("rms_norm_eps", "query_pre_attn_scalar", "rope_theta", "rope_local_base_freq")),
)  # fmt: skip
"""What keys hold that are read before `DecoderConfig` checks them; null, where it has a meaning, is no other type."""
_NEVER_NULL = (
    "num_hidden_layers", "max_position_embeddings", "max_window_layers", "rms_norm_eps", "query_pre_attn_scalar"
)  # fmt: skip


class UnknownModel(ValueError):
    """A config.json that stands for a model this decoder is not; the message says by which key."""


def _check_types(raw: Mapping[str, Any]) -> None:
    for what, kinds, keys in _TYPES:
        for key in keys:
            value = raw.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise UnknownModel(f"config.json has {key} = {json.dumps(value)[:200]}; it must be {what}")


def family_of(raw: Mapping[str, Any]) -> Family:
    """By `model_type`, else by `architectures`."""
    known = ", ".join(f"{family.architecture} ({name})" for name, family in FAMILIES.items())
    architectures = raw.get("architectures") or []
    model_type = raw.get("model_type")
    if model_type is None:
        model_type = next((n for n, f in FAMILIES.items() if f.architecture in architectures), None)
    if model_type is None or model_type not in FAMILIES:
        said = model_type if model_type is not None else architectures
        raise UnknownModel(f"unknown architecture {said!r}; known: {known}")
    return FAMILIES[model_type]


def _text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model of text and images, the text's settings."""
    if raw.get("model_type") == "gemma3" and isinstance(raw.get("text_config"), Mapping):
        tied = {"tie_word_embeddings": raw["tie_word_embeddings"]} if "tie_word_embeddings" in raw else {}
        ids = {key: raw[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in raw}
        return {**tied, **raw["text_config"], **ids, "model_type": "gemma3_text"}
    return raw


def _refuse(raw: Mapping[str, Any]) -> None:
    """The keys that would make another function of the weights."""
    wrong = {
        "quantization_config": raw.get("quantization_config") is not None,
        "use_bidirectional_attention": bool(raw.get("use_bidirectional_attention")),
        "partial_rotary_factor": raw.get("partial_rotary_factor") not in (None, 1, 1.0),
    }
    for key, bad in wrong.items():
        if bad:
            raise UnknownModel(f"config.json has {key} = {json.dumps(raw[key])}, which this decoder does not know")


def _rope(given: Mapping[str, Any], base: float, raw: Mapping[str, Any], trained: int, key: str) -> Rope:
    """One set of rotary settings. `trained` is max_position_embeddings."""
    given = {name: value for name, value in given.items() if value is not None}
    kind = given.get("rope_type", given.get("type", "default"))
    allowed = {"rope_type", "type", "rope_theta", "original_max_position_embeddings", *_ROPE_NUMBERS}
    if kind not in KINDS:
        raise UnknownModel(f"config.json has {key} of type {kind!r}; known: {', '.join(KINDS)}")
    odd = {n: v for n, v in given.items() if n not in allowed and not (n == "partial_rotary_factor" and v == 1)}
    if odd:
        raise UnknownModel(f"config.json has {key} with {json.dumps(odd)}, which this decoder does not know")
    base = float(given.get("rope_theta", base))
    if kind == "default":
        return Rope(base=base)
    numbers: dict[str, Any] = {name: given[name] for name in _ROPE_NUMBERS if name in given}
    key_of_length = "original_max_position_embeddings"
    original: int = raw.get(key_of_length) or given.get(key_of_length, trained)
    if kind == "yarn":
        numbers.setdefault("factor", trained / checks.whole(key_of_length, original))
    if kind == "llama3":
        lacking = [name for name in ("factor", "low_freq_factor", "high_freq_factor") if name not in numbers]
    else:
        lacking = [] if "factor" in numbers else ["factor"]
    if lacking:
        raise UnknownModel(f"config.json has {key} of type {kind!r} without {', '.join(lacking)}")
    numbers = {name: v if isinstance(v, bool) else float(v) for name, v in numbers.items()}
    lengths = {"linear": None, "dynamic": trained}
    return Rope(base=base, kind=kind, original_length=lengths.get(kind, original), **numbers)


def _ropes(raw: Mapping[str, Any], family: Family, get: Any) -> tuple[Rope, Rope | None]:
    """The rotary settings of plain and of local layers, from either layout."""
    scaling, parameters = raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}
    key = "rope_scaling" if scaling else "rope_parameters"
    trained, base = get("max_position_embeddings"), get("rope_theta")
    if family.model_type != "gemma3_text":
        return _rope(scaling or parameters, base, raw, trained, key), None
    if set(parameters) - {"full_attention", "sliding_attention"}:
        raise UnknownModel(
            f"config.json has rope_parameters with {', '.join(parameters)}; a {family.model_type} model has "
            "full_attention and sliding_attention there"
        )
    full = _rope((parameters.get("full_attention") or {}) | scaling, base, raw, trained, key)
    local_base = get("rope_local_base_freq")
    return full, _rope(parameters.get("sliding_attention") or {}, local_base, raw, trained, key)


def _windows(raw: Mapping[str, Any], family: Family, get: Any) -> tuple[int | None, tuple[bool, ...] | None]:
    """The window, and which layers it holds in (None: all of them)."""
    name, count = family.model_type, get("num_hidden_layers")
    if name in ("llama", "gemma"):
        return None, None
    if name == "mistral":
        return get("sliding_window"), None
    types = raw.get("layer_types")
    if types is not None and (set(types) - {"full_attention", "sliding_attention"} or len(types) != count):
        raise UnknownModel(
            f"config.json has layer_types = {json.dumps(types)}; allowed are num_hidden_layers = {count} entries "
            "'full_attention' or 'sliding_attention'"
        )
    if types is not None:
        local = tuple(one == "sliding_attention" for one in types)
    elif name in ("qwen2", "qwen3"):
        local = tuple(i >= get("max_window_layers") for i in range(count))
    else:
        pattern = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or (2, 6)[name != "gemma2"]
        local = tuple((i + 1) % pattern != 0 for i in range(count))
    if name in ("qwen2", "qwen3") and not get("use_sliding_window"):
        if types is not None and any(local):
            raise UnknownModel("config.json has layer_types with sliding_attention, but use_sliding_window is not true")
        return None, None
    return get("sliding_window"), local


def _max_length(rope: Rope, trained: int, family: Family) -> int:
    """What the rotary settings are made for. `trained` is max_position_embeddings: before or after the stretch."""
    original = rope.original_length or trained
    if rope.kind == "default" or family.model_type == "gemma3_text" or (rope.kind == "llama3" and trained > original):
        return trained
    return max(trained, int(rope.factor * original))


def from_json(raw: Mapping[str, Any]) -> DecoderConfig:
    """What the decoder makes of a config.json; keys that are absent have the defaults of `transformers`.

    Raises: UnknownModel (a ValueError) on an architecture that is not known (the message lists those that are), on
    keys that cannot be honoured, and on sizes that do not fit together.
    """
    if not isinstance(raw, Mapping):
        raise UnknownModel(f"config.json must hold an object, got {json.dumps(raw)[:200]}")
    text = _text_part(raw)
    _check_types(text)
    try:
        return _config(text, raw)
    except UnknownModel:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise UnknownModel(f"config.json cannot be used: {error}") from error


def _config(text: Mapping[str, Any], raw: Mapping[str, Any]) -> DecoderConfig:
    """`text`: the part of `raw` that is of the language model."""
    family = family_of(text)
    _refuse(text)
    name = family.model_type

    def get(key: str) -> Any:
        value = text.get(key, family.defaults[key])
        if value is None and key in _NEVER_NULL:
            raise UnknownModel(f"config.json has {key} = null; it must be a number")
        return family.defaults[key] if value is None and key in ("rope_theta", "rope_local_base_freq") else value

    rope, local_rope = _ropes(text, family, get)
    window, local = _windows(text, family, get)
    act = get(family.activation_key)
    if name == "gemma" and act == "gelu":
        act = "gelu_pytorch_tanh"  # what the released files mean by it
    if act not in ACTIVATIONS:
        raise UnknownModel(f"config.json has {family.activation_key} = {act!r}; known: {', '.join(ACTIVATIONS)}")
    has_bias = family.biases == "attention_bias" and bool(get("attention_bias"))
    dtype = next((each[key] for each in (text, raw) for key in ("dtype", "torch_dtype") if each.get(key)), "float32")
    capped = name in ("gemma2", "gemma3_text")
    return DecoderConfig(
        family=name,
        vocab_size=get("vocab_size"),
        d_model=get("hidden_size"),
        d_mlp=get("intermediate_size"),
        num_layers=get("num_hidden_layers"),
        num_heads=get("num_attention_heads"),
        num_kv_heads=get("num_key_value_heads"),
        head_dim=get("head_dim"),
        max_length=_max_length(rope, get("max_position_embeddings"), family),
        tied=bool(get("tie_word_embeddings")),
        rope=rope,
        local_rope=local_rope,
        window=window,
        local_layers=local,
        activation=ACTIVATIONS[act],
        qkv_bias=has_bias or family.biases == "qkv",
        out_bias=has_bias,
        mlp_bias=name == "llama" and bool(get("mlp_bias")),
        norm_epsilon=float(get("rms_norm_eps")),
        query_scale=float(get("query_pre_attn_scalar")) if capped else None,
        # transformers' Gemma 3 has the key attn_logit_softcapping too, and does not apply it
        attention_softcap=get("attn_logit_softcapping") if name == "gemma2" else None,
        logit_softcap=get("final_logit_softcapping") if capped else None,
        dtype=dtype,
        param_dtype=dtype,
        source=json.dumps(text, sort_keys=True),
        **family.fixed,
    )


# --- and back ---------------------------------------------------------------------------------------------------------


def _plain(config: DecoderConfig) -> DecoderConfig:
    """The same function, every default written out: two configs of one model are then equal."""
    local = config.local if any(config.local) else None
    return dataclasses.replace(
        config,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_size,
        query_scale=float(config.query_scale or config.head_size),
        local_layers=local,
        window=config.window if local else None,
        local_rope=config.local_rope if local and config.local_rope != config.rope else None,
        **{name: getattr(DecoderConfig(), name) for name in _NOT_OF_THE_MODEL},
    )


def _rope_json(rope: Rope, base: bool) -> dict[str, Any]:
    """One set of rotary settings, with or without its base."""
    written: dict[str, Any] = {"rope_type": rope.kind} | ({"rope_theta": rope.base} if base else {})
    numbers = {"linear": ("factor",), "dynamic": ("factor",), "llama3": _ROPE_NUMBERS[:3]}.get(rope.kind, _ROPE_NUMBERS)
    if rope.kind in ("llama3", "yarn"):
        written["original_max_position_embeddings"] = rope.original_length
    if rope.kind != "default":
        skipped = ("low_freq_factor", "high_freq_factor") if rope.kind == "yarn" else ()
        written |= {n: getattr(rope, n) for n in numbers if n not in skipped and getattr(rope, n) is not None}
    return written


def _ropes_json(config: DecoderConfig, new_layout: bool) -> dict[str, Any]:
    local = config.local_rope or config.rope
    if new_layout:
        both = {"full_attention": _rope_json(config.rope, True), "sliding_attention": _rope_json(local, True)}
        return {"rope_parameters": both if config.family == "gemma3_text" else both["full_attention"]}
    stretch = None if config.rope.kind == "default" else _rope_json(config.rope, False)
    old = {"rope_theta": config.rope.base, "rope_scaling": stretch}
    return old | ({"rope_local_base_freq": local.base} if config.family == "gemma3_text" else {})


def _windows_json(config: DecoderConfig) -> dict[str, Any]:
    if config.family == "mistral":
        return {"sliding_window": config.window}
    if config.family in ("llama", "gemma"):
        return {}
    local = config.local
    types = {"layer_types": ["sliding_attention" if one else "full_attention" for one in local]}
    if config.family in ("qwen2", "qwen3"):
        used = config.window is not None and any(local)
        first = local.index(True) if used else config.num_layers
        types |= {"use_sliding_window": used, "max_window_layers": first}  # type: ignore[dict-item]
    return {"sliding_window": config.window, **types}


def _fresh(config: DecoderConfig, new_layout: bool) -> dict[str, Any]:
    """A config.json written from nothing but the config."""
    family = FAMILIES[checks.member("family", config.family, FAMILIES)]
    length = config.max_length
    if config.rope.kind == "linear" and config.family != "gemma3_text":
        length = math.ceil(length / config.rope.factor)
    elif config.rope.kind == "dynamic":
        length = config.rope.original_length or length
    raw: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        family.activation_key: next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "max_position_embeddings": length,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        **_windows_json(config),
        **_ropes_json(config, new_layout),
    }
    if family.activation_key == "hidden_act" and config.activation == "gelu_tanh":
        raw["hidden_act"] = "gelu_pytorch_tanh"
    if family.biases == "attention_bias":
        raw["attention_bias"] = config.qkv_bias
    if config.family == "llama":
        raw["mlp_bias"] = config.mlp_bias
    if "query_pre_attn_scalar" in family.defaults:
        scalar = float(config.query_scale or config.head_size)
        raw["query_pre_attn_scalar"] = int(scalar) if scalar.is_integer() else scalar
        raw["final_logit_softcapping"] = config.logit_softcap
        raw["attn_logit_softcapping"] = config.attention_softcap
    return raw


def to_json(config: DecoderConfig, dtype: str | None = None) -> dict[str, Any]:
    """A config.json for the config: the one it was read from, with what has changed since.

    `dtype`: of the tensors, by default `param_dtype`.
    Raises: ValueError, naming the fields, if the architecture `config.family` has no words for them.
    """
    source = json.loads(config.source) if config.source else {}
    stretched = config.local_rope is not None and config.local_rope.kind != "default"
    new_layout = bool(source.get("rope_parameters")) or stretched  # the old one has no words for that
    raw = {"architectures": [FAMILIES[config.family].architecture], **source} if source else {}
    if not source or _plain(from_json(source)) != _plain(config):
        stale = ("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "layer_types",
                 "sliding_window_pattern", "_sliding_window_pattern", "original_max_position_embeddings")  # fmt: skip
        raw = {key: value for key, value in source.items() if key not in stale} | _fresh(config, new_layout)
        read, meant = _plain(from_json(raw)), _plain(config)
        fields = [f.name for f in dataclasses.fields(config) if f.name != "max_length"]
        lost = {name: getattr(config, name) for name in fields if getattr(read, name) != getattr(meant, name)}
        if lost:
            told = ", ".join(f"{name} = {value}" for name, value in lost.items() if value is not None)
            raise ValueError(f"a model of family {config.family!r} cannot be written with {told}")
    raw.pop("torch_dtype", None)
    raw.pop("dtype", None)
    raw["dtype" if new_layout else "torch_dtype"] = dtype or config.param_dtype
    return raw
