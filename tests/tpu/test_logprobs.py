"""Log-probs kept beside the data: equal to scoring anew, known by what they are of, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import lm
from tpu import precompute
from tpu.cli import main
from tpu.fingerprint import fingerprint
from tpu.precompute import TOKENS, Mismatch, attach, make, read

TEXTS = [
    ("a", "bb", "c"),
    ("longer prompt", "an answer", "no"),
    ("x", "same", "other"),
    ("y", "same", "more words here"),
]


def data_of(texts: Any, length: int = 64) -> lm.PreferenceData:
    """Pairs of byte texts."""
    n = len(texts)
    tokens = np.full((n, 2, length), 258, np.int32)
    loss, seen = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for row, (prompt, *answers) in enumerate(texts):
        for k, answer in enumerate(answers):
            start, end = 1 + len(prompt), 2 + len(prompt) + len(answer)
            tokens[row, k, :end] = [256, *prompt.encode(), *answer.encode(), 257]
            loss[row, k, start:end], seen[row, k, :end] = True, True
    return lm.PreferenceData(tokens=tokens, loss_mask=loss, attention_mask=seen, feedback={})


def score(batch: dict[str, np.ndarray], shift: float = 0.0) -> np.ndarray:
    """A model of sorts: each token's log-prob depends on it, on the one before, and on its place in the text."""
    tokens = batch["tokens"].astype(float)
    place = np.cumsum(batch["attention_mask"], -1)
    logp = -0.01 * tokens - 0.001 * np.roll(tokens, 1, -1) - 0.1 * place - shift
    return np.where(batch["loss_mask"], logp, 0.0)


def every(data: lm.PreferenceData) -> dict[str, np.ndarray]:
    return {name: getattr(data, name) for name in TOKENS}


ABOUT = {"model": "0123456789abcdef", "name": "tiny", "role": "ref"}


def test_what_is_attached_is_what_the_model_gives(tmp_path: Path) -> None:
    data, path = data_of(TEXTS), tmp_path / "pairs.ref.safetensors"
    assert make(path, data, score, ABOUT, batch_size=3) == {"responses": 8, "scored": 8, "kept": 0}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    ready = attach(data, path, model=ABOUT["model"])
    assert ready.feedback["ref_token_logp"].dtype == np.float32
    np.testing.assert_allclose(ready.feedback["ref_token_logp"], score(every(data)), rtol=1e-6)
    # Other order, other padding, fewer rows: each response still finds its own.
    other = data_of([TEXTS[3], TEXTS[0]], length=32)
    np.testing.assert_allclose(attach(other, path).feedback["ref_token_logp"], score(every(other)), rtol=1e-6)
    assert attach(data, path, role="anchor").feedback.keys() == {"anchor_token_logp"}
    batch = next(lm.batches(ready, 2))
    np.testing.assert_allclose(batch["ref_token_logp"], score(batch), rtol=1e-6)


def test_the_key_of_a_response_is_its_tokens_and_what_is_trained() -> None:
    data = data_of(TEXTS)
    flat = [getattr(data, name).reshape(8, -1) for name in TOKENS]
    keys = precompute.response_keys(*flat)
    assert len(set(keys.tolist())) == 8  # ("x", "same") and ("y", "same") too
    padding = flat[0].copy()
    padding[~flat[2]] = 7
    np.testing.assert_array_equal(precompute.response_keys(padding, *flat[1:]), keys)
    moved = [np.roll(x, 5, -1) for x in flat]  # padded on the left
    np.testing.assert_array_equal(precompute.response_keys(*moved), keys)
    for which, place in ((0, 1), (1, 1)):
        changed = [x.copy() for x in flat]
        changed[which][3, place] = 1 - changed[which][3, place]
        assert (precompute.response_keys(*changed) != keys).tolist() == [row == 3 for row in range(8)]


def test_it_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    data, path, calls = data_of(TEXTS), tmp_path / "x.safetensors", []

    def dies(batch: dict[str, np.ndarray]) -> np.ndarray:
        calls.append(batch["tokens"].shape)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(batch)

    with pytest.raises(KeyboardInterrupt):
        make(path, data, dies, ABOUT, batch_size=1, save_seconds=-1.0)
    there = len(read(path)[0].keys)
    assert there in (2, 4)  # a row or two of pairs; writing may have taken more than its share of the time
    assert make(path, data, score, ABOUT, batch_size=1) == {"responses": 8, "scored": 8 - there, "kept": there}
    np.testing.assert_allclose(attach(data, path).feedback["ref_token_logp"], score(every(data)), rtol=1e-6)
    never = lambda batch: pytest.fail("everything is there")
    assert make(path, data, never, ABOUT, batch_size=1) == {"responses": 8, "scored": 0, "kept": 8}
    more = data_of([*TEXTS, ("new", "one", "two")])
    assert make(path, more, score, ABOUT, batch_size=4)["scored"] == 2
    np.testing.assert_allclose(attach(more, path).feedback["ref_token_logp"], score(every(more)), rtol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    data, path = data_of(TEXTS), tmp_path / "x.safetensors"
    make(path, data, score, ABOUT, batch_size=4)
    with pytest.raises(
        Mismatch, match=r"holds log-probs of another model: tiny .* 0123456789abcdef, and this one has f+$"
    ):
        attach(data, path, model="f" * 16)
    with pytest.raises(Mismatch, match="another model"):
        make(path, data, score, {**ABOUT, "model": "f" * 16}, batch_size=4)
    changed = data_of([*TEXTS[:2], ("x", "same", "OTHER"), TEXTS[3]])
    with pytest.raises(Mismatch, match=r"x.safetensors lacks 1 of 8 responses \(the first: row 2, response 1\)"):
        attach(changed, path)
    unmasked = dataclasses.replace(data, loss_mask=data.attention_mask)
    with pytest.raises(Mismatch, match="lacks 8 of 8 responses"):
        attach(unmasked, path)
    with pytest.raises(ValueError, match="unknown role 'reff'; did you mean 'ref'"):
        attach(data, path, role="reff")
    with pytest.raises(ValueError, match="ref_token_logp is of one model, but there are 2 files"):
        attach(data, [path, path])
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"{}", path.read_bytes()[:-8]):
        bad.write_bytes(content)
        with pytest.raises(Mismatch, match="no file of python -m tpu logprobs"):
            attach(data, bad)
    with pytest.raises(OSError, match=r"absent\.safetensors"):
        attach(data, tmp_path / "absent.safetensors")
    odd = lambda batch: np.where(batch["tokens"] == ord("d"), np.nan, score(batch))
    with pytest.raises(ValueError, match="gives row 3, response 1 a log-prob that is not finite"):
        make(tmp_path / "y", data, odd, ABOUT, batch_size=4)


def test_opponents_stand_on_an_axis_of_their_own(tmp_path: Path) -> None:
    data, paths = data_of(TEXTS), [tmp_path / f"{j}.safetensors" for j in range(3)]
    for j, path in enumerate(paths):
        make(path, data, lambda b, j=j: score(b, j), {**ABOUT, "role": "opponent"}, batch_size=4)
    found = attach(data, paths).feedback["opponent_token_logp"]
    assert found.shape == (4, 3, 2, 64)  # [N, J, K, T]
    for j in range(3):
        np.testing.assert_allclose(found[:, j], np.where(data.loss_mask, score(every(data), j), 0), rtol=1e-6)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main(["logprobs", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out or captured.err


@pytest.mark.slow
def test_the_command_writes_what_training_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Equal to scoring the rows, next to the data, known by the model of that seed and by no other."""
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in TEXTS]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, said = command(capsys, "--data", file, "--json")
    summary = json.loads(said)
    out = tmp_path / "pairs.ref.safetensors"
    assert status == 0 and summary["out"] == str(out) and (summary["scored"], summary["kept"]) == (8, 0)
    config = lm.preset("tiny")
    params = lm.init(config, jax.random.key(0))
    data = lm.read_preferences(file, max_length=config.max_length)
    wanted = jax.jit(functools.partial(lm.token_logps, config))(params, *every(data).values())
    found = attach(data, out, model=fingerprint(params)).feedback["ref_token_logp"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    status, said = command(capsys, "--data", file)
    assert status == 0 and said.startswith("8 responses, 0 of them scored now, by model ")
    status, said = command(capsys, "--data", file, "--seed", 1)
    assert status == 2 and "holds log-probs of another model" in said and "delete it, or name another --out" in said
    status, said = command(capsys, "--data", file, "--as", "opponent", "--seed", 1, "--json")
    assert status == 0 and json.loads(said)["out"] == str(tmp_path / "pairs.opponent.safetensors")


def test_the_command_says_what_it_cannot_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "alone"}\n')
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    broken = tmp_path / "pairs.ref.safetensors"
    broken.write_bytes(b"no such file")
    for arguments, message in (
        (("--data", prompts), "prompts alone have no responses to score"),
        (("--data", tmp_path / "absent.jsonl"), "absent.jsonl: No such file"),
        (("--data", pairs, "--as", "referee"), "unknown role (--as) 'referee'; did you mean 'ref'"),
        (("--data", pairs, "--model", "tyni"), "did you mean 'tiny'"),
        (("--data", pairs, "--max-length", 999), "--max-length 999 is more than the 256 that tiny takes"),
        (("--data", pairs), "is no file of python -m tpu logprobs"),
    ):
        status, said = command(capsys, *arguments)
        assert status == 2 and message in said, said
