"""Panoptic FPN and VT-FPN: any backbone, any size, what they return, and weights of classifiers in their trunks."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

RESNET = {"block": "basic", "width": 8, "depths": (1, 1, 1)}
SMALL = {"pyramid_channels": 32, "head_channels": 32, "token_dim": 48, "query_groups": 4}
TINY = SMALL | {"backbone_options": RESNET, "levels": ("P4", "P3")}
SWIN = {"width": 16, "head_dim": 8, "window_size": 4, "depths": (1, 1, 1, 1)}
VIT = {"blocks": ({"layers": 1, "hidden_dim": 64},)}
FUNNEL = {"blocks": ({"layers": 1, "hidden_dim": 64}, {"layers": 1, "hidden_dim": 64, "stride": 2})}
PVT = {"head_dim": 8, "depths": (1, 1, 1, 1), "class_token": False}
ALL = ("P2", "P3", "P4", "P5")
slow = pytest.mark.slow


def test_the_contract_of_vt_fpn():
    contracts.check_model("vt_fpn_resnet50", **TINY)


@pytest.mark.slow
def test_mixed_precision():
    contracts.check_mixed_precision("vt_fpn_resnet50", **TINY)


def test_any_size():
    contracts.check_sizes("fpn_resnet50", [(65, 43)], **TINY | {"levels": ("P2", "P3", "P4")})


@pytest.mark.parametrize(
    ("backbone", "options", "levels"),
    [
        pytest.param("vit_tiny16", VIT, ("P4",), marks=slow),
        pytest.param("funnel_vit_base16_6_6", FUNNEL, ("P4",), marks=slow),
        pytest.param("swin_tiny", SWIN, ("P5", "P3"), marks=slow),
        pytest.param("pvt_tiny", PVT, ALL, marks=slow),
        pytest.param("san10", {"width": 32, "depths": (1, 1, 1, 1)}, ("P2", "P3"), marks=slow),
        pytest.param("acmix_resnet26", {"width": 8}, ALL, marks=slow),
    ],
)
def test_other_backbones(backbone, options, levels):
    """At a size that their strides do not divide, where they take it; with group norm in the head."""
    name = "semantic_fpn_pvt_tiny"
    options = SMALL | {"backbone": backbone, "backbone_options": options, "levels": levels, "head_norm": "group"}
    shape = (64, 64, 3) if "vit" in backbone else (129, 134, 3)
    model = tfvt.create_model(name, num_classes=3, input_shape=shape, **options)
    assert {type(layer).__name__ for layer in model.layers} >= {"GroupNormalization"}
    images = contracts.random_images((2, *shape))
    (logits,) = contracts.arrays(model(images))
    assert logits.shape == (2, *shape[:2], 3)
    assert np.ptp(logits, axis=(0, 1, 2)).min() > 0


def test_pixels_are_normalised_as_the_backbone_does():
    def normalisation(**options):
        options = SMALL | {"backbone": "vit_tiny16", "backbone_options": VIT, "levels": ("P4",)} | options
        layer = tfvt.create_model("fpn_resnet50", input_shape=(32, 32, 3), **options).get_layer("normalize")
        return np.ravel(layer.scale), np.ravel(layer.offset)

    for values, expected in zip(normalisation(), (1 / 127.5, -1), strict=True):
        np.testing.assert_allclose(values, [expected] * 3)
    own = normalisation(pixel_mean=(1.0, 2.0, 3.0), pixel_std=(1.0, 1.0, 2.0))
    np.testing.assert_allclose(own, [[1, 1, 0.5], [-1, -2, -1.5]])


def test_what_a_model_returns():
    """The logits are the classifier's, of what it reads, resized; the levels are the neck's."""
    shape = (64, 96, 3)
    images = contracts.random_images((2, *shape))
    model = tfvt.create_model("fpn_resnet50", num_classes=5, input_shape=shape, **TINY)
    body = tfvt.create_model("fpn_resnet50", include_top=False, input_shape=shape, **TINY)
    kernel, bias = model.get_layer("head").get_weights()
    body.set_weights(model.get_weights()[: len(body.weights)])
    (pixels,) = contracts.arrays(body(images))
    assert pixels.shape == (2, 16, 24, 32)
    expected = tfvt.layers.Upsample(4)(pixels @ kernel[0, 0] + bias)
    np.testing.assert_allclose(*(contracts.arrays(x)[0] for x in (model(images), expected)), atol=1e-4)
    neck = tfvt.create_model("fpn_resnet50", features=("P4", "P3"), input_shape=shape, **TINY)
    assert {level: tuple(x.shape) for level, x in neck(images).items()} == {"P3": (2, 8, 12, 32), "P4": (2, 4, 6, 32)}


def test_dropout_is_of_whole_channels_and_in_training_alone():
    model = tfvt.create_model("fpn_resnet50", input_shape=(64, 64, 3), dropout_rate=0.5, **TINY)
    x = np.ones((2, 3, 3, 32), "float32")
    (dropped,) = contracts.arrays(model.get_layer("head_dropout")(x, training=True))
    assert set(np.unique(dropped)) == {0, 2}
    assert (np.ptp(dropped, axis=(1, 2)) == 0).all()
    rates = {name: get_variant(name).row.get("dropout_rate") for name in tfvt.list_models("*fpn*")}
    assert rates == {name: 0.1 if "semantic" in name else None for name in rates}


@pytest.mark.parametrize(("options", "message"), [
    ({"backbone": "resnet51"}, "unknown model 'resnet51': did you mean"),
    ({"backbone": "fpn_resnet50"}, "backbone='fpn_resnet50': expected a classification model, not one of segmentation"),
    ({"backbone": "vit_tiny16", "backbone_options": {}},
     "backbone='vit_tiny16', levels=.*: features='P3': expected one of 'P4'"),
    ({"backbone_options": {"depth": (1,)}}, "backbone='resnet50'.*no option 'depth': did you mean depths"),
    ({"backbone_options": {"num_classes": 3}}, "backbone='resnet50'.*no option 'num_classes'"),
    ({"features": ("P6",)}, "features='P6': expected one of 'P3', 'P4'"),
    ({"levels": "P4"}, "levels='P4': expected a sequence"),
    ({"head_norm": "group", "head_channels": 48}, "group norm of 48 channels: expected a multiple of 32"),
    ({"neck": "bifpn"}, "neck='bifpn': expected one of 'fpn', 'vt_fpn'"),
    ({"query_groups": 5, "neck": "vt_fpn"}, "query_groups=5: expected a divisor of the 32 channels"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tfvt.create_model("fpn_resnet50", input_shape=(64, 64, 3), **TINY | options)


def test_a_pvt_without_class_token_classifies_nothing():
    with pytest.raises(ValueError, match="class_token=False: the classifier reads the class token"):
        tfvt.create_model("pvt_tiny", input_shape=(64, 64, 3), **PVT)
