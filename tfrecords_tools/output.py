"""The folder of a conversion: what lies in it, who wrote it, and the lock that admits one conversion at a time."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tfvt.data.records import MANIFEST, Manifest, check_shards, read_manifest
from tfvt.errors import UsageError
from tfvt.files import is_temporary
from tfvt.stores import AnyPath, StorePath

from .progress import note
from .shards import PARTIAL
from .sources import Source

REJECTS = "rejects.json"
LEFT_OUT = "left_out.json"  # names below the source that are not part of it
BEGUN = "source_sha256"  # in .partial: what is being converted
LOCK = "lock"  # in .partial: held while a conversion runs
OVERWRITING = "overwriting"  # in .partial: this conversion was begun with --overwrite
LISTS = (MANIFEST, REJECTS, LEFT_OUT)
SHARD_NAME = re.compile(r"(train|validation|test)-\d{5,}-of-\d{5,}")


def check_place(source: Source, output: AnyPath) -> None:
    """Refuses what cannot be the folder of a conversion of this source."""
    if os.path.islink(output) and not output.exists():
        raise UsageError(f"output {output} is a symbolic link that leads nowhere: remove it")
    if output.exists() and not output.is_dir():
        raise UsageError(f"output {output} is a file: choose a folder")
    if isinstance(output, StorePath):
        return
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source.root)):
        raise UsageError(f"output {output} lies inside the source {source.root}: choose a folder outside")


def existing(output: AnyPath, digest: str, overwrite: bool) -> Manifest | None:
    """The manifest if the folder already holds this conversion, complete; None if it has to begin or continue.

    Raises:
        UsageError: `output` holds something else, without `overwrite` or not written by a conversion.
    """
    _check_foreign_files(output)
    if overwrite and not is_overwriting(output, digest):
        return None
    begun = output / PARTIAL / BEGUN
    if (output / MANIFEST).exists():
        manifest = read_manifest(output)
        if manifest.source_sha256 != digest:
            raise UsageError(
                f"{output} holds another conversion (other images or settings): choose another folder, or replace "
                "it with --overwrite"
            )
        for shards in manifest.splits.values():
            check_shards(output, shards)
        return manifest
    if begun.exists():
        if begun.read_text() != digest:
            raise UsageError(
                f"{output} holds an unfinished conversion of other images or with other settings: finish it as it was "
                "begun, or replace it with --overwrite"
            )
    elif shards := _shards(output):
        raise UsageError(
            f"{output} holds shards without a manifest, such as {shards[0].name}: choose another folder, or "
            "replace them with --overwrite"
        )
    return None


def is_overwriting(output: AnyPath, digest: str) -> bool:
    """Whether this conversion was begun with --overwrite and interrupted: --overwrite then continues it."""
    begun = output / PARTIAL / BEGUN
    return (output / PARTIAL / OVERWRITING).exists() and begun.exists() and begun.read_text() == digest


def _check_foreign_files(output):
    """Refuses a folder with files whose names a conversion writes and deletes, but that no conversion wrote."""
    if not output.is_dir() or (output / PARTIAL / BEGUN).exists():
        return
    ours = re.compile(rf"{LOCK}|{OVERWRITING}|{SHARD_NAME.pattern}\.json|plan\.jsonl")  # a killed run leaves these
    foreign = [
        path for path in sorted((output / PARTIAL).glob("*")) if not (ours.fullmatch(path.name) or is_temporary(path))
    ]
    if not (_shards(output) or _has_manifest(output)):
        foreign += [output / name for name in LISTS if (output / name).exists()]
    if foreign:
        raise UsageError(
            f"no conversion wrote {foreign[0]}, and this one would delete it: move it away, or choose another folder"
        )


def _has_manifest(output):
    try:
        read_manifest(output)
    except UsageError:
        return False
    return True


def _shards(output):
    return [path for path in output.iterdir() if SHARD_NAME.fullmatch(path.name)] if output.is_dir() else []


def old_files(output: AnyPath) -> list[AnyPath]:
    """Files that conversions wrote, in the order in which they may be deleted.

    First those that tell others to keep the rest; last those that show that a conversion wrote it.
    """
    partial = output / PARTIAL
    reports = [path for path in partial.iterdir() if path.name not in (OVERWRITING, BEGUN, LOCK)]
    lists = [output / name for name in LISTS]
    files = [partial / OVERWRITING, *lists, *_shards(output), *reports, partial / BEGUN]
    return [path for path in files if path.exists()]


def clear_partial(output: AnyPath) -> None:
    """Removes what an unfinished conversion leaves, except for the lock, which `locked` removes."""
    for path in sorted((output / PARTIAL).iterdir(), key=lambda path: path.name == BEGUN):
        if path.name != LOCK:
            path.unlink()


@contextlib.contextmanager
def locked(output: AnyPath) -> Iterator[None]:
    """Keeps other conversions out of the folder, and removes the temporary files that a killed one left there."""
    partial = output / PARTIAL
    with _lock(partial / LOCK):
        for path in [*output.iterdir(), *partial.iterdir()]:
            if is_temporary(path, LISTS if path.parent == output else None):
                path.unlink()
        try:
            yield
        finally:
            left = [path.name for path in partial.iterdir()]
            if left == [LOCK] or (not left and isinstance(output, StorePath)):  # all is done, or nothing was begun
                (partial / LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # another conversion comes in
                    partial.rmdir()


def _lock(path):
    """The lock's file, locked until it is closed."""
    if isinstance(path, StorePath):
        path.parent.mkdir(parents=True, exist_ok=True)
        _note_no_lock(path, "object stores have no locks")
        return contextlib.nullcontext()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = open(path, "w")  # noqa: SIM115 - closed by the caller
        except FileNotFoundError:  # a conversion that has just ended removed the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UsageError(
                f"another conversion is writing into {path.parent.parent}: wait until it has ended, or choose another "
                "folder"
            ) from None
        except OSError as error:  # some network file systems
            _note_no_lock(path, error.strerror)
            return lock
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        lock.close()  # that of a conversion that has just ended and removed it


def _note_no_lock(path, reason):
    note(f"{path.parent.parent} cannot be locked ({reason}): make sure that no other conversion writes there")
