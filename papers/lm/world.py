"""The world of the runs: a language model trained from scratch on the corpus, its samples, and a reward model.

Made once, in a minute or two, by the trainer's own step, and kept beside the runs; a changed corpus or decoder makes a
new one.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignjax import lm
from papers.lm import corpus, scorers
from tpu.mesh import make_mesh
from tpu.tasks import RewardModel, Sft, scores
from tpu.train_step import Carried, make_train_step, new_state, state_shardings

TOKENIZER = corpus.TOKENIZER
NEW = corpus.LONGEST + 1
"""Tokens of a response, the end of sequence among them."""
PROMPT = 1 + len(corpus.PROMPTS[0].split())
"""Tokens of a prompt, the beginning of sequence among them."""
CONFIG = lm.DecoderConfig(
    vocab_size=TOKENIZER.vocab_size, d_model=64, d_mlp=128, num_layers=2, num_heads=4, max_length=PROMPT + NEW
)
POOL = 256
"""Samples of the base model that are kept of every prompt."""
STEPS, BATCH, RATE = 700, 64, 3e-3
REWARD_STEPS, REWARD_RATE, LABELS = 300, 1e-3, 4.0
"""Of the reward model; the last is the sharpness of the labels it learns from."""

Host = dict[str, np.ndarray]


@functools.cache
def mesh() -> Any:
    """One device: the models are small."""
    return make_mesh("data=1")


def texts_of(tokens: Any) -> list[list[str]]:
    """Responses `[B, K, N]` as words."""
    return [[TOKENIZER.decode(row) for row in rows] for rows in np.asarray(tokens)]


def with_prompts(prompts: np.ndarray, tokens: Any, mask: Any) -> Host:
    """Prompts `[B, P]` before responses `[B, K, N]`: tokens, loss_mask, attention_mask `[B, K, P + N]`."""
    before = np.broadcast_to(prompts[:, None], (*tokens.shape[:2], prompts.shape[1]))
    zeros = np.zeros(before.shape, bool)
    return {
        "tokens": np.concatenate([before, tokens], -1).astype(np.int32),
        "loss_mask": np.concatenate([zeros, mask], -1),
        "attention_mask": np.concatenate([~zeros, mask], -1),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What every run starts from. Axes: X prompts, M samples of the pool, N new tokens."""

    name: str
    """Changes with the corpus, the decoder and the seed of its parameters."""
    config: lm.DecoderConfig
    params: Any
    """The base model: reference and start of every run."""
    pool: lm.Generated
    """`[X, M, N]` on the host: samples of the base model."""
    reward_model: Any

    @functools.cached_property
    def prompts(self) -> np.ndarray:
        """`[X, P]`."""
        return prompt_tokens()

    @functools.cached_property
    def pool_texts(self) -> list[list[str]]:
        """`[X][M]`."""
        return texts_of(self.pool.tokens)

    @functools.cached_property
    def pool_sentiment(self) -> np.ndarray:
        """`[X, M]`."""
        return np.asarray([scorers.sentiment([], texts) for texts in self.pool_texts])

    @functools.cached_property
    def pool_topics(self) -> np.ndarray:
        """`[X, M, 3]`."""
        return np.stack([scorers.topics(texts) for texts in self.pool_texts])

    @functools.cached_property
    def learned(self) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
        """The reward model as a function of texts."""
        score = jax.jit(lambda batch: scores(self.config, self.reward_model, batch))
        chunk = 128

        def reward(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
            tokens, mask = rows_of(list(zip(prompts, completions, strict=True)))
            keep = np.arange(tokens.shape[1]) < PROMPT
            found = []
            for start in range(0, len(tokens), chunk):
                part = np.resize(tokens[start : start + chunk], (chunk, tokens.shape[1]))
                kept = np.resize((mask | keep)[start : start + chunk], part.shape)
                one = score({"tokens": part[:, None], "attention_mask": kept[:, None]})
                found.append(np.asarray(one)[: len(tokens[start : start + chunk]), 0])
            return np.concatenate(found)

        return reward

    def reward(self, name: str) -> Callable[[Sequence[str], Sequence[str]], Any]:
        """A scorer by name: sentiment, length, learned, objectives, mean_objective."""
        return self.learned if name == "learned" else getattr(scorers, name)


def prompt_tokens() -> np.ndarray:
    """Every prompt, `[X, P]`."""
    return np.asarray([[TOKENIZER.bos, *TOKENIZER.encode(prompt)] for prompt in corpus.PROMPTS], np.int32)


def rows_of(pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and loss mask `[rows, P + N]` of reviews: BOS, prompt, response, EOS, padding."""
    tokens = np.full((len(pairs), PROMPT + NEW), TOKENIZER.pad, np.int32)
    for row, (prompt, response) in zip(tokens, pairs, strict=True):
        ids = [TOKENIZER.bos, *TOKENIZER.encode(prompt), *TOKENIZER.encode(response), TOKENIZER.eos][: len(row)]
        row[: len(ids)] = ids
    return tokens, (np.arange(tokens.shape[1]) >= PROMPT) & (tokens != TOKENIZER.pad)


def _descended(
    config: lm.DecoderConfig, task: Any, params: Any, rate: float, steps: int, batches: Callable[[], Host]
) -> tuple[Any, list[float]]:
    """The trainer's step, `steps` times, and the loss every 50."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 50, steps, 0.1 * rate)
    optimiser = optax.adam(schedule)
    first = batches()
    start = task.init(params, jax.random.key(0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), start)
    where = state_shardings(config, optimiser, mesh(), axes=task.axes(), shapes=shapes)
    step = make_train_step(config, task, {}, optimiser, mesh(), first, where=where, reference_where=where.step)
    state = new_state(optimiser, jax.tree.map(jnp.copy, start), Carried())
    losses = []
    for count in range(steps):
        state, metrics = step(state, None, first if count == 0 else batches())
        if count % 50 == 0 or count == steps - 1:
            losses.append(float(metrics["loss"]))
    return state.params, losses


def train_base(config: lm.DecoderConfig, seed: int, steps: int = STEPS) -> tuple[Any, list[float]]:
    """Supervised training on reviews that are never seen twice, and the loss (nats a token) every 50 steps."""
    rng = np.random.default_rng([seed, 700])

    def batches() -> Host:
        tokens, mask = rows_of(corpus.reviews(rng, BATCH))
        keep = mask | (np.arange(tokens.shape[1]) < PROMPT)
        return {"tokens": tokens[:, None], "loss_mask": mask[:, None], "attention_mask": keep[:, None]}

    return _descended(config, Sft(config), lm.init(config, jax.random.key(seed)), RATE, steps, batches)


def train_reward_model(
    config: lm.DecoderConfig, params: Any, pool: lm.Generated, seed: int, steps: int = REWARD_STEPS
) -> tuple[Any, list[float]]:
    """Bradley-Terry on pairs of the pool, with a label a pair that is drawn from what the learner does not see:
    sentiment and half as much length.
    """
    rng = np.random.default_rng([seed, 701])
    batch = with_prompts(prompt_tokens(), pool.tokens, pool.mask)
    texts = texts_of(pool.tokens)
    truth = np.asarray([scorers.sentiment([], row) for row in texts])
    truth += 0.5 * np.asarray([scorers.length([], row) for row in texts])
    paired = {name: x.reshape(-1, 2, *x.shape[2:]) for name, x in (batch | {"truth": truth}).items()}
    margin = LABELS * (paired["truth"][:, 0] - paired["truth"][:, 1])
    first = (rng.random(len(margin)) < 1 / (1 + np.exp(-margin))).astype(np.float32)
    half = np.full_like(first, 0.5)
    paired["preference"] = np.stack([np.stack([half, first], -1), np.stack([1 - first, half], -1)], 1)
    del paired["truth"]

    def batches() -> Host:
        rows = rng.integers(len(first), size=BATCH)
        return {name: x[rows] for name, x in paired.items()}

    return _descended(config, RewardModel(config), params, REWARD_RATE, steps, batches)


# --- kept on disk -----------------------------------------------------------------------------------------------------


def _name(config: lm.DecoderConfig, seed: int) -> str:
    """A digest of what the world depends on; of the corpus and the scorers, what they do and not how it is written."""
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), jax.eval_shape(lambda: lm.init(config, jax.random.key(0))))
    some = corpus.reviews(np.random.default_rng(0), 100)
    texts = [review for _, review in some]
    scored = scorers.sentiment([], texts), scorers.length([], texts), scorers.topics(texts).round(6).tolist()
    numbers = (STEPS, BATCH, RATE, POOL, REWARD_STEPS, REWARD_RATE, LABELS, seed)
    plain = lm.DecoderConfig()
    own = {f.name: x for f in dataclasses.fields(config) if (x := getattr(config, f.name)) != getattr(plain, f.name)}
    text = repr((own, shapes, numbers, corpus.WORDS, corpus.PROMPTS, some, scored))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _kept(path: Path, like: Any, make: Callable[[], Any]) -> Any:
    """The tree in the file, whose structure is that of `like`; made and written where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, *(np.asarray(leaf) for leaf in jax.tree.leaves(make())))
        temporary.replace(path)
    with np.load(path) as archive:
        return jax.tree.unflatten(jax.tree.structure(like), [archive[name] for name in archive.files])


@functools.cache
def world(store: Path, seed: int = 0, config: lm.DecoderConfig = CONFIG) -> World:
    """The world kept in the folder `store`, or a new one."""
    name = _name(config, seed)
    base_file, pool_file, reward_file = (store / name / f"{part}.npz" for part in ("base", "pool", "reward"))
    shape = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))

    def sampled() -> Any:
        keys = jax.random.split(jax.random.key(seed + 1), POOL // 16)
        parts = [jax.device_get(sample(config, params, prompt_tokens(), key, 16)) for key in keys]
        return jax.tree.map(lambda *x: np.concatenate(x, 1), *parts)

    with jax.enable_x64(False):
        params = _kept(base_file, shape, lambda: train_base(config, seed)[0])
        like = lm.Generated(tokens=0, mask=0, logp=0, law_logp=0)  # type: ignore[arg-type]
        pool = _kept(pool_file, like, sampled)
        model = {"decoder": shape, "head": jnp.zeros(config.d_model)}
        reward_model = _kept(reward_file, model, lambda: train_reward_model(config, params, pool, seed)[0])
    place = lambda tree: jax.tree.map(jnp.asarray, tree)
    return World(name, config, place(params), pool, place(reward_model))


def sample(config: lm.DecoderConfig, params: Any, prompts: np.ndarray, key: jax.Array, number: int) -> lm.Generated:
    """`number` responses to each prompt `[B, P]`, `[B, number, N]`."""
    return lm.generate(
        config, params, prompts, key, max_new_tokens=NEW, num_samples=number, stop=(TOKENIZER.eos,), pad=TOKENIZER.pad
    )
