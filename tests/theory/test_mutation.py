"""`python -m theory mutants`: the operators, the judges, the witness and the command."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from alignjax.equations import square
from theory.mutation import command, draws, judge, score, targets, witness
from theory.mutation.operators import Mutant, mutants_of
from theory.mutation.page import page
from theory.mutation.world import world

SOURCE = '''
def f(logp, ref_logp, mask, count):
    """A docstring with 1 - x in it."""
    checks.positive("count", count)
    if count < 0:
        raise ValueError("1 - 2")
    h = log_ratio(logp, ref_logp)
    weight = sg(h) * jnp.where(mask, 1.0, 0.0)
    return masked_mean(weight - h[..., 0], mask) / (count - 1) + h.sum(-1)
'''


def changed(operator: str) -> set[tuple[str, str]]:
    return {(m.before, m.after) for m in mutants_of(SOURCE, "m", "f") if m.operator == operator}


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("stop-gradient dropped", "sg(h)", "h"),
        ("stop-gradient added", "logp", "sg(logp)"),
        ("sign", "weight - h[..., 0]", "weight + h[..., 0]"),
        ("swapped arguments", "log_ratio(logp, ref_logp)", "log_ratio(ref_logp, logp)"),
        ("swapped arguments", "jnp.where(mask, 1.0, 0.0)", "jnp.where(mask, 0.0, 1.0)"),
        ("wrong base", "log_ratio(logp, ref_logp)", "log_ratio(logp, logp)"),
        ("sum to mean", "masked_mean(weight - h[..., 0], mask)", "masked_sum(weight - h[..., 0], mask)"),
        ("sum to mean", "h.sum(-1)", "h.mean(-1)"),
        ("off by one", "count - 1", "count"),
        ("off by one", "0", "1"),
        ("changed constant", "1.0", "2.0"),
    ],
)
def test_an_operator_does_what_it_says(operator: str, before: str, after: str) -> None:
    assert (before, after) in changed(operator)


def test_the_returned_value_is_negated_doubled_and_detached() -> None:
    whole = ast.unparse(ast.parse(SOURCE).body[0].body[-1].value)  # type: ignore[attr-defined]
    assert (whole, f"-({whole})") in changed("sign")
    assert (whole, f"2 * ({whole})") in changed("factor 2")
    assert (whole, f"sg({whole})") in changed("stop-gradient added")


def test_checks_messages_axes_and_docstrings_are_left_alone() -> None:
    for mutant in mutants_of(SOURCE, "m", "f"):
        assert "checks.positive('count', count)" in mutant.text
        assert "if count < 0:\n        raise ValueError('1 - 2')" in mutant.text
        assert "1 - x in it" in mutant.text
        assert ".sum(1)" not in mutant.text


def test_a_number_on_the_host_has_no_gradient_to_stop() -> None:
    source = "def f(x) -> float:\n    return float(x.sum() - 1)"
    assert {m.operator for m in mutants_of(source, "m", "f")} == {"sign", "factor 2", "sum to mean", "off by one",
                                                                  "changed constant"}  # fmt: skip


def test_mutants_are_distinct_and_one_change_away() -> None:
    found = mutants_of(SOURCE, "m", "f")
    assert len({m.text for m in found}) == len(found) > 15
    assert ast.unparse(ast.parse(SOURCE).body[0]) not in {m.text for m in found}


def test_every_objective_is_covered() -> None:
    known = set(targets.equations().values())
    for method in alignjax.methods.values():
        assert (method.loss.__module__, method.loss.__name__) in known


def of(equation: str, choose: Callable[[Mutant], bool] = lambda mutant: True) -> list[Mutant]:
    return [mutant for mutant in targets.mutants([equation]) if choose(mutant)]


def test_a_mutant_lives_in_its_own_world_only() -> None:
    (mutant,) = of("equations.square", lambda m: m.operator == "factor 2")
    source, filename = targets.source_of(mutant.module)
    before = dict(sys.modules)
    with world(mutant.module, mutant.compile(source, filename)):
        from alignjax.equations import square as doubled

        assert doubled is not square
        assert float(doubled(jnp.asarray(3.0), target=1.0)) == 8.0
    from alignjax.equations import square as again

    assert again is square
    assert float(square(jnp.asarray(3.0), target=1.0)) == 4.0
    assert {n: m for n, m in sys.modules.items() if n.startswith(("alignjax", "theory"))} == {
        n: m for n, m in before.items() if n.startswith(("alignjax", "theory"))
    }


@pytest.mark.slow
def test_a_weak_battery_lets_a_mutant_survive_and_a_statement_kills_it() -> None:
    (mutant,) = of("equations.residual", lambda m: m.operator == "factor 2")
    assert judge.judge(mutant, rows=()).status == "survived"
    pieces = [item for item in judge.battery() if item.statement.id == "rl/P9"]
    found = judge.judge(mutant, rows=pieces)
    assert (found.status, found.by) == ("killed", "rl/P9")


def test_an_equivalent_mutant_has_a_witness_and_another_one_has_none() -> None:
    (different,) = of("equations.group_mean", lambda m: m.operator == "factor 2")
    assert judge.judge(different, rows=()).status == "survived"
    (same,) = of("equations.group_mean", lambda m: m.operator == "stop-gradient added")
    found = judge.judge(same, rows=())
    assert (found.status, found.by) == ("equivalent", "witness: 1,000 instances")


@pytest.mark.slow
def test_a_mutant_that_raises_is_killed() -> None:
    (mutant,) = of("equations.residual", lambda m: m.operator == "factor 2")
    broken = Mutant(**{**vars(mutant), "text": mutant.text.replace("score + value", "score.nothing + value")})
    pieces = [item for item in judge.battery() if item.statement.id == "rl/P9"]
    assert judge.judge(broken, rows=pieces).by == "rl/P9 (AttributeError)"


def test_scores() -> None:
    assert score.Score(19, 7, 1).value == 0.95
    assert score.Score(19, 7, 1).passed
    assert not score.Score(18, 7, 1).passed
    assert score.Score(0, 3, 0).value == 1.0
    mutants = of("equations.square")
    assert score.sample(mutants, 2, 0) == score.sample(mutants, 2, 0)
    assert len(score.sample(mutants, 2, 0)) == 2


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*given, "--workers", "1"])


def test_the_command_suggests_the_nearest_equation(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments("leave_one_ot")) == 2
    assert "did you mean 'leave_one_out'?" in capsys.readouterr().err


def test_the_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments("equations.square", "--list")) == 0
    out = capsys.readouterr().out
    assert "equations.square:" in out
    assert f"{len(of('equations.square'))} mutants of 1 equations" in out


def test_the_page_counts_and_names() -> None:
    killed, same, alive = of("equations.square")[:3]
    verdicts = [
        judge.Verdict(killed, "killed", "x"),
        judge.Verdict(same, "equivalent"),
        judge.Verdict(alive, "survived"),
    ]
    text = page(verdicts, "No time at all.")
    assert "3 mutants: 1 killed, 1 equivalent, 1 survived; score 50.0 %. No time at all." in text
    assert "| `equations.square` | 3 | 1 | 1 | 1 | 50.0 % |" in text
    survivors, equivalent = text.partition("## Survivors")[2].split("## Equivalent")
    assert survivors.split() != equivalent.split() and survivors.count("\n- ") == equivalent.count("\n- ") == 1


def test_the_page_is_of_all_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments("equations.square", "--docs")) == 2
    assert "--docs takes all equations" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [("killed", 0), ("survived", 1)])
def test_the_exit_code_is_the_score(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(score, "judge", lambda mutant: judge.Verdict(mutant, status, "planted"))
    monkeypatch.setattr(command, "_use_cache", dict)
    assert command.run(arguments("equations.square", "--json")) == code
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["passed"] is (code == 0)
    assert report["equations"]["equations.square"]["mutants"] == report["mutants"] == len(of("equations.square"))
    assert captured.err == ""
    assert command.run(arguments("equations.square")) == code
    assert ("survived: equations.square" in capsys.readouterr().out) is (code == 1)


def test_the_witness_can_draw_the_arguments_of_equations() -> None:
    unknown = set()
    for name, (module, function) in targets.equations().items():
        if not function.rpartition(".")[2].startswith("_"):
            found = witness.find(module, function)
            names = set(inspect.signature(inspect.unwrap(found)).parameters) - {"group_size"}
            unknown |= {f"{name}: {one}" for one in names - set(draws.by_name(module, found)) - set(witness._OPTIONS)}
    assert unknown == {
        "constrained.implicit: root",  # of its function
        "equations.kept: arrays",  # any number of them
        "extragradient.extragradient: inner",  # an optimiser
        "games.original_solvers.comal: inner_steps",  # a loop of no fixed length, which does not differentiate
        "games.solvers.step: hyperparameters",
        "multiobjective.fronts.hypervolume: reference_point",  # on the host
    }


def test_every_statement_has_a_name_of_its_own() -> None:
    # A world finds a statement by its name: of two it would judge by the first one twice.
    names = [item.statement.id for item in judge.battery()]
    assert len(set(names)) == len(names) > 100


@pytest.mark.long
def test_several_processes_judge_as_one_does_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "CHUNKS_OF_A_PROCESS", 1)  # so that processes are renewed
    names = targets.equations()
    few = [m for name in ("equations.square", "logspace.log_ratio", "kl_estimators.k1")
           for m in targets.mutants({name: names[name]})[:3]]  # fmt: skip
    seen: list[int] = []
    alone = [(v.mutant.diff, v.status) for v in score.run(few, workers=1)]
    together = score.run(few, workers=2, progress=lambda done, name: seen.append(done))
    assert [(v.mutant.diff, v.status) for v in together] == alone
    assert seen == [0, 3, 6] and {status for _, status in alone} >= {"killed"}


@pytest.mark.slow
def test_states_boards_and_options_reach_the_witness() -> None:
    module, function = targets.equations()["games.regularised_solvers.nash_ema"]
    (case,) = witness.cases(module, witness.find(module, function))
    assert type(case.arrays["state"]).__name__ == "EmaState"
    values = witness.responses(witness.find(module, function), case)
    assert values[0].shape == (witness.INSTANCES, 5) and np.isfinite(values[0]).mean() > 0.5
    module, function = targets.equations()["objectives.p3o.p3o"]
    seen = {(case.static["clip"], case.static["kl"]) for case in witness.cases(module, witness.find(module, function))}
    assert len(seen) == 6


@pytest.mark.long
def test_a_sample_of_all_mutants_is_killed() -> None:
    everything = targets.mutants(targets.equations())
    verdicts = list(score.run(score.sample(everything, 60, seed=1), workers=1))
    survivors = [v.mutant.diff for v in verdicts if v.status == "survived"]
    assert score.score(verdicts).value >= score.PASS, survivors


@pytest.mark.long
def test_the_battery_holds_on_the_library_itself() -> None:
    rows = [item for item in judge.battery() if item.statement.id.startswith("method/")]
    assert len(rows) > 30
    assert judge.broken(rows) == []
    assert not jax.config.jax_enable_x64  # type: ignore[attr-defined]
