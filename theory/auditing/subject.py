"""What is audited: anyone's function brought to one form, arrays by `Samples` field name in, one value per prompt
out.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax import checks, laws
from alignjax.record import Law, Method, Source
from theory import strategies
from theory.auditing import from_torch
from theory.auditing.errors import AuditError as AuditError

Arrays = dict[str, Array]

FOUR = (
    "policy_chosen_logps",
    "policy_rejected_logps",
    "reference_chosen_logps",
    "reference_rejected_logps",
)
"""The positional names of a trainer's pair loss."""

KINDS: dict[str, tuple[str, ...]] = {
    "pair": ("logp", "ref_logp"),
    "point": ("logp", "ref_logp", "label"),
    "group": ("logp", "ref_logp", "reward"),
    "token": ("token_logp", "ref_token_logp", "mask"),
    "token_group": ("token_logp", "ref_token_logp", "mask", "reward"),
}
"""Kind -> the arrays of its loss, in order."""

POLICY = {kind: names[0] for kind, names in KINDS.items()}
"""Kind -> the array that is the policy's."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A loss in one form: `rows(arrays)` gives one value per prompt, `raw(arrays)` what the function returned."""

    name: str
    kind: str
    raw: Callable[[Arrays], Array]
    hyper: Mapping[str, Any]
    sampler: Law
    method: Method | None = None
    """The record, if the subject is a method of ours."""
    with_hyper: Callable[[Mapping[str, Any]], Callable[[Arrays], Array]] = lambda hyper: _cannot(hyper)
    """hyperparameters -> `raw` with them."""
    framework: str = "jax"
    """Whose function it is: "jax", or "torch" behind callbacks."""
    more: tuple[str, ...] = ()
    """Feedback that it reads beside the arrays of its kind (`strategies.FEEDBACK`)."""

    @property
    def num_responses(self) -> int | None:
        """K, where the method fixes it."""
        return None if self.method is None else self.method.num_responses

    def batches(self, **options: Any) -> Any:
        """The strategy of its inputs."""
        options = options if self.num_responses is None else {"responses": self.num_responses, **options}
        return strategies.batches(self.kind, more=self.more, **options)

    @functools.cached_property
    def rows(self) -> Callable[[Arrays], Array]:
        """arrays -> [B]: each prompt on its own, as a batch of one."""

        def one(arrays: Arrays) -> Array:
            out = self.raw({name: array[None] for name, array in arrays.items()})
            return jnp.reshape(jnp.asarray(out), (-1,))[0]

        return jax.vmap(one)

    @functools.cached_property
    def _compiled(self) -> Callable[[Arrays], tuple[Array, Array]]:
        policy = POLICY[self.kind]

        def both(arrays: Arrays) -> tuple[Array, Array]:
            rest = {name: array for name, array in arrays.items() if name != policy}
            total = lambda x: self.rows({policy: x, **rest})
            value, pull = jax.vjp(total, arrays[policy])
            return value, pull(jnp.ones_like(value))[0]

        return jax.jit(both)

    def value_and_grad(self, arrays: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Values [B] and the gradient of each with respect to the policy's array, on the host."""
        value, gradient = self._compiled({name: jnp.asarray(array) for name, array in arrays.items()})
        return np.asarray(value, np.float64), np.asarray(gradient, np.float64)

    @functools.cached_property
    def as_method(self) -> Method:
        """The subject as a record, so that the library's exact machinery runs on it."""
        if self.method is not None:
            return self.method
        return Method(
            name=self.name,
            loss=_as_loss(self),
            sampler=self.sampler,
            num_responses=2 if self.kind == "pair" else (1 if self.kind in ("point", "token") else None),
            separable=self.kind in ("point", "token"),
            feedback={"label": _desirable} if self.kind == "point" else {},
            no_optimum="audited, not known",
            source=Source("the user", 0, "", "", venue=self.name),
        )


def _cannot(hyper: Mapping[str, Any]) -> Callable[[Arrays], Array]:
    raise AuditError(f"the hyperparameters of this loss cannot be changed to {dict(hyper)}")


def _desirable(problem: Any, logp: Array) -> Array:
    """P(label = 1): sigmoid of the reward."""
    return jax.nn.sigmoid(problem.reward)


def _as_loss(subject: Subject) -> Callable[..., Array]:
    """A loss on `[..., K]` arrays with the signature of our records, from rows of a batch."""

    def run(arrays: Arrays, trailing: Mapping[str, int]) -> Array:
        shaped = {name: jnp.asarray(array) for name, array in arrays.items()}
        policy = POLICY[subject.kind]
        lead = shaped[policy].shape[: shaped[policy].ndim - trailing[policy]]
        flat = {}
        for name, array in shaped.items():
            rest = array.shape[array.ndim - trailing[name] :] if trailing[name] else ()
            flat[name] = jnp.broadcast_to(array, lead + rest).reshape((-1, *rest))
        return subject.rows(flat).reshape(lead)

    if subject.kind == "pair":

        def pair(logp: Array, ref_logp: Array, preference: Array | None = None) -> Array:
            axes = {"logp": 1, "ref_logp": 1}
            first = run({"logp": logp, "ref_logp": ref_logp}, axes)
            if preference is None:
                return first
            second = run({"logp": logp[..., ::-1], "ref_logp": ref_logp[..., ::-1]}, axes)
            p = preference[..., 0, 1]
            return p * first + (1 - p) * second

        return pair
    if subject.kind == "point":

        def point(logp: Array, ref_logp: Array, label: Array) -> Array:
            logp, ref_logp, label = logp[..., 0], ref_logp[..., 0], label[..., 0]
            axes = {"logp": 0, "ref_logp": 0, "label": 0}
            good = run({"logp": logp, "ref_logp": ref_logp, "label": jnp.ones_like(logp)}, axes)
            bad = run({"logp": logp, "ref_logp": ref_logp, "label": jnp.zeros_like(logp)}, axes)
            return label * good + (1 - label) * bad

        return point
    if subject.kind == "group":

        def group(logp: Array, ref_logp: Array, reward: Array) -> Array:
            return run({"logp": logp, "ref_logp": ref_logp, "reward": reward}, {"logp": 1, "ref_logp": 1, "reward": 1})

        return group
    if subject.kind == "token":

        def token(token_logp: Array, ref_token_logp: Array, mask: Array) -> Array:
            arrays = {"token_logp": token_logp, "ref_token_logp": ref_token_logp, "mask": mask}
            return run({name: array[..., 0, :] for name, array in arrays.items()}, dict.fromkeys(arrays, 1))

        return token

    def token_group(token_logp: Array, ref_token_logp: Array, mask: Array, reward: Array) -> Array:
        arrays = {"token_logp": token_logp, "ref_token_logp": ref_token_logp, "mask": mask, "reward": reward}
        return run(arrays, {"token_logp": 2, "ref_token_logp": 2, "mask": 2, "reward": 1})

    return token_group


def rescaled(subject: Subject, factor: float) -> Subject:
    """The same loss with its `beta` multiplied by a factor."""
    hyper = {**subject.hyper, "beta": factor * subject.hyper["beta"]}
    return dataclasses.replace(subject, hyper=hyper, raw=subject.with_hyper(hyper), method=None)


def load(path: str) -> Any:
    """The object behind `package.module:name`, or a method's key. Raises AuditError with what is allowed."""
    from alignjax.registry import METHODS

    if ":" not in path:
        if path in METHODS:
            return METHODS[path]
        near = checks.nearest(path, METHODS)
        hint = f" (did you mean the method {near!r}?)" if near else ""
        raise AuditError(f"{path!r} is neither package.module:function nor a method of ours{hint}")
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        hint = "; functions of torch tensors need PyTorch: pip install torch" if missing else ""
        raise AuditError(f"cannot import {module_name!r}: {type(error).__name__}: {error}{hint}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = checks.nearest(part, [n for n in dir(found) if not n.startswith("_")])
            hint = f"; did you mean {near!r}?" if near else ""
            raise AuditError(f"{module_name!r} has no {attribute!r}{hint}")
        found = getattr(found, part)
    return found


HELD = ("anchor_logp", "opponent_logp")
"""The previous iterate and other players, of methods that read them: the audit holds them at the reference."""


def subject_of(
    loss: Any,
    *,
    kind: str | None = None,
    hyper: Mapping[str, Any] | None = None,
    sampler: Law | str | None = None,
    framework: str | None = None,
) -> Subject:
    """Bring a method, a method's key, a path or a function to one form; the kind is read from the signature if it can
    be, and so is whether it is a function of torch tensors (`from_torch.uses_torch`).
    """
    if isinstance(loss, str):
        loss = load(loss)
    if kind is not None and kind not in KINDS:
        near = checks.nearest(kind, KINDS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise AuditError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}{hint}")
    if isinstance(loss, Method):
        return _subject_of_method(loss, kind, hyper or {})
    if not callable(loss):
        raise AuditError(f"a loss must be callable, got {type(loss).__name__}")
    if framework not in (None, *from_torch.FRAMEWORKS):
        raise AuditError(f"framework must be one of {', '.join(from_torch.FRAMEWORKS)}, got {framework!r}")
    framework = framework or ("torch" if from_torch.uses_torch(loss) else "jax")
    return _subject_of_function(loss, kind, dict(hyper or {}), sampler, framework)


def _subject_of_method(method: Method, kind: str | None, hyper: Mapping[str, Any]) -> Subject:
    try:
        merged = method.hyperparameters(hyper)
    except (TypeError, ValueError) as error:
        raise AuditError(str(error)) from error
    if kind is None:
        if "token_logp" in method.reads:
            kind = "token_group"
        elif "label" in method.reads:
            kind = "point"
        else:
            kind = "pair" if method.num_responses == 2 else "group"
    feedback = "win_rate" if "win_rate" in method.reads else "reward"
    beside = [field for field in method.reads if field not in (*KINDS[kind], *HELD)]
    more = tuple(field for field in beside if not (field == "win_rate" and kind != "pair"))
    unknown = [field for field in more if field not in strategies.FEEDBACK]
    if unknown:
        raise AuditError(f"{method.name} reads {', '.join(unknown)}, for which the audit has no arrays ({kind})")

    def with_hyper(hyper: Mapping[str, Any]) -> Callable[[Arrays], Array]:
        def raw(arrays: Arrays) -> Array:
            policy = arrays[POLICY[kind]]
            shape = policy.shape[:-1] if kind == "token_group" else policy.shape
            given = {**{name: _certain(name, shape) for name in more}, **arrays}
            if "reward" in given and feedback == "win_rate" and kind != "pair":
                # A win-rate is the feedback of a response, as a reward is.
                given["win_rate"] = given["reward"]
            if "ref_logp" in given:
                given |= {"anchor_logp": given["ref_logp"], "opponent_logp": given["ref_logp"][None]}
            return method.evaluate(given, method.own(method.loss, hyper))

        return raw

    return Subject(
        name=method.name,
        kind=kind,
        raw=with_hyper(merged),
        hyper=merged,
        sampler=method.sampler,
        method=method,
        with_hyper=with_hyper,
        more=more,
    )


def _certain(name: str, shape: tuple[int, ...]) -> Array:
    """Feedback that says the first response is the better one, where a property does not draw any."""
    first = jnp.arange(shape[-1]) == 0
    if name == "value":
        return jnp.zeros(shape[:-1])
    if name == "preference":
        return jnp.broadcast_to(jnp.asarray([[0.5, 1.0], [0.0, 0.5]]), (*shape[:-1], 2, 2))
    if name == "rewards":
        return jnp.broadcast_to(first.astype(float)[:, None], (*shape, 2))
    return jnp.broadcast_to(first.astype(float), shape)


def _subject_of_function(
    function: Callable[..., Any],
    kind: str | None,
    hyper: dict[str, Any],
    sampler: Law | str | None,
    framework: str,
) -> Subject:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise AuditError(f"{name}: its signature cannot be read ({error}); wrap it in a plain function") from error
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    starred = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for given in hyper:
        if given not in parameters and not starred:
            near = checks.nearest(given, parameters)
            hint = f"; did you mean {near!r}?" if near else ""
            raise AuditError(f"{name} has no argument {given!r}{hint}")
    arrays = [p for p in positional if p.name not in hyper]
    needed = [p.name for p in arrays if p.default is p.empty]
    missing = [
        p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in hyper
    ]
    if missing:
        listed = " ".join(f"--hyper {n}=..." for n in missing)
        raise AuditError(
            f"{name} needs the keyword argument{'s' if len(missing) > 1 else ''} {', '.join(missing)}: {listed}"
        )
    kind, style = _kind(name, needed, [p.name for p in arrays], kind)
    fields = FOUR if style == "four" else KINDS[kind]
    function = from_torch.as_jax(function) if framework == "torch" else function
    names = [p.name for p in arrays][: len(fields)]
    by_name = set(names) == set(fields)

    def with_hyper(hyper: Mapping[str, Any]) -> Callable[[Arrays], Array]:
        def raw(given: Arrays) -> Array:
            if style == "four":
                logp, ref = given["logp"], given["ref_logp"]
                values = dict(zip(FOUR, (logp[..., 0], logp[..., 1], ref[..., 0], ref[..., 1]), strict=True))
            else:
                values = {field: given[field] for field in fields}
            ordered = [values[n] for n in names] if by_name else [values[field] for field in fields]
            out = function(*ordered, **hyper)
            return out[0] if isinstance(out, tuple | list) else out

        return raw

    law: Any = {"policy": laws.policy, "reference": laws.reference, "uniform": laws.uniform, "data": laws.data}
    if isinstance(sampler, str):
        if sampler not in law:
            raise AuditError(f"sampler must be one of {', '.join(law)}, got {sampler!r}")
        sampler = law[sampler]
    chosen: Any = sampler or (laws.data if kind in ("pair", "point") else laws.policy)
    hyper = {p.name: p.default for p in parameters.values() if p.name == "beta" and p.default is not p.empty} | hyper
    return Subject(
        name=name,
        kind=kind,
        raw=with_hyper(hyper),
        hyper=hyper,
        sampler=chosen,
        with_hyper=with_hyper,
        framework=framework,
    )


def _kind(name: str, needed: list[str], every: list[str], kind: str | None) -> tuple[str, str]:
    """The kind and whether the four-array form, from positional names; by position where a kind was given."""
    if set(FOUR) <= set(every) and kind in (None, "pair"):
        return "pair", "four"
    if kind == "pair" and len(needed) == 4:
        return "pair", "four"
    if kind is not None:
        want = KINDS[kind]
        if len(needed) > len(want) or len(every) < len(want):
            forms = ", ".join(want) + (f" or {', '.join(FOUR)}" if kind == "pair" else "")
            raise AuditError(f"{name} takes the arrays ({', '.join(every)}); a loss of kind {kind!r} takes ({forms})")
        return kind, "fields"
    for candidate in ("token_group", "token", "group", "point", "pair"):
        if set(needed) <= set(KINDS[candidate]) <= set(every) and set(KINDS[candidate]) == set(
            every[: len(KINDS[candidate])]
        ):
            return candidate, "fields"
    listed = "; ".join(f"{k}: ({', '.join(v)})" for k, v in KINDS.items())
    raise AuditError(
        f"{name} takes ({', '.join(every)}), from which its kind cannot be read; name its arrays as one of {listed}; "
        f"or ({', '.join(FOUR)}); or say --kind and pass them by position"
    )


def check_runs(subject: Subject, arrays: Arrays) -> None:
    """Call the function once, and its gradient, and say plainly what is wrong with either. Raises AuditError."""
    policy = POLICY[subject.kind]
    batch = arrays[policy].shape[0]
    try:
        out = subject.raw(arrays)
    except Exception as error:
        hint = ""
        if subject.framework == "jax" and ("torch" in str(error) or "must be Tensor" in str(error)):
            hint = ' (a function of torch tensors? say --torch, or framework="torch")'
        raise AuditError(f"{subject.name} raised {type(error).__name__} on a plain batch: {error}{hint}") from error
    shape = np.shape(out)
    if shape not in ((), (batch,)):
        raise AuditError(
            f"{subject.name} returned shape {shape} for a batch of {batch}; allowed are one value per prompt, shape "
            f"({batch},), a scalar, or a tuple that starts with one of them"
        )
    if not jnp.issubdtype(jnp.asarray(out).dtype, jnp.floating):
        raise AuditError(f"{subject.name} returned {jnp.asarray(out).dtype}; a loss must return floating-point numbers")
    try:
        rest = {name: array for name, array in arrays.items() if name != policy}
        jax.grad(lambda x: jnp.sum(jnp.asarray(subject.raw({policy: x, **rest}))))(arrays[policy])
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        whose, advice = ("PyTorch", "torch") if subject.framework == "torch" else ("JAX", "jax.numpy")
        raise AuditError(
            f"{subject.name} is not differentiable by {whose} in {policy!r}: {type(error).__name__}: {first} "
            f"(use {advice} on the arrays, and no float() or numpy on them)"
        ) from error
