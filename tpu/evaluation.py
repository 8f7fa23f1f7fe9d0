r"""What a policy does: its responses to given prompts, and numbers about them, each with its standard error.

    KL(law || reference) = E_law[log law(y) - log reference(y)],   whole responses, estimated on the samples themselves

The law is what the responses were drawn from: the policy at temperature 1 without truncation, else what temperature,
top-k and top-p made of it. Responses to one prompt are alike, so standard errors are those of a mean over prompts
(clusters); with a single prompt, over its responses.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import lm
from alignjax.best_of import best_of_n_kl
from alignjax.lm.model import LanguageModel, Params
from alignjax.samples import Samples
from tpu.bridge import TOKENS, pair_metrics
from tpu.rewards import Judge, Prompts, Reward, Written
from tpu.rollout import Sampling, assembled, ids_of, stops_of, written_in

Host = Mapping[str, np.ndarray]
Model = tuple[LanguageModel, Params]


@dataclasses.dataclass(frozen=True)
class Responses:
    """K responses to each of N prompts, on the host."""

    made: Any
    """`lm.Generated` with `[N, K, T]`."""
    written: Written
    """Texts without specials, and tokens."""
    ended: np.ndarray
    """`[N, K]`: whether a stop token came before the limit."""

    @property
    def texts(self) -> list[list[str]]:
        """`[N][K]`."""
        return [list(texts) for texts in self.written.texts]


def respond(
    model: Model,
    tokenizer: Any,
    prompts: Host,
    key: jax.Array,
    *,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    batch: int = 8,
) -> Responses:
    """Responses to `prompts` `[N, P]` with their `prompt_mask`, `batch` prompts at a time; no row depends on it."""
    config, params = model
    count = len(prompts["prompts"])
    sampling, stop = sampling or Sampling(), stops_of(tokenizer)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
    parts = []
    for index in _batches(count, batch):
        made = lm.generate(
            config, params, prompts["prompts"][index], keys[index], attention_mask=prompts["prompt_mask"][index],
            num_samples=num_samples, stop=stop, pad=tokenizer.pad, **dataclasses.asdict(sampling),
        )  # fmt: skip
        parts.append(jax.device_get(made))
    made = jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)
    return Responses(made, written_in(tokenizer, made), (np.isin(made.tokens, stop) & made.mask).any(-1))


def _batches(count: int, size: int) -> list[np.ndarray]:
    """Row numbers, `size` at a time; the last ones are filled up with row 0, so that all have one shape."""
    size = min(size, count)
    starts = range(0, count, size)
    return [np.where(np.arange(start, start + size) < count, np.arange(start, start + size), 0) for start in starts]


def estimate(total: Any, count: Any = None) -> tuple[float, float]:
    r"""sum_i total_i / sum_i count_i over prompts, and its standard error by the linearised residuals.

    `total` `[N]` or `[N, K]` (summed over the responses); `count` alike, by default one for each response. A single
    prompt counts each response as one. The error is NaN where there is one observation.
    """
    total = np.asarray(total, np.float64)
    count = np.ones(total.shape) if count is None else np.asarray(count, np.float64)
    if total.ndim == 2:
        total, count = (total[0], count[0]) if len(total) == 1 else (total.sum(1), count.sum(1))
    value, n = total.sum() / count.sum(), len(total)
    residual = (total - value * count) / count.mean()
    return float(value), float(np.sqrt((residual**2).sum() / (n - 1) / n)) if n > 1 else float("nan")


def best_of_n_curve(rewards: np.ndarray) -> list[dict[str, float]]:
    r"""The reward of the best of n = 1, 2, 4, ..., K samples, from K of each prompt `[N, K]`.

        E max of n = sum_i r_(i) C(i - 1, n - 1) / C(K, n),    r_(1) <= ... <= r_(K)

    unbiased for every n: the mean over all subsets. `kl` is log n - (n - 1) / n, the most that best-of-n can be away
    from one sample.
    """
    k = rewards.shape[1]
    ranked = np.sort(rewards, 1)
    curve = []
    for n in sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k}):
        weights = np.array([comb(i, n - 1) / comb(k, n) for i in range(k)])
        value, error = estimate(ranked @ weights)
        curve.append({"n": n, "reward": value, "reward_se": error, "kl": float(best_of_n_kl(n))})
    return curve


def evaluate(
    model: Model,
    tokenizer: Any,
    prompts: Host,
    prompt_texts: Sequence[str],
    key: jax.Array,
    *,
    reference: Model | None = None,
    reward: Reward | None = None,
    judge: Judge | None = None,
    rivals: Sequence[Sequence[str]] | Written | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    num_samples: int = 4,
    sampling: Sampling | None = None,
    batch: int = 8,
) -> tuple[dict[str, Any], Responses]:
    """The numbers and the responses they are of.

    Args:
      prompts: `prompts` `[N, P]`, padded on the left, and `prompt_mask`. `prompt_texts` `[N]`: for reward and judge.
      reference: a model over the same tokens; then `kl`.
      reward: then `reward` (or one for each of M objectives, `reward/0`, ...) and the best-of-n curve.
      judge: with `rivals` `[N][J]` texts; then `win_rate`, the chance that a response beats a rival. Both orders are
        asked and averaged, every response meets every rival to its prompt.
      columns: of the data, `[N]` each, for rewards and judges that take them.

    Returns: for each of `reward`, `kl` (nats a response), `win_rate`, `length` (tokens, the stop token included),
      `ended` (share that stopped before the limit) and `entropy` (of the policy's law of a token, nats) the estimate
      and `NAME_se`; `branching` = exp(entropy); `best_of_n`, a list.
    Raises: FeedbackError from reward and judge; what `lm.generate` raises.
    """
    responses = respond(model, tokenizer, prompts, key, num_samples=num_samples, sampling=sampling, batch=batch)
    made = responses.made
    entropy, ref_logp = _scored(model, reference, prompts, made, batch)
    ids = ids_of(prompts["prompts"], prompts["prompt_mask"])
    asked = Prompts(prompt_texts, ids, columns or {}, tokenizer)
    measured: dict[str, tuple[Any, Any]] = {}
    found: dict[str, Any] = {"prompts": len(prompt_texts), "samples": num_samples}
    if reward is not None:
        scores = reward(asked, responses.written)
        if scores.ndim == 2:
            measured["reward"] = (scores, None)
            found["best_of_n"] = best_of_n_curve(scores)
        else:
            measured |= {f"reward/{m}": (scores[..., m], None) for m in range(scores.shape[-1])}
    if judge is not None and rivals is not None:
        measured["win_rate"] = (judge.against(asked, responses.written, rivals).mean(-1), None)
    if ref_logp is not None:
        measured["kl"] = (np.asarray(made.law_logp, np.float64).sum(-1) - ref_logp, None)
    measured["length"] = (made.mask.sum(-1), None)
    measured["ended"] = (responses.ended, None)
    measured["entropy"] = (entropy, made.mask.sum(-1))
    for name, (total, count) in measured.items():
        found[name], found[f"{name}_se"] = estimate(total, count)
    found["branching"] = float(np.exp(found["entropy"]))
    return found, responses


def _scored(
    model: Model, reference: Model | None, prompts: Host, made: Any, size: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """`[N, K]`: the summed entropies of the policy's laws along each response, and the reference's log-prob of it."""
    count = len(made.tokens)
    entropies, logps = [], []
    for index in _batches(count, size):
        rows = jax.tree.map(lambda x, i=index: x[i], made)
        batch = assembled({name: prompts[name][index] for name in ("prompts", "prompt_mask")}, rows)
        arrays = [batch[name] for name in TOKENS]
        entropies.append(np.asarray(lm.token_statistics(*model, *arrays).entropy, np.float64).sum(-1))
        if reference is not None:
            logps.append(np.asarray(lm.token_logps(*reference, *arrays), np.float64).sum(-1))
    join = lambda parts: np.concatenate(parts)[:count] if parts else None
    return join(entropies), join(logps)  # type: ignore[return-value]


def evaluate_pairs(
    model: Model,
    reference: Model | None,
    data: Any,
    *,
    beta: float,
    index: np.ndarray | None = None,
    batch: int = 8,
    ranked: bool = False,
) -> dict[str, float]:
    """The metrics that trainers plot of pairs (`lm.PreferenceData`, K = 2): `logps/chosen`, and with a reference
    `rewards/accuracies`, `rewards/margins`, ... of the implicit rewards beta (logp - ref_logp).

    `index`: which rows, by default all. The chosen response is the preferred one, without preferences the first; or
    if they are `ranked` the one with the larger reward.
    """
    index = np.arange(len(data)) if index is None else index
    total: dict[str, tuple[float, float]] = {}
    for part in _batches(len(index), batch):
        rows = data.rows(index[part])
        arrays = [rows[name] for name in TOKENS]
        logps = [np.asarray(lm.token_logps(*one, *arrays)) for one in (model, reference) if one is not None]
        real = np.append(True, part[1:] != 0)  # the others fill the last batch up
        one = Samples.from_tokens(
            logps[0], logps[1] if reference is not None else None, rows["loss_mask"], preference=rows.get("preference"),
            reward=rows.get("reward") if ranked else None,
        )  # fmt: skip
        kept = jax.tree.map(lambda x, real=real: x[real], one)
        for name, pair in pair_metrics(kept, beta).items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + float(pair[0]), before[1] + float(pair[1]))
    return {name: value / max(count, 1.0) for name, (value, count) in total.items()}
