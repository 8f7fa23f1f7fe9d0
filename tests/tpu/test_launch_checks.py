"""`tpu launch` refuses what `train` would refuse on the hosts, and paths that they do not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tpu.test_launch import GKE, GPU, HOSTS, SLURM, TRAIN, XPK, launch
from tpu.cli import main
from tpu.launch.paths import check_out, mount_of

PAIRS = "tpu/examples/pairs.jsonl"
ONLINE = [*TRAIN, "--method", "rloo"]
EIGHT = ["--on", "slurm", "--nodes", "1", "--gpus", "8"]


@pytest.mark.parametrize(
    "where, train, says",
    [
        # what train refuses without a file
        (SLURM, [*TRAIN, "--method", "dpoo"], "unknown method 'dpoo'"),
        (SLURM, [*TRAIN, "--dtype", "float64"], "--dtype float64: JAX has float32 in its place"),
        (
            SLURM,
            [*TRAIN, "--lora-rank", "2", "--reference", "/x"],
            "with --lora-rank the reference is the model itself",
        ),
        (SLURM, [*TRAIN, "--lora-rank", "2", "--reference-dtype", "bfloat16"], "with adapters it is the model they"),
        (SLURM, [*TRAIN, "--mixture", "0.5"], "mixture"),
        (SLURM, [*TRAIN, "--baseline", "head"], "dpo takes no baseline"),
        (SLURM, [*TRAIN, "--method", "mnpo", "--lora-rank", "2"], "past policies of adapters are not kept"),
        (SLURM, [*TRAIN, "--data", "/a\x85b"], "holds a line break or another control character"),
        (SLURM, [*TRAIN, "--top-p", "1.5"], "--top-p must lie in [0, 1], got 1.5"),
        (SLURM, [*TRAIN, "--warmup", "51"], "warmup = 51 is more than the 50 updates there are"),
        (SLURM, [*TRAIN, "--max-length", "257"], "--max-length 257 is more than the 256 that tiny takes"),
        (SLURM, [*TRAIN, "--model", "tny"], "did you mean 'tiny'"),
        (SLURM, [*TRAIN, "--reference", "s3://b/x"], "s3://b/x must be a folder, gs://BUCKET/PATH"),
        (SLURM, [*TRAIN, "--eval-data", "s3://b/x"], "s3://b/x must be a folder, gs://BUCKET/PATH"),
        (SLURM, [*TRAIN, "--ref-logps", "gs://b/x"], "--ref-logps gs://b/x must be a file or folder of a disk"),
        (SLURM, [*ONLINE, "--reward", "nosuch"], "unknown reward (or give module:function) 'nosuch'"),
        (SLURM, [*ONLINE, "--reward", "length", "gs://b/x"], "--reward gs://b/x must be a file or folder of a disk"),
        (SLURM, [*ONLINE, "--judge", "nosuch"], "unknown judge (or give module:function) 'nosuch'"),
        (SLURM, [*ONLINE, "--judge", "bt:nosuch"], "unknown reward (or give module:function) 'nosuch'"),
        (SLURM, [*ONLINE, "--judge", "longer"], "rloo reads reward: name a reward"),
        (SLURM, [*ONLINE, "--reward", "length", "--num-responses", "1"], "rloo needs at least 2 responses"),
        # a mesh that does not divide a model that is known
        (EIGHT, [*TRAIN, "--mesh", "tensor=8"], "--mesh does not fit --model tiny: "),
        (
            EIGHT,
            [*TRAIN, "--model", "llama3-8b", "--mesh", "sequence=3"],
            "--mesh sequence=3 has 3 devices, the job has 8",
        ),
        # paths that no pod sees
        (GKE, [*TRAIN, "--model", "./llama"], "--model ./llama is seen by no pod"),
        (GKE, [*TRAIN, "--data", "/data/pairs.jsonl"], "--data /data/pairs.jsonl is seen by no pod"),
        (GKE, [*TRAIN, "--reference", "file:///data/x"], "--reference file:///data/x is seen by no pod"),
        (GKE, [*TRAIN, "--eval-data", "tpu/../pairs.jsonl"], "--eval-data tpu/../pairs.jsonl is seen by no pod"),
        (GKE, [*TRAIN, "--ref-logps", "logps.safetensors"], "--ref-logps logps.safetensors is seen by no pod"),
        (GKE, [*ONLINE, "--reward", "./model"], "--reward ./model is seen by no pod"),
        (XPK, [*TRAIN, "--out", "gs://b/out"], "is seen by no pod"),  # nothing is mounted
        # what is written
        (GKE, [*TRAIN, "--out", "/runs/dpo"], "write --out file:///runs/dpo, or gs://bucket/dpo"),
        (GKE, [*TRAIN, "--out", "/runs/../o"], "--out /runs/../o is lost with its pod"),
        (GKE, [*TRAIN, "--out", "file:///runs/../o"], "is lost with its pod"),
        (SLURM, [*TRAIN, "--out", "out/dpo"], "--out out/dpo may be another folder on each host"),
        (HOSTS, [*TRAIN, "--out", "out/dpo"], "--out out/dpo may be another folder on each host"),
        # the recipes' own flags
        ([*XPK, "--mount", "gs://bucket"], TRAIN, "--mount must look like gs://BUCKET:/runs"),
        ([*XPK, "--mount", "claim:/"], TRAIN, "--mount must look like gs://BUCKET:/runs"),
        ([*GKE, "--mount", "claim:/runs/"], TRAIN, "--mount: two of them are at /runs"),
        ([*GPU, "--mount", "claim:/dev/shm"], TRAIN, "--mount: /dev/shm is the memory that processes share"),
        ([*SLURM, "--directory", "~/alignjax"], TRAIN, "--directory ~/alignjax: ~ is not completed on the hosts"),
        ([*HOSTS, "--python", "~/bin/python"], TRAIN, "--python ~/bin/python: ~ is not completed on the hosts"),
        ([*HOSTS, "--port", "65536"], TRAIN, "argument --port: must be an integer in 1..65535"),
        (["--on", "hosts", "--hosts", "a,b,me@a", "--devices", "4"], TRAIN, "--hosts: a is named twice"),
        ([*GKE, "--topology", "v5p:64x64x64"], TRAIN, "multiples of 4, of 6144 chips at most"),
        ([*GKE, "--topology", "v4:16x16x20"], TRAIN, "multiples of 4, of 4096 chips at most"),
    ],
)
def test_what_would_fail_on_the_hosts_is_refused_here(
    where: list[str], train: list[str], says: str, capsys: Any
) -> None:
    assert main(["launch", *where, "--", *train]) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == ""


@pytest.mark.parametrize(
    "where, train",
    [
        (GKE, [*TRAIN, "--data", PAIRS]),  # in the image, as here
        (GKE, [*TRAIN, "--reference", "llama3-8b", "--eval-data", "gs://other/x.jsonl"]),
        (GKE, [*ONLINE, "--reward", "length", "my.module:score", "/runs/model"]),
        (GKE, [*ONLINE, "--method", "online_dpo", "--judge", "bt:length"]),
        (GPU, [*TRAIN, "--out", "/runs/dpo"]),  # a claim is a disk
        ([*GKE[:4], "--topology", "v5p:16x16x24", *GKE[4:]], [*TRAIN, "--model", "/runs/llama", "--batch", "6144"]),
        ([*XPK, "--mount", "claim:/runs/a/..", "--mount", "gs://b:/runs/b"], [*TRAIN, "--out", "/runs/dpo"]),
        (HOSTS, [*TRAIN, "--model", "./llama"]),  # in --directory
        (HOSTS, [*TRAIN, "--method", "ipo", "--lora-rank", "2"]),
    ],
)
def test_what_would_not_is_not(where: list[str], train: list[str], capsys: Any) -> None:
    launch(capsys, where, train)


def test_what_a_config_says_stands_in_the_recipe(capsys: Any, tmp_path: Path) -> None:
    """The hosts have no such file."""
    (tmp_path / "run.yaml").write_text("method: dpo\ndata: [/runs/a b.jsonl]\nsteps: 7\n")
    given = ["--config", str(tmp_path / "run.yaml"), "--out", "file:///runs/o", "--batch", "8", "--mesh", "fsdp"]
    text = launch(capsys, HOSTS, given)["files"]["alignjax.sh"]
    assert "--steps=7" in text and "a b.jsonl" in text and "run.yaml" not in text


def test_what_is_written_outlives_the_pod() -> None:
    mounts = (mount_of("gs://b:/runs/"), mount_of("claim:/runs/disk"))

    def kept(out: str) -> bool:
        try:
            check_out(out, mounts)
        except ValueError:
            return False
        return True

    assert [kept(out) for out in ("file:///runs", "file:///runs/a", "/runs/disk/a", "gs://x/a")] == [True] * 4
    assert [kept(out) for out in ("/runs/a", "/run", "gs:/b", "/runs/disk/../a", "file:///run")] == [False] * 5
