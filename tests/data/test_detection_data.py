"""Image, boxes and masks of a training sample: resized, cropped and mirrored together."""

import numpy as np
import pytest
import tensorflow as tf
from box_records import box_record, decoded, objects_of, one_bit, write_boxes
from host_rows import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import encode, picture

from tfvt.data.detection import DetectionEvaluation, DetectionSamples, DetectionTraining, fitted_size
from tfvt.data.detections import Detections
from tfvt.data.order import WHOLE, HostShare
from tfvt.data.records import BOX_CROWD
from tfvt.data.stream import StreamSettings, image_stream, train_stream

COLORS = np.array([(230, 20, 20), (20, 230, 20), (20, 20, 230)])
TWO_WAYS = {"crop_short_sides": (70, 90, 110), "crop_range": (60, 100), "short_sides": (80, 96, 120)}


def mmcv_size(size, short, long):
    """mmcv.rescale_size with keep_ratio."""
    factor = min(long / max(size), short / min(size))
    return tuple(int(side * float(factor) + 0.5) for side in size)


def scene(height, width, seed):
    """An image of three coloured ellipses, which do not overlap, with their boxes and masks."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((height, width)) + 0.5
    pixels, boxes, masks = np.full((height, width, 3), 20, np.uint8), [], []
    for label in range(3):
        left, right = width * label / 3, width * (label + 1) / 3
        x1, x2 = (int(v) for v in (random.uniform(left, left + 8), random.uniform(right - 8, right)))
        y1, y2 = int(random.uniform(0, height / 2 - 12)), int(random.uniform(height / 2 + 12, height))
        across = ((rows - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 + ((columns - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2
        masks.append(across <= 1)
        pixels[masks[-1]] = COLORS[label]
        boxes.append((y1, x1, y2, x2))
    return pixels, boxes, masks


def seen(image, label):
    """The pixels of a colour, bool (h, w)."""
    return (image[..., label] > 125) & (image.argmax(-1) == label)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_boxes_and_masks_fit_the_pixels_after_every_augmentation(kind):
    """The ellipses are found again in the pixels, and compared with boxes and masks within a pixel."""
    pixels, boxes, masks = scene(120, 170, 1)
    encoded = encode(pixels, kind, **({"quality": 100, "subsampling": "4:4:4"} if kind == "JPEG" else {}))
    record = box_record(encoded, objects_of(pixels.shape[:2], boxes, masks=list(map(one_bit, masks))))
    samples = decoded(
        record, range(24), masks=True, image_size=(160, 176), max_long_side=170, flip=True, max_boxes=5, **TWO_WAYS
    )
    cut, mirrored = 0, set()
    for sample in samples:
        height, width = sample["size"]
        image, count = sample["image"][:height, :width], (sample["labels"] >= 0).sum()
        np.testing.assert_allclose(
            sample["image"][height:], np.broadcast_to((123.675, 116.28, 103.53), (160 - height, 176, 3))
        )
        assert sorted(sample["labels"][:count]) == sample["labels"][:count].tolist(), "in order"
        for label in range(3):
            rows, columns = np.nonzero(seen(image, label))
            if label not in sample["labels"][:count]:
                assert len(rows) < 20, "a dropped box has nothing to show"
                continue
            place = sample["labels"].tolist().index(label)
            y1, x1, y2, x2 = sample["boxes"][place]
            full = sample["masks"][place].all(1).any() or y1 <= 0 or x1 <= 0 or y2 >= height or x2 >= width
            if not full:
                found = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
                np.testing.assert_allclose((y1, x1, y2, x2), found, atol=1.01)
            else:
                cut += 1
            compare_mask(sample["masks"][place], sample["boxes"][place], image, label)
        order = [seen(image, label).any(0).nonzero()[0].mean() for label in sample["labels"][:count]]
        if count > 1:
            mirrored.add(order[0] > order[1])
    assert mirrored == {False, True}
    assert cut > 3, "crops cut some"


def compare_mask(mask, box, image, label):
    """Each pixel whose middle lies in the box, against its colour; those at the ellipse's edge may differ."""
    y1, x1, y2, x2 = box
    rows, columns = np.arange(np.ceil(y1 - 0.5), y2 - 0.5), np.arange(np.ceil(x1 - 0.5), x2 - 0.5)
    rows, columns = rows[rows < y2 - 0.5], columns[columns < x2 - 0.5]
    i = np.clip(((rows + 0.5 - y1) / (y2 - y1) * 112).astype(int), 0, 111)
    j = np.clip(((columns + 0.5 - x1) / (x2 - x1) * 112).astype(int), 0, 111)
    expected = seen(image, label)[np.ix_(rows.astype(int), columns.astype(int))]
    wrong = mask[np.ix_(i, j)].astype(bool) != expected
    assert wrong.sum() <= 0.6 * (expected.shape[0] + expected.shape[1]) + 4


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)), short=st.integers(1, 1333), long=st.integers(1333, 2000)
)
def test_sizes_are_those_of_mmcv(size, short, long):
    expected = tuple(max(side, 1) for side in mmcv_size(size, short, long))
    assert tuple(fitted_size(tf.constant(size), short, long).numpy()) == expected


def test_the_second_way_is_that_of_mmdetection():
    """Where a crop begins and ends, told by pixels that hold their coordinates, agrees with mmdetection's formulas."""
    height, width = 120, 170
    rows, columns = np.indices((height, width))
    pixels = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    record = box_record(pixels, objects_of((height, width), [(0, 0, height, width)]))
    samples = decoded(record, range(60), image_size=(256, 256), max_long_side=200, **TWO_WAYS)
    whole_sizes = {mmcv_size((height, width), short, 200) for short in TWO_WAYS["short_sides"]}
    firsts = {mmcv_size((height, width), short, 200) for short in TWO_WAYS["crop_short_sides"]}
    ways, found_firsts = [], set()
    for sample in samples:
        h, w = (int(side) for side in sample["size"])
        image = sample["image"][:h, :w]
        np.testing.assert_allclose(sample["boxes"][0], (0, 0, h, w), atol=1e-3)
        # Two pixels away from the border, pixels are linear in their place.
        per_pixel = np.array(
            [(image[-6, 5, 0] - image[5, 5, 0]) / (h - 11), (image[5, -6, 1] - image[5, 5, 1]) / (w - 11)]
        )
        begin = np.array([image[5, 5, 0], image[5, 5, 1]]) + 0.5 - 5.5 * per_pixel
        if (h, w) in whole_sizes and np.allclose(per_pixel * (h, w), (height, width), atol=0.3):
            ways.append(0)
            continue
        ways.append(1)
        matches = []
        for first in firsts:
            part = per_pixel * (h, w) * first / np.array([height, width])  # of the image resized first
            corner = begin * first / np.array([height, width])
            if np.abs(part - np.round(part)).max() < 0.1 and np.abs(corner - np.round(corner)).max() < 0.1:
                part, corner = (tuple(np.round(v).astype(int).tolist()) for v in (part, corner))
                in_range = all(
                    min(f, 60) <= p <= min(f, 100) and 0 <= c <= f - p
                    for p, c, f in zip(part, corner, first, strict=True)
                )
                if in_range and (h, w) in {mmcv_size(part, short, 200) for short in TWO_WAYS["short_sides"]}:
                    matches.append(first)
        assert matches
        found_firsts |= set(matches)
    assert 15 <= sum(ways) <= 45
    assert found_firsts == firsts


def grid(count, size=(100, 100)):
    """Lists of `count` small boxes beside one another, of classes in turn."""
    places = np.stack(np.unravel_index(np.arange(count), (40, 40)), -1) * 2.5
    return objects_of(size, np.concatenate([places, places + 2], 1), [index % 3 for index in range(count)])


def test_a_thousand_boxes_fill_the_slots_at_random():
    record = box_record(picture(0, 100, 100), grid(1000))
    first, second, again = decoded(record, [1, 2, 1], image_size=(100, 100), max_boxes=30)
    for sample in (first, second):
        rows = (sample["boxes"][:, 0] / 2.5 * 40 + sample["boxes"][:, 1] / 2.5).round().astype(int)
        assert len(set(rows.tolist())) == 30
        assert (np.diff(rows) > 0).all(), "in the record's order"
        assert rows.min() < 200, "of all of them"
        assert rows.max() > 800
        np.testing.assert_array_equal(sample["labels"], rows % 3)
    assert first["boxes"].tobytes() == again["boxes"].tobytes() != second["boxes"].tobytes()
    assert first["seed"].tolist() == again["seed"].tolist() != second["seed"].tolist()


def test_crowds_keep_their_slots():
    """Without them, what they hold would be background."""
    lists = grid(1000) | {BOX_CROWD: [int(index in (400, 900)) for index in range(1000)]}
    for sample in decoded(box_record(picture(0, 100, 100), lists), range(5), image_size=(100, 100), max_boxes=30):
        assert sample["crowd"].sum() == 2
        rows = (sample["boxes"][:, 0] / 2.5 * 40 + sample["boxes"][:, 1] / 2.5).round().astype(int)
        assert rows[sample["crowd"]].tolist() == [400, 900]


def test_slots_that_are_left_are_padding_and_crowds_are_told():
    lists = objects_of((12, 10), [(1, 2, 3, 4), (0, 0, 12, 10)], [2, 1], crowd=[0, 1])
    (sample,) = decoded(box_record(picture(0), lists), image_size=(24, 20), max_boxes=4)
    np.testing.assert_allclose(sample["boxes"], [(2, 4, 6, 8), (0, 0, 24, 20), (0,) * 4, (0,) * 4], atol=1e-4)
    assert sample["labels"].tolist() == [2, 1, -1, -1]
    assert sample["crowd"].tolist() == [False, True, False, False]
    assert sample["size"].tolist() == [24, 20]


def test_masks_of_many_boxes_take_little_memory():
    """A hundred objects of a sample of 1344 x 1344 pixels: with masks of its size they would take 180 MB."""
    samples = DetectionSamples(3, 0, DetectionTraining(), masks=True)
    blank = samples.blank()
    assert blank["masks"].shape == (100, 112, 112)
    assert blank["masks"].dtype == tf.uint8


def detection_batches(records, count, share=WHOLE, start_step=0, masks=False, **options):
    augmentation = DetectionTraining((40, 40), (24, 32), 40, (20, 30), (12, 20), max_boxes=4)
    samples = DetectionSamples.of(records, augmentation, masks)
    stream = train_stream(records, samples, StreamSettings(seed=3, **options), share, start_step)
    return list(stream.take(count).as_numpy_iterator())


def small_records(count, empty=()):
    """Serialized records of 12 x 10 pixels with two boxes each, or without any, and with masks."""
    found = []
    for index in range(count):
        boxes = [] if index in empty else [(1, 2, 9, 7), (3, 0, 12, 4 + index % 5)]
        masks = [one_bit(picture(index + 10 * place)[..., 0] > 99) for place in range(len(boxes))]
        lists = objects_of((12, 10), boxes, [index % 3, 1][: len(boxes)], masks=masks)
        found.append(box_record(picture(index), lists, source_id=str(100 + index)))
    return found


def test_stream_resumes_and_is_shared_between_hosts(tmp_path):
    """Bit for bit the batches of the uninterrupted run on one host."""
    records = write_boxes(tmp_path, (7, 0, 4), small_records(11, empty=(2,)))
    whole = detection_batches(records, 6, batch_size=4, masks=True)
    assert {name: (value.dtype.name, value.shape) for name, value in whole[0].items()} == {
        "image": ("float32", (4, 40, 40, 3)),
        "size": ("int32", (4, 2)),
        "boxes": ("float32", (4, 4, 4)),
        "labels": ("int32", (4, 4)),
        "crowd": ("bool", (4, 4)),
        "seed": ("int32", (4, 2)),
        "is_empty": ("bool", (4,)),
        "masks": ("uint8", (4, 4, 112, 112)),
        "id": ("int64", (4,)),
    }
    resumed = detection_batches(records, 3, batch_size=4, start_step=3, masks=True)
    hosts = [detection_batches(records, 6, share=HostShare(2, index), batch_size=4, masks=True) for index in range(2)]
    for name in whole[0]:
        for expected, batch in zip(whole[3:], resumed, strict=True):
            assert batch[name].tobytes() == expected[name].tobytes()
        for step, expected in enumerate(whole):
            for index, host in enumerate(hosts):
                assert host[step][name].tobytes() == expected[name][rows_of(index, 2, 4)].tobytes()
    assert len({image.tobytes() for batch in whole for image in batch["image"]}) > 12
    assert len({tuple(seed) for batch in whole for seed in batch["seed"].tolist()}) == 24
    empty = {int(i): bool(e) for batch in whole for i, e in zip(batch["id"], batch["is_empty"], strict=True)}
    assert empty == {index: index == 2 for index in range(11)}


def test_evaluation_gives_whole_images_with_all_their_objects(tmp_path):
    """In the order of the records, at their own sizes; areas as they are stored, or else those of the boxes."""
    pixels, mask = picture(5, 20, 31), picture(6, 20, 31)[..., 0] > 128
    many = grid(130, size=(100, 100))
    first = objects_of(
        (20, 31), [(2, 3, 19.5, 30), (0, 0, 20, 31)], [2, 0], crowd=[0, 1], area=[7.5, 8], masks=[one_bit(mask)] * 2
    )
    records = [
        box_record(pixels, first, source_id="000042"),
        box_record(picture(7, 100, 100), many),
        box_record(picture(8), {}),
    ]
    found = write_boxes(tmp_path / "a", (2, 1), records)
    samples = DetectionSamples.of(found, DetectionEvaluation())
    first, second, third = image_stream(found, samples, StreamSettings(batch_size=1)).as_numpy_iterator()
    assert {name: value.dtype.name for name, value in first.items()} == {
        "image": "uint8", "boxes": "float32", "labels": "int32", "crowd": "bool", "area": "float32",
        "source_id": "object", "weight": "float32", "id": "int64",
    }  # fmt: skip
    np.testing.assert_array_equal(first["image"][0], pixels)
    np.testing.assert_allclose(first["boxes"][0], [(2, 3, 19.5, 30), (0, 0, 20, 31)], atol=1e-5)
    assert (first["labels"].tolist(), first["crowd"].tolist(), first["area"].tolist()) == (
        [[2, 0]],
        [[False, True]],
        [[7.5, 8]],
    )
    assert first["source_id"].tolist() == [b"000042"]
    assert second["boxes"].shape == (1, 130, 4)
    np.testing.assert_allclose(second["area"], 4, rtol=1e-4)
    assert (third["boxes"].shape, third["labels"].shape, third["weight"].tolist()) == ((1, 0, 4), (1, 0), [1.0])
    with_masks = DetectionSamples.of(found, DetectionEvaluation(), masks=True)
    batch = next(image_stream(found, with_masks, StreamSettings(batch_size=1)).as_numpy_iterator())
    assert batch["masks"].tolist() == [[one_bit(mask)] * 2]


def test_training_shows_an_image_as_evaluation_does():
    """Bit for bit, where nothing is random."""
    pixels = picture(2, 75, 110)
    (sample,) = decoded(box_record(pixels, {}), image_size=(64, 96), short_sides=(60,), max_long_side=90, max_boxes=1)
    image, size = Detections(None, DetectionEvaluation(60, 90)).shown(pixels)
    assert sample["size"].tolist() == size.numpy().tolist() == [60, 88]
    np.testing.assert_array_equal(sample["image"][:60, :88], image[:60, :88])
