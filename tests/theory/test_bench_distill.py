"""`theory bench distill`: its updates are gradients of the registered losses, its laws agree, its output has ratios."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax as aj
from theory import __main__ as cli
from theory.benching import distill

pytestmark = pytest.mark.slow


def test_an_update_is_the_policy_gradient_written_out():
    """reinforce at beta = 0.1: -(1/XK) sum (r - beta h - V) grad log pi, in NumPy."""
    logits, given = distill.batch(3, 5, (1, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.zeros_like(p)
    for x in range(3):
        for j in range(4):
            y = given["index"][x, 0, j]
            weight = given["reward"][x, 0, j] - 0.1 * (np.log(p[x, y]) - given["ref_logp"][x, 0, j])
            weight -= given["value"][x, 0]
            expected[x] -= weight * (np.eye(5)[y] - p[x]) / 12
    np.testing.assert_allclose(distill.update("reinforce", 3, 5, 4)(), expected, atol=1e-6)


def test_every_method_gets_about_k_responses():
    for name in distill.METHODS:
        if name in aj.methods:
            group = distill.group_of(aj.methods[name], 8)
            assert group * max(1, 8 // group) in (6, 8), name
            assert np.isfinite(distill.update(name, 2, 6, 8)()).all(), name


def test_the_sum_as_written_is_the_law(x64):
    ref, reward = (np.asarray(x, float) for x in distill.law_instance(50))
    ref = ref - np.log(np.exp(ref).sum())
    p = np.exp(ref)
    upto = np.asarray([p[reward <= r].sum() for r in reward])
    below = np.asarray([p[reward < r].sum() for r in reward])
    expected = p * sum(upto ** (6 - i) * below ** (i - 1) for i in range(1, 7))
    found = distill.summed(jnp.asarray(ref), jnp.asarray(reward), 6)
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-12)
    np.testing.assert_allclose(found, aj.best_of_n(ref, reward, 6), atol=1e-9)


def test_a_sum_that_is_another_law_is_an_error(monkeypatch):
    monkeypatch.setitem(distill.LAWS, f"the sum of {distill.LAW_N} terms, as written",
                        lambda ref, reward: distill.summed(ref, reward, 3))  # fmt: skip
    with pytest.raises(RuntimeError, match="the sum as written is not best_of_n"):
        list(distill.laws(10_000, 1, lambda _: None))


def test_no_exact_law_has_a_square_in_it():
    """No array of A x A entries in the program of any law."""
    size = 1000
    ref, reward = distill.law_instance(size)
    for name, law in distill.LAWS.items():
        text = jax.jit(law).lower(ref, reward).as_text()
        assert f"{size}x{size}" not in text, name


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "METHODS", ("reinforce", "bond", "not_registered"))
    keep = ("best_of_n",)
    monkeypatch.setattr(distill, "LAWS", {name: distill.LAWS[name] for name in keep})
    out = tmp_path / "bench.json"
    flags = ["--prompts", "4", "--table", "20", "--group", "4", "--repeats", "1", "--largest", "10000"]
    assert cli.main(["bench", "distill", *flags, "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    by = {line["contender"]: line for line in printed["lines"]}
    assert set(by) == {"reinforce", "bond"}
    np.testing.assert_allclose(by["bond"]["ratio"], by["reinforce"]["rate"] / by["bond"]["rate"], rtol=1e-9)
    (law,) = printed["laws"]
    assert law["sizes"] == [1000, 10_000]
    np.testing.assert_allclose(law["per_doubling"], (law["seconds"][1] / law["seconds"][0]) ** np.log10(2), rtol=1e-9)
    assert cli.main(["bench", "distill", *flags]) == 0
    shown = capsys.readouterr().out
    assert "of reinforce's" in shown and "a doubling" in shown
    assert cli.main(["bench", "distill", "--prompts", "0"]) == 2
