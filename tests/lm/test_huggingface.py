"""Hugging Face folders: logits against those of `transformers`, tensors byte for byte, layouts, and bad folders.

The fixtures are written by make_fixtures.py, with `transformers`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from alignjax import lm
from alignjax.lm.huggingface import FAMILIES, folders, from_json, tensor_files, to_json
from alignjax.lm.rope import Rope

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(folder.name for folder in FIXTURES.iterdir())
QUICK = ("gemma3",)


@functools.cache
def loaded(name: str) -> Any:
    return lm.load(FIXTURES / name)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Of all shards, by the library."""
    return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_logits_are_those_of_transformers(name: str) -> None:
    """In float32, past the window and the original length, and with padding on the left."""
    config, params = lm.load(FIXTURES / name, dtype="float32")
    expected = np.load(FIXTURES / name / "expected.npz")
    tokens, mask = expected["tokens"].astype(np.int32), expected["mask"]
    got = np.asarray(lm.logits(config, params, tokens, mask))
    assert np.abs(expected["logits"]).max() > 1 and mask.sum() < mask.size
    np.testing.assert_allclose(got[mask], expected["logits"][mask], rtol=0, atol=2e-5)


def test_there_is_a_fixture_of_every_family_and_rope() -> None:
    configs = [loaded(name)[0] for name in NAMES]
    assert {config.family for config in configs} == set(FAMILIES)
    assert {config.rope.kind for config in configs} == {"default", "linear", "dynamic", "llama3", "yarn"}


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    """Every tensor in its own dtype, byte for byte; config.json says the same; in shards and in one file."""
    config, params = loaded(name)
    lm.save(tmp_path, config, params, shard_bytes=6_000)
    before, after = tensors(FIXTURES / name), tensors(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and tensor.shape == after[key].shape, key
        assert tensor.tobytes() == after[key].tobytes(), key
    assert written(tmp_path) == written(FIXTURES / name)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in before.values())
    for key, file in index["weight_map"].items():
        with safe_open(tmp_path / file, "np") as shard:
            assert key in shard.keys() and shard.metadata() == {"format": "pt"}
    lm.save(tmp_path, config, params)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]  # the old shards are gone


def test_dtypes() -> None:
    config, params = loaded("llama_bfloat16")
    assert config.dtype == config.param_dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    wide, widened = lm.load(FIXTURES / "llama_bfloat16", dtype=jnp.float32)
    assert wide.dtype == wide.param_dtype == "float32"
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), b), params, widened)
    for wrong in ("int32", "bf16"):
        with pytest.raises(ValueError, match=f"unknown dtype '{wrong}'"):
            lm.load(FIXTURES / "llama2", dtype=wrong)


def test_a_dtype_of_one_layer_survives(tmp_path: Path) -> None:
    """Layers are stacked in one dtype, and written back each in its own."""
    folder = copied("llama_bfloat16", tmp_path / "a")
    name = "model.layers.1.self_attn.o_proj.weight"
    change(folder, lambda all_: all_ | {name: all_[name].astype(np.float32) * 1.0001})
    config, params = lm.load(folder)
    assert params["layers"]["attention"]["out"].dtype == jnp.float32
    assert params["layers"]["attention"]["query"].dtype == jnp.bfloat16
    lm.save(tmp_path / "b", config, params)
    before, after = tensors(folder), tensors(tmp_path / "b")
    assert all(before[k].dtype == after[k].dtype and before[k].tobytes() == after[k].tobytes() for k in before)
    assert before[name].dtype == np.float32


# --- memory and devices -----------------------------------------------------------------------------------------------


def test_no_tensor_stands_twice_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX takes over the very buffers that were filled, and writing needs less than one tensor more."""
    config = lm.DecoderConfig(vocab_size=500, d_model=256, d_mlp=512, max_length=8)
    shapes = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    largest = 4 * 500 * 256
    monkeypatch.setattr(tensor_files, "_PIECE", largest // 8)
    jax.block_until_ready(params)
    tracemalloc.start()
    lm.save(tmp_path, config, params)
    assert tracemalloc.get_traced_memory()[1] < largest / 2
    tracemalloc.stop()
    buffers = set()
    fill = folders._aligned

    def seen(shape: Any, dtype: Any) -> np.ndarray:
        buffer = fill(shape, dtype)
        buffers.add(buffer.ctypes.data)
        return buffer

    monkeypatch.setattr(folders, "_aligned", seen)
    leaves = jax.tree.leaves(lm.load(tmp_path)[1])
    assert {leaf.unsafe_buffer_pointer() for leaf in leaves} == buffers and len(buffers) == len(leaves)


def test_each_device_is_given_its_part() -> None:
    """Heads of keys split over two devices, layers over two: as the whole has them."""
    mesh = jax.make_mesh((2, 2), ("layers", "heads"), devices=jax.devices()[:4],
                         axis_types=(jax.sharding.AxisType.Auto,) * 2)  # fmt: skip
    split = {"key": PartitionSpec("layers", None, "heads"), "out": PartitionSpec("layers", "heads")}
    place = lambda path: NamedSharding(mesh, split.get(path[-1], PartitionSpec()))
    _, params = lm.load(FIXTURES / "qwen3", sharding=place)
    assert params["layers"]["attention"]["key"].addressable_shards[3].data.shape == (1, 16, 1, 8)
    jax.tree.map(np.testing.assert_array_equal, params, loaded("qwen3")[1])


# --- config.json ------------------------------------------------------------------------------------------------------


def plain(config: lm.DecoderConfig) -> lm.DecoderConfig:
    return dataclasses.replace(config, source="")


def test_both_layouts_are_the_same_config() -> None:
    llama = written(FIXTURES / "llama3")
    old = {k: v for k, v in llama.items() if k not in ("rope_parameters", "dtype")}
    scaling = {("type" if k == "rope_type" else k): v for k, v in llama["rope_parameters"].items() if k != "rope_theta"}
    old |= {"rope_theta": llama["rope_parameters"]["rope_theta"], "rope_scaling": scaling, "torch_dtype": "float32"}
    assert plain(from_json(old)) == plain(from_json(llama))
    gemma = written(FIXTURES / "gemma3")
    old = {k: v for k, v in gemma.items() if k not in ("rope_parameters", "dtype")}
    old |= {"rope_theta": 500.0, "rope_local_base_freq": 20.0, "rope_scaling": {"rope_type": "linear", "factor": 3.0}}
    assert plain(from_json(old)) == plain(from_json(gemma))


def test_absent_keys_have_the_defaults_of_transformers() -> None:
    """The published numbers of configs that leave most out."""
    gemma3 = from_json({"model_type": "gemma3_text"})
    assert (gemma3.vocab_size, gemma3.d_model, gemma3.head_dim, gemma3.kv_heads) == (262_208, 2304, 256, 4)
    assert gemma3.local[:7] == (True,) * 5 + (False, True) and gemma3.window == 4096 and gemma3.query_scale == 256
    assert (gemma3.rope.base, gemma3.local_rope) == (1e6, Rope(base=1e4)) and gemma3.tied
    gemma2 = from_json({"model_type": "gemma2"})
    assert gemma2.local[:2] == (True, False) and (gemma2.attention_softcap, gemma2.logit_softcap) == (50, 30)
    mistral = from_json({"architectures": ["MistralForCausalLM"]})
    assert (mistral.window, mistral.kv_heads, mistral.tied, mistral.d_mlp) == (4096, 8, False, 14_336)
    qwen = from_json({"model_type": "qwen3"})
    assert (qwen.head_size, qwen.window, qwen.qkv_bias, qwen.qk_norm) == (128, None, False, True)
    llama = from_json({"model_type": "llama", "num_key_value_heads": None, "head_dim": None, "rope_scaling": None})
    assert (llama.kv_heads, llama.head_size, llama.max_length, llama.norm_epsilon) == (32, 128, 2048, 1e-6)
    assert from_json({"model_type": "gemma", "hidden_act": "gelu"}).activation == "gelu_tanh"


def test_a_model_of_text_and_images_gives_its_text(tmp_path: Path) -> None:
    """Names with a prefix, settings one level down, and tensors of the other part."""
    folder = copied("gemma3", tmp_path)
    raw = written(folder)
    nested = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": raw,
              "vision_config": {"hidden_size": 3}, "eos_token_id": [1, 106]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(nested))
    vision = {"vision_tower.embeddings.weight": np.ones(3, np.float32)}
    change(folder, lambda all_: {f"language_model.{k}": v for k, v in all_.items()} | vision)
    config, params = lm.load(folder)
    assert plain(config) == plain(loaded("gemma3")[0])
    jax.tree.map(np.testing.assert_array_equal, params, loaded("gemma3")[1])
    assert to_json(config)["model_type"] == "gemma3_text"
    assert to_json(config)["architectures"] == ["Gemma3ForCausalLM"] and to_json(config)["eos_token_id"] == [1, 106]


@pytest.mark.parametrize("name", lm.PRESETS)
def test_a_preset_can_be_written(name: str) -> None:
    """From nothing but the config, to a config.json that says the same."""
    raw = to_json(lm.preset(name))
    read = from_json(raw)
    assert to_json(read) == raw
    assert read.max_length == lm.preset(name).max_length


def test_what_changed_since_is_written_and_the_rest_is_kept() -> None:
    config, _ = loaded("llama3")
    config = dataclasses.replace(config, max_length=999, source=json.dumps(json.loads(config.source) | {"my_key": 5}))
    raw = to_json(config)
    assert raw["max_position_embeddings"] == 999 and raw["my_key"] == 5
    assert raw["rope_parameters"] == written(FIXTURES / "llama3")["rope_parameters"]
    assert from_json(raw).rope == config.rope


@pytest.mark.parametrize(
    ("change_", "message"),
    [
        ({"window": 5}, "a model of family 'llama' cannot be written with window = 5"),
        ({"qk_norm": True}, "qk_norm = True"),
        ({"family": "qwen2", "mlp_bias": True}, "cannot be written with qkv_bias = False, mlp_bias = True"),
        ({"family": "lama"}, "unknown family 'lama'; did you mean 'llama'"),
    ],
)
def test_a_family_without_words_for_a_config(change_: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_json(dataclasses.replace(lm.preset("tiny"), **change_))


# --- bad folders ------------------------------------------------------------------------------------------------------


def copied(name: str, folder: Path) -> Path:
    shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
    return folder


def change(folder: Path, how: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """All tensors, rewritten by the library into one file."""
    arrays = how(tensors(folder))
    for file in folder.glob("model*"):
        file.unlink()
    save_file(arrays, folder / "model.safetensors")


def setting(**keys: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(written(folder) | keys)) and None


def weights(how: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, how)


def shard(folder: Path, how: Callable[[bytes], bytes]) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(how(file.read_bytes()))


Q = "model.layers.1.self_attn.q_proj.weight"
BAD: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: shutil.rmtree(f), r"has no config.json \(there is no such folder\)"),
    (lambda f: (f / "config.json").unlink(), "has no config.json$"),
    (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON"),
    (lambda f: [p.unlink() for p in f.glob("model*")], "neither model.safetensors nor model.safetensors.index.json"),
    (lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
     "lacks 1 of 3 shards: model-00002-of-00003.safetensors"),
    (lambda f: shard(f, lambda b: b[:-10]), r"model-00002-of-00003.safetensors is truncated: it has \d+ bytes of \d+"),
    (lambda f: shard(f, lambda b: b + b"123"), "is longer than its header says"),
    (lambda f: (f / "model-00001-of-00003.safetensors").write_bytes(b"abc"), "is truncated or no safetensors file"),
    *((lambda f, text=text: (f / "model.safetensors.index.json").write_text(text), "is no index of shards: it ")
      for text in ("{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}')),
    (weights(lambda a: {k: v for k, v in a.items() if k != Q}), rf"lacks the tensors {Q}, going by its config.json"),
    (weights(lambda a: a | {"model.layers.2.x": a[Q]}), "has unexpected tensors model.layers.2.x"),
    (weights(lambda a: a | {Q: a[Q][:8]}), rf"{Q} has shape \(8, 16\); config.json makes it \(16, 16\)"),
    (weights(lambda a: a | {Q: np.ones((16, 16), np.int8)}), f"{Q} has dtype I8; weights are of F64, F32, F16, BF16"),
    (weights(lambda a: a | {Q: np.ones((16, 16))}), f"{Q} is float64; give dtype='float32'"),
    (setting(num_hidden_layers=3), "lacks the tensors model.layers.2.input_layernorm.weight, .* and 4 more"),
    (setting(tie_word_embeddings=True, num_key_value_heads=4), r"k_proj.weight has shape \(8, 16\)"),
    (setting(model_type="mixtral"), r"unknown architecture 'mixtral'; known: LlamaForCausalLM \(llama\), Mistral"),
    (setting(model_type=None, architectures=["XForCausalLM"]), r"unknown architecture \['XForCausalLM'\]"),
    (setting(quantization_config={"bits": 4}), 'has quantization_config = {"bits": 4}, which this decoder does not'),
    (setting(partial_rotary_factor=0.5), "has partial_rotary_factor = 0.5"),
    (setting(rope_parameters={"rope_type": "longrope"}), "has rope_parameters of type 'longrope'; known: default"),
    (setting(rope_scaling={"type": "linear"}), "has rope_scaling of type 'linear' without factor"),
    (setting(rope_parameters={"rope_type": "default", "mrope_section": [1]}), r'with {"mrope_section": \[1\]}'),
    (setting(hidden_act="xielu"), "has hidden_act = 'xielu'; known: silu"),
    (setting(head_dim=5), r"config.json cannot be used: head_dim = 5 must be even"),
    (setting(dtype="float8"), "config.json cannot be used: unknown dtype 'float8'"),
    *((lambda f, text=text: (f / "config.json").write_text(text), "config.json must hold an object, got ")
      for text in ("[1]", '"x"', "null")),
    *((setting(**{key: value}), rf"config.json has {key} = \S+; it must be ") for key, value in (
        ("rope_scaling", "linear"), ("rope_parameters", [1]), ("max_position_embeddings", None), ("rms_norm_eps", None),
        ("num_hidden_layers", "2"), ("hidden_act", ["silu"]), ("model_type", ["llama"]), ("layer_types", 3))),
    (setting(rope_parameters={"rope_type": "yarn", "original_max_position_embeddings": 0}),
     "config.json cannot be used: original_max_position_embeddings must be an integer >= 1, got 0"),
    (setting(rope_parameters={"rope_type": "linear", "factor": [2]}), "config.json cannot be used: float"),
    (setting(model_type="gemma3_text", layer_types=["sliding_attention"] * 2, rope_parameters={"full_attention": 3}),
     "config.json cannot be used: unsupported operand"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_folder_is_told(spoil: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    folder = copied("llama_bfloat16", tmp_path / "model")
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lm.load(folder)


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "its header is no object, but a list"),
        ("x", "its header is no object, but a str"),
        ({"a": 3}, "a has 3"),
        *(({"a": {key: value for key, value in ONE.items() if key != lost}}, "a has {") for lost in ONE),
        *(({"a": ONE | {"data_offsets": odd}}, "a has {") for odd in (["0", "4"], [4], [0.0, 4.0], [-4, 0], [0, True])),
        ({"a": ONE | {"shape": "1"}}, "a has {"),
        ({"a": ONE | {"shape": [-1]}}, "a has {"),
        ({"a": ONE | {"dtype": ["F32"]}}, "a has {"),
        ({"a": ONE, "b": ONE}, r"b has data_offsets \[0, 4\], but the one before it ends at 4"),
        ({"a": ONE | {"data_offsets": [4, 8]}}, r"a has data_offsets \[4, 8\], but the one before it ends at 0"),
        ({"b": ONE, "c": ONE | {"data_offsets": [4, 0]}}, r"c has data_offsets \[4, 0\]"),
    ],
)
def test_a_file_of_an_odd_header_is_told(header: Any, message: str, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(tensor_files.BadWeights, match=rf"x.safetensors.*{message}"):
        tensor_files.read(tmp_path / "x.safetensors")


def test_params_of_another_config_are_refused(tmp_path: Path) -> None:
    config, params = loaded("llama2")
    with pytest.raises(ValueError, match="on one side only: unembedding"):
        lm.save(tmp_path, dataclasses.replace(config, tied=True), params)
    with pytest.raises(ValueError, match=r"attention/key has shape \(2, 16, 4, 4\), not \(2, 16, 2, 4\)"):
        lm.save(tmp_path, dataclasses.replace(config, num_kv_heads=2), params)
    assert not list(tmp_path.iterdir())


def test_tokenizer_files_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "notes.txt"):
        (source / name).write_text(name)
    lm.save(tmp_path / "out", *loaded("llama2"), tokenizer=source)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"
    }  # fmt: skip
    lm.save(tmp_path / "bytes", *loaded("llama2"), tokenizer=lm.ByteTokenizer())
    assert (tmp_path / "bytes" / "tokenizer_config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_export_loads_in_transformers(name: str, tmp_path: Path) -> None:
    """Needs the `parity` extra. With settings of our own, so that config.json is written anew."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config, params = lm.load(FIXTURES / name, dtype="float32")
    lm.save(tmp_path, dataclasses.replace(config, source=""), params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    expected = np.load(FIXTURES / name / "expected.npz")
    with torch.no_grad():
        got = model(torch.tensor(expected["tokens"][:1].astype(int))).logits[0].numpy()
    np.testing.assert_allclose(got, expected["logits"][0], rtol=0, atol=1e-5)
