"""Records that segmentation cannot use are named, in training and in evaluation; and evaluation's stream of images."""

import io

import numpy as np
import pytest
import tensorflow as tf
from mask_records import pair, scene, write_masks
from PIL import Image
from record_files import encode, write_records

from tfvt.data.order import WHOLE, HostShare
from tfvt.data.records import VOID
from tfvt.data.segmentation import SegmentationEvaluation, SegmentationSamples, SegmentationTraining
from tfvt.data.stream import StreamSettings, image_stream, train_stream
from tfvt.errors import UsageError


def evaluated(records, share=WHOLE, **options):
    samples = SegmentationSamples.of(records, SegmentationEvaluation())
    return list(image_stream(records, samples, StreamSettings(batch_size=1, **options), share).as_numpy_iterator())


def trained(records, **options):
    """One epoch in batches of one."""
    samples = SegmentationSamples.of(records, SegmentationTraining((8, 6)))
    stream = train_stream(records, samples, StreamSettings(batch_size=1, **options))
    return list(stream.take(records.num_examples).as_numpy_iterator())


def palette_png(mask):
    image = Image.fromarray(mask, "P")
    image.putpalette(list(range(256)) * 3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def sixteen_bits(mask):
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


PIXELS, GOOD = scene(4)
RGB = np.stack([GOOD] * 3, -1)


NOT_GREY, OTHER_SIZE = "has a mask that is not a grey PNG of 8 bits", "has a mask of another size than its image"
WRONG_CLASS = "has a mask with a class that is not from 0 to 2, as the manifest says, nor 255 for none"


@pytest.mark.parametrize(
    ("mask", "problems"),
    [
        (GOOD, []),
        (np.full_like(GOOD, VOID), []),
        (b"no image", [NOT_GREY]),
        (RGB, [NOT_GREY]),
        (palette_png(GOOD), [NOT_GREY]),
        (encode(GOOD, "JPEG"), [NOT_GREY]),
        (sixteen_bits(GOOD), [NOT_GREY]),
        (GOOD[:-1], [OTHER_SIZE]),
        (GOOD.T, [OTHER_SIZE]),
        (np.pad(GOOD, 30), [OTHER_SIZE]),
        (np.where(GOOD == 2, 3, GOOD), [WRONG_CLASS]),
        (np.full_like(GOOD, 254), [WRONG_CLASS]),
    ],
)
@pytest.mark.parametrize("seed", [None, (0, 1)])
def test_what_is_wrong_with_a_mask_is_said(mask, problems, seed):
    """In evaluation, and in training, where a crop need not show it."""
    samples = SegmentationSamples(3, SegmentationTraining((2, 3)))
    encoded = [part if isinstance(part, bytes) else encode(part) for part in (PIXELS, mask)]
    sample = samples.decode(dict(zip(samples.features, encoded, strict=True)), seed)
    assert [text for text, wrong in samples.faults(sample).items() if wrong] == problems


@pytest.mark.parametrize(
    ("read", "mask", "problem"),
    [
        (trained, None, r"has no mask, as records of class folders have none: segmentation needs .*--layout"),
        (evaluated, b"", "has no mask"),
        (trained, GOOD[:-1], OTHER_SIZE),
        (evaluated, encode(GOOD)[:-30], "holds no image with a mask that can be decoded"),
    ],
)
def test_record_with_a_wrong_mask_is_named(tmp_path, read, mask, problem):
    records = write_masks(tmp_path, (3, 4), replaced={4: pair(PIXELS, mask)})
    named = rf"record 1 of .*train-00001-of-00002 {problem}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=named) as raised:
        read(records)
    assert f"`tfvt records verify {tmp_path}`" in str(raised.value)


def test_every_image_comes_once_at_its_own_size(tmp_path):
    """In the order of the records, bit for bit as they were stored."""
    scenes = {index: scene(index, 5 + index, 20 - index) for index in range(7)}
    records = write_masks(tmp_path, (3, 0, 4), scenes=scenes.get)
    found = evaluated(records)
    assert [int(batch["id"][0]) for batch in found] == list(range(7))
    for index, batch in enumerate(found):
        assert {name: value.dtype.name for name, value in batch.items()} == {
            "image": "uint8",
            "mask": "uint8",
            "weight": "float32",
            "id": "int64",
        }
        np.testing.assert_array_equal(batch["image"], scenes[index][0][None])
        np.testing.assert_array_equal(batch["mask"], scenes[index][1][None])
        assert batch["weight"].tolist() == [1.0]


@pytest.mark.parametrize("hosts", [3, 4])
def test_hosts_see_as_many_images_and_each_once(tmp_path, hosts):
    """Successive parts, in the order of the hosts; blank ones of weight 0 fill up."""
    records = write_masks(tmp_path, (3, 2))
    parts = [evaluated(records, HostShare(hosts, index)) for index in range(hosts)]
    assert {len(part) for part in parts} == {2}
    images = [batch for part in parts for batch in part]
    assert [int(batch["id"][0]) for batch in images if batch["weight"][0]] == list(range(5))
    for batch in images:
        if not batch["weight"][0]:
            assert batch["id"].tolist() == [-1]
            assert (batch["mask"] == VOID).all()
            assert batch["mask"].shape == batch["image"].shape[:3]


def test_damaged_records_are_skipped_on_request(tmp_path, capfd):
    broken = {1: pair(b"no image", GOOD), 3: pair(PIXELS, encode(GOOD)[:-30])}
    records = write_masks(tmp_path, (3, 2), replaced=broken)
    found = evaluated(records, skip_damaged=True)
    assert [int(batch["id"][0]) for batch in found] == list(range(5))
    assert [float(batch["weight"][0]) for batch in found] == [1, 0, 1, 0, 1]
    assert all((batch["mask"] == VOID).all() for batch in found if not batch["weight"][0])
    seen = {int(batch["id"][0]): batch for batch in trained(records, skip_damaged=True)}
    assert {index for index, batch in seen.items() if batch["weight"][0] == 0} == {1, 3}
    assert (seen[3]["mask"] == VOID).all()
    np.testing.assert_allclose(seen[3]["image"], np.broadcast_to((123.675, 116.28, 103.53), (1, 8, 6, 3)), rtol=1e-6)
    error = capfd.readouterr().err
    for number, shard in ((1, 0), (0, 1)):
        assert f"skipped: record {number} of {tmp_path}/train-0000{shard}-of-00002 holds no image with a mask" in error


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nothing to evaluate on: split 'train'"):
        evaluated(write_records(tmp_path, (0,)))
