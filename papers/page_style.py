"""The style sheet of the page of results: for phones, the dark and print."""

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
