"""Files that are there whole or not at all."""

import os
from pathlib import Path

from .errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all.

    Raises:
        UsageError: the disk is full, or the place cannot be written to.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        publish(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def publish(partial: Path, path: Path) -> None:
    """Give the finished file `partial` its name `path`, so that a power cut leaves the old file or the new."""
    _fsync(partial)
    os.replace(partial, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
