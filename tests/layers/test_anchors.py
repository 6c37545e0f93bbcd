"""Anchors, and the heads whose answers they order."""

import math

import numpy as np
import pytest
from keras import ops

from tfvt.layers import LevelOutputs, LevelTower
from tfvt.layers.anchors import Anchors

RNG = np.random.default_rng(0)


def anchors_of(layer, height, width, strides, batch=1):
    image = np.zeros((batch, height, width, 3), "float32")
    maps = [np.zeros((batch, math.ceil(height / s), math.ceil(width / s), 5), "float32") for s in strides]
    return ops.convert_to_numpy(layer(image, maps))


def written_out(height, width, levels, scales, ratios):
    """Anchors by one loop for each of their indices."""
    anchors = []
    for level in levels:
        stride = 2 ** int(level[1:])
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                for ratio in ratios:
                    for scale in scales:
                        h, w = stride * scale * math.sqrt(ratio), stride * scale / math.sqrt(ratio)
                        y, x = row * stride, column * stride
                        anchors.append((y - h / 2, x - w / 2, y + h / 2, x + w / 2))
    return np.array(anchors)


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (7, 3)])
def test_anchors_are_those_of_the_formula(size):
    levels, scales, ratios = ("P2", "P4"), (4.0, 4 * 2**0.5), (0.5, 1.0, 3.0)
    anchors = anchors_of(Anchors(levels, scales, ratios), *size, (4, 16), batch=2)
    expected = written_out(*size, levels, scales, ratios)
    np.testing.assert_allclose(anchors, [expected, expected], atol=1e-4)


def test_whole_anchors_by_hand():
    """A side of 4 * 2 ** (1 / 3) strides of 8 is cut to 40; half of 56.57 and of 28.28 round to 28 and 14."""
    anchors = anchors_of(Anchors(("P3",), (4 * 2 ** (1 / 3),), (1.0, 2.0), whole=True), 8, 16, [8])
    expected = [[-20, -20, 20, 20], [-28, -14, 28, 14]]
    expected += [[-20, -12, 20, 28], [-28, -6, 28, 22]]  # 8 pixels to the right
    np.testing.assert_array_equal(anchors[0], expected)


def test_strides_of_whole_anchors_follow_from_the_map():
    """Of 100 rows a map of stride 64 has 2: as torchvision's they lie 50 apart."""
    anchors = anchors_of(Anchors(("P6",), (1.0,), (1.0,), whole=True), 100, 64, [64])
    np.testing.assert_array_equal(anchors[0, :, 0], [-32, 18])


@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_tower_sees_each_level_alone(norm):
    maps = [RNG.normal(size=(2, 4, 5, 6)).astype("float32"), RNG.normal(size=(2, 2, 3, 6)).astype("float32")]
    tower = LevelTower(32, 2, norm)
    for together, alone in zip(tower(maps), [tower([x])[0] for x in maps], strict=True):
        np.testing.assert_allclose(*(ops.convert_to_numpy(x) for x in (together, alone)), atol=1e-6)
    shapes = {"none": [(3, 3, 6, 32), (32,)], "group": [(3, 3, 6, 32), (3, 3, 32, 32)]}
    assert [tuple(w.shape) for w in tower.trainable_variables][:2] == shapes[norm]


def test_outputs_stand_in_the_order_of_the_anchors():
    """By a 1x1 that adds a constant for each of its filters to the pixel's number."""
    layer = LevelOutputs(units=2, per_pixel=3, kernel_size=1, prior=0.9)
    maps = [np.arange(6, dtype="float32").reshape(1, 2, 3, 1) * 10, np.full((1, 1, 1, 1), 100, "float32")]
    assert layer(maps).shape == (1, 21, 2)
    np.testing.assert_allclose(layer.get_weights()[1], [math.log(9)] * 6, rtol=1e-6)
    layer.set_weights([np.ones((1, 1, 1, 6)), np.arange(6) / 10])
    expected = [[pixel + a * 0.2, pixel + a * 0.2 + 0.1] for pixel in (0, 10, 20, 30, 40, 50, 100) for a in range(3)]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(maps))[0], expected, atol=1e-5)


def test_a_norm_needs_channels_of_its_groups():
    with pytest.raises(ValueError, match="group norm of 48 channels: expected a multiple of 32"):
        LevelTower(48, norm="group")
