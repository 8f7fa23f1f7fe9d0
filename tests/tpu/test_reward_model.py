"""A reward model's folder scores token sequences as it was trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from alignjax import lm
from tests.tpu.test_eval import EXAMPLES
from tpu.bridge import Others
from tpu.evaluation import evaluate
from tpu.reward_model import load_reward_model, save_reward_model
from tpu.rewards import FeedbackError, Prompts, Reward, Written, bradley_terry
from tpu.rollout import Rollout, Sampling, ids_of, plan_of, prompts_of
from tpu.tasks import scores
from tpu.train_step import loss_hyperparameters

CHATS = EXAMPLES / "chats.jsonl"
CONFIG = lm.DecoderConfig(d_model=16, d_mlp=16, num_layers=1, num_heads=2, max_length=128)
ROWS = np.arange(6)
TOKENS = ("tokens", "loss_mask", "attention_mask")
exact = jax.jit(lambda model, batch: scores(CONFIG, model, batch))


@pytest.fixture(scope="module")
def model() -> Any:
    decoder = jax.tree.map(lambda x: 3 * x, lm.init(CONFIG, jax.random.key(4)))
    return {"decoder": decoder, "head": jax.random.normal(jax.random.key(5), (16,))}


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("reward")
    save_reward_model(where, CONFIG, model, lm.ByteTokenizer())
    return where


@pytest.fixture(scope="module")
def reward(folder: Path) -> Reward:
    return Reward("model", load_reward_model(folder))


def asked(data: Any, rows: Any) -> tuple[Prompts, Written]:
    """As rollouts and eval ask: the user's words, and the tokens."""
    found = prompts_of(rows, lm.ByteTokenizer().pad)
    ids = ids_of(rows["tokens"], rows["loss_mask"])
    texts = [[lm.ByteTokenizer().decode(one) for one in each] for each in ids]
    said = [data.prompt_texts[i] for i in ROWS]
    return Prompts(said, ids_of(found["prompts"], found["prompt_mask"]), {}, lm.ByteTokenizer()), Written(texts, ids)


def test_conversations_get_the_rewards_of_training(model: Any, reward: Reward) -> None:
    """The task's own scores of the rows that it reads; a text of a prompt is not what the model saw."""
    data = lm.read_preferences(CHATS, max_length=CONFIG.max_length)
    rows = data.rows(ROWS)
    wanted = exact(model, {name: rows[name] for name in TOKENS})
    prompts, written = asked(data, rows)
    np.testing.assert_allclose(reward(prompts, written), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(reward(list(prompts.texts), written.texts) - wanted).max() > 0.1
    judged = bradley_terry(reward).matrix(prompts, written)[:, 0, 1]
    np.testing.assert_allclose(judged, 1 / (1 + np.exp(wanted[:, 1] - wanted[:, 0])), rtol=1e-3)
    # A response that did not end is given its end.
    cut = Written(written.texts, [[ids[:-1] for ids in each] for each in written.ids or ()])
    np.testing.assert_allclose(reward(prompts, cut), wanted, rtol=1e-4, atol=1e-4)


class Other(lm.ByteTokenizer):
    """Other tokens: a prompt's are not the reward model's."""

    def encode(self, written: str) -> list[int]:
        return [t ^ 1 if t < 256 else t for t in super().encode(written)]


def test_the_policy_may_have_another_tokenizer_where_prompts_are_plain(model: Any, reward: Reward) -> None:
    other = Other()
    prompt, text = "Say hi.", "Hi!"
    ids = [other.bos, *other.encode(prompt)]
    written = Written([[text]], [[[*other.encode(text), other.eos]]])
    own = lm.ByteTokenizer()
    tokens = np.array([[[own.bos, *own.encode(prompt + text), own.eos]]])
    wanted = exact(model, {"tokens": tokens, "attention_mask": tokens >= 0})
    np.testing.assert_allclose(reward(Prompts([prompt], [ids], {}, other), written), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(FeedbackError, match="not the policy's, and a prompt is a conversation, or was cut: 'Say hi"):
        reward(Prompts([prompt], [other.chat([{"role": "user", "content": prompt}])], {}, other), written)


@pytest.mark.slow
def test_what_is_too_long_is_cut_as_in_training_and_told_once(model: Any, folder: Path, capsys: Any) -> None:
    reward = Reward("model", load_reward_model(folder))
    own = lm.ByteTokenizer()
    long = "\ufffd" * 100
    for _ in range(2):
        got = reward(["p", "p"], [[long], ["short"]])
    tokens = np.array([[[own.bos, *own.encode("p" + long)]]])[..., : CONFIG.max_length]
    wanted = exact(model, {"tokens": tokens, "attention_mask": tokens >= 0})
    np.testing.assert_allclose(got[:1], wanted, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().err
    assert said.count("1 of 2 responses and 0 prompts were cut to the 128 tokens") == 1
    reward([long], [["x"]])  # a prompt alone is too long


@pytest.mark.slow
def test_rollouts_and_eval_ask_it_alike(model: Any, reward: Reward) -> None:
    """Prompts of conversations, answered by a model: the reward of each response is the score of its tokens."""
    own = lm.ByteTokenizer()
    data = lm.read_prompts(CHATS, max_prompt_length=100)
    policy = jax.tree.map(jnp.zeros_like, model["decoder"])  # all tokens alike
    method, sampling = alignjax.methods["rloo"], Sampling(max_new_tokens=8)
    roll = Rollout(
        config=CONFIG, method=method, hyper=loss_hyperparameters(method, {}, online=True), tokenizer=own,
        plan=plan_of(method, 2), sampling=sampling, reward=reward, prompt_texts=data.prompt_texts,
    )  # fmt: skip
    rows = {**data.rows(ROWS), "index": ROWS}
    rolled = roll(policy, Others(), rows, jax.random.key(0))
    assert rolled.prompts == [data.prompt_texts[i] for i in ROWS]
    np.testing.assert_allclose(rolled.batch["reward"], of_tokens(model, rolled.batch), rtol=1e-4, atol=1e-4)
    seen: list[list[str]] = []

    def spy(prompts: list[str], completions: list[str], **named: Any) -> Any:
        seen.append(prompts[::2])
        return reward.function(prompts, completions, **named)

    texts = [data.prompt_texts[i] for i in ROWS]
    found, responses = evaluate(
        (CONFIG, policy), own, data.rows(ROWS), texts, jax.random.key(1), reward=Reward("spy", spy), num_samples=2,
        sampling=sampling,
    )  # fmt: skip
    assert seen == [rolled.prompts]
    prompts, made = data.rows(ROWS), responses.made
    batch = {
        "tokens": np.concatenate([np.repeat(prompts["prompts"][:, None], 2, 1), made.tokens], -1),
        "attention_mask": np.concatenate([np.repeat(prompts["prompt_mask"][:, None], 2, 1), made.mask], -1),
    }
    assert found["reward"] == pytest.approx(of_tokens(model, batch).mean(), rel=1e-4)


def of_tokens(model: Any, batch: Any) -> np.ndarray:
    """Row by row, without padding, each with its end."""
    own, found = lm.ByteTokenizer(), []
    for tokens, keep in zip(*(np.asarray(batch[n]).reshape(-1, batch[n].shape[-1]) for n in TOKENS[::2]), strict=True):
        row = tokens[keep != 0].tolist()
        row = row if row[-1] == own.eos else [*row, own.eos]
        padded, kept = np.full((1, 1, 128), own.pad), np.zeros((1, 1, 128), bool)
        padded[..., : len(row)], kept[..., : len(row)] = row, True
        found.append(float(exact(model, {"tokens": padded, "attention_mask": kept})[0, 0]))
    return np.array(found).reshape(batch["tokens"].shape[:2])
