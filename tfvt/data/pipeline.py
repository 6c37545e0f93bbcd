"""Shards -> batches, as tf.data. What a batch holds depends on seed and global step, on nothing else.

A resumed run therefore sees the very batches that the uninterrupted run would have seen: `order` says which
records a step trains on, and a sample's augmentation depends on seed, epoch and record id, not on the samples
before it.
"""

import tensorflow as tf

from tfvt.data.images import EvalPreprocessing, TrainPreprocessing, decode_and_augment, decode_and_center_crop
from tfvt.data.order import BLOCK_SIZE, Order
from tfvt.data.records import (
    ENCODED,
    LABEL,
    RecordsError,
    RecordSet,
    feature_spec,
    read_span,
    require,
)


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
    block_size: int = BLOCK_SIZE,
) -> tf.data.Dataset:
    """Endless training batches; element k is the batch of global step `start_step + k`.

    Args:
        records: what to read.
        preprocessing: decoding and augmentation.
        batch_size: samples a batch.
        seed: non-negative; decides order and augmentation.
        start_step: global step of the first batch. Blocks before it are not read, images before it not decoded.
        block_size: records that are shuffled together. Two blocks of encoded images are held in memory.

    Returns:
        Dataset of {"image": float32 (B, H, W, 3) 0..255, "label": int32 (B,) from 0, "id": int64 (B,)}, `id`
        being the record's place in the split.

    Raises:
        RecordsError: fewer images than `batch_size`.
        tf.errors.InvalidArgumentError: from the iterator; a damaged record or a label out of range, with the
            names of shard and record.
    """
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed and start_step must not be negative: {seed}, {start_step}")
    steps_per_epoch(records, batch_size)  # complains if there is no batch
    blocks = _block_plans(Order(records.shard_counts, seed, batch_size, block_size), start_step)
    # A block is read while the one before it is trained on.
    serialized = blocks.flat_map(lambda *plan: _read_block(records, block_size, *plan)).prefetch(1).unbatch()

    def sample(epoch, record_id, serialized):
        epoch_seed = tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch)
        image_seed = tf.random.fold_in(epoch_seed, record_id)
        image, label = _load(
            records, record_id, serialized, lambda encoded: decode_and_augment(encoded, image_seed, preprocessing)
        )
        return {"image": image, "label": label, "id": record_id}

    samples = serialized.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finish(samples.batch(batch_size, drop_remainder=True))


def eval_dataset(records: RecordSet, preprocessing: EvalPreprocessing, *, batch_size: int) -> tf.data.Dataset:
    """Every record once, in the order of the shards; the last batch is filled up with samples of weight 0.

    Returns:
        Dataset of {"image": float32 (B, H, W, 3) 0..255, "label": int32 (B,) from 0, "weight": float32 (B,)},
        with ceil(images / B) elements.

    Raises:
        RecordsError: the split is empty.
        tf.errors.InvalidArgumentError: as for `train_dataset`.
    """
    if batch_size < 1 or records.num_examples == 0:
        raise RecordsError(
            f"nothing to evaluate on: batch_size {batch_size}, {records.num_examples} images in split "
            f"{records.split!r} of {records.directory}"
        )

    def sample(record_id, serialized):
        image, label = _load(
            records, record_id, serialized, lambda encoded: decode_and_center_crop(encoded, preprocessing)
        )
        return {"image": image, "label": label, "weight": tf.constant(1.0)}

    shards = tf.data.Dataset.from_tensor_slices(tf.range(len(records.shard_counts), dtype=tf.int64))
    counts = tf.constant(records.shard_counts, tf.int64)
    serialized = shards.flat_map(lambda shard: read_span(records, shard, tf.constant(0, tf.int64), counts[shard]))
    samples = serialized.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    filling = {
        "image": tf.zeros((*preprocessing.image_size, 3)),
        "label": tf.constant(0),
        "weight": tf.constant(0.0),
    }
    missing = -records.num_examples % batch_size
    samples = samples.concatenate(tf.data.Dataset.from_tensors(filling).repeat(missing))
    return _finish(samples.batch(batch_size, drop_remainder=True))


def _block_plans(order, start_step):
    """Endless plans (epoch, shards, starts, counts, permutation) of blocks, from the one of `start_step` on."""

    def plan(number):
        epoch, block = order.training_block(int(number), start_step)
        return epoch, block.shards, block.starts, block.counts, block.permutation

    def plan_tensors(number):
        # NumPy, as the order is: one call for a block of thousands of records.
        tensors = tf.numpy_function(plan, [number], [tf.int64] * 5, stateful=False)
        for tensor, rank in zip(tensors, (0, 1, 1, 1, 1), strict=True):
            tensor.set_shape([None] * rank)
        return tuple(tensors)

    return tf.data.Dataset.counter(order.first_block(start_step)).map(plan_tensors)


def _read_block(records, block_size, epoch, shards, starts, counts, permutation):
    """One element (epoch, id, serialized), each (records kept,): a block in the order of training."""

    def permute(ids, serialized):
        chosen = tf.gather(tf.argsort(ids), permutation)  # in whatever order the parts were read
        return tf.fill(tf.shape(chosen), epoch), tf.gather(ids, chosen), tf.gather(serialized, chosen)

    parts = tf.data.Dataset.from_tensor_slices((shards, starts, counts))
    read = parts.interleave(
        lambda *part: read_span(records, *part), cycle_length=16, num_parallel_calls=tf.data.AUTOTUNE
    )
    return read.batch(block_size).map(permute)


def _load(records, record_id, serialized, decode):
    """Image and 0-based int32 label of a serialized record; if it does not give them, an error that names it."""

    def parse_and_decode(serialized):
        features = tf.io.parse_single_example(serialized, feature_spec((ENCODED, LABEL)))
        return tf.constant(True), decode(features[ENCODED]), features[LABEL]

    # A map function cannot catch an error, a dataset of one element can, for 0.1 ms of a core an image.
    attempt = tf.data.Dataset.from_tensors(serialized).map(parse_and_decode)
    failure = tf.data.Dataset.from_tensors((False, tf.zeros(attempt.element_spec[1].shape), tf.constant(0, tf.int64)))
    outcome = attempt.ignore_errors(log_warning=True).concatenate(failure).take(1)
    decoded, image, label = outcome.get_single_element()
    problem = "holds no image that can be decoded; the log has the reason"
    with require(decoded, records, record_id, problem):
        label -= records.label_offset
    last = records.label_offset + records.num_classes - 1
    problem = f"has a label that is not from {records.label_offset} to {last}, as the manifest says"
    with require((label >= 0) & (label < records.num_classes), records, record_id, problem):
        return image, tf.cast(label, tf.int32)


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    # Workers share the stream batch by batch: shards dealt out to them would be another order.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
