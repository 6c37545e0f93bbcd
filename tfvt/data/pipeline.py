"""Shards -> batches, as tf.data. What a batch holds depends on seed and global step, on nothing else.

A resumed run therefore sees the very batches that the uninterrupted run would have seen: `order` says which
records a step trains on, and a sample's augmentation depends on seed, epoch and record id, not on the samples
before it.
"""

import os
import sys
from collections.abc import Sequence

import tensorflow as tf

from tfvt.data.images import EvalPreprocessing, TrainPreprocessing, decode_and_augment, decode_and_center_crop
from tfvt.data.mixing import Mixing, mix_batch
from tfvt.data.order import AUGMENTATION_STREAM, BLOCK_SIZE, MIXING_STREAM, Order, Share
from tfvt.data.records import (
    ENCODED,
    LABEL,
    UNLABELLED,
    RecordsError,
    RecordSet,
    describe,
    fail,
    feature_spec,
    first_ids,
    locate,
    read_span,
)
from tfvt.data.service import from_servers


def steps_per_epoch(records: RecordSet, batch_size: int) -> int:
    """Whole batches in the set; the rest of an epoch's order is left out, other records each epoch.

    Raises:
        RecordsError: not one batch.
    """
    if not 1 <= batch_size <= records.num_examples:
        raise RecordsError(
            f"batch_size must be from 1 to the number of images: it is {batch_size}, and split "
            f"{records.split!r} of {records.directory} has {records.num_examples} images"
        )
    return records.num_examples // batch_size


def train_dataset(
    records: RecordSet,
    preprocessing: TrainPreprocessing,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    repeats: int = 1,
    mixing: Mixing | None = None,
    skip_damaged: bool = False,
    num_input_pipelines: int = 1,
    input_pipeline_id: int = 0,
    servers: Sequence[str] = (),
    block_size: int = BLOCK_SIZE,
) -> tf.data.Dataset:
    """Endless training batches; element k is the batch of global step `start_step + k`.

    Args:
        records: what to read.
        preprocessing: decoding and augmentation.
        batch_size: samples a step, over all input pipelines.
        seed: non-negative; decides order and augmentation.
        start_step: global step of the first batch. Blocks before it are not read, images before it not decoded.
        repeats: samples made of each record that is drawn, one after the other and each augmented in its own way;
            an epoch keeps its length and draws on fewer records ("repeated augmentation", Hoffer et al. 2020,
            "Augment Your Batch"; Touvron et al. 2021, "Training data-efficient image transformers", repeats 3).
        mixing: MixUp and CutMix among the images of a batch; with several input pipelines, among those of each.
        skip_damaged: give a record that cannot be read or decoded the weight 0 (and a black image) instead of
            stopping; its name goes to stderr.
        num_input_pipelines, input_pipeline_id: as in `tf.distribute.InputContext`: this pipeline delivers rows
            `id * B / num` to `(id + 1) * B / num` of each batch; `batch_size` B must divide by `num`.
        servers: addresses ("grpc://host:port") of `tfvt records serve`; they do the reading and decoding, in turn a
            batch each. The stream is the same with any number of them, and without.
        block_size: records that are shuffled together. Two blocks of encoded images are held in memory.

    Returns:
        Dataset of {"image": float32 (B / num, H, W, 3) 0..255, "label": int32 (B / num,) from 0, "id": int64
        (B / num,)}, `id` being the record's place in the split. With `skip_damaged` also "weight": float32
        (B / num,), 0 or 1. With `mixing` also "target": float32 (B / num, classes), rows of sum 1; "label" and "id"
        are then those of the images before they were mixed.

    Raises:
        RecordsError: fewer images than `batch_size`.
        ValueError: another argument out of its range.
        tf.errors.InvalidArgumentError: from the iterator; a damaged record or a label out of range, with the
            names of shard and record.
    """
    if seed < 0 or start_step < 0 or repeats < 1 or block_size < 1:
        raise ValueError(
            "seed and start_step must not be negative, repeats and block_size not be below 1: "
            f"{seed}, {start_step}, {repeats}, {block_size}"
        )
    rows = _rows(batch_size, num_input_pipelines, input_pipeline_id)
    steps_per_epoch(records, batch_size)  # complains if there is no batch
    order = Order(records.shard_counts, seed, batch_size, repeats, block_size)

    def augment(image, epoch, sample):
        epoch_seed = tf.random.fold_in(tf.constant([seed, AUGMENTATION_STREAM], tf.int64), epoch)
        return decode_and_augment(image, tf.random.fold_in(epoch_seed, sample), preprocessing)

    def load(step, samples):
        epochs, ids, copies, serialized = samples
        images, labels, weights = _load(
            records, (ids, serialized, epochs, ids * repeats + copies), augment, preprocessing.image_size, skip_damaged
        )
        batch = {"image": images, "label": labels, "id": ids}
        if mixing is not None and mixing.enabled:
            step_seed = tf.random.fold_in(tf.constant([seed, MIXING_STREAM], tf.int64), step)
            images, labels = _without_damaged(images, labels, weights) if skip_damaged else (images, labels)
            mixing_seed = tf.random.fold_in(step_seed, tf.constant(input_pipeline_id, tf.int64))
            batch["image"], batch["target"] = mix_batch(images, labels, records.num_classes, mixing_seed, mixing)
        if skip_damaged:
            batch["weight"] = weights
        return {name: tf.ensure_shape(value, (rows, *value.shape[1:])) for name, value in batch.items()}

    def batches(share):
        samples = _serialized_samples(records, order, share).rebatch(rows, drop_remainder=True)
        steps = tf.data.Dataset.counter(share.start_step, share.step_stride)
        return _finish(tf.data.Dataset.zip(steps, samples).map(load, num_parallel_calls=_parallel_batches(rows)))

    shares = [
        Share(start_step + turn, max(1, len(servers)), num_input_pipelines, input_pipeline_id)
        for turn in range(max(1, len(servers)))
    ]
    streams = [batches(share) for share in shares]
    return from_servers(servers, streams) if servers else streams[0]


def eval_dataset(
    records: RecordSet,
    preprocessing: EvalPreprocessing,
    *,
    batch_size: int,
    skip_damaged: bool = False,
    num_input_pipelines: int = 1,
    input_pipeline_id: int = 0,
) -> tf.data.Dataset:
    """Every record once, in the order of the shards; the last batch is filled up with samples of weight 0.

    Args:
        records: what to read.
        preprocessing: decoding and crop.
        batch_size: samples a step, over all input pipelines.
        skip_damaged: as for `train_dataset`.
        num_input_pipelines, input_pipeline_id: this pipeline reads the `id`-th of `num` successive parts of the
            split. All of them deliver the same number of batches.

    Returns:
        Dataset of {"image": float32 (B / num, H, W, 3) 0..255, "label": int32 (B / num,) from 0, "weight": float32
        (B / num,)}, with ceil(images / B) elements.

    Raises:
        RecordsError: the split is empty.
        ValueError: another argument out of its range.
        tf.errors.InvalidArgumentError: as for `train_dataset`.
    """
    if batch_size < 1 or records.num_examples == 0:
        raise RecordsError(
            f"nothing to evaluate on: batch_size {batch_size}, {records.num_examples} images in split "
            f"{records.split!r} of {records.directory}"
        )
    rows = _rows(batch_size, num_input_pipelines, input_pipeline_id)
    num_batches = -(-records.num_examples // batch_size)
    begin = min(input_pipeline_id * num_batches * rows, records.num_examples)
    end = min(begin + num_batches * rows, records.num_examples)

    def load(ids, serialized):
        images, labels, weights = _load(
            records,
            (ids, serialized),
            lambda image: decode_and_center_crop(image, preprocessing),
            preprocessing.image_size,
            skip_damaged,
        )
        batch = {"image": images, "label": labels, "weight": weights}
        missing = rows - tf.size(ids)
        return {
            name: tf.ensure_shape(
                tf.pad(value, [[0, missing]] + [[0, 0]] * (len(value.shape) - 1)), (rows, *value.shape[1:])
            )
            for name, value in batch.items()
        }

    batches = _serialized_range(records, begin, end).batch(rows).map(load, num_parallel_calls=_parallel_batches(rows))
    filling = {
        "image": tf.zeros((rows, *preprocessing.image_size, 3)),
        "label": tf.zeros(rows, tf.int32),
        "weight": tf.zeros(rows),
    }
    missing = num_batches - -(-(end - begin) // rows)
    return _finish(batches.concatenate(tf.data.Dataset.from_tensors(filling).repeat(missing)))


def _rows(batch_size, num_input_pipelines, input_pipeline_id):
    """Samples of a batch that one input pipeline delivers."""
    if not 0 <= input_pipeline_id < num_input_pipelines:
        raise ValueError(
            f"input_pipeline_id must be from 0 to num_input_pipelines - 1: {input_pipeline_id} of {num_input_pipelines}"
        )
    if batch_size % num_input_pipelines:
        raise ValueError(
            f"batch_size ({batch_size}) must divide by the number of input pipelines ({num_input_pipelines})"
        )
    return batch_size // num_input_pipelines


def _parallel_batches(rows):
    """Batches that are decoded at a time: one that ends, one that begins, and more where they are small."""
    return max(2, -(-2 * os.cpu_count() // rows))


def _serialized_samples(records, order, share):
    """Endless (epoch, id, copy, serialized), what `share` gets of the order."""

    def read(number):
        epoch, ids, copies, parts = order.samples(number, share)
        records_read = tf.data.Dataset.from_tensor_slices(parts).interleave(
            lambda *part: read_span(records, *part), cycle_length=16, num_parallel_calls=tf.data.AUTOTUNE
        )
        if not share.is_whole:
            wanted = tf.sort(ids)
            records_read = records_read.filter(lambda record_id, _: _is_in(record_id, wanted))

        def arrange(read_ids, serialized):
            by_id = tf.argsort(read_ids)  # in whatever order the parts were read
            places = tf.gather(by_id, tf.searchsorted(tf.gather(read_ids, by_id), ids))
            return epoch, ids, copies, places, serialized

        return records_read.batch(order.block_size).map(arrange)

    def samples(epoch, ids, copies, places, serialized):
        # A few at a time, so that the block is not copied as a whole.
        chunks = tf.data.Dataset.from_tensor_slices((ids, copies, places)).batch(64)
        return chunks.map(
            lambda ids, copies, places: (tf.fill(tf.shape(ids), epoch), ids, copies, tf.gather(serialized, places))
        )

    # A block is read while the one before it is trained on.
    blocks = tf.data.Dataset.counter(order.first_block(share.start_step)).flat_map(read).prefetch(1)
    return blocks.flat_map(samples)


def _is_in(value, values):
    """Whether the scalar is one of the sorted `values`."""
    place = tf.searchsorted(values, value[None])[0]
    return tf.reduce_any(values[place : place + 1] == value)


def _serialized_range(records, begin, end):
    """(id, serialized) of the records `begin` to `end`, in order."""
    spans = [
        (shard, max(begin - first, 0), min(end - first, count) - max(begin - first, 0))
        for shard, (first, count) in enumerate(zip(first_ids(records), records.shard_counts, strict=True))
        if first < end and begin < first + count
    ]
    columns = tuple(tf.reshape(tf.constant(spans, tf.int64), (-1, 3))[:, column] for column in range(3))
    return tf.data.Dataset.from_tensor_slices(columns).flat_map(lambda *span: read_span(records, *span))


def _load(records, samples, decode, image_size, skip_damaged):
    """Images, 0-based int32 labels and weights of a batch of `samples` (ids, serialized, arguments of decode, ...).

    A record that gives no image is an error that names it, or has weight 0 with `skip_damaged`.
    """
    ids = samples[0]

    def parse_and_decode(_, serialized, *arguments):
        features = tf.io.parse_single_example(serialized, feature_spec((ENCODED, LABEL)))
        return decode(features[ENCODED], *arguments), features[LABEL], tf.constant(1.0)

    def one_by_one(record_id, serialized, *arguments):
        if skip_damaged:
            serialized = _read_again(records, record_id, serialized)
        attempt = tf.data.Dataset.from_tensors((record_id, serialized, *arguments)).map(parse_and_decode)
        failure = (tf.zeros((*image_size, 3)), tf.constant(records.label_offset, tf.int64), tf.constant(0.0))
        outcome = attempt.ignore_errors(log_warning=True).concatenate(tf.data.Dataset.from_tensors(failure))
        image, label, weight = outcome.take(1).get_single_element()

        def report():
            is_read = tf.not_equal(serialized, "")
            problem = tf.where(
                is_read, "holds no image that can be decoded; the log has the reason", "is damaged or cut off"
            )
            if skip_damaged:
                message = tf.strings.join(["skipped: ", describe(records, record_id, problem)])
                return tf.print(message, output_stream=sys.stderr)
            damaged = tf.cond(is_read, lambda: record_id, lambda: _first_damaged(records, record_id))
            return fail(records, damaged, problem)

        with tf.control_dependencies([tf.cond(weight > 0, tf.no_op, report)]):
            return tf.identity(image), label, weight

    # A map function cannot catch an error, a dataset can. Catching costs 0.1 ms of a core, for each image a tenth of
    # its decoding; so a batch is tried as a whole, and image by image only if that fails.
    samples = tf.data.Dataset.from_tensor_slices(samples)
    size = tf.size(ids, tf.int64)
    whole, single = (
        samples.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(size, drop_remainder=True)
        for function in (parse_and_decode, one_by_one)
    )
    images, labels, weights = whole.ignore_errors().concatenate(single).take(1).get_single_element()

    last = records.label_offset + records.num_classes - 1
    in_range = (labels >= records.label_offset) & (labels <= last)
    wrong = tf.argmin(tf.cast(in_range, tf.int32))
    problem = tf.where(
        labels[wrong] == UNLABELLED,
        "has no class (label -1), as images with masks and test images have none: classification needs one",
        f"has a label that is not from {records.label_offset} to {last}, as the manifest says",
    )
    first_wrong = ids[wrong]
    check = tf.cond(tf.reduce_all(in_range), tf.no_op, lambda: fail(records, first_wrong, problem))
    with tf.control_dependencies([check]):
        return images, tf.cast(labels - records.label_offset, tf.int32), weights


def _first_damaged(records, record_id):
    """The record at which reading the shard of `record_id` comes to its end."""
    shard, index = locate(records, record_id)
    readable = tf.data.TFRecordDataset(tf.gather(tf.constant(records.shard_paths), shard)).ignore_errors()
    count = readable.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1)
    return record_id - index + tf.minimum(count, index)  # reading goes on behind a record of no bytes


def _read_again(records, record_id, serialized):
    """A record behind one that is damaged is passed over with it; alone it may be read."""

    def alone():
        shard, index = locate(records, record_id)
        path = tf.gather(tf.constant(records.shard_paths), shard)
        record = tf.data.TFRecordDataset(path).skip(index).take(1).ignore_errors()
        return record.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()

    return tf.cond(tf.equal(serialized, ""), alone, lambda: serialized)


def _without_damaged(images, labels, weights):
    """The batch with a sound image in the place of each damaged one, so that no other is mixed with a black one."""
    sound = tf.where(weights > 0, tf.range(tf.size(weights)), tf.argmax(weights, output_type=tf.int32))
    return tf.cond(
        tf.reduce_all(weights > 0),
        lambda: (images, labels),
        lambda: (tf.gather(images, sound), tf.gather(labels, sound)),
    )


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    # Workers share the stream batch by batch: shards dealt out to them would be another order.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
