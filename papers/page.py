"""The page of results: one HTML file with everything in it, no scripts, nothing fetched; for phones and the dark."""

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from papers import figures, wording

GENERATOR = "alignjax papers"
"""Marks a page as ours, so that nobody else's index.html is overwritten."""
LARGEST_SVG = 2_000_000
"""Bytes; a larger drawing is shown as PNG."""

BADGES = {
    "reproduced": ("good", "✓"),
    "contradicted": ("bad", "✗"),
    "not testable here": ("none", "–"),
    "failed": ("failed", "!"),
}

Read = Callable[[str], bytes]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --card: #ffffff; --ink: #1c1f23; --soft: #565d66; --line: #dfe1e4; --link: #0b5cad;
  --good: #00694f; --good-back: #e2f3ed; --bad: #9a3d00; --bad-back: #fcebdf; --none: #4d5560; --none-back: #eceef0;
  --failed: #a3123b; --failed-back: #fde6ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1c2025; --ink: #e6e8ea; --soft: #a4abb4; --line: #343a42; --link: #7db8f0;
    --good: #74d3b0; --good-back: #12352b; --bad: #f5a972; --bad-back: #3d2413; --none: #bcc3cb; --none-back: #2d333a;
    --failed: #ff9fb6; --failed-back: #451524;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
.wrap { max-width: 80rem; margin: 0 auto; padding: 0 1.25rem; }
a { color: var(--link); text-underline-offset: .15em; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; z-index: 1; }
header.wrap { padding-top: clamp(1.5rem, 4vw, 3rem); padding-bottom: 1rem; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.3rem); line-height: 1.2; margin: 0 0 .5rem; text-wrap: balance; }
h2 { font-size: clamp(1.35rem, 1.1rem + 1.2vw, 1.8rem); line-height: 1.25; margin: 0 0 .25rem; text-wrap: balance; }
h3 { font-size: 1.1rem; margin: 2rem 0 .75rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.small { font-size: .9rem; }
.counts { display: flex; flex-wrap: wrap; gap: .5rem; margin: .75rem 0; padding: 0; list-style: none; }
.badge {
  display: inline-block; padding: .12rem .6rem; border-radius: 1rem; font-size: .875rem; font-weight: 600;
  white-space: nowrap; color: var(--tone); background: var(--back); border: 1px solid currentColor;
}
.good { --tone: var(--good); --back: var(--good-back); }
.bad { --tone: var(--bad); --back: var(--bad-back); }
.none { --tone: var(--none); --back: var(--none-back); }
.failed { --tone: var(--failed); --back: var(--failed-back); }
.alert {
  border-left: 4px solid var(--failed); background: var(--failed-back); padding: .5rem .9rem; border-radius: 4px;
}
nav ul { list-style: none; margin: .5rem 0; padding: 0; }
nav li { padding: .55rem 0; border-top: 1px solid var(--line); }
nav li:last-child { border-bottom: 1px solid var(--line); }
section.paper { padding: 2.5rem 0 1rem; border-top: 1px solid var(--line); margin-top: 2rem; }
section.paper:first-child { margin-top: 0; border-top: 0; padding-top: 1rem; }
.figures {
  display: grid; gap: 1.25rem; grid-template-columns: minmax(0, 1fr); grid-auto-flow: dense; align-items: start;
}
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  min-width: 0;
}
figure .plate { background: #ffffff; padding: .75rem; overflow-x: auto; }
figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figcaption { padding: .8rem 1rem 1rem; font-size: .9rem; color: var(--soft); }
figcaption strong { display: block; color: var(--ink); font-size: 1rem; margin-bottom: .15rem; }
figure .alert { margin: .75rem; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding: 0 0 .5rem; }
th, td { text-align: left; vertical-align: top; padding: .8rem .9rem .8rem 0; border-top: 1px solid var(--line); }
thead th { font-size: .8rem; color: var(--soft); font-weight: 600; border-top: 0; padding-bottom: .4rem; }
tbody th { font-weight: 400; }
tbody tr { scroll-margin-top: 1rem; }
td.number { font-variant-numeric: tabular-nums; }
.says { font-weight: 600; }
.id, code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .82rem; }
.id { color: var(--soft); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; overflow-y: hidden; padding: .3rem 0; max-width: 100%; }
math { font-size: 1.05em; font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", math; }
math[display="block"] { width: max-content; margin: 0; text-align: left; }
details { margin-top: .35rem; }
summary { cursor: pointer; color: var(--link); font-size: .875rem; }
details p { font-size: .9rem; margin: .35rem 0; }
.hint { display: none; }
.verdict .small { margin-top: .35rem; }
footer.wrap {
  color: var(--soft); font-size: .875rem; padding-top: 1rem; padding-bottom: 3rem; margin-top: 2rem;
  border-top: 1px solid var(--line);
}
@media (min-width: 60rem) {
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  figure.wide, figure.alone { grid-column: 1 / -1; }
  figure.wide img { max-width: 68rem; }
  figure.alone img { max-width: 48rem; }
  table { table-layout: fixed; }
  th.c-verdict { width: 11.5rem; } th.c-expected { width: 7.5rem; }
  th.c-measured { width: 11.5rem; } th.c-runs { width: 10.5rem; }
}
@media (max-width: 59.99rem) {
  .wrap { padding: 0 1rem; }
  table, thead, tbody, tr, th, td, caption { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr {
    background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem;
    margin-bottom: 1rem;
  }
  th, td { border: 0; padding: .2rem 0; }
  td.number { display: grid; grid-template-columns: 6rem minmax(0, 1fr); gap: .5rem; }
  td.number::before { content: attr(data-label); color: var(--soft); font-size: .85rem; padding-top: .05rem; }
  td.empty { display: none; }
  tbody th { padding-bottom: .5rem; }
}
@media (max-width: 40rem) {
  .plate.broad img { width: 40rem; max-width: none; }
  .hint { display: block; text-align: right; }
}
@media print { details > * { display: block; } figure, tbody tr { break-inside: avoid; } }
"""


# --- pieces -----------------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Plain text as HTML; `code` in backquotes, scientific notation and arXiv ids are marked up."""
    escaped = html.escape(str(value), quote=True)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    escaped = re.sub(r"\barXiv:(\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', escaped)
    return re.sub(r"(?<![\w.])(-?\d+(?:\.\d+)?)e([-+]?)0*(\d+)\b", _power, escaped)


def _power(match: re.Match[str]) -> str:
    mantissa, sign, exponent = match.groups()
    head = "" if mantissa == "1" else f"{mantissa}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".replace("-", "−")
    return f"{head}10\N{WORD JOINER}<sup>{'−' if sign == '-' else ''}{exponent}</sup>"


def formula(latex: str) -> str:
    """LaTeX as MathML in a box that scrolls by itself, or as code where it does not convert."""
    converted = mathml(latex)
    label = html.escape(latex, quote=True)
    if converted is None:
        return f'<div class="scroll"><code>{label}</code></div>'
    return f'<div class="scroll">{converted}</div>'


_SPACED = re.compile(r"(?<!<msub>)(?<!<msup>)(?<!subsup>)(<mi>(?:exp|log|ln|sin|cos|tanh)</mi>)(?=<m(?:i|su|frac))")
"""A function before its argument, where the converter leaves no space."""


def mathml(latex: str) -> str | None:
    """A <math> element that needs no namespace in HTML, or None where a command is unknown to the converter."""
    from latex2mathml.converter import convert

    try:
        converted = convert(re.sub(r"\\(arg)(?![a-zA-Z])", r"\\operatorname{\1}", latex), display="block")
    except Exception:  # the converter raises whatever it meets
        return None
    if "\\" in html.unescape(converted):
        return None
    return _SPACED.sub(r'\1<mspace width="0.167em"/>', re.sub(r' xmlns="[^"]*"', "", converted))


def anchor(*parts: str) -> str:
    """An id for links."""
    return html.escape("-".join(parts).replace(".", "-"), quote=True)


def badge(verdict: str, label: str = "") -> str:
    """A verdict as colour, sign and words."""
    kind, sign = BADGES[verdict]
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign} </span>{text(label or verdict)}</span>'


def tally(claims: Sequence[Mapping[str, Any]]) -> str:
    """The counts of the verdicts as a list of badges."""
    items = "".join(f"<li>{badge(name, f'{n} {name}')}</li>" for name, n in wording.counts(claims).items())
    return f'<ul class="counts" aria-label="verdicts of {len(claims)} claims">{items}</ul>'


# --- figures ----------------------------------------------------------------------------------------------------------


def _inches(png: bytes) -> float:
    """The width of a figure, from the header of its PNG."""
    return int.from_bytes(png[16:20], "big") / figures.DPI


def figure(paper: str, drawing: Mapping[str, Any], read: Read) -> tuple[str, bool]:
    """A figure with its caption, the image inside the page; and whether it takes the page's whole width."""
    name = anchor(paper, drawing["id"])
    problem = drawing["error"]
    data, kind, broad = b"", "svg+xml", False
    if not problem:
        try:
            png, data = read(drawing["png"]), read(drawing["svg"])
            broad = _inches(png) > 1.4 * figures.PANEL_SIZE[0]
            if len(data) > LARGEST_SVG:
                data, kind = png, "png"
        except OSError:
            problem = f"the files of this figure are missing: {drawing['png']}"
    if problem:
        body = f'<p class="alert">{text(f"Not drawn. {problem}")}</p>'
    else:
        alt = html.escape(f"{drawing['title']}. {drawing['caption']}".replace("`", ""), quote=True)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        body = f'<div class="plate{" broad" if broad else ""}"><img alt="{alt}" src="{source}"></div>'
    hint = '<span class="hint">There is more to the right.</span>' if broad else ""
    caption = f"<figcaption>{hint}<strong>{text(drawing['title'])}</strong>{text(drawing['caption'])}</figcaption>"
    classes = ' class="wide"' if broad else ""
    return f'<figure id="{name}"{classes}>{body}{caption}</figure>', broad


def gallery(record: Mapping[str, Any], read: Read) -> str:
    """A paper's figures: two to a row but for the wide ones, and a narrow one left over takes a row."""
    drawn = [figure(record["name"], drawing, read) for drawing in record["drawings"]]
    narrow = [i for i, (_, broad) in enumerate(drawn) if not broad]
    if len(narrow) % 2:
        last = narrow[-1]
        drawn[last] = (drawn[last][0].replace("<figure ", '<figure class="alone" ', 1), False)
    return "\n".join(one for one, _ in drawn)


# --- claims -----------------------------------------------------------------------------------------------------------


def claim_row(paper: str, claim: Mapping[str, Any]) -> str:
    """One claim: a row of the table, a card on a phone."""
    verdict = claim["verdict"] or "failed"
    stance = ""
    if claim["verdict"] and not claim["agrees"]:
        stance = f'<div class="small alert">Differs: we stand by “{text(claim["stands"])}”.</div>'
    elif verdict == "contradicted":
        stance = '<div class="small soft">as we say</div>'
    short = claim["id"].removeprefix(f"{paper}.")
    parts = [f'<div class="says">{text(claim["statement"])}</div>']
    if claim["formula"]:
        parts.append(formula(claim["formula"]))
    if claim["error"]:
        parts.append(f'<p class="small alert">The run raised {text(claim["error"])}</p>')
    if claim["note"]:
        parts.append(f'<p class="small">{text(claim["note"])}</p>')
    parts.append(
        f"<details><summary>How it was tested, and the source</summary><p>{text(claim['how'])}</p>"
        f'<p class="soft">Source: {text(claim["source"])}. Took {wording.duration(claim["seconds"])}.</p></details>'
    )
    parts.append(f'<div class="id">{text(short)}</div>')
    empty = claim["measured"] is None
    want = got = runs = '<span class="soft">–</span>'
    if not empty:
        close = wording.closeness(claim)
        want = text(wording.expected(claim))
        got = text(wording.numbers(claim["measured"])) + (
            f'<div class="small soft">{text(close)}</div>' if close else ""
        )
        runs = text(claim["runs"]) + (
            f'<div class="small soft">{text(claim["spread"])}</div>' if claim["spread"] else ""
        )
    cells = "".join(
        f'<td role="cell" class="number{" empty" * empty}" data-label="{label}"><div>{cell}</div></td>'
        for label, cell in (("Expected", want), ("Measured", got), ("Runs", runs))
    )
    return (
        f'<tr role="row" id="{anchor(paper, short)}"><td role="cell" class="verdict">{badge(verdict)}{stance}</td>'
        f'<th role="rowheader" scope="row">{"".join(parts)}</th>{cells}</tr>'
    )


def claims_table(record: Mapping[str, Any]) -> str:
    """All claims of a paper."""
    heads = "".join(
        f'<th role="columnheader" scope="col" class="c-{name.lower()}">{name}</th>'
        for name in ("Verdict", "Claim", "Expected", "Measured", "Runs")
    )
    rows = "\n".join(claim_row(record["name"], claim) for claim in record["claims"])
    return (
        f'<table role="table"><caption>Verdicts are computed: measured against expected, up to the tolerance.</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>\n<tbody role="rowgroup">\n{rows}\n</tbody></table>'
    )


# --- the page ---------------------------------------------------------------------------------------------------------


def _differing(records: Sequence[Mapping[str, Any]]) -> str:
    """A warning at the top where a verdict is not ours or something raised."""
    links = [
        f'<a href="#{anchor(record["name"], claim["id"].removeprefix(record["name"] + "."))}">{text(claim["id"])}</a>'
        for record in records
        for claim in record["claims"]
        if not claim["agrees"]
    ]
    links += [
        f'<a href="#{anchor(record["name"], drawing["id"])}">figure {text(drawing["id"])}</a>'
        for record in records
        for drawing in record["drawings"]
        if drawing["error"]
    ]
    if not links:
        return ""
    return f'<p class="alert"><strong>Not as we say, or failed:</strong> {", ".join(links)}.</p>'


def paper_section(record: Mapping[str, Any], read: Read) -> str:
    """A paper: what it is about, its figures, its claims."""
    name = anchor(record["name"])
    settings = record["settings"]
    again = f"python -m papers {record['name']}" + " --quick" * settings["quick"]
    again += f" --seed {settings['seed']}" if settings["seed"] else ""
    size = "Quick run: fewer instances, steps and seeds than the full one. " if settings["quick"] else ""
    drawn = gallery(record, read)
    blocks = [
        f'<h2 id="{name}-title">{text(record["title"])}</h2>',
        f'<p class="soft small">{text(record["source"])}</p>',
        tally(record["claims"]),
        *(f"<p>{text(part)}</p>" for part in record["summary"].strip().split("\n\n")),
        f'<h3 id="{name}-figures">Figures</h3>\n<div class="figures">\n{drawn}\n</div>' if drawn else "",
        f'<h3 id="{name}-claims">Claims</h3>\n{claims_table(record)}',
        f'<p class="soft small">{size}Seed {settings["seed"]}; took {wording.duration(record["seconds"])}. '
        f"To run it again: <code>{text(again)}</code></p>",
    ]
    body = "\n".join(block for block in blocks if block)
    return f'<section class="paper" id="{name}" aria-labelledby="{name}-title">\n{body}\n</section>'


def contents(records: Sequence[Mapping[str, Any]]) -> str:
    """The table of contents, with the counts of each paper."""
    items = "\n".join(
        f'<li><a href="#{anchor(record["name"])}">{text(record["title"])}</a>'
        f'<div class="soft small">{text(record["name"])}: {text(wording.summary(record["claims"]))}</div></li>'
        for record in records
    )
    return f'<nav aria-label="Papers">\n<ul>\n{items}\n</ul>\n</nav>'


def render(records: Sequence[Mapping[str, Any]], read: Read) -> str:
    """The whole page, from the records of claims.json and a function that reads their figure files."""
    claims = [claim for record in records for claim in record["claims"]]
    sections = "\n".join(paper_section(record, read) for record in records)
    papers = wording.plural(len(records), "paper")
    return f"""<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{GENERATOR}">
<meta name="description" content="Claims of papers on language model alignment, each run and given a computed verdict.">
<title>alignjax: papers as runs</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the papers</a>
<header class="wrap">
<h1>Papers as runs</h1>
<p>What papers on language model alignment claim, and what came out when we ran it: {papers},
{wording.plural(len(claims), "claim")}.
A verdict is computed from the numbers beside it; nobody types it.</p>
{tally(claims)}
{_differing(records)}
{contents(records)}
</header>
<main id="main" class="wrap">
{sections}
</main>
<footer class="wrap"><p>Made by <code>python -m papers</code> of alignjax.</p></footer>
</body>
</html>
"""
