"""One self-contained page for an audit: the verdicts, and two small figures of what the gradient does."""

import html
import io
import json

import jax
import jax.numpy as jnp
import numpy as np

from theory.auditing.population import adam, gradient_field, instances, population_problem
from theory.auditing.report import WHY, Report
from theory.auditing.subject import Subject

_STYLE = """
:root{color-scheme:light
dark;--ink:#1b1f24;--page:#fff;--card:#f4f6f8;--line:#d5dae0;--good:#00664b;--bad:#a23a00;--mute:#57606a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--page:#14171b;--card:#1d2126;--line:#363c44;--good:#4fd1a5;--bad:#ff9d66;--mute:#a3abb5}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:0
auto;padding:1rem}
h1{font-size:1.6rem;margin:.2rem 0}.lead{font-size:1.1rem}.row{border-top:1px solid var(--line);padding:.6rem 0}
.row h3{font-size:1rem;margin:0;font-family:ui-monospace,monospace;overflow-wrap:anywhere}.row p{margin:.2rem 0}
.holds{color:var(--good)}.fails{color:var(--bad)}.mute{color:var(--mute)}b.v{display:inline-block;min-width:9.5rem}
pre{background:var(--card);padding:.6rem;overflow-x:auto;font-size:.85rem;white-space:pre-wrap;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}
figure{margin:0;background:#fff;color:#1b1f24;border-radius:.5rem;padding:.5rem}figure svg{width:100%;height:auto}
figcaption{font-size:.85rem}table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left}
"""


def _svg(figure: "object") -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figures(report: Report, subject: Subject) -> list[tuple[str, str]]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return []
    out = []
    with matplotlib.rc_context({"svg.hashsalt": "alignjax", "font.size": 9, "axes.spines.top": False}):
        if subject.kind == "pair":
            margins = np.linspace(-40.0, 40.0, 161)
            rows = {"logp": np.stack([margins / 2 - 25, -margins / 2 - 25], -1), "ref_logp": np.full((161, 2), -25.0)}
            value, gradient = subject.value_and_grad(rows)
            figure = Figure(figsize=(4, 2.8), layout="constrained")
            axis = figure.add_subplot()
            axis.plot(margins, value, color="#0072B2", label="loss")
            axis.plot(margins, gradient[:, 0], color="#D55E00", ls="--", label="slope in the chosen log-prob")
            axis.axvline(0, color="#999", lw=0.6)
            axis.set(xlabel="margin of log-ratios (nats)", title="Loss and gradient against the margin")
            axis.legend(frameon=False)
            out.append((_svg(figure), "What one pair contributes, and how hard it pulls."))
        if subject.kind != "token":
            with jax.enable_x64(True):
                case = instances(0.5)
                problem = population_problem(subject, case.ref_logp, case.reward, case.preference)
                points = [case.ref_logp]
                for steps in (5, 10, 20, 40, 80, 160, 320, 640):
                    points.append(np.asarray(adam(jnp.asarray(case.ref_logp), problem, gradient_field(subject), steps)))
            p = np.exp(np.stack(points))[:, 0]
            p = p / p.sum(-1, keepdims=True)
            order = np.argsort(-case.reward[0])
            figure = Figure(figsize=(4, 2.8), layout="constrained")
            axis = figure.add_subplot()
            for slot, colour in zip(order, ("#0072B2", "#009E73", "#E69F00", "#CC79A7"), strict=True):
                axis.plot([0, 5, 10, 20, 40, 80, 160, 320, 640], p[:, slot], color=colour, marker="o", ms=3,
                          label=f"reward {case.reward[0, slot]:+.2f}")  # fmt: skip
            axis.set_xscale("symlog", linthresh=5)
            axis.set(
                xlabel="descent steps", ylabel="probability", title="One problem's path on the simplex", ylim=(0, 1)
            )
            axis.legend(frameon=False)
            out.append(
                (_svg(figure), "Probabilities of four responses while the gradient is followed from the reference.")
            )
    return out


def page(report: Report, subject: Subject) -> str:
    """The report as HTML: no scripts, nothing loaded from elsewhere."""
    data = report.to_json()
    text = html.escape
    rows = []
    for name, found in data["properties"].items():
        style = {"holds": "holds", "fails": "fails"}.get(found["verdict"], "mute")
        value = "" if found["value"] is None else f" <span class=mute>[{text(str(found['value']))}]</span>"
        block = ""
        if found["counterexample"] is not None:
            block = f"<pre>{text(json.dumps(found['counterexample']))}</pre>"
        why = f"<p class=mute>Why it matters: {text(WHY[name][1])}.</p>" if found["verdict"] == "fails" else ""
        said = f"<p>{text(found['explanation'])}</p>" if found["explanation"] else ""
        rows.append(
            f'<div class=row><h3><b class="v {style}">{text(found["verdict"])}</b> {text(name)}{value}</h3>'
            f"<p>{text(WHY[name][0])}</p>{said}{why}{block}</div>"
        )
    figures = "".join(
        f'<figure role=img aria-label="{text(caption)}">{svg}<figcaption>{text(caption)}</figcaption></figure>'
        for svg, caption in _figures(report, subject)
    )
    note = data["destination"]
    near = "".join(f"<tr><td>{text(n)}<td>{d:.2g}" for n, d in note.get("distances", {}).items())
    distances = (
        f"<h2>Distance to known targets</h2><table><tr><th>target<th>total variation{near}</table>" if near else ""
    )
    number = note.get("temperature")
    fitted = f" (fitted number {number:.6g}, one for all instances)" if number is not None else ""
    hyper = ", ".join(f"{n} = {v}" for n, v in data["hyper"].items())
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Audit of {text(report.name)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Audit of {text(report.name)}</h1><p class=mute>kind {text(report.kind)}"
        f"{text('; ' + hyper if hyper else '')}</p><p class=lead>Descending its gradient goes to "
        f"<b>{text(report.target)}</b>{text(fitted)}. KL in its gradient: <b>{text(report.kl_in_words)}</b>.</p>"
        f"<div class=figures>{figures}</div><h2>Properties</h2>{''.join(rows)}{distances}</main></body></html>\n"
    )
