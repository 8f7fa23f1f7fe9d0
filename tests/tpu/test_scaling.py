"""`tpu bench scaling`: what grows is told, the counts are those made by hand, and the status is the verdict."""

import json

import pytest

from tests.tpu.small_llama import SMALL
from tpu.benching import scaling
from tpu.cli import main
from tpu.plan.chips import CHIPS


def _point(chips: int, **changes) -> dict:
    """Of a step whose share stays flat: 7 bytes on a ring of 8, 30 of 16 with twice as much to say, and so on."""
    inner, outer = min(chips, 16), chips // min(chips, 16)
    said = {"fsdp": 64.0 * (inner - 1) / inner} | ({"data": 32.0 * (outer - 1) / outer} if outer > 1 else {})
    ring = {axis: n for axis, n in {"data": outer, "fsdp": inner}.items() if n > 1}
    point = {"kind": "weak", "chips": chips, "flops": 100, "argument_bytes": 10 * 16 // inner, "temp_bytes": 50,
             "collective_bytes": said, "ring": ring, "mesh": "", "prompts": chips}  # fmt: skip
    return point | changes


def test_a_share_that_grows_is_told_and_one_that_shrinks_or_has_a_longer_ring_is_not() -> None:
    flat = [_point(n) for n in (8, 16, 32, 64, 512)]
    assert scaling.grows(flat) == []
    assert scaling.payload(flat[0]) == {"fsdp": 64.0} and scaling.payload(flat[3]) == {"fsdp": 64.0, "data": 32.0}
    for changes, said in (
        ({"flops": 106}, "flops: 100 on 8 chips, 106 on 64"),
        ({"temp_bytes": 64}, "memory: 60 on 16 chips, 74 on 64"),
        ({"collective_bytes": {"data": 48.0, "fsdp": 60.0}}, "collective bytes on data: 32 on 32 chips, 64 on 64"),
        ({"collective_bytes": {"data": 24.0, "fsdp": 64.0}}, "collective bytes on fsdp: 64 on 8 chips, 68.27 on 64"),
    ):
        assert scaling.grows([*flat[:3], _point(64, **changes)]) == [said]
    assert scaling.grows([*flat, _point(64, kind="strong", flops=1000)]) == []
    assert scaling.grows([*flat, _point(1024, flops=104)]) == []


def test_of_a_column_that_comes_nearer_to_its_payload_nobody_says_that_it_is_flat() -> None:
    """64 and 32 GB on rings without end: of 8 chips 7/8 of 64 arrive, of 16 15/16; of 2 half of 32, of 32 31/32."""
    giga = lambda point: point | {"collective_bytes": {a: 1e9 * n for a, n in point["collective_bytes"].items()}}
    found = [giga(_point(n)) for n in (8, 16, 32, 512)]
    verdict = scaling.lines(scaling.report(scaling.Asked(), found))[-4:]
    assert "no more than 5%" in verdict[0] and "payload that grows by no more than 5%" in verdict[1]
    assert verdict[2] == "  fsdp: 56 GB of a payload of 64 where n = 8, 60 of 64 where n = 16"
    assert verdict[3] == "  data: 16 GB of a payload of 32 where n = 2, 31 of 32 where n = 32"


def test_bounds_are_the_scaling_books() -> None:
    """Its own examples: on v5p FSDP over three axes needs 850 tokens a chip, `tensor` pays to about F / 2550 chips an
    axis, both together need 400 at F = 32,768 (with M_x M_y = 2), and slices need about 75,000 tokens each.
    """
    fsdp, tensor, both, between = scaling.bounds(CHIPS["v5p"], 32_768).values()
    assert fsdp == pytest.approx(850, rel=0.01) and tensor == pytest.approx(32_768 / 2550, rel=0.01)
    assert both == pytest.approx(400, rel=0.02) and between == pytest.approx(75_000, rel=0.03)


def test_the_mesh_of_a_number_of_chips() -> None:
    asked = scaling.Asked(weak=(8, 64), strong=(8,), width=16, per_chip=2)
    assert asked.mesh(8) == {"data": 1, "fsdp": 8} and asked.mesh(64) == {"data": 4, "fsdp": 16}
    assert asked.points() == [("weak", 8, 16), ("weak", 64, 128), ("strong", 8, 128)]


def test_the_status_is_the_verdict(monkeypatch, capsys, tmp_path) -> None:
    for flops, status in ((100, 0), (200, 1)):
        points = [_point(8), _point(16, flops=flops)]
        monkeypatch.setattr(scaling, "points", lambda asked, points=points: iter(points))
        assert main(["bench", "scaling", "--json", "--out", str(tmp_path / "scaling.json")]) == status
        said = json.loads(capsys.readouterr().out)
        assert said["flat"] is (status == 0) and len(said["points"]) == 2
        assert json.loads((tmp_path / "scaling.json").read_text()) == said
        assert main(["bench", "scaling", "--out", str(tmp_path / "scaling.md")]) == status
        assert ("NOT flat" in (tmp_path / "scaling.md").read_text()) is (status == 1)
        assert ("NOT flat" in capsys.readouterr().out) is (status == 1)
    for wrong, says in ((["--chips", "8,x"], "8,16,32"), (["--model", "llama9"], "llama")):
        assert main(["bench", "scaling", *wrong]) == 2
        assert says in capsys.readouterr().err


LAYERS, HEAD = 4 * (4 * 256 * 256 + 3 * 256 * 768 + 2 * 256) + 256, 1024 * 256


@pytest.mark.slow
def test_a_small_step_on_8_and_16_chips_by_hand(tmp_path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL))
    asked = scaling.Asked(model=str(file), seq=128, weak=(8, 16), strong=(), width=8)
    eight, sixteen = scaling.points(asked)
    assert scaling.grows([eight, sixteen]) == []
    # A token of the policy goes through the layers four times (rematerialised) and the head four, of the reference once
    # each; plain attention does what causality hides; a product of a layer is not made again.
    products = 5 * LAYERS - 4 * 768 * 256 + 5 * HEAD
    wanted = 2 * 128 * (2 * products + 5 * 4 * 4 * 256 * 128)
    for point, chips, prompts in ((eight, 8, 8), (sixteen, 16, 16)):
        assert point["flops"] == pytest.approx(wanted * prompts / chips, rel=0.02)
        assert point["argument_bytes"] == pytest.approx(4 * 4 * (LAYERS + 2 * HEAD) / 8, rel=0.05)
        gathered = 4 * 7 / 8 * (3 * LAYERS + 2 * HEAD)  # forwards twice and backwards; the head once for each model
        assert point["collectives"]["all-gather fsdp"] == pytest.approx(gathered, rel=0.01)
    # Over `data` every gradient is summed where it lies, and what is not split is summed over all.
    told = sum(sixteen["collective_bytes"][axis] for axis in ("data", "data+fsdp"))
    assert told >= 0.9 * 2 * 1 / 2 * 4 * LAYERS / 8


def test_a_process_that_fails_says_why(monkeypatch) -> None:
    monkeypatch.setattr(scaling, "_CHILD", "import sys; sys.exit('no such thing')")
    with pytest.raises(RuntimeError, match="no such thing"):
        list(scaling.points(scaling.Asked()))
