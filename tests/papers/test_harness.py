"""The verdicts, the command line and its exit codes, on small papers made here."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.record import Source
from papers import cli, collect, figures, run, wording
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Source("Munos et al.", 2023, "2312.00886", "Theorem 1")
GOOD = Outcome(expected=1.0, measured=1.0)
BAD = Outcome(expected=1.0, measured=2.0)


def claim(
    name: str, outcome: Any = GOOD, stands: Verdict = "reproduced", paper: str = "fake-one", **rest: Any
) -> Claim:
    """A claim whose test returns `outcome`, calls it, or raises it."""

    def test(settings: Settings) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(settings) if callable(outcome) else outcome

    fields: dict[str, Any] = {"says": "a is b", "how": "by looking", "source": SOURCE, "formula": r"\frac{a}{b}"} | rest
    return Claim(id=f"{paper}.{name}", test=test, stands=stands, **fields)


def draw(settings: Settings) -> Any:
    figure, (ax,) = figures.panels(1, titles=["a line"])
    figures.band(ax, [1, 2], [[1.0, 2.0], [2.0, 3.0]], "runs")
    figures.describe(ax, "steps", "gap")
    return figure


def drawing(name: str = "line", how: Callable[[Settings], Any] = draw) -> Figure:
    return Figure(id=name, title="A line", caption="Two runs.", draw=how)


def paper(*claims: Claim, name: str = "fake-one", drawings: tuple[Figure, ...] = ()) -> Paper:
    return Paper(name=name, title="A fake", source=SOURCE, summary="Nothing.", claims=claims, figures=drawings)


def fakes(*papers: Paper) -> dict[str, Paper]:
    return {one.name: one for one in papers}


def answer(capsys: pytest.CaptureFixture[str], arguments: list[str], papers: dict[str, Paper]) -> tuple[int, Any]:
    """The exit status and the JSON object on stdout, in the strict sense of JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    status = cli.main(arguments, papers)
    return status, json.loads(capsys.readouterr().out, parse_constant=refuse)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        ("equal", 1.05, True),
        ("equal", 1.2, False),
        ("equal", 0.8, False),
        ("at most", 1.05, True),
        ("at most", 0.0, True),
        ("at most", 1.2, False),
        ("at least", 0.95, True),
        ("at least", 5.0, True),
        ("at least", 0.8, False),
        ("less than", 0.85, True),
        ("less than", 0.95, False),
        ("greater than", 1.15, True),
        ("greater than", 1.05, False),
    ],
)
def test_the_verdict_follows_from_the_numbers(relation: Any, measured: float, holds: bool) -> None:
    def verdict(value: Any) -> str:
        return Outcome(expected=1.0, measured=value, tolerance=0.1, relation=relation).verdict

    assert verdict(measured) == ("reproduced" if holds else "contradicted")
    fine = {"equal": 1.0, "at most": 0.0, "at least": 2.0, "less than": 0.0, "greater than": 2.0}[relation]
    assert verdict([fine, fine]) == "reproduced"
    assert verdict([fine, measured]) == ("reproduced" if holds else "contradicted")  # every entry counts
    for odd in (np.nan, np.inf, -np.inf):
        assert verdict([fine, odd]) == "contradicted"
    assert verdict([]) == "contradicted"
    assert Outcome(expected=np.nan, measured=1.0, relation=relation).verdict == "contradicted"


def test_the_verdict_cannot_be_given() -> None:
    with pytest.raises(TypeError):
        Outcome(expected=1, measured=2, verdict="reproduced")  # type: ignore[call-arg]
    assert NotTestable("needs people").verdict == "not testable here"


def test_deviation_is_the_worst_entry() -> None:
    assert run.deviation(Outcome(expected=[1.0, 2.0], measured=[1.5, 1.0])) == 1.0
    assert run.deviation(Outcome(expected=1.0, measured=[0.25, 0.5], relation="at most")) == -0.5
    assert run.deviation(Outcome(expected=1.0, measured=[0.25, 0.5], relation="at least")) == 0.75
    assert run.deviation(Outcome(expected=1.0, measured=np.nan)) == "nan"


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "stands", "status", "verdict"),
    [
        (GOOD, "reproduced", 0, "reproduced"),
        (BAD, "contradicted", 0, "contradicted"),
        (NotTestable("needs people, " * 20), "not testable here", 0, "not testable here"),
        (BAD, "reproduced", 1, "contradicted"),
        (GOOD, "contradicted", 1, "reproduced"),
        (NotTestable("needs people"), "reproduced", 1, "not testable here"),
        (Outcome(expected=1.0, measured=np.nan), "reproduced", 1, "contradicted"),
        (RuntimeError("it broke"), "reproduced", 1, None),
        ("reproduced", "reproduced", 1, None),
        (Outcome(expected=[1, 2], measured=[1, 2, 3]), "reproduced", 1, None),
    ],
)
def test_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: Any, stands: Verdict, status: int, verdict: str | None
) -> None:
    papers = fakes(paper(claim("first", outcome, stands), claim("second")))
    got, said = answer(capsys, ["fake-one", "--out", str(tmp_path), "--json"], papers)
    first, second = said["papers"][0]["claims"]
    assert (got, said["ok"]) == (status, status == 0)
    assert (first["verdict"], first["stands"], first["agrees"]) == (verdict, stands, status == 0)
    assert bool(first["error"]) == (verdict is None)
    assert second["agrees"], "the claims after one that fails are still run"
    assert cli.main(["fake-one", "--out", str(tmp_path)], papers) == status
    table = capsys.readouterr().out
    assert max(len(line) for line in table.splitlines()[:-1]) <= cli.WIDTH
    assert ("DIFFERS" in table) == (status == 1 and verdict is not None)


def test_what_raises_is_shown_and_the_rest_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(settings: Settings) -> Any:
        raise RuntimeError("no such <colour>")

    one = paper(claim("first", ValueError("a & b")), claim("second"), drawings=(drawing("bad", broken), drawing()))
    two = paper(claim("only", paper="fake-two"), name="fake-two")
    assert cli.main(["all", "--out", str(tmp_path)], fakes(one, two)) == 1
    output = capsys.readouterr()
    assert "ValueError: a & b" in output.out and "RuntimeError: no such <colour>" in output.out
    assert "Traceback" in output.err and "Traceback" not in output.out
    record = json.loads((tmp_path / "fake-one" / "claims.json").read_text())
    assert record["ok"] is False and record["figures"] == ["fake-one/line.png", "fake-one/line.svg"]
    assert json.loads((tmp_path / "fake-two" / "claims.json").read_text())["ok"] is True
    page = (tmp_path / "index.html").read_text()
    assert "ValueError: a &amp; b" in page and "RuntimeError: no such &lt;colour&gt;" in page and "fake-two" in page


def test_a_figure_that_raises_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    papers = fakes(paper(claim("first"), drawings=(drawing(how=lambda settings: None),)))
    status, said = answer(capsys, ["all", "--json", "--out", str(tmp_path)], papers)
    assert status == 1 and not said["ok"] and said["papers"][0]["errors"]


# --- what a claim may return ------------------------------------------------------------------------------------------


def test_json_of_every_kind_of_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(settings: Settings) -> Outcome:
        print("this must not reach stdout")
        assert jnp.ones(1).dtype == jnp.float64, "papers run in double precision"
        return Outcome(expected=np.ones(300), measured=jnp.full(300, 1.0), runs=np.int64(300), tolerance=jnp.float32(0))

    papers = fakes(
        paper(
            claim("long", noisy),
            claim("odd", Outcome(expected=-np.inf, measured=[1.0, np.nan, np.inf]), "contradicted"),
            claim("table", Outcome(expected=np.eye(2), measured=jnp.eye(2), spread="none", note="nothing")),
            claim("whole", Outcome(expected=3, measured=np.int32(3))),
            claim("truth", Outcome(expected=True, measured=jnp.array(True))),
            claim("people", NotTestable("needs people"), "not testable here"),
            drawings=(drawing(),),
        )
    )
    status, said = answer(capsys, ["fake-one", "--json", "--out", str(tmp_path), "--seed", "3", "--quick"], papers)
    assert status == 0 and said["ok"] is True
    (one,) = said["papers"]
    assert set(one) >= {"name", "title", "source", "claims", "figures", "seconds"}
    keys = "id source statement how expected measured tolerance relation runs spread note verdict stands agrees seconds"
    assert all(set(row) >= {*keys.split(), "formula"} for row in one["claims"])
    rows = {row["id"].removeprefix("fake-one."): row for row in one["claims"]}
    assert rows["long"]["measured"] == {"min": 1.0, "median": 1.0, "max": 1.0, "n": 300}
    assert rows["odd"]["measured"] == [1.0, "nan", "inf"] and rows["odd"]["expected"] == "-inf"
    assert rows["table"]["measured"] == [[1.0, 0.0], [0.0, 1.0]]
    assert rows["whole"]["measured"] == 3 and rows["truth"]["measured"] == 1
    assert rows["people"]["measured"] is None and rows["people"]["note"] == "needs people"
    assert [Path(path).exists() for path in one["figures"]] == [True, True]
    record = json.loads((tmp_path / "fake-one" / "claims.json").read_text())
    assert record["settings"] == {"quick": True, "seed": 3}
    assert record["claims"] == one["claims"]
    assert jnp.ones(1).dtype == jnp.float32, "double precision ends with the run"


def test_long_arrays_with_odd_numbers_are_summarised() -> None:
    assert run.plain(np.r_[np.ones(30), np.nan]) == {"min": "nan", "median": "nan", "max": "nan", "n": 31}
    assert run.plain(np.r_[np.ones(30), np.inf])["max"] == "inf"
    assert run.plain(np.r_[np.full(15, np.inf), np.full(15, -np.inf)])["median"] == "nan"
    assert run.plain(np.arange(20)) == list(range(20))


def test_numbers_in_words() -> None:
    assert [wording.number(x) for x in (0.123456, 3, 3.0, 1.5e-9, "nan", None)] == [
        "0.1235", "3", "3", "1.5e-09", "NaN", "–",
    ]  # fmt: skip
    assert wording.numbers([[0.25, 0.5], [0.75, 1.0]]) == "0.25, 0.5, 0.75, 1"
    assert wording.numbers([1.0] * 9) == "1 (9 numbers)"
    assert wording.numbers([1.0, 2.0, 3.0, 4.0, "nan"]) == "1 to 4, NaN (5 numbers)"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(expected=0.0, measured=0.25), "difference 0.25, allowed 0"),
        (Outcome(expected=0.0, measured=[0.25, 0.5], tolerance=0.1), "largest difference 0.5, allowed 0.1"),
        (Outcome(expected=1.0, measured=0.25, relation="at most"), "0.75 inside the bound"),
        (Outcome(expected=1.0, measured=[2.0, 3.0], relation="at most"), "the worst is 2 beyond the bound"),
        (Outcome(expected=1.0, measured=1.0, relation="at least", tolerance=0.5), "at the bound, tolerance 0.5"),
        (Outcome(expected=1.0, measured=np.nan), ""),
    ],
)
def test_closeness_in_words(outcome: Outcome, words: str) -> None:
    assert wording.closeness(run.run_claim(claim("first", outcome), Settings())) == words


# --- names and listing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fake-one", "fake_one"])
def test_hyphens_and_underscores_are_the_same(tmp_path: Path, name: str) -> None:
    assert cli.main([name, "--out", str(tmp_path)], fakes(paper(claim("first")))) == 0
    assert (tmp_path / "fake-one" / "claims.json").exists()


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    papers = fakes(paper(claim("first")), paper(claim("a", paper="other"), name="other"))
    assert cli.main(["other", "fake-on", "--out", str(tmp_path / "new")], papers) == 2
    output = capsys.readouterr()
    assert "'fake-on'" in output.err and "did you mean 'fake-one'" in output.err
    assert not output.out and "Traceback" not in output.err
    assert not (tmp_path / "new").exists(), "nothing is made for a typo"


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    papers = fakes(paper(claim("first"), drawings=(drawing(),)), paper(claim("a", paper="other"), name="other"))
    assert cli.main([], papers) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("fake-one" in line and "A fake (1 claim, 1 figure)" in line for line in lines) == 1
    assert any(line.split()[:1] == ["docs"] for line in lines) and max(map(len, lines)) <= 100
    status, said = answer(capsys, ["--json"], papers)
    assert status == 0 and [row["name"] for row in said["papers"]] == ["fake-one", "other"]


def test_all_runs_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    papers = fakes(paper(claim("first")), paper(claim("a", paper="other"), name="other"))
    _, said = answer(capsys, ["other", "all", "fake_one", "--json", "--out", str(tmp_path)], papers)
    assert [row["name"] for row in said["papers"]] == ["other", "fake-one"]


@pytest.mark.parametrize(
    "arguments", [["--seed", "-1"], ["--seed", str(2**32)], ["--seed", "x"], ["--no-such-flag"], ["--qui"]]
)
def test_wrong_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments, {})
    assert stop.value.code == 2 and "error" in capsys.readouterr().err


def test_help_does_not_wait_for_jax() -> None:
    code = (
        "import sys, papers.cli\n"
        "try: papers.cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout and "docs" in done.stdout


# --- where results go -------------------------------------------------------------------------------------------------


def test_an_out_that_cannot_be_written_to_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")

    def never(settings: Settings) -> Outcome:
        raise AssertionError("it ran")

    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert cli.main(["all", "--out", str(out)], fakes(paper(claim("first", never)))) == 2
        error = capsys.readouterr().err
        assert "--out" in error and str(out) in error and "it ran" not in error and "Traceback" not in error
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("theirs", ["index.html", "fake-one/claims.json"])
def test_nothing_the_user_had_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str], theirs: str) -> None:
    path = tmp_path / theirs
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"mine": true}')
    assert cli.main(["all", "--out", str(tmp_path)], fakes(paper(claim("first")))) == 2
    assert path.read_text() == '{"mine": true}' and theirs in capsys.readouterr().err


def test_the_page_keeps_other_papers(tmp_path: Path) -> None:
    papers = fakes(
        paper(claim("first")), paper(claim("a", paper="other"), name="other", drawings=(drawing("kept-figure"),))
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "claims.json").write_text("[]")  # somebody else's: left alone
    for name in ("other", "fake-one"):
        assert cli.main([name, "--out", str(tmp_path)], papers) == 0
    page = (tmp_path / "index.html").read_text()
    assert 'id="other-kept-figure"' in page and 'id="fake-one-first"' in page
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {
        "index.html", "claims.json", "other", "fake-one", "notes", "kept-figure.png", "kept-figure.svg",
    }  # fmt: skip


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "claims.json"
    run.write(path, "old")

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        run.write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_results_that_cannot_be_written_are_still_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(run, "save", fails)
    assert cli.main(["all", "--out", str(tmp_path)], fakes(paper(claim("first")))) == 2
    output = capsys.readouterr()
    assert "reproduced" in output.out and "disk full" in output.err and "--out" in output.err


# --- records that a page could not show -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: paper(claim("a", how=" ")), "'how'"),
        (lambda: paper(claim("a", says="")), "'says'"),
        (lambda: paper(claim("a", stands="true")), "stands"),
        (lambda: paper(claim("a", source="Munos")), "source"),
        (lambda: paper(claim("a", source=Source("Munos", 2023, "", "Eq. 1"))), "venue"),
        (lambda: paper(claim("a", source=Source("Munos", 2023, "arXiv:2312.00886", "Eq. 1"))), "arXiv id"),
        (lambda: paper(claim("a", paper="other")), "must start with"),
        (lambda: paper(claim("a"), claim("a")), "two claims"),
        (lambda: paper(), "no claims"),
        (lambda: paper(claim("a"), drawings=(drawing(), drawing("Line"))), "two figures"),
        (lambda: paper(claim("a"), drawings=(drawing("../line"),)), "file name"),
        (lambda: paper(claim("a", paper="all"), name="all"), "none of all, docs"),
        (lambda: paper(claim("a", paper="Fake_One"), name="Fake_One"), "lower-case"),
    ],
)
def test_an_incomplete_paper_is_refused(
    wrong: Callable[[], Paper], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(collect.PaperError, match=says):
        collect.collect({"module": types.SimpleNamespace(PAPER=wrong())})
    assert cli.main(["all"], fakes(wrong())) == 2
    assert says in capsys.readouterr().err


def test_papers_are_found_by_their_record_and_duplicates_raise() -> None:
    one = types.SimpleNamespace(PAPER=paper(claim("a")))
    assert list(collect.collect({"x": one, "helper": types.SimpleNamespace()})) == ["fake-one"]
    with pytest.raises(collect.PaperError, match="two papers are named 'fake-one': in x and y"):
        collect.collect({"x": one, "y": one})
    with pytest.raises(collect.PaperError, match="must be a papers"):
        collect.collect({"x": types.SimpleNamespace(PAPER="paper")})


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_the_same_bytes_each_time_and_choose_no_backend() -> None:
    first, second = (figures.render(draw(Settings())) for _ in range(2))
    assert first == second
    assert first["png"].startswith(b"\x89PNG") and b"<dc:date>" not in first["svg"]
    code = "import papers.figures, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_band_is_the_quantiles_over_runs() -> None:
    _, (ax,) = figures.panels(1)
    runs = np.arange(11.0)[:, None] * np.ones(3)
    runs[:, 1] = np.nan
    line, filled = figures.band(ax, [1, 2, 3], runs, quantiles=(0.1, 0.9))
    np.testing.assert_allclose(line.get_ydata(), [5.0, np.nan, 5.0])
    drawn = np.concatenate([path.vertices[:, 1] for path in filled.get_paths()])
    assert (drawn.min(), drawn.max()) == (1.0, 9.0)
    with pytest.raises(ValueError, match="runs must be"):
        figures.band(ax, [1], np.zeros((1, 1, 1)))


def test_direct_labels_do_not_overlap() -> None:
    with figures.style():
        figure, (ax,) = figures.panels(1)
        lines = {f"line {i}": ax.plot([0, 1], [0, 1 + i / 1000])[0] for i in range(4)}
        figures.direct_labels(ax, lines)
        figure.canvas.draw()
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_the_seed_and_the_size_reach_the_claims(tmp_path: Path) -> None:
    seen: list[Settings] = []

    def test(settings: Settings) -> Outcome:
        seen.append(settings)
        return Outcome(expected=0, measured=jax.device_get(settings.size(0, 1)), relation="at least")

    assert cli.main(["all", "--seed", "7", "--quick", "--out", str(tmp_path)], fakes(paper(claim("a", test)))) == 0
    assert seen == [Settings(quick=True, seed=7)] and [seen[0].size(10, 2), Settings().size(10, 2)] == [2, 10]
