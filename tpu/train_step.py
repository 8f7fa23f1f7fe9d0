"""One training step for every method: log-probs of tokens, the record itself, gradients, update, anchors.

The step is jitted once with explicit shardings and donates its state. A batch may be split into micro-batches, whose
sums add up to those of the whole batch. What the step carries beside the policy is what the method reads: a moving
anchor or the previous iterate, a history of past policies, a value of the prompt.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from alignjax import lm
from alignjax.lm.model import LanguageModel, Params
from alignjax.lm.preference_data import COLUMN_OF
from alignjax.record import Method, keyword_only
from tpu.bridge import TOKENS, Batch, Others, Sums, method_sums, prompt_values, reads, value_regression
from tpu.bridge import mean_loss as mean_loss
from tpu.bridge import prompt_losses as prompt_losses
from tpu.partition import BATCH_AXES, batch_shardings, laid_out, shardings

FROM_MODELS = ("logp", "ref_logp", "token_logp", "ref_token_logp", "anchor_logp", "opponent_logp", "mask")
"""Fields of `Samples` that models and masks give."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "optimiser", "step", "anchor", "history", "value", "baseline"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes (or the shardings of that, in the same shape). The reference is not part of it."""

    params: Params
    optimiser: Any
    step: Any
    anchor: Params | None = None
    """A moving anchor, or the previous iterate."""
    history: Params | None = None
    """J past policies, stacked on the first axis of every leaf, the newest first."""
    value: Any = None
    """{"weight": [D], "bias": []}: the head that values prompts."""
    baseline: Any = None
    """{"mean": [], "count": []}: the running mean of the rewards seen, and of how many."""


class Task(Protocol):
    """What a run descends: a method (`MethodTask`), or supervised warm-up and the reward model (tasks.py)."""

    @property
    def name(self) -> str: ...

    def sums(self, trained: Any, others: Others, batch: Batch, baseline: Any) -> Sums:
        """The loss of a (micro-)batch in sums; `trained` is {"params": ...} and perhaps {"value": ...}."""
        ...


BASELINES = ("none", "head", "running")


def baseline_of(method: Method, asked: str | None = None) -> str:
    """Where `value` comes from: a learned head where a method needs it, else nothing, unless asked for.

    Raises: ValueError if the method has no use for what was asked.
    """
    if "value" in method.reads:
        if asked in ("none", "running"):
            raise ValueError(f"{method.name} learns a value of the prompt: baseline must be 'head', got {asked!r}")
        return "head"
    if asked not in (None, *BASELINES):
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {asked!r}")
    if asked in (None, "none"):
        return "none"
    if "value" not in method.reads_if_present or "reward" in method.feedback:
        raise ValueError(f"{method.name} takes no baseline; got {asked!r}")
    return asked


@dataclasses.dataclass(frozen=True, eq=False)
class MethodTask:
    """A method with its hyperparameters on a model."""

    config: LanguageModel
    method: Method
    hyper: Mapping[str, Any]
    baseline: str = "none"

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    def sums(self, trained: Any, others: Others, batch: Batch, baseline: Any) -> Sums:
        """See `Task`."""
        own = {name: self.hyper[name] for name in keyword_only(self.method.loss)}
        loss = functools.partial(method_sums, self.config, self.method, own, trained["params"], others, batch)
        if self.baseline == "none" or "value" in batch:
            return loss()[0]
        if self.baseline == "running":
            value = jnp.broadcast_to(baseline["mean"], batch["tokens"].shape[:1])
            return loss(value=value)[0]
        values = prompt_values(self.config, trained["params"], trained["value"], batch)
        if "value" in self.method.reads:  # the loss itself teaches it
            return loss(value=values)[0]
        found, samples = loss(value=jax.lax.stop_gradient(values))
        return dataclasses.replace(found, loss=found.loss + value_regression(values, samples))


# --- what a method needs ----------------------------------------------------------------------------------------------


def check_method(method: Method, feedback: Iterable[str], num_responses: int, *, online: bool = False) -> None:
    """Raises: ValueError, naming the column, if batches with these fields cannot feed the method."""
    made = method.feedback.get("reward")
    if made is not None and not online:
        raise ValueError(
            f"{method.name} reads a reward that is made from samples of its anchor or reference ({made.__name__}), "
            "which no column of a file gives: train it online"
        )
    for field in method.reads:
        if field in FROM_MODELS or field == "value" or field in set(feedback):
            continue
        if field in COLUMN_OF:
            hint = "" if online else "; online (--reward or --judge named) it is computed from what is sampled"
            raise ValueError(f"{method.name} reads {field}: the data lack the column {COLUMN_OF[field]!r}{hint}")
        raise ValueError(f"{method.name} reads {field}, which no column of a file gives")
    if method.num_responses not in (None, num_responses):
        raise ValueError(
            f"{method.name} needs {method.num_responses} responses to a prompt; the data have {num_responses}"
        )
    if num_responses < method.min_responses:
        raise ValueError(
            f"{method.name} needs at least {method.min_responses} responses to a prompt; the data have {num_responses}"
        )


def loss_hyperparameters(method: Method, given: Mapping[str, Any], *, online: bool = False) -> dict[str, Any]:
    """Those of the loss, checked; online those of the laws and the anchor as well.

    One that belongs to a law alone would have no effect on responses from a file, and is refused there.
    """
    hyper = method.hyperparameters(given)
    own = keyword_only(method.loss)
    moving = {} if method.anchor_update is None else keyword_only(method.anchor_update)
    for name in given:
        if not online and name not in own and name not in moving:
            raise ValueError(
                f"{name} belongs to a law that {method.name} draws from; here responses and opponents come from the "
                "file, and it would have no effect"
            )
    return hyper if online else {name: hyper[name] for name in (*own, *moving)}


def as_read(method: Method, batch: Batch) -> dict[str, Any]:
    """The part of a batch that a step of this method uses."""
    wanted = {*TOKENS, "preference", *method.reads, *method.reads_if_present, "response_mask"}
    for model in ("ref", "anchor", "opponent", "behaviour"):
        if reads(method, model):
            wanted.add(f"{model}_token_logp")
    return {name: array for name, array in batch.items() if name in wanted and name in BATCH_AXES}


# --- state ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carried:
    """What the state holds beside policy and optimiser."""

    anchor: bool = False
    history: int = 0
    """J."""
    head: bool = False
    running: bool = False

    @classmethod
    def by(cls, method: Method, *, history: int = 2, baseline: str | None = None, anchor: bool = False) -> "Carried":
        """What this method reads. `anchor` keeps one even if the loss does not read it: its laws may draw from it."""
        value = baseline_of(method, baseline)
        return cls(
            anchor=anchor or reads(method, "anchor") or method.anchor_update is not None,
            history=history if reads(method, "opponent") else 0,
            head=value == "head",
            running=value == "running",
        )


def new_state(
    optimiser: optax.GradientTransformation,
    params: Params,
    carried: Carried,
    *,
    d_model: int = 0,
    anchor: Params | None = None,
    history: Params | None = None,
) -> TrainState:
    """The state of step 0. Anchor and history start at `anchor` and `history`, or at copies of the policy."""
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    started = params if anchor is None else anchor
    stacked = lambda tree: jax.tree.map(lambda x: jnp.repeat(x[None], carried.history, 0), tree)
    value = {"weight": jnp.zeros(d_model), "bias": jnp.zeros(())} if carried.head else None
    return TrainState(
        params=params,
        optimiser=optimiser.init(_trained(params, value)),
        step=jnp.zeros((), jnp.int32),
        anchor=copy(started) if carried.anchor else None,
        history=(stacked(started) if history is None else copy(history)) if carried.history else None,
        value=value,
        baseline={"mean": jnp.zeros(()), "count": jnp.zeros(())} if carried.running else None,
    )


def _trained(params: Params, value: Any) -> Any:
    return params if value is None else {"params": params, "value": value}


def state_shardings(
    config: Any,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    carried: Carried = Carried(),
    axes: Any = None,
    shapes: Any = None,
) -> TrainState:
    """How the state lies on the mesh: what the optimiser keeps of a parameter, and anchors and past policies, lie as
    the parameter does. `axes` and `shapes` are those of the trained parameters, by default the decoder's.
    """
    if shapes is None:
        shapes = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    params = shardings(lm.logical_axes(config) if axes is None else axes, shapes, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    value = {"weight": whole, "bias": whole} if carried.head else None
    head = {"weight": jnp.zeros(1), "bias": jnp.zeros(())} if carried.head else None
    kept = optax.tree_map_params(
        optimiser,
        # Factored moments have other shapes than their parameter, and are small: they are not split.
        lambda kept, where, like: where if kept.shape == like.shape else whole,
        jax.eval_shape(optimiser.init, _trained(shapes, head)),
        _trained(params, value),
        _trained(shapes, head),
        transform_non_params=lambda _: whole,
    )
    behind = lambda where: NamedSharding(mesh, PartitionSpec(None, *where.spec))
    return TrainState(
        params=params,
        optimiser=kept,
        step=whole,
        anchor=params if carried.anchor else None,
        history=jax.tree.map(behind, params) if carried.history else None,
        value=value,
        baseline={"mean": whole, "count": whole} if carried.running else None,
    )


def init_state(
    config: Any,
    optimiser: optax.GradientTransformation,
    key: Array,
    mesh: Mesh,
    *,
    carried: Carried = Carried(),
    params: Params | None = None,
    reference: Params | None = None,
) -> tuple[TrainState, Params]:
    """A policy in place on the mesh, fresh or `params`, and the frozen reference, by default its copy.

    Anchor and history start at the reference: there a run of iterations starts.
    """
    where = state_shardings(config, optimiser, mesh, carried)

    def make(key: Array, params: Params | None, reference: Params | None) -> tuple[TrainState, Params]:
        params = lm.init(config, key) if params is None else params
        reference = jax.tree.map(jnp.copy, params if reference is None else reference)
        width = jax.eval_shape(config.unembedding, params).shape[-1]
        return new_state(optimiser, params, carried, d_model=width, anchor=reference), reference

    return jax.jit(make, out_shardings=(where, where.params))(key, params, reference)


# --- the step ---------------------------------------------------------------------------------------------------------


def _summed_over_parts(task: Task, trained: Any, others: Others, batch: Batch, baseline: Any, parts: int) -> Any:
    """Gradient of the summed loss, and the sums, over `parts` micro-batches one after the other."""
    slope = jax.grad(lambda t, b: (lambda s: (s.loss, s))(task.sums(t, others, b, baseline)), has_aux=True)
    if parts == 1:
        return slope(trained, batch)
    # Every part takes rows from all over the batch, so that a batch split over devices stays so.
    split = {name: jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1) for name, x in batch.items()}
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(slope, trained, _first(split)))
    add = lambda total, part: (jax.tree.map(jnp.add, total, slope(trained, part)), None)
    return jax.lax.scan(add, zeros, split)[0]


def _first(batch: Batch) -> dict[str, Any]:
    return {name: x[0] for name, x in batch.items()}


def moved(task: Task, state: TrainState, params: Params, iteration_steps: int) -> tuple[Any, Any]:
    """Anchor and history after an update: by the method's own rule, or both renewed at the end of an iteration."""
    method = getattr(task, "method", None)
    update = None if method is None else method.anchor_update
    due = (state.step + 1) % iteration_steps == 0
    anchor, history = state.anchor, state.history
    if anchor is not None and update is not None:
        counted = {"step": state.step} if "step" in inspect.signature(update).parameters else {}
        anchor = update(anchor, params, **counted, **method.own(update, task.hyper))  # type: ignore[union-attr,attr-defined]
    elif anchor is not None and (method is None or "anchor_logp" not in method.feedback):  # which says: held fixed
        anchor = jax.lax.cond(due, lambda: params, lambda: anchor)
    if history is not None:
        newest_first = lambda old, new: jnp.concatenate([new[None].astype(old.dtype), old[:-1]])
        history = jax.lax.cond(due, lambda: jax.tree.map(newest_first, history, params), lambda: history)
    return anchor, history


def _renewed(baseline: Any, batch: Batch) -> Any:
    """The running mean of the rewards: plain at first, of about the last hundred batches later."""
    count = baseline["count"] + 1
    mean = baseline["mean"] + (jnp.mean(batch["reward"]) - baseline["mean"]) / jnp.minimum(count, 100.0)
    return {"mean": mean, "count": count}


def make_train_step(
    config: LanguageModel,
    method: Method | Task,
    hyper: Mapping[str, Any],
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    batch: Batch,
    *,
    where: TrainState | None = None,
    reference_where: Any = None,
    carried: Carried | None = None,
    baseline: str | None = None,
    accumulate: int = 1,
    iteration_steps: int = 25,
    fixed_history: bool = False,
) -> Callable[[TrainState, Params | None, Batch], tuple[TrainState, dict[str, Array]]]:
    """step(state, reference, batch) -> (state, metrics), jitted; the state it is given is donated.

    `batch` gives the names and shapes (see `as_read`); `accumulate` is the number of micro-batches; `iteration_steps`
    the number of updates after which the previous iterate and the history are renewed (a moving anchor has its own
    rule), and `fixed_history` holds the opponents fixed. `where` are the state's shardings where they are not the
    decoder's own. The reference may be None where batches bring `ref_token_logp`, or nothing reads it.

    Metrics: `loss` and `grad_norm` at the parameters before the update, and those of the task.
    Raises: ValueError if the batch or the model does not divide over the mesh, or the batch into micro-batches.
    """
    task: Task = (
        method if not isinstance(method, Method) else MethodTask(config, method, hyper, baseline_of(method, baseline))
    )
    if isinstance(method, Method) and carried is None:
        carried = Carried.by(method, baseline=baseline)
    where = state_shardings(config, optimiser, mesh, carried or Carried()) if where is None else where
    whole = NamedSharding(mesh, PartitionSpec())
    prompts = next(iter(batch.values())).shape[0]
    if prompts % accumulate:
        raise ValueError(f"a batch of {prompts} prompts cannot be split into accumulate = {accumulate} equal parts")
    batch_where = batch_shardings(batch, mesh)
    if accumulate > 1:
        part = {name: jax.ShapeDtypeStruct((prompts // accumulate, *x.shape[1:]), x.dtype) for name, x in batch.items()}
        try:
            batch_shardings(part, mesh)
        except ValueError as error:
            raise ValueError(f"micro-batches (accumulate = {accumulate}): {error}") from None

    def step(state: TrainState, reference: Params | None, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        others = Others(reference=reference, anchor=state.anchor, history=state.history)
        trained = {"params": state.params} | ({} if state.value is None else {"value": state.value})
        with laid_out(mesh):
            gradient, sums = _summed_over_parts(task, trained, others, batch, state.baseline, accumulate)
        gradient = jax.tree.map(lambda g: g / jnp.maximum(sums.count, 1).astype(g.dtype), gradient)
        loss, metrics = sums.means()
        gradient = gradient["params"] if state.value is None else gradient
        own = _trained(state.params, state.value)
        updates, kept = optimiser.update(gradient, state.optimiser, own)
        new = optax.apply_updates(own, updates)
        params, value = (new, None) if state.value is None else (new["params"], new["value"])
        anchor, history = moved(task, state, params, iteration_steps)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient), **metrics}
        state = TrainState(
            params=params,
            optimiser=kept,
            step=state.step + 1,
            anchor=anchor,
            history=state.history if fixed_history else history,
            value=value,
            baseline=None if state.baseline is None else _renewed(state.baseline, batch),
        )
        return state, metrics

    frozen = where.params if reference_where is None else reference_where
    return jax.jit(step, in_shardings=(where, frozen, batch_where), out_shardings=(where, whole), donate_argnums=0)
