"""RetinaNet: the contract, any size, what it returns, and its wiring."""

import numpy as np
import pytest
from keras import ops

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

RESNET = {"block": "basic", "width": 8, "depths": (1, 1, 1)}
TINY = {"pyramid_channels": 32, "tower_depth": 1, "backbone_options": RESNET, "levels": ("P3", "P4")}
SWIN = {"width": 16, "head_dim": 8, "window_size": 4, "depths": (1, 1, 1, 1)}
PVT = {"head_dim": 8, "depths": (1, 1, 1, 1), "class_token": False, "positions_shape": (64, 64)}
SASA = {"width": 8, "depths": (1, 1, 1, 1), "combine": "attention"}
slow = pytest.mark.slow


def test_the_contract():
    contracts.check_model("retinanet_resnet50", **TINY)


@pytest.mark.slow
def test_mixed_precision():
    contracts.check_mixed_precision("retinanet_resnet50", **TINY)


def test_any_size():
    contracts.check_sizes("retinanet_resnet50", [(65, 43)], **TINY | {"tower_norm": "group", "extra_relu": True})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("retinanet_pvt_tiny", {"backbone_options": PVT}, marks=slow),
        pytest.param("retinanet_acmix_pvt_tiny", {"backbone_options": PVT}, marks=slow),
        pytest.param("retinanet_resnet50", {"backbone": "swin_tiny", "backbone_options": SWIN}, marks=slow),
        pytest.param("retinanet_san19", {"backbone_options": {"width": 32, "depths": (1, 1, 1, 1, 1)}}, marks=slow),
        pytest.param("retinanet_sasa_resnet50", {"backbone_options": SASA}, marks=slow),
        pytest.param(
            "retinanet_acmix_resnet50", {"backbone_options": {"width": 8, "depths": (1, 1, 1, 1)}}, marks=slow
        ),
    ],
)
def test_backbones(name, options):
    """At a size that their strides do not divide, each image has an answer of its own for each anchor."""
    options = {"pyramid_channels": 8, "tower_depth": 1} | options
    size = (129, 134)
    model = tfvt.create_model(name, num_classes=3, input_shape=(None, None, 3), **options)
    outputs = model(contracts.random_images((2, *size, 3)))
    outputs = {key: ops.convert_to_numpy(value) for key, value in outputs.items()}
    sides = (16, 8, 4, 2, 1) if "san19" in name else (17, 9, 5, 3, 2)  # a SAN's maps are rounded down
    anchors = 9 * sum(side * side for side in sides)
    shapes = {"class_logits": (2, anchors, 3), "box_deltas": (2, anchors, 4), "anchors": (2, anchors, 4)}
    assert {key: value.shape for key, value in outputs.items()} == shapes
    assert np.ptp(outputs["class_logits"], axis=0).min(axis=-1).max() > 0


def test_every_class_begins_with_a_probability_of_a_hundredth():
    model = tfvt.create_model("retinanet_resnet50", num_classes=4, input_shape=(64, 64, 3), **TINY)
    outputs = model(contracts.random_images((1, 64, 64, 3)))
    probabilities = ops.convert_to_numpy(ops.sigmoid(outputs["class_logits"]))
    np.testing.assert_allclose(np.median(probabilities), 0.01, rtol=0.1)
    assert abs(ops.convert_to_numpy(outputs["box_deltas"])).max() < 1


def convolved(x, kernel, bias):
    """A 3x3 of stride 2 with one pixel of padding on each side, as PyTorch's, of (H, W, C)."""
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = (x.shape[0] - 3) // 2 + 1, (x.shape[1] - 3) // 2 + 1
    places = [(row, column) for row in range(rows) for column in range(columns)]
    windows = np.stack([x[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] for row, column in places])
    return (np.tensordot(windows, kernel, 3) + bias).reshape(rows, columns, -1)


@pytest.mark.parametrize("source", ["backbone", "neck"])
@pytest.mark.parametrize("relu", [False, True])
def test_the_extra_levels_by_hand(source, relu):
    options = {"input_shape": (96, 64, 3), "extra_source": source, "extra_relu": relu, **TINY}
    model = tfvt.create_model("retinanet_resnet50", features=("P4", "P5", "P6"), **options)
    last = tfvt.create_model("resnet18", features=("P4",), input_shape=(96, 64, 3), **RESNET)
    last.set_weights(model.get_weights()[: len(last.weights)])
    images = contracts.random_images((1, 96, 64, 3))
    maps = {level: ops.convert_to_numpy(x)[0] for level, x in model(images).items()}
    x = maps["P4"] if source == "neck" else ops.convert_to_numpy(last(images)["P4"])[0]
    weights = [model.get_layer(f"neck_{level}_output").get_weights() for level in ("p5", "p6")]
    np.testing.assert_allclose(maps["P5"], convolved(x, *weights[0]), atol=1e-4)
    x = np.maximum(maps["P5"], 0) if relu else maps["P5"]
    np.testing.assert_allclose(maps["P6"], convolved(x, *weights[1]), atol=1e-4)


def test_what_a_model_returns():
    shape, images = (64, 96, 3), contracts.random_images((1, 64, 96, 3))
    body = tfvt.create_model("retinanet_resnet50", include_top=False, input_shape=shape, **TINY)
    sizes = {"P3": (1, 8, 12, 32), "P4": (1, 4, 6, 32), "P5": (1, 2, 3, 32), "P6": (1, 1, 2, 32)}
    assert {level: tuple(x.shape) for level, x in body(images).items()} == sizes
    neck = tfvt.create_model("retinanet_resnet50", features=("P6", "P3", "P4"), input_shape=shape, **TINY)
    neck.set_weights(body.get_weights())
    for level in ("P3", "P6"):
        np.testing.assert_array_equal(*(ops.convert_to_numpy(m(images)[level]) for m in (body, neck)))


def test_names_and_backbones():
    rows = {name: get_variant(name).row for name in tfvt.list_models("retinanet_*")}
    assert set(rows) == {f"retinanet_{row['backbone']}" for row in rows.values()}
    assert {get_variant(name).task for name in rows} == {"detection"}


@pytest.mark.parametrize(("options", "message"), [
    ({"backbone": "fpn_resnet50"}, "backbone='fpn_resnet50': expected a classification model, not one of segmentation"),
    ({"features": ("P7",)}, "features='P7': expected one of 'P3', 'P4', 'P5', 'P6'"),
    ({"tower_norm": "batch"}, "tower_norm='batch': expected one of 'none', 'group'"),
    ({"tower_depth": 0}, "tower_depth=0: expected an integer of at least 1"),
    ({"extra_levels": -1}, "extra_levels=-1: expected an integer of at least 0"),
    ({"num_classes": 0}, "num_classes=0: expected an integer of at least 1"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tfvt.create_model("retinanet_resnet50", input_shape=(64, 64, 3), **TINY | options)
