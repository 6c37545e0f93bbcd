"""The record schema, the manifest beside the shards, and access to a converted set.

The features are those that `classification_input.Decoder` of TensorFlow's official models, slim and
`imagenet_to_gcs` read. A shard does not tell whether its labels count from 0 or 1; the manifest does.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
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
BOX_YMIN = "image/object/bbox/ymin"  # of each object, as a part of the image's height, 0 to 1
BOX_XMIN = "image/object/bbox/xmin"
BOX_YMAX = "image/object/bbox/ymax"
BOX_XMAX = "image/object/bbox/xmax"
BOX_LABEL = "image/object/class/label"  # int64, counted from the manifest's label_offset
BOX_TEXT = "image/object/class/text"
BOX_CROWD = "image/object/is_crowd"  # 1: neither training nor scoring counts it as found or missed
BOX_AREA = "image/object/area"  # in pixels, of the mask if the source has masks, else of the box
BOX_MASK = "image/object/mask"  # 1-bit PNGs of the image's size; all objects of a set have one, or none has
SOURCE_ID = "image/source_id"  # the image's name in the source's annotations, as in COCO's results
UNLABELLED = -1  # the stored label of an image that has no class
VOID = 255  # in a mask: pixels that neither training nor scoring counts

OBJECT_LISTS = {  # features with a value for each object
    **dict.fromkeys((BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX, BOX_AREA), tf.float32),
    **dict.fromkeys((BOX_LABEL, BOX_CROWD), tf.int64),
    **dict.fromkeys((BOX_TEXT, BOX_MASK), tf.string),
}

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
        category_ids: COCO's numbers of the classes, in the order of the labels; None for sets without such.
    """

    class_names: tuple[str, ...]
    label_offset: int
    splits: dict[str, tuple[Shard, ...]]
    source_sha256: str
    schema: int = SCHEMA_VERSION
    category_ids: tuple[int, ...] | None = None

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        if self.category_ids is None:  # sets without them keep the manifest that they had before there were any
            del content["category_ids"]
        return json.dumps(content, indent=1) + "\n"


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
        category_ids: COCO's numbers of the classes, None for sets without such.
    """

    directory: AnyPath
    split: str
    class_names: tuple[str, ...]
    label_offset: int
    shard_paths: tuple[str, ...]
    shard_counts: tuple[int, ...]
    digest: str
    category_ids: tuple[int, ...] | None = None

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
        category_ids=manifest.category_ids,
    )


def _digest(manifest, shards):
    content = [manifest.source_sha256, manifest.class_names, manifest.label_offset]
    content += [dataclasses.astuple(shard) for shard in shards]
    if manifest.category_ids is not None:
        content.append(manifest.category_ids)
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
        if content.get("category_ids") is not None:
            content["category_ids"] = tuple(content["category_ids"])
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
    ids = manifest.category_ids
    if ids is not None and not (
        all(type(number) is int for number in ids) and len(set(ids)) == len(ids) == len(manifest.class_names)
    ):
        return "category_ids are not one number for each class"
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
    source_id: str | bytes | None = None,
    objects: Mapping[str, Sequence] | None = None,
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
        source_id: detection: the image's name in the annotations.
        objects: detection: features of `OBJECT_LISTS` -> their values, equally many; none in an image without objects.
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
    if source_id is not None:
        values[SOURCE_ID] = source_id
    example = tf.train.Example()
    features = example.features.feature
    for name, value in values.items():  # in place: to put a message into another one would copy it, with the image
        if isinstance(value, bytes | str):
            features[name].bytes_list.value.append(value.encode("utf-8") if isinstance(value, str) else value)
        else:
            features[name].int64_list.value.append(value)
    for name, listed in (objects or {}).items():
        kind = {tf.float32: "float_list", tf.int64: "int64_list", tf.string: "bytes_list"}[OBJECT_LISTS[name]]
        getattr(features[name], kind).SetInParent()  # an empty list still says that this is an image for detection
        getattr(features[name], kind).value.extend(text.encode() if isinstance(text, str) else text for text in listed)
    return example.SerializeToString(deterministic=True)


def feature_spec(names: Iterable[str]) -> dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]:
    """The named features as `tf.io.parse_example` takes them: scalars, of objects lists.

    A mask or source id that is missing reads as empty, and so does a list of objects.
    """
    integers, optional = (LABEL, HEIGHT, WIDTH, CHANNELS), (MASK, SOURCE_ID)
    return {
        name: tf.io.RaggedFeature(OBJECT_LISTS[name])
        if name in OBJECT_LISTS
        else tf.io.FixedLenFeature(
            (), tf.int64 if name in integers else tf.string, default_value="" if name in optional else None
        )
        for name in names
    }


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
