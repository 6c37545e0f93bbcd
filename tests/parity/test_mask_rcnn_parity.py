"""Mask R-CNN over ResNet-50 beside torchvision's, with random weights: proposals, both stages, losses, detections."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tfvt
from tests.models.mask_rcnn_scenes import run
from tests.parity.mask_rcnn_scene import ALL, BOXES, CLASSES, LABELS, PROPOSALS, SIZE
from tfvt.layers.roi_align import roi_align
from tfvt.models.detection import DetectionSettings, detector
from tfvt.models.detection_model import mask_rcnn_losses
from tfvt.models.mask_rcnn import TORCHVISION

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]
YX = [1, 0, 3, 2]  # theirs have x first


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Our model with torchvision's weights, what torchvision gave, and its images as one batch."""
    folder = tmp_path_factory.mktemp("mask_rcnn")
    command = [sys.executable, str(Path(__file__).with_name("mask_rcnn_values.py")), str(folder)]
    # Without its compilation of RoIAlign, which takes a minute.
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TORCHDYNAMO_DISABLE": "1"}
    subprocess.run(command, check=True, env=variables, timeout=600)
    with np.load(folder / "values.npz") as file:
        values = dict(file)
    options = {"num_classes": CLASSES - 1, "input_shape": (*SIZE, 3), "proposals": PROPOSALS}
    options |= {"sampled_anchors": ALL, "sampled_proposals": 4 * (PROPOSALS + 3), "level_norm": False}
    model = tfvt.create_model("mask_rcnn_swin_tiny", weights=folder / "state.safetensors", **TORCHVISION | options)
    images = np.stack([values[f"image{n}"].transpose(1, 2, 0) * 255 for n in range(2)])
    return model, values, images, run(model, images)


def test_parameters_are_those_that_torchvision_publishes(case):
    """With 91 classes: 44,401,393, without its frozen norms."""
    model, *_ = case
    params = tfvt.profile(model).params_without_norms
    assert params + (91 - CLASSES) * (5 * (1024 + 1) + 256 + 1) == 44_401_393


def test_proposals(case):
    _, values, _, outputs = case
    assert values["logits"].std() > 1
    np.testing.assert_allclose(outputs["rpn_logits"][..., 0], values["logits"], atol=2e-3)
    np.testing.assert_allclose(outputs["rpn_deltas"], values["deltas"][..., YX], atol=1e-3)
    np.testing.assert_array_equal(outputs["anchors"], values["anchors"][..., YX])
    proposals = values["proposals"].reshape(2, PROPOSALS, 4)[..., YX]
    np.testing.assert_allclose(outputs["proposals"], proposals, atol=0.05)


def test_second_stage(case):
    _, values, _, outputs = case
    assert values["class_logits"].std() > 1
    np.testing.assert_allclose(outputs["class_logits"].reshape(-1, CLASSES), values["class_logits"], atol=0.02)
    deltas = values["boxes"].reshape(-1, CLASSES, 4)[..., YX]
    np.testing.assert_allclose(outputs["box_deltas"].reshape(-1, CLASSES, 4), deltas, atol=0.01)


def test_cells_of_regions(case):
    _, values, *_ = case
    given = [values["cells_map"].transpose(0, 2, 3, 1)], (4,), values["cells_boxes"][..., YX]
    found = np.asarray(roi_align(*given, 7, samples=2, aligned=True))
    assert values["cells"].std() > 0.01
    np.testing.assert_allclose(found, values["cells"].transpose(0, 1, 3, 4, 2), atol=1e-4)


def test_losses(case):
    """All anchors and proposals are drawn. Masks: theirs lie at the image's pixels, ours within boxes."""
    model, values, images, _ = case
    truth = {
        "boxes": np.zeros((2, 3, 4), "float32"), "labels": np.full((2, 3), -1, "int32"),
        "crowd": np.zeros((2, 3), bool), "seed": np.zeros((2, 2), "int32"), "masks": np.ones((2, 3, 112, 112), "uint8"),
    }  # fmt: skip
    for image, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        truth["boxes"][image, : len(boxes)] = np.array(boxes)[:, YX]
        truth["labels"][image, : len(boxes)] = np.array(labels) - 1
    found = mask_rcnn_losses(run(model, {"image": images, **truth}))
    ours = {name: sums.sum() / counts.sum() for name, (sums, counts) in found.items()}
    assert found["mask"][1].sum() > 6
    for name, theirs in (
        ("rpn_class", "loss_objectness"),
        ("rpn_box", "loss_rpn_box_reg"),
        ("class", "loss_classifier"),
        ("box", "loss_box_reg"),
    ):
        np.testing.assert_allclose(ours[name], values[theirs], rtol=2e-3, err_msg=name)
    np.testing.assert_allclose(ours["mask"], values["loss_mask"], rtol=0.02)


def test_detections(case):
    model, values, images, _ = case
    settings = DetectionSettings(max_detections=50)
    found = run(detector(model, settings), {"image": images, "size": np.array([SIZE] * 2, "int32")})
    for number in range(2):
        count = len(values[f"found_boxes{number}"])
        assert 10 < count == (found["labels"][number] >= 0).sum()
        np.testing.assert_allclose(found["scores"][number, :count], values[f"found_scores{number}"], atol=2e-3)
        # Two with almost the same score may stand in another order.
        boxes, their_boxes = found["boxes"][number, :count], values[f"found_boxes{number}"][:, YX]
        order, their_order = (np.lexsort(np.round(x[:, :2]).T) for x in (boxes, their_boxes))
        np.testing.assert_allclose(boxes[order], their_boxes[their_order], atol=0.1)
        labels = values[f"found_labels{number}"][their_order] - 1
        np.testing.assert_array_equal(found["labels"][number, :count][order], labels)
        masks = values[f"found_masks{number}"][their_order, 0]
        np.testing.assert_allclose(found["masks"][number, :count][order], masks, atol=0.01)
