"""Losses of detectors against their formulas in float64."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings

from tests.contracts import arrays, gradients
from tests.layers.box_sets import box_sets, iou, on_arrays
from tfvt.layers.losses import giou_loss, sigmoid_focal_loss, smooth_l1


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_focal_loss(gamma, alpha):
    logits = np.linspace(-12, 12, 49, dtype="float32")[:, None]
    targets = np.broadcast_to(np.array([0, 1], "int32"), (49, 2))
    p = 1 / (1 + np.exp(-logits.astype("float64")))
    p = np.where(targets == 1, p, 1 - p)
    expected = np.where(targets == 1, alpha, 1 - alpha) * (1 - p) ** gamma * -np.log(p)
    actual = on_arrays(sigmoid_focal_loss, gamma=gamma, alpha=alpha)(np.repeat(logits, 2, axis=1), targets)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_focal_loss_and_its_gradient_are_finite_everywhere():
    """The form with the logarithm of a probability is NaN from 20 on."""
    layer = keras.layers.Embedding(8, 1, embeddings_initializer="zeros")
    index, target = keras.Input((), dtype="int32"), keras.Input((1,))
    model = keras.Model([index, target], keras.layers.Lambda(lambda x: sigmoid_focal_loss(*x))([layer(index), target]))
    logits = np.array([-200, -90, -20, 0, 0, 20, 90, 200], "float32")
    layer.set_weights([logits[:, None]])
    for target in (0, 1):
        inputs = [np.arange(8), np.full((8, 1), target, "float32")]
        assert np.isfinite(arrays(model(inputs))[0]).all()
        (gradient,) = gradients(model, inputs).values()
        assert np.isfinite(gradient).all()
        assert (gradient[[3, 4]] != 0).all()


def test_smooth_l1():
    errors = np.array([-3, -0.5, -0.1, 0, 0.05, 1, 2], "float32")
    np.testing.assert_allclose(on_arrays(smooth_l1)(errors), np.abs(errors))
    expected = [2.75, 0.25, 0.01, 0, 0.0025, 0.75, 1.75]
    np.testing.assert_allclose(on_arrays(smooth_l1, beta=0.5)(errors), expected, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(box_sets((6,)), box_sets((6,)))
def test_giou(a, b):
    actual = on_arrays(giou_loss)(a, b)
    for x, y, value in zip(a, b, actual, strict=True):
        around = (max(x[2], y[2]) - min(x[0], y[0])) * (max(x[3], y[3]) - min(x[1], y[1]))
        overlap = iou(x, y)
        areas = [(z[2] - z[0]) * (z[3] - z[1]) for z in (x, y)]
        union = sum(areas) / (1 + overlap)
        if around:
            np.testing.assert_allclose(value, 1 - overlap + (around - union) / around, atol=1e-5)
        assert 0 <= value <= 2
