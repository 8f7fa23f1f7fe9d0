"""Resumable runs: each (paper, experiment, setting, seed) is a JSON file beside the world, made once and read after.

A file is used only if it says that it was made by the same spec in the same world; another is made again.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import lm
from alignjax.best_of import Quantiles, best_of_n_ratio
from papers import run as harness
from papers.lm import corpus, scorers
from papers.lm.training import Spec, train
from papers.lm.world import World, sample, texts_of, with_prompts, world
from papers.record import Settings

Json = dict[str, Any]
SAMPLES = 8
"""Responses to each of the prompts in a measurement."""
SCORES = ("sentiment", "length", "learned")


# --- measures ---------------------------------------------------------------------------------------------------------

PURE = scorers.topics(["staff " * 4, "price " * 4, "room " * 4])
"""What three responses are about that speak of one topic alone."""


def _logp(here: World, params: Any, tokens: Any, mask: Any) -> np.ndarray:
    batch = with_prompts(here.prompts, tokens, mask)
    return np.asarray(lm.token_logps(here.config, params, batch["tokens"], batch["loss_mask"]).sum(-1))


def _error(x: Any) -> float:
    return float(x.std() / np.sqrt(x.size))


def _measured(here: World, params: Any, key: Array) -> tuple[Json, lm.Generated, np.ndarray, np.ndarray]:
    """`measure`, and the responses, their sentiment and what they are about."""
    drawn = jax.device_get(sample(here.config, params, here.prompts, key, SAMPLES))
    texts = texts_of(drawn.tokens)
    asked = [prompt for prompt in corpus.PROMPTS for _ in range(SAMPLES)]
    flat = [text for row in texts for text in row]
    score = {name: np.asarray(here.reward(name)(asked, flat)).reshape(-1, SAMPLES) for name in SCORES}
    shares = np.stack([scorers.topics(row) for row in texts])
    ratio = drawn.logp.sum(-1) - _logp(here, here.params, drawn.tokens, drawn.mask)
    against_base = scorers.prefers(shares[:, :, None], here.pool_topics[:, None, :64])
    exploiting = scorers.prefers(PURE[:, None, None], shares).mean((1, 2))
    found = {name: x.mean() for name, x in score.items()} | {
        "sentiment_error": _error(score["sentiment"]),
        "kl": ratio.mean(),
        "kl_error": _error(ratio),
        "entropy": -drawn.logp.sum() / drawn.mask.sum(),
        "win_rate": against_base.mean(),
        "exploited": exploiting.max(),
        "topics": [float(x) for x in shares.mean((0, 1))],
    }
    return found, drawn, score["sentiment"], shares


def measure(here: World, params: Any, key: Array) -> Json:
    """Eight responses to every prompt: the mean of each score, KL to the base model, what they are about.

    `kl` (nats, whole responses) is the mean log-ratio, `kl_error` its standard error; `entropy` nats a token;
    `win_rate` is against the base model under the cyclic judge, `exploited` the highest win-rate of a response that is
    about one topic.
    """
    return _measured(here, params, key)[0]


def divergences(here: World, params: Any, key: Array, *, n: int) -> Json:
    """`measure`, and KL(pi || best-of-n), KL(best-of-n || pi), E log p_<=, by the 256 samples of the pool.

    log pi_BoN = log ref + (n - 1) log p_<= + log B with p_<=, p_< counted in the pool; best-of-n itself is drawn as the
    best of n of the pool.
    """
    found, drawn, score, _ = _measured(here, params, key)
    ratio, at_most = _target(here, score, n)
    backward = drawn.logp.sum(-1) - _logp(here, here.params, drawn.tokens, drawn.mask) - ratio
    where = np.random.default_rng(704).integers(here.pool.tokens.shape[1], size=(len(here.prompts), SAMPLES, n))
    rows = np.arange(len(here.prompts))[:, None]
    best = here.pool_sentiment[rows[..., None], where].argmax(-1)[..., None]
    winner = np.take_along_axis(where, best, -1)[..., 0]
    tokens, mask, ref = (x[rows, winner] for x in (here.pool.tokens, here.pool.mask, here.pool.logp))
    ratio, _ = _target(here, here.pool_sentiment[rows, winner], n)
    forward = ref.sum(-1) + ratio - _logp(here, params, tokens, mask)
    return found | {
        "backward": backward.mean(),
        "backward_error": _error(backward),
        "forward": forward.mean(),
        "forward_error": _error(forward),
        "log_quantile": at_most.mean(),
    }


def _target(here: World, score: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """log pi_BoN - log ref and log p_<= of scores `[X, K]` among those of the pool."""
    pool, score = here.pool_sentiment[:, None], score[..., None]
    below, equal = (pool < score - 1e-9).mean(-1), (np.abs(pool - score) <= 1e-9).mean(-1)
    equal = np.maximum(equal, 0.5 / pool.shape[-1])
    at_most = np.log(np.minimum(below + equal, 1.0))
    return np.asarray(best_of_n_ratio(Quantiles(jnp.asarray(at_most), jnp.log(equal)), float(n))), at_most


def with_responses(here: World, params: Any, key: Array) -> Json:
    """`measure`, and what each response is about, flat, for games between runs."""
    found, _, _, shares = _measured(here, params, key)
    return found | {"responses": [round(float(x), 4) for x in shares.ravel()]}


# --- the store --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Several settings of one comparison, each with the same seeds."""

    paper: str
    name: str
    specs: Mapping[str, Spec]
    """By the name that figures show."""
    seeds: Sequence[int]
    measure: str = "measure"
    n: int = 8
    """Of `divergences`."""

    def says(self) -> str:
        """Which runs these are, for a page."""
        steps = sorted({spec.steps for spec in self.specs.values()})
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        settings = "1 setting" if len(self.specs) == 1 else f"{len(self.specs)} settings"
        return f"`{self.paper}/{self.name}`: {settings}, {seeds}, {' or '.join(map(str, steps))} steps each"


def results(settings: Settings, experiment: Experiment) -> dict[str, dict[str, np.ndarray]]:
    """Measures by setting and name, `[seeds, points]` (or `[seeds, points, ...]`), from disk or from new runs."""
    store = Path(settings.out) / "lm"
    with jax.enable_x64(False):
        here = world(store)
        found = {
            label: [_one(store, here, experiment, label, spec, seed) for seed in experiment.seeds]
            for label, spec in experiment.specs.items()
        }
    return {
        label: {name: np.asarray([one[name] for one in several]) for name in several[0]}
        for label, several in found.items()
    }


def path_of(store: Path, experiment: Experiment, label: str, seed: int) -> Path:
    """Where a run is kept."""
    tidy = "".join(c if c.isalnum() or c in ".=" else "-" for c in label).strip("-")
    return (
        store
        / "runs"
        / experiment.paper
        / experiment.name
        / f"{tidy}-{experiment.specs[label].steps}steps-seed{seed}.json"
    )


def _one(store: Path, here: World, experiment: Experiment, label: str, spec: Spec, seed: int) -> Json:
    identity = {"world": here.name, "spec": spec.plain(), "seed": seed, "measure": experiment.measure}
    if experiment.measure == "divergences":
        identity["n"] = experiment.n
    identity = json.loads(json.dumps(identity))
    path = path_of(store, experiment, label, seed)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["identity"] == identity:
            return kept["measures"]
    except (OSError, ValueError, KeyError):
        pass
    start = time.perf_counter()
    found = train(here, spec, seed, _measure(experiment))
    seconds = round(time.perf_counter() - start, 1)
    harness.write(path, json.dumps({"identity": identity, "seconds": seconds, "measures": found}) + "\n")
    print(f"{experiment.paper}/{experiment.name}: {label}, seed {seed}, {seconds} s", file=sys.stderr)
    return found


def _measure(experiment: Experiment) -> Any:
    if experiment.measure == "divergences":
        return functools.partial(divergences, n=experiment.n)
    return {"measure": measure, "with_responses": with_responses}[experiment.measure]


def seeds(settings: Settings, full: int = 3) -> range:
    """One with --quick."""
    return range(settings.seed, settings.seed + settings.size(full, 1))


def late(values: np.ndarray) -> np.ndarray:
    """The mean over the second half of each run, `[seeds, points, ...]` -> `[seeds, ...]`: for runs that cycle."""
    return values[:, values.shape[1] // 2 :].mean(1)


def last(values: np.ndarray, points: int = 3) -> np.ndarray:
    """The mean over the last measurements of each run, `[seeds, points, ...]` -> `[seeds, ...]`."""
    return values[:, -points:].mean(1)
