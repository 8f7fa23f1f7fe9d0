"""Language models: a decoder, log-probabilities of tokens, and preference data. Only this part of alignjax needs flax.

config = lm.preset("tiny")
params = lm.init(config, jax.random.key(0))
token_logp = lm.token_logps(config, params, tokens, loss_mask)     # [..., K, T], into Samples.from_tokens
"""

from alignjax.lm import lora as lora
from alignjax.lm.config import PRESETS as PRESETS
from alignjax.lm.config import DecoderConfig as DecoderConfig
from alignjax.lm.config import preset as preset
from alignjax.lm.generation import Generated as Generated
from alignjax.lm.generation import best_of_n as best_of_n
from alignjax.lm.generation import generate as generate
from alignjax.lm.huggingface import load as load
from alignjax.lm.huggingface import save as save
from alignjax.lm.lora import LoRA as LoRA
from alignjax.lm.model import LanguageModel as LanguageModel
from alignjax.lm.model import init as init
from alignjax.lm.model import logical_axes as logical_axes
from alignjax.lm.pipeline import Batches as Batches
from alignjax.lm.pipeline import batches as batches
from alignjax.lm.preference_data import DataError as DataError
from alignjax.lm.preference_data import PreferenceData as PreferenceData
from alignjax.lm.preference_data import PromptData as PromptData
from alignjax.lm.preference_data import data_kind as data_kind
from alignjax.lm.preference_data import read_preferences as read_preferences
from alignjax.lm.preference_data import read_prompts as read_prompts
from alignjax.lm.preference_data import read_supervised as read_supervised
from alignjax.lm.scoring import TokenStatistics as TokenStatistics
from alignjax.lm.scoring import logits as logits
from alignjax.lm.scoring import token_logps as token_logps
from alignjax.lm.scoring import token_logps_each as token_logps_each
from alignjax.lm.scoring import token_statistics as token_statistics
from alignjax.lm.text import decode as decode
from alignjax.lm.text import encode as encode
from alignjax.lm.tokenizer import ByteTokenizer as ByteTokenizer
from alignjax.lm.tokenizer import Tokenizer as Tokenizer
from alignjax.lm.tokenizer import check_fits as check_fits
from alignjax.lm.tokenizer_folder import load_tokenizer as load_tokenizer

__all__ = [
    "PRESETS", "Batches", "ByteTokenizer", "DataError", "DecoderConfig", "Generated", "LanguageModel", "LoRA",
    "PreferenceData", "PromptData", "TokenStatistics", "Tokenizer", "batches", "best_of_n", "check_fits", "data_kind",
    "decode", "encode", "generate", "init", "load", "load_tokenizer", "logical_axes", "logits", "lora", "preset",
    "read_preferences", "read_prompts", "read_supervised", "save", "token_logps", "token_logps_each",
    "token_statistics",
]  # fmt: skip
