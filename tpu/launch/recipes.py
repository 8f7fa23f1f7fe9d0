"""A job as the files that start it: JobSet and XPK for GKE, sbatch for Slurm, a loop over ssh for plain hosts.

All of them but XPK, which has rules of its own (see its template), do the same with an exit status of `train`: `AGAIN`
was saved after SIGTERM, or ended because another process was lost, and starts again, however often; `NEVER` failed or
could not start, and would again; anything else (a crash, a host that does not answer) starts again from the newest
checkpoint, `restarts` times at most.
"""

import dataclasses
import functools
import json
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpu.arguments import FAILED, USAGE
from tpu.commands.train import PREEMPTED
from tpu.launch.machines import Slice
from tpu.launch.paths import Mount, whole

AGAIN, NEVER = PREEMPTED, [FAILED, USAGE]
STOPPED = 128 + signal.SIGTERM
"""SIGTERM before `train` could listen to it, or when it had ended already: as `AGAIN`."""
PORT = 8476
"""Of the coordinator, which is process 0."""
SHARED_MEMORY = "/dev/shm"
XPK_RESTARTS = 1000
"""XPK counts what was saved and what crashed alike; so often at least."""


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
        whole("--python", self.python)
        for argument in (self.python, *self.train):
            if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", argument):  # also what YAML takes for one
                raise ValueError(f"{argument!r} holds a line break or another control character")

    def words(self, *more: str) -> list[str]:
        """The command of a process."""
        return [self.python, "-m", "tpu", "train", *self.train, *more, "--resume"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pods:
    """What GKE has to know beside the job."""

    image: str
    mounts: tuple[Mount, ...] = ()
    account: str | None = None
    """A Kubernetes service account, which may use the bucket."""
    spot: bool = False

    def __post_init__(self) -> None:
        found = [mount.path for mount in self.mounts]
        twice = [path for path in found if found.count(path) > 1]
        if twice:
            raise ValueError(f"--mount: two of them are at {twice[0]}")


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


def hosts_of(text: str) -> tuple[str, ...]:
    """Names that ssh takes, `user@host` too, with commas between them.

    Raises: ValueError for anything else, and for a host that is named twice.
    """
    found = tuple(name.strip() for name in text.split(","))
    for name in found:
        if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name):
            raise ValueError(
                f"--hosts must be names or addresses, or user@name, with commas between them; got {name!r}"
            )
    alone = [name.rpartition("@")[2] for name in found]
    for name in alone:
        if alone.count(name) > 1:
            raise ValueError(f"--hosts: {name} is named twice; one process on each host has all its devices")
    return found


def no_xpk(pods: Pods) -> str | None:
    """Why XPK cannot start the same job; None if it can."""
    flags = ["--mount"] * bool(pods.mounts) + ["--service-account"] * (pods.account is not None)
    if not flags:
        return None
    return (
        f"`xpk workload create` has no {' and no '.join(flags)}: it mounts what `xpk storage` attached to the cluster "
        "(--storage NAME), and its pods have an account of its own. Use jobset.yaml; or paths in gs:// and the "
        "cluster's account"
    )


# --- recipes: each returns file name -> text, the main file first -----------------------------------------------------


def gke_tpu(job: Job, there: Slice, slices: int, pods: Pods) -> dict[str, str]:
    """A JobSet with one Job for each slice and one pod for each host, and the XPK command of the same job if there is
    one (see `no_xpk`).

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
    if no_xpk(pods) is not None:
        return {"jobset.yaml": yaml}
    values = {"says": says, "image": pods.image, "replicas": slices, "type": there.xpk, "spot": pods.spot}
    command = _literal(f"exec {shlex.join(words)}")  # it becomes a part of a pod's command as well
    xpk = _render("xpk.sh.j2", job=job, command=command, restarts=max(job.restarts, XPK_RESTARTS), **values)
    return {"jobset.yaml": yaml, "xpk.sh": xpk}


def gke_gpu(job: Job, accelerator: str, nodes: int, gpus: int, pods: Pods) -> dict[str, str]:
    """A JobSet with one pod for each node; process 0 is found by the name that JobSet gives its pod.

    Raises: ValueError for a mount in the place of the memory that processes share.
    """
    if any(mount.path == SHARED_MEMORY for mount in pods.mounts):
        raise ValueError(f"--mount: {SHARED_MEMORY} is the memory that processes share")
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
        volumes.append({"name": "shared-memory", "source": "", "path": SHARED_MEMORY, "bucket": False})
    labels = {**labels, "gke-spot": "true"} if pods.spot else labels
    return _render(
        "jobset.yaml.j2", job=job, says=says, words=words, labels=labels, image=pods.image, account=pods.account,
        volumes=volumes, buckets=any(m.bucket for m in pods.mounts), **values,
    )  # fmt: skip


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _literal(word: str) -> str:
    """A word in which Kubernetes puts nothing in: it reads $$ as $, and $(NAME) as a variable."""
    return word.replace("$", "$$")


def _render(template: str, **values: Any) -> str:
    import jinja2

    space = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    space.filters |= {
        "sh": lambda value: shlex.quote(str(value)),
        "tojson": functools.partial(json.dumps, ensure_ascii=False),
    }
    return space.get_template(template).render(again=AGAIN, stopped=STOPPED, never=NEVER, **values)
