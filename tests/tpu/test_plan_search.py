"""`tpu plan --search` and the batch that fits: what is dropped by hand counts, what is compiled, how it is ranked."""

import dataclasses
import json
import re

import pytest

from tpu import cli, layouts
from tpu.plan import cache, planning, program, search, table, work
from tpu.plan.chips import GIB, parse_topology
from tpu.plan.program import Request

EIGHT = Request(model="llama3-8b", topology="v5e:4x4", batch=32)


def _sizes(request: Request) -> dict[str, int]:
    return layouts.sizes_of(request.mesh, parse_topology(request.topology).size)


def _made(request: Request, *, fits: bool = True, step: float = 1.0) -> planning.Plan:
    chip = planning.PerChip(
        argument_bytes=1, temp_bytes=2, peak_hbm_bytes=3, program_bytes=1, hbm_capacity_bytes=4, flops=5, model_flops=6,
        collective_bytes={},
    )  # fmt: skip
    return planning.Plan(
        params=1, chips=16, per_chip=chip, fits=fits, step_seconds=step, mfu=0.5, compile_seconds=2.0,
        compile_cpu_seconds=3.0, assumptions=[], details={"mfu_scheduled": 0.6, "mesh": {"fsdp": 16}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "gib", "seconds"),
    [  # of compiled plans (docs/plans.md)
        (EIGHT, 14.6, 4.195),
        (dataclasses.replace(EIGHT, batch=16, method="td_mnpo"), 15.55, 3.644),
    ],
)
def test_hand_counts_are_near_compiled_plans(request_: Request, gib: float, seconds: float) -> None:
    job, topology = program.read_request(request_), parse_topology(request_.topology)
    sizes = layouts.sizes_of("fsdp", topology.size)
    by_hand = work.argument_bytes(job, work.ways(sizes)) + work.temp_bytes(job, sizes)
    assert abs(by_hand / GIB / gib - 1) < search.SLACK - 1
    assert abs(work.seconds(job, sizes, topology.chip) / seconds - 1) < 0.1


def test_what_cannot_fit_by_hand_counts_is_not_compiled_and_the_quickest_sequence_is_first() -> None:
    compiled = []

    def plan(request: Request) -> planning.Plan:
        compiled.append(request)
        return _made(request, fits=len(compiled) != 2, step=float(5 - len(compiled)))

    found, combinations, dropped = search.search(EIGHT, plan, tries=4)
    assert len(compiled) == len(found) == 4 and dropped > combinations / 2
    for request in compiled:
        job, sizes = program.read_request(request), _sizes(request)
        assert work.argument_bytes(job, work.ways(sizes)) < parse_topology("v5e:4x4").chip.usable
        assert search.why_not(job, sizes) is None and request.batch == 32
    assert [each.plan.fits for each in found] == [True, True, True, False]
    assert found[0].request == compiled[3] and found[-1].request == compiled[1]


def test_log_probs_that_come_with_the_data_cost_the_passes_that_made_them() -> None:
    """A forward pass of the reference: 2 N a token and half of 4 T d a layer of attention, at the peak of 16 chips."""
    job = program.read_request(dataclasses.replace(EIGHT, precomputed="reference"))
    chip = parse_topology("v5e:4x4").chip
    tokens = 32 * 2 * 2048
    wanted = tokens * (2 * 8_030_261_248 + 4 * 4096 * 32 * 2048 / 2) / 16 / 197e12
    assert work.beforehand_seconds(job, 16, chip) == pytest.approx(wanted)
    assert work.beforehand_seconds(program.read_request(EIGHT), 16, chip) == 0
    history = program.read_request(dataclasses.replace(EIGHT, method="mnpo", precomputed="all", history=2))
    assert history.models == {} and "opponent_token_logp" in history.batch()
    assert work.beforehand_seconds(history, 16, chip) == pytest.approx(2 * wanted)  # its opponents; it has no reference


@pytest.mark.parametrize(("most", "wanted"), [(5, 5 * 16), (2, 2 * 16), (1, 1 * 16)])
def test_the_largest_batch_that_fits_is_looked_for_up_and_down(most: int, wanted: int) -> None:
    tried = []

    def plan(request: Request) -> planning.Plan:
        tried.append(request.batch)
        return _made(request, fits=request.batch <= most * 16, step=request.batch**0.9)

    found, combinations, _ = search.search(dataclasses.replace(EIGHT, batch=0), plan, wide=False)
    assert combinations == 1 and found[0].request.batch == wanted and found[0].plan.fits
    assert found[0].request.mesh == "fsdp=16" and len(tried) == len(set(tried)) <= 5
    assert {each.request.batch for each in found} == set(tried)


@pytest.mark.parametrize("most", [1, 3, 17, 63, 64, 200])
def test_a_batch_far_from_the_one_by_hand_is_found_in_few_compiles(most: int) -> None:
    """What a program says of its memory leads there; MOST is as far as is looked."""
    tried = []

    def plan(request: Request) -> planning.Plan:
        n = request.batch / 16
        tried.append(n)
        made = _made(request, fits=n <= most)
        chip = dataclasses.replace(
            made.per_chip, argument_bytes=100, temp_bytes=int(20 * n), hbm_capacity_bytes=100 + 20 * most
        )
        return dataclasses.replace(made, per_chip=chip)

    found, _, _ = search.search(dataclasses.replace(EIGHT, batch=0), plan, wide=False)
    assert max(each.request.batch for each in found if each.plan.fits) == 16 * min(most, search.MOST)
    assert len(tried) <= 4 and all(1 <= n <= search.MOST for n in tried)


def test_nothing_that_fits_is_said_with_the_least_that_is_needed() -> None:
    told: list[str] = []
    asked = Request(model="llama3-70b", topology="v5e:4x4", batch=0)
    found, combinations, dropped = search.search(asked, _made, say=told.append)
    assert re.fullmatch(rf"nothing fits 15\.8 GiB a chip; the least of {combinations} .* needs [\d.]+ GiB .*", *told)
    (least,) = found
    assert dropped == combinations > 10 and not least.plan.fits and least.plan.compile_seconds == 0
    chip, n = least.plan.per_chip, 70_553_706_496
    assert chip.argument_bytes + chip.temp_bytes == chip.peak_hbm_bytes > n * 12 / 16 > chip.hbm_capacity_bytes
    assert "by hand" in least.plan.assumptions[0]
    with pytest.raises(ValueError, match="prompt"):
        search.search(dataclasses.replace(EIGHT, batch=3), _made)


def test_the_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cache, "read", lambda *_: None)
    monkeypatch.setattr(cache, "write", lambda *_: None)
    limit = 40
    monkeypatch.setattr(planning, "make_plan", lambda request: _made(request, fits=request.batch <= limit))
    asked = ["plan", "--model", "llama3-8b", "--topology", "v5e:4x4"]
    for batch in ([], ["--batch", "auto"]):
        assert cli.main([*asked, *batch, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["batch"] == 32
    assert cli.main([*asked, "--batch", "32", "--search", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["ranked"]) == 2 and said["combinations"] > said["dropped_by_hand_counts"] > 0
    assert said["ranked"][0]["seconds_per_sequence"] <= said["ranked"][1]["seconds_per_sequence"]
    assert cli.main([*asked, "--search", "2"]) == 0
    captured = capsys.readouterr()
    assert "fsdp=16" in captured.out and "1 of 2" in captured.err
    limit = 0
    assert cli.main([*asked, "--batch", "32", "--search", "1"]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out
    assert cli.main([*asked, "--batch", "-1"]) == 2


def test_the_page_of_plans_has_a_line_for_each_that_was_made(tmp_path, monkeypatch, capsys) -> None:
    chip = planning.PerChip(
        argument_bytes=GIB, temp_bytes=2, peak_hbm_bytes=3 * GIB, program_bytes=1, hbm_capacity_bytes=16 * GIB,
        flops=5 * 10**12, model_flops=4 * 10**12, collective_bytes={"fsdp": 7 * 10**9, "data/dcn": 5 * 10**8},
    )  # fmt: skip
    details = {"mesh": {"data": 2, "fsdp": 16, "tensor": 1}, "roofline_seconds": {"serial": 1.25}, "mfu_scheduled": 0.6,
               "mfu_overlapped": 0.7, "wires_hidden": 0.9}  # fmt: skip
    made = dataclasses.replace(_made(EIGHT), per_chip=chip, details=details, compile_cpu_seconds=80.0)
    plans = {1: None, 2: made, 3: dataclasses.replace(made, fits=False)}
    counted = iter(range(1, 100))
    text = table.page(lambda request: plans.get(next(counted)))
    lines = [line for line in text.splitlines() if line.startswith("| llama")]
    assert len(lines) == 2 and all(line.count("|") == len(table.HEAD) + 1 for line in lines)
    assert "| 1.0 | 3.0 of 16 | 5 | 4 | 7 | 0.5 | 1.250 | 50.0% | 60.0% | 70.0% | 90% | 80 |" in lines[0]
    assert "does not fit" in lines[1] and "50.0%" not in lines[1]
    asked = [request for _, request in table.rows()]
    assert len({dataclasses.astuple(request) for request in asked}) == len(asked) == 3 * len(table.SLICES)
    monkeypatch.setattr(cache, "read", lambda *_: None)
    assert table.main([str(tmp_path / "plans.md"), "--kept"]) == 0
    assert "| llama" not in (tmp_path / "plans.md").read_text()
    assert table.main([]) == 2


def test_every_line_of_the_page_can_be_planned() -> None:
    for _, request in table.rows():
        job = program.read_request(request)
        chips = parse_topology(request.topology).size * request.slices
        assert search.chosen(job, chips)["data"] % request.slices == 0
