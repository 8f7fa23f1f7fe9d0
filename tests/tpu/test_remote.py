"""Runs in a bucket, for which mounted folders stand: what is copied when, and that a fresh machine goes on."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.tpu import kill, processes
from tests.tpu.test_loop import FILES, Killed, contents, killed_after, run
from tpu import loop, remote, run_folder
from tpu.arguments import Failed, UsageError
from tpu.cli import main
from tpu.metrics import read_rows
from tpu.models import load_model


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    for cached in (remote.local, remote.kept):
        monkeypatch.setattr(remote, cached.__name__, functools.cache(cached.__wrapped__))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# --- paths


@pytest.mark.parametrize(
    "text", ["s3://bucket/run", "gs://bucket", "gs:///run", "gs://", "file://run", "ftp://host/run", "://x"]
)
def test_a_url_that_nothing_is_written_to_is_refused(text: str, capsys: Any) -> None:
    says = f"{text} must be a folder, gs://BUCKET/PATH or file:///PATH (a mounted bucket)"
    with pytest.raises(UsageError) as caught:
        remote.place(text)
    assert says in str(caught.value) and ("mount it" in str(caught.value)) == (not text.startswith(("gs", "file")))
    for more in ([], ["--resume"]):
        given = ["train", "--method", "dpo", "--data", str(kill.PAIRS), "--batch", "2", "--out", text, *more]
        assert main(given) == 2 and says in capsys.readouterr().err


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"gs://b/run needs the package gcsfs: pip install .*\[buckets\]"):
        remote.place("gs://b/run")
    assert remote.place("file:///mnt/run") == Path("/mnt/run") and remote.place("out/run") == Path("out/run")


def test_what_a_bucket_says_is_one_line_that_names_it() -> None:
    with pytest.raises(OSError, match="403: not yours") as caught, remote.reached("gs://b/run"):
        raise RuntimeError("403: not yours\nand more")
    assert caught.value.filename == "gs://b/run" and caught.value.strerror == "403: not yours"
    with pytest.raises(RuntimeError), remote.reached("/on/a/disk"):
        raise RuntimeError


# --- the loop


def test_a_run_goes_on_where_nothing_is_left_of_the_machine(tmp_path: Path, scratch: Path) -> None:
    """Cut at several places; what the bucket holds is all that the next process knows."""
    whole, out = tmp_path / "whole", tmp_path / "bucket"
    loop.train(run(whole))
    for cut in (2, 5, 6):
        with pytest.raises(Killed):
            loop.train(run(out, copied=True), resume=True, on_step=killed_after(cut))
        assert list(scratch.iterdir()) == []
    assert [row["step"] for row in read_rows(out / "metrics.jsonl")] == list(range(8))  # as of the checkpoint of 8
    loop.train(run(out, copied=True), resume=True)
    assert contents(out) == contents(whole)
    before = {name: (out / name).stat().st_mtime_ns for name in FILES if name.startswith("model")}
    loop.train(run(out, copied=True), resume=True)  # finished: the model is not written again
    assert contents(out) == contents(whole)
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    loop.train(run(out, 15, copied=True), resume=True)
    loop.train(run(whole, 15), resume=True)
    assert contents(out) == contents(whole) and not list(out.rglob("*.part"))
    assert list((out / "tensorboard").iterdir()) and list(scratch.iterdir()) == []


def test_no_checkpoint_says_more_than_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a checkpoint is begun, the rows and evaluations up to it are in the bucket."""
    from tpu.checkpoints import Checkpoints

    begun: dict[int, tuple[int, int]] = {}
    save = Checkpoints.save

    def looked(self: Checkpoints, step: int, *more: Any) -> None:
        begun[step] = tuple(len(read_rows(tmp_path / f"{name}.jsonl")) for name in ("metrics", "eval"))  # type: ignore[assignment]
        save(self, step, *more)

    monkeypatch.setattr(Checkpoints, "save", looked)
    loop.train(run(tmp_path, copied=True))
    assert begun == {4: (4, 1), 8: (8, 2), 12: (12, 4)}


def test_what_a_stop_or_a_failure_leaves_is_copied(tmp_path: Path) -> None:
    stopped, failed = tmp_path / "stopped", tmp_path / "failed"
    ask = lambda row: os.kill(os.getpid(), signal.SIGTERM) if row["step"] == 5 else None
    with pytest.raises(loop.Preempted):
        loop.train(run(stopped, copied=True), on_step=ask)
    assert len(read_rows(stopped / "metrics.jsonl")) == 6
    with pytest.raises(Failed, match=rf"--replay {failed}/nan-batch-6.npz"):
        loop.train(run(failed, bad=7.0, copied=True))
    assert (failed / "nan-batch-6.npz").is_file() and (failed / "nan-state-6").is_dir()
    assert read_rows(failed / "metrics.jsonl")[-1] == {**read_rows(failed / "metrics.jsonl")[-1], "loss": None}


def test_a_bucket_that_cannot_be_written_ends_the_run_in_one_line(tmp_path: Path) -> None:
    made = run(tmp_path, copied=True)
    (tmp_path / "metrics.jsonl").mkdir()  # nothing replaces it
    with pytest.raises(Failed, match=r"metrics.jsonl.*; of the checkpoints there is none yet"):
        loop.train(made)
    assert not (tmp_path / "checkpoints/4").exists()


def test_a_model_that_is_half_copied_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer run replaces its model: while that is copied no mark says that it is whole."""
    loop.train(run(tmp_path, 4, eval_every=0, copied=True))
    assert run_folder.exported_steps(tmp_path / "model") == 4
    put = remote.SmallFiles._put

    def cut(self: Any, name: Path) -> None:
        if name == Path("model/x"):
            raise Killed
        put(self, name)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(remote.SmallFiles, "_put", cut)
        loop.train(run(tmp_path, 8, eval_every=0, copied=True), resume=True)
    assert run_folder.exported_steps(tmp_path / "model") is None
    loop.train(run(tmp_path, 8, eval_every=0, copied=True), resume=True)
    loop.train(run(tmp_path / "whole", 8, eval_every=0))
    for name in ("metrics.jsonl", "model/x", "model/trained.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- commands


def test_files_and_models_are_read_from_there(tmp_path: Path, scratch: Path) -> None:
    import jax
    import numpy as np

    model = kill.small_model(tmp_path / "weights")
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    there = remote.local(f"file://{data}")
    assert there.startswith(str(scratch)) and Path(there).read_text() == "{}\n"
    assert remote.local(f"file://{data}") == there and remote.local(str(data)) == str(data)
    with pytest.raises(FileNotFoundError):
        remote.local(f"file://{tmp_path}/nothing")
    config, params, tokenizer = load_model(f"file://{model}")
    tokenizer.save(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert not list(scratch.rglob("*.safetensors"))
    plain, same, _ = load_model(str(model))
    assert config == plain
    jax.tree.map(np.testing.assert_array_equal, params, same)
    with pytest.raises(FileNotFoundError):
        load_model(f"file://{tmp_path}/nothing")
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="the run has no model yet"):
        load_model(f"file://{tmp_path}/begun")


@pytest.mark.long
def test_a_killed_run_in_a_bucket_ends_at_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command, model and data from a bucket too: SIGKILL at random moments, a new machine each time."""
    model = kill.small_model(tmp_path / "model")
    data = tmp_path / "pairs.jsonl"
    data.write_bytes(kill.PAIRS.read_bytes())
    plain = (*kill.DPO, "--lr", "0.001", "--buckets", "1")
    kill.finish(tmp_path / "whole", (*plain, "--model", str(model)))
    arguments = [word if word != str(kill.PAIRS) else f"file://{data}" for word in plain]
    arguments += ["--model", f"file://{model}"]
    out, rng = tmp_path / "bucket", random.Random(3)
    for machine in range(3):
        scratch = tmp_path / f"machine-{machine}"
        scratch.mkdir()
        monkeypatch.setenv("TMPDIR", str(scratch))
        process = kill.start(out, [*arguments, "--out", f"file://{out}"])
        began = kill.rows(out)
        while process.poll() is None and kill.rows(out) <= began:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.3))
        kill.kill(process)
    said = kill.finish(out, [*arguments, "--out", f"file://{out}"])
    assert kill.differing(tmp_path / "whole", out) == [], said
    assert json.loads((out / "config.json").read_text())["out"] == str(out)
    base = ["train", *arguments, "--out", f"file://{out}"]
    assert main(base) == 2 and main(["eval", "--model", f"file://{out}", "--data", str(data), "--num-prompts", "1",
                                     "--max-new-tokens", "2"]) == 0  # fmt: skip
    assert main([*base, "--overwrite", "--steps", "1", "--eval-every", "0", "--keep-best", "loss"]) == 0
    assert kill.rows(out) == 1 and not (out / "eval.jsonl").exists()


EMULATOR = """
import http.server, sys
from gcp_storage_emulator.handlers import objects

http.server.HTTPServer.request_queue_size = 128  # TensorStore connects many times at once
plain = objects.download

def download(request, response, storage, *more, **named):  # a header that it leaves out, and TensorStore needs
    try:
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["X-Goog-Generation"] = found["generation"]
    except Exception:  # there is none, as the answer will say
        pass
    return plain(request, response, storage, *more, **named)

objects.download = download
from gcp_storage_emulator.server import create_server

create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="runs").run()
"""


@pytest.mark.long
def test_the_same_in_an_emulated_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gs:// itself, where gcsfs and gcp-storage-emulator are installed, which nothing else here needs."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    port = str(processes.free_port())
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google what kind of bucket it is
    emulator = subprocess.Popen([sys.executable, "-c", EMULATOR, port], stderr=subprocess.DEVNULL)

    def newest() -> int:
        """The last checkpoint that is whole."""
        with contextlib.suppress(OSError):
            said = urllib.request.urlopen(f"http://127.0.0.1:{port}/storage/v1/b/runs/o?prefix=dpo/checkpoints/")
            names = [item["name"].split("/") for item in json.load(said).get("items", ())]
            return max((int(name[2]) for name in names if name[3:] == ["commit_success.txt"]), default=0)
        return -1

    try:
        while newest() < 0:
            time.sleep(0.1)
        arguments = (*kill.DPO, "--lr", "0.001", "--model", str(kill.small_model(tmp_path / "model")))
        kill.finish(tmp_path / "whole", arguments)
        rng, bucket = random.Random(4), (*arguments, "--out", "gs://runs/dpo")
        for _ in range(3):
            process, began = kill.start(tmp_path, bucket), newest()
            while process.poll() is None and newest() <= began:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.5))
            kill.kill(process)
        kill.finish(tmp_path, bucket)
        there = remote.fetch(remote.place("gs://runs/dpo"), tmp_path / "fetched")
        assert kill.differing(tmp_path / "whole", there) == []
        assert main(["train", *bucket]) == 2  # it holds a run
        assert main(["eval", "--model", "gs://runs/dpo", "--data", str(kill.PAIRS), "--num-prompts", "1",
                     "--max-new-tokens", "2"]) == 0  # fmt: skip
    finally:
        emulator.terminate()
        emulator.wait()
