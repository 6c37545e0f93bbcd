"""Batch norms folded into the layers before them leave the answers as they were."""

import re

import keras
import numpy as np
import pytest

import tfvt
from tests import contracts
from tfvt.layers import JoinedConvolution
from tfvt.models.detection import detector

BATCH_NORM = keras.layers.BatchNormalization

# What the wiring of each model gives: batch norms, and how many of them read one convolution or dense layer alone.
COUNTS = {
    "resnet18": (20, 20),
    "vt_resnet18": (33, 33),
    "acmix_resnet26": (29, 21),  # the others follow ACmix, a sum of two paths
    "san10": (46, 1),  # the others come before their layers
    "vit_tiny16": (0, 0),
    "swin_tiny": (0, 0),
    "pvt_tiny": (0, 0),
}
TOKENS = {"width": 8, "depths": (1, 1), "output_channels": 32, "token_dim": 24}
SMALL = {  # name: options of a small model, batch norms that stay
    "resnet50": ({"width": 8, "depths": (1, 2)}, 0),
    "vt_resnet18": (TOKENS | {"drop_path_rate": 0.1}, 0),
    "vt_resnet50": (TOKENS | {"tokenizer": "cluster", "relation": "graph", "num_modules": 2}, 0),
    "acmix_resnet26": ({"width": 8, "depths": (1, 1), "num_heads": 2}, 2),
    "san10": ({"width": 32, "depths": (1, 1)}, 10),
    "fpn_resnet50": ({"backbone_options": {"width": 8, "depths": (1, 1, 1, 1)}}, 0),
    "vt_fpn_resnet50": ({"backbone_options": {"width": 8, "depths": (1, 1, 1, 1)}, "token_dim": 32}, 0),
    "upernet_swin_tiny": (
        {"backbone": "resnet18", "backbone_options": {"width": 8}, "neck_channels": 16, "auxiliary": True},
        0,
    ),
}


def norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, BATCH_NORM)]


def randomized(model, seed=0):
    """The model, every batch norm and bias of which has random numbers, as after training."""
    rng = np.random.default_rng(seed)
    for layer in norms(model):
        for variable, low in ((layer.gamma, 0.5), (layer.beta, -0.5), (layer.moving_mean, -1)):
            variable.assign(rng.uniform(low, 1, variable.shape))
        layer.moving_variance.assign(rng.uniform(0.2, 2, layer.moving_variance.shape))
    for variable in model.weights:
        if variable.name == "bias":
            variable.assign(rng.normal(size=variable.shape))
    return model


def values(model):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in model.variables]


def assert_same_answers(model, other, inputs, relative=1e-4):
    answers = [contracts.arrays(contracts.answer(each, inputs)) for each in (model, other)]
    for expected, actual in zip(*answers, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", COUNTS)
def test_the_norms_that_fold_are_those_of_the_wiring(name):
    model = tfvt.create_model(name, input_shape=(128, 128, 3), num_classes=3)
    fused = tfvt.fuse(model)
    assert (len(norms(model)), len(norms(model)) - len(norms(fused))) == COUNTS[name]


@pytest.mark.parametrize("name", SMALL)
def test_a_fused_model_gives_the_same_answers_at_an_odd_size(name, tmp_path):
    options, stay = SMALL[name]
    model = randomized(tfvt.create_model(name, input_shape=(101, 75, 3), num_classes=3, **options))
    before, config, images = values(model), model.get_config(), contracts.random_images((2, 101, 75, 3))
    fused = tfvt.fuse(model)
    assert_same_answers(model, fused, images)
    assert len(norms(fused)) == stay
    assert (fused.name, fused.input.name, type(fused)) == (model.name, model.input.name, type(model))
    assert model.get_config() == config
    for value, after in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(value, after)
    fused.save(tmp_path / "fused.keras")
    assert_same_answers(fused, keras.models.load_model(tmp_path / "fused.keras"), images, relative=0)
    again = tfvt.fuse(fused)
    assert [v.shape for v in again.variables] == [v.shape for v in fused.variables]
    assert_same_answers(fused, again, images, relative=0)


def test_a_detector_in_parts_is_fused_as_well():
    options = {"backbone": "resnet18", "backbone_options": {"width": 8}, "pyramid_channels": 16}
    options |= {"proposals": 12, "training_proposals": 12, "box_head": "convolution"}
    model = randomized(tfvt.create_model("mask_rcnn_swin_tiny", input_shape=(96, 65, 3), num_classes=3, **options))
    whole = detector(model)
    fused = tfvt.fuse(whole)
    assert fused.get_layer("network").input["boxes"]._keras_history.operation.optional
    assert len(norms(whole)) == 24
    assert len(norms(fused)) == 0
    inputs = {"image": contracts.random_images((1, 96, 65, 3)), "size": np.array([[96, 65]], "int32")}
    expected, actual = (model.predict_on_batch(inputs) for model in (whole, fused))
    assert (expected["labels"] >= 0).any()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-3, atol=1e-3)


def built(layers, shape=(7, 5, 4)):
    inputs = keras.Input(shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    return randomized(keras.Model(inputs, x))


LINEAR = {
    "bias": lambda: keras.layers.Conv2D(6, 3),
    "groups": lambda: keras.layers.Conv2D(6, 1, groups=2),
    "depthwise": lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=3, use_bias=False),
    "transposed": lambda: keras.layers.Conv2DTranspose(6, 2, 2),
    "dense": lambda: keras.layers.Dense(6),
    "grouped_dense": lambda: tfvt.layers.GroupedDense(6, 2, True),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_every_kind_of_linear_layer_takes_the_norm(kind):
    model = built([LINEAR[kind](), BATCH_NORM(epsilon=0.01)])
    fused = tfvt.fuse(model)
    assert norms(fused) == []
    assert_same_answers(model, fused, contracts.random_images((2, 7, 5, 4)) / 100)


def test_a_norm_without_scale_and_offset_folds():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, BATCH_NORM(scale=False, center=False)(keras.layers.Dense(3)(inputs)))
    norm = norms(model)[0]
    norm.moving_mean.assign([1, 2, 3])
    norm.moving_variance.assign([4, 5, 6])
    fused = tfvt.fuse(model)
    assert norms(fused) == []
    assert_same_answers(model, fused, np.eye(4, dtype="float32"))


def test_what_the_norm_does_not_read_alone_stays():
    inputs = keras.Input((6, 6, 4))
    shown = keras.layers.Conv2D(4, 1, name="shown")(inputs)  # also an output
    read = keras.layers.Conv2D(4, 1, name="read")(inputs)  # also of a sum
    curved = keras.layers.Conv2D(4, 1, activation="relu")(inputs)
    rows = keras.layers.Conv2D(4, 1)(inputs)
    learning = keras.layers.Conv2D(4, 1)(inputs)
    shared = keras.layers.Conv2D(4, 1)  # of two norms
    maps = [BATCH_NORM()(x) for x in (inputs, shown, read, curved, shared(inputs), shared(read))]
    maps += [BATCH_NORM(axis=1)(rows), BATCH_NORM()(learning, training=True), read]
    model = randomized(keras.Model(inputs, [keras.layers.add(maps), shown]))
    fused = tfvt.fuse(model)
    assert len(norms(fused)) == len(norms(model)) == 8
    assert_same_answers(model, fused, contracts.random_images((2, 6, 6, 4)), relative=0)


def test_a_pair_that_is_called_twice_folds_once():
    inputs, layer, norm = keras.Input((6, 4)), keras.layers.Dense(4), BATCH_NORM()
    model = randomized(keras.Model(inputs, norm(layer(norm(layer(inputs))))))
    fused = tfvt.fuse(model)
    assert norms(fused) == []
    assert_same_answers(model, fused, contracts.random_images((2, 6, 4)))


def test_nested_models_and_sequential_ones_are_fused():
    chain = keras.Sequential([keras.Input((7, 5, 4)), keras.layers.Conv2D(3, 3), BATCH_NORM()], name="chain")
    inputs = keras.Input((7, 5, 4), name="pixels")
    inner = keras.Model(inputs, {"map": chain(inputs)}, name="inner")
    outer = keras.Model(inputs, BATCH_NORM(name="last")(keras.layers.Dense(2)(inner(inputs)["map"])))
    randomized(outer)
    fused = tfvt.fuse(outer)
    assert norms(fused) == []
    assert [layer.name for layer in fused.layers if isinstance(layer, keras.Model)] == ["inner"]
    images = contracts.random_images((2, 7, 5, 4)) / 100
    assert_same_answers(outer, fused, images)
    alone = tfvt.fuse(chain)
    assert norms(alone) == []
    assert_same_answers(chain, alone, images)


def test_mixed_precision_stays_near():
    inputs = keras.Input((7, 5, 4))
    x = keras.layers.Conv2D(6, 3, dtype="mixed_bfloat16")(inputs)
    model = randomized(keras.Model(inputs, BATCH_NORM(dtype="mixed_bfloat16")(x)))
    fused = tfvt.fuse(model)
    assert norms(fused) == []
    images = contracts.random_images((2, 7, 5, 4)) / 255
    expected, actual = (keras.ops.convert_to_numpy(keras.ops.cast(m(images), "float32")) for m in (model, fused))
    np.testing.assert_allclose(actual, expected, atol=0.03 * np.abs(expected).max())


def test_a_class_of_others_that_computes_something_else_stays():
    class Standardized(keras.layers.Conv2D):
        def call(self, inputs):
            kernel = self.kernel / keras.ops.std(self.kernel, axis=(0, 1, 2))
            return keras.ops.conv(inputs, kernel, padding="valid")

    class Clipped(BATCH_NORM):
        def call(self, inputs, training=None, mask=None):
            return keras.ops.relu(super().call(inputs, training=training, mask=mask))

    images = contracts.random_images((2, 7, 5, 4)) / 100
    for layers in ([Standardized(6, 3), BATCH_NORM()], [keras.layers.Conv2D(6, 3), Clipped()]):
        model = built(layers)
        fused = tfvt.fuse(model)
        assert len(norms(fused)) == 1
        assert_same_answers(model, fused, images, relative=0)


def test_a_nested_model_that_is_called_in_training_keeps_the_statistics_of_the_batch():
    chain = keras.Sequential([keras.Input((7, 5, 4)), keras.layers.Conv2D(3, 3), BATCH_NORM()], name="chain")
    tokens = tfvt.layers.LinearNorm(3)
    inputs = keras.Input((7, 5, 4))
    model = randomized(keras.Model(inputs, [chain(inputs, training=True), tokens(inputs, training=True)]))
    images = contracts.random_images((2, 7, 5, 4)) / 100
    fused = tfvt.fuse(model)
    for expected, actual in zip(model(images), fused(images), strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (actual, expected)), atol=1e-5)


def test_statistics_of_pixels_that_a_layer_has_measured_are_kept():
    measured = keras.layers.Normalization()
    measured.adapt(contracts.random_images((8, 7, 5, 4)))
    model = built([keras.Sequential([measured]), keras.layers.Conv2D(6, 3), BATCH_NORM()])
    assert_same_answers(model, tfvt.fuse(model), contracts.random_images((2, 7, 5, 4)))


def test_a_function_as_a_layer_is_shared():
    model = built([keras.layers.Lambda(lambda x: np.pi * x), keras.layers.Conv2D(6, 3), BATCH_NORM()])
    fused = tfvt.fuse(model)
    assert norms(fused) == []
    assert_same_answers(model, fused, contracts.random_images((2, 7, 5, 4)) / 100)


def test_joined_convolution_has_a_bias():
    maps = [contracts.random_images((1, 6, 6, 2)), contracts.random_images((1, 3, 3, 2))]
    layer, biased = JoinedConvolution(3), JoinedConvolution(3, use_bias=True)
    layer.build([x.shape for x in maps])
    biased.build([x.shape for x in maps])
    biased.kernel.assign(layer.kernel)
    biased.bias.assign([1, 2, 3])
    actual, expected = (keras.ops.convert_to_numpy(each(maps)) for each in (biased, layer))
    np.testing.assert_allclose(actual, expected + np.array([1, 2, 3]), rtol=1e-5)


def test_a_model_of_another_kind_is_refused():
    class Subclassed(keras.Model):
        pass

    for model in (Subclassed(name="mine"), keras.Sequential([keras.layers.Dense(2)], name="mine")):
        with pytest.raises(
            ValueError, match=re.escape("functional or Sequential model that is built; mine is neither")
        ):
            tfvt.fuse(model)
