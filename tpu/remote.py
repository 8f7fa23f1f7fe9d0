"""Folders in a bucket: gs://BUCKET/PATH, or file:///PATH for one that is mounted as a disk.

Orbax writes checkpoints there by itself. The small files of a run grow line by line, which an object in a bucket does
not: the first process has them in a folder of its own, and copies what changed there before each checkpoint is begun,
so that no checkpoint says that more happened than they show; and at the end, whatever the end is. A run that goes on
fetches them first, so that it can go on on any machine.
"""

import atexit
import contextlib
import errno
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tpu.arguments import UsageError

BUCKET = "gs://"
MOUNTED = "file://"
INSTALL = "pip install -c constraints.txt -e '.[buckets]'"


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is written as a URL."""
    return "://" in os.fspath(path)


def check(text: str) -> str:
    """The text of a path that can be one. Raises: UsageError for a URL that is none, with what is allowed."""
    name = text.removeprefix(BUCKET)
    bucket = name != text and all(name.partition("/")[::2])
    if is_url(text) and not bucket and not text.startswith(f"{MOUNTED}/"):
        hint = "; mount it, and name the folder" if not text.startswith((BUCKET, MOUNTED)) else ""
        raise UsageError(f"{text} must be a folder, gs://BUCKET/PATH or file:///PATH (a mounted bucket){hint}")
    return text


def place(text: str) -> Any:
    """The path that a text names, with the methods of `pathlib.Path`: one on a disk is an absolute or relative `Path`.

    Raises: UsageError for a URL that is none, or that needs a package which is not there.
    """
    if not is_url(check(text)):
        return Path(text)
    if text.startswith(MOUNTED):
        return Path(text.removeprefix(MOUNTED))
    if importlib.util.find_spec("gcsfs") is None:
        raise UsageError(f"{text} needs the package gcsfs: {INSTALL}")
    from etils import epath

    return epath.Path(text)


@contextlib.contextmanager
def reached(where: Any) -> Iterator[None]:
    """What is done there: whatever a bucket says against it is an OSError that names it."""
    try:
        yield
    except (OSError, UsageError) as error:
        if not is_url(where) or isinstance(error, UsageError):
            raise
        raise OSError(error.errno or errno.EIO, _said(error), str(where)) from error
    except Exception as error:
        if not is_url(where):
            raise
        raise OSError(errno.EIO, _said(error), str(where)) from error


def _said(error: BaseException) -> str:
    says = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return f"{os.strerror(errno.ENOENT)}: {says}" if isinstance(error, FileNotFoundError) and not error.errno else says


def text_of(file: Any) -> str | None:
    """What a file says; None if it is not there. Raises: OSError.

    A bucket is read by another process: what reads it has threads, and this process may fork yet.
    """
    if not is_url(file):
        return file.read_text(encoding="utf-8") if file.is_file() else None  # type: ignore[no-any-return]
    program = (
        "import sys; from etils import epath; file = epath.Path(sys.argv[1]); "
        "sys.stdout.buffer.write(file.read_bytes()) if file.exists() else sys.exit(3)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True)
    if ran.returncode not in (0, 3):
        raise OSError(errno.EIO, (ran.stderr.decode(errors="replace").strip() or "?").splitlines()[-1], str(file))
    return None if ran.returncode else ran.stdout.decode("utf-8")


def fetch(source: Any, to: Path) -> Path:
    """A file, or a folder with all that is in it, copied to a disk. Raises: OSError."""
    with reached(source):
        if source.is_dir():
            to.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(8) as several:
                list(several.map(lambda one: fetch(one, to / one.name), list(source.iterdir())))
        elif not source.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        else:
            from etils import epath

            to.parent.mkdir(parents=True, exist_ok=True)
            epath.Path(source).copy(to, overwrite=True)
    return to


@functools.cache
def kept() -> Path:
    """A temporary folder of this process."""
    folder = tempfile.TemporaryDirectory(prefix="alignjax-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def local(path: str) -> str:
    """A file by a name that anything can open: one in a bucket is copied here, once, until this process ends.

    Raises: UsageError, OSError.
    """
    if not is_url(path):
        return path
    source = place(path)
    return str(fetch(source, kept() / path.partition("://")[2].lstrip("/")))


class SmallFiles:
    """The folder that a process writes the small files of a run into: `out` itself; or, where they are `copied`, one
    of its own, until the run ends. Of several processes the first one copies.
    """

    LAST = "trained.json"
    """Says that the model beside it is whole."""

    def __init__(self, out: Any, *, copied: bool, first: bool = True) -> None:
        self.out = out
        self._copies = copied and first
        self._own = tempfile.TemporaryDirectory(prefix="alignjax-") if copied else None
        self.folder = out if self._own is None else Path(self._own.name)
        self._sent: dict[Path, tuple[int, int]] = {}

    def __enter__(self) -> "SmallFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception | KeyboardInterrupt):
                with contextlib.suppress(Exception):  # what went wrong is told already
                    self.send()
        finally:
            if self._own is not None:
                self._own.cleanup()

    def fetch(self, names: tuple[str, ...]) -> None:
        """Files that an earlier process of the run wrote, where they are there. Raises: OSError."""
        for name in names if self._copies else ():
            with reached(self.out), contextlib.suppress(FileNotFoundError):
                self._sent[Path(name)] = _state(fetch(self.out / name, self.folder / name))

    def send(self) -> None:
        """Copies what is new or changed; what says that a model is whole comes last. Raises: OSError."""
        if not self._copies:
            return
        there = [file.relative_to(self.folder) for file in self.folder.rglob("*") if file.is_file()]
        state = {name: _state(self.folder / name) for name in there if not _unfinished(name)}
        changed = [name for name, now in state.items() if self._sent.get(name) != now]
        marks = [name for name in changed if name.name == self.LAST]
        with reached(self.out):
            for name in marks:
                (self.out / name).unlink(missing_ok=True)
            with ThreadPoolExecutor(8) as several:
                list(several.map(self._put, [name for name in changed if name not in marks]))
            for name in marks:
                self._put(name)
        self._sent |= {name: state[name] for name in changed}

    def _put(self, name: Path) -> None:
        source, target = self.folder / name, self.out / name
        if is_url(target):  # an object is there when all of it is
            from etils import epath

            epath.Path(source).copy(target, overwrite=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        shutil.copyfile(source, beside)
        os.replace(beside, target)


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _unfinished(name: Path) -> bool:
    return any(part.endswith(".part") for part in name.parts)
