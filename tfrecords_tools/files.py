"""Files that are there whole or not at all, and what they are known by."""

import os
import re
import uuid
import zlib
from pathlib import Path

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.new")  # what a killed process may leave


def temporary_name(name) -> str:
    """Of a file that will be renamed; another one each time, so that processes do not write into each other's."""
    return f".{name}.{uuid.uuid4().hex}.new"


def is_temporary(path, names=None) -> bool:
    """Whether a file has a temporary name: of anything, or of a file that has one of the names."""
    match = _TEMPORARY.fullmatch(Path(path).name)
    return bool(match) and (names is None or match[1] in names)


def write_whole(path, content: bytes):
    """A reader sees the old file or the new one, also after a crash, and whoever else writes it at the same time."""
    path = Path(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def fsync(path):
    """Whatever was written to a file, or into a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def crc32(path) -> int:
    """zlib's, of the whole file."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
