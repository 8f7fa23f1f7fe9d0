"""Rollouts against enumeration: who writes each response, what win-rates and quantiles are; and every method of the
registry gets a batch that its loss can read."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import alignjax
from alignjax import laws, lm
from tpu import rewards
from tpu.bridge import Others, prompt_losses
from tpu.rollout import Rollout, Sampling, plan_of, prompts_of, step_key
from tpu.train_step import as_read, check_method, loss_hyperparameters

V, EOS, N, ROWS = 4, 3, 2, 4096
CONFIG = lm.DecoderConfig(vocab_size=V, d_model=8, d_mlp=8, num_layers=1, num_heads=2, max_length=8)
PROMPT = (1, 0)
RESPONSES = [(EOS,), *((a, EOS) for a in range(EOS)), *itertools.product(range(EOS), repeat=2)]


@dataclasses.dataclass(frozen=True)
class Letters:
    """Token i is the i-th letter."""

    eos: int = EOS
    pad: int = 0
    bos: int | None = None

    def decode(self, tokens: Any) -> str:
        return "".join("abcd"[t] for t in tokens)

    def encode(self, text: str) -> list[int]:
        return ["abcd".index(letter) for letter in text]


TEXTS = [Letters().decode(t for t in response if t != EOS) for response in RESPONSES]
WORTH = {text: value for value, text in enumerate(sorted(TEXTS))}
REWARD = rewards.load(lambda prompts, texts: [float(WORTH[text]) for text in texts])
JUDGE = rewards.load_judge(lambda prompts, a, b: [0.2 + 0.6 * ((WORTH[x] - WORTH[y]) % 3 == 1) if x != y else 0.5
                                                  for x, y in zip(a, b, strict=True)])  # fmt: skip
PREFERENCE = JUDGE.against([""], [TEXTS], [TEXTS])[0]
MODELS = [lm.init(CONFIG, key) for key in jax.random.split(jax.random.key(1), 5)]
POLICY, REFERENCE, ANCHOR, *PAST = jax.tree.map(lambda x: 2 * x, MODELS)
OTHERS = Others(reference=REFERENCE, anchor=ANCHOR, history=jax.tree.map(lambda *x: jnp.stack(x), *PAST))


def exact(params: Any) -> np.ndarray:
    """log pi(response | prompt) of all responses."""
    tokens, mask = np.zeros((len(RESPONSES), 4), np.int32), np.zeros((len(RESPONSES), 4), bool)
    tokens[:, :2] = PROMPT
    for row, own, response in zip(tokens, mask, RESPONSES, strict=True):
        row[2 : 2 + len(response)], own[2 : 2 + len(response)] = response, True
    return np.asarray(lm.token_logps(CONFIG, params, tokens, mask).sum(-1), np.float64)


def problem() -> alignjax.Problem:
    values = np.array([WORTH[text] for text in TEXTS], float)
    return alignjax.Problem(
        ref_logp=exact(REFERENCE), anchor_logp=exact(ANCHOR), reward=values, preference=PREFERENCE,
        opponent_logp=np.stack([exact(p) for p in PAST]),
    )  # fmt: skip


def rollout(name: str, k: int | None = None, **options: Any) -> Rollout:
    method = alignjax.methods[name]
    hyper = loss_hyperparameters(method, {}, online=True)
    given = {"reward": REWARD, "judge": JUDGE, "sampling": Sampling(max_new_tokens=N), **options}
    return Rollout(config=CONFIG, method=method, hyper=hyper, tokenizer=Letters(), plan=plan_of(method, k), **given)


def prompts(rows: int) -> dict[str, np.ndarray]:
    """The prompt, padded on the left."""
    tokens = np.tile(np.array([2, *PROMPT], np.int32), (rows, 1))
    return {"prompts": tokens, "prompt_mask": np.tile([False, True, True], (rows, 1))}


def drawn(rolled: Any) -> np.ndarray:
    """The index of each response, `[B, K]`."""
    return np.array([[TEXTS.index(text) for text in texts] for texts in rolled.completions])


def assert_law(index: np.ndarray, logp: Any) -> None:
    counts, chance = np.bincount(index, minlength=len(TEXTS)), np.exp(np.asarray(logp, np.float64))
    assert stats.chisquare(counts, chance / chance.sum() * counts.sum()).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bond", "jbond", "xpo", "sppo"])
def test_every_slot_has_the_law_of_the_record(name: str) -> None:
    rolled = rollout(name)(POLICY, OTHERS, prompts(ROWS), jax.random.key(0))
    with jax.enable_x64(True):
        given, method = problem(), alignjax.methods[name]
        law = method.sampler(given, jnp.asarray(exact(POLICY)), **method.own(method.sampler, method.defaults))
        each = law if isinstance(law, tuple) else (law,) * 4
        index = drawn(rolled)
        for slot, one in enumerate(each[: index.shape[1]]):
            assert_law(index[:, slot], one)
        with pytest.raises(AssertionError):  # a check that can fail
            assert_law(index[:, 0], laws.uniform(given, jnp.asarray(exact(POLICY))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sppo", "mnpo_soft", "egpo"])
def test_win_rates_are_those_against_the_opponents_law(name: str) -> None:
    """Given the response, the mean of the judged win-rates is the exact one (over rows, and over past policies)."""
    runs = 12 if name == "mnpo_soft" else 1
    roll = rollout(name, judge=JUDGE)
    found = [roll(POLICY, OTHERS, prompts(ROWS), jax.random.key(n)) for n in range(runs)]
    with jax.enable_x64(True):
        given, method = problem(), alignjax.methods[name]
        opponent = method.opponent(given, jnp.asarray(exact(POLICY)))
        chance = PREFERENCE @ np.exp(np.asarray(opponent))
    means = np.array([(r.batch["win_rate"] - chance[drawn(r)]).mean() for r in found])
    spread = np.concatenate([(r.batch["win_rate"] - chance[drawn(r)]).mean(1) for r in found]).std()
    error = means.std(ddof=1) / np.sqrt(runs) if runs > 1 else spread / np.sqrt(ROWS)
    assert abs(means.mean()) < 5 * error and error < 0.05


def test_what_a_batch_holds_and_the_same_key_the_same_batch() -> None:
    flat = jax.tree.map(lambda x: x / 4, POLICY)  # a law that two keys hardly agree on
    roll = rollout("p3o_token", sampling=Sampling(max_new_tokens=N, temperature=0.7))
    first, again = (roll(flat, OTHERS, prompts(8), step_key(0, 5)) for _ in range(2))
    other = roll(flat, OTHERS, prompts(8), step_key(0, 6))
    assert first.batch.keys() == {
        "tokens", "loss_mask", "attention_mask", "reward", "behaviour_token_logp"
    }  # fmt: skip
    for name, array in first.batch.items():
        np.testing.assert_array_equal(array, again.batch[name])
    assert (first.batch["tokens"] != other.batch["tokens"]).any()
    batch = first.batch
    assert batch["tokens"].shape == (8, 2, 3 + N)
    assert not batch["loss_mask"][..., :3].any() and batch["attention_mask"][..., 1:3].all()
    assert not batch["attention_mask"][..., 0].any()
    for row, texts in zip(batch["reward"], first.completions, strict=True):
        np.testing.assert_array_equal(row, [WORTH[text] for text in texts])
    assert first.metrics.keys() == roll.metrics
    # The entropy is that of the law as well, by the log-probs that it gave what it drew.
    wanted = -batch["behaviour_token_logp"].sum() / batch["loss_mask"].sum()
    assert first.metrics["entropy"] == pytest.approx(wanted, rel=1e-5)
    # The behaviour is the law with its temperature: the policy's at 0.7, renormalised.
    logits = lm.logits(CONFIG, flat, batch["tokens"].reshape(-1, 5), batch["attention_mask"].reshape(-1, 5))
    wanted = jax.nn.log_softmax(logits / 0.7)[:, 2]
    first_token = np.take_along_axis(np.asarray(wanted), batch["tokens"].reshape(-1, 5)[:, 3:4], -1)[:, 0]
    np.testing.assert_allclose(batch["behaviour_token_logp"].reshape(-1, 5)[:, 3], first_token, rtol=1e-4, atol=1e-5)


def test_best_of_n_and_its_reward_come_from_the_pool() -> None:
    roll = rollout("bond", pool_size=8)
    rolled = roll(POLICY, OTHERS, prompts(16), jax.random.key(0))
    # p_<= of 8 samples is a multiple of 1/8, at least 1/16; the reward is 3 log p + log 4.
    share = np.exp((rolled.batch["reward"] - np.log(4)) / 3)
    np.testing.assert_allclose(np.maximum(np.round(share * 8), 0.5) / 8, share, rtol=1e-4)
    # The best of four of those eight is at least as good as half of them.
    assert (share[:, 0] >= 0.5).all()


def test_hard_labels_are_drawn_by_their_probabilities() -> None:
    roll = rollout("online_dpo", hard_labels=True)
    rolled = roll(POLICY, OTHERS, prompts(ROWS // 2), jax.random.key(0))
    hard, index = rolled.batch["preference"], drawn(rolled)
    np.testing.assert_allclose(hard + np.swapaxes(hard, -1, -2), 1)
    chance = PREFERENCE[index[:, 0], index[:, 1]]
    assert set(np.unique(hard[:, 0, 1])) <= {0.0, 1.0}
    error = np.sqrt((chance * (1 - chance)).mean() / len(chance))
    assert abs((hard[:, 0, 1] - chance).mean()) < 5 * error


@pytest.mark.slow
def test_every_method_gets_a_batch_it_can_read() -> None:
    for name, method in alignjax.methods.items():
        roll = rollout(name)
        batch = prompts(4)
        if "data" in roll.plan.slots:
            texts = np.tile(np.array([*PROMPT, 2, EOS], np.int32), (4, 1, 1))
            batch = {
                "tokens": texts,
                "loss_mask": np.arange(4) >= 2 + np.zeros_like(texts),
                "attention_mask": texts >= 0,
            }
        rolled = roll(POLICY, OTHERS, batch, jax.random.key(0))
        check_method(method, roll.gives, len(roll.plan.slots), online=True)
        more = {"value": jnp.zeros(4)} if "value" in method.reads else {}
        losses, _ = prompt_losses(CONFIG, method, roll.hyper, POLICY, OTHERS, as_read(method, rolled.batch), **more)
        assert losses.shape == (4,) and np.isfinite(losses).all(), name
        if name == "spin":
            assert [texts[0] for texts in rolled.completions] == ["c"] * 4


def test_a_response_of_the_data_is_whole_however_long_and_beside_the_drawn_one() -> None:
    """SPIN: the data's responses of 5 and 2 tokens, their ends included, with 2 that are drawn; all fit in 7."""
    rows = [[*PROMPT, 2, 1, 0, 1, EOS], [1, *PROMPT, 2, EOS, 0, 0]]
    batch = {
        "tokens": np.array(rows)[:, None],
        "loss_mask": np.array([[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]])[:, None],
        "attention_mask": np.array([[1] * 7, [1, 1, 1, 1, 1, 0, 0]])[:, None],
    }
    rolled = rollout("spin", length=7, reward=rewards.load("length"))(POLICY, OTHERS, batch, jax.random.key(0))
    for name in batch:
        np.testing.assert_array_equal(rolled.batch[name][:, 0], batch[name][:, 0], err_msg=name)
    second = rolled.batch["tokens"][:, 1], rolled.batch["loss_mask"][:, 1], rolled.batch["attention_mask"][:, 1]
    for n, (tokens, trained, seen) in enumerate(zip(*second, strict=True)):
        prompt = (PROMPT, (1, *PROMPT))[n]
        assert tuple(tokens[: len(prompt)]) == prompt and not trained[: len(prompt)].any()
        assert 1 <= trained.sum() <= N and trained[len(prompt)] and seen.sum() == len(prompt) + trained.sum()
    assert rolled.completions[0][0] == "cbab" and rolled.metrics["completions/clipped_ratio"] <= 0.5


def test_prompts_are_found_before_the_responses() -> None:
    batch = {
        "tokens": np.array([[[5, 6, 7, 8, 0]], [[5, 9, 9, 0, 0]]]),
        "loss_mask": np.array([[[0, 0, 0, 1, 0]], [[0, 1, 1, 0, 0]]]),
        "attention_mask": np.array([[[1, 1, 1, 1, 0]], [[1, 1, 1, 0, 0]]]),
    }
    found = prompts_of(batch, pad=0)
    np.testing.assert_array_equal(found["prompts"], [[5, 6, 7], [0, 0, 5]])
    np.testing.assert_array_equal(found["prompt_mask"], [[1, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rollout("rloo", reward=None), "rloo reads reward: name a reward"),
        (lambda: rollout("online_dpo", reward=None, judge=None), "name a judge, or a reward to judge by"),
        (lambda: plan_of(alignjax.methods["jbond"], sampler="policy"), "have laws of their own"),
        (lambda: plan_of(alignjax.methods["dpo"], sampler="polcy"), "did you mean 'policy'"),
        (lambda: plan_of(alignjax.methods["dpo"], 3), "draws 2 responses"),
        (lambda: rollout("spin")(POLICY, OTHERS, prompts(2), jax.random.key(0)), "response 0 comes from the data"),
        (lambda: rollout("dpo")(POLICY, Others(), prompts(2), jax.random.key(0)), "draws from the reference"),
    ],
)
def test_what_cannot_be_rolled_out_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
