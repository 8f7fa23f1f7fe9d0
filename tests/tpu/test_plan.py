"""`tpu plan`: counts against counts by hand, slices, layouts refused, plans kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alignjax
from alignjax import lm
from tests.tpu.small_llama import SMALL
from tpu import cli
from tpu.layouts import words
from tpu.mesh import make_mesh
from tpu.partition import laid_out, shardings
from tpu.plan import cache, layouts, planning, program, target, work
from tpu.plan.chips import CHIPS, GIB, parse_topology
from tpu.plan.program import Request

SMALL_PARAMETERS = 2 * 1024 * 256 + 4 * (4 * 256 * 256 + 3 * 256 * 768 + 2 * 256) + 256


def _close(found: float, wanted: float, share: float = 0.05) -> None:
    assert abs(found / wanted - 1) < share, (found, wanted)


@pytest.fixture
def small(tmp_path) -> str:
    """A config.json."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL))
    return str(file)


def _request(model: str, **changes) -> Request:
    given = {"topology": "v5e:2x4", "batch": 8, "seq": 128, "dtype": "float32", "reference_dtype": "float32"}
    return Request(model=model, **given | changes)


# --- counts by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),
    [("llama3-8b", 8_030_261_248), ("llama3-70b", 70_553_706_496), ("llama3.2-1b", 1_235_814_400)],
)
def test_parameters_of_published_models(name, published):
    assert program.parameters(program.read_request(_request(name)).shapes()) == published


def test_a_token_of_dpo_costs_8_n_and_attention():
    job = program.read_request(_request("llama3-8b", batch=64, seq=2048, topology="v5e:8x8"))
    tokens = 64 * 2 * 2048
    attention = 4 * 4 * 4096 * 32 * 2048 / 2  # 4 passes, 4 T d a layer and token, half of it causal
    assert work.model_flops(job) == pytest.approx((8 * 8_030_261_248 + attention) * tokens)
    alone = dataclasses.replace(job, request=dataclasses.replace(job.request, precomputed="reference"))
    assert work.model_flops(alone) == pytest.approx(work.model_flops(job) * 3 / 4)
    assert "ref_token_logp" in alone.batch() and "ref_token_logp" not in job.batch()


@pytest.mark.parametrize(
    ("name", "seq", "local", "layers"), [("gemma3-1b", 8192, 22, 26), ("mistral-7b", 16384, 32, 32)]
)
def test_a_local_layer_needs_what_its_window_sees(name, seq, local, layers):
    """Pairs of a token and one that it sees, one by one; five of six layers of Gemma 3 are local, of Mistral all."""
    job = program.read_request(_request(name, batch=1, seq=seq))
    c, before = job.config, np.arange(seq) + 1
    pairs = local * np.minimum(before, c.window).sum() + (layers - local) * before.sum()
    parameters = 8 * program.parameters(job.shapes()) * 2 * seq
    attention = 4 * 4 * c.num_heads * c.head_size * pairs * 2  # 4 passes, 4 H a head and pair, two responses
    assert work.model_flops(job) - parameters == pytest.approx(attention, rel=1e-3)
    assert work.attention_flops(job, 4) == pytest.approx(4 * 4 * c.num_heads * c.head_size * seq**2 * layers, rel=1e-3)


@pytest.mark.slow
def test_the_compiled_step_of_a_small_model_has_the_counts_made_by_hand(small):
    mesh = target.cpu_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    request = _request(small, mesh="fsdp=8")
    plan = planning.make_plan(request, mesh)
    job = program.read_request(request, on_tpu=False)
    assert plan.params == SMALL_PARAMETERS
    passes, tokens, head = 5, 8 * 2 * 128, 1024 * 256  # reference, policy, policy again, backwards twice a pass
    down = 4 * 768 * 256  # which is not made again: nothing backwards reads its result
    layers = SMALL_PARAMETERS - 2 * head
    attention = 4 * 4 * 256 * 128  # 4 T d a layer and token: plain attention does what causality hides
    wanted = tokens * (2 * (passes * layers - down) + 5 * 2 * head + passes * attention) / 8
    _close(plan.per_chip.flops, wanted, 0.02)
    gathered = (3 * layers + 2 * head) * 4 * 7 / 8  # twice for the policy, once for the reference; the head once each
    _close(plan.details["collectives"]["all-gather fsdp"], gathered, 0.01)
    assert work.gathered_bytes(job, 8, 4) == gathered
    _close(plan.per_chip.argument_bytes, 4 * 4 * SMALL_PARAMETERS / 8)
    assert plan.per_chip.model_flops == int(work.model_flops(job) / 8)
    assert plan.fits and plan.chips == 8 and plan.per_chip.temp_bytes > 0
    assert plan.per_chip.argument_bytes + plan.per_chip.temp_bytes == plan.per_chip.peak_hbm_bytes
    parts = plan.details["argument_bytes"]
    assert sum(parts.values()) == plan.per_chip.argument_bytes and abs(parts["other"]) < 1e-3 * sum(parts.values())
    assert 0 < plan.mfu < plan.details["mfu_overlapped"] <= 1
    assert set(plan.plain()) == {
        "params", "chips", "per_chip", "fits", "step_seconds", "mfu", "compile_seconds", "compile_cpu_seconds",
        "assumptions",
    }  # fmt: skip
    cached = cache.Plan(**json.loads(json.dumps(plan.plain(details=True))) | {"per_chip": plan.per_chip})
    assert cached == plan


@pytest.mark.parametrize(
    "said",
    [
        "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) exceeds available HBM.",
    ],
)
def test_a_program_that_the_compiler_refuses_is_a_plan_that_does_not_fit(monkeypatch, said):
    class Refused:
        def compile(self, **_):
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")

    monkeypatch.setattr(planning, "lower", lambda *_: Refused())
    mesh = target.cpu_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    plan = planning.make_plan(_request("llama3-8b", reference_dtype="bfloat16"), mesh)
    assert not plan.fits and plan.per_chip.peak_hbm_bytes == int(20.5 * GIB)
    _close(plan.per_chip.argument_bytes, 8_030_261_248 * 14 / 8, 1e-6)
    assert "does not fit" in plan.assumptions[0]


@pytest.mark.slow
def test_log_probs_in_chunks_on_a_mesh_are_those_of_one_device():
    config = lm.DecoderConfig(vocab_size=32, d_model=16, d_mlp=16, num_layers=1, num_heads=2, tied=False)
    params = lm.init(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (8, 24), 0, 32)
    mask = jax.random.bernoulli(jax.random.key(2), 0.6, (8, 24))

    def loss(params):
        return (lm.token_logps(config, params, tokens, mask, chunk=8) * jnp.arange(24)).mean()

    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    where = shardings(lm.logical_axes(config), params, mesh)

    def sharded(params):
        with laid_out(mesh):
            return jax.value_and_grad(loss)(params)

    one, many = (f(params) for f in (jax.jit(jax.value_and_grad(loss)), jax.jit(sharded, in_shardings=(where,))))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        assert jnp.abs(a - b).max() <= 1e-5 * jnp.abs(a).max()


# --- slices and layouts -----------------------------------------------------------------------------------------------


def test_slices():
    slice_ = parse_topology("v5p:4x4x8")
    assert slice_.size == 128 and str(slice_) == "v5p:4x4x8"
    assert slice_.axis_bandwidth((2,)) == 2 * CHIPS["v5p"].link  # a ring: both ways
    assert parse_topology("v5p:4x4x2").axis_bandwidth((0, 1)) == 2 * CHIPS["v5p"].link  # two lines
    assert parse_topology("v5e:16x16").axis_bandwidth((0,)) == 2 * parse_topology("v5e:8x8").axis_bandwidth((0,))
    assert slice_.axis_bandwidth((2,), whole=False) == CHIPS["v5p"].link
    assert CHIPS["v5e"].usable == int(15.75 * GIB)
    for bad, said in (("v5e", "v5e:4x4"), ("v5e:4x4x4", "2 sizes"), ("v5p:4x4", "3 sizes"), ("v5f:4x4", "v5e")):
        with pytest.raises(ValueError, match=said):
            parse_topology(bad)


def test_layouts_that_do_not_fit_are_refused_with_the_nearest_that_does():
    job = program.read_request(_request("llama3-8b", topology="v5e:4x4", batch=16, mesh="fsdp=4,tensor=4"))
    assert words(layouts.chosen(job, 16)) == "fsdp=4,tensor=4"

    def asks(**changes):
        return dataclasses.replace(job, request=dataclasses.replace(job.request, **changes))

    assert words(layouts.chosen(asks(mesh=None), 16)) == "fsdp=16"
    assert words(layouts.chosen(asks(mesh=None, batch=8), 16)) == "fsdp=8,tensor=2"
    with pytest.raises(ValueError, match=r"'kv_heads' of size 8 .*tensor=16.*nearest that fits is fsdp=2,tensor=8"):
        layouts.chosen(asks(mesh="tensor=16"), 16)
    with pytest.raises(
        ValueError, match=r"tokens: axis 'prompt' of size 8 .*fsdp=16.*nearest that fits is fsdp=8,tens"
    ):
        layouts.chosen(asks(batch=8, mesh="fsdp=16"), 16)
    with pytest.raises(ValueError, match=r"has 8 devices, there are 16; the nearest that fits is fsdp=16"):
        layouts.chosen(asks(mesh="fsdp=8"), 16)
    with pytest.raises(ValueError, match=r"no mesh of 16 chips fits"):
        layouts.chosen(asks(mesh=None, batch=1), 16)


# --- the command and the kept plans -----------------------------------------------------------------------------------


def _plan(**changes) -> planning.Plan:
    chip = planning.PerChip(
        argument_bytes=1, temp_bytes=2, peak_hbm_bytes=3, program_bytes=1, hbm_capacity_bytes=4, flops=5, model_flops=6,
        collective_bytes={"fsdp": 7},
    )  # fmt: skip
    given = {"params": 1, "chips": 2, "per_chip": chip, "fits": True, "step_seconds": 1.0, "mfu": 0.5,
             "compile_seconds": 2.0, "compile_cpu_seconds": 3.0, "assumptions": ["a"],
             "details": {"mesh": {"fsdp": 2}}}  # fmt: skip
    return planning.Plan(**given | changes)


def test_plans_are_kept_by_request_and_a_broken_file_is_none(tmp_path):
    request = _request("llama3-8b")
    name = cache.key(request)
    assert cache.read(name, tmp_path) is None
    cache.write(name, _plan(), tmp_path)
    assert cache.read(name, tmp_path) == _plan()
    assert cache.key(request) == name != cache.key(dataclasses.replace(request, batch=16))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:20])
    assert cache.read(name, tmp_path) is None


ASKED = ["plan", "--model", "llama3-8b", "--topology", "v5e:4x4", "--batch", "16", "--json", "--fresh"]


def test_the_command_prints_one_object_and_its_status_says_whether_it_fits(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cache, "write", lambda *_: None)
    monkeypatch.setattr(target, "has_libtpu", lambda: True)  # the plan is made up
    for fits, status in ((True, 0), (False, 1)):
        monkeypatch.setattr(planning, "make_plan", lambda request, fits=fits: _plan(fits=fits))
        assert cli.main(ASKED) == status
        found = json.loads(capsys.readouterr().out)
        assert found["fits"] is fits and found["per_chip"]["collective_bytes"] == {"fsdp": 7}


def test_without_libtpu_the_command_names_what_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(target, "has_libtpu", lambda: False)
    assert cli.main(ASKED) == 1
    assert "make setup-pods" in capsys.readouterr().err
    for wrong, said in (("--mesh=tensor=16", "kv_heads"), ("--method=dop", "dpo"), ("--seq=9000", "8192")):
        assert cli.main([*ASKED, wrong]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("method", list(alignjax.methods))
def test_the_step_of_every_method_is_lowered_for_a_mesh(method):
    request = _request("tiny", method=method, seq=16, history=3)
    job = program.read_request(request, on_tpu=False)
    assert "ref_token_logp" not in job.batch()
    lowered = program.lower(job, target.cpu_mesh({"data": 1, "fsdp": 4, "tensor": 2}))
    assert "num_partitions = 8" in lowered.as_text()
    opponents = {x.shape[0] for x in jax.tree.leaves(lowered.args_info[0][0].history)}
    assert opponents == ({3} if "opponent" in job.models else set())


@pytest.mark.long
def test_llama3_8b_on_64_chips():
    pytest.importorskip("libtpu")
    request = Request(model="llama3-8b", topology="v5e:8x8", batch=64, seq=2048)
    plan, n = planning.make_plan(request), 8_030_261_248
    job = program.read_request(request)
    _close(plan.per_chip.argument_bytes, n * (3 * 4 + 2) / 64, 0.001)
    _close(plan.per_chip.flops, work.executed_flops(job) / 64)
    _close(plan.per_chip.model_flops, (8 * n + 4 * 4 * 4096 * 32 * 2048 / 2) * 4096, 0.001)
    keys_and_values = 3 * 32 * 2 * 4096 * 1024 * 2 * 63 / 64  # so small that libtpu gathers them by an all-reduce
    _close(plan.details["collectives"]["all-gather fsdp"] + keys_and_values, work.gathered_bytes(job, 64, 2), 0.01)
    assert plan.fits


@pytest.mark.long
def test_a_slice_that_is_not_here(small):
    pytest.importorskip("libtpu")
    request = _request(small, dtype="bfloat16", reference_dtype="bfloat16", mesh="fsdp=8")
    plan = planning.make_plan(request)
    job = program.read_request(request)
    assert job.config.attention == "flash"
    _close(plan.per_chip.flops, work.executed_flops(job) / 8)
    _close(plan.details["collectives"]["all-gather fsdp"], work.gathered_bytes(job, 8, 2), 0.01)
    assert plan.per_chip.argument_bytes >= SMALL_PARAMETERS * (3 * 4 + 2) / 8  # small arrays are padded to tiles


@pytest.mark.long
def test_two_slices_that_are_not_here(small):
    pytest.importorskip("libtpu")
    request = _request(small, dtype="bfloat16", reference_dtype="bfloat16", batch=16, slices=2)
    plan = planning.make_plan(request)
    assert plan.chips == 16 and plan.details["mesh"]["data"] == 2 and plan.details["mesh"]["fsdp"] == 8
    between = plan.per_chip.collective_bytes["data/dcn"]
    _close(between, SMALL_PARAMETERS / 8 * 2 * 2 * 1 / 2, 0.1)  # gradients in bfloat16, summed over two
    _close(plan.details["roofline_seconds"]["dcn"], between / (25e9 / 8), 1e-6)
    _close(
        plan.details["collectives"]["all-gather fsdp"], work.gathered_bytes(program.read_request(request), 8, 2), 0.01
    )
