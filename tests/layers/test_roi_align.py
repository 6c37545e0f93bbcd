"""RoIAlign against NumPy, sample by sample."""

import keras
import numpy as np
import pytest

from tests.contracts import gradients
from tests.layers.box_sets import on_arrays
from tfvt.layers.roi_align import RoIAlign, box_levels, roi_align

SIDES, STRIDES = [(16, 24), (8, 12), (4, 6)], (4, 8, 16)  # of an image of 64 x 96


def pyramid(channels=5):
    return [
        np.random.default_rng(n).normal(size=(2, *side, channels)).astype("float32") for n, side in enumerate(SIDES)
    ]


def boxes():
    """Of every level, over the border, of the whole image, without area."""
    drawn = np.random.default_rng(0).uniform(0, 1, (2, 12, 2, 2)) * [64, 96]
    drawn = np.sort(drawn, axis=2).reshape(2, 12, 4)
    drawn[:, :4] *= 0.3
    drawn[:, 4] = [-20, -30, 9, 9]
    drawn[:, 5] = [50, 80, 90, 130]
    drawn[:, 6] = [0, 0, 64, 96]
    drawn[:, 7] = [10, 20, 10, 50]
    return drawn.astype("float32")


def bilinear(x, at, column):
    """The value of a map (H, W, C) at a point, in pixels; zero more than one pixel outside."""
    height, width, channels = x.shape
    if not (-1 <= at <= height and -1 <= column <= width):
        return np.zeros(channels)
    at, column = np.clip(at, 0, height - 1), np.clip(column, 0, width - 1)
    total = 0
    for row in range(height):
        for place in range(width):
            total = total + max(0, 1 - abs(at - row)) * max(0, 1 - abs(column - place)) * x[row, place]
    return total


def aligned_box(maps, box, size, samples, aligned):
    side = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = int(np.clip(np.floor(np.log2(side / 56 + 1e-6)), 0, len(maps) - 1))
    top, left, bottom, right = box / STRIDES[level] - (0.5 if aligned else 0)
    height, width = (end - start if aligned else max(end - start, 1) for start, end in ((top, bottom), (left, right)))
    cells = np.zeros((size, size, maps[0].shape[-1]))
    for row, column, i, j in np.ndindex(size, size, samples, samples):
        at = top + (row + (i + 0.5) / samples) * height / size
        place = left + (column + (j + 0.5) / samples) * width / size
        cells[row, column] += bilinear(maps[level], at, place) / samples**2
    return cells


@pytest.mark.parametrize(("samples", "aligned"), [(2, True), (2, False), (1, True)])
def test_cells(samples, aligned):
    maps, given = pyramid(), boxes()

    def cells(boxes, *maps):
        return roi_align(maps, STRIDES, boxes, 3, samples, aligned)

    actual = on_arrays(cells)(given, *maps)
    for image in range(2):
        own = [x[image] for x in maps]
        expected = [aligned_box(own, box, 3, samples, aligned) for box in given[image].astype("float64")]
        np.testing.assert_allclose(actual[image], expected, atol=2e-5)


def test_the_level_of_a_box():
    """56 pixels and less read the finest map, 112 the second; no box is too large."""
    sides = np.array([0, 1, 55, 111.9, 112, 223, 224, 1e5], "float32")
    squares = np.stack([sides * 0, sides * 0, sides, sides], axis=-1)[None]
    np.testing.assert_array_equal(on_arrays(box_levels, levels=3)(squares)[0], [0, 0, 0, 0, 1, 1, 2, 2])


class Moved(keras.layers.Layer):
    """Boxes that a weight moves."""

    def build(self, shape):
        self.shift = self.add_weight(shape=(4,), initializer="zeros", name="shift")

    def call(self, x):
        return x + self.shift


def test_no_gradient_reaches_the_boxes():
    given = {"boxes": boxes()} | {f"map{n}": x for n, x in enumerate(pyramid())}
    inputs = {name: keras.Input(value.shape[1:], name=name) for name, value in given.items()}
    maps = [inputs[f"map{n}"] for n in range(3)]
    cells = RoIAlign(("P2", "P3", "P4"), 3)(maps, Moved(name="moved")(inputs["boxes"]))
    found = gradients(keras.Model(inputs, keras.layers.Dense(1, name="after")(cells)), given)
    assert np.abs(found["after/kernel"]).max() > 0
    assert found["moved/shift"] is None or not found["moved/shift"].any()


def test_boxes_of_a_model_that_diverged():
    """Training then ends by its loss, and not by an index outside the map."""
    maps, given = pyramid(), boxes()[:, :3]
    given[:, 0], given[:, 1, 2], given[:, 2, 0] = np.nan, np.inf, -np.inf
    aligned = on_arrays(lambda boxes, *maps: roi_align(maps, STRIDES, boxes, 3))
    np.testing.assert_array_equal(aligned(given, *maps), aligned(np.where(np.isfinite(given), given, 0), *maps))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its graphs can leave sizes open")
def test_in_a_graph_for_maps_of_any_size():
    tf = pytest.importorskip("tensorflow")
    maps, given = pyramid(), boxes()
    signature = [tf.TensorSpec((None, None, 4)), [tf.TensorSpec((None, None, None, 5))] * 3]
    compiled = tf.function(lambda boxes, maps: roi_align(maps, STRIDES, boxes, 2), input_signature=signature)
    np.testing.assert_allclose(compiled(given, maps), roi_align(maps, STRIDES, given, 2), atol=1e-6)
