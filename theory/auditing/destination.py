"""Where a loss goes: the point reached by descending the gradient that autodiff returns, on exact small populations."""

import dataclasses
from typing import Any

import numpy as np

from alignjax.problem import Problem
from theory.auditing.population import NUM_INSTANCES, descend, instances, population_problem
from theory.auditing.report import Property
from theory.auditing.subject import Subject
from theory.auditing.targets import distances, total_variation

MATCH = 1e-3  # total variation, on every instance


def destination(subject: Subject) -> tuple[str, dict[str, Any]]:
    """The name of the limit reached from Bradley-Terry labels, and the distances to every known one."""
    if subject.kind == "token":
        return "does not apply", {}
    for scale in (1.5, 0.5, 0.15):
        case = instances(scale)
        if subject.kind == "token_group":
            case = dataclasses.replace(case)
        problem = population_problem(subject, case.ref_logp, case.reward, case.preference)
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
        return total_variation(logp, np.asarray(method.optimum(problem, **subject.hyper, **size)))
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
    reached = descend(subject, population_problem(subject, case.ref_logp, case.reward, 0.5 + skew), case.ref_logp)
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
    problem = population_problem(subject, case.ref_logp, reward, 0.5 + 0.5 * order)
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
