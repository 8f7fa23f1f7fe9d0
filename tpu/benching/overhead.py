"""What a method's loss and statistics cost on top of the model: log-probs of tokens in, their gradient and metrics out.

Timed by itself, with the start of a program that it would not have inside a step: an upper bound.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import alignjax
from alignjax import Method, Samples, lm
from tpu.benching import work
from tpu.benching.race import Line, Told, clocked, take_turns
from tpu.bridge import pair_metrics

AIM = "<= 2 %"
PROMPTS, LENGTH = 8, 256


def fields(method: Method, prompts: int, length: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What a method reads of token log-probs and of feedback, drawn."""
    rng = np.random.default_rng(0)
    k = method.group_size(None)
    near = lambda *shape: np.asarray(-rng.gamma(2.0, 1.0, shape), np.float32)
    tokens = {name: near(prompts, k, length) for name in ("token_logp", "ref_token_logp", "anchor_token_logp")}
    tokens |= {"behaviour_token_logp": near(prompts, k, length), "opponent_token_logp": near(2, prompts, k, length)}
    reward = rng.normal(size=(prompts, k, 2)).astype(np.float32)
    preference = 1 / (1 + np.exp(reward[:, None, :, 0] - reward[:, :, None, 0]))
    feedback = {
        "reward": reward[..., 0], "rewards": reward, "preference": preference, "win_rate": preference.mean(-1),
        "label": (reward[..., 0] > 0).astype(np.float32), "value": reward[..., 0].mean(-1),
    }  # fmt: skip
    read = {*method.reads, *method.reads_if_present}
    reads = lambda name: name in read or name.replace("token_", "") in read
    tokens = {name: x for name, x in tokens.items() if name == "token_logp" or reads(name)}
    return tokens, {name: x for name, x in feedback.items() if name in read}


def program(name: str, prompts: int, length: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """(token log-probs, those of other models, feedback) -> ((loss, metrics), gradient); and arrays for it."""
    method = alignjax.methods[name]
    tokens, feedback = fields(method, prompts, length)
    token_logp = tokens.pop("token_logp")
    mask = np.ones(token_logp.shape, bool)

    def both(token_logp: jax.Array, others: Mapping[str, jax.Array], feedback: Mapping[str, jax.Array]) -> Any:
        def loss(token_logp: jax.Array) -> tuple[jax.Array, Any]:
            samples = Samples.from_tokens(token_logp, mask=mask, **others, **feedback)
            metrics = pair_metrics(samples, 0.1) if samples.num_responses == 2 else {}
            return method(samples).mean(), metrics

        return jax.value_and_grad(loss, has_aux=True)(token_logp)

    return both, (token_logp, tokens, feedback)


def contender(name: str) -> tuple[Callable[[], Told], int]:
    """(the program, how many sequences it reads)."""
    both, arrays = program(name, PROMPTS, LENGTH)
    step, placed = jax.jit(both), work.place(arrays)
    return clocked(lambda: step(*placed)), PROMPTS * arrays[0].shape[1]


def model_step(quick: bool) -> tuple[Callable[[], Told], int, str]:
    """(log-probs of a model and their gradient by its parameters, sequences, what it is)."""
    size = work.small(quick, vocab_size=8_192)
    size = work.Size(size.config, PROMPTS // 2, min(LENGTH, size.config.max_length))
    params = lm.init(size.config, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 256, (2 * size.pairs, size.length))
    trained = jnp.arange(size.length) >= size.length // 2
    score = lambda p, t: lm.token_logps(size.config, p, t, jnp.broadcast_to(trained, t.shape)).sum()
    step = jax.jit(jax.grad(score))
    return clocked(lambda: step(params, tokens)), 2 * size.pairs, str(size)


def lines(quick: bool, repeats: int, names: tuple[str, ...] | None = None) -> list[Line]:
    """A line a method, in percent of the model's own forward and backward pass on the same sequences."""
    wanted = names or (("dpo", "grpo", "copg") if quick else tuple(alignjax.methods))
    step, sequences, described = model_step(quick)
    # A short program fits between what else runs on a machine, a long one does not: processor time is fair to both.
    clock = "cpu" if jax.default_backend() == "cpu" else "seconds"
    base = statistics.median(one[clock] for one in take_turns({"": step}, repeats)[""]) / sequences
    timed = {"cpu": "processor time", "seconds": "time"}[clock]
    what = f"loss and metrics, share of the {timed} of the model's forward and backward pass ({described})"
    found = []
    for name in wanted:
        run, count = contender(name)
        runs = take_turns({name: run}, 5 * repeats)[name]
        share = [100 * one[clock] / count / base for one in runs]
        middle_share, spread = statistics.median(share), {"low": min(share), "high": max(share)}
        found.append(Line(what=what, who=name, value=middle_share, unit="%", aim=AIM, **spread))
    return found
