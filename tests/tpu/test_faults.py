"""The faults of docs/faults.md, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tpu import faults


def test_bits_are_counted() -> None:
    assert faults.bits(b"abc", b"abc") == 0
    assert faults.bits(b"\x00\x01", b"\x03\x01") == 2 and faults.bits(b"a", b"abc") == 16


def test_a_corrupted_checkpoint_has_its_size_and_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "small").write_bytes(b"x")
    large = tmp_path / "state" / "large"
    large.write_bytes(bytes(range(90)))
    faults.corrupt(tmp_path)
    found = large.read_bytes()
    assert len(found) == 90 and found[:30] == bytes(range(30)) and found[60:] == bytes(range(60, 90))
    assert all(a == 255 - b for a, b in zip(found[30:60], range(30, 60), strict=True))


@pytest.mark.long
def test_a_run_of_two_processes_survives_every_fault(tmp_path: Path) -> None:
    found = {fault.name: fault for fault in faults.run_all(tmp_path, 1, once=True, seed=0, say=print)}
    assert len(found) == 6
    for name, fault in found.items():
        assert fault.times == 1 and fault.differing == "0" and len(fault.lost) == 1, fault
        status = 1 if "no space" in name else faults.RESTART
        assert fault.statuses <= {status}, fault
    assert found["SIGTERM to process 0"].lost == [0] and found["SIGTERM to process 1"].lost == [0]
    assert found["SIGKILL to both while a checkpoint is written"].lost == [faults.INTERVAL]
