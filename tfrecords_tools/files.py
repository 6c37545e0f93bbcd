"""Files that exist whole or not at all, and their checksums."""

import os
import re
import uuid
import zlib
from pathlib import Path

from tfvt.files import fsync

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.new")  # what a killed process may leave


def temporary_name(name) -> str:
    """A name for a file that will be renamed; a new one each time, so that no process writes into another's file."""
    return f".{name}.{uuid.uuid4().hex}.new"


def is_temporary(path, names=None) -> bool:
    """Whether a file has a temporary name: of any file, or of one of the given names."""
    match = _TEMPORARY.fullmatch(Path(path).name)
    return bool(match) and (names is None or match[1] in names)


def write_whole(path, content: bytes):
    """Writes a file so that a reader sees the old or the new one, even after a crash or if others write it as well."""
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


def crc32(path) -> int:
    """CRC-32 (zlib's) of the whole file."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
