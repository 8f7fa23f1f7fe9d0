"""Generation against enumeration. The model is a user's own: a recurrent one, of which NumPy knows the laws.

Vocabulary of 4, up to 3 new tokens, of which 3 stops: every response is enumerated and its log-prob recomputed.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax import lm
from alignjax.lm.generation import Generated, _generate, _token_at, best_of_n, generate
from tests.lm.recurrent import STOP, Recurrent, V, next_law, parameters

N = 3
MODEL = Recurrent()
POLICY, OTHER, THIRD = (parameters(seed) for seed in range(3))
PROMPT = [1, 0, 2]
RESPONSES = [r for n in range(1, N + 1) for r in itertools.product(range(V), repeat=n)
             if STOP not in r[:-1] and (len(r) == N or r[-1] == STOP)]  # fmt: skip


def cut(p: np.ndarray, temperature: float = 1.0, top_k: int = V, top_p: float = 1.0) -> np.ndarray:
    """Temperature and truncation of one law, by its sorted masses (no ties here)."""
    p = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    order = np.argsort(-p)
    p = np.where(np.isin(np.arange(V), order[:top_k]), p, 0)
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p = np.where(np.isin(np.arange(V), order[before < top_p]), p, 0) if top_p < 1 else p
    return p / p.sum()


def token_probabilities(law: Any, response: Any) -> np.ndarray:
    """law(before) at each token of the response."""
    return np.array([law([*PROMPT, *response[:t]])[token] for t, token in enumerate(response)])


def mixed(c: float) -> Any:
    def law(before: Any) -> np.ndarray:
        q = next_law(POLICY, before) ** (1 - c) * next_law(OTHER, before) ** c
        return q / q.sum()

    return law


SHARP = {"temperature": 0.7, "top_k": 3, "top_p": 0.8}
LAWS: dict[str, tuple[dict[str, Any], Any]] = {
    "policy": ({}, lambda b: next_law(POLICY, b)),
    "temperature": ({"temperature": 2.0}, lambda b: cut(next_law(POLICY, b), 2.0)),
    "truncated": (SHARP, lambda b: cut(next_law(POLICY, b), **SHARP)),
    "mixture": ({"mixture": (OTHER, 0.3)}, mixed(0.3)),
    "mixture, truncated": ({"mixture": ((MODEL, OTHER), 0.3), **SHARP}, lambda b: cut(mixed(0.3)(b), **SHARP)),
}
WEIGHTS = np.array([0.2, 0.8])
OPPONENTS = {
    "ensemble": ({}, [lambda b: next_law(OTHER, b), lambda b: next_law(THIRD, b)]),
    "ensemble, truncated": (SHARP, [lambda b: cut(next_law(OTHER, b), **SHARP),
                                    lambda b: cut(next_law(THIRD, b), **SHARP)]),
}  # fmt: skip
DRAWS = 20_000


def drawn(name: str) -> Generated:
    """Very many responses to PROMPT in one call, and the settings that were used."""
    settings = LAWS[name][0] if name in LAWS else {"ensemble": ([OTHER, THIRD], WEIGHTS), **OPPONENTS[name][0]}
    key = jax.random.key(sorted([*LAWS, *OPPONENTS]).index(name))
    out = generate(MODEL, POLICY, [PROMPT], key, max_new_tokens=N, num_samples=DRAWS, stop=[STOP], **settings)
    return jax.tree.map(lambda x: np.asarray(x)[0], out)


def rows_of(out: Generated) -> list[tuple[int, ...]]:
    return [tuple(int(t) for t in row[keep]) for row, keep in zip(out.tokens, out.mask, strict=True)]


def chi_square(responses: list[tuple[int, ...]], exact: np.ndarray) -> float:
    """p-value of the counts of RESPONSES under `exact`; cells that expect fewer than 5 are put together."""
    index = {r: i for i, r in enumerate(RESPONSES)}
    counts = np.bincount([index[r] for r in responses], minlength=len(RESPONSES))
    expected = exact * len(responses)
    assert not counts[expected == 0].any()
    small = expected < 5
    join = lambda x: np.append(x[~small], x[small].sum())
    counts, expected = join(counts), join(expected)
    used = expected > 0
    return float(stats.chisquare(counts[used], expected[used]).pvalue)


@pytest.mark.parametrize("name", ["truncated", "mixture", *(pytest.param(n, marks=pytest.mark.slow)
                                  for n in ("policy", "temperature", "mixture, truncated"))])  # fmt: skip
def test_tokens_come_from_the_law_and_bear_its_log_probs(name: str) -> None:
    out, law = drawn(name), LAWS[name][1]
    of_policy = {r: np.log(token_probabilities(LAWS["policy"][1], r)) for r in RESPONSES}
    with np.errstate(divide="ignore"):
        of_law = {r: np.log(token_probabilities(law, r)) for r in RESPONSES}
    responses = rows_of(out)
    assert chi_square(responses, np.exp([of_law[r].sum() for r in RESPONSES])) > 1e-3
    for i in range(300):
        n = len(responses[i])
        np.testing.assert_allclose(out.law_logp[i, :n], of_law[responses[i]], atol=2e-5)
        np.testing.assert_allclose(out.logp[i, :n], of_policy[responses[i]], atol=2e-5)
        assert not out.logp[i, n:].any() and not out.law_logp[i, n:].any() and not out.tokens[i, n:].any()


@pytest.mark.parametrize("name", ["ensemble", pytest.param("ensemble, truncated", marks=pytest.mark.slow)])
def test_an_ensemble_is_one_opponent_a_response(name: str) -> None:
    """log sum_j w_j pi_j(y) of whole sequences, not of tokens; `logp` stays the policy's."""
    out, members = drawn(name), OPPONENTS[name][1]
    exact = {r: WEIGHTS @ [token_probabilities(law, r).prod() for law in members] for r in RESPONSES}
    token_wise = {r: token_probabilities(lambda b: WEIGHTS @ [law(b) for law in members], r).prod() for r in RESPONSES}
    responses = rows_of(out)
    assert sum(exact.values()) == pytest.approx(1)
    assert chi_square(responses, np.array([exact[r] for r in RESPONSES])) > 1e-3
    assert chi_square(responses, np.array([token_wise[r] for r in RESPONSES])) < 1e-6  # another law, and we see it
    for i in range(300):
        assert out.law_logp[i].sum() == pytest.approx(np.log(exact[responses[i]]), abs=5e-5)
        own = np.log(token_probabilities(LAWS["policy"][1], responses[i]))
        np.testing.assert_allclose(out.logp[i, : len(own)], own, atol=2e-5)


def test_an_importance_ratio_of_a_truncated_law_has_the_kept_mass_for_its_mean() -> None:
    """E[exp(logp - law_logp)] is the policy's mass of what the law can draw; 0.9 of it is what others measured.

    Whoever takes `logp` for the law's log-prob has ratios of 1, and believes that nothing is missing.
    """
    out, law = drawn("truncated"), LAWS["truncated"][1]
    ratio = np.exp((out.logp - out.law_logp).sum(-1).astype(np.float64))
    possible = [r for r in RESPONSES if token_probabilities(law, r).all()]
    kept = sum(token_probabilities(LAWS["policy"][1], r).prod() for r in possible)
    assert kept < 0.8
    assert abs(ratio.mean() - kept) < 4 * ratio.std() / DRAWS**0.5


def test_a_token_without_mass_is_never_drawn() -> None:
    """50 tokens of 151,936: at every number `jax.random.uniform` can give near the edges of the law, and at others.

    XLA's cumulative sums step where nothing is added; what is drawn is what sums in float64 say, up to rounding.
    """
    rng = np.random.default_rng(0)
    kept = np.sort(rng.choice(151_936, 50, replace=False))
    mass = np.exp(2 * rng.normal(size=50))
    law = np.full(151_936, -np.inf, np.float32)
    law[kept] = np.log(mass / mass.sum())
    upto = np.cumsum(np.exp(law[kept].astype(np.float64)))
    steps = np.round(upto[:, None] * 2**23) + np.arange(-16, 17)
    share = np.append(steps, np.arange(0, 2**23, 2**13))
    share = share[share < 2**23] / 2**23
    found = np.asarray(jax.jit(jax.vmap(_token_at, (None, 0)))(jnp.asarray(law), jnp.asarray(share, jnp.float32)))
    assert np.isin(found, kept).all()
    place = np.searchsorted(kept, found)
    assert ((share < upto[place] + 5e-7) & (share > np.append(0, upto)[place] - 5e-7)).all()


@pytest.mark.slow
def test_greedy_is_the_argmax_of_scoring_again() -> None:
    prompts = [PROMPT, [0], [2, 2, 1, 1, 0]]
    out = generate(MODEL, POLICY, prompts, jax.random.key(0), max_new_tokens=9, temperature=0, top_p=0.5)
    for prompt, row in zip(prompts, np.asarray(out.tokens), strict=True):
        for t, token in enumerate(row):
            assert token == next_law(POLICY, [*prompt, *row[:t]]).argmax()
    assert not np.asarray(out.law_logp).any() and (np.asarray(out.logp) < 0).all()
    assert out.mask.all()


RAGGED = [[1, 0, 2], [3], [0, 0, 1, 2, 3, 1], [2, 1]]


def padded(side: str, fill: int) -> tuple[np.ndarray, np.ndarray]:
    width = 6
    rows = [[fill] * (width - len(r)) + r if side == "left" else r + [fill] * (width - len(r)) for r in RAGGED]
    kept = [[0] * (width - len(r)) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * (width - len(r))
            for r in RAGGED]  # fmt: skip
    return np.array(rows), np.array(kept)


@pytest.fixture(scope="module")
def ragged() -> Generated:
    return generate(MODEL, POLICY, RAGGED, jax.random.key(5), max_new_tokens=12, stop=[STOP])


def same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)
    np.testing.assert_allclose(a.law_logp, b.law_logp, atol=1e-5)


def test_ragged_prompts_are_each_continued_from_their_own_end(ragged: Generated) -> None:
    for prompt, *row in zip(RAGGED, ragged.tokens, ragged.mask, ragged.logp, strict=True):
        tokens, mask, logp = map(np.asarray, row)
        for t in range(mask.sum()):
            wanted = np.log(next_law(POLICY, [*prompt, *tokens[:t]])[tokens[t]])
            np.testing.assert_allclose(logp[t], wanted, atol=2e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_influence(ragged: Generated, side: str) -> None:
    for fill in (0, -100):
        tokens, mask = padded(side, fill)
        same(ragged, generate(MODEL, POLICY, tokens, jax.random.key(5), max_new_tokens=12, stop=[STOP],
                              attention_mask=mask))  # fmt: skip
        same(ragged, generate(MODEL, POLICY, jnp.asarray(tokens), jax.random.key(5), max_new_tokens=12, stop=[STOP],
                              attention_mask=jnp.asarray(mask)))  # fmt: skip


@pytest.mark.slow
def test_a_row_does_not_depend_on_the_rows_beside_it(ragged: Generated) -> None:
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(4))
    order = np.array([2, 0, 3, 1])
    out = generate(MODEL, POLICY, [RAGGED[i] for i in order], keys[order], max_new_tokens=12, stop=[STOP])
    same(jax.tree.map(lambda x: x[order], ragged), out)
    alone = generate(MODEL, POLICY, [RAGGED[2]], keys[2:3], max_new_tokens=12, stop=[STOP])
    same(jax.tree.map(lambda x: x[2:3], ragged), alone)
    assert len({tuple(row) for row in np.asarray(generate(MODEL, POLICY, [RAGGED[0]] * 8, jax.random.key(5),
                                                          max_new_tokens=12).tokens)}) == 8  # fmt: skip


def test_fewer_tokens_are_a_prefix_of_more(ragged: Generated) -> None:
    short = generate(MODEL, POLICY, RAGGED, jax.random.key(5), max_new_tokens=2, stop=[STOP])
    assert short.tokens.shape == (4, 2) and ragged.tokens.shape == (4, 12)
    for name in ("tokens", "mask"):
        np.testing.assert_array_equal(getattr(short, name), getattr(ragged, name)[:, :2])
    more = generate(MODEL, POLICY, RAGGED, jax.random.key(5), max_new_tokens=50, stop=[STOP])  # in a larger bucket
    same(ragged, jax.tree.map(lambda x: x[:, :12], more))


def test_samples_of_a_prompt_are_independent_and_fewer_are_the_first_of_more(ragged: Generated) -> None:
    many = generate(MODEL, POLICY, RAGGED, jax.random.key(5), max_new_tokens=12, num_samples=3, stop=[STOP])
    assert many.tokens.shape == many.mask.shape == many.logp.shape == many.law_logp.shape == (4, 3, 12)
    same(ragged, jax.tree.map(lambda x: x[:, 0], many))
    assert len({tuple(row) for row in np.asarray(many.tokens).reshape(12, 12)}) > 8


def test_pad_follows_the_stop_token(ragged: Generated) -> None:
    out = generate(MODEL, POLICY, RAGGED, jax.random.key(5), max_new_tokens=12, stop=[STOP], pad=2)
    tokens, mask = np.asarray(out.tokens), np.asarray(out.mask)
    assert (~mask).any() and (tokens[~mask] == 2).all()
    np.testing.assert_array_equal(tokens[mask], np.asarray(ragged.tokens)[mask])
    ends = mask.sum(-1) - 1
    assert ((tokens[np.arange(4), ends] == STOP) | (ends == 11)).all()
    assert all(STOP not in row[:end] for row, end in zip(tokens, ends, strict=True))


def test_settings_and_lengths_within_a_multiple_compile_once(ragged: Generated) -> None:
    compiled = _generate._cache_size()
    for n, prompt in ((12, 3), (5, 9), (31, 17)):
        generate(MODEL, POLICY, [[1] * prompt] * 4, jax.random.key(0), max_new_tokens=n, stop=[1], temperature=1.0 + n)
    assert _generate._cache_size() == compiled


@pytest.mark.slow
def test_the_loop_ends_when_every_row_has_stopped() -> None:
    """Seen through a model that counts how often it is run."""

    @dataclasses.dataclass(frozen=True)
    class Once(Recurrent):
        def extend(self, params: Any, tokens: Any, keep: Any, cache: Any) -> Any:
            hidden, cache = Recurrent.extend(self, params, tokens, keep, cache)
            jax.debug.callback(lambda: calls.append(1))
            return hidden, cache

    calls: list[int] = []
    out = generate(Once(), POLICY, [[0], [1]], jax.random.key(0), max_new_tokens=30, stop=range(V))
    jax.effects_barrier()
    assert np.asarray(out.mask).sum() == 2
    assert len(calls) == 2  # the prompts, and one token


def test_the_prompt_is_run_once_for_all_its_samples() -> None:
    shapes: list[tuple[int, ...]] = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Recurrent):
        def extend(self, params: Any, tokens: Any, keep: Any, cache: Any) -> Any:
            shapes.append(tokens.shape)
            return Recurrent.extend(self, params, tokens, keep, cache)

    generate(Watched(), POLICY, [[0, 1], [1, 1]], jax.random.key(0), max_new_tokens=3, num_samples=5)
    assert set(shapes) == {(2, 31), (10, 1)}


def test_best_of_n_takes_the_first_of_the_best() -> None:
    shape = (4, 3, 2)
    numbers = lambda start: jnp.arange(start, start + 24).reshape(shape)
    out = Generated(tokens=numbers(0), mask=numbers(0) % 5 > 0, logp=-1.0 * numbers(9), law_logp=-2.0 * numbers(9))
    best = best_of_n(out, np.array([[0, 2, 1], [5, 5, 1], [-3, -2, -1], [0, 0, 0]]))
    for name in ("tokens", "mask", "logp", "law_logp"):
        wanted = [np.asarray(getattr(out, name))[row, k] for row, k in enumerate((1, 0, 2, 0))]
        np.testing.assert_array_equal(getattr(best, name), wanted)
    with pytest.raises(ValueError, match=r"rewards holds nan at index \(1, 2\)"):
        best_of_n(out, np.array([[0, 2, 1], [5, 5, np.nan], [1, 2, 3], [1, 2, 3]]))
    with pytest.raises(ValueError, match=r"rewards must be \[B, K\] = \(4, 3\), got shape \(4,\)"):
        best_of_n(out, np.zeros(4))


DECODERS = {
    "llama": {},
    "gemma": {"family": "gemma3", "window": 4, "local_layers": (True, False), "logit_softcap": 5.0, "qk_norm": True,
              "num_kv_heads": 1},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", DECODERS)
def test_the_decoder_generates_what_it_scores(family: str) -> None:
    """A cache of keys and values, ragged prompts and many samples: the log-probs are those of scoring whole rows,
    and what is greedy is the argmax of `lm.logits` of whole rows.
    """
    config = lm.DecoderConfig(vocab_size=11, d_model=16, d_mlp=24, num_layers=2, num_heads=2, max_length=64,
                              **DECODERS[family])  # fmt: skip
    params = lm.init(config, jax.random.key(1))
    key, prompts = jax.random.key(2), [[1, 2, 3, 4, 5], [7], [3, 3, 9]]
    settings: dict[str, Any] = {"max_new_tokens": 12, "stop": [0]}
    out = generate(config, params, prompts, key, num_samples=2, temperature=0.7, **settings)
    greedy = generate(config, params, prompts, key, temperature=0, **settings)
    assert len({int(mask.sum()) for rows in np.asarray(out.mask) for mask in rows}) > 1  # some stop early

    def whole(prompt: list[int], tokens: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        row = np.array([[*prompt, *np.asarray(tokens)[np.asarray(mask)]]])
        return np.pad(row, [(0, 0), (0, 24 - row.shape[1])]), np.arange(24) < row.shape[1]

    for n, prompt in enumerate(prompts):
        for k in range(2):
            row, inside = whole(prompt, out.tokens[n, k], out.mask[n, k])
            made = np.asarray(out.logp[n, k])[np.asarray(out.mask[n, k])]
            scored = np.asarray(lm.token_logps(config, params, row, inside[None]))[0, len(prompt) : inside.sum()]
            np.testing.assert_allclose(made, scored, atol=2e-5)
        row, inside = whole(prompt, greedy.tokens[n], greedy.mask[n])
        best = np.asarray(lm.logits(config, params, row)).argmax(-1)[0]
        for t in range(len(prompt), int(inside.sum())):
            assert row[0, t] == best[t - 1]


@pytest.mark.slow
def test_sharded_parameters_and_prompts_give_the_same_tokens() -> None:
    """Parameters split over 4 devices, prompts over 2."""
    from jax.sharding import NamedSharding, PartitionSpec

    from tpu.mesh import make_mesh
    from tpu.partition import shardings

    config = lm.DecoderConfig(vocab_size=12, d_model=16, d_mlp=24, num_layers=1, num_heads=4, max_length=64)
    params = lm.init(config, jax.random.key(1))
    prompts = np.random.default_rng(0).integers(1, 12, (4, 5))
    plain = generate(config, params, prompts, jax.random.key(2), max_new_tokens=8, num_samples=2)
    mesh = make_mesh("data=2,tensor=4")
    placed = jax.device_put(params, shardings(lm.logical_axes(config), params, mesh))
    rows = jax.device_put(jnp.asarray(prompts), NamedSharding(mesh, PartitionSpec("data")))
    out = generate(config, placed, rows, jax.random.key(2), max_new_tokens=8, num_samples=2)
    same(plain, out)
    assert len(out.tokens.sharding.device_set) == 8


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "prompts must be a list of at least one list of tokens"),
        ({"prompts": [[1], []]}, r"prompts\[1\] is empty"),
        ({"prompts": np.ones((2, 3), int), "attention_mask": [[1, 1, 1], [0, 0, 0]]}, r"prompts\[1\] is empty"),
        ({"prompts": np.ones((2, 3), int), "attention_mask": np.ones((2, 2))}, r"attention_mask must have the shape"),
        ({"prompts": [[1]], "attention_mask": [[1]]}, "attention_mask goes with prompts"),
        ({"prompts": [[1.5]]}, "prompts must hold integers, got float64"),
        ({"prompts": [1, 2]}, "prompts must be a list of at least one list of tokens"),
        ({"prompts": [[1], [0, 4]]}, r"ids in \[0, vocab_size = 4\), got 4 in prompts\[1\]"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1, got 0"),
        ({"max_new_tokens": 64}, "prompts of 1 tokens and max_new_tokens = 64 are 65 tokens together; the model takes "
                                 "max_length = 64"),
        ({"num_samples": 0}, "num_samples must be an integer >= 1, got 0"),
        ({"temperature": -1.0}, "temperature must be a finite number > 0, got -1"),
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"stop": [4]}, r"stop must hold ids in \[0, vocab_size = 4\), got \[4\]"),
        ({"mixture": (OTHER, 1.3)}, r"the coefficient of mixture must lie in \[0, 1\], got 1.3"),
        ({"mixture": OTHER}, r"mixture must be \(other_params, coefficient\), got dict"),
        ({"mixture": ((Recurrent(vocab_size=5), OTHER), 0.5)}, "mixture: the other model has vocab_size = 5, the "),
        ({"ensemble": ([OTHER], [0.5])}, "the weights of ensemble must sum to 1, got 0.5"),
        ({"ensemble": ([OTHER], [0.5, 0.5])}, "the weights of ensemble must be one for each of 1"),
        ({"ensemble": ([OTHER, THIRD], [1.5, -0.5])}, "the weights of ensemble must hold probabilities"),
        ({"ensemble": ([], [])}, "ensemble must be"),
        ({"ensemble": ([OTHER], [1.0]), "mixture": (OTHER, 0.5)}, "give mixture or ensemble, not both"),
        ({"key": jax.random.split(KEY, 3)}, r"key must be one key or 1 keys, one for each prompt; got shape \(3,\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(change: Any, message: str) -> None:
    settings = {"prompts": [[1]], "key": KEY, "max_new_tokens": 2, **change}
    with pytest.raises(ValueError, match=message):
        generate(MODEL, POLICY, settings.pop("prompts"), settings.pop("key"), **settings)
