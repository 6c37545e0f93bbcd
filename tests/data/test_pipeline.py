"""The stream of batches: what is in it, that it can be resumed anywhere, and what damaged records do to it."""

import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import encode, picture, record, write_records

from tfvt.data.images import EvalPreprocessing, TrainPreprocessing, decode_and_center_crop
from tfvt.data.order import Order
from tfvt.data.pipeline import eval_dataset, steps_per_epoch, train_dataset
from tfvt.data.records import RecordsError

SMALL = TrainPreprocessing((8, 6))


def batches(records, count, **options):
    return list(train_dataset(records, SMALL, **options).take(count).as_numpy_iterator())


def test_batches_have_their_form(records):
    (batch,) = batches(records, 1, batch_size=4, seed=0)
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "image": ("float32", (4, 8, 6, 3)),
        "label": ("int32", (4,)),
        "id": ("int64", (4,)),
    }
    spec = train_dataset(records, SMALL, batch_size=4, seed=0).element_spec
    assert spec["image"].shape == (4, 8, 6, 3), "a compiled step needs the batch's size"
    np.testing.assert_array_equal(batch["label"], batch["id"] % 3)


@settings(max_examples=5, deadline=None)
@given(
    shard_counts=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(sum),
    block_size=st.integers(1, 30),
    data=st.data(),
)
def test_images_are_those_of_the_uninterrupted_stream(shard_counts, block_size, data):
    """Bit for bit the uninterrupted stream; and each epoch holds as many records as fit batches, each once."""
    total = sum(shard_counts)
    batch_size = data.draw(st.integers(1, total), "batch_size")
    steps = total // batch_size
    start_step = data.draw(st.integers(0, 3 * steps), "start_step")
    with tempfile.TemporaryDirectory() as directory:
        records = write_records(directory, shard_counts)
        options = {"batch_size": batch_size, "seed": 3, "block_size": block_size}
        whole = batches(records, 3 * steps + 2, **options)
        resumed = batches(records, len(whole) - start_step, start_step=start_step, **options)
    for expected, batch in zip(whole[start_step:], resumed, strict=True):
        for name in ("id", "label", "image"):
            assert batch[name].tobytes() == expected[name].tobytes()
    for epoch in range(3):
        ids = np.concatenate([batch["id"] for batch in whole[epoch * steps : (epoch + 1) * steps]])
        assert len(set(ids.tolist())) == steps * batch_size
        assert set(ids.tolist()) <= set(range(total))


def test_augmentation_depends_on_epoch_and_record_not_on_the_order(tmp_path):
    def images(shard_counts, **options):
        records = write_records(tmp_path / str(len(shard_counts)), shard_counts)
        stream = batches(records, 12, batch_size=1, **options)
        return {(step // 6, int(batch["id"][0])): batch["image"].tobytes() for step, batch in enumerate(stream)}

    whole, cut = images((6,), seed=1), images((2, 3, 1), seed=1, block_size=2)
    assert whole == cut
    assert list(whole) != list(cut)
    assert len(set(whole.values())) == 12, "the second epoch crops other parts than the first"
    assert images((6,), seed=2) != whole


def test_equal_images_are_augmented_unequally(tmp_path):
    """In one epoch too: the crop is the record's own."""
    same = {index: record(index, encoded=encode(picture(0, 40, 40))) for index in range(6)}
    stream = batches(write_records(tmp_path, (6,), replaced=same), 12, batch_size=1, seed=1)
    assert len({batch["image"].tobytes() for batch in stream}) == 12


def test_batches_hold_the_records_that_the_order_says(records):
    order = Order(records.shard_counts, seed=4, batch_size=4, block_size=6)
    first_ids = np.cumsum((0, *records.shard_counts))
    expected = []
    for number in range(2 * order.blocks_per_epoch):
        _, block = order.training_block(number, 0)
        parts = zip(first_ids[block.shards] + block.starts, block.counts, strict=True)
        read = sorted(record_id for first, count in parts for record_id in range(first, first + count))
        expected += [read[place] for place in block.permutation]
    found = batches(records, 10, batch_size=4, seed=4, block_size=6)
    assert [int(record_id) for batch in found for record_id in batch["id"]] == expected
    for batch in found:
        np.testing.assert_array_equal(batch["label"], batch["id"] % 3, "bytes and ids are permuted alike")


def test_steps_per_epoch(records):
    assert steps_per_epoch(records, 4) == 5
    with pytest.raises(RecordsError, match=r"it is 24, and split 'train' .* has 23 images"):
        steps_per_epoch(records, 24)
    with pytest.raises(RecordsError, match=r"it is 24, and split 'train' .* has 23 images"):
        train_dataset(records, SMALL, batch_size=24, seed=0)
    with pytest.raises(ValueError, match="seed"):
        train_dataset(records, SMALL, batch_size=4, seed=-1)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_evaluation_sees_every_record_once(records, batch_size):
    preprocessing = EvalPreprocessing((10, 10))
    found = list(eval_dataset(records, preprocessing, batch_size=batch_size).as_numpy_iterator())
    assert len(found) == -(-23 // batch_size)
    assert {batch["image"].shape for batch in found} == {(batch_size, 10, 10, 3)}
    image, label, weight = (np.concatenate([batch[name] for batch in found]) for name in ("image", "label", "weight"))
    assert weight.tolist() == [1.0] * 23 + [0.0] * (len(weight) - 23)
    assert label.tolist() == [index % 3 for index in range(23)] + [0] * (len(weight) - 23)
    for index in range(23):
        np.testing.assert_array_equal(image[index], decode_and_center_crop(encode(picture(index)), preprocessing))


def test_labels_are_delivered_from_zero(tmp_path):
    records = write_records(tmp_path, (6,), label_offset=1)
    (batch,) = eval_dataset(records, EvalPreprocessing((8, 8)), batch_size=6)
    assert batch["label"].numpy().tolist() == [0, 1, 2, 0, 1, 2]


def both(records):
    """A function for each kind of dataset, which reads all of it."""
    yield lambda: list(train_dataset(records, SMALL, batch_size=1, seed=0).take(records.num_examples))
    yield lambda: list(eval_dataset(records, EvalPreprocessing((8, 8)), batch_size=1))


def assert_named(records, message):
    for read in both(records):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message) as raised:
            read()
        assert "tfvt records inspect" in str(raised.value)


@pytest.mark.parametrize(("label_offset", "label"), [(0, -1), (0, 3), (1, 0), (1, 4)])
def test_label_out_of_range_is_named(tmp_path, label_offset, label):
    bad = record(5, label=label)
    records = write_records(tmp_path, (3, 4), label_offset=label_offset, replaced={5: bad})
    last = label_offset + 2
    assert_named(records, rf"record 2 of .*train-00001-of-00002 has a label .* not from {label_offset} to {last}")


@pytest.mark.parametrize("encoded", [b"no image", encode(picture(0, 90, 90), "JPEG")[:900]])
def test_image_that_does_not_decode_is_named(tmp_path, encoded):
    records = write_records(tmp_path, (3, 4), replaced={4: record(4, encoded=encoded)})
    assert_named(records, r"record 1 of .*train-00001-of-00002 holds no image that can be decoded")


def test_record_of_another_schema_is_named(tmp_path):
    records = write_records(tmp_path, (3,), replaced={2: tf.train.Example().SerializeToString() or b"\n\x00"})
    assert_named(records, r"record 2 of .*train-00000-of-00001 holds no image")


def test_damaged_bytes_are_named(records):
    """One byte of the fourth record of the third shard: its checksum is wrong."""
    path = Path(records.shard_paths[2])
    content = bytearray(path.read_bytes())
    lengths = [len(record(index)) + 16 for index in range(7, 18)]  # framing: 12 bytes before, 4 behind
    content[sum(lengths[:3]) + 100] ^= 1
    path.write_bytes(content)
    assert_named(records, r"record 3 of .*train-00002-of-00004 or one before it is damaged or cut off")


def test_shard_cut_off_after_it_was_opened_is_named(records):
    path = Path(records.shard_paths[2])
    path.write_bytes(path.read_bytes()[: (len(record(7)) + 16) * 2 - 3])
    assert_named(records, r"record 1 of .*train-00002-of-00004 or one before it is damaged or cut off")


def test_shard_that_vanishes_after_it_was_opened_is_named(records):
    Path(records.shard_paths[2]).unlink()
    for read in both(records):
        with pytest.raises(tf.errors.OpError, match=r"train-00002-of-00004; No such file"):
            read()


def test_damage_in_a_skipped_part_is_named(tmp_path):
    """A block that begins behind the damage."""
    records = write_records(tmp_path, (9,))
    Path(records.shard_paths[0]).write_bytes(Path(records.shard_paths[0]).read_bytes()[:40])
    dataset = train_dataset(records, SMALL, batch_size=1, seed=0, block_size=3, start_step=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record 3 of .* or one before it is damaged"):
        next(iter(dataset))


def test_resume_opens_no_shard_that_lies_before_it(records):
    """Shards that the rest of the epoch does not need may be gone; reading them would be an error."""
    options = {"batch_size": 1, "seed": 0, "block_size": 2}
    whole = batches(records, 23, **options)
    last_two = {int(batch["id"][0]) for batch in whole[20:]}
    first_ids = list(itertools.accumulate((0, *records.shard_counts)))
    needed = {
        index
        for index in range(4)
        if any(first_ids[index] <= record_id < first_ids[index + 1] for record_id in last_two)
    }
    assert needed < {0, 2, 3}, "the test needs an order whose end does not touch every shard"
    for index in {0, 2, 3} - needed:
        Path(records.shard_paths[index]).unlink()
    iterator = iter(train_dataset(records, SMALL, start_step=20, **options))
    assert [int(next(iterator)["id"][0]) for _ in range(3)] == [int(batch["id"][0]) for batch in whole[20:]]


def test_distributed_stream_is_the_same_stream(records):
    options = {"batch_size": 4, "seed": 0}
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    distributed = strategy.experimental_distribute_dataset(train_dataset(records, SMALL, **options))
    for expected, batch in zip(batches(records, 8, **options), distributed, strict=False):
        assert batch["image"].numpy().tobytes() == expected["image"].tobytes()


def test_other_class_list_is_not_taken_for_shifted_labels(records):
    fewer = dataclasses.replace(records, class_names=("cat", "dog"))
    assert_named(fewer, r"record 2 of .*train-00000-of-00004 has a label|record \d+ of .* has a label")
