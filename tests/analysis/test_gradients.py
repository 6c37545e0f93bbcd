"""Saliency and class visualisation: gradients against differences, and images that a model takes for a class."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.analysis import class_gradients, visualize_classes
from tfvt.models.vit import Block

VIT = {"blocks": (Block(1, 16, 24),), "head_dim": 8, "input_shape": (16, 32, 3), "num_classes": 4}


def linear(size=(12, 16)):
    """A classifier whose logits are sums over the image: class 0 likes red on the left, class 1 blue on the right."""
    inputs = keras.Input((*size, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(keras.layers.Flatten()(inputs)), name="linear")
    kernel = np.zeros((*size, 3, 2), "float32")
    kernel[:, : size[1] // 2, 0, 0] = 0.01
    kernel[:, size[1] // 2 :, 2, 1] = 0.01
    model.layers[-1].kernel.assign(kernel.reshape(-1, 2))
    return model, kernel


def test_gradients_of_a_linear_model_are_its_weights():
    model, kernel = linear()
    images = contracts.random_images((3, 12, 16, 3))
    found = class_gradients(model, images, [0, 1, 1])
    np.testing.assert_allclose(found.logits, np.einsum("bhwc,hwcl->bl", images, kernel), rtol=1e-4)
    np.testing.assert_allclose(found.gradients, np.moveaxis(kernel, -1, 0)[[0, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(found.saliency[0], kernel[:, :, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(class_gradients(model, images).classes, found.logits.argmax(axis=-1))


def test_gradients_are_those_of_differences():
    model = tfvt.create_model("vit_tiny16", **VIT)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:  # so that the logit bends
        weight.assign(keras.ops.convert_to_numpy(weight) + rng.normal(0, 0.1, weight.shape))
    images = contracts.random_images((2, 16, 32, 3))
    found = class_gradients(model, images.astype("uint8"), [3, 1])
    for _ in range(3):
        step = rng.normal(size=images.shape)
        logits = [contracts.arrays(model((images + sign * step).astype("float32")))[0] for sign in (1, -1)]
        expected = (logits[0] - logits[1])[[0, 1], [3, 1]] / 2
        np.testing.assert_allclose((found.gradients * step).sum(axis=(1, 2, 3)), expected, rtol=0.02, atol=2e-4)


def test_class_images_have_what_the_class_likes():
    model, _ = linear()
    images, shares = visualize_classes(model, [1, 0], steps=30)
    assert images.shape == (2, 12, 16, 3)
    assert (images.min(), images.max()) >= (0, 0)
    assert images.max() <= 255
    blue, red = images
    assert blue[:, 8:, 2].mean() > blue[:, :8, 2].mean() + 20
    assert red[:, :8, 0].mean() > red[:, 8:, 0].mean() + 20
    assert np.abs(blue[..., :2] - 127.5).max() < 40  # the rest stays grey
    assert shares.min() > 0.7
    again, _ = visualize_classes(model, [1, 0], steps=30)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(visualize_classes(model, [1, 0], steps=30, seed=1)[0], images)


def test_class_images_are_smooth():
    """Of a model that likes one pixel of eight, plain ascent would draw dots."""
    model, kernel = linear((32, 32))
    kernel[np.random.default_rng(0).uniform(size=(32, 32)) > 1 / 8] = 0
    model.layers[-1].kernel.assign(kernel.reshape(-1, 2))
    ((image,), _) = visualize_classes(model, [0], steps=30)
    red = image[..., 0] - image[..., 0].mean()
    neighbours = (red[:, 1:] * red[:, :-1]).mean() / (red**2).mean()
    assert neighbours > 0.8


def test_mistakes_are_named():
    model, _ = linear()
    images = np.zeros((1, 12, 16, 3))
    for classes in ([2], [-1]):
        with pytest.raises(ValueError, match=rf"class {classes[0]}: linear has the classes 0 to 1"):
            class_gradients(model, images, classes)
    segmenter = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 1)], name="pixels")
    with pytest.raises(ValueError, match="pixels is no classifier: it gives"):
        visualize_classes(segmenter, [0])
    free = tfvt.create_model("resnet18", input_shape=(None, None, 3), width=8, depths=(1,), num_classes=3)
    with pytest.raises(ValueError, match=r"resnet18 takes images of any size: pass image_size="):
        visualize_classes(free, [0])
    assert visualize_classes(free, [2], steps=1, image_size=(20, 24))[0].shape == (1, 20, 24, 3)
