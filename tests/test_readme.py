"""The README's Python runs, and says what it says."""

import pathlib
import re
import shlex

import jax.numpy as jnp
import numpy as np

from theory.__main__ import main

README = pathlib.Path(__file__).parents[1] / "README.md"


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_readme_example_runs_and_its_promises_hold(capsys):
    blocks = _blocks()
    assert len(blocks) == 2
    space: dict = {}
    exec("\n".join(blocks), space)
    assert float(jnp.abs(space["gradient"]).max()) < 1e-6, "the gradient at the optimum is zero to rounding"
    np.testing.assert_allclose(np.exp(space["fitted"]), np.exp(space["optimum"]), atol=2e-4)
    # -log sigmoid(0.5 (1 - (-1))) by hand: log(1 + e^-1).
    np.testing.assert_allclose(space["loss"], [np.log1p(np.exp(-1.0))], rtol=1e-6)
    assert float(space["run"].gap) < 1e-4
    printed = capsys.readouterr().out.split()
    assert len(printed) == 2


def test_the_readme_solves_its_preference_matrix(capsys, monkeypatch):
    monkeypatch.chdir(README.parent)
    (line,) = re.findall(r"^python -m theory (solve .*--policy.*)$", README.read_text(), flags=re.MULTILINE)
    assert main(shlex.split(line, comments=True)) == 0
    out = capsys.readouterr().out
    assert "Condorcet winner    none" in out
    assert "amber > birch > cedar > amber" in out
    # Margins .12, .14, .09: each of the cycle is played by the margin of the edge it does not touch, by hand.
    assert "amber 0.4000, cedar 0.3429, birch 0.2571" in out


def test_the_ten_line_example_is_about_ten_lines():
    code = [line for line in _blocks()[0].splitlines() if line.strip()]
    assert len(code) <= 10


def test_every_file_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert len(local) >= 5
    missing = [link for link in local if not (README.parent / link).exists()]
    assert not missing
