"""The runner of statements: verdicts, replay, selection, output, exit codes."""

import json
import types
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import UnknownName
from alignjax.record import Source
from theory import __main__ as command
from theory import check, registry
from theory.record import Statement
from theory.slack import at_most, both, equal, pick

SOURCE = Source("alignjax", 2026, "", "a test")


def two_numbers(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = jax.random.uniform(key, (2,))
    return a, b


def square_of_a_sum(a: jax.Array, b: jax.Array, *, cross: float = 2.0) -> jax.Array:
    return equal((a + b) ** 2, a**2 + cross * a * b + b**2)


def statement(**changes: Any) -> Statement:
    given: dict[str, Any] = {
        "id": "test/A1",
        "says": "the binomial formula",
        "slack": square_of_a_sum,
        "instance": two_numbers,
        "source": SOURCE,
        "mutants": ({"cross": 1.0}, {"cross": -2.0}),
    }
    return Statement(**{**given, **changes})


def verdict(one: Statement, **options: Any) -> check.Result:
    (result,) = check.check([one], count=options.pop("count", 100), **options)
    return result


def test_a_true_statement_with_mutants_that_die_holds() -> None:
    result = verdict(statement())
    assert result.verdict == "holds" and result.passed
    assert 0 < result.smallest_slack <= 1e-9
    assert [mutant.killed for mutant in result.mutants] == [True, True]
    assert result.instances == 100


def test_a_false_statement_is_false() -> None:
    bound = statement(
        slack=lambda a, b, *, less=0.1: at_most(a + b, a + b - less, tolerance=0.0), mutants=({"less": 0.2},)
    )
    result = verdict(bound)
    assert result.verdict == "false" and not result.passed and result.smallest_slack == pytest.approx(-0.1)
    assert verdict(statement(slack=lambda a, b, *, cross=1.9: square_of_a_sum(a, b, cross=cross))).verdict == "false"


def test_not_a_number_is_false() -> None:
    assert verdict(statement(slack=lambda a, b, *, cross=1.0: jnp.log(-a) * cross)).verdict == "false"


def test_a_surviving_mutant_fails_the_statement() -> None:
    result = verdict(statement(mutants=({"cross": 1.0}, {"cross": 2.0})))
    assert result.verdict == "mutant survived" and not result.passed
    assert [mutant.killed for mutant in result.mutants] == [True, False]


def test_a_statement_without_mutants_fails() -> None:
    assert verdict(statement(mutants=())).verdict == "no mutants"


def test_an_exception_is_an_error_and_not_a_crash() -> None:
    def broken(a: jax.Array, b: jax.Array, *, cross: float = 2.0) -> jax.Array:
        raise ZeroDivisionError("nothing by nothing")

    result = verdict(statement(slack=broken))
    assert result.verdict == "error" and "nothing by nothing" in result.error
    unknown = verdict(statement(mutants=({"crass": 1.0},)))
    assert unknown.verdict == "error" and "no keyword 'crass'" in unknown.error


def test_flags_that_are_no_numbers_are_evaluated_one_by_one() -> None:
    def slack(a: jax.Array, b: jax.Array, *, kind: str = "sum") -> jax.Array:
        return equal(a + b, {"sum": b + a, "difference": a - b}[kind])

    result = verdict(statement(slack=slack, mutants=({"kind": "difference"},)))
    assert result.passed


def test_the_host_is_given_one_instance_at_a_time() -> None:
    shapes = []

    def slack(a: np.ndarray, b: np.ndarray, *, cross: float = 2.0) -> jax.Array:
        shapes.append(np.shape(a))
        return square_of_a_sum(jnp.asarray(float(a)), jnp.asarray(float(b)), cross=cross)

    result = verdict(statement(slack=slack, on_host=True, num_instances=7))
    assert result.passed and result.instances == 7
    assert shapes == [()] * 21


def test_float64_inside_and_nothing_left_behind() -> None:
    def slack(a: jax.Array, b: jax.Array, *, sign: float = 1.0) -> jax.Array:
        return sign * (0.5 if a.dtype == jnp.float64 else -1.0) * jnp.ones_like(a)

    before = jnp.zeros(1).dtype
    result = next(check.check([statement(slack=slack, mutants=({"sign": -1.0},))], count=10))
    assert result.passed and jnp.zeros(1).dtype == before


def test_the_worst_seed_replays() -> None:
    one = statement(slack=lambda a, b, *, bound=0.9: at_most(a, bound, tolerance=0.0), mutants=({"bound": 0.5},))
    result = verdict(one, seed=3)
    assert result.worst_seed // check.SEEDS_PER_RUN == 3
    slack, sides = check.replay(one, result.worst_seed)
    assert slack == pytest.approx(result.smallest_slack, abs=1e-12)
    ((relation, left, right),) = sides
    assert relation == "<=" and right == pytest.approx(0.9) and right - left == pytest.approx(slack)


def test_another_seed_gives_other_instances() -> None:
    bound = lambda a, b, *, bound=2.0: at_most(a, bound, tolerance=0.0)
    first, second = (verdict(statement(slack=bound, mutants=({"bound": 0.1},)), seed=seed) for seed in (0, 1))
    assert first.smallest_slack != second.smallest_slack


def test_slacks() -> None:
    with jax.enable_x64(True):
        assert float(equal(1.0, 1.0)) == 1e-9
        assert float(equal(jnp.inf, jnp.inf)) > 0
        assert float(equal(jnp.nan, jnp.nan)) < 0
        assert float(equal(jnp.inf, 1.0)) < 0
        assert float(equal(jnp.inf, -jnp.inf)) < 0
        assert float(equal(1e6, 1e6 + 1e-4)) > 0 > float(equal(1.0, 1.0 + 1e-4))
        assert float(at_most(1.0, jnp.array([3.0, 1.5]), tolerance=0.0)) == 0.5
        assert float(at_most(1.0, 0.9)) < 0 < float(at_most(1.0, 1.0))
        assert float(at_most(jnp.inf, jnp.inf)) > 0
        assert float(at_most(jnp.nan, 1.0)) < 0 and float(at_most(jnp.nan, jnp.inf)) < 0
        assert float(both(jnp.asarray(1.0), jnp.asarray(-2.0))) == -2.0
        assert float(pick(0.0, jnp.nan, 2.0)) == 2.0 and float(pick(1.0, 3.0, 2.0)) == 3.0


# --- the list of statements ---


def test_a_duplicate_id_raises() -> None:
    modules = {name: types.SimpleNamespace(STATEMENTS=(statement(),)) for name in ("one", "two")}
    with pytest.raises(ValueError, match=r"test/A1.*one and two"):
        registry.collect(modules)


def test_every_statement_has_what_the_table_shows() -> None:
    known = registry.all_statements()
    for name, one in known.items():
        assert name == one.id and name.split("/")[0] in ("games", "rl", "bond", "copg", "p3o", "pama")
        assert one.mutants and one.says and one.formula and one.source.authors and one.source.equation
        assert one.num_instances >= 10_000 or one.on_host, name
        check.variants(one)


def test_the_families_are_complete() -> None:
    known = set(registry.all_statements())
    wanted = [f"games/I{i}" for i in range(1, 11)] + ["games/G11", "games/G12"]
    wanted += [f"games/R{i}" for i in range(1, 6)] + [f"games/NM{i}" for i in range(1, 7)]
    wanted += [f"games/IM{i}" for i in range(1, 8)] + [f"rl/C{i}" for i in range(1, 9)]
    family = {"IN": 4, "EG": 4, "SP": 3, "ON": 1, "DN": 2, "PX": 2, "RS": 1, "MM": 1, "MN": 9, "PL": 3, "HT": 3}
    wanted += [f"games/{name}{i}" for name, last in family.items() for i in range(1, last + 1)]
    wanted += [f"bond/B{i}" for i in range(1, 9)] + [f"copg/G{i}" for i in (1, 2, 3, 5, 7, 8)]
    assert not set(wanted) - known


def test_patterns() -> None:
    known = registry.all_statements()

    def chosen(*patterns: str) -> list[str]:
        return [one.id for one in registry.select(patterns, known)]

    assert chosen() == list(known)
    assert chosen("games/I1") == chosen("I1") == ["games/I1"]
    assert chosen("games/I*") == [
        f"games/{family}{i}" for family, last in (("I", 10), ("IM", 7), ("IN", 4)) for i in range(1, last + 1)
    ]
    assert chosen("rl/C2", "rl/C1") == ["rl/C1", "rl/C2"]
    assert set(chosen("NM2")) == {"games/NM2"}
    with pytest.raises(UnknownName, match="games/G12"):
        chosen("games/G13")


# --- the command ---


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A true and a false statement instead of all."""
    false = statement(id="test/B1", slack=lambda a, b, *, cross=1.9: square_of_a_sum(a, b, cross=cross))
    known = {"test/A1": statement(), "test/B1": false}
    monkeypatch.setattr(command, "all_statements", lambda: known)
    yield


def run(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> tuple[int, str, str]:
    status = command.main(argv)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.usefixtures("few")
def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    some = ["--instances", "50"]
    assert run(capsys, ["check", "A1", *some])[0] == 0
    status, out, _ = run(capsys, ["check", *some])
    assert status == 1 and "failed: test/B1" in out and "--instance" in out
    assert run(capsys, ["check", "--nonsense"])[0] == 2
    assert run(capsys, ["check", "--instances", "0"])[0] == 2
    assert run(capsys, ["check", "--help"])[0] == 0
    status, _, err = run(capsys, ["chekc"])
    assert status == 2 and "did you mean 'check'" in err
    status, out, err = run(capsys, ["check", "test/A2"])
    assert status == 2 and not out and "did you mean 'test/A1'" in err


@pytest.mark.usefixtures("few")
def test_json_is_one_object(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    status, out, err = run(
        capsys, ["check", "--json", "--instances", "50", "--seed", "2", "--out", str(tmp_path / "new")]
    )
    report = json.loads(out)
    assert status == 1 and not err and report["passed"] is False and report["seed"] == 2
    first, second = report["statements"]
    assert {
        "id",
        "says",
        "formula",
        "source",
        "instances",
        "smallest_slack",
        "worst_seed",
        "mutants",
        "verdict",
    } <= set(first)
    assert (first["id"], first["verdict"], first["instances"]) == ("test/A1", "holds", 50)
    assert second["verdict"] == "false" and second["smallest_slack"] < 0
    assert [mutant["killed"] for mutant in first["mutants"]] == [True, True]
    assert 2_000_000 <= first["worst_seed"] < 2_000_050
    assert json.loads((tmp_path / "new" / "statements.json").read_text()) == report


@pytest.mark.usefixtures("few")
def test_replay_prints_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, ["check", "A1", "--instance", "7"])
    assert status == 0 and "left" in out and "right" in out and "holds" in out
    status, out, _ = run(capsys, ["check", "B1", "--instance", "7", "--json"])
    assert status == 1 and json.loads(out)["sides"][0]["relation"] == "="
    assert run(capsys, ["check", "--instance", "7"])[0] == 2


def test_the_bare_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, [])
    assert status == 0 and "check" in out
    assert all(f"  {name} " in out for name in registry.all_statements())


@pytest.mark.slow
def test_some_statements_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """A handful, on few instances: the full run is below."""
    assert run(capsys, ["check", "I1", "C2", "V1", "K12", "P7", "--instances", "200"])[0] == 0


@pytest.mark.long
def test_all_statements_hold_and_all_mutants_die(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, ["check"])
    assert status == 0, out
