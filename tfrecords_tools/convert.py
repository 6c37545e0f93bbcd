"""Image files -> TFRecord shards and a manifest; it can be killed at any moment and run again.

A shard is written under `OUTPUT/.partial/` and gets its name when it is complete and on the disk; the manifest comes
last. The plan assigns images to shards before the first byte is written (plan.py). One function writes a shard
(shards.py), no matter who calls it: threads or processes of this machine (workers.py), or Apache Beam (beam.py). So
the number of workers and the interruptions leave no trace in the files.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfvt.data.records import MANIFEST, UNLABELLED, Manifest, counted
from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.stores import AnyPath, StorePath, as_path

from . import workers as local_workers
from .output import (
    BEGUN,
    LEFT_OUT,
    OVERWRITING,
    REJECTS,
    check_place,
    clear_partial,
    existing,
    is_overwriting,
    locked,
    old_files,
)
from .plan import plan_shards, source_digest
from .progress import image_progress, note
from .shards import PARTIAL, Finished, read_finished
from .sources import Source, open_source, some

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def convert(
    source: Source | Path | str,
    output: AnyPath | str,
    *,
    shards: int | None = None,
    label_offset: int = 0,
    workers: int | None = None,
    max_rejects: int = 0,
    overwrite: bool = False,
    beam: Iterable[str] | None = None,
) -> Manifest:
    """Write the images of a source as records, and return the manifest.

    Args:
        source: a `Source`, or a location for `open_source`.
        output: folder for shards and manifest, also "gs://bucket/folder"; the same conversion, interrupted, continues
            where it stopped.
        shards: files per split, at most one per image; by default one per 128 MiB of images.
        label_offset: stored label of the first class, 0 or 1.
        workers: shards written at a time, by default one per processor. Processes write large sets of images: a script
            that calls this function keeps its own work under `if __name__ == "__main__":`.
        max_rejects: images that the conversion may leave out before it counts as failed.
        overwrite: replace the conversion that `output` holds; the same call, interrupted, continues where it stopped.
        beam: options of an Apache Beam pipeline (`["--runner=FlinkRunner", ...]`), which then writes the shards.

    Raises:
        UsageError: the source is wrong, `output` holds something else, another conversion writes into it or it is
            full, there are too many rejects, or a class or split has no image left.
    """
    _check_numbers(shards, workers, max_rejects, label_offset)
    if beam is not None and workers is not None:
        raise UsageError("workers are of this machine: set the number of Beam's workers in the options of its runner")
    if not isinstance(source, Source):
        source = open_source(source)
    if label_offset and source.settings.mask_ids:
        raise UsageError("label_offset is for images that have a class: the classes of a mask's pixels begin with 0")
    output = as_path(output)
    check_place(source, output)
    if source.left_out:
        names = some(source.left_out)
        note(f"left out, because the source has no place for them: {names} ({output / LEFT_OUT} lists them all)")
    plan = plan_shards(source, shards)
    digest = source_digest(source, plan, label_offset)
    done = None
    with contextlib.suppress(FileNotFoundError):  # another conversion ends while this one checks
        done = existing(output, digest, overwrite)
    if done is None or (output / PARTIAL).exists():
        write_shards = _writer(workers or os.cpu_count(), beam)
        with locked(output):
            done = existing(output, digest, overwrite)  # another conversion may have ended since
            if done is None:
                begin_again = overwrite and not is_overwriting(output, digest)
                return _convert(source, output, plan, digest, label_offset, write_shards, max_rejects, begin_again)
            clear_partial(output)  # a run was killed after its manifest
    note(f"{output} already holds this conversion, complete; nothing to do")
    return done


def _convert(source, output, plan, digest, label_offset, write_shards, max_rejects, begin_again) -> Manifest:
    """The conversion itself, in a locked folder."""
    with image_progress() as progress:
        task = progress.add_task("converting", total=sum(len(planned.images) for planned in plan))
        found = [] if begin_again else _find(output, plan, functools.partial(progress.advance, task))
        finished = {one.shard.name: one for one in found}
        pending = [planned for planned in plan if planned.name not in finished]
        replaced = old_files(output) if begin_again else []
        _check_space(output, source.settings, pending, replaced)
        for path in replaced:
            path.unlink()
        if begin_again:
            write_whole(output / PARTIAL / OVERWRITING, b"")
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
            _check_rejects(output, source.settings, plan, finished, max_rejects)
            splits = {
                split: tuple(finished[planned.name].shard for planned in plan if planned.split == split)
                for split in source.splits
            }
            objects = source.settings.objects
            manifest = Manifest(
                class_names=source.settings.class_names,
                label_offset=label_offset,
                splits=splits,
                source_sha256=digest,
                category_ids=objects.category_ids if objects else None,
            )
            write_whole(output / MANIFEST, manifest.to_json().encode())
        clear_partial(output)
    return manifest


def _check_numbers(shards, workers, max_rejects, label_offset):
    for name, value, least in (("shards", shards, 1), ("workers", workers, 1), ("max_rejects", max_rejects, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    if label_offset not in (0, 1):
        raise UsageError(f"label_offset must be 0 or 1, not {label_offset}")


def _writer(workers, beam):
    """The function that writes the shards."""
    if beam is None:
        return functools.partial(local_workers.write_shards, workers=workers)
    try:
        from .beam import write_shards
    except ImportError as error:
        raise UsageError(f"Beam is not installed ({error}): pip install 'tfvt[beam]'") from None
    return functools.partial(write_shards, options=beam)


def _find(output, plan, advance) -> list[Finished]:
    """The shards that an earlier, interrupted run of the same conversion finished."""
    found = []
    with ThreadPoolExecutor() as pool:  # checksums are computed outside Python's lock
        for planned, finished in zip(plan, pool.map(functools.partial(read_finished, output), plan), strict=True):
            if finished is not None:
                found.append(finished)
                advance(len(planned.images))
    return found


def _check_space(output, settings, pending, old_files):
    """Refuses what cannot fit. Files that become JPEGs shrink by an unknown amount: then there is no check.

    Nor is there one in an object store, which has no end.
    """
    if isinstance(output, StorePath):
        return
    needed = sum(image.size + image.mask_size for planned in pending for image in planned.images)
    free = shutil.disk_usage(output).free + sum(path.stat().st_size for path in old_files)
    if needed > free and not settings.jpeg:
        raise UsageError(
            f"{output} has {free / 2**20:,.0f} MiB free, and {counted(len(pending), 'shard')} to be written take about "
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
        place = tempfile.gettempdir() if isinstance(output, StorePath) else output  # a shard waits there to be uploaded
        free = shutil.disk_usage(place).free
        raise UsageError(
            f"{place} is full ({free / 2**20:,.0f} MiB free): make room and run the same command again, which keeps "
            "the shards that are finished and continues from there"
        ) from error


def _check_rejects(output, settings, plan, finished, max_rejects):
    rejects = [reject for planned in plan for reject in finished[planned.name].rejects]
    _write_list(output / REJECTS, [dataclasses.asdict(reject) for reject in rejects])
    if not rejects:
        return
    if len(rejects) > max_rejects:
        (output / PARTIAL / OVERWRITING).unlink(missing_ok=True)  # it has ended: --overwrite begins again from nothing
        lines = [f"  {reject.file}: {reject.reason}" for reject in rejects[:20]]
        raise UsageError(
            f"{counted(len(rejects), 'image')} cannot be converted, and {max_rejects} are allowed:\n"
            + "\n".join(lines)
            + f"\n{output / REJECTS} has the whole list. Repair or remove them and run again with --overwrite, or "
            f"leave them out with --max-rejects {len(rejects)}, without --overwrite"
        )
    if emptied := _emptied(settings, plan, finished, {reject.file for reject in rejects}):
        raise UsageError(
            f"no image of {emptied} can be converted: repair some and run again with --overwrite; {output / REJECTS} "
            "says what is wrong with them"
        )
    note(f"left out: {counted(len(rejects), 'image')}, see {output / REJECTS}")


def _emptied(settings, plan, finished, rejected) -> str | None:
    """A split, or a class of one, that has no record left; the classes of TFDS are unknown before reading."""
    left = collections.Counter()
    for planned in plan:
        left[planned.split] += finished[planned.name].shard.records
        for image in planned.images:
            if image.label != UNLABELLED:
                left[planned.split, settings.class_names[image.label]] += image.printable not in rejected
    for place in left:
        if not left[place]:
            return f"split {place}" if isinstance(place, str) else f"class {place[1]!r} in split {place[0]}"
    return None


def _write_list(path, entries):
    """Writes the entries as JSON; no entries, no file."""
    path.unlink(missing_ok=True)
    if entries:
        write_whole(path, (json.dumps(entries, indent=1) + "\n").encode())
