"""Decoding, crops and flips against Pillow and against pictures whose pixels say where they come from."""

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from record_files import encode
from sklearn.datasets import load_sample_images

from tfvt.data import augment
from tfvt.data.images import (
    EvalPreprocessing,
    TrainPreprocessing,
    decode_and_augment,
    decode_and_center_crop,
)

NAN, INFINITY = float("nan"), float("inf")


def smooth(height, width, seed=0):
    """A colourful picture without sharp edges, which JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def positions(height, width):
    """Red is the column, green the row, blue 0."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


def seeds(count):
    return tf.stack([tf.range(count), tf.range(count) * 7], axis=1)


def augment_many(encoded, count, preprocessing):
    """(count, H, W, 3): one picture under many seeds."""

    @tf.function
    def draw(seeds):
        return tf.map_fn(lambda seed: decode_and_augment(encoded, seed, preprocessing), seeds, tf.float32)

    return draw(seeds(count)).numpy()


def test_center_crop_of_an_image_of_the_resized_size_is_a_mere_cut():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    crop = decode_and_center_crop(encode(pixels), EvalPreprocessing((224, 224), 0.875))
    assert crop.dtype == tf.float32
    np.testing.assert_allclose(crop, pixels[16:240, 16:240], atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop_ratio=st.floats(0.1, 1.0),
)
def test_center_crop_equals_pillow(size, target, crop_ratio):
    pixels = smooth(*size)
    crop = decode_and_center_crop(encode(pixels), EvalPreprocessing(target, crop_ratio)).numpy()
    covered = [int(side / crop_ratio + 1e-6) for side in target]
    axis = 0 if covered[0] * size[1] >= covered[1] * size[0] else 1  # the side that just covers
    resized = [side * covered[axis] // size[axis] for side in size]
    whole = Image.fromarray(pixels).resize(resized[::-1], Image.Resampling.BILINEAR)
    top, left = (round((most - side) / 2) for most, side in zip(resized, target, strict=True))
    expected = np.asarray(whole)[top : top + target[0], left : left + target[1]]
    assert crop.shape == (*target, 3)
    np.testing.assert_allclose(crop, expected, atol=1.6)  # Pillow rounds after each of its two passes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("crop_ratio", "shorter"), [(0.875, 256), (1.0, 224)])
@pytest.mark.parametrize("size", [(400, 400), (375, 500), (427, 640), (427, 301)])
def test_center_crop_is_that_of_a_photograph_whose_shorter_side_was_resized(interpolation, crop_ratio, shorter, size):
    """As published numbers are measured: Pillow resizes all of the image, then the centre is cut out."""
    for photo in load_sample_images().images:
        photo = photo[: size[0], : size[1]]
        preprocessing = EvalPreprocessing((224, 224), crop_ratio, interpolation)
        crop = decode_and_center_crop(encode(photo), preprocessing).numpy()
        resized = [shorter * side // min(size) for side in size]
        whole = Image.fromarray(photo).resize(resized[::-1], Image.Resampling[interpolation.upper()])
        top, left = (round((side - 224) / 2) for side in resized)
        difference = np.abs(crop - np.asarray(whole)[top : top + 224, left : left + 224])
        assert difference.mean() < 0.3  # Pillow rounds to whole numbers, which alone makes 0.25
        inside = difference[2:-2, 2:-2]  # at the border, there are no pixels beyond the crop
        assert (inside > 1.6).mean() < 1e-3  # bicubic: Pillow cuts to 0..255 between its two passes
        assert inside.max() < 6


@pytest.mark.parametrize(
    ("interpolation", "kernel", "size"),  # sizes where no pixel lies just between two others or two windows
    [("nearest", Image.Resampling.NEAREST, (75, 101)), ("area", Image.Resampling.BOX, (96, 128))],
)
def test_center_crop_by_the_other_kernels(interpolation, kernel, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    crop = decode_and_center_crop(encode(pixels), EvalPreprocessing((28, 28), 0.875, interpolation)).numpy()
    resized = (32, 32 * size[1] // size[0])
    top, left = 2, round((resized[1] - 28) / 2)
    whole = np.asarray(Image.fromarray(pixels).resize(resized[::-1], kernel))
    np.testing.assert_allclose(crop, whole[top : top + 28, left : left + 28], atol=1.1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area", "nearest"])
def test_interpolations_stay_in_range_and_shape(interpolation):
    stripes = np.zeros((64, 48, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = decode_and_center_crop(encode(stripes), EvalPreprocessing((30, 50), 1.0, interpolation)).numpy()
    assert crop.shape == (30, 50, 3)
    assert crop.min() >= 0
    assert crop.max() <= 255


def test_shrinking_does_not_alias():
    """One-pixel stripes shrink to even grey, not to black or white."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    evaluated = decode_and_center_crop(encode(stripes), EvalPreprocessing((16, 16), 1.0)).numpy()
    trained = augment_many(encode(stripes), 20, TrainPreprocessing((16, 16), area_range=(0.3, 1.0)))
    assert np.abs(evaluated - 127.5).max() < 8
    assert np.abs(trained[:, 1:-1, 1:-1] - 127.5).max() < 8


def test_cmyk_jpeg_becomes_rgb():
    ink = np.zeros((32, 48, 4), np.uint8)
    ink[:, :16, 0] = 255  # cyan: red 0, green and blue 255
    ink[:, 16:32, 3] = 128  # half black
    ink[:, 32:, 1:3] = 255  # magenta and yellow: red
    crop = decode_and_center_crop(encode(ink, "JPEG", "CMYK", quality=100), EvalPreprocessing((32, 32), 1.0)).numpy()
    expected = np.repeat([[0, 255, 255], [127, 127, 127], [255, 0, 0]], (8, 16, 8), axis=0)
    np.testing.assert_allclose(crop, np.tile(expected, (32, 1, 1)), atol=4)


def test_grey_jpeg_becomes_three_equal_channels():
    jpeg = encode(smooth(40, 40)[..., 0], "JPEG")
    crop = decode_and_center_crop(jpeg, EvalPreprocessing((40, 40), 1.0)).numpy()
    grey = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert grey.shape == (40, 40)
    np.testing.assert_array_equal(crop, np.repeat(grey[..., None], 3, axis=-1))


def test_jpeg_pixels_are_those_of_pillow():
    jpeg = encode(np.random.default_rng(0).integers(0, 256, (64, 48, 3)), "JPEG", quality=100)
    crop = decode_and_center_crop(jpeg, EvalPreprocessing((64, 48), 1.0)).numpy()
    np.testing.assert_array_equal(crop, np.asarray(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize("options", [{"quality": 95, "subsampling": 0}, {"quality": 95, "progressive": True}])
def test_partly_decoded_jpeg_equals_the_crop_of_all_of_it(options):
    jpeg = encode(smooth(120, 90), "JPEG", **options)
    decoded = encode(np.asarray(Image.open(io.BytesIO(jpeg))))
    preprocessing = TrainPreprocessing((32, 32), area_range=(0.1, 0.5))
    parts, wholes = augment_many(jpeg, 20, preprocessing), augment_many(decoded, 20, preprocessing)
    np.testing.assert_allclose(parts, wholes, atol=6)  # colours of border pixels are interpolated from other pixels
    assert np.abs(parts - wholes).mean() < 0.2


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_png_gives_three_channels(mode):
    image = Image.fromarray(smooth(20, 30)).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    file = io.BytesIO()
    image.save(file, "PNG")
    crop = decode_and_center_crop(file.getvalue(), EvalPreprocessing((20, 30), 1.0)).numpy()
    np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("encoded", [b"", b"hello", b"\xff\xd8\xff\xe0 no more"])
def test_bytes_that_are_no_image_raise(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_center_crop(tf.constant(encoded), EvalPreprocessing())


def test_truncated_jpeg_raises():
    jpeg = encode(smooth(100, 100), "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_center_crop(jpeg[: len(jpeg) // 2], EvalPreprocessing())


def test_augmentation_is_a_function_of_the_seed():
    encoded, preprocessing = encode(smooth(60, 80)), TrainPreprocessing((24, 40))
    first, again = (augment_many(encoded, 12, preprocessing) for _ in range(2))
    assert first.shape == (12, 24, 40, 3)
    assert first.tobytes() == again.tobytes()
    assert len({image.tobytes() for image in first}) == 12


def test_crops_keep_to_area_and_aspect_and_use_their_range():
    height, width = 120, 200
    preprocessing = TrainPreprocessing((64, 64), area_range=(0.2, 0.6), aspect_range=(0.75, 1.5), flip=False)
    crops = augment_many(encode(positions(height, width)), 300, preprocessing)
    # Centres of the border pixels are half an output pixel inside; 64 pixels span the crop.
    widths = (crops[:, 0, -2, 0] - crops[:, 0, 1, 0]) * 64 / 61
    heights = (crops[:, -2, 0, 1] - crops[:, 1, 0, 1]) * 64 / 61
    areas, aspects = widths * heights / (height * width), widths / heights
    assert areas.min() > 0.19
    assert areas.max() < 0.61
    assert aspects.min() > 0.72
    assert aspects.max() < 1.55
    assert areas.min() < 0.25
    assert areas.max() > 0.5
    assert aspects.min() < 0.85
    assert aspects.max() > 1.35
    assert crops[:, 0, 0, 0].min() < 5, "some crops begin at the left border"
    assert crops[:, 0, -1, 0].max() > width - 6, "some end at the right one"


def test_flip_mirrors_half_of_the_samples_and_nothing_else():
    encoded = encode(positions(50, 50))
    kept = augment_many(encoded, 200, TrainPreprocessing((16, 16), flip=False))
    flipped = augment_many(encoded, 200, TrainPreprocessing((16, 16), flip=True))
    mirrored = (flipped == kept[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (flipped == kept).all(axis=(1, 2, 3))).all()
    assert 70 < mirrored.sum() < 130  # 100 expected, standard deviation 7


EVERYTHING = {"color_jitter": 0.4, "auto_augment": "randaugment", "random_erasing": 0.5}


def test_augmentations_are_those_of_the_crop_with_the_seeds_of_their_streams():
    encoded, seed = encode(smooth(60, 80)), tf.constant([3, 4])
    plain = decode_and_augment(encoded, seed, TrainPreprocessing((24, 40)))
    pixels = tf.cast(tf.round(plain), tf.uint8)
    jittered = augment.color_jitter(pixels, tf.random.fold_in(seed, 2), 0.4)
    randomly = augment.rand_augment(pixels, tf.random.fold_in(seed, 3), layers=3, magnitude=7.0, magnitude_std=0.5)
    by_policy = augment.auto_augment(jittered, tf.random.fold_in(seed, 3))
    erased = augment.random_erasing(plain, tf.random.fold_in(seed, 4), probability=1.0, area_range=(0.1, 0.2))
    randaugment = {"randaugment_layers": 3, "randaugment_magnitude": 7.0, "randaugment_magnitude_std": 0.5}
    for options, expected in (
        ({"color_jitter": 0.4}, jittered),
        ({"auto_augment": "randaugment"} | randaugment, randomly),
        ({"color_jitter": 0.4, "auto_augment": "autoaugment"}, by_policy),
        ({"random_erasing": 1.0, "random_erasing_area": (0.1, 0.2)}, erased),
    ):
        actual = decode_and_augment(encoded, seed, TrainPreprocessing((24, 40), **options))
        assert actual.dtype == tf.float32
        np.testing.assert_array_equal(actual, tf.cast(expected, tf.float32), err_msg=str(options))
        assert (actual.numpy() != plain.numpy()).any(), options


def test_everything_at_once_is_a_function_of_the_seed():
    encoded, preprocessing = encode(smooth(60, 80)), TrainPreprocessing((24, 40), **EVERYTHING)
    first, again = (augment_many(encoded, 12, preprocessing) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert len({image.tobytes() for image in first}) == 12


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(1, 30), st.integers(1, 30)), seed=st.integers(0, 2**31 - 1))
def test_any_image_size_can_be_augmented(size, seed):
    crop = decode_and_augment(encode(np.full((*size, 3), 77)), tf.constant([seed, 1]), TrainPreprocessing((9, 13)))
    np.testing.assert_allclose(crop, np.full((9, 13, 3), 77.0), atol=1e-3)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: TrainPreprocessing(area_range=(0.0, 1.0)), "area_range"),
        (lambda: TrainPreprocessing(area_range=(0.9, 0.1)), "area_range"),
        (lambda: TrainPreprocessing(aspect_range=(2.0, 1.0)), "aspect_range"),
        (lambda: TrainPreprocessing(interpolation="linear"), "bilinear, bicubic, area, nearest, not 'linear'"),
        (lambda: TrainPreprocessing(color_jitter=-0.1), "color_jitter must be 0"),
        (lambda: TrainPreprocessing(auto_augment="v0"), "autoaugment, randaugment or null, not 'v0'"),
        (lambda: TrainPreprocessing((2, 9), auto_augment="autoaugment"), "at least 3x3 pixels"),
        (
            lambda: TrainPreprocessing(randaugment_layers=0),
            "randaugment_layers must be an integer from 1 to 100, not 0",
        ),
        (lambda: TrainPreprocessing(randaugment_magnitude=31.0), "randaugment_magnitude must be from 0 to 30"),
        (
            lambda: TrainPreprocessing(randaugment_magnitude_std=-1.0),
            "randaugment_magnitude_std must be finite and not negative",
        ),
        (lambda: TrainPreprocessing(randaugment_probability=1.5), "randaugment_probability is a probability"),
        (lambda: TrainPreprocessing(random_erasing=-0.5), "random_erasing is a probability, from 0 to 1, not -0.5"),
        (lambda: TrainPreprocessing(random_erasing_area=(0.0, 0.3)), "random_erasing_area must be 0 < low"),
        (lambda: TrainPreprocessing(area_range=(0.1, NAN)), "area_range"),
        (lambda: TrainPreprocessing(aspect_range=(1.0, INFINITY)), "aspect_range must be 0 < low <= high, both finite"),
        (lambda: TrainPreprocessing(aspect_range=(NAN, 1.0)), "aspect_range"),
        (lambda: TrainPreprocessing(color_jitter=INFINITY), "color_jitter must be 0 .off. or above and finite"),
        (lambda: TrainPreprocessing(color_jitter=NAN), "color_jitter"),
        (lambda: TrainPreprocessing(randaugment_layers=10**9), "randaugment_layers must be an integer from 1 to 100"),
        (lambda: TrainPreprocessing(randaugment_magnitude=NAN), "randaugment_magnitude must be from 0 to 30"),
        (lambda: TrainPreprocessing(randaugment_magnitude_std=INFINITY), "randaugment_magnitude_std must be finite"),
        (lambda: TrainPreprocessing(randaugment_probability=NAN), "randaugment_probability"),
        (lambda: TrainPreprocessing(random_erasing=NAN), "random_erasing is a probability"),
        (lambda: TrainPreprocessing(random_erasing_area=(NAN, 0.3)), "random_erasing_area"),
        (
            lambda: TrainPreprocessing((10**9, 224)),
            "image_size must be two numbers of pixels, integers from 1 to 32768",
        ),
        (lambda: EvalPreprocessing(image_size=(0, 224)), "image_size"),
        (lambda: EvalPreprocessing(image_size=(2**15 + 1, 224)), "image_size must be two numbers of pixels"),
        (lambda: EvalPreprocessing(image_size=(224.0, 224)), "image_size must be two numbers of pixels"),
        (lambda: EvalPreprocessing(image_size=(True, 224)), "image_size must be two numbers of pixels"),
        (lambda: EvalPreprocessing(image_size=(224,)), "image_size must be two numbers of pixels"),
        (lambda: EvalPreprocessing(crop_ratio=1.5), "crop_ratio"),
        (lambda: EvalPreprocessing(crop_ratio=NAN), "crop_ratio"),
        (lambda: EvalPreprocessing(crop_ratio=0.0), "crop_ratio"),
        (lambda: EvalPreprocessing(crop_ratio=1e-300), "image_size / crop_ratio must be at most 32768 pixels a side"),
    ],
)
def test_bad_settings_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()
