"""Every model passes the contracts; the smallest of each family in every run, all names in `make test-all`."""

import inspect

import keras
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

NAMES = [
    pytest.param(name, marks=[] if name in contracts.SMALLEST.values() else pytest.mark.slow)
    for name in tfvt.list_models()
]


def test_every_family_has_a_smallest_model():
    families = {get_variant(name).builder.__name__ for name in tfvt.list_models()}
    assert {*contracts.SMALLEST, *contracts.SMALLEST_DENSE} == families


@pytest.mark.parametrize("name", NAMES)
def test_model(name):
    contracts.check_model(name)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision(name):
    contracts.check_mixed_precision(name)


@pytest.mark.parametrize("name", NAMES)
def test_common_arguments(name):
    """Every builder takes the arguments that the whole registry shares, with one default each."""
    parameters = inspect.signature(get_variant(name).builder).parameters
    defaults = {"num_classes": 1000, "input_shape": (224, 224, 3), "include_top": True, "features": None}
    defaults |= {"dropout_rate": 0.0, "drop_path_rate": 0.0}
    assert {key: parameters[key].default for key in defaults} == defaults
    assert {"pixel_mean", "pixel_std"} <= set(parameters)


@pytest.mark.parametrize("name", [n for n in NAMES if get_variant(n.values[0]).task == "classification"])
def test_embedding(name):
    """Without the head a model gives the vectors that the head would read."""
    shape = contracts.image_shape(name)
    model = tfvt.create_model(name, num_classes=3, input_shape=shape)
    body = tfvt.create_model(name, include_top=False, input_shape=shape)
    kernel, bias = model.get_layer("head").get_weights()
    body.set_weights(model.get_weights()[: len(body.weights)])
    images = contracts.random_images((2, *shape))
    embedding = keras.ops.convert_to_numpy(body(images))
    assert embedding.shape == (2, kernel.shape[0])
    logits = keras.ops.convert_to_numpy(model(images))
    assert abs(embedding @ kernel + bias - logits).max() < 1e-4
