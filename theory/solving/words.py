"""The report as a table for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def brief(names: Sequence[str], most: int = 8) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def number(value: float) -> str:
    """Three significant digits; what is below rounding is 0."""
    return "0" if abs(value) < 1e-300 else f"{value:.3g}"


def _share(value: float) -> str:
    return "." if value < 5e-7 else f"{value:.4f}"


def ordered(report: Mapping[str, Any]) -> list[str]:
    """Names by their mass in the limit, then by Borda's score."""
    limit, borda = report["limit"]["policy"], report["borda"]["scores"]
    return sorted(report["names"], key=lambda name: (-round(limit[name], 9), -round(borda[name], 9)))


def _columns(report: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    columns = {}
    if not report["reference"]["uniform"]:
        columns["ref"] = report["reference"]["policy"]
    for row in report["regularised"]:
        columns[f"tau={row['tau']:g}"] = row["policy"]
    columns["tau->0"] = report["limit"]["policy"]
    columns["von Neumann"] = report["von_neumann_winner"]["policy"]
    for i, given in enumerate(report["policies"], 1):
        columns["policy" if len(report["policies"]) == 1 else f"policy {i}"] = given["probabilities"]
    return columns


def _actions(report: Mapping[str, Any], top: int) -> list[str]:
    columns = _columns(report)
    shown = ordered(report)[:top]
    width = min(40, max(6, *(len(name) for name in shown)))
    borda, copeland = report["borda"]["scores"], report["copeland"]["scores"]
    lines = [f"{'action':<{width}}  Borda  Copeland  " + "  ".join(f"{head:>9}" for head in columns)]
    for name in shown:
        cells = "  ".join(f"{_share(policy[name]):>{max(9, len(head))}}" for head, policy in columns.items())
        lines.append(f"{name[:width]:<{width}}  {borda[name]:.3f}  {copeland[name]:>8g}  {cells}")
    left = report["num_actions"] - len(shown)
    if left > 0:
        rest = [sum(policy.values()) - sum(policy[name] for name in shown) for policy in columns.values()]
        cells = "  ".join(f"{_share(max(0.0, r)):>{max(9, len(head))}}" for head, r in zip(columns, rest, strict=True))
        lines.append(f"{f'{left} more':<{width}}  {'':>5}  {'':>8}  {cells}")
    return lines


def _winners(report: Mapping[str, Any]) -> list[str]:
    borda, copeland, winner = report["borda"], report["copeland"], report["von_neumann_winner"]
    cycles, smith = report["cycles"], report["smith_set"]
    best = ordered(report)
    mix = [f"{name} {winner['policy'][name]:.4f}" for name in best if winner["policy"][name] > 1e-6]
    lines = [
        f"Borda               {brief(borda['winners'])} ({borda['scores'][borda['winners'][0]]:.4f} mean win rate)",
        f"Copeland            {brief(copeland['winners'])} ({copeland['scores'][copeland['winners'][0]]:g} of "
        f"{report['num_actions'] - 1})",
        f"Condorcet winner    {report['condorcet_winner'] or 'none'}",
        f"von Neumann winner  {brief(mix, 6)}; gap {number(winner['original_gap'])}, by {winner['by']}",
        f"Smith set           {len(smith)} of {report['num_actions']}"
        + ("" if len(smith) == report["num_actions"] else f": {brief(smith)}"),
    ]
    if cycles["acyclic"]:
        lines.append("cycles              none: the majority has no cycle")
    else:
        ring = " > ".join([*cycles["example"], cycles["example"][0]])
        rates = ", ".join(f"{rate:.3f}" for rate in cycles["win_rates"])
        count = cycles["three_cycles"]
        which = (
            f"{count:,} of length 3, the widest" if count > 1 else "1 of length 3:" if count else "none of length 3;"
        )
        lines.append(f"cycles              {which} {ring} (win rates {rates})")
    return lines


def _certificates(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{'tau':>8}  {'gap':>8}  {'residual':>8}  {'original gap':>12}  {'entropy':>7}  {'KL to ref':>9}  to tau->0"
    ]
    for row in report["regularised"]:
        lines.append(
            f"{row['tau']:>8g}  {number(row['duality_gap']):>8}  {number(row['residual']):>8}  "
            f"{number(row['original_gap']):>12}  {row['entropy']:>7.4f}  {row['kl_to_reference']:>9.4f}  "
            f"{number(row['distance_to_limit'])}{'' if row['certified'] else '  NOT certified'}"
        )
    return lines


def _limit(report: Mapping[str, Any]) -> list[str]:
    limit = report["limit"]
    size, plays = report["num_actions"], limit["support"]
    support = f"support {len(plays)} of {size}: {brief(plays)}"
    if limit["unique"]:
        picked = "the original game has one equilibrium, and this is it"
    else:
        picked = (
            f"the original game has several equilibria (a polytope of dimension {limit['dimension']}); picked is the "
            f"one of {limit['rule'].replace(' of all equilibria', '')}"
        )
    lines = [
        f"picked    {picked}",
        f"          entropy {limit['entropy']:.4f} nats, KL to the reference {limit['kl_to_reference']:.4f}, {support}",
        f"          gap {number(limit['original_gap'])}{'' if limit['certified'] else ', NOT certified'}",
    ]
    followed = limit["followed_to"]
    if followed:
        lines.append(
            f"followed  to tau = {followed['tau']:g}, the smallest that was certified (gap "
            f"{number(followed['duality_gap'])}): {number(followed['distance'])} from it in total variation"
        )
    if limit["lp_vertex_differs"] is None:
        lines.append("LP        not solved at this size (--lp solves it)")
    elif limit["lp_vertex_differs"]:
        lines.append(
            f"LP        its vertex is another equilibrium: {number(limit['distance_to_lp_vertex'])} away in total "
            f"variation, entropy {report['von_neumann_winner']['entropy']:.4f}"
        )
    else:
        lines.append("LP        its vertex is the same equilibrium")
    return lines


def _given(given: Mapping[str, Any]) -> list[str]:
    gaps = ", ".join(f"{number(row['duality_gap'])} at tau={row['tau']:g}" for row in given["regularised"])
    if any(np.isinf(row["duality_gap"]) for row in given["regularised"]):
        gaps += " (it plays what the reference does not)"
    return [
        f"original gap {number(given['original_gap'])}: {given['best_reply']} beats it with probability "
        f"{given['win_rate_of_best_reply']:.4f}",
        f"regularised gap {gaps}",
        f"entropy {given['entropy']:.4f} nats, KL to the reference {given['kl_to_reference']:.4f}",
    ]


def text(title: str, report: Mapping[str, Any], top: int) -> str:
    """The whole report."""
    parts = [
        [f"{title}: {report['num_actions']} actions", *(f"  {note}" for note in report["notes"])],
        _actions(report, top),
        ["winners", *(f"  {line}" for line in _winners(report))],
        [
            "regularised equilibria, and what certifies them (the gap, in win probability)",
            *(f"  {line}" for line in _certificates(report)),
        ],
        ["tau -> 0", *(f"  {line}" for line in _limit(report))],
    ]
    for given in report["policies"]:
        parts.append([f"policy {given['policy']}", *(f"  {line}" for line in _given(given))])
    return "\n\n".join("\n".join(part) for part in parts) + f"\n\n{report['seconds']:.1f} s"
