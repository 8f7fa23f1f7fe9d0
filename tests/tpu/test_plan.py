"""`tpu plan`: programs read right, counts against counts by hand, layouts refused, plans kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

import alignjax
from alignjax import lm
from tpu import cli
from tpu.mesh import make_mesh
from tpu.partition import laid_out, shardings
from tpu.plan import cache, collectives, counts, hlo, layouts, planning, program, schedule, target, work
from tpu.plan.chips import CHIPS, GIB, parse_topology
from tpu.plan.program import Request

SMALL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 1024, "hidden_size": 256,
    "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "hidden_act": "silu",
}  # fmt: skip
SMALL_PARAMETERS = 2 * 1024 * 256 + 4 * (4 * 256 * 256 + 3 * 256 * 768 + 2 * 256) + 256

_CHAIN = "replica_groups=mesh['axis_0'=8] {'axis_0'}, " + 'backend_config={"async_collective_fusion_config":{}}'
WRITTEN = """HloModule written

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %whole = f32[32,4]{1,0} all-gather(%x), channel_id=1, replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}
  %sent = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %by = s32[] constant(2)
  %next = s32[] add(%i, %by)
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%next, %x)
}

%condition (q: (s32[], f32[8,4])) -> pred[] {
  %q = (s32[], f32[8,4]{1,0}) parameter(0)
  %bound = s32[] constant(7)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%j, %bound), direction=LT
}

%begin (a: f32[8,4]) -> (f32[8,4], f32[64,4]) {
  %a = f32[8,4]{1,0} parameter(0)
  %chain = f32[64,4]{1,0} all-gather(%a), CHAIN
  ROOT %s = (f32[8,4]{1,0}, f32[64,4]{1,0}) custom-call(%chain), custom_call_target="AsyncCollectiveStart"
}

%go_on (b: f32[8,4]) -> f32[64,4] {
  %b = f32[8,4]{1,0} parameter(0)
  ROOT %chain.2 = f32[64,4]{1,0} all-gather(%b), CHAIN
}

%cheap (c: f32[8,4]) -> f32[] {
  %c = f32[8,4]{1,0} parameter(0)
  ROOT %zero.2 = f32[] constant(0)
}

%dear (d: f32[8,4]) -> f32[] {
  %d = f32[8,4]{1,0} parameter(0)
  %zero.3 = f32[] constant(0)
  ROOT %sum = f32[] all-reduce(%zero.3), replica_groups=[4,2]<=[8], to_apply=%add
}

ENTRY %main (x: f32[8,4]) -> f32[] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %two = s32[] constant(2)
  %started = (s32[], f32[8,4]{1,0}) tuple(%two, %x.1)
  %loop = (s32[], f32[8,4]{1,0}) while(%started), condition=%condition, body=%body
  %f = (f32[8,4]{1,0}, f32[64,4]{1,0}) fusion(%x.1), kind=kCustom, calls=%begin
  %g = f32[64,4]{1,0} fusion(%x.1), kind=kCustom, calls=%go_on
  %scattered = f32[1,4]{1,0} reduce-scatter(%x.1), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %either = f32[] conditional(%two, %x.1, %x.1), branch_computations={%cheap, %dear}
}
""".replace("CHAIN", _CHAIN)


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


# --- reading programs -------------------------------------------------------------------------------------------------


def test_collectives_are_counted_where_they_start_as_often_as_their_loop_runs_and_by_mesh_axis():
    found = collectives.collectives(hlo.parse(WRITTEN), {"data": 4, "tensor": 2})
    assert found == {
        "all-gather data": 3 * 32 * 4 * 4 * 3 / 4,  # the loop runs from 2 below 7 by twos
        "collective-permute tensor": 3 * 8 * 4 * 4,
        "all-gather data+tensor": 64 * 4 * 4 * 7 / 8,  # once, though two fusions carry it
        "reduce-scatter data+tensor": 8 * 4 * 4 * 7 / 8,
        "all-reduce tensor": 2 * 4 * 1 / 2,  # of the dearer branch
    }
    assert collectives.by_axis(found, {"data": 4, "tensor": 2})["data"] == 1152


BETWEEN = """HloModule between

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %go = token[] after-all()
  %send = (f32[8,4]{1,0}, u32[], token[]) send(%x, %go), channel_id=2, is_host_transfer=true, ATTRIBUTES
  %recv = (f32[8,4]{1,0}, u32[], token[]) recv(%go), channel_id=1, is_host_transfer=true, ATTRIBUTES
  %started = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%x), replica_groups={{0,1,2,3}}, dimensions={0}
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %ended = f32[32,4]{1,0} all-gather-done(%started)
  %e = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %received = (f32[8,4]{1,0}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %whole = f32[32,4]{1,0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}
}
""".replace(
    "ATTRIBUTES",
    'frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_transfer_type="ALL_REDUCE"}',
)


def test_of_an_operand_that_is_sliced_in_a_fusion_within_a_fusion_the_slice_is_read():
    text = """%inner (i: s32[], s: f32[32,8,4]) -> f32[8,4] {
  %i = s32[] parameter(0)
  %s = f32[32,8,4]{2,1,0} parameter(1)
  %one = f32[1,8,4]{2,1,0} dynamic-slice(%s, %i, %i, %i), dynamic_slice_sizes={1,8,4}
  ROOT %b = f32[8,4]{1,0} bitcast(%one)
}

%outer (j: s32[], t: f32[32,8,4], w: f32[8,4]) -> f32[8,8] {
  %j = s32[] parameter(0)
  %t = f32[32,8,4]{2,1,0} parameter(1)
  %w = f32[8,4]{1,0} parameter(2)
  %x = f32[8,4]{1,0} fusion(%j, %t), kind=kLoop, calls=%inner
  ROOT %d = f32[8,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

ENTRY %main (j: s32[], t: f32[32,8,4], w: f32[8,4]) -> f32[8,8] {
  %j = s32[] parameter(0)
  %t = f32[32,8,4]{2,1,0} parameter(1)
  %w = f32[8,4]{1,0} parameter(2)
  ROOT %f = f32[8,8]{1,0} fusion(%j, %t, %w), kind=kOutput, calls=%outer
}
"""
    found = counts.counts(hlo.parse(text), peak=1e30, bandwidth=1.0)
    assert found["bytes"] == 4 + 4 * (8 * 4 + 8 * 4 + 8 * 8)  # the index, a slice, the other operand, the result
    assert found["flops"] == 2 * 8 * 8 * 4


def test_a_collective_is_on_wires_and_not_on_the_core():
    found = counts.counts(hlo.parse(BETWEEN), peak=1e30, bandwidth=1.0)
    products = 2 * 4 * (8 * 4 + 8 * 4 + 8 * 8)
    sent = 2 * 4 * 8 * 4  # to the host and from it
    assert found["seconds"] == products + sent and found["bytes"] > found["seconds"]


def test_what_slices_say_to_each_other_is_counted_apart():
    sizes = {"data": 4, "fsdp": 4}
    found = collectives.collectives(hlo.parse(BETWEEN), sizes, slices=4)
    assert found == {"all-reduce data/dcn": 8 * 4 * 4 * 2 * 3 / 4, "all-gather fsdp": 2 * 32 * 4 * 4 * 3 / 4}
    assert collectives.by_axis(found, sizes) == {"data": 0, "fsdp": 768, "data/dcn": 192}
    with pytest.raises(ValueError, match="BROADCAST"):
        collectives.collectives(hlo.parse(BETWEEN.replace("ALL_REDUCE", "BROADCAST")), sizes, slices=4)


@pytest.mark.parametrize(
    ("wires", "between", "wanted"),
    [
        (1, 1, 2 * 10 + 1),  # both hidden behind a product; the last gather is not started beforehand
        (25, 1, 25 + 10 + 25),  # the first product does not last as long as the gather
        (1, 90, 90 + 1),  # and slices take longer than both products
    ],
)
def test_a_collective_is_hidden_from_its_start_to_its_end(wires, between, wanted):
    found = schedule.scheduled_seconds(
        hlo.parse(BETWEEN),
        lambda op, _: 10.0 if op.kind == "dot" else 0.0,
        lambda op: collectives.of_op(hlo.parse(BETWEEN), op, {"data": 4, "fsdp": 4}, 4),
        lambda kind, _: between if kind == "all-reduce data/dcn" else wires,
    )
    assert found == wanted


def test_a_collective_that_fusions_carry_along_is_hidden_until_the_one_that_ends_it():
    text = """%begin (a: f32[8,4]) -> (f32[8,4], f32[32,4]) {
  %a = f32[8,4]{1,0} parameter(0)
  %chain = f32[32,4]{1,0} all-gather(%a), replica_groups={{0,1,2,3}}, backend_config={"async_collective_fusion_config":{}}
  ROOT %s = (f32[8,4]{1,0}, f32[32,4]{1,0}) custom-call(%chain), custom_call_target="AsyncCollectiveStart"
}

%end (b: f32[32,4]) -> f32[32,4] {
  %b = f32[32,4]{1,0} parameter(0)
  ROOT %t = f32[32,4]{1,0} custom-call(%b), custom_call_target="AsyncCollectiveDone"
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %f = (f32[8,4]{1,0}, f32[32,4]{1,0}) fusion(%x), kind=kCustom, calls=%begin
  %i = f32[32,4]{1,0} get-tuple-element(%f), index=1
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %g = f32[32,4]{1,0} fusion(%i), kind=kCustom, calls=%end
  ROOT %r = (s32[], f32[8,4]{1,0}) tuple(%p, %x)
}

%condition (q: (s32[], f32[8,4])) -> pred[] {
  ROOT %q = (s32[], f32[8,4]{1,0}) parameter(0)
}

ENTRY %main (x: f32[8,4]) -> (s32[], f32[8,4]) {
  %x.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[8,4]{1,0}) while(%x.1), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501
    program_ = hlo.parse(text)
    seconds = lambda wires: schedule.scheduled_seconds(
        program_,
        lambda op, _: 10.0 if op.kind == "dot" else 0.0,
        lambda op: collectives.of_op(program_, op, {"fsdp": 4}),
        lambda *_: wires,
    )
    assert (seconds(3.0), seconds(12.0)) == (5 * 10.0, 5 * 12.0)


def test_groups_in_a_way_that_is_not_known_are_refused():
    text = WRITTEN.replace("replica_groups={{0,2,4,6},{1,3,5,7}}", "replica_groups=mesh['a'=8] {'a':(2)4}")
    with pytest.raises(ValueError, match="groups of whole"):
        collectives.collectives(hlo.parse(text), {"data": 4, "tensor": 2})


@pytest.mark.parametrize(
    ("groups", "axis", "share"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", "tensor", 3 / 4),
        ("[2,4]<=[8]", "tensor", 3 / 4),
        ("[4,2]<=[2,4]T(1,0)", "data", 1 / 2),
        ("mesh['a'=2,'b'=4] {'b'}", "tensor", 3 / 4),
        ("mesh['a'=2,'b'=4] {'a','b'}", "data+tensor", 7 / 8),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", "tensor", 3 / 4),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'b','c'}", "data", 1 / 2),
    ],
)
def test_groups_in_all_the_ways_they_are_written(groups, axis, share):
    text = (
        f"ENTRY %main () -> f32[8] {{\n  ROOT %g = f32[8]{{0}} all-gather(%x), replica_groups={groups}, dim={{0}}\n}}\n"
    )
    assert collectives.collectives(hlo.parse(text), {"data": 2, "tensor": 4}) == {f"all-gather {axis}": 32 * share}


def test_a_loop_of_products_counts_as_often_as_it_runs_where_the_cost_analysis_counts_it_once():
    n, layers = 64, 7

    def looped(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    compiled = jax.jit(looped).lower(jnp.zeros((n, n)), jnp.zeros((layers, n, n))).compile()
    found = counts.counts(hlo.parse(compiled.as_text()), peak=1e9, bandwidth=1e30)
    assert found["flops"] == layers * 2 * n**3
    assert found["seconds"] == pytest.approx(layers * 2 * n**3 / 1e9)
    analysis = compiled.cost_analysis()
    assert analysis is not None and analysis["flops"] < 2 * 2 * n**3


@pytest.mark.parametrize(
    ("out", "left", "right", "attributes", "wanted"),
    [
        ("f32[5,7]", "f32[5,3]", "f32[3,7]", "dim_labels=bf_io->bf", 5 * 7 * 3),
        # x [2, 16, 5] into 4 heads of 6: of the window over heads one place is no padding
        ("f32[2,16,4,6]", "f32[2,16,5,1]", "f32[5,4,6,1]",
         "window={size=1x4 pad=0_0x3_3 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f", 2 * 16 * 4 * 6 * 5),
        # and 4 heads of 6 back into 7: the window sums over heads
        ("f32[2,16,7,1]", "f32[2,16,4,6]", "f32[4,6,7,1]", "window={size=1x4}, dim_labels=0b1f_1io0->0bf1",
         2 * 16 * 7 * 4 * 6),
    ],
)  # fmt: skip
def test_products_that_a_compiler_writes_as_convolutions(out, left, right, attributes, wanted):
    text = (
        f"ENTRY %main (a: {left}, b: {right}) -> {out} {{\n  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n"
        f"  ROOT %c = {out} convolution(%a, %b), {attributes}\n}}\n"
    )
    assert counts.counts(hlo.parse(text), 1.0, 1.0)["flops"] == 2 * wanted


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
    assert plan.fits and plan.chips == 8 and plan.per_chip.peak_hbm_bytes > plan.per_chip.argument_bytes
    assert 0 < plan.mfu < plan.details["mfu_overlapped"] <= 1
    assert set(plan.plain()) == {
        "params", "chips", "per_chip", "fits", "step_seconds", "mfu", "compile_seconds", "assumptions"
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
@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 2, "tensor": 2}])
def test_log_probs_on_a_mesh_are_those_of_one_device(sizes):
    config = lm.DecoderConfig(vocab_size=512, tied=False)
    params = lm.init(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (16, 24), 0, 512)
    mask = jax.random.bernoulli(jax.random.key(2), 0.6, (16, 24))

    def loss(params):
        return (lm.token_logps(config, params, tokens, mask, chunk=8) * jnp.arange(24)).mean()

    mesh = make_mesh(sizes)
    where = shardings(lm.logical_axes(config), params, mesh)

    def sharded(params):
        with laid_out(mesh):
            return jax.value_and_grad(loss)(params)

    one, many = jax.value_and_grad(loss)(params), jax.jit(sharded, in_shardings=(where,))(params)
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
    assert layouts.words(layouts.chosen(job, 16)) == "fsdp=4,tensor=4"

    def asks(**changes):
        return dataclasses.replace(job, request=dataclasses.replace(job.request, **changes))

    assert layouts.words(layouts.chosen(asks(mesh=None), 16)) == "fsdp=16"
    assert layouts.words(layouts.chosen(asks(mesh=None, batch=8), 16)) == "fsdp=8,tensor=2"
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
        argument_bytes=1, temp_bytes=2, peak_hbm_bytes=3, hbm_capacity_bytes=4, flops=5, model_flops=6,
        collective_bytes={"fsdp": 7},
    )  # fmt: skip
    given = {"params": 1, "chips": 2, "per_chip": chip, "fits": True, "step_seconds": 1.0, "mfu": 0.5,
             "compile_seconds": 2.0, "assumptions": ["a"], "details": {}}  # fmt: skip
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
    request = _request("tiny", method=method, seq=16)
    job = program.read_request(request, on_tpu=False)
    assert "ref_token_logp" not in job.batch()
    text = program.lower(job, target.cpu_mesh({"data": 1, "fsdp": 4, "tensor": 2})).as_text()
    assert "num_partitions = 8" in text


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
