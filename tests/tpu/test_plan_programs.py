"""`tpu plan` reads compiled programs: collectives, products, bytes and the schedule, on programs written by hand."""

import jax
import jax.numpy as jnp
import pytest

from tpu.plan import collectives, counts, hlo, schedule

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
