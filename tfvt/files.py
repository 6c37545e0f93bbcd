"""Files that exist whole or not at all, on disks and in object stores, and file names as text."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from tfvt.errors import WriteError
from tfvt.stores import AnyPath, StorePath, as_path

FULL = (errno.ENOSPC, errno.EDQUOT)
# By what libraries in other languages say it; the last of it is TensorFlow's client of gs://, on its copy below TMPDIR.
_FULL_IN_WORDS = (*map(os.strerror, FULL), "to the internal temporary file")
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.new(\.\w+)?")  # what a killed process may leave


def temporary_name(name: str, ending: str = "") -> str:
    """A name for a file that will be renamed; a new one each time, so that no process writes into another's file."""
    return f".{name}.{uuid.uuid4().hex}.new{ending}"


def is_temporary(path: AnyPath | str, names: Collection[str] | None = None) -> bool:
    """Whether a file has a temporary name: of any file, or of one of the given names."""
    match = _TEMPORARY.fullmatch(Path(path).name)
    return bool(match) and (names is None or match[1] in names)


@contextlib.contextmanager
def whole_file(path: AnyPath | str, ending: str = "") -> Iterator[Path]:
    """Give a temporary name to write to. The file gets the name `path` when it is complete and on the disk.

    A reader sees the old file or the new one, even after a power cut or if other processes write it as well. Where
    writing fails, the old file stays. All of this holds in a store too, see `named_later`.

    Args:
        path: of the file.
        ending: of the temporary name, such as ".keras", for libraries that read it.

    Raises:
        WriteError: the disk is full, or the folder is not writable; it names the file.
    """
    path = as_path(path)
    temporary = path.with_name(temporary_name(path.name, ending))
    try:
        with named_later(path, temporary) as written:
            yield written
    except OSError as error:
        ours = (None, path.url) if isinstance(path, StorePath) else (None, str(temporary), temporary)
        if error.filename in ours:  # a full disk has no name in Python's error
            raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
        raise


@contextlib.contextmanager
def whole_folder(path: AnyPath | str, last: str) -> Iterator[Path]:
    """Give a folder to write files and folders to. It gets the name `path` when it is complete and on the disk.

    `path` is new, or an empty folder. Where writing fails, it stays as it was. In a store, which has no folders, the
    file `last` is uploaded last: a reader without it finds nothing.

    Raises:
        FileExistsError: `path` is a file, or a folder with content.
        WriteError: the disk is full, or the folder around it is not writable.
    """
    path = as_path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty: choose another folder, or remove it first")
    if isinstance(path, StorePath):
        with temporary_folder(path) as folder:
            yield folder
            for written in sorted(folder.rglob("*"), key=lambda written: written.name == last):
                target = path / written.relative_to(folder).as_posix()
                if written.is_dir():
                    target.mkdir()
                else:
                    target.upload(written)
        return
    path = path.resolve()  # a link stays; the folder appears where it leads
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()  # with the usual permissions, which a temporary folder does not have
            yield folder
            for written in (*folder.rglob("*"), folder):
                fsync(written)
            if path.exists():
                path.rmdir()  # it is empty, and rename needs it gone
            folder.rename(path)
    except Exception as error:  # libraries raise their own
        if disk_is_full(error):
            raise WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if isinstance(error, OSError):
            raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    fsync(path.parent)


@contextlib.contextmanager
def named_later(path: AnyPath, temporary: AnyPath) -> Iterator[Path]:
    """Give a file to write to, which is named `path` when it is complete and on the disk; otherwise it goes.

    On a disk it is `temporary`, in the same file system. A store has no rename, but an upload is all or nothing: the
    file is one of this machine's (below TMPDIR), and is uploaded when it is complete.
    """
    if isinstance(path, StorePath):
        with temporary_folder(path) as folder:
            yield folder / temporary.name
            path.upload(folder / temporary.name)
        return
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is gone; a read-only disk says so of itself
            temporary.unlink()
    fsync(path.parent)


@contextlib.contextmanager
def local_file(path: AnyPath | str) -> Iterator[Path]:
    """The file itself, or meanwhile a copy (below TMPDIR) of one in a store, for libraries that read only disks."""
    path = as_path(path)
    if not isinstance(path, StorePath):
        yield path
        return
    with temporary_folder(path) as folder:
        path.download(folder / path.name)
        yield folder / path.name


@contextlib.contextmanager
def temporary_folder(path: StorePath) -> Iterator[Path]:
    """Give a folder (below TMPDIR) for what is on its way to `path`, or from there. Afterwards it goes.

    Raises:
        OSError: TMPDIR is full; it says so, which TensorFlow does not.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="tfvt-") as folder:
            yield Path(folder)
    except Exception as error:
        if disk_is_full(error):
            raise OSError(errno.ENOSPC, no_room_on_the_way(), path.url) from error
        raise


def no_room_on_the_way() -> str:
    """What a full disk of this machine means for a store."""
    return f"{tempfile.gettempdir()} of this machine is full, through which files go to and from stores"


def disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a used-up quota, explains the error, or what it came from."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(words in str(error) for words in _FULL_IN_WORDS):
            return True
        error = error.__cause__
    return False


def write_whole(path: AnyPath | str, content: bytes) -> None:
    """Write a file, whole or not at all, see `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def fsync(path: Path | str) -> None:
    """Make sure that what was written to a file, or into a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: AnyPath) -> None:
    """Remove a file, a link (not where it leads), or a folder with all it holds."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    elif isinstance(path, StorePath):
        path.rmtree()
    else:
        shutil.rmtree(path)


def has_folder(path: AnyPath) -> bool:
    """Whether the folder of a file to be written exists, or needs not, in a store."""
    return isinstance(path, StorePath) or path.parent.is_dir()


def printable(name: AnyPath | str | bytes) -> str:
    """A file name as text that can be printed and stored; bytes that are not UTF-8 appear in hexadecimal."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
