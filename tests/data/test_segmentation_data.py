"""Image and mask of a training sample: resized, cropped, mirrored and filled together."""

import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from host_rows import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_records import scene, training_sample, training_samples, write_masks
from record_files import encode, picture

from tfvt.data.order import WHOLE, HostShare
from tfvt.data.records import VOID
from tfvt.data.segmentation import SegmentationEvaluation, SegmentationSamples, SegmentationTraining
from tfvt.data.stream import StreamSettings, train_stream

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def bilinear(pixels, size):
    """Half-pixel bilinear interpolation, without antialiasing, in double precision."""
    for axis, side in enumerate(size):
        length = pixels.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape(-1, *[1] * (2 - axis))
        high = np.minimum(low + 1, length - 1)
        pixels = np.take(pixels, low, axis) * (1 - share) + np.take(pixels, high, axis) * share
    return pixels


def largest_share(mask):
    """Of one class among a mask's pixels that are not void."""
    counts = np.bincount(mask[mask != VOID])
    return counts.max() / counts.sum()


def two_classes(columns, void=0):
    """A mask of 20 x 100 pixels: class 1 in the last `columns`, void in the first `void`, else class 0."""
    mask = np.zeros((20, 100), np.uint8)
    mask[:, 100 - columns :] = 1
    mask[:, :void] = VOID
    return picture(0, 20, 100), mask


@settings(max_examples=12, deadline=None)
@given(size=SIDES, factor=st.floats(0.25, 4), seed=st.integers(0, 2**31 - 1))
def test_image_and_mask_are_resized_in_one_geometry(size, factor, seed):
    """Against bilinear interpolation in NumPy; a mask's pixel is that in which the middle of the new one lies."""
    pixels, mask = picture(seed, *size), np.random.default_rng(seed).integers(0, 3, size, np.uint8)
    resized = tuple(max(1, int(side * float(np.float32(factor)) + 0.5)) for side in size)
    sample = training_sample(pixels, mask, image_size=resized, scale_range=(factor, factor), max_class_share=1.0)
    np.testing.assert_allclose(sample["image"], bilinear(pixels.astype(float), resized), atol=0.02)
    rows, columns = (
        [math.floor((place + Fraction(1, 2)) * old / new) for place in range(new)]
        for old, new in zip(size, resized, strict=True)
    )
    np.testing.assert_array_equal(sample["mask"], mask[np.ix_(rows, columns)])


@settings(max_examples=12, deadline=None)
@given(size=SIDES, scale=st.tuples(st.integers(4, 90), st.integers(4, 60)), factor=st.floats(0.5, 2))
def test_image_is_resized_to_fit_into_the_scale(size, scale, factor):
    """The rule of mmcv: the longer side at most the longer one of the scale, the shorter at most the shorter."""
    sample = training_sample(
        np.zeros((*size, 3)), np.zeros(size), image_size=(200, 200), scale=scale, scale_range=(factor, factor)
    )
    shown = (sample["mask"] == 0).any(1).sum(), (sample["mask"] == 0).any(0).sum()
    fit = factor * min(max(scale) / max(size), min(scale) / min(size))
    np.testing.assert_allclose(shown, np.maximum(np.array(size) * fit, 1), atol=0.501)


def test_the_size_varies_over_its_range():
    masks = training_samples(*scene(0), range(60), image_size=(40, 40), scale_range=(0.5, 2.0))["mask"]
    shown = (masks != VOID).any(2).sum(1)
    assert 6 <= shown.min() < 8
    assert 22 < shown.max() <= 24
    assert len(set(shown.tolist())) > 12


def test_crop_is_a_part_of_image_and_mask_at_one_place():
    pixels, mask = scene(3, 30, 41)
    samples = training_samples(pixels, mask, range(150), image_size=(28, 38))
    corners = set()
    for crop, crop_mask in zip(samples["image"], samples["mask"], strict=True):
        top, left = (int(value) for value in np.round(crop[0, 0, :2] / 5))
        np.testing.assert_allclose(crop, pixels[top : top + 28, left : left + 38], atol=1e-3)
        np.testing.assert_array_equal(crop_mask, mask[top : top + 28, left : left + 38])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(4)}, "every place is drawn, the last ones too"


@settings(max_examples=15, deadline=None)
@given(
    size=SIDES,
    crop=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    classes=st.sets(st.sampled_from([0, 1, 2, VOID]), min_size=1),
    seed=st.integers(0, 2**31 - 1),
)
def test_classes_are_never_invented(size, crop, classes, seed):
    """Only those of the source, and void around a smaller image; sizes, types and range are what they should be."""
    mask = np.random.default_rng(seed).choice(np.array(sorted(classes), np.uint8), size)
    options = {"image_size": crop, "scale_range": (0.3, 3.0), "flip": True, "photometric_distortion": True}
    sample = training_sample(picture(seed, *size), mask, seed, **options)
    assert set(np.unique(sample["mask"])) <= classes | {VOID}
    assert (sample["image"].shape, sample["image"].dtype) == ((*crop, 3), np.float32)
    assert (sample["mask"].shape, sample["mask"].dtype) == (crop, np.int32)
    assert sample["image"].min() >= 0
    assert sample["image"].max() <= 255


def test_crops_of_one_class_are_drawn_again():
    """The first draw, which the rule switched off shows, stays if it is mixed enough."""
    masks = training_samples(*two_classes(50), range(60), image_size=(20, 60))["mask"]
    firsts = training_samples(*two_classes(50), range(60), image_size=(20, 60), max_class_share=1.0)["mask"]
    is_mixed = np.array([largest_share(mask) <= 0.75 for mask in firsts])
    assert 5 < is_mixed.sum() < 55
    assert max(map(largest_share, masks)) <= 0.75
    np.testing.assert_array_equal((masks == firsts).all((1, 2)), is_mixed)


def test_ten_crops_are_drawn_at_most():
    """Of 70 places only the last two hold enough of class 1: a quarter of the samples find one of them."""
    masks = training_samples(*two_classes(9), range(200), image_size=(20, 31))["mask"]
    expected = 1 - (1 - 2 / 70) ** 10
    found = np.mean([largest_share(mask) <= 0.75 for mask in masks])
    assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 200)


def test_void_does_not_count_in_a_class_share():
    """Nine tenths of the image are void, and the rest is of two classes, half and half."""
    pixels, mask = two_classes(5, void=90)
    first, sample = (
        training_samples(pixels, mask, range(5), image_size=(20, 99), max_class_share=share)["mask"]
        for share in (1.0, 0.6)
    )
    np.testing.assert_array_equal(first, sample)


def test_a_crop_that_is_all_void_is_drawn_again():
    mask = np.full((20, 100), VOID, np.uint8)
    assert (training_sample(picture(0, 20, 100), mask, image_size=(8, 8))["mask"] == VOID).all()
    mask[:, 40:50] = np.arange(10) % 3
    masks = training_samples(picture(0, 20, 100), mask, range(40), image_size=(20, 40))["mask"]
    assert (masks != VOID).any((1, 2)).all()


def test_image_and_mask_are_mirrored_together():
    plain, mirrored = (
        training_samples(*scene(1, 20, 20), range(40), image_size=(15, 12), flip=flip) for flip in (False, True)
    )
    flips = (plain["mask"] != mirrored["mask"]).any((1, 2))
    assert 10 < sum(flips) < 30
    for name in ("image", "mask"):
        for before, after, flip in zip(plain[name], mirrored[name], flips, strict=True):
            np.testing.assert_array_equal(after, before[:, :: -1 if flip else 1])


@pytest.mark.parametrize("size", [(5, 6), (5, 30), (30, 6)])
def test_image_smaller_than_the_crop_lies_in_its_corner(size):
    """Void and the fill around it, which no distortion changes."""
    pixels, mask = np.maximum(picture(0, *size), 10), np.ones(size, np.uint8)
    options = {"image_size": (9, 11), "fill": (1, 2, 3), "flip": True, "photometric_distortion": True}
    outside = np.ones((9, 11), bool)
    outside[: size[0], : size[1]] = False
    samples = training_samples(pixels, mask, range(8), **options)
    for image, crop_mask in zip(samples["image"], samples["mask"], strict=True):
        np.testing.assert_array_equal(crop_mask, np.where(outside, VOID, 1))
        assert (image[outside] == (1, 2, 3)).all()
        assert image[~outside].mean() > 50


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_part_of_a_jpeg_is_that_part_of_the_whole(subsampling):
    """Only what the crop shows is decoded."""
    pixels, mask = scene(9, 50, 50)
    encoded = encode(pixels, "JPEG", quality=95, subsampling=subsampling)
    whole = training_sample(encoded, mask, image_size=(50, 50))["image"]
    np.testing.assert_allclose(whole, tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE"), atol=1e-3)
    samples = training_samples(encoded, mask, range(10), image_size=(17, 13))
    for crop, crop_mask in zip(samples["image"], samples["mask"], strict=True):
        ((top, left),) = [
            (top, left)
            for top in range(34)
            for left in range(38)
            if np.array_equal(crop_mask, mask[top : top + 17, left : left + 13])
        ]
        np.testing.assert_allclose(crop, whole[top : top + 17, left : left + 13], atol=1e-3)


def test_a_sample_is_a_function_of_its_seed():
    options = {"image_size": (15, 12), "scale": (40, 30), "scale_range": (0.5, 2.0), "flip": True}
    samples = training_samples(*scene(1, 20, 20), [1, 2, 1], photometric_distortion=True, **options)
    for values in samples.values():
        first, other, again = (value.tobytes() for value in values)
        assert first == again != other


def segmentation_batches(records, count, share=WHOLE, start_step=0, **options):
    samples = SegmentationSamples.of(records, SegmentationTraining((8, 6), scale=(14, 12)))
    stream = train_stream(records, samples, StreamSettings(seed=3, **options), share, start_step)
    return list(stream.take(count).as_numpy_iterator())


def test_stream_resumes_and_is_shared_between_hosts(tmp_path):
    """Bit for bit the batches of the uninterrupted run on one host."""
    records = write_masks(tmp_path, (7, 0, 4))
    whole = segmentation_batches(records, 6, batch_size=4)
    assert {name: (value.dtype.name, value.shape) for name, value in whole[0].items()} == {
        "image": ("float32", (4, 8, 6, 3)),
        "mask": ("int32", (4, 8, 6)),
        "id": ("int64", (4,)),
    }
    resumed = segmentation_batches(records, 3, batch_size=4, start_step=3)
    hosts = [segmentation_batches(records, 6, share=HostShare(2, index), batch_size=4) for index in range(2)]
    for name in ("image", "mask", "id"):
        for expected, batch in zip(whole[3:], resumed, strict=True):
            assert batch[name].tobytes() == expected[name].tobytes()
        for step, expected in enumerate(whole):
            for index, host in enumerate(hosts):
                assert host[step][name].tobytes() == expected[name][rows_of(index, 2, 4)].tobytes()
    assert len({image.tobytes() for batch in whole for image in batch["image"]}) == 24


WRONG = {
    "image_size": [(0, 5), (5,), (5.0, 5), (2**15 + 1, 5)],
    "scale": [(0, 5), (5,), (5.5, 5)],
    "scale_range": [(0, 1), (2, 1), (1, 17), (float("nan"), 1)],
    "max_class_share": [0, 1.1, float("nan")],
    "fill": [(0, 0), (0, 0, 256), (0, 0, -1), (float("nan"), 0, 0)],
}
WRONG_IN_EVALUATION = {
    "scale": [(0, 5), (5,)],
    "size_multiple": [0, 1025, 1.5],
    "mode": ["tiles"],
    "window": [(0, 5), (5,)],
    "stride": [(0, 5), (513, 5)],
    "scales": [(), (0.0,), (17.0,), (float("nan"),)],
}


@pytest.mark.parametrize(
    ("settings_class", "name", "value"),
    [(SegmentationTraining, name, value) for name, values in WRONG.items() for value in values]
    + [(SegmentationEvaluation, name, value) for name, values in WRONG_IN_EVALUATION.items() for value in values],
)
def test_numbers_out_of_their_range_are_named(settings_class, name, value):
    with pytest.raises(ValueError, match=rf"^{name}\b.*(must be|expected)"):
        settings_class(**{name: value})
