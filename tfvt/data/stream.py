"""Shards -> batches, as tf.data. What a batch holds depends only on seed and global step.

A resumed run therefore sees the same batches as the uninterrupted run: `order` says which records a step trains on,
and a sample's augmentation depends on seed, epoch and record id, not on the samples before it. The stream decides
which record comes when; `Samples` decides what a record becomes.
"""

import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfvt.data.loading import Samples, blank_sample, load_batch
from tfvt.data.offsets import record_offsets
from tfvt.data.order import AUGMENTATION_STREAM, BLOCK_SIZE, MIXING_STREAM, WHOLE, HostShare, Order, Share
from tfvt.data.records import RecordSet, first_ids, read_record, read_span
from tfvt.data.service import from_servers
from tfvt.errors import UsageError

IMAGES_AT_A_TIME = 2  # decoded by `image_stream`: more of 24 megapixels would fill the memory


@dataclass(frozen=True)
class StreamSettings:
    """How records become batches.

    Attributes:
        batch_size: samples a step, over all hosts.
        seed: decides order and augmentation.
        repeats: samples of each record that is drawn, one after the other and each augmented in its own way;
            an epoch keeps its length and uses fewer records ("repeated augmentation", Hoffer et al. 2020,
            "Augment Your Batch"; Touvron et al. 2021, "Training data-efficient image transformers", repeats 3).
        skip_damaged: give a record that cannot be read or decoded the weight 0 (and a blank sample) instead of
            stopping; its name goes to stderr.
        servers: addresses ("grpc://host:port") of `tfvt records serve`. They read and decode the training samples,
            one batch each in turn. The stream is the same with any number of them, and without any.
        block_size: training records shuffled together. Memory holds two blocks of encoded records.

    Raises:
        ValueError: a number out of its range.
    """

    batch_size: int
    seed: int = 0
    repeats: int = 1
    skip_damaged: bool = False
    servers: tuple[str, ...] = ()
    block_size: int = BLOCK_SIZE

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("seed", 0), ("repeats", 1), ("block_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


def steps_per_epoch(records: RecordSet, batch_size: int) -> int:
    """Whole batches in the set. An epoch leaves out the rest of its order, which holds other records each time.

    Raises:
        UsageError: the set does not fill one batch.
    """
    if not 1 <= batch_size <= records.num_examples:
        raise UsageError(
            f"batch_size must be from 1 to the number of images: it is {batch_size}, and split "
            f"{records.split!r} of {records.directory} has {records.num_examples} images"
        )
    return records.num_examples // batch_size


def train_stream(
    records: RecordSet, samples: Samples, settings: StreamSettings, share: HostShare = WHOLE, start_step: int = 0
) -> tf.data.Dataset:
    """Endless training batches; element k is the batch of global step `start_step + k`.

    Args:
        records: what to read.
        samples: what a record becomes.
        settings: how samples become batches.
        share: which rows of each batch this host delivers.
        start_step: global step of the first batch. The stream does not read blocks or decode records before it.

    Returns:
        Dataset of the dicts that `samples` makes, with the B / hosts rows of this host. Each also has "id", int64
        (B / hosts,), the record's place in the split, and with `skip_damaged` "weight", float32 (B / hosts,), 0 or 1.

    Raises:
        UsageError: fewer records than `batch_size`.
        ValueError: another argument out of its range.
        tf.errors.InvalidArgumentError: from the iterator; a record is damaged or faulty. The message names shard
            and record.
    """
    if start_step < 0:
        raise ValueError(f"start_step must be at least 0, not {start_step}")
    rows = share.rows(settings.batch_size)
    steps_per_epoch(records, settings.batch_size)  # raises if the set does not fill a batch
    order = Order(records.shard_counts, settings.seed, settings.batch_size, settings.repeats, settings.block_size)

    def decode(features, epoch, sample):
        return samples.decode(features, _fold_in(settings.seed, AUGMENTATION_STREAM, epoch, sample))

    def load(step, columns):
        epochs, ids, copies, serialized = columns
        arguments = (epochs, ids * settings.repeats + copies)
        batch = load_batch(records, samples, decode, (ids, serialized, *arguments), settings.skip_damaged)
        if not settings.skip_damaged:
            del batch["weight"]
        batch = samples.finish(batch | {"id": ids}, _fold_in(settings.seed, MIXING_STREAM, step, 0), share)
        return {name: tf.ensure_shape(value, (rows, *value.shape[1:])) for name, value in batch.items()}

    def batches(part):
        columns = _serialized_samples(records, order, part).rebatch(rows, drop_remainder=True)
        steps = tf.data.Dataset.counter(part.start_step, part.step_stride)
        return _finish(tf.data.Dataset.zip(steps, columns).map(load, num_parallel_calls=_parallel_batches(rows)))

    stride = max(1, len(settings.servers))
    streams = [batches(Share(start_step + turn, stride, share)) for turn in range(stride)]
    return from_servers(settings.servers, streams) if settings.servers else streams[0]


def eval_stream(
    records: RecordSet, samples: Samples, settings: StreamSettings, share: HostShare = WHOLE
) -> tf.data.Dataset:
    """Every record once, in the order of the shards; blank samples of weight 0 fill up the last batch.

    Args:
        records: what to read.
        samples: what a record becomes.
        settings: only `batch_size` and `skip_damaged` count here.
        share: this host reads the `index`-th of `count` successive parts of the split. All hosts deliver the same
            number of batches.

    Returns:
        Dataset of the dicts that `samples` makes, B / hosts rows each, with "weight", float32 (B / hosts,); it has
        ceil(records / B) elements.

    Raises:
        UsageError: the split is empty.
        ValueError: another argument out of its range.
        tf.errors.InvalidArgumentError: as for `train_stream`.
    """
    _check_not_empty(records)
    rows = share.rows(settings.batch_size)
    num_batches = -(-records.num_examples // settings.batch_size)
    begin = min(share.index * num_batches * rows, records.num_examples)
    end = min(begin + num_batches * rows, records.num_examples)

    def load(ids, serialized):
        batch = load_batch(
            records, samples, lambda features: samples.decode(features, None), (ids, serialized), settings.skip_damaged
        )
        return samples.finish(_fill(batch, samples, rows), None, share)

    def fillings(_):
        none = {name: value[None][:0] for name, value in blank_sample(samples).items()}
        return samples.finish(_fill(none, samples, rows), None, share)

    batches = _serialized_range(records, begin, end).batch(rows).map(load, num_parallel_calls=_parallel_batches(rows))
    missing = num_batches - -(-(end - begin) // rows)
    return _finish(batches.concatenate(tf.data.Dataset.range(missing).map(fillings)))


def image_stream(
    records: RecordSet, samples: Samples, settings: StreamSettings, share: HostShare = WHOLE
) -> tf.data.Dataset:
    """Every record once as a batch of its own, so that samples may have any size; otherwise as `eval_stream`.

    Args:
        records: what to read.
        samples: what a record becomes.
        settings: only `skip_damaged` counts here.
        share: this host reads the `index`-th of `count` successive parts of the split. All hosts deliver the same
            number of samples; blank ones of weight 0 fill up the last part.

    Returns:
        Dataset of the dicts that `samples` makes, each value with a first axis of length 1, with "weight", float32
        (1,), and "id", int64 (1,), the record's place in the split, -1 for a blank that fills up; it has
        ceil(records / hosts) elements.

    Raises:
        UsageError: the split is empty.
        tf.errors.InvalidArgumentError: as for `train_stream`.
    """
    _check_not_empty(records)
    images = -(-records.num_examples // share.count)
    begin, end = (min(part * images, records.num_examples) for part in (share.index, share.index + 1))

    def load(ids, serialized):
        batch = load_batch(
            records, samples, lambda features: samples.decode(features, None), (ids, serialized), settings.skip_damaged
        )
        return finish(batch | {"id": ids})

    def filling(_):
        blank = {name: value[None] for name, value in blank_sample(samples).items()}
        return finish(blank | {"id": tf.constant([-1], tf.int64)})

    def finish(batch):
        batch = samples.finish(batch, None, share)
        return {name: tf.ensure_shape(value, (1, *value.shape[1:])) for name, value in batch.items()}

    found = _serialized_range(records, begin, end).batch(1).map(load, num_parallel_calls=IMAGES_AT_A_TIME)
    missing = tf.data.Dataset.range(images - (end - begin)).map(filling)
    return _finish(found.concatenate(missing), buffer_size=1)


def _check_not_empty(records):
    if records.num_examples == 0:
        raise UsageError(f"nothing to evaluate on: split {records.split!r} of {records.directory} has no images")


def eval_rows(num_examples: int, batch_size: int, num_hosts: int = 1) -> np.ndarray:
    """The row of each record, int64 (num_examples,), where the batches of `eval_stream` follow one another.

    Each batch holds the rows of all hosts, in the order of the hosts.
    """
    batches, rows = -(-num_examples // batch_size), batch_size // num_hosts
    ids = np.arange(num_hosts * batches * rows).reshape(num_hosts, batches, rows)
    return np.argsort(ids.swapaxes(0, 1).reshape(-1))[:num_examples]


def _fill(batch, samples, rows):
    """The batch with blank samples appended until it has that many rows."""
    missing = rows - tf.shape(batch["weight"])[0]
    filled = {}
    for name, blank in blank_sample(samples).items():
        value = tf.concat([batch[name], tf.repeat(blank[None], missing, axis=0)], axis=0)
        filled[name] = tf.ensure_shape(value, (rows, *blank.shape))
    return filled


def _fold_in(seed, *numbers):
    """A seed (2,) that depends on the run's seed and on all `numbers`, in order; the first one stands for the use."""
    use, *rest = numbers
    folded = tf.constant([seed, use], tf.int64)
    for number in rest:
        folded = tf.random.fold_in(folded, tf.cast(number, tf.int64))
    return folded


def _parallel_batches(rows):
    """Batches to decode at a time: one that ends, one that begins, and more where batches are small."""
    return max(2, -(-2 * os.cpu_count() // rows))


def _serialized_samples(records, order, share):
    """Endless (epoch, id, copy, serialized): the part of the order that `share` gets."""
    offsets = None if share.is_whole else record_offsets(records)

    def read(number):
        epoch, ids, copies, parts = order.samples(number, share)
        if offsets is None:
            found = tf.data.Dataset.from_tensor_slices(parts).interleave(
                lambda *part: read_span(records, *part), cycle_length=16, num_parallel_calls=tf.data.AUTOTUNE
            )
            if not share.is_whole:
                wanted = tf.sort(ids)
                found = found.filter(lambda record_id, _: _is_in(record_id, wanted))
        else:  # read nothing else
            wanted = tf.sort(tf.unique(ids)[0])
            places = tf.data.Dataset.from_tensor_slices((wanted, tf.gather(tf.constant(offsets), wanted)))
            found = places.interleave(
                lambda *place: read_record(records, *place), cycle_length=16, num_parallel_calls=tf.data.AUTOTUNE
            )

        def arrange(read_ids, serialized):
            by_id = tf.argsort(read_ids)  # whichever part was read first
            places = tf.gather(by_id, tf.searchsorted(tf.gather(read_ids, by_id), ids))
            return epoch, ids, copies, places, serialized

        return found.batch(order.block_size).map(arrange)

    def samples(epoch, ids, copies, places, serialized):
        # A few at a time, to avoid a copy of the whole block.
        chunks = tf.data.Dataset.from_tensor_slices((ids, copies, places)).batch(64)
        return chunks.map(
            lambda ids, copies, places: (tf.fill(tf.shape(ids), epoch), ids, copies, tf.gather(serialized, places))
        )

    # Read a block while the step trains on the one before it.
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


def _finish(batches, buffer_size=tf.data.AUTOTUNE):
    options = tf.data.Options()
    options.deterministic = True
    # Workers share the stream batch by batch: dealing shards out to them would change the order.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(buffer_size)
