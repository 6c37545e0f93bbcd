"""Every operation beside the one of TensorFlow official models: the same image, the same argument, the same pixels."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from tfvt.data import augment, geometry, mixing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they import warns of its own dependencies
    from official.vision.ops import augment as official
    from official.vision.ops import preprocess_ops as official_preprocessing

pytestmark = pytest.mark.parity

NAMES = list(augment.operations(translate_pixels=100.0))
TWO_SIDED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
GREY = [128, 128, 128]  # what theirs fills with, where nothing is reflected
# A policy's levels, and one that the table of tests does not have.
LEVELS = (0.0, 3.0, 9.37, 10.0)


def images():
    """Random, smooth, dark with few values, constant, grey, black and white; square, flat, high, small, odd."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:61, :90]
    yield "random", rng.integers(0, 256, (64, 64, 3), np.uint8)
    yield "smooth", np.stack([rows * 4, columns * 2, (rows + columns) // 2], -1).astype(np.uint8)
    yield "dark", rng.integers(3, 9, (40, 17, 3), np.uint8)
    yield "constant", np.full((20, 30, 3), (7, 200, 255), np.uint8)
    yield "grey", np.repeat(rng.integers(90, 170, (33, 50, 1), np.uint8), 3, -1)
    yield "extreme", rng.choice(np.array([0, 255], np.uint8), (50, 31, 3))
    yield "skewed", (255 * rng.random((45, 45, 3)) ** 4).astype(np.uint8)
    yield "tiny", rng.integers(0, 256, (3, 4, 3), np.uint8)


IMAGES = dict(images())


def argument(name, level, *, translate_pixels=100.0, cutout=40.0):
    """Their argument (none: 0) at a level, with a positive sign."""
    arguments = official.level_to_arg(cutout, translate_pixels)[name](level)
    return abs(float(arguments[0])) if arguments else 0.0


@pytest.fixture(scope="module")
def ours():
    """(name, image, argument) -> image, each operation traced once for all sizes."""
    traced = {
        name: tf.function(
            operation.apply,
            input_signature=(
                tf.TensorSpec((None, None, 3), tf.uint8),
                tf.TensorSpec((), tf.float32),
                tf.TensorSpec((2,), tf.float32),
            ),
        )
        for name, operation in augment.operations(translate_pixels=100.0).items()
    }
    return lambda name, image, value, center=(0.0, 0.0): traced[name](image, value, center).numpy()


def theirs(name, image, value):
    function = official.NAME_TO_FUNC[name]
    arguments = [int(value) if augment.operations(100.0)[name].whole else value]
    if not official.level_to_arg(40.0, 100.0)[name](1.0):
        arguments = []
    if name in official.REPLACE_FUNCS:
        arguments.append(GREY)
    return function(tf.constant(image), *arguments).numpy()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Cutout"])
@pytest.mark.parametrize("kind", IMAGES)
def test_operation_gives_their_pixels(ours, name, kind):
    image, signed = IMAGES[kind], augment.operations(100.0)[name].signed
    for level in LEVELS:
        value = argument(name, level)
        for signed_value in {value, -value} if signed else {value}:
            actual, expected = ours(name, image, signed_value), theirs(name, image, signed_value)
            assert actual.dtype == expected.dtype == np.uint8
            np.testing.assert_array_equal(actual, expected, err_msg=f"{name} {signed_value}")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Cutout"])
def test_operation_gives_their_pixels_of_a_photograph_of_known_size(name):
    """224x224: square images of known size take a shorter way through rotations and shears."""
    photo = tf.constant(load_sample_image("china.jpg")[:224, :224])
    for level in (1.0, 6.0, 9.0):
        for sign in (1, -1) if augment.operations(100.0)[name].signed else (1,):
            value = sign * argument(name, level)
            actual = augment.operations(100.0)[name].apply(photo, tf.constant(value), None)
            np.testing.assert_array_equal(actual, theirs(name, photo, value), err_msg=f"{name} {value}")


@pytest.mark.parametrize("name", sorted(TWO_SIDED))
@pytest.mark.parametrize("shape", [(200, 9, 3), (9, 200, 3)])
def test_narrow_images_of_known_size_are_reflected_more_than_once(name, shape):
    image = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    for value in (argument(name, 9.37), -argument(name, 9.37)):
        actual = augment.operations(100.0)[name].apply(image, tf.constant(value), None)
        np.testing.assert_array_equal(actual, theirs(name, image, value), err_msg=f"{name} {value}")


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("center", [(0.0, 0.0), (0.5, 0.2), (0.99, 0.99)])
@pytest.mark.parametrize("half_size", [0, 1, 5, 40])
def test_cutout_gives_their_pixels(ours, kind, center, half_size, monkeypatch):
    image = IMAGES[kind]
    drawn = iter([int(np.float32(c) * n) for c, n in zip(center, image.shape, strict=False)])
    monkeypatch.setattr(official.tf.random, "uniform", lambda **_: tf.constant(next(drawn)))
    expected = official.cutout(tf.constant(image), half_size, replace=128).numpy()
    np.testing.assert_array_equal(ours("Cutout", image, half_size, center), expected)


@pytest.mark.parametrize("translate_pixels", [100.0, 250.0])
def test_levels_mean_their_arguments(translate_pixels):
    operations = augment.operations(translate_pixels)
    for level in (*LEVELS, *range(21)):
        actual, negative = augment.arguments(list(operations.values()), np.arange(16), np.full(16, float(level)))
        for name, value, share in zip(operations, actual.numpy(), negative, strict=True):
            assert value == np.float32(argument(name, float(level), translate_pixels=translate_pixels)), (name, level)
            assert share == (0.5 if name in TWO_SIDED else 0.0)


def test_the_policy_is_theirs():
    assert [list(policy) for policy in augment.IMAGENET_POLICY] == official.AutoAugment.policy_v0()


def test_randaugment_has_their_operations():
    assert set(NAMES) == set(official.RandAugment().available_ops)


@pytest.mark.parametrize("kind", IMAGES)
def test_color_jitter_is_theirs_with_the_same_factors(kind, monkeypatch):
    image = IMAGES[kind]
    for seed in ((1, 2), (3, 4), (5, 6)):
        factors = tf.unstack(tf.random.stateless_uniform((3,), seed, 0.6, 1.4))
        drawn = iter(factors)
        monkeypatch.setattr(official_preprocessing.tf.random, "uniform", lambda *_, **__: next(drawn))  # noqa: B023
        expected = official_preprocessing.color_jitter(image, 0.4, 0.4, 0.4)
        np.testing.assert_array_equal(augment.color_jitter(tf.constant(image), seed, 0.4), expected)


def test_pasting_is_their_filling_of_a_rectangle():
    rng = np.random.default_rng(0)
    image, noise = rng.normal(size=(2, 30, 40, 3)).astype(np.float32)
    expected = official._fill_rectangle(tf.constant(image), 12, 10, 5, 3, replace=tf.constant(noise))
    actual = geometry.paste(tf.constant(image), noise[7:13, 7:17], 7, 7)
    np.testing.assert_array_equal(actual, expected)


def test_mixup_is_theirs_with_the_same_shares(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (6, 8, 9, 3)).astype(np.float32), np.arange(6) % 4
    share = tf.constant(rng.uniform(size=6), tf.float32)
    augmenter = official.MixupAndCutmix(4, mixup_alpha=0.8, cutmix_alpha=0.0, label_smoothing=0.1)
    monkeypatch.setattr(official.MixupAndCutmix, "_sample_from_beta", lambda *_: share)
    expected_images, expected_targets = augmenter(tf.constant(images), tf.constant(labels))
    monkeypatch.setattr(mixing, "beta", lambda *_: share)
    actual_images, actual_targets = mixing.mix_batch(images, labels, 4, (1, 2), mixing.Mixing(mixup_alpha=0.8))
    np.testing.assert_allclose(actual_images, expected_images, rtol=1e-6)
    # Smoothing is linear: it may come before mixing, as theirs does, or after it.
    np.testing.assert_allclose(0.9 * actual_targets + 0.1 / 4, expected_targets, atol=1e-6)


def test_cutmix_pastes_their_boxes(monkeypatch):
    """On a square image, for a batch in which no border cuts a box: elsewhere their share is not the box's."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (6, 32, 32, 3)).astype(np.float32), np.arange(6) % 4
    share = tf.constant(rng.uniform(0.8, 1.0, 6), tf.float32)
    centers = rng.uniform(0.4, 0.6, (2, 6)).astype(np.float32)
    augmenter = official.MixupAndCutmix(4, mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0)
    drawn = iter(tf.constant((centers * 32).astype(np.int32)))
    with monkeypatch.context() as patch:
        patch.setattr(official.MixupAndCutmix, "_sample_from_beta", lambda *_: share)
        patch.setattr(official.tf.random, "uniform", lambda **_: next(drawn))
        expected, _, _ = augmenter._cutmix(tf.constant(images), tf.constant(labels))
    actual, _ = mixing.cutmix_images(tf.constant(images), mixing.cutmix_boxes(share, centers, tf.shape(images)))
    np.testing.assert_array_equal(actual, expected)
    assert (actual.numpy() != images).any()
