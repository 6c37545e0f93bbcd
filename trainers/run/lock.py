"""One process at a time in a run's folder."""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator

from tfvt.errors import UsageError
from tfvt.files import is_temporary
from tfvt.stores import AnyPath, StorePath

LOCK = "lock"
# Which a run writes whole, beside checkpoints.
FILES = ("recipe.yaml", "serving.json", "metrics.csv", "diverged.json", "final.keras", "report.html")


@contextlib.contextmanager
def locked(folder: AnyPath) -> Iterator[None]:
    """Lock a run's folder, and make it if it is missing: no other process can train in it meanwhile.

    The operating system releases the lock when the process ends, for any reason. Object stores have no locks: there,
    as in a file system without them, a line asks the user to take care.

    Raises:
        UsageError: another process holds it; the message says which one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(folder, StorePath):
        _warn(folder, "object stores have no locks")
        yield
        return
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(
                f"{holder} is training in {folder}: wait until it ends, stop it, or choose another --output"
            ) from None
        except OSError as error:  # some network file systems have no locks
            _warn(folder, error.strerror)
        left = [path for path in folder.iterdir() if is_temporary(path, FILES)]
        left += [path for path in folder.glob("checkpoints/.step-*") if is_temporary(path)]
        for path in left:  # by a killed process of a run; others may be writing files of their own below this folder
            path.unlink()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a shared folder that has been away; the lock is released anyway
                file.truncate(0)


def _warn(folder, reason):
    print(
        f"tfvt train: {folder} cannot be locked ({reason}): make sure that no other process trains there",
        file=sys.stderr,
    )
