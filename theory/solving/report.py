"""The solution of a table: equilibria with their certificates, winners by every rule, cycles, gaps of policies."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import games
from theory.solving.reading import Table

CERTIFIED = 1e-9
"""A gap (in win probability) at most this large certifies an answer."""
SAME = 1e-6
"""Policies nearer than this in total variation are the same."""
LP_UP_TO = 1_000
"""Actions up to which the linear program is solved without being asked for: it takes minutes at 2,000."""
FOLLOWED = (1e-3, 1e-4, 1e-5, 1e-6)
FOLLOWED_UP_TO = 100
"""Below the smallest tau asked for the path is followed on these, in games of so many actions."""


def entropy(policy: np.ndarray) -> float:
    """-sum p log p, nats."""
    mass = policy[policy > 0]
    return max(0.0, -float(mass @ np.log(mass)))


def divergence(policy: np.ndarray, reference: np.ndarray) -> float:
    """KL(policy || reference), nats; infinite where the reference has no mass and the policy some."""
    with np.errstate(divide="ignore"):
        mass = policy > 0
        return float(policy[mass] @ (np.log(policy[mass]) - np.log(reference[mass])))


def variation(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation."""
    return 0.5 * float(np.abs(one - other).sum())


def gap(preference: np.ndarray, policy: np.ndarray, allowed: np.ndarray | None = None) -> float:
    """2 (max_y P(y > policy) - 1/2) over all responses y, or those allowed: the original game's duality gap."""
    advantage = (preference - 0.5) @ policy
    return 2 * float((advantage if allowed is None else advantage[allowed]).max())


def _where(names: Sequence[str], mask: np.ndarray) -> list[str]:
    return [name for name, chosen in zip(names, mask, strict=True) if chosen]


def _support(names: Sequence[str], policy: np.ndarray) -> list[str]:
    """What a policy plays, most played first."""
    played = [(-round(float(value), 12), i) for i, value in enumerate(policy) if value > SAME]
    return [names[i] for _, i in sorted(played)]


def solve(
    table: Table,
    taus: Sequence[float],
    *,
    reference: np.ndarray | None = None,
    policies: Sequence[tuple[str, np.ndarray]] = (),
    lp: bool | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything there is to say of a table, ready for JSON. Runs in float64."""
    start = time.perf_counter()
    with jax.enable_x64(True):
        report = _solve(table, sorted(taus, reverse=True), reference, policies, lp, progress)
    return {**report, "seconds": round(time.perf_counter() - start, 2)}


def _solve(table: Table, taus: Any, reference: Any, policies: Any, lp: Any, progress: Any) -> dict[str, Any]:
    preference, names = table.preference, table.names
    size = len(names)
    uniform = reference is None or bool((reference == reference[0]).all())
    reference = np.full(size, 1 / size) if reference is None else reference
    with np.errstate(divide="ignore"):
        ref_logp = np.log(reference)
    allowed = reference > 0
    named = lambda values: {name: float(value) for name, value in zip(names, values, strict=True)}

    def at(tau: float) -> tuple[dict[str, Any], np.ndarray]:
        progress(f"tau = {tau:g}")
        game = games.PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=tau)
        logp = np.asarray(games.nash(game))
        response = np.asarray(games.best_response(game, logp))
        policy = np.exp(logp)
        found = float(games.duality_gap(game, logp))
        row = {
            "tau": tau,
            "duality_gap": found,
            "certified": found <= CERTIFIED,
            "residual": float(np.abs(logp[allowed] - response[allowed]).max()),
            "original_gap": gap(preference, policy, allowed),
            "entropy": entropy(policy),
            "kl_to_reference": divergence(policy, reference),
            "policy": named(policy),
        }
        return row, policy

    progress("equilibria")
    original = games.equilibria(preference, ref_logp)
    limit = original.nearest
    rows, paths = [], []
    for tau in taus:
        row, policy = at(tau)
        rows.append({**row, "distance_to_limit": variation(policy, limit)})
        paths.append((tau, row, policy))
    for tau in FOLLOWED if size <= FOLLOWED_UP_TO else ():
        if tau < taus[-1]:
            paths.append((tau, *at(tau)))
    sure = [(tau, row, policy) for tau, row, policy in paths if row["certified"]]

    progress("linear program")
    solved = size <= LP_UP_TO if lp is None else lp
    vertex = games.von_neumann_winner(preference) if solved else None
    # Without the program the winner is the limit's of the whole game.
    winner = vertex if vertex is not None else limit if allowed.all() else games.equilibria(preference).nearest
    limit_gap = gap(preference, limit, allowed)
    found_limit = {
        "policy": named(limit),
        "rule": (
            "most entropy of all equilibria"
            if uniform and allowed.all()
            else "least KL(. || reference) of all equilibria over the reference's support"
        ),
        "original_gap": limit_gap,
        "certified": limit_gap <= CERTIFIED,
        "entropy": entropy(limit),
        "kl_to_reference": divergence(limit, reference),
        "support": _support(names, limit),
        "played_by_some_equilibrium": _where(names, original.support),
        "dimension": original.dimension,
        "unique": original.dimension == 0,
        "followed_to": None
        if not sure
        else {
            "tau": sure[-1][0],
            "duality_gap": sure[-1][1]["duality_gap"],
            "original_gap": sure[-1][1]["original_gap"],
            "distance": variation(sure[-1][2], limit),
            "kl_to_reference": sure[-1][1]["kl_to_reference"],
        },
        "lp_vertex_differs": None if vertex is None else variation(vertex, limit) > SAME,
        "distance_to_lp_vertex": None if vertex is None else variation(vertex, limit),
    }
    winner_gap = gap(preference, winner)
    found_winner = {
        "policy": named(winner),
        "by": "linear program" if vertex is not None else "interior point (see --lp)",
        "original_gap": winner_gap,
        "certified": winner_gap <= CERTIFIED,
        "entropy": entropy(winner),
        "support": _support(names, winner),
    }
    progress("cycles")
    return {
        "names": list(names),
        "num_actions": size,
        "data": table.data,
        "notes": list(table.notes),
        "reference": {"uniform": uniform and bool(allowed.all()), "policy": named(reference)},
        **_choice(preference, names, named),
        "von_neumann_winner": found_winner,
        "regularised": rows,
        "limit": found_limit,
        "policies": [
            _given(label, policy, preference, ref_logp, paths[: len(rows)], limit, names)
            for label, policy in policies
        ],
    }  # fmt: skip


def _choice(preference: np.ndarray, names: Sequence[str], named: Callable[..., Any]) -> dict[str, Any]:
    """Winners by majority and by the mean."""
    borda, copeland = np.asarray(games.borda(preference)), np.asarray(games.copeland(preference))
    best = lambda scores: _where(names, scores >= scores.max() - 1e-12)
    condorcet = int(games.condorcet_winner(preference))
    smith = np.asarray(games.smith_set(preference))
    cycle = games.majority_cycle(preference)
    around = list(zip(cycle, [*cycle[1:], *cycle[:1]], strict=True))
    return {
        "borda": {"winners": best(borda), "scores": named(borda)},
        "copeland": {"winners": best(copeland), "scores": named(copeland)},
        "condorcet_winner": None if condorcet < 0 else names[condorcet],
        "smith_set": _where(names, smith),
        "cycles": {
            "three_cycles": int(games.three_cycles(preference)),
            "example": [names[i] for i in cycle],
            "win_rates": [float(preference[i, j]) for i, j in around],
            "acyclic": not cycle,
        },
    }


def _given(
    label: str,
    policy: np.ndarray,
    preference: np.ndarray,
    ref_logp: np.ndarray,
    rows: Sequence[tuple[float, dict[str, Any], np.ndarray]],
    limit: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """Gaps of a policy; the regularised one is infinite where it plays what the reference does not."""
    covered = bool(np.isfinite(ref_logp[policy > 0]).all())
    advantage = (preference - 0.5) @ policy
    found = []
    for tau, _, equilibrium in rows:
        value = np.inf
        if covered:
            with np.errstate(divide="ignore"):
                logp = np.log(policy)
            game = games.PreferenceGame(preference=jnp.asarray(preference), ref_logp=jnp.asarray(ref_logp), tau=tau)
            value = float(games.duality_gap(game, logp))
        found.append({"tau": tau, "duality_gap": value, "distance_to_equilibrium": variation(policy, equilibrium)})
    return {
        "policy": label,
        "probabilities": {name: float(value) for name, value in zip(names, policy, strict=True)},
        "original_gap": gap(preference, policy),
        "best_reply": names[int(np.argmax(advantage))],
        "win_rate_of_best_reply": 0.5 + float(advantage.max()),
        "win_rate_against_limit": float(policy @ preference @ limit),
        "kl_to_reference": divergence(policy, np.exp(ref_logp)),
        "entropy": entropy(policy),
        "regularised": found,
    }
