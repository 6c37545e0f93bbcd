"""Files that exist whole or not at all, and file names as text."""

import contextlib
import os
import re
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from tfvt.errors import WriteError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.new(\.\w+)?")  # what a killed process may leave


def temporary_name(name: str, ending: str = "") -> str:
    """A name for a file that will be renamed; a new one each time, so that no process writes into another's file."""
    return f".{name}.{uuid.uuid4().hex}.new{ending}"


def is_temporary(path: Path | str, names: Collection[str] | None = None) -> bool:
    """Whether a file has a temporary name: of any file, or of one of the given names."""
    match = _TEMPORARY.fullmatch(Path(path).name)
    return bool(match) and (names is None or match[1] in names)


@contextlib.contextmanager
def whole_file(path: Path | str, ending: str = "") -> Iterator[Path]:
    """Give a temporary name to write to. The file gets the name `path` when it is complete and on the disk.

    A reader sees the old file or the new one, even after a power cut or if other processes write it as well. Where
    writing fails, the old file stays.

    Args:
        path: of the file.
        ending: of the temporary name, such as ".keras", for libraries that read it.

    Raises:
        WriteError: the disk is full, or the folder is not writable; it names the file.
    """
    path = Path(path)
    temporary = path.with_name(temporary_name(path.name, ending))
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):  # a full disk has no name in Python's error
            raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # it is gone; a read-only disk says so of itself
            temporary.unlink()
    fsync(path.parent)


def write_whole(path: Path | str, content: bytes) -> None:
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


def printable(name: Path | str | bytes) -> str:
    """A file name as text that can be printed and stored; bytes that are not UTF-8 appear in hexadecimal."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
