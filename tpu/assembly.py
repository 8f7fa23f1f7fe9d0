"""From `Settings` to a `Run`: model, reference, data, optimiser, step, rollout, evaluation, checks at the start.

Whatever is wrong with what was asked for is found here, before any work.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import lm
from tpu import adapters, flops, global_arrays, layouts, remote
from tpu.arguments import UsageError
from tpu.asked import check_keep_best, check_length, named
from tpu.bridge import reads, scored
from tpu.distributed import same, several
from tpu.fingerprint import fingerprint
from tpu.inputs import data_digest, named_reference, read_data, with_logps
from tpu.loop import Run, keep_if_not_finite
from tpu.mesh import make_mesh, num_slices
from tpu.models import load_model
from tpu.observe import check, evaluator, export, generator
from tpu.partition import batch_shardings, shardings
from tpu.parts import Parts
from tpu.resharding import Generation
from tpu.run_config import Settings, as_yaml, git_commit, identity, versions
from tpu.schedules import make_optimiser, make_schedule
from tpu.tasks import TASKS
from tpu.train_step import (
    Carried,
    MethodTask,
    TrainState,
    baseline_of,
    check_method,
    make_train_step,
    new_state,
    state_shardings,
)

Batch = Mapping[str, Any]


# --- what is asked for, checked ---------------------------------------------------------------------------------------


def assemble(settings: Settings) -> Run:
    """The run. Raises: UsageError, ValueError, TypeError, OSError if its parts are wrong or do not fit together."""
    parts = _parts(settings)
    settings = parts.settings  # the method's name as it is written
    state, reference, step, example = _placed(parts)
    facts = {
        "hyperparameters": dict(parts.hyper),
        "model": fingerprint(parts.started(state, reference)),
        "reference": None if reference is None else fingerprint(reference),
        "data": data_digest(parts.data),
    }
    agreed = identity(settings, facts)
    same("the run", agreed)
    others = 0 if parts.method is None else sum(scored(parts.method, example, parts.carried.history).values())
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (parts.params, state.params)]
    work = flops.per_token(sizes[0], others, adapters=0 if parts.config is parts.decoder else sizes[1])
    parts.params = None  # they became the state's
    paths = _described(parts, example)
    peak = flops.peak(parts.mesh.devices.flat)
    return Run(
        name=settings.method, out=settings.folder, copied=remote.is_url(settings.out), steps=settings.steps,
        state=state, reference=reference, step=step, batches=parts.batches, prepare=parts.prepare,
        learning_rate=_rates(parts.schedule, settings.steps),
        identity=agreed, described=paths, yaml=as_yaml(settings),
        evaluate=evaluator(parts) if settings.eval_data else None,
        generate=generator(parts), export=functools.partial(export, parts),
        check=functools.partial(check, parts) if settings.checks else None, place=_placer(parts) if several() else None,
        save_every=settings.save_every, save_async=settings.save_async,
        keep=settings.keep, keep_best=settings.keep_best,
        eval_every=settings.eval_every, peak_flops=peak, flops_per_token=work,
        parts=parts, summary={"method": settings.method, "truncated": getattr(parts.data, "truncated", 0)},
    )  # fmt: skip


def _parts(settings: Settings) -> Parts:
    settings, method, hyper = named(settings)
    with global_arrays.on_host():
        config, params, tokenizer = load_model(settings.model, seed=settings.seed, dtype=settings.param_dtype)
    config = dataclasses.replace(config, dtype=settings.dtype or settings.param_dtype, remat=settings.remat)
    check_length(settings, config)
    model = _with_adapters(settings, config)
    rollout = None if method is None or not settings.online else _rollout(settings, model, method, hyper, tokenizer)
    data = read_data(settings, settings.data, config, tokenizer, rollout)
    if settings.ref_logps:
        if rollout is not None:
            raise UsageError(
                "--ref-logps are of responses in a file; online they are drawn, and it would have no effect"
            )
        try:
            data = with_logps(params, data, settings, config)
        except OSError as error:
            raise UsageError(f"--ref-logps {error.filename}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(f"--ref-logps: {error}") from None
    if settings.batch > len(data):
        raise ValueError(f"--batch {settings.batch} is more than the {len(data)} rows of --data")
    try:
        mesh = make_mesh(settings.mesh, slices=num_slices())
    except ValueError as error:
        raise UsageError(f"--mesh: {error}") from None
    if several() and mesh.size != jax.device_count():
        raise UsageError(f"--mesh is of {mesh.size} devices, but the processes have {jax.device_count()}: use all")
    global_arrays.connect(mesh)
    if rollout is not None:
        rollout = _about(rollout, data)
    if rollout is not None and mesh.size > 1:
        rollout = dataclasses.replace(
            rollout, generation=Generation(lm.logical_axes(model), mesh, config.compute_dtype)
        )
    batches = lm.batches(
        data, settings.batch, seed=settings.seed, num_buckets=settings.num_buckets(),
        rows=_rows_here(settings, mesh) if several() and rollout is None else None,
    )  # fmt: skip
    if method is not None and rollout is None:
        check_method(method, data.feedback, data.num_responses)
    schedule = make_schedule(
        settings.schedule, settings.learning_rate(), settings.schedule_steps or settings.steps, settings.warmup
    )
    optimiser = make_optimiser(
        settings.optimizer, schedule, weight_decay=settings.weight_decay, clip=settings.max_grad_norm or None
    )
    baseline = "none" if method is None else baseline_of(method, settings.baseline)
    task = TASKS[settings.method][0](model) if method is None else MethodTask(model, method, hyper, baseline)
    task = task if model is config else adapters.AdapterTask(task)
    carried = Carried()
    if method is not None:
        anchored = rollout is not None and "previous" in rollout.plan.sources
        stored = "opponent_token_logp" in getattr(data, "feedback", {})  # then no past policy is run
        history = 0 if stored else settings.history
        carried = Carried.by(method, history=history, baseline=settings.baseline, anchor=anchored)
    return Parts(
        settings=settings, decoder=config, config=model, params=params, tokenizer=tokenizer, task=task, method=method,
        hyper=hyper, carried=carried, data=data, batches=batches, rollout=rollout, mesh=mesh, optimiser=optimiser,
        schedule=schedule,
    )  # fmt: skip


def _rows_here(settings: Settings, mesh: Any) -> np.ndarray:
    """Which rows of a batch this process reads. Online it reads all, and draws the responses with the others."""
    prompt = {"value": jax.ShapeDtypeStruct((settings.batch,), np.float32)}
    try:
        where = batch_shardings(prompt, mesh)["value"]
    except ValueError as error:
        raise UsageError(f"--batch {settings.batch} does not fit --mesh: {error}") from None
    return global_arrays.rows_here(where, (settings.batch,))


def _with_adapters(settings: Settings, config: lm.DecoderConfig) -> Any:
    """The model that is trained: the decoder, or it with adapters."""
    if settings.lora_rank is None:
        return config
    return lm.LoRA(base=config, rank=settings.lora_rank, alpha=settings.lora_alpha or 2.0 * settings.lora_rank)


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
        reward=_scored_together(rewards.load(",".join(settings.reward))) if settings.reward else None,
        judge=_scored_together(rewards.load_judge(settings.judge)) if settings.judge else None,
        hard_labels=settings.hard_labels, opponents=settings.opponents, pool_size=settings.pool_size,
    )  # fmt: skip


def _about(rollout: Any, data: Any) -> Any:
    """The rollout, told of its data: prompts' texts, columns, and how long a row is whose response is the data's."""
    from tpu.rollout import prompts_of

    told: dict[str, Any] = {"prompt_texts": data.prompt_texts, "columns": getattr(data, "columns", {})}
    if "data" in rollout.plan.slots:
        trained, seen = data.loss_mask[:, 0] != 0, data.attention_mask[:, 0] != 0
        if (seen & ~trained & (trained.cumsum(-1) > 0)).any():
            raise UsageError(
                f"--data: {rollout.method.name} takes its first response from the data, and there others speak within "
                "one: a response must be one message of the assistant"
            )
        prompt = prompts_of(data.rows(np.arange(len(data))), 0)["prompts"].shape[-1]
        told["length"] = max(data.length, prompt + rollout.sampling.max_new_tokens)
    return dataclasses.replace(rollout, **told)


def _scored_together(feedback: Any) -> Any:
    """A reward or judge that is asked about every text once, whatever the number of processes."""
    return dataclasses.replace(feedback, function=global_arrays.shared(feedback.function))


# --- on the mesh ------------------------------------------------------------------------------------------------------


def _example(parts: Parts) -> Batch:
    """Names, shapes and dtypes of the batches of the step."""
    batch = {name: np.asarray(x) for name, x in parts.batches.batch(0, whole=True).items()}
    if parts.rollout is None:
        return parts.read(batch)
    size, k = parts.settings.batch, len(parts.rollout.plan.slots)
    length = parts.rollout.length or batch["prompts"].shape[-1] + parts.settings.max_new_tokens
    tokens = np.zeros((size, k, length), np.int32)
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


def _placer(parts: Parts) -> Callable[[Batch], Batch]:
    """See `Run.place`."""
    size, rows = parts.settings.batch, parts.batches.mine

    def place(batch: Batch) -> Batch:
        whole = {n: jax.ShapeDtypeStruct((size, *np.shape(x)[1:]), np.asarray(x).dtype) for n, x in batch.items()}
        return global_arrays.placed(batch, batch_shardings(whole, parts.mesh), size, rows)

    return place


def _placed(parts: Parts) -> tuple[TrainState, Any, Any, Batch]:
    """State and reference in place, and the step; what does not fit the mesh is named."""
    settings, example = parts.settings, _example(parts)
    why_not = functools.partial(
        layouts.why_not, axes=lm.logical_axes(parts.decoder), shapes=parts.params, batch=example,
        accumulate=settings.accumulate, lengths=None if parts.rollout else parts.batches.lengths,
    )  # fmt: skip
    try:
        layouts.chosen(parts.mesh.shape, parts.mesh.size, why_not)
    except ValueError as error:
        raise ValueError(
            f"--mesh does not fit --model {settings.model} and --batch {settings.batch}: {error}"
        ) from None
    where, reference_where, state, reference = _states(parts)
    step = make_train_step(
        parts.config, parts.task, parts.hyper, parts.optimiser, parts.mesh, example, where=where,
        reference_where=reference_where, carried=parts.carried,
        accumulate=settings.accumulate, iteration_steps=settings.iteration_steps,
        fixed_history=settings.fixed_history,
    )  # fmt: skip
    # Traced and not run: what the method itself refuses (an unknown divergence, say) is refused now.
    metrics = set(jax.eval_shape(step, state, reference, example)[1])
    if settings.keep_best is not None:
        evaluated = {"loss", *jax.eval_shape(parts.sums, state, reference, example).metrics}
        check_keep_best(settings, metrics | (parts.rollout.metrics if parts.rollout else set()), evaluated)
    return state, reference, keep_if_not_finite(step), example


def _states(parts: Parts) -> tuple[TrainState, Any, TrainState, Any]:
    """(where the state lies, where the reference lies, state, reference), in the memory of these alone: the parameters
    that were read become the state's.
    """
    settings, key, mesh = parts.settings, jax.random.key(parts.settings.seed), parts.mesh
    whole = NamedSharding(mesh, PartitionSpec())
    spread = lambda params: global_arrays.spread(params, shardings(lm.logical_axes(parts.decoder), params, mesh))
    parts.params = spread(parts.params)
    if parts.config is not parts.decoder:
        model = parts.config
        axes = lm.logical_axes(model)
        start = lm.lora.init(model, parts.params, jax.random.fold_in(key, 1))
        where = state_shardings(
            model, parts.optimiser, mesh, parts.carried, axes=axes["lora"], shapes=jax.eval_shape(lambda: start["lora"])
        )
        frozen = {"base": shardings(axes["base"], parts.params, mesh), "lora": {}}
        make = lambda params: new_state(parts.optimiser, params, parts.carried, d_model=parts.decoder.d_model)
        state = jax.jit(make, out_shardings=where)(start["lora"])
        return where, frozen, state, jax.device_put(lm.lora.reference(start), frozen)
    if parts.method is None:
        shapes = jax.eval_shape(parts.task.init, parts.params, key)
        where = state_shardings(parts.config, parts.optimiser, mesh, Carried(), axes=parts.task.axes(), shapes=shapes)
        make = lambda params: new_state(parts.optimiser, parts.task.init(params, key), Carried())
        return where, whole, jax.jit(make, out_shardings=where, donate_argnums=0)(parts.params), None
    where = state_shardings(parts.config, parts.optimiser, mesh, parts.carried)
    drawn = parts.rollout is not None and parts.rollout.plan.sources & {"reference", "mixture", "previous", "best_of_n"}
    stored = "ref_token_logp" in getattr(parts.data, "feedback", {})
    held = (reads(parts.method, "ref") and not stored) or drawn
    if settings.reference_dtype is not None and not held:
        raise UsageError(f"--reference-dtype: this run of {settings.method} holds no reference")
    starts = parts.carried.anchor or parts.carried.history  # these start at the reference, before it is rounded
    narrow = functools.partial(jax.tree.map, lambda x: jnp.copy(x).astype(settings.reference_dtype or x.dtype))
    other = None
    if settings.reference is not None:
        other = named_reference(settings, parts.decoder)
        if not starts:
            with global_arrays.on_host():
                other = narrow(other)
        other = spread(other) if held or starts else None

    def made(params: Any, other: Any) -> tuple[TrainState, Any]:
        width = parts.decoder.d_model
        state = new_state(parts.optimiser, params, parts.carried, d_model=width, anchor=other)
        return state, narrow(params if other is None else other) if held else None

    there = where.params if held else None
    with warnings.catch_warnings():  # where nothing that is made is as wide as the reference that was read
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        state, reference = jax.jit(made, out_shardings=(where, there), donate_argnums=(0, 1))(parts.params, other)
    return where, whole if there is None else there, state, reference


def _rates(schedule: Any, steps: int) -> Callable[[int], float]:
    """The learning rates of all updates, computed at once: the numbers do not depend on how many there are."""
    rates = np.asarray(jax.vmap(lambda t: schedule(t) + jnp.zeros(()))(jnp.arange(steps)))
    return lambda t: float(rates[t])


# --- in words ---------------------------------------------------------------------------------------------------------


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
        "model": {"name": settings.model, **dataclasses.asdict(parts.decoder)},
        "rows": {
            "prompts": len(parts.data),
            "responses": int(example["tokens"].shape[1]),
            "lengths": list(parts.batches.lengths),
            **{n: getattr(parts.data, n) for n in ("truncated", "prompts_cut", "dropped") if hasattr(parts.data, n)},
        },
        "mesh": {axis: int(size) for axis, size in parts.mesh.shape.items()},
        "devices": {
            "used": parts.mesh.size,
            "there": jax.device_count(),
            "platform": jax.default_backend(),
            "processes": jax.process_count(),
        },
        "versions": versions(),
        "git_commit": git_commit(),
    }
