"""Image files -> TFRecord shards and a manifest; can be killed at any moment and run again.

A shard is written under `OUTPUT/.partial/` and gets its name when it is complete and on the disk; the manifest comes
last. What shard holds what is decided before the first byte is written (plan.py), and one function writes a shard
(shards.py), whoever calls it: threads or processes of this machine (workers.py), or Apache Beam (beam.py). So the
number of workers and the interruptions leave no trace in the files.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfvt.data.records import MANIFEST, Manifest, RecordsError, check_shards, read_manifest

from . import workers as local_workers
from .files import TEMPORARY, write_whole
from .plan import plan_shards, source_digest
from .progress import image_progress, note
from .shards import PARTIAL, Finished, read_finished
from .sources import Source, open_source, some

REJECTS = "rejects.json"
LEFT_OUT = "left_out.json"  # names below the source that are no part of it
BEGUN = "source_sha256"  # in .partial: what is being converted
LOCK = "lock"  # in .partial: held while a conversion is at work
SHARD_NAME = re.compile(r"(train|validation|test)-\d{5,}-of-\d{5,}")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def convert(
    source, output, *, shards=None, label_offset=0, workers=None, max_rejects=0, overwrite=False, beam=None
) -> Manifest:
    """Write the images of a source as records.

    Args:
        source: a `Source`, or a location for `open_source`.
        output: folder for shards and manifest; the same conversion, interrupted, goes on where it stopped.
        shards: files a split, at most one an image; by default one per 128 MiB of images.
        label_offset: stored label of the first class, 0 or 1.
        workers: shards written at a time, by default one a processor. Many images are written by processes: a script
            that calls this keeps its own work under `if __name__ == "__main__":`.
        max_rejects: images that may be left out before the conversion counts as failed.
        overwrite: replace what `output` holds.
        beam: options of an Apache Beam pipeline (`["--runner=FlinkRunner", ...]`), which then writes the shards.

    Returns:
        The manifest.

    Raises:
        RecordsError: the source is not as it must be, `output` holds something else, is being written to or full, or
            too many rejects.
    """
    for name, value, least in (("shards", shards, 1), ("workers", workers, 1), ("max_rejects", max_rejects, 0)):
        if value is not None and value < least:
            raise RecordsError(f"{name} must be at least {least}, not {value}")
    if label_offset not in (0, 1):
        raise RecordsError(f"label_offset must be 0 or 1, not {label_offset}")
    if beam is not None and workers is not None:
        raise RecordsError("workers are of this machine: say in the options of Beam's runner how many it shall use")
    if not isinstance(source, Source):
        source = open_source(source)
    if label_offset and source.settings.mask_ids:
        raise RecordsError("label_offset is of images that have a class: the classes of a mask's pixels begin with 0")
    output = Path(output)
    if output.resolve().is_relative_to(Path(source.root).resolve()):
        raise RecordsError(f"output {output} lies inside the source {source.root}: choose a folder outside")
    if output.exists() and not output.is_dir():
        raise RecordsError(f"output {output} is a file: choose a folder")

    if source.left_out:
        names = some(source.left_out)
        note(f"left out, because the source has no place for them: {names} ({output / LEFT_OUT} lists them all)")
    plan = plan_shards(source, shards)
    digest = source_digest(source, plan, label_offset)
    if not overwrite and (existing := _existing(output, digest)):
        note(f"{output} already holds this conversion, complete; nothing to do")
        if (output / PARTIAL).exists():  # a run was killed behind its manifest
            with _locked(output):
                shutil.rmtree(output / PARTIAL)
        return existing
    write_shards = _writer(workers or os.cpu_count(), beam)
    with _locked(output), image_progress() as progress:
        task = progress.add_task("converting", total=sum(len(planned.images) for planned in plan))
        found = [] if overwrite else _find(output, plan, functools.partial(progress.advance, task))
        finished = {one.shard.name: one for one in found}
        pending = [planned for planned in plan if planned.name not in finished]
        old_files = _old_files(output) if overwrite else []
        _check_space(output, source.settings, pending, old_files)
        for path in old_files:
            path.unlink()
        write_whole(output / PARTIAL / BEGUN, digest.encode())
        _write_list(output / LEFT_OUT, source.left_out)
        done = progress.tasks[task].completed
        with _room_needed(output):
            written = write_shards(
                source.settings,
                pending,
                output,
                label_offset,
                report=lambda images: progress.update(task, completed=done + images),
            )
            finished |= {one.shard.name: one for one in written}
            rejects = [reject for planned in plan for reject in finished[planned.name].rejects]
            _check_rejects(output, rejects, max_rejects)
            splits = {
                split: tuple(finished[planned.name].shard for planned in plan if planned.split == split)
                for split in source.splits
            }
            manifest = Manifest(
                class_names=source.settings.class_names, label_offset=label_offset, splits=splits, source_sha256=digest
            )
            write_whole(output / MANIFEST, manifest.to_json().encode())
        shutil.rmtree(output / PARTIAL)
    return manifest


def _existing(output, digest) -> Manifest | None:
    """The manifest if this very conversion is already there, complete; None if it is to be begun or gone on with.

    Raises:
        RecordsError: `output` holds something else.
    """
    begun = output / PARTIAL / BEGUN
    if (output / MANIFEST).exists():
        manifest = read_manifest(output)
        if manifest.source_sha256 != digest:
            raise RecordsError(
                f"{output} holds another conversion (other images or settings): choose another folder, or replace "
                "it with --overwrite"
            )
        for shards in manifest.splits.values():
            check_shards(output, shards)
        return manifest
    if begun.exists():
        if begun.read_text() != digest:
            raise RecordsError(
                f"{output} holds an unfinished conversion of other images or with other settings: finish it as it was "
                "begun, or replace it with --overwrite"
            )
    elif shards := [path for path in _old_files(output) if SHARD_NAME.fullmatch(path.name)]:
        raise RecordsError(
            f"{output} holds shards without a manifest, such as {shards[0].name}: choose another folder, or "
            "replace them with --overwrite"
        )
    return None


def _old_files(output):
    """What conversions have written, in the order in which it may go: no manifest is left that lacks its shards."""
    if not output.is_dir():
        return []
    shards = [path for path in output.iterdir() if SHARD_NAME.fullmatch(path.name)]
    reports = [path for path in (output / PARTIAL).glob("*") if path.name != LOCK]
    lists = [output / name for name in (MANIFEST, REJECTS, LEFT_OUT)]
    return [path for path in lists if path.exists()] + shards + reports


def _writer(workers, beam):
    """Who writes the shards."""
    if beam is None:
        return functools.partial(local_workers.write_shards, workers=workers)
    try:
        from .beam import write_shards
    except ImportError as error:
        raise RecordsError(f"Beam is not installed ({error}): pip install 'tfvt[beam]'") from None
    return functools.partial(write_shards, options=beam)


@contextlib.contextmanager
def _locked(output):
    """Keeps other conversions out of the folder, and removes the temporary files that a killed one left there."""
    (output / PARTIAL).mkdir(parents=True, exist_ok=True)
    with open(output / PARTIAL / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordsError(
                f"another conversion is writing into {output}: wait until it has ended, or choose another folder"
            ) from None
        except OSError as error:  # some network file systems
            note(f"{output} cannot be locked ({error.strerror}): see to it that no other conversion writes there")
        for path in [*output.glob(TEMPORARY), *(output / PARTIAL).glob(TEMPORARY)]:
            path.unlink()
        yield


def _find(output, plan, advance) -> list[Finished]:
    """What an earlier, interrupted run of the same conversion finished."""
    found = []
    with ThreadPoolExecutor() as pool:  # checksums are computed outside Python's lock
        for planned, finished in zip(plan, pool.map(functools.partial(read_finished, output), plan), strict=True):
            if finished is not None:
                found.append(finished)
                advance(len(planned.images))
    return found


def _check_space(output, settings, pending, old_files):
    """Refuses what cannot fit. What is re-encoded takes less than its file, so that nothing can be said of it."""
    needed = sum(image.size + image.mask_size for planned in pending for image in planned.images)
    free = shutil.disk_usage(output).free + sum(path.stat().st_size for path in old_files)
    if needed > free and not settings.jpeg:
        raise RecordsError(
            f"{output} has {free / 2**20:,.0f} MiB free, and the {len(pending)} shards to be written take some "
            f"{needed / 2**20:,.0f} MiB: make room, or choose another folder"
        )


@contextlib.contextmanager
def _room_needed(output):
    """Says what to do when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(output).free
        raise RecordsError(
            f"{output} is full ({free / 2**20:,.0f} MiB free): make room and run the same command again, which keeps "
            "the shards that are finished and goes on from there"
        ) from error


def _check_rejects(output, rejects, max_rejects):
    _write_list(output / REJECTS, [dataclasses.asdict(reject) for reject in rejects])
    if not rejects:
        return
    if len(rejects) > max_rejects:
        lines = [f"  {reject.file}: {reject.reason}" for reject in rejects[:20]]
        raise RecordsError(
            f"{len(rejects)} images cannot be converted, and {max_rejects} are allowed:\n"
            + "\n".join(lines)
            + f"\n{output / REJECTS} has the whole list. Repair or remove them and run again with --overwrite, or "
            f"leave them out with --max-rejects {len(rejects)}"
        )
    note(f"{len(rejects)} images are left out, see {output / REJECTS}")


def _write_list(path, entries):
    """As JSON; there is no file where there are no entries."""
    path.unlink(missing_ok=True)
    if entries:
        write_whole(path, (json.dumps(entries, indent=1) + "\n").encode())
