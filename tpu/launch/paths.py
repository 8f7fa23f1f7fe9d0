"""The paths of a job: whether the hosts see them, and whether what is written there outlives them."""

import dataclasses
import posixpath
import re
from pathlib import Path

from tpu import remote

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ("alignjax", "tpu")
"""Folders of the checkout that the Dockerfile copies, to where pods start."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """A bucket or a volume claim as a folder of every pod."""

    source: str
    """Of a bucket the name, of a claim as well."""
    path: str
    bucket: bool


def whole(flag: str, path: str) -> str:
    """A path that is quoted in the recipe. Raises: ValueError for one that a shell would have to complete."""
    if path.startswith("~"):
        raise ValueError(f"{flag} {path}: ~ is not completed on the hosts; write the whole path")
    return path


def mount_of(text: str) -> Mount:
    """`"gs://runs:/runs"`: a bucket, through Cloud Storage FUSE; `"claim:/runs"`: a PersistentVolumeClaim.

    Raises: ValueError, saying what is allowed.
    """
    match = re.fullmatch(r"(gs://)?([a-z0-9][a-z0-9._-]*):(/[^\s:/][^\s:]*)", text)
    path = "/" if match is None else posixpath.normpath(match[3])
    if match is None or path == "/":
        raise ValueError(f"--mount must look like gs://BUCKET:/runs or CLAIM:/runs, got {text!r}")
    return Mount(match[2], path, bucket=match[1] is not None)


def mounted(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """The mount under which a path of a pod lies, the innermost one."""
    path = posixpath.normpath(path.removeprefix(remote.MOUNTED))
    under = [m for m in mounts if path == m.path or path.startswith(f"{m.path}/")]
    return max(under, key=lambda mount: len(mount.path), default=None)


def check_out(out: str, mounts: tuple[Mount, ...]) -> None:
    """Raises: ValueError unless what is written to `out` outlives a pod; for a plain path in a bucket, to which rows
    would be appended one by one."""
    if out.startswith(remote.BUCKET):
        return
    inside, mount = posixpath.normpath(out), mounted(out, mounts)
    if mount is None:
        raise ValueError(f"train flags: --out {out} is lost with its pod; it must lie under a --mount or in gs://")
    if mount.bucket and not remote.is_url(out):
        raise ValueError(
            f"train flags: --out {out} lies in the bucket {mount.source}, and rows are appended to files of a plain "
            f"path; write --out {remote.MOUNTED}{out}, or {remote.BUCKET}{mount.source}{inside[len(mount.path) :]}"
        )


def check_seen(flag: str, path: str, mounts: tuple[Mount, ...]) -> None:
    """Raises: ValueError unless a pod sees `path`: in gs://, under a mount, or in this checkout as the image has it."""
    inside = posixpath.normpath(path)
    if path.startswith(remote.BUCKET) or mounted(path, mounts) is not None:
        return
    if not remote.is_url(path) and inside.split("/")[0] in IMAGE and (ROOT / inside).exists():
        return
    raise ValueError(
        f"train flags: {flag} {path} is seen by no pod; it must lie under a --mount, in gs://, or be a file of this "
        f"checkout in {' or '.join(f'{name}/' for name in IMAGE)}, which the image has"
    )


def check_shared(out: str) -> None:
    """Raises: ValueError for an `out` that is another folder on each host, for all one knows."""
    if not remote.is_url(out) and not out.startswith("/"):
        raise ValueError(
            f"train flags: --out {out} may be another folder on each host; name one that all of them share, by its "
            "whole path, or in gs://"
        )
