"""No number of any builder or layer may be NaN, infinite, absurd or negative; nothing is built before that is known."""

import inspect
import json
import typing

import keras
import numpy as np
import pytest

import tfvt
from tests.contracts import SMALLEST
from tests.layers.test_keras_contract import ROWS
from tfvt import layers
from tfvt.checks import check_numbers
from tfvt.registry import get_variant

BAD = [float("nan"), float("inf"), float("-inf"), 10**12, -(10**9), True]


def numbers_of(builder):
    """[(argument, length)] of what a builder's annotations say is a number (length 0) or a sequence of numbers."""
    found = []
    for argument, hint in typing.get_type_hints(builder).items():
        kinds = [kind for kind in (typing.get_args(hint) or [hint]) if kind is not type(None)]
        tuples = [kind for kind in [hint, *kinds] if typing.get_origin(kind) is tuple]
        if {int, float} & set(kinds) and not tuples:
            found.append((argument, 0))
        elif tuples and {int, float} & {k for t in typing.get_args(tuples[0]) for k in (t, *typing.get_args(t))}:
            found.append((argument, 3))
    return found


@pytest.mark.parametrize(
    ("name", "argument", "length"),
    [(name, *found) for name in SMALLEST.values() for found in numbers_of(get_variant(name).builder)],
)
def test_a_builder_refuses(name, argument, length, monkeypatch):
    monkeypatch.setattr(keras, "Input", lambda *_, **__: pytest.fail("the model is being built"))
    for bad in BAD:
        value = (64, bad, 3) if length else bad
        with pytest.raises(ValueError, match=rf"^{argument}=.*: expected .* (at least|above)") as error:
            tfvt.create_model(name, **{argument: value})
        assert "\n" not in str(error.value)


def layer_numbers(name):
    arguments = ROWS[name][0][0]
    parameters = inspect.signature(getattr(layers, name)).parameters
    values = {p: parameter.default for p, parameter in parameters.items()} | arguments
    return [p for p, value in values.items() if isinstance(value, int | float | tuple) and not isinstance(value, bool)]


OURS = [name for name in ROWS if name != "BatchNormalization"]  # its arguments are Keras', and builders check them


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in OURS for argument in layer_numbers(name)])
def test_a_layer_refuses(name, argument):
    given = ROWS[name][0][0]
    for bad in BAD:
        value = (bad, 2) if isinstance(given.get(argument), tuple) else bad
        with pytest.raises(ValueError, match=rf"^{argument}=.*: expected .*at least"):
            getattr(layers, name)(**given | {argument: value})


def test_options_of_norms_are_numbers_too():
    with pytest.raises(ValueError, match=r"^norm_options\.epsilon=nan: expected a number of at least 1e-30"):
        layers.LinearNorm(4, norm_options={"epsilon": float("nan")})
    with pytest.raises(
        ValueError, match=r"^batch_norm_options\.momentum=1: expected a number of at least 0 and below 1"
    ):
        layers.SANAttention(8, batch_norm_options={"momentum": 1})


@pytest.mark.parametrize("argument", ["layer_norm_epsilon", "epsilon"])
def test_epsilon_is_above_zero(argument):
    check_numbers({argument: 1e-12})
    for bad in (0, -1e-6, 1e-46, "1e-6", 1):
        with pytest.raises(ValueError, match=f"{argument}=.*: expected a number of at least 1e-30 and at most 0.1"):
            check_numbers({argument: bad})


def test_missing_values_are_named():
    with pytest.raises(ValueError, match="width=None: expected a value"):
        tfvt.create_model("resnet18", width=None)
    assert tfvt.create_model("vt_resnet18", key_dim=None, input_shape=(32, 32, 3)).name == "vt_resnet18"


def test_the_allowed_values_are_allowed():
    numbers = {
        "dropout_rate": 0.999,
        "width": 65536,
        "num_classes": 10_000_000,
        "depths": [1, 1000],
        "kernel_size": 255,
    }
    check_numbers(numbers | {"input_shape": (None, 16384, 3), "pixel_std": (1e-6, 0.5), "key_dim": None, "name": "x"})


NUMPY_OPTIONS = {
    "acmix_resnet": {"depths": (1, 1), "num_heads": 2, "attention_kernel_size": 3},
    "pvt": {"depths": (1, 1, 1, 1), "head_dim": 32},
    "resnet": {"depths": (1, 1), "dropout_rate": 0.5},
    "san": {"depths": (1, 1), "first_kernel_size": 3, "kernel_size": 3},
    "swin": {"depths": (1, 1), "window_size": 4, "mlp_ratio": 2},
    "vit": {"patch_size": 8, "representation_dim": 6},
    "vt_resnet": {"depths": (1, 1), "num_tokens": 4, "token_dim": 64, "kmeans_iterations": 2, "num_heads": 2},
}


@pytest.mark.parametrize("family", NUMPY_OPTIONS)
def test_numpy_numbers_are_numbers(family):
    numbers = NUMPY_OPTIONS[family] | {"num_classes": 3, "input_shape": (64, 64, 3)}
    options = {key: tuple(np.array(v)) if isinstance(v, tuple) else np.array(v)[()] for key, v in numbers.items()}
    if family == "vt_resnet":
        options["tokenizer"] = "cluster"
    if family == "vit":
        options["blocks"] = [{key: np.int64(v) for key, v in (("layers", 1), ("hidden_dim", 64), ("mlp_dim", 32))}] * 2
    model = tfvt.create_model(SMALLEST[family], **options)
    assert model.output_shape == (None, 3)
    json.dumps(model.get_config())  # which NumPy's numbers would end


def test_arguments_that_a_builder_does_not_have_are_named_with_it():
    builder = get_variant("resnet18").builder
    with pytest.raises(TypeError, match=r"^resnet\(\) got an unexpected keyword argument 'trunk'$"):
        builder(block="basic", depths=(1,), trunk=None)
    with pytest.raises(TypeError, match=r"^resnet\(\) missing a required argument: 'depths'$"):
        builder(block="basic")
