"""Mask R-CNN and its cascade under torchvision's and mmdetection's names, written out here weight by weight."""

import numpy as np
import pytest

import tfvt
from tests.checkpoints.test_segmentation_checkpoints import NORM, their_array
from tests.checkpoints.test_task_layers import weights
from tests.models.mask_rcnn_scenes import small

SWIN = {"width": 8, "head_dim": 8, "depths": (1, 1, 1, 1), "window_size": 4}


def torchvision_names(since_0_13):
    """{our layer: theirs} of neck and heads."""
    part = ".0" if since_0_13 else ""
    names = {f"neck_p{level}_lateral": f"backbone.fpn.inner_blocks.{level - 2}{part}" for level in (2, 3, 4, 5)}
    names |= {f"neck_p{level}_output": f"backbone.fpn.layer_blocks.{level - 2}{part}" for level in (2, 3, 4, 5)}
    masks = [f"{number}.0" if since_0_13 else f"mask_fcn{number + 1}" for number in range(4)]
    names |= {f"decoder_mask_conv{n + 1}": f"roi_heads.mask_head.{name}" for n, name in enumerate(masks)}
    return names | {
        "decoder_rpn/conv1": "rpn.head.conv.0.0" if since_0_13 else "rpn.head.conv",
        "decoder_rpn_logits/conv": "rpn.head.cls_logits", "decoder_rpn_deltas/conv": "rpn.head.bbox_pred",
        "decoder_box_dense1": "roi_heads.box_head.fc6", "decoder_box_dense2": "roi_heads.box_head.fc7",
        "head_class": "roi_heads.box_predictor.cls_score", "head_box": "roi_heads.box_predictor.bbox_pred",
        "decoder_mask_upsample": "roi_heads.mask_predictor.conv5_mask",
        "head_mask": "roi_heads.mask_predictor.mask_fcn_logits",
        "stem_conv": "backbone.body.conv1", "stage1_block1_1_norm": "backbone.body.layer1.0.bn1",
    }  # fmt: skip


def mmdetection_names(stages=((None, None),)):
    """The same of mmdetection: of its stages, each by our number and theirs."""
    names = {f"neck_p{level}_lateral": f"neck.lateral_convs.{level - 2}.conv" for level in (2, 3, 4, 5)}
    names |= {f"neck_p{level}_output": f"neck.fpn_convs.{level - 2}.conv" for level in (2, 3, 4, 5)}
    names |= {f"neck_p{level}_norm": f"backbone.norm{level - 2}" for level in (2, 3, 4, 5)}
    names |= {
        "decoder_rpn/conv1": "rpn_head.rpn_conv", "decoder_rpn_logits/conv": "rpn_head.rpn_cls",
        "decoder_rpn_deltas/conv": "rpn_head.rpn_reg", "stem_projection/projection": "backbone.patch_embed.proj",
    }  # fmt: skip
    for number, place in stages:
        ours, theirs = ("", "") if number is None else (f"_{number}", f".{place}")
        box, mask = f"roi_head.bbox_head{theirs}", f"roi_head.mask_head{theirs}"
        names |= {f"decoder_box{ours}_dense{n + 1}": f"{box}.shared_fcs.{n}" for n in range(2)}
        names |= {f"decoder_box{ours}_conv{n + 1}": f"{box}.shared_convs.{n}.conv" for n in range(4)}
        names |= {f"decoder_box{ours}_conv{n + 1}_norm": f"{box}.shared_convs.{n}.bn" for n in range(4)}
        names |= {f"head_class{ours}": f"{box}.fc_cls", f"head_box{ours}": f"{box}.fc_reg"}
        names |= {f"decoder_mask{ours}_conv{n + 1}": f"{mask}.convs.{n}.conv" for n in range(4)}
        names |= {f"decoder_mask{ours}_upsample": f"{mask}.upsample", f"head_mask{ours}": f"{mask}.conv_logits"}
    return names


def their_state(model, names):
    """({their name: array}, {our path: array}) of random numbers for the listed layers of a model."""
    rng, state, expected = np.random.default_rng(0), {}, {}
    suffixes = {"kernel": "weight", "bias": "bias"} | {keras: torch for torch, keras in NORM.items()}
    for weight in model.weights:
        layer, _, tensor = weight.path.rpartition("/")
        if layer in names:
            array = expected[weight.path] = rng.normal(size=tuple(weight.shape)).astype("float32")
            if layer.startswith(("head_box", "decoder_rpn_deltas")):  # theirs give x before y
                array = array.reshape(*array.shape[:-1], -1, 4)[..., [1, 0, 3, 2]].reshape(array.shape)
            if layer.startswith("decoder_box") and layer.endswith("dense1") and array.ndim == 2:  # channels come first
                array = array.reshape(7, 7, -1, array.shape[1]).transpose(2, 0, 1, 3).reshape(array.shape)
            state[f"{names[layer]}.{suffixes[tensor]}"] = their_array(array)
    return state, expected


STAGES = ((1, 0), (2, 1), (3, 2))
OVER_SWIN = {"backbone": "swin_tiny", "backbone_options": SWIN}
CASES = {
    "torchvision": ("mask_rcnn_swin_tiny", {"level_norm": False, "background_first": True}, torchvision_names(True)),
    "torchvision before 0.13": ("mask_rcnn_swin_tiny", {"level_norm": False}, torchvision_names(False)),
    "mmdetection": ("mask_rcnn_swin_tiny", OVER_SWIN, mmdetection_names()),
    "mmdetection's cascade": ("cascade_mask_rcnn_swin_tiny", OVER_SWIN, mmdetection_names(STAGES)),
}


@pytest.mark.parametrize("case", CASES)
def test_names(case):
    name, options, names = CASES[case]
    model = small(name, **options)
    state, expected = their_state(model, names)
    expected_names = {path for path in weights(model) if path.startswith(("neck", "decoder", "head"))}
    assert expected_names <= set(expected)
    report = tfvt.load_checkpoint(model, state, strict=False)
    assert report.unused == ()
    assert set(report.loaded) == set(expected)
    after = weights(model)
    for path, array in expected.items():
        np.testing.assert_array_equal(after[path], array)


def test_a_mask_rcnns_file_is_no_cascades():
    state, _ = their_state(small(**OVER_SWIN), mmdetection_names())
    with pytest.raises(ValueError, match="of the family Mask R-CNN \\(mmdetection\\)"):
        tfvt.load_checkpoint(small("cascade_mask_rcnn_swin_tiny", **OVER_SWIN), state)
