"""The audited field: its records, its conversions, what the command answers, and a planted mistake."""

import argparse
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.checks import UnknownName
from theory.auditing.report import WHY
from theory.auditing.run import audit
from theory.auditing.subject import KINDS
from theory.field import command, entries, losses, packages, page
from theory.field import run as running
from theory.field.dictionary import ROWS
from theory.field.entries import ENTRIES, by_id
from theory.field.record import good


def test_the_records_are_sound():
    assert len(by_id()) == len(ENTRIES) >= 14
    for entry in ENTRIES:
        assert entry.kind in (*KINDS, "exact") and entry.expected and entry.right and entry.remark and entry.where
        assert set(entry.expected) <= {"kl", "target", *WHY, *entry.checks}, entry.id
        assert set(entry.checks) <= set(entry.expected) and (
            ("kl" in entry.expected) == ("kl_direction" in entry.expected)
        )
        assert entry.theirs is None or entry.verified
    assert {e.id for e in ENTRIES if e.ours and e.sound} >= {"ours/nash-md-kl-to-go"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.check.__name__)
def test_every_conversion_of_the_dictionary(row):
    with jax.enable_x64(True):
        assert row.check() < 1e-9


def test_the_dictionary_covers_the_words():
    assert {"beta", "tau", "eta", "ipo", "kl"} <= {row.symbol for row in ROWS}
    text = page.dictionary_page()
    assert all(row.check.__doc__ for row in ROWS) and text.count("\n|") == len(ROWS) + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["tunix/grpo-kl", "easydel/nash-md-kl", "trl/nash-md-kl", "verl/low-var-kl", "open-instruct/wpo", "ipo/mean"],
)
def test_findings_are_the_ones_recorded(name):
    found = running.examine(by_id()[name])
    assert found.as_recorded, found.observed
    assert found.example or found.entry.sound or "target" in found.observed


@pytest.mark.slow
def test_optax_itself():
    found = running.examine(by_id()["optax/kl-divergence"])
    assert found.as_recorded and found.executed == "executed"
    # By hand: policy (1/2, 1/2), reference (1/4, 3/4): sum ref (log ref - log policy), gradient policy - ref.
    value = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert f"value {value:.4f}".rstrip("0") in found.example and "gradient [0.25, -0.25]" in found.example


@pytest.mark.slow
def test_a_planted_wrong_expectation_is_an_exit_of_1(monkeypatch, capsys):
    wrong = dataclasses.replace(by_id()["ipo/scaled"], expected={"finite_on_separable": "fails"})
    monkeypatch.setattr(running, "select", lambda patterns: [wrong])
    assert command.run(_arguments("ipo/scaled")) == 1
    out = capsys.readouterr().out
    assert "DIFFERS from what is recorded: finite_on_separable is holds, recorded fails" in " ".join(out.split())
    assert command.run(_arguments("ipo/scaled", "--json")) == 1
    assert json.loads(capsys.readouterr().out)["differ"] == ["ipo/scaled"]


@pytest.mark.slow
def test_what_is_as_recorded_is_an_exit_of_0_defects_included(tmp_path, capsys):
    assert command.run(_arguments("open-instruct/wpo", "--out", str(tmp_path))) == 0
    written = json.loads((tmp_path / "field.json").read_text())
    (only,) = written["entries"]
    assert written["ok"] and only["observed"]["chosen_first_goes_up"] == "fails"
    assert "open-instruct/wpo" in capsys.readouterr().out


def _arguments(*given):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(given)


def test_usage_errors(tmp_path, capsys):
    assert command.run(_arguments("tunix/grpo-kll")) == 2
    assert "did you mean 'tunix/grpo-kl'" in capsys.readouterr().err
    assert command.run(_arguments("tunix", "--docs")) == 2
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert command.run(_arguments("tunix", "--out", str(blocked / "deeper"))) == 2
    with pytest.raises(UnknownName):
        running.select(["nothing-of-the-kind"])


def test_selection():
    assert [e.id for e in running.select(["tunix"])] == ["tunix/grpo-kl", "tunix/grpo-mse-kl", "tunix/grpo-low-var-kl"]
    assert [e.id for e in running.select(["ipo/*"])] == ["ipo/sum", "ipo/mean", "ipo/scaled"]
    assert running.select([]) == list(ENTRIES)


def test_a_function_is_cut_from_an_installed_package(tmp_path, monkeypatch):
    """Without importing the package, whose __init__ may need all the world."""
    where = tmp_path / "tunix" / "rl"
    where.mkdir(parents=True)
    (tmp_path / "tunix" / "__init__.py").write_text("raise ImportError('a framework is missing')\n")
    (where / "common.py").write_text(
        "import nothing_that_exists\n"
        "def compute_kl_divergence(a: Missing, b, method: str = 'k'):\n    return {'kl': a - b, 'mse_kl': a}[method]\n"
        "def aggregate_loss(x, mask, mode):\n    return (x * mask).sum() / mask.sum()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kl, mse = entries._tunix("kl")(), entries._tunix("mse_kl")()
    assert kl is not None and mse is not None
    np.testing.assert_allclose(kl(jnp.asarray([[-1.0, -2.0]]), jnp.asarray([[-2.0, -2.0]]), jnp.ones((1, 2))), 0.5)
    assert running.agrees(by_id()["tunix/grpo-kl"], kl)
    # A package whose function is not what we wrote down is not passed over.
    assert not running.agrees(by_id()["tunix/grpo-mse-kl"], mse)
    assert packages.cut("tunix", "rl/common.py", "another") is None
    assert packages.cut("tunix", "rl/missing.py", "compute_kl_divergence") is None
    assert packages.cut("no_such_package_at_all", "x.py", "f") is None


def test_a_function_that_jit_refuses_is_seen():
    import math

    def refuses(pc, pr, rc, rr, beta=0.1):
        return (pc - pr - rc + rr) * math.log(jnp.maximum(beta, 1e-3))

    assert not running._compiles(by_id()["easydel/exo-pair"], refuses)
    assert running._compiles(by_id()["easydel/exo-pair"], losses.exo_pair)


def test_good_and_bad_findings():
    assert good("kl", "reverse") and not good("kl", "none") and not good("extremes", "fails [x]")
    assert good("target", "unknown") and good("length_sum", "holds [sum]")


def test_transcriptions_are_runnable_by_anyone():
    report = audit("theory.field.losses:hinge", properties=("shift_invariant",))
    assert report.properties["shift_invariant"].verdict == "holds"


@pytest.mark.long
def test_the_pages_are_those_of_a_run():
    from theory.field.command import DOCS

    findings = [running.examine(entry) for entry in ENTRIES]
    assert all(f.as_recorded for f in findings)
    assert (DOCS / "field.md").read_text(encoding="utf-8") == page.field_page(findings)


def test_the_dictionary_page_is_current():
    from theory.field.command import DOCS

    assert (DOCS / "dictionary.md").read_text(encoding="utf-8") == page.dictionary_page()
