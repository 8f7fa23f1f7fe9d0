"""`theory bench games`: the contenders do the same updates, and the command prints ratios and JSON."""

import json

import numpy as np
import pytest

from theory import __main__ as cli
from theory.benching import contenders, games

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", list(contenders.UPDATES))
def test_every_contender_does_the_updates_of_solve(name):
    skew, ref = games.workload(40, 4)
    expected = games.ours(name, skew, ref, 0.1, 0.3, 7, 7)()
    for make in (
        contenders.hand_written, contenders.numpy_loop, contenders.numpy_games_first, contenders.numpy_games_last,
    ):  # fmt: skip
        np.testing.assert_allclose(make(name, skew, ref, 0.1, 0.3, 7)(), expected, atol=2e-6, err_msg=make.__name__)


def test_a_contender_that_does_something_else_is_an_error(monkeypatch):
    other = lambda *arguments: contenders.numpy_games_last("mwu", *arguments[1:])
    monkeypatch.setattr(contenders, "numpy_games_first", other)
    with pytest.raises(RuntimeError, match="NumPy, games first does not do the same updates"):
        list(games.compare("nash_md", 40, 4, 100, 1, lambda _: None))


def test_the_command(capsys, tmp_path):
    out = tmp_path / "bench.json"
    flags = ["--games", "40", "--actions", "4", "--steps", "60", "--repeats", "1", "--solver", "mwu", "--out", str(out)]
    assert cli.main(["bench", "games", *flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    by = {line["contender"]: line for line in printed["lines"] if line["workload"].startswith("mwu")}
    mine, limit = by["alignjax"]["rate"], by["hand-written jnp"]["rate"]
    assert mine > 0 and abs(by["hand-written jnp"]["ratio"] - mine / limit) < 1e-9
    held = printed["memory_mib"]
    assert held["every policy stored"] > held["the last only"] > 0
    assert cli.main(["bench", "games", *flags]) == 0
    assert "ours is" in capsys.readouterr().out
    assert cli.main(["bench", "games", "--games", "0"]) == 2
