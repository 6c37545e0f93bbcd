"""Shards as they lie on the disk, whole or damaged: every record, or which one is damaged."""

import struct
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfvt.data.offsets import masked_crc32c
from tfvt.data.records import OBJECT_LISTS, feature_spec
from tfvt.errors import UsageError
from tfvt.stores import AnyPath, as_path

GZIP = "is gzip-compressed TFRecord, which tfvt does not read: uncompress it with gunzip, and keep the shard's name"
KINDS = {tf.int64: "int64", tf.float32: "float", tf.string: "bytes"}  # as tf.train.Feature calls them
FRAMING = 16  # bytes of a record beside its data: length, checksum of the length; checksum of the data

# The second matches where TensorFlow puts a record's bytes into its error message.
_UNPARSABLE = (tf.errors.InvalidArgumentError, UnicodeDecodeError)


def read_features(path: AnyPath | str, spec: dict[str, tf.io.FixedLenFeature]) -> dict[str, np.ndarray]:
    """Features of a shard's records, feature name -> values in order, without a copy of the image bytes.

    Args:
        path: the shard.
        spec: feature name -> `tf.io.FixedLenFeature`, a scalar, or `tf.io.RaggedFeature`, whose values are arrays.

    Raises:
        UsageError: a record is damaged or lacks a feature, or the shard is compressed; the message names the first
            such record, or the shard.
        OSError: the shard cannot be opened.
    """
    if is_gzip(path):  # this opens the shard: `ignore_errors` would try for ever to open one that cannot be opened
        raise UsageError(f"{path} {GZIP}")
    size = as_path(path).stat().st_size
    parts, count, covered = [], 0, 0
    for batch in tf.data.TFRecordDataset(str(path)).ignore_errors().batch(1024):
        try:
            parts.append({name: _column(value) for name, value in tf.io.parse_example(batch, spec).items()})
        except _UNPARSABLE:
            number, problem = _first_unparsable(batch, spec)
            raise UsageError(f"record {count + number} of {path} does not match the schema: {problem}") from None
        count += len(batch)
        covered += FRAMING * len(batch) + int(tf.reduce_sum(tf.strings.length(batch)))
    if covered != size:
        raise UsageError(f"record {count} of {path} is damaged or cut off")
    empty = {name: np.zeros(0, _numpy_type(feature)) for name, feature in spec.items()}
    return {name: np.concatenate([part[name] for part in parts] or [empty[name]]) for name in spec}


def _column(values):
    """A value for each record; where they are lists, arrays in an array of objects."""
    if not isinstance(values, tf.RaggedTensor):
        return values.numpy()
    column = np.empty(values.nrows(), object)
    column[:] = np.split(values.flat_values.numpy(), values.row_splits.numpy()[1:-1])
    return column


def _numpy_type(feature):
    return object if isinstance(feature, tf.io.RaggedFeature) else feature.dtype.as_numpy_dtype


def is_gzip(path: AnyPath | str) -> bool:
    """Whether a shard is compressed as a whole, as TensorFlow writes it with `compression_type="GZIP"`.

    Raises:
        OSError: it cannot be opened.
    """
    with as_path(path).open("rb") as file:
        begin = file.read(12)
    # A record's length may begin with gzip's bytes as well; then its checksum follows.
    return begin.startswith(b"\x1f\x8b\x08") and masked_crc32c(begin[:8]) != begin[8:]


def _first_unparsable(batch, spec):
    lists = {name for name, feature in spec.items() if isinstance(feature, tf.io.RaggedFeature)}
    required = [name for name, feature in spec.items() if name not in lists and feature.default_value is None]
    for number, serialized in enumerate(batch):
        try:
            tf.io.parse_single_example(serialized, spec)
        except _UNPARSABLE:
            try:
                parse_features(serialized.numpy(), required, set(spec) - set(required))
            except UsageError as error:
                return number, error
            return number, "TensorFlow cannot parse it"
    raise AssertionError("a batch that does not parse has a record that does not")


def parse_features(
    serialized: bytes, required: Collection[str], optional: Iterable[str]
) -> dict[str, bytes | int | list[bytes] | list[int] | list[float]]:
    """A record's features of those names; of the optional ones those that it has. Those of objects are lists.

    Raises:
        UsageError: it is not a record, or one of the features is missing, or has another type or number of values.
    """
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        raise UsageError("it is not a tf.train.Example") from None
    values = {}
    for name, feature in feature_spec((*required, *optional)).items():
        if name in features:
            read = _list if name in OBJECT_LISTS else _one_value
            values[name] = read(features[name], name, KINDS[feature.dtype])
        elif name in required:
            raise UsageError(f"it lacks {name}")
    return values


def _one_value(feature, name, kind):
    content = getattr(feature, f"{kind}_list").value
    if len(content) != 1:
        raise UsageError(f"its {name} is not one value of type {kind}")
    return content[0]


def _list(feature, name, kind):
    if feature.WhichOneof("kind") not in (None, f"{kind}_list"):
        raise UsageError(f"its {name} is not a list of values of type {kind}")
    return list(getattr(feature, f"{kind}_list").value)


def read_records(path: AnyPath | str) -> Iterator[bytes | None]:
    """A shard's records in order, None in the place of one that is damaged.

    Raises:
        UsageError: from the iterator, where a length is damaged or the file ends early, so that nothing tells how
            many records follow.
        OSError: the shard cannot be opened.
    """
    count = _count(path)
    number = 0
    while count is None or number < count:
        for serialized in _records_from(path, number).as_numpy_iterator():
            yield serialized
            number += 1
        if count is None:
            raise UsageError(f"record {number} of {path} is damaged or cut off, and so is all that follows it")
        if number < count:  # a damaged record ends the stream, and skipping does not look at what it passes over
            yield None
            number += 1


def read_record(path: AnyPath | str, number: int) -> bytes:
    """One record of a shard, without reading those before it.

    Raises:
        UsageError: no record has that number, or it is damaged.
        OSError: the shard cannot be opened.
    """
    for serialized in _records_from(path, number).take(1).as_numpy_iterator():
        return serialized
    raise UsageError(f"record {number} of {path} is damaged or cut off")


def _count(path) -> int | None:
    """Number of records in a file whose lengths lead exactly to its end; None if they do not."""
    count = position = 0
    size = as_path(path).stat().st_size
    with as_path(path).open("rb") as file:
        while position + FRAMING <= size:
            file.seek(position)
            (length,) = struct.unpack("<Q", file.read(8))
            count, position = count + 1, position + length + FRAMING
    return count if position == size else None


def _records_from(path, number) -> tf.data.Dataset:
    """Serialized records up to the first that is damaged."""
    with as_path(path).open("rb") as file:  # as in `read_features`
        file.read(1)
    return tf.data.TFRecordDataset(str(path)).skip(number).ignore_errors()
