"""The stream of batches: what is in it, that it can be resumed anywhere, and what it leaves to a task."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from host_rows import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import batches, encode, eval_batches, picture, record, train_batches, write_records

from tfvt.data.images import EvalPreprocessing, decode_and_center_crop
from tfvt.data.mixing import Mixing
from tfvt.data.order import HostShare, Order, Share
from tfvt.data.records import ENCODED, LABEL
from tfvt.data.stream import StreamSettings, eval_rows, eval_stream, steps_per_epoch, train_stream
from tfvt.errors import UsageError


def test_batches_have_their_form(records):
    (batch,) = batches(records, 1, batch_size=4, seed=0)
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "image": ("float32", (4, 8, 6, 3)),
        "label": ("int32", (4,)),
        "id": ("int64", (4,)),
    }
    spec = train_batches(records, batch_size=4, seed=0).element_spec
    assert spec["image"].shape == (4, 8, 6, 3), "a compiled step needs the batch's size"
    np.testing.assert_array_equal(batch["label"], batch["id"] % 3)


@settings(max_examples=3, deadline=None)
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
    samples = [order.samples(tf.constant(number, tf.int64), Share()) for number in range(2 * order.blocks_per_epoch)]
    found = batches(records, 10, batch_size=4, seed=4, block_size=6)
    assert [int(record_id) for batch in found for record_id in batch["id"]] == np.concatenate(
        [s[1] for s in samples]
    ).tolist()
    for batch in found:
        np.testing.assert_array_equal(batch["label"], batch["id"] % 3, "bytes and ids are permuted alike")


def test_steps_per_epoch(records):
    assert steps_per_epoch(records, 4) == 5
    with pytest.raises(UsageError, match=r"it is 24, and split 'train' .* has 23 images"):
        steps_per_epoch(records, 24)
    with pytest.raises(UsageError, match=r"it is 24, and split 'train' .* has 23 images"):
        train_batches(records, batch_size=24, seed=0)
    with pytest.raises(ValueError, match="seed"):
        train_batches(records, batch_size=4, seed=-1)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_evaluation_sees_every_record_once(records, batch_size):
    preprocessing = EvalPreprocessing((10, 10))
    found = list(eval_batches(records, (10, 10), batch_size=batch_size).as_numpy_iterator())
    assert len(found) == -(-23 // batch_size)
    assert {batch["image"].shape for batch in found} == {(batch_size, 10, 10, 3)}
    image, label, weight = (np.concatenate([batch[name] for batch in found]) for name in ("image", "label", "weight"))
    assert weight.tolist() == [1.0] * 23 + [0.0] * (len(weight) - 23)
    assert label.tolist() == [index % 3 for index in range(23)] + [0] * (len(weight) - 23)
    for index in range(23):
        np.testing.assert_array_equal(image[index], decode_and_center_crop(encode(picture(index)), preprocessing))


def test_labels_are_delivered_from_zero(tmp_path):
    records = write_records(tmp_path, (6,), label_offset=1)
    (batch,) = eval_batches(records, batch_size=6)
    assert batch["label"].numpy().tolist() == [0, 1, 2, 0, 1, 2]


@settings(max_examples=2, deadline=None)
@given(shard_counts=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(sum), data=st.data())
def test_hosts_together_see_the_one_stream(shard_counts, data):
    """Rows of each batch in training, successive parts of the split in evaluation; all have as many steps."""
    total = sum(shard_counts)
    hosts = data.draw(st.integers(1, min(3, total)), "hosts")
    batch_size = hosts * data.draw(st.integers(1, total // hosts), "rows")
    options = {"batch_size": batch_size, "seed": 3, "block_size": data.draw(st.integers(3, 30), "block_size")}
    options |= {"repeats": data.draw(st.integers(1, 3), "repeats"), "start_step": data.draw(st.integers(0, 9), "step")}
    with tempfile.TemporaryDirectory() as directory:
        records = write_records(directory, shard_counts)
        whole = batches(records, 4, **options)
        parts = [batches(records, 4, share=HostShare(hosts, host), **options) for host in range(hosts)]
        evaluated = [
            list(eval_batches(records, batch_size=batch_size, share=HostShare(hosts, host)).as_numpy_iterator())
            for host in range(hosts)
        ]
    for step, expected in enumerate(whole):
        for name in ("id", "label", "image"):
            for host, part in enumerate(parts):
                assert part[step][name].tobytes() == expected[name][rows_of(host, hosts, batch_size)].tobytes()
    assert {len(part) for part in evaluated} == {-(-total // batch_size)}
    assert {batch["image"].shape[0] for part in evaluated for batch in part} == {batch_size // hosts}
    rows = [(label, image[0, 0].tolist()) for part in evaluated for batch in part
            for label, image, weight in zip(*batch_columns(batch), strict=True) if weight]  # fmt: skip
    expected = [decode_and_center_crop(encode(picture(index)), EvalPreprocessing((8, 8))) for index in range(total)]
    assert rows == [(index % 3, image[0, 0].numpy().tolist()) for index, image in enumerate(expected)]


def batch_columns(batch):
    return batch["label"], batch["image"], batch["weight"]


def test_batches_must_divide_by_the_hosts(records):
    with pytest.raises(ValueError, match=r"batch_size \(5\) must divide by the number of hosts \(2\)"):
        train_batches(records, batch_size=5, seed=0, share=HostShare(2, 0))
    with pytest.raises(ValueError, match="the host's index must be from 0 to count - 1: 2 of 2"):
        HostShare(2, 2)


def test_repeated_records_differ_in_pixels_alone(tmp_path):
    """Six records a step of twelve; the copies of an image are crops of their own, as in the DeiT paper."""
    records = write_records(
        tmp_path, (6,), replaced={i: record(i, encoded=encode(picture(i, 40, 40))) for i in range(6)}
    )
    for batch in batches(records, 4, batch_size=6, seed=1, repeats=3):
        assert batch["id"].tolist() == np.repeat(batch["id"][::3], 3).tolist()
        assert len(set(batch["id"].tolist())) == 2
        assert len({image.tobytes() for image in batch["image"]}) == 6
    once = {int(b["id"][0]): b["image"].tobytes() for b in batches(records, 6, batch_size=1, seed=1)}
    first = batches(records, 6, batch_size=1, seed=1, repeats=2)[0]
    assert int(first["id"][0]) in once
    with pytest.raises(ValueError, match="repeats"):
        train_batches(records, batch_size=2, seed=0, repeats=0)


def test_mixed_batches_hold_the_mixture_of_images_and_targets(records):
    """MixUp alone: target and pixels give the same share, and the mixture is a function of seed and step."""
    mixing = Mixing(mixup_alpha=1.0)
    options = {"batch_size": 4, "seed": 3}
    plain = batches(records, 7, **options)
    mixed = batches(records, 7, mixing=mixing, **options)
    shares = []
    for before, batch in zip(plain, mixed, strict=True):
        assert batch["target"].dtype == np.float32
        for row in range(4):
            label, partner = before["label"][row], before["label"][3 - row]
            if label != partner:
                share = batch["target"][row, label]
                np.testing.assert_allclose(batch["target"][row, partner], 1 - share, atol=1e-6)
                expected = share * before["image"][row] + (1 - share) * before["image"][3 - row]
                np.testing.assert_allclose(batch["image"][row], expected, atol=1e-2)
                shares.append(float(share))
    assert len(set(shares)) > 5
    resumed = batches(records, 4, mixing=mixing, start_step=3, **options)
    for expected, batch in zip(mixed[3:], resumed, strict=True):
        assert all(batch[name].tobytes() == expected[name].tobytes() for name in ("image", "target", "id"))
    (unmixed,) = batches(records, 1, mixing=Mixing(), **options)
    assert "target" not in unmixed


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
    iterator = iter(train_batches(records, start_step=20, **options))
    assert [int(next(iterator)["id"][0]) for _ in range(3)] == [int(batch["id"][0]) for batch in whole[20:]]


def test_distributed_stream_is_the_same_stream(records):
    options = {"batch_size": 4, "seed": 0}
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    distributed = strategy.experimental_distribute_dataset(train_batches(records, **options))
    for expected, batch in zip(batches(records, 8, **options), distributed, strict=False):
        assert batch["image"].numpy().tobytes() == expected["image"].tobytes()


class MeanColours:
    """Samples of another task: the mean colour of a picture, black in place of a damaged one."""

    features = (ENCODED, LABEL)

    def decode(self, features, seed):
        mean = tf.reduce_mean(tf.cast(tf.io.decode_png(features[ENCODED], 3), tf.float32), axis=(0, 1))
        jitter = 0.0 if seed is None else tf.random.stateless_uniform((3,), seed)
        return {"colour": mean + jitter, "is_emu": tf.equal(features[LABEL], 2)}

    def blank(self):
        return {"colour": tf.zeros(3), "is_emu": tf.constant(False)}

    def faults(self, batch):
        return {"shows an emu": batch["is_emu"]}

    def finish(self, batch, seed, share):
        return {name: value for name, value in batch.items() if name != "is_emu"}


def test_samples_of_another_task_take_the_same_stream(tmp_path):
    """Order, resume, hosts, damage, faults and filling are the stream's; the rest is the task's."""
    no_emus = {index: record(index, label=0) for index in range(9)} | {4: record(4, encoded=b"no image")}
    records = write_records(tmp_path / "sound", (4, 5), replaced=no_emus)
    settings = StreamSettings(batch_size=4, seed=3, skip_damaged=True)
    means = [picture(index).mean(axis=(0, 1)) for index in range(9)]

    whole = list(train_stream(records, MeanColours(), settings).take(6).as_numpy_iterator())
    assert {name: value.shape for name, value in whole[0].items()} == {"colour": (4, 3), "id": (4,), "weight": (4,)}
    for batch in whole:
        assert batch["weight"].tolist() == (batch["id"] != 4).tolist()
        for row in np.flatnonzero(batch["weight"]):
            jitter = batch["colour"][row] - means[batch["id"][row]]
            assert 0 <= jitter.min() < jitter.max() < 1
    resumed = train_stream(records, MeanColours(), settings, HostShare(2, 1), start_step=3).take(3)
    for expected, batch in zip(whole[3:], resumed.as_numpy_iterator(), strict=True):
        assert all(batch[name].tobytes() == expected[name][1:3].tobytes() for name in batch)

    seen = list(eval_stream(records, MeanColours(), settings).as_numpy_iterator())
    means[4] = np.zeros(3)
    np.testing.assert_allclose(np.concatenate([batch["colour"] for batch in seen])[:9], means, rtol=1e-5)
    assert np.concatenate([batch["weight"] for batch in seen]).tolist() == [1.0] * 4 + [0.0] + [1.0] * 4 + [0.0] * 3
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record 2 of .* shows an emu"):
        list(eval_stream(write_records(tmp_path / "emus", (4, 5)), MeanColours(), StreamSettings(batch_size=4)))


@pytest.mark.parametrize(("hosts", "count"), [(1, 5), (2, 13), (3, 5)])
def test_rows_of_all_hosts_are_put_into_the_order_of_the_records(tmp_path, hosts, count):
    """As an engine gathers them: of each batch the rows of the first host, then those of the second."""
    records = write_records(tmp_path / "birds", (count - 2, 2))
    shares = [eval_batches(records, batch_size=6, share=HostShare(hosts, index)) for index in range(hosts)]
    gathered = [
        image
        for batch in zip(*(share.as_numpy_iterator() for share in shares), strict=True)
        for part in batch
        for image in part["image"]
    ]
    (whole,) = eval_batches(records, batch_size=count).as_numpy_iterator()
    np.testing.assert_array_equal(np.stack(gathered)[eval_rows(count, 6, hosts)], whole["image"])
    assert len(np.unique(whole["image"].reshape(count, -1), axis=0)) == count
