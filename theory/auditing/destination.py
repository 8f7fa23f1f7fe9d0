r"""Where a loss goes: the point reached by descending the gradient that autodiff returns, on exact small populations.

Every expectation is enumerated by the library's own machinery (`alignjax.population`), so that nothing is sampled and
the reached point is exact: descent by Adam, then Newton's method on the gradient field until it stops.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax import kl_estimators
from alignjax.envs import TokenTree
from alignjax.f_regularised import regularised_optimum
from alignjax.logspace import log_softmax
from alignjax.population import expected_loss, split
from alignjax.problem import Problem
from theory import strategies
from theory.auditing.report import Property, Verdict
from theory.auditing.search import plain, smallest
from theory.auditing.subject import AuditError, Subject

TREE = TokenTree(2, 2)
NUM_INSTANCES, NUM_RESPONSES = 6, 4
MATCH = 1e-3  # total variation, on every instance


@dataclasses.dataclass(frozen=True)
class Instances:
    """Random problems with 4 responses each."""

    ref_logp: np.ndarray
    reward: np.ndarray
    start: np.ndarray
    """Some policy's logits, away from the reference."""

    @functools.cached_property
    def preference(self) -> np.ndarray:
        """Bradley-Terry of the reward."""
        return 1 / (1 + np.exp(self.reward[:, None, :] - self.reward[:, :, None]))


def instances(scale: float, seed: int = 0) -> Instances:
    """Normal rewards times `scale`, references and starting policies of moderate spread."""
    rng = np.random.default_rng(seed)
    shape = (NUM_INSTANCES, NUM_RESPONSES)
    ref = 0.7 * rng.standard_normal(shape)
    ref = ref - np.log(np.exp(ref).sum(-1, keepdims=True))
    return Instances(ref, scale * rng.standard_normal(shape), ref + 0.7 * rng.standard_normal(shape))


def _policy(subject: Subject, logits: Array) -> dict[str, Array]:
    logp = log_softmax(logits)
    if subject.kind not in ("token", "token_group"):
        return {"logp": logp}
    return {"logp": logp, "token_logp": TREE.token_logp(TREE.conditionals(logp))}


def _problem(subject: Subject, ref_logp: Any, reward: Any, preference: Any) -> Problem:
    tokens: dict[str, Any] = {}
    if subject.kind in ("token", "token_group"):
        tokens = {
            "ref_token_logp": TREE.token_logp(TREE.conditionals(jnp.asarray(ref_logp))),
            "mask": jnp.asarray(TREE.mask),
        }
    return Problem(
        ref_logp=jnp.asarray(ref_logp),
        reward=jnp.asarray(reward),
        preference=None if preference is None else jnp.asarray(preference),
        **tokens,
    )


@functools.lru_cache(maxsize=256)
def _field(subject: Subject) -> Callable[[Array, Problem], Array]:
    """(logits, problem) -> the expected gradient of each instance, compiled once for a subject."""
    method = subject.as_method
    size = {"group": 3, "token_group": 2}.get(subject.kind)
    given = dict(subject.hyper) if subject.method is not None else {}
    k, numbers, fixed = split(method, given if size is None or method.num_responses else {**given, "group_size": size})

    def total(logits: Array, problem: Problem) -> Array:
        policy = _policy(subject, logits)
        return expected_loss(problem, policy, numbers, method=method, k=k, fixed=fixed).sum()

    return jax.jit(jax.grad(total))


@functools.partial(jax.jit, static_argnames=("field", "num_steps"))
def _adam(logits: Array, problem: Problem, field: Callable[..., Array], num_steps: int) -> Array:
    """Adam at rate 0.1, cosine to 0: reaches the neighbourhood whatever the loss's scale."""

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        x, m, v = carry
        g = field(x, problem)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        rate = 0.1 * 0.5 * (1 + jnp.cos(jnp.pi * t / num_steps))
        x = x - rate * (m / (1 - 0.9 ** (t + 1))) / (jnp.sqrt(v / (1 - 0.99 ** (t + 1))) + 1e-14)
        return (x, m, v), None

    zeros = jnp.zeros_like(logits)
    return jax.lax.scan(step, (logits, zeros, zeros), jnp.arange(num_steps, dtype=logits.dtype))[0][0]


@functools.partial(jax.jit, static_argnames=("field",))
def _newton(logits: Array, problem: Problem, field: Callable[..., Array]) -> tuple[Array, Array]:
    """Newton on the field of each instance (its gauge, a constant, fixed): the logits, and the last step's size."""
    a = logits.shape[-1]
    basis = jnp.eye(a, dtype=logits.dtype)

    def step(x: Array, _: None) -> tuple[Array, Array]:
        g = field(x, problem)
        # By differences: the sampler's law is detached inside the field, and jvp would not see it move.
        columns = [(field(x + 1e-5 * e, problem) - field(x - 1e-5 * e, problem)) / 2e-5 for e in basis]
        jacobian = jnp.stack(columns, -1)
        size = jnp.abs(jacobian).max((-1, -2), keepdims=True)
        move = -jnp.linalg.solve(jacobian + size / a, g[..., None])[..., 0]
        move = jnp.where(jnp.isfinite(move), move, 0.0)
        length = jnp.abs(move).max(-1, keepdims=True)
        return x + move * jnp.minimum(1.0, 1.0 / jnp.maximum(length, 1e-30)), length[..., 0]

    logits, lengths = jax.lax.scan(step, logits, None, length=12)
    return logits, lengths[-1]


@dataclasses.dataclass(frozen=True)
class Reached:
    """Where the descent of a set of instances ended."""

    logp: np.ndarray
    finite: bool
    """Newton's steps vanished on every instance: a stationary point, not a slope towards infinity."""


def descend(subject: Subject, problem: Problem, start: np.ndarray, num_steps: int = 2_000) -> Reached:
    """Follow the gradient that autodiff returns, from `start`."""
    field = _field(subject)
    near = _adam(jnp.asarray(start), problem, field, num_steps)
    logits, last = _newton(near, problem, field)
    settled = np.asarray(last) < 1e-6
    moved = np.abs(np.exp(log_softmax(logits)) - np.exp(log_softmax(near))).max(-1) / 2
    finite = bool(settled.all() and np.isfinite(np.asarray(logits)).all() and (moved < 0.25).all())
    return Reached(np.asarray(log_softmax(logits if finite else near)), finite)


# --- known targets


def _tv(a: np.ndarray, b: np.ndarray) -> float:
    return float(0.5 * np.abs(np.exp(a) - np.exp(b)).sum(-1).max())


def _normalise(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _slope(weight: np.ndarray, score: np.ndarray, log_ratio: np.ndarray) -> float:
    """The one c with log_ratio = c score + a constant of the instance, least squares under the reached policy."""
    centre = lambda x: x - (weight * x).sum(-1, keepdims=True)
    s, h = centre(score), centre(log_ratio)
    power = (weight * s * s).sum()
    return float((weight * s * h).sum() / power) if power > 1e-14 else 0.0


def best_of(ref_logp: np.ndarray, reward: np.ndarray, n: float) -> np.ndarray:
    """Log-probs of the best of n draws from the reference (rewards without ties)."""
    p = np.exp(ref_logp)
    below = (p[:, None, :] * (reward[:, None, :] < reward[:, :, None])).sum(-1)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum((below + p) ** n - below**n, 1e-300))


@jax.jit
def _forward_optima(ref_logp: Array, reward: Array, betas: Array) -> Array:
    return jax.vmap(lambda beta: regularised_optimum(ref_logp, reward, beta, "forward_kl"))(betas)


def _search(
    family: Callable[[np.ndarray], np.ndarray], found: np.ndarray, low: float, high: float
) -> tuple[float, float]:
    """The member of a one-parameter family (on a log scale) nearest to what was found: (distance, parameter)."""
    grid = np.exp(np.linspace(np.log(low), np.log(high), 240))
    for _ in range(4):
        errors = 0.5 * np.abs(np.exp(family(grid)) - np.exp(found)).sum(-1).max(-1)
        i = int(np.argmin(errors))
        best = float(errors[i]), float(grid[i])
        grid = np.exp(np.linspace(np.log(grid[max(i - 1, 0)]), np.log(grid[min(i + 1, len(grid) - 1)]), 240))
    return best


def distances(found: np.ndarray, case: Instances, preference: np.ndarray) -> dict[str, tuple[float, float | None]]:
    """Name of a known target -> (largest total variation, the fitted temperature or number), one for all instances."""
    weight, log_ratio = np.exp(found), found - case.ref_logp
    ref = np.exp(case.ref_logp)
    table: dict[str, tuple[float, float | None]] = {"reference": (_tv(found, case.ref_logp), None)}
    scores = {
        "gibbs": case.reward,
        "ipo": np.einsum("nij,nj->ni", preference, ref),
        "nash": np.einsum("nij,nj->ni", preference, weight),
    }
    for name, score in scores.items():
        c = _slope(weight, score, log_ratio)
        if c > 0:
            table[name] = (_tv(found, _normalise(case.ref_logp + c * score)), 1 / c)
    table["forward_kl"] = _search(
        lambda betas: np.asarray(_forward_optima(case.ref_logp, case.reward, jnp.asarray(betas))), found, 1e-3, 1e3
    )
    table["best_of_n"] = _search(
        lambda ns: np.stack([_normalise(best_of(case.ref_logp, case.reward, n)) for n in ns]), found, 1.0, 256.0
    )
    # What likelihood training on chosen responses reaches: the law of the chosen one.
    table["conditional_law"] = (_tv(found, _normalise(case.ref_logp + np.log(scores["ipo"]))), None)
    return table


def destination(subject: Subject) -> tuple[str, dict[str, Any]]:
    """The name of the limit reached from Bradley-Terry labels, and the distances to every known one."""
    if subject.kind == "token":
        return "does not apply", {}
    for scale in (1.5, 0.5, 0.15):
        case = instances(scale)
        if subject.kind == "token_group":
            case = dataclasses.replace(case)
        problem = _problem(subject, case.ref_logp, case.reward, case.preference)
        reached = descend(subject, problem, case.ref_logp)
        # Policies that sit on one response look alike whatever the target: try gentler rewards first.
        if reached.finite and np.exp(reached.logp).max(-1).mean() < 0.93:
            break
    if not reached.finite:
        further = descend(subject, problem, case.ref_logp, num_steps=6_000)
        spread = lambda r: float(np.ptp(r.logp - case.ref_logp, axis=-1).max())
        if not further.finite:
            grows = spread(further) > 1.05 * spread(reached) + 0.05
            best = float(np.mean(further.logp.argmax(-1) == case.reward.argmax(-1)))
            seen = {"spread_of_log_ratio": [spread(reached), spread(further)], "picks_the_best": best}
            return ("unbounded" if grows else "unknown"), seen
        reached = further
    table = distances(reached.logp, case, case.preference)
    note: dict[str, Any] = {
        "reward_scale": scale,
        "distances": {name: round(far, 6) for name, (far, _) in sorted(table.items(), key=lambda item: item[1][0])},
        "temperatures": {name: number for name, (_, number) in table.items() if number is not None},
    }
    if subject.method is not None and subject.method.has_optimum:
        note["stated_optimum"] = _stated(subject, problem, reached.logp)
    near = [name for name, (far, _) in table.items() if far <= MATCH]
    if "reference" in near:
        return "reference", note
    if not near:
        known = note.get("stated_optimum")
        return ("stated_optimum" if known is not None and known <= MATCH else "unknown"), note
    target = min(near, key=lambda name: table[name][0])
    note["temperature"] = table[target][1]
    note["also"] = [name for name in near if name != target]
    return target, note


def _stated(subject: Subject, problem: Problem, logp: np.ndarray) -> float | None:
    method = subject.method
    assert method is not None
    size = {"group_size": 3 if subject.kind == "group" else 2} if method.num_responses is None else {}
    try:
        return _tv(logp, np.asarray(method.optimum(problem, **subject.hyper, **size)))
    except ValueError:
        return None


def on_cycles(subject: Subject) -> dict[str, Any]:
    """What a pair loss picks where the preferences are a cycle: the nearest known target, and the policy."""
    if subject.kind != "pair":
        return {}
    rng = np.random.default_rng(1)
    margins = rng.uniform(0.15, 0.45, (NUM_INSTANCES, 3))
    skew = np.zeros((NUM_INSTANCES, 4, 4))
    for edge, (i, j) in enumerate(((0, 1), (1, 2), (2, 0))):
        skew[:, i, j], skew[:, j, i] = margins[:, edge], -margins[:, edge]
    skew[:, :3, 3], skew[:, 3, :3] = 0.3, -0.3
    case = instances(0.0)
    reached = descend(subject, _problem(subject, case.ref_logp, case.reward, 0.5 + skew), case.ref_logp)
    table = distances(reached.logp, case, 0.5 + skew)
    fair = {name: far for name, (far, _) in table.items() if name in ("ipo", "nash", "reference", "conditional_law")}
    return {
        "finite": reached.finite,
        "nearest": min(fair, key=lambda name: fair[name]),
        "distances": {name: round(far, 6) for name, far in fair.items()},
        "policy_of_the_first": np.exp(reached.logp[0]).round(4).tolist(),
    }


def finite_on_separable(subject: Subject) -> Property:
    """Certain, transitive preferences: is there a stationary point?"""
    if subject.kind not in ("pair", "point"):
        return Property("does not apply", None, None, "it reads no comparisons or labels")
    case = instances(1.0)
    order = np.sign(case.reward[:, :, None] - case.reward[:, None, :])
    reward = 60.0 * np.sign(case.reward) if subject.kind == "point" else case.reward
    problem = _problem(subject, case.ref_logp, reward, 0.5 + 0.5 * order)
    reached = descend(subject, problem, case.ref_logp)
    if reached.finite:
        return Property("holds", None, None, "certain preferences have a finite stationary point")
    spread = float(np.ptp(reached.logp - case.ref_logp, axis=-1).max())
    example = {
        "preference": "certain, by the order of the rewards",
        "reward": case.reward[0],
        "log_ratio_spread": spread,
    }
    return Property("fails", None, example, "no stationary point: log-ratios grow for as long as one trains")


def unbiased_gradient(subject: Subject) -> Property:
    """The expected gradient against -(grad E[r] - beta grad KL(policy || reference)), one beta >= 0 for all
    instances.
    """
    if subject.kind not in ("group", "token_group"):
        return Property("does not apply", None, None, "it is not a policy gradient")
    case = instances(1.0)
    given = _problem(subject, case.ref_logp, case.reward, case.preference)
    gradient = np.asarray(_field(subject)(jnp.asarray(case.start), given))
    p = np.exp(_normalise(case.start))
    h = np.log(p) - case.ref_logp
    value = lambda x: p * (x - (p * x).sum(-1, keepdims=True))
    score = case.reward
    if subject.method is not None and "win_rate" in subject.method.reads:
        score = _win_rates(subject, given, np.log(p))
    columns = np.stack([-value(score).ravel(), value(h).ravel()], -1)
    (scale, weighted), *_ = np.linalg.lstsq(columns, gradient.ravel(), rcond=None)
    left = np.abs(gradient.ravel() - columns @ np.asarray([scale, weighted])).max() / np.abs(gradient).max()
    if left < 1e-6 and scale > 0 and weighted >= -1e-9 * scale:
        beta = max(float(weighted / scale), 0.0)
        return Property("holds", round(beta, 9), None, f"{scale:.4g} times the gradient at beta = {beta:.4g}")
    example = {"reward": case.reward[0], "policy": p[0], "reference": np.exp(case.ref_logp[0]), "gradient": gradient[0]}
    return Property("fails", None, plain(example), f"parallel for no beta: {100 * left:.1f}% of it is left over")


def _win_rates(subject: Subject, problem: Problem, logp: np.ndarray) -> np.ndarray:
    method = subject.method
    assert method is not None and method.opponent is not None
    rival = method.opponent(problem, jnp.asarray(logp), **method.own(method.opponent, subject.hyper))
    return np.einsum("nij,nj->ni", np.asarray(problem.preferences()), np.exp(np.asarray(rival)))


def kl_direction(subject: Subject) -> tuple[str, Property]:
    """The gradient that is left where rewards are all equal, against that of each KL."""
    if subject.kind in ("pair", "point"):
        return "does not apply", Property("does not apply", None, None, "the reference enters through the margin")
    case = instances(1.0)
    flat = np.zeros_like(case.reward)
    problem = _problem(subject, case.ref_logp, flat, np.full((NUM_INSTANCES, NUM_RESPONSES, NUM_RESPONSES), 0.5))
    gradient = np.asarray(_field(subject)(jnp.asarray(case.start), problem))
    p, q = np.exp(_normalise(case.start)), np.exp(case.ref_logp)
    h = np.log(p) - case.ref_logp
    known = {"reverse": p * (h - (p * h).sum(-1, keepdims=True)), "forward": p - q}
    if subject.kind in ("token", "token_group"):
        for name, forward in (("token_partial", False), ("token_partial_forward", True)):
            known[name] = np.asarray(_myopic(jnp.asarray(case.start), jnp.asarray(case.ref_logp), forward=forward))
    size = np.abs(gradient).max()
    reads = _reads_reference(subject)
    # Relative to the KL's own gradient, so that a loss which casts to float32 inside counts by its rounding.
    if size < 2e-6 * np.abs(known["reverse"]).max():
        if not reads:
            return "none", Property("does not apply", "none", None, "it does not read the reference")
        why = "the reference is read, and the expected gradient does not contain it"
        return "none", Property("fails", "none", None, why)
    for name, direction in known.items():
        c = (gradient * direction).sum() / (direction * direction).sum()
        if c > 0 and np.abs(gradient - c * direction).max() < 1e-5 * size:
            names = {
                "reverse": "KL(policy || reference)",
                "forward": "KL(reference || policy), the forward one",
                "token_partial": "each token's own KL, without its effect on later ones",
                "token_partial_forward": "each token's own forward KL, without its effect on later ones",
            }
            short = name.removesuffix("_forward")
            holds: Verdict = "holds" if name == "reverse" else "fails"
            return short, Property(holds, short, None, f"{c:.4g} times that of {names[name]}")
    example = plain({"policy": p[0], "reference": q[0], "gradient": gradient[0]})
    return "other", Property("fails", "other", example, "the gradient is that of no KL")


@functools.partial(jax.jit, static_argnames=("forward",))
def _myopic(logits: Array, ref_logp: Array, *, forward: bool) -> Array:
    """Gradient of sum over the policy's prefixes of each conditional KL, the prefixes held fixed."""
    weight = jax.lax.stop_gradient(jnp.exp(log_softmax(logits)))
    reference = TREE.token_logp(TREE.conditionals(ref_logp))

    def total(x: Array) -> Array:
        tokens = TREE.token_logp(TREE.conditionals(log_softmax(x)))
        each = (
            kl_estimators.k3(tokens, reference).sum(-1)
            if forward
            else kl_estimators.kl_tokens_myopic(tokens, reference)
        )
        return (weight * each).sum()

    return jax.grad(total)(logits)


def _reads_reference(subject: Subject) -> bool:
    """Whether the value or the gradient moves with the reference."""
    strategy = strategies.batches(subject.kind, lowest=-8.0)
    name = "ref_token_logp" if "token" in subject.kind else "ref_logp"

    def moves(batch: dict[str, Any]) -> bool:
        other = {**batch, name: batch[name] - 1.0}
        before, after = subject.value_and_grad(batch), subject.value_and_grad(other)
        return any(np.abs(x - y).max() > 1e-5 for x, y in zip(before, after, strict=True))

    return smallest(strategy, moves, examples=20) is not None


def chosen_rises(subject: Subject) -> Property:
    """One small step on a pair, three responses that share two features: does the chosen one become likelier?"""
    if subject.kind != "pair":
        return Property("does not apply", None, None, "there is no chosen response")

    def rise(features: np.ndarray) -> float:
        start = np.zeros((1, 2)) - np.log(3.0)
        _, gradient = subject.value_and_grad({"logp": start, "ref_logp": start})
        directions = features - features.mean(0)  # grad log pi_i at the uniform policy
        step = gradient[0] @ directions[:2]
        return -float(directions[0] @ step)

    size = float(np.abs(subject.value_and_grad({"logp": np.zeros((1, 2)), "ref_logp": np.zeros((1, 2))})[1]).max())
    if size < 1e-9:
        return Property("not shown", None, None, "the gradient is 0 where policy and reference agree")
    found = smallest(strategies.arrays((3, 2), -2.0, 2.0), lambda x: rise(x) < -1e-4 * size, examples=400)
    if found is None:
        return Property("holds")
    example = {"features": found, "rate_of_log_prob_of_the_chosen": rise(found) / size}
    why = "the chosen response's probability falls (likelihood displacement)"
    return Property("fails", None, plain(example), why)


def check_field(subject: Subject) -> None:
    """The exact population gradient can be compiled and is finite at the reference; AuditError if not."""
    case = instances(1.0)
    problem = _problem(subject, case.ref_logp, case.reward, case.preference)
    try:
        _field(subject)(jnp.asarray(case.ref_logp), problem)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise AuditError(
            f"{subject.name} cannot be mapped over responses by jax.vmap: {type(error).__name__}: {first}"
        ) from error
