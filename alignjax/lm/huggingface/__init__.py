"""Hugging Face folders: config.json, sharded safetensors, tokenizer files; read and written tensor by tensor."""

from alignjax.lm.huggingface.config_json import from_json as from_json
from alignjax.lm.huggingface.config_json import to_json as to_json
from alignjax.lm.huggingface.families import FAMILIES as FAMILIES
from alignjax.lm.huggingface.folders import load as load
from alignjax.lm.huggingface.folders import save as save

__all__ = ["FAMILIES", "from_json", "load", "save", "to_json"]
