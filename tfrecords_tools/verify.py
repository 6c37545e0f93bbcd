"""Checks that a set is what its manifest says, and fit to train on: every byte, record, image and label."""

import dataclasses
import hashlib
import json
import os
import re
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from rich.console import Console

from tfvt.data.records import (
    BOX_LABEL,
    BOX_TEXT,
    CHANNELS,
    COLORSPACE,
    ENCODED,
    FILENAME,
    FORMAT,
    HEIGHT,
    LABEL,
    MANIFEST,
    MASK,
    MASK_FORMAT,
    OBJECT_LISTS,
    SOURCE_ID,
    SYNSET,
    TEXT,
    UNLABELLED,
    VOID,
    WIDTH,
    Manifest,
    Shard,
    counted,
    read_manifest,
)
from tfvt.errors import UsageError
from tfvt.files import local_file
from tfvt.stores import AnyPath, as_path

from .classes import ClassClaim, contradictions, other_names
from .images import jpeg_damage
from .progress import image_progress
from .reading import GZIP, is_gzip, parse_features, read_records
from .shards import crc32
from .verify_objects import object_problems

FINDINGS_SHOWN = 50  # of each kind
SHARD_PATHS = ("*-?????-of-?????", "*/*-?????-of-?????")  # where shards may lie, listed or not
REQUIRED = (ENCODED, FORMAT, LABEL, HEIGHT, WIDTH)
OPTIONAL = (SYNSET, TEXT, CHANNELS, COLORSPACE, FILENAME, MASK, MASK_FORMAT, SOURCE_ID, *OBJECT_LISTS)
FORMATS = {"JPEG": ("JPEG", "JPG"), "PNG": ("PNG",)}  # as other writers spell them


@dataclass(frozen=True)
class Finding:
    """Something wrong in one place.

    Attributes:
        file: what it is in, relative to the set's folder.
        record: number of the record in that shard, or None where it concerns the file.
        text: what is wrong.
        warning: whether a sound set may have this, as some published ones do.
    """

    file: str
    record: int | None
    text: str
    warning: bool = False

    def __str__(self):
        return f"{_place(self.file, self.record)}: {self.text}"


@dataclass(frozen=True)
class Verification:
    """What was read, split name -> records, and all findings."""

    records: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.warning]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.warning]


@dataclass
class _ShardResult:
    split: str
    name: str
    findings: list[Finding] = field(default_factory=list)
    claims: dict[ClassClaim, str] = field(default_factory=dict)
    # Of each readable record: its number, the start of its image's hash, its label.
    numbers: array = field(default_factory=lambda: array("q"))
    hashes: array = field(default_factory=lambda: array("Q"))
    labels: array = field(default_factory=lambda: array("q"))
    sources: list[tuple[bytes, int]] = field(default_factory=list)  # of images with objects: id, record
    count: int = 0

    def add(self, record, text, warning=False):
        self.findings.append(Finding(self.name, record, text, warning))


def verify(
    directory: AnyPath | str, *, split: str | None = None, workers: int | None = None, decode: bool = True
) -> Verification:
    """Reads everything of a set and finds everything that is wrong with it.

    Problems are: shards that are missing, differ from the manifest's size, CRC-32 or number of records, or are not in
    it; damaged records, and those that lack a feature; images that do not decode, or only with made-up pixels, or have
    another size or format than their record says; labels out of range; labels that mean different classes in
    different records or splits; objects whose lists, boxes, labels or masks do not fit. Warnings are: the same image
    twice; JPEGs with bytes that no pixel needs.

    Args:
        directory: of the shards and the manifest.
        split: check only this one.
        workers: shards read at a time, by default one per processor.
        decode: decode the images. Without it the check reads only their headers, which takes a fifth of the time.

    Raises:
        UsageError: there is no set, its manifest cannot be read, or there is no such split.
    """
    manifest, directory = read_manifest(directory), as_path(directory)
    if split is not None and split not in manifest.splits:
        raise UsageError(f"{directory} has no split {split!r}; it has: {', '.join(manifest.splits)}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    shards = [(name, shard) for name in manifest.splits if split in (None, name) for shard in manifest.splits[name]]
    stop = threading.Event()
    with image_progress() as progress, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        task = progress.add_task("verifying", total=sum(shard.records for _, shard in shards))

        def verify_shard(name, shard):
            return _verify_shard(directory, manifest, name, shard, decode, stop, lambda: progress.advance(task))

        try:
            results = list(pool.map(verify_shard, *zip(*shards, strict=True))) if shards else []
        except BaseException:
            stop.set()
            raise
    records = dict.fromkeys((name for name, _ in shards), 0)
    claims = {}
    for result in results:
        records[result.split] += result.count
        for claim, place in result.claims.items():
            claims.setdefault(claim, place)
    findings = [finding for result in results for finding in result.findings]
    findings += _unlisted(directory, manifest, split)
    findings += [Finding(MANIFEST, None, text) for text in (*contradictions(claims), *other_names(claims, manifest))]
    return Verification(records=records, findings=(*findings, *_equal_ids(results), *_duplicates(results)))


def _place(file, record):
    return file if record is None else f"record {record} of {file}"


def _unlisted(directory, manifest, split):
    listed = {shard.name for shards in manifest.splits.values() for shard in shards}
    found = sorted(path.relative_to(directory) for pattern in SHARD_PATHS for path in directory.glob(pattern))
    for path in found:
        if str(path) not in listed and split in (None, path.name.split("-")[0]):
            yield Finding(str(path), None, "is not in the manifest: nothing reads it")


def _verify_shard(directory, manifest, split, shard: Shard, decode, stop, advance) -> _ShardResult:
    result, path = _ShardResult(split, shard.name), directory / shard.name
    if not path.is_file():
        result.add(None, "is missing")
        return result
    try:
        with local_file(path) as file:  # read three times
            size, checksum = file.stat().st_size, crc32(file)
            if size != shard.bytes:
                result.add(None, f"has {counted(size, 'byte')}, the manifest says {shard.bytes:,}")
            elif checksum != shard.crc32:
                result.add(None, f"is not the file of the manifest: its CRC-32 is {checksum}, not {shard.crc32}")
            if is_gzip(file):
                result.add(None, GZIP)
                return result
            for serialized in read_records(file):
                if stop.is_set():
                    break
                if serialized is None:
                    result.add(result.count, "damaged: it cannot be read")
                else:
                    _verify_record(result, manifest, serialized, decode)
                result.count += 1
                advance()
    except UsageError:
        result.add(result.count, "damaged or cut off, and so is all that follows it")
    except OSError as error:
        result.add(None, f"cannot be read: {error.strerror}")
    if result.count != shard.records:
        result.add(None, f"has {counted(result.count, 'record')}, the manifest says {shard.records:,}")
    return result


def _verify_record(result: _ShardResult, manifest: Manifest, serialized, decode):
    number = result.count
    try:
        values = parse_features(serialized, REQUIRED, OPTIONAL)
    except UsageError as error:
        result.add(number, str(error))
        return
    label, encoded = values[LABEL], values[ENCODED]
    for text, warning in _image_findings(values, decode):
        result.add(number, text, warning)
    for text in object_problems(values, manifest, decode):
        result.add(number, text)
    if MASK in values and decode:
        for text in _mask_problems(values, len(manifest.class_names)):
            result.add(number, text)
    _verify_label(result, manifest, values)
    _claim_objects(result, values)
    result.numbers.append(number)
    result.labels.append(label)
    result.hashes.append(int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest()))


def _verify_label(result, manifest, values):
    """The label is one of the manifest's classes; what the record calls the class is compared at the end."""
    number, label = result.count, values[LABEL]
    first, last = manifest.label_offset, manifest.label_offset + len(manifest.class_names) - 1
    if first <= label <= last:
        names = (values.get(name, b"").decode("utf-8", "backslashreplace") for name in (SYNSET, TEXT))
        result.claims.setdefault(ClassClaim(label, *names), _place(result.name, number))
    elif label != UNLABELLED or not (result.split == "test" or MASK in values or BOX_LABEL in values):
        result.add(number, f"its label is {label}, not one from {first} to {last}")


def _claim_objects(result, values):
    """What the objects' classes are called, as for that of the image; and the image's id."""
    for label, text in zip(values.get(BOX_LABEL, ()), values.get(BOX_TEXT, ()), strict=False):
        claim = ClassClaim(label, "", text.decode("utf-8", "backslashreplace"))
        result.claims.setdefault(claim, _place(result.name, result.count))
    if BOX_LABEL in values and SOURCE_ID in values:
        result.sources.append((values[SOURCE_ID], result.count))


def _image_findings(values, decode) -> Iterator[tuple[str, bool]]:
    """(text, whether it is only a warning)."""
    encoded = values[ENCODED]
    if encoded.startswith(b"\xff\xd8\xff"):
        kind = "JPEG"
    elif encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "PNG"
    else:
        yield f"its image is neither JPEG nor PNG: it begins with {encoded[:8]!r}", False
        return
    stored = values[FORMAT].decode("utf-8", "backslashreplace")
    if stored.upper() not in FORMATS[kind]:
        yield f"its image is a {kind}, its {FORMAT} says {stored!r}", False
    try:
        size, stored_size = _image_size(encoded, kind), (values[HEIGHT], values[WIDTH])
        if size != stored_size:
            yield f"its image has (height, width) {size}, the record says {stored_size}", False
        if decode and kind == "PNG":
            tf.io.decode_png(encoded)
        elif decode:
            tf.io.decode_jpeg(encoded)  # the pipeline's decoder, which does not pass on libjpeg's warnings
            if damage := jpeg_damage(encoded):
                text, warning = damage
                yield f"its image {text}", warning
    except tf.errors.OpError as error:
        yield f"its image does not decode: {_without_context(error)}", False


def _image_size(encoded, kind):
    if kind == "PNG":
        return int.from_bytes(encoded[20:24]), int.from_bytes(encoded[16:20])  # width comes first
    height, width, _ = tf.io.extract_jpeg_shape(encoded).numpy()
    return int(height), int(width)


def _mask_problems(values, num_classes):
    if values.get(MASK_FORMAT) != b"png":
        yield f"its {MASK_FORMAT} is {values.get(MASK_FORMAT)}, not b'png'"
    try:
        mask = tf.io.decode_png(values[MASK]).numpy()
    except tf.errors.OpError as error:
        yield f"its mask does not decode: {_without_context(error)}"
        return
    if mask.shape != (values[HEIGHT], values[WIDTH], 1):
        yield f"its mask has the shape {mask.shape}, its image {(values[HEIGHT], values[WIDTH])}"
    outside = np.setdiff1d(mask, [*range(num_classes), VOID])
    if len(outside):
        yield f"its mask has class {outside[0]}, not one from 0 to {num_classes - 1} or {VOID} for none"


def _without_context(error):
    """TensorFlow's message without the node of the graph."""
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*?\]", "", error.message)


def _equal_ids(results) -> Iterator[Finding]:
    """Images with objects whose id an earlier one of the split has: COCO's scores know images by their id."""
    places = {}
    for result in results:
        for source, number in result.sources:
            place = _place(result.name, number)
            if (first := places.setdefault((result.split, source), place)) != place:
                name = source.decode("utf-8", "backslashreplace")
                yield Finding(result.name, number, f"has the {SOURCE_ID} of {first}, {name!r}")


def _duplicates(results) -> Iterator[Finding]:
    """A warning for each record whose image an earlier one has."""
    if not results:
        return
    hashes = np.concatenate([np.array(result.hashes, np.uint64) for result in results])
    shards = np.repeat(np.arange(len(results)), [len(result.hashes) for result in results])
    places = np.concatenate([np.arange(len(result.hashes)) for result in results])
    order = np.argsort(hashes, kind="stable")  # equal ones side by side, the first record first
    first = 0
    for index in range(1, len(order)):
        if hashes[order[index]] != hashes[order[first]]:
            first = index
            continue
        (one, at), (other, other_at) = ((results[shards[i]], places[i]) for i in (order[first], order[index]))
        text = f"holds the same image as {_place(one.name, one.numbers[at])}"
        if one.split != other.split:
            text += ", which is in another split"
        if one.labels[at] != other.labels[other_at]:
            text += f", under label {other.labels[other_at]} instead of {one.labels[at]}"
        yield Finding(other.name, other.numbers[other_at], text, warning=True)


def print_verification(verification: Verification, console: Console) -> None:
    """The findings, problems first, up to a readable number; and the count of each kind."""
    for kind, findings in (("problem", verification.problems), ("warning", verification.warnings)):
        for finding in findings[:FINDINGS_SHOWN]:
            console.print(f"{kind}: {finding}", markup=False, highlight=False, soft_wrap=True)
        if len(findings) > FINDINGS_SHOWN:
            console.print(f"... and {counted(len(findings) - FINDINGS_SHOWN, f'more {kind}')}")
    for split, records in verification.records.items():
        console.print(f"{split}: {counted(records, 'record')} read")
    console.print(f"{counted(len(verification.problems), 'problem')}, {counted(len(verification.warnings), 'warning')}")


def to_json(verification: Verification) -> str:
    """All findings, for programs."""
    content = {
        "records": verification.records,
        "problems": [dataclasses.asdict(finding) for finding in verification.problems],
        "warnings": [dataclasses.asdict(finding) for finding in verification.warnings],
    }
    for finding in content["problems"] + content["warnings"]:
        del finding["warning"]
    return json.dumps(content, indent=1) + "\n"
