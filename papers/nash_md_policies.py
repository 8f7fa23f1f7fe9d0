"""Runs behind the Nash-MD page that need a policy gradient: its exactness, tokens, training at each mixture."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import fit, geometric_mixture, kl, population_grad, sampled_grad
from alignjax.envs import LogLinearPolicy, TokenTree
from alignjax.games import PreferenceGame, duality_gap, original_gap
from alignjax.kl_estimators import kl_tokens_myopic
from alignjax.logspace import log_softmax, masked_sum
from alignjax.objectives.nash_md import nash_md_pg, nash_md_pg_token
from alignjax.problem import Problem
from alignjax.sweeps import spread
from papers.nash_md_experiments import equilibria, normalised, sigmoid
from papers.record import Settings

Runs = dict[str, np.ndarray]
sg = jax.lax.stop_gradient

MIXTURES = np.arange(9) / 8
"""The paper's grid of mixture coefficients."""
INNER = slice(1, 4)
"""The coefficients the paper found best: 1/8, 2/8 and 3/8."""


def random_preferences(generator: np.random.Generator, batch: tuple[int, ...], size: int) -> np.ndarray:
    """Lower triangles uniform on [0, 1], as `games.random_preference` has them, drawn by NumPy: nothing to compile."""
    lower = np.tril(generator.uniform(size=(*batch, size, size)) - 0.5, -1)
    return 0.5 + lower - np.swapaxes(lower, -1, -2)


def random_problems(generator: np.random.Generator, number: int, size: int) -> tuple[Problem, Array]:
    """Random preferences and references, and logits of a policy to look at."""
    ref_logp = jnp.asarray(normalised(generator.normal(size=(number, size))))
    preference = jnp.asarray(random_preferences(generator, (number,), size))
    logits = jnp.asarray(1.5 * generator.normal(size=(number, size)))
    return spread((Problem(ref_logp=ref_logp, preference=preference), logits))


# --- Nash-MD-PG: what its gradient is ---------------------------------------------------------------------------------


@jax.jit
def _by_definition(problem: Problem, logits: Array, beta: float, mixture: Array) -> tuple[Array, Array, Array]:
    """Gradients by autodiff of P_tau(pi > sg[mixture]), of KL(pi || sg[mixture]) and of KL(pi || ref)."""
    opponent = sg(geometric_mixture(log_softmax(logits), problem.ref_logp, mixture))

    def value(x: Array) -> Array:
        logp = log_softmax(x)
        wins = jnp.einsum("...i,...ij,...j->...", jnp.exp(logp), problem.preferences(), jnp.exp(opponent))
        return (wins - beta * kl(logp, problem.ref_logp)).sum()

    to_mixture = jax.grad(lambda x: kl(log_softmax(x), opponent).sum())(logits)
    to_reference = jax.grad(lambda x: kl(log_softmax(x), problem.ref_logp).sum())(logits)
    return jax.grad(value)(logits), to_mixture, to_reference


@jax.jit
def _surrogate(problem: Problem, logits: Array, beta: float, mixture: Array, baseline: float) -> Array:
    """The expected gradient of the loss with another baseline than 1/2, all responses enumerated."""
    opponent = sg(geometric_mixture(log_softmax(logits), problem.ref_logp, mixture))
    wins = jnp.einsum("...ij,...j->...i", problem.preferences(), jnp.exp(opponent)) + 0.5 - baseline

    def loss(x: Array) -> Array:
        logp = log_softmax(x)
        each = nash_md_pg(logp[..., None], problem.ref_logp[..., None], wins[..., None], beta=beta)
        return (sg(jnp.exp(logp)) * each).sum()

    return jax.grad(loss)(logits)


@functools.cache
def gradients(settings: Settings) -> Runs:
    """Exact gradients on random problems at several mixtures; errors relative to the norm of the true gradient.

    `surrogate`, `baseline`, `mixture_kl` are relative errors `[mixtures, problems]`; `variance` the variance of a
    single draw with
    the baseline 1/2 over that without, opponent and response drawn.
    """
    beta, number, size = 0.1, settings.size(1000, 200), 8
    problem, logits = random_problems(np.random.default_rng([settings.seed, 10]), number, size)
    errors: dict[str, list[np.ndarray]] = {"surrogate": [], "baseline": [], "mixture_kl": [], "variance": []}
    policy = np.exp(np.asarray(log_softmax(logits)))
    ratio = np.log(policy) - np.asarray(problem.ref_logp)
    score = 1 - 2 * policy + np.square(policy).sum(-1, keepdims=True)  # squared norm of grad log pi(y)
    preference = np.asarray(problem.preferences())
    for mixture in (0.0, 0.125, 0.5, 1.0):
        found = population_grad("nash_md_pg", problem, logits, beta=beta, mixture=mixture)
        value, to_mixture, to_reference = _by_definition(problem, logits, beta, jnp.asarray(mixture))
        without = _surrogate(problem, logits, beta, jnp.asarray(mixture), 0.0)
        norm = np.linalg.norm(value, axis=-1)
        errors["surrogate"].append(np.linalg.norm(found + value, axis=-1) / norm)
        errors["baseline"].append(np.linalg.norm(found - without, axis=-1) / norm)
        gap = np.linalg.norm(to_mixture - mixture * to_reference, axis=-1)
        errors["mixture_kl"].append(gap / np.linalg.norm(to_reference, axis=-1))
        rival = np.exp(np.asarray(geometric_mixture(log_softmax(logits), problem.ref_logp, mixture)))
        second = [
            np.einsum("ni,nj,nij->n", policy * score, rival, np.square(preference - half - beta * ratio[:, :, None]))
            for half in (0.5, 0.0)
        ]
        mean = np.square(norm)
        errors["variance"].append((second[0] - mean) / (second[1] - mean))
    return {name: np.stack(rows) for name, rows in errors.items()}


@functools.cache
def sampled(settings: Settings) -> Runs:
    """Means of many sampled gradients (opponents and 0/1 labels too), in standard errors from the exact gradient."""
    problem, logits = random_problems(np.random.default_rng([settings.seed, 11]), 8, 6)
    keys = jax.random.split(jax.random.key(settings.seed, impl="rbg"), settings.size(100_000, 20_000))
    hyper: dict[str, Any] = {"beta": 0.1, "mixture": 0.25}

    @jax.jit
    def moments(keys: Array) -> tuple[Array, Array]:
        draw = lambda key: sampled_grad("nash_md_pg", problem, logits, key, hard_labels=True, **hyper)
        found = jax.vmap(draw)(keys)
        return found.mean(0), found.std(0)

    mean, std = moments(keys)
    exact = np.asarray(population_grad("nash_md_pg", problem, logits, **hyper))
    error = np.asarray(std) / np.sqrt(len(keys))
    return {"z": (np.asarray(mean) - exact) / error, "error": error, "exact": exact, "draws": np.asarray(len(keys))}


@functools.cache
def moving_average(settings: Settings) -> Runs:
    """Nash-EMA-PG with exact gradients: divergences to the regularised Nash, of the policy and of its average."""
    problem, _ = random_problems(np.random.default_rng([settings.seed, 13]), settings.size(100, 30), 5)
    beta = 0.3
    run = fit("nash_ema_pg", problem, num_steps=6000, learning_rate=2.0, beta=beta, ema=0.98)
    equilibrium = equilibria(np.asarray(problem.preferences()), np.asarray(problem.ref_logp), beta)
    start = kl(problem.ref_logp, equilibrium)
    assert run.anchor_logp is not None
    found = {"start": start, "policy": kl(run.logp, equilibrium), "average": kl(run.anchor_logp, equilibrium)}
    return {name: np.asarray(x) for name, x in found.items()}


# --- tokens -----------------------------------------------------------------------------------------------------------

Nodes = tuple[Array, ...]
TOKEN_MIXTURES = np.linspace(0.0, 1.0, 9)


@functools.partial(jax.jit, static_argnames="tree")
def _tree_runs(logits: Nodes, ref_logits: Nodes, preference: Array, tree: TokenTree) -> dict[str, Array]:
    """One tree shape: relative errors of the two token gradients, and the two mixtures, on random policies."""
    beta = 0.3

    def one(logits: Nodes, ref_logits: Nodes, preference: Array) -> dict[str, Array]:
        ref_logp, ref_tokens = tree.leaf_logp(ref_logits), tree.token_logp(ref_logits)
        opponent = sg(geometric_mixture(tree.leaf_logp(logits), ref_logp, 0.125))
        wins = preference @ jnp.exp(opponent)

        def losses(levels: Nodes) -> Array:
            logp, tokens = tree.leaf_logp(levels), tree.token_logp(levels)
            drawn = sg(jnp.exp(logp))
            true = beta * kl(logp, ref_logp) - (jnp.exp(logp) * wins).sum()
            to_go = nash_md_pg_token(tokens[:, None], ref_tokens[:, None], wins[:, None], beta=beta)
            myopic = beta * kl_tokens_myopic(tokens, ref_tokens) - sg(wins - 0.5) * masked_sum(tokens, None)
            return jnp.stack([true, (drawn * to_go).sum(), (drawn * myopic).sum()])

        true, exact, short = jnp.concatenate([g.reshape((3, -1)) for g in jax.jacrev(losses)(logits)], -1)
        norm = jnp.linalg.norm(true)

        def mixtures(m: Array) -> tuple[Array, Array, Array, Array]:
            sequence = geometric_mixture(tree.leaf_logp(logits), ref_logp, m)
            conditional = [
                geometric_mixture(a, b, m)
                for a, b in zip(map(log_softmax, logits), map(log_softmax, ref_logits), strict=True)
            ]
            raw = [log_softmax((1 - m) * a + m * b) for a, b in zip(logits, ref_logits, strict=True)]
            tokenwise = tree.leaf_logp(conditional)
            apart = jnp.stack([jnp.abs(a - b).max() for a, b in zip(conditional, raw, strict=True)]).max()
            mass = jnp.abs(jnp.stack([jnp.exp(sequence).sum(), jnp.exp(tokenwise).sum()]) - 1).max()
            return kl(sequence, tokenwise), kl(tokenwise, sequence), apart, mass

        forward, backward, raw_apart, mass = jax.vmap(mixtures)(jnp.asarray(TOKEN_MIXTURES))
        return {
            "to_go": jnp.linalg.norm(exact - true) / norm,
            "myopic": jnp.linalg.norm(short - true) / norm,
            "forward": forward,
            "backward": backward,
            "raw_apart": raw_apart,
            "mass": mass,
        }  # fmt: skip

    return jax.vmap(one)(logits, ref_logits, preference)


def lengths(settings: Settings) -> tuple[int, ...]:
    """The sequence lengths of the token trees, three tokens each."""
    return (1, 2, 3) if settings.quick else (1, 2, 3, 4, 5)


@functools.cache
def trees(settings: Settings) -> Runs:
    """Token trees of growing length: `to_go`, `myopic` `[lengths, policies]`, the mixtures `[lengths, policies, 9]`."""
    number = settings.size(500, 200)
    runs = []
    for length in lengths(settings):
        generator = np.random.default_rng([settings.seed, 20, length])
        draw = lambda: tuple(jnp.asarray(generator.normal(size=(number, 3**t, 3))) for t in range(length))  # noqa: B023
        preference = jnp.asarray(random_preferences(generator, (number,), 3**length))
        runs.append(_tree_runs(draw(), draw(), preference, TokenTree(vocab_size=3, length=length)))
    return {name: np.stack([np.asarray(run[name]) for run in runs]) for name in runs[0]}


# --- training at each mixture -----------------------------------------------------------------------------------------

PROMPTS, RESPONSES, FEATURES = 8, 10, 12
CURVE_BETA = 0.05


def worlds(settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Preferences `[2, seeds, prompts, A, A]`, references `[seeds, prompts, A]`, features `[2, seeds, prompts, A, D]`.

    The first preferences are uniform, full of cycles; the second those of three Bradley-Terry annotators, with few. The
    first features are one for each prompt and response, which makes the log-linear policy a table; the second are
    shared.
    """
    generator = np.random.default_rng([settings.seed, 30])
    seeds, table = settings.size(64, 16), PROMPTS * RESPONSES
    preference = random_preferences(generator, (seeds, PROMPTS), RESPONSES)
    ref_logp = normalised(generator.normal(size=(seeds, PROMPTS, RESPONSES)))
    features = np.zeros((2, seeds, PROMPTS, RESPONSES, table))
    features[0] = np.eye(table).reshape((PROMPTS, RESPONSES, table))
    features[1, ..., :FEATURES] = generator.normal(size=(seeds, PROMPTS, RESPONSES, FEATURES))
    rewards = 3 * generator.normal(size=(3, seeds, PROMPTS, RESPONSES))
    annotators = sigmoid(rewards[..., :, None] - rewards[..., None, :]).mean(0)
    return np.stack([preference, annotators]), ref_logp, features


@jax.jit
def _judged(policies: Array, preference: Array, ref_logp: Array) -> dict[str, Array]:
    """Policies `[seeds, mixtures, prompts, A]` in the eyes of three judges, averaged over prompts: `[seeds, mixtures]`.

    `win_rate`: mean probability of beating the other mixtures' policies of the same seed, true preferences, no KL.
    `regularised`, `original`: duality gaps of the game with and without its KL. `table`: `[seeds, mixtures,
    mixtures]` win-rates.
    """
    game = PreferenceGame(preference=preference[:, None], ref_logp=ref_logp[:, None], tau=CURVE_BETA)
    p = jnp.exp(policies)
    table = jnp.einsum("smxa,sxab,snxb->smn", p, preference, p) / PROMPTS
    others = len(MIXTURES) - 1
    return {
        "table": table,
        "win_rate": (table.sum(-1) - 0.5) / others,
        "regularised": duality_gap(game, policies).mean(-1),
        "original": original_gap(game, policies).mean(-1),
    }


def judged(policies: Array | np.ndarray, preference: np.ndarray, ref_logp: np.ndarray) -> Runs:
    """`_judged` as NumPy arrays."""
    return {name: np.asarray(x) for name, x in _judged(*map(jnp.asarray, (policies, preference, ref_logp))).items()}


def optima(preference: np.ndarray, ref_logp: np.ndarray) -> np.ndarray:
    """The exact optimum of Nash-MD-PG at each mixture m, `[seeds, mixtures, prompts, A]`.

    The best response to the opponent it has there, which is the Nash at beta / (1 - m); at m = 1 the reference.
    """
    shape = (len(preference), len(MIXTURES) - 1, PROMPTS, RESPONSES)
    games = np.broadcast_to(preference[:, None], (*shape, RESPONSES)).reshape((-1, RESPONSES, RESPONSES))
    references = np.broadcast_to(ref_logp[:, None], shape)
    tau = np.broadcast_to((CURVE_BETA / (1 - MIXTURES[:-1]))[:, None], shape[:-1])
    inner = equilibria(games, references.reshape((-1, RESPONSES)), tau.reshape(-1)).reshape(shape)
    rivals = np.concatenate([inner, ref_logp[:, None]], 1)
    wins = np.einsum("sxab,smxb->smxa", preference - 0.5, np.exp(rivals))
    return normalised(ref_logp[:, None] + wins / CURVE_BETA)


@functools.cache
def curves(settings: Settings) -> dict[str, Runs]:
    """The curve over the mixture coefficient in five settings, one protocol for all.

    exact: the exact optimum of Nash-MD-PG at each mixture (tables, no noise, converged). sampled: tables trained by
    sampled gradients with 0/1 labels. shared: one log-linear policy for all prompts, trained so. These on cyclic
    preferences; annotators_exact and annotators_sampled are the first two on those of three annotators.

    The same everywhere: beta = 0.05, nine mixtures, 300 steps of rate 2 (tables) or 0.2 (shared features), 16 groups a
    prompt and step, the last policy is judged, every seed is kept.
    """
    (preference, annotators), ref_logp, features = worlds(settings)
    mixtures = jnp.asarray(MIXTURES)
    # A generator that compiles in a quarter of the time; the nine mixtures of a seed see the same random numbers.
    keys = jax.random.split(jax.random.key(settings.seed, impl="rbg"), len(preference))

    def train(preference: Array, ref_logp: Array, key: Array, features: Array, rate: Array, mixture: Array) -> Array:
        policy = LogLinearPolicy(features, ref_logp)
        return fit(
            "nash_md_pg", Problem(ref_logp=ref_logp, preference=preference), num_steps=300, learning_rate=rate, key=key,
            batch_size=16, hard_labels=True, policy=policy.logp, init_params=policy.zeros(),
            beta=CURVE_BETA, mixture=mixture,
        ).logp  # fmt: skip

    trained = jax.jit(jax.vmap(jax.vmap(train, (None,) * 5 + (0,)), (0, 0, 0, 0, None, None)))
    return {
        "exact": judged(optima(preference, ref_logp), preference, ref_logp),
        "sampled": judged(trained(preference, ref_logp, keys, features[0], 2.0, mixtures), preference, ref_logp),
        "shared": judged(trained(preference, ref_logp, keys, features[1], 0.2, mixtures), preference, ref_logp),
        "annotators_exact": judged(optima(annotators, ref_logp), annotators, ref_logp),
        "annotators_sampled": judged(
            trained(annotators, ref_logp, keys, features[0], 2.0, mixtures), annotators, ref_logp
        ),
    }


CYCLIC = ("exact", "sampled", "shared")
"""The settings of `curves` with cyclic preferences."""


def margin(scores: np.ndarray) -> np.ndarray:
    """What the mixtures 1/8 to 3/8 win more than each end, `[seeds, 2]`: self-play, best response to the reference."""
    return scores[:, INNER].mean(1, keepdims=True) - scores[:, [0, -1]]


def lower_limit(values: np.ndarray) -> np.ndarray:
    """Mean over seeds less two standard errors."""
    return values.mean(0) - 2 * values.std(0, ddof=1) / np.sqrt(len(values))
