"""`tpu flags`: compilers take every flag of the table, and the command prints what sets them."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tpu import xla_flags
from tpu.cli import main
from tpu.plan import target
from tpu.plan.chips import CHIPS, parse_topology


def test_every_chip_that_is_planned_for_has_flags_and_each_has_its_reason() -> None:
    assert set(xla_flags.VARIABLES) == {*CHIPS, "gpu"}
    for chip in xla_flags.VARIABLES:
        names = [flag.name for flag in xla_flags.flags(chip)]
        assert names and len(set(names)) == len(names)
        assert all(flag.why and flag.source and flag.name.startswith("xla_") for flag in xla_flags.flags(chip))
    assert {flag.name.startswith("xla_gpu") for flag in xla_flags.flags("gpu")} == {True}


def test_the_line_of_shell_adds_the_flags_to_those_that_are_there(capsys) -> None:
    assert main(["flags", "--chip", "v5e", "--shell"]) == 0
    line = capsys.readouterr().out
    script = f'{line} printf %s "$LIBTPU_INIT_ARGS"'
    for before in ({}, {"LIBTPU_INIT_ARGS": "--xla_mine=1"}):
        said = subprocess.run(["sh", "-uc", script], env=before, capture_output=True, text=True, check=True).stdout
        wanted = [f"--{name}={value}" for name, value in xla_flags.compiler_options("v5e").items()]
        assert said.split() == [*wanted, *before.values()]


def test_the_command(capsys) -> None:
    assert main(["flags", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"]["variable"] == "XLA_FLAGS" and found["v4"]["variable"] == "LIBTPU_INIT_ARGS"
    assert main(["flags", "--chip", "gpu"]) == 0
    said = capsys.readouterr().out
    assert all(f"{flag}\n" in said and flag.source in said for flag in xla_flags.flags("gpu"))
    for wrong, says in ((["--chip", "v5f"], "v5e"), (["--shell"], "--chip")):
        assert main(["flags", *wrong]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
def test_xla_knows_the_flags_for_gpus_and_aborts_on_one_that_it_does_not_know() -> None:
    def status(more: str) -> int:
        env = os.environ | {"XLA_FLAGS": f"{xla_flags.environment('gpu')[1]} {more}", "JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"], env=env, capture_output=True, check=False
        ).returncode

    assert status("") == 0
    assert status("--xla_gpu_no_such_flag=true") != 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_libtpu_knows_the_flags_for_tpus_and_refuses_one_that_it_does_not_know(name: str) -> None:
    pytest.importorskip("libtpu")
    mesh = target.slice_mesh(parse_topology(name), {"fsdp": 4})
    split, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("fsdp", None))
    product = jax.jit(lambda x: x @ x.T, in_shardings=split, out_shardings=whole)
    lowered = product.lower(jax.ShapeDtypeStruct((512, 512), jnp.bfloat16))
    options = xla_flags.compiler_options(name.split(":")[0])
    lowered.compile(compiler_options=options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'xla_no_such_flag'"):
        lowered.compile(compiler_options={**options, "xla_no_such_flag": "true"})
