"""A model cut into its blocks is the same model."""

import keras
import numpy as np
import pytest

import tfvt
from tests import contracts
from tfvt.models.blocks import Rematerialized, cut

DROP = {"dropout_rate": 0.2, "drop_path_rate": 0.3, "num_classes": 5}
BLOCKS = ({"layers": 2, "hidden_dim": 64, "mlp_dim": 64}, {"layers": 1, "hidden_dim": 128, "mlp_dim": 64, "stride": 2})
MODELS = {  # name: size, options, the tensors that go into each part
    "vit_tiny16": (32, {"blocks": BLOCKS}, [1, 1, 1, 2]),  # pooled tokens and those before pooling
    "resnet18": (32, {"width": 8, "depths": (2, 1)}, [1, 1, 1, 1]),
    "vt_resnet18": (
        32,
        {"width": 16, "depths": (1, 1), "num_modules": 3, "output_channels": 32, "token_dim": 32},
        [1, 1, 1, 1, 2, 2],  # a map and tokens
    ),
    "acmix_resnet26": (49, {"width": 8, "depths": (1, 1), "num_heads": 2}, [1, 1, 1]),
    "san10": (32, {"width": 32, "depths": (1, 1)}, [1, 1, 1]),
    "pvt_tiny": (32, {"depths": (1, 1, 1, 2)}, [1, 1, 1, 1, 2, 2]),  # pixels and the class token
    "swin_tiny": (32, {"depths": (2, 1), "width": 32, "head_dim": 16}, [1, 1, 1, 1]),
}


def values_of(model):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in model.variables]


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras' dropout there does not follow the states of its generators"
)
@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_a_model_train_as_the_whole(name):
    size, options, inputs = MODELS[name]
    model = tfvt.create_model(name, input_shape=(size, size, 3), **DROP, **options)
    config, before = model.get_config(), values_of(model)
    parts = cut(model)
    assert [len(part.inputs) for part in parts] == inputs
    for kind in ("trainable_variables", "non_trainable_variables"):  # each in one part, in order
        assert [v.path for part in parts for v in getattr(part.model, kind)] == [v.path for v in getattr(model, kind)]
    images = contracts.random_images((4, size, size, 3))
    expected = keras.ops.convert_to_numpy(model(images, training=True))
    after = values_of(model)
    assert any(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))  # states of random generators
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    called = []

    def checkpoint(function):
        called.append(function)
        return function

    outputs = Rematerialized(model, checkpoint)(images)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(outputs), expected)
    for value, other in zip(values_of(model), after, strict=True):
        np.testing.assert_array_equal(value, other)
    assert len(called) == len(parts) - 1
    assert model.get_config() == config  # `final.keras` is as without it


def test_a_dictionary_of_maps_is_given_as_the_whole_gives_it():
    model = tfvt.create_model("resnet18", input_shape=(32, 32, 3), features=("P2", "P4"), width=8, depths=(1, 1, 1))
    images = contracts.random_images((2, 32, 32, 3))
    expected, given = model(images, training=True), Rematerialized(model, lambda function: function)(images)
    assert list(given) == ["P2", "P4"]
    for level, value in expected.items():
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v) for v in (given[level], value)))


def test_a_model_whose_head_reads_the_image_again_is_saved_as_before(tmp_path):
    """Segmentation models resize their logits to the image."""
    backbone = {"backbone": "resnet18", "backbone_options": {"width": 16, "depths": (1, 1, 1, 1)}}
    options = {"pyramid_channels": 16, "head_channels": 16, **backbone}
    model = tfvt.create_model("fpn_resnet50", num_classes=5, input_shape=(None, None, 3), **options)
    rematerialized = Rematerialized(model, lambda function: function)
    images = contracts.random_images((2, 64, 96, 3))
    (before,) = contracts.arrays(model(images, training=True))
    (after,) = contracts.arrays(rematerialized(images))
    np.testing.assert_allclose(after, before, atol=1e-4)
    model.save(tmp_path / "model.keras")
    saved = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(contracts.arrays(m(images, training=False))[0] for m in (saved, model)))


def test_a_model_that_is_no_chain_of_blocks_is_refused():
    x = inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"^plain has no blocks: no layer's name begins like encoder_layer"):
        cut(keras.Model(inputs, keras.layers.Dense(2)(x), name="plain"))
    with pytest.raises(ValueError, match=r"^row has no blocks"):
        cut(keras.Sequential([keras.layers.Dense(2)], name="row"))
    layer = keras.layers.Dense(4, name="encoder_layer1")
    with pytest.raises(ValueError, match=r"^twice calls a layer more than once: it is no chain of blocks$"):
        cut(keras.Model(inputs, keras.layers.Dense(2, name="encoder_layer2")(layer(layer(x))), name="twice"))
