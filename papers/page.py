"""The page of results: one HTML file with everything in it, no scripts, nothing fetched; for phones and the dark."""

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from papers import figures, wording
from papers.page_style import STYLE

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
    made = f'<div class="small">Drawn from {text(drawing["runs"])}.</div>' if drawing.get("runs") else ""
    caption = (
        f"<figcaption>{hint}<strong>{text(drawing['title'])}</strong>{text(drawing['caption'])}{made}</figcaption>"
    )
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


def _part(record: Mapping[str, Any], read: Read) -> list[str]:
    """Figures, claims and how to run them again, of one scale."""
    name = anchor(record["name"])
    small = record.get("scale", "exact") == "lm"
    settings = record["settings"]
    again = f"python -m papers {record['name']}" + " --scale lm" * small + " --quick" * settings["quick"]
    again += f" --seed {settings['seed']}" if settings["seed"] else ""
    size = "Quick run: fewer instances, steps and seeds than the full one. " if settings["quick"] else ""
    drawn = gallery(record, read)
    plates = f'<div class="figures">\n{drawn}\n</div>' if drawn else ""
    if small:
        summary = [f"<p>{text(part)}</p>" for part in record["summary"].strip().split("\n\n")]
        heads = [f'<h3 id="{name}-lm">On a small language model</h3>', tally(record["claims"]), *summary, plates]
    else:
        heads = [f'<h3 id="{name}-figures">Figures</h3>\n{plates}'] if drawn else []
        heads.append(f'<h3 id="{name}-claims">Claims</h3>')
    return [
        *heads,
        claims_table(record),
        f'<p class="soft small">{size}Seed {settings["seed"]}; took {wording.duration(record["seconds"])}. '
        f"To run it again: <code>{text(again)}</code></p>",
    ]


def paper_section(records: Sequence[Mapping[str, Any]], read: Read) -> str:
    """A paper: what it is about, its figures, its claims; the records of its scales, exact ones first."""
    first = records[0]
    name = anchor(first["name"])
    exact = first.get("scale", "exact") == "exact"
    blocks = [
        f'<h2 id="{name}-title">{text(first["title"])}</h2>',
        f'<p class="soft small">{text(first["source"])}</p>',
        *([tally(first["claims"])] if exact else []),
        *(f"<p>{text(part)}</p>" for part in first["summary"].strip().split("\n\n") if exact),
        *(block for record in records for block in _part(record, read)),
    ]
    body = "\n".join(block for block in blocks if block)
    return f'<section class="paper" id="{name}" aria-labelledby="{name}-title">\n{body}\n</section>'


def contents(papers: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The table of contents, with the counts of each paper."""

    def counts(records: Sequence[Mapping[str, Any]]) -> str:
        parts = [wording.summary(one["claims"]) for one in records]
        small = records[-1].get("scale", "exact") == "lm"
        return (
            "; on a small language model ".join(parts)
            if len(parts) > 1
            else (f"on a small language model {parts[0]}" if small else parts[0])
        )

    items = "\n".join(
        f'<li><a href="#{anchor(records[0]["name"])}">{text(records[0]["title"])}</a>'
        f'<div class="soft small">{text(records[0]["name"])}: {text(counts(records))}</div></li>'
        for records in papers
    )
    return f'<nav aria-label="Papers">\n<ul>\n{items}\n</ul>\n</nav>'


def by_paper(records: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The records of each paper together, the exact ones first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record.get("scale", "exact") != "exact"):
        found.setdefault(record["name"], []).append(record)
    order = list(dict.fromkeys(record["name"] for record in records))
    return [found[name] for name in order]


def render(records: Sequence[Mapping[str, Any]], read: Read) -> str:
    """The whole page, from the records of claims.json and a function that reads their figure files."""
    claims = [claim for record in records for claim in record["claims"]]
    grouped = by_paper(records)
    sections = "\n".join(paper_section(several, read) for several in grouped)
    papers = wording.plural(len(grouped), "paper")
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
{contents(grouped)}
</header>
<main id="main" class="wrap">
{sections}
</main>
<footer class="wrap"><p>Made by <code>python -m papers</code> of alignjax.</p></footer>
</body>
</html>
"""
