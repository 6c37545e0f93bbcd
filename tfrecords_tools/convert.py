"""Image files -> TFRecord shards and a manifest; can be killed at any moment and run again.

A shard is written under `OUTPUT/.partial/` and gets its name when it is complete and on the disk; the manifest comes
last. What shard holds what is decided before the first byte is written, so the number of workers and the
interruptions leave no trace in the files.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tensorflow as tf

from tfvt.data.order import permutation
from tfvt.data.records import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    RecordsError,
    Shard,
    check_shards,
    read_manifest,
)

from .examples import Reject, shard_examples
from .progress import image_progress, note
from .sources import Source, SourceImage, open_source, some

SHARD_BYTES = 128 * 2**20
SHUFFLE_SEED = 0  # of the order inside a split: folders are sorted by class, shards must not be
PARTIAL = ".partial"
REJECTS = "rejects.json"
SHARD_NAME = re.compile(r"(train|validation|test)-\d{5,}-of-\d{5,}")


@dataclass(frozen=True)
class ShardPlan:
    """A shard's file name and split, and the images that go into it, in order."""

    name: str
    split: str
    images: tuple[SourceImage, ...]


@dataclass(frozen=True)
class Finished:
    """A written shard, and the images that gave no record."""

    shard: Shard
    rejects: tuple[Reject, ...]


def convert(source, output, *, shards=None, label_offset=0, workers=None, max_rejects=0, overwrite=False) -> Manifest:
    """Write the images of a source as records.

    Args:
        source: a `Source`, or a location for `open_source`.
        output: folder for shards and manifest; the same conversion, interrupted, goes on where it stopped.
        shards: files a split, at most one an image; by default one per 128 MiB of images.
        label_offset: stored label of the first class, 0 or 1.
        workers: shards written at a time, by default one a processor.
        max_rejects: images that may be left out before the conversion counts as failed.
        overwrite: replace what `output` holds.

    Returns:
        The manifest.

    Raises:
        RecordsError: the source is not as it must be, `output` holds something else, or too many rejects.
    """
    for name, value, least in (("shards", shards, 1), ("workers", workers, 1), ("max_rejects", max_rejects, 0)):
        if value is not None and value < least:
            raise RecordsError(f"{name} must be at least {least}, not {value}")
    if label_offset not in (0, 1):
        raise RecordsError(f"label_offset must be 0 or 1, not {label_offset}")
    if not isinstance(source, Source):
        source = open_source(source)
    output = Path(output)
    if output.resolve().is_relative_to(Path(source.root).resolve()):
        raise RecordsError(f"output {output} lies inside the source {source.root}: choose a folder outside")

    if source.left_out:
        note(f"left out, because the source has no place for them: {some(source.left_out)}")
    plan = _plan(source, shards)
    digest = _digest(source, plan, label_offset)
    existing = _prepare(output, digest, overwrite)
    if existing is not None:
        note(f"{output} already holds this conversion, complete; nothing to do")
        return existing
    finished = _write_shards(source, plan, output, label_offset, workers or os.cpu_count())
    _check_rejects(output, [reject for one in finished for reject in one.rejects], max_rejects)
    splits = {
        split: tuple(one.shard for one, planned in zip(finished, plan, strict=True) if planned.split == split)
        for split in source.splits
    }
    manifest = Manifest(
        class_names=source.settings.class_names, label_offset=label_offset, splits=splits, source_sha256=digest
    )
    _write_text(output / MANIFEST, output / PARTIAL, manifest.to_json())
    shutil.rmtree(output / PARTIAL)
    return manifest


def _plan(source: Source, shards) -> list[ShardPlan]:
    plan = []
    for split, images in source.splits.items():
        count = shards or source.shards.get(split) or -(-sum(image.size for image in images) // SHARD_BYTES)
        count = max(1, min(count, len(images)))
        ordered = images
        if not source.keeps_order:
            ordered = [images[index] for index in permutation(len(images), SHUFFLE_SEED)]
        bounds = [len(images) * shard // count for shard in range(count + 1)]
        for shard, (begin, end) in enumerate(pairwise(bounds)):
            name = f"{split}-{shard:05d}-of-{count:05d}"
            plan.append(ShardPlan(name=name, split=split, images=tuple(ordered[begin:end])))
    return plan


def _digest(source: Source, plan, label_offset):
    """Hash of all that decides the shards' bytes, but for the contents of files whose size stayed the same."""
    digest = hashlib.sha256(repr((SCHEMA_VERSION, label_offset, source.settings)).encode())
    for shard in plan:
        digest.update(f"\n{shard.name}\n".encode())
        for image in shard.images:
            digest.update(image.identity(source.root) + b"\n")
    return digest.hexdigest()


def _prepare(output, digest, overwrite) -> Manifest | None:
    """Makes `output` ready to be written to; the manifest if this very conversion is already there.

    Raises:
        RecordsError: `output` holds something else, and it is not to be overwritten.
    """
    partial, begun = output / PARTIAL, output / PARTIAL / "source_sha256"
    if output.exists() and not output.is_dir():
        raise RecordsError(f"output {output} is a file: choose a folder")
    output.mkdir(parents=True, exist_ok=True)
    old_shards = [path for path in output.iterdir() if SHARD_NAME.fullmatch(path.name)]
    if overwrite:
        for path in (output / MANIFEST, output / REJECTS, *old_shards):  # the manifest first: no half set is left
            path.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    elif (output / MANIFEST).exists():
        manifest = read_manifest(output)
        if manifest.source_sha256 != digest:
            raise RecordsError(
                f"{output} holds another conversion (other images or settings): choose another folder, or replace "
                "it with --overwrite"
            )
        for shards in manifest.splits.values():
            check_shards(output, shards)
        return manifest
    elif begun.exists() and begun.read_text() != digest:
        raise RecordsError(
            f"{output} holds an unfinished conversion of other images or with other settings: finish it as it was "
            "begun, or replace it with --overwrite"
        )
    elif old_shards and not begun.exists():
        raise RecordsError(
            f"{output} holds shards without a manifest, such as {old_shards[0].name}: choose another folder, or "
            "replace them with --overwrite"
        )
    partial.mkdir(exist_ok=True)
    _write_text(begun, partial, digest)
    return None


def _write_shards(source, plan, output, label_offset, workers) -> list[Finished]:
    """Threads suffice: files are read, and images re-encoded, outside Python's global lock."""
    stop = threading.Event()
    with image_progress() as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task("converting", total=sum(len(shard.images) for shard in plan))

        def write(shard):
            finished = _read_finished(output, shard)
            if finished is None:
                return _write_shard(source, shard, output, label_offset, stop, lambda: progress.advance(task))
            progress.advance(task, len(shard.images))
            return finished

        futures = [pool.submit(write, shard) for shard in plan]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # also Ctrl-C: leave the shards at work unfinished, they are not named yet
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _read_finished(output, planned) -> Finished | None:
    """What an earlier, interrupted run wrote, if it is there and whole."""
    report, path = output / PARTIAL / f"{planned.name}.json", output / planned.name
    if not (report.exists() and path.exists()):
        return None
    content = json.loads(report.read_text())
    shard = Shard(**content["shard"])
    if path.stat().st_size != shard.bytes or _crc32(path) != shard.crc32:
        return None
    return Finished(shard=shard, rejects=tuple(Reject(**reject) for reject in content["rejects"]))


def _write_shard(source, planned, output, label_offset, stop, advance) -> Finished:
    temporary = output / PARTIAL / planned.name
    rejects, records = [], 0
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for example in shard_examples(source.settings, planned.images, label_offset):
            if stop.is_set():
                raise InterruptedError(f"{planned.name} was not finished")
            if isinstance(example, Reject):
                rejects.append(example)
            else:
                writer.write(example)
                records += 1
            advance()
    _fsync(temporary)
    shard = Shard(name=planned.name, records=records, bytes=temporary.stat().st_size, crc32=_crc32(temporary))
    finished = Finished(shard=shard, rejects=tuple(rejects))
    report = output / PARTIAL / f"{planned.name}.json"
    _write_text(report, output / PARTIAL, json.dumps(dataclasses.asdict(finished)))
    temporary.rename(output / planned.name)
    _fsync(output)
    return finished


def _check_rejects(output, rejects, max_rejects):
    (output / REJECTS).unlink(missing_ok=True)
    if not rejects:
        return
    text = json.dumps([dataclasses.asdict(reject) for reject in rejects], indent=1) + "\n"
    _write_text(output / REJECTS, output / PARTIAL, text)
    if len(rejects) > max_rejects:
        lines = [f"  {reject.file}: {reject.reason}" for reject in rejects[:20]]
        raise RecordsError(
            f"{len(rejects)} images cannot be converted, and {max_rejects} are allowed:\n"
            + "\n".join(lines)
            + f"\n{output / REJECTS} has the whole list. Repair or remove them and run again with --overwrite, or "
            f"leave them out with --max-rejects {len(rejects)}"
        )
    note(f"{len(rejects)} images are left out, see {output / REJECTS}")


def _crc32(path):
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _write_text(path, folder, text):
    """Atomic: a reader sees the old file or the new one."""
    temporary = folder / f"{path.name}.new"
    temporary.write_text(text, encoding="utf-8")
    _fsync(temporary)
    temporary.rename(path)
    _fsync(path.parent)


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
