r"""Sampling from language models: keys and values cached, one compiled loop for every length up to the next multiple.

    generated = lm.generate(config, params, prompts, key, max_new_tokens=64, temperature=0.7, num_samples=4, stop=[eos])

`generated.logp` is the policy's log-prob of each token, `generated.law_logp` that of the law it was drawn from. They
are the same only at temperature 1 without truncation and without another model. With top-k or top-p, an importance
ratio exp(logp - law_logp) has the expectation

    E_law[pi(y) / law(y)] = sum of pi(y) over what the law can draw = the kept mass < 1,

not 1; and a ratio that takes `logp` for the behaviour's log-prob is 1 where the truth is 1 / law. Give the losses
`law_logp` as `behaviour_logp`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks
from alignjax.lm import sampling_laws
from alignjax.lm.fused import project
from alignjax.lm.model import LanguageModel, Params
from alignjax.logspace import ArrayLike, Scalar, as_float, geometric_mixture, log_softmax
from alignjax.pytree import register

BUCKET = 32
"""Prompts and new tokens are given room up to the next multiple: one compiled program for each pair of multiples."""

BLOCK = 128
"""Entries of the vocabulary that are added up together where a token is drawn."""

Other = Params | tuple[LanguageModel, Params]
"""Parameters for the same config, or a model of its own over the same vocabulary."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """What `generate` drew: `[B, N]`, or `[B, K, N]` with `num_samples`. N is `max_new_tokens`."""

    tokens: Int[Array, "*batch N"]
    """New tokens only; `pad` after the stop token."""
    mask: Bool[Array, "*batch N"]
    """1 up to the stop token, which counts."""
    logp: Float[Array, "*batch N"]
    """log pi(token | before) of `params` alone, temperature 1, all tokens kept; 0 where `mask` is."""
    law_logp: Float[Array, "*batch N"]
    """The same of the law the token was drawn from: temperature, truncation, mixture or ensemble; 0 where `mask` is."""


def generate(
    config: LanguageModel,
    params: Params,
    prompts: Sequence[Sequence[int]] | ArrayLike,
    key: Array,
    *,
    max_new_tokens: int,
    temperature: Scalar = 1.0,
    top_k: Scalar | None = None,
    top_p: Scalar | None = None,
    num_samples: int | None = None,
    stop: Sequence[int] = (),
    mixture: tuple[Other, Scalar] | None = None,
    ensemble: tuple[Sequence[Other], ArrayLike] | None = None,
    attention_mask: ArrayLike | None = None,
    pad: int = 0,
) -> Generated:
    r"""Responses drawn token by token, with their log-probs under the policy and under the law they were drawn from.

    A row's tokens depend on its prompt, its key and the law: not on the rows beside it, on padding, on
    `max_new_tokens` (fewer are a prefix of more) or on `num_samples` (fewer are the first of more), up to ties in
    float32. The prompt is run once for all its samples. The loop ends when every row has stopped.

    Args:
      prompts: token lists, or `[B, T]` with an `attention_mask` (padding on either side, holding anything). A
        `jax.Array` stays on its devices, sharded as it is.
      key: one key, row i uses fold_in(key, i); or keys `[B]`. Sample k of a row folds in k.
      temperature: 0 is greedy. Traced or not, another number is no new compilation; nor are `top_k`, `top_p` (see
        `sampling_laws`), the coefficient and the weights below.
      num_samples: K responses to each prompt; None is the first of them, without the axis K.
      stop: ids that end a response. `pad`: what follows them.
      mixture: (other, c): every token from pi^{1-c} other^c / Z, the token-wise geometric mixture of Nash-MD; c in
        [0, 1] is the weight of the OTHER. Temperature and truncation act on the mixture.
      ensemble: (opponents, weights): one of J opponents drawn for each whole response; `params` draw nothing and give
        `logp` only. Temperature and truncation act on each opponent. `law_logp` is the token conditional of that
        mixture of sequence laws, sum_j w_j(y_<t) pi_j(y_t | y_<t) with w_j the posterior weight of opponent j, so that
        its sum over tokens is log sum_j w_j pi_j(y). (The mean of token laws with fixed weights is another law.)

    Raises: ValueError that names the argument: an empty prompt, ids outside the vocabulary, prompts that leave no room
      for `max_new_tokens`, settings outside their range, both `mixture` and `ensemble`.
    """
    limit = checks.whole("max_new_tokens", max_new_tokens)
    sampling_laws.check_settings(temperature, top_k, top_p)
    models, weights, kind = _models((config, params), mixture, ensemble)
    configs = tuple(model[0] for model in models)
    tokens, keep = _left_padded(prompts, attention_mask, config.vocab_size)
    ids = np.asarray([stop] if isinstance(stop, int) else list(stop), np.int64)
    if ids.size and not (ids.min() >= 0 and ids.max() < config.vocab_size):
        raise ValueError(f"stop must hold ids in [0, vocab_size = {config.vocab_size}), got {ids.tolist()}")
    most = min(c.max_length for c in configs)
    prompt_length = tokens.shape[1]
    if prompt_length + limit > most:
        raise ValueError(
            f"prompts of {prompt_length} tokens and max_new_tokens = {limit} are {prompt_length + limit} tokens "
            f"together; the model takes max_length = {most}"
        )
    prompt_room = min(_up(prompt_length), most - limit)
    room = min(_up(limit), most - prompt_room)
    padding = [(0, 0), (prompt_room - prompt_length, 0)]
    xp: Any = np if isinstance(tokens, np.ndarray) else jnp
    settings = {
        "temperature": None if sampling_laws.is_greedy(temperature) else as_float(temperature),
        "top_k": None if top_k is None else jnp.asarray(top_k),
        "top_p": None if top_p is None else as_float(top_p),
        "weights": weights,
    }
    k = 1 if num_samples is None else checks.whole("num_samples", num_samples)
    drawn = _generate(
        configs, kind, room, k, tuple(model[1] for model in models), settings, jnp.asarray(ids, jnp.int32),
        jnp.int32(pad), jnp.int32(limit), xp.pad(tokens, padding), xp.pad(keep, padding), _row_keys(key, len(tokens)),
    )  # fmt: skip
    return _cut(drawn, limit, num_samples is None)


def best_of_n(generated: Generated, rewards: ArrayLike) -> Generated:
    """The sample with the highest of `rewards` `[B, K]` for each prompt, the first of several: `[B, K, N] -> [B, N]`.

    Its `logp` and `law_logp` remain those of ONE draw, not of the best of K; `alignjax.best_of` has that law.
    Raises: ValueError on NaN, with the prompt and the sample, and on other shapes.
    """
    if np.shape(rewards) != generated.tokens.shape[:-1] or generated.tokens.ndim != 3:
        raise ValueError(f"rewards must be [B, K] = {generated.tokens.shape[:-1]}, got shape {np.shape(rewards)}")
    checks.not_nan("rewards", rewards)
    best = jnp.argmax(jnp.asarray(rewards), -1)
    return jax.tree.map(lambda x: jnp.take_along_axis(x, best[:, None, None], 1)[:, 0], generated)


# --- arguments


def _up(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _models(
    policy: tuple[LanguageModel, Params],
    mixture: tuple[Other, Scalar] | None,
    ensemble: tuple[Sequence[Other], ArrayLike] | None,
) -> tuple[tuple[tuple[LanguageModel, Params], ...], Array | None, str]:
    """The policy and the models beside it, their weights, and how they make a law together."""
    if mixture is not None and ensemble is not None:
        raise ValueError("give mixture or ensemble, not both")
    own = lambda other: other if isinstance(other, tuple) else (policy[0], other)
    if mixture is not None:
        if not (isinstance(mixture, tuple) and len(mixture) == 2):
            raise ValueError(f"mixture must be (other_params, coefficient), got {type(mixture).__name__}")
        checks.between("the coefficient of mixture", mixture[1], 0.0, 1.0)
        others, weights, kind = [own(mixture[0])], as_float(mixture[1]), "mixture"
    elif ensemble is not None:
        if not (isinstance(ensemble, tuple) and len(ensemble) == 2 and len(ensemble[0])):
            raise ValueError("ensemble must be (list of at least one opponent's params, weights)")
        weights = as_float(jnp.asarray(ensemble[1]))
        if weights.shape != (len(ensemble[0]),):
            raise ValueError(f"the weights of ensemble must be one for each of {len(ensemble[0])}, got {weights.shape}")
        checks.probabilities("the weights of ensemble", weights)
        if checks.is_concrete(weights) and abs(float(weights.sum()) - 1) > 1e-3:
            raise ValueError(f"the weights of ensemble must sum to 1, got {float(weights.sum()):g}")
        others, weights, kind = [own(other) for other in ensemble[0]], jnp.log(weights), "ensemble"
    else:
        return (policy,), None, "policy"
    for other, _ in others:
        if other.vocab_size != policy[0].vocab_size:
            raise ValueError(
                f"{kind}: the other model has vocab_size = {other.vocab_size}, the policy {policy[0].vocab_size}"
            )
    return (policy, *others), weights, kind


def _row_keys(key: Array, rows: int) -> Array:
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(key))
    if key.shape == ():
        return _folded(key, jnp.arange(rows))
    if key.shape != (rows,):
        raise ValueError(f"key must be one key or {rows} keys, one for each prompt; got shape {key.shape}")
    return key


@jax.jit
def _folded(key: Array, index: Array) -> Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def _left_padded(prompts: Any, attention_mask: Any, vocab_size: int) -> tuple[Any, Any]:
    """Tokens and mask `[B, T]`, padding on the left: NumPy, or on the devices where `prompts` are."""
    if isinstance(prompts, list | tuple):
        if attention_mask is not None:
            raise ValueError("attention_mask goes with prompts [B, T]; a list of token lists has none")
        rows = [np.asarray(row) for row in prompts]
        if not rows or any(row.ndim != 1 for row in rows):
            raise ValueError("prompts must be a list of at least one list of tokens, or an array [B, T]")
        width = max(row.size for row in rows)
        attention_mask = np.arange(width) >= width - np.array([[row.size] for row in rows])
        tokens = np.zeros((len(rows), width), np.result_type(*(row.dtype for row in rows if row.size), np.int32))
        tokens[attention_mask] = np.concatenate(rows)
    else:
        tokens = prompts
    xp: Any = jnp if isinstance(tokens, jax.Array) else np
    tokens = xp.asarray(tokens)
    if tokens.ndim != 2 or 0 in tokens.shape[:1]:
        raise ValueError(f"prompts must be a list of token lists or an array [B, T], got shape {tokens.shape}")
    if not xp.issubdtype(tokens.dtype, xp.integer):
        raise ValueError(f"prompts must hold integers, got {tokens.dtype}")
    keep = xp.ones(tokens.shape, bool) if attention_mask is None else xp.asarray(attention_mask) != 0
    if keep.shape != tokens.shape:
        raise ValueError(f"attention_mask must have the shape {tokens.shape} of prompts, got {keep.shape}")
    if _is_here(tokens, keep):
        _check_prompts(np.asarray(tokens), np.asarray(keep), vocab_size)
    if attention_mask is not None:
        order = xp.argsort(keep, axis=-1, stable=True)  # what is not kept goes to the left
        tokens, keep = xp.take_along_axis(tokens, order, -1), xp.take_along_axis(keep, order, -1)
        if xp is np:
            tokens, keep = (x[:, tokens.shape[1] - keep.sum(-1).max() :] for x in (tokens, keep))
    return xp.where(keep, tokens, 0).astype(xp.int32), keep


def _is_here(*arrays: Any) -> bool:
    """Whether the values can be looked at: no tracer, and nothing on another host."""
    return checks.is_concrete(*arrays) and all(getattr(x, "is_fully_addressable", True) for x in arrays)


def _check_prompts(tokens: np.ndarray, keep: np.ndarray, vocab_size: int) -> None:
    empty = np.flatnonzero(~keep.any(-1))
    if empty.size:
        raise ValueError(f"prompts[{empty[0]}] is empty; a prompt has at least one token (a beginning of sequence)")
    bad = keep & ((tokens < 0) | (tokens >= vocab_size))
    if bad.any():
        row, at = np.argwhere(bad)[0]
        raise ValueError(
            f"prompts must hold ids in [0, vocab_size = {vocab_size}), got {tokens[row, at]} in prompts[{row}]"
        )


# --- the compiled part. Axes: B prompts, K samples of each, R = B K rows, J models, V vocabulary.


@functools.partial(jax.jit, static_argnames=("configs", "kind", "room", "num_samples"))
def _generate(
    configs: tuple[LanguageModel, ...],
    kind: str,
    room: int,
    num_samples: int,
    params: tuple[Params, ...],
    settings: Mapping[str, Any],
    stop: Int[Array, "S"],
    pad: Array,
    limit: Array,
    tokens: Int[Array, "B P"],
    keep: Bool[Array, "B P"],
    keys: Array,
) -> Generated:
    batch, width = tokens.shape
    rows = batch * num_samples
    models = list(zip(configs, params, strict=True))

    # All but the last token of the prompt, once for all samples; the last one is the first that the loop feeds.
    caches = tuple(
        _repeated(config, p, tokens[:, :-1], keep[:, :-1], width + room, num_samples) for config, p in models
    )
    row_keys = jax.vmap(lambda key: _folded(key, jnp.arange(num_samples)))(keys).reshape(rows)
    matrices = [config.unembedding(p) for config, p in models]
    dtype = jnp.promote_types(matrices[0].dtype, jnp.float32)
    posterior = settings["weights"]
    if kind == "ensemble":
        posterior = jnp.broadcast_to(posterior[:, None], (len(models) - 1, rows)).astype(dtype)

    def step(carry: Any) -> Any:
        t, caches, posterior, drawn, alive, last = carry
        logps, extended = [], []
        for (config, p), matrix, cache in zip(models, matrices, caches, strict=True):
            states, cache = config.extend(p, last[:, None], jnp.ones((rows, 1), bool), cache)
            logps.append(log_softmax(project(states[:, -1], matrix, config.logit_softcap)))
            extended.append(cache)
        laws, law = _law(kind, logps, settings, posterior)
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, t)
        is_point = settings["temperature"] is None and kind != "ensemble"  # then nothing is left to draw
        token = (jnp.argmax(law, -1) if is_point else jax.vmap(_drawn)(step_keys, law)).astype(jnp.int32)
        if kind == "ensemble":
            posterior = posterior + jax.vmap(_picked, (0, None))(laws, token)
        written = {
            "tokens": jnp.where(alive, token, pad),
            "mask": alive,
            "logp": jnp.where(alive, _picked(logps[0], token), 0.0),
            "law_logp": jnp.where(alive, _picked(law, token), 0.0),
        }
        drawn = Generated(**{name: getattr(drawn, name).at[:, t].set(x) for name, x in written.items()})
        alive = alive & ~(token[:, None] == stop).any(-1)
        return t + 1, tuple(extended), posterior, drawn, alive, token

    nothing = Generated(
        tokens=jnp.full((rows, room), pad, jnp.int32),
        mask=jnp.zeros((rows, room), bool),
        logp=jnp.zeros((rows, room), dtype),
        law_logp=jnp.zeros((rows, room), dtype),
    )
    alive, last = jnp.ones(rows, bool), jnp.repeat(tokens[:, -1], num_samples, 0)
    more = lambda carry: (carry[0] < limit) & carry[4].any()
    drawn = jax.lax.while_loop(more, step, (jnp.int32(0), caches, posterior, nothing, alive, last))[3]
    return jax.tree.map(lambda x: x.reshape(batch, num_samples, *x.shape[1:]), drawn)


def _repeated(config: LanguageModel, params: Params, tokens: Array, keep: Array, length: int, times: int) -> Any:
    """The cache of the prompts, each `times` times, in order."""
    cache = config.empty_cache(len(tokens), length)
    if tokens.shape[1]:
        _, cache = config.extend(params, tokens, keep, cache)
    # The axis of the sequences is the one whose size follows that of the batch; a leaf without one (a count of
    # positions that all rows share) stays.
    one, two = (jax.eval_shape(lambda n=n: config.empty_cache(n, length)) for n in (1, 2))

    def repeat(leaf: Array, a: Any, b: Any) -> Array:
        axes = [i for i, sizes in enumerate(zip(a.shape, b.shape, strict=True)) if sizes[0] != sizes[1]]
        return jnp.repeat(leaf, times, axes[0]) if axes and times > 1 else leaf

    return jax.tree.map(repeat, cache, one, two)


def _law(kind: str, logps: list[Array], settings: Mapping[str, Any], posterior: Any) -> tuple[Any, Array]:
    """The opponents' laws (of an ensemble) and the law that is sampled."""

    def one(logp: Array) -> Array:
        if settings["temperature"] is None:
            return sampling_laws.greedy(logp)
        return sampling_laws.sampling_law(
            logp, temperature=settings["temperature"], top_k=settings["top_k"], top_p=settings["top_p"]
        )

    if kind == "ensemble":
        laws = jnp.stack([one(logp) for logp in logps[1:]])
        return laws, sampling_laws.mean_law(laws, posterior)
    if kind == "mixture":
        return None, one(geometric_mixture(logps[0], logps[1], settings["weights"]))
    return None, one(logps[0])


def _drawn(key: Array, law: Float[Array, "V"]) -> Int[Array, ""]:
    """A token of the law by its cumulative masses and ONE uniform number: one for every entry of the vocabulary, as
    `jax.random.categorical` draws them, would cost as much as the unembedding. Tokens without mass are never drawn.
    """
    return _token_at(law, jax.random.uniform(key, (), law.dtype))


def _token_at(law: Float[Array, "V"], share: Float[Array, ""]) -> Int[Array, ""]:
    """The token up to which the law has more than `share` of its mass: block by block, then within the block."""
    mass = jnp.exp(law)
    blocks = jnp.pad(mass, (0, -len(mass) % BLOCK)).reshape(-1, BLOCK)
    sums = blocks.sum(-1)
    upto = jnp.cumsum(sums)
    target = share * upto[-1]
    block = _with_mass(sums, (upto <= target).sum())
    inside = blocks[block]
    rest = target - jnp.where(block > 0, upto[block - 1], 0.0)
    return block * BLOCK + _with_mass(inside, (jnp.cumsum(inside) <= rest).sum())


def _with_mass(masses: Float[Array, "N"], found: Int[Array, ""]) -> Int[Array, ""]:
    """`found`, or the next entry that has mass, or the last one.

    XLA adds up a cumulative sum in parts, and rounds differently in each: it may step where there is no mass, and end
    below what is looked for.
    """
    index = jnp.arange(len(masses))
    last = jnp.where(masses > 0, index, 0).max()
    return jnp.where((masses > 0) & (index >= found), index, last).min()


def _picked(logp: Float[Array, "R V"], token: Int[Array, "R"]) -> Float[Array, "R"]:
    return jnp.take_along_axis(logp, token[:, None], -1)[:, 0]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _cut(drawn: Generated, limit: int, single: bool) -> Generated:
    """Without the room that was not asked for, and without the axis K if there is one sample."""
    return jax.tree.map(lambda x: x[:, 0, :limit] if single else x[..., :limit], drawn)
