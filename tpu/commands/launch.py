"""`python -m tpu launch`."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from tpu import xla_flags
from tpu.arguments import OK, PORTS, Failed, UsageError, whole

SAYS = "recipes that start a training run on a TPU slice or a cluster, and start it again after a preemption"
EPILOG = """  python -m tpu launch --on gke --topology v5e:4x4 --image IMAGE --mount gs://BUCKET:/runs -- \\
      --method dpo --model /runs/llama --data /runs/pairs.jsonl --out file:///runs/dpo --batch 32 --mesh fsdp
  python -m tpu launch --on gke --accelerator nvidia-h100-80gb --nodes 2 --image IMAGE --mount CLAIM:/runs -- ...
  python -m tpu launch --on gke --topology v5e:4x4 --image IMAGE -- --method dpo --out gs://BUCKET/dpo ...
  python -m tpu launch --on slurm --nodes 2 --gpus 8 --time 24:00:00 -- ...
  python -m tpu launch --on hosts --hosts worker0,worker1 --devices 4 --directory alignjax -- ...

The flags behind -- are those of `train`; they are checked here. Without --write the first file is printed:
`... | kubectl apply -f -`, `... | sbatch`. What the exit status of a process does: 0 done; 75 (saved after SIGTERM, or
another process was lost) starts the job again, however often; 1 (failed) and 2 (could not start) end it; anything else
(a crash) starts it again, --restarts times at most. See docs/pods.md."""
ON = ("gke", "slurm", "hosts")
NEEDS = {
    "gke": ("topology", "slices", "accelerator", "nodes", "gpus", "image", "mount", "service_account", "spot"),
    "slurm": ("nodes", "gpus", "time", "partition", "account", "directory"),
    "hosts": ("hosts", "devices", "chip", "port", "directory"),
}
"""Which flags belong to which place; the others are for all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `launch`."""
    parser.add_argument("--on", required=True, choices=ON, help="where: gke, slurm, or hosts that ssh reaches")
    parser.add_argument("--name", default="alignjax", metavar="NAME", help="of the job (default: alignjax)")
    parser.add_argument("--write", metavar="DIR", help="write all files into DIR (default: print the first)")
    parser.add_argument("--overwrite", action="store_true", help="also over files that differ")
    parser.add_argument("--json", action="store_true", help="print one JSON object: files, hosts, devices, next, notes")
    parser.add_argument("--python", default="python", metavar="PATH", help="on the hosts (default: python)")
    grace = "seconds from SIGTERM to SIGKILL, for a checkpoint (default: 600 on gke, 120 elsewhere)"
    parser.add_argument("--grace", type=whole(1), metavar="S", help=grace)
    parser.add_argument("--restarts", type=whole(0), default=20, metavar="N", help="after crashes (default: 20)")
    parser.add_argument("--nodes", type=whole(1), metavar="N", help="GPU nodes, on gke and slurm")
    parser.add_argument("--gpus", type=whole(1), metavar="N", help="of a node, on gke and slurm (default: 8)")

    gke = parser.add_argument_group("gke")
    gke.add_argument("--topology", metavar="SLICE", help="v5e:4x4, v5p:2x4x4, ...: of one TPU slice")
    gke.add_argument("--slices", type=whole(1), metavar="N", help="of that topology (default: 1)")
    gke.add_argument("--accelerator", metavar="NAME", help="GPUs instead, as GKE names them: nvidia-h100-80gb, ...")
    gke.add_argument("--image", metavar="IMAGE", help="a container image that holds this checkout; see docs/pods.md")
    mounts = "gs://BUCKET:/runs or CLAIM:/runs: what every pod sees there; again for more"
    gke.add_argument("--mount", action="append", metavar="WHAT:PATH", help=mounts)
    gke.add_argument("--service-account", metavar="NAME", help="of Kubernetes, with the right to the bucket")
    gke.add_argument("--spot", action="store_true", help="on spot capacity")

    slurm = parser.add_argument_group("slurm")
    slurm.add_argument("--time", metavar="D-HH:MM:SS", help="limit of one start (default: 24:00:00)")
    slurm.add_argument("--partition", metavar="NAME")
    slurm.add_argument("--account", metavar="NAME")
    hosts = parser.add_argument_group("hosts")
    hosts.add_argument("--hosts", metavar="A,B,...", help="by name or user@name; the first is the coordinator")
    hosts.add_argument("--devices", type=whole(1), metavar="N", help="TPU chips or GPUs of a host")
    hosts.add_argument("--chip", metavar="NAME", help="v4, v5e, v5p, v6e or gpu: sets the flags of `tpu flags`")
    hosts.add_argument("--port", type=whole(1, PORTS), metavar="P", help="of the coordinator (default: 8476)")
    folder = "of the checkout on every host, on slurm and hosts (default: this one)"
    parser.add_argument("--directory", metavar="DIR", help=folder)
    parser.add_argument("train", nargs="*", metavar="-- FLAGS", help="of train")


def run(options: argparse.Namespace) -> int:
    """Write what starts `python -m tpu train` on many hosts: a JobSet and an XPK command for GKE, a batch script for
    Slurm, a script over ssh for plain hosts. Each process is told who it is, saves on SIGTERM, and is started again.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs; a chip that is here stays free
    _belongs(options)
    try:
        hosts, devices, files, notes = _made(options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    main = next(iter(files))
    start = {"gke": "kubectl apply -f", "slurm": "sbatch", "hosts": "bash"}[options.on]
    where = Path(options.write or ".")
    if options.write is not None:
        _write(where, files, options.overwrite)
    found = {"hosts": hosts, "devices": devices, "files": files, "next": f"{start} {shlex.quote(str(where / main))}"}
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        print(json.dumps(found | {"notes": notes}))
    elif options.write is None:
        sys.stdout.write(files[main])
    else:
        print(f"{hosts} hosts, {devices} devices\n" + "\n".join(str(where / name) for name in files))
        print(f"next: {found['next']}")
    return OK


def _belongs(options: argparse.Namespace) -> None:
    """Raises: UsageError for a flag that says nothing about this place, or one that it needs and has not."""
    allowed = {name for names in NEEDS.values() for name in names}
    for name in sorted(allowed - set(NEEDS[options.on])):
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} is not for --on {options.on}")
    need: tuple[str, ...] = {"gke": ("image",), "slurm": ("nodes",), "hosts": ("hosts", "devices")}[options.on]
    if options.on == "gke":
        if (options.topology is None) == (options.accelerator is None):
            raise UsageError("--on gke needs either --topology (a TPU slice) or --accelerator (GPU nodes)")
        tpu, gpu = ("slices",), ("nodes", "gpus")
        need = need if options.topology else (*need, "nodes")
        for name in gpu if options.topology else tpu:
            if getattr(options, name) is not None:
                other = "accelerator" if options.topology else "topology"
                raise UsageError(f"--{name} goes with --{other}")
    missing = [name for name in need if getattr(options, name) is None]
    if missing:
        raise UsageError(f"--on {options.on} needs {', '.join(f'--{name}' for name in missing)}")
    if not options.train:
        raise UsageError("the flags of train are missing: ... -- --method dpo --model DIR --data FILE --out DIR")


def _made(options: argparse.Namespace) -> tuple[int, int, dict[str, str], list[str]]:
    """Hosts, devices, files, and what is to be said of them."""
    from tpu.launch import paths, recipes
    from tpu.launch.machines import slice_of
    from tpu.launch.train import expanded, read_by, settings_of

    def job(chip: str | None, devices: int, slices: int = 1) -> recipes.Job:
        settings = settings_of(options.train, devices, slices)
        if options.on == "gke":
            paths.check_out(settings.out, mounts)
            for flag, path in read_by(settings):
                paths.check_seen(flag, path, mounts)
        else:
            paths.check_shared(settings.out)
        return recipes.Job(
            name=options.name, train=tuple(expanded(options.train)), python=options.python, restarts=options.restarts,
            grace=options.grace or (600 if options.on == "gke" else 120), environment=_environment(chip),
        )  # fmt: skip

    for flag in ("image", "accelerator", "service_account", "partition", "account"):
        recipes.plain(f"--{flag.replace('_', '-')}", getattr(options, flag))
    mounts = tuple(map(paths.mount_of, options.mount or ()))
    directory, gpus = paths.whole("--directory", options.directory or str(Path.cwd())), options.gpus or 8
    if options.on == "hosts":
        names = recipes.hosts_of(options.hosts)
        devices, port = len(names) * options.devices, options.port or recipes.PORT
        made = job(options.chip, devices)
        return len(names), devices, recipes.plain_hosts(made, names, directory=directory, port=port), []
    if options.on == "slurm":
        made = job("gpu", options.nodes * gpus)
        files = recipes.slurm(
            made, options.nodes, gpus, directory=directory, time=recipes.time_of(options.time or "24:00:00"),
            partition=options.partition, account=options.account,
        )  # fmt: skip
        return options.nodes, options.nodes * gpus, files, []
    pods = recipes.Pods(image=options.image, mounts=mounts, account=options.service_account, spot=options.spot)
    if options.topology is None:
        devices = options.nodes * gpus
        files = recipes.gke_gpu(job("gpu", devices), options.accelerator, options.nodes, gpus, pods)
        return options.nodes, devices, files, []
    there, slices = slice_of(options.topology), options.slices or 1
    if slices > 1 and there.hosts == 1:
        raise UsageError(f"--slices {slices}: slices of one host ({there.name}) cannot be joined; take a larger one")
    devices = slices * there.hosts * there.chips
    made = job(options.topology.partition(":")[0], devices, slices)
    without = recipes.no_xpk(pods)
    notes = [] if without is None else [f"no xpk.sh: {without}"]
    return slices * there.hosts, devices, recipes.gke_tpu(made, there, slices, pods), notes


def _environment(chip: str | None) -> dict[str, str]:
    """The flags of XLA that hide communication, as `python -m tpu flags` has them."""
    return {} if chip is None else dict([xla_flags.environment(chip)])


def _write(folder: Path, files: dict[str, str], overwrite: bool) -> None:
    """Raises: UsageError for a file that is there and differs; Failed if it cannot be written."""
    try:
        for name, text in files.items():
            path = folder / name
            if not overwrite and path.exists() and path.read_text(encoding="utf-8") != text:
                raise UsageError(f"--write {folder}: {path} is there and differs; --overwrite replaces it")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failed(f"--write {folder}: {error.strerror or error}") from None
