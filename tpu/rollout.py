"""Online: from prompts to a batch, by the laws that a method's record names.

    prompts -> responses (who writes them: laws.sources_of) -> texts -> rewards and judgements -> the batch of a step

The step that follows is that of offline data: only here is anything sampled. Everything random comes from the key.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import checks, laws, lm
from alignjax.lm.model import LanguageModel, Params
from alignjax.record import Method
from tpu.bridge import Others, reads
from tpu.global_arrays import fetched
from tpu.resharding import Generation
from tpu.rewards import FeedbackError, Judge, Prompts, Reward, Written, bradley_terry

Host = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are sampled. Temperature and truncation are part of the law: `behaviour_token_logp` has them."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Who writes what, for one method."""

    slots: tuple[str, ...]
    """Of `laws.SOURCES`, one for each of the K responses."""
    opponent: str | None
    """Whom the responses are judged against, for methods that read `win_rate`."""
    pool: str | None
    """Whose further samples the reward is made from (best-of-n, quantiles)."""

    @property
    def sources(self) -> frozenset[str]:
        """Everyone who writes."""
        return frozenset(one for one in (*self.slots, self.opponent, self.pool) if one is not None)


def plan_of(method: Method, num_responses: int | None = None, sampler: str | None = None) -> Plan:
    """The plan of a method: its own laws, or one source for all responses where `sampler` names it.

    Raises: ValueError if K does not fit the method, or the method's responses have laws of their own.
    """
    own = laws.sources_of(method.sampler)
    k = method.group_size(num_responses) if num_responses or method.num_responses else max(method.min_responses, 4)
    if sampler is not None:
        checks.member("sampler", sampler, ("policy", "reference", "previous", "mixture"))
        if len(own) > 1:
            raise ValueError(
                f"the responses of {method.name} have laws of their own ({', '.join(own)}); no sampler fits"
            )
        own = (sampler,)
    slots = own * k if len(own) == 1 else own
    opponent = laws.sources_of(method.opponent)[0] if method.opponent and "win_rate" in method.reads else None
    pool = laws.sources_of(method.pool)[0] if method.pool else "previous" if "best_of_n" in slots else None
    return Plan(slots, opponent, pool)


@dataclasses.dataclass(frozen=True)
class Rolled:
    """A batch for the step, and what to show of it."""

    batch: Host
    metrics: dict[str, float]
    prompts: list[str]
    completions: list[list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """rollout(policy, others, batch, key) -> Rolled. Raises: ValueError if the method lacks a reward or a judge."""

    config: LanguageModel
    method: Method
    hyper: Mapping[str, Any]
    tokenizer: Any
    """See `lm.tokenizer`: `decode`, `eos`, `pad`."""
    plan: Plan
    sampling: Sampling = Sampling()
    reward: Reward | None = None
    judge: Judge | None = None
    hard_labels: bool = False
    """Draw preferences as 0 or 1 by their probabilities, instead of the probabilities themselves."""
    opponents: int = 1
    """Samples of the opponent to a prompt."""
    pool_size: int = 16
    """Samples that quantiles are estimated from (at least n)."""
    prompt_texts: Sequence[str] = ()
    """Of the rows of the data, as the user wrote them: what rewards and judges are asked about. A batch's `index` says
    which rows it has; where it does not, or there are no texts, the prompts' tokens are decoded.
    """
    columns: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    """The data's other columns, row by row, for rewards and judges that take them."""
    length: int | None = None
    """Tokens of a row where a response is the data's: it may be longer than what is drawn, and a prompt shorter, so
    that all begin at the left. Others are prompts, padded on the left, and `max_new_tokens`.
    """
    generation: Generation | None = None
    """Where parameters and prompts lie meanwhile; None: where they are."""

    def __post_init__(self) -> None:
        for field in ("reward", "rewards"):
            if field in self.method.reads and self.reward is None:
                raise ValueError(f"{self.method.name} reads {field}: name a reward")
        if (self._compares or "win_rate" in self.method.reads) and self._judge is None:
            raise ValueError(f"{self.method.name} compares responses: name a judge, or a reward to judge by")
        if "best_of_n" in self.plan.slots and self.reward is None:
            raise ValueError(f"{self.method.name} takes the best of n samples: name a reward")

    @property
    def _compares(self) -> bool:
        fields = (*self.method.reads, *self.method.reads_if_present)
        return "preference" in fields and "data" not in self.plan.slots

    @functools.cached_property
    def _judge(self) -> Judge | None:
        return self.judge or (None if self.reward is None else bradley_terry(self.reward))

    @property
    def gives(self) -> set[str]:
        """The fields of `Samples` in the batches."""
        every = {"reward", "rewards", "preference", "win_rate"}
        return (every & {*self.method.reads, *self.method.reads_if_present}) | {"behaviour_logp"}

    @property
    def metrics(self) -> set[str]:
        """The names of the metrics of every rollout."""
        found = {"completions/mean_length", "completions/clipped_ratio"}
        found |= {"entropy"} if {"policy", "mixture"} & {*self.plan.slots} else set()
        return found | ({"reward", "reward_std"} if {"reward", "rewards"} & {*self.method.reads} else set())

    # --- sampling

    def write(self, source: str, count: int, policy: Params, others: Others, prompts: Host, key: jax.Array) -> Any:
        """`count` responses of a source to each prompt: `lm.Generated` with `[B, count, N]`, on the host."""
        previous = others.anchor
        if previous is None and others.history is not None:
            previous = _member(others.history, 0)
        previous = others.reference if previous is None else previous
        mixture: Any = None
        if source == "mixture":
            mixture = (others.reference, float(self.hyper["mixture"]))
        elif source == "past":
            if others.history is None:
                raise ValueError(f"{self.method.name} draws from past policies, and there are none")
            size = jax.tree.leaves(others.history)[0].shape[0]
            key, which = jax.random.split(key)
            previous = _member(others.history, jax.random.randint(which, (), 0, size))
        params = policy if source in ("policy", "mixture") else others.reference if source == "reference" else previous
        if params is None or (mixture is not None and mixture[0] is None):
            raise ValueError(f"{self.method.name} draws from the reference, and there is none")
        rows: Any = prompts["prompts"]
        keep: Any = prompts["prompt_mask"]
        if self.generation is not None:
            params = self.generation.params(params)
            mixture = mixture and (self.generation.params(mixture[0]), mixture[1])
            longest = max(int(keep.sum(-1).max()), 1)
            rows, keep = (self.generation.rows(np.asarray(x)[:, -longest:]) for x in (rows, keep))
        made = lm.generate(
            self.config, params, rows, key, attention_mask=keep, num_samples=count,
            stop=stops_of(self.tokenizer), mixture=mixture, **dataclasses.asdict(self.sampling),
        )  # fmt: skip
        return fetched(made)

    def asked(self, batch: Mapping[str, np.ndarray], prompts: Host) -> Prompts:
        """The prompts of a batch, for rewards and judges."""
        ids = ids_of(prompts["prompts"], prompts["prompt_mask"])
        rows = batch.get("index")
        if rows is None or not self.prompt_texts:
            return Prompts([self.tokenizer.decode(one) for one in ids], ids, tokenizer=self.tokenizer)
        columns = {name: [column[i] for i in rows] for name, column in self.columns.items()}
        return Prompts([self.prompt_texts[i] for i in rows], ids, columns, self.tokenizer)

    # --- the batch

    def __call__(self, policy: Params, others: Others, batch: Mapping[str, np.ndarray], key: jax.Array) -> Rolled:
        """`batch` has `prompts` and `prompt_mask` `[B, P]`, or tokens `[B, K, T]` whose prompts are taken."""
        with self.generation or contextlib.nullcontext():
            rolled = self._rolled(policy, others, batch, key)
        if self.generation is not None:
            rolled.metrics.update(self.generation.cost())
        return rolled

    def _rolled(self, policy: Params, others: Others, batch: Mapping[str, np.ndarray], key: jax.Array) -> Rolled:
        prompts = prompts_of(batch, self.tokenizer.pad)
        said = self.asked(batch, prompts)
        keys = {
            source: jax.random.fold_in(key, n) for n, source in enumerate((*laws.SOURCES, "opponent", "pool", "label"))
        }
        pool, pool_reward = None, None
        n = int(np.ceil(float(self.hyper.get("n", 1))))
        if self.plan.pool is not None:
            pool = self.write(self.plan.pool, max(self.pool_size, n), policy, others, prompts, keys["pool"])
            pool_reward = self._scalar_reward(said, written_in(self.tokenizer, pool))
        slots: list[Any] = [None] * len(self.plan.slots)
        for source in dict.fromkeys(self.plan.slots):
            places = [i for i, one in enumerate(self.plan.slots) if one == source]
            if source == "best_of_n":
                assert pool is not None and pool_reward is not None
                best = pool_reward[:, :n].argmax(-1)
                made = jax.tree.map(lambda x, b=best: x[np.arange(len(b)), b][:, None], pool)
            elif source == "data":
                made = _written_in_data(batch, self.tokenizer.pad)
            else:
                made = self.write(source, len(places), policy, others, prompts, keys[source])
            for j, place in enumerate(places):
                slots[place] = jax.tree.map(lambda x, j=j: x[:, j], made)
        longest = max(slot.tokens.shape[-1] for slot in slots)
        drawn = jax.tree.map(lambda *x: np.stack(x, 1), *(_widened(one, longest, self.tokenizer.pad) for one in slots))
        completions = written_in(self.tokenizer, drawn)
        fields = self._feedback(said, completions, pool_reward, policy, others, prompts, keys)
        if reads(self.method, "behaviour"):
            start = np.zeros((*drawn.mask.shape[:2], prompts["prompts"].shape[1]), np.float32)
            fields["behaviour_token_logp"] = np.concatenate([start, np.where(drawn.mask, drawn.law_logp, 0.0)], -1)
        ended = np.isin(drawn.tokens, stops_of(self.tokenizer)) & drawn.mask
        metrics = {
            "completions/mean_length": float(drawn.mask.sum(-1).mean()),
            "completions/clipped_ratio": float(1.0 - ended.any(-1).mean()),
        }
        written = np.asarray([one in ("policy", "mixture") for one in self.plan.slots])
        if written.any():
            mask = drawn.mask[:, written]
            # Of the law that was drawn from, as -E log of itself: temperature, truncation and mixture included.
            metrics["entropy"] = float(-(drawn.law_logp[:, written] * mask).sum() / max(mask.sum(), 1))
        shown = fields.pop("shown_reward", None)
        if shown is not None:
            metrics |= {"reward": float(shown.mean()), "reward_std": float(shown.std(1).mean())}
        made_batch = assembled(prompts, drawn) | fields
        if self.length is not None:
            made_batch = _begun_left(made_batch, self.length)
        return Rolled(made_batch, metrics, list(said.texts), [list(texts) for texts in completions.texts])

    def _scalar_reward(self, prompts: Prompts, completions: Written) -> np.ndarray:
        assert self.reward is not None
        found = self.reward(prompts, completions)
        if found.ndim > 2:
            raise FeedbackError(f"{self.method.name} needs one reward; {self.reward.name} gives {found.shape[-1]}")
        return found

    def _feedback(
        self, said: Prompts, completions: Written, pool_reward: np.ndarray | None, policy: Params,
        others: Others, prompts: Host, keys: Mapping[str, jax.Array],
    ) -> Host:  # fmt: skip
        """Fields of `Samples` for these responses."""
        method, fields = self.method, {}
        if "reward" in method.reads:
            reward = fields["shown_reward"] = self._scalar_reward(said, completions)
            if "reward" in method.estimates:
                estimate = method.estimates["reward"]
                reward = np.asarray(estimate(reward, pool_reward, **method.own(estimate, self.hyper)))
            fields["reward"] = reward
        if "rewards" in method.reads:
            assert self.reward is not None
            several = self.reward(said, completions)
            fields["rewards"] = several[..., None] if several.ndim == 2 else several
            fields["shown_reward"] = fields["rewards"].mean(-1)
        if self._compares:
            assert self._judge is not None
            chance = self._judge.matrix(said, completions)
            fields["preference"] = _drawn(chance, keys["label"]) if self.hard_labels else chance
        if "win_rate" in method.reads:
            assert self._judge is not None and self.plan.opponent is not None
            rivals = self.write(self.plan.opponent, self.opponents, policy, others, prompts, keys["opponent"])
            fields["win_rate"] = self._judge.against(said, completions, written_in(self.tokenizer, rivals)).mean(-1)
        return {name: np.asarray(array, np.float32) for name, array in fields.items()}


def stops_of(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a response: `stops` of a tokenizer, or its `eos` alone."""
    return tuple(getattr(tokenizer, "stops", (tokenizer.eos,)))


def ids_of(tokens: Any, mask: Any) -> list[Any]:
    """The tokens of rows `[..., T]` that count, as nested lists."""
    if np.ndim(tokens) > 1:
        return [ids_of(*pair) for pair in zip(tokens, mask, strict=True)]
    return [int(t) for t, m in zip(tokens, mask, strict=True) if m]


def written_in(tokenizer: Any, made: Any) -> Written:
    """Responses `[B, K, N]` for rewards and judges: texts without what ended them, tokens with it."""
    stops, ids = stops_of(tokenizer), ids_of(made.tokens, made.mask)
    return Written([[tokenizer.decode([t for t in one if t not in stops]) for one in each] for each in ids], ids)


def _member(history: Params, index: Any) -> Params:
    return jax.tree.map(lambda x: x[index], history)


def _drawn(chance: np.ndarray, key: jax.Array) -> np.ndarray:
    """Preferences 0 and 1, with P + P^T = 1 and 1/2 on the diagonal."""
    first = np.asarray(jax.random.uniform(key, chance.shape)) < chance
    upper = np.triu(np.ones(chance.shape[-2:], bool), 1)
    hard = np.where(upper, first, 1.0 - np.swapaxes(first, -1, -2))
    return np.where(np.eye(chance.shape[-1], dtype=bool), 0.5, hard)


def prompts_of(batch: Mapping[str, np.ndarray], pad: int) -> Host:
    """`prompts` and `prompt_mask` `[B, P]`, padded on the left: the batch's, or what stands before a response."""
    if "prompts" in batch:
        return {name: np.asarray(batch[name]) for name in ("prompts", "prompt_mask")}
    tokens, trained, keep = (np.asarray(batch[n])[:, 0] for n in ("tokens", "loss_mask", "attention_mask"))
    before = (keep != 0) & (np.cumsum(trained != 0, -1) == 0)
    longest = int(before.sum(-1).max())
    rows, mask = np.full((len(tokens), longest), pad, np.int32), np.zeros((len(tokens), longest), bool)
    for row, own, found, inside in zip(rows, mask, tokens, before, strict=True):
        prompt = found[inside]
        row[longest - len(prompt) :] = prompt
        own[longest - len(prompt) :] = True
    return {"prompts": rows, "prompt_mask": mask}


def _written_in_data(batch: Mapping[str, np.ndarray], pad: int) -> Any:
    """The first response of each row of the data, whole, as if it had been generated. Raises: ValueError if there is
    none.
    """
    if "tokens" not in batch:
        raise ValueError("response 0 comes from the data: rows need a completion (or chosen) beside the prompt")
    tokens, trained = (np.asarray(batch[name])[:, 0] for name in ("tokens", "loss_mask"))
    length = int((trained != 0).sum(-1).max())
    rows, mask = np.full((len(tokens), 1, length), pad, np.int32), np.zeros((len(tokens), 1, length), bool)
    for n, (found, inside) in enumerate(zip(tokens, trained != 0, strict=True)):
        response = found[inside]
        rows[n, 0, : len(response)], mask[n, 0, : len(response)] = response, True
    nothing = np.zeros(rows.shape, np.float32)
    arrays: dict[str, Any] = {"tokens": rows, "mask": mask, "logp": nothing, "law_logp": nothing}
    return lm.Generated(**arrays)


def _widened(made: Any, length: int, pad: int) -> Any:
    """Responses `[B, N]`, padded on the right."""
    more = length - made.tokens.shape[-1]
    wide = lambda x, value: np.pad(np.asarray(x), [(0, 0), (0, more)], constant_values=value)
    fields = {field.name: wide(getattr(made, field.name), 0) for field in dataclasses.fields(made)}
    return type(made)(**{**fields, "tokens": wide(made.tokens, pad)})


def _begun_left(batch: Host, length: int) -> Host:
    """The rows `[B, K, T]` with all padding behind, `length` tokens; no row has more."""
    order = np.argsort(batch["attention_mask"] == 0, -1, kind="stable")
    found = dict(batch)
    for name in ("tokens", "loss_mask", "attention_mask", "behaviour_token_logp"):
        if name in batch:
            left = np.take_along_axis(batch[name], order, -1)[..., :length]
            found[name] = np.pad(left, [(0, 0), (0, 0), (0, length - left.shape[-1])])
    return found


def assembled(prompts: Host, made: Any) -> Host:
    """Prompts `[B, P]` and responses `[B, K, N]` as the arrays `[B, K, P + N]` of a step."""
    k = made.tokens.shape[1]
    each = lambda x: np.repeat(np.asarray(x)[:, None], k, 1)
    keep = each(prompts["prompt_mask"]) != 0
    return {
        "tokens": np.concatenate([each(prompts["prompts"]), made.tokens], -1).astype(np.int32),
        "loss_mask": np.concatenate([np.zeros_like(keep), made.mask != 0], -1),
        "attention_mask": np.concatenate([keep, made.mask != 0], -1),
    }


def step_key(seed: int, step: int) -> jax.Array:
    """The key of a step: the same in a run that was interrupted and one that was not."""
    return jax.random.fold_in(jax.random.key(seed), jnp.uint32(step))
