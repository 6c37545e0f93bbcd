"""Paths of object stores, such as `gs://bucket/folder/file`, with as much of pathlib's interface as tfvt uses.

TensorFlow's file systems do the work (`tf.io.gfile`, imported when a path is first used). A store has neither rename
nor fsync, nor locks; folders are beginnings of names. But an upload is all or nothing: `tfvt.files` builds on that.
"""

import contextlib
import errno
import fnmatch
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tfvt.errors import UsageError, one_line

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9.]+://")  # as TensorFlow has it, to which C://x is a local file
_ONE_SLASH = re.compile(r"([a-zA-Z][a-zA-Z0-9.]+):/(?!/)")  # what pathlib makes of an address
_LONGEST = 300  # characters of a store's own message


class StoreStat(NamedTuple):
    """What is known of a file or folder, as `os.stat` calls it."""

    st_size: int
    st_mtime_ns: int
    is_folder: bool
    st_ino: int = 0  # stores number nothing


@dataclass(frozen=True, order=True)
class StorePath(os.PathLike):
    """A file or folder in a store. Errors are `OSError`s that name it, whatever TensorFlow raises."""

    url: str

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(f"{self.url}{'' if self.url.endswith('/') else '/'}{name}")

    @property
    def name(self) -> str:
        return _split(self.url)[1].rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        start, rest = _split(self.url)
        return StorePath(start + rest.rpartition("/")[0]) if "/" in rest else self

    def with_name(self, name: str) -> "StorePath":
        """The neighbour of that name."""
        return self.parent / name

    def absolute(self) -> "StorePath":
        """Itself, as `resolve`: stores have no present folder and no links."""
        return self

    resolve = absolute

    def is_relative_to(self, other: "Path | StorePath") -> bool:
        """Whether it is `other`, or lies below."""
        return isinstance(other, StorePath) and f"{self}/".startswith(f"{other}".rstrip("/") + "/")

    def relative_to(self, other: "StorePath") -> PurePosixPath:
        """The rest of the name, below `other`."""
        return PurePosixPath(self.url.removeprefix(other.url).lstrip("/"))

    def stat(self) -> StoreStat:
        """Size and time.

        Raises:
            FileNotFoundError: neither a file nor a folder has that name.
        """
        with _os_errors(self) as gfile:
            found = gfile.stat(self.url)
        return StoreStat(found.length, found.mtime_nsec, found.is_directory)

    def exists(self) -> bool:
        """Whether a file or folder has that name."""
        return self._stat() is not None

    def is_file(self) -> bool:
        """Whether a file has that name."""
        return not getattr(self._stat(), "is_folder", True)

    def is_dir(self) -> bool:
        """Whether names begin so."""
        return getattr(self._stat(), "is_folder", False)

    def is_symlink(self) -> bool:
        """No: there are no links."""
        return False

    def _stat(self):
        try:
            return self.stat()
        except FileNotFoundError:
            return None

    def iterdir(self) -> Iterator["StorePath"]:
        """What the folder holds; nothing if there is none, since an empty folder of a store does not exist."""
        try:
            with _os_errors(self) as gfile:
                names = gfile.listdir(self.url)
        except FileNotFoundError:
            self.exists()  # TensorFlow says this too of a store that it cannot reach
            return
        yield from (self / name.rstrip("/") for name in names)

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        """What matches `pattern` below, each part of it by the rules of the shell. Of `gs://` it is one list."""
        start = re.sub(r"([*?\[\\])", r"\\\1", self.url)
        try:
            with _os_errors(self) as gfile:
                names = gfile.glob(f"{start}/{pattern}")
        except FileNotFoundError:
            return
        yield from (StorePath(name.rstrip("/")) for name in names)

    def rglob(self, pattern: str) -> Iterator["StorePath"]:
        """What matches `pattern`, a name, at any depth."""
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path
            yield from path.rglob(pattern)

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Make the folder and those above it, where they are missing: stores without folders accept this too."""
        with _os_errors(self) as gfile:
            gfile.makedirs(self.url)

    def rmdir(self) -> None:
        """Remove an empty folder."""
        if any(self.iterdir()):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), self.url)
        self.rmtree()

    def rmtree(self) -> None:
        """Remove a folder with all it holds."""
        with _os_errors(self) as gfile:
            gfile.rmtree(self.url)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            with _os_errors(self) as gfile:
                gfile.remove(self.url)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @contextlib.contextmanager
    def open(self, mode: str = "r", newline: str = "", encoding: str = "utf-8") -> Iterator[IO[Any]]:
        """The file, to read ("r", "rb"). To write one, see `tfvt.files.whole_file`."""
        if mode == "r":  # TensorFlow would drop carriage returns
            yield io.StringIO(self.read_text(encoding), newline)
            return
        with _os_errors(self) as gfile, gfile.GFile(self.url, mode) as file:
            yield file

    def read_bytes(self) -> bytes:
        """All of the file."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of the file as text."""
        return self.read_bytes().decode(encoding)

    def upload(self, local: Path) -> None:
        """Copy a file of this machine here, whole or not at all; it replaces one of this name."""
        with _os_errors(self) as gfile:
            if self.url.startswith("ram://") and gfile.exists(self.url):
                gfile.remove(self.url)  # TensorFlow's ram:// would write at the end of it
            gfile.copy(str(local), self.url, overwrite=True)

    def download(self, local: Path) -> None:
        """Copy the file to this machine."""
        with _os_errors(self) as gfile:
            gfile.copy(self.url, str(local), overwrite=True)


AnyPath = Path | StorePath


def as_path(path: AnyPath | str) -> AnyPath:
    """A `StorePath` if it is the address of a store, such as "gs://bucket/x", and otherwise a `pathlib.Path`.

    Give such an address as text: `Path("gs://bucket/x")` is gs:/bucket/x, which is refused.

    Raises:
        UsageError: a local path that begins like an address that has lost a slash.
    """
    if isinstance(path, StorePath):
        return path
    text = os.fspath(path)
    if isinstance(path, Path) or not _URL.match(text):
        _check_slashes(text)
        return Path(path)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    start, rest = _split(text)
    return StorePath(start + rest.rstrip("/"))


def _check_slashes(text):
    match = _ONE_SLASH.match(text)
    if match is None:
        return
    import tensorflow as tf

    if match[1] in tf.io.gfile.get_registered_schemes():
        raise UsageError(f"{text}: an address begins with {match[1]}://, and a local folder of that name with its path")


def _split(url):
    """The address in two parts, such as "gs://" and what follows it."""
    start, colon, rest = url.partition("://")
    return start + colon, rest


@contextlib.contextmanager
def _os_errors(path: StorePath) -> Iterator[Any]:
    """`tf.io.gfile`, whose errors become those that Python raises for a local file."""
    import tensorflow as tf

    numbers = {
        tf.errors.NotFoundError: errno.ENOENT,
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.UnauthenticatedError: errno.EACCES,
        tf.errors.AlreadyExistsError: errno.EEXIST,
        tf.errors.UnimplementedError: errno.ENOTSUP,
    }
    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        number = numbers.get(type(error), errno.EIO)
        reason = one_line(error.message)[:_LONGEST]
        if number == errno.ENOENT:
            reason = os.strerror(number)
        schemes = sorted(f"{name}://" for name in tf.io.gfile.get_registered_schemes() if name not in ("", "file"))
        scheme = _split(path.url)[0]
        if number == errno.ENOTSUP and scheme not in schemes:
            reason = f"TensorFlow has no file system for {scheme} (it has {', '.join(schemes)})"
        raise OSError(number, reason, path.url) from error
