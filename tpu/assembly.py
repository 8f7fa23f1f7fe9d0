"""From `Settings` to a `Run`: model, reference, data, optimiser, step, rollout, evaluation, checks at the start.

Whatever is wrong with what was asked for is found here, before any work.
"""

import dataclasses
import functools
import hashlib
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import alignjax
from alignjax import checks, lm
from tpu import flops, invariants, precompute
from tpu.arguments import UsageError
from tpu.bridge import TOKENS, Others, reads
from tpu.fingerprint import fingerprint
from tpu.loop import Run, keep_if_not_finite
from tpu.mesh import make_mesh
from tpu.partition import batch_shardings
from tpu.run_config import Settings, as_yaml, git_commit, identity, versions
from tpu.schedules import make_optimiser, make_schedule
from tpu.tasks import TASKS
from tpu.train_step import (
    Carried,
    MethodTask,
    TrainState,
    as_read,
    baseline_of,
    check_method,
    init_state,
    loss_hyperparameters,
    make_train_step,
    new_state,
    state_shardings,
)

Batch = Mapping[str, Any]
EVAL_SEED = 1
"""What sets the keys of evaluations apart from those of rollouts."""


@dataclasses.dataclass(kw_only=True)
class Parts:
    """What a run is put together from, as far as it is known."""

    settings: Settings
    config: Any
    params: Any
    """Those of the policy at the start."""
    tokenizer: Any
    task: Any
    """What the step descends: `MethodTask`, or one of `TASKS`."""
    method: Any
    """The record; None for a task."""
    hyper: Mapping[str, Any]
    carried: Carried
    data: Any
    batches: Any
    rollout: Any
    mesh: Any
    optimiser: Any
    schedule: Any
    cache: dict[int, Any] = dataclasses.field(default_factory=dict)
    """The last prepared batch, by step: the checks look at the first one before the loop does."""

    def prepare(self, state: TrainState, reference: Any, batch: Batch, step: int) -> tuple[Batch, Mapping[str, Any]]:
        """See `Run.prepare`: the fields that the step reads, sampled where the method is trained online."""
        if step not in self.cache:
            metrics: Mapping[str, Any] = {}
            if self.rollout is not None:
                from tpu.rollout import step_key

                others = Others(reference=reference, anchor=state.anchor, history=state.history)
                rolled = self.rollout(state.params, others, batch, step_key(self.settings.seed, step))
                batch, metrics = rolled.batch, rolled.metrics
            self.cache.clear()
            self.cache[step] = self.read(batch), metrics
        return self.cache[step]

    def read(self, batch: Batch) -> Batch:
        """The part of a batch that the step uses."""
        if self.method is not None:
            return as_read(self.method, batch)
        return {name: x for name, x in batch.items() if name in (*TOKENS, "preference")}


# --- what is asked for, checked ---------------------------------------------------------------------------------------


def assemble(settings: Settings) -> Run:
    """The run. Raises: UsageError, ValueError, TypeError, OSError if its parts are wrong or do not fit together."""
    parts = _parts(settings)
    state, reference, step, example = _placed(parts)
    facts = {
        "hyperparameters": dict(parts.hyper),
        "model": fingerprint(parts.params),
        "reference": None if reference is None else fingerprint(reference),
        "data": data_digest(parts.data),
    }
    same = identity(settings, facts)
    paths = _described(parts, example)
    peak = flops.peak(parts.mesh.devices.flat)
    return Run(
        name=settings.method, out=settings.folder, steps=settings.steps, state=state, reference=reference, step=step,
        batches=parts.batches, prepare=parts.prepare, learning_rate=_rates(parts.schedule, settings.steps),
        identity=same, described=paths, yaml=as_yaml(settings),
        evaluate=_evaluator(parts) if settings.eval_data else None,
        generate=_generator(parts), export=functools.partial(_export, parts),
        check=functools.partial(_check, parts, state, reference) if settings.checks else None,
        save_every=settings.save_every, keep=settings.keep, keep_best=settings.keep_best,
        eval_every=settings.eval_every, peak_flops=peak,
        flops_per_token=flops.per_token(parts.params, reference is not None and _scores(parts, "ref")),
        parts=parts, summary={"method": settings.method, "truncated": getattr(parts.data, "truncated", 0)},
    )  # fmt: skip


def _scores(parts: Parts, model: str) -> bool:
    """Whether the step runs this other model forward."""
    return parts.method is not None and reads(parts.method, model)


def _parts(settings: Settings) -> Parts:
    task_name = settings.method.replace("-", "_")
    method = None if task_name in TASKS else alignjax.methods[checks.member("method", task_name, _names())]
    settings = dataclasses.replace(settings, method=task_name if method is None else method.name)
    if method is None and settings.hyper:
        raise UsageError(f"{task_name} has no hyperparameters, got {', '.join(settings.hyper)}")
    if method is None and settings.online:
        raise UsageError(f"{task_name} is trained on a file; a reward or a judge would have no effect")
    hyper = {} if method is None else loss_hyperparameters(method, settings.hyper, online=settings.online)
    config, params, tokenizer = load_model(settings.model, seed=settings.seed, dtype=settings.param_dtype)
    config = dataclasses.replace(config, dtype=settings.dtype or settings.param_dtype, remat=settings.remat)
    if settings.max_length is not None and settings.max_length > config.max_length:
        raise UsageError(
            f"--max-length {settings.max_length} is more than the {config.max_length} that {settings.model} takes"
        )
    if settings.lora_rank is not None or settings.lora_alpha is not None:
        raise UsageError("--lora-rank: adapters cannot be trained yet")
    rollout = None if method is None or not settings.online else _rollout(settings, config, method, hyper, tokenizer)
    data = _data(settings, settings.data, config, tokenizer, rollout)
    if settings.ref_logps:
        try:
            data = _with_logps(params, data, settings)
        except OSError as error:
            raise UsageError(f"--ref-logps {error.filename}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(f"--ref-logps: {error}") from None
    if settings.batch > len(data):
        raise ValueError(f"--batch {settings.batch} is more than the {len(data)} rows of --data")
    batches = lm.batches(data, settings.batch, seed=settings.seed)
    if method is not None and rollout is None:
        check_method(method, data.feedback, data.num_responses)
    try:
        mesh = make_mesh(settings.mesh)
    except ValueError as error:
        raise UsageError(f"--mesh: {error}") from None
    schedule = make_schedule(
        settings.schedule, settings.learning_rate(), settings.schedule_steps or settings.steps, settings.warmup
    )
    optimiser = make_optimiser(
        settings.optimizer, schedule, weight_decay=settings.weight_decay, clip=settings.max_grad_norm or None
    )
    baseline = "none" if method is None else baseline_of(method, settings.baseline)
    task = TASKS[task_name][0](config) if method is None else MethodTask(config, method, hyper, baseline)
    carried = Carried()
    if method is not None:
        anchored = rollout is not None and "previous" in rollout.plan.sources
        carried = Carried.by(method, history=settings.history, baseline=settings.baseline, anchor=anchored)
    return Parts(
        settings=settings, config=config, params=params, tokenizer=tokenizer, task=task, method=method, hyper=hyper,
        carried=carried, data=data, batches=batches, rollout=rollout, mesh=mesh, optimiser=optimiser, schedule=schedule,
    )  # fmt: skip


def load_model(name: str, *, seed: int = 0, dtype: str | None = None) -> tuple[Any, Any, Any]:
    """(config, params, tokenizer) of a Hugging Face folder, or of a preset with random parameters."""
    if not Path(name).is_dir():
        config = lm.preset(name)
        if dtype is not None:
            config = dataclasses.replace(config, param_dtype=dtype)
        return config, lm.init(config, jax.random.key(seed)), lm.ByteTokenizer()
    config, params = lm.load(name, dtype=dtype)
    return config, params, lm.load_tokenizer(name)


def _names() -> list[str]:
    return [*alignjax.methods, *TASKS]


def _rollout(settings: Settings, config: Any, method: Any, hyper: Mapping[str, Any], tokenizer: Any) -> Any:
    """Who writes the responses and who scores them."""
    from tpu import rewards
    from tpu.rollout import Rollout, Sampling, plan_of

    sampling = Sampling(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_k=settings.top_k,
        top_p=settings.top_p,
    )  # fmt: skip
    return Rollout(
        config=config, method=method, hyper=hyper, tokenizer=tokenizer, sampling=sampling,
        plan=plan_of(method, settings.num_responses, settings.sampler),
        reward=rewards.load(",".join(settings.reward)) if settings.reward else None,
        judge=rewards.load_judge(settings.judge) if settings.judge else None,
        hard_labels=settings.hard_labels, opponents=settings.opponents, pool_size=settings.pool_size,
    )  # fmt: skip


def _data(settings: Settings, paths: tuple[str, ...], config: Any, tokenizer: Any, rollout: Any) -> Any:
    """The rows of the files, as this method needs them; what was cut or dropped is told on stderr."""
    longest = settings.max_length or config.max_length
    common = {"tokenizer": tokenizer, "too_long": settings.too_long}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if rollout is not None and "data" not in rollout.plan.slots:
                room = longest - settings.max_new_tokens
                if room < 1:
                    raise UsageError(
                        f"--max-new-tokens {settings.max_new_tokens} leaves no room for a prompt in {longest} tokens"
                    )
                most = min(room, settings.max_prompt_length or room)
                data: Any = lm.read_prompts(paths, max_prompt_length=most, **common)
            else:
                read = lm.read_supervised if settings.method == "sft" else lm.read_preferences
                data = read(paths, max_length=longest, max_prompt_length=settings.max_prompt_length, **common)
        except OSError as error:
            raise UsageError(f"--data {error.filename or ', '.join(paths)}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(f"--data {error}") from None
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return data


def _with_logps(params: Any, data: Any, settings: Settings) -> Any:
    """The data with the log-probs of `--ref-logps`, by what each file says it is; the reference's must be the policy's
    own at the start, unless another one is named.
    """
    roles: dict[str, list[str]] = {}
    for path in settings.ref_logps:
        roles.setdefault(precompute.read(path)[1].get("role", "ref"), []).append(path)
    for role, paths in roles.items():
        own = fingerprint(params) if role == "ref" and settings.reference is None else None
        data = precompute.attach(data, paths, model=own, role=role)
    return data


def data_digest(data: Any) -> dict[str, Any]:
    """The rows as arrays, in 16 hexadecimal digits: what tokenizer, template and lengths made of the files."""
    digest = hashlib.sha256()
    for name in ("tokens", "loss_mask", "attention_mask", "prompts", "prompt_mask"):
        if hasattr(data, name):
            array = np.ascontiguousarray(getattr(data, name))
            digest.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    for name, array in sorted(getattr(data, "feedback", {}).items()):
        digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return {"rows": len(data), "digest": digest.hexdigest()[:16]}


# --- on the mesh ------------------------------------------------------------------------------------------------------


def _example(parts: Parts) -> Batch:
    """Names, shapes and dtypes of the batches of the step."""
    batch = {name: np.asarray(x) for name, x in parts.batches.batch(0).items()}
    if parts.rollout is None:
        return parts.read(batch)
    size, k = parts.settings.batch, len(parts.rollout.plan.slots)
    prompt = batch["prompts"].shape[-1] if "prompts" in batch else batch["tokens"].shape[-1]
    tokens = np.zeros((size, k, prompt + parts.settings.max_new_tokens), np.int32)
    masks = tokens == 0
    found: dict[str, Any] = {"tokens": tokens, "loss_mask": masks, "attention_mask": masks}
    responses = np.zeros((size, k), np.float32)
    for field in parts.rollout.gives:
        if field == "preference":
            found[field] = np.full((size, k, k), 0.5, np.float32)
        elif field == "rewards":
            found[field] = np.zeros((size, k, max(len(parts.settings.reward), 1)), np.float32)
        elif field == "behaviour_logp":
            found["behaviour_token_logp"] = np.zeros(tokens.shape, np.float32)
        else:
            found[field] = responses
    return parts.read(found)


def _placed(parts: Parts) -> tuple[TrainState, Any, Any, Batch]:
    """State and reference in place, and the step; what does not fit the mesh is named."""
    settings, example = parts.settings, _example(parts)
    try:
        batch_shardings(example, parts.mesh)
    except ValueError as error:
        raise ValueError(f"--batch {settings.batch} does not fit --mesh: {error}") from None
    whole = NamedSharding(parts.mesh, PartitionSpec())
    try:
        where, state, reference = _states(parts)
    except ValueError as error:
        raise ValueError(f"--model {settings.model} does not fit --mesh: {error}") from None
    step = make_train_step(
        parts.config, parts.task, parts.hyper, parts.optimiser, parts.mesh, example, where=where,
        reference_where=whole if reference is None else where.params, carried=parts.carried,
        accumulate=settings.accumulate, iteration_steps=settings.iteration_steps,
        fixed_history=settings.fixed_history,
    )  # fmt: skip
    # Traced and not run: what the method itself refuses (an unknown divergence, say) is refused now.
    jax.eval_shape(step, state, reference, example)
    return state, reference, keep_if_not_finite(step), example


def _states(parts: Parts) -> tuple[TrainState, TrainState, Any]:
    settings, key = parts.settings, jax.random.key(parts.settings.seed)
    if parts.method is None:
        shapes = jax.eval_shape(parts.task.init, parts.params, key)
        where = state_shardings(
            parts.config, parts.optimiser, parts.mesh, Carried(), axes=parts.task.axes(), shapes=shapes
        )
        make = lambda params: new_state(parts.optimiser, parts.task.init(params, key), Carried())
        return where, jax.jit(make, out_shardings=where)(parts.params), None
    where = state_shardings(parts.config, parts.optimiser, parts.mesh, parts.carried)
    other = None
    if settings.reference is not None:
        config, other, _ = load_model(settings.reference, seed=settings.seed, dtype=settings.param_dtype)
        if dataclasses.replace(config, dtype=parts.config.dtype, remat=parts.config.remat) != parts.config:
            raise UsageError(f"--reference {settings.reference} is a model of another shape than {settings.model}")
    state, reference = init_state(
        parts.config, parts.optimiser, key, parts.mesh, carried=parts.carried, params=parts.params, reference=other
    )
    drawn = parts.rollout is not None and parts.rollout.plan.sources & {"reference", "mixture", "previous", "best_of_n"}
    stored = "ref_token_logp" in getattr(parts.data, "feedback", {})
    needed = (reads(parts.method, "ref") and not stored) or drawn
    return where, state, reference if needed else None


def _rates(schedule: Any, steps: int) -> Callable[[int], float]:
    """The learning rates of all updates, computed at once."""
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(steps))) * np.ones(steps)
    return lambda t: float(rates[t])


# --- looking at it ----------------------------------------------------------------------------------------------------


def _policy(parts: Parts, state: TrainState) -> Any:
    """The language model's parameters in a state."""
    return state.params["decoder"] if parts.settings.method == "reward_model" else state.params


def _evaluator(parts: Parts) -> Callable[[TrainState, Any], Mapping[str, float]]:
    """The loss and metrics of the step on `--eval-data`, row by row in their order, without an update."""
    settings = parts.settings
    if parts.rollout is not None:
        raise UsageError("--eval-data: an online method is evaluated on the rewards it is trained on; see also `eval`")
    data = _data(settings, settings.eval_data, parts.config, parts.tokenizer, None)
    if parts.method is not None:
        check_method(parts.method, data.feedback, data.num_responses)

    @jax.jit
    def sums(state: TrainState, reference: Any, batch: Batch) -> Any:
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        trained = {"params": state.params} | ({} if state.value is None else {"value": state.value})
        return parts.task.sums(trained, others, batch, state.baseline)

    def evaluate(state: TrainState, reference: Any) -> Mapping[str, float]:
        total: Any = None
        for start in range(0, len(data), settings.batch):
            index = np.arange(start, min(start + settings.batch, len(data)))
            found = sums(state, reference, parts.read(data.rows(index)))
            total = found if total is None else jax.tree.map(jnp.add, total, found)
        loss, metrics = total.means()
        return {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}

    return evaluate


def _generator(parts: Parts) -> Callable[[TrainState, int], list[Mapping[str, Any]]] | None:
    """A few responses to the first prompts of the evaluation's data, or of the training's."""
    settings = parts.settings
    if settings.method == "reward_model" or not settings.eval_prompts:
        return None
    from tpu.rollout import prompts_of

    rows = parts.data.rows(np.arange(min(settings.eval_prompts, len(parts.data))))
    found = prompts_of(rows, parts.tokenizer.pad)
    new = min(settings.max_new_tokens, parts.config.max_length - found["prompts"].shape[-1])
    if new < 1:
        return None
    stops = tuple(getattr(parts.tokenizer, "stops", (parts.tokenizer.eos,)))

    def generate(state: TrainState, step: int) -> list[Mapping[str, Any]]:
        from tpu.rollout import step_key

        key = jax.random.fold_in(step_key(settings.seed, step), EVAL_SEED)
        made = lm.generate(
            parts.config, _policy(parts, state), found["prompts"], key, max_new_tokens=new,
            temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, stop=stops,
            attention_mask=found["prompt_mask"], pad=parts.tokenizer.pad,
        )  # fmt: skip
        made = jax.device_get(made)
        text = lambda tokens, mask: parts.tokenizer.decode([int(t) for t, m in zip(tokens, mask, strict=True) if m])
        prompts = [text(*pair) for pair in zip(found["prompts"], found["prompt_mask"], strict=True)]
        written = [text(*pair) for pair in zip(made.tokens, made.mask, strict=True)]
        return [{"prompt": prompt, "text": out} for prompt, out in zip(prompts, written, strict=True)]

    return generate


def _export(parts: Parts, folder: Path, state: TrainState) -> None:
    """A Hugging Face folder, with the tokenizer."""
    if parts.settings.method == "reward_model":
        from tpu.reward_model import save_reward_model

        save_reward_model(folder, parts.config, state.params, parts.tokenizer)
    else:
        lm.save(folder, parts.config, state.params, parts.tokenizer)


def _check(parts: Parts, state: TrainState, reference: Any, done: int) -> list[str]:
    """See `invariants`; one line each."""
    position = parts.batches.get_state()
    try:
        raw = next(parts.batches)
        batch = parts.prepare(state, reference, raw, done)[0]
    finally:
        parts.batches.set_state(position)
    found = [_check_reference(parts, state, reference, batch, done)]
    dtype = parts.config.dtype

    @jax.jit
    def sums(batch: Batch) -> tuple[Any, Any]:
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        trained = {"params": state.params} | ({} if state.value is None else {"value": state.value})
        made = parts.task.sums(trained, others, batch, state.baseline)
        return made.loss, made.count

    found.append(invariants.same_for_halves(sums, batch, dtype=dtype))
    tokenizer = parts.tokenizer
    stops = tuple(getattr(tokenizer, "stops", (tokenizer.eos,)))
    found.append(invariants.one_bos(batch, tokenizer.bos))
    longest = parts.settings.max_length or parts.config.max_length
    if parts.rollout is None:
        found.append(invariants.eos_is_trained(batch, stops, tokenizer.pad, longest))
    specials = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    found.append(invariants.tokenizer_fits(batch, specials, tokenizer.vocab_size, parts.config.vocab_size))
    invariants.require(found)
    return [str(check) for check in found]


def _check_reference(parts: Parts, state: TrainState, reference: Any, batch: Batch, done: int) -> invariants.Check:
    name = "reference"
    if done:
        return invariants.Check(name, None, f"resumed after {done} updates; the reference is the one of the checkpoint")
    if parts.settings.reference is not None:
        return invariants.Check(name, None, f"--reference {parts.settings.reference} is a model of its own")
    stored = batch.get("ref_token_logp")
    if stored is None and reference is None:
        return invariants.Check(name, None, f"{parts.settings.method} has no reference")
    arrays = [batch[field] for field in TOKENS]
    policy = lm.token_logps(parts.config, _policy(parts, state), *arrays).sum(-1)
    there = lm.token_logps(parts.config, reference, *arrays) if stored is None else jnp.asarray(stored)
    there = jnp.where(jnp.asarray(batch["loss_mask"]) != 0, there, 0.0).sum(-1)
    return invariants.policy_is_reference(policy, there, dtype=parts.config.dtype, precomputed=stored is not None)


def _described(parts: Parts, example: Batch) -> dict[str, Any]:
    """The run as plain data, defaults filled in."""
    settings = parts.settings
    plain = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name != "hyper"}
    return {
        **plain,
        "method": settings.method,
        "source": "" if parts.method is None else str(parts.method.source),
        "hyperparameters": dict(parts.hyper),
        "lr": settings.learning_rate(),
        "out": str(settings.folder),
        "model": {"name": settings.model, **dataclasses.asdict(parts.config)},
        "rows": {
            "prompts": len(parts.data),
            "responses": int(example["tokens"].shape[1]),
            "lengths": list(parts.batches.lengths),
            **{n: getattr(parts.data, n) for n in ("truncated", "prompts_cut", "dropped") if hasattr(parts.data, n)},
        },
        "mesh": {axis: int(size) for axis, size in parts.mesh.shape.items()},
        "devices": {"used": parts.mesh.size, "there": jax.device_count(), "platform": jax.default_backend()},
        "versions": versions(),
        "git_commit": git_commit(),
    }
