"""RetinaNet over ResNet-50 beside torchvision's two, with random weights: head, losses and detections."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

import tfvt
from tfvt.models.detection import DetectionSettings, detector
from tfvt.models.options import IMAGENET_MEAN
from tfvt.models.retinanet import retinanet_losses

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "v1": {"extra_source": "neck", "extra_relu": True, "whole_anchors": True},
    "v2": {"extra_source": "backbone", "extra_relu": True, "whole_anchors": True, "tower_norm": "group"},
}
YX = [1, 0, 3, 2]  # theirs have x first


@pytest.fixture(scope="module", params=["v1", "v2"])
def case(request, tmp_path_factory):
    """Our model with torchvision's weights, what torchvision gave, and its images as one batch."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, str(Path(__file__).with_name("retinanet_values.py")), str(folder), request.param]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300)
    with np.load(folder / "values.npz") as file:
        values = dict(file)
    options = {"num_classes": 6, "input_shape": (None, None, 3), **OPTIONS[request.param]}
    model = tfvt.create_model("retinanet_resnet50", weights=folder / "state.safetensors", **options)
    return request.param, model, values, *batch_of([values[f"image{n}"] for n in range(2)])


def batch_of(images):
    """Pixels 0..255, padded to a multiple of 32 by what their normalisation makes zeros, as torchvision pads; sizes."""
    sizes = np.array([image.shape[1:] for image in images], "int32")
    height, width = -(-sizes.max(axis=0) // 32) * 32
    batch = np.tile(np.array(IMAGENET_MEAN, "float32"), (len(images), height, width, 1))
    for place, image in zip(batch, images, strict=True):
        place[: image.shape[1], : image.shape[2]] = image.transpose(1, 2, 0) * 255
    return batch, sizes


def test_parameters_are_those_that_torchvision_publishes(case):
    """With 91 classes: 38,198,935; and 34,014,999 without the norms, which its first one does not train."""
    version, model, *_ = case
    profile = tfvt.profile(model, (64, 64, 3))
    params = profile.params if version == "v2" else profile.params_without_norms
    assert params + (91 - 6) * 9 * (256 * 9 + 1) == {"v1": 34_014_999, "v2": 38_198_935}[version]


def test_head_outputs_and_anchors(case):
    _, model, values, images, _ = case
    outputs = {key: ops.convert_to_numpy(value) for key, value in model(images).items()}
    assert values["cls_logits"].std() > 1
    np.testing.assert_allclose(outputs["class_logits"], values["cls_logits"], atol=2e-3)
    np.testing.assert_allclose(outputs["box_deltas"], values["bbox_regression"][..., YX], atol=1e-3)
    np.testing.assert_array_equal(outputs["anchors"], values["anchors"][..., YX])


def test_losses(case):
    """Theirs are divided by the positives of each image, and then a mean over the images."""
    version, model, values, images, _ = case
    boxes, labels = np.zeros((2, 5, 4), "float32"), np.full((2, 5), -1, "int32")
    for number in range(2):
        true = values[f"true_boxes{number}"]
        boxes[number, : len(true)], labels[number, : len(true)] = true[:, YX], values[f"true_labels{number}"]
    truth = [ops.convert_to_tensor(x) for x in (boxes, labels, labels < -1)]
    box_loss = {"v1": "l1", "v2": "giou"}[version]
    sums = retinanet_losses(model(images), *truth, box_loss=box_loss, reassign_best=False)
    sums = {key: ops.convert_to_numpy(value) for key, value in sums.items()}
    assert sums["positives"].min() > 3
    ours = {key: (sums[key] / sums["positives"]).mean() for key in ("class", "box")}
    np.testing.assert_allclose(ours["class"], values["loss_classification"], rtol=1e-4)
    np.testing.assert_allclose(ours["box"], values["loss_bbox_regression"], rtol=1e-4)


def test_detections(case):
    """All of theirs but those without area, which lie beside the image. No level has more than 1000 candidates."""
    _, model, values, images, sizes = case
    scores = 1 / (1 + np.exp(-values["cls_logits"]))
    assert 300 < (scores > 0.05).sum(axis=(1, 2)).max() < 1000
    settings = DetectionSettings(candidates=2000, max_detections=1000)
    found = detector(model, settings)({"image": images, "size": sizes})
    found = {key: ops.convert_to_numpy(value) for key, value in found.items()}
    for number in range(2):
        theirs = values[f"found_boxes{number}"][:, YX]
        real = (theirs[:, :2] < theirs[:, 2:]).all(axis=1)
        there = found["labels"][number] >= 0
        assert 50 < real.sum() == there.sum() < 1000
        np.testing.assert_allclose(found["scores"][number, there], values[f"found_scores{number}"][real], atol=1e-4)
        # Two with almost the same score may stand in another order.
        order, their_order = (
            np.lexsort(np.round(boxes[:, :2], 1).T) for boxes in (found["boxes"][number, there], theirs[real])
        )
        labels = values[f"found_labels{number}"][real]
        np.testing.assert_array_equal(found["labels"][number, there][order], labels[their_order])
        np.testing.assert_allclose(found["boxes"][number, there][order], theirs[real][their_order], atol=0.02)
