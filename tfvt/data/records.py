"""The record schema, the manifest beside the shards, and access to a converted set.

The features are those that `classification_input.Decoder` of TensorFlow's official models, slim and
`imagenet_to_gcs` read. A shard does not tell whether its labels count from 0 or 1; the manifest does.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tfvt.errors import UsageError
from tfvt.stores import AnyPath, as_path

ENCODED = "image/encoded"  # the file's bytes, JPEG or PNG
FORMAT = "image/format"  # "JPEG" or "PNG"
LABEL = "image/class/label"  # int64, counted from the manifest's label_offset
SYNSET = "image/class/synset"  # the class folder's name
TEXT = "image/class/text"  # the class for human readers
HEIGHT = "image/height"
WIDTH = "image/width"
CHANNELS = "image/channels"  # as encoded: 1 grey, 3 RGB, ...; reading gives 3
COLORSPACE = "image/colorspace"  # "RGB" or "Grayscale"
FILENAME = "image/filename"  # bytes: file names need not be UTF-8
MASK = "image/segmentation/class/encoded"  # PNG of the image's size: classes 0, 1, ... and 255 for none
MASK_FORMAT = "image/segmentation/class/format"  # "png"
UNLABELLED = -1  # the stored label of an image that has no class
VOID = 255  # in a mask: pixels that neither training nor scoring counts

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
REQUESTS = 32  # at a time: stores take many milliseconds to answer one
REPAIR = "convert the images again, or write it again with `tfvt records index --overwrite`"


def counted(number: int, noun: str) -> str:
    """As in "1 image", "2 images", "1,000 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


@dataclass(frozen=True)
class Shard:
    """One file of records as the manifest describes it; `crc32` (zlib's) is of the whole file."""

    name: str
    records: int
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        class_names: in the order of the labels.
        label_offset: the stored label of the first class, 0 or 1.
        splits: split name -> its shards in order.
        source_sha256: hash of the list of source files (names, sizes, labels) and of the settings.
        schema: version of this description.
    """

    class_names: tuple[str, ...]
    label_offset: int
    splits: dict[str, tuple[Shard, ...]]
    source_sha256: str
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class RecordSet:
    """One split of a converted set.

    Attributes:
        directory: the folder of the shards and the manifest, on a disk or in an object store.
        split: "train" or "validation".
        class_names: in the order of the 0-based labels that the pipeline delivers.
        label_offset: the stored label of the first class.
        shard_paths: the files, in order.
        shard_counts: records in each of them.
        digest: hash of what the manifest says about the split's records, their order and labels, but not of their path.
    """

    directory: AnyPath
    split: str
    class_names: tuple[str, ...]
    label_offset: int
    shard_paths: tuple[str, ...]
    shard_counts: tuple[int, ...]
    digest: str

    @property
    def num_examples(self) -> int:
        return sum(self.shard_counts)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def open_records(directory: AnyPath | str, split: str) -> RecordSet:
    """One split of the set that `tfvt records convert` wrote into `directory`, a folder or "gs://bucket/folder".

    Raises:
        UsageError: no such folder, manifest, split or shard, or a shard whose size is not the manifest's.
    """
    manifest = read_manifest(directory)
    if split not in manifest.splits:
        raise UsageError(f"{directory} has no split {split!r}; it has: {', '.join(manifest.splits)}")
    directory, shards = as_path(directory), manifest.splits[split]
    check_shards(directory, shards)
    return RecordSet(
        directory=directory,
        split=split,
        class_names=manifest.class_names,
        label_offset=manifest.label_offset,
        shard_paths=tuple(str(directory / shard.name) for shard in shards),
        shard_counts=tuple(shard.records for shard in shards),
        digest=_digest(manifest, shards),
    )


def _digest(manifest, shards):
    content = [manifest.source_sha256, manifest.class_names, manifest.label_offset]
    content += [dataclasses.astuple(shard) for shard in shards]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_manifest(directory: AnyPath | str) -> Manifest:
    """The manifest of a converted set.

    Raises:
        UsageError: no such folder, no manifest in it, or one that cannot be read.
    """
    path = as_path(directory) / MANIFEST
    if not path.parent.is_dir():
        raise UsageError(f"no folder {directory}: write it with `tfvt records convert INPUT {directory}`")
    if not path.is_file():
        raise UsageError(
            f"no {MANIFEST} in {directory}: it holds no records, or their conversion did not finish; "
            f"run `tfvt records convert INPUT {directory}` (again), or `tfvt records index {directory}` if shards came "
            "without it"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA_VERSION:
            raise UsageError(
                f"{path} has schema version {content['schema']}, this tfvt reads {SCHEMA_VERSION}: {REPAIR}"
            )
        splits = {name: tuple(Shard(**shard) for shard in shards) for name, shards in content.pop("splits").items()}
        if not isinstance(content["class_names"], list):
            raise TypeError("class_names is not a list")
        manifest = Manifest(class_names=tuple(content.pop("class_names")), splits=splits, **content)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error}): {REPAIR}") from error
    if problem := _impossible(manifest):
        raise UsageError(f"{path} is damaged ({problem}): {REPAIR}")
    return manifest


def _impossible(manifest: Manifest) -> str | None:
    """What is wrong with a manifest; without this, a wrong type would raise elsewhere, in an error without its name."""
    if not all(isinstance(name, str) for name in manifest.class_names):
        return "class_names are not all texts"
    if len(set(manifest.class_names)) < len(manifest.class_names):
        twice = next(name for name in manifest.class_names if manifest.class_names.count(name) > 1)
        return f"class_names has {twice!r} twice"
    if type(manifest.label_offset) is not int or manifest.label_offset not in (0, 1):
        return f"label_offset is {manifest.label_offset!r}, not 0 or 1"
    return _impossible_shard([shard for shards in manifest.splits.values() for shard in shards])


def _impossible_shard(shards):
    for shard in shards:
        if not isinstance(shard.name, str) or Path(shard.name).is_absolute() or ".." in Path(shard.name).parts:
            return f"shard {shard.name!r} lies outside the folder"
        for name in ("records", "bytes", "crc32"):
            value = getattr(shard, name)
            if type(value) is not int or value < 0:
                return f"{name} of shard {shard.name} is {value!r}"
    names = [shard.name for shard in shards]
    if len(set(names)) < len(names):
        return f"shard {next(name for name in names if names.count(name) > 1)} is listed twice"
    return None


def check_shards(directory: AnyPath, shards: Iterable[Shard]) -> None:
    """Check that the shards exist and have their size, without reading them.

    Raises:
        UsageError: a shard is missing or cut off; the message names the first one.
    """
    shards = list(shards)
    paths = [directory / shard.name for shard in shards]
    with ThreadPoolExecutor(REQUESTS) as pool:
        sizes = list(pool.map(lambda path: path.stat().st_size if path.is_file() else None, paths))
    for shard, path, size in zip(shards, paths, sizes, strict=True):
        if size is None:
            raise UsageError(f"shard {path} is missing: copy it again, or convert the images again with --overwrite")
        if size != shard.bytes:
            state = "cut off" if size < shard.bytes else "not the converted file"
            raise UsageError(
                f"shard {path} is {state}: it has {counted(size, 'byte')}, the manifest says {shard.bytes:,}; "
                "copy it again, or convert the images again with --overwrite"
            )


def make_example(
    *,
    encoded: bytes,
    format: str,
    label: int,
    synset: str,
    text: str,
    height: int,
    width: int,
    channels: int,
    colorspace: str,
    filename: bytes,
    mask: bytes | None = None,
) -> bytes:
    """One serialized record.

    Args:
        encoded: the image file's bytes.
        format: "JPEG" or "PNG".
        label: as stored, that is with the manifest's label offset added; -1 for none.
        synset, text: the class, as an identifier and for human readers.
        height, width: in pixels.
        channels, colorspace: as encoded (1 and "Grayscale", 3 and "RGB", ...).
        filename: bytes.
        mask: segmentation: the class of each pixel, a PNG's bytes.
    """
    values = {
        ENCODED: encoded,
        FORMAT: format,
        LABEL: label,
        SYNSET: synset,
        TEXT: text,
        HEIGHT: height,
        WIDTH: width,
        CHANNELS: channels,
        COLORSPACE: colorspace,
        FILENAME: filename,
    }
    if mask is not None:
        values |= {MASK: mask, MASK_FORMAT: "png"}
    example = tf.train.Example()
    features = example.features.feature
    for name, value in values.items():  # in place: to put a message into another one would copy it, with the image
        if isinstance(value, bytes | str):
            features[name].bytes_list.value.append(value.encode("utf-8") if isinstance(value, str) else value)
        else:
            features[name].int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def feature_spec(names: Iterable[str]) -> dict[str, tf.io.FixedLenFeature]:
    """The named features, all scalars, as `tf.io.parse_example` takes them; a mask that is missing reads as empty."""
    integers = (LABEL, HEIGHT, WIDTH, CHANNELS)
    return {
        name: tf.io.FixedLenFeature(
            (), tf.int64 if name in integers else tf.string, default_value="" if name == MASK else None
        )
        for name in names
    }


def check_masks(records: RecordSet, wanted: bool) -> None:
    """Look at the set's first record for a mask, so that the wrong kind of set is refused before anything starts.

    Nothing happens if that record cannot be read: whoever reads the set names it.

    Raises:
        UsageError: masks are wanted and it has none, or they are not and it has one and no class.
    """
    filled = [path for path, count in zip(records.shard_paths, records.shard_counts, strict=True) if count]
    try:
        serialized = next(iter(tf.data.TFRecordDataset(filled[:1]).take(1)))
        first = tf.io.parse_single_example(serialized, feature_spec((LABEL, MASK)))
    except (tf.errors.OpError, StopIteration):
        return
    if wanted and first[MASK] == "":
        raise UsageError(
            f"{records.directory} holds images without masks, and segmentation needs a mask for each: convert images "
            "with masks (`tfvt records convert --layout`), or choose a classification model (`tfvt models`)"
        )
    if not wanted and first[MASK] != "" and first[LABEL] == UNLABELLED:
        raise UsageError(
            f"{records.directory} holds images with masks and without classes, and classification needs a class for "
            "each: convert class folders (`tfvt records convert`), or choose a segmentation model (`tfvt models`)"
        )


def read_span(records: RecordSet, shard: tf.Tensor, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    """(id, serialized) of `count` records of shard number `shard`, beginning with its record `start`.

    The arguments are scalar int64 tensors; `id` is the record's place in the split. Where the shard is cut off or
    damaged, `serialized` is empty for that record and all later ones: TensorFlow's own error would not name the
    record, `fail` does.

    Raises:
        tf.errors.OpError: from the iterator; the shard cannot be opened. The message names the shard.
    """
    path = tf.gather(tf.constant(records.shard_paths), shard)
    first_id = tf.gather(tf.constant(first_ids(records), tf.int64), shard) + start
    readable = _readable(path, tf.data.TFRecordDataset(path).skip(start))
    return tf.data.Dataset.zip(tf.data.Dataset.range(first_id, first_id + count), readable)


def read_record(records: RecordSet, record_id: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """(id, serialized) of the record with that id, which begins at byte `offset` of its shard; as `read_span`.

    Args:
        records: the set.
        record_id, offset: scalar int64 tensors.
    """
    path = tf.gather(tf.constant(records.shard_paths), locate(records, record_id)[0])
    # Without a buffer: it would be filled with the records that follow.
    from_offset = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=0, byte_offsets=offset[None], metadata=""
    )
    from_offset = tf.data.experimental.from_variant(from_offset, tf.TensorSpec((), tf.string))
    # `zip` asks every dataset for one more element: without `take`, for the next record.
    return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(record_id), _readable(path, from_offset).take(1))


def _readable(path, dataset):
    """The records of a dataset from a file, and empty ones without end in place of those that cannot be read."""
    # `ignore_errors` ends a damaged shard early, but would try for ever to open one that does not exist. So read one
    # byte of it first: this raises an error that names the shard.
    opened = tf.data.FixedLengthRecordDataset(path, record_bytes=1, buffer_size=1).take(1).filter(lambda _: False)
    unreadable = tf.data.Dataset.from_tensors("").repeat()
    return opened.concatenate(dataset.ignore_errors()).concatenate(unreadable)


def locate(records: RecordSet, record_id: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shard number and place in that shard, scalar int64 tensors, of the record with that id."""
    begins = tf.constant(first_ids(records), tf.int64)
    # The last shard that begins at or before the id: an empty shard begins where the next one does.
    shard = tf.searchsorted(begins, record_id[None], side="right", out_type=tf.int64)[0] - 1
    return shard, record_id - tf.gather(begins, shard)


def describe(records: RecordSet, record_id: tf.Tensor, problem: tf.Tensor | str) -> tf.Tensor:
    """The sentence "record 7 of train-00000-of-00002 <problem>", a scalar string tensor."""
    shard, index = locate(records, record_id)
    path = tf.gather(tf.constant(records.shard_paths), shard)
    return tf.strings.join(["record ", tf.strings.as_string(index), " of ", path, " ", problem])


def fail(records: RecordSet, record_id: tf.Tensor, problem: tf.Tensor | str) -> tf.Operation:
    """An operation that raises `InvalidArgumentError` with the sentence of `describe`."""
    hint = f" (`tfvt records verify {records.directory}` checks the whole set)"
    return tf.debugging.Assert(False, [tf.strings.join([describe(records, record_id, problem), hint])], summarize=1)


def first_ids(records: RecordSet) -> list[int]:
    """The id of each shard's first record."""
    return list(itertools.accumulate(records.shard_counts[:-1], initial=0))
