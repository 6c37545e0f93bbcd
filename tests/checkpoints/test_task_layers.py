"""A trunk's checkpoint in a model with layers of a task: these stay as they are, and so does a head after them."""

import keras
import numpy as np
import pytest

import tfvt
from tests.checkpoints.test_resnet_checkpoints import TINY, torchvision_state, weights
from tfvt.models.base import task_layer, trunk_stage


@pytest.mark.parametrize(
    ("path", "layer", "stage"),
    [
        ("head/kernel", "head", None),
        ("pre_logits/bias", "pre_logits", None),
        ("neck_p3/kernel", "neck", None),
        ("decoder2_conv/kernel", "decoder", None),
        ("vt12_relation/query/kernel", "vt", None),
        ("stage3_block12/mixer/head/kernel", None, "stage3"),
        ("stage2_positions/patch_positions", None, "stage2"),
        ("headline/kernel", None, None),
        ("decoders/kernel", None, None),
        ("embedding/class_token", None, None),
        ("stem_conv/kernel", None, None),
        ("", None, None),
    ],
)
def test_a_path_says_what_it_belongs_to(path, layer, stage):
    assert (task_layer(path), trunk_stage(path)) == (layer, stage)


def dense_model(state):
    """A trunk, a neck, a decoder, and a head of the same shape as the classifier's that `state` has."""
    trunk = tfvt.create_model("resnet18", features=("P5",), **TINY)
    x = keras.layers.Conv2D(16, 1, name="neck_p5")(trunk.outputs[0])
    x = keras.layers.Conv2D(state["fc.weight"].shape[1], 3, padding="same", name="decoder_conv")(x)
    x = keras.layers.Dense(state["fc.weight"].shape[0], name="head")(x)
    return keras.Model(trunk.inputs, x, name="dense")


def test_a_dense_model_takes_a_classifiers_trunk(caplog):
    state = torchvision_state()
    model = dense_model(state)
    before = weights(model)
    with caplog.at_level("WARNING", logger="tfvt"):
        report = tfvt.load_checkpoint(model, state)
    layers = ("neck_p5", "decoder_conv", "head")
    assert report.fresh == tuple(f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias"))
    assert report.unused == ("fc.weight", "fc.bias")
    assert "dense: the head is left fresh" in caplog.text
    after = weights(model)
    for path in report.fresh:
        np.testing.assert_array_equal(after[path], before[path])
    expected = state["layer4.0.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(after["stage4_block1_2_conv/kernel"], expected)


def test_a_dense_models_own_file_fills_its_like_and_no_classifier(tmp_path):
    state = torchvision_state()
    trained = dense_model(state)
    trained.save(tmp_path / "dense.keras")
    like = dense_model(state)
    assert tfvt.load_checkpoint(like, tmp_path / "dense.keras").fresh == ()
    for path, value in weights(trained).items():
        np.testing.assert_array_equal(weights(like)[path], value)
    classifier = tfvt.create_model("resnet18", num_classes=5, **TINY)
    with pytest.raises(ValueError, match=r"4 tensor\(s\) that resnet18 has no weight for: neck_p5/kernel"):
        tfvt.load_checkpoint(classifier, tmp_path / "dense.keras")


@pytest.mark.parametrize(("source", "target"), [("resnet18", "vt_resnet18"), ("vt_resnet18", "resnet18")])
def test_a_classifier_of_pixels_does_not_classify_tokens(source, target):
    """The embeddings have one width and the trunks are alike, but one is a mean of pixels, the other of tokens."""
    common = {"depths": (1, 1, 1), "width": 8, "num_classes": 3, "input_shape": (32, 32, 3)}
    options = {"resnet18": common, "vt_resnet18": common | {"token_dim": 32, "output_channels": 32}}
    trained = tfvt.create_model(source, **options[source])
    model = tfvt.create_model(target, **options[target])
    before = weights(model)
    report = tfvt.load_checkpoint(model, {w.path: np.asarray(w) for w in trained.weights}, strict=False)
    assert {"head/kernel", "head/bias"} <= set(report.fresh)
    np.testing.assert_array_equal(weights(model)["head/kernel"], before["head/kernel"])
    np.testing.assert_array_equal(weights(model)["stem_conv/kernel"], weights(trained)["stem_conv/kernel"])
