"""CONTRIBUTING is true: its one file is found, checked and documented by scanning."""

import importlib.util
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax as aj
from alignjax import registry

GUIDE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"


def _module(path: pathlib.Path, text: str):
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    return block


def test_the_example_is_a_method_by_being_listed(tmp_path, example, x64):
    methods = registry.collect({"new": _module(tmp_path / "new_objective_a.py", example)})
    rebel = methods["rebel"]
    assert rebel.reads == ("logp", "ref_logp", "reward") and dict(rebel.defaults) == {"beta": 0.1}
    reference = jax.nn.log_softmax(jnp.asarray([0.3, -1.0, 0.5, 0.0]))
    problem = aj.Problem(ref_logp=reference, reward=jnp.asarray([1.0, 0.2, -0.5, 0.7]))
    optimum = rebel.optimum(problem, beta=0.4)
    assert float(jnp.abs(aj.population_grad(rebel, problem, optimum, beta=0.4)).max()) < 1e-12
    nearby = optimum + jnp.asarray([0.2, 0.0, -0.1, 0.0])
    assert float(jnp.abs(aj.population_grad(rebel, problem, nearby, beta=0.4)).max()) > 1e-3
    samples = aj.Samples(logp=jnp.zeros((1, 2)), ref_logp=jnp.zeros((1, 2)), reward=jnp.asarray([[1.0, 0.0]]))
    np.testing.assert_allclose(rebel(samples), [1.0])  # the docstring's worked number


def test_a_wrong_optimum_would_be_seen(tmp_path, example, x64):
    wrong = example.replace('rewards_or_raise("rebel"), beta)', 'rewards_or_raise("rebel"), 2 * beta)')
    assert wrong != example
    rebel = registry.collect({"new": _module(tmp_path / "new_objective_b.py", wrong)})["rebel"]
    problem = aj.Problem(ref_logp=jnp.log(jnp.full(3, 1 / 3)), reward=jnp.asarray([1.0, 0.2, -0.5]))
    assert float(jnp.abs(aj.population_grad(rebel, problem, rebel.optimum(problem, beta=0.4), beta=0.4)).max()) > 1e-3


def test_a_duplicate_name_and_a_misspelt_field_raise(tmp_path, example):
    module = _module(tmp_path / "new_objective_c.py", example)
    with pytest.raises(ValueError, match="two methods are named 'rebel'"):
        registry.collect({"a": module, "b": module})
    with pytest.raises(aj.UnknownName, match="did you mean 'reward'"):
        _module(tmp_path / "new_objective_d.py", example.replace("reward: Pair", "rewardd: Pair"))
