"""A job as the files that start it: JobSet and XPK for GKE, sbatch for Slurm, a loop over ssh for plain hosts.

All of them do the same with an exit status of `train`: `AGAIN` was saved after SIGTERM, or ended because another
process was lost, and starts again, however often; `NEVER` failed or could not start, and would again; anything else (a
crash, a host that does not answer) starts again from the newest checkpoint, `restarts` times at most.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpu import remote
from tpu.arguments import FAILED, USAGE
from tpu.commands.train import PREEMPTED
from tpu.launch.machines import Slice

AGAIN, NEVER = PREEMPTED, [FAILED, USAGE]
PORT = 8476
"""Of the coordinator, which is process 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is common to the recipes."""

    name: str
    train: tuple[str, ...]
    """Flags of `train`, without those that the recipe sets."""
    python: str = "python"
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    grace: int = 120
    """Seconds from SIGTERM to SIGKILL: a checkpoint has to be written in them."""
    restarts: int = 20
    """After a crash: that often at most."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise ValueError(
                "--name must be at most 40 small letters, digits and -, beginning with a letter and not ending in -; "
                f"got {self.name!r}"
            )
        for argument in (self.python, *self.train):
            if re.search(r"[\x00-\x1f]", argument):
                raise ValueError(f"{argument!r} holds a line break or another control character")

    def words(self, *more: str) -> list[str]:
        """The command of a process."""
        return [self.python, "-m", "tpu", "train", *self.train, *more, "--resume"]


@dataclasses.dataclass(frozen=True)
class Mount:
    """A bucket or a volume claim as a folder of every pod."""

    source: str
    """Of a bucket the name, of a claim as well."""
    path: str
    bucket: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pods:
    """What GKE has to know beside the job."""

    image: str
    mounts: tuple[Mount, ...] = ()
    account: str | None = None
    """A Kubernetes service account, which may use the bucket."""
    spot: bool = False


def plain(flag: str, text: str | None, form: str = r"[A-Za-z0-9][A-Za-z0-9._/:@-]*") -> str | None:
    """A word that needs no quoting anywhere. Raises: ValueError for anything else."""
    if text is not None and not re.fullmatch(form, text):
        raise ValueError(f"{flag} must be a word of letters, digits and . _ / : @ -, got {text!r}")
    return text


def time_of(text: str) -> str:
    """A limit as Slurm writes it. Raises: ValueError for anything else."""
    if not re.fullmatch(r"\d+|\d+(:[0-5]\d){1,2}|\d+-\d{1,2}(:[0-5]\d){0,2}", text):
        raise ValueError(f"--time must look like 90 (minutes), 24:00:00 or 3-12:00:00, got {text!r}")
    return text


def mount_of(text: str) -> Mount:
    """`"gs://runs:/runs"`: a bucket, through Cloud Storage FUSE; `"claim:/runs"`: a PersistentVolumeClaim.

    Raises: ValueError, saying what is allowed.
    """
    match = re.fullmatch(r"(gs://)?([a-z0-9][a-z0-9._-]*):(/[^\s:]+)", text)
    if match is None:
        raise ValueError(f"--mount must look like gs://BUCKET:/runs or CLAIM:/runs, got {text!r}")
    return Mount(match[2], match[3].rstrip("/"), bucket=match[1] is not None)


def kept(out: str, mounts: tuple[Mount, ...]) -> bool:
    """Whether what is written to `out` outlives a pod."""
    if out.startswith(remote.BUCKET):
        return True
    out = out.removeprefix(remote.MOUNTED)
    return any(out == m.path or out.startswith(f"{m.path}/") for m in mounts)


def host_of(text: str) -> str:
    """A name that ssh takes, `user@host` too. Raises: ValueError for anything else."""
    if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
        raise ValueError(f"--hosts must be names or addresses, or user@name, with commas between them; got {text!r}")
    return text


# --- recipes: each returns file name -> text, the main file first -----------------------------------------------------


def gke_tpu(job: Job, there: Slice, slices: int, pods: Pods) -> dict[str, str]:
    """A JobSet with one Job for each slice and one pod for each host, and the XPK command of the same job.

    GKE tells each pod its slice and place (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES, MEGASCALE_*), which JAX reads.
    """
    says = f"{_count(slices, 'slice')} of {there.name}: {_count(there.hosts, 'host')} of {_count(there.chips, 'chip')}"
    labels = {"gke-tpu-accelerator": there.accelerator, "gke-tpu-topology": there.topology}
    words = job.words("--distributed")
    yaml = _jobset(
        job, pods, says, [_literal(word) for word in words], labels, replicas=slices, hosts=there.hosts,
        environment={name: _literal(value) for name, value in job.environment.items()}, group="slice", tpu=True,
        resource="google.com/tpu", chips=there.chips,
    )  # fmt: skip
    values = {"says": says, "image": pods.image, "replicas": slices, "type": there.xpk}
    return {"jobset.yaml": yaml, "xpk.sh": _render("xpk.sh.j2", job=job, command=shlex.join(words), **values)}


def gke_gpu(job: Job, accelerator: str, nodes: int, gpus: int, pods: Pods) -> dict[str, str]:
    """A JobSet with one pod for each node; process 0 is found by the name that JobSet gives its pod."""
    says = f"{_count(nodes, 'node')} of {gpus} {accelerator}"
    # Kubernetes puts $(NAME) in; JOB_COMPLETION_INDEX is set in each pod of an indexed Job.
    spread = ["--coordinator=$(COORDINATOR)", f"--num-processes={nodes}", "--process-id=$(JOB_COMPLETION_INDEX)"]
    words = [word if word in spread else _literal(word) for word in job.words(*spread)]
    environment = {name: _literal(value) for name, value in job.environment.items()}
    environment["COORDINATOR"] = f"{job.name}-node-0-0.{job.name}:{PORT}"
    yaml = _jobset(
        job, pods, says, words, {"gke-accelerator": accelerator}, replicas=1, hosts=nodes, environment=environment,
        group="node", tpu=False, resource="nvidia.com/gpu", chips=gpus,
    )  # fmt: skip
    return {"jobset.yaml": yaml}


def slurm(
    job: Job, nodes: int, gpus: int, *, directory: str, time: str, partition: str | None, account: str | None
) -> dict[str, str]:
    """A batch script with one task for each GPU, as JAX expects it in Slurm; tasks find each other by SLURM_*."""
    values = {"nodes": nodes, "gpus": gpus, "time": time, "partition": partition, "account": account}
    says = f"{_count(nodes, 'node')} of {_count(gpus, 'GPU')}"
    command = shlex.join(job.words("--distributed"))
    return {f"{job.name}.sbatch": _render("slurm.sbatch.j2", job=job, says=says, command=command,
                                          directory=directory, **values)}  # fmt: skip


def plain_hosts(job: Job, hosts: tuple[str, ...], *, directory: str, port: int = PORT) -> dict[str, str]:
    """A script for any machine that reaches the hosts by ssh: one process on each, all started again together."""
    coordinator = f"{hosts[0].rpartition('@')[2]}:{port}"
    words = job.words(f"--coordinator={coordinator}", f"--num-processes={len(hosts)}")
    command = shlex.join([*(f"{name}={value}" for name, value in job.environment.items()), *words])
    values = {"says": _count(len(hosts), "host"), "hosts": hosts, "directory": directory}
    command = f"env {command}" if job.environment else command
    return {f"{job.name}.sh": _render("hosts.sh.j2", job=job, command=command, **values)}


def _jobset(job: Job, pods: Pods, says: str, words: list[str], labels: Mapping[str, str], **values: Any) -> str:
    volumes = [{"name": f"volume-{i}", **dataclasses.asdict(mount)} for i, mount in enumerate(pods.mounts)]
    if not values["tpu"]:  # NCCL's
        volumes.append({"name": "shared-memory", "source": "", "path": "/dev/shm", "bucket": False})
    labels = {**labels, "gke-spot": "true"} if pods.spot else labels
    return _render(
        "jobset.yaml.j2", job=job, says=says, words=words, labels=labels, image=pods.image, account=pods.account,
        volumes=volumes, buckets=any(m.bucket for m in pods.mounts), **values,
    )  # fmt: skip


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _literal(word: str) -> str:
    """A word in which Kubernetes puts nothing in."""
    return word.replace("$(", "$$(")


def _render(template: str, **values: Any) -> str:
    import jinja2

    space = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    space.filters |= {"sh": lambda value: shlex.quote(str(value)), "tojson": json.dumps}
    return space.get_template(template).render(again=AGAIN, never=NEVER, **values)
