"""One run: the trainer's rollout and step on a method's record, with hyperparameters traced, and measures on the way.

A sweep over hyperparameters compiles once; responses that a method draws from the base model are taken from the samples
that the world keeps.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import alignjax
from alignjax import lm, multiobjective
from alignjax.record import Method
from papers.lm import corpus, scorers
from papers.lm.world import NEW, TOKENIZER, World, mesh
from tpu.bridge import Others, method_sums, reads
from tpu.rewards import Judge, Reward, bradley_terry
from tpu.rollout import Rollout, Sampling, plan_of
from tpu.train_step import Carried, TrainState, loss_hyperparameters, make_train_step, new_state

Json = dict[str, Any]
Host = dict[str, np.ndarray]
NEVER = 1_000_000
"""Updates after which an anchor is renewed that is not to move."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """All that a run depends on beside the world and its seed; plain data, and its identity on disk."""

    method: str
    """A record of the registry, or "mgda": RLOO of every objective, combined to the direction of least norm."""
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    responses: int = 2
    """K, where the method leaves it free."""
    sampler: str | None = None
    """Who writes the responses, where it is not the method's own law."""
    score: str = "sentiment"
    """A scorer of the world, or "cyclic", the judge."""
    shift: float = 0.0
    """Standard deviation over prompts of what is added to the reward."""
    sharpness: float = 4.0
    """Of labels: Bradley-Terry on that many times the reward."""
    hard: bool = True
    """Labels are drawn, 0 or 1."""
    opponents: int = 4
    """Samples of the opponent that a win-rate is estimated from."""
    baseline: str | None = None
    """Of methods that take a value of the prompt: "running", "head" (see the trainer), or "batch": the mean return of
    the other prompts' samples, for BOND."""
    fixed: bool = False
    """The anchor stays at the base model."""
    steps: int = 100
    batch: int = 32
    """Prompts of a rollout."""
    inner: int = 1
    """Updates on a rollout."""
    iteration: int = NEVER
    """Updates after which the previous iterate and the history are renewed, where the method has no rule of its own."""
    history: int = 1
    """Past policies that are kept, for methods that read them."""
    rate: float = 1e-3
    every: int = 10
    """Steps between two measurements."""

    def plain(self) -> Json:
        """What differs from the defaults, so that a new field does not make old runs others."""
        blank = Spec(method="")
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in found.items() if value != getattr(blank, name)}

    @property
    def record(self) -> Method:
        """The method whose rollout it is."""
        return alignjax.methods["pama" if self.method == "mgda" else self.method]

    @property
    def carried(self) -> Carried:
        """What the state holds beside the policy."""
        baseline = None if self.baseline == "batch" else self.baseline
        return Carried.by(self.record, history=self.history, baseline=baseline, anchor=self.sampler == "previous")


# --- feedback ---------------------------------------------------------------------------------------------------------


def shifts(spread: float) -> dict[str, float]:
    """What is added to the reward of each prompt; the same in all runs."""
    drawn = np.random.default_rng(703).normal(size=len(corpus.PROMPTS)) * spread
    return dict(zip(corpus.PROMPTS, drawn.tolist(), strict=True))


def reward_of(world: World, spec: Spec) -> Reward | None:
    """The scorer of a spec with the shift of each prompt; None where a judge takes its place."""
    if spec.score == "cyclic":
        return None
    scorer, added = world.reward(spec.score), shifts(spec.shift)

    def reward(prompts: Any, completions: Any) -> np.ndarray:
        found = np.asarray(scorer(prompts, completions), float)
        return found + np.asarray([added[prompt] for prompt in prompts]) if spec.shift else found

    return Reward(spec.score, reward)


def judge_of(reward: Reward | None, spec: Spec) -> Judge:
    """The cyclic judge, or Bradley-Terry on the reward."""
    if reward is None:
        return Judge("cyclic", scorers.cyclic)
    return bradley_terry(Reward(reward.name, lambda p, y: spec.sharpness * np.asarray(reward.function(p, y))))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PooledRollout(Rollout):
    """The trainer's rollout, but for the base model's responses: they come from the world's samples."""

    world: World

    def write(self, source: str, count: int, policy: Any, others: Others, prompts: Host, key: jax.Array) -> Any:
        """See `Rollout.write`."""
        if source != "reference" and (source != "previous" or others.anchor is not None or others.history is not None):
            return super().write(source, count, policy, others, prompts, key)
        world = self.world
        rows = (world.prompts[None] == prompts["prompts"][:, None]).all(-1).argmax(1)
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        where = np.random.default_rng(seed).integers(world.pool.tokens.shape[1], size=(len(rows), count))
        return jax.tree.map(lambda x: x[rows[:, None], where], world.pool)


def returns(world: World, state: TrainState, method: Method, batch: Host) -> np.ndarray:
    """The mean return of the other prompts, `[B]`, for the sample of the policy that BOND and J-BOND follow."""
    score = lambda p: np.asarray(lm.token_logps(world.config, p, batch["tokens"], batch["loss_mask"]).sum(-1))
    slot = 1 if method.num_responses == 2 else 0
    moved = (score(state.params) - score(state.anchor))[:, slot]
    reward = batch["reward"]
    if method.num_responses == 3:
        found = np.where(reward[:, 0] < reward[:, 1:].min(1), -np.log(16.0), 0.0) - moved
    else:
        found = reward[:, slot] - moved
    return (found.sum() - found) / (len(found) - 1)


# --- the update -------------------------------------------------------------------------------------------------------


def _optimiser(rate: Any) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-1.0 * rate))


def _split(hyper: Mapping[str, Any]) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """Words and switches, which are static, and numbers, which are traced."""
    fixed = tuple(sorted((name, x) for name, x in hyper.items() if isinstance(x, str | bool)))
    return fixed, {name: float(x) for name, x in hyper.items() if not isinstance(x, str | bool)}


@functools.partial(jax.jit, static_argnames=("config", "name", "fixed", "baseline", "carried"))
def update(
    config: lm.DecoderConfig,
    name: str,
    fixed: tuple[tuple[str, Any], ...],
    baseline: str | None,
    carried: Carried,
    hyper: Mapping[str, Any],
    state: TrainState,
    reference: Any,
    batch: Mapping[str, Any],
    rate: Any,
    iteration: Any,
) -> tuple[TrainState, Any]:
    """The trainer's step, its hyperparameters traced."""
    method = alignjax.methods[name]
    both = {**dict(fixed), **hyper}
    step = make_train_step(
        config, method, both, _optimiser(rate), mesh(), batch, carried=carried, baseline=baseline,
        iteration_steps=iteration,
    )  # fmt: skip
    return step(state, reference, batch)


@functools.partial(jax.jit, static_argnames="config")
def mgda_update(
    config: lm.DecoderConfig, beta: Any, state: TrainState, reference: Any, batch: Mapping[str, Any], rate: Any
) -> tuple[TrainState, Any]:
    """One step along the direction of least norm in the hull of the objectives' RLOO gradients."""
    method = alignjax.methods["rloo"]

    def gradient(reward: jax.Array) -> Any:
        one = {**batch, "reward": reward}
        loss = lambda p: method_sums(config, method, {"beta": beta}, p, Others(reference=reference), one)[0].means()[0]
        return jax.grad(loss)(state.params)

    found = multiobjective.mgda(jax.lax.map(gradient, jnp.moveaxis(batch["rewards"], -1, 0)))
    direction, kept = _optimiser(rate).update(found.direction, state.optimiser, state.params)
    params = optax.apply_updates(state.params, direction)
    return dataclasses.replace(state, params=params, optimiser=kept, step=state.step + 1), found.weights


# --- the run ----------------------------------------------------------------------------------------------------------

Measure = Callable[[World, Any, jax.Array], Json]
"""measure(world, params, key) -> numbers, and lists of them."""


def start(world: World, spec: Spec) -> TrainState:
    """The state of step 0."""
    copy = jax.tree.map(jnp.copy, world.params)
    return new_state(_optimiser(spec.rate), copy, spec.carried, d_model=world.config.d_model, anchor=world.params)


def rollout_of(world: World, spec: Spec) -> PooledRollout:
    """Who writes, and who scores."""
    reward = reward_of(world, spec)
    method = spec.record
    return PooledRollout(
        config=world.config,
        method=method,
        hyper=loss_hyperparameters(method, {} if spec.method == "mgda" else spec.hyper, online=True),
        tokenizer=TOKENIZER,
        plan=plan_of(method, method.num_responses or spec.responses, spec.sampler),
        sampling=Sampling(max_new_tokens=NEW),
        reward=reward,
        judge=judge_of(reward, spec),
        hard_labels=spec.hard,
        opponents=spec.opponents,
        world=world,
    )


def train(world: World, spec: Spec, seed: int, measure: Measure) -> Json:
    """The measures every `spec.every` steps, step 0 and the last included: {"step": [...], name: [...]}."""
    method, rollout = spec.record, rollout_of(world, spec)
    fixed, numbers = _split(rollout.hyper if spec.method != "mgda" else spec.hyper)
    baseline = None if spec.baseline == "batch" else spec.baseline
    rng, key = np.random.default_rng([seed, 702]), jax.random.key(seed)
    state = start(world, spec)
    found: Json = {}
    for step in range(spec.steps + 1):
        if step % spec.every == 0 or step == spec.steps:
            measured = measure(world, state.params, jax.random.fold_in(key, 2 * step))
            for name, value in {"step": step, **measured}.items():
                found.setdefault(name, []).append(value if isinstance(value, list) else float(value))
        if step == spec.steps:
            break
        rows = rng.permutation(len(world.prompts))[: spec.batch]
        prompts = {"prompts": world.prompts[rows], "prompt_mask": np.ones((len(rows), world.prompts.shape[1]), bool)}
        others = Others(reference=world.params, anchor=None if spec.fixed else state.anchor, history=state.history)
        batch = rollout(state.params, others, prompts, jax.random.fold_in(key, 2 * step + 1)).batch
        if spec.baseline == "batch":
            batch["value"] = returns(world, state, method, batch).astype(np.float32)
        if reads(method, "ref"):
            batch["ref_token_logp"] = np.asarray(
                lm.token_logps(world.config, world.params, batch["tokens"], batch["loss_mask"])
            )
        for _ in range(spec.inner):
            if spec.method == "mgda":
                state, _ = mgda_update(world.config, numbers["beta"], state, world.params, batch, spec.rate)
            else:
                state, _ = update(
                    world.config, method.name, fixed, baseline, spec.carried, numbers, state, world.params, batch,
                    spec.rate, spec.iteration,
                )  # fmt: skip
    return found
