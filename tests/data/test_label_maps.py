"""Label maps against plain NumPy: sizes, windows, mirror images, tiles."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvt
from tfvt.data import label_maps
from tfvt.data.label_maps import LabelMaps, coarse_model, padded
from tfvt.data.segmentation import SegmentationEvaluation

CLASSES = 5


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def coarse(images):
    """Logits (1, ceil(h / 4), ceil(w / 4), CLASSES) that depend on the pixels and on where they lie in the window."""
    image = np.asarray(images)[0].astype("float64")
    height, width = (-(-side // 4) for side in image.shape[:2])
    image = np.pad(image, ((0, 4 * height - image.shape[0]), (0, 4 * width - image.shape[1]), (0, 0)), "edge")
    means = image.reshape(height, 4, width, 4, 3).mean((1, 3)) / 64
    logits = means @ np.random.default_rng(1).normal(size=(3, CLASSES))
    rows, columns = np.mgrid[:height, :width]
    logits[..., 0] += np.sin(rows)
    logits[..., 1] += np.cos(columns * 0.7)
    return logits[None].astype("float32")


def matrix(size, source):
    """Bilinear with half-pixel centres: (size, source)."""
    weights = np.zeros((size, source))
    for i in range(size):
        place = min(max((i + 0.5) * source / size - 0.5, 0), source - 1)
        low = math.floor(place)
        weights[i, low] += 1 - (place - low)
        weights[i, min(low + 1, source - 1)] += place - low
    return weights


def resized(x, height, width):
    x = np.tensordot(matrix(height, x.shape[0]), x.astype("float64"), 1)
    return np.einsum("hxc,wx->hwc", x, matrix(width, x.shape[1]), optimize=True)


def working_size(height, width, evaluation, factor):
    """As mmcv's `rescale_size` and mmsegmentation's `ResizeToMultiple`."""
    zoom = factor
    if evaluation.scale:
        longer, shorter = (int(side * factor) for side in (max(evaluation.scale), min(evaluation.scale)))
        zoom = min(longer / max(height, width), shorter / min(height, width))
    multiple = evaluation.size_multiple
    return tuple(math.ceil(int(side * zoom + 0.5) / multiple) * multiple for side in (height, width))


def logits_of(image, evaluation):
    """As mmsegmentation's `whole_inference` and `slide_inference`, of an image of its working size."""
    height, width = image.shape[:2]
    if evaluation.mode == "whole":
        return resized(coarse(image[None])[0], height, width)
    total, counts = np.zeros((height, width, CLASSES)), np.zeros((height, width, 1))
    starts = []
    for side, window, stride in zip((height, width), evaluation.window, evaluation.stride, strict=True):
        number = max(side - window + stride - 1, 0) // stride + 1
        ends = [min(i * stride + window, side) for i in range(number)]
        starts.append([(max(end - window, 0), end) for end in ends])
    for (top, bottom), (left, right) in itertools.product(*starts):
        window = image[top:bottom, left:right]
        total[top:bottom, left:right] += resized(coarse(window[None])[0], bottom - top, right - left)
        counts[top:bottom, left:right] += 1
    assert counts.min() >= 1
    return total / counts


def reference(image, evaluation):
    """Probabilities (H, W, C)."""
    height, width = image.shape[:2]
    found = []
    for factor, flip in itertools.product(evaluation.scales, (False, True)[: 1 + evaluation.flip]):
        view = resized(image, *working_size(height, width, evaluation, factor)).astype("float32")
        logits = resized(logits_of(view[:, ::-1] if flip else view, evaluation), height, width)
        logits = logits[:, ::-1] if flip else logits
        exponents = np.exp(logits - logits.max(-1, keepdims=True))
        found.append(exponents / exponents.sum(-1, keepdims=True))
    return np.mean(found, 0)


def assert_equal_to_reference(image, evaluation):
    maps, expected = LabelMaps(coarse, evaluation), reference(image, evaluation)
    probabilities = maps.probabilities(image).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=2e-5)
    labels = maps(image).numpy()
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, probabilities.argmax(-1))
    counts = np.zeros(image.shape[:2], int)
    for y, x, block in maps.blocks(image):
        height, width = block.shape[:2]
        counts[y : y + height, x : x + width] += 1
        np.testing.assert_array_equal(block, probabilities[y : y + height, x : x + width])
    assert counts.min() == counts.max() == 1
    return probabilities


SLIDE = {"mode": "slide", "window": (32, 24), "stride": (21, 16)}
SETTINGS = {
    "whole": {},
    "multiple": {"size_multiple": 32},
    "scale": {"scale": (100, 40)},
    "scale and multiple": {"scale": (64, 64), "size_multiple": 8},
    "sizes and mirror images": {"scales": (0.5, 1.0, 1.75), "flip": True},
    "slide": SLIDE,
    "slide without overlap": SLIDE | {"stride": (32, 24)},
    "slide by pixels": SLIDE | {"stride": (3, 5)},
    "window larger than the image": SLIDE | {"window": (50, 400), "stride": (40, 300)},
    "slide over all": SLIDE | {"scale": (120, 70), "size_multiple": 8, "scales": (0.75, 1.25), "flip": True},
}


@pytest.mark.parametrize("size", [(37, 53), (64, 96), (90, 41), (1, 7)], ids=str)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_probabilities_are_those_of_plain_numpy(settings, size):
    assert_equal_to_reference(picture(*size), SegmentationEvaluation(**settings))


def counting(sizes):
    """`coarse`, which notes the size of what it is asked for."""

    def forward(images):
        sizes.append(tuple(images.shape[1:3]))
        return coarse(images)

    return forward


@pytest.mark.parametrize("settings", ["whole", "sizes and mirror images", "slide", "slide over all"])
def test_the_model_sees_each_window_once(settings):
    evaluation, sizes = SegmentationEvaluation(**SETTINGS[settings]), []
    image = picture(90, 141)
    LabelMaps(counting(sizes), evaluation)(image)
    expected = 0
    for factor in evaluation.scales:
        work = working_size(90, 141, evaluation, factor)
        sides = zip(work, evaluation.window, evaluation.stride, strict=True)
        windows = [math.ceil(max(side - window, 0) / stride) + 1 for side, window, stride in sides]
        expected += (1 if evaluation.mode == "whole" else math.prod(windows)) * (1 + evaluation.flip)
    assert len(sizes) == expected


@pytest.mark.parametrize(
    ("settings", "strip_bytes"),
    [
        ("multiple", 1),
        ("sizes and mirror images", 4 * CLASSES * 141 * 7),
        ("slide", 4 * CLASSES * 24 * 7),
        ("slide over all", 4 * CLASSES * 24 * 25),
    ],
)
def test_no_pixel_depends_on_tiles_and_strips(settings, strip_bytes, monkeypatch):
    evaluation, image = SegmentationEvaluation(**SETTINGS[settings]), picture(90, 141)
    sizes, more = [], []
    expected = LabelMaps(counting(sizes), evaluation).probabilities(image)
    monkeypatch.setattr(label_maps, "KEPT_PIXELS", 15_000)
    monkeypatch.setattr(label_maps, "STRIP_BYTES", strip_bytes)
    found = LabelMaps(counting(more), evaluation).probabilities(image)
    np.testing.assert_array_equal(found, expected)
    assert len(more) > len(sizes) or settings == "multiple"
    corners = {(y, x) for y, x, _ in LabelMaps(coarse, evaluation).blocks(image)}
    assert len({y for y, _ in corners}) > 5
    assert (len({x for _, x in corners}) > 1) == ("slide" in settings)


@pytest.mark.parametrize("settings", ["sizes and mirror images", "slide", "slide over all"])
def test_a_graph_gives_the_same_bits(settings, monkeypatch):
    monkeypatch.setattr(label_maps, "KEPT_PIXELS", 15_000)
    monkeypatch.setattr(label_maps, "STRIP_BYTES", 4 * CLASSES * 53 * 17)
    kernel = tf.constant(np.random.default_rng(2).normal(size=(5, 5, 3, CLASSES)) / 300, tf.float32)

    def forward(images):
        return tf.nn.conv2d(images, kernel, 4, "SAME")

    maps = LabelMaps(forward, SegmentationEvaluation(**SETTINGS[settings]))
    images = tf.TensorSpec((None, None, 3), tf.uint8)
    graph = tf.function(lambda x: (maps(x), maps.probabilities(x)), input_signature=[images], autograph=False)
    for size in ((37, 53), (60, 141)):
        image = picture(*size)
        labels, probabilities = graph(image)
        np.testing.assert_array_equal(labels, maps(image))
        np.testing.assert_array_equal(probabilities, maps.probabilities(image))


def test_a_model_of_one_size_takes_smaller_images():
    """As the image with a border of the mean colour, of which the logits are cut off."""
    seen = []

    def forward(images):
        seen.append(np.asarray(images))
        return coarse(images)

    image = picture(20, 27)
    evaluation = SegmentationEvaluation(mode="slide", window=(32, 24), stride=(32, 24))
    found = LabelMaps(padded(forward, (32, 24)), evaluation).probabilities(image)
    assert {images.shape for images in seen} == {(1, 32, 24, 3)}
    np.testing.assert_allclose(seen[0][0, :20], image[:, :24])
    np.testing.assert_allclose(seen[0][0, 20:], np.broadcast_to(label_maps.FILL, (12, 24, 3)), rtol=1e-6)
    np.testing.assert_allclose(found, LabelMaps(coarse, evaluation).probabilities(image), atol=1e-6)
    assert padded(coarse, (None, None)) is coarse


def test_coarse_logits_resized_twice_are_the_models_own_resized():
    model = tfvt.create_model(
        "fpn_resnet50",
        backbone_options={"width": 8, "depths": (1, 1, 1, 1)},
        num_classes=7,
        input_shape=(None, None, 3),
        pyramid_channels=32,
        head_channels=16,
    )
    image = picture(75, 110)
    evaluation = SegmentationEvaluation(scale=(160, 90), size_multiple=32)
    pixels = resized(image, 96, 160).astype("float32")
    logits = keras.ops.convert_to_numpy(model(pixels[None]))[0]
    assert logits.shape == (96, 160, 7)
    logits = resized(logits, 75, 110)
    found = np.log(LabelMaps(coarse_model(model), evaluation).probabilities(image))
    np.testing.assert_allclose(
        found - found.mean(-1, keepdims=True), logits - logits.mean(-1, keepdims=True), atol=1e-4
    )
