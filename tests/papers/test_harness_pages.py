"""The page and the generated documentation: what a reader without a network, a mouse or good eyes needs."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import alignjax
from alignjax.record import Source
from papers import cli, collect, docs, figures, page
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings

SOURCE = Source("Munos et al.", 2023, "2312.00886", "Theorem 1")
FORMULA = r"\mathrm{KL}(\pi^* \,\|\, \pi_T) \le \frac{8}{\tau^2 (T + 1)}"
VOID = {"meta", "link", "img", "br", "mspace"}


def draw(settings: Settings) -> Any:
    figure, axes = figures.panels(3, titles=["one", "two", "three"])
    for ax in axes:
        ax.plot([1, 2], [1, 2])
    return figure


OUTCOMES: dict[str, tuple[Any, str, str]] = {
    "good": (Outcome(expected=0.0, measured=1.5e-13, tolerance=1e-10, spread="worst of 3"), "reproduced", FORMULA),
    "bad": (Outcome(expected=[1.0, 2.0], measured=[1.0, 3.0], note="see `x < y`"), "contradicted", r"a \le b"),
    "differs": (Outcome(expected=1.0, measured=2.0), "reproduced", ""),
    "people": (NotTestable("needs <people> & money"), "not testable here", ""),
    "unknown-command": (Outcome(expected=1, measured=1), "reproduced", r"\nosuchcommand{x}"),
}


def a_paper(name: str) -> Paper:
    return Paper(
        name=name,
        title='Of "quotes" & <tags>',
        source=SOURCE,
        summary="First paragraph.\n\nSecond <paragraph>.",
        claims=tuple(
            Claim(
                id=f"{name}.{short}",
                says=f"{short} holds",
                how="on 3 games | with <care>",
                source=SOURCE,
                test=lambda settings, outcome=outcome: outcome,
                stands=stands,  # type: ignore[arg-type]
                formula=formula,
            )
            for short, (outcome, stands, formula) in OUTCOMES.items()
        ),
        figures=(
            Figure(id="lines", title="Lines", caption='Median of "two" runs.', draw=draw),
            Figure(id="more", title="More", caption="Band.", draw=draw),
        ),
    )


class Reader(HTMLParser):
    """Collects elements and refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    papers = {name: a_paper(name) for name in ("fake-one", "fake-two")}
    assert cli.main(["all", "--out", str(folder)], papers) == 1  # one verdict differs
    return folder


@pytest.fixture(scope="module")
def text(out: Path) -> str:
    return (out / "index.html").read_text(encoding="utf-8")


def test_nothing_is_scripted_or_fetched(text: str) -> None:
    lowered = text.lower()
    for word in (
        "<script",
        "javascript:",
        "@import",
        "url(",
        "<iframe",
        "<object",
        "<embed",
        " onload",
        " onclick",
        "srcset",
    ):
        assert word not in lowered, word
    reader = Reader(text)
    for tag, attributes in reader.found:
        for name in ("src", "data", "poster", "action", "style"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
    outside = re.findall(r'(\S{0,6})https?://([^"<\s]+)', text)
    assert outside and all(before.endswith('href="') and at.startswith("arxiv.org/abs/") for before, at in outside)
    assert len(reader.all("a")) > 5


def test_the_page_is_put_together_for_every_reader(text: str) -> None:
    reader = Reader(text)
    assert reader.all("html")[0]["lang"].startswith("en")
    assert len(reader.all("h1")) == 1 and len(reader.all("h2")) == 2 and len(reader.all("main")) == 1
    assert "<title>" in text and "width=device-width" in text and "user-scalable" not in text
    assert "prefers-color-scheme: dark" in text
    ids = [attributes["id"] for _, attributes in reader.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = [a["href"][1:] for a in reader.all("a") if a["href"].startswith("#")]
    assert set(inside) <= set(ids) and {"main", "fake-one", "fake-two"} <= set(inside)
    levels = [int(tag[1]) for tag, _ in reader.found if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_figure_is_inside_and_described(text: str) -> None:
    images = Reader(text).all("img")
    assert len(images) == 4
    for image in images:
        assert image["src"].startswith("data:image/svg+xml;base64,")
        assert "Median of" in image["alt"] or "Band." in image["alt"]


def test_a_large_drawing_is_shown_as_png(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from papers import run

    monkeypatch.setattr(page, "LARGEST_SVG", 10)
    record = run.read(out / "fake-one" / "claims.json")
    assert record is not None
    text = page.render([record], lambda path: (out / path).read_bytes())
    assert [image["src"][:21] for image in Reader(text).all("img")] == ["data:image/png;base64"] * 2


def test_a_narrow_figure_left_over_takes_a_row(out: Path) -> None:
    from papers import run

    record = run.read(out / "fake-one" / "claims.json")
    assert record is not None
    wide = (out / "fake-one" / "lines.png").read_bytes()
    narrow = wide[:16] + (800).to_bytes(4, "big") + wide[20:]
    for drawings, classes in ((2, ["", ""]), (1, ["alone"])):
        shown = record | {"drawings": record["drawings"][:drawings]}
        text = page.render([shown], lambda path: narrow)
        assert [one.get("class", "") for one in Reader(text).all("figure")] == classes
    mixed = page.render([record], lambda path: narrow if "more" in path else wide)
    assert [one.get("class", "") for one in Reader(mixed).all("figure")] == ["wide", "alone"]
    assert mixed.count("more to the right") == 1


def test_a_missing_figure_file_is_said(out: Path) -> None:
    from papers import run

    def gone(path: str) -> bytes:
        raise FileNotFoundError(path)

    record = run.read(out / "fake-one" / "claims.json")
    assert record is not None
    assert page.render([record], gone).count("are missing") == 2


def test_formulas_are_mathml_and_those_that_do_not_convert_are_code(text: str) -> None:
    assert text.count("<math") == text.count("</math>") == 4
    assert text.count(r"<code>\nosuchcommand{x}</code>") == 2
    assert "<mfrac>" in text and "\\frac" not in text


def test_claims_show_their_numbers_and_their_verdict_in_words(text: str) -> None:
    first = text[text.index('id="fake-one-good"') : text.index('id="fake-one-bad"')]
    assert "✓" in first and "reproduced" in first and "1.5\u00a0×\u00a010\u2060<sup>−13</sup>" in first
    assert "difference 1.5" in first and "worst of 3" in first and "on 3 games | with &lt;care&gt;" in first
    assert '<a href="https://arxiv.org/abs/2312.00886">' in first
    second = text[text.index('id="fake-one-bad"') : text.index('id="fake-one-differs"')]
    assert "as we say" in second and "<code>x &lt; y</code>" in second and "Differs" not in second
    third = text[text.index('id="fake-one-differs"') : text.index('id="fake-one-people"')]
    assert "Differs: we stand by “reproduced”" in third
    assert "needs &lt;people&gt; &amp; money" in text
    head = text[: text.index("<main")]
    for words in ("4 reproduced", "4 contradicted", "2 not testable here", "fake-one.differs"):
        assert words in head, words


def test_the_page_is_the_same_but_for_timings(out: Path) -> None:
    from papers import run

    records = [run.read(path) for path in sorted(out.glob("*/claims.json"))]
    first, second = (page.render(records, lambda path: (out / path).read_bytes()) for _ in range(2))  # type: ignore[arg-type]
    assert first == second == (out / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\b20(2[4-9]|3\d)-\d\d-\d\d", first)


def test_the_formulas_that_are_shipped_convert() -> None:
    formulas = [claim.formula for one in collect.scan().values() for claim in one.claims if claim.formula]
    assert not [latex for latex in formulas if page.mathml(latex) is None]
    assert page.mathml(FORMULA) and page.mathml(r"\nosuchcommand") is None and page.mathml(r"\frac{1}{") is None


# --- documentation ----------------------------------------------------------------------------------------------------


def test_docs_are_the_same_each_time_and_name_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    papers = {"fake-one": a_paper("fake-one")}
    for folder in ("one", "two"):
        assert cli.main(["docs", "--out", str(tmp_path / folder)], papers) == 0
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "one").iterdir()}
    assert written == {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "two").iterdir()}
    assert set(written) == {"methods.md", "solvers.md", "statements.md", "claims.md", "names.md"}
    assert all(text.startswith(docs.HEADER) and "make docs" in docs.HEADER for text in written.values())
    for name, method in alignjax.methods.items():
        section = written["methods.md"].partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert method.no_optimum.split("*")[0].split("_")[0] in section
        for word in (*method.reads, *method.defaults, method.source.equation):
            assert word in section, (name, word)
    for row in alignjax.games.SOLVERS:
        assert f"## {row.name}\n" in written["solvers.md"]
    for name in (*alignjax.__all__, *alignjax.games.__all__, *alignjax.envs.__all__):
        (line,) = {line for line in written["names.md"].splitlines() if line.startswith(f"| `{name}` |")}
        assert len(line) > len(name) + 12, f"{name} has no description"
    assert "| `bad` | bad holds | contradicted |" in written["claims.md"]
    assert f"```math\n{FORMULA}\n```" in written["claims.md"]


def test_docs_tables_are_tables(tmp_path: Path) -> None:
    assert cli.main(["docs", "--out", str(tmp_path)], {"fake-one": a_paper("fake-one")}) == 0
    rows = 0
    for path in tmp_path.iterdir():
        columns = 0
        for line in re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines():
            if not line.startswith("|"):
                columns = 0
                continue
            cells = len(re.findall(r"(?<!\\)\|", line)) - 1
            columns = columns or cells
            assert cells == columns, (path.name, line)
            rows += 1
    assert rows > 100


def test_docs_written_by_hand_are_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.md").write_text("mine")
    assert cli.main(["docs", "--out", str(tmp_path)], {}) == 2
    assert "names.md" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["names.md"]
    assert cli.main(["docs", "--out", str(tmp_path / "names.md")], {}) == 2
    assert "--out" in capsys.readouterr().err


def test_prose_keeps_markdown_from_seeing_emphasis_and_tags() -> None:
    assert docs.prose("V* <phi> a_b `c_d <e>`") == r"V\* &lt;phi> a\_b `c_d <e>`"
    assert docs.cell("p || q\nr") == r"p \|\| q r"
