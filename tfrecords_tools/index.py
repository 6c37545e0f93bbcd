"""A manifest for shards that have none: those that slim, `imagenet_to_gcs` or a lost conversion left."""

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
from rich.console import Console
from rich.progress import track

from tfvt.data.records import (
    FORMAT,
    HEIGHT,
    LABEL,
    MANIFEST,
    SYNSET,
    TEXT,
    UNLABELLED,
    WIDTH,
    Manifest,
    Shard,
    counted,
    feature_spec,
)
from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.stores import AnyPath, as_path

from .classes import ClassClaim, contradictions, other_names
from .reading import GZIP, read_features
from .shards import PARTIAL, crc32
from .sources import some

SPLITS = ("train", "validation", "test")
SHARD_NAME = re.compile(r"\w+-\d{5,}-of-(?P<total>\d{5,})")
NAME = tf.io.FixedLenFeature((), tf.string, default_value="")
FEATURES = feature_spec((LABEL, FORMAT, HEIGHT, WIDTH)) | {SYNSET: NAME, TEXT: NAME}


def index(
    directory: AnyPath | str,
    *,
    label_offset: int | None = None,
    class_names: Sequence[str] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes `manifest.json` for the shards `<split>-00000-of-0000N` in a folder, or in its folder of the split's name.

    The function reads every record. Class names are the records' synsets, or if they have none their texts.

    Args:
        directory: where the shards are.
        label_offset: stored label of the first class, 0 or 1. Not needed if a record has label 0, or if
            `class_names` are given and a record has their number as its label.
        class_names: in the order of the labels; for records without names, or when not every class has a record.
        workers: shards read at a time, by default one per processor.
        overwrite: replace an existing manifest.

    Returns:
        The manifest.

    Raises:
        UsageError: no shards, an incomplete split, damaged records or records of another schema, labels out of
            range, an unknown label offset, or class names that contradict each other. Then nothing is written.
    """
    directory = as_path(directory)
    if label_offset not in (None, 0, 1):
        raise UsageError(f"label_offset must be 0 or 1, not {label_offset}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    shards = _find_shards(directory, overwrite)
    paths = [path for paths in shards.values() for path in paths]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        scans = track(
            pool.map(_scan, [directory] * len(paths), paths),
            "indexing shards",
            total=len(paths),
            console=Console(stderr=True),
        )
        scanned = dict(zip(paths, scans, strict=True))
    claims = _merge(claims for _, claims in scanned.values())
    if problems := contradictions(claims):
        raise UsageError(f"labels of {directory} contradict each other: {some(problems)}")
    if not claims:
        raise UsageError(f"{directory} has no record with a label: there is nothing to train on or to evaluate")
    label_offset = _label_offset(directory, claims, class_names, label_offset)
    class_names = _class_names(directory, claims, class_names, label_offset)
    splits = {split: tuple(scanned[path][0] for path in paths) for split, paths in shards.items()}
    digest = hashlib.sha256(repr((label_offset, class_names, splits)).encode()).hexdigest()
    manifest = Manifest(class_names=class_names, label_offset=label_offset, splits=splits, source_sha256=digest)
    if problems := other_names(claims, manifest):
        raise UsageError(f"the class names given are not those of the records: {some(problems)}")
    write_whole(directory / MANIFEST, manifest.to_json().encode())
    return manifest


def read_class_names(path: AnyPath | str) -> tuple[str, ...]:
    """The lines of a text file.

    Raises:
        UsageError: not UTF-8 text, an empty line, or a name that an earlier line has.
        OSError: it cannot be read.
    """
    try:
        names = tuple(line.strip() for line in as_path(path).read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error}): it must have one class name a line") from error
    for number, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"line {number} of {path} is empty: it must have one class name a line")
        if names.index(name) < number - 1:
            raise UsageError(f"line {number} of {path} has the name of line {names.index(name) + 1}, {name!r}")
    return names


def _split_shards(directory, split):
    """Paths in order; none if the split is not there."""
    paths = [path for folder in (directory, directory / split) for path in folder.glob(f"{split}-*")]
    for path in sorted(paths):
        if path.name.endswith(".gz") and SHARD_NAME.fullmatch(path.stem):
            raise UsageError(f"{path} {GZIP}")
    paths = sorted(path for path in paths if SHARD_NAME.fullmatch(path.name))
    if paths:
        _check_complete(split, paths)
    return paths


def _find_shards(directory, overwrite) -> dict[str, list[AnyPath]]:
    """Split name -> paths in order."""
    if not directory.is_dir():
        raise UsageError(f"no folder {directory}")
    if (directory / MANIFEST).exists() and not overwrite:
        raise UsageError(f"{directory} has a {MANIFEST} already: replace it with --overwrite")
    if (directory / PARTIAL).exists():
        raise UsageError(f"{directory} holds an unfinished conversion: run `tfvt records convert` again to finish it")
    found = {split: paths for split in SPLITS if (paths := _split_shards(directory, split))}
    if not found:
        raise UsageError(
            f"{directory} holds no shards: they are called train-00000-of-00008, validation-00000-of-00002, ..., and "
            "lie in it or in its folders train and validation"
        )
    return found


def _check_complete(split, paths):
    folders = sorted({str(path.parent) for path in paths})
    if len(folders) > 1:
        raise UsageError(f"split {split} has shards both in {folders[0]} and in {folders[1]}: keep one set of them")
    totals = sorted({SHARD_NAME.fullmatch(path.name)["total"] for path in paths})
    if len(totals) > 1:
        raise UsageError(f"split {split} in {folders[0]} has shards of {some(totals)} files: keep one set of them")
    expected = [f"{split}-{number:05d}-of-{totals[0]}" for number in range(int(totals[0]))]
    missing = sorted(set(expected) - {path.name for path in paths})
    if missing:
        raise UsageError(
            f"split {split} in {folders[0]} is incomplete: {len(missing)} of "
            f"{counted(len(expected), 'shard')} missing, {some(missing)}"
        )


def _scan(directory, path) -> tuple[Shard, dict[ClassClaim, str]]:
    """The shard, and the classes that its records claim."""
    values = read_features(path, FEATURES)
    claims = {}
    for number, (label, synset, text) in enumerate(zip(values[LABEL], values[SYNSET], values[TEXT], strict=True)):
        if label == UNLABELLED and path.name.startswith("test-"):
            continue
        names = (name.decode("utf-8", "backslashreplace") for name in (synset, text))
        claims.setdefault(ClassClaim(int(label), *names), f"record {number} of {path}")
    name = path.relative_to(directory).as_posix()
    return Shard(name=name, records=len(values[LABEL]), bytes=path.stat().st_size, crc32=crc32(path)), claims


def _merge(parts) -> dict[ClassClaim, str]:
    merged = {}
    for claims in parts:
        for claim, place in claims.items():
            merged.setdefault(claim, place)
    return merged


def _label_offset(directory, claims, class_names, label_offset):
    """Also checks the range of the labels."""
    labels = {claim.label: place for claim, place in reversed(claims.items())}
    if label_offset is None:
        if 0 in labels:
            label_offset = 0
        elif class_names and len(class_names) in labels:
            label_offset = 1
        else:
            raise UsageError(
                f"the labels of {directory} are {min(labels)} to {max(labels)}, which does not tell whether the first "
                "class is 0 or 1: give --label-offset 1 (slim and imagenet_to_gcs count so) or --label-offset 0"
            )
    last = label_offset + len(class_names) - 1 if class_names else max(labels)
    for label, place in labels.items():
        if not label_offset <= label <= last:
            raise UsageError(f"{place} has label {label}, not one from {label_offset} to {last}")
    return label_offset


def _class_names(directory, claims, class_names, label_offset):
    if class_names:
        return _distinct(directory, tuple(class_names))
    for kind in ("synset", "text"):
        names = {claim.label: getattr(claim, kind) for claim in claims}
        if all(getattr(claim, kind) for claim in claims):
            break
    else:
        place = next(place for claim, place in claims.items() if not claim.text)
        raise UsageError(f"{place} has no class name: give the names with --class-names FILE")
    labels = range(label_offset, max(names) + 1)
    if len(names) < len(labels):
        absent = next(label for label in labels if label not in names)
        raise UsageError(
            f"no record of {directory} has label {absent} ({len(labels) - len(names)} of "
            f"{counted(len(labels), 'label')} missing), so the names of these classes are unknown: give the names with "
            "--class-names FILE"
        )
    return _distinct(directory, tuple(names[label] for label in labels))


def _distinct(directory, names):
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"classes of {directory} have the same name: {some(doubles)}; give others with --class-names FILE"
        )
    return names
