"""What damaged records and wrong labels do to the stream: they are named, or skipped on request."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import batches, encode, eval_batches, picture, record, train_batches, write_records

from tfvt.data.mixing import Mixing


def damage(records, shard, changes):
    """Flip bytes of a shard file: (place, bits)."""
    path = Path(records.shard_paths[shard])
    content = bytearray(path.read_bytes())
    for place, bits in changes:
        content[place % len(content)] ^= bits
    path.write_bytes(content)


@settings(max_examples=3, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3),
    undecodable=st.sets(st.integers(0, 6), max_size=2),
)
def test_damaged_records_are_named_or_skipped_never_lost(changes, undecodable):
    """Any damage: strict reading names a record of the shard; skipping delivers each sound record unchanged."""
    with tempfile.TemporaryDirectory() as directory:
        replaced = {index: record(index, encoded=b"no image") for index in undecodable}
        records = write_records(directory, (4, 3), replaced=replaced)
        options = {"batch_size": 1, "seed": 0, "block_size": 5}
        sound = [record(index) for index in range(7)]
        damage(records, 0, changes)
        readable = {index for index in range(7) if alone(records, index) == sound[index]}
        stream = batches(records, 7, skip_damaged=True, **options)
        seen = list(eval_batches(records, batch_size=4, skip_damaged=True).as_numpy_iterator())
        clean = batches(write_records(Path(directory) / "clean", (4, 3)), 7, **options)
        if len(readable) < 7:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"record \d of .*train-0000\d-of-00002"):
                batches(records, 7, **options)
    assert [int(batch["id"][0]) for batch in stream] == [int(batch["id"][0]) for batch in clean]
    assert {int(batch["id"][0]) for batch in stream if batch["weight"][0]} == readable
    for expected, batch in zip(clean, stream, strict=True):
        image, label = (expected["image"], expected["label"]) if batch["weight"][0] else (0, 0)
        assert (batch["image"] == image).all()
        assert (batch["label"] == label).all()
    weights = np.concatenate([batch["weight"] for batch in seen])
    assert weights.tolist() == [float(index in readable) for index in range(7)] + [0.0]


def alone(records, index):
    """The bytes of a record, read past whatever is before it; None where they cannot be read."""
    shard, place = (0, index) if index < 4 else (1, index - 4)
    try:
        return next(iter(tf.data.TFRecordDataset(records.shard_paths[shard]).skip(place).as_numpy_iterator()), None)
    except tf.errors.DataLossError:
        return None


def test_skipped_records_are_named(records, capfd):
    damage(records, 2, [(2 * (len(record(7)) + 16) + 100, 1)])
    (batch,) = batches(records, 1, batch_size=23, seed=0, skip_damaged=True)
    assert batch["weight"].sum() == 22
    assert batch["weight"][batch["id"] == 9] == 0
    assert "skipped: record 2 of " + records.shard_paths[2] + " is damaged or cut off" in capfd.readouterr().err


def test_images_are_not_mixed_with_skipped_ones(tmp_path):
    """The partner of a damaged image is mixed with a sound one, so that its target stays true."""
    white = encode(np.full((12, 10, 3), 200))
    replaced = {index: record(index, encoded=white) for index in range(6)} | {2: record(2, encoded=b"no image")}
    records = write_records(tmp_path, (6,), replaced=replaced)
    options = {"batch_size": 6, "seed": 0, "skip_damaged": True, "mixing": Mixing(mixup_alpha=1.0)}
    for batch in batches(records, 3, **options):
        np.testing.assert_allclose(batch["image"], 200.0, rtol=1e-5)
        np.testing.assert_allclose(batch["target"].sum(axis=1), 1.0, rtol=1e-5)
        assert batch["weight"].tolist() == (batch["id"] != 2).tolist()


def both(records):
    """A function for each kind of dataset, which reads all of it."""
    yield lambda: list(train_batches(records, batch_size=1, seed=0).take(records.num_examples))
    yield lambda: list(eval_batches(records, batch_size=1))


def assert_named(records, message):
    for read in both(records):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message) as raised:
            read()
        assert "tfvt records verify" in str(raised.value)


@pytest.mark.parametrize(("label_offset", "label"), [(0, -2), (0, 3), (1, 0), (1, 4)])
def test_label_out_of_range_is_named(tmp_path, label_offset, label):
    bad = record(5, label=label)
    records = write_records(tmp_path, (3, 4), label_offset=label_offset, replaced={5: bad})
    last = label_offset + 2
    assert_named(records, rf"record 2 of .*train-00001-of-00002 has a label .* not from {label_offset} to {last}")


@pytest.mark.parametrize("label_offset", [0, 1])
def test_set_without_classes_is_named(tmp_path, label_offset):
    """As images with masks have it."""
    records = write_records(tmp_path, (3,), label_offset=label_offset, replaced={1: record(1, label=-1)})
    assert_named(
        records, r"record 1 of .*00000-of-00001 has no class \(label -1\), as images with masks and test images"
    )


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
    lengths = [len(record(index)) + 16 for index in range(7, 18)]  # framing: 12 bytes before, 4 after
    content[sum(lengths[:3]) + 100] ^= 1
    path.write_bytes(content)
    assert_named(records, r"record 3 of .*train-00002-of-00004 is damaged or cut off")


def test_shard_cut_off_after_it_was_opened_is_named(records):
    path = Path(records.shard_paths[2])
    path.write_bytes(path.read_bytes()[: (len(record(7)) + 16) * 2 - 3])
    assert_named(records, r"record 1 of .*train-00002-of-00004 is damaged or cut off")


def test_shard_that_vanishes_after_it_was_opened_is_named(records):
    Path(records.shard_paths[2]).unlink()
    for read in both(records):
        with pytest.raises(tf.errors.OpError, match=r"train-00002-of-00004; No such file"):
            read()


def test_damage_in_a_skipped_part_is_named(tmp_path):
    """A block that begins after the damage."""
    records = write_records(tmp_path, (9,))
    Path(records.shard_paths[0]).write_bytes(Path(records.shard_paths[0]).read_bytes()[:40])
    dataset = train_batches(records, batch_size=1, seed=0, block_size=3, start_step=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record 0 of .* is damaged or cut off"):
        next(iter(dataset))


def test_other_class_list_is_not_taken_for_shifted_labels(records):
    fewer = dataclasses.replace(records, class_names=("cat", "dog"))
    assert_named(fewer, r"record 2 of .*train-00000-of-00004 has a label|record \d+ of .* has a label")
