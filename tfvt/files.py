"""Files on the disk."""

import os
from pathlib import Path


def fsync(path: Path | str) -> None:
    """Make sure that what was written to a file, or into a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
