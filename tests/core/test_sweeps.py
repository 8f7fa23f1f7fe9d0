"""Sweeps over 8 virtual devices: who computes what, the same numbers as on one, and what cannot be."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax as aj
from alignjax.sweeps import number_of_devices, over, spread
from papers import copg_experiments, game_survey_runs
from papers.cli import main as papers
from papers.record import Settings
from theory.__main__ import main as theory


def parts(x: jax.Array) -> int:
    """Different parts that the devices hold."""
    return len({str(shard.index) for shard in x.addressable_shards})


@pytest.mark.parametrize(
    "devices, rows, expected", [(8, 16, 8), (8, 20, 4), (8, 3, 1), (6, 12, 6), (6, 3, 3), (1, 16, 1), (8, 0, 8)]
)
def test_an_axis_is_spread_over_as_many_devices_as_divide_it(devices: int, rows: int, expected: int) -> None:
    given = np.arange(rows * 2.0).reshape(rows, 2)
    with over(devices):
        found = spread({"a": jnp.asarray(given), "scale": 2.0})
    assert found["scale"] == 2.0 and isinstance(found["scale"], float)
    assert len(found["a"].sharding.device_set) == devices
    assert parts(found["a"]) == (expected if rows else 1)
    np.testing.assert_array_equal(found["a"], given)


def test_outside_nothing_is_touched() -> None:
    x = jnp.ones(8)
    assert spread(x) is x
    with over(8), over(1):
        assert spread(x) is x
    assert spread(x) is x


def test_each_device_does_its_part() -> None:
    """Per device the program of 16 rows on 8 devices is that of 2 rows: no collective, an eighth of the result."""
    with over(8):
        rows = spread(jnp.ones((16, 4)))
        compiled = jax.jit(jax.vmap(lambda x: jnp.sin(x) / jnp.cos(x).sum())).lower(rows).compile()
    text = compiled.as_text()
    assert "f32[2,4]" in text and "f32[16,4]" not in text
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all"))


@pytest.mark.slow
def test_games_are_solved_alike() -> None:
    preference = aj.games.random_preference(jax.random.key(0), 4, (16,))
    game = aj.games.PreferenceGame(preference=preference, tau=0.3)
    one = aj.games.solve(game, "egpo", num_steps=50)
    nash = aj.games.nash(game)
    with over(8):
        shared = spread(game)
        eight = aj.games.solve(shared, "egpo", num_steps=50)
        assert parts(eight.logp) == parts(shared.preference) == 8
        np.testing.assert_allclose(eight.trajectory, one.trajectory, rtol=0, atol=1e-6)
        np.testing.assert_allclose(aj.games.nash(shared), nash, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_bandit_is_trained_alike(x64: None) -> None:  # as papers are run
    counts = np.random.default_rng(0).multinomial(
        copg_experiments.BATCH, np.full(18, 1 / 18), (8, 2 * copg_experiments.STEPS)
    )
    counts = jnp.asarray(counts.reshape(8, -1, 3, 3, 2))
    one = copg_experiments._trained(counts)
    with over(8):
        eight = copg_experiments._trained(spread(counts))
    assert parts(eight) == 8
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_theory_checks_the_same_instances(capsys: Any) -> None:
    def check(*more: str) -> dict[str, Any]:
        assert theory(["check", "rl/C10", "--instances", "20", "--json", *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    one, eight = check(), check("--devices", "8")
    slacks = lambda found: [
        [s["smallest_slack"], *(m["smallest_slack"] for m in s["mutants"])] for s in found["statements"]
    ]
    assert len(slacks(one)[0]) > 1
    np.testing.assert_allclose(np.array(slacks(eight), float), np.array(slacks(one), float), rtol=1e-6, atol=1e-12)


def test_a_paper_spreads_its_games() -> None:
    with over(8):
        game = game_survey_runs.games_at(Settings(quick=True), 0.3)
        assert parts(game.preference) == parts(game.ref_logp) == 8  # of 32 games


@pytest.mark.parametrize(
    "text, says",
    [
        ("9", "devices = 9, but there are 8: XLA_FLAGS=--xla_force_host_platform_device_count=9 makes virtual ones"),
        ("0", "devices must be a number >= 1, or all; got '0'"),
        ("most", "devices must be a number >= 1, or all; got 'most'"),
    ],
)
def test_what_cannot_be_is_said(text: str, says: str, capsys: Any) -> None:
    with pytest.raises(ValueError, match="devices") as error:
        number_of_devices(text)
    assert says in str(error.value)
    assert theory(["check", "games/I1", "--devices", text]) == 2 and says in capsys.readouterr().err
    assert papers(["nash-md", "--quick", "--devices", text]) == 2 and says in capsys.readouterr().err


def test_devices_are_counted_and_models_are_trained_on_one(capsys: Any) -> None:
    assert (number_of_devices("all"), number_of_devices("3")) == (8, 3)
    assert papers(["bond", "--scale", "lm", "--quick", "--devices", "2"]) == 2
    assert "--devices is for --scale exact" in capsys.readouterr().err
