"""tfvt's pyramids as backbones of keras-hub's tasks: trained, saved, kept as presets."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import tfvt
from tfvt.hub import PyramidBackbone

# keras-hub calls models that it has built on lists of inputs with a tensor, which Keras notes.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:[\\s\\S]*structure of `inputs`:UserWarning")]

PVT = {"depths": (1, 1, 1, 1), "head_dim": 8}
RESNET = {"depths": (1, 1, 1, 1), "width": 8}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")

MASKS = np.eye(4, dtype="float32")[np.random.default_rng(1).integers(0, 4, (2, 64, 64))]


def values(weights):
    return [keras.ops.convert_to_numpy(weight) for weight in weights]


def step(model, targets, count=1):
    """Losses of `count` steps; every weight of the backbone that has a gradient moves."""
    before = values(model.trainable_weights)
    data = tf.data.Dataset.from_tensors((IMAGES, targets))
    losses = [model.fit(data, shuffle=False, verbose=0).history["loss"][0] for _ in range(count)]
    moved = [not np.array_equal(a, b) for a, b in zip(before, values(model.trainable_weights), strict=True)]
    assert np.isfinite(losses).all()
    return losses, dict(zip((weight.path for weight in model.trainable_weights), moved, strict=True))


def test_the_maps_are_those_of_the_model():
    backbone = PyramidBackbone("resnet18", input_shape=(64, 64, 3), options=RESNET)
    model = tfvt.create_model("resnet18", features=("P2", "P3", "P4", "P5"), input_shape=(64, 64, 3), **RESNET)
    weights = {weight.path: weight for weight in backbone.weights}
    for weight in model.weights:
        weight.assign(weights[weight.path])
    expected, found = model(IMAGES), backbone(IMAGES)
    assert list(backbone.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    assert backbone.hidden_dims == [8, 16, 32, 64]
    for level, array in expected.items():
        np.testing.assert_allclose(found[level], array, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"level_names=\('P1',\): expected as many as levels="):
        PyramidBackbone("resnet18", level_names=("P1",))
    with pytest.raises(ValueError, match=r"resnet18 has no option 'widht': did you mean width"):
        PyramidBackbone("resnet18", options={"widht": 8})


def test_retinanet_trains_on_acmix_pvt(tmp_path):
    encoder = PyramidBackbone("acmix_pvt_tiny", levels=("P3", "P4", "P5"), input_shape=(64, 64, 3), options=PVT)
    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3)
    )
    model = keras_hub.models.RetinaNetObjectDetector(backbone, num_classes=3, pre_logits_num_conv_layers=1)
    model.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=False)
    targets = {
        "boxes": np.array([[[4, 4, 36, 36]], [[20, 16, 60, 64]]], "float32"),
        "labels": np.array([[1], [2]], "float32"),
    }
    losses, moved = step(model, targets, count=2)
    assert losses[1] != losses[0]
    assert any(moved[weight.path] for weight in encoder.trainable_weights)
    assert all(moved[path] for path in moved if "stage1_embedding/projection" in path)
    backbone.save(tmp_path / "retinanet.keras")
    loaded = keras.models.load_model(tmp_path / "retinanet.keras")
    for array, expected in zip(values(loaded.weights), values(backbone.weights), strict=True):
        np.testing.assert_array_equal(array, expected)
    for level, array in backbone(IMAGES).items():
        np.testing.assert_allclose(loaded(IMAGES)[level], array, rtol=1e-5, atol=1e-5)


def test_deeplab_trains_on_a_resnet():
    encoder = PyramidBackbone("resnet18", input_shape=(64, 64, 3), options=RESNET)
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[1, 2],
        image_shape=(64, 64, 3),
    )
    model = keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=4, activation="softmax")
    assert model(IMAGES).shape == (2, 64, 64, 4)
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    _, moved = step(model, MASKS)
    assert all(moved[path] for path in moved if "stem_conv" in path)


def test_segformer_trains_on_a_swin_and_keeps_presets(tmp_path):
    """SegFormer calls the strides 4 to 32 P1 to P4."""
    encoder = PyramidBackbone(
        "swin_tiny",
        level_names=("P1", "P2", "P3", "P4"),
        input_shape=(64, 64, 3),
        options={"depths": (1, 1, 1, 1), "width": 8, "head_dim": 8, "window_size": 2},
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=8)
    model = keras_hub.models.SegFormerImageSegmenter(backbone, num_classes=4)
    assert model(IMAGES).shape == (2, 64, 64, 4)
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    _, moved = step(model, MASKS)
    assert all(moved[path] for path in moved if "patch_embedding" in path)

    encoder.save_to_preset(str(tmp_path / "preset"))
    loaded = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    assert isinstance(loaded, PyramidBackbone)
    assert list(loaded.pyramid_outputs) == ["P1", "P2", "P3", "P4"]
    for array, expected in zip(values(loaded.weights), values(encoder.weights), strict=True):
        np.testing.assert_array_equal(array, expected)
