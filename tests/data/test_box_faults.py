"""Records that detection cannot use are named, in training and in evaluation."""

import numpy as np
import pytest
import tensorflow as tf
from box_records import box_record, objects_of, one_bit, write_boxes
from record_files import encode, picture, record

from tfvt.data.detection import DetectionEvaluation, DetectionSamples, DetectionTraining
from tfvt.data.order import WHOLE
from tfvt.data.records import BOX_CROWD, BOX_LABEL, BOX_MASK, BOX_YMAX, feature_spec
from tfvt.data.stream import StreamSettings, image_stream, train_stream

SIZE, PIXELS = (12, 10), picture(3)
MASK = one_bit(PIXELS[..., 0] > 128)
SMALL = DetectionTraining((24, 24), (20,), 24, max_boxes=3)

OUTSIDE, NO_AREA = "has a box that reaches out of its image", "has a box without area"
INVERTED = "has a box whose end comes before its begin"
WRONG_CLASS = "has a box of a class that is not from 0 to 2, as the manifest says"
UNEQUAL = "has not as many corners, classes and masks as it has boxes"
WRONG_AREA = "has an object whose area is not a number from 0"
NO_MASKS = "has no masks of its objects"
NOT_GREY, OTHER_SIZE = (
    "has an object's mask that is not a grey PNG",
    "has an object's mask of another size than its image",
)
OTHER_KIND = "is of an image with a class or a mask, not of one with boxes"


def lists(*boxes, labels=None, **more):
    return objects_of(SIZE, boxes, labels, **({"masks": [MASK] * len(boxes)} | more))


GOOD = (1, 2, 9, 8)
CASES = {
    "sound": (lists(GOOD), None),
    "none": ({}, None),
    "to the border": (lists((0, 0, 12.00001, 10)), None),
    "outside": (lists(GOOD, (1, 2, 12.1, 8)), OUTSIDE),
    "before": (lists((-0.1, 2, 9, 8)), OUTSIDE),
    "no number": (lists((float("nan"), 2, 9, 8)), OUTSIDE),
    "inverted": (lists((9, 2, 1, 8)), INVERTED),
    "no area": (lists((1, 2, 9, 2)), NO_AREA),
    "class above": (lists(GOOD, labels=[3]), WRONG_CLASS),
    "class below": (lists(GOOD, labels=[-1]), WRONG_CLASS),
    "class of more than 32 bits": (lists(GOOD, labels=[2**32 + 1]), WRONG_CLASS),
    "area of no number": (lists(GOOD, area=[float("nan")]), WRONG_AREA),
    "endless area": (lists(GOOD, area=[float("inf")]), WRONG_AREA),
    "negative area": (lists(GOOD, GOOD, area=[1.0, -1.0]), WRONG_AREA),
    "a corner too few": (lists(GOOD, GOOD) | {BOX_YMAX: [0.9]}, UNEQUAL),
    "no labels": (lists(GOOD) | {BOX_LABEL: []}, UNEQUAL),
    "crowds": (lists(GOOD, GOOD) | {BOX_CROWD: [1]}, UNEQUAL),
    "no masks": (lists(GOOD) | {BOX_MASK: []}, NO_MASKS),
    "a mask too many": (lists(GOOD) | {BOX_MASK: [MASK] * 2}, UNEQUAL),
    "coloured mask": (lists(GOOD, masks=[encode(PIXELS)]), NOT_GREY),
    "no PNG": (lists(GOOD, masks=[b"no image"]), NOT_GREY),
    "JPEG": (lists(GOOD, masks=[encode(PIXELS[..., 0], "JPEG")]), NOT_GREY),
    "mask on its side": (lists(GOOD, masks=[one_bit(PIXELS[..., 0].T > 128)]), OTHER_SIZE),
    "large mask": (lists(GOOD, GOOD, masks=[MASK, one_bit(np.ones((300, 300)))]), OTHER_SIZE),
}


@pytest.mark.parametrize("settings", [SMALL, DetectionEvaluation()], ids=["training", "evaluation"])
def test_what_is_wrong_with_a_record_is_said(settings):
    samples = DetectionSamples(3, 0, settings, masks=True)
    seed = tf.constant([0, 1]) if settings is SMALL else None

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def decode(serialized):
        return samples.decode(tf.io.parse_single_example(serialized, feature_spec(samples.features)), seed)

    cases = {name: (box_record(PIXELS, value), problem) for name, (value, problem) in CASES.items()} | {
        "a class": (record(0), OTHER_KIND),
        "a mask of classes": (box_record(PIXELS, {}, mask=encode(PIXELS[..., 0])), OTHER_KIND),
        "a class and boxes": (box_record(PIXELS, lists(GOOD), label=2), None),
    }
    for name, (serialized, problem) in cases.items():
        said = [text for text, wrong in samples.faults(decode(serialized)).items() if wrong]
        assert len(said) == (problem is not None), name
        assert not said or said[0].startswith(problem), name


def trained(records, masks, **options):
    """One epoch in batches of one."""
    samples = DetectionSamples.of(records, SMALL, masks)
    stream = train_stream(records, samples, StreamSettings(batch_size=1, **options))
    return list(stream.take(records.num_examples).as_numpy_iterator())


def evaluated(records, masks, **options):
    samples = DetectionSamples.of(records, DetectionEvaluation(), masks)
    return list(image_stream(records, samples, StreamSettings(batch_size=1, **options), WHOLE).as_numpy_iterator())


@pytest.mark.parametrize(
    ("read", "serialized", "problem"),
    [
        (trained, box_record(PIXELS, lists((1, 2, 12.1, 8))), OUTSIDE),
        (evaluated, record(0), OTHER_KIND),
        (trained, box_record(b"no image", lists(GOOD)), "holds no image with masks of its objects that can be decoded"),
        (evaluated, box_record(PIXELS, lists(GOOD, masks=[MASK[:-25]])), "holds no image with masks of its objects"),
    ],
)
def test_record_with_wrong_objects_is_named(tmp_path, read, serialized, problem):
    good = box_record(PIXELS, lists(GOOD))
    records = write_boxes(tmp_path, (3, 4), [serialized if index == 4 else good for index in range(7)])
    named = rf"record 1 of .*train-00001-of-00002 {problem}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=named) as raised:
        read(records, masks=True)
    assert f"`tfvt records verify {tmp_path}`" in str(raised.value)


def test_damaged_records_are_skipped_on_request(tmp_path, capfd):
    good = box_record(PIXELS, lists(GOOD))
    broken = {1: box_record(b"no image", lists(GOOD)), 3: box_record(PIXELS, lists(GOOD, masks=[MASK[:-25]]))}
    records = write_boxes(tmp_path, (3, 2), [broken.get(index, good) for index in range(5)])
    found = evaluated(records, masks=True, skip_damaged=True)
    assert [float(batch["weight"][0]) for batch in found] == [1, 0, 1, 0, 1]
    assert all(batch["boxes"].shape == (1, 0 if index in broken else 1, 4) for index, batch in enumerate(found))
    seen = {int(batch["id"][0]): batch for batch in trained(records, masks=True, skip_damaged=True)}
    assert {index for index, batch in seen.items() if batch["weight"][0] == 0} == {1, 3}
    assert (seen[3]["labels"] == -1).all()
    np.testing.assert_allclose(seen[3]["image"], np.broadcast_to((123.675, 116.28, 103.53), (1, 24, 24, 3)), rtol=1e-6)
    error = capfd.readouterr().err
    for shard, number in ((0, 1), (1, 0)):
        assert f"skipped: record {number} of {tmp_path}/train-0000{shard}-of-00002 holds no image with masks" in error


WRONG = {
    "image_size": [(0, 5), (5,), (5.0, 5)],
    "short_sides": [(), (0,), (1.5,), (1334,)],
    "max_long_side": [0, 2**15 + 1, 7.5],
    "crop_short_sides": [(0,), (1334,)],
    "crop_range": [(0, 5), (5,), (6, 5)],
    "max_boxes": [0, 1.5, 2**15 + 1],
}
WRONG_IN_EVALUATION = {
    "short_side": [0, 1334, 8.5],
    "max_long_side": [0, 2**15 + 1],
    "size_multiple": [0, 1025, 1.5],
    "candidates": [0, 1.5],
    "max_detections": [0, 1.5],
    "score_threshold": [-0.1, 1.1, float("nan")],
    "iou_threshold": [-0.1, 1.1, float("nan")],
}


@pytest.mark.parametrize(
    ("settings_class", "name", "value"),
    [(DetectionTraining, name, value) for name, values in WRONG.items() for value in values]
    + [(DetectionEvaluation, name, value) for name, values in WRONG_IN_EVALUATION.items() for value in values],
)
def test_numbers_out_of_their_range_are_named(settings_class, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        settings_class(**{name: value})
