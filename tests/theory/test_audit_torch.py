"""The audit of functions of torch tensors: without PyTorch a plain sentence, with it the verdicts of JAX functions."""

import argparse
import importlib.util
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory import losses_to_audit as of_jax
from theory.auditing import from_torch
from theory.auditing.command import add_arguments
from theory.auditing.run import PROPERTIES, audit
from theory.auditing.subject import AuditError, subject_of

MODULE = "tests.theory.torch_losses"


def test_without_torch_the_message_says_what_is_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    with pytest.raises(AuditError, match=r"needs PyTorch: pip install torch \(the extra `parity`\)"):
        audit(of_jax.right_pair, framework="torch")


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_a_module_that_imports_torch_says_so():
    with pytest.raises(
        AuditError, match=r"cannot import .*No module named 'torch'; .* need PyTorch: pip install torch"
    ):
        audit(f"{MODULE}:dpo")


def test_an_unknown_framework_is_refused():
    with pytest.raises(AuditError, match="framework must be one of jax, torch, got 'numpy'"):
        audit(of_jax.right_pair, framework="numpy")


def in_module(source: str, **modules: str) -> types.FunctionType:
    names = {alias: types.ModuleType(name) for alias, name in modules.items()}
    exec(source, names)
    return names["f"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("source", "modules", "found"),
    [
        ("def f(a, b): return a", {}, False),
        ("def f(a, b): return a", {"torch": "torch"}, True),
        ("def f(a, b): return a", {"F": "torch.nn.functional"}, True),
        ("def f(a, b): return a", {"torch": "torch", "jnp": "jax.numpy"}, False),
        ("def f(a: 'torch.Tensor', b): return a", {"torch": "torch", "jnp": "jax.numpy"}, True),
        (
            "class C:\n    def __call__(self, a, b): return a\n    __annotations__ = {'a': 'torch.Tensor'}\nf = C()",
            {},
            True,
        ),
    ],
)
def test_whose_function_it_is_is_read_from_it(source, modules, found):
    assert from_torch.uses_torch(in_module(source, **modules)) is found


def test_the_command_has_the_flag():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["m:f", "--torch"]).torch and not parser.parse_args(["m:f"]).torch


@pytest.fixture(scope="module")
def losses():
    pytest.importorskip("torch")
    return importlib.import_module(MODULE)


BATCH = {"logp": [[-1.0, -2.0], [-3.0, -0.5]], "ref_logp": [[-1.5, -1.0], [-2.0, -2.5]]}


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_those_of_the_same_jax_function(losses, dtype):
    with jax.enable_x64(True):
        batch = {name: jnp.asarray(x, dtype) for name, x in BATCH.items()}
        ours, theirs = subject_of(of_jax.right_pair), subject_of(losses.dpo)
        assert (ours.framework, theirs.framework) == ("jax", "torch")
        assert theirs.raw(batch).dtype == jnp.dtype(dtype)
        tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
        for a, b in zip(ours.value_and_grad(batch), theirs.value_and_grad(batch), strict=True):
            np.testing.assert_allclose(b, a, rtol=tolerance)
        compiled = jax.jit(jax.vmap(lambda x: theirs.rows({"logp": x, "ref_logp": batch["ref_logp"]})))
        stacked = jnp.stack([batch["logp"], batch["ref_logp"]])
        expected = [theirs.rows({**batch, "logp": x}) for x in stacked]
        np.testing.assert_allclose(compiled(stacked), np.stack(expected), rtol=tolerance)


@pytest.mark.long
@pytest.mark.parametrize("wide", [False, True])
def test_a_scalar_loss(losses, wide):
    with jax.enable_x64(wide):
        batch = {name: jnp.asarray(x) for name, x in BATCH.items()}
        subject = subject_of(losses.ipo_mean)
        # Margins 1.5 and -3, target 5; d/dx of the mean of (x - 5)^2 is x - 5.
        total = lambda x: subject.raw({**batch, "logp": x})
        for grad in (jax.grad(total), jax.jit(jax.grad(total))):
            np.testing.assert_allclose(grad(batch["logp"]), [[-3.5, 3.5], [-8.0, 8.0]], rtol=1e-6)


@pytest.mark.long
def test_bfloat16_goes_in_and_comes_out(losses):
    batch = {name: jnp.asarray(x, jnp.bfloat16) for name, x in BATCH.items()}
    assert subject_of(losses.dpo).raw(batch).dtype == jnp.bfloat16


@pytest.mark.long
def test_a_second_derivative_is_refused(losses):
    subject = subject_of(losses.dpo)
    batch = {name: jnp.asarray(x) for name, x in BATCH.items()}
    once = jax.grad(lambda x: subject.raw({**batch, "logp": x}).sum())
    with pytest.raises(NotImplementedError, match="second derivatives of a function of torch tensors"):
        jax.grad(lambda x: once(x).sum())(batch["logp"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "name", "verdict"),
    [
        ("dpo", "gradient_correct", "holds"),
        ("ipo_mean", "gradient_correct", "holds"),
        ("reinforce", "gradient_correct", "holds"),  # detach and no_grad are held
        ("of_values", "gradient_correct", "holds"),  # a loop where torch.func.vmap gives up
        ("wrong_gradient", "gradient_correct", "fails"),
        ("reinforce", "statistics_detached", "holds"),
        ("undetached", "statistics_detached", "fails"),
        ("dpo", "extremes", "holds"),
        ("overflowing", "extremes", "fails"),
        ("k2_tokens", "masked_tokens_inert", "holds"),
        ("ipo_mean", "batch_separable", "holds"),
    ],
)
def test_defects_of_torch_functions_are_caught_and_sound_ones_pass(losses, loss, name, verdict):
    assert PROPERTIES[name](subject_of(getattr(losses, loss))).verdict == verdict


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("off_the_graph", "not differentiable by PyTorch in 'logp': TypeError: its result has no grad_fn"),
        ("no_way_back", "not differentiable by PyTorch in 'logp': RuntimeError: there is no way back"),
        ("raising", "raised RuntimeError on a plain batch: the judge is asleep"),
        ("wrong_shape", r"returned shape \(3, 2\) for a batch of 3"),
    ],
)
def test_what_cannot_be_audited_is_said_plainly(losses, loss, says):
    with pytest.raises(AuditError, match=says):
        audit(getattr(losses, loss))


@pytest.mark.long
def test_where_a_torch_loss_goes(losses):
    report = audit(losses.dpo, hyper={"beta": 0.3})
    assert report.target == "gibbs" and report.destination["temperature"] == pytest.approx(0.3, rel=1e-4)
    assert report.properties["jit_consistent"].verdict == "does not apply"
    assert report.properties["vmap_consistent"].explanation == "it is PyTorch that runs the function, as it is"
    assert json.loads(json.dumps(report.to_json()))["target"] == "gibbs"
    assert audit(losses.reinforce, properties=("kl_direction",)).kl == "reverse"
