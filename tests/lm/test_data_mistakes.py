"""The mistakes that users of other trainers reported, from a file of text to the loss and its gradient.

A bigram model (the log-prob of a token is a table's entry, by the token before) stands for the language model, so that
every expected number is a sum of NumPy entries over the letters of the text.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax as aj
from alignjax import lm
from tests.lm.conversations import FOLDERS, TWO

CHATML = lm.load_tokenizer(FOLDERS / "chatml")
"""Its padding is its end of sequence."""
PAIR = {"prompt": TWO[:1], "chosen": TWO[1:], "rejected": [{"role": "assistant", "content": "Two plus two is four."}]}


@dataclasses.dataclass(frozen=True)
class Bigram:
    """logits[t, :] = table[tokens[t], :], as a `LanguageModel` whose hidden state is a row of the identity."""

    vocab_size: int
    max_length: int = 4096
    logit_softcap: None = None

    def hidden(self, params: Any, tokens: Any, keep: Any) -> Any:
        return jnp.where(keep[..., None], jax.nn.one_hot(tokens, self.vocab_size), params["at_padding"])

    def unembedding(self, params: Any) -> Any:
        return params["table"].T

    def empty_cache(self, batch: int, length: int) -> Any:
        return None

    def extend(self, params: Any, tokens: Any, keep: Any, cache: Any) -> Any:
        return self.hidden(params, tokens, keep), cache


MODEL = Bigram(CHATML.vocab_size)
TABLE = np.random.default_rng(0).normal(size=(CHATML.vocab_size,) * 2).astype(np.float32)
LOGP = TABLE - np.log(np.exp(TABLE).sum(-1, keepdims=True))


def params(at_padding: float = 0.0) -> dict[str, Any]:
    return {"table": jnp.asarray(TABLE), "at_padding": jnp.float32(at_padding)}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("mistakes") / "pair.jsonl"
    path.write_text(json.dumps(PAIR) + "\n")
    data = lm.read_preferences(path, max_length=64, tokenizer=CHATML)
    assert CHATML.pad == CHATML.eos
    return next(lm.batches(data, 1))


def scored(params: Any, batch: dict[str, np.ndarray]) -> Any:
    return lm.token_logps(MODEL, params, batch["tokens"], batch["loss_mask"], batch["attention_mask"])


def said(content: str) -> tuple[list[int], list[int]]:
    """The tokens of the prompt, and of a response to it."""
    return CHATML.chat(TWO[:1]), [*CHATML.encode(content), CHATML.eos]


def expected(content: str) -> float:
    """The sum over the response of log p(token | token before), the first given the prompt's last, the end included."""
    prompt, response = said(content)
    return float(sum(LOGP[a, b] for a, b in zip([prompt[-1], *response], response, strict=False)))


def test_log_probs_are_of_the_response_unshifted_with_its_end_on_both_sides(batch: dict[str, np.ndarray]) -> None:
    """A shift by one, a prompt that counts, an end masked because it is padding: each changes these sums."""
    logp = np.asarray(scored(params(), batch)).sum(-1)[0]
    np.testing.assert_allclose(logp, [expected("a"), expected("Two plus two is four.")], rtol=1e-5)


def test_masks_go_by_position_and_never_by_id(batch: dict[str, np.ndarray]) -> None:
    """One end of sequence is trained on; those of the prompt (as ends of turns) and of the padding are not."""
    for k, content in enumerate(("a", "Two plus two is four.")):
        prompt, response = said(content)
        is_end = batch["tokens"][0, k] == CHATML.eos
        assert (is_end & batch["loss_mask"][0, k]).sum() == 1 and prompt.count(CHATML.eos) > 0
        length = len(prompt) + len(response)
        positions = np.arange(batch["tokens"].shape[-1])
        np.testing.assert_array_equal(batch["attention_mask"][0, k], positions < length)
        np.testing.assert_array_equal(batch["loss_mask"][0, k], (positions >= len(prompt)) & (positions < length))
        assert is_end[length - 1] and (length == is_end.size or is_end[length])


def test_padding_has_no_influence_even_where_it_is_nan(batch: dict[str, np.ndarray]) -> None:
    """On the value of DPO, and on its gradient: NaN times a mask of zero is NaN."""

    reference = np.asarray(scored(params(), batch)) - 0.1

    @jax.jit
    @jax.value_and_grad
    def loss(given: Any) -> Any:
        samples = aj.Samples.from_tokens(scored(given, batch), reference, batch["loss_mask"])
        return aj.methods["dpo"](samples, beta=0.3).mean()

    assert not batch["attention_mask"].all()
    clean, gradient = loss(params())
    value, poisoned = loss(params(float("nan")))
    assert np.isfinite(value) and value == clean
    np.testing.assert_array_equal(np.asarray(poisoned["table"]), np.asarray(gradient["table"]))
    assert np.abs(np.asarray(gradient["table"])).max() > 0


def test_responses_are_padded_on_the_right_and_prompts_on_the_left(
    batch: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": TWO[:1]}) + "\n" + json.dumps({"prompt": "Hello there!"}) + "\n")
    prompts = lm.read_prompts(path, max_prompt_length=64, tokenizer=CHATML)
    assert (np.diff(batch["attention_mask"].astype(int), axis=-1) <= 0).all()
    assert (np.diff(prompts.prompt_mask.astype(int), axis=-1) >= 0).all() and prompts.prompt_mask[:, -1].all()
    for row, keep in zip(prompts.prompts, prompts.prompt_mask, strict=True):
        assert not keep.all() and (row[~keep] == CHATML.pad).all()
    assert prompts.prompts[0][prompts.prompt_mask[0]].tolist() == CHATML.chat(TWO[:1])
