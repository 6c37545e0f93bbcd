"""A batch of samples from serialized records; an error names a record that gives none, or it gets weight 0."""

import sys
from collections.abc import Callable
from typing import Protocol

import tensorflow as tf

from tfvt.data.order import HostShare
from tfvt.data.records import BOX_MASK, BOX_YMIN, MASK, RecordSet, describe, fail, feature_spec, locate


class Samples(Protocol):
    """What a record becomes: one subclass a task. All of it runs as TensorFlow graph code.

    Attributes:
        features: the record's features that `decode` gets.
    """

    features: tuple[str, ...]

    def decode(self, features: dict[str, tf.Tensor], seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """One sample, of static shapes. `seed` (2,) decides its augmentation; None in evaluation."""

    def blank(self) -> dict[str, tf.Tensor]:
        """A sample of the same shapes and types that stands for a damaged record; it has weight 0."""

    def faults(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Faults of records: the end of the sentence "record 7 of ... <fault>" -> bool (B,), true where it applies."""

    def finish(self, batch: dict[str, tf.Tensor], seed: tf.Tensor | None, share: HostShare) -> dict[str, tf.Tensor]:
        """The host's rows of a batch as the model takes them, for example mixed.

        `seed` (2,) is the step's, the same on all hosts; None in evaluation.
        """


def load_batch(
    records: RecordSet,
    samples: Samples,
    decode: Callable[..., dict[str, tf.Tensor]],
    columns: tuple[tf.Tensor, ...],
    skip_damaged: bool,
) -> dict[str, tf.Tensor]:
    """Samples (B, ...) by name, and their "weight", float32 (B,).

    Args:
        records: where the records come from.
        samples: what they become.
        decode: features by name and further arguments -> one sample.
        columns: ids int64 (B,), serialized string (B,), and the further arguments of `decode`, each (B,).
        skip_damaged: a record that gives no sample gets weight 0 instead of an error that names it.
    """
    ids = columns[0]
    content = "image"
    if BOX_MASK in samples.features:
        content = "image with masks of its objects"
    elif MASK in samples.features and BOX_YMIN not in samples.features:  # detection only looks whether there is one
        content = "image with a mask"

    def parse_and_decode(_, serialized, *arguments):
        features = tf.io.parse_single_example(serialized, feature_spec(samples.features))
        return decode(features, *arguments) | {"weight": tf.constant(1.0)}

    def one_by_one(record_id, serialized, *arguments):
        if skip_damaged:
            serialized = _read_again(records, record_id, serialized)
        attempt = tf.data.Dataset.from_tensors((record_id, serialized, *arguments)).map(parse_and_decode)
        outcome = attempt.ignore_errors(log_warning=True).concatenate(
            tf.data.Dataset.from_tensors(blank_sample(samples))
        )
        sample = outcome.take(1).get_single_element()

        def report():
            is_read = tf.not_equal(serialized, "")
            problem = tf.where(
                is_read, f"holds no {content} that can be decoded; the log has the reason", "is damaged or cut off"
            )
            if skip_damaged:
                message = tf.strings.join(["skipped: ", describe(records, record_id, problem)])
                return tf.print(message, output_stream=sys.stderr)
            damaged = tf.cond(is_read, lambda: record_id, lambda: _first_damaged(records, record_id))
            return fail(records, damaged, problem)

        with tf.control_dependencies([tf.cond(sample["weight"] > 0, tf.no_op, report)]):
            return tf.nest.map_structure(tf.identity, sample)

    # A map function cannot catch an error, a dataset can. Catching costs 0.1 ms of a core, for each image a tenth of
    # its decoding; so this tries a batch as a whole, and sample by sample only if that fails.
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    size = tf.size(ids, tf.int64)
    whole, single = (
        dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(size, drop_remainder=True)
        for function in (parse_and_decode, one_by_one)
    )
    batch = whole.ignore_errors().concatenate(single).take(1).get_single_element()
    checks = [_refuse(records, ids, wrong, fault) for fault, wrong in samples.faults(batch).items()]
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, batch)


def blank_sample(samples: Samples) -> dict[str, tf.Tensor]:
    """A blank sample and its weight, 0."""
    return samples.blank() | {"weight": tf.constant(0.0)}


def _refuse(records, ids, wrong, fault):
    """An operation that fails, naming the first record where `wrong` (B,) holds."""
    return tf.cond(
        tf.reduce_any(wrong), lambda: fail(records, ids[tf.argmax(tf.cast(wrong, tf.int32))], fault), tf.no_op
    )


def _first_damaged(records, record_id):
    """The record at which reading the shard of `record_id` ends."""
    shard, index = locate(records, record_id)
    readable = tf.data.TFRecordDataset(tf.gather(tf.constant(records.shard_paths), shard)).ignore_errors()
    count = readable.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1)
    return record_id - index + tf.minimum(count, index)  # reading continues after a record of no bytes


def _read_again(records, record_id, serialized):
    """The record read alone: reading in sequence skips a record that follows a damaged one."""

    def alone():
        shard, index = locate(records, record_id)
        path = tf.gather(tf.constant(records.shard_paths), shard)
        record = tf.data.TFRecordDataset(path).skip(index).take(1).ignore_errors()
        return record.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()

    return tf.cond(tf.equal(serialized, ""), alone, lambda: serialized)
