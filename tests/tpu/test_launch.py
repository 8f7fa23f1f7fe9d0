"""`tpu launch`: what the recipes say, what they do with an exit status, and that they start real runs here."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.tpu import standins
from tests.tpu.standins import Pods, arguments, install, plan
from tpu import xla_flags
from tpu.cli import main
from tpu.launch import recipes
from tpu.launch.machines import slice_of
from tpu.mesh import num_slices

PAIRS = str(standins.ROOT / "tpu" / "examples" / "pairs.jsonl")
ODD = "/runs/it's $HOME $(COORDINATOR) $$(COORDINATOR) a$$b$ $( é😀.jsonl"
"""A path with all that a shell, YAML or Kubernetes could read as something else."""
TRAIN = ["--method", "dpo", "--model", "tiny", "--data", ODD, "--out", "file:///runs/out", "--batch", "32"]
GKE = ["--on", "gke", "--topology", "v5e:4x4", "--image", "eu/run:1", "--mount", "gs://bucket:/runs"]
XPK = GKE[:6]
IN_BUCKET = ["--method", "dpo", "--model", "tiny", "--data", f"gs://b{ODD}", "--out", "gs://b/out", "--batch", "32"]
GPU = ["--on", "gke", "--accelerator", "nvidia-h100-80gb", "--nodes", "2", "--image", "run", "--mount", "claim:/runs"]
SLURM = ["--on", "slurm", "--nodes", "2", "--gpus", "8", "--directory", "/srv/align jax"]
HOSTS = ["--on", "hosts", "--hosts", "worker0,me@worker1", "--devices", "4"]


def launch(capsys: Any, where: list[str], train: list[str] = TRAIN, *more: str) -> dict[str, Any]:
    assert main(["launch", *where, *more, "--json", "--", *train]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# --- machines


@pytest.mark.parametrize(
    "text, hosts, chips, topology, machine, xpk",
    # Google's tables: cloud.google.com/tpu/docs/{v5e,v5p,v6e,v4}; v4 and v5p are named by their cores, two to a chip.
    [
        ("v5e:1x1", 1, 1, "1x1", "ct5lp-hightpu-1t", "v5litepod-1"),
        ("v5e:2x2", 1, 4, "2x2", "ct5lp-hightpu-4t", "v5litepod-4"),
        ("v5e:4x4", 4, 4, "4x4", "ct5lp-hightpu-4t", "v5litepod-16"),
        ("v5e:16x16", 64, 4, "16x16", "ct5lp-hightpu-4t", "v5litepod-256"),
        ("v6e:8x16", 32, 4, "8x16", "ct6e-standard-4t", "v6e-128"),
        ("v5p:2x2x1", 1, 4, "2x2x1", "ct5p-hightpu-4t", "v5p-8"),
        ("v5p:4x4x2", 8, 4, "2x4x4", "ct5p-hightpu-4t", "v5p-64"),
        ("v4:4x4x8", 32, 4, "4x4x8", "ct4p-hightpu-4t", "v4-256"),
    ],
)
def test_hosts_follow_from_the_topology(
    text: str, hosts: int, chips: int, topology: str, machine: str, xpk: str
) -> None:
    there = slice_of(text)
    assert (there.hosts, there.chips, there.topology, there.machine, there.xpk) == (
        hosts,
        chips,
        topology,
        machine,
        xpk,
    )


def test_train_counts_the_slices_of_its_devices() -> None:
    """As GKE shows two slices of four chips to JAX; other platforms have none."""
    chips = [types.SimpleNamespace(platform="tpu", slice_index=i // 4) for i in range(8)]
    assert (num_slices(chips), num_slices(chips[:4]), num_slices()) == (2, 1, 1)
    gpus = [types.SimpleNamespace(platform="gpu", slice_index=i) for i in range(2)]
    assert num_slices(gpus) == 1


# --- the text of the recipes

JOB = {"parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy", "template"}
POD = {
    "restartPolicy", "terminationGracePeriodSeconds", "hostNetwork", "dnsPolicy", "serviceAccountName", "nodeSelector",
    "containers", "volumes",
}  # fmt: skip


def check_jobset(made: dict[str, Any]) -> None:
    """The fields of jobset.x-k8s.io/v1alpha2, batch/v1 and core/v1 that the recipe uses, and their types."""
    assert set(made) == {"apiVersion", "kind", "metadata", "spec"}
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert all(isinstance(value, str) for value in made["metadata"].get("annotations", {}).values())
    assert set(made["spec"]) == {"failurePolicy", "replicatedJobs"}
    policy = made["spec"]["failurePolicy"]
    assert set(policy) == {"maxRestarts", "rules"} and isinstance(policy["maxRestarts"], int)
    for rule in policy["rules"]:
        assert set(rule) <= {"name", "action", "onJobFailureReasons", "onJobFailureMessagePatterns"}
        assert rule["name"].isidentifier()
        assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
        assert set(rule["onJobFailureReasons"]) <= {"PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded"}
    (group,) = made["spec"]["replicatedJobs"]
    assert set(group) == {"name", "replicas", "template"} and set(group["template"]) == {"spec"}
    job = group["template"]["spec"]
    assert set(job) == JOB and job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    assert job["parallelism"] == job["completions"]
    for rule in job["podFailurePolicy"]["rules"]:
        assert rule["action"] == "FailJob" and len(rule) == 2
        if "onExitCodes" in rule:
            assert set(rule["onExitCodes"]) == {"containerName", "operator", "values"}
            assert rule["onExitCodes"]["operator"] == "In" and rule["onExitCodes"]["containerName"] == "train"
            assert 0 not in rule["onExitCodes"]["values"] == sorted(rule["onExitCodes"]["values"])
        else:
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    pod = job["template"]["spec"]
    assert set(pod) <= POD and pod["restartPolicy"] == "Never"  # which a pod failure policy needs
    assert all(isinstance(value, str) for value in pod["nodeSelector"].values())
    (container,) = pod["containers"]
    assert set(container) <= {"name", "image", "command", "env", "resources", "volumeMounts"}
    assert container["name"] == "train" and all(isinstance(word, str) for word in container["command"])
    assert all(set(one) == {"name", "value"} and isinstance(one["value"], str) for one in container.get("env", ()))
    volumes = {volume["name"]: set(volume) - {"name"} for volume in pod["volumes"]}
    assert [mount["name"] for mount in container["volumeMounts"]] == list(volumes)
    assert all(len(kind) == 1 and kind <= {"csi", "persistentVolumeClaim", "emptyDir"} for kind in volumes.values())


def test_a_slice_is_a_job_and_a_host_a_pod(capsys: Any) -> None:
    found = launch(capsys, [*GKE, "--slices", "2", "--spot", "--service-account", "trainer", "--name", "dpo-8b"])
    assert (found["hosts"], found["devices"]) == (8, 32) and list(found["files"]) == ["jobset.yaml"]
    made = yaml.safe_load(found["files"]["jobset.yaml"])
    check_jobset(made)
    assert made["metadata"]["name"] == "dpo-8b"
    (group,) = made["spec"]["replicatedJobs"]
    pod = group["template"]["spec"]["template"]["spec"]
    assert group["replicas"] == 2 and group["template"]["spec"]["completions"] == 4
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}} and pod["terminationGracePeriodSeconds"] == 600
    assert pod["serviceAccountName"] == "trainer" and pod["hostNetwork"] is True
    assert [standins.expanded(word, {}) for word in container["command"]] == [
        "python", "-m", "tpu", "train", *TRAIN, "--distributed", "--resume",
    ]  # fmt: skip
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "bucket"
    assert group["template"]["spec"]["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


def test_gpu_pods_find_process_0_by_the_name_that_jobset_gives_it(capsys: Any) -> None:
    found = launch(capsys, [*GPU, "--name", "run"])
    made = yaml.safe_load(found["files"]["jobset.yaml"])
    check_jobset(made)
    pods = Pods(made, {})
    seen = {one["name"]: one["value"] for one in pods.container["env"]}
    seen |= {"JOB_COMPLETION_INDEX": "1"}
    assert [standins.expanded(word, seen) for word in pods.container["command"]] == [
        # <jobset>-<replicated job>-<job>-<pod>.<jobset>, as the API of JobSet has it
        "python", "-m", "tpu", "train", *TRAIN, "--coordinator=run-node-0-0.run:8476", "--num-processes=2",
        "--process-id=1", "--resume",
    ]  # fmt: skip
    assert pods.container["resources"] == {"limits": {"nvidia.com/gpu": 8}} and found["devices"] == 16
    assert made["metadata"].get("annotations") is None


def test_every_recipe_sets_the_flags_of_its_chip(capsys: Any) -> None:
    tpu, gpu = (" ".join(map(str, xla_flags.flags(chip))) for chip in ("v5e", "gpu"))
    assert len(tpu) > 100 < len(gpu)
    env = lambda where: Pods(yaml.safe_load(launch(capsys, where)["files"]["jobset.yaml"]), {}).container["env"]
    assert {"name": "LIBTPU_INIT_ARGS", "value": tpu} in env(GKE)
    assert {"name": "XLA_FLAGS", "value": gpu} in env(GPU)
    assert f"--env 'LIBTPU_INIT_ARGS={tpu}'" in launch(capsys, XPK, IN_BUCKET)["files"]["xpk.sh"]
    line = next(x for x in launch(capsys, SLURM)["files"]["alignjax.sbatch"].splitlines() if x.startswith("export "))
    told = subprocess.run(
        ["bash", "-c", f"{line}; printenv XLA_FLAGS"], env={"XLA_FLAGS": "--mine"}, capture_output=True
    )
    assert told.stdout.decode() == f"{gpu} --mine\n"
    assert tpu in launch(capsys, [*HOSTS, "--chip", "v5e"])["files"]["alignjax.sh"]
    assert "--xla" not in launch(capsys, HOSTS)["files"]["alignjax.sh"]


def test_a_jobset_starts_again_what_was_saved_and_not_what_failed(capsys: Any) -> None:
    pods = Pods(yaml.safe_load(launch(capsys, GKE)["files"]["jobset.yaml"]), {})
    again = "RestartJobSetAndIgnoreMaxRestarts"
    assert [pods.action(status) for status in (75, 143, 1, 2, 137, 139)] == [
        again, again, "FailJobSet", "FailJobSet", "RestartJobSet", "RestartJobSet",
    ]  # fmt: skip
    assert pods.action(137, disrupted=True) == again


@pytest.mark.parametrize("where", [XPK, SLURM, HOSTS])
def test_the_scripts_are_bash(where: list[str], capsys: Any, tmp_path: Path) -> None:
    files = launch(capsys, where, IN_BUCKET)["files"]
    scripts = {name: text for name, text in files.items() if not name.endswith(".yaml")}
    assert len(scripts) == 1
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        checked = subprocess.run(["bash", "-n", str(tmp_path / name)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        if shutil.which("shellcheck"):
            checked = subprocess.run(
                ["shellcheck", "-S", "warning", str(tmp_path / name)], capture_output=True, text=True
            )
            assert checked.returncode == 0, checked.stdout


def test_xpk_is_told_the_same(capsys: Any, tmp_path: Path) -> None:
    found = launch(capsys, [*XPK, "--slices", "2", "--spot", "--python", "stub"], IN_BUCKET)
    assert list(found["files"]) == ["jobset.yaml", "xpk.sh"] and found["notes"] == []
    environment = install(tmp_path / "bin")
    xpk = tmp_path / "bin" / "xpk"
    xpk.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" >"$STANDINS/xpk-arguments"\n')
    xpk.chmod(0o755)
    (tmp_path / "xpk.sh").write_text(found["files"]["xpk.sh"])
    assert subprocess.run(["bash", tmp_path / "xpk.sh"], env=environment, capture_output=True).returncode != 0
    subprocess.run(["bash", tmp_path / "xpk.sh", "mine", "--zone", "z"], env=environment, check=True)
    words = (tmp_path / "bin" / "xpk-arguments").read_bytes().decode().split("\0")[:-1]
    assert words[:2] == ["workload", "create"] and words[-2:] == ["--zone", "z"]
    words.remove("--spot")
    told = dict(zip(words[2:-2:2], words[3:-2:2], strict=True))
    assert told["--cluster"] == "mine" and told["--tpu-type"] == "v5litepod-16" and told["--num-slices"] == "2"
    assert told["--restart-on-exit-codes"] == "75" and told["--termination-grace-period-seconds"] == "600"
    assert int(told["--max-restarts"]) >= 1000  # preemptions are among them
    plan(tmp_path / "bin", plan0="0")
    command = standins.expanded(told["--command"], {"COORDINATOR": "no"})  # in a pod's command as well
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert arguments(tmp_path / "bin") == ["-m", "tpu", "train", *IN_BUCKET, "--distributed", "--resume"]


@pytest.mark.parametrize("flag, value", [("--mount", "claim:/other"), ("--service-account", "trainer")])
def test_what_xpk_cannot_be_told_is_no_xpk_script(flag: str, value: str, capsys: Any) -> None:
    assert main(["launch", *XPK, flag, value, "--json", "--", *IN_BUCKET]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert list(found["files"]) == ["jobset.yaml"]
    assert f"no xpk.sh: `xpk workload create` has no {flag}" in found["notes"][0] and found["notes"][0] in captured.err


def test_words_that_yaml_takes_for_something_else_stay_words(capsys: Any) -> None:
    found = launch(capsys, [*GKE, "--name", "true", "--service-account", "123", "--image", "1e3"])
    made = yaml.safe_load(found["files"]["jobset.yaml"])
    pod = Pods(made, {}).job["template"]["spec"]
    assert (made["metadata"]["name"], pod["serviceAccountName"]) == ("true", "123")
    assert pod["containers"][0]["image"] == "1e3"


# --- what they do with an exit status


@pytest.mark.parametrize(
    "statuses, starts, ends",
    [
        ({"plan0": "0", "plan1": "0"}, 1, 0),
        ({"plan0": "75 75 75 75 0", "plan1": "75 75 75 75 0"}, 5, 0),  # more often than --restarts
        ({"plan0": "143 75 143 143 75 0", "plan1": "75 143 75 143 143 0"}, 6, 0),  # SIGTERM, ours or another's
        ({"plan0": "75 0", "plan1": "137 0"}, 2, 0),
        ({"plan0": "139 139 139 139", "plan1": "75 75 75 75"}, 4, 139),  # the first and --restarts 3
        ({"plan0": "75 0", "plan1": "1 0"}, 1, 1),
        ({"plan0": "2", "plan1": "2"}, 1, 2),
    ],
)
def test_the_loop_over_ssh(statuses: dict[str, str], starts: int, ends: int, capsys: Any, tmp_path: Path) -> None:
    environment = install(tmp_path / "bin", quick=True)
    folder = tmp_path / "check out's"
    folder.mkdir()
    plan(tmp_path / "bin", **statuses)
    found = launch(capsys, [*HOSTS, "--python", "stub", "--restarts", "3", "--directory", str(folder)])
    script = tmp_path / "alignjax.sh"
    script.write_text(found["files"]["alignjax.sh"])
    ran = subprocess.run(["bash", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == ends, ran.stderr
    assert ran.stderr.count("2 processes") == starts
    assert set((tmp_path / "bin" / "hosts").read_text().split()) == {"worker0", "me@worker1"}
    for process in (0, 1):
        assert arguments(tmp_path / "bin", process) == [
            "-m", "tpu", "train", *TRAIN, "--coordinator=worker0:8476", "--num-processes=2", "--resume",
            f"--process-id={process}",
        ]  # fmt: skip
        assert (folder / "alignjax-logs" / f"{process}.pid").exists()
    assert [path.name for path in folder.iterdir()] == ["alignjax-logs"]


@pytest.mark.parametrize(
    "statuses, ends",
    [
        ("0", "0"),
        ("1", "1"),
        ("2", "2"),
        ("75 143 75 143 143 143 0", "75+ 143+ 75+ 143+ 143+ 143+ 0"),  # more often than --restarts
        ("137 75 137 75 137 139", "137+ 75+ 137+ 75+ 137+ 139"),  # the first crash and --restarts 3
    ],
)
def test_the_batch_script(statuses: str, ends: str, capsys: Any, tmp_path: Path) -> None:
    """Start by start the status; + where it was queued again."""
    environment = install(tmp_path / "bin") | {"TASKS": "2", "SLURM_JOB_ID": "7"}
    where = ["--on", "slurm", "--nodes", "2", "--gpus", "8", "--directory", str(tmp_path), "--python", "stub"]
    found = launch(capsys, where, TRAIN, "--restarts", "3", "--partition", "gpu", "--grace", "90")
    text = found["files"]["alignjax.sbatch"]
    for line in ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "signal=TERM@90", "requeue", "partition=gpu"):
        assert f"#SBATCH --{line}\n" in text
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "run.sbatch").write_text(text)
    plan(tmp_path / "bin", plan0=statuses)
    happened, requeued = [], tmp_path / "bin" / "requeued"
    for start in range(len(statuses.split())):
        environment["SLURM_RESTART_COUNT"] = str(start)
        plan(tmp_path / "bin", plan1="0")
        ran = subprocess.run(["bash", "run.sbatch"], cwd=tmp_path / "submitted", env=environment, capture_output=True)
        happened.append(f"{ran.returncode}{'+' if requeued.exists() else ''}")
        requeued.unlink(missing_ok=True)
        assert arguments(tmp_path / "bin", 1)[-2:] == ["--distributed", "--resume"]
    assert " ".join(happened) == ends


# --- what cannot be


@pytest.mark.parametrize(
    "where, train, says",
    [
        ([*GKE, "--topology", "v5e:4x5"], TRAIN, "topology v5e:4x5 is not offered; slices of v5e are 1x1, 2x2"),
        ([*GKE, "--topology", "v5p:4x4"], TRAIN, "topology must look like v5p:4x4x4"),
        ([*GKE, "--topology", "v5p:3x4x4"], TRAIN, "sizes are multiples of 4"),
        ([*GKE, "--topology", "v7:4x4"], TRAIN, "'v7'"),
        ([*GKE, "--topology", "v5e:2x2", "--slices", "2"], TRAIN, "slices of one host (v5e:2x2) cannot be joined"),
        ([*GKE, "--nodes", "2"], TRAIN, "--nodes goes with --accelerator"),
        ([*GPU, "--slices", "2"], TRAIN, "--slices goes with --topology"),
        ([*GKE[:2], *GKE[4:]], TRAIN, "--on gke needs either --topology (a TPU slice) or --accelerator"),
        (GKE[:4], TRAIN, "--on gke needs --image"),
        ([*GKE, "--mount", "bucket"], TRAIN, "--mount must look like gs://BUCKET:/runs or CLAIM:/runs, got 'bucket'"),
        ([*GKE, "--image", "a b"], TRAIN, "--image must be a word"),
        ([*GKE, "--partition", "gpu"], TRAIN, "--partition is not for --on gke"),
        ([*GKE, "--name", "My Job"], TRAIN, "--name must be at most 40 small letters"),
        (["--on", "slurm"], TRAIN, "--on slurm needs --nodes"),
        ([*SLURM, "--time", "a day"], TRAIN, "--time must look like 90 (minutes), 24:00:00"),
        (["--on", "hosts", "--hosts", "a,-oProxyCommand=x", "--devices", "4"], TRAIN, "got '-oProxyCommand=x'"),
        ([*HOSTS, "--chip", "v5"], TRAIN, "unknown chip 'v5'"),
        (["--on", "k8s"], TRAIN, "invalid choice: 'k8s'"),
        (SLURM, [], "the flags of train are missing"),
        (SLURM, TRAIN[:6], "train flags: --out is needed"),
        (SLURM, [*TRAIN, "--resume"], "train flags: --resume is set by the recipe"),
        (SLURM, [*TRAIN, "--coordinator=a:1"], "train flags: --coordinator is set by the recipe"),
        (SLURM, [*TRAIN, "--overwrite"], "train flags: --overwrite has no place"),
        (SLURM, [*TRAIN, "--metod", "x"], "train flags: unrecognized arguments: --metod x"),
        (SLURM, [*TRAIN, "--batch", "24"], "--batch 24 does not divide over data=16; it must be a multiple of 16"),
        (SLURM, [*TRAIN, "--mesh", "fsdp=8"], "train flags: --mesh fsdp=8 has 8 devices, the job has 16"),
        (SLURM, [*TRAIN, "--mesh", "fspd=16"], "fsdp"),
        (SLURM, [*TRAIN, "--eval-data", "/a\nb"], "holds a line break"),
        (GKE, [*TRAIN, "--out", "out/run"], "--out out/run is lost with its pod"),
        (GKE, [*TRAIN, "--out", "file:///elsewhere/run"], "--out file:///elsewhere/run is lost with its pod"),
        (GKE, [*TRAIN, "--out", "s3://bucket/run"], "train flags: s3://bucket/run must be a folder, gs://BUCKET/PATH"),
        (GKE, [*TRAIN, "--out", "/runsout"], "--out /runsout is lost with its pod"),
    ],
)
def test_what_cannot_be_is_said(where: list[str], train: list[str], says: str, capsys: Any) -> None:
    assert main(["launch", *where, "--", *train]) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == ""


def test_files_that_differ_stay(capsys: Any, tmp_path: Path) -> None:
    write = ["launch", *GKE, "--write", str(tmp_path / "a job"), "--", *TRAIN]
    assert main(write) == 0
    assert f"next: kubectl apply -f {shlex.quote(str(tmp_path / 'a job' / 'jobset.yaml'))}" in capsys.readouterr().out
    assert main(write) == 0  # the same again
    (tmp_path / "a job" / "jobset.yaml").write_text("mine")
    assert main(write) == 2 and "is there and differs; --overwrite replaces it" in capsys.readouterr().err
    assert (tmp_path / "a job" / "jobset.yaml").read_text() == "mine"
    assert main([*write[: -len(TRAIN) - 1], "--overwrite", "--", *TRAIN]) == 0


def test_without_write_the_main_file_is_printed(capsys: Any) -> None:
    assert main(["launch", *GKE, "--", *TRAIN]) == 0
    check_jobset(yaml.safe_load(capsys.readouterr().out))


def test_a_job_is_checked_without_the_command_line_too() -> None:
    with pytest.raises(ValueError, match="--name must be at most 40 small letters"):
        recipes.Job(name="-x", train=())
