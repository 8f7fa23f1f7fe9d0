"""One training step for every method: token log-probs, `Samples`, the record itself, gradients, update.

    policy, frozen reference on [B K, T] -> token_logps [B, K, T] -> Samples -> method(samples) [B] -> mean over prompts

The step is jitted once with explicit shardings and donates its state. What a method reads is what its signature says,
and a file gives what the models do not.

A method's own law would draw the responses, and its opponent's law the opponents; here both come from the file. So for
`nash_md_pg` on sampled pairs the win-rate of a response is P(it beats the other one): the opponent's law is the sampler
that wrote the file, not the mixture of policy and reference, which would have to be sampled anew at every step.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from alignjax import lm
from alignjax.lm.preference_data import COLUMN_OF
from alignjax.logspace import masked_mean
from alignjax.record import Method, keyword_only
from alignjax.samples import Samples
from tpu.partition import BATCH_AXES, batch_shardings, shardings

Batch = Mapping[str, Any]
Params = Mapping[str, Any]

FROM_MODEL = ("logp", "ref_logp", "token_logp", "ref_token_logp", "mask", "response_mask")
"""Fields of `Samples` that the two models and the masks give."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=("params", "optimiser", "step"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes (or the shardings of that, in the same shape). The reference is not part of it."""

    params: Params
    optimiser: Any
    step: Any


# --- what a method needs ----------------------------------------------------------------------------------------------


def check_method(method: Method, feedback: Iterable[str], num_responses: int) -> None:
    """Raises: ValueError, naming the column, if a file with these fields cannot feed the method."""
    feedback = set(feedback)
    if method.anchor_update is not None:
        raise ValueError(
            f"{method.name} plays against an anchor that moves with the run; a file of comparisons has none"
        )
    for field in method.reads:
        if field in FROM_MODEL or field in feedback:
            continue
        if field in COLUMN_OF:
            raise ValueError(f"{method.name} reads {field}: the data lack the column {COLUMN_OF[field]!r}")
        raise ValueError(f"{method.name} reads {field}, which no column of a file gives")
    if method.num_responses not in (None, num_responses):
        raise ValueError(
            f"{method.name} needs {method.num_responses} responses to a prompt; the data have {num_responses}"
        )
    if num_responses < method.min_responses:
        raise ValueError(
            f"{method.name} needs at least {method.min_responses} responses to a prompt; the data have {num_responses}"
        )


def loss_hyperparameters(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the loss, checked. One that belongs to a law would have no effect here, and is refused."""
    hyper = method.hyperparameters(given)
    own = keyword_only(method.loss)
    for name in given:
        if name not in own:
            raise ValueError(
                f"{name} belongs to a law that {method.name} draws from; here responses and opponents come from the "
                "file, and it would have no effect"
            )
    return {name: hyper[name] for name in own}


def as_read(method: Method, batch: Batch) -> dict[str, Any]:
    """The part of a batch that a step of this method uses."""
    wanted = {"tokens", "loss_mask", "attention_mask", "preference", *method.reads, *method.reads_if_present}
    return {name: array for name, array in batch.items() if name in wanted}


# --- the loss ---------------------------------------------------------------------------------------------------------


def samples_of(config: lm.DecoderConfig, params: Params, ref_params: Params, batch: Batch) -> Samples:
    """The bridge: a batch `[B, K, T]` under policy and reference, as `Samples`. The reference is detached."""
    score = lambda p: lm.token_logps(config, p, batch["tokens"], batch["loss_mask"], batch["attention_mask"])
    feedback = {name: batch[name] for name in batch if name in BATCH_AXES and "time" not in BATCH_AXES[name]}
    reference = jax.lax.stop_gradient(score(ref_params))
    return Samples.from_tokens(score(params), reference, batch["loss_mask"], **feedback)


def prompt_losses(
    config: lm.DecoderConfig, method: Method, hyper: Mapping[str, Any], params: Params, ref_params: Params, batch: Batch
) -> tuple[Float[Array, "B"], Samples]:
    """The method's loss of each prompt, and the samples it was computed on."""
    samples = samples_of(config, params, ref_params, batch)
    return method(samples, **hyper), samples


def pair_metrics(samples: Samples, beta: Any) -> dict[str, Array]:
    r"""What everyone plots of pairs: implicit rewards beta (logp - ref_logp) and log-probs of chosen and rejected.

    The chosen response is the first, or where there are preferences the likelier winner (ties are left out).
    """
    logp, ref_logp = jax.lax.stop_gradient(samples.logp), samples.ref_logp
    assert ref_logp is not None
    swap, decided = jnp.zeros(logp.shape[:-1], bool), jnp.ones(logp.shape[:-1], bool)
    if samples.preference is not None:
        p = samples.preference[..., 0, 1]
        swap, decided = p < 0.5, p != 0.5
    order = lambda x: jnp.where(swap[..., None], x[..., ::-1], x)
    mean = lambda x: masked_mean(x, decided)
    reward, logp = order(beta * (logp - ref_logp)), order(logp)
    return {
        "rewards/chosen": mean(reward[..., 0]),
        "rewards/rejected": mean(reward[..., 1]),
        "rewards/margins": mean(reward[..., 0] - reward[..., 1]),
        "rewards/accuracies": mean(reward[..., 0] > reward[..., 1]),
        "logps/chosen": mean(logp[..., 0]),
        "logps/rejected": mean(logp[..., 1]),
    }


def mean_loss(
    config: lm.DecoderConfig, method: Method, hyper: Mapping[str, Any], params: Params, ref_params: Params, batch: Batch
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean over the prompts that have responses, and metrics."""
    losses, samples = prompt_losses(config, method, hyper, params, ref_params, batch)
    assert samples.response_mask is not None
    kept = samples.response_mask.all(-1) if method.num_responses else samples.response_mask.any(-1)
    paired = samples.num_responses == 2 and (method.num_responses == 2 or samples.preference is not None)
    # A method without a temperature has its implicit reward in nats.
    metrics = pair_metrics(samples, hyper.get("beta", 1.0)) if paired else {}
    return masked_mean(losses, kept), metrics


# --- state and step ---------------------------------------------------------------------------------------------------


def state_shardings(config: lm.DecoderConfig, optimiser: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """How the state lies on the mesh: what the optimiser keeps of a parameter lies as the parameter does."""
    shapes = jax.eval_shape(lambda: lm.init(config, jax.random.key(0)))
    params = shardings(lm.logical_axes(config), shapes, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    kept = optax.tree_map_params(
        optimiser,
        lambda _, where: where,
        jax.eval_shape(optimiser.init, shapes),
        params,
        transform_non_params=lambda _: replicated,
    )
    return TrainState(params=params, optimiser=kept, step=replicated)


def init_state(
    config: lm.DecoderConfig, optimiser: optax.GradientTransformation, key: Array, mesh: Mesh
) -> tuple[TrainState, Params]:
    """A fresh policy in place on the mesh, and its copy as the frozen reference."""
    where = state_shardings(config, optimiser, mesh)

    def make(key: Array) -> tuple[TrainState, Params]:
        params = lm.init(config, key)
        state = TrainState(params=params, optimiser=optimiser.init(params), step=jnp.zeros((), jnp.int32))
        return state, jax.tree.map(jnp.copy, params)

    return jax.jit(make, out_shardings=(where, where.params))(key)


def make_train_step(
    config: lm.DecoderConfig,
    method: Method,
    hyper: Mapping[str, Any],
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    batch: Batch,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, Array]]]:
    """step(state, ref_params, batch) -> (state, metrics), jitted; the state it is given is donated.

    `batch` gives the names and shapes (see `as_read`). Metrics: `loss` and `grad_norm` at the parameters before the
    update, and those of `pair_metrics` for pairs.

    Raises: ValueError if the batch or the model does not divide over the mesh.
    """
    where = state_shardings(config, optimiser, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())

    def step(state: TrainState, ref_params: Params, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        loss = lambda params: mean_loss(config, method, hyper, params, ref_params, batch)
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, kept = optimiser.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(gradient), **metrics}
        return TrainState(params=params, optimiser=kept, step=state.step + 1), metrics

    return jax.jit(
        step,
        in_shardings=(where, where.params, batch_shardings(batch, mesh)),
        out_shardings=(where, replicated),
        donate_argnums=0,
    )
