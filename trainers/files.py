"""Files that exist whole or not at all."""

import os
from pathlib import Path

from tfvt.files import fsync

from .errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all.

    Raises:
        UsageError: the disk is full, or the folder is not writable.
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
    """Rename the finished file `partial` to `path`, so that a power cut leaves the old file or the new one."""
    fsync(partial)
    os.replace(partial, path)
    fsync(path.parent)
