"""Whole detectors under torchvision's and mmdetection's names, written out here weight by weight."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tests.checkpoints.test_segmentation_checkpoints import NORM, PVT, their_array
from tests.checkpoints.test_task_layers import weights

SHAPE = (64, 64, 3)
RESNET = {"depths": (1, 1, 1, 1), "width": 8}
SMALL = {"pyramid_channels": 32, "num_classes": 3, "input_shape": SHAPE}
HEADS = {"class": "classification_head", "box": "regression_head"}


def torchvision_names(since_0_13):
    """{our layer: theirs} of neck and heads of its two RetinaNets: the first before or from version 0.13."""
    part = ".0" if since_0_13 else ""
    names = {f"neck_p{level}_lateral": f"backbone.fpn.inner_blocks.{level - 3}{part}" for level in (3, 4, 5)}
    names |= {f"neck_p{level}_output": f"backbone.fpn.layer_blocks.{level - 3}{part}" for level in (3, 4, 5)}
    names |= {f"neck_p{level}_output": f"backbone.fpn.extra_blocks.p{level}" for level in (6, 7)}
    for ours, theirs in HEADS.items():
        for number in range(4):
            place = f"{number}.0" if since_0_13 else 2 * number
            names[f"decoder_{ours}/conv{number + 1}"] = f"head.{theirs}.conv.{place}"
            names[f"decoder_{ours}/conv{number + 1}_norm"] = f"head.{theirs}.conv.{number}.1"
    return names | {
        "head_class/conv": "head.classification_head.cls_logits", "head_box/conv": "head.regression_head.bbox_reg",
        "stem_conv": "backbone.body.conv1", "stem_norm": "backbone.body.bn1",
        "stage2_block1_shortcut_conv": "backbone.body.layer2.0.downsample.0",
        "stage4_block1_3_norm": "backbone.body.layer4.0.bn3",
    }  # fmt: skip


def mmdetection_names():
    names = {f"neck_p{level}_lateral": f"neck.lateral_convs.{level - 3}.conv" for level in (3, 4, 5)}
    names |= {f"neck_p{level}_output": f"neck.fpn_convs.{level - 3}.conv" for level in range(3, 8)}
    for ours, theirs in (("class", "cls"), ("box", "reg")):
        names |= {f"decoder_{ours}/conv{n + 1}": f"bbox_head.{theirs}_convs.{n}.conv" for n in range(4)}
        names[f"head_{ours}/conv"] = f"bbox_head.retina_{theirs}"
    return names


BACKBONES = {
    "pvt": {
        "stage1_embedding/projection": "backbone.patch_embed1.proj", "stage3_embedding/norm":
        "backbone.patch_embed3.norm", "stage2_block1/mixer/key_value": "backbone.block2.0.attn.kv",
    },
    "resnet": {
        "stem_conv": "backbone.conv1", "stage1_block1_shortcut_norm": "backbone.layer1.0.downsample.1",
        "stage4_block1_2_conv": "backbone.layer4.0.conv2",
    },
}  # fmt: skip


def their_state(model, names):
    """({their name: array}, {our path: array}) of random numbers for the listed layers of a model."""
    rng, state, expected = np.random.default_rng(0), {}, {}
    suffixes = {"kernel": "weight", "bias": "bias"} | {keras: torch for torch, keras in NORM.items()}
    for weight in model.weights:
        layer, _, tensor = weight.path.rpartition("/")
        if layer in names:
            array = expected[weight.path] = rng.normal(size=tuple(weight.shape)).astype("float32")
            if layer == "head_box/conv":  # theirs give x before y
                array = array.reshape(*array.shape[:-1], 9, 4)[..., [1, 0, 3, 2]].reshape(array.shape)
            state[f"{names[layer]}.{suffixes[tensor]}"] = their_array(array)
    return state, expected


CASES = {
    "torchvision": ({"backbone_options": RESNET, "extra_source": "neck"}, torchvision_names(True)),
    "torchvision before 0.13": ({"backbone_options": RESNET, "extra_source": "neck"}, torchvision_names(False)),
    "torchvision's second": ({"backbone_options": RESNET, "tower_norm": "group"}, torchvision_names(True)),
    "mmdetection over ResNet": ({"backbone_options": RESNET}, mmdetection_names() | BACKBONES["resnet"]),
    "mmdetection over PVT": (
        {"backbone": "pvt_tiny", "backbone_options": PVT}, mmdetection_names() | BACKBONES["pvt"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_names(case):
    options, names = CASES[case]
    model = tfvt.create_model("retinanet_resnet50", **SMALL, **options)
    state, expected = their_state(model, names)
    expected_names = {path for path in weights(model) if path.startswith(("neck", "decoder", "head"))}
    assert expected_names <= set(expected)
    state["backbone.body.bn1.num_batches_tracked"] = np.array(3)
    report = tfvt.load_checkpoint(model, state, strict=False)
    assert report.unused == ()
    assert set(report.loaded) == set(expected)
    after = weights(model)
    for path, array in expected.items():
        np.testing.assert_array_equal(after[path], array)


def test_another_number_of_classes_leaves_the_class_head_fresh():
    model = tfvt.create_model("retinanet_resnet50", backbone_options=RESNET, **SMALL)
    state, expected = their_state(model, mmdetection_names())
    other = tfvt.create_model("retinanet_resnet50", backbone_options=RESNET, **SMALL | {"num_classes": 5})
    report = tfvt.load_checkpoint(other, state, strict=False)
    assert set(expected) - set(report.loaded) == {"head_class/conv/kernel", "head_class/conv/bias"}


def test_positions_of_a_published_pvt_are_resampled_without_the_class_tokens():
    options = {"backbone": "pvt_tiny", "backbone_options": PVT | {"positions_shape": (128, 64)}}
    model = tfvt.create_model("retinanet_resnet50", **SMALL, **options)
    state, _ = their_state(model, mmdetection_names())
    table = np.concatenate([np.full((1, 1, 64), 9.0), np.full((1, 49, 64), 2.0)], axis=1).astype("float32")
    report = tfvt.load_checkpoint(model, state | {"backbone.pos_embed4": table}, strict=False)
    assert report.resampled == ("stage4_positions/patch_positions",)
    assert report.unused == ()
    np.testing.assert_array_equal(weights(model)["stage4_positions/patch_positions"], np.full((4, 2, 64), 2.0))


def test_a_classifiers_file_fills_the_backbone(tmp_path):
    trained = tfvt.create_model("acmix_resnet26", num_classes=3, input_shape=SHAPE, width=8)
    trained.save(tmp_path / "model.keras")
    options = {"backbone": "acmix_resnet26", "backbone_options": {"width": 8}, "pyramid_channels": 8}
    model = tfvt.create_model("retinanet_acmix_resnet50", num_classes=3, input_shape=(96, 64, 3), **options)
    report = tfvt.load_checkpoint(model, tmp_path / "model.keras")
    assert set(report.unused) == {"head/kernel", "head/bias"}
    assert report.fresh
    assert all(path.startswith(("neck_", "decoder_", "head_")) for path in report.fresh)
    after = weights(model)
    for weight in trained.weights:
        if weight.path in report.loaded:
            np.testing.assert_array_equal(after[weight.path], contracts.arrays(weight)[0])


def test_a_detectors_file_is_no_classifiers():
    state, _ = their_state(
        tfvt.create_model("retinanet_resnet50", backbone_options=RESNET, **SMALL), mmdetection_names()
    )
    model = tfvt.create_model("resnet18", input_shape=SHAPE, width=8)
    with pytest.raises(ValueError, match=r"of the family RetinaNet \(mmdetection\), resnet18 is not"):
        tfvt.load_checkpoint(model, state)
